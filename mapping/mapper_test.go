package mapping

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// designMappings are the three of the design page.
const designMappings = `
- name: order-paid
  table: crm.orders
  on: [insert, update]
  when: new.status == "paid" && old?.status != "paid"
  event:
    publicParams: {matchingType: 1}
    eventKey: c_buy
    time: ${{ paid_at }}
    identities:
      - identityType: phone
        identityValue: ${{ phone }}
    eventargs:
      c_goods: ${{ goods }}
      c_price: ${{ amount }}
      title: 下单
- name: order-points
  table: crm.orders
  on: [insert, update]
  when: new.status == "paid" && old?.status != "paid"
  point:
    point: ${{ int(floor(amount)) }}
    remark: 订单 ${{ order_no }} 积分
    phoneList:
      - phone: ${{ phone }}
        isVerify: "1"
    ext:
      strategyName: order
- name: member-groups
  table: crm.member_groups
  on: [insert, update, delete]
  groupRelation:
    publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
    optType: {insert: add, update: update, delete: delete}
    phone: ${{ phone }}
    groups: ${{ group_name }}
`

func TestDesignExamples(t *testing.T) {
	s := mustDecode(t, designMappings)
	orders, paid := ordersTable(), ordersRow()
	event := `{"eventKey":"c_buy","time":1714535998500,"identities":[{"identityType":"phone","identityValue":"13800000001"}],` +
		`"eventargs":{"c_goods":"咖啡 \"大\"","c_price":1420.00,"title":"下单"},"uuid":"` + wantUUID("order-paid") + `"} | {"matchingType":1}`
	point := `{"point":1420,"remark":"订单 N-1 积分","phoneList":[{"phone":"13800000001","isVerify":"1"}],"ext":"{\"strategyName\":\"order\"}"}`
	both := event + "\n" + point
	for name, c := range map[string]struct {
		change *connector.Change
		want   string
	}{
		"insert of a paid order":    {change(connector.Insert, orders, paid, nil), both},
		"insert of a new order":     {change(connector.Insert, orders, with(paid, 4, "new"), nil), ""},
		"update to paid":            {change(connector.Update, orders, paid, with(paid, 4, "new")), both},
		"update of a paid order":    {change(connector.Update, orders, with(paid, 5, "x"), paid), ""},
		"delete":                    {change(connector.Delete, orders, nil, paid), ""},
		"snapshot":                  {change(connector.Snapshot, orders, paid, nil), ""},
		"old row not known":         {change(connector.Update, orders, paid, unknownRow(paid)), unknownStatus("order-paid", 5) + "\n" + unknownStatus("order-points", 20)},
		"another table, same names": {change(connector.Insert, &connector.Table{Schema: "other", Name: "orders", Columns: orders.Columns}, paid, nil), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out connector.Output
			s.Mapper(testOptions).Map(c.change, connector.Part{}, &out)
			expect(t, name, show(&out), c.want)
		})
	}
	out := mapOne(t, s, testOptions, change(connector.Insert, orders, paid, nil))
	e, p := out.Records[0], out.Records[1]
	phone := []uint64{connector.KeyHash("13800000001")}
	if e.Kind != connector.Event || p.Kind != connector.Point || p.Envelope != "" || p.Decrease || p.Resend || e.Table != "crm.orders" ||
		!slices.Equal(e.Keys, phone) || !slices.Equal(p.Keys, phone) || e.Mapping != "order-paid" || e.Position != at || !e.CommitTime.Equal(committed) {
		t.Errorf("records %+v %+v", e, p)
	}
}

func wantUUID(mapping string) string {
	name := fmt.Sprintf("%s\x00%s\x00%s\x00%s\x00%d\x00%d", testOptions.SystemID, testOptions.Database, mapping, at, committed.UnixMicro(), 0)
	return uuid.NewSHA1(uuid.UUID(uuidSpace), []byte(name)).String()
}

// unknownRow is the old row of an update under REPLICA IDENTITY DEFAULT that kept the key.
func unknownRow(of connector.Tuple) connector.Tuple {
	t := make(connector.Tuple, len(of))
	t[0] = of[0]
	return t
}

func unknownStatus(mapping string, line int) string {
	return fmt.Sprintf("misfit: mapping %s (m.yaml:%d): when: column status is unknown: the table's replica identity does not carry it; "+
		"the partition that the row is in has another replica identity than its table: tuzhan-cdc check names it; REPLICA IDENTITY FULL sends it with later changes; those until then can only be given up: "+
		"tuzhan-cdc deadletters set-aside --mapping %[1]s", mapping, line)
}

