package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

// refuses rejects every request that carries a text, until the faults are cleared.
func (r *rig) refuses(text string) {
	r.t.Helper()
	r.inject(platformsim.Fault{Match: text, Count: -1, Action: platformsim.AnswerCode, Code: "100001", Msg: "not now"})
}

// exits runs a command that must end with the exit code, and gives all that it printed.
func (r *rig) exits(want int, args ...string) string {
	r.t.Helper()
	out, errs, code := r.run(args...)
	if code != want {
		r.t.Errorf("%s: exit %d, want %d\n%s%s", strings.Join(args, " "), code, want, out, errs)
	}
	return out + errs
}

func says(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// openLetters waits for so many open dead letters, and gives them.
func (r *rig) openLetters(n int) []status.Letter {
	r.t.Helper()
	r.settled()
	list := r.letters()
	if len(list) != n {
		r.t.Fatalf("%d open dead letters, want %d: %+v", len(list), n, list)
	}
	return list
}

// TestRetryBesideRunningConnector: rejected records of all kinds are sent again by the running connector, without a restart of its pipeline, with the uuid that they had, and behind
// what of their customer is in flight. What fails again keeps its letter, with what the platform says now.
func TestRetryBesideRunningConnector(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.refuses("X1")
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('X1', '138', 7, 'paid')`, `INSERT INTO crm.member_groups VALUES ('138', 'X1')`)
	before := r.openLetters(3)
	text := r.exits(1, "deadletters", "retry", "--all")
	says(t, text, "0 delivered, 3 still open", "rejected")
	again := r.letters()
	for i, l := range again {
		if l.ID != before[i].ID || string(l.Payload) != string(before[i].Payload) || l.Attempts != before[i].Attempts+1 || l.Answer == nil || l.Answer.Code != "100001" || l.Retried == "" {
			t.Errorf("after a retry that failed: %+v, before %+v", l, before[i])
		}
	}
	r.sim.ClearFaults()
	gate := make(chan struct{})
	inFlight := r.inject(platformsim.Fault{Endpoint: platformsim.Event, Match: "Y1", Gate: gate})
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('Y1', '138', 8, 'paid')`)
	r.platform(func(s *platformsim.Sim) bool { return s.Hits(inFlight) == 1 })
	done := make(chan string)
	go func() { done <- r.exits(0, "deadletters", "retry", "--class", "rejected") }()
	r.until(func() bool { return r.status().Pending.Records >= 4 })
	if n := len(r.sim.Ledger()); n != 0 {
		t.Errorf("%d records overtook their customer's", n)
	}
	close(gate)
	says(t, <-done, "3 delivered")
	events := r.sim.LedgerSince(0, platformsim.Event)
	if len(events) != 2 || !strings.Contains(string(events[0].Record), "Y1") || !strings.Contains(string(before[0].Payload)+string(before[1].Payload)+string(before[2].Payload), events[1].UUID) {
		t.Errorf("events %+v", events)
	}
	if p := r.sim.Points()["138"]; p != 15 {
		t.Errorf("%d points", p)
	}
	if n := len(r.letters()); n != 0 {
		t.Errorf("%d are open", n)
	}
	for _, l := range r.letters("--all") {
		if l.Resolution != "delivered" || l.Closed == nil || l.Class != connector.ClassRejected || l.Retried != "" {
			t.Errorf("closed: %+v", l)
		}
	}
	if n := strings.Count(r.proc.log.String(), "msg=streaming"); n != 1 {
		t.Errorf("streaming began %d times", n)
	}
	if text := r.proc.log.String(); strings.Contains(text, "X1") || strings.Contains(text, "not now") {
		t.Errorf("row data or the platform's message in the log:\n%s", text)
	}
	r.noViolations()
}

