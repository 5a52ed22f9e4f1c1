package status

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

const (
	// lookEvery is how often a snapshot is taken while a page is open, pointEvery how often otherwise: each of these is a point of the curves.
	lookEvery  = time.Second
	pointEvery = 5 * time.Second
	// pointsKept of the curves are an hour.
	pointsKept = int(time.Hour / pointEvery)
	// rateOver is how far back rates are measured.
	rateOver = 10 * time.Second
	// beatEvery is how often a page hears that the connector is there, though nothing has changed.
	beatEvery = 10 * time.Second
	// mostPages are open at a time.
	mostPages = 32
	// writeWithin bounds one write to a page.
	writeWithin = 10 * time.Second
)

// feed tells open pages how the connector stands, whenever that has changed, and remembers the last hour.
type feed struct {
	snapshot func() Snapshot
	kick     chan struct{} // a page has come

	mu      sync.Mutex
	pages   map[chan struct{}]time.Time // each is told by a token that there is something new; since when it waits for its first frame
	frame   []byte                      // JSON without its time, newest
	framed  time.Time                   // when it was made
	frames  uint64                      // counts them
	history history

	samples []sample // of run's goroutine
}

// sample is what rates are measured with.
type sample struct {
	at        time.Time
	tables    map[string]uint64
	mappings  map[string]mappingCount
	endpoints map[string]endpointCount
}

type mappingCount struct{ changes, records, delivered uint64 }

type endpointCount struct {
	requests, records uint64
	seconds           float64
}

// rates are per second, over the last few seconds.
type rates struct {
	// Over is how many seconds they are the mean of; 0: not known yet.
	Over      float64                 `json:"over"`
	Tables    map[string]float64      `json:"tables"`
	Mappings  map[string]mappingRate  `json:"mappings"`
	Endpoints map[string]endpointRate `json:"endpoints"`
}

type mappingRate struct {
	Changes   float64 `json:"changes"`
	Records   float64 `json:"records"`
	Delivered float64 `json:"delivered"`
}

type endpointRate struct {
	Requests float64 `json:"requests"`
	Records  float64 `json:"records"`
	// Took is the mean of how long a request took, in seconds; 0 where there was none.
	Took float64 `json:"took"`
}

func newFeed(snapshot func() Snapshot) *feed {
	return &feed{snapshot: snapshot, kick: make(chan struct{}, 1), pages: map[chan struct{}]time.Time{}}
}

// run looks until ctx ends.
func (f *feed) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var pointed time.Time
	for {
		now := time.Now()
		point := now.Sub(pointed) >= pointEvery-lookEvery/2
		if point {
			pointed = now
		}
		if point || f.watched() {
			f.look(now, point)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.kick:
		}
	}
}

func (f *feed) watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pages) > 0
}

