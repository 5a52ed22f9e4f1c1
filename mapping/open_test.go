package mapping

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// openMapping makes points of the open API.
const openMapping = `
- name: open-points
  table: crm.orders
  on: [insert, snapshot]
  point:
    audienceUserId: ${{ audience }}
    thirdId: ${{ openid }}
    point: ${{ int(amount) }}
    remark: 订单 ${{ order_no }}
    eventType: e
`

// TestOpenPoints: the fields of the open API, with a relateBizCode that stays the same when the change is mapped again, and is another one for another
// change; the customer's identities are the order keys.
func TestOpenPoints(t *testing.T) {
	s, ps := decodeInto(&Set{OpenPoints: true}, openMapping)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	c := change(connector.Insert, ordersTable(), ordersRow(), nil)
	out := mapOne(t, s, testOptions, c)
	want := fmt.Sprintf(`{"audienceUserId":860484273911119872,"thirdId":"oABC","point":1420,"remark":"订单 N-1","eventType":"e","relateBizCode":"%s"}`, wantUUID("open-points"))
	expect(t, "payload", show(out), want)
	if keys := out.Records[0].Keys; !slices.Equal(keys, []uint64{connector.KeyHash("860484273911119872"), connector.KeyHash("oABC")}) {
		t.Errorf("keys %v", keys)
	}
	expect(t, "without the payload", RecordUUID(testOptions.SystemID, testOptions.Database, out.Records[0].RecordID), wantUUID("open-points"))
	expect(t, "again", show(mapOne(t, s, testOptions, c)), want)
	later := *c
	later.CommitTime = committed.Add(1000)
	if got := show(mapOne(t, s, testOptions, &later)); got == want {
		t.Error("another commit time gives the same code")
	}
	noCustomer := with(with(ordersRow(), 7, nil), 8, nil)
	if got := show(mapOne(t, s, testOptions, change(connector.Insert, ordersTable(), noCustomer, nil))); !strings.Contains(got, "it names no customer: audienceUserId, thirdId are all null or empty") {
		t.Error(got)
	}
	less := testOptions
	less.PointDecrease = true
	out = mapOne(t, s, less, change(connector.Insert, ordersTable(), with(ordersRow(), 3, "-5"), nil))
	if len(out.Records) != 1 || !out.Records[0].Decrease || !strings.Contains(string(out.Records[0].Payload), `"point":5,`) {
		t.Error(show(out))
	}
}

// TestAside: what a mapping wants of a change that is set aside becomes one letter that holds the change; what it does not want becomes nothing.
func TestAside(t *testing.T) {
	s := mustDecode(t, designMappings)
	var out connector.Output
	s.Mapper(testOptions).Map(change(connector.Insert, ordersTable(), ordersRow(), nil), connector.Part{Only: "order-points", Aside: "given up"}, &out)
	if len(out.Records) != 0 || len(out.Letters) != 1 {
		t.Fatal(show(&out))
	}
	l := out.Letters[0]
	if l.Class != connector.ClassMapping || l.Kind != connector.Point || !l.Uncounted || l.Reason != "mapping order-points (m.yaml:17): given up" ||
		!strings.Contains(string(l.Change), "N-1") || l.Payload != nil {
		t.Errorf("%+v", l)
	}
	out.Reset()
	s.Mapper(testOptions).Map(change(connector.Insert, ordersTable(), with(ordersRow(), 4, "new"), nil), connector.Part{Only: "order-points", Aside: "given up"}, &out)
	if len(out.Records)+len(out.Letters) != 0 {
		t.Error(show(&out))
	}
	old, now := tuple("1", "138", "a", nil, "t"), tuple("1", "139", "b", nil, "t")
	out.Reset()
	s.Mapper(testOptions).Map(change(connector.Update, membersTable(), now, old), connector.Part{Aside: "given up"}, &out)
	if len(out.Records) != 0 || len(out.Letters) != 1 || out.Letters[0].Number != connector.WholeChange { // of a delete and an add
		t.Error(show(&out))
	}
}
