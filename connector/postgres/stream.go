package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Timing of the conversation with the server.
const (
	// tick is how long a read may block: then the loop looks at everything else.
	tick = 200 * time.Millisecond
	// statusEvery is how often the server hears from us: well below any sensible wal_sender_timeout, and also when that is 0 and the
	// server asks for nothing.
	statusEvery = time.Second
	// replyAtLeast caps the answers to keep-alives that ask for one, to ten a second.
	replyAtLeast = 100 * time.Millisecond
	// writeTimeout bounds a status message: a server that does not take 34 bytes in so long is gone.
	writeTimeout = 10 * time.Second
	// partlyDry is how long a transaction may pause before what has come of it goes out.
	partlyDry = 5 * time.Millisecond
	// timeCheck is how many messages pass between two looks at the clock.
	timeCheck = 128
)

// stream is one replication connection from START_REPLICATION on. One goroutine owns it, for reading and for standby status.
type stream struct {
	conn *pgconn.PgConn
	sink connector.Sink
	src  *Source

	rel    *relations
	row    row
	change connector.Change

	inTx    bool
	commit  connector.LSN
	at      time.Time
	index   uint32
	told    connector.LSN // the flush LSN last reported
	toldAt  time.Time
	asked   bool // the server asked for an answer
	sinceCk int
}

// run reads until ctx ends (nil, after the last confirmation) or the connection does (an error).
func (s *stream) run(ctx context.Context) error {
	// A read that blocks is woken when ctx ends.
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Conn().SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.status(time.Now()); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if verdict := s.src.verdict.Load(); verdict != nil {
			return *verdict
		}
		if room := s.sink.Room(); room != nil {
			if err := s.wait(ctx, room); err != nil {
				return err
			}
			continue
		}
		if s.conn.Frontend().ReadBufferLen() == 0 {
			if err := s.beforeBlocking(ctx); err != nil {
				return err
			}
		}
		msg, err := s.conn.ReceiveMessage(context.Background())
		if err != nil {
			if !isTimeout(err) {
				return err
			}
			s.sink.Dry()
			if err := s.report(time.Now()); err != nil {
				return err
			}
			s.deadline(ctx, tick)
			continue
		}
		if err := s.message(ctx, msg); err != nil {
			return err
		}
		if s.sinceCk++; s.sinceCk >= timeCheck {
			s.sinceCk = 0
			if err := s.report(time.Now()); err != nil {
				return err
			}
		}
	}
	return s.finish()
}

// beforeBlocking does what is due before a read that will block: all that was sent is handed over, so partly filled batches go out
// (but in the middle of a transaction only after a moment, since its next rows are on their way).
func (s *stream) beforeBlocking(ctx context.Context) error {
	if s.inTx {
		s.deadline(ctx, partlyDry)
		return nil
	}
	s.sink.Dry()
	if s.asked {
		if err := s.report(time.Now()); err != nil {
			return err
		}
	}
	s.deadline(ctx, tick)
	return nil
}

func (s *stream) deadline(ctx context.Context, d time.Duration) {
	if ctx.Err() == nil {
		_ = s.conn.Conn().SetReadDeadline(time.Now().Add(d)) // a failure shows at the read
	}
	if ctx.Err() != nil { // it ended meanwhile, and its wake-up may have been overwritten
		_ = s.conn.Conn().SetReadDeadline(time.Unix(1, 0))
	}
}

// wait waits for room while the server goes on hearing from us.
func (s *stream) wait(ctx context.Context, room <-chan struct{}) error {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	select {
	case <-room:
	case <-ctx.Done():
	case <-timer.C:
	}
	return s.report(time.Now())
}

// finish waits for the last checkpoint, confirms it and says good-bye.
func (s *stream) finish() error {
	timer := time.NewTicker(statusEvery)
	defer timer.Stop()
	for {
		select {
		case <-s.sink.Finished():
			if err := s.status(time.Now()); err != nil {
				s.src.log.Info("the last confirmation was not sent; the next start passes over what comes again", "error", err)
			}
			return nil
		case <-timer.C:
			if s.status(time.Now()) != nil {
				<-s.sink.Finished()
				return nil
			}
		}
	}
}

// report sends a standby status when one is due.
func (s *stream) report(now time.Time) error {
	since := now.Sub(s.toldAt)
	if since < replyAtLeast || (since < statusEvery && !s.asked && s.told == s.sink.Confirmed()) {
		return nil
	}
	return s.status(now)
}

// status tells the server what the checkpoint on disk covers: as written, flushed and applied alike, since pglogrepl puts the written LSN where
// another is 0.
func (s *stream) status(now time.Time) error {
	lsn := s.sink.Confirmed()
	if lsn < s.told {
		return fmt.Errorf("the confirmed LSN went back from %s to %s: this is a bug", s.told, lsn)
	}
	_ = s.conn.Conn().SetWriteDeadline(now.Add(writeTimeout))
	err := pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: pglogrepl.LSN(lsn), WALFlushPosition: pglogrepl.LSN(lsn), WALApplyPosition: pglogrepl.LSN(lsn), ClientTime: now})
	if err != nil {
		return fmt.Errorf("reporting progress: %w", err)
	}
	s.told, s.toldAt, s.asked = lsn, now, false
	s.src.confirmed.Store(uint64(lsn))
	return nil
}

