package connector

import (
	"sync"
	"testing"
	"time"
)

// TestCountersOfPipeline: records made and letters stored are counted by mapping, what the state knows already is not.
func TestCountersOfPipeline(t *testing.T) {
	counters := NewCounters(nil)
	saved := &Saved{Checkpoint: &Checkpoint{Flush: 5}, Known: map[RecordKey]Known{key("p", 10, 0): Applied}}
	script := &script{play: func(sink Sink) {
		for i, table := range []string{"p", "pe", "eem", "m"} {
			commit := LSN(10 + 10*i)
			if err := sink.Change(change(commit, 0, table)); err != nil {
				t.Error(err)
			}
			sink.Commit(commit, commit+5, time.Time{})
		}
	}}
	s := play(t, saved, script, func(s *stage) {
		s.counters = map[string]*MappingCounters{"p": counters.Mapping("p"), "e": counters.Mapping("e"), "m": counters.Mapping("m")}
	})
	<-script.done
	s.store.until(func() bool { return len(s.store.letters) == 2 })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]uint64{"p": {1, 0}, "e": {3, 0}, "m": {0, 2}} {
		if c := counters.Mapping(name); c.Records.Load() != want[0] || c.Letters(ClassMapping) != want[1] || c.Letters(ClassRejected) != 0 {
			t.Errorf("%s: %d records, %d letters, want %d", name, c.Records.Load(), c.Letters(ClassMapping), want)
		}
	}
}

// TestExchanged: requests are counted by endpoint and verdict, by many at a time, and the observer is told.
func TestExchanged(t *testing.T) {
	var mu sync.Mutex
	var seen []Exchange
	c := NewCounters(func(x Exchange) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, x)
	})
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			x := Exchange{Endpoint: EventEndpoint, Records: 3, Bytes: 100, Duration: time.Second, Verdict: Delivered, HTTPStatus: 200}
			if i%5 == 0 {
				x.Verdict, x.HTTPStatus = Outage, 0
			}
			c.Exchanged(x)
		})
	}
	all.Wait()
	e := c.Endpoint(EventEndpoint)
	if e.Requests(0) != 50 || e.Requests(Delivered) != 40 || e.Requests(Outage) != 10 || e.Records.Load() != 150 || e.Bytes.Load() != 5000 ||
		time.Duration(e.Nanoseconds.Load()) != 50*time.Second || len(seen) != 50 || c.Endpoint(PointEndpoint).Requests(0) != 0 {
		t.Errorf("%d requests, %d observed", e.Requests(0), len(seen))
	}
}
