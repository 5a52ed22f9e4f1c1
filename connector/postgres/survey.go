package postgres

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Survey is what the catalogue says about the tables of a database, for somebody who has not seen them yet.
type Survey struct {
	Server Server
	// Tables are those whose changes can be streamed, sorted by schema and name; partitioned ones as one.
	Tables []*Surveyed
	// Skipped are relations that hold no changes to stream, sorted likewise.
	Skipped []SkippedTable
	// Schemas are the schemas that were looked into.
	Schemas []string
}

// Surveyed is a table with what people have said about it.
type Surveyed struct {
	*connector.Table
	Comment string
	// Rows is the planner's estimate; -1: there is none yet.
	Rows int64
	// Partitions counts those that hold rows; 0: it has none.
	Partitions int
	// Details are of Table.Columns, in their order.
	Details    []ColumnDetail
	PrimaryKey []string
	References []Reference
	// MayRead says that this role may SELECT from it.
	MayRead bool
}

// ColumnDetail is what the stream does not tell of a column.
type ColumnDetail struct {
	Comment string
	NotNull bool
	// Values are those that it may have, as far as that is known: an enum's, those that a CHECK names, and after LoadCodes those that some rows have.
	Values []string
}

// Reference is a foreign key.
type Reference struct {
	Columns []string
	Table   TableName
}

// SkippedTable is a relation of which no mapping can be made.
type SkippedTable struct {
	Table TableName
	Why   string
}

// SurveyParams say what to look at.
type SurveyParams struct {
	// Schemas and Tables bound the look; empty: all but the system's and the connector's own.
	Schemas []string
	Tables  []TableName
}

// stateSchema is where package state keeps its tables.
const stateSchema = "tuzhan_cdc"

// LoadSurvey reads the catalogue, which needs no rights beyond CONNECT.
func LoadSurvey(ctx context.Context, conn *pgx.Conn, params SurveyParams) (*Survey, error) {
	server, err := LoadServer(ctx, conn)
	if err != nil {
		return nil, err
	}
	s := &Survey{Server: server}
	if err := s.list(ctx, conn, params); err != nil {
		return nil, fmt.Errorf("listing the tables: %w", err)
	}
	names := make([]TableName, len(s.Tables))
	for i, t := range s.Tables {
		names[i] = TableName{t.Schema, t.Name}
	}
	shapes, err := LoadTables(ctx, conn, names)
	if err != nil {
		return nil, err
	}
	byOID := map[uint32]*Surveyed{}
	s.Tables = slices.DeleteFunc(s.Tables, func(t *Surveyed) bool { return shapes[TableName{t.Schema, t.Name}] == nil }) // dropped meanwhile
	for _, t := range s.Tables {
		t.Table = shapes[TableName{t.Schema, t.Name}]
		t.Details = make([]ColumnDetail, len(t.Columns))
		byOID[t.OID] = t
	}
	if err := loadDetails(ctx, conn, byOID); err != nil {
		return nil, fmt.Errorf("reading the columns of the tables: %w", err)
	}
	if err := loadKeys(ctx, conn, byOID); err != nil {
		return nil, fmt.Errorf("reading the keys of the tables: %w", err)
	}
	return s, nil
}

// LoadCodes adds to the survey the values that some rows have in the columns that want names, where this role may read them; none of a column that has many.
func LoadCodes(ctx context.Context, conn *pgx.Conn, s *Survey, want func(t *Surveyed, column int) bool) error {
	for _, t := range s.Tables {
		for i := range t.Columns {
			if !t.MayRead || !want(t, i) {
				continue
			}
			found, err := codesOf(ctx, conn, t, i)
			if err != nil {
				return err
			}
			for _, v := range found {
				if !slices.Contains(t.Details[i].Values, v) {
					t.Details[i].Values = append(t.Details[i].Values, v)
				}
			}
		}
	}
	return nil
}

// list finds the tables and what is passed over.
func (s *Survey) list(ctx context.Context, conn *pgx.Conn, params SurveyParams) error {
	rows, err := conn.Query(ctx, `
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
       CASE WHEN c.relkind = 'p'
            THEN (SELECT coalesce(sum(nullif(l.reltuples, -1)), -1)::bigint FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid AND t.isleaf AND l.relkind = 'r')
            WHEN c.reltuples = 0 AND c.relpages = 0 THEN -1 ELSE c.reltuples::bigint END,
       CASE WHEN c.relkind = 'p' THEN (SELECT count(*) FROM pg_partition_tree(c.oid) t WHERE t.isleaf AND t.relid <> c.oid)::int ELSE 0 END,
       coalesce((SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass LIMIT 1), ''),
       has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.oid >= 16384 AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '`+stateSchema+`')
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`)
	if err != nil {
		return err
	}
	var (
		name                                TableName
		kind, persistence, comment, extends string
		estimate                            int64
		partitions                          int
		mayRead                             bool
	)
	_, err = pgx.ForEachRow(rows, []any{&name.Schema, &name.Name, &kind, &persistence, &comment, &estimate, &partitions, &extends, &mayRead}, func() error {
		if len(params.Schemas) > 0 && !slices.Contains(params.Schemas, name.Schema) || len(params.Tables) > 0 && !slices.Contains(params.Tables, name) {
			return nil
		}
		if !slices.Contains(s.Schemas, name.Schema) {
			s.Schemas = append(s.Schemas, name.Schema)
		}
		skip := func(why string) { s.Skipped = append(s.Skipped, SkippedTable{name, why}) }
		switch {
		case extends != "":
			skip("it belongs to extension " + extends)
		case kind != "r" && kind != "p":
			skip(tableKinds[kind] + ", which has no changes of its own")
		case persistence == "u":
			skip("unlogged: PostgreSQL writes no WAL of its changes")
		default:
			s.Tables = append(s.Tables, &Surveyed{Table: &connector.Table{Schema: name.Schema, Name: name.Name}, Comment: comment, Rows: estimate, Partitions: partitions, MayRead: mayRead})
		}
		return nil
	})
	return err
}

