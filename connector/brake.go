package connector

import (
	"fmt"
	"slices"
	"time"
)

// A brake (maxPerMinute) holds a mapping that makes too many records of what was committed within one minute of the database's clock. It counts
// by commit time and not by this machine's clock: so a backlog is no mass update, and after a restart the same record is the first that is too many.
// What it has counted stands in the checkpoint, less the records of changes that are not settled: those come again, and are counted again.

// Brake is what a checkpoint knows of a mapping that has, or had, a brake.
type Brake struct {
	Mapping string `json:"mapping"`
	// Minutes are the newest minutes in which records were counted.
	Minutes []BrakeMinute `json:"minutes,omitempty"`
	// Freed: the brake lets through what was committed up to it (`resume`), and does not count it.
	Freed LSN `json:"freed"`
	// GivenUp: what was committed up to it while the mapping was held becomes dead letters (`deadletters set-aside`).
	GivenUp LSN `json:"givenUp"`
}

// BrakeMinute counts settled records by the minute in which their changes were committed.
type BrakeMinute struct {
	// Minute is in unix time.
	Minute  int64 `json:"minute"`
	Records int   `json:"records"`
}

// minutesKept bounds the minutes that are counted for one mapping: transactions that commit at one time may stand in the stream a little out of the order
// of their commit times.
const minutesKept = 4

// tally is how many records a mapping made of what was committed in a minute.
type tally struct {
	mapping string
	minute  int64
	n       int
}

// tallies are few: there are as many as brakes, times minutesKept.
type tallies []tally

func (ts tallies) of(mapping string, minute int64) int {
	for i := range ts {
		if ts[i].mapping == mapping && ts[i].minute == minute {
			return ts[i].n
		}
	}
	return 0
}

// add counts y; of more than minutesKept minutes the one that came first is forgotten.
func (ts *tallies) add(y tally) {
	first, minutes := -1, 0
	for i := range *ts {
		switch have := &(*ts)[i]; {
		case have.mapping != y.mapping:
		case have.minute == y.minute:
			have.n += y.n
			return
		default:
			if minutes++; first < 0 {
				first = i
			}
		}
	}
	if minutes >= minutesKept {
		*ts = slices.Delete(*ts, first, first+1)
	}
	*ts = append(*ts, y)
}

// tell writes the tallies into the checkpoint, beside those of other trackers.
func (ts tallies) tell(cp *Checkpoint) {
	for _, y := range ts {
		if y.n <= 0 {
			continue
		}
		b := cp.brake(y.mapping)
		i := slices.IndexFunc(b.Minutes, func(m BrakeMinute) bool { return m.Minute == y.minute })
		if i < 0 {
			b.Minutes, i = append(b.Minutes, BrakeMinute{Minute: y.minute}), len(b.Minutes)
		}
		b.Minutes[i].Records += y.n
	}
}

func talliesOf(brakes []Brake) (ts tallies) {
	for _, b := range brakes {
		for _, m := range b.Minutes {
			ts = append(ts, tally{b.Mapping, m.Minute, m.Records})
		}
	}
	return ts
}

// brake gives what the checkpoint knows of a mapping's brake, making room for it.
func (cp *Checkpoint) brake(mapping string) *Brake {
	for i := range cp.Brakes {
		if cp.Brakes[i].Mapping == mapping {
			return &cp.Brakes[i]
		}
	}
	cp.Brakes = append(cp.Brakes, Brake{Mapping: mapping})
	return &cp.Brakes[len(cp.Brakes)-1]
}

// Resume lets mappings go on that are held, but for those that can't read their tables, and names them. mapping empty: all. What was committed before
// now, the server's WAL end, passes the brake; then it counts anew. cp's slices are not written to, but replaced.
func (cp *Checkpoint) Resume(mapping string, now LSN) []string {
	return cp.letGo(mapping, func(b *Brake) { b.Freed = max(b.Freed, now) })
}

// SetAside makes dead letters of what held mappings wait with, and names them. Of a mapping that can't read its table: all that it can't read, later
// changes too, until it is mended; else, and where it still works off what Resume let through, what was committed before now, the server's WAL end,
// and later changes flow again. As Resume does, it replaces cp's slices.
func (cp *Checkpoint) SetAside(mapping string, now LSN) []string {
	var done []string
	cp.Tracks, cp.Brakes = slices.Clone(cp.Tracks), slices.Clone(cp.Brakes)
	for i := range cp.Tracks {
		if t := &cp.Tracks[i]; (mapping == "" || t.Mapping == mapping) && !t.braked() {
			t.SetAside = true
			// It was let through (Resume), and works that off.
			if j := slices.IndexFunc(cp.Brakes, func(b Brake) bool { return b.Mapping == t.Mapping && b.Freed >= t.Since.Commit }); j >= 0 {
				cp.Brakes[j].GivenUp = max(cp.Brakes[j].GivenUp, now)
			}
			done = append(done, t.Mapping)
		}
	}
	return append(done, cp.letGo(mapping, func(b *Brake) { b.GivenUp = max(b.GivenUp, now) })...)
}

