package mapping

import (
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

const (
	eventHead = "- name: m\n  table: crm.orders\n  on: [insert]\n"
	eventBody = "  event: {eventKey: k, identities: [{identityType: phone, identityValue: '${{ phone }}'}]}\n"
	pointBody = "    phoneList: [{phone: '${{ phone }}'}]\n    remark: r\n"
	groupBody = "    phone: ${{ phone }}\n    groups: ${{ status }}\n"
)

// TestProblems reads files that are wrong. Each names the place, what is wrong and what would be right.
func TestProblems(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"- 5\n", "m.yaml:1:3: want a mapping with name, table, on, and one of point, event, groupRelation; got a number"},
		{"- {}\n", "m.yaml:1:3: the mapping has no name\n    For example: name: order-paid\nm.yaml:1:3: the mapping has no table\n    For example: table: crm.orders\n" +
			"m.yaml:1:3: the mapping has no on\n    For example: on: [insert, update]\nm.yaml:1:3: a mapping makes exactly one of point, event, groupRelation; this one has none"},
		{eventHead + eventBody + "  point: {}\n", "m.yaml:1:3: a mapping makes exactly one of point, event, groupRelation; this one has point and event"},
		{eventHead + eventBody + eventHead + eventBody, "m.yaml:5:9: name: another mapping has the name m: m.yaml:1"},
		{eventHead + "  whn: 'true'\n" + eventBody, `m.yaml:4:3: unknown key "whn": did you mean "when"?`},
		{eventHead + "  maxPerMinute: 0\n  tests: []\n" + eventBody, "m.yaml:4:17: maxPerMinute: want a whole number from 1 to 2147483647, got \"0\"\nm.yaml:5:3: unknown key \"tests\"\n" +
			"    Known here: name, table, on, when, orderBy, point, event, groupRelation, uncertain, onChange, maxPerMinute."},
		{"- name: a b\n  table: a.b.c\n  on: [insert, delte, insert]\n" + eventBody, "m.yaml:1:9: name: want up to 100 letters, digits, -, _ and ., beginning with a letter or digit\n" +
			`m.yaml:2:10: table: want schema.table, with double quotes around a name that holds a dot: crm."a.b"` + "\n" +
			`m.yaml:3:16: on: want insert, update, delete or snapshot, got "delte": did you mean "delete"?` + "\nm.yaml:3:23: on: insert comes twice"},
		{"- name: m\n  table: crm.orders\n  on: []\n" + eventBody, "m.yaml:3:7: on is empty: want some of insert, update, delete, snapshot"},
		{"- name: m\n  table: crm.orders\n  on: insert\n" + eventBody, `m.yaml:3:7: on: want a list (- item), got "insert"`},
		// expressions
		{eventHead + "  when: status = 1\n" + eventBody, "m.yaml:4:16: unexpected \"=\"\n    Compare with ==."},
		{eventHead + "  when: any(tags, # == 1)\n" + eventBody, "m.yaml:4:17: the expression ends too early\n    A # behind a blank begins a comment in YAML: put the value in quotes, '...'."},
		{eventHead + "  when: ${{ paid }}\n" + eventBody, "m.yaml:4:9: when is an expression as it is: leave ${{ and }} away"},
		{eventHead + "  when: shop == ${SHOP}\n" + eventBody, "m.yaml:4:17: when: an environment variable can't stand in an expression"},
		{eventHead + "  when: 1 + 1\n  orderBy: '[id]'\n" + eventBody, "m.yaml:4:9: when: want true or false, but the expression gives a whole number\nm.yaml:5:13: orderBy: want one value, but the expression gives a list"},
		{eventHead + "  when: now() > paid_at\n" + eventBody, "m.yaml:4:9: the function now is not available: a change that is mapped again must give the same payload: use commitTime"},
		{eventHead + "  when: lenn(a) > 1\n" + eventBody, "m.yaml:4:9: there is no function lenn: did you mean len?"},
		{eventHead + "  when: new == old\n" + eventBody, "m.yaml:4:9: new is a whole row: read a column of it, as in new.id, or compare it with nil\n" +
			"m.yaml:4:16: old is a whole row: read a column of it, as in old.id, or compare it with nil"},
		{eventHead + "  when: new[a] == 1\n" + eventBody, "m.yaml:4:12: the column of new must be named by a constant\n    A column whose name is not plain: new[\"Order No\"]."},
		{eventHead + "  when: a matches '('\n" + eventBody, "m.yaml:4:11: error parsing regexp: missing closing ): `(`"},
		{eventHead + "  when: a.Local() == b\n" + eventBody, "m.yaml:4:11: Local depends on the machine that the connector runs on\n    Write .In(timezone(\"Asia/Shanghai\"))."},
		{eventHead + "  event:\n    eventKey: a ${{ 下单 + }} b\n    identities: [{identityType: p, identityValue: '1'}]\n", "m.yaml:5:25: the expression ends too early"},
		{eventHead + "  event:\n    eventKey: '${{ }}'\n    identities: [{identityType: p, identityValue: '1'}]\n", "m.yaml:5:20: the expression is empty"},
		{eventHead + "  when: |\n    a == 1 &&\n    b == \"x\" + 1\n" + eventBody, "m.yaml:6:14: invalid operation: + (mismatched types text and int)\n    string(x) makes text of a number, int(x) or float(x) a number of text."},
		// payloads
		{eventHead + "  event: {eventkey: k, identities: [{identityType: p, identityValue: '1', appid: x}]}\n", `m.yaml:4:10: event: eventKey is required: text` + "\n" +
			`m.yaml:4:11: the API has no field "eventkey" in event: did you mean "eventKey"?` + "\n" +
			"m.yaml:4:75: the API's page has struck appid out: name the app with mpid and isWeChatEcosystem"},
		{eventHead + "  event: {eventKey: k}\n", "m.yaml:4:10: event: identities is required: a list (- item)"},
		{eventHead + "  event: {eventKey: k, identities: []}\n", "m.yaml:4:36: identities is empty: give at least one item, or leave the key away"},
		{eventHead + "  event: {publicParams: 5, eventKey: k, identities: [x]}\n", "m.yaml:4:25: publicParams: want a mapping (key: value), got a number\n" +
			"m.yaml:4:54: identities: want a mapping (key: value), got text"},
		{eventHead + "  event: {eventKey: k, identities: '${{ x }}'}\n", "m.yaml:4:36: identities: want a list (- item), got an expression"},
		{eventHead + "  event: {eventKey: 5, identities: [{identityType: '', identityValue: '1', mpid: x}], uuid: fixed, eventargs: {a: 0x10, b: , c: [{d: .5}]}}\n",
			"m.yaml:4:21: eventKey: want text, got a number: put it in quotes, \"5\"\nm.yaml:4:52: identityType must not be empty\n" +
				"m.yaml:4:82: identities: isWeChatEcosystem must be given with mpid\n" +
				"m.yaml:4:93: uuid: the same uuid for all events\n    Leave the key away: each event then gets a uuid that stays the same when it is sent again.\n" +
				"m.yaml:4:115: a: 0x10 is no number that JSON knows\n    Write it in plain digits, or in quotes where it is text.\nm.yaml:4:124: b has no value\n    Leave the key away to send nothing.\n" +
				"m.yaml:4:134: d: .5 is no number that JSON knows\n    Write it in plain digits, or in quotes where it is text."},
		{eventHead + "  event: {publicParams: {isMatching: '${{ x }}', matchingType: 3}, eventKey: k, identities: [{identityType: p, identityValue: '1'}]}\n",
			"m.yaml:4:38: isMatching must be a constant: all records of a request share it\n" + `m.yaml:4:64: matchingType: want a whole number from 1 to 2, got "3"`},
		{eventHead + "  point:\n" + pointBody, "m.yaml:5:5: point: point is required: a whole number"},
		{eventHead + "  point:\n    remark: r\n    point: 1\n", "m.yaml:5:5: point names no customer: give at least one of openids, phoneList, audienceUserId"},
		{eventHead + "  point:\n" + pointBody + "    point: 1.5\n", `m.yaml:7:12: point: want a whole number, got "1.5"`},
		{eventHead + "  point:\n" + pointBody + "    point: a\n", `m.yaml:7:12: point: want a whole number, got "a"`},
		{eventHead + "  point:\n" + pointBody + "    point: '${{ \"5\" }}'\n", "m.yaml:7:17: point: want a whole number, but the expression gives text\n    int(x) reads a whole number from text."},
		{eventHead + "  point:\n" + pointBody + "    point: ${{ id }}0\n", "m.yaml:7:12: point: want a whole number, but an expression with text around it gives text\n    Write ${{ }} alone, with nothing around it."},
		{eventHead + "  point:\n" + pointBody + "    point: 1\n    ext: {strategyNam: x}\n", `m.yaml:8:11: the API has no field "strategyNam" in ext: did you mean "strategyName"?`},
		{eventHead + "  point:\n" + pointBody + "    point: 1\n    ext: text\n", "m.yaml:8:10: ext: the text holds no JSON object\n    Write it as a mapping (key: value): it is sent as the JSON string that the API wants."},
		{eventHead + "  point:\n    point: 1\n    remark: r\n    phoneList: [{phone: 13800000001, isVerify: '2'}, {isVerify: '1'}]\n", "m.yaml:7:25: phone: want text, got a number: put it in quotes, \"13800000001\"\n" +
			`m.yaml:7:48: isVerify: want 0 or 1, got the text "2": did you mean "0"?` + "\nm.yaml:7:54: phoneList: phone is required: text"},
		{eventHead + "  point:\n    point: 1\n    remark: r\n    openids: [{fromTo: gzhh}]\n", "m.yaml:7:15: openids names no customer: give at least one of openid, unionid, identityId\n" +
			`m.yaml:7:24: fromTo: want contentminiapp, workwechat, gzh or workwechatgroup, got "gzhh": did you mean "gzh"?`},
		{eventHead + "  groupRelation:\n" + groupBody, "m.yaml:5:5: groupRelation: publicParams is required\n    For example: publicParams: {isMatching: true, matchingType: 1}"},
		{eventHead + "  groupRelation:\n    publicParams: {matchingType: 2, optType: add}\n" + groupBody, "m.yaml:5:19: publicParams: isMatching is required: true or false\n" +
			"m.yaml:5:34: publicParams: identifyWay is required when matchingType is 2 (fuzzy)\n    1: unionid, openid, phone, customer id in this order; 2: customer id, phone, openid, unionid.\n" +
			"m.yaml:5:37: optType stands beside publicParams, not inside: one value, a mapping {insert: add, ...} or an expression"},
		{eventHead + "  groupRelation:\n    publicParams: {isMatching: true, matchingType: 1}\n" + groupBody, "m.yaml:5:5: groupRelation: identityType is required when matchingType is 1 (exact)\n" +
			"    It names the field to match by: phone, thirdId, openid or unionid."},
		{eventHead + "  groupRelation:\n    publicParams: {isMatching: true, matchingType: 1}\n    identityType: openid\n    optType: ad\n" + groupBody,
			"m.yaml:6:19: identityType says openid, but the field openid is not given\n" + `m.yaml:7:14: optType: want add, update or delete, got "ad": did you mean "add"?`},
		{eventHead + "  groupRelation:\n    publicParams: {isMatching: true}\n    groups: a\n", "m.yaml:5:5: groupRelation names no customer: give at least one of thirdId, openid, unionid, phone"},
		{eventHead + "  uncertain: resend\n  onChange: replace\n" + eventBody, "m.yaml:4:14: uncertain is for points only\nm.yaml:5:13: onChange is for group relations only"},
		{eventHead + "  onChange: replace\n  groupRelation:\n    publicParams: {isMatching: true}\n" + groupBody, "m.yaml:4:13: onChange says what an update does, but on has no update"},
		{strings.Replace(eventHead, "insert", "update", 1) + "  onChange: replace\n  groupRelation:\n    optType: add\n    publicParams: {isMatching: true}\n" + groupBody,
			"m.yaml:4:13: onChange: replace goes with the default optType of an update only: take optType out"},
		{eventHead + "  event: {eventKey: '${KEY}', identities: [{identityType: p, identityValue: '1'}]}\n", "m.yaml:4:22: eventKey: the environment variable KEY is not set\n    Set it, or give a default: ${KEY:-default}."},
	} {
		_, ps := decodeMappings(c.yaml)
		got := ""
		if err := ps.Err(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.yaml, got, c.want)
		}
	}
}

