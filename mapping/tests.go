package mapping

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Tests are the `tests:` of a configuration and the `tables:` that they need: given changes, and what the mappings must make of them. Add the files with Read,
// then call Finish. The zero value has none. Not safe for concurrent use.
type Tests struct {
	files    []testFile
	declared map[string]*declaredTable // by schema.name
	list     []*Test
	set      *Set
	zone     *time.Location
}

type testFile struct {
	tables, tests strict.Node
	mappings      []string // those of the same file
}

// Test is one test of the file.
type Test struct {
	// Name is the test's own; "" where it has none.
	Name string
	// Mapping is the mapping that is tested, Table its table as schema.name.
	Mapping, Table string
	// Op is what happens to the row.
	Op connector.Op
	// File and Line are where the test stands.
	File string
	Line int

	node       strict.Node
	m          *mapping
	before     strict.Node // old
	after      strict.Node // new
	unchanged  strict.Node
	commitTime time.Time
	want       *Tree // what the file expects: {expect: [...]} or {deadLetter: text}; nil: nothing yet
	change     *connector.Change
}

// Title names the test for those who read results.
func (t *Test) Title() string {
	if t.Name == "" {
		return t.Mapping + " " + t.Op.String()
	}
	return t.Name
}

// Node is where the test stands in the file.
func (t *Test) Node() strict.Node { return t.node }

// Change is the change that the test gives; nil where its table is not known.
func (t *Test) Change() *connector.Change { return t.change }

// Expects reports whether the test says what must come of it.
func (t *Test) Expects() bool { return t.want != nil }

// TableKeys are the keys of a table under `tables:`.
func TableKeys() []strict.Key {
	return []strict.Key{
		{Name: "columns", Required: true, Doc: "the columns by name with their types, as in `CREATE TABLE`: `bigint`, `numeric(12,2)`, `text[]`; an enum, or a type of an extension, is `text`, a domain the type below it",
			Shape: strict.Shape{Type: strict.MapType, Values: &strict.Shape{Type: strict.TextType}}},
		{Name: "identity", Default: "default", Doc: "the replica identity, which says what PostgreSQL sends of old rows: the `key`, or with `full` every column",
			Shape: strict.Shape{Type: strict.TextType, Enum: []string{"default", "full", "index", "nothing"}}},
		{Name: "key", Doc: "the columns of the primary key, or with `identity: index` of that index", Shape: texts()},
	}
}

func texts() strict.Shape {
	return strict.Shape{Type: strict.ListType, Values: &strict.Shape{Type: strict.TextType}}
}

// TestKeys are the keys of a test.
func TestKeys() []strict.Key {
	text, row := strict.Shape{Type: strict.TextType}, strict.Shape{Type: strict.MapType, Values: &strict.Shape{}}
	return []strict.Key{
		{Name: "name", Shape: text, Doc: "what it shows, in a few words"},
		{Name: "mapping", Shape: text, Doc: "the mapping that is tested; may be left out where the file has one only"},
		{Name: "op", Required: true, Doc: "what happens to the row", Shape: strict.Shape{Type: strict.TextType, Enum: []string{"insert", "update", "delete", "snapshot"}}},
		{Name: "old", Shape: row, Doc: "the row before: of a delete the row, of an update only the columns that are otherwise in `new`"},
		{Name: "new", Shape: row, Doc: "the row after; columns that the mapping does not read may be left out"},
		{Name: "unchanged", Shape: texts(), Doc: "columns of an update whose long value it leaves alone, so that PostgreSQL does not send it"},
		{Name: "commitTime", Shape: strict.Shape{Type: strict.TimeType}, Default: "2024-05-01 12:00:00+08", Doc: "when the transaction committed"},
		{Name: "expect", Doc: "the records that must come of it, as the platform gets them; `[]`: none. An event's `uuid` and `time`, and `publicParams`, are compared where they are given",
			Shape: strict.Shape{Type: strict.ListType, Values: &strict.Shape{Type: strict.MapType, Keys: expectKeys(), OneOf: strict.Names(expectKeys())}}},
		{Name: "deadLetter", Shape: text, Doc: "instead of `expect`: a part of the reason why it becomes a dead letter of class mapping"},
	}
}

// decreaseKey is the kind of a point that goes to platform.paths.pointDecrease.
const decreaseKey = "pointDecrease"

