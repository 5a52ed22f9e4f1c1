package mapping

import (
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/shopspring/decimal"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// recordedValue is a text that a real server sent, with the type that it counts as.
type recordedValue struct {
	base uint32
	text string
}

// recordedValues reads testdata/values.txt, which cmd/tuzhan-cdc's TestRecordedValues writes: a type's number and the text as JSON, a value a line.
func recordedValues(t testing.TB) (list []recordedValue) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "values.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		oid, quoted, _ := strings.Cut(strings.TrimSpace(line), "\t")
		base, err := strconv.ParseUint(oid, 10, 32)
		v := recordedValue{base: uint32(base)}
		if err == nil {
			err = json.Unmarshal([]byte(quoted), &v.text)
		}
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, v)
	}
	return list
}

// TestRecordedValues: what a real server wrote is read, whatever its type.
func TestRecordedValues(t *testing.T) {
	values := recordedValues(t)
	if len(values) < 80 {
		t.Errorf("%d values", len(values))
	}
	for _, v := range values {
		_, err := typeOf(&connector.Column{BaseOID: v.base}).decode([]byte(v.text), shanghai)
		if huge := strings.HasPrefix(v.text, "1e9999"); (err != nil) != huge {
			t.Errorf("type %d: %v", v.base, err)
		}
	}
}

// FuzzValue reads any text as a value of any type: nothing panics, what is taken becomes valid JSON or is refused, and a plain column gives what an expression
// gives.
func FuzzValue(f *testing.F) {
	for _, v := range recordedValues(f) {
		f.Add(v.base, v.text)
	}
	const body = "- {name: m, table: crm.t, on: [insert], event: {eventKey: k, uuid: 'u${{ 1 }}', identities: [{identityType: p, identityValue: '1'}], eventargs: {v: '${{ %s }}'}}}\n"
	column, expression := mustDecode(f, strings.Replace(body, "%s", "v", 1)), mustDecode(f, strings.Replace(body, "%s", "true ? v : v", 1))
	f.Fuzz(func(t *testing.T, base uint32, text string) {
		table := columns(&connector.Table{Schema: "crm", Name: "t", Identity: connector.IdentityFull}, "v", int(base))
		c := change(connector.Insert, table, tuple(text), nil)
		var a, b connector.Output
		column.Mapper(testOptions).Map(c, connector.Part{}, &a)
		expression.Mapper(testOptions).Map(c, connector.Part{}, &b)
		if len(a.Misfits)+len(b.Misfits) > 0 {
			t.Fatal("a misfit")
		}
		// JSON goes as it is where it is a plain column, and is not looked at there; the exponents that only json has are another case.
		kind := typeOf(&table.Columns[0]).kind
		if kind != jsonKind && len(a.Records) != len(b.Records) {
			t.Fatalf("type %d: %s\nas an expression: %s", base, show(&a), show(&b))
		}
		for _, out := range []*connector.Output{&a, &b} {
			for _, r := range out.Records {
				if !json.Valid(r.Payload) {
					t.Fatalf("type %d: no valid JSON: %s", base, r.Payload)
				}
			}
		}
		if kind != jsonKind && kind != floatKind && !strings.HasPrefix(text, "-0") && len(a.Records) == 1 && string(a.Records[0].Payload) != string(b.Records[0].Payload) {
			t.Fatalf("type %d: %s\nas an expression: %s", base, show(&a), show(&b))
		}
	})
}

// FuzzNumeric: a number that is read has the value that it is written with, and is written out again with it.
func FuzzNumeric(f *testing.F) {
	for _, v := range recordedValues(f) {
		if v.base == pgtype.NumericOID {
			f.Add(v.text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 2000 {
			return
		}
		v, err := decodeNumeric([]byte(text))
		d, ok := v.(decimal.Decimal)
		if err != nil || !ok || strings.ContainsAny(text, "eE") { // numeric has no exponents
			return
		}
		want, ok := new(big.Rat).SetString(text)
		if !ok || d.Rat().Cmp(want) != 0 {
			t.Fatalf("%s was read as %s", text, d)
		}
		out, err := appendNumber(nil, d)
		if err != nil {
			t.Fatal(err)
		}
		if again, ok := new(big.Rat).SetString(string(out)); !ok || again.Cmp(want) != 0 || !json.Valid(out) {
			t.Fatalf("%s became %s", text, out)
		}
	})
}

// FuzzChangeJSON: no text makes ParseChange panic, and a change that it reads is written and read again as the same.
func FuzzChangeJSON(f *testing.F) {
	small := columns(&connector.Table{OID: 7, Schema: "crm", Name: "t", Identity: connector.IdentityDefault}, "id", pgtype.Int8OID, "note", pgtype.TextOID, "x", pgtype.TextOID)
	for _, c := range []*connector.Change{
		change(connector.Insert, small, tuple("1", nil, "\xcf\xc2"), nil), change(connector.Update, small, tuple("1", nil, connector.Unchanged), tuple("1", connector.Absent, connector.Absent)),
		change(connector.Delete, small, nil, tuple("1", "a", `{"hex":"00"}`)), change(connector.Insert, wide(), wideRow(), nil),
	} {
		f.Add(ChangeJSON(c))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseChange(data)
		if err != nil {
			return
		}
		again, err := ParseChange(ChangeJSON(c))
		if err != nil {
			t.Fatalf("%v\n%s", err, ChangeJSON(c))
		}
		twice, err := ParseChange(ChangeJSON(again))
		if err != nil || !reflect.DeepEqual(again, twice) {
			t.Fatalf("%+v\n%+v, %v", again, twice, err)
		}
	})
}
