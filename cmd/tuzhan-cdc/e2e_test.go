package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// record gives a record of the ledger as JSON, for comparison by value.
func record(t *testing.T, a platformsim.Applied) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(a.Record)))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

func want(t *testing.T, text string) map[string]any {
	t.Helper()
	return record(t, platformsim.Applied{Record: json.RawMessage(text)})
}

// TestEvents compares an event field by field, for the operations that a mapping of orders sees.
func TestEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{EventKeys: []string{"c_buy"}})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, goods, amount, status, paid_at)
		VALUES ('A1', '13800138000', '红茶 "特级"', 1420.00, 'paid', '2026-03-01 08:00:00.123456+08')`,
		`INSERT INTO crm.orders(order_no, phone, goods, amount, status) VALUES ('A2', '13800138001', E'tab\there', 0.10, 'new')`,
		`UPDATE crm.orders SET goods = 'x' WHERE order_no = 'A2'`,
		`UPDATE crm.orders SET status = 'paid' WHERE order_no = 'A2'`,
		`UPDATE crm.orders SET goods = 'y' WHERE order_no = 'A2'`,
		`DELETE FROM crm.orders WHERE order_no = 'A1'`)
	r.settled()
	events := r.sim.LedgerSince(0, platformsim.Event)
	if len(events) != 2 {
		t.Fatalf("%d events, want 2", len(events))
	}
	// Two customers: their events have no order between them.
	slices.SortFunc(events, func(a, b platformsim.Applied) int { return strings.Compare(a.Customer, b.Customer) })
	first, second := record(t, events[0]), record(t, events[1])
	if uuid, _ := first["uuid"].(string); len(uuid) != 36 || uuid == second["uuid"] {
		t.Errorf("uuids %v and %v", uuid, second["uuid"])
	}
	if at := events[1].Time; time.Since(time.UnixMilli(at)).Abs() > time.Minute {
		t.Errorf("an event without time of its own has the commit time, not %d", at)
	}
	for _, e := range []map[string]any{first, second} {
		delete(e, "uuid")
	}
	delete(second, "time")
	if w := want(t, `{"identities":[{"identityValue":"13800138000","identityType":"phone"}],"time":1772323200123,"eventKey":"c_buy",
		"eventargs":{"c_goods":"红茶 \"特级\"","c_price":1420.00,"c_order":"A1","title":"下单"}}`); !reflect.DeepEqual(first, w) {
		t.Errorf("got  %v\nwant %v", first, w)
	}
	if w := want(t, `{"identities":[{"identityValue":"13800138001","identityType":"phone"}],"eventKey":"c_buy",
		"eventargs":{"c_goods":"x","c_price":0.10,"c_order":"A2","title":"下单"}}`); !reflect.DeepEqual(second, w) {
		t.Errorf("got  %v\nwant %v", second, w)
	}
	if string(events[0].PublicParams) != `{"matchingType":1}` {
		t.Errorf("publicParams %s", events[0].PublicParams)
	}
}

// TestPoints compares a point field by field.
func TestPoints(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('P1', '13900000000', 99.99, 'new')`,
		`UPDATE crm.orders SET status = 'paid'`, `UPDATE crm.orders SET status = 'done'`)
	r.settled()
	points := r.sim.LedgerSince(0, platformsim.Point)
	if len(points) != 1 {
		t.Fatalf("%d points", len(points))
	}
	if got, w := record(t, points[0]), want(t, `{"point":99,"remark":"订单 P1 积分","phoneList":[{"phone":"13900000000","isVerify":"1"}],
		"ext":"{\"strategyName\":\"order\"}"}`); !reflect.DeepEqual(got, w) {
		t.Errorf("got  %v\nwant %v", got, w)
	}
}

