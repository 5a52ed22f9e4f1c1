package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// literalCases are values as a test gives them, and in SQL.
func literalCases() []struct{ typ, yaml, sql string } {
	return []struct{ typ, yaml, sql string }{
		{"smallint", "-32768", "-32768"}, {"int", "7", "7"}, {"bigint", "9223372036854775807", "9223372036854775807"}, {"oid", "4294967295", "4294967295"},
		{"numeric(12,2)", "1420", "1420"}, {"numeric(12,2)", "-0.5", "-0.5"}, {"numeric(12,2)", "'007.10'", "007.10"}, {"numeric", "1420.000", "1420.000"}, {"numeric", "-0.0", "-0.0"},
		{"numeric(5)", "12", "12"}, {"numeric", "NaN", "'NaN'"}, {"decimal(3,3)", "0.125", "0.125"},
		{"double precision", "0.1", "0.1"}, {"float8", "100000000000000", "1e14"}, {"float8", "1000000000000000", "1e15"}, {"float8", "0.0001", "1e-4"}, {"float8", "0.00001", "1e-5"},
		{"float8", "1.5e300", "1.5e300"}, {"float8", "-0.0", "'-0'"}, {"float8", ".nan", "'NaN'"}, {"float8", "Infinity", "'Infinity'"}, {"real", "100000", "1e5"}, {"real", "1000000", "1e6"}, {"float4", "3.4028235e38", "3.4028235e38"},
		{"real", "0.3", "0.3"}, {"boolean", "true", "true"}, {"bool", "false", "false"}, {"bool", "null", "NULL"},
		{"text", "下单 \"1\"", `'下单 "1"'`}, {"text", "''", "''"}, {"text", "~", "NULL"}, {"text", "'null'", "'null'"}, {"text", "13800000001", "'13800000001'"}, {"text", "007", "'007'"}, {"text", "true", "'true'"}, {"text", "2024-05-01", "'2024-05-01'"},
		{"text", `"a\nb"`, `E'a\nb'`}, {"varchar(20)", "13800000001", "'13800000001'"}, {"char(5)", "ab", "'ab'"}, {"char(3)", "下", "'下'"}, {"char", "x", "'x'"}, {"bpchar", "'ab '", "'ab '"}, {`"char"`, "z", "'z'"}, {"name", "crm", "'crm'"},
		{"timestamp", "2024-05-01 12:00:00", "'2024-05-01 12:00:00'"}, {"timestamp", "2024-05-01T12:00:00.120", "'2024-05-01 12:00:00.12'"}, {"timestamp", "2024-05-01 12:00", "'2024-05-01 12:00'"}, {"timestamp", "2024-05-01", "'2024-05-01'"},
		{"timestamp(3)", "2024-05-01 12:00:00.123", "'2024-05-01 12:00:00.123'"}, {"timestamp", "infinity", "'infinity'"}, {"timestamp", "0044-03-15 12:00:00 BC", "'0044-03-15 12:00:00 BC'"},
		{"timestamptz", "2024-05-01 12:00:00+08", "'2024-05-01 12:00:00+08'"}, {"timestamptz", "2024-05-01T12:00:00.5-03:30", "'2024-05-01 12:00:00.5-03:30'"}, {"timestamptz", "2024-05-01T12:00:00Z", "'2024-05-01 12:00:00Z'"},
		{"timestamptz", "2024-05-01 12:00:00", "'2024-05-01 12:00:00+08'"}, {"timestamp with time zone", "2024-05-01 12:00", "'2024-05-01 12:00+08'"}, {"timestamp(0) with time zone", "2024-05-01", "'2024-05-01+08'"}, {"timestamptz", "-infinity", "'-infinity'"},
		{"date", "2024-02-29", "'2024-02-29'"}, {"date", "infinity", "'infinity'"}, {"time", "'12:00'", "'12:00'"}, {"time(3)", "'23:59:59.1'", "'23:59:59.1'"}, {"timetz", "'12:00:00+05:30'", "'12:00:00+05:30'"}, {"interval", "P1DT2H", "'1 day 2 hours'"},
		{"jsonb", "{bb: 1, a: 0.10, n: null, t: [x, true]}", `'{"bb": 1, "a": 0.10, "n": null, "t": ["x", true]}'`}, {"jsonb", `'{"a":1,"a":1e2,"zz":"\u0007\u4e0b\n"}'`, `'{"a":1,"a":1e2,"zz":"\u0007\u4e0b\n"}'`}, {"jsonb", "12345678901234567890", "'12345678901234567890'"},
		{"jsonb", `'"x"'`, `'"x"'`}, {"jsonb", "'null'", "'null'"}, {"jsonb", "[]", "'[]'"}, {"jsonb", "{}", "'{}'"}, {"jsonb", "'-0.0'", "'-0.0'"}, {"json", `'{"b":1,  "b":2}'`, `'{"b":1,  "b":2}'`},
		{"uuid", "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11", "'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11'"}, {"bytea", `\xDEADbeef`, `'\xdeadbeef'`}, {"bit(3)", "'101'", "B'101'"}, {"varbit(5)", "'101'", "B'101'"},
		{"inet", "10.0.0.0/8", "'10.0.0.0/8'"}, {"int4range", "'[1,6)'", "'[1,6)'"}, {"money", "'$1,234.50'", "1234.5"}, {"point", "'(1.5,2)'", "'(1.5,2)'"},
		{"text[]", `["a,b", 'say "hi"', 'back\slash', "NULL", null, "", " x ", "{}", plain, 下单]`, `ARRAY['a,b', 'say "hi"', 'back\slash', 'NULL', NULL, '', ' x ', '{}', 'plain', '下单']`},
		{"text[]", "[]", "'{}'"}, {"int[]", "[1, null, 3]", "'{1,NULL,3}'"}, {"bigint[]", "[[1, 2], [3, 4]]", "'{{1,2},{3,4}}'"}, {"int[]", "'[0:1]={1,2}'", "'[0:1]={1,2}'"}, {"numeric(5,2)[]", "[1.1, 2]", "'{1.1,2}'"},
		{"boolean[]", "[true, false]", "'{t,f}'"}, {"timestamptz[]", "[2024-05-01 12:00:00+08]", "'{2024-05-01 12:00:00+08}'"}, {"jsonb[]", `[{a: 1}, [2]]`, `ARRAY['{"a": 1}'::jsonb, '[2]']`}, {"varchar(3)[]", "[a b]", "'{a b}'"}, {"char(3)[]", "[a]", "'{a}'"},
		{"box[]", "['(1,1),(0,0)', '(3,3),(2,2)']", "'{(1,1),(0,0);(3,3),(2,2)}'"},
	}
}

