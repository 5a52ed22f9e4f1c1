package delivery

import (
	"context"
	"fmt"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// pause is what stops all sending before the store fills up with dead letters: more than MaxDeadLetters are open, or more than half of
// rejectedOf records in a row were rejected. Delivery.mu guards it.
//
// While it lasts one record is tried every BackoffMax: where that is delivered the pause ends, and where it is rejected it goes behind the
// others and no dead letter is made of it. Resume ends a pause too. Dead letters that are sent again pass it.
type pause struct {
	letters, rejected bool
	trying            bool               // a trial record is on its way
	tryAt             time.Time          // not before
	end               connector.Endpoint // where the trial is to come from, if there is something: what was set aside last
	admit             bool               // nothing is there to be tried: the next change may be read

	open int // dead letters that count, as far as known
	most int // of them before there is a pause
	// last says of the last records whether they were rejected: a ring of at most rejectedOf.
	last  []bool
	next  int
	count int // of the rejected among them
}

// rejectedOf is how many records in a row are looked at.
const rejectedOf = 1000

func (p *pause) on() bool { return p.letters || p.rejected }

// note notes what became of a record.
func (p *pause) note(rejected bool) {
	if len(p.last) < rejectedOf {
		p.last = append(p.last, rejected)
	} else {
		if p.last[p.next] {
			p.count--
		}
		p.last[p.next] = rejected
		p.next = (p.next + 1) % rejectedOf
	}
	if rejected {
		p.count++
	}
}

// tried notes that the trial record is done with; the next one goes not before at.
func (p *pause) tried(at time.Time) { p.trying, p.tryAt = false, at }

// admits lets one change through while there is no room.
func (p *pause) admits() bool {
	admit := p.admit
	p.admit = false
	return admit
}

const (
	lettersAlarm  = "delivery/deadletters"
	rejectedAlarm = "delivery/rejected"
)

// delivered notes that so many records were delivered. What came before the first rejection does not matter.
func (p *pause) delivered(n int) {
	for i := 0; i < n && p.count > 0; i++ {
		p.note(false)
	}
}

// endPause goes on.
func (d *Delivery) endPause() {
	if d.pause.rejected {
		d.pause.last, d.pause.next, d.pause.count = nil, 0, 0
	}
	if d.pause.on() {
		d.ports.Log.Info("delivery goes on")
	}
	d.pause.letters, d.pause.rejected, d.pause.admit = false, false, false
	d.ports.Alarms.Clear(lettersAlarm)
	d.ports.Alarms.Clear(rejectedAlarm)
	d.openRoom()
	for _, e := range d.queue.ends {
		e.rouseAll()
	}
}

// rouse lets a sender of each endpoint look: any of them may have to wait for the next trial.
func (d *Delivery) rouse() {
	for _, e := range d.queue.ends {
		e.rouse()
	}
}

// Resume ends a pause. Of the dead letters that are open, MaxDeadLetters more may come until the next one.
func (d *Delivery) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pause.most = d.pause.open + d.cfg.MaxDeadLetters
	d.pause.last, d.pause.next, d.pause.count = nil, 0, 0
	d.endPause()
}

// Lettered tells of dead letters that count and that another than this Delivery has stored.
func (d *Delivery) Lettered(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pause.open += n
	d.checkLetters()
}

// checkLetters begins a pause where too many dead letters are open.
func (d *Delivery) checkLetters() {
	if d.pause.open <= d.pause.most {
		return
	}
	if !d.pause.letters {
		d.pause.letters = true
		d.pause.tryAt = time.Now().Add(d.cfg.BackoffMax)
		d.rouse()
	}
	d.ports.Alarms.Raise(lettersAlarm, fmt.Sprintf("delivery is paused: %d dead letters are open, delivery.maxDeadLetters is %d; one record is tried every %s",
		d.pause.open, d.cfg.MaxDeadLetters, d.cfg.BackoffMax),
		"look at them with `tuzhan-cdc deadletters list` and mend the cause; delivery goes on when there are fewer, when a record that is tried is delivered, "+
			"or with `tuzhan-cdc resume`")
}

