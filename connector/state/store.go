package state

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Location says where a state is kept: in a file, or in a PostgreSQL database. Exactly one of the two is set. It prints without secrets.
type Location struct {
	// Path is the SQLite file; a relative one counts from the working directory.
	Path string
	// DSN is the connection string of a PostgreSQL database, as pgx reads it; the state is its schema tuzhan_cdc.
	DSN string
	// KeyFile, where it is set, names the file with the key that encrypts what dead letters hold of customers: 32 bytes, raw or in hex or base64.
	KeyFile string
}

// String names the place: "file PATH", or "database HOST:PORT/NAME".
func (l Location) String() string {
	if l.DSN != "" {
		return databasePlace(l.DSN)
	}
	return "file " + l.Path
}

// GoString is as String.
func (l Location) GoString() string { return l.String() }

// Options are the settings of Open.
type Options struct {
	// Logger is required.
	Logger *slog.Logger
	// LockWait is how long Open waits for another process that writes this state to end, and for a server to be in reach; 0: it fails at once,
	// Forever: it waits until its ctx ends. It says in the log what it waits for, every 30 s.
	LockWait time.Duration
}

// Forever is a LockWait without end: that of a standby.
const Forever time.Duration = -1

// Stats are counters since Open.
type Stats struct {
	// Commits is the number of transactions written, which is the number of fsyncs but for SQLite's own checkpoints of its WAL
	// (about two more for each 4 MB written).
	Commits uint64
	// Operations is the number of calls whose effect they hold.
	Operations uint64
	// Failures is the number of transactions that could not be written.
	Failures uint64
}

// Store is an open state: the connector.Store of the running connector, and all that Reader gives. Make it with Open, and
// end it with Close. Safe for concurrent use.
type Store struct {
	*Reader
	w     *writer
	watch watch

	closing sync.Once
	done    chan struct{} // closed when the writer's goroutine has ended
	err     error         // the writer's last word; read after done
	closed  error
}

var _ connector.Store = (*Store)(nil)

// Open opens the state for the running connector, and makes it where it is missing; a file's directory must be there. An older
// version is migrated in place, a newer one is refused (ErrNewer), so is one that is damaged or another program's (ErrDamaged);
// nothing is changed in what is refused. While the process lives, another Open of the same state waits, or fails (ErrLocked).
//
// It starts the goroutine that writes; Close stops it and waits for it. ctx bounds the opening only.
func Open(ctx context.Context, at Location, o Options) (*Store, error) {
	w := &writer{log: o.Logger, q: newQueue(), stop: make(chan struct{})}
	var r *Reader
	seal, err := loadKey(at.KeyFile)
	if err != nil {
		return nil, err
	}
	if at.DSN != "" {
		w.medium, r, err = openServer(ctx, at, o)
	} else {
		w.medium, r, err = openFile(ctx, at.Path, o)
	}
	if err != nil {
		return nil, fault("opening", at.String(), err)
	}
	w.place, r.seal = r.place, seal
	insist := func(what func() error) error { // a server may go away just now
		return patience{o, w.place}.until(ctx, func() (busy, err error) {
			if err = what(); r.server && passing(err) && ctx.Err() == nil {
				return fault("opening", w.place, err), nil
			}
			return nil, err
		})
	}
	if err = insist(func() (err error) {
		w.now.checkpoint, w.now.lists, err = r.readCheckpoint(ctx, r.db)
		return err
	}); err != nil {
		return nil, errors.Join(fault("opening", w.place, err), r.Close(), w.medium.close())
	}
	s := &Store{Reader: r, w: w, done: make(chan struct{})}
	w.stored = s.storedLetters
	go func() {
		defer close(s.done)
		s.err = w.run()
	}()
	if err = insist(func() error { return s.putKey(ctx) }); err == nil {
		err = insist(func() error { return s.watchOpen(ctx) })
	}
	if err != nil {
		return nil, errors.Join(fault("opening", w.place, err), s.Close())
	}
	return s, nil
}

// Close writes what is queued, and ends. Later calls of other methods fail with ErrClosed. The error says what could not be stored.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.w.q.close()
		close(s.w.stop)
		<-s.done
		// The writing connection goes last: of a file, it then takes the -wal file with it.
		s.closed = errors.Join(s.err, s.Reader.Close(), s.w.medium.close())
	})
	return s.closed
}

// Lost waits until ctx ends, and then gives nil, or until the state is this process's no longer: another process has taken it over after the
// connection to its server was lost (ErrTaken), or the server came back without what it had stored (ErrDamaged). Nothing can be written from then on.
func (s *Store) Lost(ctx context.Context) error {
	lost, err := s.w.medium.lost()
	select {
	case <-ctx.Done():
		return nil
	case <-lost:
		return err()
	}
}

// Stats gives the counters.
func (s *Store) Stats() Stats {
	return Stats{Commits: s.w.commits.Load(), Operations: s.w.operations.Load(), Failures: s.w.failures.Load()}
}

// SaveCheckpoint writes the checkpoint and forgets the points that it covers; dead letters stay. cp must not be changed afterwards. A
// checkpoint of another lineage, or one that goes back in Settled or Flush, is refused (ErrRefused).
func (s *Store) SaveCheckpoint(ctx context.Context, cp *connector.Checkpoint) error {
	l, err := encodeLists(cp)
	if err != nil {
		return fault("writing", s.place, err)
	}
	return s.w.q.do(ctx, func(w *writer) error { return w.saveCheckpoint(cp, l) })
}

