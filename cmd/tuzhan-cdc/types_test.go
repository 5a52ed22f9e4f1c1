package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// typeCase is a column of the test's table: its type, its value in SQL, and what comes of expressions, where x is the column: the JSON in the event's
// eventargs, "-" for nothing (null), or "!" and a part of the dead letter's reason.
type typeCase struct {
	typ, value string
	want       []string // expression, JSON, expression, JSON ...
	from       int      // the oldest server that has it
}

const typesSchema = `
CREATE SCHEMA crm; CREATE EXTENSION citext; CREATE EXTENSION hstore;
CREATE TYPE crm.level AS ENUM ('gold', 'silver "x"', 'null');
CREATE DOMAIN crm.price AS numeric(12,2) CHECK (VALUE >= 0);
CREATE DOMAIN crm.member_level AS crm.level;
CREATE DOMAIN crm.labels AS text[];
CREATE TYPE crm.address AS (city text, zip int);`

// typeCases have every type that the README names.
func typeCases() []typeCase {
	digits := strings.Repeat("1234567890", 90)
	thousand := digits + "." + strings.Repeat("0123456789", 10)
	return []typeCase{
		// numbers
		{typ: "int2", value: "-32768", want: []string{"x", "-32768", "x - 1", "-32769"}},
		{typ: "int4", value: "2147483647", want: []string{"x", "2147483647", "x + 1", "2147483648"}},
		{typ: "int8", value: "9223372036854775807", want: []string{"x", "9223372036854775807", "x - 1", "9223372036854775806", "x + 1", "!does not fit into 64 bits", "string(x)", `"9223372036854775807"`}},
		{typ: "int8", value: "-9223372036854775808", want: []string{"x", "-9223372036854775808", "x + 0.5", "-9223372036854775807.5"}},
		{typ: "oid", value: "4294967295", want: []string{"x", "4294967295"}},
		{typ: "float4", value: "0.1", want: []string{"x", "0.1", "x * 3", "0.3"}},
		{typ: "float4", value: "3.4028235e38", want: []string{"x", "3.4028235e+38"}},
		{typ: "float8", value: "0.1", want: []string{"x", "0.1", "x * x", "0.010000000000000002", "x + 0.2", "0.3"}},
		{typ: "float8", value: "1.7976931348623157e308", want: []string{"x", "1.7976931348623157e+308"}},
		{typ: "float8", value: "123456789.12345678", want: []string{"x", "123456789.12345678"}},
		{typ: "float8", value: "'NaN'", want: []string{"x", "!x is NaN or infinity, which JSON can't hold", "x + 1", "!NaN or infinity can't be computed with", "x == x ? x : 0", "0"}},
		{typ: "float8", value: "'-Infinity'", want: []string{"x", "!x is NaN or infinity", "x < -1e308 ? -1 : x", "-1", "x > 0", `"false"`}},
		{typ: "float4", value: "'Infinity'", want: []string{"x", "!x is NaN or infinity", "x > 1e300 ? 99 : x", "99"}},
		{typ: "numeric(12,2)", value: "1420", want: []string{"x", "1420.00", "int(floor(x * 100))", "142000", "x / 3", "473.33333333333333333333", "string(x)", `"1420.00"`}},
		{typ: "numeric", value: "'" + thousand + "'", want: []string{"x", thousand, "x + 0", thousand, "-x", "-" + thousand}},
		{typ: "numeric", value: "-0.00000000000000000000000000001", want: []string{"x", "-0.00000000000000000000000000001", "x * 10", "-0.00000000000000000000000000010"}},
		{typ: "numeric", value: "'NaN'", want: []string{"x", "!x is NaN or infinity", "x == x ? x : nil", "-", "x ?? 0", "!NaN or infinity"}},
		{typ: "numeric", value: "'Infinity'", want: []string{"x", "!x is NaN or infinity", "x > 99 ? 99 : x", "99"}, from: 14},
		{typ: "money", value: "1234.5", want: []string{"x", `"$1,234.50"`}},
		{typ: "crm.price", value: "0.29", want: []string{"x", "0.29", "int(floor(x * 100))", "29"}},
		// truth and text
		{typ: "bool", value: "true", want: []string{"x", `"true"`, "x ? 1 : 0", "1"}},
		{typ: "bool", value: "false", want: []string{"x", `"false"`, "!x", `"true"`}},
		{typ: "bool", value: "NULL", want: []string{"x", "-", "x ?? true", `"true"`, "x && true", "!got null"}},
		{typ: "text", value: `E'下单 "1"\n\\t\u2028😀'`, want: []string{"x", `"下单 \"1\"\n\\t` + "\u2028" + `😀"`, "len(x)", "11"}},
		{typ: "text", value: "''", want: []string{"x", `""`, `x == "" ? 1 : 0`, "1"}},
		{typ: "text", value: "NULL", want: []string{"x", "-", `x ?? "none"`, `"none"`}},
		{typ: "text", value: "'null'", want: []string{"x", `"null"`, "x == nil", `"false"`}},
		{typ: "varchar(5)", value: "'ab  '", want: []string{"x", `"ab  "`}},
		{typ: "char(5)", value: "'ab'", want: []string{"x", `"ab"`, `x + "!"`, `"ab!"`}},
		{typ: `"char"`, value: "'z'", want: []string{"x", `"z"`}},
		{typ: "citext", value: "'VIP'", want: []string{"x", `"VIP"`, `lower(x) == "vip"`, `"true"`}},
		{typ: "name", value: "'crm'", want: []string{"x", `"crm"`}},
		{typ: "uuid", value: "'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11'", want: []string{"x", `"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`}},
		{typ: "crm.level", value: `'silver "x"'`, want: []string{"x", `"silver \"x\""`, `x in ["gold", "silver \"x\""]`, `"true"`}},
		{typ: "crm.member_level", value: "'gold'", want: []string{"x", `"gold"`, `x == "gold"`, `"true"`}},
		// times; the time zone is Asia/Shanghai
		{typ: "timestamp", value: "'2024-05-01 12:00:00.123456'", want: []string{"x", `"2024-05-01T12:00:00.123+08:00"`, "x.UnixMicro()", "1714536000123456", "x.Hour()", "12"}},
		{typ: "timestamptz", value: "'2024-05-01 12:00:00.5-03:30'", want: []string{"x", `"2024-05-01T23:30:00.500+08:00"`, "x.UnixMilli()", "1714577400500", "x.Day()", "1"}},
		{typ: "timestamp", value: "'infinity'", want: []string{"x", "!x is infinity, which is no time that can be sent", `x > date("9999-12-31") ? "for ever" : x`, `"for ever"`}},
		{typ: "timestamptz", value: "'-infinity'", want: []string{"x", "!x is infinity", "x < commitTime ? nil : x", "-"}},
		{typ: "date", value: "'infinity'", want: []string{"x", "!x is infinity", "x == x", `"true"`}},
		{typ: "timestamp", value: "'0044-03-15 12:00:00 BC'", want: []string{"x", "!x is a time before Christ", "x.Year()", "-43", "x < commitTime", `"true"`}},
		{typ: "timestamptz", value: "'0044-03-15 12:00:00+00 BC'", want: []string{"x", "!x is a time before Christ", "x.Year()", "-43"}},
		{typ: "date", value: "'4713-01-01 BC'", want: []string{"x", "!x is a time before Christ", "x.Year()", "-4712"}},
		{typ: "timestamptz", value: "'20000-01-01 00:00:00+00'", want: []string{"x", "!x is a time after the year 9999", "x.Year()", "20000", "x > commitTime", `"true"`}},
		{typ: "timestamp", value: "'2024-02-28 24:00:00'", want: []string{"x", `"2024-02-29T00:00:00.000+08:00"`}},
		{typ: "date", value: "'2024-02-29'", want: []string{"x", `"2024-02-29"`, "x.Day() + 1", "30"}},
		{typ: "time", value: "'24:00:00'", want: []string{"x", `"24:00:00"`}},
		{typ: "time(3)", value: "'23:59:59.1'", want: []string{"x", `"23:59:59.1"`}},
		{typ: "timetz", value: "'12:00:00+05:30'", want: []string{"x", `"12:00:00+05:30"`}},
		{typ: "interval", value: "'1 year -2 mons 3 days -04:05:06.789'", want: []string{"x", `"P10M3DT-4H-5M-6.789S"`}},
		// JSON
		{typ: "jsonb", value: `'{"b": 12345678901234567890, "a": 0.10, "n": null}'`, want: []string{"x", `"{\"a\": 0.10, \"b\": 12345678901234567890, \"n\": null}"`, "x.b", "12345678901234567890",
			"x.a + 0", "0.10", "x.n", "-", "x.none ?? 7", "7", "x.b + 1", "12345678901234567891"}},
		{typ: "jsonb", value: "'9007199254740993'", want: []string{"x", "9007199254740993", "x + 1", "9007199254740994"}},
		{typ: "json", value: `'{"b":1,  "b":2}'`, want: []string{"x", `"{\"b\":1,  \"b\":2}"`, "x.b", "2"}},
		{typ: "json", value: "'1e999999999'", want: []string{"x", "1e999999999", "x > 1", "!holds a JSON number that is too large"}},
		{typ: "jsonb", value: "'null'", want: []string{"x", "-", "x == nil", `"true"`}},
		{typ: "jsonb", value: "NULL", want: []string{"x", "-"}},
		{typ: "jsonb", value: `'"null"'`, want: []string{"x", `"null"`, "x == nil", `"false"`}},
		{typ: "jsonb", value: "'{}'", want: []string{"x", `"{}"`, "len(x)", "0"}},
		{typ: "jsonb", value: `'""'`, want: []string{"x", `""`}},
		{typ: "jsonb", value: "'[1, [true, null]]'", want: []string{"x", `"[1, [true, null]]"`, "x[1][0]", `"true"`, "x[1][1]", "-"}},
		// arrays
		{typ: "int[]", value: "'[0:2]={1,NULL,3}'", want: []string{"x", `"[1,null,3]"`, "x[2] + 1", "4"}},
		{typ: "int8[]", value: "'{{1,2},{3,9223372036854775807}}'", want: []string{"x", `"[[1,2],[3,9223372036854775807]]"`, "x[1][1]", "9223372036854775807"}},
		{typ: "text[]", value: `ARRAY['a,b', 'say "hi"', 'back\slash', 'NULL', NULL, '', ' x ', '{}']`, want: []string{"x", `"[\"a,b\",\"say \\\"hi\\\"\",\"back\\\\slash\",\"NULL\",null,\"\",\" x \",\"{}\"]"`, "x[3]", `"NULL"`, "x[4]", "-"}},
		{typ: "text[]", value: "'{}'", want: []string{"x", `"[]"`, "len(x)", "0"}},
		{typ: "numeric[]", value: "'{1.10,-0.001}'", want: []string{"x", `"[1.10,-0.001]"`, "sum(x)", "1.099"}},
		{typ: "float8[]", value: "'{0.5,NaN}'", want: []string{"x", "!x is NaN or infinity", "x[0]", "0.5"}},
		{typ: "bool[]", value: "'{t,f,NULL}'", want: []string{"x", `"[true,false,null]"`}},
		{typ: "timestamptz[]", value: "'{2024-05-01 12:00:00+08}'", want: []string{"x", `"[\"2024-05-01T12:00:00.000+08:00\"]"`, "x[0].Hour()", "12"}},
		{typ: "date[]", value: "'{2024-02-29,infinity}'", want: []string{"x", "!x is infinity", "x[0]", `"2024-02-29"`}},
		{typ: "jsonb[]", value: `ARRAY['{"a": 12345678901234567890}'::jsonb, 'null']`, want: []string{"x", `"[{\"a\":12345678901234567890},null]"`, "x[0].a", "12345678901234567890"}},
		{typ: "crm.level[]", value: `'{gold,"silver \"x\"","null",NULL}'`, want: []string{"x", `"[\"gold\",\"silver \\\"x\\\"\",\"null\",null]"`, `"gold" in x`, `"true"`}},
		{typ: "crm.price[]", value: "'{0.29,1}'", want: []string{"x", `"[0.29,1.00]"`, "sum(x)", "1.29"}},
		{typ: "crm.member_level[]", value: "'{gold}'", want: []string{"x[0]", `"gold"`}},
		{typ: "crm.labels", value: "'{a,b}'", want: []string{"x", `"[\"a\",\"b\"]"`, `join(x, "+")`, `"a+b"`}},
		{typ: "crm.labels[]", value: `ARRAY['{a,b}'::crm.labels]`, want: []string{"x[0]", `"{a,b}"`}},
		{typ: "citext[]", value: "'{VIP,b}'", want: []string{"x[0]", `"VIP"`}},
		{typ: "crm.address[]", value: `ARRAY[('上海', 1)::crm.address]`, want: []string{"x[0]", `"(上海,1)"`}},
		{typ: "bytea[]", value: `ARRAY['\x00ff'::bytea]`, want: []string{"x[0]", `"\\x00ff"`}},
		{typ: "uuid[]", value: "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", want: []string{"x[0]", `"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`}},
		{typ: "interval[]", value: "'{1 day}'", want: []string{"x[0]", `"P1D"`}},
		{typ: "int4range[]", value: `'{"[1,3)"}'`, want: []string{"x[0]", `"[1,3)"`}},
		{typ: "box[]", value: "'{(1,1),(0,0);(3,3),(2,2)}'", want: []string{"x[1]", `"(3,3),(2,2)"`}},
		// other types are PostgreSQL's text
		{typ: "crm.address", value: `('上海 "浦东"', NULL)`, want: []string{"x", `"(\"上海 \"\"浦东\"\"\",)"`}},
		{typ: "hstore", value: `'a=>1, "b c"=>NULL'`, want: []string{"x", `"\"a\"=>\"1\", \"b c\"=>NULL"`}},
		{typ: "hstore", value: "NULL", want: []string{"x", "-"}},
		{typ: "hstore[]", value: `ARRAY['a=>1'::hstore]`, want: []string{"x[0]", `"\"a\"=>\"1\""`}},
		{typ: "bytea", value: `'\xdeadbeef'`, want: []string{"x", `"\\xdeadbeef"`}},
		{typ: "inet", value: "'10.0.0.0/8'", want: []string{"x", `"10.0.0.0/8"`}},
		{typ: "int4range", value: "'[1,5]'", want: []string{"x", `"[1,6)"`}},
		{typ: "tstzrange", value: "'[2024-05-01 12:00:00+08,)'", want: []string{"x", `"[\"2024-05-01 04:00:00+00\",)"`}},
		{typ: "int4multirange", value: "'{[1,2),[5,7)}'", want: []string{"x", `"{[1,2),[5,7)}"`}, from: 14},
		{typ: "point", value: "'(1.5,2)'", want: []string{"x", `"(1.5,2)"`}},
		{typ: "xml", value: "'<a>1</a>'", want: []string{"x", `"<a>1</a>"`}},
		{typ: "bit(3)", value: "B'101'", want: []string{"x", `"101"`}},
		{typ: "tsvector", value: "'a b'", want: []string{"x", `"'a' 'b'"`}},
	}
}

