// Package demo shows the main job on one machine: a throwaway PostgreSQL, the simulator of the platform, the connector as a process of its own, and
// a write load; it kills the connector, takes the platform away, and then compares what was applied with what was committed.
package demo

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

//go:embed schema.sql
var schema string

//go:embed demo.yaml
var config []byte

// Options say how the demo runs.
type Options struct {
	// Program is the connector's binary.
	Program string
	// Seconds is how long the load runs, at least 5.
	Seconds int
	// Rate is about how many row changes are committed a second.
	Rate int
	// Out takes the report; Terminal says that it is one, and the progress is then one line that is written anew.
	Out      io.Writer
	Terminal bool
}

// outage is how long the platform is away.
const outage = 5 * time.Second

// settleTimeout is how long the connector may take after the load's end.
const settleTimeout = 3 * time.Minute

// ErrFailed says that something was lost, doubled or sent without a commit. The report has said what.
var ErrFailed = errors.New("the demo failed")

const secret = "demo-secret"

// Run runs the demo. It leaves nothing behind, also when ctx ends.
func Run(ctx context.Context, o Options) (err error) {
	fmt.Fprintln(o.Out, "starting a throwaway PostgreSQL ...")
	cluster, err := throwaway.StartAny(ctx, throwaway.Options{Settings: map[string]string{"wal_level": "logical"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	dir, err := os.MkdirTemp("", "tuzhan-cdc-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &show{o: o, dsn: cluster.DSN("postgres"), dir: dir, started: time.Now(),
		sim: platformsim.New(platformsim.Options{AppID: "demo-app", AppSecret: secret})}
	fmt.Fprintf(o.Out, "PostgreSQL %s is up\n", cluster.Version())
	stop, err := s.serve()
	if err != nil {
		return err
	}
	defer stop()
	if s.conn, err = pgx.Connect(ctx, s.dsn); err != nil {
		return err
	}
	defer s.conn.Close(context.WithoutCancel(ctx))
	if _, err := s.conn.Exec(ctx, schema); err != nil {
		return fmt.Errorf("making the demo's tables: %w", err)
	}
	defer s.kill()
	if err := s.perform(ctx); err != nil {
		return errors.Join(err, ctx.Err())
	}
	return s.report(ctx)
}

// show is a running demo.
type show struct {
	o       Options
	dsn     string
	dir     string
	url     string
	sim     *platformsim.Sim
	conn    *pgx.Conn
	started time.Time

	connector *exec.Cmd
	ended     chan struct{} // closed when the connector's process has ended
	release   func() error  // of the watch over the connector

	committed atomic.Int64
	scene     atomic.Pointer[string]
	loadEnded time.Time
}

// serve opens the platform on a port of its own.
func (s *show) serve() (stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: s.sim, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // it ends by Close only
	}()
	return func() { _ = server.Close(); <-done }, nil
}

func (s *show) logFile() string { return filepath.Join(s.dir, "connector.log") }

// start starts the connector.
func (s *show) start() error {
	file := filepath.Join(s.dir, "demo.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.o.Program, "run", "-c", file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "DEMO_DSN="+s.dsn, "DEMO_PLATFORM="+s.url, "DEMO_SECRET="+secret, "DEMO_STATE="+filepath.Join(s.dir, "state.db"))
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the connector: %w", err)
	}
	release, err := throwaway.AfterDeath(`kill -9 "$1"; rm -rf "$2"`, strconv.Itoa(cmd.Process.Pid), s.dir)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // killed or told to end: how is asked of ProcessState
	}()
	s.connector, s.ended, s.release = cmd, ended, release
	return nil
}

// kill is kill -9. It does nothing where no connector runs.
func (s *show) kill() {
	if s.connector == nil {
		return
	}
	_ = s.connector.Process.Kill()
	<-s.ended
	_ = s.release()
	s.connector = nil
}

// terminate ends the connector as an operator would, and wants exit code 0.
func (s *show) terminate(ctx context.Context) error {
	if err := s.connector.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return s.failed("the connector does not end after SIGTERM")
	}
	if code := s.connector.ProcessState.ExitCode(); code != 0 {
		return s.failed(fmt.Sprintf("the connector ended with exit code %d", code))
	}
	s.kill()
	return nil
}

// failed adds the end of the connector's log to an error.
func (s *show) failed(text string) error {
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		return errors.New(text)
	}
	return fmt.Errorf("%s; the end of its log:\n%s", text, log[max(0, len(log)-3000):])
}

func (s *show) say(scene string) {
	s.scene.Store(&scene)
	if !s.o.Terminal {
		s.progress()
	}
}

func (s *show) at() float64 { return time.Since(s.started).Seconds() }

