package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// tableKinds says what a relation is that can't be published.
var tableKinds = map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index",
	"I": "an index", "c": "a composite type", "t": "a TOAST table"}

// partitionsVersion is the oldest server that is relied upon to notice partitions that come and go while it streams.
const partitionsVersion = 140000

// tableFindings looks at each wanted table by itself: is it there, can it be published, does it keep of old rows what is wanted.
func (p *plan) tableFindings() []Finding {
	var f []Finding
	for _, u := range p.wanted {
		r := p.rels[u.Table]
		if r == nil {
			f = append(f, p.missingTable(u.Table))
			continue
		}
		f = append(f, r.findings(u)...)
		if r.kind == "p" && p.version > 0 && p.version < partitionsVersion {
			f = append(f, Finding{SeverityWarning, "server", "table " + u.Table.String() + " is partitioned, and PostgreSQL 13 does not always notice while it streams that a partition was attached or detached: its rows may then be missing, or come although it is gone, and such partitions with columns in another order have been seen to come garbled. Stop the connector while you attach or detach, or use a newer server", ""})
		}
	}
	return append(f, p.overlaps()...)
}

// strangersFindings are tableFindings of the tables that were not published before: what is wrong with one that was stops nothing else.
func (p *plan) strangersFindings() []Finding {
	strangers := *p
	strangers.wanted = slices.DeleteFunc(slices.Clone(p.wanted), func(u Use) bool { return u.known })
	return strangers.tableFindings()
}

// fit gives what of a use can be published now: of a known table that has lost its replica identity the inserts, so that the application's
// UPDATE and DELETE of it don't fail. ok is false where nothing can.
func (p *plan) fit(u Use) (fit Use, ok bool) {
	r := p.rels[u.Table]
	switch {
	case !u.any() || r == nil:
		return u, false
	case p.publishable(u):
		return u, true
	case !u.known:
		return u, false
	}
	bare := u
	bare.Update, bare.Delete = false, false
	if slices.ContainsFunc(r.findings(bare), func(f Finding) bool { return f.Severity == SeverityError }) {
		return u, false
	}
	if len(r.unidentified()) == 0 { // its partitions keep less than it says: the stream allows for that
		return u, true
	}
	return bare, bare.any()
}

// publishable reports whether the table's own findings leave it fit to be published.
func (p *plan) publishable(u Use) bool {
	r := p.rels[u.Table]
	return r != nil && !slices.ContainsFunc(r.findings(u), func(f Finding) bool { return f.Severity == SeverityError })
}

func (p *plan) missingTable(t TableName) Finding {
	text := "it does not exist in database " + p.database
	if near := nearest(t, p.candidates); near != (TableName{}) {
		text += "; did you mean " + near.String() + "?"
	}
	cure := "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = " + literal(t.Schema) + "; -- then mend table: in the mapping"
	if !slices.ContainsFunc(p.candidates, func(c TableName) bool { return c.Schema == t.Schema }) {
		cure = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema'); -- then mend table: in the mapping"
	}
	return Finding{SeverityError, "table " + t.String(), text, cure}
}

// overlaps refuses a mapped partition beside its mapped root: everything comes under the root's name.
func (p *plan) overlaps() []Finding {
	var f []Finding
	for _, u := range p.wanted {
		r := p.rels[u.Table]
		if r == nil {
			continue
		}
		for _, other := range p.rels {
			if other.kind == "p" && slices.Contains(r.ancestors, other.oid) {
				f = append(f, Finding{SeverityError, "table " + u.Table.String(), fmt.Sprintf("it is a partition of %s, which is mapped too: its changes come under that name only. Map %s, with a condition if need be",
					other.name, other.name), ""})
			}
		}
	}
	return f
}

// findings looks at one table.
func (r *relation) findings(u Use) []Finding {
	subject := "table " + r.name.String()
	fail := func(text, cure string) []Finding { return []Finding{{SeverityError, subject, text, cure}} }
	switch {
	case r.system:
		return fail("it belongs to the system: PostgreSQL does not stream its changes", "")
	case r.kind != "r" && r.kind != "p":
		what := tableKinds[r.kind]
		if what == "" {
			what = "not a table"
		}
		return fail("it is "+what+": only tables have changes to stream. Map the tables below it", "")
	case r.persistence == "t":
		return fail("it is a temporary table, whose changes PostgreSQL does not stream", "")
	case r.persistence == "u":
		return fail("it is unlogged: PostgreSQL writes no WAL of its changes", "ALTER TABLE "+r.name.SQL()+" SET LOGGED;")
	}
	var f []Finding
	if u.rewrites() {
		f = append(f, r.identityFindings(subject, u)...)
	}
	if len(r.children) > 0 {
		f = append(f, Finding{SeverityWarning, subject, fmt.Sprintf("%s inherit from it: their rows come under their own names, and no mapping of this table sees them",
			joinNames(r.children, TableName.String)), ""})
	}
	if !r.mayUse || !r.mayRead {
		cure := ""
		if !r.mayUse {
			cure = "GRANT USAGE ON SCHEMA " + quoteIdent(r.name.Schema) + " TO " + r.role + ";\n"
		}
		f = append(f, Finding{SeverityWarning, subject, "this role may not read it: the stream needs no such right, but preview and backfill do",
			cure + "GRANT SELECT ON TABLE " + r.name.SQL() + " TO " + r.role + ";"})
	}
	if r.rowSecurity {
		f = append(f, Finding{SeverityWarning, subject, "row level security hides rows from this role: the stream has all of them, but preview and backfill don't",
			"ALTER ROLE " + r.role + " BYPASSRLS;"})
	}
	return f
}

