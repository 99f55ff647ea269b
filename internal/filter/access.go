package filter

import (
	"slices"

	"github.com/expr-lang/expr/parser/lexer"
)

// fields are what an expression sees of a record.
var fields = map[string]node{
	"topic":       {kind: text, eval: func(e *event) (value, error) { return ofText(e.topic), nil }},
	"partition":   {kind: integer, eval: func(e *event) (value, error) { return ofInt(int64(e.partition)), nil }},
	"offset":      {kind: integer, eval: func(e *event) (value, error) { return ofInt(e.record.Offset), nil }},
	"timestamp":   {kind: integer, eval: func(e *event) (value, error) { return ofInt(e.record.Timestamp), nil }},
	"key":         {kind: text, eval: func(e *event) (value, error) { return ofText(view(e.record.Key)), nil }},
	"value":       {kind: text, eval: func(e *event) (value, error) { return ofText(view(e.record.Value)), nil }},
	"keyIsNull":   {kind: boolean, eval: func(e *event) (value, error) { return ofBool(e.record.Key == nil), nil }},
	"valueIsNull": {kind: boolean, eval: func(e *event) (value, error) { return ofBool(e.record.Value == nil), nil }},
	"headers":     {kind: headers, eval: func(*event) (value, error) { return value{kind: headers}, nil }},
	"json":        {kind: dynamic, eval: func(e *event) (value, error) { return e.json, nil }},
}

func (p *parser) field(t lexer.Token) node {
	n, ok := fields[t.Value]
	switch {
	case t.Value == "$env":
		return p.refuse(t.From, "$env is not known; name what is wanted")
	case !ok:
		return p.refuse(t.From, "unknown name %s; a member of the value is json.%s, a text stands in quotes", t.Value, t.Value)
	}
	p.usesJSON = p.usesJSON || t.Value == "json"
	n.at = t.From
	return p.build(n)
}

// header is the last of the headers with a key.
func (e *event) header(key string) (string, bool) {
	e.look(len(e.record.Headers))
	for _, h := range slices.Backward(e.record.Headers) {
		if h.Key == key {
			return view(h.Value), true
		}
	}
	return "", false
}

// access is a value with the names behind it: of.name?.name. Where a value before ?.
// is nil, so is all of it.
type access struct {
	of    node
	steps []step
}

type step struct {
	at       int
	name     string
	optional bool
}

func (a *access) eval(e *event) (value, error) {
	v, err := a.of.eval(e)
	for _, s := range a.steps {
		if err != nil || s.optional && v.kind == null {
			return v, err
		}
		v, err = e.member(v, s)
	}
	return v, err
}

// member adds a name to an access, whose node is n.
func (p *parser) member(n *node, a *access, name lexer.Token, optional bool) {
	of := a.of.kind
	if len(a.steps) > 0 {
		of = n.kind
	}
	if of != dynamic && of != object && of != headers {
		p.refuse(name.From, "invalid operation: %v has no member %s; those of a JSON value are json.%s", setOf(of), name.Value, name.Value)
	}
	n.kind = dynamic
	if of == headers {
		n.kind = text
	}
	a.steps = append(a.steps, step{name.From, name.Value, optional})
}

// member is nil where there is none, and "" for a header that is missing.
func (e *event) member(from value, s step) (value, error) {
	switch from.kind {
	case object:
		return of(from.members()[s.name]), nil
	case headers:
		text, _ := e.header(s.name)
		return ofText(text), nil
	case null:
		return value{}, faultAt(s.at, "nil has no member %s; ?.%s is nil then, and ?? says what to take instead", s.name, s.name)
	default:
		return value{}, faultAt(s.at, "%v has no member %s", setOf(from.kind), s.name)
	}
}

