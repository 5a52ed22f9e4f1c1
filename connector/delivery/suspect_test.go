package delivery

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// The tests in this file run on a fake clock: what takes hours there takes none here.

var (
	unavailable = connector.Answer{Verdict: connector.Outage, HTTPStatus: 503}
	forbidden   = connector.Answer{Verdict: connector.SetupWrong, NotApplied: true, HTTPStatus: 403}
	timeOut     = connector.Answer{Verdict: connector.Outage, Err: errors.New("no answer within 10s")}
)

// bubble runs a test on a fake clock, with the backoff of the configuration's defaults.
func bubble(t *testing.T, cfg Config, answer func(n int, req *connector.Request) connector.Answer, test func(t *testing.T, rig *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.BackoffInitial, cfg.BackoffMax = 200*time.Millisecond, 30*time.Second
		rig := start(t, cfg, answer)
		rig.timeout = 100 * time.Hour
		test(t, rig)
		rig.stop()
	})
}

// pass lets time go by.
func pass(d time.Duration) { <-time.After(d) }

// carries reports whether a request carries one of the records with these indexes.
func carries(req *connector.Request, bad ...uint32) bool {
	return slices.ContainsFunc(req.Records, func(r *connector.Record) bool { return slices.Contains(bad, r.Position.Index) })
}

// TestFailsAlone: records that fail whenever they are sent, as in an outage or with 403, while their endpoint takes others: they are found, wait
// alone for giveUpAfter, and become dead letters. Their customers wait, nobody else does.
func TestFailsAlone(t *testing.T) {
	for _, c := range []struct {
		name        string
		answer      connector.Answer
		class       connector.Class
		concurrency int
		takes       time.Duration // of a failure
	}{
		{"unavailable", unavailable, connector.ClassFailing, 4, 10 * time.Millisecond},
		{"unavailable, one sender", unavailable, connector.ClassFailing, 1, 10 * time.Millisecond},
		{"time-out", timeOut, connector.ClassFailing, 4, 10 * time.Second},
		{"time-out, one sender", timeOut, connector.ClassFailing, 1, 10 * time.Second},
		{"forbidden", forbidden, connector.ClassRejected, 4, 10 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := []uint32{100, 333}
			bubble(t, Config{Concurrency: c.concurrency}, func(n int, req *connector.Request) connector.Answer {
				if carries(req, bad...) {
					pass(c.takes)
					return c.answer
				}
				pass(10 * time.Millisecond)
				return delivered(n, req)
			}, func(t *testing.T, rig *rig) {
				began := time.Now()
				at := map[uint32]time.Duration{}
				var slowest time.Duration
				done := make(chan struct{})
				const first, later = 500, 1000
				go func() {
					defer close(done)
					submitted := func(i uint32) time.Duration { return time.Duration(max(0, int(i)-first-2)) * time.Second }
					for range first + 2 + later {
						r := <-rig.settled
						i := r.Position.Index
						at[i] = time.Since(began)
						if i >= first+2 {
							slowest = max(slowest, at[i]-submitted(i))
						}
					}
				}()
				for i := range first {
					rig.Submit([]*connector.Record{event(i, uint64(i))})
				}
				rig.Submit([]*connector.Record{event(first, 100), event(first+1, 333)}) // behind the bad ones
				rig.Flush()
				for i := range later {
					rig.Submit([]*connector.Record{event(first+2+i, uint64(1000+i))})
					rig.Flush()
					pass(time.Second)
				}
				<-done
				if rig.store.count() != len(bad) {
					t.Fatalf("%d dead letters, want %d", rig.store.count(), len(bad))
				}
				for _, l := range rig.store.list() {
					if !slices.Contains(bad, l.Position.Index) || l.Class != c.class || l.Attempts < 10 || l.Answer.HTTPStatus != c.answer.HTTPStatus {
						t.Errorf("dead letter %+v", l)
					}
				}
				for _, i := range append(bad, first, first+1) {
					if at[i] < 15*time.Minute || at[i] > 17*time.Minute {
						t.Errorf("record %d was settled after %s", i, at[i])
					}
				}
				// With one sender others wait for the request that it makes, and while the batch is split for what that takes.
				if most := 2*c.takes + 100*time.Millisecond; slowest > most {
					t.Errorf("another customer waited %s, at most %s", slowest, most)
				}
				rig.fake.checkOrder(t)
				if len(rig.held) > 0 || rig.Stats().Failing != 0 {
					t.Errorf("held %v, %d failing", rig.held, rig.Stats().Failing)
				}
				if alarms := rig.ports.Alarms.List(); len(alarms) > 0 {
					t.Errorf("alarms %v", alarms)
				}
				t.Logf("%d requests, the slowest other took %s", rig.fake.sent(), slowest)
			})
		})
	}
}

