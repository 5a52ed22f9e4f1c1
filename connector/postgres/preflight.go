package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Severity says what a finding means.
type Severity string

// The severities. Only an error keeps the connector from running.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
	SeverityInfo    Severity = "info"
	SeverityOK      Severity = "ok"
)

// Finding is one thing that Preflight has to say.
type Finding struct {
	Severity Severity `json:"severity"`
	// Subject is what it is about: "wal_level", "table crm.orders".
	Subject string `json:"subject"`
	Text    string `json:"text"`
	// Cure is SQL that works when pasted into psql (by a superuser or the owner), one statement a line; empty, or words, where nothing but the file is
	// to be mended.
	Cure string `json:"cure,omitempty"`
}

// PreflightParams say what the connector is going to use.
type PreflightParams struct {
	Uses              []Use
	Slot, Publication string
	// ColumnLists is source.columnLists.
	ColumnLists bool
	// WALBudget is source.walBudget in bytes; 0: none.
	WALBudget int64
	// Known says that there is a state: whether slot and publications may be missing is CheckHistory's to say.
	Known bool
	// Heartbeat and Failover: source.heartbeat and source.failover are on.
	Heartbeat, Failover bool
}

// Report is what Preflight found.
type Report struct {
	Server Server `json:"-"`
	// Streaming says that somebody reads from the slot: a connector that runs, most likely.
	Streaming bool      `json:"-"`
	Findings  []Finding `json:"findings"`
}

// Failed reports whether something keeps the connector from running.
func (r Report) Failed() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == SeverityError })
}

// oldestVersion is the oldest server that is supported; standbyVersion the oldest whose standbys can decode.
const (
	oldestVersion  = 130000
	standbyVersion = 160000
)

// Preflight looks at all that the connector needs of the database, and changes nothing; for a moment it opens a replication connection
// beside conn, with conn's settings. An error means that it could not look; what it saw and did not like is in the report.
//
// Slot and publications that are missing are no errors where this role may make them.
func Preflight(ctx context.Context, conn *pgx.Conn, params PreflightParams) (Report, error) {
	p := &preflight{conn: conn, params: params}
	server, err := LoadServer(ctx, conn)
	if err != nil {
		return Report{}, err
	}
	p.server = server
	if p.slot, err = SlotState(ctx, conn, params.Slot); err != nil {
		return Report{}, err
	}
	if err := p.loadSettings(ctx); err != nil {
		return Report{}, err
	}
	p.version()
	p.encoding()
	p.walLevel()
	p.role(ctx)
	p.room()
	if err := p.publications(ctx); err != nil {
		return Report{}, err
	}
	if other := p.slot.foreign(server.Database); other != nil { // what else it is like does not matter
		p.add(SeverityError, "slot "+params.Slot, other.Text, other.Cure)
		return Report{Server: server, Findings: p.findings}, nil
	}
	p.slotFindings()
	if !p.slot.Exists {
		if err := p.writers(ctx); err != nil {
			return Report{}, err
		}
	}
	p.findings = append(p.findings, optionFindings(server, p.slot, params.Heartbeat, params.Failover)...)
	p.keeping()
	if err := p.outage(ctx); err != nil {
		return Report{}, err
	}
	return Report{Server: server, Streaming: p.slot.Exists && p.slot.Active, Findings: p.findings}, nil
}

type preflight struct {
	conn     *pgx.Conn
	params   PreflightParams
	server   Server
	slot     *Slot
	s        settings
	findings []Finding
}

type settings struct {
	walLevel, synchronousCommit, roleName string
	replication, super, member            bool
	maxSlots, slots, maxSenders, senders  int
	keepMB, idleTimeout                   int64
}

func (p *preflight) loadSettings(ctx context.Context) error {
	// pg_stat_get_wal_senders behind pg_stat_replication counts every sender for every role.
	err := p.conn.QueryRow(ctx, `
SELECT current_setting('wal_level'),
       (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
       r.rolname::text, r.rolreplication, r.rolsuper,
       EXISTS (SELECT FROM pg_roles m WHERE m.rolname IN ('rds_replication', 'rds_superuser', 'pg_rds_superuser', 'alloydbsuperuser')
                  AND pg_has_role(r.oid, m.oid, 'MEMBER')),
       current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots)::int,
       current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_replication)::int,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), 0)
  FROM pg_roles r WHERE r.rolname = current_user`).Scan(&p.s.walLevel, &p.s.synchronousCommit, &p.s.roleName, &p.s.replication, &p.s.super,
		&p.s.member, &p.s.maxSlots, &p.s.slots, &p.s.maxSenders, &p.s.senders, &p.s.keepMB, &p.s.idleTimeout)
	if err != nil {
		return fmt.Errorf("reading the server's settings: %w", err)
	}
	return nil
}

