package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// quick is a timing for tests that wait for it to run out.
var quick = timing{look: 200 * time.Millisecond, answer: time.Second, renew: time.Second, ask: 300 * time.Millisecond, silent: time.Second,
	grace: 3 * time.Second, settle: 300 * time.Millisecond}

// patient is quick where a machine that stumbles must not pass for a peer that is gone.
var patient = timing{look: quick.look, answer: 20 * time.Second, renew: quick.renew, ask: quick.ask, silent: quick.silent, grace: quick.grace, settle: quick.settle}

// TestFastShutdown: a fast shutdown does not wait for the connector, whether it can confirm or not, and the connector comes back with the server.
func TestFastShutdown(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	db := server.Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	for round, settles := range []bool{false, true} {
		log := newLogLines()
		cfg := config(db, db.SlotName(), "t")
		p := prepareFor(t, cfg, nil)
		l := runLogged(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, settles), usualTiming, log)
		log.until(t, 1, "msg=streaming")
		db.Exec(t, fmt.Sprintf(`INSERT INTO crm.t SELECT generate_series(%d, %d)`, 100*round+1, 100*round+100))
		l.until(t, "the changes", func() bool { return len(l.lines) == 100 })

		began, reports := time.Now(), l.src.reports.Load()
		server.Stop(t, throwaway.Fast)
		took := time.Since(began)
		// The server asks thousands of times a second while it waits for a confirmation; beside the answers there are the reports that are due.
		if n := l.src.reports.Load() - reports; float64(n) > 10*took.Seconds()+5 {
			t.Errorf("settles %v: %d reports in %s", settles, n, took)
		}
		if took > 5*time.Second {
			t.Errorf("settles %v: the shutdown took %s", settles, took)
		}
		log.until(t, 1, "msg=alarm", "about=source", "shutting down")
		server.Start(t)
		log.until(t, 2, "msg=streaming")
		log.until(t, 1, "msg=recovered")
		if !settles { // they come again
			l.until(t, "the changes again", func() bool { return len(l.lines) == 200 })
		} else {
			db.Exec(t, `INSERT INTO crm.t VALUES (1000)`)
			l.until(t, "one more", func() bool { return len(l.lines) == 101 })
		}
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestSmartShutdown: a smart shutdown waits for plain sessions, and is told to new ones only: the connector's own does not hold it up.
func TestSmartShutdown(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	db := server.Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	log := newLogLines()
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	runLogged(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, false), quick, log)
	log.until(t, 1, "msg=streaming")
	session := db.Conn(t)
	postmaster(t, db, "kill -TERM")
	log.until(t, 1, "msg=alarm", "shutting down", "57P03")
	if err := session.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	refuses(t, server.Addr())
	server.Stop(t, throwaway.Fast) // it is down already
	server.Start(t)
	log.until(t, 2, "msg=streaming")
}

// refuses waits until nobody listens any more.
func refuses(t *testing.T, addr string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 600 {
		conn, err := net.Dial("tcp", addr)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil {
			conn.Close()
		}
		<-tick.C
	}
	t.Fatal("the server is still up")
}

// postmaster runs a command on the server's main process.
func postmaster(t *testing.T, db *pgtest.DB, command string) {
	t.Helper()
	dir := pgtest.Value[string](t, db, `SELECT current_setting('data_directory')`)
	db.Exec(t, shell(command+` $(head -n 1 "`+dir+`/postmaster.pid")`))
}

