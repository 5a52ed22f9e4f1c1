package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// The settled ranges and the settled records of unsettled changes are each stored as one blob, because there may be thousands
// and they change several times a second:
//
//	version byte (1), count, items, CRC-32C of all before it (4 bytes, big endian)
//
// Numbers are varints. A position is the distance of its commit LSN from the one before, then its index: the distance to the one
// before where the LSN is the same. So a range mostly takes four to eight bytes. A nil slice is an empty blob.
// The encoding is canonical: one value, one blob.

const blobVersion = 1

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli) // never changes

	errBlob = errors.New("a stored list can't be decoded")
)

// appendPosition appends p, which stands after or at prev. Where prev's index counts, it is subtracted: the result is unsigned because positions ascend.
func appendPosition(b []byte, prev, p connector.Position) []byte {
	b = binary.AppendUvarint(b, uint64(p.Commit-prev.Commit))
	if p.Commit == prev.Commit {
		return binary.AppendUvarint(b, uint64(p.Index-prev.Index))
	}
	return binary.AppendUvarint(b, uint64(p.Index))
}

// encodeRanges refuses ranges that are not ascending and apart: they are a programming error.
func encodeRanges(ranges []connector.Range) ([]byte, error) {
	if len(ranges) == 0 {
		return nil, nil
	}
	b := make([]byte, 0, 16+8*len(ranges))
	b = append(b, blobVersion)
	b = binary.AppendUvarint(b, uint64(len(ranges)))
	var prev connector.Position
	for i, r := range ranges {
		if r.From.Compare(r.To) > 0 || (i > 0 && r.From.Compare(prev) <= 0) {
			return nil, fmt.Errorf("%w: the settled range %s to %s is not beyond the one before, which ends at %s", ErrRefused, r.From, r.To, prev)
		}
		b = appendPosition(b, prev, r.From)
		b = appendPosition(b, r.From, r.To)
		prev = r.To
	}
	return seal(b), nil
}

func decodeRanges(blob []byte) ([]connector.Range, error) {
	if len(blob) == 0 {
		return nil, nil
	}
	d, n, err := unseal(blob)
	if err != nil {
		return nil, err
	}
	ranges := make([]connector.Range, 0, min(n, uint64(len(blob))/4))
	var prev connector.Position
	for range n {
		from := d.position(prev)
		to := d.position(from)
		if d.failed {
			return nil, errBlob
		}
		ranges = append(ranges, connector.Range{From: from, To: to})
		prev = to
	}
	// Encoding anew also checks the order and that every number was written in its shortest form.
	again, err := encodeRanges(ranges)
	if err != nil || !bytes.Equal(again, blob) {
		return nil, errBlob
	}
	return ranges, nil
}

// encodeKeys writes each mapping's name once; after that a key takes about ten bytes.
func encodeKeys(keys []connector.RecordKey) []byte {
	if len(keys) == 0 {
		return nil
	}
	b := make([]byte, 0, 64+16*len(keys))
	b = append(b, blobVersion)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	names := map[string]uint64{}
	var prev connector.RecordKey
	for _, k := range keys {
		name, known := names[k.Mapping]
		if !known {
			name = uint64(len(names))
			names[k.Mapping] = name
		}
		b = binary.AppendUvarint(b, name)
		if !known {
			b = binary.AppendUvarint(b, uint64(len(k.Mapping)))
			b = append(b, k.Mapping...)
		}
		// Signed distances that wrap around: keys mostly ascend, but need not.
		b = binary.AppendVarint(b, int64(k.Position.Commit-prev.Position.Commit))
		b = binary.AppendUvarint(b, uint64(k.Position.Index))
		b = binary.AppendVarint(b, k.CommitTime-prev.CommitTime)
		b = binary.AppendVarint(b, int64(k.Number))
		prev = k
	}
	return seal(b)
}

func decodeKeys(blob []byte) ([]connector.RecordKey, error) {
	if len(blob) == 0 {
		return nil, nil
	}
	d, n, err := unseal(blob)
	if err != nil {
		return nil, err
	}
	keys := make([]connector.RecordKey, 0, min(n, uint64(len(blob))/5))
	var names []string
	var prev connector.RecordKey
	for range n {
		var k connector.RecordKey
		switch name := d.uvarint(); {
		case name < uint64(len(names)):
			k.Mapping = names[name]
		case name == uint64(len(names)):
			k.Mapping = d.string()
			names = append(names, k.Mapping)
		default:
			d.failed = true
		}
		k.Position.Commit = prev.Position.Commit + connector.LSN(d.varint())
		index := d.uvarint()
		k.Position.Index = uint32(index)
		k.CommitTime = prev.CommitTime + d.varint()
		k.Number = int(d.varint())
		if d.failed || index > math.MaxUint32 {
			return nil, errBlob
		}
		keys = append(keys, k)
		prev = k
	}
	if !bytes.Equal(encodeKeys(keys), blob) {
		return nil, errBlob
	}
	return keys, nil
}

func seal(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// unseal checks version and checksum and gives the count of items, of which there is at least one.
func unseal(blob []byte) (*decoder, uint64, error) {
	if len(blob) < 6 || blob[0] != blobVersion {
		return nil, 0, errBlob
	}
	body, sum := blob[:len(blob)-4], binary.BigEndian.Uint32(blob[len(blob)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, 0, errBlob
	}
	d := &decoder{rest: body[1:]}
	n := d.uvarint()
	if d.failed || n == 0 {
		return nil, 0, errBlob
	}
	return d, n, nil
}

// decoder reads from rest; once failed it gives zeros.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.failed, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.failed, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.failed, d.rest = true, nil
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) position(prev connector.Position) connector.Position {
	p := connector.Position{Commit: prev.Commit + connector.LSN(d.uvarint())}
	index := d.uvarint()
	if p.Commit == prev.Commit {
		index += uint64(prev.Index)
	}
	if p.Commit < prev.Commit || index > math.MaxUint32 {
		d.failed = true
	}
	p.Index = uint32(index)
	return p
}

// encodeHashes writes order keys as eight bytes each; nil for none.
func encodeHashes(keys []uint64) []byte {
	var b []byte
	for _, k := range keys {
		b = binary.BigEndian.AppendUint64(b, k)
	}
	return b
}

func decodeHashes(b []byte) ([]uint64, error) {
	if len(b)%8 != 0 {
		return nil, errBlob
	}
	var keys []uint64
	for ; len(b) > 0; b = b[8:] {
		keys = append(keys, binary.BigEndian.Uint64(b))
	}
	return keys, nil
}

// An LSN has 64 bits without a sign, SQLite's integers have one: it is stored as the int64 of the same bits. Only equality may
// be asked of it in SQL; order is compared in Go (or per sign), so that no LSN ever sorts wrongly.

func signed(l connector.LSN) int64        { return int64(l) }
func unsigned(stored int64) connector.LSN { return connector.LSN(uint64(stored)) }

// stamp gives a time as it is stored: unix microseconds, NULL for the zero time.
func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// flag gives a truth value as it is stored: PostgreSQL keeps its own type apart from numbers.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// clean makes a text that PostgreSQL takes: valid UTF-8 without zeros. Payloads and changes are bytes, and stay as they are.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
