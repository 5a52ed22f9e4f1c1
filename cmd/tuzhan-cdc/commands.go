package main

import (
	"context"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// The packages below this one name commands in what they say, as `tuzhan-cdc check`, and don't know which file the program was started with. Here -c FILE is added, at
// each place where their words leave the program.

var (
	// A command with the flags that messages give it; ended by -c where it has that already.
	commandName = regexp.MustCompile(`\btuzhan-cdc (?:run|check|status|preview|test|backfill|resume|slot drop|deadletters (?:list|show|retry|drop|set-aside))\b` +
		`(?: --(?:mapping|class|accept-gap|new-state) [\p{L}\p{N}](?:[\p{L}\p{N}._-]*[\p{L}\p{N}])?)*( -c )?`)
	plainPath = regexp.MustCompile(`^[\p{L}\p{N}_./@%+,:-]+$`)
)

// defaultConfig is the file that is read where -c names none.
const defaultConfig = "tuzhan-cdc.yaml"

// withConfig adds -c FILE to the commands that a message names, where file is not the default: so that they can be pasted as they stand.
func withConfig(file, text string) string {
	if slices.Contains([]string{"", defaultConfig, "./" + defaultConfig}, file) {
		return text
	}
	if !plainPath.MatchString(file) {
		file = "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
	}
	return commandName.ReplaceAllStringFunc(text, func(command string) string {
		if strings.HasSuffix(command, " -c ") {
			return command
		}
		return command + " -c " + file
	})
}

// findingsFor adds -c FILE to the commands in findings.
func findingsFor(file string, findings []postgres.Finding) {
	for i := range findings {
		findings[i].Text, findings[i].Cure = withConfig(file, findings[i].Text), withConfig(file, findings[i].Cure)
	}
}

// lettersFor adds it to what letters say.
func lettersFor(file string, letters []*connector.DeadLetter) {
	for _, l := range letters {
		l.Reason, l.Retried = withConfig(file, l.Reason), withConfig(file, l.Retried)
	}
}

// snapshotFor adds it to what a snapshot says.
func snapshotFor(file string, s *status.Snapshot) {
	s.Alarms = slices.Clone(s.Alarms)
	for i := range s.Alarms {
		s.Alarms[i].Text, s.Alarms[i].Cure = withConfig(file, s.Alarms[i].Text), withConfig(file, s.Alarms[i].Cure)
	}
	s.HeldMappings = slices.Clone(s.HeldMappings)
	for i := range s.HeldMappings {
		s.HeldMappings[i].Reason = withConfig(file, s.HeldMappings[i].Reason)
	}
	if s.LastErr != nil {
		last := *s.LastErr
		last.Text = withConfig(file, last.Text)
		s.LastErr = &last
	}
}

// configFlag gives the file that the command reads.
func configFlag(c *cobra.Command) string {
	file, err := c.Flags().GetString("config")
	if err != nil {
		return defaultConfig
	}
	return file
}

// configHandler adds it to what is logged.
type configHandler struct {
	slog.Handler
	file string
}

func (h configHandler) Handle(ctx context.Context, r slog.Record) error {
	n := slog.NewRecord(r.Time, r.Level, withConfig(h.file, r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(err.Error())
		}
		if a.Value.Kind() == slog.KindString {
			a.Value = slog.StringValue(withConfig(h.file, a.Value.String()))
		}
		n.AddAttrs(a)
		return true
	})
	return h.Handler.Handle(ctx, n)
}

func (h configHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return configHandler{h.Handler.WithAttrs(attrs), h.file}
}

func (h configHandler) WithGroup(name string) slog.Handler {
	return configHandler{h.Handler.WithGroup(name), h.file}
}
