package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// clerk is a Control in memory that notes what it is asked for.
type clerk struct {
	mu    sync.Mutex
	asked []string
}

func (c *clerk) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, fmt.Sprintf(format, args...))
}

func (c *clerk) done() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

func secretLetter(id int64) *connector.DeadLetter {
	return &connector.DeadLetter{ID: id, Class: connector.ClassRejected, Kind: connector.Event, Payload: json.RawMessage(`{"phone":"13812345678"}`), Reason: "refused"}
}

func (c *clerk) Letters(_ context.Context, q LetterQuery) ([]*connector.DeadLetter, int64, error) {
	c.note("list %s %q %v", q.Class, q.Text, q.Payload)
	return []*connector.DeadLetter{secretLetter(7)}, 7, nil
}
func (c *clerk) Letter(_ context.Context, id int64) (*connector.DeadLetter, error) {
	if id == 404 {
		return nil, &Refused{"there is no dead letter 404"}
	}
	return secretLetter(id), nil
}
func (c *clerk) Retry(_ context.Context, ids []int64, anyway, checked bool) (int, error) {
	c.note("retry %v %v %v", ids, anyway, checked)
	return len(ids), nil
}
func (c *clerk) Drop(_ context.Context, ids []int64) (int, error) {
	c.note("drop %v", ids)
	return 0, errors.New("the disk is full")
}
func (c *clerk) Resume(_ context.Context, mapping string) error {
	c.note("resume %s", mapping)
	return nil
}
func (c *clerk) SetAside(_ context.Context, mapping string) error {
	c.note("set-aside %s", mapping)
	return nil
}

const testToken = "the-token-of-the-test"

// desk is a running server with its clerk.
type desk struct {
	t     *testing.T
	s     *Server
	clerk *clerk
	at    string // its address, as this machine reaches it
}

func open(t *testing.T, address string, token func() (string, error)) *desk {
	t.Helper()
	d := &desk{t: t, clerk: &clerk{}}
	s, err := Listen(Options{Address: address, Snapshot: func() Snapshot { return Snapshot{State: Streaming} }, Control: d.clerk, AdminToken: token, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d.s = s
	_, port, _ := net.SplitHostPort(s.Addr())
	d.at = "127.0.0.1:" + port
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

// ask makes a request; edit changes it.
func (d *desk) ask(method, path, body string, edit func(*http.Request)) (int, string, *http.Response) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, "http://"+d.at+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if edit != nil {
		edit(req)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp
}

func header(pairs ...string) func(*http.Request) {
	return func(r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == "Host" {
				r.Host = pairs[i+1]
			} else {
				r.Header.Set(pairs[i], pairs[i+1])
			}
		}
	}
}

// doings are all that changes something or shows what is personal.
var doings = map[string]string{"/deadletters/retry": `{"ids":[7],"checked":true}`, "/deadletters/drop": `{"ids":[7]}`, "/deadletters/unmask": `{"id":7}`, "/deadletters/search": `{"text":"138"}`,
	"/resume": `{"mapping":"m"}`, "/set-aside": `{"mapping":"m"}`}

// TestWhoMay: on a loopback address this machine's browser may do all; through a proxy, on another address and without the token nobody may. What is masked stays so.
func TestWhoMay(t *testing.T) {
	token := func() (string, error) { return testToken, nil }
	for name, c := range map[string]struct {
		address string
		token   func() (string, error)
		edit    func(*http.Request)
		want    int
	}{
		"loopback":                  {"127.0.0.1:0", nil, nil, 200},
		"loopback by name":          {"127.0.0.1:0", nil, header("Host", "localhost:9000"), 200},
		"loopback through a proxy":  {"127.0.0.1:0", nil, header("X-Forwarded-For", "203.0.113.7"), 403},
		"loopback by another name":  {"127.0.0.1:0", nil, header("Origin", "https://cdc.example.com", "Sec-Fetch-Site", "same-origin"), 403},
		"loopback with a token":     {"127.0.0.1:0", token, nil, 401},
		"anywhere":                  {"0.0.0.0:0", nil, nil, 403},
		"anywhere with a token":     {"0.0.0.0:0", token, nil, 401},
		"the token":                 {"0.0.0.0:0", token, header("Authorization", "Bearer "+testToken), 200},
		"the token through a proxy": {"127.0.0.1:0", token, header("Authorization", "Bearer "+testToken, "X-Forwarded-For", "203.0.113.7", "Host", "cdc.example.com"), 200},
		"a wrong token":             {"0.0.0.0:0", token, header("Authorization", "Bearer "+testToken+"x"), 401},
		"a token that is no more":   {"0.0.0.0:0", func() (string, error) { return "", errors.New("no such file") }, header("Authorization", "Bearer "), 500},
		"rebound":                   {"127.0.0.1:0", nil, header("Host", "evil.example.com"), 421},
		"of another site":           {"127.0.0.1:0", nil, header("Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example.com"), 403},
		"of another site, old":      {"127.0.0.1:0", nil, header("Origin", "https://evil.example.com"), 403},
		"of another port":           {"127.0.0.1:0", nil, header("Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:1"), 403},
		"a form":                    {"127.0.0.1:0", nil, header("Content-Type", "text/plain"), 415},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, c.address, c.token)
			for path, body := range doings {
				code, text, _ := d.ask("POST", path, body, c.edit)
				if path == "/deadletters/drop" && c.want == 200 {
					if code != 500 || !strings.Contains(text, "the disk is full") {
						t.Errorf("%s: %d %s", path, code, text)
					}
				} else if code != c.want && (name != "a wrong token" || code != 429) {
					t.Errorf("%s: %d %s, want %d", path, code, text, c.want)
				}
				if strings.Contains(text, "13812345678") != (path == "/deadletters/unmask" && c.want == 200) {
					t.Errorf("%s shows %s", path, text)
				}
				if code, _, _ := d.ask("GET", path, "", c.edit); code == 200 && path != "/deadletters/unmask" && path != "/deadletters/search" {
					t.Errorf("GET %s is answered", path)
				}
			}
			asked := d.clerk.done()
			if c.want != 200 {
				if len(asked) > 0 {
					t.Errorf("it was done all the same: %q", asked)
				}
			} else if slices.Sort(asked); !slices.Equal(asked, []string{"drop [7]", `list  "138" true`, "resume m", "retry [7] false true", "set-aside m"}) {
				t.Errorf("asked %q", asked)
			}
			if c.want == 421 {
				return
			}
			for path, want := range map[string]string{"/deadletters/7.json": "138****5678", "/deadletters.json?text=138": `"reason":"refused"`, "/status.json": Streaming} {
				if code, text, _ := d.ask("GET", path, "", nil); c.token == nil && (code != 200 || !strings.Contains(text, want) || strings.Contains(text, "13812345678")) {
					t.Errorf("%s: %d %s", path, code, text)
				}
			}
			if asked := d.clerk.done(); c.token == nil && !slices.Equal(asked, []string{`list  "138" false`}) {
				t.Errorf("without right it looks into payloads: %q", asked)
			}
		})
	}
}

