package platformsim

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPoints(t *testing.T) {
	s := New(Options{})
	for range 2 {
		mustApply(t, s, Point, goodPoint)
	}
	mustApply(t, s, PointDecrease, strings.Replace(goodPoint, ":5", ":3", 1))
	mustApply(t, s, PointOpen, goodOpen)
	mustApply(t, s, Point, `{"audienceUserId":860484273911119872,"phoneList":[{"phone":"13800000001"}],"point":1,"remark":"r"}`)
	mustApply(t, s, Event, goodEvent)
	if got, want := s.Points(), map[string]int64{"13800000001": 7, "u1": 5, "860484273911119872": 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("points %v, want %v", got, want)
	}
}

func TestGroups(t *testing.T) {
	for replaces, want := range map[bool]map[string][]string{
		false: {"1": {"a", "c", "d"}, "2": {"x"}, "3": {}},
		true:  {"1": {"d"}, "2": {"x"}, "3": {}},
	} {
		s := New(Options{UpdateReplaces: replaces})
		for _, step := range [][3]string{{"add", "1", "b,a"}, {"add", "1", "c"}, {"add", "2", "x"}, {"delete", "1", "b,q"}, {"update", "1", "d"},
			{"add", "3", "y"}, {"delete", "3", "y"}, {"add", "2", "x"}} {
			mustApply(t, s, GroupRelation, groups(fmt.Sprintf(`{"isMatching":true,"optType":"%s"}`, step[0]),
				fmt.Sprintf(`{"phone":"%s","groups":"%s"}`, step[1], step[2])))
		}
		mustApply(t, s, Event, goodEvent)
		if got := s.Groups(); !reflect.DeepEqual(got, want) {
			t.Errorf("update replaces %v: %v, want %v", replaces, got, want)
		}
	}
}

func TestLedgerSinceAndByCustomer(t *testing.T) {
	s := New(Options{})
	mustApply(t, s, Event, events(repeat(bareEvent, 3)...)) // 1-3
	mustApply(t, s, Point, strings.Replace(goodPoint, "13800000001", "2", 1))
	mustApply(t, s, Event, identities(`{"identityValue":"2","identityType":"phone"}`, `{"identityValue":"3","identityType":"openid"}`))
	seqs := func(list []Applied) string {
		var got []string
		for _, a := range list {
			got = append(got, fmt.Sprint(a.Seq))
		}
		return strings.Join(got, ",")
	}
	for _, c := range []struct {
		since uint64
		e     Endpoint
		want  string
	}{{0, "", "1,2,3,4,5"}, {2, "", "3,4,5"}, {3, "", "4,5"}, {5, "", ""}, {0, Point, "4"}, {2, Event, "3,5"}, {0, GroupRelation, ""}} {
		if got := seqs(s.LedgerSince(c.since, c.e)); got != c.want {
			t.Errorf("since %d %s: %s, want %s", c.since, c.e, got, c.want)
		}
	}
	if a, b, c := seqs(s.ByCustomer("2")), seqs(s.ByCustomer("3")), seqs(s.ByCustomer("4")); a != "4,5" || b != "5" || c != "" {
		t.Errorf("by customer: %s; %s; %s", a, b, c)
	}
}

// held sends a request that waits at a gate, and gives a function that lets it go on and waits for its end.
func held(t *testing.T, s *Sim, ctx context.Context, e Endpoint, body string) (release func()) {
	t.Helper()
	gate := make(chan struct{})
	id := inject(t, s, Fault{Endpoint: e, Gate: gate})
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(t, s, request(s, e, body).WithContext(ctx))
	}()
	if err := s.Wait(soon(t), func(s *Sim) bool { return s.Hits(id) == 1 }); err != nil {
		t.Fatal(err)
	}
	return func() { close(gate); <-done }
}

