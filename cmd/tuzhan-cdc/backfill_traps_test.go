package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// TestBackfillUnseenCommit: a commit that waits for a synchronous standby is in the WAL, and has come through the stream, before any other session sees it. A
// chunk that is read then shows the old row, which must not be sent behind the new one (F14): whether the commit came before the backfill began or while it runs.
func TestBackfillUnseenCommit(t *testing.T) {
	t.Parallel()
	for name, during := range map[string]bool{"before it begins": false, "while it runs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unseenCommit(t, during)
		})
	}
}

func unseenCommit(t *testing.T, during bool) {
	db := pgtest.Private(t).Database(t)
	r := newRigOn(t, db, crmSchema, strings.Replace(backfillMappings, "[insert, update, delete, snapshot]", "[insert, update, delete, snapshot]\n    onChange: replace", 1), platformsim.Options{})
	db.Exec(t, "INSERT INTO crm.member_groups SELECT '138' || n, 'old' FROM generate_series(10, 99) n")
	r.start()
	waits := "waits for a transaction that was writing"
	if during {
		waits = "can't be seen in the table yet"
		r.backfill("member-groups", "--detach", "--rows-per-second", "20")
		r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.GroupRelation) > 0 })
	}
	// The last row in the key's order.
	conn, release := db.Conn(t), db.Conn(t)
	for _, sql := range []string{"SET synchronous_commit = local", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"} {
		if _, err := release.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	db.Eventually(t, "SELECT current_setting('synchronous_standby_names') = 'nobody'")
	commitsWait(t, db)
	updated := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "SET synchronous_commit = on; UPDATE crm.member_groups SET group_name = 'new' WHERE phone = '13899'")
		updated <- err
	}()
	// The stream has it, and the table does not show it.
	r.platform(func(s *platformsim.Sim) bool { return strings.Join(s.Groups()["13899"], ",") == "new" })
	if g := pgtest.Value[string](t, db, "SELECT group_name FROM crm.member_groups WHERE phone = '13899'"); g != "old" {
		t.Fatalf("the table shows %s", g)
	}
	if !during {
		r.backfill("member-groups", "--detach")
	}
	r.waitFill(func(b connector.Backfill) bool { return b.Status.Ended() || strings.Contains(b.Reason, waits) })
	if g := r.sim.Groups()["13899"]; !slices.Equal(g, []string{"new"}) {
		t.Errorf("a row as it was before a change that was sent: %v", g)
	}
	for _, sql := range []string{"ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"} {
		if _, err := release.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-updated; err != nil {
		t.Fatal(err)
	}
	r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillDone })
	for phone, groups := range r.sim.Groups() {
		want := "old"
		if phone == "13899" {
			want = "new"
		}
		if strings.Join(groups, ",") != want {
			t.Errorf("%s has %v, want %s", phone, groups, want)
		}
	}
	if n := len(r.sim.Groups()); n != 90 {
		t.Errorf("%d customers", n)
	}
}

// commitsWait waits until commits wait for a standby: the checkpointer has them do so, a moment after others know the setting.
func commitsWait(t *testing.T, db *pgtest.DB) {
	t.Helper()
	for {
		conn, ended := db.Conn(t), make(chan error, 1)
		go func() {
			_, err := conn.Exec(t.Context(), "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'a commit', '')")
			ended <- err
		}()
		for committed := false; !committed; {
			select {
			case err := <-ended:
				if err != nil {
					t.Fatal(err)
				}
				committed = true
			case <-time.After(10 * time.Millisecond):
				if pgtest.Value[int](t, db, "SELECT count(pg_cancel_backend(pid))::int FROM pg_stat_activity WHERE wait_event = 'SyncRep'") > 0 {
					<-ended // it is committed here all the same
					return
				}
			}
		}
	}
}