// TestSession: signing in gives a cookie that no script and no other site gets at; signing out, another token and the connector's end end it.
func TestSession(t *testing.T) {
	var mu sync.Mutex
	current := testToken
	d := open(t, "127.0.0.1:0", func() (string, error) { mu.Lock(); defer mu.Unlock(); return current, nil })
	code, text, resp := d.ask("POST", "/login", `{"token":"`+testToken+`"}`, nil)
	if code != 200 || len(resp.Cookies()) != 1 {
		t.Fatalf("%d %s", code, text)
	}
	cookie := resp.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || len(cookie.Value) < 40 || cookie.MaxAge <= 0 {
		t.Errorf("%+v", cookie)
	}
	with := header("Cookie", cookie.Name+"="+cookie.Value)
	may := func() bool {
		t.Helper()
		code, _, _ := d.ask("POST", "/resume", `{}`, with)
		_, text, _ := d.ask("GET", "/session", "", with)
		if strings.Contains(text, `"admin":true`) != (code == 200) {
			t.Errorf("%d, but %s", code, text)
		}
		return code == 200
	}
	if !may() {
		t.Error("a session may nothing")
	}
	mu.Lock()
	current = "another-token-of-the-test"
	mu.Unlock()
	if may() {
		t.Error("a session outlives its token")
	}
	mu.Lock()
	current = testToken
	mu.Unlock()
	if code, _, _ := d.ask("POST", "/logout", `{}`, with); code != 200 || may() {
		t.Errorf("%d: a session goes on after signing out", code)
	}
	if code, _, _ := d.ask("POST", "/login", `{"token":"`+testToken+`"}`, header("Origin", "https://evil.example.com")); code != 403 {
		t.Errorf("another site signs in: %d", code)
	}
	for i := range mostSessions + 10 {
		if d.ask("POST", "/login", `{"token":"`+testToken+`"}`, nil); len(d.s.admins.sessions) > mostSessions {
			t.Fatalf("%d sessions after %d", len(d.s.admins.sessions), i)
		}
	}
}

