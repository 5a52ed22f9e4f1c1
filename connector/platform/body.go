package platform

import (
	"crypto/rand"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

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

// encode writes the request's body, encrypted where it is for points and Config.Encryption is set. check has passed the request.
func (c *Client) encode(req *connector.Request) (*encoded, error) {
	if req.Records[0].Kind == connector.Point {
		return c.encodePoint(req.Records[0].Payload)
	}
	e := c.buffer()
	e.bytes = appendBatch(e.bytes, req)
	return e, nil
}

// appendBatch appends publicParams and data.
func appendBatch(dst []byte, req *connector.Request) []byte {
	envelope := req.Envelope
	if envelope == "" {
		envelope = "{}" // publicParams is required, if need be empty
	}
	size := len(envelope) + 64
	for _, r := range req.Records {
		size += len(r.Payload) + 1
	}
	dst = slices.Grow(dst, size) // growing by appending would leave as much again to the garbage collector
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

// encodePoint turns a point's payload into the body that carries it.
func (c *Client) encodePoint(payload []byte) (*encoded, error) {
	e := c.buffer()
	var err error
	switch {
	case c.sealer != nil:
		e.bytes, err = c.sealer.seal(e.bytes, payload)
	case c.open && len(payload) > 2: // not the probe's {}
		e.bytes = appendOpenPoint(e.bytes, payload, time.Now())
	default:
		e.bytes = append(e.bytes, payload...)
	}
	if err != nil {
		e.release()
		return nil, err
	}
	return e, nil
}

// appendOpenPoint appends a point of the open API: its payload, which stays the same however often it is sent, with what belongs to one request
// in front: nonce, six random characters, and timestamp, in unix milliseconds.
func appendOpenPoint(dst, payload []byte, now time.Time) []byte {
	const characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" // 32: a byte's lower five bits are one
	var nonce [6]byte
	_, _ = rand.Read(nonce[:]) // it never fails
	for i, b := range nonce {
		nonce[i] = characters[b&31]
	}
	dst = append(append(dst, `{"nonce":"`...), nonce[:]...)
	dst = strconv.AppendInt(append(dst, `","timestamp":`...), now.UnixMilli(), 10)
	return append(append(dst, ','), payload[1:]...)
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
