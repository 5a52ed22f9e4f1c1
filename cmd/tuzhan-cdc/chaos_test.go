package main

import (
	"context"
	"crypto/aes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
)

// TestChaos runs everything at once, for CHAOS_SECONDS: a database with a load, which is stopped and crashes, behind a network that fails; the program, which is
// killed, terminated and told to read its file again; and a platform that fails in every way. Then all is well for as long as it takes to settle, and what the platform
// applied is compared with what the database committed, customer by customer.
//
// CHAOS_SEED decides what is done, and in which order; the machine's pace decides what meets what. CHAOS_STATE is where the state is: file, same (the CRM's
// server) or other (another one); without it the seed decides. CHAOS_LOG is a directory for the program's logs.
func TestChaos(t *testing.T) {
	seconds, _ := strconv.Atoi(os.Getenv("CHAOS_SECONDS"))
	if seconds <= 0 {
		t.Skip("make chaos runs it")
	}
	seed, err := strconv.ParseUint(os.Getenv("CHAOS_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64N(1_000_000)
	}
	again := fmt.Sprintf("make chaos SEED=%d SECONDS=%d", seed, seconds)
	t.Logf("to run it again: %s", again)
	const most = 30
	problems := runChaos(t, seed, time.Duration(seconds)*time.Second)
	for _, problem := range problems[:min(most, len(problems))] {
		t.Error(problem)
	}
	if n := len(problems); n > most {
		t.Errorf("and %d more", n-most)
	}
	if t.Failed() {
		t.Logf("to run it again: %s", again)
	}
}

// TestChaosProves: the chaos test finds a bug that was put in for it (build tag chaosbug: changes count as settled before they are delivered).
func TestChaosProves(t *testing.T) {
	if os.Getenv("CHAOS_PROVES") == "" {
		t.Skip("make chaos-proves runs it")
	}
	sound := program
	defer func() { program = sound }()
	program = filepath.Join(t.TempDir(), "tuzhan-cdc")
	build := exec.Command("go", "build", "-tags", "chaosbug", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	lost := 0
	problems := runChaos(t, 1, 12*time.Second)
	for _, problem := range problems {
		if strings.HasSuffix(problem, "is lost") {
			lost++
		}
	}
	if lost == 0 {
		t.Fatalf("the chaos test found none of the records that were lost; it found %q", problems)
	}
	t.Logf("it found %d lost records", lost)
}

// chaos is one run.
type chaos struct {
	*rig
	server    *pgtest.PrivateInstance
	proxy     *pgtest.TCPProxy
	elsewhere *pgtest.DB // of the state; nil: a file, or the CRM's database
	// stateProxy stands before it.
	stateProxy *pgtest.TCPProxy
	kind       string // of the state
	encrypted  bool   // points are

	problems []string // the test's goroutine only
	logs     []*process

	kills, terms, hups, overlaps, freezes, ends int
	outages                                     atomic.Int64
	database                                    databaseCounts
}

// dice gives the dice of one part of the run.
func chaosDice(seed, part uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, part)) }

// runChaos gives what is wrong in the end.
func runChaos(t *testing.T, seed uint64, long time.Duration) []string {
	dice := chaosDice(seed, 0)
	c := newChaos(t, seed, dice)
	c.configure(dice)
	t.Cleanup(func() {
		for _, p := range c.logs {
			p.kill()
		}
		if t.Failed() {
			c.keepLogs(seed)
		}
	})
	c.launch()
	c.proc.until("msg=streaming")

	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	load := &chaosLoad{dsn: c.db.DSN(), pause: 25 * time.Millisecond}
	var parts sync.WaitGroup
	for i := range uint64(4) {
		parts.Go(func() { load.write(ctx, chaosDice(seed, 10+i)) })
	}
	parts.Go(func() { c.platformFaults(ctx, chaosDice(seed, 1)) })
	parts.Go(func() { c.databaseFaults(ctx, chaosDice(seed, 2)) })
	c.torment(ctx, chaosDice(seed, 3))
	parts.Wait()

	faults := c.sim.Faults()
	c.sim.ClearFaults()
	began := time.Now()
	c.settle()
	settling := time.Since(began)
	if code := c.proc.terminate(); code != 0 {
		c.problem("at the end the connector exits with %d", code)
	}
	books := &chaosBooks{applied: c.sim.Ledger(), answers: faultAnswers(faults, c.outages.Load() > 0), kills: c.kills+c.terms+c.ends > 0}
	c.read(books)
	found, counts := books.judge()
	c.checkRequests()
	hits := 0
	for _, f := range faults {
		if f.Fault.Probability == 0 {
			hits += f.Hits
		}
	}
	d := &c.database
	t.Logf("seed %d, %s, state %s, points encrypted: %v: %d kills, %d SIGTERM, %d SIGHUP, %d overlaps, %d freezes, %d ends by itself; database: %d fast and %d immediate restarts, %d cuts, %d pauses, "+
		"%d refusals, %d terminations, slot stolen %d times; platform: %d faults struck, %d outages", seed, long, c.kind, c.encrypted, c.kills, c.terms, c.hups, c.overlaps, c.freezes, c.ends,
		d.fast.Load(), d.immediate.Load(), d.cuts.Load(), d.pauses.Load(), d.refusals.Load(), d.terminated.Load(), d.stolen.Load(), hits, c.outages.Load())
	t.Logf("seed %d: %d transactions committed (%d big), %d rolled back, %d skipped; %d records wanted, %d applied, %d of them again; dead letters %v; settled %s after the last fault",
		seed, load.commits.Load(), load.big.Load(), load.rollbacks.Load(), load.marked.Load(), counts.wanted, counts.applied, counts.repeats, counts.letters, settling.Round(time.Millisecond))
	if counts.wanted == 0 || counts.applied == 0 {
		c.problem("nothing was sent")
	}
	return append(c.problems, found...)
}

