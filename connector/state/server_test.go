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
	conform(t, func(t *testing.T) func() durable {
		dsn := pgtest.Server(t).Database(t).DSN()
		return func() durable { return openServerTest(t, dsn) }
	})
}
