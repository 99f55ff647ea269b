package filter

import (
	"errors"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser/lexer"
	"github.com/expr-lang/expr/parser/operator"
)

// node is a part of an expression.
type node struct {
	at      int                         // in characters from the start of the expression
	kind    kind                        // what eval answers
	literal bool                        // eval needs no event
	eval    func(*event) (value, error) // errors are faults
}

// parser builds the tree of an expression by precedence climbing. After a fault it
// stands at the end, so that whatever is under way comes to its end too; what is
// built then is thrown away.
type parser struct {
	tokens   []lexer.Token // ends with EOF
	nodes    int
	inLoop   bool // within the predicate of a function that goes through a list
	usesJSON bool
	fault    *fault
}

func parse(text string) (*parser, node) {
	p := &parser{}
	tokens, err := lexer.Lex(file.NewSource(text))
	if err != nil {
		p.tokens = []lexer.Token{{Kind: lexer.EOF}}
		at := &file.Error{Message: err.Error()}
		errors.As(err, &at)
		p.refuse(at.From, "%s", at.Message)
		return p, node{}
	}
	p.tokens = tokens
	root := p.expression(0)
	switch t := p.current(); {
	case t.Is(lexer.Operator, "="):
		p.refuse(t.From, "unexpected =; compare with ==")
	case t.Is(lexer.Operator, ";"):
		p.refuse(t.From, "one expression is wanted; join two with && or ||")
	case !t.Is(lexer.EOF):
		p.unexpected(t)
	}
	if root.kind != dynamic && root.kind != boolean {
		p.refuse(root.at, "expected bool, and this is %v; compare it with something", setOf(root.kind))
	}
	return p, root
}

// refuse keeps the first fault and ends parsing.
func (p *parser) refuse(at int, format string, args ...any) node {
	if p.fault == nil {
		p.fault = faultAt(at, format, args...)
	}
	p.tokens = p.tokens[len(p.tokens)-1:]
	return p.broken()
}

func (p *parser) broken() node { return node{kind: dynamic} }

func (p *parser) unexpected(t lexer.Token) node {
	if t.Is(lexer.EOF) {
		return p.refuse(t.From, "unexpected end of the expression")
	}
	return p.refuse(t.From, "unexpected %s", t.Value)
}

func (p *parser) current() lexer.Token { return p.tokens[0] }

// next takes the current token, and at the end stays there.
func (p *parser) next() lexer.Token {
	t := p.tokens[0]
	if len(p.tokens) > 1 {
		p.tokens = p.tokens[1:]
	}
	return t
}

// accept takes the current token if it is this one.
func (p *parser) accept(kind lexer.Kind, text string) bool {
	if !p.current().Is(kind, text) {
		return false
	}
	p.next()
	return true
}

func (p *parser) expect(kind lexer.Kind, text string) {
	if !p.accept(kind, text) {
		p.unexpected(p.current())
	}
}

// build counts a node.
func (p *parser) build(n node) node {
	if p.nodes++; p.nodes > maxNodes {
		return p.refuse(n.at, "the expression consists of more than %d parts", maxNodes)
	}
	return n
}

// constant is a node that always answers the same.
func (p *parser) constant(at int, v value) node {
	return p.build(node{at: at, kind: v.kind, literal: true, eval: func(*event) (value, error) { return v, nil }})
}

// expression reads operators that bind at least as tightly as precedence says, and
// what they stand between.
func (p *parser) expression(precedence int) node {
	left := p.primary()
	before := ""
	for p.current().Kind == lexer.Operator {
		t, negate := p.current(), false
		if t.Value == "not" {
			if t, negate = p.tokens[1], true; !operator.AllowedNegateSuffix(t.Value) {
				return p.unexpected(t)
			}
		}
		op, known := operator.Binary[t.Value]
		if !known || op.Precedence < precedence {
			break
		}
		if negate {
			p.next()
		}
		p.next()
		switch {
		case t.Value == "|":
			name := p.next()
			if name.Kind != lexer.Identifier {
				return p.unexpected(name)
			}
			left = p.call(name, &left)
		case t.Value == "..":
			return p.refuse(t.From, "ranges are not allowed; compare with >= and <=")
		case before == "??" && t.Value != "??":
			return p.refuse(t.From, "%s cannot stand beside ??; put one of them in parentheses", t.Value)
		case operator.IsComparison(t.Value):
			left = p.comparisons(left, t, op.Precedence)
		default:
			tighter := op.Precedence + 1
			if op.Associativity == operator.Right {
				tighter = op.Precedence
			}
			left = p.binary(t, left, p.expression(tighter))
			if negate {
				left = p.not(t, left)
			}
		}
		before = t.Value
	}
	if precedence == 0 {
		left = p.conditional(left)
	}
	return left
}

