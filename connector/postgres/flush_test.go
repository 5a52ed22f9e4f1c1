package postgres

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// TestConfirmedIsTheServersOwn (fact F1): the start of a row's WAL plus the length of its data is no LSN. A compressible row of 500 kB makes it pass the
// end of the server's WAL; to confirm it would lose the next transaction.
func TestConfirmedIsTheServersOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.Private(t).Database(t) // on a shared server the WAL of other tests would soon make up for it
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY, x text)`)
	l := startLine(t, db, true, "t")
	for i := range 3 {
		db.Exec(t, fmt.Sprintf(`INSERT INTO crm.t VALUES (%d, repeat('x', 500000))`, 2*i))
		l.until(t, "the large row", func() bool { return len(l.lines) == 2*i+1 && len(l.commits) == 2*i+1 })
		db.Eventually(t, `SELECT confirmed_flush_lsn >= $2::pg_lsn FROM pg_replication_slots WHERE slot_name = $1`, l.slot, l.Confirmed().String())
		if past := pgtest.Value[bool](t, db, `SELECT confirmed_flush_lsn > pg_current_wal_lsn() FROM pg_replication_slots WHERE slot_name = $1`, l.slot); past {
			t.Error("the confirmed LSN is beyond the server's own WAL")
		}
		db.Exec(t, fmt.Sprintf(`INSERT INTO crm.t VALUES (%d, '')`, 2*i+1))
		l.until(t, "the next transaction", func() bool { return len(l.lines) == 2*i+2 })
	}
}

// TestResumeAtEveryBoundary (fact F4): the end LSN of a commit can be the first LSN of the next transaction. Resumed at each of them, nothing is lost and
// nothing comes twice.
func TestResumeAtEveryBoundary(t *testing.T) {
	t.Parallel()
	db := pgtest.Private(t, "autovacuum=off", "bgwriter_delay=10s").Database(t) // nothing else writes WAL between the transactions
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	const n = 6
	l := startLine(t, db, false, "t")
	other := db.SlotName()
	db.Exec(t, `SELECT pg_create_logical_replication_slot('`+other+`', 'test_decoding')`)
	var inserts []string
	for i := range n {
		inserts = append(inserts, fmt.Sprintf(`INSERT INTO crm.t VALUES (%d)`, i))
	}
	db.Exec(t, inserts...)
	l.until(t, "all commits", func() bool { return len(l.commits) >= n })
	ends, positions := l.commits[:n:n], l.positions
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	equal := 0
	firsts := pgtest.Rows[string](t, db, `SELECT lsn::text FROM pg_logical_slot_peek_changes($1, NULL, NULL, 'include-xids', '0', 'skip-empty-xacts', '1') WHERE data LIKE 'table crm.t: INSERT%'`, other)
	for _, end := range ends {
		for _, first := range firsts {
			if first == end.String() {
				equal++
			}
		}
	}
	if equal == 0 {
		t.Errorf("no transaction begins where another ends, so this shows nothing: ends %v, firsts %v", ends, firsts)
	}
	for i, end := range ends {
		cfg := config(db, l.slot, "t")
		p := prepareFor(t, cfg, &connector.Checkpoint{Lineage: l.src.lineage, Flush: end})
		again := runLine(t, db, cfg, p, newRecorder(end, false))
		db.Exec(t, fmt.Sprintf(`INSERT INTO crm.t VALUES (%d)`, n+i)) // so that its coming ends the wait
		again.until(t, "the rest", func() bool {
			return len(again.lines) > 0 && again.lines[len(again.lines)-1] == fmt.Sprintf("insert t new(%d)", n+i)
		})
		if err := again.stop(); err != nil {
			t.Fatal(err)
		}
		for k := i + 1; k <= n+i; k++ {
			if got := again.lines[k-i-1]; got != fmt.Sprintf("insert t new(%d)", k) || k < n && again.positions[k-i-1] != positions[k] {
				t.Errorf("resumed at %s: change %d is %s at %s", end, k, got, again.positions[k-i-1])
			}
		}
		if len(again.lines) != n {
			t.Errorf("resumed at %s: %q", end, again.lines)
		}
	}
}

// TestReportsWithoutTimeout: with wal_sender_timeout = 0 the server asks for nothing, and is told of the progress all the same.
func TestReportsWithoutTimeout(t *testing.T) {
	t.Parallel()
	db := pgtest.Private(t, "wal_sender_timeout=0").Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	own := usualTiming
	own.ask, own.silent = time.Hour, time.Hour // to ask for an answer is a report too
	l := runLogged(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, false), own, newLogLines())
	for i := range 3 {
		db.Exec(t, fmt.Sprintf(`INSERT INTO crm.t VALUES (%d)`, i))
		l.until(t, "the change", func() bool { return len(l.commits) == i+1 })
		end := l.commits[i]
		l.mu.Lock()
		l.confirmed = end // some time after the commit came, as when the platform takes its time
		l.mu.Unlock()
		db.Eventually(t, `SELECT confirmed_flush_lsn = $2::pg_lsn FROM pg_replication_slots WHERE slot_name = $1`, l.slot, end.String())
	}
}

// TestTrickleIsReported: changes that come one by one, so that no read ever runs into its time-out, don't keep reports back.
func TestTrickleIsReported(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id bigserial PRIMARY KEY)`)
	l := startLine(t, db, true, "t")
	db.Exec(t, `DO $$ BEGIN FOR i IN 1..40 LOOP INSERT INTO crm.t DEFAULT VALUES; COMMIT; PERFORM pg_sleep(0.05); END LOOP; END $$`)
	l.until(t, "all commits", func() bool { return len(l.commits) >= 40 })
	if n := l.src.reports.Load(); n < 10 {
		t.Errorf("%d reports in two seconds of changes", n)
	}
}

