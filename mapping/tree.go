package mapping

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

type treeForm uint8

const (
	treeText    treeForm = iota
	treeLiteral          // a number, true, false or null, as it is written
	treeObject
	treeList
)

// Tree is a value of a payload: numbers to the last digit, keys in their order. It prints as YAML and as JSON.
type Tree struct {
	form   treeForm
	text   string
	fields []treeField
	items  []*Tree
	line   int // in the file; 0 for what was made
}

type treeField struct {
	name  string
	value *Tree
	line  int
}

func textTree(s string) *Tree { return &Tree{text: s} }

// readTree reads a value of the file. Numbers stand as they are written.
func readTree(n strict.Node, ps *strict.Problems) *Tree {
	t := &Tree{line: n.Line()}
	switch {
	case n.IsMap():
		t.form = treeObject
		for _, p := range n.Pairs() {
			t.fields = append(t.fields, treeField{p.Key.Raw(), readTree(p.Value, ps), p.Key.Line()})
		}
	case n.IsList():
		t.form = treeList
		for _, item := range n.Items() {
			t.items = append(t.items, readTree(item, ps))
		}
	case n.IsNull():
		t.form, t.text = treeLiteral, "null"
	default:
		switch n.Tag() {
		case "int", "float", "bool":
			t.form, t.text = treeLiteral, n.Raw()
			if !json.Valid([]byte(t.text)) {
				ps.AddHint(n, "Write it in plain digits, or in quotes where it is text.", "%s: %s is no number that JSON knows", n.Key(), n.Raw())
			}
		default:
			t.text, _ = n.Text()
		}
	}
	return t
}

// parseTree reads JSON.
func parseTree(data []byte) (*Tree, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	t, err := decodeTree(d)
	if err == nil {
		if _, end := d.Token(); end != io.EOF {
			err = fmt.Errorf("more than one JSON value")
		}
	}
	return t, err
}

func decodeTree(d *json.Decoder) (*Tree, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch x := token.(type) {
	case json.Delim:
		t := &Tree{form: treeList}
		if x == '{' {
			t.form = treeObject
		}
		for d.More() {
			if x == '[' {
				item, err := decodeTree(d)
				if err != nil {
					return nil, err
				}
				t.items = append(t.items, item)
				continue
			}
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			value, err := decodeTree(d)
			if err != nil {
				return nil, err
			}
			t.fields = append(t.fields, treeField{name: key.(string), value: value})
		}
		_, err := d.Token()
		return t, err
	case string:
		return textTree(x), nil
	case json.Number:
		return &Tree{form: treeLiteral, text: x.String()}, nil
	case bool:
		return &Tree{form: treeLiteral, text: fmt.Sprint(x)}, nil
	}
	return &Tree{form: treeLiteral, text: "null"}, nil
}

func (t *Tree) appendJSON(dst []byte) []byte {
	switch t.form {
	case treeObject:
		dst = append(dst, '{')
		for i, f := range t.fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = f.value.appendJSON(append(appendQuoted(dst, []byte(f.name)), ':'))
		}
		return append(dst, '}')
	case treeList:
		dst = append(dst, '[')
		for i, item := range t.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = item.appendJSON(dst)
		}
		return append(dst, ']')
	case treeLiteral:
		return append(dst, t.text...)
	}
	return appendQuoted(dst, []byte(t.text))
}

// MarshalJSON writes the value; nil is null.
func (t *Tree) MarshalJSON() ([]byte, error) {
	if t == nil {
		return []byte("null"), nil
	}
	return t.appendJSON(nil), nil
}

// field gives the value under a name, or nil.
func (t *Tree) field(name string) *Tree {
	for _, f := range t.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

func (t *Tree) without(name string) *Tree {
	c := *t
	c.fields = nil
	for _, f := range t.fields {
		if f.name != name {
			c.fields = append(c.fields, f)
		}
	}
	return &c
}

// equal compares without regard to the order of keys.
func (t *Tree) equal(o *Tree) bool {
	if t.form != o.form || t.text != o.text || len(t.fields) != len(o.fields) || len(t.items) != len(o.items) {
		return false
	}
	for _, f := range t.fields {
		if v := o.field(f.name); v == nil || !f.value.equal(v) {
			return false
		}
	}
	for i, item := range t.items {
		if !item.equal(o.items[i]) {
			return false
		}
	}
	return true
}

// ordered gives t with its keys in the order that like has them, the others behind.
func (t *Tree) ordered(like *Tree) *Tree {
	if like == nil || t.form != like.form {
		return t
	}
	c := *t
	c.fields, c.items = nil, nil
	for _, f := range like.fields {
		for _, own := range t.fields {
			if own.name == f.name {
				c.fields = append(c.fields, treeField{own.name, own.value.ordered(f.value), own.line})
			}
		}
	}
	for _, f := range t.fields {
		if like.field(f.name) == nil {
			c.fields = append(c.fields, f)
		}
	}
	for i, item := range t.items {
		var other *Tree
		if i < len(like.items) {
			other = like.items[i]
		}
		c.items = append(c.items, item.ordered(other))
	}
	return &c
}

// Line is one line of a tree in YAML.
type Line struct {
	Text string
	// At is the line of the file that it comes from; 0 for what is not from there.
	At int
}

// Lines writes the value as YAML in block style.
func (t *Tree) Lines() []Line {
	if t == nil {
		return nil
	}
	return t.lines(nil, "", "")
}

// lines appends the value; first stands before its first line, indent before the others.
func (t *Tree) lines(list []Line, first, indent string) []Line {
	lead := first
	next := func() string {
		p := lead
		lead = indent
		return p
	}
	switch {
	case t.form == treeObject && len(t.fields) > 0:
		for _, f := range t.fields {
			key := next() + scalarYAML(f.name, false) + ":"
			switch {
			case len(f.value.fields) > 0 || len(f.value.items) > 0:
				list = append(list, Line{key, f.line})
				list = f.value.lines(list, indent+"  ", indent+"  ")
			default:
				list = append(list, Line{key + " " + f.value.scalar(), f.line})
			}
		}
		return list
	case t.form == treeList && len(t.items) > 0:
		for _, item := range t.items {
			list = item.lines(list, next()+"- ", indent+"  ")
		}
		return list
	}
	return append(list, Line{first + t.scalar(), t.line})
}

func (t *Tree) scalar() string {
	switch t.form {
	case treeObject:
		return "{}"
	case treeList:
		return "[]"
	case treeLiteral:
		return t.text
	}
	return scalarYAML(t.text, true)
}

// scalarYAML writes a text on one line, in quotes where YAML would read something else.
func scalarYAML(s string, value bool) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || r == '\ufeff' }) {
		return string(appendQuoted(nil, []byte(s)))
	}
	out, err := yaml.Marshal(s)
	text := strings.TrimSuffix(string(out), "\n")
	if err != nil || strings.Contains(text, "\n") || value && strings.Contains(text, " #") && text[0] != '"' && text[0] != '\'' {
		return string(appendQuoted(nil, []byte(s)))
	}
	return text
}
