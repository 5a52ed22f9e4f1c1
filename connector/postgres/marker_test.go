package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"github.com/jackc/pglogrepl"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

const (
	emitMarker = `SELECT pg_logical_emit_message(true, 'tuzhan_cdc', 'skip')`
	emitOther  = `SELECT pg_logical_emit_message(true, 'tuzhan_cdc', 'heartbeat')`
)

func message(flags byte, lsn uint64, prefix, content string) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'M', flags}, lsn)
	b = append(append(b, prefix...), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}

// TestLogicalMessage: only a transactional message with exactly this prefix and content is the marker, and one that is cut is an error.
func TestLogicalMessage(t *testing.T) {
	for _, c := range []struct {
		data   []byte
		marker bool
	}{
		{message(1, 77, "tuzhan_cdc", "skip"), true},
		{message(0, 77, "tuzhan_cdc", "skip"), false},
		{message(1, 77, "tuzhan_cdc2", "skip"), false},
		{message(1, 77, "tuzhan", "skip"), false},
		{message(1, 77, "tuzhan_cdc", "skip "), false},
		{message(1, 77, "tuzhan_cdc", ""), false},
		{message(1, 77, "tuzhan_cdc", "heartbeat"), false},
		{message(1, 77, "", "skip"), false},
	} {
		parsed, err := parse(c.data)
		if err != nil {
			t.Errorf("%q: %v", c.data, err)
			continue
		}
		if m := parsed.(*pglogrepl.LogicalDecodingMessage); isMarker(m) != c.marker || m.LSN != 77 || m.Transactional != (c.data[1] == 1) {
			t.Errorf("%q: %+v", c.data, m)
		}
		for n := 1; n < len(c.data); n++ {
			if _, err := parse(c.data[:n]); err == nil {
				t.Errorf("%q: %d bytes of it are taken", c.data, n)
			}
		}
		if _, err := parse(append(bytes.Clone(c.data), 0)); err == nil {
			t.Errorf("%q: a byte behind it is taken", c.data)
		}
	}
}

func TestPluginArgs(t *testing.T) {
	for version, want := range map[string]bool{"13.23": false, "13.23 (Debian 13.23-0+deb11u1)": false, "14.0": true, "17.6 (Debian 17.6-1)": true,
		"19devel": true, "9.6.24": false, "": false, "devel": false} {
		args, messages := pluginArgs([]string{"a", `b"c`}, version)
		if messages != want || messages != (strings.Contains(strings.Join(args, " "), "messages 'true'")) || args[1] != `publication_names '"a","b""c"'` {
			t.Errorf("%s: %q, %v", version, args, messages)
		}
	}
}

// needMessages passes over a test of the marker on a server that has no logical messages in pgoutput: 13.
func needMessages(t *testing.T) *pgtest.DB {
	t.Helper()
	server := pgtest.Server(t)
	if server.Major() < messagesSince {
		t.Skipf("PostgreSQL %d sends no logical messages", server.Major())
	}
	return server.Database(t)
}

