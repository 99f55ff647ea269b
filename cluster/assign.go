package cluster

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	"github.com/waybillhq/waybill/flow"
)

// Loads are how many bytes per second copies move, as far as known.
type Loads map[Work]float64

// idleWeight is the work that a copy makes whatever it moves (its fetches, its
// share of a session, memory), as bytes per second. Weights are in units of it,
// so without any load balancing is by count.
const idleWeight = 256 << 10

// slack is how far apart two nodes may be, as a share of the mean, before a copy
// moves: each move interrupts a copy for about a tenth of a second.
const slack = 0.2

// maxWorks bounds the works of one command, of some 350 bytes at most, so that it
// stays below raftnode.MaxCommand. The leader goes on with the next.
const maxWorks = 1000

// assign decides what the leader should propose, or returns nil if nothing is to
// change. It is pure, and the same state and loads give the same answer.
//
// Work that nobody has goes to the node that had it last, unless that one has its
// share already, else to the one with the least. Work leaves nodes that are
// draining. Duties and executions stay where they are otherwise. Beyond that, with
// maxMoves > 0, copies move from the busiest node to the idlest until they are
// within slack, as few as possible; no move is begun while maxMoves are under way.
func assign(s *State, loads Loads, maxMoves int) *Assign {
	a := newAssigner(s, loads)
	if len(a.nodes) > 0 {
		for _, class := range []WorkKind{WorkRunbook, WorkFlow, WorkCopy} {
			a.place(class)
		}
		a.balance(maxMoves)
	}
	c := &a.change
	if len(c.Place) == 0 && len(c.Release) == 0 {
		return nil
	}
	c.Place = c.Place[:min(len(c.Place), maxWorks)]
	c.Release = c.Release[:min(len(c.Release), maxWorks-len(c.Place))]
	return c
}

// item is a piece of work under assignment.
type item struct {
	work   Work
	owner  Owner
	weight float64
	near   []string // nodes that may have it, if any of them is usable
}

type assigner struct {
	state      *State
	change     Assign
	nodes      []string // usable, sorted
	near       map[string][]string
	pool       map[WorkKind][]item
	held       map[WorkKind]map[string]float64 // weight by node, of what stays
	total      map[WorkKind]float64            // weight of all that is wanted
	copies     map[string][]item               // by node, those that could move
	leaving    []item                          // wanted copies that are being released
	moving     int                             // copies being released
	nearRegion map[string][]string
}

func newAssigner(s *State, loads Loads) *assigner {
	a := &assigner{
		state:      s,
		near:       make(map[string][]string),
		pool:       make(map[WorkKind][]item),
		held:       make(map[WorkKind]map[string]float64),
		total:      make(map[WorkKind]float64),
		copies:     make(map[string][]item),
		nearRegion: make(map[string][]string),
	}
	for _, name := range sortedKeys(s.Members) {
		if m := s.Members[name]; m.usable() {
			a.nodes = append(a.nodes, name)
			if m.Region != "" {
				a.nearRegion[m.Region] = append(a.nearRegion[m.Region], name)
			}
		}
	}
	for _, name := range sortedKeys(s.Flows) {
		a.near[name] = a.nearestTo(name)
	}
	for _, class := range []WorkKind{WorkRunbook, WorkFlow, WorkCopy} {
		a.held[class] = make(map[string]float64)
	}
	s.works(func(w Work, o Owner) { a.sort(w, o, loads[w]) })
	return a
}

// nearestTo returns the usable nodes in the region of a flow's destination, or all
// if there are none. What it cannot read puts no constraint on anything.
func (a *assigner) nearestTo(name string) []string {
	var spec struct {
		Spec struct {
			Destination string `json:"destination"`
		} `json:"spec"`
	}
	var destination struct {
		Spec struct {
			Region string `json:"region"`
		} `json:"spec"`
	}
	declared := a.state.Objects[string(flow.KindReplicationFlow)+"/"+name].Spec
	if json.Unmarshal(declared, &spec) != nil {
		return a.nodes
	}
	declared = a.state.Objects[string(flow.KindCluster)+"/"+spec.Spec.Destination].Spec
	if json.Unmarshal(declared, &destination) != nil {
		return a.nodes
	}
	if near := a.nearRegion[destination.Spec.Region]; len(near) > 0 {
		return near
	}
	return a.nodes
}

