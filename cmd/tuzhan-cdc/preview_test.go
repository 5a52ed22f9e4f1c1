package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

const previewSchema = `
CREATE SCHEMA crm;
CREATE DOMAIN crm.money_of_ours AS numeric(12,2);
CREATE TYPE crm.channel AS ENUM ('门店', 'web');
CREATE TABLE crm.visits (id bigint PRIMARY KEY, phone char(14) NOT NULL, paid boolean, at_utc timestamptz, at_local timestamp, born date, doc jsonb, tags text[], price crm.money_of_ours,
  ratio double precision, length interval, raw bytea, cash money, channel crm.channel, clock time, big bigint, points int NOT NULL, span tstzrange);
CREATE TABLE crm.member_groups (phone text NOT NULL, group_name text NOT NULL, PRIMARY KEY (phone, group_name));
CREATE TABLE crm.months (id bigint, phone text NOT NULL, month int NOT NULL) PARTITION BY RANGE (month);
CREATE TABLE crm.months_2 (month int NOT NULL, phone text NOT NULL, id bigint);
ALTER TABLE crm.months ATTACH PARTITION crm.months_2 FOR VALUES FROM (1) TO (13);
CREATE TABLE crm.parents (phone text NOT NULL);
CREATE TABLE crm.children () INHERITS (crm.parents);`

const previewMappings = `
mappings:
  - name: visit
    table: crm.visits
    on: [insert]
    event:
      publicParams: {matchingType: 1}
      eventKey: c_visit
      uuid: visit-${{ id }}
      time: ${{ at_local }}
      identities:
        - identityType: phone
          identityValue: ${{ phone }}
      eventargs: {a: "${{ paid }}", b: "${{ at_utc }}", c: "${{ at_local }}", d: "${{ born }}", e: "${{ doc }}", f: "${{ tags }}", g: "${{ price }}", h: "${{ ratio }}",
        i: "${{ length }}", j: "${{ raw }}", k: "${{ cash }}", l: "${{ channel }}", m: "${{ clock }}", n: "${{ big }}", o: "${{ op }}", p: "${{ span }}"}
  - name: visit-points
    table: crm.visits
    on: [insert]
    when: new.paid
    point:
      point: ${{ points }}
      remark: 到店 ${{ id }}
      phoneList: [{phone: "${{ phone }}"}]
  - name: member-groups
    table: crm.member_groups
    on: [insert, update, delete]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ group_name }}
  - name: months
    table: crm.months
    on: [insert]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ id }}月${{ month }}
  - name: parents
    table: crm.parents
    on: [insert]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: p
`

// previewOf runs preview and reads its JSON.
func (r *rig) previewOf(args ...string) []*previewed {
	r.t.Helper()
	out, errs, code := r.run(append([]string{"preview", "--output", "json"}, args...)...)
	if code != 0 {
		r.t.Fatalf("preview: exit %d\n%s%s", code, out, errs)
	}
	var list []*previewed
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		r.t.Fatalf("%v in %s", err, out)
	}
	return list
}

// TestPreviewIsWhatRunSends: what preview shows of rows is, byte for byte, what the platform gets of the same rows, whatever the database's own settings are.
func TestPreviewIsWhatRunSends(t *testing.T) {
	t.Parallel()
	r := newRig(t, previewSchema, previewMappings, platformsim.Options{})
	for _, setting := range []string{"datestyle = 'German'", "timezone = 'America/New_York'", "intervalstyle = 'sql_standard'", "extra_float_digits = 0", "bytea_output = 'escape'"} {
		r.db.Exec(t, "ALTER DATABASE "+r.db.Name()+" SET "+setting)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.visits VALUES
  (1, '13800000001', true, '2024-05-01 12:00:00.123456+08', '2024-05-01 12:00:00', '1990-02-03', '{"b": [1, 2.50], "a": "\u5496"}', '{"a,b",NULL,"c\"d"}', 12.30,
   0.1::float8 + 0.2, '1 year 2 mons 3 days 04:05:06.7', '\xdeadbeef', 1234.5, '门店', '23:59:59', 9007199254740993, 20, '[2024-05-01 12:00:00+08,)'),
  (2, '13800000002', false, NULL, '2024-12-31 23:59:59.999', NULL, 'null', NULL, NULL, 1e300, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL),
  (3, '13800000003', true, NULL, '2024-05-02 00:00:00', NULL, NULL, '{}', 1000000.00, 1, '-3 days', '', NULL, 'web', NULL, -1, 7, 'empty');
INSERT INTO crm.member_groups VALUES ('13800000001', 'VIP'), ('13800000002', '新客');
INSERT INTO crm.months VALUES (7, '13800000001', 5);
INSERT INTO crm.parents VALUES ('13800000001');
INSERT INTO crm.children VALUES ('13800000009')`)
	r.settled()
	var sent, shown []string
	for _, a := range r.sim.Ledger() {
		sent = append(sent, string(a.Endpoint)+" "+a.OptType+" "+string(a.PublicParams)+" "+string(a.Record))
	}
	for _, p := range r.previewOf("--limit", "100") {
		if len(p.Errors) > 0 || !p.All {
			t.Errorf("%s: %+v", p.Mapping, p)
		}
		for _, row := range p.Rows {
			for _, rec := range row.Records {
				var payload, params bytes.Buffer
				if json.Compact(&payload, rec.Payload) != nil || len(rec.PublicParams) > 0 && json.Compact(&params, rec.PublicParams) != nil {
					t.Fatal(rec)
				}
				shown = append(shown, p.Kind+" "+rec.OptType+" "+params.String()+" "+payload.String())
			}
		}
	}
	slices.Sort(sent)
	slices.Sort(shown)
	if len(sent) != 9 || !slices.Equal(sent, shown) {
		t.Errorf("sent\n%s\nshown\n%s", strings.Join(sent, "\n"), strings.Join(shown, "\n"))
	}
	if letters := r.letters(); len(letters) > 0 {
		t.Errorf("%+v", letters)
	}
}

// TestPreviewTellsWhy: which part of when is false and for which values, which rows would become dead letters, and what is assumed of updates; nothing is made or sent.
func TestPreviewTellsWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings+`
  - name: raised
    table: crm.orders
    on: [update]
    when: new.amount > 0 && new.amount != old.amount
    point: {point: "${{ int(floor(amount)) }}", remark: r, phoneList: [{phone: "${{ phone }}"}]}
  - name: difference
    table: crm.orders
    on: [update]
    point: {point: "${{ int(floor(new.amount - old.amount)) }}", remark: r, phoneList: [{phone: "${{ phone }}"}]}
  - name: gone
    table: crm.member_groups
    on: [delete]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ group_name }}
