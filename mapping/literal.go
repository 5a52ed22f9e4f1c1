package mapping

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/shopspring/decimal"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// literals makes columns' values, as PostgreSQL would send them, of what stands in a test.
type literals struct {
	ps *strict.Problems
	// zone is where timestamps without an offset are, of a column with time zone; nil: they must have one.
	zone *time.Location
}

// datum reads a value for a column; a problem is noted where it does not fit the type.
func (l *literals) datum(n strict.Node, column string, typ declared) connector.Datum {
	if n.IsNull() {
		return connector.Datum{Kind: connector.Null}
	}
	text, hint, ok := l.text(n, typ)
	if !ok {
		if hint != "-" {
			l.ps.AddHint(n, hint, "column %s: want %s, got %s", column, typ, got(n))
		}
		return connector.Datum{Kind: connector.Null}
	}
	return connector.Datum{Kind: connector.Text, Text: []byte(text)}
}

func got(n strict.Node) string {
	if !n.IsScalar() {
		return n.Kind()
	}
	text := []rune(n.Raw())
	if len(text) > 40 {
		text = append(text[:40], '…')
	}
	return strconv.Quote(string(text))
}

// text writes a value as PostgreSQL does. Where it can't, hint says what would be right; "-" where the problem was noted.
func (l *literals) text(n strict.Node, typ declared) (text, hint string, ok bool) {
	isJSON := typ.oid == pgtype.JSONOID || typ.oid == pgtype.JSONBOID
	switch {
	case typ.array:
		return l.array(n, typ)
	case isJSON && !n.IsScalar():
		j, ok := l.json(n)
		if !ok {
			return "", "-", false
		}
		return jsonText(typ.oid, j)
	case !n.IsScalar():
		return "", "", false
	}
	raw, ok := n.Text()
	if !ok {
		return "", "-", false
	}
	if isJSON {
		return jsonText(typ.oid, []byte(raw))
	}
	return l.scalar(raw, typ)
}

// jsonText gives a JSON text as json keeps it, or as jsonb writes it.
func jsonText(oid uint32, text []byte) (string, string, bool) {
	if !json.Valid(text) {
		return "", `Write it as a mapping or a list, or as JSON in quotes: '{"a": 1}'; a text is '"text"'.`, false
	}
	if oid == pgtype.JSONOID {
		return string(text), "", true
	}
	t, err := parseTree(text)
	if err != nil {
		return "", "It holds no valid JSON.", false
	}
	return string(appendJSONB(nil, t)), "", true
}

// json gives a YAML value as JSON.
func (l *literals) json(n strict.Node) ([]byte, bool) {
	before := l.ps.Len()
	t := readTree(n, l.ps)
	return t.appendJSON(nil), l.ps.Len() == before
}

// appendJSONB writes JSON as jsonb does: keys sorted by length and then by bytes, the last of equal ones, a blank behind : and ,.
func appendJSONB(dst []byte, t *Tree) []byte {
	switch t.form {
	case treeObject:
		fields := map[string]*Tree{}
		var keys []string
		for _, f := range t.fields {
			if _, ok := fields[f.name]; !ok {
				keys = append(keys, f.name)
			}
			fields[f.name] = f.value
		}
		slices.SortFunc(keys, func(a, b string) int {
			if len(a) != len(b) {
				return len(a) - len(b)
			}
			return strings.Compare(a, b)
		})
		dst = append(dst, '{')
		for i, k := range keys {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = appendJSONB(append(appendQuoted(dst, []byte(k)), ": "...), fields[k])
		}
		return append(dst, '}')
	case treeList:
		dst = append(dst, '[')
		for i, item := range t.items {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = appendJSONB(dst, item)
		}
		return append(dst, ']')
	case treeLiteral:
		if d, err := decimal.NewFromString(t.text); err == nil {
			exact := t.text
			if strings.ContainsAny(exact, "eE") {
				exact = d.String()
			}
			if d.IsZero() {
				exact = strings.TrimPrefix(exact, "-") // numeric knows no -0
			}
			return append(dst, exact...)
		}
	}
	return t.appendJSON(dst)
}

// array writes a list as PostgreSQL writes an array.
func (l *literals) array(n strict.Node, typ declared) (text, hint string, ok bool) {
	if n.IsScalar() { // PostgreSQL's own form
		raw, ok := n.Text()
		if !ok {
			return "", "-", false
		}
		kind, _ := elementKind(typ.builtIn.array)
		if _, err := decodeArray([]byte(raw), columnType{kind: kind}, time.UTC); err != nil {
			return "", "Write it as a list: [a, b].", false
		}
		return raw, "", true
	}
	if !n.IsList() {
		return "", "", false
	}
	comma := ","
	if typ.oid == pgtype.BoxOID {
		comma = ";"
	}
	var b strings.Builder
	for i, item := range n.Items() {
		if i > 0 {
			b.WriteString(comma)
		}
		switch {
		case item.IsNull():
			b.WriteString("NULL")
			continue
		case item.IsList() && typ.oid != pgtype.JSONBOID && typ.oid != pgtype.JSONOID:
			text, hint, ok := l.array(item, typ)
			if !ok {
				return "", hint, false
			}
			b.WriteString(text)
			continue
		}
		text, hint, ok := l.text(item, typ.elem())
		if !ok {
			if hint != "-" {
				l.ps.AddHint(item, hint, "%s: want %s, got %s", n.Key(), typ.elem(), got(item))
			}
			return "", "-", false
		}
		b.WriteString(quoteElement(text, comma))
	}
	return "{" + b.String() + "}", "", true
}

