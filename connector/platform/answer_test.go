package platform

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestAnswerTable has at least one case for every row of the table in the package comment.
func TestAnswerTable(t *testing.T) {
	point, event := pointRequest(), eventRequest(2)
	groups := groupRequest(`{"phone":"1","groups":"a"}`, `{"phone":"2","groups":"a"}`)
	const html = "<html><body>leak: not today</body></html>"
	cases := []struct {
		name       string
		req        *connector.Request
		status     int
		body       string
		header     []string
		want       connector.Verdict
		notApplied bool
	}{
		{name: "point data true", req: point, status: 200, body: delivered, want: connector.Delivered},
		{name: "code as a number", req: point, status: 200, body: `{"code":200,"data":true}`, want: connector.Delivered},
		{name: "201", req: point, status: 201, body: delivered, want: connector.Delivered},
		{name: "event code 200", req: event, status: 200, body: `{"code":"200","errorCode":"SUCCESS","msg":"ok"}`, want: connector.Delivered},
		{name: "event data null", req: event, status: 200, body: `{"code":"200","data":null}`, want: connector.Delivered},
		{name: "group status 1", req: groups, status: 200, body: `{"code":"200","data":{"status":1,"errorData":null}}`, want: connector.Delivered},
		{name: "group status 0", req: groups, status: 200, body: `{"code":"200","data":{"status":0}}`, want: connector.Delivered},
		{name: "group status as a string", req: groups, status: 200, body: `{"code":"200","data":{"status":"1"}}`, want: connector.Delivered},

		{name: "group status 2", req: groups, status: 200, body: `{"code":"200","data":{"status":2,"errorData":[{"phone":"2"}]}}`, want: connector.Partly},
		{name: "group status 2, not found", req: groups, status: 200, body: `{"code":"200","data":{"status":2,"errorData":[{"phone":"3"}]}}`, want: connector.Rejected},
		{name: "group status 2, empty", req: groups, status: 200, body: `{"code":"200","data":{"status":2,"errorData":[]}}`, want: connector.Rejected},
		{name: "group status 2, null", req: groups, status: 200, body: `{"code":"200","data":{"status":2,"errorData":null}}`, want: connector.Rejected},
		{name: "group status 2, some missing", req: groups, status: 200, body: `{"code":"200","data":{"status":2,"importFailNum":2,"errorData":[{"phone":"2"}]}}`, want: connector.Rejected},
		{name: "group status 2, errorData no array", req: groups, status: 200, body: `{"code":"200","data":{"errorData":"x","status":2}}`, want: connector.Rejected},

		{name: "401", req: point, status: 401, body: html, want: connector.TokenRefused, notApplied: true},
		{name: "code 100200", req: event, status: 200, body: `{"code":"100200","msg":"TOKEN_ERROR"}`, want: connector.TokenRefused, notApplied: true},
		{name: "code 100200 as a number", req: event, status: 200, body: `{"code":100200}`, want: connector.TokenRefused, notApplied: true},
		{name: "400 with code 100200", req: event, status: 400, body: `{"code":"100200"}`, want: connector.TokenRefused, notApplied: true},
		{name: "403 with code 100200", req: event, status: 403, body: `{"code":"100200"}`, want: connector.TokenRefused, notApplied: true},

		{name: "403", req: point, status: 403, body: html, want: connector.SetupWrong, notApplied: true},
		{name: "404", req: point, status: 404, body: html, want: connector.SetupWrong, notApplied: true},
		{name: "404 without a body", req: point, status: 404, want: connector.SetupWrong, notApplied: true},
		{name: "301", req: point, status: 301, header: []string{"Location", "https://other.invalid/x?leak=1"}, want: connector.SetupWrong, notApplied: true},
		{name: "304", req: point, status: 304, want: connector.SetupWrong, notApplied: true},
		{name: "code 100100", req: point, status: 200, body: `{"code":"100100"}`, want: connector.SetupWrong, notApplied: true},
		{name: "code 100300", req: point, status: 200, body: `{"code":100300}`, want: connector.SetupWrong, notApplied: true},
		{name: "400 with code 100300", req: point, status: 400, body: `{"code":100300}`, want: connector.SetupWrong, notApplied: true},

		{name: "429", req: point, status: 429, body: html, want: connector.SlowDown, notApplied: true},
		{name: "503 with Retry-After", req: point, status: 503, header: []string{"Retry-After", "3"}, want: connector.SlowDown, notApplied: true},
		{name: "413", req: event, status: 413, body: html, want: connector.TooBig, notApplied: true},

		{name: "400", req: point, status: 400, body: `{"code":"400","msg":"remark is missing"}`, want: connector.Rejected, notApplied: true},
		{name: "422 without JSON", req: point, status: 422, body: html, want: connector.Rejected, notApplied: true},
		{name: "400 with code 500", req: point, status: 400, body: `{"code":"500"}`, want: connector.Rejected, notApplied: true},
		{name: "400 with code 200", req: point, status: 400, body: delivered, want: connector.Rejected, notApplied: true},
		{name: "another code", req: event, status: 200, body: `{"code":"30001","msg":"no such event"}`, want: connector.Rejected, notApplied: true},
		{name: "a code that only begins with 5", req: event, status: 200, body: `{"code":"50012"}`, want: connector.Rejected, notApplied: true},
		{name: "point data false", req: point, status: 200, body: `{"code":"200","data":false}`, want: connector.Rejected, notApplied: true},
		{name: "point data absent", req: point, status: 200, body: `{"code":"200"}`, want: connector.Rejected, notApplied: true},
		{name: "point data null", req: point, status: 200, body: `{"code":"200","data":null}`, want: connector.Rejected, notApplied: true},
		{name: "group status -1", req: groups, status: 200, body: `{"code":"200","data":{"status":-1}}`, want: connector.Rejected, notApplied: true},
		{name: "group status unknown", req: groups, status: 200, body: `{"code":"200","data":{"status":7}}`, want: connector.Rejected, notApplied: true},
		{name: "group data absent", req: groups, status: 200, body: `{"code":"200"}`, want: connector.Rejected, notApplied: true},

		{name: "408", req: point, status: 408, want: connector.Outage},
		{name: "500", req: point, status: 500, body: html, want: connector.Outage},
		{name: "500 with code 200", req: point, status: 500, body: delivered, want: connector.Outage},
		{name: "502", req: point, status: 502, body: html, want: connector.Outage},
		{name: "503", req: point, status: 503, want: connector.Outage},
		{name: "503 with a Retry-After that can't be read", req: point, status: 503, header: []string{"Retry-After", "soon"}, want: connector.Outage},
		{name: "code 500", req: point, status: 200, body: `{"code":"500","msg":"系统异常"}`, want: connector.Outage},
		{name: "code 503 as a number", req: event, status: 200, body: `{"code":503}`, want: connector.Outage},
		{name: "200 with HTML", req: point, status: 200, body: html, want: connector.Outage},
		{name: "200 with nothing", req: point, status: 200, want: connector.Outage},
		{name: "204", req: point, status: 204, want: connector.Outage},
		{name: "200 without a code", req: point, status: 200, body: `{"data":true}`, want: connector.Outage},
		{name: "200 with code null", req: point, status: 200, body: `{"code":null,"data":true}`, want: connector.Outage},
		{name: "200 with an array", req: point, status: 200, body: `["200"]`, want: connector.Outage},
		{name: "200 with JSON that goes on", req: point, status: 200, body: delivered + "x", want: connector.Outage},
		{name: "200 too long", req: point, status: 200, body: delivered + strings.Repeat(" ", maxAnswer+4096), want: connector.Outage},
		{name: "point data a number", req: point, status: 200, body: `{"code":"200","data":1}`, want: connector.Outage},
		{name: "point data an object", req: point, status: 200, body: `{"code":"200","data":{"ok":true}}`, want: connector.Outage},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := newClient(t, serve(t, answer(tc.status, tc.body, tc.header...)))
			a := c.Send(t.Context(), tc.req)
			if a.Verdict != tc.want || a.NotApplied != tc.notApplied {
				t.Errorf("got %v, not applied %v; want %v, %v (%v)", a.Verdict, a.NotApplied, tc.want, tc.notApplied, a.Err)
			}
			if a.HTTPStatus != tc.status {
				t.Errorf("HTTPStatus is %d, want %d", a.HTTPStatus, tc.status)
			}
			wantClean(t, a.Err)
		})
	}
}

