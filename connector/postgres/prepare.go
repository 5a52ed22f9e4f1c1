package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Prepared is what Prepare found and made.
type Prepared struct {
	Lineage connector.Lineage
	// Publications are the names to stream.
	Publications []string
	// TimeZone is the database's setting.
	TimeZone string
	// WALEnd is the server's WAL end at that time: what was committed before lies below.
	WALEnd connector.LSN
	// Checkpoint is where to go on: what was saved, if Rebased is false.
	Checkpoint *connector.Checkpoint
	// Rebased says that Checkpoint is to be written over what was saved, with Gap (nil: none), before anything is sent: it is the first one, the operator has
	// accepted a gap, or the history has moved on. Of what was saved from commit LSN Cut on, nothing holds.
	Rebased bool
	Gap     *connector.Gap
	Cut     connector.LSN

	accepted *connector.Accepted // now, and not noted yet

	known map[TableName]connector.Published // how the tables are published
	open  map[TableName]string              // those of them that are not published in full, with the reason

	identities map[TableName]string
	stale      []*stale
}

// Prepare connects, compares the server's history with the saved one and refuses what must not go on (another database system, a slot that is gone
// while a checkpoint exists, a failover that lost something), lets check look at the tables, then makes the publications and the slot where they are
// missing. It waits, with backoff, for a server that is not to be reached or to be promoted, and returns nil and no error when ctx ended meanwhile.
//
// check gets the tables of cfg.Uses as the catalogue has them; the missing ones are left out.
func Prepare(ctx context.Context, cfg Config, saved *connector.Saved, check func([]*connector.Table) error,
	alarms *connector.Alarms, log *slog.Logger) (*Prepared, error) {
	wait, passwords := newBackoff(), 0
	standby := func(waits bool) {
		if cfg.Waiting != nil {
			cfg.Waiting(waits)
		}
	}
	defer standby(false)
	for {
		p, err := prepare(ctx, cfg, saved, check, alarms, log)
		var refusal *Refusal
		var unfit *mapError
		pause := wait.NextBackOff()
		standby(slotInUse(err))
		switch {
		case err == nil:
			alarms.Clear("source")
			return p, nil
		case ctx.Err() != nil:
			return nil, nil
		case slotInUse(err):
			raiseStandby(alarms, cfg.Slot)
			sleep(ctx, min(pause, standbyMax))
			continue
		case errors.Is(err, errRecovering):
			alarms.Raise("source", errRecovering.Text, errRecovering.Cure)
			sleep(ctx, min(pause, standbyMax))
			continue
		case errors.As(err, &unfit):
			return nil, unfit.err
		case errors.As(err, &refusal):
			return nil, err
		case wrongPassword(err):
			if passwords++; passwords >= wrongPasswordTries {
				return nil, Explain(err)
			}
		case !Passing(err):
			return nil, Explain(err)
		}
		if hasState(err, stateLockNotAvailable) {
			alarms.Raise("source", "a table can't be put into a publication, because somebody holds a lock on it (VACUUM, CREATE INDEX or DDL)", "nothing to do: it is tried again by itself")
		} else {
			alarms.Raise("source", "PostgreSQL is not to be reached: "+Explain(err).Error(), "start the server or mend source.dsn; this is tried again by itself")
		}
		sleep(ctx, pause)
	}
}

// errHeld says that a slot, which is to be taken over where it stands, is still moved on by another process.
var errHeld = errors.New("another process reads from the slot")

