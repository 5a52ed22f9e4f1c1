package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTroubleshooting holds the README's tables by symptom against the program: each text that a row quotes is one that the program can write, and each alarm that
// it can raise has its key in a row.
func TestTroubleshooting(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## When something is wrong\n")
	section, _, found := strings.Cut(section, "\n## ")
	if !found {
		t.Fatal("the README has no section When something is wrong")
	}
	sources := programText(t)

	// What others write: Go's TLS and net, PostgreSQL; and what is put together at run time.
	elsewhere := []string{"certificate is valid for", ", not", "certificate signed by unknown authority", "address already in use", "no pg_hba.conf entry", "rejects connection", "UPDATE", "DELETE", "DROP DATABASE", "platform.encryption.key:"}
	span := regexp.MustCompile("`([^`]*)`")
	rows := 0
	for _, line := range strings.Split(section, "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| you see ") {
			continue
		}
		rows++
		cells := strings.Split(strings.ReplaceAll(line, `\|`, "\x00"), "|")
		if len(cells) != 5 {
			t.Errorf("a row has %d columns: %s", len(cells)-2, line)
			continue
		}
		for _, m := range span.FindAllStringSubmatch(cells[1], -1) {
			for _, piece := range strings.Split(m[1], "…") {
				if piece = strings.TrimSpace(piece); !strings.Contains(sources, piece) && !slices.Contains(elsewhere, piece) {
					t.Errorf("no message of the program has %q, which a row quotes: %s", piece, line)
				}
			}
		}
	}
	if rows < 60 {
		t.Errorf("%d rows were found", rows)
	}
	keys := alarmKeys(t, sources)
	if len(keys) < 15 {
		t.Errorf("only these alarms were found: %q", keys)
	}
	for _, key := range keys {
		if name, prefix := strings.CutSuffix(key, "/"); prefix && strings.Contains(section, "`"+name+"/…`") || !prefix && strings.Contains(section, "`"+key+"`") {
			continue
		}
		t.Errorf("no row has alarm %q", key)
	}
}

// alarmKeys gives the keys of all alarms that are raised; one that is completed at run time ends with /.
func alarmKeys(t *testing.T, sources string) []string {
	t.Helper()
	var keys []string
	for _, m := range regexp.MustCompile(`\.Raise\((?:"([^"]*)"|(\w+))`).FindAllStringSubmatch(sources, -1) {
		key := m[1]
		if name := m[2]; name != "" {
			value := regexp.MustCompile(`(?m)\b` + name + `\s+= "([^"]*)"`).FindStringSubmatch(sources)
			if value == nil {
				t.Fatalf("what is the alarm %s?", name)
			}
			key = value[1]
		}
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// programText is the source of the program, without tests and the simulator.
func programText(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range []string{"../../connector", "../../mapping", "."} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "platformsim" {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			b.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return strings.ReplaceAll(b.String(), `\"`, `"`)
}
