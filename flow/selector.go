package flow

import (
	"fmt"
	"regexp"
	"strings"
)

// Selector picks names. A pattern is a glob, in which "*" is any run of
// characters and "?" is one, or a regular expression between slashes (RE2),
// which must match the whole name. Exclude wins. Internal names (they begin with
// "__") are never picked.
type Selector struct {
	Include []string `yaml:"include" json:"include"`
	Exclude []string `yaml:"exclude,omitempty" json:"exclude,omitempty"`
}

// InternalPrefix begins the names that no selector picks.
const InternalPrefix = "__"

// maxPattern bounds a pattern in bytes: four times the longest topic name.
const maxPattern = 1000

// Matcher is a compiled [Selector]. It is immutable and safe for concurrent use.
type Matcher struct {
	include, exclude []pattern
}

// pattern is a glob, or a regular expression if re is set.
type pattern struct {
	glob string
	re   *regexp.Regexp
}

// Matcher compiles the selector, for callers that match many names.
func (s Selector) Matcher() (*Matcher, error) {
	m := &Matcher{}
	for _, side := range []struct {
		from []string
		to   *[]pattern
	}{{s.Include, &m.include}, {s.Exclude, &m.exclude}} {
		for _, text := range side.from {
			p, err := compilePattern(text)
			if err != nil {
				return nil, err
			}
			*side.to = append(*side.to, p)
		}
	}
	return m, nil
}

// Match reports whether the selector picks name. A selector with a pattern that
// does not compile picks nothing; parsed objects have none.
func (s Selector) Match(name string) bool {
	m, err := s.Matcher()
	return err == nil && m.Match(name)
}

// Match reports whether the selector picks name.
func (m *Matcher) Match(name string) bool {
	return !strings.HasPrefix(name, InternalPrefix) && matchAny(m.include, name) && !matchAny(m.exclude, name)
}

// PausedTopic reports whether copying a picked topic is paused, alone or with the
// whole flow.
func (f *FlowSpec) PausedTopic(name string) bool {
	return f.Paused || Selector{Include: f.Topics.Paused}.Match(name)
}

func matchAny(patterns []pattern, name string) bool {
	for _, p := range patterns {
		if p.re != nil && p.re.MatchString(name) || p.re == nil && matchGlob(p.glob, name) {
			return true
		}
	}
	return false
}

// matchGlob goes back to the last star only, so it is linear in len(name) for
// each star.
func matchGlob(glob, name string) bool {
	g, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, mark = g, n
			g++
		case g < len(glob) && (glob[g] == '?' || glob[g] == name[n]):
			g++
			n++
		case star >= 0:
			mark++
			g, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}

// compilePattern says what is wrong with a pattern and what to write instead.
func compilePattern(text string) (pattern, error) {
	if len(text) > maxPattern {
		return pattern{}, mistake{fmt.Sprintf("the pattern has %d bytes", len(text)), fmt.Sprintf("the longest allowed has %d", maxPattern)}
	}
	if text == "" {
		return pattern{}, mistake{"the pattern is empty", `write "*" for every name`}
	}
	if text[0] != '/' {
		return pattern{glob: text}, checkGlob(text)
	}
	expr, ok := strings.CutSuffix(text[1:], "/")
	if !ok || expr == "" {
		return pattern{}, mistake{fmt.Sprintf("%q is a regular expression without its end", text), "write it between slashes, like /orders-.+/"}
	}
	// Alone first: "a)|(b" would be one between the parentheses below.
	if _, err := regexp.Compile(expr); err != nil {
		return pattern{}, notRegexp(text, err)
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return pattern{}, notRegexp(text, err)
	}
	return pattern{re: re}, nil
}

func notRegexp(text string, err error) error {
	why := strings.TrimPrefix(err.Error(), "error parsing regexp: ")
	return mistake{fmt.Sprintf("%q is not a regular expression: %s", text, why), "the syntax is RE2's"}
}

// checkGlob refuses what was meant as a regular expression, and would silently
// match nothing.
func checkGlob(text string) error {
	if i := strings.IndexAny(text, `[]{}()|^$+\,`); i >= 0 {
		return mistake{fmt.Sprintf("%q means nothing in the glob %q, which has * and ? only", text[i], text), "write a regular expression between slashes"}
	}
	if strings.HasPrefix(text, ".*") {
		return mistake{fmt.Sprintf("the glob %q matches only names that begin with a dot", text), `write "*" for every name, or a regular expression between slashes`}
	}
	return nil
}
