package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// textOID and textArrayOID are what enums, and arrays of them, count as.
const (
	textOID      = 25
	textArrayOID = 1009
)

// firstGeneratedOID is PostgreSQL's FirstGenbkiObjectId: the types below it have their numbers in the source code, and mean the same on
// every server.
const firstGeneratedOID = 10000

// Server is what a plain connection tells of the database and of the server behind it.
type Server struct {
	// SystemID is the database system's identifier, as IDENTIFY_SYSTEM gives it.
	SystemID string
	Database string
	// Version is server_version_num: 150004, 170000.
	Version int
	// Timeline is the history that the server writes (on a standby: replays); it changes with every promotion.
	Timeline int32
	// TimeZone is the database's own setting, whatever this role's or this session's is: what its timestamps without time zone most likely mean.
	TimeZone string
	// Standby says that the server is in recovery.
	Standby bool
}

// LoadServer asks for the server's identity. It needs no rights beyond CONNECT.
func LoadServer(ctx context.Context, conn *pgx.Conn) (Server, error) {
	var s Server
	// pg_control_checkpoint's timeline lags behind a promotion until the next checkpoint; the name of the WAL file being written does not. A
	// standby has none, and replays the checkpoint's.
	err := conn.QueryRow(ctx, `
SELECT (SELECT system_identifier::text FROM pg_control_system()),
       current_database()::text,
       current_setting('server_version_num')::int,
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
       coalesce((SELECT split_part(c, '=', 2)
                   FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
                  WHERE d.datname = current_database() AND s.setrole = 0 AND lower(split_part(c, '=', 1)) = 'timezone'),
                (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone')),
       pg_is_in_recovery()`).Scan(&s.SystemID, &s.Database, &s.Version, &s.Timeline, &s.TimeZone, &s.Standby)
	if err == nil && s.Standby {
		err = conn.QueryRow(ctx, "SELECT timeline_id FROM pg_control_checkpoint()").Scan(&s.Timeline)
	}
	if err != nil {
		return Server{}, fmt.Errorf("asking for the server's identity: %w", err)
	}
	return s, nil
}

