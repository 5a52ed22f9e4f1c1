package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// server is the medium of a state in a PostgreSQL database.
//
// Who writes is settled twice. A session lock (pg_try_advisory_lock) makes a second process wait; it ends with its connection. As a connection can
// end without its process knowing, every transaction also changes the row of table meta, under the condition that the row still names the session: after
// another process, or another connection of this one, has put its name there, a transaction of the old one can't commit any more. The
// same statement stores the transaction's number (token), by which a connection that was lost under a COMMIT can be asked about it afterwards.
type server struct {
	config *pgx.ConnConfig
	place  string
	holder string // names this process in meta

	conn    *pgx.Conn // nil or closed: it has to be made anew
	session string    // names conn in meta
	pid     uint32    // the backend of conn, and when it started
	started time.Time
	token   int64 // the last transaction that is known to be stored
	unknown int64 // the one after it, where its end is not known; else 0

	batch    *pgx.Batch // what the open transaction has still to run
	ops      []int      // whose each of it is; -1: the transaction's own
	began    time.Time  // not later than it
	numbered map[string]string

	settleFor time.Duration // how long the callers of a transaction wait for a lost connection, before they are told that its end is not known

	lease lease

	gone    chan struct{}
	goneErr error // set before gone is closed
}

const (
	// The session lock: the second number is for what may come.
	lockClass, lockObject = applicationID, 1
	// transactionTimeout bounds what a transaction waits for the server.
	transactionTimeout = 20 * time.Second
	// oldSessionFor is how long a new connection waits for the server to end the old one's session.
	oldSessionFor = 5 * time.Second

	fence = "WITH mine AS (UPDATE meta SET token = ? WHERE id = 1 AND session = ? RETURNING 1) SELECT 1 / count(*) FROM mine"
)

// openServer takes the state over for this process, and opens a reader beside it.
func openServer(ctx context.Context, at Location, o Options) (medium, *Reader, error) {
	config, err := serverConfig(at.DSN)
	if err != nil {
		return nil, nil, err
	}
	s := &server{config: config, place: at.String(), holder: uuid.NewString(), numbered: map[string]string{}, settleFor: 10 * time.Second, gone: make(chan struct{})}
	err = patience{o, s.place}.until(ctx, func() (busy, err error) {
		err = s.takeOver(ctx)
		if errors.Is(err, ErrLocked) || passing(err) && ctx.Err() == nil {
			return fault("opening", s.place, err), nil
		}
		return nil, err
	})
	if err == nil {
		var r *Reader
		if r, err = newServerReader(at); err == nil {
			return s, r, nil
		}
	}
	_ = s.close() // err says more
	return nil, nil, fault("opening", s.place, err)
}

// takeOver makes this process the one that writes, and brings the schema up to date. The connection is kept where another process is in the way.
func (s *server) takeOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	if err := s.connect(ctx); err != nil {
		return err
	}
	free, err := s.tryLock(ctx)
	if err != nil {
		return err
	}
	if !free {
		return &Error{Op: "opening", Place: s.place, Err: fmt.Errorf("%w%s", ErrLocked, s.who(ctx)),
			Cure: "stop that one first, or give each a database of its own in state.dsn"}
	}
	version, err := identifyServer(func(query string, args ...any) scanner { return s.conn.QueryRow(ctx, query, args...) }, s.place, schemaVersion)
	if err != nil {
		return s.withRights(err)
	}
	if err := migrateServer(ctx, s.conn, version, serverMigrations(migrations())); err != nil {
		return s.withRights(err)
	}
	session := uuid.NewString()
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	var before inherited
	began := time.Now()
	err = s.conn.QueryRow(ctx, "UPDATE meta SET holder = $1, session = $2, token = 0, host = $3, pid = $4, since = now() WHERE id = 1 RETURNING lease, sender",
		s.holder, session, clean(host), int64(os.Getpid())).Scan(&before.milliseconds, &before.sender)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: table meta has lost its row", ErrDamaged)
	case err != nil:
		return s.withRights(err)
	}
	s.session, s.token = session, 0
	s.lease.inherit(before)
	s.lease.confirm(began)
	return nil
}

