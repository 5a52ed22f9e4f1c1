package platform

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// These are the rows of the table that are about the wire itself, over real sockets.

// A reused connection on which the server reads the whole request and hangs up: net/http would send a request again that it takes for
// repeatable (one with a GetBody and an Idempotency-Key). A point must not be.
func TestReusedConnectionCutAfterRequest(t *testing.T) {
	var seen, conns atomic.Int32
	addr := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		conns.Add(1)
		for {
			if _, err := readRequest(r); err != nil {
				return
			}
			if seen.Add(1) == 2 {
				return
			}
			writeAnswer(c, 200, delivered)
		}
	})
	c := newClient(t, "http://"+addr)
	if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
		t.Fatal(a.Verdict, a.Err)
	}
	wantOutage(t, c.Send(t.Context(), pointRequest()), false)
	if seen.Load() != 2 || conns.Load() != 1 {
		t.Errorf("%d requests on %d connections, want 2 on 1", seen.Load(), conns.Load())
	}
}

// A server that closes its idle connections at once, as at the end of a keep-alive: whether the client has seen the end or not, each request is
// applied once, and nothing is uncertain that was not sent.
func TestIdleConnectionClosedByServer(t *testing.T) {
	closed := make(chan struct{}, 1)
	var mu sync.Mutex
	applied := map[string]int{}
	addr := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		body, err := readRequest(r)
		if err != nil {
			return
		}
		mu.Lock()
		applied[body]++
		mu.Unlock()
		writeAnswer(c, 200, delivered)
		c.Close()
		closed <- struct{}{}
	})
	c := newClient(t, "http://"+addr)
	for i := range 50 {
		req := pointRequest()
		req.Records[0].Payload = fmt.Appendf(nil, `{"remark":"%d"}`, i)
		a := c.Send(t.Context(), req)
		if a.Verdict == connector.Delivered {
			<-closed // the next request meets a connection that the server has closed
		} else if a.Verdict != connector.Outage {
			t.Fatal(a.Verdict, a.Err)
		}
		mu.Lock()
		n := applied[string(req.Records[0].Payload)]
		mu.Unlock()
		if n > 1 || a.Verdict == connector.Delivered && n != 1 || a.NotApplied && n != 0 {
			t.Errorf("request %d: %v, not applied %v, arrived %d times", i, a.Verdict, a.NotApplied, n)
		}
	}
}

// A large body of which a part was written when the server cut the connection off.
func TestBodyPartlyWritten(t *testing.T) {
	var began atomic.Int32
	addr := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		began.Add(1)
		_, _ = io.CopyN(io.Discard, r, 64<<10)
		_ = c.(*net.TCPConn).SetLinger(0) // the close is a reset
	})
	c := newClient(t, "http://"+addr)
	req := pointRequest()
	req.Records[0].Payload = []byte(`{"remark":"` + strings.Repeat("x", 16<<20) + `"}`)
	wantOutage(t, c.Send(t.Context(), req), false)
	if began.Load() != 1 {
		t.Errorf("%d requests began, want 1", began.Load())
	}
}

// The client never asks for leave (Expect: 100-continue), so no body waits for it; interim answers that come unasked are passed over, and an end after
// one is an end without an answer.
func TestInterimAnswers(t *testing.T) {
	for _, tc := range []struct {
		name, interim, final string
		want                 connector.Verdict
	}{
		{"100 and an answer", "HTTP/1.1 100 Continue\r\n\r\n", delivered, connector.Delivered},
		{"103 and an answer", "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", delivered, connector.Delivered},
		{"100 and an end", "HTTP/1.1 100 Continue\r\n\r\n", "", connector.Outage},
		{"101", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "", connector.Outage},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var seen atomic.Int32
			addr := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				seen.Add(1)
				if e := req.Header.Get("Expect"); e != "" {
					t.Errorf("Expect: %s", e)
				}
				_, _ = io.WriteString(c, tc.interim)
				_, _ = io.Copy(io.Discard, req.Body)
				if tc.final != "" {
					writeAnswer(c, 200, tc.final)
				}
			})
			a := newClient(t, "http://"+addr).Send(t.Context(), pointRequest())
			if a.Verdict != tc.want || a.NotApplied || seen.Load() != 1 {
				t.Errorf("%v, not applied %v, %d requests: %v", a.Verdict, a.NotApplied, seen.Load(), a.Err)
			}
			wantClean(t, a.Err)
		})
	}
}

