package demo

import (
	"strings"
	"testing"
)

// TestJudge: the reconciliation finds what must not be, and lets pass what may be.
func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		change     func(all map[string]*books, got map[string][]string)
		violations int
		problem    string // none where empty
	}{
		"all well":                 {func(map[string]*books, map[string][]string) {}, 0, ""},
		"an event twice":           {func(all map[string]*books, _ map[string][]string) { all[orderPaid].applied["A"]++ }, 0, ""},
		"a lost event":             {func(all map[string]*books, _ map[string][]string) { delete(all[orderPaid].applied, "A") }, 0, "order-paid: 1 records are lost"},
		"one of two adds lost":     {func(all map[string]*books, _ map[string][]string) { all[memberGroups].applied["add 1 g"] = 1 }, 0, "member-groups: 1 records are lost"},
		"a point twice":            {func(all map[string]*books, _ map[string][]string) { all[orderPoints].applied["A 5"]++ }, 0, "given twice"},
		"a point of another value": {func(all map[string]*books, _ map[string][]string) { all[orderPoints].applied = tally{"A 6": 1} }, 0, "nobody committed"},
		"a lost point":             {func(all map[string]*books, _ map[string][]string) { clear(all[orderPoints].applied) }, 0, "order-points: 1 records are lost"},
		"a point set aside": {func(all map[string]*books, _ map[string][]string) {
			clear(all[orderPoints].applied)
			all[orderPoints].letters["A 5"] = 1
		}, 0, ""},
		"a point applied and set aside": {func(all map[string]*books, _ map[string][]string) { all[orderPoints].letters["A 5"] = 1 }, 0, ""},
		"a rolled-back event":           {func(all map[string]*books, _ map[string][]string) { all[orderPaid].applied["B"] = 1 }, 0, "nobody committed"},
		"other groups":                  {func(_ map[string]*books, got map[string][]string) { got["1"] = []string{"h"} }, 0, "groups of 1 customers"},
		"a customer too many":           {func(_ map[string]*books, got map[string][]string) { got["2"] = []string{"g"} }, 0, "groups of 1 customers"},
		"requests at once":              {func(map[string]*books, map[string][]string) {}, 1, "on the way at once"},
	} {
		t.Run(name, func(t *testing.T) {
			all := map[string]*books{
				orderPaid:    {expected: tally{"A": 1}, applied: tally{"A": 1}, letters: tally{}},
				orderPoints:  {expected: tally{"A 5": 1}, applied: tally{"A 5": 1}, letters: tally{}},
				memberGroups: {expected: tally{"add 1 g": 2, "delete 1 g": 1}, applied: tally{"add 1 g": 2, "delete 1 g": 1}, letters: tally{}},
			}
			got, wanted := map[string][]string{"1": {"g", "f"}, "3": {}}, map[string][]string{"1": {"f", "g"}}
			c.change(all, got)
			problems := judge(all, got, wanted, c.violations).problems
			if text := strings.Join(problems, "; "); (text == "") != (c.problem == "") || !strings.Contains(text, c.problem) {
				t.Errorf("problems %q, want %q", text, c.problem)
			}
		})
	}
}
