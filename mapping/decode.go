package mapping

import (
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Set is the mappings of a configuration, in the order of their files. The zero value is empty and ready. Add to it before it is used; from then
// on it is safe for concurrent use.
type Set struct {
	// OpenPoints says that platform.pointAPI is open: points have that API's fields. Set it before Decode.
	OpenPoints bool

	mappings []*mapping
}

// mapping is one mapping of the file.
type mapping struct {
	node          strict.Node // its name in the file
	name          string
	schema, table string
	ops           [connector.Snapshot + 1]bool
	when, orderBy *expression
	kind          connector.Kind
	payload       *template
	envelope      string // publicParams as JSON; for a group relation without optType
	resend        bool
	open          bool // a point of the open API
	replace       bool
	maxPerMinute  int // 0: no brake
	fingerprint   string
	opt           optType
}

// optType is a group relation's operation.
type optType struct {
	// byOp is what each operation becomes, where value is nil.
	byOp [connector.Snapshot + 1]string
	// compare says that an update whose old row is known is compared with it.
	compare bool
	value   *template
}

// Len is the number of mappings.
func (s *Set) Len() int { return len(s.mappings) }

// Names lists the mappings' names in the order of the files.
func (s *Set) Names() []string {
	list := make([]string, len(s.mappings))
	for i, m := range s.mappings {
		list[i] = m.name
	}
	return list
}

// Summary names a mapping for those who show it.
type Summary struct {
	// Name is the mapping's, Table its table as schema.name.
	Name, Table string
	Kind        connector.Kind
	// On are the operations that it is for.
	On []connector.Op
	// File and Line say where it stands.
	File string
	Line int
}

// List gives the mappings in the order of the files.
func (s *Set) List() []Summary {
	list := make([]Summary, len(s.mappings))
	for i, m := range s.mappings {
		list[i] = Summary{Name: m.name, Table: m.schema + "." + m.table, Kind: m.kind, File: m.node.File(), Line: m.node.Line()}
		for op := connector.Insert; op <= connector.Snapshot; op++ {
			if m.ops[op] {
				list[i].On = append(list[i].On, op)
			}
		}
	}
	return list
}

// Has reports whether a mapping makes records of that kind.
func (s *Set) Has(kind connector.Kind) bool {
	return slices.ContainsFunc(s.mappings, func(m *mapping) bool { return m.kind == kind })
}

// Snapshots gives the mappings that have snapshot in their on, by name.
func (s *Set) Snapshots() []string {
	var list []string
	for _, m := range s.mappings {
		if m.ops[connector.Snapshot] {
			list = append(list, m.name)
		}
	}
	return list
}

// TableOf gives the table of a mapping; ok is false where there is no such mapping.
func (s *Set) TableOf(name string) (schema, table string, ok bool) {
	for _, m := range s.mappings {
		if m.name == name {
			return m.schema, m.table, true
		}
	}
	return "", "", false
}

// Fingerprint gives a text that is another one when the mapping was edited; empty where there is no such mapping.
func (s *Set) Fingerprint(name string) string {
	for _, m := range s.mappings {
		if m.name == name {
			return m.fingerprint
		}
	}
	return ""
}

// MaxPerMinute gives the brakes: by mapping, the most records that it may make of what was committed in one minute. Mappings without a brake are missing.
func (s *Set) MaxPerMinute() map[string]int {
	brakes := map[string]int{}
	for _, m := range s.mappings {
		if m.maxPerMinute > 0 {
			brakes[m.name] = m.maxPerMinute
		}
	}
	return brakes
}

// Decode adds the mappings of a list in a file: the value of `mappings:`. Problems go to ps, which must be the one that the file was
// parsed with; a mapping with problems is left out, though its name counts as taken.
func (s *Set) Decode(list strict.Node, ps *strict.Problems) {
	for _, item := range list.Items() {
		d := &decoder{set: s, ps: ps, m: &mapping{node: item}}
		before := ps.Len()
		d.mapping(item)
		if d.m.name != "" || ps.Len() == before {
			d.m.broken(ps.Len() > before)
			s.mappings = append(s.mappings, d.m)
		}
	}
}

// broken marks a mapping that has problems: it holds its name, and nothing else.
func (m *mapping) broken(is bool) {
	if is {
		*m = mapping{node: m.node, name: m.name}
	}
}

// decoder reads one mapping.
type decoder struct {
	set *Set
	ps  *strict.Problems
	m   *mapping
}

func (d *decoder) mapping(n strict.Node) {
	if !n.IsMap() {
		d.ps.Add(n, "want a mapping with name, table, on, and one of point, event, groupRelation; got %s", n.Kind())
		return
	}
	fields := n.Fields(strict.Names(Keys())...)
	d.name(n, fields["name"])
	d.table(n, fields["table"])
	d.on(n, fields["on"])
	d.m.when = d.bare(fields["when"])
	if e := d.m.when; e != nil && e.static != anyValue && e.static != boolValue {
		d.ps.Add(e.at(0), "when: want true or false, but the expression gives %s", e.static)
	}
	d.m.orderBy = d.bare(fields["orderBy"])
	if e := d.m.orderBy; e != nil && (e.static == listValue || e.static == mapValue) {
		d.ps.Add(e.at(0), "orderBy: want one value, but the expression gives %s", e.static)
	}
	d.payload(n, fields)
	d.options(fields)
	d.m.fingerprint = n.Fingerprint()
}

func (d *decoder) required(n, field strict.Node, name, example string) bool {
	if field.IsZero() {
		d.ps.AddHint(n, "For example: "+example, "the mapping has no %s", name)
		return false
	}
	return true
}

var nameForm = regexp.MustCompile(`^[\p{L}\p{N}][\p{L}\p{N}._-]{0,99}$`)

func (d *decoder) name(n, field strict.Node) {
	if !d.required(n, field, "name", "name: order-paid") {
		return
	}
	name, ok := field.Text()
	if !ok {
		return
	}
	if !nameForm.MatchString(name) {
		d.ps.Add(field, "name: want up to 100 letters, digits, -, _ and ., beginning with a letter or digit")
		return
	}
	for _, other := range d.set.mappings {
		if other.name == name {
			d.ps.Add(field, "name: another mapping has the name %s: %s:%d", name, other.node.File(), other.node.Line())
			return
		}
	}
	d.m.name, d.m.node = name, field
}

func (d *decoder) table(n, field strict.Node) {
	if !d.required(n, field, "table", "table: crm.orders") {
		return
	}
	text, ok := field.Text()
	if !ok {
		return
	}
	if d.m.schema, d.m.table, ok = splitTable(text); !ok {
		d.ps.Add(field, `table: want schema.table, with double quotes around a name that holds a dot: crm."a.b"`)
	}
}

// SplitTable reads schema.table as mappings write it.
func SplitTable(text string) (schema, table string, ok bool) { return splitTable(text) }

// splitTable reads schema.table; without a schema it is public's. Names stand as the catalogue has them: upper and lower case are kept
// apart with quotes and without.
func splitTable(text string) (schema, table string, ok bool) {
	first, rest, ok := identifier(text)
	if !ok {
		return "", "", false
	}
	if rest == "" {
		return "public", first, true
	}
	second, rest, ok := identifier(strings.TrimPrefix(rest, "."))
	return first, second, ok && rest == ""
}

// identifier reads a name, quoted or not; rest is empty or begins with the dot.
func identifier(text string) (name, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		name, rest = text, ""
		if i := strings.IndexByte(text, '.'); i >= 0 {
			name, rest = text[:i], text[i:]
		}
		return name, rest, name != "" && !strings.ContainsAny(name, "\" \t\r\n")
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		if text[i] != '"' {
			b.WriteByte(text[i])
			continue
		}
		if i+1 < len(text) && text[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		rest = text[i+1:]
		return b.String(), rest, b.Len() > 0 && (rest == "" || rest[0] == '.')
	}
	return "", "", false
}

func (d *decoder) on(n, field strict.Node) {
	if !d.required(n, field, "on", "on: [insert, update]") {
		return
	}
	for _, item := range field.Items() {
		name, ok := item.Enum("insert", "update", "delete", "snapshot")
		if !ok {
			continue
		}
		op := connector.Ops[name]
		if d.m.ops[op] {
			d.ps.Add(item, "on: %s comes twice", name)
		}
		d.m.ops[op] = true
	}
	if field.IsList() && len(field.Items()) == 0 || field.IsNull() {
		d.ps.Add(field, "on is empty: want some of insert, update, delete, snapshot")
	}
}

// bare reads an expression that stands without ${{ }}.
func (d *decoder) bare(n strict.Node) *expression {
	switch {
	case n.IsZero():
		return nil
	case !n.IsScalar() || n.IsNull():
		d.ps.Add(n, "%s: want an expression, got %s", n.Key(), n.Kind())
		return nil
	}
	if i := strings.Index(n.Raw(), "${{"); i >= 0 {
		d.ps.Add(n.Sub(i), "%s is an expression as it is: leave ${{ and }} away", n.Key())
		return nil
	}
	if i := strings.Index(n.Raw(), "${"); i >= 0 {
		d.ps.Add(n.Sub(i), "%s: an environment variable can't stand in an expression", n.Key())
		return nil
	}
	return newExpression(n, 0, n.Raw(), d.ps)
}

// payload reads exactly one of point, event and groupRelation.
func (d *decoder) payload(n strict.Node, fields map[string]strict.Node) {
	var given []string
	for _, kind := range []connector.Kind{connector.Point, connector.Event, connector.GroupRelation} {
		if !fields[kind.String()].IsZero() {
			given = append(given, kind.String())
			d.m.kind = kind
		}
	}
	if len(given) != 1 {
		what := "none"
		if len(given) > 0 {
			what = strings.Join(given, " and ")
		}
		d.ps.Add(n, "a mapping makes exactly one of point, event, groupRelation; this one has %s", what)
		return
	}
	body := fields[given[0]]
	if !body.IsMap() {
		d.ps.Add(body, "%s: want a mapping (key: value), got %s", given[0], body.Kind())
		return
	}
	t := &templates{ps: d.ps}
	switch d.m.kind {
	case connector.Point:
		d.m.payload = t.object(body, "point", pointFields(d.set.OpenPoints))
		d.m.open = d.set.OpenPoints
	case connector.Event:
		d.params(body, eventParams(), false)
		d.m.payload = t.object(body, "event", eventFields(), "publicParams")
		if d.m.ops[connector.Snapshot] && child(body, "time").IsZero() {
			d.ps.AddHint(body, "For example: time: ${{ paid_at }}", "event: a mapping on snapshot must give its time: a row that was there before has no commit time, and years-old events must not carry today's date")
		}
	case connector.GroupRelation:
		params := d.params(body, groupParams(), true)
		d.m.payload = t.object(body, "groupRelation", groupFields(), "publicParams", "optType")
		d.groupRules(body, params)
		d.optType(child(body, "optType"))
	}
}

// child gives the value under a key without looking at the others.
func child(n strict.Node, name string) strict.Node {
	for _, p := range n.Pairs() {
		if p.Key.Raw() == name {
			return p.Value
		}
	}
	return strict.Node{}
}

// params reads publicParams, which hold constants only: they belong to the request, not to a record.
func (d *decoder) params(body strict.Node, fields []field, required bool) *template {
	n := child(body, "publicParams")
	switch {
	case n.IsZero() && required:
		d.ps.AddHint(body, "For example: publicParams: {isMatching: true, matchingType: 1}", "%s: publicParams is required", body.Key())
		return &template{form: objectForm}
	case n.IsZero():
		d.m.envelope = "{}"
		return &template{form: objectForm}
	}
	t := &templates{ps: d.ps, constant: true}
	params := t.object(n, "publicParams", fields)
	if params == nil {
		return &template{form: objectForm}
	}
	d.m.envelope = string(params.json(nil))
	return params
}

// groupRules are what the API says about a group relation's fields among each other.
func (d *decoder) groupRules(body strict.Node, params *template) {
	matching := params.field("matchingType")
	identity := d.m.payload.field("identityType")
	switch {
	case matching == nil:
	case matching.constant == "2" && params.field("identifyWay") == nil:
		d.ps.AddHint(matching.node, "1: unionid, openid, phone, customer id in this order; 2: customer id, phone, openid, unionid.",
			"publicParams: identifyWay is required when matchingType is 2 (fuzzy)")
	case matching.constant == "1" && identity == nil && child(body, "identityType").IsZero():
		d.ps.AddHint(body, "It names the field to match by: phone, thirdId, openid or unionid.",
			"groupRelation: identityType is required when matchingType is 1 (exact)")
	}
	if identity != nil && identity.form == constantForm && d.m.payload.field(identity.constant) == nil && child(body, identity.constant).IsZero() {
		d.ps.Add(identity.node, "identityType says %s, but the field %s is not given", identity.constant, identity.constant)
	}
}

// optType reads one value, a value an operation, or an expression.
func (d *decoder) optType(n strict.Node) {
	opt := &d.m.opt
	opt.byOp = [...]string{connector.Insert: "add", connector.Update: "update", connector.Delete: "delete", connector.Snapshot: "add"}
	opt.compare = true
	switch {
	case n.IsZero():
	case n.IsMap():
		for name, at := range n.Fields("insert", "update", "delete", "snapshot") {
			if value, ok := at.Enum(optTypes()...); ok {
				opt.byOp[connector.Ops[name]] = value
			}
		}
		opt.compare = opt.byOp[connector.Update] == "update"
	default:
		t := &templates{ps: d.ps}
		opt.value = t.scalar(n, field{name: "optType", required: true, enum: optTypes()})
		opt.compare = false
	}
}

func (d *decoder) options(fields map[string]strict.Node) {
	if n, ok := fields["maxPerMinute"].Int(1, math.MaxInt32); ok {
		d.m.maxPerMinute = int(n)
	}
	if n := fields["uncertain"]; !n.IsZero() {
		value, ok := n.Enum("hold", "resend")
		d.m.resend = value == "resend"
		if ok && d.m.kind != 0 && d.m.kind != connector.Point {
			d.ps.Add(n, "uncertain is for points only")
		}
	}
	n := fields["onChange"]
	if n.IsZero() {
		return
	}
	value, ok := n.Enum("replace", "update")
	d.m.replace = value == "replace"
	switch {
	case !ok || d.m.kind == 0:
	case d.m.kind != connector.GroupRelation:
		d.ps.Add(n, "onChange is for group relations only")
	case !d.m.replace:
	case !d.m.opt.compare:
		d.ps.Add(n, "onChange: replace goes with the default optType of an update only: take optType out")
	case !d.m.ops[connector.Update]:
		d.ps.Add(n, "onChange says what an update does, but on has no update")
	}
}
