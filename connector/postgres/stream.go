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
	conn   *pgconn.PgConn
	frames *frames
	flow   flow
	sink   connector.Sink
	src    *Source
	beside *beside

	rel    *relations
	row    row
	change connector.Change

	messages bool      // the server sends logical messages
	skip     bool      // the transaction began with the skip marker
	first    firstRows // held back until it is known whether a marker belongs before them

	inTx    bool
	xid     uint32
	commit  connector.LSN
	at      time.Time
	index   uint32
	ended   connector.LSN // the end of the last transaction
	told    connector.LSN // the flush LSN last reported
	toldAt  time.Time
	asked   bool // the server asked for an answer
	sinceCk int

	stuckRead int       // frames.read when a read last timed out, and had found something since the one before
	stuckAt   time.Time // when that was

	heard   bool // something came since heardAt was set
	heardAt time.Time
	askedAt time.Time // when the server was asked for an answer
}

// run reads until ctx ends (nil, after the last confirmation) or the connection does (an error).
func (s *stream) run(ctx context.Context) error {
	// A read that blocks is woken when ctx ends.
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Conn().SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	s.heardAt = time.Now()
	if err := s.status(s.heardAt, false); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if verdict := s.src.verdict.Load(); verdict != nil {
			return *verdict
		}
		if e := s.beside.ended(); e != nil && s.over(e, time.Now()) {
			return e.err
		}
		if room := s.sink.Room(); room != nil {
			if err := s.wait(ctx, room); err != nil {
				return err
			}
			continue
		}
		if !s.frames.whole() {
			if err := s.beforeBlocking(ctx); err != nil {
				return err
			}
		}
		kind, body, err := s.frames.next()
		if err != nil {
			if !isTimeout(err) {
				return err
			}
			now := time.Now()
			s.dry(now)
			if err := s.quiet(now); err != nil {
				return err
			}
			s.partly(now)
			s.deadline(ctx, tick)
			continue
		}
		s.heard = true
		if err := s.message(ctx, kind, body); err != nil {
			return err
		}
		if s.sinceCk++; s.sinceCk >= timeCheck {
			s.sinceCk = 0
			now := time.Now()
			s.listened(now)
			if err := s.report(now); err != nil {
				return err
			}
		}
	}
	return s.finish()
}

// over reports whether the connection ends now. Where the server shuts down there is a moment left: it waits until all that it sent is confirmed, and
// then ends the stream itself. What can't be confirmed so soon would hold it up for ever, so the source hangs up.
func (s *stream) over(e *ending, now time.Time) bool {
	if !e.shutdown {
		return true
	}
	since := now.Sub(e.at)
	if since < s.src.timing.settle || since < s.src.timing.grace && s.sink.Confirmed() >= s.ended {
		return false
	}
	_ = s.status(now, false) // it may be gone by now
	return true
}

// listened notes when something came.
func (s *stream) listened(now time.Time) {
	if s.heard {
		s.heard, s.heardAt = false, now
		s.beside.heard.Store(now.UnixNano())
	}
}

// quiet is what is due when nothing came for a moment: a report; and of a server that has been silent for some time an answer is asked, and when
// none comes, and nobody has seen it at work either, it is given up.
func (s *stream) quiet(now time.Time) error {
	s.listened(now)
	t := s.src.timing
	switch silence := now.Sub(s.heardAt); {
	case silence >= t.silent && !s.beside.vouches(now):
		return &hungUp{text: "the server has been silent for " + connector.Span(silence)}
	case silence >= t.ask && now.Sub(s.askedAt) >= t.ask:
		s.askedAt = now
		return s.status(now, true)
	}
	return s.report(now)
}

// beforeBlocking does what is due before a read that will block: all that was sent is handed over, so partly filled batches go out
// (but in the middle of a transaction only after a moment, since its next rows are on their way).
func (s *stream) beforeBlocking(ctx context.Context) error {
	if !s.frames.drained { // the read before took all that it had room for: there is more
		s.deadline(ctx, burstEnd)
		return nil
	}
	now := time.Now()
	s.listened(now)
	if s.flow.runs(now, s.frames.read) {
		return s.gather(ctx, now)
	}
	if s.inTx {
		s.deadline(ctx, partlyDry)
		return nil
	}
	s.dry(now)
	if err := s.report(now); err != nil {
		return err
	}
	s.deadline(ctx, tick)
	return nil
}

// gather is beforeBlocking while data flows: what has come waits for more, but not for long.
func (s *stream) gather(ctx context.Context, now time.Time) error {
	if !s.inTx && now.Sub(s.flow.dryAt) >= flowDry {
		s.dry(now)
	}
	if err := s.report(now); err != nil {
		return err
	}
	s.burstsEnd(s.flow.gather())
	if s.flow.raw == nil {
		s.deadline(ctx, flowDry/2)
	} else {
		s.deadline(ctx, burstEnd)
	}
	return nil
}

// partly acts on a message that has stopped in its middle for a tick: no server waits there by itself.
func (s *stream) partly(now time.Time) {
	if s.frames.read != s.stuckRead {
		s.stuckRead, s.stuckAt = s.frames.read, now
		return
	}
	if s.frames.partly() && now.Sub(s.stuckAt) >= tick {
		s.stuckAt = now
		s.burstsEnd(s.flow.halted())
	}
}

// burstsEnd tells that bursts are over for good, where there is a reason.
func (s *stream) burstsEnd(reason error) {
	if reason != nil {
		s.src.fallbacks.Add(1)
		s.src.log.Warn("reading in bursts is given up until the next start or reload", "reason", reason, "cure", "nothing to do; source.readInBursts: false keeps it off")
	}
}

