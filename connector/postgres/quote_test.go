package postgres

import (
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

func TestQuotingIsReadBackAsItWas(t *testing.T) {
	db := pgtest.Server(t).Database(t)
	for _, s := range []string{"plain", "UPPER", "select", `a"b`, "a'b", "a.b", "订单", `back\slash`, " "} {
		if got := pgtest.Value[string](t, db, "SELECT "+literal(s)); got != s {
			t.Errorf("literal %q came back as %q", s, got)
		}
		db.Exec(t, "CREATE TABLE "+quoteIdent(s)+" ()")
		if !pgtest.Value[bool](t, db, "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1)", s) {
			t.Errorf("no table of the name %q", s)
		}
	}
}

func TestNearest(t *testing.T) {
	all := []TableName{{"crm", "orders"}, {"crm", "Visits"}, {"crm", "order_items"}, {"public", "orders"}, {"crm", "订单"}, {"crm", "id"}}
	for want, near := range map[TableName]TableName{
		{"crm", "order"}:     {"crm", "orders"},
		{"crm", "visits"}:    {"crm", "Visits"},
		{"public", "order"}:  {"public", "orders"},
		{"sales", "visits"}:  {"crm", "Visits"},
		{"crm", "orderitem"}: {"crm", "order_items"},
		{"crm", "customers"}: {},
		{"crm", "客户"}:        {},
	} {
		if got := nearest(want, all); got != near {
			t.Errorf("nearest to %s: %s, want %s", want, got, near)
		}
	}
}
