package postgres

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

func startReading(t *testing.T, repl *pgconn.PgConn, slot string) {
	t.Helper()
	if err := pglogrepl.StartReplication(t.Context(), repl, quoteIdent(slot), 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'p'"}}); err != nil {
		t.Fatal(err)
	}
}

func TestPassing(t *testing.T) {
	state := func(codes ...string) error {
		var all []error
		for _, c := range codes {
			all = append(all, fmt.Errorf("tried: %w", &pgconn.PgError{Code: c}))
		}
		return errors.Join(all...)
	}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {context.Canceled, false}, {context.DeadlineExceeded, true},
		{state("57P01"), true}, {state("57P02"), true}, {state("57P03"), true}, {state("57P05"), true}, {state("57014"), true}, {state("57P04"), false},
		{state("53300"), true}, {state("53100"), true}, {state("53400"), false},
		{state("55006"), true}, {state("55P03"), true}, {state("40001"), true}, {state("40P01"), true}, {state("08006"), true}, {state("08P01"), true},
		{state("58030"), true}, {state("58P01"), false}, {state("55000"), false}, {state("42704"), false}, {state("42501"), false},
		{state("28P01"), false}, {state("28000"), false}, {state("3D000"), false}, {state("XX000"), false}, {state("0A000"), false}, {state("25006"), false},
		{state("57P03", "57P03"), true}, {state("57P03", "28P01"), false},
		{io.EOF, true}, {fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), true}, {net.ErrClosed, true}, {pgconn.ErrConnClosed, true},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, true}, {syscall.ECONNRESET, true}, {&net.DNSError{IsNotFound: true}, true},
		{errRecovering, true}, {fmt.Errorf("watermark: %w", errRecovering), true},
		{x509.UnknownAuthorityError{}, false}, {errors.New("anything else"), false}, {&Refusal{"no", "yes"}, false},
	} {
		if got := Passing(c.err); got != c.want {
			t.Errorf("Passing(%v) = %v", c.err, got)
		}
		if c.err != nil && Passing(Explain(c.err)) != c.want {
			t.Errorf("explained, %v is judged differently", c.err)
		}
	}
}

func TestExplainKeepsTheCauseAndGivesACure(t *testing.T) {
	for _, code := range []string{"28P01", "28000", "3D000", "42501", "58P01", "55000", "42704", "53400", "55006", "25006"} {
		cause := &pgconn.PgError{Code: code, Message: "what the server said"}
		err := Explain(fmt.Errorf("doing: %w", cause))
		var r *Refusal
		if !errors.As(err, &r) || r.Cure == "" || !strings.Contains(r.Text, code) || !strings.Contains(r.Text, "what the server said") {
			t.Errorf("%s: %v", code, err)
		}
		if !errors.Is(err, cause) {
			t.Errorf("%s: the cause is lost", code)
		}
		if Explain(err) != err {
			t.Errorf("%s: explained twice", code)
		}
	}
	if Explain(nil) != nil {
		t.Error("nil is explained")
	}
	// The server quotes values in such messages.
	if text := Explain(&pgconn.PgError{Code: "22P02", Message: `invalid input syntax for type integer: "13900001111"`}).Error(); strings.Contains(text, "139") {
		t.Errorf("a value got into %q", text)
	}
}

// The real thing: what PostgreSQL and pgx say when an operator got something wrong.
func TestConnectErrors(t *testing.T) {
	const password = "geheim/s#cret"
	db := pgtest.Server(t).Database(t)
	role, _ := db.Role(t, "REPLICATION")
	db.Exec(t, "ALTER ROLE "+role+" PASSWORD 'Zu7Vq'", "REVOKE CONNECT ON DATABASE "+db.Name()+" FROM PUBLIC")
	at := db.Server().Addr()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	for _, c := range []struct {
		name, dsn, word string
		passing         bool
	}{
		{"wrong password", "postgres://" + role + ":geheim%2Fs%23cret@" + at + "/" + db.Name(), "28P01", false},
		{"no such database", "postgres://" + role + ":Zu7Vq@" + at + "/nosuch", "3D000", false},
		{"may not connect", "postgres://" + role + ":Zu7Vq@" + at + "/" + db.Name(), "42501", false},
		{"refused", "postgres://" + role + ":geheim%2Fs%23cret@" + nobody + "/x", "refused", true},
		{"no TLS", "postgres://" + role + ":Zu7Vq@" + at + "/postgres?sslmode=require", "TLS", false},
		{"unparsable", "postgres://" + role + ":" + password + "@" + at + "/x", "connection string", false},
		{"unparsable keywords", "host=x password=" + password + " port=y", "connection string", false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		conn, err := Connect(ctx, c.dsn)
		cancel()
		if err == nil {
			conn.Close(t.Context())
			t.Errorf("%s: connected", c.name)
			continue
		}
		explained := Explain(err)
		if !strings.Contains(explained.Error(), c.word) {
			t.Errorf("%s: %v", c.name, explained)
		}
		if Passing(err) != c.passing || Passing(explained) != c.passing {
			t.Errorf("%s: passing %v: %v", c.name, !c.passing, explained)
		}
		for _, e := range chain(explained) {
			for _, secret := range []string{"geheim", "cret", "Zu7Vq"} {
				if strings.Contains(e.Error(), secret) {
					t.Errorf("%s: %T shows the password: %v", c.name, e, e)
				}
			}
		}
	}
	// The cure for the missing right works as printed.
	_, err = Connect(t.Context(), "postgres://"+role+":Zu7Vq@"+at+"/"+db.Name())
	var r *Refusal
	if !errors.As(Explain(err), &r) {
		t.Fatal(err)
	}
	db.Exec(t, r.Cure)
	plain(t, "postgres://"+role+":Zu7Vq@"+at+"/"+db.Name())
}

func chain(err error) []error {
	all := []error{err}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if next := e.Unwrap(); next != nil {
			all = append(all, chain(next)...)
		}
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			all = append(all, chain(one)...)
		}
	}
	return all
}

func TestServerThatStopsIsPassing(t *testing.T) {
	server := pgtest.Private(t)
	db := server.Database(t)
	conn := plain(t, db.DSN())
	server.Stop(t, "immediate")
	if _, err := SlotState(t.Context(), conn, "x"); !Passing(err) {
		t.Errorf("in mid-connection: %v", err)
	}
	if _, err := pgx.Connect(t.Context(), db.DSN()); !Passing(err) {
		t.Errorf("connecting: %v", err)
	}
}
