package delivery

import (
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// queue orders records. It is not safe for concurrent use: Delivery.mu guards it and everything in it.
//
// Each order key has a line of the records that carry it, in commit order. A record is ready when it stands at the head of
// all its lines, and leaves them when it is settled; so two records that share any key are never in two requests at once, and
// a customer whose record waits holds up only its own. Ready records wait in the lane of their endpoint and envelope, from which batches
// are taken. While a batch is filled, the followers of a taken record may join it, if all that stands before them is in this very
// batch and they want the same lane: the platform reads a request in order.
type queue struct {
	lines map[uint64]*line
	lanes map[laneKey]*lane
	ends  map[connector.Endpoint]*endpoint
	// batched are the ends that take more than one record a request.
	batched []*endpoint
	serial  uint64 // number of the record submitted last
	last    *lane  // the one that was asked for last: records of one mapping come together, mostly

	pending      int // records that are not settled
	pendingBytes int

	// Those of settled records, to be used again: a record costs no allocation here.
	spareItems []*item
	spareLines *line
}

// line is the records that share one order key, in commit order.
type line struct {
	head, tail *link
	spare      *line // the next one that may be used again
}

// link is an item's place in one line.
type link struct {
	item *item
	line *line
	key  uint64
	next *link
}

// item is a record on its way. There are many: its size counts.
type item struct {
	rec    *connector.Record // nil once it is settled
	size   int               // of its payload
	lane   *lane
	serial uint64
	ready  uint64 // queue.serial when it became ready
	links  []link
	room   [2]link // for links
	// batch and covered: in how many lines the item before this one is in the batch being filled.
	batch   uint64
	covered int32
	// blocked counts the lines in which another item stands before this one.
	blocked  int32
	attempts int32
	carried  bool // by a request that left
	taken    bool // in a request, or waiting in a sender's hands or in a suspect
	// failure is nil before the record's first failure.
	failure *failure
	// retry is set for a record that was a dead letter; nil: its end goes to Ports.Settle.
	retry *Retry
}

// laneKey says which records may share a request.
type laneKey struct {
	endpoint connector.Endpoint
	envelope string
	retry    bool // dead letters that are sent again: they pass a pause
	backfill bool // rows of a backfill: what the stream brings goes first
}

// lane is the ready records of one endpoint and envelope, in the order in which they became ready; what came back from a failed
// request stands before the others.
type lane struct {
	key laneKey
	end *endpoint
	// back came back from a request without fault of its own, the next one last; tried failed, as others did, in an outage.
	back         []*item
	tried, ready fifo
	// alone: at most one record of a key in a request (group updates).
	alone bool
}

// fifo is a queue of items.
type fifo struct {
	items []*item
	head  int
}

func (f *fifo) len() int { return len(f.items) - f.head }

func (f *fifo) push(it *item) { f.items = append(f.items, it) }

func (f *fifo) pop() *item {
	it := f.items[f.head]
	f.items[f.head] = nil
	if f.head++; f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	} else if f.head > 1024 && f.head > len(f.items)/2 {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return it
}

func newQueue() *queue {
	return &queue{lines: map[uint64]*line{}, lanes: map[laneKey]*lane{}, ends: map[connector.Endpoint]*endpoint{}}
}

func (l *lane) len() int { return len(l.back) + l.tried.len() + l.ready.len() }

// untried counts the records that no outage has met.
func (l *lane) untried() int { return len(l.back) + l.ready.len() }

// source gives the queue that the next record comes from, or nil for back. A probe takes the ones that were tried last.
func (l *lane) source(probe bool) *fifo {
	switch {
	case len(l.back) > 0:
		return nil
	case l.tried.len() > 0 && (!probe || l.ready.len() == 0):
		return &l.tried
	}
	return &l.ready
}

func (l *lane) peek(probe bool) *item {
	if f := l.source(probe); f != nil {
		return f.items[f.head]
	}
	return l.back[len(l.back)-1]
}

func (l *lane) pop(probe bool) *item {
	if f := l.source(probe); f != nil {
		return f.pop()
	}
	n := len(l.back) - 1
	it := l.back[n]
	l.back[n] = nil
	l.back = l.back[:n]
	return it
}

// push takes an item that has become ready.
func (q *queue) push(it *item) {
	it.ready = q.serial
	it.lane.ready.push(it)
}

// item gives an empty one.
func (q *queue) item() *item {
	n := len(q.spareItems)
	if n == 0 {
		return &item{}
	}
	it := q.spareItems[n-1]
	q.spareItems = q.spareItems[:n-1]
	return it
}

// recycle takes a settled item back. One that has failed may still be known elsewhere: it is left to the garbage collector.
func (q *queue) recycle(it *item) {
	if it.failure == nil && it.attempts <= 1 && it.retry == nil {
		*it = item{}
		q.spareItems = append(q.spareItems, it)
	}
}

// add takes a record and returns the lane in which it is ready, or nil where it has to wait for another.
func (q *queue) add(rec *connector.Record, end *endpoint, retry *Retry) *lane {
	q.serial++
	it := q.item()
	it.rec, it.size, it.serial, it.retry = rec, len(rec.Payload), q.serial, retry
	if len(rec.Keys) > len(it.room) {
		it.links = make([]link, len(rec.Keys))
	} else {
		it.links = it.room[:len(rec.Keys)]
	}
	it.lane = q.lane(laneKey{rec.Endpoint(), rec.Envelope, retry != nil, retry == nil && rec.Backfill != 0}, end, rec.OptType == "update")
	for i, key := range rec.Keys {
		ln := q.lines[key]
		if ln == nil {
			if ln = q.spareLines; ln != nil {
				q.spareLines, ln.spare = ln.spare, nil
			} else {
				ln = &line{}
			}
			q.lines[key] = ln
		}
		it.links[i] = link{item: it, line: ln, key: key}
		k := &it.links[i]
		if ln.tail == nil {
			ln.head = k
		} else {
			ln.tail.next = k
			it.blocked++
		}
		ln.tail = k
	}
	q.pending++
	q.pendingBytes += len(rec.Payload)
	if it.blocked > 0 {
		return nil
	}
	q.push(it)
	return it.lane
}

// overtaken reports whether a group relation that shares a key with rec, and is newer, is pending.
func (q *queue) overtaken(rec *connector.Record) bool {
	if rec.Kind != connector.GroupRelation {
		return false
	}
	for _, key := range rec.Keys {
		ln := q.lines[key]
		if ln == nil {
			continue
		}
		for k := ln.head; k != nil; k = k.next {
			if r := k.item.rec; r.Kind == connector.GroupRelation && r.Position.Compare(rec.Position) > 0 {
				return true
			}
		}
	}
	return false
}

func (q *queue) lane(key laneKey, end *endpoint, alone bool) *lane {
	if q.last != nil && q.last.key == key {
		return q.last
	}
	l := q.lanes[key]
	q.last = l
	if l == nil {
		l = &lane{key: key, end: end, alone: alone}
		q.last = l
		q.lanes[key] = l
		end.lanes = append(end.lanes, l)
	}
	return l
}

// settle takes an item out of its lines; followers that become ready go into their lanes. The endpoints that got work are appended to
// woken.
func (q *queue) settle(it *item, woken []*endpoint) []*endpoint {
	q.pending--
	q.pendingBytes -= it.size
	for i := range it.links {
		k := &it.links[i]
		k.line.head = k.next
		if k.next == nil {
			delete(q.lines, k.key)
			*k.line = line{spare: q.spareLines}
			q.spareLines = k.line
			continue
		}
		next := k.next.item
		if next.blocked--; next.blocked == 0 && !next.taken {
			q.push(next)
			woken = append(woken, next.lane.end)
		}
	}
	return woken
}

// giveBack returns items that a request carried and that are to be sent again, in the order in which they were taken: in front of all
// others, or among those that were tried. Those that are not at the head of their lines become ready when the ones before them are settled.
func (q *queue) giveBack(items []*item, tried bool) {
	for _, it := range items {
		if it.taken = false; it.blocked == 0 && tried {
			it.lane.tried.push(it)
		}
	}
	if tried {
		return
	}
	for i := len(items) - 1; i >= 0; i-- {
		if it := items[i]; it.blocked == 0 {
			it.lane.back = append(it.lane.back, it)
		}
	}
}

// take fills a batch from a lane: at most most records and maxBytes of payload (one record goes whatever its size).
func (q *queue) take(l *lane, batch uint64, most, maxBytes int, probe bool) []*item {
	items := make([]*item, 0, min(most, l.len()))
	bytes := 0
	fits := func(it *item) bool {
		return len(items) == 0 || (len(items) < most && bytes+it.size+1 <= maxBytes)
	}
	// What was tried goes by itself: so nothing else is blamed when it fails again.
	tried := l.len() > 0 && l.source(probe) == &l.tried
	for l.len() > 0 && (l.source(probe) == &l.tried) == tried && fits(l.peek(probe)) {
		it := l.pop(probe)
		followers := []*item{it}
		for len(followers) > 0 && fits(followers[0]) {
			it := followers[0]
			followers = followers[1:]
			it.taken = true
			items = append(items, it)
			bytes += it.size + 1
			if !l.alone && most > 1 && !tried {
				followers = it.follow(l, batch, followers)
			}
		}
	}
	return items
}

// part gives those of the taken items that may share a request now; the rest has to wait for records that are not among them.
func (q *queue) part(items []*item, batch uint64) (send, rest []*item) {
	cover := func(it *item, n int32) int32 {
		if it.batch != batch {
			it.batch, it.covered = batch, 0
		}
		it.covered += n
		return it.covered
	}
	for _, it := range items {
		if cover(it, 0) < it.blocked {
			rest = append(rest, it)
			continue
		}
		send = append(send, it)
		for i := range it.links {
			if next := it.links[i].next; next != nil {
				cover(next.item, 1)
			}
		}
	}
	return send, rest
}

// follow appends the items that may share the batch behind it.
func (it *item) follow(l *lane, batch uint64, followers []*item) []*item {
	for i := range it.links {
		if it.links[i].next == nil {
			continue
		}
		next := it.links[i].next.item
		if next.lane != l || next.taken {
			continue
		}
		if next.batch != batch {
			next.batch, next.covered = batch, 0
		}
		if next.covered++; next.covered == next.blocked {
			followers = append(followers, next)
		}
	}
	return followers
}
