package connector

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a place in PostgreSQL's write-ahead log. Zero means "none".
type LSN uint64

// String writes the LSN as PostgreSQL does: 16/B374D848.
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// ParseLSN reads the form that String writes.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not an LSN such as 16/B374D848", s)
	}
	return LSN(h<<32 | l), nil
}

// Position names one change for good: the commit LSN of its transaction (Begin's "final LSN") and its number within the
// transaction, counted from 0 over all row changes that the publications send. Positions are totally ordered in the order of
// the stream, and the same after every restart. A row's own WAL address would be neither (all rows of a COPY share one).
type Position struct {
	Commit LSN
	Index  uint32
}

// Compare orders positions as the stream does.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Commit, q.Commit); c != 0 {
		return c
	}
	return cmp.Compare(p.Index, q.Index)
}

// IsZero reports whether p stands before every change.
func (p Position) IsZero() bool { return p == Position{} }

// String writes the position as in logs, dead letters and commands: 16/B374D848:3.
func (p Position) String() string {
	return p.Commit.String() + ":" + strconv.FormatUint(uint64(p.Index), 10)
}

// ParsePosition reads the form that String writes.
func ParsePosition(s string) (Position, error) {
	lsn, index, ok := strings.Cut(s, ":")
	l, err1 := ParseLSN(lsn)
	i, err2 := strconv.ParseUint(index, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return Position{}, fmt.Errorf("%q is not a position such as 16/B374D848:3", s)
	}
	return Position{Commit: l, Index: uint32(i)}, nil
}

// MarshalText lets positions stand in JSON as String writes them.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (p *Position) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePosition(string(b))
	return err
}

// MarshalText lets LSNs stand in JSON as String writes them.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}
