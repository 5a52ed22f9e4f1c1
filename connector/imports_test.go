package connector_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// module is the path of this module.
const module = "github.com/tuzhan-cdc/tuzhan-cdc"

// rooms are the packages that implement connector's interfaces. They know connector and nothing else of ours.
var rooms = []string{"mapping", "connector/postgres", "connector/delivery", "connector/platform", "connector/state", "connector/status"}

// furnishings are what any test may use beside its own package.
var furnishings = []string{"connector/postgres/pgtest", "connector/postgres/throwaway", "connector/platformsim"}

// mayImport says why package from (a path below the module, as all in these rules) may not import imported (a whole import path), or ""
// where it may. inTest: in a _test.go file.
func mayImport(from, imported string, inTest bool) string {
	ours, isOurs := strings.CutPrefix(imported, module+"/")
	if !isOurs {
		return mayImportOthers(from, imported, inTest)
	}
	switch {
	case ours == from && inTest:
		return "" // an external test of the package itself
	case ours == "connector/postgres/pgtest" && !inTest:
		return "pgtest is for tests only"
	case within(ours, "cmd"):
		// A command's own packages are its own business.
		if command := head(ours, 2); within(from, command) && ours != command {
			return ""
		}
		return "nobody imports cmd"
	case within(from, "cmd"), within(from, "examples") && inTest:
		return ""
	case within(from, "connector/platformsim"):
		return "platformsim must not share our reading of the API: one mistake would pass its own test"
	case from == "connector":
		if inTest {
			return ""
		}
		return "connector holds the words that the others import"
	}
	for _, room := range rooms {
		if !within(from, room) {
			continue
		}
		if ours == "connector" || within(ours, room) {
			return ""
		}
		for _, f := range furnishings {
			if inTest && ours == f {
				return ""
			}
		}
		return room + " imports connector and its own packages only"
	}
	return "no rule for this package: say in imports_test.go what it may import"
}

// mayImportOthers is mayImport for the standard library and libraries.
func mayImportOthers(from, imported string, inTest bool) string {
	if first := head(imported, 1); !strings.Contains(first, ".") || inTest {
		if imported == "testing" && !inTest && !within(from, "connector/postgres/pgtest") {
			return "testing is for tests only"
		}
		return ""
	}
	switch {
	case from == "connector" && !within(imported, "golang.org/x/sync"):
		return "connector imports the standard library and golang.org/x/sync only"
	case within(from, "connector/platformsim"):
		return "platformsim imports the standard library only"
	}
	return ""
}

// within reports whether p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// head gives the first n elements of a path.
func head(p string, n int) string {
	parts := strings.Split(p, "/")
	return path.Join(parts[:min(n, len(parts))]...)
}

// TestImportDirections reads every Go file of the module, whatever its build tags.
func TestImportDirections(t *testing.T) {
	root := ".." // tests run in their package's directory
	files := 0
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if name == "testdata" || name == "bin" || name == "dist" || file != root && strings.HasPrefix(name, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		files++
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return fmt.Errorf("%s: %w", rel, err)
			}
			if why := mayImport(path.Dir(rel), imported, strings.HasSuffix(name, "_test.go")); why != "" {
				t.Errorf("%s imports %s: %s", rel, imported, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Errorf("only %d Go files were found: is the module somewhere else?", files)
	}
}

func TestMayImport(t *testing.T) {
	for _, test := range []struct {
		from, imported string
		inTest, may    bool
	}{
		{"connector", "fmt", false, true},
		{"connector", "golang.org/x/sync/errgroup", false, true},
		{"connector", "golang.org/x/synchrotron", false, false},
		{"connector", "github.com/jackc/pgx/v5", false, false},
		{"connector", "go.uber.org/goleak", true, true},
		{"connector", module + "/connector/state", false, false},
		{"connector", module + "/connector/state", true, true},
		{"connector", module + "/connector", true, true},
		{"connector", "testing", false, false},
		{"connector/platformsim", "net/http", false, true},
		{"connector/platformsim", "gopkg.in/yaml.v3", false, false},
		{"connector/platformsim", module + "/connector", false, false},
		{"connector/platformsim", module + "/connector/platform", true, false},
		{"connector/platformsim", module + "/connector/platformsim", true, true},
		{"connector/delivery", module + "/connector", false, true},
		{"connector/delivery", module + "/connector/state", false, false},
		{"connector/delivery", module + "/connector/state", true, false},
		{"connector/delivery", module + "/connector/platformsim", false, false},
		{"connector/delivery", module + "/connector/platformsim", true, true},
		{"connector/delivery", "github.com/cenkalti/backoff/v4", false, true},
		{"connector/postgres", module + "/connector/postgres/throwaway", false, true},
		{"connector/postgres", module + "/connector/postgres/pgtest", false, false},
		{"connector/postgres", module + "/connector/postgres/pgtest", true, true},
		{"connector/postgres/pgtest", module + "/connector/postgres/throwaway", false, true},
		{"connector/postgres/pgtest", "testing", false, true},
		{"connector/postgres/throwaway", module + "/connector/state", false, false},
		{"connector/state", module + "/connector/postgres/pgtest", true, true},
		{"mapping", module + "/mapping/strict", false, true},
		{"mapping", module + "/connector/postgres", false, false},
		{"mapping/strict", module + "/mapping", false, true},
		{"cmd/tuzhan-cdc", module + "/connector/postgres/throwaway", false, true},
		{"cmd/tuzhan-cdc", module + "/connector/postgres/pgtest", false, false},
		{"cmd/tuzhan-cdc", module + "/connector/postgres/pgtest", true, true},
		{"cmd/tuzhan-cdc", module + "/cmd/tuzhan-cdc/config", false, true},
		{"cmd/platformsim", module + "/cmd/tuzhan-cdc/config", false, false},
		{"connector/status", module + "/cmd/tuzhan-cdc", true, false},
		{"examples", module + "/mapping", true, true},
		{"somewhere", module + "/mapping", false, false},
	} {
		why := mayImport(test.from, test.imported, test.inTest)
		if (why == "") != test.may {
			t.Errorf("%s imports %s (test: %v): %q, want allowed: %v", test.from, test.imported, test.inTest, why, test.may)
		}
	}
}
