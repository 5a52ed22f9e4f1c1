package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platform"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// previewed is what a mapping makes of rows that are in its table now; programs read it as JSON.
type previewed struct {
	Mapping string `json:"mapping"`
	Kind    string `json:"kind"`
	Table   string `json:"table"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	// As is the operation that the rows are taken for: insert, update, delete or snapshot.
	As string `json:"as"`
	// Notes say what is assumed, and which fields stand for others.
	Notes []string `json:"notes"`
	// Errors are what keeps run from taking the mapping.
	Errors []finding `json:"errors"`
	// Looked counts the rows that were looked at: the sum of the next four.
	Looked      int `json:"looked"`
	Sent        int `json:"sent"`
	PassedOver  int `json:"passedOver"`
	DeadLetters int `json:"deadLetters"`
	// Unknown counts rows whose payload needs what only a change has: the row before an update.
	Unknown int `json:"unknown"`
	// All says that the table has no more rows (that fit --where).
	All bool `json:"all"`
	// Rows are the first rows of each outcome, at most --limit of each.
	Rows []previewRow `json:"rows"`
	// Why sums up the reasons.
	Why []previewReason `json:"why"`

	failed bool // its rows can't be read, or it can't read them
}

type finding struct {
	Text string `json:"text"`
	Cure string `json:"cure,omitempty"`
}

// The outcomes of a row.
const (
	outcomeSent    = "sent"
	outcomePassed  = "passed over"
	outcomeLetter  = "dead letter"
	outcomeUnknown = "not known"
)

type previewRow struct {
	// Row names the row by its primary key; by its number in this preview, where the table has none.
	Row     string `json:"row"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	// Records are what would be sent, in this order.
	Records []previewRecord `json:"records,omitempty"`
}

type previewRecord struct {
	// Request is method and URL, without query.
	Request      string          `json:"request"`
	OptType      string          `json:"optType,omitempty"`
	PublicParams json.RawMessage `json:"publicParams,omitempty"`
	Payload      json.RawMessage `json:"payload"`
}

// previewReason is one reason and how many rows have it.
type previewReason struct {
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	Rows    int    `json:"rows"`
	// Example names one of them.
	Example string `json:"example"`
	// Values are those that the rows have in the columns that the reason reads, the most frequent first.
	Values []previewValue `json:"values,omitempty"`
}

type previewValue struct {
	Column string  `json:"column"`
	Value  *string `json:"value"`
	Rows   int     `json:"rows"`
}

// previewOptions are the flags.
type previewOptions struct {
	mappings    []string
	limit, rows int
	where, as   string
}

func previewCommand() *cobra.Command {
	var o previewOptions
	c := &cobra.Command{
		Use: "preview", Short: "Shows the payloads that mappings make of rows that are in the tables now; sends nothing", Args: noArgs,
		Long: `Reads rows of the mapped tables and maps them exactly as run does: what would be sent, why a row would be passed over (the part of when that is false),
and which rows would become dead letters of class mapping. Nothing is sent and nothing is changed; it needs SELECT on the tables, and neither slot nor publication.

A row in a table is no change, so it is taken for one: for a snapshot (as backfill sends it) where the mapping's on has snapshot, else for an insert, else for an
update whose old row is not known, else for a delete. --as says otherwise. Each block says what was assumed.

The payloads hold the customers' data, and are printed on purpose; they are not logged.`,
		Example: `  tuzhan-cdc preview
  tuzhan-cdc preview --mapping order-paid --limit 1
  tuzhan-cdc preview --mapping order-paid --where "order_no = 'A-1001'"
  tuzhan-cdc preview --output json`,
	}
	output := outputFlag(c)
	c.Flags().StringArrayVar(&o.mappings, "mapping", nil, "only this `mapping`; may come several times")
	c.Flags().IntVar(&o.limit, "limit", 3, "how many payloads to show for each mapping")
	c.Flags().IntVar(&o.rows, "rows", 1000, "how many rows to look at for them, the newest by primary key")
	c.Flags().StringVar(&o.where, "where", "", "only rows for which this `SQL` condition is true")
	c.Flags().StringVar(&o.as, "as", "", "take the rows for this `operation`: insert, update, delete or snapshot")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		chosen, err := o.choose(cfg.Mappings)
		if err != nil {
			return err
		}
		list, err := preview(c.Context(), cfg, chosen, &o)
		if err != nil {
			return err
		}
		if *output == "json" {
			err = printJSON(c.OutOrStdout(), list)
		} else {
			err = printPreview(c.OutOrStdout(), list, func(text string) string { return withConfig(cfg.File, text) })
		}
		if err == nil && slices.ContainsFunc(list, func(p *previewed) bool { return p.failed }) {
			err = errQuiet
		}
		return err
	}
	return c
}