// TestFailsAloneInABatch: no other record is there than those of the batch: it clears itself.
func TestFailsAloneInABatch(t *testing.T) {
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		if carries(req, 499) {
			return unavailable
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		for i := range 500 {
			rig.Submit([]*connector.Record{event(i, uint64(i))})
		}
		rig.Flush()
		for range 499 {
			<-rig.settled
		}
		t.Logf("%d requests", rig.fake.sent())
		if got, most := rig.fake.sent(), 1+2*1*9+2; got > most {
			t.Errorf("%d requests until all others were delivered, at most %d", got, most)
		}
		pass(time.Minute)
		if h := rig.Holdup(connector.Position{Commit: 1, Index: 499}); h == nil || h.HTTPStatus != 503 || h.Mapping != "e" || h.Attempts < 3 {
			t.Errorf("what holds the checkpoint: %+v", h)
		}
		if h := rig.Holdup(connector.Position{Commit: 1, Index: 498}); h != nil {
			t.Errorf("a settled record is said to hold the checkpoint: %+v", h)
		}
	})
}

// TestOnlyRecord: a record that is the only one of its endpoint can't be told from an outage while the endpoint does not answer anything, and is tried
// for ever; the next one of another customer goes out at once, and from then on the first one is known to fail alone.
func TestOnlyRecord(t *testing.T) {
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		if carries(req, 0) {
			return unavailable
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		rig.fake.probe = func() connector.Answer { return unavailable }
		rig.Submit([]*connector.Record{event(0, 0)})
		rig.Flush()
		pass(2 * time.Hour)
		if rig.store.count() > 0 || len(rig.Stats().Down) != 1 {
			t.Fatalf("%d dead letters, down %v", rig.store.count(), rig.Stats().Down)
		}
		if n := rig.fake.sent(); n < 300 || n > 900 {
			t.Errorf("%d requests in two hours", n)
		}
		rig.Submit([]*connector.Record{event(1, 1)})
		rig.Flush()
		synctest.Wait()
		if len(rig.settled) != 1 {
			t.Fatal("another customer's record waits")
		}
		for i := range 20 {
			pass(time.Minute)
			rig.Submit([]*connector.Record{event(2+i, uint64(2+i))})
			rig.Flush()
			synctest.Wait()
			if got := rig.fake.done(); got != 2+i {
				t.Fatalf("%d applied, want %d", got, 2+i)
			}
		}
		if rig.store.count() != 1 || rig.store.list()[0].Class != connector.ClassFailing {
			t.Errorf("dead letters %+v", rig.store.list())
		}
	})
}

// TestOnlyRecordOfAnEndpointThatAnswers: it is set aside, but not while the endpoint has stopped to answer.
func TestOnlyRecordOfAnEndpointThatAnswers(t *testing.T) {
	for _, resend := range []bool{false, true} {
		bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer { return unavailable }, func(t *testing.T, rig *rig) {
			rec := event(0, 0)
			if resend {
				rec = point(0, 0)
				rec.Resend = true
			}
			began := time.Now()
			rig.fake.probe = func() connector.Answer {
				if time.Since(began) > 10*time.Minute && time.Since(began) < 30*time.Minute {
					return unavailable
				}
				return connector.Answer{Verdict: connector.Delivered}
			}
			rig.Submit([]*connector.Record{rec})
			rig.Flush()
			rig.wait(t, 1)
			if took := time.Since(began); took < 30*time.Minute || took > time.Hour {
				t.Errorf("resend %v: set aside after %s", resend, took)
			}
			want := connector.ClassFailing
			if resend {
				want = connector.ClassUncertain
			}
			if l := rig.store.list()[0]; l.Class != want {
				t.Errorf("dead letter %+v", l)
			}
		})
	}
}

