package connector

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// asideEach is oneEach that makes letters of what is to be set aside.
type asideEach struct{ oneEach }

func (m asideEach) Map(c *Change, part Part, out *Output) {
	m.oneEach.Map(c, part, out)
	if part.Aside == "" {
		return
	}
	for _, r := range out.Records {
		out.Letters = append(out.Letters, &DeadLetter{RecordID: r.RecordID, Class: ClassMapping, Kind: r.Kind, Reason: part.Aside, Uncounted: true})
	}
	out.Records = nil
}

// braked is a session in which mapping h may make so many records a minute. change gives a transaction the commit time of its LSN in
// seconds, so that minutes begin at 60, 120, 180.
func braked(cp *Checkpoint, limit int) *session {
	log := slog.New(slog.DiscardHandler)
	s := &session{hand: &hand{}}
	s.Pipeline = NewPipeline(PipelineOptions{Mapper: asideEach{}, Store: &drawer{}, MaxPerMinute: map[string]int{"h": limit}, Saved: &Saved{Checkpoint: cp}, Alarms: NewAlarms(log), Log: log})
	s.deliverer, s.atOnce = s.hand, 1
	return s
}

// setAside settles the letters and tells which they were.
func (s *session) setAside() string {
	var got []string
	for _, q := range s.letters.take() {
		got = append(got, fmt.Sprintf("%s%d", q.letter.Mapping, q.letter.Position.Commit))
		q.change.settle(q.letter.RecordID)
	}
	return strings.Join(got, " ")
}

// TestBrake: of one transaction the records up to the limit go out and the mapping is held, across restarts, while the others flow. resume lets through
// what was committed before it, and the brake counts anew; set-aside makes letters of what was, and later changes flow.
func TestBrake(t *testing.T) {
	s := braked(&Checkpoint{Flush: 5}, 3)
	s.transaction(t, 59, "h", "h", "h") // a minute of its own
	s.transaction(t, 60, "eh", "eh", "eh", "eh", "eh")
	expectText(t, "braked", s.deliver(), "h59 h59 h59 e60 h60 e60 h60 e60 h60 e60 e60")
	cp := s.checkpoint()
	if len(cp.Tracks) != 1 || cp.Tracks[0].Held != HoldBrake || cp.Tracks[0].Since != (Position{60, 3}) || cp.Flush != 64 || len(s.alarms.List()) != 1 {
		t.Fatalf("%+v", cp)
	}
	if a := s.alarms.List()[0]; !strings.Contains(a.Text, "maxPerMinute: it made 3 records") || !strings.Contains(a.Text, "1970-01-01T00:01:00Z") || !strings.Contains(a.Cure, "resume --mapping h") {
		t.Errorf("%+v", a)
	}

	s = braked(cp, 3)
	s.transaction(t, 60, "eh", "eh", "eh", "eh", "eh")
	s.transaction(t, 125, "eh") // a new minute changes nothing
	expectText(t, "held again", s.deliver(), "e125")
	cp = s.checkpoint()

	if got := cp.Resume("h", 135); !slices.Equal(got, []string{"h"}) {
		t.Fatal(got)
	}
	s = braked(cp, 3)
	s.transaction(t, 60, "eh", "eh", "eh", "eh", "eh")
	s.transaction(t, 125, "eh")
	s.transaction(t, 131, "h", "h", "h", "h")
	expectText(t, "resumed", s.deliver(), "h60 h60 h125 h131 h131 h131 h131")
	s.transaction(t, 141, "h", "h")
	expectText(t, "anew", s.deliver(), "h141 h141")
	s = braked(s.checkpoint(), 3) // it caught up, and remembers
	s.transaction(t, 145, "h", "eh", "h")
	expectText(t, "braked again", s.deliver(), "h145 e145")
	cp = s.checkpoint()
	if len(cp.Tracks) != 1 || cp.Tracks[0].Since != (Position{145, 1}) {
		t.Fatalf("%+v", cp)
	}

	if got := cp.SetAside("h", 155); !slices.Equal(got, []string{"h"}) || cp.Tracks[0].SetAside {
		t.Fatal(got)
	}
	s = braked(cp, 3)
	s.transaction(t, 145, "h", "eh", "h")
	s.transaction(t, 151, "eh")
	expectText(t, "given up, to platform", s.deliver(), "e151")
	expectText(t, "given up, to letters", s.setAside(), "h145 h145 h151")
	s.transaction(t, 161, "eh", "h", "h")
	expectText(t, "flows again", s.deliver(), "e161 h161 h161 h161")
	s.KeepAlive(200)
	if cp = s.checkpoint(); len(cp.Tracks) != 0 || cp.Flush != 200 || len(s.alarms.List()) != 0 {
		t.Errorf("%+v", cp)
	}
	s = braked(cp, 3)
	s.transaction(t, 171, "h")
	expectText(t, "and is counted", s.deliver(), "")
}

