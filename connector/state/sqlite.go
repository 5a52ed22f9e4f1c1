package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Options are the settings of Open.
type Options struct {
	// Logger is required.
	Logger *slog.Logger
	// LockWait is how long Open waits for another process that writes this state to end; 0: it fails at once.
	LockWait time.Duration
}

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

// SQLite is the state in one SQLite file: the connector.Store of the running connector, and all that Reader gives. Make it with Open, and
// end it with Close. Safe for concurrent use.
type SQLite struct {
	*Reader
	w    *writer
	db   *sql.DB
	lock *os.File

	closing sync.Once
	done    chan struct{} // closed when the writer's goroutine has ended
	err     error         // the writer's last word; read after done
	closed  error
}

var _ connector.Store = (*SQLite)(nil)

// Open opens the state file at path for the running connector, and makes it where it is missing; its directory must be there. An older
// version is migrated in place, a newer one is refused (ErrNewer), so is a file that is damaged or another program's (ErrDamaged);
// nothing is changed in a file that is refused. While the process lives, another Open of the same file fails (ErrLocked).
//
// It starts the goroutine that writes; Close stops it and waits for it. ctx bounds the opening only.
func Open(ctx context.Context, path string, o Options) (*SQLite, error) {
	path, err := resolve(path)
	if err != nil {
		return nil, err
	}
	lock, err := acquire(ctx, path, o.LockWait)
	if err != nil {
		return nil, fault("opening", path, err)
	}
	s := &SQLite{lock: lock, done: make(chan struct{})}
	if err := s.open(ctx, path, o); err != nil {
		if s.db != nil {
			s.db.Close()
		}
		lock.Close()
		return nil, fault("opening", path, err)
	}
	go func() {
		defer close(s.done)
		s.err = s.w.run()
	}()
	return s, nil
}

