package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
)

// eventMapping is a mapping that makes an event of each change: whose, and three arguments.
func eventMapping(name, table, on, phone string, args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
  - name: %s
    table: '%s'
    on: [%s]
    event:
      publicParams: {matchingType: 1}
      eventKey: c_buy
      identities: [{identityType: phone, identityValue: '${{ %s }}'}]
      eventargs: {title: %s, op: '${{ op }}'`, name, table, on, phone, name)
	for i, a := range args {
		fmt.Fprintf(&b, ", a%d: '${{ %s }}'", i, a)
	}
	return b.String() + "}\n"
}

// said gives the eventargs of the events that have come, without their order.
func said(t *testing.T, r *rig) []string {
	t.Helper()
	var list []string
	for _, e := range r.sim.LedgerSince(0, platformsim.Event) {
		args, err := json.Marshal(record(t, e)["eventargs"])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(args))
	}
	slices.Sort(list)
	return list
}

func sameSaid(t *testing.T, r *rig, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := said(t, r); !slices.Equal(got, want) {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func publicationOf(t *testing.T, r *rig, name string) {
	t.Helper()
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.Replace(string(text), "publication: "+r.slot, "publication: '"+name+"'", 1))
	if err := os.WriteFile(r.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNames: schemas, tables, columns and a publication whose names need quoting, two tables of one name, and partitions, from end to end.
func TestNames(t *testing.T) {
	t.Parallel()
	const odd = `"Kunden.数据"."a ""b"".C"`
	r := newRig(t, `CREATE SCHEMA "Kunden.数据"; CREATE SCHEMA crm; CREATE SCHEMA "CRM";
		CREATE TABLE `+odd+` (id int PRIMARY KEY, 手机 text, "Na.me" text, "it's ""q""" text, "new" int); ALTER TABLE `+odd+` REPLICA IDENTITY FULL;
		CREATE TABLE crm.orders (id int PRIMARY KEY, phone text, s text); CREATE TABLE "CRM".orders (id int PRIMARY KEY, phone text, s text);
		CREATE TABLE crm.visits (id int, phone text, s text, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day); ALTER TABLE crm.visits REPLICA IDENTITY FULL;
		CREATE TABLE crm."Visits.1" (day int NOT NULL, s text, phone text, id int NOT NULL); ALTER TABLE crm."Visits.1" REPLICA IDENTITY FULL;
		ALTER TABLE crm.visits ATTACH PARTITION crm."Visits.1" FOR VALUES FROM (0) TO (10)`,
		"", platformsim.Options{EventKeys: []string{"c_buy"}})
	r.write("mappings:"+eventMapping("odd", odd, "insert, update, delete", "手机 ?? \"1\"", `op == "delete" ? old["Na.me"] : new["Na.me"]`, `op == "delete" ? old["it''s \"q\""] : new["it''s \"q\""]`, `old?.手机 ?? "none"`)+
		eventMapping("lower", "crm.orders", "insert", "phone", "s")+eventMapping("upper", "CRM.orders", "insert", "phone", "s")+
		eventMapping("visits", "crm.visits", "insert, update, delete", "phone", "s", "old?.s ?? \"none\"", "table"), "")
	publicationOf(t, r, `Publ "1".出版`)
	if out, errs, code := r.run("check"); code != 0 {
		t.Fatalf("check: exit %d\n%s%s", code, out, errs)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO `+odd+` VALUES (1, '138', 'n', 'q', 5)`, `UPDATE `+odd+` SET 手机 = '139'`, `DELETE FROM `+odd,
		`INSERT INTO crm.orders VALUES (1, '1', 'lower')`, `INSERT INTO "CRM".orders VALUES (1, '2', 'upper')`,
		`INSERT INTO crm.visits VALUES (1, '3', 'a', 1)`, `UPDATE crm.visits SET s = 'b'`, `TRUNCATE crm.orders, crm.visits`)
	r.settled()
	sameSaid(t, r, `{"a0":"n","a1":"q","a2":"none","op":"insert","title":"odd"}`, `{"a0":"n","a1":"q","a2":"138","op":"update","title":"odd"}`,
		`{"a0":"n","a1":"q","a2":"139","op":"delete","title":"odd"}`, `{"a0":"lower","op":"insert","title":"lower"}`, `{"a0":"upper","op":"insert","title":"upper"}`,
		`{"a0":"a","a1":"none","a2":"visits","op":"insert","title":"visits"}`, `{"a0":"b","a1":"a","a2":"visits","op":"update","title":"visits"}`)
	r.proc.until("TRUNCATE seen")
	r.noViolations()
}

