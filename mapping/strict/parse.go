package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// document is what all nodes of one file share.
type document struct {
	file  string
	lines []string
	env   func(string) (string, bool)
	ps    *Problems
}

// maxNodes bounds a file with its aliases followed: a few lines of YAML can name billions of nodes.
const maxNodes = 200_000

// Parse reads one YAML document and gives its top node; where the syntax is wrong it notes why and gives the zero Node. An empty
// file is a null. env looks environment variables up, as os.LookupEnv does; nil: none is set.
//
// Aliases are followed, but not without end; merge keys, tags (but !!str) and a second document are problems.
func Parse(file string, data []byte, env func(string) (string, bool), ps *Problems) Node {
	if env == nil {
		env = func(string) (string, bool) { return "", false }
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	d := &document{file: file, env: env, ps: ps, lines: strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")}
	if !utf8.Valid(data) {
		for i, line := range d.lines {
			if !utf8.ValidString(line) {
				ps.AddHint(d.at(i+1, 1), "Save the file as UTF-8; editors on Windows may have written GBK or UTF-16.", "this line is not UTF-8")
				return Node{}
			}
		}
	}
	y, rest, err := decode(data)
	if err != nil {
		d.syntaxError(data, err)
		return Node{}
	}
	if y == nil {
		y = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: 1, Column: 1}
	}
	if rest != nil {
		ps.Add(d.at(rest.Line, rest.Column), "a second YAML document begins here; a file holds one: take this line --- out")
	}
	if d.checkTree(y, map[*yaml.Node]int{}, map[*yaml.Node]bool{}) > maxNodes {
		return Node{}
	}
	return Node{doc: d, y: y}
}

func (d *document) at(line, column int) Node {
	return Node{doc: d, line: line, column: column}
}

// decode gives the first document's content and the second's document node, each nil where there is none.
func decode(data []byte) (first, second *yaml.Node, err error) {
	return decodeFrom(bytes.NewReader(data))
}

func decodeFrom(r io.Reader) (first, second *yaml.Node, err error) {
	defer func() { // yaml.v3 panics on some inputs that it should refuse
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: this is no YAML: %v", p)
		}
	}()
	dec := yaml.NewDecoder(r)
	var doc, next yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil, nil
		}
		return nil, nil, err
	}
	switch err := dec.Decode(&next); {
	case err == nil:
		second = &next
	case !errors.Is(err, io.EOF):
		return nil, nil, err
	}
	if len(doc.Content) == 0 {
		return nil, second, nil
	}
	return doc.Content[0], second, nil
}

var linePrefix = regexp.MustCompile(`^line \d+: `)

// syntaxError notes where and why YAML could not be read. The parser's own line is often that of the block around the mistake, or
// one off, so look for the shortest beginning of the file that fails for the same reason.
func (d *document) syntaxError(data []byte, err error) {
	reason := func(err error) string {
		if err == nil {
			return ""
		}
		return linePrefix.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), "")
	}
	why := reason(err)
	r := &lineReader{data: data}
	_, _, _ = decodeFrom(r)
	line := max(r.lines, 1)
	for line > 1 {
		if _, _, err := decode(firstLines(data, line-1)); reason(err) != why {
			break
		}
		line--
	}
	text := ""
	if line <= len(d.lines) {
		text = d.lines[line-1]
	}
	column := 1 + len(text) - len(strings.TrimLeft(text, " \t"))
	hint := ""
	switch {
	case strings.Contains(text[:column-1], "\t"):
		column = 1 + strings.IndexByte(text, '\t')
		why, hint = "this line is indented with a tab", "YAML wants spaces."
	case strings.HasPrefix(why, "unknown anchor"):
		why = "an alias (*name) without its anchor (&name)" // the name may be half of a password
		hint = "A value that begins with * must stand in quotes."
	case strings.Contains(why, "cannot start any token"):
		why, hint = "a value can't begin with this character", "Put a value that begins with @, `, % or a tab in quotes."
	case strings.Contains(why, "mapping values are not allowed"):
		hint = "A value that holds \": \" must stand in quotes, and the keys of one mapping must be indented alike."
	case strings.Contains(why, "did not find expected ',' or"):
		hint = "A bracket is not closed; and inside { } or [ ] put a value that holds ${...} in quotes."
	case strings.Contains(why, "unexpected end of stream"):
		hint = "A quote is not closed."
	case strings.Contains(why, "unknown escape character"):
		hint = `In "..." a backslash begins an escape: double it, or use '...'.`
	case strings.Contains(why, "could not find expected ':'"):
		hint = "A key needs a colon and a space behind it."
	case strings.Contains(why, "did not find expected"):
		hint = "Indent the keys of one mapping, and the items of one list, alike."
	}
	d.ps.AddHint(d.at(line, column), hint, "not valid YAML: %s", why)
}

func firstLines(data []byte, n int) []byte {
	end := 0
	for range n {
		i := bytes.IndexByte(data[end:], '\n')
		if i < 0 {
			return data
		}
		end += i + 1
	}
	return data[:end]
}

// lineReader hands data out line by line and counts the lines that were asked for.
type lineReader struct {
	data  []byte
	lines int
}

func (r *lineReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := len(r.data)
	if i := bytes.IndexByte(r.data, '\n'); i >= 0 {
		n = i + 1
	}
	n = copy(p, r.data[:n])
	if r.data[n-1] == '\n' || n == len(r.data) {
		r.lines++
	}
	r.data = r.data[n:]
	return n, nil
}

// checkTree notes what this package does not take, and gives the number of nodes with aliases followed, or more than maxNodes where
// there is no end to them. sizes remembers what was counted; open are the nodes on the way down, by which an alias to its own
// surroundings is found.
func (d *document) checkTree(y *yaml.Node, sizes map[*yaml.Node]int, open map[*yaml.Node]bool) int {
	if size, ok := sizes[y]; ok {
		return size
	}
	open[y] = true
	defer delete(open, y)
	if y.Style&yaml.TaggedStyle != 0 && y.Tag != "!!str" && y.Tag != "!!map" && y.Tag != "!!seq" {
		d.ps.Add(d.at(y.Line, y.Column), "the YAML tag %s is not supported: write the value without it", quote(y.Tag))
	}
	size := 1
	if y.Kind == yaml.AliasNode {
		if open[y.Alias] {
			d.ps.Add(d.at(y.Line, y.Column), "this alias stands inside of what its anchor names: it has no end")
			return maxNodes + 1
		}
		size += d.checkTree(y.Alias, sizes, open)
	}
	for i, c := range y.Content {
		if y.Kind == yaml.MappingNode && i%2 == 0 && c.Tag == "!!merge" {
			d.ps.Add(d.at(c.Line, c.Column), "the merge key << is not supported: write the keys out")
		}
		below := d.checkTree(c, sizes, open)
		if size <= maxNodes && size+below > maxNodes && below <= maxNodes {
			d.ps.Add(d.at(c.Line, c.Column), "the file holds more than %d values, counting what its aliases repeat", maxNodes)
		}
		size = min(size+below, maxNodes+1)
	}
	sizes[y] = size
	return size
}