// TestBlackHole: a peer that vanishes without a word is given up and found again: idle, in the middle of a stream, and while reading is paused.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"idle", "busy", "paused"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Server(t).Database(t)
			db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY, x text)`)
			proxy := pgtest.Proxy(t, db.Server().Addr())
			log := newLogLines()
			cfg := config(db, db.SlotName(), "t")
			p := prepareFor(t, cfg, nil)
			cfg.DSN = db.Through(proxy)
			r := newRecorder(p.Checkpoint.Flush, true)
			l := runLogged(t, db, cfg, p, r, quick, log)
			log.until(t, 1, "msg=streaming")
			if state == "paused" {
				r.mu.Lock()
				r.blocked = make(chan struct{})
				r.mu.Unlock()
			}
			if state != "idle" {
				db.Exec(t, `INSERT INTO crm.t SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i`)
			}
			if state == "busy" {
				l.until(t, "some changes", func() bool { return len(l.lines) > 100 })
			}
			proxy.Pause()
			log.until(t, 1, "msg=alarm", "about=source")
			if state == "paused" {
				r.mu.Lock()
				close(r.blocked)
				r.blocked = nil
				r.mu.Unlock()
			}
			// What is in the proxy stays there, as a network drops it: the server still has the former connection, and the new one must get at the slot.
			proxy.Cut()
			proxy.Resume()
			log.until(t, 2, "msg=streaming")
			db.Exec(t, `INSERT INTO crm.t VALUES (60000)`)
			r.until(t, "the last change", func() bool {
				return len(r.lines) > 0 && strings.HasPrefix(r.lines[len(r.lines)-1], "insert t new(60000")
			})
		})
	}
}

// TestQuietIsNoBlackHole: neither back-pressure nor a server that is at work on a transaction of other tables is taken for a peer that is gone.
func TestQuietIsNoBlackHole(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	log := newLogLines()
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	r := newRecorder(p.Checkpoint.Flush, true)
	r.blocked = make(chan struct{})
	l := runLogged(t, db, cfg, p, r, patient, log)
	log.until(t, 1, "msg=streaming")
	db.Exec(t, `INSERT INTO crm.t SELECT generate_series(1, 20000)`)
	asked, began := l.src.reports.Load(), time.Now()
	db.Exec(t, `SELECT pg_sleep(3)`) // three times as long as silence may last
	if l.src.reports.Load() == asked {
		t.Error("no reports while reading was paused")
	}
	if ago := l.src.Status().Reported; ago >= time.Since(began) {
		t.Errorf("the last report was %s ago, says the source", ago)
	}
	r.mu.Lock()
	close(r.blocked)
	r.blocked = nil
	r.mu.Unlock()
	l.until(t, "all changes", func() bool { return len(l.lines) >= 20000 })

	// A walsender that is stopped says nothing, as one that is busy.
	goOn := shell(signalSender(t, db, l.slot, "CONT"))
	db.Exec(t, shell(signalSender(t, db, l.slot, "STOP")))
	t.Cleanup(func() { db.Exec(t, goOn) }) // a stopped one would hold up all who drop a database
	db.Exec(t, `SELECT pg_sleep(3)`)
	db.Exec(t, goOn, `INSERT INTO crm.t VALUES (30000)`)
	l.until(t, "the change after the silence", func() bool { return len(l.lines) >= 20001 })
	if got := l.src.Status().Reconnects; got != 0 {
		t.Errorf("%d reconnections:\n%s", got, strings.Join(log.lines, ""))
	}
}

// shell gives SQL that runs a command on the server's machine. The command takes what COPY writes: else COPY fails where it ends first.
func shell(command string) string {
	return "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; " + command + "'"
}

func signalSender(t *testing.T, db *pgtest.DB, slot, signal string) string {
	t.Helper()
	return fmt.Sprintf("kill -%s %d", signal, pgtest.Value[int32](t, db, `SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1`, slot))
}

// TestBesideAlone: an end of the plain connection alone, and a limit that keeps it from coming back, leave the stream alone; the latter with an alarm.
func TestBesideAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	role, dsn := db.Role(t, "REPLICATION")
	db.Exec(t, `CREATE SCHEMA crm AUTHORIZATION `+role, `CREATE TABLE crm.t(id int PRIMARY KEY)`, `ALTER TABLE crm.t OWNER TO `+role,
		`GRANT CREATE ON DATABASE `+db.Name()+` TO `+role)
	log := newLogLines()
	cfg := config(db, db.SlotName(), "t")
	cfg.DSN = dsn
	p := prepareFor(t, cfg, nil)
	l := runLogged(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, true), patient, log)
	log.until(t, 1, "msg=streaming")
	plain := `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '` + role + `' AND backend_type = 'client backend'`
	db.Exec(t, plain)
	log.until(t, 1, "made again", "57P01")
	db.Exec(t, `ALTER ROLE `+role+` CONNECTION LIMIT 0`, plain)
	log.until(t, 1, "msg=alarm", "about=source/beside", "53300")
	db.Exec(t, `INSERT INTO crm.t VALUES (1)`)
	l.until(t, "the change", func() bool { return len(l.lines) == 1 })
	db.Exec(t, `ALTER ROLE `+role+` CONNECTION LIMIT -1`)
	log.until(t, 1, "msg=recovered", "about=source/beside")
	if got := l.src.Status().Reconnects; got != 0 {
		t.Errorf("%d reconnections", got)
	}
}

// TestHeartbeat: it moves the slot of a database on in which nothing else happens, by a transaction of its own.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	db := pgtest.Private(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	cfg := config(db, db.SlotName(), "t")
	cfg.Heartbeat = 50 * time.Millisecond
	p := prepareFor(t, cfg, nil)
	other := db.SlotName()
	db.Exec(t, `SELECT pg_create_logical_replication_slot('`+other+`', 'test_decoding')`)
	l := runLogged(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, true), usualTiming, newLogLines())
	db.Eventually(t, `SELECT count(*) >= 3 FROM pg_logical_slot_peek_changes($1, NULL, NULL, 'skip-empty-xacts', '1')
		WHERE data LIKE 'message: transactional: 1 prefix: tuzhan_cdc%heartbeat'`, other)
	end := pgtest.Value[string](t, db, `SELECT pg_current_wal_lsn()::text`)
	db.Eventually(t, `SELECT confirmed_flush_lsn >= $2::pg_lsn FROM pg_replication_slots WHERE slot_name = $1`, l.slot, end)
	if err := l.stop(); err != nil || len(l.lines) > 0 {
		t.Errorf("%v, %q", err, l.lines)
	}
}

// TestOwnBackendIsEnded: a walsender of our own that did not notice that its peer gave up holds the slot; the next connection ends it. (Another
// process's is waited for: TestStandbyWaits.)
func TestOwnBackendIsEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`, `ALTER DATABASE "`+db.Name()+`" SET wal_sender_timeout = 0`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	repl, err := connectReplication(t.Context(), db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(repl)
	startReading(t, repl, cfg.Slot)
	log := newLogLines()
	logger := slog.New(slog.NewTextHandler(log, nil))
	src := NewSource(cfg, p, connector.NewAlarms(logger), logger)
	if src.last, err = loadBackend(t.Context(), plain(t, db.DSN()), repl.PID()); err != nil || src.last.pid == 0 {
		t.Fatalf("%+v, %v", src.last, err)
	}
	l := runSource(t, db, src, cfg, newRecorder(p.Checkpoint.Flush, true))
	log.until(t, 1, "msg=streaming")
	db.Exec(t, `INSERT INTO crm.t VALUES (1)`)
	l.until(t, "the change", func() bool { return len(l.lines) == 1 })
}

