package cluster

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// leadTick is how often the leader looks at its leases. It adds to the time of a
// takeover.
const leadTick = 100 * time.Millisecond

// proposeTimeout bounds one proposal of the leader's: it has the majority at hand
// or is about to be deposed.
const proposeTimeout = 2 * time.Second

// leader is what a node does and remembers while it leads.
type leader struct {
	node *Node

	mu      sync.Mutex
	leases  *leases
	reports map[string]report // by node

	// Used by run only. balancing is on until nothing is left to move.
	balancing bool
	balanced  time.Time // when it was last turned on
	usable    []string  // the nodes that it was done for
	idle      uint64    // the revision at which there was nothing to assign
}

// report is what a node last said of its work.
type report struct {
	incarnation uint64
	works       []WorkStatus
}

// lead runs while this node leads.
func (n *Node) lead(ctx context.Context) error {
	l := &leader{
		node:    n,
		leases:  newLeases(n.State().Members, time.Now(), n.cfg.LeaderGrace, n.cfg.IncarnationTimeout),
		reports: make(map[string]report),
	}
	n.leading.Store(l)
	defer n.leading.Store(nil)
	poke(n.beatNow)
	n.log.Info("leading the fleet")
	l.run(ctx)
	return nil
}

func (l *leader) run(ctx context.Context) {
	tick := time.NewTicker(leadTick)
	defer tick.Stop()
	var last Command
	for {
		state, revision, newer := l.node.replica.Watch()
		command := l.decide(state, revision, time.Now())
		if command != nil && !reflect.DeepEqual(command, last) {
			l.propose(ctx, command)
			last = command
			if ctx.Err() == nil {
				continue // with what it has led to
			}
		}
		last = nil // one that is needed again is not proposed again before a tick
		select {
		case <-tick.C:
		case <-newer:
		case <-ctx.Done():
			return
		}
	}
}

// propose logs what fails and is not just the end of leadership: decide will come
// to it again.
func (l *leader) propose(ctx context.Context, c Command) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	if _, err := l.node.propose(ctx, c); err != nil && !errors.Is(err, context.Canceled) {
		l.node.log.Warn("leader's proposal", "command", c.kind(), "error", err)
		select {
		case <-time.After(leadTick):
		case <-ctx.Done():
		}
	}
}

// decide returns the next command that the state needs, or nil.
func (l *leader) decide(s *State, revision uint64, now time.Time) Command {
	if s.FleetID == "" {
		return &InitFleet{FleetID: uuid.NewString()}
	}
	l.mu.Lock()
	gone := l.leases.expired(s.Members, now)
	settled := l.leases.settled(s.Members, now)
	loads := l.loads(s)
	l.mu.Unlock()
	for _, name := range sortedKeys(gone) {
		l.node.log.Warn("node is silent; ending its incarnation", "name", name, "incarnation", gone[name])
		return &EndIncarnation{Node: name, Incarnation: gone[name], Reason: "silent"}
	}
	if !settled || l.nothingToDo(revision, now) {
		return nil
	}
	if change := assign(s, loads, l.moves(s, loads, now)); change != nil {
		return change
	}
	l.idle = revision
	return nil
}

// nothingToDo reports whether a state has been looked at and load is not due.
func (l *leader) nothingToDo(revision uint64, now time.Time) bool {
	return l.idle == revision && !l.balancing && now.Sub(l.balanced) < l.node.cfg.RebalanceInterval
}

// moves returns how many copies may be on the move. Looking for moves begins when
// nodes come or go and every RebalanceInterval, and goes on until none is left:
// so loads that swing do not move copies back and forth.
func (l *leader) moves(s *State, loads Loads, now time.Time) int {
	var usable []string
	for _, name := range sortedKeys(s.Members) {
		if s.Members[name].usable() {
			usable = append(usable, name)
		}
	}
	if !slices.Equal(usable, l.usable) || now.Sub(l.balanced) >= l.node.cfg.RebalanceInterval {
		l.usable, l.balancing, l.balanced = usable, true, now
	}
	if !l.balancing {
		return 0
	}
	releasing := false
	s.works(func(_ Work, o Owner) { releasing = releasing || o.Releasing })
	if !releasing && assign(s, loads, l.node.cfg.MaxMoves) == nil {
		l.balancing = false
		return 0
	}
	return l.node.cfg.MaxMoves
}

// loads returns the rates of the copies whose owners have reported them.
func (l *leader) loads(s *State) Loads {
	loads := make(Loads)
	for name, r := range l.reports {
		if s.Ended(name, r.incarnation) {
			continue
		}
		for _, w := range r.works {
			loads[w.Work] = w.BytesPerSecond
		}
	}
	return loads
}

// hear takes a heartbeat. It answers only if this node still leads: an answer
// renews a lease, and a deposed leader has none to give.
func (l *leader) hear(ctx context.Context, hb heartbeat) (heartbeatAnswer, error) {
	if err := l.node.raft.VerifyLeader(ctx); err != nil {
		return heartbeatAnswer{}, err
	}
	s := l.node.State()
	if _, ok := s.Members[hb.Node]; !ok {
		return heartbeatAnswer{Removed: true}, nil
	}
	ended := hb.Incarnation != 0 && s.Ended(hb.Node, hb.Incarnation)
	incarnation := hb.Incarnation
	if ended {
		incarnation = 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases.beat(hb.Node, incarnation, time.Now())
	if hb.Report && !ended {
		l.reports[hb.Node] = report{incarnation: hb.Incarnation, works: hb.Works}
	}
	return heartbeatAnswer{Ended: ended}, nil
}

// FleetStatus is the fleet as its leader sees it.
type FleetStatus struct {
	Leader   string       `json:"leader"`
	Revision uint64       `json:"revision"`
	Nodes    []NodeStatus `json:"nodes"`
	// Works are the last reports of all owners, in order.
	Works []WorkStatus `json:"works"`
}

// NodeStatus is one node as the leader sees it.
type NodeStatus struct {
	Member
	// Alive: it was heard within IncarnationTimeout.
	Alive bool `json:"alive"`
	// Works is how many pieces of work it owns.
	Works int `json:"works"`
}

func (l *leader) fleetStatus() FleetStatus {
	s, revision := l.node.replica.Current()
	fs := FleetStatus{Leader: l.node.cfg.Name, Revision: revision, Works: []WorkStatus{}}
	owned := make(map[string]int)
	s.works(func(_ Work, o Owner) {
		if o.Node != "" {
			owned[o.Node]++
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, name := range sortedKeys(s.Members) {
		fs.Nodes = append(fs.Nodes, NodeStatus{Member: s.Members[name], Alive: l.leases.alive(name, now), Works: owned[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(l.reports)) {
		r := l.reports[name]
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

// FleetStatus asks the leader how the fleet and all its work are doing. It waits
// for a leader until ctx ends.
func (n *Node) FleetStatus(ctx context.Context) (FleetStatus, error) {
	for {
		if l := n.leading.Load(); l != nil {
			return l.fleetStatus(), nil
		}
		err := error(ErrNoLeader)
		if leader := n.Leader(); leader != "" && leader != n.cfg.Name {
			var fs FleetStatus
			if err = n.call(ctx, "GET", leader, statusPath, nil, &fs); err == nil {
				return fs, nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-n.stopped:
			return FleetStatus{}, ErrStopped
		case <-ctx.Done():
			return FleetStatus{}, errors.Join(context.Cause(ctx), err)
		}
	}
}
