package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// starter is a directory in which init is run against a database.
type starterRig struct {
	t   *testing.T
	db  *pgtest.DB
	dir string
	env []string
}

func newStarter(t *testing.T, schema string) *starterRig {
	t.Helper()
	return newStarterOn(t, pgtest.Server(t).Database(t), schema)
}

func newStarterOn(t *testing.T, db *pgtest.DB, schema string) *starterRig {
	t.Helper()
	s := &starterRig{t: t, db: db, dir: t.TempDir()}
	if schema != "" {
		text, err := os.ReadFile(filepath.Join("testdata/init", schema+".sql"))
		if err != nil {
			t.Fatal(err)
		}
		s.db.Exec(t, string(text))
	}
	sim := platformsim.New(platformsim.Options{AppID: "app-1", AppSecret: "s3cret-of-the-app"})
	web := httptest.NewServer(sim)
	t.Cleanup(web.Close)
	password, _ := url.Parse(s.db.DSN())
	secret, _ := password.User.Password()
	s.env = []string{"TUZHAN_URL=" + web.URL, "TUZHAN_APP_ID=app-1", "TUZHAN_APP_SECRET=s3cret-of-the-app", "CRM_PASSWORD=" + url.QueryEscape(secret)}
	return s
}

// run runs a command in the directory.
func (s *starterRig) run(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, s.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// file reads the file that init wrote.
func (s *starterRig) file(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func (s *starterRig) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// offered finds the SQL that the file has in comments.
func offered(text string) []string {
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^  #     (.*;)$`).FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// uncommented takes the "# " in front of the mappings away, and of nothing else.
func uncommented(text string) string {
	var lines []string
	inside := false
	for _, l := range strings.Split(text, "\n") {
		rest, comment := strings.CutPrefix(l, "  # ")
		switch {
		case comment && strings.HasPrefix(rest, "- name: "):
			inside = true
			l = "  " + rest
		case inside && comment && strings.HasPrefix(rest, "  "):
			l = "  " + rest
		default:
			inside = false
		}
		lines = append(lines, l)
	}
	return strings.Join(lines, "\n")
}

// checked fails the test where check finds anything about the file or its tables that is not fine.
func (s *starterRig) checked(file string) {
	s.t.Helper()
	out, errs, code := s.run("check", "-c", file, "--output", "json")
	var found []checkFinding
	if err := json.Unmarshal([]byte(out), &found); code != 0 || err != nil {
		s.t.Errorf("check -c %s: exit %d, %v\n%s%s\n%s", file, code, err, out, errs, s.file(file))
	}
	for _, f := range found {
		known := strings.Contains(f.Subject+f.Text, "max_slot_wal_keep_size") || strings.Contains(f.Text, "inherit from it")
		if f.Severity == postgres.SeverityError || f.Severity == postgres.SeverityWarning && !known {
			s.t.Errorf("check -c %s: %+v", file, f)
		}
	}
}

// TestInit: of schemas as CRMs have them, and of odd ones, the file passes check against the database as it is; so it does when the SQL in it was run and all of
// its mappings were taken in. preview reads the rows that there are by both, with no dead letter.
func TestInit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		schema        string
		live, waiting int
		want          []string
	}{
		{"retail", 7, 7, []string{
			"  - name: member_tags\n    table: crm.member_tags\n    on: [insert, update, delete]\n    onChange: replace", // its primary key has all that there is to know
			"identityValue: ${{ mobile }}", "groups: ${{ tags }}", "c_price: ${{ pay_amount }}", `new.order_status == 1 && old?.order_status != 1`,
			"point: ${{ points }}", "points already come from crm.points_log", "#   on: [update]\n  #   when: new.deleted_at != nil && old.deleted_at == nil",
			"no customer in the row: member_id leads to crm.members, which has mobile, unionid, openid:\n#     crm.member_groups\n",
			"no customer in the row but an id: user_id:\n#     crm.coupons\n", "by email only, which is no identity to the platform:\n#     crm.newsletter\n",
			"#     crm.staff, crm.stores\n", "a view, which has no changes of its own:\n#     crm.paid_orders\n", "unlogged: PostgreSQL writes no WAL of its changes:\n#     crm.carts\n",
			"a copy or a backup:\n#     crm.orders_2023\n"}},
		{"education", 7, 5, []string{"identityValue: ${{ parent_phone }}", "c_price: ${{ amount_cents / 100 }}", "  - name: course_orders-paid\n", "mpid: ${{ mpid }}\n          isWeChatEcosystem: true",
			`groups: ${{ split(tags, ",") }}`, "# A change of status (it has new, contacted, visited, signed, lost).", "class_tags: never analysed, no primary key"}},
		{"membership", 6, 9, []string{"table: 会员系统.会员\n", "groups: 会员等级${{ 会员等级 }}", "groups: ${{ 标签 }}", `#     ALTER TABLE "会员系统"."消费订单_2024" REPLICA IDENTITY FULL;`,
			`new.支付状态 == "已支付" && old?.支付状态 != "已支付"`, "变动类型 may say whether points were given or taken (it has 获得, 消耗)", "  - name: 客户分组\n", "消费订单: never analysed, 2 partitions;",
			"会员编号 leads to 会员系统.会员, which has 手机号, 微信OpenID:\n#     会员系统.订单明细\n"}},
		{"odd", 7, 8, []string{`table: '"a.b"."say ""hi""; # ''x''"'`, `groups: ${{ new["group name"] }}`, "it belongs to extension hstore:\n#     public.of_an_extension", "its phone does not come with the stream",
			"  - name: other.Orders-created\n", "it has no columns that the stream sends:\n#     public.nothing_at_all"}},
	} {
		t.Run(c.schema, func(t *testing.T) {
			t.Parallel()
			s := newStarter(t, c.schema)
			out, errs, code := s.run("init", "--dsn", s.db.DSN())
			if code != 0 || errs != "" {
				t.Fatalf("exit %d\n%s%s", code, out, errs)
			}
			text := s.file("tuzhan-cdc.yaml")
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q is missing", want)
				}
			}
			secret := strings.TrimPrefix(s.env[3], "CRM_PASSWORD=")
			if strings.Contains(text, secret+"@") || !strings.Contains(text, ":${CRM_PASSWORD}@") || strings.Contains(text, "13800000001") {
				t.Error("the file holds what it must not")
			}
			s.checked("tuzhan-cdc.yaml")
			if n := strings.Count(text, "\n  - name: "); n != c.live {
				t.Errorf("%d live mappings, want %d", n, c.live)
			}
			s.noLetters("tuzhan-cdc.yaml")

			whole := uncommented(text)
			if n := strings.Count(whole, "\n  - name: ") - c.live; n != c.waiting {
				t.Errorf("%d waiting mappings, want %d", n, c.waiting)
			}
			s.write("whole.yaml", whole)
			if out, _, code := s.run("check", "-c", "whole.yaml"); len(offered(text)) > 0 && (code != 1 || !strings.Contains(out, "REPLICA IDENTITY FULL")) {
				t.Errorf("nothing needed the SQL: exit %d\n%s", code, out)
			}
			s.db.Exec(t, offered(text)...)
			s.checked("whole.yaml")
			s.noLetters("whole.yaml")
			if t.Failed() {
				t.Logf("%s\n%s", out, text)
			}

			// What needed the SQL is live in a file that is made now.
			if out, errs, code := s.run("init", "--dsn", s.db.DSN(), "--output", "again.yaml"); code != 0 || strings.Contains(out, "REPLICA IDENTITY") || len(offered(s.file("again.yaml"))) > 0 {
				t.Errorf("exit %d\n%s%s", code, out, errs)
			}
			s.checked("again.yaml")
		})
	}
}

