package connector

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// hand keeps what it is given until the test settles it.
type hand struct{ open []*Record }

func (h *hand) Run(context.Context) error { return nil }
func (h *hand) Submit(records []*Record)  { h.open = append(h.open, records...) }
func (h *hand) Flush()                    {}
func (h *hand) Room() <-chan struct{}     { return nil }

func (h *hand) take(i int) *Record {
	taken := h.open[i]
	h.open = slices.Delete(h.open, i, i+1)
	return taken
}

// session is a pipeline without goroutines: a test plays the stream and settles.
type session struct {
	*Pipeline
	hand *hand
}

func newSession(cp *Checkpoint) *session {
	log := slog.New(slog.DiscardHandler)
	s := &session{hand: &hand{}}
	s.Pipeline = NewPipeline(PipelineOptions{Mapper: oneEach{}, Store: &drawer{}, Saved: &Saved{Checkpoint: cp}, Alarms: NewAlarms(log), Log: log})
	s.deliverer, s.atOnce = s.hand, 1
	return s
}

// transaction plays a transaction whose changes have these tables; its commit LSN is lsn, its end lsn + 5.
func (s *session) transaction(t *testing.T, lsn LSN, tables ...string) {
	t.Helper()
	for i, table := range tables {
		if err := s.Change(change(lsn, uint32(i), table)); err != nil {
			t.Fatal(err)
		}
	}
	s.Commit(lsn, lsn+5, change(lsn, 0, "").CommitTime)
}

// deliver settles all that is open and tells what it was: mapping and commit LSN.
func (s *session) deliver() string {
	var got []string
	for len(s.hand.open) > 0 {
		r := s.hand.take(0)
		got = append(got, fmt.Sprintf("%s%d", r.Mapping, r.Position.Commit))
		r.change.settle(r.RecordID)
	}
	return strings.Join(got, " ")
}

func expectText(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// TestHeldMapping: a mapping that can't read a change is held, the others flow; mended, it gets from there on what it missed, in order, and the
// others get nothing twice.
func TestHeldMapping(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5})
	s.transaction(t, 10, "eh")
	s.transaction(t, 20, "e", "e!", "eh")
	s.transaction(t, 30, "eh")
	expectText(t, "while held", s.deliver(), "e10 h10 e20 e20 e20 e30")
	cp := s.checkpoint()
	if want := (Position{20, 1}); len(cp.Tracks) != 1 || cp.Tracks[0].Since != want || cp.Flush != 15 || cp.Settled != (Position{30, 0}) {
		t.Fatalf("%+v", cp)
	}
	if h := s.HeldMappings(); len(h) != 1 || h[0].Reason != "no such column" || len(s.alarms.List()) != 1 {
		t.Errorf("%+v", h)
	}

	again := newSession(cp) // it still can't
	again.transaction(t, 20, "e", "e!", "eh")
	again.transaction(t, 30, "eh")
	again.transaction(t, 40, "eh")
	expectText(t, "held again", again.deliver(), "e40")
	cp = again.checkpoint()
	if cp.Flush != 15 || len(cp.Tracks) != 1 {
		t.Fatalf("%+v", cp)
	}

	mended := newSession(cp)
	mended.transaction(t, 20, "e", "eh", "eh")
	expectText(t, "working off", mended.deliver(), "h20 h20")
	mended.transaction(t, 30, "eh")
	mended.transaction(t, 40, "eh")
	mended.transaction(t, 50, "eh")
	expectText(t, "mended", mended.deliver(), "h30 h40 e50 h50")
	mended.KeepAlive(56)
	if cp = mended.checkpoint(); len(cp.Tracks) != 0 || cp.Flush != 56 || len(mended.alarms.List()) != 0 {
		t.Errorf("%+v", cp)
	}
}

// TestHeldSetAside: with set-aside, what a held mapping can't read becomes letters, in the stream's order, and it goes on by itself once it fits.
func TestHeldSetAside(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5})
	s.transaction(t, 10, "e!")
	s.deliver()
	cp := s.checkpoint()
	cp.Tracks[0].SetAside = true
	s = newSession(cp)
	s.transaction(t, 10, "e!")
	s.transaction(t, 20, "e!")
	expectText(t, "set aside", s.deliver(), "e20")
	for _, q := range s.letters.take() {
		q.change.settle(q.letter.RecordID)
	}
	s.KeepAlive(26)
	if cp = s.checkpoint(); cp.Flush != 26 || len(cp.Tracks) != 1 {
		t.Errorf("it stays apart while it can't read, and keeps nothing: %+v", cp)
	}
	s.transaction(t, 30, "eh")
	expectText(t, "fits", s.deliver(), "e30 h30")
	s.KeepAlive(36)
	if cp = s.checkpoint(); cp.Flush != 36 || len(cp.Tracks) != 0 {
		t.Errorf("%+v", cp)
	}
}

