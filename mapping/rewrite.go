package mapping

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/file"
	"github.com/shopspring/decimal"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// mistake is something wrong with an expression, at a character of its source.
type mistake struct {
	at         int
	text, hint string
}

// read is a column that an expression reads.
type read struct {
	side side
	name string
	soft bool // by get: the table may not have it
	at   int
}

// rewriter turns an expression's tree into one that expr's machine can run on a row: columns become calls with the column's index, and
// operators and builtins that compute with numbers become calls of our own. (Overloading expr's operators would not do: it looks at static
// types, and those are lost by ?? and by JSON.)
//
// Without a table it only looks: reads and mistakes are filled, and the tree it gives is of no use.
type rewriter struct {
	source    []rune
	table     *connector.Table
	zone      *time.Location
	functions map[string]function // replaced builtins
	scopes    []string            // names that let has given

	reads    []read
	mistakes []mistake
	meta     bool // op, commitTime and so on are read
}

// disabled are builtins that would give another result another time or elsewhere, with what to write instead.
func disabled() map[string]string {
	return map[string]string{"now": "a change that is mapped again must give the same payload: use commitTime"}
}

// metaNames are the names that are neither columns nor rows.
func metaNames() []string { return []string{"op", "schema", "table", "commitTime", "position"} }

func (w *rewriter) mistake(at ast.Node, hint, format string, args ...any) {
	w.mistakes = append(w.mistakes, mistake{at.Location().From, fmt.Sprintf(format, args...), hint})
}

func call(at ast.Node, name string, args ...ast.Node) ast.Node {
	n := &ast.CallNode{Callee: &ast.IdentifierNode{Value: name}, Arguments: args}
	n.SetLocation(at.Location())
	n.Callee.SetLocation(at.Location())
	return n
}

func constant(v any) ast.Node { return &ast.ConstantNode{Value: v} }

func env() ast.Node { return &ast.IdentifierNode{Value: "$env"} }

// column makes the call that reads a column.
func (w *rewriter) column(at ast.Node, s side, name string, soft, mayMiss bool) ast.Node {
	w.reads = append(w.reads, read{s, name, mayMiss, at.Location().From})
	c := &column{side: s, name: name, index: -1, soft: soft}
	if w.table != nil {
		c.index = w.table.Column(name)
		if c.index >= 0 {
			c.typ = typeOf(&w.table.Columns[c.index])
		} else if !mayMiss {
			w.missing(at, name)
		}
	}
	return call(at, "column", env(), constant(c))
}

func (w *rewriter) missing(at ast.Node, name string) {
	for _, o := range w.table.Omitted {
		if o.Column == name {
			w.mistake(at, "Compute it from the other columns.", "column %s of table %s does not come with the stream: %s", name, w.table, o.Why)
			return
		}
	}
	names := make([]string, len(w.table.Columns))
	for i, c := range w.table.Columns {
		names[i] = c.Name
	}
	hint := "Its columns: " + strings.Join(names, ", ") + "."
	text := fmt.Sprintf("table %s has no column %s", w.table, name)
	if s := strict.Suggest(name, append(names, metaNames()...)); s != "" {
		text, hint = text+": did you mean "+s+"?", ""
	}
	w.mistake(at, hint, "%s", text)
}

// rowSide tells the names new and old.
func (w *rewriter) rowSide(n ast.Node) (side, bool) {
	id, ok := n.(*ast.IdentifierNode)
	if !ok || slices.Contains(w.scopes, id.Value) {
		return 0, false
	}
	switch id.Value {
	case "new":
		return newSide, true
	case "old":
		return oldSide, true
	}
	return 0, false
}

func (w *rewriter) list(nodes []ast.Node) []ast.Node {
	for i := range nodes {
		nodes[i] = w.node(nodes[i])
	}
	return nodes
}

func (w *rewriter) node(n ast.Node) ast.Node {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		return w.identifier(n)
	case *ast.FloatNode:
		return w.float(n)
	case *ast.BytesNode:
		w.mistake(n, "Leave the b in front away.", "a literal of bytes is not supported")
	case *ast.UnaryNode:
		return w.unary(n)
	case *ast.BinaryNode:
		return w.binary(n)
	case *ast.ChainNode:
		return w.chain(n)
	case *ast.MemberNode:
		return w.member(n)
	case *ast.SliceNode:
		from, to := ast.Node(&ast.NilNode{}), ast.Node(&ast.NilNode{})
		if n.From != nil {
			from = w.node(n.From)
		}
		if n.To != nil {
			to = w.node(n.To)
		}
		return call(n, "[:]", w.node(n.Node), from, to)
	case *ast.CallNode:
		return w.call(n)
	case *ast.BuiltinNode:
		return w.builtin(n)
	case *ast.PredicateNode:
		n.Node = w.node(n.Node)
	case *ast.ConditionalNode:
		n.Cond, n.Exp1, n.Exp2 = w.boolean(n.Cond), w.node(n.Exp1), w.node(n.Exp2)
	case *ast.VariableDeclaratorNode:
		n.Value = w.node(n.Value)
		w.scopes = append(w.scopes, n.Name)
		n.Expr = w.node(n.Expr)
		w.scopes = w.scopes[:len(w.scopes)-1]
	case *ast.SequenceNode:
		w.list(n.Nodes)
	case *ast.ArrayNode:
		w.list(n.Nodes)
	case *ast.MapNode:
		w.list(n.Pairs)
	case *ast.PairNode:
		n.Key, n.Value = w.node(n.Key), w.node(n.Value)
	}
	return n
}

