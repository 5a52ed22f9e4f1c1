package connector

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// model is the plain truth that the tracker must agree with: every position read, and which of them are settled.
type model struct {
	read    []Position
	settled map[Position]bool
	marks   map[Position]LSN // confirmable once everything up to and including the position is settled
	start   LSN
}

func (m *model) check(t *testing.T, cp *Checkpoint) {
	t.Helper()
	flush := m.start
	prefix := true
	for _, p := range m.read {
		if cp.Covers(p) != m.settled[p] {
			t.Fatalf("position %s: covered %v, settled %v (checkpoint %+v)", p, cp.Covers(p), m.settled[p], cp)
		}
		prefix = prefix && m.settled[p]
		if mark, ok := m.marks[p]; ok && prefix {
			flush = mark
		}
	}
	if cp.Flush != flush {
		t.Fatalf("flush %s, want %s", cp.Flush, flush)
	}
	for i, r := range cp.Ranges {
		if r.From.Compare(r.To) > 0 || r.From.Compare(cp.Settled) <= 0 || (i > 0 && r.From.Compare(cp.Ranges[i-1].To) <= 0) {
			t.Fatalf("ranges are not ascending and apart: %+v beyond %s", cp.Ranges, cp.Settled)
		}
	}
}

// TestTrackerAgainstModel settles random changes of random transactions in random order, crashes at random moments and reads again from the
// confirmed LSN: at any moment the checkpoint covers exactly what is settled, and nothing that it covers is read again.
func TestTrackerAgainstModel(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		type tx struct {
			commit, end LSN
			n           uint32
		}
		var wal []tx
		lsn := LSN(1000)
		for range 30 {
			n := uint32(r.IntN(6))
			wal = append(wal, tx{lsn, lsn + 10, n})
			lsn += 10 + LSN(r.IntN(2))*5 // an end LSN may equal the next transaction's commit LSN
		}
		m := &model{settled: map[Position]bool{}, marks: map[Position]LSN{}, start: 900}
		cp := &Checkpoint{Flush: 900}
		seen := map[Position]bool{}
		for crash := 0; crash < 4; crash++ {
			tr := newTracker(cp, new(atomic.Uint64))
			open := map[Position]*openChange{}
			ids := map[Position]RecordID{}
			stop := r.IntN(80)
			steps := 0
		stream:
			for _, x := range wal {
				if x.commit < cp.Flush {
					continue // as the server does
				}
				for i := range x.n {
					p := Position{x.commit, i}
					if steps++; steps > stop && crash < 3 {
						break stream
					}
					if tr.skip(p, time.Time{}) {
						if !m.settled[p] {
							t.Fatalf("seed %d: %s was passed over but is not settled", seed, p)
						}
						continue
					}
					if m.settled[p] {
						t.Fatalf("seed %d: %s is settled and comes again", seed, p)
					}
					if !seen[p] {
						seen[p] = true
						m.read = append(m.read, p)
					}
					if r.IntN(4) == 0 {
						tr.add(p, time.Time{}, 0, nil)
						m.settled[p] = true
					} else {
						open[p] = tr.add(p, time.Time{}, 1, nil)
						ids[p] = RecordID{Position: p}
					}
					for q, c := range open { // map order is random enough
						if r.IntN(3) > 0 {
							break
						}
						c.settle(ids[q])
						m.settled[q] = true
						delete(open, q)
					}
					if r.IntN(5) == 0 {
						m.checkPrefix(t, tr.checkpoint())
					}
				}
				tr.advance(x.end)
				if len(m.read) > 0 && m.read[len(m.read)-1].Commit <= x.commit {
					m.marks[m.read[len(m.read)-1]] = x.end
				} else if len(m.read) == 0 {
					m.start = max(m.start, x.end)
				}
			}
			if crash == 3 {
				for q, c := range open {
					c.settle(ids[q])
					m.settled[q] = true
				}
				m.check(t, tr.checkpoint())
				if got := tr.checkpoint(); len(got.Ranges) != 0 || got.Flush != wal[len(wal)-1].end {
					t.Fatalf("seed %d: everything is settled, yet the checkpoint is %+v", seed, got)
				}
			}
			cp = tr.checkpoint()
			m.checkPrefix(t, cp)
		}
	}
}

// checkPrefix checks all that must hold at any moment; the flush LSN may lag behind the model's after a crash, when transactions
// are being read again, but it must never be ahead.
func (m *model) checkPrefix(t *testing.T, cp *Checkpoint) {
	t.Helper()
	for _, p := range m.read {
		if cp.Covers(p) != m.settled[p] {
			t.Fatalf("position %s: covered %v, settled %v (checkpoint %+v)", p, cp.Covers(p), m.settled[p], cp)
		}
		if !m.settled[p] && cp.Flush > p.Commit {
			t.Fatalf("flush %s is past the unsettled %s", cp.Flush, p)
		}
	}
}

// TestTrackerPartial: a change of two records of which one is settled keeps that one in the checkpoint, also across a restart that has not
// read it again.
func TestTrackerPartial(t *testing.T) {
	tr := newTracker(&Checkpoint{}, new(atomic.Uint64))
	p := Position{10, 0}
	a, b := RecordID{Mapping: "a", Position: p}, RecordID{Mapping: "b", Position: p}
	c := tr.add(p, time.Time{}, 2, nil)
	c.settle(a)
	cp := tr.checkpoint()
	if len(cp.Partial) != 1 || cp.Partial[0] != a.Key() || cp.Covers(p) {
		t.Fatalf("checkpoint %+v", cp)
	}
	again := newTracker(cp, new(atomic.Uint64))
	if got := again.checkpoint(); len(got.Partial) != 1 {
		t.Fatalf("after a restart: %+v", got)
	}
	if again.skip(p, time.Time{}) {
		t.Fatal("the change was passed over with a record unsettled")
	}
	c = again.add(p, time.Time{}, 1, cp.Partial)
	if got := again.checkpoint(); len(got.Partial) != 1 {
		t.Fatalf("while the other record waits: %+v", got)
	}
	c.settle(b)
	if got := again.checkpoint(); len(got.Partial) != 0 || !got.Covers(p) {
		t.Fatalf("settled: %+v", got)
	}
}

func TestPositionText(t *testing.T) {
	p := Position{0x16B374D848, 3}
	if p.String() != "16/B374D848:3" {
		t.Fatal(p.String())
	}
	q, err := ParsePosition(p.String())
	if err != nil || q != p {
		t.Fatal(q, err)
	}
	for _, bad := range []string{"", "16/B374D848", "x/1:2", "1/2:-1", "1/2:4294967296"} {
		if _, err := ParsePosition(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
