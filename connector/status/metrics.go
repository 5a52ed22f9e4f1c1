package status

import (
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// namespace is in front of all names but those of the process and of Go.
const namespace = "tuzhan_cdc"

// Metrics are what Prometheus gets at /metrics: the snapshot that everybody else gets, and histograms of the requests. Labels have few values, which the
// file and the program know: mappings, tables, endpoints, classes. None holds anything of a row. Make it with NewMetrics; safe for concurrent use.
type Metrics struct {
	registry  *prometheus.Registry
	durations [connector.GroupRelationEndpoint + 1]prometheus.Observer
	batches   [connector.GroupRelationEndpoint + 1]prometheus.Observer
	version   string
}

// NewMetrics makes metrics that have seen no request. version is the program's.
func NewMetrics(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), version: version}
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: "request_duration_seconds",
		Help:    "How long requests to an endpoint took, until the answer was read.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"endpoint"})
	batches := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: "request_records",
		Help: "How many records a request to an endpoint carried.", Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500}}, []string{"endpoint"})
	for e := range m.durations {
		m.durations[e] = durations.WithLabelValues(connector.Endpoint(e).String())
		m.batches[e] = batches.WithLabelValues(connector.Endpoint(e).String())
	}
	m.registry.MustRegister(durations, batches, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observe is told of each request.
func (m *Metrics) Observe(x connector.Exchange) {
	m.durations[x.Endpoint].Observe(x.Duration.Seconds())
	if x.Records > 0 { // else it asked whether the endpoint is there
		m.batches[x.Endpoint].Observe(float64(x.Records))
	}
}

// handler answers /metrics from what snapshot gives at each question.
func (m *Metrics) handler(snapshot func() Snapshot, log *slog.Logger) http.Handler {
	m.registry.MustRegister(&collector{version: m.version, snapshot: snapshot})
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorLog: logged{log}})
}

// logged is where the library complains.
type logged struct{ *slog.Logger }

func (l logged) Println(v ...any) { l.Warn("metrics", "error", v) }

// family is one metric.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// families are all that is made of a snapshot, for Describe.
var families []family

func gauge(name, help string, labels ...string) family {
	f := family{prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil), prometheus.GaugeValue}
	families = append(families, f)
	return f
}

func counter(name, help string, labels ...string) family {
	f := gauge(name, help, labels...)
	f.kind = prometheus.CounterValue
	return f
}

