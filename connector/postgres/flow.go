package postgres

import (
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// flow knows whether data streams in, rather than a row now and then, and then makes the stream read it in bursts.
//
// A reader that is always hungry is woken for every row, and so is the server's walsender for every answer to it: each row costs both of them a system call.
// One that waits a moment finds hundreds of rows in one read, and the walsender, whose socket is full, packs them. Measured on two cores, loopback TCP, one
// row a transaction: 10,000 rows a second and 34 µs of CPU a row hungry, 70,000 and 3.7 in bursts; 1,000 rows a transaction: 4.0 µs and 2.8.
// An idle stream, and one of a few hundred rows a second, is never made to wait.
//
// The small receive buffer is what fills the server's side so soon. It needs the small segments: on loopback a segment is 64 KiB, and a window that has no
// room for one is opened by a timer of 200 ms only. Where a message comes apart in spite of that, stalled tells, and bursts are over (Source.fallBack).
type flow struct {
	bursts bool
	level  int // bytes that came lately, less what floodRate lets through
	at     time.Time
	seen   int       // frames.read at that time
	dryAt  time.Time // when what waits for a fuller batch was last sent

	torn   time.Time // since when a message has been there in part, zero: none is
	tornAt int       // frames.read at that time
}

const (
	// Data flows when it comes faster than floodRate, in bytes a millisecond (some 4,000 rows a second), for long enough to make floodLevel of it.
	// floodMost is what it is remembered by.
	floodRate, floodLevel, floodMost = 1000, 8 << 10, 24 << 10
	// burstPause is how long a burst is let gather. Longer ones than the receive buffer holds bring nothing.
	burstPause = 4 * time.Millisecond
	// burstEnd is how long the first byte of the next burst may take.
	burstEnd = time.Millisecond
	// flowDry is how often partly filled batches go out while data flows. Without it each read that finds one row makes one request of it.
	flowDry = 10 * time.Millisecond
	// tornLimit is how long the rest of a message may take in a stream that is read in bursts: a walsender writes a message in one go.
	tornLimit = 150 * time.Millisecond

	burstBuffer  = 128 << 10 // SO_RCVBUF, of which the system makes twice as much
	burstSegment = 16 << 10  // TCP_MAXSEG
)

// runs reports whether data flows, given how many bytes were read in all.
func (f *flow) runs(now time.Time, read int) bool {
	f.level = max(0, f.level-int(now.Sub(f.at)*floodRate/time.Millisecond))
	f.level = min(f.level+read-f.seen, floodMost)
	f.at, f.seen = now, read
	return f.level >= floodLevel
}

// stalled reports whether a message has been there in part for too long, in a stream that is read in bursts. It is asked when a read has found nothing.
func (f *flow) stalled(now time.Time, torn bool, read int) bool {
	switch {
	case !f.bursts || !torn:
		f.torn = time.Time{}
	case f.torn.IsZero() || read != f.tornAt:
		f.torn, f.tornAt = now, read
	default:
		return now.Sub(f.torn) >= tornLimit
	}
	return false
}

// mayBurst reports whether a connection is one where bursts were shown to help and to be safe: TCP on this machine, without TLS.
func mayBurst(conn net.Conn) bool {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return false
	}
	addr, ok := tcp.RemoteAddr().(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// burstBuffers gives connections without TLS to this machine the buffers for bursts, before they are made.
func burstBuffers(cfg *pgconn.Config) func(address string, fd uintptr) {
	if cfg.TLSConfig != nil {
		return nil
	}
	return func(address string, fd uintptr) {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return
		}
		limitReceive(fd, burstSegment, burstBuffer)
	}
}

// widen takes the small receive buffer back, as far as the system lets.
func widen(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4 << 20)
	}
}
