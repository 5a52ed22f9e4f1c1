package main

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

func (r *rig) inject(f platformsim.Fault) (id int) {
	r.t.Helper()
	id, err := r.sim.Inject(f)
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

// saved reads what the state tells a program that would start now.
func (r *rig) saved() *connector.Saved {
	r.t.Helper()
	reader := r.openState()
	defer reader.Close()
	saved, err := reader.Load(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return saved
}

// uuids counts how often each event was applied.
func (r *rig) uuids() map[string]int {
	counts := map[string]int{}
	for _, a := range r.sim.LedgerSince(0, platformsim.Event) {
		counts[a.UUID]++
	}
	return counts
}

// TestFailingRecordHoldsTheCheckpoint: a point and an event that alone are answered as by a web firewall or in an outage hold the checkpoint, and all
// others flow past them. kill -9 repeats nothing of what the checkpoint on disk tells of beyond them. In the end they are dead letters.
func TestFailingRecordHoldsTheCheckpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	settings := func(giveUpAfter string) string {
		return "delivery: {backoff: {initial: 20ms, max: 200ms}, giveUpAfter: " + giveUpAfter + "}"
	}
	r.write(crmMappings, settings("1h"))
	r.inject(platformsim.Fault{Endpoint: platformsim.Point, Match: "X0", Count: -1, Action: platformsim.AnswerStatus, Status: 403})
	r.inject(platformsim.Fault{Endpoint: platformsim.Event, Match: "X0", Count: -1, Action: platformsim.AnswerStatus, Status: 503})
	r.start()
	order := func(from, to int) string {
		return fmt.Sprintf(`INSERT INTO crm.orders(order_no, phone, amount, status) SELECT 'X' || i, '13' || i, 5, 'paid' FROM generate_series(%d, %d) i`, from, to)
	}
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('X0', '130', 7, 'paid'), ('Y1', '130', 8, 'paid')`) // the second one waits
	r.db.Exec(t, order(100, 399))
	r.applied(platformsim.Event, 300)
	r.applied(platformsim.Point, 300)
	r.until(func() bool {
		s := r.status()
		return s.Pending.Records == 4 && s.Checkpoint.Ranges >= 1 && s.Holdup != nil
	})
	h := r.status().Holdup
	if !slices.Contains([]string{"order-points", "order-paid"}, h.Mapping) || h.HTTPStatus != 403 && h.HTTPStatus != 503 || h.Since.IsZero() || h.Attempts < 1 {
		t.Errorf("what holds the checkpoint: %+v", h)
	}
	for _, a := range r.status().Alarms {
		if strings.Contains(a.Text, "13100") || strings.Contains(a.Text, "X0") {
			t.Errorf("an alarm with row data: %s", a.Text)
		}
	}
	// Of a change that the checkpoint on disk does not cover, the point that was given is known, and what became of it comes to the disk a little later. X0 has no point yet: the event
	// comes first.
	r.until(func() bool { return len(r.saved().Known) == 0 })
	r.proc.kill()
	r.start()
	r.db.Exec(t, order(400, 449))
	r.applied(platformsim.Event, 350)
	r.applied(platformsim.Point, 350)
	r.until(func() bool { return r.status().Pending.Records == 4 })
	for uuid, n := range r.uuids() {
		if n > 1 {
			t.Errorf("event %s came %d times", uuid, n)
		}
	}
	if n := r.sim.Count(platformsim.Point); n != 350 {
		t.Errorf("%d points, want 350", n)
	}
	if letters := r.letters(); len(letters) > 0 {
		t.Errorf("dead letters before giveUpAfter: %+v", letters)
	}

	r.write(crmMappings, settings("1s"))
	r.reload()
	r.proc.until("configuration read again")
	r.db.Exec(t, order(450, 460))
	r.settled()
	classes := map[string]connector.Class{}
	for _, l := range r.letters() {
		if !strings.Contains(string(l.Payload), "X0") || l.Attempts < 2 {
			t.Errorf("dead letter %+v", l)
		}
		classes[l.Mapping] = l.Class
	}
	if len(classes) != 2 || classes["order-points"] != connector.ClassRejected || classes["order-paid"] != connector.ClassFailing {
		t.Errorf("dead letters %v", classes)
	}
	if e, p := r.sim.Count(platformsim.Event), r.sim.Count(platformsim.Point); e != 362 || p != 362 {
		t.Errorf("%d events and %d points, want 362", e, p)
	}
	if s := r.status(); s.Holdup != nil || s.Pending.Failing != 0 {
		t.Errorf("after all is settled: %+v, %+v", s.Holdup, s.Pending)
	}
	r.noViolations()
}

// TestStatusTellsOfHoldup: the status names the record that holds the checkpoint, and says that delivery is paused.
func TestStatusTellsOfHoldup(t *testing.T) {
	var out strings.Builder
	s := &status.Snapshot{Paused: true, Holdup: &status.Holdup{Mapping: "order-paid", Attempts: 41, HTTPStatus: 503,
		Position: connector.Position{Commit: 0x16B374D848, Index: 3}}}
	if err := printStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a record of mapping order-paid, position 16/B374D848:3: fails since", "41 requests, the last one: HTTP 503\n", "delivery is paused"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// TestStatusSaysAnAlarmOnce: the last error is not told at length where it stands as an alarm below.
func TestStatusSaysAnAlarmOnce(t *testing.T) {
	var out strings.Builder
	s := &status.Snapshot{LastErr: &connector.LastError{Text: "the endpoint fails"}, Alarms: []connector.Alarm{{Text: "the endpoint fails", Cure: "wait"}}}
	if err := printStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	if strings.Count(out.String(), "the endpoint fails") != 1 || !strings.Contains(out.String(), "see the alarm below\n") {
		t.Error(out.String())
	}
}

// TestLetterAnswer: what the platform left out leaves no gap.
func TestLetterAnswer(t *testing.T) {
	for _, c := range []struct {
		answer connector.LetterAnswer
		want   string
	}{
		{connector.LetterAnswer{HTTPStatus: 400}, "HTTP 400"},
		{connector.LetterAnswer{HTTPStatus: 200, Code: "500100", Msg: "no"}, "HTTP 200, code 500100, no"},
		{connector.LetterAnswer{Error: "cut"}, "cut"},
	} {
		if got := letterAnswer(&c.answer); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestUncertainPoints: a point that was cut after it left, or was in flight at a kill -9, is set aside as uncertain and not sent again; with
// `uncertain: resend` it is sent again.
func TestUncertainPoints(t *testing.T) {
	t.Parallel()
	for _, resend := range []bool{false, true} {
		t.Run(fmt.Sprintf("resend %v", resend), func(t *testing.T) {
			t.Parallel()
			mapping := `
mappings:
  - name: p
    table: crm.p
    on: [insert]
    point: {point: "${{ n }}", remark: r, phoneList: [{phone: "${{ phone }}", isVerify: "1"}]}
`
			if resend {
				mapping += "    uncertain: resend\n"
			}
			r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.p(id int PRIMARY KEY, phone text, n int)`, mapping, platformsim.Options{})
			r.write(mapping, "delivery: {backoff: {initial: 20ms, max: 200ms}}")
			r.inject(platformsim.Fault{Endpoint: platformsim.Point, Match: `"point":71`, Action: platformsim.ApplyThenCut})
			gate := make(chan struct{})
			gated := r.inject(platformsim.Fault{Endpoint: platformsim.Point, Match: `"point":72`, Gate: gate, WaitAfter: true})
			r.start()
			r.db.Exec(t, `INSERT INTO crm.p VALUES (1, '131', 71), (2, '132', 5)`)
			want := 2 // 71 was applied before the cut
			if resend {
				want++
			}
			r.applied(platformsim.Point, want)
			r.settled()
			r.db.Exec(t, `INSERT INTO crm.p VALUES (3, '133', 72)`)
			r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.Point) == want+1 && hits(s, gated) == 1 })
			r.proc.kill()
			close(gate)
			r.start()
			r.db.Exec(t, `INSERT INTO crm.p VALUES (4, '133', 6)`)
			r.settled()
			if want += 2; resend {
				want++
			}
			if got := r.sim.Count(platformsim.Point); got != want {
				t.Errorf("%d points were applied, want %d", got, want)
			}
			letters := r.letters()
			if resend && len(letters) > 0 || !resend && len(letters) != 2 {
				t.Errorf("%d dead letters", len(letters))
			}
			for _, l := range letters {
				if l.Class != connector.ClassUncertain || !strings.Contains(string(l.Payload), `"point": 7`) {
					t.Errorf("dead letter %+v", l)
				}
			}
			r.noViolations()
		})
	}
}

