package connector

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is a source that plays what a test wrote down, then waits for the end.
type script struct {
	play func(sink Sink)
	done chan struct{} // closed when it was played
}

func (s *script) Run(ctx context.Context, sink Sink) error {
	s.play(sink)
	sink.Dry()
	close(s.done)
	<-ctx.Done()
	<-sink.Finished()
	return nil
}

// oneEach makes a point, an event and a letter of class mapping of every change, as the letters of its table's name say (p, r: a point that is
// sent again, e, h: events, m). With ! for h, mapping h can't read the table.
type oneEach struct{}

func (oneEach) Map(c *Change, part Part, out *Output) {
	for i, kind := range c.Table.Name {
		id := RecordID{Mapping: strings.Replace(string(kind), "!", "h", 1), Position: c.Position, CommitTime: c.CommitTime, Number: i}
		if !part.Has(id.Mapping) {
			continue
		}
		if kind != '!' {
			out.Fits++
		}
		switch kind {
		case 'p', 'r':
			out.Records = append(out.Records, &Record{RecordID: id, Kind: Point, Resend: kind == 'r'})
		case 'e', 'h':
			out.Records = append(out.Records, &Record{RecordID: id, Kind: Event})
		case 'm':
			out.Letters = append(out.Letters, &DeadLetter{RecordID: id, Class: ClassMapping, Kind: Event})
		case '!':
			out.Misfits = append(out.Misfits, Misfit{&DeadLetter{RecordID: id, Class: ClassMapping, Kind: Event, Reason: "no such column"}, Unfit{"no such column", "mend it"}})
		}
	}
}

// post delivers at once what it is told to, and keeps the rest.
type post struct {
	settle func([]*Record)
	mu     sync.Mutex
	got    []*Record
	keep   bool
}

func (p *post) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (p *post) Submit(records []*Record) {
	p.mu.Lock()
	for _, r := range records { // a settled one is used again
		kept := *r
		p.got = append(p.got, &kept)
	}
	keep := p.keep
	p.mu.Unlock()
	for _, r := range records {
		if !keep {
			p.settle([]*Record{r})
		}
	}
}
func (p *post) Flush()                {}
func (p *post) Room() <-chan struct{} { return nil }

// drawer is a store in memory that can be made to fail, and that checks that nothing is confirmed before it is written.
type drawer struct {
	mu       sync.Mutex
	fail     bool
	saved    []*Checkpoint
	letters  []*DeadLetter
	changed  chan struct{}
	pipeline *Pipeline
	t        *testing.T
}

func (d *drawer) Watch([]*DeadLetter)                      {}
func (d *drawer) Overtake(RecordID, []uint64)              {}
func (d *drawer) Load(context.Context) (*Saved, error)     { return nil, nil }
func (d *drawer) Intend(context.Context, []RecordID) error { return nil }
func (d *drawer) Outcome(RecordID, bool)                   {}
func (d *drawer) SaveCheckpoint(_ context.Context, cp *Checkpoint) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if confirmed := d.pipeline.Confirmed(); confirmed >= cp.Flush && len(d.saved) > 0 && confirmed > d.saved[len(d.saved)-1].Flush {
		d.t.Errorf("%s is confirmed, the disk has %s", confirmed, d.saved[len(d.saved)-1].Flush)
	}
	if d.fail {
		return errors.New("no space")
	}
	d.saved = append(d.saved, cp)
	d.signal()
	return nil
}
func (d *drawer) SetAside(_ context.Context, letters []*DeadLetter) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail {
		return errors.New("no space")
	}
	d.letters = append(d.letters, letters...)
	d.signal()
	return nil
}

func (d *drawer) signal() {
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *drawer) until(ok func() bool) {
	d.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		d.mu.Lock()
		done, changed := ok(), d.changed
		d.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			d.t.Fatal("it did not come")
		}
	}
}

type stage struct {
	*Pipeline
	store *drawer
	post  *post
	stop  func() error
}

