package platformsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// with puts members in front of those of a JSON object.
func with(object, members string) string { return "{" + members + "," + object[1:] }

// without takes one member out of a JSON object.
func without(t *testing.T, object, key string) string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &m); err != nil || m[key] == nil {
		t.Fatalf("%s has no %s: %v", object, key, err)
	}
	delete(m, key)
	b, _ := json.Marshal(m)
	return string(b)
}

const (
	identity  = `{"identityValue":"13800000001","identityType":"phone"}`
	bareEvent = `{"identities":[` + identity + `],"eventKey":"c_buy"}`
)

func events(list ...string) string {
	return `{"publicParams":{"isMatching":true,"matchingType":1},"data":[` + strings.Join(list, ",") + `]}`
}

func identities(list ...string) string {
	return events(`{"identities":[` + strings.Join(list, ",") + `],"eventKey":"c_buy"}`)
}

func groups(params string, items ...string) string {
	return `{"publicParams":` + params + `,"data":[` + strings.Join(items, ",") + `]}`
}

func repeat(item string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = item
	}
	return list
}

const addParams = `{"isMatching":true,"optType":"add"}`

func TestTaken(t *testing.T) {
	for _, c := range []struct {
		name string
		e    Endpoint
		body string
		want int
	}{
		{"point by phone", Point, goodPoint, 1},
		{"point without isVerify", Point, `{"phoneList":[{"phone":"1"}],"point":0,"remark":"r"}`, 1},
		{"point by long id", Point, `{"audienceUserId":860484273911119872,"point":2147483647,"remark":"r"}`, 1},
		{"point with everything", Point, `{"openids":[{"openid":"o","unionid":"u","fromTo":"gzh","appid":"a","jcappid":9223372036854775807,
			"identityId":"i","identityType":"openid"}],"phoneList":[{"phone":"1","isVerify":"0"}],"audienceUserId":1,"point":5,
			"remark":"订单","eventType":"","avatar":"a","nickName":"n","contentId":"c","contentName":"n","appInstanceId":7,"orgId":"o",
			"ext":"{\"componentId\":\"1\",\"strategyId\":2,\"strategyName\":\"s\",\"actionVo\":{},\"action\":\"x\"}"}`, 1},
		{"point with spaces around", Point, " \n" + goodPoint + "\t\r\n", 1},
		{"decrease", PointDecrease, goodPoint, 1},
		{"open point", PointOpen, with(goodOpen, `"audienceUserId":5,"eventType":"e","relateBizCode":"b"`), 1},
		{"event", Event, goodEvent, 1},
		{"event with everything", Event, events(`{"identities":[{"identityValue":"o","identityType":"openid","platform":"gzh","mpid":"m",
			"isWeChatEcosystem":false},` + identity + `],"time":1700000000000,"uuid":"0190c6c9-0000-7000-8000-000000000000","eventKey":"c_buy","intid":"i",
			"eventargs":{"c_price":1420.00,"title":"下单","n":-1e3}}`), 1},
		{"uuid of 36 characters of several bytes", Event, events(with(bareEvent, `"uuid":"`+strings.Repeat("订", 36)+`"`)), 1},
		{"500 events", Event, events(repeat(bareEvent, 500)...), 500},
		{"group", GroupRelation, goodGroup, 1},
		{"group, exact", GroupRelation, groups(`{"isMatching":false,"matchingType":1,"accurateMatchType":"YOUZAN","accurateMatchValue":"v","optType":"delete"}`,
			`{"identityType":"openid","openid":"o","groups":"a,b"}`), 1},
		{"group, fuzzy", GroupRelation, groups(`{"isMatching":true,"matchingType":2,"identifyWay":1,"optType":"update"}`,
			`{"phone":"1","thirdId":"2","openid":"3","unionid":"4"}`, `{"phone":"5","groups":""}`), 2},
		{"500 group items", GroupRelation, groups(addParams, repeat(`{"phone":"1"}`, 500)...), 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, noLedger := range []bool{false, true} {
				s := New(Options{NoLedger: noLedger})
				mustApply(t, s, c.e, c.body)
				if n := s.Count(c.e); n != c.want || s.Count("") != c.want {
					t.Errorf("%d applied, want %d", n, c.want)
				}
				if got := len(s.Ledger()); noLedger && got != 0 || !noLedger && got != c.want {
					t.Errorf("%d records in the ledger", got)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	type row struct {
		name string
		e    Endpoint
		body string
		msg  string // stands in the answer's msg
	}
	rows := []row{
		// JSON
		{"empty body", Event, ``, "body is empty"},
		{"no JSON", Event, `hello`, "no JSON"},
		{"cut short", Event, goodEvent[:len(goodEvent)-1], "no JSON"},
		{"trailing bytes", Event, goodEvent + `x`, "more bytes"},
		{"two values", Event, goodEvent + goodEvent, "more bytes"},
		{"array", Event, `[]`, "must be an object, is an array"},
		{"null", Point, `null`, "must be an object, is null"},
		{"duplicate key", Point, with(goodPoint, `"point":5`), `"point" stands twice`},
		{"duplicate key, escaped", Point, with(goodPoint, `"p\u006fint":5`), `"point" stands twice`},
		{"duplicate key in eventargs", Event, events(with(bareEvent, `"eventargs":{"a":1,"a":2}`)), `"a" stands twice`},
		{"no UTF-8", Point, strings.Replace(goodPoint, `"r"`, "\"\xff\"", 1), "no UTF-8"},
		{"lone surrogate", Point, strings.Replace(goodPoint, `"r"`, `"\ud800"`, 1), "wrong escape"},
		{"byte order mark", Point, "\ufeff" + goodPoint, "no JSON"},
		{"leading zero", Point, strings.Replace(goodPoint, `:5`, `:05`, 1), "no JSON"},
		{"trailing comma", Point, strings.Replace(goodPoint, `"r"}`, `"r",}`, 1), "no JSON"},
		{"control character", Point, strings.Replace(goodPoint, `"r"`, "\"\n\"", 1), "control character"},

		// point
		{"point missing", Point, without(t, goodPoint, "point"), "point: is required"},
		{"remark missing", Point, without(t, goodPoint, "remark"), "remark: is required"},
		{"remark empty", Point, strings.Replace(goodPoint, `"r"`, `""`, 1), "remark: must not be empty"},
		{"point unknown field", Point, with(goodPoint, `"points":5`), "points: the field is unknown"},
		{"point as float", Point, strings.Replace(goodPoint, `:5`, `:5.0`, 1), "point: must be an int"},
		{"point with exponent", Point, strings.Replace(goodPoint, `:5`, `:5e0`, 1), "point: must be an int"},
		{"point as string", Point, strings.Replace(goodPoint, `:5`, `:"5"`, 1), `point: must be an int (an integer of 32 bits), is the string "5"`},
		{"point over 32 bits", Point, strings.Replace(goodPoint, `:5`, `:2147483648`, 1), "point: must be an int"},
		{"point negative", Point, strings.Replace(goodPoint, `:5`, `:-5`, 1), "point: must not be negative"},
		{"decrease negative", PointDecrease, strings.Replace(goodPoint, `:5`, `:-5`, 1), "point: must not be negative"},
		{"point null", Point, strings.Replace(goodPoint, `:5`, `:null`, 1), "point: must be an int (an integer of 32 bits), is null"},
		{"null field", Point, with(goodPoint, `"avatar":null`), "avatar: must be a string, is null"},
		{"number for string", Point, with(goodPoint, `"contentId":5`), "contentId: must be a string, is 5"},
		{"boolean for string", Point, with(goodPoint, `"nickName":true`), "nickName: must be a string, is true"},
		{"audienceUserId as float", Point, with(goodPoint, `"audienceUserId":8.60484273911119872e17`), "audienceUserId: must be a long"},
		{"audienceUserId as string", Point, with(goodPoint, `"audienceUserId":"1"`), "audienceUserId: must be a long"},
		{"audienceUserId over 64 bits", Point, with(goodPoint, `"audienceUserId":9223372036854775808`), "audienceUserId: must be a long"},
		{"audienceUserId zero", Point, with(goodPoint, `"audienceUserId":0`), "audienceUserId: must be above zero"},
		{"appInstanceId as string", Point, with(goodPoint, `"appInstanceId":"7"`), "appInstanceId: must be an int"},
		{"orgId as number", Point, with(goodPoint, `"orgId":7`), "orgId: must be a string"},
		{"isVerify number", Point, strings.Replace(goodPoint, `"1"}`, `1}`, 1), "phoneList[0].isVerify: must be a string, is 1"},
		{"isVerify 2", Point, strings.Replace(goodPoint, `"1"}`, `"2"}`, 1), "phoneList[0].isVerify: must be one of 0, 1"},
		{"isVerify true", Point, strings.Replace(goodPoint, `"1"}`, `true}`, 1), "phoneList[0].isVerify: must be a string"},
		{"phone number", Point, `{"phoneList":[{"phone":138}],"point":5,"remark":"r"}`, "phoneList[0].phone: must be a string, is 138"},
		{"phone empty", Point, `{"phoneList":[{"phone":""}],"point":5,"remark":"r"}`, "phoneList[0].phone: must not be empty"},
		{"phone missing", Point, `{"phoneList":[{"isVerify":"1"}],"point":5,"remark":"r"}`, "phoneList[0].phone: is required"},
		{"phoneList of strings", Point, `{"phoneList":["138"],"point":5,"remark":"r"}`, "phoneList[0]: must be an object"},
		{"phoneList as object", Point, `{"phoneList":{"phone":"138"},"point":5,"remark":"r"}`, "phoneList: must be an array"},
		{"second phone wrong", Point, `{"phoneList":[{"phone":"1"},{"phone":2}],"point":5,"remark":"r"}`, "phoneList[1].phone"},
		{"nobody", Point, `{"point":5,"remark":"r"}`, "names a customer"},
		{"nobody in lists", Point, `{"phoneList":[],"openids":[{"fromTo":"gzh","openid":""}],"point":5,"remark":"r"}`, "names a customer"},
		{"fromTo unknown", Point, with(goodPoint, `"openids":[{"openid":"o","fromTo":"GZH"}]`), "openids[0].fromTo: must be one of"},
		{"jcappid as string", Point, with(goodPoint, `"openids":[{"openid":"o","jcappid":"1"}]`), "openids[0].jcappid: must be a long"},
		{"identityType unknown", Point, with(goodPoint, `"openids":[{"openid":"o","identityType":"thirdId"}]`), "openids[0].identityType: must be one of"},
		{"openids unknown field", Point, with(goodPoint, `"openids":[{"openId":"o"}]`), "openids[0].openId: the field is unknown"},
		{"ext as object", Point, with(goodPoint, `"ext":{"action":"x"}`), "ext: must be a string that holds a JSON object"},
		{"ext no JSON", Point, with(goodPoint, `"ext":"action"`), "ext: must hold a JSON object"},
		{"ext holds an array", Point, with(goodPoint, `"ext":"[]"`), "ext: must hold a JSON object"},
		{"ext unknown key", Point, with(goodPoint, `"ext":"{\"x\":1}"`), "ext.x: the field is unknown"},
		{"ext null value", Point, with(goodPoint, `"ext":"{\"action\":null}"`), "ext.action: must not be null"},
		{"point in an array", Point, `[` + goodPoint + `]`, "must be an object"},
		{"encrypted without need", Point, `{"encryptStr":"x"}`, "encryptStr: the field is unknown"},

		// open point
		{"nonce short", PointOpen, strings.Replace(goodOpen, `abc123`, `abc12`, 1), "nonce: must have 6 characters, has 5"},
		{"nonce missing", PointOpen, without(t, goodOpen, "nonce"), "nonce: is required"},
		{"timestamp in seconds", PointOpen, strings.Replace(goodOpen, `1700000000000`, `1700000000`, 1), "timestamp: must be unix milliseconds"},
		{"open point missing", PointOpen, without(t, goodOpen, "point"), "point: is required"},
		{"open nobody", PointOpen, without(t, goodOpen, "thirdId"), "names a customer"},
		{"open point negative", PointOpen, strings.Replace(goodOpen, `:5`, `:-5`, 1), "point: must not be negative"},
		{"open biz code number", PointOpen, with(goodOpen, `"relateBizCode":1`), "relateBizCode: must be a string"},

		// event
		{"publicParams missing", Event, without(t, goodEvent, "publicParams"), "publicParams: is required"},
		{"publicParams null", Event, strings.Replace(goodEvent, `{}`, `null`, 1), "publicParams: must be an object, is null"},
		{"publicParams unknown field", Event, strings.Replace(goodEvent, `{}`, `{"optType":"add"}`, 1), "publicParams.optType: the field is unknown"},
		{"event isMatching as string", Event, strings.Replace(goodEvent, `{}`, `{"isMatching":"true"}`, 1), "publicParams.isMatching: must be true or false"},
		{"matchingType 3", Event, strings.Replace(goodEvent, `{}`, `{"matchingType":3}`, 1), "publicParams.matchingType: must be one of 1, 2, is 3"},
		{"matchingType as string", Event, strings.Replace(goodEvent, `{}`, `{"matchingType":"1"}`, 1), "publicParams.matchingType: must be an int"},
		{"data missing", Event, without(t, goodEvent, "data"), "data: is required"},
		{"data as object", Event, `{"publicParams":{},"data":` + bareEvent + `}`, "data: must be an array"},
		{"data empty", Event, events(), "data: must not be empty"},
		{"501 events", Event, events(repeat(bareEvent, 501)...), "data: has 501 items, at most 500"},
		{"batch unknown field", Event, with(goodEvent, `"size":1`), "size: the field is unknown"},
		{"event no object", Event, events(`"x"`), "data[0]: must be an object"},
		{"third event wrong", Event, events(bareEvent, bareEvent, `{}`), "data[2].identities: is required"},
		{"identities missing", Event, events(without(t, bareEvent, "identities")), "data[0].identities: is required"},
		{"identities empty", Event, identities(), "data[0].identities: must not be empty"},
		{"identityValue missing", Event, identities(`{"identityType":"phone"}`), "data[0].identities[0].identityValue: is required"},
		{"identityValue empty", Event, identities(`{"identityType":"phone","identityValue":""}`), "identityValue: must not be empty"},
		{"identityValue number", Event, identities(`{"identityType":"phone","identityValue":138}`), "identityValue: must be a string, is 138"},
		{"identityType missing", Event, identities(`{"identityValue":"1"}`), "identityType: is required"},
		{"identityType empty", Event, identities(`{"identityValue":"1","identityType":""}`), "identityType: must not be empty"},
		{"second identity wrong", Event, identities(identity, `{"identityValue":"1"}`), "data[0].identities[1].identityType"},
		{"appid in identity", Event, identities(with(identity, `"appid":"wx1"`)), "identities[0].appid: is struck out"},
		{"mpid alone", Event, identities(with(identity, `"mpid":"m"`)), "identities[0].isWeChatEcosystem: is required when mpid is given"},
		{"isWeChatEcosystem as string", Event, identities(with(identity, `"mpid":"m","isWeChatEcosystem":"true"`)), "isWeChatEcosystem: must be true or false"},
		{"identity unknown field", Event, identities(with(identity, `"unionid":"u"`)), "unionid: the field is unknown"},
		{"eventKey missing", Event, events(without(t, bareEvent, "eventKey")), "data[0].eventKey: is required"},
		{"eventKey empty", Event, events(strings.Replace(bareEvent, "c_buy", "", 1)), "eventKey: must not be empty"},
		{"eventKey unknown", Event, events(strings.Replace(bareEvent, "c_buy", "c_bye", 1)), `eventKey: the event "c_bye" is not defined`},
		{"uuid of 37", Event, events(with(bareEvent, `"uuid":"`+strings.Repeat("x", 37)+`"`)), "uuid: has 37 characters"},
		{"uuid empty", Event, events(with(bareEvent, `"uuid":""`)), "uuid: must not be empty"},
		{"uuid number", Event, events(with(bareEvent, `"uuid":1`)), "uuid: must be a string"},
		{"time as string", Event, events(with(bareEvent, `"time":"1700000000000"`)), "time: must be a long"},
		{"time as float", Event, events(with(bareEvent, `"time":1700000000000.0`)), "time: must be a long"},
		{"time in seconds", Event, events(with(bareEvent, `"time":1700000000`)), "time: must be unix milliseconds"},
		{"time in microseconds", Event, events(with(bareEvent, `"time":1700000000000000`)), "time: must be unix milliseconds"},
		{"time zero", Event, events(with(bareEvent, `"time":0`)), "time: must be unix milliseconds"},
		{"intid number", Event, events(with(bareEvent, `"intid":1`)), "intid: must be a string"},
		{"eventargs array", Event, events(with(bareEvent, `"eventargs":[]`)), "eventargs: must be an object"},
		{"eventargs null", Event, events(with(bareEvent, `"eventargs":{"a":null}`)), "eventargs.a: must be a string or a number, is null"},
		{"eventargs boolean", Event, events(with(bareEvent, `"eventargs":{"a":true}`)), "eventargs.a: must be a string or a number, is true"},
		{"eventargs object", Event, events(with(bareEvent, `"eventargs":{"a":{}}`)), "eventargs.a: must be a string or a number, is an object"},
		{"eventargs array value", Event, events(with(bareEvent, `"eventargs":{"a":[1]}`)), "eventargs.a: must be a string or a number, is an array"},
		{"eventargs empty key", Event, events(with(bareEvent, `"eventargs":{"":1}`)), "eventargs: a key must not be empty"},
		{"event unknown field", Event, events(with(bareEvent, `"eventkey":"c_buy"`)), "eventkey: the field is unknown"},

		// group relation
		{"group publicParams missing", GroupRelation, without(t, goodGroup, "publicParams"), "publicParams: is required"},
		{"isMatching missing", GroupRelation, groups(`{"optType":"add"}`, `{"phone":"1"}`), "publicParams.isMatching: is required"},
		{"isMatching as number", GroupRelation, groups(`{"isMatching":1,"optType":"add"}`, `{"phone":"1"}`), "publicParams.isMatching: must be true or false"},
		{"optType missing", GroupRelation, groups(`{"isMatching":true}`, `{"phone":"1"}`), "publicParams.optType: is required"},
		{"optType empty", GroupRelation, groups(`{"isMatching":true,"optType":""}`, `{"phone":"1"}`), "publicParams.optType: must not be empty"},
		{"optType wrong", GroupRelation, groups(`{"isMatching":true,"optType":"insert"}`, `{"phone":"1"}`), "publicParams.optType: must be one of add, update, delete"},
		{"group matchingType 0", GroupRelation, groups(`{"isMatching":true,"optType":"add","matchingType":0}`, `{"phone":"1"}`), "publicParams.matchingType: must be one of"},
		{"identifyWay missing", GroupRelation, groups(`{"isMatching":true,"optType":"add","matchingType":2}`, `{"phone":"1"}`), "publicParams.identifyWay: is required when matchingType is 2"},
		{"identifyWay 3", GroupRelation, groups(`{"isMatching":true,"optType":"add","matchingType":2,"identifyWay":3}`, `{"phone":"1"}`), "publicParams.identifyWay: must be one of"},
		{"identifyWay as string", GroupRelation, groups(`{"isMatching":true,"optType":"add","identifyWay":"1"}`, `{"phone":"1"}`), "publicParams.identifyWay: must be an int"},
		{"accurateMatchType wrong", GroupRelation, groups(`{"isMatching":true,"optType":"add","accurateMatchType":"youzan"}`, `{"phone":"1"}`), "publicParams.accurateMatchType: must be one of"},
		{"identityType missing when exact", GroupRelation, groups(`{"isMatching":true,"optType":"add","matchingType":1}`, `{"phone":"1"}`), "data[0].identityType: is required when matchingType is 1"},
		{"identity of the type missing", GroupRelation, groups(`{"isMatching":true,"optType":"add","matchingType":1}`, `{"phone":"1","identityType":"openid"}`), "data[0].openid: is required when identityType is openid"},
		{"item identityType wrong", GroupRelation, groups(addParams, `{"phone":"1","identityType":"id"}`), "data[0].identityType: must be one of"},
		{"item without identity", GroupRelation, groups(addParams, `{"phone":"1"}`, `{"groups":"a"}`), "data[1]: none of thirdId, openid, unionid and phone"},
		{"item with empty identity", GroupRelation, groups(addParams, `{"phone":"","groups":"a"}`), "data[0]: none of"},
		{"thirdId number", GroupRelation, groups(addParams, `{"thirdId":1}`), "data[0].thirdId: must be a string"},
		{"groups array", GroupRelation, groups(addParams, `{"phone":"1","groups":["a"]}`), "data[0].groups: must be a string, is an array"},
		{"groups with empty name", GroupRelation, groups(addParams, `{"phone":"1","groups":"a,,b"}`), "data[0].groups: has an empty group name"},
		{"groups with comma at the end", GroupRelation, groups(addParams, `{"phone":"1","groups":"a,"}`), "data[0].groups: has an empty group name"},
		{"optType in an item", GroupRelation, groups(addParams, `{"phone":"1","optType":"add"}`), "data[0].optType: the field is unknown"},
		{"501 items", GroupRelation, groups(addParams, repeat(`{"phone":"1"}`, 501)...), "data: has 501 items"},
		{"no items", GroupRelation, groups(addParams), "data: must not be empty"},
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			s := New(Options{EventKeys: []string{"c_buy"}})
			r := send(t, s, c.e, c.body)
			if r.status != 200 || r.Code != "400" || r.ErrorCode != "PARAM_ERROR" || !strings.Contains(r.Msg, c.msg) {
				t.Errorf("answer %d %s\nwant code 400 and %q", r.status, r.body, c.msg)
			}
			if s.Count("") != 0 || len(s.Ledger()) != 0 {
				t.Error("something was applied")
			}
			if got := s.Requests()[0]; got.Refusal != r.Msg || s.Stats().Refused != 1 || got.Applied != 0 {
				t.Errorf("recorded as %+v", got)
			}
		})
	}
}

func TestRefusedForHowItCame(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*http.Request)
		msg    string
	}{
		"method":                {func(r *http.Request) { r.Method = "PUT" }, "method must be POST"},
		"no content type":       {func(r *http.Request) { r.Header.Del("Content-Type") }, "Content-Type must be application/json"},
		"form":                  {func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, "Content-Type must be"},
		"other charset":         {func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=gbk") }, "Content-Type must be"},
		"content type twice":    {func(r *http.Request) { r.Header.Add("Content-Type", "application/json") }, "Content-Type must be"},
		"compressed":            {func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, "Content-Encoding"},
		"content type with end": {func(r *http.Request) { r.Header.Set("Content-Type", "application/json; boundary=x") }, "Content-Type must be"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Options{})
			r := request(s, Event, goodEvent)
			c.change(r)
			if got := do(t, s, r); got.Code != "400" || !strings.Contains(got.Msg, c.msg) || s.Count("") != 0 {
				t.Errorf("answer %s, %d applied", got.body, s.Count(""))
			}
		})
	}
	s := New(Options{})
	r := request(s, Event, goodEvent)
	r.Header.Set("Content-Type", "application/json; charset=UTF-8")
	if got := do(t, s, r); got.Code != "200" {
		t.Errorf("charset=UTF-8 was refused: %s", got.body)
	}
	r = request(s, Event, goodEvent)
	r.URL.Path = "/api/integrate/event/batchAdd"
	if got := do(t, s, r); got.status != 404 || s.Stats().Endpoints[Elsewhere].Refused != 1 {
		t.Errorf("an unknown path: %d", got.status)
	}
}