func (p *preflight) add(s Severity, subject, text, cure string) {
	p.findings = append(p.findings, Finding{s, subject, text, cure})
}

func (p *preflight) version() {
	v := fmt.Sprintf("PostgreSQL %d.%d, database %s, time zone %s", p.server.Version/10000, p.server.Version%10000, p.server.Database, p.server.TimeZone)
	switch {
	case p.server.Version < oldestVersion:
		p.add(SeverityError, "server", v+": PostgreSQL 13 or newer is needed", "")
	case p.server.Standby && p.server.Version < standbyVersion:
		p.add(SeverityError, "server", v+", a standby: standbys can decode from PostgreSQL 16 on; point source.dsn at the primary", "")
	case p.server.Standby:
		p.add(SeverityWarning, "server", v+", a standby: slot and stream depend on the primary too (wal_level, hot_standby_feedback), and publications are made there", "")
	default:
		p.add(SeverityOK, "server", v, "")
	}
	if p.server.Version/10000 < messagesSince {
		p.add(SeverityInfo, "skip marker", fmt.Sprintf("PostgreSQL %d does not send it: a transaction that begins with pg_logical_emit_message(true, 'tuzhan_cdc', 'skip') is sent like any other; that takes PostgreSQL %d or newer",
			p.server.Version/10000, messagesSince), "")
	}
}

// encoding warns of a database whose bytes nobody knows the meaning of.
func (p *preflight) encoding() {
	if p.conn.PgConn().ParameterStatus("server_encoding") == sqlASCII {
		p.add(SeverityWarning, "encoding", "the database's is SQL_ASCII: it keeps whatever bytes its clients send, and PostgreSQL can't convert them. A row of which a mapping reads a text that is no UTF-8 becomes a dead letter", "")
	}
}

func (p *preflight) walLevel() {
	if p.s.walLevel != "logical" {
		p.add(SeverityError, "wal_level", "it is "+p.s.walLevel+": the WAL does not hold what logical replication needs; the setting takes effect when the server starts",
			"ALTER SYSTEM SET wal_level = 'logical';\n-- then restart PostgreSQL, e.g.: systemctl restart postgresql")
		return
	}
	p.add(SeverityOK, "wal_level", "logical", "")
	if p.s.synchronousCommit == "off" {
		p.add(SeverityInfo, "synchronous_commit", "it is off: a change is streamed when the WAL writer has flushed it, up to three times wal_writer_delay after its commit", "")
	}
}

// role tries what the stream will do: only the server knows about pg_hba.conf, poolers and the rights of hosted services.
func (p *preflight) role(ctx context.Context) {
	subject := "role " + p.s.roleName
	if !p.s.replication && !p.s.super && !p.s.member {
		p.add(SeverityError, subject, "it lacks the REPLICATION attribute", "ALTER ROLE "+quoteIdent(p.s.roleName)+
			" REPLICATION;\n-- on Amazon RDS instead: GRANT rds_replication TO "+quoteIdent(p.s.roleName)+";")
		return
	}
	if !p.slot.Exists && p.s.senders >= p.s.maxSenders {
		return // the attempt would fail for that; room says so
	}
	err := tryReplication(ctx, p.conn)
	var cause *Refusal
	switch {
	case err == nil:
		p.add(SeverityOK, subject, "it may replicate, and a replication connection was opened", "")
	case errors.As(Explain(err), &cause):
		p.add(SeverityError, subject, "no replication connection: "+cause.Text, cause.Cure)
	default:
		p.add(SeverityError, subject, "no replication connection: "+networkText(err), "")
	}
}

func tryReplication(ctx context.Context, conn *pgx.Conn) error {
	cfg := conn.Config().Config.Copy()
	cfg.RuntimeParams["replication"] = "database"
	repl, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer repl.Close(context.WithoutCancel(ctx))
	_, err = Identify(ctx, repl)
	return err
}

