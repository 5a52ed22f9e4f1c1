package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// keyCase is a table, and SQL that gives the values of its key in the order in which they must be read.
type keyCase struct {
	name, create, table string
	fill                string
	key                 int  // columns; 0: by ctid
	sorts               bool // no index serves the order
}

func keyCases() []keyCase {
	return []keyCase{
		{name: "bigint near its limits", create: "CREATE TABLE %s (id int8 PRIMARY KEY, v text)",
			fill: "INSERT INTO %s SELECT unnest(ARRAY[-9223372036854775808, -9223372036854775807, -1, 0, 1, 9223372036854775806, 9223372036854775807])", key: 1},
		{name: "many", create: "CREATE TABLE %s (id int PRIMARY KEY, v text)", fill: "INSERT INTO %s SELECT n, 'v' || n FROM generate_series(1, 500) n", key: 1},
		{name: "empty", create: "CREATE TABLE %s (id int PRIMARY KEY, v text)", fill: "DELETE FROM %s", key: 1},
		{name: "text of the database's collation", create: "CREATE TABLE %s (id text PRIMARY KEY)", fill: textKeys, key: 1},
		{name: "text C", create: `CREATE TABLE %s (id text COLLATE "C" PRIMARY KEY)`, fill: textKeys, key: 1},
		{name: "text ICU", create: `CREATE TABLE %s (id text COLLATE "und-x-icu" PRIMARY KEY)`, fill: textKeys, key: 1},
		{name: "composite", create: `CREATE TABLE %s (a text COLLATE "und-x-icu", v int, b int, c uuid, PRIMARY KEY (a, c, b))`,
			fill: `INSERT INTO %s SELECT (ARRAY['a', 'B', 'ä', 'Z', '', ',x\', '张'])[1 + n %% 7], n, n %% 3, md5((n %% 50)::text)::uuid FROM generate_series(1, 300) n ON CONFLICT DO NOTHING`, key: 3},
		{name: "uuid", create: "CREATE TABLE %s (id uuid PRIMARY KEY)", fill: "INSERT INTO %s SELECT md5(n::text)::uuid FROM generate_series(1, 100) n", key: 1},
		{name: "numeric", create: "CREATE TABLE %s (id numeric PRIMARY KEY)", fill: "INSERT INTO %s SELECT unnest(ARRAY['-Infinity', '-1e30', '-0.10', '0', '1.00', '1.001', '12345678901234567890.5', 'Infinity', 'NaN']::numeric[])", key: 1},
		{name: "float", create: "CREATE TABLE %s (id float8 PRIMARY KEY)", fill: "INSERT INTO %s SELECT unnest(ARRAY['-Infinity', '-1e-300', '0', '0.1', '0.30000000000000004', 'Infinity', 'NaN']::float8[])", key: 1},
		{name: "timestamptz", create: "CREATE TABLE %s (id timestamptz PRIMARY KEY)", fill: "INSERT INTO %s SELECT unnest(ARRAY['-infinity', '0044-03-15 BC', '1927-12-31 23:54:08+08', '2024-05-01 12:00:00.123456+08', '20000-01-01', 'infinity']::timestamptz[])", key: 1},
		{name: "char(n)", create: "CREATE TABLE %s (id char(5) PRIMARY KEY)", fill: "INSERT INTO %s SELECT unnest(ARRAY['', 'a', 'ab', 'abc', 'abcde', 'b'])", key: 1},
		{name: "bit(n)", create: "CREATE TABLE %s (id bit(3) PRIMARY KEY)", fill: "INSERT INTO %s SELECT unnest(ARRAY['000', '001', '010', '111']::bit(3)[])", key: 1},
		{name: "bytea", create: "CREATE TABLE %s (id bytea PRIMARY KEY)", fill: `INSERT INTO %s SELECT unnest(ARRAY['', '\x00', '\x00ff', '\xff', '\x5c']::bytea[])`, key: 1},
		{name: "boolean and date", create: "CREATE TABLE %s (a boolean, b date, PRIMARY KEY (a, b))", fill: "INSERT INTO %s SELECT n %% 2 = 0, date '2024-01-01' + n / 2 FROM generate_series(1, 20) n", key: 2},
		{name: "enum", create: "CREATE TYPE k.e AS ENUM ('z', 'a', 'ü'); CREATE TABLE %s (id k.e PRIMARY KEY)", fill: "INSERT INTO %s SELECT unnest(ARRAY['z', 'a', 'ü']::k.e[])", key: 1},
		{name: "domain", create: "CREATE DOMAIN k.d AS varchar(10); CREATE TABLE %s (id k.d PRIMARY KEY)", fill: textKeys, key: 1},
		{name: "inet", create: "CREATE TABLE %s (id inet PRIMARY KEY)", fill: "INSERT INTO %s SELECT unnest(ARRAY['10.0.0.1', '10.0.0.0/8', '::1']::inet[])", key: 1},
		{name: "citext", create: "CREATE EXTENSION IF NOT EXISTS citext SCHEMA ext; CREATE TABLE %s (id ext.citext PRIMARY KEY)", fill: "INSERT INTO %s SELECT unnest(ARRAY['a', 'B', 'c', 'D', 'e'])", key: 1},
		{name: "citext and int", create: "CREATE EXTENSION IF NOT EXISTS citext SCHEMA ext; CREATE TABLE %s (id ext.citext, n int, PRIMARY KEY (id, n))",
			fill: "INSERT INTO %s SELECT (ARRAY['a', 'B', 'c', 'D', 'e'])[1 + n %% 5], n FROM generate_series(1, 60) n", key: 2},
		{name: `odd "names"`, table: `k."T ""a"". b"`, create: `CREATE TABLE %s ("I ""d""" int, "a.b" int, "select" text, PRIMARY KEY ("a.b", "I ""d"""))`, fill: "INSERT INTO %s SELECT n, n %% 5 FROM generate_series(1, 40) n", key: 2},
		{name: "another collation in the index", create: `CREATE TABLE %[1]s (id text COLLATE "und-x-icu" NOT NULL); CREATE UNIQUE INDEX other ON %[1]s (id COLLATE "C"); ALTER TABLE %[1]s REPLICA IDENTITY USING INDEX other`, fill: textKeys, key: 1},
		{name: "partitions", create: `CREATE TABLE %[1]s (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE k.p1 PARTITION OF %[1]s FOR VALUES FROM (0) TO (30);
			CREATE TABLE k.p2 (v text, gone int, id int NOT NULL); ALTER TABLE k.p2 DROP COLUMN gone; ALTER TABLE %[1]s ATTACH PARTITION k.p2 FOR VALUES FROM (30) TO (1000)`,
			fill: "INSERT INTO %s SELECT n, 'v' || n FROM generate_series(1, 90) n", key: 1, sorts: true},
		{name: "children that inherit", create: "CREATE TABLE %[1]s (id int PRIMARY KEY, v text); CREATE TABLE k.child () INHERITS (%[1]s); INSERT INTO k.child VALUES (7)", fill: "INSERT INTO %s SELECT n FROM generate_series(1, 20) n", key: 1},
		{name: "no key", create: "CREATE TABLE %s (id int, v text)", fill: "INSERT INTO %s SELECT n, repeat('x', 300) FROM generate_series(1, 2000) n"},
		{name: "no key, partitions", create: "CREATE TABLE %[1]s (id int, v text) PARTITION BY LIST (id); CREATE TABLE k.l1 PARTITION OF %[1]s FOR VALUES IN (1, 2); CREATE TABLE k.l2 PARTITION OF %[1]s DEFAULT",
			fill: "INSERT INTO %s SELECT n %% 5, repeat('x', 300) || n FROM generate_series(1, 500) n"},
	}
}

