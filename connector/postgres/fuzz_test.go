package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

var update = flag.Bool("update", false, "record testdata/stream.txt anew, from a real server")

// streamFile holds what a server sent, a CopyData message a line in hex.
var streamFile = filepath.Join("testdata", "stream.txt")

// recordedSQL makes a server send every message that protocol 1 has, and every form of a row.
var recordedSQL = []string{
	`CREATE SCHEMA crm`, `CREATE TYPE crm.level AS ENUM ('gold')`, `CREATE TABLE crm.d (id int PRIMARY KEY, l crm.level, big text)`,
	`CREATE TABLE crm.f (id int PRIMARY KEY, l crm.level, big text)`, `ALTER TABLE crm.f REPLICA IDENTITY FULL`,
	`ALTER TABLE crm.d ALTER big SET STORAGE EXTERNAL`, `ALTER TABLE crm.f ALTER big SET STORAGE EXTERNAL`, `CREATE PUBLICATION p FOR TABLE crm.d, crm.f`,
}

var recordedChanges = []string{
	`BEGIN; INSERT INTO crm.d VALUES (1, NULL, repeat('x', 2100)), (2, 'gold', ''); UPDATE crm.d SET l = 'gold'; UPDATE crm.d SET id = 3 WHERE id = 1; DELETE FROM crm.d; COMMIT`,
	`BEGIN; INSERT INTO crm.f VALUES (1, NULL, repeat('y', 2100)); UPDATE crm.f SET l = 'gold'; DELETE FROM crm.f; COMMIT`,
	`BEGIN; SELECT pg_logical_emit_message(true, 'prefix', '下单'); TRUNCATE crm.d, crm.f; COMMIT`,
	`SELECT pg_logical_emit_message(false, 'prefix', '')`,
	`SELECT pg_replication_origin_create(current_database()::text); SELECT pg_replication_origin_session_setup(current_database()::text); INSERT INTO crm.d VALUES (9, 'gold', NULL)`,
}

var recordedLines = []string{
	"insert d new(1,null,2100 bytes)", "insert d new(2,gold,)", "update d old(1,?,?) new(1,gold,unchanged)", "update d old(2,?,?) new(2,gold,)",
	"update d old(1,?,?) new(3,gold,unchanged)", "delete d old(2,?,?)", "delete d old(3,?,?)", "insert f new(1,null,2100 bytes)",
	"update f old(1,null,2100 bytes) new(1,gold,2100 bytes)", "delete f old(1,gold,2100 bytes)", "insert d new(9,gold,null)",
}

// TestRecorded plays what a server sent into the stream. With -update it records it first.
func TestRecorded(t *testing.T) {
	if *update {
		record(t)
	}
	messages := recorded(t)
	s, sink := offline()
	kinds := map[byte]bool{}
	for _, m := range messages {
		if err := s.message(t.Context(), 'd', m); err != nil {
			t.Fatalf("%q: %v", m, err)
		}
		kinds[kindOf(m)] = true
	}
	for _, k := range []byte("BCRYIUDTMOk") {
		if !kinds[k] {
			t.Errorf("no message of kind %q was recorded", k)
		}
	}
	if !slices.Equal(sink.lines, recordedLines) {
		t.Errorf("got  %q\nwant %q", sink.lines, recordedLines)
	}
}

// TestCutMessages: each recorded message that is cut anywhere, or goes on, is an error, and hands no change over.
func TestCutMessages(t *testing.T) {
	s, sink := offline()
	for _, m := range recorded(t) {
		before := *s
		for n := range m {
			if !wrong(t, s, sink, m[:n]) {
				t.Fatalf("a message of kind %q, cut after %d of %d bytes, was taken", kindOf(m), n, len(m))
			}
			s.inTx, s.commit, s.index, s.rel.last = before.inTx, before.commit, before.index, nil
		}
		if kindOf(m) != 'k' && !wrong(t, s, sink, append(slices.Clone(m), 0)) {
			t.Fatalf("a message of kind %q with a byte too many was taken", kindOf(m))
		}
		s.inTx, s.commit, s.index = before.inTx, before.commit, before.index
		if err := s.message(t.Context(), 'd', m); err != nil {
			t.Fatal(err)
		}
	}
}

func wrong(t *testing.T, s *stream, sink *offlineSink, m []byte) bool {
	n := len(sink.lines)
	err := s.message(t.Context(), 'd', m)
	return err != nil && len(sink.lines) == n
}

// kindOf gives the letter of a pgoutput message, or that of another replication message.
func kindOf(m []byte) byte {
	if m[0] == pglogrepl.XLogDataByteID {
		return m[25]
	}
	return m[0]
}

// offlineSink counts and shows what it is handed.
type offlineSink struct {
	lines   []string
	last    connector.Position
	quiet   bool
	changes int
}

func (s *offlineSink) Resume() connector.LSN { return 0 }
func (s *offlineSink) Change(c *connector.Change) error {
	s.changes++
	s.last = c.Position
	for _, tuple := range []connector.Tuple{c.New, c.Old} { // the shape that was promised
		if tuple != nil && len(tuple) != len(c.Table.Columns) {
			panic("a row of another width than its table")
		}
	}
	if !s.quiet {
		s.lines = append(s.lines, fmt.Sprintf("%s %s%s%s", c.Op, c.Table.Name, show(" old", c.Old), show(" new", c.New)))
	}
	return nil
}
func (s *offlineSink) Commit(_, _ connector.LSN, _ time.Time) {}
func (s *offlineSink) KeepAlive(connector.LSN)                {}
func (s *offlineSink) Dry()                                   {}
func (s *offlineSink) Watermark(string, connector.Position)   {}
func (s *offlineSink) Room() <-chan struct{}                  { return nil }
func (s *offlineSink) Confirmed() connector.LSN               { return 0 }
func (s *offlineSink) Finished() <-chan struct{}              { return nil }

