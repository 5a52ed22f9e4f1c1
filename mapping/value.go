package mapping

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/shopspring/decimal"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// kind is how a column's text is read.
type kind uint8

const (
	textKind      kind = iota // also what is not known: time of day, interval, inet, uuid, bytea (PostgreSQL's \x... text), enums
	blankTextKind             // char(n): PostgreSQL pads it with blanks, which mean nothing to it; they are cut
	intKind
	floatKind
	decimalKind
	boolKind
	timestampKind   // without time zone
	timestamptzKind // with
	dateKind
	jsonKind
	arrayKind
	boxKind // an array's element that is text, where ; stands between the elements
)

// String names the kind in problems.
func (k kind) String() string {
	switch k {
	case intKind:
		return "a whole number"
	case floatKind, decimalKind:
		return "a number"
	case boolKind:
		return "true or false"
	case timestampKind, timestamptzKind:
		return "a timestamp"
	case dateKind:
		return "a date"
	case jsonKind:
		return "JSON"
	case arrayKind:
		return "a list"
	}
	return "text"
}

func (k kind) isTime() bool { return k == timestampKind || k == timestamptzKind || k == dateKind }

// scalarKinds and arrayKinds are the built-in types that are not read as text. User-defined types come as connector.Column.BaseOID.
func scalarKind(oid uint32) kind {
	switch oid {
	case pgtype.BPCharOID:
		return blankTextKind
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID:
		return intKind
	case pgtype.Float4OID, pgtype.Float8OID:
		return floatKind
	case pgtype.NumericOID:
		return decimalKind
	case pgtype.BoolOID:
		return boolKind
	case pgtype.TimestampOID:
		return timestampKind
	case pgtype.TimestamptzOID:
		return timestamptzKind
	case pgtype.DateOID:
		return dateKind
	case pgtype.JSONOID, pgtype.JSONBOID:
		return jsonKind
	}
	return textKind
}

// elementKind gives the kind of an array type's elements; ok is false for a type that is no array.
func elementKind(oid uint32) (k kind, ok bool) {
	switch oid {
	case pgtype.Int2ArrayOID, pgtype.Int4ArrayOID, pgtype.Int8ArrayOID, pgtype.OIDArrayOID:
		return intKind, true
	case pgtype.Float4ArrayOID, pgtype.Float8ArrayOID:
		return floatKind, true
	case pgtype.NumericArrayOID:
		return decimalKind, true
	case pgtype.BoolArrayOID:
		return boolKind, true
	case pgtype.TimestampArrayOID:
		return timestampKind, true
	case pgtype.TimestamptzArrayOID:
		return timestamptzKind, true
	case pgtype.DateArrayOID:
		return dateKind, true
	case pgtype.JSONArrayOID, pgtype.JSONBArrayOID:
		return jsonKind, true
	case pgtype.BPCharArrayOID:
		return blankTextKind, true
	case pgtype.BoxArrayOID:
		return boxKind, true
	}
	_, ok = slices.BinarySearch(textArrays, oid)
	return textKind, ok
}

// textArrays are the other array types that are built in: SELECT typarray FROM pg_type WHERE oid < 10000 AND typarray <> 0.
var textArrays = []uint32{
	143, 210, 270, 271, 272, 273, 629, 651, 719, 775, 791, 1001, 1002, 1003, 1006, 1008, 1009, 1010, 1011, 1012, 1013, 1015, 1017, 1018, 1019,
	1027, 1034, 1040, 1041, 1183, 1187, 1263, 1270, 1561, 1563, 2201, 2207, 2208, 2209, 2210, 2211, 2287, 2949, 2951, 3221, 3643, 3644, 3645,
	3735, 3770, 3905, 3907, 3909, 3911, 3913, 3927, 4073, 4090, 4097, 4192, 5039, 6150, 6151, 6152, 6153, 6155, 6157,
}

// columnType says how a column's text becomes a value.
type columnType struct {
	kind kind
	elem kind // of an array's elements
}

func typeOf(c *connector.Column) columnType {
	if elem, ok := elementKind(c.BaseOID); ok {
		return columnType{arrayKind, elem}
	}
	return columnType{kind: scalarKind(c.BaseOID)}
}

