package platform

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// idleTimeout closes a connection that nobody used for so long. It is shorter than any common server's own (Node.js and Apache 5 s):
// a point that is written into a connection which the server is just closing is uncertain.
const idleTimeout = 4 * time.Second

func newTransport(timeout time.Duration, maxConns int) *http.Transport {
	// Dials are cut off by these, not by the request: net/http lets a dial outlive the request that asked for it.
	dialer := &net.Dialer{Timeout: timeout}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    timeout, // through a proxy; dialTLS has its own
		MaxIdleConnsPerHost:    maxConns,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 256 << 10,
		WriteBufferSize:        32 << 10,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: c}, nil
	}
	// The count stands outside TLS, so that an alert of TLS at the end is not taken for a part of the request.
	t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		config := t.TLSClientConfig.Clone()
		if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
			c.Close()
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		secure := tls.Client(c, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, err
		}
		return &conn{Conn: secure}, nil
	}
	return t
}

// conn counts what is written to it.
type conn struct {
	net.Conn

	// mu is held while a write is under way, so that seal knows the count to be final.
	mu      sync.Mutex
	written int64
	sealed  bool

	scratch []byte // of ReadFrom
}

func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sealed {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(b)
	c.written += int64(n)
	return n, err
}

// ReadFrom is how net/http writes a body that is larger than its buffer. Without it, io.Copy makes a buffer for every request.
// Only one request at a time has the connection.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if c.scratch == nil {
		c.scratch = make([]byte, 32<<10)
	}
	return io.CopyBuffer(struct{ io.Writer }{c}, r, c.scratch)
}

// seal closes the connection and reports whether nothing was written since the count stood at mark; then nothing ever will be.
func (c *conn) seal(mark int64) bool {
	c.Conn.Close() // ends a write that blocks
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed = true
	return c.written == mark
}

func (c *conn) mark() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// journey notes the connections that one request was given. Its hook and its methods are called by the goroutine of RoundTrip.
type journey struct {
	legs   []leg
	reused bool // the last connection had carried requests before
}

type leg struct {
	conn *conn // nil: not one of ours
	mark int64 // its count when the request got it
}

func (j *journey) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		c := info.Conn
		for {
			// Through a proxy, TLS stands around the count: then its own bytes count too, which errs on the safe side.
			t, ok := c.(*tls.Conn)
			if !ok {
				break
			}
			c = t.NetConn()
		}
		l := leg{}
		if l.conn, _ = c.(*conn); l.conn != nil {
			l.mark = l.conn.mark()
		}
		j.legs, j.reused = append(j.legs, l), info.Reused
	}}
}

// connected reports whether the request ever had a connection.
func (j *journey) connected() bool { return len(j.legs) > 0 }

// end is called after the request has failed. It reports whether it is proven that no byte of the request has left, and that none will.
func (j *journey) end() bool {
	nothing := true
	for _, l := range j.legs {
		if l.conn == nil || !l.conn.seal(l.mark) {
			nothing = false
		}
	}
	return nothing
}
