// Package delivery brings records to the platform: in order per customer, in full batches, again after an outage, and
// aside as dead letters where that is all that is left.
//
// queue.go orders the records and fills batches; sender.go sends them and acts on the answers; endpoint.go knows whether an endpoint may be
// used now; suspect.go tells an outage from a record that fails alone; pause.go stops all before the dead letters fill the store. Everything
// shares one mutex; requests and writes to the store happen outside it.
package delivery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Config says how records are delivered. Every field is required; the configuration file gives the defaults.
type Config struct {
	// Concurrency is the requests in flight for each endpoint that takes batches, PointConcurrency for each that takes points.
	Concurrency, PointConcurrency int
	// MaxBatch is the most records in a request, MaxBatchBytes the most bytes; a larger record goes alone.
	MaxBatch, MaxBatchBytes int
	// MaxPending and MaxPendingBytes bound the records in memory that are not settled, and the bytes of their payloads: beyond either of
	// them Room is not nil. One change's records may go over them.
	MaxPending, MaxPendingBytes int
	// BackoffInitial and BackoffMax bound the waits of an endpoint that is down, and of a record that fails alone: with full jitter, each lies
	// between 0 and a bound that doubles from the one to the other.
	BackoffInitial, BackoffMax time.Duration
	// GiveUpAfter is how long a record may fail alone, while its endpoint takes others, before it is set aside.
	GiveUpAfter time.Duration
	// MaxDeadLetters: with more open ones delivery pauses.
	MaxDeadLetters int
	// PauseWhenRejected: delivery pauses too when more than half of 1,000 records in a row are rejected.
	PauseWhenRejected bool
	// ShutdownTimeout is how long requests in flight may take after Run's ctx has ended.
	ShutdownTimeout time.Duration
}

// Ports are the neighbours of a Delivery. All are required.
type Ports struct {
	Platform connector.Platform
	Store    connector.Store
	// Settle names each record that was submitted and needs no more work once, before a record behind it is sent. It must not block, call back or keep the
	// slice. It may use the records again: the Delivery does not look at them any more.
	Settle func([]*connector.Record)
	// CountOpen counts the open dead letters in the store that count for MaxDeadLetters.
	CountOpen func(context.Context) (int, error)
	// Hold has a mapping held, many of whose records failed alone. It must not block or call back.
	Hold func(mapping, reason string)
	// Counters is told of what is delivered, sent again and set aside.
	Counters *connector.Counters
	Alarms   *connector.Alarms
	Log      *slog.Logger
}

// Delivery implements connector.Deliverer. Make it with New. Safe for concurrent use.
type Delivery struct {
	cfg   Config
	ports Ports

	mu    sync.Mutex
	queue *queue
	// eager says that partly filled batches may go out: the source had nothing more to read, or there is no room to read it.
	eager    bool
	room     chan struct{} // not nil while there is no room; closed when there is
	batches  uint64
	requests uint64 // the number of the request that began last
	pause    pause
	counts   map[string]*count
	counted  string // the mapping that count was asked for last, and what it gave
	last     *count
	// failing records fail alone and are not settled; their payloads have failingBytes.
	failing, failingBytes int

	woken   []*endpoint         // scratch
	settled []*connector.Record // scratch
}

// count is what is known of one mapping's records.
type count struct {
	*connector.MappingCounters
	Pending
	inARow int // records that were set aside because they failed alone, since the last delivery
}

// Pending is how many records are submitted and not settled, and the bytes of their payloads.
type Pending struct{ Records, Bytes int }

func (p *Pending) add(r *connector.Record)  { p.Records, p.Bytes = p.Records+1, p.Bytes+len(r.Payload) }
func (p *Pending) take(r *connector.Record) { p.Records, p.Bytes = p.Records-1, p.Bytes-len(r.Payload) }

// New makes a Delivery; openLetters is the number of open dead letters in the store.
func New(cfg Config, ports Ports, openLetters int) *Delivery {
	d := &Delivery{cfg: cfg, ports: ports, queue: newQueue(), pause: pause{open: openLetters, most: cfg.MaxDeadLetters}, counts: map[string]*count{}}
	for _, name := range []connector.Endpoint{connector.PointEndpoint, connector.PointDecreaseEndpoint,
		connector.EventEndpoint, connector.GroupRelationEndpoint} {
		e := &endpoint{name: name, most: cfg.MaxBatch, senders: cfg.Concurrency}
		if e.takesPoints() {
			e.most, e.senders = 1, cfg.PointConcurrency
		}
		e.limit = e.most
		e.wake = make(chan struct{}, e.senders)
		e.backoff = newBackoff(cfg.BackoffInitial, cfg.BackoffMax)
		d.queue.ends[name] = e
		if !e.takesPoints() {
			d.queue.batched = append(d.queue.batched, e)
		}
		ports.Alarms.Clear("delivery/" + name.String())
	}
	// What an earlier Delivery of this process has raised is not known to be so any more.
	for _, key := range []string{lettersAlarm, rejectedAlarm, failingAlarm} {
		ports.Alarms.Clear(key)
	}
	d.checkLetters()
	return d
}

