package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// plugin is the output plugin that the stream is decoded by.
const plugin = "pgoutput"

// Slot is a replication slot as the server sees it.
type Slot struct {
	Name string
	// Exists is false where there is no such slot; all that follows is then zero, but WALEnd.
	Exists bool
	// Plugin and Database are empty for a physical slot.
	Plugin, Database string
	Temporary        bool
	// Active: a process, ActivePID, reads from it.
	Active    bool
	ActivePID int32
	// RestartLSN is where the WAL that the server keeps for it begins, ConfirmedFlush what its reader has confirmed; 0 for a lost slot.
	RestartLSN, ConfirmedFlush connector.LSN
	// WALStatus is reserved, extended, unreserved or lost.
	WALStatus string
	// SafeWALSize is how many bytes of WAL may still be written before the slot is in danger of being lost; -1: no limit is set, or it is lost.
	SafeWALSize int64
	// Invalidation is the server's reason for a lost slot (17 or newer; "conflicting" on 16), else empty.
	Invalidation string
	// Failover: standbys keep it in step (17 or newer).
	Failover bool
	// Standby: the server is in recovery.
	Standby bool
	// Recovering: it is, and can't be streamed from before it is promoted, since it is older than 16, or the slot is a copy that is kept in step.
	Recovering bool
	// WALEnd is the server's WAL end (on a standby: what is replayed); Retained the bytes from RestartLSN to it, 0 where that is not known.
	WALEnd   connector.LSN
	Retained int64
}

// Lost reports whether the slot can't be read any more.
func (s *Slot) Lost() bool { return s.Exists && (s.WALStatus == "lost" || s.Invalidation != "") }

// foreign refuses a slot that is not this connector's, whatever its name: names are shared by the whole server. nil: it may be ours, or there is none.
// Such a slot is never dropped, and no SQL that drops it is printed.
func (s *Slot) foreign(database string) *Refusal {
	another := "give source.slot another name"
	switch {
	case !s.Exists:
		return nil
	case s.Plugin == "":
		return &Refusal{"it is a physical slot, not one of " + plugin, another}
	case s.Database != database:
		return &Refusal{fmt.Sprintf("it belongs to database %s, and source.dsn leads to database %s; slot names are shared by the whole server", s.Database, database),
			another + ", or mend the database in source.dsn"}
	case s.Plugin != plugin:
		return &Refusal{"it is a slot of output plugin " + s.Plugin + ", not of " + plugin, another}
	case s.Temporary:
		return &Refusal{"it is temporary, and goes with the session that made it", another}
	}
	return nil
}

// whyLost says in words why the slot is lost, and gives the SQL that keeps the next one from being lost too.
func (s *Slot) whyLost() (why, cure string) {
	switch s.Invalidation {
	case "idle_timeout": // 18 or newer
		return "nobody read from it for longer than idle_replication_slot_timeout", "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"
	case "wal_level_insufficient":
		return "wal_level was below logical meanwhile", "ALTER SYSTEM SET wal_level = 'logical'; -- then restart PostgreSQL"
	case "rows_removed", "conflicting": // on a standby
		return "the primary removed rows that it needed", "ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf(); -- on this standby"
	}
	return "the server removed WAL that was not read", "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'; SELECT pg_reload_conf(); -- well above source.walBudget, below the free disk"
}

