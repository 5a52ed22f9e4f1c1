package postgres

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Config says where the changes come from.
type Config struct {
	// DSN is a PostgreSQL URL or keyword string as pgx reads it. It is a secret.
	DSN string
	// Slot is the replication slot; Publication the name of the first publication, the second one is Publication + "_insert".
	Slot, Publication string
	// Uses are the tables that the mappings read, with the operations they want.
	Uses []Use
	// Points says that some mapping makes points, which must not be doubled.
	Points bool
	// Initial says that points of all rows that are there are given where there is no state (source.snapshot: initial).
	Initial bool
	// AcceptGap is the id of the refusal that the operator accepts, NewState that of the slot that may be taken over without a state; empty: none.
	AcceptGap, NewState string
	// Heartbeat is how often a message is written into the WAL while the source streams, which moves an idle slot on; 0: never. PostgreSQL 14 or newer.
	Heartbeat time.Duration
	// Failover makes the slot one that standbys keep in step. PostgreSQL 17 or newer.
	Failover bool
	// Waiting is called from Prepare with true when it waits for a slot that another process holds, and with false when that is over; nil: nobody is told.
	Waiting func(bool)
	// ColumnLists is source.columnLists: the publications name only the columns that the mappings read, and those of the replica identity.
	ColumnLists bool
	// ReadInBursts is source.readInBursts: while data flows from this machine, without TLS, it is read through a small window, and with pauses.
	ReadInBursts bool
	// TimeZone, where it is set, is called from Prepare with the database's setting before anything is changed; an error of it ends Prepare.
	TimeZone func(string) error
	// Published notes how the mapped tables are published, in place of what was noted before: connector.Saved.Published brings it back. It is called
	// from the source's goroutines. nil: nobody notes it, and a table that left while the connector was stopped is put back without a word.
	Published func(context.Context, []connector.Published) error
	// Accepted notes in the checkpoint what AcceptGap has accepted, before anything is changed in the database; nil: nobody notes it.
	Accepted func(context.Context, connector.Accepted) error
	// Gap records a gap for good; it is called from the source's goroutines. nil: nobody records it.
	Gap func(context.Context, connector.Gap) error
}

// Source streams committed changes from a replication slot; it implements connector.Source. Make it with NewSource.
type Source struct {
	cfg     Config
	lineage connector.Lineage
	names   []string // publications to stream
	alarms  *connector.Alarms
	log     *slog.Logger
	timing  timing

	rel  *relations
	last backend // of the last stream
	// lateMarker is the newest transaction of which a marker that came too late was told; the stream's goroutine only.
	lateMarker connector.LSN

	watch   *watch
	verdict atomic.Pointer[error] // of the watch: why the stream must end

	state      atomic.Pointer[string]
	walEnd     atomic.Uint64
	confirmed  atomic.Uint64
	truncates  atomic.Uint64
	reconnects atomic.Uint64
	reports    atomic.Uint64
	fallbacks  atomic.Uint64
	born       time.Time
	reported   atomic.Int64 // nanoseconds after born, by the monotonic clock
}

// Status says how a source fares.
type Status struct {
	// State is connecting, streaming, waiting (another process holds the slot) or stopped.
	State string
	// WALEnd is the newest LSN that the server has told of, Confirmed the last that it was told.
	WALEnd, Confirmed connector.LSN
	// Truncates counts TRUNCATE messages, Reconnects connections that were lost.
	Truncates, Reconnects uint64
	// BurstFallbacks is 1 once reading in bursts was given up: messages stopped in their middle, or the system lacks what it needs.
	BurstFallbacks uint64
	// Reported is how long ago the server was told how far things have got. While State is streaming that is every second, whatever is waited for.
	Reported time.Duration
}

// Reconnection waits between these, up to half longer or shorter.
const (
	reconnectInitial = 200 * time.Millisecond
	reconnectMax     = 10 * time.Second
	connectTimeout   = 15 * time.Second
	// livedFor is how long a stream must have lived for the waits to begin anew.
	livedFor = 2 * time.Second
	// wrongPasswordTries is how often a refused password is tried before it is believed: one is refused too while a server starts or a
	// secret is being rotated.
	wrongPasswordTries = 3
	// standbyMax is the longest wait between two looks whether a slot that another process holds is free.
	standbyMax = 5 * time.Second
	// startTimeout bounds what is asked of the server before it streams.
	startTimeout = 30 * time.Second
)

