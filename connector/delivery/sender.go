package delivery

import (
	"context"
	"fmt"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// job is what a sender does next: a batch to send, or (no items) a probe that can't be applied.
type job struct {
	end   *endpoint
	items []*item
	probe bool
}

// next waits for work on e. It returns false when ctx ended.
func (d *Delivery) next(ctx context.Context, e *endpoint) (job, bool) {
	for {
		if ctx.Err() != nil {
			return job{}, false
		}
		d.mu.Lock()
		j, wait := d.look(e)
		d.mu.Unlock()
		if j != nil {
			return *j, true
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-timer:
		}
	}
}

// look takes what e may send now. With no job, wait says when to look again; 0: when roused.
func (d *Delivery) look(e *endpoint) (j *job, wait time.Duration) {
	l := e.choose(e.most, d.queue.serial, patience)
	if l == nil || d.paused {
		return nil, 0
	}
	if e.down {
		if e.probing {
			return nil, 0
		}
		if wait := time.Until(e.retryAt); wait > 0 {
			return nil, wait
		}
		e.probing = true
		if e.takesPoints() && e.verdict == connector.Outage && e.refused < probesBeforePoint {
			return &job{end: e, probe: true}, 0
		}
		return &job{end: e, probe: true, items: d.take(l, 1)}, 0
	}
	if l.len() < e.most && !d.eager {
		return nil, 0
	}
	j = &job{end: e, items: d.take(l, e.most)}
	if e.hasReady() {
		e.rouse() // for the next sender
	}
	return j, 0
}

func (d *Delivery) take(l *lane, most int) []*item {
	d.batches++
	const frame = 64 // bytes of a request around envelope and payloads
	return d.queue.take(l, d.batches, most, d.cfg.MaxBatchBytes-len(l.key.envelope)-frame)
}

// do sends a job and acts on the answer. ctx says whether to begin anything new, tail lives on for what is in flight.
func (d *Delivery) do(ctx, tail context.Context, j job) {
	if len(j.items) == 0 {
		a := d.ports.Platform.Probe(tail, j.end.name)
		d.mu.Lock()
		j.end.probing = false
		if a.Verdict == connector.Outage {
			j.end.refused++
		}
		d.mu.Unlock()
		d.note(j.end, a, true)
		return
	}
	d.deliver(ctx, tail, j.end, j.items, j.probe)
	if j.probe {
		d.mu.Lock()
		j.end.probing = false
		d.mu.Unlock()
		j.end.rouse()
	}
}

// deliver sends items as one request and acts on the answer; a rejected batch is halved until the culprits stand alone. It
// returns false when the endpoint takes nothing now; each of the items is then settled or back in the queue (but for a store that
// failed until the end: then they come again after the next start).
//
// The halves go one after the other on this sender, so that the order of a customer's records holds across them.
func (d *Delivery) deliver(ctx, tail context.Context, e *endpoint, items []*item, probe bool) bool {
	if e.takesPoints() && (!d.intend(ctx, tail, items) || ctx.Err() != nil) {
		d.void(items) // whatever is on disk: nothing left
		d.giveBack(items, false)
		return false
	}
	req := &connector.Request{Endpoint: e.name, Envelope: items[0].lane.key.envelope, Records: make([]*connector.Record, len(items))}
	for i, it := range items {
		req.Records[i] = it.rec
		it.attempts++
	}
	a := d.ports.Platform.Send(tail, req)
	d.note(e, a, probe)
	switch a.Verdict {
	case connector.Delivered:
		d.outcome(items)
		d.settle(items, func(int) bool { return true })
		return true
	case connector.Partly:
		return d.partly(tail, items, a)
	case connector.Rejected, connector.TooBig:
		if len(items) == 1 {
			return d.letter(tail, items, connector.ClassRejected, a, "the platform refused this record alone")
		}
		return d.split(ctx, tail, e, items)
	}
	if e.takesPoints() && !a.NotApplied {
		if !items[0].rec.Resend {
			d.letter(tail, items, connector.ClassUncertain, a,
				"the request left and no answer told whether the point was applied: look the customer's points up on the platform")
			return false
		}
	} else {
		d.void(items)
	}
	d.giveBack(items, probe)
	return false
}

// split delivers the halves of a batch that was refused as a whole.
func (d *Delivery) split(ctx, tail context.Context, e *endpoint, items []*item) bool {
	half := len(items) / 2
	for _, part := range [][2]int{{0, half}, {half, len(items)}} {
		if ctx.Err() != nil {
			d.giveBack(items[part[0]:], false)
			return false
		}
		if !d.deliver(ctx, tail, e, items[part[0]:part[1]], false) {
			d.giveBack(items[part[1]:], false)
			return false
		}
	}
	return true
}

// partly sets aside the records that the platform names as failed and settles all, in their order.
func (d *Delivery) partly(tail context.Context, items []*item, a connector.Answer) bool {
	letters := make([]*connector.DeadLetter, len(a.Failed))
	failed := map[int]bool{}
	for i, f := range a.Failed {
		failed[f] = true
		letters[i] = letterOf(items[f], connector.ClassRejected, a, "the platform imported the batch but for this record")
	}
	if !d.setAside(tail, letters) {
		return false
	}
	d.settle(items, func(i int) bool { return !failed[i] })
	return true
}

// letter sets one record aside and settles it.
func (d *Delivery) letter(tail context.Context, items []*item, class connector.Class, a connector.Answer, reason string) bool {
	if !d.setAside(tail, []*connector.DeadLetter{letterOf(items[0], class, a, reason)}) {
		return false
	}
	d.settle(items, func(int) bool { return false })
	return true
}

func letterOf(it *item, class connector.Class, a connector.Answer, reason string) *connector.DeadLetter {
	answer := &connector.LetterAnswer{HTTPStatus: a.HTTPStatus, Code: a.Code, Msg: a.Msg}
	if a.Err != nil {
		answer.Error = a.Err.Error()
	}
	return it.rec.Letter(class, reason, answer, it.attempts)
}

// intend has the intents of points on disk before they leave; false when ctx ended first, and then they may be there or not.
func (d *Delivery) intend(ctx, tail context.Context, items []*item) bool {
	ids := make([]connector.RecordID, len(items))
	for i, it := range items {
		ids[i] = it.rec.RecordID
	}
	return d.insist(ctx, "the intents of points can't be stored", func() error { return d.ports.Store.Intend(tail, ids) })
}

// outcome notes that points were applied.
func (d *Delivery) outcome(items []*item) {
	for _, it := range items {
		if it.rec.Kind == connector.Point {
			d.ports.Store.Outcome(it.rec.RecordID, true)
		}
	}
}

// void takes back the intents of points that were surely not applied.
func (d *Delivery) void(items []*item) {
	for _, it := range items {
		if it.rec.Kind == connector.Point {
			d.ports.Store.Outcome(it.rec.RecordID, false)
		}
	}
}

// giveBack returns items to the queue; last lets others go first.
func (d *Delivery) giveBack(items []*item, last bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue.giveBack(items, last)
	for _, it := range items {
		it.lane.end.rouse()
	}
}

// note lets an endpoint know how it fares, and the operator too.
func (d *Delivery) note(e *endpoint, a connector.Answer, probe bool) {
	key := "delivery/" + e.name.String()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch a.Verdict {
	case connector.Delivered, connector.Partly, connector.Rejected, connector.TooBig:
		if e.mend() {
			d.ports.Alarms.Clear(key)
			for range e.senders {
				e.rouse()
			}
		}
		return
	}
	e.fail(a, time.Now(), probe)
	text, cure := explain(e, a)
	d.ports.Alarms.Raise(key, text, cure)
	e.rouse() // someone has to wait for retryAt
}

// explain says in plain words why an endpoint is down, and what to do.
func explain(e *endpoint, a connector.Answer) (text, cure string) {
	what := fmt.Sprintf("the platform's endpoint %s (platform.paths.%s)", e.name, e.name)
	said := fmt.Sprintf("HTTP %d, code %q", a.HTTPStatus, a.Code)
	if a.Err != nil {
		said = a.Err.Error()
	}
	switch a.Verdict {
	case connector.TokenRefused:
		return what + " refuses the token, a fresh one too: " + said,
			"check platform.appID and appSecret (or token) with `tuzhan-cdc check`; delivery goes on by itself when the token is taken"
	case connector.SetupWrong:
		return what + " refuses the set-up: " + said,
			"check platform.baseURL, platform.paths and the app's rights with `tuzhan-cdc check`; nothing is lost, changes wait"
	case connector.SlowDown:
		return what + " asks to slow down: " + said, "nothing to do; or set platform.requestsPerSecond"
	}
	return what + " is not to be reached or fails: " + said, "nothing to do here: changes wait in PostgreSQL and delivery goes on by itself"
}