// TestEveryField maps every field of the API, from columns and from constants, and compares with files that were read against
// the platform's pages by hand.
func TestEveryField(t *testing.T) {
	s := mustDecode(t, `
- name: point-all
  table: crm.orders
  on: [insert]
  point:
    openids:
      - {openid: "${{ openid }}", unionid: u-1, fromTo: gzh, appid: wx1, jcappid: "${{ audience }}", identityId: "${{ id }}", identityType: id}
      - {openid: "${{ nil }}", fromTo: workwechat}
    phoneList:
      - {phone: "${{ phone }}", isVerify: '${{ vip ? "1" : "0" }}'}
      - phone: "13900000000"
    audienceUserId: ${{ audience }}
    point: ${{ id }}
    remark: 消费
    eventType: buy
    avatar: https://example.com/a.png
    nickName: ${{ goods }}
    contentId: ${{ id }}
    contentName: ${{ paid_at }}
    ext:
      componentId: ${{ id }}
      strategyId: 5
      strategyName: ${{ goods }}
      actionVo: {doc: "${{ doc }}", list: ["${{ amount }}", x, 1.50, true, "${{ nil }}"], none: "${{ nil }}"}
      action: ${{ vip }}
    appInstanceId: 7
    orgId: org
- name: event-all
  table: crm.orders
  on: [insert]
  event:
    publicParams: {isMatching: true, matchingType: 2}
    identities:
      - {identityType: openid, identityValue: "${{ openid }}", platform: gzh, mpid: wx1, isWeChatEcosystem: true}
      - {identityType: phone, identityValue: "${{ phone }}", mpid: "${{ openid }}", isWeChatEcosystem: "${{ vip }}"}
      - {identityType: phone, identityValue: "${{ nil }}"}
    time: ${{ audience }}
    uuid: o-${{ id }}
    eventKey: c_${{ status }}
    intid: ${{ order_no }}
    eventargs:
      text: ${{ goods }}
      number: ${{ amount }}
      id: ${{ audience }}
      flag: ${{ vip }}
      at: ${{ paid_at }}
      json: ${{ doc }}
      inner: ${{ doc.a }}
      half: ${{ amount / 3 }}
      none: ${{ nil }}
      list: ${{ [1, "a"] }}
      mixed: ${{ id }}/${{ vip }}
      int: 12
      price: 1420.00
      yes: true
      nested: {a: "${{ id }}", b: [x]}
      "quoted \" name": plain
- name: group-all
  table: crm.orders
  on: [insert]
  groupRelation:
    publicParams: {accurateMatchValue: wx1, accurateMatchType: gzh, matchingType: 1, isMatching: true}
    identityType: openid
    thirdId: ${{ id }}
    openid: ${{ openid }}
    unionid: u-1
    phone: ${{ phone }}
    groups: [VIP, "${{ status }}", "level-${{ id }}", "${{ ['a', nil, 'b'] }}", "${{ nil }}"]
`)
	out := mapOne(t, s, testOptions, change(connector.Insert, ordersTable(), ordersRow(), nil))
	var b strings.Builder
	for _, r := range out.Records {
		fmt.Fprintf(&b, "%s %s %s\n", r.Mapping, r.Envelope, r.OptType)
		var v any
		dec := json.NewDecoder(strings.NewReader(string(r.Payload)))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		pretty, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\nkeys %d\n", pretty, len(r.Keys))
	}
	for _, l := range out.Letters {
		fmt.Fprintf(&b, "letter: %s\n", l.Reason)
	}
	golden(t, "every_field.txt", b.String())
}

// mapBody maps one change with a payload in YAML's flow style, and gives what comes of it.
func mapBody(t *testing.T, kind, body string, o Options, c *connector.Change) string {
	t.Helper()
	on := "insert, update, delete, snapshot"
	if kind == "event" && c.Op != connector.Snapshot { // which must give a time
		on = "insert, update, delete"
	}
	s, ps := decodeMappings(fmt.Sprintf("- name: m\n  table: %s\n  on: [%s]\n  %s: {%s}\n", c.Table, on, kind, body))
	if err := ps.Err(); err != nil {
		return "problem: " + err.Error()
	}
	var out connector.Output
	s.Mapper(o).Map(c, connector.Part{}, &out)
	if len(out.Misfits) > 0 {
		s.mappings[0].bind(c.Table, &o, ps)
		return "problem: " + ps.Err().Error()
	}
	for _, r := range out.Records {
		if !json.Valid(r.Payload) {
			t.Errorf("no valid JSON: %s", r.Payload)
		}
	}
	return strings.ReplaceAll(show(&out), "mapping m (m.yaml:4): ", "")
}

