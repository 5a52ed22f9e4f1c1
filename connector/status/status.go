// Package status holds the one snapshot of a connector that everything an operator sees is rendered from: the status command, the JSON at
// /status.json, /healthz and /readyz.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// The states of a connector.
const (
	Starting  = "starting"  // not streaming yet
	Streaming = "streaming" // reading changes
	Waiting   = "waiting"   // another process holds the slot
	Stopped   = "stopped"   // no connector runs on this state file
)

// Snapshot is a connector at one moment. Its JSON is what `status --output json` prints.
type Snapshot struct {
	State   string    `json:"state"`
	Version string    `json:"version"`
	Since   time.Time `json:"since,omitzero"` // when the process started
	Slot    Slot      `json:"slot"`
	Lag     Lag       `json:"lag"`
	// Checkpoint is the one on disk; nil before the first.
	Checkpoint *Checkpoint `json:"checkpoint"`
	Pending    Pending     `json:"pending"`
	// Holdup is the record that holds the checkpoint because it failed; nil where none does.
	Holdup *Holdup `json:"holdup"`
	// Paused says that delivery is paused: too many dead letters are open, or too many records were rejected.
	Paused bool `json:"paused"`
	// DeadLetters are the open ones by class, every class named.
	DeadLetters map[connector.Class]int `json:"deadLetters"`
	// Held are the mappings that stand still; HeldMappings tells of them and of those that work off what came meanwhile.
	Held         []string                `json:"held"`
	HeldMappings []connector.HeldMapping `json:"heldMappings"`
	// Backfills are those that have not ended.
	Backfills []Backfill `json:"backfills"`
	// Gaps are the stretches of the WAL that were recorded as not seen, for good.
	Gaps []connector.Gap `json:"gaps"`

	Mappings []Mapping `json:"mappings"`
	// Skipped is what began with the skip marker, since the process started.
	Skipped Skipped              `json:"skipped"`
	Alarms  []connector.Alarm    `json:"alarms"`
	LastErr *connector.LastError `json:"lastError"`
}

// Slot is the replication slot as the server sees it.
type Slot struct {
	Name string `json:"name"`
	// Known is false while the server could not be asked.
	Known     bool          `json:"known"`
	Active    bool          `json:"active"`
	WALStatus string        `json:"walStatus,omitempty"`
	Confirmed connector.LSN `json:"confirmed"`
	// RetainedBytes of WAL are kept for the slot.
	RetainedBytes int64 `json:"retainedBytes"`
	// WALBudget is source.walBudget.
	WALBudget int64 `json:"walBudget"`
	// SafeWALSize is how many bytes of WAL may still be written before the server may give the slot up; nil: no limit is set.
	SafeWALSize *int64 `json:"safeWalSize,omitempty"`
	// WALPerSecond is how many bytes of WAL the server writes, the mean of MeasuredSeconds; both 0: not known.
	WALPerSecond    float64 `json:"walPerSecond"`
	MeasuredSeconds float64 `json:"measuredSeconds"`
	// OutageSeconds is how long connector or platform may be away, at that rate, before WALBudget is used up or the slot is in danger; nil: not known.
	OutageSeconds *float64 `json:"outageSeconds,omitempty"`
}

// Lag is how far the platform is behind the database.
type Lag struct {
	// Bytes of WAL lie between the server's end and what is confirmed.
	Bytes int64 `json:"bytes"`
	// Seconds is the age of the oldest change that was read and is not settled; 0 where there is none.
	Seconds float64 `json:"seconds"`
}

// Checkpoint is the one on disk.
type Checkpoint struct {
	Settled    connector.Position `json:"settled"`
	Flush      connector.LSN      `json:"flush"`
	CommitTime time.Time          `json:"commitTime,omitzero"`
	Written    time.Time          `json:"written,omitzero"`
	// Ranges counts the settled ranges beyond Settled.
	Ranges int `json:"ranges"`
}