// TestTypes streams a row with a column of every type, end to end: each column, and each expression on it, gives the JSON that stands in the table, byte for
// byte, or the dead letter.
func TestTypes(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	columns, values := []string{"id int PRIMARY KEY"}, []string{"1"}
	mappings := &strings.Builder{}
	mappings.WriteString("mappings:\n")
	want := map[string]string{}
	what := map[string]string{}
	for i, c := range typeCases() {
		if db.Server().Major() < c.from {
			continue
		}
		column := fmt.Sprintf("c%d", i)
		columns = append(columns, column+" "+c.typ)
		values = append(values, "("+c.value+")::"+c.typ)
		for j := 0; j < len(c.want); j += 2 {
			name := fmt.Sprintf("m%d-%d", i, j/2)
			expr := onColumn(c.want[j], column)
			quoted, err := json.Marshal("${{ " + expr + " }}")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(mappings, "  - {name: %s, table: crm.types, on: [insert], event: {eventKey: %[1]s, identities: [{identityType: id, identityValue: %[1]s}], eventargs: {v: %s}}}\n", name, quoted)
			want[name], what[name] = c.want[j+1], c.typ+" "+c.want[j]
		}
	}
	// What JSON can hold is sent as it is inside of ext. An enum's value that is added while the stream runs is one like the others.
	mappings.WriteString(`
  - name: ext
    table: crm.types
    on: [insert]
    point: {point: 1, remark: r, phoneList: [{phone: "1"}], ext: {action: {n: "${{ doc.b }}", doc: "${{ doc }}", list: "${{ prices }}", yes: "${{ yes }}", none: "${{ nil }}"}}}
  - name: level
    table: crm.levels
    on: [insert]
    event: {eventKey: "${{ l }}", identities: [{identityType: id, identityValue: "1"}], eventargs: {v: "${{ ls }}"}}
`)
	columns = append(columns, "doc jsonb", "prices crm.price[]", "yes bool")
	values = append(values, `'{"b": 12345678901234567890}'`, "'{0.10}'", "true")
	r := newRigOn(t, db, typesSchema+"CREATE TABLE crm.types ("+strings.Join(columns, ", ")+"); CREATE TABLE crm.levels (l crm.level, ls crm.level[]);", mappings.String(), platformsim.Options{})
	r.start()
	db.Exec(t, "INSERT INTO crm.types VALUES ("+strings.Join(values, ", ")+")", "INSERT INTO crm.levels VALUES ('gold', '{gold}')", "ALTER TYPE crm.level ADD VALUE '钻石'",
		"INSERT INTO crm.levels VALUES ('钻石', '{钻石,gold}')")
	r.settled()

	got := map[string]string{}
	var levels []string
	for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
		var args map[string]json.RawMessage
		if err := json.Unmarshal(a.EventArgs, &args); err != nil {
			t.Fatal(err)
		}
		v := "-"
		if raw, ok := args["v"]; ok {
			v = string(raw)
		}
		if _, ok := want[a.EventKey]; ok {
			got[a.EventKey] = v
		} else {
			levels = append(levels, a.EventKey+" "+v)
		}
	}
	for _, l := range r.letters() {
		got[l.Mapping] = "!" + l.Reason
	}
	for name, w := range want {
		switch g := got[name]; {
		case strings.HasPrefix(w, "!") && strings.HasPrefix(g, "!") && strings.Contains(strings.NewReplacer("column "+strings.Replace(strings.Split(name, "-")[0], "m", "c", 1)+" ", "x ").Replace(g), w[1:]):
		case g != w:
			t.Errorf("%s:\n got %.300s\nwant %.300s", what[name], g, w)
		}
	}
	if g := strings.Join(levels, ", "); g != `gold "[\"gold\"]", 钻石 "[\"钻石\",\"gold\"]"` {
		t.Errorf("enum: %s", g)
	}
	if p := r.sim.LedgerSince(0, platformsim.Point); len(p) != 1 || !strings.Contains(string(p[0].Record), `"ext":"{\"action\":{\"n\":12345678901234567890,\"doc\":{\"b\":12345678901234567890},\"list\":[0.10],\"yes\":true}}"`) {
		t.Errorf("ext: %+v", p)
	}
	// hstore is an extension's: it is told of once, whatever the number of its columns.
	const told = `msg="a column is read as the text that PostgreSQL writes" type=hstore table=crm.types column=c`
	if log := r.proc.log.String(); strings.Count(log, told) != 1 || strings.Count(log, "as the text that PostgreSQL writes") != 2 || !strings.Contains(log, "type=hstore[] table=crm.types") {
		t.Errorf("warnings of types: want one of hstore and one of hstore[], got %d of hstore", strings.Count(log, told))
	}
}

