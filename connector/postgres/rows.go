package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Rows reads tables for backfills: connector.RowSource.
type Rows struct {
	// DSN is where watermarks are written, the primary; and where rows are read, unless StandbyDSN is set. Both are secrets.
	DSN, StandbyDSN string
	// Publications are those that are streamed: of a table that they publish with a column list, only the columns of the list are read; with a row filter, only the
	// rows that meet it.
	Publications []string
}

// rowsError is an error of a RowReader, in words.
type rowsError struct {
	err  error
	what string
}

func (e *rowsError) Error() string {
	text := strings.Join(strings.Fields(Explain(e.err).Error()), " ")
	if e.what == "" {
		return text
	}
	return e.what + ": " + text
}
func (e *rowsError) Unwrap() error { return e.err }

// Passing reports whether waiting cures it.
func (e *rowsError) Passing() bool { return Passing(e.err) || errors.Is(e.err, errAltered) }

// altered says of an error of a query on a table that was looked at before that it comes of a change of the table, which is then looked at anew.
func altered(err error) error {
	if hasState(err, stateUndefinedColumn) || hasState(err, stateUndefinedTable) {
		return fmt.Errorf("%w: %w", errAltered, err)
	}
	return err
}

// errAltered says that the table has another shape than it had when it was looked at.
var errAltered = errors.New("the table was altered")

func rowsFailed(what string, err error) error {
	var refused *Refusal
	if err == nil || errors.As(err, &refused) && !errors.As(err, new(*pgconn.PgError)) {
		return err
	}
	return &rowsError{err, what}
}

// renewRows is how long a connection is used: a smart shutdown is told to new connections only, and waits for the old ones.
const renewRows = 10 * time.Second

// rowReader reads one table. Its methods are in this file and in chunk.go.
type rowReader struct {
	*Rows
	table *connector.Table
	name  TableName
	where string
	// filter is the publications' row filter; empty: there is none.
	filter string
	plan   rowPlan

	system     string // the primary's identifier and database
	free       chan *arena
	types      []uint32 // of the columns, as they came first
	read, mark *rowConn
	marking    sync.Mutex                                       // mark is used by one goroutine at a time
	early      func(*connector.Table, *connector.ChunkRow) bool // nil: there is none
	low        string                                           // the watermark that the next query writes
}

// rowConn is a connection, made anew now and then.
type rowConn struct {
	dsn   string
	conn  *pgconn.PgConn
	until time.Time
}