// Pending is what is in memory and not settled.
type Pending struct {
	Changes int `json:"changes"`
	Records int `json:"records"`
	Bytes   int `json:"bytes"`
	// Failing records fail alone while their endpoints take others.
	Failing int `json:"failing"`
}

// Holdup is a record that failed and is not settled, so that the checkpoint can't pass its change.
type Holdup struct {
	Mapping  string             `json:"mapping"`
	Position connector.Position `json:"position"`
	// Since is when it first failed, Attempts how many requests have carried it.
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts"`
	// HTTPStatus and Code are of the last answer; 0 and empty where none came.
	HTTPStatus int    `json:"httpStatus"`
	Code       string `json:"code,omitempty"`
}

// Skipped counts the transactions that began with the skip marker, and their changes.
type Skipped struct {
	Transactions uint64 `json:"transactions"`
	Changes      uint64 `json:"changes"`
}

// Mapping is what became of one mapping's records since the process started.
type Mapping struct {
	Name        string                     `json:"name"`
	Table       string                     `json:"table"`
	Kind        string                     `json:"kind"`
	Delivered   uint64                     `json:"delivered"`
	DeadLetters map[connector.Class]uint64 `json:"deadLetters,omitempty"`
}

// Backfill is a backfill that has not ended.
type Backfill struct {
	ID      int64  `json:"id"`
	Mapping string `json:"mapping"`
	Table   string `json:"table"`
	// State is queued, running or paused; Reason says why it stands still or waits.
	State  connector.BackfillStatus `json:"state"`
	Reason string                   `json:"reason,omitempty"`
	// Rows are settled. Estimate is how many there are, as the server thought at the begin; 0: not known.
	Rows     int64 `json:"rows"`
	Estimate int64 `json:"estimate"`
	// Pending rows are on their way, or are to be read once more.
	Pending int `json:"pending"`
	// Rate is in rows a second, over the last seconds; 0: not known.
	Rate float64 `json:"rate"`
	// Since is when it began; zero: it has not.
	Since time.Time `json:"since,omitzero"`
}

// CheckpointOf shows a checkpoint; nil for nil.
func CheckpointOf(cp *connector.Checkpoint) *Checkpoint {
	if cp == nil {
		return nil
	}
	return &Checkpoint{Settled: cp.Settled, Flush: cp.Flush, CommitTime: cp.CommitTime, Written: cp.Written, Ranges: len(cp.Ranges)}
}

// Ready reports whether changes are read and delivered, and if not, why not.
func (s *Snapshot) Ready() (bool, string) {
	if s.State != Streaming {
		return false, "not streaming: " + s.State
	}
	for _, a := range s.Alarms {
		if strings.HasPrefix(a.Key, "delivery") || strings.HasPrefix(a.Key, "state") {
			return false, a.Text
		}
	}
	return true, ""
}

// Server answers at server.listen: /status.json, /healthz (the process is alive) and /readyz (it streams and delivers; else 503 and why).
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen binds at once, so that a taken port is an error at start.
func Listen(addr string, snapshot func() Snapshot, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("server.listen %s: %w (choose another port, or \"\" to turn the status server off)", addr, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := snapshot()
		ok, why := s.Ready()
		if !ok {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		s := snapshot()
		if err := json.NewEncoder(w).Encode(&s); err != nil {
			log.Debug("status client went away", "error", err)
		}
	})
	return &Server{listener: l, http: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}}, nil
}

// Addr is the address that was bound.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status server: %w", err)
	}
	return nil
}

// Fetch asks a running connector for its snapshot.
func Fetch(ctx context.Context, addr string) (*Snapshot, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/status.json", nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status server at %s: HTTP %d", addr, resp.StatusCode)
	}
	var s Snapshot
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return nil, fmt.Errorf("status server at %s: %w", addr, err)
	}
	return &s, nil
}
