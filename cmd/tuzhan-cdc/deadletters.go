package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

func deadLettersCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "deadletters", Short: "Looks at records that were set aside",
		Long: `A dead letter is a record that was set aside, with the reason. Its class says why:

  mapping    an expression failed or a required value is null; the letter holds the change, and a retry maps it again
  rejected   the platform refused this record alone
  failing    it failed alone, as in an outage, for delivery.giveUpAfter
  uncertain  a point that may or may not have been applied: look the customer's points up before anything else`,
		Example: "  tuzhan-cdc deadletters list\n  tuzhan-cdc deadletters show 17\n  tuzhan-cdc deadletters retry --class rejected",
		RunE: func(c *cobra.Command, args []string) error {
			if err := noArgs(c, args); err != nil {
				return err
			}
			return usageError{fmt.Errorf("say what to do: list, show, retry, drop or set-aside\nsee `%s --help`", c.CommandPath())}
		},
	}
	c.AddCommand(lettersListCommand(), lettersShowCommand(), retryCommand(), dropCommand(), setAsideCommand())
	return c
}

func lettersListCommand() *cobra.Command {
	var f state.Filter
	var class, since, until string
	var all bool
	c := &cobra.Command{
		Use: "list", Short: "Lists the open dead letters", Args: noArgs,
		Example: "  tuzhan-cdc deadletters list --class uncertain\n  tuzhan-cdc deadletters list --mapping order-points --since 2h --output json",
	}
	output := outputFlag(c)
	c.Flags().StringVar(&class, "class", "", "only this `class`: mapping, rejected, uncertain, failing")
	c.Flags().StringVar(&f.Mapping, "mapping", "", "only this `mapping`'s")
	c.Flags().IntVar(&f.Limit, "limit", 0, "at most `n`; 0: all")
	c.Flags().Int64Var(&f.After, "after", 0, "only those with a greater `id`: the next page")
	timeFlags(c, &since, &until)
	c.Flags().BoolVar(&all, "all", false, "closed ones too")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		var err error
		if f.Class, err = classOf(class); err != nil {
			return err
		}
		if err := timesOf(&f, since, until); err != nil {
			return err
		}
		if !all {
			open := true
			f.Open = &open
		}
		w := c.OutOrStdout()
		write := printLetters
		if *output == "json" {
			write = printLettersJSON
		}
		return readState(c, func(r *state.Reader) error {
			if err := known(c, r, f.Mapping); err != nil {
				return err
			}
			return write(w, func(each func([]*connector.DeadLetter) error) error {
				return pages(c.Context(), r, f, func(letters []*connector.DeadLetter) error {
					lettersFor(configFlag(c), letters)
					return each(letters)
				})
			})
		})
	}
	return c
}

