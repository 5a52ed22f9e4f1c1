package platformsim

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"
)

// Applied is one record that the simulator applied.
type Applied struct {
	// Seq numbers the applied records of all endpoints in the order in which they were applied, from 1 on without a gap.
	Seq uint64 `json:"seq"`
	// Request is the Number of the request that carried it.
	Request uint64 `json:"request"`
	// Received is when that request had come.
	Received time.Time `json:"received"`
	Endpoint Endpoint  `json:"endpoint"`
	// Record is the point's body, the event, or the group relation item, byte for byte as it came (decrypted). Don't change it.
	Record json.RawMessage `json:"record"`
	// PublicParams is the request's, byte for byte; nil for points.
	PublicParams json.RawMessage `json:"publicParams,omitempty"`
	// Customer is the identity value by which the platform looks for the customer first: of a point audienceUserId, then phoneList, openids
	// (or thirdId); of an event the first identity; of a group relation as matchingType, identityType and identifyWay say.
	Customer string `json:"customer"`
	// Identities are all identity values, Customer first.
	Identities []string `json:"identities"`

	// Point is the change in points, never negative; on PointDecrease they are taken away.
	Point int64 `json:"point,omitempty"`
	// Remark is a point's.
	Remark string `json:"remark,omitempty"`
	// BizCode is relateBizCode of a point of the open API.
	BizCode string `json:"relateBizCode,omitempty"`
	// EventKey, UUID, Time (unix milliseconds, 0: not sent) and EventArgs (byte for byte, nil: not sent) are an event's.
	EventKey  string          `json:"eventKey,omitempty"`
	UUID      string          `json:"uuid,omitempty"`
	Time      int64           `json:"time,omitempty"`
	EventArgs json.RawMessage `json:"eventargs,omitempty"`
	// OptType and Groups are a group relation's.
	OptType string   `json:"optType,omitempty"`
	Groups  []string `json:"groups,omitempty"`
}

// Request is one request that was answered or cut, token calls included.
type Request struct {
	// Number counts all requests in the order in which they came, from 1 on.
	Number   uint64    `json:"number"`
	Endpoint Endpoint  `json:"endpoint"`
	Received time.Time `json:"received"`
	Answered time.Time `json:"answered"`
	// Bytes is the size of the body as it came, encrypted where it was.
	Bytes int `json:"bytes"`
	// Records is how many the body held, Applied how many of them were applied.
	Records int `json:"records"`
	Applied int `json:"applied"`
	// Status is the HTTP status of the answer; 0: the connection was cut before one.
	Status int `json:"status"`
	// Code is the business code of the answer; empty: it had none.
	Code string `json:"code,omitempty"`
	// Refusal is why the request was refused, where it was for what it holds or how it came; it may quote it.
	Refusal string `json:"refusal,omitempty"`
	// Fault is the id of the fault that met it; 0: none.
	Fault int `json:"fault,omitempty"`
	// Cut says that the connection was cut before the answer or within it.
	Cut bool `json:"cut,omitempty"`
	// HungUp says that the client had hung up before the request was done: its time had run out, or it has died.
	HungUp bool `json:"hungUp,omitempty"`
}

// ViolationKind says what a well-behaved client would not have done, though the platform takes it.
type ViolationKind string

// The kinds of violations.
const (
	// Overlap: two requests in flight named the same customer, on one endpoint or two.
	Overlap ViolationKind = "overlap"
	// RepeatedUpdate: one request with optType update named a customer twice.
	RepeatedUpdate ViolationKind = "repeatedUpdate"
	// RedirectFollowed: a request came to where a redirect had pointed; it took its token and its body along.
	RedirectFollowed ViolationKind = "redirectFollowed"
)

// Violation is one breach of what keeps a customer's records in order, or of what keeps secrets at home.
type Violation struct {
	Kind ViolationKind `json:"kind"`
	// Request and Endpoint are of the request that broke the rule, Other and OtherEndpoint of the one that was in flight already.
	Request       uint64   `json:"request"`
	Endpoint      Endpoint `json:"endpoint,omitempty"`
	Other         uint64   `json:"other,omitempty"`
	OtherEndpoint Endpoint `json:"otherEndpoint,omitempty"`
	// Identity is the value that both name.
	Identity string `json:"identity,omitempty"`
}

// maxViolations bounds the list of violations; Stats.Violations counts on.
const maxViolations = 1000

// EndpointStats counts what came to one endpoint.
type EndpointStats struct {
	// Requests came; Refused were refused for what they hold, how they came or a stale token; Faulted met a fault or an outage.
	Requests uint64 `json:"requests"`
	Refused  uint64 `json:"refused"`
	Faulted  uint64 `json:"faulted"`
	// Records were in the bodies, Applied were applied.
	Records uint64 `json:"records"`
	Applied uint64 `json:"applied"`
	// Bytes is the size of all bodies.
	Bytes uint64 `json:"bytes"`
	// MaxBatch is the most records in one request.
	MaxBatch int `json:"maxBatch"`
	// InFlight is how many requests are in flight now, MaxInFlight the most at one time.
	InFlight    int `json:"inFlight"`
	MaxInFlight int `json:"maxInFlight"`
}

// Stats counts what came, since the simulator was made.
type Stats struct {
	// Endpoints has an entry for every endpoint, the token call included.
	Endpoints map[Endpoint]EndpointStats `json:"endpoints"`
	// Seq is the Seq of the record applied last; the number of applied records.
	Seq uint64 `json:"seq"`
	// Requests and Refused are the sums over all endpoints.
	Requests uint64 `json:"requests"`
	Refused  uint64 `json:"refused"`
	// TokensIssued counts the token calls that gave a token.
	TokensIssued uint64 `json:"tokensIssued"`
	Violations   uint64 `json:"violations"`
	Down         bool   `json:"down"`
}

