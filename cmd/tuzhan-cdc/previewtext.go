package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// printPreview prints one block a mapping; cure writes a cure as it is to be typed.
func printPreview(w io.Writer, list []*previewed, cure func(string) string) error {
	var b bytes.Buffer
	for i, p := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		p.print(&b, cure)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (p *previewed) print(b *bytes.Buffer, cure func(string) string) {
	fmt.Fprintf(b, "%s: %s of %s (%s:%d)\n", p.Mapping, p.Kind, p.Table, p.File, p.Line)
	for _, n := range p.Notes {
		fmt.Fprintf(b, "  %s\n", n)
	}
	for _, e := range p.Errors {
		fmt.Fprintf(b, "  error: %s\n", hanging(e.Text, "         "))
		if e.Cure != "" {
			fmt.Fprintf(b, "  cure: %s\n", hanging(cure(e.Cure), "        "))
		}
	}
	request := ""
	for _, r := range p.Rows {
		for _, rec := range r.Records {
			head := rec.Request
			if len(rec.PublicParams) > 0 {
				head += ", publicParams " + string(rec.PublicParams)
			}
			if head != request { // records of one kind mostly go one way
				request = head
				fmt.Fprintf(b, "  %s\n", head)
			}
			fmt.Fprintf(b, "    %s\n      %s\n", r.Row, hanging(payloadText(rec.Payload), "      "))
		}
	}
	switch {
	case p.Looked == 0 && p.failed:
		return
	case p.Looked == 0:
		b.WriteString("  no rows\n")
		return
	}
	all := ""
	if p.All {
		all = ", all that there are"
	}
	fmt.Fprintf(b, "  %s looked at%s: %d would be sent, %d passed over, %s", count(p.Looked, "row"), all, p.Sent, p.PassedOver, count(p.DeadLetters, "dead letter"))
	if p.Unknown > 0 {
		fmt.Fprintf(b, ", %d not known", p.Unknown)
	}
	b.WriteByte('\n')
	for _, why := range p.Why {
		fmt.Fprintf(b, "  %s: %s (%s, such as %s)\n", why.Outcome, cure(why.Reason), count(why.Rows, "row"), why.Example)
		for _, line := range why.lines() {
			fmt.Fprintf(b, "    %s\n", line)
		}
	}
}

// mostValues is how many values of a column are told.
const mostValues = 6

// lines tell what the rows hold in the columns that a reason reads.
func (w *previewReason) lines() []string {
	var lines []string
	for i := 0; i < len(w.Values); {
		column, parts, more := w.Values[i].Column, []string{}, 0
		for ; i < len(w.Values) && w.Values[i].Column == column; i++ {
			v := w.Values[i]
			if len(parts) == mostValues {
				more += v.Rows
				continue
			}
			text := "null"
			if v.Value != nil {
				text = shownValue(*v.Value)
			}
			parts = append(parts, fmt.Sprintf("%s (%s)", text, count(v.Rows, "row")))
		}
		if more > 0 {
			parts = append(parts, fmt.Sprintf("others (%s)", count(more, "row")))
		}
		lines = append(lines, column+" is "+strings.Join(parts, ", "))
	}
	return lines
}

var plainNumber = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)

// shownValue writes a column's value for the terminal: numbers as they are, other text in quotes, without control characters and not without end.
func shownValue(text string) string {
	const most = 60
	if plainNumber.MatchString(text) {
		return text
	}
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return strconv.Quote(text)
}

// payloadText writes a payload on one line where that is short, else indented; its values are as they are sent.
func payloadText(payload json.RawMessage) string {
	const wide = 140
	var b bytes.Buffer
	if len([]rune(string(payload))) > wide && json.Indent(&b, payload, "", "  ") == nil {
		return b.String()
	}
	return string(payload)
}

func hanging(text, by string) string { return strings.ReplaceAll(text, "\n", "\n"+by) }
