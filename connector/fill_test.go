package connector

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// fillSession is a session with one backfill of the mapping and table that name names, whose key is column id. The table's rows are made of letters: the key.
type fillSession struct {
	*session
	f     *fill
	table *Table
	lsn   LSN
}

func newFillSession(name string, cp *Checkpoint) *fillSession {
	log := slog.New(slog.DiscardHandler)
	s := &session{hand: &hand{}}
	mapping := strings.Replace(name, "!", "h", 1)
	b := &Backfill{ID: 3, Mapping: mapping, Schema: "s", Name: name, Status: BackfillRunning, Started: time.Now(), BackfillProgress: BackfillProgress{Key: []string{"id"}}}
	s.Pipeline = NewPipeline(PipelineOptions{Mapper: oneEach{}, Store: &drawer{}, Saved: &Saved{Checkpoint: cp}, Alarms: NewAlarms(log), Log: log,
		Backfills: &BackfillOptions{Mapper: oneEach{}, Unended: []*Backfill{b}, Pending: 100, Mappings: map[string]BackfillMapping{mapping: {Schema: "s", Name: name, Points: true}}}})
	s.deliverer, s.atOnce = s.hand, 1
	return &fillSession{session: s, f: s.fills.list[0], table: &Table{Schema: "s", Name: name, Columns: []Column{{Name: "id"}}}, lsn: 1000}
}

// write plays an update, or with old empty an insert; ? is a key that did not come.
func (s *fillSession) write(t *testing.T, old, new string) {
	t.Helper()
	s.lsn += 10
	tuple := func(key string) Tuple {
		if key == "?" {
			return Tuple{{Kind: Absent}}
		}
		return Tuple{{Kind: Text, Text: []byte(key)}}
	}
	c := &Change{Position: Position{Commit: s.lsn}, CommitTime: time.Unix(1, 0), Op: Update, Table: s.table, New: tuple(new), XID: uint32(s.lsn)}
	if c.Op = Insert; old != "" {
		c.Op, c.Old = Update, tuple(old)
	}
	if err := s.Change(c); err != nil {
		t.Fatal(err)
	}
	s.Commit(s.lsn, s.lsn+5, c.CommitTime)
	s.hand.open = nil // the stream's records are of no interest here
}

// chunk plays a chunk of these keys, with what happens between its watermarks, and gives the end and the keys that were handed over.
func (s *fillSession) chunk(t *testing.T, keys string, snapshot *Visible, asked []string, between func()) (windowEnd, string) {
	t.Helper()
	w := &window{fill: s.f, token: fmt.Sprint(s.lsn), changed: map[string]struct{}{}, rows: asked, done: make(chan windowEnd, 1)}
	s.fills.windows[w.token] = w
	s.Watermark(lowMark+w.token, Position{Commit: s.lsn + 1})
	if between != nil {
		between()
	}
	w.chunk = &Chunk{Table: s.table, Scanned: len(keys), End: true, Snapshot: snapshot}
	early := &ahead{fs: s.fills, f: s.f}
	early.begin(len(keys))
	for _, k := range strings.Split(keys, "") {
		row := ChunkRow{Key: k, Tuple: Tuple{{Kind: Text, Text: []byte(k)}}}
		if early.take(s.table, &row) {
			row.Tuple = nil
		}
		w.chunk.Rows = append(w.chunk.Rows, row)
		w.chunk.Last = k
	}
	w.ahead = early.end()
	s.lsn += 10
	at := Position{Commit: s.lsn}
	s.Watermark(highMark+w.token, at)
	if s.Room() != nil {
		t.Fatal("there is room")
	}
	handed := ""
	for _, r := range s.hand.open {
		if r.Position.Commit != at.Commit {
			t.Errorf("a row stands at %s, and the watermark at %s", r.Position, at)
		}
		handed += w.chunk.Rows[r.Position.Index].Key
	}
	return <-w.done, handed
}

// left gives the rows that are stored as to be read once more.
func (s *fillSession) left() string {
	s.fills.mu.Lock()
	defer s.fills.mu.Unlock()
	var keys []string
	for _, k := range s.f.stored().Again {
		keys = append(keys, string(k))
	}
	slices.Sort(keys)
	return strings.Join(keys, "")
}

