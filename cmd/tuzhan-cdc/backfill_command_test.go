package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

const manyGroups = `INSERT INTO crm.member_groups SELECT '138' || lpad(n::text, 8, '0'), 'g' FROM generate_series(1, 3000) n`

// TestBackfillPause: a backfill is paused, resumed, survives a restart while it is paused, and is cancelled; status and list show it.
func TestBackfillPause(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.db.Exec(t, manyGroups)
	r.start()
	r.backfill("member-groups", "--detach", "--rows-per-second", "500")
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.GroupRelation) > 0 })
	if s := r.snapshot(); len(s.Backfills) != 1 || s.Backfills[0].Mapping != "member-groups" || s.Backfills[0].State != connector.BackfillRunning || s.Backfills[0].Table != "crm.member_groups" {
		t.Errorf("status shows %+v", s.Backfills)
	}
	if out := r.backfill("pause", "member-groups"); !strings.Contains(out, "asked for") {
		t.Errorf("it says %q", out)
	}
	b := r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillPaused })
	r.settled()
	n := r.sim.Count(platformsim.GroupRelation)
	if n >= 3000 || n == 0 {
		t.Fatalf("%d rows were sent when it was paused", n)
	}
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	if out, _, _ := r.run("status"); !strings.Contains(out, "paused") {
		t.Errorf("status without a connector: %s", out)
	}
	r.start()
	var list []backfillJSON
	out := r.backfill("list", "--output", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].State != connector.BackfillPaused || list[0].RowsPerSecond != 500 {
		t.Errorf("list: %s (%v)", out, err)
	}
	if got := r.sim.Count(platformsim.GroupRelation); got != n {
		t.Errorf("%d rows were sent while it was paused", got-n)
	}
	r.backfill("resume", fmt.Sprint(b.ID))
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillDone })
	if got := len(r.groups()); got != 3000 {
		t.Errorf("%d of 3000 rows", got)
	}
	if got := r.sim.Count(platformsim.GroupRelation); got != 3000 {
		t.Errorf("%d records of 3000 rows: paused and stopped in good order, it sends nothing twice", got)
	}
	r.backfill("member-groups", "--detach", "--rows-per-second", "100")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillRunning })
	r.backfill("cancel", "member-groups")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillCancelled })
	if _, errs, code := r.run("backfill", "cancel", "member-groups"); code != 1 || !strings.Contains(errs, "no backfill") {
		t.Errorf("cancelled again: exit %d, %s", code, errs)
	}
}

// TestBackfillInterrupted: Ctrl-C ends the command, not the backfill.
func TestBackfillInterrupted(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.db.Exec(t, manyGroups)
	r.start()
	cmd := r.command("backfill", "member-groups", "--rows-per-second", "2000")
	log := &logBuffer{changed: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillRunning })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(log.String(), "the running connector goes on with it") {
		t.Errorf("exit %d: %s", cmd.ProcessState.ExitCode(), log)
	}
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillDone })
	if got := len(r.groups()); got != 3000 {
		t.Errorf("%d of 3000 rows", got)
	}
}

// TestBackfillRefused: what can't work is refused before it is asked for, with the reason.
func TestBackfillRefused(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema+"CREATE TABLE crm.log (id int, phone text);", backfillMappings+`
  - {name: logged, table: crm.log, on: [insert, snapshot], event: {eventKey: k, time: 1700000000000, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}}
  - {name: none, table: crm.orders, on: [insert], event: {eventKey: k, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}}
`, platformsim.Options{})
	r.db.Exec(t, "INSERT INTO crm.log SELECT n, '138' || n FROM generate_series(100, 400) n", manyGroups)
	r.start()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"nobody"}, 2, "there is no mapping nobody; the file has: member-groups"},
		{[]string{"none"}, 2, "no snapshot in its on"},
		{[]string{"member-groups", "--where", "nonsense = 1"}, 1, `column "nonsense" does not exist`},
		{[]string{"member-groups", "--since", "138"}, 1, "it has the columns phone, group_name"},
		{[]string{"member-groups", "--limit", "-1"}, 2, "0 or more"},
		{[]string{}, 2, "name one mapping"},
		{[]string{"pause", "7"}, 1, "no backfill 7 is queued"},
	} {
		out, errs, code := r.run(append([]string{"backfill"}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%v: exit %d, want %d with %q:\n%s%s", c.args, code, c.code, c.want, out, errs)
		}
	}
	if out, errs, code := r.run("backfill", "list"); code != 0 || !strings.HasPrefix(out, "no backfill is queued") {
		t.Errorf("an empty list: exit %d\n%s%s", code, out, errs)
	}
	// A table without a key, with the consequences said.
	out, errs, code := r.run("backfill", "logged")
	if code != 0 || !strings.Contains(errs, "has no primary key") || !strings.Contains(out, "301 rows settled") {
		t.Errorf("without a key: exit %d\n%s%s", code, out, errs)
	}
	if n := r.sim.Count(platformsim.Event); n != 301 {
		t.Errorf("%d events", n)
	}
	out, errs, code = r.run("backfill", "member-groups", "--dry-run", "--limit", "700")
	if code != 0 || !strings.Contains(out, "700 rows: 700 records would be sent") || r.sim.Count(platformsim.GroupRelation) != 0 {
		t.Errorf("dry run: exit %d\n%s%s", code, out, errs)
	}
	r.backfill("member-groups", "--since", "13800000501,g", "--limit", "100", "--where", "phone < '13800000511'")
	if got := r.groups(); len(got) != 10 || got[0] != "13800000501=g" {
		t.Errorf("since, limit and where: %v", got)
	}
}

