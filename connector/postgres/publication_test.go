package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// membership says which publication publishes which table how: "p crm.orders iud".
func membership(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return pgtest.Rows[string](t, db, `SELECT p.pubname || coalesce(' ' || t.schemaname || '.' || t.tablename, '') || ' ' ||
		CASE WHEN p.pubinsert THEN 'i' ELSE '' END || CASE WHEN p.pubupdate THEN 'u' ELSE '' END || CASE WHEN p.pubdelete THEN 'd' ELSE '' END ||
		CASE WHEN p.pubtruncate THEN 't' ELSE '' END || CASE WHEN p.pubviaroot THEN ' root' ELSE '' END
		FROM pg_publication p LEFT JOIN pg_publication_tables t USING (pubname) ORDER BY 1`)
}

func sameMembership(t *testing.T, db *pgtest.DB, want ...string) {
	t.Helper()
	if got := membership(t, db); !slices.Equal(got, want) {
		t.Errorf("publications are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func use(table, ops string) Use {
	schema, name, ok := strings.Cut(table, ".")
	if !ok {
		schema, name = "public", table
	}
	return Use{Table: TableName{schema, name}, Insert: strings.Contains(ops, "i"), Update: strings.Contains(ops, "u"), Delete: strings.Contains(ops, "d")}
}

func ensure(t *testing.T, conn *pgx.Conn, params PublicationParams, wantNames ...string) (changes []string) {
	t.Helper()
	names, changes, err := EnsurePublications(t.Context(), conn, params)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names, wantNames) {
		t.Errorf("names %q, want %q", names, wantNames)
	}
	return changes
}

// refused wants a *Refusal whose text has all of words, and gives its cure.
func refused(t *testing.T, err error, words ...string) string {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal", err)
	}
	for _, w := range words {
		if !strings.Contains(r.Text, w) {
			t.Errorf("the refusal does not say %q: %s", w, r.Text)
		}
	}
	return r.Cure
}

// runCure runs a cure as a superuser would in psql: a statement a line.
func runCure(t *testing.T, db *pgtest.DB, cure string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(cure) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "--") {
			lines = append(lines, line)
		}
	}
	if db.Exec(t, lines...); len(lines) == 0 {
		t.Errorf("nothing to run in the cure %q", cure)
	}
}

func TestPublicationsFollowTheMappings(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE SCHEMA crm", "CREATE TABLE crm.orders (id bigint PRIMARY KEY)", "CREATE TABLE crm.log (line text)",
		"CREATE TABLE crm.visits (id bigint PRIMARY KEY)", `CREATE SCHEMA "Kunden.数据"`, "CREATE TABLE "+odd.SQL()+" (id bigint PRIMARY KEY)",
		"CREATE TABLE crm.snap (id bigint)")
	conn := plain(t, db.DSN())
	slot := db.SlotName()
	oddUse := Use{Table: odd, Insert: true, Update: true}
	uses := []Use{use("crm.orders", "i"), use("crm.orders", "u"), use("crm.log", "i"), use("crm.visits", "i"), oddUse, use("crm.snap", "")}

	changes := ensure(t, conn, PublicationParams{"p", slot, uses}, "p", "p_insert")
	sameMembership(t, db, "p Kunden.数据."+odd.Name+" iudt root", "p crm.orders iudt root", "p_insert crm.log i root", "p_insert crm.visits i root")
	if len(changes) != 2 {
		t.Errorf("changes %q, want two", changes)
	}
	if changes := ensure(t, conn, PublicationParams{"p", slot, uses}, "p", "p_insert"); len(changes) != 0 {
		t.Errorf("a second time it changed %q", changes)
	}

	// Beside a living slot: a table moves over, another comes back, one goes, one of a new mapping comes; one that was dropped and made again
	// is put in again; options that somebody changed are put right.
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')",
		"DROP TABLE crm.log", "CREATE TABLE crm.log (line text)", "CREATE TABLE crm.fresh (id bigint)",
		"ALTER PUBLICATION p SET (publish = 'insert', publish_via_partition_root = false)")
	uses = []Use{use("crm.orders", "i"), use("crm.log", "i"), use("crm.visits", "d"), use("crm.fresh", "i")}
	changes = ensure(t, conn, PublicationParams{"p", slot, uses}, "p", "p_insert")
	sameMembership(t, db, "p crm.visits id", "p_insert crm.fresh i root", "p_insert crm.log i root", "p_insert crm.orders i root")
	if len(changes) == 0 || !strings.Contains(strings.Join(changes, "\n"), "crm.log") {
		t.Errorf("changes %q do not name the table that had left", changes)
	}

	db.Exec(t, "SELECT pg_drop_replication_slot('"+slot+"')")
	dropped, err := DropPublications(t.Context(), conn, "p")
	if err != nil || !slices.Equal(dropped, []string{"p", "p_insert"}) {
		t.Errorf("dropped %q, %v", dropped, err)
	}
	sameMembership(t, db)
}

func TestBothPublicationsAreMadeEmpty(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	ensure(t, plain(t, db.DSN()), PublicationParams{"Publ 1", "s", nil}, "Publ 1", "Publ 1_insert")
	sameMembership(t, db, "Publ 1 iudt root", "Publ 1_insert i root")
}