// checkedText finds the texts that a CHECK compares a column with.
var checkedText = regexp.MustCompile(`'((?:[^']|'')*)'::`)

// loadDetails reads comments, NOT NULL, and the values that enums and CHECKs name.
func loadDetails(ctx context.Context, conn *pgx.Conn, tables map[uint32]*Surveyed) error {
	oids := make([]uint32, 0, len(tables))
	for oid := range tables {
		oids = append(oids, oid)
	}
	rows, err := conn.Query(ctx, `
SELECT a.attrelid, a.attname::text, coalesce(col_description(a.attrelid, a.attnum), ''), a.attnotnull,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = a.atttypid ORDER BY e.enumsortorder),
       ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'c' AND k.conkey = ARRAY[a.attnum])
  FROM pg_attribute a WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped`, oids)
	if err != nil {
		return err
	}
	var (
		oid            uint32
		name, comment  string
		notNull        bool
		labels, checks []string
	)
	_, err = pgx.ForEachRow(rows, []any{&oid, &name, &comment, &notNull, &labels, &checks}, func() error {
		t := tables[oid]
		i := t.Column(name)
		if i < 0 {
			return nil // the stream leaves it out
		}
		d := ColumnDetail{Comment: comment, NotNull: notNull, Values: slices.Clone(labels)}
		for _, check := range checks {
			for _, m := range checkedText.FindAllStringSubmatch(check, -1) {
				if v := strings.ReplaceAll(m[1], "''", "'"); !slices.Contains(d.Values, v) {
					d.Values = append(d.Values, v)
				}
			}
		}
		t.Details[i] = d
		return nil
	})
	return err
}

// loadKeys reads primary keys and foreign keys.
func loadKeys(ctx context.Context, conn *pgx.Conn, tables map[uint32]*Surveyed) error {
	oids := make([]uint32, 0, len(tables))
	for oid := range tables {
		oids = append(oids, oid)
	}
	rows, err := conn.Query(ctx, `
SELECT k.conrelid, k.contype::text, ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY x(n, i) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.n ORDER BY x.i),
       coalesce(rn.nspname::text, ''), coalesce(r.relname::text, '')
  FROM pg_constraint k LEFT JOIN pg_class r ON r.oid = k.confrelid LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
 WHERE k.conrelid = ANY ($1::oid[]) AND k.contype IN ('p', 'f') AND NOT coalesce(r.relispartition, false)
 ORDER BY k.conname`, oids)
	if err != nil {
		return err
	}
	var (
		oid     uint32
		kind    string
		columns []string
		to      TableName
	)
	_, err = pgx.ForEachRow(rows, []any{&oid, &kind, &columns, &to.Schema, &to.Name}, func() error {
		if t := tables[oid]; kind == "p" {
			t.PrimaryKey = slices.Clone(columns)
		} else {
			t.References = append(t.References, Reference{slices.Clone(columns), to})
		}
		return nil
	})
	return err
}

// The bounds of codesOf: from how many rows, and how many values at most, of how many characters; a column with more is no code.
const (
	codeRows  = 2000
	mostCodes = 12
	longCode  = 24
)

// codesOf gives the values that some rows have in a column, the most frequent first; none where it looks like no code.
func codesOf(ctx context.Context, conn *pgx.Conn, t *Surveyed, column int) ([]string, error) {
	counts := map[string]int{}
	var order []string
	err := ReadRows(ctx, conn, t.Table, RowQuery{Limit: codeRows, only: []string{t.Columns[column].Name}}, func(c *connector.Change) error {
		if d := c.New[0]; d.Kind == connector.Text {
			v := string(d.Text)
			if counts[v]++; counts[v] == 1 {
				order = append(order, v)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(order) > mostCodes || slices.ContainsFunc(order, func(v string) bool { return len([]rune(v)) > longCode }) {
		return nil, nil
	}
	slices.SortStableFunc(order, func(a, b string) int { return counts[b] - counts[a] })
	return order, nil
}
