package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// DB is a test's own database on a server. It is safe for concurrent use. Its methods work in cleanup functions too, and fail the test
// by t.Fatal: call them from the test's own goroutine.
type DB struct {
	server *Instance
	name   string

	mu    sync.Mutex
	slots int
	roles []string
}

// queryTimeout bounds each helper's statement, so that a lock shows as a failing test and not as one that hangs.
const queryTimeout = 60 * time.Second

// Database makes a fresh, empty database. When the test has ended it goes, with its slots and roles, whoever is still connected.
func (s *Instance) Database(t testing.TB) *DB {
	t.Helper()
	return s.DatabaseWith(t, "")
}

// DatabaseWith is Database with options of CREATE DATABASE: "ENCODING 'EUC_CN' LOCALE 'C' TEMPLATE template0".
func (s *Instance) DatabaseWith(t testing.TB, options string) *DB {
	t.Helper()
	db := &DB{server: s, name: s.databaseName(t.Name())}
	if err := execute(s.DSN("postgres"), "CREATE DATABASE "+db.name+" "+options); err != nil {
		t.Fatalf("create database %s: %v", db.name, err)
	}
	t.Cleanup(func() {
		if s.private {
			return
		}
		if err := db.drop(); err != nil {
			t.Errorf("drop database %s: %v", db.name, err)
		}
	})
	return db
}

// Name is the database's name. It needs no quotes in SQL.
func (db *DB) Name() string { return db.name }

// Server is where the database lives.
func (db *DB) Server() *Instance { return db.server }

// DSN connects as superuser, straight to the server.
func (db *DB) DSN() string { return db.server.DSN(db.name) }

// Through is DSN by way of a proxy of the server's address.
func (db *DB) Through(p *TCPProxy) string { return readdress(db.DSN(), p.Addr()) }

func readdress(dsn, addr string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic("pgtest: a DSN of our own making is no URL")
	}
	u.Host = addr
	return u.String()
}

// SlotName gives another name for a replication slot at each call. Slots belong to the whole server; a slot of this database goes with
// it, whatever its name.
func (db *DB) SlotName() string {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.slots++
	return fmt.Sprintf("%s_s%d", db.name, db.slots)
}

// Role makes a role that may log in, with further attributes ("REPLICATION"; empty: none), and gives its name and its DSN. It goes with
// the database.
func (db *DB) Role(t testing.TB, attributes string) (name, dsn string) {
	t.Helper()
	db.mu.Lock()
	name = fmt.Sprintf("%s_r%d", db.name, len(db.roles)+1)
	db.roles = append(db.roles, name)
	db.mu.Unlock()
	password := rand.Text()
	db.Exec(t, fmt.Sprintf("CREATE ROLE %s LOGIN %s PASSWORD '%s'", name, attributes, password))
	u, err := url.Parse(db.DSN())
	if err != nil {
		t.Fatal("pgtest: a DSN of our own making is no URL")
	}
	u.User = url.UserPassword(name, password)
	return name, u.String()
}

// Exec runs statements as superuser, each string as one simple query: several statements in a string are one transaction.
func (db *DB) Exec(t testing.TB, sql ...string) {
	t.Helper()
	if err := execute(db.DSN(), sql...); err != nil {
		t.Fatal(err)
	}
}

// Conn opens a connection that is closed with the test. It is not safe for concurrent use.
func (db *DB) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.DSN())
	if err != nil {
		t.Fatalf("connect to %s: %v", db.name, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
		defer cancel()
		// Its server may be stopped by now: nothing to tell.
		_ = conn.Close(ctx)
	})
	return conn
}

// Rows gives the one column of a query's result.
func Rows[T any](t testing.TB, db *DB, sql string, args ...any) []T {
	t.Helper()
	values, err := rows[T](db.DSN(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return values
}

// Value gives the one column of the one row of a query's result.
func Value[T any](t testing.TB, db *DB, sql string, args ...any) T {
	t.Helper()
	values := Rows[T](t, db, sql, args...)
	if len(values) != 1 {
		t.Fatalf("%s: %d rows, want 1", sql, len(values))
	}
	return values[0]
}

// eventually bounds Eventually: long, since a machine may be busy, and the server decodes for each slot what all tests write.
const eventually = 4 * time.Minute

// Eventually waits until a query of one boolean gives true, for some minutes at most. For what only the server knows; where the test can be told
// of an event, waiting for that is better.
func (db *DB) Eventually(t testing.TB, sql string, args ...any) {
	t.Helper()
	conn := db.Conn(t)
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var ok bool
		if err := conn.QueryRow(ctx, sql, args...).Scan(&ok); err != nil {
			t.Fatalf("waiting for %s: %v", sql, err)
		}
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s in vain for %s", eventually, sql)
		case <-tick.C:
		}
	}
}

// execute runs statements on a connection of its own: one kept from call to call would be dead after an outage.
func execute(dsn string, sql ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, s := range sql {
		if _, err := conn.PgConn().Exec(ctx, s).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

func rows[T any](dsn, sql string, args ...any) ([]T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	result, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(result, pgx.RowTo[T])
}

// drop removes the database's slots, then the database, then its roles. A receiver that is still there loses its connection; one that comes
// back meanwhile loses the next one too.
func (db *DB) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.server.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := db.dropOnce(ctx, conn)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
	db.mu.Lock()
	roles := db.roles
	db.mu.Unlock()
	for _, role := range roles {
		if _, err := conn.Exec(ctx, "DROP ROLE IF EXISTS "+role); err != nil {
			return fmt.Errorf("drop role %s: %w", role, err)
		}
	}
	return nil
}

// dropOnce fails where a slot is still in use, or was taken again in between.
func (db *DB) dropOnce(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
		WHERE database = $1 AND active_pid IS NOT NULL`, db.name); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
		WHERE database = $1 AND NOT active`, db.name); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+db.name+" WITH (FORCE)")
	return err
}