// TestGuessing: after a few wrong tokens an address has to wait, with the right one too.
func TestGuessing(t *testing.T) {
	d := open(t, "127.0.0.1:0", func() (string, error) { return testToken, nil })
	codes := map[int]int{}
	for range wrongBurst + 3 {
		code, _, _ := d.ask("POST", "/login", `{"token":"wrong"}`, nil)
		codes[code]++
	}
	if codes[401] != wrongBurst || codes[429] != 3 {
		t.Errorf("%v", codes)
	}
	if code, text, _ := d.ask("POST", "/login", `{"token":"`+testToken+`"}`, nil); code != 429 {
		t.Errorf("%d %s", code, text)
	}
	if code, _, _ := d.ask("GET", "/session", "", header("Authorization", "Bearer "+testToken)); code != 429 {
		t.Errorf("a header passes the wait: %d", code)
	}
}

// TestHeaders: whatever is answered, nothing of others is loaded, nothing is framed, guessed or kept.
func TestHeaders(t *testing.T) {
	d := open(t, "127.0.0.1:0", nil)
	for _, path := range []string{"/", "/status.json", "/page/page.js", "/page/page.css", "/page/strings.json", "/deadletters/7.json", "/deadletters/404.json", "/page/", "/nothing", "/healthz"} {
		code, text, resp := d.ask("GET", path, "", nil)
		for name, want := range map[string]string{"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
			if !strings.Contains(resp.Header.Get(name), want) {
				t.Errorf("%s: %s is %q", path, name, resp.Header.Get(name))
			}
		}
		if csp := resp.Header.Get("Content-Security-Policy"); strings.Contains(csp, "unsafe") || !strings.HasPrefix(csp, "default-src 'none'") {
			t.Errorf("%s: %s", path, csp)
		}
		if cache := resp.Header.Get("Cache-Control"); cache != "no-store" && (cache != "no-cache" || !strings.HasPrefix(path, "/page/")) {
			t.Errorf("%s may be kept: %q", path, cache)
		}
		if missing := path == "/nothing" || path == "/page/"; missing && code != 404 || path == "/deadletters/404.json" && (code != 409 || !strings.Contains(text, "no dead letter 404")) {
			t.Errorf("%s: %d", path, code)
		}
	}
	_, text, _ := d.ask("GET", "/", "", header("Accept-Language", "fr, zh-TW;q=0.8, en;q=0.5"))
	if !strings.Contains(text, `<html lang="zh-CN">`) || strings.Contains(text, "style=") || strings.Contains(text, "onclick") || strings.Contains(text, "<script>") {
		t.Errorf("%s", text)
	}
	for accept, want := range map[string]string{"": "en", "zh": "zh-CN", "en-US,en;q=0.9,zh-CN;q=0.8": "en", "zh-CN,zh;q=0.9,en;q=0.8": "zh-CN", "de": "en", "en;q=0.1, zh;q=x": "en"} {
		if got := language(accept); got != want {
			t.Errorf("%q gives %s, want %s", accept, got, want)
		}
	}
}

// events reads server-sent events of a stream.
func (d *desk) events() (next func() (name, data string), stop func()) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+d.at+"/events", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() (name, data string) {
		for lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = v
			} else if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				data = v
			} else if name != "" {
				return name, data
			}
		}
		return "", ""
	}, func() { cancel(); resp.Body.Close() }
}

// TestPagesAreBounded: so many pages may be open and one more is told so; each hears at once how things stand; one that is closed makes room.
func TestPagesAreBounded(t *testing.T) {
	d := open(t, "127.0.0.1:0", nil)
	var stops []func()
	for i := range mostPages {
		next, stop := d.events()
		stops = append(stops, stop)
		name, data := next()
		if name == "points" { // of before
			name, data = next()
		}
		if name != "state" || !strings.Contains(data, `"state":"streaming"`) {
			t.Fatalf("page %d hears %s %s", i, name, data)
		}
	}
	next, stop := d.events()
	if name, _ := next(); name != "full" {
		t.Errorf("one page too many hears %s", name)
	}
	stop()
	stops[0]()
	for {
		next, stop := d.events()
		name, _ := next()
		stop()
		if name == "state" || name == "points" {
			break
		}
	}
	for _, stop := range stops {
		stop()
	}
}