// look takes a snapshot, and tells the pages where it differs from the last one.
func (f *feed) look(now time.Time, point bool) {
	s := f.snapshot()
	r := f.measure(now, &s)
	body, err := json.Marshal(struct {
		Snapshot *Snapshot `json:"snapshot"`
		Rates    *rates    `json:"rates"`
	}{&s, r})
	if err != nil {
		return // no value of a snapshot gives one
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if point {
		f.history.add(pointOf(now, &s, r))
	}
	f.framed = now
	changed := !bytes.Equal(body, f.frame)
	if changed {
		f.frame = body
		f.frames++
	}
	for page, waits := range f.pages {
		if !changed && !point && waits.IsZero() {
			continue
		}
		if now.After(waits) {
			f.pages[page] = time.Time{}
		}
		select {
		case page <- struct{}{}:
		default: // it has not taken the last token yet
		}
	}
}

// measure gives the rates since the sample that is rateOver old, or the oldest there is.
func (f *feed) measure(now time.Time, s *Snapshot) *rates {
	a := sample{at: now, tables: map[string]uint64{}, mappings: map[string]mappingCount{}, endpoints: map[string]endpointCount{}}
	for _, t := range s.Tables {
		a.tables[t.Name] = t.Changes
	}
	for _, m := range s.Mappings {
		a.mappings[m.Name] = mappingCount{m.Changes, m.Records, m.Delivered}
	}
	for _, e := range s.Endpoints {
		c := endpointCount{records: e.Records, seconds: e.Seconds}
		for _, n := range e.Requests {
			c.requests += n
		}
		a.endpoints[e.Name] = c
	}
	r := &rates{Tables: map[string]float64{}, Mappings: map[string]mappingRate{}, Endpoints: map[string]endpointRate{}}
	for len(f.samples) > 1 && now.Sub(f.samples[1].at) >= rateOver {
		f.samples = f.samples[1:]
	}
	if len(f.samples) > 0 {
		b := f.samples[0]
		over := now.Sub(b.at).Seconds()
		if r.Over = math.Round(over); over < (rateOver + 2*lookEvery).Seconds() {
			r.Over = min(r.Over, rateOver.Seconds()) // the ticks are not exact, and that is nothing new
		}
		per := func(now, then uint64) float64 { return round(float64(now-min(now, then)) / over) }
		for name, n := range a.tables {
			r.Tables[name] = per(n, b.tables[name])
		}
		for name, n := range a.mappings {
			m := b.mappings[name]
			r.Mappings[name] = mappingRate{per(n.changes, m.changes), per(n.records, m.records), per(n.delivered, m.delivered)}
		}
		for name, n := range a.endpoints {
			e := b.endpoints[name]
			rate := endpointRate{Requests: per(n.requests, e.requests), Records: per(n.records, e.records)}
			if n.requests > e.requests {
				rate.Took = round((n.seconds - e.seconds) / float64(n.requests-e.requests))
			}
			r.Endpoints[name] = rate
		}
	}
	f.samples = append(f.samples, a)
	return r
}

// round keeps four digits, so that what has not changed reads the same.
func round(v float64) float64 {
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	return v
}

// history is the last hour, a ring of at most pointsKept points. feed.mu guards it.
type history struct {
	points []point
	next   int    // the oldest, once the ring is full
	added  uint64 // counts them
}

// point is the connector at one moment, for the curves. NaN: not known.
type point struct {
	at                                                                                 int64 // unix seconds
	lagSeconds, lagBytes, retainedBytes, pending, changesPerSecond, deliveredPerSecond float64
	letters                                                                            float64
}

func pointOf(now time.Time, s *Snapshot, r *rates) point {
	p := point{at: now.Unix(), lagSeconds: s.Lag.Seconds, lagBytes: float64(s.Lag.Bytes), retainedBytes: float64(s.Slot.RetainedBytes), pending: float64(s.Pending.Records)}
	if !s.Slot.Known {
		p.lagBytes, p.retainedBytes = math.NaN(), math.NaN()
	}
	if s.State != Streaming {
		p.lagSeconds = math.NaN()
	}
	for _, t := range r.Tables {
		p.changesPerSecond += t
	}
	for _, m := range r.Mappings {
		p.deliveredPerSecond += m.Delivered
	}
	if r.Over == 0 {
		p.changesPerSecond, p.deliveredPerSecond = math.NaN(), math.NaN()
	}
	for _, class := range connector.Classes {
		p.letters += float64(s.DeadLetters[class])
	}
	if !s.StateRead {
		p.letters = math.NaN()
	}
	return p
}

func (h *history) add(p point) {
	h.added++
	if len(h.points) < pointsKept {
		h.points = append(h.points, p)
		return
	}
	h.points[h.next] = p
	h.next = (h.next + 1) % pointsKept
}

// since gives the points that were added after the first n.
func (h *history) since(n uint64) []point {
	newer := int(min(h.added-min(n, h.added), uint64(len(h.points))))
	list := make([]point, 0, newer)
	for i := len(h.points) - newer; i < len(h.points); i++ {
		list = append(list, h.points[(h.next+i)%len(h.points)])
	}
	return list
}

// appendJSON writes the point as an array, in the order of its fields.
func (p *point) appendJSON(dst []byte) []byte {
	dst = strconv.AppendInt(append(dst, '['), p.at, 10)
	for _, v := range []float64{p.lagSeconds, p.lagBytes, p.retainedBytes, p.pending, p.changesPerSecond, p.deliveredPerSecond, p.letters} {
		if dst = append(dst, ','); math.IsNaN(v) {
			dst = append(dst, "null"...)
		} else {
			dst = strconv.AppendFloat(dst, round(v), 'f', -1, 64)
		}
	}
	return append(dst, ']')
}

// serve streams to one page, as server-sent events: "state" with a frame, "points" with points of the curves (all, to begin with), "beat" while there is
// nothing to say. Where too many pages are open it says "full", and ends.
func (f *feed) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet { // HEAD
		return
	}
	page, asked := make(chan struct{}, 1), time.Now()
	f.mu.Lock()
	full := len(f.pages) >= mostPages
	if !full {
		f.pages[page] = asked
	}
	seen, pointed := f.frames, uint64(0) // a frame of before may be old
	f.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx passes it on at once
	if full {
		fmt.Fprint(w, "event: full\ndata: too many pages are open\n\n")
		return
	}
	defer func() {
		f.mu.Lock()
		delete(f.pages, page)
		f.mu.Unlock()
	}()
	select {
	case f.kick <- struct{}{}:
	default:
	}
	out := http.NewResponseController(w)
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	first := true
	for {
		var text []byte
		f.mu.Lock()
		if f.frames != seen || first && f.framed.After(asked) {
			seen, first = f.frames, false
			text = fmt.Appendf(text, "event: state\ndata: {\"at\":%d,%s\n\n", f.framed.UnixMilli(), f.frame[1:])
		}
		if f.history.added != pointed {
			text = append(text, "event: points\ndata: ["...)
			for i, p := range f.history.since(pointed) {
				if i > 0 {
					text = append(text, ',')
				}
				text = p.appendJSON(text)
			}
			text = append(text, "]\n\n"...)
			pointed = f.history.added
		}
		f.mu.Unlock()
		if len(text) > 0 {
			if !send(out, w, text) {
				return
			}
			beat.Reset(beatEvery)
		}
		select {
		case <-r.Context().Done():
			return
		case <-page:
		case <-beat.C:
			if !send(out, w, fmt.Appendf(nil, "event: beat\ndata: %d\n\n", time.Now().UnixMilli())) {
				return
			}
		}
	}
}

// send writes to a page, and reports whether it took it in time.
func send(out *http.ResponseController, w http.ResponseWriter, text []byte) bool {
	if out.SetReadDeadline(time.Time{}) != nil || out.SetWriteDeadline(time.Now().Add(writeWithin)) != nil {
		return false
	}
	_, err := w.Write(text)
	return err == nil && out.Flush() == nil
}