// TestBackfillInitial: source.snapshot: initial backfills at the first start, once, what has snapshot in its on.
func TestBackfillInitial(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.edit("timeZone: Asia/Shanghai", "timeZone: Asia/Shanghai\n  snapshot: initial")
	r.db.Exec(t, manyGroups, "INSERT INTO crm.orders (order_no, phone, amount, status, paid_at) SELECT 'o' || n, '138' || n, n, 'paid', CASE WHEN n < 59 THEN now() END FROM generate_series(10, 59) n")
	r.start()
	done := func() int {
		reader := r.openState()
		defer reader.Close()
		list, err := reader.AllBackfills(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, b := range list {
			if b.Status == connector.BackfillDone {
				n++
			}
		}
		return n
	}
	r.waitFill(func(connector.Backfill) bool { return done() == 3 })
	if g, e, p := r.sim.Count(platformsim.GroupRelation), r.sim.Count(platformsim.Event), r.sim.Count(platformsim.Point); g != 3000 || e != 49 || p != 50 {
		t.Errorf("%d group relations, %d events, %d points", g, e, p)
	}
	// The row without a time is a dead letter, and not an event of today.
	letters := r.letters()
	if len(letters) != 1 || letters[0].Class != connector.ClassMapping || !strings.Contains(letters[0].Reason, "has no commit time") {
		t.Fatalf("dead letters %+v", letters)
	}
	// A retry maps the row that was read again, under the same uuid; here still without a time.
	if out, errs, code := r.run("deadletters", "retry", fmt.Sprint(letters[0].ID)); code != 1 || !strings.Contains(out+errs, "has no commit time") {
		t.Errorf("retry: exit %d\n%s%s", code, out, errs)
	}
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	r.start()
	r.db.Exec(t, "INSERT INTO crm.member_groups VALUES ('139', 'x')")
	r.settled()
	if n := done(); n != 3 || r.sim.Count(platformsim.GroupRelation) != 3001 {
		t.Errorf("after a restart: %d backfills, %d group relations", n, r.sim.Count(platformsim.GroupRelation))
	}
}

// TestBackfillEdited: a mapping that is edited, or taken out of the file, while it is backfilled, pauses that with a reason; and so does one that can't read its table any more.
func TestBackfillEdited(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.db.Exec(t, manyGroups)
	r.start()
	reload := func(n int) {
		t.Helper()
		if err := r.proc.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		late := time.After(wait)
		for {
			r.proc.log.mu.Lock()
			times, changed := strings.Count(r.proc.log.text.String(), "msg=streaming"), r.proc.log.changed
			r.proc.log.mu.Unlock()
			if times >= n {
				return
			}
			select {
			case <-changed:
			case <-late:
				t.Fatal("the file is not read again")
			}
		}
	}
	r.backfill("member-groups", "--detach", "--rows-per-second", "300")
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.GroupRelation) > 0 })
	r.edit("identifyWay: 1", "identifyWay: 2")
	reload(2)
	b := r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillPaused })
	if !strings.Contains(b.Reason, "was edited") {
		t.Errorf("it says %q", b.Reason)
	}
	r.backfill("resume", "member-groups")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillRunning })
	r.edit("name: member-groups", "name: members")
	reload(3)
	b = r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillPaused })
	if !strings.Contains(b.Reason, "is gone from the file") {
		t.Errorf("it says %q", b.Reason)
	}
	r.edit("name: members", "name: member-groups")
	reload(4)
	r.backfill("resume", "member-groups")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillRunning })
	r.db.Exec(t, "ALTER TABLE crm.member_groups RENAME COLUMN phone TO mobile")
	b = r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillPaused })
	if !strings.Contains(b.Reason, "phone") {
		t.Errorf("it says %q", b.Reason)
	}
	if out, _, _ := r.run("status"); !strings.Contains(out, "phone") {
		t.Errorf("status: %s", out)
	}
}

// TestBackfillSnapshotOnly: a table of which nothing but snapshots is wanted is not published, and backfilled all the same.
func TestBackfillSnapshotOnly(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, `
mappings:
  - name: member-groups
    table: crm.member_groups
    on: [snapshot]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ group_name }}
`, platformsim.Options{})
	r.db.Exec(t, manyGroups)
	r.start()
	r.backfill("member-groups")
	r.db.Exec(t, "INSERT INTO crm.member_groups VALUES ('139', 'x')")
	r.settled()
	if n := len(r.groups()); n != 3000 {
		t.Errorf("%d group relations", n)
	}
	if n := pgtest.Value[int](t, r.db, "SELECT count(*)::int FROM pg_publication_tables WHERE tablename = 'member_groups'"); n != 0 {
		t.Errorf("a table of which only snapshots are wanted is published %d times", n)
	}
}
