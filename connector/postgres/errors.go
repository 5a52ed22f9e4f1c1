package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that decide what is done. https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	stateProtocolViolation  = "08P01"
	stateUntranslatable     = "22P05"
	stateReadOnly           = "25006"
	stateInvalidAuth        = "28000"
	stateInvalidPassword    = "28P01"
	stateNoDatabase         = "3D000"
	stateSerialization      = "40001"
	stateDeadlock           = "40P01"
	stateNoRight            = "42501"
	stateUndefinedObject    = "42704"
	stateUndefinedTable     = "42P01"
	stateUndefinedColumn    = "42703"
	stateDuplicateObject    = "42710"
	stateTooManyConnections = "53300"
	stateConfigurationLimit = "53400"
	stateNotInState         = "55000"
	stateInUse              = "55006"
	stateLockNotAvailable   = "55P03"
	stateCanceled           = "57014"
	stateAdminShutdown      = "57P01"
	stateCrashShutdown      = "57P02"
	stateCannotConnectNow   = "57P03"
	stateDatabaseDropped    = "57P04"
	stateIOError            = "58030"
	stateUndefinedFile      = "58P01"
	stateNotSupported       = "0A000"
)

// explained is an error with the cure that belongs to it. errors.As finds a *Refusal in it, and the cause.
type explained struct {
	Refusal
	err error
}

func (e *explained) Error() string {
	if e.Cure == "" {
		return e.Text
	}
	return e.Refusal.Error()
}

// errRecovering says that the server is a standby that can't be streamed from. To a connector that has streamed before it is a failover on its way: the address leads to
// the next primary already, and that one is not promoted yet.
var errRecovering = &Refusal{"the server is a standby, and can't be streamed from before it is promoted",
	"nothing to do while a failover is under way: it is tried again by itself; else point source.dsn at the primary"}

func (e *explained) Unwrap() error { return e.err }

// As hands out the text and the cure.
func (e *explained) As(target any) bool {
	r, ok := target.(**Refusal)
	if ok {
		*r = &e.Refusal
	}
	return ok
}

// Passing reports whether trying again may cure err: the server is away, starting, stopping, full or busy, the network broke, another
// process holds the slot, or a standby is to be promoted. False for nil, for a context that was cancelled, and for what somebody has to mend.
func Passing(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if errors.Is(err, errRecovering) {
		return true
	}
	if states := sqlStates(err); len(states) > 0 {
		// A connection attempt may have asked several hosts, or one host twice; one that somebody has to mend decides.
		for _, s := range states {
			if !passingState(s) {
				return false
			}
		}
		return true
	}
	var (
		config     *pgconn.ParseConfigError
		preferred  *pgconn.NotPreferredError
		cert       *tls.CertificateVerificationError
		authority  x509.UnknownAuthorityError
		hostname   x509.HostnameError
		invalid    x509.CertificateInvalidError
		alert      tls.AlertError
		network    net.Error
		systemCall syscall.Errno
	)
	switch {
	case errors.As(err, &config):
		return false
	case errors.As(err, &cert), errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid), errors.As(err, &alert):
		return false
	case tlsAlert(err):
		return false
	case errors.As(err, &preferred): // the host is up in another role: a failover is under way, or over soon
		return true
	}
	return errors.As(err, &network) || errors.As(err, &systemCall) || pgconn.Timeout(err) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed)
}

// tlsAlert reports whether a connection attempt ended with the server's TLS alert: it refuses our certificate, or has no version in common. (An alert
// on a connection that worked before is a broken connection.)
func tlsAlert(err error) bool {
	var attempt *pgconn.ConnectError
	var op *net.OpError
	return errors.As(err, &attempt) && errors.As(err, &op) && op.Op == "remote error" // the words of crypto/tls, which has no type for it
}

func passingState(s string) bool {
	switch s {
	case stateDatabaseDropped, stateConfigurationLimit:
		return false
	case stateSerialization, stateDeadlock, stateInUse, stateLockNotAvailable, stateCanceled, stateIOError:
		return true
	}
	switch s[:min(2, len(s))] {
	case "08", "53", "57": // connection, resources, operator intervention
		return true
	}
	return false
}

// sqlStates collects the SQLSTATE of every server error in err's tree.
func sqlStates(err error) []string {
	var states []string
	for _, e := range pgErrors(err, nil) {
		states = append(states, e.Code)
	}
	return states
}

func pgErrors(err error, found []*pgconn.PgError) []*pgconn.PgError {
	if e, ok := err.(*pgconn.PgError); ok {
		return append(found, e)
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return pgErrors(e.Unwrap(), found)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			found = pgErrors(one, found)
		}
	}
	return found
}

func hasState(err error, state string) bool {
	for _, s := range sqlStates(err) {
		if s == state {
			return true
		}
	}
	return false
}

// wrongPassword reports whether the server refused the password.
func wrongPassword(err error) bool { return hasState(err, stateInvalidPassword) }

// slotInUse reports whether another process holds the slot.
func slotInUse(err error) bool { return hasState(err, stateInUse) || errors.Is(err, errHeld) }

// Explain gives err in words for a DBA, with the cure where there is one: errors.As finds a *Refusal in what it returns, and err itself.
// The text holds no password and no row value. An error that was explained before, and nil, come back as they are.
func Explain(err error) error {
	var refused *Refusal
	if err == nil || errors.As(err, &refused) {
		return err
	}
	var config *pgconn.ParseConfigError
	if errors.As(err, &config) {
		// Neither its text nor its cause: both may quote the string, and what can't be parsed can't be masked for sure.
		return &explained{Refusal{"source.dsn is not a connection string that can be read",
			"write it as postgres://user:password@host:5432/database?sslmode=prefer, with / ? # @ : % of the password written as %2F %3F %23 %40 %3A %25"}, errDSN}
	}
	at, who := endpoint(err)
	all := pgErrors(err, nil)
	if len(all) == 0 {
		return &explained{Refusal{at + networkText(err), networkCure(err)}, err}
	}
	pg := all[len(all)-1]
	for _, e := range all {
		if !passingState(e.Code) {
			pg = e
			break
		}
	}
	text := at + serverText(pg)
	why, cure := curesOf(pg, who)
	if why != "" {
		text += ": " + why
	}
	return &explained{Refusal{text, cure}, err}
}

var errDSN = errors.New("cannot parse the connection string")

// account is who tried to connect where, as far as the error tells.
type account struct{ user, database string }

func endpoint(err error) (string, account) {
	var c *pgconn.ConnectError
	if !errors.As(err, &c) {
		return "", account{user: "current_user"}
	}
	host := c.Config.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(host, fmt.Sprint(c.Config.Port))
	}
	return fmt.Sprintf("connecting to %s as %s, database %s: ", host, c.Config.User, c.Config.Database),
		account{quoteIdent(c.Config.User), quoteIdent(c.Config.Database)}
}

// serverText is what the server said; without its message where that may quote a value.
func serverText(pg *pgconn.PgError) string {
	if class := pg.Code[:min(2, len(pg.Code))]; class == "22" || class == "23" {
		return fmt.Sprintf("%s from %s (SQLSTATE %s; its text may quote a value, so see the server's log)", pg.Severity, pg.Routine, pg.Code)
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
}

// networkText is what the attempts of one connection came to, each reason once. Where the string names several hosts it is pgconn's own text, which names user,
// database and addresses, and nothing else of the configuration.
func networkText(err error) string {
	var attempt *pgconn.ConnectError
	if !errors.As(err, &attempt) {
		return strings.Join(strings.Fields(err.Error()), " ")
	}
	for _, f := range attempt.Config.Fallbacks {
		if f.Host != attempt.Config.Host || f.Port != attempt.Config.Port {
			return strings.Join(strings.Fields(err.Error()), " ")
		}
	}
	var reasons []string
	for _, reason := range leaves(attempt.Unwrap(), nil) {
		if !slices.Contains(reasons, reason.Error()) {
			reasons = append(reasons, reason.Error())
		}
	}
	return strings.Join(strings.Fields(strings.Join(reasons, "; ")), " ")
}

// leaves gives the errors at the ground of err's tree.
func leaves(err error, found []error) []error {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if below := e.Unwrap(); below != nil {
			return leaves(below, found)
		}
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			found = leaves(one, found)
		}
		return found
	}
	return append(found, err)
}

func networkCure(err error) string {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		cert      *tls.CertificateVerificationError
		name      *net.DNSError
		network   net.Error
		attempt   *pgconn.ConnectError
	)
	switch {
	case tlsAlert(err):
		return "the server refuses the client certificate, or the TLS version: check sslcert and sslkey in source.dsn, how long the certificate is valid, and ssl_ca_file on the server"
	case errors.As(err, &authority):
		return "add sslrootcert=FILE with the certificate authority of the server to source.dsn"
	case errors.As(err, &hostname):
		return "use the host name of the server's certificate in source.dsn, or sslmode=verify-ca"
	case errors.As(err, &cert):
		return "check the server's certificate, and sslmode and sslrootcert in source.dsn"
	case errors.As(err, &name):
		return "check the host in source.dsn"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check that PostgreSQL runs, and host and port in source.dsn"
	case errors.As(err, &attempt) && !errors.As(err, &network) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return "check sslmode in source.dsn, and on the server: SHOW ssl;"
	}
	return ""
}

// curesOf says what a SQLSTATE means to this program and what to do about it; both empty for one that needs no more words.
func curesOf(pg *pgconn.PgError, who account) (why, cure string) {
	switch pg.Code {
	case stateInvalidPassword:
		return "user or password in source.dsn is wrong", "ALTER ROLE " + who.user + " PASSWORD '...'; -- or mend source.dsn"
	case stateInvalidAuth:
		return "the role does not exist, may not log in, or pg_hba.conf has no line that fits it (logical replication needs one for the database itself); lines that begin with hostssl want TLS, those with clientcert a client certificate",
			"ALTER ROLE " + who.user + " LOGIN; -- or add to pg_hba.conf a line such as: host  DATABASE  ROLE  ADDRESS/32  scram-sha-256; then SELECT pg_reload_conf(); or for TLS sslmode=require, and sslcert and sslkey, in source.dsn"
	case stateNoDatabase, stateDatabaseDropped:
		return "there is no such database", "check the database in source.dsn; SELECT datname FROM pg_database;"
	case stateNoRight:
		if who.database != "" {
			return "the role lacks a right that it needs here", "GRANT CONNECT ON DATABASE " + who.database + " TO " + who.user +
				"; ALTER ROLE " + who.user + " REPLICATION;"
		}
		return "the role lacks a right", "run tuzhan-cdc check: it prints the GRANT or ALTER ROLE that is missing"
	case stateUndefinedFile:
		return "WAL that the slot needs is gone from the server: changes are lost", "run tuzhan-cdc check, then tuzhan-cdc slot drop to start anew"
	case stateNotInState:
		return "the slot can't be read any more (invalidated: the server removed WAL that it needed), or the server is not set up for logical decoding",
			"run tuzhan-cdc check: it says which; an invalidated slot must be made anew: tuzhan-cdc slot drop, then run"
	case stateUndefinedObject:
		return "a slot or publication is missing, or the publication was made after the slot: then WAL from before it can't be read with it",
			"run tuzhan-cdc check: it says which is missing and prints the SQL"
	case stateConfigurationLimit:
		return "a limit of the server's configuration is reached",
			"SELECT slot_name, active, restart_lsn FROM pg_replication_slots; -- drop what nobody uses, or raise max_replication_slots and restart"
	case stateTooManyConnections:
		return "the server takes no more connections", "raise max_connections or max_wal_senders and restart; SHOW max_wal_senders;"
	case stateUntranslatable:
		return "the database holds a character that PostgreSQL can't write as UTF-8", "see the server's log for the character; without it the slot can only be made anew: tuzhan-cdc slot drop"
	case stateInUse:
		return "another process holds the slot", "SELECT slot_name, active_pid FROM pg_replication_slots WHERE active;"
	case stateReadOnly:
		return "the server is a standby, or the database is read-only", "point source.dsn at the primary"
	case stateNotSupported:
		return "the server can't do that (logical decoding on a standby needs PostgreSQL 16)", "point source.dsn at the primary"
	case stateProtocolViolation:
		return "where a pooler such as PgBouncer stands in between, replication can't pass it", "point source.dsn at PostgreSQL itself"
	}
	return "", ""
}
