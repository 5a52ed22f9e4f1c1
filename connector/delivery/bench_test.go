package delivery

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// instant takes everything at once.
type instant struct{}

func (instant) Send(context.Context, *connector.Request) connector.Answer {
	return connector.Answer{Verdict: connector.Delivered}
}

func (instant) Probe(context.Context, connector.Endpoint) connector.Answer {
	return connector.Answer{Verdict: connector.Delivered}
}

// BenchmarkDelivery measures a record's way from Submit to its settlement, beside a platform that takes everything at once.
func BenchmarkDelivery(b *testing.B) {
	for name, record := range map[string]func(i int) *connector.Record{
		"events": func(i int) *connector.Record { return event(i, uint64(i%10_000)) },
		"groups": func(i int) *connector.Record {
			return group(i, []string{"add", "delete"}[i/10_000%2], uint64(i%10_000), 20_000+uint64(i%5000))
		},
		"points": func(i int) *connector.Record { return point(i, uint64(i%10_000)) },
	} {
		b.Run(name, func(b *testing.B) {
			log := slog.New(slog.DiscardHandler)
			var settled sync.WaitGroup
			settled.Add(b.N)
			d := New(Config{Concurrency: 4, PointConcurrency: 16, MaxBatch: 500, MaxBatchBytes: 1 << 20, MaxPending: 20_000, MaxPendingBytes: 8 << 20,
				BackoffInitial: 1, BackoffMax: 1, MaxDeadLetters: 10}, Ports{Platform: instant{}, Store: newMemory(), Settle: func(rs []*connector.Record) { settled.Add(-len(rs)) },
				CountOpen: func(context.Context) (int, error) { return 0, nil }, Counters: connector.NewCounters(nil), Alarms: connector.NewAlarms(log), Log: log}, 0)
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error)
			go func() { done <- d.Run(ctx) }()
			records := make([]*connector.Record, b.N)
			for i := range records {
				records[i] = record(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range records {
				if room := d.Room(); room != nil {
					<-room
				}
				d.Submit(records[i : i+1])
			}
			d.Flush()
			settled.Wait()
			b.StopTimer()
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}
