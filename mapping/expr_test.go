package mapping

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// wide is a table with a column of each kind, wideNew and wideOld are rows of it.
func wide() *connector.Table {
	return columns(&connector.Table{OID: 16400, Schema: "crm", Name: "wide", Identity: connector.IdentityFull},
		"id", pgtype.Int8OID, "small", pgtype.Int2OID, "amount", pgtype.NumericOID, "ratio", pgtype.Float8OID, "single", pgtype.Float4OID,
		"paid", pgtype.BoolOID, "name", pgtype.TextOID, "code", pgtype.BPCharOID, "made_at", pgtype.TimestampOID,
		"seen_at", pgtype.TimestamptzOID, "born", pgtype.DateOID, "doc", pgtype.JSONBOID, "tags", pgtype.TextArrayOID,
		"sums", pgtype.NumericArrayOID, "key", pgtype.UUIDOID, "raw", pgtype.ByteaOID, "nothing", pgtype.TextOID,
		"no_sum", pgtype.NumericOID, "no_flag", pgtype.BoolOID, "nan", pgtype.NumericOID, "Order No", pgtype.TextOID, "kind", 70000,
		"endless", pgtype.TimestampOID, "count", pgtype.Int4OID)
}

func wideRow() connector.Tuple {
	return tuple("860484273911119872", "7", "1420.00", "0.25", "0.1", "t", `下单 "x"`, "ab   ", "2024-05-01 12:00:00.5",
		"2024-05-01 04:00:00.123456+00", "1990-01-02", `{"a": 1, "big": 12345678901234567890, "price": 0.10, "list": [{"n": 2}, {"n": 3}], "s": "t"}`,
		`{vip,"a,b",NULL}`, "{1.10,2}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", `\x00ff`, nil, nil, nil, "NaN", "N-1", "gold", "infinity", "3")
}

func testRow(op connector.Op, table *connector.Table, new, old connector.Tuple) *row {
	r := &row{zone: shanghai}
	r.set(change(op, table, new, old))
	return r
}

// compileExpr compiles an expression that stands in a file; problems come as text.
func compileExpr(t *testing.T, source string, table *connector.Table) (*program, string) {
	t.Helper()
	var ps strict.Problems
	node := strict.Parse("m.yaml", []byte("when: |-\n  "+strings.ReplaceAll(source, "\n", "\n  ")+"\n"), nil, &ps).Fields("when")["when"]
	e := newExpression(node, 0, node.Raw(), &ps)
	if e == nil {
		return nil, ps.Err().Error()
	}
	p := e.compile(table, shanghai, &ps)
	if p == nil {
		return nil, ps.Err().Error()
	}
	return p, ""
}

// evaluate gives the value as JSON, its type in front, or the error.
func evaluate(t *testing.T, source string, r *row) string {
	t.Helper()
	p, problem := compileExpr(t, source, r.change.Table)
	if problem != "" {
		return "problem: " + problem
	}
	v, err := p.run(r)
	if err != nil {
		return "error: " + err.Error()
	}
	text, err := appendValue(nil, v)
	if err != nil {
		return "error: " + err.Error()
	}
	return typeWord(v) + " " + string(text)
}