// Run sends until ctx ends, then finishes the requests in flight and returns nil. What was not sent stays unsettled.
func (d *Delivery) Run(ctx context.Context) error {
	// Requests outlive ctx: what is in flight is to be finished, within ShutdownTimeout.
	tail, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d.cfg.ShutdownTimeout, cancel) })
	defer stop()
	var g errgroup.Group
	for _, e := range d.queue.ends {
		for range e.senders {
			g.Go(func() error {
				for {
					job, ok := d.next(ctx, e)
					if !ok {
						return nil
					}
					d.do(ctx, tail, job)
				}
			})
		}
	}
	g.Go(func() error { d.watchLetters(ctx); return nil })
	return g.Wait()
}

// Submit takes the records of one change, in commit order.
func (d *Delivery) Submit(records []*connector.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.eager = false
	for _, r := range records {
		e := d.queue.ends[r.Endpoint()]
		d.count(r.Mapping).add(r)
		if l := d.queue.add(r, e, nil); l != nil && (l.len() >= min(e.most, e.limit) || e.waits()) {
			e.rouse()
		}
	}
}

// Retry is what a Delivery asks of whoever sends the records of a dead letter again. All functions are called on a sender, and are required.
type Retry struct {
	// Intend has it on disk that a point is about to be sent: it takes the place of Store.Intend. On an error it is called again.
	Intend func(context.Context, *connector.Record) error
	// Void takes that back: the point was surely not applied. It does not wait.
	Void func()
	// Done is called once for each record, when it is delivered (nil), or was set aside again, with the letter, which is stored by nobody else. It is not
	// called where ctx of Run ends before. It does not wait.
	Done func(*connector.DeadLetter)
	// Anyway says that a group relation is sent although newer ones of the same customer are pending.
	Anyway bool
}

// Resubmit takes the records of a dead letter: they go through the same order and limits as others, and pass a pause. They count as pending, but Room does
// not tell whether they may come: who calls it bounds how many do. False: they are group relations that newer ones of the same customer have overtaken,
// which are pending; nothing was taken.
func (d *Delivery) Resubmit(records []*connector.Record, retry *Retry) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range records {
		if !retry.Anyway && d.queue.overtaken(r) {
			return false
		}
	}
	for _, r := range records {
		d.count(r.Mapping).add(r)
		d.queue.add(r, d.queue.ends[r.Endpoint()], retry)
	}
	d.eager = false
	d.flush()
	return true
}

// Flush lets partly filled batches go out.
func (d *Delivery) Flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flush()
}

func (d *Delivery) flush() {
	if d.eager {
		return
	}
	d.eager = true
	for _, e := range d.queue.ends {
		if e.hasReady() {
			e.rouse()
		}
	}
}

// Room gives nil when more records may be submitted, else a channel that is closed when it may be asked again.
func (d *Delivery) Room() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.full() {
		return nil
	}
	if d.pause.admits() {
		return nil
	}
	if d.room == nil {
		d.room = make(chan struct{})
		d.relieve()
	}
	d.flush() // a batch that waits for more records would wait for ever
	return d.room
}

// full says that the source waits: nothing more may be in memory, or an endpoint that is well has more ready than all its senders take next; reading
// further ahead would bring nothing but use memory. Points wait for no such limit, which other records would then wait for too.
func (d *Delivery) full() bool {
	for _, e := range d.queue.batched {
		if ready := e.ready(); ready >= (e.senders+1)*e.limit && !e.down {
			return true
		}
	}
	return d.pause.letters || d.queue.pending >= d.cfg.MaxPending || d.queue.pendingBytes >= d.cfg.MaxPendingBytes
}

// settle takes items out of the queue, in their order in the request, and tells the pipeline. letters are those that were set aside, the
// others were delivered. It returns true.
//
// The pipeline is told of a record before those behind it may go: else a checkpoint could know a customer's later record as settled and the earlier one
// not, and a kill would send the earlier one again, behind the later one.
func (d *Delivery) settle(items []*item, letters map[*item]*connector.DeadLetter) bool {
	for _, it := range items { // before a checkpoint covers it
		if it.rec.Kind == connector.GroupRelation && letters[it] == nil {
			d.ports.Store.Overtake(it.rec.RecordID, it.rec.Keys)
		}
	}
	d.mu.Lock()
	woken, done := d.woken[:0], d.settled[:0]
	var retries []retried
	for _, it := range items {
		c := d.count(it.rec.Mapping)
		c.take(it.rec)
		if letters[it] == nil {
			c.Delivered.Add(1)
			c.inARow = 0
		}
		if it.retry == nil {
			done = append(done, it.rec)
		} else {
			retries = append(retries, retried{it.retry.Done, letters[it]})
		}
	}
	d.ports.Settle(done)
	clear(done)
	d.settled = done
	for _, it := range items {
		if it.retry == nil {
			it.rec = nil // it is used again
		}
		woken = d.queue.settle(it, woken)
		if it.failure != nil && it.failure.alone {
			d.cleared(it)
		}
		d.queue.recycle(it)
	}
	d.pause.delivered(len(items) - len(letters))
	for _, e := range woken {
		e.rouse()
	}
	d.woken = woken
	d.openRoom()
	d.mu.Unlock()
	for _, retry := range retries {
		retry.done(retry.letter)
	}
	return true
}

