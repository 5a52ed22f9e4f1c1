package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
)

// balanceSchema has rows whose column n is a change in points.
const balanceSchema = `CREATE SCHEMA crm; CREATE TABLE crm.p (id int PRIMARY KEY, phone text, n bigint NOT NULL);`

const balanceMappings = `
mappings:
  - name: p
    table: crm.p
    on: [insert]
    point:
      point: ${{ n }}
      remark: no ${{ id }}
      phoneList: [{phone: "${{ phone }}"}]
`

// TestNegativePoints: they go to paths.pointDecrease as their absolute value, in commit order with the increases of the same customer although that is another
// endpoint; -2^63, which has no absolute value in 64 bits, is a dead letter, and so is every negative one where there is no such path.
func TestNegativePoints(t *testing.T) {
	t.Parallel()
	r := newRig(t, balanceSchema, balanceMappings, platformsim.Options{})
	r.edit("{point: /point/increase}", "{point: /point/increase, pointDecrease: /point/decrease}")
	r.start()
	// Five customers whose rows alternate: the overlap of two requests of one customer is a violation.
	r.db.Exec(t, `INSERT INTO crm.p SELECT i, '138' || i % 5, CASE WHEN i / 5 % 2 = 0 THEN i ELSE -i END FROM generate_series(1, 60) i`,
		`INSERT INTO crm.p VALUES (100, '139', -2147483647), (101, '139', -9223372036854775808), (102, '139', 0), (103, '139', -1)`)
	r.settled()
	last := map[string]int{}
	sums := map[string]int64{}
	for _, a := range r.sim.Ledger() {
		var body struct {
			Remark string
			Point  int64
		}
		if err := json.Unmarshal(a.Record, &body); err != nil {
			t.Fatal(err)
		}
		no := 0
		if err := json.Unmarshal([]byte(strings.TrimPrefix(body.Remark, "no ")), &no); err != nil || no <= last[a.Customer] {
			t.Errorf("%s got %q after no %d", a.Customer, body.Remark, last[a.Customer])
		}
		last[a.Customer] = no
		sign := int64(1)
		if a.Endpoint == platformsim.PointDecrease {
			sign = -1
		}
		sums[a.Customer] += sign * body.Point
	}
	want := map[string]int64{"139": -2147483648}
	for i := range int64(61) {
		if i > 0 {
			n := i
			if i/5%2 == 1 {
				n = -i
			}
			want["138"+string(rune('0'+i%5))] += n
		}
	}
	if !reflect.DeepEqual(sums, want) {
		t.Errorf("balances %v, want %v", sums, want)
	}
	letters := r.letters()
	if len(letters) != 1 || letters[0].Class != connector.ClassMapping || !strings.Contains(string(letters[0].Change), "-9223372036854775808") ||
		!strings.Contains(letters[0].Reason, "does not fit into 64 bits without its sign") {
		t.Errorf("letters %+v", letters)
	}
	r.noViolations()

	r.edit(", pointDecrease: /point/decrease", "")
	r.reload()
	r.proc.until("configuration read again")
	r.db.Exec(t, `INSERT INTO crm.p VALUES (200, '140', -5), (201, '140', 5)`)
	r.settled()
	if letters := r.letters(); len(letters) != 2 || !strings.Contains(letters[1].Reason, "platform.paths.pointDecrease") || r.sim.Points()["140"] != 5 {
		t.Errorf("letters %+v", letters)
	}
}

