package platformsim

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestAnswersOfFaults: what each action that only answers says, that it applies nothing, or with Apply everything, and that the next request is
// met no more.
func TestAnswersOfFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		e      Endpoint
		fault  Fault
		status int
		code   any
		body   string // stands in the body
		header [2]string
	}{
		{"status", Event, Fault{Action: AnswerStatus, Status: 500}, 500, nil, "Internal Server Error", [2]string{}},
		{"429", Point, Fault{Action: AnswerStatus, Status: 429, RetryAfter: "7"}, 429, nil, "", [2]string{"Retry-After", "7"}},
		{"403 with JSON", Point, Fault{Action: AnswerStatus, Status: 403, Body: `{"code":"100300"}`}, 403, "100300", "", [2]string{"Content-Type", "application/json;charset=UTF-8"}},
		{"code", Event, Fault{Action: AnswerCode, Code: "500123", Msg: "no"}, 200, "500123", `"msg":"no"`, [2]string{}},
		{"code 100100", Event, Fault{Action: AnswerCode, Code: "100100"}, 200, "100100", "APPID_SECRET_ERROR", [2]string{}},
		{"code 100200", Event, Fault{Action: AnswerCode, Code: "100200"}, 200, "100200", "TOKEN_ERROR", [2]string{}},
		{"code 100300", Event, Fault{Action: AnswerCode, Code: "100300"}, 200, "100300", "AUTHCODE_ERROR", [2]string{}},
		{"code with errorCode", Event, Fault{Action: AnswerCode, Code: "7", ErrorCode: "SEVEN"}, 200, "7", `"errorCode":"SEVEN"`, [2]string{}},
		{"data false", Point, Fault{Action: AnswerDataFalse}, 200, "200", `"data":false`, [2]string{}},
		{"html", Event, Fault{Action: AnswerHTML}, 200, nil, "<html>", [2]string{"Content-Type", "text/html; charset=utf-8"}},
		{"html 502", Event, Fault{Action: AnswerHTML, Status: 502, Body: "<p>"}, 502, nil, "<p>", [2]string{}},
		{"empty", Event, Fault{Action: AnswerEmpty}, 200, nil, "", [2]string{"Content-Length", "0"}},
		{"redirect", Event, Fault{Action: AnswerRedirect}, 302, nil, "", [2]string{"Location", redirectTarget}},
		{"redirect 307", Event, Fault{Action: AnswerRedirect, Status: 307}, 307, nil, "", [2]string{"Location", redirectTarget}},
		{"too large", Event, Fault{Action: AnswerTooLarge}, 413, nil, "", [2]string{}},
		{"group failed", GroupRelation, Fault{Action: AnswerGroupStatus, GroupStatus: -1}, 200, "200", `"status":-1,"message":"failed","importSuccessNum":0,"importFailNum":1`, [2]string{}},
	} {
		for _, apply := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, " ", apply), func(t *testing.T) {
				s := New(Options{})
				c.fault.Apply = apply
				id := inject(t, s, c.fault)
				body := map[Endpoint]string{Point: goodPoint, Event: goodEvent, GroupRelation: goodGroup}[c.e]
				r := send(t, s, c.e, body)
				if r.status != c.status || r.Code != c.code || !strings.Contains(r.body, c.body) {
					t.Errorf("answer %d %s", r.status, r.body)
				}
				if c.header[0] != "" && r.header.Get(c.header[0]) != c.header[1] {
					t.Errorf("header %v", r.header)
				}
				if want := map[bool]int{true: 1}[apply]; s.Count(c.e) != want || len(s.Ledger()) != want {
					t.Errorf("%d applied, want %d", s.Count(c.e), want)
				}
				if got := s.Requests()[0]; got.Fault != id || got.Status != c.status || s.Hits(id) != 1 || s.Stats().Endpoints[c.e].Faulted != 1 {
					t.Errorf("recorded as %+v", got)
				}
				mustApply(t, s, c.e, body)
			})
		}
	}
}

func TestGroupInProgress(t *testing.T) {
	s := New(Options{})
	inject(t, s, Fault{Action: AnswerGroupStatus})
	r := send(t, s, GroupRelation, goodGroup)
	if !strings.Contains(r.body, `"status":0,"message":"in progress"`) || s.Count(GroupRelation) != 1 {
		t.Errorf("%s, %d applied", r.body, s.Count(""))
	}
	inject(t, s, Fault{Action: AnswerGroupStatus})
	if r := send(t, s, GroupRelation, strings.Replace(goodGroup, "add", "ad", 1)); r.Code != "400" || s.Count("") != 1 {
		t.Errorf("a wrong body under the fault: %s", r.body)
	}
}

