package throwaway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// victim is the environment variable that makes the test binary a process with a cluster, to be killed.
const victim = "TUZHAN_CDC_TEST_VICTIM"

func TestMain(m *testing.M) {
	if kind := os.Getenv(victim); kind != "" {
		beVictim(kind)
	}
	goleak.VerifyTestMain(m)
}

// beVictim starts a server, says where, and waits until it is killed.
func beVictim(kind string) {
	start := throwaway.StartAny
	if kind == "docker" {
		start = throwaway.StartDocker
	}
	c, err := start(context.Background(), throwaway.Options{Dir: os.Getenv("VICTIM_DIR")})
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println(c.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	select {}
}

// sharedDir makes a directory that user postgres may enter too: that of t.TempDir is below one of root's own.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tuzhan-cdc-throwaway-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var value string
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", e.Name())
	}
}

func refused(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return true
	}
	conn.Close()
	return false
}

// backends are the ways to have a server on this machine. The first is always there; where Docker answers and has an image, it comes too.
func backends(t *testing.T) map[string]func(context.Context, throwaway.Options) (*throwaway.Cluster, error) {
	t.Helper()
	ways := map[string]func(context.Context, throwaway.Options) (*throwaway.Cluster, error){"any": throwaway.StartAny}
	if dockerHasImage(t.Context()) {
		ways["docker"] = throwaway.StartDocker
	}
	return ways
}

func dockerHasImage(ctx context.Context) bool {
	images := throwaway.Images()
	if named := os.Getenv("TEST_POSTGRES_IMAGE"); named != "" {
		images = []string{named}
	}
	for _, image := range images {
		if exec.CommandContext(ctx, "docker", "image", "inspect", image).Run() == nil {
			return true
		}
	}
	return false
}

