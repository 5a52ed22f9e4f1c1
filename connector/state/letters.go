package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// A retry is asked for in the letter itself (column retry), by a command beside the running connector or without one, and carried out by whoever
// holds the state. Before a point's request leaves, its letter is of class uncertain on the disk: whenever the process dies, that is the truth.
const (
	retryAsked  = 1
	retryAnyway = 2  // although it is overtaken
	retryTaken  = 8  // by the process that holds the state
	retrySent   = 16 // the request of a point may have left
)

// reasonSent is the reason of a letter whose point is being sent again.
const reasonSent = "it was being sent again, and no outcome is known: if the connector stopped then, it may or may not have been applied"

// commandChunk is how many letters a command changes in one transaction, so that the running connector never waits long.
const commandChunk = 500

// AskRetry asks for open letters to be sent again, by whoever holds the state; anyway: overtaken ones too. Of class uncertain only where checked says
// that the operator has looked. Those that are closed, or asked for already, stay as they are.
func AskRetry(ctx context.Context, at Location, ids []int64, anyway, checked bool) error {
	bits := int64(retryAsked)
	if anyway {
		bits |= retryAnyway
	}
	condition := "closed IS NULL AND retry = 0"
	if !checked {
		condition += " AND class <> '" + string(connector.ClassUncertain) + "'"
	}
	return command(ctx, at, ids, "UPDATE dead_letter SET retry = ?, retried = '' WHERE "+condition, bits)
}

// CancelRetry takes back what AskRetry asked for, of letters that nobody has taken yet.
func CancelRetry(ctx context.Context, at Location, ids []int64) error {
	return command(ctx, at, ids, "UPDATE dead_letter SET retry = 0 WHERE retry < ?", int64(retryTaken))
}

// Drop closes open letters, but for those that are being sent again.
func Drop(ctx context.Context, at Location, ids []int64) error {
	return command(ctx, at, ids, "UPDATE dead_letter SET closed = ?, resolution = ?, retry = 0 WHERE closed IS NULL AND retry < ?",
		stamp(time.Now()), connector.ResolvedDropped, int64(retryTaken))
}

// command runs a statement for letters by their ids, beside the running connector.
func command(ctx context.Context, at Location, ids []int64, query string, args ...any) error {
	r, err := OpenReader(ctx, at)
	if err != nil {
		return err
	}
	defer r.Close()
	db, err := r.writing(at)
	if err != nil {
		return fault("writing", r.place, err)
	}
	defer db.Close()
	for chunk := range slices.Chunk(ids, commandChunk) {
		condition, arg, err := r.among(chunk)
		if err == nil {
			_, err = db.ExecContext(ctx, r.sql(query+" AND "+condition), append(slices.Clone(args), arg)...)
		}
		if err != nil {
			return fault("writing", r.place, err)
		}
	}
	return nil
}

// among gives the condition that a letter is one of ids, and its argument.
func (r *Reader) among(ids []int64) (condition string, arg any, err error) {
	b, err := json.Marshal(ids)
	if r.server {
		return "id IN (SELECT value::bigint FROM json_array_elements_text(?::json))", string(b), err
	}
	return "id IN (SELECT value FROM json_each(?))", string(b), err
}

// ResetRetries brings in order what an earlier process, or pipeline, has left behind: a point that may have left stays a letter of class uncertain, and
// what was not sent is to be taken again.
func (s *Store) ResetRetries(ctx context.Context) error {
	return s.w.q.do(ctx, func(w *writer) error {
		if err := w.exec("UPDATE dead_letter SET retry = 0, retried = ? WHERE retry > 0 AND retry >= ?",
			"the connector stopped while it was being sent again", int64(retrySent)); err != nil {
			return err
		}
		return w.exec("UPDATE dead_letter SET retry = retry - ? WHERE retry > 0 AND retry >= ?", int64(retryTaken), int64(retryTaken))
	})
}

