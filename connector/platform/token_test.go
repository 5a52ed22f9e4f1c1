package platform

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// issuer is a platform that gives tokens t1, t2, ... and refuses all but the newest.
type issuer struct {
	mu      sync.Mutex
	issued  int // the newest token
	stale   int // data calls with an older one
	calls   int // data calls
	refusal string
	held    func() // called by data calls with an old token before they are refused
}

func (s *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if r.URL.Path == tokenPath {
		q := r.URL.Query()
		if r.Method != http.MethodGet || q.Get("instanceAppid") != "app-1" || q.Get("instanceSecrect") != testSecret {
			http.Error(w, "", http.StatusTeapot)
			return
		}
		s.mu.Lock()
		s.issued++
		n := s.issued
		s.mu.Unlock()
		fmt.Fprintf(w, `{"code":"200","data":{"orgAccessToken":"t%d","orgRefreshToken":"r","expire":7200},"errorCode":"0","msg":"ok"}`, n)
		return
	}
	s.mu.Lock()
	s.calls++
	fresh := r.Header.Get("X-Token") == fmt.Sprintf("t%d", s.issued)
	if !fresh {
		s.stale++
	}
	held := s.held
	s.mu.Unlock()
	switch {
	case fresh:
		_, _ = io.WriteString(w, delivered)
	default:
		if held != nil {
			held()
		}
		if s.refusal == "" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = io.WriteString(w, s.refusal)
	}
}

// expire makes the newest token an old one.
func (s *issuer) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
}

// However many senders are refused at once, one token call is made.
func TestTokenStorm(t *testing.T) {
	for _, refusal := range []string{"", `{"code":"100200","msg":"TOKEN_ERROR"}`} {
		const senders = 16
		var all sync.WaitGroup
		all.Add(senders)
		s := &issuer{refusal: refusal, held: func() { all.Done(); all.Wait() }} // refused only when all have come
		c := newClient(t, serve(t, s.ServeHTTP), withApp)
		if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
			t.Fatal(a.Verdict, a.Err)
		}
		s.expire() // t1 is used, t2 was given to somebody else
		var sent sync.WaitGroup
		for range senders {
			sent.Go(func() {
				if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
					t.Errorf("%v: %v", a.Verdict, a.Err)
				}
			})
		}
		sent.Wait()
		if s.issued != 3 || s.stale != senders || s.calls != 1+2*senders {
			t.Errorf("refusal %q: token %d, %d data calls, %d of them refused; want 3, %d, %d", refusal, s.issued, s.calls, s.stale, 1+2*senders, senders)
		}
	}
}

func TestTokenStillRefused(t *testing.T) {
	var calls atomic.Int32
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == tokenPath {
			_, _ = io.WriteString(w, `{"code":200,"data":{"orgAccessToken":"`+testToken+`","expire":"0"}}`)
			return
		}
		calls.Add(1)
		_, _ = io.WriteString(w, `{"code":"100200","msg":"`+r.Header.Get("X-Token")+`"}`)
	}), withApp)
	a := c.Send(t.Context(), pointRequest())
	if a.Verdict != connector.TokenRefused || !a.NotApplied || a.Code != "100200" || calls.Load() != 2 {
		t.Errorf("got %v, code %s after %d calls; want token refused after 2", a.Verdict, a.Code, calls.Load())
	}
	if got := c.TokenState(); time.Until(got.Expires) > tokenLife || time.Until(got.Expires) < tokenLife-time.Minute || got.Fetched.IsZero() {
		t.Errorf("expire 0 gave %v", got)
	}
}

