package main

import (
	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
)

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Prints the JSON Schema of the configuration, for editors", Args: noArgs,
		Long: `Prints the JSON Schema (draft 2020-12) of the configuration and of mapping files. Editors with a YAML language server (VS Code with the YAML extension, Neovim,
JetBrains) complete and check the file by it, and show what each key means; the first line of the file names it:

  # yaml-language-server: $schema=tuzhan-cdc.schema.json

What only the connector can know (expressions, columns, which keys go together) is for check and test to say.`,
		Example: "  tuzhan-cdc schema > tuzhan-cdc.schema.json",
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}
