package mapping

import (
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Trial is what a mapping makes of one change, with the reasons, for somebody who wants to know before anything is sent. Where it has neither records, nor Passed, nor
// Failed, the mapping is not for changes of that operation, or the change changes nothing for it.
type Trial struct {
	// Records are those that Map makes of the change, to the byte.
	Records []*connector.Record
	// Passed is why the change is passed over; nil where it is not.
	Passed *Passed
	// Failed is why the change would become a dead letter of class mapping, as the letter says it; "" where it would not.
	Failed string
	// Misfit says that Failed is why the mapping can't read the table as it is: it is the same for every row.
	Misfit bool
	// Unknown says that Failed is for want of old values, which the change does not have.
	Unknown bool
	// Assumed says that `when` reads old values which the change does not have: the rest was computed as if it were true.
	Assumed bool
	// Old are the columns that the mapping reads of the old row by old.x, where Unknown or Assumed says that they are missed.
	Old []string
}

// Passed is why a change is passed over.
type Passed struct {
	// Part is the first of the conditions that `when` joins by && which is false, as the file writes it.
	Part string
	// Values are the columns that the part reads, with their values.
	Values []Value
}

// Value is a column's value as PostgreSQL's text.
type Value struct {
	// Column is the name, with old. in front where the part reads the old row's.
	Column string
	Text   string
	Null   bool
}

// Trier maps changes one by one, as the set's Mapper does, and says why. It is not safe for concurrent use.
type Trier struct{ m *mapper }

// Trier gives a trier for the set's mappings, which must have been decoded without problems.
func (s *Set) Trier(o Options) *Trier { return &Trier{s.Mapper(o).(*mapper)} }

// Try maps a change by the named mapping.
func (t *Trier) Try(mapping string, c *connector.Change) Trial {
	m := t.m
	var out connector.Output
	m.Map(c, connector.Part{Only: mapping}, &out)
	bounds := m.shapes[c.Table].mappings // Map has compiled them
	i := slices.IndexFunc(bounds, func(b *bound) bool { return b.name == mapping })
	if i < 0 || !bounds[i].ops[c.Op] {
		return Trial{}
	}
	b := bounds[i]
	trial := Trial{Records: out.Records}
	for _, l := range out.Unrecorded() {
		trial.Failed = l.Reason
	}
	if b.err != nil {
		trial.Misfit = true
		return trial
	}
	m.row.set(c)
	if b.when != nil {
		wanted, err := b.when.condition(&m.row)
		switch {
		case lacksIdentity(err):
			// A part that is false decides, whatever the others would say.
			if trial.Passed = m.passed(b, true); trial.Passed != nil {
				trial.Failed = ""
				return trial
			}
			trial.assume(m, b, c)
			return trial
		case err == nil && !wanted:
			if trial.Passed = m.passed(b, false); trial.Passed == nil {
				trial.Passed = &Passed{Part: strings.TrimSpace(b.mapping.when.source), Values: b.mapping.when.values(&m.row)}
			}
			return trial
		}
	}
	if trial.Failed != "" {
		_, err := m.encode(b, nil)
		trial.missing(b, lacksIdentity(err))
	}
	return trial
}

func (t *Trial) missing(b *bound, unknown bool) {
	t.Unknown = unknown
	if !unknown && !t.Assumed {
		return
	}
	for _, c := range b.columns() {
		if c.old && !c.byBareName {
			t.Old = append(t.Old, c.name)
		}
	}
}

// Made lists the payload's fields that the connector makes of a change's position and commit time, since the mapping gives none: uuid and time of an event,
// relateBizCode of a point of the open API.
func (t *Trier) Made(mapping string) []string {
	for _, m := range t.m.set.mappings {
		switch {
		case m.name != mapping || m.kind == 0:
		case m.open:
			return []string{"relateBizCode"}
		case m.kind == connector.Event:
			return slices.DeleteFunc([]string{"time", "uuid"}, func(f string) bool { return m.payload.field(f) != nil })
		}
	}
	return nil
}

// assume maps the change as if `when` were true.
func (t *Trial) assume(m *mapper, b *bound, c *connector.Change) {
	t.Assumed, t.Failed = true, ""
	whenever := *b
	whenever.when = nil
	var out connector.Output
	m.row.set(c)
	err := m.apply(&whenever, &out)
	m.row.set(c)
	if err != nil {
		t.Failed = b.reason(err)
		out.Records = nil
	}
	t.Records = out.Records
	t.missing(b, lacksIdentity(err))
}

// passed finds the part of `when` that is false on the row; nil where none is. unknown: parts that can't be computed are passed over.
func (m *mapper) passed(b *bound, unknown bool) *Passed {
	for _, part := range b.mapping.when.conjuncts() {
		var ps strict.Problems
		p := part.compile(m.row.change.Table, m.row.zone, &ps)
		if p == nil {
			return nil
		}
		switch holds, err := p.condition(&m.row); {
		case err == nil && !holds:
			return &Passed{Part: strings.TrimSpace(part.source), Values: part.values(&m.row)}
		case err != nil && !unknown:
			return nil
		}
	}
	return nil
}

// conjuncts gives the expressions that e joins by &&, in their order: e alone where it joins none.
func (e *expression) conjuncts() []*expression {
	text := unwrapped(e.source)
	runes := []rune(text)
	inner := *e
	inner.source = text
	tree, m := inner.parse()
	if m != nil {
		return []*expression{e}
	}
	and, ok := tree.Node.(*ast.BinaryNode)
	if !ok || and.Operator != "&&" && and.Operator != "and" {
		return []*expression{e}
	}
	at := and.Location().From
	if at <= 0 || at+len(and.Operator) > len(runes) || string(runes[at:at+len(and.Operator)]) != and.Operator {
		return []*expression{e}
	}
	var parts []*expression
	for _, side := range []string{string(runes[:at]), string(runes[at+len(and.Operator):])} {
		var ps strict.Problems
		part := newExpression(e.node, 0, strings.TrimRight(side, " \t\n"), &ps)
		if part == nil {
			return []*expression{e}
		}
		parts = append(parts, part.conjuncts()...)
	}
	return parts
}

// unwrapped takes away the parentheses that stand around the whole of an expression.
func unwrapped(text string) string {
	for {
		text = strings.TrimSpace(text)
		if !strings.HasPrefix(text, "(") || closing(text) != len(text)-1 {
			return text
		}
		text = text[1 : len(text)-1]
	}
}

// closing gives the index of the parenthesis that closes the first one, -1 where there is none.
func closing(text string) int {
	depth, quoted := 0, byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted != 0:
			if c == '\\' && quoted != '`' {
				i++
			} else if c == quoted {
				quoted = 0
			}
		case c == '"' || c == '\'' || c == '`':
			quoted = c
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// values gives the columns that an expression reads, each once.
func (e *expression) values(r *row) []Value {
	var list []Value
	for _, rd := range e.reads {
		v := Value{Column: rd.name}
		if rd.side == oldSide {
			v.Column = "old." + rd.name
		}
		tuple, i := r.tuple(rd.side), r.change.Table.Column(rd.name)
		if tuple == nil || i < 0 || i >= len(tuple) || slices.ContainsFunc(list, func(x Value) bool { return x.Column == v.Column }) {
			continue
		}
		switch d := tuple[i]; d.Kind {
		case connector.Text:
			v.Text = string(d.Text)
		case connector.Null:
			v.Null = true
		default:
			continue
		}
		list = append(list, v)
	}
	return list
}
