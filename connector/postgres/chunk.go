package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// mostChunkBytes is how much of a table is read at a time: beyond it the chunk ends with the row that is there.
const mostChunkBytes = 2 << 20

// Read reads the rows behind a key.
func (t *rowReader) Read(ctx context.Context, low, after string, from bool, most int) (*connector.Chunk, error) {
	if err := t.before(ctx, low); err != nil {
		return nil, err
	}
	var c *connector.Chunk
	var err error
	switch {
	case t.plan.key == nil:
		c, err = t.readPages(ctx, after, most)
	case t.wanted() != "":
		c, err = t.readWhere(ctx, after, from, most)
	default:
		c, err = t.readKeys(ctx, after, from, most)
	}
	return c, rowsFailed("reading table "+t.name.String(), err)
}

// before sees to the first watermark of a chunk. Where the rows are read from a standby it is written on the primary, and waited for until it is replayed:
// then the standby shows what was committed before. Else the query writes it itself.
func (t *rowReader) before(ctx context.Context, low string) error {
	t.low = low
	if t.StandbyDSN == "" || low == "" {
		return nil
	}
	t.low = ""
	_, end, err := t.emit(ctx, low)
	if err != nil {
		return err
	}
	for {
		results, err := t.exec(ctx, t.read, "SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn() >= "+literal(end)+"::pg_lsn, false), "+whichDatabase)
		switch {
		case err != nil:
			return rowsFailed("asking the server of source.backfillDSN", err)
		case string(results[0].Rows[0][2]) != t.system:
			return &Refusal{"source.backfillDSN leads to another database than source.dsn, or to another cluster: its rows are not those of the stream", "take it out, or point it at the same database on a standby of the server of source.dsn"}
		case string(results[0].Rows[0][0]) != "t":
			return &Refusal{"the server of source.backfillDSN is no standby", "take it out, or point it at a standby of the server of source.dsn"}
		case string(results[0].Rows[0][1]) == "t":
			return nil
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// columns is what is selected.
func (t *rowReader) columns(more ...string) string {
	var list []string
	for _, c := range t.table.Columns {
		list = append(list, "t."+quoteIdent(c.Name))
	}
	for _, i := range t.plan.extra {
		list = append(list, "t."+quoteIdent(t.plan.key[i].name))
	}
	return strings.Join(append(list, more...), ", ")
}

// condition joins conditions.
func condition(parts ...string) string {
	var list []string
	for _, p := range parts {
		if p != "" {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(list, " AND ")
}

// wanted is the condition that rows must meet: the row filter, and --where in parentheses, which a comment at its end must not swallow.
func (t *rowReader) wanted() string {
	var parts []string
	if t.filter != "" {
		parts = append(parts, "("+t.filter+")")
	}
	if t.where != "" {
		parts = append(parts, "("+t.where+"\n)")
	}
	return strings.Join(parts, " AND ")
}

func (t *rowReader) behind(after string, from bool) (string, error) {
	if after == "" && !from {
		return "", nil
	}
	return t.plan.compare(after, from)
}

func (t *rowReader) readKeys(ctx context.Context, after string, from bool, most int) (*connector.Chunk, error) {
	behind, err := t.behind(after, from)
	if err != nil {
		return nil, err
	}
	c, err := t.fetch(ctx, fmt.Sprintf("SELECT %s FROM %s t%s ORDER BY %s LIMIT %d", t.columns(), t.from(), condition(behind), t.plan.order(), most), "", most, mostChunkBytes)
	if err != nil {
		return nil, err
	}
	c.Scanned = len(c.Rows)
	c.End = c.End && len(c.Rows) < most
	if n := len(c.Rows); n > 0 {
		c.Last = c.Rows[n-1].Key
	}
	return c, nil
}

// from is the table in FROM. The rows of tables that inherit from it are not its own; those of partitions are.
func (t *rowReader) from() string {
	if t.plan.only {
		return "ONLY " + t.name.SQL()
	}
	return t.name.SQL()
}

// readWhere looks first how far most rows reach, wanted or not, so that a condition that few rows meet makes no long query.
func (t *rowReader) readWhere(ctx context.Context, after string, from bool, most int) (*connector.Chunk, error) {
	behind, err := t.behind(after, from)
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(t.plan.key))
	for i := range keys {
		keys[i] = "t." + quoteIdent(t.plan.key[i].name)
	}
	results, err := t.exec(ctx, t.read, fmt.Sprintf("SELECT %s FROM %s t%s ORDER BY %s OFFSET %d LIMIT 1", strings.Join(keys, ", "), t.from(), condition(behind), t.plan.order(), most-1))
	if err != nil {
		return nil, err
	}
	last, upTo := "", ""
	if rows := results[0].Rows; len(rows) > 0 {
		last = connector.RowKey(rows[0]...)
		beyond, err := t.plan.compare(last, false)
		if err != nil {
			return nil, err
		}
		upTo = "NOT (" + beyond + ")"
	}
	c, err := t.fetch(ctx, fmt.Sprintf("SELECT %s FROM %s t%s ORDER BY %s", t.columns(), t.from(), condition(behind, upTo, t.wanted()), t.plan.order()), "", most, mostChunkBytes)
	if err != nil {
		return nil, err
	}
	switch n := len(c.Rows); {
	case !c.End: // it was cut
		c.Scanned, c.Last = n, c.Rows[n-1].Key
	case last != "":
		c.Scanned, c.Last, c.End = most, last, false
	case n > 0:
		c.Scanned, c.Last = n, c.Rows[n-1].Key
	}
	return c, nil
}

// ReadRows reads rows by their keys.
func (t *rowReader) ReadRows(ctx context.Context, low string, rows []string) (*connector.Chunk, error) {
	if err := t.before(ctx, low); err != nil {
		return nil, err
	}
	c, err := t.readRows(ctx, rows)
	return c, rowsFailed("reading table "+t.name.String(), err)
}

func (t *rowReader) readRows(ctx context.Context, rows []string) (*connector.Chunk, error) {
	if t.plan.key == nil {
		return t.readPlaces(ctx, rows)
	}
	parts := make([]string, len(rows))
	for i, key := range rows {
		values := connector.SplitRowKey(key)
		if len(values) != len(t.plan.key) {
			return nil, fmt.Errorf("a row that is to be read once more has a key of %d columns, and the table's has %d", len(values), len(t.plan.key))
		}
		parts[i] = t.plan.equal(values)
	}
	var selects []string
	for _, p := range parts { // each by the index, whatever the planner thinks of many conditions
		selects = append(selects, "SELECT "+t.columns()+" FROM "+t.from()+" t"+condition(p, t.wanted()))
	}
	return t.fetch(ctx, strings.Join(selects, "\nUNION ALL "), "", len(rows), mostChunkBytes)
}

// readPages reads pages of a table without a key, by ctid: a place is leaf:page, and a row's key leaf:(page,item), where leaf counts the partitions.
func (t *rowReader) readPages(ctx context.Context, after string, most int) (*connector.Chunk, error) {
	leaf, page := 0, int64(0)
	if after != "" {
		var err error
		if leaf, page, err = parsePlace(after); err != nil {
			return nil, err
		}
	}
	if leaf >= len(t.plan.leaves) {
		return &connector.Chunk{Table: t.table, End: true}, nil
	}
	of := t.plan.leaves[leaf]
	results, err := t.exec(ctx, t.read, "SELECT pg_relation_size("+literal(of.SQL())+"::regclass) / current_setting('block_size')::bigint")
	if err != nil {
		return nil, err
	}
	pages, err := strconv.ParseInt(string(results[0].Rows[0][0]), 10, 64)
	if err != nil {
		return nil, err
	}
	var c *connector.Chunk
	count := int64(max(1, most/50))
	for ; ; count /= 2 {
		limit := mostChunkBytes
		if count == 1 {
			limit = 0
		}
		if c, err = t.fetch(ctx, fmt.Sprintf("SELECT %s FROM ONLY %s t%s", t.columns("t.ctid"), of.SQL(),
			condition(fmt.Sprintf("t.ctid >= '(%d,0)'::tid AND t.ctid < '(%d,0)'::tid", page, page+count), t.wanted())), strconv.Itoa(leaf)+":", most, limit); err != nil {
			return nil, err
		}
		if c.End { // else a page less may be as much as is good
			break
		}
	}
	c.Scanned, c.End = max(1, len(c.Rows)), false
	if page += count; page >= pages {
		leaf, page = leaf+1, 0
	}
	c.Last = fmt.Sprintf("%d:%d", leaf, page)
	c.End = leaf >= len(t.plan.leaves)
	return c, nil
}

func parsePlace(place string) (leaf int, page int64, err error) {
	l, p, ok := strings.Cut(place, ":")
	leaf, err1 := strconv.Atoi(l)
	page, err2 := strconv.ParseInt(p, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, &Refusal{fmt.Sprintf("%q is no place in a table without a key", place), "leave --since away"}
	}
	return leaf, page, nil
}

// readPlaces reads rows of a table without a key by their places.
func (t *rowReader) readPlaces(ctx context.Context, rows []string) (*connector.Chunk, error) {
	byLeaf := map[int][]string{}
	for _, key := range rows {
		l, tid, ok := strings.Cut(key, ":")
		leaf, err := strconv.Atoi(l)
		if !ok || err != nil || leaf < 0 || leaf >= len(t.plan.leaves) {
			return nil, fmt.Errorf("%q is no row of a table without a key", key)
		}
		byLeaf[leaf] = append(byLeaf[leaf], literal(tid)+"::tid")
	}
	var selects []string
	for leaf, tids := range byLeaf {
		selects = append(selects, fmt.Sprintf("SELECT %s FROM ONLY %s t%s", t.columns("'"+strconv.Itoa(leaf)+":' || t.ctid::text"), t.plan.leaves[leaf].SQL(),
			condition("t.ctid = ANY (ARRAY["+strings.Join(tids, ", ")+"])", t.wanted())))
	}
	return t.fetch(ctx, strings.Join(selects, "\nUNION ALL "), "", len(rows), mostChunkBytes)
}

// fetch runs a query that selects t.columns() in a transaction of its own, with its snapshot. Behind the columns comes, of a table without a key, what
// tells the row apart, which prefix goes before. About expect rows come. End is false where it was cut at limit bytes (0: it is not).
func (t *rowReader) fetch(ctx context.Context, query, prefix string, expect, limit int) (*connector.Chunk, error) {
	c, err := t.fetchOn(ctx, query, prefix, expect, limit)
	if err != nil || !c.End {
		t.read.close() // it may be in a transaction, or the rest is not wanted
	}
	return c, altered(err)
}

func (t *rowReader) fetchOn(ctx context.Context, query, prefix string, expect, limit int) (*connector.Chunk, error) {
	conn, err := t.read.get(ctx)
	if err != nil {
		return nil, err
	}
	mark, first := "", 1
	if t.low != "" { // it waits for no disk: the second watermark takes it along
		mark, first = "BEGIN; SET LOCAL synchronous_commit = off; SELECT "+emitSQL(t.low)+"; COMMIT;\n", 5
	}
	results := conn.Exec(ctx, mark+"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\nSELECT pg_current_snapshot();\n"+query+";\nCOMMIT")
	c := &connector.Chunk{Table: t.table, End: true}
	for n := 0; results.NextResult(); n++ {
		switch r := results.ResultReader(); n {
		case first:
			for r.NextRow() {
				if t.StandbyDSN == "" {
					if c.Snapshot, err = parseSnapshot(string(r.Values()[0])); err != nil {
						return nil, err
					}
				}
			}
			if _, err := r.Close(); err != nil {
				return nil, err
			}
		case first + 1:
			cut, err := t.take(c, r, prefix, expect, limit)
			if err != nil {
				return nil, err
			}
			if cut {
				c.End = false
				return c, nil
			}
		default:
			if _, err := r.Close(); err != nil {
				return nil, err
			}
		}
	}
	return c, results.Close()
}

// take reads the rows of a result into the chunk, and reports whether it was cut.
func (t *rowReader) take(c *connector.Chunk, r *pgconn.ResultReader, prefix string, expect, limit int) (cut bool, err error) {
	width := len(t.table.Columns)
	fields := r.FieldDescriptions()
	for i, column := range t.table.Columns {
		if len(t.types) <= i {
			t.types = append(t.types, fields[i].DataTypeOID)
		}
		if fields[i].DataTypeOID != t.types[i] {
			return false, fmt.Errorf("%w: column %s has another type now", errAltered, column.Name)
		}
	}
	var a *arena
	select {
	case a = <-t.free:
		a.reset()
	default:
		a = &arena{}
	}
	c.Free = func() {
		select {
		case t.free <- a:
		default:
		}
	}
	c.Rows = make([]connector.ChunkRow, 0, expect)
	var key [][]byte
	tuple := make(connector.Tuple, width) // of the row that was just read
	total := 0
	for r.NextRow() {
		values := r.Values()
		for i, v := range values[:width] {
			tuple[i] = connector.Datum{Kind: connector.Text, Text: v}
			if v == nil {
				tuple[i].Kind = connector.Null
			}
			total += len(v)
		}
		row := connector.ChunkRow{Tuple: tuple}
		if t.plan.key == nil {
			row.Key = prefix + string(values[width])
		} else {
			key = key[:0]
			extra := width
			for i := range t.plan.key {
				if at := t.plan.key[i].at; at >= 0 {
					key = append(key, values[at])
				} else {
					key = append(key, values[extra])
					extra++
				}
			}
			row.Key = connector.RowKey(key...)
		}
		if t.early != nil && t.early(t.table, &row) {
			row.Tuple = nil
		} else {
			row.Tuple = a.keep(tuple)
		}
		c.Rows = append(c.Rows, row)
		if limit > 0 && total >= limit {
			return true, nil
		}
	}
	_, err = r.Close()
	return false, err
}

// arena hands out the memory of a chunk in large pieces, which are used again for another chunk.
type arena struct {
	bytes  [][]byte // the last one is being filled
	datums [][]connector.Datum
	full   int // pieces of bytes that are full
	used   int // pieces of datums that are
}

const (
	bytesPiece  = 64 << 10
	datumsPiece = 2048
)

func (a *arena) reset() {
	if len(a.bytes) > 2*mostChunkBytes/bytesPiece { // there were large values
		a.bytes = nil
	}
	for i := range a.bytes {
		a.bytes[i] = a.bytes[i][:0]
	}
	for i := range a.datums {
		a.datums[i] = a.datums[i][:0]
	}
	a.full, a.used = 0, 0
}

// keep copies a row.
func (a *arena) keep(row connector.Tuple) connector.Tuple {
	tuple := a.tuple(len(row))
	for i, d := range row {
		if tuple[i].Kind = d.Kind; d.Kind == connector.Text {
			tuple[i].Text = a.copy(d.Text)
		}
	}
	return tuple
}

func (a *arena) copy(v []byte) []byte {
	if len(v) > bytesPiece {
		return append([]byte(nil), v...)
	}
	if a.full < len(a.bytes) && cap(a.bytes[a.full])-len(a.bytes[a.full]) < len(v) {
		a.full++
	}
	if a.full == len(a.bytes) {
		a.bytes = append(a.bytes, make([]byte, 0, bytesPiece))
	}
	p := &a.bytes[a.full]
	start := len(*p)
	*p = append(*p, v...)
	return (*p)[start:len(*p):len(*p)]
}

func (a *arena) tuple(width int) connector.Tuple {
	if a.used < len(a.datums) && cap(a.datums[a.used])-len(a.datums[a.used]) < width {
		a.used++
	}
	if a.used == len(a.datums) {
		a.datums = append(a.datums, make([]connector.Datum, 0, max(datumsPiece, width)))
	}
	p := &a.datums[a.used]
	start := len(*p)
	*p = (*p)[:start+width]
	t := (*p)[start : start+width : start+width]
	clear(t)
	return connector.Tuple(t)
}

// parseSnapshot reads the text of a pg_snapshot: xmin:xmax:running,running.
func parseSnapshot(text string) (*connector.Visible, error) {
	parts := strings.Split(text, ":")
	bad := fmt.Errorf("%q is no snapshot", text)
	if len(parts) != 3 {
		return nil, bad
	}
	numbers := make([]uint64, 0, 8)
	for _, p := range append(parts[:2:2], strings.FieldsFunc(parts[2], func(r rune) bool { return r == ',' })...) {
		n, err := strconv.ParseUint(p, 10, 64)
		if err != nil {
			return nil, bad
		}
		numbers = append(numbers, n)
	}
	return &connector.Visible{Xmin: numbers[0], Xmax: numbers[1], Running: numbers[2:]}, nil
}