// TestConfirmedBeyondTheWAL: a server whose WAL ends before what the state has confirmed was restored; to confirm that again would make it pass over
// all that it writes up to there.
func TestConfirmedBeyondTheWAL(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	cp := *p.Checkpoint
	cp.Flush += 1 << 40
	log := slog.New(slog.DiscardHandler)
	_, err := Prepare(t.Context(), cfg, &connector.Saved{Checkpoint: &cp}, func([]*connector.Table) error { return nil }, connector.NewAlarms(log), log)
	if err == nil || !strings.Contains(err.Error(), "restored to an earlier point") {
		t.Errorf("%v", err)
	}
	if err := checkSlotPosition(t.Context(), plain(t, db.DSN()), cfg.Slot, cp.Flush); err != ErrNewHistory {
		t.Errorf("at the connection: %v", err)
	}
}

// TestRetainedIsBounded: beside an idle published table, neither a busy table that is not published nor a busy other database makes the server keep WAL.
func TestRetainedIsBounded(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	db, neighbour := server.Database(t), server.Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	l := startLine(t, db, true, "t")
	for _, busy := range []*pgtest.DB{db, neighbour} {
		busy.Exec(t, `CREATE TABLE busy(x text)`)
		for range 3 {
			before := pgtest.Value[string](t, db, `SELECT pg_current_wal_lsn()::text`)
			busy.Exec(t, `INSERT INTO busy SELECT repeat(md5(i::text), 50) FROM generate_series(1, 5000) i`, `CHECKPOINT`)
			// The checkpoint wrote which transactions run, which is what moves restart_lsn on.
			db.Eventually(t, `SELECT restart_lsn > $2::pg_lsn + 5000000 AND confirmed_flush_lsn >= restart_lsn FROM pg_replication_slots WHERE slot_name = $1`, l.slot, before)
		}
	}
	if len(l.lines) > 0 {
		t.Errorf("%q", l.lines)
	}
}