func TestLife(t *testing.T) {
	for name, start := range backends(t) {
		t.Run(name, func(t *testing.T) {
			dir := sharedDir(t)
			c, err := start(t.Context(), throwaway.Options{Dir: dir, Settings: map[string]string{
				"application_name": `it's a \ test`,
				"max_wal_senders":  "7",
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if !strings.HasPrefix(c.Version(), fmt.Sprint(c.Major())) || c.Major() < 10 {
				t.Errorf("version %q, major %d", c.Version(), c.Major())
			}
			if host, _, _ := net.SplitHostPort(c.Addr()); host != "127.0.0.1" {
				t.Errorf("address %s", c.Addr())
			}
			for name, want := range map[string]string{
				"wal_level": "logical", "max_wal_senders": "7", "max_replication_slots": "50", "fsync": "off", "timezone": "UTC",
				"application_name": `it's a \ test`, "server_encoding": "UTF8", "password_encryption": "scram-sha-256",
			} {
				if got := query(t, c.DSN(""), "SHOW "+name); got != want {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
			wrong := strings.Replace(c.DSN(""), "postgres:", "postgres:x", 2)
			if conn, err := pgx.Connect(t.Context(), wrong); err == nil {
				conn.Close(t.Context())
				t.Error("a wrong password was taken")
			} else if strings.Contains(err.Error(), "refused") {
				t.Errorf("want a refusal of the password, got %v", err)
			}

			query(t, c.DSN(""), "WITH x AS (SELECT pg_create_logical_replication_slot('keeps', 'pgoutput')) SELECT 'made' FROM x")
			addr := c.Addr()
			for _, mode := range []throwaway.Mode{throwaway.Fast, throwaway.Immediate} {
				if err := c.Stop(t.Context(), mode); err != nil {
					t.Fatal(err)
				}
				if !refused(addr) {
					t.Errorf("after a %s stop somebody listens on %s", mode, addr)
				}
				if err := c.Stop(t.Context(), mode); err != nil {
					t.Errorf("second stop: %v", err)
				}
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := query(t, c.DSN(""), "SELECT slot_name FROM pg_replication_slots"); got != "keeps" {
					t.Errorf("after a %s stop: slot %q", mode, got)
				}
			}
			if err := c.Restart(t.Context(), throwaway.Fast); err != nil {
				t.Fatal(err)
			}
			if c.Addr() != addr {
				t.Errorf("the address moved from %s to %s", addr, c.Addr())
			}

			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("second close: %v", err)
			}
			if err := c.Start(t.Context()); err == nil {
				t.Error("a closed server started")
			}
			empty(t, dir)
			if !refused(addr) {
				t.Errorf("after Close somebody listens on %s", addr)
			}
		})
	}
}

// A receiver that confirms nothing holds up a fast stop (fact F15): the stop must give up with its ctx, and Close must not care.
func TestFastStopHeldUp(t *testing.T) {
	dir := sharedDir(t)
	c, err := throwaway.StartAny(t.Context(), throwaway.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	query(t, c.DSN(""), "WITH x AS (SELECT pg_create_logical_replication_slot('silent', 'pgoutput')) SELECT 'made' FROM x")
	query(t, c.DSN(""), "SELECT pg_logical_emit_message(true, 'x', 'y')::text")
	conn, err := pgx.Connect(t.Context(), c.DSN("")+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	// The answer to START_REPLICATION is never read, so Exec is the wrong call: send it and leave it.
	conn.PgConn().Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION SLOT silent LOGICAL 0/0 (proto_version '1', publication_names 'p')"})
	if err := conn.PgConn().Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.PgConn().ReceiveMessage(t.Context()); err != nil { // CopyBothResponse: the stream runs
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := c.Stop(ctx, throwaway.Fast); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	empty(t, dir)
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	for _, after := range []time.Duration{time.Nanosecond, 50 * time.Millisecond, 300 * time.Millisecond} {
		dir := sharedDir(t)
		ctx, cancel := context.WithTimeout(t.Context(), after)
		c, err := throwaway.StartAny(ctx, throwaway.Options{Dir: dir})
		cancel()
		if err == nil {
			c.Close()
			t.Logf("started within %s", after)
		}
		empty(t, dir)
	}
}

func TestStartFails(t *testing.T) {
	dir := sharedDir(t)
	t.Run("bad setting", func(t *testing.T) {
		_, err := throwaway.StartAny(t.Context(), throwaway.Options{Dir: dir, Settings: map[string]string{"wal_level": "enough"}})
		if err == nil || !strings.Contains(err.Error(), "wal_level") {
			t.Errorf("got %v, want what the server says of wal_level", err)
		}
		empty(t, dir)
	})
	t.Run("impossible setting", func(t *testing.T) {
		_, err := throwaway.StartAny(t.Context(), throwaway.Options{Dir: dir, Settings: map[string]string{"a b": "c"}})
		if err == nil || !strings.Contains(err.Error(), `"a b"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("port taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, err = throwaway.StartAny(t.Context(), throwaway.Options{Dir: dir, Port: l.Addr().(*net.TCPAddr).Port})
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "address already in use") {
			t.Errorf("got %v", err)
		}
		empty(t, dir)
	})
	t.Run("no binaries", func(t *testing.T) {
		_, err := throwaway.Start(t.Context(), throwaway.Options{Dir: dir, Bin: filepath.Join(dir, "bin")})
		if err == nil {
			t.Error("a server started from nothing")
		}
		empty(t, dir)
	})
	t.Run("no such image", func(t *testing.T) {
		_, err := throwaway.StartDocker(t.Context(), throwaway.Options{Image: "tuzhan-cdc-no-such-image:0"})
		if err == nil {
			t.Error("a server started from nothing")
		}
	})
	t.Run("directory of root's own", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Log("not root: the server runs as ourselves, and there is nothing to refuse")
			return
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := throwaway.Start(t.Context(), throwaway.Options{Dir: dir, Bin: "/bin"})
		if err == nil || !strings.Contains(err.Error(), "not open to user") {
			t.Errorf("got %v", err)
		}
	})
}

// The owner is killed with SIGKILL: the server must go, and with it the directory.
func TestServerDiesWithItsOwner(t *testing.T) {
	for kind := range backends(t) {
		t.Run(kind, func(t *testing.T) {
			dir := sharedDir(t)
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), victim+"="+kind, "VICTIM_DIR="+dir)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			addr := strings.TrimSpace(line)
			if err != nil || refused(addr) {
				t.Fatalf("the victim said %q (%v), and its server does not answer", line, err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed, as it should be

			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			deadline := time.After(30 * time.Second)
			for {
				entries, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				if len(entries) == 0 && refused(addr) {
					return
				}
				select {
				case <-deadline:
					t.Fatalf("30 s after its owner the server is still there: %v, %s refuses: %v", entries, addr, refused(addr))
				case <-tick.C:
				}
			}
		})
	}
}
