package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// find wants one finding of that severity and subject whose text has words.
func find(t *testing.T, r Report, s Severity, subject, words string) Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Severity == s && f.Subject == subject && strings.Contains(f.Text, words) {
			return f
		}
	}
	t.Fatalf("no %s about %s with %q in:\n%s", s, subject, words, listing(r))
	return Finding{}
}

func listing(r Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		b.WriteString(string(f.Severity) + "  " + f.Subject + ": " + f.Text + "  [" + f.Cure + "]\n")
	}
	return b.String()
}

func preflightOf(t *testing.T, dsn string, p PreflightParams) Report {
	t.Helper()
	r, err := Preflight(t.Context(), plain(t, dsn), p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Each set-up is wrong in one way; the cure, run as printed, takes the finding away.
func TestCuresCure(t *testing.T) {
	for _, c := range []struct {
		name, ddl      string
		uses           []Use
		severity       Severity
		subject, words string
		from           int // the oldest server that can have this
	}{
		{"no identity", "CREATE TABLE a (id bigint)", []Use{use("a", "u")}, SeverityError, "table public.a", "no primary key", 13},
		{"identity nothing", "CREATE TABLE a (id bigint PRIMARY KEY); ALTER TABLE a REPLICA IDENTITY NOTHING", []Use{use("a", "d")}, SeverityError, "table public.a", "REPLICA IDENTITY NOTHING", 13},
		{"identity without its index", "CREATE TABLE a (id bigint NOT NULL); CREATE UNIQUE INDEX i ON a (id); ALTER TABLE a REPLICA IDENTITY USING INDEX i; DROP INDEX i",
			[]Use{use("a", "d")}, SeverityError, "table public.a", "its index is gone", 13},
		{"unlogged", `CREATE SCHEMA "Kunden.数据"; CREATE UNLOGGED TABLE ` + odd.SQL() + " (id bigint)", []Use{{Table: odd, Insert: true}}, SeverityError, "table " + odd.String(), "unlogged", 13},
		{"partitions", "CREATE TABLE a (id bigint) PARTITION BY RANGE (id); CREATE TABLE a1 PARTITION OF a FOR VALUES FROM (0) TO (9); CREATE TABLE a2 PARTITION OF a FOR VALUES FROM (10) TO (19)",
			[]Use{use("a", "u")}, SeverityError, "table public.a", "public.a1 and public.a2", 13},
		{"not via root", "CREATE TABLE a (id bigint) PARTITION BY RANGE (id); CREATE PUBLICATION p FOR TABLE a WITH (publish = 'insert')", []Use{use("a", "i")},
			SeverityError, "publication p", "partitions", 13},
		{"publishes too little", "CREATE TABLE a (id bigint PRIMARY KEY); CREATE PUBLICATION p FOR TABLE a WITH (publish = 'insert')", []Use{use("a", "u")},
			SeverityError, "publication p", "update", 13},
		{"column list without what is read", "CREATE TABLE a (id bigint PRIMARY KEY, x int); CREATE PUBLICATION p FOR TABLE a (id)",
			[]Use{{Table: TableName{"public", "a"}, Insert: true, Columns: []string{"id", "x"}}}, SeverityError, "table public.a", "without x", 15},
		{"column list without the identity", "CREATE TABLE a (id bigint PRIMARY KEY, x int); CREATE PUBLICATION p FOR TABLE a (x)",
			[]Use{{Table: TableName{"public", "a"}, Update: true, Columns: []string{"x"}}}, SeverityError, "table public.a", "replica identity", 15},
		{"column list", "CREATE TABLE a (id bigint PRIMARY KEY, x int); CREATE PUBLICATION p FOR TABLE a (id)", []Use{use("a", "i")}, SeverityWarning, "table public.a", "column list", 15},
		{"two column lists", "CREATE TABLE a (id bigint PRIMARY KEY, x int); CREATE PUBLICATION p FOR TABLE a; CREATE PUBLICATION p_insert FOR TABLE a (id) WITH (publish = 'insert')",
			[]Use{use("a", "i")}, SeverityError, "table public.a", "different column lists", 15},
		{"others in the DBA's publication", "CREATE TABLE a (id bigint PRIMARY KEY); CREATE TABLE other (id bigint); CREATE PUBLICATION p FOR ALL TABLES", []Use{use("a", "i")},
			SeverityWarning, "publication p", "public.other", 13},
		{"insert-only in the DBA's publication", "CREATE TABLE a (id bigint); CREATE PUBLICATION p FOR TABLE a", []Use{use("a", "i")}, SeverityWarning, "table public.a", "no replica identity", 13},
		{"publication gone beside the slot", "SELECT pg_create_logical_replication_slot('SLOT', 'pgoutput')", nil, SeverityError, "publication p", "42704", 13},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := pgtest.Server(t).Database(t)
			if db.Server().Major() < c.from {
				t.Logf("needs PostgreSQL %d", c.from)
				return
			}
			slot := db.SlotName()
			for _, sql := range strings.Split(c.ddl, "; ") {
				db.Exec(t, strings.ReplaceAll(sql, "SLOT", slot))
			}
			subject := strings.ReplaceAll(c.subject, "SLOT", slot)
			params := PreflightParams{Slot: slot, Publication: "p", Uses: c.uses}
			f := find(t, preflightOf(t, db.DSN(), params), c.severity, subject, c.words)
			runCure(t, db, f.Cure)
			after := preflightOf(t, db.DSN(), params)
			for _, f := range after.Findings {
				if f.Severity == SeverityError || f.Subject == subject && f.Severity == SeverityWarning {
					t.Errorf("after the cure there is still: %+v", f)
				}
			}
		})
	}
}

