package starter

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// proposal is a mapping that may stand in the file.
type proposal struct {
	suffix string // of its name, behind the table's
	about  string // why it is there
	on     string
	when   []string // joined by &&
	keys   []string // further lines beside the payload
	kind   string
	body   []string // the payload's lines, not indented
	event  string   // the eventKey
	points bool
	// of is the column whose groups it is about. Where the mapping that does all that may happen to it (whole) is live, the ones that do a part of it are not needed.
	of    *column
	whole bool
	part  bool
	// decide says why somebody has to decide before it may be live; "" where nobody has.
	decide string
}

// side is how a column is read: "" by its bare name, or new, or old.
type side string

// word matches names that may stand in an expression as they are.
var word = regexp.MustCompile(`^[\p{L}_][\p{L}\p{N}_]*$`)

// reserved are words that mean something else in an expression.
var reserved = strings.Fields(`new old op schema table commitTime position true false nil not and or in matches contains startsWith endsWith let if else get env
 all none any one filter map count sum find findIndex findLast findLastIndex groupBy sortBy reduce len type abs ceil floor round int float string trim trimPrefix trimSuffix upper lower
 split splitAfter replace repeat join indexOf lastIndexOf hasPrefix hasSuffix max min mean median toJSON fromJSON toBase64 fromBase64 now duration date timezone first last take keys
 values toPairs fromPairs reverse uniq concat flatten sort bitand bitor bitxor bitnand bitshl bitshr bitushr bitnot`)

// plain reports whether the column may be named as it is.
func (c *column) plain() bool {
	return word.MatchString(c.Name()) && !slices.Contains(reserved, c.Name())
}

// ref reads the column in an expression.
func (c *column) ref(s side) string {
	switch {
	case c.plain() && s == "":
		return c.Name()
	case s == "":
		s = "new"
	}
	if c.plain() {
		return string(s) + "." + c.Name()
	}
	return string(s) + "[" + strconv.Quote(c.Name()) + "]"
}

// optional is ref of old where there may be no old row.
func (c *column) optional() string {
	if c.plain() {
		return "old?." + c.Name()
	}
	return "old?.[" + strconv.Quote(c.Name()) + "]"
}

// there is the condition that the column holds something.
func (c *column) there(s side) string {
	if c.isText() {
		return "(" + c.ref(s) + ` ?? "") != ""`
	}
	return c.ref(s) + " != nil"
}

// thereBefore is the condition that it held something before, where there was a row before.
func (c *column) thereBefore() string {
	if c.isText() {
		return "(" + c.optional() + ` ?? "") != ""`
	}
	return c.optional() + " != nil"
}

// literal writes a value of the column in an expression.
func (c *column) literal(v string) string {
	if c.isInt() {
		return v
	}
	return strconv.Quote(v)
}

// value is the whole scalar that gives the column's value.
func (c *column) value(s side) string { return "${{ " + c.ref(s) + " }}" }

// named is the condition that the row names a customer; none where a column for that is NOT NULL.
func (t *table) named(s side) []string {
	var parts []string
	for _, c := range []*column{t.phone, t.unionid, t.openid} {
		switch {
		case c == nil:
		case c.NotNull:
			return nil
		default:
			parts = append(parts, c.there(s))
		}
	}
	if len(parts) == 1 {
		return parts
	}
	return []string{"(" + strings.Join(parts, " || ") + ")"}
}

// event makes the body of an event.
func (t *table) event(key, title string, at *column, args ...*column) []string {
	lines := []string{"publicParams: {matchingType: 1}", "eventKey: " + key}
	if at != nil {
		lines = append(lines, "time: "+scalar(at.value("")))
	}
	lines = append(lines, "identities:")
	for _, id := range []struct {
		kind string
		c    *column
	}{{"phone", t.phone}, {"unionid", t.unionid}, {"openid", t.openid}} {
		if id.c == nil {
			continue
		}
		lines = append(lines, "  - identityType: "+id.kind, "    identityValue: "+scalar(id.c.value("")))
		if id.kind == "openid" && t.mpid != nil {
			lines = append(lines, "    mpid: "+scalar(t.mpid.value("")), "    isWeChatEcosystem: true")
		}
	}
	lines = append(lines, "eventargs:")
	seen := map[string]bool{}
	for i, c := range args {
		if c == nil || slices.Index(args, c) < i {
			continue
		}
		name := t.argument(c)
		if seen[name] {
			continue
		}
		seen[name] = true
		value := c.value("")
		if c == t.amount && c.inCents() {
			value = "${{ " + c.ref("") + " / 100 }}"
			if !c.NotNull {
				value = "${{ " + c.ref("") + " == nil ? nil : " + c.ref("") + " / 100 }}"
			}
		}
		lines = append(lines, "  "+name+": "+scalar(value))
	}
	return append(lines, "  title: "+title)
}

