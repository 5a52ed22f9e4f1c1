package config

import (
	"fmt"
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Reference gives the keys of the file as a Markdown table, made of what the decoder itself goes by: key, value, default, meaning. Mappings and tests have
// tables of their own.
func Reference() string {
	cfg := defaults()
	l := &loader{cfg: &cfg, ps: &strict.Problems{}}
	return tableHead + rows("", mapShape(l.fileKeys()).Keys, true)
}

// MappingReference gives the keys of a mapping. Those of its payload are the platform's.
func MappingReference() string { return tableHead + rows("", mapping.Keys(), false) }

// TestReference gives the keys of a table and of a test.
func TestReference() string {
	return tableHead + rows("tables.TABLE.", mapping.TableKeys(), false) + rows("tests[].", mapping.TestKeys(), false)
}

const tableHead = "| key | value | default | meaning |\n|---|---|---|---|\n"

// rows writes a row a key; deep: of a block one for each of its keys, and one for itself where leaving it away means something.
func rows(prefix string, keys []strict.Key, deep bool) string {
	var b strings.Builder
	for _, k := range keys {
		isBlock := deep && k.Type == strict.MapType && k.Values == nil
		if !isBlock || k.Default != "" {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", prefix+k.Name, word(k.Shape), defaultCell(k), strings.ReplaceAll(k.Doc, "|", `\|`))
		}
		if isBlock {
			b.WriteString(rows(prefix+k.Name+".", k.Keys, true))
		}
	}
	return b.String()
}

// word names what a value may be.
func word(s strict.Shape) string {
	switch {
	case s.What != "":
		return s.What
	case len(s.Enum) > 0:
		return "`" + strings.Join(s.Enum, "`, `") + "`"
	}
	switch s.Type {
	case strict.TextType:
		return "text"
	case strict.WholeType:
		return span("whole number", s)
	case strict.NumberType:
		return span("number", s)
	case strict.BoolType:
		return "`true`, `false`"
	case strict.DurationType:
		return "duration"
	case strict.SizeType:
		return "size"
	case strict.TimeType:
		return "timestamp"
	case strict.ListType:
		if w := word(*s.Values); w != "" && w != "mapping" {
			return "list of " + w
		}
		return "list"
	case strict.MapType:
		return "mapping"
	}
	return ""
}

func span(what string, s strict.Shape) string {
	switch {
	case s.Least == 0 && s.Most == 0:
		return what
	case s.Most >= 1<<31-1:
		return fmt.Sprintf("%s from %d on", what, s.Least)
	}
	return fmt.Sprintf("%s, %d to %d", what, s.Least, s.Most)
}

// defaultCell writes a default: words as they are, values as code.
func defaultCell(k strict.Key) string {
	switch {
	case k.Default != "" && defaultOf(k) != nil:
		return "`" + k.Default + "`"
	case k.Default == "" && k.Required:
		return "required"
	}
	return k.Default
}
