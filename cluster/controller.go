package cluster

import (
	"slices"
	"time"
)

// controller is what a leader remembers and decides: which incarnations are over,
// and where work goes. It has no clock, no goroutine and no I/O, so that a leader
// and the simulation run the same one. It is not safe for concurrent use.
type controller struct {
	cfg     *Config // its durations and MaxMoves
	fleetID string  // for a fleet that has none
	leases  *leases
	reports map[string]report // by node

	balancing bool      // until nothing is left to move
	balanced  time.Time // when balancing was last turned on
	usable    []string  // the nodes that it was done for
	idle      uint64    // the revision at which there was nothing to assign
}

// report is what a node last said of its work.
type report struct {
	incarnation uint64
	works       []WorkStatus
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
		reports: make(map[string]report),
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
	c.leases.beat(hb.Node, incarnation, now)
	if hb.Report && !ended {
		c.reports[hb.Node] = report{incarnation: hb.Incarnation, works: hb.Works}
	}
	return heartbeatAnswer{Ended: ended}
}

// decide returns the next command that a state needs at now, or nil.
func (c *controller) decide(s *State, revision uint64, now time.Time) Command {
	if s.FleetID == "" {
		return &InitFleet{FleetID: c.fleetID}
	}
	gone := c.leases.expired(s.Members, now)
	for _, name := range sortedKeys(gone) {
		return &EndIncarnation{Node: name, Incarnation: gone[name], Reason: "silent"}
	}
	if !c.leases.settled(s.Members, now) || c.nothingToDo(revision, now) {
		return nil
	}
	loads := c.loads(s)
	if change := assign(s, loads, c.moves(s, loads, now)); change != nil {
		return change
	}
	c.idle = revision
	return nil
}

// nothingToDo reports whether a state has been looked at and load is not due.
func (c *controller) nothingToDo(revision uint64, now time.Time) bool {
	return c.idle == revision && !c.balancing && now.Sub(c.balanced) < c.cfg.RebalanceInterval
}

// moves returns how many copies may be on the move. Looking for moves begins when
// nodes come or go and every RebalanceInterval, and goes on until none is left:
// so loads that swing do not move copies back and forth.
func (c *controller) moves(s *State, loads Loads, now time.Time) int {
	var usable []string
	for _, name := range sortedKeys(s.Members) {
		if s.Members[name].usable() {
			usable = append(usable, name)
		}
	}
	if !slices.Equal(usable, c.usable) || now.Sub(c.balanced) >= c.cfg.RebalanceInterval {
		c.usable, c.balancing, c.balanced = usable, true, now
	}
	if !c.balancing {
		return 0
	}
	releasing := false
	s.works(func(_ Work, o Owner) { releasing = releasing || o.Releasing })
	if !releasing && assign(s, loads, c.cfg.MaxMoves) == nil {
		c.balancing = false
		return 0
	}
	return c.cfg.MaxMoves
}

// loads returns the rates of the copies whose owners have reported them.
func (c *controller) loads(s *State) Loads {
	loads := make(Loads)
	for name, r := range c.reports {
		if s.Ended(name, r.incarnation) {
			continue
		}
		for _, w := range r.works {
			loads[w.Work] = w.BytesPerSecond
		}
	}
	return loads
}

// status is the fleet as its leader sees it at now.
func (c *controller) status(s *State, revision uint64, now time.Time) FleetStatus {
	fs := FleetStatus{Revision: revision, Works: []WorkStatus{}}
	owned := make(map[string]int)
	s.works(func(_ Work, o Owner) {
		if o.Node != "" {
			owned[o.Node]++
		}
	})
	for _, name := range sortedKeys(s.Members) {
		fs.Nodes = append(fs.Nodes, NodeStatus{Member: s.Members[name], Alive: c.leases.alive(name, now), Works: owned[name]})
	}
	for _, name := range sortedKeys(c.reports) {
		r := c.reports[name]
		for _, w := range r.works {
			// Who reports work that it no longer owns has not heard of it yet.
			if o, ok := s.Owner(w.Work); ok && o.Node == name && o.Incarnation == r.incarnation && o.Epoch == w.Epoch {
				w.Node = name
				fs.Works = append(fs.Works, w)
			}
		}
	}
	slices.SortFunc(fs.Works, func(a, b WorkStatus) int { return a.Work.compare(b.Work) })
	return fs
}