// TestValues maps single values of every kind of column into the fields that take them, and those that can't be sent into dead letters.
func TestValues(t *testing.T) {
	insert := func(changes ...any) *connector.Change {
		r := wideRow()
		for i := 0; i < len(changes); i += 2 {
			r = with(r, wide().Column(changes[i].(string)), changes[i+1])
		}
		return change(connector.Insert, wide(), r, nil)
	}
	const identity = `eventKey: k, uuid: 'u${{ 1 }}', identities: [{identityType: phone, identityValue: "1"}], `
	const head = `{"eventKey":"k","uuid":"u1","identities":[{"identityType":"phone","identityValue":"1"}],`
	now := `,"time":1714536000123}`
	noUTF8 := "letter: eventargs.v: column name holds bytes that are no UTF-8; a database in SQL_ASCII keeps what clients have sent: write the value again as UTF-8; that change is then read"
	for _, c := range []struct {
		value string
		in    *connector.Change
		want  string
	}{
		{"id", insert(), `860484273911119872`}, {"small", insert(), "7"}, {"amount", insert(), "1420.00"}, {"ratio", insert(), "0.25"},
		{"ratio", insert("ratio", "1e+21"), "1e+21"}, {"amount", insert("amount", "-0.50"), "-0.50"}, {"paid", insert(), `"true"`}, {"paid", insert("paid", "f"), `"false"`},
		{"name", insert("name", "a\u0001\t\"\\/\u2028</x>"), `"a\u0001\t\"\\/` + "\u2028" + `</x>"`}, {"name", insert("name", ""), `""`}, {"code", insert(), `"ab"`},
		{"made_at", insert(), `"2024-05-01T12:00:00.500+08:00"`}, {"seen_at", insert(), `"2024-05-01T12:00:00.123+08:00"`},
		{"born", insert(), `"1990-01-02"`}, {"doc", insert("doc", `{"b": 1.50, "a": [1]}`), `"{\"b\": 1.50, \"a\": [1]}"`}, {"doc", insert("doc", `"text"`), `"text"`},
		{"doc", insert("doc", "12.50"), "12.50"}, {"doc", insert("doc", " -3 "), "-3"}, {"doc", insert("doc", `"12"`), `"12"`}, {"doc", insert("doc", "true"), `"true"`}, {"tags", insert(), `"[\"vip\",\"a,b\",null]"`},
		{"sums", insert(), `"[1.10,2]"`}, {"key", insert(), `"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`}, {"raw", insert(), `"\\x00ff"`}, {"kind", insert(), `"gold"`},
	} {
		got := mapBody(t, "event", identity+"eventargs: {v: '${{ "+c.value+" }}'}", testOptions, c.in)
		expect(t, c.value, got, head+`"eventargs":{"v":`+c.want+"}"+now+" | {}")
	}
	for _, c := range []struct {
		body string
		in   *connector.Change
		want string
	}{
		{"eventargs: {v: '${{ nothing }}', w: '${{ doc }}'}", insert("doc", "null"), head + `"eventargs":{}` + now + " | {}"},
		{"eventargs: {v: '${{ nan }}'}", insert(), "letter: eventargs.v: column nan is NaN or infinity, which JSON can't hold"},
		{"eventargs: {v: '${{ ratio }}'}", insert("ratio", "-Infinity"), "letter: eventargs.v: column ratio is NaN or infinity, which JSON can't hold"},
		{"eventargs: {v: 'x ${{ nothing }}'}", insert(), head + `"eventargs":{}` + now + " | {}"},
		{"eventargs: {v: '${{ amount + no_sum }}'}", insert(), "letter: eventargs.v: + can't take a number and null; give a null a default: (x ?? 0)"},
		{"eventargs: {v: '${{ name }}'}", insert("name", connector.Unchanged), "letter: eventargs.v: column name is unknown: PostgreSQL does not send a long value that an update left alone; " +
			"the partition that the row is in has another replica identity than its table: tuzhan-cdc check names it; REPLICA IDENTITY FULL sends it with later changes"},
		{"eventargs: {v: '${{ name }}'}", insert("name", "\xcf\xc2"), noUTF8}, {"eventargs: {v: '${{ upper(name) }}'}", insert("name", "\xcf\xc2"), noUTF8},
		{"eventargs: {v: '${{ seen_at }}'}", insert("seen_at", "9999-12-31 20:00:00+00"), "letter: eventargs.v: column seen_at is a time after the year 9999, which can't be sent"},
		{"eventargs: {v: '${{ seen_at.Year() }}'}", insert("seen_at", "20000-01-01 00:00:00+00"), head + `"eventargs":{"v":20000}` + now + " | {}"},
		{"eventargs: {v: '${{ born.Year() }}'}", insert("born", "0044-03-15 BC"), head + `"eventargs":{"v":-43}` + now + " | {}"},
		{"eventargs: {v: '${{ born }}'}", insert("born", "0044-03-15 BC"), "letter: eventargs.v: column born is a time before Christ, which can't be sent"},
		{"eventargs: {v: '${{ made_at }}'}", insert("made_at", "1899-12-31 23:59:59"), head + `"eventargs":{"v":"1899-12-31T15:54:16.000Z"}` + now + " | {}"},
		{"time: '${{ true ? seen_at : nil }}'", insert("seen_at", "infinity"), "letter: time: the value is infinity, which is no time that can be sent"},
		{"eventargs: {v: '${{ ratio > 1e308 ? \"inf\" : ratio }}'}", insert("ratio", "Infinity"), head + `"eventargs":{"v":"inf"}` + now + " | {}"},
		{"eventargs: {v: '${{ ratio < -99 ? \"inf\" : ratio }}'}", insert("ratio", "-Infinity"), head + `"eventargs":{"v":"inf"}` + now + " | {}"},
		{"eventargs: {v: '${{ nan == nan ? nan : 0 }}'}", insert(), head + `"eventargs":{"v":0}` + now + " | {}"},
		{"eventargs: {v: '${{ doc.x > 1 }}'}", insert("doc", `{"x": 1e999999999}`), "letter: eventargs.v: column doc holds a JSON number that is too large"},
		{"eventargs: {v: '${{ doc.x > 1 }}'}", insert("doc", `{"x": 1e401}`), "letter: eventargs.v: column doc holds a JSON number that is too large"},
		{"eventargs: {v: '${{ doc.x }}'}", insert("doc", `{"x": 1.5E-2}`), head + `"eventargs":{"v":0.015}` + now + " | {}"},
		{"eventargs: {v: '${{ paid }}'}", insert("paid", "yes"), "letter: eventargs.v: column paid is neither true nor false"},
		{"eventargs: {v: '${{ amount }}'}", insert("amount", "1x"), "letter: eventargs.v: column amount is no number that can be read"},
		{"eventargs: {v: '${{ id }}'}", insert("name", connector.Unchanged), head + `"eventargs":{"v":860484273911119872}` + now + " | {}"},
		{"eventargs: {v: '${{ endless }}'}", insert(), "letter: eventargs.v: column endless is infinity, which is no time that can be sent"},
		{"time: '${{ made_at }}'", insert(), head + `"time":1714536000500} | {}`}, {"time: '${{ seen_at }}'", insert(), head + `"time":1714536000123} | {}`},
		{"time: '${{ born }}'", insert(), head + `"time":631209600000} | {}`}, {"time: '${{ id }}'", insert("id", "5"), head + `"time":5} | {}`},
		{"time: '${{ amount }}'", insert(), head + `"time":1420} | {}`}, {"time: '${{ amount }}'", insert("amount", "0.5"), "letter: time: column amount is not whole; floor(x), round(x) or ceil(x) make it so"},
		{"time: '${{ seen_at }}'", insert("seen_at", nil), head + `"time":1714536000123} | {}`}, {"time: 17", insert(), head + `"time":17} | {}`},
		{"time: '${{ seen_at ?? made_at }}'", insert("seen_at", nil), head + `"time":1714536000500} | {}`},
		{"time: '${{ seen_at }}'", insert("seen_at", "infinity"), "letter: time: column seen_at is infinity, which is no time that can be sent"},
		{"time: '${{ seen_at }}'", insert("seen_at", "0044-03-15 00:00:00+00 BC"), "letter: time: column seen_at is a time before Christ, which can't be sent"},
		{"time: '${{ made_at }}'", insert("made_at", "12024-03-15 00:00:00"), "letter: time: column made_at is a time after the year 9999, which can't be sent"},
		{"time: '${{ name }}'", insert(), "problem: m.yaml:4:111: time: want a timestamp, or a whole number of milliseconds, but the expression gives text\n    date(x) reads a timestamp from text."},
		{"intid: '${{ nothing }}'", insert(), head[:len(head)-1] + now + " | {}"},
		{"intid: '${{ tags }}'", insert(), "problem: m.yaml:4:112: intid: want text, but the expression gives a list\n    join(x, \",\") makes text of a list, toJSON(x) of anything."},
	} {
		expect(t, c.body, mapBody(t, "event", identity+c.body, testOptions, c.in), c.want)
	}
}

