package filter

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/parser/lexer"
)

// function is one that looks at one value, or two texts.
type function struct {
	takes []set // by argument
	least int   // how many of them are needed
	gives kind  // dynamic: what it was given
	call  func(e *event, t lexer.Token, a, b value) (value, error)
}

// loop is a function that asks about the items of a list, of which so many have been
// seen, and of these so many said yes.
type loop struct {
	alone   bool // it may be given no predicate: the items themselves say yes or no
	gives   kind
	decided func(yes, seen int) bool // whatever the others say
	answer  func(yes, seen int) value
}

// loops are the functions that go through a list.
var loops = map[string]loop{
	"all":   {gives: boolean, decided: func(yes, seen int) bool { return yes < seen }, answer: func(yes, seen int) value { return ofBool(yes == seen) }},
	"any":   {gives: boolean, decided: func(yes, _ int) bool { return yes > 0 }, answer: func(yes, _ int) value { return ofBool(yes > 0) }},
	"none":  {gives: boolean, decided: func(yes, _ int) bool { return yes > 0 }, answer: func(yes, _ int) value { return ofBool(yes == 0) }},
	"one":   {gives: boolean, decided: func(yes, _ int) bool { return yes > 1 }, answer: func(yes, _ int) value { return ofBool(yes == 1) }},
	"count": {alone: true, gives: integer, decided: func(int, int) bool { return false }, answer: func(yes, _ int) value { return ofInt(int64(yes)) }},
}

// functions are the others. Those that expr has besides make more of what they are
// given, or know the time.
var functions = map[string]function{
	"len":         {takes: []set{setOf(text, list, object, headers)}, least: 1, gives: integer, call: length},
	"type":        {takes: []set{^set(0)}, least: 1, gives: text, call: func(_ *event, _ lexer.Token, a, _ value) (value, error) { return ofText(a.kind.String()), nil }},
	"abs":         {takes: []set{numbers}, least: 1, gives: dynamic, call: absolute},
	"int":         {takes: []set{numbers | setOf(text)}, least: 1, gives: integer, call: toInt},
	"float":       {takes: []set{numbers | setOf(text)}, least: 1, gives: float, call: toFloat},
	"string":      {takes: []set{numbers | setOf(null, boolean, text)}, least: 1, gives: text, call: toText},
	"lower":       {takes: []set{setOf(text)}, least: 1, gives: text, call: making(strings.ToLower)},
	"upper":       {takes: []set{setOf(text)}, least: 1, gives: text, call: making(strings.ToUpper)},
	"trim":        {takes: []set{setOf(text), setOf(text)}, least: 1, gives: text, call: trim},
	"trimPrefix":  {takes: []set{setOf(text), setOf(text)}, least: 1, gives: text, call: cutting(strings.TrimPrefix)},
	"trimSuffix":  {takes: []set{setOf(text), setOf(text)}, least: 1, gives: text, call: cutting(strings.TrimSuffix)},
	"indexOf":     {takes: []set{setOf(text), setOf(text)}, least: 2, gives: integer, call: finding(strings.Index)},
	"lastIndexOf": {takes: []set{setOf(text), setOf(text)}, least: 2, gives: integer, call: finding(strings.LastIndex)},
}

func functionNames() string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(loops)), maps.Keys(functions))
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// apply builds the call of a function.
func (p *parser) apply(t lexer.Token, args []node) node {
	f := functions[t.Value]
	if len(args) < f.least || len(args) > len(f.takes) {
		return p.refuse(t.From, "%s wants %d to %d arguments, not %d", t.Value, f.least, len(f.takes), len(args))
	}
	for i, arg := range args {
		args[i] = p.operand(t, arg, f.takes[i])
	}
	gives := f.gives
	if gives == dynamic {
		gives = args[0].kind
	}
	return p.build(node{at: t.From, kind: gives, eval: func(e *event) (value, error) {
		var given [2]value
		for i, arg := range args {
			v, err := arg.eval(e)
			if err != nil {
				return value{}, err
			}
			given[i] = v
		}
		return f.call(e, t, given[0], given[1])
	}})
}

// length counts the characters of a text.
func length(e *event, _ lexer.Token, a, _ value) (value, error) {
	switch a.kind {
	case text:
		e.look(len(a.text))
		return ofInt(int64(utf8.RuneCountInString(a.text))), nil
	case list:
		return ofInt(int64(len(a.list()))), nil
	case object:
		return ofInt(int64(len(a.members()))), nil
	default:
		e.look(len(e.record.Headers))
		keys := make(map[string]struct{}, len(e.record.Headers))
		for _, h := range e.record.Headers {
			keys[h.Key] = struct{}{}
		}
		return ofInt(int64(len(keys))), nil
	}
}

