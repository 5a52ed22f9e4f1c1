package postgres

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"net"
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

// TestGather: the window shrinks where a pause does not fill it, grows where reads go on finding much, and a message that stops in its middle again and again ends
// bursts. No bytes are lost by any of it, and the smallest window halts nothing, whatever window there was before.
func TestGather(t *testing.T) {
	if !canNarrow {
		t.Skip("this system reads nothing in bursts")
	}
	server, client := narrowedPair(t)
	f := burstsOf(client)
	if f.raw == nil || burstsOf(struct{ net.Conn }{client}).raw != nil {
		t.Fatal("TCP on loopback is not read in bursts, or what is not known to be that is")
	}
	gather := func(got int) {
		t.Helper()
		if err := f.gather(got, false); err != nil {
			t.Fatal(err)
		}
	}
	// A window of the system's own was offered, and used, before.
	const all = 4 << 20
	sum := sha256.New()
	sent := make(chan error, 1)
	go func() {
		random := rand.New(rand.NewPCG(1, 2))
		var err error
		for n := 0; n < all && err == nil; {
			piece := make([]byte, min(1+random.IntN(5000), all-n))
			for i := range piece {
				piece[i] = byte(random.Uint32())
			}
			n += len(piece)
			sum.Write(piece)
			_, err = server.Write(piece)
		}
		sent <- err
	}()
	came, buf, seen := sha256.New(), make([]byte, framesBuffer), map[int]bool{}
	for n := 0; n < all; {
		_ = client.SetReadDeadline(time.Now().Add(time.Minute))
		got, err := client.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		n += got
		came.Write(buf[:got])
		if n < all/4 {
			continue
		}
		if len(seen) == 0 || seen[leastWindow] {
			gather(got)
		} else {
			f.full = 0
			if err := f.resize(leastWindow); err != nil { // all at once, from the widest
				t.Fatal(err)
			}
		}
		seen[f.window] = true
	}
	if err := <-sent; err != nil || !bytes.Equal(came.Sum(nil), sum.Sum(nil)) {
		t.Fatalf("what came is not what was sent: %v", err)
	}
	if before := f.window; f.gather(100, true) != nil || f.window != before {
		t.Error("a wide message changes the window")
	}
	for range 10 {
		gather(100)
	}
	if f.window != leastWindow {
		t.Errorf("after pauses in which nothing came the window is %d", f.window)
	}
	for range 10 * growAfter {
		gather(burstLeast)
	}
	if f.window != mostWindow {
		t.Errorf("after reads that brought much the window is %d", f.window)
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