// dry says that there is nothing more to read for now.
func (s *stream) dry(now time.Time) {
	s.flow.dryAt = now
	s.sink.Dry()
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
	now := time.Now()
	s.heard, s.heardAt = false, now // nobody listened: that is no silence of the server's
	return s.report(now)
}

// finish waits for the last checkpoint, confirms it and says good-bye.
func (s *stream) finish() error {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-s.sink.Finished():
			if err := s.status(time.Now(), false); err != nil {
				s.src.log.Info("the last confirmation was not sent; the next start passes over what comes again", "error", err)
			}
			return nil
		case now := <-timer.C:
			e := s.beside.ended()
			if e != nil && s.over(e, now) || s.report(now) != nil {
				closeConn(s.conn)
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
	return s.status(now, false)
}

// status tells the server what the checkpoint on disk covers: as written, flushed and applied alike, since pglogrepl puts the written LSN where
// another is 0. answer asks the server for a keep-alive.
func (s *stream) status(now time.Time, answer bool) error {
	lsn := s.sink.Confirmed()
	if lsn < s.told {
		return fmt.Errorf("the confirmed LSN went back from %s to %s: this is a bug", s.told, lsn)
	}
	_ = s.conn.Conn().SetWriteDeadline(now.Add(writeTimeout))
	err := pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: pglogrepl.LSN(lsn), WALFlushPosition: pglogrepl.LSN(lsn), WALApplyPosition: pglogrepl.LSN(lsn), ClientTime: now,
		ReplyRequested: answer})
	if err != nil {
		return fmt.Errorf("reporting progress: %w", err)
	}
	s.told, s.toldAt, s.asked = lsn, now, false
	s.src.confirmed.Store(uint64(lsn))
	s.src.reports.Add(1)
	s.src.reported.Store(int64(time.Since(s.src.born)))
	return nil
}

// message acts on one message of the connection.
func (s *stream) message(ctx context.Context, kind byte, data []byte) error {
	if kind != 'd' { // CopyData
		return received(kind, data)
	}
	if len(data) == 0 {
		return errCut
	}
	switch data[0] {
	case pglogrepl.XLogDataByteID:
		const header = 1 + 8 + 8 + 8 // type, start of the data, end of the WAL, time
		if len(data) <= header {
			return errCut
		}
		return s.decode(ctx, connector.LSN(binary.BigEndian.Uint64(data[1:])), data[header:])
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		return s.keepAlive(data)
	}
	return fmt.Errorf("unknown replication message %q", data[0])
}

// errEnded says that the server ended the stream in good order: it is shutting down.
var errEnded = errors.New("the server is shutting down, and ended the stream in good order")

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

// decode acts on one message of pgoutput, whose WAL record starts at start. What can't be read stops the stream: nothing is skipped.
func (s *stream) decode(ctx context.Context, start connector.LSN, data []byte) error {
	switch data[0] {
	case 'I', 'U', 'D':
		return s.takeRow(start, data)
	case 'B':
		commit, at, xid, err := parseBegin(data)
		if err != nil {
			return s.unread(data, err)
		}
		if err := s.releaseFirst(); err != nil {
			return err
		}
		return s.begin(commit, at, xid)
	case 'C':
		commit, end, err := parseCommit(data)
		if err != nil {
			return s.unread(data, err)
		}
		if err := s.releaseFirst(); err != nil {
			return err
		}
		return s.end(commit, end)
	case 'R', 'T', 'Y', 'O', 'M':
		m, err := parse(data)
		if err != nil {
			return s.unread(data, err)
		}
		if message, ok := m.(*pglogrepl.LogicalDecodingMessage); ok { // it says itself what becomes of rows that were held back
			return s.logicalMessage(message)
		}
		if err := s.releaseFirst(); err != nil {
			return err
		}
		return s.rare(ctx, m)
	}
	return fmt.Errorf("unknown message %q of pgoutput after position %s:%d: this version speaks protocol 1", data[0], s.commit, s.index)
}

func (s *stream) unread(data []byte, err error) error {
	return fmt.Errorf("message %q of pgoutput after position %s:%d: %w", data[0], s.commit, s.index, err)
}

func (s *stream) begin(commit connector.LSN, at time.Time, xid uint32) error {
	s.rel.last = nil
	if s.inTx {
		return fmt.Errorf("a transaction begins inside another at %s", s.commit)
	}
	s.inTx, s.commit, s.at, s.index, s.skip = true, commit, at.UTC(), 0, false
	s.xid = xid
	return nil
}

func (s *stream) end(commit, end connector.LSN) error {
	s.rel.last = nil
	if !s.inTx || commit != s.commit {
		return fmt.Errorf("a transaction that began with commit LSN %s ends with %s", s.commit, commit)
	}
	s.inTx = false
	s.ended = end
	s.src.walEnd.Store(max(s.src.walEnd.Load(), uint64(end)))
	s.sink.Commit(commit, end, s.at)
	return nil
}

func (s *stream) rare(ctx context.Context, m pglogrepl.Message) error {
	s.rel.last = nil
	switch m := m.(type) {
	case *pglogrepl.RelationMessage:
		t, isNew, err := s.rel.note(ctx, m)
		if err != nil {
			return err
		}
		s.src.watch.due()
		if isNew {
			s.src.log.Debug("table shape", "table", t.String(), "columns", len(t.Columns))
		}
	case *pglogrepl.TypeMessage:
		s.rel.name(m)
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
	if err := s.row.fill(t, s.rel.partitions(t)); err != nil {
		return fmt.Errorf("position %s: %w", position, err)
	}
	s.change = connector.Change{Position: position, CommitTime: s.at, Op: s.row.op, Table: t, Skip: s.skip, XID: s.xid}
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
