package config

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// pointMapping is the place of a mapping that makes points.
type pointMapping struct {
	file string
	line int
}

// mappings decodes the mappings of the file, whose values fields holds, and of its mapping files, and gives those that make points. Their tests are read too.
func (l *loader) mappings(fields map[string]strict.Node) []pointMapping {
	inline, files := fields["mappings"], fields["mappingFiles"]
	l.cfg.Tests.Read(inline, fields["tables"], fields["tests"])
	before := l.ps.Len()
	lists := []strict.Node{inline}
	patterns := files.Items()
	if len(inline.Items()) == 0 && len(patterns) == 0 && l.ps.Len() == before {
		l.ps.Add(or(inline, l.root), "there is no mapping: add one under mappings, or files of them under mappingFiles")
	}
	for _, pattern := range patterns {
		lists = append(lists, l.mappingFiles(pattern)...)
	}
	var points []pointMapping
	for _, list := range lists {
		l.cfg.Mappings.Decode(list, l.ps)
		if !list.IsList() {
			continue
		}
		for _, n := range list.Items() { // of mappings with problems too, which the set leaves out
			if !n.IsMap() {
				continue
			}
			for _, p := range n.Pairs() {
				if p.Key.Raw() == connector.Point.String() {
					points = append(points, pointMapping{p.Key.File(), p.Key.Line()})
				}
			}
		}
	}
	return points
}

// mappingFiles gives the lists of mappings in the files that a glob matches, in the order of their names. A file that was read before, by another
// glob or as the configuration itself, is passed over.
func (l *loader) mappingFiles(pattern strict.Node) []strict.Node {
	glob, ok := pattern.Text()
	if !ok {
		return nil
	}
	paths, err := filepath.Glob(l.besides(glob))
	if err != nil {
		pattern.Problem("mappingFiles: this is no pattern of file names: want one like mappings/*.yaml")
		return nil
	}
	paths = slices.DeleteFunc(paths, func(p string) bool { return sameFile(p, l.cfg.File) })
	if len(paths) == 0 {
		pattern.Problem("mappingFiles: no file matches %s; it counts from the folder of %s", pattern.Raw(), filepath.Base(l.cfg.File))
		return nil
	}
	var lists []strict.Node
	for _, path := range paths {
		if slices.Contains(l.read, path) {
			continue
		}
		l.read = append(l.read, path)
		data, err := os.ReadFile(path)
		if err != nil {
			pattern.Problem("mappingFiles: %v", err)
			continue
		}
		top := strict.Parse(path, data, l.env, l.ps)
		before, found := l.ps.Len(), len(lists)
		fields := block(top, l.mappingFileKeys())
		if n := fields["mappings"]; !n.IsZero() {
			lists = append(lists, n)
		}
		l.cfg.Tests.Read(fields["mappings"], fields["tables"], fields["tests"])
		if !top.IsZero() && len(lists) == found && fields["tables"].IsZero() && fields["tests"].IsZero() && l.ps.Len() == before {
			l.ps.Add(top, "there is nothing in this file: want mappings, with a list of them, or tests")
		}
	}
	return lists
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
