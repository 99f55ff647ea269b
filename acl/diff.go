package acl

// Changes turn one set of rules into another. Both lists are in the order of
// [Rule.Compare].
type Changes struct {
	Add    []Rule
	Remove []Rule
}

// Empty reports whether there is nothing to do.
func (c Changes) Empty() bool { return len(c.Add) == 0 && len(c.Remove) == 0 }

// Diff returns what must be added to and removed from have, so that it becomes
// want. Rules are compared by equality: two rules that overlap are two rules.
func Diff(have, want []Rule) Changes {
	return Changes{Add: without(want, have), Remove: without(have, want)}
}

func without(rules, others []Rule) []Rule {
	known := make(map[Rule]struct{}, len(others))
	for _, r := range others {
		known[r] = struct{}{}
	}
	var out []Rule
	for _, r := range sorted(rules) {
		if _, ok := known[r]; !ok {
			out = append(out, r)
		}
	}
	return out
}
