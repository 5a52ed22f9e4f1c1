package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that decide what is done. https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	stateDivision        = "22012"
	stateReadOnly        = "25006"
	stateInvalidAuth     = "28000"
	stateInvalidPassword = "28P01"
	stateNoDatabase      = "3D000"
	stateNoRight         = "42501"
	stateUndefinedTable  = "42P01"
	stateUndefinedColumn = "42703"
	stateDiskFull        = "53100"
	stateTooMany         = "53300"
	stateDropped         = "57P04"
	stateProtocol        = "08P01"
)

// sqlState gives the SQLSTATE of the first server error in err's tree, or "".
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// passing reports whether trying again may cure err. False for nil, and for what somebody has to mend.
func passing(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if code := sqlState(err); code != "" {
		switch class := code[:2]; {
		case code == stateDropped, code == stateProtocol:
			return false
		case class == "08", class == "53", class == "57", class == "58", class == "40", code == stateReadOnly, code == "55P03", code == "25P03":
			return true
		}
		return false
	}
	var (
		network   *net.OpError // a file's syscall.Errno is a net.Error, too
		name      *net.DNSError
		preferred *pgconn.NotPreferredError
	)
	return errors.As(err, &network) || errors.As(err, &name) || errors.As(err, &preferred) || pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed)
}

// Unreachable reports whether err only says that the state's server is away or busy: waiting may cure it.
func Unreachable(err error) bool { return passing(err) }

// serverBlamesOperation is blamesOperation for PostgreSQL: wrong data, a broken constraint, a value over a limit.
func serverBlamesOperation(err error) bool {
	code := sqlState(err)
	return len(code) == 5 && (code[:2] == "22" || code[:2] == "23" || code[:2] == "54")
}

// mute hides a server's text that may quote a value.
type mute struct {
	err  error
	text string
}

func (m *mute) Error() string { return m.text }
func (m *mute) Unwrap() error { return m.err }

// serverFault gives e the cure that belongs to an error of PostgreSQL, or of the way there; false where it is neither.
func (e *Error) serverFault() bool {
	var pg *pgconn.PgError
	var connecting *pgconn.ConnectError
	switch {
	case errors.As(e.Err, &pg):
		if class := pg.Code[:min(2, len(pg.Code))]; class == "22" || class == "23" {
			e.Err = &mute{e.Err, fmt.Sprintf("%s (SQLSTATE %s; its text may quote a value, so see the server's log)", pg.Severity, pg.Code)}
		}
		e.Cure = cureOf(pg.Code)
	case errors.As(e.Err, &connecting), errors.Is(e.Err, pgconn.ErrConnClosed), errors.Is(e.Err, ErrUnknown):
		e.Err = &mute{e.Err, strings.Join(strings.Fields(e.Err.Error()), " ")}
		e.Cure = "check that the state's server runs and can be reached from here; it goes on by itself"
	default:
		return false
	}
	return true
}

func cureOf(code string) string {
	switch code {
	case stateProtocol:
		return "where a pooler such as PgBouncer stands in between: point state.dsn at PostgreSQL itself, for the lock belongs to a session"
	case stateDiskFull:
		return "the disk of the state's server is full: free space there; it goes on by itself"
	case stateReadOnly:
		return "the state's server is a standby or read-only: point state.dsn at the primary"
	case stateInvalidPassword:
		return "mend user or password in state.dsn"
	case stateInvalidAuth:
		return "the role must be allowed to log in, and pg_hba.conf needs a line for it and this host"
	case stateNoDatabase, stateDropped:
		return "mend the database in state.dsn, or make it: CREATE DATABASE"
	case stateNoRight:
		return "`tuzhan-cdc check` prints the GRANT that is missing"
	case stateUndefinedTable, stateUndefinedColumn:
		return "schema " + schemaName + " was changed or dropped: put its backup in place, or drop it and start anew"
	case stateTooMany:
		return "the state's server takes no more connections: raise max_connections there, or close some"
	}
	if passing(&pgconn.PgError{Code: code}) {
		return "check that the state's server runs and can be reached from here; it goes on by itself"
	}
	return ""
}

// withRights adds the SQL that gives the role what it needs.
func (s *server) withRights(err error) error {
	if sqlState(err) != stateNoRight {
		return err
	}
	return &Error{Op: "opening", Place: s.place, Err: err, Cure: rightsCure(s.config.User, s.config.Database)}
}

// rightsCure is SQL that works in psql, connected to the state's database as a superuser.
func rightsCure(user, database string) string {
	quote := func(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
	role := quote(user)
	return fmt.Sprintf("as a superuser in database %s: CREATE SCHEMA IF NOT EXISTS %s; GRANT USAGE, CREATE ON SCHEMA %s TO %s; "+
		"GRANT ALL ON ALL TABLES IN SCHEMA %s TO %s; GRANT ALL ON ALL SEQUENCES IN SCHEMA %s TO %s;",
		quote(database), schemaName, schemaName, role, schemaName, role, schemaName, role)
}

// errMissing is fs.ErrNotExist in words that fit a database.
type errMissing struct{}

func (errMissing) Error() string        { return "there is no state in it yet (no schema " + schemaName + ")" }
func (errMissing) Is(target error) bool { return target == fs.ErrNotExist }