// TestRetryWithoutConnector: the command delivers by itself. Ids that are unknown or closed are said, and the others done; a wrong selection is a usage error.
func TestRetryWithoutConnector(t *testing.T) {
	t.Parallel()
	for name, onServer := range map[string]bool{"state file": false, "state on a server": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
			if onServer {
				r.onServer(r.db, crmMappings)
			}
			r.start()
			r.refuses("X")
			r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('X1', '131', 7, 'paid'), ('X2', '132', 7, 'paid'), ('X3', '133', 7, 'paid')`)
			letters := r.openLetters(6)
			id := func(i int) string { return fmt.Sprint(letters[i].ID) }
			if code := r.proc.terminate(); code != 0 {
				t.Fatalf("exit %d", code)
			}
			for _, args := range [][]string{{}, {"--all", "--class", "rejected"}, {id(0), "--all"}, {"--mapping", "x", "--class", "rejected"}, {"--class", "wrong"}, {"x"}, {"0"},
				{id(0), "--since", "1h"}, {"--all", "--since", "yesterday"}} {
				for _, command := range []string{"retry", "drop"} {
					r.exits(2, append([]string{"deadletters", command}, args...)...)
				}
			}
			if n := len(r.letters()); n != 6 {
				t.Fatalf("%d are open", n)
			}
			says(t, r.exits(1, "deadletters", "retry", id(0)), "no connector runs", "stays open, rejected", "1 still open")
			r.sim.ClearFaults()
			says(t, r.exits(0, "deadletters", "drop", id(5)), "1 dropped")
			says(t, r.exits(1, "deadletters", "retry", id(0), id(5), "999999"), "dead letter "+id(5)+" is closed: dropped", "there is no dead letter 999999", "dead letter "+id(0)+": delivered")
			says(t, r.exits(1, "deadletters", "drop", id(0), id(1), "999999"), "is closed: delivered", "no dead letter 999999", "1 dropped")
			r.exits(0, "deadletters", "retry", "--all", "--until", "2001-01-01")
			if n := len(r.letters()); n != 3 {
				t.Errorf("%d are open", n)
			}
			says(t, r.exits(0, "deadletters", "retry", "--all", "--since", "1h"), "3 delivered")
			if n := len(r.sim.Ledger()); n != 4 {
				t.Errorf("%d records, want 4", n)
			}
			r.start()
			r.settled()
			if n := len(r.sim.Ledger()); n != 4 {
				t.Errorf("%d records after a start, want 4", n)
			}
		})
	}
}

const goodsMappings = `
mappings:
  - name: order
    table: crm.orders
    on: [insert]
    event: {publicParams: {}, eventKey: c_buy, identities: [{identityType: phone, identityValue: "${{ phone }}"}], eventargs: {c_goods: '${{ GOODS }}', c_order: "${{ order_no }}"}}
`

// TestRetryMapsAgain: a letter of class mapping is mapped again by the mapping as it is now: it is delivered with the uuid that it would have had, stays open with the new
// reason, or is closed where the mapping wants nothing of it any more. A mapping that is gone from the file is said.
func TestRetryMapsAgain(t *testing.T) {
	t.Parallel()
	mapped := func(goods, when string) string {
		return strings.Replace(strings.Replace(goodsMappings, "GOODS", goods, 1), "    event:", when+"    event:", 1)
	}
	r := newRig(t, crmSchema, mapped("upper(goods)", ""), platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, goods, amount, status) SELECT 'X' || i, '13' || i, NULL, 7, 'paid' FROM generate_series(1, 3) i`)
	letters := r.openLetters(3)
	for _, l := range letters {
		if l.Class != connector.ClassMapping || len(l.Payload) > 0 || len(l.Change) == 0 {
			t.Fatalf("%+v", l)
		}
	}
	first, second, third := fmt.Sprint(letters[0].ID), fmt.Sprint(letters[1].ID), fmt.Sprint(letters[2].ID)
	reload := func(mappings string) {
		t.Helper()
		r.write(mappings, "")
		n := strings.Count(r.proc.log.String(), "msg=streaming")
		r.reload()
		r.until(func() bool { return strings.Count(r.proc.log.String(), "msg=streaming") > n })
	}
	reload(mapped("lower(goods)", "    when: true\n"))
	says(t, r.exits(1, "deadletters", "retry", first), "stays open, mapping")
	l := r.letters()[0]
	if l.Class != connector.ClassMapping || l.Attempts != letters[0].Attempts+1 || string(l.Change) != string(letters[0].Change) || l.Reason == letters[0].Reason {
		t.Errorf("%+v\nbefore %+v", l, letters[0])
	}
	reload(strings.Replace(mapped("goods", ""), "name: order", "name: other", 1))
	says(t, r.exits(1, "deadletters", "retry", first), "mapping order is gone from the file")
	reload(mapped(`goods ?? "none"`, ""))
	r.refuses("X1")
	says(t, r.exits(1, "deadletters", "retry", first), "stays open, mapping")
	if l := r.letters()[0]; l.Class != connector.ClassMapping || len(l.Payload) > 0 || l.Answer == nil || !strings.Contains(l.Reason, "mapped again, but") {
		t.Errorf("rejected after it was mapped again: %+v", l)
	}
	r.sim.ClearFaults()
	says(t, r.exits(0, "deadletters", "retry", first), "delivered")
	reload(mapped(`goods ?? "none"`, "    when: order_no != \"X2\"\n"))
	says(t, r.exits(0, "deadletters", "retry", second), "passed over")
	r.proc.terminate()
	says(t, r.exits(0, "deadletters", "retry", third), "1 delivered")
	lineage := r.checkpoint(func(*connector.Checkpoint) bool { return true }).Lineage
	for i, l := range []status.Letter{letters[0], letters[2]} {
		want := mapping.RecordUUID(lineage.SystemID, lineage.Database, connector.RecordID{Mapping: l.Mapping, Position: l.Position, CommitTime: l.CommitTime})
		if applied := r.sim.LedgerSince(0, platformsim.Event); len(applied) != 2 || applied[i].UUID != want {
			t.Errorf("event %d: want uuid %s in %+v", i, want, applied)
		}
	}
	if n := len(r.letters()); n != 0 {
		t.Errorf("%d are open", n)
	}
	if all := r.letters("--all"); all[1].Resolution != "passed over" {
		t.Errorf("%+v", all[1])
	}
}