// gaps reads the gaps that the state has recorded.
func (r *rig) gaps() []connector.Gap {
	r.t.Helper()
	reader, err := state.OpenReader(r.t.Context(), state.Location{Path: strings.Replace(r.file, "tuzhan-cdc.yaml", "state.db", 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	defer reader.Close()
	gaps, err := reader.Gaps(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return gaps
}

// TestTableLeavesThePublication: with the program running, and while it is stopped; then the publication is made anew, and the program refuses.
func TestTableLeavesThePublication(t *testing.T) {
	t.Parallel()
	r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.a (id int PRIMARY KEY, phone text); CREATE TABLE crm.b (id int PRIMARY KEY, phone text)`,
		"mappings:"+eventMapping("a", "crm.a", "insert", "phone", "id")+eventMapping("b", "crm.b", "insert, update", "phone", "id"), platformsim.Options{EventKeys: []string{"c_buy"}})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.a VALUES (1, '1')`, `DROP TABLE crm.a`, `CREATE TABLE crm.a (id int PRIMARY KEY, phone text)`)
	r.proc.until(`msg="gap recorded" table=crm.a`)
	r.db.Exec(t, `INSERT INTO crm.a VALUES (2, '1')`)
	r.settled()
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	r.db.Exec(t, `ALTER PUBLICATION `+r.slot+` DROP TABLE crm.b`, `INSERT INTO crm.b VALUES (3, '1')`)
	r.start()
	r.proc.until(`msg="gap recorded" table=crm.b`)
	r.db.Exec(t, `INSERT INTO crm.b VALUES (4, '1')`)
	r.settled()
	sameSaid(t, r, `{"a0":1,"op":"insert","title":"a"}`, `{"a0":2,"op":"insert","title":"a"}`, `{"a0":4,"op":"insert","title":"b"}`)
	if g := r.gaps(); len(g) != 2 || g[0].Table != "crm.a" || g[1].Table != "crm.b" || g[0].To <= g[0].From || g[1].To <= g[1].From {
		t.Errorf("gaps %+v", g)
	}

	r.db.Exec(t, `DROP PUBLICATION `+r.slot)
	if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "the publication "+r.slot+" is missing") || !strings.Contains(r.proc.log.String(), "--accept-gap") {
		t.Errorf("exit %d", code)
	}
}

// TestIdentityIsTakenAway: within 10 s the application's updates work again by themselves.
func TestIdentityIsTakenAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.a (id int PRIMARY KEY, phone text); INSERT INTO crm.a VALUES (1, '1')`,
		"mappings:"+eventMapping("a", "crm.a", "insert, update", "phone", "id"), platformsim.Options{EventKeys: []string{"c_buy"}})
	r.start()
	r.db.Exec(t, `ALTER TABLE crm.a DROP CONSTRAINT a_pkey`)
	r.proc.until(`msg="gap begins" table=crm.a`)
	r.db.Exec(t, `UPDATE crm.a SET phone = '2'`, `INSERT INTO crm.a VALUES (2, '2')`)
	r.settled()
	r.proc.kill()
	r.start() // the mapping is held, its table being what it is; the program is not refused
	r.db.Exec(t, `INSERT INTO crm.a VALUES (3, '3')`, `ALTER TABLE crm.a ADD PRIMARY KEY (id)`)
	r.proc.until(`msg="gap recorded" table=crm.a`)
	r.db.Exec(t, `UPDATE crm.a SET phone = '4' WHERE id = 3`)
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.Event) >= 3 })
	r.settled()
	sameSaid(t, r, `{"a0":2,"op":"insert","title":"a"}`, `{"a0":3,"op":"insert","title":"a"}`, `{"a0":3,"op":"update","title":"a"}`)
	if g := r.gaps(); len(g) != 1 || g[0].To <= g[0].From {
		t.Errorf("gaps %+v", g)
	}
}

// TestIdentityWatched: a mapping whose old columns do not come any more is held, the others flow, and it goes on by itself when they do.
func TestIdentityWatched(t *testing.T) {
	t.Parallel()
	r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.a (id int PRIMARY KEY, phone text, s text); ALTER TABLE crm.a REPLICA IDENTITY FULL`,
		"mappings:"+eventMapping("old", "crm.a", "insert, update", "phone", "old?.s ?? \"none\"")+eventMapping("new", "crm.a", "insert", "phone", "s"), platformsim.Options{EventKeys: []string{"c_buy"}})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.a VALUES (1, '1', 'x')`)
	r.settled()
	r.db.Exec(t, `ALTER TABLE crm.a REPLICA IDENTITY DEFAULT`)
	r.proc.until("the replica identity of table crm.a has changed")
	r.db.Exec(t, `INSERT INTO crm.a VALUES (2, '2', 'y')`)
	r.proc.until(`msg="mapping held" mapping=old`)
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.Event) >= 3 })
	sameSaid(t, r, `{"a0":"none","op":"insert","title":"old"}`, `{"a0":"x","op":"insert","title":"new"}`, `{"a0":"y","op":"insert","title":"new"}`)
	r.db.Exec(t, `ALTER TABLE crm.a REPLICA IDENTITY FULL`, `UPDATE crm.a SET s = 'z' WHERE id = 2`)
	r.settled()
	sameSaid(t, r, `{"a0":"none","op":"insert","title":"old"}`, `{"a0":"x","op":"insert","title":"new"}`, `{"a0":"y","op":"insert","title":"new"}`,
		`{"a0":"none","op":"insert","title":"old"}`, `{"a0":"y","op":"update","title":"old"}`)
}

// TestPrintedSQL: where the role may not make publications, check and run print the SQL; the owner, with the right that it names, runs just that, and then run starts.
func TestPrintedSQL(t *testing.T) {
	t.Parallel()
	lists := pgtest.Server(t).Major() >= 15
	const odd = `"Kunden.数据"."a ""b"""`
	r := newRig(t, `CREATE SCHEMA "Kunden.数据"; CREATE TABLE `+odd+` (id int PRIMARY KEY, phone text, "S.1" text, secret text); CREATE TABLE plain (phone text, secret text)`,
		"", platformsim.Options{EventKeys: []string{"c_buy"}})
	owner, ownerDSN := r.db.Role(t, "")
	_, r.dsn = r.db.Role(t, "REPLICATION")
	r.db.Exec(t, `ALTER TABLE `+odd+` OWNER TO `+owner, `ALTER TABLE plain OWNER TO `+owner,
		`ALTER SCHEMA "Kunden.数据" OWNER TO `+owner)
	mappings := "mappings:" + eventMapping("odd", odd, "insert, update", "phone", `new["S.1"]`) + eventMapping("plain", "public.plain", "insert", "phone")
	r.write(mappings, "")
	publicationOf(t, r, `Publ "1"`)
	if lists {
		text, err := os.ReadFile(r.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.file, []byte(strings.Replace(string(text), "timeZone:", "columnLists: true\n  timeZone:", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, _, code := r.run("check", "--output", "json")
	var findings []struct{ Severity, Subject, Text, Cure string }
	if err := json.Unmarshal([]byte(out), &findings); err != nil || code != 1 {
		t.Fatalf("exit %d, %v\n%s", code, err, out)
	}
	var cure string
	for _, f := range findings {
		if f.Severity == "error" {
			cure += f.Cure + "\n"
		}
	}
	r.launch()
	if code := r.proc.exit(); code != 1 {
		t.Fatalf("run: exit %d", code)
	}
	_, printed, _ := strings.Cut(r.proc.log.String(), "cure: ")
	if strings.TrimSpace(printed) != strings.TrimSpace(cure) || !strings.Contains(cure, "CREATE PUBLICATION") || strings.Contains(cure, "slot") {
		t.Fatalf("check prints\n%s\nrun prints\n%s", cure, printed)
	}
	grant := `GRANT CREATE ON DATABASE "` + r.db.Name() + `" TO "` + owner + `";`
	if !strings.Contains(cure, grant) {
		t.Errorf("the cure does not say what the owner needs:\n%s", cure)
	}
	r.db.Exec(t, grant)
	paste(t, ownerDSN, cure)
	if out, _, code := r.run("check"); code != 0 {
		t.Errorf("after the cure check exits with %d\n%s", code, out)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO `+odd+` VALUES (1, '1', 's')`, `UPDATE `+odd+` SET "S.1" = 't'`, `INSERT INTO plain VALUES ('2')`)
	r.settled()
	sameSaid(t, r, `{"a0":"s","op":"insert","title":"odd"}`, `{"a0":"t","op":"update","title":"odd"}`, `{"op":"insert","title":"plain"}`)
	if lists {
		if n := pgtest.Value[int64](t, r.db, `SELECT count(*) FROM pg_publication_tables WHERE 'secret' = ANY (attnames)`); n != 0 {
			t.Error("the printed SQL publishes a column that no mapping reads")
		}
	}
}

