package connector

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A backfill reads its table in chunks. Around each of them it writes two watermarks into the WAL, which come back through the stream: at the second one
// the chunk's rows take their place among the changes, but for those that changed in between, which are read once more later. (The stream has those
// changes too, but `on` and `when` may pass them over.) What happens to windows and rows is here, in the goroutines of the stream and of the senders;
// backfiller.go reads.

// BackfillOptions are what backfills need. All fields are required.
type BackfillOptions struct {
	Store BackfillStore
	Rows  RowSource
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

	// The reader's goroutine only: the window whose rows are being handed over, and the records of those that are not submitted yet.
	handing *window
	records []*Record
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

// window is what lies between two watermarks.
type window struct {
	fill   *fill
	token  string
	open   bool   // the first one has come
	serial uint64 // fill.serial then
	// changed are the keys of rows that changed in it. unsure: of some the key is not known. touched: some row has changed.
	changed         map[string]struct{}
	unsure, touched bool
	// anyhow: of a table without a key the rows are taken even where some have changed.
	anyhow bool

	// chunk is what was read, before the second watermark was written; rows are those that were asked for by their keys.
	chunk *Chunk
	rows  []string
	known map[string]Known

	// Of the reader's goroutine, from the second watermark on.
	at      Position
	track   *fillChunk
	next    int
	skipped map[string]struct{}

	done chan windowEnd // gets one

	// before is where reading stood before the chunk; the reading goroutine's.
	before struct {
		last  string
		from  bool
		count int64
	}
}

// windowEnd is what became of a window.
type windowEnd struct {
	// stale: the chunk did not show what the stream had brought before; unsure: a row of which nobody knows which it is has changed; held: the mapping
	// does not go with the others. Then none of its rows were handed over.
	stale, unsure, held bool
	// misfit says why the mapping can't read the rows.
	misfit string
}

func (e windowEnd) returned() bool { return e.stale || e.unsure || e.held || e.misfit != "" }

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
	f.points = fs.Mappings[b.Mapping].Points
	for _, r := range b.Again {
		f.readAgain(string(r))
	}
	f.dirty = false
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

// note tells the backfills of a change, before anything else is done with it. The reader's goroutine only.
func (fs *fills) note(c *Change) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.list {
		if f.Schema != c.Table.Schema || f.Name != c.Table.Name {
			continue
		}
		if f.streamed != nil && (c.XID != f.lastXID || len(f.streamed) == 0) {
			f.serial++
			f.lastXID = c.XID
			f.streamed[c.XID] = f.serial
		}
		if f.Key == nil {
			for _, w := range fs.windows {
				if w.fill == f && w.open {
					w.touched = true
				}
			}
			continue
		}
		var before, after string
		if c.Old != nil {
			before = f.keyOf(c.Table, c.Old)
		}
		if c.New != nil {
			after = f.keyOf(c.Table, c.New)
		}
		if c.Op == Update && before != after && before != "" && after != "" && len(f.again) < mostMoved && c.Position.Compare(f.Moved) > 0 {
			f.Moved, f.dirty = c.Position, true
			if f.points {
				f.Moves = append(f.Moves, RowMove{RowBytes(before), RowBytes(after)})
			}
			if a := f.again[after]; a != nil && a.taken { // it may be read already
				f.moved[after] = struct{}{}
			} else {
				f.readAgain(after)
			}
		}
		for _, w := range fs.windows {
			if w.fill == f && w.open {
				w.note(c.Op != Insert, before)
				w.note(c.Op != Delete, after)
			}
		}
	}
}

func (w *window) note(there bool, key string) {
	switch {
	case !there:
	case key == "" || len(w.changed) >= mostChanged:
		w.unsure = true
	default:
		w.changed[key] = struct{}{}
	}
}

// The texts of watermarks.
const (
	lowMark   = "low "
	highMark  = "high "
	fenceMark = "fence " // and the backfill's id
)

