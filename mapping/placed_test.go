package mapping

import (
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestPlaced: a mapper says whether what it made of a row tells of the row's position: if not, the row may be mapped before that is known.
func TestPlaced(t *testing.T) {
	const head = `
- name: paid
  table: crm.orders
  on: [insert, snapshot]
`
	const event = `  event:
    publicParams: {matchingType: 1}
    eventKey: c_buy
    time: ${{ paid_at }}
    identities:
      - identityType: phone
        identityValue: ${{ phone }}
    eventargs: {c_goods: `
	for name, c := range map[string]struct {
		text   string
		op     connector.Op
		placed bool
	}{
		"a row of a backfill":        {event + `"${{ goods }}"}`, connector.Snapshot, false},
		"other facts of the change":  {event + `"${{ table }} ${{ op }}"}`, connector.Snapshot, false},
		"in a field":                 {event + `"${{ position }}"}`, connector.Snapshot, true},
		"in text":                    {event + `"at ${{ position }}"}`, connector.Snapshot, true},
		"in an expression":           {event + `"${{ goods + position }}"}`, connector.Snapshot, true},
		"in a condition that holds":  {"  when: position != \"\"\n" + event + `"${{ goods }}"}`, connector.Snapshot, true},
		"in a condition that is not": {"  when: position == \"\"\n" + event + `"${{ goods }}"}`, connector.Snapshot, true},
		"in the uuid of a change":    {event + `"${{ goods }}"}`, connector.Insert, true},
	} {
		m := mustDecode(t, head+c.text+"\n").Mapper(testOptions)
		var out connector.Output
		for range 2 { // it says so of each row
			out.Reset()
			m.Map(change(c.op, ordersTable(), ordersRow(), nil), connector.Part{Only: "paid"}, &out)
			if out.Placed != c.placed || len(out.Letters)+len(out.Misfits) > 0 {
				t.Errorf("%s: placed %t, %s", name, out.Placed, show(&out))
			}
		}
	}
}
