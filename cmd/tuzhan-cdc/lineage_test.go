package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

const lineageSchema = `
CREATE SCHEMA crm;
CREATE TABLE crm.visits (id int PRIMARY KEY, phone text NOT NULL);`

const lineageMappings = `
mappings:
  - name: visit
    table: crm.visits
    on: [insert]
    event: {eventKey: c_visit, identities: [{identityType: phone, identityValue: "${{ phone }}"}], eventargs: {id: "${{ id }}"}}
`

const pointMappings = lineageMappings + `
  - name: visit-points
    table: crm.visits
    on: [insert]
    point: {point: 5, remark: "到店 ${{ id }}", phoneList: [{phone: "${{ phone }}"}]}
`

// visit inserts visits of one customer.
func (r *rig) visit(ids ...int) {
	r.t.Helper()
	for _, id := range ids {
		r.db.Exec(r.t, fmt.Sprintf(`INSERT INTO crm.visits VALUES (%d, '138')`, id))
	}
}

// refused starts the program, which must end with exit code 1 before it streams, and gives its log and the id that accepts it, if it printed one.
func (r *rig) refused(args ...string) (text, id string) {
	r.t.Helper()
	sent := r.sim.Stats().Requests
	r.launch(args...)
	code := r.proc.exit()
	text = r.proc.log.String()
	if code != 1 || strings.Contains(text, "msg=streaming") || !strings.Contains(text, "cure:") {
		r.t.Fatalf("want a refusal, got exit %d:\n%s", code, text)
	}
	if now := r.sim.Stats().Requests; now != sent {
		r.t.Errorf("%d requests were sent", now-sent)
	}
	if m := regexp.MustCompile(`--(?:accept-gap|new-state) ([0-9a-f]{8})`).FindStringSubmatch(text); m != nil {
		id = m[1]
	}
	return text, id
}

// accepted starts the program with a decision of the operator's and waits until it streams.
func (r *rig) accepted(args ...string) {
	r.t.Helper()
	r.launch(args...)
	r.proc.until("msg=streaming")
}

func (r *rig) stop() {
	r.t.Helper()
	if code := r.proc.terminate(); code != 0 {
		r.t.Fatalf("exit %d:\n%s", code, r.proc.log)
	}
}

// TestRefusals: each break in the lineage is a clear refusal, with nothing sent; an id of another refusal is none; the printed one lets the connector
// go on, and the gap is recorded for good.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		breaks func(r *rig)
		want   []string
		noGap  bool
	}{
		{name: "slot missing", breaks: func(r *rig) {
			r.db.Exec(r.t, `SELECT pg_drop_replication_slot('`+r.slot+`')`)
		}, want: []string{"is gone", "may be lost"}},
		{name: "slot ahead", breaks: func(r *rig) {
			r.db.Exec(r.t, `SELECT pg_replication_slot_advance('`+r.slot+`', pg_current_wal_lsn())`)
		}, want: []string{"past the checkpoint", "do not come again"}},
		{name: "publication missing", breaks: func(r *rig) {
			r.db.Exec(r.t, `DROP PUBLICATION "`+r.slot+`"`)
		}, want: []string{"publication", "is missing"}},
		{name: "publication made anew", breaks: func(r *rig) {
			r.db.Exec(r.t, `DROP PUBLICATION "`+r.slot+`_insert"`, `CREATE PUBLICATION "`+r.slot+`_insert" FOR TABLE crm.visits WITH (publish = 'insert')`)
		}, want: []string{"dropped and made anew"}},
		{name: "state of another slot", breaks: func(r *rig) {
			r.db.Exec(r.t, `SELECT pg_create_logical_replication_slot('`+r.slot+`_b', 'pgoutput')`)
			r.edit("slot: "+r.slot+"\n", "slot: "+r.slot+"_b\n")
			r.slot += "_b"
		}, want: []string{"the state belongs to slot"}},
		{name: "another database", breaks: func(r *rig) {
			other := r.db.Server().Database(r.t)
			other.Exec(r.t, lineageSchema)
			r.edit("/"+r.db.Name()+"?", "/"+other.Name()+"?")
			r.db, r.slot = other, other.SlotName()
			r.edit("slot: ", "slot: x_"+r.slot+" #")
			r.edit("publication: ", "publication: x_"+r.slot+" #")
			r.slot = "x_" + r.slot
		}, want: []string{"the state belongs to system"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lineageSchema, lineageMappings, platformsim.Options{})
			r.start()
			r.visit(1, 2)
			r.expectEvents("c_visit", "1", "2")
			r.settled()
			r.stop()
			r.visit(3)
			test.breaks(r)
			text, id := r.refused()
			for _, want := range append(test.want, "Nothing was sent", "backfill") {
				if !strings.Contains(text, want) {
					t.Errorf("the refusal does not say %q:\n%s", want, text)
				}
			}
			if out, _, code := r.run("check"); code != 1 || !strings.Contains(out, "--accept-gap "+id) || !strings.Contains(out, test.want[0]) {
				t.Errorf("check: exit %d\n%s", code, out)
			}
			if again, same := r.refused("--accept-gap", "01234567"); same != id || !strings.Contains(again, "names no refusal that stands now") {
				t.Errorf("id %s, now %s:\n%s", id, same, again)
			}
			r.accepted("--accept-gap", id)
			r.visit(4)
			r.settled()
			if got := r.events("c_visit"); !slices.Contains(got, "4") || got[0] != "1" || got[1] != "2" {
				t.Errorf("events %q", got)
			}
			gaps := r.status().Gaps
			if len(gaps) != 1 || gaps[0].Reason == "" || gaps[0].From == 0 {
				t.Errorf("gaps %+v", gaps)
			}
			r.stop()
			if out, _, _ := r.run("status"); !strings.Contains(out, "GAP") {
				t.Errorf("status does not show the gap:\n%s", out)
			}
			r.accepted("--accept-gap", id) // it was used: a warning, and no more
			r.proc.until("names no refusal that stands now")
			if gaps := r.status().Gaps; len(gaps) != 1 {
				t.Errorf("gaps %+v", gaps)
			}
		})
	}
}

