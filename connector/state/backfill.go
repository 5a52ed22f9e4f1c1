package state

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

var _ connector.BackfillStore = (*Store)(nil)

// The statements of rows of backfills.
const (
	putRow = `INSERT INTO backfill_row (backfill, row_key, number, mapping, commit_lsn, idx, applied) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (backfill, row_key, number) DO UPDATE SET applied = excluded.applied, commit_lsn = excluded.commit_lsn, idx = excluded.idx`
	whereRow = " WHERE backfill = ? AND row_key = ? AND number = ?"
	applyRow = "UPDATE backfill_row SET applied = 1" + whereRow
	voidRow  = "DELETE FROM backfill_row" + whereRow
)

// rowArgs are the arguments of putRow but the last.
func rowArgs(id connector.RecordID) []any {
	return []any{id.Backfill, []byte(id.Row), int64(id.Number), id.Mapping, signed(id.Position.Commit), int64(id.Position.Index)}
}

func (s *Store) rowOutcome(id connector.RecordID, applied bool) {
	statement := voidRow
	if applied {
		statement = applyRow
	}
	s.w.q.put(&operation{apply: func(w *writer) error { return w.exec(statement, id.Backfill, []byte(id.Row), int64(id.Number)) }})
}

const backfillColumns = `id, mapping, schema_name, table_name, condition, since, row_limit, rows_per_second, initial, status, reason, asked, fingerprint,
	created, started, ended, progress`

func scanBackfill(row scanner) (*connector.Backfill, error) {
	b := &connector.Backfill{}
	var since []byte
	var created, started, ended sql.NullInt64
	var initial int64
	var progress string
	if err := row.Scan(&b.ID, &b.Mapping, &b.Schema, &b.Name, &b.Where, &since, &b.Limit, &b.RowsPerSecond, &initial, &b.Status, &b.Reason, &b.Asked, &b.Fingerprint,
		&created, &started, &ended, &progress); err != nil {
		return nil, err
	}
	b.Since, b.Initial = string(since), initial != 0
	b.Created, b.Started, b.Ended = fromStamp(created), fromStamp(started), fromStamp(ended)
	if err := json.Unmarshal([]byte(progress), &b.BackfillProgress); err != nil {
		return nil, &damage{fmt.Errorf("the progress of backfill %d can't be decoded", b.ID)}
	}
	return b, nil
}

// Backfills gives the backfills that have not ended, by age.
func (r *Reader) Backfills(ctx context.Context) ([]*connector.Backfill, error) {
	return list(ctx, r, "SELECT "+backfillColumns+" FROM backfill WHERE ended IS NULL ORDER BY id", scanBackfill)
}

// AllBackfills gives all that are known, those that have ended too, by age.
func (r *Reader) AllBackfills(ctx context.Context) ([]*connector.Backfill, error) {
	return list(ctx, r, "SELECT "+backfillColumns+" FROM backfill ORDER BY id", scanBackfill)
}

// ErrNoBackfill says that there is no backfill with that id.
var ErrNoBackfill = errors.New("there is no backfill with that id")