// checkRejected begins a pause where too many records were rejected.
func (d *Delivery) checkRejected() {
	if !d.cfg.PauseWhenRejected || d.pause.rejected || d.pause.count <= rejectedOf/2 {
		return
	}
	d.pause.rejected = true
	d.pause.tryAt = time.Now().Add(d.cfg.BackoffMax)
	d.rouse()
	d.ports.Alarms.Raise(rejectedAlarm, fmt.Sprintf("delivery is paused: of the last %d records the platform rejected %d; one record is tried every %s",
		len(d.pause.last), d.pause.count, d.cfg.BackoffMax),
		"look at them with `tuzhan-cdc deadletters list --class rejected` and mend the cause; delivery goes on when a record that is tried is delivered, "+
			"or with `tuzhan-cdc resume`; delivery.pauseWhenRejected: false turns this brake off")
}

// stopped reports whether a job is not to go on because delivery is paused.
func (d *Delivery) stopped(j job) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pause.on() && j.items[0].retry == nil
}

// lookPaused is look while delivery is paused.
func (d *Delivery) lookPaused(e *endpoint, now time.Time) (j *job, wait time.Duration) {
	if !e.down {
		if l := e.choose(e.most, d.queue.serial, patience, func(l *lane) bool { return l.key.retry }); l != nil {
			return &job{end: e, items: d.take(l, e.most, false)}, 0
		}
	}
	if end := d.queue.ends[d.pause.end]; d.pause.trying || end != nil && end != e && end.hasReady() {
		return nil, 0
	}
	if wait = d.pause.tryAt.Sub(now); wait > 0 {
		return nil, wait
	}
	if e.down {
		j, wait = d.lookDown(e, now)
	} else if l := e.chooseProbe(); l != nil {
		j = &job{end: e, items: d.take(l, 1, true)}
	} else if len(e.parts)+len(e.alone) > 0 {
		j, wait = d.lookSuspect(e, now, false)
	} else if len(e.aside) > 0 {
		e.busy++
		j = &job{end: e, items: e.aside[0].items, kind: alone, suspect: e.aside[0]}
		e.aside = e.aside[1:]
	}
	if j != nil && len(j.items) > 0 {
		j.trial, d.pause.trying = true, true
	}
	return j, wait
}

// setAside stores dead letters and returns when they are on disk, or false when ctx ended before: then nothing is settled. Those that were
// letters before are the business of who sent them again.
func (d *Delivery) setAside(ctx context.Context, letters map[*item]*connector.DeadLetter) bool {
	var own []*connector.DeadLetter
	for it, l := range letters {
		if it.retry == nil {
			own = append(own, l)
		}
	}
	if len(own) == 0 {
		return true
	}
	if !d.insist(ctx, "dead letters can't be stored", func() error { return d.ports.Store.SetAside(ctx, own) }) {
		return false
	}
	if d.nearMost(len(own)) {
		if n, err := d.ports.CountOpen(ctx); err == nil {
			d.mu.Lock()
			d.pause.open = n - len(own)
			d.mu.Unlock()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range own {
		d.count(l.Mapping).Lettered(l.Class)
		attrs := []any{"class", l.Class, "mapping", l.Mapping, "table", l.Table, "position", l.Position, "reason", l.Reason}
		if l.Answer != nil {
			attrs = append(attrs, "httpStatus", l.Answer.HTTPStatus, "code", l.Answer.Code)
		}
		d.ports.Log.Warn("dead letter", attrs...)
		if l.Class == connector.ClassRejected {
			d.pause.note(true)
		}
	}
	for it := range letters {
		d.pause.end = it.lane.end.name
	}
	d.pause.open += len(own)
	d.checkLetters()
	d.checkRejected()
	return true
}

// nearMost reports whether n more letters would begin a pause: then those that are open are counted anew, for some may have been closed.
func (d *Delivery) nearMost(n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.pause.letters && d.pause.open+n > d.pause.most
}

// lettersEvery is how often a delivery that is paused for its dead letters counts them again.
const lettersEvery = 5 * time.Second

// watchLetters ends the pause that too many dead letters caused when there are fewer. Where no record is there to be tried, it has one read.
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
		paused := d.pause.letters
		d.mu.Unlock()
		if !paused {
			continue
		}
		n, err := d.ports.CountOpen(ctx)
		if err != nil {
			continue // the pause stays, and with it its alarm
		}
		d.mu.Lock()
		d.pause.open = n
		switch now := time.Now(); {
		case n <= d.cfg.MaxDeadLetters && !d.pause.rejected:
			d.pause.most = d.cfg.MaxDeadLetters
			d.endPause()
		case d.queue.pending == 0 && !d.pause.trying && !now.Before(d.pause.tryAt):
			d.pause.admit, d.pause.tryAt = true, now.Add(d.cfg.BackoffMax)
			d.openRoom()
		}
		d.mu.Unlock()
	}
}
