package acl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ResourceType is what a rule protects, with the protocol's number.
type ResourceType int8

// The resource types. AnyResource is for filters only.
const (
	UnknownResource ResourceType = 0
	AnyResource     ResourceType = 1
	Topic           ResourceType = 2
	Group           ResourceType = 3
	Cluster         ResourceType = 4
	TransactionalID ResourceType = 5
	DelegationToken ResourceType = 6
	User            ResourceType = 7
)

// ClusterName is the only name that a resource of type [Cluster] has.
const ClusterName = "kafka-cluster"

// PatternType says how a rule's resource name is compared.
type PatternType int8

// The pattern types. AnyPattern and Match are for filters only.
const (
	UnknownPattern PatternType = 0
	AnyPattern     PatternType = 1
	Match          PatternType = 2
	Literal        PatternType = 3
	Prefixed       PatternType = 4
)

// Operation is what a rule lets or forbids a principal to do.
type Operation int8

// The operations. AnyOperation is for filters only.
const (
	UnknownOperation Operation = 0
	AnyOperation     Operation = 1
	All              Operation = 2
	Read             Operation = 3
	Write            Operation = 4
	Create           Operation = 5
	Delete           Operation = 6
	Alter            Operation = 7
	Describe         Operation = 8
	ClusterAction    Operation = 9
	DescribeConfigs  Operation = 10
	AlterConfigs     Operation = 11
	IdempotentWrite  Operation = 12
	CreateTokens     Operation = 13
	DescribeTokens   Operation = 14
	TwoPhaseCommit   Operation = 15 // KIP-939
)

// Permission is whether a rule allows or denies.
type Permission int8

// The permissions. AnyPermission is for filters only.
const (
	UnknownPermission Permission = 0
	AnyPermission     Permission = 1
	Deny              Permission = 2
	Allow             Permission = 3
)

// names in Kafka's spelling; the index is the protocol's number.
var (
	resourceTypeNames = []string{"Unknown", "Any", "Topic", "Group", "Cluster", "TransactionalId", "DelegationToken", "User"}
	patternTypeNames  = []string{"Unknown", "Any", "Match", "Literal", "Prefixed"}
	operationNames    = []string{
		"Unknown", "Any", "All", "Read", "Write", "Create", "Delete", "Alter", "Describe", "ClusterAction",
		"DescribeConfigs", "AlterConfigs", "IdempotentWrite", "CreateTokens", "DescribeTokens", "TwoPhaseCommit",
	}
	permissionNames = []string{"Unknown", "Any", "Deny", "Allow"}
)

// operations lists what each resource type supports besides All, as Kafka's
// AclEntry does.
var operations = map[ResourceType][]Operation{
	Topic:           {Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs},
	Group:           {Read, Delete, Describe, DescribeConfigs, AlterConfigs},
	Cluster:         {Create, Alter, Describe, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite},
	TransactionalID: {Write, Describe, TwoPhaseCommit},
	DelegationToken: {Describe},
	User:            {CreateTokens, DescribeTokens},
}

// Operations returns what a resource of type t supports, without All; nil for
// types that no rule may have.
func (t ResourceType) Operations() []Operation { return slices.Clone(operations[t]) }

// Supports reports whether op is ever asked of a resource of type t. All is
// supported by every type that a rule may have.
func (t ResourceType) Supports(op Operation) bool {
	ops, ok := operations[t]
	return ok && (op == All || slices.Contains(ops, op))
}

func (t ResourceType) String() string { return nameOf(resourceTypeNames, int8(t)) }
func (t PatternType) String() string  { return nameOf(patternTypeNames, int8(t)) }
func (o Operation) String() string    { return nameOf(operationNames, int8(o)) }
func (p Permission) String() string   { return nameOf(permissionNames, int8(p)) }

// ParseResourceType reads a name as Kafka's tools write it: "Topic",
// "TRANSACTIONAL_ID" and "transactional-id" are all understood.
func ParseResourceType(s string) (ResourceType, error) {
	n, err := numberOf(resourceTypeNames, "resource type", s)
	return ResourceType(n), err
}

// ParsePatternType reads a name as Kafka's tools write it.
func ParsePatternType(s string) (PatternType, error) {
	n, err := numberOf(patternTypeNames, "pattern type", s)
	return PatternType(n), err
}

// ParseOperation reads a name as Kafka's tools write it: "DescribeConfigs",
// "DESCRIBE_CONFIGS".
func ParseOperation(s string) (Operation, error) {
	n, err := numberOf(operationNames, "operation", s)
	return Operation(n), err
}

// ParsePermission reads "Allow" or "Deny" in any case.
func ParsePermission(s string) (Permission, error) {
	n, err := numberOf(permissionNames, "permission", s)
	return Permission(n), err
}

// MarshalText writes the name, so that JSON shows "Topic" and not 2.
func (t ResourceType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalText writes the name.
func (t PatternType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalText writes the name.
func (o Operation) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// MarshalText writes the name.
func (p Permission) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is [ParseResourceType].
func (t *ResourceType) UnmarshalText(b []byte) (err error) {
	*t, err = ParseResourceType(string(b))
	return err
}

// UnmarshalText is [ParsePatternType].
func (t *PatternType) UnmarshalText(b []byte) (err error) {
	*t, err = ParsePatternType(string(b))
	return err
}

// UnmarshalText is [ParseOperation].
func (o *Operation) UnmarshalText(b []byte) (err error) {
	*o, err = ParseOperation(string(b))
	return err
}

// UnmarshalText is [ParsePermission].
func (p *Permission) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePermission(string(b))
	return err
}

// nameOf prints a number that has no name (a newer peer's) as the number.
func nameOf(names []string, n int8) string {
	if n >= 0 && int(n) < len(names) {
		return names[n]
	}
	return strconv.Itoa(int(n))
}

func numberOf(names []string, what, s string) (int8, error) {
	folded := strings.NewReplacer("_", "", "-", "").Replace(s)
	for n, name := range names {
		if strings.EqualFold(name, folded) {
			return int8(n), nil
		}
	}
	if n, err := strconv.ParseInt(s, 10, 8); err == nil && int(n) >= len(names) {
		return int8(n), nil
	}
	return 0, fmt.Errorf("%q is not a known %s", s, what)
}
