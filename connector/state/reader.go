package state

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// busyTimeout is how long a connection waits for a lock that another one holds.
const busyTimeout = 10 * time.Second

// Reader reads a state: for commands, and inside the running connector. Safe for concurrent use. It sees what was committed.
type Reader struct {
	place  string
	db     *sql.DB
	server bool // of PostgreSQL
	seal   *sealer
}

// OpenReader opens a state for reading: it takes no lock and never keeps a running connector from writing. It must be there
// (else the error is fs.ErrNotExist) and of this program's version. Close it after use.
//
// SQLite needs write access to the directory even to read, for the -shm file: run it as the connector's user, or as root.
func OpenReader(ctx context.Context, at Location) (*Reader, error) {
	var r *Reader
	var version int
	seal, err := loadKey(at.KeyFile)
	if err != nil {
		return nil, err
	}
	if at.DSN != "" {
		if r, err = newServerReader(at); err != nil {
			return nil, err
		}
		version, err = identifyServer(func(query string, args ...any) scanner { return r.db.QueryRowContext(ctx, query, args...) }, r.place, schemaVersion)
	} else {
		if at.Path, err = resolve(at.Path); err != nil {
			return nil, err
		}
		file, statErr := os.Stat(at.Path)
		if errors.Is(statErr, fs.ErrNotExist) {
			return nil, &Error{Op: "opening", Place: at.String(), Err: fs.ErrNotExist,
				Cure: "`tuzhan-cdc run` makes it at its first start: check state.path, and the directory you stand in if it is relative"}
		}
		if statErr == nil && file.Size() == 0 {
			if _, err := os.Stat(at.Path + "-wal"); err == nil {
				return nil, orphanWAL(at.Path) // opened, SQLite would take the WAL for rubbish and delete it
			}
		}
		r = newFileReader(at.Path)
		version, err = identify(ctx, r.db, at.Path, schemaVersion)
	}
	switch {
	case err == nil && version == 0 && r.server:
		err = &Error{Op: "opening", Place: r.place, Err: errMissing{}, Cure: "`tuzhan-cdc run` makes it at its first start: check state.dsn"}
	case err == nil && version == 0:
		err = &Error{Op: "opening", Place: r.place, Err: errors.New("it is empty"), Cure: "`tuzhan-cdc run` fills it at its first start"}
	case err == nil && version < schemaVersion:
		err = &Error{Op: "opening", Place: r.place, Err: fmt.Errorf("it was written by an older version (%d; this program reads %d)", version, schemaVersion),
			Cure: "start `tuzhan-cdc run` of this version once: it migrates the state"}
	}
	r.seal = seal
	if err == nil {
		_, err = r.checkKey(ctx)
	}
	if err != nil {
		r.db.Close()
		return nil, fault("opening", r.place, err)
	}
	return r, nil
}

// newFileReader does not touch the file yet.
func newFileReader(path string) *Reader {
	// The only error that Open gives is an unknown driver's.
	db, _ := sql.Open("sqlite", dsn(path, "ro"))
	db.SetMaxOpenConns(2)
	return &Reader{place: "file " + path, db: db}
}

// sql gives a statement as the database takes it.
func (r *Reader) sql(query string) string {
	if r.server {
		return numbered(query)
	}
	return query
}

// staleConns is how many connections that the server has ended meanwhile a reader may come upon one after the other.
const staleConns = 3

// read does what only reads. A connection that has idled may be one that the server has ended: then it is done again on another one.
func read[T any](ctx context.Context, r *Reader, do func() (T, error)) (T, error) {
	for stale := 0; ; stale++ {
		v, err := do()
		if err == nil || !r.server || stale == staleConns || !passing(err) || ctx.Err() != nil {
			return v, fault("reading", r.place, err)
		}
	}
}

// queryer is what *sql.DB and *sql.Tx share.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// dsn gives the URI of path, with everything in it quoted that SQLite would read as a parameter.
func dsn(path, mode string) string {
	u := url.URL{Scheme: "file", Path: path}
	u.RawQuery = url.Values{"mode": {mode}, "_busy_timeout": {fmt.Sprint(busyTimeout.Milliseconds())}, "_foreign_keys": {"on"},
		"_dqs": {"0"}}.Encode()
	return u.String()
}

// Close closes the reader.
func (r *Reader) Close() error { return r.db.Close() }

