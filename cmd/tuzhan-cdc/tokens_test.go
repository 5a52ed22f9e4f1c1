package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// TestTokenExpiresUnderLoad: the token ends while sixteen points are in flight: all are refused, one token call is made, and every point is applied once.
func TestTokenExpiresUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t, balanceSchema, balanceMappings, platformsim.Options{Stale401: true})
	gate := make(chan struct{})
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Point, Gate: gate, Count: 16}); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p SELECT i, '138' || i, i FROM generate_series(1, 100) i`)
	r.platform(func(s *platformsim.Sim) bool { return s.InFlight(platformsim.Point) == 16 })
	r.sim.ExpireTokens()
	close(gate)
	r.settled()
	if st := r.sim.Stats(); st.TokensIssued != 2 || st.Endpoints[platformsim.Point].Applied != 100 || st.Endpoints[platformsim.Point].Refused != 16 {
		t.Errorf("%d token calls, %+v", st.TokensIssued, st.Endpoints[platformsim.Point])
	}
	if letters := r.letters(); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}
	r.noViolations()
}

// TestTokenFile: a token that the platform refuses again after the file was read again pauses delivery with an alarm, turns no record into a dead
// letter, and delivery goes on by itself once the file holds a good one.
func TestTokenFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, balanceSchema, balanceMappings, platformsim.Options{Token: "good-token-value"})
	file := filepath.Join(filepath.Dir(r.file), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("stale-token-value")
	r.edit("  appID: app-1\n  appSecret: ${TUZHAN_APP_SECRET}\n", "  tokenFile: token\n")
	r.edit("state: {", "delivery: {backoff: {initial: 20ms, max: 100ms}}\nstate: {")
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p SELECT i, '138' || i, i FROM generate_series(1, 20) i`)
	r.until(func() bool { return len(r.status().Alarms) > 0 })
	if a := r.status().Alarms[0]; a.Key != "delivery/point" || !strings.Contains(a.Text, "refuses the token, a fresh one too") || strings.Contains(a.Text, "token-value") {
		t.Errorf("alarm %+v", a)
	}
	if n := r.sim.Count(platformsim.Point); n != 0 {
		t.Errorf("%d points applied", n)
	}
	write("good-token-value")
	r.settled()
	if n := r.sim.Count(platformsim.Point); n != 20 {
		t.Errorf("%d points applied, want 20", n)
	}
	if letters := r.letters(); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}
	r.until(func() bool { return len(r.status().Alarms) == 0 })
	if strings.Contains(r.proc.log.String(), "token-value") {
		t.Error("the log shows the token")
	}
}