func expectKeys() []strict.Key {
	anything := strict.Shape{Type: strict.MapType, Values: &strict.Shape{}}
	return []strict.Key{
		{Name: "point", Shape: anything, Doc: "a point's body"},
		{Name: decreaseKey, Shape: anything, Doc: "the body of a negative point, for `platform.paths.pointDecrease`: its absolute value"},
		{Name: "event", Shape: anything, Doc: "an event"},
		{Name: "groupRelation", Shape: anything, Doc: "a group relation, with its `optType`"},
	}
}

// Read adds a file's `tables:` and `tests:`; mappings is its list of mappings. Nothing is looked at before Finish.
func (t *Tests) Read(mappings, tables, tests strict.Node) {
	f := testFile{tables: tables, tests: tests}
	if mappings.IsList() {
		for _, m := range mappings.Items() {
			if m.IsMap() {
				f.mappings = append(f.mappings, child(m, "name").Raw())
			}
		}
	}
	t.files = append(t.files, f)
}

// Finish reads what the files hold, for the mappings of set, which must be complete. Problems go to ps: unknown keys and mappings, columns that the
// declared table does not have, values that don't fit their types. zone is where timestamps without an offset are; nil: such are problems. A test whose table
// is not declared is not looked into: see Undeclared.
func (t *Tests) Finish(set *Set, zone *time.Location, ps *strict.Problems) {
	t.set, t.zone, t.declared = set, zone, map[string]*declaredTable{}
	for _, f := range t.files {
		t.tables(f.tables, ps)
	}
	for _, f := range t.files {
		for _, n := range f.tests.Items() {
			t.test(n, f.mappings, ps)
		}
	}
	for _, x := range t.list {
		if d := t.declared[x.Table]; d != nil {
			x.read(d, zone, ps)
		}
	}
}

// List gives the tests in the order of the files.
func (t *Tests) List() []*Test { return t.list }

// Undeclared lists the tables, as schema.name, that tests are for and no `tables:` declares, and whose tests can't run before Supply.
func (t *Tests) Undeclared() []string {
	var names []string
	for _, x := range t.list {
		if t.declared[x.Table] == nil && !slices.Contains(names, x.Table) {
			names = append(names, x.Table)
		}
	}
	return names
}

// Supply gives the tables that are not declared, as the catalogue has them. What does not fit them is noted in ps.
func (t *Tests) Supply(tables []*connector.Table, ps *strict.Problems) {
	for _, table := range tables {
		if t.declared[table.String()] != nil {
			continue
		}
		d := declare(table)
		t.declared[table.String()] = d
		for _, x := range t.list {
			if x.Table == table.String() {
				x.read(d, t.zone, ps)
			}
		}
	}
}

func (t *Tests) test(n strict.Node, mappings []string, ps *strict.Problems) {
	if !n.IsMap() {
		ps.Add(n, "tests: want a mapping with mapping, op, new or old, and expect; got %s", n.Kind())
		return
	}
	x := &Test{node: n, File: n.File(), Line: n.Line()}
	fields := n.Fields(strict.Names(TestKeys())...)
	x.Name, _ = fields["name"].Text()
	x.mapping(t.set, fields["mapping"], mappings, ps)
	if op, ok := fields["op"].Enum("insert", "update", "delete", "snapshot"); ok {
		x.Op = connector.Ops[op]
	} else if fields["op"].IsZero() {
		ps.AddHint(n, "For example: op: insert", "the test has no op")
	}
	x.before, x.after, x.unchanged = fields["old"], fields["new"], fields["unchanged"]
	x.rows(ps)
	x.commitTime = time.Date(2024, 5, 1, 4, 0, 0, 0, time.UTC)
	if c := fields["commitTime"]; !c.IsZero() {
		l := &literals{ps: ps, zone: t.zone}
		if typ, _ := parseType("timestamptz"); !c.IsNull() {
			d := l.datum(c, "commitTime", typ)
			x.commitTime, _ = parseTimestamp(d.Text, time.UTC)
		}
	}
	x.expectation(fields["expect"], fields["deadLetter"], ps)
	if x.m != nil && x.Op != 0 { // with problems too: the values are looked at as well
		t.list = append(t.list, x)
	}
}

