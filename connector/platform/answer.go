package platform

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// The platform's business codes, from its API pages.
const (
	codeOK          = "200"
	codeSecretWrong = "100100" // APPID_SECRET_ERROR
	codeTokenWrong  = "100200" // TOKEN_ERROR
	codeAuthWrong   = "100300" // AUTHCODE_ERROR
)

const (
	maxCode       = 64        // bytes of a code that are kept
	maxMsg        = 1 << 10   // bytes of a msg that are kept
	maxRetryAfter = time.Hour // longer waits are not believed
)

// reply is the JSON of every answer. A code may come as string or number.
type reply struct {
	Code      json.RawMessage `json:"code"`
	ErrorCode json.RawMessage `json:"errorCode"`
	Msg       json.RawMessage `json:"msg"`
	Data      json.RawMessage `json:"data"`
}

// readAnswer reads the answer to req: the table in the package comment.
func readAnswer(r *response, req *connector.Request) connector.Answer {
	a, data := readCommon(r)
	if a.Verdict != connector.Delivered {
		return a
	}
	switch req.Records[0].Kind {
	case connector.Point:
		return readPoint(r, a, data)
	case connector.GroupRelation:
		return readGroups(a, data, req.Records)
	}
	return a
}

// readCommon reads what all answers have in common; Delivered means 2xx and code 200, with the data unread.
func readCommon(r *response) (connector.Answer, json.RawMessage) {
	a := connector.Answer{HTTPStatus: r.status, NotApplied: true}
	var body reply
	isJSON := r.err == nil && json.Unmarshal(r.body, &body) == nil
	if isJSON {
		a.Code = clip(text(body.Code), maxCode)
		if a.Msg = clip(text(body.Msg), maxMsg); a.Msg == "" {
			a.Msg = clip(text(body.ErrorCode), maxMsg)
		}
	}
	byCode := codeVerdict(a.Code)
	switch {
	case r.status >= 200 && r.status <= 299:
		a.Verdict = byCode
		switch {
		case r.err != nil:
			a.Verdict, a.Err = connector.Outage, r.err
		case a.Code == "":
			a.Verdict = connector.Outage
			a.Err = newError(r.to.post, fmt.Sprintf("HTTP %d, but the answer is no JSON object with a code", r.status),
				"A gateway may have answered in the platform's place: check platform.baseURL and "+r.to.setting+".", nil)
		}
	case r.status >= 300 && r.status <= 399:
		a.Verdict, a.Err = connector.SetupWrong, redirected(r)
	case r.status == http.StatusUnauthorized:
		a.Verdict = connector.TokenRefused
	case r.status == http.StatusRequestEntityTooLarge:
		a.Verdict = connector.TooBig
	case r.status == http.StatusTooManyRequests:
		a.Verdict = connector.SlowDown
		a.RetryAfter, _ = retryAfter(r.header)
	case r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") != "":
		a.Verdict = connector.Outage
		if wait, ok := retryAfter(r.header); ok {
			a.Verdict, a.RetryAfter = connector.SlowDown, wait
		}
	case r.status == http.StatusRequestTimeout:
		a.Verdict = connector.Outage
	case r.status >= 400 && r.status <= 499:
		switch {
		case byCode == connector.TokenRefused || byCode == connector.SetupWrong:
			a.Verdict = byCode
		case r.status == http.StatusForbidden || r.status == http.StatusNotFound:
			a.Verdict = connector.SetupWrong
		case r.status == http.StatusProxyAuthRequired:
			a.Verdict = connector.SetupWrong
			a.Err = newError(r.to.post, "HTTP 407: the proxy wants to know who asks", "Check user and password in HTTP_PROXY.", nil)
		default:
			a.Verdict = connector.Rejected
		}
	default:
		a.Verdict = connector.Outage
	}
	if a.Verdict == connector.Outage || a.Verdict == connector.Delivered {
		a.NotApplied = false
	}
	return a, body.Data
}

// codeVerdict reads a business code. Only 200 is success.
func codeVerdict(code string) connector.Verdict {
	switch code {
	case codeOK:
		return connector.Delivered
	case codeTokenWrong:
		return connector.TokenRefused
	case codeSecretWrong, codeAuthWrong:
		return connector.SetupWrong
	}
	if n, err := strconv.ParseUint(code, 10, 16); err == nil && len(code) == 3 && n >= 500 && n <= 599 {
		return connector.Outage
	}
	return connector.Rejected
}

// readPoint reads data, a boolean that says whether the points were given.
func readPoint(r *response, a connector.Answer, data json.RawMessage) connector.Answer {
	switch said := text(data); {
	case said == "true":
	case said == "false", len(data) == 0, string(data) == "null":
		a.Verdict, a.NotApplied = connector.Rejected, true
	default:
		// Not to be guessed at: a point called rejected may be sent again by hand.
		a.Verdict = connector.Outage
		a.Err = newError(r.to.post, "code 200, but data is no boolean", "Check "+r.to.setting+".", nil)
	}
	return a
}

// redirected says where an answer 3xx points; the target is shown because it is what the setting should be.
func redirected(r *response) *Error {
	e := newError(r.to.post, fmt.Sprintf("HTTP %d redirects elsewhere; redirects are not followed, because they would take token and data along", r.status),
		"Check platform.baseURL and "+r.to.setting+".", nil)
	if u, err := r.to.url.Parse(r.header.Get("Location")); err == nil && u.Host != "" && u.String() != r.to.url.String() {
		e.Reason = fmt.Sprintf("HTTP %d redirects to %s; redirects are not followed, because they would take token and data along", r.status,
			shown(&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}))
	}
	return e
}

// retryAfter reads the header of that name: seconds, or a date, which is taken from the answer's own Date where it has one (clocks
// differ). ok is false where there is none or it can't be read.
func retryAfter(h http.Header) (wait time.Duration, ok bool) {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(value, 10, 63); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(0, at.Sub(now)), maxRetryAfter), true
}

// text gives a JSON string's text, or the literal of a number or boolean; empty for null, absent, objects and arrays.
func text(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	switch raw[0] {
	case '"':
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return ""
		}
		return s
	case '{', '[', 'n':
		return ""
	}
	return string(raw)
}

// clip cuts s to at most n bytes, between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