// play runs a pipeline over a script, from what a store had saved.
func play(t *testing.T, saved *Saved, script *script, prepare func(*stage)) *stage {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s := &stage{store: &drawer{t: t, changed: make(chan struct{})}, post: &post{}}
	s.Pipeline = NewPipeline(PipelineOptions{Mapper: oneEach{}, Store: s.store, Saved: saved, Alarms: NewAlarms(log), Log: log})
	s.store.pipeline, s.post.settle = s.Pipeline, s.Settle
	if prepare != nil {
		prepare(s)
	}
	script.done = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, script, s.post) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = s.stop() })
	return s
}

func change(commit LSN, index uint32, table string) *Change {
	return &Change{Position: Position{commit, index}, CommitTime: time.Unix(int64(commit), 0), Op: Insert, Table: &Table{Name: table}}
}

func key(mapping string, commit LSN, number int) RecordKey {
	return RecordKey{mapping, Position{commit, 0}, time.Unix(int64(commit), 0).UnixMicro(), number}
}

// TestKnownRecords: after a crash a point with an outcome and a record with a letter are settled at once, a point with an intent alone is set
// aside as uncertain or, where its mapping says so, sent again; and what is not known is sent.
func TestKnownRecords(t *testing.T) {
	saved := &Saved{Checkpoint: &Checkpoint{Flush: 5}, Known: map[RecordKey]Known{
		key("p", 10, 0): Applied, key("e", 20, 0): Lettered, key("p", 30, 0): Intended, key("r", 40, 0): Intended, key("m", 50, 0): Lettered}}
	script := &script{play: func(sink Sink) {
		for i, table := range []string{"p", "e", "p", "r", "m", "pe"} {
			commit := LSN(10 + 10*i)
			if err := sink.Change(change(commit, 0, table)); err != nil {
				t.Error(err)
			}
			sink.Commit(commit, commit+5, time.Time{})
		}
	}}
	s := play(t, saved, script, nil)
	<-script.done
	s.store.until(func() bool { return len(s.store.saved) > 0 && s.store.saved[len(s.store.saved)-1].Flush == 65 })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range s.post.got {
		got = append(got, r.Mapping+" "+r.Position.String())
	}
	if len(got) != 3 || got[0] != "r 0/28:0" || got[1] != "p 0/3C:0" || got[2] != "e 0/3C:0" {
		t.Errorf("sent %q", got)
	}
	if l := s.store.letters; len(l) != 1 || l[0].Class != ClassUncertain || l[0].Position.Commit != 30 {
		t.Errorf("letters %+v", l)
	}
	if s.Confirmed() != 65 {
		t.Errorf("confirmed %s", s.Confirmed())
	}
}

// TestConfirmsOnlyWhatIsStored: while the store fails, and while a record is not settled, nothing is confirmed; later transactions that
// are settled make ranges.
func TestConfirmsOnlyWhatIsStored(t *testing.T) {
	script := &script{play: func(sink Sink) {
		for i := range LSN(3) {
			table := ""
			if i == 1 {
				table = "e" // is kept
			}
			if err := sink.Change(change(10+10*i, 0, table)); err != nil {
				t.Error(err)
			}
			sink.Commit(10+10*i, 15+10*i, time.Time{})
		}
		sink.KeepAlive(100)
	}}
	s := play(t, &Saved{Checkpoint: &Checkpoint{Flush: 5}}, script, func(s *stage) { s.post.keep, s.store.fail = true, true })
	<-script.done
	for range 2 { // two writes fail
		if err := s.writeCheckpoint(t.Context()); err == nil || s.Confirmed() != 5 {
			t.Fatalf("%v, confirmed %s", err, s.Confirmed())
		}
	}
	s.store.mu.Lock()
	s.store.fail = false
	s.store.mu.Unlock()
	s.store.until(func() bool { return len(s.store.saved) > 0 })
	cp := s.written.Load()
	if !cp.Covers(Position{10, 0}) || cp.Covers(Position{20, 0}) || !cp.Covers(Position{30, 0}) || cp.Flush != 15 {
		t.Fatalf("checkpoint %+v", cp)
	}
	s.Settle(s.post.got[:1])
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if s.Confirmed() != 100 {
		t.Errorf("confirmed %s after the last record was settled", s.Confirmed())
	}
}

