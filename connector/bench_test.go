package connector

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkCheckpoint takes the checkpoint of so many open changes, each with a settled stretch behind it and, every second one, a settled record.
func BenchmarkCheckpoint(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%d open", n), func(b *testing.B) {
			t := newTracker(&Checkpoint{}, new(atomic.Uint64))
			for i := range n {
				p := Position{Commit: 1 << 40, Index: uint32(10 * i)}
				c := t.add(p, time.Time{}, 2, nil)
				if i%2 == 0 {
					c.settle(RecordID{Mapping: "m", Position: p})
				}
				for j := range 9 {
					t.add(Position{p.Commit, p.Index + 1 + uint32(j)}, time.Time{}, 0, nil)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if cp := t.checkpoint(); len(cp.Ranges) != n || len(cp.Partial) != n/2 {
					b.Fatal(len(cp.Ranges), len(cp.Partial))
				}
			}
		})
	}
}
