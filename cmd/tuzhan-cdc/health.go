package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// healthTimeout is longer than the connector itself waits for its parts before it says that one does not answer.
const healthTimeout = status.AnswerWithin + 3*time.Second

func healthCommand() *cobra.Command {
	var ready bool
	c := &cobra.Command{
		Use: "health", Short: "Says whether the running connector lives, for health checks", Args: noArgs,
		Long: `Asks the running connector at server.listen: /healthz, or with --ready /readyz. Exits with 0 where the answer is yes, with 1 where it is no or where nobody
answers. Of the file only server.listen is read, whatever else it has wrong meanwhile.

A connector lives while it waits for the database or the platform. It is ready when it streams and delivers.`,
		Example: `  tuzhan-cdc health -c /etc/tuzhan-cdc/tuzhan-cdc.yaml
  tuzhan-cdc health --ready`,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := c.Flags().GetString("config")
			if err != nil {
				return err
			}
			listen, err := config.Listen(path, environment)
			switch {
			case err != nil:
				return usageError{err}
			case listen == "":
				return errors.New(`server.listen is "": there is no server to ask; give it an address, such as 127.0.0.1:9642`)
			}
			ask := status.Alive
			if ready {
				ask = status.Ready
			}
			ctx, cancel := context.WithTimeout(c.Context(), healthTimeout)
			defer cancel()
			if err := ask(ctx, listen); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "ok")
			return err
		},
	}
	c.Flags().BoolVar(&ready, "ready", false, "ask whether it streams and delivers, rather than whether it lives")
	return c
}
