package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// newBackfill makes a backfill of a mapping of the file.
func newBackfill(cfg *config.Config, name string) *connector.Backfill {
	b := &connector.Backfill{Mapping: name, Status: connector.BackfillQueued, Created: time.Now()}
	b.Schema, b.Name, _ = cfg.Mappings.TableOf(name)
	return b
}

// beginBackfills brings the backfills in step with what was found at a start: at the first one source.snapshot may ask for some, and where the history is
// another one those that had begun are paused. It comes before the checkpoint that says so, and does the same again where that was not written.
func (s *supervisor) beginBackfills(ctx context.Context, cfg *config.Config, saved *connector.Saved, p *prepared) error {
	store := s.parts.store
	rows := s.rowSource(cfg, p)
	if saved.Checkpoint == nil && cfg.Source.Snapshot == "initial" {
		var list []*connector.Backfill
		for _, name := range cfg.Mappings.Snapshots() {
			b := newBackfill(cfg, name)
			b.Initial = true
			if r, err := rows.Open(ctx, b); err == nil { // else its turn will tell
				b.Key = r.Key()
				r.Close()
			}
			list = append(list, b)
		}
		_, err := insist(ctx, s, func() (any, error) { return nil, store.AddInitial(ctx, list) })
		return err
	}
	if saved.Checkpoint == nil || !p.Rebased || p.Gap == nil {
		return nil
	}
	list, err := insist(ctx, s, func() ([]*connector.Backfill, error) { return store.Backfills(ctx) })
	if err != nil {
		return err
	}
	for _, b := range list {
		b.Moved = connector.Position{} // positions of another history mean nothing
		if b.Started.IsZero() {
			if _, err := insist(ctx, s, func() (any, error) { return nil, store.SaveBackfill(ctx, b, "") }); err != nil {
				return err
			}
			continue
		}
		b.Status = connector.BackfillPaused
		b.Reason = "a gap was accepted since it began: what changed in the gap may have been read before. Cancel it and begin anew; or resume it, where that does no harm"
		s.parts.alarms.Raise("backfill/"+strconv.FormatInt(b.ID, 10), fmt.Sprintf("backfill %d of mapping %s is paused: %s", b.ID, b.Mapping, b.Reason),
			fmt.Sprintf("tuzhan-cdc backfill cancel %d, or resume %d", b.ID, b.ID))
		if _, err := insist(ctx, s, func() (any, error) { return nil, store.SaveBackfill(ctx, b, "") }); err != nil {
			return err
		}
	}
	return nil
}

func (s *supervisor) rowSource(cfg *config.Config, p *prepared) *postgres.Rows {
	return &postgres.Rows{DSN: cfg.Source.DSN.Reveal(), StandbyDSN: cfg.Source.BackfillDSN.Reveal(), Publications: p.Publications}
}

// backfills gives what the pipeline needs for them.
func (s *supervisor) backfills(cfg *config.Config, p *prepared) *connector.BackfillOptions {
	o := &connector.BackfillOptions{Store: s.parts.store, Unended: p.backfills, Mappings: map[string]connector.BackfillMapping{}, Pending: max(1, cfg.Delivery.MaxPending/4),
		Rows: s.rowSource(cfg, p), Mapper: mapperFor(cfg, p.Lineage, p.zone, nil)}
	brakes := cfg.Mappings.MaxPerMinute()
	for _, m := range cfg.Mappings.List() {
		b := connector.BackfillMapping{Fingerprint: cfg.Mappings.Fingerprint(m.Name), Points: m.Kind == connector.Point, MaxPerMinute: brakes[m.Name]}
		b.Schema, b.Name, _ = cfg.Mappings.TableOf(m.Name)
		o.Mappings[m.Name] = b
	}
	for _, name := range cfg.Mappings.Snapshots() {
		b := o.Mappings[name]
		b.Snapshot = true
		o.Mappings[name] = b
	}
	return o
}

// backfillRates measures how fast backfills go, from one look to the next. Safe for concurrent use.
type backfillRates struct {
	mu   sync.Mutex
	seen map[int64]*seenRows
}

// seenRows is what two looks have seen.
type seenRows struct {
	rows int64
	at   time.Time
	rate float64
}

// rateOver is how far apart two looks must lie.
const rateOver = time.Second

// of takes a look, and gives rows a second; 0 where it is not known yet.
func (r *backfillRates) of(id, rows int64, now time.Time) float64 {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[int64]*seenRows{}
	}
	s := r.seen[id]
	if s == nil || rows < s.rows {
		r.seen[id] = &seenRows{rows: rows, at: now}
		return 0
	}
	if d := now.Sub(s.at); d >= rateOver {
		s.rate, s.rows, s.at = float64(rows-s.rows)/d.Seconds(), rows, now
	}
	return s.rate
}

func backfillOf(b *connector.Backfill) status.Backfill {
	return status.Backfill{ID: b.ID, Mapping: b.Mapping, Table: b.Table(), State: b.Status, Reason: b.Reason, Rows: b.Rows, Estimate: b.Estimate, Since: b.Started}
}

func backfillsNow(list []connector.BackfillNow, rates *backfillRates) []status.Backfill {
	shown := make([]status.Backfill, len(list))
	for i := range list {
		shown[i] = backfillOf(&list[i].Backfill)
		shown[i].Pending = list[i].Pending
		if list[i].Status == connector.BackfillRunning {
			shown[i].Rate = rates.of(list[i].ID, list[i].Rows, time.Now())
		}
	}
	return shown
}

func backfillsStored(list []*connector.Backfill) []status.Backfill {
	shown := make([]status.Backfill, len(list))
	for i, b := range list {
		shown[i] = backfillOf(b)
		shown[i].Pending = len(b.Again)
	}
	return shown
}

// backfillLine shows a backfill in one line.
func backfillLine(b *status.Backfill) string {
	text := fmt.Sprintf("%d of %s (%s): %s, %s", b.ID, b.Mapping, b.Table, b.State, rowsText(b.Rows, b.Estimate))
	if b.Rate > 0 {
		text += fmt.Sprintf(", %.0f rows/s", b.Rate)
	}
	if b.Reason != "" {
		text += ": " + b.Reason
	}
	return text
}

// rowsText gives rows of an estimate, which may be too low.
func rowsText(rows, estimate int64) string {
	if estimate <= 0 {
		return fmt.Sprintf("%d rows", rows)
	}
	return fmt.Sprintf("%d of about %d rows", rows, max(rows, estimate))
}
