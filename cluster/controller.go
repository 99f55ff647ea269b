package cluster

import (
	"fmt"
	"maps"
	"time"
)

// controller is what a leader remembers and decides: which incarnations are over,
// and where work goes. It has no clock, no goroutine and no I/O, so that a leader
// and the simulation run the same one. It is not safe for concurrent use.
type controller struct {
	cfg     *Config // its durations and bounds of moves
	fleetID string  // for a fleet that has none
	leases  *leases
	loads   Loads // as owners have told; those before, where the present one has not yet

	queue     []*Assign // the rest of a plan
	balancing bool      // until nothing is left to move
	looked    time.Time // when it was last looked whether to begin
	basis     basis     // for what
	idle      *State    // in which there was nothing to assign, nil if there is none
	wheres    wheres    // of the flows
	starved   bool      // but for want of a moves' budget

	planning *planning      // the plan that is being made, nil if none is
	stirred  bool           // since it was begun a node was heard that may be given work now
	told     [][]topicLoads // since it was begun: it reads loads

	budget float64 // moves that may be begun
	filled time.Time
}

// basis is what balance depends on besides loads: if it changes it is looked at at
// once.
type basis struct {
	nodes   string // usable, with their incarnations
	objects uint64 // revision
}

// newController begins a leadership over the members of s at now, so long after
// this node heard the leader before it. A leader that hands over answers
// heartbeats until then, and the sessions that they renewed are waited for.
func newController(cfg *Config, s *State, fleetID string, now time.Time, contact time.Duration) *controller {
	grace := max(cfg.LeaderGrace, cfg.SessionLease-contact)
	return &controller{
		cfg:     cfg,
		fleetID: fleetID,
		leases:  newLeases(s.Members, now, grace, cfg.IncarnationTimeout),
		loads:   make(Loads),
		wheres:  make(wheres),
		budget:  float64(cfg.MaxMoves),
		filled:  now,
	}
}

// hear notes a heartbeat that came to the leader at now, and answers it. The
// leader must have heard a majority since it came: an answer renews a lease, and
// a deposed leader has none to give.
func (c *controller) hear(s *State, hb heartbeat, now time.Time) heartbeatAnswer {
	if _, ok := s.Members[hb.Node]; !ok {
		return heartbeatAnswer{Removed: true}
	}
	ended := hb.Incarnation != 0 && s.Ended(hb.Node, hb.Incarnation)
	incarnation := hb.Incarnation
	if ended {
		incarnation = 0
	}
	if c.leases.beat(hb.Node, incarnation, now) {
		c.idle, c.stirred = nil, true // it may be given work now
	}
	switch {
	case ended || len(hb.Loads) == 0:
	case c.planning != nil:
		c.told = append(c.told, hb.Loads)
	default:
		c.note(s, hb.Loads)
	}
	return heartbeatAnswer{Ended: ended}
}

// confirmed is a state in which only those nodes may be given work that have been
// heard in their present incarnation. One whose disk is full is granted incarnations
// and never sees them, nor any work.
func (c *controller) confirmed(s *State) *State {
	var members map[string]Member
	for name, m := range s.Members {
		if m.Incarnation == 0 || c.leases.confirmed(name, m.Incarnation) {
			continue
		}
		if members == nil {
			members = maps.Clone(s.Members)
		}
		m.Stopping = true
		members[name] = m
	}
	if members == nil {
		return s
	}
	view := *s
	view.Members = members
	return &view
}

// decide returns the next command that a state needs at now, or nil. It makes the
// plan that this takes.
func (c *controller) decide(s *State, now time.Time) Command {
	command, p := c.next(s, now)
	if p == nil {
		return command
	}
	p.make()
	c.planned(p, s)
	if len(c.queue) == 0 {
		return nil
	}
	command, _ = c.next(s, now)
	return command
}

// next returns the next command that a state needs at now, or a plan that is to be
// made and given to planned first, or neither.
func (c *controller) next(s *State, now time.Time) (Command, *planning) {
	if s.FleetID == "" {
		return &InitFleet{FleetID: c.fleetID}, nil
	}
	gone := c.leases.expired(s.Members, now)
	for _, name := range sortedKeys(gone) {
		return &EndIncarnation{Node: name, Incarnation: gone[name], Reason: "silent"}, nil
	}
	if c.planning != nil || !c.leases.settled(s.Members, now) || c.nothingToDo(s, now) {
		return nil, nil
	}
	if p := c.plan(s, now); p != nil {
		return nil, p
	}
	for len(c.queue) > 0 {
		next := c.allowed(s, c.queue[0])
		c.queue = c.queue[1:]
		if len(next.Place)+len(next.Release) > 0 {
			return next, nil
		}
	}
	return nil, nil
}

