package state

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// durable is what every implementation of the state offers.
type durable interface {
	connector.Store
	Checkpoint(ctx context.Context) (*connector.Checkpoint, error)
	Letters(ctx context.Context, f Filter) ([]*connector.DeadLetter, error)
	Letter(ctx context.Context, id int64) (*connector.DeadLetter, error)
	CountOpen(ctx context.Context) (map[connector.Class]int, error)
	Rebase(ctx context.Context, cp *connector.Checkpoint, letters []*connector.DeadLetter, gap *connector.Gap, cut connector.LSN) error
	AddGap(ctx context.Context, gap connector.Gap) error
	Gaps(ctx context.Context) ([]connector.Gap, error)
	SavePublished(ctx context.Context, tables []connector.Published) error
	connector.BackfillStore
	AllBackfills(ctx context.Context) ([]*connector.Backfill, error)
	AddInitial(ctx context.Context, backfills []*connector.Backfill) error
	Close() error
}

// conform checks the behaviour that every implementation shares. place makes a fresh place to store in, and gives a function that
// opens it; it is opened again after a Close, never twice at a time.
func conform(t *testing.T, place func(t *testing.T) (open func() durable)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open func() durable)
	}{
		{"a fresh state is empty", freshIsEmpty},
		{"a checkpoint comes back as it was", checkpointComesBack},
		{"a checkpoint of another lineage is refused", lineageIsRefused},
		{"a checkpoint never goes back", backIsRefused},
		{"published tables come back, and a gap is ended", publishedComesBack},
		{"ranges out of order are refused", rangesOutOfOrder},
		{"a rebase takes over another history", rebase},
		{"a mapping by itself keeps its points", pointsOfTrack},
		{"points are known until covered", pointsKnown},
		{"a covered point without outcome is a letter", coveredWithoutOutcome},
		{"an outcome precedes what comes after it", outcomePrecedes},
		{"letters come back as they were", lettersComeBack},
		{"a second letter changes nothing", secondLetter},
		{"letters win over outcomes", lettersWin},
		{"letters are filtered", lettersFiltered},
		{"an ended context writes nothing", endedContext},
		{"concurrent callers lose nothing", concurrentCallers},
		{"a closed state refuses", closedRefuses},
		{"covered points go, others stay", modelOfPoints},
		{"backfills come back as they were", backfillsComeBack},
		{"rows of backfills are known until the end", backfillRows},
		{"rows of backfills move with their keys", backfillMoves},
		{"what the stream gave rows is known until the end", backfillGiven},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, place(t)) })
	}
}

func testLineage() connector.Lineage {
	return connector.Lineage{SystemID: "7300000000000000001", Timeline: 3, Database: "crm", Slot: "tuzhan_cdc", Publications: "tuzhan_cdc=16400"}
}

func at(commit connector.LSN, index uint32) connector.Position {
	return connector.Position{Commit: commit, Index: index}
}

// point names the n-th record of mapping m at p, with a commit time that follows from p.
func point(m string, p connector.Position, n int) connector.RecordID {
	return connector.RecordID{Mapping: m, Position: p, Number: n, CommitTime: time.UnixMicro(1_700_000_000_000_000 + int64(p.Commit%1e9)).UTC()}
}

func letter(id connector.RecordID, class connector.Class) *connector.DeadLetter {
	return &connector.DeadLetter{RecordID: id, Class: class, Kind: connector.Point, Table: "crm.orders", Reason: "the platform refused it",
		Payload: json.RawMessage(`{"point":1}`), Keys: []uint64{1, math.MaxUint64}, Attempts: 1, Created: time.UnixMicro(1_700_000_000_123_456).UTC()}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, s durable) *connector.Saved {
	t.Helper()
	saved, err := s.Load(t.Context())
	must(t, err)
	return saved
}

// reopen closes s and gives what the place holds.
func reopen(t *testing.T, s durable, open func() durable) (durable, *connector.Saved) {
	t.Helper()
	must(t, s.Close())
	s = open()
	t.Cleanup(func() { s.Close() })
	return s, load(t, s)
}

func checkpoint(settled connector.Position, ranges ...connector.Range) *connector.Checkpoint {
	return &connector.Checkpoint{Lineage: testLineage(), Settled: settled, Ranges: ranges, Flush: settled.Commit}
}

