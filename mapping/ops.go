package mapping

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shopspring/decimal"
)

// function is a function or operator of expressions. The names in functions replace expr's builtins; those in operators can't be written.
type function func(args ...any) (any, error)

func wrongType(name, want string, got any) *failure {
	f := fail("%s takes %s, got %s", name, want, typeName(got))
	if got == nil {
		return f.hint("give a null a default: (x ?? ...)")
	}
	return f
}

func unary(f func(any) (any, error)) function {
	return func(args ...any) (any, error) { return f(args[0]) }
}

func binary(f func(a, b any) (any, error)) function {
	return func(args ...any) (any, error) { return f(args[0], args[1]) }
}

// operators are what the operators of expr are rewritten to, under names that no expression can call.
func operators() map[string]function {
	return map[string]function{
		"==": binary(func(a, b any) (any, error) { return equal(a, b), nil }),
		"!=": binary(func(a, b any) (any, error) { return !equal(a, b), nil }),
		"<":  comparison("<", func(c int) bool { return c < 0 }),
		"<=": comparison("<=", func(c int) bool { return c <= 0 }),
		">":  comparison(">", func(c int) bool { return c > 0 }),
		">=": comparison(">=", func(c int) bool { return c >= 0 }),
		"+":  binary(add), "-": binary(subtract), "*": binary(multiply), "/": binary(divide),
		"%": binary(modulo), "**": binary(power),
		"in":      binary(contains),
		"unary -": unary(negate),
		"unary +": unary(func(v any) (any, error) {
			if n, ok := number(v); ok {
				return n, nil
			}
			return nil, wrongType("+", "a number", v)
		}),
		"[:]":  func(args ...any) (any, error) { return slice(args[0], args[1], args[2]) },
		"bool": unary(truth),
		"argument": unary(func(v any) (any, error) {
			if at, ok := asTime(v); ok {
				return at, nil
			}
			return v, nil
		}),
		"key": unary(groupKey),
	}
}

// functions replaces builtins of expr: those that compute with numbers or compare values, that would show a map in random order, or
// whose errors quote what they were given.
func functions() map[string]function {
	return map[string]function{
		"abs":    unary(absolute),
		"floor":  unary(rounding("floor", decimal.Decimal.Floor, math.Floor)),
		"ceil":   unary(rounding("ceil", decimal.Decimal.Ceil, math.Ceil)),
		"round":  unary(rounding("round", roundHalfAway, math.Round)),
		"int":    unary(func(v any) (any, error) { return toInt(v) }),
		"float":  unary(toFloat),
		"string": unary(toString),
		"type":   unary(func(v any) (any, error) { return typeWord(v), nil }),
		"min":    extreme("min", -1), "max": extreme("max", 1),
		"sum": unary(sum), "mean": mean, "median": median,
		"sort": sortList, "sortBy": sortList, "uniq": unary(unique),
		"keys": unary(mapKeys), "values": unary(mapValues), "toPairs": unary(toPairs),
		"toJSON": unary(func(v any) (any, error) {
			text, err := appendValue(nil, v)
			return string(text), err
		}),
		"fromJSON": unary(func(v any) (any, error) {
			s, ok := v.(string)
			if !ok {
				return nil, wrongType("fromJSON", "text", v)
			}
			return decodeJSON([]byte(s))
		}),
	}
}

// asTime gives a timestamp or a date as a time.Time.
func asTime(v any) (time.Time, bool) {
	switch x := v.(type) {
	case time.Time:
		return x, true
	case calendarDate:
		return x.Time, true
	}
	return time.Time{}, false
}

// moment gives a timestamp or a date as a time.Time, or the sign of an infinite one.
func moment(v any) (at time.Time, sign int, ok bool) {
	if x, ok := v.(infiniteTime); ok {
		return time.Time{}, x.sign, true
	}
	at, ok = asTime(v)
	return at, 0, ok
}