// SlotState asks for the state of a slot. One that does not exist is no error, and comes back with Exists false.
func SlotState(ctx context.Context, conn *pgx.Conn, name string) (*Slot, error) {
	s := &Slot{Name: name}
	var end, restart, confirmed string
	// Columns that only some versions have are read by way of JSON: null where they are missing.
	err := conn.QueryRow(ctx, `
SELECT w.e::text, s.slot_name IS NOT NULL, coalesce(s.plugin::text, ''), coalesce(s.database::text, ''), coalesce(s.temporary, false),
       coalesce(s.active, false), coalesce(s.active_pid, 0), coalesce(s.restart_lsn::text, '0/0'), coalesce(s.confirmed_flush_lsn::text, '0/0'),
       coalesce(s.wal_status, ''), CASE WHEN s.safe_wal_size IS NULL THEN -1 ELSE greatest(s.safe_wal_size, 0) END,
       coalesce(j.s ->> 'invalidation_reason', CASE WHEN j.s ->> 'conflicting' = 'true' THEN 'conflicting' END, ''),
       coalesce(w.e - s.restart_lsn, 0)::bigint, coalesce((j.s ->> 'failover')::boolean, false),
       pg_is_in_recovery(), pg_is_in_recovery() AND (current_setting('server_version_num')::int < $2 OR coalesce((j.s ->> 'synced')::boolean, false))
  FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END) w(e)
  LEFT JOIN pg_replication_slots s ON s.slot_name = $1
  LEFT JOIN LATERAL (SELECT to_jsonb(s)) j(s) ON true`, name, standbyVersion).Scan(&end, &s.Exists, &s.Plugin, &s.Database, &s.Temporary,
		&s.Active, &s.ActivePID, &restart, &confirmed, &s.WALStatus, &s.SafeWALSize, &s.Invalidation, &s.Retained, &s.Failover, &s.Standby, &s.Recovering)
	if err != nil {
		return nil, fmt.Errorf("asking for the state of slot %s: %w", name, err)
	}
	for _, l := range []struct {
		to   *connector.LSN
		text string
	}{{&s.WALEnd, end}, {&s.RestartLSN, restart}, {&s.ConfirmedFlush, confirmed}} {
		if *l.to, err = connector.ParseLSN(l.text); err != nil {
			return nil, fmt.Errorf("asking for the state of slot %s: %w", name, err)
		}
	}
	return s, nil
}

// Wait is a transaction that the making of a slot waits for: the server ends its wait when all that were writing at the start have ended.
type Wait struct {
	// PID is the backend's; 0 for a prepared transaction, which has none, but a GlobalID.
	PID      int32
	GlobalID string
	Database string
	User     string
	// Application and State are empty where this role may not see them (it may with pg_read_all_stats).
	Application, State string
	// Age is how long the transaction has been open; 0 where this role may not see it.
	Age time.Duration
	// Waited is how long the slot has been in the making.
	Waited time.Duration
}

// String says it in a sentence, for the log.
func (w Wait) String() string {
	who := fmt.Sprintf("pid %d", w.PID)
	if w.GlobalID != "" {
		who = "prepared transaction " + w.GlobalID
	}
	if w.User != "" {
		who += " of " + w.User
	}
	if w.Database != "" {
		who += " in database " + w.Database
	}
	if w.State != "" {
		who += " (" + w.State + ")"
	}
	if w.Age > 0 {
		who += ", open for " + connector.Span(w.Age)
	}
	return "the new slot waits for a transaction that was writing: " + who
}

// Cure gives the SQL that ends the transaction, where that may be.
func (w Wait) Cure() string {
	if w.GlobalID != "" {
		return "COMMIT PREPARED " + literal(w.GlobalID) + "; -- or ROLLBACK PREPARED, in database " + w.Database
	}
	return fmt.Sprintf("SELECT pg_terminate_backend(%d); -- or let it commit", w.PID)
}

// NewSlot says how a slot is made.
type NewSlot struct {
	Name string
	// Plain is a connection beside the one that makes the slot, to look at what it waits for; nobody else uses it meanwhile. nil: nobody looks.
	Plain *pgx.Conn
	// Waiting is called from another goroutine, never after CreateSlot has returned, once every Every (0: 3 s) while the server waits.
	Waiting func(Wait)
	Every   time.Duration
	// Failover has standbys keep the slot in step: PostgreSQL 17 or newer.
	Failover bool
}

