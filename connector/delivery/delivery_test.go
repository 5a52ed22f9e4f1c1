package delivery

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a store that remembers what it was told, and can be made to fail.
type memory struct {
	mu         sync.Mutex
	intents    map[connector.RecordKey]bool
	applied    map[connector.RecordKey]bool
	letters    []*connector.DeadLetter
	overtaking []connector.RecordID
	fail       int // so many calls fail
}

func newMemory() *memory {
	return &memory{intents: map[connector.RecordKey]bool{}, applied: map[connector.RecordKey]bool{}}
}

var errDisk = errors.New("no space left on device")

func (m *memory) failing() bool {
	if m.fail > 0 {
		m.fail--
		return true
	}
	return false
}

func (m *memory) Watch([]*connector.DeadLetter) {}
func (m *memory) Overtake(id connector.RecordID, _ []uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.overtaking = append(m.overtaking, id)
}
func (m *memory) Load(context.Context) (*connector.Saved, error)              { return nil, nil }
func (m *memory) SaveCheckpoint(context.Context, *connector.Checkpoint) error { return nil }
func (m *memory) Intend(_ context.Context, ids []connector.RecordID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failing() {
		return errDisk
	}
	for _, id := range ids {
		m.intents[id.Key()] = true
	}
	return nil
}
func (m *memory) Outcome(id connector.RecordID, applied bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if applied {
		m.applied[id.Key()] = true
	} else {
		delete(m.intents, id.Key())
	}
}
func (m *memory) SetAside(_ context.Context, letters []*connector.DeadLetter) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failing() {
		return errDisk
	}
	m.letters = append(m.letters, letters...)
	return nil
}

// fake is a platform whose answers a test decides; it checks what must hold for any request.
type fake struct {
	t      *testing.T
	store  *memory
	answer func(n int, req *connector.Request) connector.Answer
	probe  func() connector.Answer

	mu       sync.Mutex
	n        int
	inFlight map[uint64]bool
	requests []*connector.Request
	applied  []*connector.Record
	probes   int
}

func (f *fake) Send(_ context.Context, req *connector.Request) connector.Answer {
	f.mu.Lock()
	f.n++
	n := f.n
	f.requests = append(f.requests, req)
	mine := map[uint64]bool{}
	updates := map[uint64]bool{}
	for _, r := range req.Records {
		if r.Endpoint() != req.Endpoint || r.Envelope != req.Envelope {
			f.t.Errorf("record %v shares a request with another endpoint or envelope", r.Key())
		}
		for _, k := range r.Keys {
			if f.inFlight[k] {
				f.t.Errorf("two requests in flight carry key %d", k)
			}
			if r.OptType == "update" && updates[k] {
				f.t.Errorf("two updates of key %d share a request", k)
			}
			mine[k], updates[k] = true, r.OptType == "update"
		}
		if r.Kind == connector.Point && f.store != nil {
			f.store.mu.Lock()
			if !f.store.intents[r.Key()] {
				f.t.Errorf("point %v left without an intent in the store", r.Key())
			}
			f.store.mu.Unlock()
		}
	}
	for k := range mine {
		f.inFlight[k] = true
	}
	f.mu.Unlock()
	a := f.answer(n, req)
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range mine {
		delete(f.inFlight, k)
	}
	for i, r := range req.Records {
		if a.Verdict == connector.Delivered || (a.Verdict == connector.Partly && !slices.Contains(a.Failed, i)) {
			f.applied = append(f.applied, r)
		}
	}
	return a
}

func (f *fake) Probe(context.Context, connector.Endpoint) connector.Answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probes++
	if f.probe == nil {
		return connector.Answer{Verdict: connector.Delivered}
	}
	return f.probe()
}

func (m *memory) open(context.Context) (int, error) { return m.count(), nil }

// list gives the dead letters, count their number.
func (m *memory) list() []*connector.DeadLetter {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.letters)
}

func (m *memory) count() int { return len(m.list()) }

// all gives the requests, sent their number, and done the number of records that were applied.
func (f *fake) all() []*connector.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func (f *fake) sent() int { return len(f.all()) }

func (f *fake) done() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.applied)
}

