package pgtest

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// host is where a server runs: a container, or a cluster of package throwaway.
type host interface {
	// DSN is the superuser's connection string of a database.
	DSN(database string) string
	// Addr is its address on 127.0.0.1.
	Addr() string
	// Major is the first number of its version.
	Major() int
	Close() error
}

// Instance is a PostgreSQL server. It is safe for concurrent use.
type Instance struct {
	host host
	// private: the whole server goes with its test, so that nothing in it needs to be dropped.
	private bool
	// made counts databases, for unique names.
	made atomic.Int64
}

// DSN is the superuser's connection string of a database.
func (s *Instance) DSN(database string) string { return s.host.DSN(database) }

// Addr is the server's address, 127.0.0.1:port: a target for Proxy.
func (s *Instance) Addr() string { return s.host.Addr() }

// Major is the first number of the server's version.
func (s *Instance) Major() int { return s.host.Major() }

// PrivateInstance is a server of one test, which may stop it. Its address stays the same.
type PrivateInstance struct {
	Instance
	cluster *throwaway.Cluster
}

// Private starts a server for this test alone, from the machine's own binaries or else as a container, with settings in the manner of
// postgres -c ("max_slot_wal_keep_size=1MB"). It takes one to three seconds, and goes with the test. Its version may be another than that
// of the shared server.
func Private(t testing.TB, settings ...string) *PrivateInstance {
	t.Helper()
	merged := serverSettings()
	for _, s := range settings {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			t.Fatalf("pgtest.Private: the setting %q is not name=value", s)
		}
		merged[name] = value
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cluster, err := throwaway.StartAny(ctx, throwaway.Options{Settings: merged})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return &PrivateInstance{Instance: Instance{host: cluster, private: true}, cluster: cluster}
}

// Follower starts a streaming standby of the server, which goes with the test.
func (s *PrivateInstance) Follower(t testing.TB) *PrivateInstance {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cluster, err := s.cluster.Standby(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return &PrivateInstance{Instance: Instance{host: cluster, private: true}, cluster: cluster}
}

// outageTimeout bounds a stop or a start. A fast stop that takes longer is held up by a client (fact F15).
const outageTimeout = 30 * time.Second

// Stop stops the server and returns when it is down.
func (s *PrivateInstance) Stop(t testing.TB, mode throwaway.Mode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), outageTimeout)
	defer cancel()
	if err := s.cluster.Stop(ctx, mode); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server after Stop and returns when it takes connections.
func (s *PrivateInstance) Start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), outageTimeout)
	defer cancel()
	if err := s.cluster.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// Restart is a fast stop and a start.
func (s *PrivateInstance) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t, throwaway.Fast)
	s.Start(t)
}

// Copy copies the files of the stopped server.
func (s *PrivateInstance) Copy(t testing.TB) *throwaway.Copy {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), outageTimeout)
	defer cancel()
	c, err := s.cluster.Copy(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Restore puts a copy in the place of the stopped server's files and starts it.
func (s *PrivateInstance) Restore(t testing.TB, from *throwaway.Copy) {
	t.Helper()
	s.restore(t, from, false)
}

// Standby is Restore, and the server is a standby, until Promote.
func (s *PrivateInstance) Standby(t testing.TB, from *throwaway.Copy) {
	t.Helper()
	s.restore(t, from, true)
}

// Promote has the standby go on as a primary, on a new timeline.
func (s *PrivateInstance) Promote(t testing.TB) {
	t.Helper()
	if err := execute(s.DSN("postgres"), "SELECT pg_promote()"); err != nil {
		t.Fatal(err)
	}
}

func (s *PrivateInstance) restore(t testing.TB, from *throwaway.Copy, standby bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), outageTimeout)
	defer cancel()
	if err := s.cluster.Restore(ctx, from, standby); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
}

// serverSettings are the settings of all servers of this package.
func serverSettings() map[string]string {
	return map[string]string{
		"wal_level":             "logical",
		"max_wal_senders":       "100",
		"max_replication_slots": "100",
		"max_connections":       "200",
		"shared_buffers":        "64MB",
		"timezone":              "UTC",
		"fsync":                 "off",
		"full_page_writes":      "off",
		// Half of the default: a client that forgets to answer while it waits for something is found in a test's lifetime.
		"wal_sender_timeout": "30s",
	}
}

// databaseName makes a name that is unique on the server and tells which test it is: lower case, so that it needs no quotes, and short
// enough for the names of slots and roles to begin with it (63 bytes at most).
func (s *Instance) databaseName(test string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, test)
	return fmt.Sprintf("t%d_%.40s", s.made.Add(1), plain)
}
