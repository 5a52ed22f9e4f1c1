package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/delivery"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platform"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

// supervisor runs the pipeline, and runs it anew, in the same process, when the configuration is read again, when a command has asked for something
// that changes what the pipeline does, or when the server came back with another history. A pipeline always stops in good order first, so
// that the state alone says where the next one goes on.
type supervisor struct {
	parts    connectorParts // without source, delivery and pipeline
	view     *view
	log      *slog.Logger
	shutdown time.Duration
	accept   accepted
	reload   chan os.Signal
	budget   budget
}

// accepted is what the operator accepts on the command line.
type accepted struct{ gap, newState string }

// The causes with which a pipeline is stopped to be run anew, and the wait for the database to read the configuration again.
var (
	errAnew   = errors.New("run anew")
	errReload = errors.New("read the configuration again")
)

// nothingCut is the commit LSN that nothing known lies beyond.
const nothingCut = ^connector.LSN(0)

// requestsEvery is how often the state is asked for what commands have left there.
const requestsEvery = time.Second

// run runs until ctx ends or something stands in the way that waiting can't cure.
func (s *supervisor) run(ctx context.Context) error {
	cfg := s.parts.cfg
	var before *config.Config // goes on in place of cfg, until that has streamed
	for {
		prepared, err := s.prepare(ctx, cfg)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errReload):
			if next := s.readAgain(cfg, nil); next != nil {
				cfg, before = next, cmp.Or(before, cfg)
			}
			continue
		case err != nil && before != nil:
			s.refuseReload(err)
			cfg, before = before, nil
			continue
		case err != nil:
			return err
		}
		s.accept = accepted{}
		next, began, err := s.stream(ctx, cfg, prepared)
		if began {
			before = nil
		}
		switch {
		case errors.Is(err, postgres.ErrNewHistory):
			s.log.Warn("the server is compared with the state anew", "reason", err)
		case err != nil && before != nil:
			s.refuseReload(err)
			cfg, before = before, nil
		case err != nil || ctx.Err() != nil:
			return err
		case next != nil:
			cfg, before = next, cmp.Or(before, cfg)
		}
	}
}

// prepared is all that a pipeline begins with.
type prepared struct {
	*postgres.Prepared
	source postgres.Config
	zone   *time.Location
	client *platform.Client
	saved  *connector.Saved
	// backfills are those that have not ended.
	backfills []*connector.Backfill
	// unfit are the mappings that the state knows and that can't read their tables now, with the reason.
	unfit map[string]connector.Unfit
	// resumed says that a command has ended whatever pauses delivery.
	resumed bool
}

