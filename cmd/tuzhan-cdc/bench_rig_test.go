package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// benchWait bounds every single thing that a benchmark waits for.
const benchWait = 10 * time.Minute

// benchPublication covers the table in every benchmark's database: a DBA's single publication.
const benchPublication = "bench"

// benchOrders is a table with rows of about 200 bytes, of which the mappings read five columns and leave three alone.
const benchOrders = `
CREATE SCHEMA crm;
CREATE TABLE crm.orders (id bigint PRIMARY KEY, order_no text NOT NULL, phone text NOT NULL, goods text, amount numeric(12,2),
	status text NOT NULL, remark text, paid_at timestamptz);
`

const benchSchema = benchOrders + `CREATE PUBLICATION ` + benchPublication + ` FOR TABLE crm.orders;`

// benchRow is the row number n. 50,000 customers take turns.
const benchRow = `n, 'SO' || lpad(n::text, 10, '0'), '138' || lpad((n * 7919 % 50000)::text, 8, '0'), '龙井茶 礼盒 ' || n % 97,
	1 + n % 100000 / 100.0, 'paid', repeat(md5(n::text), 3), timestamptz '2026-01-01 08:00:00+08' + n * interval '1 s'`

const benchEvent = `
mappings:
  - name: order-paid
    table: crm.orders
    on: [insert]
    event:
      publicParams: {matchingType: 1}
      eventKey: c_buy
      time: ${{ paid_at }}
      identities:
        - identityType: phone
          identityValue: ${{ phone }}
      eventargs:
        c_order: ${{ order_no }}
        c_goods: ${{ goods }}
        c_price: ${{ amount }}
        title: 下单
`

const benchUpdate = `
mappings:
  - name: order-paid
    table: crm.orders
    on: [update]
    when: new.status == "paid" && old?.status != "paid"
    event:
      eventKey: c_buy
      time: ${{ paid_at }}
      identities: [{identityType: phone, identityValue: "${{ phone }}"}]
      eventargs: {c_order: "${{ order_no }}", c_goods: "${{ goods }}", c_price: "${{ amount }}"}
`

const benchGroups = `
mappings:
  - name: order-groups
    table: crm.orders
    on: [insert]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ goods }}
`

const benchPoint = `
mappings:
  - name: order-points
    table: crm.orders
    on: [insert]
    point:
      point: ${{ int(floor(amount)) }}
      remark: 订单 ${{ order_no }} 积分
      phoneList:
        - phone: ${{ phone }}
          isVerify: "1"
`

// benchServer is a PostgreSQL of the benchmark's own, from the machine's own binaries: in a container the two consumers would be measured
// through a proxy.
type benchServer struct {
	cluster     *throwaway.Cluster
	recvlogical string // the path of pg_recvlogical
}

func newBenchServer(b *testing.B) *benchServer {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), benchWait)
	defer cancel()
	bin, err := throwaway.FindBinaries(ctx)
	if err != nil {
		b.Fatal(err)
	}
	// Nothing of the server's own housekeeping shall fall into one consumer's turn and not into the other's.
	sockets, err := os.MkdirTemp("", "tuzhan-cdc-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(sockets) })
	if err := os.Chmod(sockets, 0o777); err != nil { // the server may be another user's
		b.Fatal(err)
	}
	cluster, err := throwaway.Start(ctx, throwaway.Options{Bin: bin, Settings: map[string]string{
		"unix_socket_directories": sockets,
		"shared_buffers":          "256MB", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			b.Error(err)
		}
	})
	return &benchServer{cluster, findRecvlogical(b, bin)}
}

// findRecvlogical looks for pg_recvlogical beside the server's binaries. What stands there may be a link to where all of them are. The one in
// PATH comes last: Debian's is a Perl script that starts the real one.
func findRecvlogical(b *testing.B, bin string) string {
	b.Helper()
	dirs := []string{bin}
	if real, err := filepath.EvalSymlinks(filepath.Join(bin, "postgres")); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, "pg_recvlogical")); err == nil {
			return path
		}
	}
	path, err := exec.LookPath("pg_recvlogical")
	if err != nil {
		b.Fatalf("pg_recvlogical is not in %s, nor in PATH; install it: apt-get install postgresql-client", strings.Join(dirs, ", "))
	}
	return path
}

