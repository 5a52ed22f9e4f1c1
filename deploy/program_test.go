package deploy_test

import (
	"debug/elf"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// program checks that a binary for Linux is static, holds no symbols and no path of the machine that built it, and, where it runs here, tells its version.
func program(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("it needs %q, %v", libraries, err)
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
		t.Error("it is not stripped")
	}
	if runtime.GOOS+"/"+runtime.GOARCH != "linux/amd64" {
		return
	}
	if out, err := exec.CommandContext(t.Context(), path, "version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "tuzhan-cdc v0.0.1-test (") {
		t.Errorf("%v\n%s", err, out)
	}
}
