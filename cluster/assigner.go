package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/waybillhq/waybill/flow"
)

// nowhere is the index of a node that may not be given work.
const nowhere = -1

// item is a piece of work under assignment. There may be a million.
type item struct {
	of        *group
	partition int32
	node      int32 // its owner, or who had it last if it has none; nowhere if that one is not usable
	epoch     uint64
	weight    float64
}

// group is what works have in common: a flow's duty, a runbook, or a topic of a
// flow.
type group struct {
	work  Work // without its partition
	class *class
	where where
}

func (it *item) work() Work {
	w := it.of.work
	w.Partition = it.partition
	return w
}

// class is nodes that may have the same works.
type class struct {
	nodes []int32 // sorted; none if nobody may
	has   []bool  // by node
	rack  []int32 // those of nodes that come first
	// total is the weight of all copies that are wanted, by where they belong.
	total float64
}

// mean is what a node of the class would have if only this class counted.
func (c *class) mean() float64 { return c.total / float64(len(c.nodes)) }

// assigner is one assignment under way.
type assigner struct {
	state  *State
	loads  Loads
	pace   pace
	wheres wheres
	change Assign
	begun  int // moves for balance or nearness

	nodes   []string         // usable, sorted
	members []Member         // by node
	index   map[string]int32 // by name of a usable node
	classes map[string]*class

	pool    map[WorkKind][]item
	held    map[WorkKind][]float64 // weight by node, of what stays
	copies  []map[*class]*pile     // by node, those that could move
	leaving []item                 // wanted copies that are being released
	expelled,
	misplaced []item // copies that their node should not have; it may, until others have moved
	moving int // copies being released
}

func newAssigner(s *State, loads Loads, p pace, known wheres) *assigner {
	a := &assigner{
		state: s, loads: loads, pace: p, wheres: known,
		index: make(map[string]int32), classes: make(map[string]*class),
		pool: make(map[WorkKind][]item), held: make(map[WorkKind][]float64),
	}
	for _, name := range sortedKeys(s.Members) {
		if m := s.Members[name]; m.usable() {
			a.index[name] = int32(len(a.nodes))
			a.nodes, a.members = append(a.nodes, name), append(a.members, m)
		}
	}
	for _, kind := range workKinds {
		a.held[kind] = make([]float64, len(a.nodes))
	}
	a.copies = make([]map[*class]*pile, len(a.nodes))
	for n := range a.copies {
		a.copies[n] = make(map[*class]*pile)
	}
	known.prune(s)
	a.collect()
	return a
}

// collect looks at all work, in an order that is the same everywhere.
func (a *assigner) collect() {
	everywhere := a.class(where{})
	for _, id := range sortedKeys(a.state.Executions) {
		e := a.state.Executions[id]
		a.sort(&group{work: Work{Kind: WorkRunbook, Name: id}, class: everywhere}, 0, &e.Owner, 1, !e.Done)
	}
	for _, name := range sortedKeys(a.state.Flows) {
		f := a.state.Flows[name]
		w := a.wheres.of(a.state, name)
		c := a.class(w)
		a.sort(&group{Work{Kind: WorkFlow, Name: name}, c, w}, 0, &f.Duty, 1, !f.Leaving)
		for _, topic := range sortedKeys(f.Topics) {
			t := f.Topics[topic]
			g := &group{Work{Kind: WorkCopy, Name: name, Topic: topic}, c, w}
			rates := a.loads.of(name, topic)
			wanted := !f.Leaving && !t.Leaving && !t.Blocked
			for p := range t.Owners {
				weight := 1.0
				if p < len(rates) {
					weight += max(float64(rates[p]), 0) / idleWeight
				}
				a.sort(g, int32(p), &t.Owners[p], weight, wanted && p < int(t.Partitions))
			}
		}
	}
}

// sort puts a piece of work where it belongs: into the pool, onto its node, or
// among what is to be released.
func (a *assigner) sort(g *group, partition int32, o *Owner, weight float64, wanted bool) {
	it := item{of: g, partition: partition, node: nowhere, epoch: o.Epoch, weight: weight}
	kind := g.work.Kind
	if n, ok := a.index[cmp.Or(o.Node, o.Last)]; ok {
		it.node = n
	}
	if wanted && kind == WorkCopy {
		g.class.total += weight
	}
	switch {
	case o.Node == "":
		if wanted && len(g.class.nodes) > 0 {
			a.pool[kind] = append(a.pool[kind], it)
		}
	case o.Releasing:
		if kind == WorkCopy {
			a.leave(it, wanted)
		}
	case !wanted, kind != WorkCopy && (it.node == nowhere || !g.class.has[it.node]):
		a.release(it, wanted)
	case it.node == nowhere:
		if m := a.state.Members[o.Node]; m.Draining && !m.Stopping {
			a.expelled = append(a.expelled, it)
		} else {
			a.release(it, true) // its node ends, whether it has moved or not
		}
	default:
		a.held[kind][it.node] += weight
		switch {
		case kind != WorkCopy:
		case g.class.has[it.node]:
			p := a.copies[it.node][g.class]
			if p == nil {
				p = new(pile)
				a.copies[it.node][g.class] = p
			}
			p.items = append(p.items, it)
		case g.where.allows(a.members[it.node]):
			a.misplaced = append(a.misplaced, it)
		default:
			a.expelled = append(a.expelled, it)
		}
	}
}

