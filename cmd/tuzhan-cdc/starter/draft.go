package starter

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Draft is a first configuration.
type Draft struct {
	// Live counts the mappings that work with the tables as they are, Waiting those that stand as comments: for want of old rows, or of a decision.
	Live, Waiting int
	// Tables counts the tables that have mappings.
	Tables int
	// Events are the eventKeys of the mappings, which must be defined on the platform; first those of live ones.
	Events []string
	// Identities is the SQL that the waiting mappings need, a table each.
	Identities []string
	// Unmapped are the tables that have no mapping, with the reason.
	Unmapped []Unmapped

	survey   *postgres.Survey
	sections []*section
}

// Unmapped is a reason, and the tables that it keeps from having a mapping.
type Unmapped struct {
	Why    string
	Tables []postgres.TableName
}

// section is a table with its mappings.
type section struct {
	*table
	rank          int
	live, waiting []*item
}

// item is a mapping as it stands in the file.
type item struct {
	proposal
	name  string
	lines []string // of YAML, not indented
}

// mostTables bounds the file: it is a start, not a register.
const mostTables = 25

// The ranks of tables: what a CRM is mapped for first.
const (
	rankLedger = iota
	rankOrder
	rankMember
	rankGroups
	rankOther
)

// New drafts a configuration of what the survey found.
func New(s *postgres.Survey) *Draft {
	d := &Draft{survey: s}
	tables := tablesOf(s)
	ledger := ledgerOf(tables)
	for _, t := range tables {
		switch why := t.unfit(); {
		case why != "":
			d.leave(t, why)
		case !t.identified():
			d.leave(t, t.nameless(tables))
		}
	}
	for _, t := range candidates(tables) {
		if len(d.sections) == mostTables {
			d.leave(t, fmt.Sprintf("it names customers by a column of its own, and comes after the first %d tables: tuzhan-cdc init --table SCHEMA.NAME writes a file for it", mostTables))
			continue
		}
		rank, proposals := t.propose(ledger)
		sec := &section{table: t, rank: rank}
		d.check(sec, proposals)
		if len(sec.live)+len(sec.waiting) == 0 {
			d.leave(t, "no mapping of it passes check; write one by hand")
			continue
		}
		d.sections = append(d.sections, sec)
	}
	slices.SortStableFunc(d.sections, func(a, b *section) int {
		return cmp.Or(strings.Compare(a.Schema, b.Schema), strings.Compare(a.Surveyed.Name, b.Surveyed.Name))
	})
	for _, skipped := range s.Skipped {
		d.leaveName(skipped.Table, skipped.Why)
	}
	d.name()
	d.count()
	return d
}

func tablesOf(s *postgres.Survey) []*table {
	tables := make([]*table, len(s.Tables))
	for i, t := range s.Tables {
		tables[i] = newTable(t)
	}
	return tables
}

// candidates gives the tables of which mappings may be made, those first that a CRM is mapped for first, and of those the larger ones.
func candidates(tables []*table) []*table {
	ranks := map[*table]int{}
	var list []*table
	for _, t := range tables {
		if t.unfit() == "" && t.identified() {
			ranks[t], _ = t.propose("")
			list = append(list, t)
		}
	}
	slices.SortStableFunc(list, func(a, b *table) int { return cmp.Or(ranks[a]-ranks[b], cmp.Compare(b.Rows, a.Rows)) })
	return list
}

// Codes says of which columns the values of some rows help to write a mapping, of the tables that a draft would be made of: see postgres.LoadCodes.
func Codes(s *postgres.Survey) func(t *postgres.Surveyed, column int) bool {
	picked := map[*postgres.Surveyed]*table{}
	for i, t := range candidates(tablesOf(s)) {
		if i < mostTables {
			picked[t.Surveyed] = t
		}
	}
	return func(s *postgres.Surveyed, i int) bool { return picked[s] != nil && picked[s].columns[i].mayBeCode(s) }
}

// ledgerOf names the table that holds all changes in points; "" where there is none that can be mapped.
func ledgerOf(tables []*table) string {
	for _, t := range tables {
		if t.identified() && t.unfit() == "" && t.isLedger() {
			return t.Surveyed.String()
		}
	}
	return ""
}

func (t *table) isLedger() bool {
	return t.points != nil && t.name.said(pointWords) && (t.name.said(ledgerTables) || t.points.name.said(changeWords)) ||
		t.points != nil && t.points.name.said(changeWords) && t.points.name.said(pointWords)
}

// dated matches the names of copies: orders_2023, orders_20240501.
var dated = regexp.MustCompile(`_(20)?[0-9]{2}([0-9]{2}){0,2}$`)

// unfit says why a table is passed over whatever its columns are; "" where it is not.
func (t *table) unfit() string {
	switch {
	case len(t.Columns) == 0:
		return "it has no columns that the stream sends"
	case t.name.called(copyTables) || dated.MatchString(t.Name):
		return "by its name it is a copy or a backup"
	case t.isLedger():
		return ""
	case t.name.called(junkTables):
		return "by its name it is a log, or the application's own (settings, codes, jobs)"
	case t.name.endsWith(strangerTable) || t.name.called(words("sys admin")):
		return "by its name it is about staff, shops or suppliers, not customers"
	}
	return ""
}

