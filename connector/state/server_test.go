package state

import (
	"io"
	"log/slog"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

func openServerTest(t testing.TB, dsn string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Location{DSN: dsn}, Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestServerConforms(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	conform(t, func(t *testing.T) func() durable {
		db.Exec(t, "DROP SCHEMA IF EXISTS tuzhan_cdc CASCADE") // quicker than another database
		return func() durable { return openServerTest(t, db.DSN()) }
	})
}