// TestFaultAppliesNothingWrong: Apply does not apply what the contract refuses, or what comes with a stale token.
func TestFaultAppliesNothingWrong(t *testing.T) {
	s := New(Options{Token: "t"})
	inject(t, s, Fault{Action: AnswerStatus, Status: 504, Apply: true, Count: -1})
	if r := send(t, s, Point, without(t, goodPoint, "remark")); r.status != 504 {
		t.Errorf("status %d", r.status)
	}
	r := request(s, Point, goodPoint)
	r.Header.Set("X-Token", "other")
	if r := do(t, s, r); r.status != 504 || s.Count("") != 0 {
		t.Errorf("status %d, %d applied", r.status, s.Count(""))
	}
	for i, req := range s.Requests() {
		if req.Refusal == "" {
			t.Errorf("request %d: the refusal is not recorded", i)
		}
	}
}

func TestPartlyFail(t *testing.T) {
	s := New(Options{})
	id := inject(t, s, Fault{Action: PartlyFail, Items: []string{`"2"`, `"4"`, `"nobody"`}, Count: -1})
	body := groups(addParams, `{"phone":"1"}`, `{"phone":"2","groups":"a"}`, `{"phone":"3"}`, `{"phone":"4"}`)
	r := send(t, s, GroupRelation, body)
	var data struct {
		Status                          int
		ImportSuccessNum, ImportFailNum int
		ErrorData                       []json.RawMessage
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		t.Fatal(err)
	}
	if r.Code != "200" || data.Status != 2 || data.ImportSuccessNum != 2 || data.ImportFailNum != 2 ||
		fmt.Sprintf("%s", data.ErrorData) != `[{"phone":"2","groups":"a"} {"phone":"4"}]` {
		t.Errorf("answer %s", r.body)
	}
	var applied []string
	for _, a := range s.Ledger() {
		applied = append(applied, fmt.Sprintf("%d:%s", a.Seq, a.Customer))
	}
	if got := fmt.Sprint(applied); got != "[1:1 2:3]" {
		t.Errorf("applied %s", got)
	}
	if req := s.Requests()[0]; req.Records != 4 || req.Applied != 2 {
		t.Errorf("recorded as %+v", req)
	}
	// All of them, and none of them.
	if r := send(t, s, GroupRelation, groups(addParams, `{"phone":"2"}`)); !strings.Contains(r.body, `"status":2`) || s.Count("") != 2 {
		t.Errorf("answer %s", r.body)
	}
	if r := send(t, s, GroupRelation, groups(addParams, `{"phone":"5"}`)); !strings.Contains(r.body, `"status":1`) || s.Hits(id) != 2 {
		t.Errorf("answer %s", r.body)
	}
	if last := s.Ledger()[2]; last.Seq != 3 || last.Customer != "5" {
		t.Errorf("last is %+v", last)
	}
	mustApply(t, s, Event, strings.ReplaceAll(goodEvent, "13800000001", "2")) // not on other endpoints
	if s.Hits(id) != 2 {
		t.Error("the fault met an event")
	}
}

// TestCuts is over the network: what the client sees, and what was applied.
func TestCuts(t *testing.T) {
	s := New(Options{})
	base, client := server(t, s)
	for _, c := range []struct {
		action  Action
		status  int // seen by the client; 0: no answer at all
		applied int
	}{{CutBeforeApply, 0, 0}, {ApplyThenCut, 0, 1}, {CutAnswer, 200, 1}} {
		before := s.Count(Point)
		id := inject(t, s, Fault{Endpoint: Point, Action: c.action})
		r, err := post(t.Context(), t, client, base+"/point/increase", goodPoint)
		if err == nil || r.status != c.status {
			t.Errorf("%s: status %d, error %v", c.action, r.status, err)
		}
		if n := s.Count(Point) - before; n != c.applied || s.Hits(id) != 1 {
			t.Errorf("%s: %d applied, want %d", c.action, n, c.applied)
		}
		last := s.Requests()[len(s.Requests())-1]
		if !last.Cut || last.Status != c.status || last.Applied != c.applied {
			t.Errorf("%s: recorded as %+v", c.action, last)
		}
		if r, err := post(t.Context(), t, client, base+"/point/increase", goodPoint); err != nil || r.Code != "200" {
			t.Errorf("%s: the next request: %v %v", c.action, r, err)
		}
	}
}

