package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"
)

// BenchmarkEndToEnd measures the real program from a slot to a sink, with default delivery settings, and prints a table at the end.
//
//   - W1, W2, W3: a backlog of events (1,000 rows a transaction; one; all in one) is drained beside pg_recvlogical, which reads the same WAL
//     from a copy of the same slot and throws it away: in turns, BENCH_ROUNDS (3) times, BENCH_ROWS (500,000) rows, of W2 a fourth.
//   - The same with rows of 3 KB and of 100 KB (a 30th and a 200th of the rows), half of the rows with updates under REPLICA IDENTITY FULL whose condition compares old
//     and new row, with group relations, over the server's Unix socket (pg_recvlogical too), and with a platform that takes 50 ms to answer.
//   - Latency: from the client's COMMIT to the request at the sink, 100 transactions of one row a second.
//   - Points: a backlog of BENCH_ROWS/20 points, one a request, intents on disk first.
//
// With -benchtime 1x it only shows that it still works: 5,000 rows, one round. Processes start within the measurement; so the fewer
// the rows, the more of what is measured is their start.
//
// It needs PostgreSQL's binaries on the machine, pg_recvlogical among them.
func BenchmarkEndToEnd(b *testing.B) {
	size := newBenchSize(b)
	server, s := newBenchServer(b), newSink(b)
	t := &benchTable{size: size, server: server.cluster.Version()}
	for _, w := range benchWorkloads(size.rows) {
		b.Run(w.name, func(b *testing.B) {
			t.drains = append(t.drains, benchDrain(b, server, s, size, w))
		})
	}
	b.Run("Latency", func(b *testing.B) { t.latency = benchLatency(b, server, s, size) })
	b.Run("Points", func(b *testing.B) { t.points = benchPoints(b, server, s, size) })
	if !b.Failed() {
		fmt.Print(t)
	}
}

// benchSize says how much is measured.
type benchSize struct {
	rows, rounds, points int
	transactions         int // of Latency
}

func newBenchSize(b *testing.B) benchSize {
	size := benchSize{rows: 500_000, rounds: 3, transactions: 1000}
	if f := flag.Lookup("test.benchtime"); f != nil && f.Value.String() == "1x" {
		size = benchSize{rows: 5000, rounds: 1, transactions: 100}
	}
	for name, value := range map[string]*int{"BENCH_ROWS": &size.rows, "BENCH_ROUNDS": &size.rounds} {
		text, ok := os.LookupEnv(name)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			b.Fatalf("%s=%s: want a number from 1 on", name, text)
		}
		*value = n
	}
	size.points = max(1, size.rows/20)
	return size
}

// drained is one turn of a consumer.
type drained struct {
	usage
	took      time.Duration // from the start of the process to the last row at the sink (pg_recvlogical: to its end)
	confirmed time.Duration // to the confirmation of all of it on the slot
	first     time.Duration // to the first request
	requests  int
}

// drainResult are the medians over the rounds.
type drainResult struct {
	name                         string
	rate, confirmed, peer, ratio float64 // rows a second; ratio is the median of the rounds' ratios
	first                        float64 // milliseconds
	requests                     float64 // for 1,000 rows
	cpu, peerCPU                 float64 // µs a row
	rss                          float64 // MiB, the largest of all rounds
}

// workload is a backlog, and what is made of it.
type workload struct {
	name        string
	rows, perTx int
	row         string   // SQL of the columns of row n
	setup       []string // SQL before the slot begins
	change      string   // SQL that changes the rows from f on; empty: they are inserted
	mappings    string
	unix        bool
	delay       time.Duration // of the platform's answers
}

func benchWorkloads(rows int) []workload {
	wide := func(md5s int) string {
		return strings.Replace(benchRow, "repeat(md5(n::text), 3)", fmt.Sprintf("repeat(md5(n::text), %d)", md5s), 1)
	}
	half := max(1, rows/2)
	unpaid := strings.Replace(benchRow, "'paid'", "'new'", 1)
	return []workload{
		{name: "W1", rows: rows, perTx: 1000, row: benchRow, mappings: benchEvent},
		{name: "W2", rows: max(1, rows/4), perTx: 1, row: benchRow, mappings: benchEvent},
		{name: "W3", rows: rows, perTx: rows, row: benchRow, mappings: benchEvent},
		{name: "Rows3KB", rows: max(1, rows/30), perTx: 1000, row: wide(94), mappings: benchEvent},
		{name: "Rows100KB", rows: max(1, rows/200), perTx: 100, row: wide(3200), mappings: benchEvent},
		{name: "UpdatesFull", rows: half, perTx: 1000, mappings: benchUpdate, change: "UPDATE crm.orders SET status = 'paid' WHERE id BETWEEN f AND f + 999",
			setup: []string{"ALTER TABLE crm.orders REPLICA IDENTITY FULL", fmt.Sprintf("INSERT INTO crm.orders SELECT %s FROM generate_series(1::bigint, %d) n", unpaid, half)}},
		{name: "Groups", rows: half, perTx: 1000, row: benchRow, mappings: benchGroups},
		{name: "UnixSocket", rows: half, perTx: 1000, row: benchRow, mappings: benchEvent, unix: true},
		{name: "Platform50ms", rows: half, perTx: 1000, row: benchRow, mappings: benchEvent, delay: 50 * time.Millisecond},
	}
}

