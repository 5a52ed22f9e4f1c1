package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/delivery"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

func statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Shows where the connector stands", Args: noArgs,
		Long: `Asks the running connector at server.listen. Where none answers there, shows what state file and slot say. Of a file with errors it reads what it can: status tells of
the state all the same.`,
		Example: "  tuzhan-cdc status\n  tuzhan-cdc status --output json | jq .lag",
	}
	output := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		cfg, err := loadForStatus(c)
		if err != nil {
			return err
		}
		s, err := currentStatus(c.Context(), cfg)
		if err != nil {
			return err
		}
		snapshotFor(cfg.File, s)
		if *output == "json" {
			return printJSON(c.OutOrStdout(), s)
		}
		return printStatus(c.OutOrStdout(), s)
	}
	return c
}

// loadForStatus reads the file; one with problems too, as far as server, state and source can be made out.
func loadForStatus(c *cobra.Command) (*config.Config, error) {
	cfg, err := config.LoadPart(configFlag(c), environment)
	if cfg == nil {
		return nil, usageError{err}
	}
	if err != nil {
		fmt.Fprintf(c.ErrOrStderr(), "the file has errors, so this is what can be told without them (`%s`):\n%v\n\n", withConfig(cfg.File, "tuzhan-cdc check"), err)
	}
	return cfg, nil
}

func currentStatus(ctx context.Context, cfg *config.Config) (*status.Snapshot, error) {
	if cfg.Server.Listen != "" {
		asking, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if s, err := status.Fetch(asking, cfg.Server.Listen); err == nil {
			return s, nil
		}
	}
	return stoppedStatus(ctx, cfg)
}

