package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// soundBooks are the books of a small run that went well: two events, two points, and three group relations of customer p1.
func soundBooks() *chaosBooks {
	five, six := int64(5), int64(6)
	b := &chaosBooks{
		wanted: []wanted{
			{mapping: "order-paid", key: "paid 1 p1 o1", turns: map[string]turn{"p1": {1, 0, 0}, "o1": {1, 0, 0}}, point: new(int64)},
			{mapping: "order-points", key: "points 1 p1 o1", turns: map[string]turn{"p1": {1, 1, 0}, "o1": {1, 1, 0}}, point: &five},
			{mapping: "order-paid", key: "paid 2 p1 o2", turns: map[string]turn{"p1": {2, 0, 0}, "o2": {1, 0, 0}}, point: new(int64)},
			{mapping: "order-points", key: "points 2 p1 o2", turns: map[string]turn{"p1": {2, 1, 0}, "o2": {1, 1, 0}}, point: &six},
			{mapping: "member-groups", key: "add p1 gold,r3", turns: map[string]turn{"p1": {3, 4, 1}}, point: new(int64), phone: "p1", groups: "gold,r3", opt: "add"},
			{mapping: "member-groups", key: "delete p1 r3", turns: map[string]turn{"p1": {4, 4, 0}}, point: new(int64), phone: "p1", groups: "r3", opt: "delete"},
			{mapping: "member-groups", key: "add p1 r4", turns: map[string]turn{"p1": {4, 4, 1}}, point: new(int64), phone: "p1", groups: "r4", opt: "add"},
		},
		groups: map[string][]string{"p1": {"gold", "r4"}},
		answers: map[platformsim.Endpoint]map[string]bool{
			platformsim.Event: {"200/8001": true}, platformsim.Point: {"500/": true, "200/8001": true}, platformsim.GroupRelation: {"503/": true}},
	}
	event := func(rev int, openid string) {
		record := fmt.Sprintf(`{"eventargs":{"c_key":"paid %d"},"identities":[{"identityValue":"p1"},{"identityValue":"%s"}]}`, rev, openid)
		b.applied = append(b.applied, platformsim.Applied{Endpoint: platformsim.Event, UUID: fmt.Sprint(rev), Record: []byte(record)})
	}
	point := func(rev int, openid string, n int64) {
		remark := fmt.Sprintf("points %d", rev)
		record := fmt.Sprintf(`{"remark":"%s","phoneList":[{"phone":"p1"}],"openids":[{"openid":"%s"}]}`, remark, openid)
		b.applied = append(b.applied, platformsim.Applied{Endpoint: platformsim.Point, Customer: "p1", Remark: remark, Point: n, Record: []byte(record)})
	}
	group := func(opt, groups string) {
		record := fmt.Sprintf(`{"phone":"p1","groups":"%s"}`, groups)
		b.applied = append(b.applied, platformsim.Applied{Endpoint: platformsim.GroupRelation, Customer: "p1", OptType: opt, Groups: strings.Split(groups, ","), Record: []byte(record)})
	}
	event(1, "o1")
	point(1, "o1", 5)
	event(2, "o2")
	point(2, "o2", 6)
	group("add", "gold,r3")
	group("delete", "r3")
	group("add", "r4")
	return b
}

// letterOfApplied sets the i-th applied record aside.
func (b *chaosBooks) letterOfApplied(i int, mapping string, kind connector.Kind, class connector.Class, status int, code string) {
	a := b.applied[i]
	b.letters = append(b.letters, &connector.DeadLetter{ID: int64(len(b.letters) + 1), RecordID: connector.RecordID{Mapping: mapping}, Kind: kind, Class: class, Reason: "why",
		Payload: json.RawMessage(a.Record), OptType: a.OptType, Answer: &connector.LetterAnswer{HTTPStatus: status, Code: code}})
}

func (b *chaosBooks) leaveOut(i int) { b.applied = slices.Delete(b.applied, i, i+1) }

