package platformsim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Endpoint is one of the platform's paths.
type Endpoint string

// The endpoints. PointDecrease has the body of Point; PointOpen is the sibling of the open API; Elsewhere stands for every path that the platform
// does not have.
const (
	Point         Endpoint = "point"
	PointDecrease Endpoint = "pointDecrease"
	PointOpen     Endpoint = "pointOpen"
	Event         Endpoint = "event"
	GroupRelation Endpoint = "groupRelation"
	Token         Endpoint = "token"
	Elsewhere     Endpoint = "elsewhere"
)

// redirectTarget is where AnswerRedirect points.
const redirectTarget = "/elsewhere"

// The platform's business codes.
const (
	codeOK          = "200"
	codeWrongParam  = "400"
	codeSecretWrong = "100100"
	codeTokenWrong  = "100200"
)

// Options are the settings of a Sim. The zero value takes every token that is not empty and has the standard paths.
type Options struct {
	// AppID and AppSecret are taken at the token call; AppID empty: that call always answers 100100.
	AppID, AppSecret string
	// Token is a fixed token that data calls are taken with, beside those that the token call gave. With Token and AppID both empty every
	// token is taken.
	Token string
	// TokenLife is the life of a token that the token call gives; 0: 7,200 s.
	TokenLife time.Duration
	// HideExpire makes the token call say "expire": 0, as the page's example does.
	HideExpire bool
	// Stale401 answers a missing or stale token with HTTP 401 rather than with code 100200.
	Stale401 bool
	// NumericCodes writes code as a JSON number rather than as a string.
	NumericCodes bool
	// Paths replaces standard paths (DefaultPaths); all must differ.
	Paths map[Endpoint]string
	// EventKeys are the events that are defined; empty: every one.
	EventKeys []string
	// UpdateReplaces makes Groups read an update as a replacement of all groups of the customer, rather than as adding the named ones.
	// The platform's pages allow both.
	UpdateReplaces bool
	// Decrypt, where it is set, gives the JSON body of a point from its encryptStr (on Point and PointDecrease); plain bodies are refused.
	Decrypt func(ciphertext []byte) ([]byte, error)
	// ClockSkew is how far timestamp of PointOpen may be from this machine's clock; 0: any.
	ClockSkew time.Duration
	// OpenDecrease gives PointDecrease the body of PointOpen rather than that of Point.
	OpenDecrease bool
	// MaxBody is the most bytes of a body, above which the answer is 413; 0: 16 MiB.
	MaxBody int
	// Seed seeds the dice of faults with a Probability.
	Seed uint64
	// NoLedger keeps counts only: no records, no requests, no customers in flight. For benchmarks.
	NoLedger bool
}

// DefaultPaths gives the standard paths. The platform has none for Point and PointDecrease; those here are made up.
func DefaultPaths() map[Endpoint]string {
	return map[Endpoint]string{
		Point:         "/point/increase",
		PointDecrease: "/point/decrease",
		PointOpen:     "/api/open/point/increase",
		Event:         "/api/integrate/event/v2/batchAdd",
		GroupRelation: "/api/integrate/audience/group/rel/batchAdd",
		Token:         "/api/open/app/getOrgAccessToken",
	}
}

// Sim is the simulator, an http.Handler. Make it with New. Safe for concurrent use.
//
// It cuts connections by panicking with http.ErrAbortHandler, which net/http's server understands.
type Sim struct {
	options Options // as New completed them
	paths   map[string]Endpoint
	keys    map[string]bool // of EventKeys
	admin   http.Handler
	seed    maphash.Seed
	readers sync.Pool // *scratch

	// mu guards all below. It is never held while a request is read, checked, delayed or answered.
	mu     sync.Mutex
	ledger ledger
	tokens tokens
	faults faults
	down   DownMode
	number uint64           // of the request that came last
	flying map[uint64]*call // by hash of an identity: the request in flight that names it
}

