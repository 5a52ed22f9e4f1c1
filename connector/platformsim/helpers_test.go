package platformsim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const (
	goodPoint = `{"phoneList":[{"phone":"13800000001","isVerify":"1"}],"point":5,"remark":"r"}`
	goodEvent = `{"publicParams":{},"data":[{"identities":[{"identityValue":"13800000001","identityType":"phone"}],"eventKey":"c_buy"}]}`
	goodGroup = `{"publicParams":{"isMatching":true,"optType":"add"},"data":[{"phone":"13800000001","groups":"a"}]}`
	goodOpen  = `{"nonce":"abc123","timestamp":1700000000000,"thirdId":"u1","point":5,"remark":"r"}`
)

// reply is what the simulator answered.
type reply struct {
	status    int
	header    http.Header
	body      string
	Code      any             `json:"code"`
	ErrorCode string          `json:"errorCode"`
	Msg       string          `json:"msg"`
	Data      json.RawMessage `json:"data"`
}

func readReply(t *testing.T, status int, header http.Header, body []byte) reply {
	t.Helper()
	r := reply{status: status, header: header, body: string(body)}
	if strings.HasPrefix(header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(body, &r); err != nil {
			t.Fatalf("the answer %q is no JSON: %v", body, err)
		}
	}
	return r
}

// request makes a data call with the token "t".
func request(s *Sim, e Endpoint, body string) *http.Request {
	method := http.MethodPost
	if e == Token {
		method = http.MethodGet
	}
	path := DefaultPaths()[e]
	if p := s.options.Paths[e]; p != "" {
		path = p
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if e != Token {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Token", "t")
	}
	return r
}

// do serves a request without a network.
func do(t *testing.T, s *Sim, r *http.Request) reply {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return readReply(t, w.Code, w.Header(), w.Body.Bytes())
}

// send makes a data call without a network.
func send(t *testing.T, s *Sim, e Endpoint, body string) reply {
	t.Helper()
	return do(t, s, request(s, e, body))
}

func mustApply(t *testing.T, s *Sim, e Endpoint, body string) {
	t.Helper()
	if r := send(t, s, e, body); r.status != 200 || fmt.Sprint(r.Code) != "200" {
		t.Fatalf("%s was refused: %d %s", e, r.status, r.body)
	}
}

func inject(t *testing.T, s *Sim, f Fault) int {
	t.Helper()
	id, err := s.Inject(f)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// server serves s on the loopback interface, with a client that follows no redirects.
func server(t *testing.T, s *Sim) (base string, client *http.Client) {
	t.Helper()
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	c := srv.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return srv.URL, c
}

// post makes a data call over the network; err is the transport's.
func post(ctx context.Context, t *testing.T, c *http.Client, url, body string) (reply, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Token", "t")
	resp, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{status: resp.StatusCode}, err
	}
	return readReply(t, resp.StatusCode, resp.Header, b), nil
}

// soon bounds a wait that should end at once.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
