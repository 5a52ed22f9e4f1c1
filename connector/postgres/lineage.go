package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// ErrNewHistory says that the server behind a connection that was made again writes another history than the one before: what the state knows must be
// compared with it anew, by Prepare.
var ErrNewHistory = errors.New("the server writes another history than before the connection was lost")

// breach is why streaming can't simply go on from what the state says: what lies between would be lost, or passed over as settled.
type breach struct {
	text string
	// facts name the breach for its id; they stay the same until something is done about it.
	facts string
	// from and to bound what may be lost; to is 0 where that is not known.
	from, to connector.LSN
	// cut: what the state knows from this commit LSN on is of another history. whole: all that it knows is.
	cut   connector.LSN
	whole bool
	// skip: where the histories parted is not known, so what the server has now counts as settled, up to cut.
	skip bool
	// anew: the slot, if there is one, is of no use any more.
	anew bool
	// follows: it may come of making slot and publications anew, when that was interrupted.
	follows bool
}

// id names a decision of the operator's: it holds for these breaches and no others.
func id(facts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(facts, "\x00")))
	return hex.EncodeToString(sum[:4])
}

// scene is what the server shows, for comparison with the state.
type scene struct {
	lineage  connector.Lineage
	slot     *Slot
	standing map[string]uint32 // the publications that are there now, with their OIDs
	// switched gives the LSN at which the server's history left a timeline; ok is false where that timeline is not in its history.
	switched func(timeline int32) (lsn connector.LSN, ok bool, err error)
}

// compare finds what keeps the state from being gone on from. A new timeline that holds all that was settled is no breach: then cut says where
// it begins.
func (s *scene) compare(saved *connector.Saved) (found []breach, cut connector.LSN, err error) {
	cp := saved.Checkpoint
	was, is := cp.Lineage, s.lineage
	reach := furthest(saved)
	add := func(b breach) { found = append(found, b) }
	if was.SystemID != is.SystemID || was.Database != is.Database {
		add(breach{text: fmt.Sprintf("the state belongs to system %s, database %s; source.dsn leads to system %s, database %s",
			was.SystemID, was.Database, is.SystemID, is.Database), facts: fmt.Sprint("system", was, is.SystemID, is.Database), from: cp.Flush, whole: true})
		if s.slot.Lost() {
			found[0].anew = true
		}
		return found, 0, nil
	}
	if was.Slot != is.Slot {
		add(breach{text: fmt.Sprintf("the state belongs to slot %q, and source.slot is %q", was.Slot, is.Slot),
			facts: fmt.Sprint("slot", was.Slot, is.Slot, cp.Flush), from: cp.Flush, to: s.slot.ConfirmedFlush})
	}
	if was.Timeline != 0 && was.Timeline != is.Timeline {
		lsn, ok, err := s.switched(was.Timeline)
		switch {
		case err != nil:
			return nil, 0, err
		case !ok:
			add(breach{text: fmt.Sprintf("the server writes timeline %d, whose history does not know timeline %d, on which the state was written: it was restored to an earlier point, or is a copy that went its own way",
				is.Timeline, was.Timeline), facts: fmt.Sprint("timeline", was.Timeline, is.Timeline, cp.Flush), from: s.slot.ConfirmedFlush, to: s.slot.WALEnd, cut: s.slot.WALEnd, skip: true})
		case reach.Commit >= lsn:
			add(breach{text: fmt.Sprintf("the server writes timeline %d, which left timeline %d at %s; the state has settled changes, or sent points, up to %s, which the server has lost (a failover that lost something)",
				is.Timeline, was.Timeline, lsn, reach), facts: fmt.Sprint("timeline", was.Timeline, is.Timeline, lsn), from: lsn, to: reach.Commit, cut: lsn})
		default:
			cut = lsn
		}
	} else if end := s.slot.WALEnd; end < reach.Commit || !s.slot.Standby && end < cp.Flush {
		// To confirm an LSN beyond the server's own WAL would make it pass over all that it writes up to there.
		add(breach{text: fmt.Sprintf("the server's WAL ends at %s, before %s, which the state has settled: the database was restored to an earlier point",
			end, max(reach.Commit, cp.Flush)),
			facts: fmt.Sprint("rewound", cp.Flush, reach), from: s.slot.ConfirmedFlush, to: end, cut: end, skip: true})
	}
	switch slot := s.slot; {
	case !slot.Exists:
		add(breach{text: fmt.Sprintf("the slot %q is gone, while the state has a checkpoint: changes since %s may be lost", slot.Name, cp.Flush),
			facts: fmt.Sprint("gone", cp.Flush, reach), from: cp.Flush, anew: true, follows: true})
	case slot.Lost():
		why, cure := slot.whyLost()
		add(breach{text: fmt.Sprintf("the slot %q is invalidated (wal_status %s): %s, changes since %s are lost. So that it does not come again: %s",
			slot.Name, slot.WALStatus, why, cp.Flush, cure), facts: fmt.Sprint("lost", cp.Flush, reach), from: cp.Flush, anew: true})
	case was.Slot == is.Slot && slot.ConfirmedFlush > cp.Flush:
		add(breach{text: fmt.Sprintf("the slot %q stands at %s, past the checkpoint at %s: something else has read from it, and the changes between do not come again",
			slot.Name, slot.ConfirmedFlush, cp.Flush), facts: fmt.Sprint("ahead", cp.Flush, slot.ConfirmedFlush), from: cp.Flush, to: slot.ConfirmedFlush, follows: true})
	}
	if s.slot.Exists && !s.slot.Lost() {
		if text, facts := s.publications(was.Publications); text != "" {
			add(breach{text: text, facts: facts, from: cp.Flush, anew: true, follows: true})
		}
	}
	return found, cut, nil
}