func (s *SQLite) open(ctx context.Context, path string, o Options) (err error) {
	file, err := establish(path, o.Logger)
	if err != nil {
		return err
	}
	if s.db, err = sql.Open("sqlite", dsn(path, "rw")); err != nil {
		return err
	}
	s.db.SetMaxOpenConns(1)
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	w := &writer{path: path, log: o.Logger, conn: conn, file: file, q: newQueue(), stop: make(chan struct{})}
	defer func() {
		if err != nil {
			w.close() // err says more
		}
	}()
	// Nothing may be written before the file is known to be ours and sound.
	version, err := identify(ctx, conn, path, schemaVersion)
	if err != nil {
		return err
	}
	if err := writable(conn); err != nil {
		return err
	}
	if version > 0 {
		if err := check(ctx, conn, path, file.Size()); err != nil {
			return err
		}
	}
	if err := configure(ctx, conn, path); err != nil {
		return err
	}
	if err := migrate(ctx, conn, version, migrations()); err != nil {
		return err
	}
	if w.now.checkpoint, w.now.lists, err = readCheckpoint(ctx, conn); err != nil {
		return err
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	s.w, s.Reader = w, newReader(path)
	return nil
}

// Close writes what is queued, and ends. Later calls of other methods fail with ErrClosed. The error says what could not be stored.
func (s *SQLite) Close() error {
	s.closing.Do(func() {
		s.w.q.close()
		close(s.w.stop)
		<-s.done
		// The writing connection goes last: it then takes the -wal file with it.
		s.closed = errors.Join(s.err, s.Reader.Close(), s.w.close(), s.db.Close(), s.lock.Close())
	})
	return s.closed
}

// Stats gives the counters.
func (s *SQLite) Stats() Stats {
	return Stats{Commits: s.w.commits.Load(), Operations: s.w.operations.Load(), Failures: s.w.failures.Load()}
}

// SaveCheckpoint writes the checkpoint and forgets the points that it covers; dead letters stay. cp must not be changed afterwards. A
// checkpoint of another lineage, or one that goes back in Settled or Flush, is refused (ErrRefused).
func (s *SQLite) SaveCheckpoint(ctx context.Context, cp *connector.Checkpoint) error {
	l, err := encodeLists(cp)
	if err != nil {
		return fault("writing", s.path, err)
	}
	return s.w.q.do(ctx, func(w *writer) error { return w.saveCheckpoint(cp, l) })
}

// Intend notes that points are about to be sent. A point that is known already is intended again, its outcome open.
func (s *SQLite) Intend(ctx context.Context, ids []connector.RecordID) error {
	if len(ids) == 0 {
		return nil
	}
	points := make([][]any, len(ids))
	for i, id := range ids {
		points[i] = keyArgs(id.Key())
	}
	return s.w.q.do(ctx, func(w *writer) error { return perform(w.intend, points...) })
}

// Outcome notes the outcome of an intended point. It never blocks and never fails: what can't be written is kept in memory, tried again
// until Close, and written before anything that was called later. There are at most as many as intents that are on the disk.
// After Close it does nothing: the point is then uncertain at the next start.
func (s *SQLite) Outcome(id connector.RecordID, applied bool) {
	point := keyArgs(id.Key())
	s.w.q.put(&operation{apply: func(w *writer) error {
		if applied {
			return perform(w.applied, point)
		}
		return perform(w.void, point)
	}})
}

// Rebase writes a checkpoint of another lineage, or one that goes back, over the one that is there: after the operator has decided, or where a
// new history is known to hold all that was settled. The letters (of points that are left with an intent and no outcome) and the gap (nil: none) are
// stored in the same commit. Intents and outcomes of points from the commit LSN `cut` on are forgotten (0: of all).
func (s *SQLite) Rebase(ctx context.Context, cp *connector.Checkpoint, letters []*connector.DeadLetter, gap *connector.Gap, cut connector.LSN) error {
	l, err := encodeLists(cp)
	if err != nil {
		return fault("writing", s.path, err)
	}
	stored, err := storedLetters(letters)
	if err != nil {
		return fault("writing", s.path, err)
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
func (s *SQLite) SavePublished(ctx context.Context, tables []connector.Published) error {
	return s.w.q.do(ctx, func(w *writer) error {
		ctx := context.Background()
		if _, err := w.conn.ExecContext(ctx, "DELETE FROM published"); err != nil {
			return err
		}
		for _, t := range tables {
			if _, err := w.conn.ExecContext(ctx, "INSERT INTO published (schema_name, table_name, oid, member, seen_lsn) VALUES (?, ?, ?, ?, ?)",
				t.Schema, t.Name, int64(t.OID), t.Member, signed(t.Seen)); err != nil {
				return err
			}
		}
		return nil
	})
}

// AddGap records a gap for good. A gap of a table takes the place of an earlier one that began at the same LSN.
func (s *SQLite) AddGap(ctx context.Context, gap connector.Gap) error {
	return s.w.q.do(ctx, func(w *writer) error { return w.putGap(gap) })
}

// Done deletes requests that were carried out.
func (s *SQLite) Done(ctx context.Context, ids ...int64) error {
	return s.w.q.do(ctx, func(w *writer) error {
		for _, id := range ids {
			if _, err := w.conn.ExecContext(context.Background(), "DELETE FROM request WHERE id = ?", id); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetAside stores dead letters; those of one call all or none. The letters are not changed (their ID stays 0) and must not
// be changed afterwards.
func (s *SQLite) SetAside(ctx context.Context, letters []*connector.DeadLetter) error {
	if len(letters) == 0 {
		return nil
	}
	stored, err := storedLetters(letters)
	if err != nil {
		return fault("writing", s.path, err)
	}
	return s.w.q.do(ctx, func(w *writer) error { return w.setAside(stored) })
}

func storedLetters(letters []*connector.DeadLetter) ([]storedLetter, error) {
	stored := make([]storedLetter, len(letters))
	for i, l := range letters {
		key := l.Key()
		var answer any
		if l.Answer != nil {
			b, err := json.Marshal(l.Answer)
			if err != nil {
				return nil, err
			}
			answer = string(b)
		}
		stored[i].insert = []any{string(l.Class), l.Kind.String(), l.Mapping, l.Table, signed(l.Position.Commit), int64(l.Position.Index), int64(l.Number),
			key.CommitTime, []byte(l.Payload), l.Envelope, l.OptType, encodeHashes(l.Keys), l.Decrease, []byte(l.Change), l.Reason,
			int64(l.Attempts), answer, stamp(l.Created), stamp(l.Closed), l.Resolution, l.Uncounted}
		if l.Kind == connector.Point {
			stored[i].point = keyArgs(key)
		}
	}
	return stored, nil
}

// resolve gives the absolute path without symbolic links, so that one file has one lock, by whatever path it is named.
func resolve(path string) (string, error) {
	fail := func(path, cure string, err error) (string, error) {
		return "", &Error{Op: "opening", Path: path, Err: err, Cure: cure}
	}
	if path == "" {
		return fail(path, "set state.path", errors.New("no path is given"))
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return fail(path, "give state.path as an absolute path", err)
	}
	real, err := filepath.EvalSymlinks(absolute)
	if err == nil {
		return real, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fail(absolute, "", err)
	}
	if _, err := os.Lstat(absolute); err == nil {
		return fail(absolute, "mend or remove the link", errors.New("it is a symbolic link to a file that is not there"))
	}
	directory, err := filepath.EvalSymlinks(filepath.Dir(absolute))
	if errors.Is(err, fs.ErrNotExist) {
		return fail(absolute, "make it, and give it to the connector's user: mkdir -p -m 700 "+filepath.Dir(absolute),
			fmt.Errorf("its directory %s is not there: %w", filepath.Dir(absolute), err))
	} else if err != nil {
		return fail(absolute, "", err)
	}
	return filepath.Join(directory, filepath.Base(absolute)), nil
}

// establish makes the file where it is missing, and looks at one that is there from outside. It does not open an existing file: to close it
// again would drop the locks that SQLite holds on it for another connection of this process (POSIX locks end so).
func establish(path string, log *slog.Logger) (os.FileInfo, error) {
	file, err := os.Stat(path)
	if err == nil && !file.Mode().IsRegular() {
		return nil, &Error{Op: "opening", Path: path, Err: errors.New("it is not a regular file"), Cure: "let state.path name a file"}
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && file.Size() == 0 {
		// SQLite takes a WAL beside an empty file for rubbish and deletes it. It may be all that is left.
		if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
			return nil, &Error{Op: "opening", Path: path, Err: fmt.Errorf("%w: %s-wal is there without it", ErrDamaged, path),
				Cure: "put back the file that belongs to it; where it is lost, move the -wal file away too and start anew"}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return create(path)
	}
	if err != nil {
		return nil, err
	}
	if file.Mode().Perm()&0o077 != 0 {
		log.Warn("other users may read the state file, which holds payloads", "path", path, "mode", file.Mode().Perm().String(), "cure", "chmod 600 "+path)
	}
	return file, nil
}

// create makes the empty file and makes its name durable: SQLite syncs the directory for its own files only.
func create(path string) (os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	directory, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	if err := directory.Sync(); err != nil {
		return nil, fmt.Errorf("syncing the directory: %w", err)
	}
	return f.Stat()
}

// writable reports a file that SQLite could only open for reading: it does so without an error.
func writable(conn *sql.Conn) error {
	return conn.Raw(func(driver any) error {
		c, ok := driver.(interface {
			IsReadOnly(schema string) (bool, error)
		})
		if !ok {
			return fmt.Errorf("the SQLite driver %T can't say whether a file is read-only", driver)
		}
		readOnly, err := c.IsReadOnly("main")
		if err == nil && readOnly {
			return fmt.Errorf("it can only be read: %w", fs.ErrPermission)
		}
		return err
	})
}

// configure sets what the promise of the store rests on: a commit is on the disk when it returns (synchronous FULL in WAL mode), and readers
// never stop the writer (WAL).
func configure(ctx context.Context, conn *sql.Conn, path string) error {
	var mode string
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return &Error{Op: "opening", Path: path, Err: fmt.Errorf("this file system can't do SQLite's WAL mode (journal mode %s)", mode),
			Cure: "put state.path on a local disk, not on a network file system"}
	}
	for _, pragma := range []string{
		"synchronous = FULL",
		"fullfsync = ON",            // macOS: fsync alone does not reach the disk there
		"checkpoint_fullfsync = ON", // likewise
		"journal_size_limit = 8388608",
	} {
		if _, err := conn.ExecContext(ctx, "PRAGMA "+pragma); err != nil {
			return err
		}
	}
	return nil
}
