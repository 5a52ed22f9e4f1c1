package strict

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func env(pairs ...string) func(string) (string, bool) {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

// value parses "v: <text>" and gives the node of v.
func value(t *testing.T, text string, ps *Problems, vars ...string) Node {
	t.Helper()
	n := Parse("f", []byte("v: "+text+"\n"), env(vars...), ps)
	v := n.Fields("v")["v"]
	if v.IsZero() {
		t.Fatalf("%q did not parse: %v", text, ps.Err())
	}
	return v
}

func texts(ps *Problems) string {
	if err := ps.Err(); err != nil {
		return err.Error()
	}
	return ""
}

func TestSyntaxErrorsNameTheirLine(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"a: 1\nb:\n\tc: 2\nd: 1\ne: 2\n", "f:3:1: not valid YAML: this line is indented with a tab"},
		{"a: 1\nb:\n  c: 2\n   d: 1\ne: 2\n", "f:4:4: not valid YAML: mapping values are not allowed"},
		{"a: 1\nb:\n  c: {x: ${X}}\n  d: 1\ne: 2\n", "f:3:3: not valid YAML: did not find expected ',' or '}'"},
		{"a: 1\nb:\n  c: foo: bar\n  d: 1\ne: 2\n", "f:3:3: not valid YAML: mapping values"},
		{"a: 1\nb:\n  c: \"foo\n  d: 1\ne: 2\n", "f:3:3: not valid YAML: found unexpected end of stream"},
		{"a: 1\nb:\n  c: [1, 2\n  d: 1\ne: 2\n", "f:3:3: not valid YAML: did not find expected ',' or ']'"},
		{"a: 1\nb:\n  - c: 1\n  d: 1\ne: 2\n", "f:4:3: not valid YAML: did not find expected '-' indicator"},
		{"a: 1\nb:\n  c: *s3cret\n  d: 1\n", "f:3:3: not valid YAML: an alias (*name) without its anchor"},
		{"a: 1\nb: @foo\nc: 1\n", "f:2:1: not valid YAML: a value can't begin"},
		{"a: 1\nb: \"a\\qb\"\nc: 1\n", "f:2:1: not valid YAML: found unknown escape"},
		{"a: 1\nb\nc: 2\nd: 1\n", "f:2:1: not valid YAML: could not find expected ':'"},
		{"a: 1\nb: 'x' y\nc: 2\nd: 1\n", "f:2:1: not valid YAML: did not find expected key"},
		{"a: 1\nb: \x01\nc: 2\n", "f:2:1: not valid YAML: control characters"},
		{"a: 1\nb: 2\n]\nc: 1\n", "f:3:1: not valid YAML: did not find"},
		{"a: 1\nb: \xb6\xa9\xb5\xa5\nc: 2\n", "f:2:1: this line is not UTF-8"},
		{"a: 1\n---\nb: 2\n", "f:2:1: a second YAML document"},
		{"a: &x [*x]\n", "f:1:8: this alias stands inside"},
		{"a: !!int 5\n", "f:1:4: the YAML tag \"!!int\" is not supported"},
		{"a: {x: 1}\nb:\n  <<: {y: 1}\n", "f:3:3: the merge key <<"},
	} {
		var ps Problems
		n := Parse("f", []byte(c.yaml), nil, &ps)
		if got := texts(&ps); !strings.HasPrefix(got, c.want) {
			t.Errorf("%q:\n got %s\nwant %s", c.yaml, got, c.want)
		} else if strings.Contains(got, "s3cret") {
			t.Errorf("%q: a value is shown: %s", c.yaml, got)
		}
		n.Fields("a", "b", "c", "d", "e") // the zero Node, or what could be read: no panic
	}
}

func TestAliasesAreFollowedButNotWithoutEnd(t *testing.T) {
	var ps Problems
	top := Parse("f", []byte("a: &x\n  k: 7\nb: *x\n"), nil, &ps).Fields("a", "b")
	if i, ok := top["b"].Fields("k")["k"].Int(0, 9); !ok || i != 7 {
		t.Fatal(i, ok, ps.Err())
	}
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	if n := Parse("f", []byte(bomb.String()), nil, &ps); !n.IsZero() || !strings.Contains(texts(&ps), "more than 200000 values") {
		t.Fatal(n.Kind(), ps.Err())
	}
}

func TestEmptyFiles(t *testing.T) {
	for _, s := range []string{"", "# nothing\n", "---\n", "~\n"} {
		var ps Problems
		if n := Parse("f", []byte(s), nil, &ps); !n.IsNull() || len(n.Fields("a")) != 0 || ps.Len() != 0 || n.Line() == 0 {
			t.Errorf("%q: %s %v", s, n.Kind(), ps.Err())
		}
	}
}

