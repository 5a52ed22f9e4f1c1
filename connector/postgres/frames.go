package postgres

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// frames cuts what the server sends into messages, without copying. It stands below pgconn's own reader: while a connection is set up, pgconn reads through
// it and is never given bytes beyond the message that it is reading, so that from START_REPLICATION on the stream can read here and nothing is lost between
// the two. pgconn.ReceiveMessage reads 8 KiB at a time; here a read takes all that the socket holds.
//
// One goroutine uses it.
type frames struct {
	r          io.Reader
	buf        []byte
	start, end int // what was read and not handed out
	left       int // how much of a message pgconn has begun to read is still to come
	read       int // bytes read in all
	// drained says that the last read found less than there was room for: the socket was empty behind it.
	drained bool
}

const (
	// framesBuffer holds what a paced read finds.
	framesBuffer = 256 << 10
	frameHeader  = 5 // type, length (which counts itself)
	// maxFrame is the most that PostgreSQL can send in one message.
	maxFrame = 1<<30 + 1<<20
)

// buildFrontend has pgconn read through frames; it keeps the newest, that of the connection which was made.
func (f *frames) buildFrontend(r io.Reader, w io.Writer) *pgproto3.Frontend {
	*f = frames{r: r, buf: f.buf}
	if f.buf == nil {
		f.buf = make([]byte, framesBuffer)
	}
	return pgproto3.NewFrontend(f, w)
}

// Read is pgconn's: it gives bytes of one message at most.
func (f *frames) Read(p []byte) (int, error) {
	if f.left == 0 {
		size, err := f.need(frameHeader)
		if err != nil {
			return 0, err
		}
		f.left = size
	}
	if f.start == f.end {
		if err := f.fill(1); err != nil {
			return 0, err
		}
	}
	n := copy(p[:min(len(p), f.left)], f.buf[f.start:f.end])
	f.start += n
	f.left -= n
	return n, nil
}

// need reads until n bytes are there, and gives the size of the message that begins with them.
func (f *frames) need(n int) (size int, err error) {
	if f.end-f.start < n {
		if err := f.fill(n); err != nil {
			return 0, err
		}
	}
	length := binary.BigEndian.Uint32(f.buf[f.start+1:])
	if length < 4 || length > maxFrame {
		return 0, fmt.Errorf("the server sent a message of type %q and length %d: this is no PostgreSQL", f.buf[f.start], length)
	}
	return int(length) + 1, nil
}

// whole reports whether the next message is here, so that next will not block.
func (f *frames) whole() bool {
	have := f.end - f.start
	return have >= frameHeader && uint64(have) > uint64(binary.BigEndian.Uint32(f.buf[f.start+1:]))
}

// partly reports whether a message has begun to come and is not here as a whole.
func (f *frames) partly() bool { return f.end > f.start && !f.whole() }

// next gives the next message: its type and its body, which is valid until the next call. A time-out leaves what has come so far in place.
func (f *frames) next() (kind byte, body []byte, err error) {
	size, err := f.need(frameHeader)
	if err != nil {
		return 0, nil, err
	}
	if f.end-f.start < size {
		if err := f.fill(size); err != nil {
			return 0, nil, err
		}
	}
	m := f.buf[f.start : f.start+size : f.start+size]
	f.start += size
	return m[0], m[frameHeader:], nil
}

// fill reads until n bytes are there. The buffer grows for a message that is larger, as it comes, and shrinks again behind it.
func (f *frames) fill(n int) error {
	have := f.end - f.start
	switch {
	case len(f.buf) > framesBuffer && max(n, have) <= framesBuffer:
		small := make([]byte, framesBuffer)
		copy(small, f.buf[f.start:f.end])
		f.buf, f.start, f.end = small, 0, have
	case f.start > 0: // less than a message is left: moving it makes the next read a large one
		copy(f.buf, f.buf[f.start:f.end])
		f.start, f.end = 0, have
	}
	for f.end < n {
		if f.end == len(f.buf) { // twice as much at a time: what a length announces is not believed before it is there
			larger := make([]byte, min(2*len(f.buf), n))
			copy(larger, f.buf)
			f.buf = larger
		}
		got, err := f.r.Read(f.buf[f.end:])
		f.end += got
		f.read += got
		f.drained = f.end < len(f.buf)
		if err != nil && f.end < n {
			if err == io.EOF && f.end > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// received makes of a message that is no CopyData what the stream acts on: an error of the server, the end, or nothing.
func received(kind byte, body []byte) error {
	switch kind {
	case 'E':
		var m pgproto3.ErrorResponse
		if err := m.Decode(body); err != nil {
			return err
		}
		return pgconn.ErrorResponseToPgError(&m)
	case 'c', 'C', 'Z': // CopyDone, CommandComplete, ReadyForQuery
		return errEnded
	}
	return nil // notices and parameter changes
}
