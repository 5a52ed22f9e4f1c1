package platformsim

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Benchmarks serve requests without a network: what the simulator itself costs.

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func benchmark(b *testing.B, o Options, e Endpoint, body string, records int) {
	s := New(o)
	r := request(s, e, body)
	reader := bytes.NewReader([]byte(body))
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		reader.Reset([]byte(body))
		r.Body = io.NopCloser(reader)
		s.ServeHTTP(discard{http.Header{}}, r)
	}
	if s.Count(e) != b.N*records {
		b.Fatalf("%d applied of %d", s.Count(e), b.N*records)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/record")
}

func BenchmarkEvents(b *testing.B) {
	var list []string
	for i := range 500 {
		list = append(list, fmt.Sprintf(`{"identities":[{"identityValue":"138%08d","identityType":"phone"}],"time":1700000000000,`+
			`"uuid":"0190c6c9-0000-7000-8000-%012d","eventKey":"c_buy","eventargs":{"c_goods":"茶","c_price":1420.00,"title":"下单"}}`, i, i))
	}
	for _, noLedger := range []bool{true, false} {
		b.Run(fmt.Sprintf("noLedger=%v", noLedger), func(b *testing.B) {
			benchmark(b, Options{NoLedger: noLedger, EventKeys: []string{"c_buy"}}, Event, events(list...), 500)
		})
	}
}

func BenchmarkPoint(b *testing.B) {
	body := strings.Replace(goodPoint, `"r"`, `"订单 1001 积分"`, 1)
	for _, noLedger := range []bool{true, false} {
		b.Run(fmt.Sprintf("noLedger=%v", noLedger), func(b *testing.B) {
			benchmark(b, Options{NoLedger: noLedger}, Point, body, 1)
		})
	}
}
