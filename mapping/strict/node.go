package strict

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// Node is a value in a YAML file. The zero Node is a value that is not there: its methods give nothing and note no problem, so that
// an optional key needs no special case. Nodes are small and are passed by value.
type Node struct {
	doc *document
	y   *yaml.Node
	// key names the value in messages: the key it stands under, for an item the list's key.
	key string
	// line and column, where not 0, override the node's own place: see Sub.
	line, column int
}

// Pair is one key of a mapping and its value.
type Pair struct{ Key, Value Node }

// IsZero says that the node is not in the file at all.
func (n Node) IsZero() bool { return n.y == nil }

// real is the YAML node behind n, aliases followed; nil for the zero Node.
func (n Node) real() *yaml.Node {
	y := n.y
	for y != nil && y.Kind == yaml.AliasNode {
		y = y.Alias
	}
	return y
}

func (n Node) is(kind yaml.Kind) bool {
	y := n.real()
	return y != nil && y.Kind == kind
}

// IsScalar says that the node is a single value; a null is one too.
func (n Node) IsScalar() bool { return n.is(yaml.ScalarNode) }

// IsMap says that the node is a mapping.
func (n Node) IsMap() bool { return n.is(yaml.MappingNode) }

// IsList says that the node is a list.
func (n Node) IsList() bool { return n.is(yaml.SequenceNode) }

// IsNull says that the node is there and holds nothing: an empty value, ~ or null.
func (n Node) IsNull() bool { return n.IsScalar() && n.real().ShortTag() == "!!null" }

// Fingerprint gives a text that is the same for what says the same, wherever it stands and however it is laid out; empty for the zero Node.
func (n Node) Fingerprint() string {
	if n.IsZero() {
		return ""
	}
	h := sha256.New()
	var walk func(y *yaml.Node)
	walk = func(y *yaml.Node) {
		for y.Kind == yaml.AliasNode {
			y = y.Alias
		}
		fmt.Fprintf(h, "%d %q %q %d\n", y.Kind, y.ShortTag(), y.Value, len(y.Content))
		for _, c := range y.Content {
			walk(c)
		}
	}
	walk(n.y)
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// CutShort says what to do where a comment may have swallowed the end of a text without quotes; "" where none did. An expression that reads the items
// of a list has a # of its own.
func (n Node) CutShort() string {
	y := n.real()
	if y == nil || y.Kind != yaml.ScalarNode || y.Style != 0 || y.LineComment == "" {
		return ""
	}
	return "A # behind a blank begins a comment in YAML: put the value in quotes, '...'."
}

// Kind names what the node is, for messages: "a mapping", "a list", "text", "a number", "true or false", "a time", "nothing".
func (n Node) Kind() string {
	switch {
	case n.IsMap():
		return "a mapping"
	case n.IsList():
		return "a list"
	case !n.IsScalar():
		return "nothing"
	}
	switch n.Tag() {
	case "int", "float":
		return "a number"
	case "bool":
		return "true or false"
	case "null":
		return "nothing"
	case "timestamp":
		return "a time"
	}
	return "text"
}

// Key is the key that the node stands under, or under which the list stands that it is an item of; "" at the top.
func (n Node) Key() string { return n.key }

// File is the name that was given to Parse; "" for the zero Node.
func (n Node) File() string {
	if n.doc == nil {
		return ""
	}
	return n.doc.file
}

// Line counts from 1; 0 for the zero Node. An alias stands where its anchor stands.
func (n Node) Line() int {
	if n.line > 0 {
		return n.line
	}
	if y := n.real(); y != nil {
		return y.Line
	}
	return 0
}

// Column counts characters from 1; 0 for the zero Node.
func (n Node) Column() int {
	if n.line > 0 {
		return n.column
	}
	if y := n.real(); y != nil {
		return y.Column
	}
	return 0
}

// Problem notes a problem at the node.
func (n Node) Problem(format string, args ...any) { n.problem("", format, args...) }

func (n Node) problem(hint, format string, args ...any) {
	if n.doc != nil {
		n.doc.ps.AddHint(n, hint, format, args...)
	}
}

// want notes that the node is not what it should be; it gives false.
func (n Node) want(what string) bool {
	n.problem("", "%swant %s, got %s", n.prefix(), what, n.got())
	return false
}

func (n Node) prefix() string {
	if n.key == "" {
		return ""
	}
	return n.key + ": "
}

// got shows what stands in the file: never what an environment variable holds.
func (n Node) got() string {
	if !n.IsScalar() || n.IsNull() {
		return n.Kind()
	}
	y := n.real()
	if y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		return "the text " + quote(y.Value)
	}
	return quote(y.Value)
}