// prepare prepares the database, and brings the state in step with it and with the file. What the file may have wrong shows before anything is
// changed. While it waits for the database, a reload ends it with errReload.
func (s *supervisor) prepare(ctx context.Context, cfg *config.Config) (p *prepared, err error) {
	store := s.parts.store
	client, err := newPlatform(cfg, s.log, func(ctx context.Context) error {
		_, err := insist(ctx, s, func() (any, error) { return nil, store.Lease(ctx) })
		return err
	}, s.parts.counters.Exchanged)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil || ctx.Err() != nil {
			client.Close()
		}
	}()
	saved, err := insist(ctx, s, func() (*connector.Saved, error) { return store.Load(ctx) })
	if err != nil {
		return nil, err
	}
	var known []string
	if saved.Checkpoint != nil {
		known = saved.Checkpoint.Mappings
	}
	if err := refuseGone(saved.Checkpoint, cfg.Mappings); err != nil { // before anything is changed in the database
		return nil, err
	}
	p = &prepared{source: sourceConfig(cfg), client: client, unfit: map[string]connector.Unfit{}}
	p.source.AcceptGap, p.source.NewState, p.source.Gap = s.accept.gap, s.accept.newState, store.AddGap
	p.source.Accepted = func(ctx context.Context, accepted connector.Accepted) error {
		cp := *saved.Checkpoint
		cp.Accepted = &accepted
		_, err := insist(ctx, s, func() (any, error) { return nil, store.Rebase(ctx, &cp, nil, nil, nothingCut) })
		return err
	}
	p.source.Waiting = s.parts.waiting.Store
	p.source.Published = store.SavePublished
	p.source.TimeZone = func(database string) (err error) {
		p.zone, err = timeZone(cfg, database)
		return err
	}
	err = s.untilReload(ctx, func(ctx context.Context) (ready bool, err error) {
		p.Prepared, err = postgres.Prepare(ctx, p.source, saved, checkTables(cfg.Mappings, known, p.unfit), s.parts.alarms, s.log)
		return p.Prepared != nil, err
	})
	if err != nil || ctx.Err() != nil {
		return nil, err
	}
	cp := *p.Checkpoint
	requests, err := insist(ctx, s, func() ([]state.Request, error) { return store.Requests(ctx) })
	if err != nil {
		return nil, err
	}
	p.resumed = slices.ContainsFunc(requests, func(r state.Request) bool { return r.What == state.RequestResume && r.Mapping == "" })
	gone := goneFrom(cfg.Mappings)
	cp.Tracks = slices.DeleteFunc(slices.Clone(cp.Tracks), func(t connector.Track) bool { return gone(t.Mapping) }) // all of it is set aside
	orphans := p.orphans(cfg, saved, &cp)
	if p.Rebased {
		cp.CapBrakes(p.Cut)
	}
	if err := s.beginBackfills(ctx, cfg, saved, p); err != nil {
		return nil, err
	}
	changed := s.carryOut(&cp, requests, p.unfit, p.WALEnd)
	if p.Rebased || changed || len(orphans) > 0 || len(cp.Tracks) != len(p.Checkpoint.Tracks) {
		if _, err := insist(ctx, s, func() (any, error) { return nil, store.Rebase(ctx, &cp, orphans, p.Gap, p.Cut) }); err != nil {
			return nil, err
		}
		for _, l := range orphans {
			s.log.Warn("dead letter", "class", l.Class, "mapping", l.Mapping, "position", l.Position, "reason", l.Reason)
		}
	}
	ids := make([]int64, len(requests))
	for i, r := range requests {
		ids[i] = r.ID
	}
	if _, err := insist(ctx, s, func() (any, error) { return nil, store.Done(ctx, ids...) }); err != nil {
		return nil, err
	}
	if p.saved, err = insist(ctx, s, func() (*connector.Saved, error) { return store.Load(ctx) }); err != nil {
		return nil, err
	}
	if p.backfills, err = insist(ctx, s, func() ([]*connector.Backfill, error) { return store.Backfills(ctx) }); err != nil {
		return nil, err
	}
	_, err = insist(ctx, s, func() (any, error) { return nil, store.Sends(ctx, cfg.Platform.Timeout, s.log) })
	return p, err
}

// orphans makes letters of the points with an intent and no outcome whose changes do not come again.
func (p *prepared) orphans(cfg *config.Config, saved *connector.Saved, cp *connector.Checkpoint) []*connector.DeadLetter {
	gone := goneFrom(cfg.Mappings)
	orphans := connector.Orphans(saved.Known, func(k connector.RecordKey) bool { return gone(k.Mapping) }, "its mapping is gone from the file")
	if p.Rebased && saved.Checkpoint != nil {
		reason := "the history has changed"
		if p.Gap != nil {
			reason = p.Gap.Reason
		}
		orphans = append(orphans, connector.Orphans(saved.Known, func(k connector.RecordKey) bool {
			return k.Position.Commit >= p.Cut || cp.CoversRecord(k)
		}, reason)...)
	}
	if cfg.Platform.PointAPI == "open" { // their payload is not known, but this is
		for _, l := range orphans {
			l.Reason += "; the platform has it, if at all, under relateBizCode " + mapping.RecordUUID(p.Lineage.SystemID, p.Lineage.Database, l.RecordID)
		}
	}
	return orphans
}

// untilReload does something that may wait, until SIGHUP: then, unless it was ready all the same, the error is errReload.
func (s *supervisor) untilReload(ctx context.Context, do func(context.Context) (ready bool, err error)) error {
	doing, stop := context.WithCancelCause(ctx)
	heard := make(chan os.Signal, 1)
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		select {
		case signal := <-s.reload:
			heard <- signal
			stop(errReload)
		case <-doing.Done():
		}
	}()
	ready, err := do(doing)
	stop(nil)
	<-listened
	select {
	case signal := <-heard:
		if !ready {
			return errReload
		}
		select {
		case s.reload <- signal: // the pipeline hears of it
		default:
		}
	default:
	}
	return err
}