func TestRedirectFollowedIsSeen(t *testing.T) {
	s := New(Options{})
	base, client := server(t, s)
	inject(t, s, Fault{Action: AnswerRedirect, Status: 307, Count: 2})
	if r, err := post(t.Context(), t, client, base+"/point/increase", goodPoint); err != nil || r.status != 307 || len(s.Violations()) != 0 {
		t.Fatalf("%d %v %v", r.status, err, s.Violations())
	}
	client.CheckRedirect = nil
	if r, err := post(t.Context(), t, client, base+"/point/increase", goodPoint); err != nil || r.status != 404 {
		t.Fatalf("%d %v", r.status, err)
	}
	if v := s.Violations(); len(v) != 1 || v[0].Kind != RedirectFollowed || v[0].Request != 3 || s.Stats().Violations != 1 {
		t.Errorf("violations %+v", v)
	}
}

func TestWhichRequestsAFaultMeets(t *testing.T) {
	code := func(r reply) string { return fmt.Sprint(r.Code) }
	t.Run("match, for ever", func(t *testing.T) {
		s := New(Options{})
		id := inject(t, s, Fault{Match: "poison", Action: AnswerCode, Code: "500123", Count: -1})
		for range 3 {
			if r := send(t, s, Event, events(bareEvent, strings.Replace(bareEvent, "13800000001", "poison", 1))); code(r) != "500123" {
				t.Errorf("answer %s", r.body)
			}
			mustApply(t, s, Event, goodEvent)
		}
		if s.Hits(id) != 3 || s.Count("") != 3 || s.Faults()[0].Left != -1 {
			t.Errorf("%+v, %d applied", s.Faults(), s.Count(""))
		}
		s.ClearFaults(id)
		mustApply(t, s, Event, events(strings.Replace(bareEvent, "13800000001", "poison", 1)))
	})
	t.Run("endpoint, skip and count", func(t *testing.T) {
		s := New(Options{})
		inject(t, s, Fault{Endpoint: Point, Skip: 1, Count: 2, Action: AnswerCode, Code: "7"})
		var got []string
		for range 5 {
			mustApply(t, s, Event, goodEvent)
			got = append(got, code(send(t, s, Point, goodPoint)))
		}
		if want := []string{"200", "7", "7", "200", "200"}; !reflect.DeepEqual(got, want) {
			t.Errorf("codes %v, want %v", got, want)
		}
		if f := s.Faults()[0]; f.Left != 0 || f.Hits != 2 {
			t.Errorf("%+v", f)
		}
	})
	t.Run("the first that fits", func(t *testing.T) {
		s := New(Options{})
		inject(t, s, Fault{Match: "nothing", Action: AnswerCode, Code: "1"})
		inject(t, s, Fault{Action: AnswerCode, Code: "2"})
		inject(t, s, Fault{Action: AnswerCode, Code: "3"})
		if a, b, c := code(send(t, s, Point, goodPoint)), code(send(t, s, Point, goodPoint)), code(send(t, s, Point, goodPoint)); a+b+c != "23200" {
			t.Errorf("codes %s %s %s", a, b, c)
		}
	})
	t.Run("over", func(t *testing.T) {
		s := New(Options{})
		inject(t, s, Fault{Over: len(goodEvent), Count: -1, Action: AnswerTooLarge})
		mustApply(t, s, Event, goodEvent)
		if r := send(t, s, Event, goodEvent+" "); r.status != 413 {
			t.Errorf("status %d", r.status)
		}
	})
	t.Run("token calls only by name", func(t *testing.T) {
		s := New(Options{AppID: "a", AppSecret: "b"})
		inject(t, s, Fault{Action: AnswerStatus, Status: 500})
		r := request(s, Token, "")
		r.URL.RawQuery = "instanceAppid=a&instanceSecrect=b"
		if got := do(t, s, r); got.Code != "200" {
			t.Errorf("a token call was met: %d", got.status)
		}
		s.ClearFaults()
		inject(t, s, Fault{Endpoint: Token, Action: AnswerStatus, Status: 500})
		if got := do(t, s, r); got.status != 500 {
			t.Errorf("status %d", got.status)
		}
	})
	t.Run("probability", func(t *testing.T) {
		run := func(seed uint64) (got string) {
			s := New(Options{Seed: seed})
			inject(t, s, Fault{Probability: 0.3, Count: -1, Action: AnswerDataFalse})
			for range 200 {
				got += string(send(t, s, Point, goodPoint).Data[:1])
			}
			return got
		}
		one := run(1)
		if n := strings.Count(one, "f"); n < 30 || n > 90 {
			t.Errorf("%d of 200 at 0.3", n)
		}
		if one != run(1) || one == run(2) {
			t.Error("the dice don't follow the seed")
		}
	})
	t.Run("clear", func(t *testing.T) {
		s := New(Options{})
		a := inject(t, s, Fault{Action: AnswerCode, Code: "1"})
		inject(t, s, Fault{Action: AnswerCode, Code: "2"})
		s.ClearFaults(a)
		if got := code(send(t, s, Point, goodPoint)); got != "2" {
			t.Errorf("code %s", got)
		}
		inject(t, s, Fault{Action: AnswerCode, Code: "3", Count: -1})
		s.ClearFaults()
		mustApply(t, s, Point, goodPoint)
	})
}