func TestRequiredAndCustomers(t *testing.T) {
	in := func(i int, v any) *connector.Change {
		return change(connector.Insert, ordersTable(), with(ordersRow(), i, v), nil)
	}
	decrease := testOptions
	decrease.PointDecrease = true
	const who = `phoneList: [{phone: "${{ phone }}"}], `
	for _, c := range []struct {
		kind, body string
		o          Options
		in         *connector.Change
		want       string
	}{
		{"point", who + `point: 5, remark: "${{ order_no }}"`, testOptions, in(1, nil), "letter: remark: a required value is null or empty; give it a default: ${{ x ?? ... }}"},
		{"point", who + `point: 5, remark: "${{ order_no }}"`, testOptions, in(1, ""), "letter: remark: a required value is null or empty; give it a default: ${{ x ?? ... }}"},
		{"point", who + `point: 5, remark: "a ${{ order_no }}"`, testOptions, in(1, nil), "letter: remark: a required value is null or empty; give it a default: ${{ x ?? ... }}"},
		{"point", who + `point: "${{ amount }}", remark: r`, testOptions, in(3, "12.00"), `{"phoneList":[{"phone":"13800000001"}],"point":12,"remark":"r"}`},
		{"point", who + `point: "${{ amount }}", remark: r`, testOptions, in(3, "12.50"), "letter: point: column amount is not whole; floor(x), round(x) or ceil(x) make it so"},
		{"point", who + `point: "${{ amount }}", remark: r`, testOptions, in(3, "9223372036854775808"), "letter: point: column amount does not fit into 64 bits"},
		{"point", who + `point: "${{ amount }}", remark: r`, testOptions, in(3, "NaN"), "letter: point: column amount is NaN or infinity, which JSON can't hold"},
		{"point", who + `point: "${{ amount }}", remark: r`, testOptions, in(3, nil), "letter: point: a required value is null or empty; give it a default: ${{ x ?? ... }}"},
		{"point", who + `point: "${{ id }}", remark: r`, testOptions, in(0, "0"), `{"phoneList":[{"phone":"13800000001"}],"point":0,"remark":"r"}`},
		{"point", who + `point: "${{ -amount }}", remark: r`, testOptions, in(3, "5"), "letter: point: the value is negative, and there is no path that takes points away; " +
			"set platform.paths.pointDecrease, or leave such rows out with when"},
		{"point", who + `point: "${{ -amount }}", remark: r`, decrease, in(3, "5"), `{"phoneList":[{"phone":"13800000001"}],"point":5,"remark":"r"}`},
		{"point", who + `point: -5, remark: r`, decrease, in(3, "5"), `{"phoneList":[{"phone":"13800000001"}],"point":5,"remark":"r"}`},
		{"point", `phoneList: [{phone: "${{ phone }}"}], audienceUserId: "${{ audience }}", point: 5, remark: r`, testOptions, in(2, ""), `{"audienceUserId":860484273911119872,"point":5,"remark":"r"}`},
		{"point", who + `point: 5, remark: r`, testOptions, in(2, ""), "letter: it names no customer: openids, phoneList, audienceUserId are all null or empty"},
		{"point", who + `point: "${{ status }}", remark: r`, testOptions, in(2, ""), "problem: m.yaml:4:61: point: want a whole number, but the expression gives text\n    int(x) reads a whole number from text."},
		{"point", who + `point: "${{ vip }}", remark: r`, testOptions, in(2, ""), "problem: m.yaml:4:61: point: want a whole number, but the expression gives true or false"},
		{"point", who + `point: "${{ doc.a }}", remark: r`, testOptions, in(9, `{"a": "x"}`), "letter: point: the value is text, a whole number is wanted"},
		{"point", who + `point: 1, remark: r, ext: "${{ doc }}"`, testOptions, in(9, `{"a":  1}`), `{"phoneList":[{"phone":"13800000001"}],"point":1,"remark":"r","ext":"{\"a\":  1}"}`},
		{"point", who + `point: 1, remark: r, ext: "${{ doc }}"`, testOptions, in(9, `[1]`), "letter: ext: the text holds no JSON object; write it as a mapping (key: value), which is made JSON"},
		{"point", who + `point: 1, remark: r, ext: "${{ {'a': amount} }}"`, testOptions, in(3, `2.50`), `{"phoneList":[{"phone":"13800000001"}],"point":1,"remark":"r","ext":"{\"a\":2.50}"}`},
		{"point", `openids: [{openid: "${{ openid }}", fromTo: "${{ status }}"}], point: 1, remark: r`, testOptions, in(4, "x"),
			"letter: openids[0].fromTo: the API takes one of contentminiapp, workwechat, gzh, workwechatgroup here"},
		{"event", `eventKey: k, identities: [{identityType: phone, identityValue: "${{ phone }}"}]`, testOptions, in(2, nil), "letter: it names no customer: identities is null or empty"},
		{"event", `eventKey: k, identities: [{identityType: "${{ status }}", identityValue: "${{ phone }}"}]`, testOptions, in(4, nil),
			"letter: identities[0].identityType: a required value is null or empty; give it a default: ${{ x ?? ... }}"},
		{"event", `eventKey: k, identities: [{identityType: p, identityValue: "${{ phone }}", mpid: x, isWeChatEcosystem: "${{ vip }}"}]`, testOptions, in(10, nil),
			"letter: identities[0].isWeChatEcosystem: it must be given with mpid, and is null"},
		{"event", `eventKey: k, uuid: "${{ goods }}", identities: [{identityType: p, identityValue: "${{ phone }}"}]`, testOptions, in(5, strings.Repeat("下", 37)),
			"letter: uuid: the value has more than the 36 characters that the API takes"},
		{"event", `eventKey: k, uuid: "${{ goods }}", identities: [{identityType: p, identityValue: "${{ phone }}"}]`, testOptions, in(5, nil),
			`{"eventKey":"k","uuid":"` + wantUUID("m") + `","identities":[{"identityType":"p","identityValue":"13800000001"}],"time":1714536000123} | {}`},
		{"groupRelation", `publicParams: {isMatching: true}, phone: "${{ phone }}", openid: "${{ openid }}", groups: a`, testOptions, in(2, nil), `{"openid":"oABC","groups":"a"} | {"isMatching":true,"optType":"add"}`},
		{"groupRelation", `publicParams: {isMatching: true}, phone: "${{ phone }}", groups: a`, testOptions, in(2, ""), "letter: it names no customer: thirdId, openid, unionid, phone are all null or empty"},
		{"groupRelation", `publicParams: {isMatching: true}, phone: "${{ phone }}", groups: "${{ status }}"`, testOptions, in(4, "a,b"),
			`letter: groups: a group name holds a comma, which the API reads as the end of the name; where the value is a list already, write split(x, ",")`},
		{"groupRelation", `publicParams: {isMatching: true}, phone: "${{ phone }}", groups: "${{ split(status, ',') }}"`, testOptions, in(4, "a,b"), `{"phone":"13800000001","groups":"a,b"} | {"isMatching":true,"optType":"add"}`},
		{"groupRelation", `publicParams: {isMatching: true}, phone: "${{ phone }}", groups: "x,l-${{ status }}"`, testOptions, in(4, "a"), `{"phone":"13800000001","groups":"x,l-a"} | {"isMatching":true,"optType":"add"}`},
		{"groupRelation", `publicParams: {isMatching: true}, phone: "${{ phone }}", groups: "x-${{ status }}"`, testOptions, in(4, "a,b"),
			`letter: groups: a group name holds a comma, which the API reads as the end of the name; where the value is a list already, write split(x, ",")`},
		{"groupRelation", `publicParams: {isMatching: true}, phone: "${{ phone }}", optType: "${{ status }}"`, testOptions, in(4, "delete"), `{"phone":"13800000001"} | {"isMatching":true,"optType":"delete"}`},
		{"groupRelation", `publicParams: {isMatching: true}, phone: "${{ phone }}", optType: "${{ status }}"`, testOptions, in(4, "x"), "letter: optType: it gave neither add, update nor delete"},
	} {
		expect(t, c.body, mapBody(t, c.kind, c.body, c.o, c.in), c.want)
	}
	s := mustDecode(t, "- {name: m, table: crm.orders, on: [insert], uncertain: resend, point: {audienceUserId: \"${{ audience }}\", point: \"${{ -amount }}\", remark: r}}\n")
	r := mapOne(t, s, decrease, in(3, "7")).Records[0]
	if !r.Decrease || !r.Resend || r.Endpoint() != connector.PointDecreaseEndpoint || !slices.Equal(r.Keys, []uint64{connector.KeyHash("860484273911119872")}) {
		t.Errorf("%+v", r)
	}
}