func freshIsEmpty(t *testing.T, open func() durable) {
	s := open()
	defer s.Close()
	saved := load(t, s)
	if saved.Checkpoint != nil || len(saved.Known) != 0 || saved.OpenLetters != 0 {
		t.Errorf("a fresh state holds %+v", saved)
	}
	if cp, err := s.Checkpoint(t.Context()); cp != nil || err != nil {
		t.Errorf("Checkpoint gives %v, %v", cp, err)
	}
	letters, err := s.Letters(t.Context(), Filter{})
	must(t, err)
	counts, err := s.CountOpen(t.Context())
	must(t, err)
	if len(letters) != 0 || len(counts) != 0 {
		t.Errorf("a fresh state has letters: %v, %v", letters, counts)
	}
	if _, err := s.Letter(t.Context(), 1); !errors.Is(err, ErrNoLetter) {
		t.Errorf("Letter gives %v", err)
	}
}

func checkpointComesBack(t *testing.T, open func() durable) {
	s := open()
	high := connector.LSN(math.MaxUint64 - 5)
	moment := time.UnixMicro(1_700_000_000_123_456).UTC()
	for _, want := range []*connector.Checkpoint{
		{Lineage: testLineage()},
		{Lineage: testLineage(), Settled: at(5, 7), Flush: 9, CommitTime: moment, Written: moment.Add(time.Microsecond)},
		{Lineage: testLineage(), Settled: at(5, 7), Flush: 9, CommitTime: moment, Written: moment,
			Ranges: []connector.Range{{From: at(5, 9), To: at(5, 9)}, {From: at(6, 0), To: at(8, math.MaxUint32)}, {From: at(high, 3), To: at(math.MaxUint64, 0)}},
			Partial: []connector.RecordKey{point("order-points", at(5, 8), 0).Key(), point("积分", at(5, 8), 3).Key(), point("order-points", at(4, 1), 1).Key(),
				{Mapping: "snapshot", Position: at(high, 1), CommitTime: time.Time{}.UnixMicro()}}},
		{Lineage: testLineage(), Settled: at(1<<63, 0), Flush: 1<<63 + 1, Written: moment, Mappings: []string{"order-points", "积分"},
			Brakes: []connector.Brake{{Mapping: "积分", Freed: high, GivenUp: 7, Minutes: []connector.BrakeMinute{{Minute: 29_000_000, Records: 3}, {Minute: -1, Records: 1}}}, {Mapping: "x"}},
			Tracks: []connector.Track{
				{Mapping: "order-points", Since: at(6, 1), SinceTime: moment, Until: at(9, 0), Settled: at(6, 2), SetAside: true},
				{Mapping: "积分", Since: at(7, 0), Settled: at(6, math.MaxUint32), Held: connector.HoldMisfit, Reason: "积分.yaml:3: gone",
					Ranges: []connector.Range{{From: at(8, 0), To: at(high, 2)}}, Partial: []connector.RecordKey{point("积分", at(7, 5), 1).Key()}}}},
		{Lineage: testLineage(), Settled: at(1<<63, 0), Flush: 1<<63 + 1, Accepted: &connector.Accepted{ID: "0123abcd",
			Breaks: []connector.Break{{Text: "积分", Facts: "gone", From: 1, To: high, Cut: math.MaxUint64, Whole: true, Skip: true, Anew: true}, {}}}},
		{Lineage: testLineage(), Settled: at(high, 0), Flush: math.MaxUint64},
	} {
		must(t, s.SaveCheckpoint(t.Context(), want))
		got, err := s.Checkpoint(t.Context())
		must(t, err)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		var saved *connector.Saved
		if s, saved = reopen(t, s, open); !reflect.DeepEqual(saved.Checkpoint, want) {
			t.Errorf("opened again: got  %+v\nwant %+v", saved.Checkpoint, want)
		}
	}
}

func lineageIsRefused(t *testing.T, open func() durable) {
	s := open()
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	s, _ = reopen(t, s, open)
	for _, lineage := range []connector.Lineage{
		{SystemID: "1"}, {Database: "other"}, {Slot: "other"}, {Timeline: 4}, {Publications: "tuzhan_cdc=16401"},
	} {
		cp := checkpoint(at(9, 0))
		own := testLineage()
		cp.Lineage = connector.Lineage{SystemID: cmp.Or(lineage.SystemID, own.SystemID), Timeline: cmp.Or(lineage.Timeline, own.Timeline),
			Database: cmp.Or(lineage.Database, own.Database), Slot: cmp.Or(lineage.Slot, own.Slot), Publications: cmp.Or(lineage.Publications, own.Publications)}
		if err := s.SaveCheckpoint(t.Context(), cp); !errors.Is(err, ErrRefused) {
			t.Errorf("%+v: %v", lineage, err)
		}
	}
	if cp := load(t, s).Checkpoint; cp.Settled != at(5, 0) || cp.Lineage != testLineage() {
		t.Errorf("the checkpoint is now %+v", cp)
	}
}