func TestWrongFaults(t *testing.T) {
	s := New(Options{})
	for want, f := range map[string]Fault{
		"action":            {Action: "explode"},
		"needs a delay":     {},
		"endpoint":          {Endpoint: "points", Action: AnswerEmpty},
		"probability":       {Probability: 1.1, Action: AnswerEmpty},
		"count must be":     {Count: -2, Action: AnswerEmpty},
		"status must":       {Action: AnswerStatus},
		"status must lie":   {Action: AnswerHTML, Status: 99},
		"needs a code":      {Action: AnswerCode},
		"needs items":       {Action: PartlyFail},
		"none of them":      {Action: PartlyFail, Items: []string{""}},
		"for the endpoint":  {Action: PartlyFail, Items: []string{"x"}, Endpoint: Event},
		"groupStatus must":  {Action: AnswerGroupStatus, GroupStatus: 2},
		"must not be negat": {Action: Pass, Delay: -1},
	} {
		if id, err := s.Inject(f); err == nil || !strings.Contains(err.Error(), want) || id != 0 {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
	if _, err := New(Options{NoLedger: true}).Inject(Fault{Action: PartlyFail, Items: []string{"x"}}); err == nil {
		t.Error("partial was taken without a ledger")
	}
	if len(s.Faults()) != 0 {
		t.Error("a wrong fault was kept")
	}
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		inject(t, s, Fault{Delay: 3 * time.Second})
		inject(t, s, Fault{Delay: 5 * time.Second, WaitAfter: true, Action: AnswerStatus, Status: 504, Apply: true})
		began := time.Now()
		done := make(chan reply)
		go func() { done <- send(t, s, Point, goodPoint) }()
		synctest.Wait()
		if s.Count(Point) != 0 || s.InFlight(Point) != 1 || s.Hits(1) != 1 {
			t.Errorf("before the delay: %d applied, %d in flight", s.Count(Point), s.InFlight(""))
		}
		if r := <-done; r.Code != "200" || time.Since(began) != 3*time.Second || s.Count(Point) != 1 {
			t.Errorf("%s after %s", r.body, time.Since(began))
		}
		go func() { done <- send(t, s, Point, goodPoint) }()
		synctest.Wait()
		if s.Count(Point) != 2 || s.InFlight("") != 1 {
			t.Errorf("in the second delay: %d applied, %d in flight", s.Count(Point), s.InFlight(""))
		}
		if r := <-done; r.status != 504 || time.Since(began) != 8*time.Second || s.InFlight("") != 0 {
			t.Errorf("%d after %s", r.status, time.Since(began))
		}
	})
}

