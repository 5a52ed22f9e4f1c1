package throwaway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// local is a cluster from the machine's own binaries: directory data, the server's log beside it.
type local struct {
	dir     string
	bin     string
	port    int
	account *account
	// forget ends the watch over dir.
	forget func() error

	// server is the postmaster, our own child; nil before the first start. exited is closed when it is gone.
	server *exec.Cmd
	exited chan struct{}
}

// Start makes a cluster from the machine's own binaries and starts it. It returns when the server takes connections; ctx bounds that
// (initdb takes about a second) and has no meaning afterwards. A *[MissingError] says that the machine has no binaries. Nothing is left
// after an error.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	settings, err := o.settings()
	if err != nil {
		return nil, err
	}
	bin := o.Bin
	if bin == "" {
		if bin, err = FindBinaries(ctx); err != nil {
			return nil, err
		}
	}
	who, err := serverAccount()
	if err != nil {
		return nil, fmt.Errorf("throwaway PostgreSQL: %w", err)
	}
	l, err := newLocal(o, bin, who)
	if err != nil {
		return nil, err
	}
	password := newPassword()
	if err := l.create(ctx, password, settings); err != nil {
		return nil, errors.Join(fmt.Errorf("create a PostgreSQL cluster in %s: %w", l.dir, err), l.remove())
	}
	return bring(ctx, o, l.port, password, l)
}

// newLocal makes the directory of a cluster.
func newLocal(o Options, bin string, who *account) (*local, error) {
	var err error
	port := o.Port
	if port == 0 {
		if port, err = FreePort(); err != nil {
			return nil, err
		}
	}
	dir, err := newDirectory(o.Dir, who)
	if err != nil {
		return nil, fmt.Errorf("throwaway PostgreSQL: %w", err)
	}
	l := &local{dir: dir, bin: bin, port: port, account: who}
	if l.forget, err = AfterDeath(clearUp, dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, nil
}

// Standby makes a cluster that is a streaming standby of this one, which runs, and starts it; its users and passwords are this one's. It uses no slot: keep the
// primary running.
func (c *Cluster) Standby(ctx context.Context) (*Cluster, error) {
	of, ok := c.backend.(*local)
	if !ok {
		return nil, errNoCopy
	}
	l, err := newLocal(Options{}, of.bin, of.account)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(l.bin, "pg_basebackup")); err != nil { // what stands there may be links to where all programs are
		if real, err := filepath.EvalSymlinks(filepath.Join(l.bin, "postgres")); err == nil {
			l.bin = filepath.Dir(real)
		}
	}
	cmd := l.command(ctx, "pg_basebackup", "--pgdata="+l.data(), "--dbname="+c.DSN(""), "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w: %s", cmd.Path, err, tail(out)), l.remove())
	}
	return bring(ctx, Options{Log: c.log}, l.port, c.password, l)
}

// clearUp stops the postmaster of directory $1 and removes the directory. postmaster.pid may be stale, so where the system shows a
// process's command line, the directory must stand in it.
const clearUp = `
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && { [ ! -r "/proc/$pid/cmdline" ] || grep -aqF -- "$1" "/proc/$pid/cmdline"; }; then
  kill -QUIT "$pid" 2>/dev/null
  n=0
  while kill -0 "$pid" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
fi
rm -rf "$1"
`