// TakeRetries gives at most limit letters that were asked for to be sent again, by their ids, and notes that this process has them. Each of them ends
// with EndRetry.
func (s *Store) TakeRetries(ctx context.Context, limit int) ([]*connector.DeadLetter, error) {
	const waiting = "retry > 0 AND retry < ? AND closed IS NULL"
	ids, err := list(ctx, s.Reader, "SELECT id FROM dead_letter WHERE "+waiting+" ORDER BY id LIMIT ?", func(row scanner) (id int64, err error) {
		err = row.Scan(&id)
		return id, err
	}, int64(retryTaken), int64(limit))
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	if err := s.w.q.do(ctx, func(w *writer) error {
		for _, id := range ids {
			if err := w.exec("UPDATE dead_letter SET retry = retry + ? WHERE id = ? AND "+waiting, int64(retryTaken), id, int64(retryTaken)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	condition, arg, err := s.among(ids)
	if err != nil {
		return nil, err
	}
	return list(ctx, s.Reader, "SELECT "+letterColumns+" FROM dead_letter WHERE retry >= ? AND closed IS NULL AND "+condition+" ORDER BY id",
		s.scanLetter, int64(retryTaken), arg)
}

// Sending notes that a letter's point is about to be sent again, with this payload: until the retry ends it is of class uncertain.
func (s *Store) Sending(ctx context.Context, l *connector.DeadLetter, payload []byte) error {
	args := []any{string(connector.ClassUncertain), reasonSent, s.seal.seal(payload), int64(retryTaken | retrySent), l.ID}
	return s.w.q.do(ctx, func(w *writer) error {
		return w.exec("UPDATE dead_letter SET class = ?, reason = ?, payload = ?, retry = ? WHERE id = ? AND closed IS NULL", args...)
	})
}

// NotSent takes Sending back: the point was surely not applied. It neither waits nor fails, as Outcome.
func (s *Store) NotSent(l *connector.DeadLetter) {
	bits := int64(retryAsked | retryTaken)
	if l.Anyway {
		bits |= retryAnyway
	}
	args := []any{string(l.Class), clean(l.Reason), s.seal.seal(l.Payload), bits, l.ID}
	s.w.q.put(&operation{apply: func(w *writer) error {
		return w.exec("UPDATE dead_letter SET class = ?, reason = ?, payload = ?, retry = ? WHERE id = ? AND closed IS NULL", args...)
	}})
}

// EndRetry stores what became of a letter that was sent again: class, reason, payload, answer, attempts and Retried; or that it is closed. It does not
// wait for the disk, as Outcome does not; the error is of a letter that can't be written as it is.
func (s *Store) EndRetry(l *connector.DeadLetter) error {
	answer, err := s.storedAnswer(l)
	if err != nil {
		return err
	}
	args := []any{string(l.Class), clean(l.Reason), s.seal.seal(l.Payload), answer, int64(l.Attempts), flag(l.Overtaken),
		stamp(l.Closed), l.Resolution, clean(l.Retried), l.ID}
	s.w.q.put(&operation{apply: func(w *writer) error {
		return w.exec(`UPDATE dead_letter SET class = ?, reason = ?, payload = ?, answer = ?, attempts = ?,
			overtaken = CASE WHEN overtaken = 1 THEN 1 ELSE ? END, closed = ?, resolution = ?, retry = 0, retried = ? WHERE id = ? AND closed IS NULL`, args...)
	}})
	if !l.Closed.IsZero() {
		s.watch.forget(l.Key())
	}
	return nil
}

func (s *Store) storedAnswer(l *connector.DeadLetter) (any, error) {
	if l.Answer == nil {
		return nil, nil
	}
	b, err := json.Marshal(l.Answer)
	return s.seal.sealText(string(b)), err
}

// Forget deletes letters that were closed before a time, and gives how many. One whose change the checkpoint does not cover yet stays: it comes again.
func (s *Store) Forget(ctx context.Context, before time.Time) (deleted int, err error) {
	cp, err := s.Checkpoint(ctx)
	if err != nil || cp == nil {
		return 0, err
	}
	type closed struct {
		id  int64
		key connector.RecordKey
	}
	for after := int64(0); ; {
		const query = "SELECT id, commit_lsn, idx, mapping FROM dead_letter WHERE closed < ? AND id > ? ORDER BY id LIMIT ?"
		page, err := list(ctx, s.Reader, query, func(row scanner) (c closed, err error) {
			var lsn int64
			err = row.Scan(&c.id, &lsn, &c.key.Position.Index, &c.key.Mapping)
			c.key.Position.Commit = unsigned(lsn)
			return c, err
		}, stamp(before), after, int64(commandChunk))
		if err != nil || len(page) == 0 {
			return deleted, err
		}
		after = page[len(page)-1].id
		page = slices.DeleteFunc(page, func(c closed) bool { return !cp.CoversRecord(c.key) })
		if err := s.w.q.do(ctx, func(w *writer) error {
			for _, c := range page {
				if err := w.exec("DELETE FROM dead_letter WHERE id = ? AND closed IS NOT NULL", c.id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return deleted, err
		}
		deleted += len(page)
	}
}

// Tidy deletes what Forget does, and watches only letters that are still open. The running connector calls it now and then.
func (s *Store) Tidy(ctx context.Context, before time.Time) (deleted int, err error) {
	if deleted, err = s.Forget(ctx, before); err == nil {
		err = s.watchOpen(ctx)
	}
	return deleted, err
}

// Retrying counts the letters among ids (nil: all) that were asked for to be sent again and have not ended.
func (r *Reader) Retrying(ctx context.Context, ids []int64) (n int, err error) {
	where, args := []string{"retry > 0", "closed IS NULL"}, []any(nil)
	if ids != nil {
		condition, arg, err := r.among(ids)
		if err != nil {
			return 0, err
		}
		where, args = append(where, condition), []any{arg}
	}
	return read(ctx, r, func() (n int, err error) {
		err = r.db.QueryRowContext(ctx, r.sql("SELECT count(*) FROM dead_letter WHERE "+strings.Join(where, " AND ")), args...).Scan(&n)
		return n, err
	})
}

// scanRetry reads the columns that tell of retries into the letter.
func scanRetry(l *connector.DeadLetter, retry sql.NullInt64) {
	l.Retrying, l.Anyway = retry.Int64 > 0 && l.Closed.IsZero(), retry.Int64&retryAnyway != 0
}
