package postgres

import (
	"errors"
	"net"
	"testing"
	"time"
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

// pair gives both ends of a TCP connection on loopback.
func pair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	server = <-accepted
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

// TestGather: a wait ends when a burst is there, or in time with what there is; when the flow is over the first byte wakes the reader; and a server that halts
// while the stream waits, again and again, ends bursts.
func TestGather(t *testing.T) {
	if !canWakeLate {
		t.Skip("this system can't wake late")
	}
	server, client := pair(t)
	f := burstsOf(client)
	if f.raw == nil || burstsOf(struct{ net.Conn }{client}).raw != nil {
		t.Fatal("TCP on loopback is not read in bursts, or what is not known to be that is")
	}
	deadline := func(d time.Duration) { _ = client.SetReadDeadline(time.Now().Add(d)) }
	buf := make([]byte, 2*burstBytes)
	write := func(n int) {
		if _, err := server.Write(make([]byte, n)); err != nil {
			t.Error(err)
		}
	}
	read := func() int {
		n, err := client.Read(buf)
		if err != nil && !isTimeout(err) {
			t.Fatal(err)
		}
		return n
	}
	// The whole burst, in pieces: the deadline is far away, so that only the bytes can end the wait.
	go func() {
		for range 16 {
			write(burstBytes / 16)
		}
	}()
	far := func(time.Duration) { deadline(time.Minute) }
	if err := f.gather(far); err != nil || read() < burstBytes {
		t.Fatalf("a burst: %v", err)
	}
	write(100)
	if err := f.gather(deadline); err != nil || read() != 100 {
		t.Fatalf("what there is: %v", err)
	}
	if err := f.calm(); err != nil {
		t.Fatal(err)
	}
	deadline(time.Minute)
	go write(1)
	if n := read(); n != 1 {
		t.Fatalf("the first byte behind the flow: %d", n)
	}
	var err error
	for i := 0; err == nil && i < 2*haltsMost; i++ {
		write(100)
		if err = f.gather(deadline); err == nil {
			read()
		}
	}
	if !errors.Is(err, errHalted) || f.raw != nil || f.least {
		t.Fatalf("a server that halts: %v, %+v", err, f)
	}
	if read() != 100 {
		t.Error("what was there is lost")
	}
}
