package connector

import "time"

// Endpoint is a path of the platform that takes records.
type Endpoint uint8

// The endpoints.
const (
	PointEndpoint Endpoint = iota + 1
	PointDecreaseEndpoint
	EventEndpoint
	GroupRelationEndpoint
)

// String gives the endpoint's key under platform.paths.
func (e Endpoint) String() string {
	switch e {
	case PointEndpoint:
		return "point"
	case PointDecreaseEndpoint:
		return "pointDecrease"
	case EventEndpoint:
		return "event"
	case GroupRelationEndpoint:
		return "groupRelation"
	}
	return "none"
}

// Endpoint says where the record goes.
func (r *Record) Endpoint() Endpoint {
	switch {
	case r.Kind == Point && r.Decrease:
		return PointDecreaseEndpoint
	case r.Kind == Point:
		return PointEndpoint
	case r.Kind == Event:
		return EventEndpoint
	}
	return GroupRelationEndpoint
}

// Request is what one HTTP request carries: records of one endpoint and one envelope; one record where the endpoint takes points.
type Request struct {
	Endpoint Endpoint
	Envelope string
	Records  []*Record
}

// Verdict is how an answer is read: the rows of the answer table in the design.
type Verdict uint8

// The verdicts.
const (
	// Delivered: all records were applied.
	Delivered Verdict = iota + 1
	// Partly: the records at Answer.Failed were refused, the others were applied.
	Partly
	// TokenRefused: 401 or code 100200, also with a fresh token.
	TokenRefused
	// SetupWrong: 403, 404, 3xx, code 100100 or 100300: it blames the set-up and not the record.
	SetupWrong
	// SlowDown: 429, or 503 with Retry-After; nothing was applied.
	SlowDown
	// TooBig: 413.
	TooBig
	// Rejected: the platform refused the request for what it holds; nothing was applied.
	Rejected
	// Outage: 408, 5xx, a code 5xx, no JSON, cut, time-out, refused.
	Outage
)

// String gives the verdict's name for logs.
func (v Verdict) String() string {
	switch v {
	case Delivered:
		return "delivered"
	case Partly:
		return "partly"
	case TokenRefused:
		return "token refused"
	case SetupWrong:
		return "set-up wrong"
	case SlowDown:
		return "slow down"
	case TooBig:
		return "too big"
	case Rejected:
		return "rejected"
	case Outage:
		return "outage"
	}
	return "none"
}

// Answer is what came of a request.
type Answer struct {
	Verdict Verdict
	// NotApplied says that the failure proves that nothing of the request was applied. False on an Outage: uncertain.
	NotApplied bool
	// RetryAfter is how long the platform asks to wait; 0: it did not say.
	RetryAfter time.Duration
	// Failed are indexes into Request.Records, ascending; for Partly only.
	Failed []int
	// HTTPStatus is 0 where no answer came.
	HTTPStatus int
	// Code and Msg are the platform's. Msg may quote what was sent: it goes into dead letters, never into a log.
	Code, Msg string
	// Err is the failure of the transport where no answer came or it could not be read. Its text has no URL query, no token, no payload.
	Err error
}

// Left reports whether the request, or some of it, may have left: false where no connection was made, or no token was had.
func (a Answer) Left() bool { return a.HTTPStatus != 0 || !a.NotApplied }
