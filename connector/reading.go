package connector

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"
)

// reading is one connection's work at a backfill. It belongs to one goroutine.
type reading struct {
	fs     *fills
	f      *fill
	r      RowReader
	ahead  *ahead // nil: rows are mapped when they are handed over
	known  bool   // rows may be known to the store
	looked time.Time

	last    string // the key that was read last
	from    bool   // it is the first one, and not read yet
	scanned bool
	count   int64 // rows that were read by key order
	size    int   // of the next chunk
	flying  []*window
	marking chan error // a second watermark is being written; nil: none is
	tries   int        // chunks of a table without a key that changed while they were read
	paced   time.Time
	pace    float64 // rows a second; 0: no limit
}

// read opens the table and reads it to its end. nil: all of it is settled.
func (fs *fills) read(ctx context.Context, f *fill) error {
	r, err := fs.RowSource().Open(ctx, f.Backfill)
	if err != nil {
		return err
	}
	defer r.Close()
	g := &reading{fs: fs, f: f, r: r, size: firstChunk}
	if fs.Mapper != nil {
		g.ahead = &ahead{fs: fs, f: f}
		r.Early(g.ahead.take)
	}
	defer func() { _ = g.marked() }() // nobody uses r when it is closed
	if err := g.begin(ctx); err != nil {
		return err
	}
	for {
		switch more, err := g.step(ctx); {
		case err != nil:
			return err
		case !more:
			return nil
		}
	}
}

// RowSource gives the source of rows.
func (fs *fills) RowSource() RowSource { return fs.BackfillOptions.Rows }

// The sizes of chunks, in rows.
const (
	firstChunk, smallestChunk = 500, 50
	mostChunk                 = 5000
	// mostRowsByKey is how many rows are read by their keys at a time.
	mostRowsByKey = 200
	// triesByCtid is how often a chunk of a table without a key is read again because the table changed meanwhile.
	triesByCtid = 5
)