// NewSource makes a source that streams what Prepare has prepared.
func NewSource(cfg Config, p *Prepared, alarms *connector.Alarms, log *slog.Logger) *Source {
	s := &Source{cfg: cfg, lineage: p.Lineage, names: p.Publications, alarms: alarms, log: log, timing: usualTiming, born: time.Now()}
	s.rel = newRelations(cfg.Uses, log, s.resolveTypes)
	s.watch = newWatch(s, p)
	s.setState("connecting")
	return s
}

// Status gives a snapshot. Safe for concurrent use.
func (s *Source) Status() Status {
	return Status{State: *s.state.Load(), WALEnd: connector.LSN(s.walEnd.Load()), Confirmed: connector.LSN(s.confirmed.Load()),
		Truncates: s.truncates.Load(), Reconnects: s.reconnects.Load(), BurstFallbacks: s.fallbacks.Load(),
		Reported: time.Since(s.born) - time.Duration(s.reported.Load())}
}

func (s *Source) setState(state string) { s.state.Store(&state) }

// Run streams until ctx ends, reconnecting with backoff on what passes.
func (s *Source) Run(ctx context.Context, sink connector.Sink) error {
	defer s.setState("stopped")
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := s.watch.run(watching); err != nil {
			s.verdict.Store(&err)
		}
	}()
	defer func() { stop(); <-watched }()
	wait := newBackoff()
	passwords := 0
	for {
		var since time.Time
		err := s.once(ctx, sink, func() {
			since, passwords = time.Now(), 0
			s.setState("streaming")
			s.alarms.Clear("source")
		})
		if !since.IsZero() && time.Since(since) >= livedFor {
			wait.Reset()
		}
		var fatal *mapError
		var gone *hungUp
		pause := wait.NextBackOff()
		switch {
		case ctx.Err() != nil:
			<-sink.Finished()
			return nil
		case errors.As(err, &gone):
		case errors.As(err, &fatal), errors.Is(err, ErrNewHistory):
			return err
		case hasState(err, stateUndefinedObject) && errors.Is(s.watch.lookNow(ctx), ErrNewHistory):
			return &anew{"the stream can't be decoded with the publications as they are"}
		case wrongPassword(err):
			if passwords++; passwords >= wrongPasswordTries {
				return Explain(err)
			}
		case !Passing(err) && !errors.Is(err, errEnded):
			return Explain(err)
		}
		s.reconnects.Add(1)
		sink.Dry() // what has come need not wait for the next connection
		switch {
		case slotInUse(err):
			s.setState("waiting")
			raiseStandby(s.alarms, s.cfg.Slot)
			pause = min(pause, standbyMax)
		case errors.Is(err, errRecovering):
			s.setState("connecting")
			s.alarms.Raise("source", errRecovering.Text, errRecovering.Cure)
			pause = min(pause, standbyMax)
		default:
			s.setState("connecting")
			s.alarms.Raise("source", "the stream from PostgreSQL is interrupted: "+reason(err), "nothing to do: it is taken up again by itself")
		}
		sleep(ctx, pause)
	}
}

// raiseStandby says that another process holds the slot.
func raiseStandby(alarms *connector.Alarms, slot string) {
	alarms.Raise("source", "another process holds the slot "+strconv.Quote(slot)+": waiting for it as a standby",
		"nothing to do if another tuzhan-cdc runs; else: SELECT active_pid FROM pg_replication_slots WHERE slot_name = "+literal(slot)+";")
}

// reason says why a connection ended, in one line.
func reason(err error) string {
	var gone *hungUp
	switch {
	case !errors.As(err, &gone):
		return strings.ReplaceAll(Explain(err).Error(), "\n", " ")
	case gone.err == nil:
		return gone.text
	}
	return gone.text + ": " + strings.ReplaceAll(Explain(gone.err).Error(), "\n", " ")
}

func newBackoff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(reconnectInitial), backoff.WithMaxInterval(reconnectMax),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0.5), backoff.WithMaxElapsedTime(0))
}

