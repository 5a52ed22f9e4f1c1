package connector

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// How often the checkpoint is written: after so many settled changes or so much time, whichever comes first. Where only the
// confirmable LSN has moved (an idle source beside busy neighbours), idleCheckpointEvery is often enough.
const (
	checkpointEvery     = 200 * time.Millisecond
	checkpointChanges   = 5000
	idleCheckpointEvery = 2 * time.Second
	finalWriteTimeout   = 10 * time.Second
	maxQueuedLetters    = 1000
)

// submitAtOnce records go to the deliverer together, while changes come without a pause: what it locks, and asks whether there is room, is then for many. They
// wait for Dry, or Room, at most.
const submitAtOnce = 64

// submitBytes are enough for that, however few records have them: what waits here counts for no limit of the deliverer's.
const submitBytes = 64 << 10

// Pipeline joins source, mapping, delivery and state: it reads, maps, delivers, settles, writes the checkpoint and lets the source
// confirm it. It is the Sink of its source. Make it with NewPipeline, run it once.
type Pipeline struct {
	mapper   Mapper
	store    Store
	alarms   *Alarms
	log      *slog.Logger
	lineage  Lineage
	mappings []string

	deliverer Deliverer
	tracker   *tracker
	settled   atomic.Uint64 // changes, by all trackers

	mu     sync.Mutex // guards holds, and tracks as it says there
	tracks []*track
	holds  []holdRequest
	asked  atomic.Bool // holds is not empty
	names  []string    // the reader's goroutine only
	// streamed is the furthest change that the source has handed over; the reader's goroutine only.
	streamed Position

	known     map[RecordKey]Known // used by the reader's goroutine only
	brakes    map[string]*brake   // by mapping; its entries never change
	counting  []tally             // the reader's goroutine only
	settledAt map[RecordKey]bool  // Partial of the first checkpoint; the reader's goroutine only
	out       Output              // the reader's goroutine only
	ready     []*Record           // made and not submitted yet; the reader's goroutine only
	readySize int                 // bytes of their payloads
	atOnce    int                 // so many are submitted together
	spare     spareRecords

	confirmed atomic.Uint64
	written   atomic.Pointer[Checkpoint]
	finished  chan struct{}
	due       chan struct{} // enough changes are settled for a checkpoint
	dueAt     atomic.Uint64

	letters  letterQueue
	lettered func(n int)

	changes, skipped, records, mappingLetters atomic.Uint64
	counters                                  map[string]*MappingCounters // its entries never change

	fills *fills // nil: no backfills

	marked                            uint64 // changes of the transaction markedIn that its marker has settled; the reader's goroutine only
	markedIn                          LSN
	markedTransactions, markedChanges atomic.Uint64
}

// PipelineOptions are what a pipeline is made of. All fields but MaxPerMinute, Counters and Lettered are required.
type PipelineOptions struct {
	Mapper Mapper
	Store  Store
	// Saved is what the store knew at the start; its Checkpoint must be there and on disk already.
	Saved *Saved
	// Mappings are the names of the mappings that stream, sorted.
	Mappings []string
	// MaxPerMinute are the mappings' brakes; nil: none has one.
	MaxPerMinute map[string]int
	// Counters is told of records made and letters stored, under the names in Mappings; nil: nobody is.
	Counters *Counters
	Alarms   *Alarms
	Log      *slog.Logger
	// Backfills is what backfills need; nil: there are none.
	Backfills *BackfillOptions
	// Lettered, where it is set, is told how many dead letters of class mapping were stored that count for delivery.maxDeadLetters.
	Lettered func(n int)
}

// NewPipeline makes a pipeline that goes on where o.Saved ended.
func NewPipeline(o PipelineOptions) *Pipeline {
	cp := o.Saved.Checkpoint
	p := &Pipeline{
		mapper: o.Mapper, store: o.Store, alarms: o.Alarms, log: o.Log, lineage: cp.Lineage, mappings: o.Mappings,
		known: o.Saved.Known, settledAt: map[RecordKey]bool{}, atOnce: submitAtOnce,
		finished: make(chan struct{}), due: make(chan struct{}, 1), lettered: o.Lettered,
	}
	for _, k := range cp.Partial {
		p.settledAt[k] = true
	}
	if o.Counters != nil {
		p.counters = make(map[string]*MappingCounters, len(o.Mappings))
		for _, name := range o.Mappings {
			p.counters[name] = o.Counters.Mapping(name)
		}
	}
	p.brakes = newBrakes(o.MaxPerMinute, cp.Brakes)
	p.tracker = newTracker(cp, &p.settled)
	p.loadTracks(cp)
	p.letters.wake = make(chan struct{}, 1)
	p.confirmed.Store(uint64(cp.Flush))
	p.written.Store(cp)
	p.dueAt.Store(checkpointChanges)
	if o.Backfills != nil {
		p.fills = newFills(p, *o.Backfills)
	}
	return p
}

// Run runs the pipeline until ctx ends, then stops in the data's order: reading first, then the requests in flight, then the last
// checkpoint, then the last confirmation. It returns nil after an orderly stop.
func (p *Pipeline) Run(ctx context.Context, source Source, deliverer Deliverer) error {
	p.deliverer = deliverer
	outer, ctx := errgroup.WithContext(ctx)
	outer.Go(func() error { return source.Run(ctx, p) })
	outer.Go(func() error {
		defer close(p.finished)
		inner, ctx := errgroup.WithContext(ctx)
		inner.Go(func() error { return deliverer.Run(ctx) })
		inner.Go(func() error { return p.storeLetters(ctx) })
		inner.Go(func() error { return p.writeCheckpoints(ctx) })
		if p.fills != nil {
			inner.Go(func() error { p.fills.run(ctx); return nil })
			inner.Go(func() error { p.fills.notice(ctx); return nil })
		}
		err := inner.Wait()
		tail, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalWriteTimeout)
		defer cancel()
		if last := p.writeCheckpoint(tail); last != nil && err == nil {
			err = fmt.Errorf("writing the last checkpoint: %w (the next start goes on from the one before)", last)
		}
		return err
	})
	return outer.Wait()
}

// Resume gives the LSN to ask the server for. What comes again from there is passed over by position.
func (p *Pipeline) Resume() LSN { return p.Confirmed() }

// Confirmed gives the LSN that the checkpoint on disk covers.
func (p *Pipeline) Confirmed() LSN { return LSN(p.confirmed.Load()) }

// Finished is closed when the last checkpoint is written.
func (p *Pipeline) Finished() <-chan struct{} { return p.finished }

// Change maps one change and submits its records. It does not fail.
func (p *Pipeline) Change(c *Change) error {
	if c.Position.Compare(p.streamed) > 0 {
		p.streamed = c.Position
	}
	if p.fills != nil && p.fills.some.Load() {
		p.fills.note(c)
	}
	if c.Skip {
		p.settleMarked(c)
		return nil
	}
	if p.tracker.skip(c.Position, c.CommitTime) {
		p.skipped.Add(1)
	} else {
		p.changes.Add(1)
		if p.asked.Load() {
			apart := p.apart(c.Position)
			for _, h := range p.askedToHold(func(m string) bool { return !slices.Contains(apart, m) }) {
				p.hold(h.mapping, c, h.why, h.unfit)
			}
		}
		var part Part
		if len(p.tracks) > 0 {
			part.Not = p.apart(c.Position)
		}
		p.take(c, part, nil)
	}
	for _, t := range p.tracks {
		if !t.follows(c.Position) || t.tracker.skip(c.Position, c.CommitTime) {
			continue
		}
		if p.asked.Load() {
			if h := p.askedToHold(func(m string) bool { return m == t.Mapping }); len(h) > 0 {
				p.holdAgain(t, c, h[0].why, h[0].unfit)
				continue
			}
		}
		p.take(c, Part{Only: t.Mapping, Aside: p.givenUp(t.Mapping, c)}, t)
	}
	return nil
}

// take maps a change by part of the mappings: those of a track, or (nil) all that go together.
func (p *Pipeline) take(c *Change, part Part, t *track) {
	p.out.Reset()
	p.refill(&p.out)
	p.mapper.Map(c, part, &p.out)
	tracker := p.tracker
	if t != nil {
		tracker = t.tracker
		t.fits = p.out.Fits > 0 || t.fits && len(p.out.Misfits) == 0
	}
	for _, misfit := range p.out.Misfits {
		switch {
		case t == nil:
			p.hold(misfit.Mapping, c, HoldMisfit, misfit.Unfit)
		case t.SetAside || part.Aside != "":
			misfit.Uncounted = true
			p.out.Letters = append(p.out.Letters, misfit.DeadLetter)
		default:
			p.holdAgain(t, c, HoldMisfit, misfit.Unfit)
			return
		}
	}
	var counted []tally
	if len(p.brakes) > 0 {
		var goes bool
		if counted, goes = p.applyBrakes(c, t); !goes {
			return
		}
	}
	if p.fills != nil && len(p.out.Records)+len(p.out.Letters) > 0 && p.fills.some.Load() { // before a checkpoint can cover the change
		p.fills.given(c, &p.out, t != nil)
	}
	var done []RecordKey
	if len(p.known)+len(p.settledAt) > 0 {
		done = p.passKnown()
	}
	waiting := len(p.out.Records) + len(p.out.Letters)
	open := tracker.add(c.Position, c.CommitTime, waiting, done, counted...)
	if waiting == 0 {
		p.checkDue()
		return
	}
	if len(p.out.Letters) > 0 {
		p.mappingLetters.Add(uint64(len(p.out.Letters)))
		p.store.Watch(p.out.Letters)
		p.letters.put(p.out.Letters, open)
	}
	if len(p.out.Records) > 0 {
		p.records.Add(uint64(len(p.out.Records)))
		p.countRecords(p.out.Records)
		for _, r := range p.out.Records {
			r.change = open
			if settlesUnsent {
				open.settle(r.RecordID)
			}
		}
		p.submit(p.out.Records)
	}
}

// submit takes records for the deliverer. It does not keep the slice.
func (p *Pipeline) submit(records []*Record) {
	p.ready = append(p.ready, records...)
	for _, r := range records {
		p.readySize += len(r.Payload)
	}
	if len(p.ready) >= p.atOnce || p.readySize >= submitBytes {
		p.handOver()
	}
}

func (p *Pipeline) handOver() {
	if len(p.ready) > 0 {
		p.deliverer.Submit(p.ready)
		clear(p.ready)
		p.ready, p.readySize = p.ready[:0], 0
	}
}

// countRecords counts records by mapping. A mapping's stand together.
func (p *Pipeline) countRecords(rest []*Record) {
	for len(rest) > 0 {
		n := 1
		for n < len(rest) && rest[n].Mapping == rest[0].Mapping {
			n++
		}
		if c := p.counters[rest[0].Mapping]; c != nil {
			c.Records.Add(uint64(n))
		}
		rest = rest[n:]
	}
}

// passKnown takes out of p.out what the state knows to be settled, and turns points whose intent has no outcome into dead letters
// of class uncertain (unless their mapping wants them sent again). It returns the settled ones.
func (p *Pipeline) passKnown() (done []RecordKey) {
	settled := func(k RecordKey) bool { return p.settledAt[k] || p.known[k] == Applied || p.known[k] == Lettered }
	records := p.out.Records[:0]
	for _, r := range p.out.Records {
		key := r.Key()
		whole := key
		whole.Number = WholeChange
		switch {
		case settled(key):
			done = append(done, key)
		case settled(whole):
			if !slices.Contains(done, whole) {
				done = append(done, whole)
			}
		case p.known[key] == Intended && !r.Resend:
			p.out.Letters = append(p.out.Letters, r.Letter(ClassUncertain,
				"the connector stopped between sending this point and reading the answer: it may or may not have been applied", nil, 1))
		default:
			records = append(records, r)
		}
		delete(p.known, key)
		delete(p.settledAt, key)
	}
	p.out.Records = records
	letters := p.out.Letters[:0]
	for _, l := range p.out.Letters {
		key := l.Key()
		if l.Class == ClassMapping && l.Kind == Point && p.known[key] == Intended {
			l.Class = ClassUncertain // not to be mapped again: that might give the point twice
			l.Reason = "the connector stopped between sending this point and reading the answer: it may or may not have been applied; and now " + l.Reason
		}
		if l.Class == ClassMapping && settled(key) {
			done = append(done, key)
			continue
		}
		letters = append(letters, l)
	}
	p.out.Letters = letters
	return done
}

// settleMarked settles a change without records, because its transaction began with the skip marker. A mapping that is held keeps its place before
// the change, which then comes again, marked as it is now.
func (p *Pipeline) settleMarked(c *Change) {
	if p.tracker.skip(c.Position, c.CommitTime) {
		p.skipped.Add(1)
	} else {
		p.tracker.add(c.Position, c.CommitTime, 0, nil)
		p.marked, p.markedIn = p.marked+1, c.Position.Commit
	}
	for _, t := range p.tracks {
		if t.follows(c.Position) && !t.tracker.skip(c.Position, c.CommitTime) {
			t.tracker.add(c.Position, c.CommitTime, 0, nil)
		}
	}
	p.checkDue()
}

