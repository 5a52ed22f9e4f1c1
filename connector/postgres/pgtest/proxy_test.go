package pgtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// echo listens on 127.0.0.1 and sends back what it gets, until the test ends.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		tasks.Wait()
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// exchange sends text and wants it back.
func exchange(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	expect(t, conn, text)
}

func expect(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v, want %q", got, err, text)
	}
}

// silent fails if anything arrives within a tenth of a second.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %d bytes, %v, want silence", n, err)
	}
}

func wantReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %v, want a reset", err)
	}
}

func TestProxyFaults(t *testing.T) {
	p := Proxy(t, echo(t))
	conn := dial(t, p.Addr())
	exchange(t, conn, "through")

	p.Pause()
	if _, err := io.WriteString(conn, "waits"); err != nil {
		t.Fatal(err)
	}
	late := dial(t, p.Addr())
	if _, err := io.WriteString(late, "too"); err != nil {
		t.Fatal(err)
	}
	silent(t, conn)
	silent(t, late)
	p.Pause()
	p.Resume()
	p.Resume()
	expect(t, conn, "waits")
	expect(t, late, "too")

	p.Cut()
	wantReset(t, conn)
	wantReset(t, late)
	conn = dial(t, p.Addr())
	exchange(t, conn, "again")

	p.Refuse()
	wantReset(t, conn)
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want a refusal", err)
	}
	p.Refuse()
	p.Heal(t)
	p.Heal(t)
	exchange(t, dial(t, p.Addr()), "healed")

	p.Pause()
	dial(t, p.Addr())
	p.Cut()
	p.Heal(t)
	exchange(t, dial(t, p.Addr()), "healed from a pause")
}

func TestProxyPassesTheEndOn(t *testing.T) {
	p := Proxy(t, echo(t))
	conn := dial(t, p.Addr())
	if _, err := io.WriteString(conn, "last words"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "last words" {
		t.Errorf("got %q, %v", got, err)
	}
}

// A pause in the middle of a large transfer, with writes blocked on both sides, neither hangs nor loses a byte.
func TestProxyPauseLosesNothing(t *testing.T) {
	p := Proxy(t, echo(t))
	conn := dial(t, p.Addr())
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB: more than all buffers on the way
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- err
	}()
	got := make([]byte, 0, len(sent))
	part := make([]byte, 1<<20)
	for len(got) < len(sent) {
		n, err := conn.Read(part)
		if err != nil {
			t.Fatal(err)
		}
		before := len(got) >> 21
		got = append(got, part[:n]...)
		if len(got)>>21 != before {
			p.Pause()
			p.Resume()
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what came back is not what was sent")
	}
}

func TestProxyWithoutTarget(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := l.Addr().String()
	l.Close()
	p := Proxy(t, target)
	conn, err := net.Dial("tcp", p.Addr())
	if errors.Is(err, syscall.ECONNRESET) {
		return // so soon that connect tells it
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantReset(t, conn)
}

func TestDatabaseThroughProxy(t *testing.T) {
	db := Server(t).Database(t)
	p := Proxy(t, db.Server().Addr())
	conn, err := pgx.Connect(t.Context(), db.Through(p))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var name string
	if err := conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&name); err != nil || name != db.Name() {
		t.Errorf("got %q, %v", name, err)
	}
	p.Cut()
	if err := conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&name); err == nil {
		t.Error("the connection lives on after Cut")
	}
}