// TestPoisonInOutage: an outage ends, and the record with which it began is at fault by itself: it does not keep its endpoint closed.
func TestPoisonInOutage(t *testing.T) {
	var over time.Time
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		if time.Now().Before(over) || carries(req, 0, 1, 2) {
			return unavailable
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		over = time.Now().Add(time.Hour)
		rig.fake.probe = func() connector.Answer {
			if time.Now().Before(over) {
				return unavailable
			}
			return connector.Answer{Verdict: connector.Delivered}
		}
		for i := range 6 {
			rig.Submit([]*connector.Record{event(i, uint64(i))})
		}
		rig.Flush()
		pass(time.Hour + 4*30*time.Second)
		if got := rig.fake.done(); got != 3 {
			t.Errorf("%d of 3 good ones are delivered two minutes after the outage", got)
		}
	})
}

// TestHoldsMappingOfUncertainPoints: points of a mapping that each become uncertain, while those of another one are applied, have it held too; and an
// outage of both has none held.
func TestHoldsMappingOfUncertainPoints(t *testing.T) {
	var over time.Time
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		if req.Records[0].Mapping == "bad" || time.Now().Before(over) {
			return unavailable
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		over = time.Now().Add(3 * time.Hour)
		rig.fake.probe = func() connector.Answer {
			if time.Now().Before(over) {
				return unavailable
			}
			return connector.Answer{Verdict: connector.Delivered}
		}
		submit := func(i int) {
			bad, good := point(2*i, uint64(2*i)), point(2*i+1, uint64(2*i+1))
			bad.Mapping = "bad"
			rig.Submit([]*connector.Record{bad, good})
			rig.Flush()
			pass(10 * time.Second)
		}
		for i := range 1100 {
			submit(i)
		}
		pass(10 * time.Minute)
		if len(rig.held) > 0 && rig.store.count() < 100 {
			t.Errorf("held %v after an outage, with %d uncertain", rig.held, rig.store.count())
		}
		for i := 1100; i < 1250; i++ {
			submit(i)
		}
		if !slices.Equal(rig.held, []string{"bad"}) {
			t.Errorf("held %v", rig.held)
		}
	})
}

// TestAloneOnAQuietEndpoint: a record that is known to fail alone, on an endpoint that is given nothing else, is set aside in time, though the token was
// refused meanwhile.
func TestAloneOnAQuietEndpoint(t *testing.T) {
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		switch {
		case n == 20:
			return connector.Answer{Verdict: connector.TokenRefused, NotApplied: true, HTTPStatus: 401}
		case carries(req, 0):
			return unavailable
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		rig.fake.probe = func() connector.Answer { return unavailable }
		began := time.Now()
		rig.Submit([]*connector.Record{event(0, 0), event(1, 1), event(2, 2)})
		rig.Flush()
		rig.wait(t, 3)
		if took := time.Since(began); took > 17*time.Minute || rig.store.count() != 1 {
			t.Errorf("it took %s, %d dead letters", took, rig.store.count())
		}
		if alarms := rig.ports.Alarms.List(); len(alarms) > 0 {
			t.Errorf("alarms %v", alarms)
		}
	})
}

// TestKeepsIntent: the intent of a point that may have been applied stays, whatever becomes of a second request with it.
func TestKeepsIntent(t *testing.T) {
	bubble(t, Config{}, func(n int, _ *connector.Request) connector.Answer {
		if n == 1 {
			return unavailable
		}
		return connector.Answer{Verdict: connector.Outage, NotApplied: true, Err: errors.New("connection refused")}
	}, func(t *testing.T, rig *rig) {
		rec := point(0, 0)
		rec.Resend = true
		rig.Submit([]*connector.Record{rec})
		rig.Flush()
		pass(time.Hour)
		rig.store.mu.Lock()
		defer rig.store.mu.Unlock()
		if !rig.store.intents[rec.Key()] {
			t.Error("the intent was taken back")
		}
	})
}