// once makes one connection and streams until it ends.
func (s *Source) once(ctx context.Context, sink connector.Sink, streaming func()) error {
	var f frames
	conn, err := connectStream(ctx, s.cfg.DSN, &f, s.inBursts())
	if err != nil {
		return err
	}
	defer closeConn(conn)
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	id, err := pglogrepl.IdentifySystem(starting, conn)
	if err != nil {
		return err
	}
	if id.SystemID != s.lineage.SystemID || id.DBName != s.lineage.Database || id.Timeline != s.lineage.Timeline {
		return ErrNewHistory
	}
	plain, err := connectBeside(starting, s.cfg.DSN)
	if err != nil {
		return err
	}
	b := s.newBeside(plain)
	defer func() { b.close() }()
	start := sink.Resume()
	if err := checkSlotPosition(starting, plain, s.cfg.Slot, start); err != nil {
		return err
	}
	if b.sender, err = loadBackend(starting, plain, conn.PID()); err != nil {
		return err
	}
	args, messages := pluginArgs(s.names, conn.ParameterStatus("server_version"))
	err = pglogrepl.StartReplication(starting, conn, quoteIdent(s.cfg.Slot), pglogrepl.LSN(start), pglogrepl.StartReplicationOptions{PluginArgs: args})
	if slotInUse(err) {
		if own, endErr := endOwn(starting, plain, s.last); endErr == nil && own {
			s.log.Info("the server still had the connection that was given up: it is ended", "pid", s.last.pid)
			return &hungUp{text: "the former connection still held the slot"}
		}
	}
	if hasState(err, stateNotSupported) {
		return errRecovering // the string names several hosts, and this one is another than the plain connection's
	}
	if err != nil {
		return err
	}
	s.last = b.sender
	s.log.Info("streaming", "slot", s.cfg.Slot, "from", start, "publications", strings.Join(s.names, ", "))
	s.rel.connected()
	streaming()
	s.watch.due()
	st := &stream{conn: conn, frames: &f, sink: sink, src: s, beside: b, rel: s.rel, messages: messages}
	if s.inBursts() {
		st.flow = burstsOf(conn.Conn())
	}
	return s.streamBeside(ctx, st)
}

// inBursts reports whether a stream may be read in bursts.
func (s *Source) inBursts() bool { return s.cfg.ReadInBursts && s.fallbacks.Load() == 0 }

// streamBeside runs the stream with the plain connection beside it.
func (s *Source) streamBeside(ctx context.Context, st *stream) error {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx)) // while the stream finishes the server may shut down too
	done := make(chan struct{})
	go func() {
		defer close(done)
		st.beside.run(watching)
	}()
	defer func() { stop(); <-done }()
	return st.run(ctx)
}

// publicationList writes names as the publication_names option wants them: a list of quoted identifiers.
func publicationList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = quoteIdent(n)
	}
	return strings.Join(quoted, ",")
}

// checkSlotPosition refuses to start behind the slot (ErrNewHistory): asked for an LSN older than confirmed_flush_lsn the server would silently
// start later, and what lies between would be gone. Nor does it start beyond the server's own WAL: the server would pass over all that it
// writes up to there.
func checkSlotPosition(ctx context.Context, plain *pgx.Conn, slot string, start connector.LSN) error {
	state, err := SlotState(ctx, plain, slot)
	if err != nil {
		return err
	}
	if state.Recovering {
		return errRecovering
	}
	if !state.Exists || state.Lost() || state.ConfirmedFlush > start || !state.Standby && state.WALEnd < start {
		return ErrNewHistory
	}
	return nil
}

// Refusal is an error that no waiting cures; Cure says what does.
type Refusal struct{ Text, Cure string }

// Error gives text and cure.
func (r *Refusal) Error() string { return r.Text + "\n  cure: " + r.Cure }

func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// resolveTypes asks the catalogue, over a connection of its own, for types that are not built in.
func (s *Source) resolveTypes(ctx context.Context, oids []uint32) (map[uint32]Type, error) {
	conn, err := Connect(ctx, s.cfg.DSN)
	if err != nil {
		return nil, err
	}
	defer closePlain(conn)
	return ResolveTypes(ctx, conn, oids)
}
