package mapping

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// underKey gives the table with a replica identity that carries the named columns only.
func underKey(t *connector.Table, identity connector.Identity, keys ...string) *connector.Table {
	t.Identity = identity
	for i := range t.Columns {
		t.Columns[i].Key = strings.Contains(" "+strings.Join(keys, " ")+" ", " "+t.Columns[i].Name+" ")
	}
	return t
}

func TestCheck(t *testing.T) {
	const event = "event: {eventKey: k, identities: [{identityType: p, identityValue: '${{ phone }}'}]}}\n"
	const group = "groupRelation: {publicParams: {isMatching: true}, phone: '${{ phone }}', groups: '${{ status }}'}}\n"
	full := ordersTable()
	byKey := underKey(ordersTable(), connector.IdentityDefault, "id")
	none := underKey(ordersTable(), connector.IdentityDefault)
	nothing := underKey(ordersTable(), connector.IdentityNothing)
	byIndex := underKey(ordersTable(), connector.IdentityIndex, "phone", "status")
	const cure = "\n    ALTER TABLE \"crm\".\"orders\" REPLICA IDENTITY FULL;"
	unreadable := "m.yaml:1:10: mapping m: table crm.orders has no replica identity: PostgreSQL refuses the application's UPDATE and DELETE of it wherever they are published\n" +
		"    ALTER TABLE \"crm\".\"orders\" REPLICA IDENTITY FULL; -- or add a primary key"
	old := func(at, column, more string) string {
		return "m.yaml:" + at + ": mapping m reads the old row's column " + column + ", which the replica identity of table crm.orders does not carry: it would be unknown" + more + cure
	}
	warning := func(columns string) string {
		return "m.yaml:1:10: mapping m: an update of table crm.orders can't be compared with the old row, whose " + columns +
			" the replica identity does not carry: each one is sent as optType update" + cure
	}
	for _, c := range []struct {
		yaml             string
		table            *connector.Table
		errors, warnings string
	}{
		{"- {name: m, table: crm.orders, on: [insert, update, delete], when: 'old?.status == nil', " + event, full, "", ""},
		{"- {name: m, table: crm.order, on: [insert], " + event, full, "m.yaml:1:10: mapping m: there is no table crm.order: did you mean crm.orders?", ""},
		{"- {name: m, table: xxx.customers, on: [insert], " + event, full, "m.yaml:1:10: mapping m: there is no table xxx.customers\n" +
			"    Check schema and spelling, and that the role may see the schema: GRANT USAGE ON SCHEMA \"xxx\" TO ...;", ""},
		{"- {name: m, table: crm.orders, on: [insert], when: 'statu == \"x\" && old?.phon == nil', orderBy: xyzzy, " + event, full,
			"m.yaml:1:53: table crm.orders has no column statu: did you mean status?\nm.yaml:1:74: table crm.orders has no column phon: did you mean phone?\n" +
				"m.yaml:1:97: table crm.orders has no column xyzzy\n    Its columns: id, order_no, phone, amount, status, goods, paid_at, audience, openid, doc, vip.", ""},
		{"- {name: m, table: crm.orders, on: [insert], when: 'get(new, \"gone\") == nil', " + event, full, "", ""},
		{"- {name: m, table: crm.orders, on: [insert], when: status == 5, " + event, full, "m.yaml:1:59: invalid operation: == (mismatched types text and int)\n" +
			"    string(x) makes text of a number, int(x) or float(x) a number of text.", ""},
		{"- {name: m, table: crm.orders, on: [insert], when: paid_at > \"2024-01-01\", " + event, full, "m.yaml:1:60: invalid operation: > (mismatched types timestamp and text)\n" +
			"    Make a timestamp of the text: date(\"2024-01-31\").", ""},
		{"- {name: m, table: crm.orders, on: [insert], when: status, orderBy: 'doc ?? [id]', " + event, full, "m.yaml:1:52: when: want true or false, but the expression gives text", ""},
		{"- {name: m, table: crm.orders, on: [insert], when: 'amount % 2 == 0 && vip && doc.x > 1 && (amount ?? 0) * 2 > 1', " + event, full, "", ""},
		// replica identity
		{"- {name: m, table: crm.orders, on: [insert], when: 'old?.status == nil', " + event, none, "", ""},
		{"- {name: m, table: crm.orders, on: [update], " + event, byKey, "", ""},
		{"- {name: m, table: crm.orders, on: [update], " + event, none, unreadable, ""},
		{"- {name: m, table: crm.orders, on: [delete], " + event, nothing, unreadable, ""},
		{"- {name: m, table: crm.orders, on: [update], when: 'status != old?.status && old.id == id', " + event, byKey, old("1:68", "status", ""), ""},
		{"- {name: m, table: crm.orders, on: [update], when: 'get(old, \"status\") != \"\"', " + event, byKey, old("1:53", "status", ""), ""},
		{"- {name: m, table: crm.orders, on: [update], when: 'status != old?.status', " + event, byIndex, "", ""},
		{"- {name: m, table: crm.orders, on: [insert, delete], " + event, byKey, old("1:126", "phone", " (on delete, a bare column is the old row's)"), ""},
		{"- {name: m, table: crm.orders, on: [insert, update], " + group, byKey, "", warning("phone, status")},
		{"- {name: m, table: crm.orders, on: [insert, update], " + group, byIndex, "", ""},
		{"- {name: m, table: crm.orders, on: [insert, update], when: vip, " + group, byIndex, "", warning("vip")},
		{"- {name: m, table: crm.orders, on: [insert, update], " + strings.Replace(group, "phone:", "optType: add, phone:", 1), byKey, "", ""},
		{"- {name: m, table: crm.orders, on: [delete], " + group, byKey, "m.yaml:1:108: the replica identity of table crm.orders does not carry what mappings read of old rows, so it would be unknown: phone (m 1:108), status (m 1:132) (on delete, a bare column is the old row's)" + cure, ""},
	} {
		s, ps := decodeMappings(c.yaml)
		if err := ps.Err(); err != nil {
			t.Errorf("%s: %v", c.yaml, err)
			continue
		}
		f := s.Check([]*connector.Table{c.table, membersTable()})
		for i, want := range []string{c.errors, c.warnings} {
			got := ""
			if err := []error{f.Err(), f.Warnings.Err()}[i]; err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%s\n got %s\nwant %s", c.yaml, got, want)
			}
		}
	}
}

