package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

func testCommand() *cobra.Command {
	var o testOptions
	c := &cobra.Command{
		Use: "test", Short: "Runs the tests that stand beside the mappings", Args: noArgs,
		Long: `Runs the tests: of the configuration and of its mapping files: each gives a change of a row, and the records that the mapping must make of it, or a part of the
reason why it becomes a dead letter. It needs neither database nor platform nor any secret: the tables' types stand under tables:.

--record writes what came of the tests that fail, or that expect nothing yet, into the file as what they expect, after it has shown the difference: look at it, then
commit it. --record-tables writes tables: from the database of the file.

Exits with 1 where a test fails, with 2 where the file is wrong.`,
		Example: `  tuzhan-cdc test
  tuzhan-cdc test --mapping order-points --run '退款|refund'
  tuzhan-cdc test --record
  tuzhan-cdc test --record-tables`,
	}
	output := outputFlag(c)
	c.Flags().StringVar(&o.mapping, "mapping", "", "only the tests of this `mapping`")
	c.Flags().StringVar(&o.run, "run", "", "only the tests whose name matches this `regexp`")
	c.Flags().BoolVar(&o.record, "record", false, "write what came as what is expected")
	c.Flags().BoolVar(&o.tables, "record-tables", false, "write tables: from the database")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		o.json = *output == "json"
		return runTests(c, o)
	}
	return c
}

type testOptions struct {
	mapping, run         string
	record, tables, json bool
}

func runTests(c *cobra.Command, o testOptions) error {
	path, err := c.Flags().GetString("config")
	if err != nil {
		return err
	}
	if o.tables {
		if err := recordTables(c, o.json); err != nil {
			return err
		}
	}
	cfg, err := config.LoadMappings(path, environment)
	if err != nil {
		return usageError{err}
	}
	results, err := testResults(cfg, o)
	if err != nil {
		return err
	}
	report := &testReport{w: c.OutOrStdout(), painter: paintFor(c.OutOrStdout()), file: path}
	var failed error
	if o.record {
		report.recorded, failed = recordResults(results)
	}
	if o.json {
		err = printJSON(report.w, report.json(results))
	} else {
		report.print(results, o.record)
	}
	if err = errors.Join(err, failed); err == nil && o.record {
		if results, err = runAgain(path, o); err == nil && !o.json {
			report.lost(results)
		}
	}
	if err == nil && slices.ContainsFunc(results, func(r mapping.Result) bool { return !r.Passed }) {
		return errQuiet
	}
	return err
}

// runAgain runs the tests with what was recorded: a text that YAML or ${ } does not give back as it was shows here.
func runAgain(path string, o testOptions) ([]mapping.Result, error) {
	cfg, err := config.LoadMappings(path, environment)
	if err != nil {
		return nil, usageError{err}
	}
	return testResults(cfg, o)
}

// testResults runs the tests that are selected.
func testResults(cfg *config.Config, o testOptions) ([]mapping.Result, error) {
	wanted, err := regexp.Compile(o.run)
	if err != nil {
		return nil, usageError{fmt.Errorf("--run: %w", err)}
	}
	if names := cfg.Mappings.Names(); o.mapping != "" && !slices.Contains(names, o.mapping) {
		text := "there is no mapping " + o.mapping
		if s := strict.Suggest(o.mapping, names); s != "" {
			text += ": did you mean " + s + "?"
		}
		return nil, usageError{errors.New("--mapping: " + text)}
	}
	options := mapping.Options{TimeZone: cfg.Source.TimeZone, PointDecrease: cfg.Platform.Paths.PointDecrease != ""}
	var results []mapping.Result
	for _, x := range cfg.Tests.List() {
		if (o.mapping == "" || x.Mapping == o.mapping) && wanted.MatchString(x.Title()) {
			results = append(results, cfg.Tests.Run(x, options))
		}
	}
	return results, nil
}

// testReport shows results.
type testReport struct {
	painter
	w    io.Writer
	file string
	// recorded are the places, in the list of results, of those that were recorded.
	recorded map[int]bool
}

func (t *testReport) print(results []mapping.Result, record bool) {
	failed := 0
	files := map[string]int{} // recorded
	for i, r := range results {
		title := r.Test.Title()
		if r.Test.Name != "" {
			title = r.Test.Mapping + ": " + title
		}
		if r.Passed {
			fmt.Fprintf(t.w, "%s  %s\n", t.green("ok  "), title)
			continue
		}
		label := t.red("FAIL")
		if t.recorded[i] {
			label = t.green("recorded")
			files[r.Test.File]++
		} else {
			failed++
		}
		fmt.Fprintf(t.w, "%s  %s %s\n", label, t.bold(title), t.faint(fmt.Sprintf("(%s:%d)", r.Test.File, r.Test.Line)))
		for _, p := range r.Problems {
			fmt.Fprintf(t.w, "      %s\n", strings.ReplaceAll(withConfig(t.file, p.String()), "\n", "\n      "))
		}
		if len(r.Problems) > 0 {
			continue
		}
		if !r.Test.Expects() {
			fmt.Fprintln(t.w, "      it expects nothing yet; this came:")
		}
		for _, l := range difference(r.Want, r.Got) {
			fmt.Fprintf(t.w, "      %s\n", t.diffLine(l))
		}
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(t.w, "%s: recorded what came of %s\n", file, count(files[file], "test"))
	}
	fmt.Fprintln(t.w, t.summary(len(results), failed, record))
}

