package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// groupsOnly is the part of crmMappings without points, which a connector without a state may take a slot over with.
var groupsOnly = "\nmappings:\n" + crmMappings[strings.Index(crmMappings, "  - name: member-groups"):]

// source writes the file again with more keys under source.
func (r *rig) source(mappings, extra string, keys ...string) {
	r.t.Helper()
	r.write(mappings, extra)
	text, err := os.ReadFile(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	changed := strings.Replace(string(text), "  timeZone:", "  "+strings.Join(keys, "\n  ")+"\n  timeZone:", 1)
	if err := os.WriteFile(r.file, []byte(changed), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// TestFastStopWhileUnsettled: a fast shutdown of the database does not wait for a platform that is down (fact F15), and nothing is lost by that.
func TestFastStopWhileUnsettled(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), crmSchema, crmMappings, platformsim.Options{})
	r.write(crmMappings, "delivery: {backoff: {initial: 20ms, max: 200ms}}")
	r.start()
	r.sim.Down(platformsim.DownUnavailable)
	r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '13' || i, 'a' FROM generate_series(1, 500) i`)
	r.proc.until("endpoint groupRelation")
	began := time.Now()
	server.Stop(t, throwaway.Fast)
	if took := time.Since(began); took > 10*time.Second { // less than 2 s where the machine has nothing else to do; without the hang-up for ever
		t.Errorf("the shutdown took %s", took)
	} else {
		t.Logf("the shutdown took %s", took)
	}
	r.proc.until("server is shutting down")
	server.Start(t)
	r.sim.Up()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', 'b')`)
	r.settled()
	r.sameGroups()
	if letters := r.letters(); len(letters) != 0 {
		t.Errorf("dead letters %+v", letters)
	}
	if code := r.proc.terminate(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// TestFastStopWhileStopping: also a connector that is stopping, and waits for a slow platform, does not hold a fast shutdown up.
func TestFastStopWhileStopping(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), crmSchema, crmMappings, platformsim.Options{})
	r.edit("timeout: 5s", "timeout: 1m")
	r.start()
	gate := make(chan struct{})
	r.inject(platformsim.Fault{Endpoint: platformsim.GroupRelation, Gate: gate})
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', 'b')`)
	r.platform(func(s *platformsim.Sim) bool { return s.InFlight(platformsim.GroupRelation) == 1 })
	stopped := make(chan int, 1)
	go func() { stopped <- r.proc.terminate() }()
	server.Stop(t, throwaway.Fast)
	// A connector that held the server up would do so until it gives the request up.
	if r.sim.InFlight(platformsim.GroupRelation) != 1 {
		t.Error("the shutdown has waited for the connector")
	}
	close(gate)
	if code := <-stopped; code != 0 {
		t.Errorf("exit %d", code)
	}
	server.Start(t)
	r.start()
	r.settled()
	r.sameGroups()
	if n := r.sim.Count(platformsim.GroupRelation); n != 1 {
		t.Errorf("%d group relations, want 1: the checkpoint was written although the server was gone", n)
	}
}

