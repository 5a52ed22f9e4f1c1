package status

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Control is what the page's lists and buttons need of the connector: package main gives it. Safe for concurrent use. An error that is a *Refused says why
// what was asked for is not done; others are of the state.
type Control interface {
	// Letters gives dead letters, newest first, and where the next page begins; 0: there is none.
	Letters(ctx context.Context, q LetterQuery) (letters []*connector.DeadLetter, next int64, err error)
	// Letter gives one.
	Letter(ctx context.Context, id int64) (*connector.DeadLetter, error)
	// Retry has open letters sent again, and gives how many. anyway: group relations that are overtaken too; checked: points of class uncertain too, as the
	// operator has looked whether the platform has them.
	Retry(ctx context.Context, ids []int64, anyway, checked bool) (int, error)
	// Drop closes open letters for good, and gives how many.
	Drop(ctx context.Context, ids []int64) (int, error)
	// Resume ends the hold that a brake has put on a mapping; empty: a pause of delivery, and all such holds.
	Resume(ctx context.Context, mapping string) error
	// SetAside makes dead letters of what a held mapping waits with.
	SetAside(ctx context.Context, mapping string) error
}

// Refused says why Control does not do something.
type Refused struct{ Text string }

func (e *Refused) Error() string { return e.Text }

// LetterQuery says which dead letters are asked for; all that is set must hold.
type LetterQuery struct {
	Class   connector.Class `json:"class"`
	Mapping string          `json:"mapping"`
	// Text is looked for in mapping, table, reason, id and position; with Payload in payload and change too.
	Text    string `json:"text"`
	Payload bool   `json:"-"`
	// Open gives the open ones only (true) or the closed ones only (false).
	Open *bool `json:"open"`
	// After is where the page begins: what the last one gave.
	After int64 `json:"after"`
	// Limit is how many come at most.
	Limit int `json:"-"`
}

// lettersShown are on one page.
const lettersShown = 50

// Letter is a dead letter as programs and pages read it.
type Letter struct {
	ID         int64              `json:"id"`
	Class      connector.Class    `json:"class"`
	Mapping    string             `json:"mapping"`
	Kind       string             `json:"kind"`
	OptType    string             `json:"optType,omitempty"` // of a group relation: add, update or delete
	Table      string             `json:"table"`
	Position   connector.Position `json:"position"`
	Number     int                `json:"number"`
	CommitTime time.Time          `json:"commitTime,omitzero"` // zero for a row that a backfill has read
	Reason     string             `json:"reason"`
	// RelateBizCode is a point's of the open API (platform.pointAPI: open): the platform knows the point by it.
	RelateBizCode string                  `json:"relateBizCode,omitempty"`
	Payload       json.RawMessage         `json:"payload,omitempty"`
	Change        json.RawMessage         `json:"change,omitempty"`
	Attempts      int                     `json:"attempts"`
	Answer        *connector.LetterAnswer `json:"answer"`
	Created       time.Time               `json:"created"`
	Closed        *time.Time              `json:"closed,omitempty"`
	Resolution    string                  `json:"resolution,omitempty"`
	// Overtaken says of a group relation that a newer one of the same customer was delivered since.
	Overtaken bool `json:"overtaken"`
	// Retrying says that it is to be sent again, Retried why the last retry has not closed it.
	Retrying bool   `json:"retrying,omitempty"`
	Retried  string `json:"retried,omitempty"`
}

// LetterOf shows a dead letter, with all that it holds.
func LetterOf(l *connector.DeadLetter) Letter {
	shown := Letter{ID: l.ID, Class: l.Class, Mapping: l.Mapping, Kind: l.Kind.String(), OptType: l.OptType, Table: l.Table, Position: l.Position, Number: l.Number,
		CommitTime: l.CommitTime, Reason: l.Reason, Payload: l.Payload, Change: l.Change, Attempts: l.Attempts, Answer: l.Answer,
		Created: l.Created, Resolution: l.Resolution, RelateBizCode: bizCode(l), Overtaken: l.Overtaken, Retrying: l.Retrying, Retried: l.Retried}
	if !l.Closed.IsZero() {
		shown.Closed = &l.Closed
	}
	return shown
}

// bizCode gives relateBizCode of a point's payload; empty where there is none.
func bizCode(l *connector.DeadLetter) string {
	var point struct{ RelateBizCode string }
	if l.Kind != connector.Point || json.Unmarshal(l.Payload, &point) != nil {
		return ""
	}
	return point.RelateBizCode
}

// page is a page of dead letters.
type letterPage struct {
	Letters []Letter `json:"letters"`
	Next    int64    `json:"next,omitempty"`
}