// TestPrintedIdentityCure: what check prints for a mapping that reads old columns works when pasted, with partitions and with column lists.
func TestPrintedIdentityCure(t *testing.T) {
	t.Parallel()
	r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.a (id int PRIMARY KEY, phone text, s text); CREATE TABLE crm.bare (phone text);
		CREATE TABLE crm.p (id int PRIMARY KEY, phone text) PARTITION BY RANGE (id); CREATE TABLE crm.p1 PARTITION OF crm.p DEFAULT`, "", platformsim.Options{EventKeys: []string{"c_buy"}})
	r.write("mappings:"+eventMapping("a", "crm.a", "insert", "phone", "s"), "")
	lists := pgtest.Server(t).Major() >= 15
	option := func() {
		if text, err := os.ReadFile(r.file); err != nil || lists && os.WriteFile(r.file, []byte(strings.Replace(string(text), "timeZone:", "columnLists: true\n  timeZone:", 1)), 0o600) != nil {
			t.Fatal(err)
		}
	}
	option()
	r.start()
	r.proc.kill()
	r.write("mappings:"+eventMapping("a", "crm.a", "insert, update", "phone", "old?.s ?? \"none\"")+eventMapping("bare", "crm.bare", "insert, delete", "phone")+
		eventMapping("p", "crm.p", "update", "old.phone"), "")
	option()
	out, _, code := r.run("check", "--output", "json")
	var findings []struct{ Severity, Subject, Text, Cure string }
	if err := json.Unmarshal([]byte(out), &findings); err != nil || code != 1 {
		t.Fatalf("exit %d, %v\n%s", code, err, out)
	}
	pasted := 0
	for _, f := range findings {
		if f.Severity == "error" {
			paste(t, r.db.DSN(), f.Cure)
			pasted++
		}
	}
	if out, _, code := r.run("check"); code != 0 || pasted == 0 {
		t.Errorf("after %d cures check exits with %d\n%s", pasted, code, out)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.a VALUES (1, '1', 's')`, `UPDATE crm.a SET s = 't'`, `INSERT INTO crm.p VALUES (1, '1')`, `UPDATE crm.p SET phone = '2'`)
	r.settled()
	sameSaid(t, r, `{"a0":"none","op":"insert","title":"a"}`, `{"a0":"s","op":"update","title":"a"}`, `{"op":"update","title":"p"}`)
}