// TestPointFields sends every field that the API has.
func TestPointFields(t *testing.T) {
	t.Parallel()
	r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.p(id bigint PRIMARY KEY, who bigint, n int, open text, uni text, big bigint)`, `
mappings:
  - name: p
    table: crm.p
    on: [insert]
    point:
      openids:
        - {openid: "${{ open }}", unionid: "${{ uni }}", fromTo: gzh, appid: wx1, jcappid: "${{ big }}", identityId: x, identityType: openid}
      phoneList: [{phone: "138", isVerify: "0"}]
      audienceUserId: ${{ who }}
      point: ${{ n }}
      remark: r
      eventType: e
      avatar: a
      nickName: n
      contentId: c
      contentName: d
      ext: {componentId: "1", action: go}
      appInstanceId: 7
      orgId: o
`, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p VALUES (1, 860484273911119872, 5, 'o-1', 'u-1', 9007199254740993)`)
	r.settled()
	points := r.sim.LedgerSince(0, platformsim.Point)
	if len(points) != 1 {
		t.Fatalf("%d points; %s", len(points), r.proc.log)
	}
	if got, w := record(t, points[0]), want(t, `{"openids":[{"openid":"o-1","unionid":"u-1","fromTo":"gzh","appid":"wx1","jcappid":9007199254740993,
		"identityId":"x","identityType":"openid"}],"phoneList":[{"phone":"138","isVerify":"0"}],"audienceUserId":860484273911119872,"point":5,"remark":"r",
		"eventType":"e","avatar":"a","nickName":"n","contentId":"c","contentName":"d","ext":"{\"componentId\":\"1\",\"action\":\"go\"}",
		"appInstanceId":7,"orgId":"o"}`); !reflect.DeepEqual(got, w) {
		t.Errorf("got  %v\nwant %v", got, w)
	}
}