// offline is a stream without a connection.
func offline() (*stream, *offlineSink) {
	log := slog.New(slog.DiscardHandler)
	types := func(context.Context, []uint32) (map[uint32]Type, error) { return nil, nil }
	sink := &offlineSink{}
	src := &Source{log: log, rel: newRelations(nil, log, types)}
	return &stream{sink: sink, src: src, rel: src.rel}, sink
}

func recorded(t testing.TB) [][]byte {
	t.Helper()
	text, err := os.ReadFile(streamFile)
	if err != nil {
		t.Fatal(err)
	}
	var messages [][]byte
	for line := range strings.Lines(string(text)) {
		m, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil || len(m) == 0 {
			t.Fatalf("%s: %v", streamFile, err)
		}
		messages = append(messages, m)
	}
	return messages
}

// record streams recordedChanges from a real server into the file.
func record(t *testing.T) {
	t.Helper()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, recordedSQL...)
	slot := db.SlotName()
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	for _, sql := range recordedChanges {
		db.Exec(t, sql)
	}
	end := connector.LSN(0)
	if lsn, err := connector.ParseLSN(pgtest.Value[string](t, db, "SELECT pg_current_wal_insert_lsn()::text")); err == nil {
		end = lsn
	}
	conn, err := connectReplication(t.Context(), db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)
	if err := pglogrepl.StartReplication(t.Context(), conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'p'", "messages 'true'"}}); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for done := false; !done; {
		msg, err := conn.ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "%x\n", data.Data)
		done = data.Data[0] == pglogrepl.PrimaryKeepaliveMessageByteID && connector.LSN(binary.BigEndian.Uint64(data.Data[1:])) >= end
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(streamFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "SELECT pg_replication_origin_drop(current_database()::text)")
}

// FuzzMessage puts one message of any content, behind a Begin and two tables, into the stream: it is an error, or does what it says; a row is handed over
// once and numbered without a gap, and nothing panics.
func FuzzMessage(f *testing.F) {
	messages := recorded(f)
	for _, m := range messages {
		f.Add(m)
	}
	var preamble [][]byte
	tables := 0
	for _, m := range messages {
		if k := kindOf(m); k == 'R' && tables < 2 || k == 'Y' || k == 'B' && len(preamble) == 0 {
			preamble = append(preamble, m)
			if k == 'R' {
				tables++
			}
		}
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		p := newPlayer(false)
		for _, before := range preamble {
			if !p.play(t, before) {
				t.Fatal("the recorded messages are not taken")
			}
		}
		p.play(t, m)
	})
}

// FuzzStream puts messages of any content and order into the stream, each with its length before it. The first byte says whether the stream looks out for
// skip markers, and so holds the first rows of a transaction back.
func FuzzStream(f *testing.F) {
	messages := recorded(f)
	for len(messages) > 0 { // a transaction a seed: large ones are slow to minimize
		n := 1
		for n < len(messages) && kindOf(messages[n-1]) != 'C' {
			n++
		}
		for _, first := range []byte{0, 1} {
			data := []byte{first}
			for _, m := range messages[:n] {
				data = append(binary.BigEndian.AppendUint16(data, uint16(len(m))), m...)
			}
			f.Add(data)
		}
		messages = messages[n:]
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		p := newPlayer(data[0]&1 != 0)
		for data = data[1:]; len(data) >= 2; {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			if !p.play(t, data[2:2+n]) {
				return
			}
			data = data[2+n:]
		}
	})
}

// player plays messages into a stream, and counts the rows that it took.
type player struct {
	s     *stream
	sink  *offlineSink
	taken int
}

func newPlayer(messages bool) *player {
	s, sink := offline()
	s.messages, sink.quiet = messages, true
	return &player{s: s, sink: sink}
}

// play puts one message into the stream, and reports whether it was taken.
func (p *player) play(t *testing.T, m []byte) bool {
	kept := bytes.Clone(m)
	err := p.s.message(t.Context(), 'd', m)
	if !bytes.Equal(m, kept) {
		t.Fatal("the message was written to")
	}
	if err != nil {
		if p.sink.changes > p.taken {
			t.Fatal("a message that can't be read handed a change over")
		}
		return false
	}
	if len(m) > 25 && m[0] == pglogrepl.XLogDataByteID && strings.IndexByte("IUD", m[25]) >= 0 {
		p.taken++
	}
	if held := len(p.s.first.ends); p.sink.changes+held != p.taken || held > 0 && !p.s.inTx {
		t.Fatalf("%d rows were taken, %d handed over, %d are held back", p.taken, p.sink.changes, held)
	}
	if p.sink.changes > 0 && p.s.index > 0 && p.sink.last != (connector.Position{Commit: p.s.commit, Index: p.s.index - 1}) {
		t.Fatalf("the last change has position %s, the next one would have %s:%d", p.sink.last, p.s.commit, p.s.index)
	}
	return true
}