// TestStoreOutageKeepsLetters: letters of class mapping that can't be stored hold their changes, and are stored later.
func TestStoreOutageKeepsLetters(t *testing.T) {
	script := &script{play: func(sink Sink) {
		if err := sink.Change(change(10, 0, "m")); err != nil {
			t.Error(err)
		}
		sink.Commit(10, 15, time.Time{})
	}}
	s := play(t, &Saved{Checkpoint: &Checkpoint{Flush: 5}}, script, func(s *stage) { s.store.fail = true })
	<-script.done
	if p := s.Progress(); p.Open != 1 {
		t.Errorf("%+v", p)
	}
	s.store.mu.Lock()
	s.store.fail = false
	s.store.mu.Unlock()
	s.store.until(func() bool { return len(s.store.saved) > 0 && s.store.saved[len(s.store.saved)-1].Flush == 15 })
	if len(s.store.letters) != 1 {
		t.Errorf("%d letters", len(s.store.letters))
	}
}

// TestAlarms: an alarm is raised once, renewed, and cleared once.
func TestAlarms(t *testing.T) {
	a := NewAlarms(slog.New(slog.DiscardHandler))
	if len(a.List()) != 0 || a.LastError() != nil {
		t.Fatal("there are alarms from the start")
	}
	a.Raise("b", "first", "cure")
	a.Raise("b", "second", "cure")
	a.Raise("a", "other", "")
	l := a.List()
	if len(l) != 2 || l[0].Key != "a" || l[1].Text != "second" || l[1].Times != 2 || a.LastError().Text != "other" {
		t.Errorf("%+v", l)
	}
	a.Clear("b")
	a.Clear("b")
	if l := a.List(); len(l) != 1 || a.LastError() == nil {
		t.Errorf("%+v", l)
	}
}

// TestAlarmsRepeat: what lasts is logged every 30 s with the count, and once that it is over.
func TestAlarmsRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a := NewAlarms(slog.New(slog.NewTextHandler(&log, nil)))
		for range 30 { // two and a half minutes
			a.Raise("source", "another process holds the slot", "wait")
			<-time.After(5 * time.Second) // of the bubble's clock
		}
		a.Clear("source")
		if n := strings.Count(log.String(), "msg=alarm"); n != 5 {
			t.Errorf("%d lines in 150 s, want 5", n)
		}
		if n := strings.Count(log.String(), "msg=recovered"); n != 1 || !strings.Contains(log.String(), "times=30") {
			t.Errorf("at the end: %s", log.String())
		}
	})
}

// outputs maps each change to what make says.
type outputs func(id RecordID, out *Output)

func (make outputs) Map(c *Change, _ Part, out *Output) {
	make(RecordID{Mapping: "m", Position: c.Position, CommitTime: c.CommitTime}, out)
}

