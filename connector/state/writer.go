package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

const (
	// outcomeLinger is how long an outcome that nobody waits for waits for company: its sender's next intent mostly comes within
	// microseconds, and then both share the commit. A crash in between makes the point uncertain, as one during the commit would.
	outcomeLinger = 2 * time.Millisecond
	// Outcomes that could not be written are tried again after these times, growing, and with every operation that comes.
	retryFirst = 100 * time.Millisecond
	retryMax   = 5 * time.Second
	// complainEvery is how often the log says that outcomes can't be written, where no caller is there to be told.
	complainEvery = 30 * time.Second
	// keepEvery is how often an idle medium is asked whether it is still there.
	keepEvery = 2 * time.Second
	// mostAgain is how often in a row a transaction is written again at once because the connection was lost under it.
	mostAgain = 3
)

// medium is what the state is written to: a file or a server. It belongs to the writer's goroutine, but for lost. A statement has ? for each of its
// arguments, and says the same to SQLite and to PostgreSQL.
type medium interface {
	// begin starts a transaction. landed: the one before, whose end was not known (ErrUnknown), is stored after all.
	begin() (landed bool, err error)
	// exec runs a statement in it. A server runs it later, with the next query or the commit, which then give its error, as a *failedAt with op.
	exec(op int, query string, args ...any) error
	// query hands each row that a statement gives to each.
	query(query string, each func(scanner) error, args ...any) error
	// commit ends it. On an error it is rolled back; or, with ErrUnknown, it may be stored. errAgain: it is not stored, and can be written now.
	commit() error
	rollback()
	// keep is called now and then while nothing is written; landed as for begin.
	keep() (landed bool, err error)
	// lost gives a channel that is closed when this process may never write again, and the reason to read then. The channel of a file is nil.
	lost() (<-chan struct{}, func() error)
	close() error
}

// scanner is a row.
type scanner interface{ Scan(into ...any) error }

// failedAt is the error of a statement that ran later than its operation asked for it.
type failedAt struct {
	op  int
	err error
}

func (f *failedAt) Error() string { return f.err.Error() }
func (f *failedAt) Unwrap() error { return f.err }

// errAgain is in the error of a transaction that is surely not stored, because a connection was lost that is there again.
var errAgain = errors.New("the connection was lost")

// writer is the one goroutine that writes. All its fields belong to that goroutine but the counters.
type writer struct {
	place  string
	log    *slog.Logger
	medium medium
	q      *queue
	stop   chan struct{} // closed when the queue is

	now   saved // what is committed
	next  saved // what the open transaction makes of it
	maybe saved // what the last transaction makes of it, if it is stored after all
	at    int   // the operation of the batch that is being applied
	kept  []*operation
	// stored makes letters ready to be written; unanswered are those of the open transaction that nobody but the writer knows of.
	stored     func([]*connector.DeadLetter) ([]storedLetter, error)
	unanswered []*connector.DeadLetter
	wait       time.Duration
	said       time.Time

	commits, operations, failures atomic.Uint64
}

// saved is what the writer remembers of the stored checkpoint, to compare the next one with.
type saved struct {
	checkpoint *connector.Checkpoint // nil before the first; its lists don't count
	lists      lists
}

// lists are the encoded Ranges, Partial and Tracks of a checkpoint.
type lists struct {
	ranges, partial []byte
	tracks          [][]any // a row each
}

// encodeLists makes them.
func encodeLists(cp *connector.Checkpoint) (l lists, err error) {
	if l.ranges, err = encodeRanges(cp.Ranges); err != nil {
		return l, err
	}
	l.partial = encodeKeys(cp.Partial)
	for _, t := range cp.Tracks {
		ranges, err := encodeRanges(t.Ranges)
		if err != nil {
			return l, err
		}
		l.tracks = append(l.tracks, []any{t.Mapping, signed(t.Since.Commit), int64(t.Since.Index), stamp(t.SinceTime), signed(t.Until.Commit), int64(t.Until.Index),
			signed(t.Settled.Commit), int64(t.Settled.Index), ranges, encodeKeys(t.Partial), string(t.Held), clean(t.Reason), flag(t.SetAside)})
	}
	return l, nil
}

// The statements that several operations share.
const (
	whereKey    = " WHERE commit_lsn = ? AND idx = ? AND mapping = ? AND commit_time = ? AND number = ?"
	intendPoint = `INSERT INTO point (commit_lsn, idx, mapping, commit_time, number, applied) VALUES (?, ?, ?, ?, ?, 0)
		ON CONFLICT (commit_lsn, idx, mapping, commit_time, number) DO UPDATE SET applied = 0`
	applyPoint = "UPDATE point SET applied = 1" + whereKey
	voidPoint  = "DELETE FROM point" + whereKey
)

