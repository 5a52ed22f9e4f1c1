package delivery

import (
	"fmt"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestBackfillYields: what the stream brings goes before what a backfill does, but for one batch of four; where either can't be sent now the other one goes.
func TestBackfillYields(t *testing.T) {
	q := newQueue()
	e := &endpoint{name: connector.EventEndpoint, most: 1}
	for i := range uint64(12) {
		rec := &connector.Record{RecordID: connector.RecordID{Mapping: fmt.Sprint(i)}, Kind: connector.Event, Keys: []uint64{i}}
		if i < 6 { // it was there first
			rec.Backfill, rec.Row = 7, fmt.Sprint(i)
		}
		q.add(rec, e, nil)
	}
	all := func(*lane) bool { return true }
	got := ""
	for l := e.chooseFirst(1, q.serial, all); l != nil; l = e.chooseFirst(1, q.serial, all) {
		if q.take(l, 1, 1, 1<<20, false); l.key.backfill {
			got += "f"
		} else {
			got += "s"
		}
	}
	if want := "sssfsssfffff"; got != want {
		t.Errorf("it goes %s, want %s", got, want)
	}
	// A customer's record of the stream waits for the one of the backfill before it.
	for i := range 2 {
		q.add(&connector.Record{RecordID: connector.RecordID{Backfill: int64(1 - i)}, Kind: connector.Event, Keys: []uint64{77}}, e, nil)
	}
	if l := e.chooseFirst(1, q.serial, all); l == nil || !l.key.backfill {
		t.Errorf("the stream's record goes before the backfill's of the same customer")
	}
}
