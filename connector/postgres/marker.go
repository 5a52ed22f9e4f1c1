package postgres

import (
	"bytes"
	"errors"

	"github.com/jackc/pglogrepl"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// The skip marker: a transaction that begins with
//
//	SELECT pg_logical_emit_message(true, 'tuzhan_cdc', 'skip')
//
// is settled without records.
const (
	markerPrefix  = "tuzhan_cdc"
	markerContent = "skip"
)

// watermarkContent begins the watermarks of backfills, which have the same prefix. Each is a transaction of its own: so it is flushed at once, and stands in the
// stream where that was committed.
const watermarkContent = "backfill "

// messagesSince is the first version whose pgoutput has the option messages. An older one refuses it.
const messagesSince = 14

// pluginArgs are the options of START_REPLICATION. messages says that logical messages are sent: that takes the server's version (the parameter
// server_version of the connection) to have the option.
func pluginArgs(names []string, serverVersion string) (args []string, messages bool) {
	args = []string{"proto_version '1'", "publication_names " + literal(publicationList(names))}
	if major(serverVersion) >= messagesSince {
		return append(args, "messages 'true'"), true
	}
	return args, false
}

// major gives the first number of a version such as "17.6 (Debian 17.6-1)" or "19beta1"; 0 where there is none.
func major(version string) (n int) {
	for _, c := range []byte(version) {
		if c < '0' || c > '9' || n > 1000 {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// isMarker reports whether a logical message is the skip marker.
func isMarker(m *pglogrepl.LogicalDecodingMessage) bool {
	return m.Transactional && m.Prefix == markerPrefix && string(m.Content) == markerContent
}

// logicalMessage acts on a logical message: the marker begins a transaction that is skipped, all others pass over.
func (s *stream) logicalMessage(m *pglogrepl.LogicalDecodingMessage) error {
	switch {
	case m.Transactional && !s.inTx:
		return errors.New("a transactional message came outside a transaction")
	case m.Transactional && m.Prefix == markerPrefix && bytes.HasPrefix(m.Content, []byte(watermarkContent)):
		if err := s.releaseFirst(); err != nil { // of somebody who imitates them
			return err
		}
		s.sink.Watermark(string(m.Content[len(watermarkContent):]), connector.Position{Commit: s.commit, Index: s.index})
		return nil
	case !isMarker(m) || s.skip:
		return nil
	case s.index == 0 && (s.first.empty() || connector.LSN(m.LSN) <= s.first.start): // its LSN is where it ends in the WAL
		s.skip = true
		return s.releaseFirst()
	}
	if s.commit > s.src.lateMarker { // once, though the transaction may come again
		s.src.lateMarker = s.commit
		s.src.log.Warn("a skip marker is ignored, because row changes of its transaction came before it: it must be the first statement", "commit", s.commit)
	}
	return s.releaseFirst()
}

// firstRows holds back the rows of a transaction's first WAL record until the next message is there. Where the marker stands in a subtransaction
// and a row of the transaction itself follows at once, the server sends the row first: it sorts by LSN, that of a message is its end, which is where
// the row's record starts, and of two that are equal the transaction's own comes first. (Seen on 15 and 17.)
type firstRows struct {
	start connector.LSN // of the record
	data  []byte
	ends  []int // of each row message in data
}

// firstRowsBytes bounds what is held back beyond the first row: a WAL record of many rows (COPY) is of one page, but values stored out of line come with it.
const firstRowsBytes = 1 << 20

func (f *firstRows) empty() bool { return len(f.ends) == 0 }

// add holds a row message back; false: it is of another record, or there is no room.
func (f *firstRows) add(start connector.LSN, data []byte) bool {
	if !f.empty() && (start != f.start || len(f.data)+len(data) > firstRowsBytes) {
		return false
	}
	f.start = start
	f.data = append(f.data, data...)
	f.ends = append(f.ends, len(f.data))
	return true
}

// drop forgets all, and a large buffer with it.
func (f *firstRows) drop() {
	f.data, f.ends = f.data[:0], f.ends[:0]
	if cap(f.data) > firstRowsBytes {
		f.data = nil
	}
}

// takeRow takes a row message whose WAL record starts at start.
func (s *stream) takeRow(start connector.LSN, data []byte) error {
	if s.messages && s.inTx && !s.skip && s.index == 0 {
		if s.first.add(start, data) {
			return nil
		}
		if err := s.releaseFirst(); err != nil {
			return err
		}
	}
	return s.rowMessage(data)
}

// releaseFirst hands over the rows that were held back.
func (s *stream) releaseFirst() error {
	if s.first.empty() {
		return nil
	}
	defer s.first.drop()
	at := 0
	for _, end := range s.first.ends {
		if err := s.rowMessage(s.first.data[at:end]); err != nil {
			return err
		}
		at = end
	}
	return nil
}
