package postgres

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// flow knows whether data streams in, rather than a row now and then, and then has the stream read it in bursts.
//
// A reader that is always hungry costs itself little and the server much: each row finds the window open and is carried through the network stack by itself, on the
// walsender's time, and the reader is woken for it. Where the window is closed the walsender only appends to what it has to send, and many rows go at once. So when
// data comes in small segments, the sign of the former, the stream pauses, and the window is kept so small that it closes meanwhile. From then on the reader, which has
// the mapping to do, is usually the slower one, and need not pause again. Measured on two busy cores, rows a second, with 4 µs of work a row: 46,000 hungry,
// 42,000 when woken for 128 KiB only (SO_RCVLOWAT, the window open), 225,000 so; with one row a transaction 25,000 hungry, 77,000 so. CPU of the
// walsender a row: 11.7, 12.0, 4.3 µs; and 34, 12.
//
// A window of 8 KiB closes in time for transactions of one row, and holds up rows of 3 KB (50,000 a second, and 111,000 with 64 KiB): so it grows
// where reads go on finding it full, and shrinks where a pause does not fill it. TCP sends nothing, but for a probe now and then, while the window is smaller than a
// segment: segmentSize is set for that, before the connection is made. It is 64 KiB on loopback else.
//
// An idle stream, and one of a few hundred rows a second, is never made to wait. A Unix socket holds some 200 rows and then closes by itself: it gained nothing by
// naps of 0.2 to 4 ms, and is read as it comes.
type flow struct {
	raw    syscall.RawConn // a TCP socket that is read in bursts; nil: none
	window int             // the receive buffer that was set for it; 0: the system's own

	level int // bytes that came lately, less what floodRate lets through
	at    time.Time
	seen  int       // frames.read at that time
	dryAt time.Time // when what waits for a fuller batch was last sent

	came  arrived // at the last look
	fresh bool    // since a pause nothing was read: what came in it came row by row, until the window was closed

	full  int // reads of large segments, since the last pause or since the window has grown
	halts int // how often a message has stopped in its middle for a tick
}

const (
	// Data flows when it comes faster than floodRate, in bytes a millisecond (some 4,000 rows a second), for long enough to make floodLevel of it.
	// floodMost is what it is remembered by: 24 ms without data end it.
	floodRate, floodLevel, floodMost = 1000, 8 << 10, 24 << 10
	// Where segments are smaller than sparse on average, while data flows, the server sends row by row, and the stream pauses.
	sparse     = segmentSize / 2
	burstPause = 4 * time.Millisecond
	// The receive buffer, of which TCP offers about half or all as the window: where it begins, and its bounds. It doubles behind growAfter reads without a pause.
	firstWindow, leastWindow, mostWindow = 16 << 10, 8 << 10, 512 << 10
	growAfter                            = 32
	// segmentSize is the most that the server puts into a segment: not more than the smallest window.
	segmentSize = 8 << 10
	// wideWindow is set when bursts are given up.
	wideWindow = 1 << 20
	// burstEnd is how long the first byte of the next burst may take before the stream counts as dry.
	burstEnd = time.Millisecond
	// haltsMost messages that stop in their middle end bursts.
	haltsMost = 3
	// flowDry is how often partly filled batches go out while data flows. Without it each read that finds one row makes one request of it.
	flowDry = 10 * time.Millisecond
)

// burstsOf says how a connection is read in bursts: not at all but where it was shown to help, on TCP from this machine without TLS.
func burstsOf(conn net.Conn) flow {
	if tcp, ok := conn.(*net.TCPConn); ok && canNarrow {
		addr, ok := tcp.RemoteAddr().(*net.TCPAddr)
		raw, err := tcp.SyscallConn()
		if ok && err == nil && addr.IP.IsLoopback() {
			return flow{raw: raw}
		}
	}
	return flow{}
}

// runs reports whether data flows, given how many bytes were read in all.
func (f *flow) runs(now time.Time, read int) bool {
	f.level = max(0, f.level-int(now.Sub(f.at)*floodRate/time.Millisecond))
	f.level = min(f.level+read-f.seen, floodMost)
	f.at, f.seen = now, read
	return f.level >= floodLevel
}

// arrived is what has come on a connection in all.
type arrived struct{ bytes, segments uint64 }

// gather pauses, while data flows, where what came since the last look came in small segments, and fits the window to what comes in a pause. An error ends bursts for
// good: the system does not do what they need.
func (f *flow) gather() error {
	if f.raw == nil { // rows come as they come; their batches gather all the same
		return nil
	}
	err := f.pace()
	if err != nil {
		f.raw = nil
	}
	return err
}

func (f *flow) pace() error {
	now, err := arrivedOn(f.raw)
	if err != nil {
		return err
	}
	bytes, segments := now.bytes-f.came.bytes, now.segments-f.came.segments
	f.came = now
	switch {
	case f.fresh:
		f.fresh = false
		return nil
	case segments == 0:
		return nil
	case bytes >= segments*sparse:
		if f.full++; f.full < growAfter || f.window >= mostWindow || f.window == 0 {
			return nil
		}
		return f.resize(2 * f.window)
	}
	f.full, f.fresh = 0, true
	if f.window == 0 {
		if err := f.resize(firstWindow); err != nil {
			return err
		}
	}
	time.Sleep(burstPause)
	have, err := waiting(f.raw)
	if err != nil || have >= f.window/2 || f.window == leastWindow {
		return err
	}
	return f.resize(max(have/2, leastWindow))
}

func (f *flow) resize(window int) error {
	f.window, f.full = window, 0
	return narrow(f.raw, window)
}

// errHalted says that messages stopped in their middle, again and again, so that the small window may be what halts them.
var errHalted = errors.New("messages of the server stopped in their middle again and again")

// halted notes that a message has stopped in its middle. An error, errHalted, ends bursts for good.
func (f *flow) halted() error {
	if f.raw == nil || f.window == 0 {
		return nil
	}
	if f.halts++; f.halts < haltsMost {
		return nil
	}
	_ = f.resize(wideWindow) // where it fails the window stays as it is
	f.raw, f.window = nil, 0
	return errHalted
}
