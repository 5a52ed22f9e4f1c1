package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
)

// checkFinding is a finding as programs read it.
type checkFinding struct {
	// Area is file, database, state or platform.
	Area string `json:"area"`
	postgres.Finding
}

// checkReport collects what check found, area by area.
type checkReport struct {
	file     string
	offline  bool
	unfit    int  // mappings with errors
	running  bool // somebody streams from the slot
	findings []checkFinding
	titles   map[string]string // of areas
}

// add adds findings to an area; title says which database, platform.
func (r *checkReport) add(area, title string, findings ...postgres.Finding) {
	if r.titles == nil {
		r.titles = map[string]string{}
	}
	if title != "" {
		r.titles[area] = title
	}
	findingsFor(r.file, findings)
	for _, f := range findings {
		r.findings = append(r.findings, checkFinding{area, f})
	}
}

func (r *checkReport) count(s postgres.Severity) int {
	n := 0
	for _, f := range r.findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// severities are in the order of printing, with their symbols.
var severities = []struct {
	severity postgres.Severity
	symbol   string
	colour   string
}{
	{postgres.SeverityError, "✗", "1;31"}, {postgres.SeverityWarning, "!", "33"}, {postgres.SeverityInfo, "·", "2"}, {postgres.SeverityOK, "✓", "32"},
}

// print writes the findings for people: by area, what must be mended first, a cure that was said before not again.
func (r *checkReport) print(w io.Writer) error {
	p := findingPrinter{w: w, painter: paintFor(w), width: terminalWidth(w), said: map[string]bool{}}
	for _, area := range []string{"file", "database", "state", "platform"} {
		var list []postgres.Finding
		for _, f := range r.findings {
			if f.Area == area {
				list = append(list, f.Finding)
			}
		}
		if len(list) == 0 {
			continue
		}
		title := strings.ToUpper(area[:1]) + area[1:]
		if t := r.titles[area]; t != "" {
			title += "  " + p.faint(t)
		}
		p.line("%s", p.bold(title))
		rank := func(f postgres.Finding) int {
			for i, s := range severities {
				if s.severity == f.Severity {
					return i
				}
			}
			return len(severities)
		}
		slices.SortStableFunc(list, func(a, b postgres.Finding) int { return cmp.Compare(rank(a), rank(b)) })
		for _, f := range folded(list) {
			p.finding(f)
		}
	}
	p.line("")
	p.line("%s", withConfig(r.file, r.summary(p.painter)))
	return p.err
}

// folded joins tables that are all fine: there may be hundreds.
func folded(list []postgres.Finding) []postgres.Finding {
	var out []postgres.Finding
	at := map[string]int{} // by text, in out
	for _, f := range list {
		name, isTable := strings.CutPrefix(f.Subject, "table ")
		if !isTable || f.Severity != postgres.SeverityOK || f.Cure != "" {
			out = append(out, f)
			continue
		}
		i, ok := at[f.Text]
		if !ok {
			at[f.Text] = len(out)
			out = append(out, f)
			continue
		}
		all, isFirst := strings.CutPrefix(out[i].Subject, "table ")
		if isFirst {
			all = "tables " + all
		}
		out[i].Subject = all + ", " + name
	}
	return out
}

func (r *checkReport) summary(p painter) string {
	errors, warnings := r.count(postgres.SeverityError), r.count(postgres.SeverityWarning)
	found := count(errors, "error") + ", " + count(warnings, "warning")
	var away, short []string
	for _, f := range r.findings {
		switch {
		case strings.HasPrefix(f.Text, notChecked):
			away = append(away, f.Area)
		case strings.HasPrefix(f.Text, cutShort):
			short = append(short, f.Area)
		}
	}
	switch {
	case errors > 0:
		return p.paint("1;31", "Not ready: "+found+".") + " Mend what is marked error, then again: tuzhan-cdc check"
	case r.offline:
		return p.paint("1;32", "The file is fine: "+found+".") + " Database, state and platform were not looked at."
	case len(away)+len(short) > 0:
		text := p.paint("1;33", "Nothing wrong as far as it could be checked: "+found+".")
		if len(away) > 0 {
			text += " Not reached: " + strings.Join(away, ", ") + "."
		}
		if len(short) > 0 {
			text += " Not checked to the end: " + strings.Join(short, ", ") + "."
		}
		return text
	case r.running:
		return p.paint("1;32", "In order: "+found+".") + " It runs, since its slot is in use; how far it is: tuzhan-cdc status"
	}
	return p.paint("1;32", "Ready: "+found+".") + " Start it: tuzhan-cdc run"
}

// findingPrinter writes findings; width is that of the terminal, 0 where lines are not to be broken.
type findingPrinter struct {
	painter
	w     io.Writer
	width int
	said  map[string]bool // cures
	err   error
}

func (p *findingPrinter) line(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format+"\n", args...); err != nil && p.err == nil {
		p.err = err
	}
}

const findingIndent = "           "

func (p *findingPrinter) finding(f postgres.Finding) {
	label := fmt.Sprintf("  %-8s ", f.Severity)
	for _, s := range severities {
		if s.severity == f.Severity && p.on {
			label = p.paint(s.colour, fmt.Sprintf("%s %-8s", s.symbol, f.Severity)) + " "
		}
	}
	lines := p.wrapped(f.Subject+": "+f.Text, findingIndent)
	lines[0] = strings.Replace(lines[0], f.Subject+":", p.bold(f.Subject)+":", 1)
	p.line("%s%s", label, lines[0])
	for _, l := range lines[1:] {
		p.line("%s%s", findingIndent, l)
	}
	if f.Cure != "" {
		p.cure(f.Cure)
	}
}

// cure writes what mends a finding. SQL stands on lines of its own, to be copied as a whole.
func (p *findingPrinter) cure(cure string) {
	key := withoutComments(cure)
	if p.said[key] {
		p.line("%s%s", findingIndent, p.faint("cure: the same as above"))
		return
	}
	p.said[key] = true
	if !sqlForm.MatchString(cure) {
		for i, l := range p.wrapped("cure: "+cure, findingIndent+"      ") {
			if i > 0 {
				l = "      " + l
			}
			p.line("%s%s", findingIndent, l)
		}
		return
	}
	p.line("%scure, in psql:", findingIndent)
	for l := range strings.SplitSeq(cure, "\n") {
		p.line("%s  %s", findingIndent, l)
	}
}

var (
	sqlForm    = regexp.MustCompile(`^(--|(ALTER|CREATE|DROP|GRANT|REVOKE|SELECT|BEGIN|SET|SHOW|UPDATE)\b)`)
	sqlComment = regexp.MustCompile(`--[^\n]*`)
)

func withoutComments(sql string) string {
	return strings.Join(strings.Fields(sqlComment.ReplaceAllString(sql, "")), " ")
}

// wrapped breaks a text at blanks, so that it fits the terminal behind indent.
func (p *findingPrinter) wrapped(text, indent string) []string {
	var lines []string
	for part := range strings.SplitSeq(text, "\n") {
		room := p.width - len(indent)
		if p.width == 0 || room < 30 {
			lines = append(lines, part)
			continue
		}
		line := ""
		for word := range strings.SplitSeq(part, " ") {
			if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > room {
				lines, line = append(lines, line), word
			} else if line == "" {
				line = word
			} else {
				line += " " + word
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// terminalWidth is the number of columns of a terminal; 0 for what is none.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !isTerminal(w) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}