// TestChaosJudge: the chaos test's comparison finds what must not be, and lets pass what may be.
func TestChaosJudge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(b *chaosBooks)
		problem string // none where empty
	}{
		"all well":       {func(*chaosBooks) {}, ""},
		"an event again": {func(b *chaosBooks) { b.applied = append(b.applied, b.applied[0]) }, ""},
		"an event again, changed": {func(b *chaosBooks) {
			a := b.applied[0]
			a.Record = append(slices.Clone(a.Record), ' ')
			b.applied = append(b.applied, a)
		}, "came again as something else"},
		"an event lost":         {func(b *chaosBooks) { b.leaveOut(2) }, "paid 2 p1 o2 of order-paid is lost"},
		"a group relation lost": {func(b *chaosBooks) { b.leaveOut(6) }, "add p1 r4 of member-groups is lost"},
		"nobody committed it":   {func(b *chaosBooks) { b.wanted = b.wanted[1:] }, "nobody committed it: paid 1 p1 o1"},
		"two events, one uuid":  {func(b *chaosBooks) { b.applied[2].UUID = "1" }, "have one uuid"},
		"out of order":          {func(b *chaosBooks) { b.applied[0], b.applied[2] = b.applied[2], b.applied[0] }, "customer p1: points 1 p1 o1 [1 1 0] came after paid 2 p1 o2 [2 0 0]"},
		"out of order in a change": {func(b *chaosBooks) { b.applied[0], b.applied[1] = b.applied[1], b.applied[0] },
			"customer o1: paid 1 p1 o1 [1 0 0] came after points 1 p1 o1 [1 1 0]"},
		"a point twice":       {func(b *chaosBooks) { b.applied = append(b.applied, b.applied[1]) }, "points 1 p1 o1 was given 2 times"},
		"a sum":               {func(b *chaosBooks) { b.applied = append(b.applied, b.applied[1]) }, "customer p1 has 16 points, not 11 to 11"},
		"another value":       {func(b *chaosBooks) { b.applied[1].Point = 50 }, "50 points were given, 5 committed"},
		"a point twice, both": {func(b *chaosBooks) { b.applied = append(b.applied, b.applied[1], b.applied[3]) }, "points 2 p1 o2 was given 2 times"},
		"an uncertain point": {func(b *chaosBooks) {
			b.letterOfApplied(3, "order-points", connector.Point, connector.ClassUncertain, 500, "")
			b.leaveOut(3)
		}, ""},
		"an uncertain point that was given": {func(b *chaosBooks) {
			b.letterOfApplied(3, "order-points", connector.Point, connector.ClassUncertain, 500, "")
		}, ""},
		"a rejected point that was given": {func(b *chaosBooks) {
			b.letterOfApplied(3, "order-points", connector.Point, connector.ClassRejected, 200, "8001")
		}, "and is a dead letter of class rejected"},
		"a letter that no fault explains": {func(b *chaosBooks) {
			b.letterOfApplied(0, "order-paid", connector.Event, connector.ClassRejected, 200, "8003")
			b.leaveOut(0)
		}, "no fault answers so"},
		"two letters": {func(b *chaosBooks) {
			b.letterOfApplied(0, "order-paid", connector.Event, connector.ClassRejected, 200, "8001")
			b.letterOfApplied(0, "order-paid", connector.Event, connector.ClassRejected, 200, "8001")
		}, "has two dead letters"},
		"what can't be mapped, without a letter": {func(b *chaosBooks) { b.wanted[3].point = nil }, "has no dead letter that says so"},
		"an add again at the end":                {func(b *chaosBooks) { b.applied = append(b.applied, b.applied[4]) }, "customer p1 has the groups [gold r3 r4], not [gold r4]"},
		"an older one again, and the newer one set aside": {func(b *chaosBooks) {
			b.applied = append(b.applied, b.applied[4])
			b.letterOfApplied(5, "member-groups", connector.GroupRelation, connector.ClassFailing, 503, "")
		}, ""},
		"all groups again, in order":         {func(b *chaosBooks) { b.applied = append(b.applied, b.applied[4:]...) }, ""},
		"other groups in the table":          {func(b *chaosBooks) { b.groups["p1"] = []string{"gold"} }, "the tables say [gold]"},
		"a customer of the table is missing": {func(b *chaosBooks) { b.groups["p2"] = []string{"gold"} }, "customer p2 has the groups []"},
		"a group relation set aside": {func(b *chaosBooks) {
			b.letterOfApplied(6, "member-groups", connector.GroupRelation, connector.ClassFailing, 503, "")
			b.leaveOut(6)
		}, ""},
	} {
		b := soundBooks()
		c.change(b)
		problems, _ := b.judge()
		if text := strings.Join(problems, "\n"); (text == "") != (c.problem == "") || !strings.Contains(text, c.problem) {
			t.Errorf("%s: problems\n%s\nwant %q", name, text, c.problem)
		}
	}
}