// Identify asks for system identifier, timeline and database over a replication connection; the identifier is the same that LoadServer gives.
func Identify(ctx context.Context, repl *pgconn.PgConn) (Server, error) {
	id, err := pglogrepl.IdentifySystem(ctx, repl)
	if err != nil {
		return Server{}, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	return Server{SystemID: id.SystemID, Database: id.DBName, Timeline: id.Timeline}, nil
}

// LoadTables gives the shapes of the tables that exist, by name; those that don't are not in the map.
//
// The columns stand in the order of pgoutput's Relation messages, and only those that it sends: no dropped ones, no generated ones (but stored
// ones of version 18 or newer, where one of the named publications publishes them), and, where the named publications cover the table with
// a column list, those of the list. The others stand in Omitted.
//
// Identity and Key say what an old row carries for certain. For a partitioned table that is what the identities of all its
// partitions have in common, since the partitions hold the rows; see Preflight for partitions that carry less than their root promises.
func LoadTables(ctx context.Context, conn *pgx.Conn, names []TableName, publications ...string) (map[TableName]*connector.Table, error) {
	return loadTables(ctx, conn, names, publications, false)
}

// loadTables is LoadTables; planned says that lists of publications that this program made don't count, since run sets them anew.
func loadTables(ctx context.Context, conn *pgx.Conn, names []TableName, publications []string, planned bool) (map[TableName]*connector.Table, error) {
	if len(names) == 0 {
		return map[TableName]*connector.Table{}, nil
	}
	rels, err := loadRelations(ctx, conn, names)
	if err != nil {
		return nil, err
	}
	pubs, err := LoadPublications(ctx, conn, publications)
	if err != nil {
		return nil, err
	}
	columns, err := loadColumns(ctx, conn, rels)
	if err != nil {
		return nil, err
	}
	var oids []uint32
	for _, list := range columns {
		for _, c := range list {
			oids = append(oids, c.TypeOID)
		}
	}
	types, err := ResolveTypes(ctx, conn, oids)
	if err != nil {
		return nil, err
	}
	tables := make(map[TableName]*connector.Table, len(rels))
	for _, r := range rels {
		identity, keys := r.effectiveIdentity()
		for _, p := range pubs {
			if m, ok := p.covers(r); ok && m.Columns != nil {
				r.lists = append(r.lists, listEntry{p.Name, m.TableName})
			}
		}
		t := &connector.Table{OID: r.oid, Schema: r.name.Schema, Name: r.name.Name, Identity: identity, FullIdentity: r.fullSQL()}
		if r.deferrable != "" && r.identity.letter != connector.IdentityIndex {
			t.DeferrableKey = "ALTER TABLE " + r.name.SQL() + " " + r.deferrable + ";"
		}
		list, generated := sentColumns(r, pubs, planned)
		for _, c := range columns[r.oid] {
			switch {
			case c.generated == "v" || c.generated != "" && !generated && list == nil:
				t.Omitted = append(t.Omitted, connector.Omitted{Column: c.Name, Why: "it is a generated column, which PostgreSQL does not send"})
				continue
			case list != nil && !slices.Contains(list, c.Name):
				t.Omitted = append(t.Omitted, connector.Omitted{Column: c.Name, Why: "the publication's column list leaves it out"})
				continue
			}
			c.BaseOID = types[c.TypeOID].Base
			c.Key = identity == connector.IdentityFull || slices.Contains(keys, c.Name)
			t.Columns = append(t.Columns, c.Column)
		}
		tables[r.name] = t
	}
	return tables, nil
}

// sentColumns gives the column list under which the publications send r (nil: none), and whether stored generated columns come.
func sentColumns(r *relation, pubs []Publication, planned bool) (list []string, generated bool) {
	listed, whole := []string(nil), false
	for _, p := range pubs {
		m, ok := p.covers(r)
		if !ok {
			continue
		}
		generated = generated || p.Generated
		if m.Columns == nil || planned && p.Ours {
			whole = true
		} else {
			listed = m.Columns
		}
	}
	if whole {
		listed = nil // PostgreSQL refuses to stream a table with two different lists; "all" beside a list is one of them
	}
	return listed, generated
}

type column struct {
	connector.Column
	generated string
}

func loadColumns(ctx context.Context, conn *pgx.Conn, rels []*relation) (map[uint32][]column, error) {
	oids := make([]uint32, len(rels))
	for i, r := range rels {
		oids[i] = r.oid
	}
	rows, err := conn.Query(ctx, `
WITH toast AS (
  SELECT r.oid, EXISTS (SELECT FROM (SELECT r.oid AS relid UNION SELECT t.relid FROM pg_partition_tree(r.oid) t) l JOIN pg_class c ON c.oid = l.relid
                         WHERE c.reltoastrelid <> 0 AND pg_relation_size(c.reltoastrelid) > 0) AS used
    FROM unnest($1::oid[]) r(oid))
SELECT attrelid, attname::text, atttypid, format_type(atttypid, atttypmod),
       (WITH RECURSIVE below(oid, mod) AS (
          SELECT atttypid, atttypmod UNION ALL
          SELECT t.typbasetype, CASE WHEN mod = -1 THEN t.typtypmod ELSE mod END FROM below JOIN pg_type t ON t.oid = below.oid WHERE t.typtype = 'd')
        SELECT format_type(below.oid, mod) FROM below JOIN pg_type t ON t.oid = below.oid WHERE t.typtype <> 'd'),
       attgenerated::text, attlen = -1 AND attstorage <> 'p' AND toast.used
  FROM pg_attribute JOIN toast ON toast.oid = attrelid
 WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped
 ORDER BY attrelid, attnum`, oids)
	if err != nil {
		return nil, fmt.Errorf("reading the columns of the tables: %w", err)
	}
	columns := map[uint32][]column{}
	var (
		oid uint32
		c   column
	)
	_, err = pgx.ForEachRow(rows, []any{&oid, &c.Name, &c.TypeOID, &c.TypeName, &c.BaseName, &c.generated, &c.Toasted}, func() error {
		columns[oid] = append(columns[oid], c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the columns of the tables: %w", err)
	}
	return columns, nil
}

// relation is what the catalogue says of a table, columns aside.
type relation struct {
	oid         uint32
	name        TableName
	kind        string // pg_class.relkind: r table, p partitioned table, v, m, f, S, i, ...
	persistence string // pg_class.relpersistence: p, u unlogged, t temporary
	system      bool
	identity    replicaIdentity
	deferrable  string   // what ALTER TABLE makes a DEFERRABLE primary key one that is checked at once with; empty: it is
	ancestors   []uint32 // of a partition: parent first, root last
	root        TableName
	children    []TableName // tables that inherit from it, partitions aside
	rowSecurity bool        // row level security hides rows from this role
	owner       string
	own         bool // this role may do what the owner may
	mayRead     bool
	mayUse      bool   // the schema
	role        string // this role, quoted
	leaves      []leaf
	lists       []listEntry // the column lists under which it is published now
	refused     []string    // UPDATE, DELETE: what PostgreSQL refuses the application now, for want of a replica identity
}

// leaf is a partition that holds rows.
type leaf struct {
	name     TableName
	identity replicaIdentity
}

// replicaIdentity says what the WAL keeps of an old row.
type replicaIdentity struct {
	letter connector.Identity
	// keys are the columns of the identity's index, in the table's order; none under FULL and NOTHING, and none where there is no such index.
	keys []string
	// primaryKey are the columns of a primary key that could serve; none where there is none.
	primaryKey []string
}

// usable reports whether updates and deletes of the table can be published without failing.
func (i replicaIdentity) usable() bool { return i.letter == connector.IdentityFull || len(i.keys) > 0 }

// effectiveIdentity gives what all old rows of the table carry at least.
func (r *relation) effectiveIdentity() (connector.Identity, []string) {
	if len(r.leaves) == 0 {
		return r.identity.letter, r.identity.keys
	}
	letter, keys, full := r.leaves[0].identity.letter, []string(nil), true
	for _, l := range r.leaves {
		if l.identity.letter != letter {
			letter = connector.IdentityDefault // several at once: what they share is the nearest to a plain key
		}
		if l.identity.letter == connector.IdentityFull {
			continue
		}
		if full {
			keys, full = slices.Clone(l.identity.keys), false
			continue
		}
		keys = slices.DeleteFunc(keys, func(k string) bool { return !slices.Contains(l.identity.keys, k) })
	}
	if !full && len(keys) == 0 {
		return connector.IdentityNothing, nil
	}
	return letter, keys
}

// identitySQL gives, for a pg_class row c, letter, key columns and whether a primary key could serve. An index serves only when it is
// valid and immediate: a deferrable primary key is no replica identity.
const identitySQL = `c.relreplident::text,
       ARRAY(SELECT a.attname::text
               FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
              WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)
              ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text
               FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
              WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate
              ORDER BY a.attnum)`

func loadRelations(ctx context.Context, conn *pgx.Conn, names []TableName) ([]*relation, error) {
	schemas, tables := make([]string, len(names)), make([]string, len(names))
	for i, n := range names {
		schemas[i], tables[i] = n.Schema, n.Name
	}
	rows, err := conn.Query(ctx, `
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast') OR c.oid < 16384,
       ARRAY(SELECT t.relid::oid FROM pg_partition_ancestors(c.oid) WITH ORDINALITY t(relid, n) WHERE t.relid <> c.oid ORDER BY t.n),
       coalesce((SELECT rn.nspname::text FROM pg_class rc JOIN pg_namespace rn ON rn.oid = rc.relnamespace WHERE rc.oid = pg_partition_root(c.oid)), ''),
       coalesce((SELECT rc.relname::text FROM pg_class rc WHERE rc.oid = pg_partition_root(c.oid)), ''),
       ARRAY(SELECT inhrelid::oid FROM pg_inherits WHERE inhparent = c.oid AND c.relkind = 'r'),
       c.relrowsecurity AND row_security_active(c.oid),
       pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'),
       has_table_privilege(c.oid, 'SELECT'), has_schema_privilege(n.oid, 'USAGE'), quote_ident(current_user),
       coalesce((SELECT format('DROP CONSTRAINT %I, ADD CONSTRAINT %I PRIMARY KEY (%s)', k.conname, k.conname, (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.n)
            FROM unnest(k.conkey) WITH ORDINALITY u(attnum, n) JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum))
          FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p' AND k.condeferrable), ''),
       `+identitySQL+`
  FROM unnest($1::text[], $2::text[]) want(s, t)
  JOIN pg_namespace n ON n.nspname = want.s
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = want.t`, schemas, tables)
	if err != nil {
		return nil, fmt.Errorf("reading the tables: %w", err)
	}
	var (
		rels     []*relation
		byOID    = map[uint32]*relation{}
		children = map[uint32]*relation{}
	)
	for rows.Next() {
		var (
			r      relation
			letter string
			heirs  []uint32
		)
		if err := rows.Scan(&r.oid, &r.name.Schema, &r.name.Name, &r.kind, &r.persistence, &r.system, &r.ancestors, &r.root.Schema, &r.root.Name, &heirs,
			&r.rowSecurity, &r.owner, &r.own, &r.mayRead, &r.mayUse, &r.role, &r.deferrable, &letter, &r.identity.keys, &r.identity.primaryKey); err != nil {
			rows.Close()
			return nil, fmt.Errorf("reading the tables: %w", err)
		}
		r.identity.letter = connector.Identity(letter[0])
		if byOID[r.oid] == nil {
			rels, byOID[r.oid] = append(rels, &r), &r
		}
		for _, h := range heirs {
			children[h] = &r
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the tables: %w", err)
	}
	slices.SortFunc(rels, func(a, b *relation) int { return compareTables(a.name, b.name) })
	if err := loadHeirs(ctx, conn, children); err != nil {
		return nil, err
	}
	return rels, loadLeaves(ctx, conn, byOID)
}

// loadHeirs names the tables that inherit from others in the old way.
func loadHeirs(ctx context.Context, conn *pgx.Conn, parents map[uint32]*relation) error {
	if len(parents) == 0 {
		return nil
	}
	oids := make([]uint32, 0, len(parents))
	for oid := range parents {
		oids = append(oids, oid)
	}
	rows, err := conn.Query(ctx, `SELECT c.oid, n.nspname::text, c.relname::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[]) ORDER BY 2, 3`, oids)
	if err != nil {
		return fmt.Errorf("reading the tables that inherit: %w", err)
	}
	var (
		oid uint32
		n   TableName
	)
	if _, err = pgx.ForEachRow(rows, []any{&oid, &n.Schema, &n.Name}, func() error {
		parents[oid].children = append(parents[oid].children, n)
		return nil
	}); err != nil {
		return fmt.Errorf("reading the tables that inherit: %w", err)
	}
	return nil
}

// loadLeaves finds the partitions of the partitioned tables among rels.
func loadLeaves(ctx context.Context, conn *pgx.Conn, rels map[uint32]*relation) error {
	var roots []uint32
	for oid, r := range rels {
		if r.kind == "p" {
			roots = append(roots, oid)
		}
	}
	if len(roots) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, `
SELECT root, n.nspname::text, c.relname::text, `+identitySQL+`
  FROM unnest($1::oid[]) root, pg_partition_tree(root) t
  JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.isleaf AND c.relkind = 'r'
 ORDER BY 2, 3`, roots)
	if err != nil {
		return fmt.Errorf("reading the partitions: %w", err)
	}
	for rows.Next() {
		var (
			root   uint32
			l      leaf
			letter string
		)
		if err := rows.Scan(&root, &l.name.Schema, &l.name.Name, &letter, &l.identity.keys, &l.identity.primaryKey); err != nil {
			rows.Close()
			return fmt.Errorf("reading the partitions: %w", err)
		}
		l.identity.letter = connector.Identity(letter[0])
		rels[root].leaves = append(rels[root].leaves, l)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading the partitions: %w", err)
	}
	return nil
}

// Type is what a type's values look like on the wire.
type Type struct {
	// Base is the type with domains resolved; enums, and types of an extension that are strings (citext), count as text; arrays of such as arrays
	// of what they count as, and arrays of other types that are not built in as arrays of text. Another type stands for itself.
	Base uint32
	// Name is for messages: order_status, numeric, character varying[].
	Name string
	// Opaque says that it is, or is an array of, a type of an extension's of which nothing is known but the text that it writes.
	Opaque bool
}

// ResolveTypes looks types up. An OID that the catalogue does not have (any more) is not in the map.
func ResolveTypes(ctx context.Context, conn *pgx.Conn, oids []uint32) (map[uint32]Type, error) {
	known := map[uint32]pgType{}
	ask := slices.Compact(slices.Sorted(slices.Values(oids)))
	for len(ask) > 0 { // domains and arrays name further types; a handful of rounds at most
		rows, err := conn.Query(ctx, `
SELECT oid, typtype::text, typcategory::text, typbasetype, CASE WHEN typlen = -1 AND typcategory = 'A' AND typdelim = ',' THEN typelem ELSE 0 END, typarray,
       format_type(oid, NULL)
  FROM pg_type WHERE oid = ANY ($1::oid[])`, ask)
		if err != nil {
			return nil, fmt.Errorf("looking types up: %w", err)
		}
		var next []uint32
		var oid uint32
		var t pgType
		_, err = pgx.ForEachRow(rows, []any{&oid, &t.kind, &t.category, &t.base, &t.elem, &t.array, &t.name}, func() error {
			known[oid] = t
			next = append(next, t.base, t.elem)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("looking types up: %w", err)
		}
		next = slices.DeleteFunc(next, func(o uint32) bool { _, ok := known[o]; return ok || o == 0 })
		slices.Sort(next)
		ask = slices.DeleteFunc(slices.Compact(next), func(o uint32) bool { return slices.Contains(ask, o) })
	}
	types := make(map[uint32]Type, len(oids))
	for _, oid := range oids {
		if t, ok := known[oid]; ok {
			types[oid] = Type{Base: baseOf(oid, known), Name: t.name, Opaque: isOpaque(oid, known)}
		}
	}
	return types, nil
}

type pgType struct {
	kind, category    string
	base, elem, array uint32
	name              string
}

func baseOf(oid uint32, known map[uint32]pgType) uint32 {
	t, ok := known[oid]
	switch {
	case !ok:
		return oid
	case t.kind == "d":
		return baseOf(t.base, known)
	case t.kind == "e":
		return textOID
	case t.category == "S" && oid >= firstGeneratedOID:
		return textOID
	case t.elem == 0, oid < firstGeneratedOID:
		return oid
	}
	elem := baseOf(t.elem, known)
	if array := known[elem].array; elem < firstGeneratedOID && elem != textOID && array != 0 {
		return array
	}
	return textArrayOID
}

// isOpaque says of a type, or of the elements of an array, that it is a base type which is not built in and no string.
func isOpaque(oid uint32, known map[uint32]pgType) bool {
	t := known[oid]
	switch {
	case t.kind == "d":
		return isOpaque(t.base, known)
	case t.elem != 0:
		return isOpaque(t.elem, known)
	}
	return t.kind == "b" && t.category != "S" && oid >= firstGeneratedOID
}

// joinNames is for messages: a, b and c.
func joinNames[T any](list []T, text func(T) string) string {
	parts := make([]string, len(list))
	for i, x := range list {
		parts[i] = text(x)
	}
	if n := len(parts); n > 1 {
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
	return strings.Join(parts, "")
}
