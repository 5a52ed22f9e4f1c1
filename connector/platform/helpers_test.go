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
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What must never show in an error.
const (
	testToken  = "token-0123456789"
	testSecret = "secret-9876543210"
	testPhone  = "13800138000"
)

func static(value string) func() (string, error) {
	return func() (string, error) { return value, nil }
}

// newClient makes a client with a static token and a point path.
func newClient(t testing.TB, base string, edit ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{BaseURL: base, Paths: Paths{Point: "/point"}, Token: static(testToken), Timeout: 5 * time.Second}
	for _, f := range edit {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func withTimeout(d time.Duration) func(*Config) { return func(c *Config) { c.Timeout = d } }

// withApp swaps the static token for an app id and secret.
func withApp(c *Config) { c.Token, c.AppID, c.AppSecret = nil, "app-1", static(testSecret) }

// serve runs a handler behind any path.
func serve(t testing.TB, handler http.HandlerFunc) string {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

// answer is a handler that reads the request and answers always the same.
func answer(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func pointRequest() *connector.Request {
	return &connector.Request{Endpoint: connector.PointEndpoint, Records: []*connector.Record{{Kind: connector.Point,
		Payload: []byte(`{"point":5,"remark":"订单","phoneList":[{"phone":"` + testPhone + `","isVerify":"1"}]}`)}}}
}

func eventRequest(n int) *connector.Request {
	req := &connector.Request{Endpoint: connector.EventEndpoint, Envelope: `{"matchingType":1}`}
	for i := range n {
		req.Records = append(req.Records, &connector.Record{Kind: connector.Event, Payload: fmt.Appendf(nil, `{"eventKey":"c_buy","uuid":"%d"}`, i)})
	}
	return req
}

func groupRequest(items ...string) *connector.Request {
	req := &connector.Request{Endpoint: connector.GroupRelationEndpoint, Envelope: `{"isMatching":true,"optType":"add"}`}
	for _, it := range items {
		req.Records = append(req.Records, &connector.Record{Kind: connector.GroupRelation, Payload: []byte(it)})
	}
	return req
}

// wantClean fails when the error shows what it must not.
func wantClean(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, secret := range []string{testToken, testSecret, testPhone, "instanceSecrect", "?", "leak"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error shows %q: %v", secret, err)
		}
	}
}

// wantOutage checks an answer that never came.
func wantOutage(t testing.TB, a connector.Answer, notApplied bool) {
	t.Helper()
	if a.Verdict != connector.Outage || a.NotApplied != notApplied || a.Err == nil {
		t.Errorf("got %v, not applied %v, %v; want an outage, not applied %v", a.Verdict, a.NotApplied, a.Err, notApplied)
	}
	wantClean(t, a.Err)
	var e *Error
	if a.Err != nil && !errors.As(a.Err, &e) {
		t.Errorf("%T is no *Error", a.Err)
	}
}

// raw listens on a free port and runs f for every connection, with its number from 1; it closes them when f returns.
func raw(t testing.TB, f func(n int, c net.Conn, r *bufio.Reader)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu    sync.Mutex
		conns []net.Conn
		all   sync.WaitGroup
	)
	all.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				f(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// readRequest reads one whole request.
func readRequest(r *bufio.Reader) (body string, err error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(req.Body)
	return string(b), err
}

const delivered = `{"code":"200","errorCode":"SUCCESS","msg":"ok","data":true}`

// writeAnswer writes an answer that leaves the connection open.
func writeAnswer(w io.Writer, status int, body string) {
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s", status, http.StatusText(status), len(body), body)
}

// swapDial puts f between the counting connection and the network.
func swapDial(c *Client, f func(net.Conn) net.Conn) {
	dial := c.transport.DialContext
	c.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		got, err := dial(ctx, network, addr)
		if err == nil {
			got.(*conn).Conn = f(got.(*conn).Conn)
		}
		return got, err
	}
}
