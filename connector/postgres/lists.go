package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// listsVersion is the oldest server whose publications can have column lists.
const listsVersion = 150000

// listed says of uses that only the columns that are read are to be published.
func listed(uses []Use, on bool) []Use {
	if !on {
		return uses
	}
	uses = slices.Clone(uses)
	for i := range uses {
		uses[i].list = true
	}
	return uses
}

// planLists reads what the plan needs for column lists, and notes on each table under which lists it is published now, for the cures.
func (p *plan) planLists(ctx context.Context, conn *pgx.Conn) error {
	for _, pub := range []*Publication{p.main, p.ins} {
		if pub == nil {
			continue
		}
		for _, r := range p.rels {
			if m, ok := pub.covers(r); ok && m.Columns != nil {
				r.lists = append(r.lists, listEntry{pub.Name, m.TableName})
			}
		}
	}
	if !slices.ContainsFunc(p.wanted, func(u Use) bool { return u.list }) {
		return nil
	}
	if p.version < listsVersion {
		p.refuse("source.columnLists", "column lists need PostgreSQL 15 or newer, and this server has not got them: take columnLists out of the file, then all columns of the mapped tables are published", "")
		p.wanted, p.uses = listed(p.wanted, false), listed(p.uses, false)
		return nil
	}
	rels := make([]*relation, 0, len(p.rels))
	for _, r := range p.rels {
		rels = append(rels, r)
	}
	var err error
	p.columns, err = loadColumns(ctx, conn, rels)
	return err
}

// list gives the column list that a table is to be published with: the columns that the mappings read and those of the replica identity, as far
// as the table has them, in its order. nil: no list. REPLICA IDENTITY FULL forbids one: the application's UPDATE and DELETE would fail.
func (p *plan) list(u Use) []string {
	r := p.rels[u.Table]
	if !u.list || u.Columns == nil || p.columns == nil {
		return nil
	}
	want := slices.Concat(u.Columns, r.identity.keys)
	for _, l := range append(r.holders(), leaf{r.name, r.identity}) {
		if l.identity.letter == connector.IdentityFull {
			return nil
		}
		want = append(want, l.identity.keys...)
	}
	var list []string
	for _, c := range p.columns[r.oid] {
		if c.generated == "" && slices.Contains(want, c.Name) {
			list = append(list, c.Name)
		}
	}
	return list
}

// members writes tables for CREATE or ALTER PUBLICATION, with their lists.
func (p *plan) members(uses []Use) string {
	parts := make([]string, len(uses))
	for i, u := range uses {
		parts[i] = sqlList([]TableName{u.Table})
		if list := p.list(u); list != nil {
			quoted := make([]string, len(list))
			for j, c := range list {
				quoted[j] = quoteIdent(c)
			}
			parts[i] += " (" + strings.Join(quoted, ", ") + ")"
		}
	}
	return strings.Join(parts, ", ")
}

// listsDiffer reports whether a table that pub names has another column list than it is to have.
func (p *plan) listsDiffer(pub *Publication, uses []Use) bool {
	return slices.ContainsFunc(uses, func(u Use) bool {
		return slices.ContainsFunc(pub.Tables, func(m Member) bool { return m.TableName == u.Table && !slices.Equal(m.Columns, p.list(u)) })
	})
}

// setTables makes the step that gives pub its whole set of tables at once: a list can't be changed in place, and so no change falls between the
// going and the coming of a table.
func (p *plan) setTables(pub *Publication, uses, add []Use, gone []TableName) {
	var set []Use
	for _, u := range uses {
		if pub.names(u.Table) || slices.ContainsFunc(add, func(a Use) bool { return a.Table == u.Table }) {
			set = append(set, u)
			p.must = p.must || !u.known
		}
	}
	what := "set the tables and column lists of publication " + pub.Name + ": " + p.members(set)
	if len(gone) > 0 {
		what += "; took out " + joinNames(gone, TableName.String)
	}
	p.step("ALTER PUBLICATION "+quoteIdent(pub.Name)+" SET TABLE "+p.members(set)+";", what, tablesOf(set)...)
	if !pub.own {
		p.block("publication " + pub.Name + " belongs to " + pub.Owner)
	}
	p.ownTables(set)
}

// fullFindings tells of the tables whose columns are all published in spite of source.columnLists.
func (p *plan) fullFindings() []Finding {
	var f []Finding
	for _, u := range p.uses {
		r := p.rels[u.Table]
		if u.list && p.list(u) == nil && u.Columns != nil {
			f = append(f, Finding{SeverityWarning, "table " + r.name.String(), "source.columnLists is true, but REPLICA IDENTITY FULL forbids a column list: all of its columns are published, those that no mapping reads too", ""})
		}
	}
	return f
}

// listEntry is a column list under which a table is published.
type listEntry struct {
	publication string
	member      TableName // the table, or the root that it is a partition of
}

// withoutLists writes statements that change a table's replica identity as they must run: where the table is published with a column list, in one
// transaction that takes the list away first, or else the application's UPDATE and DELETE fail until somebody does.
func (r *relation) withoutLists(statements []string) string {
	if len(r.lists) == 0 || len(statements) == 0 {
		return strings.Join(statements, "\n")
	}
	lines := []string{"BEGIN;"}
	for _, l := range r.lists {
		lines = append(lines, takeListAway(l.publication, l.member)...)
	}
	return strings.Join(append(append(lines, statements...), "COMMIT;"), "\n")
}

// takeListAway gives the statements, for one transaction, after which a publication has the table with all of its columns.
func takeListAway(publication string, table TableName) []string {
	return []string{"ALTER PUBLICATION " + quoteIdent(publication) + " DROP TABLE " + sqlList([]TableName{table}) + ";",
		"ALTER PUBLICATION " + quoteIdent(publication) + " ADD TABLE " + sqlList([]TableName{table}) + ";"}
}

// fullSQL gives the SQL after which old rows of the table carry all columns, those of its partitions too.
func (r *relation) fullSQL() string {
	var lines []string
	for _, l := range append([]leaf{{r.name, r.identity}}, r.leaves...) {
		if l.identity.letter != connector.IdentityFull {
			lines = append(lines, "ALTER TABLE "+l.name.SQL()+" REPLICA IDENTITY FULL;")
		}
	}
	return r.withoutLists(lines)
}