// known refuses a mapping that is neither in the file nor in the state: a name that was mistyped has no dead letters either.
func known(c *cobra.Command, r *state.Reader, mapping string) error {
	if mapping == "" {
		return nil
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	names := cfg.Mappings.Names()
	cp, err := r.Checkpoint(c.Context())
	if err != nil {
		return err
	}
	if cp != nil {
		names = append(names, cp.Mappings...)
	}
	if slices.Contains(names, mapping) {
		return nil
	}
	letters, err := r.Letters(c.Context(), state.Filter{Mapping: mapping, Limit: 1})
	if err != nil || len(letters) > 0 {
		return err
	}
	slices.Sort(names)
	return usageError{noMapping(mapping, slices.Compact(names))}
}

// letterPage is how many dead letters are in memory at a time.
const letterPage = 500

// pages hands what f asks for to each, page by page.
func pages(ctx context.Context, r *state.Reader, f state.Filter, each func([]*connector.DeadLetter) error) error {
	for left := f.Limit; ; {
		f.Limit = letterPage
		if left > 0 {
			f.Limit = min(left, letterPage)
		}
		letters, err := r.Letters(ctx, f)
		if err != nil || len(letters) == 0 {
			return err
		}
		if err := each(letters); err != nil {
			return err
		}
		if left > 0 {
			if left -= len(letters); left == 0 {
				return nil
			}
		}
		f.After = letters[len(letters)-1].ID
	}
}

// classOf reads --class.
func classOf(name string) (connector.Class, error) {
	for _, known := range connector.Classes {
		if name == string(known) {
			return known, nil
		}
	}
	if name == "" {
		return "", nil
	}
	return "", usageError{fmt.Errorf("--class %s: mapping, rejected, uncertain or failing", name)}
}

func timeFlags(c *cobra.Command, since, until *string) {
	c.Flags().StringVar(since, "since", "", "only those set aside at or after that `time`: 2024-05-01, 2024-05-01T12:00:00+08:00, or 2h: two hours ago")
	c.Flags().StringVar(until, "until", "", "only those set aside before that `time`")
}

// timesOf reads --since and --until into a filter.
func timesOf(f *state.Filter, since, until string) (err error) {
	if f.Since, err = timeOf("--since", since); err == nil {
		f.Until, err = timeOf("--until", until)
	}
	return err
}

// timeOf reads a date, a time, or how long ago. A date and a time without zone are of this machine's zone.
func timeOf(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	if ago, err := strict.ParseDuration(text); err == nil {
		return time.Now().Add(-ago), nil
	}
	return time.Time{}, usageError{fmt.Errorf("%s %s: want a date (2024-05-01), a time (2024-05-01T12:00:00+08:00), or how long ago (30m, 2h, 7d)", flag, text)}
}

func lettersShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show ID", Short: "Shows one dead letter whole, with its payload or change",
		Long:    "Shows one dead letter whole. Payload and change are the customer's data: who may read the state may read them.",
		Example: "  tuzhan-cdc deadletters show 17\n  tuzhan-cdc deadletters show 17 --output json | jq .payload",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one dead letter by its id\nsee `%s --help`", c.CommandPath())}
			}
			return nil
		},
	}
	output := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return usageError{fmt.Errorf("%q is no id of a dead letter", args[0])}
		}
		var letter *connector.DeadLetter
		if err := readState(c, func(r *state.Reader) (err error) {
			letter, err = r.Letter(c.Context(), id)
			return err
		}); err != nil {
			return err
		}
		lettersFor(configFlag(c), []*connector.DeadLetter{letter})
		one := status.LetterOf(letter)
		if *output == "json" {
			return printJSON(c.OutOrStdout(), one)
		}
		return printLetter(c.OutOrStdout(), &one)
	}
	return c
}

// readState opens the state for do.
func readState(c *cobra.Command, do func(*state.Reader) error) error {
	_, r, err := openState(c)
	if err != nil {
		return err
	}
	defer r.Close()
	return do(r)
}

// openState reads the file and opens the state, beside a running connector or without one. A state that is not there yet is an error that says so.
func openState(c *cobra.Command) (*config.Config, *state.Reader, error) {
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, nil, err
	}
	r, err := state.OpenReader(c.Context(), stateLocation(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, noState(cfg)
	}
	return cfg, r, err
}