// TestTokenLife: expire is in seconds, as a number or a text; 0, absent and what is none mean the platform's 7,200.
func TestTokenLife(t *testing.T) {
	for expire, want := range map[string]time.Duration{`,"expire":3600`: time.Hour, `,"expire":"3600"`: time.Hour, `,"expire":0`: tokenLife, ``: tokenLife,
		`,"expire":null`: tokenLife, `,"expire":""`: tokenLife, `,"expire":-5`: tokenLife, `,"expire":"soon"`: tokenLife, `,"expire":1e300`: maxTokenLife} {
		c := newClient(t, serve(t, answer(200, `{"code":"200","data":{"orgAccessToken":"t"`+expire+`}}`)), withApp)
		got, err := c.calls.fetch(t.Context())
		if err != nil || got.life != want {
			t.Errorf("%q: %v, %v; want %v", expire, got.life, err, want)
		}
	}
}

// A token file is read again when the token was refused, and only then.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(value string) {
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var reads, calls atomic.Int32
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		calls.Add(1)
		if r.Header.Get("X-Token") != "new" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, delivered)
	}), func(cfg *Config) {
		cfg.Token = func() (string, error) {
			reads.Add(1)
			b, err := os.ReadFile(path)
			return string(b), err
		}
	})
	send := func(want connector.Verdict, wantReads, wantCalls int32) {
		t.Helper()
		a := c.Send(t.Context(), pointRequest())
		if a.Verdict != want || !a.NotApplied && want != connector.Delivered || reads.Load() != wantReads || calls.Load() != wantCalls {
			t.Errorf("got %v (%v), %d reads, %d calls; want %v, %d, %d", a.Verdict, a.Err, reads.Load(), calls.Load(), want, wantReads, wantCalls)
		}
	}
	send(connector.SetupWrong, 1, 0) // no file
	write(" \n")
	send(connector.SetupWrong, 2, 0)
	write("two words")
	send(connector.SetupWrong, 3, 0)
	write("old\r\n")
	send(connector.TokenRefused, 5, 2)
	write("new\n")
	send(connector.Delivered, 6, 4)
	send(connector.Delivered, 6, 5)
	if got := c.TokenState(); got.Fetched.IsZero() || !got.Expires.IsZero() {
		t.Errorf("state is %v", got)
	}
}

