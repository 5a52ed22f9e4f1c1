package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// givings counts the points that the platform has given, by customer.
func (r *rig) givings() map[string]int {
	given := map[string]int{}
	for _, a := range r.sim.LedgerSince(0, platformsim.Point) {
		given[a.Customer]++
	}
	return given
}

// notOnce gives the customers of want who don't have their points once, and others who have some.
func (r *rig) notOnce(want ...string) []string {
	given := r.givings()
	var bad []string
	for _, phone := range want {
		if given[phone] != 1 {
			bad = append(bad, fmt.Sprintf("%s: %d", phone, given[phone]))
		}
		delete(given, phone)
	}
	for phone, n := range given {
		bad = append(bad, fmt.Sprintf("%s, unexpected: %d", phone, n))
	}
	slices.Sort(bad)
	return bad
}

// lettersOfFills gives the dead letters that backfills have made. (A kill may make points of the stream uncertain.)
func (r *rig) lettersOfFills() []status.Letter {
	return slices.DeleteFunc(r.letters(), func(l status.Letter) bool { return !l.CommitTime.IsZero() })
}

// allEnded waits until all backfills have ended well.
func (r *rig) allEnded() {
	r.t.Helper()
	r.waitFill(func(connector.Backfill) bool { return r.fillsEnded() })
}

// TestBackfillPointsOfStream: a row whose points the stream has given while a backfill is queued, or stands still, does not get them from the backfill again: a
// row that was inserted, one that was paid by an update, one whose key has changed since; kill -9 changes nothing.
func TestBackfillPointsOfStream(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.db.Exec(t, manyGroups, "INSERT INTO crm.orders (order_no, phone, amount, status) SELECT 'o' || n, '138' || n, n, CASE WHEN n < 40 THEN 'paid' ELSE 'new' END FROM generate_series(10, 59) n")
	r.start()
	r.backfill("member-groups", "--detach", "--rows-per-second", "1000")
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.GroupRelation) > 0 })
	r.backfill("order-points", "--detach") // it waits for the other
	r.db.Exec(t, "INSERT INTO crm.orders (order_no, phone, amount, status) SELECT 'o' || n, '138' || n, n, 'paid' FROM generate_series(60, 79) n",
		"UPDATE crm.orders SET status = 'paid' WHERE phone BETWEEN '13840' AND '13849'",
		"UPDATE crm.orders SET id = id + 1000 WHERE phone IN ('13841', '13861')",
		"UPDATE crm.orders SET id = CASE phone WHEN '13862' THEN 9062 ELSE 9010 END WHERE phone IN ('13862', '13810')", // given, and not given
		"UPDATE crm.orders SET goods = 'x', amount = 999 WHERE phone = '13863'")
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.Point) == 30 })
	r.proc.kill()
	// What the stream brings while the connector is away, and in the next process.
	r.db.Exec(t, "UPDATE crm.orders SET status = 'paid' WHERE phone BETWEEN '13850' AND '13854'",
		"INSERT INTO crm.orders (order_no, phone, amount, status) SELECT 'o' || n, '138' || n, n, 'paid' FROM generate_series(80, 84) n")
	r.start()
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.Point) >= 40 })
	r.allEnded()
	r.settled()
	var want []string
	for n := 10; n <= 84; n++ {
		if n < 55 || n >= 60 {
			want = append(want, fmt.Sprint("138", n))
		}
	}
	if bad := r.notOnce(want...); len(bad) > 0 {
		t.Errorf("points: %v", bad)
	}
	if letters := r.lettersOfFills(); len(letters) > 0 {
		t.Errorf("dead letters %+v", letters)
	}
}

