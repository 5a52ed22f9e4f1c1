package config

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Schema gives the JSON Schema (draft 2020-12) of the file, for editors: of the configuration, and of a mapping file, which has mappings, tables and tests
// only. It is made of what the decoder itself goes by. It says less than `check`: what goes with what beyond the keys that exclude each other, and which fields a point
// has with platform.pointAPI: open, are left to that.
func Schema() []byte {
	cfg := defaults()
	l := &loader{cfg: &cfg, ps: &strict.Problems{}}
	root := schemaOf(mapShape(l.fileKeys()))
	required := root.Required
	root.Required = nil
	root.Schema, root.Title = "https://json-schema.org/draft/2020-12/schema", "tuzhan-cdc.yaml"
	root.Description = "Configuration of tuzhan-cdc, or a file of mappings."
	root.Type = "object"
	// A mapping file has none of the other keys.
	root.If = &schema{AnyOf: []*schema{{Required: []string{"source"}}, {Required: []string{"platform"}}, {Required: []string{"mappingFiles"}}}}
	root.Then = &schema{Required: required}
	root.Else = &schema{AnyOf: []*schema{{Required: []string{"mappings"}}, {Required: []string{"tables"}}, {Required: []string{"tests"}}}}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(root); err != nil {
		panic(err) // it holds nothing that JSON does not know
	}
	return b.Bytes()
}

// schema is what of JSON Schema is used, in the order in which people read it.
type schema struct {
	Schema      string       `json:"$schema,omitempty"`
	Title       string       `json:"title,omitempty"`
	Description string       `json:"description,omitempty"`
	Type        any          `json:"type,omitempty"`
	Enum        []string     `json:"enum,omitempty"`
	Pattern     string       `json:"pattern,omitempty"`
	Minimum     *json.Number `json:"minimum,omitempty"`
	Maximum     *json.Number `json:"maximum,omitempty"`
	Default     any          `json:"default,omitempty"`
	Properties  *properties  `json:"properties,omitempty"`
	Required    []string     `json:"required,omitempty"`
	// AdditionalProperties is a *schema, or false.
	AdditionalProperties any       `json:"additionalProperties,omitempty"`
	Items                *schema   `json:"items,omitempty"`
	AnyOf                []*schema `json:"anyOf,omitempty"`
	OneOf                []*schema `json:"oneOf,omitempty"`
	Not                  *schema   `json:"not,omitempty"`
	// DependentRequired names, by key, the keys that must come with it.
	DependentRequired map[string][]string `json:"dependentRequired,omitempty"`
	If                *schema             `json:"if,omitempty"`
	Then              *schema             `json:"then,omitempty"`
	Else              *schema             `json:"else,omitempty"`
}

// properties keeps its keys in order.
type properties struct {
	names   []string
	schemas []*schema
}

// MarshalJSON writes an object.
func (p *properties) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, name := range p.names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendQuote(b, name), ':')
		var value bytes.Buffer
		e := json.NewEncoder(&value)
		e.SetEscapeHTML(false)
		if err := e.Encode(p.schemas[i]); err != nil {
			return nil, err
		}
		b = append(b, value.Bytes()...)
	}
	return append(b, '}'), nil
}

// The patterns of texts that stand for something else.
const (
	variablePattern   = `\$\{` // ${NAME}; the decoder sees to the rest
	expressionPattern = `\$\{` // ${{ }}, or a variable
	durationPattern   = `^([0-9]{1,5}d)?([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))*$`
	sizePattern       = `^[0-9]{1,18} ?(B|[KMGT]i?B)?$`
	timePattern       = `^-?[0-9]{4,}-[0-9]{2}-[0-9]{2}|\$\{`
)

// schemaOf describes a value.
func schemaOf(s strict.Shape) *schema {
	out := typeSchema(s)
	if len(s.Or) > 0 {
		any := []*schema{out}
		for _, o := range s.Or {
			any = append(any, schemaOf(o))
		}
		out = &schema{AnyOf: any}
	}
	return out
}

