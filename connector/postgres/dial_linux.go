package postgres

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// canNarrow says that the system has what narrow, waiting, arrivedOn and limitSegments need.
const canNarrow = true

// narrow sets the receive buffer of a TCP socket, and with it the window that it offers: SO_RCVBUF, man 7 socket.
func narrow(raw syscall.RawConn, bytes int) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	})
	return errors.Join(err, failed)
}

// waiting gives how many bytes can be read without waiting.
func waiting(raw syscall.RawConn) (n int, err error) {
	var failed error
	err = raw.Control(func(fd uintptr) { n, failed = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n, errors.Join(err, failed)
}

// arrivedOn tells what has come on a TCP socket: TCP_INFO, man 7 tcp.
func arrivedOn(raw syscall.RawConn) (arrived, error) {
	var info *unix.TCPInfo
	var failed error
	err := raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(err, failed); err != nil {
		return arrived{}, err
	}
	return arrived{info.Bytes_received, uint64(info.Data_segs_in)}, nil
}

// limitSegments has the peer send no larger segments than these: TCP_MAXSEG, man 7 tcp. It works before the connection is made. A system that refuses does without.
func limitSegments(fd uintptr, bytes int) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, bytes)
}

// limitUnacked has the system give up the connection when sent bytes stay unacknowledged for so long. A system that refuses does without.
func limitUnacked(fd uintptr, d time.Duration) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}