// benchDB is a database with the table, its publication, and the slots that start in front of what is loaded.
type benchDB struct {
	server *benchServer
	name   string
	dsn    string
	conn   *pgx.Conn
	end    string // LSN behind all that load wrote
}

// newBenchDB makes a database and its slot.
func (s *benchServer) newBenchDB(b *testing.B, name string, setup ...string) *benchDB {
	b.Helper()
	admin := connectBench(b, s.cluster.DSN(""))
	// One that is there already is of an earlier call of the same benchmark, which had a smaller b.N.
	execBench(b, admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
	execBench(b, admin, "CREATE DATABASE "+name)
	db := &benchDB{server: s, name: name, dsn: s.cluster.DSN(name)}
	db.conn = connectBench(b, db.dsn)
	execBench(b, db.conn, benchSchema)
	for _, sql := range setup {
		execBench(b, db.conn, sql)
	}
	db.newSlot(b, db.slot())
	b.Cleanup(func() { db.drop(b, db.slot()) })
	return db
}

// slot is the name of the database's own slot, which stays where it is: runs read from copies of it.
func (db *benchDB) slot() string { return "bench_" + db.name }

// overSocket has the consumers use the server's Unix socket from here on.
func (db *benchDB) overSocket(b *testing.B) {
	b.Helper()
	var dir, port string
	if err := db.conn.QueryRow(b.Context(), "SELECT split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port')").Scan(&dir, &port); err != nil {
		b.Fatal(err)
	}
	if dir == "" {
		b.Skip("the server has no Unix socket")
	}
	config, err := pgconn.ParseConfig(db.dsn)
	if err != nil {
		b.Fatal("the cluster's DSN can't be read")
	}
	db.dsn = fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s", dir, port, config.User, config.Password, db.name)
}

// newSlot makes a slot that starts now.
func (db *benchDB) newSlot(b *testing.B, name string) {
	b.Helper()
	execBench(b, db.conn, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", name)
}

// copySlot makes a slot that starts where the database's own one does.
func (db *benchDB) copySlot(b *testing.B, suffix string) string {
	b.Helper()
	name := db.slot() + "_" + suffix
	execBench(b, db.conn, "SELECT pg_copy_logical_replication_slot($1, $2)", db.slot(), name)
	return name
}

// load writes the rows of a workload in transactions of perTx.
func (db *benchDB) load(b *testing.B, w workload) {
	b.Helper()
	change := fmt.Sprintf("INSERT INTO crm.orders SELECT %s FROM generate_series(f::bigint, least(f + %d, %d)) n", w.row, w.perTx-1, w.rows)
	if w.change != "" {
		change = w.change
	}
	execBench(b, db.conn, fmt.Sprintf("DO $$ BEGIN FOR f IN 1..%d BY %d LOOP %s; COMMIT; END LOOP; END $$", w.rows, w.perTx, change))
	if err := db.conn.QueryRow(b.Context(), "SELECT pg_current_wal_lsn()::text").Scan(&db.end); err != nil {
		b.Fatal(err)
	}
	execBench(b, db.conn, "CHECKPOINT")
}

// drop drops a slot as soon as the server has noticed that its reader is gone.
func (db *benchDB) drop(b *testing.B, slot string) {
	b.Helper()
	db.until(b, "drop of slot "+slot, func(ctx context.Context) (bool, error) {
		_, err := db.conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", slot)
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == "55006" {
			return false, nil
		}
		return true, err
	})
}

// until asks the database again and again.
func (db *benchDB) until(b *testing.B, what string, ask func(context.Context) (bool, error)) {
	b.Helper()
	// It is used in cleanup functions too, when b.Context is over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), benchWait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ask(ctx)
		if err != nil {
			b.Fatalf("%s: %v", what, err)
		}
		if done {
			return
		}
		<-tick.C
	}
}

func connectBench(b *testing.B, dsn string) *pgx.Conn {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close(context.WithoutCancel(b.Context())) })
	return conn
}

func execBench(b *testing.B, conn *pgx.Conn, sql string, args ...any) {
	b.Helper()
	if _, err := conn.Exec(b.Context(), sql, args...); err != nil {
		b.Fatal(err)
	}
}