// nameless says why a table without a customer's identity has no mapping, and where its customer is.
func (t *table) nameless(tables []*table) string {
	for _, r := range t.References {
		for _, other := range tables {
			if (postgres.TableName{Schema: other.Schema, Name: other.Name}) == r.Table && other != t && other.identified() && other.unfit() == "" {
				return fmt.Sprintf("no customer in the row: %s leads to %s, which has %s", strings.Join(r.Columns, ", "), r.Table, other.identities())
			}
		}
	}
	for _, o := range t.Omitted {
		if n := newName(o.Column, ""); n.called(phoneWords) || strings.Contains(n.joined(), "openid") || strings.Contains(n.joined(), "unionid") {
			return "its " + o.Column + " does not come with the stream: " + o.Why
		}
	}
	switch {
	case t.customerID != nil:
		return "no customer in the row but an id: " + t.customerID.Name()
	case t.email != nil:
		return "it names customers by email only, which is no identity to the platform"
	}
	return "no column that names a customer (phone, openid, unionid)"
}

// propose says what kind of table it is, and which mappings may be made of it.
func (t *table) propose(ledger string) (rank int, list []proposal) {
	switch {
	case t.isLedger():
		return rankLedger, t.ledger()
	case len(t.groups) > 0 && (t.name.said(groupWords) || len(t.columns) <= 4 && !t.name.endsWith(memberTables)) && t.amount == nil:
		return rankGroups, t.membership(t.groups[0], "groups")
	case t.points != nil && t.name.said(pointWords):
		return rankMember, []proposal{t.counter(ledger)}
	case t.name.said(undoneTables):
		return rankOther, t.others()
	case t.name.endsWith(orderTables), t.amount != nil && !t.name.endsWith(memberTables):
		return rankOrder, t.orders(ledger)
	case t.name.endsWith(memberTables), newName(t.Comment, "").endsWith(memberTables):
		return rankMember, t.members(ledger)
	}
	return rankOther, t.others()
}

func (d *Draft) leave(t *table, why string) {
	d.leaveName(postgres.TableName{Schema: t.Schema, Name: t.Surveyed.Name}, why)
}

func (d *Draft) leaveName(n postgres.TableName, why string) {
	i := slices.IndexFunc(d.Unmapped, func(u Unmapped) bool { return u.Why == why })
	if i < 0 {
		i = len(d.Unmapped)
		d.Unmapped = append(d.Unmapped, Unmapped{Why: why})
	}
	d.Unmapped[i].Tables = append(d.Unmapped[i].Tables, n)
}

// check sorts the proposals into those that the table as it is can give, and those that need its old rows; one that passes neither check is none.
func (d *Draft) check(sec *section, proposals []proposal) {
	full := *sec.Table
	full.Identity, full.Columns = connector.IdentityFull, slices.Clone(full.Columns)
	for i := range full.Columns {
		full.Columns[i].Key = true
	}
	done := map[*column]bool{} // the columns whose groups a live mapping does whole
	for _, p := range proposals {
		it := &item{proposal: p, name: "m"}
		it.write(sec.table)
		switch {
		case p.whole:
			if passes(it.lines, sec.Table) {
				sec.live, done[p.of] = append(sec.live, it), true
			}
		case p.part && done[p.of]:
		case !passes(it.lines, &full):
		case p.decide == "" && passes(it.lines, sec.Table):
			sec.live = append(sec.live, it)
		default:
			sec.waiting = append(sec.waiting, it)
		}
	}
}

// passes reports whether a mapping fits a table, without errors and warnings.
func passes(lines []string, t *connector.Table) bool {
	var set mapping.Set
	var ps strict.Problems
	text := "- " + strings.Join(lines, "\n  ") + "\n"
	list := strict.Parse("starter", []byte(text), nil, &ps)
	set.Decode(list, &ps)
	if ps.Len() > 0 || set.Len() != 1 {
		return false
	}
	f := set.Check([]*connector.Table{t})
	return f.Err() == nil && f.Warnings.Len() == 0
}

// needsFull reports whether a waiting mapping needs old rows that do not come yet.
func (s *section) needsFull(it *item) bool { return !passes(it.lines, s.Table) }

var notInName = regexp.MustCompile(`[^\p{L}\p{N}._-]+`)

// name names the mappings after their tables: with the schema where a name comes twice.
func (d *Draft) name() {
	times := map[string]int{}
	for _, sec := range d.sections {
		times[sec.Surveyed.Name]++
	}
	taken := map[string]bool{}
	for _, sec := range d.sections {
		base := sec.Surveyed.Name
		if times[base] > 1 {
			base = sec.Schema + "." + base
		}
		base = strings.Trim(notInName.ReplaceAllString(base, "-"), "._-")
		if base == "" {
			base = "table"
		}
		if runes := []rune(base); len(runes) > 70 {
			base = string(runes[:70])
		}
		for _, it := range append(slices.Clone(sec.live), sec.waiting...) {
			it.name = base + "-" + it.suffix
			switch sec.rank { // the table's name says it already
			case rankGroups:
				it.name = strings.Replace(it.name, "-groups", "", 1)
			case rankLedger:
				it.name = strings.TrimSuffix(it.name, "-points")
			}
			for n, first := 2, it.name; taken[it.name]; n++ {
				it.name = fmt.Sprintf("%s-%d", first, n)
			}
			taken[it.name] = true
			it.write(sec.table)
		}
	}
}

func (d *Draft) count() {
	for _, which := range []func(*section) []*item{func(s *section) []*item { return s.live }, func(s *section) []*item { return s.waiting }} {
		for _, sec := range d.sections {
			for _, it := range which(sec) {
				if it.event != "" && !slices.Contains(d.Events, it.event) {
					d.Events = append(d.Events, it.event)
				}
			}
		}
	}
	for _, sec := range d.sections {
		d.Live, d.Waiting, d.Tables = d.Live+len(sec.live), d.Waiting+len(sec.waiting), d.Tables+1
		if slices.ContainsFunc(sec.waiting, sec.needsFull) {
			d.Identities = append(d.Identities, sec.FullIdentity)
		}
	}
}
