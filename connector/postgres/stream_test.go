package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// recorder is a sink that writes down what comes, and confirms what the test wants.
type recorder struct {
	mu        sync.Mutex
	lines     []string
	positions []connector.Position
	commits   []connector.LSN // end LSNs
	keepAlive connector.LSN
	dry       int
	confirmed connector.LSN
	auto      bool // confirm each end and each keep-alive at once
	blocked   chan struct{}
	changed   chan struct{}
	finished  chan struct{}
}

func newRecorder(start connector.LSN, auto bool) *recorder {
	return &recorder{confirmed: start, auto: auto, changed: make(chan struct{}), finished: make(chan struct{})}
}

func (r *recorder) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) Resume() connector.LSN { return r.Confirmed() }

func (r *recorder) Change(c *connector.Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	skip := ""
	if c.Skip {
		skip = "skip "
	}
	r.lines = append(r.lines, fmt.Sprintf("%s%s %s%s%s", skip, c.Op, c.Table.Name, show(" old", c.Old), show(" new", c.New)))
	r.positions = append(r.positions, c.Position)
	r.signal()
	return nil
}

func show(name string, t connector.Tuple) string {
	if t == nil {
		return ""
	}
	parts := make([]string, len(t))
	for i, d := range t {
		switch d.Kind {
		case connector.Absent:
			parts[i] = "?"
		case connector.Unchanged:
			parts[i] = "unchanged"
		case connector.Null:
			parts[i] = "null"
		default:
			parts[i] = string(d.Text)
			if len(parts[i]) > 20 {
				parts[i] = fmt.Sprintf("%d bytes", len(d.Text))
			}
		}
	}
	return name + "(" + strings.Join(parts, ",") + ")"
}

func (r *recorder) Commit(_, end connector.LSN, _ time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commits = append(r.commits, end)
	if r.auto {
		r.confirmed = max(r.confirmed, end)
	}
	r.signal()
}

func (r *recorder) KeepAlive(end connector.LSN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keepAlive = end
	if r.auto {
		r.confirmed = max(r.confirmed, end)
	}
	r.signal()
}

func (r *recorder) Watermark(string, connector.Position) {}

func (r *recorder) Dry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dry++
}

func (r *recorder) Room() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blocked == nil {
		return nil
	}
	return r.blocked
}

func (r *recorder) Confirmed() connector.LSN {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.confirmed
}

func (r *recorder) Finished() <-chan struct{} { return r.finished }

// until waits until ok holds of the recorder.
func (r *recorder) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		r.mu.Lock()
		done, changed := ok(), r.changed
		lines := r.lines
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%s did not come; last lines %q", what, lines[max(0, len(lines)-5):])
		}
	}
}

// line streams a test database.
type line struct {
	*recorder
	db   *pgtest.DB
	slot string
	src  *Source
	stop func() error
}

func config(db *pgtest.DB, slot string, tables ...string) Config {
	cfg := Config{DSN: db.DSN(), Slot: slot, Publication: slot}
	for _, table := range tables {
		cfg.Uses = append(cfg.Uses, Use{Table: TableName{"crm", table}, Insert: true, Update: true, Delete: true})
	}
	return cfg
}

func prepareFor(t *testing.T, cfg Config, cp *connector.Checkpoint) *Prepared {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	p, err := Prepare(t.Context(), cfg, &connector.Saved{Checkpoint: cp}, func([]*connector.Table) error { return nil }, connector.NewAlarms(log), log)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func startLine(t *testing.T, db *pgtest.DB, auto bool, tables ...string) *line {
	t.Helper()
	cfg := config(db, db.SlotName(), tables...)
	p := prepareFor(t, cfg, nil)
	return runLine(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, auto))
}