func newChaos(t *testing.T, seed uint64, dice *rand.Rand) *chaos {
	c := &chaos{server: pgtest.Private(t, "deadlock_timeout=100ms")}
	c.kind = []string{"file", "file", "same", "other"}[dice.IntN(4)]
	if kind := os.Getenv("CHAOS_STATE"); kind != "" {
		c.kind = kind
	}
	o := platformsim.Options{Seed: seed, Stale401: dice.IntN(2) == 0, NumericCodes: dice.IntN(2) == 0}
	if c.encrypted = chaosDice(seed, 4).IntN(3) == 0; c.encrypted {
		var err error
		if o.Decrypt, err = platformsim.Decrypter("aes-cbc", []byte(chaosCipherKey), nil, false); err != nil {
			t.Fatal(err)
		}
	}
	c.rig = newRigOn(t, c.server.Database(t), chaosSchema, chaosMappings, o)
	c.proxy = pgtest.Proxy(t, c.server.Addr())
	c.dsn = c.db.Through(c.proxy)
	switch c.kind {
	case "same":
		c.state = fmt.Sprintf("{dsn: %q}", c.dsn)
	case "other":
		c.elsewhere = pgtest.Private(t).Database(t)
		c.stateProxy = pgtest.Proxy(t, c.elsewhere.Server().Addr())
		c.state = fmt.Sprintf("{dsn: %q}", c.elsewhere.Through(c.stateProxy))
	}
	return c
}

// chaosCipherKey encrypts points where the seed wants that.
const chaosCipherKey = "0123456789abcdef"

// configure writes the file anew, with other limits.
func (c *chaos) configure(dice *rand.Rand) {
	pick := func(of ...int) int { return of[dice.IntN(len(of))] }
	file := c.file
	c.file += ".new" // a process that starts just now must not read half of it
	c.write(chaosMappings, fmt.Sprintf("delivery: {concurrency: %d, pointConcurrency: %d, maxBatch: %d, maxPending: %d, backoff: {initial: 20ms, max: 300ms}, giveUpAfter: %dms}",
		pick(1, 2, 4), pick(2, 4, 16), pick(1, 5, 50, 500), pick(50, 500, 20000), pick(500, 2000, 5000)))
	c.edit("timeout: 5s", "timeout: "+chaosTimeout.String())
	if c.encrypted {
		c.edit("platform:\n", "platform:\n  encryption: {algorithm: aes-cbc, key: "+chaosCipherKey+"}\n")
	}
	if err := os.Rename(c.file, file); err != nil {
		c.t.Fatal(err)
	}
	c.file = file
}

func (c *chaos) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// launch starts the program. Where one has died before, the platform is done with its requests.
func (c *chaos) launch() {
	c.platform(func(s *platformsim.Sim) bool { return s.InFlight("") == 0 })
	c.start()
}

// start starts the program, whatever else runs.
func (c *chaos) start() {
	p := &process{t: c.t, cmd: c.command("run"), log: &logBuffer{changed: make(chan struct{})}, done: make(chan struct{})}
	fmt.Fprintf(p.log, "started at %s\n", time.Now().UTC().Format("15:04:05.000"))
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	c.proc, c.logs = p, append(c.logs, p)
}

// torment kills, terminates and reloads the program until ctx ends; it runs then.
func (c *chaos) torment(ctx context.Context, dice *rand.Rand) {
	for {
		next := time.NewTimer(time.Duration(min(3, dice.ExpFloat64()) * float64(700*time.Millisecond)))
		select {
		case <-c.proc.done:
			next.Stop()
			c.ended()
			continue
		case <-ctx.Done():
			next.Stop()
			return
		case <-next.C:
		}
		switch dice.IntN(12) {
		case 0, 1, 2, 3, 4:
			c.kills++
			c.proc.kill()
			fmt.Fprintf(c.proc.log, "killed at %s\n", time.Now().UTC().Format("15:04:05.000"))
			c.launch()
		case 5, 6:
			c.terms++
			c.terminated(c.proc)
			c.launch()
		case 7: // as at a rolling update: the next one waits for the state
			c.overlaps++
			before := c.proc
			c.start()
			rest(ctx, dice, 200*time.Millisecond)
			c.terminated(before)
		case 8:
			c.freezes++
			_ = c.proc.cmd.Process.Signal(syscall.SIGSTOP)
			rest(ctx, dice, 400*time.Millisecond)
			_ = c.proc.cmd.Process.Signal(syscall.SIGCONT)
		default:
			c.configure(dice)
			if strings.Contains(c.proc.log.String(), "msg=streaming") { // before, the signal would end it
				c.hups++
				_ = c.proc.cmd.Process.Signal(syscall.SIGHUP)
			}
		}
	}
}

