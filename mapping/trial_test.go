package mapping

import (
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

const trialMappings = `
- name: paid
  table: crm.orders
  on: [insert, update]
  when: (new.status == "paid" and (new.amount > 100 || vip)) && goods != "a && b" && old?.status != "paid"
  point: {point: "${{ int(floor(amount)) }}", remark: "${{ goods }}", phoneList: [{phone: "${{ phone }}"}]}
- name: raised
  table: crm.orders
  on: [update]
  when: new.amount != old.amount
  point: {point: "${{ int(new.amount - old.amount) }}", remark: r, phoneList: [{phone: "${{ phone }}"}]}
- name: both
  table: crm.orders
  on: [update]
  when: old.status != "paid" && new.status == "paid"
  event: {eventKey: k, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}
- name: changed
  table: crm.orders
  on: [update]
  when: new.status == "paid" && old.status != "paid"
  event: {eventKey: k, uuid: "${{ order_no }}", identities: [{identityType: phone, identityValue: "${{ phone }}"}]}
`

// TestTrialTellsWhy: the part of when that is false, with what it read; what a dead letter would say; what is assumed where there is no old row.
func TestTrialTellsWhy(t *testing.T) {
	s := mustDecode(t, trialMappings)
	trier := s.Trier(testOptions)
	table, row := ordersTable(), ordersRow()
	try := func(mapping string, op connector.Op, new connector.Tuple) Trial {
		t.Helper()
		c := &connector.Change{Op: op, Table: table, New: new, CommitTime: committed, Position: at}
		if op == connector.Update {
			c.Old = make(connector.Tuple, len(new))
		}
		return trier.Try(mapping, c)
	}
	passed := func(tr Trial) string {
		if tr.Passed == nil || len(tr.Records) > 0 || tr.Failed != "" {
			return "not passed over"
		}
		text := tr.Passed.Part
		for _, v := range tr.Passed.Values {
			text += " | " + v.Column + "=" + v.Text
			if v.Null {
				text += "null"
			}
		}
		return text
	}
	for _, c := range []struct {
		column int
		value  any
		want   string
	}{
		{4, "new", `new.status == "paid" | status=new`},
		{4, nil, `new.status == "paid" | status=null`},
		{5, "a && b", `goods != "a && b" | goods=a && b`},
	} {
		if got := passed(try("paid", connector.Insert, with(row, c.column, c.value))); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	if got, want := passed(try("paid", connector.Insert, with(with(row, 3, "1"), 10, "f"))), "(new.amount > 100 || vip) | amount=1 | vip=f"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	tr := try("paid", connector.Insert, row)
	var out connector.Output
	s.Mapper(testOptions).Map(&connector.Change{Op: connector.Insert, Table: table, New: row, CommitTime: committed, Position: at}, connector.Part{Only: "paid"}, &out)
	if len(tr.Records) != 1 || len(out.Records) != 1 || string(tr.Records[0].Payload) != string(out.Records[0].Payload) || tr.Assumed {
		t.Errorf("%+v", tr)
	}
	if tr := try("paid", connector.Insert, with(row, 2, nil)); !strings.Contains(tr.Failed, "phone") || len(tr.Records) > 0 || tr.Unknown {
		t.Errorf("%+v", tr)
	}
	if tr := try("paid", connector.Delete, nil); tr.Records != nil || tr.Passed != nil || tr.Failed != "" {
		t.Errorf("not for deletes: %+v", tr)
	}

	if tr := try("changed", connector.Update, row); !tr.Assumed || tr.Unknown || len(tr.Records) != 1 || strings.Join(tr.Old, " ") != "status" {
		t.Errorf("%+v", tr)
	}
	if got, want := passed(try("changed", connector.Update, with(row, 4, "new"))), `new.status == "paid" | status=new`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := passed(try("both", connector.Update, with(row, 4, "new"))), `new.status == "paid" | status=new`; got != want { // although the part before it can't be told
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if tr := try("raised", connector.Update, row); !tr.Assumed || !tr.Unknown || len(tr.Records) > 0 || strings.Join(tr.Old, " ") != "amount" {
		t.Errorf("%+v", tr)
	}
	if got := strings.Join(trier.Made("changed"), " "); got != "time" {
		t.Errorf("made: %s", got)
	}
}
