package state

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// TestOpenWaitsForTheServer: the server goes away (here: it takes no more connections) when the state is taken over and not read yet. Open waits.
func TestOpenWaitsForTheServer(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	role, dsn := db.Role(t, "CONNECTION LIMIT 1")
	db.Exec(t, fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s", db.Name(), role))
	var log lockedBuffer
	opened := make(chan error, 1)
	go func() {
		s, err := Open(t.Context(), Location{DSN: dsn}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), LockWait: Forever})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	eventually(t, "it waits, or has given up", func() bool { return len(opened) > 0 || strings.Contains(log.String(), "too many connections") })
	db.Exec(t, "ALTER ROLE "+role+" CONNECTION LIMIT 5")
	if err := <-opened; err != nil {
		t.Errorf("Open: %v", err)
	}
}
