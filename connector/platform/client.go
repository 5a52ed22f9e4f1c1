package platform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// DefaultTimeout is Config.Timeout where that is 0.
const DefaultTimeout = 10 * time.Second

// Config is what a Client needs to know. Either AppID and AppSecret, or Token must be set.
type Config struct {
	// BaseURL is platform.baseURL: scheme, host, perhaps a path in front of all others. No user, query or fragment.
	BaseURL string
	// Paths are below BaseURL, or whole URLs.
	Paths Paths

	// AppID and AppSecret are those of the self-built app. AppSecret is asked before every token call, so that a changed file is seen.
	AppID     string
	AppSecret func() (string, error)
	// Token gives an access token that somebody else looks after, instead of the pair. It is asked at first use and again when the platform
	// has refused the token.
	Token func() (string, error)

	// OpenPoints says that points go to the open API (platform.pointAPI: open): nonce and timestamp are added to each request, and Paths.Point
	// has a default.
	OpenPoints bool
	// Encryption encrypts the bodies of points. nil: they go in clear (inside of TLS).
	Encryption *Encryption

	// Timeout bounds one Send, token call and second try included, but not the wait for the rate limit. 0: DefaultTimeout.
	Timeout time.Duration
	// RequestsPerSecond limits the data calls of all senders together. 0: no limit.
	RequestsPerSecond float64
	// MaxConns is how many idle connections to a host are kept: as many as there are senders. 0: 32. It limits no sending.
	MaxConns int
	// Lease is asked before each request, after the wait for the rate limit: no request begins unless it gives nil. It may wait, until ctx ends. A request that
	// it lets go lasts no longer than Timeout. nil: requests always may begin.
	Lease func(ctx context.Context) error
	// UserAgent is the header of that name: program and version. Empty: "tuzhan-cdc".
	UserAgent string
	// Logger takes what no caller hears of: a token renewal ahead of time that failed. nil: nothing is logged.
	Logger *slog.Logger
}

// Paths are the platform's paths, the keys under platform.paths. Empty: the platform's own (see the fields), below Config.BaseURL.
type Paths struct {
	// Point has no default, as the platform gives every self-built app its own; with Config.OpenPoints: /api/open/point/increase
	Point string
	// PointDecrease takes negative points, as their absolute value. No default.
	PointDecrease string
	// Event: /api/integrate/event/v2/batchAdd
	Event string
	// GroupRelation: /api/integrate/audience/group/rel/batchAdd
	GroupRelation string
	// Token: /api/open/app/getOrgAccessToken
	Token string
}

// Client speaks to the platform. Safe for concurrent use; make it with New, and Close it in the end.
type Client struct {
	endpoints map[connector.Endpoint]*target
	tokens    *tokens
	calls     tokenCalls
	timeout   time.Duration
	limiter   *rate.Limiter
	lease     func(context.Context) error
	userAgent string
	transport *http.Transport
	buffers   sync.Pool // of *encoded
	sealer    *sealer   // nil: points are not encrypted
	open      bool      // points are those of the open API
}

var _ connector.Platform = (*Client)(nil)

// New makes a client. It makes no request. Its errors name the settings that are wrong.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 32
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "tuzhan-cdc"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if cfg.Timeout < 0 {
		errs = append(errs, fmt.Errorf("platform.timeout: %s is negative", cfg.Timeout))
	}
	if cfg.RequestsPerSecond < 0 || math.IsNaN(cfg.RequestsPerSecond) {
		errs = append(errs, fmt.Errorf("platform.requestsPerSecond: %v: want 0 (no limit) or more", cfg.RequestsPerSecond))
	}
	if pair := cfg.AppID != "" && cfg.AppSecret != nil; pair == (cfg.Token != nil) || (cfg.Token != nil && cfg.AppID != "") {
		errs = append(errs, errors.New("platform: want either appID and appSecret, or token"))
	}
	if cfg.Encryption != nil {
		errs = append(errs, cfg.Encryption.check())
		if cfg.OpenPoints {
			errs = append(errs, errors.New("platform.encryption: the platform's pages know no encrypted body of the open API (pointAPI: open)"))
		}
	}
	if cfg.OpenPoints && cfg.Paths.Point == "" {
		cfg.Paths.Point = openPointPath
	}
	endpoints, token, err := targets(cfg.BaseURL, cfg.Paths)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}

	c := &Client{endpoints: endpoints, timeout: cfg.Timeout, lease: cfg.Lease, userAgent: cfg.UserAgent, open: cfg.OpenPoints, transport: newTransport(cfg.Timeout, cfg.MaxConns)}
	if cfg.Encryption != nil {
		c.sealer = newSealer(*cfg.Encryption)
	}
	if cfg.RequestsPerSecond > 0 {
		// A tenth of a second's worth may go at once: timers are too coarse to space thousands evenly.
		c.limiter = rate.NewLimiter(rate.Limit(cfg.RequestsPerSecond), max(1, int(cfg.RequestsPerSecond/10)))
	}
	c.buffers.New = func() any { return new(encoded) }
	c.calls = tokenCalls{client: c, target: token, appID: cfg.AppID, secret: cfg.AppSecret, token: cfg.Token}
	c.tokens = &tokens{fetch: c.calls.fetch, early: cfg.Timeout / 4, log: cfg.Logger}
	return c, nil
}