func benchDrain(b *testing.B, server *benchServer, s *sink, size benchSize, w workload) drainResult {
	name := w.name
	db := server.newBenchDB(b, strings.ToLower(name), w.setup...)
	if w.unix {
		db.overSocket(b)
	}
	db.load(b, w)
	s.delay.Store(int64(w.delay))
	defer s.delay.Store(0)
	n := float64(w.rows)
	var c [9][]float64
	for round := range b.N * size.rounds {
		ours, theirs := db.copySlot(b, "connector"), db.copySlot(b, "recvlogical")
		var mine drained
		var peer time.Duration
		var peerUsage usage
		// They take turns in being the first, so that neither always finds the other's WAL in the cache.
		turns := []func(){
			func() { peer, peerUsage = recvlogical(b, db, theirs) },
			func() { mine = drain(b, db, s, ours, w.mappings, w.rows) },
		}
		turns[round%2]()
		turns[1-round%2]()
		db.drop(b, ours)
		db.drop(b, theirs)
		for i, v := range []float64{n / mine.took.Seconds(), n / mine.confirmed.Seconds(), n / peer.Seconds(), peer.Seconds() / mine.took.Seconds(),
			mine.first.Seconds() * 1e3, float64(mine.requests) / n * 1000, mine.cpu.Seconds() * 1e6 / n, peerUsage.cpu.Seconds() * 1e6 / n, mine.rss} {
			c[i] = append(c[i], v)
		}
	}
	r := drainResult{name: name, rate: median(c[0]), confirmed: median(c[1]), peer: median(c[2]), ratio: median(c[3]), first: median(c[4]),
		requests: median(c[5]), cpu: median(c[6]), peerCPU: median(c[7]), rss: slices.Max(c[8])}
	b.ReportMetric(0, "ns/op") // an op would be a whole measurement
	b.ReportMetric(r.rate, "rows/s")
	b.ReportMetric(r.peer, "pg_recvlogical-rows/s")
	b.ReportMetric(r.ratio, "x-pg_recvlogical")
	b.ReportMetric(r.requests, "requests/krow")
	b.ReportMetric(1000/r.requests, "records/request")
	b.ReportMetric(r.cpu, "cpu-µs/row")
	b.ReportMetric(r.rss, "peak-MiB")
	return r
}

// drain has the connector bring a backlog to the sink, waits until it is confirmed, and stops it.
func drain(b *testing.B, db *benchDB, s *sink, slot, mappings string, records int, args ...string) drained {
	b.Helper()
	run := s.expect(records, nil)
	p := startConnector(b, db, s, slot, mappings, args...)
	p.await(b, run)
	d := drained{took: run.all.Sub(p.started), first: run.first.Sub(p.started)}
	db.until(b, "confirmation of "+db.end, func(ctx context.Context) (done bool, err error) {
		return done, db.conn.QueryRow(ctx, "SELECT confirmed_flush_lsn >= $2::pg_lsn FROM pg_replication_slots WHERE slot_name = $1",
			slot, db.end).Scan(&done)
	})
	d.confirmed = time.Since(p.started)
	d.usage = p.stop(b)
	came, requests := s.counts(run)
	if d.requests = requests; came != records {
		b.Fatalf("%d records came, want %d", came, records)
	}
	return d
}

// latencyResult are milliseconds from the client's COMMIT to the request at the sink.
type latencyResult struct{ p50, p99, most float64 }

