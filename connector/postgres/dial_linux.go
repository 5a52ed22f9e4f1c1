package postgres

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h (man 7 tcp), in milliseconds.
const tcpUserTimeout = 18

// canWakeLate says that the system has what wakeAt and awaitBytes need.
const canWakeLate = true

// wakeAt has a TCP socket count as readable when so many bytes are there (or its window is about to close): SO_RCVLOWAT, man 7 socket. A read takes what there
// is all the same.
func wakeAt(raw syscall.RawConn, bytes int) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
	})
	return errors.Join(err, failed)
}

// awaitBytes waits until so many bytes are there, or the socket's read deadline, which is its error then. It gives how many there are.
func awaitBytes(raw syscall.RawConn, bytes int) (have int, err error) {
	count := func(fd uintptr) { have, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }
	err = raw.Read(func(fd uintptr) bool {
		count(fd)
		return have >= bytes
	})
	if err != nil {
		_ = raw.Control(count)
	}
	return have, err
}

// limitUnacked has the system give up the connection when sent bytes stay unacknowledged for so long. A system that refuses does without.
func limitUnacked(fd uintptr, d time.Duration) {
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
}
