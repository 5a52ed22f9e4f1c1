package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// placeOf gives where the n-th test of a file stands, as Tests does.
func placeOf(t *testing.T, text string, n int) (line, column int) {
	t.Helper()
	var ps strict.Problems
	items := strict.Parse("t.yaml", []byte(text), nil, &ps).Fields("tests", "mappings", "tables")["tests"].Items()
	if err := ps.Err(); err != nil || n >= len(items) {
		t.Fatal(err, len(items))
	}
	return items[n].Line(), items[n].Column()
}

// TestWithExpectation: only the expectation changes, however the file is laid out.
func TestWithExpectation(t *testing.T) {
	t.Parallel()
	want := []mapping.Line{{Text: "expect:"}, {Text: "  - point:"}, {Text: "      point: 1.00"}}
	for _, c := range []struct {
		name, before, after string
		n                   int
	}{
		{"list at the key's own column", "tests:\n- op: insert\n  expect: []\n- op: delete\n", "tests:\n- op: insert\n  expect:\n    - point:\n        point: 1.00\n- op: delete\n", 0},
		{"first key", "tests:\n  - expect:\n    - event: {a: 1}\n    # gone\n    op: insert\n", "tests:\n  - expect:\n      - point:\n          point: 1.00\n    # gone\n    op: insert\n", 0},
		{"dash on its own line", "tests:\n  -\n    op: insert\n  -\n    op: delete\n", "tests:\n  -\n    op: insert\n    expect:\n      - point:\n          point: 1.00\n  -\n    op: delete\n", 0},
		{"last, no newline at the end", "tests:\n  - op: insert\n    expect: []", "tests:\n  - op: insert\n    expect:\n      - point:\n          point: 1.00\n", 0},
		{"another block behind", "tests:\n  - op: insert\n    deadLetter: x\n\n# of mappings\nmappings: []\n", "tests:\n  - op: insert\n    expect:\n      - point:\n          point: 1.00\n\n# of mappings\nmappings: []\n", 0},
		{"text of several lines", "tests:\n  - expect:\n      - event:\n          a: |\n            # no comment\n\n            op: x\n    op: insert\n", "tests:\n  - expect:\n      - point:\n          point: 1.00\n    op: insert\n", 0},
		{"carriage returns", "tests:\r\n  - op: insert\r\n    expect: []\r\n", "tests:\r\n  - op: insert\r\n    expect:\r\n      - point:\r\n          point: 1.00\r\n", 0},
		{"second of two", "tests:\n  - op: insert\n    expect: []\n  # of the second\n  - op: delete  # c\n", "tests:\n  - op: insert\n    expect: []\n  # of the second\n  - op: delete  # c\n    expect:\n      - point:\n          point: 1.00\n", 1},
	} {
		line, column := placeOf(t, c.before, c.n)
		got, err := withExpectation([]byte(c.before), line, column, want)
		if err != nil || string(got) != c.after {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.name, err, got, c.after)
		}
	}
	for name, c := range map[string]struct {
		text string
		n    int
	}{
		"one line":                     {"tests:\n  - {op: insert, expect: []}\n", 0},
		"a list in brackets":           {"tests: [{op: insert, expect: []}]\n", 0},
		"an anchor that is used":       {"tests:\n  - op: insert\n    expect: &e []\n  - op: delete\n    expect: *e\n", 0},
		"a key behind a question mark": {"tests:\n  - op: insert\n    ? expect\n    : []\n", 0},
	} {
		line, column := placeOf(t, c.text, c.n)
		if got, err := withExpectation([]byte(c.text), line, column, want); err == nil {
			t.Errorf("%s: want an error, got\n%s", name, got)
		}
	}
	if _, err := withExpectation([]byte("tests:\n  - op: insert\n"), 7, 3, want); err == nil {
		t.Error("a test that is not there")
	}
}

// TestWithTable: a table comes before the tests, or behind the other tables, or in its own place.
func TestWithTable(t *testing.T) {
	t.Parallel()
	d := mapping.Declare(ordersOf("crm", "a"))
	const body = "  crm.a:\n    key:\n      - id\n    columns:\n      id: bigint\n"
	for _, c := range []struct {
		name, before, after string
		at                  mapping.Declared
	}{
		{"no tables", "mappings: []\n# why\ntests: []\n", "mappings: []\n\ntables:\n" + body + "# why\ntests: []\n", mapping.Declared{}},
		{"no tests", "mappings: []", "mappings: []\n\ntables:\n" + body, mapping.Declared{}},
		{"behind others", "tables:\n  crm.b:\n    columns: {x: int}\n\n# why\ntests: []\n", "tables:\n  crm.b:\n    columns: {x: int}\n" + body + "\n# why\ntests: []\n", mapping.Declared{}},
		{"in its place", "tables:\n  crm.a:\n    columns: {x: int}\n  # of b\n  crm.b: {columns: {x: int}}\n", "tables:\n" + body + "  # of b\n  crm.b: {columns: {x: int}}\n", mapping.Declared{Line: 2, Column: 3}},
	} {
		got, err := withTable([]byte(c.before), d, c.at)
		if err != nil || string(got) != c.after {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.name, err, got, c.after)
		}
	}
	if _, err := withTable([]byte("tables: {crm.b: {}}\n"), d, mapping.Declared{}); err == nil {
		t.Error("tables in braces: want an error")
	}
}

// TestReplaceFile follows links and keeps the mode; nothing is left beside it.
func TestReplaceFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real.yaml"), filepath.Join(dir, "link.yaml")
	if err := os.WriteFile(real, []byte("a"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real.yaml", link); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(link, []byte("b")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(real)
	info, statErr := os.Lstat(link)
	if err != nil || statErr != nil || string(text) != "b" || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("%q %v %v", text, err, statErr)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 {
		t.Error(err, info.Mode())
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 2 {
		t.Error(err, list)
	}
	if err := replaceFile(filepath.Join(dir, "none"), nil); err == nil {
		t.Error("a file that is not there")
	}
}

func ordersOf(schema, name string) *connector.Table {
	return &connector.Table{Schema: schema, Name: name, Identity: connector.IdentityDefault,
		Columns: []connector.Column{{Name: "id", TypeOID: 20, BaseOID: 20, BaseName: "bigint", Key: true}}}
}
