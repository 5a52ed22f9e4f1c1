package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
)

// TestHealth: health asks the running connector, whatever else the file has wrong by now. While the platform is away it lives and is not ready, and says
// why; when nobody answers it fails.
func TestHealth(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	_, rest, _ := strings.Cut(r.proc.log.String(), "address=")
	addr, _, _ := strings.Cut(rest, "\n")
	asks := filepath.Join(t.TempDir(), "asks.yaml")
	if err := os.WriteFile(asks, []byte("server: {listen: "+addr+"}\nsource: {dsn: \"${UNSET}\", nonsense: true}\nmappings: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	health := func(args ...string) (string, int) {
		t.Helper()
		file := r.file
		r.file = asks
		defer func() { r.file = file }()
		out, errs, code := r.run(append([]string{"health"}, args...)...)
		return out + errs, code
	}
	for _, args := range [][]string{nil, {"--ready"}} {
		if text, code := health(args...); code != 0 || text != "ok\n" {
			t.Errorf("%q: exit %d, %s", args, code, text)
		}
	}
	r.sim.Down(platformsim.DownUnavailable)
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('13800000001', '新客')`)
	r.proc.until("about=delivery/groupRelation")
	if text, code := health(); code != 0 {
		t.Errorf("the platform is away, the connector lives: exit %d, %s", code, text)
	}
	if text, code := health("--ready"); code != 1 || !strings.Contains(text, "groupRelation") || !strings.Contains(text, "cure:") || strings.Contains(text, "138") {
		t.Errorf("the platform is away: exit %d, %s", code, text)
	}
	r.sim.Up()
	r.applied(platformsim.GroupRelation, 1)
	r.proc.until("msg=recovered about=delivery/groupRelation")
	if text, code := health("--ready"); code != 0 {
		t.Errorf("the platform is back: exit %d, %s", code, text)
	}
	r.proc.terminate()
	if text, code := health(); code != 1 || !strings.Contains(text, "nobody answers at server.listen, "+addr) {
		t.Errorf("nobody is there: exit %d, %s", code, text)
	}
	if err := os.WriteFile(asks, []byte(`server: {listen: ""}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, code := health(); code != 1 || !strings.Contains(text, "127.0.0.1:9642") {
		t.Errorf("no server: exit %d, %s", code, text)
	}
	if err := os.WriteFile(asks, []byte(`server: {listen: nowhere}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, code := health(); code != 2 || !strings.Contains(text, "asks.yaml:1:") {
		t.Errorf("a wrong file: exit %d, %s", code, text)
	}
}

// TestStuck: a loop that streams and stays away is stuck; one that waits for the server, or as a standby, is not.
func TestStuck(t *testing.T) {
	for _, c := range []struct {
		state string
		ago   time.Duration
		stuck bool
	}{{"streaming", time.Second, false}, {"streaming", stuckAfter + time.Second, true}, {"connecting", time.Hour, false}, {"waiting", time.Hour, false}, {"stopped", time.Hour, false}} {
		if err := stuck(postgres.Status{State: c.state, Reported: c.ago}); (err != nil) != c.stuck {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
