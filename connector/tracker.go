package connector

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tracker knows which changes are settled. Senders finish out of order, so the settled ones are a prefix of the stream plus
// ranges beyond it; what is kept in memory is the complement, the open changes, of which there are at most maxPending.
//
// The open changes form a list in stream order. Each remembers what had been read just before it (lowBefore) and the LSN that
// may be confirmed once everything before it is settled (markBefore). So the oldest open change alone says how far the
// checkpoint goes, however many transactions have passed it, and the gaps between neighbours are the settled ranges.
//
// mu orders the reader's additions with the senders' settlements: a checkpoint taken between two calls is always true.
type tracker struct {
	mu          sync.Mutex
	first, last *openChange
	open        int

	read     Position  // the last change read, settled or not; everything up to it was seen by this process or covers its start
	readTime time.Time // its commit time
	mark     LSN       // may be confirmed once nothing is open

	inherited []Range // settled ranges of the checkpoint that this process started from, still beyond read
	partial   []RecordKey

	// tallies count the records of mappings with a brake, of the changes that this tracker has taken or that an earlier run had settled.
	tallies tallies

	spare *openChange // settled ones, to be used again: linked by next

	settled *atomic.Uint64 // counts the changes that are settled; trackers share it

	// How many the last checkpoint had: the next one's lists are made as long at once, since there may be many and they are made several times a second.
	ranges, partials int
}

// openChange is a change some of whose records are not settled. It is guarded by tracker.mu.
type openChange struct {
	position   Position
	commitTime time.Time
	waiting    int         // records that are not settled
	done       []RecordKey // records that are, while others wait
	tallies    []tally     // what it was counted with

	lowBefore  Position
	lowTime    time.Time
	markBefore LSN

	tracker *tracker

	prev, next *openChange
}

func newTracker(cp *Checkpoint, settled *atomic.Uint64) *tracker {
	return &tracker{settled: settled, read: cp.Settled, readTime: cp.CommitTime, mark: cp.Flush, inherited: cp.Ranges, partial: cp.Partial,
		tallies: talliesOf(cp.Brakes)}
}

// skip reports whether the change at p needs nothing more: this process has read it already, or the checkpoint that
// it started from covers it. The reader's goroutine only, which alone writes read and inherited, and so may look at them without the lock.
func (t *tracker) skip(p Position, at time.Time) bool {
	if p.Compare(t.read) <= 0 {
		return true
	}
	if len(t.inherited) == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.inherited) > 0 && t.inherited[0].To.Compare(p) < 0 {
		t.inherited = t.inherited[1:]
	}
	if len(t.inherited) > 0 && p.Compare(t.inherited[0].From) >= 0 {
		t.pass(p, at)
		return true
	}
	return false
}

// pass notes that p was read. What an earlier run has settled of changes up to it is of no more use.
func (t *tracker) pass(p Position, at time.Time) {
	t.read, t.readTime = p, at
	for len(t.partial) > 0 && t.partial[0].Position.Compare(p) <= 0 {
		t.partial = t.partial[1:]
	}
}

// add notes a change that was read and of which `waiting` records are to be settled; with none it is settled at once and nil comes back.
// counted is what brakes count it with.
func (t *tracker) add(p Position, at time.Time, waiting int, done []RecordKey, counted ...tally) *openChange {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, y := range counted {
		t.tallies.add(y)
	}
	low, lowTime := t.read, t.readTime
	t.pass(p, at)
	if waiting == 0 {
		t.settled.Add(1)
		return nil
	}
	c := t.spare
	if c != nil {
		t.spare = c.next
	} else {
		c = &openChange{}
	}
	*c = openChange{tracker: t, position: p, commitTime: at, waiting: waiting, done: done,
		lowBefore: low, lowTime: lowTime, markBefore: t.mark, prev: t.last,
		tallies: slices.Clone(counted)}
	if t.last != nil {
		t.last.next = c
	} else {
		t.first = c
	}
	t.last = c
	t.open++
	return c
}

// settle notes that one record of c is settled. Behind the last one c is used again for another change.
func (c *openChange) settle(id RecordID) {
	t := c.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle(c, id)
}

// settleAll settles records, those of one tracker that stand together under one lock.
func settleAll(records []*Record) {
	for len(records) > 0 {
		c, ok := records[0].change.(*openChange)
		if !ok {
			records[0].change.settle(records[0].RecordID)
			records = records[1:]
			continue
		}
		t := c.tracker
		t.mu.Lock()
		for ok && c.tracker == t {
			t.settle(c, records[0].RecordID)
			if records = records[1:]; len(records) == 0 {
				break
			}
			c, ok = records[0].change.(*openChange)
		}
		t.mu.Unlock()
	}
}