// sort puts a piece of work where it belongs: into the pool, onto its node, or
// among what is to be released.
func (a *assigner) sort(w Work, o Owner, rate float64) {
	wanted := a.state.wanted(w)
	it := item{work: w, owner: o, weight: 1, near: a.nodes}
	if w.Kind != WorkRunbook {
		it.near = a.near[w.Name]
	}
	if w.Kind == WorkCopy {
		it.weight += max(rate, 0) / idleWeight
	}
	if wanted {
		a.total[w.Kind] += it.weight
	}
	switch {
	case o.Node == "":
		if wanted {
			a.pool[w.Kind] = append(a.pool[w.Kind], it)
		}
	case o.Releasing:
		a.leave(it)
	case !wanted, !a.state.Members[o.Node].usable():
		a.release(it)
	default:
		a.held[w.Kind][o.Node] += it.weight
		if w.Kind == WorkCopy {
			a.copies[o.Node] = append(a.copies[o.Node], it)
		}
	}
}

func (a *assigner) release(it item) {
	a.change.Release = append(a.change.Release, OwnedWork{Work: it.work, Epoch: it.owner.Epoch})
	a.leave(it)
}

// leave notes a copy that will need another owner soon.
func (a *assigner) leave(it item) {
	if it.work.Kind == WorkCopy {
		a.moving++
		if a.state.wanted(it.work) {
			a.leaving = append(a.leaving, it)
		}
	}
}

// place gives the pool of a class to nodes: first what goes back to where it was,
// then the rest, heaviest first.
func (a *assigner) place(class WorkKind) {
	pool, held := a.pool[class], a.held[class]
	slices.SortStableFunc(pool, func(x, y item) int { return cmp.Compare(y.weight, x.weight) })
	var rest []item
	for _, it := range pool {
		share := a.total[class] / float64(len(it.near))
		if slices.Contains(it.near, it.owner.Last) && held[it.owner.Last] < share {
			a.give(it, it.owner.Last)
		} else {
			rest = append(rest, it)
		}
	}
	for _, it := range rest {
		a.give(it, least(it.near, held))
	}
}

func (a *assigner) give(it item, node string) {
	a.change.Place = append(a.change.Place, Placement{
		Work: it.work, Node: node, Incarnation: a.state.Members[node].Incarnation,
	})
	a.held[it.work.Kind][node] += it.weight
}

// least returns the node that holds least; of equals the first.
func least(nodes []string, held map[string]float64) string {
	return slices.MinFunc(nodes, func(x, y string) int { return cmp.Compare(held[x], held[y]) })
}

// balance releases copies of nodes that have too much, and those that are far
// from their destination although a near node is there.
func (a *assigner) balance(maxMoves int) {
	held := a.held[WorkCopy]
	for _, node := range a.nodes {
		for i, it := range a.copies[node] {
			if a.moving < maxMoves && !slices.Contains(it.near, node) {
				a.release(it)
				held[node] -= it.weight
				a.copies[node][i].weight = 0 // it is going
			}
		}
	}
	// What is being released will be placed on the least busy: count it there, so
	// that nothing moves twice.
	future := maps.Clone(held)
	for _, it := range a.leaving {
		future[least(it.near, future)] += it.weight
	}
	tolerance := max(1, slack*a.total[WorkCopy]/float64(len(a.nodes)))
	for a.moving < maxMoves {
		from, to := most(a.nodes, future), least(a.nodes, future)
		gap := future[from] - future[to]
		if gap <= tolerance {
			return
		}
		i := bestMove(a.copies[from], to, gap)
		if i < 0 {
			return
		}
		it := a.copies[from][i]
		a.release(it)
		a.copies[from][i].weight = 0
		future[from] -= it.weight
		future[to] += it.weight
	}
}

func most(nodes []string, held map[string]float64) string {
	return slices.MaxFunc(nodes, func(x, y string) int { return cmp.Compare(held[x], held[y]) })
}

// bestMove returns the copy that best closes a gap between its node and another,
// or -1 if none makes it smaller.
func bestMove(copies []item, to string, gap float64) int {
	best, left := -1, gap
	for i, it := range copies {
		if it.weight <= 0 || !slices.Contains(it.near, to) {
			continue
		}
		if after := abs(gap - 2*it.weight); after < left {
			best, left = i, after
		}
	}
	return best
}

func abs(x float64) float64 {
	if x < 0 {
		return -x
	}
	return x
}