// TestHoldAsked: a mapping that somebody wants held is held from the next change on, across restarts, until its track is let go.
func TestHoldAsked(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5})
	s.transaction(t, 10, "eh")
	s.Hold("h", HoldFailing, Unfit{Why: "a hundred failed in a row"})
	s.transaction(t, 20, "eh")
	expectText(t, "held", s.deliver(), "e10 h10 e20")
	s = newSession(s.checkpoint())
	s.transaction(t, 20, "eh")
	s.transaction(t, 30, "eh")
	expectText(t, "still held", s.deliver(), "e30")
	cp := s.checkpoint()
	if cp.Flush != 15 || cp.Tracks[0].Held != HoldFailing || len(s.alarms.List()) != 1 {
		t.Fatalf("%+v", cp)
	}
	cp.Tracks[0].Held = ""
	s = newSession(cp)
	s.transaction(t, 20, "eh")
	s.transaction(t, 30, "eh")
	expectText(t, "let go", s.deliver(), "h20 h30")
}

// TestTracksAgainstModel plays random streams with random settling, holds, mends and crashes, and asks of each checkpoint that it covers nothing that
// is not settled, that PostgreSQL is told nothing beyond, and of the whole that nothing is lost and each record settled once where the
// last checkpoint was taken after it.
func TestTracksAgainstModel(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		const transactions = 12
		stream := make([][]string, transactions) // which mappings each change is for, ! where h can't read it at first
		for i := range stream {
			for range 1 + rnd.IntN(3) {
				stream[i] = append(stream[i], []string{"eh", "e!", "h", "!", "e", "x", "ehp"}[rnd.IntN(7)])
			}
		}
		settled := map[RecordKey]int{}
		var all []RecordKey
		for i, tables := range stream {
			for j, table := range tables {
				for n, m := range strings.ReplaceAll(table, "!", "h") {
					if m != 'x' {
						c := change(LSN(10*(i+1)), uint32(j), "")
						all = append(all, RecordKey{string(m), c.Position, c.CommitTime.UnixMicro(), n})
					}
				}
			}
		}
		cp := &Checkpoint{Flush: 5}
		ever := map[RecordKey]bool{} // settled, and a checkpoint that was gone on from said so
		check := func(next *Checkpoint) {
			t.Helper()
			if next.Flush < cp.Flush {
				t.Fatalf("seed %d: flush goes back from %s to %s", seed, cp.Flush, next.Flush)
			}
			for _, k := range all {
				if settled[k] == 0 && (next.CoversRecord(k) || slices.Contains(next.Partial, k) || next.Flush >= k.Position.Commit+5) {
					t.Fatalf("seed %d: %+v is not settled, but covered by %+v", seed, k, next)
				}
			}
		}
		for round := 0; ; round++ {
			mended := round > 3 || rnd.IntN(2) == 0
			last := round > 6
			s := newSession(cp)
			saved := map[RecordKey]bool{}
			for _, k := range all {
				saved[k] = ever[k] || cp.CoversRecord(k) || slices.ContainsFunc(cp.Tracks, func(t Track) bool { return slices.Contains(t.Partial, k) }) || slices.Contains(cp.Partial, k)
			}
			for k, is := range saved {
				ever[k] = is
			}
			settle := func(r *Record) {
				if saved[r.Key()] {
					t.Fatalf("seed %d: %+v comes again, though %+v has it", seed, r.RecordID, cp)
				}
				settled[r.Key()]++
				r.change.settle(r.RecordID)
			}
			crashed := false
			for i, tables := range stream {
				if LSN(10*(i+1))+5 <= s.Confirmed() {
					continue // the server knows that it is done with
				}
				for j, table := range tables {
					if mended {
						table = strings.ReplaceAll(table, "!", "h")
					}
					if err := s.Change(change(LSN(10*(i+1)), uint32(j), table)); err != nil {
						t.Fatal(err)
					}
					for len(s.hand.open) > 0 && rnd.IntN(3) > 0 {
						settle(s.hand.take(rnd.IntN(len(s.hand.open))))
					}
					if rnd.IntN(4) == 0 {
						check(s.checkpoint())
					}
				}
				s.Commit(LSN(10*(i+1)), LSN(10*(i+1)+5), change(LSN(10*(i+1)), 0, "").CommitTime)
				if rnd.IntN(20) == 0 {
					s.Hold("e", HoldFailing, Unfit{Why: "asked"})
				}
				if crashed = !last && rnd.IntN(12) == 0; crashed {
					break
				}
			}
			for last && len(s.hand.open) > 0 {
				settle(s.hand.take(rnd.IntN(len(s.hand.open))))
			}
			if !crashed {
				s.KeepAlive(10*transactions + 9)
			}
			next := s.checkpoint()
			check(next)
			for i := range next.Tracks {
				if next.Tracks[i].Held == HoldFailing && rnd.IntN(2) == 0 || last {
					next.Tracks[i].Held = ""
				}
			}
			if cp = next; last && len(cp.Tracks) == 0 {
				break
			}
			if round > 40 {
				t.Fatalf("seed %d: it does not come to an end: %+v", seed, cp)
			}
		}
		for _, k := range all {
			if settled[k] == 0 {
				t.Fatalf("seed %d: %+v is lost", seed, k)
			}
		}
	}
}

