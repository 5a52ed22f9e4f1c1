package mapping

import (
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// loadTests reads a file with mappings, tables and tests.
func loadTests(t testing.TB, text string, open bool) (*Tests, *strict.Problems) {
	t.Helper()
	var ps strict.Problems
	set := &Set{OpenPoints: open}
	fields := strict.Parse("t.yaml", []byte(text), nil, &ps).Fields("mappings", "tables", "tests")
	set.Decode(fields["mappings"], &ps)
	tests := &Tests{}
	tests.Read(fields["mappings"], fields["tables"], fields["tests"])
	tests.Finish(set, shanghai, &ps)
	return tests, &ps
}

// lines shows a tree.
func lines(t *Tree) string {
	var b strings.Builder
	for _, l := range t.Lines() {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

const memberMapping = `
mappings:
  - name: m
    table: crm.members
    on: [insert, update, delete, snapshot]
    WHEN
    event:
      eventKey: k
      time: ${{ commitTime }}
      identities: [{identityType: id, identityValue: "${{ id }}"}]
      eventargs: {op: "${{ op }}", at: "${{ commitTime }}", value: "${{ VALUE }}"}
`

// TestTestRows: what a test leaves away is what PostgreSQL would send, for each operation and replica identity.
func TestTestRows(t *testing.T) {
	t.Parallel()
	const keyed = "tables:\n  crm.members: {key: [id], columns: {id: bigint, level: text, doc: text}}\n"
	const full = "tables:\n  crm.members: {identity: full, columns: {id: bigint, level: text, doc: text}}\n"
	for _, c := range []struct{ name, tables, value, test, want string }{
		{"insert", keyed, "level", "op: insert, new: {id: 1, level: gold}", "value: gold"},
		{"snapshot has no commit time", keyed, "level", "op: snapshot, new: {id: 1, level: gold}", "deadLetter: 'time: the value is null, and a row that was there before"},
		{"commit time", keyed, "level", "op: insert, commitTime: 2024-06-01 08:00, new: {id: 1, level: gold}", "at: \"2024-06-01T08:00:00.000+08:00\""},
		{"default commit time", keyed, "level", "op: insert, new: {id: 1, level: gold}", "at: \"2024-05-01T12:00:00.000+08:00\""},
		{"update: old is new but for what it says", full, `old.level + ">" + new.level + " " + old.doc`, "op: update, old: {level: silver}, new: {id: 1, level: gold, doc: d}", "value: silver>gold d"},
		{"update without old", full, "old.level", "op: update, new: {id: 1, level: gold}", "value: gold"},
		{"update of the key", keyed, "old.id", "op: update, old: {id: 7}, new: {id: 8, level: gold}", "value: 7"},
		{"the key stays", keyed, "old.id", "op: update, new: {id: 8}", "value: 8"},
		{"delete", full, "old.level", "op: delete, old: {id: 1, level: gold}", "value: gold"},
		{"unchanged", keyed, "doc", "op: update, new: {id: 8}, unchanged: [doc]", "deadLetter: 'eventargs.value: column doc is unknown: PostgreSQL does not send a long value that an update left alone'"},
		{"unchanged, and not read", keyed, `level ?? doc`, "op: update, new: {id: 8, level: gold}, unchanged: [doc]", "value: gold"},
		{"the column is not there", keyed, "get(new, \"lvl\") ?? 0", "op: insert, new: {id: 8}", "value: 0"},
	} {
		text := strings.NewReplacer("    WHEN\n", "", "VALUE", strings.ReplaceAll(c.value, `"`, `\"`)).Replace(memberMapping)
		if strings.Contains(c.value, "old") && !strings.Contains(c.test, "delete") {
			text = strings.Replace(text, "[insert, update, delete, snapshot]", "[update]", 1)
		} else if strings.Contains(c.test, "delete") {
			text = strings.Replace(text, "[insert, update, delete, snapshot]", "[delete]", 1)
		} else {
			text = strings.Replace(text, "[insert, update, delete, snapshot]", "[insert, update, snapshot]", 1)
		}
		tests, ps := loadTests(t, text+c.tables+"tests:\n  - {"+c.test+"}\n", false)
		if err := ps.Err(); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		r := tests.Run(tests.List()[0], Options{TimeZone: shanghai})
		if r.Actual == nil || !strings.Contains(lines(r.Actual), c.want) {
			t.Errorf("%s: problems %v, got\n%swant\n%s", c.name, r.Problems, lines(r.Actual), c.want)
		}
	}
}

// TestExpectations: what counts in the comparison, and what does not.
func TestExpectations(t *testing.T) {
	t.Parallel()
	const file = `
mappings:
  - name: m
    table: crm.members
    on: [insert]
    event:
      publicParams: {matchingType: 2}
      eventKey: k
      identities: [{identityType: id, identityValue: "${{ id }}"}]
      eventargs: {n: "${{ n }}", t: "${{ t }}"}
tables:
  crm.members: {key: [id], columns: {id: bigint, n: "numeric(5,2)", t: text}}
tests:
  - op: insert
    new: {id: 1, n: 1.5, t: "2"}
    EXPECT
`
	const identities = `identities: [{identityType: id, identityValue: "1"}]`
	for want, expect := range map[bool][]string{
		true: {
			"expect: [{event: {eventKey: k, " + identities + ", eventargs: {n: 1.50, t: '2'}}}]",
			"expect: [{event: {eventargs: {t: '2', n: 1.50}, " + identities + ", eventKey: k}}]",
			"expect: [{event: {publicParams: {matchingType: 2}, eventKey: k, time: 1714536000000, " + identities + ", eventargs: {n: 1.50, t: '2'}}}]",
		},
		false: {
			"expect: []",
			"deadLetter: x",
			"expect: [{event: {eventKey: k, " + identities + ", eventargs: {n: 1.5, t: '2'}}}]",
			"expect: [{event: {eventKey: k, " + identities + ", eventargs: {n: '1.50', t: '2'}}}]",
			"expect: [{event: {eventKey: k, " + identities + ", eventargs: {n: 1.50, t: 2}}}]",
			"expect: [{event: {eventKey: k, " + identities + ", eventargs: {n: 1.50}}}]",
			"expect: [{event: {eventKey: k, " + identities + ", eventargs: {n: 1.50, t: '2', u: 1}}}]",
			"expect: [{event: {publicParams: {matchingType: 1}, eventKey: k, " + identities + ", eventargs: {n: 1.50, t: '2'}}}]",
			"expect: [{event: {time: 1714536000001, eventKey: k, " + identities + ", eventargs: {n: 1.50, t: '2'}}}]",
			"expect: [{event: {uuid: x, eventKey: k, " + identities + ", eventargs: {n: 1.50, t: '2'}}}]",
			"expect: [{event: {eventKey: k, " + identities + ", eventargs: {n: 1.50, t: '2'}}}, {event: {eventKey: k}}]",
		},
	} {
		for _, e := range expect {
			tests, ps := loadTests(t, strings.Replace(file, "EXPECT", e, 1), false)
			if err := ps.Err(); err != nil {
				t.Error(err)
				continue
			}
			if r := tests.Run(tests.List()[0], Options{TimeZone: shanghai}); r.Passed != want {
				t.Errorf("%s: passed %v, got\n%s", e, r.Passed, lines(r.Got))
			}
		}
	}
}

// TestTestOpenPoint: relateBizCode of the open API may be left out of the expectation.
func TestTestOpenPoint(t *testing.T) {
	t.Parallel()
	tests, ps := loadTests(t, `
mappings:
  - {name: m, table: crm.t, on: [insert], point: {thirdId: "${{ id }}", point: 3, remark: r}}
tables: {crm.t: {key: [id], columns: {id: int}}}
tests:
  - {op: insert, new: {id: 5}, expect: [{point: {thirdId: "5", point: 3, remark: r}}]}
`, true)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	if r := tests.Run(tests.List()[0], Options{}); !r.Passed || strings.Contains(lines(r.Actual), "relateBizCode") {
		t.Errorf("got\n%s", lines(r.Got))
	}
}

// TestParseType reads what people and format_type write, and nothing else.
func TestParseType(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"int": "integer", "BIGINT": "bigint", "int8[]": "bigint[]", "serial": "integer", "numeric": "numeric", "decimal( 12 , 2 )": "numeric(12,2)", "numeric(5)[]": "numeric(5)[]",
		"varchar(20)": "character varying(20)", "char": "character(1)", "character(3)[]": "character(3)[]", "bpchar": "bpchar", `"char"`: `"char"`, "timestamptz(3)": "timestamp(3) with time zone",
		"timestamp(3) with time zone": "timestamp(3) with time zone", "timestamp": "timestamp without time zone", "time(2) without time zone[]": "time(2) without time zone[]", "double  precision": "double precision",
		"bit varying(5)": "bit varying(5)", "bit": "bit(1)", "text[][]": "text[]", "int[3]": "integer[]",
	} {
		got, ok := parseType(text)
		if !ok || got.String() != want {
			t.Errorf("%s: %v %s, want %s", text, ok, got, want)
		}
		if again, ok := parseType(want); !ok || again.String() != want {
			t.Errorf("%s: read again %v %s", want, ok, again)
		}
	}
	for _, text := range []string{"", "order_status", "citext", "crm.price", "numeric(", "int)", "[]", "numeric(a)", "setof text"} {
		if got, ok := parseType(text); ok {
			t.Errorf("%q is %s", text, got)
		}
	}
	for _, b := range builtIns {
		if _, ok := elementKind(b.array); !ok {
			t.Errorf("%s: %d is no array type that the mapper knows", b.names[0], b.array)
		}
		for _, name := range b.names {
			if got, ok := parseType(name); !ok || got.oid != b.oid {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

// TestTreeYAML: what a tree prints as YAML is read as the same tree.
func TestTreeYAML(t *testing.T) {
	t.Parallel()
	for _, json := range []string{
		`{"a":1420.00,"b":"1420.00","c":[],"d":{},"e":[[1,[2]],{"x":null,"y":true}],"f":""}`,
		`{"yes":"no","~":"null","0x1":"0o7","2024-05-01":"2024-05-01 12:00:00","a b":"# x","- ":"- a","k:":"a: b","ü":"下单 #1","q":"it's \"q\""}`,
		`{"n":"a\nb","t":"\ttab","cr":"a\rb","u":"\u2028\u0007\ufeff","sp":" x ","e":12345678901234567890.10,"@":"@x","%":"%","x":"*a","y":"&a","z":"!a","{":"{","w":"a #b","v":"|","colon":"a:","dash":"-"}`,
	} {
		want, err := parseTree([]byte(json))
		if err != nil {
			t.Fatal(err)
		}
		var ps strict.Problems
		got := readTree(strict.Parse("t.yaml", []byte(lines(want)), nil, &ps), &ps)
		if err := ps.Err(); err != nil || !got.equal(want) {
			t.Errorf("%v\n%s\n got %s\nwant %s", err, lines(want), got.appendJSON(nil), json)
		}
	}
}

// FuzzTest: no test of a file makes reading, mapping or printing panic, and what is printed is read as the same.
func FuzzTest(f *testing.F) {
	for _, seed := range []string{"op: insert\nnew: {id: 1, n: 1.5, t: [a, null], j: {a: 1}, at: 2024-05-01 12:00}", "op: update\nold: {id: 2}\nnew: {id: 1}\nunchanged: [j]\nexpect: []",
		"op: delete\nold: {id: x}\ndeadLetter: y", "op: insert\nnew: {t: '{a,\"b\"}', j: '{\"a\":1e400}', at: infinity}\nexpect: [{event: {a: 0x1}}]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, test string) {
		text := `
mappings:
  - name: m
    table: crm.t
    on: [insert, update, delete, snapshot]
    event: {eventKey: k, identities: [{identityType: id, identityValue: "${{ id }}"}], eventargs: {a: "${{ get(new, 'n') }}", b: "${{ get(new, 't') }}", c: "${{ get(new, 'j') }}", d: "${{ get(new, 'at') }}"}}
tables:
  crm.t: {key: [id], columns: {id: int, n: "numeric(5,2)", t: "text[]", j: jsonb, at: timestamptz, f: real, b: bytea, iv: interval, c: char(3)}}
tests:
  - ` + strings.ReplaceAll(test, "\n", "\n    ") + "\n"
		tests, ps := loadTests(t, text, false)
		if ps.Err() != nil {
			return
		}
		for _, x := range tests.List() {
			r := tests.Run(x, Options{TimeZone: shanghai})
			for _, tree := range []*Tree{r.Want, r.Got, r.Actual} {
				if tree == nil {
					continue
				}
				var ps strict.Problems
				if got := readTree(strict.Parse("t.yaml", []byte(lines(tree)), nil, &ps), &ps); ps.Err() == nil && !got.equal(tree) {
					t.Errorf("printed\n%s\nread %s", lines(tree), got.appendJSON(nil))
				}
			}
		}
	})
}

// TestTestTimeZone: without source.timeZone a test whose outcome hangs on the database's can't be judged; others can.
func TestTestTimeZone(t *testing.T) {
	t.Parallel()
	for value, depends := range map[string]bool{"${{ at }}": true, "${{ day }}": false, "${{ at.Year() }}": false, "${{ seen.Day() }}": true, "${{ commitTime.UnixMilli() }}": false} {
		tests, ps := loadTests(t, `
mappings:
  - {name: m, table: crm.t, on: [insert], event: {eventKey: k, identities: [{identityType: id, identityValue: "1"}], eventargs: {x: "`+value+`"}}}
tables: {crm.t: {key: [id], columns: {id: int, at: timestamp, day: date, seen: timestamptz}}}
tests:
  - {op: insert, new: {at: 2024-05-01 12:00, day: 2024-05-01, seen: 2024-05-01 01:00:00+00}}
`, false)
		if err := ps.Err(); err != nil {
			t.Fatal(err)
		}
		if r := tests.Run(tests.List()[0], Options{}); depends != (len(r.Problems) == 1) {
			t.Errorf("%s: problems %v", value, r.Problems)
		}
		if r := tests.Run(tests.List()[0], Options{TimeZone: shanghai}); len(r.Problems) > 0 {
			t.Errorf("%s: problems %v", value, r.Problems)
		}
	}
}