func (x *Test) mapping(set *Set, n strict.Node, mappings []string, ps *strict.Problems) {
	name, ok := n.Text()
	at := n
	switch {
	case ok:
	case !n.IsZero():
		return
	case len(mappings) == 1:
		name, at = mappings[0], x.node
	default:
		ps.AddHint(x.node, "For example: mapping: order-paid", "the test names no mapping, and this file has %d", len(mappings))
		return
	}
	i := slices.IndexFunc(set.mappings, func(m *mapping) bool { return m.name == name })
	if i < 0 {
		if s := strict.Suggest(name, set.Names()); s != "" {
			ps.Add(at, "mapping: there is no mapping %s: did you mean %q?", name, s)
		} else if !n.IsZero() {
			ps.AddHint(at, "There are: "+strings.Join(set.Names(), ", ")+".", "mapping: there is no mapping %s", name)
		}
		return
	}
	x.m, x.Mapping, x.Table = set.mappings[i], name, set.mappings[i].schema+"."+set.mappings[i].table
}

// rows checks that the test has the rows of its operation.
func (x *Test) rows(ps *strict.Problems) {
	switch {
	case x.Op == 0:
	case x.Op == connector.Delete && !x.after.IsZero():
		ps.Add(x.after, "new: a delete has no new row: write old")
	case x.Op == connector.Delete && x.before.IsZero():
		ps.Add(x.node, "the test has no old: the row that is deleted")
	case x.Op != connector.Delete && x.after.IsZero():
		ps.Add(x.node, "the test has no new: the row as it is after the %s", x.Op)
	case (x.Op == connector.Insert || x.Op == connector.Snapshot) && !x.before.IsZero():
		ps.Add(x.before, "old: %s has no old row", x.Op)
	}
	if !x.unchanged.IsZero() && x.Op != connector.Update && x.Op != 0 {
		ps.Add(x.unchanged, "unchanged goes with an update only")
	}
}

// expectation reads expect or deadLetter.
func (x *Test) expectation(expect, letter strict.Node, ps *strict.Problems) {
	if !expect.IsZero() && !letter.IsZero() {
		ps.Add(letter, "expect and deadLetter are both there: keep one of them")
		return
	}
	if text, ok := letter.Text(); ok {
		value := &Tree{text: text, line: letter.Line()}
		x.want = &Tree{form: treeObject, fields: []treeField{{"deadLetter", value, letter.Line()}}}
		return
	}
	if expect.IsZero() || expect.IsNull() {
		return
	}
	records := &Tree{form: treeList, line: expect.Line()}
	for _, item := range expect.Items() {
		fields := item.Fields(strict.Names(expectKeys())...)
		given := 0
		for _, k := range expectKeys() {
			n := fields[k.Name]
			if n.IsZero() {
				continue
			}
			given++
			if !n.IsMap() {
				ps.Add(n, "%s: want a mapping (key: value), got %s", k.Name, n.Kind())
				continue
			}
			if kind := connector.KindOf(strings.Replace(k.Name, decreaseKey, "point", 1)); x.m != nil && x.m.kind != 0 && x.m.kind != kind {
				ps.Add(n, "mapping %s makes records of kind %s, not %s", x.Mapping, x.m.kind, k.Name)
			}
			body := readTree(n, ps)
			records.items = append(records.items, &Tree{form: treeObject, line: item.Line(), fields: []treeField{{k.Name, body, item.Line()}}})
		}
		if given != 1 && item.IsMap() {
			ps.Add(item, "expect: want one of point, pointDecrease, event, groupRelation in each item; this one has %d", given)
		}
	}
	x.want = &Tree{form: treeObject, fields: []treeField{{"expect", records, expect.Line()}}}
}

// read makes the change of the test, for the table's shape.
func (x *Test) read(d *declaredTable, zone *time.Location, ps *strict.Problems) {
	if x.m.kind == 0 || len(d.table.Columns) == 0 {
		return // mapping or table have problems of their own
	}
	l := &literals{ps: ps, zone: zone}
	c := &connector.Change{Op: x.Op, Table: d.table, CommitTime: x.commitTime, Position: connector.Position{Commit: 1}}
	if x.Op == connector.Snapshot {
		c.CommitTime = time.Time{}
	}
	before := ps.Len()
	left := x.m.leftOut(x.Op)
	if x.Op != connector.Delete {
		c.New = make(connector.Tuple, len(d.table.Columns))
		given := l.row(x.after, d, c.New)
		x.leaveUnchanged(d, c.New, given, ps)
		for i, col := range d.table.Columns {
			if !given[col.Name] && left.new[col.Name] {
				ps.AddHint(x.after, "Give it a value; null is one too.", "new: column %s is left out, but mapping %s reads it", col.Name, x.Mapping)
			}
			if !given[col.Name] && c.New[i].Kind == connector.Absent {
				c.New[i].Kind = connector.Null
			}
		}
	}
	if x.Op == connector.Update || x.Op == connector.Delete {
		c.Old = x.oldRow(l, d, c.New, left.old)
	}
	if ps.Len() == before {
		x.change = c
	}
}

