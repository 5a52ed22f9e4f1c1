package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

const (
	// tokenLife is a token's life where the answer says 0 or nothing, as the platform's own example does.
	tokenLife = 7200 * time.Second
	// maxTokenLife bounds what an answer may claim; a token that ends before is refused, and then renewed.
	maxTokenLife = 30 * 24 * time.Hour
	// renewPause is how long a failed renewal ahead of time is not tried again.
	renewPause = 30 * time.Second
	// maxToken is the longest token that is taken, in bytes.
	maxToken = 8 << 10
)

// fetched is a token as it came.
type fetched struct {
	value string
	life  time.Duration // 0: unknown
}

// token is one generation of the token.
type token struct {
	value      string
	generation uint64 // 1 for the first; 0: there is none
	fetched    time.Time
	renew      time.Time // 80 % of its life; zero: it has no known end
	expires    time.Time
}

// tokens keeps the token for all senders. There is at most one renewal in flight, made by the sender that found it due; the others wait for
// it, or go on with the old token while that lives. A refused generation is renewed once, however many senders were refused.
type tokens struct {
	fetch func(context.Context) (fetched, error)
	early time.Duration // how long a renewal ahead of time may take: it holds up a sender that has a good token
	log   *slog.Logger

	mu      sync.Mutex
	current token
	flight  *flight   // nil: none under way
	pause   time.Time // no renewal ahead of time before
}

// flight is a renewal under way; err may be read once done is closed.
type flight struct {
	done chan struct{}
	err  error
	// abandoned says that the sender's time was over, which says nothing about the token: another must take over.
	abandoned bool
}

// get gives a token newer than the refused generation (0: any).
func (t *tokens) get(ctx context.Context, refused uint64) (token, error) {
	for {
		t.mu.Lock()
		now := time.Now()
		cur := t.current
		usable := cur.generation > refused && (cur.expires.IsZero() || now.Before(cur.expires))
		due := !cur.renew.IsZero() && !now.Before(cur.renew) && !now.Before(t.pause)
		if usable && (!due || t.flight != nil) {
			t.mu.Unlock()
			return cur, nil
		}
		f := t.flight
		if f == nil {
			t.flight = &flight{done: make(chan struct{})}
			t.mu.Unlock()
			return t.fly(ctx, t.flight, usable)
		}
		t.mu.Unlock()
		select {
		case <-f.done:
			if f.err != nil && !f.abandoned {
				return token{}, f.err
			}
		case <-ctx.Done():
			return token{}, context.Cause(ctx)
		}
	}
}

// fly renews the token for f. early: the old token still lives, and is used on where the renewal fails.
func (t *tokens) fly(ctx context.Context, f *flight, early bool) (token, error) {
	call := ctx
	if early {
		var cancel context.CancelFunc
		call, cancel = context.WithTimeoutCause(ctx, t.early, errTimeout(t.early))
		defer cancel()
	}
	began := time.Now()
	got, err := t.fetch(call)

	t.mu.Lock()
	defer t.mu.Unlock()
	defer close(f.done)
	t.flight = nil
	if err != nil {
		f.err, f.abandoned = err, call.Err() != nil
		if early {
			t.pause = time.Now().Add(renewPause)
			t.log.Warn("token renewal ahead of time failed, the old token is used on", "error", err, "expires", t.current.expires)
			return t.current, nil
		}
		return token{}, err
	}
	next := token{value: got.value, generation: t.current.generation + 1, fetched: began}
	if got.life > 0 {
		next.renew, next.expires = began.Add(got.life/5*4), began.Add(got.life)
	}
	t.current = next
	return next, nil
}

// tokenCalls gets tokens: from the platform, or where somebody else keeps them.
type tokenCalls struct {
	client *Client
	target *target
	appID  string
	secret func() (string, error)
	token  func() (string, error)
}

