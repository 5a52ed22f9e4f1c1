package mapping

import (
	"bytes"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Numbers of the records that one update may make.
const (
	removal  = 0 // the delete, or the only record
	addition = 1 // the add that goes with a delete
)

// groupRelation makes the records of a group relation.
func (m *mapper) groupRelation(b *bound, out *connector.Output) error {
	r := &m.row
	opt := b.opt.byOp[r.change.Op]
	if b.optValue != nil {
		text, ok, err := b.optValue.text(r)
		if err == nil && (!ok || !isOneOf(text, optTypes())) {
			err = fail("it gave neither add, update nor delete")
		}
		if err != nil {
			return under(err, "optType", b.opt.value.node)
		}
		for _, name := range optTypes() {
			if name == string(text) {
				opt = name
			}
		}
	}
	payload, err := m.encode(b, m.buffer[:0])
	m.buffer = payload
	if err != nil {
		return err
	}
	if r.change.Op == connector.Update && b.opt.compare {
		return m.groupUpdate(b, out, payload)
	}
	m.record(b, out, payload, removal, b.envelopes[opt], opt)
	return nil
}

// standing is what a row says about a customer and groups.
type standing struct {
	identity, groups []byte
	keys             []uint64
}

func (r *row) standing() standing {
	return standing{bytes.Clone(r.identity), bytes.Clone(r.groups), append([]uint64(nil), r.keys...)}
}

// groupUpdate compares an update with the old row: what this mapping would have made of that, had it been the current one.
//
//	the old row is not known                       update
//	the old row did not satisfy `when`, or could
//	not make a payload (no customer, say)          add
//	another customer                               delete of the old, add of the new; with onChange: replace only those that have groups
//	the same customer, other groups                update; with onChange: replace a delete of those that went, an add of those that came
//	nothing changed                                nothing
func (m *mapper) groupUpdate(b *bound, out *connector.Output, payload []byte) error {
	r := &m.row
	now := r.standing()
	emit := func(payload []byte, s standing, number int, opt string) {
		r.keys = s.keys
		m.record(b, out, payload, number, b.envelopes[opt], opt)
	}
	r.turnBack()
	defer r.set(r.change)
	if b.when != nil {
		was, err := b.when.condition(r)
		switch {
		case err != nil:
			emit(payload, now, removal, "update")
			return nil
		case !was:
			emit(payload, now, removal, "add")
			return nil
		}
	}
	old, err := m.encode(b, m.other[:0])
	m.other = old
	switch {
	case isUnknown(err):
		emit(payload, now, removal, "update")
		return nil
	case err != nil:
		emit(payload, now, removal, "add")
		return nil
	}
	before := r.standing()
	switch {
	case !bytes.Equal(before.identity, now.identity):
		// With replace a record without a group says nothing, and what the platform makes of a delete that names none is not documented.
		bare := b.replace && b.mapping.payload.field("groups") != nil
		if !bare || len(before.groups) > 0 {
			emit(old, before, removal, "delete")
		}
		if !bare || len(now.groups) > 0 {
			emit(payload, now, addition, "add")
		}
	case bytes.Equal(before.groups, now.groups):
	case !b.replace:
		emit(payload, now, removal, "update")
	default:
		return m.groupReplace(b, before, now, emit)
	}
	return nil
}

// groupReplace sends the groups that went and those that came.
func (m *mapper) groupReplace(b *bound, before, now standing, emit func([]byte, standing, int, string)) error {
	r := &m.row
	defer func() { r.only = nil }()
	part := func(groups []byte, s standing, number int, opt string) error {
		if len(groups) == 0 {
			return nil
		}
		r.only = groups
		payload, err := m.encode(b, m.buffer[:0])
		m.buffer = payload
		if err == nil {
			emit(payload, s, number, opt)
		}
		return err
	}
	if err := part(without(before.groups, now.groups), before, removal, "delete"); err != nil {
		return err
	}
	r.set(r.change)
	return part(without(now.groups, before.groups), now, addition, "add")
}

// without gives the names of a that b does not have; each name is ended by a comma.
func without(a, b []byte) []byte {
	has := map[string]bool{}
	for name := range bytes.SplitSeq(b, []byte{','}) {
		has[string(name)] = true
	}
	var rest []byte
	for name := range bytes.SplitSeq(a, []byte{','}) {
		if len(name) > 0 && !has[string(name)] {
			has[string(name)] = true
			rest = append(append(rest, name...), ',')
		}
	}
	return rest
}
