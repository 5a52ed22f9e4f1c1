package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemo runs the demo as a user does: it ends well, its last line is the promised object, and nothing is left behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	// Not t.TempDir: the server runs as another user, who must get through.
	temp, err := os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "demo", "--seconds", "8", "--rate", "600")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var sum map[string]float64
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, key := range []string{"changes", "expected", "applied", "duplicates", "deadLetters", "uncertain", "lost", "seconds"} {
		if _, ok := sum[key]; !ok {
			t.Errorf("no %s in %s", key, lines[len(lines)-1])
		}
	}
	if sum["lost"] != 0 || sum["expected"] < 1000 || sum["applied"] < sum["expected"]-sum["deadLetters"] {
		t.Errorf("%s", out)
	}
	if left, err := filepath.Glob(filepath.Join(temp, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
