package platformsim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// Action is what a fault does to the requests that it meets.
type Action string

// The actions. Those that only answer apply nothing, unless Fault.Apply is set.
const (
	// Pass goes on as without a fault; for faults that only wait (Delay, Gate).
	Pass Action = ""
	// AnswerStatus answers with the HTTP status Status and, where it is set, the header Retry-After; Body, or the status's name as plain text.
	AnswerStatus Action = "status"
	// AnswerCode answers HTTP 200 with the business code Code, ErrorCode and Msg.
	AnswerCode Action = "code"
	// AnswerDataFalse answers code 200 with data false.
	AnswerDataFalse Action = "dataFalse"
	// AnswerHTML answers HTTP 200 (or Status) with a page, as a gateway does.
	AnswerHTML Action = "html"
	// AnswerEmpty answers HTTP 200 (or Status) without a body.
	AnswerEmpty Action = "empty"
	// AnswerRedirect answers 302 (or Status) and points to another path of this simulator; who follows is a Violation.
	AnswerRedirect Action = "redirect"
	// AnswerTooLarge answers 413; with Over only to bodies above that size.
	AnswerTooLarge Action = "tooLarge"
	// CutBeforeApply closes the connection without an answer; nothing is applied.
	CutBeforeApply Action = "cutBeforeApply"
	// ApplyThenCut applies the request and closes the connection without an answer.
	ApplyThenCut Action = "applyThenCut"
	// CutAnswer applies the request and closes the connection in the middle of the answer.
	CutAnswer Action = "cutAnswer"
	// PartlyFail answers a group relation with status 2: the items whose JSON holds one of Items are in errorData, the others are applied. It
	// meets only requests that have such an item.
	PartlyFail Action = "partial"
	// AnswerGroupStatus answers a group relation with the status GroupStatus: 0, in progress, applies it; -1, failed, doesn't.
	AnswerGroupStatus Action = "groupStatus"
	// ExpireThenPass makes all issued tokens stale and goes on, so that the request is refused for its token.
	ExpireThenPass Action = "expireTokens"
)

var actions = []Action{Pass, AnswerStatus, AnswerCode, AnswerDataFalse, AnswerHTML, AnswerEmpty, AnswerRedirect, AnswerTooLarge, CutBeforeApply,
	ApplyThenCut, CutAnswer, PartlyFail, AnswerGroupStatus, ExpireThenPass}

// Fault is something that goes wrong on command. A request meets the first fault, in the order of Inject, that fits it and is not used up.
//
// In JSON, for the admin API, Delay is a string like "1.5s".
type Fault struct {
	// Endpoint is where it strikes; empty: on every endpoint that takes records. Token calls are met only where it says so.
	Endpoint Endpoint `json:"endpoint,omitempty"`
	// Match, where it is set, must stand in the (decrypted) body: so one poisoned record spoils every request that carries it.
	Match string `json:"match,omitempty"`
	// Over meets only bodies with more bytes; 0: all.
	Over int `json:"over,omitempty"`
	// Skip passes over the first so many requests that fit.
	Skip int `json:"skip,omitempty"`
	// Count is how many requests it meets; 0: one; -1: for ever.
	Count int `json:"count,omitempty"`
	// Probability meets a request that fits only with this chance, by dice that Options.Seed seeds; 0: always.
	Probability float64 `json:"probability,omitempty"`

	Action Action `json:"action,omitempty"`
	// Status is for AnswerStatus, and may be set for AnswerHTML, AnswerEmpty and AnswerRedirect.
	Status int `json:"status,omitempty"`
	// RetryAfter is the header's value, seconds or a date, for AnswerStatus.
	RetryAfter string `json:"retryAfter,omitempty"`
	// Body, for AnswerStatus and AnswerHTML, replaces the standard body; one that begins with { is sent as JSON.
	Body string `json:"body,omitempty"`
	// Code, ErrorCode and Msg are for AnswerCode; ErrorCode and Msg may be empty.
	Code      string `json:"code,omitempty"`
	ErrorCode string `json:"errorCode,omitempty"`
	Msg       string `json:"msg,omitempty"`
	// Items is for PartlyFail.
	Items []string `json:"items,omitempty"`
	// GroupStatus is for AnswerGroupStatus: 0 or -1.
	GroupStatus int `json:"groupStatus,omitempty"`
	// Apply applies the request (if the contract allows it) before it is answered with the fault.
	Apply bool `json:"apply,omitempty"`

	// Delay waits before anything is done; it ends early where the client hangs up, and the request then goes on, as a server's does.
	Delay time.Duration `json:"-"`
	// Gate waits, as Delay does, until it is closed or receives; for Go only. It must be opened at last.
	Gate <-chan struct{} `json:"-"`
	// WaitAfter makes Delay and Gate wait after the request was applied, before the answer.
	WaitAfter bool `json:"waitAfter,omitempty"`
}

