package cluster

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// simMutant is a decision that is made wrongly. The zero one is none.
type simMutant struct {
	name string
	// want is what the simulation must say of it, in part: one of several.
	want []string
	// only restricts what happens to the fleet, so that it is found soon.
	only []string

	// Broken parts of the pure core.
	onApply  func(n *simNode, s *State, index uint64, c Command) *State // nil: as it should be
	onEncode func(s *State) *State
	onDecide func(c *controller, s *State, revision uint64, now time.Time) Command

	commitAlone   bool // an entry is committed by its leader alone
	unclearIsDone bool // an unclear proposal counts as applied
	noGrace       bool // a new leader does not wait for heartbeats
	answersAlone  bool // a leader without a majority leads on, and answers heartbeats
	noLease       bool // a session never ends by itself
	lateLeader    bool // what a leader proposes may reach the next one
	noFence       bool // a takeover does not fence
	releaseEarly  bool // work is released before its last write is answered
}

func (m *simMutant) apply(n *simNode, s *State, index uint64, data []byte) (*State, []byte, error) {
	if m.onApply != nil {
		c, err := decodeCommand(data)
		if err != nil {
			return s, nil, err
		}
		if next := m.onApply(n, s, index, c); next != nil {
			return next, []byte(`{}`), nil
		}
	}
	return machine{}.Apply(s, index, data)
}

func (m *simMutant) encode(s *State) ([]byte, error) {
	if m.onEncode != nil {
		s = m.onEncode(s)
	}
	return machine{}.Encode(s)
}

func (m *simMutant) decide(c *controller, s *State, revision uint64, now time.Time) Command {
	if m.onDecide != nil {
		return m.onDecide(c, s, revision, now)
	}
	return c.decide(s, now)
}

