package state

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

func manyRanges(n int) []connector.Range {
	random := rand.New(rand.NewPCG(1, 2))
	ranges := make([]connector.Range, 0, n)
	p := connector.Position{Commit: 0x16B374D848}
	for range n {
		from := connector.Position{Commit: p.Commit + connector.LSN(8*(1+random.IntN(500))), Index: uint32(random.IntN(3))}
		p = connector.Position{Commit: from.Commit + connector.LSN(8*random.IntN(5000)), Index: from.Index + uint32(random.IntN(10))}
		ranges = append(ranges, connector.Range{From: from, To: p})
	}
	return ranges
}

func someKeys() []connector.RecordKey {
	return []connector.RecordKey{
		{Mapping: "order-points", Position: at(0x16B374D848, 3), CommitTime: 1_700_000_000_123_456, Number: 1},
		{Mapping: "积分", Position: at(0x16B374D848, 3), CommitTime: 1_700_000_000_123_456},
		{Mapping: "order-points", Position: at(5, math.MaxUint32), CommitTime: math.MinInt64, Number: -1},
		{Mapping: "", Position: at(math.MaxUint64, 0), CommitTime: math.MaxInt64, Number: math.MaxInt},
	}
}

func TestListsAreCompact(t *testing.T) {
	ranges := manyRanges(10_000)
	blob, err := encodeRanges(ranges)
	must(t, err)
	if per := float64(len(blob)) / 10_000; per > 8 {
		t.Errorf("%.1f bytes a range", per)
	}
	got, err := decodeRanges(blob)
	must(t, err)
	if !reflect.DeepEqual(got, ranges) {
		t.Error("the ranges came back changed")
	}
}

// Any bit that flips on the disk is noticed.
func TestFlippedBits(t *testing.T) {
	ranges, err := encodeRanges(manyRanges(20))
	must(t, err)
	for name, decode := range map[string]func([]byte) error{
		"ranges": func(b []byte) error { _, err := decodeRanges(b); return err },
		"keys":   func(b []byte) error { _, err := decodeKeys(b); return err },
	} {
		blob := ranges
		if name == "keys" {
			blob = encodeKeys(someKeys())
		}
		must(t, decode(blob))
		for bit := range 8 * len(blob) {
			flipped := bytes.Clone(blob)
			flipped[bit/8] ^= 1 << (bit % 8)
			if decode(flipped) == nil {
				t.Errorf("%s: bit %d may flip", name, bit)
			}
		}
		for n := 1; n < len(blob); n++ {
			if decode(blob[:n]) == nil {
				t.Errorf("%s: may be cut to %d", name, n)
			}
		}
		if decode(append(bytes.Clone(blob), 0)) == nil {
			t.Errorf("%s: may be longer", name)
		}
	}
}

// The fuzzers mend the checksum, or nothing behind it would ever be reached.

func FuzzDecodeRanges(f *testing.F) {
	for _, n := range []int{0, 1, 3, 50} {
		blob, err := encodeRanges(manyRanges(n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(blob)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, blob := range [][]byte{b, resealed(b)} {
			ranges, err := decodeRanges(blob)
			if err != nil {
				continue
			}
			again, err := encodeRanges(ranges)
			if err != nil || !bytes.Equal(again, blob) {
				t.Errorf("%v from %x encodes as %x, %v", ranges, blob, again, err)
			}
			for i, r := range ranges {
				if r.From.Compare(r.To) > 0 || i > 0 && r.From.Compare(ranges[i-1].To) <= 0 {
					t.Errorf("%v after %v", r, ranges[i-1])
				}
			}
		}
	})
}

func FuzzDecodeKeys(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeKeys(someKeys()))
	f.Add(encodeKeys(someKeys()[:1]))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, blob := range [][]byte{b, resealed(b)} {
			keys, err := decodeKeys(blob)
			if err == nil && !bytes.Equal(encodeKeys(keys), blob) {
				t.Errorf("%v from %x encodes as %x", keys, blob, encodeKeys(keys))
			}
		}
	})
}

func resealed(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	return seal(bytes.Clone(b[:len(b)-4]))
}

// TestServerWords: what is common to both places, in PostgreSQL's words.
func TestServerWords(t *testing.T) {
	if got := numbered("UPDATE point SET applied = 1" + whereKey); got != "UPDATE point SET applied = 1 WHERE commit_lsn = $1 AND idx = $2 AND mapping = $3 AND commit_time = $4 AND number = $5" {
		t.Error(got)
	}
	if got := clean("a\x00b\xffc订"); got != "a\uFFFDb\uFFFDc订" {
		t.Errorf("%q", got)
	}
	for code, want := range map[string]bool{"08006": true, "08P01": false, "53100": true, "53300": true, "57P01": true, "57P03": true, "57P04": false, "25006": true, "40001": true,
		"42501": false, "28P01": false, "3D000": false, "42P01": false} {
		err := &pgconn.PgError{Code: code, Severity: "FATAL"}
		if passing(err) != want {
			t.Errorf("%s passes: %t", code, !want)
		}
		if cureOf(code) == "" {
			t.Errorf("%s has no cure", code)
		}
	}
	// A file's error is none of a server.
	if _, err := os.Open("/nowhere/at/all"); passing(err) || passing(syscall.ENOSPC) {
		t.Error("a file's error passes")
	}
}
