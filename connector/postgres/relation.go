package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pglogrepl"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// firstUserOID is PostgreSQL's FirstNormalObjectId: types below it are built in and mean the same everywhere.
const firstUserOID = 16384

// relations keeps the newest shape of each table by relation id. With publish_via_partition_root a child's Relation message may follow its
// parent's with another column order while the rows carry the parent's id, so nothing but the id says which shape a row has.
//
// Used by the stream's goroutine only. A shape that comes again unchanged, on a new connection say, stays the same *connector.Table.
type relations struct {
	byID map[uint32]*connector.Table
	// types resolves types that are not built in; it may ask the server.
	types func(ctx context.Context, oids []uint32) (map[uint32]Type, error)
	known map[uint32]Type

	// What partitions keep of old rows. The root's Relation message speaks of the root's replica identity only, but the rows carry what their partition's
	// has: under a root with FULL, columns that were not kept come as null in a tuple that passes for a whole old row.
	last        uint32                                              // the table of the Relation message just before, if nothing came in between
	sent        map[uint32]*connector.Table                         // the roots' shapes as they were sent
	weaker      map[uint32]map[uint32][]string                      // by root and partition: the columns that the partition keeps, where it keeps less
	partitioned func(ctx context.Context, oid uint32) (bool, error) // it may ask the server; nil: every table may be
}

func newRelations(types func(context.Context, []uint32) (map[uint32]Type, error)) *relations {
	return &relations{byID: map[uint32]*connector.Table{}, types: types, known: map[uint32]Type{}}
}

// note takes a Relation message and reports whether it brought a shape that was not known.
func (r *relations) note(ctx context.Context, m *pglogrepl.RelationMessage) (t *connector.Table, isNew bool, err error) {
	t = &connector.Table{OID: m.RelationID, Schema: m.Namespace, Name: m.RelationName,
		Identity: connector.Identity(m.ReplicaIdentity), Columns: make([]connector.Column, len(m.Columns))}
	if t.Schema == "" {
		t.Schema = "pg_catalog" // the protocol's way to say so
	}
	var ask []uint32
	for i, c := range m.Columns {
		t.Columns[i] = connector.Column{Name: c.Name, TypeOID: c.DataType, BaseOID: c.DataType, Key: c.Flags&1 != 0}
		if _, ok := r.known[c.DataType]; !ok && c.DataType >= firstUserOID {
			ask = append(ask, c.DataType)
		}
	}
	if len(ask) > 0 {
		found, err := r.types(ctx, ask)
		if err != nil {
			return nil, false, fmt.Errorf("looking up the types of %s: %w", t, err)
		}
		for oid, typ := range found {
			r.known[oid] = typ
		}
	}
	for i := range t.Columns {
		if typ, ok := r.known[t.Columns[i].TypeOID]; ok {
			t.Columns[i].BaseOID, t.Columns[i].TypeName = typ.Base, typ.Name
		}
	}
	root := r.last
	r.last = m.RelationID
	if root != 0 && root != m.RelationID {
		if err := r.notePartition(ctx, root, t); err != nil {
			return nil, false, err
		}
	}
	if len(r.weaker[m.RelationID]) > 0 {
		r.sent[m.RelationID] = t
		t = r.weakened(t)
	}
	t, isNew = r.take(t)
	return t, isNew, nil
}

// take makes t its table's newest shape, if it differs from the one before.
func (r *relations) take(t *connector.Table) (newest *connector.Table, isNew bool) {
	if old := r.byID[t.OID]; old != nil && old.Schema == t.Schema && old.Name == t.Name && old.Identity == t.Identity &&
		slices.Equal(old.Columns, t.Columns) {
		return old, false
	}
	r.byID[t.OID] = t
	return t, true
}

// connected forgets what holds for one connection only: on each one the Relation messages come again before the rows.
func (r *relations) connected() {
	r.last = 0
	clear(r.sent)
	clear(r.weaker)
}

// notePartition looks at a Relation message that follows its root's at once, as that of a partition does (pgoutput's maybe_send_schema), before the
// first row and after each change of the partition. Where it keeps less of old rows than the root says, the root's shape says so from here on.
func (r *relations) notePartition(ctx context.Context, rootOID uint32, leaf *connector.Table) error {
	root := r.sent[rootOID]
	if root == nil {
		root = r.byID[rootOID]
	}
	var keeps []string
	for _, c := range leaf.Columns {
		if c.Key {
			keeps = append(keeps, c.Name)
		}
	}
	less := slices.ContainsFunc(root.Columns, func(c connector.Column) bool { return c.Key && !slices.Contains(keeps, c.Name) })
	_, was := r.weaker[rootOID][leaf.OID]
	if !less && !was {
		return nil
	}
	if less && !was && r.partitioned != nil {
		if is, err := r.partitioned(ctx, rootOID); err != nil || !is { // not a root: both are in one TRUNCATE
			return err
		}
	}
	if r.weaker == nil {
		r.sent, r.weaker = map[uint32]*connector.Table{}, map[uint32]map[uint32][]string{}
	}
	if r.weaker[rootOID] == nil {
		r.weaker[rootOID] = map[uint32][]string{}
	}
	r.sent[rootOID] = root
	if delete(r.weaker[rootOID], leaf.OID); less {
		r.weaker[rootOID][leaf.OID] = keeps
	}
	r.take(r.weakened(root))
	return nil
}

// weakened gives a root's shape with the identity that all of its partitions keep.
func (r *relations) weakened(root *connector.Table) *connector.Table {
	t := *root
	t.Columns = slices.Clone(root.Columns)
	for _, keeps := range r.weaker[root.OID] {
		t.Identity = connector.IdentityNothing
		for i := range t.Columns {
			if t.Columns[i].Key = t.Columns[i].Key && slices.Contains(keeps, t.Columns[i].Name); t.Columns[i].Key {
				t.Identity = connector.IdentityDefault
			}
		}
	}
	return &t
}
