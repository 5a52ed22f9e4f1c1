package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/delivery"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platform"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

func runCommand() *cobra.Command {
	var shutdown time.Duration
	var accept accepted
	c := &cobra.Command{
		Use: "run", Short: "Runs the connector until SIGTERM", Args: noArgs,
		Long: `Streams changes, maps them and sends them, until SIGTERM or Ctrl-C: then it finishes the requests in flight, writes the checkpoint and exits with 0.
A second signal ends it at once; nothing is lost then either.

SIGHUP reads the configuration again; one with errors is not taken, and the former one stays in force.

Publications and slot are created where they are missing and the role may create them.`,
		Example: "  tuzhan-cdc run\n  tuzhan-cdc run -c /etc/tuzhan-cdc/tuzhan-cdc.yaml --shutdown-timeout 60s\n  tuzhan-cdc run --accept-gap 3f9c1a2b        # the id that a refusal printed",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadConfig(c)
			if err != nil {
				return err
			}
			log, end := quietly(newLogger(cfg, c.ErrOrStderr()))
			defer end()
			return run(c.Context(), cfg, log, shutdown, accept)
		},
	}
	c.Flags().DurationVar(&shutdown, "shutdown-timeout", 25*time.Second, "how long requests in flight may take after SIGTERM")
	c.Flags().StringVar(&accept.gap, "accept-gap", "", "go on in spite of the refusal that printed this `id`; what may be missing is recorded")
	c.Flags().StringVar(&accept.newState, "new-state", "", "take the slot over without a state, as the refusal that printed this `id` says")
	return c
}

// loadConfig reads the file that -c names; whatever is wrong with it is a usage error that lists everything.
func loadConfig(c *cobra.Command) (*config.Config, error) {
	cfg, err := config.Load(configFlag(c), environment)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

func newLogger(cfg *config.Config, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.Log.Level}
	handler := slog.Handler(slog.NewTextHandler(w, opts))
	if cfg.Log.Format == "json" {
		handler = slog.NewJSONHandler(w, opts)
	}
	return slog.New(configHandler{handler, cfg.File})
}

// connectorParts are the parts of a running connector, as far as they are there yet.
type connectorParts struct {
	cfg      *config.Config
	started  time.Time
	waiting  *atomic.Bool // another process holds the slot that is to be taken over
	alarms   *connector.Alarms
	counters *connector.Counters
	store    *state.Store
	reader   *state.Reader
	watcher  *slotWatcher
	client   *platform.Client
	source   *postgres.Source
	delivery *delivery.Delivery
	pipeline *connector.Pipeline
	rates    *backfillRates
}

func run(ctx context.Context, cfg *config.Config, log *slog.Logger, shutdown time.Duration, accept accepted) (err error) {
	if _, set := os.LookupEnv("GOGC"); !set {
		// A row leaves no garbage behind, so that collecting it at half the usual growth costs little and is less memory.
		debug.SetGCPercent(50)
	}
	reload := make(chan os.Signal, 1) // heard from the first moment on: a standby would end by it
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	metrics := status.NewMetrics(version)
	parts := &connectorParts{cfg: cfg, started: time.Now(), waiting: new(atomic.Bool), rates: new(backfillRates), alarms: connector.NewAlarms(log), counters: connector.NewCounters(metrics.Observe)}
	view := &view{}
	view.set(parts)
	parts.watcher = newSlotWatcher(cfg, parts.alarms)
	view.set(parts)
	outer := ctx
	g, ctx := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx)) // the status server outlives the pipeline
	defer func() {
		stopServing()
		if ending := g.Wait(); ending != nil && (err == nil || errors.Is(err, context.Canceled)) {
			err = ending
		}
	}()
	serve := func() error {
		if cfg.Server.Listen == "" {
			return nil
		}
		options := statusOptions(cfg, view, func() status.Snapshot { return view.snapshot(serving) }, log)
		options.Alive, options.Metrics = view.alive, metrics
		server, err := status.Listen(options)
		if err != nil {
			return err
		}
		log.Info("status server", "address", server.Addr())
		g.Go(func() error { return server.Run(serving) })
		return nil
	}
	// A standby on another host is to be seen alive; one beside the connector waits without the address, which the connector has.
	early := cfg.State.DSN.IsSet()
	if early {
		if err := serve(); err != nil {
			return err
		}
	}
	store, err := state.Open(ctx, stateLocation(cfg), state.Options{Logger: log, LockWait: state.Forever})
	if err != nil && outer.Err() != nil {
		return nil // stopped while it was a standby
	} else if err != nil {
		return err
	}
	defer func() {
		if closing := store.Close(); closing != nil && err == nil {
			err = closing
		}
	}()
	parts.store, parts.reader = store, store.Reader
	view.set(parts)
	if !early {
		if err := serve(); err != nil {
			return err
		}
	}
	g.Go(func() error { return store.Lost(serving) })
	g.Go(func() error { return parts.watcher.Run(serving) })
	g.Go(func() error {
		defer stopServing()
		s := &supervisor{parts: *parts, view: view, log: log, shutdown: shutdown, accept: accept, reload: reload}
		return s.run(ctx)
	})
	return g.Wait()
}

