package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Timing of the looks at the publications.
const (
	watchEvery = 10 * time.Second
	// watchAtLeast is how long a look is put off after the one before, however many Relation messages come.
	watchAtLeast = 500 * time.Millisecond
	watchTimeout = 30 * time.Second
)

// anew is a reason to look at slot, publications and tables anew, by Prepare: errors.Is finds ErrNewHistory in it.
type anew struct{ reason string }

func (a *anew) Error() string        { return a.reason }
func (a *anew) Is(target error) bool { return target == ErrNewHistory }

// watch sees to it that the mapped tables stay published: PostgreSQL announces neither that one has left a publication nor that a publication was made
// anew. It looks when the stream begins, every 10 s, and when a Relation message comes. One goroutine runs it.
type watch struct {
	src         *Source
	every, rest time.Duration
	kick        chan struct{} // a look is due
	// For tests: quiet leaves it to kick alone, and looked hears of each look.
	quiet  bool
	looked chan struct{}

	known map[TableName]connector.Published
	// first are the tables with an open hole at the start: mappings may be held for them, and are tried again once it is closed.
	first  map[TableName]string
	told   map[TableName]string // the holes that are recorded as open, with the reason that was told
	faulty map[TableName]bool   // the tables with an alarm that is no hole
	// identities are the replica identities that the mappings were checked against.
	identities map[TableName]string
	stale      []*stale
	sure       moment // from which on it is not yet sure that what is published was
	conn       *pgx.Conn
}

func newWatch(src *Source, p *Prepared) *watch {
	w := &watch{src: src, every: watchEvery, rest: watchAtLeast, kick: make(chan struct{}, 1), known: p.known, first: p.open, identities: p.identities, stale: p.stale,
		told: map[TableName]string{}, faulty: map[TableName]bool{}}
	maps.Copy(w.told, p.open)
	return w
}

// due asks for a look. It does not block.
func (w *watch) due() {
	if w == nil || w.quiet {
		return
	}
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run looks until ctx ends, or until there is a reason to end the stream.
func (w *watch) run(ctx context.Context) error {
	defer w.hangUp()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.kick:
		}
		err := w.look(ctx)
		w.hangUp() // a connection that stays would hold a smart shutdown up
		switch {
		case err == nil:
			w.src.alarms.Clear("source/publications")
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrNewHistory):
			return err
		default:
			if hasState(err, stateLockNotAvailable) {
				w.src.alarms.Raise("source/publications", "a table can't be put into a publication, or taken out, because somebody holds a lock on it (VACUUM, CREATE INDEX or DDL)",
					"nothing to do: it is tried again by itself")
			} else if !Passing(err) { // the stream tells of a server that is away
				w.src.alarms.Raise("source/publications", "the publications can't be looked at: "+Explain(err).Error(), "run tuzhan-cdc check")
			}
		}
		select {
		case w.looked <- struct{}{}:
		default:
		}
		rest.Reset(w.rest)
	}
}

func (w *watch) hangUp() {
	if w.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = w.conn.Close(ctx)
		w.conn = nil
	}
}

// look looks once, puts back what has left where this role may, and tells of it.
func (w *watch) look(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	s := w.src
	if w.conn == nil {
		if w.conn, err = Connect(ctx, s.cfg.DSN); err != nil {
			return err
		}
	}
	if err := s.publicationsStand(ctx, w.conn); err != nil {
		return err
	}
	r, err := goRound(ctx, w.conn, s.cfg, s.names, w.known)
	if err != nil {
		return err
	}
	for _, c := range r.changes {
		s.log.Info("publication", "change", c)
	}
	closed, open := r.holes()
	w.firstReasons(r, closed)
	w.firstReasons(r, open)
	if err := w.report(ctx, r, closed, open); err != nil {
		return err
	}
	if err := w.freshen(ctx, r); err != nil {
		return err
	}
	if st := r.stale(closed); st != nil {
		w.stale = append(w.stale, st)
	}
	next := r.after.published(w.known, s.names, r.at.lsn, open)
	w.seen(r, next, open)
	if s.cfg.Published != nil && !maps.Equal(next, w.known) {
		if err := s.cfg.Published(ctx, sortedTables(next)); err != nil {
			return fmt.Errorf("noting the published tables: %w", err)
		}
	}
	w.known = next
	w.faults(r, open)
	for _, h := range closed {
		if _, was := w.first[h.use.Table]; was {
			return &anew{"table " + h.use.Table.String() + " is published again: mappings that were held for it are tried again"}
		}
	}
	return w.sameIdentities(r)
}

