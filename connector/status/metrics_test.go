package status

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// full is a snapshot in which everything is known.
func full() Snapshot {
	safe, outage := int64(1<<30), 3600.0
	return Snapshot{State: Streaming, Version: "v1", Paused: true, Reconnects: 2, BurstFallbacks: 1, StateRead: true,
		Slot: Slot{Name: "s", Known: true, Active: true, WALStatus: "extended", RetainedBytes: 4096, WALBudget: 10 << 30, SafeWALSize: &safe, WALPerSecond: 100, MeasuredSeconds: 60, OutageSeconds: &outage},
		Lag:  Lag{Bytes: 77, Seconds: 1.5}, Pending: Pending{Changes: 3, Records: 2, Bytes: 99, Failing: 1},
		Checkpoint:  &Checkpoint{CommitTime: time.Unix(1_700_000_000, 0), Written: time.Unix(1_700_000_001, 500e6), Ranges: 2},
		DeadLetters: map[connector.Class]int{connector.ClassMapping: 0, connector.ClassRejected: 4, connector.ClassFailing: 0, connector.ClassUncertain: 1},
		Held:        []string{"groups"}, Gaps: make([]connector.Gap, 2), Skipped: Skipped{Transactions: 1, Changes: 5},
		Token: &Token{Fetched: time.Unix(1_700_000_000, 0), Expires: time.Unix(1_700_007_200, 0)},
		Mappings: []Mapping{{Name: "paid", Table: "crm.orders", Kind: "event", Changes: 9, Records: 8, Delivered: 7, Retries: 1, Pending: 2, PendingBytes: 99,
			DeadLetters: map[connector.Class]uint64{connector.ClassRejected: 4}}, {Name: "groups", Table: `crm."odd""name"`, Kind: "groupRelation"}},
		Tables:    []Table{{Name: "crm.orders", Changes: 11}},
		Endpoints: []Endpoint{{Name: "event", Down: true, InFlight: 2, Requests: map[string]uint64{"delivered": 5, "set-up wrong": 3, "slow down": 1}, Bytes: 12345}},
		Alarms:    []connector.Alarm{{Key: "held/groups", Text: "13800000001"}, {Key: "held/other"}, {Key: "source/table/crm.orders"}, {Key: "delivery/event"}}}
}

