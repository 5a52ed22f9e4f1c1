package mapping

import (
	"crypto/sha1"
	"strconv"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// uuidSpace is the name space of the connector's uuids: a uuid of its own, made once. It must never change.
var uuidSpace = [16]byte{0x6f, 0x1c, 0x8e, 0x52, 0x2b, 0x0d, 0x4d, 0x7a, 0x9c, 0x41, 0x7e, 0x5f, 0x03, 0xb6, 0xa8, 0xd4}

// uuidPrefix is what goes into all uuids of one mapping: the name space, and the parts of the name that stay.
func uuidPrefix(systemID, database, mapping string) []byte {
	prefix := append([]byte{}, uuidSpace[:]...)
	for _, part := range []string{systemID, database, mapping} {
		prefix = append(append(prefix, part...), 0)
	}
	return prefix
}

// uuidPlan is an event's uuid, and relateBizCode of a point of the open API. Where none is mapped, or it is null, it is a UUIDv5 (RFC 9562) of
// system identifier, database, mapping, position, commit time in microseconds and number: the same whenever the change is mapped again, and
// another one for a change that got the same LSN after a failover. Of a row that a backfill has read it is one of system identifier, database, mapping,
// table, the row's key and number: the same in every backfill.
type uuidPlan struct {
	mapped *textPlan // nil: none
	prefix []byte
}

func (u *uuidPlan) encode(dst []byte, r *row) ([]byte, bool, error) {
	if u.mapped != nil {
		start := len(dst)
		out, ok, err := u.mapped.encode(dst, r)
		if err != nil || ok && len(out)-start > 2 {
			return out, ok, err
		}
	}
	if c := r.change; c.Op == connector.Snapshot {
		r.text = appendRowName(append(r.text[:0], u.prefix...), c.Table, c.Row, r.number)
	} else {
		r.placed = true
		r.text = appendName(append(r.text[:0], u.prefix...), c.Position, commitMicros(c), r.number)
	}
	return append(appendUUID(append(dst, '"'), r.text), '"'), true, nil
}

// RecordUUID gives the uuid that a record of the stream has where none is mapped: an event's uuid, or relateBizCode of a point of the open API. It needs no
// payload.
func RecordUUID(systemID, database string, id connector.RecordID) string {
	return string(appendUUID(nil, appendName(uuidPrefix(systemID, database, id.Mapping), id.Position, id.CommitTime.UnixMicro(), id.Number)))
}

// appendName appends to a prefix what names one record of the mapping.
func appendName(prefix []byte, p connector.Position, micros int64, number int) []byte {
	name := append(appendPosition(prefix, p), 0)
	name = append(strconv.AppendInt(name, micros, 10), 0)
	return strconv.AppendInt(name, int64(number), 10)
}

// appendRowName appends to a prefix what names one record that a backfill makes of a row.
func appendRowName(prefix []byte, t *connector.Table, row string, number int) []byte {
	name := prefix
	for _, part := range []string{"snapshot", t.Schema, t.Name, row} { // no position begins so
		name = append(append(name, part...), 0)
	}
	return strconv.AppendInt(name, int64(number), 10)
}

// appendUUID appends the UUIDv5 of a name that has its name space in front.
func appendUUID(dst, name []byte) []byte {
	sum := sha1.Sum(name)
	sum[6] = sum[6]&0x0f | 0x50
	sum[8] = sum[8]&0x3f | 0x80
	for i, c := range sum[:16] {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
	}
	return dst
}
