package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Use is what the mappings want of one table. A table of which nothing is wanted (snapshots only) is not published.
type Use struct {
	Table                  TableName
	Insert, Update, Delete bool
	// Columns are those that the mappings read; nil: not known. They matter where a publication has a column list.
	Columns []string
	// Old are those of them that are read of old rows; nil: not known. They say which replica identity a cure gives the table.
	Old []string

	list  bool // source.columnLists: only Columns, and those of the replica identity, are to be published
	known bool // it was published before: what is wrong with it now is told, and stops nothing else
}

func (u Use) rewrites() bool { return u.Update || u.Delete }
func (u Use) any() bool      { return u.Insert || u.Update || u.Delete }

// insertSuffix makes the second publication's name from the first one's.
const insertSuffix = "_insert"

// InsertPublication gives the name of the publication for tables of which only inserts are mapped. It publishes no updates, so that a table
// without replica identity never makes the application's updates fail.
func InsertPublication(publication string) string { return publication + insertSuffix }

// ourComment begins the comment on a publication that this program made, and that it therefore may take tables out of and drop.
const ourComment = "tuzhan-cdc"

// Publication is a publication as the catalogue has it.
type Publication struct {
	// OID changes when a publication is made anew under its old name; a slot can't be read with one that is younger than it.
	OID         uint32
	Name, Owner string
	// Ours says that this program made it.
	Ours bool
	// AllTables: FOR ALL TABLES.
	AllTables                        bool
	Insert, Update, Delete, Truncate bool
	// ViaRoot: the changes of partitions come under the name of their root.
	ViaRoot bool
	// Generated says that stored generated columns are published (18 or newer).
	Generated bool
	Tables    []Member
	// Schemas are those that it has as a whole (15 or newer).
	Schemas []string

	own        bool     // this role may alter it
	schemaRows []uint32 // the OIDs of its rows in pg_publication_namespace, in the order of Schemas
}

// Member is a table that a publication names.
type Member struct {
	TableName
	OID uint32
	// Filter is the row filter's expression; "" where there is none.
	Filter string
	// Columns is the column list, in the table's order; nil where there is none.
	Columns []string

	row uint32 // the OID of its row in pg_publication_rel: another one each time the table is added
}

// covers reports whether p publishes r, by itself or through a partition's ancestors. The member is the one that decides; for
// a whole schema or database it has only a name.
func (p *Publication) covers(r *relation) (Member, bool) {
	for _, oid := range append([]uint32{r.oid}, r.ancestors...) {
		for _, m := range p.Tables {
			if m.OID == oid {
				return m, true
			}
		}
	}
	whole := p.AllTables || slices.Contains(p.Schemas, r.name.Schema) || len(r.ancestors) > 0 && slices.Contains(p.Schemas, r.root.Schema)
	if !whole || r.kind != "r" && r.kind != "p" || r.persistence != "p" || r.system {
		return Member{}, false
	}
	if len(r.ancestors) > 0 && (p.AllTables || slices.Contains(p.Schemas, r.root.Schema)) {
		return Member{TableName: r.root}, true
	}
	return Member{TableName: r.name, OID: r.oid}, true
}

// rowFilter gives the condition that a table's rows must meet for publications to send them; empty: all are sent. A row that one of them sends is sent.
func rowFilter(ctx context.Context, conn *pgx.Conn, table TableName, publications []string) (string, error) {
	rels, err := loadRelations(ctx, conn, []TableName{table})
	if err != nil || len(rels) == 0 {
		return "", err
	}
	pubs, err := LoadPublications(ctx, conn, publications)
	if err != nil {
		return "", err
	}
	r := rels[0]
	var filters []string
	for _, p := range pubs {
		m, ok := p.covers(r)
		switch {
		case !ok:
		case m.Filter == "":
			return "", nil
		default:
			filters = append(filters, "("+m.Filter+")")
		}
	}
	return strings.Join(filters, " OR "), nil
}

// names reports whether p names the table itself.
func (p *Publication) names(t TableName) bool {
	return p != nil && slices.ContainsFunc(p.Tables, func(m Member) bool { return m.TableName == t })
}

// publishes reports whether p publishes the operations that u wants.
func (p *Publication) publishes(u Use) bool {
	return (p.Insert || !u.Insert) && (p.Update || !u.Update) && (p.Delete || !u.Delete)
}

