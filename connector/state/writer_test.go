package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// hold stops the writer inside a transaction until release is called; what comes meanwhile gathers. The error is that of the transaction.
func hold(t *testing.T, s *Store) (release func() error) {
	holding, released, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		var once sync.Once
		done <- s.w.q.do(context.Background(), func(*writer) error {
			once.Do(func() { close(holding) })
			<-released
			return nil
		})
	}()
	<-holding
	return func() error {
		close(released)
		return <-done
	}
}

// queued waits until n operations are queued.
func queued(t *testing.T, s *Store, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d operations are queued", n), func() bool {
		s.w.q.mu.Lock()
		defer s.w.q.mu.Unlock()
		if len(s.w.q.ops) > n {
			t.Fatalf("%d operations are queued, not %d", len(s.w.q.ops), n)
		}
		return len(s.w.q.ops) == n
	})
}

// eventually asks until it is so, for half a minute at most.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !so(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("it never comes that %s", what)
		}
	}
}

// onWriter runs f where the writer's connection is free for it.
func onWriter(t *testing.T, s *Store, f func(w *writer) error) {
	t.Helper()
	must(t, s.w.q.do(t.Context(), f))
}

// fill makes the disk as good as full: the file may not grow by one page. It gives the undoing.
func fill(t *testing.T, s *Store) (lift func()) {
	onWriter(t, s, func(w *writer) error {
		_, err := w.medium.(*file).conn.ExecContext(t.Context(), "PRAGMA max_page_count = 1")
		return err
	})
	return func() {
		t.Helper()
		onWriter(t, s, func(w *writer) error {
			_, err := w.medium.(*file).conn.ExecContext(t.Context(), "PRAGMA max_page_count = 1000000")
			return err
		})
	}
}

// large makes a letter that no page of the file has room for.
func large(n int) *connector.DeadLetter {
	l := letter(point("large", at(connector.LSN(n), 0), 0), connector.ClassRejected)
	l.Payload = fmt.Appendf(nil, "%q", strings.Repeat("x", 100_000))
	return l
}

func TestGroupCommit(t *testing.T) {
	groupCommit(t, openTest(t, filepath.Join(t.TempDir(), "state.db")))
}

func groupCommit(t *testing.T, s *Store) {
	t.Helper()
	release := hold(t, s)
	const callers = 16
	var done sync.WaitGroup
	for c := range callers {
		done.Go(func() {
			if err := s.Intend(t.Context(), []connector.RecordID{point("m", at(1, uint32(c)), 0)}); err != nil {
				t.Error(err)
			}
		})
	}
	queued(t, s, callers)
	for c := range callers {
		s.Outcome(point("m", at(1, uint32(c)), 0), true)
	}
	must(t, release())
	done.Wait()
	if got := s.Stats(); got != (Stats{Commits: 2, Operations: 1 + 2*callers}) {
		t.Errorf("%d callers beside a slow commit made %+v", callers, got)
	}
	for _, known := range load(t, s).Known {
		if known != connector.Applied {
			t.Errorf("known %d", known)
		}
	}
}

func TestOutcomeAloneIsWritten(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	id := point("m", at(1, 0), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{id}))
	s.Outcome(id, true)
	eventually(t, "the outcome is on the disk", func() bool { return load(t, s).Known[id.Key()] == connector.Applied })
}

func TestRefusalHitsOnlyItself(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	before := s.Stats().Commits
	release := hold(t, s)
	results := make(chan error, 3)
	// Each is judged by what stands before it in the same transaction.
	for i, commit := range []connector.LSN{7, 6, 8} {
		go func() { results <- s.SaveCheckpoint(t.Context(), checkpoint(at(commit, 0))) }()
		queued(t, s, i+1)
	}
	must(t, release())
	refused := 0
	for range 3 {
		if err := <-results; errors.Is(err, ErrRefused) {
			refused++
		} else {
			must(t, err)
		}
	}
	if refused != 1 || load(t, s).Checkpoint.Settled != at(8, 0) || s.Stats().Commits != before+2 {
		t.Errorf("%d refused, settled %s, %+v", refused, load(t, s).Checkpoint.Settled, s.Stats())
	}
}

