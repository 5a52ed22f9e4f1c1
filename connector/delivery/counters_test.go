package delivery

import (
	"errors"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestCounters: what is delivered, sent again and set aside is counted by mapping, and what is pending is known by mapping while it is.
func TestCounters(t *testing.T) {
	hold := make(chan struct{})
	rig := start(t, Config{}, func(n int, req *connector.Request) connector.Answer {
		switch {
		case req.Endpoint == connector.PointEndpoint:
			<-hold
			return connector.Answer{Verdict: connector.Rejected, HTTPStatus: 400, NotApplied: true}
		case n == 1 && len(req.Records) > 1:
			return connector.Answer{Verdict: connector.Partly, Failed: []int{1}}
		}
		return delivered(n, req)
	})
	p := point(9, 99)
	p.Mapping, p.Payload = "p", make([]byte, 70)
	rig.Submit([]*connector.Record{event(1, 1), event(2, 2), event(3, 3), p})
	rig.Flush()
	for range 3 {
		<-rig.settled
	}
	s := rig.Stats()
	if s.Mappings["p"] != (Pending{Records: 1, Bytes: 70}) || s.Mappings["e"] != (Pending{}) || s.Pending != 1 || s.PendingBytes != 70 {
		t.Errorf("pending %+v", s)
	}
	close(hold)
	<-rig.settled
	rig.stop()
	e, c := rig.ports.Counters.Mapping("e"), rig.ports.Counters.Mapping("p")
	if e.Delivered.Load()+e.Letters(connector.ClassRejected) != 3 || c.Delivered.Load() != 0 || c.Letters(connector.ClassRejected) != 1 || rig.Stats().Mappings["p"] != (Pending{}) {
		t.Errorf("%d delivered, %d and %d letters, %+v", e.Delivered.Load(), e.Letters(connector.ClassRejected), c.Letters(connector.ClassRejected), rig.Stats())
	}
}

// TestRetriesCounted: a record that is carried again is counted, each time; a request that did not leave, since no connection was made, carried nothing.
func TestRetriesCounted(t *testing.T) {
	for _, c := range []struct {
		answer  connector.Answer
		retries func(requests uint64) uint64
	}{
		{connector.Answer{Verdict: connector.Outage, NotApplied: true, HTTPStatus: 503}, func(requests uint64) uint64 { return requests - 1 }},
		{connector.Answer{Verdict: connector.Outage, Err: errors.New("cut")}, func(requests uint64) uint64 { return requests - 1 }},
		{connector.Answer{Verdict: connector.Outage, NotApplied: true, Err: errors.New("connection refused")}, func(uint64) uint64 { return 0 }},
	} {
		rig := start(t, Config{}, func(n int, req *connector.Request) connector.Answer {
			if n < 4 {
				return c.answer
			}
			return delivered(n, req)
		})
		rig.Submit([]*connector.Record{event(1, 1)})
		rig.Flush()
		rig.wait(t, 1)
		counted, requests := rig.ports.Counters.Mapping("e"), uint64(rig.fake.sent())
		if counted.Retries.Load() != c.retries(requests) || requests < 4 || counted.Delivered.Load() != 1 {
			t.Errorf("%+v: %d requests, %d retries, %d delivered", c.answer, requests, counted.Retries.Load(), counted.Delivered.Load())
		}
		rig.stop()
	}
}
