package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// The mappings of demo.yaml.
const (
	orderPaid    = "order-paid"
	orderPoints  = "order-points"
	memberGroups = "member-groups"
)

// tally counts records by what names them: the order of an event or a point; operation, customer and group of a group relation.
type tally map[string]int

// books are what one mapping should have brought to the platform, and what it did.
type books struct {
	mapping                    string
	changes                    int64
	expected, applied, letters tally
	uncertain                  int
}

// line is a row of the table that is printed.
type line struct {
	Mapping                                                          string
	Changes                                                          int64
	Expected, Applied, Duplicates, DeadLetters, Uncertain, Lost, Odd int
}

// line compares the books record by record.
func (b *books) line() line {
	l := line{Mapping: b.mapping, Changes: b.changes, Uncertain: b.uncertain}
	for key, n := range b.expected {
		l.Expected += n
		l.Lost += max(0, n-b.applied[key]-b.letters[key])
	}
	for key, n := range b.applied {
		l.Applied += n
		l.Duplicates += max(0, n-b.expected[key])
		if b.expected[key] == 0 {
			l.Odd += n
		}
	}
	for _, n := range b.letters {
		l.DeadLetters += n
	}
	return l
}

// letter is what the demo reads of a dead letter.
type letter struct {
	Class, Mapping string
	Payload        json.RawMessage
}

// outcome is the whole comparison.
type outcome struct {
	lines []line
	// problems are what must not be, in plain words; empty: all is well.
	problems []string
}

// reconcile compares what SQL says was committed with what the platform applied and what was set aside.
func reconcile(ctx context.Context, conn *pgx.Conn, sim *platformsim.Sim, letters []letter) (*outcome, error) {
	all := map[string]*books{}
	for _, name := range []string{orderPaid, orderPoints, memberGroups} {
		all[name] = &books{mapping: name, expected: tally{}, applied: tally{}, letters: tally{}}
	}
	if err := expect(ctx, conn, all); err != nil {
		return nil, err
	}
	for _, a := range sim.Ledger() {
		name, key, err := nameOf(a)
		if err != nil {
			return nil, err
		}
		all[name].applied[key]++
	}
	for _, l := range letters {
		b := all[l.Mapping]
		if b == nil {
			return nil, fmt.Errorf("a dead letter of an unknown mapping %q", l.Mapping)
		}
		key, err := letterKey(l)
		if err != nil {
			return nil, err
		}
		b.letters[key]++
		if l.Class == "uncertain" {
			b.uncertain++
		}
	}
	groups := map[string][]string{}
	rows, err := conn.Query(ctx, `SELECT phone, array_agg(group_name) FROM crm.member_groups GROUP BY 1`)
	if err != nil {
		return nil, err
	}
	var phone string
	var names []string
	if _, err := pgx.ForEachRow(rows, []any{&phone, &names}, func() error { groups[phone] = slices.Clone(names); return nil }); err != nil {
		return nil, err
	}
	return judge(all, sim.Groups(), groups, len(sim.Violations())), nil
}

// judge makes the table and names what must not be.
func judge(all map[string]*books, got, wanted map[string][]string, violations int) *outcome {
	o := &outcome{}
	for _, name := range []string{orderPaid, orderPoints, memberGroups} {
		l := all[name].line()
		o.lines = append(o.lines, l)
		if l.Lost > 0 {
			o.problems = append(o.problems, fmt.Sprintf("%s: %d records are lost", name, l.Lost))
		}
		if l.Odd > 0 {
			o.problems = append(o.problems, fmt.Sprintf("%s: %d records were sent that nobody committed", name, l.Odd))
		}
		if name == orderPoints && l.Duplicates > 0 {
			o.problems = append(o.problems, fmt.Sprintf("%s: %d points were given twice", name, l.Duplicates))
		}
	}
	if len(all[memberGroups].letters) == 0 {
		if n := differing(got, wanted); n > 0 {
			o.problems = append(o.problems, fmt.Sprintf("the groups of %d customers on the platform are not those of the database", n))
		}
	}
	if violations > 0 {
		o.problems = append(o.problems, fmt.Sprintf("%d times two requests of one customer were on the way at once", violations))
	}
	return o
}

// differing counts the customers whose groups differ.
func differing(got, wanted map[string][]string) (n int) {
	customers := maps.Clone(got)
	maps.Copy(customers, wanted)
	for who := range customers {
		a, b := slices.Clone(got[who]), slices.Clone(wanted[who])
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			n++
		}
	}
	return n
}