// unidentified gives what of the table, or of its partitions, has no replica identity: to publish updates of it makes them fail.
func (r *relation) unidentified() []leaf {
	var without []leaf
	for _, l := range r.holders() {
		if !l.identity.usable() {
			without = append(without, l)
		}
	}
	return without
}

// loadRefused finds which statements fail already: those that any publication, of whomever, publishes of a table without replica identity.
func (r *relation) loadRefused(ctx context.Context, conn *pgx.Conn) error {
	if (r.kind != "r" && r.kind != "p") || len(r.unidentified()) == 0 {
		return nil
	}
	var updates, deletes bool
	if err := conn.QueryRow(ctx, `
SELECT coalesce(bool_or(p.pubupdate), false), coalesce(bool_or(p.pubdelete), false)
  FROM pg_publication p CROSS JOIN LATERAL pg_get_publication_tables(p.pubname::text) t
 WHERE t.relid = $1 OR t.relid = ANY ($2) OR t.relid IN (SELECT relid FROM pg_partition_tree($1))`, r.oid, r.ancestors).Scan(&updates, &deletes); err != nil {
		return fmt.Errorf("looking for publications of table %s: %w", r.name, err)
	}
	if updates {
		r.refused = append(r.refused, "UPDATE")
	}
	if deletes {
		r.refused = append(r.refused, "DELETE")
	}
	return nil
}

// holders gives what holds the table's rows: the table itself, or its partitions.
func (r *relation) holders() []leaf {
	if r.kind == "p" && len(r.leaves) > 0 {
		return r.leaves
	}
	return []leaf{{r.name, r.identity}}
}

// weaker gives the partitions that keep less of an old row than the root's Relation message promises. Read against that promise, a column
// that was not sent would pass for one that did not change.
func (r *relation) weaker() []leaf {
	var weak []leaf
	for _, l := range r.leaves {
		if l.identity.letter == connector.IdentityFull {
			continue
		}
		missing := r.identity.letter == connector.IdentityFull || slices.ContainsFunc(r.identity.keys,
			func(k string) bool { return !slices.Contains(l.identity.keys, k) })
		if missing {
			weak = append(weak, l)
		}
	}
	return weak
}

func (r *relation) identityFindings(subject string, u Use) []Finding {
	if without := r.unidentified(); len(without) > 0 {
		why := "it has no replica identity"
		if len(r.leaves) > 0 {
			why = "its partitions " + joinNames(without, func(l leaf) string { return l.name.String() }) + " have no replica identity"
			if len(without) == 1 {
				why = "its partition " + without[0].name.String() + " has no replica identity"
			}
		}
		switch i := without[0].identity; {
		case i.letter == connector.IdentityNothing:
			why += " (REPLICA IDENTITY NOTHING)"
		case i.letter == connector.IdentityIndex:
			why += " (its index is gone)"
		default:
			why += " (no primary key)"
		}
		switch len(r.refused) {
		case 0:
			why += ": updates or deletes of it are mapped, and publishing them would make the application's own UPDATE and DELETE fail"
		case 1:
			why += ", and a publication publishes it: the application's " + r.refused[0] + " of it fails now"
		default:
			why += ", and a publication publishes it: the application's UPDATE and DELETE of it fail now"
		}
		return []Finding{{SeverityError, subject, why, r.identityCure(u)}}
	}
	if weak := r.weaker(); len(weak) > 0 {
		var cure []string
		for _, l := range weak {
			cure = append(cure, "ALTER TABLE "+l.name.SQL()+" REPLICA IDENTITY FULL;")
		}
		return []Finding{{SeverityError, subject, "its partitions " + joinNames(weak, func(l leaf) string { return l.name.String() }) +
			" keep less of an old row than the table's own replica identity says; each partition has its own setting, new ones too",
			r.withoutLists(cure)}}
	}
	return nil
}

