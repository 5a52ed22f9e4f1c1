package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

func backfillCommand() *cobra.Command {
	b := &connector.Backfill{}
	var dryRun, detach bool
	c := &cobra.Command{
		Use: "backfill MAPPING", Short: "Sends the rows that are in a table already through a mapping, beside the running stream",
		Long: `Sends the rows that are in the mapping's table through the mapping, which must have snapshot in its on. The running connector does it, beside the stream and in
each customer's order; where none runs, the next one does. The command shows how far it is and ends when all rows are settled; Ctrl-C leaves it running.

Whatever is written meanwhile: a row that changes while it is read is read again. It survives kill -9 at any moment, and goes on from the last chunk that was settled. A
second backfill sends all rows again; an event then has the same uuid as in the first one, and a point is given again. Points that the stream gives once it is asked
for are not given again.

A key for --since is the value of the primary key's column; of several columns their values, joined by commas (with a backslash before a comma in a value).`,
		Example: `  tuzhan-cdc backfill member-groups
  tuzhan-cdc backfill order-paid --where "paid_at >= '2024-01-01'" --rows-per-second 500
  tuzhan-cdc backfill order-paid --dry-run --limit 1000
  tuzhan-cdc backfill list`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one mapping, or say list, pause, resume or cancel\nsee `%s --help`", c.CommandPath())}
			}
			return nil
		},
	}
	c.Flags().StringVar(&b.Where, "where", "", "only rows that meet this `SQL` condition; the table is called t in it")
	c.Flags().StringVar(&b.Since, "since", "", "begin with this `key`")
	c.Flags().Int64Var(&b.Limit, "limit", 0, "at most `n` rows; 0: all")
	c.Flags().IntVar(&b.RowsPerSecond, "rows-per-second", 0, "at most `n`; 0: as fast as the platform takes them, or as the mapping's maxPerMinute says")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "read and map the rows, send nothing, and say what would be sent")
	c.Flags().BoolVar(&detach, "detach", false, "return at once")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		if err := suits(cfg, args[0], b); err != nil {
			return err
		}
		fresh := newBackfill(cfg, args[0])
		fresh.Where, fresh.Since, fresh.Limit, fresh.RowsPerSecond = b.Where, b.Since, b.Limit, b.RowsPerSecond
		if err := tryBackfill(c, cfg, fresh, dryRun); err != nil || dryRun {
			return err
		}
		id, err := state.AddBackfill(c.Context(), stateLocation(cfg), fresh)
		if err != nil {
			return err
		}
		err = awaitNotice(c.Context(), cfg, id)
		switch {
		case c.Context().Err() != nil:
			return interrupted(id)
		case err != nil:
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "backfill %d of mapping %s is asked for\n", id, args[0])
		if detach {
			return nil
		}
		return followBackfill(c, cfg, id)
	}
	c.AddCommand(backfillListCommand(), backfillAskCommand(connector.AskPause, "Has a backfill stand still; what is on its way is finished"),
		backfillAskCommand(connector.AskResume, "Lets a backfill that stands still go on"),
		backfillAskCommand(connector.AskCancel, "Ends a backfill; what was sent stays sent"))
	return c
}

// suits refuses what is wrong whatever the database says.
func suits(cfg *config.Config, name string, b *connector.Backfill) error {
	switch {
	case !slices.Contains(cfg.Mappings.Names(), name):
		return usageError{fmt.Errorf("there is no mapping %s; the file has: %s", name, strings.Join(cfg.Mappings.Names(), ", "))}
	case !slices.Contains(cfg.Mappings.Snapshots(), name):
		return usageError{fmt.Errorf("mapping %s has no snapshot in its on, so that a backfill would send nothing: add it (on: [..., snapshot]), and reload (kill -HUP)", name)}
	case b.Limit < 0 || b.RowsPerSecond < 0:
		return usageError{errors.New("--limit and --rows-per-second are 0 or more")}
	}
	return nil
}

// rowSource reads tables as the connector does.
func rowSource(cfg *config.Config) *postgres.Rows {
	return &postgres.Rows{DSN: cfg.Source.DSN.Reveal(), StandbyDSN: cfg.Source.BackfillDSN.Reveal(),
		Publications: []string{cfg.Source.Publication, postgres.InsertPublication(cfg.Source.Publication)}}
}

