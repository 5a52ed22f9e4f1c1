// Command tuzhan-cdc brings the row changes of a CRM on PostgreSQL to the Tuzhan (兔展) platform. Its commands stand one a file beside this one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // source.timeZone must work in an image without zone files

	"github.com/spf13/cobra"
)

// version is stamped by the Makefile.
var version = "dev"

// The exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a configuration or a command line that is wrong: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// quietError is a failure that was printed already: only the exit code is left to say.
var errQuiet = errors.New("failed")

// beforeExit is for the build tag pprof.
var beforeExit = func() {}

func main() {
	cobra.EnableCommandSorting = false // --help has them in the order in which they are come to
	log.SetOutput(io.Discard)          // net/http writes what a server sent out of turn to the global logger
	// A second signal takes the default way: it ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := execute(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	beforeExit()
	os.Exit(code)
}

// streams are where a command reads and writes.
type streams struct {
	in       *os.File
	out, err *os.File
}

// execute runs one command and returns the exit code.
func execute(ctx context.Context, args []string, std streams) int {
	root := newRoot(std)
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errQuiet) && errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errQuiet):
		return exitFailed
	}
	fmt.Fprintln(std.err, "tuzhan-cdc:", withConfig(configFlag(command), err.Error()))
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

func newRoot(std streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "tuzhan-cdc",
		Short: "Brings the row changes of a CRM on PostgreSQL to the Tuzhan (兔展) platform",
		Long: `tuzhan-cdc reads the committed row changes of PostgreSQL tables from a logical replication slot, turns them by the mappings of a YAML file into
points, events and group relations, and sends them to the Tuzhan platform: in order per customer, through crashes and outages.

Exit codes: 0 fine, 1 failed, 2 the configuration or the command line is wrong.`,
		Example: `  tuzhan-cdc init --dsn-file dsn     # a starter file from the tables of a database
  tuzhan-cdc preview                 # payloads of rows that are there now; sends nothing
  tuzhan-cdc check                   # what is wrong or missing, with the cures
  tuzhan-cdc run                     # the connector`,
		SilenceErrors: true, SilenceUsage: true,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }, // without it cobra does not look at the arguments
	}
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nsee `%s --help`", err, c.CommandPath())}
	})
	root.PersistentFlags().StringP("config", "c", defaultConfig, "the configuration `file`")
	root.AddCommand(initCommand(), runCommand(), checkCommand(), previewCommand(), testCommand(), statusCommand(), deadLettersCommand(), resumeCommand(), backfillCommand(), slotCommand(), schemaCommand(), versionCommand(),
		demoCommand(), healthCommand(), manCommand())
	arrange(root)
	return root
}

// noArgs refuses arguments, as a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		near := ""
		if s := c.SuggestionsFor(args[0]); len(s) > 0 {
			near = ": did you mean " + s[0] + "?"
		}
		return usageError{fmt.Errorf("%q is no command or argument of %s%s\nsee `%s --help`", args[0], c.CommandPath(), near, c.CommandPath())}
	}
	return nil
}

// outputFlag adds --output to a listing.
func outputFlag(c *cobra.Command) *string {
	return c.Flags().StringP("output", "o", "text", "`format`: text or json")
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return usageError{fmt.Errorf("--output %s: text or json", output)}
	}
	return nil
}