// exec runs a statement in the open transaction, for the operation that is being applied; each runs it once for each list of arguments.
func (w *writer) exec(query string, args ...any) error { return w.medium.exec(w.at, query, args...) }

func (w *writer) each(query string, lists ...[]any) error {
	for _, args := range lists {
		if err := w.exec(query, args...); err != nil {
			return err
		}
	}
	return nil
}

// run writes until the queue is closed and empty, and gives the error of what could not be written by then.
func (w *writer) run() error {
	for {
		pause := keepEvery
		if len(w.kept) > 0 {
			pause = w.wait
		}
		timer := time.NewTimer(pause)
		stopping, idle := false, false
		select {
		case <-w.q.wake:
		case <-timer.C:
			idle = true
		case <-w.stop:
			stopping = true
		}
		timer.Stop()
		kept := len(w.kept)
		batch, waited := w.q.take(w.kept)
		if len(batch) > kept && !waited && !stopping {
			linger := time.NewTimer(outcomeLinger)
			select {
			case <-w.q.wake:
			case <-w.stop:
			case <-linger.C:
			}
			linger.Stop()
			batch, _ = w.q.take(batch)
		}
		w.kept = nil
		if len(batch) == 0 && idle {
			landed, err := w.medium.keep()
			if landed {
				w.now = w.maybe
			}
			if err != nil {
				w.log.Debug("the state is not in reach", "error", fault("reaching", w.place, err))
			}
		}
		err := w.write(batch)
		if stopping {
			if len(w.kept) == 0 {
				return nil // else a caller was told
			}
			return fmt.Errorf("%d outcomes of points are not stored (at the next start these points are uncertain): %w", len(w.kept), err)
		}
	}
}

// write puts the batch on the disk in one transaction and tells the callers. What nobody waits for and could not be written is kept, in
// its order, in front of all that comes later: nothing later is reported as committed before it.
func (w *writer) write(batch []*operation) error {
	for again := 0; len(batch) > 0; {
		culprit, err := w.transact(batch)
		if err == nil {
			w.succeeded(batch)
			return nil
		}
		if again++; errors.Is(err, errAgain) && again <= mostAgain {
			continue
		}
		if culprit >= 0 && batch[culprit].done != nil && blamesOperation(err) {
			batch[culprit].done <- fault("writing", w.place, err)
			batch = append(batch[:culprit:culprit], batch[culprit+1:]...)
			continue
		}
		err = fault("writing", w.place, err)
		w.gaveUp(batch, err)
		return err
	}
	return nil
}

func (w *writer) succeeded(batch []*operation) {
	if !w.said.IsZero() {
		w.log.Info("outcomes of points can be stored again")
	}
	w.now, w.wait, w.said = w.next, 0, time.Time{}
	for _, l := range w.unanswered {
		w.log.Warn("dead letter", "class", l.Class, "mapping", l.Mapping, "position", l.Position, "reason", l.Reason)
	}
	w.unanswered = nil
	for _, op := range batch {
		if op.done != nil {
			op.done <- fault("writing", w.place, op.refused)
		}
	}
}

func (w *writer) gaveUp(batch []*operation, err error) {
	w.failures.Add(1)
	told := false
	for _, op := range batch {
		if op.done != nil {
			op.done <- err
			told = true
		} else {
			w.kept = append(w.kept, op)
		}
	}
	w.wait = min(max(2*w.wait, retryFirst), retryMax)
	if !told && time.Since(w.said) >= complainEvery {
		w.said = time.Now()
		w.log.Error("outcomes of points can't be stored; they are kept and tried again", "outcomes", len(w.kept), "error", err)
	}
}

// transact applies the batch and commits it. On an error nothing of it is stored (but see ErrUnknown), and culprit is the operation at which it
// failed, or -1.
func (w *writer) transact(batch []*operation) (culprit int, err error) {
	landed, err := w.medium.begin()
	if landed {
		w.now = w.maybe
	}
	if err != nil {
		return -1, err
	}
	w.next, w.unanswered = w.now, nil
	applied := 0
	for i, op := range batch {
		w.at = i
		op.refused = nil
		switch err := op.apply(w); {
		case errors.Is(err, ErrRefused):
			op.refused = err
		case err != nil:
			w.medium.rollback()
			return blame(i, err)
		default:
			applied++
		}
	}
	if applied == 0 {
		w.medium.rollback()
		return -1, nil
	}
	if err := w.medium.commit(); err != nil {
		w.maybe = w.next
		return blame(-1, err)
	}
	w.commits.Add(1)
	w.operations.Add(uint64(applied))
	return -1, nil
}

