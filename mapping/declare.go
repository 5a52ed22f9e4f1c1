package mapping

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// builtIn is one of PostgreSQL's own types, by the names that people write.
type builtIn struct {
	oid, array uint32
	names      []string // the first is format_type's
}

// builtIns are the types that a `tables:` may name. Their numbers stand in PostgreSQL's source (pg_type.dat) and never change.
var builtIns = []builtIn{
	{pgtype.Int2OID, pgtype.Int2ArrayOID, []string{"smallint", "int2", "smallserial", "serial2"}},
	{pgtype.Int4OID, pgtype.Int4ArrayOID, []string{"integer", "int", "int4", "serial", "serial4"}},
	{pgtype.Int8OID, pgtype.Int8ArrayOID, []string{"bigint", "int8", "bigserial", "serial8"}},
	{pgtype.OIDOID, pgtype.OIDArrayOID, []string{"oid"}},
	{pgtype.NumericOID, pgtype.NumericArrayOID, []string{"numeric", "decimal"}},
	{pgtype.Float4OID, pgtype.Float4ArrayOID, []string{"real", "float4"}},
	{pgtype.Float8OID, pgtype.Float8ArrayOID, []string{"double precision", "float8", "float"}},
	{pgtype.BoolOID, pgtype.BoolArrayOID, []string{"boolean", "bool"}},
	{pgtype.TextOID, pgtype.TextArrayOID, []string{"text"}},
	{pgtype.VarcharOID, pgtype.VarcharArrayOID, []string{"character varying", "varchar"}},
	{pgtype.BPCharOID, pgtype.BPCharArrayOID, []string{"character", "char", "bpchar"}},
	{pgtype.QCharOID, pgtype.QCharArrayOID, []string{`"char"`}},
	{pgtype.NameOID, pgtype.NameArrayOID, []string{"name"}},
	{pgtype.TimestampOID, pgtype.TimestampArrayOID, []string{"timestamp without time zone", "timestamp"}},
	{pgtype.TimestamptzOID, pgtype.TimestamptzArrayOID, []string{"timestamp with time zone", "timestamptz"}},
	{pgtype.DateOID, pgtype.DateArrayOID, []string{"date"}},
	{pgtype.TimeOID, pgtype.TimeArrayOID, []string{"time without time zone", "time"}},
	{pgtype.TimetzOID, pgtype.TimetzArrayOID, []string{"time with time zone", "timetz"}},
	{pgtype.IntervalOID, pgtype.IntervalArrayOID, []string{"interval"}},
	{pgtype.JSONOID, pgtype.JSONArrayOID, []string{"json"}},
	{pgtype.JSONBOID, pgtype.JSONBArrayOID, []string{"jsonb"}},
	{pgtype.UUIDOID, pgtype.UUIDArrayOID, []string{"uuid"}},
	{pgtype.ByteaOID, pgtype.ByteaArrayOID, []string{"bytea"}},
	{790, 791, []string{"money"}},
	{pgtype.InetOID, pgtype.InetArrayOID, []string{"inet"}},
	{pgtype.CIDROID, pgtype.CIDRArrayOID, []string{"cidr"}},
	{pgtype.MacaddrOID, 1040, []string{"macaddr"}},
	{774, 775, []string{"macaddr8"}},
	{pgtype.BitOID, pgtype.BitArrayOID, []string{"bit"}},
	{pgtype.VarbitOID, pgtype.VarbitArrayOID, []string{"bit varying", "varbit"}},
	{142, 143, []string{"xml"}},
	{3614, 3643, []string{"tsvector"}},
	{3615, 3645, []string{"tsquery"}},
	{pgtype.JSONPathOID, pgtype.JSONPathArrayOID, []string{"jsonpath"}},
	{pgtype.PointOID, pgtype.PointArrayOID, []string{"point"}},
	{pgtype.LsegOID, pgtype.LsegArrayOID, []string{"lseg"}},
	{pgtype.PathOID, pgtype.PathArrayOID, []string{"path"}},
	{pgtype.BoxOID, pgtype.BoxArrayOID, []string{"box"}},
	{pgtype.PolygonOID, pgtype.PolygonArrayOID, []string{"polygon"}},
	{pgtype.LineOID, pgtype.LineArrayOID, []string{"line"}},
	{pgtype.CircleOID, pgtype.CircleArrayOID, []string{"circle"}},
	{pgtype.Int4rangeOID, pgtype.Int4rangeArrayOID, []string{"int4range"}},
	{pgtype.Int8rangeOID, pgtype.Int8rangeArrayOID, []string{"int8range"}},
	{pgtype.NumrangeOID, pgtype.NumrangeArrayOID, []string{"numrange"}},
	{pgtype.TsrangeOID, pgtype.TsrangeArrayOID, []string{"tsrange"}},
	{pgtype.TstzrangeOID, pgtype.TstzrangeArrayOID, []string{"tstzrange"}},
	{pgtype.DaterangeOID, pgtype.DaterangeArrayOID, []string{"daterange"}},
	{pgtype.Int4multirangeOID, 6150, []string{"int4multirange"}},
	{pgtype.NummultirangeOID, 6151, []string{"nummultirange"}},
	{pgtype.TsmultirangeOID, 6152, []string{"tsmultirange"}},
	{pgtype.TstzmultirangeOID, 6153, []string{"tstzmultirange"}},
	{pgtype.DatemultirangeOID, 6155, []string{"datemultirange"}},
	{pgtype.Int8multirangeOID, 6157, []string{"int8multirange"}},
}