// calendarDate is the value of a date column: midnight in the mapper's time zone, which stays a date where it becomes text.
type calendarDate struct{ time.Time }

// decode makes the value that expressions see of a column's text: int, decimal.Decimal, float64, bool, string, time.Time, calendarDate,
// infiniteTime, []any, and for JSON also map[string]any and nil. Timestamps without a zone are in zone. numeric's NaN and infinities become
// float64's.
func (t columnType) decode(text []byte, zone *time.Location) (any, error) {
	switch t.kind {
	case blankTextKind:
		return string(trimBlanks(text)), nil
	case intKind:
		return decodeInt(text)
	case floatKind:
		return decodeFloat(text)
	case decimalKind:
		return decodeNumeric(text)
	case boolKind:
		return decodeBool(text)
	case timestampKind, timestamptzKind, dateKind:
		if endless, ok := infinity(text); ok {
			return endless, nil
		}
		at, err := parseTimestamp(text, zone)
		if err != nil {
			return nil, err
		}
		if t.kind == dateKind {
			return calendarDate{at}, nil
		}
		return at, nil
	case jsonKind:
		return decodeJSON(text)
	case arrayKind:
		return decodeArray(text, columnType{kind: t.elem}, zone)
	}
	return string(text), nil
}

func trimBlanks(text []byte) []byte { return bytes.TrimRight(text, " ") }

func decodeNumeric(text []byte) (any, error) {
	if !isDecimal(text) {
		return noFinite(text)
	}
	d, err := decimal.NewFromString(string(text))
	if err != nil {
		return nil, errNoNumber
	}
	return d, nil
}

func decodeFloat(text []byte) (float64, error) {
	if !isNumber(text) {
		return noFinite(text)
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0, errNoNumber
	}
	return f, nil
}

// noFinite reads what float8 and numeric have beside finite numbers.
func noFinite(text []byte) (float64, error) {
	switch string(text) {
	case "NaN":
		return math.NaN(), nil
	case "Infinity":
		return math.Inf(1), nil
	case "-Infinity":
		return math.Inf(-1), nil
	}
	return 0, errNoNumber
}

var (
	errNoWhole  = fail("the value is no whole number of 64 bits")
	errNoNumber = fail("the value is no number that can be read")
	errNoBool   = fail("the value is neither true nor false")
)

func decodeBool(text []byte) (bool, error) {
	if len(text) != 1 || text[0] != 't' && text[0] != 'f' {
		return false, errNoBool
	}
	return text[0] == 't', nil
}

// decodeInt reads a whole number in the one form that PostgreSQL writes: no plus sign, no zeros before it.
func decodeInt(text []byte) (int, error) {
	i, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || text[0] == '+' || text[0] == '0' && len(text) > 1 || text[0] == '-' && text[1] == '0' {
		return 0, errNoWhole
	}
	return int(i), nil
}

// digits counts the digits that text begins with.
func digits(text []byte) (n int) {
	for n < len(text) && text[n] >= '0' && text[n] <= '9' {
		n++
	}
	return n
}

// isDecimal tells a number as numeric writes it, always in full.
func isDecimal(text []byte) bool { return isNumber(text) && !bytes.ContainsAny(text, "eE") }

// isNumber tells a number as JSON writes it, and PostgreSQL too, from NaN, Infinity and -Infinity.
func isNumber(text []byte) bool {
	text = bytes.TrimPrefix(text, []byte("-"))
	n := digits(text)
	if n == 0 || n > 1 && text[0] == '0' {
		return false
	}
	if text = text[n:]; len(text) > 0 && text[0] == '.' {
		if n = digits(text[1:]); n == 0 {
			return false
		}
		text = text[1+n:]
	}
	if len(text) == 0 {
		return true
	}
	if text[0] != 'e' && text[0] != 'E' {
		return false
	}
	if text = text[1:]; len(text) > 0 && (text[0] == '+' || text[0] == '-') {
		text = text[1:]
	}
	return len(text) > 0 && digits(text) == len(text)
}

// noNumber says why a text that is no number can't be sent as one.
func noNumber(text []byte) error {
	switch string(text) {
	case "NaN", "Infinity", "-Infinity":
		return errNotJSON
	}
	return errNoNumber
}

