package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// file is the medium of a state in an SQLite file.
type file struct {
	path   string
	lock   *os.File
	db     *sql.DB
	conn   *sql.Conn
	opened os.FileInfo // the file as it was opened
	stmts  map[string]*sql.Stmt
	failed bool // the connection may still be in the last transaction
}

// openFile opens the file for writing, and a reader beside it.
func openFile(ctx context.Context, path string, o Options) (medium, *Reader, error) {
	path, err := resolve(path)
	if err != nil {
		return nil, nil, err
	}
	lock, err := acquire(ctx, path, o)
	if err != nil {
		return nil, nil, fault("opening", "file "+path, err)
	}
	f := &file{path: path, lock: lock, stmts: map[string]*sql.Stmt{}}
	if err := f.open(ctx, o.Logger); err != nil {
		_ = f.close() // err says more
		return nil, nil, fault("opening", "file "+path, err)
	}
	return f, newFileReader(path), nil
}

func (f *file) open(ctx context.Context, log *slog.Logger) (err error) {
	if f.opened, err = establish(f.path, log); err != nil {
		return err
	}
	if f.db, err = sql.Open("sqlite", dsn(f.path, "rw")); err != nil {
		return err
	}
	f.db.SetMaxOpenConns(1)
	if f.conn, err = f.db.Conn(ctx); err != nil {
		return err
	}
	// Nothing may be written before the file is known to be ours and sound.
	version, err := identify(ctx, f.conn, f.path, schemaVersion)
	if err != nil {
		return err
	}
	if err := writable(f.conn); err != nil {
		return err
	}
	if version > 0 {
		if err := check(ctx, f.conn, f.path, f.opened.Size()); err != nil {
			return err
		}
	}
	if err := configure(ctx, f.conn, f.path); err != nil {
		return err
	}
	return migrate(ctx, f.conn, version, migrations())
}

func (f *file) begin() (landed bool, err error) {
	if f.failed {
		f.rollback()
		f.failed = false
	}
	if err := f.inPlace(); err != nil {
		return false, err
	}
	return false, f.exec(0, "BEGIN IMMEDIATE")
}

// exec prepares each statement once.
func (f *file) exec(_ int, query string, args ...any) error {
	stmt, err := f.stmt(query)
	if err != nil {
		return err
	}
	_, err = stmt.Exec(args...)
	return err
}

func (f *file) query(query string, each func(scanner) error, args ...any) error {
	stmt, err := f.stmt(query)
	if err != nil {
		return err
	}
	rows, err := stmt.Query(args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

func (f *file) stmt(query string) (stmt *sql.Stmt, err error) {
	if stmt = f.stmts[query]; stmt == nil {
		if stmt, err = f.conn.PrepareContext(context.Background(), query); err == nil {
			f.stmts[query] = stmt
		}
	}
	return stmt, err
}

func (f *file) commit() error {
	err := f.exec(0, "COMMIT")
	if err != nil {
		f.rollback()
	}
	return err
}

// rollback fails where SQLite has done it already, which it does on a full disk; should it have failed for another reason,
// it is tried again before the next transaction.
func (f *file) rollback() { f.failed = f.exec(0, "ROLLBACK") != nil }

func (f *file) keep() (landed bool, err error) { return false, nil }

func (f *file) lost() (<-chan struct{}, func() error) { return nil, nil }

// close closes the connection after its statements: with one of them left SQLite keeps the file open, and its WAL unfinished. The lock goes last.
func (f *file) close() error {
	var errs []error
	for _, stmt := range f.stmts {
		errs = append(errs, stmt.Close())
	}
	if f.conn != nil {
		errs = append(errs, f.conn.Close())
	}
	if f.db != nil {
		errs = append(errs, f.db.Close())
	}
	return errors.Join(append(errs, f.lock.Close())...)
}

// inPlace reports a file that was moved, deleted or replaced under the running connector: SQLite would go on writing into one that no
// later start finds, and PostgreSQL would be told so.
func (f *file) inPlace() error {
	there, err := os.Stat(f.path)
	if err == nil && os.SameFile(there, f.opened) {
		return nil
	}
	if err == nil {
		err = errors.New("another file stands in its place")
	}
	return &Error{Op: "writing", Place: "file " + f.path, Err: fmt.Errorf("it was moved or deleted while the connector runs: %w", err),
		Cure: "move it back, together with its -wal and -shm files; where it is lost, start the connector anew"}
}

// resolve gives the absolute path without symbolic links, so that one file has one lock, by whatever path it is named.
func resolve(path string) (string, error) {
	fail := func(path, cure string, err error) (string, error) {
		return "", &Error{Op: "opening", Place: "file " + path, Err: err, Cure: cure}
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
		return nil, &Error{Op: "opening", Place: "file " + path, Err: errors.New("it is not a regular file"), Cure: "let state.path name a file"}
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && file.Size() == 0 {
		// SQLite takes a WAL beside an empty file for rubbish and deletes it. It may be all that is left.
		if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
			return nil, orphanWAL(path)
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
		return &Error{Op: "opening", Place: "file " + path, Err: fmt.Errorf("this file system can't do SQLite's WAL mode (journal mode %s)", mode),
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