// Load gives what the state knew when the process started: call it before the first write.
func (r *Reader) Load(ctx context.Context) (*connector.Saved, error) {
	return read(ctx, r, func() (*connector.Saved, error) { return r.load(ctx) })
}

func (r *Reader) load(ctx context.Context) (*connector.Saved, error) {
	o := &sql.TxOptions{ReadOnly: true}
	if r.server {
		o.Isolation = sql.LevelRepeatableRead // all that is read is of one moment, as it is of a file
	}
	tx, err := r.db.BeginTx(ctx, o)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() // nothing was written
	saved := &connector.Saved{Known: map[connector.RecordKey]connector.Known{}}
	if saved.Checkpoint, _, err = r.readCheckpoint(ctx, tx); err != nil {
		return nil, err
	}
	var settled connector.Position
	if cp := saved.Checkpoint; cp != nil {
		settled = cp.Settled
		for _, t := range cp.Tracks {
			if t.Settled.Compare(settled) < 0 {
				settled = t.Settled
			}
		}
	}
	known := func(query string, args ...any) error {
		rows, err := tx.QueryContext(ctx, r.sql(query), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k connector.RecordKey
			var lsn int64
			var what connector.Known
			if err := rows.Scan(&lsn, &k.Position.Index, &k.Mapping, &k.CommitTime, &k.Number, &what); err != nil {
				return err
			}
			k.Position.Commit = unsigned(lsn)
			if cp := saved.Checkpoint; cp == nil || !cp.CoversRecord(k) {
				saved.Known[k] = what
			}
		}
		return rows.Err()
	}
	if err := known(fmt.Sprintf(`SELECT commit_lsn, idx, mapping, commit_time, number, CASE applied WHEN 0 THEN %d ELSE %d END FROM point`,
		connector.Intended, connector.Applied)); err != nil {
		return nil, err
	}
	// LSNs from 2^63 on are stored as negative numbers. The letters come last: they win.
	if err := known(fmt.Sprintf(`SELECT commit_lsn, idx, mapping, commit_time, number, %d FROM dead_letter WHERE (commit_lsn, idx) >= (?, ?) OR commit_lsn < 0`,
		connector.Lettered), signed(settled.Commit), int64(settled.Index)); err != nil {
		return nil, err
	}
	if saved.Published, err = readPublished(ctx, tx); err != nil {
		return nil, err
	}
	return saved, tx.QueryRowContext(ctx, countedLetters).Scan(&saved.OpenLetters)
}

func readPublished(ctx context.Context, q queryer) ([]connector.Published, error) {
	rows, err := q.QueryContext(ctx, "SELECT schema_name, table_name, oid, member, seen_lsn FROM published ORDER BY schema_name, table_name")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tables []connector.Published
	for rows.Next() {
		var t connector.Published
		var seen int64
		if err := rows.Scan(&t.Schema, &t.Name, &t.OID, &t.Member, &seen); err != nil {
			return nil, err
		}
		t.Seen = unsigned(seen)
		tables = append(tables, t)
	}
	return tables, rows.Err()
}

// Checkpoint gives the checkpoint as it is on disk; nil where none was written yet.
func (r *Reader) Checkpoint(ctx context.Context) (*connector.Checkpoint, error) {
	return read(ctx, r, func() (*connector.Checkpoint, error) {
		cp, _, err := r.readCheckpoint(ctx, r.db)
		return cp, err
	})
}