// stoppedStatus is what can be known without a running connector.
func stoppedStatus(ctx context.Context, cfg *config.Config) (*status.Snapshot, error) {
	alarms := connector.NewAlarms(discardLogger())
	parts := &connectorParts{cfg: cfg, alarms: alarms, watcher: newSlotWatcher(cfg, alarms)}
	r, err := state.OpenReader(ctx, stateLocation(cfg))
	switch {
	case err == nil:
		defer r.Close()
		parts.reader = r
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if cfg.Source.DSN.IsSet() { // a file with errors may have none
		parts.watcher.once = true
		parts.watcher.look(ctx)
	}
	v := &view{}
	v.set(parts)
	s := v.snapshot(ctx)
	s.State = status.Stopped
	return &s, nil
}

// view gives snapshots of a connector whose parts come one after the other.
type view struct {
	parts atomic.Pointer[connectorParts]
}

func (v *view) set(p *connectorParts) {
	q := *p
	v.parts.Store(&q)
}

// snapshotTimeout bounds what a snapshot waits for the state's server.
const snapshotTimeout = 3 * time.Second

// snapshot gathers what all parts say now.
func (v *view) snapshot(ctx context.Context) status.Snapshot {
	p := v.parts.Load()
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	s := status.Snapshot{State: status.Starting, Version: version, Since: p.started, Held: []string{}, HeldMappings: []connector.HeldMapping{}, Backfills: []status.Backfill{}, Gaps: []connector.Gap{}, Alarms: p.alarms.List(), LastErr: p.alarms.LastError(),
		DeadLetters: map[connector.Class]int{}, Database: p.cfg.Source.Display(), Tables: []status.Table{}, Mappings: []status.Mapping{}, Endpoints: []status.Endpoint{}}
	for _, class := range connector.Classes {
		s.DeadLetters[class] = 0
	}
	s.Slot = status.Slot{Name: p.cfg.Source.Slot, WALBudget: p.cfg.Source.WALBudget}
	if slot, _ := p.watcher.last(); slot != nil && slot.Exists {
		s.Slot.Known, s.Slot.Active, s.Slot.WALStatus = true, slot.Active, slot.WALStatus
		s.Slot.Confirmed, s.Slot.RetainedBytes = slot.ConfirmedFlush, slot.Retained
		s.Lag.Bytes = max(0, int64(slot.WALEnd)-int64(slot.ConfirmedFlush))
		p.watcher.measured(&s.Slot)
	}
	if p.reader != nil {
		open, err := p.reader.CountOpen(ctx)
		for class, n := range open {
			s.DeadLetters[class] = n
		}
		gaps, gapsErr := p.reader.Gaps(ctx)
		if gapsErr == nil {
			s.Gaps = gaps
		}
		s.StateRead = err == nil && gapsErr == nil
	}
	if p.waiting != nil && p.waiting.Load() {
		s.State = status.Waiting
	}
	switch {
	case p.pipeline != nil:
		progress := p.pipeline.Progress()
		s.Checkpoint = status.CheckpointOf(progress.Checkpoint)
		stats := p.delivery.Stats()
		s.Pending = status.Pending{Changes: progress.Open, Records: stats.Pending, Bytes: stats.PendingBytes, Failing: stats.Failing}
		s.Paused = stats.Paused
		if progress.Open > 0 {
			s.Lag.Seconds = max(0, time.Since(progress.OldestTime).Seconds())
			if h := p.delivery.Holdup(progress.Oldest); h != nil {
				s.Holdup = (*status.Holdup)(h)
			}
		}
		source := p.source.Status()
		s.State, s.Reconnects, s.BurstFallbacks = sourceState(source.State), source.Reconnects, source.BurstFallbacks
		if token := p.client.TokenState(); !token.Fetched.IsZero() {
			s.Token = (*status.Token)(&token)
		}
		s.HeldMappings = p.pipeline.HeldMappings()
		s.Backfills = backfillsNow(p.pipeline.Backfills(), p.rates)
		s.Skipped = status.Skipped{Transactions: progress.MarkedTransactions, Changes: progress.MarkedChanges}
		p.flow(&s, stats)
	case p.reader != nil:
		if cp, err := p.reader.Checkpoint(ctx); err == nil {
			s.Checkpoint = status.CheckpointOf(cp)
			s.HeldMappings = heldOf(cp)
		}
		if list, err := p.reader.Backfills(ctx); err == nil {
			s.Backfills = backfillsStored(list)
		}
	}
	for _, h := range s.HeldMappings {
		if h.Reason != "" {
			s.Held = append(s.Held, h.Mapping)
		}
	}
	snapshotFor(p.cfg.File, &s)
	return s
}

// flow fills in the data's way: tables, mappings, endpoints.
func (p *connectorParts) flow(s *status.Snapshot, stats delivery.Stats) {
	ends := map[connector.Endpoint]bool{}
	tables := map[string]bool{}
	for _, m := range p.cfg.Mappings.List() {
		shown := status.MappingOf(m.Name, m.Table, m.Kind, p.counters.Mapping(m.Name))
		shown.Pending, shown.PendingBytes = stats.Mappings[m.Name].Records, stats.Mappings[m.Name].Bytes
		to := []connector.Endpoint{(&connector.Record{Kind: m.Kind}).Endpoint()}
		if m.Kind == connector.Point && p.cfg.Platform.Paths.PointDecrease != "" {
			to = append(to, connector.PointDecreaseEndpoint)
		}
		for _, e := range to {
			ends[e] = true
			shown.Endpoints = append(shown.Endpoints, e.String())
		}
		s.Mappings = append(s.Mappings, shown)
		if !tables[m.Table] {
			tables[m.Table] = true
			s.Tables = append(s.Tables, status.Table{Name: m.Table, Changes: p.counters.Table(m.Table).Load()})
		}
	}
	for e := connector.PointEndpoint; e <= connector.GroupRelationEndpoint; e++ {
		if !ends[e] {
			continue
		}
		shown, now := status.EndpointOf(e, p.counters.Endpoint(e)), stats.Ends[e]
		shown.Down, shown.InFlight = now.Down, now.InFlight
		if now.Down {
			shown.Since, shown.RetryAt, shown.Verdict = now.Since, now.RetryAt, now.Verdict.String()
		}
		s.Endpoints = append(s.Endpoints, shown)
	}
}

// stuckAfter is how long the stream's loop may stay away, which comes round every second whatever it waits for. One change that takes long to
// be mapped, or the catalogue that is asked for a type, must not look like it.
const stuckAfter = 2 * time.Minute

// alive says that a part of the running connector is stuck. It takes the locks that a snapshot takes, and asks nobody outside of the process.
func (v *view) alive() error {
	p := v.parts.Load()
	p.alarms.List()
	p.watcher.last()
	if p.pipeline == nil {
		return nil
	}
	p.pipeline.Progress()
	p.pipeline.HeldMappings()
	p.delivery.Stats()
	p.client.TokenState()
	return stuck(p.source.Status())
}

// stuck says that the loop that reads the stream does not come round any more.
func stuck(s postgres.Status) error {
	if s.State == "streaming" && s.Reported > stuckAfter {
		return fmt.Errorf("the loop that reads the stream has not come round for %s: it is stuck", connector.Span(s.Reported))
	}
	return nil
}

// heldOf tells of the held mappings of a checkpoint.
func heldOf(cp *connector.Checkpoint) []connector.HeldMapping {
	list := []connector.HeldMapping{}
	if cp != nil {
		for i := range cp.Tracks {
			list = append(list, cp.Tracks[i].HeldMapping())
		}
	}
	return list
}

func sourceState(state string) string {
	switch state {
	case "streaming":
		return status.Streaming
	case "waiting":
		return status.Waiting
	case "stopped":
		return status.Stopped
	}
	return status.Starting
}

// slotWatcher asks the server every few seconds how the slot fares, and raises an alarm before it keeps too much WAL.
type slotWatcher struct {
	alarms *connector.Alarms
	once   bool // there will be one look only
	kick   chan struct{}

	mu     sync.Mutex
	cfg    *config.Config
	slot   *postgres.Slot
	rate   postgres.WALRate
	looked time.Time // when the last look began

	// Of look's goroutine.
	meter  postgres.WALMeter
	server string    // the DSN that meter measures
	failed time.Time // when the first of the looks began that have failed in a row; zero: the last one was good
}

const watchEvery = 5 * time.Second

func newSlotWatcher(cfg *config.Config, alarms *connector.Alarms) *slotWatcher {
	return &slotWatcher{cfg: cfg, alarms: alarms, kick: make(chan struct{}, 1)}
}

// due asks for a look now. It does not block.
func (w *slotWatcher) due() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// use has the looks to come go by another configuration.
func (w *slotWatcher) use(cfg *config.Config) {
	w.mu.Lock()
	w.cfg = cfg
	w.mu.Unlock()
	w.due()
}

// Run looks until ctx ends.
func (w *slotWatcher) Run(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.kick:
		}
	}
}

