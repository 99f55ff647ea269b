package acl

import (
	"net/netip"
	"slices"
)

// Set is an immutable set of rules, indexed so that a decision does not depend on
// their number: it costs a few map look-ups per length of prefix that the
// caller's rules use. The zero Set and a nil *Set deny everything.
type Set struct {
	// ruled, if it is not nil, makes what no rule is about allowed: it has the
	// patterns of all rules, whoever they are for.
	ruled map[ResourceType]*table

	rules      []Rule // sorted, each once
	superUsers map[string]struct{}
	tables     map[tableKey]*table
}

// tableKey: rules are looked up by who asks first, since most callers have few.
type tableKey struct {
	principal string
	resource  ResourceType
}

// table holds the rules of one principal on one type of resource.
type table struct {
	everything verdicts            // the literal "*"
	literal    map[string]verdicts // by name
	prefixed   map[string]verdicts // by prefix
	lengths    []int               // of the prefixes, ascending, each once
}

// verdicts are the operations allowed and denied on a pattern, by canonical host.
// [Wildcard] is every host.
type verdicts map[string]verdict

// verdict has bit 1<<op for each operation; what All and the implied Describe
// stand for is expanded in it.
type verdict struct{ allow, deny uint32 }

func (v verdict) or(o verdict) verdict { return verdict{v.allow | o.allow, v.deny | o.deny} }

const everyOperation = ^uint32(0)

// NewSet returns the set of rules; superUsers ("User:name") may do anything.
// Rules that are not valid are kept for [Set.Rules] and [Set.Matching] and decide
// nothing. The slices are not kept.
func NewSet(rules []Rule, superUsers []string) *Set { return newSet(rules, superUsers, nil) }

// NewPermissiveSet is [NewSet] with Kafka's allow.everyone.if.no.acl.found: who
// no rule denies may do everything on a resource that no rule is about, of
// whomever and of whatever it speaks. One rule for one user closes it for all
// others.
func NewPermissiveSet(rules []Rule, superUsers []string) *Set {
	return newSet(rules, superUsers, map[ResourceType]*table{})
}

func newSet(rules []Rule, superUsers []string, ruled map[ResourceType]*table) *Set {
	s := &Set{
		ruled:      ruled,
		rules:      sorted(rules),
		superUsers: make(map[string]struct{}, len(superUsers)),
		tables:     make(map[tableKey]*table),
	}
	for _, u := range superUsers {
		s.superUsers[u] = struct{}{}
	}
	for _, r := range s.rules {
		if r.Validate() == nil {
			s.index(r)
		}
	}
	for _, t := range s.tables {
		t.measure()
	}
	for _, t := range s.ruled {
		t.measure()
	}
	return s
}

func newTable() *table {
	return &table{everything: verdicts{}, literal: map[string]verdicts{}, prefixed: map[string]verdicts{}}
}

// measure finds the lengths of the prefixes.
func (t *table) measure() {
	for prefix := range t.prefixed {
		t.lengths = append(t.lengths, len(prefix))
	}
	slices.Sort(t.lengths)
	t.lengths = slices.Compact(t.lengths)
}

func (s *Set) index(r Rule) {
	key := tableKey{r.Principal, r.ResourceType}
	if s.tables[key] == nil {
		s.tables[key] = newTable()
	}
	s.tables[key].add(r, canonicalHost(r.Host), r.verdict())
	if s.ruled == nil {
		return
	}
	if s.ruled[r.ResourceType] == nil {
		s.ruled[r.ResourceType] = newTable()
	}
	s.ruled[r.ResourceType].add(r, Wildcard, verdict{allow: everyOperation})
}

// add notes a verdict for a rule's pattern.
func (t *table) add(r Rule, host string, decided verdict) {
	byName := t.literal
	if r.PatternType == Prefixed {
		byName = t.prefixed
	}
	v := t.everything
	if r.PatternType == Prefixed || r.ResourceName != Wildcard {
		if v = byName[r.ResourceName]; v == nil {
			v = verdicts{}
			byName[r.ResourceName] = v
		}
	}
	v[host] = v[host].or(decided)
}

// unruled reports whether everything is allowed on a resource since no rule is
// about it.
func (s *Set) unruled(rt ResourceType, name string) bool {
	return s.ruled != nil && s.ruled[rt].verdict(Wildcard, name).allow == 0
}

// verdict says which requested operations a rule decides.
func (r Rule) verdict() verdict {
	bits := uint32(1) << r.Operation
	if r.Operation == All {
		bits = everyOperation
	}
	if r.Permission == Deny {
		return verdict{deny: bits}
	}
	switch r.Operation {
	case Read, Write, Delete, Alter:
		bits |= 1 << Describe
	case AlterConfigs:
		bits |= 1 << DescribeConfigs
	}
	return verdict{allow: bits}
}

