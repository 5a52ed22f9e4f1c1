package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// identityTables are tables of one shape, under each replica identity. big is stored out of line as it comes; code may be long too, and is part of an
// identity in some.
var identityTables = map[string]string{
	"d":  `CREATE TABLE crm.d (id int PRIMARY KEY, code text NOT NULL, status text, big text, note text)`,
	"i":  `CREATE TABLE crm.i (id int PRIMARY KEY, code text NOT NULL, status text, big text, note text); CREATE UNIQUE INDEX i_code ON crm.i (code, id); ALTER TABLE crm.i REPLICA IDENTITY USING INDEX i_code`,
	"f":  `CREATE TABLE crm.f (id int PRIMARY KEY, code text NOT NULL, status text, big text, note text); ALTER TABLE crm.f REPLICA IDENTITY FULL`,
	"nk": `CREATE TABLE crm.nk (id int, code text, status text, big text, note text); ALTER TABLE crm.nk REPLICA IDENTITY FULL`,
	// Its root's Relation message says DEFAULT, whatever the partition gives: one gives more, one has its columns in another order.
	"p": `CREATE TABLE crm.p (id int, code text NOT NULL, status text, big text, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
		CREATE TABLE crm.p1 PARTITION OF crm.p FOR VALUES FROM (0) TO (5); ALTER TABLE crm.p1 REPLICA IDENTITY FULL;
		CREATE TABLE crm.p2 (note text, big text, id int NOT NULL, status text, code text NOT NULL); ALTER TABLE crm.p ATTACH PARTITION crm.p2 FOR VALUES FROM (5) TO (99);
		CREATE UNIQUE INDEX p2_code ON crm.p2 (code, id); ALTER TABLE crm.p2 REPLICA IDENTITY USING INDEX p2_code`,
	// Its root says FULL, and a partition gives its key only.
	"q": `CREATE TABLE crm.q (id int PRIMARY KEY, code text NOT NULL, status text, big text, note text) PARTITION BY RANGE (id); ALTER TABLE crm.q REPLICA IDENTITY FULL;
		CREATE TABLE crm.q1 PARTITION OF crm.q FOR VALUES FROM (0) TO (99)`,
}

// identityColumns are the columns of which the old row must be known.
var identityColumns = map[string]string{"d": "id", "i": "id code", "f": "id code status big note", "nk": "id code status big note", "p": "id code", "q": "id"}

