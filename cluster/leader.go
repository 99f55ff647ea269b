package cluster

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"
)

// leadTick is how often the leader looks at its leases. It adds to the time of a
// takeover.
const leadTick = 100 * time.Millisecond

// proposeTimeout bounds one proposal of the leader's: it has the majority at hand
// or is about to be deposed.
const proposeTimeout = 2 * time.Second

// verifyEvery is how often the leader asks at most whether it still leads. Heartbeats
// wait for it that long, in a large fleet only: their leases count from when they were
// sent, and who is silent from when he was heard.
const verifyEvery = 25 * time.Millisecond

// leader runs a controller while its node leads.
type leader struct {
	node   *Node
	leads  *rounds        // whether it does
	plans  chan *planning // that have been made; has room for the one
	making sync.WaitGroup

	mu         sync.Mutex // never held while a plan is made
	controller *controller
}

// lead runs while this node leads.
func (n *Node) lead(ctx context.Context) error {
	now := time.Now()
	// A leader that is deposed while a plan is made is there until that is done, and
	// answers again if it is elected meanwhile.
	contact := min(n.raft.SinceContact(), now.Sub(n.heardTo))
	l := &leader{
		node: n, leads: newRounds(verifyEvery, n.raft.VerifyLeader), plans: make(chan *planning, 1),
		controller: newController(&n.cfg, n.State(), n.raft.Group(), now, contact),
	}
	n.leading.Store(l)
	defer func() {
		n.leading.Store(nil)
		n.heardTo = time.Now()
	}()
	poke(n.beatNow)
	n.log.Info("leading the fleet")
	l.run(ctx)
	return nil
}

func (l *leader) run(ctx context.Context) {
	tick := time.NewTicker(leadTick)
	defer tick.Stop()
	defer l.making.Wait()
	gone := make(departures)
	var last Command
	for {
		state, _, newer := l.node.replica.Watch()
		command := l.decide(state)
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
			l.forget(ctx, gone)
		case <-newer:
		case p := <-l.plans:
			l.planned(p)
		case <-ctx.Done():
			return
		}
	}
}

// forget removes from the state whom the raft group does not have any more.
func (l *leader) forget(ctx context.Context, gone departures) {
	members, err := l.node.raft.Members(ctx)
	if err != nil {
		return
	}
	s := l.node.State()
	for _, name := range gone.due(s.Members, members, time.Now()) {
		_ = l.node.raft.WhileAbsent(name, func() error { // propose logs why not
			l.propose(ctx, s.removalOf(name))
			return nil
		})
	}
}

// propose logs what fails and is not just the end of leadership: decide will come
// to it again.
func (l *leader) propose(ctx context.Context, c Command) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	if err := l.node.proposeLeading(ctx, c); err != nil && !errors.Is(err, context.Canceled) {
		l.node.log.Warn("leader's proposal", "command", c.kind(), "error", err)
		select {
		case <-time.After(leadTick):
		case <-ctx.Done():
		}
	}
}

// decide returns the next command that the state needs, or nil. If that takes a plan,
// it has one made.
func (l *leader) decide(s *State) Command {
	l.mu.Lock()
	defer l.mu.Unlock()
	command, p := l.controller.next(s, time.Now())
	if end, ok := command.(*EndIncarnation); ok {
		l.node.log.Warn("node is silent; ending its incarnation", "name", end.Node, "incarnation", end.Incarnation)
	}
	if p != nil {
		l.making.Go(func() {
			if hook := l.node.cfg.planning; hook != nil {
				hook()
			}
			p.make()
			l.plans <- p
		})
	}
	return command
}

func (l *leader) planned(p *planning) {
	s := l.node.State()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.controller.planned(p, s)
}

// hear takes a heartbeat. It answers only if this node still leads: an answer
// renews a lease, and a deposed leader has none to give.
func (l *leader) hear(ctx context.Context, hb heartbeat) (heartbeatAnswer, error) {
	if err := l.leads.join(ctx); err != nil {
		return heartbeatAnswer{}, err
	}
	s := l.node.State()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.controller.hear(s, hb, time.Now()), nil
}

// FleetStatus is the fleet as its leader sees it.
type FleetStatus struct {
	Leader   string       `json:"leader"`
	Revision uint64       `json:"revision"`
	Nodes    []NodeStatus `json:"nodes"`
	// Works are what the owners that answered say of their work, in order.
	Works []WorkStatus `json:"works"`
}

// NodeStatus is one node as the leader sees it.
type NodeStatus struct {
	Member
	// Alive: it was heard within IncarnationTimeout.
	Alive bool `json:"alive"`
	// Works is how many pieces of work it owns.
	Works int `json:"works"`
	// BytesPerSecond is what its copies move together, as the assignment weighs
	// them.
	BytesPerSecond float64 `json:"bytesPerSecond"`
	// Problem says why it was not heard how its work is doing.
	Problem string `json:"problem,omitempty"`
}

// fleetStatus walks over all work, which takes its time in a large fleet: heartbeats do
// not wait for that.
func (l *leader) fleetStatus() FleetStatus {
	s, revision := l.node.replica.Current()
	alive := l.alive(s, time.Now())
	fs := s.fleetStatus(revision, alive, l.rates)
	fs.Leader = l.node.cfg.Name
	return fs
}

// alive are the members that were heard of late.
func (l *leader) alive(s *State, now time.Time) map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	alive := make(map[string]bool, len(s.Members))
	for name := range s.Members {
		alive[name] = l.controller.leases.alive(name, now)
	}
	return alive
}

// rates appends what is known of a topic's copies, which the next heartbeat may change.
func (l *leader) rates(known []float32, flow, topic string) []float32 {
	if hook := l.node.cfg.reckoning; hook != nil {
		hook()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(known, l.controller.loads.of(flow, topic)...)
}

// FleetStatus asks the leader how the fleet is doing, and the nodes how their work
// is. It waits for a leader until ctx ends, and for each node a moment; see
// NodeStatus.Problem.
func (n *Node) FleetStatus(ctx context.Context) (FleetStatus, error) {
	fs, err := n.askLeader(ctx)
	if err != nil {
		return fs, err
	}
	ctx, cancel := context.WithTimeout(ctx, worksTimeout)
	defer cancel()
	answers, errs := make([]ownWorks, len(fs.Nodes)), make([]error, len(fs.Nodes))
	var asking sync.WaitGroup
	for i, node := range fs.Nodes {
		switch {
		case node.Name == n.cfg.Name:
			answers[i] = n.ownWorks()
		case node.Incarnation != 0 && node.Alive:
			asking.Go(func() { errs[i] = n.call(ctx, http.MethodGet, node.Name, worksPath, nil, &answers[i]) })
		}
	}
	asking.Wait()
	s := n.State()
	for i := range fs.Nodes {
		if errs[i] != nil {
			fs.Nodes[i].Problem = errs[i].Error()
		}
		for _, w := range answers[i].Works {
			// Who reports work that it no longer owns has not heard of it yet.
			if o, ok := s.Owner(w.Work); ok && o.Node == fs.Nodes[i].Name && o.Incarnation == answers[i].Incarnation && o.Epoch == w.Epoch {
				w.Node = o.Node
				fs.Works = append(fs.Works, w)
			}
		}
	}
	slices.SortStableFunc(fs.Works, func(a, b WorkStatus) int { return a.Work.compare(b.Work) })
	return fs, nil
}

// askLeader asks the leader for the fleet's status, without works.
func (n *Node) askLeader(ctx context.Context) (FleetStatus, error) {
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
