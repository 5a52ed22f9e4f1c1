package mapping

import (
	"math"
	"math/big"
	"math/bits"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/shopspring/decimal"
)

// Numbers in expressions are int, float64 (float4 and float8 columns) or decimal.Decimal (numeric columns, literals with a point, and the
// results of all arithmetic whose operands are not both integers or both floats). Nothing is ever rounded or wrapped silently but a quotient.

// quotientDigits is how many digits a quotient has after the point.
const quotientDigits = 20

// literalDigits is how many significant digits a literal with a point or an exponent may have.
const literalDigits = 17

// maxExponent bounds the exponents of ** and of the digits that a number may be written out with.
const maxExponent = 20_000

// number gives v as int, float64 or decimal.Decimal; ok is false for what is no number. Functions of expr and methods of timestamps give
// other integer types.
func number(v any) (n any, ok bool) {
	switch x := v.(type) {
	case int, float64, decimal.Decimal:
		return v, true
	case nil, string, bool, time.Duration:
		return nil, false
	case int64:
		return int(x), true
	}
	rv := reflect.ValueOf(v)
	switch {
	case rv.CanInt():
		return int(rv.Int()), true
	case rv.CanUint():
		if u := rv.Uint(); u <= math.MaxInt64 {
			return int(u), true
		}
		return decimal.NewFromUint64(rv.Uint()), true
	case rv.CanFloat():
		return rv.Float(), true
	}
	return nil, false
}

// toDecimal gives a number as a decimal; ok is false for NaN and the infinities.
func toDecimal(n any) (d decimal.Decimal, ok bool) {
	switch x := n.(type) {
	case decimal.Decimal:
		return x, true
	case int:
		return decimal.NewFromInt(int64(x)), true
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return decimal.Decimal{}, false
		}
		return decimal.NewFromFloat(x), true
	}
	return decimal.Decimal{}, false
}

var (
	errOverflow = fail("the result does not fit into 64 bits")
	errNaN      = fail("NaN or infinity can't be computed with")
	errZero     = fail("division by zero")
)

// finite gives a float's result, unless it left the numbers.
func finite(f float64) (any, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errNaN
	}
	return f, nil
}

// operands prepares the two sides of an arithmetic operator: both int, both float64, or both decimal.Decimal.
func operands(op string, a, b any) (x, y any, err error) {
	x, okX := number(a)
	y, okY := number(b)
	if !okX || !okY {
		return nil, nil, mismatch(op, a, b)
	}
	switch x.(type) {
	case int:
		if _, ok := y.(int); ok {
			return x, y, nil
		}
	case float64:
		if _, ok := y.(float64); ok {
			return x, y, nil
		}
	}
	dx, okX := toDecimal(x)
	dy, okY := toDecimal(y)
	if !okX || !okY {
		return nil, nil, errNaN
	}
	return dx, dy, nil
}

func mismatch(op string, a, b any) error {
	f := fail("%s can't take %s and %s", op, typeName(a), typeName(b))
	if a == nil || b == nil {
		return f.hint("give a null a default: (x ?? 0)")
	}
	return f
}

func addNumbers(a, b any) (any, error) {
	x, y, err := operands("+", a, b)
	if err != nil {
		return nil, err
	}
	switch x := x.(type) {
	case int:
		y := y.(int)
		sum := x + y
		if (sum > x) != (y > 0) {
			return nil, errOverflow
		}
		return sum, nil
	case float64:
		return finite(x + y.(float64))
	}
	return x.(decimal.Decimal).Add(y.(decimal.Decimal)), nil
}

func subtractNumbers(a, b any) (any, error) {
	x, y, err := operands("-", a, b)
	if err != nil {
		return nil, err
	}
	switch x := x.(type) {
	case int:
		y := y.(int)
		difference := x - y
		if (difference < x) != (y > 0) {
			return nil, errOverflow
		}
		return difference, nil
	case float64:
		return finite(x - y.(float64))
	}
	return x.(decimal.Decimal).Sub(y.(decimal.Decimal)), nil
}

func multiplyNumbers(a, b any) (any, error) {
	x, y, err := operands("*", a, b)
	if err != nil {
		return nil, err
	}
	switch x := x.(type) {
	case int:
		return multiplyInts(x, y.(int))
	case float64:
		return finite(x * y.(float64))
	}
	return checkSize(x.(decimal.Decimal).Mul(y.(decimal.Decimal)))
}

