package acl

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Wildcard is the host that is every host and the literal resource name that is
// every name.
const Wildcard = "*"

// WildcardPrincipal is the principal that is everybody.
const WildcardPrincipal = "User:*"

// ErrInvalid is in every error of [Rule.Validate] and [Filter.Validate]; a
// broker answers INVALID_REQUEST.
var ErrInvalid = errors.New("invalid acl")

// Rule is one access control entry on one resource pattern. It is comparable:
// two rules are the same rule when they are equal.
type Rule struct {
	ResourceType ResourceType `json:"resourceType"`
	ResourceName string       `json:"resourceName"`
	PatternType  PatternType  `json:"patternType"`
	Principal    string       `json:"principal"` // "User:name"; "User:*" is everybody
	Host         string       `json:"host"`      // an address; "*" is every host
	Operation    Operation    `json:"operation"`
	Permission   Permission   `json:"permission"`
}

// Validate refuses what a Kafka broker refuses at CreateAcls. Errors wrap
// [ErrInvalid] and list every fault.
func (r Rule) Validate() error {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }

	if _, ok := operations[r.ResourceType]; !ok {
		fault("resource type %s cannot be in a rule", r.ResourceType)
	}
	if r.PatternType != Literal && r.PatternType != Prefixed {
		fault("pattern type %s cannot be in a rule: it is literal or prefixed", r.PatternType)
	}
	if r.ResourceName == "" {
		fault("the resource name is empty")
	}
	if r.ResourceType == Cluster && r.ResourceName != ClusterName && r.ResourceName != "" {
		fault("the only name of a cluster is %q, not %q", ClusterName, r.ResourceName)
	}
	if kind, name, ok := strings.Cut(r.Principal, ":"); !ok || kind == "" || name == "" {
		fault("principal %q is not of the form User:name", r.Principal)
	}
	if r.Host == "" {
		fault("the host is empty: %q is every host", Wildcard)
	}
	if r.Operation < All || r.Operation > TwoPhaseCommit {
		fault("operation %s cannot be in a rule", r.Operation)
	}
	if r.Permission != Allow && r.Permission != Deny {
		fault("permission %s cannot be in a rule: it is allow or deny", r.Permission)
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalid, strings.Join(faults, "; "))
}

// Inert returns why a valid rule never takes effect, or "". Brokers accept such
// rules and ignore them, which is dangerous for a Deny.
func (r Rule) Inert() string {
	if !r.ResourceType.Supports(r.Operation) {
		names := make([]string, 0, len(operations[r.ResourceType]))
		for _, op := range operations[r.ResourceType] {
			names = append(names, op.String())
		}
		return fmt.Sprintf("operation %s is never asked of a %s: it has %s and All",
			r.Operation, r.ResourceType, strings.Join(names, ", "))
	}
	if r.Host != Wildcard {
		if _, err := netip.ParseAddr(r.Host); err != nil {
			return fmt.Sprintf("host %q is not an address: hosts are not looked up", r.Host)
		}
	}
	return ""
}

// Compare orders rules by resource, then principal, permission (deny first),
// operation and host.
func (r Rule) Compare(o Rule) int {
	return cmp.Or(
		cmp.Compare(r.ResourceType, o.ResourceType),
		cmp.Compare(r.ResourceName, o.ResourceName),
		cmp.Compare(r.PatternType, o.PatternType),
		cmp.Compare(r.Principal, o.Principal),
		cmp.Compare(r.Permission, o.Permission),
		cmp.Compare(r.Operation, o.Operation),
		cmp.Compare(r.Host, o.Host),
	)
}

// String writes the rule as [ParseRule] reads it:
//
//	User:alice Allow Read Topic:orders* from *
func (r Rule) String() string {
	return quote(r.Principal) + " " + r.Permission.String() + " " + r.Operation.String() + " " +
		quote(r.ResourceType.String()+":"+r.pattern()) + " from " + quote(r.Host)
}

