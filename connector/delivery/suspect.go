package delivery

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// An answer that looks like an outage, or a 403 or 404, may be the endpoint's fault or that of a record in the request. What tells them apart is
// whether the endpoint takes another request that began after the failure.
//
//	fails            its records are a suspect in doubt; the endpoint is down, and one other record is at once its probe
//	probe is taken   the suspect is at fault: it is halved, and the halves are sent; what fails there is halved again
//	probe fails too  it is an outage: what is in doubt goes back to its lane, behind what no outage has met
//	fails again      and all its records have failed before, and another request was taken between: it is at fault too
//	fails alone      it is at fault, and nothing is left to be halved: the record is tried again with a backoff of its own, and takes its
//	                 endpoint down no more
//
// Where no other record is there, a probe takes a single one out of the suspect: so a batch can clear itself of the blame. Where a few records
// are all that could be sent, and keep failing, the endpoint is asked with a request that can't be applied: where it answers, they are at fault, and
// where it does not they wait for ever, as in an outage. Else one such record would hold the checkpoint, and with it the CRM's WAL, until another
// one came along. What is known so is weaker: none of these is set aside early, nor at last before the endpoint has answered again.
//
// A record that fails alone is set aside after giveUpAfter, without the time that its endpoint was down: it has failed alone while its endpoint
// took others, and whenever others were sent since, they were taken.

// blamesRecord reports whether an answer may be the fault of a record in the request. Not what was not even sent, a token or set-up that the
// platform names as wrong, or a redirect.
func blamesRecord(a connector.Answer) bool {
	switch a.Verdict {
	case connector.Outage:
		return !a.NotApplied || a.HTTPStatus != 0
	case connector.SetupWrong:
		const secretWrong, authWrong = "100100", "100300"
		return (a.HTTPStatus == 403 || a.HTTPStatus == 404) && a.Code != secretWrong && a.Code != authWrong
	}
	return false
}

// timedOut reports whether a batch may just have been too large for the platform's pace.
func timedOut(a connector.Answer) bool {
	return a.Verdict == connector.Outage && (a.HTTPStatus == 0 || a.HTTPStatus == 408 || a.HTTPStatus == 504)
}

// failure is what a record remembers of its last failure.
type failure struct {
	since  time.Time // the first one
	number uint64    // of the request that began last before it
	answer connector.Answer
	// uncertain: some request with it may have been applied. alone: it fails alone, and Delivery.failing counts it.
	uncertain, alone bool
}

// suspects are the records of an endpoint that have failed and are kept apart; all of them are taken. Delivery.mu guards them.
type suspects struct {
	doubt []*suspect // by their failures
	parts []*suspect // of suspects that are at fault, to be sent
	alone aloneHeap  // records that fail alone, by retryAt
	aside []*suspect // those of them that are to be set aside
	// busy counts the requests that carry parts or records alone.
	busy int
	// taken is the number of the last request that was taken.
	taken uint64
	// asked is the number that an answer to a request that can't be applied has in this order.
	asked uint64
	// notBefore keeps them from taking all the time of an endpoint that has one sender.
	notBefore time.Time
	// accused is the mapping whose point became uncertain when the endpoint went down.
	accused string
}

// suspect is what a request carried that failed.
type suspect struct {
	items   []*item
	failed  uint64        // of one in doubt: the number of the request that began last before the failure
	since   time.Time     // when the request failed that all its records were in
	wasDown time.Duration // endpoint.downFor at that time

	// The rest is for a record that fails alone.

	age     time.Duration // at its last failure, since since, without the time that the endpoint was down
	retryAt time.Time
	backoff *backoff.ExponentialBackOff
	index   int
	weak    bool // nothing but a request that can't be applied was taken since it failed before
}

// aloneHeap implements heap.Interface.
type aloneHeap []*suspect

func (h aloneHeap) Len() int           { return len(h) }
func (h aloneHeap) Less(i, j int) bool { return h[i].retryAt.Before(h[j].retryAt) }
func (h aloneHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *aloneHeap) Push(x any)        { s := x.(*suspect); s.index = len(*h); *h = append(*h, s) }
func (h *aloneHeap) Pop() any {
	old := *h
	n := len(old) - 1
	s := old[n]
	old[n] = nil
	*h = old[:n]
	return s
}

