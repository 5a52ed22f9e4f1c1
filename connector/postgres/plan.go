package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// plan is how to bring the publications in step with the mappings, found from what the catalogue says, without doing any of it: Preflight
// tells of it, EnsurePublications does it. So the two can't differ.
type plan struct {
	PublicationParams
	uses       []Use // by table, merged, those of tables that can be published
	wanted     []Use // all of Uses, merged
	rels       map[TableName]*relation
	candidates []TableName  // what a missing table may have meant
	main, ins  *Publication // nil where missing
	slotExists bool         // and is one of this database's, of our plugin
	known      bool         // there is a state: a publication that is missing beside a living slot is CheckHistory's to say
	mayCreate  bool         // CREATE on the database
	standby    bool
	role       string
	database   string
	version    int
	columns    map[uint32][]column // of the tables that are to have a column list

	names    []string // to stream from, once the steps are done
	steps    []step
	blocked  []string // why this role can't do the steps
	must     bool     // a step is for more than to take tables back that were published before: without it nothing can be streamed
	left     string   // the SQL of the steps, where this role can't do them and they are no must
	findings []Finding
}

type step struct {
	sql    string
	change string      // for the log; "" for what nobody needs to read
	tables []TableName // that are in a publication by it
}

// newPlan looks at the catalogue.
func newPlan(ctx context.Context, conn *pgx.Conn, params PublicationParams) (*plan, error) {
	p := &plan{PublicationParams: params, rels: map[TableName]*relation{}, wanted: mergeUses(params.Uses)}
	if err := conn.QueryRow(ctx, `
SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database() AND plugin = '`+plugin+`'),
       has_database_privilege(current_database(), 'CREATE'), pg_is_in_recovery(), current_user::text, current_database()::text,
       current_setting('server_version_num')::int`,
		params.Slot).Scan(&p.slotExists, &p.mayCreate, &p.standby, &p.role, &p.database, &p.version); err != nil {
		return nil, fmt.Errorf("looking at slot and rights: %w", err)
	}
	pubs, err := LoadPublications(ctx, conn, []string{params.Name, InsertPublication(params.Name)})
	if err != nil {
		return nil, err
	}
	for i := range pubs {
		if pubs[i].Name == params.Name {
			p.main = &pubs[i]
		} else {
			p.ins = &pubs[i]
		}
	}
	tables := make([]TableName, len(p.wanted))
	for i, u := range p.wanted {
		tables[i] = u.Table
	}
	rels, err := loadRelations(ctx, conn, tables)
	if err != nil {
		return nil, err
	}
	for _, r := range rels {
		p.rels[r.name] = r
		if err := r.loadRefused(ctx, conn); err != nil {
			return nil, err
		}
	}
	if len(p.rels) < len(p.wanted) {
		if p.candidates, err = listTables(ctx, conn); err != nil {
			return nil, err
		}
	}
	for _, u := range p.wanted {
		if fit, ok := p.fit(u); ok {
			p.uses = append(p.uses, fit)
		}
	}
	return p, p.planLists(ctx, conn)
}

// mergeUses makes one Use of several for one table, and puts them in order.
func mergeUses(uses []Use) []Use {
	var merged []Use
	for _, u := range uses {
		i := slices.IndexFunc(merged, func(m Use) bool { return m.Table == u.Table })
		if i < 0 {
			merged = append(merged, u)
			continue
		}
		m := &merged[i]
		m.Insert, m.Update, m.Delete = m.Insert || u.Insert, m.Update || u.Update, m.Delete || u.Delete
		m.list, m.known = m.list || u.list, m.known || u.known
		m.Columns, m.Old = mergeColumns(m.Columns, u.Columns), mergeColumns(m.Old, u.Old)
	}
	slices.SortFunc(merged, func(a, b Use) int { return compareTables(a.Table, b.Table) })
	return merged
}

// mergeColumns makes one list of two, nil where one of them is: not known.
func mergeColumns(a, b []string) []string {
	if a == nil || b == nil {
		return nil
	}
	all := append(append([]string{}, a...), b...)
	slices.Sort(all)
	return slices.Compact(all)
}

