package platformsim

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParse: nothing panics; what is taken is JSON, and what is JSON is taken but for what the standard library is lax about.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{goodPoint, goodEvent, goodGroup, goodOpen, ``, ` `, `{`, `[1,2`, `"\u00e9\ud83d\ude00"`, `"\ud800x"`, `{"a":1,"a":2}`, `-`, `1.`, `1e`,
		`-0.5E+10`, `[[[]]]`, `tru`, `nullx`, "\"\x01\"", `{"a" : [ true , false , null ] }`, strings.Repeat("[", 100), "\xff", `{"":{}}`, `"\`, `"\u12`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var d doc
		bad := d.parse(body)
		switch valid := json.Valid(body); {
		case bad == nil && (!valid || !utf8.Valid(body)):
			t.Fatalf("%q was taken", body)
		case bad != nil && valid && !strings.Contains(bad.what, "twice") && !strings.Contains(bad.what, "UTF-8") &&
			!strings.Contains(bad.what, "wrong escape") && !strings.Contains(bad.what, "too deep"):
			t.Fatalf("%q was refused: %v", body, bad)
		}
		if bad == nil && d.nodes[0].kind == '"' {
			var want string
			if err := json.Unmarshal(body, &want); err != nil || string(d.bytes(0)) != want {
				t.Fatalf("%q reads %q, want %q", body, d.bytes(0), want)
			}
		}
		for _, e := range []Endpoint{Point, PointOpen, Event, GroupRelation} { // no panic
			(&reader{keep: true}).read(e, body)
		}
	})
}

func TestParseTree(t *testing.T) {
	var d doc
	const body = ` {"a" : [1, "x\n"], "\u0062":{}, "c":-1.50e2, "d":null} `
	if bad := d.parse([]byte(body)); bad != nil {
		t.Fatal(bad)
	}
	var got []string
	for m := d.nodes[0].child; m != 0; m = d.nodes[m].next {
		got = append(got, string(d.nodes[m].key)+"="+string(d.raw(m)))
	}
	if s := strings.Join(got, ";"); s != `a=[1, "x\n"];b={};c=-1.50e2;d=null` || d.nodes[0].n != 4 {
		t.Errorf("read as %s", s)
	}
	array := d.nodes[0].child
	if x := d.nodes[d.nodes[array].child].next; d.string(x) != "x\n" {
		t.Errorf("the string is %q", d.string(x))
	}
}

func TestTwinsAmongMany(t *testing.T) {
	var d doc
	var b strings.Builder
	b.WriteString("{")
	for i := range 100 {
		b.WriteString(`"k` + strings.Repeat("x", i) + `":1,`)
	}
	if bad := d.parse([]byte(b.String() + `"z":1}`)); bad != nil {
		t.Error(bad)
	}
	if bad := d.parse([]byte(b.String() + `"kxx":1}`)); bad == nil || !strings.Contains(bad.what, "twice") {
		t.Errorf("a repeated key was taken: %v", bad)
	}
}

func TestQuoteCutsBetweenCharacters(t *testing.T) {
	if got := quote([]byte(strings.Repeat("订", 30))); got != `"`+strings.Repeat("订", 26)+`…"` {
		t.Errorf("quoted as %s", got)
	}
}