// lost names the tests that were recorded and fail all the same; again are the results of the same tests by what was written.
func (t *testReport) lost(again []mapping.Result) {
	for i, r := range again {
		if t.recorded[i] && !r.Passed {
			fmt.Fprintf(t.w, "%s  %s %s\n      what was recorded is not read as what came: mend it by hand\n", t.red("FAIL"), t.bold(r.Test.Title()),
				t.faint(fmt.Sprintf("(%s:%d)", r.Test.File, r.Test.Line)))
		}
	}
}

func (t *testReport) summary(n, failed int, record bool) string {
	switch {
	case n == 0:
		return "no tests: write them under tests: beside the mappings (README, \"Tests of mappings\")"
	case failed == 0 && len(t.recorded) == 0:
		return t.green(count(n, "test") + " passed")
	}
	text := t.green(fmt.Sprintf("%d passed", n-failed-len(t.recorded)))
	if len(t.recorded) > 0 {
		text += ", " + t.green(fmt.Sprintf("%d recorded", len(t.recorded)))
	}
	if failed > 0 {
		text += ", " + t.red(fmt.Sprintf("%d failed", failed))
	}
	if !record {
		text += withConfig(t.file, "; where what came is right: tuzhan-cdc test --record")
	}
	return text
}

func (t *testReport) diffLine(l diffLine) string {
	at := "    "
	if l.at > 0 {
		at = fmt.Sprintf("%4d", l.at)
	}
	text := t.faint(at) + " " + l.sign + " " + l.text
	switch l.sign {
	case "-":
		return t.faint(at) + " " + t.red("- "+l.text)
	case "+":
		return t.faint(at) + " " + t.green("+ "+l.text)
	}
	return text
}

// diffLine is a line of a difference: sign is "-" for what was expected, "+" for what came, " " for both; at is the line of the file, 0 where it is not from there.
type diffLine struct {
	sign string
	at   int
	text string
}

// difference compares what is expected with what came, line by line in YAML.
func difference(want, got *mapping.Tree) []diffLine {
	wanted, came := want.Lines(), got.Lines()
	text := func(lines []mapping.Line) string {
		var b strings.Builder
		for _, l := range lines {
			b.WriteString(l.Text + "\n")
		}
		return b.String()
	}
	before, after := text(wanted), text(came)
	u, err := udiff.ToUnifiedDiff("", "", before, udiff.Lines(before, after), len(wanted)+len(came))
	if err != nil {
		return nil // it can't be: the edits are of this text
	}
	var list []diffLine
	at := 0
	for _, h := range u.Hunks {
		for _, l := range h.Lines {
			d := diffLine{sign: " ", text: strings.TrimSuffix(l.Content, "\n")}
			switch l.Kind {
			case udiff.Insert:
				d.sign = "+"
			case udiff.Delete:
				d.sign = "-"
			}
			if l.Kind != udiff.Insert && at < len(wanted) {
				d.at = wanted[at].At
				at++
			}
			list = append(list, d)
		}
	}
	return list
}

// testJSON is a result for programs.
type testJSON struct {
	Name    string `json:"name"`
	Mapping string `json:"mapping"`
	Op      string `json:"op"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Passed  bool   `json:"passed"`
	// Recorded says that it did not pass, and that Got stands in the file now.
	Recorded bool `json:"recorded,omitempty"`
	// Want and Got are {"expect": [records]} or {"deadLetter": reason}; null: the test expects nothing yet, or could not run.
	Want     *mapping.Tree    `json:"want"`
	Got      *mapping.Tree    `json:"got"`
	Problems []strict.Problem `json:"problems"`
}

func (t *testReport) json(results []mapping.Result) []testJSON {
	list := []testJSON{}
	for i, r := range results {
		list = append(list, testJSON{Recorded: t.recorded[i], Name: r.Test.Title(), Mapping: r.Test.Mapping, Op: r.Test.Op.String(), File: r.Test.File, Line: r.Test.Line, Passed: r.Passed,
			Want: r.Want, Got: r.Got, Problems: append([]strict.Problem{}, r.Problems...)})
	}
	return list
}
