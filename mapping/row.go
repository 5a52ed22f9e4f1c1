package mapping

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr/vm"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// side says which row a column is read from.
type side uint8

const (
	bareSide side = iota // by its bare name: the new row's, the old row's on delete
	newSide
	oldSide
)

func (s side) String() string {
	switch s {
	case newSide:
		return "new"
	case oldSide:
		return "old"
	}
	return "bare"
}

// column is a column as a compiled expression reads it.
type column struct {
	side  side
	name  string
	index int // -1: the table does not have it (get only)
	typ   columnType
	// soft gives null where there is no such row: old?.x and get.
	soft bool
}

// row is the change that is being mapped: the env of compiled expressions. A mapper has one and uses it again for each change.
type row struct {
	change *connector.Change
	// bare, new and old are the rows that the three ways to name a column read; nil where there is none.
	bare, new, old connector.Tuple
	zone           *time.Location
	vm             vm.VM

	// What plans leave behind while they encode.
	keys     []uint64 // order keys: hashes of the customer's identity values
	identity []byte   // the identity values themselves, for a group relation's comparison of old and new
	groups   []byte   // the group names, each ended by a comma
	decrease bool
	placed   bool // the change's position was asked for

	// only, where it is not nil, are the groups to send instead of the row's, each ended by a comma.
	only   []byte
	number int // of the record within its change

	mixed, text, json []byte // scratch: of text with expressions in it, of one value, of JSON within JSON
}

// begin forgets what the last record left behind.
func (r *row) begin() {
	r.keys, r.identity, r.groups, r.decrease = r.keys[:0], r.identity[:0], r.groups[:0], false
}

// addKey notes an order key, once.
func (r *row) addKey(hash uint64) {
	for _, k := range r.keys {
		if k == hash {
			return
		}
	}
	r.keys = append(r.keys, hash)
}

// set points r at a change.
func (r *row) set(c *connector.Change) {
	r.change, r.new, r.old, r.number = c, c.New, c.Old, 0
	r.bare = c.New
	if c.Op == connector.Delete {
		r.bare = c.Old
	}
}

// turnBack points r at the old row as if it were the current one: what did this mapping make of the row before the update?
func (r *row) turnBack() { r.bare, r.new, r.old = r.change.Old, r.change.Old, nil }

// tuple gives the row of a side, or nil.
func (r *row) tuple(s side) connector.Tuple {
	switch s {
	case newSide:
		return r.new
	case oldSide:
		return r.old
	}
	return r.bare
}

// read gives a column as PostgreSQL sent it: of kind Null or Text. What is unknown is a failure.
func (r *row) read(c *column) (connector.Datum, error) {
	tuple := r.tuple(c.side)
	if tuple == nil || c.index < 0 {
		if c.soft {
			return connector.Datum{Kind: connector.Null}, nil
		}
		return connector.Datum{}, noRow(c, r.change.Op)
	}
	if c.index >= len(tuple) {
		return connector.Datum{}, unknownColumn(c, r.change.Table, "was not sent")
	}
	switch d := tuple[c.index]; d.Kind {
	case connector.Null:
		return d, nil
	case connector.Text:
		if !utf8.Valid(d.Text) {
			return d, fail("column %s holds bytes that are no UTF-8", c.name).
				hint("a database in SQL_ASCII keeps what clients have sent: write the value again as UTF-8; that change is then read")
		}
		return d, nil
	case connector.Unchanged:
		return d, unknownColumn(c, r.change.Table, "is unknown: PostgreSQL does not send a long value that an update left alone")
	}
	f := unknownColumn(c, r.change.Table, "is unknown: the table's replica identity does not carry it")
	f.identity = c.side == oldSide || c.side == bareSide && r.change.Op == connector.Delete
	return connector.Datum{}, f
}

func noRow(c *column, op connector.Op) error {
	f := fail("there is no row to read %s from", c.name)
	switch c.side {
	case oldSide:
		f = fail("there is no old row to read %s from: %s has none", c.name, op).hint("write old?.%s, which is then nil", c.name)
	case newSide:
		f = fail("there is no new row to read %s from: %s has none", c.name, op).hint("write %s, which is the old row's on delete", c.name)
	}
	f.unknown = true
	return f
}

func unknownColumn(c *column, t *connector.Table, why string) *failure {
	f := fail("column %s %s", c.name, why).hint("%s -- sends it with later changes", identityCure(t))
	if t.Identity == connector.IdentityFull { // the table's own would carry it
		f.hint("the partition that the row is in has another replica identity than its table: tuzhan-cdc check names it; REPLICA IDENTITY FULL sends it with later changes")
	}
	f.unknown = true
	return f
}

// value gives a column as a value of expressions.
func (r *row) value(c *column) (any, error) {
	d, err := r.read(c)
	if err != nil || d.Kind == connector.Null {
		return nil, err
	}
	v, err := c.typ.decode(d.Text, r.zone)
	if err != nil {
		return nil, c.failed(err)
	}
	return v, nil
}

// failed says of which column a value could not be used.
func (c *column) failed(err error) error {
	if err == nil {
		return nil
	}
	if f, ok := err.(*failure); ok {
		g := *f
		if what, ok := strings.CutPrefix(f.text, "the value "); ok {
			g.text = "column " + c.name + " " + what
		}
		return &g
	}
	return err
}