// Open looks at the table of a backfill.
func (r *Rows) Open(ctx context.Context, b *connector.Backfill) (_ connector.RowReader, err error) {
	t := &rowReader{Rows: r, name: TableName{b.Schema, b.Name}, where: b.Where, mark: &rowConn{dsn: r.DSN}, free: make(chan *arena, 4)}
	t.read = &rowConn{dsn: cmp.Or(r.StandbyDSN, r.DSN)}
	defer func() {
		if err != nil {
			t.Close()
			err = rowsFailed("looking at table "+t.name.String(), err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := connectWith(ctx, r.DSN, noTimeout)
	if err != nil {
		return nil, err
	}
	defer closePlain(conn)
	if _, err := conn.Exec(ctx, rowSettings); err != nil {
		return nil, err
	}
	if err := t.mayMark(ctx, conn); err != nil {
		return nil, err
	}
	tables, err := LoadTables(ctx, conn, []TableName{t.name}, r.Publications...)
	if err != nil {
		return nil, err
	}
	if t.table = tables[t.name]; t.table == nil {
		return nil, &Refusal{"there is no table " + t.name.String(), "mend table: in the mapping"}
	}
	if t.filter, err = rowFilter(ctx, conn, t.name, r.Publications); err != nil {
		return nil, err
	}
	if err := t.plan.load(ctx, conn, t.table); err != nil {
		return nil, err
	}
	if t.where != "" {
		if _, err := t.exec(ctx, t.read, "SELECT FROM "+t.from()+" t"+condition(t.wanted())+" LIMIT 0"); err != nil {
			return nil, fmt.Errorf("--where: %w", err)
		}
	}
	return t, nil
}

// whichDatabase names a database of a cluster: that of its standby has the same name.
const whichDatabase = "(SELECT system_identifier::text || '/' || current_database() FROM pg_control_system())"

// mayMark refuses a server that takes no watermarks.
func (t *rowReader) mayMark(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var standby bool
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), "+whichDatabase).Scan(&version, &standby, &t.system); err != nil {
		return err
	}
	switch {
	case version < 10000*messagesSince:
		return &Refusal{fmt.Sprintf("a backfill needs PostgreSQL 14 or newer, and this server is PostgreSQL %d: its watermarks would not come through the stream", version/10000), "use a newer server"}
	case standby && version < standbyVersion:
		return errRecovering
	case standby:
		return &Refusal{"a backfill writes watermarks into the WAL, and the server of source.dsn is a standby", "point source.dsn at the primary; rows can be read from the standby: source.backfillDSN"}
	}
	return nil
}

// noTimeout is a setting from the first statement on: the role's time-out would be for rowSettings too.
var noTimeout = map[string]string{"statement_timeout": "0"}

// rowSettings are for the sessions that read and mark: time-outs of the role are not for them, a query that would leave out rows by row level security fails
// rather, a chunk is read by the index of the key, and a watermark waits for no standby.
const rowSettings = `SELECT set_config(name, CASE name WHEN 'row_security' THEN 'off' WHEN 'enable_seqscan' THEN 'off' WHEN 'enable_bitmapscan' THEN 'off' WHEN 'jit' THEN 'off'
	WHEN 'standard_conforming_strings' THEN 'on' WHEN 'synchronous_commit' THEN 'local' WHEN 'lock_timeout' THEN '10s' ELSE '0' END, false)
  FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout',
	'max_parallel_workers_per_gather', 'row_security', 'enable_seqscan', 'enable_bitmapscan', 'jit', 'standard_conforming_strings', 'synchronous_commit')`

func (c *rowConn) get(ctx context.Context) (*pgconn.PgConn, error) {
	if c.conn != nil && !c.conn.IsClosed() && time.Now().Before(c.until) {
		return c.conn, nil
	}
	c.close()
	cfg, err := pgconn.ParseConfig(c.dsn)
	if err != nil {
		return nil, err
	}
	setSession(cfg.RuntimeParams)
	maps.Copy(cfg.RuntimeParams, noTimeout)
	setDialer(cfg)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err = setEncoding(ctx, conn); err == nil {
		_, err = conn.Exec(ctx, rowSettings).ReadAll()
	}
	if err != nil {
		closeConn(conn)
		return nil, err
	}
	c.conn, c.until = conn, time.Now().Add(renewRows)
	return conn, nil
}

func (c *rowConn) close() {
	if c.conn != nil {
		closeConn(c.conn)
		c.conn = nil
	}
}

// Rest gives up connections that have been there for long.
func (t *rowReader) Rest() {
	for _, c := range []*rowConn{t.read, t.mark} {
		if c.conn != nil && time.Now().After(c.until) {
			c.close()
		}
	}
}

// Close ends it.
func (t *rowReader) Close() {
	t.read.close()
	t.mark.close()
}

// exec runs statements in one go, and gives what each of them returned.
func (t *rowReader) exec(ctx context.Context, on *rowConn, sql string) ([]*pgconn.Result, error) {
	conn, err := on.get(ctx)
	if err != nil {
		return nil, err
	}
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		on.close() // it may be in a transaction
	}
	return results, err
}

// Early has take called with each row as it is read.
func (t *rowReader) Early(take func(*connector.Table, *connector.ChunkRow) bool) { t.early = take }

// Key are the columns by which rows are told apart.
func (t *rowReader) Key() []string { return t.plan.names() }

// Unfit refuses a key by which nobody can tell for sure which row has had its points.
func (t *rowReader) Unfit() string {
	if t.table.DeferrableKey == "" {
		return ""
	}
	return fmt.Sprintf("the primary key of table %s is DEFERRABLE: within a transaction two rows may have the same key, so that nobody can tell which of them has had its points. Make it one that is checked at once: %s",
		t.table, t.table.DeferrableKey)
}

// Estimate is how many rows the table has, as the statistics say; where there are none it is guessed from its size.
func (t *rowReader) Estimate(ctx context.Context) (int64, error) {
	results, err := t.exec(ctx, t.read, fmt.Sprintf(`SELECT coalesce(sum(CASE WHEN c.reltuples > 0 THEN c.reltuples ELSE pg_relation_size(c.oid) / 100 END), 0)::bigint
  FROM (SELECT %[1]d::oid AS relid UNION SELECT relid FROM pg_partition_tree(%[1]d)) l JOIN pg_class c ON c.oid = l.relid WHERE c.relkind = 'r'`, t.table.OID))
	if err != nil {
		return 0, rowsFailed("looking at table "+t.name.String(), err)
	}
	return strconv.ParseInt(string(results[0].Rows[0][0]), 10, 64)
}

// Mark writes a watermark in a transaction of its own, and waits until it is on the disk: so it comes at once.
func (t *rowReader) Mark(ctx context.Context, text string) (xid uint64, err error) {
	xid, _, err = t.emit(ctx, text)
	return xid, err
}