func TestTableWithoutIdentityIsNeverPublishedWithUpdates(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	tables := map[string]string{
		"bare":    "CREATE TABLE bare (id bigint)",
		"nothing": "CREATE TABLE nothing (id bigint PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
		"late":    "CREATE TABLE late (id bigint PRIMARY KEY DEFERRABLE)",
		"part":    "CREATE TABLE part (id bigint) PARTITION BY RANGE (id); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (9); ALTER TABLE part REPLICA IDENTITY FULL",
		odd.Name:  `CREATE SCHEMA "Kunden.数据"; CREATE TABLE ` + odd.SQL() + ` (id bigint)`,
	}
	conn := plain(t, db.DSN())
	for name, ddl := range tables {
		db.Exec(t, ddl)
		u := use(name, "ud")
		if name == odd.Name {
			u.Table = odd
		}
		params := PublicationParams{"p", "s", []Use{u}}
		_, _, err := EnsurePublications(t.Context(), conn, params)
		cure := refused(t, err, u.Table.String(), "replica identity")
		sameMembership(t, db)
		runCure(t, db, cure)
		ensure(t, conn, params, "p", "p_insert")
		// The point of it all: the application's updates work.
		db.Exec(t, "INSERT INTO "+u.Table.SQL()+" VALUES (1)", "UPDATE "+u.Table.SQL()+" SET id = 2", "DELETE FROM "+u.Table.SQL())
		if _, err := DropPublications(t.Context(), conn, "p"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRoleWithoutRightsGetsTheSQL(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE a (id bigint PRIMARY KEY)", "CREATE TABLE b (id bigint)", "CREATE TABLE c (id bigint PRIMARY KEY)",
		`CREATE SCHEMA "Kunden.数据"`, "CREATE TABLE "+odd.SQL()+" (id bigint PRIMARY KEY)")
	role, dsn := db.Role(t, "REPLICATION")
	conn := plain(t, dsn)
	params := PublicationParams{"p", db.SlotName(), []Use{use("a", "u"), use("b", "i"), {Table: odd, Delete: true}}}

	_, _, err := EnsurePublications(t.Context(), conn, params)
	cure := refused(t, err, "publication p", role, "CREATE on database")
	if !strings.HasPrefix(cure, "-- as a superuser") || !strings.Contains(cure, ` GRANT CREATE ON DATABASE "`+db.Name()+`" TO "`) {
		t.Errorf("the cure does not say who may run it:\n%s", cure)
	}
	sameMembership(t, db)
	runCure(t, db, cure)
	ensure(t, conn, params, "p", "p_insert")
	sameMembership(t, db, "p "+odd.String()+" iudt root", "p public.a iudt root", "p_insert public.b i root")

	// They are the DBA's now: nothing is taken out of them, and what is missing is the DBA's to add.
	params.Uses = []Use{use("c", "u")}
	_, _, err = EnsurePublications(t.Context(), conn, params)
	runCure(t, db, refused(t, err, "belongs to"))
	ensure(t, conn, params, "p", "p_insert")
	sameMembership(t, db, "p "+odd.String()+" iudt root", "p public.a iudt root", "p public.c iudt root", "p_insert public.b i root")
	if dropped, err := DropPublications(t.Context(), conn, "p"); err != nil || len(dropped) != 0 {
		t.Errorf("dropped the DBA's %q, %v", dropped, err)
	}

	// A role that owns the tables and may create publications needs nobody.
	db.Exec(t, "DROP PUBLICATION p", "DROP PUBLICATION p_insert", "GRANT CREATE ON DATABASE "+db.Name()+" TO "+role,
		"ALTER TABLE a OWNER TO "+role, "ALTER TABLE b OWNER TO "+role)
	params.Uses = []Use{use("a", "u"), use("b", "i")}
	ensure(t, conn, params, "p", "p_insert")
	sameMembership(t, db, "p public.a iudt root", "p_insert public.b i root")
}

func TestOnePublicationOfTheDBAIsUsedAsItIs(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE a (id bigint PRIMARY KEY)", "CREATE TABLE b (id bigint PRIMARY KEY)", "CREATE TABLE bare (id bigint)", "CREATE TABLE other (id bigint)",
		"CREATE PUBLICATION p FOR TABLE a, b")
	_, dsn := db.Role(t, "REPLICATION")
	slot := db.SlotName()
	before := membership(t, db)
	conn := plain(t, dsn)
	ensure(t, conn, PublicationParams{"p", slot, []Use{use("a", "iud"), use("b", "i")}}, "p")
	if after := membership(t, db); !slices.Equal(before, after) {
		t.Errorf("it was changed to %q", after)
	}

	// Beside a living slot no second publication can be made: a table with an identity goes into the one there is, another is refused.
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')", "CREATE TABLE c (id bigint PRIMARY KEY)")
	super := plain(t, db.DSN())
	ensure(t, super, PublicationParams{"p", slot, []Use{use("a", "iud"), use("c", "i")}}, "p")
	_, _, err := EnsurePublications(t.Context(), super, PublicationParams{"p", slot, []Use{use("bare", "i")}})
	runCure(t, db, refused(t, err, "public.bare", "no replica identity", slot))
	ensure(t, super, PublicationParams{"p", slot, []Use{use("bare", "i")}}, "p")
	sameMembership(t, db, "p public.a iudt", "p public.b iudt", "p public.bare iudt", "p public.c iudt")

	// Without a slot the second one is made, and used.
	db.Exec(t, "SELECT pg_drop_replication_slot('"+slot+"')")
	ensure(t, super, PublicationParams{"p", slot, []Use{use("other", "i")}}, "p", "p_insert")

	// One that publishes too little is the DBA's to widen.
	db.Exec(t, "CREATE PUBLICATION narrow FOR TABLE a WITH (publish = 'insert, truncate')")
	params := PublicationParams{"narrow", slot, []Use{use("a", "iu")}}
	_, _, err = EnsurePublications(t.Context(), super, params)
	runCure(t, db, refused(t, err, "publication narrow", "insert, update"))
	ensure(t, super, params, "narrow")
}

func TestWholeDatabaseAndWholeSchemaCover(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE SCHEMA crm", "CREATE TABLE crm.a (id bigint PRIMARY KEY)", "CREATE TABLE crm.bare (id bigint)", "CREATE PUBLICATION everything FOR ALL TABLES")
	_, dsn := db.Role(t, "REPLICATION")
	conn := plain(t, dsn)
	uses := []Use{use("crm.a", "iud"), use("crm.bare", "i")}
	ensure(t, conn, PublicationParams{"everything", "s", uses}, "everything")
	if db.Server().Major() >= 15 {
		db.Exec(t, "CREATE PUBLICATION of_crm FOR TABLES IN SCHEMA crm")
		ensure(t, conn, PublicationParams{"of_crm", "s", uses}, "of_crm")
	}
}

func TestPublicationIsNotMadeBesideALivingSlot(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE a (id bigint PRIMARY KEY)")
	conn := plain(t, db.DSN())
	params := PublicationParams{"p", db.SlotName(), []Use{use("a", "iu")}}
	for _, gone := range []string{"p", "p_insert"} {
		ensure(t, conn, params, "p", "p_insert")
		db.Exec(t, "SELECT pg_create_logical_replication_slot('"+params.Slot+"', 'pgoutput')", "DROP PUBLICATION "+gone)
		before := membership(t, db)
		_, _, err := EnsurePublications(t.Context(), conn, params)
		cure := refused(t, err, "publication "+gone, params.Slot, "42704")
		if after := membership(t, db); !slices.Equal(before, after) {
			t.Errorf("%s gone: it made publications beside the living slot: %q", gone, after)
		}
		runCure(t, db, cure)
		ensure(t, conn, params, "p", "p_insert")
	}
}

func TestPartitionsComeUnderTheirRoot(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE visits (id bigint, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
		"CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (9)", "CREATE PUBLICATION p FOR TABLE visits")
	conn := plain(t, db.DSN())
	params := PublicationParams{"p", db.SlotName(), []Use{use("visits", "iu")}}
	_, _, err := EnsurePublications(t.Context(), conn, params)
	runCure(t, db, refused(t, err, "under the names of their partitions"))
	ensure(t, conn, params, "p")
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+params.Slot+"', 'pgoutput')", "INSERT INTO visits VALUES (1, 1)")
	if got := relationMessages(t, db, params.Slot, "p"); got["public.visits"] == nil {
		t.Errorf("the row comes as %v, want it as public.visits", got)
	}

	params.Uses = append(params.Uses, use("visits_1", "i"))
	_, _, err = EnsurePublications(t.Context(), conn, params)
	refused(t, err, "public.visits_1", "partition of public.visits")
}