func TestExpressions(t *testing.T) {
	r := testRow(connector.Update, wide(), wideRow(), wideRow())
	for source, want := range map[string]string{
		// integers
		"1 + 2 * 3": "int 7", "7 / 2": "decimal 3.5", "4 / 2": "decimal 2", "1 / 3": "decimal 0.33333333333333333333", "100 / 10": "decimal 10",
		"2 / 3": "decimal 0.66666666666666666667", "7 % 3": "int 1", "-7 % 3": "int -1", "2 ** 10": "int 1024", "2 ** -2": "decimal 0.25",
		"id": "int 860484273911119872", "id + 1": "int 860484273911119873", "-id": "int -860484273911119872", "id * 10 / 10": "decimal 860484273911119872",
		"9223372036854775807 + 1":        "error: the result does not fit into 64 bits",
		"-9223372036854775807 - 2":       "error: the result does not fit into 64 bits",
		"9223372036854775807 * 2":        "error: the result does not fit into 64 bits",
		"-(-9223372036854775807 - 1)":    "error: the result does not fit into 64 bits",
		"(-9223372036854775807 - 1) * 1": "int -9223372036854775808", "10 ** 30": "error: the result does not fit into 64 bits",
		"id * id": "error: the result does not fit into 64 bits", "1 / 0": "error: division by zero", "amount / 0": "error: division by zero",
		"1 % 0": "error: division by zero", "ratio / 0.0": "error: division by zero",
		// decimals
		"amount": "decimal 1420.00", "amount + 0": "decimal 1420.00", "amount * 100": "decimal 142000.00", "amount / 3": "decimal 473.33333333333333333333",
		"0.1 + 0.2": "decimal 0.3", "0.29 * 100": "decimal 29.00", "int(floor(0.29 * 100))": "int 29", "(no_sum ?? 0) * 100": "int 0",
		"(no_sum ?? 0.29) * 100": "decimal 29.00", "(amount ?? 0) * 100": "decimal 142000.00", "-amount": "decimal -1420.00", "amount % 3": "decimal 1.00",
		"amount > 1420": "bool false", "amount == 1420": "bool true", "amount >= 1420.00": "bool true", "amount != ratio": "bool true",
		"ratio == 0.25": "bool true", "amount in [1, 1420]": "bool true", "amount in [1.5, 1420.0]": "bool true", "1420 == amount": "bool true",
		"abs(-amount)": "decimal 1420.00", "floor(-1.5)": "decimal -2", "ceil(-1.5)": "decimal -1", "round(2.5)": "decimal 3", "round(-2.5)": "decimal -3",
		"int(-1.9)": "int -1", "int(2.5)": "int 2", `int("42")`: "int 42", `int("42.5")`: "error: int: the text is no whole number of 64 bits",
		"int(9999999999999999.0 * 10000)": "error: the result does not fit into 64 bits", "int(1e3)": "int 1000", "1e3": "decimal 1000",
		"float(amount)": "float 1420", "string(amount)": `string "1420.00"`, "string(id)": `string "860484273911119872"`,
		"string(nothing)": "nil null", "min(amount, 3, 2.5)": "decimal 2.5", "max([amount, 3])": "decimal 1420.00", "sum([amount, 0.01, 1])": "decimal 1421.01",
		"sum(sums)": "decimal 3.10", "sum([1, 2])": "int 3", "mean([1, 2])": "decimal 1.5", "median([3, 1, 2.5])": "decimal 2.5",
		"paid ? amount : 0": "decimal 1420.00", "1.5 ** 2": "decimal 2.25", "10 / 4": "decimal 2.5", "0.1 * 3 == 0.3": "bool true",
		"12345678901234567.0": "problem: m.yaml:2:3: the number has 18 significant digits, at most 17 are read exactly",
		"1234567890123456.7":  "decimal 1234567890123456.7", ".5": "decimal 0.5", "1_000.5": "decimal 1000.5",
		// floats
		"ratio": "float 0.25", "ratio * 2": "decimal 0.50", "ratio * ratio": "float 0.0625", "single": "float 0.1", "single * 3": "decimal 0.3",
		"ratio + amount": "decimal 1420.25", "nan": "error: the value is NaN or infinity, which JSON can't hold", "nan + 1": "error: NaN or infinity can't be computed with",
		"nan > 1": "error: NaN or infinity can't be computed with", "int(nan)": "error: NaN or infinity can't be computed with",
		// text, null
		"name": `string "下单 \"x\""`, "name[0:2]": `string "下单"`, "len(name)": "int 6", "upper(code) + '!'": `string "AB!"`, `code == "ab"`: "bool true",
		"nothing": "nil null", "nothing == nil": "bool true", "name != nil": "bool true", `nothing ?? "x"`: `string "x"`, "no_sum": "nil null",
		"no_sum + 1": "error: + can't take null and a number (give a null a default: (x ?? 0))", "no_sum == 0": "bool false",
		"no_sum > 0":      "error: > can't take null and a number (give a null a default: (x ?? 0))",
		"upper(nothing)":  "error: the expression failed: a function got null where it takes text; give a null a default: (x ?? ...)",
		"no_flag && paid": "error: true or false is wanted here, got null (give a null a default: (x ?? false))",
		"!no_flag":        "error: true or false is wanted here, got null (give a null a default: (x ?? false))", "(no_flag ?? false) || paid": "bool true",
		"not paid": "bool false", "name contains '下'": "bool true", "nothing contains 'x'": "bool false", "name not in ['a']": "bool true",
		// times
		"made_at": `time "2024-05-01T12:00:00.500+08:00"`, "seen_at": `time "2024-05-01T12:00:00.123+08:00"`, "born": `time "1990-01-02"`,
		"seen_at < made_at": "bool true", `seen_at > date("2024-05-01")`: "bool true", `date("2024-05-01 12:00:00") == commitTime`: "bool false",
		"seen_at == commitTime": "bool true", `made_at + duration("1h")`: `time "2024-05-01T13:00:00.500+08:00"`, "(made_at - seen_at).Seconds() > 0.3": "bool true",
		"made_at.Year()": "int 2024", "int(made_at.Month()) == 5": "bool true", "born.Year() + 1": "int 1991", `born < date("2000-01-01")`: "bool true",
		"seen_at.UnixMilli()": "int 1714536000123", `made_at.In(timezone("UTC")).Hour()`: "int 4", `made_at.Format("2006-01-02")`: `string "2024-05-01"`,
		"made_at.After(born)": "bool true", "made_at.AddDate(0, 0, 1).Day()": "int 2", "(seen_at ?? born).Before(made_at)": "bool true",
		"endless": "error: the value is infinity, which is no time that can be sent", "endless > made_at": "bool true", "endless == endless": "bool true",
		"endless < commitTime": "bool false", "endless - made_at": "error: - can't take an infinite timestamp and a timestamp", "endless == nil": "bool false",
		"type(endless)": `string "time"`, `endless > date("9999-12-31") ? nil : endless`: "nil null",
		"endless.Year()":         "error: the expression failed: a field was read of what has none; x?.field is null where x is null",
		"made_at.After(endless)": "error: the expression failed: a function got a value that it does not take",
		// JSON and lists
		"doc.a + 1": "int 2", "doc.big": "decimal 12345678901234567890", "doc.price": "decimal 0.10", "doc.none": "nil null", "doc?.none?.x": "nil null",
		"doc.none.x":        "error: the expression failed: a field was read of what has none; x?.field is null where x is null",
		"sum(doc.list, .n)": "int 5", "sum(doc.list, .n * 0.5)": "decimal 2.5", "map(doc.list, .n)": "array [2,3]", "filter(doc.list, .n > 2)": `array [{"n":3}]`,
		"any(doc.list, .n == 3.0)": "bool true", "count(doc.list, .n > 1)": "int 2", "find(doc.list, .n == 3).n": "int 3",
		"sortBy(doc.list, .n, 'desc')": `array [{"n":3},{"n":2}]`, "sort([3, 1.5, 2])": "array [1.5,2,3]", "keys(doc)": `array ["a","big","list","price","s"]`,
		"toPairs({'b': 1, 'a': 2})": `array [["a",2],["b",1]]`, "uniq([1, 1.0, 2])": "array [1,2]", "tags": `array ["vip","a,b",null]`, `"vip" in tags`: "bool true",
		"tags[0]": `string "vip"`, "tags[5]": "error: the expression failed: a list is shorter than the index; get(list, index) gives null then", "get(tags, 5)": "nil null",
		"sums[0] * 2": "decimal 2.20", `fromJSON('{"x": 1.50}').x`: "decimal 1.50", "toJSON({'b': 1.50, 'a': [nil, 'x']})": `string "{\"a\":[null,\"x\"],\"b\":1.50}"`,
		"groupBy([1, 1.0, 2.50], #)": `map {"1":[1,1.0],"2.5":[2.50]}`, "reduce([1, 2, 0.5], #acc + #, 0)": "decimal 3.5", "let x = amount; x * 2": "decimal 2840.00",
		"[1, 2][0:1]": "array [1]", "1..3": "array [1,2,3]", "'a' in {'a': 1}": "bool true", "type(amount)": `string "decimal"`, "count": "int 3", "count([true])": "int 1",
		"split(name, ' ')[0]": `string "下单"`, `join(map(tags, # ?? "-"), ";")`: `string "vip;a,b;-"`, "concat(tags, sums) | len()": "int 5",
		// rows and the change
		"new.id == old.id": "bool true", `new["Order No"]`: `string "N-1"`, `get(new, "name") == name`: "bool true", `get(new, "gone")`: "nil null", "op": `string "update"`,
		"schema + '.' + table": `string "crm.wide"`, "position": `string "16/B374D848:3"`, "commitTime.UnixMilli()": "int 1714536000123", "key": `string "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`,
		"raw": `string "\\x00ff"`, "kind": `string "gold"`, "old == nil": "bool false", "nil != new": "bool true", "old?.doc.s": `string "t"`,
	} {
		if got := evaluate(t, source, r); got != want {
			t.Errorf("%s\n got %s\nwant %s", source, got, want)
		}
	}
}

