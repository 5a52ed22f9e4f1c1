package delivery

import (
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestSettledBeforeTheNextGoes: the pipeline has been told of a record before the next one of its customer may be sent. A checkpoint in between would else
// know the later one alone as settled, and a kill would bring the earlier one again, behind it.
func TestSettledBeforeTheNextGoes(t *testing.T) {
	entered, release := make(chan bool, 10), make(chan struct{})
	rig := start(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		entered <- true
		<-release
		return delivered(n, req)
	})
	told := make(chan [2]int, 2)
	rig.Delivery.mu.Lock()
	rig.ports.Settle = func(rs []*connector.Record) {
		for _, r := range rs {
			told <- [2]int{int(r.Position.Index), rig.queue.pending}
		}
	}
	rig.Delivery.mu.Unlock()
	rig.Submit([]*connector.Record{group(1, "add", 7)})
	rig.Submit([]*connector.Record{group(2, "delete", 7)})
	rig.Flush()
	<-entered
	close(release)
	// The record itself is pending still when the pipeline is told, so that the one behind it waits.
	for _, want := range [][2]int{{1, 2}, {2, 1}} {
		if got := <-told; got != want {
			t.Errorf("record %d was settled with %d pending, want record %d with %d", got[0], got[1], want[0], want[1])
		}
	}
}
