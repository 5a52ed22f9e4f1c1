package mapping

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// encoder appends a value's JSON. ok is false where there is nothing to send: a null, or an object that names no customer.
type encoder interface {
	encode(dst []byte, r *row) (out []byte, ok bool, err error)
}

// objectPlan is an encoder for a JSON object whose keys are known.
type objectPlan struct {
	fields []entry
	// customers lists the fields that name the customer; where all of them are empty, the object is left out.
	customers []string
}

type entry struct {
	name        string
	first, next []byte  // "name": and ,"name":
	value       encoder // nil: it is a constant, and stands in first and next
	required    bool
	customer    bool
	needs       int // index of the field that must come with it; -1: none
	node        strict.Node
}

func (o *objectPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	dst = append(dst, '{')
	start := len(dst)
	var failed error
	var sent uint64 // by index; needs is used by small objects only
	named := len(o.customers) == 0
	for i := range o.fields {
		f := &o.fields[i]
		mark := len(dst)
		if mark == start {
			dst = append(dst, f.first...)
		} else {
			dst = append(dst, f.next...)
		}
		if f.value == nil {
			if i < 64 {
				sent |= 1 << i
			}
			continue
		}
		value := len(dst)
		var ok bool
		var err error
		if dst, ok, err = f.value.encode(dst, r); err != nil {
			return dst, false, under(err, f.name, f.node)
		}
		if !ok || f.required && len(dst)-value == 2 && dst[value] == '"' {
			dst = dst[:mark]
			if f.required && failed == nil {
				failed = under(fail("a required value is null or empty").hint("give it a default: ${{ x ?? ... }}"), f.name, f.node)
			}
			continue
		}
		named = named || f.customer
		if i < 64 {
			sent |= 1 << i
		}
	}
	if !named {
		return dst, false, nil
	}
	if failed != nil {
		return dst, false, failed
	}
	for i := range o.fields {
		if f := &o.fields[i]; f.needs >= 0 && sent>>i&1 == 1 && sent>>f.needs&1 == 0 {
			return dst, false, under(fail("it must be given with %s, and is null", f.name), o.fields[f.needs].name, o.fields[f.needs].node)
		}
	}
	return append(dst, '}'), true, nil
}

// listPlan is an encoder for a JSON array; items that have nothing to send are left out, and so is a list of which nothing is left.
type listPlan struct {
	items []encoder
	// empty is how a list without items is sent; nil: not at all.
	empty []byte
}

func (l *listPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	dst = append(dst, '[')
	start := len(dst)
	for i, item := range l.items {
		mark := len(dst)
		if mark > start {
			dst = append(dst, ',')
		}
		var ok bool
		var err error
		if dst, ok, err = item.encode(dst, r); err != nil {
			return dst, false, under(err, "["+strconv.Itoa(i)+"]", strict.Node{})
		}
		if !ok {
			dst = dst[:mark]
		}
	}
	if len(dst) == start {
		return append(dst[:start-1], l.empty...), l.empty != nil, nil
	}
	return append(dst, ']'), true, nil
}

// literalPlan is JSON that is always the same.
type literalPlan []byte

func (c literalPlan) encode(dst []byte, _ *row) ([]byte, bool, error) {
	return append(dst, c...), true, nil
}

// textPlan is a stringField.
type textPlan struct {
	source source
	spec   *field
	// compared says that identity values are kept for a comparison (group relations).
	compared bool
}

func (t *textPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	text, ok, err := t.source.text(r)
	if err != nil || !ok {
		return dst, false, err
	}
	if t.spec.customer {
		if len(text) == 0 {
			return dst, false, nil
		}
		r.addKey(connector.KeyHash(text))
	}
	if t.compared {
		r.identity = append(append(append(append(r.identity, t.spec.name...), 0), text...), 0)
	}
	if len(t.spec.enum) > 0 && !isOneOf(text, t.spec.enum) {
		return dst, false, fail("the API takes one of %s here", strings.Join(t.spec.enum, ", "))
	}
	if t.spec.maxChars > 0 && len(text) > t.spec.maxChars && utf8.RuneCount(text) > t.spec.maxChars {
		return dst, false, fail("the value has more than the %d characters that the API takes", t.spec.maxChars)
	}
	return appendQuoted(dst, text), true, nil
}

func isOneOf(text []byte, values []string) bool {
	for _, v := range values {
		if string(text) == v {
			return true
		}
	}
	return false
}

