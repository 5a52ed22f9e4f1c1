package status

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestServer: the server tells of health, readiness and the snapshot, and why it is not ready.
func TestServer(t *testing.T) {
	snapshot := Snapshot{State: Streaming, Version: "v", Slot: Slot{Name: "s"},
		Checkpoint: CheckpointOf(&connector.Checkpoint{Settled: connector.Position{Commit: 0x16B374D848, Index: 3}, Ranges: make([]connector.Range, 2)})}
	server, err := Listen(Options{Address: "127.0.0.1:0", Snapshot: func() Snapshot { return snapshot }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://" + server.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("healthz %d", code)
	}
	if code, body := get("/readyz"); code != 200 {
		t.Errorf("readyz %d %s", code, body)
	}
	got, err := Fetch(ctx, server.Addr())
	if err != nil || got.Checkpoint.Settled != snapshot.Checkpoint.Settled || got.Checkpoint.Ranges != 2 || got.State != Streaming {
		t.Errorf("%+v, %v", got, err)
	}
	if code, _ := get("/debug/pprof/"); code != 404 {
		t.Errorf("pprof answers %d", code)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := Fetch(t.Context(), server.Addr()); err == nil {
		t.Error("a stopped server answers")
	}
}

// TestListenTaken: a taken port is an error at start that names the setting.
func TestListenTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(Options{Address: l.Addr().String(), Snapshot: func() Snapshot { return Snapshot{} }, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "server.listen") {
		t.Errorf("got %v", err)
	}
}
