package status

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// serve starts a server for the test.
func serve(t *testing.T, o Options) *Server {
	t.Helper()
	o.Address, o.Log = "127.0.0.1:0", slog.New(slog.DiscardHandler)
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestReady: each thing that keeps a connector from streaming or delivering is a reason, in text and in JSON, with its cure; others are none.
func TestReady(t *testing.T) {
	var now atomic.Pointer[Snapshot] // the server looks by itself too
	now.Store(&Snapshot{})
	server := serve(t, Options{Snapshot: func() Snapshot { return *now.Load() }})
	for _, c := range []struct {
		state string
		keys  []string
		about []string // nil: ready
	}{
		{Streaming, nil, nil},
		{Starting, nil, []string{"state of the connector"}},
		{Waiting, nil, []string{"state of the connector"}},
		{Stopped, nil, []string{"state of the connector"}},
		{Starting, []string{"source"}, []string{"state of the connector", "source"}}, // the database is away: why
		{Streaming, []string{"delivery/event"}, []string{"delivery/event"}},          // outage, token, set-up
		{Streaming, []string{"delivery/deadletters"}, []string{"delivery/deadletters"}},
		{Streaming, []string{"delivery/rejected", "delivery/point"}, []string{"delivery/rejected", "delivery/point"}},
		{Streaming, []string{"state"}, []string{"state"}}, // no checkpoint, no dead letters
		{Streaming, []string{"state/delivery"}, []string{"state/delivery"}},
		{Streaming, []string{"config", "deadletters", "failing", "held/order-paid", "source/wal", "source/slot", "source/table/crm.orders"}, nil},
	} {
		snapshot := Snapshot{State: c.state}
		for _, key := range c.keys {
			snapshot.Alarms = append(snapshot.Alarms, connector.Alarm{Key: key, Text: "text of " + key, Cure: "cure of " + key})
		}
		now.Store(&snapshot)
		err := Ready(t.Context(), server.Addr())
		if (err == nil) != (c.about == nil) {
			t.Errorf("%s %v: %v", c.state, c.keys, err)
		}
		req, _ := http.NewRequest(http.MethodGet, "/readyz", nil)
		req.Header.Set("Accept", "application/json")
		w := httptest.NewRecorder()
		server.readyz(w, req)
		var body struct {
			Ready   bool
			Reasons []Reason
		}
		if e := json.Unmarshal(w.Body.Bytes(), &body); e != nil || body.Ready != (c.about == nil) || len(body.Reasons) != len(c.about) || body.Ready != (w.Code == 200) {
			t.Errorf("%s %v: %d %s", c.state, c.keys, w.Code, w.Body)
			continue
		}
		for i, r := range body.Reasons {
			if r.About != c.about[i] || !strings.Contains(err.Error(), r.Text) || !strings.Contains(err.Error(), r.Cure) {
				t.Errorf("%s %v: reason %+v, text %v", c.state, c.keys, r, err)
			}
		}
		if err := Alive(t.Context(), server.Addr()); err != nil {
			t.Errorf("%s %v: not alive: %v", c.state, c.keys, err)
		}
	}
}

// TestAlive: what a part says is wrong is told; a part that does not answer is told of in time, by one question however many ask; and health comes back.
func TestAlive(t *testing.T) {
	var wrong error
	server := serve(t, Options{Snapshot: func() Snapshot { return Snapshot{} }, Alive: func() error { return wrong }})
	if err := Alive(t.Context(), server.Addr()); err != nil {
		t.Error(err)
	}
	wrong = errors.New("the loop does not come round")
	if err := Alive(t.Context(), server.Addr()); err == nil || !strings.Contains(err.Error(), wrong.Error()) {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		let := make(chan struct{})
		p := pulse{check: func() error { asked.Add(1); <-let; return nil }}
		errs := make(chan error)
		for range 3 {
			go func() { errs <- p.ask(t.Context()) }()
		}
		for range 3 {
			if err := <-errs; err == nil || !strings.Contains(err.Error(), "stuck") {
				t.Errorf("a part that is stuck: %v", err)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		close(let)
		synctest.Wait()
		if err := p.ask(t.Context()); err != nil {
			t.Errorf("it is well again: %v", err)
		}
	})
}

// TestNobody: where nobody listens, the error names the setting.
func TestNobody(t *testing.T) {
	server := httptest.NewServer(nil)
	addr := server.Listener.Addr().String()
	server.Close()
	if err := Alive(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "nobody answers at server.listen") {
		t.Error(err)
	}
}
