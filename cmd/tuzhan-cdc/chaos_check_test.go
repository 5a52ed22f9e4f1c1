package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// turn is a record's place among all that name one identity: which change of the identity, the mapping's place in the file, the record's number.
type turn [3]int64

// wanted is a record that the database's history asks for.
type wanted struct {
	mapping string
	// key tells it from all others, and says what it holds.
	key string
	// turns by identity that the record names.
	turns map[string]turn
	// point is a point's value; nil: the amount is null, and a dead letter of class mapping must say so.
	point *int64
	// phone and groups are a group relation's.
	phone, groups, opt string
}

// chaosBooks are what the database committed, what the platform applied, and what was set aside.
type chaosBooks struct {
	wanted  []wanted
	applied []platformsim.Applied
	letters []*connector.DeadLetter
	// groups are those of each phone in the tables, sorted; of those in skipped not all changes were to be sent.
	groups  map[string][]string
	skipped map[string]bool
	// answers are those that faults gave, by endpoint and as answerText writes them; kills says that the connector was killed.
	answers map[platformsim.Endpoint]map[string]bool
	kills   bool
}

// chaosWanted gives what the history asks for, mapping by mapping as the file has them.
const chaosWanted = `
WITH h AS (SELECT * FROM chaos.history WHERE NOT skip),
paid AS (SELECT * FROM h WHERE tab = 'orders' AND op <> 'DELETE' AND new->>'status' = 'paid' AND old->>'status' IS DISTINCT FROM 'paid'),
gone AS (SELECT * FROM h WHERE tab = 'orders' AND op = 'DELETE'),
g AS (SELECT *, CASE tab WHEN 'levels' THEN 'L' || (old->>'level') || ',v' || (old->>'rev') ELSE (old->>'group_name') || ',r' || (old->>'rev') END was,
	CASE tab WHEN 'levels' THEN 'L' || (new->>'level') || ',v' || (new->>'rev') ELSE (new->>'group_name') || ',r' || (new->>'rev') END now
	FROM h WHERE tab <> 'orders')
SELECT 'order-paid', 0, 0, 'paid ' || (new->>'rev') || ' ' || (new->>'phone') || ' ' || (new->>'openid'), ARRAY[new->>'phone', new->>'openid'], turns, 0::bigint, '', '', '' FROM paid
UNION ALL SELECT 'order-points', 1, 0, 'points ' || (new->>'rev') || ' ' || (new->>'phone') || ' ' || (new->>'openid'), ARRAY[new->>'phone', new->>'openid'], turns,
	floor((new->>'amount')::numeric)::bigint, '', '', '' FROM paid
UNION ALL SELECT 'order-bonus', 2, 0, 'bonus ' || (new->>'rev') || ' ' || (new->>'phone'), ARRAY[new->>'phone'], turns, 7, '', '', '' FROM paid WHERE new->>'goods' = 'bonus'
UNION ALL SELECT 'order-gone', 3, 0, 'gone ' || (old->>'rev') || ' ' || (old->>'openid'), ARRAY[old->>'openid'], turns, 0, '', '', '' FROM gone
UNION ALL SELECT 'member-groups', 4, 0, '', ARRAY[old->>'phone'], turns, 0, 'delete', old->>'phone',
	CASE WHEN old->>'phone' = new->>'phone' AND old->>'group_name' = new->>'group_name' THEN 'r' || (old->>'rev') ELSE was END
	FROM g WHERE tab = 'member_groups' AND op <> 'INSERT'
UNION ALL SELECT 'member-groups', 4, 1, '', ARRAY[new->>'phone'], turns, 0, 'add', new->>'phone',
	CASE WHEN old->>'phone' = new->>'phone' AND old->>'group_name' = new->>'group_name' THEN 'r' || (new->>'rev') ELSE now END
	FROM g WHERE tab = 'member_groups' AND op <> 'DELETE'
UNION ALL SELECT 'levels', 5, 0, '', ARRAY[coalesce(new, old)->>'phone'], turns, 0,
	CASE op WHEN 'INSERT' THEN 'add' WHEN 'UPDATE' THEN 'update' ELSE 'delete' END, coalesce(new, old)->>'phone', coalesce(now, was) FROM g WHERE tab = 'levels'`