// waitFill waits until something holds of the newest backfill.
func (r *rig) waitFill(what func(connector.Backfill) bool) connector.Backfill {
	r.t.Helper()
	reader := r.openState()
	defer reader.Close()
	late := time.After(wait)
	for {
		list, err := reader.AllBackfills(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		if n := len(list); n > 0 && what(*list[n-1]) {
			return *list[n-1]
		}
		select {
		case <-late:
			out, _, _ := r.run("status")
			r.t.Fatalf("it does not come to that: %+v\n%s", list, out)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestBackfillPassedOver: a row that changes while its chunk is read, in a way that `when` passes over, is sent all the same.
func TestBackfillPassedOver(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, `
mappings:
  - name: order-paid
    table: crm.orders
    on: [update, snapshot]
    when: op == "snapshot" || new.goods != old?.goods
    event:
      eventKey: c_buy
      time: 1700000000000
      identities: [{identityType: phone, identityValue: "${{ phone }}"}]
      eventargs: {c_order: "${{ order_no }}", status: "${{ status }}"}
`, platformsim.Options{})
	r.db.Exec(t, "INSERT INTO crm.orders (order_no, phone, status) SELECT 'o' || n, '138' || n, 's0' FROM generate_series(100, 999) n")
	r.start()
	// It goes on changing all rows, so that each chunk has some that change in it.
	ended := make(chan struct{})
	stopped := make(chan struct{})
	conn := r.db.Conn(t)
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-ended:
				return
			default:
				if _, err := conn.Exec(t.Context(), fmt.Sprintf("UPDATE crm.orders SET status = 's%d' WHERE id %% 97 = %d", n, n%97)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	r.backfill("order-paid", "--rows-per-second", "2000")
	close(ended)
	<-stopped
	phones := map[string]bool{}
	for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
		phones[a.Customer] = true
	}
	if len(phones) != 900 {
		t.Errorf("%d of 900 rows were sent", len(phones))
	}
}

// TestBackfillSameBytes: a row that is read is, to the byte, what the stream brings of it, for all types and whatever the role's settings are: shape and values.
func TestBackfillSameBytes(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	db := pgtest.Server(t).Database(t)
	columns, values := []string{"id int PRIMARY KEY", "gone text"}, []string{"1", "'x'"}
	for i, c := range typeCases() {
		if db.Server().Major() >= c.from {
			columns, values = append(columns, fmt.Sprintf("c%d %s", i, c.typ)), append(values, "("+c.value+")::"+c.typ)
		}
	}
	columns, values = append(columns, "born timestamptz", "took interval", "raw bytea", "g int GENERATED ALWAYS AS (id * 2) STORED"),
		append(values, "'1927-12-31 23:54:08+08'", "'1 year -2 days 03:04:05.6'", `'\x00ff5c'`)
	db.Exec(t, typesSchema, "CREATE TABLE crm.types ("+strings.Join(columns, ", ")+")", "ALTER TABLE crm.types DROP COLUMN gone")
	role, dsn := db.Role(t, "SUPERUSER")
	for name, value := range map[string]string{"DateStyle": "German, DMY", "IntervalStyle": "postgres_verbose", "TimeZone": "America/Lima", "bytea_output": "escape",
		"extra_float_digits": "-15", "client_encoding": "GBK"} {
		db.Exec(t, fmt.Sprintf("ALTER ROLE %s SET %s = '%s'", role, name, strings.ReplaceAll(value, ", ", "', '")))
	}
	describe := func(table *connector.Table, tuple connector.Tuple) string {
		var b strings.Builder
		for i, c := range table.Columns {
			fmt.Fprintf(&b, "%s %d %d %d %q\n", c.Name, c.TypeOID, c.BaseOID, tuple[i].Kind, tuple[i].Text)
		}
		return b.String()
	}
	c := startCapture(t, dsn, db.SlotName(), `
- {name: m, table: crm.types, on: [insert], event: {eventKey: k, identities: [{identityType: id, identityValue: "${{ id }}"}]}}
`, func(c *connector.Change, _ *connector.Output) string { return describe(c.Table, c.New) })
	names := []string{}
	for _, column := range columns {
		if name, _, _ := strings.Cut(column, " "); name != "gone" && name != "g" {
			names = append(names, name)
		}
	}
	values = append(values[:1], values[2:]...)
	db.Exec(t, "INSERT INTO crm.types ("+strings.Join(names, ", ")+") VALUES ("+strings.Join(values, ", ")+")", "INSERT INTO crm.types (id) VALUES (2)")
	streamed := c.wait(t, 2)
	rows, err := (&postgres.Rows{DSN: dsn, Publications: []string{db.SlotName(), postgres.InsertPublication(db.SlotName())}}).Open(t.Context(), &connector.Backfill{Schema: "crm", Name: "types"})
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	chunk, err := rows.Read(t.Context(), "", "", false, 10)
	if err != nil || len(chunk.Rows) != 2 {
		t.Fatalf("%+v, %v", chunk, err)
	}
	for i, row := range chunk.Rows {
		got := strings.Split(describe(chunk.Table, row.Tuple), "\n")
		for j, want := range strings.Split(streamed[i], "\n") {
			if j >= len(got) || got[j] != want {
				t.Errorf("row %d:\n got %.300s\nwant %.300s", i, got[min(j, len(got)-1)], want)
			}
		}
	}
}

// TestBackfillKilledPoint: a point whose outcome nobody knows when the program was killed is set aside, and not sent again; those that were applied are
// passed over.
func TestBackfillKilledPoint(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.db.Exec(t, "INSERT INTO crm.orders (order_no, phone, amount, status) SELECT 'o' || n, '138' || n, n, 'paid' FROM generate_series(10, 59) n")
	gate := make(chan struct{})
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Point, Match: "13820", Gate: gate}); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.backfill("order-points", "--detach")
	r.platform(func(s *platformsim.Sim) bool {
		return s.Count(platformsim.Point) == 49 && s.InFlight(platformsim.Point) == 1
	})
	r.waitFill(func(b connector.Backfill) bool { return len(b.Again) == 1 }) // the others are settled
	r.proc.kill()
	close(gate)
	r.start()
	b := r.waitFill(func(b connector.Backfill) bool { return b.Status.Ended() })
	letters := r.letters()
	if b.Status != connector.BackfillDone || len(letters) != 1 || letters[0].Class != connector.ClassUncertain || !strings.Contains(string(letters[0].Payload), "13820") {
		t.Errorf("backfill %+v, dead letters %+v", b, letters)
	}
	if n := r.sim.Count(platformsim.Point); n > 50 {
		t.Errorf("%d points of 50 rows", n)
	}
	var none []json.RawMessage
	for phone, sum := range r.sim.Points() {
		if phone != "13820" && fmt.Sprint("138", sum) != phone {
			none = append(none, json.RawMessage(phone))
		}
	}
	if len(none) > 0 {
		t.Errorf("points of %s", none)
	}
}

// TestBackfillLimitWithoutKey: of a table without a key, whose rows are read by the page, no more are sent than --limit says.
func TestBackfillLimitWithoutKey(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, "CREATE SCHEMA crm; CREATE TABLE crm.gifts (phone text, amount int)", `
mappings:
  - name: gifts
    table: crm.gifts
    on: [insert, snapshot]
    point: {point: "${{ amount }}", remark: gift, phoneList: [{phone: "${{ phone }}", isVerify: "1"}]}
`, platformsim.Options{})
	r.db.Exec(t, "INSERT INTO crm.gifts SELECT '138' || n, n FROM generate_series(10, 59) n")
	if out := r.backfill("gifts", "--limit", "7", "--dry-run"); !strings.HasPrefix(out, "7 rows: 7 records") {
		t.Errorf("dry run: %s", out)
	}
	r.start()
	r.backfill("gifts", "--limit", "7")
	r.settled()
	if n := r.sim.Count(platformsim.Point); n != 7 {
		t.Errorf("%d points of 7 rows", n)
	}
}

// TestBackfillPausedGap: a backfill that was paused when a gap was accepted says so, and forgets the positions of the history before.
func TestBackfillPausedGap(t *testing.T) {
	t.Parallel()
	needsWatermarks(t)
	r := newRig(t, crmSchema, backfillMappings, platformsim.Options{})
	r.db.Exec(t, manyGroups)
	r.start()
	r.backfill("member-groups", "--detach", "--rows-per-second", "500")
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.GroupRelation) > 0 })
	r.backfill("pause", "member-groups")
	b := r.waitFill(func(b connector.Backfill) bool { return b.Status == connector.BackfillPaused && b.Asked == "" })
	if b.Reason != "" || b.Moved.IsZero() {
		t.Fatalf("paused: %+v", b)
	}
	r.stop()
	r.db.Exec(t, `SELECT pg_drop_replication_slot('`+r.slot+`')`)
	_, id := r.refused()
	r.accepted("--accept-gap", id)
	b = r.waitFill(func(connector.Backfill) bool { return true })
	if b.Status != connector.BackfillPaused || !strings.Contains(b.Reason, "a gap was accepted") || !b.Moved.IsZero() {
		t.Errorf("after the gap: %s, %q, moved %s", b.Status, b.Reason, b.Moved)
	}
}