// publishList writes the publish option with what p has and u wants.
func (p *Publication) publishList(u Use) string {
	var ops []string
	for _, o := range []struct {
		on   bool
		name string
	}{{p.Insert || u.Insert, "insert"}, {p.Update || u.Update, "update"}, {p.Delete || u.Delete, "delete"}, {p.Truncate, "truncate"}} {
		if o.on {
			ops = append(ops, o.name)
		}
	}
	return strings.Join(ops, ", ")
}

// LoadPublications gives those of the named publications that exist, in the order of names.
func LoadPublications(ctx context.Context, conn *pgx.Conn, names []string) ([]Publication, error) {
	if len(names) == 0 {
		return nil, nil
	}
	rows, err := conn.Query(ctx, `
SELECT p.oid, p.pubname::text, pg_get_userbyid(p.pubowner)::text, pg_has_role(p.pubowner, 'USAGE'),
       coalesce(obj_description(p.oid, 'pg_publication'), '') LIKE $2 || '%',
       p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       coalesce(to_jsonb(p) ->> 'pubgencols', '') = 's',
       current_setting('server_version_num')::int
  FROM pg_publication p WHERE p.pubname = ANY ($1::text[])
 ORDER BY array_position($1::text[], p.pubname::text)`, names, ourComment)
	if err != nil {
		return nil, fmt.Errorf("reading the publications: %w", err)
	}
	version := 0
	pubs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Publication, err error) {
		return p, row.Scan(&p.OID, &p.Name, &p.Owner, &p.own, &p.Ours, &p.AllTables, &p.Insert, &p.Update, &p.Delete, &p.Truncate,
			&p.ViaRoot, &p.Generated, &version)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the publications: %w", err)
	}
	for i := range pubs {
		if err := pubs[i].loadMembers(ctx, conn, version); err != nil {
			return nil, fmt.Errorf("reading what publication %s holds: %w", pubs[i].Name, err)
		}
	}
	return pubs, nil
}

func (p *Publication) loadMembers(ctx context.Context, conn *pgx.Conn, version int) error {
	extra := "'', NULL::text[]"
	if version >= 150000 {
		extra = `coalesce(pg_get_expr(r.prqual, r.prrelid), ''),
       CASE WHEN r.prattrs IS NOT NULL THEN
         ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = r.prrelid AND attnum = ANY (r.prattrs) ORDER BY attnum) END`
	}
	rows, err := conn.Query(ctx, `SELECT c.oid, r.oid, n.nspname::text, c.relname::text, `+extra+`
  FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE r.prpubid = $1 ORDER BY 2, 3`, p.OID)
	if err != nil {
		return err
	}
	p.Tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Member, err error) {
		return m, row.Scan(&m.OID, &m.row, &m.Schema, &m.Name, &m.Filter, &m.Columns)
	})
	if err != nil || version < 150000 {
		return err
	}
	rows, err = conn.Query(ctx, `SELECT n.nspname::text, s.oid FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid
 WHERE s.pnpubid = $1 ORDER BY 1`, p.OID)
	if err != nil {
		return err
	}
	var schema string
	var row uint32
	_, err = pgx.ForEachRow(rows, []any{&schema, &row}, func() error {
		p.Schemas, p.schemaRows = append(p.Schemas, schema), append(p.schemaRows, row)
		return nil
	})
	return err
}

// PublicationParams say what is to be published.
type PublicationParams struct {
	// Name is the first publication's; the second one's is InsertPublication(Name).
	Name string
	// Slot is the slot that is, or will be, read with them.
	Slot string
	// Uses names every mapped table, those of held mappings too: a table that is not named is taken out of a publication of ours.
	Uses []Use
}

// EnsurePublications brings the two publications in step with the mappings: tables of which updates or deletes are mapped into the named
// one, those of which only inserts are into the other. Both are made while there is no slot yet, empty if need be, because a slot
// can't be read with a publication that is younger than it (42704). A publication that somebody else made is used as it is, and gets
// tables added where this role may; only from one of ours tables are taken out.
//
// It does all in one transaction or nothing. names are the publications to stream from; changes say what was done, for the log. Where
// something stands in the way it returns a *Refusal with the SQL: for a table that can't be published without making the application's
// updates fail, for a right that is missing, for a publication that went away beside a living slot.
func EnsurePublications(ctx context.Context, conn *pgx.Conn, params PublicationParams) (names, changes []string, err error) {
	p, _, changes, err := bringInStep(ctx, conn, params)
	if err != nil {
		return nil, nil, err
	}
	return p.names, changes, nil
}

