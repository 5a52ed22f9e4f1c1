package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// errCut says that a message ended before what it announced. The stream stops at it: nothing is skipped.
var errCut = errors.New("the message is cut short")

// row is an insert, update or delete message of pgoutput protocol 1, taken apart without copying: its tuples point into the message.
// Formats: PostgreSQL documentation, "Logical Replication Message Formats".
type row struct {
	op       connector.Op
	relation uint32
	oldKind  byte // 'K': only the identity's columns; 'O': the whole old row; 0: none was sent
	old, new connector.Tuple
}

// parse reads a message whose first byte is I, U or D. The tuples' memory is used again by the next call.
func (r *row) parse(data []byte) error {
	b := buffer{rest: data[1:]}
	r.oldKind, r.old, r.new = 0, r.old[:0], r.new[:0]
	relation, ok := b.uint32()
	if !ok {
		return errCut
	}
	r.relation = relation
	kind, ok := b.byte()
	if !ok {
		return errCut
	}
	var err error
	switch data[0] {
	case 'I':
		r.op = connector.Insert
	case 'U':
		r.op = connector.Update
		if kind == 'K' || kind == 'O' {
			r.oldKind = kind
			if r.old, err = b.tuple(r.old); err != nil {
				return err
			}
			if kind, ok = b.byte(); !ok {
				return errCut
			}
		}
	case 'D':
		r.op = connector.Delete
		if kind != 'K' && kind != 'O' {
			return fmt.Errorf("a delete's tuple is of kind %q", kind)
		}
		r.oldKind = kind
		if r.old, err = b.tuple(r.old); err != nil {
			return err
		}
		return b.end()
	default:
		return fmt.Errorf("%q is no row message", data[0])
	}
	if kind != 'N' {
		return fmt.Errorf("a new tuple is of kind %q", kind)
	}
	if r.new, err = b.tuple(r.new); err != nil {
		return err
	}
	return b.end()
}

// buffer is what is left of a message. cut says that more was asked for than was there (by the readers of messages.go).
type buffer struct {
	rest []byte
	cut  bool
}

func (b *buffer) byte() (byte, bool) {
	if len(b.rest) < 1 {
		return 0, false
	}
	c := b.rest[0]
	b.rest = b.rest[1:]
	return c, true
}

func (b *buffer) uint16() (uint16, bool) {
	if len(b.rest) < 2 {
		return 0, false
	}
	n := binary.BigEndian.Uint16(b.rest)
	b.rest = b.rest[2:]
	return n, true
}

func (b *buffer) uint32() (uint32, bool) {
	if len(b.rest) < 4 {
		return 0, false
	}
	n := binary.BigEndian.Uint32(b.rest)
	b.rest = b.rest[4:]
	return n, true
}

func (b *buffer) end() error {
	if len(b.rest) > 0 {
		return fmt.Errorf("%d bytes follow the message's end", len(b.rest))
	}
	return nil
}

// tuple appends TupleData to t.
func (b *buffer) tuple(t connector.Tuple) (connector.Tuple, error) {
	n, ok := b.uint16()
	if !ok {
		return t, errCut
	}
	for range n {
		kind, ok := b.byte()
		if !ok {
			return t, errCut
		}
		switch kind {
		case 'n':
			t = append(t, connector.Datum{Kind: connector.Null})
		case 'u':
			t = append(t, connector.Datum{Kind: connector.Unchanged})
		case 't':
			size, ok := b.uint32()
			if !ok || uint64(size) > uint64(len(b.rest)) {
				return t, errCut
			}
			t = append(t, connector.Datum{Kind: connector.Text, Text: b.rest[:size:size]})
			b.rest = b.rest[size:]
		default:
			return t, fmt.Errorf("a column is of kind %q, which text format does not have", kind)
		}
	}
	return t, nil
}

// fill makes the row's tuples what connector.Change promises, given the shape of its table: what was not sent is Absent (never null), an
// unchanged TOAST value comes from the old row where that has it, and an update always has an old row. p is nil for a table without partitions.
func (r *row) fill(t *connector.Table, p *partitioned) error {
	if r.op != connector.Delete && len(r.new) != len(t.Columns) {
		return fmt.Errorf("a row of %s has %d columns, its Relation message %d", t, len(r.new), len(t.Columns))
	}
	if r.oldKind != 0 && len(r.old) != len(t.Columns) {
		return fmt.Errorf("an old row of %s has %d columns, its Relation message %d", t, len(r.old), len(t.Columns))
	}
	if r.oldKind == 'K' || r.oldKind == 'O' && p != nil && p.weak {
		// The columns of an identity are NOT NULL: what is null in a 'K' was not sent. Which those are, and whether a tuple is called 'K' or 'O', the
		// server says by the identity of a partitioned table's root; what it sends is by that of the partition.
		for i := range r.old {
			if r.old[i].Kind != connector.Text {
				r.old[i] = connector.Datum{}
			}
		}
	}
	switch {
	case r.oldKind != 0:
		if r.op == connector.Update {
			for i := range r.new { // under a 'K' too: one comes for a long key that an update left alone, as for a key that changed
				if r.new[i].Kind == connector.Unchanged && r.old[i].Kind == connector.Text {
					r.new[i] = r.old[i]
				}
			}
		}
	case r.op == connector.Update:
		for i := range t.Columns {
			d := connector.Datum{}
			// No old row was sent, so the identity stayed as it was.
			if p != nil && p.keys[i] || p == nil && t.Columns[i].Key && t.Identity != connector.IdentityFull {
				d = r.new[i]
			}
			r.old = append(r.old, d)
		}
	}
	return nil
}
