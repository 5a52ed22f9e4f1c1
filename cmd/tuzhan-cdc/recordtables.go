package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

// recordTables writes the tables of all mappings, as the database has them, under tables: of the files. A table stays in the file that declares it; a new
// one goes into the file of its first mapping.
func recordTables(c *cobra.Command, quiet bool) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	tables, err := usedTables(c.Context(), cfg)
	if err != nil {
		return err
	}
	for _, use := range cfg.Mappings.Uses() {
		name := use.Schema + "." + use.Name
		table := tables[name]
		if table == nil {
			return fmt.Errorf("record tables: there is no table %s in %s: mend the mapping at %s:%d", name, cfg.Source.Display(), use.Mappings[0].File, use.Mappings[0].Line)
		}
		if err := recordTable(c.OutOrStdout(), c, use.Mappings[0].File, table, quiet); err != nil {
			return err
		}
	}
	return nil
}

// usedTables gives the tables of the mappings as the database has them, by schema.name.
func usedTables(ctx context.Context, cfg *config.Config) (map[string]*connector.Table, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	conn, err := postgres.Connect(ctx, cfg.Source.DSN.Reveal())
	if err != nil {
		return nil, postgres.Explain(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	list, err := postgres.LoadUsed(ctx, conn, uses(cfg.Mappings), cfg.Source.Publication)
	if err != nil {
		return nil, postgres.Explain(err)
	}
	tables := map[string]*connector.Table{}
	for _, t := range list {
		tables[t.String()] = t
	}
	return tables, nil
}

// recordTable writes one table, where it is not declared as it is. The file is read anew each time: lines have moved.
func recordTable(w io.Writer, c *cobra.Command, file string, table *connector.Table, quiet bool) error {
	path, err := c.Flags().GetString("config")
	if err != nil {
		return err
	}
	cfg, err := config.LoadMappings(path, environment)
	var at mapping.Declared
	var is bool
	if err == nil {
		if at, is = cfg.Tests.Compare(table); is && len(at.Differs)+len(at.Missing) == 0 {
			return nil
		}
	} else {
		return usageError{err}
	}
	if is {
		file = at.File
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("record tables: %w", err)
	}
	if text, err = withTable(text, mapping.Declare(table), at); err != nil {
		return fmt.Errorf("%s: table %s could not be recorded: %w", file, table, err)
	}
	if err := replaceFile(file, text); err != nil {
		return fmt.Errorf("record tables: %w", err)
	}
	if !quiet {
		fmt.Fprintf(w, "%s: recorded table %s\n", file, table)
	}
	return nil
}

// withTable gives a file that declares a table as d does: in the place where it is declared, if at.Line says so, else behind the last of tables:, else before tests:, else at
// the end. All else stays as it is.
func withTable(text []byte, d mapping.Declaration, at mapping.Declared) ([]byte, error) {
	e, err := newEditor(text)
	if err != nil {
		return nil, err
	}
	same := func(after *yaml.Node) bool {
		return sameBut(e.top, after, e.top, func(key *yaml.Node) bool { return key.Value == "tables" })
	}
	tables, end := e.value("tables")
	if tables == nil {
		before := len(e.lines) + 1
		for i := 0; i < len(e.top.Content); i += 2 {
			if e.top.Content[i].Value == "tests" {
				before = e.top.Content[i].Line
			}
		}
		last := e.last(1, before)
		return e.replace(last+1, last, append([]string{"", "tables:"}, indented(d.Lines(), "  ", "  ")...), same)
	}
	if tables.Kind != yaml.MappingNode || tables.Style&yaml.FlowStyle != 0 || len(tables.Content) == 0 {
		return nil, errors.New("what stands under tables: is no list of tables on lines of their own: take it out")
	}
	indent := fmt.Sprintf("%*s", tables.Column-1, "")
	for i := 0; i < len(tables.Content); i += 2 {
		if key := tables.Content[i]; key.Line == at.Line && key.Column == at.Column {
			if i+2 < len(tables.Content) {
				end = tables.Content[i+2].Line
			}
			return e.replace(key.Line, e.last(key.Line, end), indented(d.Lines(), indent, indent), same)
		}
	}
	last := e.last(tables.Line, end)
	return e.replace(last+1, last, indented(d.Lines(), indent, indent), same)
}
