package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeYAML loads every YAML block of the README: whole files as they are, lists of mappings behind the least that a file needs.
func TestReadmeYAML(t *testing.T) {
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d YAML blocks", len(blocks))
	}
	env := func(string) (string, bool) { return "a-value", true }
	for _, b := range blocks {
		whole := b[1]
		if !strings.Contains(whole, "source:") {
			whole = "source: {dsn: postgres://cdc@127.0.0.1/crm}\nplatform: {baseURL: https://example.com, token: t, paths: {point: /p}}\n" + whole
		}
		if !strings.Contains(whole, "mappings:") { // some other block
			whole += "\nmappings: [{name: m, table: crm.t, on: [insert], event: {eventKey: k, identities: [{identityType: id, identityValue: \"${{ id }}\"}]}}]\n"
		}
		file := filepath.Join(t.TempDir(), "readme.yaml")
		if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file, env); err != nil {
			t.Errorf("%v\nin\n%s", err, whole)
		}
	}
}
