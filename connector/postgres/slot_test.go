package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

func TestSlotLives(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	conn, name := plain(t, db.DSN()), db.SlotName()
	s, err := SlotState(t.Context(), conn, name)
	if err != nil || s.Exists || s.WALEnd == 0 {
		t.Fatalf("before: %+v, %v", s, err)
	}
	repl, err := connectReplication(t.Context(), db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(repl)
	point, err := CreateSlot(t.Context(), repl, NewSlot{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "CREATE TABLE filler (x text)", "INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
	s, err = SlotState(t.Context(), conn, name)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Exists || s.Plugin != "pgoutput" || s.Database != db.Name() || s.Temporary || s.Active || s.Lost() || s.WALStatus != "reserved" || s.SafeWALSize != -1 {
		t.Errorf("%+v", s)
	}
	if s.ConfirmedFlush != point || s.RestartLSN == 0 || s.RestartLSN > point || s.Retained < 1_000_000 || s.WALEnd != s.RestartLSN+connector.LSN(s.Retained) {
		t.Errorf("consistent point %s, %+v", point, s)
	}
	_, err = CreateSlot(t.Context(), repl, NewSlot{Name: name})
	if !hasState(err, stateDuplicateObject) {
		t.Errorf("making it twice: %v", err)
	}
	for _, want := range []bool{true, false} {
		if was, err := DropSlot(t.Context(), conn, name); err != nil || was != want {
			t.Errorf("drop: %v, %v, want %v", was, err, want)
		}
	}
}

func TestSlotNameIsChecked(t *testing.T) {
	for _, name := range []string{"", "Tuzhan", "a-b", `a"; DROP`, "数据", strings.Repeat("a", 64)} {
		var r *Refusal
		if _, err := CreateSlot(t.Context(), nil, NewSlot{Name: name}); !errors.As(err, &r) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSlotSaysWhatItWaitsFor(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE a (id bigint)")
	ctx := t.Context()
	writer := db.Conn(t)
	tx, err := writer.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO a VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	repl, err := connectReplication(ctx, db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(repl)
	// The server waits for every writer of the server: another test's may be among them for a moment.
	mine := make(chan Wait, 1)
	made := make(chan error, 1)
	looker := plain(t, db.DSN())
	go func() {
		_, err := CreateSlot(ctx, repl, NewSlot{Name: db.SlotName(), Plain: looker, Every: 20 * time.Millisecond, Waiting: func(w Wait) {
			if w.PID == int32(writer.PgConn().PID()) {
				select {
				case mine <- w:
				default:
				}
			}
		}})
		made <- err
	}()
	var w Wait
	select {
	case w = <-mine:
	case err := <-made:
		t.Fatalf("made while a transaction was writing: %v", err)
	}
	if w.Database != db.Name() || w.State != "idle in transaction" || w.Age <= 0 || w.Waited <= 0 {
		t.Errorf("%+v", w)
	}
	db.Exec(t, w.Cure())
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	if err := looker.Ping(ctx); err != nil {
		t.Errorf("the connection to look with did not survive: %v", err)
	}
}

func TestSlotIsNotLeftHalfMade(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE a (id bigint)")
	writer := db.Conn(t)
	tx, err := writer.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO a VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	repl, err := connectReplication(t.Context(), db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(repl)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	name := db.SlotName()
	_, err = CreateSlot(ctx, repl, NewSlot{Name: name, Plain: plain(t, db.DSN()), Every: 10 * time.Millisecond, Waiting: func(Wait) { cancel() }})
	if !errors.Is(err, context.Canceled) || Passing(err) {
		t.Errorf("got %v, want a cancelled context", err)
	}
	db.Eventually(t, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication WHERE pid = $1)", int32(repl.PID()))
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err := SlotState(t.Context(), plain(t, db.DSN()), name); err != nil || s.Exists {
		t.Errorf("left behind: %+v, %v", s, err)
	}
}

// TestWhyLost: each of the server's reasons has its words and its cure.
func TestWhyLost(t *testing.T) {
	for reason, setting := range map[string]string{"": "max_slot_wal_keep_size", "wal_removed": "max_slot_wal_keep_size", "idle_timeout": "idle_replication_slot_timeout",
		"rows_removed": "hot_standby_feedback", "conflicting": "hot_standby_feedback", "wal_level_insufficient": "wal_level"} {
		if why, cure := (&Slot{WALStatus: "lost", Invalidation: reason}).whyLost(); why == "" || !strings.Contains(cure, setting+" = ") {
			t.Errorf("%q: %q, %q", reason, why, cure)
		}
	}
}

func TestLostSlotIsSeen(t *testing.T) {
	server := pgtest.Private(t, "max_slot_wal_keep_size=1MB", "max_wal_size=32MB")
	db := server.Database(t)
	conn, name := plain(t, db.DSN()), db.SlotName()
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+name+"', 'pgoutput')", "CREATE TABLE a (id bigint PRIMARY KEY, x text)")
	if s, err := SlotState(t.Context(), conn, name); err != nil || s.SafeWALSize < 0 {
		t.Errorf("with a limit: %+v, %v", s, err)
	}
	for range 4 {
		db.Exec(t, "SELECT pg_switch_wal()", "INSERT INTO a SELECT coalesce((SELECT max(id) FROM a), 0) + i, repeat('x', 500) FROM generate_series(1, 2000) i", "CHECKPOINT")
	}
	s, err := SlotState(t.Context(), conn, name)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Lost() || s.WALStatus != "lost" || s.Retained != 0 && s.RestartLSN == 0 {
		t.Errorf("%+v", s)
	}
	if server.Major() >= 17 && s.Invalidation == "" {
		t.Error("no reason for the invalidation")
	}
	params := PreflightParams{Slot: name, Publication: "p", Uses: []Use{use("a", "u")}}
	report, err := Preflight(t.Context(), conn, params)
	if err != nil {
		t.Fatal(err)
	}
	f := find(t, report, SeverityError, "slot "+name, "invalidated")
	runCure(t, db, f.Cure)
	if report, err = Preflight(t.Context(), conn, params); err != nil || report.Failed() {
		t.Errorf("after the cure: %+v, %v", report.Findings, err)
	}
}