// intPlan is an intField.
type intPlan struct {
	source   source
	customer bool
}

func (v *intPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	text, ok, err := v.source.whole(r)
	if err != nil || !ok {
		return dst, false, err
	}
	if v.customer {
		r.addKey(connector.KeyHash(text))
	}
	return append(dst, text...), true, nil
}

// pointPlan is the change in points. A negative one is sent as its absolute value to the path that decreases.
type pointPlan struct {
	source   source
	decrease bool // that path is configured
}

func (v *pointPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	text, ok, err := v.source.whole(r)
	if err != nil || !ok {
		return dst, false, err
	}
	if text[0] == '-' {
		if !v.decrease {
			return dst, false, fail("the value is negative, and there is no path that takes points away").
				hint("set platform.paths.pointDecrease, or leave such rows out with when")
		}
		text, r.decrease = text[1:], true
		if string(text) == "9223372036854775808" {
			return dst, false, fail("the value does not fit into 64 bits without its sign")
		}
	}
	return append(dst, text...), true, nil
}

// boolPlan is a boolField.
type boolPlan struct{ source source }

func (v *boolPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	value, err := v.source.value(r)
	if err != nil || value == nil {
		return dst, false, err
	}
	b, ok := value.(bool)
	if !ok {
		return dst, false, fail("true or false is wanted here, got %s", typeName(value))
	}
	return strconv.AppendBool(dst, b), true, nil
}

// timePlan is an event's time in unix milliseconds; null becomes the commit time. A snapshot has none, and its row must have a time: years-old events
// must not carry today's date.
type timePlan struct{ source *source } // nil: none is mapped

func (v *timePlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	if v.source != nil {
		out, ok, err := v.mapped(dst, r)
		if err != nil || ok {
			return out, ok, err
		}
	}
	if r.change.CommitTime.IsZero() {
		return dst, false, fail("the value is null, and a row that was there before has no commit time to take its place").hint("give it a default (x ?? y), or leave such rows out with --where")
	}
	return strconv.AppendInt(dst, r.change.CommitTime.UnixMilli(), 10), true, nil
}

func (v *timePlan) mapped(dst []byte, r *row) ([]byte, bool, error) {
	if v.source.constant != nil {
		return append(dst, v.source.constant...), true, nil
	}
	if c := v.source.column; c != nil && c.typ.kind.isTime() {
		d, err := r.read(c)
		if err != nil || d.Kind == connector.Null {
			return dst, false, err
		}
		at, err := parseTimestamp(d.Text, r.zone)
		if err == nil {
			err = sendable(at)
		}
		if err != nil {
			return dst, false, c.failed(err)
		}
		return strconv.AppendInt(dst, at.UnixMilli(), 10), true, nil
	}
	value, err := v.source.value(r)
	if err != nil || value == nil {
		return dst, false, err
	}
	if at, infinite, ok := moment(value); ok {
		if err = sendable(at); infinite != 0 {
			err = errInfinity
		}
		return strconv.AppendInt(dst, at.UnixMilli(), 10), err == nil, err
	}
	ms, err := wholeNumber(value)
	if err != nil {
		return dst, false, v.source.failed(err)
	}
	return strconv.AppendInt(dst, int64(ms), 10), true, nil
}

// argPlan is a value of eventargs: text or a number, as the API takes no others. True and false become the texts "true" and "false", lists and
// mappings their JSON as text.
type argPlan struct{ source source }

func (v *argPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	if c := v.source.column; c != nil {
		switch c.typ.kind {
		case intKind, decimalKind, floatKind:
			return c.number(dst, r)
		case jsonKind:
			if d, err := r.read(c); err == nil && isNumber(bytes.TrimSpace(d.Text)) {
				return append(dst, bytes.TrimSpace(d.Text)...), true, nil
			}
		}
	}
	if v.source.program != nil {
		value, err := v.source.program.run(r)
		if err != nil || value == nil {
			return dst, false, err
		}
		if n, ok := number(value); ok {
			dst, err = appendNumber(dst, n)
			return dst, true, err
		}
		r.text, err = appendText(r.text[:0], value)
		return appendQuoted(dst, r.text), true, err
	}
	text, ok, err := v.source.text(r)
	if err != nil || !ok {
		return dst, false, err
	}
	return appendQuoted(dst, text), true, nil
}

