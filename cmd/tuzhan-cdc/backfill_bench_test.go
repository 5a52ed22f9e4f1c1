package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/delivery"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

// taker is a platform that takes everything at once.
type taker struct{}

func (taker) Send(context.Context, *connector.Request) connector.Answer {
	return connector.Answer{Verdict: connector.Delivered}
}
func (taker) Probe(context.Context, connector.Endpoint) connector.Answer {
	return connector.Answer{Verdict: connector.Delivered}
}

const backfillBenchRows = 500_000

// BenchmarkBackfill backfills a table of 500,000 rows of about 200 bytes as events, into a platform that takes everything at once, and reads the same columns with
// COPY before and after: rows/s, and which part of COPY's rows/s that is (of-copy; at least 0.6 is wanted).
func BenchmarkBackfill(b *testing.B) {
	db := pgtest.Server(b).Database(b)
	db.Exec(b, benchOrders, fmt.Sprintf("INSERT INTO crm.orders SELECT %s FROM generate_series(1::bigint, %d) n", benchRow, backfillBenchRows), "VACUUM ANALYZE crm.orders")
	set := decodeSet(b, benchSnapshot)
	log := slog.New(slog.DiscardHandler)
	alarms := connector.NewAlarms(log)
	cfg := postgres.Config{DSN: db.DSN(), Slot: db.SlotName(), Publication: db.SlotName(), Uses: uses(set)}
	p, err := postgres.Prepare(b.Context(), cfg, &connector.Saved{}, func([]*connector.Table) error { return nil }, alarms, log)
	if err != nil {
		b.Fatal(err)
	}
	var filled, copied time.Duration
	once, stop := startFilling(b, db, set, cfg, p, alarms, log)
	defer stop()
	for b.Loop() {
		copied += copyOut(b, db)
		filled += once()
		copied += copyOut(b, db)
	}
	rate := backfillBenchRows * float64(b.N) / filled.Seconds()
	b.ReportMetric(rate, "rows/s")
	b.ReportMetric(rate/(2*backfillBenchRows*float64(b.N)/copied.Seconds()), "of-copy")
}

func copyOut(b *testing.B, db *pgtest.DB) time.Duration {
	conn := db.Conn(b)
	began := time.Now()
	if _, err := conn.PgConn().CopyTo(b.Context(), io.Discard, "COPY (SELECT * FROM crm.orders) TO STDOUT"); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

const benchSnapshot = `
- name: order-paid
  table: crm.orders
  on: [insert, snapshot]
  event:
    publicParams: {matchingType: 1}
    eventKey: c_buy
    time: ${{ paid_at }}
    identities:
      - identityType: phone
        identityValue: ${{ phone }}
    eventargs: {c_goods: "${{ goods }}", c_price: "${{ amount }}", c_order: "${{ order_no }}", title: 下单}
`

// startFilling starts a pipeline; once runs a backfill and gives how long it took.
func startFilling(b *testing.B, db *pgtest.DB, set *mapping.Set, cfg postgres.Config, p *postgres.Prepared, alarms *connector.Alarms, log *slog.Logger) (once func() time.Duration, stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	at := state.Location{Path: filepath.Join(b.TempDir(), "state.db")}
	store, err := state.Open(ctx, at, state.Options{Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	if err := store.SaveCheckpoint(ctx, p.Checkpoint); err != nil {
		b.Fatal(err)
	}
	saved, err := store.Load(ctx)
	if err != nil {
		b.Fatal(err)
	}
	var pipeline *connector.Pipeline
	d := delivery.New(delivery.Config{Concurrency: 4, PointConcurrency: 16, MaxBatch: 500, MaxBatchBytes: 1 << 20, MaxPending: 20_000, MaxPendingBytes: 8 << 20,
		BackoffInitial: 200 * time.Millisecond, BackoffMax: 30 * time.Second, GiveUpAfter: time.Minute, MaxDeadLetters: 100, ShutdownTimeout: time.Second},
		delivery.Ports{Platform: taker{}, Store: store, Settle: func(r []*connector.Record) { pipeline.Settle(r) }, CountOpen: store.Counted, Hold: func(_, _ string) {}, Counters: connector.NewCounters(nil), Alarms: alarms, Log: log}, 0)
	pipeline = connector.NewPipeline(connector.PipelineOptions{Mapper: newMapper(set), Store: store, Saved: saved, Mappings: set.Names(), Alarms: alarms, Log: log,
		Backfills: &connector.BackfillOptions{Store: store, Rows: &postgres.Rows{DSN: db.DSN(), Publications: p.Publications}, Mapper: newMapper(set), Pending: 5000,
			Mappings: map[string]connector.BackfillMapping{"order-paid": {Schema: "crm", Name: "orders", Fingerprint: "1", Snapshot: true}}}})
	ended := make(chan error, 1)
	go func() { ended <- pipeline.Run(ctx, postgres.NewSource(cfg, p, alarms, log), d) }()
	once = func() time.Duration {
		id, err := state.AddBackfill(ctx, at, &connector.Backfill{Mapping: "order-paid", Schema: "crm", Name: "orders", Created: time.Now()})
		for err == nil {
			var fill *connector.Backfill
			if fill, err = store.Backfill(ctx, id); err != nil {
				break
			}
			switch {
			case fill.Status == connector.BackfillDone && fill.Rows == backfillBenchRows:
				return fill.Ended.Sub(fill.Started)
			case fill.Status.Ended() || fill.Status == connector.BackfillPaused:
				b.Fatalf("it is %s after %d rows: %s", fill.Status, fill.Rows, fill.Reason)
			}
			select {
			case err = <-ended:
			case <-time.After(50 * time.Millisecond):
			}
		}
		b.Fatal(err)
		return 0
	}
	return once, func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	}
}
