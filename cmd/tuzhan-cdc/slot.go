package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
)

func slotCommand() *cobra.Command {
	c := &cobra.Command{Use: "slot", Short: "Looks after the replication slot", Example: "  tuzhan-cdc slot drop",
		RunE: func(c *cobra.Command, args []string) error {
			if err := noArgs(c, args); err != nil {
				return err
			}
			return usageError{fmt.Errorf("say what to do: drop\nsee `%s --help`", c.CommandPath())}
		}}
	c.AddCommand(slotDropCommand())
	return c
}

func slotDropCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "drop", Short: "Removes slot and publications, after asking", Args: noArgs,
		Long: `Removes the replication slot, and the publications that tuzhan-cdc made; a DBA's own stay. What is committed until a new slot is made is never sent.
The state file stays: move it away before the next run, which else refuses to go on without the slot that it belongs to.`,
		Example: "  tuzhan-cdc slot drop\n  tuzhan-cdc slot drop --yes -c /etc/tuzhan-cdc/tuzhan-cdc.yaml",
	}
	yes := c.Flags().Bool("yes", false, "do not ask")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		out := c.OutOrStdout()
		if !*yes {
			fmt.Fprintf(out, "Remove slot %s and its publications from %s? Changes that were not read yet will not be sent. Type the slot's name: ",
				cfg.Source.Slot, cfg.Source.Display())
			line, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
			if err != nil || strings.TrimSpace(line) != cfg.Source.Slot {
				fmt.Fprintln(out)
				return fmt.Errorf("nothing was removed")
			}
		}
		conn, err := postgres.Connect(c.Context(), cfg.Source.DSN.Reveal())
		if err != nil {
			return postgres.Explain(err)
		}
		defer conn.Close(c.Context())
		existed, err := postgres.DropSlot(c.Context(), conn, cfg.Source.Slot)
		if err != nil {
			return postgres.Explain(err)
		}
		if existed {
			fmt.Fprintf(out, "slot %s removed\n", cfg.Source.Slot)
		} else {
			fmt.Fprintf(out, "there is no slot %s\n", cfg.Source.Slot)
		}
		dropped, err := postgres.DropPublications(c.Context(), conn, cfg.Source.Publication)
		if err != nil {
			return postgres.Explain(err)
		}
		for _, name := range dropped {
			fmt.Fprintf(out, "publication %s removed\n", name)
		}
		left, err := postgres.LoadPublications(c.Context(), conn, []string{cfg.Source.Publication, postgres.InsertPublication(cfg.Source.Publication)})
		if err != nil {
			return postgres.Explain(err)
		}
		for _, p := range left {
			fmt.Fprintf(out, "publication %s stays: tuzhan-cdc did not make it\n  to remove it, as its owner: DROP PUBLICATION %s;\n", p.Name, pgx.Identifier{p.Name}.Sanitize())
		}
		return nil
	}
	return c
}
