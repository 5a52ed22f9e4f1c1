package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

// recordResults writes what came of the tests that did not pass into their files, as what they expect, and gives the indexes of those. A test that can't be
// edited does not keep the others from it.
func recordResults(results []mapping.Result) (recorded map[int]bool, err error) {
	byFile := map[string][]int{}
	for i, r := range results {
		if !r.Passed && r.Actual != nil {
			byFile[r.Test.File] = append(byFile[r.Test.File], i)
		}
	}
	recorded = map[int]bool{}
	var failed []error
	for _, file := range slices.Sorted(maps.Keys(byFile)) {
		text, err := os.ReadFile(file)
		if err != nil {
			return recorded, errors.Join(append(failed, fmt.Errorf("record what came: %w", err))...)
		}
		list := byFile[file]
		slices.SortFunc(list, func(a, b int) int { return results[b].Test.Line - results[a].Test.Line }) // from the end, so that lines stay where they are
		var done []int
		for _, i := range list {
			r := results[i]
			edited, err := withExpectation(text, r.Test.Line, r.Test.Node().Column(), r.Actual.Lines())
			if err != nil {
				failed = append(failed, fmt.Errorf("%s:%d: what came could not be recorded: %w", file, r.Test.Line, err))
				continue
			}
			text = edited
			done = append(done, i)
		}
		if len(done) == 0 {
			continue
		}
		if err := replaceFile(file, text); err != nil {
			return recorded, errors.Join(append(failed, fmt.Errorf("record what came: %w", err))...)
		}
		for _, i := range done {
			recorded[i] = true
		}
	}
	return recorded, errors.Join(failed...)
}

// withExpectation gives a file in which the test at line and column expects what want says. All else stays as it is, to the byte.
func withExpectation(text []byte, line, column int, want []mapping.Line) ([]byte, error) {
	e, err := newEditor(text)
	if err != nil {
		return nil, err
	}
	test, end := e.find(line, column)
	if test == nil {
		return nil, errors.New("the file has changed meanwhile")
	}
	if test.Style&yaml.FlowStyle != 0 {
		return nil, errors.New("it stands in { }: write its keys on lines of their own")
	}
	at := -1
	for i := 0; i < len(test.Content); i += 2 {
		if isExpectation(test.Content[i]) {
			at = i
		}
	}
	same := func(after *yaml.Node) bool { return sameBut(e.top, after, test, isExpectation) }
	indent := strings.Repeat(" ", column-1)
	if at < 0 {
		last := e.last(test.Line, end)
		return e.replace(last+1, last, indented(want, indent, indent), same)
	}
	key := test.Content[at]
	if at+2 < len(test.Content) {
		end = test.Content[at+2].Line
	}
	return e.replace(key.Line, e.last(key.Line, end), indented(want, e.lines[key.Line-1][:key.Column-1], indent), same)
}

// indented gives lines with lead before the first and indent before the others.
func indented(lines []mapping.Line, lead, indent string) []string {
	list := make([]string, len(lines))
	for i, l := range lines {
		list[i] = lead + l.Text
		lead = indent
	}
	return list
}

func isExpectation(key *yaml.Node) bool { return key.Value == "expect" || key.Value == "deadLetter" }

// editor replaces lines of a YAML file. Lines count from 1.
type editor struct {
	top   *yaml.Node
	lines []string
	crlf  bool
}

func newEditor(text []byte) (*editor, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, errors.New("the file is empty")
	}
	e := &editor{top: doc.Content[0], crlf: bytes.Contains(text, []byte("\r\n"))}
	e.lines = strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n"), "\n")
	return e, nil
}

// value gives the value of a key at the top, and the line at which the next key begins.
func (e *editor) value(key string) (n *yaml.Node, end int) {
	for i := 0; i+1 < len(e.top.Content); i += 2 {
		if e.top.Content[i].Value != key {
			continue
		}
		if i+2 < len(e.top.Content) {
			return e.top.Content[i+1], e.top.Content[i+2].Line
		}
		return e.top.Content[i+1], len(e.lines) + 1
	}
	return nil, 0
}

// find gives the test that begins at a place, and the line at which what follows it begins.
func (e *editor) find(line, column int) (test *yaml.Node, end int) {
	list, end := e.value("tests")
	if list == nil {
		return nil, 0
	}
	for i, n := range list.Content {
		if n.Line == line && n.Column == column && n.Kind == yaml.MappingNode {
			if i+1 < len(list.Content) {
				end = list.Content[i+1].Line
			}
			return n, end
		}
	}
	return nil, 0
}

// last gives the last line of what begins at line first and ends before line end: comments and empty lines behind it belong to what follows.
func (e *editor) last(first, end int) int {
	last := end - 1
	for last > first {
		text := strings.TrimSpace(e.lines[last-1])
		if text != "" && text != "-" && !strings.HasPrefix(text, "#") {
			break
		}
		last--
	}
	return last
}

// replace puts content in the place of lines first to last. same must find that all else in the file means what it meant.
func (e *editor) replace(first, last int, content []string, same func(after *yaml.Node) bool) ([]byte, error) {
	lines := slices.Concat(e.lines[:first-1], content, e.lines[last:])
	text := strings.Join(lines, "\n") + "\n"
	after, err := newEditor([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("the file would no longer be YAML: %w", err)
	}
	if !same(after.top) {
		return nil, errors.New("it can't be told from what stands around it: write its keys on lines of their own")
	}
	if e.crlf {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	return []byte(text), nil
}

// sameBut compares two files; of the mapping at, the keys that may differ are left out.
func sameBut(a, b, at *yaml.Node, mayDiffer func(key *yaml.Node) bool) bool {
	content := func(n *yaml.Node) []*yaml.Node {
		if a != at {
			return n.Content
		}
		var rest []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !mayDiffer(n.Content[i]) {
				rest = append(rest, n.Content[i], n.Content[i+1])
			}
		}
		return rest
	}
	x, y := content(a), content(b)
	if a.Kind != b.Kind || a.Value != b.Value || a.Tag != b.Tag || a.Style != b.Style || a.Anchor != b.Anchor || len(x) != len(y) {
		return false
	}
	for i := range x {
		if !sameBut(x[i], y[i], at, mayDiffer) {
			return false
		}
	}
	return true
}

// replaceFile writes a file in one step: whoever reads it meanwhile has the old or the new one. Links are followed, and the mode stays.
func replaceFile(path string, text []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".tuzhan-cdc-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails where it was renamed
	_, err = temp.Write(text)
	if err == nil {
		err = temp.Chmod(info.Mode().Perm())
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