// listLetters gives a page, without payloads: nothing of it is personal, nor can what is be found out by what it is filtered by.
func (s *Server) listLetters(w http.ResponseWriter, r *http.Request) {
	var q LetterQuery
	v := r.URL.Query()
	q.Class, q.Mapping, q.Text = connector.Class(v.Get("class")), v.Get("mapping"), v.Get("text")
	if open, err := strconv.ParseBool(v.Get("open")); err == nil {
		q.Open = &open
	}
	q.After, _ = strconv.ParseInt(v.Get("after"), 10, 64) // 0: from the newest on
	s.letters(w, r, q)
}

// searchLetters is listLetters for an admin: it looks into payloads too.
func (s *Server) searchLetters(w http.ResponseWriter, r *http.Request) {
	var q LetterQuery
	if s.asked(w, r, &q) {
		q.Payload = q.Text != ""
		s.letters(w, r, q)
	}
}

func (s *Server) letters(w http.ResponseWriter, r *http.Request, q LetterQuery) {
	q.Limit, q.Text = lettersShown, strings.TrimSpace(q.Text)
	if q.Class != "" && !slices.Contains(connector.Classes, q.Class) {
		problem(w, http.StatusBadRequest, "there is no such class")
		return
	}
	letters, next, err := s.o.Control.Letters(r.Context(), q)
	if err != nil {
		s.failed(w, err)
		return
	}
	page := letterPage{Letters: make([]Letter, len(letters)), Next: next}
	for i, l := range letters {
		one := *l
		one.Payload, one.Change, one.Answer = nil, nil, nil
		page.Letters[i] = LetterOf(&one)
	}
	s.reply(w, page)
}

// showLetter gives one letter, masked.
func (s *Server) showLetter(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(strings.TrimSuffix(r.PathValue("id"), ".json"), 10, 64)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	l, err := s.o.Control.Letter(r.Context(), id)
	if err != nil {
		s.failed(w, err)
		return
	}
	shown := LetterOf(l)
	shown.mask()
	s.reply(w, shown)
}

// unmaskLetter gives one letter as it is.
func (s *Server) unmaskLetter(w http.ResponseWriter, r *http.Request) {
	var q struct {
		ID int64 `json:"id"`
	}
	if !s.asked(w, r, &q) {
		return
	}
	l, err := s.o.Control.Letter(r.Context(), q.ID)
	if err != nil {
		s.failed(w, err)
		return
	}
	s.o.Log.Info("dead letter shown unmasked on the page", "letter", q.ID, "from", remote(r))
	s.reply(w, LetterOf(l))
}

// done is what came of an action.
type done struct {
	Letters int `json:"letters,omitempty"`
}

func (s *Server) retryLetters(w http.ResponseWriter, r *http.Request) {
	var q struct {
		IDs     []int64 `json:"ids"`
		Anyway  bool    `json:"anyway"`
		Checked bool    `json:"checked"`
	}
	if s.asked(w, r, &q) {
		n, err := s.o.Control.Retry(r.Context(), q.IDs, q.Anyway, q.Checked)
		s.did(w, r, err, "retry of dead letters", n, "")
	}
}

func (s *Server) dropLetters(w http.ResponseWriter, r *http.Request) {
	var q struct {
		IDs []int64 `json:"ids"`
	}
	if s.asked(w, r, &q) {
		n, err := s.o.Control.Drop(r.Context(), q.IDs)
		s.did(w, r, err, "drop of dead letters", n, "")
	}
}

func (s *Server) resume(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Mapping string `json:"mapping"`
	}
	if s.asked(w, r, &q) {
		s.did(w, r, s.o.Control.Resume(r.Context(), q.Mapping), "resume", 0, q.Mapping)
	}
}

func (s *Server) setAside(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Mapping string `json:"mapping"`
	}
	if s.asked(w, r, &q) {
		s.did(w, r, s.o.Control.SetAside(r.Context(), q.Mapping), "set-aside", 0, q.Mapping)
	}
}

// did answers to an action, and has it in the log.
func (s *Server) did(w http.ResponseWriter, r *http.Request, err error, what string, letters int, mapping string) {
	if err != nil {
		s.failed(w, err)
		return
	}
	s.o.Log.Info("asked for on the page", "what", what, "letters", letters, "mapping", mapping, "from", remote(r))
	s.reply(w, done{letters})
}

func (s *Server) failed(w http.ResponseWriter, err error) {
	var refused *Refused
	if errors.As(err, &refused) {
		problem(w, http.StatusConflict, refused.Text)
		return
	}
	problem(w, http.StatusInternalServerError, err.Error())
}