// add is + for numbers, texts, and timestamps with durations.
func add(a, b any) (any, error) {
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return x + y, nil
		}
		return nil, mismatch("+", a, b)
	case time.Duration:
		if y, ok := b.(time.Duration); ok {
			return x + y, nil
		}
		if y, ok := asTime(b); ok {
			return y.Add(x), nil
		}
	}
	if x, ok := asTime(a); ok {
		if y, ok := b.(time.Duration); ok {
			return x.Add(y), nil
		}
		return nil, mismatch("+", a, b)
	}
	return addNumbers(a, b)
}

func subtract(a, b any) (any, error) {
	if x, ok := asTime(a); ok {
		if y, ok := asTime(b); ok {
			return x.Sub(y), nil
		}
		if y, ok := b.(time.Duration); ok {
			return x.Add(-y), nil
		}
		return nil, mismatch("-", a, b)
	}
	if x, ok := a.(time.Duration); ok {
		if y, ok := b.(time.Duration); ok {
			return x - y, nil
		}
	}
	return subtractNumbers(a, b)
}

func multiply(a, b any) (any, error) {
	x, okX := a.(time.Duration)
	y, okY := b.(time.Duration)
	switch {
	case okX && okY:
		return nil, mismatch("*", a, b)
	case okX:
		return multiplyDuration(x, b)
	case okY:
		return multiplyDuration(y, a)
	}
	return multiplyNumbers(a, b)
}

func multiplyDuration(d time.Duration, n any) (any, error) {
	product, err := multiplyNumbers(int(d), n)
	if err != nil {
		return nil, err
	}
	ns, err := toInt(product)
	return time.Duration(ns), err
}

// compare orders numbers, texts (by bytes, as the C collation does), timestamps and durations among themselves.
func compare(op string, a, b any) (int, error) {
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil
		}
	case time.Duration:
		if y, ok := b.(time.Duration); ok {
			return cmp.Compare(x, y), nil
		}
	default:
		if x, i, ok := moment(a); ok {
			if y, j, ok := moment(b); ok && (i != 0 || j != 0) {
				return cmp.Compare(i, j), nil
			} else if ok {
				return x.Compare(y), nil
			}
			break
		}
		x, okX := number(a)
		y, okY := number(b)
		if okX && okY {
			return compareNumbers(x, y)
		}
	}
	return 0, mismatch(op, a, b)
}

func comparison(op string, holds func(int) bool) function {
	return func(args ...any) (any, error) {
		c, err := compare(op, args[0], args[1])
		if err != nil {
			return nil, err
		}
		return holds(c), nil
	}
}

// equal never fails: values of different types are not equal, but numbers of any types are compared by value.
func equal(a, b any) bool {
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		return ok && x == y
	case bool:
		y, ok := b.(bool)
		return ok && x == y
	case time.Duration:
		y, ok := b.(time.Duration)
		return ok && x == y
	}
	if b == nil {
		return false
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		if !ok {
			return false
		}
		c, err := compareNumbers(x, y)
		return err == nil && c == 0
	}
	if x, ok := asTime(a); ok {
		y, ok := asTime(b)
		return ok && x.Equal(y)
	}
	if x, ok := listItems(a); ok {
		y, ok := listItems(b)
		return ok && slices.EqualFunc(x, y, equal)
	}
	if x, ok := mapPairs(a); ok {
		y, ok := mapPairs(b)
		return ok && slices.EqualFunc(x, y, func(p, q pair) bool { return p.key == q.key && equal(p.value, q.value) })
	}
	return reflect.DeepEqual(a, b)
}

// contains is `in`: an item of a list, or a key of a mapping. Nothing is in null.
func contains(needle, haystack any) (any, error) {
	if haystack == nil {
		return false, nil
	}
	if list, ok := listItems(haystack); ok {
		return slices.ContainsFunc(list, func(v any) bool { return equal(needle, v) }), nil
	}
	if pairs, ok := mapPairs(haystack); ok {
		return slices.ContainsFunc(pairs, func(p pair) bool { return p.key == needle }), nil
	}
	return nil, wrongType("in", "a list or a mapping on its right", haystack)
}