// Backfill gives one.
func (r *Reader) Backfill(ctx context.Context, id int64) (*connector.Backfill, error) {
	found, err := list(ctx, r, "SELECT "+backfillColumns+" FROM backfill WHERE id = ?", scanBackfill, id)
	if err == nil && len(found) == 0 {
		return nil, fmt.Errorf("%w: %d (`tuzhan-cdc backfill list` shows all)", ErrNoBackfill, id)
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

const addBackfill = `INSERT INTO backfill (mapping, schema_name, table_name, condition, since, row_limit, rows_per_second, initial, status, reason, asked, fingerprint,
	created, progress) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', '', '', ?, ?)`

func addArgs(b *connector.Backfill) ([]any, error) {
	var since []byte
	if b.Since != "" {
		since = []byte(b.Since)
	}
	progress, err := json.Marshal(b.BackfillProgress)
	return []any{b.Mapping, b.Schema, b.Name, clean(b.Where), since, b.Limit, int64(b.RowsPerSecond), flag(b.Initial), string(connector.BackfillQueued), stamp(b.Created), string(progress)}, err
}

// AddBackfill leaves a backfill in a state, for the running connector or the next one, and gives its id. It may be called beside a running connector.
func AddBackfill(ctx context.Context, at Location, b *connector.Backfill) (id int64, err error) {
	args, err := addArgs(b)
	if err != nil {
		return 0, err
	}
	err = beside(ctx, at, func(r *Reader, db *sql.DB) error {
		return db.QueryRowContext(ctx, r.sql(addBackfill+" RETURNING id"), args...).Scan(&id)
	})
	return id, err
}

// AskBackfill asks for a backfill to be paused, resumed or cancelled: one of the Ask texts of the connector.
func AskBackfill(ctx context.Context, at Location, id int64, what string) error {
	return beside(ctx, at, func(r *Reader, db *sql.DB) error {
		_, err := db.ExecContext(ctx, r.sql("UPDATE backfill SET asked = ? WHERE id = ? AND ended IS NULL"), what, id)
		return err
	})
}

// beside writes into a state beside the running connector.
func beside(ctx context.Context, at Location, do func(*Reader, *sql.DB) error) error {
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
	return fault("writing", r.place, do(r, db))
}

// AddInitial adds backfills that source.snapshot asks for, but those of mappings that had one.
func (s *Store) AddInitial(ctx context.Context, backfills []*connector.Backfill) error {
	return s.w.q.do(ctx, func(w *writer) error {
		had := map[string]bool{}
		if err := w.medium.query("SELECT mapping FROM backfill WHERE initial = 1", func(row scanner) error {
			var name string
			err := row.Scan(&name)
			had[name] = true
			return err
		}); err != nil {
			return err
		}
		for _, b := range backfills {
			if had[b.Mapping] {
				continue
			}
			args, err := addArgs(b)
			if err == nil {
				err = w.exec(addBackfill, args...)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// SaveBackfill stores how a backfill stands.
func (s *Store) SaveBackfill(ctx context.Context, b *connector.Backfill, done string) error {
	args, err := saveArgs(b, done)
	if err != nil {
		return fault("writing", s.place, err)
	}
	return s.w.q.do(ctx, func(w *writer) error { return w.saveBackfill(b, args) })
}

func (w *writer) saveBackfill(b *connector.Backfill, args []any) error {
	for _, n := range b.Notes {
		if err := w.noteRow(b.ID, n); err != nil {
			return err
		}
	}
	return w.exec(saveBackfill, args...)
}

// noteRow notes what the stream has given a row.
func (w *writer) noteRow(backfill int64, n connector.RowNote) error {
	row, from := []byte(n.Row), []byte(n.From)
	switch {
	case n.From == "":
		return w.exec("INSERT INTO backfill_given (backfill, row_key, given) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", backfill, row, int64(n.Given))
	case n.Again:
		return w.exec("INSERT INTO backfill_given (backfill, row_key, given) SELECT backfill, ?, given FROM backfill_given WHERE backfill = ? AND row_key = ? ON CONFLICT DO NOTHING", row, backfill, from)
	}
	if err := w.exec("DELETE FROM backfill_given WHERE backfill = ? AND row_key = ?", backfill, row); err != nil {
		return err
	}
	return w.exec("UPDATE backfill_given SET row_key = ? WHERE backfill = ? AND row_key = ?", row, backfill, from)
}

// GivenRows tells what the stream has given rows of a backfill.
func (s *Store) GivenRows(ctx context.Context, backfill int64, rows []string) (map[string][]uint64, error) {
	among, keys, err := s.amongKeys(rows)
	if err != nil {
		return nil, err
	}
	type note struct {
		key   []byte
		given int64
	}
	found, err := list(ctx, s.Reader, "SELECT row_key, given FROM backfill_given WHERE backfill = ?"+among, func(sc scanner) (n note, err error) {
		err = sc.Scan(&n.key, &n.given)
		return n, err
	}, backfill, keys)
	given := make(map[string][]uint64, len(found))
	for _, n := range found {
		given[string(n.key)] = append(given[string(n.key)], uint64(n.given))
	}
	return given, err
}

// amongKeys is a condition that row_key is one of rows, and its argument.
func (s *Store) amongKeys(rows []string) (condition string, arg any, err error) {
	keys := make([]string, len(rows))
	for i, r := range rows {
		keys[i] = hex.EncodeToString([]byte(r))
	}
	b, err := json.Marshal(keys)
	if s.server {
		return " AND row_key IN (SELECT decode(value, 'hex') FROM json_array_elements_text(?::json))", string(b), err
	}
	return " AND row_key IN (SELECT unhex(value) FROM json_each(?))", string(b), err
}

const saveBackfill = `UPDATE backfill SET status = ?, reason = ?, fingerprint = ?, started = ?, ended = ?, progress = ?,
	asked = CASE WHEN asked = ? THEN '' ELSE asked END WHERE id = ?`

func saveArgs(b *connector.Backfill, done string) ([]any, error) {
	slices.SortFunc(b.Again, func(x, y connector.RowBytes) int { return slices.Compare(x, y) })
	progress, err := json.Marshal(b.BackfillProgress)
	return []any{string(b.Status), clean(b.Reason), b.Fingerprint, stamp(b.Started), stamp(b.Ended), string(progress), done, b.ID}, err
}

// EndBackfill stores the end of a backfill, and forgets its rows.
func (s *Store) EndBackfill(ctx context.Context, b *connector.Backfill, done string) error {
	args, err := saveArgs(b, done)
	if err != nil {
		return fault("writing", s.place, err)
	}
	if err := s.w.q.do(ctx, func(w *writer) error {
		if err := w.setUnansweredAside(b, nil, fmt.Sprintf("its backfill (%d) is %s", b.ID, b.Status)); err != nil {
			return err
		}
		return w.saveBackfill(b, args)
	}); err != nil {
		return err
	}
	return s.forgetRows(ctx)
}

// setUnansweredAside makes letters of a backfill's points that have an intent and no outcome: of one row, or (nil) of all.
func (w *writer) setUnansweredAside(b *connector.Backfill, row []byte, why string) error {
	letters, err := w.unansweredRows(b, row, why)
	if err != nil || len(letters) == 0 {
		return err
	}
	stored, err := w.stored(letters)
	if err == nil {
		err = w.setAside(stored)
	}
	w.unanswered = append(w.unanswered, letters...)
	return err
}

func (w *writer) unansweredRows(b *connector.Backfill, of []byte, why string) (letters []*connector.DeadLetter, err error) {
	query, args := "SELECT row_key, number, commit_lsn, idx FROM backfill_row WHERE backfill = ? AND applied = 0", []any{b.ID}
	if of != nil {
		query, args = query+" AND row_key = ?", append(args, of)
	}
	err = w.medium.query(query, func(row scanner) error {
		id := connector.RecordID{Mapping: b.Mapping, Backfill: b.ID}
		var key []byte
		var number, lsn, idx int64
		if err := row.Scan(&key, &number, &lsn, &idx); err != nil {
			return err
		}
		id.Row, id.Number, id.Position = string(key), int(number), connector.Position{Commit: unsigned(lsn), Index: uint32(idx)}
		letters = append(letters, &connector.DeadLetter{RecordID: id, Class: connector.ClassUncertain, Kind: connector.Point, Table: b.Table(), Attempts: 1,
			Created: time.Now().UTC(), Reason: fmt.Sprintf("the connector stopped between sending this point and reading the answer, and %s: its row is not read again; the payload is not known: look the customer's points up on the platform", why)})
		return nil
	}, args...)
	return letters, err
}

// forgetRows deletes what is known of rows of backfills that have ended.
func (s *Store) forgetRows(ctx context.Context) error {
	return errors.Join(s.forget(ctx, "backfill_row", "number"), s.forget(ctx, "backfill_given", "given"))
}

// forget deletes the rows of backfills that have ended from a table, some at a time so that nobody waits long. third is what tells them apart beside backfill
// and row_key.
func (s *Store) forget(ctx context.Context, table, third string) error {
	for {
		type key struct {
			backfill int64
			row      []byte
			third    int64
		}
		rows, err := list(ctx, s.Reader, "SELECT r.backfill, r.row_key, r."+third+" FROM "+table+" r JOIN backfill b ON b.id = r.backfill WHERE b.ended IS NOT NULL LIMIT 2000",
			func(row scanner) (k key, err error) {
				err = row.Scan(&k.backfill, &k.row, &k.third)
				return k, err
			})
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := s.w.q.do(ctx, func(w *writer) error {
			for _, k := range rows {
				if err := w.exec("DELETE FROM "+table+" WHERE backfill = ? AND row_key = ? AND "+third+" = ?", k.backfill, k.row, k.third); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

// KnownRows tells what is known of rows of a backfill; rows nil: of any one.
func (s *Store) KnownRows(ctx context.Context, backfill int64, rows []string) (map[string]connector.Known, error) {
	query, args := "SELECT row_key, applied FROM backfill_row WHERE backfill = ?", []any{backfill}
	if rows == nil {
		query += " LIMIT 1"
	} else {
		among, keys, err := s.amongKeys(rows)
		if err != nil {
			return nil, err
		}
		query, args = query+among, append(args, keys)
	}
	type row struct {
		key     []byte
		applied int64
	}
	found, err := list(ctx, s.Reader, query, func(sc scanner) (r row, err error) {
		err = sc.Scan(&r.key, &r.applied)
		return r, err
	}, args...)
	known := make(map[string]connector.Known, len(found))
	for _, r := range found {
		if r.applied != 0 {
			known[string(r.key)] = connector.Applied
		} else if known[string(r.key)] == connector.Unknown {
			known[string(r.key)] = connector.Intended
		}
	}
	return known, err
}

// MoveRows notes what is known of rows under their new keys.
func (s *Store) MoveRows(ctx context.Context, b *connector.Backfill, moves []connector.RowMove) error {
	args, err := saveArgs(b, "")
	if err != nil {
		return fault("writing", s.place, err)
	}
	return s.w.q.do(ctx, func(w *writer) error {
		for _, m := range moves {
			// Where something is known under the new key, it is of a row that has gone.
			if err := w.setUnansweredAside(b, m.To, "another row has its key now"); err != nil {
				return err
			}
			if err := w.exec("DELETE FROM backfill_row WHERE backfill = ? AND row_key = ?", b.ID, []byte(m.To)); err != nil {
				return err
			}
			if err := w.exec("UPDATE backfill_row SET row_key = ? WHERE backfill = ? AND row_key = ?", []byte(m.To), b.ID, []byte(m.From)); err != nil {
				return err
			}
		}
		return w.saveBackfill(b, args)
	})
}
