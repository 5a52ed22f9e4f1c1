package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// heldSchema has a table whose column grade goes away under a mapping, and one that stays.
const heldSchema = `
CREATE SCHEMA crm;
CREATE TABLE crm.members (id int PRIMARY KEY, phone text NOT NULL, grade text);
CREATE TABLE crm.visits (id int PRIMARY KEY, phone text NOT NULL);`

// heldMappings makes events of both tables; grade is how the members' mapping reads its column.
func heldMappings(grade string) string {
	return `
mappings:
  - name: member-event
    table: crm.members
    on: [insert, update]
    event:
      eventKey: c_member
      identities: [{identityType: phone, identityValue: "${{ phone }}"}]
      eventargs:
        id: ${{ id }}
        grade: ${{ ` + grade + ` }}
  - name: member-name
    table: crm.members
    on: [insert, update]
    event: {publicParams: {}, eventKey: c_name, identities: [{identityType: phone, identityValue: "${{ phone }}"}], eventargs: {id: "${{ id }}"}}
  - name: visit
    table: crm.visits
    on: [insert]
    event: {publicParams: {}, eventKey: c_visit, identities: [{identityType: phone, identityValue: "${{ phone }}"}], eventargs: {id: "${{ id }}"}}
`
}

// events gives the arguments of the events of one kind that were applied, in order.
func (r *rig) events(key string) []string {
	r.t.Helper()
	var list []string
	for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
		var e struct {
			EventKey  string
			EventArgs struct {
				ID    json.Number
				Grade string
			}
		}
		if err := json.Unmarshal(a.Record, &e); err != nil {
			r.t.Fatal(err)
		}
		if e.EventKey == key {
			list = append(list, strings.TrimSpace(e.EventArgs.ID.String()+" "+e.EventArgs.Grade))
		}
	}
	return list
}

func (r *rig) expectEvents(key string, want ...string) {
	r.t.Helper()
	r.platform(func(*platformsim.Sim) bool { return len(r.events(key)) >= len(want) })
	if got := r.events(key); !slices.Equal(got, want) {
		r.t.Errorf("%s: got %q, want %q", key, got, want)
	}
}

// status asks for the status as programs read it.
func (r *rig) status() status.Snapshot {
	r.t.Helper()
	var s status.Snapshot
	text := ""
	if r.proc != nil && r.proc.cmd.ProcessState == nil {
		_, text = r.get("/status.json")
	} else {
		text, _, _ = r.run("status", "--output", "json")
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		r.t.Fatalf("%v in %s", err, text)
	}
	return s
}

func (r *rig) reload() {
	r.t.Helper()
	if err := r.proc.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
}

// checkpointed waits until the checkpoint on disk covers a transaction that was committed after lsn.
func (r *rig) checkpointed(lsn string) {
	r.t.Helper()
	after, err := connector.ParseLSN(lsn)
	if err != nil {
		r.t.Fatal(err)
	}
	r.until(func() bool { return r.status().Checkpoint.Settled.Commit >= after })
}

// heldBack expects that PostgreSQL was not told of the transaction whose commit LSN is lsn, nor of what came after it.
func (r *rig) heldBack(lsn connector.LSN) {
	r.t.Helper()
	if !pgtest.Value[bool](r.t, r.db, `SELECT confirmed_flush_lsn <= $2::pg_lsn FROM pg_replication_slots WHERE slot_name = $1`, r.slot, lsn.String()) {
		r.t.Errorf("the slot was told of more than %s", lsn)
	}
}