// faultFields is Fault without its methods.
type faultFields Fault

type faultJSON struct {
	faultFields
	Delay string `json:"delay,omitempty"`
}

// MarshalJSON writes Delay as a string.
func (f Fault) MarshalJSON() ([]byte, error) {
	out := faultJSON{faultFields: faultFields(f)}
	if f.Delay != 0 {
		out.Delay = f.Delay.String()
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes; an unknown field is an error.
func (f *Fault) UnmarshalJSON(b []byte) error {
	var in faultJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return err
	}
	*f = Fault(in.faultFields)
	if in.Delay != "" {
		delay, err := time.ParseDuration(in.Delay)
		if err != nil {
			return fmt.Errorf("delay: %w", err)
		}
		f.Delay = delay
	}
	return nil
}

// check says what is wrong with a fault.
func (f *Fault) check(noLedger bool) error {
	switch {
	case !slices.Contains(actions, f.Action):
		return fmt.Errorf("the action %q is unknown; there are %q", f.Action, actions)
	case f.Endpoint == Elsewhere || f.Endpoint != "" && DefaultPaths()[f.Endpoint] == "":
		return fmt.Errorf("the endpoint %q is unknown", f.Endpoint)
	case f.Probability < 0 || f.Probability > 1:
		return errors.New("probability must lie between 0 and 1")
	case f.Count < -1 || f.Skip < 0 || f.Over < 0 || f.Delay < 0:
		return errors.New("count must be -1 or more; skip, over and delay must not be negative")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599), f.Action == AnswerStatus && f.Status == 0:
		return errors.New("status must lie between 200 and 599")
	case f.Action == AnswerCode && f.Code == "":
		return errors.New("the action code needs a code")
	case f.Action == PartlyFail && (len(f.Items) == 0 || slices.Contains(f.Items, "")):
		return errors.New("the action partial needs items, none of them empty")
	case f.Action == PartlyFail && noLedger:
		return errors.New("the action partial needs the ledger, which is turned off")
	case (f.Action == PartlyFail || f.Action == AnswerGroupStatus) && f.Endpoint != "" && f.Endpoint != GroupRelation:
		return fmt.Errorf("the action %s is for the endpoint groupRelation", f.Action)
	case f.Action == AnswerGroupStatus && f.GroupStatus != 0 && f.GroupStatus != -1:
		return errors.New("groupStatus must be 0 or -1; 2 is the action partial")
	case f.Action == Pass && f.Delay == 0 && f.Gate == nil:
		return errors.New("a fault without an action needs a delay")
	}
	return nil
}

// InjectedFault is a fault and what has become of it.
type InjectedFault struct {
	ID int `json:"id"`
	// Left is how many requests it will still meet; -1: no end; 0: it is used up.
	Left int `json:"left"`
	// Hits is how many it has met.
	Hits  int   `json:"hits"`
	Fault Fault `json:"fault"`

	seen int // requests that fit, for Skip
}

// faults are the faults that were injected. Sim.mu guards them.
type faults struct {
	list   []*InjectedFault
	active int // those that are not used up
	last   int // id given last
	dice   *rand.Rand
}

