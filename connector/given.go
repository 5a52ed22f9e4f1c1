package connector

import (
	"encoding/json"
	"slices"
)

// A backfill of a mapping that makes points gives none to a row that has had them from the stream since the backfill was asked for. From the moment on that the
// pipeline knows of the backfill, queued or paused too, what the stream gives is noted by the row's key. The notes are stored, by SaveBackfill, no later than
// the checkpoint that covers their changes; what comes again after a crash is noted again.
//
// A row takes its place at the second watermark of its chunk, where all notes of changes before it are made; rows that change between the watermarks are read
// once more, behind the note. The point of a row that the stream has inserted is passed over, and so is one that the stream has given word for word. Where it
// gave others, for changes of a row, this one may contain them or not: it becomes a dead letter of class uncertain.

// RowNote is a note of a backfill.
type RowNote struct {
	Row string
	// From, where it is not empty, is the key that the row had before: what is noted of it is of Row now, and nothing else is. Again: it stays noted of From,
	// and of Row what was, because the change comes again.
	From  string
	Again bool
	// Given is what the stream has given the row, where From is empty: see the Given constants; any other number is the hash of a point.
	Given uint64
}

// What the stream may have given a row.
const (
	// GivenToNew: a point, or a dead letter that stands for one, to a row that it inserted: so it has had all of the row.
	GivenToNew uint64 = iota
	// GivenUnknown: a dead letter without payload that stands for a point.
	GivenUnknown
)

// pointHash is what tells points that are the same from others: relateBizCode, which names the change, is no part of it.
func pointHash(r *Record) uint64 {
	var body map[string]json.RawMessage
	if json.Unmarshal(r.Payload, &body) != nil {
		return GivenUnknown
	}
	delete(body, "relateBizCode")
	text, err := json.Marshal(body)
	if err != nil {
		return GivenUnknown
	}
	if r.Decrease {
		text = append(text, '-')
	}
	return max(KeyHash(text), GivenUnknown+1)
}

// given notes what p.out gives by a change that is taken now: by the mapping's own track, or with all others. The reader's goroutine only.
func (fs *fills) given(c *Change, out *Output, apart bool) {
	if c.New == nil { // the row is gone
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.list {
		if !f.points || f.Schema != c.Table.Schema || f.Name != c.Table.Name {
			continue
		}
		// One that comes again is noted already, under the key that the row has now. But on a track it may come for the first time.
		if !apart && c.Position.Compare(f.Moved) < 0 {
			continue
		}
		given, ok := givenBy(f.Mapping, c, out)
		if !ok {
			continue
		}
		key := ""
		if f.Key != nil {
			key = f.keyOf(c.Table, c.New)
		}
		if key == "" {
			f.blind()
			continue
		}
		f.noteRow(RowNote{Row: key, Given: given})
		for _, w := range fs.windows {
			if w.fill == f {
				w.noteGiven(key, given)
			}
		}
	}
}

// noteRow keeps a note until it is stored: which may take long, where the state is away.
func (f *fill) noteRow(n RowNote) {
	if len(f.Notes) >= mostMoved {
		f.blind()
		return
	}
	f.Notes, f.dirty = append(f.Notes, n), true
}

// blind notes that rows may have had their points, and that nobody knows which ones.
func (f *fill) blind() {
	if !f.Blind {
		f.Blind, f.dirty = true, true
		f.rouse()
	}
}

// givenBy tells what a mapping gives by a change.
func givenBy(mapping string, c *Change, out *Output) (given uint64, ok bool) {
	for _, r := range out.Records {
		if r.Mapping == mapping && r.Kind == Point {
			if c.Op == Insert {
				return GivenToNew, true
			}
			return pointHash(r), true
		}
	}
	for _, l := range out.Letters {
		if l.Mapping == mapping && l.Kind == Point {
			if c.Op == Insert {
				return GivenToNew, true
			}
			return GivenUnknown, true
		}
	}
	return 0, false
}

// noteGiven is for rows that were asked about before the note was stored.
func (w *window) noteGiven(key string, given uint64) {
	if len(w.given) >= mostChanged {
		w.unsure = true
		return
	}
	if w.given == nil {
		w.given = map[string][]uint64{}
	}
	if !slices.Contains(w.given[key], given) {
		w.given[key] = append(w.given[key], given)
	}
}

// passGiven takes the points out of p.out that the stream has given already, and makes letters of those of which nobody knows.
func (p *Pipeline) passGiven(given []uint64) {
	const text = "since the backfill was asked for the stream has given this row other points than this one, which may contain them or not: look the customer's points up on the platform"
	p.out.Records = slices.DeleteFunc(p.out.Records, func(r *Record) bool {
		if r.Kind != Point {
			return false
		}
		if h := pointHash(r); h == GivenUnknown || !slices.Contains(given, h) {
			p.out.Letters = append(p.out.Letters, r.Letter(ClassUncertain, text, nil, 0))
		}
		return true
	})
	for _, l := range p.out.Letters {
		if l.Class == ClassMapping && l.Kind == Point {
			l.Class, l.Reason = ClassUncertain, text+"; and now "+l.Reason
		}
	}
}

// blindness says why a backfill must not go on, because rows may get points that they have had; empty: it may.
func (f *fill) blindness() string {
	switch {
	case !f.Blind:
		return ""
	case f.Key == nil:
		return "table " + f.Table() + " has no primary key, so that it can't be known to which rows the stream has given points since the backfill was asked for, nor whether a row that was read has moved and " +
			"comes again: some may get their points twice. Cancel it, and ask anew while nothing is written; or resume it, where that does no harm"
	}
	return "the stream has given points to rows of table " + f.Table() + " whose keys it did not bring, or that could not be noted in the state: they may get them twice. Cancel it, and ask anew with a --where that " +
		"leaves such rows out; or resume it, where that does no harm"
}
