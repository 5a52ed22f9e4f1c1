package state

import (
	"context"
	"fmt"
	"sync"
)

// maxWaiting bounds the operations whose callers wait; the next callers wait for a place.
const maxWaiting = 1024

// operation is one call on its way to the disk.
type operation struct {
	// apply does it inside the writer's transaction. It checks before it writes: after an ErrRefused nothing of it was written.
	apply func(*writer) error
	// done gets the result; nil for an operation that nobody waits for, which is kept until it is on the disk.
	done chan error

	withdrawn bool  // guarded by queue.mu until the operation is taken
	refused   error // the writer's
}

// queue holds operations in the order in which they came. mu makes that order one for all goroutines: what a goroutine queues after it
// learned of another's operation stands behind that one.
type queue struct {
	wake   chan struct{} // there may be something to take
	places chan struct{} // one element per waiting operation

	mu     sync.Mutex
	ops    []*operation
	closed bool
}

func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1), places: make(chan struct{}, maxWaiting)}
}

// do queues an operation and waits for its result. When ctx ends first, an operation that was not taken is withdrawn; one that was taken
// is done all the same, and the error says so.
func (q *queue) do(ctx context.Context, apply func(*writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case q.places <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	op := &operation{apply: apply, done: make(chan error, 1)}
	if !q.put(op) {
		<-q.places
		return ErrClosed
	}
	select {
	case err := <-op.done:
		return err
	case <-ctx.Done():
	}
	q.mu.Lock()
	for _, waiting := range q.ops {
		if waiting == op {
			op.withdrawn = true
			q.mu.Unlock()
			return ctx.Err()
		}
	}
	q.mu.Unlock()
	select {
	case err := <-op.done:
		return err
	default:
		return fmt.Errorf("%w while it was being written: it may be on the disk or not", ctx.Err())
	}
}

// put appends op; false where the queue is closed.
func (q *queue) put(op *operation) bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	q.ops = append(q.ops, op)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// take gives all that is queued but what was withdrawn; waited says that somebody waits for one of them.
func (q *queue) take(into []*operation) (ops []*operation, waited bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, op := range q.ops {
		q.ops[i] = nil
		if op.done != nil {
			<-q.places
		}
		if !op.withdrawn {
			into = append(into, op)
			waited = waited || op.done != nil
		}
	}
	q.ops = q.ops[:0]
	return into, waited
}

// close lets nothing more in.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}
