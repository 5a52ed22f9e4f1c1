package mapping

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Origin is where a mapping stands in the files.
type Origin struct {
	Mapping string
	File    string
	Line    int
}

// Use is what the mappings want of one table.
type Use struct {
	Schema, Name string
	// Which operations some mapping is for.
	Insert, Update, Delete, Snapshot bool
	// New and Old are the columns that are read of the new and of the old row, sorted. A column that get() reads may be missing in
	// the table.
	New, Old []string
	// Mappings are the mappings of the table, in the order of the files.
	Mappings []Origin
}

// Uses gives what the mappings want, one Use a table, sorted by schema and name.
func (s *Set) Uses() []Use {
	var uses []Use
	for _, m := range s.mappings {
		if m.kind == 0 {
			continue
		}
		i := slices.IndexFunc(uses, func(u Use) bool { return u.Schema == m.schema && u.Name == m.table })
		if i < 0 {
			i = len(uses)
			uses = append(uses, Use{Schema: m.schema, Name: m.table})
		}
		u := &uses[i]
		u.Insert = u.Insert || m.ops[connector.Insert]
		u.Update = u.Update || m.ops[connector.Update]
		u.Delete = u.Delete || m.ops[connector.Delete]
		u.Snapshot = u.Snapshot || m.ops[connector.Snapshot]
		u.Mappings = append(u.Mappings, Origin{m.name, m.node.File(), m.node.Line()})
		for _, c := range m.columns() {
			if c.new {
				u.New = append(u.New, c.name)
			}
			if c.old || c.compared {
				u.Old = append(u.Old, c.name)
			}
		}
	}
	for i := range uses {
		slices.Sort(uses[i].New)
		slices.Sort(uses[i].Old)
		uses[i].New, uses[i].Old = slices.Compact(uses[i].New), slices.Compact(uses[i].Old)
	}
	slices.SortFunc(uses, func(a, b Use) int {
		return strings.Compare(a.Schema+"\x00"+a.Name, b.Schema+"\x00"+b.Name)
	})
	return uses
}

// usedColumn is a column that a mapping reads.
type usedColumn struct {
	name     string
	at       strict.Node // where it is read first
	new, old bool
	// compared: the old value is looked at where it is known, and done without where not (a group relation's update).
	compared bool
	// byBareName: it is an old column only because bare names are the old row's on delete.
	byBareName bool
	// hard: not only by get, so that the table must have it.
	hard bool
}

// columns lists what a mapping reads, in the order of the file. A bare column is the old row's on delete.
func (m *mapping) columns() []usedColumn {
	var list []usedColumn
	compares := m.ops[connector.Update] && m.opt.compare && m.kind == connector.GroupRelation
	take := func(e *expression, compared bool) {
		for _, rd := range e.reads {
			c := usedColumn{name: rd.name, at: e.at(rd.at)}
			current := m.ops[connector.Insert] || m.ops[connector.Update] || m.ops[connector.Snapshot]
			switch rd.side {
			case newSide:
				c.new = current
			case oldSide:
				c.old = m.ops[connector.Update] || m.ops[connector.Delete]
			default:
				c.new, c.old, c.byBareName = current, m.ops[connector.Delete], true
			}
			c.hard = !rd.soft
			c.compared = compared && compares && rd.side != oldSide
			i := slices.IndexFunc(list, func(x usedColumn) bool { return x.name == c.name })
			if i < 0 {
				list = append(list, c)
				continue
			}
			list[i].new, list[i].compared, list[i].hard = list[i].new || c.new, list[i].compared || c.compared, list[i].hard || c.hard
			if c.old && !list[i].old {
				list[i].old, list[i].at, list[i].byBareName = true, c.at, c.byBareName
			}
		}
	}
	if m.when != nil {
		take(m.when, true)
	}
	if m.orderBy != nil {
		take(m.orderBy, true)
	}
	m.payload.expressions(func(e *expression) { take(e, true) })
	if m.opt.value != nil {
		m.opt.value.expressions(func(e *expression) { take(e, false) })
	}
	return list
}

// Findings are what Check found.
type Findings struct {
	// Warnings are worth a look: it works, but perhaps not as meant.
	Warnings strict.Problems

	errors  strict.Problems
	lacks   []lack
	mapping string // where they are of one
	cure    string // of its errors
}

// lack is what the replica identity of a table keeps from a mapping. One statement mends all of a table's, so Errors tells of them together.
type lack struct {
	table   *connector.Table
	mapping string
	at      strict.Node
	// column is the old row's; empty where the table has no replica identity at all.
	column     string
	byBareName bool
}

