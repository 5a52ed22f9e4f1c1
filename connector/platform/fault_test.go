package platform

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestNothingLeft has the failures that prove that nothing was applied.
func TestNothingLeft(t *testing.T) {
	short := withTimeout(50 * time.Millisecond)
	silent := raw(t, func(_ int, c net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	hangUp := raw(t, func(_ int, c net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() })
	secure := httptest.NewTLSServer(answer(200, delivered))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(secure.Close)
	plain := serve(t, answer(200, delivered))

	for _, tc := range []struct {
		name string
		base string
		edit func(*Config)
		dial error  // of the dialer; nil: the real one
		want string // in the error
	}{
		{name: "connection refused", base: "http://" + closedPort(t), want: "connection refused"},
		{name: "name not found", base: "http://platform.invalid", want: "host platform.invalid: no such host. Check the host",
			dial: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "platform.invalid", IsNotFound: true}}},
		{name: "dial time-out", base: "http://127.0.0.1:1", want: "no connection in time", dial: &net.OpError{Op: "dial", Err: context.DeadlineExceeded}},
		{name: "unknown dial error", base: "http://127.0.0.1:1", want: "no connection", dial: errors.New("leak " + testToken)},
		{name: "TLS handshake never answered", base: "https://" + silent, edit: short, want: "no connection "},
		{name: "TLS handshake cut", base: "https://" + hangUp},
		{name: "certificate not trusted", base: secure.URL, want: "SSL_CERT_FILE"},
		{name: "no TLS there", base: strings.Replace(plain, "http:", "https:", 1), want: "does not speak TLS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newClient(t, tc.base+"/p", func(cfg *Config) {
				cfg.Paths.Point = "/point?key=leak"
				if tc.edit != nil {
					tc.edit(cfg)
				}
			})
			if tc.dial != nil {
				c.transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, tc.dial }
			}
			a := c.Send(t.Context(), pointRequest())
			wantOutage(t, a, true)
			if !strings.Contains(a.Err.Error(), tc.want) || !strings.Contains(a.Err.Error(), "POST "+tc.base+"/p/point:") {
				t.Errorf("got %q, want %q in it", a.Err, tc.want)
			}
		})
	}
}

func TestCancelledBefore(t *testing.T) {
	c := newClient(t, serve(t, answer(200, delivered)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := c.Send(ctx, pointRequest())
	wantOutage(t, a, true)
	if !errors.Is(a.Err, context.Canceled) {
		t.Errorf("%v is not context.Canceled", a.Err)
	}
}

// TestBytesLeft has the failures after which a point is uncertain: the request had begun to leave.
func TestBytesLeft(t *testing.T) {
	for _, tc := range []struct {
		name   string
		reply  string // written after the request was read
		hang   bool   // the connection stays open then
		cut    bool   // the server cuts after the first bytes of the request
		status int
		want   string
	}{
		{name: "cut in the request", cut: true},
		{name: "cut after the request"},
		{name: "time-out", hang: true, want: "no answer within the platform.timeout of 100ms"},
		{name: "no HTTP", reply: "leak SSH-2.0\r\n\r\n", want: "no HTTP/1.1"},
		{name: "cut in the head", reply: "HTTP/1.1 200 OK\r\nContent-"},
		{name: "cut in the answer", reply: "HTTP/1.1 200 OK\r\nContent-Length: 59\r\n\r\n" + delivered[:20], status: 200, want: "cut before the answer was complete"},
		{name: "time-out in the answer", reply: "HTTP/1.1 200 OK\r\nContent-Length: 59\r\n\r\n{", hang: true, status: 200, want: "no answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var seen atomic.Int32
			addr := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				if tc.cut {
					seen.Add(1)
					_, _ = r.ReadByte()
					return
				}
				if _, err := readRequest(r); err == nil {
					seen.Add(1)
				}
				_, _ = io.WriteString(c, tc.reply)
				if tc.hang {
					_, _ = r.ReadByte()
				}
			})
			timeout := 5 * time.Second
			if tc.hang {
				timeout = 100 * time.Millisecond
			}
			c := newClient(t, "http://"+addr, withTimeout(timeout))
			a := c.Send(t.Context(), pointRequest())
			wantOutage(t, a, false)
			if a.HTTPStatus != tc.status || !strings.Contains(a.Err.Error(), tc.want) {
				t.Errorf("got HTTP %d, %v; want %d and %q", a.HTTPStatus, a.Err, tc.status, tc.want)
			}
			if n := seen.Load(); n != 1 {
				t.Errorf("the server saw %d requests, want 1", n)
			}
		})
	}
}