// noLetters previews a file's mappings.
func (s *starterRig) noLetters(file string) {
	s.t.Helper()
	out, errs, code := s.run("preview", "-c", file)
	if code != 0 || !strings.Contains(out, " would be sent") || regexp.MustCompile(`[1-9][0-9]* dead letter`).MatchString(out) || strings.Contains(out, "error:") {
		s.t.Errorf("preview -c %s: exit %d\n%s%s", file, code, out, errs)
	}
}

// TestInitWithoutRights: a role that may do nothing but connect gets the same mappings, without the values that rows have; what check then wants of the database works.
func TestInitWithoutRights(t *testing.T) {
	t.Parallel()
	s := newStarter(t, "education")
	name, dsn := s.db.Role(t, "REPLICATION")
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := u.User.Password()
	s.env = append(s.env, "PGPASSWORD="+secret, "PGHOST="+u.Hostname(), "PGPORT="+u.Port(), "PGUSER="+name, "PGDATABASE="+s.db.Name())
	if out, errs, code := s.run("init", "--output", "crm.yaml"); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	text := s.file("crm.yaml")
	if strings.Contains(text, secret) || !strings.Contains(text, "  dsn: postgres://"+name+"@") || !strings.Contains(text, "PGPASSWORD") {
		t.Error(text)
	}
	if strings.Contains(text, "it has booked") || !strings.Contains(text, "it has new, contacted") {
		t.Error("the values of rows, or of a CHECK")
	}
	out, _, code := s.run("check", "-c", "crm.yaml")
	if code != 1 || !strings.Contains(out, "error    publication tuzhan_cdc: ") {
		t.Errorf("exit %d\n%s", code, out)
	}
	s.db.Exec(t, "GRANT CREATE ON DATABASE "+s.db.Name()+" TO "+name)
	for _, table := range pgtest.Rows[string](t, s.db, `SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public' AND relkind = 'r'`) {
		s.db.Exec(t, "ALTER TABLE "+table+" OWNER TO "+name)
	}
	s.checked("crm.yaml")
}