// stateLocation is where the state is kept.
func stateLocation(cfg *config.Config) state.Location {
	return state.Location{Path: cfg.State.Path, DSN: cfg.State.DSN.Reveal(), KeyFile: cfg.State.KeyFile}
}

func sourceConfig(cfg *config.Config) postgres.Config {
	return postgres.Config{DSN: cfg.Source.DSN.Reveal(), Slot: cfg.Source.Slot, Publication: cfg.Source.Publication, Uses: uses(cfg.Mappings),
		ColumnLists: cfg.Source.ColumnLists, ReadInBursts: cfg.Source.ReadInBursts, Points: cfg.Mappings.Has(connector.Point), Initial: initialPoints(cfg),
		Heartbeat: cfg.Source.Heartbeat, Failover: cfg.Source.Failover}
}

// initialPoints reports whether source.snapshot makes points of the rows that are there.
func initialPoints(cfg *config.Config) bool {
	rows := cfg.Mappings.Snapshots()
	return cfg.Source.Snapshot == "initial" && slices.ContainsFunc(cfg.Mappings.List(), func(m mapping.Summary) bool {
		return m.Kind == connector.Point && slices.Contains(rows, m.Name)
	})
}

// uses tells the source what the mappings want published.
func uses(set *mapping.Set) []postgres.Use {
	var list []postgres.Use
	for _, u := range set.Uses() {
		list = append(list, postgres.Use{Table: postgres.TableName{Schema: u.Schema, Name: u.Name},
			Insert: u.Insert, Update: u.Update, Delete: u.Delete, Columns: slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(u.New), u.Old...)))), Old: append([]string{}, u.Old...)})
	}
	return list
}

func deliveryConfig(cfg *config.Config, shutdown time.Duration) delivery.Config {
	d := cfg.Delivery
	return delivery.Config{Concurrency: d.Concurrency, PointConcurrency: d.PointConcurrency, MaxBatch: d.MaxBatch, MaxBatchBytes: d.MaxBatchBytes,
		MaxPending: d.MaxPending, MaxPendingBytes: d.MaxPendingBytes, BackoffInitial: d.Backoff.Initial, BackoffMax: d.Backoff.Max,
		GiveUpAfter: d.GiveUpAfter, MaxDeadLetters: d.MaxDeadLetters, PauseWhenRejected: d.PauseWhenRejected, ShutdownTimeout: shutdown}
}

// timeZone is the zone of timestamps without one: the file's, else the database's.
func timeZone(cfg *config.Config, database string) (*time.Location, error) {
	if cfg.Source.TimeZone != nil {
		return cfg.Source.TimeZone, nil
	}
	zone, err := time.LoadLocation(database)
	if err != nil {
		return nil, fmt.Errorf("the database's TimeZone %q is not known here: set source.timeZone, for example Asia/Shanghai", database)
	}
	return zone, nil
}

// newPlatform makes the client, whose requests wait for lease (nil: they don't). Secrets are read again where the platform refuses them. exchanged, where it is
// not nil, is told of each request.
func newPlatform(cfg *config.Config, log *slog.Logger, lease func(context.Context) error, exchanged func(connector.Exchange)) (*platform.Client, error) {
	p, d := cfg.Platform, cfg.Delivery
	c := platform.Config{
		BaseURL: p.BaseURL,
		Paths: platform.Paths{Point: string(p.Paths.Point), PointDecrease: string(p.Paths.PointDecrease), Event: string(p.Paths.Event),
			GroupRelation: string(p.Paths.GroupRelation), Token: string(p.Paths.Token)},
		Timeout: p.Timeout, RequestsPerSecond: p.RequestsPerSecond, MaxConns: 2*d.Concurrency + 2*d.PointConcurrency,
		UserAgent: "tuzhan-cdc/" + version, Logger: log, Lease: lease, Exchanged: exchanged, OpenPoints: p.PointAPI == "open",
	}
	if e := p.Encryption; e.Algorithm != "" {
		c.Encryption = &platform.Encryption{Algorithm: e.Algorithm, Key: e.Key.Current, KeyEncoding: e.KeyEncoding, IVEncoding: e.IVEncoding, Encoding: e.Encoding}
		if e.IV.IsSet() {
			c.Encryption.IV = e.IV.Current
		}
	}
	if p.Token.IsSet() {
		c.Token = p.Token.Current
	} else {
		c.AppID, c.AppSecret = p.AppID, p.AppSecret.Current
	}
	return platform.New(c)
}

// environment looks up what ${NAME} means in the file.
func environment(name string) (string, bool) { return os.LookupEnv(name) }

func discardLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }
