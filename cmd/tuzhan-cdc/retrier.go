package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/delivery"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

// retrier sends dead letters again that a command has asked for, through a delivery that runs: beside the stream, or by itself. A letter closes only when all its
// records are delivered.
type retrier struct {
	store    *state.Store
	delivery *delivery.Delivery
	set      *mapping.Set
	mapper   connector.Mapper // its own: a mapper is for one goroutine
	// most and mostBytes bound the records that are in the delivery, and their payloads.
	most, mostBytes int
	keep            time.Duration // closed letters
	alarms          *connector.Alarms
	log             *slog.Logger

	tables map[string]*connector.Table // by its text: a mapper compiles its mappings once for a table
	tidied time.Time
	ended  chan struct{} // a letter has ended

	mu      sync.Mutex
	letters int // in the delivery, with their records and payloads
	records int
	bytes   int
}

const (
	retryPage  = 200
	tidyEvery  = time.Hour
	retryAlarm = "deadletters"
)

// newRetrier fills in what its maker need not give.
func newRetrier(r *retrier) *retrier {
	r.tables, r.ended = map[string]*connector.Table{}, make(chan struct{}, 1)
	return r
}

// run carries out what is asked for until ctx ends; untilDone: or until nothing is left. What the delivery has not ended when ctx ends is taken anew by
// the next run.
func (r *retrier) run(ctx context.Context, untilDone bool) {
	reset := false
	for {
		taken, err := 0, error(nil)
		if !reset {
			err = r.store.ResetRetries(ctx)
			reset = err == nil
		}
		if reset {
			taken, err = r.round(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.alarms.Raise(retryAlarm, "dead letters that are to be sent again can't be read or stored: "+err.Error(), "see to the state; it goes on by itself")
		default:
			r.alarms.Clear(retryAlarm)
		}
		if taken > 0 && err == nil {
			continue
		}
		if untilDone && err == nil && r.idle() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(requestsEvery):
		case <-r.ended:
		}
	}
}

func (r *retrier) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.letters == 0
}

// round takes some letters, and gives how many.
func (r *retrier) round(ctx context.Context) (int, error) {
	if r.keep > 0 && time.Since(r.tidied) > tidyEvery {
		n, err := r.store.Tidy(ctx, time.Now().Add(-r.keep))
		if err != nil {
			return 0, err
		}
		r.tidied = time.Now()
		if n > 0 {
			r.log.Info("closed dead letters deleted, which are older than state.keepDeadLetters", "letters", n)
		}
	}
	letters, err := r.store.TakeRetries(ctx, retryPage)
	if err != nil {
		return 0, err
	}
	for _, l := range letters {
		if err := r.send(ctx, l); err != nil {
			return 0, err
		}
	}
	return len(letters), nil
}

// retried is a letter whose records are in the delivery.
type retried struct {
	letter *connector.DeadLetter
	bytes  int
	sent   int

	mu     sync.Mutex
	left   int
	failed *connector.DeadLetter // the last of its records that was set aside again
	most   int                   // attempts of a record
}

// send makes the letter's records and hands them to the delivery, or ends the letter at once.
func (r *retrier) send(ctx context.Context, l *connector.DeadLetter) error {
	if l.Overtaken && !l.Anyway {
		return r.end(l, func(l *connector.DeadLetter) { l.Retried = overtakenText })
	}
	records, problem, unmapped := r.recordsOf(l)
	switch {
	case problem != "":
		return r.end(l, func(l *connector.DeadLetter) {
			l.Retried = problem
			if unmapped && l.Class == connector.ClassMapping {
				l.Reason, l.Attempts = problem, l.Attempts+1
			}
		})
	case len(records) == 0:
		return r.end(l, func(l *connector.DeadLetter) {
			l.Closed, l.Resolution, l.Retried = time.Now().UTC(), connector.ResolvedPassedOver, ""
		})
	}
	t := &retried{letter: l, left: len(records), sent: len(records)}
	for _, rec := range records {
		t.bytes += len(rec.Payload)
	}
	if !r.reserve(ctx, t) {
		return ctx.Err()
	}
	retry := &delivery.Retry{
		Intend: func(ctx context.Context, rec *connector.Record) error { return r.store.Sending(ctx, l, rec.Payload) },
		Void:   func() { r.store.NotSent(l) },
		Done:   func(again *connector.DeadLetter) { r.done(t, again) },
		Anyway: l.Anyway,
	}
	if r.delivery.Resubmit(records, retry) {
		return nil
	}
	r.release(t)
	return r.end(l, func(l *connector.DeadLetter) { l.Overtaken, l.Retried = true, overtakenText })
}

const overtakenText = "not sent: a newer group relation of the same customer has overtaken it (--anyway sends it all the same)"

// recordsOf gives the records that a letter stands for, or the problem with it; unmapped: the mapping could not map its change. None: the mapping wants
// nothing of the change any more.
func (r *retrier) recordsOf(l *connector.DeadLetter) (records []*connector.Record, problem string, unmapped bool) {
	if l.Change == nil {
		if len(l.Payload) == 0 {
			return nil, "not sent: its payload is not known; find the customer by the commit time, and close the letter with `tuzhan-cdc deadletters drop`", false
		}
		return []*connector.Record{{RecordID: l.RecordID, Kind: l.Kind, Payload: l.Payload, Envelope: l.Envelope, OptType: l.OptType, Keys: l.Keys,
			Decrease: l.Decrease, Table: l.Table}}, "", false
	}
	c, err := mapping.ParseChange(l.Change)
	if err != nil {
		return nil, err.Error(), false
	}
	table := ""
	for _, m := range r.set.List() {
		if m.Name == l.Mapping {
			table = m.Table
		}
	}
	switch {
	case table == "":
		return nil, fmt.Sprintf("mapping %s is gone from the file: put it back and retry, or drop the letter", l.Mapping), false
	case table != c.Table.String():
		return nil, fmt.Sprintf("mapping %s reads table %s now, and the change is one of %s: drop the letter, or let a mapping of that name read that table",
			l.Mapping, table, c.Table), false
	}
	// The letter's name, as the store knows it: a change of JSON has no more than that.
	c.Position, c.CommitTime = l.Position, l.CommitTime
	shape := fmt.Sprintf("%+v", *c.Table)
	if known := r.tables[shape]; known != nil {
		c.Table = known
	} else {
		r.tables[shape] = c.Table
	}
	var out connector.Output
	r.mapper.Map(c, connector.Part{Only: l.Mapping}, &out)
	for _, again := range out.Unrecorded() {
		return nil, again.Reason, true
	}
	return out.Records, "", false
}

// reserve waits until there is room for the letter's records.
func (r *retrier) reserve(ctx context.Context, t *retried) bool {
	for {
		r.mu.Lock()
		if r.letters == 0 || r.records+t.sent <= r.most && r.bytes+t.bytes <= r.mostBytes {
			r.letters, r.records, r.bytes = r.letters+1, r.records+t.sent, r.bytes+t.bytes
			r.mu.Unlock()
			return true
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return false
		case <-r.ended:
		}
	}
}

func (r *retrier) release(t *retried) {
	r.mu.Lock()
	r.letters, r.records, r.bytes = r.letters-1, r.records-t.sent, r.bytes-t.bytes
	r.mu.Unlock()
	select {
	case r.ended <- struct{}{}:
	default:
	}
}

// done takes the end of one record.
func (r *retrier) done(t *retried, again *connector.DeadLetter) {
	t.mu.Lock()
	t.left--
	attempts := 1
	if again != nil {
		t.failed, attempts = again, again.Attempts
	}
	t.most = max(t.most, attempts)
	last := t.left == 0
	t.mu.Unlock()
	if !last {
		return
	}
	if err := r.end(t.letter, func(l *connector.DeadLetter) { t.outcome(l) }); err != nil {
		r.log.Error("what became of a dead letter can't be stored", "id", t.letter.ID, "error", err)
	}
	r.release(t)
}

// outcome writes into the letter what became of its records. One that holds its change stays of class mapping, so that the next retry maps it again; unless its
// point may have been applied.
func (t *retried) outcome(l *connector.DeadLetter) {
	l.Attempts += t.most
	again := t.failed
	if again == nil {
		l.Closed, l.Resolution, l.Retried = time.Now().UTC(), connector.ResolvedDelivered, ""
		return
	}
	l.Answer, l.Reason, l.Retried = again.Answer, again.Reason, again.Reason
	switch {
	case l.Change == nil:
		l.Class = again.Class
	case again.Class == connector.ClassUncertain:
		l.Class, l.Payload = again.Class, again.Payload
	default:
		l.Class, l.Payload = connector.ClassMapping, nil
		l.Reason = "mapped again, but: " + again.Reason
	}
}

// end stores what became of a letter.
func (r *retrier) end(letter *connector.DeadLetter, change func(*connector.DeadLetter)) error {
	l := *letter
	change(&l)
	attrs := []any{"id", l.ID, "class", l.Class, "mapping", l.Mapping, "table", l.Table, "position", l.Position}
	if l.Closed.IsZero() {
		r.log.Warn("dead letter stays open", append(attrs, "reason", l.Retried)...)
	} else {
		r.log.Info("dead letter closed", append(attrs, "resolution", l.Resolution)...)
	}
	return r.store.EndRetry(&l)
}
