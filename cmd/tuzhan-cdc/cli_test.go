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
)

// TestCheck: exit 0 while slot and publication are missing, 1 with a cure that works where a table can't give what a mapping reads, 2 where the
// file is wrong; nothing is changed by any of them.
func TestCheck(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	out, errs, code := r.run("check")
	if code != 0 || !strings.Contains(out, "0 errors") {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	if n := pgtest.Value[int64](t, r.db, `SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1)`, r.slot); n != 0 {
		t.Errorf("check made %d publications or slots", n)
	}
	if strings.Contains(out, "s3cret") {
		t.Error("check prints the secret")
	}

	r.db.Exec(t, `ALTER TABLE crm.orders REPLICA IDENTITY DEFAULT`)
	const cure = `ALTER TABLE "crm"."orders" REPLICA IDENTITY FULL;`
	out, _, code = r.run("check")
	if code != 1 || !strings.Contains(out, cure) || !strings.Contains(out, "tuzhan-cdc.yaml:") {
		t.Errorf("exit %d\n%s", code, out)
	}
	r.launch()
	if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), cure) {
		t.Errorf("run: exit %d\n%s", code, r.proc.log)
	}
	if n := pgtest.Value[int64](t, r.db, `SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1`, r.slot); n != 0 {
		t.Error("a refused run made a slot")
	}
	r.db.Exec(t, cure)
	out, _, code = r.run("check", "--output", "json")
	var findings []struct{ Severity, Subject, Text, Cure string }
	if err := json.Unmarshal([]byte(out), &findings); err != nil || code != 0 || len(findings) == 0 {
		t.Errorf("exit %d, %v\n%s", code, err, out)
	}

	r.write(strings.Replace(crmMappings, "${{ goods }}", "${{ good }}", 1), "")
	if out, _, code = r.run("check"); code != 1 || !strings.Contains(out, "did you mean goods") {
		t.Errorf("a column that does not exist: exit %d\n%s", code, out)
	}
	r.write(strings.Replace(crmMappings, "eventKey", "evenKey", 1), "deliver: {}")
	_, errs, code = r.run("check")
	if code != 2 || !strings.Contains(errs, "did you mean \"eventKey\"") || !strings.Contains(errs, "did you mean \"delivery\"") {
		t.Errorf("a wrong file: exit %d\n%s", code, errs)
	}
}

// TestCheckBesideRun: beside a healthy connector that is busy check finds nothing wrong, however slot, state and WAL move on while it looks.
func TestCheckBesideRun(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	stop, ended := make(chan struct{}), make(chan struct{})
	conn := r.db.Conn(t)
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if _, err := conn.Exec(t.Context(), `INSERT INTO crm.member_groups VALUES ($1, 'a')`, fmt.Sprintf("13%09d", i)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 30 {
		if out, errs, code := r.run("check"); code != 0 {
			t.Errorf("exit %d\n%s%s", code, out, errs)
			break
		}
	}
	close(stop)
	<-ended
}

// TestSlotOfAnotherDatabase: nothing that run, check and slot drop do or print touches a slot that another database's connector reads.
func TestSlotOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	other := pgtest.Server(t).Database(t)
	other.Exec(t, `SELECT pg_create_logical_replication_slot('`+r.slot+`', 'pgoutput')`)
	for _, args := range [][]string{{"check"}, {"run"}, {"slot", "drop", "--yes"}} {
		out, errs, code := r.run(args...)
		if out += errs; code != 1 || !strings.Contains(out, "it belongs to database "+other.Name()) || !strings.Contains(out, "cure: give source.slot another name") ||
			strings.Contains(out, "pg_drop") || strings.Contains(out, "--new-state") {
			t.Errorf("%s: exit %d\n%s", args, code, out)
		}
	}
	if n := pgtest.Value[int64](t, r.db, `SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1`, r.slot); n != 1 {
		t.Error("the slot is gone")
	}
}

// TestCheckUnreachable: what can't be reached is a warning; a wrong password and a wrong secret are errors that show neither.
func TestCheckUnreachable(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	name, _ := r.db.Role(t, "REPLICATION")
	r.dsn = strings.Replace(r.dsn, r.dsn[strings.Index(r.dsn, "//")+2:strings.Index(r.dsn, "@")], name+":wrong-pass-word", 1)
	r.write(crmMappings, "")
	out, errs, code := r.run("check")
	if code != 1 || !strings.Contains(out, "ALTER ROLE") || strings.Contains(out+errs, "wrong-pass-word") {
		t.Errorf("a wrong password: exit %d\n%s%s", code, out, errs)
	}
	r.dsn = "postgres://cdc:hidden-word@127.0.0.1:1/crm"
	r.write(crmMappings, "")
	out, errs, code = r.run("check")
	if code != 0 || !strings.Contains(out, "not checked") || strings.Contains(out+errs, "hidden-word") {
		t.Errorf("no database: exit %d\n%s%s", code, out, errs)
	}
	r.dsn = r.db.DSN()
	r.write(crmMappings, "")
	r.web.Close()
	out, errs, code = r.run("check")
	if code != 0 || !strings.Contains(out, "warning  platform: not to be reached") {
		t.Errorf("no platform: exit %d\n%s%s", code, out, errs)
	}
	out, _, code = r.run("check", "--offline")
	if code != 0 || strings.Contains(out, "not checked") {
		t.Errorf("offline: exit %d\n%s", code, out)
	}
}

