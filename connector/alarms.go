package connector

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Alarm is something that an operator should look at, in plain words.
type Alarm struct {
	// Key names what it is about: "source", "delivery/event", "state".
	Key string `json:"key"`
	// Text says what is wrong and why; no secrets, no row values.
	Text string `json:"text"`
	// Cure is the next command, SQL or deed.
	Cure string `json:"cure,omitempty"`
	// Since is when it was raised.
	Since time.Time `json:"since"`
	// Times counts how often it was raised since.
	Times int `json:"times"`
}

// Alarms holds the alarms of a running connector and the last error. It writes one log line when an alarm is raised, one every
// 30 s while it is raised again, and one when it is cleared. Safe for concurrent use; make it with NewAlarms.
type Alarms struct {
	log *slog.Logger

	mu     sync.Mutex
	raised map[string]*raisedAlarm
	last   *LastError
}

type raisedAlarm struct {
	Alarm
	logged time.Time
}

// LastError is the error that came last, whether or not it has passed since.
type LastError struct {
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// repeatEvery is how often a lasting alarm is logged again.
const repeatEvery = 30 * time.Second

// NewAlarms makes an empty set of alarms.
func NewAlarms(log *slog.Logger) *Alarms {
	return &Alarms{log: log, raised: map[string]*raisedAlarm{}}
}

// Raise raises the alarm of that key, or renews it with a new text.
func (a *Alarms) Raise(key, text, cure string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.last = &LastError{Text: text, At: now}
	r := a.raised[key]
	if r == nil {
		r = &raisedAlarm{Alarm: Alarm{Key: key, Since: now}}
		a.raised[key] = r
	}
	r.Text, r.Cure = text, cure
	r.Times++
	if now.Sub(r.logged) >= repeatEvery {
		r.logged = now
		a.log.Warn("alarm", "about", key, "text", text, "cure", cure, "times", r.Times)
	}
}

// Clear ends the alarm of that key; it does nothing where there is none.
func (a *Alarms) Clear(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.raised[key]; r != nil {
		delete(a.raised, key)
		a.log.Info("recovered", "about", key, "after", time.Since(r.Since).Round(time.Millisecond), "times", r.Times)
	}
}

// ClearAll ends the alarms whose keys begin with prefix: what they are about is no more.
func (a *Alarms) ClearAll(prefix string) {
	for _, alarm := range a.List() {
		if strings.HasPrefix(alarm.Key, prefix) {
			a.Clear(alarm.Key)
		}
	}
}

// List gives the alarms that are raised, by key.
func (a *Alarms) List() []Alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]Alarm, 0, len(a.raised))
	for _, r := range a.raised {
		list = append(list, r.Alarm)
	}
	slices.SortFunc(list, func(x, y Alarm) int { return strings.Compare(x.Key, y.Key) })
	return list
}

// LastError gives the last error, or nil.
func (a *Alarms) LastError() *LastError {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}