// TestRetryOfSeveralRecords: a letter whose change makes two records now closes only when both are delivered.
func TestRetryOfSeveralRecords(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, strings.Replace(crmMappings, "    groupRelation:", "    when: group_name != \"bad\" || int(group_name) > 0\n    groupRelation:", 1), platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('131', 'a')`, `UPDATE crm.member_groups SET phone = '132', group_name = 'bad'`)
	id := fmt.Sprint(r.openLetters(1)[0].ID)
	r.proc.terminate()
	r.write(crmMappings, "")
	r.refuses("132")
	says(t, r.exits(1, "deadletters", "retry", id), "stays open, mapping")
	r.sim.ClearFaults()
	says(t, r.exits(0, "deadletters", "retry", id), "1 delivered")
	var got []string
	for _, a := range r.sim.LedgerSince(0, platformsim.GroupRelation) {
		got = append(got, a.OptType+" "+a.Customer)
	}
	slices.Sort(got) // two customers' have no order
	if want := []string{"add 131", "add 132", "delete 131", "delete 131"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestRetryMapsPointAgain: a point that was mapped again and then became uncertain is not sent again by itself, and its letter shows what was sent.
func TestRetryMapsPointAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('X1', '131', -7, 'paid')`) // there is no path for negative points
	l := r.openLetters(1)[0]
	id := fmt.Sprint(l.ID)
	if l.Class != connector.ClassMapping || l.Kind != "point" {
		t.Fatalf("%+v", l)
	}
	r.edit("int(floor(amount))", "-int(floor(amount))")
	r.proc.terminate()
	r.inject(platformsim.Fault{Endpoint: platformsim.Point, Match: "X1", Action: platformsim.ApplyThenCut})
	says(t, r.exits(1, "deadletters", "retry", id), "stays open, uncertain")
	if l := r.letters()[0]; l.Class != connector.ClassUncertain || !strings.Contains(string(l.Payload), "X1") || len(l.Change) == 0 {
		t.Errorf("%+v", l)
	}
	r.exits(2, "deadletters", "retry", id)
	r.start()
	r.settled()
	if n := r.sim.Count(platformsim.Point); n != 1 {
		t.Errorf("%d points", n)
	}
	says(t, r.exits(0, "deadletters", "retry", id, "--yes-i-checked"), "1 delivered")
}