// look asks once.
func (w *slotWatcher) look(ctx context.Context) {
	began := time.Now()
	w.mu.Lock()
	cfg := w.cfg
	w.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, watchEvery)
	defer cancel()
	slot, rate, err := w.ask(asking, cfg)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	w.slot, w.rate, w.looked = slot, rate, began
	w.mu.Unlock()
	w.tell(began, err)
	if err == nil && slot.Exists {
		w.warn(cfg, slot, rate)
	}
}

// blindFor is how long looks may fail before an alarm says so: a server that is away is the source's to complain about.
const blindFor = time.Minute

// tell raises an alarm when looks have failed for long, and ends it with the first one that does not.
func (w *slotWatcher) tell(now time.Time, err error) {
	switch {
	case err == nil:
		w.failed = time.Time{}
		w.alarms.Clear("source/slot-look")
	case w.failed.IsZero():
		w.failed = now
	case now.Sub(w.failed) >= blindFor:
		w.alarms.Raise("source/slot-look", "the slot can't be looked at, so nothing warns of the WAL that it keeps, and source.walBudget sets nothing aside: "+postgres.Explain(err).Error(),
			"see to the server and to the role of source.dsn; it is tried again by itself")
	}
}

// last gives what the last look found, nil where it failed, and when it began.
func (w *slotWatcher) last() (*postgres.Slot, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slot, w.looked
}