// markerLog takes the log of a source.
type markerLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *markerLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *markerLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// runMarked is runLine with a log.
func runMarked(t *testing.T, db *pgtest.DB, cfg Config, p *Prepared, r *recorder, text *markerLog) *line {
	t.Helper()
	log := slog.New(slog.NewTextHandler(text, nil))
	l := &line{recorder: r, db: db, slot: cfg.Slot, src: NewSource(cfg, p, connector.NewAlarms(log), log)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.src.Run(ctx, r) }()
	t.Cleanup(func() {
		cancel()
		close(r.finished)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

// TestSkipMarker: which transactions are marked, subtransactions and savepoints included, and that positions do not change by it.
func TestSkipMarker(t *testing.T) {
	t.Parallel()
	db := needMessages(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY, x text)`, `CREATE TABLE crm.other(id int)`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	var log markerLog
	l := runMarked(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, true), &log)
	large := `, repeat('y', 3000000)`
	db.Exec(t,
		`BEGIN; `+emitMarker+`; INSERT INTO crm.t VALUES (1); UPDATE crm.t SET x = 'a' WHERE id = 1; COMMIT`,
		`INSERT INTO crm.t VALUES (2)`,
		// A marker in a savepoint that is taken back was never there; one that is kept counts, also where the server sends the row before it.
		`BEGIN; SAVEPOINT a; `+emitMarker+`; ROLLBACK TO a; INSERT INTO crm.t VALUES (3); COMMIT`,
		`BEGIN; SAVEPOINT a; `+emitMarker+`; RELEASE a; INSERT INTO crm.t VALUES (4), (5); INSERT INTO crm.t VALUES (6); COMMIT`,
		`BEGIN; SAVEPOINT a; `+emitMarker+`; RELEASE a; SAVEPOINT a; INSERT INTO crm.t VALUES (7); RELEASE a; INSERT INTO crm.t VALUES (8); COMMIT`,
		`BEGIN; SAVEPOINT a; `+emitMarker+`; RELEASE a; INSERT INTO crm.t VALUES (9`+large+`); COMMIT`,
		// Rows that were taken back before it do not count.
		`BEGIN; SAVEPOINT a; INSERT INTO crm.t VALUES (10); ROLLBACK TO a; `+emitMarker+`; INSERT INTO crm.t VALUES (11); COMMIT`,
		`BEGIN; `+emitMarker+`; SAVEPOINT a; INSERT INTO crm.t VALUES (12); SAVEPOINT b; INSERT INTO crm.t VALUES (13); ROLLBACK TO b;
			RELEASE a; INSERT INTO crm.t VALUES (14); COMMIT`,
		`BEGIN; `+emitOther+`; `+emitMarker+`; TRUNCATE crm.other; INSERT INTO crm.t VALUES (15); `+emitMarker+`; COMMIT`,
		// None of these is marked.
		`BEGIN; `+emitOther+`; INSERT INTO crm.t VALUES (20); COMMIT`,
		`BEGIN; SELECT pg_logical_emit_message(false, 'tuzhan_cdc', 'skip'); INSERT INTO crm.t VALUES (21); COMMIT`,
		`BEGIN; SELECT pg_logical_emit_message(true, 'other', 'skip'); INSERT INTO crm.t VALUES (22); COMMIT`,
		`BEGIN; INSERT INTO crm.t VALUES (23); `+emitMarker+`; `+emitMarker+`; INSERT INTO crm.t VALUES (24); COMMIT`,
		`BEGIN; SAVEPOINT a; INSERT INTO crm.t VALUES (25); RELEASE a; `+emitMarker+`; COMMIT`,
		`INSERT INTO crm.t VALUES (26)`)
	// COPY writes many rows in one WAL record.
	conn := db.Conn(t)
	for i, sql := range []string{`BEGIN; SAVEPOINT a; ` + emitMarker + `; RELEASE a`, "", "COMMIT"} {
		var err error
		if i == 1 {
			_, err = conn.PgConn().CopyFrom(t.Context(), strings.NewReader("30\n31\n32\n"), `COPY crm.t (id) FROM STDIN`)
		} else {
			_, err = conn.PgConn().Exec(t.Context(), sql).ReadAll()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	l.expect(t, "skip insert t new(1,null)", "skip update t old(1,?) new(1,a)", "insert t new(2,null)", "insert t new(3,null)",
		"skip insert t new(4,null)", "skip insert t new(5,null)", "skip insert t new(6,null)", "skip insert t new(7,null)", "skip insert t new(8,null)",
		"skip insert t new(9,3000000 bytes)", "skip insert t new(11,null)", "skip insert t new(12,null)", "skip insert t new(14,null)",
		"skip insert t new(15,null)",
		"insert t new(20,null)", "insert t new(21,null)", "insert t new(22,null)", "insert t new(23,null)", "insert t new(24,null)", "insert t new(25,null)",
		"insert t new(26,null)", "skip insert t new(30,null)", "skip insert t new(31,null)", "skip insert t new(32,null)")
	var index uint32
	var commit connector.LSN
	for _, p := range l.positions {
		if p.Commit != commit {
			commit, index = p.Commit, 0
		}
		if p.Index != index {
			t.Errorf("position %s has index %d, want %d", p, p.Index, index)
		}
		index++
	}
	if got := strings.Count(log.String(), "skip marker is ignored"); got != 2 {
		t.Errorf("%d warnings of a marker that came too late, want one for each transaction:\n%s", got, log.String())
	}
	if want := "commit=" + l.positions[17].Commit.String(); !strings.Contains(log.String(), want) {
		t.Errorf("the warning does not say %s:\n%s", want, log.String())
	}
	// The connection is the same, and its end does not bring the warnings again.
	if got := l.src.Status(); got.Reconnects != 0 {
		t.Errorf("%+v", got)
	}
}

// TestLateMarkerAfterReconnect: a transaction that comes again does not bring its warning again.
func TestLateMarkerAfterReconnect(t *testing.T) {
	t.Parallel()
	db := needMessages(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	cfg := config(db, db.SlotName(), "t")
	p := prepareFor(t, cfg, nil)
	var log markerLog
	l := runMarked(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, false), &log)
	db.Exec(t, `BEGIN; INSERT INTO crm.t VALUES (1); `+emitMarker+`; COMMIT`)
	l.until(t, "the transaction", func() bool { return len(l.commits) == 1 })
	db.Exec(t, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '`+l.slot+`'`)
	l.until(t, "the transaction again", func() bool { return len(l.commits) == 2 })
	if got := strings.Count(log.String(), "skip marker is ignored"); got != 1 {
		t.Errorf("%d warnings", got)
	}
}

// TestStreamWithoutMessages: the option is not sent where the server refuses it, and all else works.
// check tells of it.
func TestStreamWithoutMessages(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY)`)
	l := startLine(t, db, true, "t")
	db.Exec(t, `BEGIN; `+emitMarker+`; INSERT INTO crm.t VALUES (1); COMMIT`)
	report := preflightOf(t, db.DSN(), PreflightParams{Slot: l.slot, Publication: l.slot})
	told := slices.ContainsFunc(report.Findings, func(f Finding) bool { return f.Subject == "skip marker" && f.Severity == SeverityInfo })
	if pgtest.Server(t).Major() < messagesSince {
		l.expect(t, "insert t new(1)")
		if !told {
			t.Error("check does not say that this server sends no marker")
		}
	} else {
		l.expect(t, "skip insert t new(1)")
		if told {
			t.Error("check says that this server sends no marker")
		}
	}
}