// message acts on one message of the connection.
func (s *stream) message(ctx context.Context, msg pgproto3.BackendMessage) error {
	switch m := msg.(type) {
	case *pgproto3.CopyData:
		if len(m.Data) == 0 {
			return errCut
		}
		switch m.Data[0] {
		case pglogrepl.XLogDataByteID:
			const header = 1 + 8 + 8 + 8 // type, start of the data, end of the WAL, time
			if len(m.Data) <= header {
				return errCut
			}
			return s.decode(ctx, m.Data[header:])
		case pglogrepl.PrimaryKeepaliveMessageByteID:
			return s.keepAlive(m.Data)
		}
		return fmt.Errorf("unknown replication message %q", m.Data[0])
	case *pgproto3.ErrorResponse:
		return pgconn.ErrorResponseToPgError(m)
	case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
		return errEnded
	}
	return nil // notices and parameter changes
}

// errEnded says that the server ended the stream in good order: it is shutting down.
var errEnded = errors.New("the server ended the stream")

func (s *stream) keepAlive(data []byte) error {
	const size = 1 + 8 + 8 + 1 // type, WAL end, time, reply wanted
	if len(data) < size {
		return errCut
	}
	walEnd := connector.LSN(binary.BigEndian.Uint64(data[1:]))
	s.src.walEnd.Store(max(s.src.walEnd.Load(), uint64(walEnd)))
	if !s.inTx {
		s.sink.KeepAlive(walEnd)
	}
	s.asked = s.asked || data[size-1] != 0
	return nil
}

// decode acts on one message of pgoutput. What can't be read stops the stream: nothing is skipped.
func (s *stream) decode(ctx context.Context, data []byte) error {
	switch data[0] {
	case 'I', 'U', 'D':
		s.rel.last = 0
		return s.rowMessage(data)
	case 'B', 'C', 'R', 'T':
		if data[0] != 'R' {
			s.rel.last = 0
		}
		m, err := parse(data)
		if err != nil {
			return fmt.Errorf("message %q of pgoutput after position %s:%d: %w", data[0], s.commit, s.index, err)
		}
		return s.rare(ctx, m)
	case 'Y', 'O', 'M':
		return nil // type, origin, logical message: no row changes
	}
	return fmt.Errorf("unknown message %q of pgoutput after position %s:%d: this version speaks protocol 1", data[0], s.commit, s.index)
}

// parse guards pglogrepl.Parse, which panics on a Relation message that is cut short, and makes room for as many tables as a Truncate
// message claims to hold before it looks whether they are there.
func parse(data []byte) (m pglogrepl.Message, err error) {
	const truncateHeader = 1 + 4 + 1 // type, number of relations, options
	if data[0] == 'T' && (len(data) < truncateHeader || uint64(binary.BigEndian.Uint32(data[1:])) != uint64(len(data)-truncateHeader)/4) {
		return nil, errCut
	}
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, errCut
		}
	}()
	return pglogrepl.Parse(data)
}

func (s *stream) rare(ctx context.Context, m pglogrepl.Message) error {
	switch m := m.(type) {
	case *pglogrepl.BeginMessage:
		if s.inTx {
			return fmt.Errorf("a transaction begins inside another at %s", s.commit)
		}
		s.inTx, s.commit, s.at, s.index = true, connector.LSN(m.FinalLSN), m.CommitTime.UTC(), 0
	case *pglogrepl.CommitMessage:
		if !s.inTx || connector.LSN(m.CommitLSN) != s.commit {
			return fmt.Errorf("a transaction that began with commit LSN %s ends with %s", s.commit, connector.LSN(m.CommitLSN))
		}
		s.inTx = false
		end := connector.LSN(m.TransactionEndLSN)
		s.src.walEnd.Store(max(s.src.walEnd.Load(), uint64(end)))
		s.sink.Commit(s.commit, end, s.at)
	case *pglogrepl.RelationMessage:
		t, isNew, err := s.rel.note(ctx, m)
		if err != nil {
			return err
		}
		s.src.watch.due()
		if isNew {
			s.src.log.Debug("table shape", "table", t.String(), "columns", len(t.Columns))
		}
	case *pglogrepl.TruncateMessage:
		s.src.truncates.Add(1)
		names := make([]string, len(m.RelationIDs))
		for i, id := range m.RelationIDs {
			names[i] = fmt.Sprint(id)
			if t := s.rel.byID[id]; t != nil {
				names[i] = t.String()
			}
		}
		s.src.log.Warn("TRUNCATE seen: it changes nothing on the platform", "tables", strings.Join(names, ", "), "commit", s.commit)
	}
	return nil
}

func (s *stream) rowMessage(data []byte) error {
	if !s.inTx {
		return errors.New("a row came outside a transaction")
	}
	position := connector.Position{Commit: s.commit, Index: s.index}
	s.index++
	if err := s.row.parse(data); err != nil {
		return fmt.Errorf("row message %q at position %s: %w", data[0], position, err)
	}
	t := s.rel.byID[s.row.relation]
	if t == nil {
		return fmt.Errorf("the row at position %s is of relation %d, of which no Relation message came", position, s.row.relation)
	}
	if err := s.row.fill(t); err != nil {
		return fmt.Errorf("position %s: %w", position, err)
	}
	s.change = connector.Change{Position: position, CommitTime: s.at, Op: s.row.op, Table: t}
	if s.row.op != connector.Delete {
		s.change.New = s.row.new
	}
	if s.row.op != connector.Insert {
		s.change.Old = s.row.old
	}
	if err := s.sink.Change(&s.change); err != nil {
		return &mapError{err}
	}
	return nil
}

// mapError is an error of the mappings: no connection cures it.
type mapError struct{ err error }

func (e *mapError) Error() string { return e.err.Error() }
func (e *mapError) Unwrap() error { return e.err }

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || (errors.As(err, &n) && n.Timeout())
}