// New makes a simulator.
func New(o Options) *Sim {
	if o.TokenLife == 0 {
		o.TokenLife = defaultTokenLife
	}
	if o.MaxBody == 0 {
		o.MaxBody = 16 << 20
	}
	s := &Sim{options: o, paths: map[string]Endpoint{}, keys: map[string]bool{}, seed: maphash.MakeSeed(),
		flying: map[uint64]*call{},
		tokens: tokens{fixed: o.Token, issued: map[string]time.Time{}},
		faults: faults{dice: rand.New(rand.NewPCG(o.Seed, 0))},
		ledger: ledger{counts: map[Endpoint]*EndpointStats{Elsewhere: {}}},
	}
	for e, path := range DefaultPaths() {
		if o.Paths[e] != "" {
			path = o.Paths[e]
		}
		s.paths[path] = e
		s.ledger.counts[e] = &EndpointStats{}
	}
	for _, key := range o.EventKeys {
		s.keys[key] = true
	}
	s.readers.New = func() any { return &scratch{reader: reader{keep: !o.NoLedger, eventKeys: s.keys, skew: o.ClockSkew}} }
	s.admin = s.adminHandler()
	return s
}

// scratch is what reading a request needs and the ledger does not keep.
type scratch struct {
	reader
	buffer []byte // for bodies, where the ledger keeps none
}

// call is one request on its way through the simulator.
type call struct {
	number   uint64
	endpoint Endpoint
	ctx      context.Context
	received time.Time
	size     int       // of the body as it came
	n        int       // records in the body
	records  []Applied // nil with NoLedger
	keys     []uint64  // under which it stands in Sim.flying
	applied  int
	fault    int
	faulted  bool
	bad      *refusal // why it is refused for how it came or what it holds
}

// answer is what the simulator says.
type answer struct {
	status      int
	code        string
	contentType string
	body        []byte
	header      [2]string // one more header; empty: none
	cut         cut
	refusal     string
}

type cut uint8

const (
	noCut     cut = iota
	cutBefore     // before the answer
	cutWithin     // in its middle
)

// ServeHTTP takes a request; under /_sim/ it is the admin API.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, adminPrefix) {
		s.admin.ServeHTTP(w, r)
		return
	}
	c := s.begin(r)
	work := s.readers.Get().(*scratch)
	a := s.take(c, r, work)
	s.readers.Put(work)
	// It ends before the answer leaves: who has the answer may send the customer's next record.
	s.end(c, &a)
	a.write(w)
}

// begin counts a request in.
func (s *Sim) begin(r *http.Request) *call {
	e, ok := s.paths[r.URL.Path]
	if !ok {
		e = Elsewhere
	}
	c := &call{endpoint: e, ctx: r.Context(), received: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	c.number = s.number
	count := s.ledger.counts[e]
	count.Requests++
	count.InFlight++
	count.MaxInFlight = max(count.MaxInFlight, count.InFlight)
	if e == Elsewhere && r.URL.Path == redirectTarget {
		s.ledger.violate(Violation{Kind: RedirectFollowed, Request: c.number, Endpoint: e})
	}
	s.ledger.wake()
	return c
}

// take reads a request, meets it with a fault where there is one, and applies it or not.
func (s *Sim) take(c *call, r *http.Request, work *scratch) answer {
	if mode := s.downMode(); mode != "" {
		c.faulted = true
		if mode == DownCut {
			return answer{cut: cutBefore}
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, int64(s.options.MaxBody)))
		return statusAnswer(http.StatusServiceUnavailable, "")
	}
	body, err := s.readBody(r, work)
	c.size = len(body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		c.size = int(max(0, r.ContentLength))
		a := statusAnswer(http.StatusRequestEntityTooLarge, "")
		a.refusal = fmt.Sprintf("the body has more than %d bytes", s.options.MaxBody)
		return a
	case err != nil:
		return answer{cut: cutBefore} // the client has gone
	}
	switch c.endpoint {
	case Elsewhere:
		a := statusAnswer(http.StatusNotFound, "")
		a.refusal = "the platform has no such path"
		return a
	case Token:
	default:
		body, c.bad = s.check(c.endpoint, r, body, &work.reader)
		c.n, c.records = work.n, work.records
		s.enter(c)
	}
	if f := s.pick(c, body); f != nil {
		return s.meet(c, r, f)
	}
	return s.normal(c, r, nil)
}

// readBody reads the whole body. With a ledger the bytes are its own; else they live until the scratch is used again.
func (s *Sim) readBody(r *http.Request, work *scratch) ([]byte, error) {
	most := int64(s.options.MaxBody)
	if r.ContentLength > most {
		return nil, &http.MaxBytesError{Limit: most}
	}
	if r.ContentLength >= 0 {
		size := int(r.ContentLength)
		var body []byte
		if s.options.NoLedger {
			if cap(work.buffer) < size {
				work.buffer = make([]byte, size)
			}
			body = work.buffer[:size]
		} else {
			body = make([]byte, size)
		}
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return nil, err
		}
		// To the end, where net/http begins to watch whether the client is still there.
		_, err := r.Body.Read(make([]byte, 1))
		if err == io.EOF {
			err = nil
		}
		return body, err
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	if err == nil && int64(len(body)) > most {
		err = &http.MaxBytesError{Limit: most}
	}
	return body, err
}

