package connector

import (
	"context"
	"slices"
	"time"
)

// Source streams changes: package postgres.
type Source interface {
	// Run streams from where sink says until ctx ends, reconnecting with backoff on what passes. It returns nil after ctx ended and
	// sink.Finished was closed (the last confirmation is then sent), and an error only for what waiting can't cure.
	Run(ctx context.Context, sink Sink) error
}

// Sink is what a source hands its stream to. All methods but Finished and Confirmed are called from one goroutine, in stream order.
type Sink interface {
	// Resume is called before each (re)connection starts to stream, and gives the LSN to ask the server for.
	Resume() LSN
	// Change takes one change. It does not block and does not keep c.
	Change(c *Change) error
	// Commit ends a transaction: all its changes were handed over. end is its end LSN, which may be confirmed once they are settled.
	Commit(commit, end LSN, at time.Time)
	// KeepAlive takes the server's WAL end from a keep-alive message that came between two transactions: it may be confirmed once all
	// that came before it is settled.
	KeepAlive(walEnd LSN)
	// Watermark takes a message that a backfill has written into the WAL, in its place among the changes: its text (see RowReader.Mark), and a position
	// that no change has.
	Watermark(text string, p Position)
	// Dry says that all that the server has sent so far was handed over: what waits for a fuller batch goes out now.
	Dry()
	// Room gives nil when the next change may be handed over, else a channel that is closed when it may be asked again.
	Room() <-chan struct{}
	// Confirmed gives the LSN that the checkpoint on disk covers: PostgreSQL may be told no more.
	Confirmed() LSN
	// Finished is closed when, after the end of ctx, the last checkpoint is written.
	Finished() <-chan struct{}
}

// Mapper turns changes into records: package mapping.
type Mapper interface {
	// Map appends to out what the mappings that part names make of c. Called from one goroutine. It never blocks and does no I/O. A
	// change that can't be mapped becomes a dead letter of class mapping in out, a mapping that can't read the table as it was at the
	// change a misfit.
	Map(c *Change, part Part, out *Output)
}

// Part says which mappings a change is for. The zero value: all.
type Part struct {
	// Only names one mapping; empty: all but Not.
	Only string
	// Not names mappings that are left out.
	Not []string
	// Aside, where it is not empty, says why what the mappings want of the change becomes dead letters of class mapping, uncounted ones that hold the
	// change, rather than records.
	Aside string
}

// Has reports whether a mapping is of the part.
func (p Part) Has(mapping string) bool {
	if p.Only != "" {
		return p.Only == mapping
	}
	return len(p.Not) == 0 || !slices.Contains(p.Not, mapping)
}

// Output is what a mapper made of one change. The slices are reused; the letters are not, and records (made by Record) are once they are settled.
type Output struct {
	Records []*Record
	Letters []*DeadLetter
	// Misfits are letters of class mapping, one for each mapping that can't read the table as it was at the change: a column is gone, or has
	// another type, or the replica identity did not carry an old column that the mapping came to. The mapping is held, or the letters are stored, as
	// the pipeline decides.
	Misfits []Misfit
	// Fits counts the mappings that the change shows to be able to read the table, wanted or not: those that read old columns only where the table's
	// replica identity carries them.
	Fits int
	// Placed says that what was made tells of the change's position, in more than the ids of records and letters, and the letters' changes.
	Placed bool

	spare []*Record
}

// Record gives an empty record for Records. Its Payload and Keys have room to append to: those of a record that is settled are used again, so that a row
// costs no allocation.
func (out *Output) Record() *Record {
	if n := len(out.spare); n > 0 {
		r := out.spare[n-1]
		out.spare = out.spare[:n-1]
		return r
	}
	r := &Record{}
	r.Keys = r.keys[:0]
	return r
}

// Unrecorded gives the letters of what made no record, those of misfits first.
func (out *Output) Unrecorded() []*DeadLetter {
	var list []*DeadLetter
	for _, m := range out.Misfits {
		list = append(list, m.DeadLetter)
	}
	return append(list, out.Letters...)
}

// Misfit is the letter of a mapping that can't read its table as it was at a change, and what is to be told where the mapping is held instead.
type Misfit struct {
	*DeadLetter
	Unfit
}