// TestBrakeCountsAcrossCatchingUp: what a mapping makes while it works off by itself counts with what it makes before and after that.
func TestBrakeCountsAcrossCatchingUp(t *testing.T) {
	play := func(s *session, lsns ...LSN) string {
		for _, lsn := range lsns {
			s.transaction(t, lsn, "eh")
		}
		return s.deliver()
	}
	s := braked(&Checkpoint{Flush: 5}, 2)
	expectText(t, "held", play(s, 60, 70, 80, 130, 140), "e60 h60 e70 h70 e80 e130 e140")
	cp := s.checkpoint()
	cp.Resume("h", 100)
	s = braked(cp, 2)
	expectText(t, "working off", play(s, 80, 130), "h80 h130")
	if cp = s.checkpoint(); len(cp.Tracks) != 1 || cp.Tracks[0].Held != "" {
		t.Fatalf("%+v", cp)
	}
	s = braked(cp, 2)
	expectText(t, "caught up", play(s, 140), "h140")
	s.KeepAlive(145)
	if cp = s.checkpoint(); len(cp.Tracks) != 0 {
		t.Fatalf("%+v", cp)
	}
	expectText(t, "one too many", play(s, 150), "e150")
	s = braked(cp, 2)
	expectText(t, "also after a restart", play(s, 150), "e150")

	s = braked(&Checkpoint{Flush: 5}, 1)
	expectText(t, "held", play(s, 60, 70, 130, 140), "e60 h60 e70 e130 e140")
	cp = s.checkpoint()
	cp.Resume("h", 100)
	s = braked(cp, 1)
	expectText(t, "one too many while it works off", play(s, 70, 130, 140), "h70 h130")
	if cp = s.checkpoint(); len(cp.Tracks) != 1 || cp.Tracks[0].Held != HoldBrake || cp.Tracks[0].Settled.Commit >= 140 || cp.Flush != 135 {
		t.Errorf("%+v", cp)
	}
}

// TestBrakeSparesBacklogAndBackfill: what was committed in many minutes is no mass update, however fast it comes; nor is a backfill.
func TestBrakeSparesBacklogAndBackfill(t *testing.T) {
	s := braked(&Checkpoint{Flush: 5}, 3)
	for lsn := LSN(60); lsn < 60+2*60*60; lsn += 20 {
		s.transaction(t, lsn, "h")
	}
	for i := range uint32(10) {
		c := change(8000, i, "h")
		c.CommitTime = time.Time{}
		if err := s.Change(c); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.hand.open); n != 370 {
		t.Errorf("%d records, want 370", n)
	}
	if cp := s.checkpoint(); len(cp.Tracks) != 0 {
		t.Errorf("%+v", cp.Tracks)
	}
}

// TestBrakeSeveralRecordsOfOneChange: they go together or not at all.
func TestBrakeSeveralRecordsOfOneChange(t *testing.T) {
	s := braked(&Checkpoint{Flush: 5}, 3)
	s.transaction(t, 60, "hh", "hhe", "hh")
	expectText(t, "two fit, four don't", s.deliver(), "h60 h60 e60")
}

