package filter

import (
	"errors"
	"math"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/expr-lang/expr/parser/lexer"
)

// may refuses what is known to be of a kind that an operator does not take. What only
// the record tells is for the operator to judge.
func (p *parser) may(t lexer.Token, n node, want set) bool {
	if n.kind == dynamic || want.has(n.kind) {
		return true
	}
	p.refuse(t.From, "invalid operation: %s wants %v, not %v", t.Value, want, setOf(n.kind))
	return false
}

// operand is n as an operator takes it: what is known to be of another kind is
// refused, and what only the record tells is looked at when it is there.
func (p *parser) operand(t lexer.Token, n node, want set) node {
	if !p.may(t, n, want) || n.kind != dynamic {
		return n
	}
	inner := n.eval
	n.eval = func(e *event) (value, error) {
		v, err := inner(e)
		if err == nil && !want.has(v.kind) {
			err = faultAt(t.From, "%s wants %v, not %v", t.Value, want, setOf(v.kind))
		}
		return v, err
	}
	return n
}

// both evaluates the operands of an operator.
func both(e *event, x, y node) (value, value, error) {
	a, err := x.eval(e)
	if err != nil {
		return value{}, value{}, err
	}
	b, err := y.eval(e)
	return a, b, err
}

// binary builds an operator with two operands.
func (p *parser) binary(t lexer.Token, x, y node) node {
	switch t.Value {
	case "and", "&&":
		return p.logic(t, x, y, false)
	case "or", "||":
		return p.logic(t, x, y, true)
	case "==", "!=":
		return p.equality(t, x, y, t.Value == "==")
	case "<", "<=", ">", ">=":
		return p.order(t, x, y)
	case "in":
		return p.membership(t, x, y)
	case "matches":
		return p.matches(t, x, y)
	case "contains", "startsWith", "endsWith":
		return p.compareTexts(t, x, y)
	case "+", "-", "*", "/", "%", "**", "^":
		return p.arithmetic(t, x, y)
	case "??":
		return p.coalesce(t, x, y)
	default:
		return p.unexpected(t)
	}
}

// logic is &&, or || if decisive is true: what it answers without looking at y.
func (p *parser) logic(t lexer.Token, x, y node, decisive bool) node {
	x, y = p.operand(t, x, setOf(boolean)), p.operand(t, y, setOf(boolean))
	return p.build(node{at: t.From, kind: boolean, eval: func(e *event) (value, error) {
		v, err := x.eval(e)
		if err != nil || v.truth() == decisive {
			return v, err
		}
		return y.eval(e)
	}})
}

func (p *parser) not(t lexer.Token, x node) node {
	x = p.operand(t, x, setOf(boolean))
	return p.build(node{at: t.From, kind: boolean, eval: func(e *event) (value, error) {
		v, err := x.eval(e)
		return ofBool(!v.truth()), err
	}})
}

// sign is + or - before a number.
func (p *parser) sign(t lexer.Token, x node) node {
	x = p.operand(t, x, numbers)
	return p.build(node{at: t.From, kind: x.kind, literal: x.literal, eval: func(e *event) (value, error) {
		v, err := x.eval(e)
		switch {
		case err != nil || t.Value == "+":
			return v, err
		case v.kind == integer:
			return ofInt(-v.int()), nil
		default:
			return ofFloat(-v.float()), nil
		}
	}})
}

func comparable(x, y kind) bool {
	return x == dynamic || y == dynamic || x == y || numbers.has(x) && numbers.has(y)
}

func (p *parser) equality(t lexer.Token, x, y node, want bool) node {
	switch {
	case x.kind == headers || y.kind == headers:
		return p.refuse(t.From, "invalid operation: headers are compared one by one, as in headers[\"region\"] == \"eu\"")
	case x.kind == null && y.kind == null:
	case x.kind == null && y.kind != dynamic, y.kind == null && x.kind != dynamic:
		return p.refuse(t.From, "invalid operation: %v is never nil; whether there is a key or a value say keyIsNull and valueIsNull", setOf(max(x.kind, y.kind)))
	case !comparable(x.kind, y.kind):
		return p.refuse(t.From, "invalid operation: %s compares %v with %v", t.Value, setOf(x.kind), setOf(y.kind))
	}
	return p.build(node{at: t.From, kind: boolean, eval: func(e *event) (value, error) {
		a, b, err := both(e, x, y)
		if err != nil {
			return value{}, err
		}
		return ofBool(e.equal(a, b) == want), nil
	}})
}

