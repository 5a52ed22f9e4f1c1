package connector

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"
)

// speaking makes a point of each change by mapping p: one says what the row's key and op are, unless it is said to be the same for all.
type speaking struct{ same bool }

func (s speaking) Map(c *Change, part Part, out *Output) {
	if !part.Has("p") {
		return
	}
	payload := `{"remark":"gift","relateBizCode":"` + c.Position.String() + `"}`
	if !s.same {
		payload = `{"remark":"` + c.Op.String() + `"}`
	}
	out.Records = append(out.Records, &Record{RecordID: RecordID{Mapping: "p", Position: c.Position, CommitTime: c.CommitTime, Backfill: c.Backfill, Row: c.Row}, Kind: Point, Payload: []byte(payload)})
}

// TestFillGiven: rows that the stream has given points to after they were looked up, and before their chunk's first watermark came, are passed over; where the
// points may be others than the row's own, they become letters.
func TestFillGiven(t *testing.T) {
	for _, c := range []struct {
		same     bool
		old      string // of the row that the stream brings; empty: it inserts it
		letters  int
		straight string // what is handed over
	}{
		{true, "", 0, "ac"}, {false, "", 0, "ac"}, {true, "b", 0, "ac"}, {false, "b", 1, "ac"},
	} {
		s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
		s.mapper = speaking{c.same}
		w := &window{fill: s.f, token: "t", changed: map[string]struct{}{}, done: make(chan windowEnd, 1)}
		s.fills.windows["t"] = w
		s.write(t, c.old, "b")
		s.Watermark(lowMark+"t", Position{Commit: s.lsn + 1})
		w.chunk = &Chunk{Table: s.table, Last: "c", End: true, Rows: []ChunkRow{{Key: "a"}, {Key: "b"}, {Key: "c"}}}
		s.Watermark(highMark+"t", Position{Commit: s.lsn + 2})
		s.Room()
		handed := ""
		for _, r := range s.hand.open {
			handed += r.Row
		}
		letters := s.letters.take()
		if handed != c.straight || len(letters) != c.letters {
			t.Errorf("%+v: handed over %s, letters %+v", c, handed, letters)
		}
		for _, l := range letters {
			if l.letter.Class != ClassUncertain || l.letter.Row != "b" || len(l.letter.Payload) == 0 {
				t.Errorf("%+v: %+v", c, l.letter)
			}
			l.change.settle(l.letter.RecordID)
		}
		if s.deliver(); s.left() != "" || s.f.BackfillProgress.Rows != 3 {
			t.Errorf("%+v: left %q, %d rows", c, s.left(), s.f.BackfillProgress.Rows)
		}
	}
}

// TestFillGivenStored: what the store knows to be given is passed over too, and notes move with their rows.
func TestFillGivenStored(t *testing.T) {
	s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
	s.mapper = speaking{true}
	s.f.Started = time.Time{} // queued: it notes all the same
	s.write(t, "", "a")
	s.write(t, "a", "b")
	hash := s.f.Notes[len(s.f.Notes)-1].Given
	want := []RowNote{{Row: "a"}, {Row: "b", From: "a"}, {Row: "b", Given: hash}}
	if !reflect.DeepEqual(s.f.Notes, want) || hash <= GivenUnknown || len(s.f.Moves)+len(s.f.again) > 0 {
		t.Errorf("notes %+v, want %+v; moves %v, to be read again %v", s.f.Notes, want, s.f.Moves, s.f.again)
	}
	s.f.Started = time.Now()
	w := &window{fill: s.f, token: "t", changed: map[string]struct{}{}, done: make(chan windowEnd, 1), stored: map[string][]uint64{"b": {GivenToNew, hash}, "c": {hash}}}
	s.fills.windows["t"] = w
	s.Watermark(lowMark+"t", Position{Commit: s.lsn + 1})
	w.chunk = &Chunk{Table: s.table, Last: "c", End: true, Rows: []ChunkRow{{Key: "a"}, {Key: "b"}, {Key: "c"}}}
	s.Watermark(highMark+"t", Position{Commit: s.lsn + 2})
	s.Room()
	if len(s.hand.open) != 1 || s.hand.open[0].Row != "a" || len(s.letters.take()) > 0 {
		t.Errorf("handed over %+v", s.hand.open)
	}
}

