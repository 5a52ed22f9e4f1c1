package postgres

import (
	"context"
	"errors"
	"log/slog"
	"net"
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
	// AcceptGap is the id of the refusal that the operator accepts, NewState that of the slot that may be taken over without a state; empty: none.
	AcceptGap, NewState string
	// ColumnLists is source.columnLists: the publications name only the columns that the mappings read, and those of the replica identity.
	ColumnLists bool
	// Published notes how the mapped tables are published, in place of what was noted before: connector.Saved.Published brings it back. It is called
	// from the source's goroutines. nil: nobody notes it, and a table that left while the connector was stopped is put back without a word.
	Published func(context.Context, []connector.Published) error
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

	rel *relations

	watch   *watch
	verdict atomic.Pointer[error] // of the watch: why the stream must end

	state      atomic.Pointer[string]
	walEnd     atomic.Uint64
	confirmed  atomic.Uint64
	truncates  atomic.Uint64
	reconnects atomic.Uint64
}

// Status says how a source fares.
type Status struct {
	// State is connecting, streaming, waiting (another process holds the slot) or stopped.
	State string
	// WALEnd is the newest LSN that the server has told of, Confirmed the last that it was told.
	WALEnd, Confirmed connector.LSN
	// Truncates counts TRUNCATE messages, Reconnects connections that were lost.
	Truncates, Reconnects uint64
}

// Reconnection waits between these, up to half longer or shorter.
const (
	reconnectInitial = 200 * time.Millisecond
	reconnectMax     = 10 * time.Second
	connectTimeout   = 15 * time.Second
	// wrongPasswordTries is how often a refused password is tried before it is believed: one is refused too while a server starts or a
	// secret is being rotated.
	wrongPasswordTries = 3
)

// NewSource makes a source that streams what Prepare has prepared.
func NewSource(cfg Config, p *Prepared, alarms *connector.Alarms, log *slog.Logger) *Source {
	s := &Source{cfg: cfg, lineage: p.Lineage, names: p.Publications, alarms: alarms, log: log}
	s.rel = newRelations(s.resolveTypes)
	s.rel.partitioned = s.isPartitioned
	s.watch = newWatch(s, p)
	s.setState("connecting")
	return s
}

// Status gives a snapshot. Safe for concurrent use.
func (s *Source) Status() Status {
	return Status{State: *s.state.Load(), WALEnd: connector.LSN(s.walEnd.Load()), Confirmed: connector.LSN(s.confirmed.Load()),
		Truncates: s.truncates.Load(), Reconnects: s.reconnects.Load()}
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
		s.setState("connecting")
		err := s.once(ctx, sink, func() { wait.Reset(); passwords = 0; s.setState("streaming"); s.alarms.Clear("source") })
		var fatal *mapError
		switch {
		case ctx.Err() != nil:
			<-sink.Finished()
			return nil
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
		if slotInUse(err) {
			s.setState("waiting")
			s.alarms.Raise("source", "another process holds the slot "+strconv.Quote(s.cfg.Slot)+": waiting for it as a standby",
				"nothing to do if another tuzhan-cdc runs; else: SELECT active_pid FROM pg_replication_slots WHERE slot_name = "+literal(s.cfg.Slot)+";")
		} else {
			s.alarms.Raise("source", "the stream from PostgreSQL is interrupted: "+Explain(err).Error(), "nothing to do: it is taken up again by itself")
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
}

func newBackoff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(reconnectInitial), backoff.WithMaxInterval(reconnectMax),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0.5), backoff.WithMaxElapsedTime(0))
}

// once makes one connection and streams until it ends.
func (s *Source) once(ctx context.Context, sink connector.Sink, streaming func()) error {
	conn, err := connectReplication(ctx, s.cfg.DSN)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	id, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return err
	}
	if id.SystemID != s.lineage.SystemID || id.DBName != s.lineage.Database || id.Timeline != s.lineage.Timeline {
		return ErrNewHistory
	}
	start := sink.Resume()
	if err := checkSlotPosition(ctx, s.cfg.DSN, s.cfg.Slot, start); err != nil {
		return err
	}
	err = pglogrepl.StartReplication(ctx, conn, quoteIdent(s.cfg.Slot), pglogrepl.LSN(start), pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names " + literal(publicationList(s.names))}})
	if err != nil {
		return err
	}
	s.log.Info("streaming", "slot", s.cfg.Slot, "from", start, "publications", strings.Join(s.names, ", "))
	s.rel.connected()
	streaming()
	s.watch.due()
	st := &stream{conn: conn, sink: sink, src: s, rel: s.rel, told: 0}
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
// start later, and what lies between would be gone.
func checkSlotPosition(ctx context.Context, dsn, slot string, start connector.LSN) error {
	plain, err := Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer plain.Close(context.WithoutCancel(ctx))
	state, err := SlotState(ctx, plain, slot)
	if err != nil {
		return err
	}
	if !state.Exists || state.Lost() || state.ConfirmedFlush > start {
		return ErrNewHistory
	}
	return nil
}

// Refusal is an error that no waiting cures; Cure says what does.
type Refusal struct{ Text, Cure string }

// Error gives text and cure.
func (r *Refusal) Error() string { return r.Text + "\n  cure: " + r.Cure }

// sessionParams make the server write every type in one way, whatever the database's own settings.
var sessionParams = map[string]string{
	"application_name": "tuzhan-cdc", "client_encoding": "UTF8", "datestyle": "ISO, YMD", "intervalstyle": "iso_8601",
	"timezone": "UTC", "extra_float_digits": "3", "bytea_output": "hex",
}

// connectReplication opens a connection in replication mode.
func connectReplication(ctx context.Context, dsn string) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	for k, v := range sessionParams {
		cfg.RuntimeParams[k] = v
	}
	cfg.RuntimeParams["replication"] = "database"
	setDialer(cfg)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return pgconn.ConnectConfig(ctx, cfg)
}

// Connect opens a plain connection for SQL, with the same settings as the stream.
func Connect(ctx context.Context, dsn string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	for k, v := range sessionParams {
		if k != "timezone" { // the database's own TimeZone is to be seen
			cfg.RuntimeParams[k] = v
		}
	}
	setDialer(&cfg.Config)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return pgx.ConnectConfig(ctx, cfg)
}

// setDialer makes a peer that vanished without a word be found within about 20 s.
func setDialer(cfg *pgconn.Config) {
	d := &net.Dialer{Timeout: 10 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}}
	cfg.DialFunc = d.DialContext
}

func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// isPartitioned asks the catalogue, over a connection of its own, whether a table is partitioned. One that is gone may have been.
func (s *Source) isPartitioned(ctx context.Context, oid uint32) (is bool, err error) {
	conn, err := Connect(ctx, s.cfg.DSN)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, "SELECT coalesce((SELECT relkind = 'p' FROM pg_class WHERE oid = $1), true)", oid).Scan(&is)
	return is, err
}

// resolveTypes asks the catalogue, over a connection of its own, for types that are not built in.
func (s *Source) resolveTypes(ctx context.Context, oids []uint32) (map[uint32]Type, error) {
	conn, err := Connect(ctx, s.cfg.DSN)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return ResolveTypes(ctx, conn, oids)
}
