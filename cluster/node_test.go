package cluster

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

func TestFleetSharesWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		nodes := f.three()
		f.sameState(nodes)
		if s := nodes[0].State(); s.FleetID == "" || s.Members["b"].APIAddr != "b:8080" {
			t.Errorf("state is %+v", s)
		}
		f.await("reports of 12 copies", func() bool {
			for _, n := range nodes {
				fs, err := n.FleetStatus(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				copies := 0
				for _, w := range fs.Works {
					if w.Work.Kind == WorkCopy && w.State == "running" && w.Node != "" {
						copies++
					}
				}
				if copies != 12 || len(fs.Nodes) != 3 || !fs.Nodes[0].Alive {
					return false
				}
			}
			return true
		})
		for _, n := range nodes {
			if ends := n.ended(); len(ends) != 0 {
				t.Errorf("%s lost sessions: %v", n.Name(), ends)
			}
		}
	})
}

// A killed node's process is gone at once; a cut one goes on believing. Here both
// are told apart only by what the node itself does.
func testTakeover(t *testing.T, chooseLeader bool) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		nodes := f.three()
		victim := f.leader(nodes)
		if !chooseLeader {
			victim = without(nodes, victim)[0]
		}
		rest := without(nodes, victim)
		incarnation := victim.session().Incarnation()
		if err := victim.session().RegisterLane(t.Context(), Lane{ID: "l", ClusterID: "dst", ProducerID: 1}); err != nil {
			t.Fatal(err)
		}

		f.net.Isolate(victim.Name())
		cut := time.Now()
		f.await("a takeover", func() bool {
			for _, n := range rest {
				s := n.State()
				if !s.Ended(victim.Name(), incarnation) || len(s.AssignmentsOf(victim.Name(), incarnation)) > 0 {
					return false
				}
			}
			return f.shared(rest, 12)
		})
		took := time.Since(cut)
		t.Logf("takeover took %s", took)
		limit := 3 * time.Second
		if chooseLeader {
			limit += 2 * victim.cfg.ElectionTimeout // a split vote, once in a hundred
		}
		if took > limit {
			t.Errorf("takeover took %s, want at most %s", took, limit)
		}
		for _, n := range rest {
			if got := n.State().LanesToFence("dst"); len(got) != 1 {
				t.Errorf("%s: lanes to fence %v, want the victim's", n.Name(), got)
			}
			if ends := n.ended(); len(ends) != 0 && took < 2500*time.Millisecond {
				t.Errorf("%s lost its session in the takeover: %v", n.Name(), ends)
			}
		}
		ends := victim.ended()
		if len(ends) != 1 || !errors.Is(ends[0].cause, ErrLeaseLost) {
			t.Fatalf("the victim's sessions ended: %+v, want one by ErrLeaseLost", ends)
		}
		if after := ends[0].at.Sub(cut); after > victim.cfg.SessionLease || after > took {
			t.Errorf("the victim stopped after %s, want at most its lease, and before the takeover", after)
		}

		f.net.Heal()
		f.await("the victim to be back", func() bool { return f.shared(nodes, 12) })
		if got := victim.session().Incarnation(); got <= incarnation {
			t.Errorf("its incarnation is %d, was %d", got, incarnation)
		}
		f.sameState(nodes)
	})
}

func TestTakeoverOfFollower(t *testing.T) { testTakeover(t, false) }
func TestTakeoverOfLeader(t *testing.T)   { testTakeover(t, true) }

func TestMinorityGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		nodes := f.three()
		for _, n := range nodes {
			f.net.Isolate(n.Name())
		}
		f.await("everybody to stop", func() bool {
			for _, n := range nodes {
				if len(n.ended()) == 0 {
					return false
				}
			}
			return true
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := nodes[0].Propose(ctx, &MoveGroup{Flow: "orders", Group: "g", Moved: true}); err == nil {
			t.Error("a fleet without a majority agreed to something")
		}
		f.net.Heal()
		f.await("everybody to be back", func() bool { return f.shared(nodes, 12) })
	})
}

func TestCleanStopEndsNoForeignIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		nodes := f.three()
		leaving := f.leader(nodes)
		rest := without(nodes, leaving)
		began := time.Now()
		if err := leaving.end(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("stopping took %s", took)
		}
		if !f.shared(rest, 12) {
			// The last placements may still be on their way.
			f.await("the others to have its work", func() bool { return f.shared(rest, 12) })
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the handover took %s, as long as a failure", took)
		}
		if ends := leaving.ended(); len(ends) != 1 || !errors.Is(ends[0].cause, ErrStopped) {
			t.Errorf("its sessions ended: %+v", ends)
		}
		for _, n := range rest {
			if ends := n.ended(); len(ends) != 0 {
				t.Errorf("%s lost its session: %+v", n.Name(), ends)
			}
			f.await("everybody to know that it has stopped", func() bool {
				m := n.State().Members[leaving.Name()]
				return m.Incarnation == 0 && !m.Stopping
			})
		}
		if _, err := leaving.Session(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("a session of a stopped node: %v", err)
		}
	})
}

func TestDrainAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		nodes := f.three()
		leaving := without(nodes, f.leader(nodes))[0]
		rest := without(nodes, leaving)
		if err := rest[0].Drain(t.Context(), leaving.Name(), true); err != nil {
			t.Fatal(err)
		}
		f.await("it to own nothing", func() bool { return len(leaving.held()) == 0 && f.shared(rest, 12) })
		if ends := leaving.ended(); len(ends) != 0 {
			t.Errorf("draining ended its session: %+v", ends)
		}
		if err := rest[1].Remove(t.Context(), Removal{ID: leaving.Name()}); err != nil {
			t.Fatal(err)
		}
		<-leaving.done
		if !errors.Is(leaving.err, ErrRemoved) {
			t.Errorf("the removed node ended with %v", leaving.err)
		}
		if ends := leaving.ended(); len(ends) != 1 || !errors.Is(ends[0].cause, ErrRemoved) && !errors.Is(ends[0].cause, ErrIncarnationEnded) {
			t.Errorf("its sessions ended: %+v", ends)
		}
		if len(rest[0].State().Members) != 2 {
			t.Errorf("members: %v", rest[0].State().Members)
		}
	})
}

// removalsBy has removals recorded under the name that the context of the call has.
func removalsBy(c *Config) {
	c.Author = func(ctx context.Context) *Author {
		if user, ok := ctx.Value(userKey{}).(string); ok {
			return &Author{User: user, Operation: "removeNode"}
		}
		return nil
	}
}

// A node that comes under the name of one that is being removed, when the group has let
// go of that one and the state not yet, is another node.
func TestASuccessorInTheInstantOfARemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		var between atomic.Pointer[func()]
		f.edit = func(c *Config) {
			removalsBy(c)
			author := c.Author
			c.Author = func(ctx context.Context) *Author { // is asked before each command
				if run := between.Swap(nil); run != nil && author(ctx) != nil {
					(*run)()
				}
				return author(ctx)
			}
		}
		nodes := f.three()
		leader := f.leader(nodes)
		gone := without(nodes, leader)[0]
		f.await("all disks are told", func() bool {
			for _, n := range nodes {
				if leader.State().Members[n.Name()].Disk != n.raft.Disk() {
					return false
				}
			}
			return true
		})
		var heir *testNode
		come := func() {
			<-gone.done
			c := f.config(gone.Name(), leader)
			c.Author = nil
			heir = f.start(c)
			f.await("the next one of the name", func() bool {
				m := leader.State().Members[gone.Name()]
				return m.Disk == heir.raft.Disk() && m.Incarnation != 0
			})
		}
		between.Store(&come)
		if err := leader.Remove(context.WithValue(t.Context(), userKey{}, "ops"), Removal{ID: gone.Name(), Force: true}); err != nil {
			t.Fatal(err)
		}
		if heir == nil {
			t.Fatal("nothing came between the group and the state")
		}
		<-time.After(5 * departureGrace)
		if m := leader.State().Members[gone.Name()]; m.Incarnation == 0 || m.Disk != heir.raft.Disk() {
			t.Errorf("the next one of the name is %+v", m)
		}
		select {
		case <-heir.done:
			t.Errorf("the next one of the name has ended: %v", heir.err)
		default:
		}
		f.await("its share", func() bool { return f.shared(append(without(nodes, gone), heir), 12) })
	})
}

