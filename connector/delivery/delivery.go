// Package delivery brings records to the platform: in order per customer, in full batches, again after an outage, and
// aside as dead letters where that is all that is left.
//
// queue.go orders the records and fills batches; sender.go sends them and acts on the answers; endpoint.go knows whether an endpoint may be
// used now. Everything shares one mutex; requests and writes to the store happen outside it.
package delivery

import (
	"context"
	"fmt"
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
	// BackoffInitial and BackoffMax bound the waits of an endpoint that is down; a wait is up to half longer or shorter.
	BackoffInitial, BackoffMax time.Duration
	// MaxDeadLetters: with so many open ones nothing is sent until there are fewer.
	MaxDeadLetters int
	// ShutdownTimeout is how long requests in flight may take after Run's ctx has ended.
	ShutdownTimeout time.Duration
}

// Ports are the neighbours of a Delivery. All are required.
type Ports struct {
	Platform connector.Platform
	Store    connector.Store
	// Settle is called once for each record that was submitted and needs no more work.
	Settle func(*connector.Record)
	// CountOpen counts the open dead letters in the store that count for MaxDeadLetters.
	CountOpen func(context.Context) (int, error)
	Alarms    *connector.Alarms
	Log       *slog.Logger
}

// Delivery implements connector.Deliverer. Make it with New. Safe for concurrent use.
type Delivery struct {
	cfg   Config
	ports Ports

	mu    sync.Mutex
	queue *queue
	// eager says that partly filled batches may go out: the source had nothing more to read, or there is no room to read it.
	eager   bool
	room    chan struct{} // not nil while there is no room; closed when there is
	batches uint64
	letters int  // open dead letters, as far as known
	paused  bool // MaxDeadLetters is reached
	counts  map[string]*Count
}

// Count is what became of one mapping's records in this process.
type Count struct {
	Delivered uint64
	// Letters counts the dead letters by class.
	Letters map[connector.Class]uint64
}

// New makes a Delivery; openLetters is the number of open dead letters in the store.
func New(cfg Config, ports Ports, openLetters int) *Delivery {
	d := &Delivery{cfg: cfg, ports: ports, queue: newQueue(), letters: openLetters, counts: map[string]*Count{}}
	for _, name := range []connector.Endpoint{connector.PointEndpoint, connector.PointDecreaseEndpoint,
		connector.EventEndpoint, connector.GroupRelationEndpoint} {
		e := &endpoint{name: name, most: cfg.MaxBatch, senders: cfg.Concurrency}
		if e.takesPoints() {
			e.most, e.senders = 1, cfg.PointConcurrency
		}
		e.wake = make(chan struct{}, e.senders)
		e.backoff = newBackoff(cfg.BackoffInitial, cfg.BackoffMax)
		d.queue.ends[name] = e
	}
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
		if l := d.queue.add(r, e); l != nil && l.len() >= e.most {
			e.rouse()
		}
	}
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
	if d.room == nil {
		d.room = make(chan struct{})
	}
	d.flush() // a batch that waits for more records would wait for ever
	return d.room
}

func (d *Delivery) full() bool {
	return d.queue.pending >= d.cfg.MaxPending || d.queue.pendingBytes >= d.cfg.MaxPendingBytes
}

// settle takes items out of the queue, in their order in the request, and tells the pipeline.
func (d *Delivery) settle(items []*item, delivered func(i int) bool) {
	d.mu.Lock()
	var woken []*endpoint
	for i, it := range items {
		woken = d.queue.settle(it, woken)
		if delivered(i) {
			d.count(it.rec.Mapping).Delivered++
		}
	}
	for _, e := range woken {
		e.rouse()
	}
	if d.room != nil && !d.full() {
		close(d.room)
		d.room = nil
	}
	d.mu.Unlock()
	for _, it := range items {
		d.ports.Settle(it.rec)
	}
}

func (d *Delivery) count(mapping string) *Count {
	c := d.counts[mapping]
	if c == nil {
		c = &Count{Letters: map[connector.Class]uint64{}}
		d.counts[mapping] = c
	}
	return c
}

// setAside stores dead letters and returns when they are on disk, or false when ctx ended before: then nothing is settled.
func (d *Delivery) setAside(ctx context.Context, letters []*connector.DeadLetter) bool {
	if !d.insist(ctx, "dead letters can't be stored", func() error { return d.ports.Store.SetAside(ctx, letters) }) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range letters {
		d.count(l.Mapping).Letters[l.Class]++
		attrs := []any{"class", l.Class, "mapping", l.Mapping, "table", l.Table, "position", l.Position, "reason", l.Reason}
		if l.Answer != nil {
			attrs = append(attrs, "httpStatus", l.Answer.HTTPStatus, "code", l.Answer.Code)
		}
		d.ports.Log.Warn("dead letter", attrs...)
	}
	if d.letters += len(letters); d.letters >= d.cfg.MaxDeadLetters && !d.paused {
		d.paused = true
		d.ports.Alarms.Raise("delivery/deadletters", fmt.Sprintf("delivery is paused: %d dead letters are open, delivery.maxDeadLetters is %d",
			d.letters, d.cfg.MaxDeadLetters),
			"look at them with `tuzhan-cdc deadletters list`, mend the cause, then raise delivery.maxDeadLetters and restart")
	}
	return true
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

// lettersEvery is how often a delivery that is paused for its dead letters counts them again.
const lettersEvery = 5 * time.Second

// watchLetters ends the pause that too many dead letters caused when there are fewer.
func (d *Delivery) watchLetters(ctx context.Context) {
	tick := time.NewTicker(lettersEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		paused := d.paused
		d.mu.Unlock()
		if !paused {
			continue
		}
		n, err := d.ports.CountOpen(ctx)
		if err != nil {
			continue // the pause stays, and with it its alarm
		}
		d.mu.Lock()
		if d.letters = n; n < d.cfg.MaxDeadLetters {
			d.paused = false
			d.ports.Alarms.Clear("delivery/deadletters")
			for _, e := range d.queue.ends {
				e.rouse()
			}
		}
		d.mu.Unlock()
	}
}

// Stats is a snapshot of the delivery.
type Stats struct {
	// Pending records are submitted and not settled; PendingBytes are their payloads'.
	Pending, PendingBytes int
	// Mappings holds what became of each mapping's records in this process.
	Mappings map[string]Count
	// Down are the endpoints that wait after a failure.
	Down []string
	// Paused says that MaxDeadLetters is reached.
	Paused bool
}

// Stats gives a snapshot. Safe for concurrent use.
func (d *Delivery) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{Pending: d.queue.pending, PendingBytes: d.queue.pendingBytes, Mappings: map[string]Count{}, Paused: d.paused}
	for name, c := range d.counts {
		letters := make(map[connector.Class]uint64, len(c.Letters))
		for class, n := range c.Letters {
			letters[class] = n
		}
		s.Mappings[name] = Count{Delivered: c.Delivered, Letters: letters}
	}
	for name, e := range d.queue.ends {
		if e.down {
			s.Down = append(s.Down, name.String())
		}
	}
	return s
}