// quote shows a piece of the file in a message, cut where it is long.
func quote(s string) string {
	if r := []rune(s); len(r) > 40 {
		s = string(r[:40]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// Fields gives the values of a mapping by key. A key that is not known, or that comes twice, is a problem (the first one counts), as
// is a node that is no mapping. A null counts as an empty mapping: a block whose keys are all commented out. Keys that are absent
// give the zero Node; one that is misspelled stands in for what was meant, so that its value is looked at too and nobody
// reports it missing.
func (n Node) Fields(known ...string) map[string]Node {
	fields, guessed := map[string]Node{}, map[string]Node{}
	isKnown := map[string]bool{}
	for _, k := range known {
		isKnown[k] = true
	}
	for _, p := range n.Pairs() {
		name := p.Key.real().Value
		if !isKnown[name] {
			hint := ""
			text := fmt.Sprintf("unknown key %s", quote(name))
			if n.key != "" {
				text += " in " + n.key
			}
			if s := Suggest(name, known); s != "" {
				text += fmt.Sprintf(": did you mean %q?", s)
				if _, ok := guessed[s]; !ok {
					p.Value.key = s
					guessed[s] = p.Value
				}
			} else if len(known) > 0 {
				hint = "Known here: " + strings.Join(known, ", ") + "."
			}
			p.Key.problem(hint, "%s", text)
			continue
		}
		fields[name] = p.Value
	}
	for name, v := range guessed {
		if _, ok := fields[name]; !ok {
			fields[name] = v
		}
	}
	return fields
}

// Pairs gives the keys of a mapping with their values, in the file's order. A key that comes twice or is no scalar is a problem and left
// out; a node that is no mapping is a problem. A null counts as an empty mapping.
func (n Node) Pairs() []Pair {
	if n.IsZero() || n.IsNull() {
		return nil
	}
	if !n.IsMap() {
		n.want("a mapping (key: value)")
		return nil
	}
	content := n.real().Content
	pairs := make([]Pair, 0, len(content)/2)
	seen := map[string]int{}
	for i := 0; i+1 < len(content); i += 2 {
		key := Node{doc: n.doc, y: content[i], key: n.key}
		if !key.IsScalar() {
			key.problem("A value that begins with ${ { or [ may need quotes.", "a key must be text, got %s", key.Kind())
			continue
		}
		if key.y.Tag == "!!merge" {
			continue // noted by Parse
		}
		name := key.real().Value
		if line, ok := seen[name]; ok {
			key.problem("", "the key %s comes twice: it is already in line %d", quote(name), line)
			continue
		}
		seen[name] = key.Line()
		pairs = append(pairs, Pair{Key: key, Value: Node{doc: n.doc, y: content[i+1], key: name}})
	}
	return pairs
}

// Items gives the items of a list. A node that is no list is a problem. A null counts as an empty list.
func (n Node) Items() []Node {
	if n.IsZero() || n.IsNull() {
		return nil
	}
	if !n.IsList() {
		n.want("a list (- item)")
		return nil
	}
	items := make([]Node, len(n.real().Content))
	for i, c := range n.real().Content {
		items[i] = Node{doc: n.doc, y: c, key: n.key}
	}
	return items
}