// onColumn puts a column in the place of x.
func onColumn(expr, column string) string {
	var b strings.Builder
	for i := 0; i < len(expr); i++ {
		letter := func(j int) bool {
			return j >= 0 && j < len(expr) && (expr[j] >= 'a' && expr[j] <= 'z' || expr[j] >= 'A' && expr[j] <= 'Z' || expr[j] == '"' || expr[j] == '\\')
		}
		if expr[i] == 'x' && !letter(i-1) && !letter(i+1) {
			b.WriteString(column)
			continue
		}
		b.WriteByte(expr[i])
	}
	return b.String()
}

var update = flag.Bool("update", false, "record the values of mapping/testdata/values.txt anew, from a real server")

// TestRecordedValues records, with -update, what a real server sends for each type, as seeds for the fuzzing of package mapping. Without, it says whether the
// file still tells the truth.
func TestRecordedValues(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	columns, values := []string{"id int PRIMARY KEY"}, []string{"1"}
	for i, c := range typeCases() {
		if db.Server().Major() >= c.from {
			columns, values = append(columns, fmt.Sprintf("c%d %s", i, c.typ)), append(values, "("+c.value+")::"+c.typ)
		}
	}
	db.Exec(t, typesSchema, "CREATE TABLE crm.types ("+strings.Join(columns, ", ")+")")
	c := startCapture(t, db.DSN(), db.SlotName(), `
- {name: m, table: crm.types, on: [insert], event: {eventKey: k, identities: [{identityType: id, identityValue: "${{ id }}"}]}}
`, func(c *connector.Change, _ *connector.Output) string {
		var b strings.Builder
		for i, d := range c.New {
			base := c.Table.Columns[i].BaseOID
			if base >= 10_000 {
				base = 99_999 // another one on each server
			}
			if d.Kind == connector.Text {
				quoted, err := json.Marshal(string(d.Text))
				if err != nil {
					panic(err)
				}
				fmt.Fprintf(&b, "%d\t%s\n", base, quoted)
			}
		}
		return b.String()
	})
	db.Exec(t, "INSERT INTO crm.types VALUES ("+strings.Join(values, ", ")+")")
	got := c.wait(t, 1)[0]
	file := filepath.Join("..", "..", "mapping", "testdata", "values.txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	recorded, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(got) {
		if !strings.Contains(string(recorded), line) {
			t.Errorf("%s lacks %s", file, line)
		}
	}
}
