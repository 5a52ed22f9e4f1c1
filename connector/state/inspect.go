package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Found is what Inspect has to say of a state that can be used.
type Found struct {
	// Text says in a line what is there.
	Text string
	// Warnings do not keep the connector from running.
	Warnings []Warning

	version int
}

// Warning is something that somebody should look at, and what to do.
type Warning struct{ Text, Cure string }

// Inspect looks whether Open could use a state, without changing it and beside a running connector. The error says what would keep Open from it, and
// the cure; Unreachable tells whether that may pass.
func Inspect(ctx context.Context, at Location) (Found, error) {
	var found Found
	if _, err := loadKey(at.KeyFile); err != nil {
		return found, err
	}
	var err error
	if at.DSN != "" {
		found, err = inspectServer(ctx, at)
	} else {
		found, err = inspectFile(ctx, at)
	}
	if err == nil && found.version == schemaVersion {
		var r *Reader
		if r, err = OpenReader(ctx, at); err == nil { // which looks at the key
			r.Close()
		}
	}
	return found, fault("checking", at.String(), err)
}

// versionText says what a version that is there means.
func versionText(at Location, version int) string {
	switch {
	case version == 0:
		return at.String() + ": not there yet, run makes it"
	case version < schemaVersion:
		return fmt.Sprintf("%s: version %d, which run migrates to %d", at, version, schemaVersion)
	}
	return fmt.Sprintf("%s: version %d", at, version)
}

func inspectFile(ctx context.Context, at Location) (Found, error) {
	path, err := resolve(at.Path)
	if err != nil {
		return Found{}, err
	}
	at.Path = path
	file, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && file.Size() == 0 {
		if _, err := os.Stat(path + "-wal"); err == nil {
			return Found{}, orphanWAL(path)
		}
		return Found{Text: versionText(at, 0)}, mayWrite(filepath.Dir(path))
	} else if err != nil {
		return Found{}, err
	}
	if err := errors.Join(mayWrite(filepath.Dir(path)), mayWrite(path)); err != nil {
		return Found{}, err
	}
	r := newFileReader(path)
	defer r.Close()
	version, err := identify(ctx, r.db, path, schemaVersion)
	if err == nil && version > 0 {
		err = check(ctx, r.db, path, file.Size())
	}
	if err != nil {
		return Found{}, err
	}
	found := Found{Text: versionText(at, version), version: version}
	if file.Mode().Perm()&0o077 != 0 {
		found.Warnings = append(found.Warnings, Warning{"other users may read the state file, which holds payloads", "chmod 600 " + path})
	}
	return found, nil
}

func inspectServer(ctx context.Context, at Location) (Found, error) {
	config, err := serverConfig(at.DSN)
	if err != nil {
		return Found{}, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return Found{}, err
	}
	defer drop(conn)
	version, err := identifyServer(func(query string, args ...any) scanner { return conn.QueryRow(ctx, query, args...) }, at.String(), schemaVersion)
	if err != nil {
		return Found{}, (&server{place: at.String(), config: config}).withRights(err)
	}
	fail := func(text, cure string) (Found, error) {
		return Found{}, &Error{Op: "checking", Place: at.String(), Err: errors.New(text), Cure: cure}
	}
	var readOnly, schema, mayCreate, mayUse, mayMake bool
	var tables, fsync string
	if err := conn.QueryRow(ctx, `SELECT current_setting('transaction_read_only')::bool, n.oid IS NOT NULL,
			has_database_privilege(current_database(), 'CREATE'), coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_schema_privilege(n.oid, 'CREATE'), false),
			(SELECT coalesce(string_agg(c.relname, ', ' ORDER BY c.relname), '') FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r'
				AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
				AND has_table_privilege(c.oid, 'DELETE'))), current_setting('fsync')
		FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1`, schemaName).Scan(&readOnly, &schema, &mayCreate, &mayUse, &mayMake, &tables, &fsync); err != nil {
		return Found{}, err
	}
	cure := rightsCure(config.User, config.Database)
	switch {
	case readOnly:
		return fail("the server is a standby or read-only", cureOf(stateReadOnly))
	case !schema && !mayCreate:
		return fail("schema "+schemaName+" is missing, and the role may not make it", cure)
	case schema && !mayUse, version < schemaVersion && schema && !mayMake:
		return fail("the role lacks a right on schema "+schemaName, cure)
	case tables != "":
		return fail("the role may not read and write these tables of schema "+schemaName+": "+tables, cure)
	}
	found := Found{Text: versionText(at, version), version: version}
	if fsync != "on" {
		found.Warnings = append(found.Warnings, Warning{"fsync is off on the state's server: a crash of its machine loses what was stored, and points may be doubled",
			"ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();"})
	}
	published, err := publishedBy(ctx, conn)
	if len(published) > 0 {
		found.Warnings = append(found.Warnings, Warning{"the state's own tables are published, so that each of its writes makes changes for those who read " + strings.Join(published, ", "),
			"publish the tables that are wanted by name, instead of FOR ALL TABLES or FOR TABLES IN SCHEMA " + schemaName})
	}
	return found, err
}

// publishedBy names the publications that hold the state's tables, or will hold them.
func publishedBy(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT DISTINCT quote_ident(pubname) FROM (SELECT pubname FROM pg_publication WHERE puballtables
		UNION ALL SELECT pubname FROM pg_publication_tables WHERE schemaname = $1) p ORDER BY 1`, schemaName)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// mayWrite asks for the right without using it: to open a file that SQLite has open would end its locks.
func mayWrite(path string) error {
	if err := access(path); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func orphanWAL(path string) error {
	return &Error{Op: "opening", Place: "file " + path, Err: fmt.Errorf("%w: %s-wal is there without it", ErrDamaged, path),
		Cure: "put back the file that belongs to it; where it is lost, move the -wal file away too and start anew"}
}
