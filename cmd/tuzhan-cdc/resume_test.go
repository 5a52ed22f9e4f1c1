package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// positionMappings make events that carry the position of their change, and points.
const positionMappings = `
mappings:
  - name: e
    table: crm.e
    on: [insert]
    event:
      publicParams: {}
      eventKey: c_x
      identities: [{identityType: id, identityValue: "${{ id }}"}]
      eventargs: {c_position: "${{ position }}"}
  - name: p
    table: crm.p
    on: [insert]
    point:
      point: 1
      remark: ${{ id }}
      phoneList: [{phone: "${{ phone }}", isVerify: "1"}]
`

const positionSchema = `CREATE SCHEMA crm; CREATE TABLE crm.e(id int PRIMARY KEY); CREATE TABLE crm.p(id int PRIMARY KEY, phone text)`

// positionOf cuts the position out, since to decode a million events takes its time.
func positionOf(t *testing.T, a platformsim.Applied) connector.Position {
	t.Helper()
	_, text, _ := strings.Cut(string(a.EventArgs), `"c_position":"`)
	text, _, _ = strings.Cut(text, `"`)
	p, err := connector.ParsePosition(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// death is what is known after a kill -9: how far the platform had come, and the checkpoint that was on disk.
type death struct {
	seq        uint64
	checkpoint *connector.Checkpoint
}

func (r *rig) killed() death {
	r.t.Helper()
	r.proc.kill()
	var d death
	if l := r.sim.Ledger(); len(l) > 0 {
		d.seq = l[len(l)-1].Seq
	}
	d.checkpoint = r.checkpoint(func(*connector.Checkpoint) bool { return true })
	return d
}

// nothingSettledCameAgain checks that no event that the checkpoint covered at a kill was applied after it.
func (r *rig) nothingSettledCameAgain(deaths []death) {
	r.t.Helper()
	for i, d := range deaths {
		again := 0
		for _, a := range r.sim.LedgerSince(d.seq, platformsim.Event) {
			if d.checkpoint.Covers(positionOf(r.t, a)) {
				again++
			}
		}
		if again > 0 {
			r.t.Errorf("%d events that were settled on disk at kill %d came again", again, i+1)
		}
	}
}

// eventCounts gives how many customers got an event, and how many events came again.
func (r *rig) eventCounts() (customers, repeated int) {
	uuids, ids := map[string]bool{}, map[string]bool{}
	for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
		if uuids[a.UUID] {
			repeated++
		}
		uuids[a.UUID], ids[a.Customer] = true, true
	}
	if len(uuids) != len(ids) {
		r.t.Errorf("%d customers have %d uuids", len(ids), len(uuids))
	}
	return len(ids), repeated
}

// TestKillInHugeTransaction: a transaction of 300,000 rows, interleaved with others, is killed three times on its way and does not start over: what
// the checkpoint on disk covered does not come again, and that is no older than it may be.
func TestKillInHugeTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t, positionSchema, positionMappings, platformsim.Options{})
	r.start()
	const n = 300_000
	// The platform takes its time, so that each kill meets the transaction in its middle: 100,000 events a second.
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Event, Count: -1, Delay: 20 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	conn := r.db.Conn(t)
	huge := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	huge(`BEGIN`)
	huge(fmt.Sprintf(`INSERT INTO crm.e SELECT generate_series(1, %d)`, n/2))
	r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.e SELECT generate_series(%d, %d)`, n+1, n+1000))
	huge(fmt.Sprintf(`INSERT INTO crm.e SELECT generate_series(%d, %d)`, n/2+1, n))
	huge(`COMMIT`)
	r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.e SELECT generate_series(%d, %d)`, n+1001, n+2000))
	var deaths []death
	for _, at := range []int{n / 4, n * 3 / 8, n / 2} {
		r.applied(platformsim.Event, at)
		deaths = append(deaths, r.killed())
		if r.sim.Count(platformsim.Event) >= n {
			t.Fatal("the kill came too late to show anything")
		}
		r.start()
	}
	r.applied(platformsim.Event, n+2000) // and what comes again, which is little
	r.settled()
	r.nothingSettledCameAgain(deaths)
	customers, repeated := r.eventCounts()
	if customers != n+2000 {
		t.Errorf("%d customers, want %d", customers, n+2000)
	}
	// For each kill, in flight: concurrency * maxBatch; since the last checkpoint: 5,000 changes, or what 200 ms bring.
	if most := len(deaths) * (4*500 + 5000 + 20_000); repeated > most {
		t.Errorf("%d events came again", repeated)
	}
	t.Logf("%d events came again after %d kills", repeated, len(deaths))
}

