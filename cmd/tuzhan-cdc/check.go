package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platform"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "check", Short: "Checks the file, the database and the platform's token, each finding with its cure", Args: noArgs,
		Long: `Checks the configuration file; then, where they are to be reached, the database (wal_level, rights, tables, columns, types, replica identity, publications,
slot), the state (rights, version) and the platform (the token call; no data is sent). Changes nothing.

Exits with 2 where the file is wrong, with 1 where something else would keep the connector from running, else with 0: a slot and publications that
are missing are made by run, where the role may. A database or a platform that is not to be reached is a warning.`,
		Example: "  tuzhan-cdc check\n  tuzhan-cdc check -c /etc/tuzhan-cdc/tuzhan-cdc.yaml --output json\n  tuzhan-cdc check --offline        # the file only",
	}
	output := outputFlag(c)
	offline := c.Flags().Bool("offline", false, "check the file only")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		cfg, err := loadConfig(c)
		if err != nil {
			return wrongFile(c.OutOrStdout(), err, *output)
		}
		r := &checkReport{file: cfg.File, offline: *offline}
		if !*offline {
			r.add("database", cfg.Source.Display(), checkDatabase(c.Context(), cfg, r)...)
			r.add("state", "", checkState(c.Context(), cfg)...)
			r.add("platform", cfg.Platform.BaseURL, checkPlatform(c.Context(), cfg)...)
		}
		r.add("file", "", checkFile(cfg, r.unfit))
		if *output == "json" {
			err = printJSON(c.OutOrStdout(), r.findings)
		} else {
			err = r.print(c.OutOrStdout())
		}
		if err == nil && r.count(postgres.SeverityError) > 0 {
			return errQuiet
		}
		return err
	}
	return c
}

// wrongFile shows what is wrong with a file that can't be taken: as JSON where that is asked for, else as any command does.
func wrongFile(w io.Writer, err error, output string) error {
	var problems *strict.Errors
	if output != "json" || !errors.As(err, &problems) {
		return err
	}
	r := &checkReport{}
	for _, p := range problems.Problems {
		r.add("file", "", problemFinding(postgres.SeverityError, p))
	}
	return usageError{errors.Join(errQuiet, printJSON(w, r.findings))}
}

// checkFile tells what the file holds; unfit is the number of mappings that have errors.
func checkFile(cfg *config.Config, unfit int) postgres.Finding {
	text := count(len(cfg.Mappings.List()), "mapping")
	if n := len(cfg.Tests.List()); n > 0 {
		text += ", " + count(n, "test")
	}
	if unfit > 0 {
		return postgres.Finding{Severity: postgres.SeverityInfo, Subject: cfg.File, Text: fmt.Sprintf("%s; with errors: %s", text, count(unfit, "mapping"))}
	}
	return postgres.Finding{Severity: postgres.SeverityOK, Subject: cfg.File, Text: text}
}

// notChecked begins the text of a neighbour that could not be asked.
const notChecked = "not to be reached, so not checked: "

// cutShort begins the text of a neighbour that could be reached, and did not answer everything.
const cutShort = "not checked to the end: "

// checkTimeout bounds what check asks of one neighbour: some dozens of questions, on a busy server or by a slow line.
const checkTimeout = time.Minute

// checkDatabase gives what the database has to say, and puts into r what mappings and tests have to say of its tables.
func checkDatabase(ctx context.Context, cfg *config.Config, r *checkReport) []postgres.Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	conn, err := postgres.Connect(ctx, cfg.Source.DSN.Reveal())
	if err != nil {
		return []postgres.Finding{failure("database", err)}
	}
	defer conn.Close(context.WithoutCancel(ctx))
	saved, unread := savedState(ctx, cfg) // checkState tells of one that can't be read
	report, err := postgres.Preflight(ctx, conn, postgres.PreflightParams{Uses: uses(cfg.Mappings), Slot: cfg.Source.Slot,
		Publication: cfg.Source.Publication, ColumnLists: cfg.Source.ColumnLists, WALBudget: cfg.Source.WALBudget,
		Known: unread == nil && saved.Checkpoint != nil, Heartbeat: cfg.Source.Heartbeat > 0, Failover: cfg.Source.Failover})
	if err != nil {
		return []postgres.Finding{failure("database", err)}
	}
	r.running = report.Streaming
	if unread == nil && !report.Failed() {
		report.Findings = append(report.Findings, checkHistory(ctx, cfg)...)
	}
	tables, err := postgres.LoadUsed(ctx, conn, uses(cfg.Mappings), cfg.Source.Publication)
	if err != nil {
		return append(report.Findings, failure("database", err))
	}
	for _, found := range cfg.Mappings.CheckEach(tables) {
		if found.Err() != nil {
			r.unfit++
		}
	}
	r.add("file", "", mappingFindings(cfg.Mappings, tables)...)
	r.add("file", "", testFindings(cfg.Tests, tables)...)
	return report.Findings
}

// testFindings says where the tables that tests declare are not those of the database.
func testFindings(tests *mapping.Tests, tables []*connector.Table) []postgres.Finding {
	var list []postgres.Finding
	for _, t := range tables {
		d, ok := tests.Compare(t)
		if !ok || len(d.Differs) == 0 {
			continue
		}
		list = append(list, postgres.Finding{Severity: postgres.SeverityWarning, Subject: fmt.Sprintf("%s:%d:%d", d.File, d.Line, d.Column),
			Text: fmt.Sprintf("tables: %s is not as the database has it, so its tests may say what is not so: %s", t, strings.Join(d.Differs, "; ")), Cure: "tuzhan-cdc test --record-tables"})
	}
	return list
}