// listTables gives the tables that could be published.
func listTables(ctx context.Context, conn *pgx.Conn) ([]TableName, error) {
	rows, err := conn.Query(ctx, `
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY 1, 2 LIMIT 20000`)
	if err != nil {
		return nil, fmt.Errorf("listing the tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n TableName, err error) { return n, row.Scan(&n.Schema, &n.Name) })
	if err != nil {
		return nil, fmt.Errorf("listing the tables: %w", err)
	}
	return tables, nil
}

// split parts the uses by publication.
func (p *plan) split() (full, inserts []Use) {
	for _, u := range p.uses {
		if u.rewrites() {
			full = append(full, u)
		} else {
			inserts = append(inserts, u)
		}
	}
	return full, inserts
}

func tablesOf(uses []Use) []TableName {
	tables := make([]TableName, len(uses))
	for i, u := range uses {
		tables[i] = u.Table
	}
	return tables
}

// make finds the steps. What stands in the way becomes findings.
func (p *plan) make() {
	if len(InsertPublication(p.Name)) > 63 || p.Name == "" {
		p.refuse("publication "+p.Name, fmt.Sprintf("source.publication must have 1 to %d bytes: PostgreSQL cuts longer names, and %s is added for the second one",
			63-len(insertSuffix), insertSuffix), "")
		return
	}
	full, inserts := p.split()
	second := InsertPublication(p.Name)
	switch {
	case p.main == nil && p.slotExists:
		p.gap(p.Name)
		return
	case p.ins == nil && p.slotExists && p.main != nil && p.main.Ours:
		p.gap(second)
		return
	}
	p.names = []string{p.Name}
	var toMain, toIns []Use
	inMain := slices.Clone(full)
	for _, u := range full {
		if !p.covered(p.main, u) {
			toMain = append(toMain, u)
		}
	}
	for _, u := range inserts {
		ours := p.main != nil && p.main.Ours && p.main.names(u.Table) // there only until it can move
		switch {
		case p.covered(p.ins, u):
		case ours || !p.covered(p.main, u):
			toIns = append(toIns, u)
		default:
			inMain = append(inMain, u)
		}
	}
	if p.ins == nil && p.slotExists { // beside a DBA's publication, too late to make a second one
		for _, u := range toIns {
			if len(p.rels[u.Table].unidentified()) == 0 {
				toMain, inMain = append(toMain, u), append(inMain, u)
			} else {
				p.refuse("table "+u.Table.String(), fmt.Sprintf("it has no replica identity and so can't go into publication %s, whose updates would then fail in the application; a second publication can't be made beside the living slot %s (42704)",
					p.Name, p.Slot), p.rels[u.Table].identityCure(u))
			}
		}
		toIns = nil
	}
	p.bring(p.main, p.Name, "insert, update, delete, truncate", inMain, toMain)
	if p.ins != nil || p.main == nil || p.main.Ours || len(toIns) > 0 {
		p.names = append(p.names, second)
		p.bring(p.ins, second, "insert", inserts, toIns)
	}
	p.forbid()
}

// covered reports whether pub sends the use's table as the mappings name it.
func (p *plan) covered(pub *Publication, u Use) bool {
	if pub == nil {
		return false
	}
	_, ok := pub.covers(p.rels[u.Table])
	return ok
}

// bring makes the steps for one publication: made where it is missing, options put right, tables added, and those taken out of one of ours
// that are in it for none of uses.
func (p *plan) bring(pub *Publication, name, publish string, uses, add []Use) {
	tables, stay := tablesOf(add), tablesOf(uses)
	if pub == nil {
		sql, what := "CREATE PUBLICATION "+quoteIdent(name), "created publication "+name
		p.must = true
		if len(add) > 0 {
			sql += " FOR TABLE " + p.members(add)
			what += " for " + joinNames(tables, TableName.String)
		}
		p.step(sql+" WITH (publish = "+literal(publish)+", publish_via_partition_root = true);", what, tables...)
		p.step("COMMENT ON PUBLICATION "+quoteIdent(name)+" IS "+literal(ourComment+": made for its slot; kept in step with the mappings; drop it with the slot only")+";", "")
		if !p.mayCreate {
			p.block("it lacks CREATE on database " + p.database)
		}
		p.ownTables(add)
		return
	}
	var want Use
	viaRoot := false
	for _, u := range uses {
		if p.covered(pub, u) || slices.Contains(tables, u.Table) {
			want = Use{Insert: want.Insert || u.Insert, Update: want.Update || u.Update, Delete: want.Delete || u.Delete}
			viaRoot = viaRoot || p.rels[u.Table].kind == "p"
		}
	}
	p.options(pub, want, viaRoot)
	for _, u := range add {
		if r := p.rels[u.Table]; (pub.Update || pub.Delete) && !u.rewrites() && len(r.unidentified()) > 0 {
			p.refuse("table "+u.Table.String(), "it has no replica identity and so can't go into publication "+name+
				", which publishes updates or deletes: they would fail in the application", r.identityCure(u))
		}
	}
	var gone []TableName
	if pub.Ours && pub.own {
		for _, m := range pub.Tables {
			if !slices.Contains(stay, m.TableName) {
				gone = append(gone, m.TableName)
			}
		}
	}
	if pub.Ours && p.listsDiffer(pub, uses) {
		p.setTables(pub, uses, add, gone)
		return
	}
	if len(gone) > 0 {
		p.step("ALTER PUBLICATION "+quoteIdent(name)+" DROP TABLE "+sqlList(gone)+";", "took "+joinNames(gone, TableName.String)+" out of publication "+name)
	}
	if len(add) > 0 {
		p.step("ALTER PUBLICATION "+quoteIdent(name)+" ADD TABLE "+p.members(add)+";", "added "+joinNames(tables, TableName.String)+" to publication "+name, tables...)
		p.must = p.must || slices.ContainsFunc(add, func(u Use) bool { return !u.known })
		if !pub.own {
			p.block("publication " + name + " belongs to " + pub.Owner)
		}
		p.ownTables(add)
	}
}

// options sees to it that pub publishes what is wanted. Those of somebody else's publication are not touched: to publish the updates of other
// tables in it might make the application's statements fail.
func (p *plan) options(pub *Publication, want Use, viaRoot bool) {
	set := func(option, value, why string) {
		sql := "ALTER PUBLICATION " + quoteIdent(pub.Name) + " SET (" + option + " = " + value + ");"
		switch {
		case pub.Ours:
			p.must = true
			p.step(sql, "set "+option+" = "+value+" on publication "+pub.Name)
			if !pub.own {
				p.block("publication " + pub.Name + " belongs to " + pub.Owner)
			}
		default:
			p.refuse("publication "+pub.Name, why, sql)
		}
	}
	if !pub.publishes(want) {
		set("publish", literal(pub.publishList(want)), "it does not publish all that the mappings want ("+pub.publishList(want)+
			"); before running the cure make sure that every table in it has a replica identity, or their updates fail in the application")
	}
	if viaRoot && !pub.ViaRoot {
		set("publish_via_partition_root", "true", "the changes of its partitioned tables come under the names of their partitions, which no mapping reads")
	}
}

func (p *plan) ownTables(uses []Use) {
	for _, u := range uses {
		if r := p.rels[u.Table]; !r.own {
			p.block(u.Table.String() + " belongs to " + r.owner)
		}
	}
}

func (p *plan) step(sql, change string, tables ...TableName) {
	p.steps = append(p.steps, step{sql, change, tables})
}

func (p *plan) block(why string) {
	if !slices.Contains(p.blocked, why) {
		p.blocked = append(p.blocked, why)
	}
}

func (p *plan) refuse(subject, text, cure string) {
	p.findings = append(p.findings, Finding{SeverityError, subject, text, cure})
}

// forbid turns steps that this role can't do into the SQL for somebody who can.
func (p *plan) forbid() {
	switch {
	case len(p.steps) == 0:
	case p.standby:
		p.refuse("publication "+p.Name, "it is not in step with the mappings, and this server is a standby: run this on the primary", p.sql())
	case len(p.blocked) > 0 && !p.must:
		p.left, p.steps = p.sql(), nil
	case len(p.blocked) > 0:
		text := "it does not cover what is mapped"
		if p.main == nil {
			text = "it is missing"
		}
		p.refuse("publication "+p.Name, fmt.Sprintf("%s, and role %s can't mend that (%s): somebody who may runs this, before the slot is made",
			text, p.role, strings.Join(p.blocked, "; ")), p.sql())
	}
}

// sql gives the steps as a script for somebody else, and says who may run it where that takes more than to own the tables. It leaves our mark out:
// what they make is theirs.
func (p *plan) sql() string {
	var lines []string
	if p.main == nil || p.ins == nil && slices.Contains(p.names, InsertPublication(p.Name)) { // one is to be made
		lines = append(lines, p.whoMakes())
	}
	for _, s := range p.steps {
		if s.change != "" {
			lines = append(lines, s.sql)
		}
	}
	return strings.Join(lines, "\n")
}

// whoMakes says, as a comment in SQL, who may make a publication: it takes CREATE on the database, which the owner of the tables may well lack.
func (p *plan) whoMakes() string {
	var owners []string
	for _, u := range p.uses {
		if owner := p.rels[u.Table].owner; !slices.Contains(owners, owner) {
			owners = append(owners, owner)
		}
	}
	if len(owners) != 1 { // who makes it must own them all
		return "-- as a superuser:"
	}
	return fmt.Sprintf("-- as a superuser; or as the tables' owner, with: GRANT CREATE ON DATABASE %s TO %s;", quoteIdent(p.database), quoteIdent(owners[0]))
}

// gap refuses to make a publication beside a living slot: the slot's WAL is decoded with the publications as they were when it was written.
func (p *plan) gap(name string) {
	if p.known {
		return
	}
	p.refuse("publication "+name, fmt.Sprintf("it is missing while slot %s exists. Made now, it would be unknown to the WAL that the slot still has to read (42704 for ever), so the slot must be made anew; changes that were committed since the slot's last confirmation are then not sent", p.Slot),
		"SELECT pg_drop_replication_slot("+literal(p.Slot)+"); -- then start tuzhan-cdc run: it makes publications and slot anew")
}