// Close closes the connections that are idle. No Send may follow.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Target names where an endpoint's requests go: method, and URL without query. Empty where the endpoint has no address.
func (c *Client) Target(e connector.Endpoint) string {
	if t := c.endpoints[e]; t != nil {
		return t.post
	}
	return ""
}

// Send makes one request of records and reads the answer, by the table in the package comment. Where the token was refused it gets a
// fresh one and tries once more. It blocks at most for the time-out, and for the rate limit; when ctx ends it returns early, as a cut.
func (c *Client) Send(ctx context.Context, req *connector.Request) connector.Answer {
	to, err := c.target(req.Endpoint)
	if err == nil {
		err = check(req)
	}
	if err != nil {
		return connector.Answer{Verdict: connector.SetupWrong, NotApplied: true, Err: err}
	}
	return c.ask(ctx, to, func() (*encoded, error) { return c.encode(req) }, func(r *response) connector.Answer { return readAnswer(r, req) })
}

// Probe asks whether an endpoint is back, with the body {}, encrypted where points are: it lacks every required field and so can't be
// applied. Any answer that shows the platform itself at work, a rejection above all, is Delivered; a refused token, a wrong set-up and
// slow-down come as they are.
func (c *Client) Probe(ctx context.Context, endpoint connector.Endpoint) connector.Answer {
	to, err := c.target(endpoint)
	if err != nil {
		return connector.Answer{Verdict: connector.SetupWrong, NotApplied: true, Err: err}
	}
	empty := func() (*encoded, error) {
		if endpoint == connector.PointEndpoint || endpoint == connector.PointDecreaseEndpoint {
			return c.encodePoint([]byte("{}"))
		}
		e := c.buffer()
		e.bytes = append(e.bytes, "{}"...)
		return e, nil
	}
	return c.ask(ctx, to, empty, func(r *response) connector.Answer {
		a, _ := readCommon(r)
		switch a.Verdict {
		case connector.Rejected, connector.TooBig:
			a.Verdict = connector.Delivered
		}
		return a
	})
}

// ask posts a body with a token, and once more, made anew, with a fresh token where the first one was refused.
func (c *Client) ask(ctx context.Context, to *target, body func() (*encoded, error), read func(*response) connector.Answer) connector.Answer {
	left := c.timeout
	var refused uint64
	for {
		if c.limiter != nil {
			if err := c.limiter.Wait(ctx); err != nil {
				return failed(newError(to.post, "the wait for platform.requestsPerSecond was cut short", "", context.Cause(ctx)), true)
			}
		}
		data, err := body()
		if err != nil { // a key that can't be read: it blames no record
			return connector.Answer{Verdict: connector.SetupWrong, NotApplied: true, Err: err}
		}
		if c.lease != nil {
			if err := c.lease(ctx); err != nil {
				data.release()
				return failed(newError(to.post, "not sent: it is not sure that no other process sends: "+err.Error(), "", err), true)
			}
		}
		started := time.Now()
		a, generation := c.attempt(ctx, left, to, data, refused, read)
		data.release()
		if a.Verdict != connector.TokenRefused || refused != 0 {
			return a
		}
		refused = generation
		left -= time.Since(started)
	}
}

// attempt is one exchange with a token newer than the refused generation; it gives the token's generation.
func (c *Client) attempt(ctx context.Context, left time.Duration, to *target, data *encoded, refused uint64,
	read func(*response) connector.Answer) (connector.Answer, uint64) {
	ctx, cancel := context.WithTimeoutCause(ctx, left, errTimeout(c.timeout))
	defer cancel()
	token, err := c.tokens.get(ctx, refused)
	if err != nil {
		return tokenFailed(err), 0
	}
	r, failure := c.post(ctx, to, token.value, data)
	if failure != nil {
		return *failure, token.generation
	}
	return read(r), token.generation
}

// TokenState tells of the token in use, without showing it.
type TokenState struct {
	// Fetched is when it came; zero: none has yet.
	Fetched time.Time
	// Expires is when it ends; zero: unknown (Config.Token).
	Expires time.Time
}

// TokenState tells of the token in use.
func (c *Client) TokenState() TokenState {
	c.tokens.mu.Lock()
	defer c.tokens.mu.Unlock()
	return TokenState{Fetched: c.tokens.current.fetched, Expires: c.tokens.current.expires}
}

// check refuses a request that the contract has no shape for.
func check(req *connector.Request) error {
	points := req.Endpoint == connector.PointEndpoint || req.Endpoint == connector.PointDecreaseEndpoint
	switch {
	case len(req.Records) == 0:
		return errors.New("a request without records")
	case points && len(req.Records) > 1:
		return fmt.Errorf("a request for points carries one record, not %d", len(req.Records))
	}
	return nil
}
