package state

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A state on a server can be taken over while the process that had it lives on, cut off from that server and not from the platform. So that the requests
// of the two never meet, the state is leased:
//
//   - A request begins only where the server has confirmed, less than leaseFor before, that this process has the state: by a transaction that
//     was committed under the fence (see server), or by an answer over the connection that has the lock. The time counts from before the question.
//   - No request lasts longer than Sends was told.
//   - Whoever takes the state over keeps still for both together before it sends, unless its predecessor has said that all its requests have ended, or is a
//     process of this machine that is gone.
//
// Only spans of time are compared, each on one machine: clocks that differ do no harm. A process that is frozen between its look at the lease and the
// first byte of a request, and goes on after its successor has begun, is not caught: only the platform could do that.
const leaseFor = 5 * time.Second

// endedEvery is how often it is looked whether the predecessor has gone.
const endedEvery = 100 * time.Millisecond

// lease is what a process may send. Its zero value: nothing. Safe for concurrent use, but for inherit.
type lease struct {
	mu        sync.Mutex
	confirmed time.Time

	sends  atomic.Int64 // how long a request may last, in nanoseconds; 0: this process sends nothing
	before inherited
	taken  time.Time
}

// inherited is what the predecessor has left in table meta.
type inherited struct {
	milliseconds int64
	sender       string
}

func (l *lease) inherit(before inherited) { l.before, l.taken = before, time.Now() }

// confirm notes that the state was this process's at some time after began.
func (l *lease) confirm(began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if began.After(l.confirmed) {
		l.confirmed = began
	}
}

// good reports whether a request may begin now. A monotonic clock may stand still while the machine sleeps, and the other may be set: the one that
// says more counts.
func (l *lease) good() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	return !l.confirmed.IsZero() && max(now.Sub(l.confirmed), now.Round(0).Sub(l.confirmed.Round(0))) < leaseFor
}

// keepStill waits until the predecessor's requests have surely ended.
func (l *lease) keepStill(ctx context.Context, place string, log *slog.Logger) error {
	wait := time.Until(l.taken.Add(time.Duration(l.before.milliseconds) * time.Millisecond))
	if wait <= 0 || processEnded(l.before.sender) {
		return nil
	}
	log.Info("nothing is sent yet: requests of the process that had this state before may still be out, as it has not said that they have ended", "state", place,
		"wait", wait.Round(time.Millisecond))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	look := time.NewTicker(endedEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the requests of the state's former holder to end: %w", ctx.Err())
		case <-timer.C:
			return nil
		case <-look.C:
			if processEnded(l.before.sender) {
				return nil
			}
		}
	}
}

// Sends says that this process is about to send requests, none of which lasts longer than longest. It is called before the first one, and before
// longest changes. Where the state was taken over from a process that may still live, the first call waits until that one's requests have surely ended,
// and says so in the log: leaseFor and that process's longest request. A state in a file is let go of by its process's end only: nothing is waited for.
func (s *Store) Sends(ctx context.Context, longest time.Duration, log *slog.Logger) error {
	server, ok := s.w.medium.(*server)
	if !ok {
		return nil
	}
	l := &server.lease
	before := time.Duration(l.sends.Load())
	if before == longest {
		return nil
	}
	if before == 0 {
		if err := l.keepStill(ctx, s.place, log); err != nil {
			return err
		}
	}
	// What is on disk is never too short.
	err := s.w.q.do(ctx, func(w *writer) error {
		return w.exec("UPDATE meta SET lease = ?, sender = ? WHERE id = 1", (leaseFor + max(before, longest)).Milliseconds(), thisProcess())
	})
	if err == nil {
		l.sends.Store(int64(longest))
	}
	return err
}

// Lease returns nil when a request may begin: it is sure then that no other process sends for this state. It asks the server where that has not been sure for
// a while, and fails where the server can't be asked (see Unreachable), or where Sends was not called.
func (s *Store) Lease(ctx context.Context) error {
	server, ok := s.w.medium.(*server)
	switch {
	case !ok:
		return nil
	case server.lease.sends.Load() == 0:
		return fault("leasing", s.place, fmt.Errorf("%w: Sends was not called", ErrRefused))
	}
	for !server.lease.good() {
		if err := s.w.q.do(ctx, func(*writer) error { return nil }); err != nil { // a transaction of the fence alone
			return err
		}
	}
	return nil
}
