package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"gopkg.in/yaml.v3"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
)

// Each row is one customer, for good: the phone stays whatever else changes. crm.past has the keys that a row ever had.
const fillSchema = `
CREATE SCHEMA crm;
CREATE TABLE crm.members (tenant text COLLATE "%s", id bigint, phone text NOT NULL UNIQUE, grp text NOT NULL, born boolean NOT NULL DEFAULT true, paid boolean NOT NULL DEFAULT false, PRIMARY KEY (tenant, id));
ALTER TABLE crm.members REPLICA IDENTITY %s;
CREATE TABLE crm.past (phone text, key text, PRIMARY KEY (phone, key));
CREATE FUNCTION crm.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO crm.past VALUES (NEW.phone, NEW.tenant || ' ' || NEW.id) ON CONFLICT DO NOTHING; RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON crm.members FOR EACH ROW EXECUTE FUNCTION crm.note();
INSERT INTO crm.members SELECT (ARRAY['a', 'B', 'ä', 'Z', '', ',x\'])[1 + n %% 6], n, '138' || lpad(n::text, 8, '0'), 'g' || n %% 5, false, n %% 3 = 0 FROM generate_series(1, %d) n;`

// The first mapping follows the rows. The next two want what a backfill reads and nothing else, so that the stream passes over all changes. The last one gives a
// row its points once, when it is paid: it may have them of the stream or of the backfill.
const fillMappings = `
mappings:
  - name: follow
    table: crm.members
    on: [insert, update, delete, snapshot]
    onChange: replace
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ grp }}
  - name: seen
    table: crm.members
    on: [snapshot]
    event:
      eventKey: c_seen
      time: 1700000000000
      identities: [{identityType: phone, identityValue: "${{ phone }}"}]
      eventargs: {c_key: "${{ tenant }} ${{ id }}"}
  - name: welcome
    table: crm.members
    on: [snapshot]
    point:
      point: 1
      remark: welcome
      phoneList: [{phone: "${{ phone }}", isVerify: "1"}]
  - name: paid
    table: crm.members
    on: [insert, update, snapshot]
    when: new.paid && !(old?.paid ?? false)
    point:
      point: 1
      remark: paid
      phoneList: [{phone: "${{ phone }}", isVerify: "1"}]
`

// TestBackfillProperty: whatever is written meanwhile, and whenever the program is killed, the platform's groups are those of the database in the end, every row
// that was there all the time has its event, and nobody has a point twice, be it of a backfill or of the stream.
//
// FILL_SECONDS is for how long seeds are tried (make backfills), FILL_SEED the first one.
func TestBackfillProperty(t *testing.T) {
	seconds, _ := strconv.Atoi(os.Getenv("FILL_SECONDS"))
	seed, err := strconv.ParseUint(os.Getenv("FILL_SEED"), 10, 64)
	if err != nil {
		seed = 1
		if seconds > 0 {
			seed = rand.Uint64N(1_000_000)
		}
	}
	if seconds == 0 {
		t.Parallel()
	}
	needsWatermarks(t)
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	for n := 0; n == 0 || time.Now().Before(end); n, seed = n+1, seed+1 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { runFillProperty(t, seed) })
		if t.Failed() {
			t.Fatalf("to run it again: make backfills SEED=%d SECONDS=1", seed)
		}
	}
}