// TestStandby: a second connector waits for the slot that the first one holds, says so in log and status, and takes over where the first one stopped.
func TestStandby(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	first := newRigOn(t, db, crmSchema, groupsOnly, platformsim.Options{})
	second := newRigOn(t, db, "", groupsOnly, platformsim.Options{})
	second.slot = first.slot
	second.write(groupsOnly, "")
	first.start()
	db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', 'a')`)
	first.settled()
	second.launch()
	second.proc.until("another process holds the slot")
	_, body := second.get("/status.json")
	var s struct {
		State  string
		Alarms []struct{ Key, Text, Cure string }
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.State != "waiting" || len(s.Alarms) != 1 || !strings.Contains(s.Alarms[0].Cure, "active_pid") {
		t.Errorf("%v: %s", err, body)
	}
	db.Exec(t, `INSERT INTO crm.member_groups VALUES ('2', 'a')`)
	first.applied(platformsim.GroupRelation, 2)
	first.settled()
	first.proc.kill()
	db.Exec(t, `INSERT INTO crm.member_groups VALUES ('3', 'a')`)
	second.proc.until("msg=streaming")
	second.settled()
	if got := second.sim.LedgerSince(0, platformsim.GroupRelation); len(got) != 1 || got[0].Customer != "3" {
		t.Errorf("the second one delivered %+v, want what came after the first one", got)
	}
	if _, body := second.get("/status.json"); !strings.Contains(body, `"streaming"`) {
		t.Errorf("after it has taken over: %s", body)
	}
	// And the other way round: the first one comes back with a state that the slot has passed by, which is a gap and not silent.
	first.launch()
	if code := first.proc.exit(); code != 1 || !strings.Contains(first.proc.log.String(), "past the checkpoint") {
		t.Errorf("exit %d", code)
	}
}

// TestWALBudget: alarms before the slot keeps too much WAL and before the server gives it up; check and status say how long an outage the budget allows.
func TestWALBudget(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t, "max_slot_wal_keep_size=64MB")
	r := newRigOn(t, server.Database(t), crmSchema, crmMappings, platformsim.Options{})
	r.source(crmMappings, "", "walBudget: 60MiB")
	r.start()
	out, errs, code := r.run("check")
	if code != 0 || !strings.Contains(out, "source.walBudget: the server writes") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	r.sim.Down(platformsim.DownUnavailable)
	for i := range 4 { // a segment of 16 MiB each
		r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.member_groups VALUES ('%d', 'a')`, i), `SELECT pg_switch_wal()`)
	}
	r.db.Exec(t, `INSERT INTO crm.other(filler) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 6000) i`)
	r.proc.until("about=source/wal")
	r.proc.until("about=source/slot")
	_, body := r.get("/status.json")
	var s struct {
		Slot struct{ WALPerSecond, SafeWALSize, OutageSeconds float64 }
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Slot.WALPerSecond <= 0 || s.Slot.OutageSeconds < 0 || !strings.Contains(body, "safeWalSize") {
		t.Errorf("%v: %s", err, body)
	}
	if log := r.proc.log.String(); !strings.Contains(log, "that is enough for") || !strings.Contains(log, "ALTER SYSTEM SET max_slot_wal_keep_size") {
		t.Error("the alarms lack rate or cure")
	}
	if out, errs, code := r.run("status"); code != 0 || !strings.Contains(out, "outage allowed") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	_, cure, _ := strings.Cut(body, "if the disk has room: ")
	cure, _, _ = strings.Cut(cure, " --")
	for sql := range strings.SplitSeq(strings.TrimSuffix(cure, ";"), ";") {
		r.db.Exec(t, sql)
	}
	r.proc.until(`recovered about=source/slot`)
	r.sim.Up()
	r.settled()
	r.db.Exec(t, `CHECKPOINT`, `INSERT INTO crm.other(filler) VALUES ('x')`)
	r.proc.until(`recovered about=source/wal`)
}

// TestOutageText: what status says of the budget.
func TestOutageText(t *testing.T) {
	t.Parallel()
	left := 5.5 * 3600
	s := status.Slot{OutageSeconds: &left, WALPerSecond: 250_000, MeasuredSeconds: 600}
	if got := outageText(&s); got != "5h more, at 244.1KiB/s of WAL (mean of 10m)" {
		t.Error(got)
	}
	if got := outageText(&status.Slot{}); !strings.HasPrefix(got, "not known") {
		t.Error(got)
	}
}

// TestHeartbeatAndFailover: the keys reach the server; what it can't do is an error that says so, in check and at the start.
func TestHeartbeatAndFailover(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.source(crmMappings, "", "heartbeat: 1s", "failover: true")
	if r.db.Server().Major() < 17 {
		out, _, code := r.run("check")
		if code != 1 || !strings.Contains(out, "PostgreSQL 17") {
			t.Errorf("exit %d\n%s", code, out)
		}
		r.launch()
		if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "source.failover") {
			t.Errorf("exit %d", code)
		}
		return
	}
	r.start()
	if !pgtest.Value[bool](t, r.db, `SELECT failover FROM pg_replication_slots WHERE slot_name = $1`, r.slot) {
		t.Error("the slot was made without failover")
	}
	other := r.db.SlotName()
	r.db.Exec(t, `SELECT pg_create_logical_replication_slot('`+other+`', 'test_decoding')`)
	r.db.Eventually(t, `SELECT EXISTS (SELECT FROM pg_logical_slot_peek_changes($1, NULL, NULL) WHERE data LIKE 'message: transactional: 1 prefix: tuzhan_cdc%heartbeat')`, other)
	r.settled()
	if out, _, code := r.run("check"); code != 0 || strings.Contains(out, "source.failover") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// TestFailoverOfAnOldSlot: a slot that was made without failover gets it when nobody reads from it; check says how before that.
func TestFailoverOfAnOldSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	if r.db.Server().Major() < 17 {
		t.Log("needs PostgreSQL 17")
		return
	}
	r.start()
	r.settled()
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	r.source(crmMappings, "", "failover: true")
	out, _, code := r.run("check")
	if code != 0 || !strings.Contains(out, "ALTER_REPLICATION_SLOT") {
		t.Errorf("exit %d\n%s", code, out)
	}
	r.start()
	if !pgtest.Value[bool](t, r.db, `SELECT failover FROM pg_replication_slots WHERE slot_name = $1`, r.slot) {
		t.Error("the slot is still without failover")
	}
}

// TestEndsWithTheCure: what waiting can't cure ends the program with exit code 1, and the SQL that cures it works as printed.
func TestEndsWithTheCure(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	role, dsn := r.db.Role(t, "REPLICATION")
	r.dsn = dsn
	r.write(crmMappings, "")
	r.db.Exec(t, `GRANT CREATE ON DATABASE `+r.db.Name()+` TO `+role, `ALTER SCHEMA crm OWNER TO `+role, `ALTER TABLE crm.orders OWNER TO `+role, `ALTER TABLE crm.member_groups OWNER TO `+role)
	r.start()
	r.db.Exec(t, `ALTER ROLE `+role+` NOREPLICATION`, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '`+role+`'`)
	if code := r.proc.exit(); code != 1 {
		t.Errorf("exit %d", code)
	}
	_, cure, found := strings.Cut(r.proc.log.String(), "cure: GRANT")
	cure, _, _ = strings.Cut("GRANT"+cure, "\n")
	if !found {
		t.Fatal("no cure")
	}
	r.db.Exec(t, cure)
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', 'a')`)
	r.settled()
	r.sameGroups()
}