// insist does something with the state, again and again with an alarm while the state's server is not to be reached, until ctx ends.
func insist[T any](ctx context.Context, s *supervisor, do func() (T, error)) (T, error) {
	for {
		v, err := do()
		if !state.Unreachable(err) || ctx.Err() != nil {
			s.parts.alarms.Clear("state/start")
			return v, err
		}
		s.parts.alarms.Raise("state/start", err.Error(), "see to the server of state.dsn; it goes on by itself")
		select {
		case <-ctx.Done():
		case <-time.After(requestsEvery):
		}
	}
}

// goneFrom tells the mappings that the file does not have.
func goneFrom(set *mapping.Set) func(name string) bool {
	names := set.Names()
	return func(name string) bool { return !slices.Contains(names, name) }
}

// refuseGone refuses a file that no longer has a mapping whose changes still wait. (Of other mappings that are gone, points with an intent and no
// outcome become letters.)
func refuseGone(cp *connector.Checkpoint, set *mapping.Set) error {
	if cp == nil {
		return nil
	}
	gone := goneFrom(set)
	var waiting []string
	for _, t := range cp.Tracks {
		if gone(t.Mapping) && !(t.SetAside && t.Settled.Compare(cp.Settled) >= 0) {
			waiting = append(waiting, fmt.Sprintf("%s since position %s", t.Mapping, t.Since))
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	return &postgres.Refusal{Text: "a mapping that is held is gone from the file, and its changes still wait: " + strings.Join(waiting, ", "),
		Cure: "put it back; to give its changes up as dead letters, run `tuzhan-cdc deadletters set-aside --mapping NAME`, and take it out when `tuzhan-cdc status` shows it done"}
}

// stream runs one pipeline until ctx ends, it fails, or there is a reason to run it anew: then next is the configuration that was read again, if
// that is the reason. began says that the server has streamed.
func (s *supervisor) stream(ctx context.Context, cfg *config.Config, p *prepared) (next *config.Config, began bool, err error) {
	defer p.client.Close()
	s.parts.cfg = cfg
	parts := s.parts
	parts.pipeline = connector.NewPipeline(connector.PipelineOptions{
		Mapper:       mapperFor(cfg, p.Lineage, p.zone, parts.counters),
		Mappings:     slices.Sorted(slices.Values(cfg.Mappings.Names())),
		MaxPerMinute: cfg.Mappings.MaxPerMinute(),
		Store:        parts.store, Saved: p.saved, Counters: parts.counters, Alarms: parts.alarms, Log: s.log,
		Backfills: s.backfills(cfg, p),
		Lettered:  func(n int) { parts.delivery.Lettered(n) }})
	for _, a := range s.parts.alarms.List() {
		name, ok := strings.CutPrefix(a.Key, "held/")
		if ok && p.unfit[name].Why == "" && !slices.ContainsFunc(p.saved.Checkpoint.Tracks, func(t connector.Track) bool { return t.Mapping == name }) {
			s.parts.alarms.Clear(a.Key)
		}
	}
	for name, unfit := range p.unfit {
		// What a mapping can't read is set aside already, where that was asked for; what it can is sent.
		if !slices.ContainsFunc(p.saved.Checkpoint.Tracks, func(t connector.Track) bool { return t.Mapping == name && t.SetAside }) {
			parts.pipeline.Hold(name, connector.HoldMisfit, unfit)
		}
	}
	parts.delivery = delivery.New(deliveryConfig(cfg, s.shutdown), delivery.Ports{Platform: p.client, Store: parts.store,
		Settle: parts.pipeline.Settle, CountOpen: parts.store.Counted,
		Hold: func(mapping, reason string) {
			parts.pipeline.Hold(mapping, connector.HoldFailing, connector.Unfit{Why: reason})
		},
		Counters: parts.counters, Alarms: parts.alarms, Log: s.log}, p.saved.OpenLetters)
	if p.resumed {
		parts.delivery.Resume()
	}
	parts.client = p.client
	parts.source = postgres.NewSource(p.source, p.Prepared, parts.alarms, s.log)
	s.view.set(&parts)
	parts.watcher.use(cfg) // and looks at once: the slot may be new
	defer s.view.set(&s.parts)

	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	retry := newRetrier(&retrier{store: parts.store, delivery: parts.delivery, set: cfg.Mappings, mapper: mapperFor(cfg, p.Lineage, p.zone, nil),
		most: min(mostRetried, cfg.Delivery.MaxPending), mostBytes: cfg.Delivery.MaxPendingBytes, keep: cfg.State.KeepDeadLetters, alarms: parts.alarms, log: s.log})
	retried, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(retried)
		retry.run(running, false)
	}()
	go func() {
		defer close(watched)
		next = s.watch(running, &parts, func() { stop(errAnew) })
	}()
	err = parts.pipeline.Run(running, parts.source, parts.delivery)
	anew := errors.Is(context.Cause(running), errAnew)
	stop(nil)
	<-watched
	<-retried
	// The next pipeline finds out for itself how its endpoints fare.
	parts.alarms.ClearAll("delivery/")
	parts.alarms.ClearAll("state")
	if err == nil && !anew {
		cp := parts.pipeline.Progress().Checkpoint
		s.log.Info("stopped", "settled", cp.Settled, "confirmed", cp.Flush)
	}
	return next, parts.source.Status().WALEnd > 0, err
}

// mostRetried is how many records of dead letters are in the delivery at a time.
const mostRetried = 500

// mapperFor makes a mapper for one goroutine; counters may be nil.
func mapperFor(cfg *config.Config, of connector.Lineage, zone *time.Location, counters *connector.Counters) connector.Mapper {
	o := mapperOptions(cfg, of.SystemID, of.Database, zone)
	o.Counters = counters
	return cfg.Mappings.Mapper(o)
}

// mapperOptions are the same for whoever maps: run, retry and preview.
func mapperOptions(cfg *config.Config, systemID, database string, zone *time.Location) mapping.Options {
	return mapping.Options{SystemID: systemID, Database: database, TimeZone: zone, PointDecrease: cfg.Platform.Paths.PointDecrease != ""}
}

// watch waits for a reason to run the pipeline anew, and calls stop then. It gives the configuration, where that was read again.
func (s *supervisor) watch(ctx context.Context, parts *connectorParts, stop func()) *config.Config {
	tick := time.NewTicker(requestsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.reload:
			if cfg := s.readAgain(parts.cfg, func(cfg *config.Config) error { return reachAnew(ctx, parts.cfg, cfg) }); cfg != nil {
				stop()
				return cfg
			}
		case <-tick.C:
			s.setAsideAtBudget(ctx, parts)
			if s.asked(ctx, parts) {
				stop()
				return nil
			}
		}
	}
}

