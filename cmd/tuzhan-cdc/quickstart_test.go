package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// TestQuickstart follows the README's walk with the simulator: its very flags and variables, the example's schema, file and sample data.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	find := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(string(readme))
		if m == nil {
			t.Fatalf("the README has no line %s", pattern)
		}
		return m[1]
	}
	flags := strings.Fields(find(`(?m)^bin/platformsim (.*) &$`))
	variables := strings.Fields(find(`(?m)^export (TUZHAN_URL=.*)$`))
	example := find(`(?m)^bin/tuzhan-cdc run -c (\S+) &$`)

	db := pgtest.Server(t).Database(t)
	file := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("../..", filepath.Dir(example), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	db.Exec(t, file("schema.sql"))

	dir := t.TempDir()
	sim := filepath.Join(dir, "platformsim")
	if out, err := exec.Command("go", "build", "-o", sim, "../platformsim").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	listen := ""
	for i, f := range flags {
		if f == "--listen" {
			listen, flags[i+1] = flags[i+1], "127.0.0.1:0"
		}
	}
	platform := exec.Command(sim, flags...)
	out, err := platform.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := platform.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = platform.Process.Kill()
		_ = platform.Wait() // it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(line[strings.Index(line, "http://")+len("http://"):])

	r := &rig{t: t, db: db, slot: "tuzhan_cdc", file: filepath.Join(dir, "tuzhan-cdc.yaml")}
	text := strings.NewReplacer("slot: tuzhan_cdc", "slot: "+db.SlotName()).Replace(file("tuzhan-cdc.yaml")) // slots belong to the whole server
	if err := os.WriteFile(r.file, []byte(text+"\nserver: {listen: \"127.0.0.1:0\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.env = append(strings.Split(strings.ReplaceAll(strings.Join(variables, "\n"), listen, address), "\n"), "CRM_DSN="+db.DSN(), "TUZHAN_STATE="+filepath.Join(dir, "state.db"))
	r.start()
	db.Exec(t, strings.SplitAfter(file("sample.sql"), ";\n")...)       // one by one, as psql does
	want := map[string]int{"event": 4, "point": 4, "groupRelation": 9} // as the sample says
	r.until(func() bool { return maps.Equal(applied(t, address), want) })
	if letters := r.letters(); len(letters) > 0 {
		t.Errorf("dead letters %+v", letters)
	}
}

// applied counts by endpoint what a simulator has applied.
func applied(t *testing.T, address string) map[string]int {
	t.Helper()
	resp, err := http.Get("http://" + address + "/_sim/ledger")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	counts := map[string]int{}
	for d := json.NewDecoder(resp.Body); ; {
		var a struct{ Endpoint string }
		if err := d.Decode(&a); errors.Is(err, io.EOF) {
			return counts
		} else if err != nil {
			t.Fatal(err)
		}
		counts[a.Endpoint]++
	}
}