func TestBodyTooLarge(t *testing.T) {
	s := New(Options{MaxBody: len(goodEvent) - 1})
	if got := send(t, s, Event, goodEvent); got.status != 413 {
		t.Errorf("status %d", got.status)
	}
	r := request(s, Event, goodEvent)
	r.ContentLength = -1 // chunked
	if got := do(t, s, r); got.status != 413 || s.Count("") != 0 {
		t.Errorf("chunked: status %d", got.status)
	}
	s = New(Options{MaxBody: len(goodEvent)})
	r = request(s, Event, goodEvent)
	r.ContentLength = -1
	if got := do(t, s, r); got.Code != "200" || s.Count("") != 1 {
		t.Errorf("a body of just the right size: %d %s", got.status, got.body)
	}
}

func TestNumericCodes(t *testing.T) {
	s := New(Options{NumericCodes: true})
	if r := send(t, s, Event, goodEvent); r.Code != float64(200) {
		t.Errorf("code %v", r.Code)
	}
	if r := send(t, s, Event, "{}"); r.Code != float64(400) {
		t.Errorf("code %v", r.Code)
	}
}

func TestEncryption(t *testing.T) {
	s := New(Options{Decrypt: func(b []byte) ([]byte, error) {
		if !strings.HasPrefix(string(b), "secret:") {
			return nil, errors.New("wrong key")
		}
		return b[len("secret:"):], nil
	}})
	seal := func(plain string) string {
		b, _ := json.Marshal(map[string]string{"encryptStr": "secret:" + plain})
		return string(b)
	}
	for body, msg := range map[string]string{
		goodPoint:                             "carries only encryptStr",
		with(seal(goodPoint), `"point":5`):    "carries only encryptStr",
		`{"encryptStr":"x"}`:                  "encryptStr: can't be decrypted: wrong key",
		`{"encryptStr":5}`:                    "encryptStr: must be a string",
		`{}`:                                  "encryptStr: is required",
		seal(without(t, goodPoint, "remark")): "remark: is required",
	} {
		if r := send(t, s, Point, body); r.Code != "400" || !strings.Contains(r.Msg, msg) {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	mustApply(t, s, Point, seal(goodPoint))
	mustApply(t, s, PointDecrease, seal(goodPoint))
	mustApply(t, s, Event, goodEvent) // points only
	if l := s.Ledger(); len(l) != 3 || string(l[0].Record) != goodPoint {
		t.Errorf("ledger %+v", l)
	}
	id := inject(t, s, Fault{Match: "13800000001", Action: AnswerDataFalse})
	if r := send(t, s, Point, seal(goodPoint)); string(r.Data) != "false" || s.Hits(id) != 1 {
		t.Errorf("a fault did not see the plain body: %s", r.body)
	}
}

func TestAnswers(t *testing.T) {
	s := New(Options{})
	for e, want := range map[Endpoint]string{
		Point:         `{"code":"200","errorCode":"SUCCESS","msg":"ok","data":true}`,
		PointDecrease: `{"code":"200","errorCode":"SUCCESS","msg":"ok","data":true}`,
		Event:         `{"code":"200","errorCode":"0","msg":"success","data":null}`,
		GroupRelation: `{"code":"200","errorCode":"0","msg":"success","data":{"status":1,"message":"success","importSuccessNum":1,"importFailNum":0,"errorData":null}}`,
	} {
		body := map[Endpoint]string{Event: goodEvent, GroupRelation: goodGroup}[e]
		if body == "" {
			body = goodPoint
		}
		if r := send(t, s, e, body); r.body != want {
			t.Errorf("%s answers %s, want %s", e, r.body, want)
		}
	}
}

// TestTablesAreWhole: each table has a name for every index that its constants leave room for.
func TestTablesAreWhole(t *testing.T) {
	for _, c := range []struct {
		table table
		n     int
	}{
		{pointTable, ptFields}, {pointOpenidTable, poFields}, {pointPhoneTable, ppFields}, {openPointTable, opFields}, {batchTable, btFields},
		{eventParamsTable, eventParamsFields}, {eventTable, evFields}, {eventIdentityTable, eiFields}, {groupParamsTable, gpFields}, {groupItemTable, giFields},
	} {
		if len(c.table) != c.n {
			t.Errorf("%v has %d fields, want %d", c.table, len(c.table), c.n)
		}
		seen := map[string]bool{"": true}
		for _, f := range c.table {
			if seen[f.name] {
				t.Errorf("%q is missing a name or stands twice in %v", f.name, c.table)
			}
			seen[f.name] = true
		}
	}
	for i, name := range []string{"isMatching", "matchingType"} { // batch reads both kinds of publicParams by the same constants
		if eventParamsTable[i].name != name || groupParamsTable[i].name != name {
			t.Errorf("publicParams differ at %d", i)
		}
	}
}

func TestRecordsAsRead(t *testing.T) {
	s := New(Options{})
	mustApply(t, s, Point, `{"openids":[{"openid":"o","unionid":"u"}],"phoneList":[{"phone":"1"}],"audienceUserId":860484273911119872,"point":7,"remark":"\u8ba2单"}`)
	mustApply(t, s, PointOpen, with(goodOpen, `"relateBizCode":"b1"`))
	event := `{"identities":[{"identityValue":"a\/b","identityType":"id"},` + identity + `],"time":1700000000123,"uuid":"u-1","eventKey":"c_buy","eventargs":{"c_price": 1420.00}}`
	mustApply(t, s, Event, events(event, bareEvent))
	mustApply(t, s, GroupRelation, goodGroup)

	l := s.Ledger()
	if len(l) != 5 {
		t.Fatalf("%d records", len(l))
	}
	for i := range l {
		if l[i].Seq != uint64(i+1) || l[i].Received.IsZero() || l[i].Request == 0 {
			t.Errorf("record %d: seq %d, request %d, received %v", i, l[i].Seq, l[i].Request, l[i].Received)
		}
		l[i].Received = l[0].Received
	}
	at := l[0].Received
	params := json.RawMessage(`{"isMatching":true,"matchingType":1}`)
	want := []Applied{
		{Seq: 1, Request: 1, Received: at, Endpoint: Point, Record: l[0].Record, Customer: "860484273911119872",
			Identities: []string{"860484273911119872", "1", "o", "u"}, Point: 7, Remark: "订单"},
		{Seq: 2, Request: 2, Received: at, Endpoint: PointOpen, Record: l[1].Record, Customer: "u1", Identities: []string{"u1"}, Point: 5, Remark: "r", BizCode: "b1"},
		{Seq: 3, Request: 3, Received: at, Endpoint: Event, Record: json.RawMessage(event), PublicParams: params, Customer: "a/b",
			Identities: []string{"a/b", "13800000001"}, EventKey: "c_buy", UUID: "u-1", Time: 1700000000123, EventArgs: json.RawMessage(`{"c_price": 1420.00}`)},
		{Seq: 4, Request: 3, Received: at, Endpoint: Event, Record: json.RawMessage(bareEvent), PublicParams: params, Customer: "13800000001",
			Identities: []string{"13800000001"}, EventKey: "c_buy"},
		{Seq: 5, Request: 4, Received: at, Endpoint: GroupRelation, Record: json.RawMessage(`{"phone":"13800000001","groups":"a"}`),
			PublicParams: json.RawMessage(addParams), Customer: "13800000001", Identities: []string{"13800000001"}, OptType: "add", Groups: []string{"a"}},
	}
	want[4].PublicParams = json.RawMessage(`{"isMatching":true,"optType":"add"}`)
	for i := range want {
		if !reflect.DeepEqual(l[i], want[i]) {
			t.Errorf("record %d:\n%+v\nwant\n%+v", i, l[i], want[i])
		}
	}
}

func TestGroupCustomer(t *testing.T) {
	const all = `"thirdId":"t","openid":"o","unionid":"u","phone":"p"`
	for _, c := range []struct{ params, item, want string }{
		{`"matchingType":1`, `"identityType":"openid",` + all, "o,t,p,u"},
		{`"matchingType":1`, `"identityType":"unionid",` + all, "u,t,p,o"},
		{`"matchingType":2,"identifyWay":1`, `"identityType":"phone",` + all, "u,o,p,t"},
		{`"matchingType":2,"identifyWay":2`, all, "t,p,o,u"},
		{`"matchingType":2,"identifyWay":1`, `"thirdId":"t","phone":"p"`, "p,t"},
		{`"accurateMatchValue":"x"`, all, "t,p,o,u"},
		{`"accurateMatchValue":"x"`, `"identityType":"phone",` + all, "p,t,o,u"},
	} {
		s := New(Options{})
		mustApply(t, s, GroupRelation, fmt.Sprintf(`{"publicParams":{"isMatching":true,"optType":"add",%s},"data":[{%s}]}`, c.params, c.item))
		a := s.Ledger()[0]
		if got := strings.Join(a.Identities, ","); got != c.want || a.Customer != a.Identities[0] {
			t.Errorf("%s %s: %s (%s), want %s", c.params, c.item, got, a.Customer, c.want)
		}
	}
}