// Of the replica identities that would do, the cure names the one that carries the old columns that the mappings read.
func TestIdentityCureFitsTheMappings(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE a (id bigint PRIMARY KEY, x int)", "ALTER TABLE a REPLICA IDENTITY NOTHING", "CREATE TABLE bare (id bigint)")
	for _, c := range []struct {
		table string
		old   []string
		want  string
	}{
		{"a", []string{"id", "x"}, "FULL;"}, {"a", []string{"id"}, "DEFAULT;"}, {"a", []string{}, "DEFAULT;"},
		{"bare", []string{"id"}, "FULL;"}, {"bare", []string{}, "FULL; -- or give it a primary key: ADD PRIMARY KEY (...)"},
	} {
		u := use(c.table, "u")
		u.Old = c.old
		f := find(t, preflightOf(t, db.DSN(), PreflightParams{Slot: db.SlotName(), Publication: "p", Uses: []Use{u}}), SeverityError, "table public."+c.table, "no replica identity")
		if want := `ALTER TABLE "public"."` + c.table + `" REPLICA IDENTITY ` + c.want; f.Cure != want {
			t.Errorf("%s, old %q: %s, want %s", c.table, c.old, f.Cure, want)
		}
	}
}

// What publishing a table without replica identity does to the application is said as it is: that its statements fail, where a publication has the table already, of whomever it is; else
// that they would.
func TestIdentityNothingTellsWhatFails(t *testing.T) {
	const bare, partitioned = "CREATE TABLE a (id bigint)", "CREATE TABLE a (id bigint) PARTITION BY RANGE (id); CREATE TABLE a1 PARTITION OF a FOR VALUES FROM (0) TO (9)"
	for _, c := range []struct {
		ddl     string
		updates string // the error of an UPDATE, empty where it works
		want    string
	}{
		{bare, "", "would make the application's own UPDATE and DELETE fail"},
		{bare + "; CREATE PUBLICATION p FOR TABLE a WITH (publish = 'insert')", "", "would make the application's own UPDATE and DELETE fail"},
		{bare + "; CREATE PUBLICATION others FOR TABLE a", "55000", "the application's UPDATE and DELETE of it fail now"},
		{bare + "; CREATE PUBLICATION p FOR ALL TABLES", "55000", "the application's UPDATE and DELETE of it fail now"},
		{bare + "; CREATE PUBLICATION p FOR TABLE a WITH (publish = 'insert, update')", "55000", "the application's UPDATE of it fails now"},
		{partitioned + "; CREATE PUBLICATION p FOR TABLE a", "55000", "the application's UPDATE and DELETE of it fail now"},
		{partitioned + "; CREATE PUBLICATION p FOR TABLE a WITH (publish_via_partition_root)", "55000", "the application's UPDATE and DELETE of it fail now"},
	} {
		t.Run(c.ddl, func(t *testing.T) {
			db := pgtest.Server(t).Database(t)
			db.Exec(t, strings.Split(c.ddl, "; ")...)
			db.Exec(t, "INSERT INTO a VALUES (1)")
			_, err := plain(t, db.DSN()).Exec(t.Context(), "UPDATE a SET id = 2")
			var failed *pgconn.PgError
			if errors.As(err, &failed); (failed != nil) != (c.updates != "") || failed != nil && failed.Code != c.updates {
				t.Fatalf("UPDATE: %v, want %q", err, c.updates)
			}
			find(t, preflightOf(t, db.DSN(), PreflightParams{Slot: db.SlotName(), Publication: "p", Uses: []Use{use("a", "u")}}), SeverityError, "table public.a", c.want)
		})
	}
}

