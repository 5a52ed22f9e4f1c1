package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// memberships are the catalogue rows by which the operations of a table are published: "insert" -> the row's names. A table that leaves a
// publication and comes back has other rows, even where nobody looked in between.
type memberships map[string][]string

// membershipsOf gives those of r, in the publications that are streamed, for the operations of u.
func membershipsOf(u Use, r *relation, pubs []*Publication) memberships {
	m := memberships{}
	for _, p := range pubs {
		row := ""
		if r != nil && p != nil {
			row = p.rowOf(r)
		}
		if row == "" {
			continue
		}
		for _, o := range []struct {
			name      string
			wanted, p bool
		}{{"insert", u.Insert, p.Insert}, {"update", u.Update, p.Update}, {"delete", u.Delete, p.Delete}} {
			if o.wanted && o.p {
				m[o.name] = append(m[o.name], row)
			}
		}
	}
	return m
}

// rowOf names the catalogue row by which p publishes r under r's own name; empty where it does not.
func (p *Publication) rowOf(r *relation) string {
	m, ok := p.covers(r)
	switch {
	case !ok, len(r.ancestors) > 0 && p.ViaRoot && m.TableName != r.name, r.kind == "p" && !p.ViaRoot:
		return ""
	case m.row != 0:
		return fmt.Sprintf("%d/%d", p.OID, m.row)
	case p.AllTables:
		return fmt.Sprintf("%d/all", p.OID)
	}
	for _, name := range []string{r.name.Schema, r.root.Schema} {
		if i := slices.Index(p.Schemas, name); i >= 0 {
			return fmt.Sprintf("%d/schema%d", p.OID, p.schemaRows[i])
		}
	}
	return ""
}

// operations are the keys of memberships, in the order in which they are written.
var operations = []string{"insert", "update", "delete"}

// String writes what the state keeps: insert=1/2 3/4;update=1/2.
func (m memberships) String() string {
	var parts []string
	for _, o := range operations {
		if len(m[o]) > 0 {
			parts = append(parts, o+"="+strings.Join(m[o], " "))
		}
	}
	return strings.Join(parts, ";")
}

// parseMemberships reads what String wrote.
func parseMemberships(text string) memberships {
	m := memberships{}
	for part := range strings.SplitSeq(text, ";") {
		if o, rows, ok := strings.Cut(part, "="); ok {
			m[o] = strings.Fields(rows)
		}
	}
	return m
}

// lost gives the operations that were published by rows of which none is left: changes of them may be missing. A table that was given another column
// list has another row too: whether it was out of the publication meanwhile can't be seen any more.
func (m memberships) lost(now memberships) []string {
	var ops []string
	for _, o := range operations {
		if len(m[o]) > 0 && !slices.ContainsFunc(m[o], func(row string) bool { return slices.Contains(now[o], row) }) {
			ops = append(ops, o)
		}
	}
	return ops
}

// only keeps the operations that are still wanted.
func (m memberships) only(u Use) memberships {
	kept := memberships{}
	for o, rows := range m {
		if o == "insert" && u.Insert || o == "update" && u.Update || o == "delete" && u.Delete {
			kept[o] = rows
		}
	}
	return kept
}

// streamed gives the plan's publications that are streamed from.
func (p *plan) streamed(names []string) []*Publication {
	var pubs []*Publication
	for _, pub := range []*Publication{p.main, p.ins} {
		if pub != nil && (names == nil || slices.Contains(names, pub.Name)) {
			pubs = append(pubs, pub)
		}
	}
	return pubs
}

// hole is a mapped table of which changes may be missing.
type hole struct {
	use Use
	was connector.Published
	// lost are the operations; why says what became of the table.
	lost []string
	why  string
}