// TestKillWithManyRanges: one customer's point waits for its answer while 100,000 changes of others are settled, with 2,000 points of that customer
// between them. After a kill none of them comes again, and no point is doubled.
func TestKillWithManyRanges(t *testing.T) {
	t.Parallel()
	r := newRig(t, positionSchema, positionMappings, platformsim.Options{})
	r.patient()
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	blocked, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Point, Gate: gate})
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	const points, each = 2000, 50
	r.db.Exec(t, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		INSERT INTO crm.p VALUES (i, '13000000000'); INSERT INTO crm.e SELECT generate_series(i * %d, i * %d + %d - 1); COMMIT;
	END LOOP; END $$`, points, each, each, each))
	r.applied(platformsim.Event, points*each)
	var before []connector.Position
	for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
		before = append(before, positionOf(t, a))
	}
	r.checkpoint(func(cp *connector.Checkpoint) bool {
		return !slices.ContainsFunc(before, func(p connector.Position) bool { return !cp.Covers(p) })
	})
	if r.sim.Hits(blocked) != 1 || r.sim.Count(platformsim.Point) != 0 {
		t.Fatal("the first point does not wait")
	}
	d := r.killed()
	if len(d.checkpoint.Ranges) != points || d.checkpoint.Settled.Compare(before[0]) >= 0 {
		t.Errorf("%d ranges beyond %s, want %d", len(d.checkpoint.Ranges), d.checkpoint.Settled, points)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.e SELECT generate_series(1000001, 1001000)`)
	r.applied(platformsim.Event, points*each+1000)
	r.applied(platformsim.Point, points-1)
	open() // the platform applies the one that waited, though nobody waits for the answer any more
	r.platform(func(s *platformsim.Sim) bool {
		return s.Count(platformsim.Point) >= points && s.InFlight(platformsim.Point) == 0
	})
	r.settled()
	r.nothingSettledCameAgain([]death{d})
	if customers, repeated := r.eventCounts(); customers != points*each+1000 || repeated != 0 {
		t.Errorf("%d customers, %d events came again", customers, repeated)
	}
	given := map[string]int{}
	for _, a := range r.sim.LedgerSince(0, platformsim.Point) {
		if given[a.Remark]++; given[a.Remark] > 1 {
			t.Errorf("point %s was given %d times", a.Remark, given[a.Remark])
		}
	}
	letters := r.letters()
	if len(given) != points || len(letters) != 1 || letters[0].Class != connector.ClassUncertain {
		t.Errorf("%d points were given, want %d; %d dead letters, want the uncertain first point", len(given), points, len(letters))
	}
}

// patient lets requests wait for longer than a test takes.
func (r *rig) patient() {
	r.t.Helper()
	text, err := os.ReadFile(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.file, []byte(strings.Replace(string(text), "timeout: 5s", "timeout: 10m", 1)), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// TestNewSlotSaysWhatItWaitsFor: while the server makes the slot wait for a transaction, the log says which, how old it is, and what ends it.
func TestNewSlotSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, pgtest.Private(t).Database(t), crmSchema, crmMappings, platformsim.Options{})
	writer, err := pgx.Connect(t.Context(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writer.Close(t.Context()) }) // the cure has ended it
	if _, err := writer.Exec(t.Context(), `BEGIN; INSERT INTO crm.other(filler) VALUES ('x')`); err != nil {
		t.Fatal(err)
	}
	r.launch()
	pid := writer.PgConn().PID()
	r.proc.until(fmt.Sprintf("the new slot waits for a transaction that was writing: pid %d", pid))
	cure := fmt.Sprintf("SELECT pg_terminate_backend(%d);", pid)
	line := lineWith(r.proc.log.String(), "the new slot waits")
	for _, part := range []string{"open for ", "idle in transaction", "in database " + r.db.Name(), "waited=", cure} {
		if !strings.Contains(line, part) {
			t.Errorf("the line does not say %q: %s", part, line)
		}
	}
	if s := r.snapshot(); s.State != "starting" {
		t.Errorf("state %s while the slot is made", s.State)
	}
	r.db.Exec(t, cure)
	r.proc.until("msg=streaming")
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', 'a')`)
	r.applied(platformsim.GroupRelation, 1)
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}