func backIsRefused(t *testing.T, open func() durable) {
	s := open()
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(1<<63+5, 3))))
	must(t, s.Intend(t.Context(), []connector.RecordID{point("m", at(1<<63+6, 0), 0)}))
	s, _ = reopen(t, s, open)
	for _, p := range []connector.Position{at(1<<63+5, 2), at(1<<63-1, 9), at(1, 0), {}} {
		cp := checkpoint(p, connector.Range{From: at(1<<63+6, 0), To: at(1<<63+9, 0)})
		cp.Flush = 1<<63 + 5
		if err := s.SaveCheckpoint(t.Context(), cp); !errors.Is(err, ErrRefused) {
			t.Errorf("settled back to %s: %v", p, err)
		}
	}
	cp := checkpoint(at(1<<63+7, 0))
	cp.Flush = 1<<63 + 4
	if err := s.SaveCheckpoint(t.Context(), cp); !errors.Is(err, ErrRefused) {
		t.Errorf("flush back: %v", err)
	}
	// Nothing of a refused checkpoint is stored, its ranges and its covered points neither.
	saved := load(t, s)
	if cp := saved.Checkpoint; cp.Settled != at(1<<63+5, 3) || cp.Flush != 1<<63+5 || cp.Ranges != nil || len(saved.Known) != 1 {
		t.Errorf("the state is now %+v, %v", cp, saved.Known)
	}
	// The same again is no step back.
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(1<<63+5, 3))))
}

// rebase goes back and changes the lineage, cuts what is known of points, and keeps letters and gap: all in one commit.
func rebase(t *testing.T, open func() durable) {
	s := open()
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(50, 0), connector.Range{From: at(60, 0), To: at(70, 0)})))
	before, beyond := point("m", at(55, 0), 0), point("m", at(80, 0), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{before, beyond, point("m", at(81, 0), 0)}))
	s.Outcome(point("m", at(81, 0), 0), true)
	cp := checkpoint(at(40, 0))
	cp.Lineage.Timeline = 4
	gap := connector.Gap{At: time.UnixMicro(1_700_000_000_000_001).UTC(), From: 75, To: 90, Reason: "the timeline has changed"}
	must(t, s.Rebase(t.Context(), cp, []*connector.DeadLetter{letter(beyond, connector.ClassUncertain)}, &gap, 75))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 1, To: 1 << 63, Table: "crm.订单"}))
	s, saved := reopen(t, s, open)
	if want := map[connector.RecordKey]connector.Known{before.Key(): connector.Intended, beyond.Key(): connector.Lettered}; !maps.Equal(saved.Known, want) ||
		!reflect.DeepEqual(saved.Checkpoint, cp) {
		t.Errorf("known %v, %+v", saved.Known, saved.Checkpoint)
	}
	gaps, err := s.Gaps(t.Context())
	must(t, err)
	if !reflect.DeepEqual(gaps, []connector.Gap{gap, {From: 1, To: 1 << 63, Table: "crm.订单"}}) {
		t.Errorf("gaps %+v", gaps)
	}
	must(t, s.SaveCheckpoint(t.Context(), cp))
	// A cut that lies beyond everything forgets nothing, one in the upper half of the LSNs nothing below it.
	must(t, s.Intend(t.Context(), []connector.RecordID{point("m", at(1<<63+9, 0), 0)}))
	for _, cut := range []connector.LSN{1<<64 - 1, 1<<63 + 10, 1<<63 + 9} {
		must(t, s.Rebase(t.Context(), cp, nil, nil, cut))
		want := 3
		if cut == 1<<63+9 {
			want = 2
		}
		if saved := load(t, s); len(saved.Known) != want {
			t.Errorf("cut at %s: known %v", cut, saved.Known)
		}
	}
	must(t, s.Close())
}