// paste runs SQL as psql does with what is pasted into it: one statement a line, in one session.
func paste(t *testing.T, dsn, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	conn := connectTo(t, dsn)
	for line := range strings.Lines(sql) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "--") {
			continue
		}
		if _, err := conn.PgConn().Exec(ctx, line).ReadAll(); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

func connectTo(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the test is over
	return conn
}

// TestListMadeAnew: a table that was out of the publication, and came back with another column list than it had, is a gap; so with source.columnLists, where
// the connector writes the list anew at the next start.
func TestListMadeAnew(t *testing.T) {
	for _, lists := range []bool{true, false} {
		r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.a (id int PRIMARY KEY, phone text, secret text)`,
			"mappings:"+eventMapping("a", "crm.a", "insert, update", "phone", "id"), platformsim.Options{EventKeys: []string{"c_buy"}})
		if r.db.Server().Major() < 15 {
			t.Log("column lists need PostgreSQL 15")
			return
		}
		back := `ALTER PUBLICATION ` + r.slot + ` ADD TABLE crm.a (id, phone)`
		if lists {
			r.edit("timeZone:", "columnLists: true\n  timeZone:")
			back = `ALTER PUBLICATION ` + r.slot + ` ADD TABLE crm.a`
		}
		r.start()
		r.db.Exec(t, `INSERT INTO crm.a VALUES (1, '1')`)
		r.settled()
		r.stop()
		r.db.Exec(t, `ALTER PUBLICATION `+r.slot+` DROP TABLE crm.a`, `ALTER TABLE crm.a ALTER phone TYPE varchar(40)`, `INSERT INTO crm.a VALUES (2, '1')`, back)
		r.start()
		r.db.Exec(t, `INSERT INTO crm.a VALUES (3, '1')`)
		r.settled()
		if g := r.gaps(); len(g) != 1 || !strings.Contains(r.proc.log.String(), "gap recorded") {
			t.Errorf("lists %v: gaps %+v: row 2 is lost, and nobody says so; alarms %+v", lists, g, r.status().Alarms)
		}
		r.stop()
	}
}