func absolute(_ *event, _ lexer.Token, a, _ value) (value, error) {
	switch {
	case a.kind == float:
		return ofFloat(math.Abs(a.float())), nil
	case a.int() < 0:
		return ofInt(-a.int()), nil
	default:
		return a, nil
	}
}

func toInt(e *event, t lexer.Token, a, _ value) (value, error) {
	switch a.kind {
	case integer:
		return a, nil
	case float:
		if f := a.float(); f >= -1<<63 && f < 1<<63 {
			return ofInt(int64(f)), nil
		}
		return value{}, faultAt(t.From, "the number has no place in 64 bits")
	default:
		e.look(len(a.text))
		n, err := strconv.ParseInt(a.text, 10, 64)
		if err != nil {
			return value{}, faultAt(t.From, "the text is no whole number of 64 bits")
		}
		return ofInt(n), nil
	}
}

func toFloat(e *event, t lexer.Token, a, _ value) (value, error) {
	if a.kind != text {
		return ofFloat(a.float()), nil
	}
	e.look(len(a.text))
	f, err := strconv.ParseFloat(a.text, 64)
	if err != nil {
		return value{}, faultAt(t.From, "the text is no number")
	}
	return ofFloat(f), nil
}

func toText(_ *event, _ lexer.Token, a, _ value) (value, error) {
	switch a.kind {
	case null:
		return ofText("<nil>"), nil
	case boolean:
		return ofText(strconv.FormatBool(a.truth())), nil
	case integer:
		return ofText(strconv.FormatInt(a.int(), 10)), nil
	case float:
		f := a.float()
		if size := math.Abs(f); f == 0 || size >= 1e-4 && size < 1e21 {
			return ofText(strconv.FormatFloat(f, 'f', -1, 64)), nil
		}
		return ofText(strconv.FormatFloat(f, 'g', -1, 64)), nil
	default:
		return a, nil
	}
}

// making is a function that makes a text of a text.
func making(f func(string) string) func(*event, lexer.Token, value, value) (value, error) {
	return func(e *event, t lexer.Token, a, _ value) (value, error) {
		if err := e.make(t.From, len(a.text)); err != nil {
			return value{}, err
		}
		return ofText(f(a.text)), nil
	}
}

// cutting is a function that takes a part off a text, a space if none is given.
func cutting(f func(string, string) string) func(*event, lexer.Token, value, value) (value, error) {
	return func(_ *event, _ lexer.Token, a, b value) (value, error) {
		if b.kind != text {
			b.text = " "
		}
		return ofText(f(a.text, b.text)), nil
	}
}

// trim takes spaces off both ends, or those characters that are given.
func trim(e *event, t lexer.Token, a, b value) (value, error) {
	if b.kind != text {
		e.look(len(a.text))
		return ofText(strings.TrimSpace(a.text)), nil
	}
	if e.look(len(a.text) * max(1, len(b.text))); e.steps < 0 {
		return value{}, faultAt(t.From, "it costs too much to look for so many characters; give trim the few that it is to take off")
	}
	return ofText(strings.Trim(a.text, b.text)), nil
}

// finding is a function that says at which byte of a text another one is, or -1.
func finding(f func(string, string) int) func(*event, lexer.Token, value, value) (value, error) {
	return func(e *event, _ lexer.Token, a, b value) (value, error) {
		e.look(len(a.text))
		return ofInt(int64(f(a.text, b.text))), nil
	}
}

// goThrough builds a function that asks a predicate, of so many nodes, about the
// items of a list.
func (p *parser) goThrough(t lexer.Token, over, predicate node, nodes int) node {
	f := loops[t.Value]
	over, predicate = p.operand(t, over, setOf(list)), p.operand(t, predicate, setOf(boolean))
	return p.build(node{at: t.From, kind: f.gives, eval: func(e *event) (value, error) {
		v, err := over.eval(e)
		if err != nil {
			return value{}, err
		}
		defer func() { e.item = value{} }()
		yes, seen := 0, 0
		for _, item := range v.list() {
			e.item = of(item)
			answer, err := predicate.eval(e)
			if err == nil {
				err = e.round(t.From, nodes)
			}
			if err != nil {
				return value{}, err
			}
			if seen++; answer.truth() {
				yes++
			}
			if f.decided(yes, seen) {
				break
			}
		}
		return f.answer(yes, seen), nil
	}})
}