// chaosTables gives the groups of each phone as the tables have them now.
const chaosTables = `
SELECT phone, array_agg(name ORDER BY name COLLATE "C") FROM (
	SELECT phone, unnest(ARRAY[group_name, 'r' || rev]) FROM crm.member_groups
	UNION SELECT phone, unnest(ARRAY['L' || level, 'v' || rev]) FROM crm.levels) t (phone, name) GROUP BY 1`

// read reads what the database says.
func (b *chaosBooks) read(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, chaosWanted)
	if err != nil {
		return err
	}
	var w wanted
	var order, number int64
	var identities []string
	var turns map[string]int64
	scan := []any{&w.mapping, &order, &number, &w.key, &identities, &turns, &w.point, &w.opt, &w.phone, &w.groups}
	if _, err := pgx.ForEachRow(rows, scan, func() error {
		one := w
		if one.opt != "" {
			one.key = one.opt + " " + one.phone + " " + one.groups
		}
		one.turns = map[string]turn{}
		for _, id := range identities {
			one.turns[id] = turn{turns[id], order, number}
		}
		b.wanted = append(b.wanted, one)
		w.point, turns = nil, nil
		return nil
	}); err != nil {
		return err
	}
	b.groups = map[string][]string{}
	if rows, err = conn.Query(ctx, chaosTables); err != nil {
		return err
	}
	var phone string
	var groups []string
	if _, err = pgx.ForEachRow(rows, []any{&phone, &groups}, func() error { b.groups[phone] = slices.Clone(groups); return nil }); err != nil {
		return err
	}
	b.skipped = map[string]bool{}
	if rows, err = conn.Query(ctx, `SELECT DISTINCT jsonb_object_keys(turns) FROM chaos.history WHERE skip AND tab <> 'orders'`); err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&phone}, func() error { b.skipped[phone] = true; return nil })
	return err
}

// chaosKey gives the key of what was applied or set aside.
func chaosKey(e platformsim.Endpoint, payload []byte, opt string) (string, error) {
	var p struct {
		Eventargs  struct{ C_key string }
		Identities []struct{ IdentityValue string }
		Remark     string
		PhoneList  []struct{ Phone string }
		Openids    []struct{ Openid string }
		Phone      string
		Groups     string
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return "", err
	}
	var parts []string
	switch e {
	case platformsim.Event:
		parts = append(parts, p.Eventargs.C_key)
		for _, i := range p.Identities {
			parts = append(parts, i.IdentityValue)
		}
	case platformsim.Point:
		parts = append(parts, p.Remark)
		for _, i := range p.PhoneList {
			parts = append(parts, i.Phone)
		}
		for _, i := range p.Openids {
			parts = append(parts, i.Openid)
		}
	default:
		parts = append(parts, opt, p.Phone, p.Groups)
	}
	return strings.Join(parts, " "), nil
}

// letterEndpoint gives the endpoint that a letter's record was for.
func letterEndpoint(l *connector.DeadLetter) platformsim.Endpoint {
	return map[connector.Kind]platformsim.Endpoint{connector.Event: platformsim.Event, connector.Point: platformsim.Point,
		connector.GroupRelation: platformsim.GroupRelation}[l.Kind]
}

// chaosLetterKey gives the key of a dead letter.
func chaosLetterKey(l *connector.DeadLetter) (string, error) {
	if l.Class == connector.ClassMapping {
		var c struct {
			New struct{ Rev, Phone, Openid string }
		}
		err := json.Unmarshal(l.Change, &c)
		return "points " + c.New.Rev + " " + c.New.Phone + " " + c.New.Openid, err
	}
	if len(l.Payload) == 0 {
		return "", fmt.Errorf("no payload: %s", l.Reason)
	}
	return chaosKey(letterEndpoint(l), l.Payload, l.OptType)
}