// TestGroupRelations: insert, update and delete of a member's groups, and an update that changes the customer.
func TestGroupRelations(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('138', '高价值客户')`, `UPDATE crm.member_groups SET group_name = '沉睡会员'`,
		`UPDATE crm.member_groups SET phone = '139'`, `UPDATE crm.member_groups SET phone = phone`, `DELETE FROM crm.member_groups`)
	r.settled()
	// The update of the phone touches two customers, whose records have no order between them: compare customer by customer.
	got := map[string][]string{}
	for _, a := range r.sim.LedgerSince(0, platformsim.GroupRelation) {
		got[a.Customer] = append(got[a.Customer], a.OptType+" "+string(a.Record))
		if w := fmt.Sprintf(`{"isMatching":true,"matchingType":2,"identifyWay":1,"optType":%q}`, a.OptType); !sameJSON(t, string(a.PublicParams), w) {
			t.Errorf("publicParams %s, want %s", a.PublicParams, w)
		}
	}
	wanted := map[string][]string{
		"138": {`add {"phone":"138","groups":"高价值客户"}`, `update {"phone":"138","groups":"沉睡会员"}`, `delete {"phone":"138","groups":"沉睡会员"}`},
		"139": {`add {"phone":"139","groups":"沉睡会员"}`, `delete {"phone":"139","groups":"沉睡会员"}`}}
	if !reflect.DeepEqual(got, wanted) {
		t.Errorf("got  %q\nwant %q", got, wanted)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	return reflect.DeepEqual(want(t, a), want(t, b))
}

// TestNothingFromRollbacks: what was rolled back, savepoints too, delivers nothing.
func TestNothingFromRollbacks(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `BEGIN; INSERT INTO crm.member_groups VALUES ('1', 'a'); ROLLBACK`,
		`BEGIN; SAVEPOINT s; INSERT INTO crm.member_groups VALUES ('2', 'a'); ROLLBACK TO s; INSERT INTO crm.member_groups VALUES ('3', 'a'); COMMIT`)
	r.settled()
	if got := r.sim.Ledger(); len(got) != 1 || got[0].Customer != "3" {
		t.Errorf("%+v", got)
	}
}

// load writes orders and group changes over several connections until it is told to stop, and counts nothing: the database knows.
type load struct {
	stop chan struct{}
	wg   sync.WaitGroup
}

func (r *rig) load(writers int) *load {
	l := &load{stop: make(chan struct{})}
	for w := range writers {
		conn := r.db.Conn(r.t)
		l.wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 7))
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				if err := writeOne(r.t, conn, rnd, w, i); err != nil {
					r.t.Error(err)
					return
				}
			}
		})
	}
	return l
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}

func writeOne(t *testing.T, conn *pgx.Conn, rnd *rand.Rand, w, i int) error {
	ctx := t.Context()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	phone := fmt.Sprintf("13%09d", rnd.IntN(200))
	no := fmt.Sprintf("W%d-%d", w, i)
	for _, sql := range []string{
		`INSERT INTO crm.orders(order_no, phone, goods, amount, status) VALUES ($1, $2, '茶', 10 + random() * 100, 'new')`,
		`UPDATE crm.orders SET status = 'paid', paid_at = now() WHERE order_no = $1 AND phone = $2`} {
		if _, err := tx.Exec(ctx, sql, no, phone); err != nil {
			return err
		}
	}
	group := []string{"高价值客户", "沉睡会员", "生日月"}[rnd.IntN(3)]
	sql := `INSERT INTO crm.member_groups VALUES ($1, $2) ON CONFLICT DO NOTHING`
	if rnd.IntN(2) == 0 {
		sql = `DELETE FROM crm.member_groups WHERE phone = $1 AND group_name = $2`
	}
	if _, err := tx.Exec(ctx, sql, phone, group); err != nil {
		return err
	}
	if rnd.IntN(10) == 0 {
		return nil // rolled back
	}
	return tx.Commit(ctx)
}

// reconcile compares what the platform applied with what the database holds, after everything is settled. It returns how often
// events were repeated.
func (r *rig) reconcile() (repeated int) {
	t := r.t
	t.Helper()
	paid := map[string]int64{}
	rows, err := r.db.Conn(t).Query(t.Context(), `SELECT order_no, floor(amount)::bigint FROM crm.orders WHERE status = 'paid'`)
	if err != nil {
		t.Fatal(err)
	}
	var no string
	var amount int64
	if _, err := pgx.ForEachRow(rows, []any{&no, &amount}, func() error { paid[no] = amount; return nil }); err != nil {
		t.Fatal(err)
	}
	held := map[string]bool{} // points set aside as uncertain
	for _, l := range r.letters() {
		if l.Class != connector.ClassUncertain {
			t.Errorf("dead letter %+v", l)
			continue
		}
		var p struct{ Remark string }
		if err := json.Unmarshal(l.Payload, &p); err != nil {
			t.Fatal(err)
		}
		held[p.Remark] = true
	}
	events, uuids, points := map[string]int{}, map[string]string{}, map[string]int{}
	last := map[string]map[string]any{}
	for _, a := range r.sim.Ledger() {
		switch a.Endpoint {
		case platformsim.Event:
			var args struct{ C_order string }
			if err := json.Unmarshal(a.EventArgs, &args); err != nil {
				t.Fatal(err)
			}
			events[args.C_order]++
			if before, ok := last[a.UUID]; ok {
				repeated++
				if !reflect.DeepEqual(before, record(t, a)) {
					t.Errorf("event %s came again with another content", a.UUID)
				}
			}
			last[a.UUID] = record(t, a)
			if other, ok := uuids[args.C_order]; ok && other != a.UUID {
				t.Errorf("order %s has two uuids", args.C_order)
			}
			uuids[args.C_order] = a.UUID
		case platformsim.Point:
			order := strings.TrimSuffix(strings.TrimPrefix(a.Remark, "订单 "), " 积分")
			if points[order]++; paid[order] != a.Point {
				t.Errorf("order %s: %d points, want %d", order, a.Point, paid[order])
			}
		}
	}
	for order := range paid {
		if events[order] == 0 {
			t.Errorf("the event of order %s is lost", order)
		}
		if remark := "订单 " + order + " 积分"; points[order] == 0 && !held[remark] {
			t.Errorf("the points of order %s are lost", order)
		} else if points[order] > 1 {
			t.Errorf("the points of order %s were given %d times", order, points[order])
		}
	}
	for order := range events {
		if _, ok := paid[order]; !ok {
			t.Errorf("order %s was rolled back, yet an event came", order)
		}
	}
	r.sameGroups()
	r.noViolations()
	t.Logf("%d orders, %d events repeated, %d points uncertain", len(paid), repeated, len(held))
	return repeated
}

// sameGroups compares every customer's groups on the platform with the table.
func (r *rig) sameGroups() {
	r.t.Helper()
	wanted := map[string][]string{}
	for _, row := range pgtest.Rows[[]string](r.t, r.db, `SELECT ARRAY[phone, group_name] FROM crm.member_groups`) {
		wanted[row[0]] = append(wanted[row[0]], row[1])
	}
	got := r.sim.Groups()
	for who, groups := range got {
		slices.Sort(groups)
		if len(groups) == 0 {
			delete(got, who)
		}
	}
	for _, groups := range wanted {
		slices.Sort(groups)
	}
	if !reflect.DeepEqual(got, wanted) {
		r.t.Errorf("groups differ: platform has %d customers, database %d", len(got), len(wanted))
		for who := range wanted {
			if !slices.Equal(got[who], wanted[who]) {
				r.t.Errorf("for example %s: platform %v, database %v", who, got[who], wanted[who])
				break
			}
		}
	}
}

// TestSIGTERM: an orderly stop under load loses nothing and repeats nothing.
func TestSIGTERM(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	l := r.load(3)
	for i := range 3 {
		r.applied(platformsim.Event, 150*(i+1))
		if code := r.proc.terminate(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		r.start()
	}
	l.end()
	r.settled()
	if repeated := r.reconcile(); repeated != 0 {
		t.Errorf("%d events came again after an orderly stop", repeated)
	}
	if letters := r.letters(); len(letters) != 0 {
		t.Errorf("%d dead letters after orderly stops", len(letters))
	}
}

// TestSIGKILL: kill -9 at random moments under load loses nothing, doubles no point, and repeats an event only byte for byte.
func TestSIGKILL(t *testing.T) {
	t.Parallel()
	testSIGKILL(t, newRig(t, crmSchema, crmMappings, platformsim.Options{}), 6)
}

func testSIGKILL(t *testing.T, r *rig, kills int) {
	r.start()
	l := r.load(3)
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for range kills {
		r.applied(platformsim.Event, r.sim.Count(platformsim.Event)+1+rnd.IntN(300))
		r.proc.kill()
		r.start()
	}
	l.end()
	r.settled()
	r.reconcile()
}

// TestInterleaved: transactions that overlap are delivered in commit order for a customer who is in both.
func TestInterleaved(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	one, two := r.db.Conn(t), r.db.Conn(t)
	do := func(c *pgx.Conn, sql string) {
		t.Helper()
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		do(one, `BEGIN`)
		do(two, `BEGIN`)
		do(one, fmt.Sprintf(`INSERT INTO crm.member_groups VALUES ('138', 'later %d')`, i))
		do(two, fmt.Sprintf(`INSERT INTO crm.member_groups VALUES ('138', 'earlier %d')`, i))
		do(two, `COMMIT`)
		do(one, `COMMIT`)
	}
	r.settled()
	var got, wanted []string
	for _, a := range r.sim.Ledger() {
		got = append(got, a.Groups...)
	}
	for i := range 20 {
		wanted = append(wanted, fmt.Sprintf("earlier %d", i), fmt.Sprintf("later %d", i))
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("got %q", got)
	}
}

// TestPlatformOutage: while the platform is away changes wait, then all of them come, once each.
func TestPlatformOutage(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.write(crmMappings, "delivery: {backoff: {initial: 20ms, max: 200ms}}")
	r.start()
	l := r.load(2)
	r.applied(platformsim.Event, 100)
	r.sim.Down(platformsim.DownUnavailable)
	r.proc.until("endpoint event")
	r.until(func() bool { // an answer from before may come late, and clear the alarm for a moment
		code, why := r.get("/readyz")
		return code == 503 && strings.Contains(why, "endpoint")
	})
	if code, _ := r.get("/healthz"); code != 200 {
		t.Errorf("healthz during an outage: %d", code)
	}
	at := r.sim.Stats().Requests
	r.platform(func(s *platformsim.Sim) bool { return s.Stats().Requests > at+10 })
	r.sim.Up()
	l.end()
	r.settled()
	r.reconcile()
	r.proc.until("recovered")
}

// TestDatabaseRestart: the database restarts under the connector, which waits and goes on.
func TestDatabaseRestart(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', 'a')`)
	r.applied(platformsim.GroupRelation, 1)
	for i := range 2 {
		server.Stop(t, []throwaway.Mode{throwaway.Fast, throwaway.Immediate}[i])
		r.proc.until("interrupted")
		server.Start(t)
		r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.member_groups VALUES ('%d', 'b')`, i+2))
		r.applied(platformsim.GroupRelation, i+2)
	}
	r.settled()
	r.sameGroups()
	if got := r.sim.Count(platformsim.GroupRelation); got != 3 {
		t.Errorf("%d group relations, want 3", got)
	}
}

// TestStartsBeforeTheDatabase: the connector may be started first.
func TestStartsBeforeTheDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), crmSchema, crmMappings, platformsim.Options{})
	server.Stop(t, throwaway.Fast)
	r.launch()
	r.proc.until("not to be reached")
	if code, _ := r.get("/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
	server.Start(t)
	r.proc.until("msg=streaming")
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', 'a')`)
	r.settled()
	r.sameGroups()
}

