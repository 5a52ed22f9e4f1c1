package main

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// scrape is what Prometheus gets, by name.
func (r *rig) scrape() (text string, families map[string]*dto.MetricFamily) {
	r.t.Helper()
	code, text := r.get("/metrics")
	if code != 200 {
		r.t.Fatalf("/metrics: %d %s", code, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		r.t.Fatal(err)
	}
	return text, families
}

// TestMetrics: the metrics of a running connector say what its platform has seen, hold nothing of a customer, and are all that dashboard and alert rules
// ask for.
func TestMetrics(t *testing.T) {
	t.Parallel()
	db := pgtest.Private(t, "max_slot_wal_keep_size=20GB").Database(t)
	r := newRigOn(t, db, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders (order_no, phone, amount, status) SELECT 'DD' || n, '1380000000' || n, n, 'paid' FROM generate_series(1, 7) n`,
		`INSERT INTO crm.orders (order_no, phone, amount, status) VALUES ('DD8', NULL, 8, 'paid')`, // nobody is named: two letters of class mapping
		`INSERT INTO crm.orders (order_no, phone, amount, status) VALUES ('DD9', '13800000009', 9, 'created')`,
		`INSERT INTO crm.member_groups VALUES ('13800000001', '新客')`)
	r.applied(platformsim.Event, 7)
	r.applied(platformsim.Point, 7)
	r.applied(platformsim.GroupRelation, 1)
	r.settled()

	asked := asking(t)
	if len(asked) < 20 {
		t.Fatalf("dashboard and rules ask for %d metrics only", len(asked))
	}
	var text string
	var families map[string]*dto.MetricFamily
	missing := func() (list []string) {
		text, families = r.scrape()
		for _, name := range slices.Sorted(maps.Keys(asked)) {
			if families[name] == nil {
				list = append(list, name)
			}
		}
		if f := families["tuzhan_cdc_slot_active"]; f != nil && f.Metric[0].Gauge.GetValue() != 1 {
			list = append(list, "an active slot")
		}
		return list
	}
	// What is seen of the server is as old as the last look, and what is measured from look to look takes two, with WAL between them.
	deadline := time.Now().Add(wait)
	for list := missing(); len(list) > 0; list = missing() {
		if time.Now().After(deadline) {
			t.Fatalf("dashboard and rules ask for what is not there: %q", list)
		}
		r.db.Exec(t, `INSERT INTO crm.other (filler) VALUES ('x')`)
		<-time.After(500 * time.Millisecond)
	}
	for name, labels := range asked {
		for _, label := range labels {
			has := slices.ContainsFunc(families[name].Metric[0].Label, func(l *dto.LabelPair) bool { return l.GetName() == label })
			if !has && label != "job" && label != "instance" && label != "le" { // Prometheus adds the first two
				t.Errorf("dashboard or rules ask for label %s of %s, which has none", label, name)
			}
		}
	}

	documented := readmeMetrics(t)
	for name := range families {
		if ours := strings.HasPrefix(name, "tuzhan_cdc_"); ours && !slices.Contains(documented, name) {
			t.Errorf("the README does not know %s", name)
		}
	}
	for _, name := range documented {
		if families[name] == nil {
			t.Errorf("the README knows %s, which is not there", name)
		}
	}

	stats := r.sim.Stats()
	for line, want := range map[string]any{
		`tuzhan_cdc_ready`:                                                                 1,
		`tuzhan_cdc_state{state="streaming"}`:                                              1,
		`tuzhan_cdc_slot_known`:                                                            1,
		`tuzhan_cdc_slot_active`:                                                           1,
		`tuzhan_cdc_delivery_paused`:                                                       0,
		`tuzhan_cdc_endpoint_up{endpoint="event"}`:                                         1,
		`tuzhan_cdc_table_changes_total{table="crm.orders"}`:                               9,
		`tuzhan_cdc_mapping_changes_total{mapping="order-paid",table="crm.orders"}`:        9,
		`tuzhan_cdc_records_made_total{kind="event",mapping="order-paid"}`:                 7,
		`tuzhan_cdc_records_delivered_total{kind="event",mapping="order-paid"}`:            7,
		`tuzhan_cdc_records_delivered_total{kind="point",mapping="order-points"}`:          7,
		`tuzhan_cdc_records_delivered_total{kind="groupRelation",mapping="member-groups"}`: 1,
		`tuzhan_cdc_dead_letters_total{class="mapping",mapping="order-paid"}`:              1,
		`tuzhan_cdc_dead_letters_total{class="rejected",mapping="order-paid"}`:             0,
		`tuzhan_cdc_dead_letters_open{class="mapping"}`:                                    2,
		`tuzhan_cdc_requests_total{endpoint="point",verdict="delivered"}`:                  stats.Endpoints[platformsim.Point].Requests,
		`tuzhan_cdc_requests_total{endpoint="event",verdict="delivered"}`:                  stats.Endpoints[platformsim.Event].Requests,
		`tuzhan_cdc_request_body_bytes_total{endpoint="event"}`:                            stats.Endpoints[platformsim.Event].Bytes,
		`tuzhan_cdc_request_duration_seconds_count{endpoint="event"}`:                      stats.Endpoints[platformsim.Event].Requests,
		`tuzhan_cdc_request_records_sum{endpoint="event"}`:                                 7,
	} {
		if !strings.Contains(text, "\n"+line+" "+strings.TrimSpace(string(marshalled(t, want)))+"\n") {
			t.Errorf("want %s %v; have %q", line, want, regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(line)+` .*`).FindString(text))
		}
	}
	for _, personal := range []string{"1380000000", "新客", "DD1", "s3cret"} {
		if strings.Contains(text, personal) {
			t.Errorf("the metrics hold %s", personal)
		}
	}
}

// readmeMetrics are those in the README's table of metrics.
func readmeMetrics(t *testing.T) (names []string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "| metric (`tuzhan_cdc_…`) | labels | |\n|---|---|---|\n")
	table, _, _ := strings.Cut(rest, "\n\n")
	for row := range strings.Lines(table) {
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(strings.Split(row, "|")[1], -1) {
			names = append(names, "tuzhan_cdc_"+name[1])
		}
	}
	return names
}

func marshalled(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rules is a file of Prometheus's rules.
type rules struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

type rule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func alertRules(t *testing.T) (list []rule) {
	t.Helper()
	text, err := os.Open("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	var file rules
	d := yaml.NewDecoder(text)
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		list = append(list, g.Rules...)
	}
	return list
}

// asking are the metrics, and their labels, that dashboard and alert rules ask for; those that Prometheus itself makes are left out.
func asking(t *testing.T) map[string][]string {
	t.Helper()
	asked := map[string][]string{}
	for _, r := range alertRules(t) {
		metricsOf(t, "alert "+r.Alert, r.Expr, asked)
	}
	text, err := os.ReadFile("../../deploy/grafana/tuzhan-cdc.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		UID    string
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %s asks for nothing", p.Title)
		}
		for _, q := range p.Targets {
			metricsOf(t, "panel "+p.Title, q.Expr, asked)
		}
	}
	for _, a := range dashboard.Annotations.List {
		metricsOf(t, "annotation", a.Expr, asked)
	}
	for name := range asked {
		if name == "up" {
			delete(asked, name)
			continue
		}
		// A histogram's family stands under its own name.
		if base := regexp.MustCompile(`^(.*)_(bucket|sum|count)$`).FindStringSubmatch(name); base != nil {
			asked[base[1]] = append(asked[base[1]], asked[name]...)
			delete(asked, name)
		}
	}
	return asked
}

// metricsOf parses an expression and adds what it asks for to asked.
func metricsOf(t *testing.T, where, expr string, asked map[string][]string) {
	t.Helper()
	parsed, err := metricsql.Parse(strings.ReplaceAll(expr, "$__rate_interval", "1m"))
	if err != nil {
		t.Errorf("%s: %v: %s", where, err, expr)
		return
	}
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		m, ok := e.(*metricsql.MetricExpr)
		if !ok {
			return
		}
		for _, filters := range m.LabelFilterss {
			name := ""
			for _, f := range filters {
				if f.Label == "__name__" {
					name = f.Value
					asked[name] = append([]string{}, asked[name]...)
				} else {
					asked[name] = append(asked[name], f.Label)
				}
			}
		}
	})
}

// TestAlertRules: each rule has a severity, says what it means and what to do, and names only commands of the program that there are. Where promtool is
// there, it checks the rules and runs their own tests.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	tests, err := os.ReadFile("../../deploy/prometheus/alerts.test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range alertRules(t) {
		if seen[r.Alert] {
			t.Errorf("%s stands there twice", r.Alert)
		}
		seen[r.Alert] = true
		if !strings.HasPrefix(r.Alert, "TuzhanCDC") || r.Labels["severity"] != "critical" && r.Labels["severity"] != "warning" {
			t.Errorf("%+v", r)
		}
		for _, key := range []string{"summary", "description", "cure"} {
			if len(r.Annotations[key]) < 20 {
				t.Errorf("%s: annotation %s is %q", r.Alert, key, r.Annotations[key])
			}
		}
		if _, err := time.ParseDuration(r.For); r.For != "" && err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
		if !strings.Contains(string(tests), `"`+r.Alert+`"`) {
			t.Errorf("alerts.test.yaml does not see %s fire", r.Alert)
		}
		for _, m := range regexp.MustCompile("`(?:tuzhan-cdc )?(deadletters [a-z-]+|health|check|status|resume|run|backfill)\\b([^`]*)`").FindAllStringSubmatch(r.Annotations["cure"], -1) {
			words := strings.Fields(m[1])
			c, rest, err := newRoot(streams{os.Stdin, os.Stdout, os.Stderr}).Find(words)
			if err != nil || len(rest) > 0 {
				t.Errorf("%s: no command %q: %v", r.Alert, m[1], err)
				continue
			}
			for _, flag := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(m[2], -1) {
				if c.Flags().Lookup(flag[1]) == nil {
					t.Errorf("%s: %s has no flag --%s", r.Alert, m[1], flag[1])
				}
			}
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is not here: alerts.test.yaml was not run")
		return
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts.test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = "../../deploy/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v\n%s", args, err, out)
		}
	}
}
