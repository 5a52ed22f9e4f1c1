package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

const emitMarker = `SELECT pg_logical_emit_message(true, 'tuzhan_cdc', 'skip')`

// logicalMessagesSince is the first version whose pgoutput sends them.
const logicalMessagesSince = 14

func (r *rig) needMarker() {
	r.t.Helper()
	if v := r.db.Server().Major(); v < logicalMessagesSince {
		r.t.Skipf("PostgreSQL %d sends no logical messages", v)
	}
}

func (r *rig) snapshot() (s status.Snapshot) {
	r.t.Helper()
	_, body := r.get("/status.json")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// checkpoint waits until the checkpoint on disk is as wanted.
func (r *rig) checkpoint(ok func(*connector.Checkpoint) bool) *connector.Checkpoint {
	r.t.Helper()
	reader := r.openState()
	defer reader.Close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(wait)
	for {
		cp, err := reader.Checkpoint(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		if cp != nil && ok(cp) {
			return cp
		}
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatalf("the checkpoint does not get there: settled %s, %d ranges", cp.Settled, len(cp.Ranges))
		}
	}
}

// TestSkipMarker: an import that begins with the marker sends nothing, whatever the kind of the mapping, and is counted and logged; the transactions
// around it are sent.
func TestSkipMarker(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.needMarker()
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', 'a')`,
		`BEGIN; `+emitMarker+`;
			INSERT INTO crm.member_groups SELECT i::text, 'import' FROM generate_series(10, 1009) i;
			INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('S1', '138', 5, 'paid'), ('S2', NULL, 5, 'paid');
			UPDATE crm.member_groups SET group_name = 'b' WHERE phone = '1'; COMMIT`,
		`INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('O1', '138', 5, 'paid')`,
		`BEGIN; INSERT INTO crm.member_groups VALUES ('2', 'a'); `+emitMarker+`; INSERT INTO crm.member_groups VALUES ('3', 'a'); COMMIT`)
	r.settled()
	for e, want := range map[platformsim.Endpoint]int{platformsim.Event: 1, platformsim.Point: 1, platformsim.GroupRelation: 3} {
		if got := r.sim.Count(e); got != want {
			t.Errorf("%d records for %s, want %d", got, e, want)
		}
	}
	if letters := r.letters(); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}
	if s := r.snapshot(); s.Skipped != (status.Skipped{Transactions: 1, Changes: 1003}) {
		t.Errorf("%+v", s.Skipped)
	}
	log := r.proc.log.String()
	if strings.Count(log, "transaction skipped") != 1 || !strings.Contains(log, "changes=1003") {
		t.Errorf("the log does not tell of the skipped transaction:\n%s", log)
	}
	if strings.Count(log, "skip marker is ignored") != 1 {
		t.Errorf("the log does not tell of the marker that came too late:\n%s", log)
	}
}

// TestSkipMarkerKilled: a kill in the middle of a skipped transaction, then a start: nothing of it is sent, what was not settled before it comes, and
// what follows too.
func TestSkipMarkerKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.needMarker()
	const blocked = "blocked"
	id, err := r.sim.Inject(platformsim.Fault{Match: blocked, Count: -1, Action: platformsim.AnswerStatus, Status: 500})
	if err != nil {
		t.Fatal(err)
	}
	r.write(crmMappings, "delivery: {backoff: {initial: 20ms, max: 100ms}}")
	r.start()
	const n = 150_000
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('1', '`+blocked+`')`, fmt.Sprintf(`BEGIN; `+emitMarker+`;
		INSERT INTO crm.member_groups SELECT i::text, 'import' FROM generate_series(10, %d) i; COMMIT`, 10+n-1))
	// A checkpoint that has a part of it, while the record before it still waits.
	r.checkpoint(func(cp *connector.Checkpoint) bool { return len(cp.Ranges) > 0 })
	r.proc.kill()
	if cp := r.checkpoint(func(*connector.Checkpoint) bool { return true }); cp.Ranges[0].To.Index >= n-1 {
		t.Fatal("the kill came too late to show anything")
	}
	r.sim.ClearFaults(id)
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('2', 'a')`)
	r.start()
	r.applied(platformsim.GroupRelation, 2) // has more patience with a busy machine
	r.settled()
	if got := r.sim.Count(platformsim.GroupRelation); got != 2 {
		t.Errorf("%d group relations, want those before and behind the transaction", got)
	}
	if letters := r.letters(); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}
	// What the first process has settled the second does not count again.
	if s := r.snapshot(); s.Skipped.Transactions > 1 || s.Skipped.Changes >= n {
		t.Errorf("%+v", s.Skipped)
	}
}

// TestStatusShowsSkipped: the text has it where there is something to say.
func TestStatusShowsSkipped(t *testing.T) {
	t.Parallel()
	for changes, want := range map[uint64]bool{0: false, 1003: true} {
		var out strings.Builder
		if err := printStatus(&out, &status.Snapshot{Skipped: status.Skipped{Transactions: min(changes, 2), Changes: changes}}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "2 transactions by their marker, 1003 changes"); got != want {
			t.Errorf("%d changes:\n%s", changes, &out)
		}
	}
}
