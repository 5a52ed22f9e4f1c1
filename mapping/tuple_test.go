package mapping

import (
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestOldColumnNotSent: where the replica identity did not carry an old column, a mapping that comes to it is a misfit that names the cure; one that does
// not come to it, or does not need it, goes on. Only a change that has what the mapping reads shows that it fits again.
func TestOldColumnNotSent(t *testing.T) {
	table, full := underKey(ordersTable(), connector.IdentityDefault, "id"), ordersRow()
	partial := unknownRow(full)
	const group = "groupRelation: {publicParams: {isMatching: true}, phone: '${{ phone }}', groups: '${{ status }}'}}\n"
	const event = "event: {eventKey: k, uuid: 'u${{ 1 }}', identities: [{identityType: p, identityValue: '${{ %s }}'}]}}\n"
	plain := strings.ReplaceAll(event, "%s", "phone")
	const onUpdate, all = "- {name: m, table: crm.orders, on: [update], ", "- {name: m, table: crm.orders, on: [insert, update, delete], "
	const lacks = ` is unknown: the table's replica identity does not carry it; ALTER TABLE "crm"."orders" REPLICA IDENTITY FULL; -- sends it with later changes; ` +
		"those until then can only be given up: tuzhan-cdc deadletters set-aside --mapping m"
	update := func(old connector.Tuple) *connector.Change { return change(connector.Update, table, full, old) }
	for _, c := range []struct {
		name, yaml string
		in         *connector.Change
		want       string // of the one misfit or letter; "": a record, "-": nothing
		fits       int
	}{
		{"read", onUpdate + "when: 'old.status != status', " + plain, update(partial), "misfit: mapping m (m.yaml:1): when: column status" + lacks, 0},
		{"of a partition", onUpdate + "when: 'old.status != status', " + plain, change(connector.Update, ordersTable(), full, partial),
			"misfit: mapping m (m.yaml:1): when: column status is unknown: the table's replica identity does not carry it; the partition that the row is in has another replica " +
				"identity than its table: tuzhan-cdc check names it; REPLICA IDENTITY FULL sends it with later changes; " +
				"those until then can only be given up: tuzhan-cdc deadletters set-aside --mapping m", 0},
		{"read by get", onUpdate + "when: 'get(old, \"status\") != status', " + plain, update(partial), "misfit: mapping m (m.yaml:1): when: column status" + lacks, 0},
		{"read in the payload", onUpdate + strings.ReplaceAll(event, "%s", "old?.phone ?? phone"), update(partial),
			"misfit: mapping m (m.yaml:1): identities[0].identityValue: column phone" + lacks, 0},
		{"not come to", onUpdate + "when: 'id > 0 || old.status != status', " + plain, update(partial), "", 0},
		{"when false", onUpdate + "when: 'id < 0 && old.status != status', " + plain, update(partial), "-", 0},
		{"carried", onUpdate + "when: 'old.id == id', " + plain, update(partial), "", 1},
		{"not read", onUpdate + plain, update(partial), "", 1},
		{"all there, more than the Relation message says", onUpdate + "when: 'old.status == status', " + plain, change(connector.Update, table, full, full), "", 1},
		{"an insert shows nothing", all + "when: 'old?.status != status', " + plain, change(connector.Insert, table, full, nil), "", 0},
		{"an insert under FULL", all + "when: 'old?.status != status', " + plain, change(connector.Insert, underKey(ordersTable(), connector.IdentityFull, "id", "status", "phone"), full, nil), "", 1},
		{"another failure is a letter", onUpdate + "when: 'old.id + amount > 0', " + plain, change(connector.Update, table, with(full, 3, "NaN"), partial),
			"letter: mapping m (m.yaml:1): when: NaN or infinity can't be computed with", 1},
		{"delete", all + plain, change(connector.Delete, table, nil, partial), "misfit: mapping m (m.yaml:1): identities[0].identityValue: column phone" + lacks, 0},
		{"delete of a group", all + group, change(connector.Delete, table, nil, partial), "misfit: mapping m (m.yaml:1): phone: column phone" + lacks, 0},
		{"update of a group", onUpdate + group, update(partial), "", 1},
		{"unchanged", onUpdate + "when: 'goods != nil', " + plain, change(connector.Update, table, with(full, 5, connector.Unchanged), partial),
			"letter: mapping m (m.yaml:1): when: column goods is unknown: PostgreSQL does not send a long value that an update left alone; " +
				`ALTER TABLE "crm"."orders" REPLICA IDENTITY FULL; -- sends it with later changes`, 1},
		{"unchanged, short-circuit", onUpdate + "when: 'id == 0 && goods != nil', " + plain, change(connector.Update, table, with(full, 5, connector.Unchanged), partial), "-", 1},
		{"unchanged, ??", onUpdate + strings.ReplaceAll(event, "%s", "phone ?? goods"), change(connector.Update, table, with(full, 5, connector.Unchanged), partial), "", 1},
		{"unchanged is no null", onUpdate + strings.ReplaceAll(event, "%s", "goods ?? phone"), change(connector.Update, table, with(full, 5, connector.Unchanged), partial),
			"letter: mapping m (m.yaml:1): identities[0].identityValue: column goods is unknown: PostgreSQL does not send a long value that an update left alone; " +
				`ALTER TABLE "crm"."orders" REPLICA IDENTITY FULL; -- sends it with later changes`, 1},
	} {
		var out connector.Output
		mustDecode(t, c.yaml).Mapper(testOptions).Map(c.in, connector.Part{}, &out)
		got := show(&out)
		switch {
		case c.want == "" && len(out.Records) == 1 && len(out.Misfits)+len(out.Letters) == 0:
		case c.want == "-" && got == "":
		case got != c.want:
			t.Errorf("%s\n got %s\nwant %s", c.name, got, c.want)
		}
		if out.Fits != c.fits {
			t.Errorf("%s: fits %d, want %d", c.name, out.Fits, c.fits)
		}
		for _, l := range out.Misfits {
			if back, err := ParseChange(l.Change); err != nil || !reflect.DeepEqual(back, c.in) {
				t.Errorf("%s: the change of the misfit: %v", c.name, err)
			}
		}
	}
}

// TestCheckTuples: check tells of columns that don't come with the stream, and of long values that may not.
func TestCheckTuples(t *testing.T) {
	table := func(identity connector.Identity, keys ...string) *connector.Table {
		t := underKey(ordersTable(), identity, keys...)
		for _, name := range []string{"order_no", "goods", "doc"} {
			t.Columns[t.Column(name)].Toasted = true
		}
		t.Omitted = []connector.Omitted{{Column: "total", Why: "it is a generated column, which PostgreSQL does not send"}}
		return t
	}
	const event = "event: {eventKey: k, identities: [{identityType: p, identityValue: '${{ phone }}'}], eventargs: {a: '${{ order_no }}', b: '${{ new.goods }}'}}}\n"
	const long = "m.yaml:1:10: mapping m reads goods of table crm.orders, which holds long values: PostgreSQL does not send those that an update left alone, " +
		"and where the mapping comes to one the row becomes a dead letter\n    ALTER TABLE \"crm\".\"orders\" REPLICA IDENTITY FULL;"
	for _, c := range []struct {
		yaml             string
		table            *connector.Table
		errors, warnings string
	}{
		{"- {name: m, table: crm.orders, on: [insert, update], " + event, table(connector.IdentityIndex, "id", "order_no"), "", long},
		{"- {name: m, table: crm.orders, on: [insert, delete], when: 'op == \"insert\"', event: {eventKey: k, identities: [{identityType: p, identityValue: '${{ new.goods }}'}]}}\n",
			table(connector.IdentityDefault, "id"), "", ""},
		{"- {name: m, table: crm.orders, on: [insert, update], " + event, ordersTable(), "", ""},
		{"- {name: m, table: crm.orders, on: [insert], when: 'total > 5', " + event, table(connector.IdentityDefault, "id"),
			"m.yaml:1:53: column total of table crm.orders does not come with the stream: it is a generated column, which PostgreSQL does not send\n" +
				"    Compute it from the other columns.", ""},
	} {
		f := mustDecode(t, c.yaml).Check([]*connector.Table{c.table})
		for i, want := range []string{c.errors, c.warnings} {
			got := ""
			if err := []error{f.Err(), f.Warnings.Err()}[i]; err != nil {
				got = err.Error()
			}
			expect(t, c.yaml, got, want)
		}
	}
}

// TestStoredBytes: a value that is no UTF-8 is kept to the byte in a dead letter.
func TestStoredBytes(t *testing.T) {
	table := columns(&connector.Table{Schema: "s", Name: "t"}, "a", pgtype.TextOID, "b", pgtype.TextOID)
	in := change(connector.Insert, table, tuple("\xcf\xc2\xb5\xa5", `{"hex":"00"}`), nil)
	text := ChangeJSON(in)
	if !strings.Contains(string(text), `"new":{"a":{"hex":"cfc2b5a5"},"b":"{\"hex\":\"00\"}"}`) {
		t.Errorf("%s", text)
	}
	if back, err := ParseChange(text); err != nil || !reflect.DeepEqual(back, in) {
		t.Errorf("%v %+v", err, back)
	}
	for _, bad := range []string{`{"hex":"0"}`, `{"hex":null}`, `{}`, `5`} {
		if _, err := ParseChange([]byte(`{"op":"insert","columns":[{"name":"a"}],"position":"0/1:0","new":{"a":` + bad + `}}`)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestArraysOfText: array types that are read as lists of text, and the one that has ; between its elements.
func TestArraysOfText(t *testing.T) {
	for _, c := range []struct {
		oid        uint32
		text, want string
	}{
		{791, `{$1.00,"$2,000.00"}`, `["$1.00","$2,000.00"]`}, {pgtype.Int4rangeArrayOID, `{"[1,3)"}`, `["[1,3)"]`}, {pgtype.BoxArrayOID, `{(1,1),(0,0);(3,3),(2,2)}`, `["(1,1),(0,0)","(3,3),(2,2)"]`},
		{pgtype.PointArrayOID, `{"(1,2)"}`, `["(1,2)"]`}, {pgtype.BitArrayOID, `{101}`, `["101"]`}, {pgtype.IntervalArrayOID, `[0:0]={P1D}`, `["P1D"]`},
		{pgtype.TimestampArrayOID, `{infinity}`, "bad"}, {pgtype.TimestampArrayOID, `{"2024-05-01 12:00:00",NULL}`, `["2024-05-01T12:00:00.000+08:00",null]`},
		{pgtype.BoolArrayOID, `{t,f,x}`, "bad"}, {pgtype.TextArrayOID, `[x:1]={a}`, "bad"}, {pgtype.TextArrayOID, `[1:1={a}`, "bad"}, {pgtype.TextArrayOID, `[1:1]{a}`, "bad"},
		{pgtype.JSONBArrayOID, `{"{\"a\": 12345678901234567890}",null}`, `[{"a":12345678901234567890},null]`},
	} {
		v, err := typeOf(&connector.Column{BaseOID: c.oid}).decode([]byte(c.text), shanghai)
		got := "bad"
		if err == nil {
			var b []byte
			if b, err = appendValue(nil, v); err == nil {
				got = string(b)
			}
		}
		expect(t, c.text, got, c.want)
	}
}