// fetch gets a fresh token. Its errors are *Error with the verdict for the data call that wanted it.
func (t *tokenCalls) fetch(ctx context.Context) (fetched, error) {
	if t.token != nil {
		value, err := readSecret("platform.token", t.token, wrongToken)
		return fetched{value: value}, err
	}
	secret, err := readSecret("platform.appSecret", t.secret, empty)
	if err != nil {
		return fetched{}, err
	}
	u := *t.target.url
	q := u.Query()
	q.Set("instanceAppid", t.appID)
	q.Set("instanceSecrect", secret) // the platform's spelling
	u.RawQuery = q.Encode()
	req := &http.Request{Method: http.MethodGet, URL: &u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Accept": {"application/json"}, "User-Agent": {t.client.userAgent}}}
	r, err := t.client.exchange(ctx, req, t.target, new(journey), 0)
	if err != nil {
		return fetched{}, err
	}
	return t.read(r)
}

// read reads the answer to the token call.
func (t *tokenCalls) read(r *response) (fetched, error) {
	a, data := readCommon(r)
	e := &Error{Op: t.target.post, Code: a.Code, verdict: a.Verdict, retryAfter: a.RetryAfter}
	switch a.Verdict {
	case connector.Delivered:
		var body struct {
			Token  string          `json:"orgAccessToken"`
			Expire json.RawMessage `json:"expire"`
		}
		if json.Unmarshal(data, &body) != nil || wrongToken(body.Token) != "" {
			e.verdict, e.Reason, e.Cure = connector.Outage, "code 200, but no usable token in the answer", "Check "+t.target.setting+"."
			return fetched{}, e
		}
		life := tokenLife
		if s, err := strconv.ParseFloat(text(body.Expire), 64); err == nil && s > 0 {
			life = time.Duration(min(s, maxTokenLife.Seconds()) * float64(time.Second))
		}
		return fetched{value: body.Token, life: life}, nil
	case connector.TokenRefused, connector.TooBig, connector.Rejected:
		e.verdict = connector.SetupWrong // it blames no record
	}
	var worded *Error
	switch {
	case errors.As(a.Err, &worded):
		e.Reason, e.Cure = worded.Reason, worded.Cure
	case a.Code != "" && a.Code != codeOK:
		e.Reason = fmt.Sprintf("HTTP %d, code %s", r.status, a.Code)
	default:
		e.Reason = fmt.Sprintf("HTTP %d", r.status)
	}
	switch {
	case a.Code == codeSecretWrong:
		e.Reason += ": the platform does not know this app id with this secret"
		e.Cure = "Compare platform.appID and platform.appSecret with the page of the self-built app on the platform."
	case e.Cure != "":
	case e.verdict == connector.SetupWrong:
		e.Cure = "Check platform.baseURL, " + t.target.setting + " and platform.appID."
	case e.verdict == connector.SlowDown:
		e.Cure = "The platform asks to slow down; it is tried again by itself."
	default:
		e.Cure = "The platform, or a gateway in front of it, is overloaded or away."
	}
	return fetched{}, e
}

// readSecret asks for a secret and cuts the white space around it, which a file may have.
func readSecret(setting string, ask func() (string, error), wrong func(string) string) (string, error) {
	value, err := ask()
	e := &Error{Op: setting, verdict: connector.SetupWrong, cause: err}
	if err != nil {
		e.Reason = err.Error()
		return "", e
	}
	value = strings.TrimSpace(value)
	if e.Reason = wrong(value); e.Reason != "" {
		return "", e
	}
	return value, nil
}

// empty says that a value is.
func empty(value string) string {
	if value == "" {
		return "it is empty"
	}
	return ""
}

// wrongToken says why a token can't go into a header; empty where it can.
func wrongToken(value string) string {
	switch {
	case value == "":
		return empty(value)
	case len(value) > maxToken:
		return fmt.Sprintf("it is longer than %d bytes", maxToken)
	case strings.ContainsFunc(value, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "it holds white space or a character that is not ASCII"
	}
	return ""
}

// tokenFailed is the answer to a data call for which there was no token; it never left.
func tokenFailed(err error) connector.Answer {
	a := connector.Answer{Verdict: connector.Outage, NotApplied: true, Err: err}
	var e *Error
	if errors.As(err, &e) && e.verdict != 0 {
		a.Verdict, a.Code, a.RetryAfter = e.verdict, e.Code, e.retryAfter
	}
	return a
}

// Check tries what can be tried without sending anything: the token call. It says what it found, or gives an *Error with the cure.
func (c *Client) Check(ctx context.Context) (found string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errTimeout(c.timeout))
	defer cancel()
	got, err := c.calls.fetch(ctx)
	switch {
	case err != nil:
		return "", err
	case c.calls.token != nil:
		return "platform.token is set; the platform has no call that would check it, the first request will", nil
	}
	return fmt.Sprintf("%s: the platform gave a token for %s", c.calls.target.post, connector.Span(got.life)), nil
}