func TestFields(t *testing.T) {
	var ps Problems
	n := Parse("f", []byte("bsaeURL: 1\nbase_url: 2\nzzz: 3\nslot: 4\nslot: 5\n? [x]\n: 1\n"), nil, &ps)
	got := n.Fields("baseURL", "slot")
	if v, _ := got["slot"].Int(0, 9); v != 4 || len(got) != 2 {
		t.Errorf("%v", got)
	}
	if v, _ := got["baseURL"].Int(0, 9); v != 1 || got["baseURL"].Key() != "baseURL" {
		t.Errorf("a misspelled key does not stand in for what was meant: %d", v)
	}
	want := strings.Join([]string{
		`f:1:1: unknown key "bsaeURL": did you mean "baseURL"?`,
		`f:2:1: unknown key "base_url": did you mean "baseURL"?`,
		`f:3:1: unknown key "zzz"`,
		`    Known here: baseURL, slot.`,
		`f:5:1: the key "slot" comes twice: it is already in line 4`,
		`f:6:3: a key must be text, got a list`,
		"    A value that begins with ${ { or [ may need quotes.",
	}, "\n")
	if texts(&ps) != want {
		t.Errorf("got\n%s\nwant\n%s", texts(&ps), want)
	}
	var errs *Errors
	if !errors.As(ps.Err(), &errs) || len(errs.Problems) != 5 {
		t.Error(ps.Err())
	}
}

func TestZeroNodeIsSilent(t *testing.T) {
	var n Node
	_, a := n.Text()
	_, b := n.Bool()
	_, c := n.Int(0, 1)
	_, d := n.Duration()
	_, e := n.Size()
	_, f := n.Enum("x")
	_, g := n.Template()
	n.Problem("nowhere")
	if a || b || c || d || e || f || g || n.Fields("x")["x"].doc != nil || n.Items() != nil || n.Pairs() != nil || n.Line()+n.Column() != 0 ||
		n.File()+n.Raw()+n.Tag() != "" || !n.IsZero() || n.IsNull() || n.Sub(3).Line() != 0 {
		t.Fatal("the zero Node has a value")
	}
}

