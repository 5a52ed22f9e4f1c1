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

// Manual gives tuzhan-cdc.yaml(5), in the Markdown that go-md2man reads.
func Manual(version string) string {
	cfg := defaults()
	l := &loader{cfg: &cfg, ps: &strict.Problems{}}
	var b strings.Builder
	fmt.Fprintf(&b, "%% TUZHAN-CDC.YAML 5 \"\" \"tuzhan-cdc %s\" \"tuzhan-cdc\"\n\n", version)
	b.WriteString(`# NAME
tuzhan-cdc.yaml - configuration of tuzhan-cdc

# DESCRIPTION
One YAML file. Unknown keys are errors. **${NAME}** and **${NAME:-default}** in any value read the environment, after the YAML was parsed. Every secret may come from a file
instead, by its key that ends with File. Durations are written 200ms, 10s, 15m, 2h, 90d; sizes 500KB, 8MiB, 10GiB. **tuzhan-cdc check** finds what is wrong.

# KEYS
`)
	manual(&b, "", mapShape(l.fileKeys()).Keys, true)
	b.WriteString("\n# MAPPINGS\nWhat stands in **mappings**, a list. The fields below point, event and groupRelation are the platform's.\n\n")
	manual(&b, "", mapping.Keys(), false)
	b.WriteString("\n# TABLES AND TESTS\nWhat **tuzhan-cdc test** runs.\n\n")
	manual(&b, "tables.TABLE.", mapping.TableKeys(), false)
	manual(&b, "tests[].", mapping.TestKeys(), false)
	b.WriteString("\n# SEE ALSO\n**tuzhan-cdc(1)**, **tuzhan-cdc-check(1)**, **tuzhan-cdc-test(1)**\n")
	return b.String()
}

func manual(b *strings.Builder, prefix string, keys []strict.Key, deep bool) {
	for _, k := range keys {
		isBlock := deep && k.Type == strict.MapType && k.Values == nil
		if isBlock {
			manual(b, prefix+k.Name+".", k.Keys, true)
			continue
		}
		notes := []string{word(k.Shape)}
		switch {
		case k.Required || k.Default == "required":
			notes = append(notes, "required")
		case k.Default != "":
			notes = append(notes, "default: "+k.Default)
		}
		meaning, _, _ := strings.Cut(describe(k), "\n")
		fmt.Fprintf(b, "**%s** (%s)\n: %s\n\n", prefix+k.Name, strings.Join(notes, "; "), meaning)
	}
}