`, platformsim.Options{})
	r.db.Exec(t, `INSERT INTO crm.orders (order_no, phone, goods, amount, status, paid_at) VALUES
  ('A1', '13800000001', '咖啡', 12.5, 'paid', '2024-05-01 12:00:00+08'), ('A2', '13800000002', '茶', 1, '待付款', NULL), ('A3', '13800000002', '茶', 1, '待付款', NULL),
  ('A4', '13800000003', '茶', 2, 'cancelled', NULL), ('A5', NULL, '茶', 3, 'paid', NULL);
INSERT INTO crm.member_groups VALUES ('13800000001', 'VIP')`)
	out, errs, code := r.run("preview")
	if code != 0 || errs != "" {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	for _, want := range []string{
		`"c_price": 12.50,`, "as if each row were inserted now", "uuid is another one when it is sent",
		`POST ` + r.web.URL + `/api/integrate/event/v2/batchAdd, publicParams {"matchingType":1}`,
		`passed over: when is not true: new.status == "paid" (3 rows, such as id 4)` + "\n    status is \"待付款\" (2 rows), \"cancelled\" (1 row)\n",
		"5 rows looked at, all that there are: 1 would be sent, 3 passed over, 1 dead letter\n",
		"dead letter: mapping order-points (" + r.file + ":", "audienceUserId are all null or empty",
		"shown as if when were true: it reads old.amount, the row before",
		"not known: the payload reads old.amount, the row before the update",
		"as if each row were deleted now",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(out, "s3cret") || t.Failed() {
		t.Log(out)
	}
	list := r.previewOf("--mapping", "raised", "--mapping", "gone")
	if len(list) != 2 || list[0].As != "update" || list[0].Sent != 3 || list[0].DeadLetters != 1 || list[1].As != "delete" || list[1].Rows[0].Records[0].OptType != "delete" {
		t.Errorf("%+v", list)
	}
	list = r.previewOf("--mapping", "order-points", "--where", "order_no = 'A1' -- only this", "--limit", "1")
	if len(list) != 1 || list[0].Looked != 1 || list[0].Sent != 1 || list[0].Rows[0].Row != "id 1" {
		t.Errorf("%+v", list)
	}
	if n := len(r.sim.Requests()); n > 0 {
		t.Errorf("%d requests", n)
	}
}

// TestPreviewFails: wrong flags exit with 2; what can't be read, or can't read its table, is told with the cure that works, beside the blocks of the others.
func TestPreviewFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('13800000001', 'VIP'); INSERT INTO crm.orders (order_no, phone, status) VALUES ('A1', '13800000001', 'new')`)
	for _, args := range [][]string{{"--mapping", "order-pint"}, {"--limit", "0"}, {"--as", "upsert"}, {"--as", "snapshot"}, {"--where", "true"}, {"--output", "yaml"}} {
		if out, errs, code := r.run(append([]string{"preview"}, args...)...); code != 2 || errs == "" || out != "" {
			t.Errorf("%q: exit %d, %s%s", args, code, out, errs)
		}
	}
	if _, errs, _ := r.run("preview", "--mapping", "order-pint"); !strings.Contains(errs, "did you mean order-points?") {
		t.Error(errs)
	}
	for _, where := range []string{"nonsense = 1", "true); DELETE FROM crm.member_groups; --", "pg_sleep(0) IS NULL OR nextval('crm.orders_id_seq') > 0"} {
		if out, _, code := r.run("preview", "--mapping", "order-paid", "--where", where); code != 1 || !strings.Contains(out, "error: with --where: ") {
			t.Errorf("%s: exit %d\n%s", where, code, out)
		}
	}

	name, dsn := r.db.Role(t, "")
	r.db.Exec(t, "GRANT USAGE ON SCHEMA crm TO "+name+"; GRANT SELECT ON crm.member_groups TO "+name)
	r.dsn = dsn
	r.write(crmMappings, "")
	out, _, code := r.run("preview")
	cure := `GRANT SELECT ON TABLE "crm"."orders" TO ` + name + ";"
	if code != 1 || strings.Count(out, cure) != 2 || !strings.Contains(out, `{"phone":"13800000001","groups":"VIP"}`) {
		t.Errorf("exit %d\n%s", code, out)
	}
	r.db.Exec(t, cure)
	if out, _, code = r.run("preview"); code != 0 || !strings.Contains(out, "1 row looked at") {
		t.Errorf("exit %d\n%s", code, out)
	}

	r.db.Exec(t, `DROP TABLE crm.orders; ALTER TABLE crm.member_groups RENAME group_name TO grp`)
	out, _, code = r.run("preview")
	if code != 1 || !strings.Contains(out, "there is no table crm.orders") || !strings.Contains(out, "has no column group_name") || strings.Contains(out, "looked at") {
		t.Errorf("exit %d\n%s", code, out)
	}
}
