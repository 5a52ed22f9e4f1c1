package mapping

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/checker"
	"github.com/expr-lang/expr/compiler"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"

	// Time zones in expressions must mean the same on every machine.
	_ "time/tzdata"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// expression is an expression of the file, checked as far as that goes without a table.
type expression struct {
	node   strict.Node // the scalar that it stands in
	offset int         // where source begins in node.Raw(), in bytes
	source string
	reads  []read
	static valueType // what is known of its value without a table
}

// valueType is what is known of a value before it is computed. Null is possible with each of them.
type valueType uint8

const (
	anyValue valueType = iota
	intValue
	numberValue
	boolValue
	textValue
	timeValue
	durationValue
	listValue
	mapValue
)

func (t valueType) String() string {
	switch t {
	case intValue:
		return "a whole number"
	case numberValue:
		return "a number"
	case boolValue:
		return "true or false"
	case textValue:
		return "text"
	case timeValue:
		return "a timestamp"
	case durationValue:
		return "a duration"
	case listValue:
		return "a list"
	case mapValue:
		return "a mapping"
	}
	return "anything"
}

func valueTypeOf(t reflect.Type) valueType {
	if t == nil {
		return anyValue
	}
	switch t {
	case reflect.TypeFor[time.Time]():
		return timeValue
	case reflect.TypeFor[time.Duration]():
		return durationValue
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return intValue
	case reflect.Float32, reflect.Float64:
		return numberValue
	case reflect.Bool:
		return boolValue
	case reflect.String:
		return textValue
	case reflect.Slice, reflect.Array:
		return listValue
	case reflect.Map:
		return mapValue
	}
	return anyValue
}

// staticType gives what is known of a column's values.
func (t columnType) staticType() valueType {
	switch t.kind {
	case intKind:
		return intValue
	case floatKind, decimalKind:
		return numberValue
	case boolKind:
		return boolValue
	case timestampKind, timestamptzKind, dateKind:
		return timeValue
	case jsonKind:
		return anyValue
	case arrayKind:
		return listValue
	}
	return textValue
}

// newExpression parses and checks an expression; where something is wrong it notes that and gives nil.
func newExpression(node strict.Node, offset int, source string, ps *strict.Problems) *expression {
	trimmed := strings.TrimLeft(source, " \t\n")
	e := &expression{node: node, offset: offset + len(source) - len(trimmed), source: trimmed}
	if trimmed == "" {
		ps.Add(e.at(0), "the expression is empty")
		return nil
	}
	tree, m := e.parse()
	if m != nil {
		e.note(ps, *m)
		return nil
	}
	w := e.rewriter(nil, nil)
	w.node(tree.Node)
	if len(w.mistakes) > 0 {
		e.note(ps, w.mistakes...)
		return nil
	}
	e.reads = w.reads
	if e.static, m = e.check(nil); m != nil {
		e.note(ps, *m)
		return nil
	}
	return e
}

// at gives the place of a character of the source.
func (e *expression) at(char int) strict.Node {
	bytes := len(e.source)
	for i := range e.source {
		if char == 0 {
			bytes = i
			break
		}
		char--
	}
	return e.node.Sub(e.offset + bytes)
}

func (e *expression) note(ps *strict.Problems, mistakes ...mistake) {
	for _, m := range mistakes {
		if m.hint == "" && m.text == tooEarly {
			m.hint = e.node.CutShort()
		}
		ps.AddHint(e.at(m.at), m.hint, "%s", m.text)
	}
}

func (e *expression) rewriter(table *connector.Table, zone *time.Location) *rewriter {
	return &rewriter{source: []rune(e.source), table: table, zone: zone, functions: functions()}
}

// parse gives a fresh tree: rewriting and checking change it.
func (e *expression) parse() (tree *parser.Tree, m *mistake) {
	defer func() {
		if p := recover(); p != nil {
			m = &mistake{text: "the expression can't be read"}
		}
	}()
	config := conf.CreateNew()
	for name := range disabled() {
		delete(config.Builtins, name)
		config.Disabled[name] = true
	}
	tree, err := parser.ParseWithConfig(e.source, config)
	if err != nil {
		return nil, mistakeOf(err)
	}
	return tree, nil
}

// mistakeOf reads an error of expr's parser or checker, which may quote the file but no row.
func mistakeOf(err error) *mistake {
	var at *file.Error
	if !errors.As(err, &at) {
		return &mistake{text: plainWords(err.Error())}
	}
	m := &mistake{at: locate(at), text: plainWords(at.Message)}
	switch {
	case strings.Contains(m.text, "timestamp and text"), strings.Contains(m.text, "text and timestamp"):
		m.hint = `Make a timestamp of the text: date("2024-01-31").`
	case strings.Contains(m.text, "number and text"), strings.Contains(m.text, "text and number"),
		strings.Contains(m.text, "int and text"), strings.Contains(m.text, "text and int"):
		m.hint = `string(x) makes text of a number, int(x) or float(x) a number of text.`
	case strings.Contains(at.Message, `unexpected token Operator("=")`):
		m.hint = "Compare with ==."
	}
	return m
}

