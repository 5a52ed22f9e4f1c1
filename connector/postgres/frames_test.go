package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// wire is messages as a server sends them, which come in pieces of random length; now and then a read times out first.
type wire struct {
	rest  []byte
	rand  *rand.Rand
	most  int
	timed bool
}

var errTimedOut = errors.New("timed out")

func (w *wire) Read(p []byte) (int, error) {
	if len(w.rest) == 0 {
		return 0, io.EOF
	}
	if w.timed && w.rand.IntN(4) == 0 {
		return 0, errTimedOut
	}
	n := copy(p[:min(len(p), 1+w.rand.IntN(w.most))], w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

func framed(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4)), body...)
}

// TestFrames: pgconn reads the first messages through frames, the stream all that come behind them, however the bytes are cut; time-outs lose nothing, and a
// buffer that was large for one message is small again.
func TestFrames(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		var all []byte
		var bodies [][]byte
		for i := range 400 {
			body := make([]byte, r.IntN(300))
			switch i {
			case 200:
				body = make([]byte, framesBuffer+r.IntN(3*framesBuffer))
			case 210:
				body = make([]byte, framesBuffer-frameHeader) // the buffer to the last byte
			}
			for j := range body {
				body[j] = byte(r.Uint32())
			}
			bodies = append(bodies, body)
			all = append(all, framed('d', body)...)
		}
		w := &wire{rest: all, rand: r, most: []int{1, 7, 1000, 1 << 20}[seed%4]}
		if w.most < 1000 {
			bodies, w.rest = bodies[:50], all[:0:0]
			for _, body := range bodies {
				w.rest = append(w.rest, framed('d', body)...)
			}
		}
		var f frames
		front := f.buildFrontend(w, io.Discard)
		for i, want := range bodies[:10] {
			m, err := front.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if got := m.(*pgproto3.CopyData).Data; !bytes.Equal(got, want) {
				t.Fatalf("seed %d, message %d through pgconn: %d bytes, want %d", seed, i, len(got), len(want))
			}
		}
		if front.ReadBufferLen() != 0 {
			t.Fatal("pgconn has bytes of a message that the stream is to read")
		}
		w.timed = true
		for i := 10; i < len(bodies); {
			whole := f.whole()
			kind, body, err := f.next()
			if errors.Is(err, errTimedOut) {
				if whole {
					t.Fatal("a message that was there timed out")
				}
				continue
			}
			if err != nil || kind != 'd' || !bytes.Equal(body, bodies[i]) {
				t.Fatalf("seed %d, message %d: kind %q, %d bytes, %v; want %d bytes", seed, i, kind, len(body), err, len(bodies[i]))
			}
			i++
		}
		if len(f.buf) > framesBuffer {
			t.Errorf("the buffer stays at %d bytes", len(f.buf))
		}
		if _, _, err := f.next(); err != io.EOF && !errors.Is(err, errTimedOut) {
			t.Errorf("at the end: %v", err)
		}
	}
}

// TestFramesRefuse: what is no message of the protocol is an error, and so is an end in the middle of one.
func TestFramesRefuse(t *testing.T) {
	for name, data := range map[string][]byte{"length 3": {'d', 0, 0, 0, 3, 0, 0}, "length of 4 GiB": {'d', 255, 255, 255, 255, 0}, "cut": framed('d', []byte("12345"))[:7]} {
		f := frames{r: bytes.NewReader(data), buf: make([]byte, framesBuffer)}
		if _, _, err := f.next(); err == nil || err == io.EOF {
			t.Errorf("%s: %v", name, err)
		}
		if len(f.buf) != framesBuffer {
			t.Errorf("%s: %d bytes for what is not there", name, len(f.buf))
		}
	}
}

// deaf takes changes and keeps nothing.
type deaf struct{ offlineSink }

func (*deaf) Change(*connector.Change) error { return nil }

// TestMessageAllocations: a transaction of one row costs no allocation in the stream.
func TestMessageAllocations(t *testing.T) {
	s, _ := offline()
	s.sink = &deaf{}
	s.messages = true
	var tx [][]byte
	for _, m := range recorded(t) {
		k := kindOf(m)
		if k == 'R' || k == 'Y' {
			if err := s.message(t.Context(), 'd', m); err != nil {
				t.Fatal(err)
			}
		}
		if len(tx) == 0 && k == 'B' || len(tx) == 1 && k == 'I' || len(tx) == 2 && k == 'C' {
			tx = append(tx, bytes.Clone(m))
		}
	}
	if len(tx) != 3 {
		t.Fatal("no transaction was recorded")
	}
	copy(tx[2][25+2:], tx[0][25+1:25+9]) // the commit is of the transaction that begins
	ctx := t.Context()
	if got := testing.AllocsPerRun(200, func() {
		for _, m := range tx {
			if err := s.message(ctx, 'd', m); err != nil {
				t.Fatal(err)
			}
		}
	}); got > 0 {
		t.Errorf("%v allocations a transaction", got)
	}
}

// BenchmarkStream takes transactions of one insert apart, from the bytes of the socket to the change that is handed over.
func BenchmarkStream(b *testing.B) {
	s, _ := offline()
	s.sink = &deaf{}
	for _, m := range recorded(b) {
		if k := kindOf(m); k == 'R' {
			if err := s.message(b.Context(), 'd', m); err != nil {
				b.Fatal(err)
			}
		}
	}
	var tx []byte
	var begin []byte
	for _, m := range recorded(b) {
		switch k := kindOf(m); {
		case begin == nil && k == 'B':
			begin = m
			tx = append(tx, framed('d', m)...)
		case len(tx) == len(begin)+frameHeader && k == 'I':
			tx = append(tx, framed('d', m)...)
		case len(tx) > len(begin)+frameHeader && k == 'C':
			m = bytes.Clone(m)
			copy(m[25+2:], begin[25+1:25+9])
			tx = append(tx, framed('d', m)...)
			begin = m[:0] // done
		}
		if len(begin) == 0 && begin != nil {
			break
		}
	}
	wire := &again{data: bytes.Repeat(tx, 100)}
	s.frames = &frames{r: wire, buf: make([]byte, framesBuffer)}
	ctx := b.Context()
	b.SetBytes(int64(len(tx)))
	b.ReportAllocs()
	for b.Loop() {
		for range 3 {
			kind, body, err := s.frames.next()
			if err == nil {
				err = s.message(ctx, kind, body)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// again reads the same data again and again.
type again struct {
	data []byte
	at   int
}

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.data[a.at:])
	a.at = (a.at + n) % len(a.data)
	return n, nil
}