// declared is a column's type as format_type writes it: what a value must look like.
type declared struct {
	builtIn
	mods  []int // numeric(12,2): 12, 2
	array bool
}

var typeForm = regexp.MustCompile(`^("char"|[a-z][a-z0-9 ]*?) *(?:\( *(-?[0-9]+) *(?:, *(-?[0-9]+) *)?\))?((?: +[a-z][a-z ]*)?) *((?:\[[0-9]*\])*)$`)

// parseType reads a type as people write it: bigint, numeric(12,2), varchar(20)[], timestamp(3) with time zone.
func parseType(text string) (declared, bool) {
	text = strings.Join(strings.Fields(strings.ToLower(text)), " ")
	m := typeForm.FindStringSubmatch(text)
	if m == nil {
		return declared{}, false
	}
	name := m[1] + m[4]
	i := slices.IndexFunc(builtIns, func(b builtIn) bool { return slices.Contains(b.names, name) })
	if i < 0 {
		return declared{}, false
	}
	d := declared{builtIn: builtIns[i], array: m[5] != ""}
	for _, mod := range m[2:4] {
		if n, err := strconv.Atoi(mod); err == nil {
			d.mods = append(d.mods, n)
		}
	}
	if name == "char" || name == "character" || name == "bit" { // SQL's default; bpchar has none
		if d.mods == nil {
			d.mods = []int{1}
		}
	}
	return d, true
}

// String writes the type as format_type does.
func (d declared) String() string {
	name := d.names[0]
	if len(d.mods) > 0 {
		mods := make([]string, len(d.mods))
		for i, m := range d.mods {
			mods[i] = strconv.Itoa(m)
		}
		first, rest, _ := strings.Cut(name, " ") // timestamp(3) with time zone
		if rest != "" && strings.HasSuffix(rest, "time zone") {
			name = first + "(" + strings.Join(mods, ",") + ") " + rest
		} else {
			name += "(" + strings.Join(mods, ",") + ")"
		}
	}
	if d.oid == pgtype.BPCharOID && d.mods == nil {
		name = "bpchar"
	}
	if d.array {
		name += "[]"
	}
	return name
}

func (d declared) columnOID() uint32 {
	if d.array {
		return d.builtIn.array
	}
	return d.oid
}

func (d declared) elem() declared {
	d.array = false
	return d
}

// declaredTable is a table of `tables:`.
type declaredTable struct {
	node  strict.Node
	table *connector.Table
	types []declared // one a column
}

// identities are the replica identities by the words of ALTER TABLE.
var identities = map[string]connector.Identity{"default": connector.IdentityDefault, "full": connector.IdentityFull, "nothing": connector.IdentityNothing, "index": connector.IdentityIndex}

// tables reads `tables:`.
func (t *Tests) tables(n strict.Node, ps *strict.Problems) {
	for _, p := range n.Pairs() {
		schema, name, ok := splitTable(p.Key.Raw())
		if !ok {
			ps.Add(p.Key, `tables: want schema.table, with double quotes around a name that holds a dot: crm."a.b"`)
			continue
		}
		full := schema + "." + name
		if other, ok := t.declared[full]; ok {
			ps.Add(p.Key, "tables: %s is declared twice: already in %s:%d", full, other.node.File(), other.node.Line())
			continue
		}
		d := &declaredTable{node: p.Key, table: &connector.Table{Schema: schema, Name: name, Identity: connector.IdentityDefault}}
		t.declared[full] = d
		d.read(p.Value, ps)
	}
}

func (d *declaredTable) read(n strict.Node, ps *strict.Problems) {
	fields := n.Fields(strict.Names(TableKeys())...)
	if v, ok := fields["identity"].Enum("default", "full", "nothing", "index"); ok {
		d.table.Identity = identities[v]
	}
	columns := fields["columns"]
	if columns.IsZero() || columns.IsNull() {
		ps.AddHint(n, "For example columns: {order_id: bigint, amount: \"numeric(12,2)\"}; `tuzhan-cdc test --record-tables` writes them from the database.",
			"tables: %s has no columns", d.table)
		return
	}
	for _, p := range columns.Pairs() {
		text, ok := p.Value.Text()
		if !ok {
			continue
		}
		typ, ok := parseType(text)
		if !ok {
			ps.AddHint(p.Value, "Write an enum or a type of an extension (citext, hstore) as text, and a domain as the type below it; arrays end with [].",
				"tables: column %s: %q is no type of PostgreSQL's own", p.Key.Raw(), p.Value.Raw())
			typ, _ = parseType("text")
		}
		d.table.Columns = append(d.table.Columns, connector.Column{Name: p.Key.Raw(), TypeOID: typ.columnOID(), BaseOID: typ.columnOID(), TypeName: typ.String(),
			Key: d.table.Identity == connector.IdentityFull})
		d.types = append(d.types, typ)
	}
	key := fields["key"]
	if d.table.Identity == connector.IdentityNothing && !key.IsZero() {
		ps.Add(key, "tables: %s has identity nothing, so old rows have no key: take key out", d.table)
		return
	}
	for _, item := range key.Items() {
		name, ok := item.Text()
		if !ok {
			continue
		}
		i := d.table.Column(name)
		if i < 0 {
			ps.Add(item, "tables: key: %s has no column %s%s", d.table, name, near(name, d.table))
			continue
		}
		d.table.Columns[i].Key = true
	}
}

