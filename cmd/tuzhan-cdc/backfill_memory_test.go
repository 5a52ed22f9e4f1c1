package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// backfillMemory backfills a table of so many rows as events; slow: the platform takes its time.
func backfillMemory(t *testing.T, db *pgtest.DB, rows int, slow time.Duration) {
	r := newRigOn(t, db, benchOrders, "mappings:"+strings.ReplaceAll(benchSnapshot, "\n", "\n  "), platformsim.Options{NoLedger: true})
	r.insert(rows, 100_000)
	if slow > 0 {
		if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Event, Count: -1, Delay: slow}); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	began := time.Now()
	r.backfill("order-paid", "--detach")
	b := r.waitFill(func(b connector.Backfill) bool { return b.Status.Ended() || b.Status == connector.BackfillPaused })
	if b.Status != connector.BackfillDone || b.Rows != int64(rows) {
		t.Errorf("%+v", b)
	}
	r.withinMemory("a backfill of " + strconv.Itoa(rows) + " rows, " + slow.String() + " a request, in " + time.Since(began).Round(time.Second).String())
}

// TestBackfillMemory is the small version of TestBackfillSoak.
func TestBackfillMemory(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	backfillMemory(t, pgtest.Server(t).Database(t), 100_000, 20*time.Millisecond)
}

// TestBackfillSoak runs where SOAK_ROWS says how large the table is (make soak).
func TestBackfillSoak(t *testing.T) {
	rows, err := strconv.Atoi(os.Getenv("SOAK_ROWS"))
	if err != nil || rows <= 0 {
		t.Skip("SOAK_ROWS is not set: make soak")
	}
	backfillMemory(t, pgtest.Private(t, "max_wal_size=16GB", "checkpoint_timeout=1h", "autovacuum=off").Database(t), rows, 0)
}
