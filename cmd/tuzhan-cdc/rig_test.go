package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// program is the binary under test: the tests kill it, so it must be a process of its own.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tuzhan-cdc-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "tuzhan-cdc")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".") // as make build does
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := 1
	defer func() { os.Exit(code) }()
	defer os.RemoveAll(dir)
	code = pgtest.Run(m)
}

// wait bounds every single thing that a test waits for: long, since a machine may be busy, and the server decodes what all tests write.
const wait = 4 * time.Minute

// crmSchema is the CRM of the design's example.
const crmSchema = `
CREATE SCHEMA crm;
CREATE TABLE crm.orders (id bigserial PRIMARY KEY, order_no text NOT NULL, phone text, goods text, amount numeric(12,2), status text NOT NULL, paid_at timestamptz);
CREATE TABLE crm.member_groups (phone text NOT NULL, group_name text NOT NULL, PRIMARY KEY (phone, group_name));
CREATE TABLE crm.other (id bigserial PRIMARY KEY, filler text);
ALTER TABLE crm.orders REPLICA IDENTITY FULL;
ALTER TABLE crm.member_groups REPLICA IDENTITY FULL;`

const crmMappings = `
mappings:
  - name: order-paid
    table: crm.orders
    on: [insert, update]
    when: new.status == "paid" && old?.status != "paid"
    event:
      publicParams: {matchingType: 1}
      eventKey: c_buy
      time: ${{ paid_at }}
      identities:
        - identityType: phone
          identityValue: ${{ phone }}
      eventargs:
        c_goods: ${{ goods }}
        c_price: ${{ amount }}
        c_order: ${{ order_no }}
        title: 下单
  - name: order-points
    table: crm.orders
    on: [insert, update]
    when: new.status == "paid" && old?.status != "paid"
    point:
      point: ${{ int(floor(amount)) }}
      remark: 订单 ${{ order_no }} 积分
      phoneList:
        - phone: ${{ phone }}
          isVerify: "1"
      ext:
        strategyName: order
  - name: member-groups
    table: crm.member_groups
    on: [insert, update, delete]
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ group_name }}
`

// rig is a database, a platform and the program between them.
type rig struct {
	t    *testing.T
	db   *pgtest.DB
	dsn  string
	slot string
	sim  *platformsim.Sim
	web  *httptest.Server
	file string
	// state is the block of that name in the file; by default a file beside it.
	state string
	// server is the block of that name; empty: any port.
	server string
	env    []string // of the program, beside what newRig's file needs
	proc   *process
}

// newRig makes the schema and the file; start starts the program.
func newRig(t *testing.T, schema, mappings string, o platformsim.Options) *rig {
	t.Helper()
	return newRigOn(t, pgtest.Server(t).Database(t), schema, mappings, o)
}

func newRigOn(t *testing.T, db *pgtest.DB, schema, mappings string, o platformsim.Options) *rig {
	t.Helper()
	if o.Token == "" && o.AppID == "" {
		o.AppID, o.AppSecret = "app-1", "s3cret-of-the-app"
	}
	r := &rig{t: t, db: db, dsn: db.DSN(), slot: db.SlotName(), sim: platformsim.New(o)}
	r.web = httptest.NewServer(r.sim)
	t.Cleanup(r.web.Close)
	if schema != "" {
		db.Exec(t, schema)
	}
	r.file = filepath.Join(t.TempDir(), "tuzhan-cdc.yaml")
	r.state = fmt.Sprintf("{path: %q}", filepath.Join(filepath.Dir(r.file), "state.db"))
	r.write(mappings, "")
	t.Cleanup(func() {
		if r.proc != nil {
			r.proc.kill()
		}
	})
	return r
}

// write writes the file; extra are whole blocks (delivery: ...).
func (r *rig) write(mappings, extra string) {
	r.t.Helper()
	text := fmt.Sprintf(`
source:
  dsn: %q
  slot: %s
  publication: %s
  timeZone: Asia/Shanghai
platform:
  baseURL: %s
  appID: app-1
  appSecret: ${TUZHAN_APP_SECRET}
  timeout: 5s
  paths: {point: /point/increase}
state: %s
server: %s
%s
%s`, r.dsn, r.slot, r.slot, r.web.URL, r.state, cmp.Or(r.server, `{listen: "127.0.0.1:0"}`), extra, mappings)
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// process is a running program.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{}
	err  error
}