// publishedComesBack: what was noted last stands, and a gap of a table that had no end yet gets one.
func publishedComesBack(t *testing.T, open func() durable) {
	s := open()
	tables := []connector.Published{{Schema: "crm", Name: "a.b", OID: 1<<32 - 1, Member: "insert=1/2", Seen: 1 << 63},
		{Schema: "crm", Name: "订单", OID: 7, Member: "update=1/2", Seen: 5}}
	must(t, s.SavePublished(t.Context(), []connector.Published{{Schema: "crm", Name: "gone"}}))
	must(t, s.SavePublished(t.Context(), tables))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 3, Reason: "of all tables"}))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 5, Table: "crm.订单", Reason: "it left"}))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 5, Table: "crm.a.b", Reason: "it left"}))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 5, To: 8, Table: "crm.订单", Reason: "it is back"}))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 5, To: 9, Table: "crm.订单", Reason: "it is back"}))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 3, To: 4, Reason: "of all tables again"}))
	s, saved := reopen(t, s, open)
	if !reflect.DeepEqual(saved.Published, tables) {
		t.Errorf("%+v", saved.Published)
	}
	gaps, err := s.Gaps(t.Context())
	must(t, err)
	if want := []connector.Gap{{From: 3, Reason: "of all tables"}, {From: 5, Table: "crm.a.b", Reason: "it left"}, {From: 5, To: 9, Table: "crm.订单", Reason: "it is back"},
		{From: 3, To: 4, Reason: "of all tables again"}}; !reflect.DeepEqual(gaps, want) {
		t.Errorf("gaps %+v", gaps)
	}
	must(t, s.Close())
}

// pointsOfTrack: at one position, the point of a mapping that goes by itself is kept when the others' is forgotten.
func pointsOfTrack(t *testing.T, open func() durable) {
	s := open()
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	apart, other := point("apart", at(7, 0), 0), point("other", at(7, 0), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{apart, other, point("apart", at(6, 0), 0)}))
	cp := checkpoint(at(9, 0))
	cp.Tracks = []connector.Track{{Mapping: "apart", Since: at(7, 0), Settled: at(6, 9), Held: connector.HoldMisfit}}
	must(t, s.SaveCheckpoint(t.Context(), cp))
	s, saved := reopen(t, s, open)
	if want := map[connector.RecordKey]connector.Known{apart.Key(): connector.Intended}; !maps.Equal(saved.Known, want) {
		t.Errorf("known %v", saved.Known)
	}
	cp.Tracks[0].Settled = at(7, 0)
	must(t, s.SaveCheckpoint(t.Context(), cp))
	if s, saved = reopen(t, s, open); len(saved.Known) > 0 {
		t.Errorf("known %v", saved.Known)
	}
	must(t, s.Close())
}

func rangesOutOfOrder(t *testing.T, open func() durable) {
	s := open()
	defer s.Close()
	for _, ranges := range [][]connector.Range{
		{{From: at(3, 1), To: at(3, 0)}},
		{{From: at(3, 0), To: at(4, 0)}, {From: at(4, 0), To: at(5, 0)}},
		{{From: at(6, 0), To: at(7, 0)}, {From: at(3, 0), To: at(4, 0)}},
	} {
		if err := s.SaveCheckpoint(t.Context(), checkpoint(at(1, 0), ranges...)); !errors.Is(err, ErrRefused) {
			t.Errorf("%v: %v", ranges, err)
		}
	}
	if cp := load(t, s).Checkpoint; cp != nil {
		t.Errorf("stored %+v", cp)
	}
}

func pointsKnown(t *testing.T, open func() durable) {
	s := open()
	sent, unsent, void, back, later := point("m", at(5, 0), 0), point("m", at(5, 0), 1), point("m", at(5, 1), 0), point("n", at(5, 0), 0), point("m", at(1<<63+1, 0), 0)
	snapshot := connector.RecordID{Mapping: "s", Position: at(9, 0)}
	other := sent // the same position in another history
	other.CommitTime = sent.CommitTime.Add(time.Hour)
	must(t, s.Intend(t.Context(), []connector.RecordID{sent, unsent, void, back, other}))
	must(t, s.Intend(t.Context(), []connector.RecordID{later, snapshot}))
	s.Outcome(sent, true)
	s.Outcome(void, false)
	s.Outcome(later, true)
	s.Outcome(back, true)
	must(t, s.Intend(t.Context(), []connector.RecordID{back})) // sent again: open anew
	want := map[connector.RecordKey]connector.Known{sent.Key(): connector.Applied, unsent.Key(): connector.Intended, back.Key(): connector.Intended,
		other.Key(): connector.Intended, later.Key(): connector.Applied, snapshot.Key(): connector.Intended}
	if got := load(t, s).Known; !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	s, saved := reopen(t, s, open)
	if !maps.Equal(saved.Known, want) {
		t.Errorf("opened again: got %v", saved.Known)
	}
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(4, 0), connector.Range{From: at(6, 0), To: at(1<<63, 0)})))
	delete(want, snapshot.Key())
	if _, saved = reopen(t, s, open); !maps.Equal(saved.Known, want) {
		t.Errorf("after the checkpoint: got %v\nwant %v", saved.Known, want)
	}
}