// Commit ends a transaction.
func (p *Pipeline) Commit(commit, end LSN, _ time.Time) {
	if p.marked > 0 && commit == p.markedIn { // older ones may come again first
		p.markedTransactions.Add(1)
		p.markedChanges.Add(p.marked)
		p.log.Info("transaction skipped, as its marker asks: its changes are settled without records", "commit", commit, "changes", p.marked)
		p.marked = 0
	}
	p.advance(end)
}

// KeepAlive takes the server's WAL end between two transactions.
func (p *Pipeline) KeepAlive(walEnd LSN) { p.advance(walEnd) }

func (p *Pipeline) advance(lsn LSN) {
	p.tracker.advance(lsn)
	if len(p.tracks) > 0 {
		p.advanceTracks(lsn)
	}
}

// Dry lets what waits for a fuller batch go out.
func (p *Pipeline) Dry() {
	p.handOver()
	p.deliverer.Flush()
}

// Room gives nil when the next change may come.
func (p *Pipeline) Room() <-chan struct{} {
	if len(p.ready) > 0 && !p.letters.isFull.Load() && (p.fills == nil || p.fills.handing == nil) {
		return nil // there was when the first of them came
	}
	p.handOver()
	room := p.roomNow()
	if p.fills != nil && p.fills.handing != nil { // a chunk's rows come before the next change
		for ; room == nil && p.fills.handNext(); room = p.roomNow() {
		}
	}
	return room
}

func (p *Pipeline) roomNow() <-chan struct{} {
	if room := p.letters.room(); room != nil {
		return room
	}
	return p.deliverer.Room()
}

// Settle notes that records need no more work. The deliverer names each record it was given once, after what must be
// on disk (a dead letter) is there, and does not touch the record any more. It does not keep the slice.
func (p *Pipeline) Settle(records []*Record) {
	if !settlesUnsent {
		settleAll(records)
	}
	p.spare.put(records)
	p.checkDue()
}

func (p *Pipeline) checkDue() {
	if p.settled.Load() >= p.dueAt.Load() {
		select {
		case p.due <- struct{}{}:
		default:
		}
	}
}

// writeCheckpoints writes the checkpoint whenever it is due. What fails is tried again: nothing is confirmed meanwhile.
func (p *Pipeline) writeCheckpoints(ctx context.Context) error {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-p.due:
		}
		if err := p.writeCheckpoint(ctx); err != nil && ctx.Err() == nil {
			p.alarms.Raise("state", "the checkpoint can't be written: "+err.Error(),
				"free space or mend the rights of state.path, or see to the server of state.dsn; nothing is confirmed to PostgreSQL meanwhile")
		} else if err == nil {
			p.alarms.Clear("state")
		}
	}
}

// writeCheckpoint writes the checkpoint if it says more than the last one, and only then lets it be confirmed.
func (p *Pipeline) writeCheckpoint(ctx context.Context) error {
	settled := p.settled.Load()
	cp, last := p.checkpoint(), p.written.Load()
	if p.fills != nil { // what it knows of the changes that cp covers must not be later on disk than cp
		if err := p.fills.save(ctx); err != nil {
			return err
		}
	}
	cp.Lineage, cp.Mappings, cp.Written = p.lineage, p.mappings, time.Now()
	moved := cp.Settled != last.Settled || !sameTracks(cp.Tracks, last.Tracks) || settled+checkpointChanges != p.dueAt.Load()
	if !moved && (cp.Flush == last.Flush || time.Since(last.Written) < idleCheckpointEvery) {
		return nil
	}
	if err := p.store.SaveCheckpoint(ctx, cp); err != nil {
		return err
	}
	p.written.Store(cp)
	p.dueAt.Store(settled + checkpointChanges)
	p.confirmed.Store(uint64(cp.Flush))
	return nil
}