// argument names an event's argument after what the column is.
func (t *table) argument(c *column) string {
	switch c {
	case t.amount:
		return "c_price"
	case t.number:
		return "c_no"
	case t.goods:
		return "c_goods"
	case t.store:
		return "c_store"
	case t.channel:
		return "c_channel"
	case t.quantity:
		return "c_quantity"
	case t.status:
		return "c_status"
	}
	return "c_level"
}

// point makes the body of a point.
func (t *table) point(points, remark string) []string {
	lines := []string{"point: " + scalar("${{ "+points+" }}"), "remark: " + scalar(remark)}
	if t.phone != nil {
		lines = append(lines, "phoneList:", "  - phone: "+scalar(t.phone.value("")))
	}
	var ids []string
	for _, id := range []struct {
		kind string
		c    *column
	}{{"openid", t.openid}, {"unionid", t.unionid}} {
		if id.c != nil {
			ids = append(ids, id.kind+": "+scalar(id.c.value("")))
		}
	}
	for i, id := range ids {
		if i == 0 {
			lines = append(lines, "openids:")
			id = "- " + id
		} else {
			id = "  " + id
		}
		lines = append(lines, "  "+id)
	}
	return lines
}

// relation makes the body of a group relation.
func (t *table) relation(s side, groups string, more ...string) []string {
	lines := append([]string{"publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}"}, more...)
	for _, id := range []struct {
		kind string
		c    *column
	}{{"phone", t.phone}, {"unionid", t.unionid}, {"openid", t.openid}} {
		if id.c != nil {
			lines = append(lines, id.kind+": "+scalar(id.c.value(s)))
		}
	}
	return append(lines, "groups: "+scalar(groups))
}

// ledger proposes the points that a table of their changes holds.
func (t *table) ledger() []proposal {
	remark := "积分变动"
	if c := t.remark; c != nil {
		remark = "${{ " + c.there("") + " ? " + c.ref("") + ` : "积分变动" }}`
	}
	points := t.points.ref("")
	if !t.points.isInt() {
		points = "int(floor(" + points + "))"
	}
	sign := t.points.ref("new")
	if !t.points.NotNull {
		sign = "(" + sign + " ?? 0)"
	}
	if t.points.isInt() {
		sign += " > 0"
	} else {
		sign += " >= 1"
	}
	p := proposal{suffix: "points", about: "Each new row is a change in points. Negative ones need platform.paths.pointDecrease: set it, and write != 0.", on: "insert",
		when: append([]string{sign}, t.named("new")...), kind: "point", body: t.point(points, remark), points: true}
	if t.kind != nil && t.kind != t.remark {
		p.decide = t.kind.Name() + " may say whether points were given or taken" + valuesText(t.kind) + ": add that to when, or points that were spent are given once more"
	}
	return []proposal{p}
}