// sink is a platform that takes everything as fast as Go's HTTP server reads it. The simulator, even without a ledger, parses and checks
// each record, which on a machine of few cores is a fourth of what the connector itself costs; so it sees the first request of each run only,
// where it says whether this is a measurement of the right thing.
type sink struct {
	web   *httptest.Server
	delay atomic.Int64 // of answers, in nanoseconds

	mu  sync.Mutex
	run *sinkRun
}

// sinkRun is what came of one run of the connector. sink.mu guards what changes.
type sinkRun struct {
	want   int
	watch  func(body []byte, at time.Time) // nil: nobody looks at bodies
	strict http.Handler                    // nil once it has seen a request

	first, all        time.Time // when the first request and when the last of the records had come
	records, requests int
	refusal           string        // what the simulator has against the first request
	done              chan struct{} // closed when all records are here, or at a refusal
}

func newSink(b *testing.B) *sink {
	s := &sink{}
	s.web = httptest.NewServer(s)
	b.Cleanup(s.web.Close)
	return s
}

// expect begins a run.
func (s *sink) expect(records int, watch func(body []byte, at time.Time)) *sinkRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = &sinkRun{want: records, watch: watch, strict: platformsim.New(platformsim.Options{NoLedger: true}), done: make(chan struct{})}
	return s.run
}

var (
	sinkBodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	sinkGroups = []byte(`{"code":"200","errorCode":"SUCCESS","msg":"ok","data":{"status":1}}`)
	sinkAnswer = []byte(`{"code":"200","errorCode":"SUCCESS","msg":"ok","data":true}`)
	eventMark  = []byte(`"eventKey":`) // once in every event
	groupMark  = []byte(`"groups":`)   // once in every group relation
)

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	buffer := sinkBodies.Get().(*bytes.Buffer)
	defer sinkBodies.Put(buffer)
	buffer.Reset()
	buffer.Grow(max(0, int(r.ContentLength)) + bytes.MinRead)
	if _, err := buffer.ReadFrom(r.Body); err != nil {
		return // the connector was stopped; what came of a body does not count
	}
	body, at, records, answer := buffer.Bytes(), time.Now(), 1, sinkAnswer
	switch r.URL.Path {
	case platformsim.DefaultPaths()[platformsim.Event]:
		records = bytes.Count(body, eventMark)
	case platformsim.DefaultPaths()[platformsim.GroupRelation]:
		records, answer = bytes.Count(body, groupMark), sinkGroups
	}
	s.mu.Lock()
	run := s.run
	strict := run.strict
	run.strict = nil
	s.mu.Unlock()
	refusal := ""
	if strict != nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		rec := httptest.NewRecorder()
		strict.ServeHTTP(rec, r)
		if answer = rec.Body.Bytes(); rec.Code != http.StatusOK || !bytes.Contains(answer, []byte(`"code":"200"`)) {
			refusal = fmt.Sprintf("HTTP %d: %s", rec.Code, answer)
		}
	}
	if run.watch != nil {
		run.watch(body, at)
	}
	time.Sleep(time.Duration(s.delay.Load()))
	s.mu.Lock()
	run.note(at, records, refusal)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // a connector that is gone needs no answer
}

func (run *sinkRun) note(at time.Time, records int, refusal string) {
	before := run.records < run.want && run.refusal == ""
	if run.requests == 0 {
		run.first = at
	}
	run.requests++
	run.records += records
	if run.refusal == "" {
		run.refusal = refusal
	}
	if before && (run.records >= run.want || run.refusal != "") {
		run.all = at
		close(run.done)
	}
}

// counts gives how many records and requests have come by now.
func (s *sink) counts(run *sinkRun) (records, requests int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return run.records, run.requests
}

// usage is what a process cost.
type usage struct {
	cpu time.Duration
	rss float64 // MiB at its peak; 0: not known on this system
}

// benchProcess is the program under measurement.
type benchProcess struct {
	cmd     *exec.Cmd
	log     bytes.Buffer // read it after done only
	started time.Time
	done    chan struct{}
}