// TestRows reads new, old and bare columns where the operation has no such row, and where PostgreSQL did not send a value.
func TestRows(t *testing.T) {
	table, full := underKey(wide(), connector.IdentityDefault, "id"), wideRow()
	other := with(full, 6, "before")
	partial := make(connector.Tuple, len(full)) // all Absent
	partial[0] = full[0]
	toast := with(full, 6, connector.Unchanged)
	noOld := "error: there is no old row to read name from: insert has none (write old?.name, which is then nil)"
	noNew := "error: there is no new row to read name from: delete has none (write name, which is the old row's on delete)"
	absent := "error: column name is unknown: the table's replica identity does not carry it (ALTER TABLE \"crm\".\"wide\" REPLICA IDENTITY FULL; -- sends it with later changes)"
	unchanged := "error: column name is unknown: PostgreSQL does not send a long value that an update left alone " +
		"(ALTER TABLE \"crm\".\"wide\" REPLICA IDENTITY FULL; -- sends it with later changes)"
	for _, c := range []struct {
		op       connector.Op
		new, old connector.Tuple
		source   string
		want     string
	}{
		{connector.Insert, other, nil, "name", `string "before"`},
		{connector.Insert, other, nil, "old?.name", "nil null"},
		{connector.Insert, other, nil, "old?.doc.a", "nil null"},
		{connector.Insert, other, nil, "old?.doc.a ?? 7", "int 7"},
		{connector.Insert, other, nil, `get(old, "name")`, "nil null"},
		{connector.Insert, other, nil, "old.name", noOld},
		{connector.Insert, other, nil, "old == nil", "bool true"},
		{connector.Insert, other, nil, "old == nil || old.name == name", "bool true"},
		{connector.Insert, other, nil, `old != nil ? old.name : "none"`, `string "none"`},
		{connector.Delete, nil, other, "name", `string "before"`},
		{connector.Delete, nil, other, "new.name", noNew},
		{connector.Delete, nil, other, "new?.name", "nil null"},
		{connector.Delete, nil, other, "op", `string "delete"`},
		{connector.Update, full, other, `old.name + "/" + len(new.name)`, "problem: m.yaml:2:18: invalid operation: + (mismatched types text and int)\n" +
			"    string(x) makes text of a number, int(x) or float(x) a number of text."},
		{connector.Update, full, other, "old.name", `string "before"`},
		{connector.Update, full, partial, "old.id", "int 860484273911119872"},
		{connector.Update, full, partial, "old.name", absent},
		{connector.Update, full, partial, "old?.name", absent},
		{connector.Update, full, partial, `old?.name ?? "x"`, absent},
		{connector.Update, full, partial, `get(old, "name")`, absent},
		{connector.Update, full, partial, "old?.doc.a", strings.ReplaceAll(absent, "name", "doc")},
		{connector.Update, full, partial, "id > 0 || old?.name == nil", "bool true"},
		{connector.Update, toast, partial, "name", unchanged},
		{connector.Update, toast, partial, "new?.name", unchanged},
		{connector.Update, toast, partial, "id == 1 && name == nil", "bool false"},
		{connector.Snapshot, full, nil, "old?.name", "nil null"},
	} {
		if got := evaluate(t, c.source, testRow(c.op, table, c.new, c.old)); got != c.want {
			t.Errorf("%s %s\n got %s\nwant %s", c.op, c.source, got, c.want)
		}
	}
	r := testRow(connector.Snapshot, table, full, nil)
	r.change.CommitTime = time.Time{}
	expect(t, "the commit time of a snapshot", evaluate(t, "commitTime", r), "nil null")
}