// TestRetryUncertain: a point that may have been applied is sent again only by who says that he has looked.
func TestRetryUncertain(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.inject(platformsim.Fault{Endpoint: platformsim.Point, Match: "X1", Action: platformsim.CutBeforeApply})
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('X1', '131', 7, 'paid')`)
	id := fmt.Sprint(r.openLetters(1)[0].ID)
	for _, args := range [][]string{{id}, {"--class", "uncertain"}} {
		says(t, r.exits(2, append([]string{"deadletters", "retry"}, args...)...), "--yes-i-checked", "Nothing was sent")
	}
	says(t, r.exits(0, "deadletters", "retry", "--all"), "left out: 1 of class uncertain", "0 delivered")
	if n := r.sim.Count(platformsim.Point); n != 0 {
		t.Errorf("%d points", n)
	}
	r.inject(platformsim.Fault{Endpoint: platformsim.Point, Match: "X1", Action: platformsim.CutBeforeApply})
	says(t, r.exits(1, "deadletters", "retry", id, "--yes-i-checked"), "stays open, uncertain")
	says(t, r.exits(0, "deadletters", "retry", id, "--yes-i-checked"), "1 delivered")
	if n := r.sim.Count(platformsim.Point); n != 1 {
		t.Errorf("%d points", n)
	}
}

// TestKillDuringRetry: the process is killed while the request of a retried point is on its way. The letter is of class uncertain from then on, whatever it was before, is not sent
// again by itself nor without --yes-i-checked, and the point is not doubled. Events that were asked for are sent again by the next start.
func TestKillDuringRetry(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ beside, onServer bool }{"running connector": {true, false}, "command": {false, false}, "state on a server": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			beside := c.beside
			r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
			if c.onServer {
				r.onServer(r.db, crmMappings)
			}
			r.start()
			r.refuses("X1")
			r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('X1', '131', 7, 'paid')`)
			letters := r.openLetters(2)
			r.sim.ClearFaults()
			gate := make(chan struct{})
			defer close(gate)
			on := r.inject(platformsim.Fault{Endpoint: platformsim.Point, Gate: gate, WaitAfter: true})
			point := fmt.Sprint(letters[slices.IndexFunc(letters, func(l status.Letter) bool { return l.Kind == "point" })].ID)
			sent := func(s *platformsim.Sim) bool { return s.Hits(on) == 1 && s.Count(platformsim.Point) == 1 }
			if beside {
				says(t, r.exits(0, "deadletters", "retry", "--detach", "--all"), "asked for: 2")
				r.platform(sent)
				says(t, r.exits(1, "deadletters", "drop", point), "is being sent again just now", "0 dropped")
				r.proc.kill()
			} else {
				r.proc.terminate()
				cmd := r.command("deadletters", "retry", "--all")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				r.platform(sent)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait() // it was killed
			}
			uncertain := func() {
				t.Helper()
				list := r.letters("--class", "uncertain")
				if len(list) != 1 || list[0].Kind != "point" || string(list[0].Payload) == "" || !strings.Contains(list[0].Reason, "may or may not have been applied") {
					t.Errorf("%+v", list)
				}
			}
			uncertain()
			r.exits(2, "deadletters", "retry", point)
			r.start()
			r.until(func() bool { return len(r.letters()) == 1 }) // the event's was delivered
			r.settled()
			uncertain()
			if l := r.letters()[0]; l.Retrying || l.Retried == "" {
				t.Errorf("%+v", l)
			}
			if n := r.sim.Count(platformsim.Point); n != 1 {
				t.Errorf("%d points", n)
			}
			if n := len(r.uuids()); n != 1 {
				t.Errorf("%d events", n)
			}
			says(t, r.exits(0, "deadletters", "drop", point), "1 dropped")
		})
	}
}

// TestRetryInterrupted: Ctrl-C leaves a retry to the running connector; without one what was not sent stays as it was.
func TestRetryInterrupted(t *testing.T) {
	t.Parallel()
	for name, beside := range map[string]bool{"running connector": true, "command": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lineageSchema, lineageMappings, platformsim.Options{})
			r.write(lineageMappings, "delivery: {backoff: {initial: 20ms, max: 200ms}}")
			r.start()
			r.refuses("138")
			r.visit(1)
			id := fmt.Sprint(r.openLetters(1)[0].ID)
			r.sim.ClearFaults()
			down := r.inject(platformsim.Fault{Endpoint: platformsim.Event, Count: -1, Action: platformsim.AnswerStatus, Status: 503})
			if !beside {
				r.proc.terminate()
			}
			cmd := r.command("deadletters", "retry", id)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r.platform(func(s *platformsim.Sim) bool { return s.Hits(down) > 1 })
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its exit code tells
			says(t, out.String(), "interrupted")
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit %d", code)
			}
			if l := r.letters(); len(l) != 1 || l[0].Retrying != beside || l[0].Class != connector.ClassRejected {
				t.Errorf("%+v", l)
			}
			if beside { // a new pipeline takes it over
				r.reload()
				r.until(func() bool { return strings.Count(r.proc.log.String(), "msg=streaming") == 2 })
			}
			r.sim.ClearFaults()
			if !beside {
				says(t, r.exits(0, "deadletters", "retry", id), "1 delivered")
			}
			r.until(func() bool { return len(r.letters()) == 0 })
			r.expectEvents("c_visit", "1")
		})
	}
}

