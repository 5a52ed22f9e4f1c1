package connector

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestTellsOfLetters: who pauses delivery for too many dead letters is told of those of class mapping that were stored and count: not of a mapping
// that was given up as a whole.
func TestTellsOfLetters(t *testing.T) {
	script := &script{play: func(sink Sink) {
		for i, table := range []string{"mm", "m!", "e"} {
			if err := sink.Change(change(LSN(10*i+10), 0, table)); err != nil {
				t.Error(err)
			}
			sink.Commit(LSN(10*i+10), LSN(10*i+15), time.Time{})
		}
	}}
	var told atomic.Int64
	cp := &Checkpoint{Flush: 5, Tracks: []Track{{Mapping: "h", Since: Position{Commit: 10}, Settled: Position{Commit: 9}, SetAside: true}}}
	s := play(t, &Saved{Checkpoint: cp}, script, func(s *stage) { s.lettered = func(n int) { told.Add(int64(n)) } })
	s.store.until(func() bool { return len(s.store.saved) > 0 && s.store.saved[len(s.store.saved)-1].Flush == 35 })
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if len(s.store.letters) != 4 || told.Load() != 3 {
		t.Errorf("%d letters were stored, of %d it was told; want 4 and 3", len(s.store.letters), told.Load())
	}
}
