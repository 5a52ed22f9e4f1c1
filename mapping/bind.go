package mapping

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// bound is a mapping compiled for one shape of its table.
type bound struct {
	*mapping
	when, orderBy *program
	payload       *objectPlan
	optValue      *source // nil: mapping.opt.byOp says
	tableName     string
	envelopes     map[string]string // of a group relation, by optType
	olds          []int             // indexes of the old columns that it reads, but for a comparison of groups
	changes       *atomic.Uint64    // that came and could be read are counted here; nil: nowhere
	// err says why the mapping can't read this shape; nothing else is set then.
	err   error
	unfit connector.Unfit // err, for an alarm
}

// binder compiles a mapping for a table's shape; what does not fit is noted in ps.
type binder struct {
	table   *connector.Table
	options *Options
	ps      *strict.Problems
	m       *mapping
}

// bind compiles m; problems go to ps, and the result is of use only where there are none.
func (m *mapping) bind(table *connector.Table, o *Options, ps *strict.Problems) *bound {
	b := &binder{table: table, options: o, ps: ps, m: m}
	c := &bound{mapping: m, tableName: table.String()}
	if m.when != nil {
		c.when = b.program(m.when)
		if p := c.when; p != nil && p.static != anyValue && p.static != boolValue {
			ps.Add(m.when.at(0), "when: want true or false, but the expression gives %s", p.static)
		}
	}
	if m.orderBy != nil {
		c.orderBy = b.program(m.orderBy)
		if p := c.orderBy; p != nil && (p.static == listValue || p.static == mapValue) {
			ps.Add(m.orderBy.at(0), "orderBy: want one value, but the expression gives %s", p.static)
		}
	}
	for _, u := range m.columns() {
		if i := table.Column(u.name); u.old && i >= 0 {
			c.olds = append(c.olds, i)
		}
	}
	c.payload = b.object(m.payload, m.payload.spec.fields)
	switch m.kind {
	case connector.Point:
		if m.open {
			c.payload.add(field{name: "relateBizCode"}, b.uuid(nil), m.payload.node)
		}
	case connector.Event:
		b.eventDefaults(c.payload)
	case connector.GroupRelation:
		c.envelopes = map[string]string{}
		for _, opt := range optTypes() {
			c.envelopes[opt] = strings.TrimSuffix(m.envelope, "}") + `,"optType":"` + opt + `"}`
		}
		if t := m.opt.value; t != nil {
			c.optValue = b.source(t)
		}
	}
	return c
}

// eventDefaults adds time and uuid where the mapping gives none.
func (b *binder) eventDefaults(o *objectPlan) {
	has := map[string]bool{}
	for _, f := range o.fields {
		has[f.name] = true
	}
	if !has["time"] {
		o.add(field{name: "time"}, &timePlan{}, b.m.payload.node)
	}
	if !has["uuid"] {
		o.add(field{name: "uuid"}, b.uuid(nil), b.m.payload.node)
	}
}

func (b *binder) uuid(mapped *textPlan) *uuidPlan {
	return &uuidPlan{mapped: mapped, prefix: uuidPrefix(b.options.SystemID, b.options.Database, b.m.name)}
}

func (b *binder) program(e *expression) *program { return e.compile(b.table, b.options.zone(), b.ps) }

func (o *objectPlan) add(f field, value encoder, node strict.Node) {
	key := append(appendQuoted([]byte{','}, []byte(f.name)), ':')
	if constant, ok := value.(literalPlan); ok && !f.customer {
		key, value = append(key, constant...), nil
	}
	o.fields = append(o.fields, entry{name: f.name, first: key[1:], next: key, value: value, required: f.required, customer: f.customer,
		needs: -1, node: node})
}

// object makes the plan of an object; spec is nil where its keys are free.
func (b *binder) object(t *template, spec []field) *objectPlan {
	o := &objectPlan{customers: customerNames(spec)}
	for _, f := range t.fields {
		if v := b.encoder(f); v != nil {
			o.add(f.spec, v, f.node)
		}
	}
	for i := range o.fields {
		for j, f := range t.fields {
			if f.spec.name != o.fields[i].name || f.spec.needs == "" {
				continue
			}
			for k := range o.fields {
				if o.fields[k].name == t.fields[j].spec.needs && k < 64 {
					o.fields[i].needs = k
				}
			}
		}
	}
	return o
}

// source makes the source of a scalar; nil where a problem was noted.
func (b *binder) source(t *template) *source {
	switch t.form {
	case constantForm:
		return &source{constant: append([]byte{}, t.constant...)}
	case mixedForm:
		s := &source{mixed: []*source{}}
		for _, part := range t.parts {
			p := b.source(part)
			if p == nil {
				return nil
			}
			s.mixed = append(s.mixed, p)
		}
		return s
	}
	p := b.program(t.expr)
	if p == nil {
		return nil
	}
	if hint, ok := fits(t.spec, p.static); !ok {
		b.ps.AddHint(t.expr.at(0), hint, "%s: want %s, but the expression gives %s", t.spec.name, t.spec.typ, p.static)
		return nil
	}
	if p.plain != nil {
		return &source{column: p.plain}
	}
	return &source{program: p}
}

// encoder makes the plan of a value; nil where a problem was noted.
func (b *binder) encoder(t *template) encoder {
	switch {
	case t.spec.typ == listField:
		l := &listPlan{}
		for _, item := range t.items {
			l.items = append(l.items, b.object(item, t.spec.fields))
		}
		return l
	case t.spec.typ == jsonStringField && t.form == objectForm:
		return &jsonTextPlan{b.object(t, nil)}
	case t.spec.typ == jsonStringField && t.form == listForm:
		return &jsonTextPlan{b.list(t)}
	case t.form == objectForm:
		return b.object(t, nil)
	case t.spec.typ == groupsField:
		return b.groups(t)
	case t.form == listForm:
		return b.list(t)
	case t.form == constantForm && !t.spec.customer && t.spec.typ != pointField:
		return literalPlan(t.json(nil))
	}
	s := b.source(t)
	if s == nil {
		return nil
	}
	switch t.spec.typ {
	case intField:
		return &intPlan{source: *s, customer: t.spec.customer}
	case pointField:
		return &pointPlan{source: *s, decrease: b.options.PointDecrease}
	case boolField:
		return &boolPlan{*s}
	case timeField:
		return &timePlan{s}
	case argField:
		return &argPlan{*s}
	case jsonField:
		return &jsonPlan{*s}
	case jsonStringField:
		return &jsonObjectPlan{*s}
	}
	text := &textPlan{source: *s, spec: &t.spec, compared: b.m.kind == connector.GroupRelation}
	if t.spec.typ == uuidField {
		return b.uuid(text)
	}
	return text
}

func (b *binder) list(t *template) encoder {
	l := &listPlan{empty: []byte("[]")}
	for _, item := range t.items {
		if v := b.encoder(item); v != nil {
			l.items = append(l.items, v)
		}
	}
	return l
}

func (b *binder) groups(t *template) encoder {
	g := &groupsPlan{}
	items := t.items
	if t.form != listForm {
		items = []*template{t}
	}
	for _, item := range items {
		if s := b.source(item); s != nil {
			g.sources = append(g.sources, *s)
		}
	}
	return g
}

// zone is the time zone of timestamps without one.
func (o *Options) zone() *time.Location {
	if o.TimeZone == nil {
		return time.UTC
	}
	return o.TimeZone
}