// publications tells of a publication that is gone, or was made anew beside the slot: the WAL from before can't be read with it (42704).
func (s *scene) publications(was string) (text, facts string) {
	for _, one := range splitPublications(was) {
		oid, there := s.standing[one.name]
		switch {
		case !there:
			return fmt.Sprintf("the publication %s is missing, beside the slot %q: made anew it would be unknown to the WAL that the slot still has to read, so both must be made anew",
				one.name, s.slot.Name), fmt.Sprint("publication", one, "missing", s.slot.ConfirmedFlush)
		case oid != one.oid:
			return fmt.Sprintf("the publication %s was dropped and made anew (OID %d, was %d), beside the slot %q: the WAL from before can't be read with it, so the slot must be made anew",
				one.name, oid, one.oid, s.slot.Name), fmt.Sprint("publication", one, oid)
		}
	}
	return "", ""
}

// noted gives the breaches that the operator has accepted before, if those that stand now are the same, or come of what was begun about them: a slot
// that is gone or made anew, a publication made anew.
func noted(accepted *connector.Accepted, standing []breach) (breaches []breach) {
	if accepted == nil {
		return nil
	}
	facts, anew := map[string]bool{}, false
	for _, b := range accepted.Breaks {
		facts[b.Facts] = true
		anew = anew || b.Anew
		breaches = append(breaches, breach{text: b.Text, facts: b.Facts, from: b.From, to: b.To, cut: b.Cut, whole: b.Whole, skip: b.Skip, anew: b.Anew})
	}
	for _, b := range standing {
		if !facts[b.facts] && !(anew && b.follows) {
			return nil
		}
	}
	return breaches
}

// note writes breaches for the state.
func note(which string, breaches []breach) *connector.Accepted {
	a := &connector.Accepted{ID: which}
	for _, b := range breaches {
		a.Breaks = append(a.Breaks, connector.Break{Text: b.text, Facts: b.facts, From: b.from, To: b.to, Cut: b.cut, Whole: b.whole, Skip: b.skip, Anew: b.anew})
	}
	return a
}

// refuse is the refusal that the breaches call for, with the id that accepts them.
func refuse(breaches []breach) (*Refusal, string) {
	var texts, facts []string
	for _, b := range breaches {
		texts, facts = append(texts, b.text), append(facts, b.facts)
	}
	which := id(facts...)
	return &Refusal{strings.Join(texts, "\n  and ") + "\n  Nothing was sent, nothing was changed.",
		"find out why, and put back what can be put back (the server, the slot, source.dsn, state.path or state.dsn). To go on without what lies between, and have the gap recorded: " +
			"tuzhan-cdc run --accept-gap " + which + " ; then send what is missing: tuzhan-cdc backfill MAPPING"}, which
}