// begin finds where to go on, and waits for transactions whose rows a chunk might not show although the stream has brought them before this process
// listened.
func (g *reading) begin(ctx context.Context) error {
	f, fs := g.f, g.fs
	if why := g.r.Unfit(); why != "" && f.points {
		return &stall{why}
	}
	fs.mu.Lock()
	fresh := f.Started.IsZero()
	key, before := g.r.Key(), f.Key
	fs.mu.Unlock()
	if (!fresh || before != nil) && !slices.Equal(key, before) {
		return &stall{fmt.Sprintf("the key of table %s is (%s) now, and the backfill was begun with (%s): cancel it, and begin anew", f.Table(), keyText(key), keyText(before))}
	}
	var estimate int64
	if fresh {
		var err error
		if estimate, err = g.r.Estimate(ctx); err != nil {
			return err
		}
	}
	m := fs.Mappings[f.Mapping]
	fs.mu.Lock()
	if fresh {
		f.Started, f.Key, f.Estimate, f.Fingerprint = time.Now().UTC(), key, estimate, m.Fingerprint
		if f.Limit > 0 && (f.Estimate == 0 || f.Estimate > f.Limit) {
			f.Estimate = f.Limit
		}
	}
	f.Status, f.Reason, f.dirty = BackfillRunning, "", true
	f.streamed = map[uint32]uint64{} // from here on
	f.advance()
	g.last, g.scanned, g.count = string(f.After), f.Scanned, f.Read
	for _, c := range f.chunks {
		g.last, g.scanned, g.count = c.last, g.scanned || c.end, g.count+c.read
	}
	fs.mu.Unlock()
	g.scanned = g.scanned || f.Limit > 0 && g.count >= f.Limit
	if g.last == "" && f.Since != "" {
		g.last, g.from = f.Since, true
	}
	if g.pace = float64(f.RowsPerSecond); g.pace == 0 {
		g.pace = float64(m.MaxPerMinute) / 60
	}
	fs.p.alarms.Clear("backfill/" + f.number())
	if fresh {
		fs.p.log.Info("backfill begins", "backfill", f.ID, "mapping", f.Mapping, "table", f.Table(), "rows", estimate, "key", keyText(key))
	} else {
		fs.p.log.Info("backfill goes on", "backfill", f.ID, "mapping", f.Mapping, "table", f.Table())
	}
	if err := fs.store(ctx, f, ""); err != nil { // the key must be known before rows are passed
		return &passing{err}
	}
	some, err := fs.Store.KnownRows(ctx, f.ID, nil)
	if err != nil {
		return &passing{err}
	}
	g.known = f.points || len(some) > 0
	xid, err := g.r.Mark(ctx, fenceMark+f.number())
	if err != nil {
		return err
	}
	for {
		text, err := g.r.Writers(ctx, xid)
		if err != nil {
			return err
		}
		fs.explain(f, text)
		if text == "" {
			return nil
		}
		if err := g.rest(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
}

// passing is an error that waiting cures.
type passing struct{ error }

func (p *passing) Passing() bool { return true }
func (p *passing) Unwrap() error { return p.error }

func keyText(key []string) string {
	if key == nil {
		return "ctid"
	}
	return strings.Join(key, ", ")
}

// rest waits, and hears what commands ask.
func (g *reading) rest(ctx context.Context, d time.Duration) error {
	pause(ctx, d, g.f.wake)
	if err := g.marked(); err != nil {
		return err
	}
	g.r.Rest()
	return g.heed(ctx)
}

// heed gives errStopped where a command has brought the backfill to a standstill.
func (g *reading) heed(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if time.Since(g.looked) < asksEvery {
		return nil
	}
	g.looked = time.Now()
	stopped, err := g.fs.asked(ctx, g.f)
	if err != nil {
		return &passing{err}
	}
	if stopped {
		return errStopped
	}
	return nil
}

// step does the next thing that is due: take the end of a window, wait, or read a chunk. more is false when all is settled.
func (g *reading) step(ctx context.Context) (more bool, err error) {
	if err := g.heed(ctx); err != nil {
		return false, err
	}
	most := 2 // one is read while the other's rows are handed over
	if g.f.Key == nil {
		most = 1
	}
	if len(g.flying) >= most {
		return true, g.land(ctx)
	}
	fs, f := g.fs, g.f
	fs.mu.Lock()
	f.advance()
	moves, blind := len(f.Moves), f.blindness()
	open, waiting, unsettled := f.open, len(f.again), f.open+len(f.chunks)+len(f.straggling) > 0
	coming := open > 0 || f.handing // since before a pause
	fs.mu.Unlock()
	switch {
	case blind != "":
		return false, &stall{blind}
	case waiting >= mostMoved:
		return false, &stall{fmt.Sprintf("more than %d rows are to be read once more, because they changed their key or kept changing: cancel it, and begin anew when fewer change", mostMoved)}
	case (open >= fs.Pending || moves > 0) && len(g.flying) > 0:
		return true, g.land(ctx)
	case moves > 0 && coming: // what became of a row under its former key must be known
		return true, g.rest(ctx, asksEvery)
	case moves > 0:
		return true, g.move(ctx)
	case open >= fs.Pending:
		return true, g.rest(ctx, asksEvery)
	case !g.scanned && waiting < mostRowsByKey:
		return true, g.scan(ctx)
	case len(g.flying) > 0:
		return true, g.land(ctx)
	case waiting > 0:
		return true, g.again(ctx)
	case unsettled:
		return true, g.rest(ctx, asksEvery)
	}
	return false, nil
}

// land takes the end of the oldest window.
func (g *reading) land(ctx context.Context) error {
	w := g.flying[0]
	if len(g.flying) == 1 || g.f.Key == nil { // else the one that is being written is another's
		if err := g.marked(); err != nil {
			return err
		}
	}
	for {
		select {
		case end := <-w.done:
			g.flying = g.flying[1:]
			return g.landed(ctx, w, end)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(asksEvery):
			if err := g.marked(); err != nil {
				return err
			}
			g.r.Rest()
			if err := g.heed(ctx); err != nil {
				return err
			}
		}
	}
}

func (g *reading) landed(ctx context.Context, w *window, end windowEnd) error {
	byCtid := g.f.Key == nil && w.rows == nil
	if byCtid && !end.returned() {
		g.tries = 0
	}
	switch {
	case end.misfit != "":
		return &stall{end.misfit}
	case end.blind: // step says so
		return g.unread(ctx, w, byCtid, 0)
	case end.held:
		g.fs.explain(g.f, "it waits: the mapping is held, or works off what came while it was (tuzhan-cdc status)")
		return g.unread(ctx, w, byCtid, asksEvery)
	case end.stale:
		g.fs.explain(g.f, "it waits: a transaction that the stream has brought can't be seen in the table yet (does it wait for a synchronous standby?)")
		return g.unread(ctx, w, byCtid, 100*time.Millisecond)
	case end.unsure:
		if byCtid {
			g.tries++
			g.size = max(smallestChunk, g.size/2)
		}
		return g.unread(ctx, w, byCtid, 10*time.Millisecond)
	}
	g.fs.explain(g.f, "")
	return nil
}

// unread goes back to before a chunk of a table without a key, and rests; rows of others are read once more by their keys.
func (g *reading) unread(ctx context.Context, w *window, byCtid bool, d time.Duration) error {
	if byCtid {
		g.last, g.from, g.scanned, g.count = w.before.last, w.before.from, false, w.before.count
	}
	return g.rest(ctx, d)
}

// scan reads the next chunk in the key's order.
func (g *reading) scan(ctx context.Context) error {
	n := min(g.size, max(smallestChunk, g.fs.Pending)) // the stream waits until a chunk's rows are handed over
	if f := g.f; f.Limit > 0 {
		if n = int(min(int64(n), f.Limit-g.count)); n <= 0 {
			g.scanned = true
			return nil
		}
	}
	if g.pace > 0 {
		n = min(n, max(1, int(g.pace/5)))
		if d := time.Until(g.paced); d > 0 {
			return g.rest(ctx, d)
		}
	}
	w, c, err := g.window(ctx, func(low string) (*Chunk, error) { return g.r.Read(ctx, low, g.last, g.from, n) }, nil)
	if err != nil {
		return err
	}
	w.before.last, w.before.from, w.before.count = g.last, g.from, g.count
	if g.f.Key == nil {
		w.anyhow = g.tries >= triesByCtid
	}
	g.scanned = c.End
	if left := g.f.Limit - g.count; g.f.Limit > 0 && int64(len(c.Rows)) > left { // without a key whole pages are read
		c.Rows = c.Rows[:left]
	}
	g.count += int64(len(c.Rows))
	if c.Scanned > 0 {
		g.last, g.from = c.Last, false
	} else {
		c.Last = g.last
	}
	if g.f.Limit > 0 && g.count >= g.f.Limit {
		g.scanned, c.End = true, true
	}
	g.spend(len(c.Rows))
	return g.fly(ctx, w, c)
}

func (g *reading) spend(rows int) {
	if g.pace > 0 {
		if now := time.Now(); g.paced.Before(now) {
			g.paced = now
		}
		g.paced = g.paced.Add(time.Duration(float64(rows) / g.pace * float64(time.Second)))
	}
}

// again reads rows by their keys.
func (g *reading) again(ctx context.Context) error {
	f, fs := g.f, g.fs
	if g.pace > 0 {
		if d := time.Until(g.paced); d > 0 {
			return g.rest(ctx, d)
		}
	}
	most := mostRowsByKey
	if g.pace > 0 {
		most = min(most, max(1, int(g.pace/5)))
	}
	fs.mu.Lock()
	var keys []string
	for len(f.order) > 0 && len(keys) < most {
		key := f.order[0]
		f.order = f.order[1:]
		if a := f.again[key]; a != nil && !a.taken {
			a.taken = true
			keys = append(keys, key)
		}
	}
	fs.mu.Unlock()
	if len(keys) == 0 {
		return g.rest(ctx, asksEvery) // they are on their way
	}
	putBack := func() {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		for _, key := range keys {
			if a := f.again[key]; a != nil {
				a.taken = false
				f.order = append(f.order, key)
			}
		}
	}
	w, c, err := g.window(ctx, func(low string) (*Chunk, error) { return g.r.ReadRows(ctx, low, keys) }, keys)
	if err != nil {
		putBack()
		return err
	}
	g.spend(len(c.Rows))
	return g.fly(ctx, w, c)
}

// move notes what is known of points under the keys that their rows have now. What is on its way must have ended.
func (g *reading) move(ctx context.Context) error {
	fs, f := g.fs, g.f
	fs.saving.Lock()
	defer fs.saving.Unlock()
	fs.mu.Lock()
	moves := f.Moves
	f.Moves = nil
	fs.mu.Unlock()
	if err := fs.put(f, func(b *Backfill) error { return fs.Store.MoveRows(ctx, b, moves) }); err != nil {
		fs.mu.Lock()
		f.Moves = append(moves, f.Moves...)
		fs.mu.Unlock()
		return &passing{err}
	}
	return nil
}

// window reads a chunk between two watermarks, of which the second is written by fly.
func (g *reading) window(ctx context.Context, read func(low string) (*Chunk, error), rows []string) (*window, *Chunk, error) {
	w := &window{fill: g.f, token: rand.Text(), changed: map[string]struct{}{}, rows: rows, done: make(chan windowEnd, 1)}
	g.fs.mu.Lock()
	g.fs.windows[w.token] = w
	g.fs.mu.Unlock()
	forget := func(err error) (*window, *Chunk, error) {
		g.fs.mu.Lock()
		delete(g.fs.windows, w.token)
		g.fs.mu.Unlock()
		return nil, nil, err
	}
	began := time.Now()
	if g.ahead != nil {
		g.ahead.begin(cmp.Or(len(rows), g.size))
	}
	c, err := read(lowMark + w.token)
	if err != nil {
		return forget(err)
	}
	if g.ahead != nil {
		w.ahead = g.ahead.end()
	}
	if took := time.Since(began); rows == nil && c.Scanned > 0 {
		size := int(float64(c.Scanned) * float64(chunkTime) / float64(took+1))
		g.size = max(smallestChunk, min(size, 2*g.size, mostChunk))
	}
	if err = g.lookUp(ctx, w, c); err != nil {
		return forget(&passing{err})
	}
	return w, c, nil
}

// lookUp asks what is known of the rows of a chunk. What the stream gives meanwhile is noted in the window.
func (g *reading) lookUp(ctx context.Context, w *window, c *Chunk) (err error) {
	if len(c.Rows) == 0 || !g.known {
		return nil
	}
	keys := make([]string, len(c.Rows))
	for i := range c.Rows {
		keys[i] = c.Rows[i].Key
	}
	if w.known, err = g.fs.Store.KnownRows(ctx, g.f.ID, keys); err != nil || !g.f.points || g.f.Key == nil {
		return err
	}
	g.fs.mu.Lock()
	due := len(g.f.Notes) > 0
	g.fs.mu.Unlock()
	if due {
		if err := g.fs.store(ctx, g.f, ""); err != nil {
			return err
		}
	}
	w.stored, err = g.fs.Store.GivenRows(ctx, g.f.ID, keys)
	return err
}

// fly writes the second watermark of a window, of which c was read. It does not wait for it: the next chunk is read meanwhile.
func (g *reading) fly(ctx context.Context, w *window, c *Chunk) error {
	if err := g.marked(); err != nil { // the one before
		return err
	}
	g.fs.mu.Lock()
	w.chunk = c
	g.fs.mu.Unlock()
	marking := make(chan error, 1)
	g.marking = marking
	go func() {
		_, err := g.r.Mark(ctx, highMark+w.token)
		marking <- err
	}()
	g.flying = append(g.flying, w)
	return nil
}

// marked waits until the last watermark is written.
func (g *reading) marked() error {
	if g.marking == nil {
		return nil
	}
	err := <-g.marking
	g.marking = nil
	return err
}
