package mapping

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Options say how a mapper reads rows and names records.
type Options struct {
	// SystemID and Database name where the changes come from; both go into the uuids of events.
	SystemID, Database string
	// TimeZone reads timestamps without time zone; nil is UTC.
	TimeZone *time.Location
	// PointDecrease says that platform.paths.pointDecrease is set: negative points can be sent.
	PointDecrease bool
	// Counters counts the changes of tables and mappings; nil: they are not counted.
	Counters *connector.Counters
}

// Mapper gives a mapper for the set's mappings. It compiles them for a table's shape when the first change of that shape comes, and
// is not safe for concurrent use. The set must have been decoded without problems.
func (s *Set) Mapper(o Options) connector.Mapper {
	return &mapper{set: s, options: o, shapes: map[*connector.Table]*shape{}, row: row{zone: o.zone()}}
}

type mapper struct {
	set     *Set
	options Options
	shapes  map[*connector.Table]*shape // by identity: a *Table never changes
	row     row
	buffer  []byte
	other   []byte // of a group relation's old row
}

// shape is what is known of a table's shape.
type shape struct {
	mappings []*bound
	changes  *atomic.Uint64 // nil: not counted
}

// maxShapes bounds the cache: a table that is altered again and again must not fill the memory.
const maxShapes = 10_000

func commitMicros(c *connector.Change) int64 { return c.CommitTime.UnixMicro() }

// Map appends what the mappings of part make of c, in the order of the file. A mapping that can't read the table as it was at the change (a
// column is gone or has another type, or the replica identity did not carry an old column that it came to) is a misfit.
func (m *mapper) Map(c *connector.Change, part connector.Part, out *connector.Output) {
	s := m.shapes[c.Table]
	if s == nil {
		s = m.bind(c.Table)
	}
	if s.changes != nil && part.Only == "" { // a mapping that goes by itself sees it again
		s.changes.Add(1)
	}
	if len(s.mappings) == 0 {
		return
	}
	m.row.set(c)
	m.row.placed = false
	for _, b := range s.mappings {
		if !b.ops[c.Op] || !part.Has(b.name) {
			continue
		}
		if b.err != nil {
			out.Misfits = append(out.Misfits, connector.Misfit{DeadLetter: m.letter(b, b.err), Unfit: b.unfit})
			continue
		}
		if b.changes != nil {
			b.changes.Add(1)
		}
		before := len(out.Records)
		if err := m.apply(b, out); err != nil {
			out.Records = out.Records[:before]
			m.row.set(c)
			if lacksIdentity(err) {
				err = fewer(err, b.name)
				out.Misfits = append(out.Misfits, connector.Misfit{DeadLetter: m.letter(b, err), Unfit: b.lacking(err)})
				continue
			}
			l := m.letter(b, err)
			l.Uncounted = part.Aside != ""
			out.Letters = append(out.Letters, l)
		}
		out.Placed = out.Placed || m.row.placed
		if b.readable(c) {
			out.Fits++
		}
		if n := len(out.Records); part.Aside != "" && n > before {
			l := m.letter(b, fail("%s", part.Aside))
			l.Uncounted = true
			out.Records = out.Records[:before]
			out.Letters = append(out.Letters, l)
		}
	}
}

// readable reports whether the change shows that the mapping can read its table: the replica identity, or the change, must carry the
// old columns that it reads.
func (b *bound) readable(c *connector.Change) bool {
	for _, i := range b.olds {
		if !c.Table.Columns[i].Key && (i >= len(c.Old) || c.Old[i].Kind == connector.Absent) {
			return false
		}
	}
	return true
}

// fewer adds to a failure for want of an old column what becomes of the changes that lack it.
func fewer(err error, mapping string) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	g := *f
	return g.hint("%s; those until then can only be given up: tuzhan-cdc deadletters set-aside --mapping %s", f.cure, mapping)
}

// lacking says why a mapping can't go on that came to an old column which the change lacks.
func (m *mapping) lacking(err error) connector.Unfit {
	var f *failure
	if !errors.As(err, &f) {
		return connector.Unfit{Why: err.Error()}
	}
	at, path := f.at, f.path
	if at.IsZero() {
		at = m.node
	}
	if path != "" {
		path += ": "
	}
	return connector.Unfit{Why: fmt.Sprintf("%s:%d: %s%s", at.File(), at.Line(), path, f.text), Cure: f.cure}
}

// bind compiles the mappings of a table for a shape that came for the first time.
func (m *mapper) bind(table *connector.Table) *shape {
	if len(m.shapes) >= maxShapes {
		clear(m.shapes)
	}
	s := &shape{}
	counters := m.options.Counters
	for _, x := range m.set.mappings {
		if x.schema != table.Schema || x.table != table.Name {
			continue
		}
		var ps strict.Problems
		b := x.bind(table, &m.options, &ps)
		if err := ps.Err(); err != nil {
			b = &bound{mapping: x, tableName: table.String(), err: misfit(table, ps.All()), unfit: x.misfit(table, ps.All())}
		}
		if counters != nil {
			b.changes = &counters.Mapping(x.name).Changes
		}
		s.mappings = append(s.mappings, b)
	}
	if counters != nil {
		s.changes = counters.Table(table.String())
	}
	m.shapes[table] = s
	return s
}