func typeSchema(s strict.Shape) *schema {
	orVariable := func(x *schema) *schema {
		return &schema{AnyOf: []*schema{x, {Type: "string", Pattern: variablePattern}}}
	}
	switch s.Type {
	case strict.TextType:
		if len(s.Enum) > 0 {
			return orVariable(&schema{Enum: s.Enum})
		}
		return &schema{Type: []string{"string", "number", "boolean"}}
	case strict.WholeType, strict.NumberType:
		x := &schema{Type: "integer"}
		if s.Type == strict.NumberType {
			x.Type = "number"
		}
		if s.Least != 0 || s.Most != 0 {
			least, most := json.Number(strconv.FormatInt(s.Least, 10)), json.Number(strconv.FormatInt(s.Most, 10))
			x.Minimum, x.Maximum = &least, &most
		}
		return orVariable(x)
	case strict.BoolType:
		return orVariable(&schema{Type: "boolean"})
	case strict.DurationType:
		return orVariable(&schema{Type: "string", Pattern: durationPattern})
	case strict.SizeType:
		zero := json.Number("0")
		return &schema{AnyOf: []*schema{{Type: "string", Pattern: sizePattern}, {Type: "integer", Minimum: &zero}, {Type: "string", Pattern: variablePattern}}}
	case strict.TimeType:
		return &schema{Type: "string", Pattern: timePattern}
	case strict.ListType:
		return &schema{Type: []string{"array", "null"}, Items: schemaOf(*s.Values)}
	case strict.MapType:
		x := &schema{Type: []string{"object", "null"}}
		if s.Values != nil {
			x.AdditionalProperties = schemaOf(*s.Values)
			return x
		}
		x.AdditionalProperties = false
		x.Properties = &properties{}
		for _, k := range s.Keys {
			v := schemaOf(k.Shape)
			v.Description = describe(k)
			v.Default = defaultOf(k)
			x.Properties.names = append(x.Properties.names, k.Name)
			x.Properties.schemas = append(x.Properties.schemas, v)
			if k.Required {
				x.Required = append(x.Required, k.Name)
			}
			if k.Needs != "" {
				x.DependentRequired = map[string][]string{k.Name: {k.Needs}} // no mapping has two such
			}
		}
		for _, name := range s.OneOf {
			x.OneOf = append(x.OneOf, &schema{Required: []string{name}})
		}
		for i, a := range s.AtMostOne {
			for _, b := range s.AtMostOne[i+1:] {
				if x.Not == nil {
					x.Not = &schema{}
				}
				x.Not.AnyOf = append(x.Not.AnyOf, &schema{Required: []string{a, b}})
			}
		}
		return x
	}
	return &schema{}
}

var link = regexp.MustCompile(`\[([^\]]*)\]\(#[^)]*\)`)

// describe gives what an editor shows: the meaning, what the value is, and the default.
func describe(k strict.Key) string {
	text := link.ReplaceAllString(k.Doc, `README, "$1"`)
	if text == "" {
		return ""
	}
	text = strings.ToUpper(text[:1]) + text[1:] + "."
	switch w := word(k.Shape); {
	case k.Type == strict.DurationType:
		text += "\nValue: duration, like 200ms, 10s, 15m, 90d."
	case k.Type == strict.SizeType:
		text += "\nValue: size, like 500KB, 8MiB, 10GiB."
	case w != "":
		text += "\nValue: " + w + "."
	}
	if k.Default != "" {
		text += "\nDefault: " + k.Default + "."
	}
	return text
}

// defaultOf gives the default as a value, where it is one.
func defaultOf(k strict.Key) any {
	switch k.Type {
	case strict.BoolType:
		if b, err := strconv.ParseBool(k.Default); err == nil {
			return b
		}
	case strict.WholeType, strict.NumberType:
		if _, err := strconv.ParseFloat(k.Default, 64); err == nil {
			return json.Number(k.Default)
		}
	case strict.DurationType, strict.SizeType:
		if k.Default != "" && k.Default[0] >= '0' && k.Default[0] <= '9' {
			return k.Default
		}
	case strict.TextType:
		if k.Default != "" && !strings.ContainsAny(k.Default, " '{") && k.Default != "required" && k.Default != "none" && k.Default != "random" {
			return k.Default
		}
	}
	return nil
}
