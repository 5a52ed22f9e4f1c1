package connector

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A backfill reads its table in chunks. Around each of them it writes two watermarks into the WAL, which come back through the stream: at the second one
// the chunk's rows take their place among the changes, but for those that changed in between, which are read once more later. (The stream has those
// changes too, but `on` and `when` may pass them over.)
//
//	backfiller.go  which backfill runs, and what commands ask of it
//	reading.go     reads its chunks
//	ahead.go       maps their rows as they are read
//	window.go      what lies between two watermarks, and what becomes of the rows; in the goroutine of the stream
//	given.go       which rows have had their points from the stream
//	fill.go        how far it is, and what of it is stored

// BackfillOptions are what backfills need. All fields but Mapper and Unended are required.
type BackfillOptions struct {
	Store BackfillStore
	Rows  RowSource
	// Mapper maps rows as they are read, in the same way as the pipeline's own, beside which it works; nobody else uses it, and it counts nothing. nil: rows are mapped
	// when their place in the stream has come.
	Mapper Mapper
	// Unended are those that the store had at the start.
	Unended []*Backfill
	// Mappings are those of the file, by name.
	Mappings map[string]BackfillMapping
	// Pending is how many rows may be on their way to the platform when the next chunk is read.
	Pending int
}

// BackfillMapping is what a backfill must know of its mapping.
type BackfillMapping struct {
	// Table is schema.name, in two parts.
	Schema, Name string
	// Fingerprint changes when the mapping does.
	Fingerprint string
	// Snapshot: it has snapshot in its `on`. Points: it makes points.
	Snapshot, Points bool
	// MaxPerMinute is its brake; 0: none.
	MaxPerMinute int
}

// The bounds of what a backfill keeps of single rows.
const (
	// mostStragglers rows of a chunk may still wait when the backfill counts the chunk as done; mostStraggling in all.
	mostStragglers, mostStraggling = 100, 500
	// mostAgain rows may wait to be read once more before no further chunk is read, and mostMoved before the backfill gives up.
	mostAgain, mostMoved = 10_000, 200_000
	// mostChanged is how many keys are noted in a window.
	mostChanged = 100_000
)

// fills are the backfills of a pipeline.
type fills struct {
	BackfillOptions
	p      *Pipeline
	some   atomic.Bool // there are fills that want to know of changes
	saving sync.Mutex  // what is stored is stored in order

	mu      sync.Mutex
	list    []*fill
	windows map[string]*window

	// The reader's goroutine only: the window whose rows are being handed over, and what came of those that are not submitted yet.
	handing *window
	records []*Record
	letters []queuedLetter
	idle    []*fillRow // rows of which nothing came
	opened  int        // rows of which something did
	change  Change
}

// fill is a backfill. fills.mu guards it.
type fill struct {
	*Backfill
	all    *fills
	points bool
	dirty  bool // there is something to store

	chunks     []*fillChunk // those that After has not passed, in order
	straggling []*fillChunk // those that it has, and whose rows are not all settled
	again      map[string]*againRow
	order      []string            // of again, and keys that are no longer in it
	moved      map[string]struct{} // of again: rows that came to these keys since they were taken
	open       int                 // rows that were handed over and are not settled
	handing    bool                // rows of it are being handed over: more will be open
	wake       chan struct{}

	// streamed are the transactions that have changed the table and came through the stream since it was asked for, but those that a chunk has shown
	// since; nil: nobody asks.
	streamed map[uint32]uint64
	serial   uint64
	lastXID  uint32
	columns  map[*Table][]int
}

// againRow is a row that is to be read once more.
type againRow struct {
	taken bool // it is in a chunk
}

// fillChunk is a chunk, from the first watermark on.
type fillChunk struct {
	fill    *fill
	rows    []fillRow
	left    int // rows that are not settled
	settled int64
	handed  bool
	passed  bool
	again   bool
	last    string
	end     bool
	read    int64
}

// fillRow is a row that was handed over.
type fillRow struct {
	chunk   *fillChunk
	key     string
	waiting int
}

// settle notes that a record of the row is settled.
func (r *fillRow) settle(RecordID) {
	f := r.chunk.fill
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	if r.waiting--; r.waiting == 0 {
		f.open--
		r.done()
	}
}

// done notes that the row is settled.
func (r *fillRow) done() {
	c := r.chunk
	f := c.fill
	c.left--
	switch {
	case c.again:
		f.readOnce(r.key)
		f.BackfillProgress.Rows++
		f.dirty = true
	case c.passed:
		f.BackfillProgress.Rows++
		f.dirty = true
	default:
		c.settled++
	}
	if c.left == 0 || f.open == f.all.Pending-1 || f.open == 0 {
		f.rouse()
	}
}

func (f *fill) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func newFills(p *Pipeline, o BackfillOptions) *fills {
	fs := &fills{BackfillOptions: o, p: p, windows: map[string]*window{}}
	for _, b := range o.Unended {
		fs.add(b)
	}
	return fs
}