// What goes wrong with the token call blames no record, and nothing was applied.
func TestTokenCallFails(t *testing.T) {
	const token = `{"code":"200","data":{"orgAccessToken":"%s","expire":7200}}`
	for _, tc := range []struct {
		name   string
		status int
		body   string
		header []string
		want   connector.Verdict
		code   string
		text   string
	}{
		{name: "wrong secret", status: 200, body: `{"code":"100100","errorCode":"APPID_SECRET_ERROR","msg":"leak"}`, want: connector.SetupWrong, code: "100100", text: "platform.appSecret"},
		{name: "wrong secret with 400", status: 400, body: `{"code":100100}`, want: connector.SetupWrong, code: "100100", text: "platform.appSecret"},
		{name: "auth code", status: 200, body: `{"code":"100300"}`, want: connector.SetupWrong, code: "100300"},
		{name: "token code", status: 200, body: `{"code":"100200"}`, want: connector.SetupWrong, code: "100200"},
		{name: "another code", status: 200, body: `{"code":"7"}`, want: connector.SetupWrong, code: "7", text: "code 7"},
		{name: "401", status: 401, body: "leak", want: connector.SetupWrong, text: "HTTP 401. Check platform.baseURL, platform.paths.token"},
		{name: "404", status: 404, body: "leak", want: connector.SetupWrong, text: "HTTP 404"},
		{name: "413", status: 413, want: connector.SetupWrong},
		{name: "400", status: 400, want: connector.SetupWrong},
		{name: "redirect", status: 302, header: []string{"Location", "/login?leak"}, want: connector.SetupWrong, text: "redirects to http://127.0.0.1"},
		{name: "429", status: 429, header: []string{"Retry-After", "4"}, want: connector.SlowDown, text: "HTTP 429"},
		{name: "500", status: 500, body: "leak", want: connector.Outage, text: "HTTP 500"},
		{name: "code 500", status: 200, body: `{"code":"500"}`, want: connector.Outage, code: "500"},
		{name: "HTML", status: 200, body: "<html>leak", want: connector.Outage, text: "no JSON"},
		{name: "no token", status: 200, body: `{"code":"200","data":{}}`, want: connector.Outage, code: "200", text: "no usable token"},
		{name: "data null", status: 200, body: `{"code":"200","data":null}`, want: connector.Outage, code: "200", text: "no usable token"},
		{name: "a token with a line break", status: 200, body: fmt.Sprintf(token, `a\nleak: 1`), want: connector.Outage, code: "200", text: "no usable token"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var data atomic.Int32
			fail := answer(tc.status, tc.body, tc.header...)
			c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != tokenPath {
					data.Add(1)
				}
				fail(w, r)
			}), withApp)
			a := c.Send(t.Context(), pointRequest())
			if a.Verdict != tc.want || !a.NotApplied || a.Code != tc.code || a.HTTPStatus != 0 || data.Load() != 0 {
				t.Errorf("got %v, not applied %v, code %q, HTTP %d, %d data calls; want %v and code %q", a.Verdict, a.NotApplied, a.Code, a.HTTPStatus, data.Load(), tc.want, tc.code)
			}
			if tc.status == 429 && a.RetryAfter != 4*time.Second {
				t.Errorf("RetryAfter is %v", a.RetryAfter)
			}
			if a.Err == nil || !strings.Contains(a.Err.Error(), tc.text) || !strings.Contains(a.Err.Error(), tokenPath) {
				t.Errorf("got %q, want %q in it", a.Err, tc.text)
			}
			wantClean(t, a.Err)
			// check says the same.
			found, err := c.Check(t.Context())
			var e *Error
			if found != "" || !errors.As(err, &e) || e.Cure == "" || e.Error() != a.Err.Error() {
				t.Errorf("Check: %q, %v", found, err)
			}
		})
	}
	c := newClient(t, "http://"+closedPort(t), withApp)
	a := c.Send(t.Context(), pointRequest())
	wantOutage(t, a, true)
	c = newClient(t, "http://"+closedPort(t), withApp, func(cfg *Config) {
		cfg.AppSecret = func() (string, error) { return "", os.ErrNotExist }
	})
	if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.SetupWrong || !a.NotApplied || !errors.Is(a.Err, os.ErrNotExist) {
		t.Errorf("a secret that can't be read: %v, %v", a.Verdict, a.Err)
	}
}

func TestCheck(t *testing.T) {
	c := newClient(t, serve(t, new(issuer).ServeHTTP), withApp)
	if found, err := c.Check(t.Context()); err != nil || !strings.Contains(found, "a token for 2h") {
		t.Errorf("got %q, %v", found, err)
	}
	c = newClient(t, "http://"+closedPort(t))
	if found, err := c.Check(t.Context()); err != nil || !strings.Contains(found, "no call that would check it") {
		t.Errorf("got %q, %v", found, err)
	}
	c = newClient(t, "http://"+closedPort(t), func(cfg *Config) { cfg.Token = static("") })
	if found, err := c.Check(t.Context()); err == nil {
		t.Errorf("got %q for an empty token", found)
	}
}

// keeper is a tokens whose calls are counted and answered by a function.
func keeper(answer func(ctx context.Context, n int) (fetched, error)) (*tokens, *int) {
	n := new(int)
	return &tokens{early: time.Second, log: slog.New(slog.DiscardHandler), fetch: func(ctx context.Context) (fetched, error) {
		*n++
		return answer(ctx, *n)
	}}, n
}

func give(n int) fetched { return fetched{value: fmt.Sprint("t", n), life: 100 * time.Second} }

func wantToken(t *testing.T, tokens *tokens, refused uint64, want string) {
	t.Helper()
	if got, err := tokens.get(t.Context(), refused); err != nil || got.value != want {
		t.Errorf("got %q, %v; want %q", got.value, err, want)
	}
}

func TestTokenRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, calls := keeper(func(_ context.Context, n int) (fetched, error) { return give(n), nil })
		wantToken(t, k, 0, "t1")
		time.Sleep(80*time.Second - 1)
		wantToken(t, k, 0, "t1")
		time.Sleep(time.Nanosecond)
		wantToken(t, k, 0, "t2") // at 80 %
		wantToken(t, k, 1, "t2") // generation 1 was refused, but there is a newer one
		wantToken(t, k, 2, "t3")
		time.Sleep(101 * time.Second)
		wantToken(t, k, 0, "t4") // t3 has ended
		if *calls != 4 {
			t.Errorf("%d calls, want 4", *calls)
		}
	})
}

// A renewal ahead of time that fails, or hangs, costs no send while the old token lives, and is not tried all the time.
func TestTokenRenewalFails(t *testing.T) {
	down := errors.New("down")
	synctest.Test(t, func(t *testing.T) {
		k, calls := keeper(func(ctx context.Context, n int) (fetched, error) {
			switch n {
			case 1, 6:
				return give(n), nil
			case 2:
				<-ctx.Done() // hangs
				return fetched{}, ctx.Err()
			}
			return fetched{}, down
		})
		wantToken(t, k, 0, "t1")
		time.Sleep(80 * time.Second)
		began := time.Now()
		wantToken(t, k, 0, "t1")
		if took := time.Since(began); took != k.early {
			t.Errorf("a hanging renewal held the sender up for %v, want %v", took, k.early)
		}
		wantToken(t, k, 0, "t1")
		time.Sleep(15 * time.Second)
		wantToken(t, k, 0, "t1")
		if *calls != 2 {
			t.Errorf("%d calls, want 2", *calls)
		}
		// A refusal does not wait for the pause.
		if _, err := k.get(t.Context(), 1); !errors.Is(err, down) {
			t.Errorf("got %v", err)
		}
		wantToken(t, k, 0, "t1")
		time.Sleep(5 * time.Second) // t1 has ended
		for range 2 {
			if _, err := k.get(t.Context(), 0); !errors.Is(err, down) {
				t.Errorf("got %v", err)
			}
		}
		wantToken(t, k, 0, "t6")
		if *calls != 6 {
			t.Errorf("%d calls, want 6", *calls)
		}
	})
}

// While one sender renews ahead of time, the others go on with the old token; one that was refused waits.
func TestTokenRenewalInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, calls := keeper(func(_ context.Context, n int) (fetched, error) {
			if n == 2 {
				time.Sleep(500 * time.Millisecond)
			}
			return give(n), nil
		})
		wantToken(t, k, 0, "t1")
		time.Sleep(90 * time.Second)
		go wantToken(t, k, 0, "t2")
		synctest.Wait()
		began := time.Now()
		wantToken(t, k, 0, "t1")
		if took := time.Since(began); took != 0 {
			t.Errorf("waited %v", took)
		}
		wantToken(t, k, 1, "t2")
		if *calls != 2 {
			t.Errorf("%d calls, want 2", *calls)
		}
		synctest.Wait()
	})
}

// A sender whose time is over leaves the token call to another; a failure of the call itself is shared.
func TestTokenCallAbandoned(t *testing.T) {
	down := errors.New("down")
	synctest.Test(t, func(t *testing.T) {
		k, calls := keeper(func(ctx context.Context, n int) (fetched, error) {
			switch n {
			case 1:
				<-ctx.Done()
				return fetched{}, ctx.Err()
			case 2:
				return give(n), nil
			}
			time.Sleep(time.Second)
			return fetched{}, down
		})
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			if _, err := k.get(impatient, 0); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		}()
		synctest.Wait()
		wantToken(t, k, 0, "t2")
		for range 8 {
			go func() {
				if _, err := k.get(t.Context(), 1); !errors.Is(err, down) {
					t.Errorf("got %v", err)
				}
			}()
		}
		// One waits no longer than it may.
		synctest.Wait()
		short, cancelShort := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancelShort()
		began := time.Now()
		if _, err := k.get(short, 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		time.Sleep(2 * time.Second)
		if *calls != 3 {
			t.Errorf("%d calls, want 3", *calls)
		}
	})
}