// orders proposes what may be told of orders.
func (t *table) orders(pointsElsewhere string) []proposal {
	args := []*column{t.number, t.goods, t.amount, t.quantity, t.store, t.channel, t.status}
	list := []proposal{{suffix: "created", about: "A new order.", on: "insert", when: t.named("new"), kind: "event", event: "c_order", body: t.event("c_order", "下单", t.createdAt, args...)}}
	paid, how := t.becamePaid()
	if paid == nil && t.status == nil && t.amount != nil { // a row is a payment
		list[0] = proposal{suffix: "paid", about: "A new payment.", on: "insert", when: t.named("new"), kind: "event", event: "c_buy",
			body: t.event("c_buy", "购买", firstOf(t.paidAt, t.createdAt), args...)}
		paid, how = []string{}, ""
	} else if paid != nil {
		list = append(list, proposal{suffix: "paid", about: "An order that becomes paid, or is paid at once. " + how, on: "insert, update", when: append(slices.Clone(paid), t.named("new")...),
			kind: "event", event: "c_buy", body: t.event("c_buy", "购买", t.paidAt, args...)})
	} else if t.status != nil {
		list = append(list, t.statusChanged("An order whose "+t.status.Name()+" changes. Which value means paid is not known here"+valuesText(t.status)+".", args))
	}
	if paid == nil || t.amount == nil {
		return list
	}
	amount := t.amount.ref("new")
	if !t.amount.NotNull {
		amount = "(" + amount + " ?? 0)"
	}
	per, bare := "1", t.amount.ref("")
	if t.amount.inCents() {
		per, bare = "100", bare+" / 100"
	}
	points := proposal{suffix: "points", about: "A point for each yuan of an order that becomes paid.", on: "insert, update", when: append(append(slices.Clone(paid), amount+" >= "+per), t.named("new")...),
		kind: "point", body: t.point("int(floor("+bare+"))", t.remarkOf("积分")), points: true, decide: "whether orders give points, and how many, is yours to say"}
	if len(paid) == 0 {
		points.on = "insert"
	}
	if pointsElsewhere != "" {
		points.decide = "points already come from " + pointsElsewhere + ", and would be given twice"
	}
	return append(list, points)
}

// becamePaid gives the condition that an order is paid now and was not before, and in words how that is told; nil where nothing tells.
func (t *table) becamePaid() (when []string, how string) {
	if v := t.paidValue(); v != "" {
		return []string{t.status.ref("new") + " == " + t.status.literal(v), t.status.optional() + " != " + t.status.literal(v)}, "Paid is " + t.status.Name() + " " + clean(v, 30) + valuesText(t.status) + "."
	}
	if c := t.first(func(c *column) bool {
		return c.isBool() && c.name.said(words("paid ispaid settled issettled 已支付 已付款 已结清 已结算 是否支付 是否付款 是否结清 是否结算"))
	}); c != nil {
		return []string{"(" + c.ref("new") + " ?? false)", "!(" + c.optional() + " ?? false)"}, "Paid is told by " + c.Name() + "."
	}
	if c := t.paidAt; c != nil && !c.NotNull {
		return []string{c.ref("new") + " != nil", c.optional() + " == nil"}, "Paid is one that has " + c.Name() + "."
	}
	return nil, ""
}

// statusChanged proposes an event for each change of status.
func (t *table) statusChanged(about string, args []*column) proposal {
	key := t.eventKey() + "_status"
	return proposal{suffix: "status", about: about, on: "update", when: append([]string{t.status.ref("new") + " != " + t.status.ref("old")}, t.named("new")...),
		kind: "event", event: key, body: t.event(key, "状态变更", nil, args...)}
}

// remarkOf writes the remark of an order's points.
func (t *table) remarkOf(what string) string {
	for _, c := range []*column{t.number, t.keyColumn()} {
		if c != nil && c.NotNull {
			return "订单 ${{ " + c.ref("") + " }} " + what
		}
	}
	return "订单" + what
}

// keyColumn gives the primary key where it is one column.
func (t *table) keyColumn() *column {
	if len(t.PrimaryKey) != 1 {
		return nil
	}
	return t.first(func(c *column) bool { return c.Name() == t.PrimaryKey[0] })
}

// members proposes what may be told of a customer.
func (t *table) members(pointsElsewhere string) []proposal {
	level := (*column)(nil)
	if len(t.groups) > 0 && !t.groups[0].isList() && !t.groups[0].isJSON() {
		level = t.groups[0]
	}
	list := []proposal{{suffix: "registered", about: "A new customer.", on: "insert", when: t.named("new"), kind: "event", event: "c_register",
		body: t.event("c_register", "注册", t.createdAt, t.channel, t.store, level)}}
	for _, c := range t.groups[:min(len(t.groups), 2)] {
		list = append(list, t.membership(c, suffixOf(c))...)
	}
	if t.status != nil && t.name.endsWith(words("lead 线索")) {
		list = append(list, t.statusChanged("A change of "+t.status.Name()+valuesText(t.status)+".", []*column{t.channel, t.store, t.status}))
	}
	if t.points != nil {
		list = append(list, t.counter(pointsElsewhere))
	}
	return list
}

