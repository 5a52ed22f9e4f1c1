package postgres

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

// TestUnknownTypesAreToldOfOnce: a type of which nothing is known is told of once, with a column that a mapping reads; others are not.
func TestUnknownTypesAreToldOfOnce(t *testing.T) {
	var log bytes.Buffer
	known := map[uint32]Type{20001: {Base: 1700, Name: "crm.price"}, 20002: {Base: 20002, Name: "geometry", Opaque: true}}
	r := newRelations([]Use{{Table: TableName{"crm", "t"}, Columns: []string{"price", "place", "other", "gone"}}}, slog.New(slog.NewTextHandler(&log, nil)),
		func(_ context.Context, oids []uint32) (map[uint32]Type, error) {
			found := map[uint32]Type{}
			for _, o := range oids {
				if typ, ok := known[o]; ok {
					found[o] = typ
				}
			}
			return found, nil
		})
	r.name(&pglogrepl.TypeMessage{DataType: 20003, Namespace: "crm", Name: "dropped"})
	relation := func(id uint32, name string, columns ...any) {
		m := &pglogrepl.RelationMessage{RelationID: id, Namespace: "crm", RelationName: name, ReplicaIdentity: 'd'}
		for i := 0; i < len(columns); i += 2 {
			m.Columns = append(m.Columns, &pglogrepl.RelationMessageColumn{Name: columns[i].(string), DataType: uint32(columns[i+1].(int))})
		}
		if _, _, err := r.note(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	relation(1, "t", "unread", 20002, "price", 20001, "place", 20002, "other", 20002, "gone", 20003, "id", 20)
	relation(1, "t", "place", 20002, "gone", 20003)
	relation(2, "unmapped", "place", 20004)
	got := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(got) != 2 || !strings.Contains(got[0], `type=geometry table=crm.t column=place reason="the type is an extension's"`) ||
		!strings.Contains(got[1], `type=crm.dropped table=crm.t column=gone reason="the type is gone from the catalogue"`) {
		t.Errorf("%s", log.String())
	}
}
