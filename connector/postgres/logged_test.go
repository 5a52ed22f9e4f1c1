package postgres

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// logLines is a log that a test can wait for.
type logLines struct {
	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

func newLogLines() *logLines { return &logLines{changed: make(chan struct{})} }

// Write takes a line of a slog.TextHandler.
func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

// count gives how many lines have all of words.
func (l *logLines) count(words ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.having(words)
}

func (l *logLines) having(words []string) (n int) {
lines:
	for _, line := range l.lines {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

// until waits for the nth line that has all of words.
func (l *logLines) until(t *testing.T, n int, words ...string) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		l.mu.Lock()
		ok, changed, all := l.having(words) >= n, l.changed, strings.Join(l.lines, "")
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("the log does not say %q %d times:\n%s", words, n, all)
		}
	}
}

// runLogged is runLine with a timing and a log.
func runLogged(t *testing.T, db *pgtest.DB, cfg Config, p *Prepared, r *recorder, timing timing, lines *logLines) *line {
	t.Helper()
	log := slog.New(slog.NewTextHandler(lines, nil))
	src := NewSource(cfg, p, connector.NewAlarms(log), log)
	src.timing = timing
	return runSource(t, db, src, cfg, r)
}

// runSource runs src until its test ends, or stop is called.
func runSource(t *testing.T, db *pgtest.DB, src *Source, cfg Config, r *recorder) *line {
	t.Helper()
	l := &line{recorder: r, db: db, slot: cfg.Slot, src: src}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx, r) }()
	l.stop = sync.OnceValue(func() error {
		cancel()
		close(r.finished)
		return <-done
	})
	t.Cleanup(func() {
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}