// truth is what && || ! and ?: take: null is neither true nor false there.
func truth(v any) (any, error) {
	b, ok := v.(bool)
	if !ok {
		f := fail("true or false is wanted here, got %s", typeName(v))
		if v == nil {
			return nil, f.hint("give a null a default: (x ?? false)")
		}
		return nil, f
	}
	return b, nil
}

// listItems gives the items of a list of any type.
func listItems(v any) ([]any, bool) {
	switch x := v.(type) {
	case []any:
		return x, true
	case nil, string, int, bool, float64, decimal.Decimal, map[string]any:
		return nil, false
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Slice && rv.Kind() != reflect.Array {
		return nil, false
	}
	items := make([]any, rv.Len())
	for i := range items {
		items[i] = rv.Index(i).Interface()
	}
	return items, true
}

type pair struct {
	key   string
	value any
}

// mapPairs gives the pairs of a mapping of any type, sorted by key, so that no result depends on Go's random order.
func mapPairs(v any) ([]pair, bool) {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Map {
		return nil, false
	}
	pairs := make([]pair, 0, rv.Len())
	for it := rv.MapRange(); it.Next(); {
		key, err := appendText(nil, it.Key().Interface())
		if err != nil {
			key = fmt.Append(nil, it.Key().Interface())
		}
		pairs = append(pairs, pair{string(key), it.Value().Interface()})
	}
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	return pairs, true
}

// slice is x[from:to]; a text is cut by characters. from and to may be nil or count from the end.
func slice(v, from, to any) (any, error) {
	text, isText := v.(string)
	var list []any
	length := utf8.RuneCountInString(text)
	if !isText {
		var ok bool
		if list, ok = listItems(v); !ok {
			return nil, wrongType("[:]", "text or a list", v)
		}
		length = len(list)
	}
	bound := func(v any, open int) (int, error) {
		if v == nil {
			return open, nil
		}
		i, err := toInt(v)
		if i < 0 {
			i += length
		}
		return min(max(i, 0), length), err
	}
	a, err := bound(from, 0)
	if err != nil {
		return nil, err
	}
	b, err := bound(to, length)
	if err != nil {
		return nil, err
	}
	a = min(a, b)
	if isText {
		return string([]rune(text)[a:b]), nil
	}
	return list[a:b:b], nil
}

// toString gives any value as text; null stays null.
func toString(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	text, err := appendText(nil, v)
	return string(text), err
}

func typeWord(v any) string {
	switch v.(type) {
	case nil:
		return "nil"
	case bool:
		return "bool"
	case string:
		return "string"
	case time.Time, calendarDate, infiniteTime:
		return "time"
	case time.Duration:
		return "duration"
	}
	if n, ok := number(v); ok {
		switch n.(type) {
		case int:
			return "int"
		case float64:
			return "float"
		}
		return "decimal"
	}
	if _, ok := listItems(v); ok {
		return "array"
	}
	return "map"
}

// flat gives the arguments of min, max, mean and median, lists among them opened.
func flat(args []any) []any {
	var all []any
	for _, a := range args {
		if list, ok := listItems(a); ok {
			all = append(all, flat(list)...)
		} else {
			all = append(all, a)
		}
	}
	return all
}

// extreme makes min and max, for whatever can be compared; of nothing they are null.
func extreme(name string, sign int) function {
	return func(args ...any) (any, error) {
		var best any
		for i, v := range flat(args) {
			if v == nil {
				return nil, wrongType(name, "values that can be compared", v)
			}
			if i == 0 {
				best = v
				continue
			}
			c, err := compare(name, v, best)
			if err != nil {
				return nil, err
			}
			if c*sign > 0 {
				best = v
			}
		}
		return best, nil
	}
}

func sum(v any) (any, error) {
	list, ok := listItems(v)
	if !ok {
		return nil, wrongType("sum", "a list", v)
	}
	var total any = 0
	for _, item := range list {
		var err error
		if total, err = addNumbers(total, item); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func mean(args ...any) (any, error) {
	all := flat(args)
	if len(all) == 0 {
		return 0, nil
	}
	total, err := sum(all)
	if err != nil {
		return nil, err
	}
	return divide(total, len(all))
}

func median(args ...any) (any, error) {
	sorted, err := sortList(flat(args))
	if err != nil {
		return nil, err
	}
	all := sorted.([]any)
	n := len(all)
	switch {
	case n == 0:
		return 0, nil
	case n%2 == 1:
		return all[n/2], nil
	}
	return mean(all[n/2-1], all[n/2])
}

// sortList is sort(list, order) and sortBy(list, keys, order), which are told apart by the second argument. Equal items keep their order.
func sortList(args ...any) (any, error) {
	list, ok := listItems(args[0])
	if !ok {
		return nil, wrongType("sort", "a list", args[0])
	}
	by, rest := list, args[1:]
	if len(rest) > 0 {
		if keys, ok := rest[0].([]any); ok {
			by, rest = keys, rest[1:]
		}
	}
	sign := 1
	if len(rest) > 0 {
		switch rest[0] {
		case "asc":
		case "desc":
			sign = -1
		default:
			return nil, fail(`sort takes the order "asc" or "desc"`)
		}
	}
	if len(by) != len(list) {
		return nil, fail("sortBy found not as many keys as items")
	}
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	var failed error
	slices.SortStableFunc(order, func(i, j int) int {
		c, err := compare("sort", by[i], by[j])
		if err != nil && failed == nil {
			failed = err
		}
		return c * sign
	})
	if failed != nil {
		return nil, failed
	}
	sorted := make([]any, len(list))
	for i, at := range order {
		sorted[i] = list[at]
	}
	return sorted, nil
}

func unique(v any) (any, error) {
	list, ok := listItems(v)
	if !ok {
		return nil, wrongType("uniq", "a list", v)
	}
	kept := []any{}
	for _, item := range list {
		if !slices.ContainsFunc(kept, func(k any) bool { return equal(k, item) }) {
			kept = append(kept, item)
		}
	}
	return kept, nil
}

// groupKey makes a number of any type the same key of groupBy's result: 1, 1.0 and 1.00 are one group.
func groupKey(v any) (any, error) {
	if _, ok := listItems(v); ok {
		return nil, wrongType("groupBy", "keys that are text, numbers or true or false", v)
	}
	if d, ok := v.(decimal.Decimal); ok {
		if d = trimZeros(d); d.IsInteger() && d.BigInt().IsInt64() {
			return int(d.IntPart()), nil
		}
		return d.String(), nil
	}
	if reflect.TypeOf(v) != nil && !reflect.TypeOf(v).Comparable() {
		return nil, wrongType("groupBy", "keys that are text, numbers or true or false", v)
	}
	return v, nil
}

func pairsOf(name string, v any) ([]pair, error) {
	pairs, ok := mapPairs(v)
	if !ok {
		return nil, wrongType(name, "a mapping", v)
	}
	return pairs, nil
}

func mapKeys(v any) (any, error) {
	pairs, err := pairsOf("keys", v)
	keys := make([]any, len(pairs))
	for i, p := range pairs {
		keys[i] = p.key
	}
	return keys, err
}

func mapValues(v any) (any, error) {
	pairs, err := pairsOf("values", v)
	values := make([]any, len(pairs))
	for i, p := range pairs {
		values[i] = p.value
	}
	return values, err
}

func toPairs(v any) (any, error) {
	pairs, err := pairsOf("toPairs", v)
	list := make([]any, len(pairs))
	for i, p := range pairs {
		list[i] = []any{p.key, p.value}
	}
	return list, err
}
