package main

import (
	"io"
	"os"
)

// painter colours text where it is read on a terminal. The zero painter leaves it as it is.
type painter struct{ on bool }

// paintFor gives the painter for an output: colours on a terminal only, and not where NO_COLOR (https://no-color.org) or TERM=dumb says no.
func paintFor(w io.Writer) painter {
	return painter{isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p painter) paint(code, text string) string {
	if !p.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p painter) red(text string) string   { return p.paint("31", text) }
func (p painter) green(text string) string { return p.paint("32", text) }
func (p painter) bold(text string) string  { return p.paint("1", text) }
func (p painter) faint(text string) string { return p.paint("2", text) }