// TestManyFailAlone: forty records that each time out leave the other customers their senders.
func TestManyFailAlone(t *testing.T) {
	bubble(t, Config{GiveUpAfter: 10 * time.Hour}, func(n int, req *connector.Request) connector.Answer {
		for _, r := range req.Records {
			if r.Position.Index < 40 {
				pass(10 * time.Second)
				return timeOut
			}
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		for i := range 40 {
			rig.Submit([]*connector.Record{event(i, uint64(i))})
		}
		late := 0
		for i := 40; i < 4000; i++ {
			rig.Submit([]*connector.Record{event(i, uint64(i))})
			rig.Flush()
			pass(time.Second)
			if i > 2000 && rig.fake.done() < i-40 {
				late++
			}
		}
		if s := rig.Stats(); s.Failing != 40 || s.Pending != 40 || late > 0 {
			t.Errorf("%+v; %d times another customer's record was not delivered within a second", s, late)
		}
	})
}

// TestFewAreAll: where records that fail are all there is, they are not set aside early, though they take half of maxPending.
func TestFewAreAll(t *testing.T) {
	bubble(t, Config{MaxPending: 10}, func(int, *connector.Request) connector.Answer { return unavailable }, func(t *testing.T, rig *rig) {
		for i := range 6 {
			rig.Submit([]*connector.Record{event(i, uint64(i))})
		}
		rig.Flush()
		pass(10 * time.Minute)
		if n, s := rig.store.count(), rig.Stats(); n != 0 || s.Failing != 6 {
			t.Errorf("%d dead letters, %+v", n, s)
		}
		rig.wait(t, 6)
	})
}

// TestOutageDoesNotCount: the time of an outage is no part of giveUpAfter.
func TestOutageDoesNotCount(t *testing.T) {
	var from, to time.Time
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		if carries(req, 0) || time.Now().After(from) && time.Now().Before(to) {
			return unavailable
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		began := time.Now()
		from, to = began.Add(5*time.Minute), began.Add(65*time.Minute)
		for i := 0; rig.store.count() == 0; i++ {
			rig.Submit([]*connector.Record{event(i, uint64(i))})
			rig.Flush()
			pass(time.Second)
		}
		if took := time.Since(began); took < 75*time.Minute || took > 78*time.Minute {
			t.Errorf("it was set aside after %s", took)
		}
	})
}

// TestStragglers: a request that began before an outage and is taken after another one has failed says nothing of that one's records.
func TestStragglers(t *testing.T) {
	bubble(t, Config{Concurrency: 2}, func(n int, req *connector.Request) connector.Answer {
		if n == 1 {
			pass(time.Second)
			return delivered(n, req)
		}
		pass(100 * time.Millisecond)
		return unavailable
	}, func(t *testing.T, rig *rig) {
		rig.fake.probe = func() connector.Answer { return unavailable }
		for i := range 1000 {
			rig.Submit([]*connector.Record{event(i, uint64(i))})
		}
		rig.Flush()
		pass(time.Hour)
		if s := rig.Stats(); s.Failing > 0 || len(s.Down) != 1 || rig.fake.sent() > 400 {
			t.Errorf("after an hour of outage: %+v, %d requests", s, rig.fake.sent())
		}
	})
}

// TestSlowPlatform: a platform that is too slow for large batches gets smaller ones, and no record is blamed.
func TestSlowPlatform(t *testing.T) {
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			bubble(t, Config{Concurrency: concurrency}, func(n int, req *connector.Request) connector.Answer {
				if len(req.Records) > 60 {
					pass(10 * time.Second)
					return timeOut
				}
				pass(time.Duration(len(req.Records)) * 150 * time.Millisecond)
				return delivered(n, req)
			}, func(t *testing.T, rig *rig) {
				const n = 4000
				for i := range n {
					rig.Submit([]*connector.Record{event(i, uint64(i))})
				}
				rig.Flush()
				began := time.Now()
				rig.wait(t, n)
				if rig.store.count() > 0 || rig.fake.done() != n {
					t.Errorf("%d dead letters, %d applied", rig.store.count(), rig.fake.done())
				}
				// The platform needs 150 ms a record.
				if took, least := time.Since(began), n*150*time.Millisecond/time.Duration(concurrency); took > 4*least {
					t.Errorf("it took %s, at least %s", took, least)
				}
				t.Logf("%d requests in %s", rig.fake.sent(), time.Since(began))
			})
		})
	}
}