// choose gives the mappings to preview, and says what is wrong with the flags.
func (o *previewOptions) choose(set *mapping.Set) ([]mapping.Summary, error) {
	all := set.List()
	var chosen []mapping.Summary
	for _, m := range all {
		if len(o.mappings) == 0 || slices.Contains(o.mappings, m.Name) {
			chosen = append(chosen, m)
		}
	}
	for _, name := range o.mappings {
		if !slices.Contains(set.Names(), name) {
			return nil, usageError{noMapping(name, set.Names())}
		}
	}
	as, known := connector.Ops[o.as]
	switch {
	case o.as != "" && !known:
		return nil, usageError{fmt.Errorf("--as %s: insert, update, delete or snapshot", o.as)}
	case o.limit < 1 || o.rows < 1:
		return nil, usageError{errors.New("--limit and --rows are at least 1")}
	}
	if known {
		chosen = slices.DeleteFunc(chosen, func(m mapping.Summary) bool { return !slices.Contains(m.On, as) })
		if len(chosen) == 0 {
			return nil, usageError{fmt.Errorf("--as %s: no mapping is for that (on)", o.as)}
		}
	}
	if o.where != "" && slices.ContainsFunc(chosen, func(m mapping.Summary) bool { return m.Table != chosen[0].Table }) {
		return nil, usageError{errors.New("--where is a condition on one table: say which mapping with --mapping")}
	}
	return chosen, nil
}

// noMapping says that no mapping has a name.
func noMapping(name string, names []string) error {
	if s := strict.Suggest(name, names); s != "" {
		return fmt.Errorf("there is no mapping %s: did you mean %s?", name, s)
	}
	return fmt.Errorf("there is no mapping %s; these are known: %s", name, strings.Join(names, ", "))
}

// operation gives what the rows are taken for.
func (o *previewOptions) operation(m mapping.Summary) connector.Op {
	if op, ok := connector.Ops[o.as]; ok {
		return op
	}
	for _, op := range []connector.Op{connector.Snapshot, connector.Insert, connector.Update} {
		if slices.Contains(m.On, op) {
			return op
		}
	}
	return connector.Delete
}