// leaveUnchanged marks the columns of `unchanged`.
func (x *Test) leaveUnchanged(d *declaredTable, row connector.Tuple, given map[string]bool, ps *strict.Problems) {
	for _, item := range x.unchanged.Items() {
		name, ok := item.Text()
		if !ok {
			continue
		}
		i := d.table.Column(name)
		switch {
		case i < 0:
			ps.Add(item, "unchanged: table %s has no column %s%s", d.table, name, near(name, d.table))
		case given[name]:
			ps.Add(item, "unchanged: column %s has a value in new", name)
		case d.table.Columns[i].Key:
			ps.Add(item, "unchanged: column %s belongs to the replica identity: PostgreSQL sends it with every update", name)
		default:
			row[i].Kind = connector.Unchanged
			given[name] = true
		}
	}
}

// oldRow makes the old row as PostgreSQL would send it: of an update, the new one but for what `old` says, and of both only what the replica identity
// carries.
func (x *Test) oldRow(l *literals, d *declaredTable, new connector.Tuple, reads map[string]bool) connector.Tuple {
	row := make(connector.Tuple, len(d.table.Columns))
	given := l.row(x.before, d, row)
	for i, col := range d.table.Columns {
		switch {
		case given[col.Name] && !col.Key:
			l.ps.AddHint(x.before, "Take it out; or, where the table has it so, declare identity: full under tables.",
				"old: the replica identity of table %s does not carry column %s: PostgreSQL would not send it", d.table, col.Name)
		case given[col.Name], !col.Key:
		case x.Op == connector.Update:
			row[i] = new[i]
		case reads[col.Name]:
			l.ps.AddHint(x.before, "Give it a value; null is one too.", "old: column %s is left out, but mapping %s reads it", col.Name, x.Mapping)
		default:
			row[i].Kind = connector.Null
		}
	}
	return row
}

// row fills a tuple with the values of a mapping by column, and says which were given.
func (l *literals) row(n strict.Node, d *declaredTable, row connector.Tuple) map[string]bool {
	given := map[string]bool{}
	for _, p := range n.Pairs() {
		name := p.Key.Raw()
		i := d.table.Column(name)
		if i < 0 {
			l.ps.Add(p.Key, "%s: table %s has no column %s%s", n.Key(), d.table, name, near(name, d.table))
			continue
		}
		given[name] = true
		if l.isConstant(p.Value) {
			row[i] = l.datum(p.Value, name, d.types[i])
		}
	}
	return given
}

// sides are the columns that a mapping reads of each row.
type sides struct{ new, old map[string]bool }

// leftOut gives the columns that a test of an operation must give values.
func (m *mapping) leftOut(op connector.Op) sides {
	s := sides{map[string]bool{}, map[string]bool{}}
	for _, c := range m.columns() {
		if c.new && op != connector.Delete {
			s.new[c.name] = true
		}
		if c.old {
			s.old[c.name] = true
		}
	}
	return s
}

// Result is what came of a test.
type Result struct {
	Test *Test
	// Passed says that it is what the file expects.
	Passed bool
	// Want is what the file expects, nil where it says nothing; Got is what came: {expect: [records]} or {deadLetter: reason}. Both in the order of Got, and Got
	// without what Want may leave out.
	Want, Got *Tree
	// Actual is all of what came, as an expectation records it; nil where the test could not run.
	Actual *Tree
	// Problems are why it could not run: the mapping does not fit the table.
	Problems []strict.Problem
}