// tryBackfill looks whether the connector will be able to read the rows, as far as it can be known now: a wrong condition or a missing right shows here. dryRun
// reads and maps them all.
func tryBackfill(c *cobra.Command, cfg *config.Config, b *connector.Backfill, dryRun bool) error {
	ctx := c.Context()
	r, err := rowSource(cfg).Open(ctx, b)
	var passes interface{ Passing() bool }
	if err != nil && !dryRun && errors.As(err, &passes) && passes.Passing() {
		fmt.Fprintf(c.ErrOrStderr(), "not tried, since the database is not to be reached: %v\n", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	points := slices.ContainsFunc(cfg.Mappings.List(), func(m mapping.Summary) bool { return m.Name == b.Mapping && m.Kind == connector.Point })
	if why := r.Unfit(); why != "" && points {
		return fmt.Errorf("mapping %s makes points, and %s", b.Mapping, why)
	}
	b.Key = r.Key() // what the stream gives from here on is noted by it
	if b.Key == nil {
		fmt.Fprintf(c.ErrOrStderr(), "table %s has no primary key: its rows are read by their place (ctid). A row that changes meanwhile may be sent twice, as it was before, or not at all, and an event gets another uuid in each backfill\n", b.Table())
		if points {
			fmt.Fprintln(c.ErrOrStderr(), "so it stands still, rather than give points twice, when a row of the table changes meanwhile or the stream gives points of the mapping: ask for it while nothing is written")
		}
	}
	after, from := b.Since, b.Since != ""
	if !dryRun {
		_, err := r.Read(ctx, "", after, from, 1)
		return err
	}
	return dryRunBackfill(c, cfg, b, r)
}

// noticeWait is how long a command waits until the running connector knows of a backfill.
const noticeWait = 3 * time.Second

// awaitNotice waits until the running connector knows of a backfill, and notes for it what the stream gives. Where none runs, the next one knows of it before it
// streams: then the command waits in vain, and not for long.
func awaitNotice(ctx context.Context, cfg *config.Config, id int64) error {
	r, err := state.OpenReader(ctx, stateLocation(cfg))
	if err != nil {
		return err
	}
	defer r.Close()
	late := time.After(noticeWait)
	for {
		if b, err := r.Backfill(ctx, id); err != nil || b.Seen {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// dryRunBackfill reads and maps the rows, and says what came of them.
func dryRunBackfill(c *cobra.Command, cfg *config.Config, b *connector.Backfill, r connector.RowReader) error {
	ctx := c.Context()
	conn, err := postgres.Connect(ctx, cfg.Source.DSN.Reveal())
	if err != nil {
		return postgres.Explain(err)
	}
	server, err := postgres.LoadServer(ctx, conn)
	_ = conn.Close(ctx) // it was only asked
	if err != nil {
		return err
	}
	zone, err := timeZone(cfg, server.TimeZone)
	if err != nil {
		return err
	}
	mapper := mapperFor(cfg, connector.Lineage{SystemID: server.SystemID, Database: server.Database}, zone, nil)
	var out connector.Output
	var rows, records, letters, nothing int64
	first := ""
	after, from := b.Since, b.Since != ""
	for end := false; !end; {
		most := int64(1000)
		if b.Limit > 0 {
			most = min(most, b.Limit-rows)
		}
		chunk, err := r.Read(ctx, "", after, from, int(most))
		if err != nil {
			return err
		}
		if left := b.Limit - rows; b.Limit > 0 && int64(len(chunk.Rows)) > left { // without a key whole pages are read
			chunk.Rows = chunk.Rows[:left]
		}
		for i := range chunk.Rows {
			out.Reset()
			mapper.Map(&connector.Change{Op: connector.Snapshot, Table: chunk.Table, New: chunk.Rows[i].Tuple, Row: chunk.Rows[i].Key}, connector.Part{Only: b.Mapping}, &out)
			bad := out.Unrecorded()
			if len(bad) > 0 && first == "" {
				first = bad[0].Reason
			}
			if len(bad)+len(out.Records) == 0 {
				nothing++
			}
			records, letters = records+int64(len(out.Records)), letters+int64(len(bad))
		}
		rows += int64(len(chunk.Rows))
		if chunk.Scanned > 0 {
			after, from = chunk.Last, false
		}
		end = chunk.End || b.Limit > 0 && rows >= b.Limit
	}
	w := c.OutOrStdout()
	fmt.Fprintf(w, "%d rows: %d records would be sent, %d rows give nothing, %d dead letters\n", rows, records, nothing, letters)
	if first != "" {
		fmt.Fprintf(w, "the first dead letter: %s\n", first)
		return errQuiet
	}
	return nil
}

// followEvery is how often a command looks how far a backfill is.
const followEvery = 300 * time.Millisecond

// queuedFor is how long a backfill may be queued before the command says why that may be.
const queuedFor = 5 * time.Second

// followBackfill shows how far a backfill is until it ends.
func followBackfill(c *cobra.Command, cfg *config.Config, id int64) error {
	r, err := state.OpenReader(c.Context(), stateLocation(cfg))
	switch {
	case c.Context().Err() != nil:
		if err == nil {
			r.Close()
		}
		return interrupted(id)
	case err != nil:
		return err
	}
	defer r.Close()
	p := newProgress(c.ErrOrStderr())
	began, told := time.Now(), false
	for {
		b, err := r.Backfill(c.Context(), id)
		if c.Context().Err() != nil {
			p.end()
			return interrupted(id)
		}
		if err != nil {
			return err
		}
		p.show(b)
		if b.Status == connector.BackfillQueued && !told && time.Since(began) > queuedFor {
			told = true
			fmt.Fprintln(c.ErrOrStderr(), "it has not begun: another backfill runs first, or no connector runs (tuzhan-cdc status)")
		}
		switch {
		case b.Status == connector.BackfillDone:
			p.end()
			_, err := fmt.Fprintf(c.OutOrStdout(), "backfill %d of mapping %s is done: %d rows settled in %s\n", id, b.Mapping, b.Rows, b.Ended.Sub(b.Started).Round(100*time.Millisecond))
			return err
		case b.Status.Ended() || b.Status == connector.BackfillPaused && b.Asked == "":
			p.end()
			why := ""
			if b.Reason != "" {
				why = ": " + b.Reason
			}
			return fmt.Errorf("backfill %d of mapping %s is %s after %d rows%s", id, b.Mapping, b.Status, b.Rows, why)
		}
		select {
		case <-c.Context().Done():
		case <-time.After(followEvery):
		}
	}
}

func interrupted(id int64) error {
	return fmt.Errorf("interrupted: the running connector goes on with it (tuzhan-cdc backfill list; tuzhan-cdc backfill pause %d)", id)
}

// progress shows how far a backfill is: as a bar on a terminal, else as a line now and then.
type progress struct {
	w     io.Writer
	bar   *progressbar.ProgressBar
	isTTY bool
	said  string
	at    time.Time
	rates backfillRates
}

func newProgress(w io.Writer) *progress {
	return &progress{w: w, isTTY: isTerminal(w)}
}

// sayEvery is how often a line is written where there is no terminal.
const sayEvery = 10 * time.Second

func (p *progress) show(b *connector.Backfill) {
	why := string(b.Status)
	if b.Reason != "" {
		why += ": " + b.Reason
	}
	if p.isTTY {
		total := max(b.Estimate, b.Rows)
		if total == 0 {
			total = -1
		}
		if p.bar == nil {
			p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.w), progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("rows"),
				progressbar.OptionSetPredictTime(true), progressbar.OptionSetElapsedTime(true), progressbar.OptionFullWidth())
		}
		if total != p.bar.GetMax64() {
			p.bar.ChangeMax64(total)
		}
		p.bar.Describe(b.Mapping + " " + why)
		_ = p.bar.Set64(b.Rows) // a terminal that is gone
		return
	}
	rate := p.rates.of(b.ID, b.Rows, time.Now())
	if why == p.said && time.Since(p.at) < sayEvery {
		return
	}
	p.said, p.at = why, time.Now()
	line := rowsText(b.Rows, b.Estimate)
	if rate > 0 {
		line += fmt.Sprintf(", %.0f rows/s", rate)
		if left := b.Estimate - b.Rows; left > 0 {
			line += fmt.Sprintf(", about %s left", connector.Span(seconds(float64(left)/rate)))
		}
	}
	fmt.Fprintf(p.w, "%s: %s\n", why, line)
}

// end leaves the bar's line.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Exit()
		fmt.Fprintln(p.w)
	}
}

func backfillListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "Lists the backfills", Args: noArgs, Example: "  tuzhan-cdc backfill list --all\n  tuzhan-cdc backfill list --output json"}
	output := outputFlag(c)
	all := c.Flags().Bool("all", false, "those that have ended too")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		return readState(c, func(r *state.Reader) error {
			read := r.Backfills
			if *all {
				read = r.AllBackfills
			}
			list, err := read(c.Context())
			if err != nil {
				return err
			}
			if *output == "json" {
				return printJSON(c.OutOrStdout(), listedBackfills(list))
			}
			if len(list) == 0 {
				text := "no backfill is queued, running or paused (`tuzhan-cdc backfill list --all` shows those that have ended)"
				if *all {
					text = "no backfills"
				}
				fmt.Fprintln(c.OutOrStdout(), text)
				return nil
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "ID\tMAPPING\tTABLE\tSTATE\tROWS\tSTARTED\tREASON")
			for _, b := range list {
				started := "-"
				if !b.Started.IsZero() {
					started = b.Started.Local().Format(time.DateTime)
				}
				fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", b.ID, b.Mapping, b.Table(), b.Status, rowsText(b.Rows, b.Estimate), started, b.Reason)
			}
			return t.Flush()
		})
	}
	return c
}

