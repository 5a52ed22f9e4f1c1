package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

func quiet() Options { return Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))} }

func openServerTest(t testing.TB, dsn string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Location{DSN: dsn}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestServerConforms(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	conform(t, func(t *testing.T) func() durable {
		db.Exec(t, "DROP SCHEMA IF EXISTS tuzhan_cdc CASCADE") // quicker than another database
		return func() durable { return openServerTest(t, db.DSN()) }
	})
}

// endSession ends the writer's session, as an administrator would, and waits until the server has done so.
func endSession(t *testing.T, db *pgtest.DB) {
	t.Helper()
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	db.Eventually(t, `SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
}

// lostSoon gives what Lost says, nil where it says nothing.
func lostSoon(t *testing.T, s *Store) error {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return s.Lost(ctx)
}

func intended(t *testing.T, s *Store, commit connector.LSN) error {
	t.Helper()
	return s.Intend(t.Context(), []connector.RecordID{point("m", at(commit, 0), 0)})
}

func knownPoints(t *testing.T, db *pgtest.DB) []int64 {
	t.Helper()
	return pgtest.Rows[int64](t, db, "SELECT commit_lsn FROM tuzhan_cdc.point ORDER BY 1")
}

func TestSecondServerWriterWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	first := openServerTest(t, db.DSN())
	must(t, first.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	if _, err := Open(t.Context(), Location{DSN: db.DSN()}, quiet()); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "(process ") {
		t.Fatalf("a second writer: %v", err)
	}
	var log lockedBuffer
	opened := make(chan *Store, 1)
	go func() {
		second, err := Open(t.Context(), Location{DSN: db.DSN()}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), LockWait: Forever})
		if err != nil {
			t.Error(err)
		}
		opened <- second
	}()
	eventually(t, "the second says that it waits", func() bool { return strings.Contains(log.String(), "as a standby") })
	must(t, first.SaveCheckpoint(t.Context(), checkpoint(at(6, 0))))
	must(t, first.Close())
	second := <-opened
	defer second.Close()
	if cp := load(t, second).Checkpoint; cp == nil || cp.Settled != at(6, 0) {
		t.Errorf("the second begins at %+v", cp)
	}
	if !strings.Contains(log.String(), "going on") || strings.Count(log.String(), "as a standby") != 1 {
		t.Errorf("the log: %s", &log)
	}
}

// TestFenced: a writer whose session is alive can't commit after another name stands in the row, and says so for good.
func TestFenced(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	s := openServerTest(t, db.DSN())
	must(t, intended(t, s, 1))
	db.Exec(t, "UPDATE tuzhan_cdc.meta SET session = 'another'")
	for range 2 {
		if err := intended(t, s, 2); !errors.Is(err, ErrTaken) {
			t.Errorf("a writer that was overtaken: %v", err)
		}
	}
	if err := lostSoon(t, s); !errors.Is(err, ErrTaken) {
		t.Errorf("Lost: %v", err)
	}
	if got := knownPoints(t, db); len(got) != 1 {
		t.Errorf("points %v", got)
	}
	must(t, s.Close())
}

// TestTakenOver: a second process takes over when the first one's session has ended; the first finds that out and writes nothing any more.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	first := openServerTest(t, db.DSN())
	must(t, intended(t, first, 1))
	endSession(t, db)
	second := openServerTest(t, db.DSN())
	must(t, intended(t, second, 2))
	if err := intended(t, first, 3); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("the first: %v", err)
	}
	if err := lostSoon(t, first); !errors.Is(err, ErrTaken) {
		t.Errorf("Lost: %v", err)
	}
	must(t, intended(t, second, 4))
	if got := knownPoints(t, db); fmt.Sprint(got) != "[1 2 4]" {
		t.Errorf("points %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.Lost(ctx); err != nil {
		t.Errorf("the second: %v", err)
	}
	// Nor may it when the one that took over has ended since: it does not know what that one did.
	endSession(t, db)
	third := openServerTest(t, db.DSN())
	must(t, intended(t, third, 5))
	must(t, third.Close())
	if err := intended(t, second, 6); !errors.Is(err, ErrTaken) {
		t.Errorf("the second: %v", err)
	}
	if got := knownPoints(t, db); fmt.Sprint(got) != "[1 2 4 5]" {
		t.Errorf("points %v", got)
	}
}

// TestSessionEnded: nobody else wants the state: the writer goes on, on a new connection, and its callers notice nothing.
func TestSessionEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	s := openServerTest(t, db.DSN())
	for i := range 3 {
		must(t, intended(t, s, connector.LSN(i)))
		must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(0, uint32(i)))))
		endSession(t, db)
	}
	if got := s.Stats(); got.Failures != 0 {
		t.Errorf("%+v", got)
	}
}

// blocked holds up the next transaction of a writer on the server, after all of it has arrived there.
func blocked(t *testing.T, db *pgtest.DB, do func() error) (result chan error, release func()) {
	t.Helper()
	blocker := db.Conn(t)
	tx, err := blocker.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE tuzhan_cdc.gap IN EXCLUSIVE MODE")
	must(t, err)
	result = make(chan error, 1)
	go func() { result <- do() }()
	db.Eventually(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')")
	return result, func() { must(t, tx.Commit(context.Background())) }
}

// TestAnswerLost: the COMMIT is done and its answer is lost. The writer finds the transaction by its number and does not write it again.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	instance := pgtest.Server(t)
	db := instance.Database(t)
	proxy := pgtest.Proxy(t, instance.Addr())
	s := openServerTest(t, db.Through(proxy))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 1})) // prepares the statements, so that the next one goes out whole
	result, release := blocked(t, db, func() error { return s.AddGap(t.Context(), connector.Gap{From: 2}) })
	proxy.Pause()
	release()
	db.Eventually(t, "SELECT count(*) = 2 FROM tuzhan_cdc.gap")
	proxy.Cut()
	proxy.Resume()
	must(t, <-result)
	must(t, intended(t, s, 2))
	if gaps, err := s.Gaps(t.Context()); err != nil || len(gaps) != 2 {
		t.Errorf("%d gaps, %v", len(gaps), err)
	}
}

// TestCommitLost: the connection is cut before the COMMIT is done. The old session can't do it later, and the writer writes all of it again, once.
func TestCommitLost(t *testing.T) {
	t.Parallel()
	instance := pgtest.Server(t)
	db := instance.Database(t)
	proxy := pgtest.Proxy(t, instance.Addr())
	s := openServerTest(t, db.Through(proxy))
	must(t, s.AddGap(t.Context(), connector.Gap{From: 1}))
	result, release := blocked(t, db, func() error { return s.AddGap(t.Context(), connector.Gap{From: 2}) })
	old := pgtest.Value[int32](t, db, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
	proxy.Cut()
	// The old session is ended by the writer itself: else it would hold the lock until its turn came.
	db.Eventually(t, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", old)
	release()
	must(t, <-result)
	if gaps, err := s.Gaps(t.Context()); err != nil || len(gaps) != 2 {
		t.Errorf("%d gaps, %v", len(gaps), err)
	}
}

// TestOldSessionLives: the server does not know that a connection is gone, and its session holds the lock: the writer ends that session itself.
func TestOldSessionLives(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	s := openServerTest(t, db.DSN())
	must(t, intended(t, s, 1))
	medium := s.w.medium.(*server) // the writer's goroutine looks at it again when the next operation comes
	old := medium.conn
	defer drop(old)
	medium.conn = nil
	must(t, intended(t, s, 2))
	if _, err := old.Exec(t.Context(), "DELETE FROM tuzhan_cdc.point"); err == nil {
		t.Error("the old session lives on")
	}
	if got := knownPoints(t, db); fmt.Sprint(got) != "[1 2]" {
		t.Errorf("points %v", got)
	}
}

// TestEndUnknown: the answer is lost and the server stays away. The caller is told that it may be stored; when the server is back, what it has counts.
func TestEndUnknown(t *testing.T) {
	t.Parallel()
	instance := pgtest.Server(t)
	db := instance.Database(t)
	proxy := pgtest.Proxy(t, instance.Addr())
	s := openServerTest(t, db.Through(proxy))
	onWriter(t, s, func(w *writer) error { w.medium.(*server).settleFor = time.Millisecond; return nil })
	cp := checkpoint(at(5, 0)) // the same changes settled: nothing to read on the way to the COMMIT
	cp.Flush = 7
	must(t, s.Rebase(t.Context(), checkpoint(at(5, 0)), nil, &connector.Gap{From: 1}, 0)) // prepares the statements
	result, release := blocked(t, db, func() error {
		return s.Rebase(t.Context(), cp, nil, &connector.Gap{From: 2}, 0)
	})
	proxy.Pause()
	release()
	db.Eventually(t, "SELECT count(*) = 2 FROM tuzhan_cdc.gap")
	proxy.Refuse()
	proxy.Resume()
	if err := <-result; !errors.Is(err, ErrUnknown) || !Unreachable(err) {
		t.Errorf("with the answer lost: %v", err)
	}
	id := point("m", at(9, 0), 0)
	if err := s.Intend(t.Context(), []connector.RecordID{id}); err == nil || errors.Is(err, ErrUnknown) || !Unreachable(err) {
		t.Errorf("while the server is away: %v", err)
	}
	s.Outcome(id, true) // kept
	proxy.Heal(t)
	// The writer knows what was stored: a step back from it is refused.
	back := checkpoint(at(6, 0))
	if err := s.SaveCheckpoint(t.Context(), back); !errors.Is(err, ErrRefused) {
		t.Errorf("a step back: %v", err)
	}
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(8, 0))))
	must(t, s.Close())
}

// TestServerRestarts: what is asked for while the server is away fails, and works when it is back; an outcome is kept until then.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	instance := pgtest.Private(t)
	db := instance.Database(t)
	s := openServerTest(t, db.DSN())
	onWriter(t, s, func(w *writer) error { w.medium.(*server).settleFor = time.Millisecond; return nil })
	must(t, intended(t, s, 1))
	instance.Restart(t)
	must(t, intended(t, s, 2)) // nobody wrote meanwhile, so nobody notices
	for _, mode := range []throwaway.Mode{throwaway.Fast, throwaway.Immediate} {
		instance.Stop(t, mode)
		if err := intended(t, s, 3); !Unreachable(err) || !strings.Contains(err.Error(), "by itself") {
			t.Errorf("%v: %v", mode, err)
		}
		s.Outcome(point("m", at(1, 0), 0), true)
		instance.Start(t)
		eventually(t, "the outcome is stored", func() bool {
			return s.Stats().Operations > 0 && load(t, s).Known[point("m", at(1, 0), 0).Key()] == connector.Applied
		})
		must(t, intended(t, s, 1))
	}
	saved := load(t, s)
	want := map[connector.RecordKey]connector.Known{point("m", at(1, 0), 0).Key(): connector.Intended, point("m", at(2, 0), 0).Key(): connector.Intended}
	if !maps.Equal(saved.Known, want) {
		t.Errorf("known %v", saved.Known)
	}
	must(t, s.Close())
	// A process that starts while the server is away waits for it.
	instance.Stop(t, throwaway.Fast)
	if _, err := Open(t.Context(), Location{DSN: db.DSN()}, quiet()); !Unreachable(err) {
		t.Errorf("Open: %v", err)
	}
	var log lockedBuffer
	opened := make(chan error, 1)
	go func() {
		s, err := Open(t.Context(), Location{DSN: db.DSN()}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), LockWait: Forever})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	eventually(t, "it says that it waits", func() bool { return strings.Contains(log.String(), "waiting for the state") })
	instance.Start(t)
	must(t, <-opened)
}

// TestServerWentBack: a server that comes back without what it had acknowledged is noticed, and nothing is written to it.
func TestServerWentBack(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	s := openServerTest(t, db.DSN())
	must(t, intended(t, s, 1))
	must(t, intended(t, s, 2))
	db.Exec(t, "UPDATE tuzhan_cdc.meta SET token = token - 1; DELETE FROM tuzhan_cdc.point WHERE commit_lsn = 2")
	endSession(t, db)
	if err := intended(t, s, 3); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "without what it had stored") {
		t.Errorf("%v", err)
	}
	if err := lostSoon(t, s); !errors.Is(err, ErrDamaged) {
		t.Errorf("Lost: %v", err)
	}
	if got := knownPoints(t, db); fmt.Sprint(got) != "[1]" {
		t.Errorf("points %v", got)
	}
}

// TestServerPromises: what the writer's session relies on is set, whatever the database's defaults are.
func TestServerPromises(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, fmt.Sprintf(`ALTER DATABASE %[1]s SET synchronous_commit = off; ALTER DATABASE %[1]s SET statement_timeout = '1ms';
		ALTER DATABASE %[1]s SET search_path = pg_catalog; ALTER DATABASE %[1]s SET default_transaction_isolation = serializable`, db.Name()))
	s := openServerTest(t, db.DSN())
	must(t, intended(t, s, 1))
	for setting, want := range map[string]string{"synchronous_commit": "on", "statement_timeout": "0", "lock_timeout": "10s", "tcp_user_timeout": "25000"} {
		var got string
		onWriter(t, s, func(w *writer) error {
			return w.medium.(*server).conn.QueryRow(t.Context(), "SELECT current_setting($1)", setting).Scan(&got)
		})
		if got != want {
			t.Errorf("%s is %s, want %s", setting, got, want)
		}
	}
	odd := letter(point("m", at(2, 0), 0), connector.ClassRejected) // texts that PostgreSQL does not take as they are
	odd.Reason, odd.Answer = "\x00\xff", &connector.LetterAnswer{Msg: "\x00\xff"}
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{odd}))
	if _, err := s.Reader.db.ExecContext(t.Context(), "DELETE FROM dead_letter"); sqlState(err) != stateReadOnly {
		t.Errorf("the reader can write: %v", err)
	}
}

// TestServerBlamesOne: an operation that the server refuses fails alone; the others of its transaction are stored.
func TestServerBlamesOne(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	s := openServerTest(t, db.DSN())
	release := hold(t, s)
	results := make([]chan error, 3)
	for i, do := range []func() error{
		func() error { return intended(t, s, 1) },
		func() error {
			return s.w.q.do(t.Context(), func(w *writer) error {
				return w.exec("INSERT INTO gap (from_lsn, to_lsn, table_name, reason) VALUES (1 / 0, 1, '13800138000', '')")
			})
		},
		func() error { return intended(t, s, 2) },
	} {
		results[i] = make(chan error, 1)
		go func() { results[i] <- do() }()
		queued(t, s, i+1)
	}
	must(t, release())
	must(t, <-results[0])
	must(t, <-results[2])
	if err := <-results[1]; sqlState(err) != stateDivision || strings.Contains(err.Error(), "138") {
		t.Errorf("the bad one: %v", err)
	}
	if got := knownPoints(t, db); fmt.Sprint(got) != "[1 2]" {
		t.Errorf("points %v", got)
	}
}

func TestServerGroupCommit(t *testing.T) {
	t.Parallel()
	s := openServerTest(t, pgtest.Server(t).Database(t).DSN())
	groupCommit(t, s)
}

func TestServerVersions(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	if _, err := OpenReader(t.Context(), Location{DSN: db.DSN()}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "tuzhan-cdc run") {
		t.Errorf("OpenReader without a state: %v", err)
	}
	if n := pgtest.Value[int](t, db, "SELECT count(*)::int FROM pg_namespace WHERE nspname = 'tuzhan_cdc'"); n != 0 {
		t.Error("OpenReader made a schema")
	}
	// The first version, as a program of that time left it.
	conn := db.Conn(t)
	_, err := conn.Exec(t.Context(), "SET search_path = tuzhan_cdc")
	must(t, err)
	must(t, migrateServer(t.Context(), conn, 0, serverMigrations(migrations()[:1])))
	_, err = conn.Exec(t.Context(), "ALTER TABLE tuzhan_cdc.meta DROP lease, DROP sender") // as it was until version 4
	must(t, err)
	_, err = conn.Exec(t.Context(), `INSERT INTO checkpoint (id, system_id, database_name, slot, settled_lsn, settled_idx, flush_lsn) VALUES (1, '7', 'crm', 's', 5, 1, 6)`)
	must(t, err)
	if _, err := OpenReader(t.Context(), Location{DSN: db.DSN()}); err == nil || !strings.Contains(err.Error(), "older version") {
		t.Errorf("OpenReader of an older version: %v", err)
	}
	s := openServerTest(t, db.DSN())
	if cp := load(t, s).Checkpoint; cp.Lineage.SystemID != "7" || cp.Settled != at(5, 1) {
		t.Errorf("%+v", cp)
	}
	must(t, s.Close())
	// A step that fails leaves the schema as it was, the good step before it included.
	bad := append(serverMigrations(migrations()), "ALTER TABLE dead_letter ADD COLUMN note TEXT", "ALTER TABLE nowhere ADD COLUMN note TEXT")
	if err := migrateServer(t.Context(), conn, schemaVersion, bad); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("to %d", schemaVersion+2)) {
		t.Errorf("%v", err)
	}
	if n := pgtest.Value[int](t, db, "SELECT count(*)::int FROM information_schema.columns WHERE table_name = 'dead_letter' AND column_name = 'note'"); n != 0 {
		t.Error("half a migration is there")
	}
	// The tables are those of the file, column by column.
	file := openTest(t, t.TempDir()+"/state.db")
	rows, err := file.Reader.db.QueryContext(t.Context(), "SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' ORDER BY 1")
	must(t, err)
	var want []string
	for rows.Next() {
		var name string
		must(t, rows.Scan(&name))
		want = append(want, name)
	}
	must(t, rows.Err())
	if got := pgtest.Rows[string](t, db, `SELECT (table_name || '.' || column_name) COLLATE "C" FROM information_schema.columns WHERE table_schema = 'tuzhan_cdc' AND table_name <> 'meta' ORDER BY 1`); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("tables differ:\n%v\n%v", got, want)
	}
	db.Exec(t, "UPDATE tuzhan_cdc.meta SET version = 99")
	_, writing := Open(t.Context(), Location{DSN: db.DSN()}, Options{Logger: quiet().Logger, LockWait: Forever})
	_, reading := OpenReader(t.Context(), Location{DSN: db.DSN()})
	_, checking := Inspect(t.Context(), Location{DSN: db.DSN()})
	for _, err := range []error{writing, reading, checking} {
		if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "version 99") {
			t.Errorf("a newer version: %v", err)
		}
	}
	for _, foreign := range []string{"CREATE TABLE tuzhan_cdc.bookmarks (url text)", "CREATE TABLE tuzhan_cdc.meta (name text)"} {
		db.Exec(t, "DROP SCHEMA tuzhan_cdc CASCADE; CREATE SCHEMA tuzhan_cdc; "+foreign)
		_, writing := Open(t.Context(), Location{DSN: db.DSN()}, Options{Logger: quiet().Logger, LockWait: Forever})
		_, reading := OpenReader(t.Context(), Location{DSN: db.DSN()})
		for _, err := range []error{writing, reading} {
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "another program") {
				t.Errorf("a foreign schema: %v", err)
			}
		}
	}
}

// TestServerRights: a role without the right to make the schema is told the SQL, which works as it stands; and it needs no more than that.
func TestServerRights(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	role, dsn := db.Role(t, "")
	_, opening := Open(t.Context(), Location{DSN: dsn}, Options{Logger: quiet().Logger, LockWait: Forever})
	_, checking := Inspect(t.Context(), Location{DSN: dsn})
	for _, err := range []error{opening, checking} {
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Cure, role) {
			t.Fatalf("without rights: %v", err)
		}
		_, cure, _ := strings.Cut(e.Cure, ": ")
		if !strings.HasPrefix(cure, "CREATE SCHEMA IF NOT EXISTS tuzhan_cdc;") {
			t.Errorf("cure %q", cure)
		}
	}
	_, cure, _ := strings.Cut(checking.(*Error).Cure, ": ")
	db.Exec(t, cure)
	found, err := Inspect(t.Context(), Location{DSN: dsn})
	must(t, err)
	if !strings.Contains(found.Text, "run makes it") {
		t.Errorf("%+v", found)
	}
	s := openServerTest(t, dsn)
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{letter(point("m", at(5, 0), 0), connector.ClassRejected)}))
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	must(t, s.Close())
	// Another role of the same database gets the same advice, for tables that are there.
	other, otherDSN := db.Role(t, "")
	_, opening = Open(t.Context(), Location{DSN: otherDSN}, Options{Logger: quiet().Logger, LockWait: Forever})
	_, checking = Inspect(t.Context(), Location{DSN: otherDSN})
	for _, err := range []error{opening, checking} {
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Cure, other) {
			t.Fatalf("another role: %v", err)
		}
	}
	_, cure, _ = strings.Cut(checking.(*Error).Cure, ": ")
	db.Exec(t, cure)
	s = openServerTest(t, otherDSN)
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(6, 0))))
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{letter(point("m", at(7, 0), 0), connector.ClassRejected)}))
}

func TestInspectServer(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	inspect := func() string {
		t.Helper()
		found, err := Inspect(t.Context(), Location{DSN: db.DSN()})
		must(t, err)
		return fmt.Sprint(found)
	}
	if got := inspect(); !strings.Contains(got, "not there yet") || !strings.Contains(got, "fsync is off") || strings.Contains(got, "published") {
		t.Errorf("%s", got)
	}
	s := openServerTest(t, db.DSN()) // beside a running connector
	for _, sql := range []string{"CREATE PUBLICATION everything FOR ALL TABLES", "CREATE PUBLICATION everything FOR TABLE tuzhan_cdc.point"} {
		db.Exec(t, sql)
		if got := inspect(); !strings.Contains(got, "version 5") || !strings.Contains(got, "are published") || !strings.Contains(got, "who read everything") {
			t.Errorf("%s: %s", sql, got)
		}
		db.Exec(t, "DROP PUBLICATION everything")
	}
	must(t, s.Close())
	// With its tables published as a whole, the state's updates and deletes need a replica identity: they have one.
	db.Exec(t, "CREATE PUBLICATION everything FOR ALL TABLES")
	s = openServerTest(t, db.DSN())
	id := point("m", at(1, 0), 0)
	must(t, s.Intend(t.Context(), []connector.RecordID{id}))
	s.Outcome(id, true)
	cp := checkpoint(at(9, 0), connector.Range{From: at(11, 0), To: at(12, 0)})
	cp.Tracks = []connector.Track{{Mapping: "m", Since: at(9, 0), Settled: at(9, 0)}}
	must(t, s.SaveCheckpoint(t.Context(), cp))
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(10, 0))))
	must(t, s.Close())
}

// TestServerRequests: a command leaves a request beside the running connector, which finds it and takes it away.
func TestServerRequests(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	if err := Ask(t.Context(), Location{DSN: db.DSN()}, Request{What: RequestResume}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a state: %v", err)
	}
	s := openServerTest(t, db.DSN())
	requests(t, s, Location{DSN: db.DSN()})
}

// TestServerErrorsHoldNoSecrets: neither a password nor a value is in an error, whatever is wrong.
func TestServerErrorsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	u, err := url.Parse(db.DSN())
	must(t, err)
	u.User = url.UserPassword(u.User.Username(), "Zu7Vq-wrong")
	wrong := u.String()
	u.Path = "/no_such_database"
	u.Host = "127.0.0.1:1"
	for _, dsn := range []string{wrong, u.String(), "postgres://cdc:Zu7Vq@[::1/x", "host=127.0.0.1 port=x password=Zu7Vq"} {
		_, opening := Open(t.Context(), Location{DSN: dsn}, quiet())
		_, reading := OpenReader(t.Context(), Location{DSN: dsn})
		_, checking := Inspect(t.Context(), Location{DSN: dsn})
		for _, err := range []error{opening, reading, checking} {
			if err == nil || strings.Contains(err.Error(), "Zu7Vq") || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "state database ") {
				t.Errorf("%v", err)
			}
		}
		if text := fmt.Sprintf("%v %+v %#v", Location{DSN: dsn}, Location{DSN: dsn}, Location{DSN: dsn}); strings.Contains(text, "Zu7Vq") {
			t.Errorf("%s", text)
		}
	}
}