// TestWrongTokenThenRight: a refused secret pauses delivery and turns nothing into a dead letter; with the right one all comes.
func TestWrongTokenThenRight(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{AppID: "app-1", AppSecret: "another"})
	secret := r.file + ".secret"
	write := func(s string) {
		if err := os.WriteFile(secret, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong-secret-value")
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "appSecret: ${TUZHAN_APP_SECRET}", "appSecretFile: "+secret, 1) + "\ndelivery: {backoff: {initial: 20ms, max: 100ms}}\n"
	if err := os.WriteFile(r.file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start() // streams at once, although the platform refuses the secret
	r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '13' || i, 'a' FROM generate_series(1, 50) i`)
	r.proc.until("100100")
	if n := r.sim.Count(platformsim.GroupRelation); n != 0 {
		t.Fatalf("%d records applied with a wrong secret", n)
	}
	write("another")
	r.applied(platformsim.GroupRelation, 50)
	r.settled()
	if letters := r.letters(); len(letters) != 0 {
		t.Errorf("dead letters %+v", letters)
	}
	r.sim.ExpireTokens() // and a token that expires is renewed without a word
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('14', 'a')`)
	r.settled()
	r.sameGroups()
	if log := r.proc.log.String(); strings.Contains(log, "wrong-secret-value") || strings.Contains(log, "instanceSecrect") || strings.Contains(log, "13800") {
		t.Error("the log holds a secret or a row")
	}
}