// near suggests a column.
func near(name string, t *connector.Table) string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	if s := strict.Suggest(name, names); s != "" {
		return fmt.Sprintf(": did you mean %s?", s)
	}
	return ""
}

// declare makes a declaredTable of one that the catalogue gave.
func declare(t *connector.Table) *declaredTable {
	d := &declaredTable{table: t}
	for i := range t.Columns {
		d.types = append(d.types, declaredOf(&t.Columns[i]))
	}
	return d
}

// declaredOf gives the type that a column of the catalogue is declared with: its own, or what it counts as.
func declaredOf(c *connector.Column) declared {
	if typ, ok := parseType(c.BaseName); ok && typ.columnOID() == c.BaseOID {
		return typ
	}
	for _, b := range builtIns {
		switch c.BaseOID {
		case b.oid:
			return declared{builtIn: b}
		case b.array:
			return declared{builtIn: b, array: true}
		}
	}
	typ, _ := parseType("text")
	return typ
}

// Declaration is a table as `tables:` declares it.
type Declaration struct {
	// Name is schema.table, quoted where need be.
	Name string
	tree *Tree
}

// Lines writes it as YAML: the name, and below it what it holds.
func (d Declaration) Lines() []Line {
	return (&Tree{form: treeObject, fields: []treeField{{name: d.Name, value: d.tree}}}).Lines()
}

// Declare writes a table of the catalogue as `tables:` declares it.
func Declare(t *connector.Table) Declaration {
	word := func(name string) string {
		if strings.ContainsAny(name, "\". \t\r\n") {
			return quoteIdentifier(name)
		}
		return name
	}
	columns, key := &Tree{form: treeObject}, &Tree{form: treeList}
	for i := range t.Columns {
		c := &t.Columns[i]
		columns.fields = append(columns.fields, treeField{name: c.Name, value: textTree(declaredOf(c).String())})
		if c.Key && t.Identity != connector.IdentityFull {
			key.items = append(key.items, textTree(c.Name))
		}
	}
	d := Declaration{Name: word(t.Schema) + "." + word(t.Name), tree: &Tree{form: treeObject}}
	if t.Identity != connector.IdentityDefault {
		d.tree.fields = append(d.tree.fields, treeField{name: "identity", value: textTree(identityWord(t.Identity))})
	}
	if len(key.items) > 0 {
		d.tree.fields = append(d.tree.fields, treeField{name: "key", value: key})
	}
	d.tree.fields = append(d.tree.fields, treeField{name: "columns", value: columns})
	return d
}

// Declared is where a table is declared, and what is there.
type Declared struct {
	// File and Line are where its name stands, Column where that begins.
	File         string
	Line, Column int
	// Differs says in which way it is not as the catalogue has it. Missing are columns that it does not name, which does no harm.
	Differs, Missing []string
}

// Compare compares the declaration of a table with the catalogue; ok is false where it is not declared.
func (t *Tests) Compare(real *connector.Table) (d Declared, ok bool) {
	declared := t.declared[real.String()]
	if declared == nil || declared.node.IsZero() {
		return Declared{}, false
	}
	d = Declared{File: declared.node.File(), Line: declared.node.Line(), Column: declared.node.Column()}
	own := declared.table
	if own.Identity != real.Identity {
		d.Differs = append(d.Differs, fmt.Sprintf("its replica identity is %s, not %s", identityWord(real.Identity), identityWord(own.Identity)))
	}
	for i := range real.Columns {
		c := &real.Columns[i]
		at := own.Column(c.Name)
		if at < 0 {
			d.Missing = append(d.Missing, c.Name)
			continue
		}
		if want, got := declaredOf(c).String(), declared.types[at].String(); want != got {
			d.Differs = append(d.Differs, fmt.Sprintf("column %s is %s, not %s", c.Name, want, got))
		}
		if c.Key != own.Columns[at].Key && own.Identity == real.Identity {
			d.Differs = append(d.Differs, fmt.Sprintf("column %s is %s of the replica identity", c.Name, map[bool]string{true: "a part", false: "no part"}[c.Key]))
		}
	}
	for _, c := range own.Columns {
		if real.Column(c.Name) < 0 {
			d.Differs = append(d.Differs, "there is no column "+c.Name)
		}
	}
	return d, true
}

func identityWord(i connector.Identity) string {
	for word, identity := range identities {
		if identity == i {
			return word
		}
	}
	return "unknown"
}