// misfit says why a mapping can't read a table's shape.
func misfit(table *connector.Table, problems []strict.Problem) error {
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
		if p.Hint != "" {
			texts[i] += " (" + p.Hint + ")"
		}
	}
	return fail("it can't read table %s as it was at this change: %s", table, strings.Join(texts, "; "))
}

// apply makes the records of one mapping; an error becomes a dead letter.
func (m *mapper) apply(b *bound, out *connector.Output) error {
	r := &m.row
	if b.when != nil {
		wanted, err := b.when.condition(r)
		if err != nil {
			return under(err, "when", b.node)
		}
		if !wanted {
			return nil
		}
	}
	if b.kind == connector.GroupRelation {
		return m.groupRelation(b, out)
	}
	rec := out.Record()
	var err error
	if rec.Payload, err = m.encode(b, rec.Payload[:0]); err != nil {
		out.Recycle(rec)
		return err
	}
	envelope := ""
	if b.kind == connector.Event {
		envelope = b.envelope
	}
	m.finish(b, out, rec, 0, envelope, "")
	return nil
}

// encode appends the payload of the row as it stands, and leaves the order keys in the row.
func (m *mapper) encode(b *bound, dst []byte) ([]byte, error) {
	r := &m.row
	r.begin()
	dst, ok, err := b.payload.encode(dst, r)
	if err != nil {
		return dst, under(err, "", b.node)
	}
	if !ok {
		return dst, under(fail("it names no customer: %s null or empty", areAll(b.payload.customers)), "", b.mapping.payload.node)
	}
	if b.orderBy != nil {
		v, err := b.orderBy.run(r)
		if err == nil && v == nil {
			err = fail("the value is null").hint("give it a default: x ?? ...")
		}
		if err == nil {
			r.text, err = appendText(r.text[:0], v)
		}
		if err != nil {
			return dst, under(err, "orderBy", b.mapping.orderBy.node)
		}
		r.keys = append(r.keys[:0], connector.KeyHash(r.text))
	}
	return dst, nil
}

func areAll(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, ", ") + " are all"
}

// record makes a record with a copy of a payload.
func (m *mapper) record(b *bound, out *connector.Output, payload []byte, number int, envelope, optType string) {
	rec := out.Record()
	rec.Payload = append(rec.Payload, payload...)
	m.finish(b, out, rec, number, envelope, optType)
}

// finish makes a record of one that has its payload.
func (m *mapper) finish(b *bound, out *connector.Output, rec *connector.Record, number int, envelope, optType string) {
	r := &m.row
	c := r.change
	rec.RecordID = connector.RecordID{Mapping: b.name, Position: c.Position, CommitTime: c.CommitTime, Number: number,
		Backfill: c.Backfill, Row: c.Row}
	rec.Kind, rec.Envelope, rec.OptType, rec.Decrease, rec.Resend, rec.Table = b.kind, envelope, optType, r.decrease, b.resend, b.tableName
	rec.Keys = append(rec.Keys, r.keys...)
	out.Records = append(out.Records, rec)
}

// letter makes the dead letter of a change that b could not map.
func (m *mapper) letter(b *bound, err error) *connector.DeadLetter {
	c := m.row.change
	l := &connector.DeadLetter{
		RecordID: connector.RecordID{Mapping: b.name, Position: c.Position, CommitTime: c.CommitTime, Backfill: c.Backfill, Row: c.Row},
		Class:    connector.ClassMapping, Kind: b.kind, Table: b.tableName, Reason: b.reason(err), Change: ChangeJSON(c), Created: time.Now().UTC(),
	}
	if b.kind == connector.GroupRelation {
		l.Number, l.Keys = connector.WholeChange, valueKeys(c)
	}
	return l
}

// valueKeys gives the order keys that a record of the change may have had: one for each value of its rows. So a newer record of the same customer is known to be
// one, where the identity is a column as it is.
func valueKeys(c *connector.Change) []uint64 {
	var keys []uint64
	for _, tuple := range []connector.Tuple{c.New, c.Old} {
		for _, d := range tuple {
			if d.Kind == connector.Text && len(d.Text) > 0 && len(d.Text) <= longestKey {
				keys = append(keys, connector.KeyHash(d.Text))
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// longestKey is how long a value may be that can identify a customer.
const longestKey = 256

// reason says what failed where, and what would help: mapping, file and line, field, cause, cure.
func (m *mapping) reason(err error) string {
	f, ok := err.(*failure)
	if !ok {
		f = fail("%s", "the row can't be mapped")
	}
	at := f.at
	if at.IsZero() {
		at = m.node
	}
	text := fmt.Sprintf("mapping %s (%s:%d): ", m.name, at.File(), at.Line())
	if f.path != "" {
		text += f.path + ": "
	}
	text += f.text
	if f.cure != "" {
		text += "; " + f.cure
	}
	return text
}
