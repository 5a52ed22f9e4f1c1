package connector

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// track is a Track that lives: the stretch of the stream that one mapping goes through by itself, with a tracker of its own.
//
// A mapping is held by an open change in its tracker that nobody settles: the checkpoint stays before it, and so does what PostgreSQL is
// told. The reader's goroutine alone changes tracks, and does so under Pipeline.mu; it may read them without.
type track struct {
	Track
	tracker *tracker
	// fits says that the mapping could read the newest change that came.
	fits bool
}

// holdRequest asks for a mapping to be held from the next change on.
type holdRequest struct {
	mapping string
	why     Hold
	unfit   Unfit
}

// follows reports whether the track takes the change at p.
func (t *track) follows(p Position) bool { return t.Held == "" && t.Has(p) }

// freeze holds the mapping from the change at p on, which the tracker must not have taken.
func (t *track) freeze(p Position, at time.Time, why Hold, reason string) {
	t.Held, t.Reason = why, reason
	var done []RecordKey // some of the change's records may have been settled by an earlier run, by which the mapping could read it
	for _, k := range t.tracker.partial {
		if k.Position == p {
			done = append(done, k)
		}
	}
	t.tracker.add(p, at, 1, done)
}

// loadTracks makes the tracks that the checkpoint has.
func (p *Pipeline) loadTracks(cp *Checkpoint) {
	for _, saved := range cp.Tracks {
		t := &track{Track: saved}
		t.tracker = newTracker(&Checkpoint{Settled: saved.Settled, Ranges: saved.Ranges, Partial: saved.Partial, Flush: cp.Flush,
			CommitTime: saved.SinceTime}, &p.settled)
		for _, k := range saved.Partial {
			p.settledAt[k] = true
		}
		if t.Held == HoldMisfit {
			t.Held, t.Reason = "", ""
		}
		switch {
		case t.Held != "":
			t.freeze(t.Settled.next(), t.SinceTime, t.Held, t.Reason)
			p.alarmHeld(t, "")
		case t.SetAside:
			p.alarms.Raise("held/"+t.Mapping, fmt.Sprintf("mapping %s: what it can't read becomes dead letters, since position %s", t.Mapping, t.Since),
				"mend the mapping's file and reload (kill -HUP, or start again); tuzhan-cdc deadletters list --mapping "+t.Mapping)
		default:
			p.alarms.Clear("held/" + t.Mapping) // it works its changes off, or is held anew
		}
		p.tracks = append(p.tracks, t)
	}
}

// apart gives the mappings that go through the change at q by themselves.
func (p *Pipeline) apart(q Position) []string {
	names := p.names[:0]
	for _, t := range p.tracks {
		if t.Has(q) {
			names = append(names, t.Mapping)
		}
	}
	p.names = names
	return names
}

// hold holds a mapping from c on. The track must be there before the tracker of all takes the change, or a checkpoint between the two would
// say that the change is settled for this mapping too.
func (p *Pipeline) hold(mapping string, c *Change, why Hold, unfit Unfit) {
	t := &track{Track: Track{Mapping: mapping, Since: c.Position, SinceTime: c.CommitTime}}
	for _, later := range p.tracks { // of an earlier run that got further
		if later.Mapping == mapping && later.Since.Compare(t.Since) > 0 && (t.Until.IsZero() || later.Since.Compare(t.Until) < 0) {
			t.Until = later.Since
		}
	}
	t.tracker = newTracker(p.tracker.beyond(c.Position, mapping), &p.settled)
	t.freeze(c.Position, c.CommitTime, why, unfit.Why)
	p.mu.Lock()
	p.tracks = append(p.tracks, t)
	p.mu.Unlock()
	p.log.Warn("mapping held", unfit.attrs("mapping", mapping, "table", c.Table.String(), "position", c.Position)...)
	p.alarmHeld(t, unfit.Cure)
}

// holdAgain holds a mapping that was working its changes off.
func (p *Pipeline) holdAgain(t *track, c *Change, why Hold, unfit Unfit) {
	p.mu.Lock()
	t.freeze(c.Position, c.CommitTime, why, unfit.Why)
	p.mu.Unlock()
	p.log.Warn("mapping held again", unfit.attrs("mapping", t.Mapping, "table", c.Table.String(), "position", c.Position)...)
	p.alarmHeld(t, unfit.Cure)
}