const textKeys = `INSERT INTO %s SELECT unnest(ARRAY['', 'a', 'A', 'b', 'B', 'ä', 'Ä', 'z', 'Z', 'ab', 'a b', 'a-b', 'a_b', '10', '9', '张', '李', '''', '\', ',', '"', 'é', 'e', 'E'])`

// needsWatermarks skips a test on a server whose logical messages don't come through the stream.
func needsWatermarks(t *testing.T) {
	t.Helper()
	if pgtest.Server(t).Major() < messagesSince {
		t.Skip("a backfill needs PostgreSQL 14 or newer")
	}
}

// TestKeys reads tables by all kinds of keys in chunks of three rows: each row comes once, in chunks that go on where the one before ended, is found by its key, and an index
// gives the order.
func TestKeys(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE SCHEMA k", "CREATE SCHEMA ext")
	for i, c := range keyCases() {
		t.Run(c.name, func(t *testing.T) {
			table := c.table
			if table == "" {
				table = fmt.Sprintf("k.t%d", i)
			}
			create := c.create
			if !strings.Contains(create, "%[1]s") {
				create = strings.ReplaceAll(create, "%s", "%[1]s")
			}
			db.Exec(t, fmt.Sprintf(create, table), fmt.Sprintf(c.fill, table))
			name := strings.ReplaceAll(strings.Trim(strings.TrimPrefix(table, "k."), `"`), `""`, `"`)
			b := &connector.Backfill{Schema: "k", Name: name}
			opened, err := (&Rows{DSN: db.DSN()}).Open(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			defer opened.Close()
			r := opened.(*rowReader)
			if n := len(r.Key()); n != c.key {
				t.Fatalf("the key has %d columns: %v", n, r.Key())
			}
			want := pgtest.Value[int](t, db, "SELECT count(*)::int FROM "+r.from()+" t")
			seen := map[string]string{}
			var keys []string
			for after, end := "", false; !end; {
				chunk, err := r.Read(t.Context(), "", after, false, 3)
				if err != nil {
					t.Fatalf("behind %q: %v", after, err)
				}
				if chunk.Snapshot == nil || chunk.Snapshot.Xmax == 0 {
					t.Fatalf("no snapshot: %+v", chunk.Snapshot)
				}
				for _, row := range chunk.Rows {
					if _, again := seen[row.Key]; again || row.Key == "" {
						t.Fatalf("%q comes again", row.Key)
					}
					seen[row.Key] = show("", row.Tuple)
					keys = append(keys, row.Key)
				}
				if chunk.Scanned == 0 && !chunk.End || len(seen) > want {
					t.Fatalf("%d rows, and it goes on from %q", len(seen), chunk.Last)
				}
				after, end = chunk.Last, chunk.End
			}
			if len(seen) != want {
				t.Errorf("%d rows, want %d: %q", len(seen), want, keys)
			}
			for batch := range slices.Chunk(keys, 7) {
				chunk, err := r.ReadRows(t.Context(), "", batch)
				if err != nil {
					t.Fatal(err)
				}
				var found []string
				for _, row := range chunk.Rows {
					found = append(found, row.Key)
					if s := show("", row.Tuple); s != seen[row.Key] {
						t.Errorf("%q is %s, and %s when it is read by its key", row.Key, seen[row.Key], s)
					}
				}
				slices.Sort(found)
				slices.Sort(batch)
				if !slices.Equal(found, batch) {
					t.Errorf("of %q these are found: %q", batch, found)
				}
			}
			if len(keys) > 2 && c.key > 0 && !c.sorts {
				condition, err := r.plan.compare(keys[1], false)
				if err != nil {
					t.Fatal(err)
				}
				results, err := r.exec(t.Context(), r.read, "EXPLAIN SELECT * FROM "+r.from()+" t WHERE "+condition+" ORDER BY "+r.plan.order()+" LIMIT 3")
				if err != nil {
					t.Fatal(err)
				}
				plan := ""
				for _, row := range results[0].Rows {
					plan += string(row[0]) + "\n"
				}
				if strings.Contains(plan, "Sort") || !strings.Contains(plan, "Index Cond") && !strings.HasPrefix(c.name, "citext and") {
					t.Errorf("the index does not serve it:\n%s", plan)
				}
			}
		})
	}
}

// TestReadCondition: --where is SQL of any form, and a chunk ends where it would without it.
func TestReadCondition(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t SELECT n, n % 100 FROM generate_series(1, 1000) n")
	open := func(where string) (connector.RowReader, error) {
		return (&Rows{DSN: db.DSN()}).Open(t.Context(), &connector.Backfill{Schema: "public", Name: "t", Where: where})
	}
	r, err := open("v = 7 OR v = 8 -- few")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rows, chunks := 0, 0
	for after, end := "", false; !end; chunks++ {
		c, err := r.Read(t.Context(), "", after, false, 300)
		if err != nil {
			t.Fatal(err)
		}
		rows, after, end = rows+len(c.Rows), c.Last, c.End
	}
	if rows != 20 || chunks != 4 {
		t.Errorf("%d rows in %d chunks, want 20 in 4", rows, chunks)
	}
	if c, err := r.ReadRows(t.Context(), "", []string{"7", "9"}); err != nil || len(c.Rows) != 1 {
		t.Errorf("of a row that meets the condition and one that does not: %+v, %v", c, err)
	}
	c, err := r.Read(t.Context(), "", "7", true, 10)
	if err != nil || len(c.Rows) != 2 || c.Rows[0].Key != "7" {
		t.Errorf("from 7 on: %+v, %v", c, err)
	}
	var passes interface{ Passing() bool }
	if _, err := open("nonsense > 1"); err == nil || !strings.Contains(err.Error(), "nonsense") || errors.As(err, &passes) && passes.Passing() {
		t.Errorf("a condition on no column: %v", err)
	}
	if _, err := r.Read(t.Context(), "", "1,2", false, 10); err == nil || !strings.Contains(err.Error(), "id") {
		t.Errorf("a key of two columns: %v", err)
	}
}

// TestReadLarge: a chunk of large rows is cut, and goes on where it was; also where they are read by their keys.
func TestReadLarge(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT n, repeat(md5(n::text), 40000) FROM generate_series(1, 12) n")
	role, dsn := db.Role(t, "")
	db.Exec(t, "GRANT SELECT ON t TO "+role, "ALTER ROLE "+role+" SET statement_timeout = '10ms'", "ALTER ROLE "+role+" SET idle_in_transaction_session_timeout = '1ms'")
	r, err := (&Rows{DSN: dsn}).Open(t.Context(), &connector.Backfill{Schema: "public", Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var keys []string
	for after, end := "", false; !end; {
		c, err := r.Read(t.Context(), "", after, false, 100)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(c.Rows); n > 4 {
			t.Errorf("%d rows of 1.2 MB at a time", n)
		}
		for _, row := range c.Rows {
			keys = append(keys, row.Key)
		}
		after, end = c.Last, c.End
	}
	if len(keys) != 12 {
		t.Errorf("%q", keys)
	}
	for left := keys; len(left) > 0; { // by their keys no more come at a time
		c, err := r.ReadRows(t.Context(), "", left)
		if n := len(c.Rows); err != nil || n == 0 || n > 4 || n < len(left) && c.End {
			t.Fatalf("%d of %d rows of 1.2 MB, end %t, %v", n, len(left), c.End, err)
		}
		for _, row := range c.Rows {
			left = slices.DeleteFunc(left, func(key string) bool { return key == row.Key })
		}
	}
}

// TestBackfillDSN: rows are read from a standby of the very server whose stream is read, and from no other place.
func TestBackfillDSN(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	db := server.Database(t)
	if server.Major() < messagesSince {
		t.Log("a backfill needs PostgreSQL 14")
		return
	}
	same, elsewhere := server.Database(t), pgtest.Private(t).Database(t)
	for _, d := range []*pgtest.DB{db, same, elsewhere} {
		d.Exec(t, `CREATE TABLE t (id int PRIMARY KEY)`)
	}
	for _, c := range []struct{ dsn, want string }{
		{db.DSN(), "is no standby"}, {same.DSN(), "leads to another database"}, {elsewhere.DSN(), "leads to another database"},
	} {
		r, err := (&Rows{DSN: db.DSN(), StandbyDSN: c.dsn}).Open(t.Context(), &connector.Backfill{Schema: "public", Name: "t"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(t.Context(), "low x", "", false, 10); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
		r.Close()
	}
}

// TestRowFilter: a row that one publication sends is read; of partitions the root's filter counts.
func TestRowFilter(t *testing.T) {
	t.Parallel()
	if pgtest.Server(t).Major() < 15 {
		t.Skip("row filters need PostgreSQL 15 or newer")
	}
	db := pgtest.Server(t).Database(t)
	db.Exec(t, "CREATE TABLE a (id int PRIMARY KEY, b bool)", "CREATE TABLE r (id int PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE r1 PARTITION OF r DEFAULT",
		"INSERT INTO a SELECT n, n % 2 = 0 FROM generate_series(1, 10) n",
		"CREATE PUBLICATION small FOR TABLE a WHERE (id < 3 AND id > 0), r1 WHERE (id > 1)", "CREATE PUBLICATION odd FOR TABLE a WHERE (NOT b)", "CREATE PUBLICATION whole FOR TABLE a",
		"CREATE PUBLICATION others FOR TABLE r WHERE (id < 9) WITH (publish_via_partition_root = true)", "CREATE PUBLICATION everything FOR ALL TABLES")
	conn := plain(t, db.DSN())
	for _, c := range []struct {
		table        string
		publications []string
		rows         int // of a; -1: there is no filter
	}{
		{"a", nil, -1}, {"a", []string{"small"}, 2}, {"a", []string{"small", "odd"}, 6}, {"a", []string{"small", "whole"}, -1}, {"a", []string{"everything", "odd"}, -1}, {"a", []string{"others", "odd"}, 5},
		{"r", []string{"small"}, -1}, {"r", []string{"others"}, 8}, {"r1", []string{"small"}, 9}, {"nosuch", []string{"small"}, -1},
	} {
		filter, err := rowFilter(t.Context(), conn, TableName{"public", c.table}, c.publications)
		if err != nil {
			t.Fatal(err)
		}
		rows := -1
		if filter != "" {
			rows = pgtest.Value[int](t, db, "SELECT count(*)::int FROM a AS r WHERE "+filter)
		}
		if rows != c.rows {
			t.Errorf("%s in %v: %q gives %d rows, want %d", c.table, c.publications, filter, rows, c.rows)
		}
	}
}