// TestHeldMappingEndToEnd: a column is dropped while the connector streams. The mapping that reads it is held, across kill -9 and restarts, its WAL
// stays in the slot, and the others flow and get nothing twice. Once the file is mended it gets what it missed, before what is newer.
func TestHeldMappingEndToEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, heldSchema, heldMappings("grade"), platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.members VALUES (1, '138', 'gold')`)
	r.expectEvents("c_member", "1 gold")
	r.settled()
	r.db.Exec(t, `ALTER TABLE crm.members DROP COLUMN grade`)
	r.db.Exec(t, `INSERT INTO crm.members VALUES (2, '138')`, `INSERT INTO crm.visits VALUES (1, '138')`, `INSERT INTO crm.visits VALUES (2, '138')`)
	last := pgtest.Value[string](t, r.db, `SELECT pg_current_wal_insert_lsn()::text`)
	r.db.Exec(t, `UPDATE crm.members SET phone = phone WHERE id = 1`)
	r.proc.until("mapping held")
	r.expectEvents("c_name", "1", "2", "1")
	r.expectEvents("c_visit", "1", "2")
	s := r.status()
	alarm := ""
	for _, a := range s.Alarms {
		if a.Key == "held/member-event" {
			alarm = a.Text + " " + a.Cure
		}
	}
	for _, want := range []string{"member-event", "grade", "tuzhan-cdc.yaml:26:", "get(new,", "set-aside --mapping member-event"} {
		if !strings.Contains(alarm, want) {
			t.Errorf("the alarm does not say %q: %s", want, alarm)
		}
	}
	if text := strings.ReplaceAll(alarm, "--mapping member-event", ""); strings.Count(text, "member-event") != 1 || strings.Count(text, "tuzhan-cdc.yaml:") != 1 || strings.Count(text, "crm.members") != 1 {
		t.Errorf("the alarm repeats itself: %s", alarm)
	}
	if !slices.Equal(s.Held, []string{"member-event"}) {
		t.Errorf("held: %v", s.Held)
	}

	r.checkpointed(last)
	r.proc.kill()
	if s := r.status(); !slices.Equal(s.Held, []string{"member-event"}) || s.State != status.Stopped {
		t.Errorf("status of the stopped connector: %s, held %v", s.State, s.Held)
	}
	_, _, code := r.run("check")
	if code != 1 {
		t.Errorf("check exits with %d while a mapping can't read its table", code)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.members VALUES (3, '138')`, `INSERT INTO crm.visits VALUES (3, '138')`)
	r.expectEvents("c_visit", "1", "2", "3")
	r.expectEvents("c_name", "1", "2", "1", "3")
	if code := r.proc.terminate(); code != 0 {
		t.Errorf("exit %d", code)
	}
	r.heldBack(s.HeldMappings[0].Since.Commit) // a keep-alive's WAL end may lie close before it

	// A reload with an error changes nothing; a good one lets the mapping go on.
	r.start()
	r.write(heldMappings(`get(new, "grade"`), "")
	r.reload()
	r.proc.until("the former one stays in force")
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (4, '138')`)
	r.expectEvents("c_visit", "1", "2", "3", "4")
	r.write(heldMappings(`get(new, "grade") ?? "none"`), "")
	r.reload()
	r.proc.until("configuration read again")
	r.expectEvents("c_member", "1 gold", "2 none", "1 none", "3 none")
	r.db.Exec(t, `INSERT INTO crm.members VALUES (4, '138')`)
	r.settled()
	r.expectEvents("c_member", "1 gold", "2 none", "1 none", "3 none", "4 none")
	r.expectEvents("c_name", "1", "2", "1", "3", "4")
	r.proc.until("mapping has caught up")
	if s := r.status(); len(s.Held) > 0 || len(s.HeldMappings) > 0 || len(s.Alarms) > 0 {
		t.Errorf("held %v %v, alarms %v", s.Held, s.HeldMappings, s.Alarms)
	}
	if letters := r.letters(); len(letters) > 0 {
		t.Errorf("%d dead letters", len(letters))
	}
	r.noViolations()
}

// TestHeldSetAsideEndToEnd: set-aside turns the changes of a held mapping into letters that hold them, later ones too, and the slot moves on; once the
// mapping is mended it flows again.
func TestHeldSetAsideEndToEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, heldSchema, heldMappings("grade"), platformsim.Options{})
	r.start()
	if _, errs, code := r.run("deadletters", "set-aside", "--mapping", "member-event"); code != 1 || !strings.Contains(errs, "not held") {
		t.Errorf("exit %d: %s", code, errs)
	}
	r.db.Exec(t, `ALTER TABLE crm.members RENAME COLUMN grade TO level`, `INSERT INTO crm.members SELECT i, '138', 'gold' FROM generate_series(1, 30) i`)
	r.proc.until("mapping held")
	r.until(func() bool { return r.heldOnDisk("member-event") })
	if out, errs, code := r.run("deadletters", "set-aside", "--mapping", "member-event"); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	r.settled()
	r.db.Exec(t, `INSERT INTO crm.members VALUES (31, '138', 'gold')`)
	r.settled()
	letters := r.letters("--mapping", "member-event")
	if len(letters) != 31 {
		t.Fatalf("%d letters", len(letters))
	}
	for i, l := range letters {
		if l.Class != connector.ClassMapping || !strings.Contains(string(l.Change), `"level": "gold"`) || !strings.Contains(l.Reason, "no column grade") {
			t.Errorf("letter %d: %s %s %s", i, l.Class, l.Reason, l.Change)
		}
	}
	r.proc.kill() // and it stays so across a restart
	r.start()
	r.db.Exec(t, `INSERT INTO crm.members VALUES (32, '138', 'silver')`)
	r.settled()
	if n := len(r.letters("--mapping", "member-event")); n != 32 {
		t.Errorf("%d letters", n)
	}
	r.write(heldMappings("level"), "")
	r.reload()
	r.proc.until("configuration read again")
	r.db.Exec(t, `INSERT INTO crm.members VALUES (33, '138', 'silver')`)
	r.expectEvents("c_member", "33 silver")
	r.settled()
	if n := len(r.letters()); n != 32 {
		t.Errorf("%d letters", n)
	}
	r.until(func() bool { return len(r.status().HeldMappings) == 0 })
	if n := len(r.events("c_name")); n != 33 {
		t.Errorf("%d events of the other mapping", n)
	}
}

// TestHeldAtBudget: a held mapping never fills the server's disk: at walBudget its changes are set aside by themselves.
func TestHeldAtBudget(t *testing.T) {
	t.Parallel()
	r := newRig(t, heldSchema+`CREATE TABLE crm.busy (x text);`, heldMappings("grade"), platformsim.Options{})
	r.edit("  timeZone: Asia/Shanghai\n", "  timeZone: Asia/Shanghai\n  walBudget: 3MiB\n")
	r.start()
	r.db.Exec(t, `ALTER TABLE crm.members ALTER COLUMN grade TYPE int USING 0`, `ALTER TABLE crm.members DROP COLUMN grade`, `INSERT INTO crm.members VALUES (1, '138')`)
	r.proc.until("mapping held")
	r.db.Exec(t, `INSERT INTO crm.busy SELECT repeat(md5(i::text), 50) FROM generate_series(1, 3000) i`)
	r.proc.until("source.walBudget is reached")
	r.settled()
	if letters := r.letters("--mapping", "member-event"); len(letters) != 1 {
		t.Errorf("%d letters", len(letters))
	}
}

// TestGoneMapping: a mapping whose changes wait can't be taken out of the file before they are given up.
func TestGoneMapping(t *testing.T) {
	t.Parallel()
	r := newRig(t, heldSchema, heldMappings("grade"), platformsim.Options{})
	r.start()
	r.db.Exec(t, `ALTER TABLE crm.members DROP COLUMN grade`, `INSERT INTO crm.members VALUES (1, '138')`)
	r.proc.until("mapping held")
	r.until(func() bool { return r.heldOnDisk("member-event") })
	all := heldMappings("grade")
	_, rest, _ := strings.Cut(all, "  - name: member-name")
	rest = "mappings:\n  - name: member-name" + rest
	r.write(rest, "")
	r.reload() // refused, and the former one stays in force
	r.proc.until("the former one stays in force")
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (1, '138')`)
	r.expectEvents("c_visit", "1")
	if code := r.proc.terminate(); code != 0 {
		t.Errorf("exit %d", code)
	}
	r.launch()
	if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "deadletters set-aside --mapping") || strings.Contains(r.proc.log.String(), "msg=streaming") {
		t.Errorf("exit %d: %s", code, r.proc.log)
	}
	r.write(all, "")
	if _, errs, code := r.run("deadletters", "set-aside", "--mapping", "member-event"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	r.start()
	r.settled()
	if n := len(r.letters()); n != 1 {
		t.Errorf("%d letters", n)
	}
	r.write(rest, "")
	r.reload()
	r.proc.until("configuration read again")
	r.db.Exec(t, `INSERT INTO crm.members VALUES (2, '138')`)
	r.settled()
	r.expectEvents("c_name", "1", "2")
	if s := r.status(); len(s.HeldMappings) > 0 || len(s.Alarms) > 0 {
		t.Errorf("held %v, alarms %v", s.HeldMappings, s.Alarms)
	}
}

