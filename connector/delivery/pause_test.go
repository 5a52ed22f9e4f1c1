package delivery

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

var wrong = connector.Answer{Verdict: connector.Rejected, NotApplied: true, HTTPStatus: 200, Code: "400", Msg: "wrong"}

func (r *rig) alarmed(key string) bool {
	return slices.ContainsFunc(r.ports.Alarms.List(), func(a connector.Alarm) bool { return a.Key == key })
}

// TestPauseWhenRejected: more than half of 1,000 records in a row are rejected: delivery pauses, sets no more aside, and tries one record every
// BackoffMax until one is delivered.
func TestPauseWhenRejected(t *testing.T) {
	for _, c := range []struct {
		on  bool
		bad func(i uint32) bool
	}{
		{true, func(i uint32) bool { return i >= 400 }},
		{true, func(i uint32) bool { return i%3 == 0 }}, // less than half
		{false, func(i uint32) bool { return i >= 400 }},
	} {
		var mended atomic.Bool
		paused := c.on && !c.bad(0)
		bubble(t, Config{PauseWhenRejected: c.on, MaxBatch: 50, MaxDeadLetters: 100_000}, func(n int, req *connector.Request) connector.Answer {
			if !mended.Load() && slices.ContainsFunc(req.Records, func(r *connector.Record) bool { return c.bad(r.Position.Index) }) {
				return wrong
			}
			return delivered(n, req)
		}, func(t *testing.T, rig *rig) {
			const n = 3000
			for i := range n {
				rig.Submit([]*connector.Record{event(i, uint64(i))})
			}
			rig.Flush()
			synctest.Wait()
			if !paused {
				rig.wait(t, n)
				return
			}
			// Each of the senders may set one more aside.
			letters := rig.store.count()
			if letters < 501 || letters > 505 || !rig.alarmed(rejectedAlarm) || !rig.Stats().Paused {
				t.Fatalf("%d dead letters, %+v", letters, rig.Stats())
			}
			requests := rig.fake.sent()
			pass(10 * time.Minute)
			if rig.store.count() != letters || rig.fake.sent() < requests+1 || rig.fake.sent() > requests+20 {
				t.Errorf("in ten minutes of pause %d dead letters came, and %d requests were made", rig.store.count()-letters, rig.fake.sent()-requests)
			}
			tried := map[uint32]int{}
			for _, req := range rig.fake.all()[requests:] {
				if len(req.Records) != 1 {
					t.Errorf("%d records were tried at once", len(req.Records))
				}
				tried[req.Records[0].Position.Index]++
			}
			for i, times := range tried {
				if times > 1 {
					t.Errorf("record %d was tried %d times while others waited", i, times)
				}
			}
			mended.Store(true)
			rig.wait(t, n)
			if rig.alarmed(rejectedAlarm) || rig.Stats().Paused {
				t.Error("still paused")
			}
		})
	}
}

// TestPauseForDeadLetters: with more than MaxDeadLetters open nothing is read or sent but one trial every BackoffMax. It ends when there are fewer,
// when a trial is delivered, or by Resume, which allows as many again.
func TestPauseForDeadLetters(t *testing.T) {
	for _, end := range []string{"fewer", "trial", "resume"} {
		t.Run(end, func(t *testing.T) {
			var mended atomic.Bool
			bubble(t, Config{MaxBatch: 10, MaxDeadLetters: 20}, func(n int, req *connector.Request) connector.Answer {
				if !mended.Load() && req.Endpoint == connector.EventEndpoint {
					return wrong
				}
				return delivered(n, req)
			}, func(t *testing.T, rig *rig) {
				for i := range 60 {
					rig.Submit([]*connector.Record{event(i, uint64(i))})
				}
				rig.Flush()
				synctest.Wait()
				letters := rig.store.count()
				if letters < 21 || letters > 24 || !rig.alarmed(lettersAlarm) {
					t.Fatalf("%d dead letters", letters)
				}
				if rig.Room() == nil {
					t.Error("changes are read during the pause: each might become a letter of class mapping")
				}
				pass(2 * time.Minute)
				if rig.store.count() != letters {
					t.Errorf("%d dead letters more during the pause", rig.store.count()-letters)
				}
				switch end {
				case "fewer":
					rig.store.mu.Lock()
					rig.store.letters = nil
					rig.store.mu.Unlock()
					pass(6 * time.Second)
					if got := rig.store.count(); got < 21 {
						t.Errorf("%d dead letters after the pause ended", got)
					}
				case "trial":
					mended.Store(true)
					pass(time.Minute)
					if rig.Stats().Pending != 0 || rig.store.count() != letters {
						t.Errorf("%+v", rig.Stats())
					}
				case "resume":
					rig.Resume()
					synctest.Wait()
					if got := rig.store.count(); got < 41 || got > 50 {
						t.Errorf("%d dead letters, want about 20 more", got)
					}
				}
			})
		})
	}
}

