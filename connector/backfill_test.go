package connector

import (
	"slices"
	"testing"
)

func TestRowKey(t *testing.T) {
	seen := map[string]bool{}
	for _, values := range [][]string{{"1"}, {""}, {"\\"}, {","}, {"a", "b"}, {"a,b"}, {"a\\", "b"}, {"a\\,b"}, {"", ""}, {"", "", ""}, {"\xff\x00", "张"}, {"\\\\"}} {
		var raw [][]byte
		for _, v := range values {
			raw = append(raw, []byte(v))
		}
		key := RowKey(raw...)
		if got := SplitRowKey(key); !slices.Equal(got, values) || key == "" || seen[key] {
			t.Errorf("%q is written as %q, and read as %q", values, key, got)
		}
		seen[key] = true
	}
}

func TestVisible(t *testing.T) {
	const epoch = 1 << 32
	for _, c := range []struct {
		v    Visible
		xid  uint32
		want bool
	}{
		{Visible{Xmin: 100, Xmax: 200, Running: []uint64{150}}, 99, true},
		{Visible{Xmin: 100, Xmax: 200, Running: []uint64{150}}, 150, false},
		{Visible{Xmin: 100, Xmax: 200, Running: []uint64{150}}, 151, true},
		{Visible{Xmin: 100, Xmax: 200, Running: []uint64{150}}, 200, false},
		{Visible{Xmin: 100, Xmax: 200, Running: []uint64{150}}, 5000, false},
		{Visible{Xmin: 3*epoch - 5, Xmax: 3*epoch + 10, Running: []uint64{3*epoch - 5}}, 1<<32 - 6, true}, // of the epoch before
		{Visible{Xmin: 3*epoch - 5, Xmax: 3*epoch + 10, Running: []uint64{3*epoch - 5}}, 1<<32 - 5, false},
		{Visible{Xmin: 3*epoch - 5, Xmax: 3*epoch + 10, Running: []uint64{3*epoch - 5}}, 9, true},
		{Visible{Xmin: 3*epoch - 9, Xmax: 3*epoch - 5}, 4, false}, // of the next one
	} {
		if got := c.v.Shows(c.xid); got != c.want {
			t.Errorf("%+v shows %d: %v", c.v, c.xid, got)
		}
	}
}
