package postgres

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// tap passes connections on to a server and keeps every byte that the server sends.
type tap struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (w *tap) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes.Write(p)
}

func (w *tap) has(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.bytes.Bytes(), []byte(text))
}

// tapped gives a DSN that leads through a tap.
func tapped(t *testing.T, dsn string) (*tap, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &tap{}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer client.Close()
				up, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				defer up.Close()
				tasks.Go(func() { _, _ = io.Copy(up, client); _ = up.(*net.TCPConn).CloseWrite() })
				_, _ = io.Copy(io.MultiWriter(w, client), up)
			})
		}
	})
	t.Cleanup(func() { l.Close(); tasks.Wait() })
	u.Host = l.Addr().String()
	return w, u.String()
}

// lists says which publication has which table with which columns.
func lists(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return pgtest.Rows[string](t, db, `SELECT p.pubname || ' ' || c.relname || coalesce('(' || (SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = c.oid AND attnum = ANY (r.prattrs)) || ')', '') FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid ORDER BY 1`)
}

func sameLists(t *testing.T, db *pgtest.DB, want ...string) {
	t.Helper()
	if got := lists(t, db); !slices.Equal(got, want) {
		t.Errorf("lists are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func reads(table, ops string, columns ...string) Use {
	u := use(table, ops)
	u.Columns = columns
	return u
}

// With source.columnLists what no mapping reads never leaves the server, and the lists follow mappings and replica identities, without a gap.
func TestUnlistedColumnsStayInTheDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	if db.Server().Major() < 15 {
		t.Log("column lists need PostgreSQL 15")
		return
	}
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.t(secret text, id int PRIMARY KEY, "Na,me" text, extra text)`, `CREATE TABLE crm.full(id int PRIMARY KEY, s text, more text)`,
		`ALTER TABLE crm.full REPLICA IDENTITY FULL`, `CREATE TABLE crm.ins(id int, s text, secret text)`,
		`CREATE TABLE crm.p(secret text, day int, s text, PRIMARY KEY (day)) PARTITION BY RANGE (day)`, `CREATE TABLE crm.p1(s text, day int PRIMARY KEY, secret text)`,
		`ALTER TABLE crm.p ATTACH PARTITION crm.p1 FOR VALUES FROM (0) TO (9)`)
	w, dsn := tapped(t, db.DSN())
	slot, b := db.SlotName(), newBooks()
	cfg := Config{DSN: dsn, Slot: slot, Publication: "p", ColumnLists: true, Uses: []Use{reads("crm.t", "iud", "Na,me", "not_there_yet"), reads("crm.full", "u", "s"),
		reads("crm.ins", "i", "s"), reads("crm.p", "iud", "s")}}
	l := startWatched(t, db, cfg, b, &connector.Saved{})
	sameLists(t, db, "p full", "p p(day,s)", "p t(id,Na,me)", "p_insert ins(s)")
	db.Exec(t, `INSERT INTO crm.t VALUES ('hush-1', 1, 'loud', 'hush-2')`, `UPDATE crm.t SET secret = 'hush-3'`, `UPDATE crm.t SET id = 2`, `DELETE FROM crm.t`,
		`INSERT INTO crm.ins VALUES (1, 'x', 'hush-4')`, `INSERT INTO crm.p VALUES ('hush-5', 1, 'y')`, `UPDATE crm.p SET secret = 'hush-6'`,
		`INSERT INTO crm.full VALUES (1, 'z', 'told')`)
	l.line.expect(t, "insert t new(1,loud)", "update t old(1,?) new(1,loud)", "update t old(1,?) new(2,loud)", "delete t old(2,?)", "insert ins new(x)",
		"insert p new(1,y)", "update p old(1,?) new(1,y)", "insert full new(1,z,told)")
	if !w.has("loud") || !w.has("told") || w.has("hush") {
		t.Errorf("the wire has what is read: %v, all of a table under FULL: %v, what is not read: %v", w.has("loud"), w.has("told"), w.has("hush"))
	}

	// A column that a mapping reads comes along; a primary key is made anew on another column. Nothing has left meanwhile.
	db.Exec(t, `ALTER TABLE crm.t ADD not_there_yet int`)
	db.Eventually(t, `SELECT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'p' AND tablename = 't' AND 'not_there_yet' = ANY (attnames))`)
	db.Exec(t, `INSERT INTO crm.t VALUES ('hush-7', 3, 'q', 'e', 4)`, `ALTER TABLE crm.t DROP CONSTRAINT t_pkey; ALTER TABLE crm.t ADD PRIMARY KEY (extra)`)
	db.Eventually(t, `SELECT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'p' AND tablename = 't' AND 'extra' = ANY (attnames))`)
	db.Exec(t, `UPDATE crm.t SET id = 5`)
	l.line.until(t, "the rows", func() bool {
		return slices.Contains(l.lines, "insert t new(3,q,4)") && slices.Contains(l.lines, "update t old(?,e,?) new(q,e,4)")
	})

	// The printed way to FULL: no statement of the application fails, and nothing is missing. That the table was never out can't be seen: it is a gap.
	tables, err := LoadUsed(t.Context(), plain(t, db.DSN()), cfg.Uses, "p")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(tables, func(c *connector.Table) bool { return c.Name == "t" })
	if len(tables[i].Columns) != 5 {
		t.Errorf("a mapping may come to read every column, but it would be told of %+v", tables[i].Columns)
	}
	runCure(t, db, tables[i].FullIdentity+"\nUPDATE crm.t SET id = 6;")
	l.line.until(t, "an update under FULL", func() bool {
		return slices.Contains(l.lines, "update t old(hush-7,5,q,e,4) new(hush-7,6,q,e,4)")
	})
	sameLists(t, db, "p full", "p p(day,s)", "p t", "p_insert ins(s)")
	if g := b.closedGap(t, 1); g.Table != "crm.t" {
		t.Errorf("%+v", g)
	}

	// Other mappings, then no lists: at the next start.
	if err := l.line.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.Uses[2].Columns = []string{"id", "s"}
	l = startWatched(t, db, cfg, b, b.saved(l.checkpoint()))
	sameLists(t, db, "p full", "p p(day,s)", "p t", "p_insert ins(id,s)")
	if err := l.line.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.ColumnLists = false
	l = startWatched(t, db, cfg, b, b.saved(l.checkpoint()))
	sameLists(t, db, "p full", "p p", "p t", "p_insert ins")
	if len(b.gaps) != 1 {
		t.Errorf("gaps %+v", b.gaps)
	}

	// A column that goes with CASCADE takes the table out of the publication, and that is a gap.
	if err := l.line.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.ColumnLists = true
	startWatched(t, db, cfg, b, b.saved(l.checkpoint()))
	db.Exec(t, `ALTER TABLE crm.ins DROP COLUMN id CASCADE`)
	if g := b.closedGap(t, 2); g.Table != "crm.ins" {
		t.Errorf("%+v", g)
	}
	sameLists(t, db, "p full", "p p(day,s)", "p t", "p_insert ins(s)")
}

// A role that may not alter gets SQL with the lists, and check tells of what is published in spite of the option.
func TestColumnListsOfTheDBA(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	uses := []Use{reads("a", "u", "x"), reads("b", "i", "x"), reads("f", "u", "x")}
	if db.Server().Major() < 15 {
		_, _, err := EnsurePublications(t.Context(), plain(t, db.DSN()), PublicationParams{"p", "s", listed(uses, true)})
		refused(t, err, "PostgreSQL 15")
		return
	}
	db.Exec(t, `CREATE TABLE a (id bigint PRIMARY KEY, x int, y int)`, `CREATE TABLE b (x int, y int)`, `CREATE TABLE f (x int, y int)`, `ALTER TABLE f REPLICA IDENTITY FULL`)
	_, dsn := db.Role(t, "REPLICATION")
	params := PreflightParams{Slot: db.SlotName(), Publication: "p", Uses: uses, ColumnLists: true}
	r := preflightOf(t, dsn, params)
	find(t, r, SeverityWarning, "table public.f", "FULL forbids a column list")
	runCure(t, db, find(t, r, SeverityError, "publication p", "missing").Cure)
	sameLists(t, db, "p a(id,x)", "p f", "p_insert b(x)")
	if r = preflightOf(t, dsn, params); r.Failed() {
		t.Error(listing(r))
	}

	// A mapping comes to read another column; the identity is to be FULL: what check prints works, in one transaction.
	params.Uses[0].Columns = []string{"x", "y"}
	cure := find(t, preflightOf(t, dsn, params), SeverityError, "table public.a", "without y").Cure
	if !strings.HasPrefix(cure, "BEGIN;") || !strings.HasSuffix(cure, "COMMIT;") {
		t.Error(cure)
	}
	runCure(t, db, cure)
	sameLists(t, db, "p a(id,x,y)", "p f", "p_insert b(x)")
	db.Exec(t, `ALTER TABLE a DROP CONSTRAINT a_pkey`)
	runCure(t, db, find(t, preflightOf(t, dsn, params), SeverityError, "table public.a", "no primary key").Cure)
	db.Exec(t, `INSERT INTO a VALUES (1, 2, 3)`, `UPDATE a SET x = 3`)
	if r = preflightOf(t, dsn, params); r.Failed() {
		t.Error(listing(r))
	}
	sameLists(t, db, "p a", "p f", "p_insert b(x)")
}

// The catalogue of a server that has no column lists.
func TestColumnListsNeedPostgreSQL15(t *testing.T) {
	p := &plan{version: 140017, wanted: listed([]Use{reads("a", "u", "x")}, true)}
	if err := p.planLists(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	refused(t, refusal(p.findings), "PostgreSQL 15")
}
