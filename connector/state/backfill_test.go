package state

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

func testBackfill(mapping string) *connector.Backfill {
	return &connector.Backfill{Mapping: mapping, Schema: "crm", Name: `or"ders`, Where: "id > 7 -- x", Since: "a,\xff", Limit: 9, RowsPerSecond: 8, Initial: true,
		Status: connector.BackfillQueued, Created: time.UnixMicro(1_700_000_000_123_456).UTC()}
}

// initial adds backfills of mappings, and gives them.
func initial(t *testing.T, s durable, mappings ...string) []*connector.Backfill {
	t.Helper()
	var list []*connector.Backfill
	for _, m := range mappings {
		list = append(list, testBackfill(m))
	}
	must(t, s.AddInitial(t.Context(), list))
	got, err := s.Backfills(t.Context())
	must(t, err)
	return got
}

func backfillsComeBack(t *testing.T, open func() durable) {
	s := open()
	added := initial(t, s, "m", "n")
	if again := initial(t, s, "m", "n"); len(again) != 2 {
		t.Errorf("added twice: %+v", again)
	}
	want := testBackfill("m")
	want.ID = added[0].ID
	if !reflect.DeepEqual(added[0], want) {
		t.Errorf("\n got %+v\nwant %+v", added[0], want)
	}
	want.Status, want.Reason, want.Fingerprint, want.Started = connector.BackfillPaused, "so", "f", time.UnixMicro(1_700_000_001_000_000).UTC()
	want.BackfillProgress = connector.BackfillProgress{Key: []string{"a", "b"}, After: connector.RowBytes("x\xff\x00,1"), Scanned: true,
		Again: []connector.RowBytes{connector.RowBytes("1"), connector.RowBytes("\xfe")}, Read: 5, Rows: 4, Estimate: 6,
		Moves: []connector.RowMove{{From: connector.RowBytes("1"), To: connector.RowBytes("2")}}, Moved: at(7, 3)}
	must(t, s.SaveBackfill(t.Context(), want, "pause"))
	must(t, s.Close())
	s = open()
	defer s.Close()
	got, err := s.Backfills(t.Context())
	must(t, err)
	if !reflect.DeepEqual(got[0], want) {
		t.Errorf("\n got %+v\nwant %+v", got[0], want)
	}
	want.Status, want.Ended = connector.BackfillCancelled, time.UnixMicro(1_700_000_002_000_000).UTC()
	must(t, s.EndBackfill(t.Context(), want, ""))
	if got, err = s.Backfills(t.Context()); err != nil || len(got) != 1 || got[0].Mapping != "n" {
		t.Errorf("after the end of one: %+v, %v", got, err)
	}
	if got, err = s.AllBackfills(t.Context()); err != nil || len(got) != 2 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("all: %+v, %v", got, err)
	}
	if again := initial(t, s, "m"); len(again) != 1 {
		t.Errorf("an initial one that has ended was added again: %+v", again)
	}
}

// row names a row of a backfill.
func row(b *connector.Backfill, key string, p connector.Position) connector.RecordID {
	return connector.RecordID{Mapping: b.Mapping, Position: p, Backfill: b.ID, Row: key}
}

func knows(t *testing.T, s durable, b *connector.Backfill, want map[string]connector.Known, keys ...string) {
	t.Helper()
	got, err := s.KnownRows(t.Context(), b.ID, keys)
	must(t, err)
	if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("of %q it knows %v, want %v", keys, got, want)
	}
}

func backfillRows(t *testing.T, open func() durable) {
	s := open()
	fills := initial(t, s, "m", "n")
	m, n := fills[0], fills[1]
	if some, err := s.KnownRows(t.Context(), m.ID, nil); err != nil || len(some) > 0 {
		t.Errorf("a new one knows %v, %v", some, err)
	}
	must(t, s.Intend(t.Context(), []connector.RecordID{row(m, "a", at(5, 0)), row(m, "b\xff,", at(5, 1)), row(m, "c", at(5, 2)), row(n, "a", at(6, 0))}))
	s.Outcome(row(m, "a", at(5, 0)), true)
	s.Outcome(row(m, "c", at(5, 2)), false)
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{letter(row(m, "d", at(5, 3)), connector.ClassMapping)}))
	// A checkpoint has nothing to do with them.
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(100, 0))))
	must(t, s.Close())
	s = open()
	defer s.Close()
	knows(t, s, m, map[string]connector.Known{"a": connector.Applied, "b\xff,": connector.Intended, "d": connector.Applied}, "a", "b\xff,", "c", "d", "e")
	knows(t, s, n, map[string]connector.Known{"a": connector.Intended}, "a", "d")
	if some, err := s.KnownRows(t.Context(), n.ID, nil); err != nil || len(some) != 1 {
		t.Errorf("any one: %v, %v", some, err)
	}
	// It comes again in another chunk, and its intent with it.
	must(t, s.Intend(t.Context(), []connector.RecordID{row(m, "b\xff,", at(9, 4))}))
	m.Status, m.Ended = connector.BackfillDone, time.Now().UTC()
	must(t, s.EndBackfill(t.Context(), m, ""))
	knows(t, s, m, nil, "a", "b\xff,", "c", "d", "e")
	knows(t, s, n, map[string]connector.Known{"a": connector.Intended}, "a")
	letters, err := s.Letters(t.Context(), Filter{Class: connector.ClassUncertain})
	must(t, err)
	if len(letters) != 1 || letters[0].Position != at(9, 4) || letters[0].Table != `crm.or"ders` || !letters[0].CommitTime.IsZero() {
		t.Errorf("a point without outcome at the end: %+v", letters)
	}
}

func backfillMoves(t *testing.T, open func() durable) {
	s := open()
	defer s.Close()
	b := initial(t, s, "m")[0]
	ctx := context.WithoutCancel(t.Context())
	must(t, s.Intend(ctx, []connector.RecordID{row(b, "1", at(5, 0)), row(b, "2", at(5, 1)), row(b, "3", at(5, 2))}))
	s.Outcome(row(b, "1", at(5, 0)), true)
	move := func(moves ...string) {
		t.Helper()
		var list []connector.RowMove
		for i := 0; i < len(moves); i += 2 {
			list = append(list, connector.RowMove{From: connector.RowBytes(moves[i]), To: connector.RowBytes(moves[i+1])})
		}
		b.Read++
		must(t, s.MoveRows(ctx, b, list))
	}
	move("1", "x", "2", "1", "x", "2") // two that change places
	knows(t, s, b, map[string]connector.Known{"1": connector.Intended, "2": connector.Applied, "3": connector.Intended}, "1", "2", "3", "x")
	move("9", "2") // one of which nothing is known takes the place of one that has left
	knows(t, s, b, map[string]connector.Known{"1": connector.Intended, "3": connector.Intended}, "1", "2", "3")
	got, err := s.Backfills(ctx)
	if err != nil || got[0].Read != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	letters := func() []*connector.DeadLetter {
		t.Helper()
		list, err := s.Letters(ctx, Filter{})
		must(t, err)
		return list
	}
	if n := len(letters()); n != 0 {
		t.Errorf("%d letters of rows that all are known still", n)
	}
	move("9", "3") // one takes the place of one that has left, and whose point has no outcome
	knows(t, s, b, map[string]connector.Known{"1": connector.Intended}, "1", "2", "3")
	if list := letters(); len(list) != 1 || list[0].Class != connector.ClassUncertain || list[0].Position != at(5, 2) || !strings.Contains(list[0].Reason, "another row has its key") {
		t.Errorf("letters %+v", list)
	}
}

// TestAskBackfill: commands leave backfills, and what they want of them, beside the one who writes.
func TestAskBackfill(t *testing.T) {
	at := Location{Path: t.TempDir() + "/state.db"}
	s, err := Open(t.Context(), at, quiet())
	must(t, err)
	defer s.Close()
	id, err := AddBackfill(t.Context(), at, testBackfill("m"))
	must(t, err)
	second, err := AddBackfill(t.Context(), at, testBackfill("m"))
	must(t, err)
	must(t, AskBackfill(t.Context(), at, id, connector.AskPause))
	b, err := s.Backfill(t.Context(), id)
	if err != nil || b.Asked != connector.AskPause || second == id {
		t.Fatalf("%+v, %v", b, err)
	}
	must(t, s.SaveBackfill(t.Context(), b, ""))
	if b, err = s.Backfill(t.Context(), id); err != nil || b.Asked != connector.AskPause {
		t.Errorf("progress takes a question away: %+v, %v", b, err)
	}
	must(t, AskBackfill(t.Context(), at, id, connector.AskResume))
	must(t, s.SaveBackfill(t.Context(), b, connector.AskPause)) // late
	if b, err = s.Backfill(t.Context(), id); err != nil || b.Asked != connector.AskResume {
		t.Errorf("the answer to an older question takes a newer one away: %+v, %v", b, err)
	}
	must(t, s.SaveBackfill(t.Context(), b, connector.AskResume))
	if b, err = s.Backfill(t.Context(), id); err != nil || b.Asked != "" {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := s.Backfill(t.Context(), 99); err == nil || fmt.Sprint(err) == "" {
		t.Error("there is no backfill 99")
	}
}

func backfillGiven(t *testing.T, open func() durable) {
	s := open()
	fills := initial(t, s, "m", "n")
	m, n := fills[0], fills[1]
	note := func(b *connector.Backfill, notes ...connector.RowNote) {
		t.Helper()
		b.Notes = notes
		must(t, s.SaveBackfill(t.Context(), b, ""))
		b.Notes = nil
	}
	given := func(want map[string][]uint64) {
		t.Helper()
		got, err := s.GivenRows(t.Context(), m.ID, []string{"1", "2", "3", "x\xff,", "9"})
		must(t, err)
		for _, list := range got {
			slices.Sort(list)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("given %v, want %v", got, want)
		}
	}
	given(map[string][]uint64{})
	note(m, connector.RowNote{Row: "1", Given: connector.GivenToNew}, connector.RowNote{Row: "1", Given: 1<<64 - 1}, connector.RowNote{Row: "x\xff,", Given: 7})
	note(n, connector.RowNote{Row: "3", Given: 5})
	note(m, connector.RowNote{Row: "1", Given: 1<<64 - 1}) // it comes again
	given(map[string][]uint64{"1": {0, 1<<64 - 1}, "x\xff,": {7}})
	// In their order: the row leaves its key, and another one gets it.
	note(m, connector.RowNote{Row: "2", From: "1"}, connector.RowNote{Row: "1", Given: 9})
	given(map[string][]uint64{"1": {9}, "2": {0, 1<<64 - 1}, "x\xff,": {7}})
	note(m, connector.RowNote{Row: "2", From: "1", Again: true})
	given(map[string][]uint64{"1": {9}, "2": {0, 9, 1<<64 - 1}, "x\xff,": {7}})
	must(t, s.Close())
	s = open()
	defer s.Close()
	given(map[string][]uint64{"1": {9}, "2": {0, 9, 1<<64 - 1}, "x\xff,": {7}})
	// A row of which nothing is known takes the place of one that has gone; moves of what the backfill knows bring notes along.
	m.Notes = []connector.RowNote{{Row: "2", From: "3"}}
	must(t, s.MoveRows(t.Context(), m, []connector.RowMove{{From: connector.RowBytes("3"), To: connector.RowBytes("2")}}))
	given(map[string][]uint64{"1": {9}, "x\xff,": {7}})
	m.Notes, m.Status, m.Ended = []connector.RowNote{{Row: "9", Given: 1}}, connector.BackfillDone, time.Now().UTC()
	must(t, s.EndBackfill(t.Context(), m, ""))
	given(map[string][]uint64{})
	if got, err := s.GivenRows(t.Context(), n.ID, []string{"3"}); err != nil || !slices.Equal(got["3"], []uint64{5}) {
		t.Errorf("of the other one: %v, %v", got, err)
	}
}
