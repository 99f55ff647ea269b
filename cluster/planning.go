package cluster

import "time"

// planning is a plan that is being made. Making it takes seconds with a million
// copies, in which the leader must hear heartbeats and end incarnations. So it looks
// only at what nobody changes meanwhile: a state, loads, and what only planning uses.
//
// What becomes of the fleet meanwhile needs no look at the plan: each placement is
// checked against the state in which it is applied (Assign), as it has to be for the
// last command of a long plan. A plan for other nodes than there are is dropped, and of
// one for flows that are pinned elsewhere by now what they no longer allow.
type planning struct {
	declared *State // what it was begun for
	state    *State // the same, with those nodes usable that may be given work
	loads    Loads
	wheres   wheres

	look      bool // whether to begin with balancing
	balancing bool
	begin     pace // for that look
	moving    int
	budget    float64

	pace pace // that the plan was made with
	plan plan
}

// make makes the plan.
func (p *planning) make() {
	if p.look && !p.balancing {
		p.balancing = p.wheres.assign(p.state, p.loads, p.begin).balancing > 0
	}
	p.pace = pace{moving: p.moving, tolerance: endBalancing}
	if p.balancing {
		p.pace.balancing = int(p.budget)
	}
	p.plan = p.wheres.assign(p.state, p.loads, p.pace)
}

// plan begins a plan for a state at now, or returns nil if there is a rest of one.
func (c *controller) plan(declared *State, now time.Time) *planning {
	s := c.confirmed(declared)
	c.budget, c.filled = c.filledBy(now), now
	b := basisOf(s)
	if b.nodes != c.basis.nodes {
		c.queue = nil // it counts on nodes that are no more, or not on all
	}
	if len(c.queue) > 0 {
		return nil
	}
	p := &planning{
		declared: declared, state: s, loads: c.loads, wheres: c.wheres,
		look:      b != c.basis || now.Sub(c.looked) >= c.cfg.RebalanceInterval,
		balancing: c.balancing,
		begin:     pace{moving: c.cfg.MaxMoves, balancing: 1, tolerance: beginBalancing},
		moving:    c.cfg.MaxMoves, budget: c.budget,
	}
	if p.look {
		c.basis, c.looked = b, now
		c.loads.prune(s)
	}
	c.planning, c.stirred = p, false
	return p
}

// planned takes a plan that has been made, and the loads that were told meanwhile of
// what s has.
func (c *controller) planned(p *planning, s *State) {
	c.planning = nil
	c.queue = p.plan.commands
	c.budget -= float64(p.plan.balancing)
	c.balancing = p.balancing
	c.starved = c.balancing && p.plan.balancing == p.pace.balancing
	if len(c.queue) == 0 && p.plan.moving == 0 && !c.starved {
		c.balancing = false
	}
	if len(c.queue) == 0 && !c.stirred {
		c.idle = p.declared
	}
	for _, loads := range c.told {
		c.note(s, loads)
	}
	c.told = nil
}