// comparisons reads a < b, and a < b < c, which is a < b && b < c.
func (p *parser) comparisons(left node, t lexer.Token, precedence int) node {
	var all node
	for first := true; ; first = false {
		right := p.expression(precedence + 1)
		if one := p.binary(t, left, right); first {
			all = one
		} else {
			all = p.logic(t, all, one, false)
		}
		left, t = right, p.current()
		if t.Kind != lexer.Operator || !operator.IsComparison(t.Value) {
			return all
		}
		p.next()
	}
}

// conditional reads what may follow a condition: ? this : that, or ?: that.
func (p *parser) conditional(condition node) node {
	for p.current().Is(lexer.Operator, "?") {
		t := p.next()
		yes := condition
		if !p.current().Is(lexer.Operator, ":") {
			yes = p.expression(0)
		}
		p.expect(lexer.Operator, ":")
		condition = p.choice(t, condition, yes, p.expression(0))
	}
	return condition
}

func (p *parser) primary() node {
	t := p.current()
	if op, ok := operator.Unary[t.Value]; ok && t.Kind == lexer.Operator {
		p.next()
		inner := p.expression(op.Precedence)
		if t.Value == "not" || t.Value == "!" {
			return p.postfix(p.not(t, inner))
		}
		return p.postfix(p.sign(t, inner))
	}
	switch {
	case t.Is(lexer.Bracket, "("):
		p.next()
		inner := p.expression(0)
		p.expect(lexer.Bracket, ")")
		return p.postfix(inner)
	case t.Is(lexer.Bracket, "["):
		return p.postfix(p.listOf())
	case t.Is(lexer.Operator, "#"), p.inLoop && t.Is(lexer.Operator, "."):
		return p.postfix(p.item())
	case t.Kind == lexer.String:
		p.next()
		return p.postfix(p.constant(t.From, ofText(t.Value)))
	case t.Kind == lexer.Number:
		return p.number()
	case t.Kind == lexer.Identifier:
		return p.name()
	}
	switch t.Value {
	case "let":
		return p.refuse(p.tokens[min(1, len(p.tokens)-1)].From, "variables are not allowed; write out what it stands for")
	case "if":
		return p.refuse(t.From, "if is not allowed; write condition ? this : that")
	case "{":
		return p.refuse(t.From, "maps are not allowed; compare the members one by one")
	case "::":
		return p.refuse(t.From, ":: is not allowed; the name of the function is enough")
	}
	if t.Kind == lexer.Bytes {
		return p.refuse(t.From, "bytes are not allowed; write a string, as in \"\\x00\"")
	}
	return p.unexpected(t)
}

func (p *parser) number() node {
	t := p.next()
	digits := strings.ToLower(strings.ReplaceAll(t.Value, "_", ""))
	base := 10
	if len(digits) > 1 && strings.IndexByte("xob", digits[1]) >= 0 {
		base = 0
	} else if strings.ContainsAny(digits, ".e") {
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil {
			return p.refuse(t.From, "%s is no number, or too large a one", t.Value)
		}
		return p.constant(t.From, ofFloat(f))
	}
	n, err := strconv.ParseInt(digits, base, 64)
	if err != nil {
		return p.refuse(t.From, "%s is no whole number of 64 bits", t.Value)
	}
	return p.constant(t.From, ofInt(n))
}

// name reads a word: a constant, a function, or what an expression sees.
func (p *parser) name() node {
	t := p.next()
	switch {
	case t.Value == "true" || t.Value == "false":
		return p.constant(t.From, ofBool(t.Value == "true"))
	case t.Value == "nil":
		return p.constant(t.From, value{kind: null})
	case p.current().Is(lexer.Bracket, "("):
		return p.postfix(p.call(t, nil))
	}
	return p.postfix(p.field(t))
}

func (p *parser) listOf() node {
	t := p.next()
	var items []node
	for !p.accept(lexer.Bracket, "]") && p.fault == nil {
		if len(items) > 0 {
			p.expect(lexer.Operator, ",")
			if p.accept(lexer.Bracket, "]") {
				break
			}
		}
		items = append(items, p.expression(0))
	}
	return p.list(t, items)
}

