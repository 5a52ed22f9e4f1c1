//go:build !linux

package postgres

import "time"

// limitUnacked does nothing: the source's own deadlines do.
func limitUnacked(uintptr, time.Duration) {}