func TestWhatNoSQLCures(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE SCHEMA crm", "CREATE TABLE crm.orders (id bigint PRIMARY KEY)", "CREATE VIEW crm.v AS SELECT * FROM crm.orders", "CREATE MATERIALIZED VIEW crm.m AS SELECT * FROM crm.orders",
		`CREATE TABLE crm."Visits" (id bigint)`, "CREATE TABLE crm.root (id bigint) PARTITION BY RANGE (id)", "CREATE TABLE crm.leaf PARTITION OF crm.root FOR VALUES FROM (0) TO (9)",
		"CREATE TABLE crm.heir () INHERITS (crm.orders)", "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root)")
	r := preflightOf(t, db.DSN(), PreflightParams{Slot: "Bad-Name", Publication: "p", Uses: []Use{use("crm.order", "i"), use("crm.visits", "i"), use("orders", "i"), use("crm.quite_else", "i"),
		use("crm.v", "i"), use("crm.m", "i"), use("crm.leaf", "i"), use("crm.orders", "i"), use("pg_catalog.pg_class", "i")}})
	find(t, r, SeverityError, "table crm.order", "did you mean crm.orders?")
	find(t, r, SeverityError, "table crm.visits", "did you mean crm.Visits?")
	find(t, r, SeverityError, "table public.orders", "did you mean crm.orders?")
	if f := find(t, r, SeverityError, "table crm.quite_else", "does not exist"); strings.Contains(f.Text, "mean") {
		t.Errorf("a far-fetched guess: %s", f.Text)
	} else {
		runCure(t, db, f.Cure)
	}
	find(t, r, SeverityError, "table crm.v", "a view")
	find(t, r, SeverityError, "table crm.m", "a materialized view")
	find(t, r, SeverityError, "table crm.leaf", "under the name of crm.root")
	find(t, r, SeverityWarning, "table crm.orders", "crm.heir inherit")
	find(t, r, SeverityError, "table pg_catalog.pg_class", "system")
	find(t, r, SeverityError, "slot Bad-Name", "a to z")
	if !r.Failed() {
		t.Error("the report has errors and has not failed")
	}
}

func TestRowFilterIsToldOf(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	if db.Server().Major() < 15 {
		t.Log("row filters need PostgreSQL 15")
		return
	}
	db.Exec(t, "CREATE TABLE a (id bigint PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE a WHERE (id > 5)")
	r := preflightOf(t, db.DSN(), PreflightParams{Slot: db.SlotName(), Publication: "p", Uses: []Use{use("a", "i")}})
	find(t, r, SeverityWarning, "table public.a", "row filter")
	if r.Failed() {
		t.Error(listing(r))
	}
}