// order is < and its like, for two numbers or two texts.
func (p *parser) order(t lexer.Token, x, y node) node {
	want := numbers | setOf(text)
	if p.may(t, x, want) && p.may(t, y, want) && !comparable(x.kind, y.kind) {
		return p.refuse(t.From, "invalid operation: %s compares %v with %v", t.Value, setOf(x.kind), setOf(y.kind))
	}
	return p.build(node{at: t.From, kind: boolean, eval: func(e *event) (value, error) {
		a, b, err := both(e, x, y)
		switch {
		case err != nil:
			return value{}, err
		case a.kind == integer && b.kind == integer:
			return ofBool(ordered(t.Value, a.int(), b.int())), nil
		case numbers.has(a.kind) && numbers.has(b.kind):
			return ofBool(ordered(t.Value, a.float(), b.float())), nil
		case a.kind == text && b.kind == text:
			e.look(min(len(a.text), len(b.text)))
			return ofBool(ordered(t.Value, a.text, b.text)), nil
		default:
			return value{}, faultAt(t.From, "%s cannot compare %v with %v", t.Value, setOf(a.kind), setOf(b.kind))
		}
	}})
}

func ordered[T int64 | float64 | string](op string, a, b T) bool {
	switch op {
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	default:
		return a >= b
	}
}

// membership is in: an item of a list, a name in a map or among the headers.
func (p *parser) membership(t lexer.Token, x, y node) node {
	if y.kind == text {
		return p.refuse(t.From, "invalid operation: in looks into a list or a map; a string is looked into by contains")
	}
	p.may(t, y, setOf(null, list, object, headers))
	if y.kind == headers {
		p.may(t, x, setOf(text))
	}
	if texts := literalTexts(y); texts != nil {
		return p.build(node{at: t.From, kind: boolean, eval: func(e *event) (value, error) {
			v, err := x.eval(e)
			_, found := texts[v.text]
			return ofBool(found && v.kind == text), err
		}})
	}
	return p.build(node{at: t.From, kind: boolean, eval: func(e *event) (value, error) {
		a, b, err := both(e, x, y)
		if err != nil {
			return value{}, err
		}
		found := false
		switch b.kind {
		case null:
		case list:
			for _, item := range b.list() {
				if found = e.equal(a, of(item)); found {
					break
				}
			}
		case object, headers:
			if a.kind != text {
				return value{}, faultAt(t.From, "the names in a map are strings, not %v", setOf(a.kind))
			}
			if b.kind == headers {
				_, found = e.header(a.text)
			} else {
				_, found = b.members()[a.text]
			}
		default:
			return value{}, faultAt(t.From, "in looks into a list or a map, not %v", setOf(b.kind))
		}
		return ofBool(found), nil
	}})
}

// literalTexts are the items of a list that is written out and has only texts, or nil.
func literalTexts(n node) map[string]struct{} {
	if n.kind != list || !n.literal {
		return nil
	}
	v, err := n.eval(nil)
	if err != nil {
		return nil
	}
	texts := map[string]struct{}{}
	for _, item := range v.list() {
		s, ok := item.(string)
		if !ok {
			return nil
		}
		texts[s] = struct{}{}
	}
	return texts
}

func (p *parser) matches(t lexer.Token, x, y node) node {
	x = p.operand(t, x, textOrNil)
	if y.kind != text || !y.literal {
		return p.refuse(t.From, "a regular expression must be written out, as a string")
	}
	pattern, err := y.eval(nil)
	if err != nil {
		return p.refuse(t.From, "%v", err)
	}
	re, err := regexp.Compile(pattern.text)
	if err != nil {
		reason := "not one of RE2"
		if at, ok := errors.AsType[*syntax.Error](err); ok {
			reason = at.Code.String()
		}
		return p.refuse(t.From, "the regular expression is wrong: %s", reason)
	}
	return p.build(node{at: t.From, kind: boolean, eval: func(e *event) (value, error) {
		v, err := x.eval(e)
		if err != nil || v.kind == null {
			return ofBool(false), err
		}
		e.look(len(v.text))
		return ofBool(re.MatchString(v.text)), nil
	}})
}