func TestCancelledInFlight(t *testing.T) {
	arrived := make(chan struct{})
	addr := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		_, _ = readRequest(r)
		close(arrived)
		_, _ = r.ReadByte()
	})
	c := newClient(t, "http://"+addr)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	a := c.Send(ctx, pointRequest())
	wantOutage(t, a, false)
	if !errors.Is(a.Err, context.Canceled) {
		t.Errorf("%v is not context.Canceled", a.Err)
	}
}

// An answer that comes before the request has left in full counts.
func TestEarlyAnswer(t *testing.T) {
	addr := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			writeAnswer(c, 413, "")
		}
		_, _ = io.Copy(io.Discard, r)
	})
	c := newClient(t, "http://"+addr)
	req := eventRequest(1)
	req.Records[0].Payload = []byte(`"` + strings.Repeat("x", 8<<20) + `"`)
	if a := c.Send(t.Context(), req); a.Verdict != connector.TooBig || !a.NotApplied {
		t.Errorf("got %v, not applied %v: %v", a.Verdict, a.NotApplied, a.Err)
	}
}

// dying is a connection whose writes end when it is told so.
type dying struct {
	net.Conn
	after *atomic.Int64 // bytes that still leave; negative: no end
}

func (d *dying) Write(b []byte) (int, error) {
	left := d.after.Load()
	if left < 0 {
		return d.Conn.Write(b)
	}
	n, _ := d.Conn.Write(b[:min(left, int64(len(b)))])
	d.after.Add(int64(-n))
	return n, &net.OpError{Op: "write", Err: syscall.EPIPE}
}

// A kept connection that the server has closed: without a byte written the request moves to another connection, with one it does not.
func TestStaleConnection(t *testing.T) {
	for _, tc := range []struct {
		name  string
		after int64
		want  connector.Verdict
		dials int
		seen  int
	}{
		{"nothing written", 0, connector.Delivered, 2, 2},
		{"one byte written", 1, connector.Outage, 1, 1},
		{"most of it written", 200, connector.Outage, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var seen, dials atomic.Int32
			c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.ReadAll(r.Body); err == nil {
					seen.Add(1)
					_, _ = io.WriteString(w, delivered)
				}
			}))
			var first atomic.Int64
			first.Store(-1)
			swapDial(c, func(inner net.Conn) net.Conn {
				if dials.Add(1) > 1 {
					return inner
				}
				return &dying{inner, &first}
			})
			if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
				t.Fatal(a.Verdict, a.Err)
			}
			first.Store(tc.after)
			a := c.Send(t.Context(), pointRequest())
			if a.Verdict != tc.want || a.NotApplied {
				t.Errorf("got %v, not applied %v, %v; want %v", a.Verdict, a.NotApplied, a.Err, tc.want)
			}
			if int(dials.Load()) != tc.dials || int(seen.Load()) != tc.seen {
				t.Errorf("%d dials, %d requests seen; want %d, %d", dials.Load(), seen.Load(), tc.dials, tc.seen)
			}
		})
	}
}

// A new connection that takes nothing is no stale one: nothing was applied, and it is the caller who tries again.
func TestNewConnectionTakesNothing(t *testing.T) {
	c := newClient(t, serve(t, answer(200, delivered)))
	var none atomic.Int64
	dials := 0
	swapDial(c, func(inner net.Conn) net.Conn { dials++; return &dying{inner, &none} })
	wantOutage(t, c.Send(t.Context(), pointRequest()), true)
	if dials != 1 {
		t.Errorf("%d dials, want 1", dials)
	}
}

