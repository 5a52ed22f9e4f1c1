package config

import (
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// The OIDs of PostgreSQL's pg_type.dat.
const (
	boolOID        = 16
	int8OID        = 20
	textOID        = 25
	varcharOID     = 1043
	dateOID        = 1082
	timestamptzOID = 1184
	numericOID     = 1700
)

func column(name, typeName string, oid uint32, key bool) connector.Column {
	return connector.Column{Name: name, TypeName: typeName, TypeOID: oid, BaseOID: oid, Key: key}
}

// tables are those of the quickstart's schema.sql, and one more that has the default replica identity.
func tables() []*connector.Table {
	return []*connector.Table{
		{OID: 1, Schema: "crm", Name: "orders", Identity: connector.IdentityFull, Columns: []connector.Column{
			column("order_id", "bigint", int8OID, true),
			column("order_no", "character varying(32)", varcharOID, true),
			column("phone", "character varying(20)", varcharOID, true),
			column("goods", "text", textOID, true),
			column("amount", "numeric(12,2)", numericOID, true),
			column("status", "text", textOID, true),
			column("created_at", "timestamp with time zone", timestamptzOID, true),
			column("paid_at", "timestamp with time zone", timestamptzOID, true),
		}},
		{OID: 2, Schema: "crm", Name: "member_groups", Identity: connector.IdentityFull, Columns: []connector.Column{
			column("phone", "character varying(20)", varcharOID, true),
			column("group_name", "text", textOID, true),
			column("since", "date", dateOID, true),
		}},
		{OID: 3, Schema: "crm", Name: "visits", Identity: connector.IdentityDefault, Columns: []connector.Column{
			column("visit_id", "bigint", int8OID, true),
			column("phone", "text", textOID, false),
			column("points", "bigint", int8OID, false),
			column("confirmed", "boolean", boolOID, false),
		}},
	}
}

// checkColumns compares the mappings with tables.
func checkColumns(cfg *Config) error {
	return cfg.Mappings.Check(tables()).Err()
}

// TestExamplesFitTheirTables: the quickstart's mappings read what its tables have, with no warning.
func TestExamplesFitTheirTables(t *testing.T) {
	cfg, err := Load("../../../examples/quickstart/tuzhan-cdc.yaml", lookUp(map[string]string{"CRM_DSN": "postgres://cdc@127.0.0.1/crm", "TUZHAN_APP_SECRET": "s"}))
	if err != nil {
		t.Fatal(err)
	}
	f := cfg.Mappings.Check(tables())
	if f.Err() != nil || f.Warnings.Len() > 0 {
		t.Errorf("%v\n%v", f.Err(), f.Warnings.Err())
	}
}