// newStateID gives the id with which the program takes the slot over although points are mapped: it prints it when it refuses to.
func newStateID(b *testing.B, db *benchDB, s *sink, slot, mappings string) string {
	b.Helper()
	p := startConnector(b, db, s, slot, mappings)
	select {
	case <-p.done:
	case <-time.After(benchWait):
		b.Fatal("the connector takes over a slot without a state, with points")
	}
	_, after, found := strings.Cut(p.log.String(), "--new-state ")
	id, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	if !found {
		b.Fatalf("the connector ended: %v\n%s", p.cmd.ProcessState, &p.log)
	}
	return strings.TrimSpace(id)
}

// startConnector starts the real program with default delivery settings, its state on a disk.
func startConnector(b *testing.B, db *benchDB, s *sink, slot, mappings string, args ...string) *benchProcess {
	b.Helper()
	dir := diskDir(b)
	file := filepath.Join(dir, "tuzhan-cdc.yaml")
	text := fmt.Sprintf(`
source: {dsn: %q, slot: %s, publication: %s, timeZone: Asia/Shanghai}
platform: {baseURL: %q, token: bench-token, paths: {point: /point/increase}}
state: {path: %q}
server: {listen: "127.0.0.1:0"}
%s`, db.dsn, slot, benchPublication, s.web.URL, filepath.Join(dir, "state.db"), mappings)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return startBench(b, exec.Command(program, append([]string{"run", "-c", file}, args...)...))
}

// diskDir makes a directory on a disk: the system's directory for temporary files may be memory, where a commit costs nothing.
func diskDir(b *testing.B) string {
	b.Helper()
	base, err := os.UserCacheDir()
	if err == nil {
		err = os.MkdirAll(base, 0o700)
	}
	if err != nil {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp(base, "tuzhan-cdc-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

func startBench(b *testing.B, cmd *exec.Cmd) *benchProcess {
	b.Helper()
	p := &benchProcess{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	p.started = time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // its users look at ProcessState
		close(p.done)
	}()
	b.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, if all went well
		<-p.done
	})
	return p
}

// await waits for the end of a run at the sink; first and all may then be read.
func (p *benchProcess) await(b *testing.B, run *sinkRun) {
	b.Helper()
	select {
	case <-run.done:
	case <-p.done:
		b.Fatalf("the connector ended: %v\n%s", p.cmd.ProcessState, &p.log)
	case <-time.After(benchWait):
		_ = p.cmd.Process.Kill()
		<-p.done
		b.Fatalf("not all records came; the connector said\n%s", &p.log)
	}
	if run.refusal != "" {
		b.Fatalf("the simulator refuses the first request: %s", run.refusal)
	}
}

// stop ends the program in good order.
func (p *benchProcess) stop(b *testing.B) usage {
	b.Helper()
	rss := peakRSS(p.cmd.Process.Pid)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	u := p.end(b)
	u.rss = rss
	return u
}

// end waits for the program to end by itself.
func (p *benchProcess) end(b *testing.B) usage {
	b.Helper()
	select {
	case <-p.done:
	case <-time.After(benchWait):
		b.Fatalf("%s does not end", p.cmd.Path)
	}
	if state := p.cmd.ProcessState; !state.Success() {
		b.Fatalf("%s: %v\n%s", p.cmd.Path, state, &p.log)
	}
	return usage{cpu: p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()}
}

// peakRSS gives the peak resident memory of a running process in MiB; 0 where the system does not tell. The rusage of a process that has ended
// would not do: its Maxrss begins with that of the process that started it.
func peakRSS(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			if err != nil {
				return 0
			}
			return kib / 1024
		}
	}
	return 0
}

// recvlogical drains a slot up to the end of what was loaded with PostgreSQL's own tool, which throws everything away.
func recvlogical(b *testing.B, db *benchDB, slot string) (time.Duration, usage) {
	b.Helper()
	config, err := pgconn.ParseConfig(db.dsn)
	if err != nil {
		b.Fatal("the cluster's DSN can't be read")
	}
	cmd := exec.Command(db.server.recvlogical, "--start", "--no-loop", "--slot", slot, "--endpos", db.end,
		"-o", "proto_version=1", "-o", "publication_names="+benchPublication, "-f", os.DevNull,
		"-h", config.Host, "-p", strconv.Itoa(int(config.Port)), "-U", config.User, "-d", db.name)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+config.Password, "PGSSLMODE=disable")
	p := startBench(b, cmd)
	u := p.end(b)
	return time.Since(p.started), u
}