func prepare(ctx context.Context, cfg Config, saved *connector.Saved, check func([]*connector.Table) error,
	alarms *connector.Alarms, log *slog.Logger) (*Prepared, error) {
	conn, err := Connect(ctx, cfg.DSN)
	if err != nil {
		return nil, err
	}
	defer closePlain(conn)
	repl, err := connectReplication(ctx, cfg.DSN)
	if err != nil {
		return nil, err
	}
	defer closeConn(repl)
	asking, cancel := context.WithTimeout(ctx, startTimeout) // a peer that vanished is not waited for
	defer cancel()
	id, err := pglogrepl.IdentifySystem(asking, repl)
	if err != nil {
		return nil, err
	}
	p := &Prepared{Lineage: connector.Lineage{SystemID: id.SystemID, Timeline: id.Timeline, Database: id.DBName, Slot: cfg.Slot}, Cut: noCut}
	server, err := LoadServer(asking, conn)
	if err != nil {
		return nil, err
	}
	p.TimeZone = server.TimeZone
	slot, err := SlotState(asking, conn, cfg.Slot)
	if err != nil {
		return nil, err
	}
	if slot.Recovering && saved.Checkpoint != nil {
		return nil, errRecovering
	}
	p.WALEnd = slot.WALEnd
	if other := slot.foreign(id.DBName); other != nil {
		return nil, &Refusal{fmt.Sprintf("the slot %q can't be used: %s", slot.Name, other.Text), other.Cure}
	}
	if refused := refusal(optionFindings(server, slot, cfg.Heartbeat > 0, cfg.Failover)); refused != nil {
		return nil, refused
	}
	if slot.Active && saved.Checkpoint == nil && !cfg.Points {
		return nil, errHeld // where to take it over is known when it is free
	}
	breaches, err := p.compare(asking, conn, repl, cfg, slot, saved, log)
	if err != nil {
		return nil, err
	}
	if cfg.TimeZone != nil {
		if err := cfg.TimeZone(server.TimeZone); err != nil {
			return nil, &mapError{err}
		}
	}
	found, err := LoadUsed(asking, conn, cfg.Uses, cfg.Publication)
	if err != nil {
		return nil, err
	}
	if err := check(found); err != nil {
		return nil, &mapError{err}
	}
	if p.accepted != nil {
		if err := noteAccepted(ctx, cfg, saved, p.accepted); err != nil {
			return nil, err
		}
	}
	if slot.Exists && slices.ContainsFunc(breaches, func(b breach) bool { return b.anew }) {
		if _, err := DropSlot(ctx, conn, cfg.Slot); err != nil {
			return nil, err
		}
		log.Warn("slot dropped, as the gap was accepted", "slot", cfg.Slot)
		slot = &Slot{Name: cfg.Slot, WALEnd: slot.WALEnd}
	}
	// What the state knows of the tables holds for this database, and while the slot goes on.
	var known map[TableName]connector.Published
	if cp := saved.Checkpoint; cp != nil && slot.Exists && cp.Lineage.SystemID == p.Lineage.SystemID && cp.Lineage.Database == p.Lineage.Database {
		known = knownTables(saved.Published)
	}
	r, err := p.publish(ctx, conn, cfg, known, log)
	if err != nil {
		return nil, err
	}
	start, err := ensureSlot(ctx, conn, repl, cfg, slot, log)
	if err != nil {
		return nil, err
	}
	if !slot.Exists {
		r.at.lsn = start // what comes from here on is published
	}
	if err := p.account(ctx, cfg, r, alarms, log); err != nil {
		return nil, err
	}
	p.resolve(saved, breaches, start, log)
	return p, nil
}

// ensureSlot makes the slot where it is missing, has standbys keep it in step where that is wanted, and gives where it stands.
func ensureSlot(ctx context.Context, conn *pgx.Conn, repl *pgconn.PgConn, cfg Config, slot *Slot, log *slog.Logger) (connector.LSN, error) {
	if !slot.Exists {
		start, err := CreateSlot(ctx, repl, NewSlot{Name: cfg.Slot, Failover: cfg.Failover, Plain: conn, Waiting: func(w Wait) {
			log.Warn(w.String(), "slot", cfg.Slot, "waited", w.Waited.Round(time.Second), "cure", w.Cure())
		}})
		if err == nil {
			log.Info("slot created", "slot", cfg.Slot, "from", start)
		}
		return start, err
	}
	if cfg.Failover && !slot.Failover && !slot.Active {
		if err := setFailover(ctx, repl, cfg.Slot); err != nil {
			return 0, err
		}
		log.Info("slot is kept in step on standbys from now on", "slot", cfg.Slot)
	}
	return slot.ConfirmedFlush, nil
}

// noteAccepted notes what was accepted: in the state for the next start, in saved for the next attempt of this one.
func noteAccepted(ctx context.Context, cfg Config, saved *connector.Saved, accepted *connector.Accepted) error {
	if cfg.Accepted != nil {
		if err := cfg.Accepted(ctx, *accepted); err != nil {
			return fmt.Errorf("noting the accepted gap: %w", err)
		}
	}
	cp := *saved.Checkpoint
	cp.Accepted = accepted
	saved.Checkpoint = &cp
	return nil
}

// Reach connects as Prepare and the stream do, and asks the server who it is. It waits for nothing: ctx bounds it.
func Reach(ctx context.Context, dsn string) error {
	conn, err := Connect(ctx, dsn)
	if err != nil {
		return Explain(err)
	}
	defer closePlain(conn)
	repl, err := connectReplication(ctx, dsn)
	if hasState(err, stateTooManyConnections) {
		return nil // the stream that runs has to go first
	}
	if err != nil {
		return Explain(err)
	}
	defer closeConn(repl)
	if _, err := pglogrepl.IdentifySystem(ctx, repl); err != nil {
		return Explain(err)
	}
	return nil
}

