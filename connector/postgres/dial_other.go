//go:build !linux

package postgres

import (
	"errors"
	"syscall"
	"time"
)

// limitUnacked does nothing: the source's own deadlines do.
func limitUnacked(uintptr, time.Duration) {}

// canWakeLate says that the system lacks what wakeAt and awaitBytes need: there the stream is read as it comes.
const canWakeLate = false

func wakeAt(syscall.RawConn, int) error { return errors.ErrUnsupported }

func awaitBytes(syscall.RawConn, int) (int, error) { return 0, errors.ErrUnsupported }