// A server that closes each connection after an answer, as on a keep-alive time-out, and some before one: whatever becomes of a request,
// what Send says of it must be true, and no request may arrive twice.
func TestKeepAliveRace(t *testing.T) {
	var mu sync.Mutex
	applied := map[string]int{}
	addr := raw(t, func(n int, c net.Conn, r *bufio.Reader) {
		for i := 0; ; i++ {
			body, err := readRequest(r)
			if err != nil {
				return
			}
			mu.Lock()
			applied[body]++
			mu.Unlock()
			if i == n%3 {
				if n%5 != 0 {
					writeAnswer(c, 200, delivered)
				}
				return
			}
			writeAnswer(c, 200, delivered)
		}
	})
	c := newClient(t, "http://"+addr)
	var senders sync.WaitGroup
	for s := range 4 {
		senders.Go(func() {
			for i := range 100 {
				payload := fmt.Sprintf(`{"remark":"%d-%d"}`, s, i)
				a := c.Send(t.Context(), &connector.Request{Endpoint: connector.PointEndpoint,
					Records: []*connector.Record{{Kind: connector.Point, Payload: []byte(payload)}}})
				mu.Lock()
				n := applied[payload]
				mu.Unlock()
				switch {
				case n > 1:
					t.Errorf("%s arrived %d times", payload, n)
				case a.Verdict == connector.Delivered && n != 1:
					t.Errorf("%s: delivered, but it never arrived", payload)
				case a.NotApplied && n != 0:
					t.Errorf("%s: not applied, but it arrived: %v", payload, a.Err)
				case a.Verdict != connector.Delivered && a.Verdict != connector.Outage:
					t.Errorf("%s: %v", payload, a.Verdict)
				}
			}
		})
	}
	senders.Wait()
}

// open is a connection that still takes bytes after Close.
type open struct{ net.Conn }

func (open) Write(b []byte) (int, error) { return len(b), nil }
func (open) Close() error                { return nil }

// What is proven must stay true: nothing is written after seal.
func TestSeal(t *testing.T) {
	c := &conn{Conn: open{}}
	if _, err := c.Write([]byte("before")); err != nil || c.mark() != 6 {
		t.Fatalf("%v, mark %d", err, c.mark())
	}
	if c.seal(5) {
		t.Error("a byte was written since 5, but seal says none")
	}
	c = &conn{Conn: open{}}
	if !c.seal(0) {
		t.Error("nothing was written, but seal says something")
	}
	if n, err := c.Write([]byte("late")); n != 0 || err == nil || c.mark() != 0 {
		t.Errorf("a write after seal: %d, %v", n, err)
	}
}

// Through a proxy, TLS stands around the counting connection.
func TestProxy(t *testing.T) {
	var seen atomic.Int32
	platform := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		if seen.Load() == 1 {
			_, _ = io.WriteString(w, delivered)
			return
		}
		panic(http.ErrAbortHandler) // cut
	}))
	t.Cleanup(platform.Close)
	proxy := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", req.Host)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		done := make(chan struct{})
		go func() { _, _ = io.Copy(c, up); c.Close(); close(done) }()
		_, _ = io.Copy(up, r)
		up.Close()
		<-done
	})
	through := func(c *Client, addr string) {
		c.transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: addr, User: url.UserPassword("me", testSecret)})
		c.transport.TLSClientConfig = platform.Client().Transport.(*http.Transport).TLSClientConfig
	}
	c := newClient(t, platform.URL)
	through(c, proxy)
	if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
		t.Fatal(a.Verdict, a.Err)
	}
	wantOutage(t, c.Send(t.Context(), pointRequest()), false)
	if n := seen.Load(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}

	refusing := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, "HTTP/1.1 407 leak this\r\n\r\n")
	})
	c = newClient(t, platform.URL)
	through(c, refusing)
	a := c.Send(t.Context(), pointRequest())
	wantOutage(t, a, true)
}

// TLS without a proxy, as in use: the count stands outside TLS.
func TestTLS(t *testing.T) {
	var cut atomic.Bool
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("spoke %s", r.Proto)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if cut.Load() {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, delivered)
	}))
	t.Cleanup(s.Close)
	c := newClient(t, s.URL)
	c.transport.TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
	for range 3 {
		if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
			t.Fatal(a.Verdict, a.Err)
		}
	}
	cut.Store(true)
	wantOutage(t, c.Send(t.Context(), pointRequest()), false)
}