func coveredWithoutOutcome(t *testing.T, open func() durable) {
	s := open()
	sent, applied, void, later := point("m", at(5, 0), 0), point("m", at(5, 1), 0), point("n", at(5, 0), 0), point("m", at(7, 0), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{sent, applied, void, later}))
	s.Outcome(applied, true)
	s.Outcome(void, false)
	s, _ = reopen(t, s, open)
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(6, 0))))
	s, _ = reopen(t, s, open)
	letters, err := s.Letters(t.Context(), Filter{})
	must(t, err)
	if len(letters) != 1 || letters[0].Key() != sent.Key() || letters[0].Class != connector.ClassUncertain || letters[0].Kind != connector.Point || letters[0].Reason == "" {
		t.Errorf("%+v", letters)
	}
	must(t, s.Close())
}

func outcomePrecedes(t *testing.T, open func() durable) {
	s := open()
	defer s.Close()
	for i := range 50 {
		p := point("m", at(connector.LSN(i+1), 0), 0)
		must(t, s.Intend(t.Context(), []connector.RecordID{p}))
		s.Outcome(p, true)
		switch i % 3 {
		case 0:
			must(t, s.Intend(t.Context(), []connector.RecordID{point("n", p.Position, 0)}))
		case 1:
			must(t, s.SetAside(t.Context(), []*connector.DeadLetter{letter(point("n", p.Position, 0), connector.ClassRejected)}))
		case 2:
			must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(0, 0))))
		}
		if got := load(t, s).Known[p.Key()]; got != connector.Applied {
			t.Fatalf("the outcome of %s is not on the disk: known %d", p.Position, got)
		}
	}
}

func lettersComeBack(t *testing.T, open func() durable) {
	s := open()
	created := time.UnixMicro(1_700_000_000_123_456).UTC()
	want := []*connector.DeadLetter{
		{RecordID: point("order-paid", at(5, 1), 2), Class: connector.ClassRejected, Kind: connector.Event, Table: "crm.orders", Reason: "拒绝", Attempts: 3,
			Payload: json.RawMessage("{\"c_price\": 1420.00, \"x\":\"\\u0000\xff\"}"), Envelope: `{"isMatching":true}`, Keys: []uint64{0, 1 << 63, math.MaxUint64}, Created: created,
			Answer: &connector.LetterAnswer{HTTPStatus: 200, Code: "400", Msg: "非法", Error: "none"}},
		{RecordID: point("groups", at(5, 1), 0), Class: connector.ClassFailing, Kind: connector.GroupRelation, OptType: "delete", Payload: json.RawMessage(`{}`),
			Answer: &connector.LetterAnswer{}, Created: created, Closed: created.Add(time.Second), Resolution: "dropped", Uncounted: true},
		{RecordID: point("order-points", at(1<<63+4, math.MaxUint32), 0), Class: connector.ClassUncertain, Kind: connector.Point, Decrease: true, Created: created},
		{RecordID: connector.RecordID{Mapping: "a", Position: at(5, 1)}, Class: connector.ClassMapping, Kind: connector.Event, Change: json.RawMessage(`{"op":"insert"}`)},
	}
	must(t, s.SetAside(t.Context(), want))
	s, saved := reopen(t, s, open)
	got, err := s.Letters(t.Context(), Filter{})
	must(t, err)
	if len(got) != len(want) {
		t.Fatalf("%d letters", len(got))
	}
	for i, l := range got {
		one, err := s.Letter(t.Context(), l.ID)
		must(t, err)
		if !reflect.DeepEqual(one, l) {
			t.Errorf("Letter gives %+v, Letters %+v", one, l)
		}
		if l.ID == 0 || i > 0 && l.ID <= got[i-1].ID {
			t.Errorf("id %d at %d", l.ID, i)
		}
		l.ID = 0
		if !reflect.DeepEqual(l, want[i]) {
			t.Errorf("got  %+v\nwant %+v", l, want[i])
		}
	}
	counts, err := s.CountOpen(t.Context())
	must(t, err)
	if open := map[connector.Class]int{connector.ClassRejected: 1, connector.ClassUncertain: 1, connector.ClassMapping: 1}; !maps.Equal(counts, open) || saved.OpenLetters != 3 {
		t.Errorf("open: %v, %d", counts, saved.OpenLetters)
	}
}