// check checks how a data call came and what it holds. It gives the plain body.
func (s *Sim) check(e Endpoint, r *http.Request, body []byte, rd *reader) ([]byte, *refusal) {
	rd.records, rd.ids, rd.n = nil, nil, 0
	if r.Method != http.MethodPost {
		return body, refuse("the method must be POST, is %s", r.Method)
	}
	if values := r.Header.Values("Content-Type"); len(values) != 1 || !isJSON(values[0]) {
		return body, refuse("Content-Type must be application/json, is %s", quote([]byte(strings.Join(values, ", "))))
	}
	if values := r.Header.Values("Content-Encoding"); len(values) > 0 {
		return body, refuse("Content-Encoding must not be sent")
	}
	if s.options.Decrypt != nil && (e == Point || e == PointDecrease) {
		plain, bad := rd.decrypt(body, s.options.Decrypt)
		if bad != nil {
			return body, bad
		}
		body = plain
	}
	if e == PointDecrease && s.options.OpenDecrease {
		return body, rd.read(PointOpen, body)
	}
	return body, rd.read(e, body)
}

// isJSON reports whether a Content-Type is JSON in UTF-8.
func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || media != "application/json" {
		return false
	}
	for name, value := range params {
		if name != "charset" || !strings.EqualFold(value, "utf-8") {
			return false
		}
	}
	return true
}

var encryptedTable = table{{name: "encryptStr", required: true}}

// decrypt takes the plain body out of an encrypted one.
func (d *doc) decrypt(body []byte, hook func([]byte) ([]byte, error)) ([]byte, *refusal) {
	var f [1]int32
	if bad := d.parse(body); bad != nil {
		return nil, bad
	}
	if bad := d.fields(0, encryptedTable, f[:]); bad != nil {
		bad.what += " (secure data transfer is on: the body carries only encryptStr)"
		return nil, bad
	}
	plain, err := hook(d.bytes(f[0]))
	if err != nil {
		return nil, refuse("can't be decrypted: %v", err).in("encryptStr")
	}
	return plain, nil
}

// enter puts the request's customers into Sim.flying, and records a violation where another request in flight names one of them.
func (s *Sim) enter(c *call) {
	if len(c.records) == 0 {
		return
	}
	update := c.records[0].OptType == "update"
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range c.records {
		repeated := false
		for _, identity := range c.records[i].Identities {
			key := maphash.String(s.seed, identity)
			other := s.flying[key]
			switch {
			case other == c:
				// Twice in one record is no repetition; this one may have come from the record itself, so look at those before.
				if update && !repeated && c.named(identity, i) {
					repeated = true
					s.ledger.violate(Violation{Kind: RepeatedUpdate, Request: c.number, Endpoint: c.endpoint, Identity: identity})
				}
				continue
			case other != nil && other.ctx.Err() == nil: // of a client that has hung up nobody waits for the answer
				s.ledger.violate(Violation{Kind: Overlap, Request: c.number, Endpoint: c.endpoint,
					Other: other.number, OtherEndpoint: other.endpoint, Identity: identity})
			}
			s.flying[key] = c
			c.keys = append(c.keys, key)
		}
	}
}

// named reports whether a record before i names the identity.
func (c *call) named(identity string, i int) bool {
	for j := range i {
		for _, other := range c.records[j].Identities {
			if other == identity {
				return true
			}
		}
	}
	return false
}

// normal is the answer without a fault. Of a group relation the records whose JSON holds one of failing are left out.
func (s *Sim) normal(c *call, r *http.Request, failing []string) answer {
	switch {
	case c.endpoint == Token:
		return s.tokenCall(r)
	case !s.fresh(r.Header.Get("X-Token")):
		a := s.answer(codeTokenWrong, "TOKEN_ERROR", "token is wrong or expired", nil)
		if s.options.Stale401 {
			a = s.answer("401", "UNAUTHORIZED", "token is wrong or expired", nil)
			a.status = http.StatusUnauthorized
		}
		a.refusal = "the token is missing, wrong or expired"
		return a
	case c.bad != nil:
		return s.refused(c.bad)
	}
	failed := s.apply(c, failing)
	switch c.endpoint {
	case Event:
		return s.answer(codeOK, "0", "success", nil)
	case GroupRelation:
		if len(failed) > 0 {
			return s.groupAnswer(2, c.applied, len(failed), failed)
		}
		return s.groupAnswer(1, c.applied, 0, nil)
	}
	return s.answer(codeOK, "SUCCESS", "ok", true)
}

