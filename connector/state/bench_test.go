package state

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

func openBench(b *testing.B) *Store {
	s, err := Open(b.Context(), Location{Path: filepath.Join(b.TempDir(), "state.db")}, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkPoints is 16 senders against a platform that answers at once, each point with intent and outcome, and the checkpoint beside them.
func BenchmarkPoints(b *testing.B) {
	b.Run("file", func(b *testing.B) { benchmarkPoints(b, openBench(b)) })
	b.Run("server", func(b *testing.B) {
		// A cluster of its own, with fsync: that is what a commit costs.
		benchmarkPoints(b, openServerTest(b, pgtest.Private(b, "fsync=on").Database(b).DSN()))
	})
}

// BenchmarkIntend is 16 callers who do nothing but intend points.
func BenchmarkIntend(b *testing.B) {
	for _, place := range []string{"file", "server"} {
		b.Run(place, func(b *testing.B) {
			s := (*Store)(nil)
			if place == "file" {
				s = openBench(b)
			} else {
				s = openServerTest(b, pgtest.Private(b, "fsync=on").Database(b).DSN())
			}
			var next atomic.Int64
			before := s.Stats()
			b.SetParallelism(max(1, 16/runtime.GOMAXPROCS(0)))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := s.Intend(b.Context(), []connector.RecordID{point("order-points", at(connector.LSN(next.Add(1)), 0), 0)}); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "intents/s")
			b.ReportMetric(float64(s.Stats().Commits-before.Commits)/float64(b.N), "commits/intent")
		})
	}
}

func benchmarkPoints(b *testing.B, s *Store) {
	const senders = 16
	var next, settled atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if err := s.SaveCheckpoint(b.Context(), checkpoint(at(connector.LSN(max(0, settled.Load()-senders)), 0))); err != nil {
					b.Error(err)
				}
			}
		}
	}()
	before := s.Stats()
	b.SetParallelism(max(1, senders/runtime.GOMAXPROCS(0)))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := point("order-points", at(connector.LSN(next.Add(1)), 0), 0)
			if err := s.Intend(b.Context(), []connector.RecordID{id}); err != nil {
				b.Error(err)
			}
			s.Outcome(id, true)
			settled.Add(1)
		}
	})
	after := s.Stats()
	close(stop)
	<-stopped
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "points/s")
	b.ReportMetric(float64(after.Commits-before.Commits)/float64(b.N), "fsyncs/point")
}

// BenchmarkSaveCheckpoint writes other ranges each time, beside points of which a few are not covered.
func BenchmarkSaveCheckpoint(b *testing.B) {
	for _, n := range []int{0, 100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%d ranges", n), func(b *testing.B) {
			s := openBench(b)
			lists := [][]connector.Range{manyRanges(n + 1), manyRanges(n)}
			var points []connector.RecordID
			for i := range 16 {
				points = append(points, point("order-points", connector.Position{Commit: connector.LSN(1<<60 + i)}, 0))
			}
			for i := range 600 {
				if n > 0 {
					points = append(points, point("order-points", lists[1][i*7%n].From, i))
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				if err := s.Intend(b.Context(), points); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := s.SaveCheckpoint(b.Context(), checkpoint(at(5, 0), lists[i%2]...)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