// TestFillWindow: rows that change between the watermarks stay for later; the others take their place, and until they are settled they are known as such.
func TestFillWindow(t *testing.T) {
	s := newFillSession("e", &Checkpoint{Settled: Position{Commit: 1000}})
	s.write(t, "b", "b") // before
	end, handed := s.chunk(t, "abcd", &Visible{Xmin: 9999, Xmax: 9999}, nil, func() {
		s.write(t, "c", "c")
		s.write(t, "", "z")
		s.write(t, "d", "x") // and x is to be read too
	})
	if end.returned() || handed != "ab" || s.left() != "abcdx" || string(s.f.After) != "d" {
		t.Errorf("%+v: handed over %s, left %s, after %s", end, handed, s.left(), s.f.After)
	}
	s.deliver()
	if s.left() != "cdx" || s.f.BackfillProgress.Rows != 2 || !s.f.Scanned {
		t.Errorf("left %s, %+v", s.left(), s.f.BackfillProgress)
	}
	// Read once more: c is there, d has gone, and x changes again.
	for _, key := range []string{"c", "d", "x"} {
		s.f.again[key].taken = true
	}
	end, handed = s.chunk(t, "cx", nil, []string{"c", "d", "x"}, func() { s.write(t, "x", "x") })
	if end.returned() || handed != "c" || s.left() != "cx" {
		t.Errorf("%+v: handed over %s, left %s", end, handed, s.left())
	}
	s.deliver()
	if s.left() != "x" {
		t.Errorf("left %s", s.left())
	}
	if got := s.f.Moves; len(got) != 1 || string(got[0].From) != "d" || string(got[0].To) != "x" {
		t.Errorf("moves %+v", got)
	}
}

// TestFillReturned: a chunk that does not show what the stream has brought, or of which nobody knows what changed, or whose mapping is held, is read again as a
// whole, and none of its rows are handed over.
func TestFillReturned(t *testing.T) {
	for name, play := range map[string]func(s *fillSession) (windowEnd, string){
		"not seen": func(s *fillSession) (windowEnd, string) {
			s.f.streamed = map[uint32]uint64{}
			s.write(t, "a", "a") // its transaction has the number of its LSN
			return s.chunk(t, "abc", &Visible{Xmin: uint64(s.lsn), Xmax: uint64(s.lsn) + 1, Running: []uint64{uint64(s.lsn)}}, nil, nil)
		},
		"unknown key": func(s *fillSession) (windowEnd, string) {
			return s.chunk(t, "abc", nil, nil, func() { s.write(t, "?", "a") })
		},
		"to be held": func(s *fillSession) (windowEnd, string) {
			s.Hold("e", HoldFailing, Unfit{Why: "so"})
			return s.chunk(t, "abc", nil, nil, nil)
		},
		"held": func(s *fillSession) (windowEnd, string) {
			s.Hold("e", HoldFailing, Unfit{Why: "so"})
			s.write(t, "", "z")
			return s.chunk(t, "abc", nil, nil, nil)
		},
	} {
		s := newFillSession("e", &Checkpoint{Settled: Position{Commit: 1000}})
		end, handed := play(s)
		if !end.returned() || handed != "" || s.left() != "abc" {
			t.Errorf("%s: %+v, handed over %q, left %q", name, end, handed, s.left())
		}
	}
	// A transaction that the chunk shows, or that came between the watermarks, is no reason.
	s := newFillSession("e", &Checkpoint{Settled: Position{Commit: 1000}})
	s.f.streamed = map[uint32]uint64{}
	s.write(t, "a", "a")
	seen := uint64(s.lsn)
	end, handed := s.chunk(t, "abc", &Visible{Xmin: seen + 1, Xmax: seen + 1}, nil, func() { s.write(t, "b", "b") })
	if end.returned() || handed != "ac" || len(s.f.streamed) != 1 {
		t.Errorf("%+v, handed over %q, %d transactions kept", end, handed, len(s.f.streamed))
	}
}

// TestFillMisfit: a mapping that can't read the rows says so, and nothing is lost.
func TestFillMisfit(t *testing.T) {
	s := newFillSession("!", &Checkpoint{Settled: Position{Commit: 1000}})
	end, handed := s.chunk(t, "abc", nil, nil, nil)
	if end.misfit != "no such column" || handed != "" || s.left() != "abc" {
		t.Errorf("%+v, handed over %q, left %q", end, handed, s.left())
	}
}

