package main

import (
	"context"
	"errors"
	"os"
	"regexp"
	"syscall"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// nowhere points source.dsn at a port where nobody listens, and gives what puts the file back.
func (r *rig) nowhere() (back func()) {
	r.t.Helper()
	good, err := os.ReadFile(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	write := func(text []byte) {
		if err := os.WriteFile(r.file, text, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	bad := regexp.MustCompile(`(dsn: .*):\d+/`).ReplaceAll(good, []byte("$1:1/"))
	if string(bad) == string(good) {
		r.t.Fatalf("the file has no port: %s", good)
	}
	write(bad)
	return func() { write(good) }
}

// TestReloadToNowhere: a reload with a typing error in source.dsn is refused while the stream that works goes on, and the next reload mends it.
func TestReloadToNowhere(t *testing.T) {
	t.Parallel()
	r := newRig(t, lineageSchema, lineageMappings, platformsim.Options{})
	r.start()
	back := r.nowhere()
	r.reload()
	r.proc.until("the former one stays in force")
	r.visit(1)
	r.expectEvents("c_visit", "1")
	back()
	r.reload()
	r.proc.until("configuration read again")
	r.visit(2)
	r.expectEvents("c_visit", "1", "2")
	if s := r.status(); len(s.Alarms) > 0 {
		t.Errorf("alarms %+v", s.Alarms)
	}
}

// TestReloadWhileWaiting: a connector that waits for a database that is not there reads the file again, and goes on with what it says; one with errors
// changes nothing.
func TestReloadWhileWaiting(t *testing.T) {
	t.Parallel()
	r := newRig(t, lineageSchema, lineageMappings, platformsim.Options{})
	back := r.nowhere()
	r.launch()
	r.proc.until("PostgreSQL is not to be reached")
	r.edit("timeout: 5s", "timeout: soon")
	r.reload()
	r.proc.until("the former one stays in force")
	back()
	r.reload()
	r.proc.until("msg=streaming")
	r.visit(1)
	r.expectEvents("c_visit", "1")
}

// TestReloadOfStandby: a connector that waits for the state, which another one has, does not end by a reload, and begins with the file as it is then.
func TestReloadOfStandby(t *testing.T) {
	t.Parallel()
	r := newRig(t, lineageSchema, lineageMappings, platformsim.Options{})
	r.start()
	first := r.proc
	r.launch()
	r.proc.until("state")
	r.edit("eventKey: c_visit", "eventKey: c_came")
	r.reload()
	if code := first.terminate(); code != 0 {
		t.Errorf("exit %d", code)
	}
	r.proc.until("msg=streaming")
	r.visit(1)
	r.expectEvents("c_came", "1")
}

// TestReloadWithoutZone: what a reload has wrong shows before anything is changed, and the former configuration goes on.
func TestReloadWithoutZone(t *testing.T) {
	t.Parallel()
	r := newRig(t, lineageSchema+`CREATE TABLE crm.later (id int PRIMARY KEY, phone text);`, lineageMappings, platformsim.Options{})
	r.db.Exec(t, `ALTER DATABASE `+r.db.Name()+` SET timezone = '<+08>-08'`)
	r.start()
	r.edit("  timeZone: Asia/Shanghai\n", "")
	r.edit("table: crm.visits", "table: crm.later")
	r.reload()
	r.proc.until("the former one stays in force")
	r.visit(1)
	r.expectEvents("c_visit", "1")
	if r.logged("crm.later") > 0 {
		t.Error("the publication was changed")
	}
}

// TestReloadWithAnotherRole: after a reload with another role the look at the slot goes by it.
func TestReloadWithAnotherRole(t *testing.T) {
	t.Parallel()
	r := newRig(t, budgetSchema, heldMappings("grade"), platformsim.Options{})
	old, oldDSN := r.db.Role(t, "SUPERUSER REPLICATION")
	_, newDSN := r.db.Role(t, "SUPERUSER REPLICATION")
	r.edit(r.dsn, oldDSN)
	r.edit("  timeZone: Asia/Shanghai\n", "  timeZone: Asia/Shanghai\n  walBudget: 30MiB\n")
	r.start()
	r.edit(oldDSN, newDSN)
	r.edit("walBudget: 30MiB", "walBudget: 3MiB")
	r.reload()
	r.until(func() bool { return r.logged("msg=streaming") == 2 })
	r.db.Exec(t, `ALTER ROLE "`+old+`" NOLOGIN`, `ALTER TABLE crm.members DROP COLUMN grade`, `INSERT INTO crm.members VALUES (1, '138')`)
	r.proc.until("mapping held")
	r.db.Exec(t, `INSERT INTO crm.busy SELECT repeat(md5(i::text), 50) FROM generate_series(1, 6000) i`)
	r.proc.until("source.walBudget is reached")
	r.until(func() bool { return len(r.letters("--mapping", "member-event")) == 1 })
}

// TestUntilReload: SIGHUP ends a wait with errReload; where the wait was over all the same, the signal is kept for the pipeline.
func TestUntilReload(t *testing.T) {
	t.Parallel()
	for _, ready := range []bool{false, true} {
		s := &supervisor{reload: make(chan os.Signal, 1)}
		s.reload <- syscall.SIGHUP
		err := s.untilReload(t.Context(), func(ctx context.Context) (bool, error) {
			<-ctx.Done()
			return ready, nil
		})
		if errors.Is(err, errReload) == ready || len(s.reload) == 1 != ready {
			t.Errorf("ready %t: %v, %d signals kept", ready, err, len(s.reload))
		}
	}
	s := &supervisor{reload: make(chan os.Signal, 1)}
	if err := s.untilReload(t.Context(), func(context.Context) (bool, error) { return false, errAnew }); !errors.Is(err, errAnew) {
		t.Error(err)
	}
}
