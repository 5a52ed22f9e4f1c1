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
}

func newRelations(uses []Use, log *slog.Logger, types func(context.Context, []uint32) (map[uint32]Type, error)) *relations {
	return &relations{byID: map[uint32]*connector.Table{}, types: types, known: map[uint32]Type{}, names: map[uint32]string{},
		uses: uses, log: log, told: map[uint32]bool{}}
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
		return old, false, nil
	}
	r.byID[m.RelationID] = t
	r.warn(t)
	return t, true, nil
}