// TestInitUsage: no file is overwritten, none is written where nothing can be mapped, and each refusal says what would be right without showing a password.
func TestInitUsage(t *testing.T) {
	t.Parallel()
	s := newStarter(t, "")
	s.db.Exec(t, `CREATE SCHEMA crm; CREATE TABLE crm.orders (id int PRIMARY KEY, customer_id int); CREATE SCHEMA empty; CREATE TABLE crm.parts (phone text, n int) PARTITION BY LIST (n); CREATE TABLE crm.parts_1 PARTITION OF crm.parts DEFAULT`)
	dsn := s.db.DSN()
	s.write("dsn", dsn+"\n")
	s.write("there.yaml", "mine")
	wrong := strings.Replace(dsn, dsn[strings.Index(dsn, "//")+2:strings.Index(dsn, "@")], "nobody:hidden-word", 1)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--dsn", dsn, "--output", "there.yaml"}, 1, "--force"},
		{[]string{"--dsn", dsn, "-c", "there.yaml"}, 1, "--force"},
		{[]string{}, 2, "--dsn-file FILE"},
		{[]string{"--dsn", dsn, "--dsn-file", "dsn"}, 2, "keep one"},
		{[]string{"--dsn-file", "none"}, 2, "none"},
		{[]string{"--dsn", "postgres://u:hidden-word/x@h/db"}, 2, "percent-encoded"},
		{[]string{"--dsn", "postgres://u:hidden-word@127.0.0.1"}, 2, "names no database"},
		{[]string{"--dsn", "hidden-word"}, 2, "connection string"},
		{[]string{"--dsn", wrong}, 1, "cure:"},
		{[]string{"--dsn", dsn, "--schema", "cmr"}, 2, "these schemas have some: crm"},
		{[]string{"--dsn", dsn, "--table", "crm.order"}, 2, "did you mean crm.orders?"},
		{[]string{"--dsn", dsn, "--table", "crm.parts_1"}, 2, "name the root"},
		{[]string{"--dsn", dsn, "--table", `crm."orders`}, 2, "double quotes"},
		{[]string{"--dsn", dsn, "--table", "crm.orders"}, 1, "no customer in the row but an id: customer_id"},
	} {
		out, errs, code := s.run(append([]string{"init"}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.want) || out != "" || strings.Contains(errs, "hidden-word") {
			t.Errorf("%q: exit %d\n%s%s", c.args, code, out, errs)
		}
	}
	if s.file("there.yaml") != "mine" {
		t.Error("overwritten")
	}
	if _, err := os.Stat(filepath.Join(s.dir, "tuzhan-cdc.yaml")); err == nil {
		t.Error("a file was written")
	}
	empty := pgtest.Server(t).Database(t)
	if _, errs, code := s.run("init", "--dsn", empty.DSN()); code != 1 || !strings.Contains(errs, "has no tables") {
		t.Errorf("an empty database: exit %d\n%s", code, errs)
	}

	out, errs, code := s.run("init", "--dsn-file", "dsn", "--output", "there.yaml", "--force", "--table", "crm.parts")
	if text := s.file("there.yaml"); code != 0 || !strings.Contains(text, "dsnFile: dsn\n") || strings.Contains(text, "crm.orders") || !strings.Contains(text, "#   tuzhan-cdc check -c there.yaml ") || !strings.Contains(out, "tuzhan-cdc check -c there.yaml") {
		t.Errorf("exit %d\n%s%s%s", code, out, errs, text)
	}
	s.checked("there.yaml")
	if out, _, code := s.run("init", "--dsn", dsn, "--output", "-"); code != 0 || !strings.HasPrefix(out, "# yaml-language-server: $schema=tuzhan-cdc.schema.json\n") || !strings.HasSuffix(out, "\n") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// TestInitSlotOfAnotherDatabase: where another database has the slot of the default name, the file names another one.
func TestInitSlotOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	other, db := server.Database(t), server.Database(t)
	other.Exec(t, `SELECT pg_create_logical_replication_slot('tuzhan_cdc', 'pgoutput')`)
	db.Exec(t, `CREATE TABLE visits (phone text)`)
	s := newStarterOn(t, db, "")
	if out, errs, code := s.run("init", "--dsn", db.DSN()); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	if text := s.file("tuzhan-cdc.yaml"); !strings.Contains(text, "  slot: tuzhan_cdc_"+db.Name()) {
		t.Error(text)
	}
	s.checked("tuzhan-cdc.yaml")
}

