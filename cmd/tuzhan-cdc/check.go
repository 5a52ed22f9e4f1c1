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
		Example: "  tuzhan-cdc check -c tuzhan-cdc.yaml\n  tuzhan-cdc check --offline",
	}
	output := outputFlag(c)
	offline := c.Flags().Bool("offline", false, "check the file only")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		findings := []postgres.Finding{{Severity: postgres.SeverityOK, Subject: "file", Text: cfg.File + ": " + count(len(cfg.Mappings.List()), "mapping")}}
		if !*offline {
			findings = append(findings, checkState(c.Context(), cfg)...)
			findings = append(findings, checkDatabase(c.Context(), cfg)...)
			findings = append(findings, checkPlatform(c.Context(), cfg)...)
		}
		if *output == "json" {
			err = printJSON(c.OutOrStdout(), findings)
		} else {
			err = printFindings(c.OutOrStdout(), findings)
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(findings, func(f postgres.Finding) bool { return f.Severity == postgres.SeverityError }) {
			return errQuiet
		}
		return nil
	}
	return c
}

// checkTimeout bounds what check asks of one neighbour.
const checkTimeout = 30 * time.Second

// checkDatabase gives what the database has to say, and what the mappings have to say of its tables.
func checkDatabase(ctx context.Context, cfg *config.Config) []postgres.Finding {
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
	if unread == nil && !report.Failed() {
		report.Findings = append(report.Findings, checkHistory(ctx, cfg)...)
	}
	tables, err := postgres.LoadUsed(ctx, conn, uses(cfg.Mappings), cfg.Source.Publication)
	if err != nil {
		return append(report.Findings, failure("database", err))
	}
	return append(report.Findings, mappingFindings(cfg.Mappings, tables)...)
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
	if postgres.Passing(err) {
		f.Severity = postgres.SeverityWarning
		f.Text = "not to be reached, so not checked: " + f.Text
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
			f.Severity, f.Text = postgres.SeverityWarning, "not to be reached, so not checked: "+f.Text
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
			f.Severity, f.Text = postgres.SeverityWarning, "not to be reached, so not checked: "+f.Text
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
			list = append(list, postgres.Finding{Severity: severity, Subject: fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column), Text: p.Text, Cure: p.Hint})
		}
	}
	add(postgres.SeverityError, found.Errors.All())
	add(postgres.SeverityWarning, found.Warnings.All())
	return list
}

// checkTables is the look at the tables that run takes before it makes or streams anything: the same that check prints. What is wrong with a
// mapping that the state already knows is no error: it is put into unfit, and the mapping starts held.
func checkTables(set *mapping.Set, known []string, unfit map[string]string) func([]*connector.Table) error {
	return func(tables []*connector.Table) error {
		clear(unfit)
		var problems strict.Problems
		for name, found := range set.CheckEach(tables) {
			switch {
			case found.Err() == nil:
			case slices.Contains(known, name):
				unfit[name] = oneLine(found.Errors.All())
			default:
				problems.Take(&found.Errors)
			}
		}
		if err := problems.Err(); err != nil {
			return fmt.Errorf("the mappings do not fit the tables:\n%w", err)
		}
		return nil
	}
}

// oneLine gives problems as one line of an alarm, the hints in parentheses.
func oneLine(problems []strict.Problem) string {
	var parts []string
	for _, p := range problems {
		hint := p.Hint
		p.Hint = ""
		part := p.String()
		if hint != "" {
			part += " (" + hint + ")"
		}
		parts = append(parts, strings.Join(strings.Fields(part), " "))
	}
	return strings.Join(parts, "; ")
}

// count gives a number with what it counts: 1 error, 2 errors.
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func printFindings(w io.Writer, findings []postgres.Finding) error {
	counts := map[postgres.Severity]int{}
	for _, f := range findings {
		counts[f.Severity]++
		text := strings.ReplaceAll(f.Text, "\n", "\n         ")
		if _, err := fmt.Fprintf(w, "%-8s %s: %s\n", f.Severity, f.Subject, text); err != nil {
			return err
		}
		if f.Cure != "" {
			fmt.Fprintf(w, "         cure: %s\n", strings.ReplaceAll(f.Cure, "\n", "\n               "))
		}
	}
	_, err := fmt.Fprintf(w, "%s, %s\n", count(counts[postgres.SeverityError], "error"), count(counts[postgres.SeverityWarning], "warning"))
	return err
}
