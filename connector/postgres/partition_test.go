package postgres

import (
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// Rows of partitions come under the root's name and in its column order, whatever the partition's own is; attach and detach need nobody.
func TestStreamPartitions(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.v(id int, day int, s text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)`,
		`CREATE TABLE crm.v1 PARTITION OF crm.v FOR VALUES FROM (0) TO (10)`,
		`CREATE TABLE crm.v2(s text, gone int, day int NOT NULL, id int NOT NULL, PRIMARY KEY (id, day))`, `ALTER TABLE crm.v2 DROP gone`,
		`ALTER TABLE crm.v ATTACH PARTITION crm.v2 FOR VALUES FROM (10) TO (20)`,
		`CREATE TABLE crm.sub PARTITION OF crm.v FOR VALUES FROM (20) TO (30) PARTITION BY LIST (id)`, `CREATE TABLE crm.sub1 PARTITION OF crm.sub DEFAULT`)
	if db.Server().Major() < 14 {
		find(t, preflightOf(t, db.DSN(), PreflightParams{Slot: db.SlotName(), Publication: "p", Uses: []Use{use("crm.v", "iud")}}), SeverityWarning, "server", "attached or detached")
		return
	}
	l := startLine(t, db, true, "v")
	db.Exec(t, `INSERT INTO crm.v VALUES (1, 1, 'a'), (2, 11, 'b'), (3, 21, 'c')`,
		`UPDATE crm.v SET s = s || 'x' WHERE day IN (1, 11)`,
		`UPDATE crm.v SET day = 12 WHERE id = 1`, // to another partition: a delete and an insert
		// Another one comes while it streams, and one goes: its rows are its own affair from then on.
		`CREATE TABLE crm.late(day int NOT NULL, s text, id int NOT NULL, PRIMARY KEY (id, day))`,
		`INSERT INTO crm.late VALUES (31, 'before', 4)`,
		`ALTER TABLE crm.v ATTACH PARTITION crm.late FOR VALUES FROM (30) TO (40)`, `INSERT INTO crm.v VALUES (5, 32, 'd')`,
		`ALTER TABLE crm.v DETACH PARTITION crm.v1`, `INSERT INTO crm.v1 VALUES (6, 2, 'own')`, `UPDATE crm.v SET id = 7 WHERE id = 3`,
		`TRUNCATE crm.v`, `INSERT INTO crm.v VALUES (8, 11, 'e')`)
	l.expect(t, "insert v new(1,1,a)", "insert v new(2,11,b)", "insert v new(3,21,c)",
		"update v old(1,1,?) new(1,1,ax)", "update v old(2,11,?) new(2,11,bx)", "delete v old(1,1,?)", "insert v new(1,12,ax)",
		"insert v new(5,32,d)", "update v old(3,21,?) new(7,21,c)", "insert v new(8,11,e)")
	if n := l.src.Status().Truncates; n != 1 {
		t.Errorf("%d TRUNCATEs", n)
	}
}

// A partition that keeps less of old rows than its root says (each has its own replica identity): what it did not keep is unknown. PostgreSQL
// sends it as null, in a tuple that it calls the whole old row.
func TestStreamWeakerPartition(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.v(id int PRIMARY KEY, s text, big text) PARTITION BY RANGE (id)`,
		`CREATE TABLE crm.v1 PARTITION OF crm.v FOR VALUES FROM (0) TO (10)`,
		`ALTER TABLE crm.v REPLICA IDENTITY FULL`, `ALTER TABLE crm.v1 REPLICA IDENTITY FULL`,
		`CREATE TABLE crm.plain(id int PRIMARY KEY, s text)`, `ALTER TABLE crm.plain REPLICA IDENTITY FULL`, `CREATE TABLE crm.small(id int PRIMARY KEY, s text)`,
		`CREATE TABLE crm.v2(big text, s text, id int PRIMARY KEY)`, `ALTER TABLE crm.v2 ALTER big SET STORAGE EXTERNAL`)
	w := startWatched(t, db, config(db, db.SlotName(), "v", "plain", "small"), newBooks(), &connector.Saved{})
	l := w.line
	db.Exec(t, `INSERT INTO crm.v VALUES (1, 'a')`, `UPDATE crm.v SET s = NULL`, `UPDATE crm.v SET s = 'b'`,
		`ALTER TABLE crm.v ATTACH PARTITION crm.v2 FOR VALUES FROM (10) TO (20)`,
		`INSERT INTO crm.v VALUES (11, 'a', repeat('x', 10000))`, `UPDATE crm.v SET s = 'c' WHERE id = 11`, `UPDATE crm.v SET id = 12 WHERE id = 11`,
		`UPDATE crm.v SET s = 'c' WHERE id = 1`, `DELETE FROM crm.v WHERE id = 12`)
	a := w.alarm(t, "source/identity/crm.v", "crm.v2")
	runCure(t, db, a.Cure)
	db.Exec(t, `INSERT INTO crm.v VALUES (13, NULL)`, `UPDATE crm.v SET s = 'e' WHERE id = 13`,
		// Two tables in one TRUNCATE: their Relation messages follow each other too.
		`TRUNCATE crm.plain, crm.small`, `INSERT INTO crm.plain VALUES (1, NULL)`, `DELETE FROM crm.plain`)
	l.expect(t, "insert v new(1,a,null)", "update v old(1,a,null) new(1,null,null)", "update v old(1,null,null) new(1,b,null)",
		"insert v new(11,a,10000 bytes)", "update v old(11,?,?) new(11,c,unchanged)", "update v old(11,?,?) new(12,c,unchanged)",
		"update v old(1,b,?) new(1,c,null)", "delete v old(12,?,?)",
		"insert v new(13,null,null)", "update v old(13,null,null) new(13,e,null)",
		"insert plain new(1,null)", "delete plain old(1,null)")
}

// A table that inherits in the old way is a table of its own.
func TestStreamInheritance(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.parent(id int PRIMARY KEY, s text)`, `CREATE TABLE crm.child(more int, PRIMARY KEY (id)) INHERITS (crm.parent)`,
		`CREATE TABLE crm.unmapped(PRIMARY KEY (id)) INHERITS (crm.parent)`)
	l := startLine(t, db, true, "parent", "child")
	db.Exec(t, `INSERT INTO crm.parent VALUES (1, 'p')`, `INSERT INTO crm.child VALUES (2, 'c', 3)`, `INSERT INTO crm.unmapped VALUES (4, 'u')`,
		`UPDATE crm.parent SET s = s || 'x'`)
	l.expect(t, "insert parent new(1,p)", "insert child new(2,c,3)", "update parent old(1,?) new(1,px)", "update child old(2,?,?) new(2,cx,3)")
}
