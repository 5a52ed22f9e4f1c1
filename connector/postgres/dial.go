package postgres

import (
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// unackedTimeout is how long sent bytes may stay without an acknowledgement.
const unackedTimeout = 20 * time.Second

// setDialer makes a peer that vanished without a word be found within about 20 s, by the system: TCP keep-alives find it on an idle connection, and
// where bytes are on their way, which keeps those from being sent, the limit on unacknowledged bytes does, where the system has one.
func setDialer(cfg *pgconn.Config) { setDialerFor(cfg, false) }

// setDialerFor is setDialer; bursts readies connections on this machine for a small window (see flow).
func setDialerFor(cfg *pgconn.Config, bursts bool) {
	d := &net.Dialer{Timeout: 10 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control: func(network, address string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			return c.Control(func(fd uintptr) {
				limitUnacked(fd, unackedTimeout)
				if bursts && isLoopback(address) {
					limitSegments(fd, segmentSize)
				}
			})
		}}
	cfg.DialFunc = d.DialContext
}

// isLoopback reports whether an address of this machine's own is dialled; it is resolved already.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && net.ParseIP(host).IsLoopback()
}