func TestOverlap(t *testing.T) {
	two := identities(`{"identityValue":"1","identityType":"phone"}`, `{"identityValue":"o","identityType":"openid"}`)
	for _, c := range []struct {
		name string
		e    Endpoint
		body string
		want []Violation
	}{
		{"another customer", Event, goodEvent, nil},
		{"the same, same endpoint", Event, two, []Violation{
			{Kind: Overlap, Request: 2, Endpoint: Event, Other: 1, OtherEndpoint: Event, Identity: "1"},
			{Kind: Overlap, Request: 2, Endpoint: Event, Other: 1, OtherEndpoint: Event, Identity: "o"}}},
		{"one identity, another endpoint", Point, `{"openids":[{"openid":"x"},{"openid":"o"}],"point":1,"remark":"r"}`, []Violation{
			{Kind: Overlap, Request: 2, Endpoint: Point, Other: 1, OtherEndpoint: Event, Identity: "o"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := New(Options{})
			release := held(t, s, t.Context(), Event, two)
			mustApply(t, s, c.e, c.body)
			release()
			if got := s.Violations(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("violations %+v, want %+v", got, c.want)
			}
			if st := s.Stats(); st.Violations != uint64(len(c.want)) || st.Endpoints[Event].MaxInFlight < 1 {
				t.Errorf("%+v", st)
			}
			before := len(s.Violations())
			mustApply(t, s, Event, two) // one after the other is fine
			mustApply(t, s, Event, two)
			if len(s.Violations()) != before || len(s.flying) != 0 {
				t.Errorf("violations %+v, flying %d", s.Violations(), len(s.flying))
			}
		})
	}
}

// TestNoOverlapWithAGoneClient: who has hung up waits for no answer; its next request is the next one.
func TestNoOverlapWithAGoneClient(t *testing.T) {
	s := New(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	release := held(t, s, ctx, Event, goodEvent)
	cancel()
	mustApply(t, s, Event, goodEvent)
	release()
	if v := s.Violations(); len(v) != 0 {
		t.Errorf("violations %+v", v)
	}
}

func TestRepeatedUpdate(t *testing.T) {
	update := `{"isMatching":true,"optType":"update"}`
	s := New(Options{})
	mustApply(t, s, GroupRelation, groups(addParams, `{"phone":"1"}`, `{"phone":"1"}`)) // add may
	mustApply(t, s, GroupRelation, groups(update, `{"phone":"1","thirdId":"1"}`, `{"phone":"2"}`))
	if v := s.Violations(); len(v) != 0 {
		t.Fatalf("violations %+v", v)
	}
	mustApply(t, s, GroupRelation, groups(update, `{"phone":"1"}`, `{"phone":"2"}`, `{"phone":"1","groups":"a"}`))
	if v, want := s.Violations(), []Violation{{Kind: RepeatedUpdate, Request: 3, Endpoint: GroupRelation, Identity: "1"}}; !reflect.DeepEqual(v, want) {
		t.Errorf("violations %+v", v)
	}
}

func TestWait(t *testing.T) {
	s := New(Options{})
	done := make(chan error)
	asked := make(chan struct{}, 100)
	go func() {
		done <- s.Wait(soon(t), func(s *Sim) bool {
			asked <- struct{}{}
			return s.Count(Event) == 2
		})
	}()
	<-asked
	mustApply(t, s, Event, goodEvent)
	mustApply(t, s, Event, goodEvent)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := s.Wait(ctx, func(*Sim) bool { return false }); !errors.Is(err, cause) || !strings.Contains(err.Error(), "2 records applied") {
		t.Errorf("error %v", err)
	}
	if err := s.Wait(ctx, func(*Sim) bool { return true }); err != nil {
		t.Errorf("a condition that holds: %v", err)
	}
}

// TestConcurrent: many clients at once leave a ledger without gap, and counts that agree with it.
func TestConcurrent(t *testing.T) {
	s := New(Options{})
	const clients, each = 8, 50
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for i := range each {
				send(t, s, Event, events(repeat(strings.Replace(bareEvent, "13800000001", fmt.Sprintf("%d", c), 1), 3)...))
				send(t, s, Point, strings.Replace(goodPoint, "13800000001", fmt.Sprintf("%d", c), 1))
				if i%10 == 0 {
					send(t, s, Event, `{}`)
				}
			}
		})
	}
	if err := s.Wait(soon(t), func(s *Sim) bool { return s.Count("") == clients*each*4 }); err != nil {
		t.Error(err)
	}
	all.Wait()
	l := s.Ledger()
	if len(l) != clients*each*4 {
		t.Fatalf("%d records", len(l))
	}
	request := map[uint64]uint64{}
	for i, a := range l {
		if a.Seq != uint64(i+1) {
			t.Fatalf("record %d has seq %d", i, a.Seq)
		}
		if before := request[a.Request]; before != 0 && before != a.Seq-1 {
			t.Fatalf("request %d is torn apart", a.Request)
		}
		request[a.Request] = a.Seq
	}
	st := s.Stats()
	ev := st.Endpoints[Event]
	if st.Violations != 0 || ev.Applied != clients*each*3 || ev.Refused != clients*5 || ev.MaxBatch != 3 || ev.InFlight != 0 ||
		ev.MaxInFlight > clients || st.Requests != uint64(len(s.Requests())) || ev.Bytes == 0 || ev.Records != ev.Applied {
		t.Errorf("%+v", st)
	}
	for c := range clients {
		if p := s.Points()[fmt.Sprintf("%d", c)]; p != 5*each {
			t.Errorf("customer %d has %d points", c, p)
		}
	}
}

func TestRequests(t *testing.T) {
	s := New(Options{})
	before := time.Now()
	mustApply(t, s, Event, events(repeat(bareEvent, 4)...))
	r := s.Requests()
	if len(r) != 1 {
		t.Fatalf("%d requests", len(r))
	}
	got := r[0]
	if got.Received.Before(before) || got.Answered.Before(got.Received) {
		t.Errorf("times %v %v", got.Received, got.Answered)
	}
	got.Received, got.Answered = time.Time{}, time.Time{}
	want := Request{Number: 1, Endpoint: Event, Bytes: len(events(repeat(bareEvent, 4)...)), Records: 4, Applied: 4, Status: 200, Code: "200"}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	none := New(Options{NoLedger: true})
	mustApply(t, none, Event, events(repeat(bareEvent, 4)...))
	if len(none.Requests()) != 0 || len(none.Ledger()) != 0 || none.Count(Event) != 4 || none.Stats().Endpoints[Event].MaxBatch != 4 {
		t.Errorf("without a ledger: %+v", none.Stats())
	}
}
