package mapping

import (
	"bytes"
	"strconv"

	"github.com/shopspring/decimal"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// source is where a value of a payload comes from: a column, an expression, a constant, or a text with several of them in it.
// Exactly one of its fields is set.
type source struct {
	column   *column
	program  *program
	constant []byte
	mixed    []*source
}

// text gives the value as text: valid until the next call on any source. ok is false for null; a text with a null in it is null, as with
// SQL's ||, so that half a phone number is never sent.
func (s *source) text(r *row) (text []byte, ok bool, err error) {
	switch {
	case s.column != nil:
		return s.column.text(r)
	case s.program != nil:
		v, err := s.program.run(r)
		if err != nil || v == nil {
			return nil, false, err
		}
		if t, ok := v.(string); ok {
			r.text = append(r.text[:0], t...)
			return r.text, true, nil
		}
		if r.text, err = appendText(r.text[:0], v); err != nil {
			return nil, false, under(err, "", s.program.expr.node)
		}
		return r.text, true, nil
	case s.mixed != nil:
		r.mixed = r.mixed[:0]
		for _, part := range s.mixed {
			t, ok, err := part.text(r)
			if err != nil || !ok {
				return nil, false, err
			}
			r.mixed = append(r.mixed, t...)
		}
		return r.mixed, true, nil
	}
	return s.constant, true, nil
}

// value gives the value as expressions see it. It is never asked of constants and mixed texts.
func (s *source) value(r *row) (any, error) {
	if s.column != nil {
		return r.value(s.column)
	}
	return s.program.run(r)
}

// text gives the column as text, the same as its value would give, without making the value where the text is it already.
func (c *column) text(r *row) (text []byte, ok bool, err error) {
	d, err := r.read(c)
	if err != nil || d.Kind == connector.Null {
		return nil, false, err
	}
	switch c.typ.kind {
	case textKind:
		return d.Text, true, nil
	case intKind:
		if _, err := decodeInt(d.Text); err != nil {
			return nil, false, c.failed(err)
		}
		return d.Text, true, nil
	case blankTextKind:
		return trimBlanks(d.Text), true, nil
	case decimalKind:
		if !isDecimal(d.Text) {
			return nil, false, c.failed(noNumber(d.Text))
		}
		return d.Text, true, nil
	case boolKind:
		b, err := decodeBool(d.Text)
		if err != nil {
			return nil, false, c.failed(err)
		}
		if b {
			return trueText, true, nil
		}
		return falseText, true, nil
	case timestampKind, timestamptzKind, dateKind:
		at, err := parseTimestamp(d.Text, r.zone)
		if err != nil {
			return nil, false, c.failed(err)
		}
		if c.typ.kind == dateKind {
			r.text, err = appendDate(r.text[:0], at)
		} else {
			r.text, err = appendTime(r.text[:0], at)
		}
		return r.text, err == nil, c.failed(err)
	case jsonKind:
		switch t := bytes.TrimLeft(d.Text, " \t\r\n"); {
		case len(t) == 0:
		case t[0] == 'n':
			return nil, false, nil
		case t[0] != '"':
			return t, true, nil
		}
	}
	v, err := c.typ.decode(d.Text, r.zone)
	if err == nil {
		r.text, err = appendText(r.text[:0], v)
	}
	if err != nil {
		return nil, false, c.failed(err)
	}
	return r.text, true, nil
}

// failed says of which column a value could not be used, where the source is one.
func (s *source) failed(err error) error {
	if err != nil && s.column != nil {
		return s.column.failed(err)
	}
	return err
}

var (
	trueText  = []byte("true")
	falseText = []byte("false")
)

// whole gives the value as the decimal digits of a whole number of 64 bits, as text does.
func (s *source) whole(r *row) (text []byte, ok bool, err error) {
	if s.constant != nil {
		return s.constant, true, nil
	}
	if c := s.column; c != nil && c.typ.kind == intKind {
		return c.text(r)
	}
	v, err := s.value(r)
	if err != nil || v == nil {
		return nil, false, err
	}
	i, err := wholeNumber(v)
	if err != nil {
		return nil, false, s.failed(err)
	}
	r.text = strconv.AppendInt(r.text[:0], int64(i), 10)
	return r.text, true, nil
}

// wholeNumber gives a number that has nothing behind the point.
func wholeNumber(v any) (int, error) {
	n, ok := number(v)
	if !ok {
		return 0, fail("the value is %s, a whole number is wanted", typeName(v))
	}
	if i, ok := n.(int); ok {
		return i, nil
	}
	d, ok := toDecimal(n)
	if !ok {
		return 0, errNotJSON
	}
	if d.Exponent() < -maxExponent || !d.IsInteger() {
		return 0, fail("the value is not whole").hint("floor(x), round(x) or ceil(x) make it so")
	}
	if _, ok := n.(decimal.Decimal); !ok {
		d = decimal.NewFromBigInt(d.BigInt(), 0)
	}
	i, err := toInt(d)
	if err != nil {
		return 0, fail("the value does not fit into 64 bits")
	}
	return i, nil
}
