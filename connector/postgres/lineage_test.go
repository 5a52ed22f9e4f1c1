package postgres

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// randomCheckpoint gives a checkpoint with ranges and tracks among the commit LSNs 1 to 40.
func randomCheckpoint(rnd *rand.Rand) *connector.Checkpoint {
	position := func() connector.Position {
		return connector.Position{Commit: connector.LSN(1 + rnd.IntN(40)), Index: uint32(rnd.IntN(3))}
	}
	settled := func() (connector.Position, []connector.Range, []connector.RecordKey) {
		var ends []connector.Position
		for range 1 + 2*rnd.IntN(4) {
			ends = append(ends, position())
		}
		slices.SortFunc(ends, connector.Position.Compare)
		ends = slices.Compact(ends)
		var ranges []connector.Range
		for i := 1; i+1 < len(ends); i += 2 {
			ranges = append(ranges, connector.Range{From: ends[i], To: ends[i+1]})
		}
		return ends[0], ranges, []connector.RecordKey{{Mapping: "a", Position: position()}}
	}
	cp := &connector.Checkpoint{Flush: connector.LSN(1 + rnd.IntN(10))}
	cp.Settled, cp.Ranges, cp.Partial = settled()
	if rnd.IntN(2) == 0 {
		t := connector.Track{Mapping: "apart", Since: position()}
		if until := position(); until.Compare(t.Since) > 0 {
			t.Until = until
		}
		t.Settled, t.Ranges, t.Partial = settled()
		cp.Tracks = []connector.Track{t}
	}
	return cp
}

// TestCutAndSkip holds what cutting and skipping make of a checkpoint against what it said before, position by position.
func TestCutAndSkip(t *testing.T) {
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		cp := randomCheckpoint(rnd)
		at := connector.LSN(1 + rnd.IntN(45))
		cut, skipped := cutCheckpoint(cp, at), cutCheckpoint(cp, noCut)
		skipTo(skipped, at)
		for commit := connector.LSN(1); commit < 50; commit++ {
			for index := range uint32(3) {
				for _, mapping := range []string{"a", "apart"} {
					k := connector.RecordKey{Mapping: mapping, Position: connector.Position{Commit: commit, Index: index}}
					was := cp.CoversRecord(k)
					if is := cut.CoversRecord(k); is && !(was && commit < at) || commit < at && was != is {
						t.Fatalf("seed %d, cut at %s: %s %s was covered %t, is now %t\n%+v\n%+v", seed, at, mapping, k.Position, was, is, cp, cut)
					}
					if is := skipped.CoversRecord(k); is != (was || commit < at) {
						t.Fatalf("seed %d, skipped to %s: %s %s was covered %t, is now %t\n%+v\n%+v", seed, at, mapping, k.Position, was, is, cp, skipped)
					}
				}
			}
		}
		if cut.Flush > at || cut.Flush > cp.Flush || skipped.Flush < at {
			t.Fatalf("seed %d: flush %s, cut %s, skipped %s", seed, cp.Flush, cut.Flush, skipped.Flush)
		}
	}
}