type retried struct {
	done   func(*connector.DeadLetter)
	letter *connector.DeadLetter
}

// openRoom tells those who wait for room that there is some.
func (d *Delivery) openRoom() {
	if d.room != nil && (!d.full() || d.pause.admit) {
		close(d.room)
		d.room = nil
	}
}

// count gives what is known of a mapping's records. Those of one mapping come together, mostly.
func (d *Delivery) count(mapping string) *count {
	if d.last != nil && d.counted == mapping {
		return d.last
	}
	c := d.counts[mapping]
	if c == nil {
		c = &count{MappingCounters: d.ports.Counters.Mapping(mapping)}
		d.counts[mapping] = c
	}
	d.counted, d.last = mapping, c
	return c
}

// insist does what must not fail, again and again with backoff, until it is done or ctx ends.
func (d *Delivery) insist(ctx context.Context, what string, do func() error) bool {
	b := newBackoff(d.cfg.BackoffInitial, d.cfg.BackoffMax)
	failed := false
	for {
		err := do()
		if err == nil {
			if failed {
				d.ports.Alarms.Clear("state/delivery")
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		failed = true
		d.ports.Alarms.Raise("state/delivery", what+": "+err.Error(), "free space or mend the rights of state.path, or see to the server of state.dsn; delivery waits")
		select {
		case <-ctx.Done():
			return false
		case <-time.After(b.NextBackOff()):
		}
	}
}

// Stats is a snapshot of the delivery.
type Stats struct {
	// Pending records are submitted and not settled; PendingBytes are their payloads'.
	Pending, PendingBytes int
	// Mappings says it of each mapping that has had records.
	Mappings map[string]Pending
	// Down are the endpoints that wait after a failure.
	Down []string
	// Ends tells more of each endpoint.
	Ends map[connector.Endpoint]End
	// Paused says that delivery is paused: too many dead letters are open, or too many records were rejected.
	Paused bool
	// Failing is the number of records that fail alone.
	Failing int
}

// End is how an endpoint fares.
type End struct {
	// Down says that it waits after a failure, since Since, which is not one record's fault alone, as far as is known; not before RetryAt it is tried again. Verdict is why. All but the first are zero where it is up.
	Down           bool
	Since, RetryAt time.Time
	Verdict        connector.Verdict
	// InFlight counts the requests that are on their way.
	InFlight int
}

// Stats gives a snapshot. Safe for concurrent use.
func (d *Delivery) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{Pending: d.queue.pending, PendingBytes: d.queue.pendingBytes, Mappings: make(map[string]Pending, len(d.counts)), Ends: map[connector.Endpoint]End{}, Paused: d.pause.on(), Failing: d.failing}
	for name, c := range d.counts {
		s.Mappings[name] = c.Pending
	}
	for name, e := range d.queue.ends {
		end := End{InFlight: e.flying}
		if e.down {
			s.Down = append(s.Down, name.String())
		}
		if e.down && (!e.doubtful || e.fallen > 0) { // else it may be one record's fault
			end.Down, end.Since, end.RetryAt, end.Verdict = true, e.since, e.retryAt, e.verdict
		}
		s.Ends[name] = end
	}
	return s
}

// Holdup is a record that failed and is not settled.
type Holdup struct {
	Mapping  string
	Position connector.Position
	// Since is when it first failed, Attempts how many requests have carried it.
	Since    time.Time
	Attempts int
	// HTTPStatus and Code are of the last answer; 0 and empty where none came.
	HTTPStatus int
	Code       string
}

// Holdup tells of a record of the change at p that failed and is not settled; nil where there is none. Safe for concurrent use; it looks
// through all that is pending.
func (d *Delivery) Holdup(p connector.Position) *Holdup {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found *Holdup
	see := func(it *item) {
		if f := it.failure; f != nil && it.rec.Position == p && (found == nil || f.since.Before(found.Since)) {
			found = &Holdup{Mapping: it.rec.Mapping, Position: p, Since: f.since, Attempts: int(it.attempts), HTTPStatus: f.answer.HTTPStatus, Code: f.answer.Code}
		}
	}
	for _, l := range d.queue.lines {
		for k := l.head; k != nil; k = k.next {
			see(k.item)
		}
	}
	return found
}