// What is made of a snapshot. A time is one in seconds since 1970, as Prometheus wants it: the age is time() - x.
var (
	buildInfo = gauge("build_info", "The version of tuzhan-cdc and of Go; always 1.", "version", "goversion")
	inState   = gauge("state", "1 for the state that the connector is in: starting, streaming, waiting (as a standby), stopped.", "state")
	ready     = gauge("ready", "1 while changes are read and delivered, as /readyz says; else 0.")

	tableChanges = counter("table_changes_total", "Changes of a table that were read, and were not settled already.", "table")
	changesRead  = counter("mapping_changes_total", "Changes that a mapping read, wanted or not. Those that come again after a reload or a hold count again.", "mapping", "table")
	recordsMade  = counter("records_made_total", "Records that a mapping made of changes.", "mapping", "kind")
	delivered    = counter("records_delivered_total", "Records that the platform took.", "mapping", "kind")
	retries      = counter("record_retries_total", "How often a request carried a record that an earlier one had carried.", "mapping", "kind")
	lettersMade  = counter("dead_letters_total", "Records that were set aside, by class: mapping, rejected, failing, uncertain.", "mapping", "class")
	pendingBy    = gauge("pending_records", "Records in memory that are not settled.", "mapping", "kind")
	pendingBytes = gauge("pending_bytes", "Bytes of the payloads of pending records.", "mapping", "kind")
	mappingHeld  = gauge("mapping_held", "1 while a mapping is held and its changes wait in the slot; else 0.", "mapping")

	endpointUp    = gauge("endpoint_up", "0 while an endpoint of the platform takes nothing, and waits after a failure; else 1.", "endpoint")
	requests      = counter("requests_total", "Requests to an endpoint, by how the answer was read.", "endpoint", "verdict")
	requestBytes  = counter("request_body_bytes_total", "Bytes of the bodies of requests to an endpoint.", "endpoint")
	requestsInAir = gauge("requests_in_flight", "Requests to an endpoint that are on their way.", "endpoint")

	lettersOpen    = gauge("dead_letters_open", "Open dead letters in the state, by class. Absent while the state can't be read.", "class")
	pendingChanges = gauge("pending_changes", "Changes that are read and not settled.")
	failing        = gauge("failing_records", "Records that fail alone while their endpoints take others.")
	paused         = gauge("delivery_paused", "1 while delivery is paused: too many dead letters are open, or too many records were rejected; else 0.")
	skippedTx      = counter("skipped_transactions_total", "Transactions that began with the skip marker.")
	skippedChanges = counter("skipped_changes_total", "Changes of transactions that began with the skip marker.")

	lagBytes   = gauge("lag_bytes", "Bytes of WAL between the server's end and what is confirmed. Absent while the server can't be asked.")
	lagSeconds = gauge("lag_seconds", "Age of the oldest change that was read and is not settled; 0 where there is none.")

	slotKnown     = gauge("slot_known", "1 where the last look at the server found the replication slot; else 0, and what is known of the slot is absent.")
	slotActive    = gauge("slot_active", "1 while somebody reads from the slot; else 0.")
	slotStatus    = gauge("slot_wal_status", "1 for the wal_status of the slot: reserved, extended, unreserved, lost.", "status")
	slotRetained  = gauge("slot_retained_wal_bytes", "Bytes of WAL that the server keeps for the slot.")
	slotBudget    = gauge("slot_wal_budget_bytes", "source.walBudget: there is an alarm at 80 % of it.")
	slotSafe      = gauge("slot_safe_wal_bytes", "Bytes of WAL that may still be written before the server may give the slot up. Absent where max_slot_wal_keep_size sets no limit.")
	walRate       = gauge("wal_bytes_per_second", "How fast the server writes WAL, the mean of the last ten minutes. Absent until it was measured.")
	outageAllowed = gauge("outage_allowed_seconds", "How long connector or platform may be away at that rate before the budget is used up or the slot is in danger. Absent where it is not known.")
	reconnects    = counter("source_reconnects_total", "How often the stream from PostgreSQL was interrupted.")
	fallbacks     = counter("source_burst_fallbacks_total", "How often reading in bursts was given up because messages stopped in their middle.")
	gaps          = gauge("gaps", "Stretches of the WAL that are recorded, for good, as not seen. Absent while the state can't be read.")

	checkpointAt   = gauge("checkpoint_timestamp_seconds", "When the checkpoint on disk was written. Absent before the first.")
	settledAt      = gauge("checkpoint_commit_timestamp_seconds", "Commit time of the last change up to which all are settled. Absent before the first.")
	settledRanges  = gauge("checkpoint_ranges", "Settled ranges beyond the checkpoint's position.")
	tokenAt        = gauge("token_timestamp_seconds", "When the platform's token in use was fetched. Absent before the first.")
	tokenExpiresAt = gauge("token_expiry_timestamp_seconds", "When the platform's token in use expires. Absent where that is not known.")

	alarms = gauge("alarms", "Alarms that are raised, by kind: what stands in the log as \"about\", without table and mapping. /status.json has text and cure.", "kind")
)

// alarmKinds are those that are always told of, raised or not, so that a rule finds a 0 too.
var alarmKinds = []string{"config", "deadletters", "delivery/deadletters", "delivery/rejected", "failing", "held", "source", "source/slot", "source/wal", "state"}

// collector makes metrics of a snapshot.
type collector struct {
	version  string
	snapshot func() Snapshot
}

// Describe tells of all metrics.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range families {
		out <- f.desc
	}
}