// TestCompare: which scenes are breaches, and what an accepted one makes of the checkpoint.
func TestCompare(t *testing.T) {
	lineage := connector.Lineage{SystemID: "7", Timeline: 2, Database: "crm", Slot: "s", Publications: `"p"=5`}
	good := func() *scene {
		return &scene{lineage: lineage, slot: &Slot{Name: "s", Exists: true, ConfirmedFlush: 90, WALEnd: 1000}, standing: map[string]uint32{"p": 5},
			switched: func(int32) (connector.LSN, bool, error) { return 0, false, nil }}
	}
	saved := func() *connector.Saved {
		return &connector.Saved{Checkpoint: &connector.Checkpoint{Lineage: lineage, Settled: connector.Position{Commit: 100}, Flush: 95},
			Known: map[connector.RecordKey]connector.Known{{Mapping: "m", Position: connector.Position{Commit: 200}}: connector.Intended}}
	}
	asked := errors.New("the server can't be asked")
	for _, test := range []struct {
		name string
		// change makes of the good scene another one.
		change         func(*scene, *connector.Saved)
		want           string // in the texts of the breaches; "" for none
		cut            connector.LSN
		err            error
		settled, flush connector.LSN // after it was accepted, with a slot at 500 where it is made anew
	}{
		{name: "good", change: func(*scene, *connector.Saved) {}},
		{name: "publication added", change: func(_ *scene, s *connector.Saved) { s.Checkpoint.Lineage.Publications = "" }},
		{name: "timeline of an older version", change: func(_ *scene, s *connector.Saved) { s.Checkpoint.Lineage.Timeline = 0 }},
		{name: "switch beyond all that is known", cut: 201, change: func(c *scene, s *connector.Saved) {
			s.Checkpoint.Lineage.Timeline = 1
			c.switched = func(int32) (connector.LSN, bool, error) { return 201, true, nil }
		}},
		{name: "switch before an intent", want: "which left timeline 1", settled: 100, flush: 95, change: func(c *scene, s *connector.Saved) {
			s.Checkpoint.Lineage.Timeline = 1
			c.switched = func(int32) (connector.LSN, bool, error) { return 200, true, nil }
		}},
		{name: "switch before the checkpoint", want: "which left timeline 1", settled: 79, flush: 80, change: func(c *scene, s *connector.Saved) {
			s.Checkpoint.Lineage.Timeline = 1
			c.slot.ConfirmedFlush = 70
			c.switched = func(int32) (connector.LSN, bool, error) { return 80, true, nil }
		}},
		{name: "switch before a record of an open change", want: "which left timeline 1", settled: 100, flush: 95, change: func(c *scene, s *connector.Saved) {
			s.Known, s.Checkpoint.Lineage.Timeline = nil, 1
			s.Checkpoint.Partial = []connector.RecordKey{{Mapping: "e", Position: connector.Position{Commit: 200}}}
			c.switched = func(int32) (connector.LSN, bool, error) { return 150, true, nil }
		}},
		{name: "switch before what a track has settled", want: "which left timeline 1", settled: 100, flush: 95, change: func(c *scene, s *connector.Saved) {
			s.Known, s.Checkpoint.Lineage.Timeline = nil, 1
			s.Checkpoint.Tracks = []connector.Track{{Mapping: "e", Since: connector.Position{Commit: 100}, Settled: connector.Position{Commit: 200}}}
			c.switched = func(int32) (connector.LSN, bool, error) { return 150, true, nil }
		}},
		{name: "switch before a record of a track's open change", want: "which left timeline 1", settled: 100, flush: 95, change: func(c *scene, s *connector.Saved) {
			s.Known, s.Checkpoint.Lineage.Timeline = nil, 1
			s.Checkpoint.Tracks = []connector.Track{{Mapping: "e", Since: connector.Position{Commit: 100}, Partial: []connector.RecordKey{{Mapping: "e", Position: connector.Position{Commit: 200}}}}}
			c.switched = func(int32) (connector.LSN, bool, error) { return 150, true, nil }
		}},
		{name: "timeline unknown to the server", want: "restored to an earlier point", settled: 999, flush: 1000, change: func(_ *scene, s *connector.Saved) { s.Checkpoint.Lineage.Timeline = 9 }},
		{name: "history not to be had", err: asked, change: func(c *scene, s *connector.Saved) {
			s.Checkpoint.Lineage.Timeline = 1
			c.switched = func(int32) (connector.LSN, bool, error) { return 0, false, asked }
		}},
		{name: "rewound", want: "restored to an earlier point", settled: 149, flush: 150, change: func(c *scene, _ *connector.Saved) { c.slot.WALEnd, c.slot.ConfirmedFlush = 150, 60 }},
		{name: "gone", want: "is gone", settled: 499, flush: 500, change: func(c *scene, _ *connector.Saved) { *c.slot = Slot{Name: "s", WALEnd: 1000} }},
		{name: "lost", want: "is invalidated", settled: 499, flush: 500, change: func(c *scene, _ *connector.Saved) { c.slot.WALStatus, c.slot.ConfirmedFlush = "lost", 0 }},
		{name: "ahead", want: "past the checkpoint", settled: 149, flush: 150, change: func(c *scene, _ *connector.Saved) { c.slot.ConfirmedFlush = 150 }},
		{name: "publication missing", want: "is missing", settled: 499, flush: 500, change: func(c *scene, _ *connector.Saved) { delete(c.standing, "p") }},
		{name: "publication made anew", want: "made anew (OID 6, was 5)", settled: 499, flush: 500, change: func(c *scene, _ *connector.Saved) { c.standing["p"] = 6 }},
		{name: "another system", want: "belongs to system", settled: 89, flush: 90, change: func(c *scene, _ *connector.Saved) { c.lineage.SystemID = "8" }},
		{name: "two at once", want: "is gone", settled: 499, flush: 500, change: func(c *scene, s *connector.Saved) {
			*c.slot = Slot{Name: "s", WALEnd: 1000}
			s.Checkpoint.Lineage.Timeline = 1
			c.switched = func(int32) (connector.LSN, bool, error) { return 80, true, nil }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			scene, state := good(), saved()
			test.change(scene, state)
			found, cut, err := scene.compare(state)
			if !errors.Is(err, test.err) || cut != test.cut {
				t.Fatalf("cut %s, error %v", cut, err)
			}
			if test.want == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			if len(found) == 0 {
				t.Fatal("it is no breach")
			}
			refusal, id := refuse(found)
			if !strings.Contains(refusal.Text, test.want) || !strings.Contains(refusal.Cure, "--accept-gap "+id) {
				t.Errorf("%v", refusal)
			}
			again, _, err := scene.compare(state)
			if err != nil {
				t.Fatal(err)
			}
			if _, same := refuse(again); same != id {
				t.Errorf("the id changes by itself: %s, %s", id, same)
			}
			start := scene.slot.ConfirmedFlush
			if slices.ContainsFunc(found, func(b breach) bool { return b.anew }) || !scene.slot.Exists {
				start = 500
			}
			next, gap, _ := accept(state, found, scene.lineage, start)
			if next.Settled.Commit != test.settled || next.Flush != test.flush || next.Lineage != scene.lineage || gap == nil || gap.Reason == "" {
				t.Errorf("settled %d, flush %d, gap %+v", next.Settled.Commit, next.Flush, gap)
			}
		})
	}
}

