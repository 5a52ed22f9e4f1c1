package main

import (
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
)

const budgetSchema = heldSchema + `CREATE TABLE crm.busy (x text);`

// overBudget has a transaction of the application's keep more WAL than source.walBudget, until the test ends.
func (r *rig) overBudget() {
	r.t.Helper()
	conn := connectTo(r.t, r.db.DSN())
	for _, sql := range []string{`BEGIN`, `INSERT INTO crm.busy SELECT repeat(md5(i::text), 50) FROM generate_series(1, 6000) i`} {
		if _, err := conn.Exec(r.t.Context(), sql); err != nil {
			r.t.Fatal(err)
		}
	}
}

// times gives how often an alarm was raised: one of the slot is raised by each look.
func (r *rig) times(key string) int {
	r.t.Helper()
	for _, a := range r.status().Alarms {
		if a.Key == key {
			return a.Times
		}
	}
	return 0
}

// looks waits until the slot was found above the budget so many times more.
func (r *rig) looks(n int) {
	r.t.Helper()
	before := r.times("source/wal")
	r.until(func() bool { return r.times("source/wal") >= before+n })
}

func (r *rig) logged(text string) int { return strings.Count(r.proc.log.String(), text) }

// TestBudgetBesideStartsHeld: a mapping that is held from its next change on keeps no WAL, so a slot above its budget is no reason to set it aside. It
// is, once its first change has come.
func TestBudgetBesideStartsHeld(t *testing.T) {
	t.Parallel()
	r := newRig(t, budgetSchema, heldMappings("grade"), platformsim.Options{})
	r.edit("  timeZone: Asia/Shanghai\n", "  timeZone: Asia/Shanghai\n  walBudget: 3MiB\n")
	r.start()
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (1, '138')`)
	r.settled()
	r.stop()
	r.db.Exec(t, `ALTER TABLE crm.members DROP COLUMN grade`)
	r.overBudget()
	r.start()
	r.looks(2)
	if r.logged("msg=streaming") != 1 || r.logged("walBudget is reached") != 0 {
		t.Errorf("%d pipelines, %d times the budget", r.logged("msg=streaming"), r.logged("walBudget is reached"))
	}
	r.db.Exec(t, `INSERT INTO crm.members VALUES (1, '138')`)
	r.proc.until("source.walBudget is reached")
	r.until(func() bool { return len(r.letters("--mapping", "member-event")) == 1 })
}

// TestBudgetBesideBrake: a brake that holds its mapping again right after it was set aside, while something else keeps the slot above its budget, does
// not make the pipeline begin anew with each look.
func TestBudgetBesideBrake(t *testing.T) {
	t.Parallel()
	r := newRig(t, budgetSchema, strings.Replace(brakeMappings, "maxPerMinute: 10", "maxPerMinute: 1", 1), platformsim.Options{})
	r.edit("  timeZone: Asia/Shanghai\n", "  timeZone: Asia/Shanghai\n  walBudget: 3MiB\n")
	r.start()
	r.overBudget()
	r.db.Exec(t, `INSERT INTO crm.visits SELECT i, '138' || i FROM generate_series(1, 5) i`)
	r.proc.until("source.walBudget is reached")
	r.until(func() bool { return r.logged("msg=streaming") == 2 })
	r.db.Exec(t, `INSERT INTO crm.visits SELECT i, '138' || i FROM generate_series(11, 15) i`)
	r.until(func() bool { return r.logged(`msg="mapping held`) >= 2 })
	r.looks(2)
	if r.logged("msg=streaming") != 2 {
		t.Errorf("%d pipelines", r.logged("msg=streaming"))
	}
}

// TestIdleRequests: what changes nothing is done with, and the pipeline goes on.
func TestIdleRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t, heldSchema, heldMappings("grade"), platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (1, '138')`)
	r.settled()
	at := state.Location{Path: strings.Trim(strings.TrimPrefix(r.state, "{path: "), `"}`)}
	for _, what := range []state.RequestKind{state.RequestSetAside, state.RequestResume} {
		if err := state.Ask(t.Context(), at, state.Request{What: what, Mapping: "member-event", Created: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	r.until(func() bool { return r.logged("changes nothing") == 2 })
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (2, '138')`)
	r.settled()
	if r.logged("msg=streaming") != 1 || r.logged("changes nothing") != 2 {
		t.Errorf("%d pipelines, %d times nothing", r.logged("msg=streaming"), r.logged("changes nothing"))
	}
}

// TestSlotLookAlarm: looks that have failed for a minute are an alarm, which the first good one ends.
func TestSlotLookAlarm(t *testing.T) {
	t.Parallel()
	alarms := connector.NewAlarms(discardLogger())
	w := newSlotWatcher(nil, alarms)
	start := time.Now()
	for _, step := range []struct {
		after  time.Duration
		err    error
		alarms int
	}{{0, errAnew, 0}, {59 * time.Second, errAnew, 0}, {60 * time.Second, errAnew, 1}, {65 * time.Second, nil, 0}, {70 * time.Second, errAnew, 0}, {125 * time.Second, errAnew, 0}} {
		if w.tell(start.Add(step.after), step.err); len(alarms.List()) != step.alarms {
			t.Errorf("after %s: %+v", step.after, alarms.List())
		}
	}
}
