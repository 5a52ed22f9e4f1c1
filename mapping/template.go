package mapping

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// template is a value of a payload as the file has it, checked as far as that goes without a table.
type template struct {
	node strict.Node
	spec field
	form form
	// constant: what is sent. For a text it is the text itself, for all else its JSON.
	constant string
	quoted   bool // the constant is a text
	expr     *expression
	parts    []*template // mixed: constants and expressions
	fields   []*template // object: spec.name is the key
	items    []*template // list
}

// form is how a value is written.
type form uint8

const (
	constantForm form = iota
	exprForm          // ${{ e }} alone
	mixedForm         // text with ${{ e }} in it
	objectForm
	listForm
)

// templates reads payloads. Problems go to ps.
type templates struct {
	ps *strict.Problems
	// constant: expressions are not taken (publicParams).
	constant bool
}

// object reads a mapping of the given fields; except are keys that somebody else reads. It gives nil for what is no mapping.
func (d *templates) object(n strict.Node, what string, fields []field, except ...string) *template {
	if !n.IsMap() && !n.IsNull() {
		d.wrong(n, field{name: what, typ: objectField})
		return nil
	}
	t := &template{node: n, form: objectForm, spec: field{name: what, typ: objectField, fields: fields}}
	seen := map[string]strict.Node{}
	for _, p := range n.Pairs() {
		name := p.Key.Raw()
		if slices.Contains(except, name) {
			continue
		}
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			d.unknownField(p.Key, what, name, append(names(fields), except...))
			continue
		}
		if fields[i].refused != "" {
			d.ps.Add(p.Key, "%s", fields[i].refused)
			continue
		}
		seen[name] = p.Value
		if v := d.value(p.Value, fields[i]); v != nil {
			t.fields = append(t.fields, v)
		}
	}
	for _, f := range fields {
		at, given := seen[f.name]
		if f.required && !given {
			d.ps.Add(n, "%s: %s is required: %s", what, f.name, f.typ)
		}
		if f.needs != "" && given && seen[f.needs].IsZero() {
			d.ps.Add(at, "%s: %s must be given with %s", what, f.needs, f.name)
		}
	}
	if who := customerNames(fields); len(who) > 0 && !slices.ContainsFunc(who, func(name string) bool { return !seen[name].IsZero() }) &&
		!slices.ContainsFunc(fields, func(f field) bool { return f.customer && f.required }) {
		d.ps.Add(n, "%s names no customer: give at least one of %s", what, strings.Join(who, ", "))
	}
	return t
}

func (d *templates) unknownField(key strict.Node, what, name string, known []string) {
	text := fmt.Sprintf("the API has no field %q in %s", name, what)
	if s := strict.Suggest(name, known); s != "" {
		d.ps.Add(key, "%s: did you mean %q?", text, s)
		return
	}
	d.ps.AddHint(key, "Its fields: "+strings.Join(known, ", ")+".", "%s", text)
}

// field gives the template under a name, or nil.
func (t *template) field(name string) *template {
	for _, f := range t.fields {
		if f.spec.name == name {
			return f
		}
	}
	return nil
}

// value reads a value for a field; nil where it is no good.
func (d *templates) value(n strict.Node, f field) *template {
	switch {
	case f.typ == listField:
		return d.list(n, f)
	case f.typ == argsField:
		return d.open(n, f, argField)
	case f.typ == objectField:
		return d.object(n, f.name, f.fields)
	case f.typ == jsonStringField && n.IsMap():
		return d.object(n, f.name, f.fields).as(f)
	case f.typ == argField && (n.IsMap() || n.IsList()):
		inner := d.value(n, field{name: f.name, typ: jsonField})
		return inner.as(field{name: f.name, typ: jsonStringField})
	case f.typ == jsonField && n.IsMap():
		return d.open(n, f, jsonField)
	case (f.typ == jsonField || f.typ == groupsField) && n.IsList():
		return d.listOf(n, f)
	}
	return d.scalar(n, f)
}

func (t *template) as(f field) *template {
	if t != nil {
		t.spec = f
	}
	return t
}

