package postgres

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// timing is how long the source waits for what. Tests have shorter ones.
type timing struct {
	// look is how often the plain connection beside the stream is tried; answer is how long its answer, or a new connection, may take.
	look, answer time.Duration
	// renew is how often that connection is made anew: a smart shutdown is told to new connections only, and waits for the old ones.
	renew time.Duration
	// ask: a stream that has been silent for so long is asked for an answer; silent: when none has come for so long, it is given up.
	ask, silent time.Duration
	// grace is how long the stream goes on when the server shuts down, so that it ends with everything confirmed; settle is as long, but
	// while a transaction is not settled.
	grace, settle time.Duration
}

// usualTiming finds a peer that vanished within 30 s (look + 2 * answer, or silent), and lets a fast shutdown take less than 5 s.
var usualTiming = timing{look: 5 * time.Second, answer: 8 * time.Second, renew: 15 * time.Second, ask: 5 * time.Second, silent: 20 * time.Second,
	grace: 3 * time.Second, settle: time.Second}

// errand is something that is done on the plain connection beside the stream: at once, then every so often.
type errand struct {
	name  string
	every time.Duration
	// limit bounds one time; 0: as long as any answer may take. One that takes longer costs the connection, not the stream.
	limit time.Duration
	// do runs on the goroutine that owns conn, and must not keep it. Its error is logged, once a minute at most; ErrNewHistory ends the stream, and the
	// source with it. What an operator must see it raises as an alarm itself.
	do func(ctx context.Context, conn *pgx.Conn) error

	due    time.Time
	poked  atomic.Bool
	logged time.Time
}

// beside is the plain connection beside a stream. It learns what the stream is not told: that the server is shutting down (a walsender that waits for
// a confirmation does not say so, and holds the shutdown up for ever), and, while reading is paused, that the peer is gone. It carries the
// errands meanwhile. One goroutine, run's, owns the connection; the other methods are safe for concurrent use.
type beside struct {
	dsn     string
	timing  timing
	errands []*errand
	sender  backend // the stream's own backend
	alarms  *connector.Alarms
	log     *slog.Logger

	conn  *pgx.Conn // nil while it is lost
	renew time.Time
	wake  chan struct{}

	// seen is when the server last answered here and had the stream's backend, heard when the stream last heard from it; unix nanoseconds.
	seen, heard atomic.Int64
	end         atomic.Pointer[ending]
}

// backend is a server process, by what no other one shares with it.
type backend struct {
	pid     uint32
	started time.Time
}

// ending is why a stream must end.
type ending struct {
	err error
	at  time.Time
	// shutdown: the server is going down in good order, so there is a moment left.
	shutdown bool
}

// hungUp says that the source ended the stream by itself. Trying again cures it.
type hungUp struct {
	text string
	err  error
}

func (h *hungUp) Error() string {
	if h.err == nil {
		return h.text
	}
	return h.text + ": " + h.err.Error()
}

func (h *hungUp) Unwrap() error { return h.err }

// newBeside takes conn over.
func (s *Source) newBeside(conn *pgx.Conn) *beside {
	b := &beside{dsn: s.cfg.DSN, timing: s.timing, errands: s.errands(), alarms: s.alarms, log: s.log, conn: conn, wake: make(chan struct{}, 1)}
	b.renew = time.Now().Add(b.timing.renew)
	b.seen.Store(time.Now().UnixNano())
	b.heard.Store(time.Now().UnixNano())
	s.alarms.Clear("source/beside")
	if s.cfg.Heartbeat == 0 {
		s.alarms.Clear("source/heartbeat") // the file was read again
	}
	return b
}

// errands are what the source does on the plain connection while it streams.
func (s *Source) errands() []*errand {
	var list []*errand
	if s.cfg.Heartbeat > 0 {
		list = append(list, &errand{name: "heartbeat", every: s.cfg.Heartbeat, do: s.beat})
	}
	return list
}

