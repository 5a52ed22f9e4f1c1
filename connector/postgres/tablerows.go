package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// RowQuery says which rows ReadRows gives. The zero value: all, in no order.
type RowQuery struct {
	// Where is a condition in SQL, as it stands behind WHERE; empty: none. It runs in a read-only transaction, with the role's own rights.
	Where string
	// Newest are columns by which the rows are sorted, the greatest first; empty: in no order.
	Newest []string
	// Limit is the most rows; 0: all.
	Limit int

	only []string // these columns, and no others
}

// ReadRows hands each row that is in a table now to each, as a change of op Snapshot without position and commit time: t's columns, in t's order, with values that are byte
// for byte those that the stream would send of the row, since the server writes both with the same output functions under the same settings. Of a partitioned table
// these are the rows of all its partitions; of another one its own, without those of tables that inherit from it.
//
// The tuples are valid during the call of each only; its error ends the reading and comes back. It needs SELECT on the columns: without it the error is a *Refusal whose cure
// is the GRANT. conn must be one of Connect's, with no transaction open.
func ReadRows(ctx context.Context, conn *pgx.Conn, t *connector.Table, q RowQuery, each func(*connector.Change) error) error {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("reading rows of %s: %w", t, err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // there is nothing to commit
	// Connect leaves the time zone to the database; the stream's is UTC.
	if _, err := tx.Exec(ctx, "SET LOCAL timezone = 'UTC'"); err != nil {
		return fmt.Errorf("reading rows of %s: %w", t, err)
	}
	if q.only != nil {
		t = narrowed(t, q.only)
	}
	r := tableRows{name: TableName{t.Schema, t.Name}}
	if err := tx.QueryRow(ctx, `
SELECT c.relkind::text, has_schema_privilege(c.relnamespace, 'USAGE'), quote_ident(current_user) FROM pg_class c WHERE c.oid = $1`, t.OID).
		Scan(&r.kind, &r.mayUse, &r.role); err != nil {
		return fmt.Errorf("reading rows of %s: %w", t, err)
	}
	sql := r.sql(t, q)
	result := conn.PgConn().ExecParams(ctx, sql, nil, nil, nil, nil) // in text, and one statement only
	change := &connector.Change{Op: connector.Snapshot, Table: t, New: make(connector.Tuple, len(t.Columns))}
	for err == nil && result.NextRow() {
		for i, value := range result.Values() {
			change.New[i] = connector.Datum{Kind: connector.Text, Text: value}
			if value == nil {
				change.New[i] = connector.Datum{Kind: connector.Null}
			}
		}
		err = each(change)
	}
	if _, ended := result.Close(); err == nil && ended != nil {
		err = r.failed(ended)
	}
	return err
}

// narrowed gives t with some of its columns.
func narrowed(t *connector.Table, columns []string) *connector.Table {
	n := *t
	n.Columns = nil
	for _, c := range columns {
		n.Columns = append(n.Columns, t.Columns[t.Column(c)])
	}
	return &n
}

// tableRows is what ReadRows knows of the table.
type tableRows struct {
	name       TableName
	kind, role string
	mayUse     bool // the schema
}

func (r *tableRows) sql(t *connector.Table, q RowQuery) string {
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = quoteIdent(c.Name)
	}
	only := "ONLY "
	if r.kind == "p" { // its rows are those of the partitions
		only = ""
	}
	sql := "SELECT " + strings.Join(columns, ", ") + " FROM " + only + r.name.SQL()
	if q.Where != "" {
		sql += " WHERE (" + q.Where + "\n)" // the condition may end with a comment
	}
	for i, c := range q.Newest {
		if i == 0 {
			sql += " ORDER BY "
		} else {
			sql += ", "
		}
		sql += quoteIdent(c) + " DESC"
	}
	if q.Limit > 0 {
		sql += fmt.Sprintf(" LIMIT %d", q.Limit)
	}
	return sql
}

// failed adds what would help.
func (r *tableRows) failed(err error) error {
	switch {
	case hasState(err, stateReadOnly):
		return &explained{Refusal{"the condition changes something, and rows of " + r.name.String() + " are read in a read-only transaction", ""}, err}
	case !hasState(err, stateNoRight):
		return fmt.Errorf("reading rows of %s: %w", r.name, err)
	}
	cure := ""
	if !r.mayUse {
		cure = "GRANT USAGE ON SCHEMA " + quoteIdent(r.name.Schema) + " TO " + r.role + ";\n"
	}
	return &explained{Refusal{"role " + r.role + " may not read the rows of " + r.name.String() + " (the stream needs no such right)",
		cure + "GRANT SELECT ON TABLE " + r.name.SQL() + " TO " + r.role + ";"}, err}
}

// PrimaryKey gives the columns of a table's primary key, in the key's order; none where it has none.
func PrimaryKey(ctx context.Context, conn *pgx.Conn, t *connector.Table) ([]string, error) {
	rows, err := conn.Query(ctx, `
SELECT a.attname::text
  FROM pg_index i, unnest(i.indkey::smallint[]) WITH ORDINALITY k(attnum, n), pg_attribute a
 WHERE i.indrelid = $1 AND i.indisprimary AND i.indisvalid AND k.n <= i.indnkeyatts AND a.attrelid = i.indrelid AND a.attnum = k.attnum
 ORDER BY k.n`, t.OID)
	if err != nil {
		return nil, fmt.Errorf("reading the primary key of %s: %w", t, err)
	}
	key, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the primary key of %s: %w", t, err)
	}
	return key, nil
}
