package state

import (
	"context"
	"database/sql"
	"fmt"
)

// applicationID marks the file as ours (PRAGMA application_id): the letters tzcd.
const applicationID = 0x747a6364

// schemaVersion is what this program writes (PRAGMA user_version): the number of steps in migrations.
const schemaVersion = 5

// migrations gives the steps from an empty file to schemaVersion. A step that a release has shipped never changes.
//
// Points and dead letters are found by position first, then by the rest of RecordKey: what a checkpoint covers lies together.
func migrations() []string {
	return []string{`
CREATE TABLE checkpoint (
	id            INTEGER PRIMARY KEY CHECK (id = 1),
	system_id     TEXT NOT NULL,
	database_name TEXT NOT NULL,
	slot          TEXT NOT NULL,
	settled_lsn   INTEGER NOT NULL,
	settled_idx   INTEGER NOT NULL,
	flush_lsn     INTEGER NOT NULL,
	commit_time   INTEGER,           -- unix microseconds, as all times here
	written       INTEGER
) STRICT;

-- What is settled beyond the checkpoint; in a table of its own because it is large at times and often the same.
CREATE TABLE beyond (
	id       INTEGER PRIMARY KEY CHECK (id = 1),
	ranges   BLOB,
	partial  BLOB
) STRICT;

-- Points that are about to be sent (applied 0) or need no more work (applied 1), until the checkpoint covers their change.
CREATE TABLE point (
	commit_lsn  INTEGER NOT NULL,
	idx         INTEGER NOT NULL,
	mapping     TEXT NOT NULL,
	commit_time INTEGER NOT NULL,
	number      INTEGER NOT NULL,
	applied     INTEGER NOT NULL,
	PRIMARY KEY (commit_lsn, idx, mapping, commit_time, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letter (
	id          INTEGER PRIMARY KEY AUTOINCREMENT,
	class       TEXT NOT NULL,
	kind        TEXT NOT NULL,
	mapping     TEXT NOT NULL,
	table_name  TEXT NOT NULL,
	commit_lsn  INTEGER NOT NULL,
	idx         INTEGER NOT NULL,
	number      INTEGER NOT NULL,
	commit_time INTEGER NOT NULL,
	payload     BLOB,
	envelope    TEXT NOT NULL,
	opt_type    TEXT NOT NULL,
	keys        BLOB,
	decrease    INTEGER NOT NULL,
	change      BLOB,
	reason      TEXT NOT NULL,
	attempts    INTEGER NOT NULL,
	answer      TEXT,
	created     INTEGER,
	closed      INTEGER,             -- NULL while it is open
	resolution  TEXT NOT NULL DEFAULT '',
	UNIQUE (commit_lsn, idx, mapping, commit_time, number)
) STRICT;
CREATE INDEX dead_letter_open ON dead_letter (class) WHERE closed IS NULL;
`, `
ALTER TABLE checkpoint ADD COLUMN timeline INTEGER NOT NULL DEFAULT 0;
ALTER TABLE checkpoint ADD COLUMN publications TEXT NOT NULL DEFAULT '';
ALTER TABLE checkpoint ADD COLUMN mappings TEXT NOT NULL DEFAULT '[]';
ALTER TABLE checkpoint ADD COLUMN brakes TEXT NOT NULL DEFAULT 'null';
ALTER TABLE checkpoint ADD COLUMN accepted TEXT NOT NULL DEFAULT 'null';

ALTER TABLE dead_letter ADD COLUMN uncounted INTEGER NOT NULL DEFAULT 0;

-- The stretches that single mappings go through by themselves. They stand beside the checkpoint and are written with it.
CREATE TABLE track (
	mapping   TEXT NOT NULL,
	since_lsn INTEGER NOT NULL,
	since_idx INTEGER NOT NULL,
	since     INTEGER,
	until_lsn INTEGER NOT NULL,      -- 0: it has no end yet
	until_idx INTEGER NOT NULL,
	settled_lsn INTEGER NOT NULL,
	settled_idx INTEGER NOT NULL,
	ranges    BLOB,
	partial   BLOB,
	held      TEXT NOT NULL,
	reason    TEXT NOT NULL,
	set_aside INTEGER NOT NULL,
	PRIMARY KEY (mapping, since_lsn, since_idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE gap (
	id       INTEGER PRIMARY KEY AUTOINCREMENT,
	at       INTEGER,
	from_lsn INTEGER NOT NULL,
	to_lsn   INTEGER NOT NULL,
	table_name TEXT NOT NULL,
	reason   TEXT NOT NULL
) STRICT;

-- The mapped tables as they were last seen in the publications.
CREATE TABLE published (
	schema_name TEXT NOT NULL,
	table_name  TEXT NOT NULL,
	oid         INTEGER NOT NULL,
	member      TEXT NOT NULL,
	seen_lsn    INTEGER NOT NULL,
	PRIMARY KEY (schema_name, table_name)
) STRICT, WITHOUT ROWID;

-- What a command asks of the running connector, or of the next one.
CREATE TABLE request (
	id      INTEGER PRIMARY KEY AUTOINCREMENT,
	what    TEXT NOT NULL,
	mapping TEXT NOT NULL,
	created INTEGER NOT NULL
) STRICT;
`, `
ALTER TABLE dead_letter ADD COLUMN overtaken INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letter ADD COLUMN retry INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letter ADD COLUMN retried TEXT NOT NULL DEFAULT '';
CREATE INDEX dead_letter_retry ON dead_letter (id) WHERE retry > 0;

-- A text that is encrypted with the key of the letters, where there is one.
CREATE TABLE seal (
	id    INTEGER PRIMARY KEY CHECK (id = 1),
	probe BLOB NOT NULL
) STRICT;
`, `
-- Backfills, asked for by commands; those that have ended stay for people to see.
CREATE TABLE backfill (
	id          INTEGER PRIMARY KEY AUTOINCREMENT,
	mapping     TEXT NOT NULL,
	schema_name TEXT NOT NULL,
	table_name  TEXT NOT NULL,
	condition   TEXT NOT NULL,
	since       BLOB,
	row_limit   INTEGER NOT NULL,
	rows_per_second INTEGER NOT NULL,
	initial     INTEGER NOT NULL,
	status      TEXT NOT NULL,
	reason      TEXT NOT NULL,
	asked       TEXT NOT NULL,       -- by a command, and not done yet
	fingerprint TEXT NOT NULL,
	created     INTEGER,
	started     INTEGER,
	ended       INTEGER,
	progress    TEXT NOT NULL        -- JSON
) STRICT;

-- Rows of a backfill until it ends: points that are about to be sent (applied 0) or need no more work (applied 1), and what became a dead letter.
CREATE TABLE backfill_row (
	backfill   INTEGER NOT NULL,
	row_key    BLOB NOT NULL,
	number     INTEGER NOT NULL,
	mapping    TEXT NOT NULL,
	commit_lsn INTEGER NOT NULL,
	idx        INTEGER NOT NULL,
	applied    INTEGER NOT NULL,
	PRIMARY KEY (backfill, row_key, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX backfill_row_open ON backfill_row (backfill) WHERE applied = 0;
`, `
-- What the stream has given rows since a backfill of them was asked for, until it ends: connector.RowNote.
CREATE TABLE backfill_given (
	backfill INTEGER NOT NULL,
	row_key  BLOB NOT NULL,
	given    INTEGER NOT NULL,
	PRIMARY KEY (backfill, row_key, given)
) STRICT, WITHOUT ROWID;
`}
}

