package acl

import (
	"fmt"
	"strings"
)

// Filter selects rules, as DescribeAcls and DeleteAcls do. A nil field and the
// Any of a type select everything.
type Filter struct {
	ResourceType ResourceType `json:"resourceType"`
	ResourceName *string      `json:"resourceName,omitempty"`
	// PatternType Literal or Prefixed compares names by equality; AnyPattern
	// too, in patterns of both types; Match selects the rules that would decide
	// about a resource of the given name.
	PatternType PatternType `json:"patternType"`
	Principal   *string     `json:"principal,omitempty"`
	Host        *string     `json:"host,omitempty"`
	Operation   Operation   `json:"operation"`
	Permission  Permission  `json:"permission"`
}

// AnyRule is the filter that selects every rule.
func AnyRule() Filter {
	return Filter{ResourceType: AnyResource, PatternType: AnyPattern, Operation: AnyOperation, Permission: AnyPermission}
}

// Validate refuses a filter with a type, operation or permission that is not
// known here. Errors wrap [ErrInvalid].
func (f Filter) Validate() error {
	var faults []string
	check := func(what string, n, most int8, name string) {
		if n <= 0 || n > most {
			faults = append(faults, fmt.Sprintf("%s %s cannot be in a filter", what, name))
		}
	}
	check("resource type", int8(f.ResourceType), int8(User), f.ResourceType.String())
	check("pattern type", int8(f.PatternType), int8(Prefixed), f.PatternType.String())
	check("operation", int8(f.Operation), int8(TwoPhaseCommit), f.Operation.String())
	check("permission", int8(f.Permission), int8(Allow), f.Permission.String())
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalid, strings.Join(faults, "; "))
}

// Matches reports whether f selects r.
func (f Filter) Matches(r Rule) bool {
	return (f.ResourceType == AnyResource || f.ResourceType == r.ResourceType) &&
		f.matchesPattern(r) &&
		(f.Principal == nil || *f.Principal == r.Principal) &&
		(f.Host == nil || *f.Host == r.Host) &&
		(f.Operation == AnyOperation || f.Operation == r.Operation) &&
		(f.Permission == AnyPermission || f.Permission == r.Permission)
}

func (f Filter) matchesPattern(r Rule) bool {
	switch f.PatternType {
	case AnyPattern, r.PatternType:
		return f.ResourceName == nil || *f.ResourceName == r.ResourceName
	case Match:
		if f.ResourceName == nil {
			return true
		}
		if r.PatternType == Prefixed {
			return strings.HasPrefix(*f.ResourceName, r.ResourceName)
		}
		return *f.ResourceName == r.ResourceName || r.ResourceName == Wildcard
	default:
		return false
	}
}
