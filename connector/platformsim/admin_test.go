package platformsim

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// admin makes a call of the admin API and gives status and body.
func admin(t *testing.T, s *Sim, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, "/_sim/"+path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestAdminShows(t *testing.T) {
	s := New(Options{})
	mustApply(t, s, Event, events(repeat(bareEvent, 2)...))
	mustApply(t, s, Point, goodPoint)
	mustApply(t, s, GroupRelation, goodGroup)
	for path, want := range map[string]int{"ledger": 4, "ledger?endpoint=event": 2, "ledger?since=1": 3, "ledger?since=1&endpoint=event": 1, "ledger?limit=3": 3,
		"ledger?since=9": 0, "requests": 3, "violations": 0} {
		status, body := admin(t, s, "GET", path, "")
		if n := strings.Count(body, "\n"); status != 200 || n != want {
			t.Errorf("%s: %d with %d lines, want %d", path, status, n, want)
		}
	}
	_, body := admin(t, s, "GET", "ledger?since=2&limit=1", "")
	var a Applied
	if err := json.Unmarshal([]byte(body), &a); err != nil || a.Seq != 3 || a.Endpoint != Point || a.Point != 5 || string(a.Record) != goodPoint {
		t.Errorf("%s: %v", body, err)
	}
	_, body = admin(t, s, "GET", "stats", "")
	var st Stats
	if err := json.Unmarshal([]byte(body), &st); err != nil || st.Seq != 4 || st.Endpoints[Event].Applied != 2 || st.Requests != 3 {
		t.Errorf("%s: %v", body, err)
	}
	if _, body = admin(t, s, "GET", "points", ""); strings.TrimSpace(body) != `{"13800000001":5}` {
		t.Errorf("points %s", body)
	}
	if _, body = admin(t, s, "GET", "groups", ""); strings.TrimSpace(body) != `{"13800000001":["a"]}` {
		t.Errorf("groups %s", body)
	}
	if st := s.Stats(); st.Requests != 3 {
		t.Errorf("admin calls are counted: %+v", st)
	}
}

func TestAdminCommands(t *testing.T) {
	s := New(Options{AppID: "a", AppSecret: "b"})
	token := getToken(t, s)
	for _, step := range []struct {
		method, path, body string
		status             int
		answer             string
		then               any // code or, where it is a number, status of a data call
	}{
		{"POST", "faults", `{"action":"code","code":"7","count":1}`, 200, `{"ids":[1]}`, "7"},
		{"GET", "faults", "", 200, `"left":0,"hits":1`, "200"},
		{"POST", "faults", `[{"action":"status","status":500,"count":-1},{"action":"code","code":"8","count":-1}]`, 200, `{"ids":[2,3]}`, 500},
		{"DELETE", "faults?id=2", "", 204, "", "8"},
		{"DELETE", "faults", "", 204, "", "200"},
		{"POST", "faults", `[{"action":"code","code":"9"},{"action":"explode"}]`, 400, `fault 1: the action "explode" is unknown`, "200"},
		{"POST", "faults", `{"acton":"code"}`, 400, "acton", "200"},
		{"POST", "faults", `nonsense`, 400, "invalid", "200"},
		{"POST", "down", "", 204, "", 503},
		{"POST", "up", "", 204, "", "200"},
		{"POST", "down?mode=503", "", 204, "", 503},
		{"POST", "down?mode=sideways", "", 400, "mode must be", 503},
		{"POST", "up", "", 204, "", "200"},
		{"GET", "up", "", 405, "", "200"},
		{"GET", "nothing", "", 404, "", "200"},
		{"GET", "ledger?since=x", "", 400, "since must be a number", "200"},
		{"GET", "ledger?endpoint=x", "", 400, "unknown", "200"},
		{"GET", "wait?applied=x", "", 400, "applied must be a number", "200"},
		{"DELETE", "faults?id=x", "", 400, "id must be a number", "200"},
		{"POST", "expire-tokens", "", 204, "", "100200"},
	} {
		status, body := admin(t, s, step.method, step.path, step.body)
		if status != step.status || !strings.Contains(body, step.answer) {
			t.Errorf("%s %s: %d %s", step.method, step.path, status, body)
		}
		r := request(s, Event, goodEvent)
		r.Header.Set("X-Token", token)
		got := do(t, s, r)
		if want, ok := step.then.(int); ok && got.status != want || !ok && got.Code != step.then {
			t.Errorf("after %s %s: %d %s", step.method, step.path, got.status, got.body)
		}
	}
	if status, _ := admin(t, s, "POST", "down?mode=cut", ""); status != 204 || s.downMode() != DownCut {
		t.Errorf("down?mode=cut: %d, %s", status, s.downMode())
	}
}

func TestAdminWait(t *testing.T) {
	s := New(Options{})
	release := held(t, s, t.Context(), Event, goodEvent)
	if status, body := admin(t, s, "GET", "wait?endpoint=event&inFlight=1", ""); status != 200 || !strings.Contains(body, `"inFlight":1`) {
		t.Errorf("%d %s", status, body)
	}
	done := make(chan string)
	go func() {
		_, body := admin(t, s, "GET", "wait?applied=2", "")
		done <- body
	}()
	release()
	mustApply(t, s, Point, goodPoint)
	if body := <-done; !strings.Contains(body, `"seq":2`) {
		t.Errorf("stats %s", body)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/_sim/wait?applied=3", nil).WithContext(ctx))
	if w.Code != 503 {
		t.Errorf("a wait without end: %d", w.Code)
	}
}
