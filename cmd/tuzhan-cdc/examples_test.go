package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// example is a folder of examples, and what its tables say must stand on the platform after the sample: customer and sum, customer and group.
type example struct {
	dir            string
	points, groups string
	letters        int // that the sample is meant to make
}

func examples() []example {
	return []example{
		{dir: "retail", points: `
			SELECT customer, sum(points)::bigint FROM (
				SELECT coalesce(phone, openid) AS customer, floor(pay_amount * points_rate) AS points FROM retail.orders WHERE status IN (10, 20, 30)
				UNION ALL SELECT coalesce(phone, openid), -floor(refund_amount * points_rate) FROM retail.refunds WHERE status = 'done') AS p
			WHERE customer IS NOT NULL GROUP BY customer`, groups: `
			SELECT coalesce(unionid, openid, phone), unnest(tags) FROM retail.customers WHERE deleted_at IS NULL AND NOT is_internal
			UNION ALL SELECT phone, segment FROM retail.customer_segments`},
		{dir: "education", points: `
			SELECT phone, sum(points)::bigint FROM (
				SELECT phone, amount_fen / 1000 AS points FROM edu.enrollments WHERE status IN ('paid', 'refunded')
				UNION ALL SELECT phone, -floor(amount_fen::numeric * lessons_left / lessons_total / 1000) FROM edu.enrollments WHERE status = 'refunded'
				UNION ALL SELECT phone, 5 * lessons FROM edu.lesson_usages WHERE NOT cancelled) AS p
			GROUP BY phone`, groups: `
			SELECT right(regexp_replace(phone, '\D', '', 'g'), 11), '线索-' || CASE stage WHEN 'new' THEN '新线索' WHEN 'contacted' THEN '已联系' WHEN 'trial' THEN '已试听'
				WHEN 'enrolled' THEN '已报名' ELSE '已流失' END FROM edu.leads WHERE phone NOT LIKE '0%'
			UNION ALL SELECT phone, '学员-' || CASE status WHEN 'active' THEN '在读' WHEN 'suspended' THEN '停课' ELSE '结业' END FROM edu.students WHERE deleted_at IS NULL`},
		{dir: "membership", letters: 1, points: `
			SELECT coalesce(phone, openid), sum(change)::bigint FROM mem.point_logs WHERE source <> 'tuzhan' AND coalesce(phone, openid) IS NOT NULL GROUP BY 1`, groups: `
			SELECT member_no, '等级-' || name FROM mem.members JOIN mem.levels USING (level_code)
			UNION ALL SELECT member_no, '标签-' || name FROM mem.member_tags JOIN mem.tags USING (tag_id)`},
		{dir: "recipes"},
	}
}

// TestExamples walks through each example as its README says: its tests pass, check is content, and what comes of the sample is what expected.txt and the
// example's own tables say. -update writes expected.txt anew.
func TestExamples(t *testing.T) {
	for _, e := range examples() {
		t.Run(e.dir, func(t *testing.T) {
			t.Parallel()
			e.walk(t)
		})
	}
}

