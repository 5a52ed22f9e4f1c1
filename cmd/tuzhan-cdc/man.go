package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
)

// manCommand is for those who make packages.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Writes the man pages into a folder", Hidden: true,
		Long: `Writes a man page (section 1) for each command, and tuzhan-cdc.yaml(5) for the configuration. They carry the date of SOURCE_DATE_EPOCH, where that is set.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name the folder to write to\nsee `%s --help`", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			c.Root().DisableAutoGenTag = true
			header := &doc.GenManHeader{Section: "1", Source: "tuzhan-cdc " + version, Manual: "tuzhan-cdc"}
			if err := doc.GenManTree(c.Root(), header, args[0]); err != nil {
				return fmt.Errorf("write the man pages: %w", err)
			}
			return os.WriteFile(filepath.Join(args[0], "tuzhan-cdc.yaml.5"), md2man.Render([]byte(config.Manual(version))), 0o644)
		},
	}
}