// TestPublicationsOfLineage: names and OIDs survive being written and read, whatever the names are.
func TestPublicationsOfLineage(t *testing.T) {
	oids := map[string]uint32{"tuzhan_cdc": 16384, `a"b,c=1`: 7, "发布": 4294967295}
	text := joinPublications(oids, []string{"发布", "tuzhan_cdc", `a"b,c=1`})
	list := splitPublications(text)
	if len(list) != 3 {
		t.Fatalf("%q gives %+v", text, list)
	}
	for _, p := range list {
		if oids[p.name] != p.oid {
			t.Errorf("%q: %d", p.name, p.oid)
		}
	}
	for _, cut := range []string{"", `"`, `"a`, `"a"`, `"a"=`, `"a"=x`} {
		if got := splitPublications(cut); len(got) > 0 {
			t.Errorf("%q gives %+v", cut, got)
		}
	}
}

// TestNoted: what was accepted before holds for the same breaches, and for what making slot and publications anew may have left; for no others.
func TestNoted(t *testing.T) {
	ahead, gone := breach{facts: "ahead", follows: true}, breach{facts: "gone", anew: true, follows: true}
	missing, other := breach{facts: "publication", from: 5, anew: true, follows: true}, breach{facts: "system", whole: true}
	slot := breach{facts: "slot", from: 7, to: 9, cut: 3, skip: true}
	for _, test := range []struct {
		name               string
		accepted, standing []breach
		holds              bool
	}{
		{"the same", []breach{missing, slot}, []breach{missing, slot}, true},
		{"one of them", []breach{missing, slot}, []breach{slot}, true},
		{"slot dropped", []breach{missing}, []breach{gone}, true},
		{"slot made", []breach{gone}, []breach{ahead, missing}, true},
		{"another break", []breach{missing}, []breach{gone, other}, false},
		{"slot dropped by somebody", []breach{slot}, []breach{slot, gone}, false},
		{"nothing accepted", nil, []breach{gone}, false},
	} {
		var accepted *connector.Accepted
		if test.accepted != nil {
			accepted = note("0123abcd", test.accepted)
		}
		got := noted(accepted, test.standing)
		if (got != nil) != test.holds {
			t.Errorf("%s: %+v", test.name, got)
		}
		for i, b := range got {
			if b.follows = test.accepted[i].follows; b != test.accepted[i] {
				t.Errorf("%s: %+v, want %+v", test.name, b, test.accepted[i])
			}
		}
	}
}