// waits reports whether something of the endpoint's has failed and is kept apart.
func (s *suspects) waits() bool { return len(s.doubt)+len(s.parts)+len(s.alone)+len(s.aside) > 0 }

// waitsForMore reports whether there is more to be sent than the records that fail alone.
func (e *endpoint) waitsForMore() bool { return len(e.doubt)+len(e.parts) > 0 || e.hasReady() }

// lookSuspect gives what is to be done with a suspect of an endpoint that is up; wait says when there may be something.
func (d *Delivery) lookSuspect(e *endpoint, now time.Time, setsAside bool) (j *job, wait time.Duration) {
	if len(e.aside) > 0 && setsAside {
		s := e.aside[0]
		e.aside = e.aside[1:]
		return &job{end: e, items: s.items, kind: setAside, suspect: s}, 0
	}
	if len(e.parts)+len(e.alone) == 0 || e.busy >= max(1, e.senders/2) {
		return nil, 0
	}
	if wait := e.notBefore.Sub(now); wait > 0 && e.hasReady() {
		return nil, wait
	}
	for len(e.parts) > 0 {
		p := e.parts[0]
		e.parts = e.parts[1:]
		d.batches++
		send, rest := d.queue.part(p.items, d.batches)
		d.queue.giveBack(rest, false)
		if len(send) > 0 {
			e.busy++
			return &job{end: e, items: send, kind: part, suspect: p}, 0
		}
	}
	if len(e.alone) == 0 || e.busy >= max(1, e.senders/4) {
		return nil, 0
	}
	if wait := e.alone[0].retryAt.Sub(now); wait > 0 {
		return nil, wait
	}
	s := heap.Pop(&e.alone).(*suspect)
	e.busy++
	return &job{end: e, items: s.items, kind: alone, suspect: s}, 0
}

// probeApart takes one record out of what is kept apart in list, as the probe of an endpoint that is down. What can't be sent now goes back.
func (d *Delivery) probeApart(e *endpoint, list *[]*suspect) *job {
	for len(*list) > 0 {
		s := (*list)[0]
		i := slices.IndexFunc(s.items, func(it *item) bool { return it.blocked == 0 })
		if i < 0 {
			*list = (*list)[1:]
			d.queue.giveBack(s.items, true)
			continue
		}
		one := s.items[i]
		if s.items = slices.Concat(s.items[:i], s.items[i+1:]); len(s.items) == 0 {
			*list = (*list)[1:]
		}
		return &job{end: e, items: []*item{one}, kind: doubted, probe: true}
	}
	return nil
}

// probeAlone takes a record that fails alone as the probe.
func (d *Delivery) probeAlone(e *endpoint, now time.Time) (j *job, wait time.Duration) {
	if len(e.alone) == 0 {
		return nil, 0
	}
	if wait = e.alone[0].retryAt.Sub(now); wait > 0 {
		return nil, wait
	}
	s := heap.Pop(&e.alone).(*suspect)
	e.busy++
	return &job{end: e, items: s.items, kind: alone, suspect: s, probe: true}, 0
}

// suspected keeps apart what a request carried, after an answer that may be a record's fault.
func (d *Delivery) suspected(j job, a connector.Answer, stranger bool) {
	e, now := j.end, time.Now()
	atFault := e.failedBefore(j.items)
	for _, it := range j.items {
		if it.failure == nil {
			it.failure = &failure{since: now}
		}
		it.failure.number, it.failure.answer = d.requests, a
		it.failure.uncertain = it.failure.uncertain || !a.NotApplied
	}
	if j.kind == alone || len(j.items) == 1 && (j.kind == part || atFault) {
		d.failedAlone(e, j, now)
		return
	}
	s := &suspect{items: j.items, failed: d.requests, since: now, wasDown: e.downFor(now)}
	if whole := j.suspect; whole != nil {
		s.since, s.wasDown = whole.since, whole.wasDown
	}
	if atFault {
		e.halve(s)
		return
	}
	e.doubt = append(e.doubt, s)
	if j.kind == fresh && !j.probe && len(j.items) > 1 && timedOut(a) {
		e.limit = max(1, min(e.limit, len(j.items)/2))
	}
	if j.probe && (stranger || j.kind == fresh || e.fallen > 1) {
		d.acquit(e)
	}
}