// TestTuplesTellTheTruth writes random inserts, updates and deletes to tables under each replica identity, with long values and changes of keys, and compares
// each change with what a trigger saw: what is known is true, a null is a null, nothing that the identity carries is unknown, and of the new row nothing is
// but a long value that stayed.
func TestTuplesTellTheTruth(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm; CREATE TABLE crm.truth (n bigserial, tab text, op text, old text[], new text[]);
		CREATE FUNCTION crm.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO crm.truth (tab, op, old, new) VALUES (TG_ARGV[0], lower(TG_OP),
			CASE WHEN TG_OP <> 'INSERT' THEN ARRAY[OLD.id::text, OLD.code, OLD.status, OLD.big, OLD.note] END,
			CASE WHEN TG_OP <> 'DELETE' THEN ARRAY[NEW.id::text, NEW.code, NEW.status, NEW.big, NEW.note] END);
		RETURN NULL; END $$`)
	var names []string
	for name, ddl := range identityTables {
		names = append(names, name)
		db.Exec(t, ddl, fmt.Sprintf(`ALTER TABLE crm.%s ALTER big SET STORAGE EXTERNAL, ALTER code SET STORAGE EXTERNAL`, name),
			fmt.Sprintf(`CREATE TRIGGER truth AFTER INSERT OR UPDATE OR DELETE ON crm.%s FOR EACH ROW EXECUTE FUNCTION crm.note('%[1]s')`, name))
	}
	l := &truthLine{recorder: newRecorder(0, true)}
	cfg := config(db, db.SlotName(), names...)
	cfg.Uses = cfg.Uses[:0]
	for _, name := range names {
		if name != "q" { // refused at start: its partition keeps less than its root says
			cfg.Uses = append(cfg.Uses, Use{Table: TableName{"crm", name}, Insert: true, Update: true, Delete: true})
		}
	}
	p := prepareFor(t, cfg, nil)
	db.Exec(t, "ALTER PUBLICATION "+cfg.Publication+" ADD TABLE crm.q")
	l.confirmed = p.Checkpoint.Flush
	runSink(t, cfg, p, l)

	seed := uint64(20240501)
	rnd := rand.New(rand.NewPCG(seed, 0))
	conn := db.Conn(t)
	long := func() string { return fmt.Sprintf("repeat(md5('%d'), 70)", rnd.IntN(1000)) }
	value := func() string { return []string{"NULL", "''", "'v'", "md5(random()::text)", "'null'"}[rnd.IntN(5)] }
	// The Relation messages that come with a TRUNCATE are not of partitions of the table whose row comes next.
	db.Exec(t, `INSERT INTO crm.nk VALUES (1, NULL, NULL, NULL, NULL)`, `BEGIN; TRUNCATE crm.i, crm.d; UPDATE crm.nk SET note = 'x'; COMMIT`)
	for range 600 {
		table := names[rnd.IntN(len(names))]
		var sql string
		switch id := rnd.IntN(10); rnd.IntN(8) {
		case 0, 1, 2:
			code := fmt.Sprintf("'c%d'", rnd.IntN(1000))
			if rnd.IntN(2) == 0 {
				code = long()
			}
			sql = fmt.Sprintf("INSERT INTO crm.%s VALUES (%d, %s, %s, %s, %s)", table, id, code, value(), []string{long(), value()}[rnd.IntN(2)], value())
			if table != "nk" {
				sql += " ON CONFLICT DO NOTHING"
			}
		case 3:
			sql = fmt.Sprintf("UPDATE crm.%s SET id = (SELECT coalesce(max(id), 0) + 1 FROM crm.%[1]s) WHERE id = (SELECT max(id) FROM crm.%[1]s WHERE id < 90)", table)
		case 4:
			sql = fmt.Sprintf("UPDATE crm.%s SET code = %s WHERE id = %d", table, long(), id)
		case 5:
			sql = fmt.Sprintf("UPDATE crm.%s SET status = %s, note = %s WHERE id = %d", table, value(), value(), id)
		case 6:
			sql = fmt.Sprintf("UPDATE crm.%s SET big = %s WHERE id = %d", table, []string{long(), value()}[rnd.IntN(2)], id)
		default:
			sql = fmt.Sprintf("DELETE FROM crm.%s WHERE id = %d", table, id)
		}
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	truth := pgtest.Rows[string](t, db, `SELECT row_to_json(t)::text FROM crm.truth t ORDER BY n`)
	l.until(t, fmt.Sprintf("%d changes", len(truth)), func() bool { return len(l.lines) >= len(truth) })
	l.compare(t, truth)
	if l.unchanged == 0 || l.absent == 0 || l.keyed == 0 {
		t.Errorf("the test saw %d unchanged values, %d absent ones, %d long keys that came by the old tuple: want some of each", l.unchanged, l.absent, l.keyed)
	}
}

// TestIdentityNothing: a table without replica identity of which only inserts are mapped; the application's updates and deletes go on.
func TestIdentityNothing(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm; CREATE TABLE crm.n (id int PRIMARY KEY, s text); ALTER TABLE crm.n REPLICA IDENTITY NOTHING`)
	cfg := config(db, db.SlotName())
	cfg.Uses = []Use{{Table: TableName{"crm", "n"}, Insert: true}}
	p := prepareFor(t, cfg, nil)
	l := runLine(t, db, cfg, p, newRecorder(p.Checkpoint.Flush, true))
	db.Exec(t, `INSERT INTO crm.n VALUES (1, 'a')`, `UPDATE crm.n SET s = 'b'`, `DELETE FROM crm.n`, `INSERT INTO crm.n VALUES (2, NULL)`)
	l.expect(t, "insert n new(1,a)", "insert n new(2,null)")
	cfg.Uses[0].Update = true
	r := preflightOf(t, db.DSN(), PreflightParams{Slot: cfg.Slot, Publication: cfg.Publication, Uses: cfg.Uses})
	find(t, r, SeverityError, "table crm.n", "REPLICA IDENTITY NOTHING")
}

// TestCatalogueTellsOfLongValues: what may come as unchanged is known beforehand, of a partition's too.
func TestCatalogueTellsOfLongValues(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	db.Exec(t, `CREATE SCHEMA crm; CREATE TABLE crm.a (id int PRIMARY KEY, s text, plain text, n numeric, j jsonb, g text GENERATED ALWAYS AS (s || '!') STORED)`,
		`ALTER TABLE crm.a ALTER plain SET STORAGE PLAIN`, `CREATE TABLE crm.root (id int PRIMARY KEY, s text) PARTITION BY RANGE (id)`,
		`CREATE TABLE crm.leaf PARTITION OF crm.root FOR VALUES FROM (0) TO (9)`)
	toasted := func(table string) string {
		tables, err := LoadTables(t.Context(), plain(t, db.DSN()), []TableName{{"crm", table}})
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, c := range tables[TableName{"crm", table}].Columns {
			if c.Toasted {
				list = append(list, c.Name)
			}
		}
		return strings.Join(list, " ")
	}
	for _, table := range []string{"a", "root"} {
		if got := toasted(table); got != "" {
			t.Errorf("%s is empty, yet %s is told of", table, got)
		}
	}
	db.Exec(t, `INSERT INTO crm.a (id, s) SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 200) i`, `INSERT INTO crm.root SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 200) i`)
	if a, root := toasted("a"), toasted("root"); a != "s n j" || root != "s" {
		t.Errorf("a: %q, root: %q", a, root)
	}
}