// noCut is the cut that leaves everything.
const noCut = ^connector.LSN(0)

// accept gives the checkpoint to go on from where the operator has accepted the breaches, and start is where the slot stands. gap is what is
// recorded; it is nil where nothing can be missing. Of what the state knows from commit LSN cut on, nothing holds.
func accept(saved *connector.Saved, breaches []breach, lineage connector.Lineage, start connector.LSN) (next *connector.Checkpoint, gap *connector.Gap, cut connector.LSN) {
	cut = noCut
	gap = &connector.Gap{At: time.Now().UTC()}
	var reasons []string
	whole, skip := false, false
	for i, b := range breaches {
		whole, skip = whole || b.whole, skip || b.skip
		if b.cut > 0 {
			cut = min(cut, b.cut)
		}
		if i == 0 || b.from < gap.From {
			gap.From = b.from
		}
		gap.To = max(gap.To, b.to)
		reasons = append(reasons, b.text)
	}
	gap.Reason = strings.Join(reasons, "; ")
	if whole {
		cut = 0
	}
	next = cutCheckpoint(saved.Checkpoint, cut)
	next.Lineage = lineage
	if start > next.Flush {
		gap.To = max(gap.To, start)
		skipTo(next, start)
	}
	if skip && !whole {
		skipTo(next, cut)
	}
	if gap.To <= gap.From && cut == noCut {
		gap = nil
	}
	return next, gap, cut
}

// cutCheckpoint gives the checkpoint without what it says of positions from commit LSN cut on.
func cutCheckpoint(cp *connector.Checkpoint, cut connector.LSN) *connector.Checkpoint {
	next := *cp
	next.Accepted = nil
	last := connector.Position{}
	if cut > 0 {
		last = connector.Position{Commit: cut - 1, Index: 1<<32 - 1}
	}
	trim := func(settled connector.Position, ranges []connector.Range, partial []connector.RecordKey) (connector.Position, []connector.Range, []connector.RecordKey) {
		if settled.Compare(last) > 0 {
			settled = last
		}
		var keep []connector.Range
		for _, r := range ranges {
			if r.To.Compare(last) > 0 {
				r.To = last
			}
			if r.From.Compare(r.To) <= 0 {
				keep = append(keep, r)
			}
		}
		var keys []connector.RecordKey
		for _, k := range partial {
			if k.Position.Compare(last) <= 0 {
				keys = append(keys, k)
			}
		}
		return settled, keep, keys
	}
	next.Settled, next.Ranges, next.Partial = trim(cp.Settled, cp.Ranges, cp.Partial)
	next.Flush = min(cp.Flush, cut)
	next.Tracks = nil
	for _, t := range cp.Tracks {
		if t.Since.Compare(last) > 0 {
			continue
		}
		if t.Until.Compare(last) > 0 {
			t.Until = connector.Position{}
		}
		t.Settled, t.Ranges, t.Partial = trim(t.Settled, t.Ranges, t.Partial)
		next.Tracks = append(next.Tracks, t)
	}
	if cut == 0 {
		next.Mappings = nil
	}
	return &next
}

// skipTo moves a checkpoint on to where the slot stands: what lies before does not come any more.
func skipTo(cp *connector.Checkpoint, start connector.LSN) {
	last := connector.Position{Commit: start - 1, Index: 1<<32 - 1}
	skip := func(settled *connector.Position, ranges []connector.Range) []connector.Range {
		if settled.Compare(last) >= 0 {
			return ranges
		}
		*settled = last
		var keep []connector.Range
		for _, r := range ranges {
			if r.To.Compare(last) <= 0 {
				continue
			}
			if r.From.Compare(last) <= 0 {
				r.From = connector.Position{Commit: start}
			}
			keep = append(keep, r)
		}
		return keep
	}
	cp.Ranges = skip(&cp.Settled, cp.Ranges)
	for i := range cp.Tracks {
		cp.Tracks[i].Ranges = skip(&cp.Tracks[i].Settled, cp.Tracks[i].Ranges)
	}
	cp.Flush = max(cp.Flush, start)
}