// TestDelayEndsWithTheClient: who hangs up is waited for no longer, and the request goes on, as a server's does.
func TestDelayEndsWithTheClient(t *testing.T) {
	s := New(Options{})
	base, client := server(t, s)
	id := inject(t, s, Fault{Delay: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := post(ctx, t, client, base+"/point/increase", goodPoint)
		failed <- err
	}()
	if err := s.Wait(soon(t), func(s *Sim) bool { return s.Hits(id) == 1 }); err != nil {
		t.Fatal(err)
	}
	if s.Count(Point) != 0 {
		t.Error("applied before the delay")
	}
	cancel()
	if err := <-failed; err == nil {
		t.Error("an answer came")
	}
	if err := s.Wait(soon(t), func(s *Sim) bool { return s.Count(Point) == 1 && s.InFlight("") == 0 }); err != nil {
		t.Error(err)
	}
	if _, err := post(t.Context(), t, client, base+"/point/increase", goodPoint); err != nil {
		t.Fatal(err)
	}
	if all := s.Requests(); len(all) != 2 || !all[0].HungUp || all[1].HungUp {
		t.Errorf("who hung up: %+v", all)
	}
}

func TestGate(t *testing.T) {
	s := New(Options{})
	gate := make(chan struct{})
	inject(t, s, Fault{Gate: gate, Action: ApplyThenCut, WaitAfter: true})
	base, client := server(t, s)
	failed := make(chan error)
	go func() {
		_, err := post(context.Background(), t, client, base+"/point/increase", goodPoint)
		failed <- err
	}()
	if err := s.Wait(soon(t), func(s *Sim) bool { return s.Count(Point) == 1 }); err != nil {
		t.Fatal(err)
	}
	if s.InFlight(Point) != 1 || len(s.Requests()) != 0 {
		t.Error("the request did not wait at the gate")
	}
	close(gate)
	if err := <-failed; err == nil {
		t.Error("the connection was not cut")
	}
	if s.InFlight("") != 0 {
		t.Error("still in flight")
	}
}

func TestDown(t *testing.T) {
	s := New(Options{AppID: "a", AppSecret: "b", Token: "t"})
	base, client := server(t, s)
	s.Down(DownUnavailable)
	r, err := post(t.Context(), t, client, base+"/point/increase", goodPoint)
	if err != nil || r.status != 503 || r.header.Get("Retry-After") != "" {
		t.Errorf("%d %v", r.status, err)
	}
	resp, err := client.Get(base + DefaultPaths()[Token] + "?instanceAppid=a&instanceSecrect=b")
	if err != nil || resp.StatusCode != 503 {
		t.Fatalf("token call: %v %v", resp, err)
	}
	resp.Body.Close()
	s.Down(DownCut)
	if r, err := post(t.Context(), t, client, base+"/point/increase", goodPoint); err == nil {
		t.Errorf("an answer came: %d", r.status)
	}
	if !s.Stats().Down || s.Count("") != 0 || s.Stats().Endpoints[Point].Faulted != 2 {
		t.Errorf("%+v", s.Stats())
	}
	s.Up()
	if r, err := post(t.Context(), t, client, base+"/point/increase", goodPoint); err != nil || r.Code != "200" || s.Stats().Down {
		t.Errorf("after Up: %s %v", r.body, err)
	}
}

func TestFaultJSON(t *testing.T) {
	f := Fault{Endpoint: GroupRelation, Match: "<m>", Over: 1, Skip: 2, Count: -1, Probability: 0.5, Action: AnswerStatus, Status: 503, RetryAfter: "1",
		Body: "b", Code: "c", ErrorCode: "e", Msg: "m", Items: []string{"i"}, GroupStatus: -1, Apply: true, Delay: 1500 * time.Millisecond, WaitAfter: true}
	for v, i := reflect.ValueOf(f), 0; i < v.NumField(); i++ {
		if name := v.Type().Field(i).Name; name != "Gate" && v.Field(i).IsZero() {
			t.Errorf("the test leaves out %s", name)
		}
	}
	b, err := json.Marshal(f)
	if err != nil || !strings.Contains(string(b), `"delay":"1.5s"`) {
		t.Fatalf("%s %v", b, err)
	}
	var back Fault
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(f, back) {
		t.Errorf("%+v %v", back, err)
	}
	for _, bad := range []string{`{"stauts":500}`, `{"delay":"soon"}`, `{"delay":5}`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestTokenExpiryFault(t *testing.T) {
	s := New(Options{AppID: "a", AppSecret: "b"})
	token := getToken(t, s)
	withToken := func() *http.Request {
		r := request(s, Event, goodEvent)
		r.Header.Set("X-Token", token)
		return r
	}
	if r := do(t, s, withToken()); r.Code != "200" {
		t.Fatalf("the token was refused: %s", r.body)
	}
	inject(t, s, Fault{Action: ExpireThenPass})
	if r := do(t, s, withToken()); r.Code != "100200" || r.ErrorCode != "TOKEN_ERROR" {
		t.Errorf("answer %s", r.body)
	}
	if r := do(t, s, withToken()); r.Code != "100200" {
		t.Errorf("the stale token was taken again: %s", r.body)
	}
	token = getToken(t, s)
	if r := do(t, s, withToken()); r.Code != "200" || s.Count(Event) != 2 {
		t.Errorf("the fresh token was refused: %s", r.body)
	}
}
