package platform

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// sink answers every request at once and allocates nothing, so that what is counted is the client's.
func sink(b *testing.B) string {
	var head bytes.Buffer
	writeAnswer(&head, 200, delivered)
	reply := head.Bytes()
	return raw(b, func(_ int, c net.Conn, _ *bufio.Reader) {
		r := bufio.NewReaderSize(c, 64<<10)
		for {
			length := 0
			for {
				line, err := r.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) == 2 {
					break
				}
				if rest, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
					for _, d := range bytes.TrimSpace(rest) {
						length = length*10 + int(d-'0')
					}
				}
			}
			if _, err := r.Discard(length); err != nil {
				return
			}
			if _, err := c.Write(reply); err != nil {
				return
			}
		}
	})
}

// BenchmarkSendEvents sends 500 events of about 300 bytes a request.
func BenchmarkSendEvents(b *testing.B) {
	req := eventRequest(500)
	for _, r := range req.Records {
		r.Payload = []byte(`{"eventKey":"c_buy","uuid":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","eventargs":{"title":"` + strings.Repeat("x", 200) + `"}}`)
	}
	c := newClient(b, "http://"+sink(b))
	b.ReportAllocs()
	for b.Loop() {
		if a := c.Send(b.Context(), req); a.Verdict != connector.Delivered {
			b.Fatal(a.Verdict, a.Err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(req.Records)), "ns/record")
}

// BenchmarkSendPoints sends points one a request with 16 senders.
func BenchmarkSendPoints(b *testing.B) {
	c := newClient(b, "http://"+sink(b))
	req := pointRequest()
	b.ReportAllocs()
	var all sync.WaitGroup
	work := make(chan struct{})
	for range 16 {
		all.Go(func() {
			for range work {
				if a := c.Send(b.Context(), req); a.Verdict != connector.Delivered {
					b.Error(a.Verdict, a.Err)
				}
			}
		})
	}
	for b.Loop() {
		work <- struct{}{}
	}
	close(work)
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "points/s")
}

// BenchmarkEncode writes the body of 500 events.
func BenchmarkEncode(b *testing.B) {
	c := newClient(b, "http://127.0.0.1:1")
	req := eventRequest(500)
	b.ReportAllocs()
	for b.Loop() {
		e, _ := c.encode(req)
		_, _ = io.Discard.Write(e.bytes)
		e.release()
	}
}

// BenchmarkSeal encrypts the body of a point of 200 bytes.
func BenchmarkSeal(b *testing.B) {
	plain := []byte(`{"point":5,"remark":"` + strings.Repeat("x", 177) + `"}`)
	for _, algorithm := range Algorithms {
		b.Run(algorithm, func(b *testing.B) {
			s := newSealer(Encryption{Algorithm: algorithm, Key: static("0123456789abcdef")})
			var dst []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if dst, err = s.seal(dst[:0], plain); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