// runSink streams into any sink until the test ends.
func runSink(t *testing.T, cfg Config, p *Prepared, l *truthLine) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	src := NewSource(cfg, p, connector.NewAlarms(log), log)
	src.watch.quiet, src.watch.every = true, time.Hour // it would take out again what the tests put into the publication by hand
	go func() { done <- src.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		close(l.finished)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// truthLine is a recorder that keeps the rows.
type truthLine struct {
	*recorder
	rows                     []truthRow
	unchanged, absent, keyed int
}

type truthRow struct {
	table, op string
	columns   []string
	old, new  []connector.Datum
}

func (l *truthLine) Change(c *connector.Change) error {
	clone := func(t connector.Tuple) []connector.Datum {
		if t == nil {
			return nil
		}
		list := make([]connector.Datum, len(t))
		for i, d := range t {
			list[i] = connector.Datum{Kind: d.Kind, Text: []byte(string(d.Text))}
		}
		return list
	}
	names := make([]string, len(c.Table.Columns))
	for i, col := range c.Table.Columns {
		names[i] = col.Name
	}
	l.mu.Lock()
	l.rows = append(l.rows, truthRow{c.Table.Name, c.Op.String(), names, clone(c.Old), clone(c.New)})
	l.mu.Unlock()
	return l.recorder.Change(c)
}

// compare holds each row against the trigger's.
func (l *truthLine) compare(t *testing.T, truth []string) {
	t.Helper()
	for i, text := range truth {
		var want struct {
			Tab, Op  string
			Old, New []*string
		}
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		got := l.rows[i]
		if got.table != want.Tab || got.op != want.Op {
			t.Fatalf("change %d is %s of %s, the trigger saw %s of %s", i, got.op, got.table, want.Op, want.Tab)
		}
		where := fmt.Sprintf("change %d, %s of %s", i, got.op, got.table)
		l.side(t, where+", new", got, got.new, want.New, want.Old, func(string) bool { return true })
		l.side(t, where+", old", got, got.old, want.Old, nil, func(column string) bool {
			return strings.Contains(" "+identityColumns[got.table]+" ", " "+column+" ")
		})
	}
	if len(l.rows) > len(truth) {
		t.Errorf("%d changes came, the triggers saw %d", len(l.rows), len(truth))
	}
}

// side holds one tuple against the truth. old is the truth of the old row, where this is the new one; known says which columns must be known.
func (l *truthLine) side(t *testing.T, where string, row truthRow, got []connector.Datum, want, old []*string, known func(string) bool) {
	t.Helper()
	if (got == nil) != (want == nil) {
		t.Fatalf("%s: %v, the trigger saw %v", where, got, want)
	}
	order := map[string]int{"id": 0, "code": 1, "status": 2, "big": 3, "note": 4}
	for i, d := range got {
		column := row.columns[i]
		w := want[order[column]]
		switch d.Kind {
		case connector.Null:
			if w != nil {
				t.Errorf("%s: %s came as null and is not", where, column)
			}
		case connector.Text:
			if w == nil || *w != string(d.Text) {
				t.Errorf("%s: %s is not what the trigger saw", where, column)
			}
			if column == "code" && len(d.Text) > 2000 && row.table == "i" && row.op == "update" {
				l.keyed++
			}
		case connector.Unchanged:
			l.unchanged++
			if old == nil || w == nil || old[order[column]] == nil || *w != *old[order[column]] || len(*w) < 2000 || row.table == "f" || row.table == "nk" ||
				strings.Contains(" "+identityColumns[row.table]+" ", " "+column+" ") {
				t.Errorf("%s: %s came as unchanged", where, column)
			}
		default:
			l.absent++
			if old != nil || known(column) {
				t.Errorf("%s: %s is absent", where, column)
			}
		}
	}
}

// TestEncodingIsToldOf: check warns of a database in SQL_ASCII, and of no other.
func TestEncodingIsToldOf(t *testing.T) {
	raw := pgtest.Server(t).DatabaseWith(t, "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	find(t, preflightOf(t, raw.DSN(), PreflightParams{Slot: raw.SlotName(), Publication: "p"}), SeverityWarning, "encoding", "SQL_ASCII")
	db := pgtest.Server(t).Database(t)
	if r := preflightOf(t, db.DSN(), PreflightParams{Slot: db.SlotName(), Publication: "p"}); strings.Contains(listing(r), "  encoding: ") {
		t.Error(listing(r))
	}
}