// number copies a column's digits: PostgreSQL writes numbers as JSON does, but for NaN and the infinities.
func (c *column) number(dst []byte, r *row) ([]byte, bool, error) {
	d, err := r.read(c)
	if err != nil || d.Kind == connector.Null {
		return dst, false, err
	}
	switch c.typ.kind {
	case intKind:
		_, err = decodeInt(d.Text)
	case decimalKind:
		if !isDecimal(d.Text) {
			err = noNumber(d.Text)
		}
	default:
		if _, err = decodeFloat(d.Text); err == nil && !isNumber(d.Text) {
			err = errNotJSON
		}
	}
	if err != nil {
		return dst, false, c.failed(err)
	}
	return append(dst, d.Text...), true, nil
}

// jsonPlan is a value inside of ext: whatever JSON can hold.
type jsonPlan struct{ source source }

func (v *jsonPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	if v.source.column == nil && v.source.program == nil {
		text, ok, err := v.source.text(r)
		if err != nil || !ok {
			return dst, false, err
		}
		return appendQuoted(dst, text), true, nil
	}
	value, err := v.source.value(r)
	if err != nil || value == nil {
		return dst, false, err
	}
	dst, err = appendValue(dst, value)
	return dst, true, v.source.failed(err)
}

// jsonTextPlan is a jsonStringField: an object that is sent as a text.
type jsonTextPlan struct{ inner encoder }

func (v *jsonTextPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	start := len(dst)
	dst, ok, err := v.inner.encode(dst, r)
	if err != nil || !ok {
		return dst, false, err
	}
	r.json = append(r.json[:0], dst[start:]...)
	return appendQuoted(dst[:start], r.json), true, nil
}

// jsonObjectPlan is a jsonStringField that an expression or a column gives.
type jsonObjectPlan struct{ source source }

func (v *jsonObjectPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	text, ok, err := v.source.text(r)
	if err != nil || !ok {
		return dst, false, err
	}
	if !isJSONObject(text) {
		return dst, false, fail("the text holds no JSON object").hint("write it as a mapping (key: value), which is made JSON")
	}
	return appendQuoted(dst, text), true, nil
}

// groupsPlan is a groupsField: names joined by commas.
type groupsPlan struct{ sources []source }

func (v *groupsPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	r.groups = r.groups[:0]
	if r.only != nil {
		r.groups = append(r.groups, r.only...)
	} else {
		for i := range v.sources {
			if err := v.add(&v.sources[i], r); err != nil {
				return dst, false, err
			}
		}
	}
	if len(r.groups) == 0 {
		return dst, false, nil
	}
	return appendQuoted(dst, r.groups[:len(r.groups)-1]), true, nil
}

var errComma = fail("a group name holds a comma, which the API reads as the end of the name").
	hint(`where the value is a list already, write split(x, ",")`)

func (v *groupsPlan) add(s *source, r *row) error {
	switch {
	case s.constant != nil: // the file's author knows what a comma does
		r.groups = append(append(r.groups, s.constant...), ',')
		return nil
	case s.mixed != nil:
		for _, part := range s.mixed {
			text, ok, err := part.text(r)
			if err != nil || ok && part.constant == nil && bytes.IndexByte(text, ',') >= 0 {
				return cmpError(err, errComma)
			}
		}
	case s.program != nil, s.column.typ.kind == arrayKind, s.column.typ.kind == jsonKind:
		value, err := s.value(r)
		if err != nil || value == nil {
			return err
		}
		items, ok := listItems(value)
		if !ok {
			items = []any{value}
		}
		for _, item := range items {
			if item == nil {
				continue
			}
			if r.text, err = appendText(r.text[:0], item); err != nil {
				return err
			}
			if err = v.name(r.text, r); err != nil {
				return err
			}
		}
		return nil
	}
	text, ok, err := s.text(r)
	if err != nil || !ok {
		return err
	}
	if s.mixed != nil {
		r.groups = append(append(r.groups, text...), ',')
		return nil
	}
	return v.name(text, r)
}

// name adds one name; an empty one is none.
func (v *groupsPlan) name(text []byte, r *row) error {
	if bytes.IndexByte(text, ',') >= 0 {
		return errComma
	}
	if len(text) > 0 {
		r.groups = append(append(r.groups, text...), ',')
	}
	return nil
}

func cmpError(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
