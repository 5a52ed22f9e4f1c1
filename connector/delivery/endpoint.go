package delivery

import (
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// endpoint is one of the platform's paths: its lanes, its senders, and how it fares. Delivery.mu guards it.
type endpoint struct {
	name    connector.Endpoint
	most    int // records a request
	senders int
	lanes   []*lane
	wake    chan struct{} // holds a token for each idle sender that should look
	flying  int           // requests in flight
	began   time.Time     // when the last request began
	turn    int           // batches that were taken while both the stream and a backfill had some ready
	// limit is most, or less after requests of that many records have timed out.
	limit int

	// down says that the last answer was an outage, a refused token, a wrong set-up or a wish to slow down. Until an answer says
	// otherwise nothing is sent but one probe at a time, not before retryAt.
	down    bool
	verdict connector.Verdict // why it is down
	// doubtful: the failure may be a record's own fault, and no record that had not failed before has failed as a probe since. Then the
	// probe need not wait.
	doubtful bool
	fallen   int // probes that failed since it went down
	probing  bool
	retryAt  time.Time
	backoff  *backoff.ExponentialBackOff
	since    time.Time     // when it went down
	wasDown  time.Duration // all the time that it was down before
	worked   time.Time     // when an answer last said that it is up; zero: never since the start
	pointProbe

	suspects
}

// pointProbe is what an endpoint for points needs to know while it is down as in an outage: its probes can't be applied, and real points are
// risked rarely, because each may become uncertain.
type pointProbe struct {
	refused  int  // probes in a row that failed
	answered bool // the last one was answered
	// No real point is a probe before realAt; realWait is the wait behind the next one that fails.
	realAt   time.Time
	realWait time.Duration
}

// probesBeforePoint is how many probes that can't be applied must fail before one real point is the probe: a platform may answer
// even those as in an outage.
const probesBeforePoint = 5

// patience is how many records may come after one has become ready before its lane goes first.
const patience = 5000

// newBackoff gives waits with full jitter: each lies between 0 and a bound that doubles from initial to most.
func newBackoff(initial, most time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(initial/2), backoff.WithMaxInterval(most/2),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(1), backoff.WithMaxElapsedTime(0))
}

func (e *endpoint) takesPoints() bool {
	return e.name == connector.PointEndpoint || e.name == connector.PointDecreaseEndpoint
}

// rouse lets one idle sender look for work.
func (e *endpoint) rouse() {
	select {
	case e.wake <- struct{}{}:
	default: // every sender has a token already
	}
}

func (e *endpoint) rouseAll() {
	for range e.senders {
		e.rouse()
	}
}

// ready counts the records that may be sent.
func (e *endpoint) ready() (n int) {
	for _, l := range e.lanes {
		n += l.len()
	}
	return n
}

func (e *endpoint) hasReady() bool {
	for _, l := range e.lanes {
		if l.len() > 0 {
			return true
		}
	}
	return false
}

// fail notes an answer that says that the endpoint takes nothing now. Of several requests that fail together only the first one
// lengthens the wait.
func (e *endpoint) fail(a connector.Answer, now time.Time, probe bool) {
	if e.down && !probe {
		return
	}
	if !e.down {
		e.down, e.since, e.doubtful = true, now, true
	}
	if probe {
		e.fallen++
	}
	e.verdict, e.doubtful = a.Verdict, e.doubtful && blamesRecord(a)
	wait := e.backoff.NextBackOff()
	if a.Verdict == connector.SlowDown && a.RetryAfter > 0 {
		wait = a.RetryAfter
	}
	e.retryAt = now.Add(wait)
}

// mend notes that the endpoint takes records, and reports whether it was down.
func (e *endpoint) mend(now time.Time) bool {
	was := e.down
	if was {
		e.wasDown += now.Sub(e.since)
	}
	e.down, e.doubtful, e.fallen, e.pointProbe, e.worked = false, false, 0, pointProbe{}, now
	e.backoff.Reset()
	return was
}

// downFor is how long the endpoint has been down in all.
func (e *endpoint) downFor(now time.Time) time.Duration {
	if e.down {
		return e.wasDown + now.Sub(e.since)
	}
	return e.wasDown
}

// choose picks the lane from which the next batch is taken: one that can fill a batch, the longest waiting first; else the fullest, but
// none waits while more than patience later records come. It returns nil where nothing is ready.
func (e *endpoint) choose(most int, serial, patience uint64, wanted func(*lane) bool) *lane {
	var oldest, full, fullest *lane
	for _, l := range e.lanes {
		n := l.len()
		if n == 0 || wanted != nil && !wanted(l) {
			continue
		}
		head := l.peek(false).ready
		if oldest == nil || head < oldest.peek(false).ready {
			oldest = l
		}
		if n >= most && (full == nil || head < full.peek(false).ready) {
			full = l
		}
		if fullest == nil || n > fullest.len() {
			fullest = l
		}
	}
	switch {
	case oldest == nil:
		return nil
	case serial-oldest.peek(false).ready > patience:
		return oldest
	case full != nil:
		return full
	}
	return fullest
}

// backfillTurn: of so many batches one is a backfill's, however many records the stream has, since some of these may wait for it.
const backfillTurn = 4

// chooseFirst picks the lane of the next batch: from what the stream brings, before what a backfill does, but for the backfill's turns. ready says of a lane
// whether a batch may be taken from it now.
func (e *endpoint) chooseFirst(most int, serial uint64, ready func(*lane) bool) *lane {
	live := e.choose(most, serial, patience, func(l *lane) bool { return !l.key.backfill })
	fill := e.choose(most, serial, patience, func(l *lane) bool { return l.key.backfill })
	switch {
	case fill == nil:
		return live
	case live == nil, !ready(live):
		return fill
	}
	if e.turn++; e.turn%backfillTurn == 0 && ready(fill) {
		return fill
	}
	return live
}

// chooseProbe picks the lane from which a probe is taken: the oldest record that no outage has met; where there is none, the one that
// was tried longest ago. So no record is tried twice while others wait.
func (e *endpoint) chooseProbe() *lane {
	var best *lane
	before := func(a, b *lane) bool {
		if (a.untried() > 0) != (b.untried() > 0) {
			return a.untried() > 0
		}
		x, y := a.peek(true), b.peek(true)
		if x.failure != nil && y.failure != nil {
			return x.failure.number < y.failure.number
		}
		return x.serial < y.serial
	}
	for _, l := range e.lanes {
		if l.len() > 0 && (best == nil || before(l, best)) {
			best = l
		}
	}
	return best
}