// savedState reads the state; one without a checkpoint where there is none yet.
func savedState(ctx context.Context, cfg *config.Config) (*connector.Saved, error) {
	r, err := state.OpenReader(ctx, stateLocation(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return &connector.Saved{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Load(ctx)
}

// checkHistory gives the refusal that run would end with, for what state, slot and file say together.
func checkHistory(ctx context.Context, cfg *config.Config) []postgres.Finding {
	var last *connector.Checkpoint
	err := postgres.CheckHistory(ctx, sourceConfig(cfg), func(ctx context.Context) (*connector.Saved, error) {
		saved, err := savedState(ctx, cfg)
		if err != nil {
			return nil, err
		}
		last = saved.Checkpoint
		return saved, refuseGone(last, cfg.Mappings)
	})
	switch {
	case err != nil:
		return []postgres.Finding{failure("history", err)}
	case last == nil:
		return nil
	case last.Settled == (connector.Position{}):
		return []postgres.Finding{{Severity: postgres.SeverityOK, Subject: "history", Text: "nothing was sent yet; state and slot belong together"}}
	}
	return []postgres.Finding{{Severity: postgres.SeverityOK, Subject: "history", Text: fmt.Sprintf("settled up to %s, which the server's history has", settledText(last.Settled))}}
}

// failure is a neighbour that could not be asked: a warning where that passes, else an error.
func failure(subject string, err error) postgres.Finding {
	f := postgres.Finding{Severity: postgres.SeverityError, Subject: subject, Text: postgres.Explain(err).Error()}
	var refusal *postgres.Refusal
	if errors.As(postgres.Explain(err), &refusal) {
		f.Text, f.Cure = refusal.Text, refusal.Cure
	}
	var attempt *pgconn.ConnectError
	switch {
	case errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &attempt): // it was reached
		f.Severity = postgres.SeverityWarning
		f.Text = fmt.Sprintf(cutShort+"it has not answered within %s all that is asked", connector.Span(checkTimeout))
		f.Cure = "see what keeps it busy, or who holds a lock, and check again: SELECT pid, state, wait_event_type, wait_event, query FROM pg_stat_activity WHERE state <> 'idle';"
	case postgres.Passing(err):
		f.Severity = postgres.SeverityWarning
		f.Text = notChecked + f.Text
	}
	return f
}

// checkState looks at the place where the state is, or will be.
func checkState(ctx context.Context, cfg *config.Config) []postgres.Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	found, err := state.Inspect(ctx, stateLocation(cfg))
	if err != nil {
		f := postgres.Finding{Severity: postgres.SeverityError, Subject: "state", Text: err.Error()}
		var e *state.Error
		if errors.As(err, &e) {
			f.Text, f.Cure = fmt.Sprintf("%s: %v", e.Place, e.Err), e.Cure
		}
		if state.Unreachable(err) {
			f.Severity, f.Text = postgres.SeverityWarning, notChecked+f.Text
		}
		return []postgres.Finding{f}
	}
	list := []postgres.Finding{{Severity: postgres.SeverityOK, Subject: "state", Text: found.Text}}
	for _, w := range found.Warnings {
		list = append(list, postgres.Finding{Severity: postgres.SeverityWarning, Subject: "state", Text: w.Text, Cure: w.Cure})
	}
	return list
}

// checkPlatform makes the token call.
func checkPlatform(ctx context.Context, cfg *config.Config) []postgres.Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	client, err := newPlatform(cfg, discardLogger(), nil, nil)
	if err != nil {
		return []postgres.Finding{{Severity: postgres.SeverityError, Subject: "platform", Text: err.Error()}}
	}
	defer client.Close()
	found, err := client.Check(ctx)
	if err == nil {
		return []postgres.Finding{{Severity: postgres.SeverityOK, Subject: "platform", Text: found}}
	}
	f := postgres.Finding{Severity: postgres.SeverityError, Subject: "platform", Text: err.Error()}
	var e *platform.Error
	if errors.As(err, &e) {
		f.Text, f.Cure = e.Op+": "+e.Reason, e.Cure
		if e.Passing() {
			f.Severity, f.Text = postgres.SeverityWarning, notChecked+f.Text
		}
	}
	return []postgres.Finding{f}
}

// mappingFindings gives what the mappings have to say of the tables.
func mappingFindings(set *mapping.Set, tables []*connector.Table) []postgres.Finding {
	found := set.Check(tables)
	var list []postgres.Finding
	add := func(severity postgres.Severity, problems []strict.Problem) {
		for _, p := range problems {
			list = append(list, problemFinding(severity, p))
		}
	}
	add(postgres.SeverityError, found.Errors().All())
	add(postgres.SeverityWarning, found.Warnings.All())
	return list
}

func problemFinding(severity postgres.Severity, p strict.Problem) postgres.Finding {
	return postgres.Finding{Severity: severity, Subject: fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column), Text: p.Text, Cure: p.Hint}
}

// checkTables is the look at the tables that run takes before it makes or streams anything: the same that check prints. What is wrong with a
// mapping that the state already knows is no error: it is put into unfit, and the mapping starts held.
func checkTables(set *mapping.Set, known []string, unfit map[string]connector.Unfit) func([]*connector.Table) error {
	return func(tables []*connector.Table) error {
		clear(unfit)
		var refused mapping.Findings
		for name, found := range set.CheckEach(tables) {
			switch {
			case found.Err() == nil:
			case slices.Contains(known, name):
				unfit[name] = found.Unfit()
			default:
				refused.Take(found)
			}
		}
		if err := refused.Err(); err != nil {
			return fmt.Errorf("the mappings do not fit the tables:\n%w", err)
		}
		return nil
	}
}

// count gives a number with what it counts: 1 error, 2 errors.
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