// readCheckpoint also gives the stored lists as they are, to compare the next ones with.
func (r *Reader) readCheckpoint(ctx context.Context, q queryer) (*connector.Checkpoint, lists, error) {
	cp := &connector.Checkpoint{}
	var settled, flush int64
	var committed, written sql.NullInt64
	var l lists
	var mappings, brakes, accepted string
	err := q.QueryRowContext(ctx, `SELECT system_id, timeline, database_name, slot, publications, mappings, settled_lsn, settled_idx, flush_lsn, commit_time, written, ranges, partial, brakes, accepted
		FROM checkpoint LEFT JOIN beyond USING (id)`).Scan(&cp.Lineage.SystemID, &cp.Lineage.Timeline, &cp.Lineage.Database,
		&cp.Lineage.Slot, &cp.Lineage.Publications, &mappings, &settled, &cp.Settled.Index, &flush, &committed, &written, &l.ranges, &l.partial, &brakes, &accepted)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, lists{}, nil
	} else if err != nil {
		return nil, lists{}, err
	}
	cp.Settled.Commit, cp.Flush = unsigned(settled), unsigned(flush)
	cp.CommitTime, cp.Written = fromStamp(committed), fromStamp(written)
	if cp.Ranges, err = decodeRanges(l.ranges); err == nil {
		cp.Partial, err = decodeKeys(l.partial)
	}
	if err == nil && json.Unmarshal([]byte(mappings), &cp.Mappings) != nil {
		err = errors.New("the names of the mappings can't be decoded")
	}
	if err == nil && json.Unmarshal([]byte(brakes), &cp.Brakes) != nil {
		err = errors.New("the brakes of the mappings can't be decoded")
	}
	if err == nil && json.Unmarshal([]byte(accepted), &cp.Accepted) != nil {
		err = errors.New("the break that was accepted can't be decoded")
	}
	if err != nil {
		return nil, lists{}, &damage{err}
	}
	if cp.Tracks, err = readTracks(ctx, q); err != nil {
		return nil, lists{}, err
	}
	l, err = encodeLists(cp)
	return cp, l, err
}