// TestConditionsAgree holds the two ways to compute a condition against each other.
func TestConditionsAgree(t *testing.T) {
	table, full := wide(), wideRow()
	partial := make(connector.Tuple, len(full))
	partial[0] = full[0]
	null := make(connector.Tuple, len(full))
	for i := range null {
		null[i].Kind = connector.Null
	}
	rows := []*row{
		testRow(connector.Insert, table, full, nil), testRow(connector.Update, table, full, with(full, 6, "x")), testRow(connector.Update, table, full, full),
		testRow(connector.Update, table, full, partial), testRow(connector.Delete, table, nil, full), testRow(connector.Insert, table, null, nil),
		testRow(connector.Update, table, null, full), testRow(connector.Update, table, full, null),
	}
	fast := 0
	for _, source := range []string{
		`new.name == "x" && old?.name != "x"`, `name == old?.name`, `old.name != new.name`, `code == "ab"`, `code in ["ab", "c"]`, `code == name`, `id in [1, 860484273911119872]`,
		`paid`, `paid && !paid`, `!paid`, `no_flag || paid`, `paid || no_flag`, `not (paid and id > 5)`, `amount > 1420`, `amount >= 1420.0`, `amount == 1420`, `1420.00 == amount`,
		`ratio == 0.25`, `nothing == nil`, `nil == name`, `nothing != "x"`, `op == "insert"`, `op in ["insert", "update"]`, `old == nil`, `old != nil && old.id == id`, `kind == "gold"`,
		`name == 5`, `nan > 1`, `nan == nan`, `made_at == seen_at`, `made_at > seen_at`, `endless == made_at`, `doc == nil`, `tags == tags`, `get(new, "gone") == nil`, `get(new, "name") != nil`,
		`true`, `false || op != "delete"`, `upper(name) == "X"`, `paid ? true : false`, `table == "wide" && schema == "crm"`, `no_sum in [nil, 1]`, `id == small`, `single == 0.1`,
	} {
		p, problem := compileExpr(t, source, table)
		if problem != "" {
			if source != "name == 5" {
				t.Errorf("%s: %s", source, problem)
			}
			continue
		}
		if p.fast != nil {
			fast++
		}
		slow := *p
		slow.fast = nil
		for i, r := range rows {
			a, errA := p.condition(r)
			b, errB := slow.condition(r)
			if a != b || (errA == nil) != (errB == nil) || errA != nil && errA.Error() != errB.Error() {
				t.Errorf("%s, row %d: %v %v, but expr's machine %v %v", source, i, a, errA, b, errB)
			}
		}
	}
	if fast < 30 {
		t.Errorf("only %d of the conditions run without expr's machine", fast)
	}
}