func multiplyInts(x, y int) (any, error) {
	negative := (x < 0) != (y < 0)
	hi, lo := bits.Mul64(magnitude(x), magnitude(y))
	switch {
	case hi == 0 && lo <= math.MaxInt64 && negative:
		return -int(lo), nil
	case hi == 0 && lo <= math.MaxInt64:
		return int(lo), nil
	case hi == 0 && lo == 1<<63 && negative:
		return math.MinInt, nil
	}
	return nil, errOverflow
}

func magnitude(x int) uint64 {
	if x < 0 {
		return -uint64(x)
	}
	return uint64(x)
}

// divide is exact where that is possible within quotientDigits; trailing zeros of the quotient are cut, so 4 / 2 is 2.
func divide(a, b any) (any, error) {
	x, y, err := operands("/", a, b)
	if err != nil {
		return nil, err
	}
	if x, ok := x.(float64); ok {
		if y.(float64) == 0 {
			return nil, errZero
		}
		return finite(x / y.(float64))
	}
	dx, _ := toDecimal(x)
	dy, _ := toDecimal(y)
	if dy.IsZero() {
		return nil, errZero
	}
	return trimZeros(dx.DivRound(dy, quotientDigits)), nil
}

// trimZeros cuts the zeros behind the point.
func trimZeros(d decimal.Decimal) decimal.Decimal {
	d = d.Normalize()
	if d.Exponent() > 0 {
		return decimal.NewFromBigInt(d.BigInt(), 0)
	}
	return d
}

// modulo has the sign of the dividend, as in PostgreSQL.
func modulo(a, b any) (any, error) {
	x, y, err := operands("%", a, b)
	if err != nil {
		return nil, err
	}
	switch x := x.(type) {
	case int:
		if y.(int) == 0 {
			return nil, errZero
		}
		return x % y.(int), nil
	case float64:
		if y.(float64) == 0 {
			return nil, errZero
		}
		return finite(math.Mod(x, y.(float64)))
	}
	if y.(decimal.Decimal).IsZero() {
		return nil, errZero
	}
	return x.(decimal.Decimal).Mod(y.(decimal.Decimal)), nil
}

// power is exact for whole exponents. Others are possible for floats only.
func power(a, b any) (any, error) {
	x, okX := number(a)
	y, okY := number(b)
	if !okX || !okY {
		return nil, mismatch("**", a, b)
	}
	if f, ok := x.(float64); ok {
		d, ok := toDecimal(y)
		if !ok {
			return nil, errNaN
		}
		return finite(math.Pow(f, d.InexactFloat64()))
	}
	e, err := toInt(y)
	if d, ok := toDecimal(y); err != nil || !ok || !d.IsInteger() {
		return nil, fail("** takes whole exponents").hint("for others, make the base a float: float(x) ** 0.5")
	}
	if e < -maxExponent || e > maxExponent {
		return nil, fail("the exponent is too large")
	}
	n := e
	if n < 0 {
		n = -n
	}
	base, _ := toDecimal(x)
	if int64(base.NumDigits())*int64(n) > maxExponent {
		return nil, fail("the result has too many digits")
	}
	result := decimal.NewFromBigInt(new(big.Int).Exp(base.Coefficient(), big.NewInt(int64(n)), nil), base.Exponent()*int32(n))
	if e < 0 {
		return divide(decimal.NewFromInt(1), result)
	}
	if _, ok := x.(int); ok {
		return toInt(result)
	}
	return result, nil
}

func checkSize(d decimal.Decimal) (any, error) {
	if e := d.Exponent(); e > maxExponent || e < -maxExponent {
		return nil, fail("the result has too many digits")
	}
	return d, nil
}

// negate is unary minus.
func negate(v any) (any, error) {
	switch x := v.(type) {
	case time.Duration:
		return -x, nil
	case float64:
		return finite(-x)
	}
	n, ok := number(v)
	if !ok {
		return nil, wrongType("-", "a number", v)
	}
	if d, ok := n.(decimal.Decimal); ok {
		return d.Neg(), nil
	}
	return subtractNumbers(0, n)
}