func readTracks(ctx context.Context, q queryer) ([]connector.Track, error) {
	rows, err := q.QueryContext(ctx, `SELECT mapping, since_lsn, since_idx, since, until_lsn, until_idx, settled_lsn, settled_idx, ranges, partial, held,
		reason, set_aside FROM track ORDER BY mapping, since_lsn, since_idx`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tracks []connector.Track
	for rows.Next() {
		var t connector.Track
		var since, until, settled int64
		var at sql.NullInt64
		var ranges, partial []byte
		if err := rows.Scan(&t.Mapping, &since, &t.Since.Index, &at, &until, &t.Until.Index, &settled, &t.Settled.Index, &ranges, &partial, &t.Held,
			&t.Reason, &t.SetAside); err != nil {
			return nil, err
		}
		t.Since.Commit, t.Until.Commit, t.Settled.Commit, t.SinceTime = unsigned(since), unsigned(until), unsigned(settled), fromStamp(at)
		if t.Ranges, err = decodeRanges(ranges); err == nil {
			t.Partial, err = decodeKeys(partial)
		}
		if err != nil {
			return nil, &damage{err}
		}
		tracks = append(tracks, t)
	}
	return tracks, rows.Err()
}

// Gaps gives the gaps that were recorded, by age.
func (r *Reader) Gaps(ctx context.Context) ([]connector.Gap, error) {
	return list(ctx, r, "SELECT at, from_lsn, to_lsn, table_name, reason FROM gap ORDER BY id", func(row scanner) (g connector.Gap, err error) {
		var at sql.NullInt64
		var from, to int64
		err = row.Scan(&at, &from, &to, &g.Table, &g.Reason)
		g.At, g.From, g.To = fromStamp(at), unsigned(from), unsigned(to)
		return g, err
	})
}

// list gives what scan makes of each row of a query.
func list[T any](ctx context.Context, r *Reader, query string, scan func(scanner) (T, error), args ...any) ([]T, error) {
	return read(ctx, r, func() ([]T, error) {
		rows, err := r.db.QueryContext(ctx, r.sql(query), args...)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		all := []T{}
		for rows.Next() {
			one, err := scan(rows)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		return all, rows.Err()
	})
}

// RequestKind is what a command may ask of the running connector, or of the next one.
type RequestKind string

// The requests.
const (
	// RequestSetAside: what a held mapping can't read becomes dead letters.
	RequestSetAside RequestKind = "set-aside"
	// RequestResume: a mapping that is held by a brake, or all that is paused, goes on.
	RequestResume RequestKind = "resume"
)

// Request is what a command asked for.
type Request struct {
	ID      int64
	What    RequestKind
	Mapping string // empty: all
	Created time.Time
}

// Requests gives the requests that wait, by age.
func (r *Reader) Requests(ctx context.Context) ([]Request, error) {
	return list(ctx, r, "SELECT id, what, mapping, created FROM request ORDER BY id", func(row scanner) (q Request, err error) {
		var created sql.NullInt64
		err = row.Scan(&q.ID, &q.What, &q.Mapping, &created)
		q.Created = fromStamp(created)
		return q, err
	})
}

// Ask leaves a request in a state, for the running connector or the next one. It may be called beside a running connector.
func Ask(ctx context.Context, at Location, q Request) error {
	r, err := OpenReader(ctx, at)
	if err != nil {
		return err
	}
	defer r.Close()
	db, err := r.writing(at)
	if err != nil {
		return fault("writing", r.place, err)
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, r.sql("INSERT INTO request (what, mapping, created) VALUES (?, ?, ?)"), string(q.What), q.Mapping, stamp(q.Created))
	return fault("writing", r.place, err)
}

// writing opens the state anew, for a command that writes beside the running connector.
func (r *Reader) writing(at Location) (*sql.DB, error) {
	if r.server {
		return openServerDB(at.DSN, false)
	}
	return sql.Open("sqlite", dsn(strings.TrimPrefix(r.place, "file "), "rw"))
}

// damage is a stored value that no program of ours wrote.
type damage struct{ err error }

func (d *damage) Error() string   { return ErrDamaged.Error() + ": " + d.err.Error() }
func (d *damage) Unwrap() []error { return []error{ErrDamaged, d.err} }

// Filter says which dead letters to give. The zero value gives all; what is set must all hold.
type Filter struct {
	// IDs gives only these, in the order of their ids all the same.
	IDs     []int64
	Class   connector.Class
	Mapping string
	Kind    connector.Kind
	// Since and Until bound the time at which they were set aside, Since included; zero: no bound.
	Since, Until time.Time
	// Open gives the open ones only (true) or the closed ones only (false); nil gives both.
	Open *bool
	// Text gives those whose mapping, table, reason or last retry holds it, in capitals or not, or whose id or position it is. Of payload and change it
	// looks at nothing: they may be sealed.
	Text string
	// After gives those with a greater id only: with Limit, the next page. With Newest the greatest ids come first, and After, where it is not 0, gives
	// those with a smaller id only.
	After  int64
	Newest bool
	// Limit is how many come at most; 0: no limit.
	Limit int
	// Brief leaves out payload, change and answer.
	Brief bool
}

const letterColumns = `id, class, kind, mapping, table_name, commit_lsn, idx, number, commit_time, payload, envelope, opt_type, keys,
	decrease, change, reason, attempts, answer, created, closed, resolution, uncounted, overtaken, retry, retried`

// Letters gives the dead letters that f asks for, by ascending id. All of them are held in memory: page through many.
func (r *Reader) Letters(ctx context.Context, f Filter) ([]*connector.DeadLetter, error) {
	var where []string
	var args []any
	add := func(condition string, arg any) { where, args = append(where, condition), append(args, arg) }
	order := " ORDER BY id"
	switch {
	case !f.Newest:
		add("id > ?", f.After)
	default:
		order += " DESC"
		add("id < ?", cmp.Or(f.After, int64(math.MaxInt64)))
	}
	if f.Text != "" {
		condition, found := textCondition(f.Text)
		where, args = append(where, condition), append(args, found...)
	}
	if len(f.IDs) > 0 {
		condition, arg, err := r.among(f.IDs)
		if err != nil {
			return nil, err
		}
		add(condition, arg)
	}
	if f.Class != "" {
		add("class = ?", string(f.Class))
	}
	if f.Mapping != "" {
		add("mapping = ?", f.Mapping)
	}
	if f.Kind != 0 {
		add("kind = ?", f.Kind.String())
	}
	if !f.Since.IsZero() {
		add("created >= ?", stamp(f.Since))
	}
	if !f.Until.IsZero() {
		add("created < ?", stamp(f.Until))
	}
	if f.Open != nil && *f.Open {
		where = append(where, "closed IS NULL")
	} else if f.Open != nil {
		where = append(where, "closed IS NOT NULL")
	}
	limit := ""
	if f.Limit > 0 {
		limit = fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	columns := letterColumns
	if f.Brief {
		columns = briefColumns
	}
	return list(ctx, r, "SELECT "+columns+" FROM dead_letter WHERE "+strings.Join(where, " AND ")+order+limit, r.scanLetter, args...)
}

// briefColumns are letterColumns without what may be long.
var briefColumns = strings.NewReplacer("payload,", "NULL,", "change,", "NULL,", "answer,", "NULL,").Replace(letterColumns)

// textCondition is the condition of Filter.Text, and its arguments.
func textCondition(text string) (string, []any) {
	like := "%" + strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(strings.ToLower(text)) + "%"
	var some []string
	var args []any
	for _, column := range []string{"mapping", "table_name", "reason", "retried"} {
		some, args = append(some, "lower("+column+`) LIKE ? ESCAPE '\'`), append(args, like)
	}
	if id, err := strconv.ParseInt(text, 10, 64); err == nil {
		some, args = append(some, "id = ?"), append(args, id)
	}
	if p, err := connector.ParsePosition(text); err == nil {
		some, args = append(some, "commit_lsn = ? AND idx = ?"), append(args, signed(p.Commit), int64(p.Index))
	} else if lsn, err := connector.ParseLSN(text); err == nil {
		some, args = append(some, "commit_lsn = ?"), append(args, signed(lsn))
	}
	return "(" + strings.Join(some, " OR ") + ")", args
}

// Letter gives one dead letter, open or closed; ErrNoLetter where there is none with that id.
func (r *Reader) Letter(ctx context.Context, id int64) (*connector.DeadLetter, error) {
	letters, err := list(ctx, r, "SELECT "+letterColumns+" FROM dead_letter WHERE id = ?", r.scanLetter, id)
	if err != nil {
		return nil, err
	}
	if len(letters) == 0 {
		return nil, fmt.Errorf("%w: %d (`tuzhan-cdc deadletters list` shows all)", ErrNoLetter, id)
	}
	return letters[0], nil
}

func (r *Reader) scanLetter(row scanner) (*connector.DeadLetter, error) {
	l := &connector.DeadLetter{}
	var kind string
	var lsn, commitTime int64
	var created, closed, retry sql.NullInt64
	var payload, keys, change []byte
	var answer sql.NullString
	if err := row.Scan(&l.ID, &l.Class, &kind, &l.Mapping, &l.Table, &lsn, &l.Position.Index, &l.Number, &commitTime, &payload, &l.Envelope,
		&l.OptType, &keys, &l.Decrease, &change, &l.Reason, &l.Attempts, &answer, &created, &closed, &l.Resolution, &l.Uncounted,
		&l.Overtaken, &retry, &l.Retried); err != nil {
		return nil, err
	}
	l.Kind, l.Position.Commit, l.CommitTime = connector.KindOf(kind), unsigned(lsn), time.UnixMicro(commitTime).UTC()
	l.Created, l.Closed = fromStamp(created), fromStamp(closed)
	scanRetry(l, retry)
	var err error
	if payload, err = r.seal.open(payload); err == nil {
		change, err = r.seal.open(change)
	}
	if err != nil {
		return nil, &damage{fmt.Errorf("dead letter %d: %w", l.ID, err)}
	}
	l.Payload, l.Change = payload, change
	if l.Keys, err = decodeHashes(keys); err != nil {
		return nil, &damage{err}
	}
	if answer.Valid {
		l.Answer = &connector.LetterAnswer{}
		if answer.String, err = r.seal.openText(answer.String); err != nil {
			return nil, &damage{fmt.Errorf("the answer of dead letter %d: %w", l.ID, err)}
		}
		if err := json.Unmarshal([]byte(answer.String), l.Answer); err != nil {
			return nil, &damage{errors.New("the answer of a dead letter can't be decoded")}
		}
	}
	return l, nil
}

// Counted counts the open dead letters that count for delivery.maxDeadLetters.
func (r *Reader) Counted(ctx context.Context) (int, error) {
	return read(ctx, r, func() (n int, err error) {
		err = r.db.QueryRowContext(ctx, countedLetters).Scan(&n)
		return n, err
	})
}

const countedLetters = "SELECT count(*) FROM dead_letter WHERE closed IS NULL AND uncounted = 0"

// CountOpen counts the open dead letters by class; a class that has none is not in it.
func (r *Reader) CountOpen(ctx context.Context) (map[connector.Class]int, error) {
	type count struct {
		class connector.Class
		n     int
	}
	counted, err := list(ctx, r, "SELECT class, count(*) FROM dead_letter WHERE closed IS NULL GROUP BY class", func(row scanner) (c count, err error) {
		err = row.Scan(&c.class, &c.n)
		return c, err
	})
	counts := map[connector.Class]int{}
	for _, c := range counted {
		counts[c.class] = c.n
	}
	return counts, err
}

// fromStamp is the inverse of stamp.
func fromStamp(v sql.NullInt64) time.Time {
	if !v.Valid {
		return time.Time{}
	}
	return time.UnixMicro(v.Int64).UTC()
}