// quoteElement writes an array's element as array_out does.
func quoteElement(text, comma string) string {
	if text != "" && !strings.EqualFold(text, "NULL") && !strings.ContainsAny(text, `{}"\ `+comma+"\t\n\r\v\f") {
		return text
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

var (
	numericForm  = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)
	intervalForm = regexp.MustCompile(`^P(-?[0-9]+[YMWD])*(T(-?[0-9]+(\.[0-9]+)?[HMS])*)?$`)
	clockForm    = regexp.MustCompile(`^([0-9]{2}:[0-9]{2})(:[0-9]{2}(?:\.[0-9]{1,6})?)?([+-][0-9]{2}(?::?[0-9]{2})?)?$`)
	uuidForm     = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	byteaForm    = regexp.MustCompile(`^\\x([0-9a-f]{2})*$`)
	bitForm      = regexp.MustCompile(`^[01]*$`)
)

// scalar writes what is no list and no JSON.
func (l *literals) scalar(raw string, typ declared) (text, hint string, ok bool) {
	switch typ.oid {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID:
		return wholeText(raw, typ.oid)
	case pgtype.NumericOID:
		return numericText(raw, typ.mods)
	case pgtype.Float4OID:
		return floatText(raw, 32)
	case pgtype.Float8OID:
		return floatText(raw, 64)
	case pgtype.BoolOID:
		switch raw {
		case "true", "t":
			return "t", "", true
		case "false", "f":
			return "f", "", true
		}
		return "", "", false
	case pgtype.VarcharOID, pgtype.BPCharOID:
		return charsText(raw, typ)
	case pgtype.TimestampOID, pgtype.TimestamptzOID, pgtype.DateOID:
		return l.timeText(raw, typ)
	case pgtype.TimeOID, pgtype.TimetzOID:
		m := clockForm.FindStringSubmatch(raw)
		if m == nil || (m[3] != "") != (typ.oid == pgtype.TimetzOID) {
			return "", "Like 12:00:00, with time zone 12:00:00+08; put it in quotes.", false
		}
		if m[2] == "" {
			m[2] = ":00"
		}
		return m[1] + m[2] + m[3], "", true
	case pgtype.IntervalOID:
		return raw, "As the stream has it, in ISO 8601: P1Y2M3DT4H5M6S.", intervalForm.MatchString(raw) && raw != "P" || raw == "PT0S"
	case pgtype.UUIDOID:
		raw = strings.ToLower(raw)
		return raw, "", uuidForm.MatchString(raw)
	case pgtype.ByteaOID:
		raw = strings.ToLower(raw)
		return raw, `Like \xdeadbeef.`, byteaForm.MatchString(raw)
	case pgtype.BitOID, pgtype.VarbitOID:
		fits := len(typ.mods) == 0 || len(raw) == typ.mods[0] || typ.oid == pgtype.VarbitOID && len(raw) < typ.mods[0]
		return raw, "Put the digits in quotes.", bitForm.MatchString(raw) && fits
	}
	return raw, "", true // as PostgreSQL writes it
}

func wholeText(raw string, oid uint32) (string, string, bool) {
	least, most := int64(math.MinInt64), int64(math.MaxInt64)
	switch oid {
	case pgtype.Int2OID:
		least, most = math.MinInt16, math.MaxInt16
	case pgtype.Int4OID:
		least, most = math.MinInt32, math.MaxInt32
	case pgtype.OIDOID:
		least, most = 0, math.MaxUint32
	}
	i, err := decodeInt([]byte(raw))
	if err != nil {
		return "", "", false
	}
	return raw, fmt.Sprintf("It holds %d to %d.", least, most), int64(i) >= least && int64(i) <= most
}

// numericText pads to the scale, as PostgreSQL does; it does not round: a value that a column can't hold never comes.
func numericText(raw string, mods []int) (string, string, bool) {
	switch raw {
	case "NaN", "Infinity", "-Infinity":
		return raw, "", true
	}
	if !numericForm.MatchString(raw) {
		return "", "", false
	}
	negative := strings.HasPrefix(raw, "-")
	whole, fraction, _ := strings.Cut(strings.TrimPrefix(raw, "-"), ".")
	whole = strings.TrimLeft(whole, "0")
	if len(mods) > 0 {
		precision, scale := mods[0], 0
		if len(mods) > 1 {
			scale = mods[1]
		}
		if len(fraction) > max(scale, 0) {
			return "", fmt.Sprintf("It holds %d digits after the point.", max(scale, 0)), false
		}
		if len(whole) > precision-scale {
			return "", fmt.Sprintf("It holds %d digits before the point.", precision-scale), false
		}
		fraction += strings.Repeat("0", max(scale, 0)-len(fraction))
	}
	if whole == "" {
		whole = "0"
	}
	if fraction != "" {
		whole += "." + fraction
	}
	if negative && strings.Trim(whole, "0.") != "" {
		whole = "-" + whole
	}
	return whole, "", true
}

// floatText writes the shortest digits that give the same float, in PostgreSQL's form: with an exponent below 1e-4 and from 1e15 (real: 1e6) on.
func floatText(raw string, bits int) (string, string, bool) {
	switch raw {
	case "NaN", "Infinity", "-Infinity":
		return raw, "", true
	case ".nan", ".NaN":
		return "NaN", "", true
	}
	if !isNumber([]byte(raw)) {
		return "", "", false
	}
	f, err := strconv.ParseFloat(raw, bits)
	if err != nil {
		return "", "", false
	}
	most := 15
	if bits == 32 {
		most = 6
	}
	text := strconv.FormatFloat(f, 'e', -1, bits)
	exponent, _ := strconv.Atoi(text[strings.IndexByte(text, 'e')+1:])
	if f == 0 || exponent >= -4 && exponent < most {
		text = strconv.FormatFloat(f, 'f', -1, bits)
	}
	return text, "", true
}

func charsText(raw string, typ declared) (string, string, bool) {
	if len(typ.mods) == 0 {
		return raw, "", true
	}
	n := len([]rune(raw))
	if n > typ.mods[0] {
		return "", fmt.Sprintf("It holds %d characters.", typ.mods[0]), false
	}
	if typ.oid == pgtype.BPCharOID {
		raw += strings.Repeat(" ", typ.mods[0]-n)
	}
	return raw, "", true
}

var (
	minutesOnly = regexp.MustCompile(`[ T][0-9]{2}:[0-9]{2}($|[+Z-])`)
	withOffset  = regexp.MustCompile(`:[0-9]{2}(?:\.[0-9]+)?(Z|[+-][0-9:]+)$`)
	fractionOf  = regexp.MustCompile(`\.([0-9]+)`)
)

// timeText writes timestamps in UTC, as the stream has them, and dates.
func (l *literals) timeText(raw string, typ declared) (string, string, bool) {
	if raw == "infinity" || raw == "-infinity" {
		return raw, "", true
	}
	if strings.HasSuffix(raw, " BC") {
		_, err := parseTimestamp([]byte(raw), time.UTC)
		return raw, "", err == nil
	}
	text := raw
	if typ.oid == pgtype.DateOID {
		at, err := parseTimestamp([]byte(text), time.UTC)
		if err != nil || strings.ContainsAny(text, "T :") {
			return "", "Like 2024-05-01.", false
		}
		return at.Format(time.DateOnly), "", true
	}
	if i := minutesOnly.FindStringIndex(text); i != nil {
		at := i[0] + len(" 12:00")
		text = text[:at] + ":00" + text[at:]
	}
	offset := withOffset.FindString(text) != ""
	zone := time.UTC
	if typ.oid == pgtype.TimestamptzOID && !offset {
		if l.zone == nil {
			return "", "Add the offset, as in 2024-05-01 12:00:00+08, or set source.timeZone.", false
		}
		zone = l.zone
	}
	if typ.oid == pgtype.TimestampOID && offset {
		return "", "A timestamp without time zone has no offset.", false
	}
	at, err := parseTimestamp([]byte(text), zone)
	if err != nil {
		return "", "Like 2024-05-01 12:00:00, with time zone 2024-05-01 12:00:00+08.", false
	}
	digits := 6
	if len(typ.mods) > 0 {
		digits = typ.mods[0]
	}
	if m := fractionOf.FindStringSubmatch(text); m != nil && len(strings.TrimRight(m[1], "0")) > digits {
		return "", fmt.Sprintf("It holds %d digits of a second.", digits), false
	}
	text = at.UTC().Format("2006-01-02 15:04:05.999999")
	if typ.oid == pgtype.TimestamptzOID {
		text += "+00"
	}
	return text, "", true
}

// isConstant reports whether no ${{ stands in a value; a problem is noted where it does.
func (l *literals) isConstant(n strict.Node) bool {
	if n.IsScalar() && bytes.Contains([]byte(n.Raw()), []byte("${{")) {
		l.ps.Add(n, "%s: a test gives values, not expressions", n.Key())
		return false
	}
	return true
}
