package postgres

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// flow knows whether data streams in, rather than a row now and then, and then has the stream read it in bursts.
//
// A reader that is always hungry is woken for every row, and sends each row on by itself: that costs it, the walsender and whoever takes the requests several
// system calls a row. One that waits a moment finds hundreds of rows in one read. Measured on two busy cores, loopback TCP, CPU a row of the connector, and of the
// walsender: with one row a transaction 34 µs hungry, 3.2 in bursts; with 1,000 rows a transaction 4.0 and 2.3.
// An idle stream, and one of a few hundred rows a second, is never made to wait.
//
// TCP can be told how much is worth a wake-up (SO_RCVLOWAT): then the stream goes on as soon as burstBytes are there, and a wait costs no throughput. A pause of
// fixed length in front of a small receive buffer, the other way, does: it held rows of 3 KB at 30 MB a second, and stalls on loopback where a segment
// is larger than what is left of the window. The socket keeps the buffers that the system gives it.
// A Unix socket has no such option, holds some 200 rows, and gained nothing by naps of 0.2 to 4 ms: it is read as it comes.
type flow struct {
	raw   syscall.RawConn // a TCP socket that is read in bursts; nil: none
	least bool            // the socket wakes for burstBytes only

	level int // bytes that came lately, less what floodRate lets through
	at    time.Time
	seen  int       // frames.read at that time
	dryAt time.Time // when what waits for a fuller batch was last sent

	halts int // waits in a row in whose second half nothing came, behind a first one in which something had
}

const (
	// Data flows when it comes faster than floodRate, in bytes a millisecond (some 4,000 rows a second), for long enough to make floodLevel of it.
	// floodMost is what it is remembered by: 24 ms without data end it.
	floodRate, floodLevel, floodMost = 1000, 8 << 10, 24 << 10
	// burstBytes are worth a read, burstPause is how long they may take.
	burstBytes = 128 << 10
	burstPause = 4 * time.Millisecond
	// burstEnd is how long the first byte of the next burst may take before the stream counts as dry.
	burstEnd = time.Millisecond
	// haltsMost such waits in a row end bursts. Clumps of rows that come at intervals look the same, and lose nothing by it.
	haltsMost = 50
	// flowDry is how often partly filled batches go out while data flows. Without it each read that finds one row makes one request of it.
	flowDry = 10 * time.Millisecond
)

// burstsOf says how a connection is read in bursts: not at all but where it was shown to help, on TCP from this machine without TLS.
func burstsOf(conn net.Conn) flow {
	if tcp, ok := conn.(*net.TCPConn); ok && canWakeLate {
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

// gather waits until a burst is there, or burstPause is over, and sets the read's own deadline by deadline. errHalted says that bursts are over for good.
func (f *flow) gather(deadline func(time.Duration)) error {
	if f.raw == nil { // rows come as they come; their batches gather all the same
		deadline(flowDry / 2)
		return nil
	}
	defer deadline(burstEnd)
	if !f.least {
		if err := wakeAt(f.raw, burstBytes); err != nil {
			return err
		}
		f.least = true
	}
	var have [2]int
	for half := range have {
		deadline(burstPause / 2)
		var err error
		if have[half], err = awaitBytes(f.raw, burstBytes); err == nil {
			f.halts = 0
			return nil
		} else if !isTimeout(err) {
			return err
		}
	}
	if f.halts++; have[0] == 0 || have[0] != have[1] {
		f.halts = 0
	}
	if f.halts < haltsMost {
		return nil
	}
	if err := f.calm(); err != nil {
		return err
	}
	f.raw = nil
	return errHalted
}

// errHalted says that a server did not go on while the stream waited for more, again and again, so that the waits may be what halts it.
var errHalted = errors.New("the server did not go on while the stream waited for more")

// calm has the socket wake for the first byte again.
func (f *flow) calm() error {
	if !f.least {
		return nil
	}
	f.least = false
	return wakeAt(f.raw, 1)
}