// identityCure gives the SQL that lets updates of the table be published, with the old columns that the mappings read.
func (r *relation) identityCure(u Use) string {
	var lines []string
	for _, l := range r.unidentified() {
		key := l.identity.primaryKey
		beyond := slices.ContainsFunc(u.Old, func(c string) bool { return !slices.Contains(key, c) })
		switch alter := "ALTER TABLE " + l.name.SQL() + " REPLICA IDENTITY "; {
		case beyond:
			lines = append(lines, alter+"FULL;")
		case len(key) == 0:
			lines = append(lines, alter+"FULL; -- or give it a primary key: ADD PRIMARY KEY (...)")
		case u.Old == nil:
			lines = append(lines, alter+"DEFAULT; -- or FULL, where a mapping reads old columns beyond the primary key")
		default:
			lines = append(lines, alter+"DEFAULT;")
		}
	}
	return r.withoutLists(lines)
}

// coverage looks at how the publications send the tables that they cover: partitions under another name, row filters, column lists.
func (p *plan) coverage() []Finding {
	var f []Finding
	for _, u := range p.uses {
		r := p.rels[u.Table]
		subject := "table " + u.Table.String()
		var covering []*Publication
		var members []Member
		for _, pub := range []*Publication{p.main, p.ins} {
			if pub == nil || !slices.Contains(p.names, pub.Name) {
				continue
			}
			if m, ok := pub.covers(r); ok {
				covering, members = append(covering, pub), append(members, m)
			}
		}
		filtered := len(members) > 0
		for i, m := range members {
			filtered = filtered && m.Filter != ""
			if pub := covering[i]; pub.ViaRoot && m.TableName != u.Table && len(r.ancestors) > 0 {
				f = append(f, Finding{SeverityError, subject, fmt.Sprintf("it is a partition, and publication %s sends its changes under the name of %s: map that instead, with a condition if need be",
					pub.Name, m.TableName), ""})
			}
			if !covering[i].Ours { // the plan sets the lists of ours
				f = append(f, p.listFindings(subject, u, r, covering[i], m)...)
			}
		}
		if filtered {
			f = append(f, Finding{SeverityWarning, subject, fmt.Sprintf("publication %s has a row filter: rows that it keeps out reach no mapping, and one that an update moves across it comes as an insert or a delete",
				joinNames(covering, func(p *Publication) string { return p.Name })), ""})
		}
		if len(members) == 2 && !slices.Equal(members[0].Columns, members[1].Columns) && !(covering[0].Ours && covering[1].Ours) {
			f = append(f, Finding{SeverityError, subject, "the two publications have different column lists for it, which PostgreSQL refuses to stream",
				"ALTER PUBLICATION " + quoteIdent(covering[1].Name) + " DROP TABLE " + sqlList([]TableName{members[1].TableName}) + ";"})
		}
		if len(r.unidentified()) > 0 && slices.ContainsFunc(covering, func(p *Publication) bool { return p.Update || p.Delete }) {
			f = append(f, Finding{SeverityWarning, subject, "it has no replica identity, and a publication that it is in publishes updates: the application's UPDATE and DELETE of it fail", r.identityCure(u)})
		}
	}
	return f
}

// listFindings looks at a column list: a column that a mapping reads, and the replica identity's, must be on it.
func (p *plan) listFindings(subject string, u Use, r *relation, pub *Publication, m Member) []Finding {
	if m.Columns == nil {
		return nil
	}
	steps := takeListAway(pub.Name, m.TableName)
	if u.Table == m.TableName {
		steps[1] = "ALTER PUBLICATION " + quoteIdent(pub.Name) + " ADD TABLE " + p.members([]Use{u}) + ";"
	}
	again := "BEGIN;\n" + strings.Join(steps, "\n") + "\nCOMMIT;" // in one transaction: no change falls in between
	var missing []string
	for _, c := range u.Columns {
		if !slices.Contains(m.Columns, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return []Finding{{SeverityError, subject, fmt.Sprintf("publication %s has a column list without %s, which the mappings read", pub.Name, strings.Join(missing, ", ")), again}}
	}
	if pub.Update || pub.Delete {
		for _, l := range r.holders() {
			if l.identity.letter == connector.IdentityFull || slices.ContainsFunc(l.identity.keys, func(k string) bool { return !slices.Contains(m.Columns, k) }) {
				return []Finding{{SeverityError, subject, fmt.Sprintf("publication %s has a column list that leaves out columns of the replica identity: the application's UPDATE and DELETE fail", pub.Name), again}}
			}
		}
	}
	if u.Columns == nil && !u.list {
		return []Finding{{SeverityWarning, subject, fmt.Sprintf("publication %s has a column list: mappings see %s only", pub.Name, strings.Join(m.Columns, ", ")), again}}
	}
	return nil
}
