package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
)

// TestCheckCutShort: a database that was reached, and did not answer all that check asks in time, is not said to be out of reach.
func TestCheckCutShort(t *testing.T) {
	t.Parallel()
	f := failure("database", fmt.Errorf("looking for open transactions: %w", context.DeadlineExceeded))
	if f.Severity != postgres.SeverityWarning || f.Text != "not checked to the end: it has not answered within 60s all that is asked" || !strings.Contains(f.Cure, "pg_stat_activity") {
		t.Errorf("%+v", f)
	}
	if f := failure("database", io.ErrUnexpectedEOF); !strings.HasPrefix(f.Text, notChecked) {
		t.Errorf("%+v", f)
	}
}

func sampleReport() *checkReport {
	r := &checkReport{file: "tuzhan-cdc.yaml"}
	r.add("file", "", postgres.Finding{Severity: postgres.SeverityOK, Subject: "tuzhan-cdc.yaml", Text: "2 mappings"},
		postgres.Finding{Severity: postgres.SeverityError, Subject: "tuzhan-cdc.yaml:3:5", Text: "mapping a reads what is not there", Cure: "ALTER TABLE a REPLICA IDENTITY FULL;"})
	r.add("database", "127.0.0.1:5432/crm",
		postgres.Finding{Severity: postgres.SeverityOK, Subject: "table a", Text: "can be streamed"}, postgres.Finding{Severity: postgres.SeverityOK, Subject: "table b", Text: "can be streamed"},
		postgres.Finding{Severity: postgres.SeverityOK, Subject: "table c", Text: "can be streamed"},
		postgres.Finding{Severity: postgres.SeverityInfo, Subject: "slot s", Text: "it is missing"},
		postgres.Finding{Severity: postgres.SeverityWarning, Subject: "limit", Text: "there is none,\nand so on", Cure: "ALTER SYSTEM SET x = '1';\nSELECT pg_reload_conf();"},
		postgres.Finding{Severity: postgres.SeverityError, Subject: "table d", Text: "no identity", Cure: "ALTER TABLE a  REPLICA IDENTITY FULL; -- or another"},
		postgres.Finding{Severity: postgres.SeverityError, Subject: "slot", Text: "another's", Cure: "give source.slot another name"})
	return r
}

// TestCheckPrints: what must be mended comes first, fine tables on one line, and a cure that was said is not said again.
func TestCheckPrints(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := sampleReport().print(&b); err != nil {
		t.Fatal(err)
	}
	const want = `File
  error    tuzhan-cdc.yaml:3:5: mapping a reads what is not there
           cure, in psql:
             ALTER TABLE a REPLICA IDENTITY FULL;
  ok       tuzhan-cdc.yaml: 2 mappings
Database  127.0.0.1:5432/crm
  error    table d: no identity
           cure: the same as above
  error    slot: another's
           cure: give source.slot another name
  warning  limit: there is none,
           and so on
           cure, in psql:
             ALTER SYSTEM SET x = '1';
             SELECT pg_reload_conf();
  info     slot s: it is missing
  ok       tables a, b, c: can be streamed

Not ready: 3 errors, 1 warning. Mend what is marked error, then again: tuzhan-cdc check
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
	if err := sampleReport().print(failingWriter{}); err == nil {
		t.Error("a broken pipe goes unnoticed")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestCheckWraps: on a terminal lines are broken at blanks, but not those of SQL.
func TestCheckWraps(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := findingPrinter{w: &b, width: 50, said: map[string]bool{}, painter: painter{true}}
	p.finding(postgres.Finding{Severity: postgres.SeverityError, Subject: "表 crm.orders", Text: "一 二 三 words that go on and on until the line is full", Cure: "ALTER TABLE crm.orders REPLICA IDENTITY FULL; -- a long line that stays as it is"})
	const want = "\x1b[1;31m✗ error   \x1b[0m \x1b[1m表 crm.orders\x1b[0m: 一 二 三 words that go on\n" +
		"           and on until the line is full\n           cure, in psql:\n             ALTER TABLE crm.orders REPLICA IDENTITY FULL; -- a long line that stays as it is\n"
	if b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
}

// TestCheckSummary says whether run may start.
func TestCheckSummary(t *testing.T) {
	t.Parallel()
	ok := postgres.Finding{Severity: postgres.SeverityOK, Subject: "x", Text: "fine"}
	away := postgres.Finding{Severity: postgres.SeverityWarning, Subject: "database", Text: notChecked + "refused"}
	for want, r := range map[string]*checkReport{
		"Ready: 0 errors, 0 warnings. Start it: tuzhan-cdc run":                                               {findings: []checkFinding{{"file", ok}}},
		"In order: 0 errors, 0 warnings. It runs, since its slot is in use; how far it is: tuzhan-cdc status": {running: true, findings: []checkFinding{{"file", ok}}},
		"Nothing wrong as far as it could be checked: 0 errors, 1 warning. Not reached: platform.":            {running: true, findings: []checkFinding{{"platform", postgres.Finding{Severity: postgres.SeverityWarning, Text: notChecked}}}},
		"The file is fine: 0 errors, 0 warnings. Database, state and platform were not looked at.":            {offline: true, findings: []checkFinding{{"file", ok}}},
		"Nothing wrong as far as it could be checked: 0 errors, 1 warning. Not reached: database.":            {findings: []checkFinding{{"database", away}}},
		"Nothing wrong as far as it could be checked: 0 errors, 1 warning. Not checked to the end: database.": {findings: []checkFinding{{"database", failure("database", context.DeadlineExceeded)}}},
		"Not ready: 1 error, 1 warning. Mend what is marked error, then again: tuzhan-cdc check":              {findings: []checkFinding{{"database", away}, {"file", postgres.Finding{Severity: postgres.SeverityError}}}},
	} {
		if got := r.summary(painter{}); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestCuresWorkWhenPasted: the SQL that check prints for a poor role and tables without replica identity is run as it stands; then check finds nothing to mend, and the connector
// streams.
func TestCuresWorkWhenPasted(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.db.Exec(t, `ALTER TABLE crm.orders REPLICA IDENTITY DEFAULT; ALTER TABLE crm.member_groups DROP CONSTRAINT member_groups_pkey; ALTER TABLE crm.member_groups REPLICA IDENTITY DEFAULT`)
	_, r.dsn = r.db.Role(t, "")
	r.write(crmMappings, "")
	sql := regexp.MustCompile(`(?m)^           cure, in psql:\n((?:             .*\n)+)`)
	rounds := 0
	for {
		out, errs, code := r.run("check")
		if code == 0 {
			if !strings.Contains(out, "\nReady: 0 errors") || !strings.HasSuffix(out, "Start it: tuzhan-cdc run -c "+r.file+"\n") {
				t.Errorf("%s%s", out, errs)
			}
			break
		}
		if rounds++; rounds > 4 {
			t.Fatalf("still not ready:\n%s%s", out, errs)
		}
		found := sql.FindAllStringSubmatch(out, -1)
		if len(found) == 0 {
			t.Fatalf("no SQL to mend it:\n%s%s", out, errs)
		}
		for _, m := range found {
			if !strings.Contains(m[1], "ALTER SYSTEM") { // the server is that of all tests
				r.db.Exec(t, m[1])
			}
		}
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('138', 'a')`)
	r.settled()
	r.sameGroups()
}