// HTTP/2 is never spoken, directly or through a proxy, though the server offers it: there GOAWAY and REFUSED_STREAM would let net/http send a request again
// by itself. A server that speaks it unasked has sent no answer.
func TestNoHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("spoke %s", r.Proto)
		}
		answer(200, delivered)(w, r)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	tunnel := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
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
	for _, proxy := range []*url.URL{nil, {Scheme: "http", Host: tunnel}} {
		c := newClient(t, s.URL)
		c.transport.TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		c.transport.TLSClientConfig.NextProtos = nil
		c.transport.Proxy = http.ProxyURL(proxy)
		if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
			t.Errorf("proxy %v: %v %v", proxy, a.Verdict, a.Err)
		}
		c.Close()
	}

	var seen atomic.Int32
	goaway := "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x08\x07\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" // SETTINGS, GOAWAY that saw no stream
	addr := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readRequest(r); err == nil {
			seen.Add(1)
			_, _ = io.WriteString(c, goaway)
		}
	})
	wantOutage(t, newClient(t, "http://"+addr).Send(t.Context(), pointRequest()), false)
	if seen.Load() != 1 {
		t.Errorf("%d requests, want 1", seen.Load())
	}
}

// A name that a real name server does not know.
func TestNameNotFound(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		query := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(query)
			if err != nil {
				return
			}
			query[2], query[3] = 0x81, 0x83 // the question as the answer: NXDOMAIN
			query[10], query[11] = 0, 0
			end := 12
			for end < n && query[end] != 0 {
				end += int(query[end]) + 1
			}
			_, _ = server.WriteTo(query[:end+5], from)
		}
	}()
	t.Cleanup(func() { server.Close(); <-done })
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
	c := newClient(t, "http://platform.invalid")
	c.transport.DialContext = (&net.Dialer{Resolver: resolver}).DialContext
	a := c.Send(t.Context(), pointRequest())
	wantOutage(t, a, true)
	if !strings.Contains(a.Err.Error(), "host platform.invalid: no such host. Check the host") {
		t.Error(a.Err)
	}
}

// A connection that is reset while it is made, before a byte was written.
func TestResetWhileConnecting(t *testing.T) {
	c := newClient(t, "https://"+raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		_, _ = r.ReadByte()
		_ = c.(*net.TCPConn).SetLinger(0)
	}))
	a := c.Send(t.Context(), pointRequest())
	wantOutage(t, a, true)
	if !errors.Is(a.Err, syscall.ECONNRESET) && !errors.Is(a.Err, io.ErrUnexpectedEOF) {
		t.Error(a.Err)
	}
}

// HTTPS_PROXY, HTTP_PROXY and NO_PROXY are honoured. What a proxy answers in the platform's place is read by the same table, but 407 blames the set-up.
func TestProxySettings(t *testing.T) {
	c := newClient(t, "http://platform.invalid")
	if reflect.ValueOf(c.transport.Proxy).Pointer() != reflect.ValueOf(http.ProxyFromEnvironment).Pointer() {
		t.Error("the environment's proxies are not asked for")
	}
	for _, tc := range []struct {
		status     int
		want       connector.Verdict
		notApplied bool
	}{{407, connector.SetupWrong, true}, {502, connector.Outage, false}, {504, connector.Outage, false}} {
		proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Host != "platform.invalid" {
				t.Errorf("asked for %s", r.URL)
			}
			answer(tc.status, "leak")(w, r)
		})
		u, err := url.Parse(proxy)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, "http://platform.invalid")
		c.transport.Proxy = http.ProxyURL(u)
		if a := c.Send(t.Context(), pointRequest()); a.Verdict != tc.want || a.NotApplied != tc.notApplied {
			t.Errorf("%d: %v, not applied %v, %v", tc.status, a.Verdict, a.NotApplied, a.Err)
		}
	}
}