// Unfit says why a mapping can't read its table.
type Unfit struct {
	// Why is what it can't read, and where in the file: a line without the mapping's name. Cure is what mends that.
	Why, Cure string
}

// attrs adds why and cure to what a line of the log says.
func (u Unfit) attrs(args ...any) []any {
	args = append(args, "reason", u.Why)
	if u.Cure != "" {
		args = append(args, "cure", u.Cure)
	}
	return args
}

// Recycle takes a record back that nobody uses any more, for Record to give out again.
func (out *Output) Recycle(r *Record) {
	r.clear()
	out.spare = append(out.spare, r)
}

// Reset empties out for the next change.
func (out *Output) Reset() {
	out.Records, out.Letters, out.Misfits, out.Fits, out.Placed = out.Records[:0], out.Letters[:0], out.Misfits[:0], 0, false
}

// Deliverer brings records to the platform: package delivery.
type Deliverer interface {
	// Run sends until ctx ends, then finishes the requests in flight and returns.
	// It returns an error only for what waiting can't cure.
	Run(ctx context.Context) error
	// Submit takes the records of one change, or of several rows of a backfill, in commit order. It does not block and does not keep the slice. Each of them ends in exactly one call of the
	// settle function that the deliverer was made with.
	Submit(records []*Record)
	// Flush lets partly filled batches go out.
	Flush()
	// Room is as Sink.Room.
	Room() <-chan struct{}
}

// Platform speaks the platform's HTTP contract: package platform. Safe for concurrent use.
type Platform interface {
	// Send makes one request and reads the answer. It refreshes the token by itself, once. It blocks at most for the configured
	// time-out (and for the rate limit). When ctx ends it returns early, as a cut.
	Send(ctx context.Context, req *Request) Answer
	// Probe asks whether an endpoint for points is back, with a request that can't be applied. Delivered means it is.
	Probe(ctx context.Context, endpoint Endpoint) Answer
}

// Store keeps what must survive a crash: package state. Safe for concurrent use; concurrent calls share one commit.
// A method that returns nil has its effect on stable storage.
type Store interface {
	// Load gives what the store knew when the process started.
	Load(ctx context.Context) (*Saved, error)
	// SaveCheckpoint writes the checkpoint, and forgets the intents, the outcomes of points that it covers.
	SaveCheckpoint(ctx context.Context, cp *Checkpoint) error
	// Intend notes that points are about to be sent.
	Intend(ctx context.Context, ids []RecordID) error
	// Outcome notes that a point needs no more work, or (applied false) that it was surely not applied and its intent is void. It
	// does not wait for the disk, but is on it no later than any later call that does.
	Outcome(id RecordID, applied bool)
	// SetAside stores dead letters and, for points, their outcome. A letter for a record that has one already (open or closed) changes nothing.
	SetAside(ctx context.Context, letters []*DeadLetter) error
	// Watch tells of letters that SetAside is to store later, before any later record is delivered: so that Overtake meets them too.
	Watch(letters []*DeadLetter)
	// Overtake notes that a group relation was delivered: open letters of older ones that share a key are overtaken. It does not wait for the disk, as
	// Outcome does not.
	Overtake(id RecordID, keys []uint64)
}

// Known is what a store knows of a record.
type Known uint8

// What may be known of a record beyond the checkpoint.
const (
	Unknown Known = iota
	// Intended: a point that may have been sent, outcome unknown.
	Intended
	// Applied: a point that was sent and needs no more work.
	Applied
	// Lettered: the record is a dead letter, open or closed.
	Lettered
)

// Saved is what a store knew when the process started.
type Saved struct {
	// Checkpoint is nil where none was written yet.
	Checkpoint *Checkpoint
	// Known holds what is known of records that the checkpoint does not cover, under RecordID.Key.
	Known map[RecordKey]Known
	// OpenLetters counts the open dead letters, without the uncounted ones.
	OpenLetters int
	// Published are the tables that were published when the source last looked.
	Published []Published
}

// RecordKey is RecordID made comparable.
type RecordKey struct {
	Mapping    string
	Position   Position
	CommitTime int64 // unix microseconds
	Number     int
}

// Key makes the id comparable.
func (id RecordID) Key() RecordKey {
	return RecordKey{id.Mapping, id.Position, id.CommitTime.UnixMicro(), id.Number}
}