// failedBefore reports whether all have failed before, and the endpoint has taken another request since.
func (e *endpoint) failedBefore(items []*item) bool {
	return !slices.ContainsFunc(items, func(it *item) bool { return it.failure == nil || it.failure.number >= e.taken })
}

// askEvery is how many probes fail before an endpoint is asked whether it is there, where there is nothing new to be tried.
// Where more than askMost records fail it is an outage, whatever it answers.
const askEvery, askMost = 10, 10

// allTried reports whether all that could be sent are a few records that were tried and failed.
func (e *endpoint) allTried() bool {
	tried := 0
	for _, l := range e.lanes {
		if l.untried() > 0 || l.tried.len() > 0 && l.peek(true).failure == nil {
			return false
		}
		tried += l.tried.len()
	}
	return tried > 0 && tried <= askMost
}

// askEndpoint asks an endpoint whether it is there, with a request that can't be applied.
func (d *Delivery) askEndpoint(tail context.Context, e *endpoint) {
	a := d.ports.Platform.Probe(tail, e.name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !isTaken(a) {
		d.failed(e, a, true)
		return
	}
	d.requests++
	e.asked, e.taken = d.requests, d.requests
	now := time.Now()
	d.mend(e)
	for _, l := range e.lanes {
		for l.tried.len() > 0 {
			it := l.tried.pop()
			it.taken = true
			e.parts = append(e.parts, &suspect{items: []*item{it}, since: now, wasDown: e.downFor(now)})
		}
	}
}

// isTaken reports whether an answer shows the platform at work.
func isTaken(a connector.Answer) bool {
	switch a.Verdict {
	case connector.Delivered, connector.Partly, connector.Rejected, connector.TooBig:
		return true
	}
	return false
}

// unblamed puts back what a request carried, after an answer that is surely no record's fault.
func (d *Delivery) unblamed(j job) {
	if j.kind == alone {
		j.suspect.retryAt = time.Now().Add(j.suspect.backoff.NextBackOff())
		heap.Push(&j.end.alone, j.suspect)
		return
	}
	d.queue.giveBack(j.items, j.probe)
	j.end.rouse()
}

// acquit gives back what is in doubt: others have failed too, and it is an outage.
func (d *Delivery) acquit(e *endpoint) {
	for _, s := range e.doubt {
		d.queue.giveBack(s.items, true)
	}
	e.doubt, e.accused = nil, ""
}

// convict halves what is in doubt and failed before the request of that number began, which was taken.
func (e *endpoint) convict(number uint64) {
	e.taken = max(e.taken, number)
	e.doubt = slices.DeleteFunc(e.doubt, func(s *suspect) bool {
		if s.failed >= number {
			return false
		}
		e.halve(s)
		return true
	})
}

// halve makes parts of a suspect; of one record, one.
func (e *endpoint) halve(s *suspect) {
	for half := range slices.Chunk(s.items, (len(s.items)+1)/2) {
		e.parts = append(e.parts, &suspect{items: half, since: s.since, wasDown: s.wasDown})
	}
}

// failingAlarm does not begin with delivery/: that would say that nothing is delivered.
const failingAlarm = "failing"

// failedAlone notes that a record has failed alone.
func (d *Delivery) failedAlone(e *endpoint, j job, now time.Time) {
	s, it := j.suspect, j.items[0]
	if j.kind != alone {
		whole := s
		s = &suspect{items: j.items, since: now, wasDown: e.downFor(now), backoff: newBackoff(d.cfg.BackoffInitial, d.cfg.BackoffMax)}
		if whole != nil {
			s.since, s.wasDown = whole.since, whole.wasDown
		}
		if !it.failure.alone {
			it.failure.alone = true
			d.failing++
			d.failingBytes += it.size
		}
	}
	s.weak = e.taken == e.asked
	s.age = now.Sub(s.since) - (e.downFor(now) - s.wasDown)
	d.ports.Alarms.Raise(failingAlarm, fmt.Sprintf("records fail alone while their endpoints take others: %d by now, the last one of mapping %s, position %s, since %s: %s; "+
		"their customers wait, all others flow", d.failing, it.rec.Mapping, it.rec.Position, it.failure.since.UTC().Format(time.RFC3339), said(it.failure.answer)),
		"nothing to do at once: each is set aside as a dead letter after delivery.giveUpAfter; `tuzhan-cdc status` shows the one that holds the checkpoint")
	if s.age >= d.cfg.GiveUpAfter {
		e.aside = append(e.aside, s)
		return
	}
	s.retryAt = now.Add(min(s.backoff.NextBackOff(), d.cfg.GiveUpAfter-s.age))
	heap.Push(&e.alone, s)
	d.relieve()
}

// cleared takes a record off the list of those that fail alone, when it is settled.
func (d *Delivery) cleared(it *item) {
	d.failing--
	d.failingBytes -= it.size
	if d.failing == 0 {
		d.ports.Alarms.Clear(failingAlarm)
	}
}

// relieve has the oldest records that fail alone set aside early, where such records take half of maxPending or its bytes. When there is no
// room any more, those that wait behind them count too: else the many changes of one customer would stop all others.
func (d *Delivery) relieve() {
	half := func(records, bytes int) bool {
		return 2*records >= d.cfg.MaxPending || 2*bytes >= d.cfg.MaxPendingBytes
	}
	full := d.full()
	if d.failing == 0 || !full && !half(d.failing, d.failingBytes) {
		return
	}
	type weighed struct {
		s              *suspect
		end            *endpoint
		records, bytes int
	}
	var all []weighed
	records, bytes := 0, 0
	for _, e := range d.queue.ends {
		for _, s := range e.alone {
			if s.weak {
				continue
			}
			w := weighed{s: s, end: e, records: 1, bytes: s.items[0].size}
			if full {
				w.records, w.bytes = s.items[0].weight()
			}
			records, bytes = records+w.records, bytes+w.bytes
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b weighed) int {
		return cmp.Or(a.s.since.Compare(b.s.since), cmp.Compare(a.s.items[0].serial, b.s.items[0].serial))
	})
	for _, w := range all {
		if !half(records, bytes) {
			return
		}
		records, bytes = records-w.records, bytes-w.bytes
		heap.Remove(&w.end.alone, w.s.index)
		w.end.aside = append(w.end.aside, w.s)
		w.end.rouse()
	}
}

// weight counts the records that wait for it, and itself.
func (it *item) weight() (records, bytes int) {
	records, bytes = 1, it.size
	for i := range it.links {
		for k := it.links[i].next; k != nil; k = k.next {
			records, bytes = records+1, bytes+k.item.size
		}
	}
	return records, bytes
}

// giveUp sets a record aside that fails alone.
func (d *Delivery) giveUp(tail context.Context, j job) {
	it, f := j.items[0], j.items[0].failure
	if s, e := j.suspect, j.end; s.weak && !isTaken(d.ports.Platform.Probe(tail, e.name)) {
		d.mu.Lock()
		defer d.mu.Unlock()
		s.since, s.wasDown, s.age = time.Now(), e.downFor(time.Now()), 0
		s.retryAt = s.since.Add(s.backoff.NextBackOff())
		heap.Push(&e.alone, s)
		e.rouse()
		return
	}
	class, why := connector.ClassFailing, "it failed as in an outage"
	switch {
	case it.rec.Kind == connector.Point && f.uncertain:
		class, why = connector.ClassUncertain, "it failed as in an outage, and may or may not have been applied"
	case f.answer.Verdict == connector.SetupWrong:
		class, why = connector.ClassRejected, "it was refused with 403 or 404, as a web firewall does,"
	}
	reason := fmt.Sprintf("%s whenever it was sent alone, while the platform took other records: set aside after %s", why,
		connector.Span(time.Since(f.since)))
	if j.suspect.age < d.cfg.GiveUpAfter {
		reason += ", before delivery.giveUpAfter, because such records took half of delivery.maxPending or maxPendingBytes"
	}
	mapping := it.rec.Mapping
	if d.letter(tail, it, class, f.answer, reason) && it.retry == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.givenUp(mapping)
	}
}

// holdAfter is how many records of a mapping are set aside in a row because they failed alone, with no delivery between, before it is held.
const holdAfter = 100

// givenUp counts a record that was set aside because it failed alone, and has its mapping held when there were too many in a row.
func (d *Delivery) givenUp(mapping string) {
	c := d.count(mapping)
	if c.inARow++; c.inARow != holdAfter {
		return
	}
	d.ports.Hold(mapping, fmt.Sprintf("%d of its records in a row failed alone and were set aside, and none was delivered between, "+
		"while the platform takes those of other mappings", holdAfter))
}