func TestUnchangedRangesAreNotRewritten(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	written := func() (n int) {
		onWriter(t, s, func(w *writer) error {
			return w.medium.(*file).conn.QueryRowContext(t.Context(), "SELECT total_changes()").Scan(&n)
		})
		return n
	}
	far := connector.Range{From: at(50, 0), To: at(60, 0)}
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0), far)))
	before := written()
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(6, 0), far)))
	if rows := written() - before; rows != 1 {
		t.Errorf("%d rows written for the same ranges", rows)
	}
	far.To = at(61, 0)
	before = written()
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(6, 0), far)))
	if rows := written() - before; rows != 2 {
		t.Errorf("%d rows written for other ranges", rows)
	}
}

func TestFullDisk(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	settled, open := point("m", at(1, 0), 0), point("m", at(1, 1), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{settled, open}))
	far := connector.Range{From: at(50, 0), To: at(60, 0)}
	lift := fill(t, s)

	release := hold(t, s)
	results := make(chan error, 3)
	s.Outcome(settled, true)
	for i, call := range []func() error{
		func() error { return s.SaveCheckpoint(t.Context(), checkpoint(at(0, 9), far)) },
		func() error { return s.SetAside(t.Context(), []*connector.DeadLetter{large(1)}) },
		func() error { return s.Intend(t.Context(), []connector.RecordID{point("m", at(2, 0), 0)}) },
	} {
		go func() { results <- call() }()
		queued(t, s, i+2)
	}
	must(t, release())
	for range 3 {
		if err := <-results; code(err) != sqlite3.SQLITE_FULL || !strings.Contains(err.Error(), "free space") {
			t.Errorf("on a full disk: %v", err)
		}
	}
	lift()
	// Whatever is acknowledged now stands behind the outcome that the failed transaction held.
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{large(1)}))
	saved := load(t, s)
	want := map[connector.RecordKey]connector.Known{settled.Key(): connector.Applied, open.Key(): connector.Intended, large(1).Key(): connector.Lettered}
	if saved.Checkpoint != nil || !maps.Equal(saved.Known, want) {
		t.Errorf("checkpoint %+v, known %v", saved.Checkpoint, saved.Known)
	}
	// The checkpoint that failed counts for nothing: an earlier one is no step back, and its ranges are written though they are the same.
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(0, 5), far)))
	if cp := load(t, s).Checkpoint; cp.Settled != at(0, 5) || !slices.Equal(cp.Ranges, []connector.Range{far}) {
		t.Errorf("the checkpoint is %+v", cp)
	}
	if got := s.Stats(); got.Failures != 1 {
		t.Errorf("%+v", got)
	}
}

func TestKeptOutcomeIsRetriedByItself(t *testing.T) {
	var log lockedBuffer
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(t.Context(), Location{Path: path}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	t.Cleanup(func() { s.Close() })
	id, second := point("m", at(1, 0), 0), point("m", at(1, 1), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{id, second}))
	// A condition of the writer alone, so that nothing but its own clock makes it try again.
	blocked := errors.New("the disk is gone")
	var mu sync.Mutex
	failing, tried := true, make(chan struct{}, 100)
	s.w.q.put(&operation{apply: func(*writer) error {
		mu.Lock()
		defer mu.Unlock()
		if failing {
			tried <- struct{}{}
			return blocked
		}
		return nil
	}})
	s.Outcome(id, true)
	for range 2 {
		select {
		case <-tried:
		case <-time.After(30 * time.Second):
			t.Fatal("it is not tried again")
		}
	}
	if err := s.SaveCheckpoint(t.Context(), checkpoint(at(0, 1))); !errors.Is(err, blocked) {
		t.Errorf("a later call went through before the outcome: %v", err)
	}
	s.Outcome(second, true)
	mu.Lock()
	failing = false
	mu.Unlock()
	eventually(t, "the outcomes are on the disk", func() bool { return load(t, s).Known[second.Key()] == connector.Applied })
	if got := load(t, s).Known[id.Key()]; got != connector.Applied {
		t.Errorf("the second outcome is there, the first is known as %d", got)
	}
	must(t, s.Close())
	if text := log.String(); strings.Count(text, "can't be stored") != 1 || strings.Count(text, "can be stored again") != 1 {
		t.Errorf("the log: %s", text)
	}
}

func TestCloseSaysWhatIsNotStored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path)
	id := point("m", at(1, 0), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{id}))
	release := hold(t, s)
	s.w.q.put(&operation{apply: func(*writer) error { return errors.New("the disk is gone") }})
	s.Outcome(id, true)
	must(t, release())
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "2 outcomes") || !strings.Contains(err.Error(), "uncertain") {
		t.Errorf("Close: %v", err)
	}
	if got := load(t, openTest(t, path)).Known[id.Key()]; got != connector.Intended {
		t.Errorf("known %d", got)
	}
}