func absolute(v any) (any, error) {
	n, ok := number(v)
	if !ok {
		return nil, wrongType("abs", "a number", v)
	}
	switch x := n.(type) {
	case int:
		if x < 0 {
			return negate(x)
		}
		return x, nil
	case float64:
		return finite(math.Abs(x))
	}
	return n.(decimal.Decimal).Abs(), nil
}

// rounding makes floor, ceil and round; a whole number stays what it is. round takes halves away from zero, as PostgreSQL does for numeric.
func rounding(name string, exact func(decimal.Decimal) decimal.Decimal, float func(float64) float64) func(any) (any, error) {
	return func(v any) (any, error) {
		n, ok := number(v)
		if !ok {
			return nil, wrongType(name, "a number", v)
		}
		switch x := n.(type) {
		case int:
			return x, nil
		case float64:
			return finite(float(x))
		}
		return exact(n.(decimal.Decimal)), nil
	}
}

func roundHalfAway(d decimal.Decimal) decimal.Decimal {
	if d.Exponent() >= 0 {
		return d
	}
	return d.Round(0)
}

// toInt cuts the digits behind the point off. A text must be a whole number.
func toInt(v any) (int, error) {
	if s, ok := v.(string); ok {
		i, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil {
			return 0, fail("int: the text is no whole number of 64 bits")
		}
		return int(i), nil
	}
	n, ok := number(v)
	if !ok {
		return 0, wrongType("int", "a number or text", v)
	}
	if i, ok := n.(int); ok {
		return i, nil
	}
	d, ok := toDecimal(n)
	if !ok {
		return 0, errNaN
	}
	if d.Exponent() > 20 && !d.IsZero() {
		return 0, errOverflow
	}
	whole := d.BigInt()
	if !whole.IsInt64() {
		return 0, errOverflow
	}
	return int(whole.Int64()), nil
}

func toFloat(v any) (any, error) {
	if s, ok := v.(string); ok {
		f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil {
			return nil, fail("float: the text is no number")
		}
		return finite(f)
	}
	n, ok := number(v)
	if !ok {
		return nil, wrongType("float", "a number or text", v)
	}
	if f, ok := n.(float64); ok {
		return f, nil
	}
	d, _ := toDecimal(n)
	return finite(d.InexactFloat64())
}

// compareNumbers orders numbers of any types by their exact values.
func compareNumbers(x, y any) (int, error) {
	switch x := x.(type) {
	case int:
		if y, ok := y.(int); ok {
			return compareOrdered(x, y), nil
		}
	case float64:
		if y, ok := y.(float64); ok && !math.IsNaN(x) && !math.IsNaN(y) {
			return compareOrdered(x, y), nil
		}
	}
	if i, j := infiniteSign(x), infiniteSign(y); (i != 0 || j != 0) && !isNaN(x) && !isNaN(y) {
		return compareOrdered(i, j), nil
	}
	dx, okX := toDecimal(x)
	dy, okY := toDecimal(y)
	if !okX || !okY {
		return 0, errNaN
	}
	return dx.Cmp(dy), nil
}

// infiniteSign is 1 or -1 for the infinities, 0 for other numbers.
func infiniteSign(n any) int {
	f, ok := n.(float64)
	switch {
	case ok && math.IsInf(f, 1):
		return 1
	case ok && math.IsInf(f, -1):
		return -1
	}
	return 0
}

func isNaN(n any) bool {
	f, ok := n.(float64)
	return ok && math.IsNaN(f)
}

func compareOrdered[T int | float64](x, y T) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// appendNumber writes a number as JSON and as text: a decimal with all its digits, 1420.00 as 1420.00; a float in the shortest form
// that reads back the same.
func appendNumber(dst []byte, n any) ([]byte, error) {
	switch x := n.(type) {
	case int:
		return strconv.AppendInt(dst, int64(x), 10), nil
	case float64:
		return appendFloat(dst, x)
	}
	d := n.(decimal.Decimal)
	if _, err := checkSize(d); err != nil {
		return dst, err
	}
	if d.Exponent() < 0 {
		return append(dst, d.StringFixed(-d.Exponent())...), nil
	}
	return append(dst, d.String()...), nil
}

// appendFloat writes a float as encoding/json does.
func appendFloat(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, errNotJSON
	}
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64), nil
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64), nil
}

var errNotJSON = fail("the value is NaN or infinity, which JSON can't hold")
