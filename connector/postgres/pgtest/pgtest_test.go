package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

func TestMain(m *testing.M) { Main(m) }

// each runs f on the shared server, and on the kind of server that the shared one is not, where this machine has it.
func each(t *testing.T, f func(t *testing.T, s *Instance)) {
	t.Run("shared", func(t *testing.T) { f(t, Server(t)) })
	_, isContainer := Server(t).host.(*containerHost)
	if !isContainer {
		return // then there is no container to be had
	}
	t.Run("throwaway", func(t *testing.T) {
		h, words, err := choose(t.Context(), none)
		var missing *throwaway.MissingError
		if errors.As(err, &missing) {
			t.Logf("the container is all that this machine has: %v", err)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
		if !strings.HasPrefix(words, "throwaway cluster of PostgreSQL ") {
			t.Errorf("it says %q", words)
		}
		f(t, &Instance{host: h})
	})
}

func TestServerIsShared(t *testing.T) {
	first := Server(t)
	if second := Server(t); first != second {
		t.Error("two servers")
	}
}

func TestSettings(t *testing.T) {
	each(t, func(t *testing.T, s *Instance) {
		db := s.Database(t)
		if host, _, _ := net.SplitHostPort(s.Addr()); host != "127.0.0.1" {
			t.Errorf("address %s", s.Addr())
		}
		if got := Value[int](t, db, "SELECT current_setting('server_version_num')::int / 10000"); got != s.Major() {
			t.Errorf("major version %d, the server says %d", s.Major(), got)
		}
		for name, want := range serverSettings() {
			if got := Value[string](t, db, "SELECT current_setting($1)", name); got != want {
				t.Errorf("%s = %s, want %s", name, got, want)
			}
		}
		if got := Value[string](t, db, "SHOW server_encoding"); got != "UTF8" {
			t.Errorf("encoding %s", got)
		}
		// The letters of the sample data, and the case of others than ASCII.
		if got := Value[string](t, db, "SELECT upper('é') || length('微信')"); got != "É2" {
			t.Errorf("got %q", got)
		}
	})
}

// A database goes with its test though a receiver streams from it, a session has a transaction open, and a role owns tables.
func TestDatabaseGoesWithItsTest(t *testing.T) {
	each(t, func(t *testing.T, s *Instance) {
		outer := s.Database(t)
		var name, role, otherName string
		var stream *pgx.Conn
		t.Run("Inner test, with a long name that does not fit into an identifier at all", func(t *testing.T) {
			db := s.Database(t)
			other := s.Database(t)
			name, otherName = db.Name(), other.Name()
			var dsn string
			role, dsn = db.Role(t, "REPLICATION")
			db.Exec(t, "CREATE SCHEMA own AUTHORIZATION "+role)
			if err := execute(dsn, "CREATE TABLE own.t (id int); INSERT INTO own.t VALUES (1)"); err != nil {
				t.Fatal(err)
			}
			stream = openStream(t, db)
			other.Exec(t, "SELECT pg_create_logical_replication_slot('"+other.SlotName()+"', 'pgoutput')")
			session, err := pgx.Connect(t.Context(), db.DSN())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { session.Close(context.Background()) })
			if _, err := session.Exec(t.Context(), "BEGIN; LOCK TABLE own.t"); err != nil {
				t.Fatal(err)
			}
		})
		if name == otherName || !regexp.MustCompile(`^[a-z0-9_]{1,50}$`).MatchString(name) {
			t.Errorf("names %q, %q", name, otherName)
		}
		left := Rows[string](t, outer, `SELECT datname::text FROM pg_database WHERE datname IN ($1, $2)
			UNION ALL SELECT slot_name::text FROM pg_replication_slots WHERE database IN ($1, $2)
			UNION ALL SELECT rolname::text FROM pg_roles WHERE rolname = $3`, name, otherName, role)
		if len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
		for {
			_, err := stream.PgConn().ReceiveMessage(t.Context())
			if gone := (*pgconn.PgError)(nil); errors.As(err, &gone) && gone.Code == "57P01" {
				break
			}
			if err != nil {
				t.Errorf("the stream ended with %v, want 57P01", err)
				break
			}
		}
		stream.Close(t.Context())
	})
}