// simMutants are faults that the fleet could have, most of them those of others.
var simMutants = []simMutant{
	{name: "work is given to a node while another has it", want: []string{"had it"}, onApply: func(_ *simNode, s *State, index uint64, c Command) *State {
		a, ok := c.(*Assign)
		if !ok {
			return nil
		}
		d := newDraft(s)
		for _, p := range a.Place {
			if o := d.owner(p.Work); o != nil && d.wanted(p.Work) && d.Members[p.Node].usable() {
				*o = Owner{Node: p.Node, Incarnation: d.Members[p.Node].Incarnation, Epoch: index}
			}
		}
		for _, r := range a.Release { // and is moved at once
			if o := d.owner(r.Work); o != nil && o.Node != "" && o.Epoch == r.Epoch {
				for _, name := range sortedKeys(d.Members) {
					if m := d.Members[name]; m.usable() && name != o.Node {
						*o = Owner{Node: name, Incarnation: m.Incarnation, Epoch: index}
						break
					}
				}
			}
		}
		return d.done()
	}},
	{name: "an epoch is given out again", want: []string{"there was"}, onApply: func(_ *simNode, s *State, index uint64, c Command) *State {
		a, ok := c.(*Assign)
		if !ok {
			return nil
		}
		d := newDraft(s)
		if _, err := a.apply(d, index); err != nil {
			return nil
		}
		for _, p := range a.Place {
			if o, ok := s.Owner(p.Work); ok && o.Epoch > 0 && o.Node == "" {
				if now := d.owner(p.Work); now.Node != "" {
					now.Epoch = o.Epoch
				}
			}
		}
		return d.done()
	}},
	{name: "the end of an incarnation forgets its lanes", want: []string{"is not fenced", "wrote at"}, onApply: func(_ *simNode, s *State, index uint64, c Command) *State {
		var node string
		switch c := c.(type) {
		case *EndIncarnation:
			node = c.Node
		case *BeginIncarnation:
			node = c.Node
		default:
			return nil
		}
		d := newDraft(s)
		if number, err := c.apply(d, index); err != nil || number != 0 && number != index {
			return nil
		}
		for id, l := range s.Lanes {
			if l.Node == node && d.Ended(node, l.Incarnation) {
				delete(d.lanes(), id)
			}
		}
		next, _ := s.apply(index, c)
		kept := *next
		kept.Lanes = d.Lanes
		return numbered(&kept, c)
	}},
	{name: "a node of an ended incarnation registers a lane", want: []string{"wrote at"}, onApply: func(_ *simNode, s *State, _ uint64, c Command) *State {
		r, ok := c.(*RegisterLane)
		if !ok {
			return nil
		}
		d := newDraft(s)
		d.lanes()[r.Lane.ID] = r.Lane
		return d.done()
	}},
	{name: "a node that was replaced releases what is another's", want: []string{"has not released it", "is not fenced", "wrote at", "owners changed", "still moves", "has died"}, onApply: func(_ *simNode, s *State, _ uint64, c Command) *State {
		r, ok := c.(*Release)
		if !ok {
			return nil
		}
		d := newDraft(s)
		var freed []Work
		for _, w := range r.Works {
			if o := d.owner(w.Work); o != nil && o.Node != "" {
				o.free()
				freed = append(freed, w.Work)
			}
		}
		d.sweep(freed)
		return d.done()
	}},
	{name: "the state depends on the node that applies", want: []string{"is not that of others"}, onApply: func(n *simNode, s *State, index uint64, c Command) *State {
		if _, ok := c.(*MoveGroup); !ok {
			return nil
		}
		next, _ := s.apply(index, c)
		changed := *next
		changed.ObjectsRevision += uint64(n.id)
		return &changed
	}},
	{name: "a snapshot forgets groups", want: []string{"is not that of others"}, onEncode: func(s *State) *State {
		less := *s
		less.Flows = maps.Clone(s.Flows)
		for name, f := range less.Flows {
			g := *f
			g.MovedGroups = nil
			less.Flows[name] = &g
		}
		return &less
	}},
	{name: "a step of a runbook is taken twice", want: []string{"goes to step"}, onApply: func(_ *simNode, s *State, index uint64, c Command) *State {
		p, ok := c.(*PutExecution)
		if !ok || s.Executions[p.ID] == nil || p.Expect == 0 {
			return nil
		}
		d := newDraft(s)
		e := d.execution(p.ID)
		e.Data, e.Revision = p.Data, index
		return d.done()
	}},
	{name: "the leader ends nobody", want: []string{"has died"}, onDecide: func(c *controller, s *State, revision uint64, now time.Time) Command {
		for name, m := range s.Members {
			c.leases.beat(name, m.Incarnation, now)
		}
		return c.decide(s, now)
	}},
	{name: "the leader gives nothing to who comes back", want: []string{"not well"}, onDecide: func(c *controller, s *State, revision uint64, now time.Time) Command {
		command := c.decide(s, now)
		if a, ok := command.(*Assign); ok && revision > 40 {
			a.Place = nil
			if len(a.Release) == 0 {
				return nil
			}
		}
		return command
	}},
	{name: "the leader moves something again and again", want: []string{"owners changed", "still moves"}, onDecide: func(c *controller, s *State, revision uint64, now time.Time) Command {
		if command := c.decide(s, now); command != nil {
			return command
		}
		if now.Sub(simBegin)%(3*time.Second) < 100*time.Millisecond {
			for _, name := range sortedKeys(s.Members) {
				for _, a := range s.AssignmentsOf(name, s.Members[name].Incarnation) {
					if a.Work.Kind == WorkCopy && !a.Releasing {
						return &Assign{Release: []OwnedWork{{a.Work, a.Epoch}}}
					}
				}
			}
		}
		return nil
	}},
	{name: "an entry is committed by its leader alone", want: []string{"entry", "is at revision", "is not that of others"}, commitAlone: true},
	{name: "an unclear proposal counts as applied", want: []string{"was told"}, unclearIsDone: true},
	{name: "a new leader does not wait for heartbeats", want: []string{"its session went on"}, noGrace: true},
	{name: "a leader that has lost its majority answers heartbeats", want: []string{"its session went on"}, only: []string{"split"}, answersAlone: true},
	{name: "a session never ends by itself", want: []string{"its session went on"}, noLease: true},
	{name: "what a late leader proposes reaches the next one", want: []string{"its session went on"}, only: []string{"leader", "pause"}, lateLeader: true},
	{name: "a takeover does not fence", want: []string{"is not fenced"}, noFence: true},
	{name: "work is released before its last write is answered", want: []string{"the copy ends at", "wrote at"}, releaseEarly: true},
}

// numbered returns s if the result of c does not matter to who proposed it.
func numbered(s *State, c Command) *State {
	if _, ok := c.(*BeginIncarnation); ok {
		return nil
	}
	return s
}

// Faults are found: each mutant breaks a promise within some seeds, and the one that
// it must break.
func TestSimulationFindsFaults(t *testing.T) {
	const seeds = 60
	for _, m := range simMutants {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= seeds; seed++ {
				s := simulate(seed, planOf(seed, m.only...), &m, false)
				if s.failure == "" {
					continue
				}
				if !slices.ContainsFunc(m.want, func(part string) bool { return strings.Contains(s.failure, part) }) {
					t.Errorf("seed %d: found %q, want one with %q", seed, s.failure, m.want)
				}
				t.Logf("seed %d: %s", seed, s.failure)
				return
			}
			t.Errorf("not found in %d seeds", seeds)
		})
	}
}

// A plan is shrunk to what breaks the promise, and breaks it again.
func TestSimulationShrinks(t *testing.T) {
	m := &simMutant{noFence: true}
	for seed := uint64(1); ; seed++ {
		whole := planOf(seed)
		if simulate(seed, whole, m, false).failure == "" {
			continue
		}
		least := shrink(seed, whole, m)
		if len(least) > 5 || simulate(seed, least, m, false).failure == "" {
			t.Errorf("seed %d: %d actions of %d are left: %v", seed, len(least), len(whole), least)
		}
		text := explain(seed, m)
		if !strings.Contains(text, "make sim SEED=") || !strings.Contains(text, "BROKEN") {
			t.Errorf("it is explained as %s", text)
		}
		return
	}
}
