package state

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

const killCallers = 4

// writeUntilKilled is a connector in small: each caller intends a point, then settles it in one way or another; the checkpoint follows them. A
// line says what was acknowledged, after it was.
//
//	intended CALLER COMMIT     Intend returned
//	applied CALLER COMMIT      Outcome was called: on the disk when the caller's next line is there
//	void CALLER COMMIT         likewise
//	lettered CALLER COMMIT     SetAside returned
//	checkpoint COMMIT          SaveCheckpoint returned
func writeUntilKilled(path string) {
	ctx := context.Background()
	s, err := Open(ctx, place(path), Options{Logger: slog.New(slog.DiscardHandler), LockWait: time.Minute})
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fail(err)
	saved, err := s.Load(ctx)
	fail(err)
	start := connector.LSN(1)
	for k := range saved.Known {
		start = max(start, k.Position.Commit+1)
	}
	if saved.Checkpoint != nil {
		start = max(start, saved.Checkpoint.Settled.Commit+1)
	}
	var mu sync.Mutex // one line a write
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	var settled [killCallers]atomic.Uint64
	step := make(chan struct{}, 1)
	var callers sync.WaitGroup
	for c := range killCallers {
		settled[c].Store(uint64(start - 1))
		callers.Go(func() {
			for n := start; ; n++ {
				id := point("m", at(n, uint32(c)), 0)
				fail(s.Intend(ctx, []connector.RecordID{id}))
				say("intended %d %d", c, n)
				switch n % 5 {
				case 0:
					fail(s.SetAside(ctx, []*connector.DeadLetter{letter(id, connector.ClassUncertain)}))
					say("lettered %d %d", c, n)
				case 1:
					s.Outcome(id, false)
					say("void %d %d", c, n)
				default:
					s.Outcome(id, true)
					say("applied %d %d", c, n)
				}
				settled[c].Store(uint64(n))
				select {
				case step <- struct{}{}:
				default:
				}
			}
		})
	}
	callers.Go(func() {
		last := uint64(0)
		for range step {
			low := settled[0].Load()
			for c := range settled {
				low = min(low, settled[c].Load())
			}
			// Some stay uncovered, for the parent to look at.
			if low < 40 || low-40 <= last {
				continue
			}
			last = low - 40
			fail(s.SaveCheckpoint(ctx, checkpoint(at(connector.LSN(last), killCallers))))
			say("checkpoint %d", last)
		}
	})
	callers.Wait()
}

// acknowledged is what the child's lines promise.
type acknowledged struct {
	// last is the last line of each point, sure whether something that waits for the disk was acknowledged after it.
	last map[connector.RecordKey]string
	sure map[connector.RecordKey]bool
	// open are the points of each caller that have a line which is not sure yet.
	open       [killCallers][]connector.RecordKey
	lettered   map[connector.RecordKey]bool
	checkpoint connector.LSN
	lines      int
}

func (a *acknowledged) take(t *testing.T, line string) {
	a.lines++
	word, rest, _ := strings.Cut(line, " ")
	if word == "checkpoint" {
		_, err := fmt.Sscan(rest, &a.checkpoint)
		must(t, err)
		return
	}
	var c int
	var n connector.LSN
	_, err := fmt.Sscan(rest, &c, &n)
	must(t, err)
	key := point("m", at(n, uint32(c)), 0).Key()
	a.last[key] = word
	switch word {
	case "applied", "void":
		a.sure[key] = false
		a.open[c] = append(a.open[c], key)
		return
	case "lettered":
		a.lettered[key] = true
	}
	a.sure[key] = true
	for _, k := range a.open[c] {
		a.sure[k] = true
	}
	a.open[c] = nil
}

// place reads what the parent has put into childPath: a path or a DSN.
func place(text string) Location {
	if strings.HasPrefix(text, "postgres://") {
		return Location{DSN: text}
	}
	return Location{Path: text}
}

// TestKilled kills a writing process at random moments, again and again on one state, and looks for all that it acknowledged.
func TestKilled(t *testing.T) {
	t.Parallel()
	t.Run("file", func(t *testing.T) { killed(t, filepath.Join(t.TempDir(), "state.db"), 8) })
	t.Run("server", func(t *testing.T) { killed(t, pgtest.Server(t).Database(t).DSN(), 5) })
}

func killed(t *testing.T, path string, rounds int) {
	a := &acknowledged{last: map[connector.RecordKey]string{}, sure: map[connector.RecordKey]bool{}, lettered: map[connector.RecordKey]bool{}}
	for round := range rounds {
		c := child("write", path)
		out, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		lines := bufio.NewScanner(out)
		before := a.lines
		for stop := before + 20 + rand.IntN(1500); lines.Scan(); {
			a.take(t, lines.Text())
			if a.lines == stop {
				must(t, c.Process.Kill())
				// What was in the pipe by then was acknowledged, too.
			}
		}
		if err := c.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the child ended by itself: %v", err)
		}
		a.killed()
		s, err := Open(t.Context(), place(path), Options{Logger: slog.New(slog.DiscardHandler), LockWait: time.Minute})
		must(t, err)
		a.compare(t, round, s)
		must(t, s.Close())
	}
	t.Logf("%d lines, checkpoint %s, %d letters", a.lines, a.checkpoint, len(a.lettered))
}

// allowed gives what may be known of a point: what its last line says, or a step that the child took after it and could not tell of.
func (a *acknowledged) allowed(key connector.RecordKey) []connector.Known {
	settled := connector.Applied
	switch key.Position.Commit % 5 {
	case 0:
		settled = connector.Lettered
	case 1:
		settled = connector.Unknown
	}
	if a.last[key] != "intended" && a.sure[key] {
		return []connector.Known{settled}
	}
	return []connector.Known{connector.Intended, settled}
}

// killed forgets outcomes that were in the child's memory.
func (a *acknowledged) killed() { a.open = [killCallers][]connector.RecordKey{} }

func (a *acknowledged) compare(t *testing.T, round int, s *Store) {
	saved := load(t, s)
	var settled connector.Position
	if saved.Checkpoint != nil {
		settled = saved.Checkpoint.Settled
	}
	if settled.Commit < a.checkpoint {
		t.Errorf("round %d: the checkpoint is %s, %s was acknowledged", round, settled, a.checkpoint)
	}
	for key := range a.last {
		if key.Position.Compare(settled) <= 0 {
			continue
		}
		if known := saved.Known[key]; !slices.Contains(a.allowed(key), known) {
			t.Errorf("round %d: %v is known as %d, acknowledged was %q (sure: %t)", round, key.Position, known, a.last[key], a.sure[key])
		}
	}
	letters, err := s.Letters(t.Context(), Filter{})
	must(t, err)
	stored := map[connector.RecordKey]bool{}
	for _, l := range letters {
		stored[l.Key()] = true
	}
	for key := range a.lettered {
		if !stored[key] {
			t.Errorf("round %d: the letter of %v is gone", round, key.Position)
		}
	}
}
