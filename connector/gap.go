package connector

import "time"

// Gap is a stretch of the WAL whose changes the connector did not see, or could not tell from those of another history. It is recorded for
// good: status shows it, and backfill is the cure.
type Gap struct {
	// At is when it was recorded.
	At time.Time `json:"at"`
	// From and To bound it. To is 0 where it is not known. One of a table takes the place of an earlier one with the same From.
	From LSN `json:"from"`
	To   LSN `json:"to"`
	// Table is schema.name; empty: every mapped table.
	Table string `json:"table,omitempty"`
	// Reason says in plain words how it came.
	Reason string `json:"reason"`
}