// allowed is a command of a plan without the work of flows that have been pinned
// elsewhere since the plan was begun. That is not looked at when it is applied, which
// has to be the same in all versions.
func (c *controller) allowed(s *State, planned *Assign) *Assign {
	if s.ObjectsRevision == c.basis.objects {
		return planned
	}
	still := &Assign{Release: planned.Release}
	for _, p := range planned.Place {
		if w := c.wheres.of(s, p.Work.Name); p.Work.Kind == WorkRunbook || w.allows(s.Members[p.Node]) {
			still.Place = append(still.Place, p)
		}
	}
	return still
}

// note takes what a node says of its copies' loads.
func (c *controller) note(s *State, told []topicLoads) {
	for _, t := range told {
		f := s.Flows[t.Flow]
		if f == nil || f.Topics[t.Topic] == nil {
			continue // it is gone by now
		}
		for i, p := range t.Partitions[:min(len(t.Partitions), len(t.Levels))] {
			if p >= 0 && int(p) < len(f.Topics[t.Topic].Owners) {
				c.loads.Set(t.Flow, t.Topic, p, rateOf(t.Levels[i]))
			}
		}
	}
}

// nothingToDo reports whether a state, or one from which it does not differ in what
// assign looks at, has been looked at and neither time nor another budget makes a
// difference.
func (c *controller) nothingToDo(s *State, now time.Time) bool {
	if len(c.queue) > 0 || c.idle == nil {
		return false
	}
	if differ := changesBetween(c.idle, s); differ.assignment() {
		c.idle = nil
		return false
	}
	c.idle = s
	if c.balancing {
		return !c.starved || c.filledBy(now) < 1
	}
	return now.Sub(c.looked) < c.cfg.RebalanceInterval
}

// filledBy is the budget of moves at now.
func (c *controller) filledBy(now time.Time) float64 {
	perSecond := float64(c.cfg.MovesPerMinute) / 60
	return min(float64(c.cfg.MaxMoves), c.budget+perSecond*now.Sub(c.filled).Seconds())
}

// Balance is looked at when nodes come or go, when declarations change, and every
// RebalanceInterval. It has two thresholds, so that loads that swing between them move
// nothing: balancing begins when two nodes are further apart than the first, and goes on
// until they are within the second. Both are shares of what a node has on average.
const (
	beginBalancing = 0.25
	endBalancing   = 0.10
)

func basisOf(s *State) basis {
	b := basis{objects: s.ObjectsRevision}
	for _, name := range sortedKeys(s.Members) {
		if m := s.Members[name]; m.usable() {
			b.nodes += fmt.Sprintf("%s %d\n", name, m.Incarnation)
		}
	}
	return b
}

// fleetStatus is the fleet as its leader sees it: alive are those that it hears, and
// rates appends what it knows that a topic's copies move.
func (s *State) fleetStatus(revision uint64, alive map[string]bool, rates func(known []float32, flow, topic string) []float32) FleetStatus {
	fs := FleetStatus{Revision: revision, Works: []WorkStatus{}}
	owned := make(map[string]NodeStatus)
	note := func(o Owner, rate float32) {
		n := owned[o.Node]
		n.Works++
		n.BytesPerSecond += float64(rate)
		owned[o.Node] = n
	}
	for _, e := range s.Executions {
		note(e.Owner, 0)
	}
	var known []float32
	for name, f := range s.Flows {
		note(f.Duty, 0)
		for topic, t := range f.Topics {
			known = rates(known[:0], name, topic)
			for p, o := range t.Owners {
				var rate float32
				if p < len(known) {
					rate = known[p]
				}
				note(o, rate)
			}
		}
	}
	for _, name := range sortedKeys(s.Members) {
		n := owned[name]
		n.Member, n.Alive = s.Members[name], alive[name]
		fs.Nodes = append(fs.Nodes, n)
	}
	return fs
}