func TestCodeAndMsg(t *testing.T) {
	long := strings.Repeat("积分", 1000)
	c := newClient(t, serve(t, answer(200, `{"code":"30001","errorCode":"NO","msg":"`+long+`"}`)))
	a := c.Send(t.Context(), eventRequest(1))
	if a.Code != "30001" || len(a.Msg) > maxMsg || len(a.Msg) < maxMsg-3 || !utf8.ValidString(a.Msg) {
		t.Errorf("got code %q and a msg of %d bytes", a.Code, len(a.Msg))
	}
	c = newClient(t, serve(t, answer(400, `{"code":42,"errorCode":"NO_REMARK"}`)))
	if a := c.Send(t.Context(), eventRequest(1)); a.Code != "42" || a.Msg != "NO_REMARK" {
		t.Errorf("got code %q, msg %q; want 42 and the errorCode", a.Code, a.Msg)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, value string
		want        time.Duration
		ok          bool
	}{
		{"absent", "", 0, false},
		{"seconds", "7", 7 * time.Second, true},
		{"spaces", " 7 ", 7 * time.Second, true},
		{"zero", "0", 0, true},
		{"negative", "-7", 0, false},
		{"a week", "604800", maxRetryAfter, true},
		{"an overflow", "9223372036854775807", maxRetryAfter, true},
		{"a date", now.Add(90 * time.Second).Format(http.TimeFormat), 90 * time.Second, true},
		{"a date that has passed", now.Add(-time.Hour).Format(http.TimeFormat), 0, true},
		{"a far date", now.Add(48 * time.Hour).Format(http.TimeFormat), maxRetryAfter, true},
		{"no date", "tomorrow", 0, false},
	} {
		h := http.Header{"Date": {now.Format(http.TimeFormat)}}
		if tc.value != "" {
			h.Set("Retry-After", tc.value)
		}
		if got, ok := retryAfter(h); got != tc.want || ok != tc.ok {
			t.Errorf("%s: got %v, %v; want %v, %v", tc.name, got, ok, tc.want, tc.ok)
		}
	}
	// Without a Date of its own the answer is measured by this machine's clock.
	h := http.Header{"Retry-After": {time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)}}
	if got, ok := retryAfter(h); !ok || got < 50*time.Second || got > time.Minute {
		t.Errorf("got %v, %v; want about a minute", got, ok)
	}
	for _, tc := range []struct {
		status int
		header []string
		want   time.Duration
	}{{429, []string{"Retry-After", "5"}, 5 * time.Second}, {429, nil, 0}, {503, []string{"Retry-After", "9"}, 9 * time.Second}} {
		c := newClient(t, serve(t, answer(tc.status, "", tc.header...)))
		if a := c.Send(t.Context(), pointRequest()); a.RetryAfter != tc.want {
			t.Errorf("%d %v: RetryAfter is %v, want %v", tc.status, tc.header, a.RetryAfter, tc.want)
		}
	}
}

