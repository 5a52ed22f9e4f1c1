package delivery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// job is what a sender does next: a batch to send, or (no items) a probe that can't be applied.
type job struct {
	end     *endpoint
	items   []*item
	kind    kind
	suspect *suspect // for part, alone and setAside
	probe   bool     // the endpoint is down
	trial   bool     // delivery is paused
}

// kind says where the items of a job come from.
type kind uint8

const (
	fresh    kind = iota // a lane
	doubted              // a suspect in doubt
	part                 // half of a suspect that is at fault
	alone                // a record that fails alone
	setAside             // the same, to be set aside without another request
	ask                  // none: the endpoint is asked whether it is there
)

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

// gather is how long a batch that is not full waits for more while another request of its endpoint, which began no earlier, is on its way. A source that
// hands over row by row would else have each row sent by the next idle sender, each in a request of its own: 20 µs of CPU a row instead of 2.
const gather = 2 * time.Millisecond

// look takes what e may send now. With no job, wait says when to look again; 0: when roused.
func (d *Delivery) look(e *endpoint) (j *job, wait time.Duration) {
	if !e.waits() && !e.hasReady() {
		return nil, 0
	}
	now := time.Now()
	if d.pause.on() {
		return d.lookPaused(e, now)
	}
	if e.down {
		return d.lookDown(e, now)
	}
	if e.waits() {
		if j, wait = d.lookSuspect(e, now, true); j != nil {
			e.rouse() // for the next sender
			return j, 0
		}
	}
	most := min(e.most, e.limit)
	l := e.chooseFirst(most, d.queue.serial, func(l *lane) bool { return l.len() >= most || d.eager })
	if l == nil {
		if len(e.doubt) > 0 && e.flying == 0 {
			// Nobody is there to tell whether they are at fault: they have to do it themselves.
			e.down, e.doubtful, e.since, e.retryAt = true, true, now, now
			return d.lookDown(e, now)
		}
		return nil, wait
	}
	if l.len() < most {
		if !d.eager {
			return nil, wait
		}
		if since := now.Sub(e.began); e.flying > 0 && since < gather {
			return nil, gather - since
		}
	}
	j = &job{end: e, items: d.take(l, most, false)}
	e.began = now // else another sender, that looks before this one has sent, would not wait
	d.openRoom()
	if e.hasReady() || e.waits() {
		e.rouse()
	}
	return j, 0
}

// lookDown takes the probe of an endpoint that is down.
func (d *Delivery) lookDown(e *endpoint, now time.Time) (j *job, wait time.Duration) {
	if e.probing {
		return nil, 0
	}
	l := e.chooseProbe()
	if wait = e.retryAt.Sub(now); wait > 0 && !e.atOnce(l) {
		return nil, wait
	}
	if e.fallen%askEvery == askEvery-1 && e.allTried() {
		e.probing = true
		return &job{end: e, kind: ask, probe: true}, 0
	}
	if e.takesPoints() && e.verdict == connector.Outage {
		if !e.answered && e.refused < probesBeforePoint {
			e.probing = true
			return &job{end: e, probe: true}, 0
		}
		if wait = e.realAt.Sub(now); wait > 0 {
			return nil, wait
		}
	}
	if l == nil || l.untried() == 0 {
		j = d.probeApart(e, &e.doubt)
	}
	if j == nil && l != nil {
		j = &job{end: e, items: d.take(l, 1, true), probe: true}
	}
	if j == nil {
		j = d.probeApart(e, &e.parts)
	}
	if j == nil {
		j, wait = d.probeAlone(e, now)
	}
	if j != nil {
		e.probing = true
	}
	return j, wait
}

// atOnce reports whether the first probe goes out without a wait: the endpoint may be well, and a record of the request that failed at fault.
func (e *endpoint) atOnce(l *lane) bool {
	return e.doubtful && (l != nil && l.untried() > 0 || e.fallen == 0 && len(e.doubt) > 0 && len(e.doubt[0].items) > 1)
}

func (d *Delivery) take(l *lane, most int, probe bool) []*item {
	d.batches++
	const frame = 64 // bytes of a request around envelope and payloads
	return d.queue.take(l, d.batches, most, d.cfg.MaxBatchBytes-len(l.key.envelope)-frame, probe)
}

