package postgres

import (
	"context"
	"log/slog"
	"sync"
	"testing"

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
