package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/delivery"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
)

// selection says which open dead letters a command is for.
type selection struct {
	class, since, until string
	all                 bool

	ids    []int64 // the arguments
	filter state.Filter
}

// flags adds the flags that select, and has the arguments checked.
func (s *selection) flags(c *cobra.Command) {
	c.Flags().BoolVar(&s.all, "all", false, "all open ones")
	c.Flags().StringVar(&s.class, "class", "", "the open ones of this `class`: mapping, rejected, uncertain, failing")
	c.Flags().StringVar(&s.filter.Mapping, "mapping", "", "the open ones of this `mapping`")
	timeFlags(c, &s.since, &s.until)
	c.Args = s.args
}

// args reads arguments and flags: there must be exactly one kind of selection.
func (s *selection) args(c *cobra.Command, args []string) (err error) {
	kinds := 0
	for _, given := range []bool{len(args) > 0, s.all, s.class != "", s.filter.Mapping != ""} {
		if given {
			kinds++
		}
	}
	if kinds != 1 {
		return usageError{fmt.Errorf("say which dead letters: their ids, or one of --all, --class C and --mapping M\nsee `%s --help`", c.CommandPath())}
	}
	for _, a := range args {
		id, err := strconv.ParseInt(a, 10, 64)
		if err != nil || id < 1 {
			return usageError{fmt.Errorf("%q is no id of a dead letter", a)}
		}
		if !slices.Contains(s.ids, id) {
			s.ids = append(s.ids, id)
		}
	}
	if len(args) > 0 && s.since+s.until != "" {
		return usageError{errors.New("--since and --until go with --all, --class or --mapping")}
	}
	if s.filter.Class, err = classOf(s.class); err != nil {
		return err
	}
	open := true
	s.filter.Open = &open
	return timesOf(&s.filter, s.since, s.until)
}

// picked is what is kept of a letter that was selected: there may be many.
type picked struct {
	id       int64
	class    connector.Class
	over     bool // overtaken
	orphan   bool // there is nothing to send
	retrying bool
}

// pick reads the letters that are selected and open. Of ids that are not, missing says so.
func (s *selection) pick(ctx context.Context, r *state.Reader) (letters []picked, missing []string, err error) {
	take := func(page []*connector.DeadLetter) error {
		for _, l := range page {
			letters = append(letters, picked{l.ID, l.Class, l.Overtaken, len(l.Payload) == 0 && len(l.Change) == 0, l.Retrying})
		}
		return nil
	}
	if len(s.ids) == 0 {
		return letters, nil, pages(ctx, r, s.filter, take)
	}
	for _, id := range s.ids {
		l, err := r.Letter(ctx, id)
		switch {
		case errors.Is(err, state.ErrNoLetter):
			missing = append(missing, fmt.Sprintf("there is no dead letter %d", id))
		case err != nil:
			return nil, nil, err
		case !l.Closed.IsZero():
			missing = append(missing, fmt.Sprintf("dead letter %d is closed: %s", id, l.Resolution))
		default:
			_ = take([]*connector.DeadLetter{l}) // it gives no error
		}
	}
	return letters, missing, nil
}

