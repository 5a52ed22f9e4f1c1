package postgres

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// applicationSchema and applicationWork are what an application does, statement by statement, to tables of which inserts, updates and deletes are mapped (a,
// f, q, p), inserts only (ins), and none (un). A line that begins with ! waits until the connector has looked.
const applicationSchema = `
CREATE SCHEMA crm
CREATE TABLE crm.a(id int PRIMARY KEY, s text, n int, x int)
CREATE TABLE crm.f(id int PRIMARY KEY, s text, n int)
ALTER TABLE crm.f REPLICA IDENTITY FULL
CREATE TABLE crm.q(id int PRIMARY KEY, s text, u int NOT NULL)
CREATE TABLE crm.ins(id int, s text)
CREATE TABLE crm.un(id int, s text)
CREATE TABLE crm.p(id int, s text, PRIMARY KEY (id)) PARTITION BY RANGE (id)
CREATE TABLE crm.p1 PARTITION OF crm.p FOR VALUES FROM (0) TO (10)
CREATE TABLE crm.child(id int PRIMARY KEY, f int REFERENCES crm.f ON DELETE CASCADE)`

const applicationWork = `
INSERT INTO crm.a VALUES (1, 'a', 1, 1), (2, 'b', 2, 2)
UPDATE crm.a SET s = 'c' WHERE id = 1
UPDATE crm.a SET id = 3 WHERE id = 2
DELETE FROM crm.a WHERE id = 3
INSERT INTO crm.f VALUES (1, 'a', 1), (2, 'b', 2)
UPDATE crm.f SET s = NULL
INSERT INTO crm.child VALUES (1, 1)
DELETE FROM crm.f WHERE id = 1
INSERT INTO crm.ins VALUES (1, 'a')
UPDATE crm.ins SET s = 'b'
DELETE FROM crm.ins
INSERT INTO crm.un VALUES (1, 'a')
UPDATE crm.un SET s = 'b'
DELETE FROM crm.un
INSERT INTO crm.p VALUES (1, 'a')
UPDATE crm.p SET s = 'b'
INSERT INTO crm.a VALUES (1, 'twice', 1, 1)
INSERT INTO crm.a VALUES (1, 'again', 1, 1) ON CONFLICT (id) DO UPDATE SET s = excluded.s
ALTER TABLE crm.a ADD COLUMN more text DEFAULT 'm'
UPDATE crm.a SET more = 'n'
ALTER TABLE crm.a RENAME COLUMN more TO most
UPDATE crm.a SET most = 'o'
ALTER TABLE crm.a ALTER COLUMN x TYPE bigint
UPDATE crm.a SET x = 4
ALTER TABLE crm.a ALTER COLUMN n TYPE numeric(10, 2)
UPDATE crm.a SET n = 4
ALTER TABLE crm.a DROP COLUMN most
ALTER TABLE crm.a DROP COLUMN n
UPDATE crm.a SET s = 'd'
ALTER TABLE crm.a ADD COLUMN n int
ALTER TABLE crm.a ALTER COLUMN s SET NOT NULL
ALTER TABLE crm.a ADD CHECK (x > 0)
CREATE INDEX a_s ON crm.a (s)
CREATE INDEX CONCURRENTLY a_x ON crm.a (x)
DROP INDEX crm.a_s
REINDEX TABLE crm.a
VACUUM crm.a
VACUUM FULL crm.a
CLUSTER crm.a USING a_pkey
ANALYZE crm.a
UPDATE crm.a SET s = 'e'
CREATE RULE quiet AS ON DELETE TO crm.un DO INSTEAD NOTHING
CREATE VIEW crm.va AS SELECT id, s FROM crm.a
UPDATE crm.va SET s = 'f'
ALTER TABLE crm.a ENABLE ROW LEVEL SECURITY
BEGIN; INSERT INTO crm.a VALUES (9, 's', 9); ALTER TABLE crm.a ADD COLUMN tx int; UPDATE crm.a SET tx = 1; DELETE FROM crm.a WHERE id = 9; COMMIT
BEGIN; INSERT INTO crm.a VALUES (8, 's', 8); ALTER TABLE crm.a ADD COLUMN gone int; ROLLBACK
CREATE TABLE crm.copy (LIKE crm.a INCLUDING ALL)
TRUNCATE crm.ins, crm.un
TRUNCATE crm.a
INSERT INTO crm.a VALUES (1, 's', 1)
ALTER TABLE crm.q ADD CONSTRAINT q_u UNIQUE (u)
INSERT INTO crm.q VALUES (1, 'a', 1)
ALTER TABLE crm.q REPLICA IDENTITY USING INDEX q_u
!
UPDATE crm.q SET s = 'b'
ALTER TABLE crm.q REPLICA IDENTITY FULL
UPDATE crm.q SET s = 'c'
!
UPDATE crm.q SET s = 'c2'
ALTER TABLE crm.q REPLICA IDENTITY DEFAULT
UPDATE crm.q SET s = 'd'
ALTER TABLE crm.q REPLICA IDENTITY NOTHING
UPDATE crm.q SET s = 'e'
DELETE FROM crm.q WHERE id = 77
INSERT INTO crm.q VALUES (2, 'b', 2)
!
UPDATE crm.q SET s = 'f'
DELETE FROM crm.q WHERE id = 2
ALTER TABLE crm.q REPLICA IDENTITY DEFAULT
!
UPDATE crm.q SET s = 'g'
ALTER TABLE crm.q DROP CONSTRAINT q_pkey
DELETE FROM crm.q WHERE id = 77
INSERT INTO crm.q VALUES (3, 'c', 3)
!
UPDATE crm.q SET s = 'h'
ALTER TABLE crm.q ADD PRIMARY KEY (u)
!
UPDATE crm.q SET s = 'i'
DELETE FROM crm.q
BEGIN; ALTER TABLE crm.q DROP CONSTRAINT q_pkey; ALTER TABLE crm.q ADD PRIMARY KEY (id); COMMIT
INSERT INTO crm.q VALUES (4, 'd', 4)
!
UPDATE crm.q SET s = 'j'
CREATE TABLE crm.p2(s text, id int PRIMARY KEY)
INSERT INTO crm.p2 VALUES ('z', 15)
ALTER TABLE crm.p ATTACH PARTITION crm.p2 FOR VALUES FROM (10) TO (20)
UPDATE crm.p SET s = 'y'
INSERT INTO crm.p VALUES (16, 'x')
UPDATE crm.p SET id = id + 10 WHERE id = 1
ALTER TABLE crm.p2 REPLICA IDENTITY FULL
!
UPDATE crm.p SET s = 'w'
ALTER TABLE crm.p DETACH PARTITION crm.p1
INSERT INTO crm.p1 VALUES (5, 'v')
UPDATE crm.p1 SET s = 'u'
TRUNCATE crm.p
DROP TABLE crm.p1
CREATE TABLE crm.p1 PARTITION OF crm.p FOR VALUES FROM (0) TO (10)
INSERT INTO crm.p VALUES (6, 't')
DELETE FROM crm.p
ALTER TABLE crm.ins RENAME TO ins_old
INSERT INTO crm.ins_old VALUES (2, 'b')
UPDATE crm.ins_old SET s = 'c'
CREATE TABLE crm.ins(id int, s text)
INSERT INTO crm.ins VALUES (3, 'c')
UPDATE crm.ins SET s = 'c'
DROP TABLE crm.f
DROP TABLE crm.f CASCADE
CREATE TABLE crm.f(id int, s text, n int)
INSERT INTO crm.f VALUES (1, 'a', 1)
UPDATE crm.f SET s = 'b'
!
UPDATE crm.f SET s = 'c'
DELETE FROM crm.f
ALTER TABLE crm.un SET SCHEMA public
ALTER SCHEMA crm RENAME TO crm2
INSERT INTO crm2.a VALUES (7, 's', 7)
UPDATE crm2.a SET s = 't'
ALTER SCHEMA crm2 RENAME TO crm
INSERT INTO crm.a VALUES (17, 's', 7)
UPDATE crm.a SET s = 't'
ALTER TABLE crm.a SET UNLOGGED
UPDATE crm.a SET s = 'u'
DROP SCHEMA crm CASCADE`