// Errors gives what keeps a mapping from working.
func (f *Findings) Errors() *strict.Problems {
	all := &strict.Problems{}
	all.Take(&f.errors)
	for i, l := range f.lacks {
		same := func(o lack) bool { return o.table == l.table && (o.column == "") == (l.column == "") }
		if slices.IndexFunc(f.lacks, same) < i {
			continue // told with the first one
		}
		list := slices.Clone(f.lacks)
		list = slices.DeleteFunc(list, func(o lack) bool { return !same(o) })
		slices.SortStableFunc(list, func(a, b lack) int {
			return cmp.Or(strings.Compare(a.at.File(), b.at.File()), cmp.Compare(a.at.Line(), b.at.Line()), cmp.Compare(a.at.Column(), b.at.Column()))
		})
		if l.column == "" {
			all.AddHint(list[0].at, identityCure(l.table)+" -- or add a primary key",
				"%s: table %s has no replica identity: PostgreSQL refuses the application's UPDATE and DELETE of it wherever they are published", whose(list), l.table)
		} else {
			all.AddHint(list[0].at, identityCure(l.table), "%s", unknownOld(list))
		}
	}
	return all
}

// Unfit says of the findings of one mapping why it can't read its table.
func (f *Findings) Unfit() connector.Unfit {
	switch {
	case f.errors.Len() > 0:
		list := f.errors.All()
		for i := range list {
			list[i].Text = strings.TrimPrefix(list[i].Text, "mapping "+f.mapping+": ")
		}
		return connector.Unfit{Why: oneLine(list), Cure: f.cure}
	case len(f.lacks) == 0:
		return connector.Unfit{}
	}
	l := f.lacks[0]
	u := connector.Unfit{Why: placeBeside(strict.Node{}, l.at) + ": ", Cure: identityCure(l.table) + " -- then it goes on by itself; changes until then that lack it can only be given up: tuzhan-cdc deadletters set-aside --mapping " + l.mapping}
	if l.column == "" {
		u.Why += fmt.Sprintf("table %s has no replica identity", l.table)
		return u
	}
	var columns []string
	for _, l := range f.lacks {
		columns = append(columns, l.column)
	}
	what := "column"
	if len(columns) > 1 {
		what += "s"
	}
	u.Why += fmt.Sprintf("the replica identity of table %s does not carry the old row's %s %s, so it would be unknown", l.table, what, strings.Join(columns, ", "))
	return u
}

// misfit says why the mapping can't be bound to a table's shape.
func (m *mapping) misfit(t *connector.Table, problems []strict.Problem) connector.Unfit {
	return connector.Unfit{Why: oneLine(problems), Cure: m.mend(t)}
}

// mend gives the cure of a mapping that can't be bound to a table, nil where there is none. Of a column that may have been renamed, rows from before have the old name.
func (m *mapping) mend(t *connector.Table) string {
	cure := "mend the mapping's file and reload (kill -HUP, or start again): what waits comes then. "
	for _, c := range m.columns() {
		if t != nil && c.hard && t.Column(c.name) < 0 {
			cure += fmt.Sprintf("If column %s was renamed, rows from before have it under that name: get(new, %q) ?? NEW_NAME. ", c.name, c.name)
			break
		}
	}
	return cure + "Or give it up as dead letters: tuzhan-cdc deadletters set-aside --mapping " + m.name
}

// oneLine gives problems as one line, the hints in parentheses.
func oneLine(problems []strict.Problem) string {
	var parts []string
	for _, p := range problems {
		hint := p.Hint
		p.Hint = ""
		part := p.String()
		if hint != "" {
			part += " (" + hint + ")"
		}
		parts = append(parts, strings.Join(strings.Fields(part), " "))
	}
	return strings.Join(parts, "; ")
}

// whose names the mappings of lacks, behind the first one with their places.
func whose(list []lack) string {
	names, first := []string{}, list[0].at
	for i, l := range list {
		name := l.mapping
		if i > 0 {
			name += " (" + placeBeside(first, l.at) + ")"
		}
		names = append(names, name)
	}
	if len(names) == 1 {
		return "mapping " + names[0]
	}
	return "mappings " + strings.Join(names, ", ")
}

// placeBeside gives the place of a node for a text that stands at first.
func placeBeside(first, at strict.Node) string {
	if at.File() != first.File() {
		return fmt.Sprintf("%s:%d:%d", at.File(), at.Line(), at.Column())
	}
	return fmt.Sprintf("%d:%d", at.Line(), at.Column())
}

// unknownOld tells which columns of one table's old rows are read and not sent, and where.
func unknownOld(list []lack) string {
	why := ""
	if slices.ContainsFunc(list, func(l lack) bool { return l.byBareName }) {
		why = " (on delete, a bare column is the old row's)"
	}
	if l := list[0]; len(list) == 1 {
		return fmt.Sprintf("mapping %s reads the old row's column %s, which the replica identity of table %s does not carry: it would be unknown%s", l.mapping, l.column, l.table, why)
	}
	var columns []string
	readers := map[string][]string{}
	for _, l := range list {
		if readers[l.column] == nil {
			columns = append(columns, l.column)
		}
		readers[l.column] = append(readers[l.column], l.mapping+" "+placeBeside(list[0].at, l.at))
	}
	for i, c := range columns {
		columns[i] = c + " (" + strings.Join(readers[c], ", ") + ")"
	}
	return fmt.Sprintf("the replica identity of table %s does not carry what mappings read of old rows, so it would be unknown: %s%s", list[0].table, strings.Join(columns, ", "), why)
}

