package connector

import (
	"slices"
	"strings"
)

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
	// ahead are the records that were made of the chunk's rows before: see ChunkRow.mapped.
	ahead []*Record
	known map[string]Known
	// stored is what the stream was known to have given the rows when they were looked up, given what it has given since the window began.
	stored, given map[string][]uint64

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
	// does not go with the others; blind: rows may have had points, and nobody knows which. Then none of its rows were handed over.
	stale, unsure, held, blind bool
	// misfit says why the mapping can't read the rows.
	misfit string
}

func (e windowEnd) returned() bool { return e.stale || e.unsure || e.held || e.blind || e.misfit != "" }

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
			if f.points && c.Op == Update && !f.Started.IsZero() && c.Position.Compare(f.Moved) > 0 {
				f.blind()
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
		if c.Op == Update && before != after && before != "" && after != "" {
			fs.move(f, c.Position, before, after)
		}
		for _, w := range fs.windows {
			if w.fill == f && w.open {
				w.note(c.Op != Insert, before)
				w.note(c.Op != Delete, after)
			}
		}
	}
}

// move notes that a row has another key now. The caller holds mu.
func (fs *fills) move(f *fill, at Position, before, after string) {
	begun := !f.Started.IsZero()
	switch {
	case at.Compare(f.Moved) <= 0: // it comes again
		if f.points && slices.Contains(fs.p.apart(at), f.Mapping) { // and what the mapping gave before it may come for the first time
			f.noteRow(RowNote{Row: after, From: before, Again: true})
		}
		return
	case begun && len(f.again) >= mostMoved: // it gives up
		return
	}
	f.Moved, f.dirty = at, true
	if f.points {
		f.noteRow(RowNote{Row: after, From: before})
		for _, w := range fs.windows {
			if w.fill == f {
				delete(w.given, before)
			}
		}
	}
	if !begun { // nothing is read yet
		return
	}
	if f.points {
		f.Moves = append(f.Moves, RowMove{RowBytes(before), RowBytes(after)})
	}
	if a := f.again[after]; a != nil && a.taken { // it may be read already
		f.moved[after] = struct{}{}
	} else {
		f.readAgain(after)
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
	end.blind = f.Blind
	end.held = slices.Contains(fs.p.apart(w.at), f.Mapping) || fs.p.toBeHeld(f.Mapping)
	if end.returned() {
		fs.waste(w, w.chunk.Rows)
	}
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
	if w.track.again {
		f.dropTwins(w)
	}
	for i := range w.chunk.Rows {
		if len(w.changed)+len(f.again) == 0 {
			break
		}
		key := w.chunk.Rows[i].Key
		_, changed := w.changed[key]
		if w.track.again { // what is known of it was asked for before the row came to this key, maybe
			_, came := f.moved[key]
			changed = changed || came
		}
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
	fs.handing, f.handing = w, true
}

// dropTwins is for rows that were asked for by their keys. Where two texts are one key to the database (1.0 and 1.00, or citext in two spellings) both find
// the row, which has one of them: it counts once, and by that one.
func (f *fill) dropTwins(w *window) {
	asked := make(map[string]bool, len(w.rows)) // false: it has come
	for _, key := range w.rows {
		asked[key] = true
	}
	w.chunk.Rows = slices.DeleteFunc(w.chunk.Rows, func(r ChunkRow) bool {
		waits, ok := asked[r.Key]
		asked[r.Key] = false
		return ok && !waits || !ok && f.again[r.Key] != nil // it is read by itself
	})
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
		_, came := f.moved[key]
		switch {
		case changed || came:
			delete(f.moved, key)
			a.taken = false
			f.order = append(f.order, key)
		case found[key]:
		case !w.chunk.End: // it was cut
			a.taken = false
			f.order = append(f.order, key)
		default:
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
				fs.waste(w, w.chunk.Rows[w.next-1:w.next])
				continue
			}
		}
		if reason := fs.hand(w, row); reason != "" {
			fs.submit(w)
			fs.refused(w, reason)
			return false
		}
	}
	if fs.submit(w); w.next < len(w.chunk.Rows) {
		return true
	}
	fs.handing = nil
	if w.chunk.Free != nil {
		w.chunk.Free()
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	w.track.handed, w.fill.handing = true, false
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
	fs.waste(w, w.chunk.Rows[w.next:])
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
	w.track.handed, f.handing = true, false
	w.done <- windowEnd{misfit: reason}
}

// hand maps a row, if that is not done yet, and keeps what comes of it for submit; the reason is why the mapping can't read it.
func (fs *fills) hand(w *window, row *ChunkRow) (reason string) {
	p, f := fs.p, w.fill
	fs.change = Change{Position: Position{Commit: w.at.Commit, Index: uint32(w.next - 1)}, Op: Snapshot, Table: w.chunk.Table, New: row.Tuple, Backfill: f.ID, Row: row.Key}
	p.out.Reset()
	known, given := w.known[row.Key], slices.Concat(w.stored[row.Key], w.given[row.Key])
	if known != Applied && known != Lettered && !slices.Contains(given, GivenToNew) {
		fs.mapRow(w, row)
	} else {
		fs.waste(w, w.chunk.Rows[w.next-1:w.next])
	}
	if len(p.out.Misfits) > 0 {
		return p.out.Misfits[0].Reason
	}
	if known == Intended {
		p.uncertain()
	}
	if len(given) > 0 {
		p.passGiven(given)
	}
	// Nobody looks at the rows of a chunk before it is handed over, nor at one of them before its records are submitted.
	w.track.rows = append(w.track.rows, fillRow{chunk: w.track, key: row.Key, waiting: len(p.out.Records) + len(p.out.Letters)})
	r := &w.track.rows[len(w.track.rows)-1]
	if r.waiting == 0 {
		fs.idle = append(fs.idle, r)
	} else {
		fs.opened++
	}
	for _, l := range p.out.Letters {
		fs.letters = append(fs.letters, queuedLetter{l, r})
	}
	for _, rec := range p.out.Records {
		rec.change = r
	}
	fs.records = append(fs.records, p.out.Records...)
	return ""
}

// submit submits what hand has made of a window's rows.
func (fs *fills) submit(w *window) {
	fs.mu.Lock()
	w.fill.open += fs.opened
	for _, r := range fs.idle {
		r.done()
	}
	fs.mu.Unlock()
	fs.opened, fs.idle = 0, fs.idle[:0]
	for _, q := range fs.letters {
		letters := []*DeadLetter{q.letter}
		fs.p.mappingLetters.Add(1)
		fs.p.store.Watch(letters)
		fs.p.letters.put(letters, q.change)
	}
	fs.letters = fs.letters[:0]
	if len(fs.records) > 0 {
		fs.p.records.Add(uint64(len(fs.records)))
		fs.p.countRecords(fs.records)
		fs.p.submit(fs.records)
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
