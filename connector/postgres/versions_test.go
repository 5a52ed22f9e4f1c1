package postgres

import (
	"slices"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// TestGeneratedColumns: the catalogue's view of a table has the generated columns that the stream has: none, but stored ones where a publication of
// version 18 or newer publishes them.
func TestGeneratedColumns(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	db := server.Database(t)
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(id int PRIMARY KEY, twice int GENERATED ALWAYS AS (2 * id) STORED, x text)`)
	cfg := config(db, db.SlotName(), "t")
	with, columns, lines := "", []string{"id", "x"}, []string{"insert t new(1,a)", "update t old(1,?) new(1,b)", "delete t old(1,?)"}
	if server.Major() >= 18 {
		db.Exec(t, `ALTER TABLE crm.t ADD thrice int GENERATED ALWAYS AS (3 * id) VIRTUAL`)
		with = ` WITH (publish_generated_columns = stored)`
		columns, lines = []string{"id", "twice", "x"}, []string{"insert t new(1,2,a)", "update t old(1,?,?) new(1,2,b)", "delete t old(1,?,?)"}
	}
	db.Exec(t, `CREATE PUBLICATION "`+cfg.Publication+`" FOR TABLE crm.t`+with)
	name := TableName{"crm", "t"}
	tables, err := LoadTables(t.Context(), plain(t, db.DSN()), []TableName{name}, cfg.Publication)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range tables[name].Columns {
		got = append(got, c.Name)
	}
	if !slices.Equal(got, columns) {
		t.Errorf("the catalogue says %q, want %q", got, columns)
	}
	p := prepareFor(t, cfg, nil)
	l := runLine(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, true))
	db.Exec(t, `INSERT INTO crm.t VALUES (1, DEFAULT, 'a')`, `UPDATE crm.t SET x = 'b'`, `DELETE FROM crm.t`)
	l.expect(t, lines...)
}