// hits is Sim.Hits for a function that Wait calls.
func hits(s *platformsim.Sim, id int) int {
	for _, f := range s.Faults() {
		if f.ID == id {
			return f.Hits
		}
	}
	return 0
}

// TestPauseAndResume: a platform that rejects everything pauses delivery before the store is full of dead letters; `resume` ends it.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.write(crmMappings, "delivery: {maxBatch: 50}")
	r.inject(platformsim.Fault{Endpoint: platformsim.GroupRelation, Count: -1, Action: platformsim.AnswerCode, Code: "400"})
	r.start()
	if _, errs, code := r.run("resume", "--mapping", "member-groups"); code != 1 || !strings.Contains(errs, "not held") {
		t.Errorf("resume of what is not held: exit %d, %s", code, errs)
	}
	r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '13' || i, 'a' FROM generate_series(1, 2000) i`)
	r.proc.until("delivery is paused")
	s := r.status()
	if !s.Paused {
		t.Error("the status does not say that delivery is paused")
	}
	if code, why := r.get("/readyz"); code != 503 || !strings.Contains(why, "rejected") {
		t.Errorf("readyz: %d %s", code, why)
	}
	r.until(func() bool { return r.status().Pending.Records < 1500 })
	letters := len(r.letters())
	if letters < 501 || letters > 505 {
		t.Errorf("%d dead letters at the pause", letters)
	}
	r.sim.ClearFaults()
	if out, errs, code := r.run("resume"); code != 0 {
		t.Errorf("resume: exit %d, %s%s", code, out, errs)
	}
	r.settled()
	if got, now := r.sim.Count(platformsim.GroupRelation), len(r.letters()); got+now != 2000 || now > 505 {
		t.Errorf("%d applied, %d dead letters", got, now)
	}
	if s := r.status(); s.Paused || len(s.Alarms) > 0 {
		t.Errorf("after resume: paused %v, alarms %v", s.Paused, s.Alarms)
	}
}

// TestFailingMappingIsHeld: a mapping all of whose records keep failing is held after 100 of them, and the other one flows; `resume --mapping` brings
// the rest, or set-aside makes dead letters of it.
func TestFailingMappingIsHeld(t *testing.T) {
	t.Parallel()
	for _, ended := range []string{"resume", "set-aside"} {
		t.Run(ended, func(t *testing.T) { t.Parallel(); failingMapping(t, ended == "resume") })
	}
}

func failingMapping(t *testing.T, resume bool) {
	schema := `CREATE SCHEMA crm; CREATE TABLE crm.e(id int PRIMARY KEY, kind text)`
	mappings := ""
	for _, name := range []string{"bad", "good"} {
		mappings += fmt.Sprintf(`
  - name: %[1]s
    table: crm.e
    on: [insert]
    when: kind == "%[1]s"
    event: {publicParams: {}, eventKey: c_%[1]s, identities: [{identityType: id, identityValue: "${{ id }}"}]}