// TestFillKnownPoints: points of an earlier process that were applied are passed over; those of which nobody knows become letters.
func TestFillKnownPoints(t *testing.T) {
	s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
	w := &window{fill: s.f, token: "t", changed: map[string]struct{}{}, done: make(chan windowEnd, 1), known: map[string]Known{"a": Applied, "b": Intended}}
	s.fills.windows["t"] = w
	s.Watermark(lowMark+"t", Position{Commit: 1001})
	w.chunk = &Chunk{Table: s.table, Last: "c", Rows: []ChunkRow{{Key: "a"}, {Key: "b"}, {Key: "c"}}}
	s.Watermark(highMark+"t", Position{Commit: 1010})
	s.Watermark(highMark+"t", Position{Commit: 1010}) // it comes again
	s.Room()
	letters := s.letters.take()
	if len(s.hand.open) != 1 || s.hand.open[0].Position.Index != 2 || len(letters) != 1 || letters[0].letter.Class != ClassUncertain || letters[0].letter.Position.Index != 1 {
		t.Errorf("records %+v, letters %+v", s.hand.open, letters)
	}
	letters[0].change.settle(letters[0].letter.RecordID)
	s.deliver()
	if s.left() != "" || s.f.BackfillProgress.Rows != 3 {
		t.Errorf("left %q, %d rows", s.left(), s.f.BackfillProgress.Rows)
	}
}

// TestFillTwins: two texts that are one key to the database both find the row; its point is given once.
func TestFillTwins(t *testing.T) {
	for name, asked := range map[string][]string{"both at once": {"a", "A"}, "one now": {"a"}} {
		s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
		s.f.readAgain("a")
		s.f.readAgain("A")
		for _, key := range asked {
			s.f.again[key].taken = true
		}
		keys := strings.Repeat("A", len(asked)) // the row's key is written A
		want := strings.Repeat("A", len(asked)-1)
		end, handed := s.chunk(t, keys, nil, asked, nil)
		if end.returned() || handed != want || s.left() != "A" {
			t.Errorf("%s: %+v, handed over %q, left %q", name, end, handed, s.left())
		}
		s.deliver()
		if got := s.left(); got+want != "A" {
			t.Errorf("%s: left %q", name, got)
		}
	}
}

// TestFillMovedSinceTaken: a row that came to a key after that was taken to be read, and before it was, is read once more: what was known of its point is still
// noted under its former key.
func TestFillMovedSinceTaken(t *testing.T) {
	s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
	s.f.readAgain("k")
	s.f.again["k"].taken = true
	s.write(t, "x", "k")
	end, handed := s.chunk(t, "k", nil, []string{"k"}, nil)
	if end.returned() || handed != "" || s.left() != "k" || s.f.again["k"].taken || len(s.f.Moves) != 1 {
		t.Errorf("%+v, handed over %q, left %q, moves %v", end, handed, s.left(), s.f.Moves)
	}
	s.f.again["k"].taken = true
	if end, handed = s.chunk(t, "k", nil, []string{"k"}, nil); end.returned() || handed != "k" {
		t.Errorf("%+v, handed over %q", end, handed)
	}
	s.deliver()
	if s.left() != "" {
		t.Errorf("left %q", s.left())
	}
}

// shelf is a BackfillStore that ends backfills only; ending is called meanwhile.
type shelf struct {
	BackfillStore
	ending func()
	ended  int
}

func (s *shelf) EndBackfill(context.Context, *Backfill, string) error {
	s.ended++
	s.ending()
	return nil
}

// TestFillCancelled: nothing of a backfill is handed over once its rows are being forgotten, and they are not while some are being handed over.
func TestFillCancelled(t *testing.T) {
	s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
	read := func(token string) func() {
		w := &window{fill: s.f, token: token, changed: map[string]struct{}{}, done: make(chan windowEnd, 1)}
		s.fills.windows[token] = w
		s.Watermark(lowMark+token, Position{Commit: 1001})
		w.chunk = &Chunk{Table: s.table, Last: token, Rows: []ChunkRow{{Key: token, Tuple: Tuple{{Kind: Text, Text: []byte(token)}}}}}
		return func() { s.Watermark(highMark+token, Position{Commit: 1010}) }
	}
	first, second := read("a"), read("b")
	first()
	store := &shelf{ending: func() { second(); s.Room() }}
	s.fills.Store = store
	cancel := func() {
		t.Helper()
		if stopped, err := s.fills.answer(t.Context(), s.f, AskCancel); !stopped || err != nil {
			t.Fatal(stopped, err)
		}
	}
	if cancel(); store.ended > 0 {
		t.Error("it ends while rows are being handed over")
	}
	s.Room()
	if cancel(); store.ended > 0 || len(s.hand.open) != 1 {
		t.Errorf("it ends while %d rows are open", len(s.hand.open))
	}
	s.deliver()
	if cancel(); store.ended != 1 || len(s.hand.open) != 0 || s.f.Status != BackfillCancelled {
		t.Errorf("%s: ended %d times, %d rows sent since", s.f.Status, store.ended, len(s.hand.open))
	}
}