// terminated ends a process in good order.
func (c *chaos) terminated(p *process) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	if code := p.exit(); code != 0 && strings.Contains(p.log.String(), "msg=") && !c.mayEnd(p) {
		c.problem("SIGTERM: the connector exits with %d", code)
	}
}

// ended notes that the program has ended by itself, and starts it again.
func (c *chaos) ended() {
	c.ends++
	if log := c.proc.log.String(); !c.mayEnd(c.proc) {
		c.problem("the connector ended by itself: %v: %s", c.proc.err, log[max(0, len(log)-1500):])
	}
	c.launch()
}

// mayEnd reports whether a process has ended because another one has taken the state over, when the connection to the state's server was lost.
func (c *chaos) mayEnd(p *process) bool {
	return c.kind != "file" && strings.Contains(p.log.String(), "has taken this state over")
}

// settle waits until all that was committed is settled.
func (c *chaos) settle() {
	lsn := pgtest.Value[string](c.t, c.db, `SELECT pg_current_wal_insert_lsn()::text`)
	ctx, cancel := context.WithTimeout(c.t.Context(), wait)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.db.DSN())
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var done bool
		err := conn.QueryRow(ctx, `SELECT confirmed_flush_lsn >= $2::pg_lsn FROM pg_replication_slots WHERE slot_name = $1`, c.slot, lsn).Scan(&done)
		if done {
			return
		}
		if err != nil {
			out, _, _ := c.run("status")
			c.t.Fatalf("not everything is settled after %s (%v):\n%s", wait, err, out)
		}
		select {
		case <-tick.C:
		case <-c.proc.done:
			c.ended()
		}
	}
}

// read reads the books of the database and the dead letters.
func (c *chaos) read(b *chaosBooks) {
	if err := b.read(c.t.Context(), c.db.DSN()); err != nil {
		c.t.Fatal(err)
	}
	where := state.Location{Path: filepath.Join(filepath.Dir(c.file), "state.db")}
	switch c.kind {
	case "same":
		where = state.Location{DSN: c.dsn}
	case "other":
		where = state.Location{DSN: c.elsewhere.DSN()}
	}
	r, err := state.OpenReader(c.t.Context(), where)
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	if b.letters, err = r.Letters(c.t.Context(), state.Filter{}); err != nil {
		c.t.Fatal(err)
	}
}

// checkRequests looks for what a well-behaved client does not do.
func (c *chaos) checkRequests() {
	requests := map[uint64]platformsim.Request{}
	for _, r := range c.sim.Requests() {
		requests[r.Number] = r
	}
	for _, v := range c.sim.Violations() {
		first, second := requests[v.Other], requests[v.Request]
		// The client's time had run out, and the simulator saw that it had hung up only when the next request had come. (Its clock began before the request
		// was received.)
		if v.Kind == platformsim.Overlap && first.HungUp && second.Received.Sub(first.Received) >= chaosTimeout/2 {
			continue
		}
		c.problem("violation %+v: %+v, and before it %+v", v, second, first)
	}
	probes := len("{}")
	if c.encrypted {
		probes = len(`{"encryptStr":""}`) + base64.StdEncoding.EncodedLen(2*aes.BlockSize) // the random IV and one block
	}
	for _, r := range c.sim.Requests() {
		probe := r.Bytes == probes // asks whether the endpoint is back
		if r.Refusal != "" && !strings.Contains(r.Refusal, "token") && !probe {
			c.problem("request %d to %s was refused: %s", r.Number, r.Endpoint, r.Refusal)
		}
	}
}

// keepLogs writes the logs of all processes into CHAOS_LOG, and shows the end of the last ones.
func (c *chaos) keepLogs(seed uint64) {
	if dir := os.Getenv("CHAOS_LOG"); dir != "" {
		var all strings.Builder
		for i, p := range c.logs {
			fmt.Fprintf(&all, "=== process %d\n%s\n", i+1, p.log.String())
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("chaos-%d.log", seed)), []byte(all.String()), 0o600); err != nil {
			c.t.Error(err)
		}
	}
	for i, p := range c.logs[max(0, len(c.logs)-2):] {
		text := p.log.String()
		c.t.Logf("log of the program, %d of the last 2:\n%s", i+1, text[max(0, len(text)-3000):])
	}
}