func (p *Pipeline) alarmHeld(t *track, cure string) {
	p.alarmHold(t.Mapping, "since position "+t.Since.String(), t.Held, Unfit{t.Reason, cure})
}

// alarmHold tells that a mapping is held, since when, and why. The cure of unfit is for a mapping that can't read its table.
func (p *Pipeline) alarmHold(mapping, since string, why Hold, unfit Unfit) {
	cure := unfit.Cure
	switch why {
	case HoldMisfit:
	case HoldBrake:
		cure = "where all of it is meant, let through what was committed up to now: tuzhan-cdc resume --mapping " + mapping +
			"; or make dead letters of it: tuzhan-cdc deadletters set-aside --mapping " + mapping
	default:
		cure = "tuzhan-cdc resume --mapping " + mapping + "; or give its changes up as dead letters: tuzhan-cdc deadletters set-aside --mapping " + mapping
	}
	p.alarms.Raise("held/"+mapping, fmt.Sprintf("mapping %s is held %s, the others flow: %s", mapping, since, unfit.Why), cure)
}

// Hold asks for a mapping to be held from the next change on that it has not had, and raises the alarm. unfit is why, its cure that of a mapping that can't
// read its table. Safe for concurrent use; it does not block.
func (p *Pipeline) Hold(mapping string, why Hold, unfit Unfit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.holds, func(h holdRequest) bool { return h.mapping == mapping }) {
		return
	}
	p.holds = append(p.holds, holdRequest{mapping, why, unfit})
	p.asked.Store(true)
	since := "from its next change on"
	for _, t := range p.tracks {
		if t.Mapping == mapping && t.Until.IsZero() {
			since = "since position " + t.Since.String()
		}
	}
	p.log.Warn("mapping is to be held "+since, unfit.attrs("mapping", mapping)...)
	p.alarmHold(mapping, since, why, unfit)
}

// SetAsideNext lets a mapping that is held from its next change on begin a track there on which what it can't read becomes dead letters, and reports
// whether it does: not where one is there that goes on. As SetAside does, it replaces cp's slices.
func (cp *Checkpoint) SetAsideNext(mapping string) bool {
	since := cp.Settled.next()
	for _, t := range cp.Tracks {
		switch {
		case t.Mapping != mapping:
		case t.Until.IsZero():
			return false
		case t.Until.Compare(since) > 0:
			since = t.Until
		}
	}
	t := Track{Mapping: mapping, Since: since, SinceTime: cp.CommitTime, Settled: since.prev(), SetAside: true}
	for _, r := range cp.Ranges {
		if r.To.Compare(since) >= 0 {
			t.Ranges = append(t.Ranges, r)
		}
	}
	for _, k := range cp.Partial {
		if k.Mapping == mapping && k.Position.Compare(since) >= 0 {
			t.Partial = append(t.Partial, k)
		}
	}
	cp.Tracks = append(slices.Clone(cp.Tracks), t)
	return true
}

// toBeHeld reports whether a mapping is to be held from its next change on.
func (p *Pipeline) toBeHeld(mapping string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.holds, func(h holdRequest) bool { return h.mapping == mapping })
}

// askedToHold takes out the requests to hold mappings that wanted says yes to.
func (p *Pipeline) askedToHold(wanted func(mapping string) bool) (taken []holdRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds = slices.DeleteFunc(p.holds, func(h holdRequest) bool {
		if wanted(h.mapping) {
			taken = append(taken, h)
			return true
		}
		return false
	})
	p.asked.Store(len(p.holds) > 0)
	return taken
}

