package mapping

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

var shanghai = func() *time.Location {
	zone, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		panic(err)
	}
	return zone
}()

var testOptions = Options{SystemID: "7301234567890123456", Database: "crm", TimeZone: shanghai}

var (
	committed = time.Date(2024, 5, 1, 4, 0, 0, 123456000, time.UTC)
	at        = connector.Position{Commit: 0x16B374D848, Index: 3}
)

// tuple makes a row: nil is null, and connector.Absent and connector.Unchanged stand for themselves.
func tuple(values ...any) connector.Tuple {
	t := connector.Tuple{}
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			t = append(t, connector.Datum{Kind: connector.Null})
		case string:
			t = append(t, connector.Datum{Kind: connector.Text, Text: []byte(v)})
		case connector.DatumKind:
			t = append(t, connector.Datum{Kind: v})
		}
	}
	return t
}

// with gives a copy of a row with one column changed.
func with(t connector.Tuple, i int, v any) connector.Tuple {
	c := append(connector.Tuple{}, t...)
	c[i] = tuple(v)[0]
	return c
}

func columns(t *connector.Table, pairs ...any) *connector.Table {
	for i := 0; i < len(pairs); i += 2 {
		oid := uint32(pairs[i+1].(int))
		t.Columns = append(t.Columns, connector.Column{Name: pairs[i].(string), TypeOID: oid, BaseOID: oid, Key: true})
	}
	return t
}

func ordersTable() *connector.Table {
	return columns(&connector.Table{OID: 16400, Schema: "crm", Name: "orders", Identity: connector.IdentityFull},
		"id", pgtype.Int8OID, "order_no", pgtype.TextOID, "phone", pgtype.TextOID, "amount", pgtype.NumericOID, "status", pgtype.TextOID,
		"goods", pgtype.TextOID, "paid_at", pgtype.TimestamptzOID, "audience", pgtype.Int8OID, "openid", pgtype.TextOID, "doc", pgtype.JSONBOID,
		"vip", pgtype.BoolOID)
}

func ordersRow() connector.Tuple {
	return tuple("1", "N-1", "13800000001", "1420.00", "paid", `咖啡 "大"`, "2024-05-01 03:59:58.5+00", "860484273911119872", "oABC", `{"a": 1}`, "t")
}

func membersTable() *connector.Table {
	return columns(&connector.Table{OID: 16401, Schema: "crm", Name: "member_groups", Identity: connector.IdentityFull},
		"id", pgtype.Int8OID, "phone", pgtype.TextOID, "group_name", pgtype.TextOID, "tags", pgtype.TextArrayOID, "active", pgtype.BoolOID)
}

// decodeMappings reads a file whose text is the list of mappings.
func decodeMappings(text string, vars ...string) (*Set, *strict.Problems) {
	return decodeInto(&Set{}, text, vars...)
}

func decodeInto(s *Set, text string, vars ...string) (*Set, *strict.Problems) {
	var ps strict.Problems
	env := func(name string) (string, bool) {
		for i := 0; i < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1], true
			}
		}
		return "", false
	}
	s.Decode(strict.Parse("m.yaml", []byte(text), env, &ps), &ps)
	return s, &ps
}

func mustDecode(t testing.TB, text string) *Set {
	t.Helper()
	s, ps := decodeMappings(text)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

func change(op connector.Op, table *connector.Table, new, old connector.Tuple) *connector.Change {
	return &connector.Change{Position: at, CommitTime: committed, Op: op, Table: table, New: new, Old: old}
}

// mapOne maps one change with a mapper of its own.
func mapOne(t testing.TB, s *Set, o Options, c *connector.Change) *connector.Output {
	t.Helper()
	var out connector.Output
	s.Mapper(o).Map(c, connector.Part{}, &out)
	if len(out.Misfits) > 0 {
		t.Fatal(out.Misfits[0].Reason)
	}
	for _, r := range out.Records {
		if !json.Valid(r.Payload) {
			t.Fatalf("no valid JSON: %s", r.Payload)
		}
		if len(r.Keys) == 0 {
			t.Fatalf("a record without an order key: %s", r.Payload)
		}
	}
	return &out
}

// show writes records and letters on lines.
func show(out *connector.Output) string {
	var lines []string
	for _, r := range out.Records {
		line := string(r.Payload)
		if r.Envelope != "" {
			line += " | " + r.Envelope
		}
		lines = append(lines, line)
	}
	for _, l := range out.Letters {
		lines = append(lines, "letter: "+l.Reason)
	}
	for _, l := range out.Misfits {
		lines = append(lines, "misfit: "+l.Reason)
	}
	return strings.Join(lines, "\n")
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s\n got %s\nwant %s", what, got, want)
	}
}

// golden compares with a file below testdata; UPDATE=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, name, got, string(want))
}
