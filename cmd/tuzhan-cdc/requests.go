package main

import (
	"context"
	"slices"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
)

// budget remembers what was set aside because source.walBudget was reached.
type budget struct {
	at    time.Time            // the last time
	asked map[string]time.Time // by mapping
}

// againAfter is how long a mapping that was set aside at source.walBudget is left alone: what keeps the slot may be something else.
const againAfter = time.Minute

// setAsideAtBudget keeps a held mapping from filling the CRM's disk: at source.walBudget its changes are set aside. A mapping that is held from its
// next change on keeps nothing yet.
func (s *supervisor) setAsideAtBudget(ctx context.Context, parts *connectorParts) {
	slot, looked := s.parts.watcher.last()
	if slot == nil || !slot.Exists || slot.Retained < parts.cfg.Source.WALBudget || !looked.After(s.budget.at) {
		return
	}
	for _, t := range parts.pipeline.Progress().Checkpoint.Tracks {
		if t.Held == "" || t.Held == connector.HoldMisfit && t.SetAside || time.Since(s.budget.asked[t.Mapping]) < againAfter {
			continue
		}
		s.log.Warn("source.walBudget is reached: the changes of a held mapping are set aside as dead letters", "mapping", t.Mapping, "since", t.Since)
		if err := state.Ask(ctx, stateLocation(parts.cfg), state.Request{What: state.RequestSetAside, Mapping: t.Mapping, Created: time.Now()}); err != nil {
			s.log.Error("the changes of a held mapping can't be set aside", "mapping", t.Mapping, "error", err)
			continue
		}
		if s.budget.asked == nil {
			s.budget.asked = map[string]time.Time{}
		}
		s.budget.at, s.budget.asked[t.Mapping] = time.Now(), time.Now()
	}
}

// asked looks for what commands have left in the state, and reports whether the pipeline is to be run anew for it. What changes nothing is done with
// at once.
func (s *supervisor) asked(ctx context.Context, parts *connectorParts) (anew bool) {
	requests, err := parts.store.Requests(ctx)
	if err != nil {
		return false
	}
	held := parts.pipeline.HeldMappings()
	var idle []int64
	for _, r := range requests {
		matters, err := s.matters(ctx, r, parts, held)
		if err != nil {
			continue // the database is away: later
		}
		if matters {
			return true
		}
		idle = append(idle, r.ID)
		s.log.Info("what a command asks for changes nothing", "request", r.What, "mapping", r.Mapping)
	}
	if len(idle) > 0 {
		_ = parts.store.Done(ctx, idle...) // else it is looked at again
	}
	return false
}

// matters reports whether a request changes what the pipeline does.
func (s *supervisor) matters(ctx context.Context, r state.Request, parts *connectorParts, held []connector.HeldMapping) (bool, error) {
	if r.What == state.RequestResume && r.Mapping == "" && parts.delivery.Stats().Paused {
		return true, nil
	}
	if r.What == state.RequestSetAside && !slices.ContainsFunc(held, func(h connector.HeldMapping) bool { return h.Mapping == r.Mapping }) {
		unfit, err := unfitNow(ctx, parts.cfg, parts.cfg.Mappings.Names())
		_, ok := unfit[r.Mapping]
		return ok, err
	}
	return slices.ContainsFunc(held, func(h connector.HeldMapping) bool {
		switch {
		case r.Mapping != "" && h.Mapping != r.Mapping:
			return false
		case r.What == state.RequestResume:
			return h.Why != "" && h.Why != connector.HoldMisfit
		}
		return !h.SetAside || h.Why != "" && h.Why != connector.HoldMisfit
	}), nil
}

// unfitNow looks which of the known mappings can't read their tables as these are now, and gives the reasons.
func unfitNow(ctx context.Context, cfg *config.Config, known []string) (map[string]connector.Unfit, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	conn, err := postgres.Connect(ctx, cfg.Source.DSN.Reveal())
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tables, err := postgres.LoadUsed(ctx, conn, uses(cfg.Mappings), cfg.Source.Publication)
	if err != nil {
		return nil, err
	}
	unfit := map[string]connector.Unfit{}
	_ = checkTables(cfg.Mappings, known, unfit)(tables) // of mappings that are not known, run tells
	return unfit, nil
}

// carryOut does to the checkpoint what commands have asked for, and reports whether that changed anything. now is the server's WAL end.
func (s *supervisor) carryOut(cp *connector.Checkpoint, requests []state.Request, unfit map[string]connector.Unfit, now connector.LSN) (changed bool) {
	for _, r := range requests {
		switch r.What {
		case state.RequestSetAside:
			names := cp.SetAside(r.Mapping, now)
			if _, ok := unfit[r.Mapping]; ok && cp.SetAsideNext(r.Mapping) {
				names = append(names, r.Mapping)
			}
			for _, name := range names {
				s.log.Warn("what a held mapping waits with becomes dead letters", "mapping", name)
				changed = true
			}
		case state.RequestResume:
			for _, name := range cp.Resume(r.Mapping, now) {
				s.log.Info("mapping goes on", "mapping", name)
				changed = true
			}
		}
	}
	return changed
}