// compareTexts is contains, startsWith and endsWith; nil does nothing of that.
func (p *parser) compareTexts(t lexer.Token, x, y node) node {
	x, y = p.operand(t, x, textOrNil), p.operand(t, y, textOrNil)
	is := map[string]func(string, string) bool{
		"contains": strings.Contains, "startsWith": strings.HasPrefix, "endsWith": strings.HasSuffix,
	}[t.Value]
	return p.build(node{at: t.From, kind: boolean, eval: func(e *event) (value, error) {
		a, b, err := both(e, x, y)
		if err != nil || a.kind == null || b.kind == null {
			return ofBool(false), err
		}
		e.look(len(a.text))
		return ofBool(is(a.text, b.text)), nil
	}})
}

// arithmetic gives whole numbers for whole ones, but / and ** always floats; + also
// joins texts.
func (p *parser) arithmetic(t lexer.Token, x, y node) node {
	want := numbers
	switch t.Value {
	case "+":
		want |= setOf(text)
	case "%":
		want = setOf(integer)
	}
	x, y = p.operand(t, x, want), p.operand(t, y, want)
	if !comparable(x.kind, y.kind) {
		return p.refuse(t.From, "invalid operation: %v %s %v", x.kind, t.Value, y.kind)
	}
	return p.build(node{at: t.From, kind: arithmeticKind(t.Value, x.kind, y.kind), eval: func(e *event) (value, error) {
		a, b, err := both(e, x, y)
		if err != nil {
			return value{}, err
		}
		return e.calculate(t, a, b)
	}})
}

func arithmeticKind(op string, x, y kind) kind {
	switch {
	case op == "/" || op == "**" || op == "^":
		return float
	case op == "%":
		return integer
	case x == dynamic || y == dynamic:
		return dynamic
	default:
		return max(x, y) // a float of an integer and a float
	}
}

func (b *budget) calculate(t lexer.Token, x, y value) (value, error) {
	switch {
	case x.kind == text && y.kind == text:
		if err := b.make(t.From, len(x.text)+len(y.text)); err != nil {
			return value{}, err
		}
		return ofText(x.text + y.text), nil
	case x.kind == text || y.kind == text:
		return value{}, faultAt(t.From, "+ cannot join %v and %v; string(…) makes a string of a number", setOf(x.kind), setOf(y.kind))
	case t.Value == "%" && y.int() == 0:
		return value{}, faultAt(t.From, "%% by zero")
	}
	switch t.Value {
	case "/":
		return ofFloat(x.float() / y.float()), nil
	case "**", "^":
		return ofFloat(math.Pow(x.float(), y.float())), nil
	case "%":
		return ofInt(x.int() % y.int()), nil
	}
	if x.kind == integer && y.kind == integer {
		return ofInt(plusMinusTimes(t.Value, x.int(), y.int())), nil
	}
	return ofFloat(plusMinusTimes(t.Value, x.float(), y.float())), nil
}

func plusMinusTimes[T int64 | float64](op string, a, b T) T {
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	default:
		return a * b
	}
}

// coalesce is ??: x, or y if x is nil.
func (p *parser) coalesce(t lexer.Token, x, y node) node {
	return p.build(node{at: t.From, kind: common(x.kind, y.kind), eval: func(e *event) (value, error) {
		if v, err := x.eval(e); err != nil || v.kind != null {
			return v, err
		}
		return y.eval(e)
	}})
}

// choice is condition ? yes : no.
func (p *parser) choice(t lexer.Token, condition, yes, no node) node {
	condition = p.operand(t, condition, setOf(boolean))
	return p.build(node{at: t.From, kind: common(yes.kind, no.kind), eval: func(e *event) (value, error) {
		v, err := condition.eval(e)
		switch {
		case err != nil:
			return value{}, err
		case v.truth():
			return yes.eval(e)
		default:
			return no.eval(e)
		}
	}})
}

// common is the kind of a value that is one of two.
func common(x, y kind) kind {
	if x == y {
		return x
	}
	return dynamic
}
