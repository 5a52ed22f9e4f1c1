package main_test

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestTranslation: README.zh-CN.md says what README.md says, as far as that can be told without reading Chinese. Section by section: the same headings' levels, the same code blocks,
// byte for byte, tables of the same shape whose first cells quote the same, links to the same files and sections, and the same set of code spans and of numbers in the text. A failure here
// mostly means that README.md was changed and its translation was not.
func TestTranslation(t *testing.T) {
	english, chinese := readDocument(t, "../../README.md"), readDocument(t, "../../README.zh-CN.md")
	if len(english.sections) < 30 || len(english.sections) != len(chinese.sections) {
		t.Fatalf("%s has %d headings, %s has %d:\n%s", english.file, len(english.sections), chinese.file, len(chinese.sections), headingsBeside(english, chinese))
	}
	words := dictionary{t: t, there: map[string]string{}, back: map[string]string{}}
	for i, e := range english.sections {
		z := chinese.sections[i]
		t.Run(cmp.Or(e.anchor, "top"), func(t *testing.T) {
			if e.level != z.level {
				t.Fatalf("%q is of level %d, %q of level %d", e.heading, e.level, z.heading, z.level)
			}
			same(t, "code blocks", e.blocks, z.blocks)
			same(t, "links to files", slices.Sorted(slices.Values(e.files)), slices.Sorted(slices.Values(z.files)))
			same(t, "links to sections, by their number", english.targets(t, e), chinese.targets(t, z))
			same(t, "code spans, each once", e.spans(), z.spans())
			same(t, "numbers, each once", e.numbers(), z.numbers())
			compareTables(t, e, z, words)
		})
	}
	for _, d := range []document{english, chinese} {
		d.checkFiles(t)
	}
	for _, z := range chinese.sections {
		for _, line := range strings.Split(z.text, "\n") {
			checkBold(t, line)
		}
	}
}

// TestLanguages: each of the two files links to the other below its title.
func TestLanguages(t *testing.T) {
	for file, want := range map[string]string{"README.md": "English | [简体中文](README.zh-CN.md)", "README.zh-CN.md": "[English](README.md) | 简体中文"} {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "# tuzhan-cdc\n\n"+want+"\n") {
			t.Errorf("%s does not begin with its title and %q", file, want)
		}
	}
}

// document is a Markdown file by its headings; what stands before the first is no section.
type document struct {
	file     string
	sections []section
}

// section is a heading with what stands below it up to the next one.
type section struct {
	heading, anchor string
	level           int
	blocks          []string     // fenced, with their fences
	tables          [][][]string // rows of cells
	files, anchors  []string     // where links lead: out of the file, or to its headings
	text            string       // without blocks
}