// apply applies the records of a request, but those whose JSON holds one of failing, and gives those.
func (s *Sim) apply(c *call, failing []string) (failed []json.RawMessage) {
	good := c.records
	if len(failing) > 0 {
		good, failed = split(c.records, failing)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.applied = c.n - len(failed)
	for i := range good {
		a := &good[i]
		a.Seq, a.Request, a.Received, a.Endpoint = s.ledger.seq+uint64(i)+1, c.number, c.received, c.endpoint
	}
	if len(good) > 0 {
		s.ledger.blocks = append(s.ledger.blocks, good)
	}
	s.ledger.seq += uint64(c.applied)
	s.ledger.counts[c.endpoint].Applied += uint64(c.applied)
	s.ledger.wake()
	return failed
}

// end counts a request out.
func (s *Sim) end(c *call, a *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range c.keys {
		if s.flying[key] == c {
			delete(s.flying, key)
		}
	}
	count := s.ledger.counts[c.endpoint]
	count.InFlight--
	count.Records += uint64(c.n)
	count.Bytes += uint64(c.size)
	count.MaxBatch = max(count.MaxBatch, c.n)
	if a.refusal != "" {
		count.Refused++
	}
	if c.faulted {
		count.Faulted++
	}
	if !s.options.NoLedger {
		req := Request{Number: c.number, Endpoint: c.endpoint, Received: c.received, Answered: time.Now(), Bytes: c.size, Records: c.n,
			Applied: c.applied, Status: a.status, Code: a.code, Refusal: a.refusal, Fault: c.fault, Cut: a.cut != noCut, HungUp: c.ctx.Err() != nil}
		s.ledger.requests = append(s.ledger.requests, req)
	}
	s.ledger.wake()
}

// answer makes an answer with the platform's JSON.
func (s *Sim) answer(code, errorCode, msg string, data any) answer {
	body := struct {
		Code      any    `json:"code"`
		ErrorCode string `json:"errorCode"`
		Msg       string `json:"msg"`
		Data      any    `json:"data"`
	}{code, errorCode, msg, data}
	if n, err := strconv.Atoi(code); err == nil && s.options.NumericCodes {
		body.Code = n
	}
	text, _ := json.Marshal(body) // strings and our own types: it can't fail
	return answer{status: http.StatusOK, code: code, contentType: "application/json;charset=UTF-8", body: text}
}

// refused is the answer to a request that the contract does not allow.
func (s *Sim) refused(bad *refusal) answer {
	a := s.answer(codeWrongParam, "PARAM_ERROR", bad.Error(), nil)
	a.refusal = bad.Error()
	return a
}

// groupAnswer is the answer to a group relation.
func (s *Sim) groupAnswer(status, applied, failed int, errorData []json.RawMessage) answer {
	data := struct {
		Status    int               `json:"status"`
		Message   string            `json:"message"`
		Succeeded int               `json:"importSuccessNum"`
		Failed    int               `json:"importFailNum"`
		ErrorData []json.RawMessage `json:"errorData"`
	}{status, map[int]string{-1: "failed", 0: "in progress", 1: "success", 2: "partly imported"}[status], applied, failed, errorData}
	return s.answer(codeOK, "0", "success", data)
}

// statusAnswer is an answer of a gateway, not of the platform.
func statusAnswer(status int, retryAfter string) answer {
	a := answer{status: status, contentType: "text/plain; charset=utf-8", body: []byte(http.StatusText(status) + "\n")}
	if retryAfter != "" {
		a.header = [2]string{"Retry-After", retryAfter}
	}
	return a
}

// write sends the answer, or cuts the connection.
func (a *answer) write(w http.ResponseWriter) {
	if a.cut == cutBefore {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	if a.header[0] != "" {
		h.Set(a.header[0], a.header[1])
	}
	if a.contentType != "" {
		h.Set("Content-Type", a.contentType)
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	if a.cut == cutWithin {
		_, _ = w.Write(a.body[:len(a.body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(a.body) // a client that has gone gets no answer
}
