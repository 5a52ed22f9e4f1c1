package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// writeManual writes platformsim(1) into a folder, for those who make packages, and returns the exit code.
func writeManual(args []string, errs io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(errs, "platformsim: man: name the folder to write to")
		return exitUsage
	}
	err := os.MkdirAll(args[0], 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(args[0], "platformsim.1"), md2man.Render([]byte(manual())), 0o644)
	}
	if err != nil {
		fmt.Fprintf(errs, "platformsim: write the man page: %v\n", err)
		return exitFailed
	}
	return 0
}

// manual is the man page in Markdown, made of what --help says.
func manual() string {
	var b strings.Builder
	fmt.Fprintf(&b, "PLATFORMSIM 1 \"\" \"tuzhan-cdc\" \"tuzhan-cdc\"\n==================================================\n\n# NAME\n\nplatformsim - strict stand-in for the Tuzhan platform\n\n"+
		"# SYNOPSIS\n\n**platformsim** [flags]\n\n# DESCRIPTION\n\n%s\n\n%s\n\n%s\n\n# OPTIONS\n\n", about, strings.ReplaceAll("\n"+example, "\n", "\n    "), more)
	newFlags(io.Discard).VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		if value != "" {
			value = "=*" + value + "*"
		}
		if f.DefValue != "" && f.DefValue != "false" {
			usage += " (" + f.DefValue + " where it is not given)"
		}
		fmt.Fprintf(&b, "**--%s**%s\n: %s\n\n", f.Name, value, usage)
	})
	b.WriteString("# SEE ALSO\n\n**tuzhan-cdc**(1)\n")
	return b.String()
}