func TestMissingSlotAndPublicationAreNoErrorWhereTheRoleMayMakeThem(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	role, dsn := db.Role(t, "REPLICATION")
	db.Exec(t, "CREATE TABLE a (id bigint PRIMARY KEY)", "ALTER TABLE a OWNER TO "+role, "GRANT CREATE ON DATABASE "+db.Name()+" TO "+role)
	params := PreflightParams{Slot: db.SlotName(), Publication: "p", Uses: []Use{use("a", "iu")}}
	r := preflightOf(t, dsn, params)
	if r.Failed() {
		t.Error(listing(r))
	}
	find(t, r, SeverityInfo, "slot "+params.Slot, "run makes it")
	find(t, r, SeverityInfo, "publication p", "CREATE PUBLICATION")
	find(t, r, SeverityOK, "table public.a", "")
	find(t, r, SeverityOK, "role "+role, "replication connection")
	sameMembership(t, db)

	// The advice on making the slot: who writes now holds it up.
	writer := db.Conn(t)
	for _, sql := range []string{"BEGIN", "INSERT INTO a VALUES (1)"} {
		if _, err := writer.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	find(t, preflightOf(t, dsn, params), SeverityInfo, "slot "+params.Slot, "making it waits")
	if _, err := writer.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}

	ensure(t, plain(t, dsn), PublicationParams{"p", params.Slot, params.Uses}, "p", "p_insert")
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+params.Slot+"', 'pgoutput')")
	r = preflightOf(t, dsn, params)
	find(t, r, SeverityOK, "slot "+params.Slot, "confirmed to")
	find(t, r, SeverityOK, "publication p", "in step")
}

func TestRoleWithoutRightsIsCured(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	role, dsn := db.Role(t, "")
	db.Exec(t, `CREATE SCHEMA "Kunden.数据"`, "CREATE TABLE "+odd.SQL()+" (id bigint PRIMARY KEY)")
	params := PreflightParams{Slot: db.SlotName(), Publication: "p", Uses: []Use{{Table: odd, Insert: true, Update: true}}}
	r := preflightOf(t, dsn, params)
	for _, f := range []Finding{
		find(t, r, SeverityError, "role "+role, "REPLICATION"),
		find(t, r, SeverityWarning, "table "+odd.String(), "may not read"),
		find(t, r, SeverityError, "publication p", "missing"),
	} {
		runCure(t, db, f.Cure)
	}
	r = preflightOf(t, dsn, params)
	if r.Failed() {
		t.Error(listing(r))
	}
	find(t, r, SeverityOK, "table "+odd.String(), "")
	if n := pgtest.Value[int](t, db, "SELECT count(*)::int FROM pg_publication_tables WHERE pubname = 'p'"); n != 1 {
		t.Errorf("%d tables in the DBA's publication, want 1", n)
	}
	if _, err := plain(t, dsn).Exec(t.Context(), "SELECT FROM "+odd.SQL()); err != nil {
		t.Errorf("after the cure it can't be read: %v", err)
	}
	db.Exec(t, "ALTER TABLE "+odd.SQL()+" ENABLE ROW LEVEL SECURITY")
	runCure(t, db, find(t, preflightOf(t, dsn, params), SeverityWarning, "table "+odd.String(), "row level security").Cure)
	find(t, preflightOf(t, dsn, params), SeverityOK, "table "+odd.String(), "")
}