// A node that is asked to remove itself leaves nothing behind, and its name can be used
// again; who asked is in the trail.
func TestRemoveAskedOfItself(t *testing.T) {
	for name, c := range map[string]struct{ leads, force bool }{
		"a follower": {}, "the leader": {leads: true}, "by force": {force: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, raftnode.NewMemoryNetwork())
				f.edit = removalsBy
				nodes := f.three()
				leaving := f.leader(nodes)
				if !c.leads {
					leaving = without(nodes, leaving)[0]
				}
				rest := without(nodes, leaving)
				if err := leaving.Remove(context.WithValue(t.Context(), userKey{}, "ops"), Removal{ID: leaving.Name(), Force: c.force}); err != nil {
					t.Errorf("got %v", err)
				}
				<-leaving.done
				if !errors.Is(leaving.err, ErrRemoved) {
					t.Errorf("it ended with %v", leaving.err)
				}
				for _, n := range rest {
					f.await("it to be forgotten", func() bool {
						_, still := n.State().Members[leaving.Name()]
						return !still
					})
				}
				if trail := askedFor(rest[0].State()); len(trail) == 0 || trail[0].User != "ops" {
					t.Errorf("the trail has %+v", trail)
				}
				f.start(f.config(leaving.Name(), rest[0]))
				f.await("another in its place", func() bool {
					_, member := rest[0].State().Members[leaving.Name()]
					return member
				})
			})
		})
	}
}

func TestDepartures(t *testing.T) {
	known := map[string]Member{"a": {}, "b": {}}
	both, one := []raftnode.Member{{ID: "a"}, {ID: "b"}}, []raftnode.Member{{ID: "a"}}
	d, now := make(departures), time.Unix(1_700_000_000, 0)
	for i, step := range []struct {
		group []raftnode.Member
		after time.Duration
		want  int
	}{
		{both, 0, 0},
		{one, departureGrace, 0},
		{one, departureGrace - 1, 0},
		{both, 1, 0}, // it was taken in again
		{one, departureGrace, 0},
		{one, departureGrace, 1},
		{one, departureGrace, 1}, // until it is done
	} {
		now = now.Add(step.after)
		if got := d.due(known, step.group, now); len(got) != step.want || len(got) > 0 && got[0] != "b" {
			t.Errorf("step %d: %v", i, got)
		}
	}
	if d.due(map[string]Member{"a": {}}, one, now); len(d) != 0 {
		t.Errorf("remembers %v", d)
	}
}

// A removal that raft would refuse changes nothing and leaves nothing in the trail: it
// neither drains the node nor takes a drain of somebody else's from it.
func TestRefusedRemovalChangesNothing(t *testing.T) {
	for _, drained := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, raftnode.NewMemoryNetwork())
			f.edit = removalsBy
			nodes := f.three()
			leader := f.leader(nodes)
			asked, silent := without(nodes, leader)[0], without(nodes, leader)[1]
			if drained {
				if err := leader.Drain(t.Context(), asked.Name(), true); err != nil {
					t.Fatal(err)
				}
			}
			f.net.Isolate(silent.Name())
			f.await("the leader to miss one", func() bool {
				return errors.Is(asked.raft.Removable(t.Context(), Removal{ID: asked.Name()}), raftnode.ErrRefused)
			})
			for _, n := range []*testNode{leader, asked} {
				err := n.Remove(context.WithValue(t.Context(), userKey{}, "ops"), Removal{ID: asked.Name()})
				if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), silent.Name()+" is silent: remove that first") {
					t.Errorf("drained %v, by %s: got %v", drained, n.Name(), err)
				}
			}
			s := leader.State()
			if trail := askedFor(s); len(trail) > 0 {
				t.Errorf("drained %v: the trail has %+v", drained, trail)
			}
			if m := s.Members[asked.Name()]; m.Draining != drained {
				t.Errorf("drained %v: now %v", drained, m.Draining)
			}
			if err := leader.Remove(t.Context(), Removal{ID: silent.Name()}); err != nil {
				t.Errorf("the silent one: %v", err)
			}
		})
	}
}