// TestReloadMends: the alarm of an endpoint that refused the set-up ends with the reload that mends it.
func TestReloadMends(t *testing.T) {
	t.Parallel()
	r := newRig(t, lineageSchema, pointMappings, platformsim.Options{})
	r.edit("{point: /point/increase}", "{point: /wrong}")
	r.start()
	r.visit(1)
	r.until(func() bool { code, why := r.get("/readyz"); return code == 503 && strings.Contains(why, "HTTP 404") })
	r.edit("{point: /wrong}", "{point: /point/increase}")
	r.reload()
	r.applied(platformsim.Point, 1)
	r.settled()
	r.until(func() bool { code, _ := r.get("/readyz"); return code == 200 })
	if s := r.status(); len(s.Alarms) > 0 {
		t.Errorf("alarms %+v", s.Alarms)
	}
}

// until waits for what only the program's answers tell.
func (r *rig) until(ok func() bool) {
	r.t.Helper()
	for began := time.Now(); time.Since(began) < wait; {
		if ok() {
			return
		}
		r.db.Exec(r.t, `SELECT pg_sleep(0.05)`)
	}
	r.t.Fatal("it does not come about")
}

// heldOnDisk reports whether the state file knows that a mapping is held.
func (r *rig) heldOnDisk(name string) bool {
	r.t.Helper()
	out, errs, code := r.run("status", "--output", "json")
	var s status.Snapshot
	if err := json.Unmarshal([]byte(out), &s); code != 0 || err != nil {
		r.t.Fatalf("status: exit %d, %v: %s", code, err, errs)
	}
	return slices.Contains(s.Held, name)
}

// edit changes the file.
func (r *rig) edit(from, to string) {
	r.t.Helper()
	replaceInFile(r.t, r.file, from, to)
}

func replaceInFile(t *testing.T, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("%s does not hold %q", path, from)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from, to)), 0o600); err != nil {
		t.Fatal(err)
	}
}