// TestStandbyWaits: a slot that another process holds is waited for, and taken over when it is free.
func TestStandbyWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	repl, err := connectReplication(t.Context(), db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	startReading(t, repl, cfg.Slot)
	log := newLogLines()
	l := runLogged(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, true), usualTiming, log)
	log.until(t, 1, "msg=alarm", "about=source", "another process holds the slot")
	l.reconnected(t, 3)
	if got := l.src.Status().State; got != "waiting" {
		t.Errorf("state %s", got)
	}
	closeConn(repl)
	log.until(t, 1, "msg=streaming")
	db.Exec(t, `INSERT INTO crm.t VALUES (1)`)
	l.until(t, "the change", func() bool { return len(l.lines) == 1 })
}

// TestIdleSessionTimeout: the connection beside the stream is idle most of the time, which the server must not end.
func TestIdleSessionTimeout(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	if db.Server().Major() < 14 {
		t.Log("needs PostgreSQL 14")
		return
	}
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	db.Exec(t, `ALTER DATABASE "`+db.Name()+`" SET idle_session_timeout = '300ms'`)
	log := newLogLines()
	slow := patient
	slow.look, slow.renew = 2*time.Second, time.Hour
	runLogged(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, true), slow, log)
	log.until(t, 1, "msg=streaming")
	db.Exec(t, `SELECT pg_sleep(3)`)
	if log.count("made again") > 0 {
		t.Error("the server has ended it")
	}
}

