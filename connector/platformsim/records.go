package platformsim

import (
	"bytes"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxItems is the most events or group relation items a request may carry.
const maxItems = 500

// The contract's tables, field by field. They are never changed.

// The body of a point.
const (
	ptOpenids = iota
	ptPhoneList
	ptAudienceUserID
	ptPoint
	ptRemark
	ptEventType
	ptAvatar
	ptNickName
	ptContentID
	ptContentName
	ptExt
	ptAppInstanceID
	ptOrgID
	ptFields
)

var pointTable = table{
	ptOpenids:        {name: "openids", kind: anArray},
	ptPhoneList:      {name: "phoneList", kind: anArray},
	ptAudienceUserID: {name: "audienceUserId", kind: aLong},
	ptPoint:          {name: "point", kind: anInt, required: true},
	ptRemark:         {name: "remark", required: true},
	ptEventType:      {name: "eventType"},
	ptAvatar:         {name: "avatar"},
	ptNickName:       {name: "nickName"},
	ptContentID:      {name: "contentId"},
	ptContentName:    {name: "contentName"},
	ptExt:            {name: "ext", kind: extText},
	ptAppInstanceID:  {name: "appInstanceId", kind: anInt},
	ptOrgID:          {name: "orgId"},
}

// An entry of a point's openids.
const (
	poOpenid = iota
	poUnionid
	poFromTo
	poAppid
	poJcappid
	poIdentityID
	poIdentityType
	poFields
)

var pointOpenidTable = table{
	poOpenid:       {name: "openid"},
	poUnionid:      {name: "unionid"},
	poFromTo:       {name: "fromTo", oneOf: []string{"contentminiapp", "workwechat", "gzh", "workwechatgroup"}},
	poAppid:        {name: "appid"},
	poJcappid:      {name: "jcappid", kind: aLong},
	poIdentityID:   {name: "identityId"},
	poIdentityType: {name: "identityType", oneOf: []string{"phone", "id", "openid", "unionid"}},
}

// An entry of a point's phoneList.
const (
	ppPhone = iota
	ppIsVerify
	ppFields
)

var pointPhoneTable = table{
	ppPhone:    {name: "phone", required: true},
	ppIsVerify: {name: "isVerify", oneOf: []string{"0", "1"}},
}

// The body of a point of the open API.
const (
	opNonce = iota
	opTimestamp
	opAudienceUserID
	opThirdID
	opPoint
	opRemark
	opEventType
	opRelateBizCode
	opFields
)

var openPointTable = table{
	opNonce:          {name: "nonce", required: true},
	opTimestamp:      {name: "timestamp", kind: aMilli, required: true},
	opAudienceUserID: {name: "audienceUserId", kind: aLong},
	opThirdID:        {name: "thirdId"},
	opPoint:          {name: "point", kind: anInt, required: true},
	opRemark:         {name: "remark", required: true},
	opEventType:      {name: "eventType"},
	opRelateBizCode:  {name: "relateBizCode"},
}

// The body of a request that carries a batch.
const (
	btPublicParams = iota
	btData
	btFields
)

var batchTable = table{
	btPublicParams: {name: "publicParams", kind: anObject, required: true},
	btData:         {name: "data", kind: anArray, required: true},
}

// publicParams of an event import.
const eventParamsFields = 2

var eventParamsTable = table{
	{name: "isMatching", kind: aBool},
	{name: "matchingType", kind: anInt, oneOf: []string{"1", "2"}},
}

// An event.
const (
	evIdentities = iota
	evTime
	evUUID
	evEventKey
	evIntid
	evEventargs
	evFields
)

var eventTable = table{
	evIdentities: {name: "identities", kind: anArray, required: true},
	evTime:       {name: "time", kind: aMilli},
	evUUID:       {name: "uuid", filled: true, maxChars: 36},
	evEventKey:   {name: "eventKey", required: true},
	evIntid:      {name: "intid"},
	evEventargs:  {name: "eventargs", kind: anObject},
}

// An identity of an event.
const (
	eiValue = iota
	eiType
	eiPlatform
	eiMpid
	eiIsWeChatEcosystem
	eiAppid
	eiFields
)

var eventIdentityTable = table{
	eiValue:             {name: "identityValue", required: true},
	eiType:              {name: "identityType", required: true},
	eiPlatform:          {name: "platform"},
	eiMpid:              {name: "mpid", filled: true},
	eiIsWeChatEcosystem: {name: "isWeChatEcosystem", kind: aBool},
	eiAppid:             {name: "appid", banned: "is struck out in the contract and must not be sent"},
}

// publicParams of a group relation.
const (
	gpIsMatching = iota
	gpMatchingType
	gpIdentifyWay
	gpAccurateMatchType
	gpAccurateMatchValue
	gpOptType
	gpFields
)

var groupParamsTable = table{
	gpIsMatching:         {name: "isMatching", kind: aBool, required: true},
	gpMatchingType:       {name: "matchingType", kind: anInt, oneOf: []string{"1", "2"}},
	gpIdentifyWay:        {name: "identifyWay", kind: anInt, oneOf: []string{"1", "2"}},
	gpAccurateMatchType:  {name: "accurateMatchType", oneOf: []string{"gzh", "workwechat", "YOUZAN", "EZR", "contentminiapp", "contenthome"}},
	gpAccurateMatchValue: {name: "accurateMatchValue"},
	gpOptType:            {name: "optType", required: true, oneOf: []string{"add", "update", "delete"}},
}

// A group relation item; its four identities stand together.
const (
	giIdentityType = iota
	giThirdID
	giOpenid
	giUnionid
	giPhone
	giGroups
	giFields
)

var groupItemTable = table{
	giIdentityType: {name: "identityType", oneOf: []string{"phone", "thirdId", "openid", "unionid"}},
	giThirdID:      {name: "thirdId"},
	giOpenid:       {name: "openid"},
	giUnionid:      {name: "unionid"},
	giPhone:        {name: "phone"},
	giGroups:       {name: "groups"},
}

// reader reads the body of one request. keep says whether the records are wanted; otherwise they are only checked and counted.
type reader struct {
	doc
	keep      bool
	eventKeys map[string]bool // empty: any
	skew      time.Duration   // 0: any
	records   []Applied
	ids       []string // behind the Identities of all records
	n         int      // records in the body
}

// read checks body by the contract of e. records and n hold what was read before a refusal, too.
func (r *reader) read(e Endpoint, body []byte) *refusal {
	r.records, r.ids, r.n = nil, nil, 0
	if bad := r.parse(body); bad != nil {
		return bad
	}
	switch e {
	case Point, PointDecrease:
		return r.point()
	case PointOpen:
		return r.openPoint()
	case Event:
		return r.batch(eventParamsTable, eventParamsFields, r.event)
	default:
		return r.batch(groupParamsTable, gpFields, r.groupItem)
	}
}

// name adds an identity of the customer whose record is being read.
func (r *reader) name(value string) {
	if r.keep && value != "" {
		r.ids = append(r.ids, value)
	}
}

// add adds a record; its identities are r.ids from first on.
func (r *reader) add(a Applied, id int32, first int) {
	a.Record = r.raw(id)
	if a.Identities = r.ids[first:len(r.ids):len(r.ids)]; a.Customer == "" && len(a.Identities) > 0 {
		a.Customer = a.Identities[0]
	}
	r.records = append(r.records, a)
}

// amount reads point, which no path takes below zero.
func (r *reader) amount(id int32) (int64, *refusal) {
	n, _ := r.integer(id, 32)
	if n < 0 {
		return 0, refuse("must not be negative, is %d", n).in("point")
	}
	return n, nil
}

// customerID reads audienceUserId; "" where there is none.
func (r *reader) customerID(id int32) (string, *refusal) {
	if id == 0 {
		return "", nil
	}
	if n, _ := r.integer(id, 64); n <= 0 {
		return "", refuse("must be above zero, is %d", n).in("audienceUserId")
	}
	return string(r.raw(id)), nil
}

func (r *reader) point() *refusal {
	var f [ptFields]int32
	r.n = 1
	if bad := r.fields(0, pointTable, f[:]); bad != nil {
		return bad
	}
	amount, bad := r.amount(f[ptPoint])
	if bad != nil {
		return bad
	}
	customer, bad := r.customerID(f[ptAudienceUserID])
	if bad != nil {
		return bad
	}
	named := customer != ""
	r.name(customer)
	bad = r.each(f[ptPhoneList], func(id int32) *refusal {
		var p [ppFields]int32
		if bad := r.fields(id, pointPhoneTable, p[:]); bad != nil {
			return bad
		}
		named = true
		r.name(r.string(p[ppPhone]))
		return nil
	})
	if bad != nil {
		return bad.in("phoneList")
	}
	bad = r.each(f[ptOpenids], func(id int32) *refusal {
		var o [poFields]int32
		if bad := r.fields(id, pointOpenidTable, o[:]); bad != nil {
			return bad
		}
		for _, i := range [...]int{poOpenid, poUnionid, poIdentityID} {
			value := r.string(o[i])
			named = named || value != ""
			r.name(value)
		}
		return nil
	})
	switch {
	case bad != nil:
		return bad.in("openids")
	case !named:
		return refuse("none of openids, phoneList and audienceUserId names a customer")
	case r.keep:
		r.add(Applied{Point: amount, Remark: r.string(f[ptRemark])}, 0, 0)
	}
	return nil
}

func (r *reader) openPoint() *refusal {
	var f [opFields]int32
	r.n = 1
	if bad := r.fields(0, openPointTable, f[:]); bad != nil {
		return bad
	}
	if n := utf8.RuneCount(r.bytes(f[opNonce])); n != 6 {
		return refuse("must have 6 characters, has %d", n).in("nonce")
	}
	if at, _ := r.integer(f[opTimestamp], 64); r.skew > 0 && time.Since(time.UnixMilli(at)).Abs() > r.skew {
		return refuse("is more than %s from now", r.skew).in("timestamp")
	}
	amount, bad := r.amount(f[opPoint])
	if bad != nil {
		return bad
	}
	customer, bad := r.customerID(f[opAudienceUserID])
	if bad != nil {
		return bad
	}
	third := r.string(f[opThirdID])
	if customer == "" && third == "" {
		return refuse("neither audienceUserId nor thirdId names a customer")
	}
	r.name(customer)
	r.name(third)
	if r.keep {
		r.add(Applied{Point: amount, Remark: r.string(f[opRemark]), BizCode: r.string(f[opRelateBizCode])}, 0, 0)
	}
	return nil
}

// params is what an item has to know of its request's publicParams.
type params struct {
	raw          []byte
	optType      string
	matchingType string // "", 1, 2
	identifyWay  string
}

// batch reads publicParams by t, and each item.
func (r *reader) batch(t table, n int, item func(int32, *params) *refusal) *refusal {
	var f [btFields]int32
	if bad := r.fields(0, batchTable, f[:]); bad != nil {
		return bad
	}
	r.n = int(r.nodes[f[btData]].n)
	var found [gpFields]int32
	if bad := r.fields(f[btPublicParams], t, found[:n]); bad != nil {
		return bad.in("publicParams")
	}
	p := params{raw: r.raw(f[btPublicParams])}
	if found[gpMatchingType] != 0 {
		p.matchingType = string(r.raw(found[gpMatchingType]))
	}
	if found[gpIdentifyWay] != 0 {
		p.identifyWay = string(r.raw(found[gpIdentifyWay]))
	}
	p.optType = r.string(found[gpOptType])
	switch {
	case n == gpFields && p.matchingType == "2" && p.identifyWay == "":
		return refuse("is required when matchingType is 2").in("identifyWay").in("publicParams")
	case r.n == 0:
		return refuse("must not be empty").in("data")
	case r.n > maxItems:
		return refuse("has %d items, at most %d are allowed", r.n, maxItems).in("data")
	}
	if r.keep {
		r.records, r.ids = make([]Applied, 0, r.n), make([]string, 0, r.n)
	}
	bad := r.each(f[btData], func(id int32) *refusal { return item(id, &p) })
	if bad != nil {
		return bad.in("data")
	}
	return nil
}

func (r *reader) event(id int32, p *params) *refusal {
	var f [evFields]int32
	if bad := r.fields(id, eventTable, f[:]); bad != nil {
		return bad
	}
	if r.nodes[f[evIdentities]].n == 0 {
		return refuse("must not be empty").in("identities")
	}
	first := len(r.ids)
	bad := r.each(f[evIdentities], func(id int32) *refusal {
		var i [eiFields]int32
		if bad := r.fields(id, eventIdentityTable, i[:]); bad != nil {
			return bad
		}
		if i[eiMpid] != 0 && i[eiIsWeChatEcosystem] == 0 {
			return refuse("is required when mpid is given").in("isWeChatEcosystem")
		}
		if r.keep {
			r.name(r.string(i[eiValue]))
		}
		return nil
	})
	if bad != nil {
		return bad.in("identities")
	}
	if key := r.bytes(f[evEventKey]); len(r.eventKeys) > 0 && !r.eventKeys[string(key)] {
		return refuse("the event %s is not defined", quote(key)).in("eventKey")
	}
	if f[evEventargs] != 0 {
		for m := r.nodes[f[evEventargs]].child; m != 0; m = r.nodes[m].next {
			if k := r.nodes[m].kind; k != '"' && k != '0' {
				return r.wrong(m, "a string or a number").in(fieldName(r.nodes[m].key)).in("eventargs")
			}
			if len(r.nodes[m].key) == 0 {
				return refuse("a key must not be empty").in("eventargs")
			}
		}
	}
	if !r.keep {
		return nil
	}
	a := Applied{PublicParams: p.raw, EventKey: r.string(f[evEventKey]), UUID: r.string(f[evUUID])}
	if f[evTime] != 0 {
		a.Time, _ = r.integer(f[evTime], 64)
	}
	if f[evEventargs] != 0 {
		a.EventArgs = r.raw(f[evEventargs])
	}
	r.add(a, id, first)
	return nil
}

func (r *reader) groupItem(id int32, p *params) *refusal {
	var f [giFields]int32
	if bad := r.fields(id, groupItemTable, f[:]); bad != nil {
		return bad
	}
	if !slices.ContainsFunc(f[giThirdID:giPhone+1], r.filled) {
		return refuse("none of thirdId, openid, unionid and phone names a customer")
	}
	identityType := r.string(f[giIdentityType])
	if p.matchingType == "1" {
		switch {
		case identityType == "":
			return refuse("is required when matchingType is 1").in("identityType")
		case !r.filled(f[groupItemTable.index([]byte(identityType))]):
			return refuse("is required when identityType is %s", identityType).in(identityType)
		}
	}
	var groups []string
	if f[giGroups] != 0 {
		if text := r.bytes(f[giGroups]); len(text) > 0 {
			if bytes.HasPrefix(text, []byte(",")) || bytes.HasSuffix(text, []byte(",")) || bytes.Contains(text, []byte(",,")) {
				return refuse("has an empty group name: %s", quote(text)).in("groups")
			}
			if r.keep {
				groups = strings.Split(string(text), ",")
			}
		}
	}
	if !r.keep {
		return nil
	}
	first := len(r.ids)
	for _, i := range whoComesFirst(p, identityType) {
		r.name(r.string(f[i]))
	}
	r.add(Applied{PublicParams: p.raw, OptType: p.optType, Groups: groups}, id, first)
	return nil
}

// whoComesFirst orders an item's identities as the platform looks for the customer: in an exact match by the one that identityType names, in
// a fuzzy one as identifyWay says.
func whoComesFirst(p *params, identityType string) []int {
	order := []int{giThirdID, giPhone, giOpenid, giUnionid} // identifyWay 2
	switch {
	case p.matchingType == "2" && p.identifyWay == "1":
		order = []int{giUnionid, giOpenid, giPhone, giThirdID}
	case p.matchingType != "2" && identityType != "":
		by := groupItemTable.index([]byte(identityType))
		i := slices.Index(order, by)
		copy(order[1:], order[:i])
		order[0] = by
	}
	return order
}