// The application works on two databases alike, one of which has the connector: with default settings its statements fare the same but for UPDATE
// and DELETE of a table that it has robbed of its own replica identity, until the connector looks; and but for SET UNLOGGED, which PostgreSQL refuses for any
// table that is in a publication. With column lists, what depends on a list fails too.
func TestApplicationFaresTheSame(t *testing.T) {
	t.Parallel()
	always := []string{"ALTER TABLE crm.a SET UNLOGGED"}
	robbed := []string{"UPDATE crm.q SET s = 'e'", "DELETE FROM crm.q WHERE id = 77", "DELETE FROM crm.q WHERE id = 77"}
	for name, c := range map[string]struct {
		lists bool
		fail  []string
	}{
		"default settings": {false, slices.Concat(robbed, always)},
		"column lists": {true, slices.Concat([]string{"ALTER TABLE crm.a ALTER COLUMN n TYPE numeric(10, 2)", "ALTER TABLE crm.a DROP COLUMN n",
			"ALTER TABLE crm.a ADD COLUMN n int", // it is still there
			"UPDATE crm.q SET s = 'c'"}, robbed, always)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			with, without := pgtest.Server(t).Database(t), pgtest.Server(t).Database(t)
			if c.lists && with.Server().Major() < 15 {
				t.Log("column lists need PostgreSQL 15")
				return
			}
			for statement := range strings.Lines(strings.TrimSpace(applicationSchema)) {
				with.Exec(t, statement)
				without.Exec(t, statement)
			}
			cfg := Config{DSN: with.DSN(), Slot: with.SlotName(), Publication: "p", ColumnLists: c.lists, Uses: []Use{reads("crm.a", "iud", "s", "n"), reads("crm.f", "iud", "s"),
				reads("crm.q", "iud", "s"), reads("crm.p", "iud", "s"), reads("crm.ins", "i", "s")}}
			w := startWatchedBy(t, with, cfg, newBooks(), &connector.Saved{}, func(w *watch) {
				w.every, w.rest, w.quiet, w.looked = time.Hour, 0, true, make(chan struct{}, 1)
				w.identities = nil // it is to stream to the end
			})
			one, two := with.Conn(t), without.Conn(t)
			var differ []string
			for statement := range strings.Lines(strings.TrimSpace(applicationWork)) {
				if statement = strings.TrimSpace(statement); statement == "!" {
					w.lookAndWait(t)
					continue
				}
				if a, b := stateOf(t, one, statement), stateOf(t, two, statement); a != b {
					t.Logf("%s: %q with the connector, %q without", statement, a, b)
					differ = append(differ, statement)
				}
			}
			if !slices.Equal(differ, c.fail) {
				t.Errorf("these fared otherwise with the connector:\n%s\nwant\n%s", strings.Join(differ, "\n"), strings.Join(c.fail, "\n"))
			}
		})
	}
}

// stateOf runs statements and gives the SQLSTATE; empty where they succeeded.
func stateOf(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	_, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	var pg *pgconn.PgError
	if err != nil && !errors.As(err, &pg) {
		t.Fatalf("%s: %v", sql, err)
	}
	if pg == nil {
		return ""
	}
	return pg.Code
}

// lookAndWait lets a quiet watch look, and waits until it has.
func (w *watched) lookAndWait(t *testing.T) {
	t.Helper()
	select {
	case w.src.watch.kick <- struct{}{}:
	case <-t.Context().Done():
	}
	select {
	case <-w.src.watch.looked:
	case <-time.After(60 * time.Second):
		t.Fatal("the watch does not look")
	}
}
