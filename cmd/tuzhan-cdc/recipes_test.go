package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const recipes = "../../examples/recipes/"

// recipeBlock is a recipe's mapping in the README: the file that is named last, and the block after it.
var recipeBlock = regexp.MustCompile("(?s)(\\[([\\w-]+\\.yaml)\\]\\([\\w-]+\\.yaml\\)\\n\\n```yaml\\n)(.*?)```\n")

// TestRecipesInTheReadme: the README of the recipes shows each file's mappings as they are, and SQL that is run in TestExamples. -update writes the mappings anew.
func TestRecipesInTheReadme(t *testing.T) {
	readme, err := os.ReadFile(recipes + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := []string{"tuzhan-cdc.yaml"}
	text := recipeBlock.ReplaceAllStringFunc(string(readme), func(block string) string {
		m := recipeBlock.FindStringSubmatch(block)
		shown = append(shown, m[2])
		mappings, _, found := strings.Cut(recipeFile(t, m[2]), "\ntables:\n")
		if !found || !strings.HasPrefix(mappings, "mappings:\n") {
			t.Fatalf("%s: want mappings:, tables: and tests:, in this order", m[2])
		}
		if !*update && m[3] != mappings {
			t.Errorf("README.md shows of %s\n%s\nnot\n%s", m[2], m[3], mappings)
		}
		return m[1] + mappings + "```\n"
	})
	if *update {
		if err := os.WriteFile(recipes+"README.md", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(recipes + "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if !slices.Contains(shown, filepath.Base(f)) {
			t.Errorf("README.md does not show %s", filepath.Base(f))
		}
	}
	if n := strings.Count(text, "```yaml"); n != len(shown)-1 {
		t.Errorf("%d blocks of YAML, %d files named before one", n, len(shown)-1)
	}
	run := recipeFile(t, "schema.sql") + recipeFile(t, "sample.sql")
	for _, m := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(text, -1) {
		if !strings.Contains(run, m[1]) {
			t.Errorf("README.md shows SQL that neither schema.sql nor sample.sql has:\n%s", m[1])
		}
	}
	anchors := regexp.MustCompile(`[^a-z0-9 -]`)
	var headings []string
	for _, m := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(text, -1) {
		headings = append(headings, strings.ReplaceAll(anchors.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	for _, m := range regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(headings, m[1]) {
			t.Errorf("README.md links to #%s, and has %q", m[1], headings)
		}
	}
}

func recipeFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(recipes + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