// Collect takes a snapshot and sends what it says.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.snapshot()
	o := sink{out}
	o.put(buildInfo, 1, c.version, runtime.Version())
	for _, state := range []string{Starting, Streaming, Waiting, Stopped} {
		o.flag(inState, s.State == state, state)
	}
	o.flag(ready, len(s.NotReady()) == 0)
	for _, t := range s.Tables {
		o.put(tableChanges, float64(t.Changes), t.Name)
	}
	for i := range s.Mappings {
		o.mapping(&s, &s.Mappings[i])
	}
	for i := range s.Endpoints {
		o.endpoint(&s.Endpoints[i])
	}
	if s.StateRead {
		for class, n := range s.DeadLetters {
			o.put(lettersOpen, float64(n), string(class))
		}
		o.put(gaps, float64(len(s.Gaps)))
	}
	o.put(pendingChanges, float64(s.Pending.Changes))
	o.put(failing, float64(s.Pending.Failing))
	o.flag(paused, s.Paused)
	o.put(skippedTx, float64(s.Skipped.Transactions))
	o.put(skippedChanges, float64(s.Skipped.Changes))
	o.put(lagSeconds, s.Lag.Seconds)
	o.slot(&s)
	o.put(reconnects, float64(s.Reconnects))
	o.put(fallbacks, float64(s.BurstFallbacks))
	if cp := s.Checkpoint; cp != nil {
		o.time(checkpointAt, cp.Written)
		o.time(settledAt, cp.CommitTime)
		o.put(settledRanges, float64(cp.Ranges))
	}
	if t := s.Token; t != nil {
		o.time(tokenAt, t.Fetched)
		o.time(tokenExpiresAt, t.Expires)
	}
	raised := map[string]int{}
	for _, kind := range alarmKinds {
		raised[kind] = 0
	}
	for _, a := range s.Alarms {
		raised[alarmKind(a.Key)]++
	}
	for kind, n := range raised {
		o.put(alarms, float64(n), kind)
	}
}

// alarmKind is an alarm's key without the mapping or table in it.
func alarmKind(key string) string {
	parts := strings.SplitN(key, "/", 3)
	if parts[0] == "held" {
		return parts[0]
	}
	return strings.Join(parts[:min(len(parts), 2)], "/")
}

// sink sends metrics.
type sink struct{ out chan<- prometheus.Metric }

func (o sink) put(f family, value float64, labels ...string) {
	o.out <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

func (o sink) flag(f family, on bool, labels ...string) {
	value := 0.0
	if on {
		value = 1
	}
	o.put(f, value, labels...)
}

// time leaves a zero time out.
func (o sink) time(f family, at time.Time) {
	if !at.IsZero() {
		o.put(f, float64(at.UnixMilli())/1000)
	}
}

func (o sink) mapping(s *Snapshot, m *Mapping) {
	o.put(changesRead, float64(m.Changes), m.Name, m.Table)
	o.put(recordsMade, float64(m.Records), m.Name, m.Kind)
	o.put(delivered, float64(m.Delivered), m.Name, m.Kind)
	o.put(retries, float64(m.Retries), m.Name, m.Kind)
	for _, class := range connector.Classes {
		o.put(lettersMade, float64(m.DeadLetters[class]), m.Name, string(class))
	}
	o.put(pendingBy, float64(m.Pending), m.Name, m.Kind)
	o.put(pendingBytes, float64(m.PendingBytes), m.Name, m.Kind)
	o.flag(mappingHeld, slices.Contains(s.Held, m.Name), m.Name)
}

// verdicts are the labels of the ways in which an answer is read.
var verdicts = func() map[string]string {
	of := map[string]string{}
	for v := connector.Delivered; v <= connector.Outage; v++ {
		of[v.String()] = strings.NewReplacer(" ", "_", "-", "").Replace(v.String())
	}
	return of
}()

func (o sink) endpoint(e *Endpoint) {
	o.flag(endpointUp, !e.Down, e.Name)
	for verdict, label := range verdicts {
		o.put(requests, float64(e.Requests[verdict]), e.Name, label)
	}
	o.put(requestBytes, float64(e.Bytes), e.Name)
	o.put(requestsInAir, float64(e.InFlight), e.Name)
}

func (o sink) slot(s *Snapshot) {
	o.flag(slotKnown, s.Slot.Known)
	o.put(slotBudget, float64(s.Slot.WALBudget))
	if !s.Slot.Known {
		return
	}
	o.put(lagBytes, float64(s.Lag.Bytes))
	o.flag(slotActive, s.Slot.Active)
	for _, status := range []string{"reserved", "extended", "unreserved", "lost"} {
		o.flag(slotStatus, s.Slot.WALStatus == status, status)
	}
	o.put(slotRetained, float64(s.Slot.RetainedBytes))
	if n := s.Slot.SafeWALSize; n != nil {
		o.put(slotSafe, float64(*n))
	}
	if s.Slot.MeasuredSeconds > 0 {
		o.put(walRate, s.Slot.WALPerSecond)
	}
	if d := s.Slot.OutageSeconds; d != nil {
		o.put(outageAllowed, *d)
	}
}
