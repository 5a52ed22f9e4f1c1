package main

import (
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// TestBackfillRowFilter: rows that a publication's row filter keeps out of the stream are not sent by a backfill either: by key, with --where, when they change
// meanwhile, and of tables without a key.
func TestBackfillRowFilter(t *testing.T) {
	t.Parallel()
	if pgtest.Server(t).Major() < 15 {
		t.Skip("row filters need PostgreSQL 15 or newer")
	}
	r := newRig(t, crmSchema+`CREATE TABLE crm.gifts (phone text, amount int);
		CREATE TABLE crm.parts (id int PRIMARY KEY, phone text) PARTITION BY RANGE (id);
		CREATE TABLE crm.part1 PARTITION OF crm.parts DEFAULT; ALTER TABLE crm.part1 REPLICA IDENTITY FULL`, `
mappings:
  - name: orders
    table: crm.orders
    on: [insert, update, snapshot]
    when: op == "snapshot"
    event: {eventKey: c_order, time: 1700000000000, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}
  - {name: gifts, table: crm.gifts, on: [insert, snapshot], event: {eventKey: c_gift, time: 1700000000000, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}}
  - {name: parts, table: crm.parts, on: [insert, snapshot], event: {eventKey: c_part, time: 1700000000000, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}}
  - {name: groups, table: crm.member_groups, on: [insert, snapshot], event: {eventKey: c_group, time: 1700000000000, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}}
`, platformsim.Options{})
	r.db.Exec(t, "INSERT INTO crm.orders (id, order_no, phone, status, amount) SELECT n, 'o' || n, '138' || n, CASE WHEN n % 2 = 0 THEN 'paid' ELSE 'new' END, n FROM generate_series(100, 999) n",
		"INSERT INTO crm.gifts SELECT '138' || n, n FROM generate_series(100, 999) n", "INSERT INTO crm.parts SELECT n, '138' || n FROM generate_series(100, 999) n",
		"INSERT INTO crm.member_groups SELECT '138' || n, 'g' FROM generate_series(100, 999) n",
		// One with the filter, one without it, for the last table: then all its rows are streamed.
		`CREATE PUBLICATION "`+r.slot+`" FOR TABLE crm.orders WHERE (status = 'paid'), crm.gifts WHERE (amount < 200), crm.parts WHERE (id >= 900), crm.member_groups WHERE (phone = '138100')
			WITH (publish_via_partition_root = true)`,
		`CREATE PUBLICATION "`+r.slot+`_insert" FOR TABLE crm.member_groups WITH (publish = 'insert', publish_via_partition_root = true)`)
	r.start()
	sent := func(key string) int {
		n := 0
		for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
			if a.EventKey == key {
				n++
			}
		}
		return n
	}
	if out := r.backfill("orders", "--dry-run"); !strings.HasPrefix(out, "450 rows") {
		t.Errorf("dry run: %s", out)
	}
	r.backfill("orders", "--where", "amount < 300 OR amount < 200")
	if n := sent("c_order"); n != 100 {
		t.Errorf("%d orders, with --where", n)
	}
	// Rows that change their side while they are read: those that leave the stream's are not sent.
	r.backfill("orders", "--detach", "--rows-per-second", "200")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillRunning })
	r.db.Exec(t, "UPDATE crm.orders SET status = 'new', phone = 'left' || id WHERE id >= 900")
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillDone })
	r.backfill("gifts")
	r.backfill("parts")
	r.backfill("groups")
	if o, g, p, m := sent("c_order"), sent("c_gift"), sent("c_part"), sent("c_group"); o < 100+400 || o > 100+450 || g != 100 || p != 100 || m != 900 {
		t.Errorf("%d orders, %d gifts, %d of partitions, %d groups", o, g, p, m)
	}
	for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
		if strings.HasPrefix(a.Customer, "left") {
			t.Errorf("%s is no row of the stream", a.Customer)
		}
	}
}