// Inject adds a fault behind the others and gives its id, above zero. The error says what is wrong with the fault.
func (s *Sim) Inject(f Fault) (id int, err error) {
	if err := f.check(s.options.NoLedger); err != nil {
		return 0, fmt.Errorf("platformsim: wrong fault: %w", err)
	}
	f.Items = slices.Clone(f.Items)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.last++
	left := f.Count
	if left == 0 {
		left = 1
	}
	s.faults.list = append(s.faults.list, &InjectedFault{ID: s.faults.last, Left: left, Fault: f})
	s.faults.active++
	return s.faults.last, nil
}

// Faults gives all faults, those that are used up too.
func (s *Sim) Faults() []InjectedFault {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]InjectedFault, 0, len(s.faults.list))
	for _, f := range s.faults.list {
		list = append(list, *f)
	}
	return list
}

// Hits gives how many requests the fault of that id has met; 0 where there is none. A request that waits at a Gate or Delay was met.
func (s *Sim) Hits(id int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults.list {
		if f.ID == id {
			return f.Hits
		}
	}
	return 0
}

// ClearFaults removes the faults of those ids, or all where none is given. Requests that a fault has met already are still under it.
func (s *Sim) ClearFaults(ids ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.list = slices.DeleteFunc(s.faults.list, func(f *InjectedFault) bool { return len(ids) == 0 || slices.Contains(ids, f.ID) })
	s.faults.active = 0
	for _, f := range s.faults.list {
		if f.Left != 0 {
			s.faults.active++
		}
	}
}

// DownMode is how the platform is down.
type DownMode string

// The ways to be down; the zero value is up. Both cover the token call, and neither the admin API.
const (
	// DownUnavailable answers every request with 503, without Retry-After.
	DownUnavailable DownMode = "503"
	// DownCut closes every connection without an answer.
	DownCut DownMode = "cut"
)

// Down takes the platform down for requests that come from now on; any other mode than DownCut is DownUnavailable.
func (s *Sim) Down(mode DownMode) {
	if mode != DownCut {
		mode = DownUnavailable
	}
	s.setDown(mode)
}

// Up ends Down.
func (s *Sim) Up() { s.setDown("") }

func (s *Sim) setDown(mode DownMode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = mode
	s.ledger.wake()
}

func (s *Sim) downMode() DownMode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// pick finds the fault that meets the request, and counts it.
func (s *Sim) pick(c *call, body []byte) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.active == 0 {
		return nil
	}
	for _, f := range s.faults.list {
		if f.Left == 0 || !f.Fault.fits(c, body) {
			continue
		}
		if f.seen++; f.seen <= f.Fault.Skip {
			continue
		}
		if p := f.Fault.Probability; p > 0 && s.faults.dice.Float64() >= p {
			continue
		}
		f.Hits++
		if f.Left > 0 {
			if f.Left--; f.Left == 0 {
				s.faults.active--
			}
		}
		c.fault, c.faulted = f.ID, true
		s.ledger.wake()
		return &f.Fault
	}
	return nil
}

// fits reports whether the fault is for this request.
func (f *Fault) fits(c *call, body []byte) bool {
	switch {
	case f.Endpoint == "" && c.endpoint == Token, f.Endpoint != "" && f.Endpoint != c.endpoint:
		return false
	case f.Over > 0 && len(body) <= f.Over:
		return false
	case f.Match != "" && !bytes.Contains(body, []byte(f.Match)):
		return false
	case f.Action == AnswerGroupStatus:
		return c.endpoint == GroupRelation
	case f.Action == PartlyFail:
		return c.endpoint == GroupRelation && c.bad == nil &&
			slices.ContainsFunc(c.records, func(a Applied) bool { return holds(a.Record, f.Items) })
	}
	return true
}

// holds reports whether the record holds one of the items.
func holds(record []byte, items []string) bool {
	return slices.ContainsFunc(items, func(item string) bool { return bytes.Contains(record, []byte(item)) })
}