// counter proposes the points that a column of how many there are grows by.
func (t *table) counter(pointsElsewhere string) proposal {
	now, before := t.points.ref("new"), t.points.ref("old")
	if !t.points.NotNull {
		now, before = "("+now+" ?? 0)", "("+before+" ?? 0)"
	}
	difference := "int(floor(" + now + " - " + before + "))"
	if t.points.isInt() {
		difference = now + " - " + before
	}
	p := proposal{suffix: "points", about: "Points that " + t.points.Name() + " grew by. Those that it lost need platform.paths.pointDecrease: set it, and write != for >.", on: "update",
		when: append([]string{now + " > " + before}, t.named("new")...), kind: "point", body: t.point(difference, "积分变动"), points: true}
	if !t.points.isInt() {
		p.when[0] = now + " >= " + before + " + 1"
	}
	if pointsElsewhere != "" {
		p.decide = "points already come from " + pointsElsewhere + ", and would be given twice"
	}
	return p
}

// suffixOf names the mapping of a column with groups.
func suffixOf(c *column) string {
	switch {
	case c.name.said(words("tag label 标签")):
		return "tags"
	case c.name.said(levelWords):
		return "level"
	}
	return "groups"
}

// joined reports whether a text holds several group names, joined by commas.
func (c *column) joined() bool {
	return c.isText() && c.name.said(words("tags labels 标签")) && !c.name.called(words("name 名称"))
}

// groupsValue gives the scalar that makes group names of a column. some says that there are some; else it is null where there are none.
func (c *column) groupsValue(s side, some bool) string {
	switch {
	case c.isCode(): // 3 says nothing as a group's name
		return "会员等级${{ " + c.ref(s) + " }}"
	case c.joined() && some:
		return "${{ split(" + c.ref(s) + `, ",") }}`
	case c.joined():
		return "${{ " + c.there(s) + " ? split(" + c.ref(s) + `, ",") : nil }}`
	}
	return c.value(s)
}

// membership proposes the groups that a column holds: what a new row says, and with the old row what changes and ends.
func (t *table) membership(c *column, suffix string) []proposal {
	make := func(suffix, about, on string, s side, when []string, opt string, keys ...string) proposal {
		value := c.groupsValue(s, len(keys) == 0)
		switch {
		case c.NotNull && !c.joined():
		case len(keys) > 0: // an update that leaves no group has still to take the customer out of the old one
			when = append(when, "("+c.there(s)+" || "+c.thereBefore()+")")
		default:
			when = append(when, c.there(s))
		}
		var more []string
		if opt != "" {
			more = append(more, "optType: "+opt)
		}
		return proposal{suffix: suffix, about: about, on: on, when: append(when, t.named(s)...), keys: keys, kind: "groupRelation", body: t.relation(s, value, more...), of: c}
	}
	bare := c.plain()
	for _, id := range []*column{t.phone, t.unionid, t.openid, t.deleted} {
		bare = bare && (id == nil || id.plain())
	}
	n := c.Name()
	const replaced = "onChange: replace          # a group that a change takes away is left, one that it brings is entered"
	var list []proposal
	if bare {
		whole := make(suffix, "The customer is in the group that "+n+" names, for as long as the row says so.", "insert, update, delete", "", t.alive(""), "", replaced)
		whole.whole = true
		list = append(list, whole)
	}
	parts := []proposal{make(suffix, "A new row puts the customer into the group that "+n+" names.", "insert", "", t.alive(""), "")}
	if bare {
		parts = append(parts, make(suffix+"-changes", "A change of "+n+" takes the customer out of the old group and puts it into the new one; a deleted row takes it out.",
			"update, delete", "", t.alive(""), "", replaced))
	} else { // a name that can't stand bare is read of the new row or of the old one, never of both
		parts = append(parts, make(suffix+"-changes", "A change of "+n+" takes the customer out of the old group and puts it into the new one.", "update", "new", t.alive("new"), "", replaced),
			make(suffix+"-ended", "A deleted row takes the customer out of the group.", "delete", "old", t.alive("old"), ""))
	}
	for _, p := range parts {
		p.part = true
		list = append(list, p)
	}
	if t.deleted != nil {
		list = append(list, make(suffix+"-removed", "A row that is marked as deleted ("+t.deleted.Name()+") takes the customer out of the group that "+n+" names.", "update", "old", append(t.dead("new"), t.alive("old")...), "delete"))
	}
	return list
}

