package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

const (
	readme     = "../../../README.md"
	schemaFile = "../../../examples/tuzhan-cdc.schema.json"
)

// TestGenerated: what is made of the decoder's keys is checked in as it is. Cure: make docs.
func TestGenerated(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	for name, table := range map[string]string{"configuration": Reference(), "mapping": MappingReference(), "test": TestReference()} {
		begin, end := fmt.Sprintf("<!-- %s keys, written by make docs -->\n", name), fmt.Sprintf("<!-- end of %s keys -->\n", name)
		before, rest, ok := strings.Cut(want, begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("the README has no %s", begin)
		}
		want = before + begin + table + end + after
	}
	for file, want := range map[string]string{readme: want, schemaFile: string(Schema())} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s is stale: make docs (%v)", file, err)
		}
	}
}

// TestReferenceLinks: what the reference refers to is a heading of the README.
func TestReferenceLinks(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		plain := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors[strings.ReplaceAll(plain, " ", "-")] = true
	}
	for _, m := range link.FindAllString(Reference()+MappingReference()+TestReference(), -1) {
		if anchor := m[strings.Index(m, "(#")+2 : len(m)-1]; !anchors[anchor] {
			t.Errorf("%s leads nowhere", m)
		}
	}
}

// node is what of a schema the tests look at.
type node struct {
	Description          string
	Properties           map[string]node
	AdditionalProperties json.RawMessage
	Items                *node
	AnyOf                []node
}

// TestSchemaAndDecoderKnowTheSame asks the decoder, at each place of the file, for a key that there is not: the keys that it says it knows there are those of the schema. And
// each key has a meaning.
func TestSchemaAndDecoderKnowTheSame(t *testing.T) {
	var root node
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	places := 0
	var walk func(path []string, n node)
	walk = func(path []string, n node) {
		for _, alternative := range n.AnyOf {
			walk(path, alternative)
		}
		if n.Items != nil {
			walk(append(slices.Clone(path), "-"), *n.Items)
		}
		var free node
		if json.Unmarshal(n.AdditionalProperties, &free) == nil && !bytes.Equal(n.AdditionalProperties, []byte("false")) && len(n.AdditionalProperties) > 2 {
			walk(append(slices.Clone(path), "crm.any"), free)
		}
		if len(n.Properties) == 0 {
			return
		}
		places++
		var schema []string
		for name, p := range n.Properties {
			schema = append(schema, name)
			walk(append(slices.Clone(path), name), p)
			if p.Description == "" && !slices.Contains(path, "optType") && !slices.ContainsFunc([]string{"point", "event", "groupRelation"}, func(s string) bool { return slices.Contains(path, s) }) {
				t.Errorf("%v: %s has no meaning", path, name)
			}
		}
		slices.Sort(schema)
		decoder := knownAt(t, path)
		if !slices.Equal(schema, decoder) {
			t.Errorf("at %v the schema has\n%q\nthe decoder\n%q", path, schema, decoder)
		}
	}
	walk(nil, root)
	if places < 24 {
		t.Errorf("only %d places", places)
	}
}

