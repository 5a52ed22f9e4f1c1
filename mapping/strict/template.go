package strict

import (
	"regexp"
	"strings"
)

const exprOpen = "${{"

// Part is a piece of a scalar: literal text, or an expression that stood in ${{ }}.
type Part struct {
	// Text is the literal text, variables put in; or the expression as written between the braces, variables left alone.
	Text string
	// Expr says that the part is an expression.
	Expr bool
	// Offset is where Text begins in Node.Raw, in bytes, for Sub; End is where the part ends there, its }} included.
	Offset, End int
}

var variable = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}`)

// Template splits a scalar into literal text, with environment variables put in, and expressions. Neighbouring literals are joined, and
// an empty scalar gives no part. What a variable holds is always literal text, ${{ too. It is false where the node is not there, and
// where a problem was noted.
//
// A variable is ${NAME} or ${NAME:-default}; as in a shell the default also stands in for a variable that is set to "". A default ends at the
// first } and is literal.
func (n Node) Template() ([]Part, bool) {
	if n.IsZero() {
		return nil, false
	}
	if !n.IsScalar() || n.IsNull() {
		return nil, n.want("text")
	}
	raw := n.Raw()
	var parts []Part
	literal := func(text string, from, to int) {
		if len(parts) > 0 && !parts[len(parts)-1].Expr {
			last := &parts[len(parts)-1]
			last.Text, last.End = last.Text+text, to
			return
		}
		parts = append(parts, Part{Text: text, Offset: from, End: to})
	}
	ok := true
	for at := 0; at < len(raw); {
		next := strings.Index(raw[at:], "${")
		if next < 0 {
			literal(raw[at:], at, len(raw))
			break
		}
		if next > 0 {
			literal(raw[at:at+next], at, at+next)
		}
		at += next
		rest := raw[at:]
		if strings.HasPrefix(rest, exprOpen) {
			end := expressionEnd(rest)
			if end < 0 {
				n.Sub(at).problem(n.CutShort(), "%sthe expression that ${{ begins has no }}", n.prefix())
				return nil, false
			}
			parts = append(parts, Part{Text: rest[len(exprOpen) : end-2], Expr: true, Offset: at + len(exprOpen), End: at + end})
			at += end
			continue
		}
		m := variable.FindStringSubmatch(rest)
		if m == nil {
			n.Sub(at).problem("", "%s${ begins neither a variable, ${NAME} or ${NAME:-default}, nor an expression, ${{ }}", n.prefix())
			ok = false
			literal("${", at, at+2)
			at += 2
			continue
		}
		value, set := n.doc.env(m[1])
		if value == "" && strings.Contains(m[0], ":-") {
			value, set = m[2], true
		}
		if !set {
			n.Sub(at).problem("Set it, or give a default: ${"+m[1]+":-default}.", "%sthe environment variable %s is not set", n.prefix(), m[1])
			ok = false
		}
		literal(value, at, at+len(m[0]))
		at += len(m[0])
	}
	return parts, ok
}

// expressionEnd gives the index behind the }} that closes the ${{ with which s begins, or -1. Braces inside of strings, and those of
// maps in the expression, don't count.
func expressionEnd(s string) int {
	depth := 0
	for i := len(exprOpen); i < len(s); i++ {
		switch c := s[i]; c {
		case '"', '\'', '`':
			for i++; i < len(s) && s[i] != c; i++ {
				if s[i] == '\\' && c != '`' {
					i++
				}
			}
		case '{':
			depth++
		case '}':
			if depth > 0 {
				depth--
			} else if i+1 < len(s) && s[i+1] == '}' {
				return i + 2
			}
		}
	}
	return -1
}
