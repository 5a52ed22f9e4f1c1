package state

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Errors that callers ask for with errors.Is.
var (
	// ErrLocked: another process writes this state.
	ErrLocked = errors.New("another tuzhan-cdc writes this state")
	// ErrTaken: another process has taken the state over, while this one had lost the connection to the state's server.
	ErrTaken = errors.New("another tuzhan-cdc has taken this state over")
	// ErrUnknown: the connection to the state's server was lost while something was being written; it may be stored or not.
	ErrUnknown = errors.New("the answer of the state's server was lost: it may be stored or not")
	// ErrNewer: the state was written by a newer version of the program.
	ErrNewer = errors.New("the state was written by a newer tuzhan-cdc")
	// ErrDamaged: the file is no state file, or no longer a sound one.
	ErrDamaged = errors.New("the state is damaged")
	// ErrClosed: the store was closed before the operation was taken.
	ErrClosed = errors.New("the state is closed")
	// ErrNoLetter: there is no dead letter with that id.
	ErrNoLetter = errors.New("no such dead letter")
	// ErrRefused: the operation contradicts what is stored (another lineage, a step back); nothing was written and trying again is no cure.
	ErrRefused = errors.New("refused by the state")
)

// Error is a failure of the state: what was tried, where it is kept, why it failed, and what the operator can do. It holds no
// stored values and no secrets.
type Error struct {
	// Op is what was tried: "opening", "writing", "reading".
	Op string
	// Place is as Location.String gives it.
	Place string
	// Cure is the next command or deed; may be empty.
	Cure string
	// Err is the cause.
	Err error
}

// Error gives it all in one line.
func (e *Error) Error() string {
	s := fmt.Sprintf("state %s: %s: %v", e.Place, e.Op, e.Err)
	if e.Cure != "" {
		s += " (" + e.Cure + ")"
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// cureDamaged is the advice wherever the file can't be read as what it was.
const cureDamaged = "stop the connector, then put a backup in its place, or move it away together with its -wal and -shm files and start anew"

// fault wraps err with the place and a cure. It gives nil for nil, and leaves an *Error as it is.
func fault(op, place string, err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	e := &Error{Op: op, Place: place, Err: err}
	if e.serverFault() {
		return e
	}
	switch code(err) {
	case sqlite3.SQLITE_FULL:
		e.Cure = "the disk is full: free space; it goes on by itself"
	case sqlite3.SQLITE_IOERR:
		e.Cure = "the disk gives errors, is full or is gone: see the system's log (dmesg), and free space or mend it"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		e.Cure = "the connector's user must be allowed to write the file and the directory that it is in, and the file system must not be mounted read-only"
	case sqlite3.SQLITE_CANTOPEN:
		e.Cure = "the file, its -wal and -shm files and their directory must belong to the connector's user"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		e.Cure = "another program keeps the file locked: close it (fuser shows which)"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		e.Err, e.Cure = fmt.Errorf("%w: %w", ErrDamaged, err), cureDamaged
	default:
		switch {
		case errors.Is(err, ErrDamaged):
			e.Cure = cureDamaged
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
			e.Cure = "the connector's user must be allowed to write the file and the directory that it is in, and the file system must not be mounted read-only"
		case errors.Is(err, syscall.ENOSPC):
			e.Cure = "the disk is full: free space"
		}
	}
	return e
}

// code gives SQLite's primary result code, or 0 where err did not come from SQLite.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// blamesOperation reports whether err comes from what the operation holds (a payload over the database's limit), so that the others of its
// transaction can do without it. Anything else blames the file, the disk or the set-up, and hits all alike.
func blamesOperation(err error) bool {
	switch code(err) {
	case sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE:
		return true
	}
	return serverBlamesOperation(err)
}
