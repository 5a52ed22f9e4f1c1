package delivery

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// dice are random numbers for many goroutines.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) roll(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// anyAnswer is a platform that answers in every way at random.
func anyAnswer(d *dice, n int, req *connector.Request) connector.Answer {
	switch d.roll(24) {
	case 0:
		return connector.Answer{Verdict: connector.Outage, NotApplied: true, Err: errors.New("refused")}
	case 1, 2:
		return unavailable
	case 3:
		return timeOut
	case 4:
		return forbidden
	case 5:
		return connector.Answer{Verdict: connector.SlowDown, NotApplied: true, HTTPStatus: 429, RetryAfter: time.Duration(d.roll(3)) * time.Second}
	case 6:
		return connector.Answer{Verdict: connector.TokenRefused, NotApplied: true, HTTPStatus: 401}
	case 7:
		return connector.Answer{Verdict: connector.SetupWrong, NotApplied: true, HTTPStatus: 200, Code: "100100"}
	case 8, 9:
		return wrong
	case 10:
		return connector.Answer{Verdict: connector.TooBig, NotApplied: true, HTTPStatus: 413}
	case 11, 12:
		if req.Endpoint == connector.GroupRelationEndpoint {
			return connector.Answer{Verdict: connector.Partly, Failed: []int{d.roll(len(req.Records))}}
		}
	}
	return delivered(n, req)
}

// dump tells how it stands.
func (r *rig) dump(t *testing.T) {
	for _, e := range r.queue.ends {
		t.Logf("%s: down %v, probing %v, verdict %s, in flight %d, ready %v, %+v", e.name, e.down, e.probing, e.verdict, e.flying, e.hasReady(), e.suspects)
	}
	t.Logf("pause: letters %v, rejected %v, trying %v, at %s, endpoint %s, %d open",
		r.pause.letters, r.pause.rejected, r.pause.trying, r.pause.tryAt, r.pause.end, r.pause.open)
}

// waitRoom waits for room.
func (r *rig) waitRoom(t *testing.T) {
	t.Helper()
	for room := r.Room(); room != nil; room = r.Room() {
		select {
		case <-room:
		case <-time.After(r.timeout):
			t.Errorf("there is no room in %s: %+v", r.timeout, r.Stats())
			r.dump(t)
			t.FailNow()
		}
	}
}

