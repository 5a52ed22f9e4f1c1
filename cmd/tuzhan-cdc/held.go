package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

func setAsideCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "set-aside", Short: "Gives up the changes of a held mapping as dead letters, so that the slot moves on", Args: noArgs,
		Long: `Makes dead letters of class mapping of what a held mapping waits with. Nothing is lost: the letters hold the changes.

Of a mapping that can't read its table, also where none of its changes has come yet: what it can't read, later changes too until it is mended; what it can
read goes through it. Of a mapping that a brake holds (maxPerMinute): what was committed up to now; later changes go through it again.

The running connector does it within a second or two; where none runs, the next one does.`,
		Example: "  tuzhan-cdc deadletters set-aside --mapping order-points",
	}
	name := c.Flags().String("mapping", "", "the held `mapping`")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *name == "" {
			return usageError{fmt.Errorf("say which mapping: --mapping NAME (`tuzhan-cdc status` shows the held ones)")}
		}
		err := ask(c, state.Request{What: state.RequestSetAside, Mapping: *name}, func(connector.Track) bool { return true })
		if err == nil {
			_, err = fmt.Fprintf(c.OutOrStdout(), "asked for: what mapping %s waits with becomes dead letters (`%s --mapping %s`)\n", *name,
				withConfig(configFlag(c), "tuzhan-cdc deadletters list"), *name)
		}
		return err
	}
	return c
}

func resumeCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "resume", Short: "Ends a pause of delivery, and the hold that a brake has put on a mapping", Args: noArgs,
		Long: `Ends a pause that too many dead letters or too many rejections have caused (delivery.maxDeadLetters, delivery.pauseWhenRejected), and the hold
of mappings whose records kept failing, or that a brake (maxPerMinute) has put on them: what was committed up to now is let through, however much it is,
then the brake counts anew. With --mapping it only ends the hold of that mapping. A mapping that can't read its table is not let go: mend it and reload
(kill -HUP), or give its changes up with deadletters set-aside.

The running connector does it within a second or two; where none runs, the next one does.`,
		Example: "  tuzhan-cdc resume\n  tuzhan-cdc resume --mapping order-points",
	}
	name := c.Flags().String("mapping", "", "only this `mapping`; without it: all, and a pause of delivery")
	c.RunE = func(c *cobra.Command, _ []string) error {
		err := ask(c, state.Request{What: state.RequestResume, Mapping: *name}, func(t connector.Track) bool { return t.Held != "" && t.Held != connector.HoldMisfit })
		if err == nil {
			_, err = fmt.Fprintln(c.OutOrStdout(), "asked for")
		}
		return err
	}
	return c
}

// ask leaves a request in the state, if there is a held mapping that it is for.
func ask(c *cobra.Command, q state.Request, suits func(connector.Track) bool) error {
	cfg, r, err := openState(c)
	if err != nil {
		return err
	}
	defer r.Close()
	cp, err := r.Checkpoint(c.Context())
	if err != nil {
		return err
	}
	var held []string
	if cp != nil {
		for _, t := range cp.Tracks {
			if suits(t) {
				held = append(held, t.Mapping)
			}
		}
	}
	switch {
	case q.Mapping != "" && !slices.Contains(held, q.Mapping) && !startsHeld(c.Context(), cfg, cp, q):
		return fmt.Errorf("mapping %s is not held in a way that this ends; %s", q.Mapping, heldList(held))
	case q.Mapping == "" && len(held) == 0 && (q.What != state.RequestResume || !mayBePaused(c.Context(), cfg)):
		return fmt.Errorf("no mapping is held in a way that this ends; `tuzhan-cdc status` shows what is held, and why")
	}
	q.Created = time.Now()
	return state.Ask(c.Context(), stateLocation(cfg), q)
}

// startsHeld reports whether the request's mapping is held from its next change on, in a way that the request ends: the running connector says so, or,
// where none can be asked, its table does. Where neither answers it may be.
func startsHeld(ctx context.Context, cfg *config.Config, cp *connector.Checkpoint, q state.Request) bool {
	if cp == nil || !slices.Contains(cp.Mappings, q.Mapping) || !slices.Contains(cfg.Mappings.Names(), q.Mapping) {
		return false
	}
	misfit := q.What == state.RequestSetAside
	if cfg.Server.Listen != "" {
		asking, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if s, err := status.Fetch(asking, cfg.Server.Listen); err == nil {
			return slices.ContainsFunc(s.HeldMappings, func(h connector.HeldMapping) bool {
				return h.Mapping == q.Mapping && h.Why != "" && (h.Why == connector.HoldMisfit) == misfit
			})
		}
	}
	if !misfit {
		return false // it ends with the process
	}
	unfit, err := unfitNow(ctx, cfg, cp.Mappings)
	_, ok := unfit[q.Mapping]
	return err != nil || ok
}

// mayBePaused reports whether delivery is paused; true too where no running connector can be asked.
func mayBePaused(ctx context.Context, cfg *config.Config) bool {
	if cfg.Server.Listen == "" {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	s, err := status.Fetch(ctx, cfg.Server.Listen)
	return err != nil || s.Paused
}

func heldList(names []string) string {
	if len(names) == 0 {
		return "no mapping is"
	}
	return "these are: " + strings.Join(names, ", ")
}
