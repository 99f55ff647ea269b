package filter

import (
	"math"
	"strings"
)

// kind is what a value is. In an expression, dynamic is what only the record tells.
type kind uint8

const (
	dynamic kind = iota
	null
	boolean
	integer
	float
	text
	list
	object
	headers // of the record, by key
)

var kindNames = [...]string{"value of any kind", "nil", "bool", "int", "float", "string", "array", "map", "map"}

func (k kind) String() string { return kindNames[k] }

// set is a set of kinds.
type set uint16

func setOf(kinds ...kind) set {
	var s set
	for _, k := range kinds {
		s |= 1 << k
	}
	return s
}

func (s set) has(k kind) bool { return s&(1<<k) != 0 }

// String lists the kinds, as in "a string or an array".
func (s set) String() string {
	var names []string
	for k := null; k < headers; k++ {
		if !s.has(k) {
			continue
		}
		name := "a " + k.String()
		if k == null {
			name = "nil"
		} else if strings.IndexByte("aeiou", k.String()[0]) >= 0 {
			name = "an " + k.String()
		}
		names = append(names, name)
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

var (
	numbers   = setOf(integer, float)
	textOrNil = setOf(text, null)
)

// value is one value; which fields mean anything depends on the kind.
type value struct {
	kind kind
	bits uint64 // of a boolean, an integer or a float
	text string
	ref  any // []any of a list, map[string]any of an object
}

func ofBool(b bool) value {
	if b {
		return value{kind: boolean, bits: 1}
	}
	return value{kind: boolean}
}
func ofInt(n int64) value     { return value{kind: integer, bits: uint64(n)} }
func ofFloat(f float64) value { return value{kind: float, bits: math.Float64bits(f)} }
func ofText(s string) value   { return value{kind: text, text: s} }

// of takes a value from JSON, or from any.
func of(v any) value {
	switch v := v.(type) {
	case nil:
		return value{kind: null}
	case bool:
		return ofBool(v)
	case int64:
		return ofInt(v)
	case float64:
		return ofFloat(v)
	case string:
		return ofText(v)
	case []any:
		return value{kind: list, ref: v}
	case map[string]any:
		return value{kind: object, ref: v}
	default:
		panic("filter: a value that neither JSON nor an expression has")
	}
}

// plain is the opposite of [of].
func (v value) plain() any {
	switch v.kind {
	case boolean:
		return v.truth()
	case integer:
		return v.int()
	case float:
		return v.float()
	case text:
		return v.text
	case list, object:
		return v.ref
	default:
		return nil
	}
}

func (v value) truth() bool             { return v.bits != 0 }
func (v value) int() int64              { return int64(v.bits) }
func (v value) list() []any             { return v.ref.([]any) }
func (v value) members() map[string]any { return v.ref.(map[string]any) }

// float is also what an integer is as one.
func (v value) float() float64 {
	if v.kind == integer {
		return float64(v.int())
	}
	return math.Float64frombits(v.bits)
}

// equal compares any two values. Numbers are equal by what they are worth, lists and
// maps by what they contain, values of different kinds never.
func (b *budget) equal(x, y value) bool {
	b.look(1)
	switch {
	case x.kind == integer && y.kind == integer:
		return x.bits == y.bits
	case numbers.has(x.kind) && numbers.has(y.kind):
		return x.float() == y.float()
	case x.kind != y.kind:
		return false
	}
	switch x.kind {
	case null:
		return true
	case boolean:
		return x.bits == y.bits
	case text:
		b.look(min(len(x.text), len(y.text)))
		return x.text == y.text
	case list:
		p, q := x.list(), y.list()
		if len(p) != len(q) {
			return false
		}
		for i := range p {
			if !b.equal(of(p[i]), of(q[i])) {
				return false
			}
		}
		return true
	case object:
		p, q := x.members(), y.members()
		if len(p) != len(q) {
			return false
		}
		for name, m := range p {
			n, ok := q[name]
			if !ok || !b.equal(of(m), of(n)) {
				return false
			}
		}
		return true
	default:
		return false
	}
}
