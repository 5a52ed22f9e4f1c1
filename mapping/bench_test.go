package mapping

import (
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

const benchMappings = `
- name: event
  table: crm.orders
  on: [insert]
  event:
    eventKey: c_buy
    time: ${{ paid_at }}
    identities:
      - {identityType: phone, identityValue: "${{ phone }}"}
    eventargs: {c_goods: "${{ goods }}", c_price: "${{ amount }}", c_no: "${{ order_no }}", c_id: "${{ audience }}", title: 下单}
- name: point
  table: crm.orders
  on: [snapshot]
  point:
    point: ${{ id }}
    remark: 订单 ${{ order_no }} 积分
    phoneList: [{phone: "${{ phone }}", isVerify: "1"}]
    ext: {strategyName: order}
- name: group
  table: crm.member_groups
  on: [insert, update, delete]
  groupRelation: {publicParams: {isMatching: true}, phone: "${{ phone }}", groups: "${{ group_name }}"}
- name: computed
  table: crm.orders
  on: [update]
  when: new.status == "paid" && old?.status != "paid"
  point: {point: "${{ int(floor(amount)) }}", remark: "${{ order_no }}", phoneList: [{phone: "${{ phone }}"}]}
- name: condition
  table: crm.orders
  on: [delete]
  when: status == "paid" && vip && op != "insert"
  event: {eventKey: k, identities: [{identityType: phone, identityValue: "${{ phone }}"}]}
`

func benchChange(op connector.Op) *connector.Change {
	switch op {
	case connector.Update:
		return change(op, ordersTable(), ordersRow(), with(ordersRow(), 4, "new"))
	case connector.Delete:
		return change(op, ordersTable(), nil, ordersRow())
	}
	return change(op, ordersTable(), ordersRow(), nil)
}

// TestAllocations: for plain columns a row costs no allocation, once its record is one that is used again; nor does a row that no mapping wants.
func TestAllocations(t *testing.T) {
	s := mustDecode(t, benchMappings)
	group := change(connector.Insert, membersTable(), tuple("1", "138", "gold", "{}", "t"), nil)
	for name, c := range map[string]*connector.Change{"event": benchChange(connector.Insert), "point": benchChange(connector.Snapshot), "group relation": group,
		"condition": benchChange(connector.Delete)} {
		m := s.Mapper(testOptions)
		var out connector.Output
		got := testing.AllocsPerRun(200, func() {
			out.Reset()
			if m.Map(c, connector.Part{}, &out); len(out.Records) != 1 {
				t.Fatal(show(&out))
			}
			out.Recycle(out.Records[0])
		})
		if got > 0 {
			t.Errorf("%s: %v allocations a row", name, got)
		}
	}
	m := s.Mapper(testOptions)
	unwanted := change(connector.Delete, ordersTable(), nil, with(ordersRow(), 4, "new"))
	var out connector.Output
	if got := testing.AllocsPerRun(200, func() { m.Map(unwanted, connector.Part{}, &out) }); got > 0 || len(out.Records)+len(out.Letters) > 0 {
		t.Errorf("a row that is not wanted: %v allocations", got)
	}
}

func benchmark(b *testing.B, c *connector.Change) {
	m := mustDecode(b, benchMappings).Mapper(testOptions)
	var out connector.Output
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		if m.Map(c, connector.Part{}, &out); len(out.Letters)+len(out.Misfits) > 0 {
			b.Fatal(show(&out))
		}
		for _, r := range out.Records {
			out.Recycle(r)
		}
	}
}

func BenchmarkMapEvent(b *testing.B)    { benchmark(b, benchChange(connector.Insert)) }
func BenchmarkMapPoint(b *testing.B)    { benchmark(b, benchChange(connector.Snapshot)) }
func BenchmarkMapComputed(b *testing.B) { benchmark(b, benchChange(connector.Update)) }
func BenchmarkMapCondition(b *testing.B) {
	benchmark(b, benchChange(connector.Delete))
}
func BenchmarkMapGroupRelation(b *testing.B) {
	benchmark(b, change(connector.Insert, membersTable(), tuple("1", "138", "gold", "{}", "t"), nil))
}
func BenchmarkMapGroupUpdate(b *testing.B) {
	benchmark(b, change(connector.Update, membersTable(), tuple("1", "138", "gold", "{}", "t"), tuple("1", "138", "silver", "{}", "t")))
}