// TestModel submits records of all kinds for few customers, some with two identities, to a platform that answers in every way at random, and
// always fails for some. Each record ends settled exactly once, applied or as a dead letter and never both; what was applied was applied in each key's
// order, and no key was in two requests at once (which the fake platform checks).
func TestModel(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			d := &dice{r: rand.New(rand.NewPCG(seed, 2))}
			const n = 1000
			poison := map[uint32]bool{}
			var cured atomic.Bool
			for range d.roll(30) {
				poison[uint32(d.roll(n))] = true
			}
			cfg := Config{Concurrency: 1 + d.roll(8), MaxBatch: 1 + d.roll(40), MaxPending: 50 + d.roll(400), GiveUpAfter: time.Minute,
				MaxDeadLetters: 10 + d.roll(1000), PauseWhenRejected: d.roll(2) == 0}
			bubble(t, cfg, func(n int, req *connector.Request) connector.Answer {
				pass(time.Duration(d.roll(50)) * time.Millisecond)
				for _, r := range req.Records {
					if !cured.Load() && poison[r.Position.Index] {
						return unavailable
					}
				}
				return anyAnswer(d, n, req)
			}, func(t *testing.T, rig *rig) {
				rig.fake.probe = func() connector.Answer {
					if d.roll(3) == 0 {
						return unavailable
					}
					return connector.Answer{Verdict: connector.Delivered}
				}
				over := make(chan struct{})
				defer close(over)
				go func() { // an operator who mends it one day: all that could be sent may be what never comes through
					for {
						select {
						case <-over:
							return
						case <-time.After(10 * time.Hour):
							cured.Store(true)
							rig.Resume()
						}
					}
				}()
				resent := make(chan *connector.DeadLetter, n)
				again := 0
				for i := range n {
					rig.waitRoom(t)
					keys := []uint64{uint64(d.roll(40))}
					if d.roll(3) == 0 {
						keys = append(keys, 100+uint64(d.roll(10)))
					}
					var rec *connector.Record
					switch kind := d.roll(6); kind {
					case 0:
						rec = point(i, keys...)
						rec.Resend = d.roll(4) == 0
						rec.Decrease = d.roll(4) == 0
					case 1, 2:
						rec = event(i, keys...)
					default:
						rec = group(i, []string{"add", "update", "delete"}[kind-3], keys...)
					}
					if d.roll(20) == 0 {
						again++
						retry := rig.retry(func(l *connector.DeadLetter) { resent <- l })
						retry.Anyway = true
						rig.Resubmit([]*connector.Record{rec}, retry)
						continue
					}
					rig.Submit([]*connector.Record{rec})
					if d.roll(5) == 0 {
						rig.Flush()
					}
				}
				rig.Flush()
				pass(2 * cfg.GiveUpAfter)
				cured.Store(true) // with nothing else to be sent nothing tells that they fail alone
				ends := make([]*connector.DeadLetter, again)
				for i := range ends {
					select {
					case ends[i] = <-resent:
					case <-time.After(rig.timeout):
						t.Fatalf("%d of %d that were sent again ended; %+v", i, again, rig.Stats())
					}
				}
				rig.wait(t, n-again)
				synctest.Wait() // the senders are done with it
				rig.fake.checkOrder(t)
				rig.fake.mu.Lock()
				defer rig.fake.mu.Unlock()
				once := map[connector.RecordKey]int{}
				for _, rec := range rig.fake.applied {
					once[rec.Key()]++
				}
				for _, l := range rig.store.letters {
					once[l.Key()]++
				}
				for _, l := range ends {
					if l != nil {
						once[l.Key()]++
					}
				}
				if len(once) != n {
					t.Fatalf("%d of %d records were applied or set aside", len(once), n)
				}
				for k, c := range once {
					if c != 1 {
						t.Errorf("%v was applied or set aside %d times", k, c)
					}
				}
				for _, e := range rig.queue.ends {
					if e.waits() || e.hasReady() || e.flying != 0 || e.busy != 0 {
						t.Errorf("endpoint %s is left with %+v", e.name, e.suspects)
					}
				}
			})
		})
	}
}

// TestSplitCost: k bad records among n cost at most 2*k*ceil(log2 n) requests more, whether they are rejected, too large together, or fail as in an
// outage while others are delivered; they alone become dead letters.
func TestSplitCost(t *testing.T) {
	d := &dice{r: rand.New(rand.NewPCG(1, 2))}
	for _, answer := range []connector.Answer{wrong, {Verdict: connector.TooBig, NotApplied: true, HTTPStatus: 413}} {
		for _, n := range []int{1, 2, 3, 7, 64, 100, 499, 500} {
			for _, k := range []int{0, 1, 2, 5, 20, n} {
				if k > n {
					continue
				}
				bad := map[uint32]bool{}
				for len(bad) < k {
					bad[uint32(d.roll(n))] = true
				}
				bubble(t, Config{Concurrency: 1}, func(m int, req *connector.Request) connector.Answer {
					for _, r := range req.Records {
						if bad[r.Position.Index] {
							return answer
						}
					}
					return delivered(m, req)
				}, func(t *testing.T, rig *rig) {
					for i := range n {
						rig.Submit([]*connector.Record{event(i, uint64(i%50))}) // customers with many records, too
					}
					rig.Flush()
					rig.wait(t, n)
					if got, most := rig.fake.sent(), 1+2*k*bits.Len(uint(n-1)); got > most {
						t.Errorf("%d bad among %d: %d requests, at most %d", k, n, got, most)
					}
					for _, l := range rig.store.list() {
						if !bad[l.Position.Index] || l.Class != connector.ClassRejected {
							t.Errorf("dead letter %+v", l)
						}
					}
					if rig.store.count() != k || rig.fake.done() != n-k {
						t.Errorf("%d bad among %d: %d dead letters, %d applied", k, n, rig.store.count(), rig.fake.done())
					}
					alone := map[uint32]bool{}
					for _, req := range rig.fake.all() {
						if len(req.Records) == 1 {
							alone[req.Records[0].Position.Index] = true
						}
					}
					for i := range bad {
						if !alone[i] {
							t.Errorf("record %d was judged in company", i)
						}
					}
					rig.fake.checkOrder(t)
				})
			}
		}
	}
}

