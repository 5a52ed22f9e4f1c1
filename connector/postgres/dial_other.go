//go:build !linux

package postgres

import "time"

// limitReceive does nothing.
func limitReceive(uintptr, int, int) {}

// limitUnacked does nothing: the source's own deadlines do.
func limitUnacked(uintptr, time.Duration) {}
