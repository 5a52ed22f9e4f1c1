package connector

// mostAhead is how many bytes of payloads are made of a chunk ahead of its hand-over; the rest is made then.
const mostAhead = 4 << 20

// ahead maps rows as they are read, long before their place in the stream has come: so the stream's goroutine need not, and what was just read is still in the
// processor's cache. It belongs to the goroutine that reads.
type ahead struct {
	fs     *fills
	f      *fill
	out    Output // its Records are those of the chunk that is being read
	change Change
	bytes  int
	placed bool // the mapping must know the position
}

// begin begins with another chunk.
func (a *ahead) begin(most int) {
	for _, r := range a.out.Records { // of one that could not be read
		a.out.Recycle(r)
	}
	a.out.Records, a.bytes = make([]*Record, 0, most), 0 // the window keeps them
}

// take maps a row, and reports whether its values are no longer wanted. Left to the hand-over are rows of which something else than records comes, those of a
// mapping that asks for their position, and those beyond mostAhead.
func (a *ahead) take(t *Table, row *ChunkRow) bool {
	if a.placed || a.bytes >= mostAhead {
		return false
	}
	before := len(a.out.Records)
	a.fs.p.refill(&a.out)
	a.change = Change{Op: Snapshot, Table: t, New: row.Tuple, Backfill: a.f.ID, Row: row.Key}
	a.fs.Mapper.Map(&a.change, Part{Only: a.f.Mapping}, &a.out)
	if a.placed = a.out.Placed; a.placed || len(a.out.Letters)+len(a.out.Misfits) > 0 {
		for _, r := range a.out.Records[before:] {
			a.out.Recycle(r)
		}
		records := a.out.Records[:before]
		a.out.Reset()
		a.out.Records = records
		return false
	}
	for _, r := range a.out.Records[before:] {
		a.bytes += len(r.Payload)
	}
	row.mapped, row.first, row.end = true, before, len(a.out.Records)
	return true
}

// end gives the records of the chunk.
func (a *ahead) end() []*Record {
	records := a.out.Records
	a.out.Records = nil
	return records
}

// mapRow puts what the mapping makes of a row into p.out.
func (fs *fills) mapRow(w *window, row *ChunkRow) {
	p := fs.p
	if !row.mapped {
		p.refill(&p.out)
		p.mapper.Map(&fs.change, Part{Only: w.fill.Mapping}, &p.out)
		return
	}
	p.out.Records = append(p.out.Records, w.ahead[row.first:row.end]...)
	for _, r := range p.out.Records {
		r.Position = fs.change.Position
	}
	if c := p.counters[w.fill.Mapping]; c != nil {
		c.Changes.Add(1)
	}
}

// waste gives back what was made ahead of rows that are not handed over.
func (fs *fills) waste(w *window, rows []ChunkRow) {
	for i := range rows {
		if rows[i].end > rows[i].first {
			fs.p.spare.put(w.ahead[rows[i].first:rows[i].end])
		}
		rows[i].mapped, rows[i].first, rows[i].end = false, 0, 0
	}
}