// chaosCounts is what came of it, for the summary.
type chaosCounts struct {
	wanted, applied, repeats int
	letters                  map[connector.Class]int
}

// judge names what must not be.
func (b *chaosBooks) judge() (problems []string, counts chaosCounts) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	counts = chaosCounts{wanted: len(b.wanted), applied: len(b.applied), letters: map[connector.Class]int{}}
	want := make(map[string]*wanted, len(b.wanted))
	for i := range b.wanted {
		w := &b.wanted[i]
		if want[w.key] != nil {
			say("the history has %s twice", w.key)
		}
		want[w.key] = w
	}
	letters := map[string]*connector.DeadLetter{}
	for _, l := range b.letters {
		counts.letters[l.Class]++
		key, err := chaosLetterKey(l)
		switch {
		case err != nil:
			say("dead letter %d, %s of %s: %v", l.ID, l.Class, l.Mapping, err)
			continue
		case letters[key] != nil:
			say("%s has two dead letters: %d and %d", key, letters[key].ID, l.ID)
		case want[key] == nil || want[key].mapping != l.Mapping:
			say("a dead letter that nobody committed: %s of %s", key, l.Mapping)
		case l.Reason == "":
			say("the dead letter of %s has no reason", key)
		default:
			if why := b.unexplained(l, want[key]); why != "" {
				say("the dead letter of %s, class %s, %+v: %s", key, l.Class, l.Answer, why)
			}
		}
		letters[key] = l
	}
	times := b.compareApplied(want, say)
	counts.repeats = len(b.applied)
	for _, n := range times {
		if n > 0 {
			counts.repeats--
		}
	}
	for key, w := range want {
		l := letters[key]
		switch n := times[key]; {
		case n == 0 && l == nil:
			say("%s of %s is lost", key, w.mapping)
		case w.mapping == "order-points" && n > 1:
			say("%s was given %d times", key, n)
		case w.mapping == "order-points" && n > 0 && l != nil && l.Class != connector.ClassUncertain:
			say("%s was given, and is a dead letter of class %s", key, l.Class)
		case w.point == nil && (l == nil || l.Class != connector.ClassMapping):
			say("%s can't be mapped, and has no dead letter that says so", key)
		}
	}
	b.compareSums(want, letters, say)
	b.compareGroups(times, letters, say)
	slices.Sort(problems)
	return problems, counts
}

// compareApplied goes through what was applied: all of it must be wanted, come in order the first time, and be the same whenever it comes again. It counts
// how often each came.
func (b *chaosBooks) compareApplied(want map[string]*wanted, say func(string, ...any)) map[string]int {
	times := map[string]int{}
	bodies, uuids := map[string]string{}, map[string]string{}
	last, lastKey := map[string]turn{}, map[string]string{}
	for i := range b.applied {
		a := &b.applied[i]
		key, err := chaosKey(a.Endpoint, a.Record, a.OptType)
		w := want[key]
		if err != nil || w == nil {
			say("applied, and nobody committed it: %s (%v)", key, err)
			continue
		}
		if w.point != nil && a.Endpoint == platformsim.Point && a.Point != *w.point {
			say("%s: %d points were given, %d committed", key, a.Point, *w.point)
		}
		if times[key]++; times[key] > 1 {
			if bodies[key] != string(a.Record)+string(a.PublicParams) {
				say("%s came again as something else", key)
			}
			continue
		}
		bodies[key] = string(a.Record) + string(a.PublicParams)
		if a.Endpoint == platformsim.Event {
			if other, taken := uuids[a.UUID]; taken || a.UUID == "" {
				say("%s and %s have one uuid", key, other)
			}
			uuids[a.UUID] = key
		}
		for id, now := range w.turns {
			if before := last[id]; slices.Compare(before[:], now[:]) >= 0 {
				say("customer %s: %s %v came after %s %v", id, key, now, lastKey[id], before)
			}
			last[id], lastKey[id] = now, key
		}
	}
	return times
}