// blame gives the operation whose statement has failed, which may be an earlier one than that at which it showed.
func blame(op int, err error) (int, error) {
	var failed *failedAt
	if errors.As(err, &failed) {
		op = failed.op
	}
	return op, err
}

func keyArgs(k connector.RecordKey) []any {
	return []any{signed(k.Position.Commit), int64(k.Position.Index), k.Mapping, k.CommitTime, int64(k.Number)}
}

// storedLetter is a dead letter as its statements take it.
type storedLetter struct {
	insert []any
	point  []any // the key of a point's intent, else nil
	row    []any // of a backfill, else nil
	// overtaken is asked when it is written.
	overtaken func() bool
}

const insertLetter = `INSERT INTO dead_letter (class, kind, mapping, table_name, commit_lsn, idx, number, commit_time, payload, envelope, opt_type, keys,
	decrease, change, reason, attempts, answer, created, closed, resolution, uncounted, overtaken)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT (commit_lsn, idx, mapping, commit_time, number) DO NOTHING`

func (w *writer) setAside(letters []storedLetter) error {
	for _, l := range letters {
		if err := w.exec(insertLetter, append(slices.Clip(l.insert), flag(l.overtaken()))...); err != nil {
			return err
		}
		if l.point != nil {
			if err := w.exec(applyPoint, l.point...); err != nil {
				return err
			}
		}
		if l.row != nil {
			if err := w.exec(putRow, l.row...); err != nil {
				return err
			}
		}
	}
	return nil
}

// putGap stores a gap. It takes the place of the one of that table that began there too: it ends it, or tells of it again.
func (w *writer) putGap(g connector.Gap) error {
	if g.Table != "" {
		if err := w.exec("DELETE FROM gap WHERE table_name = ? AND from_lsn = ?", g.Table, signed(g.From)); err != nil {
			return err
		}
	}
	return w.exec("INSERT INTO gap (at, from_lsn, to_lsn, table_name, reason) VALUES (?, ?, ?, ?, ?)",
		stamp(g.At), signed(g.From), signed(g.To), g.Table, clean(g.Reason))
}

// forgetFrom deletes what is known of points from a commit LSN on. LSNs from 2^63 on are stored as negative numbers, and are the greater ones.
func (w *writer) forgetFrom(cut connector.LSN) error {
	beyond := "commit_lsn >= ? OR commit_lsn < 0"
	if signed(cut) < 0 {
		beyond = "commit_lsn >= ? AND commit_lsn < 0"
	}
	return w.exec("DELETE FROM point WHERE "+beyond, signed(cut))
}

// saveCheckpoint refuses what would take back what the last checkpoint promised.
func (w *writer) saveCheckpoint(cp *connector.Checkpoint, l lists) error {
	last := w.next.checkpoint
	switch {
	case last == nil:
	case last.Lineage != cp.Lineage:
		return fmt.Errorf("%w: it belongs to %+v, and the checkpoint is of %+v", ErrRefused, last.Lineage, cp.Lineage)
	case cp.Settled.Compare(last.Settled) < 0:
		return fmt.Errorf("%w: the checkpoint would go back from %s to %s", ErrRefused, last.Settled, cp.Settled)
	case cp.Flush < last.Flush:
		return fmt.Errorf("%w: the LSN told to PostgreSQL would go back from %s to %s", ErrRefused, last.Flush, cp.Flush)
	}
	return w.putCheckpoint(cp, l)
}