// Err gives the errors as one, or nil.
func (f *Findings) Err() error { return f.Errors().Err() }

// Take adds the findings of other.
func (f *Findings) Take(other *Findings) {
	f.errors.Take(&other.errors)
	f.Warnings.Take(&other.Warnings)
	f.lacks = append(f.lacks, other.lacks...)
}

// Check compares the mappings with the tables as the catalogue has them: tables, columns, types, and whether the replica identity carries what
// a mapping reads of old rows. Tables that no mapping names do no harm.
func (s *Set) Check(tables []*connector.Table) *Findings {
	all := &Findings{}
	for _, f := range s.CheckEach(tables) {
		all.Take(f)
	}
	return all
}

// CheckEach is Check, mapping by mapping in the order of the files.
func (s *Set) CheckEach(tables []*connector.Table) iter.Seq2[string, *Findings] {
	return func(yield func(string, *Findings) bool) {
		for _, m := range s.mappings {
			if m.kind == 0 {
				continue
			}
			f := &Findings{mapping: m.name}
			i := slices.IndexFunc(tables, func(t *connector.Table) bool { return t.Schema == m.schema && t.Name == m.table })
			if i < 0 {
				m.tableMissing(tables, &f.errors)
				f.cure = m.mend(nil)
			} else {
				m.bind(tables[i], &Options{}, &f.errors)
				f.cure = m.mend(tables[i])
				m.checkIdentity(tables[i], f)
				m.checkSnapshot(tables[i], f)
			}
			if !yield(m.name, f) {
				return
			}
		}
	}
}

// checkSnapshot warns of points for rows that are there already.
func (m *mapping) checkSnapshot(table *connector.Table, f *Findings) {
	if m.kind != connector.Point || !m.ops[connector.Snapshot] {
		return
	}
	f.Warnings.AddHint(m.node, "Take snapshot out of its on, where the rows that are there have had their points already.",
		"mapping %s makes points on snapshot: each backfill gives them anew, to every row that it reads, but for those that the stream has given them since it was asked for: also to those that the stream had given them before", m.name)
	if table.DeferrableKey != "" {
		f.Warnings.AddHint(m.node, "Make it one that is checked at once: "+table.DeferrableKey,
			"mapping %s makes points on snapshot, and the primary key of table %s is DEFERRABLE: within a transaction two rows may have the same key, and a backfill is refused", m.name, table)
	}
}

func (m *mapping) tableMissing(tables []*connector.Table, ps *strict.Problems) {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.String()
	}
	name := m.schema + "." + m.table
	if s := strict.Suggest(name, names); s != "" {
		ps.Add(m.node, "mapping %s: there is no table %s: did you mean %s?", m.name, name, s)
		return
	}
	ps.AddHint(m.node, "Check schema and spelling, and that the role may see the schema: GRANT USAGE ON SCHEMA "+quoteIdentifier(m.schema)+" TO ...;",
		"mapping %s: there is no table %s", m.name, name)
}

// checkIdentity compares what is read of old rows with what the replica identity carries.
func (m *mapping) checkIdentity(t *connector.Table, f *Findings) {
	if !m.ops[connector.Update] && !m.ops[connector.Delete] {
		return
	}
	cure := identityCure(t)
	if t.Identity != connector.IdentityFull && !slices.ContainsFunc(t.Columns, func(c connector.Column) bool { return c.Key }) {
		f.lacks = append(f.lacks, lack{table: t, mapping: m.name, at: m.node})
		return
	}
	var compared, long []string
	for _, c := range m.columns() {
		i := t.Column(c.name)
		if i >= 0 && c.new && m.ops[connector.Update] && t.Identity != connector.IdentityFull && t.Columns[i].Toasted && !t.Columns[i].Key {
			long = append(long, c.name)
		}
		if i < 0 || t.Columns[i].Key || t.Identity == connector.IdentityFull {
			continue
		}
		switch {
		case c.old:
			f.lacks = append(f.lacks, lack{t, m.name, c.at, c.name, c.byBareName})
		case c.compared:
			compared = append(compared, c.name)
		}
	}
	if len(compared) > 0 {
		f.Warnings.AddHint(m.node, cure,
			"mapping %s: an update of table %s can't be compared with the old row, whose %s the replica identity does not carry: each one is sent as optType update",
			m.name, t, strings.Join(compared, ", "))
	}
	if len(long) > 0 {
		f.Warnings.AddHint(m.node, cure,
			"mapping %s reads %s of table %s, which holds long values: PostgreSQL does not send those that an update left alone, and where the mapping comes to one the row becomes a dead letter",
			m.name, strings.Join(long, ", "), t)
	}
}

// identityCure is the SQL that makes old rows, and long values, come with every change.
func identityCure(t *connector.Table) string {
	if t.FullIdentity != "" {
		return strings.ReplaceAll(t.FullIdentity, "\n", " ")
	}
	return fmt.Sprintf("ALTER TABLE %s.%s REPLICA IDENTITY FULL;", quoteIdentifier(t.Schema), quoteIdentifier(t.Name))
}

// quoteIdentifier quotes a name for SQL.
func quoteIdentifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