func TestOrderKeys(t *testing.T) {
	const body = `point: {phoneList: [{phone: "${{ phone }}"}, {phone: "${{ phone }}"}, {phone: "2"}], openids: [{openid: "${{ openid }}"}], point: 1, remark: r}`
	in := change(connector.Insert, ordersTable(), ordersRow(), nil)
	keys := func(values ...string) (list []uint64) {
		for _, v := range values {
			list = append(list, connector.KeyHash(v))
		}
		return list
	}
	s := mustDecode(t, "- {name: m, table: crm.orders, on: [insert], "+body+"}\n")
	if got := mapOne(t, s, testOptions, in).Records[0].Keys; !slices.Equal(got, keys("13800000001", "2", "oABC")) {
		t.Errorf("%v", got)
	}
	s = mustDecode(t, "- {name: m, table: crm.orders, on: [insert], orderBy: id, "+body+"}\n")
	if got := mapOne(t, s, testOptions, in).Records[0].Keys; !slices.Equal(got, keys("1")) {
		t.Errorf("orderBy: %v", got)
	}
	expect(t, "orderBy null", show(mapOne(t, s, testOptions, change(connector.Insert, ordersTable(), with(ordersRow(), 0, nil), nil))),
		"letter: mapping m (m.yaml:1): orderBy: the value is null; give it a default: x ?? ...")
}