// TestBackfillPointsOfChanges: where the stream gives points for changes of a row, the backfill's point of the row may contain them: nobody but the operator can
// say. It is set aside, and neither given nor forgotten.
func TestBackfillPointsOfChanges(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, "CREATE SCHEMA crm; CREATE TABLE crm.cards (id int PRIMARY KEY, phone text, stamps int); ALTER TABLE crm.cards REPLICA IDENTITY FULL", `
mappings:
  - name: stamps
    table: crm.cards
    on: [insert, update, snapshot]
    point: {point: "${{ new.stamps - (old?.stamps ?? 0) }}", remark: stamps, phoneList: [{phone: "${{ phone }}", isVerify: "1"}]}
`, platformsim.Options{})
	r.db.Exec(t, "INSERT INTO crm.cards SELECT n, '138' || n, n FROM generate_series(10, 29) n")
	r.start()
	// The last two rows are what it is about: a second a row is left for what is done before it gets there, on a busy machine too.
	r.backfill("stamps", "--detach", "--rows-per-second", "1", "--since", "10")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillRunning })
	r.db.Exec(t, "INSERT INTO crm.cards VALUES (30, '13830', 30)", "UPDATE crm.cards SET stamps = stamps + 1 WHERE id IN (29, 30)")
	r.platform(func(s *platformsim.Sim) bool { return s.Points()["13830"] == 31 && s.Points()["13829"] == 1 })
	r.proc.kill()
	r.start()
	r.backfill("pause", "stamps")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillPaused && b.Asked == "" })
	r.db.Exec(t, "UPDATE crm.cards SET stamps = stamps + 1 WHERE id = 28")
	r.platform(func(s *platformsim.Sim) bool { return s.Points()["13828"] == 1 })
	r.backfill("resume", "stamps")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillDone })
	r.settled()
	want := map[string]int64{"13830": 31, "13829": 1, "13828": 1}
	for n := int64(10); n <= 27; n++ {
		want[fmt.Sprint("138", n)] = n
	}
	if got := r.sim.Points(); !maps.Equal(got, want) {
		t.Errorf("points %v, want %v", got, want)
	}
	letters := r.lettersOfFills()
	phones := []string{}
	for _, l := range letters {
		if l.Class != connector.ClassUncertain || !strings.Contains(l.Reason, "the stream has given") {
			t.Errorf("dead letter %+v", l)
		}
		phones = append(phones, string(l.Payload))
	}
	if all := strings.Join(phones, " "); len(letters) != 2 || !strings.Contains(all, "13829") || !strings.Contains(all, "13828") {
		t.Errorf("dead letters of %v", phones)
	}
	// Rows that were read have no commit time.
	for _, args := range [][]string{{"list"}, {"list", "--output", "json"}, {"show", fmt.Sprint(letters[0].ID)}, {"show", fmt.Sprint(letters[0].ID), "--output", "json"}} {
		out, errs, code := r.run(append([]string{"deadletters"}, args...)...)
		if code != 0 || strings.Contains(out, "0001-") || strings.Contains(out, "0000-") {
			t.Errorf("deadletters %v: exit %d, a commit time of the year 1:\n%s%s", args, code, out, errs)
		}
	}
}

// TestBackfillPointsWithoutKey: of a table without a key nobody knows which row the stream has given points to, or which one has moved: the backfill stands still,
// with the reason, until somebody says that it does no harm.
func TestBackfillPointsWithoutKey(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	for name, write := range map[string]string{"a point of the stream": "INSERT INTO crm.gifts VALUES ('13999', 1)", "a row that moves": "UPDATE crm.gifts SET note = note || 'x' WHERE phone = '13810'"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "CREATE SCHEMA crm; CREATE TABLE crm.gifts (phone text, amount int, note text); ALTER TABLE crm.gifts REPLICA IDENTITY FULL", `
mappings:
  - name: gifts
    table: crm.gifts
    on: [insert, update, snapshot]
    when: op != "update"
    point: {point: "${{ amount }}", remark: gift, phoneList: [{phone: "${{ phone }}", isVerify: "1"}]}
`, platformsim.Options{})
			r.db.Exec(t, "INSERT INTO crm.gifts SELECT '138' || n, 1, repeat('x', 300) FROM generate_series(10, 999) n")
			r.start()
			r.backfill("gifts", "--detach", "--rows-per-second", "50")
			r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillRunning })
			r.db.Exec(t, write)
			b := r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillPaused || b.Status.Ended() })
			if b.Status != connector.BackfillPaused || !strings.Contains(b.Reason, "has no primary key") {
				t.Errorf("%s: %s", b.Status, b.Reason)
			}
			for phone, n := range r.givings() {
				if n > 1 {
					t.Errorf("%s has its points %d times", phone, n)
				}
			}
			r.backfill("resume", "gifts")
			r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillRunning })
		})
	}
}

