package delivery

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// retry keeps the intents of what is sent again where those of all points are.
func (r *rig) retry(done func(*connector.DeadLetter)) *Retry {
	return &Retry{Done: done, Void: func() {},
		Intend: func(ctx context.Context, rec *connector.Record) error {
			return r.store.Intend(ctx, []connector.RecordID{rec.RecordID})
		}}
}

// TestResubmitPoint: a point that is sent again has its intent from who sends it, and its end there: nothing of it goes to the store's points.
func TestResubmitPoint(t *testing.T) {
	for name, c := range map[string]struct {
		answers []connector.Answer
		want    []string
	}{
		"delivered": {[]connector.Answer{{Verdict: connector.Delivered}}, []string{"intend", "delivered"}},
		"rejected":  {[]connector.Answer{wrong}, []string{"intend", "rejected"}},
		"slow down, then delivered": {[]connector.Answer{{Verdict: connector.SlowDown, NotApplied: true, HTTPStatus: 429}, {Verdict: connector.Delivered}},
			[]string{"intend", "void", "intend", "delivered"}},
		"uncertain": {[]connector.Answer{{Verdict: connector.Outage}}, []string{"intend", "uncertain"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Config{}, func(n int, _ *connector.Request) connector.Answer { return c.answers[n-1] }, func(t *testing.T, rig *rig) {
				var got []string
				ended := make(chan struct{})
				retry := rig.retry(func(l *connector.DeadLetter) {
					end := "delivered"
					if l != nil {
						end = string(l.Class)
					}
					got = append(got, end)
					close(ended)
				})
				intend := retry.Intend
				retry.Intend = func(ctx context.Context, rec *connector.Record) error {
					if err := intend(ctx, rec); err != nil {
						return err
					}
					got = append(got, "intend")
					return nil
				}
				retry.Void = func() { got = append(got, "void") }
				rig.Resubmit([]*connector.Record{point(1, 7)}, retry)
				<-ended
				if !slices.Equal(got, c.want) {
					t.Errorf("got %q, want %q", got, c.want)
				}
				rig.store.mu.Lock()
				defer rig.store.mu.Unlock()
				if len(rig.store.applied) > 0 || len(rig.store.letters) > 0 || len(rig.store.intents) != 1 {
					t.Errorf("the store was told: %+v", rig.store)
				}
			})
		})
	}
}

// TestResubmitOvertaken: a group relation is not sent again behind newer ones of its customer that are pending, unless anyway; older ones, other customers' and
// events don't matter. What is delivered is told to the store.
func TestResubmitOvertaken(t *testing.T) {
	bubble(t, Config{MaxDeadLetters: 1}, delivered, func(t *testing.T, rig *rig) {
		rig.Lettered(2) // nothing goes out
		rig.Submit([]*connector.Record{group(5, "delete", 7), group(1, "add", 8), event(9, 9)})
		synctest.Wait()
		ends := make(chan *connector.DeadLetter, 3)
		retry := rig.retry(func(l *connector.DeadLetter) { ends <- l })
		for _, c := range []struct {
			record *connector.Record
			taken  bool
		}{{group(3, "add", 7), false}, {group(3, "add", 6, 7), false}, {group(3, "add", 8), true}, {group(3, "add", 9), true}, {event(3, 7), true}} {
			if taken := rig.Resubmit([]*connector.Record{c.record}, retry); taken != c.taken {
				t.Errorf("%v: taken %v", c.record.Keys, taken)
			}
		}
		if rig.Resubmit([]*connector.Record{group(3, "add", 5), group(3, "add", 7)}, retry) {
			t.Error("half of a letter was taken")
		}
		anyway := rig.retry(func(l *connector.DeadLetter) { ends <- l })
		anyway.Anyway = true
		if !rig.Resubmit([]*connector.Record{group(3, "add", 7)}, anyway) {
			t.Error("not taken")
		}
		rig.Resume()
		for range 4 {
			if l := <-ends; l != nil {
				t.Errorf("letter %+v", l)
			}
		}
		rig.wait(t, 3)
		rig.store.mu.Lock()
		defer rig.store.mu.Unlock()
		if n := len(rig.store.overtaking); n != 5 {
			t.Errorf("the store was told of %d group relations, want 5", n)
		}
	})
}