// knownAt gives the keys that the decoder says it knows at a place: of points those of both APIs.
func knownAt(t *testing.T, path []string) []string {
	t.Helper()
	const unknown = "qqqqzzzz"
	var value any = map[string]any{unknown: 1}
	for _, step := range slices.Backward(path) {
		if step == "-" {
			value = []any{value}
		} else {
			value = map[string]any{step: value}
		}
	}
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, open := range []string{"", "platform: {pointAPI: open}\n"} {
		if open != "" && !slices.Contains(path, "point") {
			break
		}
		file := filepath.Join(t.TempDir(), "t.yaml")
		if err := os.WriteFile(file, []byte(open+string(text)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file, nil)
		found := false
		for line := range strings.Lines(fmt.Sprint(err)) {
			if found {
				line = strings.TrimSuffix(strings.TrimSpace(line), ".")
				_, list, _ := strings.Cut(line, ": ")
				names = append(names, strings.Split(list, ", ")...)
			}
			found = strings.Contains(line, unknown)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("tuzhan-cdc.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("tuzhan-cdc.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asEditor gives a YAML file as an editor's language server sees it: YAML 1.2's core types, timestamps as text.
func asEditor(text []byte) (any, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		return nil, err
	}
	var plain func(n *yaml.Node) any
	plain = func(n *yaml.Node) any {
		switch n.Kind {
		case yaml.DocumentNode:
			return plain(n.Content[0])
		case yaml.AliasNode:
			return plain(n.Alias)
		case yaml.SequenceNode:
			list := []any{}
			for _, c := range n.Content {
				list = append(list, plain(c))
			}
			return list
		case yaml.MappingNode:
			m := map[string]any{}
			for i := 0; i+1 < len(n.Content); i += 2 {
				m[n.Content[i].Value] = plain(n.Content[i+1])
			}
			return m
		}
		switch n.ShortTag() {
		case "!!null":
			return nil
		case "!!bool":
			return n.Value == "true"
		case "!!int", "!!float":
			return json.Number(n.Value)
		}
		return n.Value
	}
	return plain(&n), nil
}

// notInSchema are the wrong files whose mistake is none of structure: the schema lets them pass, and the decoder does not.
var notInSchema = []string{
	"backoff-max-below-initial", "bad-expression", "bad-url", "base-url-with-query", "dsn-no-database", "dsn-no-postgres", "dsn-not-encoded", "dsn-sslmode", "encryption-key-no-hex",
	"encryption-key-size", "encryption-open", "exact-without-identity-type", "expression-not-closed", "fuzzy-without-identify-way", "glob-no-match", "mapping-file", "missing-point-path", "no-customer",
	"old-column-unknown", "secret-file-missing", "slot-name", "state-dsn", "two-of-one-name", "types-do-not-fit", "unknown-column", "unknown-table", "unset-variable",
}

// TestSchemaValidates: every file that the decoder takes satisfies the schema, and those with a wrong structure don't.
func TestSchemaValidates(t *testing.T) {
	s := compiled(t)
	var right []string
	for _, glob := range []string{"../../../examples/*/tuzhan-cdc.yaml", "testdata/full/*.yaml", "testdata/full/*/*.yaml", "../demo/demo.yaml", "../testdata/tests/*.yaml"} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatal(glob, err)
		}
		right = append(right, files...)
	}
	texts := map[string][]byte{}
	for _, file := range right {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = text
	}
	for i, block := range readmeYAML(t) {
		texts[fmt.Sprintf("README, block %d", i+1)] = []byte(block)
	}
	for name, text := range texts {
		doc, err := asEditor(text)
		if err == nil {
			err = s.Validate(doc)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrong, err := filepath.Glob("testdata/wrong/*.yaml")
	if err != nil || len(wrong) < 20 {
		t.Fatal(wrong, err)
	}
	var passed []string
	for _, file := range wrong {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if doc, err := asEditor(text); err == nil && s.Validate(doc) == nil {
			passed = append(passed, strings.TrimSuffix(filepath.Base(file), ".yaml"))
		}
	}
	if !slices.Equal(passed, notInSchema) {
		t.Errorf("the schema lets pass\n%q\nwant\n%q", passed, notInSchema)
	}
}

// TestEditorLines: each example names the schema in its first line, and it is there.
func TestEditorLines(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*/tuzhan-cdc.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path, ok := strings.CutPrefix(strings.SplitN(string(text), "\n", 2)[0], "# yaml-language-server: $schema=")
		if _, err := os.Stat(filepath.Join(filepath.Dir(file), path)); !ok || err != nil {
			t.Errorf("%s: the first line names no schema: %v", file, err)
		}
	}
}

// TestExamplesPassTheirTests runs the tests of each example, and each mapping has some.
func TestExamplesPassTheirTests(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*/tuzhan-cdc.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		cfg, err := LoadMappings(file, func(string) (string, bool) { return "", false })
		if err != nil {
			t.Error(err)
			continue
		}
		tested := map[string]bool{}
		for _, x := range cfg.Tests.List() {
			tested[x.Mapping] = true
			if r := cfg.Tests.Run(x, mapping.Options{TimeZone: cfg.Source.TimeZone, PointDecrease: cfg.Platform.Paths.PointDecrease != ""}); !r.Passed {
				t.Errorf("%s:%d: %s: got %v, problems %v", x.File, x.Line, x.Title(), r.Got.Lines(), r.Problems)
			}
		}
		for _, name := range cfg.Mappings.Names() {
			if !tested[name] {
				t.Errorf("%s: mapping %s has no test", file, name)
			}
		}
	}
}