func (p *preflight) room() {
	if !p.slot.Exists && p.s.slots >= p.s.maxSlots {
		p.add(SeverityError, "max_replication_slots", fmt.Sprintf("all %d slots are taken", p.s.maxSlots),
			fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d;\n-- then restart PostgreSQL; or drop a slot that nobody uses: SELECT slot_name, active, restart_lsn FROM pg_replication_slots;", p.s.maxSlots+5))
	}
	if !p.slot.Active && p.s.senders >= p.s.maxSenders {
		p.add(SeverityError, "max_wal_senders", fmt.Sprintf("all %d WAL senders are taken", p.s.maxSenders),
			fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d;\n-- then restart PostgreSQL", p.s.maxSenders+5))
	}
}

// publications looks at tables and publications: what is wrong, and what run is going to do.
func (p *preflight) publications(ctx context.Context) error {
	plan, err := newPlan(ctx, p.conn, PublicationParams{Name: p.params.Publication, Slot: p.params.Slot, Uses: listed(p.params.Uses, p.params.ColumnLists)})
	if err != nil {
		return err
	}
	plan.known = p.params.Known
	tables := plan.tableFindings()
	plan.make()
	p.findings = append(p.findings, tables...)
	p.findings = append(p.findings, plan.coverage()...)
	p.findings = append(p.findings, plan.fullFindings()...)
	p.findings = append(p.findings, plan.findings...)
	for _, u := range plan.uses {
		if !slices.ContainsFunc(p.findings, func(f Finding) bool { return f.Subject == "table "+u.Table.String() }) {
			p.add(SeverityOK, "table "+u.Table.String(), "can be streamed", "")
		}
	}
	failed := p.slot.foreign(p.server.Database) != nil ||
		slices.ContainsFunc(append(tables, plan.findings...), func(f Finding) bool { return f.Severity == SeverityError })
	switch {
	case failed: // run would do nothing
	case len(plan.steps) == 0:
		p.add(SeverityOK, "publication "+p.params.Publication, "in step with the mappings: "+strings.Join(plan.names, ", "), "")
	default:
		var todo []string
		for _, s := range plan.steps {
			if s.change != "" {
				todo = append(todo, strings.TrimSuffix(s.sql, ";"))
			}
		}
		p.add(SeverityInfo, "publication "+p.params.Publication, "run brings it in step with the mappings: "+strings.Join(todo, "; "), "")
	}
	return p.endangered(ctx, plan)
}

// endangered warns of tables in somebody else's publication whose updates already fail.
func (p *preflight) endangered(ctx context.Context, plan *plan) error {
	for _, pub := range []*Publication{plan.main, plan.ins} {
		if pub == nil || pub.Ours || !pub.Update && !pub.Delete {
			continue
		}
		rows, err := p.conn.Query(ctx, `
SELECT n.nspname::text, c.relname::text
  FROM pg_get_publication_tables($1) t JOIN pg_class r ON r.oid = t.relid
  JOIN LATERAL (SELECT r.oid AS relid WHERE r.relkind = 'r'
                UNION SELECT l.relid::oid FROM pg_partition_tree(r.oid) l WHERE l.isleaf AND r.relkind = 'p') leaf ON true
  JOIN pg_class c ON c.oid = leaf.relid AND c.relkind = 'r' JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relreplident <> 'f'
   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                      AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident))
 ORDER BY 1, 2`, pub.Name)
		if err != nil {
			return fmt.Errorf("looking for tables without replica identity: %w", err)
		}
		tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n TableName, err error) { return n, row.Scan(&n.Schema, &n.Name) })
		if err != nil {
			return fmt.Errorf("looking for tables without replica identity: %w", err)
		}
		tables = slices.DeleteFunc(tables, func(t TableName) bool { return plan.rels[t] != nil }) // said already
		if len(tables) == 0 {
			continue
		}
		var cure []string
		for _, t := range tables {
			cure = append(cure, "ALTER TABLE "+t.SQL()+" REPLICA IDENTITY FULL;")
		}
		some := joinNames(tables[:min(len(tables), 5)], TableName.String)
		p.add(SeverityWarning, "publication "+pub.Name, fmt.Sprintf("it publishes updates of %d tables that have no replica identity, mapped or not (%s): the application's UPDATE and DELETE of them fail",
			len(tables), some), strings.Join(cure, "\n"))
	}
	return nil
}

