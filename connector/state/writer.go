package state

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
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
)

// writer is the one goroutine that writes. All its fields belong to that goroutine but the counters.
type writer struct {
	path string
	log  *slog.Logger
	conn *sql.Conn
	file os.FileInfo // the file as it was opened
	q    *queue
	stop chan struct{} // closed when the queue is

	begin, commit, rollback, intend, applied, void, letter *sql.Stmt
	checkpoint, beyond, points, forget, forgetOf           *sql.Stmt
	noTracks, track                                        *sql.Stmt
	prepared                                               []*sql.Stmt // all of these

	now    saved // what is committed
	next   saved // what the open transaction makes of it
	kept   []*operation
	failed bool // the connection may still be in the last transaction
	wait   time.Duration
	said   time.Time

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
			signed(t.Settled.Commit), int64(t.Settled.Index), ranges, encodeKeys(t.Partial), string(t.Held), t.Reason, t.SetAside})
	}
	return l, nil
}

func (w *writer) prepare(ctx context.Context) error {
	const key = "commit_lsn = ? AND idx = ? AND mapping = ? AND commit_time = ? AND number = ?"
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.commit, "COMMIT"},
		{&w.rollback, "ROLLBACK"},
		{&w.intend, `INSERT INTO point (commit_lsn, idx, mapping, commit_time, number, applied) VALUES (?, ?, ?, ?, ?, 0)
			ON CONFLICT DO UPDATE SET applied = 0`},
		{&w.applied, "UPDATE point SET applied = 1 WHERE " + key},
		{&w.void, "DELETE FROM point WHERE " + key},
		{&w.letter, `INSERT INTO dead_letter (class, kind, mapping, table_name, commit_lsn, idx, number, commit_time, payload, envelope, opt_type, keys,
			decrease, change, reason, attempts, answer, created, closed, resolution, uncounted)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (commit_lsn, idx, mapping, commit_time, number) DO NOTHING`},
		{&w.checkpoint, `INSERT INTO checkpoint (id, system_id, timeline, database_name, slot, publications, mappings, settled_lsn, settled_idx, flush_lsn,
			commit_time, written, brakes)
			VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET system_id = excluded.system_id, timeline = excluded.timeline, database_name = excluded.database_name,
			slot = excluded.slot, publications = excluded.publications, mappings = excluded.mappings, settled_lsn = excluded.settled_lsn, settled_idx = excluded.settled_idx, flush_lsn = excluded.flush_lsn,
			commit_time = excluded.commit_time, written = excluded.written, brakes = excluded.brakes`},
		{&w.beyond, `INSERT INTO beyond (id, ranges, partial) VALUES (1, ?, ?)
			ON CONFLICT DO UPDATE SET ranges = excluded.ranges, partial = excluded.partial`},
		{&w.points, "SELECT commit_lsn, idx, mapping FROM point ORDER BY commit_lsn, idx"},
		{&w.forget, `DELETE FROM point WHERE (commit_lsn, idx) >= (?, ?) AND (commit_lsn, idx) <= (?, ?)
			AND mapping NOT IN (SELECT value FROM json_each(?))`},
		{&w.forgetOf, "DELETE FROM point WHERE (commit_lsn, idx) >= (?, ?) AND (commit_lsn, idx) <= (?, ?) AND mapping = ?"},
		{&w.noTracks, "DELETE FROM track"},
		{&w.track, `INSERT INTO track (mapping, since_lsn, since_idx, since, until_lsn, until_idx, settled_lsn, settled_idx, ranges, partial, held, reason,
			set_aside) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},
	} {
		var err error
		if *s.stmt, err = w.conn.PrepareContext(ctx, s.text); err != nil {
			return err
		}
		w.prepared = append(w.prepared, *s.stmt)
	}
	return nil
}

// close closes the connection after its statements: with one of them left SQLite keeps the file open, and its WAL unfinished.
func (w *writer) close() error {
	var errs []error
	for _, stmt := range w.prepared {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

// run writes until the queue is closed and empty, and gives the error of what could not be written by then.
func (w *writer) run() error {
	for {
		var retry <-chan time.Time
		if len(w.kept) > 0 {
			retry = time.After(w.wait)
		}
		stopping := false
		select {
		case <-w.q.wake:
		case <-retry:
		case <-w.stop:
			stopping = true
		}
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
	for len(batch) > 0 {
		culprit, err := w.transact(batch)
		if err == nil {
			w.succeeded(batch)
			return nil
		}
		if culprit >= 0 && batch[culprit].done != nil && blamesOperation(err) {
			batch[culprit].done <- fault("writing", w.path, err)
			batch = append(batch[:culprit:culprit], batch[culprit+1:]...)
			continue
		}
		err = fault("writing", w.path, err)
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
	for _, op := range batch {
		if op.done != nil {
			op.done <- fault("writing", w.path, op.refused)
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

// transact applies the batch and commits it. On an error nothing of it is stored, and culprit is the operation at which it failed, or -1.
func (w *writer) transact(batch []*operation) (culprit int, err error) {
	if w.failed {
		_, _ = w.rollback.Exec()
		w.failed = false
	}
	if err := w.inPlace(); err != nil {
		return -1, err
	}
	if _, err := w.begin.Exec(); err != nil {
		return -1, err
	}
	w.next = w.now
	applied := 0
	for i, op := range batch {
		op.refused = nil
		switch err := op.apply(w); {
		case errors.Is(err, ErrRefused):
			op.refused = err
		case err != nil:
			w.undo()
			return i, err
		default:
			applied++
		}
	}
	if applied == 0 {
		w.undo()
		return -1, nil
	}
	if _, err := w.commit.Exec(); err != nil {
		w.undo()
		return -1, err
	}
	w.commits.Add(1)
	w.operations.Add(uint64(applied))
	return -1, nil
}

// undo rolls back. That fails where SQLite has done it already, which it does on a full disk; should it have failed for another reason,
// it is tried again before the next transaction.
func (w *writer) undo() {
	_, err := w.rollback.Exec()
	w.failed = err != nil
}

// inPlace reports a file that was moved, deleted or replaced under the running connector: SQLite would go on writing into one that no
// later start finds, and PostgreSQL would be told so.
func (w *writer) inPlace() error {
	file, err := os.Stat(w.path)
	if err == nil && os.SameFile(file, w.file) {
		return nil
	}
	if err == nil {
		err = errors.New("another file stands in its place")
	}
	return &Error{Op: "writing", Path: w.path, Err: fmt.Errorf("it was moved or deleted while the connector runs: %w", err),
		Cure: "move it back, together with its -wal and -shm files; where it is lost, start the connector anew"}
}

func keyArgs(k connector.RecordKey) []any {
	return []any{signed(k.Position.Commit), int64(k.Position.Index), k.Mapping, k.CommitTime, int64(k.Number)}
}

// perform runs a prepared statement for each argument list.
func perform(stmt *sql.Stmt, lists ...[]any) error {
	for _, args := range lists {
		if _, err := stmt.Exec(args...); err != nil {
			return err
		}
	}
	return nil
}

// storedLetter is a dead letter as its statements take it.
type storedLetter struct {
	insert []any
	point  []any // the key of a point's intent, else nil
}

func (w *writer) setAside(letters []storedLetter) error {
	for _, l := range letters {
		if err := perform(w.letter, l.insert); err != nil {
			return err
		}
		if l.point != nil {
			if err := perform(w.applied, l.point); err != nil {
				return err
			}
		}
	}
	return nil
}

// putGap stores a gap. It takes the place of the one of that table that began there too: it ends it, or tells of it again.
func (w *writer) putGap(g connector.Gap) error {
	if _, err := w.conn.ExecContext(context.Background(), "DELETE FROM gap WHERE table_name = ? AND from_lsn = ? AND table_name <> ''",
		g.Table, signed(g.From)); err != nil {
		return err
	}
	_, err := w.conn.ExecContext(context.Background(), "INSERT INTO gap (at, from_lsn, to_lsn, table_name, reason) VALUES (?, ?, ?, ?, ?)",
		stamp(g.At), signed(g.From), signed(g.To), g.Table, g.Reason)
	return err
}

// forgetFrom deletes what is known of points from a commit LSN on. LSNs from 2^63 on are stored as negative numbers, and are the greater ones.
func (w *writer) forgetFrom(cut connector.LSN) error {
	beyond := "commit_lsn >= ? OR commit_lsn < 0"
	if signed(cut) < 0 {
		beyond = "commit_lsn >= ? AND commit_lsn < 0"
	}
	_, err := w.conn.ExecContext(context.Background(), "DELETE FROM point WHERE "+beyond, signed(cut))
	return err
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
	if err := perform(w.checkpoint, []any{cp.Lineage.SystemID, int64(cp.Lineage.Timeline), cp.Lineage.Database, cp.Lineage.Slot, cp.Lineage.Publications,
		string(mappings), signed(cp.Settled.Commit), int64(cp.Settled.Index), signed(cp.Flush), stamp(cp.CommitTime), stamp(cp.Written), string(brakes)}); err != nil {
		return err
	}
	last := w.next
	same := bytes.Equal(l.ranges, last.lists.ranges) && bytes.Equal(l.partial, last.lists.partial)
	if !same {
		if err := perform(w.beyond, []any{l.ranges, l.partial}); err != nil {
			return err
		}
	}
	sameTracks := slices.EqualFunc(l.tracks, last.lists.tracks, func(a, b []any) bool { return reflect.DeepEqual(a, b) })
	if !sameTracks {
		if err := errors.Join(perform(w.noTracks, nil), perform(w.track, l.tracks...)); err != nil {
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
func (w *writer) forgetCovered(cp *connector.Checkpoint) error {
	rows, err := w.points.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	// A mapping with a track is asked about by itself, at the same positions as the others.
	all, byMapping := runs{}, map[string]*runs{}
	for i := range cp.Tracks {
		byMapping[cp.Tracks[i].Mapping] = &runs{}
	}
	for rows.Next() {
		var p storedPosition
		var k connector.RecordKey
		if err := rows.Scan(&p.lsn, &p.idx, &k.Mapping); err != nil {
			return err
		}
		k.Position = connector.Position{Commit: unsigned(p.lsn), Index: p.idx}
		r := byMapping[k.Mapping]
		if r == nil {
			r = &all
		}
		r.add(p, cp.CoversRecord(k))
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	names, err := json.Marshal(slices.AppendSeq([]string{}, maps.Keys(byMapping))) // not null, which nothing is "not in"
	if err != nil {
		return err
	}
	for _, r := range all.list {
		if err := perform(w.forget, []any{r.from.lsn, int64(r.from.idx), r.to.lsn, int64(r.to.idx), string(names)}); err != nil {
			return err
		}
	}
	for name, own := range byMapping {
		for _, r := range own.list {
			if err := perform(w.forgetOf, []any{r.from.lsn, int64(r.from.idx), r.to.lsn, int64(r.to.idx), name}); err != nil {
				return err
			}
		}
	}
	return nil
}
