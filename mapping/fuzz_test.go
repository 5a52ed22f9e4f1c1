package mapping

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/shopspring/decimal"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// FuzzQuoted: any text becomes valid JSON that reads back as the text.
func FuzzQuoted(f *testing.F) {
	for _, s := range []string{"", "a", `"\`, "\x00\x1f\x7f", "下单\u2028", "\xff\xfe", "a\xc3", "</script>", strings.Repeat("x\n", 50)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendQuoted(nil, []byte(s)), &got); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); got != want {
			t.Fatalf("%q became %q", want, got)
		}
	})
}

// FuzzTimestamp: what PostgreSQL writes is read as time.Parse reads it, and nothing panics.
func FuzzTimestamp(f *testing.F) {
	for _, s := range []string{"2024-05-01 12:00:00", "2024-02-29 23:59:59.999999+08", "2024-05-01", "infinity", "0044-03-15 BC", "12024-01-01 00:00:00", "2023-02-29",
		"1900-01-01 00:00:00+08:05:43", "2024-05-01 12:00:00-03:30", "2024-13-01", "2024-05-01 25:00:00", "", "2024-05-01 12:00:00.", "2024-05-01 12:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTimestamp([]byte(s), shanghai)
		var want time.Time
		var stdErr error
		for _, layout := range []string{"2006-01-02", "2006-01-02 15:04:05", "2006-01-02 15:04:05-07", "2006-01-02 15:04:05-07:00", "2006-01-02 15:04:05-07:00:00"} {
			if want, stdErr = time.ParseInLocation(layout, s, shanghai); stdErr == nil {
				break
			}
		}
		if stdErr != nil || want.Year() < 1 || !postgresTime.MatchString(s) {
			return
		}
		if err != nil || !got.Equal(want) {
			t.Fatalf("%q: %v %v, time.Parse gives %v", s, got, err, want)
		}
	})
}

// postgresTime is how PostgreSQL writes times; time.Parse takes more.
var postgresTime = regexp.MustCompile(`^\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d{1,6})?([+-]\d\d(:\d\d){0,2})?)?$`)

// FuzzArray: arrays of any texts are read back, and no input makes it panic.
func FuzzArray(f *testing.F) {
	for _, s := range []string{"a\nb", "", "NULL\n\"", `{1,2}`, `\`, "[1:2]={a,b}", "{{a},{b}}", `{"a\"b",NULL}`, "{", "{a", `{"a`, "{{{{{{{{{{1}}}}}}}}}}"} {
		f.Add(s)
	}
	elem := columnType{kind: textKind}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = decodeArray([]byte(s), elem, time.UTC)
		values := strings.Split(s, "\n")
		var b strings.Builder
		for i, v := range values {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`)
		}
		for _, text := range []string{"{" + b.String() + "}", "[0:" + fmt.Sprint(len(values)-1) + "]={" + b.String() + "}"} {
			got, err := decodeArray([]byte(text), elem, time.UTC)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			for i, item := range got.([]any) {
				if item != values[i] {
					t.Fatalf("%s: %q, want %q", text, item, values[i])
				}
			}
		}
	})
}

func TestArrays(t *testing.T) {
	for text, want := range map[string]string{
		"{}": "[]", "{1,NULL,null}": "[1,null,null]", "{{1,2},{3,4}}": "[[1,2],[3,4]]", "[2:3]={5,6}": "[5,6]", `{"1"}`: "[1]",
		"": "bad", "{1,}": "bad", "{,1}": "bad", "{1}x": "bad", "{1": "bad", "{x}": "bad", "1": "bad", "{1 2}": "bad", `{1"2"}`: "bad",
	} {
		v, err := decodeArray([]byte(text), columnType{kind: intKind}, time.UTC)
		got := "bad"
		if err == nil {
			b, _ := appendValue(nil, v)
			got = string(b)
		}
		expect(t, text, got, want)
	}
}

// FuzzExpression: no expression makes the parser, the checker or the machine panic, and what it computes is the same each time.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{"amount * 2 + id % 3", "old?.doc.a ?? tags[0]", "let x = 1.5; filter(doc.list, .n > x)", `name matches "a" ? 1 : nil`, "sortBy(tags, #)", "2 ** 0.5", "seen_at - made_at",
		"groupBy(doc.list, .n)", "{'a': [1, 2][0:1]}", "if paid { 1 } else { 2.0 }", "reduce(1..9, # + #acc)", "toPairs(doc)", "-9223372036854775807 - 1", "1e17 * 1e3", "date(name)", "a?.b?.c()"} {
		f.Add(s)
	}
	table := wide()
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 200 || strings.ContainsAny(s, "\r\n\t#") || strings.Contains(s, "**") && len(s) > 40 || strings.Contains(s, "..") || strings.Contains(s, "repeat") {
			return
		}
		p, problem := compileExpr(t, strings.TrimSpace(s), table)
		if problem != "" || p == nil {
			return
		}
		r := testRow(connector.Update, table, wideRow(), wideRow())
		once, err := p.run(r)
		again, err2 := p.run(r)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%q: %v, then %v", s, err, err2)
		}
		if err == nil {
			a, errA := appendText(nil, once)
			b, errB := appendText(nil, again)
			if string(a) != string(b) || (errA == nil) != (errB == nil) {
				t.Fatalf("%q: %s, then %s", s, a, b)
			}
		}
	})
}

// TestDecimalsAgainstRationals computes with decimals and compares with big fractions.
func TestDecimalsAgainstRationals(t *testing.T) {
	values := []string{"0", "1", "-1", "0.1", "0.29", "1420.00", "-3.333", "99999999999999999999.99", "0.00000001", "7", "1e5"}
	for _, x := range values {
		for _, y := range values {
			a, b := decimal.RequireFromString(x), decimal.RequireFromString(y)
			for op, f := range map[string]func(a, b any) (any, error){"+": add, "-": subtract, "*": multiply, "/": divide} {
				got, err := f(a, b)
				want := a.Rat()
				switch op {
				case "+":
					want.Add(want, b.Rat())
				case "-":
					want.Sub(want, b.Rat())
				case "*":
					want.Mul(want, b.Rat())
				case "/":
					if b.IsZero() {
						if err != errZero {
							t.Errorf("%s / 0: %v %v", x, got, err)
						}
						continue
					}
					want.Quo(want, b.Rat())
				}
				if err != nil {
					t.Errorf("%s %s %s: %v", x, op, y, err)
					continue
				}
				if d := got.(decimal.Decimal); d.Round(quotientDigits).Cmp(decimal.NewFromBigRat(want, quotientDigits)) != 0 {
					t.Errorf("%s %s %s = %s, want %s", x, op, y, d, want.FloatString(25))
				}
			}
		}
	}
}

func TestKinds(t *testing.T) {
	for oid, want := range map[uint32]columnType{pgtype.JSONBArrayOID: {arrayKind, jsonKind}, pgtype.DateArrayOID: {arrayKind, dateKind}, 99999: {}, pgtype.UUIDOID: {}} {
		if got := typeOf(&connector.Column{BaseOID: oid}); got != want {
			t.Errorf("%d: %v", oid, got)
		}
	}
}