// Allowed reports whether principal, calling from host, may do op on the
// resource. Principal is "User:name" as authenticated; host is an address
// without port.
func (s *Set) Allowed(principal, host string, op Operation, rt ResourceType, name string) bool {
	if !concrete(op, rt) || s == nil {
		return false
	}
	if s.isSuperUser(principal) {
		return true
	}
	host = canonicalHost(host)
	v := s.tables[tableKey{principal, rt}].verdict(host, name)
	if principal != WildcardPrincipal {
		v = v.or(s.tables[tableKey{WildcardPrincipal, rt}].verdict(host, name))
	}
	bit := uint32(1) << op
	return v.allow&bit != 0 && v.deny&bit == 0 || s.unruled(rt, name)
}

// AllowedOnAny reports whether there is a resource of type rt on which principal
// may do op (KIP-679): whether some name exists for which [Set.Allowed] is true.
func (s *Set) AllowedOnAny(principal, host string, op Operation, rt ResourceType) bool {
	if !concrete(op, rt) || s == nil {
		return false
	}
	if s.isSuperUser(principal) {
		return true
	}
	if rt == Cluster { // there is one name only, so prefixes do not leave room beside a deny
		return s.Allowed(principal, host, op, rt, ClusterName)
	}
	if s.ruled != nil && (s.ruled[rt] == nil || len(s.ruled[rt].everything) == 0) {
		return true // there are always names that no rule has
	}
	host = canonicalHost(host)
	tables := []*table{s.tables[tableKey{principal, rt}], s.tables[tableKey{WildcardPrincipal, rt}]}
	bit := uint32(1) << op

	var everything verdict
	for _, t := range tables {
		if t != nil {
			everything = everything.or(t.everything.at(host))
		}
	}
	if everything.deny&bit != 0 {
		return false
	}
	// An allow for every name leaves names that no other deny covers.
	if everything.allow&bit != 0 {
		return true
	}
	denied := func(name string) (literally, byPrefix bool) {
		for _, t := range tables {
			if t != nil {
				literally = literally || t.literal[name].at(host).deny&bit != 0
				byPrefix = byPrefix || t.prefixes(host, name).deny&bit != 0
			}
		}
		return literally, byPrefix
	}
	for _, t := range tables {
		if t == nil {
			continue
		}
		for prefix, v := range t.prefixed {
			if v.at(host).allow&bit == 0 {
				continue
			}
			// Literal denies below the prefix always leave other names.
			if _, byPrefix := denied(prefix); !byPrefix {
				return true
			}
		}
		for name, v := range t.literal {
			if v.at(host).allow&bit == 0 {
				continue
			}
			if literally, byPrefix := denied(name); !literally && !byPrefix {
				return true
			}
		}
	}
	return false
}

// Rules returns all rules in the order of [Rule.Compare], each once.
func (s *Set) Rules() []Rule {
	if s == nil {
		return nil
	}
	return slices.Clone(s.rules)
}

// Matching returns the rules that f selects, in order.
func (s *Set) Matching(f Filter) []Rule {
	if s == nil {
		return nil
	}
	var out []Rule
	for _, r := range s.rules {
		if f.Matches(r) {
			out = append(out, r)
		}
	}
	return out
}

func (s *Set) isSuperUser(principal string) bool {
	_, ok := s.superUsers[principal]
	return ok
}

func (t *table) verdict(host, name string) verdict {
	if t == nil {
		return verdict{}
	}
	return t.everything.at(host).or(t.literal[name].at(host)).or(t.prefixes(host, name))
}

func (t *table) prefixes(host, name string) verdict {
	var v verdict
	for _, n := range t.lengths {
		if n > len(name) {
			break
		}
		v = v.or(t.prefixed[name[:n]].at(host))
	}
	return v
}

func (v verdicts) at(host string) verdict {
	if len(v) == 0 {
		return verdict{}
	}
	out := v[Wildcard]
	if host != Wildcard {
		out = out.or(v[host])
	}
	return out
}

// concrete refuses what a caller cannot ask for: without it, a rule for All
// would answer for Any and for numbers of the future.
func concrete(op Operation, rt ResourceType) bool {
	_, known := operations[rt]
	return known && op > All && op <= TwoPhaseCommit
}

// canonicalHost gives the two spellings of one address one key. What is not an
// address stays as it is and matches nobody, since callers come from addresses.
func canonicalHost(host string) string {
	if host == Wildcard {
		return host
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	return addr.Unmap().String()
}