// tryFor bounds the look whether a database can be reached before the stream from another one is stopped.
const tryFor = 10 * time.Second

// reachAnew says why the database of a new source.dsn can't be reached.
func reachAnew(ctx context.Context, running, cfg *config.Config) error {
	dsn := cfg.Source.DSN.Reveal()
	if dsn == running.Source.DSN.Reveal() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	if err := postgres.Reach(ctx, dsn); err != nil {
		return fmt.Errorf("the database of source.dsn is not to be reached: %w", err)
	}
	return nil
}

// readAgain reads the configuration again; nil where it has errors, changes what needs a start, or is refused by try (nil: by nobody).
func (s *supervisor) readAgain(running *config.Config, try func(*config.Config) error) *config.Config {
	cfg, err := config.Load(running.File, environment)
	if err != nil {
		s.refuseReload(err)
		return nil
	}
	var fixed []string
	for _, f := range []struct {
		key  string
		same bool
	}{
		{"source.slot", cfg.Source.Slot == running.Source.Slot}, {"source.publication", cfg.Source.Publication == running.Source.Publication},
		{"state", cfg.State.Same(running.State)}, {"server", cfg.Server.Same(running.Server)}, {"log", cfg.Log == running.Log},
	} {
		if !f.same {
			fixed = append(fixed, f.key)
		}
	}
	if len(fixed) > 0 {
		s.refuseReload(fmt.Errorf("%s changed, which takes effect at a start only", strings.Join(fixed, ", ")))
		return nil
	}
	if try != nil {
		if err := try(cfg); err != nil {
			s.refuseReload(err)
			return nil
		}
	}
	s.parts.alarms.Clear("config")
	s.log.Info("configuration read again", "file", cfg.File, "mappings", len(cfg.Mappings.List()))
	return cfg
}

func (s *supervisor) refuseReload(err error) {
	s.parts.alarms.Raise("config", "the configuration was read again and is not taken, the former one stays in force: "+err.Error(),
		"mend it, check it with `tuzhan-cdc check`, and reload again (kill -HUP); or start again")
}
