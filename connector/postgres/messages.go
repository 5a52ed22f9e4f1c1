package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// parseBegin reads a Begin message: the commit LSN and time of the transaction, and its id. Begin and Commit come with each transaction, and allocate nothing.
func parseBegin(data []byte) (commit connector.LSN, at time.Time, xid uint32, err error) {
	b := buffer{rest: data[1:]}
	commit, at = connector.LSN(b.number64()), b.time()
	xid = b.number32()
	if b.cut {
		return 0, time.Time{}, 0, errCut
	}
	return commit, at, xid, b.end()
}

// parseCommit reads a Commit message: the LSN of the commit, and that of its end.
func parseCommit(data []byte) (commit, end connector.LSN, err error) {
	b := buffer{rest: data[1:]}
	b.number8() // flags
	commit, end = connector.LSN(b.number64()), connector.LSN(b.number64())
	b.number64() // the time, which Begin had
	if b.cut {
		return 0, 0, errCut
	}
	return commit, end, b.end()
}

// parse reads a message of pgoutput protocol 1 that is no row and comes rarely: Relation, Truncate, Type, Origin, Message. pglogrepl.Parse would take
// some that are cut short, and panics at others; here what is not exactly a message is an error.
// Formats: PostgreSQL documentation, "Logical Replication Message Formats".
func parse(data []byte) (pglogrepl.Message, error) {
	b := buffer{rest: data[1:]}
	var m pglogrepl.Message
	switch data[0] {
	case 'R':
		m = b.relation()
	case 'T':
		m = b.truncate()
	case 'Y':
		m = &pglogrepl.TypeMessage{DataType: b.number32(), Namespace: b.text(), Name: b.text()}
	case 'O':
		m = &pglogrepl.OriginMessage{CommitLSN: b.lsn(), Name: b.text()}
	case 'M':
		m = b.logical()
	default:
		return nil, fmt.Errorf("%q is no message that is known", data[0])
	}
	if b.cut {
		return nil, errCut
	}
	return m, b.end()
}

func (b *buffer) relation() *pglogrepl.RelationMessage {
	m := &pglogrepl.RelationMessage{RelationID: b.number32(), Namespace: b.text(), RelationName: b.text(), ReplicaIdentity: b.number8()}
	m.ColumnNum = b.number16()
	for range m.ColumnNum {
		c := &pglogrepl.RelationMessageColumn{Flags: b.number8(), Name: b.text(), DataType: b.number32(), TypeModifier: int32(b.number32())}
		if b.cut { // what is announced is not believed before it is there
			return nil
		}
		m.Columns = append(m.Columns, c)
	}
	return m
}

func (b *buffer) truncate() *pglogrepl.TruncateMessage {
	m := &pglogrepl.TruncateMessage{RelationNum: b.number32(), Option: b.number8()}
	for i := uint32(0); i < m.RelationNum && !b.cut; i++ {
		m.RelationIDs = append(m.RelationIDs, b.number32())
	}
	return m
}

func (b *buffer) logical() *pglogrepl.LogicalDecodingMessage {
	m := &pglogrepl.LogicalDecodingMessage{Transactional: b.number8()&1 != 0, LSN: b.lsn(), Prefix: b.text()}
	size := b.number32()
	if uint64(size) > uint64(len(b.rest)) {
		b.cut = true
		return nil
	}
	m.Content, b.rest = b.rest[:size:size], b.rest[size:]
	return m
}

// The readers below give 0 and set cut where too little is left.

func (b *buffer) number8() byte {
	n, ok := b.byte()
	b.cut = b.cut || !ok
	return n
}

func (b *buffer) number16() uint16 {
	n, ok := b.uint16()
	b.cut = b.cut || !ok
	return n
}

func (b *buffer) number32() uint32 {
	n, ok := b.uint32()
	b.cut = b.cut || !ok
	return n
}

func (b *buffer) number64() uint64 {
	if len(b.rest) < 8 {
		b.cut = true
		return 0
	}
	n := binary.BigEndian.Uint64(b.rest)
	b.rest = b.rest[8:]
	return n
}

func (b *buffer) lsn() pglogrepl.LSN { return pglogrepl.LSN(b.number64()) }

// postgresEpoch is 2000-01-01, from which PostgreSQL counts microseconds.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

func (b *buffer) time() time.Time { return time.UnixMicro(postgresEpoch + int64(b.number64())) }

// text reads a string that a zero byte ends.
func (b *buffer) text() string {
	end := bytes.IndexByte(b.rest, 0)
	if end < 0 {
		b.cut = true
		return ""
	}
	s := string(b.rest[:end])
	b.rest = b.rest[end+1:]
	return s
}
