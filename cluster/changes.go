package cluster

import (
	"bytes"
	"reflect"
	"slices"
)

// changes is what of an earlier and a later state decides who does what. What no command
// has touched they share, so finding it costs what has changed, however much there is.
// Between states that share nothing (one came from a snapshot) it costs a look at
// everything, and says the same.
type changes struct {
	// objects are the keys of what was declared anew, changed or deleted, in order.
	objects []string
	// members are the nodes that came, went or have changed, in order.
	members []string
	// works are those that came or went, have another owner or epoch, are to be
	// released, are wanted or not any more, or whose topic has changed; in order.
	works []Work
}

// changesBetween compares two states.
func changesBetween(before, after *State) changes {
	var c changes
	if before == after {
		return c
	}
	c.objects = differing(before.Objects, after.Objects, func(a, b Object) bool {
		return a.Revision == b.Revision && bytes.Equal(a.Spec, b.Spec)
	})
	c.members = differing(before.Members, after.Members, func(a, b Member) bool { return reflect.DeepEqual(a, b) })
	for _, id := range differing(before.Executions, after.Executions, same) {
		a, b := orNone(before.Executions[id]), orNone(after.Executions[id])
		if a.Owner != b.Owner || a.Done != b.Done || before.Executions[id] == nil || after.Executions[id] == nil {
			c.works = append(c.works, Work{Kind: WorkRunbook, Name: id})
		}
	}
	for _, name := range differing(before.Flows, after.Flows, same) {
		c.flow(name, before.Flows[name], after.Flows[name])
	}
	slices.SortFunc(c.works, Work.compare)
	return c
}

// flow notes what has changed of one.
func (c *changes) flow(name string, before, after *Flow) {
	a, b := orNone(before), orNone(after)
	whole := before == nil || after == nil || a.Leaving != b.Leaving
	if whole || a.Duty != b.Duty {
		c.works = append(c.works, Work{Kind: WorkFlow, Name: name})
	}
	topics := differing(a.Topics, b.Topics, same)
	if whole {
		topics = differing(a.Topics, b.Topics, func(_, _ *Topic) bool { return false }) // all of them
	}
	for _, topic := range topics {
		s, t := orNone(a.Topics[topic]), orNone(b.Topics[topic])
		all := whole || s.TopicSpec != t.TopicSpec || s.Leaving != t.Leaving
		for p := range max(len(s.Owners), len(t.Owners)) {
			if all || p >= len(s.Owners) || p >= len(t.Owners) || s.Owners[p] != t.Owners[p] {
				c.works = append(c.works, Work{Kind: WorkCopy, Name: name, Topic: topic, Partition: int32(p)})
			}
		}
	}
}

// otherWork reports whether the work of a node's incarnation differs between two
// states.
func otherWork(before, after *State, node string, incarnation uint64) bool {
	has := func(s *State, w Work) bool {
		o, ok := s.Owner(w)
		return ok && o.Node == node && o.Incarnation == incarnation
	}
	c := changesBetween(before, after)
	return slices.ContainsFunc(c.works, func(w Work) bool { return has(before, w) || has(after, w) })
}

// assignment reports whether assign may come to something else than before.
func (c *changes) assignment() bool { return len(c.objects)+len(c.members)+len(c.works) > 0 }

// differing returns the keys whose values differ, or that only one map has, in order.
func differing[V any](before, after map[string]V, equal func(a, b V) bool) (keys []string) {
	for k, b := range after {
		if a, ok := before[k]; !ok || !equal(a, b) {
			keys = append(keys, k)
		}
	}
	for k := range before {
		if _, ok := after[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func same[V comparable](a, b V) bool { return a == b }

func orNone[V any](p *V) *V {
	if p == nil {
		return new(V)
	}
	return p
}