// open reads a mapping of any keys.
func (d *templates) open(n strict.Node, f field, values fieldType) *template {
	if !n.IsMap() && !n.IsNull() {
		d.wrong(n, f)
		return nil
	}
	t := &template{node: n, form: objectForm, spec: f}
	for _, p := range n.Pairs() {
		if v := d.value(p.Value, field{name: p.Key.Raw(), typ: values}); v != nil {
			t.fields = append(t.fields, v)
		}
	}
	return t
}

// list reads a list of objects.
func (d *templates) list(n strict.Node, f field) *template {
	if !n.IsList() {
		d.wrong(n, f)
		return nil
	}
	t := &template{node: n, form: listForm, spec: f}
	for _, item := range n.Items() {
		if v := d.object(item, f.name, f.fields); v != nil {
			t.items = append(t.items, v)
		}
	}
	if len(n.Items()) == 0 {
		d.ps.Add(n, "%s is empty: give at least one item, or leave the key away", f.name)
	}
	return t
}

// listOf reads a list of values of the field's own type.
func (d *templates) listOf(n strict.Node, f field) *template {
	t := &template{node: n, form: listForm, spec: f}
	for _, item := range n.Items() {
		if f.typ == groupsField && !item.IsScalar() {
			d.wrong(item, f)
			continue
		}
		if v := d.value(item, f); v != nil {
			t.items = append(t.items, v)
		}
	}
	return t
}

func (d *templates) wrong(n strict.Node, f field) {
	got := n.Kind()
	if parts, ok := n.Template(); ok && len(parts) == 1 && parts[0].Expr {
		got = "an expression"
	}
	d.ps.Add(n, "%s: want %s, got %s", f.name, f.typ, got)
}

// scalar reads a constant, an expression, or text with expressions in it.
func (d *templates) scalar(n strict.Node, f field) *template {
	if !n.IsScalar() {
		d.wrong(n, f)
		return nil
	}
	if n.IsNull() {
		d.ps.AddHint(n, "Leave the key away to send nothing.", "%s has no value", f.name)
		return nil
	}
	parts, ok := n.Template()
	if !ok {
		return nil
	}
	if !slices.ContainsFunc(parts, func(p strict.Part) bool { return p.Expr }) {
		return d.constantScalar(n, f)
	}
	if d.constant {
		d.ps.Add(n, "%s must be a constant: all records of a request share it", f.name)
		return nil
	}
	if len(parts) == 1 {
		e := newExpression(n, parts[0].Offset, parts[0].Text, d.ps)
		if e == nil || !d.fits(e, f, e.static) {
			return nil
		}
		return &template{node: n, spec: f, form: exprForm, expr: e}
	}
	switch f.typ {
	case intField, pointField, boolField, timeField:
		d.ps.AddHint(n, "Write ${{ }} alone, with nothing around it.", "%s: want %s, but an expression with text around it gives text", f.name, f.typ)
		return nil
	}
	t := &template{node: n, spec: f, form: mixedForm}
	for _, p := range parts {
		if !p.Expr {
			t.parts = append(t.parts, &template{node: n, spec: f, constant: p.Text, quoted: true})
			continue
		}
		e := newExpression(n, p.Offset, p.Text, d.ps)
		if e == nil {
			return nil
		}
		t.parts = append(t.parts, &template{node: n, spec: f, form: exprForm, expr: e})
	}
	return t
}

// fits notes a problem where an expression's type can't become what the field takes.
func (d *templates) fits(e *expression, f field, t valueType) bool {
	hint, ok := fits(f, t)
	if !ok {
		d.ps.AddHint(e.at(0), hint, "%s: want %s, but the expression gives %s", f.name, f.typ, t)
	}
	return ok
}

// fits says whether a value of type t can become what the field takes; hint says what to write otherwise.
func fits(f field, t valueType) (hint string, ok bool) {
	if t == anyValue {
		return "", true
	}
	switch f.typ {
	case intField, pointField:
		if t == textValue {
			return "int(x) reads a whole number from text.", false
		}
		return "", t == intValue || t == numberValue
	case boolField:
		return `Compare it with something: x == "1".`, t == boolValue
	case timeField:
		if t == textValue {
			return `date(x) reads a timestamp from text.`, false
		}
		return "", t == timeValue || t == intValue || t == numberValue
	case jsonStringField:
		return "", t == mapValue || t == textValue
	case groupsField:
		return "", t == textValue || t == listValue || t == intValue || t == numberValue
	case stringField, uuidField:
		if len(f.enum) > 0 && (t == boolValue || t == timeValue) {
			return fmt.Sprintf("It takes %s, as in x ? %q : %q.", strings.Join(f.enum, ", "), f.enum[len(f.enum)-1], f.enum[0]), false
		}
		return "join(x, \",\") makes text of a list, toJSON(x) of anything.", t != listValue && t != mapValue
	}
	return "", true
}

