package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// onServer puts the state of a rig into a database: its own role's, which may do no more than the README grants.
func (r *rig) onServer(db *pgtest.DB, mappings string) {
	r.t.Helper()
	role, dsn := db.Role(r.t, "")
	db.Exec(r.t, "CREATE SCHEMA tuzhan_cdc AUTHORIZATION "+role)
	r.state = fmt.Sprintf("{dsn: %q}", dsn)
	r.write(mappings, "")
}

// serverRig is a rig whose state is in the CRM's own database.
func serverRig(t *testing.T, schema, mappings string) *rig {
	t.Helper()
	r := newRig(t, schema, mappings, platformsim.Options{})
	r.onServer(r.db, mappings)
	return r
}

// TestSIGKILLWithStateOnServer is TestSIGKILL with the state in the CRM's own database.
func TestSIGKILLWithStateOnServer(t *testing.T) {
	t.Parallel()
	testSIGKILL(t, serverRig(t, crmSchema, crmMappings), 4)
}

// TestKillInHugeTransactionWithStateOnServer is TestKillInHugeTransaction with the state in a database of its own.
func TestKillInHugeTransactionWithStateOnServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, hugeSchema, hugeMappings, platformsim.Options{})
	r.onServer(pgtest.Server(t).Database(t), hugeMappings)
	testKillInHugeTransaction(t, r)
}

const (
	hugeSchema   = `CREATE SCHEMA crm; CREATE TABLE crm.e(id int PRIMARY KEY)`
	hugeMappings = `
mappings:
  - name: e
    table: crm.e
    on: [insert]
    event:
      publicParams: {}
      eventKey: c_x
      identities: [{identityType: id, identityValue: "${{ id }}"}]
`
)

