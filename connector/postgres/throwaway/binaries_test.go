package throwaway

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNewestFirst(t *testing.T) {
	dirs := []string{"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/17/bin"}
	newestFirst(dirs)
	want := []string{"/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/9.6/bin"}
	if !slices.Equal(dirs, want) {
		t.Errorf("got %v", dirs)
	}
}

func TestSearch(t *testing.T) {
	base := t.TempDir()
	put := func(dir, program string, mode os.FileMode) string {
		dir = filepath.Join(base, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, program), nil, mode); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	client := put("client-only", "initdb", 0o755)
	unfit := put("not-executable", "initdb", 0o755)
	put("not-executable", "postgres", 0o644)
	whole := put("whole", "initdb", 0o755)
	put("whole", "postgres", 0o755)

	if got, err := search([]string{client, unfit, whole}); err != nil || got != whole {
		t.Errorf("got %q, %v", got, err)
	}
	_, err := search([]string{client, unfit})
	var missing *MissingError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), client) || !strings.Contains(err.Error(), InstallCommand()) {
		t.Errorf("got %v", err)
	}
}

func TestQuoteSetting(t *testing.T) {
	if got := quoteSetting(`a'b\c`); got != `'a''b\\c'` {
		t.Errorf("got %s", got)
	}
}

func TestFreePort(t *testing.T) {
	for range 20 {
		port, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if port >= 32768 {
			t.Fatalf("port %d is one that the system gives to outgoing connections", port)
		}
	}
}
