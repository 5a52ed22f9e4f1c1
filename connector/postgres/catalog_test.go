package postgres

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// odd is a table whose every name needs quoting.
var odd = TableName{`Kunden.数据`, `Bestell"ung.订单`}

func plain(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestServerIsTheOneThatReplicationSees(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "ALTER DATABASE "+db.Name()+" SET timezone = 'Asia/Shanghai'")
	role, dsn := db.Role(t, "REPLICATION")
	db.Exec(t, "ALTER ROLE "+role+" SET timezone = 'America/Lima'")

	got, err := LoadServer(t.Context(), plain(t, dsn))
	if err != nil {
		t.Fatal(err)
	}
	repl, err := connectReplication(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(repl)
	id, err := Identify(t.Context(), repl)
	if err != nil {
		t.Fatal(err)
	}
	if got.SystemID == "" || got.SystemID != id.SystemID || got.Timeline < 1 || got.Timeline != id.Timeline || got.Database != id.Database || got.Database != db.Name() {
		t.Errorf("by SQL %+v, by IDENTIFY_SYSTEM %+v", got, id)
	}
	if got.TimeZone != "Asia/Shanghai" {
		t.Errorf("time zone %s, want the database's own", got.TimeZone)
	}
	if got.Version/10000 != db.Server().Major() || got.Standby {
		t.Errorf("%+v", got)
	}
	if got, err := LoadServer(t.Context(), plain(t, pgtest.Server(t).Database(t).DSN())); err != nil || got.TimeZone != "UTC" {
		t.Errorf("time zone without a setting of the database: %q, %v; want the server's", got.TimeZone, err)
	}
}

// relationMessages gives the Relation messages that pgoutput sends for what is in the slot.
func relationMessages(t *testing.T, db *pgtest.DB, slot, publication string) map[string]*pglogrepl.RelationMessage {
	t.Helper()
	found := map[string]*pglogrepl.RelationMessage{}
	for _, data := range pgtest.Rows[[]byte](t, db, `SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2)`,
		slot, quoteIdent(publication)) {
		m, err := pglogrepl.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := m.(*pglogrepl.RelationMessage); ok {
			found[r.Namespace+"."+r.RelationName] = r
		}
	}
	return found
}

func TestTablesAreAsRelationMessagesHaveThem(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA "Kunden.数据"`,
		`CREATE DOMAIN "Kunden.数据"."Geld 钱" AS numeric(12,2)`,
		`CREATE DOMAIN "Kunden.数据".teuer AS "Kunden.数据"."Geld 钱" CHECK (VALUE > 100)`,
		`CREATE TYPE "Kunden.数据".stand AS ENUM ('neu', 'paid')`,
		`CREATE TABLE `+odd.SQL()+` (weg int, "Nr." bigint, "手机" varchar(20), gone text, betrag "Kunden.数据".teuer,
			stand "Kunden.数据".stand, alle "Kunden.数据".stand[], preise "Kunden.数据"."Geld 钱"[], doppelt bigint GENERATED ALWAYS AS ("Nr." * 2) STORED,
			zeit timestamptz, "region" text NOT NULL, PRIMARY KEY (region, "Nr."))`,
		`ALTER TABLE `+odd.SQL()+` DROP COLUMN weg, DROP COLUMN gone`,
		`CREATE PUBLICATION "Pub 1" FOR TABLE `+odd.SQL())
	slot := db.SlotName()
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')",
		"INSERT INTO "+odd.SQL()+` ("Nr.", region) VALUES (1, 'x')`)

	conn := plain(t, db.DSN())
	tables, err := LoadTables(t.Context(), conn, []TableName{odd, {"public", "nosuch"}}, "Pub 1")
	if err != nil {
		t.Fatal(err)
	}
	got := tables[odd]
	if len(tables) != 1 || got == nil {
		t.Fatalf("got %v, want the one table that exists", tables)
	}
	sent := relationMessages(t, db, slot, "Pub 1")[odd.String()]
	if sent == nil {
		t.Fatal("no Relation message for the table")
	}
	var want []connector.Column
	for _, c := range sent.Columns {
		want = append(want, connector.Column{Name: c.Name, TypeOID: c.DataType, Key: c.Flags&1 != 0})
	}
	var have []connector.Column
	for _, c := range got.Columns {
		have = append(have, connector.Column{Name: c.Name, TypeOID: c.TypeOID, Key: c.Key})
	}
	if !reflect.DeepEqual(have, want) || got.OID != sent.RelationID || byte(got.Identity) != sent.ReplicaIdentity {
		t.Errorf("catalogue:\n%+v %c\nRelation message:\n%+v %c", have, got.Identity, want, sent.ReplicaIdentity)
	}
	for name, base := range map[string]uint32{"Nr.": 20, "手机": 1043, "betrag": 1700, "stand": 25, "alle": 1009, "preise": 1231, "zeit": 1184} {
		if c := got.Columns[got.Column(name)]; c.BaseOID != base {
			t.Errorf("column %s: base %d, want %d", name, c.BaseOID, base)
		}
	}
	if c := got.Columns[got.Column("手机")]; c.TypeName != "character varying(20)" {
		t.Errorf("type name %q", c.TypeName)
	}
	if o := got.Omitted; len(o) != 1 || o[0].Column != "doppelt" || !strings.Contains(o[0].Why, "generated") {
		t.Errorf("omitted %v, want the generated column", o)
	}
}

func TestColumnListsLeaveColumnsOut(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	if db.Server().Major() < 15 {
		t.Log("column lists need PostgreSQL 15: nothing to see on this server")
		return
	}
	db.Exec(t, "CREATE TABLE o (id bigint PRIMARY KEY, a text, b text)", "CREATE PUBLICATION p FOR TABLE o (b, id)")
	o := TableName{"public", "o"}
	conn := plain(t, db.DSN())
	tables, err := LoadTables(t.Context(), conn, []TableName{o}, "p")
	if err != nil {
		t.Fatal(err)
	}
	if got := columnNames(tables[o]); !slices.Equal(got, []string{"id", "b"}) {
		t.Errorf("columns %v, want id and b", got)
	}
	db.Exec(t, "CREATE PUBLICATION whole FOR ALL TABLES")
	if tables, err = LoadTables(t.Context(), conn, []TableName{o}, "whole"); err != nil {
		t.Fatal(err)
	}
	if got := columnNames(tables[o]); !slices.Equal(got, []string{"id", "a", "b"}) {
		t.Errorf("columns %v, want all", got)
	}
}

func columnNames(t *connector.Table) []string {
	var names []string
	for _, c := range t.Columns {
		names = append(names, c.Name)
	}
	return names
}

func TestIdentitySaysWhatOldRowsCarry(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t,
		"CREATE TABLE pk (a int, b int, c int, PRIMARY KEY (c, a) INCLUDE (b))",
		"CREATE TABLE bare (a int, b int)",
		"CREATE TABLE fully (a int PRIMARY KEY, b int)", "ALTER TABLE fully REPLICA IDENTITY FULL",
		"CREATE TABLE none (a int PRIMARY KEY, b int)", "ALTER TABLE none REPLICA IDENTITY NOTHING",
		"CREATE TABLE idx (a int PRIMARY KEY, b int NOT NULL)", "CREATE UNIQUE INDEX idx_b ON idx (b)", "ALTER TABLE idx REPLICA IDENTITY USING INDEX idx_b",
		"CREATE TABLE lostidx (a int PRIMARY KEY, b int NOT NULL)", "CREATE UNIQUE INDEX lostidx_b ON lostidx (b)",
		"ALTER TABLE lostidx REPLICA IDENTITY USING INDEX lostidx_b", "DROP INDEX lostidx_b",
		"CREATE TABLE late (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, b int)",
		// The rows are in the partitions, and each has its own identity.
		"CREATE TABLE part (a int, b int, PRIMARY KEY (a)) PARTITION BY RANGE (a)",
		"CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (10)", "CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (10) TO (20)",
		"CREATE TABLE full_root (a int, b int, PRIMARY KEY (a)) PARTITION BY RANGE (a)", "ALTER TABLE full_root REPLICA IDENTITY FULL",
		"CREATE TABLE full_root1 PARTITION OF full_root FOR VALUES FROM (0) TO (10)",
		"CREATE TABLE full_leaves (a int, b int, PRIMARY KEY (a)) PARTITION BY RANGE (a)",
		"CREATE TABLE full_leaves1 PARTITION OF full_leaves FOR VALUES FROM (0) TO (10)", "ALTER TABLE full_leaves1 REPLICA IDENTITY FULL",
	)
	want := map[string]struct {
		identity connector.Identity
		keys     []string
	}{
		"pk":          {'d', []string{"a", "c"}},
		"bare":        {'d', nil},
		"fully":       {'f', []string{"a", "b"}},
		"none":        {'n', nil},
		"idx":         {'i', []string{"b"}},
		"lostidx":     {'i', nil},
		"late":        {'d', nil},
		"part":        {'d', []string{"a"}},
		"full_root":   {'d', []string{"a"}},
		"full_leaves": {'f', []string{"a", "b"}},
	}
	var names []TableName
	for n := range want {
		names = append(names, TableName{"public", n})
	}
	tables, err := LoadTables(t.Context(), plain(t, db.DSN()), names)
	if err != nil {
		t.Fatal(err)
	}
	for n, w := range want {
		table := tables[TableName{"public", n}]
		var keys []string
		for _, c := range table.Columns {
			if c.Key {
				keys = append(keys, c.Name)
			}
		}
		if table.Identity != w.identity || !slices.Equal(keys, w.keys) {
			t.Errorf("%s: identity %c %v, want %c %v", n, table.Identity, keys, w.identity, w.keys)
		}
	}
}

func TestTypesResolveToWhatIsOnTheWire(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TYPE e AS ENUM ('a')", "CREATE DOMAIN d1 AS int", "CREATE DOMAIN d2 AS d1", "CREATE DOMAIN de AS e", "CREATE DOMAIN da AS d1[]",
		"CREATE TYPE pair AS (x int, y int)")
	oid := func(name string) uint32 { return pgtest.Value[uint32](t, db, "SELECT $1::regtype::oid", name) }
	want := map[string]uint32{"int4": 23, "e": 25, "d1": 23, "d2": 23, "de": 25, "d2[]": 1007, "e[]": 1009, "de[]": 1009, "da": 1007,
		"numeric[]": 1231, "pair": oid("pair"), "jsonb": 3802, "name": 19, "point": 600, "information_schema.sql_identifier": 19}
	var oids []uint32
	for name := range want {
		oids = append(oids, oid(name))
	}
	got, err := ResolveTypes(t.Context(), plain(t, db.DSN()), append(oids, 4000000000))
	if err != nil {
		t.Fatal(err)
	}
	for name, base := range want {
		if got[oid(name)].Base != base {
			t.Errorf("%s: base %d, want %d", name, got[oid(name)].Base, base)
		}
	}
	if got[oid("d2[]")].Name != "d2[]" {
		t.Errorf("name %q", got[oid("d2[]")].Name)
	}
	if _, ok := got[4000000000]; ok {
		t.Error("a type that does not exist was resolved")
	}
}