// TestCheckTellsATableOnce: one statement mends what a table's replica identity keeps from many mappings, so it is one error: with all columns, and who reads each.
func TestCheckTellsATableOnce(t *testing.T) {
	const event = "event: {eventKey: k, identities: [{identityType: p, identityValue: '${{ phone }}'}]}}\n"
	s := mustDecode(t, "- {name: a, table: crm.orders, on: [update], when: 'status != old?.status', "+event+
		"- {name: b, table: crm.orders, on: [update], when: 'amount > old?.amount && old?.status == nil', "+event+
		"- {name: c, table: crm.orders, on: [insert], when: 'phone != nil', "+event+
		"- {name: d, table: crm.member_groups, on: [update], when: 'old?.group_name != group_name', "+event)
	const cure = "\n    ALTER TABLE \"crm\".\"orders\" REPLICA IDENTITY FULL;"
	members := underKey(membersTable(), connector.IdentityDefault, "id")
	for _, c := range []struct {
		orders *connector.Table
		want   string
	}{
		{underKey(ordersTable(), connector.IdentityDefault, "id"), "m.yaml:1:68: the replica identity of table crm.orders does not carry what mappings read of old rows, so it would be unknown: " +
			"status (a 1:68, b 2:82), amount (b 2:67)" + cure},
		{underKey(ordersTable(), connector.IdentityNothing), "m.yaml:1:10: mappings a, b (2:10): table crm.orders has no replica identity: PostgreSQL refuses the application's UPDATE and DELETE of it " +
			"wherever they are published" + cure + " -- or add a primary key"},
	} {
		if got := fmt.Sprint(s.Check([]*connector.Table{c.orders, members}).Err()); !strings.HasPrefix(got, c.want) || strings.Count(got, "table crm.orders") != 1 || !strings.Contains(got, "mapping d reads the old row's column group_name") {
			t.Errorf(" got %s\nwant %s", got, c.want)
		}
		for name, found := range s.CheckEach([]*connector.Table{c.orders, members}) {
			if n := found.Errors().Len(); n != map[string]int{"a": 1, "b": 1, "d": 1}[name] {
				t.Errorf("mapping %s by itself: %v", name, found.Err())
			}
		}
	}
}