func benchLatency(b *testing.B, server *benchServer, s *sink, size benchSize) *latencyResult {
	const every, warmUp = 10 * time.Millisecond, 50
	db := server.newBenchDB(b, "latency")
	var all []float64
	for range b.N {
		execBench(b, db.conn, "TRUNCATE crm.orders")
		n := warmUp + size.transactions
		committed, received := make([]atomic.Int64, n+1), make([]atomic.Int64, n+1)
		begin := time.Now()
		run := s.expect(n, func(body []byte, at time.Time) {
			for rest := body; ; {
				_, after, ok := bytes.Cut(rest, []byte(`"c_order":"SO`))
				if !ok {
					return
				}
				number, after, _ := bytes.Cut(after, []byte(`"`))
				rest = after
				if i, err := strconv.Atoi(string(number)); err == nil && i <= n {
					received[i].Store(int64(at.Sub(begin)))
				}
			}
		})
		slot := db.slot() + "_connector"
		db.newSlot(b, slot)
		p := startConnector(b, db, s, slot, benchEvent)
		db.until(b, "start of the stream", func(ctx context.Context) (active bool, err error) {
			return active, db.conn.QueryRow(ctx, "SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot).Scan(&active)
		})
		tick := time.NewTicker(every)
		for i := 1; i <= n; i++ {
			<-tick.C
			execBench(b, db.conn, "BEGIN")
			execBench(b, db.conn, "INSERT INTO crm.orders SELECT "+benchRow+" FROM (SELECT $1::bigint) r(n)", i)
			committed[i].Store(int64(time.Since(begin)))
			execBench(b, db.conn, "COMMIT")
		}
		tick.Stop()
		p.await(b, run)
		p.stop(b)
		db.drop(b, slot)
		for i := warmUp + 1; i <= n; i++ {
			if received[i].Load() == 0 {
				b.Fatalf("the request of row %d was not seen", i)
			}
			all = append(all, float64(received[i].Load()-committed[i].Load())/1e6)
		}
	}
	slices.Sort(all)
	r := &latencyResult{p50: all[len(all)/2], p99: all[len(all)*99/100], most: all[len(all)-1]}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(r.p50, "p50-ms")
	b.ReportMetric(r.p99, "p99-ms")
	return r
}

// pointsResult is what points cost: a second, and of the connector's CPU each.
type pointsResult struct{ rate, cpu, rss float64 }

func benchPoints(b *testing.B, server *benchServer, s *sink, size benchSize) *pointsResult {
	db := server.newBenchDB(b, "points")
	db.load(b, workload{rows: size.points, perTx: 1000, row: benchRow})
	n := float64(size.points)
	var rate, cpu, rss []float64
	for range b.N * size.rounds {
		slot := db.copySlot(b, "connector")
		d := drain(b, db, s, slot, benchPoint, size.points, "--new-state", newStateID(b, db, s, slot, benchPoint))
		db.drop(b, slot)
		rate, cpu, rss = append(rate, n/d.took.Seconds()), append(cpu, d.cpu.Seconds()*1e6/n), append(rss, d.rss)
	}
	r := &pointsResult{median(rate), median(cpu), slices.Max(rss)}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(r.rate, "points/s")
	b.ReportMetric(r.cpu, "cpu-µs/point")
	b.ReportMetric(r.rss, "peak-MiB")
	return r
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// benchTable is what all of them found. What did not run is left out.
type benchTable struct {
	size    benchSize
	server  string
	drains  []drainResult
	latency *latencyResult
	points  *pointsResult
}

// String gives the table.
func (t *benchTable) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "\nEnd to end: PostgreSQL %s, %d CPUs for server, consumer and sink; %d rows of about 200 bytes where nothing else is said; medians of %d rounds in turns,\nfrom the start of the process.\n\n",
		t.server, runtime.NumCPU(), t.size.rows, t.size.rounds)
	if len(t.drains) > 0 {
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
		for _, line := range []string{
			"\tdelivered\tpg_recvlogical\tratio\tconfirmed\tfirst request\trequests\trecords\tCPU\tpg_recvlogical CPU\tpeak RSS",
			"\trows/s\trows/s\t\trows/s\tms\tper 1000 rows\ta request\tµs/row\tµs/row\tMiB"} {
			fmt.Fprintf(w, "%s\t\n", line)
		}
		for _, d := range t.drains {
			fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\t%.0f\t%.0f\t%.2f\t%.0f\t%.2f\t%.2f\t%.1f\t\n",
				d.name, d.rate, d.peer, d.ratio, d.confirmed, d.first, d.requests, 1000/d.requests, d.cpu, d.peerCPU, d.rss)
		}
		w.Flush()
		text.WriteString("\n")
	}
	if l := t.latency; l != nil {
		fmt.Fprintf(&text, "latency, COMMIT to request, 100 transactions/s for %.0f s: p50 %.2f ms, p99 %.2f ms, most %.2f ms\n",
			float64(t.size.transactions)/100, l.p50, l.p99, l.most)
	}
	if p := t.points; p != nil {
		fmt.Fprintf(&text, "points, one a request, %d of them: %.0f/s, %.0f µs CPU each, peak RSS %.1f MiB\n", t.size.points, p.rate, p.cpu, p.rss)
	}
	return text.String() + "\n"
}