// A voter that goes silent while the work of a node moves leaves that node in the fleet,
// as it was, or drained if an operator has asked for that meanwhile.
func TestRemovalRefusedWhileWorkMoves(t *testing.T) {
	for _, asked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, raftnode.NewMemoryNetwork())
			nodes := f.three()
			leader := f.leader(nodes)
			leaving, silent := without(nodes, leader)[0], without(nodes, leader)[1]
			f.await("a fleet that tells drains apart", func() bool { return leader.State().Knows(LevelRemovals) })
			gate := make(chan struct{})
			leaving.gate.Store(&gate)
			done := make(chan error, 1)
			go func() { done <- leader.Remove(t.Context(), Removal{ID: leaving.Name()}) }()
			f.await("it to be drained", func() bool { return leader.State().Members[leaving.Name()].Draining })
			if asked {
				if err := leader.Drain(t.Context(), leaving.Name(), true); err != nil {
					t.Fatal(err)
				}
			}
			f.net.Isolate(silent.Name())
			f.await("the leader to miss another", func() bool {
				return errors.Is(leader.raft.Removable(t.Context(), Removal{ID: leaving.Name()}), raftnode.ErrRefused)
			})
			close(gate)
			if err := <-done; !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), silent.Name()+" is silent") {
				t.Errorf("got %v, want ErrConflict", err)
			}
			if m, member := leader.State().Members[leaving.Name()]; !member || m.Draining != asked {
				t.Errorf("a member: %v; drained: %v, an operator asked for it: %v", member, m.Draining, asked)
			}
		})
	}
}

// Who removes a node takes no operator's drain over, and lifts none.
func TestDrainForRemoval(t *testing.T) {
	remove, keep := DrainMember{Name: "a", Draining: true, Removal: true}, DrainMember{Name: "a", Removal: true}
	drain, undrain := DrainMember{Name: "a", Draining: true}, DrainMember{Name: "a"}
	for name, test := range map[string]struct {
		did     []DrainMember
		drained bool
	}{
		"a removal drains":                        {[]DrainMember{remove}, true},
		"and lifts that":                          {[]DrainMember{remove, keep}, false},
		"also if it had to ask twice":             {[]DrainMember{remove, remove, keep}, false},
		"an operator asked before":                {[]DrainMember{drain, remove, keep}, true},
		"meanwhile":                               {[]DrainMember{remove, drain, keep}, true},
		"between two attempts":                    {[]DrainMember{remove, drain, remove, keep}, true},
		"an operator lifted it":                   {[]DrainMember{remove, undrain}, false},
		"and asked again":                         {[]DrainMember{remove, undrain, drain, keep}, true},
		"an operator lifts what a removal leaves": {[]DrainMember{remove, drain, keep, undrain}, false},
	} {
		s := newScript(t)
		s.must(&SetMember{Name: "a"})
		for _, c := range test.did {
			s.must(&c)
		}
		if got := s.state.Members["a"].Draining; got != test.drained {
			t.Errorf("%s: drained %v, want %v", name, got, test.drained)
		}
	}
}

func TestOneSessionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, nil)
		c := f.config("alone", nil)
		c.Listen, c.Credentials = "", nil
		n, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		s, err := n.Session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Session(t.Context()); !errors.Is(err, ErrSessionOpen) {
			t.Errorf("a second session: %v", err)
		}
		if first := <-s.Assignments(); len(first) != 0 {
			t.Errorf("first assignments: %v", first)
		}
		if err := s.CloseLanes(t.Context(), "none"); err != nil {
			t.Error(err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.RegisterLane(t.Context(), Lane{ID: "l", ClusterID: "c"}); !errors.Is(err, ErrIncarnationEnded) {
			t.Errorf("a lane of a closed session: %v", err)
		}
		again, err := n.Session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if again.Incarnation() <= s.Incarnation() {
			t.Errorf("incarnation %d after %d", again.Incarnation(), s.Incarnation())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := context.Cause(again.Context()); !errors.Is(got, ErrStopped) {
			t.Errorf("the session ended by %v", got)
		}
	})
}

func TestExecutionMovesToAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		nodes := f.three()
		r, err := nodes[0].Propose(t.Context(), &PutExecution{ID: "run-1", Runbook: "cutover"})
		if err != nil {
			t.Fatal(err)
		}
		w := Work{Kind: WorkRunbook, Name: "run-1"}
		owner := func() *testNode {
			for _, n := range nodes {
				if _, ok := n.held()[w]; ok {
					return n
				}
			}
			return nil
		}
		f.await("an owner", func() bool { return owner() != nil })
		first := owner()
		epoch := first.held()[w].Epoch
		f.net.Isolate(first.Name())
		f.await("another owner", func() bool { return owner() != nil && owner() != first })
		second := owner()
		f.net.Heal()
		f.await("the first one to know", func() bool { return first.State().Executions["run-1"].Owner.Node == second.Name() })
		_, err = first.Propose(t.Context(), &PutExecution{ID: "run-1", Runbook: "cutover", Expect: r.Number, Epoch: epoch})
		if !errors.Is(err, ErrNotOwner) {
			t.Errorf("the first owner goes on: %v", err)
		}
		if _, err := second.Propose(t.Context(), &PutExecution{ID: "run-1", Runbook: "cutover", Expect: r.Number, Epoch: second.held()[w].Epoch, Done: true}); err != nil {
			t.Error(err)
		}
	})
}

func TestOverLoopback(t *testing.T) {
	f := newFleet(t, nil)
	cords := make(map[string]*cord)
	f.edit = func(c *Config) {
		c.Dir = t.TempDir()
		c.DrainTimeout = 200 * time.Millisecond // for the one that nobody answers
		// On a machine that is busy a process may stand still for a second.
		for _, d := range []*time.Duration{&c.HeartbeatInterval, &c.HeartbeatTimeout, &c.SessionLease, &c.IncarnationTimeout, &c.LeaderGrace, &c.ElectionTimeout} {
			*d *= 3
		}
		cords[c.Name] = new(cord)
		c.Network = cords[c.Name]
		c.PeerHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !PeerIs(r.Context(), "c") {
				http.Error(w, "not c", http.StatusForbidden)
			}
			if r.URL.Path == "/too/much" {
				_, _ = w.Write(make([]byte, maxPeerBody+1))
			}
		})
	}
	nodes := f.three()
	f.sameState(nodes)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a/anything", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := nodes[2].PeerClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("c asks a: %s", resp.Status)
	}
	if err := nodes[2].call(t.Context(), http.MethodGet, "a", "/too/much", nil, new(FleetStatus)); err == nil || !strings.Contains(err.Error(), "a answers more than") {
		t.Errorf("an answer that is too long: got %v", err)
	}

	// The leader stops answering from one moment to the next.
	victim := f.leader(nodes)
	rest := without(nodes, victim)
	var incarnation uint64
	f.await("the leader to have a session", func() bool {
		s := victim.session() // a busy machine may have cost it one
		if s != nil {
			incarnation = s.Incarnation()
		}
		return s != nil
	})
	began := time.Now()
	cords[victim.Name()].pull()
	f.await("a takeover", func() bool {
		return rest[0].State().Ended(victim.Name(), incarnation) && f.shared(rest, 12)
	})
	t.Logf("takeover took %s", time.Since(began)) // how long it may take is tested in virtual time

	// From its directory it is back with all that was agreed on.
	if err := victim.end(); err != nil {
		t.Fatal(err)
	}
	c := f.config(victim.Name(), nil)
	c.Bootstrap = false
	c.Dir = victim.cfg.Dir
	back := f.start(c)
	nodes = append(rest, back)
	f.await("it to be back", func() bool { return f.shared(nodes, 12) })
	f.sameState(nodes)
}
