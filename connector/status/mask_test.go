package status

import (
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestMask: what is personal is hidden by its field and by its look, in payloads, changes and answers; what one needs to understand a letter stays.
func TestMask(t *testing.T) {
	for name, c := range map[string]struct{ payload, change, msg, want, wantMsg string }{
		"fields of an event": {payload: `{"eventKey":"c_buy","time":1714535998500,"identities":[{"identityType":"phone","identityValue":"13812345678"},{"identityType":"vip","identityValue":"VIP-0042"}],` +
			`"eventargs":{"c_goods":"咖啡","c_price":1420.00,"title":"下单","name":"王芳","n":12}}`,
			want: `{"eventKey":"c_buy","time":1714535998500,"identities":[{"identityType":"phone","identityValue":"138****5678"},{"identityType":"vip","identityValue":"V****2"}],` +
				`"eventargs":{"c_goods":"咖啡","c_price":1420.00,"title":"下单","name":"王*","n":12}}`,
			msg: "VIP-0042 and +8613812345678 are unknown", wantMsg: "V****2 and +86138****5678 are unknown"},
		"shapes": {payload: `{"remark":"订单 13812345678 积分, 138 1234 5678, 身份证 110101199003071234, 邮件 wang.fang@example.com","phoneList":["13812345678"],"mobile":13812345678,` +
			`"note":"oX3d0AbCdEfGhIjKlMnOpQrStUvW","order":"N-20240501000123","uuid":"0d4cde6c-70f5-5f4c-8d2e-1c2b3a4d5e6f"}`,
			want: `{"remark":"订单 138****5678 积分, 138****5678, 身份证 1101****1234, 邮件 w****@example.com","phoneList":["138****5678"],"mobile":"138****5678",` +
				`"note":"oX3d****tUvW","order":"N-20240501000123","uuid":"0d4cde6c-70f5-5f4c-8d2e-1c2b3a4d5e6f"}`},
		"JSON within": {payload: `{"point":5,"ext":"{\"strategyName\":\"order\",\"phone\":\"13812345678\"}"}`,
			want: `{"point":5,"ext":"{\"strategyName\":\"order\",\"phone\":\"138****5678\"}"}`},
		"a row": {change: `{"op":"update","schema":"crm","table":"orders","oid":16400,"columns":[{"name":"phone","type":20,"typeName":"text","key":true}],` +
			`"new":{"id":"17","phone":"13812345678","xm":"欧阳娜娜","status":"已付款","amount":"12.50","at":"2024-05-01 12:00:00+08","memo":"call 13812345678","flag":"t","x":null,"raw":{"hex":"cfc2"}},"unknown":["old.note"]}`,
			want: `{"op":"update","schema":"crm","table":"orders","oid":16400,"columns":[{"name":"phone","type":20,"typeName":"text","key":true}],` +
				`"new":{"id":"17","phone":"138****5678","xm":"欧***","status":"已付款","amount":"12.50","at":"2024-05-01 12:00:00+08","memo":"call****5678","flag":"t","x":null,"raw":{"hex":"cfc2"}},"unknown":["old.note"]}`},
		"a row's key": {change: `{"op":"snapshot","row":"31333831323334353637382c564950","columns":[],"new":{"id":"17"}}`,
			want: `{"op":"snapshot","row":"***","columns":[],"new":{"id":"17"}}`},
		"no JSON": {payload: `13812345678 {`, want: `"***"`},
	} {
		l := Letter{Payload: []byte(c.payload), Change: []byte(c.change), Answer: &connector.LetterAnswer{Msg: c.msg}}
		answer := l.Answer
		l.mask()
		got := string(l.Payload)
		if c.change != "" {
			got = string(l.Change)
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
		if l.Answer.Msg != c.wantMsg || answer.Msg != c.msg {
			t.Errorf("%s: answer %q, want %q", name, l.Answer.Msg, c.wantMsg)
		}
	}
}

// FuzzMask: masking never panics, and no mobile number gets through that stands by itself.
func FuzzMask(f *testing.F) {
	for _, seed := range []string{`{"a":"13812345678"}`, `{"phone":["x",{"y":1}]}`, `[[[]]]`, `"` + strings.Repeat("1", 40) + `"`, `{"new":{"a":"{\"b\":\"13812345678\"}"}}`} {
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, text string, change bool) {
		l := Letter{Payload: []byte(text)}
		if change {
			l = Letter{Change: []byte(text)}
		}
		l.mask()
		if strings.Contains(string(l.Payload), `"13812345678"`) {
			t.Errorf("%s", l.Payload)
		}
	})
}