var goTypes = strings.NewReplacer("map[string]interface {}", "mapping", "[]interface {}", "list", "interface {}", "any", "float64", "number",
	"time.Time", "timestamp", "time.Duration", "duration", "types string", "types text", "and string", "and text", "(type string", "(type text",
	"type text", "type text")

var tokenName = regexp.MustCompile(`unexpected token \w+\((".*")\)`)

const tooEarly = "the expression ends too early"

func plainWords(message string) string {
	message = strings.ReplaceAll(message, "unexpected token EOF", tooEarly)
	return strings.TrimSpace(goTypes.Replace(tokenName.ReplaceAllString(message, "unexpected $1")))
}

// moduloTypes is how the checker sees %: expr's own takes integers only.
type moduloTypes struct{}

func (moduloTypes) Visit(n *ast.Node) {
	if b, ok := (*n).(*ast.BinaryNode); ok && b.Operator == "%" {
		*n = call(b, "%", b.Left, b.Right)
	}
}

// check finds type errors, with expr's own checker on the expression as it was written. numeric columns count as floats there: all that
// floats can do decimals can. Without a table nothing is known of columns.
func (e *expression) check(table *connector.Table) (valueType, *mistake) {
	tree, m := e.parse()
	if m != nil {
		return anyValue, m
	}
	ast.Walk(&tree.Node, moduloTypes{})
	config := conf.CreateNew()
	config.Functions["%"] = &builtin.Function{Name: "%", Func: binary(modulo),
		Types: []reflect.Type{reflect.TypeFor[func(int, int) int](), reflect.TypeFor[func(float64, float64) float64]()}}
	if table != nil {
		config.WithEnv(environment(table))
	}
	t, err := checker.Check(tree, config)
	if err != nil {
		return anyValue, mistakeOf(err)
	}
	return valueTypeOf(t), nil
}

// environment describes what is in scope to expr's checker.
func environment(table *connector.Table) types.Map {
	columns := types.Map{}
	for i := range table.Columns {
		columns[table.Columns[i].Name] = typeOf(&table.Columns[i]).checked()
	}
	scope := types.Map{}
	for name, t := range columns {
		scope[name] = t
	}
	for _, name := range metaNames() {
		scope[name] = types.String
	}
	scope["commitTime"] = types.TypeOf(time.Time{})
	scope["new"], scope["old"] = columns, columns
	return scope
}

func (t columnType) checked() types.Type {
	switch t.staticType() {
	case intValue:
		return types.Int
	case numberValue:
		return types.Float64
	case boolValue:
		return types.Bool
	case timeValue:
		return types.TypeOf(time.Time{})
	case textValue:
		return types.String
	case listValue:
		return types.TypeOf([]any{}) // the elements may be lists again: the type does not say
	}
	return types.Any
}

// program is an expression compiled for a table's shape.
type program struct {
	expr   *expression
	static valueType
	// plain is the column that the expression is, without anything around it; nil for others.
	plain *column
	code  *vm.Program
	// fast computes a condition without expr's machine; nil where that is not possible.
	fast condition
}