// TestOutage: what the WAL's rate and the slot's limits make of a budget.
func TestOutage(t *testing.T) {
	t.Parallel()
	var m WALMeter
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	if r := m.Rate(); r.Over != 0 {
		t.Errorf("of nothing: %+v", r)
	}
	for i := range 300 { // 25 minutes, at 1 MB/s, then at 3 MB/s
		at := connector.LSN(i * 5_000_000)
		if i > 150 {
			at += connector.LSN((i - 150) * 10_000_000)
		}
		m.Add(begin.Add(time.Duration(i)*5*time.Second), at)
	}
	if r := m.Rate(); r.PerSecond < 2.99e6 || r.PerSecond > 3.01e6 || r.Over < meterSpan-meterStep || r.Over > meterSpan+meterStep || len(m.looks) > 70 {
		t.Errorf("%+v of %d looks", r, len(m.looks))
	}
	m.Add(begin.Add(time.Hour), 5) // another server
	if r := m.Rate(); r.Over != 0 {
		t.Errorf("after a restoration: %+v", r)
	}
	rate := WALRate{1e6, time.Minute}
	for _, c := range []struct {
		slot       Slot
		budget     int64
		rate       WALRate
		want       time.Duration
		ok         bool
		endangered string
	}{
		{Slot{Exists: true, SafeWALSize: -1}, 60e6, rate, time.Minute, true, ""},
		{Slot{Exists: true, SafeWALSize: -1, Retained: 50e6}, 60e6, rate, 10 * time.Second, true, ""},
		{Slot{Exists: true, SafeWALSize: -1, Retained: 70e6}, 60e6, rate, 0, true, ""},
		{Slot{Exists: true, SafeWALSize: 5e6, Retained: 10e6}, 60e6, rate, 5 * time.Second, true, ""},
		{Slot{Exists: true, SafeWALSize: 5e6, Retained: 30e6}, 600e6, rate, 5 * time.Second, true, "after 4.8MiB more"},
		{Slot{Exists: true, SafeWALSize: 0, Retained: 30e6, WALStatus: "unreserved"}, 600e6, rate, 0, true, "next checkpoint"},
		{Slot{Exists: true, SafeWALSize: -1, WALStatus: "lost"}, 60e6, rate, time.Minute, true, ""},
		{Slot{Exists: true, SafeWALSize: -1}, 60e6, WALRate{}, 0, false, ""},
		{Slot{Exists: true, SafeWALSize: -1}, 60e6, WALRate{0, time.Hour}, 0, false, ""},
	} {
		d, ok := c.slot.Outage(c.rate, c.budget)
		if why := c.slot.Endangered(); d != c.want || ok != c.ok || (why == "") != (c.endangered == "") || !strings.Contains(why, c.endangered) {
			t.Errorf("%+v: %s, %v, %q", c, d, ok, why)
		}
	}
}

// TestOptionsOfOldServers: what a server can't do is said with the version that can.
func TestOptionsOfOldServers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version             int
		standby             bool
		heartbeat, failover string
	}{
		{130012, false, "PostgreSQL 14", "PostgreSQL 17"}, {150004, false, "", "PostgreSQL 17"}, {170000, false, "", ""}, {170000, true, "standby", "standby"},
	} {
		found := map[string]string{}
		for _, f := range optionFindings(Server{Version: c.version, Standby: c.standby}, &Slot{}, true, true) {
			found[f.Subject] = f.Text
			if f.Severity != SeverityError {
				t.Errorf("%+v", f)
			}
		}
		for subject, words := range map[string]string{"source.heartbeat": c.heartbeat, "source.failover": c.failover} {
			if text := found[subject]; (text == "") != (words == "") || !strings.Contains(text, words) {
				t.Errorf("%d, standby %v: %s: %q", c.version, c.standby, subject, text)
			}
		}
		if list := optionFindings(Server{Version: c.version, Standby: c.standby}, &Slot{}, false, false); len(list) > 0 {
			t.Errorf("with both off: %+v", list)
		}
	}
}