// transaction begins one of the application's, which ends when commit is called.
func (r *rig) transaction(sql string) (commit func()) {
	r.t.Helper()
	conn := connectTo(r.t, r.db.DSN())
	exec := func(sql string) {
		if _, err := conn.Exec(r.t.Context(), sql); err != nil {
			r.t.Fatal(err)
		}
	}
	exec("BEGIN")
	exec(sql)
	return func() { exec("COMMIT") }
}

// broken gives a rig whose publication is gone, and the id that accepts it.
func broken(t *testing.T) (r *rig, id string) {
	t.Helper()
	r = newRig(t, lineageSchema, lineageMappings, platformsim.Options{})
	r.start()
	r.visit(1)
	r.expectEvents("c_visit", "1")
	r.settled()
	r.stop()
	r.visit(2)
	r.db.Exec(t, `DROP PUBLICATION "`+r.slot+`_insert"`)
	_, id = r.refused()
	return r, id
}

// wentOn expects one gap, a stream that goes on, and that nothing is accepted any more.
func (r *rig) wentOn() {
	r.t.Helper()
	r.proc.until("msg=streaming")
	r.visit(3)
	r.expectEvents("c_visit", "1", "3")
	r.settled()
	if gaps := r.status().Gaps; len(gaps) != 1 || !strings.Contains(gaps[0].Reason, "is missing, beside the slot") || gaps[0].To == 0 {
		r.t.Errorf("gaps %+v", gaps)
	}
	if r.logged("names no refusal") > 0 {
		r.t.Error("the id is said to be stale")
	}
	r.stop()
	r.db.Exec(r.t, `SELECT pg_drop_replication_slot('`+r.slot+`')`)
	r.refused()
}

// TestAcceptedBesideLock: an accepted gap is gone on with although a table is locked for a while when its publication is made: by then the slot is gone.
func TestAcceptedBesideLock(t *testing.T) {
	t.Parallel()
	r, id := broken(t)
	commit := r.transaction(`LOCK TABLE crm.visits IN SHARE UPDATE EXCLUSIVE MODE`) // as VACUUM does
	r.launch("--accept-gap", id)
	r.proc.until("somebody holds a lock on it")
	commit()
	r.wentOn()
}

// TestAcceptedInterrupted: what was accepted holds also where the connector is stopped, or killed, while the new slot waits for an old transaction: at
// the next start, with the id or without it.
func TestAcceptedInterrupted(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{true, false} {
		r, id := broken(t)
		commit := r.transaction(`CREATE TABLE crm.later (x int)`)
		r.launch("--accept-gap", id)
		r.proc.until("the new slot waits for a transaction")
		if again {
			r.stop()
			r.launch("--accept-gap", id)
		} else {
			r.proc.kill()
			r.launch()
		}
		commit()
		r.wentOn()
	}
}

// TestInvalidatedSlot: the server gave the slot up (wal_status lost).
func TestInvalidatedSlot(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t, "max_slot_wal_keep_size=1MB")
	r := newRigOn(t, server.Database(t), lineageSchema+`CREATE TABLE crm.busy (x text);`, lineageMappings, platformsim.Options{})
	r.start()
	r.visit(1)
	r.settled()
	r.stop()
	r.visit(2)
	for range 3 {
		r.db.Exec(t, `INSERT INTO crm.busy SELECT repeat(md5(i::text), 100) FROM generate_series(1, 5000) i`, `SELECT pg_switch_wal()`, `CHECKPOINT`)
	}
	r.db.Eventually(t, `SELECT wal_status = 'lost' FROM pg_replication_slots`)
	text, id := r.refused()
	if !strings.Contains(text, "invalidated") || !strings.Contains(text, "max_slot_wal_keep_size") {
		t.Errorf("%s", text)
	}
	r.accepted("--accept-gap", id)
	r.visit(3)
	r.settled()
	r.expectEvents("c_visit", "1", "3")
}

