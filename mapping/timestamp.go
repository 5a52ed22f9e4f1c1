package mapping

import (
	"bytes"
	"time"
)

// infiniteTime is PostgreSQL's infinity or -infinity, by its sign. It can be compared with times; nothing else can be done with it.
type infiniteTime struct{ sign int }

// infinity tells the two infinite times.
func infinity(text []byte) (infiniteTime, bool) {
	switch string(text) {
	case "infinity":
		return infiniteTime{1}, true
	case "-infinity":
		return infiniteTime{-1}, true
	}
	return infiniteTime{}, false
}

// parseTimestamp reads a date, a timestamp or a timestamp with time zone as PostgreSQL writes them under datestyle ISO:
// 2024-05-01, 2024-05-01 12:00:00.123456, 2024-05-01 12:00:00+05:30, 0044-03-15 BC, 20000-01-01. Without an offset it is in zone. infinity is a
// failure here. It allocates nothing but the failure.
func parseTimestamp(text []byte, zone *time.Location) (time.Time, error) {
	rest, beforeChrist := bytes.CutSuffix(text, []byte(" BC"))
	p := timestampParser{rest: rest}
	year := p.digits(4, 6)
	if year == 0 {
		p.bad = true
	}
	if beforeChrist {
		year = 1 - year
	}
	p.expect('-')
	month := p.digits(2, 2)
	p.expect('-')
	day := p.digits(2, 2)
	var hour, minute, second, nano int
	if p.take(' ') || p.take('T') {
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
			if !p.fits(year, month, day, hour, minute, second) {
				return time.Time{}, errTimestamp
			}
			return time.Date(year, time.Month(month), day, hour, minute, second-offset, nano, time.UTC).In(zone), nil
		}
	}
	if !p.fits(year, month, day, hour, minute, second) {
		if _, ok := infinity(text); ok {
			return time.Time{}, errInfinity
		}
		return time.Time{}, errTimestamp
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

// fits says that the text had the form, and that there is such a time.
func (p *timestampParser) fits(year, month, day, hour, minute, second int) bool {
	return !p.bad && len(p.rest) == 0 && month >= 1 && month <= 12 && day >= 1 && day <= daysIn(year, month) && hour <= 24 && minute <= 59 && second <= 60
}

// sendable says why a time can't be sent: what the platform's JSON has for times ends with the years 1 and 9999. Expressions may compute with
// the others.
func sendable(at time.Time) error {
	switch year := at.Year(); {
	case year < 1:
		return errBeforeChrist
	case year > 9999:
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

// appendTime writes a timestamp as text: in UTC where its zone's offset has seconds, as those of local mean times before 1900 have, which RFC 3339
// can't write.
func appendTime(dst []byte, at time.Time) ([]byte, error) {
	if err := sendable(at); err != nil {
		return dst, err
	}
	if _, offset := at.Zone(); offset%60 != 0 {
		at = at.UTC()
	}
	return at.AppendFormat(dst, textTime), nil
}

// appendDate writes a date as text: 2024-05-01.
func appendDate(dst []byte, at time.Time) ([]byte, error) {
	if err := sendable(at); err != nil {
		return dst, err
	}
	return at.AppendFormat(dst, time.DateOnly), nil
}
