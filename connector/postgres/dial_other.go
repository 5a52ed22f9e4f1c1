//go:build !linux

package postgres

import (
	"errors"
	"syscall"
	"time"
)

// limitUnacked does nothing: the source's own deadlines do.
func limitUnacked(uintptr, time.Duration) {}

// canNarrow says that the system was not shown to have what narrow, waiting and arrivedOn need: there the stream is read as it comes.
const canNarrow = false

func narrow(syscall.RawConn, int) error { return errors.ErrUnsupported }

func waiting(syscall.RawConn) (int, error) { return 0, errors.ErrUnsupported }

func arrivedOn(syscall.RawConn) (arrived, error) { return arrived{}, errors.ErrUnsupported }

func limitSegments(uintptr, int) {}
