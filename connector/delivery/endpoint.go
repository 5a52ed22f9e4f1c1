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

	// down says that the last answer was an outage, a refused token, a wrong set-up or a wish to slow down. Until an answer says
	// otherwise nothing is sent but one probe at a time, not before retryAt.
	down    bool
	verdict connector.Verdict // why it is down
	probing bool
	retryAt time.Time
	// refused counts the probes in a row that could not be applied and failed all the same.
	refused int
	backoff *backoff.ExponentialBackOff
}

// probesBeforePoint is how many probes that can't be applied must fail before one real point is the probe: a platform may answer
// even those as in an outage.
const probesBeforePoint = 5

// patience is how many later records may be taken before an older one of another lane.
const patience = 5000

func newBackoff(initial, most time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(initial), backoff.WithMaxInterval(most),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0.5), backoff.WithMaxElapsedTime(0))
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
	e.down, e.verdict = true, a.Verdict
	wait := e.backoff.NextBackOff()
	if a.Verdict == connector.SlowDown && a.RetryAfter > 0 {
		wait = a.RetryAfter
	}
	e.retryAt = now.Add(wait)
}

// mend notes that the endpoint takes records, and reports whether it was down.
func (e *endpoint) mend() bool {
	was := e.down
	e.down, e.refused = false, 0
	e.backoff.Reset()
	return was
}

// choose picks the lane from which the next batch is taken: one that can fill a batch, the longest waiting first; else the fullest, but
// none waits while more than patience later records are taken. It returns nil where nothing is ready.
func (e *endpoint) choose(most int, serial, patience uint64) *lane {
	var oldest, full, fullest *lane
	for _, l := range e.lanes {
		n := l.len()
		if n == 0 {
			continue
		}
		head := l.peek().serial
		if oldest == nil || head < oldest.peek().serial {
			oldest = l
		}
		if n >= most && (full == nil || head < full.peek().serial) {
			full = l
		}
		if fullest == nil || n > fullest.len() {
			fullest = l
		}
	}
	switch {
	case oldest == nil:
		return nil
	case serial-oldest.peek().serial > patience:
		return oldest
	case full != nil:
		return full
	}
	return fullest
}
