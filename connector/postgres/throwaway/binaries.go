package throwaway

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MissingError says that this machine has no PostgreSQL server binaries, where they were looked for, and how they are installed.
type MissingError struct {
	// Searched are the directories, in the order of the search.
	Searched []string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("no PostgreSQL server binaries (initdb and postgres) in %s; install them: %s",
		strings.Join(e.Searched, ", "), InstallCommand())
}

// InstallCommand is the command that installs PostgreSQL's server binaries on this kind of machine.
func InstallCommand() string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql@17"
	}
	return "apt-get install postgresql"
}

// FindBinaries gives the directory of the machine's own initdb and postgres: from PATH, from pg_config, or from where Debian, Red Hat
// and Homebrew keep them, the newest version first. A *[MissingError] says that there are none.
func FindBinaries(ctx context.Context) (string, error) {
	return search(candidates(ctx))
}

// search gives the first of dirs that holds the binaries.
func search(dirs []string) (string, error) {
	for _, dir := range dirs {
		if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", &MissingError{Searched: dirs}
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

// candidates lists where the binaries may be, each directory once.
func candidates(ctx context.Context) []string {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			found = []string{pattern} // for the error's list
		}
		newestFirst(found)
		dirs = append(dirs, found...)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		again := seen[dir]
		seen[dir] = true
		return again
	})
}

var versionInPath = regexp.MustCompile(`\d+`)

// newestFirst orders directories by the number in their names: 17 comes before 9.
func newestFirst(dirs []string) {
	version := func(dir string) int {
		n, err := strconv.Atoi(versionInPath.FindString(dir))
		if err != nil {
			return 0
		}
		return n
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return cmp.Compare(version(b), version(a)) })
}