func dropCommand() *cobra.Command {
	var s selection
	c := &cobra.Command{
		Use: "drop ID... | --all | --class C | --mapping M", Short: "Closes dead letters for good, without sending them",
		Long: `Closes open dead letters: they are never sent, and kept for state.keepDeadLetters (` + "`deadletters list --all`" + ` shows them). It works at once, beside a
running connector and without one. On a terminal it asks before it drops more than what was named by id.`,
		Example: "  tuzhan-cdc deadletters drop 17 18\n  tuzhan-cdc deadletters drop --mapping order-points --since 2h",
	}
	s.flags(c)
	yes := c.Flags().Bool("yes", false, "do not ask")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		letters, missing, err := pickOpen(c, &s)
		if err != nil {
			return err
		}
		out := c.OutOrStdout()
		sayMissing(c, missing)
		if len(letters) > 0 {
			if !*yes && len(s.ids) == 0 && isTerminal(c.InOrStdin()) && !confirmed(c, fmt.Sprintf("Drop %d dead letters? They will never be sent. Type yes: ", len(letters))) {
				return errors.New("nothing was dropped")
			}
			if slices.ContainsFunc(letters, func(l picked) bool { return l.retrying }) {
				if err := settleRetries(c.Context(), cfg); err != nil {
					return err
				}
			}
			if err := state.Drop(c.Context(), stateLocation(cfg), idsOf(letters)); err != nil {
				return err
			}
		}
		dropped, left := 0, 0
		if err := eachOf(c, idsOf(letters), func(l *connector.DeadLetter) {
			switch {
			case l.Closed.IsZero():
				left++
				fmt.Fprintf(c.ErrOrStderr(), "dead letter %d is being sent again just now: not dropped\n", l.ID)
			case l.Resolution != connector.ResolvedDropped:
				left++
				fmt.Fprintf(c.ErrOrStderr(), "dead letter %d is closed: %s\n", l.ID, l.Resolution)
			default:
				dropped++
			}
		}); err != nil {
			return err
		}
		fmt.Fprintf(out, "%d dropped\n", dropped)
		if left+len(missing) > 0 {
			return errQuiet
		}
		return nil
	}
	return c
}

// settleRetries brings in order what a connector that no longer runs had begun to send again.
func settleRetries(ctx context.Context, cfg *config.Config) error {
	store, err := state.Open(ctx, stateLocation(cfg), state.Options{Logger: discardLogger()})
	if errors.Is(err, state.ErrLocked) {
		return nil
	} else if err != nil {
		return err
	}
	return errors.Join(store.ResetRetries(ctx), store.Close())
}

func pickOpen(c *cobra.Command, s *selection) (letters []picked, missing []string, err error) {
	err = readState(c, func(r *state.Reader) (err error) {
		if letters, missing, err = s.pick(c.Context(), r); err == nil && len(letters) == 0 {
			err = known(c, r, s.filter.Mapping)
		}
		return err
	})
	return letters, missing, err
}

func sayMissing(c *cobra.Command, missing []string) {
	for _, m := range missing {
		fmt.Fprintln(c.ErrOrStderr(), m)
	}
}

func idsOf(letters []picked) []int64 {
	ids := make([]int64, len(letters))
	for i, l := range letters {
		ids[i] = l.id
	}
	return ids
}

