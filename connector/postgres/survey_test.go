package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

const surveySchema = `
CREATE SCHEMA crm;
CREATE SCHEMA tuzhan_cdc;
CREATE TABLE tuzhan_cdc.checkpoint (phone text);
CREATE TYPE crm.level AS ENUM ('金卡', '银卡');
CREATE TABLE crm.members (id int, name text, phone text NOT NULL, level crm.level, status text CHECK (status IN ('on', 'it''s off')), kind int, upper_name text GENERATED ALWAYS AS (upper(name)) STORED,
  PRIMARY KEY (phone, id));
COMMENT ON TABLE crm.members IS '会员';
COMMENT ON COLUMN crm.members.phone IS '手机号';
CREATE TABLE crm.orders (id bigint, day date NOT NULL, phone text, member int) PARTITION BY RANGE (day);
CREATE TABLE crm.orders_1 PARTITION OF crm.orders DEFAULT;
ALTER TABLE crm.members ADD UNIQUE (id);
ALTER TABLE crm.orders ADD FOREIGN KEY (member) REFERENCES crm.members (id);
CREATE VIEW crm.v AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW crm.mv AS SELECT 1 AS one;
CREATE UNLOGGED TABLE crm.carts (phone text);
CREATE EXTENSION hstore;
CREATE TABLE crm.of_extension (phone text);
ALTER EXTENSION hstore ADD TABLE crm.of_extension;
CREATE TEMP TABLE gone (phone text);
INSERT INTO crm.members SELECT i, 'n', i::text, '金卡', 'on', CASE WHEN i % 3 = 0 THEN 2 ELSE 1 END FROM generate_series(1, 30) i;
INSERT INTO crm.orders SELECT i, '2024-05-01', i::text, 1 FROM generate_series(1, 50) i;
ANALYZE;`

func connectAs(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

// TestSurvey: what the catalogue says of tables, and what is passed over; a role without rights sees the same but for the values of rows.
func TestSurvey(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, surveySchema)
	codes := func(s *Surveyed, i int) bool {
		return slices.Contains([]string{"kind", "name", "phone"}, s.Columns[i].Name)
	}
	survey := func(dsn string, params SurveyParams) (*Survey, error) {
		conn := connectAs(t, dsn)
		s, err := LoadSurvey(t.Context(), conn, params)
		if err == nil {
			err = LoadCodes(t.Context(), conn, s, codes)
		}
		return s, err
	}
	s, err := survey(db.DSN(), SurveyParams{})
	if err != nil {
		t.Fatal(err)
	}
	skipped := fmt.Sprint(s.Skipped)
	for _, want := range []string{"crm.carts unlogged", "crm.mv a materialized view", "crm.of_extension it belongs to extension hstore", "crm.v a view"} {
		if !strings.Contains(skipped, want) {
			t.Errorf("%q is missing in %s", want, skipped)
		}
	}
	if len(s.Skipped) != 4 || len(s.Tables) != 2 || fmt.Sprint(s.Schemas) != "[crm]" {
		t.Fatalf("%s, %d tables, %v", skipped, len(s.Tables), s.Schemas)
	}
	m, o := s.Tables[0], s.Tables[1]
	detail := func(t *Surveyed, name string) ColumnDetail { return t.Details[t.Column(name)] }
	if m.Comment != "会员" || m.Rows != 30 || !m.MayRead || fmt.Sprint(m.PrimaryKey) != "[phone id]" || m.Column("upper_name") >= 0 || detail(m, "phone").Comment != "手机号" || !detail(m, "phone").NotNull ||
		fmt.Sprint(detail(m, "level").Values) != "[金卡 银卡]" || fmt.Sprintf("%q", detail(m, "status").Values) != `["on" "it's off"]` || fmt.Sprint(detail(m, "kind").Values) != "[1 2]" ||
		fmt.Sprint(detail(m, "name").Values) != "[n]" || len(detail(m, "phone").Values) > 0 {
		t.Errorf("%+v", m)
	}
	if o.Rows != 50 || o.Partitions != 1 || fmt.Sprint(o.References) != "[{[member] crm.members}]" {
		t.Errorf("%+v", o)
	}

	_, dsn := db.Role(t, "")
	s, err = survey(dsn, SurveyParams{Tables: []TableName{{"crm", "members"}}, Schemas: []string{"crm"}})
	if err != nil || len(s.Tables) != 1 || s.Tables[0].MayRead || len(detail(s.Tables[0], "kind").Values) > 0 || len(detail(s.Tables[0], "level").Values) != 2 {
		t.Errorf("%v %+v", err, s)
	}
	if s, err = survey(dsn, SurveyParams{Schemas: []string{"none"}}); err != nil || len(s.Tables)+len(s.Skipped)+len(s.Schemas) > 0 {
		t.Errorf("%v %+v", err, s)
	}
}

// TestReadRows: order, limit, condition; a partitioned table's rows are those of its partitions; the reader's error ends it; without the right the cure is the GRANT. Values
// are compared with the stream's in cmd/tuzhan-cdc (TestPreviewIsWhatRunSends).
func TestReadRows(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	db.Exec(t, surveySchema, "ALTER DATABASE "+db.Name()+" SET timezone = 'Asia/Shanghai'")
	conn := connectAs(t, db.DSN())
	tables, err := LoadTables(t.Context(), conn, []TableName{{"crm", "members"}, {"crm", "orders"}})
	if err != nil {
		t.Fatal(err)
	}
	members, orders := tables[TableName{"crm", "members"}], tables[TableName{"crm", "orders"}]
	read := func(conn *pgx.Conn, table *connector.Table, q RowQuery, stop error) (first []string, err error) {
		err = ReadRows(t.Context(), conn, table, q, func(c *connector.Change) error {
			if c.Op != connector.Snapshot || c.Table != table || len(c.New) != len(table.Columns) || c.Old != nil {
				t.Errorf("%+v", c)
			}
			first = append(first, string(c.New[0].Text))
			return stop
		})
		return first, err
	}
	if got, err := read(conn, members, RowQuery{Where: "kind = 2 -- thirds", Newest: []string{"id"}, Limit: 3}, nil); err != nil || fmt.Sprint(got) != "[30 27 24]" {
		t.Errorf("%v %v", got, err)
	}
	if got, err := read(conn, orders, RowQuery{}, nil); err != nil || len(got) != 50 {
		t.Errorf("%v %v", got, err)
	}
	stop := errors.New("enough")
	if got, err := read(conn, orders, RowQuery{}, stop); !errors.Is(err, stop) || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
	if key, err := PrimaryKey(t.Context(), conn, members); err != nil || fmt.Sprint(key) != "[phone id]" {
		t.Errorf("%v %v", key, err)
	}
	var zone string
	if err := conn.QueryRow(t.Context(), "SHOW timezone").Scan(&zone); err != nil || zone != "Asia/Shanghai" {
		t.Errorf("the connection's time zone has become %s: %v", zone, err)
	}

	name, dsn := db.Role(t, "")
	other := connectAs(t, dsn)
	_, err = read(other, members, RowQuery{}, nil)
	var refusal *Refusal
	if !errors.As(err, &refusal) || !strings.Contains(refusal.Cure, "GRANT USAGE ON SCHEMA") || !strings.Contains(refusal.Cure, `GRANT SELECT ON TABLE "crm"."members" TO `+name) {
		t.Fatalf("%v", err)
	}
	db.Exec(t, refusal.Cure)
	if got, err := read(other, members, RowQuery{}, nil); err != nil || len(got) != 30 {
		t.Errorf("%v %v", got, err)
	}
}
