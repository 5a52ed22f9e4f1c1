package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// capture streams a database and maps what comes, in this process and without a platform: for tests that compare what becomes of many rows.
type capture struct {
	set    *mapping.Set
	mapper connector.Mapper
	out    connector.Output // the source's goroutine only

	mu       sync.Mutex
	changes  []string // what show gave of each, in the stream's order
	show     func(*connector.Change, *connector.Output) string
	changed  chan struct{}
	flush    connector.LSN
	finished chan struct{}
	source   *postgres.Source
	ended    chan struct{} // the source has ended, with err
	err      error
}

func (c *capture) Resume() connector.LSN { return c.Confirmed() }

func (c *capture) Change(change *connector.Change) error {
	c.out.Reset()
	c.mapper.Map(change, connector.Part{}, &c.out)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes = append(c.changes, c.show(change, &c.out))
	for _, r := range c.out.Records { // as the pipeline does once they are settled
		c.out.Recycle(r)
	}
	return nil
}

func (c *capture) Commit(_, end connector.LSN, _ time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush = max(c.flush, end)
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *capture) KeepAlive(connector.LSN)              {}
func (c *capture) Dry()                                 {}
func (c *capture) Watermark(string, connector.Position) {}
func (c *capture) Room() <-chan struct{}                { return nil }

func (c *capture) Confirmed() connector.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush
}

func (c *capture) Finished() <-chan struct{} { return c.finished }

// decodeSet reads the list of mappings that stands in text.
func decodeSet(t testing.TB, text string) *mapping.Set {
	t.Helper()
	var ps strict.Problems
	set := &mapping.Set{}
	set.Decode(strict.Parse("m.yaml", []byte(text), nil, &ps), &ps)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	return set
}

// newMapper makes a mapper of the set, the same each time.
func newMapper(set *mapping.Set) connector.Mapper {
	return set.Mapper(mapping.Options{SystemID: "1", Database: "crm", TimeZone: typesZone})
}

var typesZone = func() *time.Location {
	zone, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		panic(err)
	}
	return zone
}()

// startCapture makes publications and slot, and streams from there on until the test ends. show makes of a change what the test wants to see of it.
func startCapture(t *testing.T, dsn, slot, mappings string, show func(*connector.Change, *connector.Output) string) *capture {
	t.Helper()
	set := decodeSet(t, mappings)
	log := slog.New(slog.DiscardHandler)
	cfg := postgres.Config{DSN: dsn, Slot: slot, Publication: slot, Uses: uses(set), ReadInBursts: true}
	p, err := postgres.Prepare(t.Context(), cfg, &connector.Saved{}, func([]*connector.Table) error { return nil }, connector.NewAlarms(log), log)
	if err != nil {
		t.Fatal(err)
	}
	c := &capture{set: set, mapper: newMapper(set), show: show,
		changed: make(chan struct{}), flush: p.Checkpoint.Flush, finished: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	c.ended = make(chan struct{})
	c.source = postgres.NewSource(cfg, p, connector.NewAlarms(log), log)
	go func() { c.err = c.source.Run(ctx, c); close(c.ended) }()
	t.Cleanup(func() {
		cancel()
		close(c.finished)
		if <-c.ended; c.err != nil {
			t.Error(c.err)
		}
	})
	return c
}

// wait waits for n changes, whole transactions, and gives them.
func (c *capture) wait(t *testing.T, n int) []string {
	t.Helper()
	timeout := time.After(wait)
	for {
		c.mu.Lock()
		got, changed := slices.Clone(c.changes), c.changed
		c.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-changed:
		case <-c.ended:
			t.Fatalf("the source ended after %d changes: %v", len(got), c.err)
		case <-timeout:
			t.Fatalf("%d changes came, want %d; the source is %s", len(got), n, c.source.Status().State)
		}
	}
}

// payloads shows what came of a change: payloads, and the reasons of dead letters and misfits.
func payloads(_ *connector.Change, out *connector.Output) string {
	text := ""
	for _, r := range out.Records {
		text += string(r.Payload) + "\n"
	}
	for _, l := range out.Letters {
		text += "letter: " + l.Reason + "\n"
	}
	for _, l := range out.Misfits {
		text += "misfit: " + l.Reason + "\n"
	}
	return text
}
