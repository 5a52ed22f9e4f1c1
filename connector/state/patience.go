package state

import (
	"context"
	"fmt"
	"time"
)

// patience waits for a place as Options say.
type patience struct {
	Options
	place string
}

const (
	// lockRetryEvery is how often a place that is not to be had yet is tried again.
	lockRetryEvery = 250 * time.Millisecond
	// waitSayEvery is how often the log says that it is being waited for.
	waitSayEvery = 30 * time.Second
)

// until calls try until that gives neither of its errors: busy is why it has to be tried again, err ends it at once. When the wait is over,
// busy is the error.
func (p patience) until(ctx context.Context, try func() (busy, err error)) error {
	start := time.Now()
	var said time.Time
	for {
		busy, err := try()
		if busy == nil || err != nil {
			if err == nil && !said.IsZero() {
				p.Logger.Info("the state is free: going on", "state", p.place, "waited", time.Since(start).Round(time.Millisecond))
			}
			return err
		}
		left := lockRetryEvery
		if p.LockWait >= 0 {
			if left = p.LockWait - time.Since(start); left <= 0 {
				return busy
			}
		}
		if time.Since(said) >= waitSayEvery {
			said = time.Now()
			p.Logger.Info("waiting for the state, as a standby", "state", p.place, "reason", busy)
		}
		timer := time.NewTimer(min(lockRetryEvery, left+time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waiting for the state: %w", ctx.Err())
		case <-timer.C:
		}
	}
}
