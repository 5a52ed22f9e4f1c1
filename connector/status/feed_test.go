package status

import (
	"encoding/json"
	"io/fs"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestRates: rates are the mean of the last ten seconds or a little more, also where there were no looks between, and a new pipeline's counters give none below 0.
func TestRates(t *testing.T) {
	f := newFeed(nil)
	at := time.Unix(1_700_000_000, 0)
	look := func(after time.Duration, delivered, requests uint64, seconds float64) *rates {
		at = at.Add(after)
		return f.measure(at, &Snapshot{Tables: []Table{{"crm.orders", 2 * delivered}}, Mappings: []Mapping{{Name: "m", Delivered: delivered}},
			Endpoints: []Endpoint{{Name: "event", Requests: map[string]uint64{"delivered": requests}, Records: delivered, Seconds: seconds}}})
	}
	if r := look(0, 100, 1, 1); r.Over != 0 || len(r.Mappings) != 0 {
		t.Errorf("one look gives %+v", r)
	}
	for range 30 {
		r := look(time.Second, 100, 1, 1)
		if r.Mappings["m"].Delivered != 0 {
			t.Fatalf("%+v", r)
		}
	}
	var r *rates
	for i := range 20 {
		r = look(time.Second, 100+50*uint64(i+1), 1+uint64(i+1), 1+0.25*float64(i+1))
	}
	if r.Over != 10 || r.Mappings["m"].Delivered != 50 || r.Tables["crm.orders"] != 100 || r.Endpoints["event"].Took != 0.25 || r.Endpoints["event"].Requests != 1 {
		t.Errorf("%+v", r)
	}
	if r = look(time.Minute, 1100+600, 21, 6); r.Over < 60 || math.Abs(r.Mappings["m"].Delivered-600/r.Over) > 10 {
		t.Errorf("after a minute without a look: %+v", r)
	}
	if r = look(time.Second, 0, 0, 0); r.Mappings["m"].Delivered != 0 || r.Endpoints["event"].Requests != 0 {
		t.Errorf("counters that begin anew give %+v", r)
	}
	if len(f.samples) > 14 {
		t.Errorf("%d samples are kept", len(f.samples))
	}
}

// TestNothingNewIsNotSaid: a page is told of a snapshot once, and of the next when it differs; one that has just come is told at once.
func TestNothingNewIsNotSaid(t *testing.T) {
	s := Snapshot{State: Streaming}
	f := newFeed(func() Snapshot { return s })
	at := time.Unix(1_700_000_000, 0)
	page := make(chan struct{}, 1)
	look := func(point bool) (told bool) {
		at = at.Add(time.Second + 7*time.Millisecond)
		f.look(at, point)
		select {
		case <-page:
			return true
		default:
			return false
		}
	}
	for range 15 {
		look(false)
	}
	f.pages[page] = at
	if frames := f.frames; !look(false) || f.frames != frames {
		t.Error("a new page is not told how things stand")
	}
	for range 30 {
		if look(false) {
			t.Fatal("a page is told what it knows")
		}
	}
	s.Pending.Records = 1
	if !look(false) || look(false) {
		t.Error("a change is not told once")
	}
	if !look(true) {
		t.Error("a point of the curves is not told")
	}
}

// TestHistory: an hour is kept and no more; a page gets all of it once, and then what is new.
func TestHistory(t *testing.T) {
	var h history
	for i := range 3 * pointsKept {
		h.add(point{at: int64(i)})
		if i == 9 {
			if got := h.since(0); len(got) != 10 || got[0].at != 0 || got[9].at != 9 {
				t.Errorf("%v", got)
			}
		}
	}
	all := h.since(0)
	if len(all) != pointsKept || all[0].at != int64(2*pointsKept) || all[pointsKept-1].at != int64(3*pointsKept-1) {
		t.Errorf("%d points, from %d to %d", len(all), all[0].at, all[len(all)-1].at)
	}
	if got := h.since(h.added - 2); len(got) != 2 || got[1].at != int64(3*pointsKept-1) || len(h.since(h.added)) != 0 {
		t.Errorf("%v", got)
	}
	p := point{at: 5, lagSeconds: 0.123456, lagBytes: math.NaN(), retainedBytes: 1 << 40}
	text := string(p.appendJSON(nil))
	var values []*float64
	if err := json.Unmarshal([]byte(text), &values); err != nil || len(values) != 8 || values[2] != nil || *values[1] != 0.1235 || *values[3] != 1100000000000 {
		t.Errorf("%s: %v", text, err)
	}
}

// TestStrings: each text is there in both languages, with the same names in it; each that the page asks for is there, and none is left over.
func TestStrings(t *testing.T) {
	raw, err := fs.ReadFile(pageFiles, "page/strings.json")
	if err != nil {
		t.Fatal(err)
	}
	var table map[string]map[string]any
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\{\w+\}`)
	forms := func(v any) map[string]string {
		switch v := v.(type) {
		case string:
			return map[string]string{"other": v}
		case map[string]any:
			m := map[string]string{}
			for k, f := range v {
				m[k], _ = f.(string)
			}
			return m
		}
		return nil
	}
	set := func(text string) map[string]bool {
		s := map[string]bool{}
		for _, n := range names.FindAllString(text, -1) {
			s[n] = true
		}
		return s
	}
	for key, texts := range table {
		en, zh := forms(texts["en"]), forms(texts["zh"])
		if len(texts) != 2 || en["other"] == "" || zh["other"] == "" {
			t.Errorf("%s: %v", key, texts)
			continue
		}
		if a, b := set(en["other"]), set(zh["other"]); len(a) != len(b) {
			t.Errorf("%s: the languages fill in different things: %v and %v", key, a, b)
		} else {
			for n := range a {
				if !b[n] {
					t.Errorf("%s: %s is missing in Chinese", key, n)
				}
			}
		}
	}
	var code strings.Builder
	for _, name := range []string{"index.html", "page.js", "text.js", "ask.js", "flow.js", "curve.js", "letters.js"} {
		b, err := fs.ReadFile(pageFiles, "page/"+name)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(b)
	}
	page := code.String()
	for _, m := range regexp.MustCompile(`\bt\("([\w.-]+)"[,)]|data-text="([\w.-]+)"`).FindAllStringSubmatch(page, -1) {
		if key := m[1] + m[2]; table[key] == nil {
			t.Errorf("the page asks for %s, which is not there", key)
		}
	}
	// Those that are put together from a prefix and a name of the program.
	made := regexp.MustCompile(`^(alarm|state|class|help|stands|kind|endpoint|curve|hold|backfill|unit)\.|^verdict-`)
	for key := range table {
		if !made.MatchString(key) && !strings.Contains(page, `"`+key+`"`) {
			t.Errorf("%s is not used", key)
		}
	}
	needed := []string{"state." + Starting, "state." + Streaming, "state." + Waiting, "state." + Stopped}
	for _, class := range connector.Classes {
		needed = append(needed, "class."+string(class), "help."+string(class))
	}
	for e := connector.PointEndpoint; e <= connector.GroupRelationEndpoint; e++ {
		needed = append(needed, "endpoint."+e.String(), "alarm.delivery."+e.String())
	}
	for _, v := range []connector.Verdict{connector.TokenRefused, connector.SetupWrong, connector.SlowDown, connector.Outage} {
		needed = append(needed, "verdict-"+v.String())
	}
	for _, kind := range []connector.Kind{connector.Point, connector.Event, connector.GroupRelation} {
		needed = append(needed, "kind."+kind.String())
	}
	for _, hold := range []connector.Hold{connector.HoldMisfit, connector.HoldFailing, connector.HoldBrake} {
		needed = append(needed, "hold."+string(hold))
	}
	for _, how := range []string{connector.ResolvedDelivered, connector.ResolvedPassedOver, connector.ResolvedDropped} {
		needed = append(needed, "stands."+how)
	}
	for _, need := range needed {
		if table[need] == nil {
			t.Errorf("%s is missing", need)
		}
	}
}