// TestSetAsideEarly: records that fail alone take half of maxPending, or of its bytes: the oldest of them are set aside before giveUpAfter.
func TestSetAsideEarly(t *testing.T) {
	for name, cfg := range map[string]Config{"records": {MaxPending: 100}, "bytes": {MaxPendingBytes: 100 * len(event(0).Payload)}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, cfg, func(n int, req *connector.Request) connector.Answer {
				for _, r := range req.Records {
					if r.Position.Index%2 == 0 && r.Position.Index < 120 {
						return unavailable
					}
				}
				return delivered(n, req)
			}, func(t *testing.T, rig *rig) {
				for i := range 200 {
					rig.Submit([]*connector.Record{event(i, uint64(i))})
					rig.Flush()
					pass(time.Second)
				}
				// 60 of them failed; fewer than half of 100 may stay.
				if got := rig.Stats(); got.Failing != 49 || rig.store.count() != 11 || rig.fake.done() != 140 {
					t.Fatalf("%+v, %d dead letters, %d applied", got, rig.store.count(), rig.fake.done())
				}
				for i, l := range rig.store.list() {
					if l.Position.Index != uint32(2*i) || l.Class != connector.ClassFailing {
						t.Errorf("dead letter %d: %+v", i, l)
					}
				}
			})
		})
	}
}

// TestSetAsideForTheOthers: the many changes of one customer whose first record fails do not stop the others: it is set aside when there is no
// more room.
func TestSetAsideForTheOthers(t *testing.T) {
	bubble(t, Config{MaxPending: 1000}, func(n int, req *connector.Request) connector.Answer {
		if carries(req, 0) {
			return unavailable
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		began := time.Now()
		const n = 3000
		for i := range n {
			if room := rig.Room(); room != nil {
				<-room
			}
			rig.Submit([]*connector.Record{event(i, uint64(min(i%10, 1)*i))}) // every tenth is of one customer
			rig.Flush()
			synctest.Wait()
		}
		for i := n; i < n+1000; i++ {
			if room := rig.Room(); room != nil {
				<-room
			}
			rig.Submit([]*connector.Record{event(i, 0)})
		}
		rig.Flush()
		rig.wait(t, n+1000)
		if took := time.Since(began); took > time.Minute || rig.store.count() != 1 {
			t.Errorf("it took %s; %d dead letters", took, rig.store.count())
		}
		rig.fake.checkOrder(t)
	})
}

// TestOnlyCustomer: all that is pending is one customer's, behind a record that fails from the start, and there is no room for others. It is set aside
// where the endpoint answers what can't be applied, and nothing is where it does not.
func TestOnlyCustomer(t *testing.T) {
	for _, answers := range []bool{true, false} {
		bubble(t, Config{MaxPending: 100}, func(n int, req *connector.Request) connector.Answer {
			if carries(req, 0) {
				return unavailable
			}
			return delivered(n, req)
		}, func(t *testing.T, rig *rig) {
			if !answers {
				rig.fake.probe = func() connector.Answer { return unavailable }
			}
			for i := range 100 {
				rig.Submit([]*connector.Record{event(i, 7)})
			}
			room := rig.Room()
			pass(time.Hour)
			if !answers {
				if rig.store.count() > 0 || rig.fake.done() > 0 {
					t.Errorf("%d dead letters, %d applied", rig.store.count(), rig.fake.done())
				}
				return
			}
			<-room
			rig.wait(t, 100)
			if rig.store.count() != 1 || rig.fake.done() != 99 {
				t.Errorf("%d dead letters, %d applied", rig.store.count(), rig.fake.done())
			}
		})
	}
}

// TestHoldsFailingMapping: 100 records of a mapping are set aside in a row because they fail alone: it is held. Another mapping, and one that has a
// delivery between, are not.
func TestHoldsFailingMapping(t *testing.T) {
	bubble(t, Config{GiveUpAfter: time.Minute}, func(n int, req *connector.Request) connector.Answer {
		for _, r := range req.Records {
			if r.Mapping == "bad" || r.Mapping == "mixed" && r.Position.Index%80 != 0 {
				return unavailable
			}
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		for i := range 150 {
			for m, mapping := range []string{"bad", "mixed", "good"} {
				r := event(i, uint64(3*i+m))
				r.Mapping = mapping
				rig.Submit([]*connector.Record{r})
			}
			rig.Flush()
			pass(10 * time.Second)
		}
		rig.wait(t, 450)
		if !slices.Equal(rig.held, []string{"bad"}) {
			t.Errorf("held %q", rig.held)
		}
	})
}
