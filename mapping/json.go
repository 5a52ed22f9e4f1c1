package mapping

import (
	"bytes"
	"math/bits"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

const hexDigits = "0123456789abcdef"

// plainByte says of each byte whether it may stand in a JSON string as it is.
var plainByte = func() (plain [256]bool) {
	for c := range plain {
		plain[c] = c >= 0x20 && c != '"' && c != '\\' && c != 0x7f
	}
	return plain
}()

// appendQuoted writes text as a JSON string. What is no UTF-8 becomes U+FFFD; a column's value that is none does not come so far (row.read).
func appendQuoted(dst, text []byte) []byte {
	plain := 0
	for plain < len(text) && text[plain] < utf8.RuneSelf && plainByte[text[plain]] {
		plain++
	}
	if plain == len(text) { // most are: phone numbers, codes
		return append(append(append(dst, '"'), text...), '"')
	}
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\ufffd"))
	}
	dst = append(dst, '"')
	start := 0
	for i, c := range text {
		if plainByte[c] {
			continue
		}
		dst = append(dst, text[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(dst, text[start:]...), '"')
}

// appendText writes a value as it stands in text: a timestamp as RFC 3339 with milliseconds, a date as 2024-05-01, true and false in
// letters, lists and mappings as JSON. It is a mistake to ask for null.
func appendText(dst []byte, v any) ([]byte, error) {
	switch x := v.(type) {
	case string:
		return append(dst, x...), nil
	case bool:
		if x {
			return append(dst, "true"...), nil
		}
		return append(dst, "false"...), nil
	case time.Time:
		return appendTime(dst, x)
	case calendarDate:
		return appendDate(dst, x.Time)
	case infiniteTime:
		return dst, errInfinity
	case time.Duration:
		return append(dst, x.String()...), nil
	}
	if n, ok := number(v); ok {
		return appendNumber(dst, n)
	}
	return appendValue(dst, v)
}

// appendValue writes a value as JSON, mappings with their keys sorted.
func appendValue(dst []byte, v any) ([]byte, error) {
	switch x := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case string:
		return appendQuoted(dst, []byte(x)), nil
	case bool:
		return appendText(dst, x)
	case time.Time, calendarDate, infiniteTime, time.Duration:
		text, err := appendText(nil, v)
		return appendQuoted(dst, text), err
	}
	if n, ok := number(v); ok {
		return appendNumber(dst, n)
	}
	var err error
	if list, ok := listItems(v); ok {
		dst = append(dst, '[')
		for i, item := range list {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendValue(dst, item); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	}
	if pairs, ok := mapPairs(v); ok {
		dst = append(dst, '{')
		for i, p := range pairs {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendQuoted(dst, []byte(p.key)), ':')
			if dst, err = appendValue(dst, p.value); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	}
	return dst, fail("%s can't be sent", typeName(v))
}

// appendPosition writes p as Position.String does, without allocating.
func appendPosition(dst []byte, p connector.Position) []byte {
	dst = appendHex(dst, uint32(p.Commit>>32))
	dst = append(dst, '/')
	dst = appendHex(dst, uint32(p.Commit))
	dst = append(dst, ':')
	return strconv.AppendUint(dst, uint64(p.Index), 10)
}

// appendHex writes v in upper case, without leading zeros.
func appendHex(dst []byte, v uint32) []byte {
	for shift := (max(bits.Len32(v), 1) - 1) / 4 * 4; shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789ABCDEF"[v>>shift&15])
	}
	return dst
}