// sameIdentities asks for a look anew where a table's replica identity has changed: mappings that read old columns may have to be held, or may go on.
// (Of a table without any, only the inserts come, whatever the mappings read.)
func (w *watch) sameIdentities(r *round) error {
	for name, is := range r.after.identities() {
		if was, ok := w.identities[name]; ok && was != is {
			return &anew{fmt.Sprintf("the replica identity of table %s has changed: the mappings are checked against it", name)}
		}
	}
	return nil
}

// identities gives the replica identities of the tables that have one, in words that can be compared.
func (p *plan) identities() map[TableName]string {
	found := map[TableName]string{}
	for name, r := range p.rels {
		if len(r.unidentified()) == 0 {
			letter, keys := r.effectiveIdentity()
			found[name] = fmt.Sprintf("%c%q", letter, slices.Sorted(slices.Values(keys)))
		}
	}
	return found
}

// lookNow compares the publications, for a stream that failed, over a connection of its own: it may run beside run.
func (w *watch) lookNow(ctx context.Context) error {
	conn, err := Connect(ctx, w.src.cfg.DSN)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return w.src.publicationsStand(ctx, conn)
}

// publicationsStand compares the publications' OIDs with those that the stream began with.
func (s *Source) publicationsStand(ctx context.Context, conn *pgx.Conn) error {
	if s.lineage.Publications == "" {
		return nil
	}
	oids, err := publicationOIDs(ctx, conn, s.names)
	if err != nil {
		return err
	}
	if is := joinPublications(oids, s.names); is != s.lineage.Publications {
		return &anew{"a publication was dropped or made anew: " + s.lineage.Publications + " are now " + is}
	}
	return nil
}

// seen moves on the LSNs at which the tables were surely published. A transaction that takes a table out may be in the WAL before others see it, so
// a look is believed only once all have ended that were running at an earlier one.
func (w *watch) seen(r *round, next map[TableName]connector.Published, open []hole) {
	if w.sure.lsn == 0 || r.at.xmin >= w.sure.xmax {
		if w.sure.lsn != 0 {
			for name, e := range next {
				if !slices.ContainsFunc(open, func(h hole) bool { return h.use.Table == name }) {
					e.Seen = max(e.Seen, w.sure.lsn)
					next[name] = e
				}
			}
		}
		w.sure = r.at
	}
}

// firstReasons gives holes that were told before the reason that they were told with: that the table was taken out for its replica identity, say, can't
// be seen any more once that is back.
func (w *watch) firstReasons(r *round, holes []hole) {
	for i := range holes {
		h := &holes[i]
		rel := r.after.rels[h.use.Table]
		if why, told := w.told[h.use.Table]; told && rel != nil && rel.oid == h.was.OID && len(rel.unidentified()) == 0 {
			h.why = why
		}
	}
}

// report records and tells of holes that are new, and of those that are closed.
func (w *watch) report(ctx context.Context, r *round, closed, open []hole) error {
	s := w.src
	for _, h := range open {
		name := h.use.Table
		text, cure := r.openText(h)
		s.alarms.Raise("source/table/"+name.String(), text, cure)
		if _, told := w.told[name]; told {
			continue
		}
		s.log.Warn("gap begins", "table", name.String(), "from", h.was.Seen, "reason", h.why)
		if err := s.cfg.gap(ctx, h.gap(0)); err != nil {
			return err
		}
		w.told[name] = h.why
	}
	for _, h := range closed {
		if err := tellClosed(ctx, s.cfg, r, h, s.alarms, s.log); err != nil {
			return err
		}
		delete(w.told, h.use.Table)
	}
	return nil
}

// faults tells of tables that are published and have something wrong all the same: the application's updates fail, or old rows are not whole.
func (w *watch) faults(r *round, open []hole) {
	faulty := map[TableName]bool{}
	for _, u := range r.after.wanted {
		rel := r.after.rels[u.Table]
		if rel == nil || slices.ContainsFunc(open, func(h hole) bool { return h.use.Table == u.Table }) {
			continue
		}
		for _, f := range rel.findings(u) {
			if f.Severity == SeverityError {
				faulty[u.Table] = true
				w.src.alarms.Raise("source/identity/"+u.Table.String(), f.Subject+": "+f.Text, f.Cure)
			}
		}
	}
	for t := range w.faulty {
		if !faulty[t] {
			w.src.alarms.Clear("source/identity/" + t.String())
		}
	}
	w.faulty = faulty
	switch {
	case r.refused != nil:
		w.src.alarms.Raise("source/publication", r.refused.Text, r.refused.Cure)
	case r.after.left != "" && len(open) == 0:
		w.src.alarms.Raise("source/publication", "publication "+r.after.Name+" is not in step with the mappings, and role "+r.after.role+" can't mend that ("+
			strings.Join(r.after.blocked, "; ")+")", r.after.left)
	default:
		w.src.alarms.Clear("source/publication")
	}
}

