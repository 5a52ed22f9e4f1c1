package main

import (
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// newStartsHeld stops a connector that has streamed, takes a column away from under a mapping, and starts it again: the mapping is held from its next
// change on.
func newStartsHeld(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, heldSchema, heldMappings("grade"), platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (1, '138')`)
	r.settled()
	r.stop()
	r.db.Exec(t, `ALTER TABLE crm.members RENAME COLUMN grade TO level`)
	r.start()
	s := r.status()
	if len(s.HeldMappings) != 1 || len(s.Alarms) != 1 || s.Alarms[0].Key != "held/member-event" || !strings.Contains(s.Alarms[0].Text, "held from its next change on") ||
		!strings.Contains(s.Alarms[0].Cure, "set-aside --mapping member-event") {
		t.Errorf("held %+v, alarms %+v", s.HeldMappings, s.Alarms)
	}
	return r
}

// TestStartsHeldMended: a reload that mends the mapping ends the alarm, also before a change has come.
func TestStartsHeldMended(t *testing.T) {
	t.Parallel()
	r := newStartsHeld(t)
	r.write(heldMappings("level"), "")
	r.reload()
	r.until(func() bool { s := r.status(); return len(s.HeldMappings) == 0 && len(s.Alarms) == 0 })
	r.db.Exec(t, `INSERT INTO crm.members VALUES (1, '138', 'gold')`)
	r.expectEvents("c_member", "1 gold")
}

// TestStartsHeldSetAside: what a mapping that starts held can't read is set aside from its first change on, across kill -9, until it is mended.
func TestStartsHeldSetAside(t *testing.T) {
	t.Parallel()
	r := newStartsHeld(t)
	notHeld := func(args ...string) {
		t.Helper()
		if _, errs, code := r.run(args...); code != 1 || !strings.Contains(errs, "not held") {
			t.Errorf("exit %d: %s", code, errs)
		}
	}
	notHeld("deadletters", "set-aside", "--mapping", "visit")
	_, rest, _ := strings.Cut(r.proc.log.String(), "address=")
	address, _, _ := strings.Cut(rest, "\n")
	r.edit(`"127.0.0.1:0"`, `"`+address+`"`) // now commands ask the connector
	notHeld("deadletters", "set-aside", "--mapping", "visit")
	notHeld("resume", "--mapping", "member-event")
	if _, errs, code := r.run("deadletters", "set-aside", "--mapping", "member-event"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	r.edit(`"`+address+`"`, `"127.0.0.1:0"`)
	r.proc.until("what a held mapping waits with becomes dead letters")
	r.until(func() bool { return r.logged("msg=streaming") == 2 })
	r.db.Exec(t, `INSERT INTO crm.members VALUES (1, '138', 'gold')`)
	r.settled()
	r.proc.kill()
	r.start()
	r.db.Exec(t, `INSERT INTO crm.members VALUES (2, '138', 'gold')`)
	r.settled()
	letters := r.letters()
	if len(letters) != 2 || letters[0].Class != connector.ClassMapping || letters[1].Mapping != "member-event" {
		t.Errorf("letters %+v", letters)
	}
	r.expectEvents("c_name", "1", "2")
	r.write(heldMappings("level"), "")
	r.reload()
	r.proc.until("configuration read again")
	r.db.Exec(t, `INSERT INTO crm.members VALUES (3, '138', 'gold')`)
	r.expectEvents("c_member", "3 gold")
	r.until(func() bool { s := r.status(); return len(s.HeldMappings) == 0 && len(s.Alarms) == 0 })
}