// The root's Relation message speaks of the root's identity, the rows carry what their partition's has.
func TestPartitionThatKeepsLessThanItsRootSaysIsRefused(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE visits (id bigint PRIMARY KEY, v int) PARTITION BY RANGE (id)",
		"CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (9)", "ALTER TABLE visits REPLICA IDENTITY FULL")
	conn := plain(t, db.DSN())
	params := PublicationParams{"p", db.SlotName(), []Use{use("visits", "u")}}
	_, _, err := EnsurePublications(t.Context(), conn, params)
	runCure(t, db, refused(t, err, "public.visits_1", "less of an old row"))
	ensure(t, conn, params, "p", "p_insert")
}

func TestInheritingTablesStayOut(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE parent (id bigint PRIMARY KEY)", "CREATE TABLE child () INHERITS (parent)")
	ensure(t, plain(t, db.DSN()), PublicationParams{"p", "s", []Use{use("parent", "u")}}, "p", "p_insert")
	sameMembership(t, db, "p public.parent iudt root", "p_insert i root")
}

func TestPublicationNameThatIsTooLongIsRefused(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	_, _, err := EnsurePublications(t.Context(), plain(t, db.DSN()), PublicationParams{strings.Repeat("p", 57), "s", nil})
	refused(t, err, fmt.Sprint(56))
}