// CheckHistory compares the server's history with the saved one as Prepare does, and changes nothing: a *Refusal is what run would end with. load reads
// the state; an error of its own comes back as it is.
//
// A connector may be running, so that slot and state move on meanwhile: the state is read after the slot, which never passes what the state had saved
// before, and ahead of the WAL end, which the state never passes. A refusal counts only where it stands a second time: the slot may just have been made.
func CheckHistory(ctx context.Context, cfg Config, load func(context.Context) (*connector.Saved, error)) error {
	conn, err := Connect(ctx, cfg.DSN)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	repl, err := connectReplication(ctx, cfg.DSN)
	if err != nil {
		return err
	}
	defer closeConn(repl)
	look := func() error {
		id, err := pglogrepl.IdentifySystem(ctx, repl)
		if err != nil {
			return err
		}
		slot, err := SlotState(ctx, conn, cfg.Slot)
		if err != nil {
			return err
		}
		saved, err := load(ctx)
		if err != nil {
			return err
		}
		if slot.WALEnd, err = walEnd(ctx, conn); err != nil {
			return err
		}
		p := &Prepared{Lineage: connector.Lineage{SystemID: id.SystemID, Timeline: id.Timeline, Database: id.DBName, Slot: cfg.Slot}}
		_, err = p.compare(ctx, conn, repl, cfg, slot, saved, slog.New(slog.DiscardHandler))
		return err
	}
	err = look()
	var refusal *Refusal
	if errors.As(err, &refusal) {
		err = look()
	}
	return err
}

// publish brings the publications in step.
func (p *Prepared) publish(ctx context.Context, conn *pgx.Conn, cfg Config, known map[TableName]connector.Published, log *slog.Logger) (*round, error) {
	r, err := goRound(ctx, conn, cfg, nil, known)
	if err != nil {
		return nil, err
	}
	if r.refused != nil {
		return nil, r.refused
	}
	for _, c := range r.changes {
		log.Info("publication", "change", c)
	}
	p.Publications = r.found.names
	oids, err := publicationOIDs(ctx, conn, p.Publications)
	if err != nil {
		return nil, err
	}
	p.Lineage.Publications = joinPublications(oids, p.Publications)
	return r, nil
}

// account records and tells of the tables that left the publications while nobody looked, and notes how they are published now.
func (p *Prepared) account(ctx context.Context, cfg Config, r *round, alarms *connector.Alarms, log *slog.Logger) error {
	closed, open := r.holes()
	for _, h := range append(closed, r.after.renamed(r.known)...) {
		if err := tellClosed(ctx, cfg, r, h, alarms, log); err != nil {
			return err
		}
	}
	p.open = map[TableName]string{}
	for _, h := range open {
		text, cure := r.openText(h)
		alarms.Raise("source/table/"+h.use.Table.String(), text, cure)
		log.Warn("gap begins", "table", h.use.Table.String(), "from", h.was.Seen, "reason", h.why)
		if err := cfg.gap(ctx, h.gap(0)); err != nil {
			return err
		}
		p.open[h.use.Table] = h.why
	}
	p.identities = r.after.identities()
	if st := r.stale(closed); st != nil && r.found.slotExists {
		p.stale = append(p.stale, st)
	}
	p.known = r.after.published(r.known, p.Publications, r.at.lsn, open)
	if cfg.Published == nil {
		return nil
	}
	if err := cfg.Published(ctx, sortedTables(p.known)); err != nil {
		return fmt.Errorf("noting the published tables: %w", err)
	}
	return nil
}