// TestPartly: of a group relation that was partly imported exactly the records that the platform names are set aside.
func TestPartly(t *testing.T) {
	bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		a := connector.Answer{Verdict: connector.Partly}
		for i, r := range req.Records {
			if r.Position.Index%7 == 0 {
				a.Failed = append(a.Failed, i)
			}
		}
		return a
	}, func(t *testing.T, rig *rig) {
		for i := range 200 {
			rig.Submit([]*connector.Record{group(i, "add", uint64(i))})
		}
		rig.Flush()
		rig.wait(t, 200)
		if rig.store.count() != 29 || rig.fake.done() != 171 || rig.fake.sent() != 1 {
			t.Errorf("%d dead letters, %d applied, %d requests", rig.store.count(), rig.fake.done(), rig.fake.sent())
		}
		for _, l := range rig.store.list() {
			if l.Position.Index%7 != 0 {
				t.Errorf("dead letter %+v", l)
			}
		}
	})
}

// TestLargeRecord: a record larger than maxPendingBytes, and than maxBatchBytes, goes alone, and nothing more is read until it is settled.
func TestLargeRecord(t *testing.T) {
	bubble(t, Config{MaxPendingBytes: 1000, MaxBatchBytes: 500, Concurrency: 1}, func(n int, req *connector.Request) connector.Answer {
		pass(time.Second)
		if carries(req, 1) && len(req.Records) != 1 {
			t.Errorf("the large record shares a request with %d others", len(req.Records)-1)
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		large := event(1, 1)
		large.Payload = make([]byte, 5000)
		rig.Submit([]*connector.Record{event(0, 0)})
		if rig.Room() != nil {
			t.Fatal("no room behind a small record")
		}
		rig.Submit([]*connector.Record{large})
		began := time.Now()
		room := rig.Room()
		if room == nil {
			t.Fatal("room beside a record that is larger than maxPendingBytes")
		}
		<-room
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("there was room after %s, before the large record was settled", took)
		}
		rig.wait(t, 2)
	})
}

// TestFullBatches: of 10,000 customers with alternating add and delete, requests carry on average over 80 % of a batch, in whatever order they come,
// and though the source often has nothing more to read.
func TestFullBatches(t *testing.T) {
	const n, customers = 300_000, 10_000 // what is left at the end can fill no batch
	for name, next := range map[string]func(d *dice, i int) int{
		"in turns":  func(_ *dice, i int) int { return i % customers },
		"at random": func(d *dice, _ int) int { return d.roll(customers) },
		"in pairs":  func(_ *dice, i int) int { return i / 2 % customers },
	} {
		t.Run(name, func(t *testing.T) {
			d := &dice{r: rand.New(rand.NewPCG(3, 4))}
			bubble(t, Config{}, func(n int, req *connector.Request) connector.Answer {
				pass(50*time.Millisecond + time.Duration(d.roll(50))*time.Millisecond)
				return delivered(n, req)
			}, func(t *testing.T, rig *rig) {
				deleted := make([]bool, customers)
				go func() {
					for i := range n {
						rig.waitRoom(t)
						c := next(d, i)
						opt := "add"
						if deleted[c] = !deleted[c]; !deleted[c] {
							opt = "delete"
						}
						if i%200 == 0 {
							opt = "update" // few of another kind must not go out one by one
						}
						rig.Submit([]*connector.Record{group(i, opt, uint64(c))})
						if i%1000 == 0 {
							rig.Flush()
						}
					}
					rig.Flush()
				}()
				rig.wait(t, n)
				rig.fake.checkOrder(t)
				got := float64(n) / float64(rig.fake.sent())
				t.Logf("%.0f records a request", got)
				if got < 400 {
					t.Error("less than 80 % of 500")
				}
			})
		})
	}
}