func TestPartly(t *testing.T) {
	const (
		one   = `{"identityType":"phone","phone":"13800000001","groups":"VIP,新客"}`
		two   = `{"identityType":"phone","phone":"13800000002","groups":"VIP"}`
		twoB  = `{"identityType":"phone","phone":"13800000002","groups":"old"}`
		three = `{"thirdId":"860484273911119872","groups":"VIP"}`
	)
	for _, tc := range []struct {
		name      string
		sent      []string
		errorData string
		want      []int // nil: not found
	}{
		{"as sent", []string{one, two, three}, `[` + two + `]`, []int{1}},
		{"several, another order", []string{one, two, three}, `[` + three + `,` + one + `]`, []int{0, 2}},
		{"all", []string{one, two}, `[` + one + `,` + two + `]`, []int{0, 1}},
		{"another order of keys, nulls, escapes, fields of its own", []string{one, two},
			`[{"groups":"VIP,\u65b0\u5ba2","openid":null,"thirdId":"","errorMsg":"no","phone":"13800000001","identityType":"phone"}]`, []int{0}},
		{"only the identity", []string{one, two, three}, `[{"phone":"13800000002"}]`, []int{1}},
		{"a long id as a number", []string{one, three}, `[{"thirdId":860484273911119872}]`, []int{1}},
		{"groups as a list", []string{one, two}, `[{"phone":"13800000001","groups":["VIP"]}]`, []int{0}},
		{"one of two that are the same", []string{two, one, two}, `[` + two + `]`, []int{0}},
		{"both that are the same", []string{two, one, two}, `[` + two + `,` + two + `]`, []int{0, 2}},
		{"one more than was sent", []string{two, one}, `[` + two + `,` + two + `]`, nil},
		{"one customer, told apart by groups", []string{two, twoB}, `[` + twoB + `]`, []int{1}},
		{"one customer, not told apart", []string{two, twoB}, `[{"phone":"13800000002"}]`, nil},
		{"one customer, both", []string{two, twoB}, `[{"phone":"13800000002"},{"phone":"13800000002"}]`, []int{0, 1}},
		{"the exact one chooses first", []string{two, twoB}, `[{"phone":"13800000002"},` + two + `]`, []int{0, 1}},
		{"masked", []string{one, two}, `[{"phone":"138****0002"}]`, nil},
		{"no identity", []string{one, two}, `[{"groups":"VIP"}]`, nil},
		{"one of them unknown", []string{one, two}, `[` + one + `,{"phone":"1"}]`, nil},
		{"a field that was not sent", []string{three}, `[{"thirdId":"860484273911119872","phone":"1"}]`, nil},
		{"no object", []string{one}, `["13800000001"]`, nil},
		{"null inside", []string{one}, `[null]`, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newClient(t, serve(t, answer(200, `{"code":"200","data":{"status":"2","importFailNum":1,"errorData":`+tc.errorData+`}}`)))
			a := c.Send(t.Context(), groupRequest(tc.sent...))
			want := connector.Partly
			if tc.want == nil {
				want = connector.Rejected
			}
			if a.Verdict != want || !slices.Equal(a.Failed, tc.want) || a.NotApplied {
				t.Errorf("got %v %v, not applied %v; want %v %v", a.Verdict, a.Failed, a.NotApplied, want, tc.want)
			}
		})
	}
}