// compareSums compares the points of each customer, those of order-bonus aside, which may come twice.
func (b *chaosBooks) compareSums(want map[string]*wanted, letters map[string]*connector.DeadLetter, say func(string, ...any)) {
	least, most, given := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for key, w := range want {
		if w.mapping != "order-points" || w.point == nil {
			continue
		}
		phone := strings.Fields(key)[2]
		l := letters[key]
		if l == nil {
			least[phone] += *w.point
		}
		if l == nil || l.Class == connector.ClassUncertain {
			most[phone] += *w.point
		}
	}
	for _, a := range b.applied {
		if a.Endpoint == platformsim.Point && strings.HasPrefix(a.Remark, "points ") {
			given[a.Customer] += a.Point
		}
	}
	for phone := range given {
		least[phone] += 0 // so that it is looked at
	}
	for phone, sum := range least {
		if given[phone] < sum || given[phone] > most[phone] {
			say("customer %s has %d points, not %d to %d", phone, given[phone], sum, most[phone])
		}
	}
}

// applyGroups does to a customer's groups what a group relation asks for. An update replaces what begins with the same letter: only levels are updated.
func applyGroups(all map[string]map[string]bool, phone, opt, groups string) {
	set := all[phone]
	if set == nil {
		set = map[string]bool{}
		all[phone] = set
	}
	if opt == "update" {
		for name := range set {
			if name[0] == 'L' || name[0] == 'v' && name != "vip" {
				delete(set, name)
			}
		}
	}
	for name := range strings.SplitSeq(groups, ",") {
		if opt == "delete" {
			delete(set, name)
		} else {
			set[name] = true
		}
	}
}

// compareGroups compares the groups of each customer at the end: with those that the wanted records make, each once and in order, without those that never
// arrived and are dead letters; and where there are none of these, with the tables. What was applied, came again after a kill, behind an older one that came again too, and
// was refused that time, leaves open which of the two has the last word on its groups.
func (b *chaosBooks) compareGroups(times map[string]int, letters map[string]*connector.DeadLetter, say func(string, ...any)) {
	got, should, lettered := map[string]map[string]bool{}, map[string]map[string]bool{}, map[string]bool{}
	for _, a := range b.applied {
		if a.Endpoint == platformsim.GroupRelation {
			applyGroups(got, a.Customer, a.OptType, strings.Join(a.Groups, ","))
		}
	}
	var relations []*wanted
	for i := range b.wanted {
		if b.wanted[i].opt != "" {
			relations = append(relations, &b.wanted[i])
		}
	}
	slices.SortFunc(relations, func(a, b *wanted) int {
		x, y := a.turns[a.phone], b.turns[b.phone]
		return cmp.Or(cmp.Compare(a.phone, b.phone), slices.Compare(x[:], y[:]))
	})
	open := map[string]map[string]bool{}
	for _, w := range relations {
		if letters[w.key] != nil {
			lettered[w.phone] = true
		}
		if times[w.key] == 0 {
			continue
		}
		before := maps.Clone(should[w.phone])
		applyGroups(should, w.phone, w.opt, w.groups)
		if letters[w.key] != nil {
			applyGroups(open, w.phone, "add", w.groups)
			for name := range before { // what an update takes away
				if !should[w.phone][name] {
					open[w.phone][name] = true
				}
			}
		}
	}
	names := func(of map[string]map[string]bool, phone string) []string {
		list := make([]string, 0, len(of[phone]))
		for name := range of[phone] {
			if !open[phone][name] {
				list = append(list, name)
			}
		}
		slices.Sort(list)
		return list
	}
	customers := map[string]bool{}
	for phone := range got {
		customers[phone] = true
	}
	for phone := range should {
		customers[phone] = true
	}
	for phone := range b.groups {
		customers[phone] = true
	}
	for phone := range customers {
		have := names(got, phone)
		if asked := names(should, phone); !slices.Equal(have, asked) {
			say("customer %s has the groups %v, not %v; the ledger: %s", phone, have, asked, b.ledgerOf(phone, have, asked))
		}
		if table := b.groups[phone]; !lettered[phone] && !b.skipped[phone] && !slices.Equal(have, table) {
			say("customer %s has the groups %v, the tables say %v", phone, have, table)
		}
	}
}

