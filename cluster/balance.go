package cluster

import (
	"cmp"
	"slices"
)

// place gives the pool of a kind to nodes, heaviest first: each piece back to
// where it was if that leaves nobody with more than if all went to the idlest,
// else to the node with the least.
func (a *assigner) place(kind WorkKind) {
	pool, held := a.pool[kind], a.held[kind]
	if len(pool) == 0 {
		return
	}
	heavier := func(x, y item) int { return cmp.Compare(y.weight, x.weight) }
	if !slices.IsSortedFunc(pool, heavier) {
		slices.SortStableFunc(pool, heavier)
	}
	room := slices.Clone(held) // what each node would have if nothing came back
	for i := range pool {
		room[a.pick(pool[i].of.class, room)] += pool[i].weight
	}
	for n := range room {
		room[n] *= 1 + a.pace.tolerance/2
	}
	var rest []item
	for _, it := range pool {
		if it.node != nowhere && it.of.class.has[it.node] && held[it.node]+it.weight <= room[it.node] {
			a.give(it, it.node)
		} else {
			rest = append(rest, it)
		}
	}
	if len(rest) == 0 {
		return
	}
	// What is being released will soon be placed too: two copies that leave a node
	// must not both find it idle because the other one has left, and come back.
	future := slices.Clone(held)
	if kind == WorkCopy {
		for _, it := range a.leaving {
			future[a.pick(it.of.class, future)] += it.weight
		}
	}
	for _, it := range rest {
		n := a.pick(it.of.class, future)
		future[n] += it.weight
		a.give(it, n)
	}
}

func (a *assigner) give(it item, node int32) {
	a.change.Place = append(a.change.Place, Placement{Work: it.work(), Node: a.nodes[node], Incarnation: a.members[node].Incarnation})
	a.held[it.of.work.Kind][node] += it.weight
}

// pick returns the node of a class that has the least, or the least busy of those
// in the rack if that one is within the tolerance of it.
func (a *assigner) pick(c *class, held []float64) int32 {
	idlest := least(c.nodes, held)
	if len(c.rack) > 0 {
		if r := least(c.rack, held); held[r]-held[idlest] <= a.apart(c)/2 {
			return r
		}
	}
	return idlest
}

// least returns the node that has least; of equals the first.
func least(nodes []int32, held []float64) int32 {
	best := nodes[0]
	for _, n := range nodes[1:] {
		if held[n] < held[best] {
			best = n
		}
	}
	return best
}

// apart is how far apart the nodes of a class may be: a share of what one has on
// average, and one copy that moves nothing at least.
func (a *assigner) apart(c *class) float64 { return max(1, a.pace.tolerance*c.mean()) }

// expel releases copies that their nodes should not have, as many at a time as may
// be on the move: first those of nodes that are drained and of flows that are
// pinned elsewhere, then those that are far from their destination although a
// node near it is there.
func (a *assigner) expel() {
	for _, it := range a.expelled {
		if a.moving >= a.pace.moving {
			return
		}
		a.forgo(it)
	}
	for _, it := range a.misplaced {
		if a.moving >= a.pace.moving || a.begun >= a.pace.balancing {
			return
		}
		a.begun++
		a.forgo(it)
	}
}

// forgo releases a copy that its node has counted as its own.
func (a *assigner) forgo(it item) {
	if it.node != nowhere {
		a.held[WorkCopy][it.node] -= it.weight
	}
	a.release(it, true)
}

// balance moves copies from nodes that have too much to those that have the
// least, until no two nodes that may have the same copies are further apart than
// the tolerance, or as many move as may.
func (a *assigner) balance() {
	if a.moving >= a.pace.moving || a.begun >= a.pace.balancing {
		return
	}
	// What is being released will be placed on the least busy: count it there, so
	// that nothing moves twice.
	held := slices.Clone(a.held[WorkCopy])
	for _, it := range a.leaving {
		held[a.pick(it.of.class, held)] += it.weight
	}
	for a.moving < a.pace.moving && a.begun < a.pace.balancing {
		from, c, i := a.bestMove(held)
		if i < 0 {
			return
		}
		it, to := a.copies[from][c].take(i), least(c.nodes, held)
		held[from] -= it.weight
		held[to] += it.weight
		a.begun++
		a.release(it, true)
	}
}

// bestMove returns the copy that should move next, as its place in the pile of a
// node and a class; -1 if none should. It looks at the busiest node first.
func (a *assigner) bestMove(held []float64) (from int32, of *class, at int) {
	order := make([]int32, len(a.nodes))
	for n := range order {
		order[n] = int32(n)
	}
	slices.SortStableFunc(order, func(x, y int32) int { return cmp.Compare(held[y], held[x]) })
	for _, n := range order {
		var widest float64
		at = -1
		for c, p := range a.copies[n] {
			gap := held[n] - held[least(c.nodes, held)]
			if gap <= a.apart(c) || at >= 0 && (gap < widest || gap == widest && !p.before(a.copies[n][of])) {
				continue
			}
			if i := p.fitting(gap, due(c, held, n)); i >= 0 {
				of, at, widest = c, i, gap
			}
		}
		if at >= 0 {
			return n, of, at
		}
	}
	return nowhere, nil, -1
}

// due is what should move from a node to the idlest one of a class so that neither
// ends on the other side of the mean: what one node gives to another must not have
// to be given back to it by a third.
func due(c *class, held []float64, from int32) float64 {
	var sum float64
	for _, n := range c.nodes {
		sum += held[n]
	}
	mean := sum / float64(len(c.nodes))
	return min(held[from]-mean, mean-held[least(c.nodes, held)])
}
