package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/demo"
)

func demoCommand() *cobra.Command {
	var o demo.Options
	c := &cobra.Command{
		Use: "demo", Short: "Shows everything on this machine, with a kill -9, an outage and a reconciliation", Args: noArgs,
		Long: `Starts a throwaway PostgreSQL (the machine's own binaries, else Docker), a CRM with sample data, a simulator of the platform, the connector and a write load;
kills the connector, takes the platform away for five seconds, and at the end compares what was applied with what was committed. It leaves nothing behind.

The last line is one JSON object. Exits with 1 if anything was lost or a point doubled.`,
		Example: "  tuzhan-cdc demo\n  tuzhan-cdc demo --seconds 60 --rate 5000",
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Seconds < 5 || o.Rate < 1 {
				return usageError{fmt.Errorf("--seconds is at least 5, --rate at least 1")}
			}
			var err error
			if o.Program, err = os.Executable(); err != nil {
				return err
			}
			o.Out = c.OutOrStdout()
			if f, ok := o.Out.(*os.File); ok {
				info, err := f.Stat()
				o.Terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
			}
			err = demo.Run(c.Context(), o)
			if errors.Is(err, demo.ErrFailed) {
				return errQuiet
			}
			return err
		},
	}
	c.Flags().IntVar(&o.Seconds, "seconds", 20, "how long the load runs")
	c.Flags().IntVar(&o.Rate, "rate", 2000, "about how many row changes are committed a `second`")
	return c
}