func (w *rewriter) identifier(n *ast.IdentifierNode) ast.Node {
	switch {
	case slices.Contains(w.scopes, n.Value):
		return n
	case n.Value == "new" || n.Value == "old":
		w.mistake(n, "", "%s is a whole row: read a column of it, as in %s.id, or compare it with nil", n.Value, n.Value)
		return n
	case n.Value == "$env":
		w.mistake(n, "", "$env is not available: write new, old or a column's name")
		return n
	case slices.Contains(metaNames(), n.Value):
		w.meta = true
		return call(n, "meta", env(), constant(n.Value))
	}
	return w.column(n, bareSide, n.Value, false, false)
}

// float reads the literal from the source, as it was written: 0.1 is exactly a tenth.
func (w *rewriter) float(n *ast.FloatNode) ast.Node {
	loc := n.Location()
	text := strings.ReplaceAll(string(w.source[max(loc.From, 0):min(loc.To, len(w.source))]), "_", "")
	mantissa, _, _ := strings.Cut(strings.ToLower(text), "e")
	digits := strings.TrimLeft(strings.ReplaceAll(mantissa, ".", ""), "0")
	if len(digits) > literalDigits {
		w.mistake(n, "", "the number has %d significant digits, at most %d are read exactly", len(digits), literalDigits)
		return n
	}
	d, err := decimal.NewFromString(text)
	if err != nil {
		w.mistake(n, "", "%s is no number that can be read exactly", text)
		return n
	}
	c := constant(d)
	c.SetLocation(loc)
	return c
}

func (w *rewriter) unary(n *ast.UnaryNode) ast.Node {
	switch n.Operator {
	case "!", "not":
		n.Node = w.boolean(n.Node)
		return n
	}
	return call(n, "unary "+n.Operator, w.node(n.Node))
}

// boolean rewrites an operand that must be true or false, so that null is told of in plain words.
func (w *rewriter) boolean(n ast.Node) ast.Node {
	switch x := n.(type) {
	case *ast.BoolNode:
		return n
	case *ast.UnaryNode:
		if x.Operator == "!" || x.Operator == "not" {
			return w.node(n)
		}
	case *ast.BinaryNode:
		switch x.Operator {
		case "==", "!=", "<", "<=", ">", ">=", "in", "matches", "contains", "startsWith", "endsWith", "&&", "||", "and", "or":
			return w.node(n)
		}
	}
	return call(n, "bool", w.node(n))
}

func (w *rewriter) binary(n *ast.BinaryNode) ast.Node {
	switch n.Operator {
	case "&&", "||", "and", "or":
		n.Left, n.Right = w.boolean(n.Left), w.boolean(n.Right)
		return n
	case "==", "!=":
		if s, ok := w.nilTest(n); ok {
			present := call(n, "row", env(), constant(s))
			if n.Operator == "!=" {
				return present
			}
			not := &ast.UnaryNode{Operator: "!", Node: present}
			not.SetLocation(n.Location())
			return not
		}
	case "??", "..", "matches", "contains", "startsWith", "endsWith":
		n.Left, n.Right = w.node(n.Left), w.node(n.Right)
		return n
	}
	name := n.Operator
	if name == "^" {
		name = "**"
	}
	left, right := w.node(n.Left), w.node(n.Right)
	if array, ok := right.(*ast.ArrayNode); ok && name == "in" {
		right = foldArray(array)
	}
	return call(n, name, left, right)
}

// nilTest finds old == nil and its kin.
func (w *rewriter) nilTest(n *ast.BinaryNode) (side, bool) {
	other := n.Right
	s, ok := w.rowSide(n.Left)
	if !ok {
		s, ok = w.rowSide(n.Right)
		other = n.Left
	}
	_, isNil := other.(*ast.NilNode)
	return s, ok && isNil
}

// foldArray makes a list of literals once instead of for each row.
func foldArray(n *ast.ArrayNode) ast.Node {
	values := make([]any, len(n.Nodes))
	for i, item := range n.Nodes {
		switch x := item.(type) {
		case *ast.StringNode:
			values[i] = x.Value
		case *ast.IntegerNode:
			values[i] = x.Value
		case *ast.BoolNode:
			values[i] = x.Value
		case *ast.ConstantNode:
			values[i] = x.Value
		case *ast.NilNode:
		default:
			return n
		}
	}
	return constant(values)
}