func testKillInHugeTransaction(t *testing.T, r *rig) {
	r.patient()
	r.start()
	const n = 50_000
	// The platform takes half of it, and has the rest wait: the kill meets the transaction in its middle.
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	r.inject(platformsim.Fault{Endpoint: platformsim.Event, Count: -1, Gate: gate})
	before, err := connector.ParseLSN(pgtest.Value[string](t, r.db, `SELECT pg_current_wal_insert_lsn()::text`))
	if err != nil {
		t.Fatal(err)
	}
	r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.e SELECT generate_series(1, %d)`, n))
	for r.sim.Count(platformsim.Event) < n/2 {
		select {
		case gate <- struct{}{}:
		case <-time.After(wait):
			t.Fatal("no request comes")
		}
	}
	r.checkpoint(func(cp *connector.Checkpoint) bool {
		covered := 0
		if cp.Settled.Commit > before {
			covered = int(cp.Settled.Index) + 1
		}
		for _, run := range cp.Ranges {
			covered += int(run.To.Index-run.From.Index) + 1
		}
		return covered == r.sim.Count(platformsim.Event)
	})
	r.proc.kill()
	open()
	r.start()
	r.settled()
	uuids, ids := map[string]bool{}, map[string]bool{}
	repeated := 0
	for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
		if uuids[a.UUID] {
			repeated++
		}
		uuids[a.UUID], ids[a.Customer] = true, true
	}
	if len(ids) != n || len(uuids) != n {
		t.Errorf("%d customers, %d uuids, want %d", len(ids), len(uuids), n)
	}
	// Those that were in flight: concurrency * maxBatch.
	if repeated > 4*500 {
		t.Errorf("%d events came again", repeated)
	}
	t.Logf("%d came again", repeated)
}

// TestStandbyByState: two programs share a state and a slot; the second takes over when the first is killed, and no point is doubled. The commands read the state
// beside them.
func TestStandbyByState(t *testing.T) {
	t.Parallel()
	r := serverRig(t, crmSchema, crmMappings)
	if _, errs, code := r.run("deadletters", "list"); code != 1 || !strings.Contains(errs, "no schema tuzhan_cdc") {
		t.Errorf("before the first start: exit %d, %s", code, errs)
	}
	r.start()
	l := r.load(3)
	for range 3 {
		active := r.proc
		r.launch()
		r.proc.until("as a standby")
		if status, _ := r.get("/healthz"); status != 200 {
			t.Errorf("the standby's /healthz is %d", status)
		}
		if status, _ := r.get("/readyz"); status != 503 {
			t.Errorf("the standby's /readyz is %d", status)
		}
		r.applied(platformsim.Point, r.sim.Count(platformsim.Point)+50)
		active.kill()
		r.proc.until("msg=streaming")
	}
	l.end()
	r.settled()
	r.reconcile()
	out, errs, code := r.run("status", "--output", "json")
	if code != 0 || !strings.Contains(out, `"settled"`) {
		t.Errorf("status: exit %d\n%s%s", code, out, errs)
	}
}

// TestOvertaken: a connector whose session the state's server has ended, and whose state another one has taken, ends by itself with 1.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	r := serverRig(t, crmSchema, crmMappings)
	r.start()
	first := r.proc
	l := r.load(1)
	r.applied(platformsim.Point, 20)
	r.launch()
	r.proc.until("as a standby")
	// The first one could come back before the second looks: both are let wait until the lock is the second's.
	for {
		r.db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
		select {
		case <-first.done:
		default:
			continue
		}
		break
	}
	if code := first.exit(); code != 1 || !strings.Contains(first.log.String(), "has taken this state over") {
		t.Errorf("the first one: exit %d\n%s", code, first.log)
	}
	r.proc.until("msg=streaming")
	l.end()
	r.settled()
	r.reconcile()
}

// TestCutOff: a connector is cut off from its databases, and not from the platform, with a request in flight. The standby goes on when that has surely ended, and not
// before: one customer's records never meet.
func TestCutOff(t *testing.T) {
	t.Parallel()
	r := serverRig(t, crmSchema, crmMappings)
	direct, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	proxy := pgtest.Proxy(t, r.db.Server().Addr())
	if err := os.WriteFile(r.file, bytes.ReplaceAll(direct, []byte("@"+r.db.Server().Addr()), []byte("@"+proxy.Addr())), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	first := r.proc
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('13800000001', '金卡')`)
	r.applied(platformsim.GroupRelation, 1)
	if err := os.WriteFile(r.file, direct, 0o600); err != nil {
		t.Fatal(err)
	}
	r.launch()
	r.proc.until("as a standby")
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.GroupRelation, Delay: 3 * time.Second}); err != nil {
		t.Fatal(err)
	}
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('13800000001', '会员日')`)
	r.platform(func(s *platformsim.Sim) bool { return s.InFlight(platformsim.GroupRelation) == 1 })
	proxy.Refuse()
	r.db.Exec(t, `DELETE FROM crm.member_groups WHERE group_name = '会员日'`)
	r.proc.until("nothing is sent yet")
	r.proc.until("msg=streaming")
	r.settled()
	for _, v := range r.sim.Violations() {
		t.Errorf("%+v", v)
	}
	r.reconcile()
	proxy.Heal(t)
	if code := first.exit(); code != 1 || !strings.Contains(first.log.String(), "has taken this state over") {
		t.Errorf("the first one: exit %d\n%s", code, first.log)
	}
}

// TestStateServerRestarts: the state's server goes away and comes back under load: deliveries wait, the alarm says why, nothing is lost or doubled.
func TestStateServerRestarts(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.onServer(server.Database(t), crmMappings)
	r.start()
	l := r.load(2)
	for _, mode := range []throwaway.Mode{throwaway.Fast, throwaway.Immediate} {
		r.applied(platformsim.Point, r.sim.Count(platformsim.Point)+50)
		server.Stop(t, mode)
		r.proc.until("msg=alarm about=state")
		server.Start(t)
		r.proc.until("msg=recovered about=state")
	}
	r.applied(platformsim.Point, r.sim.Count(platformsim.Point)+50)
	l.end()
	r.settled()
	r.reconcile()
	if letters := r.letters(); len(letters) != 0 {
		t.Errorf("%d dead letters: no request was in doubt", len(letters))
	}
}

// TestStateInAnotherDatabase: a DSN that leads elsewhere is found out by the slot, which a fresh state knows nothing of; nothing is sent.
func TestStateInAnotherDatabase(t *testing.T) {
	t.Parallel()
	r := serverRig(t, crmSchema, crmMappings)
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('138', 'a')`)
	r.settled()
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('139', 'a')`)
	right := r.state
	r.onServer(pgtest.Server(t).Database(t), crmMappings)
	r.launch()
	if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "--new-state") {
		t.Errorf("exit %d\n%s", code, r.proc.log)
	}
	if got := len(r.sim.Ledger()); got != 1 {
		t.Errorf("%d records are on the platform", got)
	}
	r.state = right
	r.write(crmMappings, "")
	r.start()
	r.settled()
	r.sameGroups()
}

// TestCheckState: check says what keeps run from using the state, and run then says the same.
func TestCheckState(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	if out, _, _ := r.run("check"); !strings.Contains(out, "state.db: not there yet") {
		t.Errorf("a file that is to be made:\n%s", out)
	}
	role, dsn := r.db.Role(t, "")
	r.state = fmt.Sprintf("{dsn: %q}", dsn)
	r.write(crmMappings, "")
	out, _, code := r.run("check")
	if code != 1 || !strings.Contains(out, "schema tuzhan_cdc is missing") || !strings.Contains(out, "GRANT USAGE, CREATE ON SCHEMA tuzhan_cdc TO \""+role+"\"") {
		t.Errorf("without rights: exit %d\n%s", code, out)
	}
	r.launch()
	if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "GRANT USAGE, CREATE ON SCHEMA") {
		t.Errorf("run: exit %d\n%s", code, r.proc.log)
	}
	r.db.Exec(t, "GRANT CREATE ON DATABASE "+r.db.Name()+" TO "+role, "CREATE PUBLICATION everything FOR ALL TABLES")
	if out, _, _ = r.run("check"); !strings.Contains(out, "not there yet, run makes it") || !strings.Contains(out, "state's own tables are published") {
		t.Errorf("with rights:\n%s", out)
	}
	r.start()
	if out, _, _ = r.run("check"); !strings.Contains(out, "version ") {
		t.Errorf("beside a running connector:\n%s", out)
	}
	if strings.Contains(out, "postgres://") {
		t.Errorf("a DSN is shown:\n%s", out)
	}
}

// TestDamagedStateFile: a file that something has damaged is refused with exit code 1, and nothing is sent until it is put right.
func TestDamagedStateFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) SELECT 'A' || i, '138' || i, 1, 'paid' FROM generate_series(1, 20) i`)
	r.settled()
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('138', 'a')`)
	sent := len(r.sim.Ledger())
	path := filepath.Join(filepath.Dir(r.file), "state.db")
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	flipped := bytes.Clone(sound)
	for page := 0; page+4096 <= len(flipped); page += 4096 {
		for range 20 {
			flipped[page+random.IntN(4096)] ^= byte(1 + random.IntN(255))
		}
		flipped[page+random.IntN(8)] ^= 0xff // what describes the page is always hit
	}
	for _, damage := range []struct {
		name      string
		file, wal []byte
	}{
		{"flipped", flipped, nil}, {"cut", sound[:len(sound)/2+100], nil}, {"empty beside a WAL", nil, sound},
	} {
		write := func(name string, content []byte) {
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(path, damage.file)
		if damage.wal != nil {
			write(path+"-wal", damage.wal)
		}
		r.launch()
		if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "the state is damaged") || !strings.Contains(r.proc.log.String(), path) {
			t.Errorf("%s: exit %d\n%s", damage.name, code, r.proc.log)
		}
		if out, _, code := r.run("check"); code != 1 || !strings.Contains(out, "the state is damaged") {
			t.Errorf("%s: check exits with %d\n%s", damage.name, code, out)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, damage.file) {
			t.Errorf("%s: the file was changed (%v)", damage.name, err)
		}
		for _, beside := range []string{"-wal", "-shm"} {
			_ = os.Remove(path + beside) // it may not be there
		}
	}
	if got := len(r.sim.Ledger()); got != sent {
		t.Errorf("%d records were sent meanwhile", got-sent)
	}
	if err := os.WriteFile(path, sound, 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.settled()
	r.sameGroups()
	if got := len(r.sim.Ledger()); got != sent+1 {
		t.Errorf("%d records were sent in all, want %d", got, sent+1)
	}
}