// TestFillMovesOfGoneMapping: keys that change while the mapping is out of the file are kept: it may have given points, and be put back.
func TestFillMovesOfGoneMapping(t *testing.T) {
	s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
	s.fills = newFills(s.Pipeline, BackfillOptions{Unended: []*Backfill{s.f.Backfill}, Pending: 100})
	s.write(t, "a", "b")
	if got := s.fills.list[0].Moves; len(got) != 1 || string(got[0].From) != "a" || string(got[0].To) != "b" {
		t.Errorf("moves %+v", got)
	}
}

// saves is a BackfillStore that keeps what is done of what was asked for.
type saves struct {
	BackfillStore
	asked string
}

func (s *saves) Backfills(context.Context) ([]*Backfill, error) {
	return []*Backfill{{ID: 3, Mapping: "p", Schema: "s", Name: "p", Status: BackfillRunning, Asked: s.asked}}, nil
}

func (s *saves) SaveBackfill(_ context.Context, _ *Backfill, done string) error {
	if done == s.asked {
		s.asked = ""
	}
	return nil
}

// TestFillResumedWhileItRuns: resume, asked for while it runs, is done with: it must not end the next standstill.
func TestFillResumedWhileItRuns(t *testing.T) {
	s := newFillSession("p", &Checkpoint{Settled: Position{Commit: 1000}})
	store := &saves{asked: AskResume}
	s.fills.Store = store
	stopped, err := s.fills.asked(t.Context(), s.f)
	if stopped || err != nil || store.asked != "" || s.f.Status != BackfillRunning {
		t.Errorf("stopped %t, %v, asked %q, %s", stopped, err, store.asked, s.f.Status)
	}
}

// TestFillCut: rows that were asked for by their keys, and that did not come because others were large, are asked for again.
func TestFillCut(t *testing.T) {
	s := newFillSession("e", &Checkpoint{Settled: Position{Commit: 1000}})
	for _, key := range []string{"a", "b", "c"} {
		s.f.readAgain(key)
		s.f.again[key].taken = true
	}
	s.f.order = nil
	w := &window{fill: s.f, token: "t", rows: []string{"a", "b", "c"}, changed: map[string]struct{}{}, done: make(chan windowEnd, 1), chunk: &Chunk{Table: s.table, Rows: []ChunkRow{{Key: "b"}}}}
	s.fills.windows["t"] = w
	s.Watermark(lowMark+"t", Position{Commit: 1001})
	s.Watermark(highMark+"t", Position{Commit: 1010})
	s.Room()
	s.deliver()
	if s.left() != "ac" || s.f.again["a"].taken || !slices.Equal(s.f.order, []string{"a", "c"}) {
		t.Errorf("left %q, asked for next %v", s.left(), s.f.order)
	}
}

// byKey is a RowReader that notes how many rows were asked for by their keys, and finds none.
type byKey struct {
	RowReader
	asked []int
}

func (r *byKey) ReadRows(_ context.Context, _ string, rows []string) (*Chunk, error) {
	r.asked = append(r.asked, len(rows))
	return &Chunk{End: true}, nil
}

func (r *byKey) Mark(context.Context, string) (uint64, error) { return 0, nil }

// TestFillPaceOfRows: rows that are read once more go no faster than the others.
func TestFillPaceOfRows(t *testing.T) {
	s := newFillSession("e", &Checkpoint{Settled: Position{Commit: 1000}})
	for i := range 300 {
		s.f.readAgain(fmt.Sprint(i))
	}
	r := &byKey{}
	g := &reading{fs: s.fills, f: s.f, r: r, pace: 50}
	if err := g.again(t.Context()); err != nil || !slices.Equal(r.asked, []int{10}) {
		t.Errorf("%v rows at once, %v", r.asked, err)
	}
	if err := g.marked(); err != nil {
		t.Error(err)
	}
}
