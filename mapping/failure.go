package mapping

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// failure is why a row could not be mapped. Its text goes into dead letters and logs, so it never holds a row value.
type failure struct {
	text string
	cure string // what would help; "" where there is nothing to say
	// unknown says that a value was read which PostgreSQL did not send.
	unknown bool
	// identity says that it was an old column, which the replica identity did not carry at this change.
	identity bool
	path     string      // the payload's field, eventargs.c_price; "" for none
	at       strict.Node // the place in the file; the zero Node stands for the mapping's own
}

func (f *failure) Error() string {
	if f.cure == "" {
		return f.text
	}
	return f.text + " (" + f.cure + ")"
}

func fail(format string, args ...any) *failure { return &failure{text: fmt.Sprintf(format, args...)} }

// hint gives f with what would help.
func (f *failure) hint(format string, args ...any) *failure {
	f.cure = fmt.Sprintf(format, args...)
	return f
}

// under places a failure in the payload: below field name, at a node of the file where it has no place yet.
func under(err error, name string, at strict.Node) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	g := *f
	if name != "" {
		if g.path != "" && !strings.HasPrefix(g.path, "[") {
			name += "."
		}
		g.path = name + g.path
	}
	if g.at.IsZero() {
		g.at = at
	}
	return &g
}

// lacksIdentity reports whether err says that an old column was not sent, because the replica identity did not carry it at this change.
func lacksIdentity(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.identity
}

// isUnknown reports whether err says that a value was not sent.
func isUnknown(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.unknown
}
