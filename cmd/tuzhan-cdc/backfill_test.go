package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

const backfillMappings = `
mappings:
  - name: member-groups
    table: crm.member_groups
    on: [insert, update, delete, snapshot]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ group_name }}
  - name: order-paid
    table: crm.orders
    on: [insert, update, snapshot]
    when: new.status == "paid" && old?.status != "paid"
    event:
      eventKey: c_buy
      time: ${{ paid_at }}
      identities:
        - identityType: phone
          identityValue: ${{ phone }}
      eventargs: {c_order: "${{ order_no }}", c_price: "${{ amount }}"}
  - name: order-points
    table: crm.orders
    on: [insert, update, snapshot]
    when: new.status == "paid" && old?.status != "paid"
    point:
      point: ${{ int(floor(amount)) }}
      remark: 订单 ${{ order_no }} 积分
      phoneList:
        - phone: ${{ phone }}
          isVerify: "1"
`

// backfill runs the command to its end.
func (r *rig) backfill(args ...string) string {
	r.t.Helper()
	out, errs, code := r.run(append([]string{"backfill"}, args...)...)
	if code != 0 {
		r.t.Fatalf("backfill %v: exit %d\n%s%s", args, code, out, errs)
	}
	return out
}

// groups gives what the platform has of group relations: phone=group, sorted.
func (r *rig) groups() []string {
	var list []string
	for phone, groups := range r.sim.Groups() {
		for _, g := range groups {
			list = append(list, phone+"="+g)
		}
	}
	slices.Sort(list)
	return list
}

// needsWatermarks skips a test on a server whose logical messages don't come through the stream; TestBackfillOldServer is for those.
func needsWatermarks(t *testing.T) {
	t.Helper()
	if pgtest.Server(t).Major() < 14 {
		t.Skip("a backfill needs PostgreSQL 14 or newer")
	}
}

// TestBackfillOldServer: PostgreSQL 13 is refused clearly.
func TestBackfillOldServer(t *testing.T) {
	t.Parallel()
	if pgtest.Server(t).Major() >= 14 {
		t.Skip("this server can do backfills")
	}
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.start()
	if _, errs, code := r.run("backfill", "member-groups"); code != 1 || !strings.Contains(errs, "a backfill needs PostgreSQL 14 or newer, and this server is PostgreSQL 13") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// TestBackfill sends the rows that were there before the connector: group relations, events with their own time, points; a second backfill repeats the events'
// uuids.
func TestBackfill(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '138' || lpad(n::text, 8, '0'), 'g' || n % 7 FROM generate_series(1, 12000) n`,
		`INSERT INTO crm.orders (order_no, phone, amount, status, paid_at) SELECT 'o' || n, '139' || lpad(n::text, 8, '0'), n + 0.5, CASE WHEN n % 2 = 0 THEN 'paid' ELSE 'new' END, '2020-01-01'
			FROM generate_series(1, 300) n`)
	r.start()
	out := r.backfill("member-groups")
	if !strings.Contains(out, "12000 rows settled") {
		t.Errorf("it says %q", out)
	}
	want := pgtest.Rows[string](t, r.db, `SELECT phone || '=' || group_name AS g FROM crm.member_groups ORDER BY (phone || '=' || group_name) COLLATE "C"`)
	if got := r.groups(); !slices.Equal(got, want) {
		t.Errorf("%d group relations, want %d", len(got), len(want))
	}
	r.backfill("order-paid")
	r.backfill("order-paid")
	r.backfill("order-points")
	if n := r.sim.Count(platformsim.Event); n != 300 {
		t.Errorf("%d events, want 150 twice", n)
	}
	if n := r.sim.Count(platformsim.Point); n != 150 {
		t.Errorf("%d points", n)
	}
	uuids := map[string]int{}
	for _, a := range r.sim.Ledger() {
		if a.Endpoint == platformsim.Event {
			uuids[a.UUID]++
		}
	}
	if len(uuids) != 150 {
		t.Errorf("%d uuids in two backfills of 150 rows", len(uuids))
	}
}