// settle is openChange.settle; the caller holds mu.
func (t *tracker) settle(c *openChange, id RecordID) {
	if c.waiting--; c.waiting > 0 {
		c.done = append(c.done, id.Key())
		return
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		t.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		t.last = c.prev
	}
	t.open--
	t.settled.Add(1)
	*c = openChange{next: t.spare}
	t.spare = c
}

// advance notes that lsn may be confirmed once all that was read so far is settled. It never goes back.
func (t *tracker) advance(lsn LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mark = max(t.mark, lsn)
}

// checkpoint gives the checkpoint as it is now, without lineage and time.
func (t *tracker) checkpoint() *Checkpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	cp := &Checkpoint{Settled: t.read, CommitTime: t.readTime, Flush: t.mark}
	if t.first != nil {
		cp.Settled, cp.CommitTime, cp.Flush = t.first.lowBefore, t.first.lowTime, t.first.markBefore
	}
	cp.Ranges, cp.Partial = slices.Grow(cp.Ranges, t.ranges), slices.Grow(cp.Partial, t.partials)
	settled := slices.Clone(t.tallies)
	for c := t.first; c != nil; c = c.next {
		for _, y := range c.tallies {
			y.n = -y.n
			if settled.of(y.mapping, y.minute) > 0 { // else it is forgotten
				settled.add(y)
			}
		}
		end := t.read
		if c.next != nil {
			end = c.next.lowBefore
		}
		if end.Compare(c.position) > 0 {
			cp.Ranges = append(cp.Ranges, Range{From: c.position.next(), To: end})
		}
		cp.Partial = append(cp.Partial, c.done...)
	}
	for _, r := range t.inherited {
		if r.To.Compare(t.read) > 0 {
			if r.From.Compare(t.read) <= 0 {
				r.From = t.read.next()
			}
			cp.Ranges = append(cp.Ranges, r)
		}
	}
	for _, k := range t.partial {
		if k.Position.Compare(t.read) > 0 {
			cp.Partial = append(cp.Partial, k)
		}
	}
	t.ranges, t.partials = len(cp.Ranges), len(cp.Partial)
	settled.tell(cp)
	return cp
}

// oldest gives the oldest open change's position and commit time; ok is false when nothing is open.
func (t *tracker) oldest() (p Position, at time.Time, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		return t.read, t.readTime, false
	}
	return t.first.position, t.first.commitTime, true
}

// opened gives the number of open changes.
func (t *tracker) opened() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open
}

// caughtUp reports whether all up to p was read, and all that an earlier run has settled.
func (t *tracker) caughtUp(p Position) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.inherited); n > 0 && t.inherited[n-1].To.Compare(t.read) > 0 {
		return false
	}
	for _, k := range t.partial {
		if k.Position.Compare(t.read) > 0 {
			return false
		}
	}
	return t.read.Compare(p) >= 0
}

// furthest gives the last change that is known to be settled or was read.
func (t *tracker) furthest() Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.inherited); n > 0 && t.inherited[n-1].To.Compare(t.read) > 0 {
		return t.inherited[n-1].To
	}
	return t.read
}

// beyond gives what is known of one mapping's changes from p on, where p is the next change to be read: what an earlier run had settled there.
func (t *tracker) beyond(p Position, mapping string) *Checkpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	cp := &Checkpoint{Settled: p.prev(), CommitTime: t.readTime, Flush: t.mark}
	for _, r := range t.inherited {
		if r.To.Compare(p) > 0 {
			cp.Ranges = append(cp.Ranges, r)
		}
	}
	for _, k := range t.partial {
		if k.Mapping == mapping && k.Position.Compare(p) >= 0 {
			cp.Partial = append(cp.Partial, k)
		}
	}
	return cp
}

// next is the smallest position after p.
func (p Position) next() Position {
	if p.Index == 1<<32-1 {
		return Position{Commit: p.Commit + 1}
	}
	return Position{Commit: p.Commit, Index: p.Index + 1}
}

// prev is the greatest position before p, which is not zero.
func (p Position) prev() Position {
	if p.Index == 0 {
		return Position{Commit: p.Commit - 1, Index: 1<<32 - 1}
	}
	return Position{Commit: p.Commit, Index: p.Index - 1}
}