`, name)
	}
	mappings = "mappings:" + mappings
	r := newRig(t, schema, mappings, platformsim.Options{})
	r.write(mappings, "delivery: {backoff: {initial: 5ms, max: 20ms}, giveUpAfter: 50ms}")
	fault := r.inject(platformsim.Fault{Endpoint: platformsim.Event, Match: "c_bad", Count: -1, Action: platformsim.AnswerStatus, Status: 500})
	r.start()
	id := 0
	for range 150 {
		r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.e VALUES (%d, 'bad')`, id), fmt.Sprintf(`INSERT INTO crm.e VALUES (%d, 'good')`, id+1))
		id += 2
		r.applied(platformsim.Event, id/2)
	}
	// Records of the mapping that were read before it was held become letters too.
	for len(r.status().Held) == 0 {
		r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.e VALUES (%d, 'bad')`, id), fmt.Sprintf(`INSERT INTO crm.e VALUES (%d, 'good')`, id+1))
		id += 2
		r.applied(platformsim.Event, id/2)
	}
	s := r.status()
	if !slices.Equal(s.Held, []string{"bad"}) || !strings.Contains(s.HeldMappings[0].Reason, "in a row failed") {
		t.Errorf("held %v, %+v", s.Held, s.HeldMappings)
	}
	r.db.Exec(t, fmt.Sprintf(`INSERT INTO crm.e VALUES (%d, 'bad'), (%d, 'good')`, id, id+1))
	id += 2
	r.applied(platformsim.Event, id/2)
	r.until(func() bool { return r.status().Pending.Records == 0 })
	letters := len(r.letters("--class", "failing"))
	if letters < 100 || letters == id/2 {
		t.Errorf("%d dead letters of %d", letters, id/2)
	}
	if !resume {
		if _, errs, code := r.run("deadletters", "set-aside", "--mapping", "bad"); code != 0 {
			t.Errorf("set-aside: exit %d, %s", code, errs)
		}
		r.settled()
		if got := r.sim.Count(platformsim.Event) + len(r.letters()); got != id {
			t.Errorf("%d of %d records are applied or dead letters", got, id)
		}
		return
	}
	r.sim.ClearFaults(fault)
	if _, errs, code := r.run("resume", "--mapping", "bad"); code != 0 {
		t.Errorf("resume: exit %d, %s", code, errs)
	}
	r.settled()
	if got := r.sim.Count(platformsim.Event) + letters; got != id {
		t.Errorf("%d of %d records are applied or dead letters", got, id)
	}
	r.noViolations()
}

// TestOutageAlarmHasOneCure: of a platform that was never reached the alarm says what to look at, of one that went away that nothing is to be done, and since when.
func TestOutageAlarmHasOneCure(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	fast := "delivery: {backoff: {initial: 20ms, max: 100ms}}"
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.write(crmMappings, fast)
	address := "http://" + nobody.Addr().String()
	nobody.Close()
	r.edit(r.web.URL, address)
	alarm := func() (found connector.Alarm) {
		t.Helper()
		r.until(func() bool {
			for _, a := range r.status().Alarms {
				if a.Key == "delivery/groupRelation" {
					found = a
				}
			}
			return found.Key != ""
		})
		return found
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('138', 'a')`)
	if a := alarm(); strings.Contains(a.Text, "baseURL") || !strings.Contains(a.Text, "refused") || !strings.Contains(a.Cure, "Check platform.baseURL") || strings.Contains(a.Cure, "nothing to do") {
		t.Errorf("never reached: %s | %s", a.Text, a.Cure)
	}
	r.edit(address, r.web.URL)
	r.reload()
	r.applied(platformsim.GroupRelation, 1)
	r.settled()
	r.web.CloseClientConnections()
	r.web.Listener.Close()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('138', 'b')`)
	if a := alarm(); strings.Contains(a.Text+a.Cure, "baseURL") || !strings.Contains(a.Cure, "nothing to do here: it worked until 20") {
		t.Errorf("it has worked: %s | %s", a.Text, a.Cure)
	}
}