func noState(cfg *config.Config) error {
	if cfg.State.DSN.IsSet() {
		return fmt.Errorf("there is no state in %s yet (no schema tuzhan_cdc): `tuzhan-cdc run` makes it", stateLocation(cfg))
	}
	path := cfg.State.Path
	return fmt.Errorf("there is no state file at %s yet: `tuzhan-cdc run` makes it (a relative state.path counts from the working directory)", path)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// letterPages hands dead letters over, page by page.
type letterPages func(each func([]*connector.DeadLetter) error) error

// printLettersJSON prints one array.
func printLettersJSON(w io.Writer, all letterPages) error {
	n := 0
	err := all(func(letters []*connector.DeadLetter) error {
		for _, l := range letters {
			separator := ",\n  "
			if n++; n == 1 {
				separator = "[\n  "
			}
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			e.SetIndent("  ", "  ")
			if err := e.Encode(status.LetterOf(l)); err != nil {
				return err
			}
			if _, err := io.WriteString(w, separator+strings.TrimSpace(b.String())); err != nil {
				return err
			}
		}
		return nil
	})
	end := "\n]\n"
	if n == 0 {
		end = "[]\n"
	}
	if err == nil {
		_, err = io.WriteString(w, end)
	}
	return err
}

func printLetters(w io.Writer, all letterPages) error {
	n := 0
	err := all(func(letters []*connector.DeadLetter) error {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if n == 0 {
			fmt.Fprintln(t, "ID\tCLASS\tMAPPING\tKIND\tPOSITION\tCOMMITTED\tATTEMPTS\tSTANDS\tREASON")
		}
		n += len(letters)
		for _, l := range letters {
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", l.ID, l.Class, l.Mapping, l.Kind, l.Position,
				committed(l.CommitTime, time.DateTime), l.Attempts, stands(l), l.Reason)
		}
		return t.Flush()
	})
	if err == nil && n == 0 {
		_, err = fmt.Fprintln(w, "no dead letters")
	}
	return err
}

// committed shows a commit time; a row that a backfill has read has none.
func committed(at time.Time, layout string) string {
	if at.IsZero() {
		return "-"
	}
	return at.Local().Format(layout)
}

// stands says in a word or two how a letter stands.
func stands(l *connector.DeadLetter) string {
	switch {
	case !l.Closed.IsZero():
		return l.Resolution
	case l.Retrying:
		return "retrying"
	case l.Overtaken:
		return "overtaken"
	}
	return "open"
}

// letterAnswer tells in one line what the platform answered, without what it left out.
func letterAnswer(a *connector.LetterAnswer) string {
	var parts []string
	if a.HTTPStatus != 0 {
		parts = append(parts, fmt.Sprintf("HTTP %d", a.HTTPStatus))
	}
	if a.Code != "" {
		parts = append(parts, "code "+a.Code)
	}
	for _, text := range []string{a.Msg, a.Error} {
		if text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, ", ")
}

func printLetter(w io.Writer, l *status.Letter) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name string, value any) { fmt.Fprintf(t, "%s\t%v\n", name, value) }
	line("id", l.ID)
	line("class", l.Class)
	line("mapping", l.Mapping)
	line("kind", strings.TrimSpace(l.Kind+" "+l.OptType))
	line("table", l.Table)
	if l.Number == connector.WholeChange {
		line("position", fmt.Sprintf("%s, all records of the change", l.Position))
	} else {
		line("position", fmt.Sprintf("%s, record %d", l.Position, l.Number))
	}
	line("committed", committed(l.CommitTime, time.RFC3339))
	line("set aside", l.Created.Local().Format(time.RFC3339))
	line("attempts", l.Attempts)
	line("reason", l.Reason)
	if l.RelateBizCode != "" {
		line("relateBizCode", l.RelateBizCode+" (look the point up on the platform by it)")
	}
	if a := l.Answer; a != nil {
		line("answer", letterAnswer(a))
	}
	if l.Overtaken {
		line("overtaken", "a newer group relation of the same customer was delivered since: it is not sent again unless with retry --anyway")
	}
	if l.Retrying {
		line("retrying", "it is to be sent again")
	}
	if l.Retried != "" {
		line("last retry", l.Retried)
	}
	if l.Closed != nil {
		line("closed", l.Closed.Local().Format(time.RFC3339)+", "+l.Resolution)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		json json.RawMessage
	}{{"payload", l.Payload}, {"change", l.Change}} {
		if len(part.json) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\n", part.name)
		if err := printJSON(w, part.json); err != nil {
			return err
		}
	}
	return nil
}