func TestGroupUpdates(t *testing.T) {
	table := membersTable()
	row := tuple("1", "138", "gold", `{a,b}`, "t")
	const params = "publicParams: {isMatching: true}, "
	plain := params + `phone: "${{ phone }}", groups: "${{ group_name }}"`
	tags := params + `phone: "${{ phone }}", groups: "${{ tags }}"`
	partial := unknownRow(row)
	keyed := with(unknownRow(row), 1, "138") // the identity is known, the groups are not
	for _, c := range []struct {
		name, more, body string
		in               *connector.Change
		want             string
	}{
		{"insert", "", plain, change(connector.Insert, table, row, nil), "0 add 138 gold"},
		{"snapshot", "", plain, change(connector.Snapshot, table, row, nil), "0 add 138 gold"},
		{"delete", "", plain, change(connector.Delete, table, nil, row), "0 delete 138 gold"},
		{"another customer", "", plain, change(connector.Update, table, with(row, 1, "139"), row), "0 delete 138 gold, 1 add 139 gold"},
		{"another customer and group", "", plain, change(connector.Update, table, with(with(row, 1, "139"), 2, "new"), row), "0 delete 138 gold, 1 add 139 new"},
		{"other groups", "", plain, change(connector.Update, table, with(row, 2, "new"), row), "0 update 138 new"},
		{"nothing", "", plain, change(connector.Update, table, with(row, 0, "2"), row), ""},
		{"old row unknown", "", plain, change(connector.Update, table, row, partial), "0 update 138 gold"},
		{"old groups unknown", "", plain, change(connector.Update, table, row, keyed), "0 update 138 gold"},
		{"old row had no customer", "", plain, change(connector.Update, table, row, with(row, 1, nil)), "0 add 138 gold"},
		{"replace", "onChange: replace, ", plain, change(connector.Update, table, with(row, 2, "new"), row), "0 delete 138 gold, 1 add 138 new"},
		{"replace, some stay", "onChange: replace, ", tags, change(connector.Update, table, with(row, 3, `{b,c,d}`), row), "0 delete 138 a, 1 add 138 c,d"},
		{"replace, some go", "onChange: replace, ", tags, change(connector.Update, table, with(row, 3, `{b}`), row), "0 delete 138 a"},
		{"replace, some come", "onChange: replace, ", tags, change(connector.Update, table, with(row, 3, `{a,b,c}`), row), "1 add 138 c"},
		{"replace, other order", "onChange: replace, ", tags, change(connector.Update, table, with(row, 3, `{b,a}`), row), ""},
		{"replace, another customer", "onChange: replace, ", tags, change(connector.Update, table, with(with(row, 1, "139"), 3, `{c}`), row), "0 delete 138 a,b, 1 add 139 c"},
		{"replace, another customer, without groups before", "onChange: replace, ", tags, change(connector.Update, table, with(with(row, 1, "139"), 3, `{c}`), with(row, 3, `{}`)), "1 add 139 c"},
		{"replace, another customer, without groups now", "onChange: replace, ", tags, change(connector.Update, table, with(with(row, 1, "139"), 3, `{}`), row), "0 delete 138 a,b"},
		{"replace, another customer, never with groups", "onChange: replace, ", tags, change(connector.Update, table, with(with(row, 1, "139"), 3, `{}`), with(row, 3, `{}`)), ""},
		{"another customer, without groups", "", tags, change(connector.Update, table, with(with(row, 1, "139"), 3, `{}`), row), "0 delete 138 a,b, 1 add 139 "},
		{"replace, old row unknown", "onChange: replace, ", plain, change(connector.Update, table, row, partial), "0 update 138 gold"},
		{"one optType", "", plain + ", optType: update", change(connector.Update, table, with(row, 0, "2"), row), "0 update 138 gold"},
		{"a mapping with another update", "", plain + ", optType: {update: add}", change(connector.Update, table, with(row, 0, "2"), row), "0 add 138 gold"},
		{"a mapping with the default update", "", plain + ", optType: {update: update}", change(connector.Update, table, with(row, 0, "2"), row), ""},
		{"when became true", "when: active, ", plain, change(connector.Update, table, row, with(row, 4, "f")), "0 add 138 gold"},
		{"when stays true", "when: active, ", plain, change(connector.Update, table, with(row, 2, "new"), row), "0 update 138 new"},
		{"when became false", "when: active, ", plain, change(connector.Update, table, with(row, 4, "f"), row), ""},
		{"when is about the change", "when: 'new.active && !(old?.active ?? false)', ", plain, change(connector.Update, table, row, with(row, 4, "f")), "0 add 138 gold"},
		{"when needs an old row", "when: old.active != new.active, ", plain, change(connector.Update, table, row, with(row, 4, "f")), "0 update 138 gold"},
		{"new and old by name", "", params + `phone: "${{ new.phone }}", groups: "${{ new.group_name }}"`, change(connector.Update, table, with(row, 1, "139"), row), "0 delete 138 gold, 1 add 139 gold"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustDecode(t, fmt.Sprintf("- {name: m, table: crm.member_groups, on: [insert, update, delete, snapshot], %sgroupRelation: {%s}}\n", c.more, c.body))
			out := mapOne(t, s, testOptions, c.in)
			var got []string
			for _, r := range out.Records {
				var p struct{ Phone, Groups string }
				if err := json.Unmarshal(r.Payload, &p); err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%d %s %s %s", r.Number, r.OptType, p.Phone, p.Groups))
				if !slices.Equal(r.Keys, []uint64{connector.KeyHash(p.Phone)}) || r.Envelope != `{"isMatching":true,"optType":"`+r.OptType+`"}` {
					t.Errorf("keys %v, envelope %s of %s", r.Keys, r.Envelope, r.Payload)
				}
			}
			for _, l := range out.Letters {
				got = append(got, l.Reason)
			}
			expect(t, c.name, strings.Join(got, ", "), c.want)
		})
	}
}