// Intend notes that points are about to be sent. A point that is known already is intended again, its outcome open.
func (s *Store) Intend(ctx context.Context, ids []connector.RecordID) error {
	if len(ids) == 0 {
		return nil
	}
	var points, rows [][]any
	for _, id := range ids {
		if id.Row != "" {
			rows = append(rows, append(rowArgs(id), 0))
		} else {
			points = append(points, keyArgs(id.Key()))
		}
	}
	return s.w.q.do(ctx, func(w *writer) error {
		if err := w.each(intendPoint, points...); err != nil {
			return err
		}
		return w.each(putRow, rows...)
	})
}

// Outcome notes the outcome of an intended point. It never blocks and never fails: what can't be written is kept in memory, tried again
// until Close, and written before anything that was called later. There are at most as many as intents that are on the disk.
// After Close it does nothing: the point is then uncertain at the next start.
func (s *Store) Outcome(id connector.RecordID, applied bool) {
	if id.Row != "" {
		s.rowOutcome(id, applied)
		return
	}
	point := keyArgs(id.Key())
	s.w.q.put(&operation{apply: func(w *writer) error {
		if applied {
			return w.exec(applyPoint, point...)
		}
		return w.exec(voidPoint, point...)
	}})
}

// Rebase writes a checkpoint of another lineage, or one that goes back, over the one that is there: after the operator has decided, or where a
// new history is known to hold all that was settled. The letters (of points that are left with an intent and no outcome) and the gap (nil: none) are
// stored in the same commit. Intents and outcomes of points from the commit LSN `cut` on are forgotten (0: of all).
func (s *Store) Rebase(ctx context.Context, cp *connector.Checkpoint, letters []*connector.DeadLetter, gap *connector.Gap, cut connector.LSN) error {
	l, err := encodeLists(cp)
	if err != nil {
		return fault("writing", s.place, err)
	}
	stored, err := s.storedLetters(letters)
	if err != nil {
		return fault("writing", s.place, err)
	}
	return s.w.q.do(ctx, func(w *writer) error {
		if err := w.setAside(stored); err != nil {
			return err
		}
		if gap != nil {
			if err := w.putGap(*gap); err != nil {
				return err
			}
		}
		if err := w.forgetFrom(cut); err != nil {
			return err
		}
		return w.putCheckpoint(cp, l)
	})
}

// SavePublished notes the tables that are published, in place of those that were noted before.
func (s *Store) SavePublished(ctx context.Context, tables []connector.Published) error {
	return s.w.q.do(ctx, func(w *writer) error {
		if err := w.exec("DELETE FROM published"); err != nil {
			return err
		}
		for _, t := range tables {
			if err := w.exec("INSERT INTO published (schema_name, table_name, oid, member, seen_lsn) VALUES (?, ?, ?, ?, ?)",
				t.Schema, t.Name, int64(t.OID), t.Member, signed(t.Seen)); err != nil {
				return err
			}
		}
		return nil
	})
}

// AddGap records a gap for good. A gap of a table takes the place of an earlier one that began at the same LSN.
func (s *Store) AddGap(ctx context.Context, gap connector.Gap) error {
	return s.w.q.do(ctx, func(w *writer) error { return w.putGap(gap) })
}

// Done deletes requests that were carried out.
func (s *Store) Done(ctx context.Context, ids ...int64) error {
	return s.w.q.do(ctx, func(w *writer) error {
		for _, id := range ids {
			if err := w.exec("DELETE FROM request WHERE id = ?", id); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetAside stores dead letters; those of one call all or none. The letters are not changed (their ID stays 0) and must not
// be changed afterwards.
func (s *Store) SetAside(ctx context.Context, letters []*connector.DeadLetter) error {
	if len(letters) == 0 {
		return nil
	}
	stored, err := s.storedLetters(letters)
	if err != nil {
		return fault("writing", s.place, err)
	}
	return s.w.q.do(ctx, func(w *writer) error { return w.setAside(stored) })
}

func (s *Store) storedLetters(letters []*connector.DeadLetter) ([]storedLetter, error) {
	stored := make([]storedLetter, len(letters))
	for i, l := range letters {
		key := l.Key()
		answer, err := s.storedAnswer(l)
		if err != nil {
			return nil, err
		}
		stored[i].insert = []any{string(l.Class), l.Kind.String(), l.Mapping, l.Table, signed(l.Position.Commit), int64(l.Position.Index), int64(l.Number),
			key.CommitTime, s.seal.seal(l.Payload), clean(l.Envelope), clean(l.OptType), encodeHashes(l.Keys), flag(l.Decrease), s.seal.seal(l.Change), clean(l.Reason),
			int64(l.Attempts), answer, stamp(l.Created), stamp(l.Closed), clean(l.Resolution), flag(l.Uncounted)}
		switch {
		case l.Row != "":
			stored[i].row = append(rowArgs(l.RecordID), 1)
		case l.Kind == connector.Point:
			stored[i].point = keyArgs(key)
		}
		stored[i].overtaken = func() bool { return l.Overtaken }
		if l.Kind == connector.GroupRelation && len(l.Keys) > 0 && l.Closed.IsZero() && !l.Overtaken {
			stored[i].overtaken = func() bool { return true } // nobody watches it
			if v := s.watch.add(key, l.Keys, false); v != nil {
				stored[i].overtaken = func() bool { return s.watch.writing(v) }
			}
		}
	}
	return stored, nil
}