// eachOf reads letters by their ids, page by page.
func eachOf(c *cobra.Command, ids []int64, each func(*connector.DeadLetter)) error {
	return readState(c, func(r *state.Reader) error {
		for chunk := range slices.Chunk(ids, letterPage) {
			letters, err := r.Letters(c.Context(), state.Filter{IDs: chunk})
			if err != nil {
				return err
			}
			for _, l := range letters {
				each(l)
			}
		}
		return nil
	})
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

func confirmed(c *cobra.Command, question string) bool {
	fmt.Fprint(c.OutOrStdout(), question)
	line, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	if err != nil {
		fmt.Fprintln(c.OutOrStdout())
	}
	return strings.TrimSpace(line) == "yes"
}

func retryCommand() *cobra.Command {
	var s selection
	c := &cobra.Command{
		Use: "retry ID... | --all | --class C | --mapping M", Short: "Sends dead letters again",
		Long: `Sends open dead letters again, with the uuid that they had. One of class mapping is mapped again, by the mapping as the running connector has it (kill -HUP makes
it read its files again). A letter closes only when it is delivered, or when its mapping now wants nothing of the change; else it stays open, with the new reason.

A running connector does it, in its customers' order and within its limits; where none runs, this command does, and no connector starts meanwhile. Ctrl-C leaves it to the
running connector; without one the rest stays as it was.

A point of class uncertain may have been applied: look it up on the platform first, then say --yes-i-checked. A group relation that a newer one of the same customer has
overtaken is left out, since an old add after a newer delete would be wrong, unless --anyway.`,
		Example: "  tuzhan-cdc deadletters retry 17\n  tuzhan-cdc deadletters retry --mapping order-points --detach",
	}
	s.flags(c)
	checked := c.Flags().Bool("yes-i-checked", false, "points of class uncertain too: it was looked up that they were not applied")
	anyway := c.Flags().Bool("anyway", false, "group relations too that newer ones have overtaken")
	detach := c.Flags().Bool("detach", false, "do not wait for the running connector; without one, leave it to the next")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		letters, missing, err := pickOpen(c, &s)
		if err != nil {
			return err
		}
		sayMissing(c, missing)
		letters, refused, err := sendable(c, &s, letters, *checked, *anyway)
		if err != nil {
			return err
		}
		ids := idsOf(letters)
		if len(ids) > 0 {
			if err := state.AskRetry(c.Context(), stateLocation(cfg), ids, *anyway, *checked); err != nil {
				return err
			}
			if *detach {
				fmt.Fprintf(c.OutOrStdout(), "asked for: %s to be sent again by the running connector, or the next one (`%s` shows what is left)\n",
					count(len(ids), "dead letter"), withConfig(configFlag(c), "tuzhan-cdc deadletters list"))
			} else if err := carryOut(c, cfg, ids); err != nil {
				return err
			}
		}
		if !*detach {
			left, err := tellEnds(c, ids)
			if err != nil {
				return err
			}
			refused += left
		}
		if refused+len(missing) > 0 {
			return errQuiet
		}
		return nil
	}
	return c
}

// sendable leaves out, and says, what is not to be sent again. What was named by its id is refused, what was selected otherwise is passed over.
func sendable(c *cobra.Command, s *selection, letters []picked, checked, anyway bool) (send []picked, refused int, err error) {
	byID := len(s.ids) > 0
	send, left := sortOut(letters, checked, anyway)
	uncertain, overtaken, orphans := left.uncertain, left.overtaken, left.orphans
	w := c.ErrOrStderr()
	if len(uncertain) > 0 && (byID || s.filter.Class == connector.ClassUncertain) {
		return nil, 0, usageError{fmt.Errorf("dead letters %s are of class uncertain: the platform may have applied these points, and would apply them twice. "+
			"Look the customers' points up on the platform; those that are not there are sent again with --yes-i-checked, the others are closed with "+
			"`tuzhan-cdc deadletters drop`. Nothing was sent",
			someOf(uncertain))}
	}
	if len(uncertain) > 0 {
		fmt.Fprintf(w, "left out: %d of class uncertain (%s), which the platform may have applied (--yes-i-checked sends them too)\n", len(uncertain), someOf(uncertain))
	}
	if len(overtaken) > 0 {
		fmt.Fprintf(w, "left out: %d group relations (%s) that newer ones of the same customer have overtaken (--anyway sends them too)\n", len(overtaken), someOf(overtaken))
	}
	if len(orphans) > 0 {
		fmt.Fprintf(w, "can't be sent: %s (%s) whose payload is not known; find the customer by the commit time, and close them with `%s`\n",
			count(len(orphans), "point"), someOf(orphans), withConfig(configFlag(c), "tuzhan-cdc deadletters drop"))
	}
	if byID {
		refused = len(overtaken) + len(orphans)
	}
	return send, refused, nil
}

// leftOut are the ids of what is not sent again unless the operator says more.
type leftOut struct{ uncertain, overtaken, orphans []string }