// add takes a backfill that is in the store. The caller holds mu, or nobody else knows of fs.
func (fs *fills) add(b *Backfill) *fill {
	f := &fill{Backfill: b, all: fs, again: map[string]*againRow{}, moved: map[string]struct{}{}, wake: make(chan struct{}, 1), columns: map[*Table][]int{}}
	m, ok := fs.Mappings[b.Mapping]
	f.points = m.Points || !ok // it may have made some, and be put back
	for _, r := range b.Again {
		f.readAgain(string(r))
	}
	f.dirty, f.Seen = !f.Seen, true
	fs.list = append(fs.list, f)
	fs.some.Store(true)
	return f
}

// readAgain has a row read once more.
func (f *fill) readAgain(key string) {
	if f.again[key] != nil {
		return
	}
	f.again[key] = &againRow{}
	f.order = append(f.order, key)
	f.dirty = true
	f.rouse()
}

// readOnce ends a row that was read once more; unless another one has got its key meanwhile.
func (f *fill) readOnce(key string) {
	delete(f.again, key)
	if _, ok := f.moved[key]; ok {
		delete(f.moved, key)
		f.readAgain(key)
	}
}

// keyOf gives the key of a row; empty: not known.
func (f *fill) keyOf(t *Table, tuple Tuple) string {
	at, ok := f.columns[t]
	if !ok {
		for _, name := range f.Key {
			at = append(at, t.Column(name))
		}
		if len(f.columns) > 100 {
			clear(f.columns)
		}
		f.columns[t] = at
	}
	var few [4][]byte
	values := few[:0]
	for _, i := range at {
		if i < 0 || i >= len(tuple) || tuple[i].Kind != Text {
			return ""
		}
		values = append(values, tuple[i].Text)
	}
	return RowKey(values...)
}

// advance moves After over what is settled. The caller holds mu.
func (f *fill) advance() {
	f.straggling = slices.DeleteFunc(f.straggling, func(c *fillChunk) bool { return c.left == 0 })
	waiting := 0
	for _, c := range f.straggling {
		waiting += c.left
	}
	for len(f.chunks) > 0 {
		c := f.chunks[0]
		if !c.handed || c.left > mostStragglers || waiting+c.left > mostStraggling {
			return
		}
		f.chunks = f.chunks[1:]
		c.passed = true
		f.After, f.Scanned = RowBytes(c.last), f.Scanned || c.end
		f.Read += c.read
		f.BackfillProgress.Rows += c.settled
		f.dirty = true
		if c.left > 0 {
			waiting += c.left
			f.straggling = append(f.straggling, c)
		}
	}
}

// stored gives the backfill as it is to be stored. The caller holds mu.
func (f *fill) stored() *Backfill {
	f.advance()
	b := *f.Backfill
	b.Moves, b.Notes = slices.Clone(f.Moves), slices.Clip(f.Notes)
	b.Again = make([]RowBytes, 0, len(f.again))
	for key := range f.again {
		b.Again = append(b.Again, RowBytes(key))
	}
	for _, c := range f.straggling {
		for i := range c.rows {
			if c.rows[i].waiting > 0 {
				b.Again = append(b.Again, RowBytes(c.rows[i].key))
			}
		}
	}
	f.dirty = false
	return &b
}

// save stores what is new.
func (fs *fills) save(ctx context.Context) error {
	if !fs.some.Load() {
		return nil
	}
	fs.saving.Lock()
	defer fs.saving.Unlock()
	fs.mu.Lock()
	var due []*fill
	for _, f := range fs.list {
		if f.advance(); f.dirty && f.ID > 0 {
			due = append(due, f)
		}
	}
	fs.mu.Unlock()
	for _, f := range due {
		if err := fs.put(f, func(b *Backfill) error { return fs.Store.SaveBackfill(ctx, b, "") }); err != nil {
			return fmt.Errorf("the progress of backfill %d: %w", f.ID, err)
		}
	}
	return nil
}

// put has do store a backfill as it is now. The caller holds saving.
func (fs *fills) put(f *fill, do func(*Backfill) error) error {
	fs.mu.Lock()
	b := f.stored()
	fs.mu.Unlock()
	err := do(b)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err != nil {
		f.dirty = true
	} else if f.Notes = f.Notes[len(b.Notes):]; len(f.Notes) == 0 {
		f.Notes = nil
	}
	return err
}

// BackfillNow is a backfill as it is now.
type BackfillNow struct {
	Backfill
	// Pending rows are on their way to the platform, or are to be read once more.
	Pending int
}

// Backfills gives the backfills that have not ended. Safe for concurrent use.
func (p *Pipeline) Backfills() []BackfillNow {
	if p.fills == nil {
		return nil
	}
	p.fills.mu.Lock()
	defer p.fills.mu.Unlock()
	var list []BackfillNow
	for _, f := range p.fills.list {
		n := BackfillNow{Backfill: *f.Backfill, Pending: f.open + len(f.again)}
		n.Again, n.Notes = nil, nil
		for _, c := range f.chunks {
			n.Rows += c.settled
			n.Read += c.read
		}
		list = append(list, n)
	}
	return list
}

// backfillTimes are how long a backfill waits for what.
const (
	// chunkTime is what the reading of a chunk should take.
	chunkTime = 200 * time.Millisecond
	// asksEvery is how often the store is asked what commands want, noticesEvery how often for backfills that are new.
	asksEvery, noticesEvery = time.Second, time.Second
)