const (
	putCheckpoint = `INSERT INTO checkpoint (id, system_id, timeline, database_name, slot, publications, mappings, settled_lsn, settled_idx, flush_lsn,
		commit_time, written, brakes, accepted)
		VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET system_id = excluded.system_id, timeline = excluded.timeline, database_name = excluded.database_name,
		slot = excluded.slot, publications = excluded.publications, mappings = excluded.mappings, settled_lsn = excluded.settled_lsn,
		settled_idx = excluded.settled_idx, flush_lsn = excluded.flush_lsn, commit_time = excluded.commit_time, written = excluded.written,
		brakes = excluded.brakes, accepted = excluded.accepted`
	putBeyond = `INSERT INTO beyond (id, ranges, partial) VALUES (1, ?, ?)
		ON CONFLICT (id) DO UPDATE SET ranges = excluded.ranges, partial = excluded.partial`
	putTrack = `INSERT INTO track (mapping, since_lsn, since_idx, since, until_lsn, until_idx, settled_lsn, settled_idx, ranges, partial, held, reason,
		set_aside) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	forgetRun = "DELETE FROM point WHERE (commit_lsn, idx) >= (?, ?) AND (commit_lsn, idx) <= (?, ?)"
)

// putCheckpoint writes cp over what is there.
func (w *writer) putCheckpoint(cp *connector.Checkpoint, l lists) error {
	mappings, err := json.Marshal(cp.Mappings)
	if err != nil {
		return err
	}
	brakes, err := json.Marshal(cp.Brakes)
	if err != nil {
		return err
	}
	accepted, err := json.Marshal(cp.Accepted)
	if err != nil {
		return err
	}
	if err := w.exec(putCheckpoint, cp.Lineage.SystemID, int64(cp.Lineage.Timeline), cp.Lineage.Database, cp.Lineage.Slot, cp.Lineage.Publications,
		string(mappings), signed(cp.Settled.Commit), int64(cp.Settled.Index), signed(cp.Flush), stamp(cp.CommitTime), stamp(cp.Written), string(brakes), string(accepted)); err != nil {
		return err
	}
	last := w.next
	same := bytes.Equal(l.ranges, last.lists.ranges) && bytes.Equal(l.partial, last.lists.partial)
	if !same {
		if err := w.exec(putBeyond, l.ranges, l.partial); err != nil {
			return err
		}
	}
	sameTracks := slices.EqualFunc(l.tracks, last.lists.tracks, func(a, b []any) bool { return reflect.DeepEqual(a, b) })
	if !sameTracks {
		if err := errors.Join(w.exec("DELETE FROM track"), w.each(putTrack, l.tracks...)); err != nil {
			return err
		}
	}
	moved := last.checkpoint == nil || last.checkpoint.Settled != cp.Settled || !same || !sameTracks
	w.next = saved{checkpoint: &connector.Checkpoint{Lineage: cp.Lineage, Settled: cp.Settled, Flush: cp.Flush}, lists: l}
	if !moved {
		return nil
	}
	return w.forgetCovered(cp)
}

// forgetCovered deletes the points that cp covers. There are as many rows as points since the last checkpoint plus those that still
// wait, and few of the latter: reading them all is cheaper than a delete for each of ten thousand ranges.
//
// A point that has an intent and no outcome, and is covered all the same, is one that its mapping, as it is now, does not make any more: it was edited
// after the connector was killed between request and answer. It becomes a dead letter of class uncertain, with the checkpoint that covers it.
func (w *writer) forgetCovered(cp *connector.Checkpoint) error {
	unanswered := map[connector.RecordKey]connector.Known{}
	// A mapping with a track is asked about by itself, at the same positions as the others.
	all, byMapping := runs{}, map[string]*runs{}
	for i := range cp.Tracks {
		byMapping[cp.Tracks[i].Mapping] = &runs{}
	}
	if err := w.medium.query("SELECT commit_lsn, idx, mapping, commit_time, number, applied FROM point ORDER BY commit_lsn, idx", func(row scanner) error {
		var p storedPosition
		var k connector.RecordKey
		var applied int64
		if err := row.Scan(&p.lsn, &p.idx, &k.Mapping, &k.CommitTime, &k.Number, &applied); err != nil {
			return err
		}
		k.Position = connector.Position{Commit: unsigned(p.lsn), Index: p.idx}
		r := byMapping[k.Mapping]
		if r == nil {
			r = &all
		}
		covered := cp.CoversRecord(k)
		if r.add(p, covered); covered && applied == 0 {
			unanswered[k] = connector.Intended
		}
		return nil
	}); err != nil {
		return err
	}
	if len(unanswered) > 0 {
		letters := connector.Orphans(unanswered, func(connector.RecordKey) bool { return true }, "its mapping, as it is now, makes no point of that change")
		stored, err := w.stored(letters)
		if err == nil {
			err = w.setAside(stored)
		}
		if err != nil {
			return err
		}
		w.unanswered = append(w.unanswered, letters...)
	}
	others, names := forgetRun, []any(nil)
	for name := range byMapping {
		names = append(names, name)
	}
	if len(names) > 0 {
		others += " AND mapping NOT IN (?" + strings.Repeat(", ?", len(names)-1) + ")"
	}
	for _, r := range all.list {
		if err := w.exec(others, append(r.args(), names...)...); err != nil {
			return err
		}
	}
	for name, own := range byMapping {
		for _, r := range own.list {
			if err := w.exec(forgetRun+" AND mapping = ?", append(r.args(), name)...); err != nil {
				return err
			}
		}
	}
	return nil
}
