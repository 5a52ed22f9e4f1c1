package state

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// runOut lets the lease of a store run out.
func runOut(s *Store) {
	l := &s.w.medium.(*server).lease
	l.mu.Lock()
	defer l.mu.Unlock()
	l.confirmed = time.Now().Add(-leaseFor)
}

// lease gives what stands in the state about who may still send.
func leaseOf(t *testing.T, db *pgtest.DB) (milliseconds int64, sender string) {
	t.Helper()
	return pgtest.Value[int64](t, db, "SELECT lease FROM tuzhan_cdc.meta"), pgtest.Value[string](t, db, "SELECT sender FROM tuzhan_cdc.meta")
}

// A request begins only where the server has confirmed lately that the state is this process's: a transaction does, a look, and else it is asked.
func TestLease(t *testing.T) {
	t.Parallel()
	instance := pgtest.Server(t)
	db := instance.Database(t)
	proxy := pgtest.Proxy(t, instance.Addr())
	s := openServerTest(t, db.Through(proxy))
	if err := s.Lease(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("before Sends: %v", err)
	}
	must(t, s.Sends(t.Context(), 3*time.Second, discard()))
	if ms, sender := leaseOf(t, db); ms != 8000 || sender != thisProcess() {
		t.Errorf("lease %d of %q", ms, sender)
	}
	commits := s.Stats().Commits
	must(t, s.Lease(t.Context()))
	if got := s.Stats().Commits; got != commits {
		t.Errorf("%d commits to be sure of what is sure", got-commits)
	}
	runOut(s)
	must(t, s.Lease(t.Context()))
	if got := s.Stats().Commits; got != commits+1 {
		t.Errorf("%d commits where it had run out, want one", got-commits)
	}
	runOut(s)
	must(t, intended(t, s, 1)) // as good
	commits = s.Stats().Commits
	must(t, s.Lease(t.Context()))
	if got := s.Stats().Commits; got != commits {
		t.Errorf("%d commits after a transaction", got-commits)
	}
	runOut(s)
	if _, err := s.w.medium.(*server).keep(); err != nil { // as good
		t.Fatal(err)
	}
	must(t, s.Lease(t.Context()))
	if got := s.Stats().Commits; got != commits {
		t.Errorf("%d commits after a look", got-commits)
	}

	// The time-out of requests is changed: what is stored is never less than what may be out.
	must(t, s.Sends(t.Context(), time.Second, discard()))
	if ms, _ := leaseOf(t, db); ms != 8000 {
		t.Errorf("lease %d while requests of the longer time-out may be out", ms)
	}
	must(t, s.Sends(t.Context(), 4*time.Second, discard()))
	if ms, _ := leaseOf(t, db); ms != 9000 {
		t.Errorf("lease %d", ms)
	}

	// The server is away: what is sure is sure until it has run out.
	proxy.Refuse()
	must(t, s.Lease(t.Context()))
	runOut(s)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Lease(ctx); err == nil {
		t.Error("a lease without the server")
	}
	proxy.Heal(t)
	must(t, s.Lease(t.Context()))

	// Taken by another: never again.
	db.Exec(t, "UPDATE tuzhan_cdc.meta SET session = 'another'")
	runOut(s)
	if err := s.Lease(t.Context()); !errors.Is(err, ErrTaken) {
		t.Errorf("after another has taken it: %v", err)
	}
	must(t, s.Close())
	if ms, _ := leaseOf(t, db); ms != 9000 {
		t.Errorf("who has lost the state has said of another's lease that it has ended: %d", ms)
	}
}

// Who takes the state over from a process that may live keeps still; not after one that has ended in good order, or that is known to be gone.
func TestSuccessorKeepsStill(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	const still = 700 * time.Millisecond
	// sends gives what Sends says, and the least time that it took.
	sends := func(s *Store) (log string, took time.Duration) {
		t.Helper()
		var text lockedBuffer
		began := time.Now()
		must(t, s.Sends(t.Context(), time.Second, slog.New(slog.NewTextHandler(&text, nil))))
		return text.String(), time.Since(began)
	}
	first := openServerTest(t, db.DSN())
	if log, _ := sends(first); log != "" {
		t.Errorf("a new state: %s", log)
	}
	must(t, first.Close())
	if ms, _ := leaseOf(t, db); ms != 0 {
		t.Errorf("lease %d after an end in good order", ms)
	}
	second := openServerTest(t, db.DSN())
	if log, _ := sends(second); log != "" {
		t.Errorf("after an end in good order: %s", log)
	}

	// Its session ends, but it lives: as if on another machine.
	endSession(t, db)
	db.Exec(t, "UPDATE tuzhan_cdc.meta SET sender = 'another machine', lease = 700")
	taken := time.Now()
	third := openServerTest(t, db.DSN())
	log, _ := sends(third)
	if waited := time.Since(taken); waited < still || !strings.Contains(log, "nothing is sent yet") {
		t.Errorf("the successor of one that may live waited %s: %s", waited, log)
	}
	if err := intended(t, second, 1); !errors.Is(err, ErrTaken) {
		t.Errorf("the one before: %v", err)
	}

	// A command that sends nothing does not count: neither does it wait, nor does it end another's lease.
	endSession(t, db)
	db.Exec(t, "UPDATE tuzhan_cdc.meta SET sender = 'another machine', lease = 700")
	command := openServerTest(t, db.DSN())
	must(t, intended(t, command, 2))
	must(t, command.Close())
	if ms, sender := leaseOf(t, db); ms != 700 || sender != "another machine" {
		t.Errorf("after a command: lease %d of %q", ms, sender)
	}
	// Nor does one that is stopped while it waits.
	fourth := openServerTest(t, db.DSN())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := fourth.Sends(ctx, time.Second, discard()); !errors.Is(err, context.Canceled) {
		t.Errorf("a successor that is stopped: %v", err)
	}
	must(t, fourth.Close())
	if ms, sender := leaseOf(t, db); ms != 700 || sender != "another machine" {
		t.Errorf("after a successor that was stopped: lease %d of %q", ms, sender)
	}
}

// A state in a file is let go of by its process's end: nothing is waited for.
func TestLeaseOfFile(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Location{Path: filepath.Join(t.TempDir(), "state.db")}, quiet())
	must(t, err)
	defer s.Close()
	must(t, s.Sends(t.Context(), time.Second, discard()))
	must(t, s.Lease(t.Context()))
}
