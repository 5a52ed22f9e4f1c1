package state

// storedPosition is a position as SQL compares it.
type storedPosition struct {
	lsn int64
	idx uint32
}

// run is a stretch of the point table, both ends included, all of whose rows are covered.
type run struct{ from, to storedPosition }

func (r run) args() []any {
	return []any{r.from.lsn, int64(r.from.idx), r.to.lsn, int64(r.to.idx)}
}

// runs joins covered rows that no uncovered row parts, in the order of the table, so that a few deletes take them all, however
// many ranges they lie in. As every row is asked about, a run holds no row that is not covered, in whatever order SQL sees them.
type runs struct {
	list []run
	open bool
}

// add takes the next row of the table.
func (r *runs) add(p storedPosition, covered bool) {
	switch {
	case !covered:
		r.open = false
	case r.open:
		r.list[len(r.list)-1].to = p
	default:
		r.list, r.open = append(r.list, run{p, p}), true
	}
}