// backfillJSON is a backfill as programs read it.
type backfillJSON struct {
	status.Backfill
	Where         string     `json:"where,omitempty"`
	FirstKey      string     `json:"firstKey,omitempty"`
	Limit         int64      `json:"limit,omitempty"`
	RowsPerSecond int        `json:"rowsPerSecond,omitempty"`
	Asked         string     `json:"asked,omitempty"`
	Created       time.Time  `json:"created"`
	Ended         *time.Time `json:"ended,omitempty"`
}

func listedBackfills(list []*connector.Backfill) []backfillJSON {
	shown := make([]backfillJSON, len(list))
	for i, b := range list {
		shown[i] = backfillJSON{Backfill: backfillOf(b), Where: b.Where, FirstKey: b.Since, Limit: b.Limit, RowsPerSecond: b.RowsPerSecond, Asked: b.Asked, Created: b.Created}
		shown[i].Pending = len(b.Again)
		if !b.Ended.IsZero() {
			shown[i].Ended = &b.Ended
		}
	}
	return shown
}

// backfillAskCommand makes the command that asks the running connector to do something with a backfill.
func backfillAskCommand(what, short string) *cobra.Command {
	return &cobra.Command{
		Use: what + " ID|MAPPING", Short: short, Example: "  tuzhan-cdc backfill " + what + " order-paid\n  tuzhan-cdc backfill " + what + " 3",
		Long: short + ". The running connector does it within a second or two; where none runs, the next one does.",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one backfill, by its id or its mapping\nsee `%s --help`", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			cfg, r, err := openState(c)
			if err != nil {
				return err
			}
			defer r.Close()
			b, err := findBackfill(c.Context(), r, args[0])
			switch {
			case err != nil:
				return err
			case what == connector.AskPause && b.Status == connector.BackfillPaused:
				return fmt.Errorf("backfill %d stands still already", b.ID)
			case what == connector.AskResume && b.Status != connector.BackfillPaused && b.Asked != connector.AskPause:
				return fmt.Errorf("backfill %d does not stand still: it is %s", b.ID, b.Status)
			}
			if err := state.AskBackfill(c.Context(), stateLocation(cfg), b.ID, what); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "asked for: %s backfill %d of mapping %s\n", what, b.ID, b.Mapping)
			return err
		},
	}
}

// findBackfill finds a backfill that has not ended by its id, or by its mapping where that has only one.
func findBackfill(ctx context.Context, r *state.Reader, name string) (*connector.Backfill, error) {
	list, err := r.Backfills(ctx)
	if err != nil {
		return nil, err
	}
	id, _ := strconv.ParseInt(name, 10, 64)
	var found []*connector.Backfill
	for _, b := range list {
		if b.ID == id || b.Mapping == name {
			found = append(found, b)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("no backfill %s is queued, running or paused (`tuzhan-cdc backfill list --all` shows all)", name)
	}
	return nil, fmt.Errorf("mapping %s has several backfills: name one by its id (`tuzhan-cdc backfill list`)", name)
}
