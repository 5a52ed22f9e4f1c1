package mapping

import (
	"bytes"
	"slices"

	"github.com/expr-lang/expr/ast"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// condition computes a condition on a row, without expr's machine: most conditions only compare columns with constants, and they run for
// each row. What they compute is the same; a test holds the two against each other.
type condition func(r *row) (bool, error)

// compileCondition gives the condition for a rewritten tree, or nil where there is more in it than columns, constants, comparisons, in, and
// true and false.
func (e *expression) compileCondition(n ast.Node) condition {
	switch n := n.(type) {
	case *ast.BoolNode:
		value := n.Value
		return func(*row) (bool, error) { return value, nil }
	case *ast.UnaryNode:
		if n.Operator != "!" && n.Operator != "not" {
			return nil
		}
		inner := e.compileCondition(n.Node)
		if inner == nil {
			return nil
		}
		return func(r *row) (bool, error) {
			b, err := inner(r)
			return !b, err
		}
	case *ast.BinaryNode:
		left, right := e.compileCondition(n.Left), e.compileCondition(n.Right)
		if left == nil || right == nil {
			return nil
		}
		switch n.Operator {
		case "&&", "and":
			return func(r *row) (bool, error) {
				if b, err := left(r); !b || err != nil {
					return false, err
				}
				return right(r)
			}
		case "||", "or":
			return func(r *row) (bool, error) {
				if b, err := left(r); b || err != nil {
					return b, err
				}
				return right(r)
			}
		}
	case *ast.CallNode:
		c := e.compileCall(n)
		if c == nil {
			return nil
		}
		at := n.Location().From
		return func(r *row) (bool, error) {
			b, err := c(r)
			if err != nil {
				return false, under(err, "", e.at(at))
			}
			return b, nil
		}
	}
	return nil
}

// calledName gives the function that a call names.
func calledName(n *ast.CallNode) string {
	if id, ok := n.Callee.(*ast.IdentifierNode); ok {
		return id.Value
	}
	return ""
}

func (e *expression) compileCall(n *ast.CallNode) condition {
	name := calledName(n)
	switch name {
	case "row":
		s := n.Arguments[1].(*ast.ConstantNode).Value.(side)
		return func(r *row) (bool, error) { return r.tuple(s) != nil, nil }
	case "bool":
		if x, ok := newOperand(n.Arguments[0]); ok {
			return func(r *row) (bool, error) {
				v, err := x.value(r)
				if err == nil {
					v, err = truth(v)
				}
				b, _ := v.(bool)
				return b, err
			}
		}
		return nil
	case "==", "!=":
		return compileEqual(n, name == "==")
	case "in":
		return compileIn(n)
	case "<", "<=", ">", ">=":
		x, okX := newOperand(n.Arguments[0])
		y, okY := newOperand(n.Arguments[1])
		if !okX || !okY {
			return nil
		}
		holds := operators()[name]
		return func(r *row) (bool, error) {
			a, b, err := both(&x, &y, r)
			if err != nil {
				return false, err
			}
			v, err := holds(a, b)
			is, _ := v.(bool)
			return is, err
		}
	}
	return nil
}

func both(x, y *operand, r *row) (a, b any, err error) {
	if a, err = x.value(r); err == nil {
		b, err = y.value(r)
	}
	return a, b, err
}

func compileEqual(n *ast.CallNode, want bool) condition {
	x, okX := newOperand(n.Arguments[0])
	y, okY := newOperand(n.Arguments[1])
	if !okX || !okY {
		return nil
	}
	if y.isText() && !x.isText() || y.meta != "" {
		x, y = y, x
	}
	if x.meta != "" && y.isString {
		return func(r *row) (bool, error) {
			text, ok := r.metaText(x.meta)
			return (ok && text == y.constantText) == want, nil
		}
	}
	if x.isText() && (y.isText() || y.column == nil) {
		return func(r *row) (bool, error) {
			a, okA, err := x.text(r)
			if err != nil {
				return false, err
			}
			if y.column == nil {
				if y.isString {
					return (okA && string(a) == y.constantText) == want, nil
				}
				v, err := y.value(r)
				return (v == nil && !okA) == want, err
			}
			b, okB, err := y.text(r)
			return (okA == okB && bytes.Equal(a, b)) == want, err
		}
	}
	return func(r *row) (bool, error) {
		a, b, err := both(&x, &y, r)
		return err == nil && equal(a, b) == want, err
	}
}

func compileIn(n *ast.CallNode) condition {
	x, ok := newOperand(n.Arguments[0])
	list, isConstant := n.Arguments[1].(*ast.ConstantNode)
	if !ok || !isConstant {
		return nil
	}
	values, ok := list.Value.([]any)
	if !ok {
		return nil
	}
	// Texts are compared without making a string of the column for each row.
	var texts []string
	for _, v := range values {
		if s, ok := v.(string); ok {
			texts = append(texts, s)
		}
	}
	if x.isText() && len(texts) == len(values) {
		return func(r *row) (bool, error) {
			a, ok, err := x.text(r)
			return ok && isOneOf(a, texts), err
		}
	}
	return func(r *row) (bool, error) {
		v, err := x.value(r)
		return err == nil && slices.ContainsFunc(values, func(item any) bool { return equal(v, item) }), err
	}
}

// operand is a column, a fact about the change, or a constant.
type operand struct {
	column       *column
	meta         string
	constant     any
	isString     bool
	constantText string
}

func newOperand(n ast.Node) (operand, bool) {
	switch n := n.(type) {
	case *ast.NilNode:
		return operand{}, true
	case *ast.StringNode:
		return operand{constant: n.Value, isString: true, constantText: n.Value}, true
	case *ast.IntegerNode:
		return operand{constant: n.Value}, true
	case *ast.BoolNode:
		return operand{constant: n.Value}, true
	case *ast.ConstantNode:
		return operand{constant: n.Value}, true
	case *ast.CallNode:
		if c := plainColumn(n); c != nil {
			return operand{column: c}, true
		}
		if calledName(n) == "meta" {
			return operand{meta: n.Arguments[1].(*ast.ConstantNode).Value.(string)}, true
		}
	}
	return operand{}, false
}

// isText says that the operand is a column whose text is its value.
func (o *operand) isText() bool {
	return o.column != nil && o.column.index >= 0 && (o.column.typ.kind == textKind || o.column.typ.kind == blankTextKind)
}

func (o *operand) text(r *row) (text []byte, ok bool, err error) {
	d, err := r.read(o.column)
	if err != nil || d.Kind == connector.Null {
		return nil, false, err
	}
	if o.column.typ.kind == blankTextKind {
		return trimBlanks(d.Text), true, nil
	}
	return d.Text, true, nil
}

func (o *operand) value(r *row) (any, error) {
	switch {
	case o.column != nil:
		return r.value(o.column)
	case o.meta != "":
		return r.meta(o.meta), nil
	}
	return o.constant, nil
}