// TestWithoutSecrets: no password of a DSN comes into the file.
func TestWithoutSecrets(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"postgres://cdc:p%40ss:w@h:5432/crm?sslmode=require", "postgres://cdc:${CRM_PASSWORD}@h:5432/crm?sslmode=require"},
		{"postgres://cdc@h/crm", "postgres://cdc@h/crm"},
		{"postgresql:///crm?host=/run&user=cdc&password=geheim&sslpassword=auch", "postgresql:///crm?host=/run&user=cdc&password=${CRM_PASSWORD}&sslpassword=${CRM_SSL_PASSWORD}"},
		{"host=h password=geheim dbname=crm", "host=h password=${CRM_PASSWORD} dbname=crm"},
		{`host=h password = 'ge\'heim x' dbname=crm`, "host=h password='${CRM_PASSWORD}' dbname=crm"},
	} {
		got, variables := withoutSecrets(c[0])
		if got != c[1] || len(variables) != strings.Count(c[1], "${") {
			t.Errorf("%s\nwant %s (%v)", got, c[1], fmt.Sprint(variables))
		}
	}
}

// TestStarterKeepsGroupsInStep: with all of a starter file's mappings live, the platform's groups follow the rows through changes, nulls, marks of deletion and deletes; an order
// that becomes paid is told once, and points of the ledger are given once.
func TestStarterKeepsGroupsInStep(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", crmMappings, platformsim.Options{})
	text, err := os.ReadFile("testdata/init/retail.sql")
	if err != nil {
		t.Fatal(err)
	}
	r.db.Exec(t, string(text))
	out, errs, code := r.run("init", "--dsn", r.dsn, "--output", "-")
	if code != 0 {
		t.Fatalf("exit %d\n%s", code, errs)
	}
	r.db.Exec(t, offered(out)...)
	// Points would be given twice by what is not live for that reason.
	whole := uncommented(regexp.MustCompile(`(?s)  # Not live, since points already.*?\n\n.*?\n\n`).ReplaceAllString(out, ""))
	r.write(whole[strings.Index(whole, "mappings:\n"):], "")
	r.start()
	r.db.Exec(t,
		`INSERT INTO crm.members (mobile, tags) VALUES ('139', '{a,b}'), ('137', NULL)`,
		`UPDATE crm.members SET tags = '{b,c}', level = '金卡' WHERE mobile = '139'`,
		`UPDATE crm.members SET tags = NULL WHERE mobile = '139'`,
		`UPDATE crm.members SET tags = '{d}' WHERE mobile IN ('139', '137')`,
		`UPDATE crm.members SET points = 5, updated_at = now()`,
		`UPDATE crm.members SET deleted_at = now(), tags = '{e}' WHERE mobile = '137'`,
		`UPDATE crm.members SET mobile = '136' WHERE mobile = '139'`,
		`INSERT INTO crm.members (mobile, tags) VALUES ('135', '{x}')`, `DELETE FROM crm.members WHERE mobile IN ('135', '137')`,
		`INSERT INTO crm.member_tags VALUES ('134', 'm'), ('134', 'n')`, `UPDATE crm.member_tags SET tag_name = 'o' WHERE tag_name = 'n'`, `DELETE FROM crm.member_tags WHERE tag_name = 'm'`,
		`INSERT INTO crm.orders (order_no, phone, total_amount, pay_amount) VALUES ('B1', '139', 9, 9)`, `UPDATE crm.orders SET order_status = 1`, `UPDATE crm.orders SET order_status = 2`,
		`INSERT INTO crm.points_log (mobile, points, balance_after) VALUES ('139', 9, 9), ('139', -3, 6)`)
	r.settled()
	groups, events, points := map[string]map[string]bool{}, map[string]int{}, int64(0)
	for _, a := range r.sim.Ledger() {
		events[a.EventKey]++
		points += a.Point
		if groups[a.Customer] == nil {
			groups[a.Customer] = map[string]bool{}
		}
		for _, g := range a.Groups {
			if a.OptType == "delete" {
				delete(groups[a.Customer], g)
			} else {
				groups[a.Customer][g] = true
			}
		}
		if a.OptType == "update" || a.OptType != "" && len(a.Groups) == 0 {
			t.Errorf("%s of %v: %s", a.OptType, a.Groups, a.Record)
		}
	}
	for customer, want := range map[string]string{"139": "map[]", "136": "map[d:true 金卡:true]", "137": "map[]", "135": "map[]", "134": "map[o:true]"} {
		if got := fmt.Sprint(groups[customer]); got != want {
			t.Errorf("%s is in %s, want %s", customer, got, want)
		}
	}
	if events["c_buy"] != 2 || events["c_order"] != 1 || events["c_register"] != 3 || points != 9 { // one of the rows that were there was paid already
		t.Errorf("%v, %d points", events, points)
	}
	if letters := r.letters(); len(letters) > 0 {
		t.Errorf("%+v", letters)
	}
}