// TestAlarmOfTheSecondTrack: of two tracks of one mapping, the one that has caught up does not take the other's alarm with it.
func TestAlarmOfTheSecondTrack(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5, Settled: Position{30, 0}, Tracks: []Track{
		{Mapping: "h", Since: Position{10, 0}, Until: Position{20, 0}, Settled: Position{5, 0}},
		{Mapping: "h", Since: Position{20, 0}, Settled: Position{19, 0}, Held: HoldBrake, Reason: "too many"}}})
	s.transaction(t, 10, "eh")
	s.transaction(t, 20, "eh")
	s.deliver()
	s.KeepAlive(40)
	if h := s.HeldMappings(); len(h) != 1 || h[0].Reason == "" || len(s.alarms.List()) != 1 {
		t.Errorf("held %+v, alarms %+v", h, s.alarms.List())
	}
}

// TestHoldAlarm: a mapping that is to be held from its next change on has its alarm at once; the change that holds it says since when.
func TestHoldAlarm(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5})
	s.Hold("h", HoldMisfit, Unfit{"column gone", "mend it"})
	for _, want := range []string{"mapping h is held from its next change on, the others flow: column gone", "mapping h is held since position 0/A:0, the others flow: column gone"} {
		if a := s.alarms.List(); len(a) != 1 || a[0].Text != want || a[0].Cure != "mend it" {
			t.Errorf("%+v", a)
		}
		s.transaction(t, 10, "eh")
	}
	if h := s.HeldMappings(); len(h) != 1 || h[0].Why != HoldMisfit || h[0].Since != (Position{10, 0}) {
		t.Errorf("%+v", h)
	}
}

// TestSetAsideNext: a mapping that starts held and is set aside goes by itself from the first change on that is not settled: what it can't read
// becomes letters, what an earlier run has settled does not come again, and mended it catches up.
func TestSetAsideNext(t *testing.T) {
	cp := &Checkpoint{Flush: 5, Settled: Position{10, 0}, Ranges: []Range{{Position{30, 0}, Position{30, 0}}}}
	if !cp.SetAsideNext("h") || cp.SetAsideNext("h") {
		t.Fatalf("%+v", cp)
	}
	s := newSession(cp)
	s.transaction(t, 10, "eh")
	s.transaction(t, 20, "e!")
	s.transaction(t, 30, "eh")
	s.transaction(t, 40, "e!")
	expectText(t, "others", s.deliver(), "e20 e40")
	expectText(t, "letters", s.setAside(), "h20 h40")
	s.KeepAlive(46)
	cp = s.checkpoint()
	if len(cp.Tracks) != 1 || !cp.Tracks[0].SetAside || cp.Flush != 46 {
		t.Fatalf("%+v", cp)
	}
	mended := newSession(cp)
	mended.transaction(t, 50, "eh")
	expectText(t, "mended", mended.deliver(), "e50 h50")
	mended.transaction(t, 60, "eh")
	mended.deliver()
	mended.KeepAlive(66)
	if cp = mended.checkpoint(); len(cp.Tracks) != 0 || cp.Flush != 66 {
		t.Errorf("%+v", cp)
	}
}