// ledgerOf tells when the groups of a customer were applied that are in one of two lists only.
func (b *chaosBooks) ledgerOf(phone string, one, other []string) string {
	var lines []string
	for _, a := range b.applied {
		if a.Customer == phone && slices.ContainsFunc(a.Groups, func(g string) bool { return slices.Contains(one, g) != slices.Contains(other, g) }) {
			lines = append(lines, fmt.Sprintf("%s %v (applied as %d, request %d of %s)", a.OptType, a.Groups, a.Seq, a.Request, a.Received.UTC().Format("15:04:05.000")))
		}
	}
	return strings.Join(lines, ", ")
}

// unexplained says why no fault explains a dead letter; empty: one does.
func (b *chaosBooks) unexplained(l *connector.DeadLetter, w *wanted) string {
	switch {
	case l.Class == connector.ClassMapping && w.point == nil:
		return ""
	case l.Class == connector.ClassMapping:
		return "it could have been mapped: " + l.Reason
	case l.Answer == nil && l.Class == connector.ClassUncertain && b.kills:
		return ""
	case l.Answer == nil:
		return "nothing was answered, and the connector was not killed"
	case !b.answers[letterEndpoint(l)][answerText(l.Answer.HTTPStatus, l.Answer.Code)]:
		return "no fault answers so"
	case l.Class == connector.ClassUncertain && l.Kind != connector.Point:
		return "only points are uncertain"
	case l.Class == connector.ClassUncertain && l.Mapping == "order-bonus" && !strings.Contains(l.Reason, "whenever it was sent alone"):
		return "its mapping wants it sent again"
	}
	return ""
}

func answerText(status int, code string) string { return fmt.Sprintf("%d/%s", status, code) }

// faultAnswers gives the answers of the faults that struck, and of outages.
func faultAnswers(faults []platformsim.InjectedFault, outages bool) map[platformsim.Endpoint]map[string]bool {
	answers := map[platformsim.Endpoint]map[string]bool{}
	add := func(e platformsim.Endpoint, text string) {
		ends := []platformsim.Endpoint{e}
		if e == "" || e == platformsim.Token { // what a record needs the token for fails too
			ends = []platformsim.Endpoint{platformsim.Event, platformsim.Point, platformsim.GroupRelation}
		}
		for _, e := range ends {
			if answers[e] == nil {
				answers[e] = map[string]bool{}
			}
			answers[e][text] = true
		}
	}
	for _, f := range faults {
		if f.Hits == 0 || f.Fault.Action == platformsim.Pass && f.Fault.Delay < chaosTimeout {
			continue
		}
		text := ""
		switch f.Fault.Action {
		case platformsim.AnswerStatus:
			text = answerText(f.Fault.Status, "")
		case platformsim.AnswerCode:
			text = answerText(200, f.Fault.Code)
		case platformsim.AnswerDataFalse, platformsim.PartlyFail, platformsim.AnswerGroupStatus:
			text = answerText(200, "200")
		case platformsim.AnswerHTML, platformsim.AnswerEmpty:
			text = answerText(200, "")
		case platformsim.AnswerTooLarge:
			text = answerText(413, "")
		case platformsim.CutBeforeApply, platformsim.ApplyThenCut, platformsim.Pass:
			text = answerText(0, "")
		case platformsim.CutAnswer:
			add(f.Fault.Endpoint, answerText(200, ""))
			text = answerText(0, "")
		default:
			continue
		}
		add(f.Fault.Endpoint, text)
	}
	if outages {
		add("", answerText(0, ""))
		add("", answerText(503, ""))
	}
	return answers
}