// compare refuses what must not go on, unless the operator has accepted it: then it gives the breaches.
func (p *Prepared) compare(ctx context.Context, conn *pgx.Conn, repl *pgconn.PgConn, cfg Config, slot *Slot, saved *connector.Saved, log *slog.Logger) ([]breach, error) {
	if saved.Checkpoint == nil {
		return nil, p.takeOver(cfg, slot, log)
	}
	oids, err := publicationOIDs(ctx, conn, []string{cfg.Publication, InsertPublication(cfg.Publication)})
	if err != nil {
		return nil, err
	}
	s := &scene{lineage: p.Lineage, slot: slot, standing: oids, switched: func(timeline int32) (connector.LSN, bool, error) {
		left, err := timelineHistory(ctx, repl, p.Lineage.Timeline)
		lsn, ok := left[timeline]
		return lsn, ok, err
	}}
	breaches, cut, err := s.compare(saved)
	if err != nil {
		return nil, err
	}
	if cut > 0 {
		p.Cut = cut
	}
	stale := func() {
		if cfg.AcceptGap != "" {
			log.Warn("--accept-gap names no refusal that stands now: take it out of the command line", "id", cfg.AcceptGap)
		}
	}
	if len(breaches) == 0 {
		stale()
		return nil, nil
	}
	if before := noted(saved.Checkpoint.Accepted, breaches); before != nil {
		if cfg.AcceptGap != saved.Checkpoint.Accepted.ID {
			stale()
		}
		return before, nil
	}
	refusal, which := refuse(breaches)
	if cfg.AcceptGap != which {
		stale()
		return nil, refusal
	}
	p.accepted = note(which, breaches)
	return breaches, nil
}

// takeOver decides on a slot that is there while there is no state: where points are mapped, those that a lost state had sent would be sent again.
func (p *Prepared) takeOver(cfg Config, slot *Slot, log *slog.Logger) error {
	switch {
	case !slot.Exists:
	case slot.Lost():
		why, cure := slot.whyLost()
		return &Refusal{fmt.Sprintf("the slot %q is invalidated (wal_status %s): %s; and there is no state", slot.Name, slot.WALStatus, why),
			"SELECT pg_drop_replication_slot(" + literal(slot.Name) + "); -- and start again. So that it does not come again: " + cure}
	case cfg.Points:
		which := id("new-state", p.Lineage.SystemID, p.Lineage.Database, slot.Name, slot.ConfirmedFlush.String())
		if cfg.NewState != which {
			initial := ""
			if cfg.Initial {
				initial = "; and source.snapshot: initial would give the points of all rows that are there, again where they were given before"
			}
			return &Refusal{fmt.Sprintf("the slot %q exists, and there is no state: which points of the changes between %s and %s were sent before is not known, they may double%s. Nothing was sent",
				slot.Name, slot.ConfirmedFlush, slot.WALEnd, initial),
				"put the state back where state.path or state.dsn says. If this is a new connector, and nothing has sent points from this slot: tuzhan-cdc run --new-state " + which}
		}
		fallthrough
	default:
		log.Warn("the slot exists and there is no state: it is taken over where it stands", "slot", cfg.Slot, "from", slot.ConfirmedFlush)
	}
	return nil
}

// resolve finds the checkpoint to go on from. start is where the slot stands.
func (p *Prepared) resolve(saved *connector.Saved, breaches []breach, start connector.LSN, log *slog.Logger) {
	cp := saved.Checkpoint
	switch {
	case cp == nil:
		p.Checkpoint, p.Rebased = &connector.Checkpoint{Lineage: p.Lineage, Flush: start}, true
	case len(breaches) > 0:
		p.Checkpoint, p.Gap, p.Cut = accept(saved, breaches, p.Lineage, start)
		p.Rebased = true
		if p.Gap != nil {
			log.Warn("gap accepted and recorded: send what is missing with `tuzhan-cdc backfill MAPPING`", "from", p.Gap.From, "to", p.Gap.To, "reason", p.Gap.Reason)
		}
	case p.Cut != noCut:
		log.Info("the server writes a new timeline, which holds all that was settled", "timeline", p.Lineage.Timeline, "was", cp.Lineage.Timeline, "since", p.Cut)
		p.Checkpoint, p.Rebased = cutCheckpoint(cp, p.Cut), true
		p.Checkpoint.Lineage = p.Lineage
	case cp.Lineage != p.Lineage || cp.Accepted != nil: // an older version wrote it, a publication came along, or what was accepted was mended
		next := *cp
		next.Lineage, next.Accepted = p.Lineage, nil
		p.Checkpoint, p.Rebased = &next, true
	default:
		p.Checkpoint = cp
	}
	if p.Rebased {
		p.Checkpoint.Written = time.Now()
	}
}

// LoadUsed gives the tables of uses as the catalogue has them, with the columns that the publications send or are going to send; the missing ones are
// left out.
func LoadUsed(ctx context.Context, conn *pgx.Conn, uses []Use, publication string) ([]*connector.Table, error) {
	byName, err := loadTables(ctx, conn, tablesOf(uses), []string{publication, InsertPublication(publication)}, true)
	if err != nil {
		return nil, err
	}
	tables := make([]*connector.Table, 0, len(byName))
	for _, u := range uses {
		if t := byName[u.Table]; t != nil {
			tables = append(tables, t)
		}
	}
	return tables, nil
}