// TestStatus: what programs read, of a running connector and of a stopped one.
func TestStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	if _, errs, code := r.run("deadletters", "list"); code != 1 || !strings.Contains(errs, "no state file") {
		t.Errorf("before the first run: exit %d\n%s", code, errs)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('138', 'a')`)
	r.settled()
	_, running := r.get("/status.json")
	if code, body := r.get("/readyz"); code != 200 {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	stopped, errs, code := r.run("status", "--output", "json")
	if code != 0 {
		t.Fatalf("exit %d\n%s", code, errs)
	}
	for state, text := range map[string]string{"streaming": running, "stopped": stopped} {
		var s map[string]any
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		if s["state"] != state {
			t.Errorf("state %v, want %s", s["state"], state)
		}
		for _, key := range []string{"slot", "lag", "checkpoint", "pending", "deadLetters", "held", "alarms", "lastError"} {
			if _, ok := s[key]; !ok {
				t.Errorf("%s: no %s", state, key)
			}
		}
		lag, _ := s["lag"].(map[string]any)
		for _, key := range []string{"bytes", "seconds"} {
			if _, ok := lag[key].(float64); !ok {
				t.Errorf("%s: lag %v", state, lag)
			}
		}
		if letters, _ := s["deadLetters"].(map[string]any); letters["uncertain"] != 0.0 {
			t.Errorf("%s: deadLetters %v", state, letters)
		}
	}
	if out, _, code := r.run("status"); code != 0 || !strings.Contains(out, "settled up to") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// TestUsage: wrong command lines exit with 2 and say what would be right.
func TestUsage(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	for _, args := range [][]string{{"deadletters"}, {"deadletters", "list", "--class", "odd"}, {"deadletters", "show"}, {"deadletters", "show", "x"},
		{"status", "--output", "yaml"}, {"check", "--nonsense"}, {"run", "now"}, {"slot"}, {"chekc"}} {
		if _, errs, code := r.run(args...); code != 2 || errs == "" {
			t.Errorf("%q: exit %d, %s", args, code, errs)
		}
	}
	if out, _, code := r.run("version"); code != 0 || !strings.HasPrefix(out, "tuzhan-cdc ") {
		t.Errorf("version: exit %d, %s", code, out)
	}
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := r.run("check"); code != 2 || !strings.Contains(errs, "tuzhan-cdc.yaml") {
		t.Errorf("no file: exit %d, %s", code, errs)
	}
}

// TestSlotDrop removes what run made; without the slot the next run refuses to go on from its checkpoint.
func TestSlotDrop(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.settled()
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	if out, errs, code := r.run("slot", "drop"); code != 1 || !strings.Contains(errs, "nothing was removed") {
		t.Errorf("without an answer: exit %d\n%s%s", code, out, errs)
	}
	if out, errs, code := r.run("slot", "drop", "--yes"); code != 0 {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if n := pgtest.Value[int64](t, r.db, `SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1)`, r.slot); n != 0 {
		t.Errorf("%d publications or slots are left", n)
	}
	r.db.Exec(t, "CREATE PUBLICATION "+r.slot)
	if out, errs, code := r.run("slot", "drop", "--yes"); code != 0 || !strings.Contains(out, "publication "+r.slot+" stays") || !strings.Contains(out, "DROP PUBLICATION \""+r.slot+"\";\n") {
		t.Errorf("a publication of another maker: exit %d\n%s%s", code, out, errs)
	}
	r.db.Exec(t, "DROP PUBLICATION "+r.slot)
	r.launch()
	if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "is gone") || !strings.Contains(r.proc.log.String(), "cure:") {
		t.Errorf("exit %d\n%s", code, r.proc.log)
	}
}

// TestSecondConnector: a second connector on the same state file waits as a standby, and goes on when the first one ends. SIGTERM ends one that waits.
func TestSecondConnector(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	first := r.proc
	r.launch()
	r.proc.until("as a standby")
	if code := r.proc.terminate(); code != 0 || !strings.Contains(r.proc.log.String(), "state.db") {
		t.Errorf("a standby that is stopped: exit %d\n%s", code, r.proc.log)
	}
	r.launch()
	r.proc.until("as a standby")
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('138', 'a')`)
	r.settled()
	if code := first.terminate(); code != 0 {
		t.Errorf("exit %d", code)
	}
	r.proc.until("msg=streaming")
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('139', 'a')`)
	r.settled()
	r.sameGroups()
	if got := len(r.sim.Ledger()); got != 2 {
		t.Errorf("%d records", got)
	}
}
