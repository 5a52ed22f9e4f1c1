package platform

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// groupStatus is data of a group relation's answer.
type groupStatus struct {
	Status    json.RawMessage   `json:"status"`
	Failures  json.RawMessage   `json:"importFailNum"`
	ErrorData []json.RawMessage `json:"errorData"`
}

// readGroups reads data.status: 1 imported, 0 in progress, 2 partly, -1 failed.
func readGroups(a connector.Answer, data json.RawMessage, records []*connector.Record) connector.Answer {
	var g groupStatus
	// An error is not the end: where only errorData has another shape, the status is still read.
	_ = json.Unmarshal(data, &g)
	switch text(g.Status) {
	case "1", "0":
	case "2":
		n, err := strconv.Atoi(text(g.Failures))
		missing := err == nil && n > len(g.ErrorData)
		if failed, ok := findFailed(g.ErrorData, records); ok && !missing {
			a.Verdict, a.Failed = connector.Partly, failed
		} else {
			// Some were applied, it is not known which. Sent again in halves, the culprits will stand alone.
			a.Verdict = connector.Rejected
		}
	default:
		a.Verdict, a.NotApplied = connector.Rejected, true
	}
	return a
}

// itemFields are the fields of a group relation item; the first identities of them name the customer.
var itemFields = [...]string{"thirdId", "openid", "unionid", "phone", "identityType", "groups"}

const identities = 4

// item is a group relation item by itemFields; a field that is null, absent or no scalar is empty.
type item [len(itemFields)]string

func parseItem(raw []byte) (it item, ok bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return it, false
	}
	for i, name := range itemFields {
		it[i] = text(fields[name])
	}
	return it, true
}

// said counts the fields that are not empty.
func (it *item) said() (n int) {
	for _, v := range it {
		if v != "" {
			n++
		}
	}
	return n
}

// covers reports whether it agrees with echo in all that echo says.
func (it *item) covers(echo *item) bool {
	for i, v := range echo {
		if v != "" && it[i] != v {
			return false
		}
	}
	return true
}

// findFailed finds the records that the items of errorData stand for. An item may give fields in another order, leave some out, say null,
// or add its own; each stands for one record. ok is false where errorData is empty, an item fits no record that is left, or one fits several
// different ones.
func findFailed(errorData []json.RawMessage, records []*connector.Record) (failed []int, ok bool) {
	counts := map[item]int{}
	for _, raw := range errorData {
		echo, ok := parseItem(raw)
		if !ok || echo == (item{}) || !slices.ContainsFunc(echo[:identities], func(v string) bool { return v != "" }) {
			return nil, false
		}
		counts[echo]++
	}
	sent := make([]item, len(records))
	for i, r := range records {
		sent[i], _ = parseItem(r.Payload)
	}
	echoes := make([]item, 0, len(counts))
	for echo := range counts {
		echoes = append(echoes, echo)
	}
	// Those that say more choose first: what they leave is for the vaguer ones.
	slices.SortFunc(echoes, func(x, y item) int {
		return cmp.Or(y.said()-x.said(), slices.Compare(x[:], y[:]))
	})
	marked := make([]bool, len(sent))
	for _, echo := range echoes {
		n := counts[echo]
		var fits []int
		alike := true
		for i := range sent {
			if !marked[i] && sent[i].covers(&echo) {
				fits = append(fits, i)
				alike = alike && sent[i] == sent[fits[0]]
			}
		}
		if n > len(fits) || n < len(fits) && !alike {
			return nil, false
		}
		for _, i := range fits[:n] {
			marked[i] = true
		}
	}
	for i, m := range marked {
		if m {
			failed = append(failed, i)
		}
	}
	return failed, len(failed) > 0
}
