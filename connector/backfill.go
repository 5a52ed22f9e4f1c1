package connector

import (
	"context"
	"strings"
	"time"
)

// BackfillStatus is where a backfill stands.
type BackfillStatus string

// The statuses. The last three are ends.
const (
	BackfillQueued    BackfillStatus = "queued" // it has not begun: another one runs, or no connector does
	BackfillRunning   BackfillStatus = "running"
	BackfillPaused    BackfillStatus = "paused" // until it is resumed; Reason says why
	BackfillDone      BackfillStatus = "done"
	BackfillCancelled BackfillStatus = "cancelled"
	BackfillFailed    BackfillStatus = "failed"
)

// Ended reports whether nothing more comes of it.
func (s BackfillStatus) Ended() bool {
	return s == BackfillDone || s == BackfillCancelled || s == BackfillFailed
}

// What a command may ask of a backfill.
const (
	AskPause  = "pause"
	AskResume = "resume"
	AskCancel = "cancel"
)

// Backfill sends the rows that are in a table through one mapping, beside the stream.
type Backfill struct {
	// ID is given by the store.
	ID      int64
	Mapping string
	// Schema and Name are the table's.
	Schema, Name string
	// Where is SQL that rows must meet; empty: all. Since is the first key, as RowKey writes it; empty: from the beginning. Limit is how many rows are read
	// at most; 0: all. RowsPerSecond bounds the rate; 0: not.
	Where, Since  string
	Limit         int64
	RowsPerSecond int
	// Initial says that source.snapshot has asked for it.
	Initial bool

	Status BackfillStatus
	// Reason says why it stands still or has failed; no row values.
	Reason string
	// Asked is what a command has asked for and nobody has done yet: one of the Ask texts, or empty.
	Asked string
	// Fingerprint is that of the mapping as it was when the backfill began, or was last resumed.
	Fingerprint string

	Created, Started, Ended time.Time
	// Notes are what is to be noted of rows with the next progress that is stored, of a mapping that makes points, in their order. They are not read back: see
	// BackfillStore.GivenRows.
	Notes []RowNote
	BackfillProgress
}

// Table gives schema.name, unquoted, for messages.
func (b *Backfill) Table() string { return b.Schema + "." + b.Name }

// BackfillProgress is how far a backfill is. All up to After is settled, but for the rows of Again.
type BackfillProgress struct {
	// Key are the columns of the key by which the table is read; nil: it has none, and is read by ctid, or the backfill has not begun and nobody knew when it
	// was asked for.
	Key []string `json:"key,omitempty"`
	// After is the last key up to which rows are settled, as RowKey writes it; empty: none. Scanned says that no row comes behind it.
	After   RowBytes `json:"after,omitempty"`
	Scanned bool     `json:"scanned,omitempty"`
	// Again are the rows up to After that are to be read once more: they changed while they were read, or their records are not settled.
	Again []RowBytes `json:"again,omitempty"`
	// Moves are changes of keys, in their order, of a mapping that makes points: what is known of the rows is still noted under their former keys. Moved is
	// the position of the last one that was seen.
	Moves []RowMove `json:"moves,omitempty"`
	Moved Position  `json:"moved"`
	// Seen: a running connector knows of it, and notes for it what the stream gives.
	Seen bool `json:"seen,omitempty"`
	// Blind: the stream has given points of the mapping since the backfill was asked for, or rows have moved, and it is not known which ones.
	Blind bool `json:"blind,omitempty"`
	// Read counts the rows up to After, Rows those that are settled. Estimate is how many the table had at the begin, as the server thinks; 0: not known.
	Read     int64 `json:"read"`
	Rows     int64 `json:"rows"`
	Estimate int64 `json:"estimate"`
}

// RowBytes is a key in JSON: as base64, since it need not be UTF-8.
type RowBytes []byte

// RowMove is a row whose key was changed.
type RowMove struct {
	From RowBytes `json:"from"`
	To   RowBytes `json:"to"`
}

