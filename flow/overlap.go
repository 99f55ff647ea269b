package flow

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// condition is that a selector picks a name that something was put around.
type condition struct {
	affix
	selector Selector
}

// commonName returns a topic name that meets all conditions at once, a shortest
// one, or false if there is none. It walks the product of the patterns' automata,
// so it is exact for globs and regular expressions alike, up to maxWork; beyond that
// it gives up and answers false.
func commonName(conditions []condition) (string, bool) {
	start, ok := newProduct(conditions)
	if !ok {
		return "", false
	}
	type entry struct {
		state product
		name  string
	}
	queue, seen := []entry{{state: start}}, map[string]bool{start.key(): true}
	for work := start.size(); len(queue) > 0 && len(seen)*work*len(topicAlphabet) < maxWork; {
		e := queue[0]
		queue = queue[1:]
		for i := range len(topicAlphabet) {
			r := topicAlphabet[i]
			next := e.state.step(rune(r))
			key := next.key()
			if seen[key] || next.dead() {
				continue
			}
			name := e.name + string(r)
			if next.accepts() {
				return name, true
			}
			if len(name) < MaxTopicName {
				seen[key] = true
				queue = append(queue, entry{next, name})
			}
		}
	}
	return "", false
}

const (
	// topicAlphabet begins with what makes a readable example.
	topicAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789.-_ABCDEFGHIJKLMNOPQRSTUVWXYZ"

	// maxWork bounds the walk by states times characters times instructions that
	// a step looks at, at worst: some 300 ms. Two selectors of ten patterns may
	// have 4000 joint states; those that people write have fewer than 100.
	maxWork = 50_000_000
)

// product is one joint state: for each condition, the states of its patterns.
type product []conditionState

type conditionState struct {
	include, exclude []automaton
	suffix           string // comes behind the name
}

// automaton is a pattern somewhere in a name: the instructions that it may go on
// with, before empty-width ones are followed.
type automaton struct {
	prog    *syntax.Prog
	pending []uint32 // ascending
	prev    rune     // a representative of the last character; -1 at the beginning
}

func newProduct(conditions []condition) (product, bool) {
	var p product
	for _, c := range conditions {
		s := conditionState{suffix: c.suffix}
		for _, side := range []struct {
			patterns []string
			to       *[]automaton
		}{{c.selector.Include, &s.include}, {append([]string{InternalPrefix + "*"}, c.selector.Exclude...), &s.exclude}} {
			for _, text := range side.patterns {
				a, err := newAutomaton(text)
				if err != nil {
					return nil, false // reported by Validate
				}
				*side.to = append(*side.to, a.walk(c.prefix))
			}
		}
		p = append(p, s)
	}
	return p, true
}

func newAutomaton(text string) (automaton, error) {
	expr, isRegexp := strings.CutPrefix(text, "/")
	if isRegexp {
		expr = strings.TrimSuffix(expr, "/")
	} else {
		expr = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(text))
	}
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return automaton{}, err
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return automaton{}, err
	}
	return automaton{prog: prog, pending: []uint32{uint32(prog.Start)}, prev: -1}, nil
}

// follow visits the instructions that consume a character, or match, and can be
// reached where next comes (-1 at the end).
func (a automaton) follow(next rune, visit func(*syntax.Inst)) {
	context := syntax.EmptyOpContext(a.prev, next)
	seen := make([]bool, len(a.prog.Inst))
	stack := slices.Clone(a.pending)
	for len(stack) > 0 {
		pc := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[pc] {
			continue
		}
		seen[pc] = true
		inst := &a.prog.Inst[pc]
		switch inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			stack = append(stack, inst.Out, inst.Arg)
		case syntax.InstCapture, syntax.InstNop:
			stack = append(stack, inst.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(inst.Arg)&^context == 0 {
				stack = append(stack, inst.Out)
			}
		case syntax.InstFail:
		default:
			visit(inst)
		}
	}
}

func (a automaton) step(r rune) automaton {
	next := automaton{prog: a.prog, prev: '-'}
	if syntax.IsWordChar(r) {
		next.prev = 'a'
	}
	a.follow(r, func(inst *syntax.Inst) {
		if inst.Op != syntax.InstMatch && inst.MatchRune(r) {
			next.pending = append(next.pending, inst.Out)
		}
	})
	slices.Sort(next.pending)
	next.pending = slices.Compact(next.pending)
	return next
}

func (a automaton) walk(s string) automaton {
	for _, r := range s {
		a = a.step(r)
	}
	return a
}

func (a automaton) accepts() bool {
	matched := false
	a.follow(-1, func(inst *syntax.Inst) { matched = matched || inst.Op == syntax.InstMatch })
	return matched
}

func (p product) step(r rune) product {
	next := make(product, len(p))
	for i, s := range p {
		next[i].suffix = s.suffix
		for _, a := range s.include {
			next[i].include = append(next[i].include, a.step(r))
		}
		for _, a := range s.exclude {
			next[i].exclude = append(next[i].exclude, a.step(r))
		}
	}
	return next
}

func (p product) accepts() bool {
	for _, s := range p {
		picks := func(a automaton) bool { return a.walk(s.suffix).accepts() }
		if !slices.ContainsFunc(s.include, picks) || slices.ContainsFunc(s.exclude, picks) {
			return false
		}
	}
	return true
}

// dead reports that no longer name can meet every condition.
func (p product) dead() bool {
	for _, s := range p {
		if !slices.ContainsFunc(s.include, func(a automaton) bool { return len(a.pending) > 0 }) {
			return true
		}
	}
	return false
}

// size is the number of instructions of all patterns.
func (p product) size() int {
	n := 0
	for _, s := range p {
		for _, a := range append(slices.Clip(s.include), s.exclude...) {
			n += len(a.prog.Inst)
		}
	}
	return n
}

func (p product) key() string {
	var b []byte
	add := func(automata []automaton) {
		for _, a := range automata {
			for _, pc := range a.pending {
				b = append(b, byte(pc), byte(pc>>8), byte(pc>>16))
			}
			b = append(b, 0xff, 0xff, 0xff, byte(a.prev))
		}
	}
	for _, s := range p {
		add(s.include)
		add(s.exclude)
	}
	return string(b)
}