// TestAnotherSystem: another database system answers behind the same address.
func TestAnotherSystem(t *testing.T) {
	t.Parallel()
	one, two := pgtest.Private(t), pgtest.Private(t)
	r := newRigOn(t, one.Database(t), lineageSchema, lineageMappings, platformsim.Options{})
	r.start()
	r.visit(1)
	r.settled()
	db := two.Database(t)
	db.Exec(t, lineageSchema)
	r.edit(r.dsn, db.DSN())
	r.proc.kill()
	r.db = db
	text, id := r.refused()
	if !strings.Contains(text, "the state belongs to system") {
		t.Errorf("%s", text)
	}
	r.accepted("--accept-gap", id)
	r.visit(2)
	r.settled()
	r.expectEvents("c_visit", "1", "2")
}

// TestFailoverWithoutLoss: a promoted copy that has all that was settled is gone on with, under the connector's feet, without a word of the operator's.
func TestFailoverWithoutLoss(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), lineageSchema, pointMappings, platformsim.Options{})
	r.start()
	r.visit(1, 2)
	r.settled()
	server.Stop(t, throwaway.Fast)
	server.Standby(t, server.Copy(t))
	// The address leads to the next primary before that one is promoted, and the connector asks it.
	r.until(func() bool {
		return slices.ContainsFunc(r.status().Alarms, func(a connector.Alarm) bool {
			return strings.Contains(a.Text, "can't be streamed from before it is promoted")
		})
	})
	r.proc.kill()
	r.launch()
	r.proc.until("can't be streamed from before it is promoted")
	server.Promote(t)
	r.proc.until("a new timeline, which holds all that was settled")
	r.visit(3)
	r.settled()
	r.expectEvents("c_visit", "1", "2", "3")
	if n := r.sim.Count(platformsim.Point); n != 3 {
		t.Errorf("%d points", n)
	}
	r.stop()
	r.start()
	r.visit(4)
	r.settled()
	r.expectEvents("c_visit", "1", "2", "3", "4")
	if gaps := r.status().Gaps; len(gaps) > 0 {
		t.Errorf("gaps %+v", gaps)
	}
}

// TestFailoverWithLoss: the new primary lacks transactions that were settled, and gives their LSNs to other rows (fact F16). Passed over as settled,
// the new rows would be lost.
func TestFailoverWithLoss(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), lineageSchema, pointMappings, platformsim.Options{})
	r.start()
	r.visit(1, 2)
	r.settled()
	r.stop()
	server.Stop(t, throwaway.Fast)
	standby := server.Copy(t)
	server.Start(t)
	r.start()
	r.visit(3, 4)
	r.settled()
	// A point of which nobody knows: the request left, and the answer never came.
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Point, Count: 1, Delay: time.Minute}); err != nil {
		t.Fatal(err)
	}
	r.visit(5)
	r.platform(func(s *platformsim.Sim) bool { return s.InFlight(platformsim.Point) > 0 })
	r.proc.kill()
	r.sim.ClearFaults()
	server.Stop(t, throwaway.Immediate)
	server.Standby(t, standby)
	server.Promote(t)
	r.visit(13, 14, 15) // where 3, 4 and 5 were
	text, id := r.refused()
	if !strings.Contains(text, "timeline 2, which left timeline 1") || !strings.Contains(text, "lost something") {
		t.Errorf("%s", text)
	}
	r.accepted("--accept-gap", id)
	r.settled()
	r.visit(16)
	r.settled()
	got := r.events("c_visit")
	for _, want := range []string{"1", "2", "3", "4", "13", "14", "15", "16"} {
		if !slices.Contains(got, want) {
			t.Errorf("the event of visit %s is missing: %q", want, got)
		}
	}
	points := map[string]int{}
	for _, a := range r.sim.LedgerSince(0, platformsim.Point) {
		points[a.Remark]++
	}
	for _, id := range []int{1, 2, 3, 4, 13, 14, 15, 16} {
		if n := points[fmt.Sprintf("到店 %d", id)]; n != 1 {
			t.Errorf("the points of visit %d were given %d times", id, n)
		}
	}
	letters := r.letters()
	if len(letters) != 1 || letters[0].Class != connector.ClassUncertain || letters[0].Mapping != "visit-points" {
		t.Errorf("letters %+v", letters)
	}
	if gaps := r.status().Gaps; len(gaps) != 1 || !strings.Contains(gaps[0].Reason, "timeline") || gaps[0].To < gaps[0].From {
		t.Errorf("gaps %+v", gaps)
	}
}