// chain rewrites old?.x: the column, or nil where there is no old row. Where the chain goes on (old?.doc.name), all of it is nil then.
func (w *rewriter) chain(n *ast.ChainNode) ast.Node {
	base := n.Node
	for {
		if m, ok := base.(*ast.MemberNode); ok {
			if s, ok := w.rowSide(m.Node); ok && m.Optional {
				if base == n.Node {
					if name, ok := m.Property.(*ast.StringNode); ok {
						return w.column(m, s, name.Value, true, false)
					}
				}
				n.Node = w.node(n.Node)
				c := &ast.ConditionalNode{Cond: call(n, "row", env(), constant(s)), Exp1: n, Exp2: &ast.NilNode{}}
				c.SetLocation(n.Location())
				return c
			}
			base = m.Node
			continue
		}
		if c, ok := base.(*ast.CallNode); ok {
			base = c.Callee
			continue
		}
		n.Node = w.node(n.Node)
		return n
	}
}

func (w *rewriter) member(n *ast.MemberNode) ast.Node {
	if s, ok := w.rowSide(n.Node); ok {
		name, ok := n.Property.(*ast.StringNode)
		if !ok {
			w.mistake(n, `A column whose name is not plain: new["Order No"].`, "the column of %s must be named by a constant", s)
			return n
		}
		return w.column(n, s, name.Value, false, false)
	}
	if name, ok := n.Property.(*ast.StringNode); !ok {
		n.Property = w.node(n.Property)
	} else if n.Method && name.Value == "Local" {
		w.mistake(n, `Write .In(timezone("Asia/Shanghai")).`, "Local depends on the machine that the connector runs on")
	}
	n.Node = w.node(n.Node)
	return n
}

func (w *rewriter) call(n *ast.CallNode) ast.Node {
	switch callee := n.Callee.(type) {
	case *ast.IdentifierNode:
		if why, ok := disabled()[callee.Value]; ok {
			w.mistake(n, "", "the function %s is not available: %s", callee.Value, why)
			break
		}
		text := "there is no function " + callee.Value
		if s := strict.Suggest(callee.Value, slices.Sorted(maps.Keys(builtin.Index))); s != "" {
			text += ": did you mean " + s + "?"
		}
		w.mistake(n, "", "%s", text)
	case *ast.MemberNode:
		if s, ok := w.rowSide(callee.Node); ok {
			w.mistake(n, "", "%s is a row and has no functions", s)
			break
		}
		n.Callee = w.member(callee)
		for i, arg := range n.Arguments { // a method of time.Time takes no calendarDate
			n.Arguments[i] = call(arg, "argument", w.node(arg))
		}
		return n
	default:
		w.mistake(n, "", "only functions can be called")
	}
	w.list(n.Arguments)
	return n
}

func (w *rewriter) builtin(n *ast.BuiltinNode) ast.Node {
	if n.Name == "get" && len(n.Arguments) == 2 {
		if s, ok := w.rowSide(n.Arguments[0]); ok {
			if name, ok := n.Arguments[1].(*ast.StringNode); ok {
				return w.column(n, s, name.Value, true, true)
			}
			w.mistake(n, "", `the column must be named by a constant: get(%s, "mobile")`, s)
			return n
		}
	}
	var body ast.Node // of a predicate, as it was written
	if len(n.Arguments) > 1 {
		if p, ok := n.Arguments[1].(*ast.PredicateNode); ok {
			body = p.Node
		}
	}
	w.list(n.Arguments)
	switch n.Name {
	case "all", "none", "any", "one", "filter", "find", "findIndex", "findLast", "findLastIndex", "count":
		if body != nil {
			p := n.Arguments[1].(*ast.PredicateNode)
			p.Node = call(body, "bool", p.Node)
		}
		return n
	case "groupBy":
		if body != nil {
			p := n.Arguments[1].(*ast.PredicateNode)
			p.Node = call(body, "key", p.Node)
		}
		return n
	case "sum":
		if body != nil {
			return call(n, "sum", mapped(n))
		}
	case "sortBy":
		return call(n, "sortBy", append([]ast.Node{n.Arguments[0], mapped(n)}, n.Arguments[2:]...)...)
	case "date":
		n.Arguments = append([]ast.Node{constant(w.zone)}, n.Arguments...)
		return n
	}
	if _, ok := w.functions[n.Name]; ok {
		return call(n, n.Name, n.Arguments...)
	}
	return n
}

// mapped is map() over the arguments of a builtin that takes a list and a predicate.
func mapped(n *ast.BuiltinNode) ast.Node {
	m := &ast.BuiltinNode{Name: "map", Arguments: []ast.Node{n.Arguments[0], n.Arguments[1]}}
	m.SetLocation(n.Location())
	return m
}

// locate gives a place for mistakes that expr reports.
func locate(err *file.Error) int { return max(err.From, 0) }
