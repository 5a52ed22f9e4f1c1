package pgtest

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// TCPProxy stands between a client and a server on 127.0.0.1 and plays a bad network. Its methods are safe for concurrent use, and are
// in effect when they return.
type TCPProxy struct {
	target string
	addr   string
	tasks  sync.WaitGroup

	// flow is held for reading while a byte is passed on; Pause takes it for writing to wait for those on their way.
	flow sync.RWMutex

	mu sync.Mutex
	// gate is closed while bytes flow; a pause puts an open one in its place.
	gate chan struct{}
	// listener is nil while connections are refused.
	listener net.Listener
	links    map[*link]struct{}
	closed   bool
}

// link is one client's connection and the one to the target.
type link struct{ client, server *net.TCPConn }

// Proxy starts a proxy for target ("host:port"), which goes with the test. At first it lets everything through.
func Proxy(t testing.TB, target string) *TCPProxy {
	t.Helper()
	p := &TCPProxy{target: target, gate: make(chan struct{}), links: map[*link]struct{}{}}
	close(p.gate)
	// Below the ports of outgoing connections, for the same reason as a server's: after Refuse the port must be there again.
	port, err := throwaway.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	p.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if err := p.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.shut)
	return p
}

// Addr is where clients connect to, 127.0.0.1:port. It never changes.
func (p *TCPProxy) Addr() string { return p.addr }

// Cut resets all connections. New ones are let through.
func (p *TCPProxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Pause stops all bytes in both directions, as a network does that drops packets: connections stay, and new ones are taken, but nothing
// arrives. What was read before is kept and goes on at Resume. The end of a connection is not passed on either.
func (p *TCPProxy) Pause() {
	p.mu.Lock()
	select {
	case <-p.gate:
		p.gate = make(chan struct{})
	default:
	}
	// A write to a peer that does not read would hold us up: it is broken off, and taken up again at Resume.
	p.deadline(time.Now())
	p.mu.Unlock()
	p.flow.Lock()
	p.flow.Unlock() //lint:ignore SA2001 waiting for the writes on their way is all that is wanted
	p.mu.Lock()
	p.deadline(time.Time{})
	p.mu.Unlock()
}

// deadline sets the write deadline of all links. mu is held.
func (p *TCPProxy) deadline(at time.Time) {
	for l := range p.links {
		_ = l.client.SetWriteDeadline(at) // an error says that it is closed
		_ = l.server.SetWriteDeadline(at)
	}
}

// Resume ends a pause.
func (p *TCPProxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

// Refuse resets all connections and refuses new ones, as a server that is down.
func (p *TCPProxy) Refuse() {
	p.mu.Lock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.Cut()
}

// Heal ends a refusal and a pause: new connections are let through.
func (p *TCPProxy) Heal(t testing.TB) {
	t.Helper()
	if err := p.listen(); err != nil {
		t.Fatal(err)
	}
	p.Resume()
}

// listen takes connections, if nobody does already.
func (p *TCPProxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil || p.closed {
		return nil
	}
	listener, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener = listener
	p.tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed by Refuse or shut
			}
			p.tasks.Go(func() { p.serve(conn.(*net.TCPConn)) })
		}
	})
	return nil
}

// serve passes bytes on until both ends are done, or the link is reset.
func (p *TCPProxy) serve(client *net.TCPConn) {
	conn, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.SetLinger(0)
		client.Close()
		return
	}
	l := &link{client, conn.(*net.TCPConn)}
	defer l.client.Close()
	defer l.server.Close()
	p.mu.Lock()
	if p.closed || p.listener == nil {
		l.reset()
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { p.pass(l, l.client, l.server) })
	both.Go(func() { p.pass(l, l.server, l.client) })
	both.Wait()

	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pass copies from one end to the other while bytes may flow.
func (p *TCPProxy) pass(l *link, from, to *net.TCPConn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if writeErr := p.write(to, buffer[:n]); writeErr != nil {
			l.reset()
			return
		}
		if errors.Is(err, io.EOF) {
			p.wait()
			_ = to.CloseWrite() // an error says that it is closed
			return
		}
		if err != nil {
			l.reset()
			return
		}
	}
}

// write writes all of data, in pauses none of it.
func (p *TCPProxy) write(to *net.TCPConn, data []byte) error {
	for len(data) > 0 {
		p.wait()
		n, err := p.writeNow(to, data)
		data = data[n:]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return nil
}

// writeNow writes data unless a pause began meanwhile.
func (p *TCPProxy) writeNow(to *net.TCPConn, data []byte) (int, error) {
	p.flow.RLock()
	defer p.flow.RUnlock()
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	select {
	case <-gate:
		return to.Write(data)
	default:
		return 0, nil
	}
}

// wait waits until bytes may flow.
func (p *TCPProxy) wait() {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	<-gate
}

// reset ends both connections with RST.
func (l *link) reset() {
	for _, conn := range []*net.TCPConn{l.client, l.server} {
		_ = conn.SetLinger(0) // an error says that it is closed
		conn.Close()
	}
}

// shut ends everything and waits for it.
func (p *TCPProxy) shut() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Refuse()
	p.Resume()
	p.tasks.Wait()
}