// TestOvertakenLetters: a group relation that a newer one of the same customer has overtaken since is not sent again, unless anyway, and list and show tell so; that outlives a kill -9. One that
// nothing has overtaken is sent. It holds for letters of class mapping too.
func TestOvertakenLetters(t *testing.T) {
	t.Parallel()
	mappings := strings.Replace(crmMappings, "    groupRelation:", "    when: group_name != \"bad\" || int(group_name) > 0\n    groupRelation:", 1)
	r := newRig(t, crmSchema, mappings, platformsim.Options{})
	r.start()
	r.refuses("X1")
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('131', 'X1'), ('132', 'X1'), ('133', 'bad'), ('134', 'bad')`)
	r.openLetters(4)
	// The delete of 131 stands for what an operator did meanwhile by another row.
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('131', 'Y'), ('133', 'Y')`)
	r.applied(platformsim.GroupRelation, 2)
	r.until(func() bool {
		n := 0
		for _, l := range r.letters() {
			if l.Overtaken {
				n++
			}
		}
		return n == 2
	})
	r.settled()
	r.proc.kill()
	r.sim.ClearFaults()
	over := map[bool][]string{}
	for _, l := range r.letters() {
		over[l.Overtaken] = append(over[l.Overtaken], fmt.Sprint(l.ID))
		if l.Overtaken {
			says(t, r.exits(0, "deadletters", "show", fmt.Sprint(l.ID)), "overtaken", "--anyway")
		}
	}
	if len(over[true]) != 2 {
		t.Fatalf("overtaken %v", over)
	}
	says(t, r.exits(0, "deadletters", "list"), "overtaken")
	r.write(crmMappings, "")
	r.start()
	says(t, r.exits(0, "deadletters", "retry", "--all"), "left out: 2 group relations", "2 delivered")
	says(t, r.exits(1, "deadletters", "retry", over[true][0]), "--anyway")
	if n := r.sim.Count(platformsim.GroupRelation); n != 4 {
		t.Errorf("%d group relations", n)
	}
	says(t, r.exits(0, "deadletters", "retry", "--all", "--anyway"), "2 delivered")
	if n := r.sim.Count(platformsim.GroupRelation); n != 6 {
		t.Errorf("%d group relations", n)
	}
	r.noViolations()
}