// TestBackfillDeferrableKey: points are not backfilled by a primary key that two rows may share within a transaction, which an index for the stream's sake hides
// no longer where the replica identity is FULL; other mappings of the table are.
func TestBackfillDeferrableKey(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.orders (id int, "Order ""No" text, phone text, amount int, status text, paid_at timestamptz,
		CONSTRAINT "the key" PRIMARY KEY ("Order ""No", id) INCLUDE (phone) DEFERRABLE INITIALLY DEFERRED);
		ALTER TABLE crm.orders REPLICA IDENTITY FULL`, `
mappings:
  - name: order-points
    table: crm.orders
    on: [insert, snapshot]
    point: {point: "${{ amount }}", remark: order, phoneList: [{phone: "${{ phone }}", isVerify: "1"}]}
  - name: order-paid
    table: crm.orders
    on: [insert, snapshot]
    event: {eventKey: c_buy, time: 1700000000000, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}
`, platformsim.Options{})
	r.db.Exec(t, "INSERT INTO crm.orders SELECT n, 'o', '138' || n, n FROM generate_series(10, 19) n")
	const cure = `ALTER TABLE "crm"."orders" DROP CONSTRAINT "the key", ADD CONSTRAINT "the key" PRIMARY KEY ("Order ""No", id);`
	out, errs, code := r.run("check")
	if code != 0 || !strings.Contains(out+errs, "is DEFERRABLE") || !strings.Contains(out+errs, cure) {
		t.Errorf("check: exit %d\n%s%s", code, out, errs)
	}
	r.start()
	_, errs, code = r.run("backfill", "order-points")
	if code != 1 || !strings.Contains(errs, "is DEFERRABLE") || !strings.Contains(errs, cure) {
		t.Errorf("points: exit %d\n%s", code, errs)
	}
	r.backfill("order-paid")
	if n := r.sim.Count(platformsim.Event); n != 10 {
		t.Errorf("%d events", n)
	}
	// It was asked for before the key was altered.
	r.db.Exec(t, cure)
	r.stop()
	r.backfill("order-points", "--detach")
	r.db.Exec(t, `ALTER TABLE crm.orders DROP CONSTRAINT "the key", ADD CONSTRAINT "the key" PRIMARY KEY ("Order ""No", id) DEFERRABLE`)
	r.start()
	if b := r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillPaused || b.Status.Ended() }); b.Status != connector.BackfillPaused || !strings.Contains(b.Reason, cure) {
		t.Errorf("%s: %s", b.Status, b.Reason)
	}
	r.db.Exec(t, cure)
	r.backfill("resume", "order-points")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillDone })
	if bad := r.notOnce("13810", "13811", "13812", "13813", "13814", "13815", "13816", "13817", "13818", "13819"); len(bad) > 0 {
		t.Errorf("points: %v", bad)
	}
}

// TestBackfillPointsInitial: what source.snapshot asks for is known from the first start on, before anything is streamed.
func TestBackfillPointsInitial(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	slow := strings.Replace(backfillMappings, "    table: crm.member_groups\n", "    table: crm.member_groups\n    maxPerMinute: 600\n", 1)
	r := newRig(t, crmSchema, slow, platformsim.Options{})
	r.edit("timeZone: Asia/Shanghai", "timeZone: Asia/Shanghai\n  snapshot: initial")
	r.db.Exec(t, "INSERT INTO crm.member_groups SELECT '138' || n, 'g' FROM generate_series(10, 49) n",
		"INSERT INTO crm.orders (order_no, phone, amount, status, paid_at) SELECT 'o' || n, '138' || n, n, CASE WHEN n < 20 THEN 'paid' ELSE 'new' END, now() FROM generate_series(10, 29) n")
	r.start()
	r.db.Exec(t, "INSERT INTO crm.orders (order_no, phone, amount, status, paid_at) SELECT 'o' || n, '138' || n, n, 'paid', now() FROM generate_series(30, 39) n",
		"UPDATE crm.orders SET status = 'paid' WHERE phone = '13820'")
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.Point) == 11 }) // the first backfill goes on
	r.allEnded()
	r.settled()
	want := []string{"13820"}
	for n := 10; n <= 39; n++ {
		if n < 20 || n >= 30 {
			want = append(want, fmt.Sprint("138", n))
		}
	}
	if bad := r.notOnce(want...); len(bad) > 0 {
		t.Errorf("points: %v", bad)
	}
}
