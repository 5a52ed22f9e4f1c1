// Package status holds the one snapshot of a connector that everything an operator sees is rendered from: the status command, the page at server.listen, the
// JSON at /status.json, /metrics, /healthz and /readyz.
//
// server.go answers; feed.go takes a snapshot each second that somebody watches, tells the pages of it, and remembers the last hour; letters.go shows dead
// letters and does what the page's buttons ask for, through Control; admin.go knows who may; mask.go hides what is personal; health.go says whether
// the process lives and whether it delivers, metrics.go makes metrics for Prometheus of the snapshot. The page itself is in page/.
package status

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
	// Database names the source without user and password: host:port/database.
	Database string `json:"database,omitempty"`
	Slot     Slot   `json:"slot"`
	Lag      Lag    `json:"lag"`
	// Checkpoint is the one on disk; nil before the first.
	Checkpoint *Checkpoint `json:"checkpoint"`
	Pending    Pending     `json:"pending"`
	// Holdup is the record that holds the checkpoint because it failed; nil where none does.
	Holdup *Holdup `json:"holdup"`
	// Paused says that delivery is paused: too many dead letters are open, or too many records were rejected.
	Paused bool `json:"paused"`
	// StateRead says that the state could be read: else DeadLetters and Gaps are not known.
	StateRead bool `json:"stateRead"`
	// DeadLetters are the open ones by class, every class named.
	DeadLetters map[connector.Class]int `json:"deadLetters"`
	// Held are the mappings that stand still; HeldMappings tells of them and of those that work off what came meanwhile.
	Held         []string                `json:"held"`
	HeldMappings []connector.HeldMapping `json:"heldMappings"`
	// Backfills are those that have not ended.
	Backfills []Backfill `json:"backfills"`
	// Gaps are the stretches of the WAL that were recorded as not seen, for good.
	Gaps []connector.Gap `json:"gaps"`

	Tables    []Table    `json:"tables"`
	Mappings  []Mapping  `json:"mappings"`
	Endpoints []Endpoint `json:"endpoints"`
	// Skipped is what began with the skip marker, since the process started.
	Skipped Skipped `json:"skipped"`
	// Token is the platform's, as it is in use; nil: none was asked for yet.
	Token *Token `json:"token,omitempty"`
	// Reconnects counts how often the stream from PostgreSQL was interrupted, since the configuration was read last.
	Reconnects uint64 `json:"reconnects"`
	// BurstFallbacks is 1 where reading in bursts was given up, since the configuration was read last, because messages stopped in their middle or the system lacks what it needs.
	BurstFallbacks uint64               `json:"burstFallbacks"`
	Alarms         []connector.Alarm    `json:"alarms"`
	LastErr        *connector.LastError `json:"lastError"`
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

// Token is an access token of the platform; its value is nowhere to be seen.
type Token struct {
	Fetched time.Time `json:"fetched"`
	// Expires is when it ends; zero: not known (platform.token).
	Expires time.Time `json:"expires,omitzero"`
}

// Table is how many changes of a table were read and mapped since the process started.
type Table struct {
	Name    string `json:"name"` // schema.name
	Changes uint64 `json:"changes"`
}

// Endpoint is how one of the platform's endpoints fares, and what was asked of it since the process started.
type Endpoint struct {
	Name string `json:"name"` // its key under platform.paths
	// Down says that it waits after a failure, since Since; it is tried again at RetryAt, and Verdict says why.
	Down    bool      `json:"down"`
	Since   time.Time `json:"since,omitzero"`
	RetryAt time.Time `json:"retryAt,omitzero"`
	Verdict string    `json:"verdict,omitempty"`
	// InFlight requests are on their way.
	InFlight int `json:"inFlight"`
	// Requests by how they ended, the Records that they carried, the Bytes of their bodies, and the Seconds that they took together.
	Requests map[string]uint64 `json:"requests,omitempty"`
	Records  uint64            `json:"records"`
	Bytes    uint64            `json:"bytes"`
	Seconds  float64           `json:"seconds"`
}

// EndpointOf shows an endpoint's counters.
func EndpointOf(e connector.Endpoint, c *connector.EndpointCounters) Endpoint {
	end := Endpoint{Name: e.String(), Requests: map[string]uint64{}, Records: c.Records.Load(), Bytes: c.Bytes.Load(),
		Seconds: time.Duration(c.Nanoseconds.Load()).Seconds()}
	for v := connector.Delivered; v <= connector.Outage; v++ {
		if n := c.Requests(v); n > 0 {
			end.Requests[v.String()] = n
		}
	}
	return end
}

// Mapping is what became of one mapping's records since the process started.
type Mapping struct {
	Name  string `json:"name"`
	Table string `json:"table"`
	Kind  string `json:"kind"`
	// Endpoints are where its records go.
	Endpoints []string `json:"endpoints"`
	// Changes, Records, Delivered and Retries are as in connector.MappingCounters.
	Changes   uint64 `json:"changes"`
	Records   uint64 `json:"records"`
	Delivered uint64 `json:"delivered"`
	Retries   uint64 `json:"retries"`
	// Pending records are in memory and not settled; PendingBytes are their payloads'.
	Pending      int                        `json:"pending"`
	PendingBytes int                        `json:"pendingBytes"`
	DeadLetters  map[connector.Class]uint64 `json:"deadLetters,omitempty"`
}

// MappingOf shows a mapping's counters.
func MappingOf(name, table string, kind connector.Kind, c *connector.MappingCounters) Mapping {
	m := Mapping{Name: name, Table: table, Kind: kind.String(), Changes: c.Changes.Load(), Records: c.Records.Load(), Delivered: c.Delivered.Load(), Retries: c.Retries.Load()}
	for _, class := range connector.Classes {
		if n := c.Letters(class); n > 0 {
			if m.DeadLetters == nil {
				m.DeadLetters = map[connector.Class]uint64{}
			}
			m.DeadLetters[class] = n
		}
	}
	return m
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
