package connector

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// marked plays a transaction that began with the skip marker; only its first n changes come (all: the length of tables).
func (s *session) marked(t *testing.T, lsn LSN, n int, tables ...string) {
	t.Helper()
	for i, table := range tables[:n] {
		c := change(lsn, uint32(i), table)
		c.Skip = true
		if err := s.Change(c); err != nil {
			t.Fatal(err)
		}
	}
	if n == len(tables) {
		s.Commit(lsn, lsn+5, change(lsn, 0, "").CommitTime)
	}
}

// TestSkippedTransaction: its changes are settled without records and counted, once, also where it comes again or was cut in its middle.
func TestSkippedTransaction(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5})
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	s.transaction(t, 10, "e")
	s.marked(t, 20, 2, "e", "em", "p")
	s.transaction(t, 10, "e") // a reconnection
	s.marked(t, 20, 3, "e", "em", "p")
	s.transaction(t, 30, "e")
	s.marked(t, 20, 3, "e", "em", "p") // and another
	expectText(t, "delivered", s.deliver(), "e10 e30")
	if p := s.Progress(); p.MarkedTransactions != 1 || p.MarkedChanges != 3 || p.Changes != 2 || p.MappingLetters != 0 {
		t.Errorf("%+v", p)
	}
	if got := strings.Count(log.String(), "transaction skipped"); got != 1 || !strings.Contains(log.String(), "commit=0/14 changes=3") {
		t.Errorf("log:\n%s", &log)
	}
	if cp := s.checkpoint(); cp.Flush != 35 || cp.Settled != (Position{30, 0}) || len(cp.Ranges) != 0 {
		t.Errorf("%+v", cp)
	}
}

// TestSkippedAcrossRestart: a restart in the middle of a skipped transaction settles the rest of it, and that is what the second process counts.
func TestSkippedAcrossRestart(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5})
	s.marked(t, 20, 2, "e", "e", "e")
	cp := s.checkpoint()
	if cp.Settled != (Position{20, 1}) || cp.Flush != 5 {
		t.Fatalf("%+v", cp)
	}
	again := newSession(cp)
	again.marked(t, 20, 3, "e", "e", "e")
	again.transaction(t, 30, "e")
	expectText(t, "delivered", again.deliver(), "e30")
	if p := again.Progress(); p.MarkedTransactions != 1 || p.MarkedChanges != 1 {
		t.Errorf("%+v", p)
	}
}

// TestSkippedWhileHeld: a skipped change holds no mapping, not even one that can't read it; one that is held passes over it when it works off
// what it missed.
func TestSkippedWhileHeld(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5})
	s.marked(t, 10, 1, "e!")
	if h := s.HeldMappings(); len(h) != 0 {
		t.Fatalf("held by a change that is skipped: %+v", h)
	}
	s.transaction(t, 20, "e!")
	s.marked(t, 30, 2, "eh", "e!")
	s.transaction(t, 40, "eh")
	expectText(t, "while held", s.deliver(), "e20 e40")
	cp := s.checkpoint()
	if len(cp.Tracks) != 1 || cp.Tracks[0].Since != (Position{20, 0}) || cp.Flush != 15 {
		t.Fatalf("%+v", cp)
	}

	mended := newSession(cp)
	mended.transaction(t, 20, "eh")
	mended.marked(t, 30, 2, "eh", "e!")
	mended.transaction(t, 40, "eh")
	mended.transaction(t, 50, "eh")
	expectText(t, "mended", mended.deliver(), "h20 h40 e50 h50")
	mended.KeepAlive(60)
	if cp := mended.checkpoint(); len(cp.Tracks) != 0 || cp.Flush != 60 {
		t.Errorf("%+v", cp)
	}

	// Where the skipped changes are the last ones, to pass over them is to catch up.
	s = newSession(&Checkpoint{Flush: 5})
	s.transaction(t, 20, "e!")
	s.marked(t, 30, 2, "eh", "e!")
	s.deliver()
	mended = newSession(s.checkpoint())
	mended.transaction(t, 20, "eh")
	mended.marked(t, 30, 2, "eh", "e!")
	expectText(t, "mended", mended.deliver(), "h20")
	mended.KeepAlive(60)
	mended.KeepAlive(60) // the first one finds that it has caught up
	if cp := mended.checkpoint(); len(cp.Tracks) != 0 || cp.Flush != 60 {
		t.Errorf("%+v", cp)
	}
}

// TestHoldAskedBeforeSkipped: a request to hold a mapping waits for a change that is not skipped.
func TestHoldAskedBeforeSkipped(t *testing.T) {
	s := newSession(&Checkpoint{Flush: 5})
	s.Hold("h", HoldMisfit, Unfit{Why: "no such column"})
	s.marked(t, 10, 1, "eh")
	s.transaction(t, 20, "eh")
	expectText(t, "delivered", s.deliver(), "e20")
	if cp := s.checkpoint(); len(cp.Tracks) != 1 || cp.Tracks[0].Since != (Position{20, 0}) {
		t.Errorf("%+v", cp)
	}
}