func runFillProperty(t *testing.T, seed uint64) {
	dice := chaosDice(seed, 0)
	collation := []string{"C", "en_US.utf8", "und-x-icu"}[dice.IntN(3)]
	db := pgtest.Server(t).Database(t)
	if collation != "C" && pgtest.Value[int](t, db, "SELECT count(*)::int FROM pg_collation WHERE collname = '"+collation+"'") == 0 {
		collation = "default"
	}
	rows := 1000 + dice.IntN(2000)
	r := newRigOn(t, db, fmt.Sprintf(fillSchema, collation, []string{"FULL", "FULL", "DEFAULT"}[0], rows), fillMappings, platformsim.Options{Seed: seed})
	r.write(fillMappings, fmt.Sprintf("delivery: {maxPending: %d, maxBatch: %d, backoff: {initial: 20ms, max: 200ms}}", []int{200, 1000, 20000}[dice.IntN(3)], []int{7, 50, 500}[dice.IntN(3)]))
	if _, err := r.sim.Inject(platformsim.Fault{Count: -1, Probability: 0.3, Delay: 8 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	r.start()
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	var asked atomic.Bool // points that the stream has given before may be given again
	for i := range uint64(3) {
		writers.Go(func() { fillWrites(writing, t, db, chaosDice(seed, 10+i), i, rows, &asked) })
	}
	names := []string{"follow", "seen", "welcome", "paid"}
	dice.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		r.backfill(name, "--detach", "--rows-per-second", fmt.Sprint(500+dice.IntN(3000)))
	}
	asked.Store(true)
	kills := 0
	for done := false; !done; {
		timer := time.NewTimer(time.Duration(dice.ExpFloat64() * float64(600*time.Millisecond)))
		select {
		case <-timer.C:
		case <-t.Context().Done():
			t.Fatal("it takes too long")
		}
		done = r.fillsEnded()
		if !done && kills < 12 {
			kills++
			r.proc.kill()
			r.platform(func(s *platformsim.Sim) bool { return s.InFlight("") == 0 })
			r.start()
		}
	}
	stop()
	writers.Wait()
	r.settled()
	r.judgeFills(kills)
	t.Logf("seed %d: %d rows, collation %s, %d kills: %d group relations, %d events, %d points, %d dead letters", seed, rows, collation, kills,
		r.sim.Count(platformsim.GroupRelation), r.sim.Count(platformsim.Event), r.sim.Count(platformsim.Point), len(r.letters()))
}

// fillsEnded reports whether all backfills have ended, and fails where one has not done so well.
func (r *rig) fillsEnded() bool {
	r.t.Helper()
	reader := r.openState()
	defer reader.Close()
	list, err := reader.AllBackfills(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, b := range list {
		switch {
		case b.Status == connector.BackfillPaused || b.Status.Ended() && b.Status != connector.BackfillDone:
			r.t.Fatalf("backfill %d of %s is %s: %s", b.ID, b.Mapping, b.Status, b.Reason)
		case !b.Status.Ended():
			return false
		}
	}
	return true
}

// fillWrites inserts, updates, deletes, changes keys and, once the backfills are asked for, pays, until ctx ends.
func fillWrites(ctx context.Context, t *testing.T, db *pgtest.DB, dice *rand.Rand, writer uint64, rows int, asked *atomic.Bool) {
	conn, err := pgx.Connect(context.WithoutCancel(ctx), db.DSN())
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	fresh := 0
	one := func() string {
		victim := fmt.Sprintf("phone = '138%08d'", 1+dice.IntN(rows))
		switch dice.IntN(10) {
		case 0:
			fresh++
			return fmt.Sprintf("INSERT INTO crm.members VALUES ((ARRAY['a', 'B', 'ä', 'Z'])[1 + %d], %d, '139%d%07d', 'g%d', true, %v)", dice.IntN(4), 1_000_000+10_000_000*int(writer)+fresh, writer, fresh, dice.IntN(5),
				dice.IntN(2) == 0 && asked.Load())
		case 1:
			return "DELETE FROM crm.members WHERE " + victim
		case 2, 3: // to before what was read, or behind it
			return fmt.Sprintf("UPDATE crm.members SET id = %d - id, tenant = (ARRAY['a', 'B', 'ä', 'Z', '', ',x\\'])[1 + %d] WHERE %s", []int{0, rows + 1, -rows}[dice.IntN(3)], dice.IntN(6), victim)
		case 5, 6:
			if !asked.Load() {
				return "SELECT"
			}
			return "UPDATE crm.members SET paid = true WHERE NOT paid AND " + victim
		case 4:
			return fmt.Sprintf("UPDATE crm.members SET grp = 'g%d' WHERE abs(id) %% 100 = %d", dice.IntN(5), dice.IntN(100))
		default:
			return fmt.Sprintf("UPDATE crm.members SET grp = 'g%d' WHERE %s", dice.IntN(5), victim)
		}
	}
	for ctx.Err() == nil {
		sql := one()
		for range dice.IntN(3) {
			sql += "; " + one()
		}
		if dice.IntN(8) == 0 {
			sql = "BEGIN; " + sql + "; SELECT pg_sleep(0.05); COMMIT"
		}
		_, err := conn.PgConn().Exec(context.WithoutCancel(ctx), sql).ReadAll()
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (pg.Code == "23505" || pg.Code == "40P01") { // a key that is taken, a deadlock
			_, err = conn.PgConn().Exec(context.WithoutCancel(ctx), "ROLLBACK").ReadAll()
		}
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			return
		}
		rest(ctx, dice, 3*time.Millisecond)
	}
}

// judgeFills compares the platform with the database.
func (r *rig) judgeFills(kills int) {
	r.t.Helper()
	type member struct {
		Phone, Grp, Key string
		Born, Paid      bool
	}
	rows, err := r.db.Conn(r.t).Query(r.t.Context(), "SELECT phone, grp, tenant || ' ' || id, born, paid FROM crm.members")
	if err != nil {
		r.t.Fatal(err)
	}
	members, err := pgx.CollectRows(rows, pgx.RowToStructByPos[member])
	if err != nil {
		r.t.Fatal(err)
	}
	past := map[string]bool{}
	for _, p := range pgtest.Rows[string](r.t, r.db, "SELECT phone || ' ' || key FROM crm.past") {
		past[p] = true
	}
	events, points := map[string]bool{}, map[string]int{}
	uuids := map[string]string{}
	for _, a := range r.sim.Ledger() {
		switch a.Endpoint {
		case platformsim.Event:
			var args struct {
				Key string `json:"c_key"`
			}
			if err := json.Unmarshal(a.EventArgs, &args); err != nil {
				r.t.Fatal(err)
			}
			if !past[a.Customer+" "+args.Key] {
				r.t.Errorf("an event of %s has the key %q, which the row never had", a.Customer, args.Key)
			}
			if before, ok := uuids[args.Key]; ok && before != a.UUID {
				r.t.Errorf("the events of key %q have the uuids %s and %s", args.Key, before, a.UUID)
			}
			events[a.Customer], uuids[args.Key] = true, a.UUID
		case platformsim.Point:
			points[a.Remark+" "+a.Customer]++
		}
	}
	letters := map[string]bool{}
	for _, l := range r.letters() {
		if len(l.Payload) == 0 && strings.Contains(l.Reason, "its row is not read again") { // the row is gone
			continue
		}
		var point struct {
			Remark    string
			PhoneList []struct{ Phone string }
		}
		if err := json.Unmarshal(l.Payload, &point); err != nil || len(point.PhoneList) == 0 {
			r.t.Fatalf("dead letter %+v: %v", l, err)
		}
		phone := point.Remark + " " + point.PhoneList[0].Phone
		letters[phone] = true
		if os.Getenv("FILL_DEBUG") != "" {
			r.t.Logf("letter %s %s %s", phone, l.Position, l.Created)
		}
		if l.Class != connector.ClassUncertain || kills == 0 || !strings.Contains(l.Reason, "the connector stopped") {
			r.t.Errorf("dead letter %+v", l)
		}
	}
	groups := r.sim.Groups()
	there, bad := map[string]bool{}, 0
	problem := func(format string, args ...any) {
		if bad++; bad <= 20 {
			r.t.Errorf(format, args...)
		}
	}
	for _, m := range members {
		there[m.Phone] = true
		if got := strings.Join(groups[m.Phone], ","); got != m.Grp {
			problem("%s (%s) has groups %q, and the database says %s", m.Phone, m.Key, got, m.Grp)
		}
		if !m.Born && !events[m.Phone] {
			problem("%s (%s) was there all the time and has no event", m.Phone, m.Key)
		}
		if who := "welcome " + m.Phone; !m.Born && points[who] == 0 && !letters[who] {
			problem("%s (%s) was there all the time and has no point", m.Phone, m.Key)
		}
		if who := "paid " + m.Phone; m.Paid && points[who] == 0 && !letters[who] {
			problem("%s (%s, new: %v) is paid and has no point", m.Phone, m.Key, m.Born)
		}
	}
	for who, n := range points {
		if n > 1 || n == 1 && letters[who] && kills == 0 {
			problem("%s has %d points", who, n)
		}
	}
	for phone, g := range groups {
		if !there[phone] && len(g) > 0 {
			problem("%s is gone and has groups %v", phone, g)
		}
	}
	r.noViolations()
}

// openState opens the rig's state for reading.
func (r *rig) openState() *state.Reader {
	r.t.Helper()
	var at struct{ Path, DSN string }
	if err := yaml.Unmarshal([]byte(r.state), &at); err != nil {
		r.t.Fatal(err)
	}
	reader, err := state.OpenReader(r.t.Context(), state.Location{Path: at.Path, DSN: at.DSN})
	if err != nil {
		r.t.Fatal(err)
	}
	return reader
}