var (
	fence   = regexp.MustCompile("^ *```")
	title   = regexp.MustCompile(`^(#+) (.*)$`)
	linking = regexp.MustCompile(`\]\(([^)]*)\)`)
	code    = regexp.MustCompile("`+([^`]+)`+")
	numeral = regexp.MustCompile(`\d+(?:[.,]\d+)*`)
	unsaid  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func readDocument(t *testing.T, file string) document {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := document{file: file}
	var block []string
	inTable := false
	for line := range strings.SplitSeq(string(text), "\n") {
		if m := title.FindStringSubmatch(line); m != nil && block == nil {
			d.sections = append(d.sections, section{heading: m[2], anchor: anchorOf(m[2]), level: len(m[1])})
		}
		if len(d.sections) == 0 {
			t.Fatalf("%s does not begin with a heading", file)
		}
		s := &d.sections[len(d.sections)-1]
		if block != nil || fence.MatchString(line) {
			block = append(block, line)
			if len(block) > 1 && strings.TrimSpace(line) == "```" {
				s.blocks, block = append(s.blocks, strings.Join(block, "\n")), nil
			}
			inTable = false
			continue
		}
		if !strings.HasPrefix(line, "English | ") && !strings.HasPrefix(line, "[English]") {
			s.text += line + "\n"
		}
		if strings.HasPrefix(line, "|") {
			if !inTable {
				s.tables = append(s.tables, nil)
			}
			last := len(s.tables) - 1
			s.tables[last] = append(s.tables[last], cellsOf(line))
		}
		inTable = strings.HasPrefix(line, "|")
	}
	if block != nil {
		t.Fatalf("%s: a code block does not end: %s", file, block[0])
	}
	anchors := map[string]bool{}
	for i := range d.sections {
		s := &d.sections[i]
		if anchors[s.anchor] {
			t.Errorf("%s: two headings have the anchor %s", file, s.anchor)
		}
		anchors[s.anchor] = true
		for _, m := range linking.FindAllStringSubmatch(s.text, -1) {
			if to, here := strings.CutPrefix(m[1], "#"); here {
				s.anchors = append(s.anchors, to)
			} else {
				s.files = append(s.files, m[1])
			}
		}
	}
	return d
}

// anchorOf gives a heading's anchor as GitHub makes it: lower case, letters, digits, - and _ of any script, blanks as -.
func anchorOf(heading string) string {
	return strings.ReplaceAll(unsaid.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

func cellsOf(row string) []string {
	cells := strings.Split(strings.ReplaceAll(row, `\|`, "\x00"), "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(strings.ReplaceAll(cells[i], "\x00", `\|`))
	}
	return cells[1 : len(cells)-1]
}

// targets are the numbers of the headings that a section links to. A link that leads to none is an error.
func (d document) targets(t *testing.T, from section) (numbers []string) {
	t.Helper()
	for _, anchor := range from.anchors {
		n := slices.IndexFunc(d.sections, func(s section) bool { return s.anchor == anchor })
		if n < 0 {
			t.Errorf("%s: #%s leads nowhere", d.file, anchor)
		}
		numbers = append(numbers, fmt.Sprintf("%02d", n))
	}
	slices.Sort(numbers)
	return numbers
}

// checkFiles: links lead to files that are there, and to headings that these have.
func (d document) checkFiles(t *testing.T) {
	t.Helper()
	for _, s := range d.sections {
		for _, to := range s.files {
			if strings.Contains(to, "://") {
				continue
			}
			name, anchor, deep := strings.Cut(to, "#")
			path := filepath.Join(filepath.Dir(d.file), name)
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s, %s: %v", d.file, s.heading, err)
			} else if other := (document{}); deep {
				if other = readDocument(t, path); !slices.ContainsFunc(other.sections, func(s section) bool { return s.anchor == anchor }) {
					t.Errorf("%s, %s: %s leads nowhere", d.file, s.heading, to)
				}
			}
		}
	}
}

// spans are the code spans of a section's text, each once.
func (s section) spans() []string {
	set := map[string]bool{}
	for _, m := range code.FindAllStringSubmatch(s.text, -1) {
		set[strings.Join(strings.Fields(m[1]), " ")] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// numbers are those that the text has in digits, outside of code and links, each once.
func (s section) numbers() []string {
	set := map[string]bool{}
	for _, n := range numeral.FindAllString(linking.ReplaceAllString(code.ReplaceAllString(s.text, ""), "]"), -1) {
		set[strings.ReplaceAll(n, ",", "")] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func compareTables(t *testing.T, e, z section, words dictionary) {
	t.Helper()
	if len(e.tables) != len(z.tables) {
		t.Fatalf("%d tables, and %d", len(e.tables), len(z.tables))
	}
	for i, table := range e.tables {
		if len(table) != len(z.tables[i]) {
			t.Errorf("the table that begins with %q has %d rows, and %d in Chinese", table[0], len(table), len(z.tables[i]))
			continue
		}
		keys := slices.Equal(table[0], []string{"key", "value", "default", "meaning"})
		for j, row := range table {
			other := z.tables[i][j]
			if len(row) != len(other) {
				t.Errorf("%q has %d cells, and %d in Chinese: %q", row, len(row), len(other), other)
				continue
			}
			same(t, "what the first cell quotes", code.FindAllString(row[0], -1), code.FindAllString(other[0], -1))
			for k, cell := range row {
				if (cell == "") != (other[k] == "") {
					t.Errorf("a cell is empty in one of %q and %q", row, other)
				}
			}
			if keys && j > 1 {
				for k := 1; k <= 2; k++ { // value and default
					same(t, row[0]+": what value and default quote", code.FindAllString(row[k], -1), code.FindAllString(other[k], -1))
					same(t, row[0]+": numbers of value and default", numeral.FindAllString(row[k], -1), numeral.FindAllString(other[k], -1))
					words.pair(wordsOf(row[k]), wordsOf(other[k]))
				}
			}
		}
	}
}

// wordsOf is a cell without what is the same in every language.
func wordsOf(cell string) string {
	return strings.TrimSpace(numeral.ReplaceAllString(code.ReplaceAllString(cell, "``"), "0"))
}

// dictionary notes how the words for values and defaults are translated: each in one way, and no two alike.
type dictionary struct {
	t           *testing.T
	there, back map[string]string
}

func (d dictionary) pair(english, chinese string) {
	d.t.Helper()
	if was, ok := d.there[english]; ok && was != chinese {
		d.t.Errorf("%q is %q in one table of keys, and %q in another", english, was, chinese)
	}
	if was, ok := d.back[chinese]; ok && was != english {
		d.t.Errorf("%q stands for %q and for %q in the tables of keys", chinese, was, english)
	}
	d.there[english], d.back[chinese] = chinese, english
}

// checkBold finds ** that Markdown takes for two asterisks: where punctuation stands inside of it and a letter outside, as happens in a script without blanks.
func checkBold(t *testing.T, line string) {
	t.Helper()
	pieces := strings.Split(code.ReplaceAllString(strings.ReplaceAll(line, "****", ""), "`x`"), "**")
	if len(pieces)%2 == 0 {
		t.Errorf("a ** is left alone: %s", line)
		return
	}
	for i := 1; i < len(pieces); i += 2 {
		before, _ := utf8.DecodeLastRuneInString(pieces[i-1])
		first, _ := utf8.DecodeRuneInString(pieces[i])
		last, _ := utf8.DecodeLastRuneInString(pieces[i])
		after, _ := utf8.DecodeRuneInString(pieces[i+1])
		if !plain(first) && plain(before) || !plain(last) && plain(after) {
			t.Errorf("**%s** is not bold: put the punctuation outside, or a blank beside it", pieces[i])
		}
	}
}

// plain: a letter or a digit.
func plain(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// same reports what only one of the two has.
func same(t *testing.T, what string, english, chinese []string) {
	t.Helper()
	if slices.Equal(english, chinese) {
		return
	}
	only := func(a, b []string) (out []string) {
		for _, s := range a {
			if !slices.Contains(b, s) {
				out = append(out, s)
			}
		}
		return out
	}
	t.Errorf("%s differ: only in README.md %q, only in README.zh-CN.md %q (%d and %d)", what, only(english, chinese), only(chinese, english), len(english), len(chinese))
}

func headingsBeside(a, b document) string {
	var out strings.Builder
	for i := range max(len(a.sections), len(b.sections)) {
		var e, z section
		if i < len(a.sections) {
			e = a.sections[i]
		}
		if i < len(b.sections) {
			z = b.sections[i]
		}
		fmt.Fprintf(&out, "%d %s | %d %s\n", e.level, e.heading, z.level, z.heading)
	}
	return out.String()
}
