package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

const brakeMappings = `
mappings:
  - name: braked
    table: crm.visits
    on: [insert, update]
    maxPerMinute: 10
    event: {publicParams: {}, eventKey: c_braked, identities: [{identityType: phone, identityValue: "${{ phone }}"}], eventargs: {id: "${{ id }}"}}
  - name: free
    table: crm.visits
    on: [insert, update]
    event: {publicParams: {}, eventKey: c_free, identities: [{identityType: phone, identityValue: "${{ phone }}"}], eventargs: {id: "${{ id }}"}}
`

// TestBrakeEndToEnd: of a mass change in one transaction the brake lets ten records through, also when the connector is killed while they are in
// flight, and after it; the other mapping flows. resume lets all of it through, in order; set-aside makes letters of the rest of another one; what
// comes after either flows.
func TestBrakeEndToEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, heldSchema, brakeMappings, platformsim.Options{})
	gate := make(chan struct{})
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Event, Gate: gate, Count: 8}); err != nil {
		t.Fatal(err)
	}
	r.start()
	if _, errs, code := r.run("resume", "--mapping", "braked"); code != 1 || !strings.Contains(errs, "not held") {
		t.Errorf("exit %d: %s", code, errs)
	}
	r.db.Exec(t, `INSERT INTO crm.visits SELECT i, '138' || i FROM generate_series(1, 50) i`)
	r.proc.until("mapping held")
	r.platform(func(s *platformsim.Sim) bool { return s.InFlight(platformsim.Event) > 0 })
	r.proc.kill()
	close(gate)
	r.start()
	lsn := pgtest.Value[string](t, r.db, `SELECT pg_current_wal_insert_lsn()::text`)
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (51, '13851')`) // it waits behind, in whatever minute
	r.platform(func(*platformsim.Sim) bool { return slices.Contains(r.events("c_free"), "51") })
	r.until(func() bool { return r.heldOnDisk("braked") })
	r.checkpointed(lsn)
	r.proc.kill()
	r.start()
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (52, '13852')`)
	r.platform(func(*platformsim.Sim) bool { return slices.Contains(r.events("c_free"), "52") })
	if got, want := r.distinct("c_braked"), ids(1, 10); !slices.Equal(got, want) {
		t.Fatalf("sent %q, want %q", got, want)
	}
	s := r.status()
	if !slices.Equal(s.Held, []string{"braked"}) || len(s.Alarms) != 1 || !strings.Contains(s.Alarms[0].Text, "maxPerMinute: it made 10 records") ||
		!strings.Contains(s.Alarms[0].Cure, "resume --mapping braked") {
		t.Errorf("held %v, alarms %+v", s.Held, s.Alarms)
	}

	if out, errs, code := r.run("resume", "--mapping", "braked"); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	r.platform(func(*platformsim.Sim) bool { return slices.Contains(r.distinct("c_braked"), "52") })
	r.settled()
	if got, want := r.distinct("c_braked"), ids(1, 52); !slices.Equal(got, want) {
		t.Fatalf("sent %q, want %q", got, want)
	}

	r.db.Exec(t, `INSERT INTO crm.visits SELECT i, '138' || i FROM generate_series(101, 150) i`)
	r.until(func() bool { return slices.Equal(r.status().Held, []string{"braked"}) })
	r.platform(func(*platformsim.Sim) bool { return slices.Contains(r.distinct("c_braked"), "110") })
	r.until(func() bool { return r.heldOnDisk("braked") })
	if out, errs, code := r.run("deadletters", "set-aside", "--mapping", "braked"); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	r.settled()
	letters := r.letters()
	if len(letters) != 40 {
		t.Fatalf("%d letters, want 40", len(letters))
	}
	for i, l := range letters {
		if l.Class != connector.ClassMapping || l.Mapping != "braked" || !strings.Contains(string(l.Change), ids(111+i, 111+i)[0]) || !strings.Contains(l.Reason, "given up") {
			t.Errorf("letter %d: %s %s %s", i, l.Class, l.Reason, l.Change)
		}
	}
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (200, '138200')`)
	r.platform(func(*platformsim.Sim) bool { return slices.Contains(r.distinct("c_braked"), "200") })
	r.settled()
	if got, want := r.distinct("c_braked"), slices.Concat(ids(1, 52), ids(101, 110), ids(200, 200)); !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
	r.until(func() bool { s := r.status(); return len(s.HeldMappings) == 0 && len(s.Alarms) == 0 })
	if n := len(r.letters()); n != 40 {
		t.Errorf("%d letters", n)
	}
}

// TestBrakeAtBudget: a braked mapping never fills the server's disk either: at walBudget what waits is set aside by itself, and later changes flow.
func TestBrakeAtBudget(t *testing.T) {
	t.Parallel()
	r := newRig(t, heldSchema+`CREATE TABLE crm.busy (x text);`, brakeMappings, platformsim.Options{})
	r.edit("  timeZone: Asia/Shanghai\n", "  timeZone: Asia/Shanghai\n  walBudget: 3MiB\n")
	r.start()
	r.db.Exec(t, `INSERT INTO crm.visits SELECT i, '138' || i FROM generate_series(1, 15) i`)
	r.proc.until("mapping held")
	r.db.Exec(t, `INSERT INTO crm.busy SELECT repeat(md5(i::text), 50) FROM generate_series(1, 3000) i`)
	r.proc.until("source.walBudget is reached")
	r.settled()
	if letters := r.letters("--mapping", "braked"); len(letters) != 5 {
		t.Errorf("%d letters, want 5", len(letters))
	}
	r.db.Exec(t, `INSERT INTO crm.visits VALUES (20, '13820')`)
	r.settled()
	if got, want := r.distinct("c_braked"), append(ids(1, 10), "20"); !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// distinct gives the arguments of the events of one kind, each once, in the order of their numbers.
func (r *rig) distinct(key string) []string {
	r.t.Helper()
	list := r.events(key)
	slices.SortFunc(list, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	return slices.Compact(list)
}

// ids writes numbers.
func ids(from, to int) []string {
	var list []string
	for i := from; i <= to; i++ {
		list = append(list, strconv.Itoa(i))
	}
	return list
}