// TestUnfit: a mapping that can't read its table says once what it can't read, without its own name, and the cure that fits; the same at a start and at a change.
func TestUnfit(t *testing.T) {
	const reload = "mend the mapping's file and reload (kill -HUP, or start again): what waits comes then. "
	const aside = "Or give it up as dead letters: tuzhan-cdc deadletters set-aside --mapping m"
	const full = `ALTER TABLE "crm"."orders" REPLICA IDENTITY FULL;`
	small := func(identity connector.Identity, phone string, amount int) *connector.Table {
		return underKey(columns(&connector.Table{Schema: "crm", Name: "orders"}, phone, pgtype.TextOID, "amount", amount), identity, phone)
	}
	for _, c := range []struct {
		when              string
		table             *connector.Table
		atStart, atChange connector.Unfit
	}{
		{"true", small(connector.IdentityFull, "mobile", pgtype.NumericOID),
			connector.Unfit{Why: "m.yaml:1:132: table crm.orders has no column phone (Its columns: mobile, amount.)",
				Cure: reload + `If column phone was renamed, rows from before have it under that name: get(new, "phone") ?? NEW_NAME. ` + aside},
			connector.Unfit{Why: "m.yaml:1:132: table crm.orders has no column phone (Its columns: mobile, amount.)",
				Cure: reload + `If column phone was renamed, rows from before have it under that name: get(new, "phone") ?? NEW_NAME. ` + aside}},
		{"floor(amount) > 1", small(connector.IdentityFull, "phone", pgtype.TextOID),
			connector.Unfit{Why: "m.yaml:1:53: invalid argument for floor (type text)", Cure: reload + aside},
			connector.Unfit{Why: "m.yaml:1:53: invalid argument for floor (type text)", Cure: reload + aside}},
		{"get(new, \"gone\") == nil && old?.amount != amount", small(connector.IdentityDefault, "phone", pgtype.NumericOID),
			connector.Unfit{Why: "m.yaml:1:85: the replica identity of table crm.orders does not carry the old row's column amount, so it would be unknown", Cure: full + " -- then it goes on by itself; changes until then that lack it can only be given up: tuzhan-cdc deadletters set-aside --mapping m"},
			connector.Unfit{Why: "m.yaml:1: when: column amount is unknown: the table's replica identity does not carry it",
				Cure: full + " -- sends it with later changes; those until then can only be given up: tuzhan-cdc deadletters set-aside --mapping m"}},
		{"true", nil, connector.Unfit{Why: "m.yaml:1:10: there is no table crm.orders (Check schema and spelling, and that the role may see the schema: GRANT USAGE ON SCHEMA \"crm\" TO ...;)",
			Cure: reload + aside}, connector.Unfit{}},
	} {
		s := mustDecode(t, "- {name: m, table: crm.orders, on: [update], when: '"+c.when+"', event: {eventKey: k, identities: [{identityType: p, identityValue: '${{ phone }}'}]}}\n")
		var tables []*connector.Table
		if c.table != nil {
			tables = append(tables, c.table)
			var out connector.Output
			s.Mapper(testOptions).Map(change(connector.Update, c.table, tuple("1", "2"), tuple("1", connector.Absent)), connector.Part{}, &out)
			if len(out.Misfits) != 1 || out.Misfits[0].Unfit != c.atChange {
				t.Errorf("%s, at a change:\n got %+v\nwant %+v", c.when, out.Misfits, c.atChange)
			}
		}
		for _, found := range s.CheckEach(tables) {
			if got := found.Unfit(); got != c.atStart {
				t.Errorf("%s, at a start:\n got %+v\nwant %+v", c.when, got, c.atStart)
			}
		}
	}
	if got := oneLine([]strict.Problem{{File: "m.yaml", Line: 1, Column: 2, Text: "no column", Hint: "Its columns: id,\nphone."}, {Text: "unknown"}}); got != "m.yaml:1:2: no column (Its columns: id, phone.); unknown" {
		t.Error(got)
	}
}