// TestRejectedRecordInBatch: one record of 500 that the platform refuses becomes a dead letter, the others are delivered.
func TestRejectedRecordInBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	if _, err := r.sim.Inject(platformsim.Fault{Match: "坏", Count: -1, Action: platformsim.AnswerCode, Code: "400", Msg: "bad groups"}); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '13' || i, CASE i WHEN 250 THEN '坏' ELSE 'a' END FROM generate_series(1, 500) i`)
	r.settled()
	if got := r.sim.Count(platformsim.GroupRelation); got != 499 {
		t.Errorf("%d applied", got)
	}
	letters := r.letters()
	if len(letters) != 1 {
		t.Fatalf("%d dead letters", len(letters))
	}
	l := letters[0]
	if l.Class != connector.ClassRejected || l.Mapping != "member-groups" || l.Kind != "groupRelation" || l.Answer == nil || l.Answer.Code != "400" ||
		!sameJSON(t, string(l.Payload), `{"phone":"13250","groups":"坏"}`) || l.Attempts < 2 {
		t.Errorf("dead letter %+v, payload %s", l, l.Payload)
	}
	out, _, code := r.run("deadletters", "show", fmt.Sprint(l.ID))
	if code != 0 || !strings.Contains(out, "bad groups") || !strings.Contains(out, `"groups": "坏"`) {
		t.Errorf("show: exit %d\n%s", code, out)
	}
	if log := r.proc.log.String(); !strings.Contains(log, "dead letter") || strings.Contains(log, "13250") || strings.Contains(log, "bad groups") {
		t.Error("the log must tell of the dead letter without its data")
	}
}

// TestMappingLetter: a row that a mapping can't take is set aside with the change; the rows around it are delivered, and a restart does not
// set it aside again.
func TestMappingLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('M1', '138', 5, 'paid'), ('M2', NULL, 6, 'paid'), ('M3', '139', 7, 'paid')`)
	r.settled()
	if got := r.sim.Count(platformsim.Event); got != 2 {
		t.Errorf("%d events", got)
	}
	check := func() {
		t.Helper()
		letters := r.letters("--class", "mapping")
		if len(letters) != 2 {
			t.Fatalf("%d dead letters, want one of each mapping", len(letters))
		}
		for _, l := range letters {
			if len(l.Payload) != 0 || !strings.Contains(string(l.Change), "M2") || !strings.Contains(l.Reason, "null or empty") || l.Table != "crm.orders" {
				t.Errorf("dead letter %+v: %s", l, l.Change)
			}
		}
	}
	check()
	r.proc.kill()
	r.start()
	r.settled()
	check()
}

