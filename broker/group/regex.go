package group

import (
	"context"
	"fmt"
	"regexp"
	"regexp/syntax"

	"github.com/twmb/franz-go/pkg/kerr"
)

const (
	// maxRegex bounds a regular expression, in bytes, and maxRegexSteps its
	// compiled form, in instructions.
	maxRegex      = 4096
	maxRegexSteps = 10_000
	// maxRegexWork bounds what it takes to match it with the names of all topics,
	// in instructions times bytes: at some 10 ns each, a second.
	maxRegexWork = 100_000_000
)

// compile checks a regular expression: Go's are RE2's, as Kafka's are. It returns
// what one byte of a name may cost, too.
func compile(regex string) (re *regexp.Regexp, perByte int, err error) {
	if len(regex) > maxRegex {
		return nil, 0, fmt.Errorf("%w: %d bytes, %d is the limit", kerr.InvalidRegularExpression, len(regex), maxRegex)
	}
	tree, err := syntax.Parse(regex, syntax.Perl)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", kerr.InvalidRegularExpression, err)
	}
	if perByte = steps(tree); perByte > maxRegexSteps {
		return nil, 0, fmt.Errorf("%w: it has %d steps, %d is the limit", kerr.InvalidRegularExpression, perByte, maxRegexSteps)
	}
	if re, err = regexp.Compile("^(?:" + regex + ")$"); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", kerr.InvalidRegularExpression, err)
	}
	return re, perByte, nil
}

// steps is how many instructions an expression compiles to at the most. To compile
// it could take memory a million times what it has in bytes.
func steps(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpConcat:
		n = 0
	case syntax.OpAlternate:
		n = len(re.Sub) - 1
	case syntax.OpCapture, syntax.OpStar:
		n = 2
	case syntax.OpRepeat:
		if re.Min == re.Max {
			n = 0
		}
	}
	for _, sub := range re.Sub {
		n += steps(sub)
	}
	if re.Op == syntax.OpRepeat {
		n = n*max(re.Min, re.Max, 1) + 1
	}
	return n
}

// resolve returns the topics that a regular expression matches as a whole, never
// nil.
func resolve(ctx context.Context, regex string, topics Topics, visible func(string) bool) ([]string, error) {
	re, perByte, err := compile(regex)
	if err != nil {
		return nil, err
	}
	bytes := 0
	for name := range topics.Names() {
		bytes += len(name)
	}
	if work := perByte * bytes; work > maxRegexWork {
		return nil, fmt.Errorf("%w: it has %d steps and the names of all topics %d bytes, which makes %d, %d is the limit",
			kerr.InvalidRegularExpression, perByte, bytes, work, maxRegexWork)
	}
	all := []string{}
	for name := range topics.Names() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if re.MatchString(name) && visible(name) {
			all = append(all, name)
		}
	}
	return all, nil
}