// lockTimeout is how long a table's lock is waited for, which VACUUM or CREATE INDEX may hold for hours: rather come again. It is well below
// deadlock_timeout (1 s by default), so that in a deadlock with the application it is never the application's statement that fails.
const lockTimeout = "400ms"

// bringInStep is EnsurePublications; it gives the plan, which says what was found and what this role could not do, and the one after the steps. Both are
// made in their transaction, with the tables locked: what somebody else does to them, before or afterwards, is not taken for ours.
func bringInStep(ctx context.Context, conn *pgx.Conn, params PublicationParams) (p, after *plan, changes []string, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("looking at the publications: %w", err)
	}
	defer func() {
		if done := tx.Rollback(context.WithoutCancel(ctx)); done != nil && !errors.Is(done, pgx.ErrTxClosed) && err == nil {
			err = done
		}
	}()
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+lockTimeout+"'"); err != nil {
		return nil, nil, nil, fmt.Errorf("looking at the publications: %w", err)
	}
	var locked []TableName
	for {
		if p, err = newPlan(ctx, conn, params); err != nil {
			return nil, nil, nil, err
		}
		findings := p.strangersFindings()
		p.make()
		if refused := refusal(append(findings, p.findings...)); refused != nil {
			return p, p, nil, refused
		}
		// What is read before the locks may be of two moments, and older than what somebody else does just now.
		more := p.unlocked(locked)
		if len(more) == 0 {
			break
		}
		sql := "LOCK TABLE " + sqlList(more) + " IN SHARE UPDATE EXCLUSIVE MODE" // as ALTER PUBLICATION takes it; the application reads and writes
		if _, err := tx.Exec(ctx, sql); err != nil {
			return nil, nil, nil, fmt.Errorf("bringing the publications in step: %s: %w", sql, err)
		}
		locked = append(locked, more...)
	}
	for _, s := range p.steps {
		if _, err := tx.Exec(ctx, s.sql); err != nil {
			return nil, nil, nil, fmt.Errorf("bringing the publications in step: %s: %w", s.sql, err)
		}
		if s.change != "" {
			changes = append(changes, s.change)
		}
	}
	after = p
	if len(changes) > 0 {
		if after, err = newPlan(ctx, conn, params); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return nil, nil, nil, fmt.Errorf("bringing the publications in step: %w", err)
	}
	return p, after, changes, nil
}

// unlocked gives the tables that the steps put into a publication, and that are not among those.
func (p *plan) unlocked(those []TableName) (tables []TableName) {
	for _, s := range p.steps {
		for _, t := range s.tables {
			if !slices.Contains(those, t) && !slices.Contains(tables, t) {
				tables = append(tables, t)
			}
		}
	}
	return tables
}

// refusal joins the findings that are errors; nil where there are none.
func refusal(findings []Finding) error {
	var texts, cures []string
	for _, f := range findings {
		if f.Severity != SeverityError {
			continue
		}
		texts = append(texts, f.Subject+": "+f.Text)
		if f.Cure != "" && !slices.Contains(cures, f.Cure) {
			cures = append(cures, f.Cure)
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return &Refusal{strings.Join(texts, "; "), strings.Join(cures, "\n")}
}

// DropPublications drops the named publication and its second one, those of them that this program made, and gives the names of the ones that it
// dropped.
func DropPublications(ctx context.Context, conn *pgx.Conn, name string) ([]string, error) {
	pubs, err := LoadPublications(ctx, conn, []string{name, InsertPublication(name)})
	if err != nil {
		return nil, err
	}
	var dropped []string
	for _, p := range pubs {
		if !p.Ours {
			continue
		}
		if _, err := conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+quoteIdent(p.Name)); err != nil {
			return dropped, fmt.Errorf("dropping publication %s: %w", p.Name, err)
		}
		dropped = append(dropped, p.Name)
	}
	return dropped, nil
}
