package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// The groups of commands in --help, and which command is in which.
var (
	helpGroups = []*cobra.Group{
		{ID: "prepare", Title: "Prepare and try:"},
		{ID: "run", Title: "Run and look after:"},
		{ID: "other", Title: "Other:"},
	}
	groupOf = map[string]string{
		"init": "prepare", "check": "prepare", "preview": "prepare", "test": "prepare", "schema": "prepare",
		"run": "run", "status": "run", "deadletters": "run", "resume": "run", "backfill": "run", "slot": "run", "health": "run",
		"version": "other", "demo": "other", "completion": "other",
	}
)

// arrange puts the commands into their groups and gives flags and arguments their completion.
func arrange(root *cobra.Command) {
	root.AddGroup(helpGroups...)
	root.SetHelpCommandGroupID("other")
	root.SetCompletionCommandGroupID("other")
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Short = "Prints the script by which a shell completes commands, flags and names of mappings"
		}
		c.GroupID = groupOf[c.Name()]
	}
	_ = root.MarkPersistentFlagFilename("config", "yaml", "yml") // it has that flag
	complete(root)
}

// complete registers what a shell offers for the flags and arguments of a command and of those below it.
func complete(c *cobra.Command) {
	for flag, with := range map[string]cobra.CompletionFunc{
		"mapping": completeMappings,
		"class":   completeClasses,
		"output":  completeWords("text", "json"),
	} {
		// An --output that is a file has no such words.
		if f := c.Flags().Lookup(flag); f != nil && (flag != "output" || f.DefValue == "text") {
			_ = c.RegisterFlagCompletionFunc(flag, with) // fails only where it was registered before
		}
	}
	switch {
	case c.ValidArgsFunction != nil:
	case c.Name() == "backfill":
		c.ValidArgsFunction = func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeMappings(c, args, word)
		}
	case c.Name() == "man":
		c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
	default:
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
	for _, below := range c.Commands() {
		complete(below)
	}
}

// completeMappings offers the names of the mappings in the file that -c names, with their tables.
func completeMappings(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	path, err := c.Flags().GetString("config")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, m := range config.Mappings(path, environment) {
		what := ""
		if m.Kind != 0 { // a mapping with problems has its name only
			what = m.Kind.String() + " of " + m.Table
		}
		words = append(words, cobra.CompletionWithDesc(m.Name, what))
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func completeClasses(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	why := map[connector.Class]string{
		connector.ClassMapping: "an expression failed, or a required value is null", connector.ClassRejected: "the platform refused the record alone",
		connector.ClassUncertain: "a point that may or may not have been applied", connector.ClassFailing: "it kept failing alone",
	}
	var words []string
	for _, class := range connector.Classes {
		words = append(words, cobra.CompletionWithDesc(string(class), why[class]))
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func completeWords(words ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return slices.Clone(words), cobra.ShellCompDirectiveNoFileComp
	}
}