// storeLetters stores dead letters of class mapping, many in one commit, and settles their records.
func (p *Pipeline) storeLetters(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.letters.wake:
		}
		for batch := p.letters.take(); len(batch) > 0; batch = p.letters.take() {
			letters := make([]*DeadLetter, len(batch))
			for i, q := range batch {
				letters[i] = q.letter
			}
			for wait := checkpointEvery; ; wait = min(2*wait, 10*time.Second) {
				err := p.store.SetAside(ctx, letters)
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					return nil // they come again after the next start
				}
				p.alarms.Raise("state", "dead letters can't be stored: "+err.Error(), "free space or mend the rights of state.path, or see to the server of state.dsn")
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(wait):
				}
			}
			counted := 0
			for _, q := range batch {
				if !q.letter.Uncounted {
					counted++
				}
				if c := p.counters[q.letter.Mapping]; c != nil {
					c.Lettered(q.letter.Class)
				}
				p.log.Warn("dead letter", "class", q.letter.Class, "mapping", q.letter.Mapping, "table", q.letter.Table,
					"position", q.letter.Position, "reason", q.letter.Reason)
				q.change.settle(q.letter.RecordID)
			}
			if p.lettered != nil && counted > 0 {
				p.lettered(counted)
			}
			p.letters.stored(len(batch))
			p.checkDue()
		}
	}
}

// Progress is a snapshot of the pipeline's counters.
type Progress struct {
	// Changes were read and mapped by this process, Skipped were settled before it started or came again, Records were made of them.
	Changes, Skipped, Records uint64
	// MappingLetters counts dead letters of class mapping made by this process.
	MappingLetters uint64
	// MarkedTransactions began with the skip marker; MarkedChanges are their changes, settled without records by this process.
	MarkedTransactions, MarkedChanges uint64
	// Open is the number of changes that are read and not settled.
	Open int
	// Oldest is the oldest of them (or the last change read, when Open is 0), OldestTime when it was committed.
	Oldest     Position
	OldestTime time.Time
	// Checkpoint is the one on disk.
	Checkpoint *Checkpoint
}

// Progress gives the counters as they are now. Safe for concurrent use.
func (p *Pipeline) Progress() Progress {
	oldest, at, _ := p.tracker.oldest()
	open := p.tracker.opened()
	return Progress{
		Changes: p.changes.Load(), Skipped: p.skipped.Load(), Records: p.records.Load(), MappingLetters: p.mappingLetters.Load(),
		MarkedTransactions: p.markedTransactions.Load(), MarkedChanges: p.markedChanges.Load(),
		Open: open, Oldest: oldest, OldestTime: at, Checkpoint: p.written.Load(),
	}
}

// refill gives out settled records to make records of, where it has none left.
func (p *Pipeline) refill(out *Output) {
	if len(out.spare) == 0 {
		out.spare = p.spare.take(out.spare)
	}
}

// spareRecords are settled records on their way back to the mapper.
type spareRecords struct {
	mu   sync.Mutex
	list []*Record
}

func (s *spareRecords) put(records []*Record) {
	for _, r := range records {
		r.clear()
	}
	s.mu.Lock()
	s.list = append(s.list, records...)
	s.mu.Unlock()
}

// take gives all that there are, and takes an empty slice to fill in exchange.
func (s *spareRecords) take(empty []*Record) []*Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list
	s.list = empty[:0]
	return list
}

// letterQueue holds dead letters on their way to the store.
type letterQueue struct {
	wake chan struct{}

	mu      sync.Mutex
	queued  []queuedLetter
	pending int           // queued or being stored
	isFull  atomic.Bool   // full is not nil: asked before each change, so without a lock
	full    chan struct{} // not nil while the queue is full; closed when it no longer is
}

type queuedLetter struct {
	letter *DeadLetter
	change settler
}

// settler is what waits for records to be settled: a change, or a row of a backfill.
type settler interface{ settle(RecordID) }

func (q *letterQueue) put(letters []*DeadLetter, c settler) {
	q.mu.Lock()
	for _, l := range letters {
		q.queued = append(q.queued, queuedLetter{l, c})
	}
	q.pending += len(letters)
	if q.pending >= maxQueuedLetters && q.full == nil {
		q.full = make(chan struct{})
		q.isFull.Store(true)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *letterQueue) take() []queuedLetter {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.queued
	q.queued = nil
	return batch
}

func (q *letterQueue) stored(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending -= n; q.pending < maxQueuedLetters && q.full != nil {
		close(q.full)
		q.full = nil
		q.isFull.Store(false)
	}
}

func (q *letterQueue) room() <-chan struct{} {
	if !q.isFull.Load() {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.full
}