func secondLetter(t *testing.T, open func() durable) {
	s := open()
	defer s.Close()
	first := letter(point("m", at(5, 0), 0), connector.ClassUncertain)
	closed := letter(point("m", at(5, 0), 1), connector.ClassRejected)
	closed.Closed, closed.Resolution = closed.Created, "delivered"
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{first, closed}))
	again := letter(first.RecordID, connector.ClassRejected)
	openAgain := letter(closed.RecordID, connector.ClassRejected)
	third := letter(point("m", at(5, 0), 2), connector.ClassRejected)
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{again, openAgain, third, third}))
	letters, err := s.Letters(t.Context(), Filter{})
	must(t, err)
	var got []string
	for _, l := range letters {
		got = append(got, fmt.Sprintf("%d %s %t %s", l.Number, l.Class, l.Closed.IsZero(), l.Resolution))
	}
	if want := []string{"0 uncertain true ", "1 rejected false delivered", "2 rejected true "}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func lettersWin(t *testing.T, open func() durable) {
	s := open()
	intended, applied, alone, covered, inRange := point("m", at(5, 0), 0), point("m", at(5, 0), 1), point("m", at(5, 0), 2), point("m", at(3, 0), 0), point("m", at(7, 0), 0)
	closed := letter(alone, connector.ClassRejected)
	closed.Closed, closed.Resolution = closed.Created, "dropped"
	must(t, s.Intend(t.Context(), []connector.RecordID{intended, applied, covered, inRange}))
	s.Outcome(applied, true)
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{letter(intended, connector.ClassUncertain), letter(applied, connector.ClassUncertain), closed,
		letter(covered, connector.ClassUncertain), letter(inRange, connector.ClassUncertain)}))
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(3, 0), connector.Range{From: at(6, 0), To: at(8, 0)})))
	s, saved := reopen(t, s, open)
	want := map[connector.RecordKey]connector.Known{intended.Key(): connector.Lettered, applied.Key(): connector.Lettered, alone.Key(): connector.Lettered}
	if !maps.Equal(saved.Known, want) || saved.OpenLetters != 4 {
		t.Errorf("%d open, known %v", saved.OpenLetters, saved.Known)
	}
	// Covered or not, the letters themselves stay.
	if letters, err := s.Letters(t.Context(), Filter{}); err != nil || len(letters) != 5 {
		t.Errorf("%d letters, %v", len(letters), err)
	}
}