func TestServerSettingsAreCured(t *testing.T) {
	server := pgtest.Private(t, "wal_level=replica", "max_replication_slots=1", "max_wal_senders=1", "synchronous_commit=off")
	db := server.Database(t)
	params := PreflightParams{Slot: db.SlotName(), Publication: "p", WALBudget: 1 << 30}
	db.Exec(t, "SELECT pg_create_physical_replication_slot('somebody')")
	r := preflightOf(t, db.DSN(), params)
	level := find(t, r, SeverityError, "wal_level", "replica")
	slots := find(t, r, SeverityError, "max_replication_slots", "1 slots")
	keep := find(t, r, SeverityWarning, "max_slot_wal_keep_size", "no limit")
	for _, f := range []Finding{level, slots, keep} {
		runCure(t, db, f.Cure)
	}
	// What the server was started with goes before ALTER SYSTEM where the test's harness passes it on the command line.
	if pgtest.Value[bool](t, db, "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'wal_level' AND source = 'command line')") {
		t.Log("the harness sets wal_level on the command line: a restart can't show the cure")
	} else {
		server.Restart(t)
		r = preflightOf(t, db.DSN(), params)
		if r.Failed() {
			t.Error(listing(r))
		}
		find(t, r, SeverityOK, "wal_level", "logical")
		find(t, r, SeverityInfo, "synchronous_commit", "off")
		find(t, r, SeverityOK, "max_slot_wal_keep_size", "2GiB")
		params.WALBudget = 4 << 30
		f := find(t, preflightOf(t, db.DSN(), params), SeverityWarning, "max_slot_wal_keep_size", "not more than source.walBudget")
		runCure(t, db, f.Cure)
		db.Eventually(t, "SELECT current_setting('max_slot_wal_keep_size') = '8GB'")
		find(t, preflightOf(t, db.DSN(), params), SeverityOK, "max_slot_wal_keep_size", "8GiB")
	}
	repl, err := connectReplication(t.Context(), db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(repl)
	find(t, preflightOf(t, db.DSN(), params), SeverityError, "max_wal_senders", "1 WAL senders")
}

// A slot that has our name and is somebody else's: Preflight, Prepare and DropSlot say whose, and none prints SQL that drops it.
func TestForeignSlot(t *testing.T) {
	for _, c := range []struct {
		name, make, words string
		elsewhere         bool // another database's
	}{
		{"another database", "SELECT pg_create_logical_replication_slot('SLOT', 'pgoutput')", "it belongs to database ", true},
		{"another plugin", "SELECT pg_create_logical_replication_slot('SLOT', 'test_decoding')", "of output plugin test_decoding", false},
		{"physical", "SELECT pg_create_physical_replication_slot('SLOT')", "physical", false},
	} {
		for _, points := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, points %t", c.name, points), func(t *testing.T) {
				db := pgtest.Server(t).Database(t)
				owner := db
				if c.elsewhere {
					owner = pgtest.Server(t).Database(t)
				}
				db.Exec(t, "CREATE SCHEMA crm", "CREATE TABLE crm.t (id int PRIMARY KEY)")
				cfg := config(db, owner.SlotName(), "t")
				cfg.Points = points
				t.Cleanup(func() { // a physical slot does not go with its database
					owner.Exec(t, "SELECT pg_drop_replication_slot('"+cfg.Slot+"')")
				})
				owner.Exec(t, strings.ReplaceAll(c.make, "SLOT", cfg.Slot))
				words := c.words
				if c.elsewhere {
					words += owner.Name()
				}
				r := preflightOf(t, db.DSN(), PreflightParams{Slot: cfg.Slot, Publication: cfg.Publication, Uses: cfg.Uses})
				if f := find(t, r, SeverityError, "slot "+cfg.Slot, words); !strings.Contains(f.Cure, "give source.slot another name") {
					t.Errorf("the cure: %s", f.Cure)
				}
				if text := listing(r); strings.Contains(text, "pg_drop") || strings.Count(text, "error  ") != 1 || strings.Contains(text, "CREATE PUBLICATION") {
					t.Error(text)
				}
				_, err := Prepare(t.Context(), cfg, &connector.Saved{}, func([]*connector.Table) error { return nil }, connector.NewAlarms(slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
				var refusal *Refusal
				if !errors.As(err, &refusal) || !strings.Contains(refusal.Text, words) || strings.Contains(err.Error(), "pg_drop") || strings.Contains(err.Error(), "--new-state") ||
					!strings.Contains(refusal.Cure, "give source.slot another name") {
					t.Errorf("run: %v", err)
				}
				if was, err := DropSlot(t.Context(), plain(t, db.DSN()), cfg.Slot); was || !errors.As(err, &refusal) {
					t.Errorf("slot drop: %t, %v", was, err)
				}
				if n := pgtest.Value[int64](t, db, "SELECT count(*) FROM pg_publication"); n != 0 {
					t.Errorf("%d publications were made", n)
				}
			})
		}
	}
}

func TestSlotInUse(t *testing.T) {
	one := pgtest.Server(t).Database(t)
	slot := one.SlotName()
	conn := plain(t, one.DSN())
	ensure(t, conn, PublicationParams{"p", slot, nil}, "p", "p_insert")
	one.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")

	repl, err := connectReplication(t.Context(), one.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(repl)
	startReading(t, repl, slot)
	r := preflightOf(t, one.DSN(), PreflightParams{Slot: slot, Publication: "p"})
	find(t, r, SeverityInfo, "slot "+slot, "in use by pid")
	if r.Failed() {
		t.Error(listing(r))
	}
	if _, err := DropSlot(t.Context(), conn, slot); !slotInUse(err) || !Passing(err) {
		t.Errorf("dropping a slot in use: %v", err)
	}
}