// preview looks at the rows of each chosen mapping.
func preview(ctx context.Context, cfg *config.Config, chosen []mapping.Summary, o *previewOptions) ([]*previewed, error) {
	conn, err := postgres.Connect(ctx, cfg.Source.DSN.Reveal())
	if err != nil {
		return nil, postgres.Explain(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	server, err := postgres.LoadServer(ctx, conn)
	if err != nil {
		return nil, postgres.Explain(err)
	}
	zone, err := timeZone(cfg, server.TimeZone)
	if err != nil {
		return nil, err
	}
	tables, err := postgres.LoadUsed(ctx, conn, uses(cfg.Mappings), cfg.Source.Publication)
	if err != nil {
		return nil, postgres.Explain(err)
	}
	client, err := newPlatform(cfg, discardLogger(), nil, nil)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	v := &viewer{o: o, conn: conn, client: client, trier: cfg.Mappings.Trier(mapperOptions(cfg, server.SystemID, server.Database, zone)), now: time.Now().UTC().Truncate(time.Microsecond)}
	problems := map[string][]finding{}
	for name, found := range cfg.Mappings.CheckEach(tables) {
		for _, p := range found.Errors().All() {
			problems[name] = append(problems[name], finding{fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text), p.Hint})
		}
	}
	list := []*previewed{}
	for _, m := range chosen {
		p := &previewed{Mapping: m.Name, Kind: m.Kind.String(), Table: m.Table, File: m.File, Line: m.Line, As: o.operation(m).String(),
			Notes: []string{}, Errors: append([]finding{}, problems[m.Name]...), Rows: []previewRow{}, Why: []previewReason{}}
		list = append(list, p)
		i := slices.IndexFunc(tables, func(t *connector.Table) bool { return t.String() == m.Table })
		if i < 0 {
			p.failed = true // Errors say that the table is missing
			continue
		}
		if err := v.look(ctx, p, tables[i], o.operation(m)); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			f := finding{Text: err.Error()}
			var refusal *postgres.Refusal
			if errors.As(postgres.Explain(err), &refusal) {
				f = finding{refusal.Text, refusal.Cure}
			}
			if o.where != "" && f.Cure == "" {
				f.Text = "with --where: " + f.Text
			}
			p.Errors, p.failed = append(p.Errors, f), true
		}
		if cfg.Platform.Encryption.Algorithm != "" && m.Kind == connector.Point {
			p.Notes = append(p.Notes, "the request carries it encrypted (platform.encryption)")
		}
	}
	return list, nil
}

// viewer takes rows for changes.
type viewer struct {
	o      *previewOptions
	conn   *pgx.Conn
	client *platform.Client
	trier  *mapping.Trier
	now    time.Time
}

// errEnough ends the reading of rows.
var errEnough = errors.New("enough rows")