// holes compares how the tables are published with how they were.
func (p *plan) holes(known map[TableName]connector.Published, names []string) (holes []hole) {
	pubs := p.streamed(names)
	for _, u := range p.wanted {
		was, ok := known[u.Table]
		if !ok {
			continue
		}
		r := p.rels[u.Table]
		now := membershipsOf(u, r, pubs)
		lost := parseMemberships(was.Member).only(u).lost(now)
		if len(lost) == 0 {
			continue
		}
		h := hole{use: u, was: was, lost: lost}
		gone := slices.ContainsFunc(lost, func(o string) bool { return len(now[o]) == 0 })
		switch {
		case r == nil:
			h.why = "it is gone: dropped or renamed"
		case r.oid != was.OID:
			h.why = "it was dropped and created again, or another one was renamed to it, and a publication does not follow that"
		case len(r.unidentified()) > 0 && u.rewrites() && gone:
			h.why = unidentifiedWhy
		case gone:
			h.why = "somebody took it out of the publication"
		default:
			h.why = "somebody took it out of the publication and put it in again, or gave it another column list"
		}
		holes = append(holes, h)
	}
	return holes
}

const unidentifiedWhy = "it has lost its replica identity, so it was taken out of the publication that publishes updates and deletes: else the application's own would fail"

// renamed gives the tables that were published under a name that no mapping has any more.
func (p *plan) renamed(known map[TableName]connector.Published) (holes []hole) {
	for _, u := range p.wanted {
		r := p.rels[u.Table]
		if _, ok := known[u.Table]; ok || r == nil {
			continue
		}
		for name, was := range known {
			if was.OID == r.oid && !slices.ContainsFunc(p.wanted, func(w Use) bool { return w.Table == name }) {
				holes = append(holes, hole{u, was, operations, "it was " + name.String() + " when it was last looked at: what was written between its renaming and that of the mapping's table"})
			}
		}
	}
	return holes
}

// published gives what is to be kept of how the tables are published now. seen is the LSN since which that is sure for those that were not
// published before; of those with an open hole the operations that are lost stay as they were.
func (p *plan) published(known map[TableName]connector.Published, names []string, seen connector.LSN, open []hole) map[TableName]connector.Published {
	pubs := p.streamed(names)
	next := map[TableName]connector.Published{}
	for _, u := range p.wanted {
		was, ok := known[u.Table]
		now := membershipsOf(u, p.rels[u.Table], pubs)
		if i := slices.IndexFunc(open, func(h hole) bool { return h.use.Table == u.Table }); i >= 0 {
			old := parseMemberships(was.Member)
			for _, o := range open[i].lost {
				now[o] = old[o]
			}
			was.Member = now.String()
			next[u.Table] = was
			continue
		}
		if len(now) == 0 {
			continue
		}
		e := connector.Published{Schema: u.Table.Schema, Name: u.Table.Name, OID: p.rels[u.Table].oid, Member: now.String(), Seen: seen}
		if ok && len(parseMemberships(was.Member).only(u).lost(now)) == 0 {
			e.Seen = was.Seen
		}
		next[u.Table] = e
	}
	return next
}

// moment is a point in the WAL, and the transactions that might commit before it without being seen yet: a commit is in the WAL before others see it.
type moment struct {
	lsn connector.LSN
	// xmax is the first transaction that had not begun; xmin the oldest that had not ended.
	xmax, xmin uint64
}

// now gives the present moment. The LSN is asked for first: a transaction from xmax on commits behind it.
func now(ctx context.Context, conn *pgx.Conn) (m moment, err error) {
	if m.lsn, err = walEnd(ctx, conn); err != nil {
		return m, err
	}
	err = conn.QueryRow(ctx, "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s").Scan(&m.xmin, &m.xmax)
	if err != nil {
		return m, fmt.Errorf("asking for the running transactions: %w", err)
	}
	return m, nil
}

// walEnd gives the server's WAL end; on a standby, what is replayed.
func walEnd(ctx context.Context, conn *pgx.Conn) (connector.LSN, error) {
	var text string
	if err := conn.QueryRow(ctx, "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text").Scan(&text); err != nil {
		return 0, fmt.Errorf("asking for the WAL end: %w", err)
	}
	return connector.ParseLSN(text)
}
