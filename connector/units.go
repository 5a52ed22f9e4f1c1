package connector

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Size writes bytes as the configuration does, with one decimal where they are no whole number of their unit: 456B, 2.5KiB, 10GiB.
func Size(bytes int64) string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if whole := int64(1) << (40 - 10*i); bytes >= whole {
			return decimal(float64(bytes)/float64(whole)) + unit
		}
	}
	return strconv.FormatInt(bytes, 10) + "B"
}

// Span writes a time as the configuration does, in one unit and cut to what is worth saying: 350ms, 1.2s, 45s, 10m, 5h, 3d.
func Span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d >= 10*time.Second:
		return fmt.Sprintf("%ds", d/time.Second)
	case d >= time.Second:
		return decimal(d.Truncate(100*time.Millisecond).Seconds()) + "s"
	case d >= time.Millisecond:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	}
	return "0s"
}

// decimal writes a number with one decimal, or none where that is 0.
func decimal(f float64) string { return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") }