// TestPauseByLettersOfOthers: letters that the pipeline stores count too. Where nothing is pending one change is read every BackoffMax, whose
// delivery ends the pause.
func TestPauseByLettersOfOthers(t *testing.T) {
	bubble(t, Config{MaxDeadLetters: 20}, delivered, func(t *testing.T, rig *rig) {
		for range 21 {
			_ = rig.store.SetAside(t.Context(), []*connector.DeadLetter{{}})
		}
		rig.Lettered(20)
		if rig.Room() != nil {
			t.Fatal("20 letters of 20 are not too many")
		}
		rig.Lettered(1)
		room := rig.Room()
		if room == nil {
			t.Fatal("no pause")
		}
		began := time.Now()
		<-room
		if rig.Room() != nil || rig.Room() == nil {
			t.Error("one change may be read, and no more")
		}
		if took := time.Since(began); took < 30*time.Second || took > 36*time.Second {
			t.Errorf("it took %s", took)
		}
		rig.Submit([]*connector.Record{event(0, 0)})
		rig.Flush()
		rig.wait(t, 1)
		if rig.Room() != nil || rig.alarmed(lettersAlarm) {
			t.Error("still paused")
		}
	})
}

// TestResubmit: dead letters that are sent again pass a pause, keep their customer's order, and end with who sent them.
func TestResubmit(t *testing.T) {
	bubble(t, Config{MaxDeadLetters: 1}, func(n int, req *connector.Request) connector.Answer {
		if carries(req, 3) {
			return wrong
		}
		return delivered(n, req)
	}, func(t *testing.T, rig *rig) {
		rig.Lettered(2)
		rig.Submit([]*connector.Record{event(0, 7)})
		rig.Flush()
		synctest.Wait()
		if rig.fake.sent() != 0 {
			t.Fatal("sent during a pause")
		}
		ends := make(chan *connector.DeadLetter, 3)
		retry := rig.retry(func(l *connector.DeadLetter) { ends <- l })
		rig.Resubmit([]*connector.Record{event(1, 8)}, retry)
		rig.Resubmit([]*connector.Record{event(2, 7)}, retry) // behind record 0, which waits for the pause's end
		rig.Resubmit([]*connector.Record{event(3, 9)}, retry)
		var letter *connector.DeadLetter
		for range 2 {
			if l := <-ends; l != nil {
				letter = l
			}
		}
		if letter == nil || letter.Position.Index != 3 || letter.Class != connector.ClassRejected || rig.store.count() != 0 {
			t.Errorf("letter %+v, %d stored", letter, rig.store.count())
		}
		if len(ends) != 0 {
			t.Error("one overtook its customer's record")
		}
		rig.Resume()
		if l := <-ends; l != nil {
			t.Errorf("letter %+v", l)
		}
		rig.wait(t, 1)
		rig.fake.checkOrder(t)
	})
}

// TestNewAlarms: what an earlier Delivery has raised does not stand for ever.
func TestNewAlarms(t *testing.T) {
	rig := start(t, Config{}, delivered)
	for _, key := range []string{"delivery/event", lettersAlarm, rejectedAlarm, failingAlarm} {
		rig.ports.Alarms.Raise(key, "x", "y")
	}
	rig.ports.Alarms.Raise("state", "x", "y")
	New(rig.cfg, rig.ports, 0)
	if list := rig.ports.Alarms.List(); len(list) != 1 || strings.HasPrefix(list[0].Key, "delivery") {
		t.Errorf("alarms %v", list)
	}
}
