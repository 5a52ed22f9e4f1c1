package strict

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Raw gives a scalar's text as it stands in the file, without quotes and with ${NAME} as it is; "" for what is no scalar. Offsets of Sub and
// Part count in it.
func (n Node) Raw() string {
	if !n.IsScalar() {
		return ""
	}
	return n.real().Value
}

// Tag is the type that YAML gives a scalar as it stands in the file: str, int, float, bool, null or timestamp; "" for what is no scalar.
// What is quoted is str, and so is all that holds ${.
func (n Node) Tag() string {
	if !n.IsScalar() {
		return ""
	}
	y := n.real()
	if strings.Contains(y.Value, "${") {
		return "str"
	}
	return strings.TrimPrefix(y.ShortTag(), "!!")
}

// Text gives any scalar as text with environment variables put in; ${{ expressions }} stay as they are. It is false where the node is
// not there, and where a problem was noted: no scalar, nothing, a variable that is not set.
//
// Who looks for ${{ in a text should call Template instead: a variable's value may hold one.
func (n Node) Text() (string, bool) {
	parts, ok := n.Template()
	if !ok {
		return "", false
	}
	var b strings.Builder
	for _, p := range parts {
		if p.Expr {
			b.WriteString(n.Raw()[p.Offset-len(exprOpen) : p.End])
		} else {
			b.WriteString(p.Text)
		}
	}
	return b.String(), true
}

// typed gives the text of a scalar that must be one of the YAML types, or holds a variable; quoted says that the scalar fits none because
// it stands in quotes.
func (n Node) typed(what string, tags ...string) (text string, ok bool) {
	if n.IsZero() {
		return "", false
	}
	if !n.IsScalar() || n.IsNull() {
		return "", n.want(what)
	}
	if strings.Contains(n.Raw(), "${") {
		text, ok = n.Text()
		return strings.TrimSpace(text), ok
	}
	if !slices.Contains(tags, n.Tag()) {
		if n.real().Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			n.problem("", "%swant %s, got the text %s: take the quotes away", n.prefix(), what, quote(n.Raw()))
			return "", false
		}
		return "", n.want(what)
	}
	return n.Raw(), true
}

// Bool reads true or false.
func (n Node) Bool() (value, ok bool) {
	text, ok := n.typed("true or false", "bool")
	if !ok {
		return false, false
	}
	switch strings.ToLower(text) {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	return false, n.want("true or false")
}

var plainInt = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// Int reads a whole number from least to most, in plain decimal digits: YAML would read 010 as 8.
func (n Node) Int(least, most int64) (int64, bool) {
	what := "a whole number"
	switch {
	case least > math.MinInt64 && most < math.MaxInt64:
		what = fmt.Sprintf("a whole number from %d to %d", least, most)
	case least > math.MinInt64:
		what = fmt.Sprintf("a whole number from %d on", least)
	case most < math.MaxInt64:
		what = fmt.Sprintf("a whole number up to %d", most)
	}
	text, ok := n.typed(what, "int")
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseInt(text, 10, 64)
	if err != nil || !plainInt.MatchString(text) || i < least || i > most {
		return 0, n.want(what)
	}
	return i, true
}

// Float reads a number from least to most, in digits with or without a decimal point.
func (n Node) Float(least, most float64) (float64, bool) {
	what := fmt.Sprintf("a number from %v to %v", least, most)
	text, ok := n.typed(what, "int", "float")
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !plainFloat.MatchString(text) || f < least || f > most {
		return 0, n.want(what)
	}
	return f, true
}

var plainFloat = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?$`)

var days = regexp.MustCompile(`^([0-9]{1,5})d(.*)$`)

// ParseDuration reads 200ms, 10s, 1h30m or 90d; never negative. A day has 24 hours.
func ParseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	var sum time.Duration
	rest := s
	if m := days.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1])
		sum, rest = time.Duration(n)*24*time.Hour, m[2]
		if rest == "" {
			return sum, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || strings.ContainsAny(rest, "+-") || sum > math.MaxInt64-d {
		return 0, fmt.Errorf("%q is no duration like 200ms, 10s, 15m or 2h", s)
	}
	return sum + d, nil
}

// Duration reads a duration as ParseDuration does.
func (n Node) Duration() (time.Duration, bool) {
	const what = "a duration like 200ms, 10s, 15m or 2h"
	text, ok := n.typed(what, "str", "int")
	if !ok {
		return 0, false
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil && text != "0" {
		n.problem("", "%swant %s, got %s: add the unit", n.prefix(), what, n.got())
		return 0, false
	}
	d, err := ParseDuration(text)
	if err != nil {
		return 0, n.want(what)
	}
	return d, true
}

var (
	size  = regexp.MustCompile(`^([0-9]{1,18}) ?([A-Za-z]*)$`)
	units = map[string]int64{
		"": 1, "B": 1,
		"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	}
	shortUnits = map[string]string{"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}
)

// Size reads a number of bytes: 500KB, 8MiB, or plain bytes.
func (n Node) Size() (int64, bool) {
	const what = "a size like 500KB, 1MiB or 10GiB"
	text, ok := n.typed(what, "str", "int")
	if !ok {
		return 0, false
	}
	m := size.FindStringSubmatch(text)
	if m == nil {
		return 0, n.want(what)
	}
	unit, ok := units[m[2]]
	if !ok {
		meant := shortUnits[strings.ToLower(m[2])]
		for u := range units {
			if strings.EqualFold(u, m[2]) {
				meant = u
			}
		}
		if meant == "" {
			return 0, n.want(what)
		}
		n.problem("", "%swant %s, got %s: did you mean %q?", n.prefix(), what, n.got(), m[1]+meant)
		return 0, false
	}
	i, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || i > math.MaxInt64/unit {
		n.problem("", "%s%s is too large a size", n.prefix(), n.got())
		return 0, false
	}
	return i * unit, true
}

// Enum reads one of the given words, spelled exactly so.
func (n Node) Enum(values ...string) (string, bool) {
	what := values[0]
	if len(values) > 1 {
		what = strings.Join(values[:len(values)-1], ", ") + " or " + values[len(values)-1]
	}
	if n.IsZero() {
		return "", false
	}
	if !n.IsScalar() || n.IsNull() {
		return "", n.want(what)
	}
	text, ok := n.Text()
	if !ok {
		return "", false
	}
	if slices.Contains(values, text) {
		return text, true
	}
	if s := Suggest(text, values); s != "" && !strings.Contains(n.Raw(), "${") {
		n.problem("", "%swant %s, got %s: did you mean %q?", n.prefix(), what, n.got(), s)
		return "", false
	}
	return "", n.want(what)
}
