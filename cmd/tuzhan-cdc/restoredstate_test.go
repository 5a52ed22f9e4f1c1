package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// TestRestoredState: a state that was put back from a backup is behind the slot, and is refused as deploy/README.md says; with the gap accepted it goes on from
// where the slot stands, and sends nothing again.
func TestRestoredState(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	file := filepath.Join(filepath.Dir(r.file), "state.db")
	order := func(no string) {
		r.db.Exec(t, `INSERT INTO crm.orders (order_no, phone, amount, status) VALUES ('`+no+`', '13800000001', 9, 'paid')`)
	}
	run := func(no string, n int) {
		t.Helper()
		r.start()
		order(no)
		r.applied(platformsim.Event, n)
		r.applied(platformsim.Point, n)
		r.settled()
		if code := r.proc.terminate(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
	}
	run("DD1", 1)
	backup, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	run("DD2", 2)
	if err := os.WriteFile(file, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	text, id := r.refused()
	if id == "" || !strings.Contains(text, "--accept-gap") {
		t.Fatalf("not refused: %s", text)
	}
	r.accepted("--accept-gap", id)
	order("DD3")
	r.applied(platformsim.Event, 3)
	r.applied(platformsim.Point, 3)
	r.settled()
	if e, p := r.sim.Count(platformsim.Event), r.sim.Count(platformsim.Point); e != 3 || p != 3 {
		t.Errorf("%d events, %d points", e, p)
	}
	if out, _, _ := r.run("status"); !strings.Contains(out, "GAP") {
		t.Error(out)
	}
}