// compile binds an expression to a table's shape. Mistakes are noted in ps; then the program is nil.
func (e *expression) compile(table *connector.Table, zone *time.Location, ps *strict.Problems) *program {
	tree, m := e.parse()
	if m != nil {
		e.note(ps, *m)
		return nil
	}
	w := e.rewriter(table, zone)
	tree.Node = w.node(tree.Node)
	if len(w.mistakes) > 0 {
		e.note(ps, w.mistakes...)
		return nil
	}
	p := &program{expr: e, plain: plainColumn(tree.Node)}
	if p.plain != nil {
		p.static = p.plain.typ.staticType()
		if p.plain.index < 0 {
			p.static = anyValue
		}
	} else if p.static, m = e.check(table); m != nil {
		e.note(ps, *m)
		return nil
	}
	p.fast = e.compileCondition(tree.Node)
	config := conf.CreateNew()
	config.Optimize = false
	for name, f := range operators() {
		config.Functions[name] = &builtin.Function{Name: name, Func: f}
	}
	for name, f := range functions() {
		config.Functions[name] = &builtin.Function{Name: name, Func: f}
	}
	for name, f := range accessors() {
		config.Functions[name] = &builtin.Function{Name: name, Func: f}
	}
	if _, err := checker.Check(tree, config); err != nil {
		e.note(ps, *mistakeOf(err))
		return nil
	}
	code, err := compiler.Compile(tree, config)
	if err != nil {
		e.note(ps, mistake{text: "the expression can't be compiled: " + firstLine(err.Error())})
		return nil
	}
	p.code = code
	return p
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// plainColumn gives the column of a tree that is nothing but one.
func plainColumn(n ast.Node) *column {
	c, ok := n.(*ast.CallNode)
	if !ok || len(c.Arguments) != 2 {
		return nil
	}
	if id, ok := c.Callee.(*ast.IdentifierNode); !ok || id.Value != "column" {
		return nil
	}
	if k, ok := c.Arguments[1].(*ast.ConstantNode); ok {
		col, _ := k.Value.(*column)
		return col
	}
	return nil
}

// accessors are the functions by which rewritten expressions reach the row.
func accessors() map[string]function {
	return map[string]function{
		"column": func(args ...any) (any, error) { return args[0].(*row).value(args[1].(*column)) },
		"row":    func(args ...any) (any, error) { return args[0].(*row).tuple(args[1].(side)) != nil, nil },
		"meta":   func(args ...any) (any, error) { return args[0].(*row).meta(args[1].(string)), nil },
	}
}

// meta gives a fact about the change.
func (r *row) meta(name string) any {
	if text, ok := r.metaText(name); ok {
		return text
	}
	if r.change.CommitTime.IsZero() {
		return nil
	}
	return r.change.CommitTime.In(r.zone)
}

// metaText is meta for all that is text; ok is false for commitTime.
func (r *row) metaText(name string) (text string, ok bool) {
	c := r.change
	switch name {
	case "op":
		return c.Op.String(), true
	case "schema":
		return c.Table.Schema, true
	case "table":
		return c.Table.Name, true
	case "position":
		r.placed = true
		return c.Position.String(), true
	}
	return "", false
}

// run computes the expression on r. Its error is a *failure without row values.
func (p *program) run(r *row) (any, error) {
	if p.plain != nil {
		v, err := r.value(p.plain)
		if err != nil {
			return nil, under(err, "", p.expr.node)
		}
		return v, nil
	}
	v, err := r.vm.Run(p.code, r)
	if err != nil {
		return nil, p.failed(err)
	}
	return v, nil
}

// condition says whether the expression, a `when`, is true. Null counts as false, as in SQL's WHERE.
func (p *program) condition(r *row) (bool, error) {
	if p.fast != nil {
		holds, err := p.fast(r)
		if err != nil {
			return false, under(err, "", p.expr.node)
		}
		return holds, nil
	}
	v, err := p.run(r)
	if err != nil || v == nil {
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		return false, under(fail("want true or false, got %s", typeName(v)), "", p.expr.node)
	}
	return b, nil
}

// failed makes a failure of an error of expr's machine. Errors of ours say all; expr's own may quote row values, so only their
// kind is told.
func (p *program) failed(err error) error {
	at := p.expr.node
	var where *file.Error
	if errors.As(err, &where) {
		at = p.expr.at(locate(where))
	}
	var f *failure
	if errors.As(err, &f) {
		return under(f, "", at)
	}
	return under(fail("the expression failed: %s", reason(err, where)), "", at)
}

// goTypeWord says in plain words what Go calls a type.
func goTypeWord(name string) string {
	switch name {
	case "string":
		return "text"
	case "bool":
		return "true or false"
	case "int", "float64", "decimal.Decimal":
		return "a number"
	}
	return plainWords(name)
}

var assertion = regexp.MustCompile(`interface conversion: interface \{\} is ([^,]+), not (\S+)$`)

func reason(err error, where *file.Error) string {
	var typeError runtime.Error
	message := ""
	if where != nil {
		message = where.Message
	}
	if errors.As(err, &typeError) {
		if m := assertion.FindStringSubmatch(message); m != nil {
			if m[1] == "nil" {
				return fmt.Sprintf("a function got null where it takes %s; give a null a default: (x ?? ...)", goTypeWord(m[2]))
			}
			return fmt.Sprintf("a function got %s where it takes %s", goTypeWord(m[1]), goTypeWord(m[2]))
		}
		return "a function got a value that it does not take"
	}
	var timeError *time.ParseError
	switch {
	case errors.As(err, &timeError), strings.HasPrefix(message, "invalid date"):
		return "a text is no date in the form that is wanted"
	case strings.HasPrefix(message, "index out of range"):
		return "a list is shorter than the index; get(list, index) gives null then"
	case strings.HasPrefix(message, "cannot fetch"):
		return "a field was read of what has none; x?.field is null where x is null"
	case strings.HasPrefix(message, "memory budget"):
		return "it needs too much memory"
	case strings.HasPrefix(message, "reduce of empty"):
		return "reduce of an empty list needs a first value"
	case strings.HasPrefix(message, "unknown time zone"):
		return "there is no such time zone"
	}
	return "a function got a value that it does not take"
}
