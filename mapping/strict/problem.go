package strict

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a file.
type Problem struct {
	// File is the name that was given to Parse.
	File string `json:"file"`
	// Line and Column count from 1, Column in characters; 0 where the problem has no place in a file.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Text says what is wrong and what would be right. It never holds the value of an environment variable.
	Text string `json:"text"`
	// Hint is the next thing to do, where there is more to say; "" for none.
	Hint string `json:"hint,omitempty"`
}

// String gives file:line:column: text, and the hint on lines of its own, indented.
func (p Problem) String() string {
	var b strings.Builder
	switch {
	case p.File != "" && p.Line > 0:
		fmt.Fprintf(&b, "%s:%d:%d: ", p.File, p.Line, p.Column)
	case p.File != "":
		b.WriteString(p.File + ": ")
	}
	b.WriteString(p.Text)
	if p.Hint != "" {
		b.WriteString("\n    " + strings.ReplaceAll(p.Hint, "\n", "\n    "))
	}
	return b.String()
}

// Problems collects the problems of one or more files. The zero value is empty and ready. Not safe for concurrent use.
type Problems struct {
	list []Problem
}

// Add notes a problem at a node; the zero Node stands for no place. A problem that was noted before, at the same place with the same
// text, is noted once: a scalar may be read twice, and an alias leads to one place from many.
func (ps *Problems) Add(at Node, format string, args ...any) {
	ps.AddHint(at, "", format, args...)
}

// AddHint is Add with a hint: what to do next.
func (ps *Problems) AddHint(at Node, hint, format string, args ...any) {
	p := Problem{File: at.File(), Line: at.Line(), Column: at.Column(), Text: fmt.Sprintf(format, args...), Hint: hint}
	if !slices.Contains(ps.list, p) {
		ps.list = append(ps.list, p)
	}
}

// Take adds the problems of other.
func (ps *Problems) Take(other *Problems) {
	for _, p := range other.list {
		if !slices.Contains(ps.list, p) {
			ps.list = append(ps.list, p)
		}
	}
}

// Len is the number of problems so far: compare it before and after to see whether a part of the file was in order.
func (ps *Problems) Len() int { return len(ps.list) }

// All gives the problems, sorted by file, line and column.
func (ps *Problems) All() []Problem {
	list := slices.Clone(ps.list)
	slices.SortStableFunc(list, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return list
}

// Err gives an *Errors with all problems, or nil where there is none.
func (ps *Problems) Err() error {
	if len(ps.list) == 0 {
		return nil
	}
	return &Errors{Problems: ps.All()}
}

// Errors is the error that lists all problems of a file, one after the other.
type Errors struct {
	// Problems is sorted by file, line and column, and never empty.
	Problems []Problem
}

// Error gives every problem, each on a line of its own.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}