func (e example) walk(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	r := e.rig(t, db)
	e.documented(t, r)
	db.Exec(t, e.read(t, "schema.sql"))

	full := pgtest.Rows[string](t, db, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relreplident = 'f' ORDER BY 1`)
	for _, table := range full {
		db.Exec(t, "ALTER TABLE "+table+" REPLICA IDENTITY DEFAULT")
	}
	out, _, code := r.run("check")
	for _, table := range full {
		if code != 1 || !strings.Contains(out, "ALTER TABLE \""+strings.ReplaceAll(table, ".", `"."`)+"\" REPLICA IDENTITY FULL") {
			t.Errorf("check does not ask for the FULL of %s: is it needed? exit %d\n%s", table, code, out)
		}
		db.Exec(t, "ALTER TABLE "+table+" REPLICA IDENTITY FULL")
	}
	if out, errs, code := r.run("check"); code != 0 || strings.Contains(out, "warning  mapping") {
		t.Fatalf("check: exit %d\n%s%s", code, out, errs)
	}

	start := time.Now()
	r.start()
	db.Exec(t, e.sample(t, db)...)
	r.settled()
	e.expect(t, r, start)
	e.agrees(t, r)
	r.noViolations()
	e.declared(t, r)
}

// rig makes a copy of the example's files in a folder of their own, with the state and nothing else beside them.
func (e example) rig(t *testing.T, db *pgtest.DB) *rig {
	t.Helper()
	r := &rig{t: t, db: db, slot: db.SlotName(), sim: platformsim.New(platformsim.Options{AppID: "app", AppSecret: "s3cret-of-the-app"})}
	r.web = httptest.NewServer(r.sim)
	t.Cleanup(r.web.Close)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("../../examples", e.dir))); err != nil {
		t.Fatal(err)
	}
	r.file = filepath.Join(dir, "tuzhan-cdc.yaml")
	text := e.read(t, "tuzhan-cdc.yaml")
	const slot = "slot: tuzhan_cdc\n"
	if strings.Count(text, slot) != 1 {
		t.Fatalf("tuzhan-cdc.yaml has no %q", slot)
	}
	text = strings.Replace(text, slot, "slot: "+r.slot+"\n", 1) // slots belong to the whole server
	if err := os.WriteFile(r.file, []byte(text+"\nserver: {listen: \"127.0.0.1:0\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.env = []string{"CRM_DSN=" + db.DSN(), "TUZHAN_URL=" + r.web.URL, "TUZHAN_APP_ID=app", "TUZHAN_STATE=" + filepath.Join(dir, "state.db")}
	return r
}

func (e example) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../examples", e.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documented runs the example's tests, and looks for each mapping in its README.
func (e example) documented(t *testing.T, r *rig) {
	t.Helper()
	if out, errs, code := r.run("test"); code != 0 {
		t.Fatalf("test: exit %d\n%s%s", code, out, errs)
	}
	cfg, err := config.LoadMappings(r.file, os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	readme := e.read(t, "README.md")
	for _, name := range cfg.Mappings.Names() {
		if e.dir != "recipes" && !strings.Contains(readme, "`"+name+"`") {
			t.Errorf("README.md does not say what mapping %s is for", name)
		}
	}
}

// sample gives the statements of the sample one by one, as psql runs them.
func (e example) sample(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	text := e.read(t, "sample.sql")
	if pgtest.Value[int](t, db, `SELECT current_setting('server_version_num')::int`) < 140000 { // it knows no skip marker
		text = regexp.MustCompile(`(?s)BEGIN;\nSELECT pg_logical_emit_message.*?COMMIT;\n`).ReplaceAllString(text, "")
	}
	return strings.SplitAfter(text, ";\n")
}

var (
	uuidField = regexp.MustCompile(`,"uuid":"[0-9a-f-]{36}"`)
	timeField = regexp.MustCompile(`"time":([0-9]+)`)
)

// expect compares what the platform applied, customer by customer and of each in order, and the dead letters with expected.txt. Of events the uuid is left out, and
// the time where it is the commit's.
func (e example) expect(t *testing.T, r *rig, start time.Time) {
	t.Helper()
	end := time.Now()
	byCustomer := map[string][]string{}
	for _, a := range r.sim.Ledger() {
		record := string(a.Record)
		if a.Endpoint == platformsim.Event {
			if !uuidField.MatchString(record) {
				t.Errorf("an event has no uuid: %s", record)
			}
			record = uuidField.ReplaceAllString(record, "")
			if a.Time >= start.UnixMilli() && a.Time <= end.UnixMilli() {
				record = timeField.ReplaceAllString(record, `"time":"of the commit"`)
			}
		}
		line := string(a.Endpoint) + " " + record
		if a.PublicParams != nil {
			line += " " + string(a.PublicParams)
		}
		byCustomer[a.Customer] = append(byCustomer[a.Customer], line)
	}
	var b strings.Builder
	b.WriteString("What reaches the platform of sample.sql, by customer, and of each customer in this order (TestExamples -update writes it).\n")
	for _, customer := range slices.Sorted(maps.Keys(byCustomer)) {
		fmt.Fprintf(&b, "\n%s\n  %s\n", customer, strings.Join(byCustomer[customer], "\n  "))
	}
	letters := r.letters()
	if len(letters) != e.letters {
		t.Errorf("%d dead letters, want %d", len(letters), e.letters)
	}
	for _, l := range letters {
		_, reason, _ := strings.Cut(l.Reason, "): ")
		fmt.Fprintf(&b, "\ndead letter of class %s, mapping %s: %s\n", l.Class, l.Mapping, reason)
	}
	path := filepath.Join("../../examples", e.dir, "expected.txt")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := e.read(t, "expected.txt"); b.String() != want {
		t.Errorf("%s: got\n%s\nwant\n%s", path, b.String(), want)
	}
}

// agrees compares points and groups on the platform with what the tables say at the end.
func (e example) agrees(t *testing.T, r *rig) {
	t.Helper()
	if e.points == "" {
		return
	}
	points, groups := map[string]int64{}, map[string][]string{}
	for customer, n := range r.sim.Points() {
		points[customer] = n
	}
	for customer, list := range r.sim.Groups() {
		if len(list) > 0 {
			groups[customer] = list
		}
	}
	var wantPoints map[string]int64
	wantGroups := map[string][]string{}
	tables := func(query string, into any) {
		t.Helper()
		if err := json.Unmarshal([]byte(pgtest.Value[string](t, r.db, query)), into); err != nil {
			t.Fatal(err)
		}
	}
	tables(`SELECT json_object_agg(customer, n)::text FROM (`+e.points+`) AS q (customer, n)`, &wantPoints)
	tables(`SELECT json_object_agg(customer, names)::text FROM (SELECT customer, array_agg(name ORDER BY name COLLATE "C") FROM (`+e.groups+`) AS q (customer, name) GROUP BY customer) AS g (customer, names)`, &wantGroups)
	if !reflect.DeepEqual(points, wantPoints) {
		t.Errorf("points %v, the tables say %v", points, wantPoints)
	}
	if !reflect.DeepEqual(groups, wantGroups) {
		t.Errorf("groups %v, the tables say %v", groups, wantGroups)
	}
}

// declared checks that tables: of the example says what the tables are.
func (e example) declared(t *testing.T, r *rig) {
	t.Helper()
	if out, errs, code := r.run("test", "--record-tables"); code != 0 || strings.Contains(out, "recorded") {
		t.Errorf("test --record-tables: exit %d\n%s%s", code, out, errs)
	}
}
