package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

// readmeYAML gives every YAML block of the README as a file: whole files as they are, other blocks with the least that a file needs beside them.
func readmeYAML(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d YAML blocks", len(blocks))
	}
	var files []string
	for _, b := range blocks {
		whole := b[1]
		if !strings.Contains(whole, "source:") {
			whole = "source: {dsn: postgres://cdc@127.0.0.1/crm}\nplatform: {baseURL: https://example.com, token: t, paths: {point: /p}}\n" + whole
		}
		if !strings.Contains(whole, "mappings:") { // some other block
			whole += "\nmappings: [{name: m, table: crm.t, on: [insert], event: {eventKey: k, identities: [{identityType: id, identityValue: \"${{ id }}\"}]}}]\n"
		}
		files = append(files, whole)
	}
	return files
}

// TestReadmeYAML loads every YAML block of the README, and runs the tests that it has.
func TestReadmeYAML(t *testing.T) {
	env := func(string) (string, bool) { return "a-value", true }
	for _, text := range readmeYAML(t) {
		file := filepath.Join(t.TempDir(), "readme.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(file, env)
		if err != nil {
			t.Errorf("%v\nin\n%s", err, text)
			continue
		}
		for _, x := range cfg.Tests.List() {
			if r := cfg.Tests.Run(x, mapping.Options{TimeZone: cfg.Source.TimeZone}); !r.Passed {
				t.Errorf("%s: got %v, problems %v", x.Title(), r.Got.Lines(), r.Problems)
			}
		}
	}
}
