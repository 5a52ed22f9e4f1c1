package connector

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"
)

// Kind is what a record is to the platform.
type Kind uint8

// The kinds of records.
const (
	Point Kind = iota + 1
	Event
	GroupRelation
)

// String gives the key under which a mapping declares the kind.
func (k Kind) String() string {
	switch k {
	case Point:
		return "point"
	case Event:
		return "event"
	case GroupRelation:
		return "groupRelation"
	}
	return "none"
}

// KindOf is the inverse of Kind.String; 0 for another name.
func KindOf(name string) Kind {
	for _, k := range []Kind{Point, Event, GroupRelation} {
		if k.String() == name {
			return k
		}
	}
	return 0
}

// RecordID names a record for good: the Number-th record that the mapping made from the change at Position. CommitTime belongs to
// the name because LSNs come again after a failover with loss.
type RecordID struct {
	Mapping    string
	Position   Position
	CommitTime time.Time // in UTC, to the microsecond; compare with Equal or as UnixMicro
	// Number counts from 0. A dead letter of class mapping has WholeChange where the mapping may make several records of a change.
	Number int
	// Backfill and Row are set for a row that a backfill has read: the backfill's id, and the row's key as RowKey writes it. The row has them in whatever
	// chunk it comes, and Position is where that chunk stands in the stream. They are not kept with dead letters.
	Backfill int64
	Row      string
}

// WholeChange is the Number of a dead letter that stands for all records that a mapping makes of a change.
const WholeChange = -1

// Record is one payload that a mapping made from one change.
//
// Whoever is handed a record owns it until it is settled; nobody changes it after the mapper has let go of it. Once it is settled it is made anew for
// another change (Output.Record): what outlives it is copied.
type Record struct {
	RecordID
	Kind Kind
	// Payload is the JSON of the point's body, of the event, or of the group relation item.
	Payload []byte
	// Envelope is the JSON object for publicParams (for a group relation with optType in it); empty for points. Only records of one
	// kind and one envelope share a request.
	Envelope string
	// OptType is add, update or delete for a group relation, else empty.
	OptType string
	// Keys are hashes (KeyHash) of the customer's identity values, or of orderBy: records that share any of them are sent one
	// after the other, in commit order. Never empty for a record that names a customer.
	Keys []uint64
	// Decrease says that the point is negative: its payload carries the absolute value, and it goes to paths.pointDecrease.
	Decrease bool
	// Resend says that an uncertain point is sent again rather than set aside (the mapping's `uncertain: resend`).
	Resend bool
	// Table is schema.name of the changed table, for messages and dead letters.
	Table string

	change settler   // set and read by the pipeline
	keys   [2]uint64 // room for Keys
}

// maxSparePayload is how large a payload's buffer may be to be kept: a record that was large once must not stay so.
const maxSparePayload = 2 << 10

// clear makes the record as new, but for its buffers.
func (r *Record) clear() {
	payload, keys := r.Payload[:0], r.Keys[:0]
	if cap(payload) > maxSparePayload {
		payload = nil
	}
	*r = Record{Payload: payload, Keys: keys}
}

// Letter makes the dead letter of a record that is set aside. It shares nothing with the record.
func (r *Record) Letter(class Class, reason string, answer *LetterAnswer, attempts int) *DeadLetter {
	return &DeadLetter{RecordID: r.RecordID, Class: class, Kind: r.Kind, Table: r.Table, Reason: reason, Payload: bytes.Clone(r.Payload),
		Envelope: r.Envelope, OptType: r.OptType, Keys: slices.Clone(r.Keys), Decrease: r.Decrease, Attempts: attempts, Answer: answer,
		Created: time.Now().UTC()}
}

// KeyHash hashes one order key, FNV-1a with 64 bits: the same in every process, because dead letters keep it. Two values that
// collide are only kept in order needlessly.
func KeyHash[T ~string | ~[]byte](value T) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(value); i++ {
		h = (h ^ uint64(value[i])) * 1099511628211
	}
	return h
}

// Class says why a record is a dead letter.
type Class string

// The classes of dead letters.
const (
	// ClassMapping: an expression failed or a required value is null; the letter holds the change, there is no payload.
	ClassMapping Class = "mapping"
	// ClassRejected: the platform refused this record alone.
	ClassRejected Class = "rejected"
	// ClassUncertain: a point that may or may not have been applied.
	ClassUncertain Class = "uncertain"
	// ClassFailing: a record that alone kept failing as in an outage.
	ClassFailing Class = "failing"
)

// Classes lists all classes.
var Classes = []Class{ClassMapping, ClassRejected, ClassUncertain, ClassFailing}

// DeadLetter is a record that was set aside, with the reason.
type DeadLetter struct {
	// ID is given by the store; 0 before.
	ID int64
	RecordID
	Class Class
	Kind  Kind
	// Table is schema.name.
	Table string
	// Reason says in plain words what failed and what cures it. It holds no row values: it is logged.
	Reason string
	// Payload, Envelope, OptType, Keys, Decrease are the record's; empty for ClassMapping, but that Keys of a group relation are then those that its records
	// may have had.
	Payload  json.RawMessage
	Envelope string
	OptType  string
	Keys     []uint64
	Decrease bool
	// Change is the change as ChangeJSON writes it, where a retry is to map it again: of ClassMapping, and of a point that is uncertain since such a retry.
	Change json.RawMessage
	// Uncounted says that the letter does not count for delivery.maxDeadLetters: its held mapping's changes were given up as a whole.
	Uncounted bool
	// Attempts counts the requests that carried the record.
	Attempts int
	// Answer is the last answer to the record, if there was one.
	Answer *LetterAnswer
	// Created and Closed: Closed is zero while the letter is open.
	Created, Closed time.Time
	// Resolution says how a closed letter was closed: one of the Resolved texts.
	Resolution string
	// Overtaken says of a group relation that a newer one of the same customer was delivered since: it is not sent again unless asked for anyway.
	Overtaken bool
	// Retrying says that it was asked for to be sent again, and has not ended; Anyway, that it was in spite of Overtaken.
	Retrying, Anyway bool
	// Retried says why the last retry has not closed the letter; empty before. It holds no row values.
	Retried string
}

// How a letter was closed.
const (
	// ResolvedDelivered: it was sent again, and delivered.
	ResolvedDelivered = "delivered"
	// ResolvedPassedOver: mapped again, the mapping as it was then wanted nothing of the change.
	ResolvedPassedOver = "passed over"
	// ResolvedDropped: an operator has given it up.
	ResolvedDropped = "dropped"
)

// LetterAnswer is what the platform answered to a record that was set aside.
type LetterAnswer struct {
	HTTPStatus int    `json:"httpStatus,omitempty"`
	Code       string `json:"code,omitempty"`
	Msg        string `json:"msg,omitempty"`
	// Error is the failure of the transport where there was no answer.
	Error string `json:"error,omitempty"`
}