func (p *preflight) slotFindings() {
	subject, s := "slot "+p.params.Slot, p.slot
	drop := "SELECT pg_drop_replication_slot(" + literal(p.params.Slot) + ");"
	switch {
	case !validSlotName(p.params.Slot):
		p.add(SeverityError, subject, "source.slot may have only a to z, 0 to 9 and _ , at most 63 of them", "")
	case !s.Exists && p.params.Known: // CheckHistory refuses it
	case !s.Exists:
		p.add(SeverityInfo, subject, "it is missing: run makes it, and streams what is committed from then on", "")
	case s.Lost():
		why, again := s.whyLost()
		p.add(SeverityError, subject, "it is invalidated (wal_status "+s.WALStatus+"): "+why+". What it had not read is gone from the server, so the changes since then are not sent. Make it anew, after seeing to what is missing. So that it does not come again: "+again, drop)
	default:
		p.livingSlot(subject)
	}
}

func (p *preflight) livingSlot(subject string) {
	s := p.slot
	state := "not in use"
	if s.Active {
		state = fmt.Sprintf("in use by pid %d (a running tuzhan-cdc, most likely)", s.ActivePID)
	}
	text := fmt.Sprintf("%s; confirmed to %s; keeps %s of WAL", state, s.ConfirmedFlush, connector.Size(s.Retained))
	severity := SeverityOK
	switch {
	case s.WALStatus == "unreserved":
		severity, text = SeverityWarning, text+"; it is about to be lost: the next checkpoint may remove WAL that it needs (max_slot_wal_keep_size)"
	case p.params.WALBudget > 0 && s.Retained > p.params.WALBudget:
		severity, text = SeverityWarning, text+", more than source.walBudget ("+connector.Size(p.params.WALBudget)+")"
	case s.Active:
		severity = SeverityInfo
	}
	p.add(severity, subject, text, "")
}

// writers tells of transactions that the making of the slot will have to wait for.
func (p *preflight) writers(ctx context.Context) error {
	var pid int32
	var gid string
	var n int
	err := p.conn.QueryRow(ctx, `
SELECT count(*) OVER ()::int, pid, gid FROM (
  SELECT pid, '' AS gid, backend_xid AS xid FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
  UNION ALL SELECT 0, gid, transaction FROM pg_prepared_xacts) w
 ORDER BY age(xid) DESC LIMIT 1`).Scan(&n, &pid, &gid)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for open transactions: %w", err)
	}
	w := Wait{PID: pid, GlobalID: gid, Database: p.server.Database}
	oldest := fmt.Sprintf("pid %d", pid)
	if gid != "" {
		oldest = "prepared transaction " + gid
	}
	p.add(SeverityInfo, "slot "+p.params.Slot, fmt.Sprintf("making it waits until the transactions that are writing now have ended: %d, the oldest is %s", n, oldest), w.Cure())
	return nil
}

// keeping looks at how much WAL the server keeps for a slot.
func (p *preflight) keeping() {
	const subject = "max_slot_wal_keep_size"
	want := 2 * p.params.WALBudget >> 20
	if want == 0 {
		want = 20 << 10
	}
	cure := fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dMB';\nSELECT pg_reload_conf();", want)
	switch {
	case p.s.keepMB < 0:
		p.add(SeverityWarning, subject, "it is -1, no limit: while the connector is stopped the slot keeps WAL until the disk is full, and then the database stops. With a limit the slot is lost instead, and changes with it: set it well above source.walBudget, below the free disk space", cure)
	case p.params.WALBudget > 0 && p.s.keepMB<<20 <= p.params.WALBudget:
		p.add(SeverityWarning, subject, fmt.Sprintf("it is %s, not more than source.walBudget (%s): the slot is lost before the alarm", connector.Size(p.s.keepMB<<20), connector.Size(p.params.WALBudget)), cure)
	default:
		p.add(SeverityOK, subject, connector.Size(p.s.keepMB<<20), "")
	}
	if p.s.idleTimeout > 0 {
		p.add(SeverityWarning, "idle_replication_slot_timeout", fmt.Sprintf("it is %s: a connector that is stopped for longer loses its slot, and changes with it", connector.Span(time.Duration(p.s.idleTimeout)*time.Second)),
			"ALTER SYSTEM SET idle_replication_slot_timeout = 0;\nSELECT pg_reload_conf();")
	}
}