// TestFailoverUnderway: the same loss while the connector runs: it ends instead of passing the new rows over.
func TestFailoverUnderway(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), lineageSchema, lineageMappings, platformsim.Options{})
	r.start()
	r.visit(1)
	r.settled()
	server.Stop(t, throwaway.Fast)
	standby := server.Copy(t)
	server.Start(t)
	r.visit(2)
	r.settled()
	server.Stop(t, throwaway.Fast)
	server.Standby(t, standby)
	server.Promote(t)
	if code := r.proc.exit(); code != 1 || !strings.Contains(r.proc.log.String(), "--accept-gap") {
		t.Errorf("exit %d:\n%s", code, r.proc.log)
	}
}

// TestRestored: the database was put back to an earlier point, on the same timeline.
func TestRestored(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	r := newRigOn(t, server.Database(t), lineageSchema, lineageMappings, platformsim.Options{})
	r.start()
	r.visit(1)
	r.settled()
	r.stop()
	server.Stop(t, throwaway.Fast)
	backup := server.Copy(t)
	server.Start(t)
	r.start()
	r.visit(2, 3)
	r.settled()
	r.stop()
	server.Stop(t, throwaway.Fast)
	server.Restore(t, backup)
	text, id := r.refused()
	if !strings.Contains(text, "restored to an earlier point") {
		t.Errorf("%s", text)
	}
	r.accepted("--accept-gap", id)
	r.visit(4, 5, 6)
	r.settled()
	if got := r.events("c_visit"); !slices.Equal(got, []string{"1", "2", "3", "4", "5", "6"}) {
		t.Errorf("events %q", got)
	}
}

// TestNewState: a slot without a state is taken over where no points are mapped; where they are, they might double, and the operator decides.
func TestNewState(t *testing.T) {
	t.Parallel()
	for _, points := range []bool{false, true} {
		t.Run(fmt.Sprintf("points %t", points), func(t *testing.T) {
			t.Parallel()
			mappings := lineageMappings
			if points {
				mappings = pointMappings
			}
			r := newRig(t, lineageSchema, mappings, platformsim.Options{})
			r.start()
			r.visit(1)
			r.settled()
			r.stop()
			r.visit(2)
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.RemoveAll(filepath.Join(filepath.Dir(r.file), "state.db"+suffix)); err != nil {
					t.Fatal(err)
				}
			}
			if points {
				text, id := r.refused()
				if !strings.Contains(text, "may double") || !strings.Contains(text, "--new-state") {
					t.Errorf("%s", text)
				}
				r.refused("--new-state", "00000000")
				for _, edit := range [][2]string{{"timeZone: Asia/Shanghai", "timeZone: Asia/Shanghai\n  snapshot: initial"}, {"[insert]\n    point:", "[insert, snapshot]\n    point:"}} {
					if text, _ := r.refused(); strings.Contains(text, "snapshot: initial") {
						t.Errorf("no rows would be sent: %s", text)
					}
					r.edit(edit[0], edit[1])
				}
				if text, _ := r.refused(); !strings.Contains(text, "snapshot: initial") {
					t.Errorf("all rows would be sent: %s", text)
				}
				for _, edit := range [][2]string{{"\n  snapshot: initial", ""}, {"[insert, snapshot]", "[insert]"}} {
					r.edit(edit[0], edit[1])
				}
				if out, _, code := r.run("check"); code != 1 || !strings.Contains(out, "--new-state "+id) {
					t.Errorf("check: exit %d\n%s", code, out)
				}
				r.accepted("--new-state", id)
			} else {
				r.start()
			}
			r.proc.until("it is taken over where it stands")
			r.settled()
			r.expectEvents("c_visit", "1", "2")
		})
	}
}

// TestGoneMappingIntents: an open intent of a mapping that is gone from the file becomes a letter of class uncertain.
func TestGoneMappingIntents(t *testing.T) {
	t.Parallel()
	r := newRig(t, lineageSchema, pointMappings, platformsim.Options{})
	r.start()
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Point, Count: 1, Delay: time.Minute}); err != nil {
		t.Fatal(err)
	}
	r.visit(1)
	r.platform(func(s *platformsim.Sim) bool { return s.InFlight(platformsim.Point) > 0 })
	r.proc.kill()
	r.sim.ClearFaults()
	r.write(lineageMappings, "")
	r.start()
	r.settled()
	letters := r.letters()
	if len(letters) != 1 || letters[0].Class != connector.ClassUncertain || letters[0].Mapping != "visit-points" || !strings.Contains(letters[0].Reason, "gone from the file") {
		t.Errorf("letters %+v", letters)
	}
}