// pattern writes name and pattern type as one word: a trailing star makes a
// prefix, a lone star is the literal wildcard, a star that is part of a name is
// escaped.
func (r Rule) pattern() string {
	if r.PatternType == Literal && r.ResourceName == Wildcard {
		return Wildcard
	}
	name := strings.NewReplacer(`\`, `\\`, `*`, `\*`).Replace(r.ResourceName)
	switch r.PatternType {
	case Literal:
		return name
	case Prefixed:
		return name + "*"
	default:
		return name + "(" + r.PatternType.String() + ")"
	}
}

// ParseRule reads one rule:
//
//	<principal> Allow|Deny <operation> <resource type>:<pattern> from <host>
//
// A pattern that ends in "*" is a prefix, "*" alone is every name, `\*` is a
// star and `\\` a backslash. Words with spaces stand in double quotes, with Go's
// escapes. "from <host>" may be left out and is then "from *". A rule that is
// invalid or inert is refused: it was typed by a person.
func ParseRule(s string) (Rule, error) {
	r, err := parseRule(s)
	if err != nil {
		return Rule{}, fmt.Errorf("rule %q: %w", s, err)
	}
	return r, nil
}

func parseRule(s string) (Rule, error) {
	words, err := split(s)
	if err != nil {
		return Rule{}, err
	}
	if len(words) == 4 {
		words = append(words, "from", Wildcard)
	}
	if len(words) != 6 || !strings.EqualFold(words[4], "from") {
		return Rule{}, fmt.Errorf("%w: want <principal> Allow|Deny <operation> <type>:<pattern> from <host>", ErrInvalid)
	}
	r := Rule{Principal: words[0], Host: words[5]}
	if r.Permission, err = ParsePermission(words[1]); err != nil {
		return Rule{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if r.Operation, err = ParseOperation(words[2]); err != nil {
		return Rule{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	kind, pattern, ok := strings.Cut(words[3], ":")
	if !ok {
		return Rule{}, fmt.Errorf("%w: resource %q is not of the form Topic:name", ErrInvalid, words[3])
	}
	if r.ResourceType, err = ParseResourceType(kind); err != nil {
		return Rule{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if r.ResourceName, r.PatternType, err = parsePattern(pattern); err != nil {
		return Rule{}, err
	}
	if err := r.Validate(); err != nil {
		return Rule{}, err
	}
	if why := r.Inert(); why != "" {
		return Rule{}, fmt.Errorf("%w: %s", ErrInvalid, why)
	}
	return r, nil
}

func parsePattern(s string) (name string, t PatternType, err error) {
	if s == Wildcard {
		return Wildcard, Literal, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '*' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == '\\':
			return "", 0, fmt.Errorf(`%w: pattern %q: a backslash escapes "*" and itself only`, ErrInvalid, s)
		case s[i] == '*' && i == len(s)-1:
			return b.String(), Prefixed, nil
		case s[i] == '*':
			return "", 0, fmt.Errorf(`%w: pattern %q: a star stands at the end only; write \* for a star in the name`, ErrInvalid, s)
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), Literal, nil
}

// quote puts a word in double quotes where [split] would not read it back.
func quote(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f || r >= 0x80 }) {
		return strconv.Quote(s)
	}
	return s
}

func split(s string) ([]string, error) {
	var words []string
	for s = strings.TrimLeft(s, " \t"); s != ""; s = strings.TrimLeft(s, " \t") {
		if s[0] != '"' {
			end := strings.IndexAny(s, " \t")
			if end < 0 {
				end = len(s)
			}
			words, s = append(words, s[:end]), s[end:]
			continue
		}
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%w: a double quote is not closed, or holds an unknown escape", ErrInvalid)
		}
		word, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("%w: unquote %s: %w", ErrInvalid, quoted, err)
		}
		if rest := s[len(quoted):]; rest != "" && rest[0] != ' ' && rest[0] != '\t' {
			return nil, fmt.Errorf("%w: a space must follow %s", ErrInvalid, quoted)
		}
		words, s = append(words, word), s[len(quoted):]
	}
	return words, nil
}

// sorted returns the rules in order, each once.
func sorted(rules []Rule) []Rule {
	out := slices.Clone(rules)
	slices.SortStableFunc(out, Rule.Compare)
	return slices.Compact(out)
}