// openStream makes a slot and streams from it.
func openStream(t *testing.T, db *DB) *pgx.Conn {
	t.Helper()
	slot := db.SlotName()
	db.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES", "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	conn, err := pgx.Connect(t.Context(), db.DSN()+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	// Its answer has no end that Exec could wait for.
	conn.PgConn().Frontend().SendQuery(&pgproto3.Query{
		String: "START_REPLICATION SLOT " + slot + " LOGICAL 0/0 (proto_version '1', publication_names 'p')"})
	if err := conn.PgConn().Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	for {
		message, err := conn.PgConn().ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, streams := message.(*pgproto3.CopyBothResponse); streams {
			return conn
		}
	}
}

func TestExecQueryEventually(t *testing.T) {
	db := Server(t).Database(t)
	db.Exec(t, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
	if got := Rows[int](t, db, "SELECT id FROM t WHERE id > $1 ORDER BY id", 0); len(got) != 2 || got[1] != 2 {
		t.Errorf("got %v", got)
	}
	done := make(chan error)
	go func() { done <- execute(db.DSN(), "INSERT INTO t VALUES (3)") }()
	db.Eventually(t, "SELECT count(*) = 3 FROM t")
	if err := <-done; err != nil {
		t.Error(err)
	}
	first := db.SlotName()
	if second := db.SlotName(); first == second {
		t.Error("one slot name twice")
	}
	err := execute(db.DSN(), "SELECT 1 FROM missing")
	if gone := (*pgconn.PgError)(nil); !errors.As(err, &gone) || gone.Code != "42P01" || !strings.Contains(err.Error(), "SELECT 1 FROM missing") {
		t.Errorf("got %v", err)
	}
}

func TestPrivateOutage(t *testing.T) {
	s := Private(t, "max_slot_wal_keep_size=64MB", "wal_sender_timeout=5s")
	db := s.Database(t)
	for name, want := range map[string]string{"max_slot_wal_keep_size": "64MB", "wal_sender_timeout": "5s", "wal_level": "logical"} {
		if got := Value[string](t, db, "SELECT current_setting($1)", name); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	slot := db.SlotName()
	db.Exec(t, "CREATE TABLE t (id int)", "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	for _, mode := range []throwaway.Mode{throwaway.Fast, throwaway.Immediate} {
		db.Exec(t, "INSERT INTO t VALUES (1)")
		s.Stop(t, mode)
		if err := execute(db.DSN(), "SELECT 1"); err == nil {
			t.Errorf("a server that was stopped (%s) answers", mode)
		}
		s.Start(t)
	}
	s.Restart(t)
	if got := Value[int](t, db, "SELECT count(*) FROM t"); got != 2 {
		t.Errorf("%d rows, want 2", got)
	}
	if got := Value[string](t, db, "SELECT slot_name::text FROM pg_replication_slots"); got != slot {
		t.Errorf("slot %q", got)
	}
	// A server that is down when its test ends is no trouble.
	s.Stop(t, throwaway.Immediate)
}

// inOtherProcess runs one test of this binary in a process of its own, with more environment, and gives what it printed and how it
// ended. Which daemon answers is settled once a process.
func inOtherProcess(t *testing.T, test string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestNoDaemon(t *testing.T) {
	if _, err := throwaway.FindBinaries(t.Context()); err != nil {
		t.Logf("this machine has containers only: %v", err)
		return
	}
	for name, env := range map[string][]string{
		"nobody answers":         {"DOCKER_HOST=tcp://127.0.0.1:1", "TEST_POSTGRES_IMAGE=postgres:17-alpine"},
		"no container is wanted": {"TEST_POSTGRES_IMAGE=none"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := inOtherProcess(t, "TestServerIsShared", env...)
			if err != nil || !strings.Contains(out, "PostgreSQL for the tests: throwaway cluster of PostgreSQL ") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestImageThatNobodyHas(t *testing.T) {
	if _, isContainer := Server(t).host.(*containerHost); !isContainer {
		t.Log("no daemon: the choice is the throwaway cluster's")
		return
	}
	docker, err := daemon(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	const image = "127.0.0.1:1/tuzhan-cdc-missing:1"
	if _, err = available(t.Context(), docker, []string{image}); err == nil || !strings.Contains(err.Error(), "make test-image") {
		t.Errorf("got %v", err)
	}
	// One that somebody named is not replaced by another PostgreSQL.
	out, err := inOtherProcess(t, "TestServerIsShared", "TEST_POSTGRES_IMAGE="+image)
	if err == nil || !strings.Contains(out, image) {
		t.Errorf("%v\n%s", err, out)
	}
}

// crash as environment variable makes TestCrash die half-way.
const crash = "TUZHAN_CDC_TEST_CRASH"

// TestCrash is the process that TestServerGoesWithACrash watches.
func TestCrash(t *testing.T) {
	if os.Getenv(crash) == "" {
		return
	}
	db := Server(t).Database(t)
	fmt.Println("address:", db.Server().Addr())
	panic("on purpose")
}

func TestServerGoesWithACrash(t *testing.T) {
	out, err := inOtherProcess(t, "TestCrash", crash+"=1")
	if err == nil || !strings.Contains(out, "on purpose") {
		t.Fatalf("%v\n%s", err, out)
	}
	_, rest, _ := strings.Cut(out, "address: ")
	addr, _, _ := strings.Cut(rest, "\n")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		conn, err := net.Dial("tcp", addr)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil {
			conn.Close()
		}
		select {
		case <-deadline:
			t.Fatalf("30 s after the crash somebody still listens on %q: %v", addr, err)
		case <-tick.C:
		}
	}
}

func TestReaddress(t *testing.T) {
	got := readdress("postgres://u:p@127.0.0.1:5432/d?sslmode=disable", "127.0.0.1:99")
	if got != "postgres://u:p@127.0.0.1:99/d?sslmode=disable" {
		t.Errorf("got %s", got)
	}
}
