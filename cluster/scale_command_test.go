package cluster

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// settledFleet is 10,000 copies on 3 nodes at rest, declared, with what a node and
// its leader keep of it.
type settledFleet struct {
	state      *State
	index      uint64
	now        time.Time
	session    *Session // of the first node
	controller *controller
}

func newSettledFleet(tb testing.TB, copies int) *settledFleet {
	s, loads := fleetOf(3, copies)
	s.ObjectsRevision = 1
	spec := func(kind, name, body string) {
		s.Objects[kind+"/"+name] = Object{Revision: 1, Spec: json.RawMessage(fmt.Sprintf(`{"kind":%q,"metadata":{"name":%q},"spec":{%s}}`, kind, name, body))}
	}
	for n := range 3 {
		spec("Cluster", fmt.Sprint("cluster-", n), fmt.Sprintf(`"region":"elsewhere-%d"`, n))
	}
	for i, name := range sortedKeys(s.Flows) {
		spec("ReplicationFlow", name, fmt.Sprintf(`"source":"cluster-%d","destination":"cluster-%d"`, i%3, (i+1)%3))
	}
	cfg := DefaultConfig()
	cfg.Name = "node-000"
	f := &settledFleet{state: s, index: 100, now: time.Unix(1e9, 0)}
	f.session = &Session{node: &Node{cfg: cfg}, incarnation: 7, assignments: make(chan []Assignment, 1)}
	f.controller = newController(&cfg, s, "fleet", f.now, 0)
	f.controller.loads = loads
	f.now = f.now.Add(cfg.LeaderGrace + cfg.SessionLease)
	for range 1000 {
		for name := range s.Members {
			f.controller.hear(f.state, heartbeat{Node: name, Incarnation: 7}, f.now)
		}
		c := f.controller.decide(f.state, f.now)
		if c == nil {
			break
		}
		f.apply(tb, c)
		for _, r := range released(f.state) {
			f.apply(tb, r)
		}
	}
	if c := f.controller.decide(f.state, f.now); c != nil {
		tb.Fatalf("the fleet is not at rest: %s", c.kind())
	}
	f.session.offer(f.state)
	return f
}

// released is what the owners say of the work that they are to give back.
func released(s *State) (all []*Release) {
	for _, name := range sortedKeys(s.Members) {
		r := &Release{Node: name, Incarnation: 7}
		s.works(func(w Work, o Owner) {
			if o.Node == name && o.Releasing {
				r.Works = append(r.Works, OwnedWork{Work: w, Epoch: o.Epoch})
			}
		})
		if len(r.Works) > 0 {
			all = append(all, r)
		}
	}
	return all
}

func (f *settledFleet) apply(tb testing.TB, c Command) {
	f.index++
	next, r := f.state.apply(f.index, c)
	if r.Refusal != nil {
		tb.Fatalf("%s: %v", c.kind(), r.Refusal)
	}
	f.state = next
}

// look is what a node and the leader do about a new state.
func (f *settledFleet) look() Command {
	f.session.offer(f.state)
	return f.controller.decide(f.state, f.now)
}

// ordinary are commands that a fleet at rest goes on having.
func ordinary(f *settledFleet) map[string]func(i int) Command {
	mine, others := f.state.AssignmentsOf("node-000", 7), f.state.AssignmentsOf("node-001", 7)
	release := func(a Assignment) Command {
		return &Assign{Release: []OwnedWork{{Work: a.Work, Epoch: a.Epoch}}}
	}
	return map[string]func(i int) Command{
		"a lane": func(i int) Command {
			return &RegisterLane{Lane: Lane{ID: fmt.Sprint("waybill.main.", i%100), ClusterID: "c", Node: "node-000", Incarnation: 7, ProducerID: 1}}
		},
		"a group moves": func(i int) Command {
			return &MoveGroup{Flow: "flow-0001", Group: fmt.Sprint("group-", i%100), Moved: true, Detail: fmt.Sprint(i)}
		},
		"another's copy": func(i int) Command { return release(others[i%len(others)]) },
		"an own copy":    func(i int) Command { return release(mine[i%len(mine)]) },
	}
}

// BenchmarkCommand is what a command costs a node that leads a fleet of 10,000
// copies on 3 nodes: applying it, seeing what it means for the own work, and for the
// assignment.
func BenchmarkCommand(b *testing.B) {
	f := newSettledFleet(b, 10_000)
	at, index := f.state, f.index
	for name, command := range ordinary(f) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			f.state, f.index = at, index
			for i := 0; b.Loop(); i++ {
				f.apply(b, command(i))
				f.look()
				if name == "another's copy" || name == "an own copy" {
					f.state = at // released again
				}
			}
		})
	}
}