// advanceTracks passes an LSN on that may be confirmed once all that was read is settled, ends the tracks that have caught up, and forgets
// those that are done with.
func (p *Pipeline) advanceTracks(lsn LSN) {
	for _, t := range p.tracks {
		if t.Held == "" {
			t.tracker.advance(lsn)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	read := p.tracker.furthest()
	oldest, _, open := p.tracker.oldest()
	p.tracks = slices.DeleteFunc(p.tracks, func(t *track) bool {
		// A mapping whose misfits are set aside stays apart until it fits again: else it would be held anew. So does one that was given up, until all of
		// that has come.
		if t.Held == "" && t.Until.IsZero() && read.Compare(t.Since) >= 0 && t.tracker.caughtUp(read) && (!t.SetAside || t.fits) && p.pastGivenUp(t.Mapping, lsn) {
			t.Until = read.next()
		}
		if t.Until.IsZero() || t.Held != "" || p.streamed.Compare(t.Until.prev()) < 0 {
			return false
		}
		// The others' records of the stretch must be settled too: a change that comes again goes through all mappings.
		if t.tracker.opened() == 0 && (!open || oldest.Compare(t.Until) >= 0) {
			p.log.Info("mapping has caught up", "mapping", t.Mapping, "since", t.Since, "until", t.Until)
			if !slices.ContainsFunc(p.tracks, func(o *track) bool { return o != t && o.Mapping == t.Mapping && (o.Held != "" || o.SetAside) }) {
				p.alarms.Clear("held/" + t.Mapping)
			}
			p.tracker.inherit(t.tracker)
			return true
		}
		return false
	})
}

// checkpoint gives the checkpoint as it is now, without lineage and time. No track comes or goes meanwhile; one that comes then begins beyond what
// all have read.
func (p *Pipeline) checkpoint() *Checkpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	cp := p.tracker.checkpoint()
	for _, t := range p.tracks {
		own := t.tracker.checkpoint()
		saved := t.Track
		saved.Settled, saved.Ranges, saved.Partial = own.Settled, own.Ranges, own.Partial
		cp.Tracks = append(cp.Tracks, saved)
		cp.Flush = min(cp.Flush, own.Flush)
		talliesOf(own.Brakes).tell(cp)
	}
	for name, b := range p.brakes {
		if b.freed > 0 || b.givenUp > 0 {
			saved := cp.brake(name)
			saved.Freed, saved.GivenUp = b.freed, b.givenUp
		}
	}
	slices.SortFunc(cp.Brakes, func(a, b Brake) int { return strings.Compare(a.Mapping, b.Mapping) })
	return cp
}

// sameTracks reports whether two checkpoints tell the same of their tracks, but for how far these are.
func sameTracks(a, b []Track) bool {
	return slices.EqualFunc(a, b, func(x, y Track) bool {
		return x.Mapping == y.Mapping && x.Since == y.Since && x.Until == y.Until && x.Held == y.Held && x.SetAside == y.SetAside
	})
}

// HeldMapping is a mapping that is held, or works off what came while it was.
type HeldMapping struct {
	Mapping string `json:"mapping"`
	// Since is the first change that waits, SinceTime when it was committed; zero where it is still to come.
	Since     Position  `json:"since"`
	SinceTime time.Time `json:"sinceTime"`
	// Reason is empty while it works its changes off.
	Reason string `json:"reason,omitempty"`
	// Why is empty where Reason is.
	Why Hold `json:"why,omitempty"`
	// SetAside says that what it can't read becomes dead letters.
	SetAside bool `json:"setAside,omitempty"`
}

// HeldMapping tells of a track.
func (t *Track) HeldMapping() HeldMapping {
	return HeldMapping{t.Mapping, t.Since, t.SinceTime, t.Reason, t.Held, t.SetAside}
}

// HeldMappings gives the mappings that are held. Safe for concurrent use.
func (p *Pipeline) HeldMappings() []HeldMapping {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]HeldMapping, 0, len(p.tracks))
	for _, t := range p.tracks {
		list = append(list, t.HeldMapping())
	}
	for _, h := range p.holds {
		i := slices.IndexFunc(list, func(x HeldMapping) bool { return x.Mapping == h.mapping })
		if i < 0 {
			list, i = append(list, HeldMapping{Mapping: h.mapping}), len(list)
		}
		if list[i].Reason == "" { // it works off nothing before it is held again
			list[i].Reason, list[i].Why = h.unfit.Why, h.why
		}
	}
	return list
}