func (v *viewer) look(ctx context.Context, p *previewed, t *connector.Table, op connector.Op) error {
	key, err := postgres.PrimaryKey(ctx, v.conn, t)
	if err != nil {
		return err
	}
	p.Notes = append(p.Notes, assumptions(op)...)
	if hides, err := postgres.HidesRows(ctx, v.conn, t); err != nil {
		return err
	} else if hides {
		p.Notes = append(p.Notes, "row level security hides rows from this role; the stream has all of them")
	}
	if made := v.trier.Made(p.Mapping); len(made) > 0 {
		p.Notes = append(p.Notes, madeNote(made, op))
	}
	v.o.limit = min(v.o.limit, v.o.rows)
	err = postgres.ReadRows(ctx, v.conn, t, postgres.RowQuery{Where: v.o.where, Newest: key, Limit: v.o.rows}, func(c *connector.Change) error {
		trial := v.trier.Try(p.Mapping, v.change(c, op))
		if trial.Misfit {
			p.failed = true // Errors say why
			return errEnough
		}
		p.Looked++
		p.take(v.rowName(c, key, p.Looked), &trial, v)
		if p.Sent == v.o.limit && p.Looked >= v.o.limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	p.All = err == nil && p.Looked < v.o.rows
	return err
}

// assumptions say what a row is taken for.
func assumptions(op connector.Op) []string {
	switch op {
	case connector.Insert:
		return []string{"as if each row were inserted now"}
	case connector.Update:
		return []string{"as if each row had just been updated to what it is; the row before the update is not known"}
	case connector.Delete:
		return []string{"as if each row were deleted now"}
	}
	return []string{"as backfill sends it"}
}

func madeNote(made []string, op connector.Op) string {
	if op == connector.Snapshot {
		made = slices.DeleteFunc(slices.Clone(made), func(f string) bool { return f == "time" }) // a snapshot has none
	}
	if len(made) == 1 && made[0] != "time" {
		return made[0] + " is another one when it is sent: the connector makes it of the change's position"
	}
	return strings.Join(made, " and ") + " differ when it is sent: the connector makes them of the change's commit time and position"
}

// change makes of a row the change that it is taken for.
func (v *viewer) change(row *connector.Change, op connector.Op) *connector.Change {
	c := &connector.Change{Op: op, Table: row.Table, New: row.New}
	if op != connector.Snapshot {
		c.CommitTime = v.now
	}
	switch op {
	case connector.Update:
		c.Old = make(connector.Tuple, len(row.New)) // all absent
	case connector.Delete:
		c.New, c.Old = nil, slices.Clone(row.New)
		for i, column := range row.Table.Columns { // the replica identity says what comes of a deleted row
			if !column.Key && row.Table.Identity != connector.IdentityFull {
				c.Old[i] = connector.Datum{}
			}
		}
	}
	return c
}

// rowName names a row for people.
func (v *viewer) rowName(c *connector.Change, key []string, number int) string {
	var parts []string
	for _, name := range key {
		if i := c.Table.Column(name); i >= 0 {
			parts = append(parts, name+" "+shownValue(string(c.New[i].Text)))
		}
	}
	if len(parts) == 0 {
		return fmt.Sprintf("row %d", number)
	}
	return strings.Join(parts, ", ")
}

// take notes what became of a row.
func (p *previewed) take(row string, trial *mapping.Trial, v *viewer) {
	r := previewRow{Row: row, Outcome: outcomeSent}
	var values []mapping.Value
	switch {
	case len(trial.Records) > 0:
		p.Sent++
		for _, rec := range trial.Records {
			r.Records = append(r.Records, previewRecord{Request: v.client.Target(rec.Endpoint()), OptType: rec.OptType, Payload: rec.Payload})
			if rec.Envelope != "" {
				r.Records[len(r.Records)-1].PublicParams = json.RawMessage(rec.Envelope)
			}
		}
		if trial.Assumed {
			r.Reason = "shown as if when were true: it reads " + oldColumns(trial.Old) + ", the row before the update, which no table holds"
		}
	case trial.Unknown:
		p.Unknown++
		r.Outcome, r.Reason = outcomeUnknown, "the payload reads "+oldColumns(trial.Old)+", the row before the update, which no table holds"
	case trial.Failed != "":
		p.DeadLetters++
		r.Outcome, r.Reason = outcomeLetter, trial.Failed
	case trial.Passed != nil:
		p.PassedOver++
		r.Outcome, r.Reason, values = outcomePassed, "when is not true: "+trial.Passed.Part, trial.Passed.Values
	default:
		p.PassedOver++
		r.Outcome, r.Reason = outcomePassed, "it changes nothing for this mapping"
	}
	if r.Reason != "" && r.Outcome != outcomeSent {
		p.count(r, values)
	} else if trial.Assumed && !slices.Contains(p.Notes, r.Reason) {
		p.Notes = append(p.Notes, r.Reason)
	}
	shown := 0
	for _, other := range p.Rows {
		if other.Outcome == r.Outcome {
			shown++
		}
	}
	if shown < v.o.limit {
		p.Rows = append(p.Rows, r)
	}
}

func oldColumns(names []string) string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = "old." + n
	}
	return strings.Join(list, ", ")
}

// count sums up a reason and the values that led to it.
func (p *previewed) count(r previewRow, values []mapping.Value) {
	i := slices.IndexFunc(p.Why, func(w previewReason) bool { return w.Outcome == r.Outcome && w.Reason == r.Reason })
	if i < 0 {
		i = len(p.Why)
		p.Why = append(p.Why, previewReason{Outcome: r.Outcome, Reason: r.Reason, Example: r.Row})
	}
	w := &p.Why[i]
	w.Rows++
	for _, value := range values {
		j := slices.IndexFunc(w.Values, func(x previewValue) bool {
			return x.Column == value.Column && (x.Value == nil) == value.Null && (x.Value == nil || *x.Value == value.Text)
		})
		if j < 0 {
			j = len(w.Values)
			x := previewValue{Column: value.Column}
			if !value.Null {
				x.Value = &value.Text
			}
			w.Values = append(w.Values, x)
		}
		w.Values[j].Rows++
	}
	slices.SortStableFunc(w.Values, func(a, b previewValue) int {
		if a.Column != b.Column {
			return strings.Compare(a.Column, b.Column)
		}
		return b.Rows - a.Rows
	})
}