// progress writes where things stand.
func (s *show) progress() {
	text := fmt.Sprintf("%5.1f s  %7d transactions committed  %7d records applied  %s", s.at(), s.committed.Load(), s.sim.Count(""), *s.scene.Load())
	if s.o.Terminal {
		fmt.Fprintf(s.o.Out, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(s.o.Out, text)
}

// perform runs load and faults, and waits until everything is settled.
func (s *show) perform(ctx context.Context) error {
	every := 2 * time.Second
	if s.o.Terminal {
		every = 200 * time.Millisecond
	}
	s.started = time.Now()
	s.say("starting the connector")
	showing, stopShowing := context.WithCancel(ctx)
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-showing.Done():
				return
			case <-tick.C:
				s.progress()
			}
		}
	}()
	defer func() {
		stopShowing()
		<-shown
		if s.o.Terminal {
			fmt.Fprintln(s.o.Out)
		}
	}()
	if err := s.start(); err != nil {
		return err
	}
	// A slot that is still being made is active too, and has no position yet: what is committed before it has one is not sent.
	if err := s.await(ctx, `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE active AND confirmed_flush_lsn IS NOT NULL)`); err != nil {
		return err
	}
	s.say("writing")
	length := time.Duration(s.o.Seconds) * time.Second
	g, gctx := errgroup.WithContext(ctx)
	loading, stopLoad := context.WithTimeout(gctx, length)
	defer stopLoad()
	g.Go(func() error { return load(loading, s.dsn, s.o.Rate, &s.committed) })
	g.Go(func() error { return s.faults(gctx, length) })
	if err := g.Wait(); err != nil {
		return err
	}
	s.loadEnded = time.Now()
	s.say("the load has ended: waiting until everything is settled")
	if err := s.settled(ctx); err != nil {
		return err
	}
	return s.terminate(ctx)
}

// faults kills the connector, commits a huge transaction, kills the connector again in its middle, and takes the platform away.
func (s *show) faults(ctx context.Context, length time.Duration) error {
	sleep := func(share float64) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Until(s.started.Add(time.Duration(share * float64(length))))):
			return true
		}
	}
	kill := func(why string) error {
		s.say("kill -9 of the connector" + why)
		s.kill()
		if err := s.start(); err != nil {
			return err
		}
		s.say("the connector is started again")
		return nil
	}
	if !sleep(0.25) {
		return ctx.Err()
	}
	if err := kill(""); err != nil {
		return err
	}
	if !sleep(0.4) {
		return ctx.Err()
	}
	s.say(fmt.Sprintf("committing one transaction of %d rows", bigTransaction))
	if err := huge(ctx, s.dsn); err != nil {
		return err
	}
	s.committed.Add(1)
	if err := kill(", right behind a huge transaction"); err != nil {
		return err
	}
	if !sleep(0.55) {
		return ctx.Err()
	}
	s.say(fmt.Sprintf("the platform is away for %s", outage))
	s.sim.Down(platformsim.DownUnavailable)
	defer s.sim.Up()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(outage):
	}
	s.say("the platform is back")
	return nil
}

// settled waits until the slot's confirmed position has passed all that was committed.
func (s *show) settled(ctx context.Context) error {
	var end string
	if err := s.conn.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&end); err != nil {
		return err
	}
	return s.await(ctx, `SELECT coalesce(bool_and(confirmed_flush_lsn >= $1::pg_lsn), false) FROM pg_replication_slots`, end)
}

// await asks until a query gives true.
func (s *show) await(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var yes bool
		if err := s.conn.QueryRow(ctx, sql, args...).Scan(&yes); err != nil {
			return err
		}
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ended:
			return s.failed("the connector has ended by itself")
		case <-tick.C:
		}
	}
}

// letters asks the connector's own command for the dead letters.
func (s *show) letters(ctx context.Context) ([]letter, error) {
	cmd := exec.CommandContext(ctx, s.o.Program, "deadletters", "list", "--output", "json", "-c", filepath.Join(s.dir, "demo.yaml"))
	cmd.Env = append(os.Environ(), "DEMO_DSN="+s.dsn, "DEMO_PLATFORM="+s.url, "DEMO_SECRET="+secret, "DEMO_STATE="+filepath.Join(s.dir, "state.db"))
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("deadletters list: %w", err)
	}
	var list []letter
	return list, json.Unmarshal(out, &list)
}

// report compares and prints.
func (s *show) report(ctx context.Context) error {
	letters, err := s.letters(ctx)
	if err != nil {
		return err
	}
	result, err := reconcile(ctx, s.conn, s.sim, letters)
	if err != nil {
		return err
	}
	var changes int64
	if err := s.conn.QueryRow(ctx, `SELECT count(*) FROM demo.audit`).Scan(&changes); err != nil {
		return err
	}
	out, sum := s.o.Out, result.sum()
	fmt.Fprintln(out)
	if err := result.print(out); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe connector was killed twice with kill -9, and the platform was away for %s. Settled %.1f s after the last commit.\n"+
		"duplicates: events and group relations that were on the way at a kill go out again, an event with the same uuid; points never do.\n"+
		"dead letters: %d points are uncertain, because a kill or the outage came between sending them and reading the answer. They wait for an operator;\n"+
		"some of them were applied, which is no loss and no doubling.\n", outage, time.Since(s.loadEnded).Seconds(), sum.Uncertain)
	for _, p := range result.problems {
		fmt.Fprintln(out, "FAILED:", p)
	}
	last, err := json.Marshal(struct {
		Changes     int64   `json:"changes"`
		Expected    int     `json:"expected"`
		Applied     int     `json:"applied"`
		Duplicates  int     `json:"duplicates"`
		DeadLetters int     `json:"deadLetters"`
		Uncertain   int     `json:"uncertain"`
		Lost        int     `json:"lost"`
		Seconds     float64 `json:"seconds"`
	}{changes, sum.Expected, sum.Applied, sum.Duplicates, sum.DeadLetters, sum.Uncertain, sum.Lost, float64(time.Since(s.started).Milliseconds()) / 1000})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, string(last))
	if len(result.problems) > 0 {
		return ErrFailed
	}
	return nil
}