// TestLiteralsAreTheStreams: a value in a test becomes the very text that PostgreSQL streams for it; by the types that `tables:` declares, and by those of the catalogue.
func TestLiteralsAreTheStreams(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	var ddl, sql, columns, row, uses []string
	for i, c := range literalCases() {
		ddl = append(ddl, fmt.Sprintf("c%d %s", i, c.typ))
		sql = append(sql, c.sql)
		columns = append(columns, fmt.Sprintf("      c%d: '%s'", i, c.typ))
		row = append(row, fmt.Sprintf("      c%d: %s", i, c.yaml))
		uses = append(uses, fmt.Sprintf("        a%d: ${{ c%d }}", i, i))
	}
	db.Exec(t, "CREATE SCHEMA crm; CREATE TABLE crm.v (id int PRIMARY KEY, "+strings.Join(ddl, ", ")+")")
	mappings := `
- name: v
  table: crm.v
  on: [insert]
  event:
    eventKey: k
    identities: [{identityType: id, identityValue: "${{ id }}"}]
    eventargs:
` + strings.Join(uses, "\n") + "\n"
	c := startCapture(t, db.DSN(), db.SlotName(), mappings, func(c *connector.Change, _ *connector.Output) string { return string(mapping.ChangeJSON(c)) })
	db.Exec(t, "INSERT INTO crm.v VALUES (1, "+strings.Join(sql, ", ")+")")
	streamed := newValues(t, c.wait(t, 1)[0])

	test := "tests:\n  - mapping: v\n    op: insert\n    new:\n      id: 1\n" + strings.Join(row, "\n") + "\n"
	tables := "tables:\n  crm.v:\n    key: [id]\n    columns:\n      id: int\n" + strings.Join(columns, "\n") + "\n"
	set := decodeSet(t, mappings)
	for how, text := range map[string]string{"declared": tables + test, "catalogue": test} {
		var ps strict.Problems
		var tests mapping.Tests
		fields := strict.Parse("t.yaml", []byte(text), nil, &ps).Fields("tables", "tests")
		tests.Read(strict.Node{}, fields["tables"], fields["tests"])
		tests.Finish(set, typesZone, &ps)
		if how == "catalogue" {
			if got := tests.Undeclared(); len(got) != 1 || got[0] != "crm.v" {
				t.Fatal(got)
			}
			found, err := postgres.LoadTables(t.Context(), db.Conn(t), []postgres.TableName{{Schema: "crm", Name: "v"}})
			if err != nil {
				t.Fatal(err)
			}
			tests.Supply([]*connector.Table{found[postgres.TableName{Schema: "crm", Name: "v"}]}, &ps)
		}
		if err := ps.Err(); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		given := newValues(t, string(mapping.ChangeJSON(tests.List()[0].Change())))
		for i, c := range literalCases() {
			name := fmt.Sprintf("c%d", i)
			if show(given[name]) != show(streamed[name]) || (given[name] == nil) != (streamed[name] == nil) {
				t.Errorf("%s: %s %s: the test has %q, the stream %q", how, c.typ, c.yaml, show(given[name]), show(streamed[name]))
			}
		}
	}
}

func show(s *string) string {
	if s == nil {
		return "NULL"
	}
	return *s
}

func newValues(t *testing.T, change string) map[string]*string {
	t.Helper()
	var c struct{ New map[string]*string }
	if err := json.Unmarshal([]byte(change), &c); err != nil {
		t.Fatal(err)
	}
	return c.New
}

// runIn runs the program in a folder, without a database.
func runIn(t *testing.T, dir string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestTest runs tests that pass, fail, and can't run, and records what came: all other bytes of the file stay.
func TestTest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "tuzhan-cdc.yaml")
	before, err := os.ReadFile("testdata/tests/before.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, before, 0o640); err != nil {
		t.Fatal(err)
	}
	golden := func(name, got string) {
		t.Helper()
		name = filepath.Join("testdata", "tests", name)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
	out, errs, code := runIn(t, dir, nil, "test")
	if code != 1 || errs != "" {
		t.Errorf("exit %d: %s", code, errs)
	}
	golden("failing.txt", out)
	if now, _ := os.ReadFile(file); !bytes.Equal(now, before) {
		t.Error("test without --record has changed the file")
	}

	out, _, code = runIn(t, dir, nil, "test", "--output", "json", "--mapping", "groups")
	var results []struct {
		Name, Mapping, Op, File string
		Line                    int
		Passed                  bool
		Want, Got               json.RawMessage
		Problems                []strict.Problem
	}
	if err := json.Unmarshal([]byte(out), &results); err != nil || code != 1 || len(results) != 2 || results[0].Passed || results[0].Line == 0 || results[0].Mapping != "groups" ||
		!strings.Contains(string(results[0].Got), `"optType": "update"`) {
		t.Errorf("exit %d, %v\n%s", code, err, out)
	}
	if out, _, code = runIn(t, dir, nil, "test", "--run", "^passes"); code != 0 || !strings.HasSuffix(out, "1 test passed\n") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if _, errs, code = runIn(t, dir, nil, "test", "--mapping", "group"); code != 2 || !strings.Contains(errs, "did you mean groups?") {
		t.Errorf("exit %d\n%s", code, errs)
	}
	if _, errs, code = runIn(t, dir, nil, "test", "--run", "("); code != 2 {
		t.Errorf("exit %d\n%s", code, errs)
	}

	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "tuzhan-cdc.yaml"), before, 0o640); err != nil {
		t.Fatal(err)
	}
	if out, errs, code = runIn(t, other, nil, "test", "--record", "--run", "^another remark"); code != 0 || errs != "" || strings.Contains(out, "FAIL") || strings.Contains(out, "failed") ||
		!strings.HasSuffix(out, "recorded what came of 1 test\n0 passed, 1 recorded\n") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	out, errs, code = runIn(t, dir, nil, "test", "--record")
	if code != 1 || !strings.Contains(errs, "tuzhan-cdc.yaml:") || !strings.Contains(errs, "write its keys on lines of their own") || strings.Count(errs, "\n") != 1 {
		t.Errorf("exit %d: %s", code, errs)
	}
	golden("recording.txt", out) // what was recorded is no failure
	after, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	golden("after.yaml", string(after))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Error("the mode has changed", info.Mode())
	}
	out, _, _ = runIn(t, dir, nil, "test")
	golden("recorded.txt", out)
}

// TestTestWrongFile: what is wrong with tests is a configuration that is wrong, for check and run too.
func TestTestWrongFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings+"\ntests:\n  - {mapping: order-pints, op: insert, new: {}}\n", platformsim.Options{})
	for _, command := range []string{"test", "check", "run"} {
		if out, errs, code := r.run(command); code != 2 || !strings.Contains(errs, `did you mean "order-points"?`) {
			t.Errorf("%s: exit %d\n%s%s", command, code, out, errs)
		}
	}
}

// TestColours: none where the output is no terminal.
func TestColours(t *testing.T) {
	t.Parallel()
	if p := paintFor(os.Stdout); p.on && !isTerminal(os.Stdout) {
		t.Error("colours without a terminal")
	}
	if got := (painter{true}).red("x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("%q", got)
	}
	if got := (painter{}).red("x"); got != "x" {
		t.Errorf("%q", got)
	}
}

// TestRecordTables: the tables of the database stand in the file afterwards, and the tests run without it.
func TestRecordTables(t *testing.T) {
	t.Parallel()
	schema := crmSchema + `
CREATE DOMAIN crm.price AS numeric(12,2); CREATE DOMAIN crm.tax AS crm.price; CREATE TYPE crm.level AS ENUM ('gold'); CREATE EXTENSION hstore;
CREATE TABLE crm."Odd.table" (id int PRIMARY KEY, "Na.me" crm.level, price crm.tax, prices crm.price[], levels crm.level[], more hstore, at timestamp(3) with time zone, code char(3)[], took interval day to second, flag bit);
DROP TABLE crm.other;`
	const odd = `
  - name: odd
    table: crm."Odd.table"
    on: [update]
    event: {eventKey: k, identities: [{identityType: id, identityValue: "${{ id }}"}], eventargs: {price: "${{ price }}", name: '${{ new["Na.me"] }}'}}
`
	const tests = `
# The tests.
tests:
  - mapping: odd
    op: update
    new: {id: 1, "Na.me": gold, price: 1}
    expect: [{event: {eventKey: k, identities: [{identityType: id, identityValue: "1"}], eventargs: {price: 1.00, name: gold}}}]
`
	r := newRig(t, schema, crmMappings+odd+tests, platformsim.Options{})
	if out, errs, code := r.run("test"); code != 1 || !strings.Contains(out, "is not declared") || !strings.Contains(out, "--record-tables") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	out, errs, code := r.run("test", "--record-tables")
	if code != 0 || strings.Count(out, "recorded table") != 3 || !strings.HasSuffix(out, "1 test passed\n") {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	const want = `
tables:
  crm."Odd.table":
    key:
      - id
    columns:
      id: integer
      Na.me: text
      price: numeric(12,2)
      prices: numeric[]
      levels: text[]
      more: text
      at: timestamp(3) with time zone
      code: character(3)[]
      took: interval
      flag: bit(1)
  crm.member_groups:
    identity: full
    columns:
      phone: text
      group_name: text
  crm.orders:
    identity: full
    columns:
      id: bigint
      order_no: text
      phone: text
      goods: text
      amount: numeric(12,2)
      status: text
      paid_at: timestamp with time zone

# The tests.
tests:
`
	text, err := os.ReadFile(r.file)
	if err != nil || !strings.Contains(string(text), want) {
		t.Errorf("%v\n%s\nwant%s", err, text, want)
	}

	// As it is, nothing is written; what differs is written anew in its place, and check says so before.
	if out, _, code = r.run("test", "--record-tables"); code != 0 || strings.Contains(out, "recorded") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if again, _ := os.ReadFile(r.file); !bytes.Equal(again, text) {
		t.Error("the file has changed")
	}
	if err := os.WriteFile(r.file, bytes.Replace(text, []byte("numeric(12,2)\n      prices"), []byte("numeric(10,2)   # money\n      prices"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, code = r.run("test", "--record-tables"); code != 0 || strings.Count(out, "recorded table crm.Odd.table") != 1 || strings.Count(out, "recorded") != 1 {
		t.Errorf("exit %d\n%s", code, out)
	}
	if again, _ := os.ReadFile(r.file); !bytes.Equal(again, text) {
		t.Errorf("got\n%s\nwant\n%s", again, text)
	}
}