// emit is Mark; it gives the WAL's end behind the watermark too.
func (t *rowReader) emit(ctx context.Context, text string) (xid uint64, end string, err error) {
	t.marking.Lock()
	defer t.marking.Unlock()
	results, err := t.exec(ctx, t.mark, "BEGIN; SELECT pg_current_xact_id(), "+emitSQL(text)+"; COMMIT; SELECT pg_current_wal_insert_lsn()")
	if err != nil {
		return 0, "", rowsFailed("writing a watermark", err)
	}
	xid, err = strconv.ParseUint(string(results[1].Rows[0][0]), 10, 64)
	return xid, string(results[3].Rows[0][0]), err
}

// emitSQL writes a watermark.
func emitSQL(text string) string {
	return "pg_logical_emit_message(true, " + literal(markerPrefix) + ", " + literal(watermarkContent+text) + ")"
}

// Writers tells of transactions before xid whose commits may be in the WAL already, and that no other session sees yet. One that waits for its client is
// surely not committed.
func (t *rowReader) Writers(ctx context.Context, xid uint64) (string, error) {
	if t.StandbyDSN != "" {
		return "", nil // it shows what it has replayed
	}
	results, err := t.exec(ctx, t.mark, fmt.Sprintf(`SELECT x, a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::int
  FROM pg_snapshot_xip(pg_current_snapshot()) x LEFT JOIN pg_stat_activity a ON a.backend_xid = x::xid
 WHERE x < '%d'::xid8 AND coalesce(a.state, '') NOT LIKE 'idle in transaction%%' ORDER BY x`, xid))
	if err != nil {
		return "", rowsFailed("looking for transactions that write", err)
	}
	rows := results[0].Rows
	if len(rows) == 0 {
		return "", nil
	}
	who := "a prepared transaction, or one of another database"
	if rows[0][1] != nil {
		who = fmt.Sprintf("pid %s, open for %s s", rows[0][1], rows[0][2])
	}
	more := ""
	if len(rows) > 1 {
		more = fmt.Sprintf(" and %d more", len(rows)-1)
	}
	return fmt.Sprintf("it waits for a transaction that was writing: %s%s (SELECT * FROM pg_stat_activity WHERE backend_xid IS NOT NULL; SELECT * FROM pg_prepared_xacts)", who, more), nil
}

// rowPlan is how a table's rows are told apart and put in order.
type rowPlan struct {
	key    []keyColumn
	leaves []TableName // of a table without a key: those that hold its rows
	only   bool        // those of tables that inherit from it are not its rows
	extra  []int       // of key: columns that the table's shape does not have, and that are read behind the others
}

// keyColumn is a column of the key, with what its index compares it by. Comparison and order must be the same, whatever search_path is set to, and the
// index's own, or each chunk sorts the whole table.
type keyColumn struct {
	name      string
	typ       string // ready to stand in a cast
	collation string // quoted, where the index has another one than the column
	schema    string // of the operators
	gt, lt    string
	eq        string
	at        int // in the table's shape; -1: not there
}

func (p *rowPlan) names() []string {
	if p.key == nil {
		return nil
	}
	names := make([]string, len(p.key))
	for i, k := range p.key {
		names[i] = k.name
	}
	return names
}

// load finds the key: the index that is the replica identity, since the stream then tells of each change whose row it was; else the primary key.
func (p *rowPlan) load(ctx context.Context, conn *pgx.Conn, t *connector.Table) error {
	rows, err := conn.Query(ctx, `
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
       CASE WHEN i.indcollation[k] <> 0 AND i.indcollation[k] <> a.attcollation THEN (SELECT quote_ident(n.nspname) || '.' || quote_ident(l.collname)
            FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = i.indcollation[k]) ELSE '' END,
       quote_ident(n.nspname), gt.oprname::text, lt.oprname::text, eq.oprname::text
  FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid, generate_series(0, i.indnkeyatts - 1) k
  JOIN pg_attribute a ON true JOIN pg_opclass o ON true
  JOIN pg_amop ag ON ag.amopfamily = o.opcfamily AND ag.amoplefttype = o.opcintype AND ag.amoprighttype = o.opcintype AND ag.amopstrategy = 5
  JOIN pg_amop al ON al.amopfamily = o.opcfamily AND al.amoplefttype = o.opcintype AND al.amoprighttype = o.opcintype AND al.amopstrategy = 1
  JOIN pg_amop ae ON ae.amopfamily = o.opcfamily AND ae.amoplefttype = o.opcintype AND ae.amoprighttype = o.opcintype AND ae.amopstrategy = 3
  JOIN pg_operator gt ON gt.oid = ag.amopopr JOIN pg_namespace n ON n.oid = gt.oprnamespace
  JOIN pg_operator lt ON lt.oid = al.amopopr JOIN pg_operator eq ON eq.oid = ae.amopopr
 WHERE c.oid = $1 AND a.attrelid = c.oid AND a.attnum = i.indkey[k] AND o.oid = i.indclass[k]
   AND i.indisvalid AND i.indisunique AND (CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END)
 ORDER BY k`, t.OID)
	if err != nil {
		return err
	}
	p.key, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k keyColumn, err error) {
		err = row.Scan(&k.name, &k.typ, &k.collation, &k.schema, &k.gt, &k.lt, &k.eq)
		return k, err
	})
	if err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, "SELECT relkind = 'r' FROM pg_class WHERE oid = $1", t.OID).Scan(&p.only); err != nil {
		return err
	}
	if len(p.key) == 0 {
		p.key = nil
		return p.loadLeaves(ctx, conn, t)
	}
	for i := range p.key {
		if p.key[i].at = t.Column(p.key[i].name); p.key[i].at < 0 {
			p.extra = append(p.extra, i)
		}
	}
	return nil
}

