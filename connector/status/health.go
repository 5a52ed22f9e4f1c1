package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// AnswerWithin is how long the parts of a connector may take to answer /healthz; none of them waits for anything but another part meanwhile.
const AnswerWithin = 5 * time.Second

// Alive asks a connector's server whether the process lives; nil: it does.
func Alive(ctx context.Context, addr string) error { return ask(ctx, addr, "/healthz") }

// Ready asks a connector's server whether it streams and delivers; nil: it does.
func Ready(ctx context.Context, addr string) error { return ask(ctx, addr, "/readyz") }

func ask(ctx context.Context, addr, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	// No proxy: the address is this machine's.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("nobody answers at server.listen, %s: %w", addr, op.Err)
		}
		return fmt.Errorf("no answer at server.listen, %s: %w", addr, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("%s at server.listen, %s: %w", path, addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	return nil
}

// Reason is something that keeps a connector from streaming or delivering.
type Reason struct {
	// About is an alarm's key, or "state of the connector".
	About string `json:"about"`
	Text  string `json:"text"`
	Cure  string `json:"cure,omitempty"`
}

// delivering are the alarms under whose keys, and below them, nothing or not everything is delivered. Records that fail alone and mappings that are held
// are none: all others flow.
var delivering = []string{"delivery", "state"}

// NotReady says why changes are not read or not delivered; empty: they are.
func (s *Snapshot) NotReady() []Reason {
	reasons := []Reason{}
	streaming := s.State == Streaming
	if !streaming {
		reasons = append(reasons, Reason{About: "state of the connector", Text: notStreaming(s.State)})
	}
	about := func(key string, of ...string) bool {
		first, _, _ := strings.Cut(key, "/")
		return slices.Contains(of, first)
	}
	for _, a := range s.Alarms {
		if about(a.Key, delivering...) || !streaming && about(a.Key, "source") {
			reasons = append(reasons, Reason{About: a.Key, Text: a.Text, Cure: a.Cure})
		}
	}
	return reasons
}

func notStreaming(state string) string {
	switch state {
	case Starting:
		return "not streaming: it is starting, or waits for the database"
	case Waiting:
		return "not streaming: another tuzhan-cdc does, and this one waits as a standby"
	}
	return "not streaming: " + state
}

// healthz says whether the process lives: whether all its parts answer. That the database, the platform or the state is away is no reason to end it.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	if err := s.alive.ask(r.Context()); err != nil {
		http.Error(w, "not alive: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readyz says whether it streams and delivers, and if not, why not: as text, or as JSON where the request accepts that.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	snapshot := s.o.Snapshot()
	reasons := snapshot.NotReady()
	code := http.StatusOK
	if len(reasons) > 0 {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(struct { // it may have gone away
			Ready   bool     `json:"ready"`
			Reasons []Reason `json:"reasons"`
		}{code == http.StatusOK, reasons})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	if code == http.StatusOK {
		fmt.Fprintln(w, "ok")
	}
	for _, reason := range reasons {
		fmt.Fprintln(w, reason.Text)
		if reason.Cure != "" {
			fmt.Fprintln(w, "  cure: "+reason.Cure)
		}
	}
}

// pulse asks the parts of a connector whether they answer. However many ask and however long it takes, one question is under way at a time: of a
// connector that is stuck each would else leave a goroutine behind.
type pulse struct {
	check func() error

	mu     sync.Mutex
	answer chan struct{} // closed when the question that is under way is answered; nil: none is
	err    error         // of the last answer
}

// ask gives what is wrong, or an error when there is no answer in time.
func (p *pulse) ask(ctx context.Context) error {
	p.mu.Lock()
	answer := p.answer
	if answer == nil {
		answer = make(chan struct{})
		p.answer = answer
		go func() {
			err := p.check()
			p.mu.Lock()
			p.err, p.answer = err, nil
			p.mu.Unlock()
			close(answer)
		}()
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, AnswerWithin, fmt.Errorf("a part of the connector has not answered for %s: it is stuck", AnswerWithin))
	defer cancel()
	select {
	case <-answer:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