// logBuffer holds a program's log and wakes those who wait for a line.
type logBuffer struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// command prepares the program with its environment.
func (r *rig) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program, append(args, "-c", r.file)...)
	cmd.Env = append(append(os.Environ(), "TUZHAN_APP_SECRET=s3cret-of-the-app"), r.env...)
	return cmd
}

// run runs a command of the program to its end.
func (r *rig) run(args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	cmd := r.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// start starts the program and waits until it streams.
func (r *rig) start() {
	r.t.Helper()
	r.launch()
	r.proc.until("msg=streaming")
}

func (r *rig) launch(args ...string) {
	r.t.Helper()
	p := &process{t: r.t, cmd: r.command(append([]string{"run"}, args...)...), log: &logBuffer{changed: make(chan struct{})}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	r.proc = p
	r.t.Cleanup(func() {
		p.kill()
		if r.t.Failed() {
			text := p.log.String()
			r.t.Logf("log of the program:\n%s", text[max(0, len(text)-6000):])
		}
	})
}

// until waits for a text in the log.
func (p *process) until(text string) {
	p.t.Helper()
	timeout := time.After(wait)
	for {
		p.log.mu.Lock()
		found, changed := strings.Contains(p.log.text.String(), text), p.log.changed
		p.log.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-p.done:
			if strings.Contains(p.log.String(), text) {
				return
			}
			p.t.Fatalf("the program ended (%v) before its log said %q", p.err, text)
		case <-timeout:
			p.t.Fatalf("the log does not say %q", text)
		}
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// terminate is SIGTERM; it returns the exit code.
func (p *process) terminate() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	return p.exit()
}

func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(wait):
		p.t.Fatal("the program does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// settled waits until everything that is committed by now is settled: the slot's confirmed position has passed it.
func (r *rig) settled() {
	r.t.Helper()
	lsn := pgtest.Value[string](r.t, r.db, `SELECT pg_current_wal_lsn()::text`)
	r.db.Eventually(r.t, `SELECT coalesce(bool_and(confirmed_flush_lsn >= $2::pg_lsn), false) FROM pg_replication_slots WHERE slot_name = $1`, r.slot, lsn)
}

// applied waits for n records on an endpoint.
func (r *rig) applied(e platformsim.Endpoint, n int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), wait)
	defer cancel()
	if err := r.sim.Wait(ctx, func(s *platformsim.Sim) bool { return s.Count(e) >= n }); err != nil {
		r.t.Fatal(err)
	}
}

// simFaces waits for something else of the platform.
func (r *rig) platform(what func(*platformsim.Sim) bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), wait)
	defer cancel()
	if err := r.sim.Wait(ctx, what); err != nil {
		r.t.Fatal(err)
	}
}

// letters asks the program for the open dead letters.
func (r *rig) letters(args ...string) []status.Letter {
	r.t.Helper()
	out, errs, code := r.run(append([]string{"deadletters", "list", "--output", "json"}, args...)...)
	if code != 0 {
		r.t.Fatalf("deadletters list: exit %d\n%s", code, errs)
	}
	var list []status.Letter
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		r.t.Fatalf("%v in %s", err, out)
	}
	return list
}

// address is where the program's status server is, which its log tells.
func (r *rig) address() string {
	r.t.Helper()
	r.proc.until(`msg="status server"`)
	_, rest, _ := strings.Cut(r.proc.log.String(), "address=")
	addr, _, _ := strings.Cut(rest, "\n")
	return "http://" + addr
}

// get asks the program's status server.
func (r *rig) get(path string) (status int, body string) {
	r.t.Helper()
	resp, err := http.Get(r.address() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// noViolations checks what the platform has seen of order and redirects.
func (r *rig) noViolations() {
	r.t.Helper()
	if v := r.sim.Violations(); len(v) > 0 {
		r.t.Errorf("%d violations, the first one %+v", len(v), v[0])
	}
}
