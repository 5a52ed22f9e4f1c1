package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// shared is the one server of this test binary. It is package state because a test binary is what shares it, and TestMain can hand
// nothing to tests.
var shared struct {
	mu sync.Mutex
	// armed is true while Main runs: only then somebody will close the server.
	armed    bool
	instance *Instance
	err      error
}

// startTimeout bounds the start of the shared server; most of it is for an image that must be pulled.
const startTimeout = 4 * time.Minute

// Main is the body of TestMain: it runs the tests, removes the shared server if one was started, fails if the tests left goroutines behind
// (leaks says which are none of theirs), and ends the process.
func Main(m *testing.M, leaks ...goleak.Option) { os.Exit(Run(m, leaks...)) }

// Run is Main for a TestMain that has something to tidy up itself: it gives the exit code.
func Run(m *testing.M, leaks ...goleak.Option) int {
	shared.mu.Lock()
	shared.armed = true
	shared.mu.Unlock()

	code := m.Run()

	if err := disarm(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(leaks...); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = 1
		}
	}
	return code
}

// disarm removes the shared server.
func disarm() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.armed = false
	if shared.instance == nil {
		return nil
	}
	err := shared.instance.host.Close()
	shared.instance = nil
	return err
}

// Server gives the shared server, and starts it for the first who asks. No test may stop it or change its settings: use Private for that.
func Server(t testing.TB) *Instance {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.armed {
		t.Fatal("pgtest: this package has no TestMain that calls pgtest.Main, so nobody would stop the server")
	}
	if shared.instance == nil && shared.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		h, words, err := choose(ctx, os.Getenv("TEST_POSTGRES_IMAGE"))
		if err != nil {
			shared.err = errors.Join(errors.New("pgtest: no PostgreSQL for the tests"), err)
		} else {
			fmt.Println("PostgreSQL for the tests:", words)
			shared.instance = &Instance{host: h}
		}
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.instance
}