// TestEditedMappingMeetsKnownRecords: a mapping was edited between two runs, and now fails for a change of which the first has delivered records.
func TestEditedMappingMeetsKnownRecords(t *testing.T) {
	whole := key("m", 10, WholeChange)
	for name, c := range map[string]struct {
		known   map[RecordKey]Known
		partial []RecordKey
		kind    Kind
		number  int
		letter  bool // now it is a letter, else two records
		letters int
		records int
		settled bool
	}{
		"the point was applied":           {known: map[RecordKey]Known{key("m", 10, 0): Applied}, kind: Point, letter: true, settled: true},
		"one of two records was settled":  {partial: []RecordKey{key("m", 10, 0)}, kind: GroupRelation, number: WholeChange, letter: true, letters: 1},
		"the change is a letter already":  {partial: []RecordKey{whole}, kind: GroupRelation, number: WholeChange, letter: true, settled: true},
		"it was a letter, now it maps":    {known: map[RecordKey]Known{whole: Lettered}, kind: GroupRelation, settled: true},
		"nothing is known of the records": {known: map[RecordKey]Known{key("m", 20, WholeChange): Lettered}, kind: GroupRelation, records: 2},
	} {
		s := newSession(&Checkpoint{Flush: 5})
		s.Pipeline = NewPipeline(PipelineOptions{Store: &drawer{}, Saved: &Saved{Checkpoint: &Checkpoint{Flush: 5, Partial: c.partial}, Known: c.known}, Alarms: s.alarms, Log: s.log,
			Mapper: outputs(func(id RecordID, out *Output) {
				if c.letter {
					id.Number = c.number
					out.Letters = append(out.Letters, &DeadLetter{RecordID: id, Class: ClassMapping, Kind: c.kind})
					return
				}
				for id.Number = range 2 {
					out.Records = append(out.Records, &Record{RecordID: id, Kind: c.kind})
				}
			})})
		s.deliverer, s.atOnce = s.hand, 1
		s.transaction(t, 10, "m")
		letters := s.letters.take()
		if len(letters) != c.letters || len(s.hand.open) != c.records || (s.checkpoint().Settled == Position{10, 0}) != c.settled {
			t.Errorf("%s: %d letters, %d records, checkpoint %+v", name, len(letters), len(s.hand.open), s.checkpoint())
		}
	}
}

// TestSubmittedTogether: records of changes that come without a pause go to the deliverer some at a time, in order, none is left when the source asks for room and
// there is none, or runs dry; and the rows of a change stay together.
func TestSubmittedTogether(t *testing.T) {
	d := &hand{}
	p := NewPipeline(PipelineOptions{Mapper: plain{}, Saved: &Saved{Checkpoint: &Checkpoint{}}, Alarms: NewAlarms(slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)})
	p.deliverer = d
	c := &Change{Table: &Table{}}
	const rows = 10*submitAtOnce + 3
	for i := range LSN(rows) {
		if p.Room() != nil {
			t.Fatal("there is no room")
		}
		c.Position.Commit = i + 1
		if err := p.Change(c); err != nil {
			t.Fatal(err)
		}
		if behind := int(i) + 1 - len(d.open); behind >= submitAtOnce {
			t.Fatalf("%d records wait", behind)
		}
	}
	p.Dry()
	if len(d.open) != rows {
		t.Fatalf("%d records were submitted, of %d", len(d.open), rows)
	}
	for i, r := range d.open {
		if r.Position.Commit != LSN(i+1) {
			t.Fatalf("record %d is of %s", i, r.Position)
		}
	}
	// Settled in two orders, the checkpoint covers all.
	p.Settle(d.open[rows/2:])
	p.Settle(d.open[:rows/2])
	if cp := p.tracker.checkpoint(); cp.Settled.Commit != rows || len(cp.Ranges) > 0 {
		t.Errorf("settled up to %s, %d ranges", cp.Settled, len(cp.Ranges))
	}
}

// wide maps each change to an event of 40 KiB.
type wide struct{}

func (wide) Map(c *Change, part Part, out *Output) {
	plain{}.Map(c, part, out)
	r := out.Records[len(out.Records)-1]
	r.Payload = append(r.Payload, make([]byte, 40<<10)...)
}

// TestWideRecordsAreSubmitted: large records don't wait for as many others, where no limit on memory counts them.
func TestWideRecordsAreSubmitted(t *testing.T) {
	d := &hand{}
	p := NewPipeline(PipelineOptions{Mapper: wide{}, Saved: &Saved{Checkpoint: &Checkpoint{}}, Alarms: NewAlarms(slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)})
	p.deliverer = d
	c := &Change{Table: &Table{}}
	for i := range 10 {
		c.Position.Commit++
		if err := p.Change(c); err != nil {
			t.Fatal(err)
		}
		if waiting := i + 1 - len(d.open); waiting > 1 {
			t.Fatalf("%d records of 40 KiB wait", waiting)
		}
	}
}
