package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Prepared is what Prepare found and made.
type Prepared struct {
	Lineage connector.Lineage
	// Publications are the names to stream.
	Publications []string
	// Start is where a connector without a checkpoint begins: the slot's consistent point, or where an existing slot stands.
	Start connector.LSN
	// TimeZone is the database's setting.
	TimeZone string
}

// Prepare connects, refuses what must not go on (another database system, a slot that is gone while a checkpoint exists), lets
// check look at the tables, then makes the publications and the slot where they are missing. It waits, with
// backoff, for a server that is not to be reached, and returns nil and no error when ctx ended meanwhile.
//
// check gets the tables of cfg.Uses as the catalogue has them; the missing ones are left out.
func Prepare(ctx context.Context, cfg Config, saved *connector.Checkpoint, check func([]*connector.Table) error,
	alarms *connector.Alarms, log *slog.Logger) (*Prepared, error) {
	wait, passwords := newBackoff(), 0
	for {
		p, err := prepare(ctx, cfg, saved, check, log)
		var refusal *Refusal
		var unfit *mapError
		switch {
		case err == nil:
			alarms.Clear("source")
			return p, nil
		case ctx.Err() != nil:
			return nil, nil
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
		alarms.Raise("source", "PostgreSQL is not to be reached: "+Explain(err).Error(), "start the server or mend source.dsn; this is tried again by itself")
		select {
		case <-ctx.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
}

func prepare(ctx context.Context, cfg Config, saved *connector.Checkpoint, check func([]*connector.Table) error, log *slog.Logger) (*Prepared, error) {
	conn, err := Connect(ctx, cfg.DSN)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	repl, err := connectReplication(ctx, cfg.DSN)
	if err != nil {
		return nil, err
	}
	defer closeConn(repl)
	id, err := pglogrepl.IdentifySystem(ctx, repl)
	if err != nil {
		return nil, err
	}
	p := &Prepared{Lineage: connector.Lineage{SystemID: id.SystemID, Database: id.DBName, Slot: cfg.Slot}}
	if saved != nil && saved.Lineage != p.Lineage {
		return nil, &Refusal{fmt.Sprintf("the state file belongs to system %s, database %s, slot %s; source.dsn leads to system %s, database %s, slot %s",
			saved.Lineage.SystemID, saved.Lineage.Database, saved.Lineage.Slot, id.SystemID, id.DBName, cfg.Slot),
			"point source.dsn and source.slot at what the state file belongs to, or start with another state.path"}
	}
	server, err := LoadServer(ctx, conn)
	if err != nil {
		return nil, err
	}
	p.TimeZone = server.TimeZone
	found, err := LoadUsed(ctx, conn, cfg.Uses, cfg.Publication)
	if err != nil {
		return nil, err
	}
	if err := check(found); err != nil {
		return nil, &mapError{err}
	}
	slot, err := SlotState(ctx, conn, cfg.Slot)
	if err != nil {
		return nil, err
	}
	if saved != nil {
		if err := refuseSlot(slot, saved.Flush); err != nil {
			return nil, err
		}
	}
	names, changes, err := EnsurePublications(ctx, conn, PublicationParams{Name: cfg.Publication, Slot: cfg.Slot, Uses: cfg.Uses})
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		log.Info("publication", "change", c)
	}
	p.Publications = names
	if slot.Exists {
		p.Start = slot.ConfirmedFlush
		if saved == nil {
			if err := refuseSlot(slot, p.Start); err != nil {
				return nil, err
			}
			log.Warn("the slot exists and there is no state: it is taken over where it stands", "slot", cfg.Slot, "from", p.Start)
		}
		return p, nil
	}
	p.Start, err = CreateSlot(ctx, repl, NewSlot{Name: cfg.Slot, Plain: conn, Waiting: func(w Wait) {
		log.Warn(w.String(), "slot", cfg.Slot, "waited", w.Waited.Round(time.Second), "cure", w.Cure())
	}})
	if err != nil {
		return nil, err
	}
	log.Info("slot created", "slot", cfg.Slot, "from", p.Start)
	return p, nil
}

// refuseSlot refuses a slot from which the changes since the checkpoint can't come any more: one that is gone, is invalidated, is
// another database's, or has been read past the checkpoint (asked for an older LSN the server would silently start later).
func refuseSlot(slot *Slot, since connector.LSN) error {
	const anew = "find out why; to go on from now, and lose what lies between, run `tuzhan-cdc slot drop`, move the state file away and start again"
	switch {
	case !slot.Exists:
		return &Refusal{fmt.Sprintf("the slot %q is gone while the state file has a checkpoint: changes since %s may be lost", slot.Name, since), anew}
	case slot.Lost():
		return &Refusal{fmt.Sprintf("the slot %q is invalidated (wal_status %s): the server removed WAL that was not read, changes since %s are lost",
			slot.Name, slot.WALStatus, since), "raise max_slot_wal_keep_size; then " + anew}
	case slot.Plugin != plugin:
		return &Refusal{fmt.Sprintf("the slot %q is not a logical slot of the plugin %s", slot.Name, plugin), "choose another name for source.slot"}
	case slot.ConfirmedFlush > since:
		return &Refusal{fmt.Sprintf("the slot %q stands at %s, past the checkpoint at %s: something else has read from it, and the changes between do not come again",
			slot.Name, slot.ConfirmedFlush, since), anew}
	}
	return nil
}

// LoadUsed gives the tables of uses as the catalogue has them, with the columns that the publications send; the missing ones are left out.
func LoadUsed(ctx context.Context, conn *pgx.Conn, uses []Use, publication string) ([]*connector.Table, error) {
	byName, err := LoadTables(ctx, conn, tablesOf(uses), publication, InsertPublication(publication))
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
