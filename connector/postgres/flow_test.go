package postgres

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestFlowRuns: rows now and then are no flow, at whatever size a transaction of some rows has; a backlog is one, and is over soon behind it.
func TestFlowRuns(t *testing.T) {
	at := time.Unix(1000, 0)
	var f flow
	read := 0
	step := func(after time.Duration, bytes int) bool {
		at, read = at.Add(after), read+bytes
		return f.runs(at, read)
	}
	for i := range 1000 {
		if step(10*time.Millisecond, 400) {
			t.Fatalf("100 rows a second flow at row %d", i)
		}
	}
	for i := range 1000 {
		if step(10*time.Millisecond, 6000) {
			t.Fatalf("100 transactions of 20 rows a second flow at transaction %d", i)
		}
	}
	flows := 0
	for range 100 {
		if step(100*time.Microsecond, 300) { // 10,000 a second
			flows++
		}
	}
	if flows < 50 {
		t.Errorf("a backlog of single rows flows %d times of 100", flows)
	}
	if step(25*time.Millisecond, 300) {
		t.Error("it flows when it is over")
	}
}

// narrowedPair gives both ends of a TCP connection on loopback, with the segments that a small window needs.
func narrowedPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg, err := pgconn.ParseConfig("postgres://127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	setDialerFor(cfg, true)
	if client, err = cfg.DialFunc(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

// TestGather: a server that sends little at a time makes the stream pause, and the window shrink; one that has much to send makes it grow; and a message that stops
// in its middle again and again ends bursts. No byte is lost by any of it, and the smallest window halts nothing, whatever window there was before.
func TestGather(t *testing.T) {
	if !canNarrow {
		t.Skip("this system reads nothing in bursts")
	}
	server, client := narrowedPair(t)
	f := burstsOf(client)
	if f.raw == nil || burstsOf(struct{ net.Conn }{client}).raw != nil {
		t.Fatal("TCP on loopback is not read in bursts, or what is not known to be that is")
	}
	sent, came, buf := sha256.New(), sha256.New(), make([]byte, framesBuffer)
	random := rand.New(rand.NewPCG(1, 2))
	write := func(n int) error {
		piece := make([]byte, n)
		for i := range piece {
			piece[i] = byte(random.Uint32())
		}
		sent.Write(piece)
		_, err := server.Write(piece)
		return err
	}
	read := func() int {
		t.Helper()
		_ = client.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := client.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		came.Write(buf[:n])
		if err := f.gather(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	// The server has more than goes in, through the system's own window first, and then through the smallest.
	const much = 32 << 20
	written := make(chan error, 1)
	go func() {
		var err error
		for n := 0; n < much && err == nil; n += 64 << 10 {
			err = write(64 << 10)
		}
		written <- err
	}()
	most := 0
	for n, narrow := 0, false; n < much; n += read() {
		if !narrow && n > much/8 {
			narrow = true
			if err := f.resize(leastWindow); err != nil {
				t.Fatal(err)
			}
		}
		if narrow {
			most = max(most, f.window)
		}
	}
	if err := <-written; err != nil || most <= leastWindow {
		t.Errorf("a server that has much to send: %v, the window was %d at most", err, most)
	}
	// A row at a time.
	pauses := 0
	for range 100 {
		for range 3 {
			if err := write(300); err != nil {
				t.Fatal(err)
			}
		}
		for n := 0; n < 900; {
			n += read()
			if f.fresh {
				pauses++
			}
		}
	}
	if pauses < 10 || f.window != leastWindow {
		t.Errorf("a server that sends a row at a time: %d pauses, and the window is %d", pauses, f.window)
	}
	if !bytes.Equal(came.Sum(nil), sent.Sum(nil)) {
		t.Error("what came is not what was sent")
	}
	var err error
	n := 0
	for ; err == nil && n < 2*haltsMost; n++ {
		err = f.halted()
	}
	if !errors.Is(err, errHalted) || n != haltsMost || f.raw != nil {
		t.Fatalf("a server that halts: %v after %d, %+v", err, n, f)
	}
	if err := f.halted(); err != nil {
		t.Errorf("bursts end twice: %v", err)
	}
}

// TestPartlyCame: a message that stops in its middle for a tick, three times, ends bursts, and is counted; one that goes on, and silence between two messages, do not.
func TestPartlyCame(t *testing.T) {
	if !canNarrow {
		t.Skip("this system reads nothing in bursts")
	}
	_, client := narrowedPair(t)
	var told bytes.Buffer
	src := &Source{log: slog.New(slog.NewTextHandler(&told, nil))}
	f := &frames{buf: make([]byte, framesBuffer)}
	s := &stream{src: src, frames: f, flow: burstsOf(client)}
	if err := s.flow.resize(leastWindow); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	come := func(b ...byte) { f.end += copy(f.buf[f.end:], b); f.read += len(b) }
	pass := func(ticks int) {
		for range ticks {
			now = now.Add(tick)
			s.partly(now)
		}
	}
	pass(10) // silence
	come('d', 0, 0, 0, 9)
	pass(1)
	for range 4 { // slow, but it goes on
		come(1)
		pass(1)
	}
	come(1) // all of it is here
	pass(10)
	if src.fallbacks.Load() != 0 {
		t.Fatal("bursts end without a halt")
	}
	f.start = f.end // it is read
	come('d', 0, 0)
	pass(haltsMost)
	if s.flow.raw == nil {
		t.Fatal("bursts end too soon")
	}
	if pass(1); s.flow.raw != nil || src.fallbacks.Load() != 1 || src.inBursts() || !strings.Contains(told.String(), "given up") {
		t.Errorf("%d fallbacks: %s", src.fallbacks.Load(), told.String())
	}
	if pass(10); src.fallbacks.Load() != 1 {
		t.Errorf("%d fallbacks", src.fallbacks.Load())
	}
}

// TestNoBursts: a system that can't do what bursts need is read as it comes.
func TestNoBursts(t *testing.T) {
	if !canNarrow {
		t.Skip("this system reads nothing in bursts")
	}
	_, client := narrowedPair(t)
	f := burstsOf(client)
	if err := f.resize(leastWindow); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if err := f.gather(); err == nil || f.raw != nil {
		t.Fatalf("%v, %+v", err, f)
	}
	if err := f.gather(); err != nil {
		t.Fatal(err)
	}
	for range 2 * haltsMost {
		if err := f.halted(); err != nil {
			t.Fatalf("bursts end twice: %v", err)
		}
	}
}
