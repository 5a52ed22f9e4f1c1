package strict

import (
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Sub gives the same node, placed at a byte offset into its Raw text: for a problem in the middle of a scalar. Where quotes, escapes and folded
// lines can't be followed, it stays at the scalar's beginning.
func (n Node) Sub(offset int) Node {
	y := n.real()
	if y == nil || y.Kind != yaml.ScalarNode || offset < 0 || offset > len(y.Value) {
		return n
	}
	s := source{lines: n.doc.lines}
	if s.start(y.Line, y.Column) {
		s.skipProperties()
		if s.find(y, offset) {
			n.line, n.column = s.line, s.column
		}
	}
	return n
}

// source walks over the characters of a file; line and column count from 1, and rest is what is left of the line.
type source struct {
	lines        []string
	line, column int
	rest         string
}

// start puts s at a line and column.
func (s *source) start(line, column int) bool {
	if line < 1 || line > len(s.lines) {
		return false
	}
	s.line, s.column, s.rest = line, 1, s.lines[line-1]
	s.skip(column - 1)
	return true
}

// skip steps over characters of the line.
func (s *source) skip(characters int) {
	s.column += characters
	for range characters {
		_, size := utf8.DecodeRuneInString(s.rest)
		s.rest = s.rest[size:]
	}
}

func (s *source) skipBlanks() {
	s.skip(len(s.rest) - len(strings.TrimLeft(s.rest, " \t")))
}

// skipProperties steps over an anchor and a tag.
func (s *source) skipProperties() {
	for {
		rest := s.rest
		if rest == "" || (rest[0] != '&' && rest[0] != '!') {
			return
		}
		word := rest
		if i := strings.IndexAny(rest, " \t"); i >= 0 {
			word = rest[:i]
		}
		s.skip(utf8.RuneCountInString(word))
		s.skipBlanks()
	}
}

// find moves to where the byte at offset of the node's value stands.
func (s *source) find(y *yaml.Node, offset int) bool {
	switch {
	case y.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return s.findInBlock(y.Value, offset, y.Style&yaml.FoldedStyle != 0)
	case y.Style&yaml.DoubleQuotedStyle != 0:
		s.skip(1)
		return s.findInFlow(y.Value, offset, '"')
	case y.Style&yaml.SingleQuotedStyle != 0:
		s.skip(1)
		return s.findInFlow(y.Value, offset, '\'')
	}
	return s.findInFlow(y.Value, offset, 0)
}

// findInBlock is for | and >: the text begins on the next line, indented as its first line that is not empty.
func (s *source) findInBlock(value string, offset int, folded bool) bool {
	indent := -1
	for i := s.line; i < len(s.lines) && indent < 0; i++ {
		if text := s.lines[i]; strings.TrimSpace(text) != "" {
			indent = len(text) - len(strings.TrimLeft(text, " "))
			if strings.HasPrefix(value, " ") && !folded { // an explicit indent: the text's own blanks come after it
				indent -= len(value) - len(strings.TrimLeft(value, " "))
			}
		}
	}
	if indent < 0 || !s.start(s.line+1, indent+1) {
		return false
	}
	for i := 0; i < len(value); {
		for s.rest == "" && value[i] != '\n' { // folded: this line's end became a blank, or empty lines were eaten
			if !folded || !s.start(s.line+1, indent+1) {
				return false
			}
		}
		if i >= offset {
			return true
		}
		want, size := utf8.DecodeRuneInString(value[i:])
		got, _ := utf8.DecodeRuneInString(s.rest)
		switch {
		case s.rest != "" && got == want:
			s.skip(1)
		case s.rest == "" && want == '\n':
			if !s.start(s.line+1, indent+1) {
				return false
			}
		default:
			return false
		}
		i += size
		if folded && s.rest == "" && i < len(value) && value[i] == ' ' {
			if i >= offset {
				return true
			}
			i++
			if !s.start(s.line+1, indent+1) {
				return false
			}
		}
	}
	return true
}

// findInFlow is for plain (quote 0) and quoted scalars: line ends with the blanks around them became one blank or line feeds.
func (s *source) findInFlow(value string, offset int, quote byte) bool {
	for i := 0; i < len(value); {
		rest := s.rest
		if strings.TrimLeft(rest, " \t") == "" { // folded
			for strings.TrimLeft(s.rest, " \t") == "" {
				if !s.start(s.line+1, 1) {
					return false
				}
			}
			s.skipBlanks()
			at := i
			for i < len(value) && value[i] == '\n' {
				i++
			}
			if at == i {
				if value[i] != ' ' {
					return false
				}
				i++
			}
			if offset < i || offset == i && i == len(value) {
				return true
			}
			continue
		}
		if i >= offset {
			return true
		}
		want, size := utf8.DecodeRuneInString(value[i:])
		got, _ := utf8.DecodeRuneInString(rest)
		width := 1
		switch {
		case quote == '"' && got == '\\':
			if width = escapeWidth(rest); width == 0 {
				return false
			}
		case quote == '\'' && got == '\'':
			if width = 2; want != '\'' {
				return false
			}
		case got != want:
			return false
		}
		s.skip(width)
		i += size
	}
	return true
}

// escapeWidth is the number of characters of the escape that s begins with; 0 for one that goes over the line's end.
func escapeWidth(s string) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case 'x':
		return 4
	case 'u':
		return 6
	case 'U':
		return 10
	}
	return 2
}