// poke has an errand done as soon as may be.
func (b *beside) poke(e *errand) {
	e.poked.Store(true)
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// ended gives why the stream must end, or nil.
func (b *beside) ended() *ending { return b.end.Load() }

// vouches reports whether the server was seen lately with the stream's backend alive: then a stream that is silent is at work, for example on a large
// transaction of tables that nobody has mapped.
func (b *beside) vouches(now time.Time) bool {
	return now.Sub(time.Unix(0, b.seen.Load())) <= b.timing.look+b.timing.answer
}

func (b *beside) finish(e ending) { b.end.CompareAndSwap(nil, &e) }

// run owns the connection until ctx ends.
func (b *beside) run(ctx context.Context) {
	defer func() { b.close() }()
	retry := newBackoff()
	for ctx.Err() == nil {
		var lost error
		if b.conn != nil {
			if lost = b.work(ctx); lost == nil && time.Now().Before(b.renew) {
				continue
			}
		} else if !sleep(ctx, retry.NextBackOff()) {
			return
		}
		if ctx.Err() != nil {
			return
		}
		if lost != nil {
			b.close()
		}
		fresh, err := b.connect(ctx)
		switch {
		case ctx.Err() != nil:
			closePlain(fresh)
			return
		case err == nil:
			b.close()
			b.conn = fresh
			retry.Reset()
			b.alarms.Clear("source/beside")
			if lost != nil {
				b.log.Info("the plain connection beside the stream was lost, and made again", "reason", Explain(lost))
			}
		default:
			b.judge(lost, err)
		}
		b.renew = time.Now().Add(b.timing.renew)
	}
}

// judge finds out what it means for the stream that no new plain connection can be had; lost is why the former one ended, nil if it lives.
func (b *beside) judge(lost, err error) {
	now := time.Now()
	lively := now.Sub(time.Unix(0, b.heard.Load())) < b.timing.look
	switch states := sqlStates(err); {
	case hasState(err, stateCannotConnectNow):
		b.finish(ending{&hungUp{"the server is shutting down", err}, now, true})
	case len(states) > 0:
		// It answers, and takes no more connections, or not this role's any more. The stream lives; a reconnection would not.
		var r *Refusal
		if explained := Explain(err); errors.As(explained, &r) {
			b.alarms.Raise("source/beside", "the stream goes on, but a new connection beside it is refused: "+r.Text, r.Cure)
		}
	case hasState(lost, stateAdminShutdown), hasState(lost, stateCrashShutdown):
		b.finish(ending{&hungUp{"the server is shutting down", lost}, now, true})
	case b.conn == nil && !lively:
		b.finish(ending{&hungUp{"the server does not answer any more", err}, now, false})
	}
}

// work waits for the next thing to do and does what is due. An error says that the connection is lost.
func (b *beside) work(ctx context.Context) error {
	next := time.Now().Add(b.timing.look)
	for _, e := range b.errands {
		if e.due.Before(next) {
			next = e.due
		}
	}
	if b.renew.Before(next) {
		next = b.renew
	}
	if err := b.listen(ctx, next); err != nil || ctx.Err() != nil {
		return err
	}
	if err := b.look(ctx); err != nil {
		return err
	}
	for _, e := range b.errands {
		now := time.Now()
		if !e.poked.Swap(false) && now.Before(e.due) {
			continue
		}
		e.due = now.Add(e.every)
		limit := e.limit
		if limit <= 0 {
			limit = b.timing.answer
		}
		doing, cancel := context.WithTimeout(ctx, limit)
		err := e.do(doing, b.conn)
		cancel()
		switch {
		case errors.Is(err, ErrNewHistory):
			b.finish(ending{err, time.Now(), false})
		case ctx.Err() != nil:
			return nil
		case err != nil && now.Sub(e.logged) >= time.Minute:
			e.logged = now
			b.log.Warn("what is done beside the stream failed, and is tried again", "what", e.name, "error", Explain(err))
		}
		if b.conn.IsClosed() {
			return err
		}
	}
	return nil
}

// listen waits until then, or until it is woken; what the server says meanwhile is read at once. An error says that the connection is lost.
func (b *beside) listen(ctx context.Context, then time.Time) error {
	waiting, cancel := context.WithDeadline(ctx, then)
	woken := make(chan struct{})
	go func() {
		defer close(woken)
		select {
		case <-b.wake:
			cancel()
		case <-waiting.Done():
		}
	}()
	err := b.conn.PgConn().WaitForNotification(waiting)
	cancel()
	<-woken
	if b.conn.IsClosed() {
		return err
	}
	return nil // only the wait is over
}

// look asks the server whether the stream's backend is there.
func (b *beside) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.timing.answer)
	defer cancel()
	var there bool
	err := b.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", int32(b.sender.pid)).Scan(&there)
	if err == nil && there {
		b.seen.Store(time.Now().UnixNano())
	}
	if b.conn.IsClosed() {
		return err
	}
	return nil
}

func (b *beside) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timing.answer)
	defer cancel()
	return connectBeside(ctx, b.dsn)
}

// connectBeside is Connect for a connection that is idle most of the time: idle_session_timeout (14 or newer) must not end it.
func connectBeside(ctx context.Context, dsn string) (*pgx.Conn, error) {
	conn, err := Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"); err != nil {
		closePlain(conn)
		return nil, err
	}
	return conn, nil
}

func (b *beside) close() {
	closePlain(b.conn)
	b.conn = nil
}

// closePlain says good-bye; a nil conn is none.
func closePlain(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it may be lost already
}

// sleep waits, and reports whether it was not cut short.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// loadBackend gives the identity of a backend; the zero one where it is not there or not to be seen.
func loadBackend(ctx context.Context, conn *pgx.Conn, pid uint32) (backend, error) {
	var started *time.Time
	err := conn.QueryRow(ctx, "SELECT (SELECT backend_start FROM pg_stat_activity WHERE pid = $1)", int32(pid)).Scan(&started)
	if err != nil || started == nil {
		return backend{}, err
	}
	return backend{pid, *started}, nil
}

// endOwn ends the backend of an own stream that was given up, where the server has not noticed: it would hold the slot until wal_sender_timeout, or
// where that is 0 for hours. It reports whether there was one.
func endOwn(ctx context.Context, conn *pgx.Conn, b backend) (bool, error) {
	if b.pid == 0 {
		return false, nil
	}
	var ended *bool
	err := conn.QueryRow(ctx, "SELECT (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2)",
		int32(b.pid), b.started).Scan(&ended)
	return ended != nil && *ended, err
}

// heartbeatSQL writes the transactional message says that moves the slot on; nobody reads it.
const heartbeatSQL = "SELECT pg_logical_emit_message(true, 'tuzhan_cdc', 'heartbeat')"

// beat writes a heartbeat.
func (s *Source) beat(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, heartbeatSQL)
	if err == nil {
		s.alarms.Clear("source/heartbeat")
		return nil
	}
	if len(sqlStates(err)) > 0 && !Passing(err) {
		s.alarms.Raise("source/heartbeat", "the heartbeat can't be written: "+Explain(err).Error(), "take source.heartbeat out, or point source.dsn at the primary")
		return nil
	}
	return err
}