// round is one look at the publications, and what was done to them.
type round struct {
	known         map[TableName]connector.Published
	names         []string // nil: those of the plan
	found, after  *plan    // as it was found, and after the steps
	changes       []string
	refused       *Refusal // nothing was done
	at, later     moment   // before and after
	lost, dropped []hole   // found; and what the steps themselves have taken out
}

// goRound looks, and brings the publications in step.
func goRound(ctx context.Context, conn *pgx.Conn, cfg Config, names []string, known map[TableName]connector.Published) (*round, error) {
	r := &round{known: known, names: names}
	var err error
	if r.at, err = now(ctx, conn); err != nil {
		return nil, err
	}
	params := cfg.publications(known)
	r.found, r.after, r.changes, err = bringInStep(ctx, conn, params)
	if err != nil && (!errors.As(err, &r.refused) || r.found == nil) {
		return nil, err
	}
	r.lost = r.found.holes(known, names)
	if len(r.changes) > 0 {
		for _, h := range r.after.holes(known, names) {
			now := membershipsOf(h.use, r.after.rels[h.use.Table], r.after.streamed(names))
			h.lost = slices.DeleteFunc(h.lost, func(o string) bool { return len(now[o]) > 0 }) // moved, by a step of ours
			if len(h.lost) > 0 && !slices.ContainsFunc(r.lost, func(l hole) bool { return l.use.Table == h.use.Table }) {
				r.dropped = append(r.dropped, h)
			}
		}
	}
	r.later, err = now(ctx, conn)
	return r, err
}

// stale are tables that a server before the minor releases of May 2025 may not stream although they were put into a publication, because other
// transactions were running: one of those that has rows of such a table makes the server's decoding keep the table's former state, for good. So once
// they have ended the tables are put in anew, and what lies between counts as a gap.
type stale struct {
	xmax   uint64 // those that were running began before it
	from   connector.LSN
	closed []hole // their gaps end at the touch
	added  []TableName
}

// stale gives what may be stale after the round; nil: nothing.
func (r *round) stale(closed []hole) *stale {
	if addsAreSeen(r.after.version) || r.later.xmin >= r.later.xmax || len(closed)+len(r.changes) == 0 {
		return nil
	}
	s := &stale{xmax: r.later.xmax, from: r.at.lsn, closed: closed}
	for _, u := range r.after.uses {
		if len(membershipsOf(u, r.found.rels[u.Table], r.found.streamed(r.names))) == 0 &&
			!slices.ContainsFunc(closed, func(h hole) bool { return h.use.Table == u.Table }) {
			s.added = append(s.added, u.Table)
		}
	}
	return s
}

