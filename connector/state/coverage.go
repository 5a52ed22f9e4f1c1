package state

import (
	"slices"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// coverage gives cp.Covers for many questions: it finds the range by halving, where there may be ten thousand. A nil cp covers nothing.
func coverage(cp *connector.Checkpoint) func(connector.Position) bool {
	if cp == nil {
		return func(connector.Position) bool { return false }
	}
	return func(p connector.Position) bool {
		if p.Compare(cp.Settled) <= 0 {
			return true
		}
		i, found := slices.BinarySearchFunc(cp.Ranges, p, func(r connector.Range, p connector.Position) int { return r.To.Compare(p) })
		return found || i < len(cp.Ranges) && p.Compare(cp.Ranges[i].From) >= 0
	}
}

// storedPosition is a position as SQL compares it.
type storedPosition struct {
	lsn int64
	idx uint32
}

// run is a stretch of the point table, both ends included, all of whose rows are covered.
type run struct{ from, to storedPosition }

// runs joins covered rows that no uncovered row parts, in the order of the table, so that a few deletes take them all, however
// many ranges they lie in. As every row is asked about, a run holds no row that is not covered, in whatever order SQL sees them.
type runs struct {
	covered func(connector.Position) bool
	list    []run
	open    bool
}

// add takes the next row of the table.
func (r *runs) add(p storedPosition) {
	switch covered := r.covered(connector.Position{Commit: unsigned(p.lsn), Index: p.idx}); {
	case !covered:
		r.open = false
	case r.open:
		r.list[len(r.list)-1].to = p
	default:
		r.list, r.open = append(r.list, run{p, p}), true
	}
}
