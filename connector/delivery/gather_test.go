package delivery

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestGather: a batch that is not full waits for more while a request is on its way, for 2 ms at most; where none is, it goes at once.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		type sent struct {
			at      time.Duration
			records int
		}
		requests := make(chan sent, 10)
		rig := start(t, Config{}, func(n int, req *connector.Request) connector.Answer {
			requests <- sent{time.Since(began), len(req.Records)}
			time.Sleep(50 * time.Millisecond)
			return delivered(n, req)
		})
		// A row every half millisecond, each of which the stream calls the last one for now.
		for i := range 8 {
			rig.Submit([]*connector.Record{event(i, uint64(i))})
			rig.Flush()
			time.Sleep(500 * time.Microsecond)
		}
		time.Sleep(10 * time.Millisecond)
		for _, want := range []sent{{0, 1}, {2 * time.Millisecond, 4}, {4 * time.Millisecond, 3}} {
			if got := <-requests; got.at != want.at || got.records < want.records-1 || got.records > want.records+1 {
				t.Errorf("a request of %d records at %s, want %d at %s", got.records, got.at, want.records, want.at)
			}
		}
		if len(requests) > 0 {
			t.Errorf("%d more requests", len(requests))
		}
		time.Sleep(time.Second)
		rig.Submit([]*connector.Record{event(100, 100)})
		rig.Flush()
		if got, want := <-requests, time.Since(began); got.at != want || got.records != 1 {
			t.Errorf("the next one: %+v at %s", got, want)
		}
	})
}

// TestReadsNotFarAhead: the source waits when an endpoint has more ready than its senders take next, long before maxPending, and goes on as they take it.
func TestReadsNotFarAhead(t *testing.T) {
	release := make(chan bool)
	rig := start(t, Config{Concurrency: 2, MaxBatch: 10}, func(n int, req *connector.Request) connector.Answer {
		<-release
		return delivered(n, req)
	})
	submitted := 0
	for ; rig.Room() == nil; submitted++ {
		rig.Submit([]*connector.Record{event(submitted, uint64(submitted))})
	}
	if most := 2*10 + 3*10 + 1; submitted > most || submitted < 30 {
		t.Errorf("%d records were read ahead, want no more than %d", submitted, most)
	}
	room := rig.Room()
	close(release)
	if room != nil {
		<-room
	}
}
