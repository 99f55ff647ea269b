package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"github.com/waybillhq/waybill/internal/record"
)

const (
	// MaxText bounds an expression in bytes; what is longer is a program.
	MaxText = 8 << 10
	// maxNodes bounds what an expression consists of, and so what it costs.
	maxNodes = 1000
	// maxMemory bounds what the evaluation of one record counts as memory: the
	// items that a function makes of the record's.
	maxMemory = 1 << 20
)

// functions are those of the language that look at one value, or once through a
// list. The others make more of what they are given, or know the time.
var functions = []string{
	"len", "lower", "upper", "trim", "trimPrefix", "trimSuffix", "indexOf", "lastIndexOf",
	"int", "float", "string", "type", "abs", "all", "any", "none", "one", "count",
}

// Filter is a compiled expression. It is safe for concurrent use.
type Filter struct {
	program     *vm.Program
	machines    sync.Pool // of *machine
	usesJSON    bool
	usesHeaders bool
}

// machine evaluates for one caller at a time.
type machine struct {
	vm  vm.VM
	env event
}

// event is a record as an expression sees it.
type event struct {
	Topic       string            `expr:"topic"`
	Partition   int               `expr:"partition"`
	Offset      int64             `expr:"offset"`
	Timestamp   int64             `expr:"timestamp"`
	Key         string            `expr:"key"`
	Value       string            `expr:"value"`
	KeyIsNull   bool              `expr:"keyIsNull"`
	ValueIsNull bool              `expr:"valueIsNull"`
	Headers     map[string]string `expr:"headers"`
	JSON        any               `expr:"json"`
}

// SyntaxError says what is wrong with an expression, and where in it.
type SyntaxError struct {
	Line, Column int // both from 1
	Message      string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s (line %d, column %d of the expression)", e.Message, e.Line, e.Column)
}

// Compile compiles an expression, or returns a *[SyntaxError].
func Compile(text string) (*Filter, error) {
	if len(text) > MaxText {
		return nil, &SyntaxError{1, 1, fmt.Sprintf("the expression has %d bytes, %d are allowed", len(text), MaxText)}
	}
	f := &Filter{}
	limits := &bounds{text: text}
	opts := []expr.Option{expr.Env(event{}), expr.AsBool(), expr.MaxNodes(maxNodes), expr.DisableAllBuiltins(), expr.Patch(limits)}
	for _, name := range functions {
		opts = append(opts, expr.EnableBuiltin(name))
	}
	program, err := expr.Compile(text, opts...)
	switch fault, ok := errors.AsType[*file.Error](err); {
	case ok:
		return nil, &SyntaxError{max(1, fault.Line), fault.Column + 1, fault.Message}
	case err != nil:
		return nil, &SyntaxError{1, 1, err.Error()}
	case limits.fault != nil:
		return nil, limits.fault
	}
	f.program, f.usesJSON, f.usesHeaders = program, limits.usesJSON, limits.usesHeaders
	f.machines.New = func() any { return &machine{vm: vm.VM{MemoryBudget: maxMemory}} }
	return f, nil
}

// Match says whether a record of a source partition is to be copied. An error
// says why the expression has no answer for it.
func (f *Filter) Match(topic string, partition int32, r *record.Record) (bool, error) {
	m := f.machines.Get().(*machine)
	defer f.machines.Put(m)
	m.env = event{
		Topic: topic, Partition: int(partition), Offset: r.Offset, Timestamp: r.Timestamp,
		// The record outlives the evaluation.
		Key: unsafe.String(unsafe.SliceData(r.Key), len(r.Key)), Value: unsafe.String(unsafe.SliceData(r.Value), len(r.Value)),
		KeyIsNull: r.Key == nil, ValueIsNull: r.Value == nil,
	}
	if f.usesHeaders {
		m.env.Headers = make(map[string]string, len(r.Headers))
		for _, h := range r.Headers {
			m.env.Headers[h.Key] = string(h.Value)
		}
	}
	if f.usesJSON && r.Value != nil {
		if err := json.Unmarshal(r.Value, &m.env.JSON); err != nil {
			return false, fmt.Errorf("the filter asks for JSON and the value is none: %w", err)
		}
	}
	out, err := m.vm.Run(f.program, &m.env)
	m.env = event{} // nothing of the record is kept
	if err != nil {
		if fault, ok := errors.AsType[*file.Error](err); ok {
			err = &SyntaxError{max(1, fault.Line), fault.Column + 1, fault.Message}
		}
		return false, fmt.Errorf("the filter has no answer: %w", err)
	}
	yes, ok := out.(bool)
	if !ok {
		return false, fmt.Errorf("the filter answers %v, which is neither true nor false", out)
	}
	return yes, nil
}

// bounds walks an expression: it refuses what may cost more than in proportion to
// the record, and takes note of what the expression asks for.
type bounds struct {
	text                  string
	usesJSON, usesHeaders bool
	fault                 *SyntaxError
}

// Visit is called for each node, those inside before those around.
func (b *bounds) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		b.usesJSON = b.usesJSON || n.Value == "json"
		b.usesHeaders = b.usesHeaders || n.Value == "headers"
		if n.Value == "$env" {
			b.refuse(n, "$env is not known; name what is wanted")
		}
	case *ast.BuiltinNode:
		if !slices.Contains(functions, n.Name) {
			b.refuse(n, n.Name+" is not allowed")
		}
	case *ast.VariableDeclaratorNode:
		b.refuse(n, "variables are not allowed")
	case *ast.SequenceNode:
		b.refuse(n, "one expression is wanted")
	case *ast.BinaryNode:
		if n.Operator == ".." {
			b.refuse(n, "ranges are not allowed; compare with >= and <=")
		}
		if _, written := n.Right.(*ast.StringNode); n.Operator == "matches" && !written {
			b.refuse(n, "a regular expression must be written out")
		}
	case *ast.PredicateNode:
		inner := &loops{}
		ast.Walk(&n.Node, inner)
		if inner.found {
			b.refuse(n, "a loop within a loop is not allowed")
		}
	}
}

func (b *bounds) refuse(n ast.Node, message string) {
	if b.fault != nil {
		return
	}
	e := file.Error{Location: n.Location(), Message: message}
	_ = e.Bind(file.NewSource(b.text))
	b.fault = &SyntaxError{max(1, e.Line), e.Column + 1, message}
}

// loops looks for functions that go through a list.
type loops struct{ found bool }

func (l *loops) Visit(node *ast.Node) {
	if n, ok := (*node).(*ast.BuiltinNode); ok && slices.Contains([]string{"all", "any", "none", "one", "count"}, n.Name) {
		l.found = true
	}
}
