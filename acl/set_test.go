package acl_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/acl"
)

func rules(t testing.TB, lines ...string) []acl.Rule {
	t.Helper()
	var out []acl.Rule
	for _, line := range lines {
		r, err := acl.ParseRule(line)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestAllowed(t *testing.T) {
	const alice, here = "User:alice", "10.0.0.1"
	tests := []struct {
		name  string
		rules []string
		who   string
		host  string
		op    acl.Operation
		rt    acl.ResourceType
		res   string
		want  bool
	}{
		{"nothing matches", nil, alice, here, acl.Read, acl.Topic, "orders", false},
		{"literal", []string{"User:alice Allow Read Topic:orders"}, alice, here, acl.Read, acl.Topic, "orders", true},
		{"another name", []string{"User:alice Allow Read Topic:orders"}, alice, here, acl.Read, acl.Topic, "orders2", false},
		{"another type", []string{"User:alice Allow Read Group:orders"}, alice, here, acl.Read, acl.Topic, "orders", false},
		{"another principal", []string{"User:alice Allow Read Topic:orders"}, "User:bob", here, acl.Read, acl.Topic, "orders", false},
		{"a principal is case sensitive", []string{"User:alice Allow Read Topic:orders"}, "User:Alice", here, acl.Read, acl.Topic, "orders", false},
		{"another principal type", []string{"Group:alice Allow Read Topic:orders"}, alice, here, acl.Read, acl.Topic, "orders", false},
		{"wildcard principal", []string{"User:* Allow Read Topic:orders"}, alice, here, acl.Read, acl.Topic, "orders", true},
		{"wildcard name", []string{"User:alice Allow Read Topic:*"}, alice, here, acl.Read, acl.Topic, "orders", true},
		{"prefix", []string{"User:alice Allow Read Topic:ord*"}, alice, here, acl.Read, acl.Topic, "orders", true},
		{"prefix of equal length", []string{"User:alice Allow Read Topic:orders*"}, alice, here, acl.Read, acl.Topic, "orders", true},
		{"prefix that is longer", []string{"User:alice Allow Read Topic:orders-*"}, alice, here, acl.Read, acl.Topic, "orders", false},
		{"a prefixed star is not the wildcard", []string{`User:alice Allow Read Group:\**`}, alice, here, acl.Read, acl.Group, "g", false},
		{"a longer prefix does not shadow a shorter", []string{"User:alice Allow Read Topic:a*", "User:bob Allow Read Topic:ab*"}, alice, here, acl.Read, acl.Topic, "abc", true},
		{"deny wins over allow", []string{"User:alice Allow Read Topic:orders", "User:alice Deny Read Topic:orders"}, alice, here, acl.Read, acl.Topic, "orders", false},
		{"a general deny wins over a specific allow", []string{"User:alice Allow Read Topic:orders", "User:* Deny All Topic:*"}, alice, here, acl.Read, acl.Topic, "orders", false},
		{"a deny of another host", []string{"User:alice Allow Read Topic:orders", "User:alice Deny Read Topic:orders from 10.0.0.2"}, alice, here, acl.Read, acl.Topic, "orders", true},
		{"host", []string{"User:alice Allow Read Topic:orders from 10.0.0.1"}, alice, here, acl.Read, acl.Topic, "orders", true},
		{"another host", []string{"User:alice Allow Read Topic:orders from 10.0.0.2"}, alice, here, acl.Read, acl.Topic, "orders", false},
		{"an address that starts alike", []string{"User:alice Allow Read Topic:orders from 10.0.0.1"}, alice, "10.0.0.11", acl.Read, acl.Topic, "orders", false},
		{"two spellings of IPv6", []string{"User:alice Allow Read Topic:orders from 0:0:0:0:0:0:0:1"}, alice, "::1", acl.Read, acl.Topic, "orders", true},
		{"IPv4 mapped into IPv6", []string{"User:alice Deny Read Topic:orders from 10.0.0.1", "User:alice Allow Read Topic:orders"}, alice, "::ffff:10.0.0.1", acl.Read, acl.Topic, "orders", false},
		{"a caller whose host reads as the wildcard", []string{"User:alice Allow Read Topic:orders from 10.0.0.1"}, alice, "*", acl.Read, acl.Topic, "orders", false},
		{"all", []string{"User:alice Allow All Topic:orders"}, alice, here, acl.AlterConfigs, acl.Topic, "orders", true},
		{"deny all", []string{"User:alice Allow Write Topic:orders", "User:alice Deny All Topic:orders"}, alice, here, acl.Write, acl.Topic, "orders", false},
		{"read implies describe", []string{"User:alice Allow Read Topic:orders"}, alice, here, acl.Describe, acl.Topic, "orders", true},
		{"write implies describe", []string{"User:alice Allow Write TransactionalId:t"}, alice, here, acl.Describe, acl.TransactionalID, "t", true},
		{"delete implies describe", []string{"User:alice Allow Delete Group:g"}, alice, here, acl.Describe, acl.Group, "g", true},
		{"alter implies describe", []string{"User:alice Allow Alter Cluster:kafka-cluster"}, alice, here, acl.Describe, acl.Cluster, "kafka-cluster", true},
		{"create does not imply describe", []string{"User:alice Allow Create Topic:orders"}, alice, here, acl.Describe, acl.Topic, "orders", false},
		{"alter configs implies describe configs", []string{"User:alice Allow AlterConfigs Topic:orders"}, alice, here, acl.DescribeConfigs, acl.Topic, "orders", true},
		{"alter configs does not imply describe", []string{"User:alice Allow AlterConfigs Topic:orders"}, alice, here, acl.Describe, acl.Topic, "orders", false},
		{"describe implies nothing", []string{"User:alice Allow Describe Topic:orders"}, alice, here, acl.Read, acl.Topic, "orders", false},
		{"deny read leaves describe", []string{"User:alice Allow Describe Topic:orders", "User:alice Deny Read Topic:orders"}, alice, here, acl.Describe, acl.Topic, "orders", true},
		{"deny describe beats implied", []string{"User:alice Allow Read Topic:orders", "User:alice Deny Describe Topic:orders"}, alice, here, acl.Describe, acl.Topic, "orders", false},
		{"super user", []string{"User:* Deny All Topic:*"}, "User:root", here, acl.Write, acl.Topic, "orders", true},
		{"a super user is matched exactly", nil, "User:root2", here, acl.Write, acl.Topic, "orders", false},
		{"the wildcard among super users is a name", nil, "User:bob", here, acl.Write, acl.Topic, "orders", false},
		{"any is not an operation to ask for", []string{"User:alice Allow All Topic:*"}, alice, here, acl.AnyOperation, acl.Topic, "orders", false},
		{"nor is all", []string{"User:alice Allow All Topic:*"}, alice, here, acl.All, acl.Topic, "orders", false},
		{"nor a number from the future", []string{"User:alice Allow All Topic:*"}, alice, here, 40, acl.Topic, "orders", false},
		{"an unknown type, asked by a super user", nil, "User:root", here, acl.Read, acl.AnyResource, "orders", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := acl.NewSet(rules(t, tt.rules...), []string{"User:root", "User:*"})
			if got := s.Allowed(tt.who, tt.host, tt.op, tt.rt, tt.res); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAllowedOnAny(t *testing.T) {
	tests := []struct {
		name  string
		rules []string
		want  bool
	}{
		{"nothing", nil, false},
		{"one literal", []string{"User:alice Allow Write Topic:a"}, true},
		{"another operation", []string{"User:alice Allow Read Topic:a"}, false},
		{"another host", []string{"User:alice Allow Write Topic:a from 10.0.0.2"}, false},
		{"the literal is denied", []string{"User:alice Allow Write Topic:a", "User:* Deny Write Topic:a"}, false},
		{"a prefix dominates the literal", []string{"User:alice Allow Write Topic:abc", "User:alice Deny All Topic:ab*"}, false},
		{"a literal deny leaves the prefix", []string{"User:alice Allow Write Topic:ab*", "User:alice Deny Write Topic:ab"}, true},
		{"a longer deny leaves the prefix", []string{"User:alice Allow Write Topic:ab*", "User:alice Deny Write Topic:abc*"}, true},
		{"a shorter deny dominates the prefix", []string{"User:alice Allow Write Topic:ab*", "User:alice Deny Write Topic:a*"}, false},
		{"the same prefix denied", []string{"User:alice Allow Write Topic:ab*", "User:alice Deny Write Topic:ab*"}, false},
		{"everything denied", []string{"User:alice Allow Write Topic:ab*", "User:* Deny Write Topic:*"}, false},
		{"everything allowed but a prefix", []string{"User:alice Allow Write Topic:*", "User:alice Deny Write Topic:a*"}, true},
		{"one of two is dominated", []string{"User:alice Allow Write Topic:a", "User:alice Deny Write Topic:a*", "User:* Allow Write Topic:b"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := acl.NewSet(rules(t, tt.rules...), []string{"User:root"})
			if got := s.AllowedOnAny("User:alice", "10.0.0.1", acl.Write, acl.Topic); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if !s.AllowedOnAny("User:root", "10.0.0.1", acl.Write, acl.Topic) {
				t.Error("the super user is refused")
			}
		})
	}
}

func TestPermissiveSet(t *testing.T) {
	const here = "10.0.0.1"
	s := acl.NewPermissiveSet(rules(t, "User:bob Allow Read Topic:orders", "User:bob Deny Write Topic:pay*", "User:eve Allow Read Group:*"), nil)
	for _, c := range []struct {
		rt   acl.ResourceType
		name string
		want bool
	}{
		{acl.Topic, "free", true},
		{acl.Topic, "orders", false}, // a rule is about it, though not about alice
		{acl.Topic, "payments", false},
		{acl.Topic, "pa", true},
		{acl.Group, "any", false},
		{acl.TransactionalID, "any", true},
		{acl.AnyResource, "any", false},
	} {
		if got := s.Allowed("User:alice", here, acl.Read, c.rt, c.name); got != c.want {
			t.Errorf("%s %s: got %v, want %v", c.rt, c.name, got, c.want)
		}
	}
	if !s.AllowedOnAny("User:alice", here, acl.Write, acl.Topic) || s.AllowedOnAny("User:alice", here, acl.Read, acl.Group) {
		t.Error("on any: want yes for topics, of which most are free, and no for groups")
	}
}

func TestNilSetDenies(t *testing.T) {
	var s *acl.Set
	if s.Allowed("User:alice", "10.0.0.1", acl.Read, acl.Topic, "t") || s.AllowedOnAny("User:alice", "10.0.0.1", acl.Read, acl.Topic) {
		t.Error("a nil set allows")
	}
	if len(s.Rules())+len(s.Matching(acl.AnyRule())) != 0 {
		t.Error("a nil set has rules")
	}
}

// naive judges by reading every rule, in the words of the package doc.
type naive struct {
	rules      []acl.Rule
	supers     []string
	permissive bool
}

func covers(r acl.Rule, rt acl.ResourceType, name string) bool {
	if r.PatternType == acl.Prefixed {
		return r.ResourceType == rt && strings.HasPrefix(name, r.ResourceName)
	}
	return r.ResourceType == rt && (r.ResourceName == name || r.ResourceName == "*")
}

func (n naive) allowed(principal, host string, op acl.Operation, rt acl.ResourceType, name string) bool {
	if slices.Contains(n.supers, principal) {
		return true
	}
	allowed := n.permissive && !slices.ContainsFunc(n.rules, func(r acl.Rule) bool { return covers(r, rt, name) })
	for _, r := range n.rules {
		if r.Principal != principal && r.Principal != "User:*" {
			continue
		}
		if r.Host != "*" && netip.MustParseAddr(r.Host).Unmap() != netip.MustParseAddr(host).Unmap() {
			continue
		}
		if !covers(r, rt, name) {
			continue
		}
		if r.Permission == acl.Deny {
			if r.Operation == op || r.Operation == acl.All {
				return false
			}
			continue
		}
		implied := op == acl.Describe && slices.Contains([]acl.Operation{acl.Read, acl.Write, acl.Delete, acl.Alter}, r.Operation) ||
			op == acl.DescribeConfigs && r.Operation == acl.AlterConfigs
		allowed = allowed || implied || r.Operation == op || r.Operation == acl.All
	}
	return allowed
}

// allowedOnAny tries every name at which the answer can change: each name and
// prefix that a rule has, something below each prefix, and a name of nobody's.
func (n naive) allowedOnAny(principal, host string, op acl.Operation, rt acl.ResourceType) bool {
	names := []string{"~nobody~"}
	for _, r := range n.rules {
		names = append(names, r.ResourceName, r.ResourceName+"~nobody~")
	}
	for _, name := range names {
		if n.allowed(principal, host, op, rt, name) {
			return true
		}
	}
	return false
}

// TestModel compares the index with the naive reading on random small worlds, in
// which collisions of everything with everything are common.
func TestModel(t *testing.T) {
	const worlds, questions = 400, 120
	seed := uint64(20260501)
	rng := rand.New(rand.NewPCG(seed, 1))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	types := []acl.ResourceType{acl.Topic, acl.Group, acl.TransactionalID}
	principal := func() string { return pick("User:a", "User:b", "User:*", "User:root", "Group:a") }
	name := func() string { return pick("a", "ab", "abc", "abd", "b", "bc", "*", "a*", "ab~nobody~") }
	host := func() string { return pick("10.0.0.1", "10.0.0.2", "::1", "::ffff:10.0.0.1") }

	for world := range worlds {
		var rs []acl.Rule
		for range rng.IntN(14) {
			r := acl.Rule{
				ResourceType: types[rng.IntN(len(types))],
				ResourceName: name(),
				PatternType:  acl.Literal + acl.PatternType(rng.IntN(2)),
				Principal:    principal(),
				Host:         pick("*", "*", "*", host()),
				Operation:    acl.All + acl.Operation(rng.IntN(10)),
				Permission:   acl.Allow,
			}
			if rng.IntN(3) == 0 {
				r.Permission = acl.Deny
			}
			rs = append(rs, r)
		}
		supers := []string{"User:root"}
		set, model := acl.NewSet(rs, supers), naive{rs, supers, world%2 == 1}
		if model.permissive {
			set = acl.NewPermissiveSet(rs, supers)
		}
		for range questions {
			p, h, rt, res := principal(), host(), types[rng.IntN(len(types))], name()
			op := acl.Read + acl.Operation(rng.IntN(9))
			if got, want := set.Allowed(p, h, op, rt, res), model.allowed(p, h, op, rt, res); got != want {
				t.Fatalf("seed %d, world %d: Allowed(%s, %s, %s, %s, %s): got %v, want %v\n%v", seed, world, p, h, op, rt, res, got, want, rs)
			}
			if got, want := set.AllowedOnAny(p, h, op, rt), model.allowedOnAny(p, h, op, rt); got != want {
				t.Fatalf("seed %d, world %d: AllowedOnAny(%s, %s, %s, %s): got %v, want %v\n%v", seed, world, p, h, op, rt, got, want, rs)
			}
		}
		// Taking one rule out changes no other (CVE-2024-27309).
		if len(rs) > 2 {
			less := slices.Delete(slices.Clone(rs), 1, 2)
			set, model := acl.NewSet(less, nil), naive{less, nil, false}
			for range 20 {
				p, h, rt, res := principal(), host(), types[rng.IntN(len(types))], name()
				if got, want := set.Allowed(p, h, acl.Read, rt, res), model.allowed(p, h, acl.Read, rt, res); got != want {
					t.Fatalf("seed %d, world %d, one rule less: got %v, want %v\n%v", seed, world, got, want, less)
				}
			}
		}
	}
}

func BenchmarkAllowed(b *testing.B) {
	var rs []acl.Rule
	for i := range 10_000 {
		rs = append(rs, acl.Rule{
			ResourceType: acl.Topic, ResourceName: fmt.Sprintf("team-%d.", i), PatternType: acl.Literal + acl.PatternType(i%2),
			Principal: fmt.Sprintf("User:u%d", i%50), Host: "*", Operation: acl.Read, Permission: acl.Allow,
		})
	}
	s := acl.NewSet(rs, nil)
	for b.Loop() {
		if !s.Allowed("User:u1", "10.0.0.1", acl.Read, acl.Topic, "team-9951.orders") {
			b.Fatal("denied")
		}
	}
}

func Example() {
	var have []acl.Rule
	for _, line := range []string{
		"User:billing Allow Read Topic:orders*",
		"User:billing Allow Read Group:billing",
		"User:* Deny Read Topic:orders.salaries",
	} {
		r, err := acl.ParseRule(line)
		if err != nil {
			fmt.Println(err)
			return
		}
		have = append(have, r)
	}
	set := acl.NewSet(have, []string{"User:admin"})
	for _, topic := range []string{"orders.eu", "orders.salaries"} {
		fmt.Println(topic, set.Allowed("User:billing", "10.1.2.3", acl.Read, acl.Topic, topic))
	}

	want := append(have[:2:2], acl.Rule{
		ResourceType: acl.Topic, ResourceName: "orders", PatternType: acl.Prefixed,
		Principal: "User:audit", Host: "10.1.2.9", Operation: acl.Describe, Permission: acl.Allow,
	})
	changes := acl.Diff(have, want)
	for _, r := range changes.Add {
		fmt.Println("+", r)
	}
	for _, r := range changes.Remove {
		fmt.Println("-", r)
	}
	// Output:
	// orders.eu true
	// orders.salaries false
	// + User:audit Allow Describe Topic:orders* from 10.1.2.9
	// - User:* Deny Read Topic:orders.salaries from *
}