// furthest is the last position that the state knows anything of.
func furthest(saved *connector.Saved) connector.Position {
	cp := saved.Checkpoint
	last := cp.Settled
	reach := func(p connector.Position) {
		if p.Compare(last) > 0 {
			last = p
		}
	}
	ends := func(ranges []connector.Range, partial []connector.RecordKey) {
		if n := len(ranges); n > 0 {
			reach(ranges[n-1].To)
		}
		for _, k := range partial {
			reach(k.Position)
		}
	}
	ends(cp.Ranges, cp.Partial)
	for _, t := range cp.Tracks {
		if t.Settled.Compare(t.Since) >= 0 { // else it is what all had settled
			reach(t.Settled)
		}
		ends(t.Ranges, t.Partial)
	}
	for k := range saved.Known {
		reach(k.Position)
	}
	return last
}

// timelineHistory gives the LSNs at which the server's history left its timelines.
// Format: PostgreSQL's timelinehistory file, "parent<TAB>LSN<TAB>reason" a line.
func timelineHistory(ctx context.Context, repl *pgconn.PgConn, timeline int32) (map[int32]connector.LSN, error) {
	left := map[int32]connector.LSN{}
	if timeline <= 1 {
		return left, nil
	}
	history, err := pglogrepl.TimelineHistory(ctx, repl, timeline)
	if err != nil {
		return nil, fmt.Errorf("TIMELINE_HISTORY %d: %w", timeline, err)
	}
	for line := range strings.Lines(string(history.Content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		parent, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("the history of timeline %d has a line that can't be read: %q", timeline, strings.TrimSpace(line))
		}
		if left[int32(parent)], err = connector.ParseLSN(fields[1]); err != nil {
			return nil, fmt.Errorf("the history of timeline %d: %w", timeline, err)
		}
	}
	return left, nil
}

// publicationOIDs gives the OIDs of the publications that are there.
func publicationOIDs(ctx context.Context, conn *pgx.Conn, names []string) (map[string]uint32, error) {
	rows, err := conn.Query(ctx, "SELECT pubname::text, oid FROM pg_publication WHERE pubname = ANY ($1::text[])", names)
	if err != nil {
		return nil, fmt.Errorf("reading the publications: %w", err)
	}
	oids := map[string]uint32{}
	var name string
	var oid uint32
	if _, err = pgx.ForEachRow(rows, []any{&name, &oid}, func() error { oids[name] = oid; return nil }); err != nil {
		return nil, fmt.Errorf("reading the publications: %w", err)
	}
	return oids, nil
}

// publication is one of a lineage's.
type publication struct {
	name string
	oid  uint32
}

// joinPublications writes what a lineage keeps: name=oid, sorted, joined by commas. Names may hold any character, so they are quoted for SQL.
func joinPublications(oids map[string]uint32, names []string) string {
	var parts []string
	for _, name := range slices.Sorted(slices.Values(names)) {
		parts = append(parts, fmt.Sprintf("%s=%d", quoteIdent(name), oids[name]))
	}
	return strings.Join(parts, ",")
}

// splitPublications reads what joinPublications wrote.
func splitPublications(text string) []publication {
	var list []publication
	for text != "" {
		name, rest, ok := unquoteIdent(text)
		number, after, _ := strings.Cut(strings.TrimPrefix(rest, "="), ",")
		oid, err := strconv.ParseUint(number, 10, 32)
		if !ok || err != nil {
			return list
		}
		list, text = append(list, publication{name, uint32(oid)}), after
	}
	return list
}

// unquoteIdent reads a quoted identifier from the front of text.
func unquoteIdent(text string) (name, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] != '"':
			b.WriteByte(text[i])
		case i+1 < len(text) && text[i+1] == '"':
			b.WriteByte('"')
			i++
		default:
			return b.String(), text[i+1:], true
		}
	}
	return "", "", false
}