// sortOut takes out of letters what is not to be sent again as it is.
func sortOut(letters []picked, checked, anyway bool) (send []picked, left leftOut) {
	for _, l := range letters {
		id := strconv.FormatInt(l.id, 10)
		switch {
		case l.class == connector.ClassUncertain && l.orphan:
			left.orphans = append(left.orphans, id)
		case l.class == connector.ClassUncertain && !checked:
			left.uncertain = append(left.uncertain, id)
		case l.over && !anyway:
			left.overtaken = append(left.overtaken, id)
		default:
			send = append(send, l)
		}
	}
	return send, left
}

func someOf(ids []string) string {
	const some = 20
	if len(ids) > some {
		return strings.Join(ids[:some], ", ") + ", …"
	}
	return strings.Join(ids, ", ")
}

const (
	lookEvery = 300 * time.Millisecond
	// connectorEvery is how often it is looked whether there is still a connector.
	connectorEvery = 5 * time.Second
	progressEvery  = 2 * time.Second
)

// carryOut returns when the letters have been sent again: by the running connector, else by this process.
func carryOut(c *cobra.Command, cfg *config.Config, ids []int64) error {
	ctx := c.Context()
	store, err := state.Open(ctx, stateLocation(cfg), state.Options{Logger: discardLogger()})
	if errors.Is(err, state.ErrLocked) {
		return awaitConnector(c, cfg, ids)
	} else if err != nil {
		return errors.Join(err, state.CancelRetry(context.WithoutCancel(ctx), stateLocation(cfg), ids))
	}
	fmt.Fprintln(c.ErrOrStderr(), "no connector runs: sending from here; a connector that is started meanwhile waits")
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		showProgress(watching, c.ErrOrStderr(), store.Reader, ids)
	}()
	err = sendHere(ctx, c, cfg, store)
	stop()
	<-watched
	if err != nil || ctx.Err() != nil { // what was not sent is left as it was
		tail, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err == nil {
			err = errors.New("interrupted: what was not sent stays as it was")
		}
		return errors.Join(err, store.ResetRetries(tail), store.Close(), state.CancelRetry(tail, stateLocation(cfg), ids))
	}
	return store.Close()
}

// sendHere delivers what is asked for, as the running connector would.
func sendHere(ctx context.Context, c *cobra.Command, cfg *config.Config, store *state.Store) error {
	cp, err := store.Checkpoint(ctx)
	if err != nil {
		return err
	}
	if cp == nil {
		return errors.New("the state has no checkpoint yet: start `tuzhan-cdc run` once")
	}
	zone := cfg.Source.TimeZone
	if zone == nil && cfg.Mappings.Len() > 0 {
		if zone, err = sourceZone(ctx, cfg); err != nil {
			return err
		}
	}
	log := newLogger(cfg, c.ErrOrStderr())
	client, err := newPlatform(cfg, log, store.Lease, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := store.Sends(ctx, cfg.Platform.Timeout, log); err != nil {
		return err
	}
	alarms := connector.NewAlarms(log)
	d := delivery.New(deliveryConfig(cfg, 25*time.Second), delivery.Ports{Platform: client, Store: store, Settle: func([]*connector.Record) {},
		CountOpen: store.Counted, Hold: func(_, _ string) {}, Counters: connector.NewCounters(nil), Alarms: alarms, Log: log}, 0)
	retry := newRetrier(&retrier{store: store, delivery: d, set: cfg.Mappings, mapper: mapperFor(cfg, cp.Lineage, zone, nil),
		most: min(mostRetried, cfg.Delivery.MaxPending), mostBytes: cfg.Delivery.MaxPendingBytes, alarms: alarms, log: log})
	delivering, stop := context.WithCancel(ctx)
	defer stop()
	ended, lost := make(chan error, 1), make(chan error, 1)
	go func() { ended <- d.Run(delivering) }()
	go func() {
		lost <- store.Lost(delivering)
		stop()
	}()
	retry.run(delivering, true)
	stop()
	return errors.Join(<-ended, <-lost)
}

// sourceZone asks the CRM's database how it reads timestamps without zone.
func sourceZone(ctx context.Context, cfg *config.Config) (*time.Location, error) {
	conn, err := postgres.Connect(ctx, cfg.Source.DSN.Reveal())
	if err != nil {
		return nil, fmt.Errorf("the database's time zone has to be asked for, unless source.timeZone says it: %w", postgres.Explain(err))
	}
	defer conn.Close(ctx)
	server, err := postgres.LoadServer(ctx, conn)
	if err != nil {
		return nil, postgres.Explain(err)
	}
	return timeZone(cfg, server.TimeZone)
}

// awaitConnector returns when the running connector has ended all retries of ids.
func awaitConnector(c *cobra.Command, cfg *config.Config, ids []int64) error {
	return readState(c, func(r *state.Reader) error {
		running, stop := context.WithCancelCause(c.Context())
		defer stop(nil)
		gone := errors.New("the connector has stopped: the next one sends what is left (`tuzhan-cdc deadletters list` shows it)")
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for {
				select {
				case <-running.Done():
					return
				case <-time.After(connectorEvery):
				}
				store, err := state.Open(running, stateLocation(cfg), state.Options{Logger: discardLogger()})
				if err == nil {
					_ = store.Close() // it has written nothing
					stop(gone)
					return
				}
			}
		}()
		err := showProgress(running, c.ErrOrStderr(), r, ids)
		cause := context.Cause(running)
		stop(nil)
		<-watched
		switch {
		case errors.Is(cause, gone):
			return gone
		case c.Context().Err() != nil:
			return errors.New("interrupted: the running connector goes on with it (`tuzhan-cdc deadletters list` shows what is left)")
		}
		return err
	})
}