// TestMetrics: the names and help texts are as Prometheus wants them, the values are the snapshot's, and nothing that was not known is made up.
func TestMetrics(t *testing.T) {
	var now atomic.Pointer[Snapshot] // the server looks by itself too
	snapshot := full()
	now.Store(&snapshot)
	m := NewMetrics("v1")
	m.Observe(connector.Exchange{Endpoint: connector.EventEndpoint, Records: 500, Duration: 30 * time.Millisecond, Verdict: connector.Delivered})
	m.Observe(connector.Exchange{Endpoint: connector.PointEndpoint, Records: 0, Duration: time.Second, Verdict: connector.Outage})
	server := serve(t, Options{Snapshot: func() Snapshot { return *now.Load() }, Metrics: m})
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	text := scrape(t, server)
	for _, line := range []string{
		`tuzhan_cdc_build_info{goversion="go`,
		`tuzhan_cdc_state{state="streaming"} 1`, `tuzhan_cdc_state{state="waiting"} 0`, `tuzhan_cdc_ready 0`,
		`tuzhan_cdc_table_changes_total{table="crm.orders"} 11`,
		`tuzhan_cdc_endpoint_up{endpoint="event"} 0`, `tuzhan_cdc_requests_total{endpoint="event",verdict="delivered"} 5`, `tuzhan_cdc_requests_in_flight{endpoint="event"} 2`,
		`tuzhan_cdc_requests_total{endpoint="event",verdict="setup_wrong"} 3`, `tuzhan_cdc_requests_total{endpoint="event",verdict="slow_down"} 1`,
		`tuzhan_cdc_requests_total{endpoint="event",verdict="outage"} 0`, `tuzhan_cdc_request_body_bytes_total{endpoint="event"} 12345`,
		`tuzhan_cdc_mapping_changes_total{mapping="paid",table="crm.orders"} 9`, `tuzhan_cdc_records_made_total{kind="event",mapping="paid"} 8`,
		`tuzhan_cdc_records_delivered_total{kind="event",mapping="paid"} 7`, `tuzhan_cdc_record_retries_total{kind="event",mapping="paid"} 1`,
		`tuzhan_cdc_dead_letters_total{class="rejected",mapping="paid"} 4`, `tuzhan_cdc_dead_letters_total{class="failing",mapping="groups"} 0`,
		`tuzhan_cdc_dead_letters_open{class="rejected"} 4`, `tuzhan_cdc_dead_letters_open{class="uncertain"} 1`, `tuzhan_cdc_dead_letters_open{class="mapping"} 0`,
		`tuzhan_cdc_pending_records{kind="event",mapping="paid"} 2`, `tuzhan_cdc_pending_bytes{kind="event",mapping="paid"} 99`, `tuzhan_cdc_pending_changes 3`,
		`tuzhan_cdc_mapping_held{mapping="groups"} 1`, `tuzhan_cdc_mapping_held{mapping="paid"} 0`, `tuzhan_cdc_failing_records 1`, `tuzhan_cdc_delivery_paused 1`,
		`tuzhan_cdc_skipped_transactions_total 1`, `tuzhan_cdc_skipped_changes_total 5`,
		`tuzhan_cdc_lag_bytes 77`, `tuzhan_cdc_lag_seconds 1.5`,
		`tuzhan_cdc_slot_known 1`, `tuzhan_cdc_slot_active 1`, `tuzhan_cdc_slot_wal_status{status="extended"} 1`, `tuzhan_cdc_slot_wal_status{status="lost"} 0`,
		`tuzhan_cdc_slot_retained_wal_bytes 4096`, `tuzhan_cdc_slot_wal_budget_bytes 1.073741824e+10`, `tuzhan_cdc_slot_safe_wal_bytes 1.073741824e+09`,
		`tuzhan_cdc_wal_bytes_per_second 100`, `tuzhan_cdc_outage_allowed_seconds 3600`, `tuzhan_cdc_source_reconnects_total 2`, `tuzhan_cdc_source_burst_fallbacks_total 1`, `tuzhan_cdc_gaps 2`,
		`tuzhan_cdc_checkpoint_timestamp_seconds 1.7000000015e+09`, `tuzhan_cdc_checkpoint_commit_timestamp_seconds 1.7e+09`, `tuzhan_cdc_checkpoint_ranges 2`,
		`tuzhan_cdc_token_timestamp_seconds 1.7e+09`, `tuzhan_cdc_token_expiry_timestamp_seconds 1.7000072e+09`,
		`tuzhan_cdc_alarms{kind="held"} 2`, `tuzhan_cdc_alarms{kind="source/table"} 1`, `tuzhan_cdc_alarms{kind="delivery/event"} 1`, `tuzhan_cdc_alarms{kind="source/wal"} 0`,
		`tuzhan_cdc_request_records_bucket{endpoint="event",le="500"} 1`, `tuzhan_cdc_request_records_sum{endpoint="event"} 500`,
		`tuzhan_cdc_request_duration_seconds_bucket{endpoint="event",le="0.025"} 0`, `tuzhan_cdc_request_duration_seconds_bucket{endpoint="event",le="0.05"} 1`,
		`tuzhan_cdc_request_duration_seconds_count{endpoint="point"} 1`, `tuzhan_cdc_request_records_count{endpoint="point"} 0`,
		`go_goroutines `,
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("no line %s", line)
		}
	}
	if strings.Contains(text, "13800000001") {
		t.Error("an alarm's text is among the metrics")
	}

	now.Store(&Snapshot{State: Starting})
	before, after := names(t, text), names(t, scrape(t, server))
	gone := slices.DeleteFunc(before, func(n string) bool { return slices.Contains(after, n) })
	want := []string{"checkpoint_commit_timestamp_seconds", "checkpoint_ranges", "checkpoint_timestamp_seconds", "dead_letters_open", "dead_letters_total", "endpoint_up", "gaps", "lag_bytes",
		"mapping_changes_total", "mapping_held", "outage_allowed_seconds", "pending_bytes", "pending_records", "record_retries_total", "records_delivered_total", "records_made_total", "request_body_bytes_total", "requests_in_flight", "requests_total",
		"slot_active", "slot_retained_wal_bytes", "slot_safe_wal_bytes", "slot_wal_status", "table_changes_total", "token_expiry_timestamp_seconds", "token_timestamp_seconds", "wal_bytes_per_second"}
	for i := range want {
		want[i] = namespace + "_" + want[i]
	}
	if !slices.Equal(gone, want) {
		t.Errorf("of what is not known there is nothing: missing\n%q, want\n%q", gone, want)
	}
}

func scrape(t *testing.T, server *Server) string {
	t.Helper()
	resp, err := http.Get("http://" + server.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.StatusCode, err)
	}
	return string(b)
}

// names are those of all families in a scrape, sorted.
func names(t *testing.T, text string) []string {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(families))
}
