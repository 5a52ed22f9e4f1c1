package platformsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a body; the contract's deepest has five levels.
const maxDepth = 64

// node is one JSON value of a doc.
type node struct {
	kind byte // its first letter, with '0' for every number: { [ " 0 t f n
	// escaped says that a string has escapes.
	escaped    bool
	start, end int32  // where it stands in the body, quotes included
	key        []byte // of a member of an object, unescaped
	child      int32  // first member or element; 0: none
	next       int32  // next sibling; 0: none
	n          int32  // members or elements
}

// doc is a parsed body. It is parsed here and not by encoding/json, which takes duplicate keys, broken UTF-8 and lone surrogates, and is too
// slow to stand beside a connector that sends 250,000 events a second. Not safe for concurrent use.
type doc struct {
	body  []byte
	nodes []node // the first one is the root
}

// refusal is why a request is refused. It may quote what was sent, as the platform's msg may.
type refusal struct{ path, what string }

func (r *refusal) Error() string {
	if r.path == "" {
		return r.what
	}
	return r.path + ": " + r.what
}

// in puts a step in front of the path.
func (r *refusal) in(step string) *refusal {
	switch {
	case r.path == "":
		r.path = step
	case r.path[0] == '[':
		r.path = step + r.path
	default:
		r.path = step + "." + r.path
	}
	return r
}

func refuse(format string, args ...any) *refusal { return &refusal{what: fmt.Sprintf(format, args...)} }

// parse reads one JSON value that fills the body. The doc may be used again and again; its nodes point into body.
func (d *doc) parse(body []byte) *refusal {
	d.body, d.nodes = body, d.nodes[:0]
	if !utf8.Valid(body) {
		return refuse("the body is no UTF-8")
	}
	at := d.space(0)
	if at == len(body) {
		return refuse("the body is empty")
	}
	_, at, bad := d.value(at, 0)
	if bad != nil {
		return bad
	}
	if at = d.space(at); at < len(body) {
		return d.broken(at, "more bytes after the JSON value")
	}
	return nil
}

func (d *doc) broken(at int, what string) *refusal {
	return refuse("the body is no JSON: %s at byte %d", what, at)
}

func (d *doc) space(at int) int {
	for at < len(d.body) {
		switch d.body[at] {
		case ' ', '\n', '\r', '\t':
			at++
		default:
			return at
		}
	}
	return at
}

// value reads the value that begins at at, and gives its node and where it ends.
func (d *doc) value(at, depth int) (int32, int, *refusal) {
	if at >= len(d.body) {
		return 0, at, d.broken(at, "it ends too early")
	}
	if depth > maxDepth {
		return 0, at, d.broken(at, "nested too deep")
	}
	id := int32(len(d.nodes))
	c := d.body[at]
	d.nodes = append(d.nodes, node{kind: c, start: int32(at)})
	end := at
	var bad *refusal
	switch {
	case c == '{' || c == '[':
		end, bad = d.members(id, at, depth)
	case c == '"':
		var escaped bool
		end, escaped, bad = d.text(at)
		d.nodes[id].escaped = escaped
	case c == '-' || c >= '0' && c <= '9':
		d.nodes[id].kind = '0'
		end, bad = d.number(at)
	default:
		for _, word := range [...]string{"true", "false", "null"} {
			if c == word[0] && bytes.HasPrefix(d.body[at:], []byte(word)) {
				end = at + len(word)
			}
		}
		if end == at {
			bad = d.broken(at, "no value")
		}
	}
	d.nodes[id].end = int32(end)
	return id, end, bad
}

// members reads the rest of the object or array id.
func (d *doc) members(id int32, at, depth int) (int, *refusal) {
	object := d.body[at] == '{'
	closing := d.body[at] + 2 // ] and } stand two after [ and { in ASCII
	at = d.space(at + 1)
	if at < len(d.body) && d.body[at] == closing {
		return at + 1, nil
	}
	var last int32
	for {
		var key []byte
		if object {
			var bad *refusal
			if key, at, bad = d.key(at); bad != nil {
				return at, bad
			}
		}
		member, end, bad := d.value(at, depth+1)
		if bad != nil {
			return end, bad
		}
		d.nodes[member].key = key
		if last == 0 {
			d.nodes[id].child = member
		} else {
			d.nodes[last].next = member
		}
		last = member
		d.nodes[id].n++
		at = d.space(end)
		switch {
		case at < len(d.body) && d.body[at] == ',':
			at = d.space(at + 1)
		case at < len(d.body) && d.body[at] == closing:
			if object {
				return at + 1, d.twins(id)
			}
			return at + 1, nil
		default:
			return at, d.broken(at, "a comma or a closing bracket is missing")
		}
	}
}

// key reads an object's key and the colon, and gives where the value begins.
func (d *doc) key(at int) ([]byte, int, *refusal) {
	if at >= len(d.body) || d.body[at] != '"' {
		return nil, at, d.broken(at, "a key is missing")
	}
	end, escaped, bad := d.text(at)
	if bad != nil {
		return nil, end, bad
	}
	key := d.body[at+1 : end-1]
	if escaped {
		key = []byte(unescape(d.body[at:end]))
	}
	if end = d.space(end); end >= len(d.body) || d.body[end] != ':' {
		return nil, end, d.broken(end, "a colon is missing")
	}
	return key, d.space(end + 1), nil
}