func (a *assigner) release(it item, wanted bool) {
	a.change.Release = append(a.change.Release, OwnedWork{Work: it.work(), Epoch: it.epoch})
	if it.of.work.Kind == WorkCopy {
		a.leave(it, wanted)
	}
}

// leave notes a copy that will need another owner soon.
func (a *assigner) leave(it item, wanted bool) {
	a.moving++
	if wanted && len(it.of.class.nodes) > 0 {
		a.leaving = append(a.leaving, it)
	}
}

// where is what decides which nodes a flow's work may be on.
type where struct {
	nodes        flow.NodeSelector
	region, rack string // of the destination
}

// allows reports whether a flow may be on a node at all, near or not.
func (w *where) allows(m Member) bool {
	return w.nodes.Matches(m.Name, m.Region, m.Rack, m.Labels)
}

// wheres are those of flows, by name, as they were declared at revisions: reading
// declarations takes longer than all else that a plan at rest does.
type wheres map[string]declaredWhere

type declaredWhere struct {
	where
	destination   string
	flow, cluster uint64 // revisions of the objects that were read, 0 if there was none
}

// of is whereOf, remembered.
func (known wheres) of(s *State, name string) where {
	at := s.Objects[string(flow.KindReplicationFlow)+"/"+name].Revision
	d, ok := known[name]
	if !ok || d.flow != at || d.cluster != s.Objects[string(flow.KindCluster)+"/"+d.destination].Revision {
		d = declaredWhere{flow: at}
		d.where, d.destination = whereOf(s, name)
		d.cluster = s.Objects[string(flow.KindCluster)+"/"+d.destination].Revision
		known[name] = d
	}
	return d.where
}

// prune forgets flows that a state does not have, when they have become many.
func (known wheres) prune(s *State) {
	if len(known) > 2*len(s.Flows)+100 {
		clear(known)
	}
}

// whereOf reads a flow's declarations, and says which cluster it copies to. What cannot be read asks for nothing.
func whereOf(s *State, name string) (w where, destination string) {
	var f struct {
		Spec struct {
			Destination string          `json:"destination"`
			Placement   *flow.Placement `json:"placement"`
		} `json:"spec"`
	}
	if json.Unmarshal(s.Objects[string(flow.KindReplicationFlow)+"/"+name].Spec, &f) != nil {
		return w, ""
	}
	if f.Spec.Placement != nil {
		w.nodes = f.Spec.Placement.Nodes
	}
	var c struct {
		Spec struct {
			Region string `json:"region"`
			Rack   string `json:"rack"`
		} `json:"spec"`
	}
	if json.Unmarshal(s.Objects[string(flow.KindCluster)+"/"+f.Spec.Destination].Spec, &c) == nil {
		w.region, w.rack = c.Spec.Region, c.Spec.Rack
	}
	return w, f.Spec.Destination
}

// class returns the nodes for a where.
func (a *assigner) class(w where) *class {
	key := fmt.Sprintf("%q %q", w.region, w.rack)
	for _, label := range slices.Sorted(maps.Keys(w.nodes.MatchLabels)) {
		key += fmt.Sprintf(" %q=%q", label, w.nodes.MatchLabels[label])
	}
	if c, ok := a.classes[key]; ok {
		return c
	}
	var all, near, rack []int32
	for n, m := range a.members {
		if !w.allows(m) {
			continue
		}
		all = append(all, int32(n))
		if w.region != "" && m.Region == w.region {
			near = append(near, int32(n))
			if w.rack != "" && m.Rack == w.rack {
				rack = append(rack, int32(n))
			}
		}
	}
	c := a.sameNodes(&class{nodes: all, rack: rack})
	if len(near) > 0 {
		c = a.sameNodes(&class{nodes: near, rack: rack})
	}
	a.classes[key] = c
	return c
}

// sameNodes returns a class that is known already in place of one that is like
// it: what moves within one class is compared, so fewer are better.
func (a *assigner) sameNodes(c *class) *class {
	if len(c.rack) == len(c.nodes) {
		c.rack = nil
	}
	for _, old := range a.classes {
		if slices.Equal(old.nodes, c.nodes) && slices.Equal(old.rack, c.rack) {
			return old
		}
	}
	c.has = make([]bool, len(a.nodes))
	for _, n := range c.nodes {
		c.has[n] = true
	}
	return c
}