// do does a job and notes that it is done. ctx says whether to begin anything new, tail lives on for what is in flight.
func (d *Delivery) do(ctx, tail context.Context, j job) {
	began := time.Now()
	switch {
	case j.kind == setAside:
		d.giveUp(tail, j)
	case j.kind == ask:
		d.askEndpoint(tail, j.end)
	case len(j.items) == 0:
		d.probePoints(tail, j.end)
	default:
		d.deliver(ctx, tail, j)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e := j.end
	if j.probe {
		e.probing = false
		e.rouse()
	}
	if j.trial {
		d.pause.tried(time.Now().Add(d.cfg.BackoffMax))
		d.rouse()
	}
	if j.kind == part || j.kind == alone {
		e.busy--
		if e.senders == 1 {
			e.notBefore = time.Now().Add(3 * time.Since(began))
		}
		e.rouse()
	}
	if len(e.doubt) > 0 {
		e.rouse()
	}
}

// probePoints asks an endpoint for points whether it is back, with a request that can't be applied. Where it answers, one real point is next.
func (d *Delivery) probePoints(tail context.Context, e *endpoint) {
	a := d.ports.Platform.Probe(tail, e.name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if isTaken(a) {
		e.answered, e.refused, e.retryAt = true, 0, time.Now()
		return
	}
	if a.Verdict == connector.Outage {
		e.refused++
		e.doubtful = false
		d.acquit(e)
	}
	d.failed(e, a, true)
}

// deliver sends a job's items as one request and acts on the answer; a rejected batch is halved until the culprits stand alone. It
// returns false when the endpoint takes nothing more now; each of the items is then settled, kept apart or back in the queue (but for a store
// that failed until the end: then they come again after the next start).
//
// The halves go one after the other on this sender, so that the order of a customer's records holds across them.
func (d *Delivery) deliver(ctx, tail context.Context, j job) bool {
	e, items := j.end, j.items
	if e.takesPoints() && (!d.intend(ctx, tail, items) || ctx.Err() != nil) {
		d.void(items) // whatever is on disk: nothing left
		d.giveBack(items, false)
		return false
	}
	stranger := j.kind == fresh && items[0].failure == nil
	req := &connector.Request{Endpoint: e.name, Envelope: items[0].lane.key.envelope, Records: make([]*connector.Record, len(items))}
	began := time.Now()
	d.mu.Lock()
	for i, it := range items {
		req.Records[i] = it.rec
		it.attempts++
	}
	d.requests++
	number := d.requests
	e.flying++
	e.began = began
	d.mu.Unlock()
	a := d.ports.Platform.Send(tail, req)
	if a.Left() {
		d.carried(items)
	}
	switch a.Verdict {
	case connector.Delivered:
		d.taken(j, number, true)
		d.outcome(items)
		return d.settle(items, nil)
	case connector.Partly:
		d.taken(j, number, false)
		if j.trial && len(a.Failed) == len(items) {
			d.giveBack(items, true)
			return false
		}
		return d.partly(tail, items, a)
	case connector.Rejected, connector.TooBig:
		d.taken(j, number, false)
		switch {
		case len(items) > 1:
			return d.split(ctx, tail, j)
		case j.trial && a.NotApplied:
			d.void(items)
			d.giveBack(items, true)
			return false
		}
		return d.letter(tail, items[0], connector.ClassRejected, a, "the platform refused this record alone")
	}
	return d.refused(tail, j, a, stranger)
}

// carried notes that a request has left with items, and counts those that an earlier one had carried. They are the caller's.
func (d *Delivery) carried(items []*item) {
	again := false
	for _, it := range items {
		again = again || it.carried
	}
	if again {
		d.mu.Lock()
		defer d.mu.Unlock()
	}
	for _, it := range items {
		if it.carried {
			d.count(it.rec.Mapping).Retries.Add(1)
		}
		it.carried = true
	}
}

// refused acts on an answer that is no verdict on the records, or not surely.
func (d *Delivery) refused(tail context.Context, j job, a connector.Answer, stranger bool) bool {
	e, items := j.end, j.items
	uncertain := e.takesPoints() && !a.NotApplied
	if !uncertain {
		d.void(items)
	}
	aside := uncertain && !items[0].rec.Resend
	blames := blamesRecord(a)
	d.mu.Lock()
	apart := j.kind == part || j.kind == alone || e.failedBefore(items)
	e.flying--
	switch {
	case aside && !e.down && blames:
		e.accused = items[0].rec.Mapping
	case j.probe && stranger:
		e.doubtful = false
	}
	if uncertain && j.probe {
		e.realWait = min(max(2*e.realWait, d.cfg.BackoffInitial), d.cfg.BackoffMax)
		if !e.answered {
			e.realWait = d.cfg.BackoffMax
		}
		e.refused, e.answered, e.realAt = 0, false, time.Now().Add(e.realWait)
	}
	// What is kept apart takes its endpoint down no more: it is expected to fail. Nor does it keep it down where nothing else is there.
	switch {
	case !blames || !apart || j.probe && (j.kind != alone || e.waitsForMore()):
		d.failed(e, a, j.probe)
	case j.probe:
		d.mend(e)
	}
	if !aside {
		if blames {
			d.suspected(j, a, stranger)
		} else {
			d.unblamed(j)
		}
	}
	d.mu.Unlock()
	if aside {
		d.letter(tail, items[0], connector.ClassUncertain, a,
			"the request left and no answer told whether the point was applied: look the customer's points up on the platform")
	}
	return false
}

// taken notes that the endpoint has taken a request, whatever it said of the records; whole: all of them were delivered.
func (d *Delivery) taken(j job, number uint64, whole bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := j.end
	e.flying--
	if e.accused != "" && e.doubtful {
		d.givenUp(e.accused)
	}
	e.accused = ""
	e.convict(number)
	if whole && j.trial {
		d.endPause()
	}
	if whole && len(j.items) >= e.limit && e.limit < e.most {
		e.limit = min(e.most, e.limit+max(1, e.limit/8))
	}
	d.mend(e)
	if len(e.parts) > 0 {
		e.rouse()
	}
}

// mend notes that an endpoint is up.
func (d *Delivery) mend(e *endpoint) {
	if e.mend(time.Now()) {
		d.ports.Alarms.Clear("delivery/" + e.name.String())
		e.rouseAll()
	}
}

// failed notes that an endpoint takes nothing now, and tells the operator unless one record may be to blame.
func (d *Delivery) failed(e *endpoint, a connector.Answer, probe bool) {
	e.fail(a, time.Now(), probe)
	if probe || !e.doubtful {
		text, cure := explain(e, a)
		d.ports.Alarms.Raise("delivery/"+e.name.String(), text, cure)
	}
	e.rouse() // someone has to wait for retryAt
}

// split delivers the halves of a batch that was refused as a whole.
func (d *Delivery) split(ctx, tail context.Context, j job) bool {
	items, half := j.items, len(j.items)/2
	kind := fresh
	if j.kind == part {
		kind = part // and its suspect: what fails there has failed since that did
	}
	for _, side := range [][2]int{{0, half}, {half, len(items)}} {
		if ctx.Err() != nil || d.stopped(j) {
			d.giveBack(items[side[0]:], false)
			return false
		}
		if !d.deliver(ctx, tail, job{end: j.end, items: items[side[0]:side[1]], kind: kind, suspect: j.suspect}) {
			d.giveBack(items[side[1]:], false)
			return false
		}
	}
	return true
}

// partly sets aside the records that the platform names as failed and settles all, in their order.
func (d *Delivery) partly(tail context.Context, items []*item, a connector.Answer) bool {
	letters := make(map[*item]*connector.DeadLetter, len(a.Failed))
	for _, f := range a.Failed {
		letters[items[f]] = letterOf(items[f], connector.ClassRejected, a, "the platform imported the batch but for this record")
	}
	return d.setAside(tail, letters) && d.settle(items, letters)
}

// letter sets one record aside and settles it.
func (d *Delivery) letter(tail context.Context, it *item, class connector.Class, a connector.Answer, reason string) bool {
	letters := map[*item]*connector.DeadLetter{it: letterOf(it, class, a, reason)}
	return d.setAside(tail, letters) && d.settle([]*item{it}, letters)
}

func letterOf(it *item, class connector.Class, a connector.Answer, reason string) *connector.DeadLetter {
	answer := &connector.LetterAnswer{HTTPStatus: a.HTTPStatus, Code: a.Code, Msg: a.Msg}
	if a.Err != nil {
		answer.Error = a.Err.Error()
	}
	return it.rec.Letter(class, reason, answer, int(it.attempts))
}

// intend has the intents of points on disk before they leave; false when ctx ended first, and then they may be there or not.
func (d *Delivery) intend(ctx, tail context.Context, items []*item) bool {
	ids := make([]connector.RecordID, len(items))
	for i, it := range items {
		ids[i] = it.rec.RecordID
	}
	return d.insist(ctx, "the intents of points can't be stored", func() error {
		if retry := items[0].retry; retry != nil { // points go one a request
			return retry.Intend(tail, items[0].rec)
		}
		return d.ports.Store.Intend(tail, ids)
	})
}

// outcome notes that points were applied.
func (d *Delivery) outcome(items []*item) {
	for _, it := range items {
		if it.rec.Kind == connector.Point && it.retry == nil {
			d.ports.Store.Outcome(it.rec.RecordID, true)
		}
	}
}

// void takes back the intents of points that were surely not applied.
func (d *Delivery) void(items []*item) {
	for _, it := range items {
		switch {
		case it.rec.Kind != connector.Point || it.failure != nil && it.failure.uncertain:
		case it.retry != nil:
			it.retry.Void()
		default:
			d.ports.Store.Outcome(it.rec.RecordID, false)
		}
	}
}

// giveBack returns items to the queue: in front of the others, or among those that were tried.
func (d *Delivery) giveBack(items []*item, tried bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue.giveBack(items, tried)
	for _, it := range items {
		it.lane.end.rouse()
	}
}

// explain says in plain words why an endpoint is down, and what to do.
func explain(e *endpoint, a connector.Answer) (text, cure string) {
	what := fmt.Sprintf("the platform's endpoint %s (platform.paths.%s)", e.name, e.name)
	switch {
	case a.Code == "100100": // the platform's APPID_SECRET_ERROR, which the token call gives
		return what + " gets no token: app id or app secret is wrong: " + said(a),
			"mend platform.appID and appSecret and reload (appSecretFile is read again by itself); `tuzhan-cdc check` tries them. Changes wait"
	}
	switch a.Verdict {
	case connector.TokenRefused:
		return what + " refuses the token, a fresh one too: " + said(a),
			"check platform.appID and appSecret (or token) with `tuzhan-cdc check`; delivery goes on by itself when the token is taken"
	case connector.SetupWrong:
		return what + " refuses the set-up: " + said(a),
			"check platform.baseURL, platform.paths and the app's rights with `tuzhan-cdc check`; nothing is lost, changes wait"
	case connector.SlowDown:
		return what + " asks to slow down: " + said(a), "nothing to do; or set platform.requestsPerSecond"
	}
	what += " is not to be reached or fails: " + said(a)
	const waits = "changes wait in PostgreSQL, and delivery is tried again by itself"
	var untrusted *tls.CertificateVerificationError
	switch cure := told(a); {
	case cure != "" && (e.worked.IsZero() || errors.As(a.Err, &untrusted)): // waiting may cure nothing
		return what, cure + " Nothing is lost: " + waits
	case e.worked.IsZero():
		return what, "nothing to do here: " + waits
	}
	return what, "nothing to do here: it worked until " + e.worked.Local().Format(time.DateTime) + "; " + waits
}

// teller is an error that tells apart what happened and what to look at.
type teller interface {
	error
	Told() (what, cure string)
}

// told gives what an answer's error says is to be looked at.
func told(a connector.Answer) (cure string) {
	var t teller
	if errors.As(a.Err, &t) {
		_, cure = t.Told()
	}
	return cure
}

// said tells of an answer without what may quote a record, and without a cure.
func said(a connector.Answer) string {
	var t teller
	if errors.As(a.Err, &t) {
		what, _ := t.Told()
		return what
	}
	if a.Err != nil {
		return a.Err.Error()
	}
	if a.Code == "" {
		return fmt.Sprintf("HTTP %d", a.HTTPStatus)
	}
	return fmt.Sprintf("HTTP %d, code %s", a.HTTPStatus, a.Code)
}