// connect makes the connection, unless there is one.
func (s *server) connect(ctx context.Context) error {
	if s.conn != nil && !s.conn.IsClosed() {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, s.config)
	if err != nil {
		return err
	}
	var started time.Time
	if err := conn.QueryRow(ctx, "SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()").Scan(&started); err != nil {
		drop(conn)
		return err
	}
	s.conn, s.pid, s.started = conn, conn.PgConn().PID(), started
	return nil
}

// drop closes a connection without much waiting.
func drop(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it ends in any case
}

func (s *server) tryLock(ctx context.Context) (free bool, err error) {
	err = s.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", int32(lockClass), int32(lockObject)).Scan(&free)
	return free, err
}

// who names the process that writes, as far as it did.
func (s *server) who(ctx context.Context) string {
	var host string
	var pid int64
	var since time.Time
	if err := s.conn.QueryRow(ctx, "SELECT host, pid, since FROM meta WHERE id = 1").Scan(&host, &pid, &since); err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d on %s, since %s)", pid, host, since.UTC().Format(time.RFC3339))
}

// attach makes a new connection after one was lost, and finds out what became of the transaction whose end is not known. What an old session
// of this process still does on the server can't commit when it returns.
func (s *server) attach() (landed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), transactionTimeout)
	defer cancel()
	began := time.Now()
	pid, started := s.pid, s.started
	if err := s.connect(ctx); err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			drop(s.conn)
		}
	}()
	if err := s.lockAgain(ctx, pid, started); err != nil {
		return false, err
	}
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return false, err
	}
	session := uuid.NewString()
	var holder string
	var token int64
	err = tx.QueryRow(ctx, "UPDATE meta SET session = $1 WHERE id = 1 RETURNING holder, token", session).Scan(&holder, &token)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, s.lose(fmt.Errorf("%w: table meta has lost its row", ErrDamaged))
	case err != nil:
		return false, err
	case holder != s.holder:
		_ = tx.Rollback(ctx) // the connection is closed
		return false, s.lose(ErrTaken)
	case token != s.token && (s.unknown == 0 || token != s.unknown):
		return false, s.lose(fmt.Errorf("%w: its server came back without what it had stored (transaction %d is the last one, %d was stored)", ErrDamaged, token, s.token))
	}
	if err := tx.Commit(ctx); err != nil {
		return false, err
	}
	landed = s.unknown != 0 && token == s.unknown
	s.session, s.token, s.unknown = session, token, 0
	s.lease.confirm(began)
	return landed, nil
}