// Run runs a test, by the same mapping code as the connector. The test's table must be declared or supplied.
func (t *Tests) Run(x *Test, o Options) Result {
	r := Result{Test: x, Want: x.want}
	if x.change == nil {
		r.Problems = []strict.Problem{{File: x.File, Line: x.Line, Column: x.node.Column(), Text: "table " + x.Table + " is not declared",
			Hint: "`tuzhan-cdc test --record-tables` writes it into the file, from the database."}}
		return r
	}
	var found Findings
	x.m.bind(x.change.Table, &o, &found.errors)
	x.m.checkIdentity(x.change.Table, &found)
	if r.Problems = found.Errors().All(); len(r.Problems) > 0 {
		return r
	}
	all, err := t.outcome(x, o)
	if err == nil && o.TimeZone == nil { // the database's will count, which is not known here: does it matter?
		elsewhere := o
		elsewhere.TimeZone = time.FixedZone("", -11*60*60)
		var other *Tree
		if other, err = t.outcome(x, elsewhere); err == nil && !other.equal(all) {
			r.Problems = []strict.Problem{{File: x.File, Line: x.Line, Column: x.node.Column(), Text: "what comes depends on the time zone, which without source.timeZone is the database's",
				Hint: "Set it, for example source: {timeZone: Asia/Shanghai}."}}
			return r
		}
	}
	if err != nil {
		r.Problems = []strict.Problem{{File: x.File, Line: x.Line, Column: x.node.Column(), Text: err.Error()}}
		return r
	}
	r.Actual = x.m.recorded(all)
	r.Got = all.leaveOut(x.want)
	if x.want == nil {
		r.Got = r.Actual
		return r
	}
	if want, got := x.want.field("deadLetter"), r.Got.field("deadLetter"); want != nil && got != nil {
		r.Passed = strings.Contains(got.text, want.text)
		return r
	}
	r.Passed = x.want.equal(r.Got)
	r.Want = x.want.ordered(r.Got)
	return r
}

// outcome maps the change of a test, and writes what came of it.
func (t *Tests) outcome(x *Test, o Options) (*Tree, error) {
	var out connector.Output
	t.set.Mapper(o).Map(x.change, connector.Part{Only: x.Mapping}, &out)
	if letters := out.Unrecorded(); len(letters) > 0 {
		reason := letters[0].Reason
		if _, rest, ok := strings.Cut(reason, "): "); ok { // without mapping, file and line
			reason = rest
		}
		return &Tree{form: treeObject, fields: []treeField{{name: "deadLetter", value: textTree(reason)}}}, nil
	}
	records := &Tree{form: treeList}
	for _, r := range out.Records {
		body, err := parseTree(r.Payload)
		if err != nil {
			return nil, fmt.Errorf("the payload is no JSON: %w", err)
		}
		if r.Envelope != "" {
			params, err := parseTree([]byte(r.Envelope))
			if err != nil {
				return nil, fmt.Errorf("publicParams are no JSON: %w", err)
			}
			body.fields = append([]treeField{{name: "publicParams", value: params.without("optType")}}, body.fields...)
		}
		if r.OptType != "" {
			body.fields = append([]treeField{{name: "optType", value: textTree(r.OptType)}}, body.fields...)
		}
		kind := r.Kind.String()
		if r.Decrease {
			kind = decreaseKey
		}
		records.items = append(records.items, &Tree{form: treeObject, fields: []treeField{{name: kind, value: body}}})
	}
	return &Tree{form: treeObject, fields: []treeField{{name: "expect", value: records}}}, nil
}

// optional are what an expectation may leave out.
func optional() []string { return []string{"uuid", "time", "publicParams", "relateBizCode"} }

// leaveOut gives what came without what the expectation may leave out and does.
func (t *Tree) leaveOut(want *Tree) *Tree {
	records := t.field("expect")
	if records == nil || want == nil || want.field("expect") == nil {
		return t
	}
	list := &Tree{form: treeList}
	for i, record := range records.items {
		kind, body := record.fields[0].name, record.fields[0].value
		var given *Tree
		if expected := want.field("expect").items; i < len(expected) {
			given = expected[i].fields[0].value
		}
		for _, name := range optional() {
			if given == nil || given.field(name) == nil {
				body = body.without(name)
			}
		}
		list.items = append(list.items, &Tree{form: treeObject, fields: []treeField{{name: kind, value: body}}})
	}
	return &Tree{form: treeObject, fields: []treeField{{name: "expect", value: list}}}
}

// recorded gives what came as it is worth writing down: uuid and time only where the mapping gives them, no publicParams, of a reason no cure.
func (m *mapping) recorded(t *Tree) *Tree {
	if letter := t.field("deadLetter"); letter != nil {
		reason, _, _ := strings.Cut(letter.text, "; ")
		return &Tree{form: treeObject, fields: []treeField{{name: "deadLetter", value: textTree(reason)}}}
	}
	list := &Tree{form: treeList}
	for _, record := range t.field("expect").items {
		body := record.fields[0].value
		for _, name := range optional() {
			if m.payload.field(name) == nil {
				body = body.without(name)
			}
		}
		list.items = append(list.items, &Tree{form: treeObject, fields: []treeField{{name: record.fields[0].name, value: body}}})
	}
	return &Tree{form: treeObject, fields: []treeField{{name: "expect", value: list}}}
}