// expect fills in what SQL says of the audit.
func expect(ctx context.Context, conn *pgx.Conn, all map[string]*books) error {
	for table, names := range map[string][]string{"orders": {orderPaid, orderPoints}, "member_groups": {memberGroups}} {
		var n int64
		if err := conn.QueryRow(ctx, `SELECT count(*) FROM demo.audit WHERE tab = $1`, table).Scan(&n); err != nil {
			return err
		}
		for _, name := range names {
			all[name].changes = n
		}
	}
	const paid = `SELECT new->>'order_no', floor((new->>'amount')::numeric)::bigint FROM demo.audit
		WHERE tab = 'orders' AND new->>'status' = '已付款' AND (old->>'status') IS DISTINCT FROM '已付款'`
	rows, err := conn.Query(ctx, paid)
	if err != nil {
		return err
	}
	var order string
	var points int64
	if _, err := pgx.ForEachRow(rows, []any{&order, &points}, func() error {
		all[orderPaid].expected[order]++
		all[orderPoints].expected[pointKey("订单 "+order+" 积分", points)]++
		return nil
	}); err != nil {
		return err
	}
	const groups = `SELECT 'add', new->>'phone', new->>'group_name' FROM demo.audit WHERE tab = 'member_groups' AND op = 'INSERT'
		UNION ALL SELECT 'delete', old->>'phone', old->>'group_name' FROM demo.audit WHERE tab = 'member_groups' AND op = 'DELETE'
		UNION ALL SELECT 'add', new->>'phone', new->>'group_name' FROM demo.audit WHERE tab = 'member_groups' AND op = 'UPDATE' AND new IS DISTINCT FROM old
		UNION ALL SELECT 'delete', old->>'phone', old->>'group_name' FROM demo.audit WHERE tab = 'member_groups' AND op = 'UPDATE' AND new IS DISTINCT FROM old`
	if rows, err = conn.Query(ctx, groups); err != nil {
		return err
	}
	var op, phone, group string
	_, err = pgx.ForEachRow(rows, []any{&op, &phone, &group}, func() error {
		all[memberGroups].expected[groupKey(op, phone, group)]++
		return nil
	})
	return err
}

func pointKey(remark string, points int64) string { return fmt.Sprintf("%s %d", remark, points) }

func groupKey(op, phone, group string) string { return op + " " + phone + " " + group }

// nameOf says which mapping an applied record is of, and what names it.
func nameOf(a platformsim.Applied) (mapping, key string, err error) {
	switch a.Endpoint {
	case platformsim.Event:
		var args struct {
			Order string `json:"c_order"`
		}
		err := json.Unmarshal(a.EventArgs, &args)
		return orderPaid, args.Order, err
	case platformsim.Point:
		return orderPoints, pointKey(a.Remark, a.Point), nil
	case platformsim.GroupRelation:
		return memberGroups, groupKey(a.OptType, a.Customer, strings.Join(a.Groups, ",")), nil
	}
	return "", "", fmt.Errorf("the platform applied something at %s", a.Endpoint)
}

// letterKey names the record of a dead letter as nameOf does. A letter of a group relation has no operation in its payload: the demo makes none.
func letterKey(l letter) (string, error) {
	var p struct {
		Eventargs struct {
			Order string `json:"c_order"`
		}
		Remark        string
		Point         int64
		Phone, Groups string
	}
	if err := json.Unmarshal(l.Payload, &p); err != nil {
		return "", fmt.Errorf("the payload of a dead letter: %w", err)
	}
	switch l.Mapping {
	case orderPaid:
		return p.Eventargs.Order, nil
	case orderPoints:
		return pointKey(p.Remark, p.Point), nil
	}
	return groupKey("?", p.Phone, p.Groups), nil
}

func (o *outcome) sum() (s line) {
	for _, l := range o.lines {
		s.Expected += l.Expected
		s.Applied += l.Applied
		s.Duplicates += l.Duplicates
		s.DeadLetters += l.DeadLetters
		s.Uncertain += l.Uncertain
		s.Lost += l.Lost
	}
	return s
}

func (o *outcome) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "mapping\tchanges committed\trecords expected\tapplied\tduplicates\tdead letters\tlost\t")
	for _, l := range o.lines {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", l.Mapping, l.Changes, l.Expected, l.Applied, l.Duplicates, l.DeadLetters, l.Lost)
	}
	return t.Flush()
}