// lockAgain takes the session lock on a new connection. The old session may hold it still, where the server does not know yet that its client is gone.
func (s *server) lockAgain(ctx context.Context, pid uint32, started time.Time) error {
	deadline := time.Now().Add(oldSessionFor)
	for ended := false; ; {
		free, err := s.tryLock(ctx)
		if err != nil || free {
			return err
		}
		var holder string
		if err := s.conn.QueryRow(ctx, "SELECT holder FROM meta WHERE id = 1").Scan(&holder); err != nil {
			return err
		}
		if holder != s.holder {
			return s.lose(fmt.Errorf("%w%s", ErrTaken, s.who(ctx)))
		}
		if !ended {
			ended = true
			if _, err := s.conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2", int32(pid), started); err != nil {
				return err
			}
		}
		if time.Now().After(deadline) {
			return errors.New("another session holds its lock")
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// lose notes that this process may never write again.
func (s *server) lose(why error) error {
	if s.goneErr == nil {
		s.goneErr = fault("writing", s.place, &Error{Op: "writing", Place: s.place, Err: why,
			Cure: "this process ends, and waits as a standby when it is started again"})
		if errors.Is(why, ErrDamaged) {
			s.goneErr.(*Error).Cure = "look at the state's server: was it restored, or failed over to a standby that was behind? Points sent since may be sent again after the next start"
		}
		close(s.gone)
	}
	return s.goneErr
}

func (s *server) lost() (<-chan struct{}, func() error) {
	return s.gone, func() error { return s.goneErr }
}

func (s *server) begin() (landed bool, err error) {
	if s.goneErr != nil {
		return false, s.goneErr
	}
	if s.conn == nil || s.conn.IsClosed() {
		if landed, err = s.attach(); err != nil {
			return false, err
		}
	}
	s.batch, s.ops, s.began = &pgx.Batch{}, s.ops[:0], time.Now()
	return landed, errors.Join(s.exec(-1, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"), s.exec(-1, fence, s.token+1, s.session))
}

// exec only queues: what a transaction has to run goes to the server in one go.
func (s *server) exec(op int, query string, args ...any) error {
	s.batch.Queue(s.number(query), args...)
	s.ops = append(s.ops, op)
	return nil
}

func (s *server) number(query string) string {
	n, ok := s.numbered[query]
	if !ok {
		n = numbered(query)
		s.numbered[query] = n
	}
	return n
}

func (s *server) query(query string, each func(scanner) error, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), transactionTimeout)
	defer cancel()
	if err := s.flush(ctx); err != nil {
		return s.failed(err, false)
	}
	rows, err := s.conn.Query(ctx, s.number(query), args...)
	if err != nil {
		return s.failed(err, false)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	if rows.Close(); rows.Err() != nil {
		return s.failed(rows.Err(), false)
	}
	return nil
}

func (s *server) commit() error {
	ctx, cancel := context.WithTimeout(context.Background(), transactionTimeout)
	defer cancel()
	if err := s.exec(-1, "COMMIT"); err != nil {
		return err
	}
	if err := s.flush(ctx); err != nil {
		return s.failed(err, true)
	}
	s.token++
	s.lease.confirm(s.began)
	return nil
}

// flush runs what is queued.
func (s *server) flush(ctx context.Context) error {
	results := s.conn.SendBatch(ctx, s.batch)
	var err error
	for i, op := range s.ops {
		if _, err = results.Exec(); err == nil {
			continue
		}
		if sqlState(err) == stateDivision && i == 1 && op < 0 {
			err = s.lose(ErrTaken)
		} else if op >= 0 {
			err = &failedAt{op, err}
		}
		break
	}
	if closing := results.Close(); err == nil {
		err = closing
	}
	s.batch, s.ops = &pgx.Batch{}, s.ops[:0]
	return err
}

// failed sorts out what an error of the open transaction means. While the connection lives, the server has told that it is not stored. A connection that was
// lost is made anew, if that is possible soon.
func (s *server) failed(err error, committing bool) error {
	if s.goneErr != nil {
		return s.goneErr
	}
	if !s.conn.IsClosed() {
		s.rollback()
		return err
	}
	if committing {
		s.unknown = s.token + 1
	}
	landed, again := s.settle()
	switch {
	case landed:
		return nil
	case again == nil:
		return fmt.Errorf("%w: %w", errAgain, err)
	case s.goneErr != nil:
		return s.goneErr
	case committing:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

// settle tries for a while to attach.
func (s *server) settle() (landed bool, err error) {
	deadline := time.Now().Add(s.settleFor)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		landed, err = s.attach()
		if err == nil || s.goneErr != nil || !passing(err) || time.Now().Add(wait).After(deadline) {
			return landed, err
		}
		<-time.After(wait)
	}
}

// rollback discards what is queued; a transaction that the server knows is ended there.
func (s *server) rollback() {
	s.batch, s.ops = &pgx.Batch{}, s.ops[:0]
	if s.conn == nil || s.conn.IsClosed() || s.conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), transactionTimeout)
	defer cancel()
	if _, err := s.conn.Exec(ctx, "ROLLBACK"); err != nil {
		drop(s.conn)
	}
}

// keep finds a connection that was lost while nothing was written, before another process takes the lock.
func (s *server) keep() (landed bool, err error) {
	if s.goneErr != nil {
		return false, s.goneErr
	}
	ctx, cancel := context.WithTimeout(context.Background(), transactionTimeout)
	defer cancel()
	began := time.Now()
	if s.conn != nil && !s.conn.IsClosed() && s.conn.Ping(ctx) == nil {
		s.lease.confirm(began) // who answers has the lock
		return false, nil
	}
	if s.conn != nil && !s.conn.IsClosed() {
		drop(s.conn)
	}
	return s.attach()
}

// close gives the lock back before it hangs up: the server may take a while to notice that.
func (s *server) close() error {
	if s.conn == nil || s.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var err error
	if s.lease.sends.Load() > 0 && s.goneErr == nil {
		_, err = s.conn.Exec(ctx, "UPDATE meta SET lease = 0 WHERE id = 1 AND session = $1", s.session)
	}
	if err == nil {
		_, err = s.conn.Exec(ctx, "SELECT pg_advisory_unlock_all()")
	}
	drop(s.conn)
	if s.goneErr != nil || passing(err) {
		return nil // it goes with the session
	}
	return err
}