// twins refuses an object that has a key twice.
func (d *doc) twins(id int32) *refusal {
	if d.nodes[id].n > 32 {
		seen := make(map[string]bool, d.nodes[id].n)
		for m := d.nodes[id].child; m != 0; m = d.nodes[m].next {
			key := d.nodes[m].key
			if seen[string(key)] {
				return refuse("the key %s stands twice in one object", quote(key))
			}
			seen[string(key)] = true
		}
		return nil
	}
	for m := d.nodes[id].child; m != 0; m = d.nodes[m].next {
		for o := d.nodes[m].next; o != 0; o = d.nodes[o].next {
			if bytes.Equal(d.nodes[m].key, d.nodes[o].key) {
				return refuse("the key %s stands twice in one object", quote(d.nodes[m].key))
			}
		}
	}
	return nil
}

// text reads a string and gives where it ends, behind the closing quote.
func (d *doc) text(at int) (end int, escaped bool, bad *refusal) {
	for i := at + 1; i < len(d.body); i++ {
		switch c := d.body[i]; {
		case c == '"':
			return i + 1, escaped, nil
		case c < ' ':
			return i, escaped, d.broken(i, "a control character in a string")
		case c == '\\':
			escaped = true
			n := d.escape(i)
			if n == 0 {
				return i, escaped, d.broken(i, "a wrong escape")
			}
			i += n - 1
		}
	}
	return len(d.body), escaped, d.broken(at, "a string without end")
}

// escape gives the length of the escape at at; 0: it is wrong. A surrogate without its other half is.
func (d *doc) escape(at int) int {
	if at+1 >= len(d.body) {
		return 0
	}
	switch d.body[at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		switch r := d.unit(at); {
		case r < 0 || r >= 0xDC00 && r <= 0xDFFF:
			return 0
		case r >= 0xD800 && r <= 0xDBFF:
			if low := d.unit(at + 6); low < 0xDC00 || low > 0xDFFF {
				return 0
			}
			return 12
		}
		return 6
	}
	return 0
}

// unit reads \uXXXX; -1: there is none.
func (d *doc) unit(at int) int {
	if at+6 > len(d.body) || d.body[at] != '\\' || d.body[at+1] != 'u' {
		return -1
	}
	r := 0
	for _, c := range d.body[at+2 : at+6] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | int(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | int(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return r
}

// number reads a number by JSON's grammar.
func (d *doc) number(at int) (int, *refusal) {
	digits := func() bool {
		first := at
		for at < len(d.body) && d.body[at] >= '0' && d.body[at] <= '9' {
			at++
		}
		return at > first
	}
	if d.body[at] == '-' {
		at++
	}
	if at < len(d.body) && d.body[at] == '0' {
		at++
	} else if !digits() {
		return at, d.broken(at, "a wrong number")
	}
	if at < len(d.body) && d.body[at] == '.' {
		if at++; !digits() {
			return at, d.broken(at, "a wrong number")
		}
	}
	if at < len(d.body) && d.body[at]|0x20 == 'e' {
		if at++; at < len(d.body) && (d.body[at] == '+' || d.body[at] == '-') {
			at++
		}
		if !digits() {
			return at, d.broken(at, "a wrong number")
		}
	}
	return at, nil
}

// raw gives a value as it stands in the body.
func (d *doc) raw(id int32) []byte {
	return d.body[d.nodes[id].start:d.nodes[id].end:d.nodes[id].end]
}

// bytes gives a string's text; without escapes it points into the body.
func (d *doc) bytes(id int32) []byte {
	raw := d.raw(id)
	if d.nodes[id].escaped {
		return []byte(unescape(raw))
	}
	return raw[1 : len(raw)-1]
}

// string gives a string's text; empty for the absent value 0.
func (d *doc) string(id int32) string {
	if id == 0 {
		return ""
	}
	return string(d.bytes(id))
}

// filled reports whether a string is there and not empty.
func (d *doc) filled(id int32) bool { return id != 0 && d.nodes[id].end-d.nodes[id].start > 2 }

// integer gives a number that is written as an integer of so many bits.
func (d *doc) integer(id int32, bits int) (int64, bool) {
	n, err := strconv.ParseInt(string(d.raw(id)), 10, bits)
	return n, err == nil
}

// unescape reads a string whose escapes were checked.
func unescape(raw []byte) (s string) {
	_ = json.Unmarshal(raw, &s) // it can't fail
	return s
}

// quote quotes what was sent, cut short.
func quote(b []byte) string {
	const most = 80
	if len(b) > most {
		n := most
		for !utf8.RuneStart(b[n]) {
			n--
		}
		return strconv.Quote(string(b[:n]) + "…")
	}
	return strconv.Quote(string(b))
}