// item reads # (the item of the list), or nothing, before a dot.
func (p *parser) item() node {
	t := p.current()
	name := ""
	if p.accept(lexer.Operator, "#") && p.current().Kind == lexer.Identifier {
		name = p.next().Value
	}
	switch {
	case !p.inLoop:
		return p.refuse(t.From, "# stands for an item of a list, within any, all, none, one or count")
	case name != "":
		return p.refuse(t.From, "#%s is not known; the item is #, and a member of it .%s", name, name)
	}
	return p.build(itself(t.From))
}

func itself(at int) node {
	return node{at: at, kind: dynamic, eval: func(e *event) (value, error) { return e.item, nil }}
}

// call reads the arguments of a function, of which a pipe has given the first.
func (p *parser) call(name lexer.Token, first *node) node {
	if f, ok := loops[name.Value]; ok {
		return p.loop(name, f.alone, first)
	}
	if _, ok := functions[name.Value]; !ok {
		return p.refuse(name.From, "%s is not allowed; the functions are %s", name.Value, functionNames())
	}
	var args []node
	if first != nil {
		args = append(args, *first)
	}
	p.expect(lexer.Bracket, "(")
	for n := 0; !p.accept(lexer.Bracket, ")") && p.fault == nil; n++ {
		if n > 0 {
			p.expect(lexer.Operator, ",")
			if p.accept(lexer.Bracket, ")") {
				break
			}
		}
		args = append(args, p.expression(0))
	}
	return p.apply(name, args)
}

// loop reads any(list, predicate), or such as count(list), where the list may stand
// alone.
func (p *parser) loop(name lexer.Token, alone bool, over *node) node {
	if p.inLoop {
		return p.refuse(name.From, "a loop within a loop is not allowed")
	}
	p.expect(lexer.Bracket, "(")
	if over == nil {
		n := p.expression(0)
		over = &n
		if !alone || !p.current().Is(lexer.Bracket, ")") {
			p.expect(lexer.Operator, ",")
		}
	}
	if alone && p.accept(lexer.Bracket, ")") {
		return p.goThrough(name, *over, itself(name.From), 1)
	}
	before := p.nodes
	p.inLoop = true
	braces := p.accept(lexer.Bracket, "{")
	predicate := p.expression(0)
	if braces {
		p.expect(lexer.Bracket, "}")
	}
	p.inLoop = false
	p.accept(lexer.Operator, ",")
	p.expect(lexer.Bracket, ")")
	return p.goThrough(name, *over, predicate, 1+p.nodes-before)
}

// postfix reads what may follow a value: .name, ?.name, [index], [from:to].
func (p *parser) postfix(n node) node {
	var chain *access
	for {
		t := p.current()
		optional := t.Is(lexer.Operator, "?.")
		switch {
		case optional || t.Is(lexer.Operator, "."):
			p.next()
			if optional && p.current().Is(lexer.Bracket, "[") {
				t, chain = p.next(), nil
				n = p.bracket(t, n, true)
				continue
			}
			name := p.next()
			if name.Kind != lexer.Identifier && (name.Kind != lexer.Operator || !isWord(name.Value)) {
				return p.refuse(name.From, "a name is wanted behind the dot")
			}
			if p.current().Is(lexer.Bracket, "(") {
				return p.refuse(p.current().From, "values have no functions; write %s(…)", name.Value)
			}
			if chain == nil {
				chain = &access{of: n}
				n = p.build(node{at: name.From, kind: dynamic, eval: chain.eval})
			}
			p.member(&n, chain, name, optional)
		case t.Is(lexer.Bracket, "["):
			p.next()
			chain = nil
			n = p.bracket(t, n, false)
		default:
			return n
		}
	}
}

func isWord(s string) bool { return s != "" && (s[0] >= 'a' && s[0] <= 'z') }

// bracket reads what stands in brackets behind a value.
func (p *parser) bracket(t lexer.Token, n node, optional bool) node {
	var from, to *node
	if !p.current().Is(lexer.Operator, ":") {
		inner := p.expression(0)
		from = &inner
	}
	if from != nil && p.accept(lexer.Bracket, "]") {
		return p.index(t, n, *from, optional)
	}
	p.expect(lexer.Operator, ":")
	if !p.current().Is(lexer.Bracket, "]") {
		inner := p.expression(0)
		to = &inner
	}
	p.expect(lexer.Bracket, "]")
	return p.slice(t, n, from, to)
}
