package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// ask asks the server for the slot, and for how fast WAL is written: a connector that runs measures that itself, from look to look.
func (w *slotWatcher) ask(ctx context.Context, cfg *config.Config) (*postgres.Slot, postgres.WALRate, error) {
	dsn := cfg.Source.DSN.Reveal()
	conn, err := postgres.Connect(ctx, dsn)
	if err != nil {
		return nil, postgres.WALRate{}, err
	}
	defer conn.Close(ctx)
	slot, err := postgres.SlotState(ctx, conn, cfg.Source.Slot)
	if err != nil {
		return nil, postgres.WALRate{}, err
	}
	if w.once {
		rate, err := postgres.LoadWALRate(ctx, conn)
		return slot, rate, err
	}
	if dsn != w.server {
		w.meter, w.server = postgres.WALMeter{}, dsn
	}
	w.meter.Add(time.Now(), slot.WALEnd)
	return slot, w.meter.Rate(), nil
}

// warn raises alarms before the slot keeps too much WAL, and before the server gives it up.
func (w *slotWatcher) warn(cfg *config.Config, slot *postgres.Slot, rate postgres.WALRate) {
	budget := cfg.Source.WALBudget
	allows := ""
	if d, ok := slot.Outage(rate, budget); ok {
		allows = fmt.Sprintf("; at %s/s of WAL that is enough for %s more", connector.Size(int64(rate.PerSecond)), connector.Span(d))
	}
	if slot.Retained > budget/10*8 {
		w.alarms.Raise("source/wal", fmt.Sprintf("the slot %q keeps %s of WAL on the server; source.walBudget is %s%s",
			cfg.Source.Slot, connector.Size(slot.Retained), connector.Size(budget), allows),
			"look at the other alarms for what holds the checkpoint, and at the server's free disk")
	} else {
		w.alarms.Clear("source/wal")
	}
	if why := slot.Endangered(); why != "" {
		w.alarms.Raise("source/slot", fmt.Sprintf("the slot %q is in danger of being lost, and changes with it: %s%s", cfg.Source.Slot, why, allows),
			"if the disk has room: ALTER SYSTEM SET max_slot_wal_keep_size = '"+enough(slot)+"'; SELECT pg_reload_conf(); -- then look at the other alarms for what holds the checkpoint")
	} else {
		w.alarms.Clear("source/slot")
	}
}

// enough is a max_slot_wal_keep_size that gives the slot room again.
func enough(slot *postgres.Slot) string {
	return fmt.Sprintf("%dMB", 4*(slot.Retained+max(slot.SafeWALSize, 0))>>20+64)
}

// measured fills in what the last looks say of the WAL.
func (w *slotWatcher) measured(s *status.Slot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slot == nil {
		return
	}
	if w.slot.SafeWALSize >= 0 {
		safe := w.slot.SafeWALSize
		s.SafeWALSize = &safe
	}
	if w.rate.Over > 0 {
		s.WALPerSecond, s.MeasuredSeconds = w.rate.PerSecond, w.rate.Over.Seconds()
	}
	if d, ok := w.slot.Outage(w.rate, w.cfg.Source.WALBudget); ok {
		seconds := d.Seconds()
		s.OutageSeconds = &seconds
	}
}

// outageText says how long an outage the budget allows.
func outageText(s *status.Slot) string {
	if s.OutageSeconds == nil {
		return "not known: no WAL was seen to be written"
	}
	return fmt.Sprintf("%s more, at %s/s of WAL (mean of %s)", connector.Span(seconds(*s.OutageSeconds)), connector.Size(int64(s.WALPerSecond)),
		connector.Span(seconds(s.MeasuredSeconds)))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
