package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// The oldest servers that know what an option needs.
const (
	heartbeatVersion = 140000
	failoverVersion  = 170000
)

// optionFindings looks at what of the options in the file the server, or the slot, can't give.
func optionFindings(server Server, slot *Slot, heartbeat, failover bool) []Finding {
	var found []Finding
	add := func(s Severity, subject, text, cure string) { found = append(found, Finding{s, subject, text, cure}) }
	is := fmt.Sprintf("this server is PostgreSQL %d", server.Version/10000)
	switch {
	case !heartbeat:
	case server.Version < heartbeatVersion:
		add(SeverityError, "source.heartbeat", "it needs PostgreSQL 14 or newer, and "+is+": take it out of the file", "")
	case server.Standby:
		add(SeverityError, "source.heartbeat", "it writes into the WAL, and this server is a standby: take it out of the file, or point source.dsn at the primary", "")
	}
	switch {
	case !failover:
	case server.Version < failoverVersion:
		add(SeverityError, "source.failover", "it needs PostgreSQL 17 or newer, and "+is+": take it out of the file", "")
	case server.Standby:
		add(SeverityError, "source.failover", "a slot on a standby can't be kept in step on others: take it out of the file, or point source.dsn at the primary", "")
	case slot.Exists && !slot.Failover && !slot.Lost() && slot.Plugin == plugin:
		add(SeverityWarning, "source.failover", "the slot was made without it, so standbys don't keep it in step; run sets it when it starts and nobody reads from the slot. By hand, while the connector is stopped:",
			`\connect -reuse-previous=on "dbname=`+conninfoValue(server.Database)+` replication=database"`+"\n"+alterFailover(slot.Name))
	}
	return found
}

func alterFailover(slot string) string {
	return "ALTER_REPLICATION_SLOT " + quoteIdent(slot) + " (FAILOVER true);"
}

// setFailover has standbys keep a slot in step that nobody reads from.
func setFailover(ctx context.Context, repl *pgconn.PgConn, slot string) error {
	if _, err := repl.Exec(ctx, alterFailover(slot)).ReadAll(); err != nil {
		return fmt.Errorf("setting failover on slot %s: %w", slot, err)
	}
	return nil
}

// conninfoValue writes a value for a connection string that stands in double quotes of psql.
func conninfoValue(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `""`).Replace(s) + "'"
}