// RowKey writes the values of a key's columns as one text, which is never empty: joined by commas, with a backslash before commas and backslashes in them.
// A single empty value is a backslash alone.
func RowKey(values ...[]byte) string {
	if len(values) == 1 && len(values[0]) == 0 {
		return `\`
	}
	if len(values) == 1 && !strings.ContainsAny(string(values[0]), `,\`) {
		return string(values[0])
	}
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		for _, c := range v {
			if c == ',' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
	}
	return b.String()
}

// SplitRowKey reads what RowKey wrote.
func SplitRowKey(key string) []string {
	if key == `\` {
		return []string{""}
	}
	var values []string
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key):
			i++
			b.WriteByte(key[i])
		case c == ',':
			values = append(values, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(values, b.String())
}

// BackfillStore keeps backfills: package state. Safe for concurrent use; as for Store, what returns nil is on stable storage.
type BackfillStore interface {
	// Backfills gives those that have not ended, by age.
	Backfills(ctx context.Context) ([]*Backfill, error)
	// SaveBackfill stores status, reason, fingerprint, times, progress and, in the same commit, the notes; done names what was asked for and is done with it,
	// empty: nothing.
	SaveBackfill(ctx context.Context, b *Backfill, done string) error
	// EndBackfill is SaveBackfill with an end. The points of the backfill that have an intent and no outcome become dead letters of class uncertain, all
	// others are forgotten.
	EndBackfill(ctx context.Context, b *Backfill, done string) error
	// KnownRows tells what is known of rows of a backfill, by their keys: of points, and of what became a dead letter. rows nil: of any one row, if there is
	// one.
	KnownRows(ctx context.Context, backfill int64, rows []string) (map[string]Known, error)
	// MoveRows notes what is known of rows under their new keys, one move after the other, and stores the backfill as SaveBackfill does, in one commit.
	MoveRows(ctx context.Context, b *Backfill, moves []RowMove) error
	// GivenRows tells what the stream has given rows of a backfill, by their keys, as RowNote.Given says it.
	GivenRows(ctx context.Context, backfill int64, rows []string) (map[string][]uint64, error)
}

// RowSource reads tables for backfills: package postgres.
type RowSource interface {
	// Open looks at the table of a backfill. It blocks until the database answers, and gives an error at once where it does not.
	Open(ctx context.Context, b *Backfill) (RowReader, error)
}

// RowReader reads one table, chunk by chunk. One goroutine uses it; but Mark may be called by another one while Read or ReadRows runs.
//
// After an error it is closed and made anew. Errors that waiting cures say so with Passing() bool.
type RowReader interface {
	// Key are the columns by which rows are told apart, in the order in which they are read; nil: by ctid, and then a change can't be told to be of a row.
	Key() []string
	// Unfit says why points must not be backfilled by the key; empty: they may.
	Unfit() string
	// Estimate is how many rows the table has, as the server thinks.
	Estimate(ctx context.Context) (int64, error)
	// Mark writes a watermark into the WAL: it comes back through Sink.Watermark, soon, after all that was committed before. xid is its transaction.
	Mark(ctx context.Context, text string) (xid uint64, err error)
	// Read writes the watermark low (empty: none), and then reads at most most rows behind after (empty: from the beginning; from: after is the first one), in
	// the key's order, and no more bytes than are good. What it reads is of one moment.
	Read(ctx context.Context, low, after string, from bool, most int) (*Chunk, error)
	// ReadRows is Read of rows by their keys; those that are not there are left out. Where End is false, so are others, which would have been too many bytes.
	ReadRows(ctx context.Context, low string, rows []string) (*Chunk, error)
	// Early has take called with each row as it is read: with the table's shape, and the row's key and values, which are only there during the call. Where take reports true, the
	// row is in the chunk without its values.
	Early(take func(t *Table, row *ChunkRow) bool)
	// Writers tells in words of transactions before xid whose commits may be in the WAL already, and that no other session sees yet; empty: there are none.
	Writers(ctx context.Context, xid uint64) (text string, err error)
	// Rest is called while nothing is read for some time. Connections that have been there for long are given up: a server that shuts down would wait for them.
	Rest()
	// Close ends it.
	Close()
}

// Chunk is some rows of a table as they were at one moment.
type Chunk struct {
	// Table is the shape of the rows.
	Table *Table
	Rows  []ChunkRow
	// Scanned is how many rows were looked at, Last the key of the last one; End says that there is none behind it.
	Scanned int
	Last    string
	End     bool
	// Free, where it is not nil, gives the memory of the rows' values back, which the next chunk then takes. Their keys stay.
	Free func()
	// Snapshot says which transactions the chunk shows; nil: it shows all that were committed before low was.
	Snapshot *Visible
}

// ChunkRow is a row, and its key.
type ChunkRow struct {
	Key   string
	Tuple Tuple

	// mapped: its records are window.ahead[first:end].
	mapped     bool
	first, end int
}

// Visible is what a snapshot shows (pg_current_snapshot): transactions below Xmin, and those below Xmax that are not running.
type Visible struct {
	Xmin, Xmax uint64
	Running    []uint64
}

// Shows reports whether the snapshot shows a transaction, of which the stream gives the number without its epoch.
func (v *Visible) Shows(xid uint32) bool {
	full := v.Xmax&^0xffffffff | uint64(xid)
	switch { // the transactions of one time lie within 2^31 of each other
	case full > v.Xmax && full-v.Xmax > 1<<31 && full >= 1<<32:
		full -= 1 << 32
	case full < v.Xmax && v.Xmax-full > 1<<31:
		full += 1 << 32
	}
	if full >= v.Xmax {
		return false
	}
	for _, running := range v.Running {
		if running == full {
			return false
		}
	}
	return true
}
