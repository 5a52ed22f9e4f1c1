package delivery

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestSurelyNoRecordsFault: an answer that can't be a record's fault has nothing split.
func TestSurelyNoRecordsFault(t *testing.T) {
	for _, answer := range []connector.Answer{
		{Verdict: connector.TokenRefused, NotApplied: true, HTTPStatus: 401},
		{Verdict: connector.SlowDown, NotApplied: true, HTTPStatus: 429},
		{Verdict: connector.SetupWrong, NotApplied: true, HTTPStatus: 302},
		{Verdict: connector.SetupWrong, NotApplied: true, HTTPStatus: 403, Code: "100100"},
		{Verdict: connector.Outage, NotApplied: true, Err: errors.New("connection refused")},
	} {
		bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
			if n == 1 {
				return answer
			}
			return delivered(n, req)
		}, func(t *testing.T, rig *rig) {
			for i := range 500 {
				rig.Submit([]*connector.Record{event(i, uint64(i))})
			}
			rig.Flush()
			rig.wait(t, 500)
			// The batch, one record as the probe, and the rest.
			if got := rig.fake.sent(); got != 3 {
				t.Errorf("%s, HTTP %d: %d requests, want 3", answer.Verdict, answer.HTTPStatus, got)
			}
		})
	}
}

// TestPointOutageIsProbed: while an endpoint for points is down no point leaves before a request that can't be applied was answered.
func TestPointOutageIsProbed(t *testing.T) {
	var over time.Time
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		if n == 1 {
			return connector.Answer{Verdict: connector.Outage, NotApplied: true, Err: errors.New("connection refused")}
		}
		if time.Now().Before(over) {
			t.Errorf("a point left during the outage")
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		over = time.Now().Add(time.Second)
		rig.fake.probe = func() connector.Answer {
			if time.Now().Before(over) {
				return unavailable
			}
			return connector.Answer{Verdict: connector.Delivered}
		}
		rig.Submit([]*connector.Record{point(0, 1)})
		rig.Flush()
		pass(time.Millisecond)
		rig.Submit([]*connector.Record{point(1, 2)})
		rig.Flush()
		rig.wait(t, 2)
		if rig.fake.probes < 2 || rig.fake.sent() != 3 {
			t.Errorf("%d probes, %d points sent", rig.fake.probes, rig.fake.sent())
		}
	})
}

// TestRetryAfter: what the platform asks for is waited, no less and not much more.
func TestRetryAfter(t *testing.T) {
	var at []time.Time
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		at = append(at, time.Now())
		if n < 4 {
			return connector.Answer{Verdict: connector.SlowDown, NotApplied: true, HTTPStatus: 429, RetryAfter: 7 * time.Minute}
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		rig.Submit([]*connector.Record{event(0, 0)})
		rig.Flush()
		rig.wait(t, 1)
		for i := range 3 {
			if d := at[i+1].Sub(at[i]); d < 7*time.Minute || d > 7*time.Minute+time.Second {
				t.Errorf("wait %d: %s", i, d)
			}
		}
	})
}

