package platformsim

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kind is what a field may hold.
type kind uint8

const (
	aString  kind = iota
	anInt         // 32 bits, written as an integer
	aLong         // 64 bits, written as an integer
	aMilli        // a long that looks like unix milliseconds
	aBool         // true or false, no string
	anArray       // its elements are the caller's
	anObject      // its members are the caller's
	extText       // a string that holds a JSON object
)

// Unix milliseconds lie between; seconds of today lie below, microseconds above.
const (
	leastMilli = 100_000_000_000
	mostMilli  = 100_000_000_000_000
)

// field is one line of the contract's tables.
type field struct {
	name string
	kind kind
	// required: it must be there; a required string must not be empty.
	required bool
	// filled: a string that is there must not be empty.
	filled bool
	// oneOf lists the strings or integers that are allowed; nil: any.
	oneOf []string
	// maxChars bounds a string; 0: it doesn't.
	maxChars int
	// banned says why a field that exists must not be sent.
	banned string
}

// table is one of the contract's tables. The values found are given by the field's index in it.
type table []field

// fields checks the object id against t. found gets the node of each field, 0 where it is not there.
func (d *doc) fields(id int32, t table, found []int32) *refusal {
	clear(found)
	if d.nodes[id].kind != '{' {
		return d.wrong(id, "an object")
	}
	for m := d.nodes[id].child; m != 0; m = d.nodes[m].next {
		i := t.index(d.nodes[m].key)
		if i < 0 {
			return refuse("the field is unknown").in(fieldName(d.nodes[m].key))
		}
		if bad := d.check(m, &t[i]); bad != nil {
			return bad.in(t[i].name)
		}
		found[i] = m
	}
	for i := range t {
		if t[i].required && found[i] == 0 {
			return refuse("is required").in(t[i].name)
		}
	}
	return nil
}

func (t table) index(key []byte) int {
	for i := range t {
		if string(key) == t[i].name {
			return i
		}
	}
	return -1
}

// fieldName makes a key fit for a path.
func fieldName(key []byte) string {
	if bytes.ContainsAny(key, ".[] \"") || len(key) == 0 || len(key) > 40 {
		return quote(key)
	}
	return string(key)
}

// check checks one value.
func (d *doc) check(id int32, f *field) *refusal {
	if f.banned != "" {
		return refuse("%s", f.banned)
	}
	got := d.nodes[id].kind
	switch f.kind {
	case aString:
		if got != '"' {
			return d.wrong(id, "a string")
		}
		return d.checkString(id, f)
	case anInt, aLong, aMilli:
		return d.checkInteger(id, f)
	case aBool:
		if got != 't' && got != 'f' {
			return d.wrong(id, "true or false")
		}
	case anArray:
		if got != '[' {
			return d.wrong(id, "an array")
		}
	case anObject:
		if got != '{' {
			return d.wrong(id, "an object")
		}
	case extText:
		if got != '"' {
			return d.wrong(id, "a string that holds a JSON object")
		}
		return checkExt(d.bytes(id))
	}
	return nil
}

func (d *doc) checkString(id int32, f *field) *refusal {
	if d.nodes[id].end-d.nodes[id].start == 2 { // ""
		if f.required || f.filled {
			return refuse("must not be empty")
		}
		if f.oneOf == nil {
			return nil
		}
	}
	if f.oneOf == nil && f.maxChars == 0 {
		return nil
	}
	text := d.bytes(id)
	if f.oneOf != nil && !slices.ContainsFunc(f.oneOf, func(s string) bool { return s == string(text) }) {
		return refuse("must be one of %s, is %s", strings.Join(f.oneOf, ", "), quote(text))
	}
	if n := utf8.RuneCount(text); f.maxChars > 0 && n > f.maxChars {
		return refuse("has %d characters, at most %d are allowed", n, f.maxChars)
	}
	return nil
}

func (d *doc) checkInteger(id int32, f *field) *refusal {
	bits, want := 64, "a long (an integer of 64 bits)"
	if f.kind == anInt {
		bits, want = 32, "an int (an integer of 32 bits)"
	}
	if d.nodes[id].kind != '0' {
		return d.wrong(id, want)
	}
	n, ok := d.integer(id, bits)
	switch {
	case !ok:
		return d.wrong(id, want)
	case f.kind == aMilli && n < leastMilli:
		return refuse("must be unix milliseconds; %d looks like seconds", n)
	case f.kind == aMilli && n >= mostMilli:
		return refuse("must be unix milliseconds; %d is too large", n)
	case f.oneOf != nil && !slices.Contains(f.oneOf, strconv.FormatInt(n, 10)):
		return refuse("must be one of %s, is %d", strings.Join(f.oneOf, ", "), n)
	}
	return nil
}

// wrong refuses a value of a wrong type.
func (d *doc) wrong(id int32, want string) *refusal {
	raw := d.raw(id)
	switch d.nodes[id].kind {
	case '{':
		return refuse("must be %s, is an object", want)
	case '[':
		return refuse("must be %s, is an array", want)
	case '"':
		return refuse("must be %s, is the string %s", want, quote(raw[1:len(raw)-1]))
	}
	return refuse("must be %s, is %s", want, raw)
}

// each calls do with the elements of the array id; a refusal gets the index in its path.
func (d *doc) each(id int32, do func(int32) *refusal) *refusal {
	if id == 0 {
		return nil
	}
	i := 0
	for m := d.nodes[id].child; m != 0; m = d.nodes[m].next {
		if bad := do(m); bad != nil {
			return bad.in(fmt.Sprintf("[%d]", i))
		}
		i++
	}
	return nil
}

// extKeys are the keys that the string ext may hold; of what type the values are, the page does not say.
var extKeys = []string{"componentId", "strategyId", "strategyName", "actionVo", "action"}

// checkExt checks the JSON object in the string ext.
func checkExt(text []byte) *refusal {
	var d doc
	if bad := d.parse(text); bad != nil {
		return refuse("must hold a JSON object; %s", strings.Replace(bad.Error(), "the body", "it", 1))
	}
	if d.nodes[0].kind != '{' {
		return refuse("must hold a JSON object, holds %s", quote(text))
	}
	for m := d.nodes[0].child; m != 0; m = d.nodes[m].next {
		switch {
		case !slices.Contains(extKeys, string(d.nodes[m].key)):
			return refuse("the field is unknown").in(fieldName(d.nodes[m].key))
		case d.nodes[m].kind == 'n':
			return refuse("must not be null").in(string(d.nodes[m].key))
		}
	}
	return nil
}