// ledger is what the simulator remembers. Sim.mu guards it.
type ledger struct {
	seq        uint64
	blocks     [][]Applied // one a request, in the order of application
	requests   []Request
	violations []Violation
	broken     uint64 // violations, all of them
	counts     map[Endpoint]*EndpointStats
	changed    chan struct{} // closed at the next change; nil while nobody waits
}

// wake wakes those who wait. The caller holds Sim.mu.
func (l *ledger) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *ledger) violate(v Violation) {
	if l.broken++; len(l.violations) < maxViolations {
		l.violations = append(l.violations, v)
	}
}

// Wait returns nil as soon as done gives true; it asks at once, and again after everything that happens: a request comes, is answered,
// a record is applied, a violation is seen. done may call the methods of the Sim. Where ctx ends first, the error says how far things had come.
func (s *Sim) Wait(ctx context.Context, done func(*Sim) bool) error {
	for {
		s.mu.Lock()
		if s.ledger.changed == nil {
			s.ledger.changed = make(chan struct{})
		}
		changed := s.ledger.changed
		s.mu.Unlock()
		if done(s) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			st := s.Stats()
			return fmt.Errorf("platformsim: what was waited for did not come: %w (%d records applied, %d requests, %d refused)",
				context.Cause(ctx), st.Seq, st.Requests, st.Refused)
		}
	}
}

// Ledger gives all applied records in the order in which they were applied; empty with Options.NoLedger.
func (s *Sim) Ledger() []Applied { return s.LedgerSince(0, "") }

// LedgerSince gives the applied records with a Seq above since; of one endpoint, or of all where e is empty.
func (s *Sim) LedgerSince(since uint64, e Endpoint) []Applied {
	var all []Applied
	for _, block := range s.since(since) {
		if e == "" || block[0].Endpoint == e {
			all = append(all, block[sort.Search(len(block), func(i int) bool { return block[i].Seq > since }):]...)
		}
	}
	return all
}

// since gives the blocks that reach beyond since. Blocks never change once they are in the ledger.
func (s *Sim) since(since uint64) [][]Applied {
	s.mu.Lock()
	defer s.mu.Unlock()
	blocks := s.ledger.blocks
	return slices.Clip(blocks[sort.Search(len(blocks), func(i int) bool { return blocks[i][len(blocks[i])-1].Seq > since }):])
}

// ByCustomer gives the applied records of which any identity has that value, in order.
func (s *Sim) ByCustomer(identity string) []Applied {
	var found []Applied
	for _, block := range s.since(0) {
		for _, a := range block {
			if slices.Contains(a.Identities, identity) {
				found = append(found, a)
			}
		}
	}
	return found
}

// Count gives the number of applied records of one endpoint, or of all where e is empty. It is cheap, also with Options.NoLedger.
func (s *Sim) Count(e Endpoint) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e == "" {
		return int(s.ledger.seq)
	}
	if c := s.ledger.counts[e]; c != nil {
		return int(c.Applied)
	}
	return 0
}

// Points gives the points of each customer (Applied.Customer): what was added less what was taken away.
func (s *Sim) Points() map[string]int64 {
	sums := map[string]int64{}
	for _, block := range s.since(0) {
		for _, a := range block {
			switch a.Endpoint {
			case Point, PointOpen:
				sums[a.Customer] += a.Point
			case PointDecrease:
				sums[a.Customer] -= a.Point
			}
		}
	}
	return sums
}

// Groups gives the groups of each customer (Applied.Customer), sorted, as they are after everything that was applied: add adds, delete takes away,
// update adds or, with Options.UpdateReplaces, replaces. A customer whose groups are all gone has an empty list.
func (s *Sim) Groups() map[string][]string {
	sets := map[string]map[string]bool{}
	for _, block := range s.since(0) {
		for _, a := range block {
			if a.Endpoint != GroupRelation {
				continue
			}
			set := sets[a.Customer]
			if set == nil || a.OptType == "update" && s.options.UpdateReplaces {
				set = map[string]bool{}
				sets[a.Customer] = set
			}
			for _, g := range a.Groups {
				if a.OptType == "delete" {
					delete(set, g)
				} else {
					set[g] = true
				}
			}
		}
	}
	groups := make(map[string][]string, len(sets))
	for customer, set := range sets {
		list := make([]string, 0, len(set))
		for g := range set {
			list = append(list, g)
		}
		slices.Sort(list)
		groups[customer] = list
	}
	return groups
}

// Requests gives all requests that have ended, in the order in which they ended; none with Options.NoLedger.
func (s *Sim) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ledger.requests)
}

// Violations gives the first thousand violations; none but redirects with Options.NoLedger.
func (s *Sim) Violations() []Violation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ledger.violations)
}

// InFlight gives the number of requests that came and have not ended, of one endpoint, or of all where e is empty.
func (s *Sim) InFlight(e Endpoint) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for name, c := range s.ledger.counts {
		if e == "" || name == e {
			n += c.InFlight
		}
	}
	return n
}

// Stats gives the counts of this moment.
func (s *Sim) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Endpoints: map[Endpoint]EndpointStats{}, Seq: s.ledger.seq, TokensIssued: s.tokens.count,
		Violations: s.ledger.broken, Down: s.down != ""}
	for e, c := range s.ledger.counts {
		st.Endpoints[e] = *c
		st.Requests += c.Requests
		st.Refused += c.Refused
	}
	return st
}