// TestTwoHoursOfOutage: nothing is lost, nothing grows, and few requests and fewer points are risked.
func TestTwoHoursOfOutage(t *testing.T) {
	down := map[string]connector.Answer{
		"unavailable": unavailable,
		"time-out":    timeOut,
		"forbidden":   forbidden,
		"token":       {Verdict: connector.TokenRefused, NotApplied: true, HTTPStatus: 401},
		"slow down":   {Verdict: connector.SlowDown, NotApplied: true, HTTPStatus: 429, RetryAfter: 20 * time.Second},
	}
	for name, answer := range down {
		for _, probes := range []bool{false, true} { // whether requests that can't be applied are answered
			t.Run(fmt.Sprintf("%s, probes answered %v", name, probes), func(t *testing.T) {
				var from, to time.Time
				away := func() bool { return time.Now().After(from) && time.Now().Before(to) }
				var mu sync.Mutex
				risked, lastRisk := 0, time.Time{}
				bubble(t, Config{MaxPending: 2000}, func(n int, req *connector.Request) connector.Answer {
					pass(10 * time.Millisecond)
					if !away() {
						return delivered(n, req)
					}
					if req.Endpoint == connector.PointEndpoint {
						mu.Lock()
						defer mu.Unlock()
						// The first eight were in flight, and one is the first probe.
						if risked++; risked > 9 && answer.Verdict == connector.Outage && !probes && time.Since(lastRisk) < 30*time.Second {
							t.Errorf("point %d was risked %s after another", risked, time.Since(lastRisk))
						}
						lastRisk = time.Now()
					}
					return answer
				}, func(t *testing.T, rig *rig) {
					from, to = time.Now().Add(time.Minute), time.Now().Add(time.Minute+2*time.Hour)
					rig.fake.probe = func() connector.Answer {
						if away() && !probes {
							return answer
						}
						return connector.Answer{Verdict: connector.Delivered}
					}
					const n = 10_000
					done := make(chan struct{})
					go func() {
						defer close(done)
						for i := range n {
							if room := rig.Room(); room != nil {
								<-room
							}
							if s := rig.Stats(); s.Pending > 2000 {
								t.Errorf("%d records pending", s.Pending)
							}
							rec := event(i, uint64(i%777))
							if i%3 == 0 {
								rec = point(i, uint64(i%777))
							}
							rig.Submit([]*connector.Record{rec})
							rig.Flush()
							pass(50 * time.Millisecond)
						}
					}()
					pass(2*time.Hour + 30*time.Second)
					if at, requests := rig.Stats(), rig.fake.sent(); at.Pending != 2000 || len(at.Down) != 2 {
						t.Errorf("before the end of the outage: %+v, %d requests", at, requests)
					}
					sent := rig.fake.sent()
					<-done
					rig.wait(t, n)
					rig.fake.checkOrder(t)
					uncertain := 0
					for _, l := range rig.store.list() {
						if l.Class != connector.ClassUncertain {
							t.Fatalf("dead letter %+v", l)
						}
						uncertain++
					}
					if rig.fake.done()+uncertain != n {
						t.Errorf("%d applied, %d uncertain", rig.fake.done(), uncertain)
					}
					mu.Lock()
					defer mu.Unlock()
					// The points that were in flight, then at most one for each backoff.max.
					if most := 8 + 8 + 240; answer.Verdict == connector.Outage && risked > most {
						t.Errorf("%d points were risked, at most %d", risked, most)
					}
					if answer.Verdict != connector.Outage && uncertain > 0 || len(rig.held) > 0 {
						t.Errorf("%d uncertain, held %v", uncertain, rig.held)
					}
					// A wait is 15 s on average.
					if most := 2500 + 3*480; sent > most {
						t.Errorf("%d requests until the end of the outage", sent)
					}
					t.Logf("%d requests, %d probes, %d points risked, %d uncertain", sent, rig.fake.probes, risked, uncertain)
				})
			})
		}
	}
}

// worded is an error that tells what happened apart from what to look at.
type worded struct {
	error
	what, cure string
}

func (w worded) Error() string          { return w.what + ". " + w.cure }
func (w worded) Told() (string, string) { return w.what, w.cure }
func (w worded) Unwrap() error          { return w.error }
func outageOf(w worded) (a connector.Answer) {
	return connector.Answer{Verdict: connector.Outage, Err: w}
}

// TestOutageCure: the alarm of an outage has one cure: what to look at where nothing has worked since the start, that nothing is to be done where it has worked, and since when
// it does not; a certificate that is not trusted is to be seen to in both cases.
func TestOutageCure(t *testing.T) {
	const waits = "changes wait in PostgreSQL, and delivery is tried again by itself"
	worked := time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local)
	refused := outageOf(worded{what: "POST u: dial h:1: connection refused", cure: "Check platform.baseURL."})
	untrusted := outageOf(worded{&tls.CertificateVerificationError{Err: errors.New("expired")}, "POST u: not trusted", "Check the clock."})
	const until = "nothing to do here: it worked until 2026-03-04 05:06:07; " + waits
	for _, c := range []struct {
		answer     connector.Answer
		worked     time.Time
		said, cure string
	}{
		{refused, time.Time{}, "POST u: dial h:1: connection refused", "Check platform.baseURL. Nothing is lost: " + waits},
		{refused, worked, "POST u: dial h:1: connection refused", until},
		{untrusted, time.Time{}, "POST u: not trusted", "Check the clock. Nothing is lost: " + waits},
		{untrusted, worked, "POST u: not trusted", "Check the clock. Nothing is lost: " + waits},
		{connector.Answer{Verdict: connector.Outage, HTTPStatus: 503}, time.Time{}, "HTTP 503", "nothing to do here: " + waits},
		{connector.Answer{Verdict: connector.Outage, HTTPStatus: 503}, worked, "HTTP 503", until},
	} {
		text, cure := explain(&endpoint{name: connector.EventEndpoint, worked: c.worked}, c.answer)
		if want := "the platform's endpoint event (platform.paths.event) is not to be reached or fails: " + c.said; text != want || cure != c.cure {
			t.Errorf("%v, worked %v:\n got %s | %s\nwant %s | %s", c.answer, c.worked, text, cure, want, c.cure)
		}
	}
}