// TestSnapshotOfPoints: check warns of points for rows that are there already; an event must say when it was.
func TestSnapshotOfPoints(t *testing.T) {
	s := mustDecode(t, "- {name: m, table: crm.orders, on: [snapshot], point: {point: 1, remark: r, phoneList: [{phone: \"${{ phone }}\"}]}}\n")
	if got := fmt.Sprint(s.Check([]*connector.Table{ordersTable()}).Warnings.All()); !strings.Contains(got, "each backfill gives them anew") {
		t.Errorf("no warning: %s", got)
	}
	_, ps := decodeMappings("- {name: m, table: crm.orders, on: [insert, snapshot], event: {eventKey: k, identities: [{identityType: p, identityValue: \"${{ phone }}\"}]}}\n")
	if got := fmt.Sprint(ps.Err()); !strings.Contains(got, "must give its time") {
		t.Errorf("an event without time: %s", got)
	}
	if s.Fingerprint("m") == "" || s.Fingerprint("m") == mustDecode(t, "- {name: m, table: crm.orders, on: [snapshot], point: {point: 2, remark: r, phoneList: [{phone: \"${{ phone }}\"}]}}\n").Fingerprint("m") ||
		s.Fingerprint("m") != mustDecode(t, "\n- {name: m, table: crm.orders,  on: [snapshot], point: {point: 1, remark: r, phoneList: [{phone: \"${{ phone }}\"}]}}\n").Fingerprint("m") {
		t.Error("the fingerprint tells an edited mapping from one that is laid out otherwise")
	}
}

func TestUses(t *testing.T) {
	s := mustDecode(t, designMappings+`
- name: gone
  table: crm."a.b"
  on: [delete, snapshot]
  orderBy: old.z
  event: {eventKey: k, time: 5, identities: [{identityType: p, identityValue: "${{ phone }}"}], intid: "${{ get(new, 'x') }}"}
`)
	want := []Use{
		{Schema: "crm", Name: "a.b", Delete: true, Snapshot: true, New: []string{"phone", "x"}, Old: []string{"phone", "z"}, Mappings: []Origin{{"gone", "m.yaml", 38}}},
		{Schema: "crm", Name: "member_groups", Insert: true, Update: true, Delete: true, New: []string{"group_name", "phone"}, Old: []string{"group_name", "phone"},
			Mappings: []Origin{{"member-groups", "m.yaml", 29}}},
		{Schema: "crm", Name: "orders", Insert: true, Update: true, New: []string{"amount", "goods", "order_no", "paid_at", "phone", "status"}, Old: []string{"status"},
			Mappings: []Origin{{"order-paid", "m.yaml", 2}, {"order-points", "m.yaml", 17}}},
	}
	if got := s.Uses(); !reflect.DeepEqual(got, want) {
		t.Errorf(" got %+v\nwant %+v", got, want)
	}
}

// TestChangeJSON: a dead letter's change can be mapped again, in the same way.
func TestChangeJSON(t *testing.T) {
	table := wide()
	table.Columns[1].TypeName = "smallint"
	table = underKey(table, connector.IdentityDefault, "id", "name")
	full := wideRow()
	partial := make(connector.Tuple, len(full))
	partial[0], partial[6] = full[0], tuple(nil)[0]
	for _, c := range []*connector.Change{
		change(connector.Insert, table, full, nil), change(connector.Update, table, full, partial), change(connector.Delete, table, nil, partial),
		change(connector.Update, table, full, make(connector.Tuple, len(full))),
		{Op: connector.Snapshot, Table: columns(&connector.Table{Schema: "s", Name: "t.t"}, "a\"b", pgtype.TextOID), New: tuple("")},
	} {
		text := ChangeJSON(c)
		got, err := ParseChange(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf(" got %+v\nwant %+v\n%s", got, c, text)
		}
	}
	small := columns(&connector.Table{OID: 7, Schema: "crm", Name: "t", Identity: connector.IdentityDefault}, "id", pgtype.Int8OID, "note", pgtype.TextOID, "x", pgtype.TextOID)
	small.Columns[1].Key, small.Columns[2].Key = false, false
	expect(t, "JSON", string(ChangeJSON(change(connector.Update, small, tuple("1", nil, connector.Unchanged), tuple("1", connector.Absent, connector.Absent)))),
		`{"op":"update","schema":"crm","table":"t","oid":7,"identity":"d","position":"16/B374D848:3","commitTime":"2024-05-01T04:00:00.123456Z",`+
			`"columns":[{"name":"id","type":20,"base":20,"key":true},{"name":"note","type":25,"base":25},{"name":"x","type":25,"base":25}],`+
			`"new":{"id":"1","note":null},"old":{"id":"1"},"unknown":["new.x","old.note","old.x"]}`)
	for _, bad := range []string{"", "{}", `{"op":"eat"}`, `{"op":"insert","identity":"dd"}`, `{"op":"insert","new":{"a":1}}`} {
		if _, err := ParseChange([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
