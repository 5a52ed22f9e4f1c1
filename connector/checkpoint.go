package connector

import (
	"slices"
	"time"
)

// Lineage says which history a checkpoint belongs to. LSNs mean nothing outside it: after a failover that lost something, the same LSNs come
// again with other rows.
type Lineage struct {
	SystemID string `json:"systemId"`
	// Timeline is the server's; 0 where an older version of this program wrote the checkpoint.
	Timeline int32  `json:"timeline"`
	Database string `json:"database"`
	Slot     string `json:"slot"`
	// Publications are the names and OIDs of the publications that are streamed, as name=oid, joined by commas; empty as for Timeline.
	Publications string `json:"publications"`
}

// Checkpoint is the position up to which every change is settled, and what is settled beyond it.
type Checkpoint struct {
	Lineage Lineage
	// Settled: every change up to and including it is settled (but for those of Tracks).
	Settled Position
	// Ranges are settled too; ascending, apart, all beyond Settled.
	Ranges []Range
	// Partial are the settled records of changes that are not settled.
	Partial []RecordKey
	// Flush is the LSN that PostgreSQL may be told; never ahead of Settled, nor of what a track still needs.
	Flush LSN
	// Tracks are the stretches of the stream that single mappings go through by themselves, because they were or are held.
	Tracks []Track
	// Brakes are what is known of mappings with maxPerMinute.
	Brakes []Brake
	// Accepted is a break that the operator has accepted and that is not dealt with yet; nil: there is none.
	Accepted *Accepted
	// Mappings are the names of the mappings that have streamed with this state, sorted.
	Mappings []string
	// CommitTime is when the last settled change in order was committed; zero before the first.
	CommitTime time.Time
	// Written is when the checkpoint was written.
	Written time.Time
}

// Accepted is what the operator has accepted of breaks between the state and the server. It is noted before anything is done about them: what is
// interrupted half-way looks like another break at the next start, and is gone on with.
type Accepted struct {
	// ID is that of the refusal.
	ID     string  `json:"id"`
	Breaks []Break `json:"breaks"`
}

// Break is why streaming could not simply go on from the checkpoint; the source knows what its fields mean.
type Break struct {
	Text  string `json:"text"`
	Facts string `json:"facts"`
	From  LSN    `json:"from"`
	To    LSN    `json:"to"`
	Cut   LSN    `json:"cut"`
	Whole bool   `json:"whole,omitempty"`
	Skip  bool   `json:"skip,omitempty"`
	Anew  bool   `json:"anew,omitempty"`
}

// Range is a run of settled changes, both ends included.
type Range struct{ From, To Position }

// Track is a stretch of the stream that one mapping goes through by itself. It begins where the mapping was held, and ends where it has caught
// up with the others. For the changes of the stretch, what the checkpoint says of all mappings is not said of this one.
type Track struct {
	Mapping string
	// Since is the first change of the stretch, SinceTime when it was committed.
	Since     Position
	SinceTime time.Time
	// Until is the first change beyond it; zero: the mapping has not caught up.
	Until Position
	// Settled, Ranges and Partial are as in Checkpoint, for this mapping in this stretch.
	Settled Position
	Ranges  []Range
	Partial []RecordKey
	// Held says why the mapping stands still; empty: it is working its changes off.
	Held Hold
	// Reason says it in plain words; no row values.
	Reason string
	// SetAside says that what the mapping can't read becomes dead letters.
	SetAside bool
}

// Hold is why a mapping is held.
type Hold string

// The reasons to hold a mapping.
const (
	// HoldMisfit: it can't read its table as that is now. Tried again at every start and reload.
	HoldMisfit Hold = "misfit"
	// HoldFailing: many of its records in a row kept failing. Ends by `resume`.
	HoldFailing Hold = "failing"
	// HoldBrake: more records than its maxPerMinute. Ends by `resume` or `deadletters set-aside`.
	HoldBrake Hold = "brake"
)

// Has reports whether the change at p lies in the stretch.
func (t *Track) Has(p Position) bool {
	return p.Compare(t.Since) >= 0 && (t.Until.IsZero() || p.Compare(t.Until) < 0)
}

// Covers reports whether the change at p is settled, but for what tracks have of it.
func (cp *Checkpoint) Covers(p Position) bool { return covers(cp.Settled, cp.Ranges, p) }

// Covers reports whether the mapping is done with the change at p, which lies in the stretch.
func (t *Track) Covers(p Position) bool { return covers(t.Settled, t.Ranges, p) }

// CoversRecord reports whether the change of a record is settled for the record's mapping.
func (cp *Checkpoint) CoversRecord(k RecordKey) bool {
	for i := range cp.Tracks {
		if t := &cp.Tracks[i]; t.Mapping == k.Mapping && t.Has(k.Position) {
			return t.Covers(k.Position)
		}
	}
	return cp.Covers(k.Position)
}

// covers finds the range by halving: there may be ten thousand.
func covers(settled Position, ranges []Range, p Position) bool {
	if p.Compare(settled) <= 0 {
		return true
	}
	i, found := slices.BinarySearchFunc(ranges, p, func(r Range, p Position) int { return r.To.Compare(p) })
	return found || i < len(ranges) && p.Compare(ranges[i].From) >= 0
}

// Orphans makes letters of class uncertain of the points that have an intent and no outcome, and for which gone says that their changes do not come
// again. There is no payload any more: the reason says so.
func Orphans(known map[RecordKey]Known, gone func(RecordKey) bool, reason string) []*DeadLetter {
	var letters []*DeadLetter
	for k, what := range known {
		if what != Intended || !gone(k) {
			continue
		}
		letters = append(letters, &DeadLetter{RecordID: RecordID{Mapping: k.Mapping, Position: k.Position, CommitTime: time.UnixMicro(k.CommitTime).UTC(), Number: k.Number},
			Class: ClassUncertain, Kind: Point, Attempts: 1, Created: time.Now().UTC(),
			Reason: "the connector stopped between sending this point and reading the answer, and it does not come again: " + reason +
				"; the payload is not known: find the row by the commit time, and look the customer's points up on the platform"})
	}
	slices.SortFunc(letters, func(a, b *DeadLetter) int { return a.Position.Compare(b.Position) })
	return letters
}