// TestLetters: a row on which something fails makes a dead letter with the change and without the row's values in its reason, and
// the other mappings go on.
func TestLetters(t *testing.T) {
	s := mustDecode(t, `
- name: bad
  table: crm.orders
  on: [insert]
  event:
    eventKey: k
    identities: [{identityType: phone, identityValue: "${{ phone }}"}]
    eventargs:
      v: ${{ date(goods) }}
- name: good
  table: crm.orders
  on: [insert]
  event: {eventKey: k, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}
`)
	secret := "geheim-4711"
	c := change(connector.Insert, ordersTable(), with(ordersRow(), 5, secret), nil)
	out := mapOne(t, s, testOptions, c)
	if len(out.Records) != 1 || out.Records[0].Mapping != "good" || len(out.Letters) != 1 {
		t.Fatal(show(out))
	}
	l := out.Letters[0]
	expect(t, "reason", l.Reason, "mapping bad (m.yaml:9): eventargs.v: the expression failed: a text is no date in the form that is wanted")
	if l.Class != connector.ClassMapping || l.Mapping != "bad" || l.Kind != connector.Event || l.Table != "crm.orders" || l.Position != at ||
		!l.CommitTime.Equal(committed) || l.Number != 0 || l.Payload != nil || !strings.Contains(string(l.Change), secret) {
		t.Errorf("%+v", l)
	}
	for _, expr := range []string{"int(goods)", "float(goods)", "date(goods)", `duration(goods)`, "fromJSON(goods)", "doc[goods].x", "goods[0].y", "timezone(goods)", "repeat(goods, -1)",
		"goods matches goods + '('", "fromBase64(goods)", "goods + 1.5 * doc", "[1][int(len(goods))]", "{'a': 1}[goods] + goods", "(doc ?? goods) > goods", "bitnot(doc)", "date(goods, goods)", "split(doc, goods)"} {
		got := mapBody(t, "event", `eventKey: k, identities: [{identityType: phone, identityValue: "${{ phone }}"}], eventargs: {v: "${{ `+strings.ReplaceAll(expr, `"`, `\"`)+` }}"}`, testOptions, c)
		if strings.Contains(got, "4711") || !strings.HasPrefix(got, "letter: ") && !strings.HasPrefix(got, "problem: ") {
			t.Errorf("%s: %s", expr, got)
		}
	}
}

// TestShapes: a mapper takes each shape of a table as it comes, and says which mapping can't read one.
func TestShapes(t *testing.T) {
	s := mustDecode(t, "- {name: m, table: crm.orders, on: [insert], event: {eventKey: k, identities: [{identityType: p, identityValue: \"${{ phone }}\"}], eventargs: {v: \"${{ amount }}\"}}}\n")
	m := s.Mapper(testOptions)
	var out connector.Output
	first := columns(&connector.Table{Schema: "crm", Name: "orders"}, "phone", pgtype.TextOID, "amount", pgtype.NumericOID)
	second := columns(&connector.Table{Schema: "crm", Name: "orders"}, "amount", pgtype.TextOID, "x", pgtype.TextOID, "phone", pgtype.TextOID)
	third := columns(&connector.Table{Schema: "crm", Name: "orders"}, "phone", pgtype.TextOID, "amont", pgtype.NumericOID)
	for _, c := range []*connector.Change{change(connector.Insert, first, tuple("1", "2.0"), nil), change(connector.Insert, second, tuple("2.0", "", "1"), nil),
		change(connector.Insert, first, tuple("1", "3.0"), nil), change(connector.Delete, third, nil, tuple("1", "3.0"))} {
		m.Map(c, connector.Part{}, &out)
	}
	if got := show(&out); strings.Count(got, `"v":2.0`) != 1 || strings.Count(got, `"v":"2.0"`) != 1 || strings.Count(got, `"v":3.0`) != 1 {
		t.Error(got)
	}
	if len(out.Misfits) > 0 {
		t.Error(out.Misfits[0].Reason)
	}
	out.Reset()
	misfit := change(connector.Insert, third, tuple("1", "3.0"), nil)
	if m.Map(misfit, connector.Part{Not: []string{"m"}}, &out); len(out.Misfits) > 0 {
		t.Error("a mapping that is left out is a misfit")
	}
	m.Map(misfit, connector.Part{Only: "m"}, &out)
	if len(out.Misfits) != 1 || len(out.Records)+len(out.Letters) > 0 || len(out.Misfits[0].Change) == 0 ||
		!strings.Contains(out.Misfits[0].Reason, "it can't read table crm.orders as it was at this change: m.yaml:1:151: table crm.orders has no column amount: did you mean amont?") {
		t.Errorf("%+v", out.Misfits)
	}
}

// TestSameAgain: mapping a change again gives the same bytes, and another position, commit time, mapping or database another uuid.
func TestSameAgain(t *testing.T) {
	s := mustDecode(t, designMappings)
	c := change(connector.Insert, ordersTable(), ordersRow(), nil)
	first := show(mapOne(t, s, testOptions, c))
	expect(t, "again", show(mapOne(t, s, testOptions, c)), first)
	seen := map[string]bool{first: true}
	later := *c
	later.CommitTime = committed.Add(time.Microsecond)
	next := *c
	next.Position.Index++
	other := testOptions
	other.Database = "other"
	for _, got := range []string{show(mapOne(t, s, testOptions, &later)), show(mapOne(t, s, testOptions, &next)), show(mapOne(t, s, other, c))} {
		if seen[got] {
			t.Errorf("not another uuid: %s", got)
		}
		seen[got] = true
	}
	snapshot := *c
	snapshot.Op, snapshot.CommitTime = connector.Snapshot, time.Time{}
	snapshot.Row, snapshot.Backfill = "4711", 3
	all := mustDecode(t, "- {name: m, table: crm.orders, on: [snapshot], event: {eventKey: k, time: \"${{ id > 0 ? nil : 5 }}\", identities: [{identityType: p, identityValue: \"${{ phone }}\"}]}}\n")
	if got := show(mapOne(t, all, testOptions, &snapshot)); !strings.Contains(got, "time: the value is null") {
		t.Errorf("a snapshot has no commit time: %s", got)
	}
	timed := mustDecode(t, "- {name: m, table: crm.orders, on: [snapshot], event: {eventKey: k, time: 5, identities: [{identityType: p, identityValue: \"${{ phone }}\"}]}}\n")
	firstTime := show(mapOne(t, timed, testOptions, &snapshot))
	elsewhere := snapshot
	elsewhere.Position, elsewhere.Backfill = connector.Position{Commit: 99, Index: 7}, 4
	if again := show(mapOne(t, timed, testOptions, &elsewhere)); again != firstTime || !strings.Contains(firstTime, `"uuid"`) {
		t.Errorf("the same row in another backfill: %s, first %s", again, firstTime)
	}
	elsewhere.Row = "4712"
	if other := show(mapOne(t, timed, testOptions, &elsewhere)); other == firstTime {
		t.Errorf("another row: %s", other)
	}
}