// split parts the records into those to apply and those whose JSON holds one of failing.
func split(records []Applied, failing []string) (good []Applied, failed []json.RawMessage) {
	for _, a := range records {
		if holds(a.Record, failing) {
			failed = append(failed, a.Record)
		} else {
			good = append(good, a)
		}
	}
	return good, failed
}

// wait waits as the fault says.
func (f *Fault) wait(ctx context.Context) {
	if f.Gate != nil {
		<-f.Gate
	}
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// meet does to a request what the fault says.
func (s *Sim) meet(c *call, r *http.Request, f *Fault) answer {
	if !f.WaitAfter {
		f.wait(c.ctx)
	}
	a := s.strike(c, r, f)
	if f.WaitAfter {
		f.wait(c.ctx)
	}
	return a
}

func (s *Sim) strike(c *call, r *http.Request, f *Fault) answer {
	switch f.Action {
	case Pass:
		return s.normal(c, r, nil)
	case ExpireThenPass:
		s.ExpireTokens()
		return s.normal(c, r, nil)
	case PartlyFail:
		return s.normal(c, r, f.Items)
	case ApplyThenCut, CutAnswer:
		a := s.normal(c, r, nil)
		if a.cut = cutWithin; f.Action == ApplyThenCut {
			return answer{cut: cutBefore, refusal: a.refusal}
		}
		return a
	case AnswerGroupStatus:
		a := s.normalIf(f.GroupStatus == 0 || f.Apply, c, r)
		if a.refusal != "" {
			return a
		}
		if f.GroupStatus < 0 {
			return s.groupAnswer(f.GroupStatus, 0, c.n, nil)
		}
		return s.groupAnswer(f.GroupStatus, 0, 0, nil)
	}
	refusal := s.normalIf(f.Apply, c, r).refusal
	a := s.faultAnswer(f)
	a.refusal = refusal
	return a
}

// normalIf does what normal does, or nothing.
func (s *Sim) normalIf(apply bool, c *call, r *http.Request) answer {
	if !apply {
		return answer{}
	}
	return s.normal(c, r, nil)
}

const gatewayPage = "<!DOCTYPE html>\n<html><head><title>Gateway</title></head><body><h1>Please try again later</h1></body></html>\n"

// faultAnswer is the answer of an action that only answers.
func (s *Sim) faultAnswer(f *Fault) answer {
	status := func(standard int) int {
		if f.Status != 0 {
			return f.Status
		}
		return standard
	}
	switch f.Action {
	case CutBeforeApply:
		return answer{cut: cutBefore}
	case AnswerStatus:
		a := statusAnswer(f.Status, f.RetryAfter)
		a.setBody(f.Body)
		return a
	case AnswerTooLarge:
		return statusAnswer(http.StatusRequestEntityTooLarge, "")
	case AnswerHTML:
		a := answer{status: status(http.StatusOK), contentType: "text/html; charset=utf-8", body: []byte(gatewayPage)}
		a.setBody(f.Body)
		return a
	case AnswerEmpty:
		return answer{status: status(http.StatusOK)}
	case AnswerRedirect:
		return answer{status: status(http.StatusFound), header: [2]string{"Location", redirectTarget}}
	case AnswerDataFalse:
		return s.answer(codeOK, "SUCCESS", "ok", false)
	}
	return s.answer(f.Code, f.errorCode(), f.Msg, nil)
}

// setBody replaces the body; "" leaves it.
func (a *answer) setBody(body string) {
	if body == "" {
		return
	}
	a.body = []byte(body)
	if body[0] == '{' {
		a.contentType = "application/json;charset=UTF-8"
	}
}

// errorCode gives ErrorCode, or the platform's word for the code.
func (f *Fault) errorCode() string {
	switch {
	case f.ErrorCode != "":
		return f.ErrorCode
	case f.Code == codeSecretWrong:
		return "APPID_SECRET_ERROR"
	case f.Code == codeTokenWrong:
		return "TOKEN_ERROR"
	case f.Code == "100300":
		return "AUTHCODE_ERROR"
	}
	return "ERROR"
}