func TestScalars(t *testing.T) {
	read := map[string]func(Node) (any, bool){
		"bool":     func(n Node) (any, bool) { return wrap(n.Bool()) },
		"int":      func(n Node) (any, bool) { return wrap(n.Int(0, 500)) },
		"anyint":   func(n Node) (any, bool) { return wrap(n.Int(math.MinInt64, math.MaxInt64)) },
		"float":    func(n Node) (any, bool) { return wrap(n.Float(0, 10)) },
		"duration": func(n Node) (any, bool) { return wrap(n.Duration()) },
		"size":     func(n Node) (any, bool) { return wrap(n.Size()) },
		"enum":     func(n Node) (any, bool) { return wrap(n.Enum("debug", "info", "warn")) },
		"text":     func(n Node) (any, bool) { return wrap(n.Text()) },
	}
	vars := []string{"T", "true", "N", "42", "E", "", "S3", "hush\n- x: 1", "D", "5s", "Q", "'\": }\n#"}
	for _, c := range []struct {
		as, yaml string
		want     any
		problem  string
	}{
		{"bool", "true", true, ""},
		{"bool", "False", false, ""},
		{"bool", "${T}", true, ""},
		{"bool", `"true"`, nil, `f:1:4: v: want true or false, got the text "true": take the quotes away`},
		{"bool", "yes", nil, `f:1:4: v: want true or false, got "yes"`},
		{"bool", "${N}", nil, `f:1:4: v: want true or false, got "${N}"`},
		{"bool", "[true]", nil, `f:1:4: v: want true or false, got a list`},
		{"int", "500", int64(500), ""},
		{"int", "${N}", int64(42), ""},
		{"int", `"${N}"`, int64(42), ""},
		{"int", "${X:-7}", int64(7), ""},
		{"int", "501", nil, `f:1:4: v: want a whole number from 0 to 500, got "501"`},
		{"int", "-1", nil, `f:1:4: v: want a whole number from 0 to 500, got "-1"`},
		{"int", "010", nil, `f:1:4: v: want a whole number from 0 to 500, got "010"`},
		{"int", "1_0", nil, `f:1:4: v: want a whole number from 0 to 500, got "1_0"`},
		{"int", "1.5", nil, `f:1:4: v: want a whole number from 0 to 500, got "1.5"`},
		{"int", `"5"`, nil, `f:1:4: v: want a whole number from 0 to 500, got the text "5": take the quotes away`},
		{"int", "", nil, `f:1:3: v: want a whole number from 0 to 500, got nothing`},
		{"int", "${S3}", nil, `f:1:4: v: want a whole number from 0 to 500, got "${S3}"`},
		{"anyint", "9223372036854775807", int64(math.MaxInt64), ""},
		{"anyint", "9223372036854775808", nil, `f:1:4: v: want a whole number, got "9223372036854775808"`},
		{"float", "0.5", 0.5, ""},
		{"float", "10", 10.0, ""},
		{"float", ".inf", nil, `f:1:4: v: want a number from 0 to 10, got ".inf"`},
		{"float", "1e1", nil, `f:1:4: v: want a number from 0 to 10, got "1e1"`},
		{"duration", "90d", 90 * 24 * time.Hour, ""},
		{"duration", "1d12h", 36 * time.Hour, ""},
		{"duration", "${D}", 5 * time.Second, ""},
		{"duration", "0", time.Duration(0), ""},
		{"duration", "10", nil, `f:1:4: v: want a duration like 200ms, 10s, 15m or 2h, got "10": add the unit`},
		{"duration", "-10s", nil, `f:1:4: v: want a duration like 200ms, 10s, 15m or 2h, got "-10s"`},
		{"duration", "10sec", nil, `f:1:4: v: want a duration like 200ms, 10s, 15m or 2h, got "10sec"`},
		{"duration", "99999d9999999h", nil, `f:1:4: v: want a duration like 200ms, 10s, 15m or 2h, got "99999d9999999h"`},
		{"size", "8MiB", int64(8 << 20), ""},
		{"size", "500KB", int64(500_000), ""},
		{"size", "4096", int64(4096), ""},
		{"size", "8m", nil, `f:1:4: v: want a size like 500KB, 1MiB or 10GiB, got "8m": did you mean "8MiB"?`},
		{"size", "8mib", nil, `f:1:4: v: want a size like 500KB, 1MiB or 10GiB, got "8mib": did you mean "8MiB"?`},
		{"size", "8 bytes", nil, `f:1:4: v: want a size like 500KB, 1MiB or 10GiB, got "8 bytes"`},
		{"size", "99999999999TiB", nil, `f:1:4: v: "99999999999TiB" is too large a size`},
		{"enum", "info", "info", ""},
		{"enum", "inof", nil, `f:1:4: v: want debug, info or warn, got "inof": did you mean "info"?`},
		{"enum", "${S3}", nil, `f:1:4: v: want debug, info or warn, got "${S3}"`},
		{"text", "1420.00", "1420.00", ""},
		{"text", "a ${N} b", "a 42 b", ""},
		{"text", "${S3}", "hush\n- x: 1", ""},
		{"text", "'${Q}'", "'\": }\n#", ""},
		{"text", "x${E}", "x", ""},
		{"text", "${E:-d}", "d", ""},
		{"text", "${X:-}", "", ""},
		{"text", `${{ a + "${N}" }}`, `${{ a + "${N}" }}`, ""},
		{"text", "'a ${{ {\"}}\":{\"b\":2}} }} ${N}'", `a ${{ {"}}":{"b":2}} }} 42`, ""},
		{"text", "订单 ${X}", nil, "f:1:7: v: the environment variable X is not set\n    Set it, or give a default: ${X:-default}."},
		{"text", "a ${1}", nil, "f:1:6: v: ${ begins neither a variable, ${NAME} or ${NAME:-default}, nor an expression, ${{ }}"},
		{"text", "a ${{ b }", nil, "f:1:6: v: the expression that ${{ begins has no }}"},
		{"text", "${{ any(x, # > 1) }}", nil, "f:1:4: v: the expression that ${{ begins has no }}\n    A # behind a blank begins a comment in YAML: put the value in quotes, '...'."},
		{"text", "'${{ any(x, # > 1) }}'", "${{ any(x, # > 1) }}", ""},
		{"text", "{a: 1}", nil, "f:1:4: v: want text, got a mapping"},
		{"text", "~", nil, "f:1:4: v: want text, got nothing"},
	} {
		var ps Problems
		got, ok := read[c.as](value(t, c.yaml, &ps, vars...))
		if ok != (c.problem == "") || ok && got != c.want || texts(&ps) != c.problem {
			t.Errorf("%s %q: got %v %v\n%s\nwant %v\n%s", c.as, c.yaml, got, ok, texts(&ps), c.want, c.problem)
		}
		if strings.Contains(texts(&ps), "hush") {
			t.Errorf("%s %q shows what a variable holds", c.as, c.yaml)
		}
	}
}