// Watermark takes what a backfill has written into the WAL.
func (p *Pipeline) Watermark(text string, at Position) {
	if p.fills == nil {
		return
	}
	fs := p.fills
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if id, ok := strings.CutPrefix(text, fenceMark); ok {
		for _, f := range fs.list {
			if f.number() == id && at.Compare(f.Moved) > 0 {
				f.Moved, f.dirty = at, true // a key that changed before is no matter of its, should that change come again
			}
		}
		return
	}
	if token, ok := strings.CutPrefix(text, lowMark); ok {
		if w := fs.windows[token]; w != nil && !w.open {
			w.open, w.serial = true, w.fill.serial
		}
		return
	}
	token, _ := strings.CutPrefix(text, highMark)
	w := fs.windows[token]
	if w == nil || w.chunk == nil { // of an earlier process, or it comes again
		return
	}
	delete(fs.windows, token)
	w.at = at
	fs.judge(w)
}

// judge decides what becomes of a window's rows. The caller holds mu.
func (fs *fills) judge(w *window) {
	f := w.fill
	end := windowEnd{unsure: !w.open || w.unsure || w.touched && !w.anyhow}
	if v := w.chunk.Snapshot; v != nil {
		for xid, serial := range f.streamed {
			switch {
			case v.Shows(xid):
				delete(f.streamed, xid)
			case serial <= w.serial:
				end.stale = true
			}
		}
	}
	end.held = slices.Contains(fs.p.apart(w.at), f.Mapping) || fs.p.toBeHeld(f.Mapping)
	if end.returned() && f.Key == nil && w.rows == nil { // by ctid: it is read again as a whole
		w.done <- end
		return
	}
	w.track = f.newChunk(w)
	if end.returned() {
		f.giveBack(w)
		w.done <- end
		return
	}
	for i := range w.chunk.Rows {
		if len(w.changed)+len(f.again) == 0 {
			break
		}
		key := w.chunk.Rows[i].Key
		_, changed := w.changed[key]
		if a := f.again[key]; a != nil && !w.track.again || changed {
			f.readAgain(key)
			if w.skipped == nil {
				w.skipped = map[string]struct{}{}
			}
			w.skipped[key] = struct{}{}
		}
	}
	if w.track.again {
		f.endAbsent(w)
	}
	w.track.left = len(w.chunk.Rows) - len(w.skipped)
	w.track.rows = make([]fillRow, 0, w.track.left)
	fs.handing = w
}

// newChunk begins to follow the rows of a window.
func (f *fill) newChunk(w *window) *fillChunk {
	c := &fillChunk{fill: f, again: w.rows != nil}
	if !c.again {
		c.last, c.end, c.read = w.chunk.Last, w.chunk.End, int64(len(w.chunk.Rows))
		f.chunks = append(f.chunks, c)
	}
	return c
}

// giveBack has all rows of a window read once more.
func (f *fill) giveBack(w *window) {
	w.track.handed = true
	for _, key := range w.rows {
		if a := f.again[key]; a != nil {
			a.taken = false
		}
		f.order = append(f.order, key)
	}
	if !w.track.again {
		for i := range w.chunk.Rows {
			f.readAgain(w.chunk.Rows[i].Key)
		}
	}
	f.rouse()
}

// endAbsent is for rows that were asked for by their keys: those that changed stay, those that are gone end.
func (f *fill) endAbsent(w *window) {
	found := make(map[string]bool, len(w.chunk.Rows))
	for i := range w.chunk.Rows {
		found[w.chunk.Rows[i].Key] = true
	}
	for _, key := range w.rows {
		a := f.again[key]
		if a == nil {
			continue
		}
		_, changed := w.changed[key]
		switch {
		case changed:
			a.taken = false
			f.order = append(f.order, key)
		case !found[key]:
			f.readOnce(key)
			f.dirty = true
		}
	}
}

// handAtOnce is how many rows are handed over before it is asked whether there is room.
const handAtOnce = 32