func printStatus(w io.Writer, s *status.Snapshot) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("state", "%s", s.State)
	if s.Slot.Known {
		line("slot", "%s, confirmed %s, keeps %s of WAL (budget %s), wal_status %s", s.Slot.Name, s.Slot.Confirmed, connector.Size(s.Slot.RetainedBytes),
			connector.Size(s.Slot.WALBudget), s.Slot.WALStatus)
		line("outage allowed", "%s", outageText(&s.Slot))
		line("lag", "%s, %s", connector.Size(s.Lag.Bytes), connector.Span(seconds(s.Lag.Seconds)))
	} else {
		line("slot", "%s: not there, or the server is not to be reached", s.Slot.Name)
	}
	if c := s.Checkpoint; c != nil {
		line("checkpoint", "settled up to %s, confirmed %s, written %s ago", settledText(c.Settled), c.Flush, connector.Span(time.Since(c.Written)))
	} else {
		line("checkpoint", "none yet")
	}
	line("pending", "%s, %s, %s", count(s.Pending.Changes, "change"), count(s.Pending.Records, "record"), connector.Size(int64(s.Pending.Bytes)))
	if h := s.Holdup; h != nil {
		answer := "no answer"
		if h.HTTPStatus != 0 {
			answer = strings.TrimSpace(fmt.Sprintf("HTTP %d %s", h.HTTPStatus, h.Code))
		}
		line("held up by", "a record of mapping %s, position %s: fails since %s, %s, the last one: %s", h.Mapping, h.Position,
			h.Since.Local().Format(time.DateTime), count(h.Attempts, "request"), answer)
	}
	if s.Paused {
		line("PAUSED", "delivery is paused: see the alarm below")
	}
	letters := make([]string, 0, len(connector.Classes))
	for _, class := range connector.Classes {
		letters = append(letters, fmt.Sprintf("%s %d", class, s.DeadLetters[class]))
	}
	line("dead letters", "%s", strings.Join(letters, ", "))
	for _, h := range s.HeldMappings {
		switch {
		case h.Reason == "":
			line("working off", "%s, since %s", h.Mapping, h.Since)
		case h.Since.IsZero():
			line("HELD", "%s, from its next change on: %s", h.Mapping, h.Reason)
		case h.SetAside:
			line("SET ASIDE", "%s, since %s (committed %s): %s", h.Mapping, h.Since, h.SinceTime.Local().Format(time.DateTime), h.Reason)
		default:
			line("HELD", "%s, since %s (committed %s): %s", h.Mapping, h.Since, h.SinceTime.Local().Format(time.DateTime), h.Reason)
		}
	}
	for _, b := range s.Backfills {
		line("backfill", "%s", backfillLine(&b))
	}
	for _, g := range s.Gaps {
		line("GAP", "%s", gapText(g))
	}
	for _, m := range s.Mappings {
		line("mapping", "%s (%s, %s): %d delivered since the start", m.Name, m.Table, m.Kind, m.Delivered)
	}
	if s.Skipped.Transactions > 0 {
		line("skipped", "%s by their marker, %s, since the start", count(int(s.Skipped.Transactions), "transaction"), count(int(s.Skipped.Changes), "change"))
	}
	if s.LastErr != nil {
		text := s.LastErr.Text
		if slices.ContainsFunc(s.Alarms, func(a connector.Alarm) bool { return a.Text == text }) {
			text = "see the alarm below"
		}
		line("last error", "%s: %s", s.LastErr.At.Local().Format(time.DateTime), text)
	}
	for _, a := range s.Alarms {
		line("ALARM", "%s (since %s)", a.Text, a.Since.Local().Format(time.DateTime))
		line("", "cure: %s", a.Cure)
	}
	return t.Flush()
}

// gapText tells of a gap in one line.
func gapText(g connector.Gap) string {
	what, to := "all mapped tables", "an unknown end"
	if g.Table != "" {
		what = "table " + g.Table
	}
	if g.To != 0 {
		to = g.To.String()
	}
	return fmt.Sprintf("%s, from %s to %s, recorded %s: %s", what, g.From, to, g.At.Local().Format(time.DateTime), strings.Join(strings.Fields(g.Reason), " "))
}

// settledText leaves out an index that stands for "all that begins before the next LSN".
func settledText(p connector.Position) string {
	if p.Index == math.MaxUint32 {
		return p.Commit.String()
	}
	return p.String()
}