// CreateSlot makes a logical slot and gives its consistent point: every transaction that commits after it is streamed. It blocks until the
// transactions that were writing have ended. When ctx ends first it takes the request back and waits until the server has been told, so
// that no half-made slot is left behind.
func CreateSlot(ctx context.Context, repl *pgconn.PgConn, slot NewSlot) (connector.LSN, error) {
	if !validSlotName(slot.Name) {
		return 0, &Refusal{fmt.Sprintf("%q can't name a slot: only a to z, 0 to 9 and _ , at most 63 of them", slot.Name), "mend source.slot"}
	}
	done := make(chan struct{})
	var watcher sync.WaitGroup
	if slot.Plain != nil && slot.Waiting != nil {
		watcher.Go(func() { watchSlot(ctx, done, repl.PID(), slot) })
	}
	command := "CREATE_REPLICATION_SLOT " + quoteIdent(slot.Name) + " LOGICAL " + plugin
	if slot.Failover {
		command += " (SNAPSHOT 'nothing', FAILOVER true)"
	} else {
		command += " NOEXPORT_SNAPSHOT" // the words of 14 and older, which newer ones understand
	}
	made, err := pglogrepl.ParseCreateReplicationSlot(repl.Exec(ctx, command))
	close(done)
	watcher.Wait()
	if err != nil {
		if repl.IsClosed() {
			<-repl.CleanupDone() // pgconn sends the cancel request; it bounds this wait itself
		}
		return 0, fmt.Errorf("creating slot %s: %w", slot.Name, err)
	}
	return connector.ParseLSN(made.ConsistentPoint)
}

// watchSlot tells of the transaction that backend pid waits for, until done is closed. A look that fails is left out: the slot is what counts.
// It does not cut a look short when the slot is there, since that would cost the caller the connection.
func watchSlot(ctx context.Context, done <-chan struct{}, pid uint32, slot NewSlot) {
	every := slot.Every
	if every <= 0 {
		every = 3 * time.Second
	}
	began := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		w, err := waitOf(ctx, slot.Plain, pid)
		if err == nil {
			w.Waited = time.Since(began)
			slot.Waiting(w)
		}
	}
}

// waitOf looks up whose transaction the backend waits for.
func waitOf(ctx context.Context, conn *pgx.Conn, pid uint32) (Wait, error) {
	var w Wait
	var seconds float64
	err := conn.QueryRow(ctx, `
SELECT coalesce(held.pid, 0), coalesce(x.gid, ''), coalesce(a.datname::text, x.database::text, ''), coalesce(a.usename::text, x.owner::text, ''),
       coalesce(a.application_name, ''), coalesce(a.state, ''),
       coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, x.prepared)), 0)::float8
  FROM pg_locks waits
  LEFT JOIN pg_locks held ON held.locktype = 'transactionid' AND held.transactionid = waits.transactionid AND held.granted
  LEFT JOIN pg_stat_activity a ON a.pid = held.pid
  LEFT JOIN pg_prepared_xacts x ON x.transaction = waits.transactionid
 WHERE waits.pid = $1 AND waits.locktype = 'transactionid' AND NOT waits.granted
 LIMIT 1`, int32(pid)).Scan(&w.PID, &w.GlobalID, &w.Database, &w.User, &w.Application, &w.State, &seconds)
	w.Age = time.Duration(seconds * float64(time.Second))
	return w, err
}

// validSlotName is PostgreSQL's own rule (ReplicationSlotValidateName).
func validSlotName(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return len(name) >= 1 && len(name) <= 63
}

// DropSlot drops the slot and reports whether it was there. One that somebody reads from is an error (SQLSTATE 55006), one of another database or
// output plugin is a *Refusal.
func DropSlot(ctx context.Context, conn *pgx.Conn, name string) (bool, error) {
	slot, err := SlotState(ctx, conn, name)
	if err != nil {
		return false, err
	}
	var database string
	if err := conn.QueryRow(ctx, "SELECT current_database()::text").Scan(&database); err != nil {
		return false, fmt.Errorf("dropping slot %s: %w", name, err)
	}
	if other := slot.foreign(database); other != nil {
		return false, &Refusal{"slot " + name + " is not dropped: " + other.Text, other.Cure}
	}
	_, err = conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == stateUndefinedObject {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("dropping slot %s: %w", name, err)
	}
	return true, nil
}