// handNext hands the next rows of a chunk over, and reports whether more come. The reader's goroutine only.
func (fs *fills) handNext() bool {
	w := fs.handing
	for n := 0; w.next < len(w.chunk.Rows) && n < handAtOnce; n++ {
		row := &w.chunk.Rows[w.next]
		w.next++
		if w.skipped != nil {
			if _, skip := w.skipped[row.Key]; skip {
				continue
			}
		}
		if reason := fs.hand(w, row); reason != "" {
			fs.submit()
			fs.refused(w, reason)
			return false
		}
	}
	if fs.submit(); w.next < len(w.chunk.Rows) {
		return true
	}
	fs.handing = nil
	if w.chunk.Free != nil {
		w.chunk.Free()
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	w.track.handed = true
	w.fill.dirty = true
	w.fill.rouse()
	w.done <- windowEnd{}
	return false
}

// refused ends a window from a row on that the mapping can't read: what is left of it is read once more.
func (fs *fills) refused(w *window, reason string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.handing = nil
	f := w.fill
	for i := w.next - 1; i < len(w.chunk.Rows); i++ {
		key := w.chunk.Rows[i].Key
		if _, skip := w.skipped[key]; skip {
			continue
		}
		w.track.left--
		if a := f.again[key]; a != nil {
			a.taken = false
			f.order = append(f.order, key)
		} else {
			f.readAgain(key)
		}
	}
	w.track.handed = true
	w.done <- windowEnd{misfit: reason}
}

// hand maps a row and keeps what comes of it for submit; the reason is why the mapping can't read it.
func (fs *fills) hand(w *window, row *ChunkRow) (reason string) {
	p, f := fs.p, w.fill
	c := &Change{Position: Position{Commit: w.at.Commit, Index: uint32(w.next - 1)}, Op: Snapshot, Table: w.chunk.Table, New: row.Tuple, Backfill: f.ID, Row: row.Key}
	p.out.Reset()
	known := w.known[row.Key]
	if known != Applied && known != Lettered {
		p.mapper.Map(c, Part{Only: f.Mapping}, &p.out)
	}
	if len(p.out.Misfits) > 0 {
		return p.out.Misfits[0].Reason
	}
	if known == Intended {
		p.uncertain()
	}
	waiting := len(p.out.Records) + len(p.out.Letters)
	fs.mu.Lock()
	w.track.rows = append(w.track.rows, fillRow{chunk: w.track, key: row.Key, waiting: waiting})
	r := &w.track.rows[len(w.track.rows)-1]
	if waiting == 0 {
		r.done()
	} else {
		f.open++
	}
	fs.mu.Unlock()
	if len(p.out.Letters) > 0 {
		p.mappingLetters.Add(uint64(len(p.out.Letters)))
		p.store.Watch(p.out.Letters)
		p.letters.put(p.out.Letters, r)
	}
	if len(p.out.Records) > 0 {
		p.records.Add(uint64(len(p.out.Records)))
		for _, rec := range p.out.Records {
			rec.change = r
		}
		fs.records = append(fs.records, p.out.Records...)
	}
	return ""
}

// submit submits what hand has made.
func (fs *fills) submit() {
	if len(fs.records) > 0 {
		fs.p.deliverer.Submit(fs.records)
		clear(fs.records)
		fs.records = fs.records[:0]
	}
}

// uncertain turns the points of p.out into dead letters, unless their mapping wants them sent again: an earlier process may have sent them.
func (p *Pipeline) uncertain() {
	const text = "the connector stopped between sending this point and reading the answer: it may or may not have been applied"
	p.out.Records = slices.DeleteFunc(p.out.Records, func(r *Record) bool {
		if r.Resend || r.Kind != Point {
			return false
		}
		p.out.Letters = append(p.out.Letters, r.Letter(ClassUncertain, text, nil, 1))
		return true
	})
	for _, l := range p.out.Letters {
		if l.Class == ClassMapping && l.Kind == Point {
			l.Class, l.Reason = ClassUncertain, text+"; and now "+l.Reason
		}
	}
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
	b.Moves = slices.Clone(f.Moves)
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
	var rows []*Backfill
	for _, f := range fs.list {
		if f.advance(); f.dirty && f.ID > 0 {
			due, rows = append(due, f), append(rows, f.stored())
		}
	}
	fs.mu.Unlock()
	for i, b := range rows {
		if err := fs.Store.SaveBackfill(ctx, b, ""); err != nil {
			fs.mu.Lock()
			for _, f := range due[i:] {
				f.dirty = true
			}
			fs.mu.Unlock()
			return fmt.Errorf("the progress of backfill %d: %w", b.ID, err)
		}
	}
	return nil
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
		n.Again = nil
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
	// asksEvery is how often the store is asked what commands want.
	asksEvery = time.Second
)
