package platform

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestRequest compares what goes on the wire with the platform's pages.
func TestRequest(t *testing.T) {
	item := `{"identityType":"phone","phone":"1","groups":"a,b"}`
	noEnvelope := eventRequest(1)
	noEnvelope.Envelope = ""
	decrease := pointRequest()
	decrease.Endpoint = connector.PointDecreaseEndpoint
	for _, tc := range []struct {
		name       string
		req        *connector.Request
		path, body string
	}{
		{"point", pointRequest(), "/pre/point", string(pointRequest().Records[0].Payload)},
		{"point decrease", decrease, "/pre/less?x=1", string(pointRequest().Records[0].Payload)},
		{"event", eventRequest(2), "/pre/api/integrate/event/v2/batchAdd",
			`{"publicParams":{"matchingType":1},"data":[{"eventKey":"c_buy","uuid":"0"},{"eventKey":"c_buy","uuid":"1"}]}`},
		{"event without an envelope", noEnvelope, "/pre/api/integrate/event/v2/batchAdd", `{"publicParams":{},"data":[{"eventKey":"c_buy","uuid":"0"}]}`},
		{"group relation", groupRequest(item, item), "/pre/api/integrate/audience/group/rel/batchAdd",
			`{"publicParams":{"isMatching":true,"optType":"add"},"data":[` + item + `,` + item + `]}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method != "POST" || r.RequestURI != tc.path || string(body) != tc.body || r.ContentLength != int64(len(tc.body)) {
					t.Errorf("got %s %s, %d bytes: %s; want %s: %s", r.Method, r.RequestURI, r.ContentLength, body, tc.path, tc.body)
				}
				h := r.Header
				if h.Get("Content-Type") != "application/json" || h.Get("X-Token") != testToken || h.Get("User-Agent") != "tuzhan-cdc/1.2.3" || h.Get("Idempotency-Key") != "" {
					t.Errorf("headers are %v", h)
				}
				_, _ = io.WriteString(w, `{"code":"200","data":true}`)
			})+"/pre/", func(cfg *Config) {
				cfg.UserAgent = "tuzhan-cdc/1.2.3"
				cfg.Paths.PointDecrease = "less?x=1"
			})
			c.Send(t.Context(), tc.req)
		})
	}
}

// No request begins, nor the second try with a fresh token, unless Config.Lease lets it; nothing has left then.
func TestLease(t *testing.T) {
	requests, asked, refuse := 0, 0, errors.New("the state is away")
	var answer error
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests++
		_, _ = io.WriteString(w, `{"code":"100200"}`)
		answer = refuse
	}), func(cfg *Config) {
		cfg.Lease = func(context.Context) error { asked++; return answer }
	})
	if a := c.Send(t.Context(), pointRequest()); requests != 1 || asked != 2 || a.Verdict != connector.Outage || !a.NotApplied || !errors.Is(a.Err, refuse) {
		t.Errorf("asked %d times, %d requests: %v, not applied %v, %v", asked, requests, a.Verdict, a.NotApplied, a.Err)
	}
	if a := c.Probe(t.Context(), connector.PointEndpoint); requests != 1 || asked != 3 || a.Verdict != connector.Outage {
		t.Errorf("a probe: asked %d times, %d requests: %v", asked, requests, a.Verdict)
	}
}

func TestWrongRequest(t *testing.T) {
	c := newClient(t, "http://"+closedPort(t))
	two := pointRequest()
	two.Records = append(two.Records, two.Records[0])
	noPath := pointRequest()
	noPath.Endpoint = connector.PointDecreaseEndpoint
	for name, req := range map[string]*connector.Request{"no records": eventRequest(0), "two points": two, "no path": noPath, "no endpoint": {}} {
		if a := c.Send(t.Context(), req); a.Verdict != connector.SetupWrong || !a.NotApplied || a.Err == nil {
			t.Errorf("%s: %v, %v", name, a.Verdict, a.Err)
		}
	}
	if a := c.Send(t.Context(), noPath); !strings.Contains(a.Err.Error(), "platform.paths.pointDecrease") {
		t.Error(a.Err)
	}
	if a := c.Probe(t.Context(), connector.PointDecreaseEndpoint); a.Verdict != connector.SetupWrong {
		t.Error(a.Verdict)
	}
}

func TestNew(t *testing.T) {
	ok := Config{BaseURL: "https://integrate.rabbitpre.com", Token: static("x")}
	for _, tc := range []struct {
		name string
		edit func(*Config)
		want string // in the error; empty: none
	}{
		{"least", func(*Config) {}, ""},
		{"app", withApp, ""},
		{"whole URLs", func(c *Config) { c.Paths.Point = "https://points.example.com/increase" }, ""},
		{"no URL", func(c *Config) { c.BaseURL = "" }, "platform.baseURL: want http:// or https://"},
		{"no scheme", func(c *Config) { c.BaseURL = "integrate.rabbitpre.com" }, "platform.baseURL: want http:// or https://"},
		{"another scheme", func(c *Config) { c.BaseURL = "ftp://integrate.rabbitpre.com" }, "platform.baseURL: want http:// or https://"},
		{"no host", func(c *Config) { c.BaseURL = "https:///x" }, "platform.baseURL: the host is missing"},
		{"a password", func(c *Config) { c.BaseURL = "https://me:" + testSecret + "@host" }, "want no user or password"},
		{"a query", func(c *Config) { c.BaseURL = "https://host/?leak=1" }, "want no query"},
		{"broken", func(c *Config) { c.BaseURL = "https://host/%zz" }, "platform.baseURL: no URL"},
		{"a wrong path", func(c *Config) { c.Paths.Event = "ftp://leak" }, "platform.paths.event: want http"},
		{"another wrong path", func(c *Config) { c.Paths.Token = "/x#leak" }, "platform.paths.token: want no #"},
		{"both", func(c *Config) { c.AppID, c.AppSecret = "a", static("b") }, "want either appID and appSecret, or token"},
		{"neither", func(c *Config) { c.Token = nil }, "want either"},
		{"half", func(c *Config) { c.Token, c.AppID = nil, "a" }, "want either"},
		{"app id and token", func(c *Config) { c.AppID = "a" }, "want either"},
		{"time-out", func(c *Config) { c.Timeout = -1 }, "platform.timeout"},
		{"rate", func(c *Config) { c.RequestsPerSecond = -1 }, "platform.requestsPerSecond"},
	} {
		cfg := ok
		tc.edit(&cfg)
		_, err := New(cfg)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
		if err != nil && (strings.Contains(err.Error(), "leak") || strings.Contains(err.Error(), testSecret)) {
			t.Errorf("%s: shows too much: %v", tc.name, err)
		}
	}
	_, err := New(Config{BaseURL: "https://h", Timeout: -1, Paths: Paths{Event: "ftp://x", Point: "ftp://x"}})
	for _, want := range []string{"platform.timeout", "platform.paths.event", "platform.paths.point", "want either"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

// Nothing goes to where a redirect points: not the data, not the token, not the app secret.
func TestRedirectNotFollowed(t *testing.T) {
	var seen atomic.Int32
	elsewhere := serve(t, func(w http.ResponseWriter, r *http.Request) { seen.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		redirect := answer(status, "", "Location", elsewhere+"/new?leak=1")
		c := newClient(t, serve(t, redirect))
		a := c.Send(t.Context(), pointRequest())
		if a.Verdict != connector.SetupWrong || a.HTTPStatus != status || a.Err == nil || !strings.Contains(a.Err.Error(), "redirects to "+elsewhere+"/new;") {
			t.Errorf("%d: %v, %v", status, a.Verdict, a.Err)
		}
		wantClean(t, a.Err)
		c = newClient(t, serve(t, redirect), withApp)
		a = c.Send(t.Context(), pointRequest())
		if a.Verdict != connector.SetupWrong {
			t.Errorf("%d on the token call: %v, %v", status, a.Verdict, a.Err)
		}
		wantClean(t, a.Err)
	}
	if n := seen.Load(); n != 0 {
		t.Errorf("the other server saw %d requests", n)
	}
}

func TestProbe(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		body   string
		want   connector.Verdict
	}{
		{"rejected", 200, `{"code":"400","msg":"point is missing"}`, connector.Delivered},
		{"rejected by status", 400, `{"code":"400"}`, connector.Delivered},
		{"taken", 200, `{"code":"200","data":false}`, connector.Delivered},
		{"token", 200, `{"code":"100200"}`, connector.TokenRefused},
		{"401", 401, ``, connector.TokenRefused},
		{"secret", 200, `{"code":"100100"}`, connector.SetupWrong},
		{"404", 404, `<html>`, connector.SetupWrong},
		{"slow down", 429, ``, connector.SlowDown},
		{"500", 500, `{"code":"400"}`, connector.Outage},
		{"502", 502, `<html>`, connector.Outage},
		{"code 500", 200, `{"code":"500"}`, connector.Outage},
		{"HTML", 200, `<html>`, connector.Outage},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				if b, _ := io.ReadAll(r.Body); string(b) != "{}" {
					t.Errorf("the body is %q", b)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			if a := c.Probe(t.Context(), connector.PointEndpoint); a.Verdict != tc.want {
				t.Errorf("got %v, want %v", a.Verdict, tc.want)
			}
		})
	}
	c := newClient(t, "http://"+closedPort(t))
	wantOutage(t, c.Probe(t.Context(), connector.PointEndpoint), true)
}

func TestRateLimit(t *testing.T) {
	var seen atomic.Int32
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen.Add(1)
		_, _ = io.WriteString(w, delivered)
	}), func(cfg *Config) { cfg.RequestsPerSecond = 0.001 })
	if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
		t.Fatal(a.Verdict, a.Err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	a := c.Send(ctx, pointRequest())
	wantOutage(t, a, true)
	if !errors.Is(a.Err, context.Canceled) || seen.Load() != 1 {
		t.Errorf("%v; %d requests seen, want 1", a.Err, seen.Load())
	}
	// The limit is one for all senders. In the bubble nothing is sent: the dial fails at once.
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{BaseURL: "http://127.0.0.1:1", Token: static("x"), RequestsPerSecond: 2})
		if err != nil {
			t.Fatal(err)
		}
		c.transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }
		began := time.Now()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				for range 3 {
					c.Send(t.Context(), eventRequest(1))
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("9 requests took %v, want 4s", took)
		}
	})
}

// pipe lets c speak to a server in the bubble of a synctest, over connections in memory.
func pipe(c *Client, f func(path string) (status int, body string)) {
	pipeRequests(c, func(req *http.Request) (int, string) {
		_, _ = io.Copy(io.Discard, req.Body)
		return f(req.URL.Path)
	})
}

// pipeBody is pipe with a server that is told what comes and takes it all.
func pipeBody(c *Client, f func(body string)) {
	pipeRequests(c, func(req *http.Request) (int, string) {
		body, _ := io.ReadAll(req.Body)
		f(string(body))
		return 200, delivered
	})
}

func pipeRequests(c *Client, f func(*http.Request) (status int, body string)) {
	c.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			r := bufio.NewReader(far)
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				status, body := f(req)
				writeAnswer(far, status, body)
			}
		}()
		return &conn{Conn: near}, nil
	}
}

// The time-out covers the first try, the token calls and the second try together, but not the waits for the rate limit.
func TestTimeoutCoversAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "http://127.0.0.1:1", withApp, withTimeout(10*time.Second), func(cfg *Config) { cfg.RequestsPerSecond = 0.01 })
		var tries atomic.Int32
		pipe(c, func(path string) (int, string) {
			if path == tokenPath {
				time.Sleep(2 * time.Second)
				return 200, `{"code":"200","data":{"orgAccessToken":"x"}}`
			}
			if tries.Add(1) == 1 {
				time.Sleep(3 * time.Second)
				return 401, ""
			}
			time.Sleep(time.Hour)
			return 200, delivered
		})
		began := time.Now()
		a := c.Send(t.Context(), pointRequest())
		wantOutage(t, a, false)
		// Token 2 s, first try 3 s, then the limit (100 s after the beginning), token 2 s, second try 3 s.
		if took := time.Since(began); took != 105*time.Second || tries.Load() != 2 {
			t.Errorf("%d tries took %v, want 2 and 1m45s", tries.Load(), took)
		}
		time.Sleep(time.Hour) // lets the server see the end
		c.Close()
	})
}

// Answers are read to the end, so that connections are used again; as many are kept as there are senders.
func TestConnectionsAreKept(t *testing.T) {
	const senders = 8
	var dials atomic.Int32
	var turn sync.WaitGroup
	turn.Add(senders)
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		turn.Done()
		turn.Wait() // all senders are in flight at once
		_, _ = io.WriteString(w, delivered+strings.Repeat(" ", 100_000))
	}), func(cfg *Config) { cfg.MaxConns = senders })
	swapDial(c, func(inner net.Conn) net.Conn { dials.Add(1); return inner })
	for range 5 {
		var all sync.WaitGroup
		for range senders {
			all.Go(func() {
				if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
					t.Error(a.Verdict, a.Err)
				}
			})
		}
		all.Wait()
		turn.Add(senders)
	}
	if n := dials.Load(); n != senders {
		t.Errorf("%d connections were made, want %d", n, senders)
	}
}

func TestGzip(t *testing.T) {
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, delivered)
		_ = z.Close()
	}))
	if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
		t.Error(a.Verdict, a.Err)
	}
}

// Buffers are reused among senders; no request may carry another's bytes.
func TestConcurrentSends(t *testing.T) {
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		var got struct {
			PublicParams struct{ N int }
			Data         []struct{ N int }
		}
		switch err := json.NewDecoder(r.Body).Decode(&got); {
		case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
			return // its sender was cancelled
		case err != nil:
			t.Error(err)
		}
		for _, d := range got.Data {
			if d.N != got.PublicParams.N {
				t.Errorf("request %d carries %d", got.PublicParams.N, d.N)
			}
		}
		if got.PublicParams.N%7 == 0 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, delivered)
	}))
	var all sync.WaitGroup
	for s := range 8 {
		all.Go(func() {
			for i := range 50 {
				n := s*50 + i
				payload, _ := json.Marshal(map[string]int{"n": n})
				req := &connector.Request{Endpoint: connector.EventEndpoint, Envelope: string(payload)}
				for range 1 + n%90 {
					req.Records = append(req.Records, &connector.Record{Kind: connector.Event, Payload: payload})
				}
				ctx, cancel := context.WithCancel(t.Context())
				if n%5 == 0 {
					go cancel()
				}
				a := c.Send(ctx, req)
				if n%5 != 0 && (a.Verdict == connector.Delivered) != (n%7 != 0) {
					t.Errorf("%d: %v, %v", n, a.Verdict, a.Err)
				}
				cancel()
			}
		})
	}
	all.Wait()
}

// A renewal that fails ahead of time is the one thing that is logged, and it is clean.
func TestLog(t *testing.T) {
	var logged bytes.Buffer
	var calls atomic.Int32
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case r.URL.Path != tokenPath:
			_, _ = io.WriteString(w, delivered)
		case calls.Add(1) == 1:
			_, _ = io.WriteString(w, `{"code":"200","data":{"orgAccessToken":"`+testToken+`","expire":7200}}`)
		default:
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "leak")
		}
	}), withApp, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
	c.Send(t.Context(), pointRequest())
	c.tokens.mu.Lock()
	c.tokens.current.renew = time.Now()
	c.tokens.mu.Unlock()
	for range 2 {
		if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
			t.Error(a.Verdict, a.Err)
		}
	}
	if got := logged.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "HTTP 500") || calls.Load() != 2 {
		t.Errorf("logged %q after %d token calls", got, calls.Load())
	}
	wantClean(t, errors.New(logged.String()))
}

// TestExchanged: each request is told of once, with what it carried and what came of it; a probe carries nothing, and a second try with a fresh token is a
// request too.
func TestExchanged(t *testing.T) {
	var got []connector.Exchange
	refuse := true
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/open/app/getOrgAccessToken" {
			answer(200, `{"code":"200","data":{"token":"t","expire":7200}}`)(w, r)
			return
		}
		if refuse {
			refuse = false
			answer(401, "")(w, r)
			return
		}
		answer(200, `{"code":"200"}`)(w, r)
	})
	tokens := 0
	c := newClient(t, base, func(cfg *Config) {
		cfg.Token = func() (string, error) { tokens++; return fmt.Sprintf("token-%d", tokens), nil }
		cfg.Exchanged = func(x connector.Exchange) { got = append(got, x) }
	})
	c.Send(t.Context(), eventRequest(3))
	c.Probe(t.Context(), connector.PointEndpoint)
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []connector.Exchange{{Endpoint: connector.EventEndpoint, Records: 3, Verdict: connector.TokenRefused, HTTPStatus: 401},
		{Endpoint: connector.EventEndpoint, Records: 3, Verdict: connector.Delivered, HTTPStatus: 200},
		{Endpoint: connector.PointEndpoint, Verdict: connector.Delivered, HTTPStatus: 200}} {
		x := got[i]
		if x.Bytes < 2 || x.Duration <= 0 {
			t.Errorf("%d: %+v", i, x)
		}
		if x.Bytes, x.Duration = 0, 0; x != want {
			t.Errorf("%d: %+v, want %+v", i, x, want)
		}
	}
}