// index is list[number] or map["name"].
func (p *parser) index(t lexer.Token, n, at node, optional bool) node {
	kind := dynamic
	switch n.kind {
	case text:
		return p.refuse(t.From, "invalid operation: a string has no items; its first byte is [0:1]")
	case dynamic:
		p.may(t, at, numbers|setOf(text))
	case list:
		p.may(t, at, numbers)
	case object:
		p.may(t, at, setOf(text))
	case headers:
		kind = text
		p.may(t, at, setOf(text))
	default:
		return p.refuse(t.From, "invalid operation: %v has no items", setOf(n.kind))
	}
	return p.build(node{at: t.From, kind: kind, eval: func(e *event) (value, error) {
		v, err := n.eval(e)
		if err != nil || optional && v.kind == null {
			return v, err
		}
		i, err := at.eval(e)
		switch {
		case err != nil:
			return value{}, err
		case v.kind == list && numbers.has(i.kind):
			items := v.list()
			k := position(i)
			if k < 0 {
				k += int64(len(items))
			}
			if k < 0 || k >= int64(len(items)) {
				return value{}, faultAt(t.From, "there is no item at that place of the list; len(…) says how many it has")
			}
			return of(items[k]), nil
		case (v.kind == object || v.kind == headers) && i.kind == text:
			return e.member(v, step{at: t.From, name: i.text})
		case v.kind == null:
			return value{}, faultAt(t.From, "nil has no items; ?.[…] is nil then, and ?? says what to take instead")
		default:
			return value{}, faultAt(t.From, "%v has no item by %v", setOf(v.kind), setOf(i.kind))
		}
	}})
}

// position is a number as a place in a list or a text.
func position(v value) int64 {
	if v.kind == integer {
		return v.int()
	}
	return int64(max(-1<<53, min(1<<53, v.float())))
}

// slice is list[from:to] or text[from:to], in bytes; negative places count from the
// end, and what is beyond it is left out.
func (p *parser) slice(t lexer.Token, n node, from, to *node) node {
	n = p.operand(t, n, setOf(text, list))
	for _, place := range []*node{from, to} {
		if place != nil {
			*place = p.operand(t, *place, numbers)
		}
	}
	place := func(e *event, n *node, length, otherwise int64) (int64, error) {
		if n == nil {
			return otherwise, nil
		}
		v, err := n.eval(e)
		k := position(v)
		if k < 0 {
			k += length
		}
		return max(0, min(k, length)), err
	}
	return p.build(node{at: t.From, kind: n.kind, eval: func(e *event) (value, error) {
		v, err := n.eval(e)
		if err != nil {
			return value{}, err
		}
		length := int64(len(v.text))
		if v.kind == list {
			length = int64(len(v.list()))
		}
		b, err := place(e, to, length, length)
		if err != nil {
			return value{}, err
		}
		a, err := place(e, from, length, 0)
		if err != nil {
			return value{}, err
		}
		a = min(a, b)
		if v.kind == list {
			return value{kind: list, ref: v.list()[a:b]}, nil
		}
		return ofText(v.text[a:b]), nil
	}})
}

// list is [item, item]. One that consists of constants is made once.
func (p *parser) list(t lexer.Token, items []node) node {
	literal := true
	for _, item := range items {
		literal = literal && item.literal
		if item.kind == headers {
			return p.refuse(item.at, "headers cannot stand in a list; name one, as in headers[\"region\"]")
		}
	}
	eval := func(e *event) (value, error) {
		out := make([]any, len(items))
		for i, item := range items {
			v, err := item.eval(e)
			if err != nil {
				return value{}, err
			}
			out[i] = v.plain()
		}
		return value{kind: list, ref: out}, nil
	}
	if !literal {
		inner := eval
		eval = func(e *event) (value, error) {
			if err := e.make(t.From, 16*len(items)); err != nil {
				return value{}, err
			}
			return inner(e)
		}
	} else if v, err := eval(nil); err == nil && p.fault == nil {
		eval = func(*event) (value, error) { return v, nil }
	}
	return p.build(node{at: t.From, kind: list, literal: literal, eval: eval})
}
