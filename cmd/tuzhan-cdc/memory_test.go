package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// memoryLimit is what the connector may take at most, resident, whatever the transaction, the backlog and the platform, with the default settings.
const memoryLimit = 128 // MiB

// memoryMappings make events of rows of about 200 bytes, and a point.
const memoryMappings = benchEvent + `
  - name: first-point
    table: crm.first
    on: [insert]
    point:
      point: 1
      remark: r
      phoneList: [{phone: "${{ phone }}", isVerify: "1"}]
`

const memorySchema = benchOrders + `CREATE TABLE crm.first (id int PRIMARY KEY, phone text)`

// withinMemory checks the peak of the running program.
func (r *rig) withinMemory(what string) {
	r.t.Helper()
	peak := peakRSS(r.proc.cmd.Process.Pid)
	if peak == 0 {
		r.t.Skip("this system does not tell the memory of a process")
	}
	r.t.Logf("%s: at most %.0f MiB resident", what, peak)
	if peak > memoryLimit {
		r.t.Errorf("%s: %.0f MiB resident, the limit is %d", what, peak, memoryLimit)
	}
}

// insert writes rows in transactions of perTx.
func (r *rig) insert(rows, perTx int) {
	r.t.Helper()
	conn := r.db.Conn(r.t)
	if _, err := conn.Exec(r.t.Context(), fmt.Sprintf(`DO $$ BEGIN FOR f IN 1..%d BY %d LOOP
		INSERT INTO crm.orders SELECT %s FROM generate_series(f::bigint, least(f + %d, %d)) n; COMMIT;
	END LOOP; END $$`, rows, perTx, benchRow, perTx-1, rows)); err != nil {
		r.t.Fatal(err)
	}
}

// memoryRun is one set of a transaction or backlog and a platform.
type memoryRun struct {
	name        string
	rows, perTx int
	// delay is what each request takes.
	delay time.Duration
	// down: the platform is away until the connector is full.
	down bool
	// blocked: a point waits for its answer from before the first row until behind the last one.
	blocked bool
}

func (m memoryRun) run(t *testing.T, db *pgtest.DB, patience time.Duration) {
	r := newRigOn(t, db, memorySchema, memoryMappings, platformsim.Options{NoLedger: true})
	r.patient()
	if m.delay > 0 {
		if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Event, Count: -1, Delay: m.delay}); err != nil {
			t.Fatal(err)
		}
	}
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	r.start()
	r.watched(8)
	if m.blocked {
		if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Point, Gate: gate}); err != nil {
			t.Fatal(err)
		}
		r.db.Exec(t, `INSERT INTO crm.first VALUES (1, '13000000000')`)
		r.platform(func(s *platformsim.Sim) bool { return s.InFlight(platformsim.Point) == 1 })
	}
	if m.down {
		r.sim.Down(platformsim.DownUnavailable)
	}
	r.insert(m.rows, m.perTx)
	if m.down {
		r.full()
		r.withinMemory(m.name + ", the platform down")
		r.sim.Up()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.sim.Wait(ctx, func(s *platformsim.Sim) bool { return s.Count(platformsim.Event) >= m.rows }); err != nil {
		t.Fatal(err)
	}
	r.withinMemory(m.name)
	open()
	r.settled()
	r.withinMemory(m.name + ", settled")
}

// watched has so many pages open until the test ends.
func (r *rig) watched(pages int) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	r.t.Cleanup(func() { cancel(); all.Wait() })
	for range pages {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.address()+"/events", nil)
		if err != nil {
			r.t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			r.t.Fatal(err)
		}
		all.Go(func() {
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body) // until it is cancelled, or the connector ends
		})
	}
}

// full waits until the connector has read as much as it may.
func (r *rig) full() {
	r.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	late := time.After(wait)
	for {
		p := r.snapshot().Pending
		if p.Records >= 20_000 || p.Bytes >= 8<<20 {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatalf("it does not fill up: %+v", p)
		}
	}
}

// TestMemory is the small version of TestMemorySoak.
func TestMemory(t *testing.T) {
	t.Parallel()
	memoryRun{name: "a transaction of 200,000 rows", rows: 200_000, perTx: 200_000, down: true, blocked: true}.run(t, pgtest.Server(t).Database(t), wait)
}

// TestMemorySoak runs where SOAK_ROWS says how large the backlog is (make soak): a transaction of a fifth of that, and the backlog, with a platform that
// is fast, slow, down, or keeps one customer waiting.
func TestMemorySoak(t *testing.T) {
	rows, err := strconv.Atoi(os.Getenv("SOAK_ROWS"))
	if err != nil || rows <= 0 {
		t.Skip("SOAK_ROWS is not set: make soak")
	}
	for _, m := range []memoryRun{
		{name: "huge transaction, fast platform", rows: rows / 5, perTx: rows / 5},
		{name: "huge transaction, slow platform", rows: rows / 5, perTx: rows / 5, delay: 100 * time.Millisecond},
		{name: "huge transaction, platform down, then up", rows: rows / 5, perTx: rows / 5, down: true},
		{name: "backlog, platform down, then up, one customer blocked", rows: rows, perTx: 1000, down: true, blocked: true},
		{name: "backlog of one-row transactions, slow platform, one customer blocked", rows: rows / 5, perTx: 1, delay: 20 * time.Millisecond, blocked: true},
	} {
		t.Run(m.name, func(t *testing.T) {
			started := time.Now()
			m.run(t, pgtest.Private(t, "max_wal_size=16GB", "checkpoint_timeout=1h", "autovacuum=off").Database(t), time.Hour)
			t.Logf("%d rows in %s", m.rows, time.Since(started).Round(time.Second))
		})
	}
}
