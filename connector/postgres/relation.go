package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/jackc/pglogrepl"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// relations keeps the newest shape of each table by relation id. With publish_via_partition_root a child's Relation message may follow its
// parent's with another column order while the rows carry the parent's id, so nothing but the id says which shape a row has.
//
// Used by the stream's goroutine only. A shape that comes again unchanged, on a new connection say, stays the same *connector.Table.
type relations struct {
	byID map[uint32]*connector.Table
	// types resolves types that are not built in; it may ask the server.
	types func(ctx context.Context, oids []uint32) (map[uint32]Type, error)
	known map[uint32]Type
	// names are those of Type messages, for types that the catalogue no longer has.
	names map[uint32]string
	// uses say which columns the mappings read.
	uses []Use
	log  *slog.Logger
	told map[uint32]bool // types that a warning has named

	// last is the table of the Relation message before this one; nil where another message came between. Before a row it is the row's own table, or the
	// partition that the row is in.
	last *connector.Table
	// leaves are the partitions that have sent rows under a root's id since the connection began, by root and by their own id.
	leaves map[uint32]map[uint32]*connector.Table
	// found holds what partitions gave, until more is known.
	found map[*connector.Table]*partitioned
}

// partitioned is what is known of a table whose rows come from partitions, each of which has a replica identity of its own (a new one has DEFAULT, whatever
// the root's is).
type partitioned struct {
	// weak says that the root is FULL and a partition is not: its old rows are called whole, and have nulls where nothing was sent.
	weak bool
	// keys says of each of the root's columns whether every partition's identity has it: it stayed as it was where an update came without an old row.
	keys []bool
}

// connected forgets what was true of the connection before.
func (r *relations) connected() {
	r.last, r.leaves, r.found = nil, map[uint32]map[uint32]*connector.Table{}, map[*connector.Table]*partitioned{}
}

// partitions gives what is known of the partitions of t, of which a row has come; nil where it has none. The server sends a Relation message of the partition
// right before the first row of it on a connection, and again when it was altered: so the row tells which root a partition belongs to.
func (r *relations) partitions(t *connector.Table) *partitioned {
	if leaf := r.last; leaf != nil && leaf.OID != t.OID {
		if r.leaves[t.OID] == nil {
			r.leaves[t.OID] = map[uint32]*connector.Table{}
		}
		r.leaves[t.OID][leaf.OID] = leaf
		clear(r.found)
		if t.Identity == connector.IdentityFull && leaf.Identity != connector.IdentityFull {
			r.log.Warn("a partition keeps less of old rows than its table's replica identity says: what it does not send is unknown", "table", t.String(),
				"partition", leaf.String(), "cure", "ALTER TABLE "+TableName{leaf.Schema, leaf.Name}.SQL()+" REPLICA IDENTITY FULL;")
		}
	}
	r.last = nil
	leaves := r.leaves[t.OID]
	if len(leaves) == 0 {
		return nil
	}
	found := r.found[t]
	if found == nil {
		found = &partitioned{keys: make([]bool, len(t.Columns))}
		for i := range found.keys {
			found.keys[i] = true
		}
		for _, leaf := range leaves {
			if leaf.Identity == connector.IdentityFull {
				continue // its updates always come with an old row
			}
			found.weak = found.weak || t.Identity == connector.IdentityFull
			for i, c := range t.Columns {
				j := leaf.Column(c.Name)
				found.keys[i] = found.keys[i] && j >= 0 && leaf.Columns[j].Key
			}
		}
		r.found[t] = found
	}
	return found
}

func newRelations(uses []Use, log *slog.Logger, types func(context.Context, []uint32) (map[uint32]Type, error)) *relations {
	r := &relations{byID: map[uint32]*connector.Table{}, types: types, known: map[uint32]Type{}, names: map[uint32]string{},
		uses: uses, log: log, told: map[uint32]bool{}}
	r.connected()
	return r
}

// maxTypeNames bounds what Type messages leave behind.
const maxTypeNames = 10_000

// name takes a Type message.
func (r *relations) name(m *pglogrepl.TypeMessage) {
	if len(r.names) >= maxTypeNames {
		clear(r.names)
	}
	r.names[m.DataType] = m.Namespace + "." + m.Name
}

// warn tells, once a type, of columns that mappings read as the text that PostgreSQL writes because nothing more is known of their type.
func (r *relations) warn(t *connector.Table) {
	i := slices.IndexFunc(r.uses, func(u Use) bool { return u.Table == TableName{t.Schema, t.Name} })
	if i < 0 {
		return
	}
	for _, c := range t.Columns {
		typ, ok := r.known[c.TypeOID]
		if c.TypeOID < firstGeneratedOID || ok && !typ.Opaque || r.told[c.TypeOID] || r.uses[i].Columns != nil && !slices.Contains(r.uses[i].Columns, c.Name) {
			continue
		}
		r.told[c.TypeOID] = true
		why := "the type is an extension's"
		name := typ.Name
		if !ok {
			if why, name = "the type is gone from the catalogue", r.names[c.TypeOID]; name == "" {
				name = fmt.Sprint(c.TypeOID)
			}
		}
		r.log.Warn("a column is read as the text that PostgreSQL writes", "type", name, "table", t.String(), "column", c.Name, "reason", why)
	}
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
		if _, ok := r.known[c.DataType]; !ok && c.DataType >= firstGeneratedOID {
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
	if old := r.byID[m.RelationID]; old != nil && old.Schema == t.Schema && old.Name == t.Name && old.Identity == t.Identity &&
		slices.Equal(old.Columns, t.Columns) {
		r.last = old
		return old, false, nil
	}
	r.last = t
	r.byID[m.RelationID] = t
	r.warn(t)
	return t, true, nil
}