type rig struct {
	*Delivery
	mu      sync.Mutex
	held    []string
	timeout time.Duration // of wait; 0: 30 s
	fake    *fake
	store   *memory
	settled chan *connector.Record
	stop    func()
}

func (r *rig) hold(mapping, _ string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = append(r.held, mapping)
}

func start(t *testing.T, cfg Config, answer func(n int, req *connector.Request) connector.Answer) *rig {
	t.Helper()
	if cfg.MaxPending == 0 {
		cfg.MaxPending = 20000
	}
	if cfg.MaxPendingBytes == 0 {
		cfg.MaxPendingBytes = 8 << 20
	}
	if cfg.MaxBatchBytes == 0 {
		cfg.MaxBatchBytes = 1 << 20
	}
	if cfg.MaxBatch == 0 {
		cfg.MaxBatch = 500
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 4
	}
	if cfg.MaxDeadLetters == 0 {
		cfg.MaxDeadLetters = 1000
	}
	if cfg.BackoffMax == 0 {
		cfg.BackoffInitial, cfg.BackoffMax = time.Millisecond, 5*time.Millisecond
	}
	if cfg.GiveUpAfter == 0 {
		cfg.GiveUpAfter = 15 * time.Minute
	}
	cfg.PointConcurrency, cfg.ShutdownTimeout = 8, time.Second
	r := &rig{store: newMemory(), settled: make(chan *connector.Record, 300_000)}
	r.fake = &fake{t: t, store: r.store, answer: answer, inFlight: map[uint64]bool{}}
	log := slog.New(slog.DiscardHandler)
	r.Delivery = New(cfg, Ports{Platform: r.fake, Store: r.store, Settle: func(recs []*connector.Record) {
		for _, rec := range recs {
			r.settled <- rec
		}
	},
		CountOpen: r.store.open, Hold: r.hold, Counters: connector.NewCounters(nil), Alarms: connector.NewAlarms(log), Log: log}, 0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// wait takes n settlements, each record once.
func (r *rig) wait(t *testing.T, n int) {
	t.Helper()
	seen := map[connector.RecordKey]bool{}
	timeout := time.After(cmp.Or(r.timeout, 30*time.Second))
	for range n {
		select {
		case rec := <-r.settled:
			if seen[rec.Key()] {
				t.Fatalf("%v was settled twice", rec.Key())
			}
			seen[rec.Key()] = true
		case <-timeout:
			r.dump(t)
			t.Fatalf("%d of %d records were settled; %+v", len(seen), n, r.Stats())
		}
	}
	if s := r.Stats(); s.Pending != 0 || s.PendingBytes != 0 || len(r.queue.lines) != 0 {
		t.Fatalf("all is settled, yet %+v, %d lines", s, len(r.queue.lines))
	}
}

func delivered(int, *connector.Request) connector.Answer {
	return connector.Answer{Verdict: connector.Delivered, HTTPStatus: 200, Code: "200"}
}

func event(n int, keys ...uint64) *connector.Record {
	return &connector.Record{RecordID: connector.RecordID{Mapping: "e", Position: connector.Position{Commit: 1, Index: uint32(n)}},
		Kind: connector.Event, Payload: []byte(`{"eventKey":"c_buy"}`), Envelope: "{}", Keys: keys}
}

func group(n int, opt string, keys ...uint64) *connector.Record {
	r := event(n, keys...)
	r.Kind, r.OptType, r.Envelope = connector.GroupRelation, opt, `{"optType":"`+opt+`"}`
	return r
}

func point(n int, keys ...uint64) *connector.Record {
	r := event(n, keys...)
	r.Kind, r.Envelope = connector.Point, ""
	return r
}

// checkOrder checks that each key's records were applied in the order of their positions.
func (f *fake) checkOrder(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	last := map[uint64]connector.Position{}
	for _, r := range f.applied {
		for _, k := range r.Keys {
			if p, ok := last[k]; ok && p.Compare(r.Position) >= 0 {
				t.Fatalf("key %d: %s was applied after %s", k, r.Position, p)
			}
			last[k] = r.Position
		}
	}
}

// TestBatchesFillUp: while a request is in flight the records that come wait together; an idle sender sends at once.
func TestBatchesFillUp(t *testing.T) {
	entered, release := make(chan int, 10), make(chan struct{})
	rig := start(t, Config{Concurrency: 1}, func(n int, req *connector.Request) connector.Answer {
		entered <- len(req.Records)
		<-release
		return delivered(n, req)
	})
	rig.Submit([]*connector.Record{event(0, 1)})
	rig.Flush()
	if got := <-entered; got != 1 {
		t.Fatalf("first request carries %d", got)
	}
	for i := range 499 {
		rig.Submit([]*connector.Record{event(1+i, 2+uint64(i%7))})
	}
	rig.Flush()
	close(release)
	if got := <-entered; got != 499 {
		t.Fatalf("second request carries %d", got)
	}
	rig.wait(t, 500)
	rig.fake.checkOrder(t)
}

// TestBatchBytes: a request keeps under MaxBatchBytes, and a record that alone is over it goes alone.
func TestBatchBytes(t *testing.T) {
	rig := start(t, Config{Concurrency: 1, MaxBatchBytes: 1000}, func(n int, req *connector.Request) connector.Answer {
		size := 0
		for _, r := range req.Records {
			size += len(r.Payload) + 1
		}
		if size > 1000 && len(req.Records) > 1 {
			t.Errorf("%d records of %d bytes in a request", len(req.Records), size)
		}
		return delivered(n, req)
	})
	for i := range 100 {
		r := event(i, uint64(i))
		r.Payload = make([]byte, 100+i*13)
		rig.Submit([]*connector.Record{r})
	}
	rig.Flush()
	rig.wait(t, 100)
}

// TestUncertainPoint: a point that may have been applied is set aside and not sent again, unless its mapping says so.
func TestUncertainPoint(t *testing.T) {
	for _, resend := range []bool{false, true} {
		rig := start(t, Config{}, func(n int, req *connector.Request) connector.Answer {
			if n == 1 {
				return connector.Answer{Verdict: connector.Outage, HTTPStatus: 502}
			}
			return delivered(n, req)
		})
		rec := point(0, 1)
		rec.Resend = resend
		rig.Submit([]*connector.Record{rec})
		rig.Flush()
		rig.wait(t, 1)
		wantLetters, wantApplied := 1, 0
		if resend {
			wantLetters, wantApplied = 0, 1
		}
		if rig.store.count() != wantLetters || rig.fake.done() != wantApplied {
			t.Fatalf("resend %v: %d dead letters, %d applied", resend, rig.store.count(), rig.fake.done())
		}
		if !resend && (rig.store.list()[0].Class != connector.ClassUncertain || !rig.store.intents[rec.Key()]) {
			t.Fatalf("dead letter %+v", rig.store.list()[0])
		}
	}
}

// TestStoreFails: while intents or dead letters can't be written nothing leaves and nothing is settled; then all goes on.
func TestStoreFails(t *testing.T) {
	rig := start(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		if req.Endpoint == connector.EventEndpoint {
			return connector.Answer{Verdict: connector.Rejected, NotApplied: true}
		}
		return delivered(n, req)
	})
	rig.store.fail = 5
	rig.Submit([]*connector.Record{point(0, 1), event(1, 2)})
	rig.Flush()
	rig.wait(t, 2)
	if rig.store.count() != 1 || rig.fake.done() != 1 {
		t.Fatalf("%d dead letters, %d applied", rig.store.count(), rig.fake.done())
	}
}

// TestStopFinishesWhatIsInFlight: after ctx ends the request in flight is waited for and settled, and no other begins.
func TestStopFinishesWhatIsInFlight(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	rig := start(t, Config{Concurrency: 1, MaxBatch: 1}, func(n int, req *connector.Request) connector.Answer {
		entered <- struct{}{}
		<-release
		return delivered(n, req)
	})
	rig.Submit([]*connector.Record{event(0, 1), event(1, 2)})
	rig.Flush()
	<-entered
	stopped := make(chan struct{})
	go func() { rig.stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("stopped with a request in flight")
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	<-stopped
	if len(rig.settled) != 1 || rig.fake.sent() != 1 {
		t.Fatalf("%d settled, %d requests", len(rig.settled), rig.fake.sent())
	}
}