// TestPendingOvertakes: what is newer and still on its way overtakes a retry too.
func TestPendingOvertakes(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.refuses("X1")
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('131', 'X1')`)
	id := fmt.Sprint(r.openLetters(1)[0].ID)
	r.sim.ClearFaults()
	gate := make(chan struct{})
	on := r.inject(platformsim.Fault{Endpoint: platformsim.GroupRelation, Gate: gate})
	r.db.Exec(t, `DELETE FROM crm.member_groups`)
	r.platform(func(s *platformsim.Sim) bool { return s.Hits(on) == 1 })
	says(t, r.exits(1, "deadletters", "retry", id), "a newer group relation of the same customer has overtaken it")
	close(gate)
	r.settled()
	if l := r.sim.LedgerSince(0, platformsim.GroupRelation); len(l) != 1 || l[0].OptType != "delete" {
		t.Errorf("%+v", l)
	}
	if l := r.letters(); len(l) != 1 || !l[0].Overtaken {
		t.Errorf("%+v", l)
	}
}

// TestDropEndsPause: a pause for too many dead letters ends when some are dropped, or sent again, which passes the pause.
func TestDropEndsPause(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"drop", "retry"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
			r.write(crmMappings, "delivery: {maxDeadLetters: 2, backoff: {initial: 1s, max: 1h}}")
			r.start()
			r.refuses("X")
			r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '13' || i, 'X' FROM generate_series(1, 3) i`)
			r.until(func() bool { return r.status().Paused })
			r.sim.ClearFaults()
			r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('139', 'Y')`)
			if n := r.sim.Count(platformsim.GroupRelation); n != 0 {
				t.Errorf("%d sent in a pause", n)
			}
			says(t, r.exits(0, "deadletters", command, "--all"), "3 d")
			r.settled()
			if n := r.sim.Count(platformsim.GroupRelation); n != map[string]int{"drop": 1, "retry": 4}[command] {
				t.Errorf("%d group relations", n)
			}
		})
	}
}

// TestLettersEncrypted: with state.keyFile nothing of a customer stands readable in the state, commands read it with the key and say so without it; and closed letters are deleted
// after state.keepDeadLetters.
func TestLettersEncrypted(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	dir := filepath.Dir(r.file)
	plain := r.state
	r.state = strings.Replace(plain, "}", ", keyFile: letters.key}", 1)
	r.write(crmMappings, "")
	r.launch()
	if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "openssl rand -hex 32") {
		t.Errorf("without the file: exit %d\n%s", code, r.proc.log)
	}
	if err := os.WriteFile(filepath.Join(dir, "letters.key"), []byte(strings.Repeat("0f", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.inject(platformsim.Fault{Match: "13800001111", Count: -1, Action: platformsim.AnswerCode, Code: "100001", Msg: "13800001111 is unknown"})
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('X1', '13800001111', 7, 'paid'), ('X2', '13800001111', -7, 'paid')`)
	r.openLetters(4)
	for _, file := range []string{"state.db", "state.db-wal"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil && strings.Contains(string(b), "13800001111") {
			t.Errorf("%s holds a phone", file)
		}
	}
	for _, l := range r.letters() {
		if !strings.Contains(string(l.Payload)+string(l.Change), "13800001111") || l.Answer != nil && l.Answer.Msg != "13800001111 is unknown" {
			t.Errorf("%+v", l)
		}
	}
	r.state = plain
	r.write(crmMappings, "")
	for _, args := range [][]string{{"deadletters", "list"}, {"deadletters", "retry", "--all"}, {"check"}, {"run"}} {
		if args[0] == "run" {
			r.proc.terminate()
		}
		says(t, r.exits(1, args...), "encrypted")
	}
	r.sim.ClearFaults()
	r.state = strings.Replace(plain, "}", ", keyFile: letters.key, keepDeadLetters: 1ms}", 1)
	r.write(crmMappings, "")
	says(t, r.exits(0, "deadletters", "retry", "--class", "rejected"), "3 delivered")
	if n := len(r.letters("--all")); n != 4 {
		t.Errorf("%d letters", n)
	}
	r.start()
	r.until(func() bool { return len(r.letters("--all")) == 1 })
	if l := r.letters(); len(l) != 1 || l[0].Class != connector.ClassMapping {
		t.Errorf("%+v", l)
	}
}

// TestListByTimeAndPage: list takes times as people write them, and pages.
func TestListByTimeAndPage(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.refuses("X")
	r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '13' || i, 'X' FROM generate_series(1, 5) i`)
	all := r.openLetters(5)
	for _, c := range []struct {
		args string
		n    int
	}{{"--since 1h", 5}, {"--since 2001-01-01 --until 2h", 0}, {"--until 2001-01-01T00:00:00+08:00", 0}, {"--since 2001-01-01T00:00:00Z", 5}, {"--limit 2", 2},
		{fmt.Sprintf("--limit 2 --after %d", all[3].ID), 1}} {
		if n := len(r.letters(strings.Fields(c.args)...)); n != c.n {
			t.Errorf("%s: %d, want %d", c.args, n, c.n)
		}
	}
	var one map[string]any
	out, _, _ := r.run("deadletters", "show", fmt.Sprint(all[0].ID), "--output", "json")
	if err := json.Unmarshal([]byte(out), &one); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"id", "class", "mapping", "kind", "position", "commitTime", "payload", "attempts", "answer", "overtaken"} {
		if _, there := one[key]; !there {
			t.Errorf("%s is missing in %s", key, out)
		}
	}
}
