package mapping

import (
	"bytes"
	"time"
)

// parseTimestamp reads a date, a timestamp or a timestamp with time zone as PostgreSQL writes them under datestyle ISO:
// 2024-05-01, 2024-05-01 12:00:00.123456, 2024-05-01 12:00:00+05:30. Without an offset it is in zone. infinity, years before Christ and
// years beyond 9999 have no place in the platform's JSON: they are failures. It allocates nothing but the failure.
func parseTimestamp(text []byte, zone *time.Location) (time.Time, error) {
	p := timestampParser{rest: text}
	year := p.digits(4, 7)
	p.expect('-')
	month := p.digits(2, 2)
	p.expect('-')
	day := p.digits(2, 2)
	var hour, minute, second, nano int
	if p.take(' ') || p.take('T') {
		if bytes.Equal(p.rest, []byte("BC")) {
			return time.Time{}, errBeforeChrist
		}
		hour = p.digits(2, 2)
		p.expect(':')
		minute = p.digits(2, 2)
		p.expect(':')
		second = p.digits(2, 2)
		if p.take('.') {
			before := len(p.rest)
			nano = p.digits(1, 9)
			for range 9 - (before - len(p.rest)) {
				nano *= 10
			}
		}
		if offset, ok := p.offset(); ok {
			at := time.Date(year, time.Month(month), day, hour, minute, second-offset, nano, time.UTC)
			if err := p.check(year, month, day, hour, minute, second); err != nil {
				return time.Time{}, err
			}
			return at.In(zone), nil
		}
	}
	if err := p.check(year, month, day, hour, minute, second); err != nil {
		switch string(text) {
		case "infinity", "-infinity":
			return time.Time{}, errInfinity
		}
		return time.Time{}, err
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, nano, zone), nil
}

var (
	errTimestamp    = fail("the value is no timestamp that can be read")
	errInfinity     = fail("the value is infinity, which is no time that can be sent")
	errBeforeChrist = fail("the value is a time before Christ, which can't be sent")
	errFarYear      = fail("the value is a time after the year 9999, which can't be sent")
)

type timestampParser struct {
	rest []byte
	bad  bool
}

func (p *timestampParser) take(c byte) bool {
	if len(p.rest) == 0 || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *timestampParser) expect(c byte) {
	if !p.take(c) {
		p.bad = true
	}
}

func (p *timestampParser) digits(least, most int) int {
	n, i := 0, 0
	for i < len(p.rest) && i < most && p.rest[i] >= '0' && p.rest[i] <= '9' {
		n = n*10 + int(p.rest[i]-'0')
		i++
	}
	if i < least {
		p.bad = true
	}
	p.rest = p.rest[i:]
	return n
}

// offset reads +08, -03:30 or +08:05:43 as seconds east of UTC; ok is false where there is none.
func (p *timestampParser) offset() (seconds int, ok bool) {
	sign := 1
	switch {
	case p.take('-'):
		sign = -1
	case p.take('Z'):
		return 0, true
	case !p.take('+'):
		return 0, false
	}
	seconds = p.digits(2, 2) * 3600
	if p.take(':') {
		seconds += p.digits(2, 2) * 60
		if p.take(':') {
			seconds += p.digits(2, 2)
		}
	}
	return sign * seconds, true
}

func (p *timestampParser) check(year, month, day, hour, minute, second int) error {
	if bytes.Equal(p.rest, []byte(" BC")) && !p.bad {
		return errBeforeChrist
	}
	if p.bad || len(p.rest) > 0 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 24 || minute > 59 || second > 60 ||
		year < 1 {
		return errTimestamp
	}
	if year > 9999 {
		return errFarYear
	}
	return nil
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// textTime is how a timestamp looks in text: RFC 3339 with milliseconds, 2024-05-01T12:00:00.123+08:00.
const textTime = "2006-01-02T15:04:05.000Z07:00"

// appendTime writes a timestamp as text.
func appendTime(dst []byte, at time.Time) []byte { return at.AppendFormat(dst, textTime) }

// appendDate writes a date as text: 2024-05-01.
func appendDate(dst []byte, at time.Time) []byte { return at.AppendFormat(dst, time.DateOnly) }
