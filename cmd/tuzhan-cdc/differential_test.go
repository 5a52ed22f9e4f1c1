package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// randomColumns are types with SQL that makes a random value of row i, noises being random texts. mayFail: some values can't be sent.
var randomColumns = []struct {
	typ, sql string
	mayFail  bool
}{
	{"int2", "(random() * 65535 - 32768)::int2", false},
	{"int4", "('x' || left(md5(i || 'a'), 8))::bit(32)::int4", false},
	{"int8", "('x' || left(md5(i || 'b'), 16))::bit(64)::int8", false},
	{"float4", "((random() - 0.5) * 10 ^ (random() * 60 - 30))::float4", false},
	{"float8", "CASE WHEN random() < 0.02 THEN (ARRAY['NaN', 'Infinity', '-Infinity'])[1 + i % 3]::float8 ELSE (random() - 0.5) * 10 ^ (random() * 400 - 200) END", true},
	{"numeric", "round((random()::numeric - 0.5) * 10::numeric ^ (random() * 30)::int, (random() * 20)::int)", false},
	{"numeric", "CASE WHEN random() < 0.02 THEN 'NaN'::numeric ELSE md5_number(i) END", true},
	{"crm.price", "round((random() * 1000)::numeric, 2)", false},
	{"money", "(random() * 100000)::numeric::money", false},
	{"bool", "random() < 0.5", false},
	{"text", "noises[1 + (i * 7 + 0) % 499]", false},
	{"varchar(20)", "left(noises[1 + (i * 7 + 1) % 499], 20)", false},
	{"char(8)", "left(md5(i::text), i % 9)", false},
	{"citext", "left(md5(i::text), 5)", false},
	{"name", "left(md5(i::text), 9)", false},
	{"uuid", "md5(i::text)::uuid", false},
	{"crm.level", "(ARRAY['gold', 'silver \"x\"', 'null'])[1 + i % 3]::crm.level", false},
	{"timestamp", "CASE WHEN random() < 0.02 THEN 'infinity' ELSE timestamp '0100-01-01 BC' + random() * interval '12000 years' END", true},
	{"timestamptz", "CASE WHEN random() < 0.02 THEN '-infinity' ELSE timestamptz '1850-01-01' + random() * interval '300 years' END", true},
	{"timestamptz", "timestamptz '1950-01-01' + random() * interval '100 years'", false},
	{"date", "date '1850-01-01' + (random() * 99999)::int", false},
	{"time", "time '00:00' + random() * interval '24 hours'", false},
	{"interval", "random() * interval '3 years' - random() * interval '400 days'", false},
	{"jsonb", "jsonb_build_object('n', md5_number(i), 's', noises[1 + (i * 7 + 2) % 499], 'a', jsonb_build_array(i, NULL, random() < 0.5, '{}'::jsonb))", false},
	{"json", "json_build_object('n', md5_number(i), 's', noises[1 + (i * 7 + 3) % 499])", false},
	{"jsonb", "(ARRAY['null', '{}', '\"null\"', '\"\"', '1.50', 'true', '[]', '12345678901234567890'])[1 + i % 8]::jsonb", false},
	{"int8[]", "ARRAY[('x' || left(md5(i || 'c'), 16))::bit(64)::int8, NULL, i]", false},
	{"text[]", "ARRAY[noises[1 + (i * 7 + 4) % 499], NULL, '', 'NULL', noises[1 + (i * 7 + 5) % 499]]", false},
	{"numeric[]", "ARRAY[ARRAY[md5_number(i), 0.10], ARRAY[NULL, -1]]", false},
	{"timestamptz[]", "ARRAY[timestamptz '1950-01-01' + random() * interval '100 years']", false},
	{"crm.level[]", "ARRAY['gold', NULL, 'silver \"x\"']::crm.level[]", false},
	{"crm.price[]", "ARRAY[0.29, round((random() * 10)::numeric, 2)]::crm.price[]", false},
	{"crm.address", "ROW(noises[1 + (i * 7 + 6) % 499], i)::crm.address", false},
	{"crm.address[]", "ARRAY[ROW(noises[1 + (i * 7 + 7) % 499], i)::crm.address]", false},
	{"hstore", "hstore(noises[1 + (i * 7 + 8) % 499], noises[1 + (i * 7 + 9) % 499])", false},
	{"bytea", "decode(md5(i::text), 'hex')", false},
	{"inet", "'10.0.0.0'::inet + i", false},
	{"tstzrange", "tstzrange(timestamptz '1950-01-01' + random() * interval '50 years', NULL)", false},
}