// newDirectory makes the cluster's directory and gives it to who.
func newDirectory(base string, who *account) (string, error) {
	if base == "" {
		base = os.TempDir()
		// As root with a TMPDIR that only root may enter.
		if ok, err := open(base, who); err == nil && !ok {
			base = "/tmp"
		}
	}
	ok, err := open(base, who)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("%s is not open to user %s, as whom the server runs because PostgreSQL refuses root: choose a directory that others may enter", base, who.name)
	}
	dir, err := os.MkdirTemp(base, "tuzhan-cdc-postgres-")
	if err != nil {
		return "", err
	}
	if dir, err = filepath.Abs(dir); err == nil {
		err = give(dir, who)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

func (l *local) data() string { return filepath.Join(l.dir, "data") }

// command is a program of PostgreSQL, run as the server's account, with nothing of our environment but PATH: PGDATA, PGPORT and the like
// would mislead it.
func (l *local) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(l.bin, program), args...)
	cmd.Dir = l.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir, "LC_ALL=C"}
	cmd.SysProcAttr = attributes(l.account)
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// create runs initdb and writes the settings.
func (l *local) create(ctx context.Context, password string, settings map[string]string) error {
	passwordFile := filepath.Join(l.dir, "password")
	if err := os.WriteFile(passwordFile, []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	if err := give(passwordFile, l.account); err != nil {
		return err
	}
	// C.UTF-8 knows the letters beyond ASCII, but not every system has it.
	if err := l.initdb(ctx, passwordFile, "C.UTF-8"); err != nil {
		if ctx.Err() != nil {
			return err
		}
		if err := os.RemoveAll(l.data()); err != nil {
			return err
		}
		if err := l.initdb(ctx, passwordFile, "C"); err != nil {
			return err
		}
	}
	if err := os.Remove(passwordFile); err != nil {
		return err
	}

	var conf strings.Builder
	conf.WriteString("\n# Of the throwaway cluster:\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = %s\n", name, quoteSetting(settings[name]))
	}
	conf.WriteString("listen_addresses = '127.0.0.1'\n")
	if _, wanted := settings["unix_socket_directories"]; !wanted { // its path may be longer than the system allows
		conf.WriteString("unix_socket_directories = ''\n")
	}
	f, err := os.OpenFile(filepath.Join(l.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(conf.String())
	return errors.Join(err, f.Close())
}

// quoteSetting quotes a value for postgresql.conf: quotes are doubled, backslashes too.
func quoteSetting(value string) string {
	return "'" + strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(value) + "'"
}

func (l *local) initdb(ctx context.Context, passwordFile, locale string) error {
	cmd := l.command(ctx, "initdb", "--no-sync", "--auth=scram-sha-256", "--pwfile="+passwordFile, "--username="+superuser,
		"--encoding=UTF8", "--locale="+locale, "--pgdata="+l.data())
	out, err := cmd.CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("initdb: %w", context.Cause(ctx))
		}
		return fmt.Errorf("%s: %w: %s", cmd.Path, err, tail(out))
	}
	return nil
}

func (l *local) logFile() string { return filepath.Join(l.dir, "server.log") }

func (l *local) start(context.Context) error {
	if l.running() {
		return nil
	}
	log, err := os.OpenFile(l.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// As our own child, not through pg_ctl: so its pid is certain and its end is noticed. The server outlives the ctx of its start.
	cmd := l.command(context.Background(), "postgres", "-D", l.data(), "-p", strconv.Itoa(l.port))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	l.server, l.exited = cmd, exited
	go func() {
		// The exit status tells nothing: stop has its own ways to know, and failed shows the log.
		_ = cmd.Wait()
		close(exited)
	}()
	return nil
}

func (l *local) running() bool {
	if l.server == nil {
		return false
	}
	select {
	case <-l.exited:
		return false
	default:
		return true
	}
}

func (l *local) failed(context.Context) error {
	if l.running() {
		return nil
	}
	out, err := os.ReadFile(l.logFile())
	if err != nil {
		return fmt.Errorf("the server ended, and its log can't be read: %w", err)
	}
	return fmt.Errorf("the server ended: %s", tail(out))
}

func (l *local) stop(ctx context.Context, mode Mode) error {
	if !l.running() {
		return nil
	}
	var signal os.Signal = fastSignal
	if mode == Immediate {
		signal = immediateSignal
	}
	if err := l.server.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-l.exited:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *local) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.stop(ctx, Immediate); err != nil {
		// Its children notice by themselves that it is gone.
		if err := l.server.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-l.exited
	}
	return errors.Join(os.RemoveAll(l.dir), l.forget())
}

func (l *local) String() string { return l.dir }

// tail gives the end of a program's output, as one line.
func tail(out []byte) string {
	const most = 2000
	out = bytes.TrimSpace(out)
	if len(out) > most {
		out = out[len(out)-most:]
	}
	return strings.ReplaceAll(string(out), "\n", "; ")
}
