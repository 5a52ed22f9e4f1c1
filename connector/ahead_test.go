package connector

import (
	"fmt"
	"strings"
	"testing"
)

// byValue makes an event of a row that a backfill reads; of one that is b a letter, and with placed the event tells its position. It reads the row's value.
type byValue struct {
	placed bool
	made   map[*Record]bool
}

func (m byValue) Map(c *Change, _ Part, out *Output) {
	id := RecordID{Mapping: "e", Position: c.Position, Backfill: c.Backfill, Row: c.Row}
	if c.Op != Snapshot {
		return
	}
	value := string(c.New[0].Text)
	if value == "b" {
		out.Letters = append(out.Letters, &DeadLetter{RecordID: id, Class: ClassMapping, Kind: Event, Reason: value})
		return
	}
	r := out.Record()
	r.RecordID, r.Kind, r.Payload = id, Event, append(r.Payload, value...)
	if m.placed {
		out.Placed = true
		r.Payload = fmt.Append(r.Payload, c.Position)
	}
	out.Records = append(out.Records, r)
	m.made[r] = true
}

func newAheadSession(placed bool) (*fillSession, byValue) {
	s := newFillSession("e", &Checkpoint{Settled: Position{Commit: 1000}})
	m := byValue{placed, map[*Record]bool{}}
	s.mapper, s.fills.Mapper = m, m
	return s, m
}

// TestAhead: what is made of rows before their place in the stream has come is what is made of them there.
func TestAhead(t *testing.T) {
	for _, placed := range []bool{false, true} {
		s, _ := newAheadSession(placed)
		end, handed := s.chunk(t, "abcd", nil, nil, func() { s.write(t, "c", "c") })
		if end.returned() || handed != "ad" {
			t.Fatalf("%+v: handed over %s", end, handed)
		}
		for _, r := range s.hand.open {
			want := r.Row
			if placed {
				want += r.Position.String()
			}
			if string(r.Payload) != want || r.Backfill != s.f.ID {
				t.Errorf("row %s of backfill %d gave %s, want %s", r.Row, r.Backfill, r.Payload, want)
			}
		}
		letters := s.letters.take()
		if len(letters) != 1 || letters[0].letter.Row != "b" || letters[0].letter.Position != (Position{Commit: s.lsn, Index: 1}) {
			t.Errorf("letters %+v", letters)
		}
	}
}

// TestAheadUsesAgain: a long backfill makes no more records than are under way at a time, whatever becomes of the rows.
func TestAheadUsesAgain(t *testing.T) {
	s, m := newAheadSession(false)
	for range 50 {
		for _, between := range []func(){nil, func() { s.write(t, "c", "c") }, func() { s.write(t, "?", "a") }} { // a row is left out; all are given back
			s.chunk(t, "acbd", nil, nil, between)
			s.Settle(s.hand.open)
			s.hand.open = nil
			for _, r := range s.letters.take() {
				r.change.settle(r.letter.RecordID)
			}
		}
	}
	if len(m.made) > 6 {
		t.Errorf("%d records were made", len(m.made))
	}
}

// TestAheadIsBounded: payloads that are much larger than their rows do not fill the memory before their place in the stream has come.
func TestAheadIsBounded(t *testing.T) {
	s, _ := newAheadSession(false)
	early := &ahead{fs: s.fills, f: s.f}
	early.begin(100)
	value, mapped := []byte(strings.Repeat("v", mostAhead/10)), 0
	for range 100 {
		row := ChunkRow{Key: "k", Tuple: Tuple{{Kind: Text, Text: value}}}
		if early.take(s.table, &row) {
			mapped++
		}
	}
	if mapped != 11 || len(early.end()) != mapped {
		t.Errorf("%d rows are mapped ahead", mapped)
	}
}