// showProgress prints how many of the letters have ended, until all have.
func showProgress(ctx context.Context, w io.Writer, r *state.Reader, ids []int64) error {
	said := time.Now()
	terminal := isTerminal(w)
	end := func(err error) error {
		if terminal && len(ids) > 0 {
			fmt.Fprint(w, "\r\x1b[K")
		}
		return err
	}
	of := ids
	if len(ids) > letterPage {
		of = nil // all that are asked for
	}
	for {
		left, err := r.Retrying(ctx, of)
		if err != nil || left == 0 {
			return end(err)
		}
		if line := fmt.Sprintf("%d of %d done", max(0, len(ids)-left), len(ids)); terminal {
			fmt.Fprintf(w, "\r\x1b[K%s", line)
		} else if time.Since(said) > progressEvery {
			said = time.Now()
			fmt.Fprintln(w, line)
		}
		select {
		case <-ctx.Done():
			return end(ctx.Err())
		case <-time.After(lookEvery):
		}
	}
}

// tellEnds prints how the letters ended, and gives how many are still open.
func tellEnds(c *cobra.Command, ids []int64) (left int, err error) {
	ended := map[string]int{}
	out := c.OutOrStdout()
	const most = 50
	err = eachOf(c, ids, func(l *connector.DeadLetter) {
		how := l.Resolution
		if l.Closed.IsZero() {
			left++
			if how = l.Retried; how == "" {
				how = "not sent"
			}
			how = "stays open, " + string(l.Class) + ": " + how
		} else {
			ended[how]++
		}
		if len(ids) <= most || l.Closed.IsZero() && left <= most {
			fmt.Fprintf(out, "dead letter %d: %s\n", l.ID, how)
		}
	})
	if err != nil {
		return left, err
	}
	parts := []string{}
	for _, how := range []string{connector.ResolvedDelivered, connector.ResolvedPassedOver, connector.ResolvedDropped} {
		if n := ended[how]; n > 0 || how == connector.ResolvedDelivered {
			parts = append(parts, fmt.Sprintf("%d %s", n, how))
		}
	}
	if left > 0 {
		parts = append(parts, fmt.Sprintf("%d still open", left))
	}
	_, err = fmt.Fprintln(out, strings.Join(parts, ", "))
	return left, err
}