// A letter that SQLite can't take fails alone; the others of its transaction are stored.
func TestOversizedLetterFailsAlone(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	onWriter(t, s, func(w *writer) error {
		_, err := sqlite.Limit(w.medium.(*file).conn, sqlite3.SQLITE_LIMIT_LENGTH, 50_000)
		return err
	})
	fine, settled := point("m", at(2, 0), 0), point("m", at(3, 0), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{settled}))
	release := hold(t, s)
	s.Outcome(settled, true)
	small := letter(point("small", at(1, 1), 0), connector.ClassRejected)
	tooBig, fits := make(chan error, 1), make(chan error, 1)
	go func() { tooBig <- s.SetAside(t.Context(), []*connector.DeadLetter{small, large(1)}) }()
	queued(t, s, 2)
	go func() { fits <- s.Intend(t.Context(), []connector.RecordID{fine}) }()
	queued(t, s, 3)
	must(t, release())
	if err := <-tooBig; code(err) != sqlite3.SQLITE_TOOBIG {
		t.Errorf("the oversized letter: %v", err)
	}
	must(t, <-fits)
	want := map[connector.RecordKey]connector.Known{settled.Key(): connector.Applied, fine.Key(): connector.Intended}
	if got := load(t, s).Known; !maps.Equal(got, want) {
		t.Errorf("known %v", got)
	}
}

func TestCallerThatGoesAway(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	taken, waiting := point("m", at(1, 0), 0), point("m", at(2, 0), 0)

	// Withdrawn while it waits: never done.
	release := hold(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- s.Intend(ctx, []connector.RecordID{waiting}) }()
	queued(t, s, 1)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "may be") {
		t.Errorf("withdrawn: %v", err)
	}
	must(t, release())

	// Taken already: done all the same, and the error says that it may be.
	ctx, cancel = context.WithCancel(t.Context())
	inside, released := make(chan struct{}), make(chan struct{})
	go func() {
		result <- s.w.q.do(ctx, func(w *writer) error {
			close(inside)
			<-released
			return w.exec(intendPoint, keyArgs(taken.Key())...)
		})
	}()
	<-inside
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "may be on the disk") {
		t.Errorf("taken: %v", err)
	}
	close(released)
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(0, 1))))
	if got, want := load(t, s).Known, map[connector.RecordKey]connector.Known{taken.Key(): connector.Intended}; !maps.Equal(got, want) {
		t.Errorf("known %v", got)
	}
}

func TestQueueIsBounded(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	release := hold(t, s)
	var done sync.WaitGroup
	id := point("m", at(1, 0), 0)
	for range maxWaiting {
		done.Go(func() {
			if err := s.Intend(t.Context(), []connector.RecordID{id}); err != nil {
				t.Error(err)
			}
		})
	}
	queued(t, s, maxWaiting)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- s.Intend(ctx, []connector.RecordID{point("m", at(2, 0), 0)}) }()
	s.Outcome(id, true) // never waits for a place
	queued(t, s, maxWaiting+1)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("beyond the bound: %v", err)
	}
	must(t, release())
	done.Wait()
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(0, 1))))
	if got, want := load(t, s).Known, map[connector.RecordKey]connector.Known{id.Key(): connector.Applied}; !maps.Equal(got, want) {
		t.Errorf("known %v", got)
	}
}

// A run joins what lies in many ranges, and ends before anything that is not covered.
func TestRunsAreFew(t *testing.T) {
	cp := checkpoint(at(10, 0))
	for i := range 5000 {
		cp.Ranges = append(cp.Ranges, connector.Range{From: at(connector.LSN(20+2*i), 0), To: at(connector.LSN(20+2*i), 9)})
	}
	r := runs{}
	add := func(lsn int64, idx uint32) {
		r.add(storedPosition{lsn, idx}, cp.Covers(at(connector.LSN(lsn), idx)))
	}
	for i := range 5000 {
		add(int64(20+2*i), 5)
		if i == 3000 {
			add(int64(20+2*i), 10)
		}
	}
	want := []run{{storedPosition{20, 5}, storedPosition{6020, 5}}, {storedPosition{6022, 5}, storedPosition{10018, 5}}}
	if !slices.Equal(r.list, want) {
		t.Errorf("got %v, want %v", r.list, want)
	}
}

// lockedBuffer takes the log of the writer's goroutine.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