// TestEnvironment: variables are read in every constant, and never as an expression.
func TestEnvironment(t *testing.T) {
	s, ps := decodeMappings(`
- name: ${NAME}
  table: ${SCHEMA:-crm}.orders
  on: ["${OP}"]
  point: {point: "${POINTS}", remark: "${REMARK} ${{ order_no }}", phoneList: [{phone: "${{ phone }}", isVerify: "${VERIFY:-1}"}], eventType: "${REMARK}"}
`, "NAME", "m", "OP", "insert", "POINTS", "5", "REMARK", "${{ status }}")
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	expect(t, "payload", show(mapOne(t, s, testOptions, change(connector.Insert, ordersTable(), ordersRow(), nil))),
		`{"point":5,"remark":"${{ status }} N-1","phoneList":[{"phone":"13800000001","isVerify":"1"}],"eventType":"${{ status }}"}`)
}

func TestSplitTable(t *testing.T) {
	for text, want := range map[string]string{
		"orders": "public|orders", "crm.orders": "crm|orders", `crm."a.b"`: "crm|a.b", `"C""x".T`: `C"x|T`, `"orders"`: "public|orders", "crm.订单": "crm|订单", "Crm.Orders": "Crm|Orders",
		"": "", ".": "", "a.": "", ".a": "", "a.b.c": "", `"a`: "", `""`: "", `a"b`: "", `"a"b`: "", "a b": "", `crm."a.b".c`: "",
	} {
		schema, table, ok := splitTable(text)
		if got := schema + "|" + table; ok != (want != "") || ok && got != want {
			t.Errorf("%q: %v %s", text, ok, got)
		}
	}
}

// TestSeveralFiles: a set grows by each file, and names are unique over all of them.
func TestSeveralFiles(t *testing.T) {
	s := mustDecode(t, eventHead+eventBody)
	two, ps := decodeMappings(strings.ReplaceAll(eventHead, "name: m", "name: n") + eventBody)
	if ps.Err() != nil || two.Len() != 1 {
		t.Fatal(ps.Err())
	}
	_, ps = decodeInto(s, strings.ReplaceAll(eventHead, "name: m", "name: n")+eventBody+eventHead+eventBody)
	if ps.Err() == nil || ps.Err().Error() != "m.yaml:5:9: name: another mapping has the name m: m.yaml:1" {
		t.Error(ps.Err())
	}
	if got := strings.Join(s.Names(), " "); got != "m n" || !s.Has(connector.Event) || s.Has(connector.Point) {
		t.Error(got)
	}
}
