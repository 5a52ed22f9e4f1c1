package connector

import (
	"testing"
	"time"
)

// TestUnits: sizes and times are written as the configuration takes them.
func TestUnits(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0B", 456: "456B", 1023: "1023B", 1024: "1KiB", 2560: "2.5KiB", 10 << 30: "10GiB", 5033165: "4.8MiB", 1 << 42: "4TiB", 1<<20 - 1: "1024KiB"} {
		if got := Size(bytes); got != want {
			t.Errorf("%d bytes: %s, want %s", bytes, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", -time.Second: "0s", 900 * time.Microsecond: "0s", 350500 * time.Microsecond: "350ms", time.Second: "1s", 1290 * time.Millisecond: "1.2s",
		9990 * time.Millisecond: "9.9s", 45900 * time.Millisecond: "45s", 119 * time.Second: "119s", 10 * time.Minute: "10m", 2 * time.Hour: "2h", 47 * time.Hour: "47h", 80 * time.Hour: "3d"} {
		if got := Span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