// identify reads whose file it is and which version wrote it, and refuses what is not ours or too new. Version 0 is an empty file.
// It writes nothing.
func identify(ctx context.Context, q queryer, path string, known int) (version int, err error) {
	var application, objects int
	for _, read := range []struct {
		query string
		into  *int
	}{
		{"PRAGMA application_id", &application},
		{"PRAGMA user_version", &version},
		{"SELECT count(*) FROM sqlite_schema", &objects},
	} {
		if err := q.QueryRowContext(ctx, read.query).Scan(read.into); err != nil {
			return 0, fault("opening", "file "+path, err)
		}
	}
	switch {
	case application == 0 && version == 0 && objects == 0:
		return 0, nil
	case application != applicationID || version < 1:
		return 0, &Error{Op: "opening", Place: "file " + path, Err: fmt.Errorf("%w: it is an SQLite database of another program", ErrDamaged),
			Cure: "nothing was changed in it: let state.path name a file of the connector's own"}
	case version > known:
		return 0, &Error{Op: "opening", Place: "file " + path, Err: fmt.Errorf("%w (version %d; this program knows up to %d)", ErrNewer, version, known),
			Cure: "run the newer program, or put the backup from before its first start in place"}
	}
	return version, nil
}

// migrate brings the file from version to the end of steps, in one transaction: after a crash it is at the one or at the other.
func migrate(ctx context.Context, conn *sql.Conn, version int, steps []string) (err error) {
	if version == len(steps) {
		return nil
	}
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	for i := version; i < len(steps); i++ {
		if _, err := conn.ExecContext(ctx, steps[i]); err != nil {
			return fmt.Errorf("migrating from version %d to %d: %w", i, i+1, err)
		}
	}
	if _, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, len(steps))); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return err
}

// fullCheckBytes is the size up to which the whole file is checked at start; of a larger one only the small tables, which decide what is
// sent, so that a million dead letters do not keep the connector from starting.
const fullCheckBytes = 64 << 20

// check looks for damage inside the file.
func check(ctx context.Context, q queryer, path string, size int64) error {
	checks := []string{"PRAGMA quick_check(1)"}
	if size > fullCheckBytes {
		checks = []string{"PRAGMA quick_check(checkpoint)", "PRAGMA quick_check(beyond)", "PRAGMA quick_check(track)", "PRAGMA quick_check(point)", "PRAGMA quick_check(published)"}
	}
	for _, c := range checks {
		var found string
		if err := q.QueryRowContext(ctx, c).Scan(&found); err != nil {
			return fault("checking", "file "+path, err)
		}
		if found != "ok" {
			return &Error{Op: "checking", Place: "file " + path, Err: fmt.Errorf("%w: %s", ErrDamaged, found), Cure: cureDamaged}
		}
	}
	return nil
}