// alive is the condition that a row is not marked as deleted, dead that it is.
func (t *table) alive(s side) []string {
	if t.deleted == nil {
		return nil
	}
	c := t.deleted
	switch {
	case c.isTime():
		return []string{c.ref(s) + " == nil"}
	case c.isBool():
		return []string{"!(" + c.ref(s) + " ?? false)"}
	case c.isInt():
		return []string{"(" + c.ref(s) + " ?? 0) == 0"}
	}
	return []string{"(" + c.ref(s) + ` ?? "") in ["", "0", "N", "n", "false"]`}
}

func (t *table) dead(s side) []string {
	switch c := t.deleted; {
	case c.isTime():
		return []string{c.ref(s) + " != nil"}
	case c.isBool():
		return []string{"(" + c.ref(s) + " ?? false)"}
	}
	return []string{"!(" + t.alive(s)[0] + ")"}
}

// others proposes an event for each new row, and for changes of its status.
func (t *table) others() []proposal {
	args := []*column{t.number, t.goods, t.amount, t.store, t.channel, t.status}
	key := t.eventKey()
	list := []proposal{{suffix: "created", about: "Each new row.", on: "insert", when: t.named("new"), kind: "event", event: key, body: t.event(key, t.title(), t.createdAt, args...)}}
	if t.status != nil {
		list = append(list, t.statusChanged("A change of "+t.status.Name()+valuesText(t.status)+".", args))
	}
	return list
}

func firstOf(columns ...*column) *column {
	for _, c := range columns {
		if c != nil {
			return c
		}
	}
	return nil
}

// eventWords name events of tables with Chinese names.
var eventWords = []struct{ word, key string }{
	{"预约", "c_appointment"}, {"试听", "c_trial"}, {"报名", "c_signup"}, {"签到", "c_checkin"}, {"优惠券", "c_coupon"}, {"退款", "c_refund"}, {"退货", "c_return"}, {"评价", "c_review"},
	{"咨询", "c_consult"}, {"充值", "c_recharge"}, {"消费", "c_consume"}, {"到店", "c_visit"}, {"订单", "c_order"}, {"活动", "c_activity"}, {"投诉", "c_complaint"}, {"线索", "c_lead"},
	{"回访", "c_followup"}, {"跟进", "c_followup"}, {"上课", "c_lesson"}, {"课程", "c_course"}, {"续费", "c_renewal"}, {"兑换", "c_redeem"}, {"抽奖", "c_lottery"}, {"缴费", "c_payment"},
}

// eventKey makes a key of the table's name.
func (t *table) eventKey() string {
	for _, e := range eventWords {
		if strings.Contains(t.name.text, e.word) {
			return e.key
		}
	}
	list := t.name.words
	for len(list) > 1 && slices.Contains([]string{"t", "tb", "tbl", "crm"}, list[0]) {
		list = list[1:]
	}
	if len(list) > 0 {
		return "c_" + strings.TrimSuffix(strings.Join(list, "_"), "s")
	}
	return "c_event"
}

// title is an event's title: what the table is said to be, else its name.
func (t *table) title() string {
	title := t.name.subject()
	if title == "" {
		title = t.Name
	}
	return scalar(strings.ReplaceAll(strings.TrimSuffix(clean(title, 30), "表"), "${", "{")) // that would be a variable
}

// valuesText tells which values a column of codes has.
func valuesText(c *column) string {
	explained := c.Comment != "" && strings.ContainsAny(c.Comment, "0123456789:：")
	switch {
	case explained && (c.isInt() || len(c.Values) == 0):
		return " (" + clean(c.Comment, 80) + ")"
	case len(c.Values) == 0:
		return ""
	}
	list := make([]string, len(c.Values))
	for i, v := range c.Values {
		list[i] = clean(v, 24)
	}
	return fmt.Sprintf(" (it has %s)", strings.Join(list, ", "))
}