// constantScalar reads a value without expressions.
func (d *templates) constantScalar(n strict.Node, f field) *template {
	t := &template{node: n, spec: f}
	switch f.typ {
	case intField, pointField, timeField:
		least, most := f.least, f.most
		if most == 0 {
			least, most = math.MinInt64, math.MaxInt64
		}
		i, ok := n.Int(least, most)
		if !ok {
			return nil
		}
		t.constant = strconv.FormatInt(i, 10)
		return t
	case boolField:
		b, ok := n.Bool()
		if !ok {
			return nil
		}
		t.constant = strconv.FormatBool(b)
		return t
	case argField, jsonField:
		switch n.Tag() {
		case "int", "float":
			if !json.Valid([]byte(n.Raw())) {
				d.ps.AddHint(n, "Write it in plain digits, or in quotes where it is text.", "%s: %s is no number that JSON knows", f.name, n.Raw())
				return nil
			}
			t.constant = n.Raw()
			return t
		case "bool":
			b, _ := n.Bool()
			t.constant = strconv.FormatBool(b)
			t.quoted = f.typ == argField // the API takes text and numbers only
			return t
		}
	}
	return d.constantText(n, f)
}

// constantText reads a text without expressions.
func (d *templates) constantText(n strict.Node, f field) *template {
	if tag := n.Tag(); tag != "str" && tag != "timestamp" {
		d.ps.Add(n, "%s: want %s, got %s: put it in quotes, %q", f.name, f.typ, n.Kind(), n.Raw())
		return nil
	}
	text, ok := n.Text()
	if !ok {
		return nil
	}
	switch {
	case text == "" && (f.required || f.customer):
		d.ps.Add(n, "%s must not be empty", f.name)
		return nil
	case len(f.enum) > 0:
		if _, ok := n.Enum(f.enum...); !ok {
			return nil
		}
	case f.maxChars > 0 && utf8.RuneCountInString(text) > f.maxChars:
		d.ps.Add(n, "%s has at most %d characters", f.name, f.maxChars)
		return nil
	case f.typ == uuidField:
		d.ps.AddHint(n, "Leave the key away: each event then gets a uuid that stays the same when it is sent again.", "%s: the same uuid for all events", f.name)
		return nil
	case f.typ == jsonStringField:
		if !isJSONObject([]byte(text)) {
			d.ps.AddHint(n, "Write it as a mapping (key: value): it is sent as the JSON string that the API wants.", "%s: the text holds no JSON object", f.name)
			return nil
		}
	}
	return &template{node: n, spec: f, constant: text, quoted: true}
}

func isJSONObject(text []byte) bool {
	for i, c := range text {
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return text[i] == '{' && json.Valid(text)
		}
	}
	return false
}

// json gives a constant template as JSON, an object's fields in the order of the API's description, so that two mappings that mean the same
// write the same.
func (t *template) json(dst []byte) []byte {
	switch t.form {
	case objectForm:
		fields := slices.Clone(t.fields)
		slices.SortStableFunc(fields, func(a, b *template) int {
			index := func(x *template) int {
				return slices.IndexFunc(t.spec.fields, func(f field) bool { return f.name == x.spec.name })
			}
			return index(a) - index(b)
		})
		dst = append(dst, '{')
		for i, f := range fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = f.json(append(appendQuoted(dst, []byte(f.spec.name)), ':'))
		}
		return append(dst, '}')
	case constantForm:
		if t.quoted {
			return appendQuoted(dst, []byte(t.constant))
		}
		return append(dst, t.constant...)
	}
	return dst
}

// expressions calls f with all expressions in t.
func (t *template) expressions(f func(*expression)) {
	if t.expr != nil {
		f(t.expr)
	}
	for _, list := range [][]*template{t.parts, t.fields, t.items} {
		for _, x := range list {
			x.expressions(f)
		}
	}
}