// TestOrderPerCustomer: with concurrency 8 and answers of random length, each customer's changes arrive in commit order.
func TestOrderPerCustomer(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.write(crmMappings, "delivery: {concurrency: 8, maxBatch: 20}")
	for _, d := range []time.Duration{3, 7, 11} {
		if _, err := r.sim.Inject(platformsim.Fault{Count: -1, Probability: 0.3, Delay: d * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	r.db.Exec(t, `DO $$ BEGIN FOR i IN 1..4000 LOOP
		INSERT INTO crm.member_groups VALUES ('13' || i % 37, 'g' || i); IF i % 10 = 0 THEN COMMIT; END IF;
		IF i > 37 THEN DELETE FROM crm.member_groups WHERE phone = '13' || i % 37 AND group_name = 'g' || (i - 37); END IF;
	END LOOP; END $$`)
	r.settled()
	last := map[string]int{}
	for _, a := range r.sim.Ledger() {
		var i int
		if _, err := fmt.Sscanf(a.Groups[0], "g%d", &i); err != nil {
			t.Fatal(err)
		}
		step := 2 * i // a delete of g(i-37) comes right behind the add of g(i)
		if a.OptType == "delete" {
			step = 2*(i+37) + 1
		}
		if step <= last[a.Customer] {
			t.Fatalf("customer %s: %s %s came too late", a.Customer, a.OptType, a.Groups[0])
		}
		last[a.Customer] = step
	}
	r.sameGroups()
	r.noViolations()
}

// TestIdleSlot: a busy table that no mapping reads does not pile WAL up behind the connector.
func TestIdleSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	for range 3 {
		r.db.Exec(t, `INSERT INTO crm.other(filler) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 5000) i`)
	}
	r.settled()
	if n := len(r.sim.Ledger()); n != 0 {
		t.Errorf("%d records from a table that no mapping reads", n)
	}
}
