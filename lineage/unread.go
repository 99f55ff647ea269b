package lineage

import (
	"maps"
	"slices"
)

// Unread says of clusters, by the names that answers have for them, why their ledgers were
// not read to their ends when a question was asked. An answer is amended by it, so that it
// does not take what was not read yet for what is not there.
type Unread map[string]string

// Says is what an answer about all clusters has to say of it.
func (u Unread) Says() []string {
	lines := slices.Sorted(maps.Values(u))
	for i, why := range lines {
		lines[i] = moreThan(why)
	}
	return slices.Compact(lines)
}

// Of is what an answer about one cluster has to say of it.
func (u Unread) Of(cluster string) []string {
	if u[cluster] == "" {
		return nil
	}
	return []string{moreThan(u[cluster])}
}

func moreThan(why string) string { return "whether there is more to be said: " + why }

// Event amends an answer about an event: where no copy is known to have brought it here, or
// to have taken it on, one may be in what was not read.
func (u Unread) Event(a *Answer) {
	for i := range a.Nodes {
		n := &a.Nodes[i]
		if why := u[n.Cluster]; why != "" && n.Origin && len(n.Produced) == 0 {
			n.Origin = false
			n.Unknown = append(n.Unknown, whenceUnknown+why)
		}
		for k := range n.NotCopied {
			c := &n.NotCopied[k]
			if why := u[c.Cluster]; why != "" && (c.Reason == reasonPending || c.Reason == "ended") {
				c.Reason, c.Why = reasonUnknown, saidToBe(c.Reason, why)
			}
		}
	}
	if len(a.Nodes) > 0 {
		a.Nodes[0].Unknown = append(a.Nodes[0].Unknown, u.Says()...)
	}
}

// whenceUnknown begins why it is not said that an event was produced where it lies.
const whenceUnknown = "whether it was produced here or came by a copy: "