// loadLeaves finds what holds the rows of a table without a key.
func (p *rowPlan) loadLeaves(ctx context.Context, conn *pgx.Conn, t *connector.Table) error {
	rows, err := conn.Query(ctx, `SELECT n.nspname::text, c.relname::text FROM (SELECT $1::oid AS relid UNION SELECT relid FROM pg_partition_tree($1::oid::regclass)) l
  JOIN pg_class c ON c.oid = l.relid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' ORDER BY c.oid`, t.OID)
	if err != nil {
		return err
	}
	p.leaves, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (n TableName, err error) {
		err = row.Scan(&n.Schema, &n.Name)
		return n, err
	})
	return err
}

// expr is a key column as the index has it.
func (k *keyColumn) expr() string {
	if k.collation == "" {
		return "t." + quoteIdent(k.name)
	}
	return "t." + quoteIdent(k.name) + " COLLATE " + k.collation
}

func (k *keyColumn) literal(value string) string { return literal(value) + "::" + k.typ }

func (k *keyColumn) operator(name string) string { return " OPERATOR(" + k.schema + "." + name + ") " }

// order is the ORDER BY of the key.
func (p *rowPlan) order() string {
	parts := make([]string, len(p.key))
	for i := range p.key {
		parts[i] = p.key[i].expr() + " USING" + p.key[i].operator(p.key[i].lt)
	}
	return strings.Join(parts, ", ")
}

// compare is the condition that a row's key is greater than that one; or: or equal.
func (p *rowPlan) compare(key string, or bool) (string, error) {
	values := connector.SplitRowKey(key)
	if len(values) != len(p.key) {
		return "", &Refusal{fmt.Sprintf("%q is no key of the table: it has the columns %s", key, strings.Join(p.names(), ", ")),
			`give a value for each of them, joined by commas, with a backslash before commas and backslashes in a value`}
	}
	same := !slices.ContainsFunc(p.key, func(k keyColumn) bool { return k.schema != p.key[0].schema || k.gt != p.key[0].gt })
	var columns, literals []string
	for i := range p.key {
		columns, literals = append(columns, p.key[i].expr()), append(literals, p.key[i].literal(values[i]))
	}
	condition := ""
	switch {
	case len(p.key) == 1:
		condition = columns[0] + p.key[0].operator(p.key[0].gt) + literals[0]
	case same:
		condition = "ROW(" + strings.Join(columns, ", ") + ")" + p.key[0].operator(p.key[0].gt) + "ROW(" + strings.Join(literals, ", ") + ")"
	default: // operators of several schemas can't compare rows
		for i := len(p.key) - 1; i >= 0; i-- {
			greater := columns[i] + p.key[i].operator(p.key[i].gt) + literals[i]
			if condition != "" {
				greater = "(" + greater + " OR " + columns[i] + p.key[i].operator(p.key[i].eq) + literals[i] + " AND " + condition + ")"
			}
			condition = greater
		}
	}
	if or {
		condition = "(" + condition + " OR " + p.equal(values) + ")"
	}
	return condition, nil
}

// equal is the condition that a row has a key.
func (p *rowPlan) equal(values []string) string {
	parts := make([]string, len(p.key))
	for i := range p.key {
		parts[i] = p.key[i].expr() + p.key[i].operator(p.key[i].eq) + p.key[i].literal(values[i])
	}
	return "(" + strings.Join(parts, " AND ") + ")"
}