func runLine(t *testing.T, db *pgtest.DB, cfg Config, p *Prepared, r *recorder) *line {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	l := &line{recorder: r, db: db, slot: cfg.Slot, src: NewSource(cfg, p, connector.NewAlarms(log), log)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.src.Run(ctx, r) }()
	l.stop = sync.OnceValue(func() error {
		cancel()
		close(r.finished)
		return <-done
	})
	t.Cleanup(func() {
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *line) expect(t *testing.T, lines ...string) {
	t.Helper()
	l.until(t, fmt.Sprintf("%d changes", len(lines)), func() bool { return len(l.lines) >= len(lines) })
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range lines {
		if l.lines[i] != lines[i] {
			t.Errorf("change %d is %s, want %s", i, l.lines[i], lines[i])
		}
	}
	if len(l.lines) > len(lines) {
		t.Errorf("more changes came: %q", l.lines[len(lines):])
	}
	for i := 1; i < len(l.positions); i++ {
		if l.positions[i-1].Compare(l.positions[i]) >= 0 {
			t.Errorf("position %s comes after %s", l.positions[i], l.positions[i-1])
		}
	}
}

// TestStreamIdentities: what old and new rows hold under each replica identity, TOAST included.
func TestStreamIdentities(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.d(id int PRIMARY KEY, s text, big text)`,
		`CREATE TABLE crm.f(id int PRIMARY KEY, s text, big text)`, `ALTER TABLE crm.f REPLICA IDENTITY FULL`,
		`ALTER TABLE crm.f ALTER big SET STORAGE EXTERNAL`, `ALTER TABLE crm.d ALTER big SET STORAGE EXTERNAL`)
	l := startLine(t, db, true, "d", "f")
	db.Exec(t, `INSERT INTO crm.d VALUES (1, NULL, repeat('x', 10000))`, `UPDATE crm.d SET s = 'paid'`, `UPDATE crm.d SET id = 2`, `DELETE FROM crm.d`,
		`INSERT INTO crm.f VALUES (1, '', repeat('y', 10000))`, `UPDATE crm.f SET s = NULL`, `DELETE FROM crm.f`)
	l.expect(t,
		"insert d new(1,null,10000 bytes)",
		"update d old(1,?,?) new(1,paid,unchanged)",
		"update d old(1,?,?) new(2,paid,unchanged)",
		"delete d old(2,?,?)",
		"insert f new(1,,10000 bytes)",
		"update f old(1,,10000 bytes) new(1,null,10000 bytes)",
		"delete f old(1,null,10000 bytes)")
}

// TestStreamTransactions: rollbacks and rolled-back savepoints deliver nothing; interleaved transactions come in commit order; the rows
// of a COPY, which share one WAL address, have positions of their own.
func TestStreamTransactions(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	l := startLine(t, db, true, "t")
	db.Exec(t, `BEGIN; INSERT INTO crm.t VALUES (1); ROLLBACK`,
		`BEGIN; INSERT INTO crm.t VALUES (2); SAVEPOINT a; INSERT INTO crm.t VALUES (3); ROLLBACK TO a; INSERT INTO crm.t VALUES (4); COMMIT`)
	one, two := db.Conn(t), db.Conn(t)
	ctx := t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(one.Exec(ctx, `BEGIN`))
	must(one.Exec(ctx, `INSERT INTO crm.t VALUES (10)`))
	must(two.Exec(ctx, `BEGIN`))
	must(two.Exec(ctx, `INSERT INTO crm.t VALUES (20)`))
	must(one.Exec(ctx, `INSERT INTO crm.t VALUES (11)`))
	must(two.Exec(ctx, `COMMIT`))
	must(one.Exec(ctx, `COMMIT`))
	must(one.CopyFrom(ctx, pgx.Identifier{"crm", "t"}, []string{"id"}, pgx.CopyFromRows([][]any{{30}, {31}, {32}})))
	l.expect(t, "insert t new(2)", "insert t new(4)", "insert t new(20)", "insert t new(10)", "insert t new(11)",
		"insert t new(30)", "insert t new(31)", "insert t new(32)")
}

// TestStreamPassesOver: TRUNCATE is counted, logical messages and rows of other tables are no changes, and none of them ends the stream.
func TestStreamPassesOver(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`, `CREATE TABLE crm.other(id int)`)
	l := startLine(t, db, true, "t")
	db.Exec(t, `INSERT INTO crm.t VALUES (1)`, `INSERT INTO crm.other VALUES (1)`, `SELECT pg_logical_emit_message(true, 'x', 'y')`,
		`SELECT pg_logical_emit_message(false, 'x', 'y')`, `TRUNCATE crm.t`, `DO $$ BEGIN RAISE NOTICE 'n'; END $$`, `INSERT INTO crm.t VALUES (2)`)
	l.expect(t, "insert t new(1)", "insert t new(2)")
	if got := l.src.Status(); got.Truncates != 1 || got.Reconnects != 0 {
		t.Errorf("%+v", got)
	}
}

// TestStreamResumes: what was not confirmed comes again, under the same positions; what was, does not.
func TestStreamResumes(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	l := startLine(t, db, false, "t")
	db.Exec(t, `INSERT INTO crm.t VALUES (1)`, `INSERT INTO crm.t SELECT generate_series(2, 4)`)
	l.until(t, "two commits", func() bool { return len(l.commits) == 2 })
	first := l.commits[0]
	positions := l.positions
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	cfg := config(db, l.slot, "t")
	p := prepareFor(t, cfg, &connector.Checkpoint{Lineage: l.src.lineage, Flush: first})
	again := runLine(t, db, cfg, p, newRecorder(first, false))
	again.expect(t, "insert t new(2)", "insert t new(3)", "insert t new(4)")
	for i, p := range again.positions {
		if p != positions[1+i] {
			t.Errorf("position %s, the first time it was %s", p, positions[1+i])
		}
	}
}

// TestIdleSlotAdvances: WAL of other tables does not pile up behind an idle slot.
func TestIdleSlotAdvances(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`, `CREATE TABLE crm.busy(x text)`)
	l := startLine(t, db, true, "t")
	before := pgtest.Value[string](t, db, `SELECT pg_current_wal_lsn()::text`)
	db.Exec(t, `INSERT INTO crm.busy SELECT repeat(md5(i::text), 50) FROM generate_series(1, 5000) i`)
	db.Eventually(t, `SELECT confirmed_flush_lsn - $2::pg_lsn > 5000000 FROM pg_replication_slots WHERE slot_name = $1`, l.slot, before)
}

// TestReconnects: a terminated walsender is a reconnection, and nothing is missing or comes twice after what was confirmed.
func TestReconnects(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	l := startLine(t, db, true, "t")
	db.Exec(t, `INSERT INTO crm.t VALUES (1)`)
	l.until(t, "the first change", func() bool { return len(l.commits) == 1 })
	db.Exec(t, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '`+l.slot+`'`, `INSERT INTO crm.t VALUES (2)`)
	l.expect(t, "insert t new(1)", "insert t new(2)")
	if got := l.src.Status(); got.Reconnects == 0 || got.State != "streaming" {
		t.Errorf("%+v", got)
	}
}

