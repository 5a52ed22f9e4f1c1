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
	lines  map[uint64]*line
	lanes  map[laneKey]*lane
	ends   map[connector.Endpoint]*endpoint
	serial uint64 // number of the record submitted last

	pending      int // records that are not settled
	pendingBytes int
}

// line is the records that share one order key, in commit order.
type line struct{ head, tail *link }

// link is an item's place in one line.
type link struct {
	item *item
	line *line
	key  uint64
	next *link
}

// item is a record on its way.
type item struct {
	rec    *connector.Record
	lane   *lane
	serial uint64
	links  []link
	// blocked counts the lines in which another item stands before this one.
	blocked int
	taken   bool // in a request, or waiting in the sender's hands
	// batch and covered: in how many lines the item before this one is in the batch being filled.
	batch   uint64
	covered int

	attempts int
}

// laneKey says which records may share a request.
type laneKey struct {
	endpoint connector.Endpoint
	envelope string
}

// lane is the ready records of one endpoint and envelope, in the order in which they became ready; what came back from a failed
// request stands before the others.
type lane struct {
	key   laneKey
	end   *endpoint
	back  []*item // returned ones, the next one last
	ready []*item
	head  int // index into ready
	// alone: at most one record of a key in a request (group updates).
	alone bool
}

func newQueue() *queue {
	return &queue{lines: map[uint64]*line{}, lanes: map[laneKey]*lane{}, ends: map[connector.Endpoint]*endpoint{}}
}

func (l *lane) len() int { return len(l.back) + len(l.ready) - l.head }

func (l *lane) peek() *item {
	if n := len(l.back); n > 0 {
		return l.back[n-1]
	}
	return l.ready[l.head]
}

func (l *lane) pop() *item {
	if n := len(l.back); n > 0 {
		it := l.back[n-1]
		l.back = l.back[:n-1]
		return it
	}
	it := l.ready[l.head]
	l.ready[l.head] = nil
	if l.head++; l.head == len(l.ready) {
		l.ready, l.head = l.ready[:0], 0
	} else if l.head > 1024 && l.head > len(l.ready)/2 {
		n := copy(l.ready, l.ready[l.head:])
		clear(l.ready[n:])
		l.ready, l.head = l.ready[:n], 0
	}
	return it
}

func (l *lane) push(it *item) { l.ready = append(l.ready, it) }

// add takes a record and returns the lane in which it is ready, or nil where it has to wait for another.
func (q *queue) add(rec *connector.Record, end *endpoint) *lane {
	q.serial++
	it := &item{rec: rec, serial: q.serial, links: make([]link, len(rec.Keys))}
	it.lane = q.lane(laneKey{rec.Endpoint(), rec.Envelope}, end, rec.OptType == "update")
	for i, key := range rec.Keys {
		ln := q.lines[key]
		if ln == nil {
			ln = &line{}
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
	it.lane.push(it)
	return it.lane
}

func (q *queue) lane(key laneKey, end *endpoint, alone bool) *lane {
	l := q.lanes[key]
	if l == nil {
		l = &lane{key: key, end: end, alone: alone}
		q.lanes[key] = l
		end.lanes = append(end.lanes, l)
	}
	return l
}

// settle takes an item out of its lines; followers that become ready go into their lanes. The endpoints that got work are appended to
// woken.
func (q *queue) settle(it *item, woken []*endpoint) []*endpoint {
	q.pending--
	q.pendingBytes -= len(it.rec.Payload)
	for i := range it.links {
		k := &it.links[i]
		k.line.head = k.next
		if k.next == nil {
			delete(q.lines, k.key)
			continue
		}
		next := k.next.item
		if next.blocked--; next.blocked == 0 && !next.taken {
			next.lane.push(next)
			woken = append(woken, next.lane.end)
		}
	}
	return woken
}

// giveBack returns items that a request carried and that are to be sent again, in the order in which they were taken: in front of all
// others, or behind them (last). Those that are not at the head of their lines become ready when the ones before them are settled.
func (q *queue) giveBack(items []*item, last bool) {
	for i := len(items) - 1; i >= 0; i-- {
		it := items[i]
		it.taken = false
		switch {
		case it.blocked > 0:
		case last:
			it.lane.push(it)
		default:
			it.lane.back = append(it.lane.back, it)
		}
	}
}

// take fills a batch from a lane: at most most records and maxBytes of payload (one record goes whatever its size).
func (q *queue) take(l *lane, batch uint64, most, maxBytes int) []*item {
	items := make([]*item, 0, min(most, l.len()))
	bytes := 0
	fits := func(it *item) bool {
		return len(items) == 0 || (len(items) < most && bytes+len(it.rec.Payload)+1 <= maxBytes)
	}
	for l.len() > 0 && fits(l.peek()) {
		it := l.pop()
		followers := []*item{it}
		for len(followers) > 0 && fits(followers[0]) {
			it := followers[0]
			followers = followers[1:]
			it.taken = true
			items = append(items, it)
			bytes += len(it.rec.Payload) + 1
			if !l.alone && most > 1 {
				followers = it.follow(l, batch, followers)
			}
		}
	}
	return items
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
