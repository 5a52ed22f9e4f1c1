package platform

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// maxKept is the largest buffer that is kept for the next request; a rare giant must not stay for good.
const maxKept = 4 << 20

// encoded is the body of a request in a buffer from Client.buffers. The transport may still read it after RoundTrip has returned, and
// must close it (http.RoundTripper), so it goes back when the sender and all its bodies have let go.
type encoded struct {
	bytes   []byte
	holders atomic.Int32
	pool    *sync.Pool
}

// buffer gives an empty one, held by the caller.
func (c *Client) buffer() *encoded {
	e := c.buffers.Get().(*encoded)
	e.bytes, e.pool = e.bytes[:0], &c.buffers
	e.holders.Store(1)
	return e
}

func (e *encoded) release() {
	if e.holders.Add(-1) == 0 && cap(e.bytes) <= maxKept {
		e.pool.Put(e)
	}
}

// encode writes the request's body.
func (c *Client) encode(req *connector.Request) *encoded {
	e := c.buffer()
	e.bytes = appendBody(e.bytes, req)
	return e
}

// appendBody appends the JSON of req: the payload itself for a point, else publicParams and data. check has passed it.
func appendBody(dst []byte, req *connector.Request) []byte {
	if req.Records[0].Kind == connector.Point {
		return appendPoint(dst, req.Records[0].Payload)
	}
	envelope := req.Envelope
	if envelope == "" {
		envelope = "{}" // publicParams is required, if need be empty
	}
	dst = append(dst, `{"publicParams":`...)
	dst = append(dst, envelope...)
	dst = append(dst, `,"data":[`...)
	for i, r := range req.Records {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, r.Payload...)
	}
	return append(dst, "]}"...)
}

// appendPoint turns a point's payload into the body that carries it.
func appendPoint(dst, payload []byte) []byte {
	return append(dst, payload...)
}

// body reads an encoded to the transport. Transport may close it in one goroutine while another reads.
type body struct {
	mu   sync.Mutex
	of   *encoded // nil after Close
	read int
}

func (e *encoded) body() *body {
	e.holders.Add(1)
	return &body{of: e}
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of == nil {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.read == len(b.of.bytes) {
		return 0, io.EOF
	}
	n := copy(p, b.of.bytes[b.read:])
	b.read += n
	return n, nil
}

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of != nil {
		b.of.release()
		b.of = nil
	}
	return nil
}