// TestFillGivenAgain: a change that comes again is noted by the key that its row has since; on its mapping's own track it may come for the first time.
func TestFillGivenAgain(t *testing.T) {
	for name, tracks := range map[string][]Track{"with the others": nil, "on a track": {{Mapping: "p", Since: Position{Commit: 1001}, Until: Position{Commit: 9000}, Settled: Position{Commit: 1000}}}} {
		s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}, Tracks: tracks})
		s.mapper = speaking{true}
		s.f.Moved = Position{Commit: 1020} // where a to b was noted
		s.write(t, "", "a")                // 1010
		s.write(t, "a", "b")               // 1020
		s.write(t, "", "c")
		var got []string
		for _, n := range s.f.Notes {
			got = append(got, fmt.Sprint(n.From, ">", n.Row, n.Again))
		}
		want := []string{">bfalse", ">cfalse"}
		if tracks != nil {
			want = []string{">afalse", "a>btrue", ">bfalse", ">cfalse"}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// notebook keeps what was stored, in its order.
type notebook struct {
	BackfillStore
	*drawer
	err  error
	done []string
}

func (n *notebook) SaveBackfill(_ context.Context, b *Backfill, _ string) error {
	if n.err == nil {
		n.done = append(n.done, fmt.Sprint("notes ", len(b.Notes)))
	}
	return n.err
}

func (n *notebook) SaveCheckpoint(_ context.Context, cp *Checkpoint) error {
	n.done = append(n.done, "checkpoint "+cp.Settled.String())
	return nil
}

// TestFillGivenBeforeCheckpoint: notes are stored before the checkpoint that covers their changes, and once; where they can't be, there is no checkpoint.
func TestFillGivenBeforeCheckpoint(t *testing.T) {
	s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
	n := &notebook{drawer: &drawer{}, err: errors.New("no space")}
	s.fills.Store, s.store = n, n
	s.write(t, "", "a")
	s.write(t, "", "b")
	if err := s.writeCheckpoint(t.Context()); err == nil || len(n.done) > 0 {
		t.Errorf("without notes: %v, %v", err, n.done)
	}
	n.err = nil
	s.dueAt.Store(0) // it is due, as far as the stream is concerned
	if err := s.writeCheckpoint(t.Context()); err != nil || len(n.done) != 2 || n.done[0] != "notes 2" {
		t.Errorf("%v, %v", err, n.done)
	}
	s.write(t, "", "c")
	if err := s.fills.save(t.Context()); err != nil || n.done[len(n.done)-1] != "notes 1" || s.f.Notes != nil {
		t.Errorf("%v, %v", err, n.done)
	}
}

// TestFillBlind: where it can't be known which row had points, or which one has moved, none is handed over any more, and the reason is said.
func TestFillBlind(t *testing.T) {
	for name, c := range map[string]struct {
		key      []string
		old, new string
		blind    bool
	}{
		"a key that did not come": {[]string{"id"}, "?", "?", true},
		"no key, inserted":        {nil, "", "a", true},
		"no key, moved":           {nil, "a", "a", true},
	} {
		s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
		s.f.Key = c.key
		end, handed := s.chunk(t, "abc", nil, nil, func() { s.write(t, c.old, c.new) })
		if end.blind != c.blind || handed != "" || (s.f.blindness() != "") != c.blind {
			t.Errorf("%s: %+v, handed over %q, %q", name, end, handed, s.f.blindness())
		}
	}
	// A row that moves gives no point of the stream, and yet comes twice.
	s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
	s.f.Key, s.mapper = nil, oneOf{}
	if s.write(t, "a", "a"); !s.f.Blind {
		t.Error("a row of a table without a key has moved")
	}
}

// oneOf makes nothing of a change.
type oneOf struct{}

func (oneOf) Map(*Change, Part, *Output) {}