// decodeJSON reads JSON with numbers exact: int where they are whole and fit, decimal.Decimal otherwise.
func decodeJSON(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fail("the value holds no valid JSON")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fail("the value holds more than one JSON value")
	}
	return exactNumbers(v)
}

// maxJSONExponent bounds the exponents of JSON numbers, well beyond those of float8.
const maxJSONExponent = 400

func exactNumbers(v any) (any, error) {
	var err error
	switch x := v.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(x.String(), 10, 64); err == nil {
			return int(i), nil
		}
		d, err := decimal.NewFromString(x.String())
		// json (not jsonb) keeps 1e999999999 as it is: to compare that, or to write it out, would take all memory.
		if exponent := d.Exponent(); err != nil || strings.ContainsAny(x.String(), "eE") && (exponent > maxJSONExponent || exponent < -maxJSONExponent) {
			return nil, fail("the value holds a JSON number that is too large")
		}
		return d, nil
	case []any:
		for i := range x {
			if x[i], err = exactNumbers(x[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range x {
			if x[k], err = exactNumbers(x[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// decodeArray reads the text form of an array (PostgreSQL documentation, "Array Input and Output Syntax"): {1,NULL,"a \"b\"",{...}}, with the
// bounds [2:3]= before it where they are not the usual ones.
func decodeArray(text []byte, elem columnType, zone *time.Location) (any, error) {
	if len(text) > 0 && text[0] == '[' {
		bounds, rest, ok := bytes.Cut(text, []byte("="))
		if !ok || !bytes.HasSuffix(bounds, []byte("]")) || len(bytes.Trim(bounds, "[]:-+0123456789")) > 0 {
			return nil, errArray
		}
		text = rest
	}
	p := arrayParser{rest: text, elem: elem, zone: zone, comma: ',', ends: `,}{"\`}
	if elem.kind == boxKind {
		p.comma, p.ends = ';', `;}{"\`
	}
	list, err := p.list(0)
	if err == nil && len(p.rest) > 0 {
		err = errArray
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

var errArray = fail("the value is no array that can be read")

// maxArrayDepth is PostgreSQL's MAXDIM.
const maxArrayDepth = 6

type arrayParser struct {
	rest  []byte
	elem  columnType
	zone  *time.Location
	comma byte   // stands between the elements
	ends  string // where an element without quotes ends
}

// take steps over c if it comes next.
func (p *arrayParser) take(c byte) bool {
	if len(p.rest) == 0 || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *arrayParser) list(depth int) ([]any, error) {
	if depth >= maxArrayDepth || !p.take('{') {
		return nil, errArray
	}
	list := []any{}
	if p.take('}') {
		return list, nil
	}
	for {
		v, err := p.item(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if p.take('}') {
			return list, nil
		}
		if !p.take(p.comma) {
			return nil, errArray
		}
	}
}

func (p *arrayParser) item(depth int) (any, error) {
	switch {
	case len(p.rest) == 0:
		return nil, errArray
	case p.rest[0] == '{':
		return p.list(depth + 1)
	case p.take('"'):
		var text []byte
		for {
			switch {
			case len(p.rest) == 0:
				return nil, errArray
			case p.take('"'):
				return p.elem.decode(text, p.zone)
			case p.take('\\') && len(p.rest) == 0:
				return nil, errArray
			}
			text = append(text, p.rest[0])
			p.rest = p.rest[1:]
		}
	}
	end := bytes.IndexAny(p.rest, p.ends)
	if end <= 0 || p.rest[end] == '{' || p.rest[end] == '"' || p.rest[end] == '\\' {
		return nil, errArray
	}
	text := p.rest[:end]
	p.rest = p.rest[end:]
	if strings.EqualFold(string(text), "NULL") {
		return nil, nil
	}
	return p.elem.decode(text, p.zone)
}

// typeName names a value's type in messages, which must not hold the value itself.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case string:
		return "text"
	case time.Time, calendarDate:
		return "a timestamp"
	case infiniteTime:
		return "an infinite timestamp"
	case time.Duration:
		return "a duration"
	}
	if _, ok := number(v); ok {
		return "a number"
	}
	if _, ok := listItems(v); ok {
		return "a list"
	}
	if _, ok := mapPairs(v); ok {
		return "a mapping"
	}
	return fmt.Sprintf("a %T", v)
}
