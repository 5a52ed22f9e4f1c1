package postgres

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h (man 7 tcp), in milliseconds.
const tcpUserTimeout = 18

// limitReceive has the peer send segments of at most so many bytes, and gives the socket a receive buffer: never that alone.
func limitReceive(fd uintptr, segment, buffer int) {
	if syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, segment) == nil {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, buffer)
	}
}

// limitUnacked has the system give up the connection when sent bytes stay unacknowledged for so long. A system that refuses does without.
func limitUnacked(fd uintptr, d time.Duration) {
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
}