func lettersFiltered(t *testing.T, open func() durable) {
	s := open()
	defer s.Close()
	for i, l := range []struct {
		mapping string
		class   connector.Class
		kind    connector.Kind
		open    bool
	}{
		{"a", connector.ClassRejected, connector.Event, true},
		{"b", connector.ClassRejected, connector.Point, false},
		{"a", connector.ClassUncertain, connector.Point, true},
		{"b", connector.ClassMapping, connector.Event, true},
		{"a", connector.ClassRejected, connector.Event, false},
	} {
		made := letter(point(l.mapping, at(connector.LSN(i+1), 0), 0), l.class)
		made.Kind = l.kind
		if !l.open {
			made.Closed, made.Resolution = made.Created, "dropped"
		}
		must(t, s.SetAside(t.Context(), []*connector.DeadLetter{made}))
	}
	all, err := s.Letters(t.Context(), Filter{})
	must(t, err)
	if len(all) != 5 {
		t.Fatalf("%d letters", len(all))
	}
	yes, no := true, false
	for _, test := range []struct {
		filter Filter
		want   string // numbers of letters, from 1
	}{
		{Filter{Class: connector.ClassRejected}, "[1 2 5]"},
		{Filter{Mapping: "a"}, "[1 3 5]"},
		{Filter{Kind: connector.Point}, "[2 3]"},
		{Filter{Open: &yes}, "[1 3 4]"},
		{Filter{Open: &no}, "[2 5]"},
		{Filter{Class: connector.ClassRejected, Mapping: "a", Open: &yes}, "[1]"},
		{Filter{Limit: 2}, "[1 2]"},
		{Filter{Limit: 2, After: all[1].ID}, "[3 4]"},
		{Filter{IDs: []int64{all[4].ID, all[0].ID, 9999}}, "[1 5]"},
		{Filter{IDs: []int64{all[1].ID}, Open: &yes}, "[]"},
		{Filter{Mapping: "a' OR '1'='1"}, "[]"},
		{Filter{Newest: true}, "[5 4 3 2 1]"},
		{Filter{Newest: true, Limit: 2}, "[5 4]"},
		{Filter{Newest: true, Limit: 2, After: all[3].ID}, "[3 2]"},
		{Filter{Text: "B"}, "[2 4]"},
		{Filter{Text: "%"}, "[]"},
		{Filter{Text: "_"}, "[]"},
		{Filter{Text: "' OR '1'='1"}, "[]"},
		{Filter{Text: `\`}, "[]"},
		{Filter{Text: fmt.Sprint(all[3].ID), IDs: []int64{all[3].ID, all[2].ID}}, "[4]"},
		{Filter{Text: "0/3"}, "[3]"},
		{Filter{Text: "0/5:0"}, "[5]"},
		{Filter{Text: "0/5:1"}, "[]"},
		{Filter{Text: "B", Class: connector.ClassRejected, Open: &no, Brief: true}, "[2]"},
	} {
		letters, err := s.Letters(t.Context(), test.filter)
		must(t, err)
		got := []int{}
		for _, l := range letters {
			got = append(got, int(l.Position.Commit))
			if brief := len(l.Payload) == 0 && len(l.Change) == 0 && l.Answer == nil; brief != test.filter.Brief {
				t.Errorf("%+v: payload %s", test.filter, l.Payload)
			}
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("%+v: got %v, want %s", test.filter, got, test.want)
		}
	}
}

func endedContext(t *testing.T, open func() durable) {
	s := open()
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"Intend":         s.Intend(ctx, []connector.RecordID{point("m", at(1, 0), 0)}),
		"SetAside":       s.SetAside(ctx, []*connector.DeadLetter{letter(point("m", at(2, 0), 0), connector.ClassRejected)}),
		"SaveCheckpoint": s.SaveCheckpoint(ctx, checkpoint(at(0, 1))),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if saved := load(t, s); saved.Checkpoint != nil || len(saved.Known) != 0 {
		t.Errorf("written all the same: %+v", saved)
	}
}

func concurrentCallers(t *testing.T, open func() durable) {
	s := open()
	const callers, each = 16, 40
	want := map[connector.RecordKey]connector.Known{}
	var mu sync.Mutex
	var callersDone sync.WaitGroup
	for c := range callers {
		callersDone.Go(func() {
			for i := range each {
				id := point(fmt.Sprint("m", c), at(connector.LSN(100+i), uint32(c)), 0)
				known := connector.Intended
				if err := s.Intend(t.Context(), []connector.RecordID{id}); err != nil {
					t.Error(err)
				}
				switch i % 4 {
				case 0:
					known = connector.Applied
					s.Outcome(id, true)
				case 1:
					known = connector.Unknown
					s.Outcome(id, false)
				case 2:
					known = connector.Lettered
					if err := s.SetAside(t.Context(), []*connector.DeadLetter{letter(id, connector.ClassUncertain)}); err != nil {
						t.Error(err)
					}
				}
				if known != connector.Unknown {
					mu.Lock()
					want[id.Key()] = known
					mu.Unlock()
				}
			}
		})
	}
	callersDone.Go(func() {
		for i := range each {
			if err := s.SaveCheckpoint(t.Context(), checkpoint(at(connector.LSN(i), 0))); err != nil {
				t.Error(err)
			}
			if _, err := s.Load(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	callersDone.Wait()
	if _, saved := reopen(t, s, open); !maps.Equal(saved.Known, want) || saved.Checkpoint.Settled != at(each-1, 0) {
		t.Errorf("%d known, want %d; settled %s", len(saved.Known), len(want), saved.Checkpoint.Settled)
	}
}

func closedRefuses(t *testing.T, open func() durable) {
	s := open()
	id := point("m", at(1, 0), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{id}))
	s.Outcome(id, true) // Close writes it
	must(t, s.Close())
	must(t, s.Close())
	for name, err := range map[string]error{
		"Intend":         s.Intend(t.Context(), []connector.RecordID{id}),
		"SetAside":       s.SetAside(t.Context(), []*connector.DeadLetter{letter(id, connector.ClassRejected)}),
		"SaveCheckpoint": s.SaveCheckpoint(t.Context(), checkpoint(at(1, 0))),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Outcome(id, false)
	s = open()
	defer s.Close()
	if got := load(t, s).Known; got[id.Key()] != connector.Applied || len(got) != 1 {
		t.Errorf("known: %v", got)
	}
}

// modelOfPoints compares random histories with a model that asks Checkpoint.Covers for every point.
func modelOfPoints(t *testing.T, open func() durable) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	s := open()
	// Positions on both sides of the sign bit, close enough that ranges end in the middle of transactions.
	position := func() connector.Position {
		return at(1<<63-20+connector.LSN(random.IntN(40)), uint32(random.IntN(6)))
	}
	model := map[connector.RecordKey]connector.Known{}
	lettered := map[connector.RecordKey]bool{}
	var ids []connector.RecordID
	last := checkpoint(connector.Position{})
	for round := range 60 {
		var batch []connector.RecordID
		for range random.IntN(30) {
			id := point([]string{"a", "b", "积分"}[random.IntN(3)], position(), random.IntN(2))
			if !last.CoversRecord(id.Key()) && model[id.Key()] != connector.Lettered {
				batch = append(batch, id)
				model[id.Key()] = connector.Intended
			}
		}
		ids = append(ids, batch...)
		must(t, s.Intend(t.Context(), batch))
		for _, id := range ids {
			if _, there := model[id.Key()]; !there || model[id.Key()] == connector.Lettered {
				continue
			}
			switch random.IntN(8) {
			case 0:
				s.Outcome(id, true)
				model[id.Key()] = connector.Applied
			case 1:
				s.Outcome(id, false)
				delete(model, id.Key())
			case 2:
				must(t, s.SetAside(t.Context(), []*connector.DeadLetter{letter(id, connector.ClassUncertain)}))
				model[id.Key()] = connector.Lettered
				lettered[id.Key()] = true
			}
		}
		// Settled creeps on; the ranges are new each time.
		ends := []connector.Position{at(1<<63-21+connector.LSN(round/2), uint32(round%2))}
		for range 2 * random.IntN(8) {
			if p := position(); p.Compare(ends[0]) > 0 {
				ends = append(ends, p)
			}
		}
		slices.SortFunc(ends, connector.Position.Compare)
		ends = slices.Compact(ends)
		cp := checkpoint(ends[0])
		for i := 1; i+1 < len(ends); i += 2 {
			cp.Ranges = append(cp.Ranges, connector.Range{From: ends[i], To: ends[i+1]})
		}
		if random.IntN(2) == 0 { // one mapping goes by itself for a stretch
			p := position()
			track := connector.Track{Mapping: "b", Since: p, Settled: p, Until: at(1<<63+30, 0)}
			if q := position(); q.Compare(p) > 0 {
				track.Ranges = []connector.Range{{From: q, To: q}}
			}
			cp.Tracks = []connector.Track{track}
		}
		must(t, s.SaveCheckpoint(t.Context(), cp))
		last = cp
		// A covered point is forgotten for good, or a letter where it has no outcome; a letter is only not spoken of while covered.
		want := map[connector.RecordKey]connector.Known{}
		for k, known := range model {
			if !cp.CoversRecord(k) {
				want[k] = known
			} else if known == connector.Intended {
				model[k], lettered[k] = connector.Lettered, true
			} else if !lettered[k] {
				delete(model, k)
			}
		}
		var saved *connector.Saved
		if round%10 == 9 {
			s, saved = reopen(t, s, open)
		} else {
			saved = load(t, s)
		}
		if !maps.Equal(saved.Known, want) {
			t.Fatalf("round %d: got %d, want %d\ngot  %v\nwant %v\n%+v", round, len(saved.Known), len(want), saved.Known, want, cp)
		}
		if store, ok := s.(interface{ storedPoints(*testing.T) int }); ok {
			points := 0
			for k := range want {
				if !lettered[k] {
					points++
				}
			}
			if stored := store.storedPoints(t); stored < points || stored > len(want) {
				t.Fatalf("round %d: %d points are stored, %d uncovered ones are known, %d of them without a letter", round, stored, len(want), points)
			}
		}
	}
	must(t, s.Close())
}