// braked reports whether the mapping is held although it can read its table.
func (t *Track) braked() bool { return t.Held != "" && t.Held != HoldMisfit }

// letGo ends the hold of mappings that are braked; note notes in each one's brake what becomes of what it waits with.
func (cp *Checkpoint) letGo(mapping string, note func(*Brake)) (done []string) {
	next := Checkpoint{Tracks: slices.Clone(cp.Tracks), Brakes: slices.Clone(cp.Brakes)}
	for i := range next.Tracks {
		t := &next.Tracks[i]
		if mapping != "" && t.Mapping != mapping || !t.braked() {
			continue
		}
		b := next.brake(t.Mapping)
		note(b)
		b.Minutes = nil
		t.Held, t.Reason = "", ""
		done = append(done, t.Mapping)
	}
	cp.Tracks, cp.Brakes = next.Tracks, next.Brakes
	return done
}

// CapBrakes forgets what brakes say of positions from commit LSN cut on: there is another history now.
func (cp *Checkpoint) CapBrakes(cut LSN) {
	cp.Brakes = slices.Clone(cp.Brakes)
	for i := range cp.Brakes {
		b := &cp.Brakes[i]
		last := cut - min(cut, 1)
		b.Freed, b.GivenUp = min(b.Freed, last), min(b.GivenUp, last)
	}
}

// brake is a mapping's brake in a pipeline. The reader's goroutine only.
type brake struct {
	limit          int // 0: the file has none
	freed, givenUp LSN
}

func newBrakes(limits map[string]int, saved []Brake) map[string]*brake {
	brakes := map[string]*brake{}
	for name, limit := range limits {
		brakes[name] = &brake{limit: limit}
	}
	for _, s := range saved {
		if brakes[s.Mapping] == nil {
			brakes[s.Mapping] = &brake{}
		}
		brakes[s.Mapping].freed, brakes[s.Mapping].givenUp = s.Freed, s.GivenUp
	}
	return brakes
}

// givenUp says why what a mapping wants of c becomes a dead letter as a whole; empty: it does not.
func (p *Pipeline) givenUp(mapping string, c *Change) string {
	if b := p.brakes[mapping]; b != nil && c.Position.Commit <= b.givenUp {
		return "it was held, and its changes up to " + b.givenUp.String() + " were given up (deadletters set-aside)"
	}
	return ""
}

// pastGivenUp reports whether all that was given up of a mapping has come, once the stream has come to lsn.
func (p *Pipeline) pastGivenUp(mapping string, lsn LSN) bool {
	b := p.brakes[mapping]
	return b == nil || lsn >= b.givenUp
}

// applyBrakes counts the records of c that are in p.out, and gives what is to be counted once the change is taken. Where they are too many for a
// mapping it is held: its records are taken out of p.out, or, where it goes by itself on t, goes is false and nothing of c may be taken.
func (p *Pipeline) applyBrakes(c *Change, t *track) (counted []tally, goes bool) {
	if c.CommitTime.IsZero() {
		return nil, true // a backfill was asked for
	}
	minute := c.CommitTime.Unix() / 60
	counted = p.counting[:0]
	for _, r := range p.out.Records {
		b := p.brakes[r.Mapping]
		if b == nil || b.limit == 0 || c.Position.Commit <= b.freed {
			continue
		}
		if n := len(counted); n > 0 && counted[n-1].mapping == r.Mapping { // a mapping's records stand together
			counted[n-1].n++
		} else {
			counted = append(counted, tally{r.Mapping, minute, 1})
		}
	}
	p.counting = counted
	within := counted[:0]
	for _, y := range counted {
		limit := p.brakes[y.mapping].limit
		if p.counted(y.mapping, minute)+y.n <= limit {
			within = append(within, y)
			continue
		}
		many := fmt.Sprintf("%d records", limit)
		if limit == 1 {
			many = "1 record"
		}
		reason := fmt.Sprintf("maxPerMinute: it made %s of what was committed in the minute from %s on, and more were to come: a mass update?",
			many, time.Unix(minute*60, 0).UTC().Format(time.RFC3339))
		if t != nil {
			p.holdAgain(t, c, HoldBrake, Unfit{Why: reason})
			return nil, false
		}
		p.hold(y.mapping, c, HoldBrake, Unfit{Why: reason})
		p.out.Records = slices.DeleteFunc(p.out.Records, func(r *Record) bool { return r.Mapping == y.mapping })
	}
	return within, true
}

// counted sums what all trackers have counted.
func (p *Pipeline) counted(mapping string, minute int64) int {
	n := p.tracker.counted(mapping, minute)
	for _, t := range p.tracks {
		if t.Mapping == mapping {
			n += t.tracker.counted(mapping, minute)
		}
	}
	return n
}

func (t *tracker) counted(mapping string, minute int64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tallies.of(mapping, minute)
}

// inherit takes over what a track that is done with has counted.
func (t *tracker) inherit(other *tracker) {
	other.mu.Lock()
	counted := other.tallies
	other.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, y := range counted {
		t.tallies.add(y)
	}
}