// TestSilence: a stream that stays silent is given up, unless the server was seen at work on it lately, or nobody listened.
func TestSilence(t *testing.T) {
	t.Parallel()
	now := time.Now()
	long := now.Add(-usualTiming.silent)
	for _, c := range []struct {
		name        string
		heard, seen time.Time
		got, gone   bool
	}{
		{"silent, and not seen", long, long, false, true},
		{"silent, and seen at work", long, now, false, false},
		{"a message came", long, long, true, false},
		{"not for so long", now.Add(-usualTiming.ask), long, false, false},
	} {
		b := &beside{timing: usualTiming}
		b.seen.Store(c.seen.UnixNano())
		s := &stream{src: &Source{timing: usualTiming}, frames: &frames{}, sink: newRecorder(0, false), beside: b, heard: c.got, heardAt: c.heard, askedAt: now, toldAt: now}
		var gone *hungUp
		if err := s.quiet(now); errors.As(err, &gone) != c.gone {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestPauseIsNoSilence: while reading is paused nobody hears the server, which says nothing about it.
func TestPauseIsNoSilence(t *testing.T) {
	t.Parallel()
	long := time.Now().Add(-time.Hour)
	b := &beside{timing: usualTiming}
	b.seen.Store(long.UnixNano())
	s := &stream{src: &Source{timing: usualTiming}, frames: &frames{}, sink: newRecorder(0, false), beside: b, heardAt: long, askedAt: time.Now(), toldAt: time.Now()}
	room := make(chan struct{})
	close(room)
	if err := s.wait(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	if err := s.quiet(time.Now()); err != nil {
		t.Errorf("the first look after a pause: %v", err)
	}
}

// TestErrands: what is to be done beside the stream is done at once, and when it is poked; an error is logged, too long a time costs the plain
// connection only, and another history ends the stream.
func TestErrands(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	lines := newLogLines()
	log := slog.New(slog.NewTextHandler(lines, nil))
	src := NewSource(Config{DSN: db.DSN()}, &Prepared{}, connector.NewAlarms(log), log)
	src.timing = patient
	b := src.newBeside(plain(t, db.DSN()))
	runs := make(chan int)
	n := 0
	e := &errand{name: "test", every: time.Hour, limit: time.Second, do: func(ctx context.Context, conn *pgx.Conn) error {
		n++
		runs <- n
		switch n {
		case 2:
			return errors.New("on purpose")
		case 3:
			_, err := conn.Exec(ctx, "SELECT pg_sleep(60)")
			return err
		case 4:
			return ErrNewHistory
		}
		return conn.Ping(ctx)
	}}
	b.errands = []*errand{e}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.run(ctx) }()
	defer func() { cancel(); <-done }()
	for want := 1; want <= 4; want++ {
		if got := <-runs; got != want {
			t.Fatalf("run %d, want %d", got, want)
		}
		switch want {
		case 2:
			lines.until(t, 1, "on purpose", "what=test")
		case 3:
			lines.until(t, 1, "made again")
		}
		if want < 4 {
			if b.ended() != nil {
				t.Errorf("ended by run %d: %v", want, b.ended().err)
			}
			b.poke(e)
		}
	}
	cancel()
	<-done
	if end := b.ended(); end == nil || !errors.Is(end.err, ErrNewHistory) {
		t.Errorf("ended: %+v", end)
	}
}