// TestBrakeAgainstModel plays random streams with random settling and crashes: whatever happens, the records of h that are ever submitted are those
// before the first one that is too many in its minute, no more and no fewer.
func TestBrakeAgainstModel(t *testing.T) {
	held := 0
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		limit := 2 + rnd.IntN(5)
		type tx struct {
			at     time.Time
			tables []string
		}
		var stream []tx
		minute := int64(100)
		for range 25 {
			var x tx
			minute += int64(rnd.IntN(8) / 7)
			x.at = time.Unix((minute-int64(rnd.IntN(10)/9))*60+int64(rnd.IntN(60)), 0) // some stand a minute behind
			for range 1 + rnd.IntN(3) {
				x.tables = append(x.tables, []string{"h", "eh", "e", "hh"}[rnd.IntN(4)])
			}
			stream = append(stream, x)
		}
		lsn := func(i int) LSN { return LSN(10 * (i + 1)) }
		var want []Position
		counts := map[int64]int{}
	expected:
		for i, x := range stream {
			for j, table := range x.tables {
				n := strings.Count(table, "h")
				if counts[x.at.Unix()/60] += n; counts[x.at.Unix()/60] > limit {
					held++
					break expected
				}
				if n > 0 {
					want = append(want, Position{lsn(i), uint32(j)})
				}
			}
		}
		got := map[Position]bool{}
		cp := &Checkpoint{Flush: 5}
		for round := 0; ; round++ {
			s := braked(cp, limit)
			settle := func() {
				r := s.hand.take(rnd.IntN(len(s.hand.open)))
				r.change.settle(r.RecordID)
			}
			crashed := false
			for i, x := range stream {
				if lsn(i)+5 <= s.Confirmed() {
					continue
				}
				for j, table := range x.tables {
					c := change(lsn(i), uint32(j), table)
					c.CommitTime = x.at
					if err := s.Change(c); err != nil {
						t.Fatal(err)
					}
					for _, r := range s.hand.open {
						if r.Mapping == "h" {
							got[r.Position] = true
						}
					}
					for len(s.hand.open) > 0 && rnd.IntN(3) > 0 {
						settle()
					}
					if rnd.IntN(10) == 0 {
						cp = s.checkpoint()
					}
				}
				s.Commit(lsn(i), lsn(i)+5, x.at)
				if crashed = round < 5 && rnd.IntN(15) == 0; crashed {
					break
				}
			}
			if !crashed {
				break
			}
			if rnd.IntN(2) == 0 {
				cp = s.checkpoint() // an orderly stop
			}
		}
		list := make([]Position, 0, len(got))
		for p := range got {
			list = append(list, p)
		}
		slices.SortFunc(list, Position.Compare)
		if !slices.Equal(list, want) {
			t.Fatalf("seed %d, limit %d:\n got %v\nwant %v", seed, limit, list, want)
		}
	}
	if held < 500 {
		t.Errorf("only %d of 2000 streams were braked", held)
	}
}

// TestGivenUpPointWithIntent: a point that may have been sent before its change was given up is uncertain: to map it again might give it twice. One
// that is known to have been applied makes no letter.
func TestGivenUpPointWithIntent(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	cp := &Checkpoint{Flush: 5, Tracks: []Track{{Mapping: "p", Since: Position{10, 0}, Settled: Position{9, 7}}}, Brakes: []Brake{{Mapping: "p", GivenUp: 100}}}
	s := &session{hand: &hand{}}
	s.Pipeline = NewPipeline(PipelineOptions{Mapper: asideEach{}, Store: &drawer{}, Saved: &Saved{Checkpoint: cp, Known: map[RecordKey]Known{key("p", 10, 0): Intended, key("p", 20, 0): Lettered}},
		Alarms: NewAlarms(log), Log: log})
	s.deliverer, s.atOnce = s.hand, 1
	s.transaction(t, 10, "p")
	s.transaction(t, 20, "p")
	s.transaction(t, 30, "p")
	var got []string
	for _, q := range s.letters.take() {
		got = append(got, fmt.Sprintf("%s%d", q.letter.Class, q.letter.Position.Commit))
	}
	if !slices.Equal(got, []string{"uncertain10", "mapping30"}) || len(s.hand.open) > 0 {
		t.Errorf("letters %q, %d records", got, len(s.hand.open))
	}
}

// TestCapBrakes: LSNs of another history let nothing through, and give nothing up.
func TestCapBrakes(t *testing.T) {
	saved := []Brake{{Mapping: "h", Freed: 100, GivenUp: 40, Minutes: []BrakeMinute{{1, 2}}}}
	cp := Checkpoint{Brakes: saved}
	cp.CapBrakes(50)
	if b := cp.Brakes[0]; b.Freed != 49 || b.GivenUp != 40 || len(b.Minutes) != 1 || saved[0].Freed != 100 {
		t.Errorf("%+v %+v", cp.Brakes, saved)
	}
	cp.CapBrakes(0)
	if b := cp.Brakes[0]; b.Freed != 0 || b.GivenUp != 0 {
		t.Errorf("%+v", b)
	}
}

// TestSetAsideAfterResume: what a mistaken resume let through, and is not delivered yet, can still be set aside.
func TestSetAsideAfterResume(t *testing.T) {
	cp := &Checkpoint{Flush: 5, Settled: Position{30, 0}, Tracks: []Track{{Mapping: "h", Since: Position{10, 0}, Settled: Position{5, 0}, Held: HoldBrake, Reason: "too many"}}}
	cp.Resume("h", 100)
	if named := cp.SetAside("h", 110); len(named) != 1 || len(cp.Brakes) != 1 || cp.Brakes[0].GivenUp != 110 {
		t.Errorf("named %v, %+v", named, cp)
	}
	mended := &Checkpoint{Flush: 5, Tracks: []Track{{Mapping: "h", Since: Position{10, 0}}}, Brakes: []Brake{{Mapping: "h", Freed: 9}}}
	if mended.SetAside("h", 110); mended.Brakes[0].GivenUp != 0 || !mended.Tracks[0].SetAside {
		t.Errorf("of a mapping that could not read its table only what it can't read is set aside: %+v", mended)
	}
}
