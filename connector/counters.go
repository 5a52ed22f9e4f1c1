package connector

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Counters count what a process has done since it started, for the page, the metrics and the status command. They outlive the pipeline: a reload goes on
// counting. What one counts is got once, by name, and then counted without lock or allocation. Safe for concurrent use; make them with NewCounters.
type Counters struct {
	endpoints [GroupRelationEndpoint + 1]EndpointCounters
	observer  func(Exchange)

	mu       sync.Mutex // guards the maps, whose entries stay
	mappings map[string]*MappingCounters
	tables   map[string]*atomic.Uint64
}

// MappingCounters are what became of one mapping's changes and records. A change, and its records, that comes again (after the mapping was held, or after
// a reload) is counted again.
type MappingCounters struct {
	// Changes are those of its table and operations that it could read, wanted or not; Records are what it made of them.
	Changes, Records atomic.Uint64
	// Delivered are the records that the platform took, those of dead letters that were sent again among them.
	Delivered atomic.Uint64
	// Retries counts how often a request carried a record that an earlier one had carried. What did not leave (Answer.Left) carried nothing.
	Retries atomic.Uint64

	letters [4]atomic.Uint64 // in the order of Classes
}

// EndpointCounters are what was asked of one of the platform's endpoints.
type EndpointCounters struct {
	// Records were carried by requests, Bytes is the size of the requests' bodies.
	Records, Bytes atomic.Uint64
	// Nanoseconds is how long all requests together took.
	Nanoseconds atomic.Int64

	requests [Outage + 1]atomic.Uint64
}

// Exchange is one HTTP request to an endpoint that takes records, and what came of it.
type Exchange struct {
	Endpoint Endpoint
	// Records is how many it carried; 0: it asked whether the endpoint is there.
	Records int
	// Bytes is the size of its body.
	Bytes int
	// Duration lies between the start of the request and the end of the answer, without the waits for a token and for platform.requestsPerSecond.
	Duration time.Duration
	// Verdict is how the answer was read, HTTPStatus its status; 0: none came.
	Verdict    Verdict
	HTTPStatus int
}

// NewCounters makes counters that stand at 0. observer, where it is not nil, is told of each exchange; it must be safe for concurrent use and not block.
func NewCounters(observer func(Exchange)) *Counters {
	return &Counters{observer: observer, mappings: map[string]*MappingCounters{}, tables: map[string]*atomic.Uint64{}}
}

// Mapping gives the counters of a mapping.
func (c *Counters) Mapping(name string) *MappingCounters {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mappings[name]
	if m == nil {
		m = &MappingCounters{}
		c.mappings[name] = m
	}
	return m
}

// Table gives the counter of the changes that were read of a table (schema.name) and were not settled already.
func (c *Counters) Table(name string) *atomic.Uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.tables[name]
	if n == nil {
		n = &atomic.Uint64{}
		c.tables[name] = n
	}
	return n
}

// Endpoint gives the counters of an endpoint.
func (c *Counters) Endpoint(e Endpoint) *EndpointCounters { return &c.endpoints[e] }

// Tables gives the names of the tables that Table was asked for, sorted.
func (c *Counters) Tables() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.tables))
}

// Exchanged counts an exchange, and tells the observer.
func (c *Counters) Exchanged(x Exchange) {
	e := &c.endpoints[x.Endpoint]
	e.requests[x.Verdict].Add(1)
	e.Records.Add(uint64(x.Records))
	e.Bytes.Add(uint64(x.Bytes))
	e.Nanoseconds.Add(int64(x.Duration))
	if c.observer != nil {
		c.observer(x)
	}
}

// Lettered counts a dead letter that was stored.
func (m *MappingCounters) Lettered(class Class) {
	if i := slices.Index(Classes, class); i >= 0 {
		m.letters[i].Add(1)
	}
}

// Letters gives how many dead letters of a class were stored.
func (m *MappingCounters) Letters(class Class) uint64 {
	if i := slices.Index(Classes, class); i >= 0 {
		return m.letters[i].Load()
	}
	return 0
}

// Requests gives how many requests ended with a verdict; 0: with any.
func (e *EndpointCounters) Requests(v Verdict) (n uint64) {
	if v != 0 {
		return e.requests[v].Load()
	}
	for i := range e.requests {
		n += e.requests[i].Load()
	}
	return n
}