// TestCheckTellsATableOnce: what one statement mends is one error, however many mappings read of the table; no line says of mappings with errors that they are fine; and of a connector that
// runs it is not said that it is to be started.
func TestCheckTellsATableOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	const full = `ALTER TABLE "crm"."orders" REPLICA IDENTITY FULL;`
	r.db.Exec(t, `ALTER TABLE crm.orders REPLICA IDENTITY DEFAULT`)
	out, _, code := r.run("check")
	if code != 1 || strings.Count(out, "  error    ") != 1 || strings.Count(out, full) != 1 || !strings.Contains(out, "status (order-paid 21:40, order-points 37:40)") ||
		!strings.Contains(out, "  info     "+r.file+": 3 mappings; with errors: 2 mappings\n") || strings.Contains(out, "ok       "+r.file) {
		t.Errorf("exit %d\n%s", code, out)
	}
	r.db.Exec(t, full)
	if out, _, code = r.run("check"); code != 0 || !strings.Contains(out, "  ok       "+r.file+": 3 mappings\n") || !strings.Contains(out, "Start it: tuzhan-cdc run") {
		t.Errorf("exit %d\n%s", code, out)
	}
	r.start()
	if out, _, code = r.run("check"); code != 0 || !strings.Contains(out, "It runs") || strings.Contains(out, "Start it") {
		t.Errorf("while it runs: exit %d\n%s", code, out)
	}
}

// TestCheckJSON: findings of a wrong file, and of tests that are for another table, as programs read them.
func TestCheckJSON(t *testing.T) {
	t.Parallel()
	const declared = `
tables:
  crm.member_groups:
    key: [phone]
    columns: {phone: varchar(20), group_name: text, gone: int}
`
	r := newRig(t, crmSchema, crmMappings+declared, platformsim.Options{})
	read := func(wantCode int) []checkFinding {
		t.Helper()
		out, errs, code := r.run("check", "--output", "json")
		var list []checkFinding
		if err := json.Unmarshal([]byte(out), &list); err != nil || code != wantCode || errs != "" {
			t.Fatalf("exit %d, %v\n%s%s", code, err, out, errs)
		}
		return list
	}
	areas := map[string]bool{}
	stale := ""
	for _, f := range read(0) {
		areas[f.Area] = true
		if f.Severity == postgres.SeverityWarning && strings.Contains(f.Text, "not as the database has it") {
			stale = f.Text + "; " + f.Cure
		}
	}
	for _, area := range []string{"file", "database", "state", "platform"} {
		if !areas[area] {
			t.Errorf("no finding of area %s", area)
		}
	}
	want := "tables: crm.member_groups is not as the database has it, so its tests may say what is not so: its replica identity is full, not default; column phone is text, not character varying(20); there is no column gone; tuzhan-cdc test -c " + r.file + " --record-tables"
	if stale != want {
		t.Errorf("got  %s\nwant %s", stale, want)
	}
	r.write(strings.Replace(crmMappings, "eventKey", "evenKey", 1), "")
	if list := read(2); len(list) != 2 || list[0].Area != "file" || list[0].Severity != postgres.SeverityError || !strings.Contains(list[1].Text, "did you mean \"eventKey\"?") || !strings.HasPrefix(list[1].Subject, r.file+":") {
		t.Errorf("%+v", list)
	}
}