// randomSchema: md5_number makes a long exact number of i, noise a text with all that needs quotes somewhere.
const randomSchema = typesSchema + `
CREATE FUNCTION md5_number(i int) RETURNS numeric LANGUAGE sql AS $$
  SELECT (translate(md5(i::text), 'abcdef', '123456') || '.' || translate(md5(i || 'x'), 'abcdef', '123456'))::numeric * CASE WHEN i % 2 = 0 THEN -1 ELSE 1 END $$;
CREATE FUNCTION noise(i int) RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(string_agg((ARRAY['"', '\', E'\n', E'\t', ',', '{', '}', ' ', '''', '下', '单', '😀', 'é', E'\u2028', E'\x01', 'NULL', 'a', '(', ')', '=>'])[1 + (('x' || substr(md5(i::text), n, 2))::bit(8)::int % 20)], ''), '')
    FROM generate_series(1, i % 12) n $$;`

// TestStreamAndSelectAgree writes 20,000 rows of random values of every type, and compares what the mapper makes of each as it comes in the stream with what it
// makes of it as a SELECT gives it: plain columns, expressions, and the reasons of dead letters are the same to the byte.
func TestStreamAndSelectAgree(t *testing.T) {
	t.Parallel()
	const rows = 20_000
	db := pgtest.Server(t).Database(t)
	columns, values := []string{"id int PRIMARY KEY"}, []string{"i"}
	plain, computed, mappings := "", "", ""
	const head = "- {name: %s, table: crm.r, on: [insert, snapshot], event: {eventKey: k, uuid: \"u${{ id }}\", time: 5, identities: [{identityType: id, identityValue: \"${{ id }}\"}], eventargs: {%s}}}\n"
	for n, c := range randomColumns {
		name := fmt.Sprintf("c%d", n)
		columns = append(columns, name+" "+c.typ)
		values = append(values, "CASE WHEN random() < 0.05 THEN NULL ELSE "+c.sql+" END")
		if c.mayFail {
			mappings += fmt.Sprintf(head, name, name+": \"${{ "+name+" }}\"")
			continue
		}
		plain += name + ": \"${{ " + name + " }}\", "
		computed += name + ": \"${{ true ? " + name + " : nil }}\", "
	}
	mappings += fmt.Sprintf(head, "plain", strings.TrimSuffix(plain, ", ")) + fmt.Sprintf(head, "computed", strings.TrimSuffix(computed, ", "))
	db.Exec(t, randomSchema, "CREATE TABLE crm.r ("+strings.Join(columns, ", ")+")")
	letters := 0
	stream := startCapture(t, db.DSN(), db.SlotName(), mappings, func(c *connector.Change, out *connector.Output) string {
		letters += len(out.Letters)
		return string(c.New[0].Text) + "\n" + payloads(c, out)
	})
	seed := float64(time.Now().UnixNano()%1_000_000) / 1_000_000
	t.Logf("seed %g", seed)
	db.Exec(t, fmt.Sprintf("SELECT setseed(%g); INSERT INTO crm.r SELECT %s FROM generate_series(1, %d) i, (SELECT array_agg(noise(n) ORDER BY n) AS noises FROM generate_series(1, 499) n) p", seed, strings.Join(values, ", "), rows))
	got := stream.wait(t, rows)
	if letters < rows/100 {
		t.Errorf("%d letters: some values can't be sent, yet hardly one is there", letters)
	}

	conn, err := postgres.Connect(t.Context(), db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	name := postgres.TableName{Schema: "crm", Name: "r"}
	tables, err := postgres.LoadTables(t.Context(), conn, []postgres.TableName{name})
	if err != nil {
		t.Fatal(err)
	}
	results, err := conn.PgConn().Exec(t.Context(), "SET timezone = 'UTC'; SELECT * FROM crm.r ORDER BY id").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	selected := results[1].Rows
	if len(selected) != rows || len(got) != rows {
		t.Fatalf("%d rows were selected, %d came, want %d", len(selected), len(got), rows)
	}
	mapper, different := newMapper(stream.set), 0
	var out connector.Output
	for i, row := range selected {
		tuple := make(connector.Tuple, len(row))
		for j, v := range row {
			tuple[j] = connector.Datum{Kind: connector.Text, Text: v}
			if v == nil {
				tuple[j] = connector.Datum{Kind: connector.Null}
			}
		}
		out.Reset()
		mapper.Map(&connector.Change{Op: connector.Snapshot, Table: tables[name], New: tuple}, connector.Part{}, &out)
		if want := strconv.Itoa(i+1) + "\n" + payloads(nil, &out); got[i] != want {
			if different++; different < 5 {
				t.Errorf("row %d: streamed\n%s\nselected\n%s", i+1, got[i], want)
			}
		}
	}
	if different > 0 {
		t.Errorf("%d rows differ", different)
	}
}

// TestFastPathAgrees: 100,000 changes as a server sends them (read in bursts, records used again) are mapped by the fast path, plain columns and a condition
// that only compares them, and by the plain one, where each value is decoded and goes through an expression: both want the same changes, and make the same bytes.
func TestFastPathAgrees(t *testing.T) {
	t.Parallel()
	const rows, changes = 40_000, 100_000
	db := pgtest.Server(t).Database(t)
	columns := []string{"amount", "goods", "vip", "visits", "paid_at", "born", "remark", "code"}
	mappings := ""
	for _, m := range []struct{ name, value, when string }{
		{"fast", "%s", `new?.status == "paid" && old?.status != "paid" || op == "delete"`},
		{"plain", "true ? %s : nil", `(true ? new?.status : nil) == "paid" && (true ? old?.status : nil) != "paid" || op == "delete"`},
	} {
		value := func(column string) string { return strings.ReplaceAll(m.value, "%s", column) }
		args := ""
		for _, c := range columns {
			args += fmt.Sprintf("        %s: \"${{ %s }}\"\n", c, value(c))
		}
		mappings += fmt.Sprintf("- name: %s\n  table: crm.orders\n  on: [insert, update, delete]\n  when: '%s'\n  event:\n    eventKey: k\n    uuid: u${{ id }}\n    time: \"${{ %s }}\"\n"+
			"    identities: [{identityType: phone, identityValue: \"${{ %s }}\"}]\n    eventargs:\n%s", m.name, m.when, value("paid_at"), value("phone"), strings.ReplaceAll(args, "        ", "      "))
	}
	db.Exec(t, `CREATE SCHEMA crm`, `CREATE TABLE crm.orders (id int PRIMARY KEY, phone text NOT NULL, status varchar(10), amount numeric, goods text, vip bool, visits int8,
		paid_at timestamptz, born date, remark text, code char(8))`, `ALTER TABLE crm.orders REPLICA IDENTITY FULL`, `ALTER TABLE crm.orders ALTER remark SET STORAGE EXTERNAL`)
	wanted := 0
	stream := startCapture(t, db.DSN(), db.SlotName(), mappings, func(c *connector.Change, out *connector.Output) string {
		switch r := out.Records; {
		case len(out.Letters)+len(out.Misfits) > 0:
			return "letters: " + payloads(c, out)
		case len(r) == 0:
			return ""
		case len(r) != 2 || r[0].Mapping != "fast" || r[1].Mapping != "plain" || string(r[0].Payload) != string(r[1].Payload) || r[0].Envelope != r[1].Envelope || !slices.Equal(r[0].Keys, r[1].Keys):
			return "different: " + payloads(c, out)
		}
		wanted++
		return ""
	})
	db.Exec(t, fmt.Sprintf(`INSERT INTO crm.orders SELECT i, '138' || lpad((i %% 5000)::text, 8, '0'), CASE WHEN i %% 3 = 0 THEN 'paid' WHEN i %% 7 > 0 THEN 'new' END,
		CASE WHEN i %% 11 > 0 THEN round((i * 7919 %% 1000003)::numeric / 97, i %% 9) END, CASE WHEN i %% 5 > 0 THEN E'茶 "' || chr(1 + i %% 126) || '\' END, i %% 4 = 0,
		CASE WHEN i %% 13 > 0 THEN i::int8 * 92233720368 END, timestamptz '1990-01-01' + i * interval '7 h 13 s', date '1950-01-01' + i %% 30000,
		repeat(md5(i::text), i %% 100), left(md5(i::text), i %% 9) FROM generate_series(1, %d) i`, rows),
		"UPDATE crm.orders SET status = CASE WHEN id % 2 = 0 THEN 'paid' ELSE status END, visits = visits + 1",
		"DELETE FROM crm.orders WHERE id % 2 = 0")
	got := stream.wait(t, changes)
	for i, text := range got {
		if text != "" {
			t.Fatalf("change %d: %s", i, text)
		}
	}
	if len(got) != changes || wanted < changes/3 {
		t.Errorf("%d changes, of which %d are wanted", len(got), wanted)
	}
}