// TestBlockedStaysConnected: while there is no room the server goes on hearing from us, so that wal_sender_timeout does not end the connection.
func TestBlockedStaysConnected(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`, `ALTER DATABASE "`+db.Name()+`" SET wal_sender_timeout = '3s'`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	r := newRecorder(p.Checkpoint.Flush, true)
	r.blocked = make(chan struct{})
	l := runLine(t, db, cfg, p, r)
	db.Exec(t, `INSERT INTO crm.t SELECT generate_series(1, 20000)`)
	pid := pgtest.Value[int32](t, db, `SELECT coalesce(max(active_pid), 0) FROM pg_replication_slots WHERE slot_name = $1`, l.slot)
	// Longer than the time-out, by the server's clock.
	db.Exec(t, `SELECT pg_sleep(5)`)
	if again := pgtest.Value[int32](t, db, `SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1`, l.slot); pid != 0 && again != pid {
		t.Errorf("walsender %d instead of %d", again, pid)
	}
	l.mu.Lock()
	close(l.blocked)
	l.blocked = nil
	l.mu.Unlock()
	l.until(t, "all changes", func() bool { return len(l.lines) >= 20000 })
	if got := l.src.Status().Reconnects; got != 0 {
		t.Errorf("%d reconnections", got)
	}
}

// TestSlotPastCheckpoint: a slot that has moved past the checkpoint is refused (the server would silently start later), also one that is gone.
func TestSlotPastCheckpoint(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	saved := &connector.Checkpoint{Lineage: p.Lineage, Flush: p.Checkpoint.Flush}
	log := slog.New(slog.DiscardHandler)
	refused := func(want string, cp *connector.Checkpoint) {
		t.Helper()
		_, err := Prepare(t.Context(), cfg, &connector.Saved{Checkpoint: cp}, func([]*connector.Table) error { return nil }, connector.NewAlarms(log), log)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "cure:") {
			t.Errorf("want a refusal with %q, got %v", want, err)
		}
	}
	db.Exec(t, `INSERT INTO crm.t VALUES (1)`, `SELECT pg_replication_slot_advance('`+cfg.Slot+`', pg_current_wal_lsn())`)
	refused("past the checkpoint", saved)
	other := *saved
	other.Lineage.SystemID = "1"
	refused("belongs to system 1", &other)
	db.Exec(t, `SELECT pg_drop_replication_slot('`+cfg.Slot+`')`)
	refused("is gone", saved)
}