func wrap[T any](v T, ok bool) (any, bool) { return v, ok }

// TestVariablesAddNoExpression: what a variable holds stays literal, whatever it looks like.
func TestVariablesAddNoExpression(t *testing.T) {
	var ps Problems
	parts, ok := value(t, "a${V}b ${{ x }} c", &ps, "V", "${{ new.phone }}").Template()
	if !ok || len(parts) != 3 || parts[0] != (Part{Text: "a${{ new.phone }}b ", Offset: 0, End: 7}) ||
		parts[1] != (Part{Text: " x ", Expr: true, Offset: 10, End: 15}) || parts[2].Text != " c" {
		t.Fatalf("%+v", parts)
	}
}

func TestTag(t *testing.T) {
	for yaml, want := range map[string]string{
		"1": "int", "'1'": "str", "1.50": "float", "true": "bool", "'true'": "str", "yes": "str", "~": "null", "2024-01-01": "timestamp",
		"${X}": "str", "下单": "str", "|\n  1": "str", "[1]": "", "!!str 1": "str",
	} {
		var ps Problems
		if got := value(t, yaml, &ps).Tag(); got != want {
			t.Errorf("%s: %q, want %q", yaml, got, want)
		}
	}
}

// TestSub puts a mark into a scalar written in each of YAML's ways and asks where it is.
func TestSub(t *testing.T) {
	for _, yaml := range []string{
		"plain 下单 @ more",
		"plain\n  folded @ more",
		"plain\n\n\n  folded\n  again @ more",
		`"double 下单 \" \n \u4e0b @ more"`,
		"\"double   \n   folded @\"",
		"'single ''quoted'' @ more'",
		"'single\n\n  folded @'",
		"|\n  first\n\n  second @ more\n",
		"|-\n\n    first\n      second @ more\n",
		">\n  first\n  second\n  third @ more\n",
		">-\n  first\n\n  second\n  @ more\n",
		"&anchor 'x @'",
		"!!str x@x",
		"@",
	} {
		if yaml == "@" {
			yaml = "'@'"
		}
		var ps Problems
		file := "\ufeffk: 1\r\nv: " + strings.ReplaceAll(yaml, "\n", "\r\n") + "\r\n"
		n := Parse("f", []byte(file), nil, &ps).Fields("k", "v")["v"]
		if ps.Len() > 0 {
			t.Fatal(ps.Err())
		}
		at := n.Sub(strings.Index(n.Raw(), "@"))
		line, column := 0, 0
		for i, text := range strings.Split(strings.TrimPrefix(file, "\ufeff"), "\r\n") {
			if j := strings.Index(text, "@"); j >= 0 {
				line, column = i+1, len([]rune(text[:j]))+1
			}
		}
		if at.Line() != line || at.Column() != column {
			t.Errorf("%q: %d:%d, want %d:%d", yaml, at.Line(), at.Column(), line, column)
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"baseURL", "appSecret", "on", "eventKey", "identityType", "maxBatch", "maxBatchBytes", "slot"}
	for name, want := range map[string]string{
		"baseurl": "baseURL", "base_url": "baseURL", "apSecret": "appSecret", "appSecert": "appSecret", "event_key": "eventKey",
		"identitytypes": "identityType", "no": "on", "maxBatchs": "maxBatch", "max": "maxBatch", "frobnicate": "", "tolls": "", "": "",
	} {
		if got := Suggest(name, known); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// FuzzParse: no input makes it panic or hang.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a: &x [*x]\n", "a: 1\n---\n", "{a: ${X}}", "? |\n a\n: >\n  b ${Y:-z}", "\t", "a: \"\\u12\"", "\ufeffa: !!str"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var ps Problems
		var walk func(Node, int)
		walk = func(n Node, depth int) {
			if depth > 50 {
				return
			}
			if n.IsScalar() {
				n.Text()
				n.Size()
				n.Duration()
				for i := range len(n.Raw()) + 1 {
					if at := n.Sub(i); at.Line() < 1 || at.Column() < 1 {
						t.Fatalf("no place for byte %d of %q", i, n.Raw())
					}
				}
			}
			if n.IsMap() {
				for _, p := range n.Pairs() {
					walk(p.Value, depth+1)
				}
			}
			if n.IsList() {
				for _, i := range n.Items() {
					walk(i, depth+1)
				}
			}
		}
		if len(data) < 500 {
			walk(Parse("f", data, env("X", "1"), &ps), 0)
		}
		_ = ps.Err()
	})
}
