package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// WALRate is how fast a server writes WAL.
type WALRate struct {
	// PerSecond is in bytes.
	PerSecond float64
	// Over is the time that it is the mean of; 0: not known yet.
	Over time.Duration
}

// WALMeter measures the server's WAL over the last minutes from looks at its end. The zero value is ready. It is not safe for concurrent use.
type WALMeter struct{ looks []walLook }

type walLook struct {
	at  time.Time
	end connector.LSN
}

// The meter keeps the looks of so long, one in so long.
const (
	meterSpan = 10 * time.Minute
	meterStep = 10 * time.Second
)

// Add notes where the WAL ends. An end before the last one is another server's: the measuring begins anew.
func (m *WALMeter) Add(at time.Time, end connector.LSN) {
	if n := len(m.looks); n > 0 && end < m.looks[n-1].end {
		m.looks = m.looks[:0]
	}
	if n := len(m.looks); n > 1 && m.looks[n-1].at.Sub(m.looks[n-2].at) < meterStep {
		m.looks = m.looks[:n-1] // the newest one stands in for the rest of its step
	}
	m.looks = append(m.looks, walLook{at, end})
	for len(m.looks) > 2 && at.Sub(m.looks[0].at) > meterSpan {
		m.looks = m.looks[1:]
	}
}

// Rate gives the mean of the time that was looked at.
func (m *WALMeter) Rate() WALRate {
	if len(m.looks) < 2 {
		return WALRate{}
	}
	first, last := m.looks[0], m.looks[len(m.looks)-1]
	over := last.at.Sub(first.at)
	if over <= 0 {
		return WALRate{}
	}
	return WALRate{PerSecond: float64(last.end-first.end) / over.Seconds(), Over: over}
}

// Outage is how long the connector may be away, at that rate, before the slot keeps budget bytes of WAL or is in danger of being lost, whichever comes
// first. ok is false where nothing bounds it, or no WAL is written.
func (s *Slot) Outage(r WALRate, budget int64) (d time.Duration, ok bool) {
	left := budget - s.Retained
	if s.SafeWALSize >= 0 {
		left = min(left, s.SafeWALSize)
	}
	if r.Over <= 0 || r.PerSecond <= 0 || budget <= 0 {
		return 0, false
	}
	const most = 10 * 365 * 24 * time.Hour
	if seconds := float64(max(left, 0)) / r.PerSecond; seconds < most.Seconds() {
		return time.Duration(seconds * float64(time.Second)), true
	}
	return most, true
}

// Endangered says in words why the slot is about to be lost; "" where it is not. It is when four fifths of what max_slot_wal_keep_size allows are used.
func (s *Slot) Endangered() string {
	switch {
	case !s.Exists || s.Lost():
		return ""
	case s.WALStatus == "unreserved":
		return "its WAL is beyond max_slot_wal_keep_size, and the next checkpoint may remove it"
	case s.SafeWALSize >= 0 && s.SafeWALSize < s.Retained/4:
		return fmt.Sprintf("after %s more of WAL it is beyond max_slot_wal_keep_size, and may be removed", connector.Size(s.SafeWALSize))
	}
	return ""
}

// lookAtWAL is how long check looks at the WAL where the server has no statistics of it.
const lookAtWAL = time.Second

// statsAtLeast is how old statistics must be to say more than a look.
const statsAtLeast = 10 * time.Minute

// LoadWALRate gives the server's mean since its statistics began (14 or newer), or what it writes during one second.
func LoadWALRate(ctx context.Context, conn *pgx.Conn) (WALRate, error) {
	var version int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return WALRate{}, fmt.Errorf("measuring the WAL: %w", err)
	}
	if version >= 140000 {
		var bytes, seconds float64
		err := conn.QueryRow(ctx, "SELECT wal_bytes::float8, coalesce(extract(epoch FROM clock_timestamp() - stats_reset), 0)::float8 FROM pg_stat_wal").Scan(&bytes, &seconds)
		if err != nil {
			return WALRate{}, fmt.Errorf("measuring the WAL: %w", err)
		}
		if seconds >= statsAtLeast.Seconds() {
			return WALRate{bytes / seconds, time.Duration(seconds * float64(time.Second))}, nil
		}
	}
	var m WALMeter
	for i := range 2 {
		var text string
		var at time.Time
		if i > 0 && !sleep(ctx, lookAtWAL) {
			return WALRate{}, ctx.Err()
		}
		err := conn.QueryRow(ctx, "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text, clock_timestamp()").Scan(&text, &at)
		if err != nil {
			return WALRate{}, fmt.Errorf("measuring the WAL: %w", err)
		}
		end, err := connector.ParseLSN(text)
		if err != nil {
			return WALRate{}, fmt.Errorf("measuring the WAL: %w", err)
		}
		m.Add(at, end)
	}
	return m.Rate(), nil
}

// outage says how long the connector may be away.
func (p *preflight) outage(ctx context.Context) error {
	if p.params.WALBudget <= 0 {
		return nil
	}
	rate, err := LoadWALRate(ctx, p.conn)
	if err != nil {
		return err
	}
	const subject = "source.walBudget"
	slot := *p.slot
	bound := "it (" + connector.Size(p.params.WALBudget) + ")"
	if !slot.Exists {
		slot.SafeWALSize = -1
		if p.s.keepMB >= 0 {
			slot.SafeWALSize = p.s.keepMB << 20
		}
	}
	if slot.SafeWALSize >= 0 && slot.SafeWALSize < p.params.WALBudget-slot.Retained {
		bound = "max_slot_wal_keep_size (" + connector.Size(p.s.keepMB<<20) + ")"
	}
	d, ok := slot.Outage(rate, p.params.WALBudget)
	if !ok {
		p.add(SeverityInfo, subject, "the server writes no WAL just now: how long an outage "+bound+" allows can't be told", "")
		return nil
	}
	p.add(SeverityInfo, subject, fmt.Sprintf("the server writes %s/s of WAL (mean of %s): %s allows an outage of the connector or the platform of %s",
		connector.Size(int64(rate.PerSecond)), connector.Span(rate.Over), bound, connector.Span(d)), "")
	return nil
}