// renew takes tables out of the publications and puts them in again, in one transaction: that makes the server look at them anew. It gives false where
// this role may not.
func (p *plan) renew(ctx context.Context, conn *pgx.Conn, tables []TableName) (all bool, err error) {
	var steps []string
	all = true
	for _, pub := range []*Publication{p.main, p.ins} {
		for _, name := range tables {
			i := slices.IndexFunc(p.uses, func(u Use) bool { return u.Table == name })
			switch {
			case i < 0 || !pub.names(name):
			case !pub.own || !p.rels[name].own:
				all = false
			default:
				steps = append(steps, "ALTER PUBLICATION "+quoteIdent(pub.Name)+" DROP TABLE "+sqlList([]TableName{name}),
					"ALTER PUBLICATION "+quoteIdent(pub.Name)+" ADD TABLE "+p.members(p.uses[i:i+1]))
			}
		}
	}
	return all, pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range append([]string{"SET LOCAL lock_timeout = '" + lockTimeout + "'"}, steps...) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

// freshen ends what is stale once no transaction is left that was running when the tables were added.
func (w *watch) freshen(ctx context.Context, r *round) (err error) {
	for len(w.stale) > 0 && r.at.xmin >= w.stale[0].xmax {
		st := w.stale[0]
		var tables []TableName
		for _, h := range st.closed {
			tables = append(tables, h.use.Table)
		}
		tables = append(tables, st.added...)
		all, err := r.after.renew(ctx, w.conn, tables)
		if err != nil {
			return err
		}
		if !all {
			w.src.log.Warn("tables were added to a publication beside running transactions, and this server may go on without them (fixed in the minor releases of May 2025)",
				"tables", joinNames(tables, TableName.String), "cure", "take them out of the publication and put them in again, in one transaction")
		}
		end, err := walEnd(ctx, w.conn)
		if err != nil {
			return err
		}
		for _, h := range st.closed {
			if err := w.src.cfg.gap(ctx, h.gap(end)); err != nil {
				return err
			}
		}
		for _, name := range st.added {
			w.src.log.Warn("gap recorded", "table", name.String(), "from", st.from, "to", end, "cure", backfillCure(name))
			if err := w.src.cfg.gap(ctx, connector.Gap{At: time.Now().UTC(), From: st.from, To: end, Table: name.String(),
				Reason: "it was added to the publication beside running transactions, and this server may not stream what was written to it until they ended"}); err != nil {
				return err
			}
		}
		w.stale = w.stale[1:]
		if r.after, err = newPlan(ctx, w.conn, w.src.cfg.publications(w.known)); err != nil {
			return err
		}
	}
	return nil
}

// addsAreSeen reports whether the server streams a table that was added while transactions were running.
func addsAreSeen(version int) bool {
	fixed := map[int]int{14: 18, 15: 13, 16: 9, 17: 5}
	major, minor := version/10000, version%10000
	return major >= 18 || fixed[major] > 0 && minor >= fixed[major]
}

// holes parts the holes: those of tables that are published again, and those of tables that are not.
func (r *round) holes() (closed, open []hole) {
	for _, h := range r.lost {
		now := membershipsOf(h.use, r.after.rels[h.use.Table], r.after.streamed(r.names))
		if slices.ContainsFunc(h.lost, func(o string) bool { return len(now[o]) == 0 }) {
			open = append(open, h)
		} else {
			closed = append(closed, h)
		}
	}
	return closed, append(open, r.dropped...)
}

func (h *hole) ops() string { return joinNames(h.lost, func(o string) string { return o + "s" }) }

// gap is what is recorded; to is 0 while the table is not published.
func (h *hole) gap(to connector.LSN) connector.Gap {
	return connector.Gap{At: time.Now().UTC(), From: h.was.Seen, To: to, Table: h.use.Table.String(), Reason: h.why + " (" + h.ops() + ")"}
}

func backfillCure(t TableName) string {
	return "send what is missing: tuzhan-cdc backfill MAPPING, for each mapping of " + t.String()
}

// openText says what is wrong with a table that is not published, and how to mend it.
func (r *round) openText(h hole) (text, cure string) {
	text = fmt.Sprintf("table %s: %s. Its %s since %s are not seen until it is published again; then send what is missing with `tuzhan-cdc backfill MAPPING`", h.use.Table, h.why, h.ops(), h.was.Seen)
	rel := r.after.rels[h.use.Table]
	switch {
	case rel == nil:
		return text, r.after.missingTable(h.use.Table).Cure
	case len(rel.unidentified()) > 0 && h.use.rewrites():
		return text, rel.identityCure(h.use)
	case r.refused != nil:
		return text, r.refused.Cure
	case r.found.left != "":
		return text, r.found.left
	}
	for _, f := range rel.findings(h.use) {
		if f.Severity == SeverityError {
			return text + ": " + f.Text, f.Cure
		}
	}
	return text, "run tuzhan-cdc check: it says what stands in the way"
}

// tellClosed records and tells of a hole that is closed.
func tellClosed(ctx context.Context, cfg Config, r *round, h hole, alarms *connector.Alarms, log logger) error {
	name := h.use.Table
	if err := cfg.gap(ctx, h.gap(r.later.lsn)); err != nil {
		return err
	}
	alarms.Raise("source/table/"+name.String(), fmt.Sprintf("table %s: %s; it is published again. Its %s between %s and %s may be missing: the gap is recorded",
		name, h.why, h.ops(), h.was.Seen, r.later.lsn), backfillCure(name))
	log.Warn("gap recorded", "table", name.String(), "from", h.was.Seen, "to", r.later.lsn, "reason", h.why, "cure", backfillCure(name))
	return nil
}

type logger interface{ Warn(msg string, args ...any) }

// gap records a gap.
func (cfg *Config) gap(ctx context.Context, g connector.Gap) error {
	if cfg.Gap == nil {
		return nil
	}
	if err := cfg.Gap(ctx, g); err != nil {
		return fmt.Errorf("recording a gap of table %s: %w", g.Table, err)
	}
	return nil
}

// publications says what is to be published; the known tables are those that were.
func (cfg *Config) publications(known map[TableName]connector.Published) PublicationParams {
	uses := slices.Clone(listed(cfg.Uses, cfg.ColumnLists))
	for i := range uses {
		_, uses[i].known = known[uses[i].Table]
	}
	return PublicationParams{Name: cfg.Publication, Slot: cfg.Slot, Uses: uses}
}

// knownTables makes a map of what the state has kept.
func knownTables(list []connector.Published) map[TableName]connector.Published {
	known := make(map[TableName]connector.Published, len(list))
	for _, p := range list {
		known[TableName{p.Schema, p.Name}] = p
	}
	return known
}

func sortedTables(known map[TableName]connector.Published) []connector.Published {
	return slices.SortedFunc(maps.Values(known), func(a, b connector.Published) int {
		return strings.Compare(a.Schema+"\x00"+a.Name, b.Schema+"\x00"+b.Name)
	})
}