// TestEncryptedPoints: with SM4 and a key from a file, points arrive encrypted; an outage is probed with an encrypted body; a dead letter keeps the
// plain payload; a key that goes wrong pauses, and goes on by itself when it is right again.
func TestEncryptedPoints(t *testing.T) {
	t.Parallel()
	const key = "0123456789abcdeffedcba9876543210"
	decrypt, err := platformsim.Decrypter("sm4-cbc", []byte("\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10"), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, balanceSchema, balanceMappings, platformsim.Options{Decrypt: decrypt})
	keyFile := filepath.Join(filepath.Dir(r.file), "data-key")
	write := func(key string) {
		if err := os.WriteFile(keyFile, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(key)
	r.edit("platform:\n", "platform:\n  encryption: {algorithm: sm4-cbc, keyFile: data-key, keyEncoding: hex, encoding: hex}\n")
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p SELECT i, '138' || i, i FROM generate_series(1, 20) i`)
	r.settled()
	if n := r.sim.Count(platformsim.Point); n != 20 {
		t.Errorf("%d points", n)
	}
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Point, Match: "no 21", Action: platformsim.AnswerStatus, Status: 502}); err != nil {
		t.Fatal(err)
	}
	r.db.Exec(t, `INSERT INTO crm.p VALUES (21, '13821', 1)`, `INSERT INTO crm.p VALUES (22, '13822', 1)`)
	r.settled()
	letters := r.letters()
	if len(letters) != 1 || letters[0].Class != connector.ClassUncertain || string(letters[0].Payload) == "" || !strings.Contains(string(letters[0].Payload), `"no 21"`) {
		t.Errorf("letters %+v", letters)
	}
	if n := r.sim.Count(platformsim.Point); n != 21 {
		t.Errorf("%d points", n)
	}
	for _, q := range r.sim.Requests() { // the probe was refused for what it lacks, and for nothing else
		if q.Refusal != "" && !strings.Contains(q.Refusal, "is required") {
			t.Errorf("refused: %s", q.Refusal)
		}
	}

	write("0123")
	r.db.Exec(t, `INSERT INTO crm.p VALUES (23, '13823', 1)`)
	r.until(func() bool { return len(r.status().Alarms) == 1 })
	if a := r.status().Alarms[0]; a.Key != "delivery/point" || !strings.Contains(a.Text, "platform.encryption.key: sm4-cbc takes a key of 16 bytes") || strings.Contains(a.Text, "0123") {
		t.Errorf("alarm %+v", a)
	}
	write(key)
	r.settled()
	if n := r.sim.Count(platformsim.Point); n != 22 || len(r.letters()) != 1 {
		t.Errorf("%d points, %d letters", n, len(r.letters()))
	}
	if strings.Contains(r.proc.log.String(), key) {
		t.Error("the log shows the key")
	}
}

// TestOpenPoints: points of the open API, each with a relateBizCode of its own that is the same when the change is mapped again after kill -9; an
// uncertain one is held, and its letter shows the code that the platform has it under.
func TestOpenPoints(t *testing.T) {
	t.Parallel()
	r := newRig(t, `CREATE SCHEMA crm; CREATE TABLE crm.p (id int PRIMARY KEY, who bigint, third text, n int);`, `
mappings:
  - name: p
    table: crm.p
    on: [insert]
    point: {audienceUserId: "${{ who }}", thirdId: "${{ third }}", point: "${{ n }}", remark: "no ${{ id }}", eventType: e}
`, platformsim.Options{ClockSkew: time.Minute})
	r.edit("paths: {point: /point/increase}", "pointAPI: open")
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p VALUES (1, 860484273911119872, NULL, 5), (2, NULL, 'u-2', 6)`)
	r.settled()
	applied := r.sim.LedgerSince(0, platformsim.PointOpen)
	if len(applied) != 2 || applied[0].BizCode == applied[1].BizCode || len(applied[0].BizCode) != 36 || applied[0].Point+applied[1].Point != 11 {
		t.Fatalf("applied %+v", applied)
	}

	// Applied, and the connector dies before the answer: held, under the code that the platform has.
	gate := make(chan struct{})
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.PointOpen, Gate: gate, WaitAfter: true}); err != nil {
		t.Fatal(err)
	}
	r.db.Exec(t, `INSERT INTO crm.p VALUES (3, NULL, 'u-3', 7)`)
	r.applied(platformsim.PointOpen, 3)
	r.proc.kill()
	close(gate)
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p VALUES (4, NULL, 'u-4', 8)`)
	r.settled()
	applied = r.sim.LedgerSince(0, platformsim.PointOpen)
	if len(applied) != 4 {
		t.Fatalf("%d points applied", len(applied))
	}
	code := applied[2].BizCode
	letters := r.letters()
	if len(letters) != 1 || letters[0].Class != connector.ClassUncertain || letters[0].RelateBizCode != code || strings.Contains(string(letters[0].Payload), "nonce") {
		t.Errorf("letters %+v, want the code %s", letters, code)
	}
	out, _, _ := r.run("deadletters", "show", "1")
	if !strings.Contains(out, "relateBizCode") || !strings.Contains(out, code) {
		t.Errorf("show: %s", out)
	}

	// The same, and its mapping is gone from the file afterwards: no payload is known any more, but the code is.
	gate = make(chan struct{})
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.PointOpen, Gate: gate, WaitAfter: true}); err != nil {
		t.Fatal(err)
	}
	r.db.Exec(t, `INSERT INTO crm.p VALUES (5, NULL, 'u-5', 9)`)
	r.applied(platformsim.PointOpen, 5)
	r.proc.kill()
	close(gate)
	r.edit("- name: p\n", "- name: q\n")
	r.start()
	code = r.sim.LedgerSince(4, platformsim.PointOpen)[0].BizCode
	if letters := r.letters(); len(letters) != 2 || letters[1].Class != connector.ClassUncertain || !strings.HasSuffix(letters[1].Reason, "under relateBizCode "+code) {
		t.Errorf("letters %+v, want the code %s", letters, code)
	}
	r.noViolations()
}

// TestIntentOfEditedMapping: killed while a point is on its way; then the mapping is edited, so that its change makes no point any more. Nobody knows whether
// it was applied: that is a dead letter.
func TestIntentOfEditedMapping(t *testing.T) {
	r := newRig(t, balanceSchema, balanceMappings, platformsim.Options{})
	gate := make(chan struct{})
	r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Point, Gate: gate, WaitAfter: true})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p VALUES (1, '138', 5)`)
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.Point) == 1 })
	r.proc.kill()
	close(gate)
	r.edit("    on: [insert]\n", "    on: [insert]\n    when: n > 100\n")
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p VALUES (2, '138', 500)`)
	r.settled()
	if letters := r.letters(); len(letters) != 1 || letters[0].Class != connector.ClassUncertain || !strings.Contains(letters[0].Reason, "makes no point of that change") {
		t.Errorf("the platform has %d points for 138; letters %+v", r.sim.Points()["138"], letters)
	}
}

// TestAppliedPointOfEditedMapping: a point was applied while an event of the same change waits; killed, the mapping of points now fails for the row. The point
// is no dead letter: sent again it would be doubled.
func TestAppliedPointOfEditedMapping(t *testing.T) {
	r := newRig(t, balanceSchema, balanceMappings+strings.TrimPrefix(eventMapping("e", "crm.p", "insert", "phone", "id"), "\n")+"\n", platformsim.Options{EventKeys: []string{"c_buy"}})
	r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Event, Action: platformsim.AnswerStatus, Status: 500, Count: -1})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p VALUES (1, '138', 5)`)
	r.platform(func(s *platformsim.Sim) bool { return s.Count(platformsim.Point) == 1 })
	reader, err := state.OpenReader(t.Context(), state.Location{Path: filepath.Join(filepath.Dir(r.file), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	r.until(func() bool { // its outcome is on the disk
		saved, err := reader.Load(t.Context())
		return err == nil && slices.Contains(slices.Collect(maps.Values(saved.Known)), connector.Applied)
	})
	r.proc.kill()
	r.edit("remark: no ${{ id }}", "remark: ${{ id / 0 }}")
	r.start()
	r.db.Exec(t, `INSERT INTO crm.p VALUES (2, '138', 5)`)
	r.until(func() bool { return len(r.letters("--mapping", "p")) > 0 })
	for _, l := range r.letters("--mapping", "p") {
		if strings.Contains(string(l.Change), `"1"`) {
			t.Errorf("a point that the platform has (%d) is a dead letter of class %s: %s", r.sim.Points()["138"], l.Class, l.Reason)
		}
	}
}