// TestColumnsAndExpressions: a plain column takes another way than an expression, and must give the same.
func TestColumnsAndExpressions(t *testing.T) {
	table := wide()
	rows := []connector.Tuple{wideRow(), with(with(with(wideRow(), 7, "  "), 11, `"t"`), 12, "{}"), with(with(wideRow(), 11, "null"), 2, "-0.50"),
		with(wideRow(), 11, " true"), with(with(wideRow(), 11, "12.50"), 6, ""), with(wideRow(), 5, "f"), with(wideRow(), 10, "infinity")}
	null := make(connector.Tuple, len(table.Columns))
	for i := range null {
		null[i].Kind = connector.Null
	}
	rows = append(rows, null, make(connector.Tuple, len(table.Columns)))
	for _, c := range table.Columns {
		for _, body := range []string{
			`event: {eventKey: k, identities: [{identityType: p, identityValue: "1"}], eventargs: {v: "${{ %s }}"}}`,
			`event: {eventKey: k, identities: [{identityType: p, identityValue: "${{ %s }}"}]}`,
			`event: {eventKey: k, identities: [{identityType: p, identityValue: "1"}], time: "${{ %s }}"}`,
			`point: {remark: "a ${{ %s }}", point: 1, audienceUserId: 1}`,
			`point: {remark: r, point: "${{ %s }}", audienceUserId: 1, ext: {action: "${{ %[1]s }}"}}`,
			`groupRelation: {publicParams: {isMatching: true}, phone: "1", groups: "${{ %s }}"}`,
		} {
			name := "new[`" + c.Name + "`]"
			a, psA := decodeMappings("- {name: m, table: crm.wide, on: [insert], " + fmt.Sprintf(body, name) + "}\n")
			b, psB := decodeMappings("- {name: m, table: crm.wide, on: [insert], " + fmt.Sprintf(body, "true ? "+name+" : "+name) + "}\n")
			if psA.Err() != nil || psB.Err() != nil {
				t.Fatal(psA.Err(), psB.Err())
			}
			for i, row := range rows {
				var outA, outB connector.Output
				a.Mapper(testOptions).Map(change(connector.Insert, table, row, nil), connector.Part{}, &outA)
				b.Mapper(testOptions).Map(change(connector.Insert, table, row, nil), connector.Part{}, &outB)
				if len(outA.Misfits) != len(outB.Misfits) {
					t.Errorf("%s in %s: %v, as an expression %v", c.Name, body, outA.Misfits, outB.Misfits)
					break
				}
				x, y := show(&outA), show(&outB)
				if strings.HasPrefix(x, "letter: ") && strings.HasPrefix(y, "letter: ") || c.Name == "doc" && canonical(x) == canonical(y) {
					continue
				}
				if x != y {
					t.Errorf("%s in %s, row %d\n column     %s\n expression %s", c.Name, body, i, x, y)
				}
			}
		}
	}
}

// canonical makes texts equal that differ only in JSON's blanks and in the order of its keys: it sorts their letters.
func canonical(s string) string {
	letters := strings.Split(strings.ReplaceAll(s, " ", ""), "")
	slices.Sort(letters)
	return strings.Join(letters, "")
}

// TestChangesCounted: a table's changes are counted once, also where a mapping goes through them by itself, and a mapping's where it could read them.
func TestChangesCounted(t *testing.T) {
	o := testOptions
	o.Counters = connector.NewCounters(nil)
	m := mustDecode(t, designMappings).Mapper(o)
	orders, paid := ordersTable(), ordersRow()
	shrunk := columns(&connector.Table{OID: 9, Schema: "crm", Name: "orders", Identity: connector.IdentityFull}, "id", pgtype.Int8OID)
	var out connector.Output
	for _, c := range []struct {
		change *connector.Change
		part   connector.Part
	}{
		{change(connector.Insert, orders, paid, nil), connector.Part{Not: []string{"order-points"}}},
		{change(connector.Insert, orders, paid, nil), connector.Part{Only: "order-points"}},
		{change(connector.Insert, orders, with(paid, 4, "new"), nil), connector.Part{}},
		{change(connector.Delete, orders, nil, paid), connector.Part{}},
		{change(connector.Insert, shrunk, tuple("1"), nil), connector.Part{}},
	} {
		m.Map(c.change, c.part, &out)
	}
	if n := o.Counters.Table("crm.orders").Load(); n != 4 {
		t.Errorf("%d changes of the table", n)
	}
	for name, want := range map[string]uint64{"order-paid": 2, "order-points": 2, "member-groups": 0} {
		if n := o.Counters.Mapping(name).Changes.Load(); n != want {
			t.Errorf("%s: %d changes, want %d", name, n, want)
		}
	}
	if got := o.Counters.Tables(); len(got) != 1 || got[0] != "crm.orders" {
		t.Errorf("tables %q", got)
	}
}
