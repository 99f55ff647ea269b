package cluster

import (
	"context"
	"encoding/json"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// While a plan is made, however long it takes, heartbeats are answered and the silent
// are given up; and a plan that counts on one of them does no harm.
func TestTheFleetLivesOnWhileAPlanIsMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		var gate atomic.Pointer[chan struct{}]
		held := make(chan struct{}, 100)
		f.edit = func(c *Config) {
			c.planning = func() {
				if g := gate.Load(); g != nil {
					held <- struct{}{}
					<-*g
				}
			}
		}
		nodes := f.three()
		leader := f.leader(nodes)
		open := make(chan struct{})
		gate.Store(&open)
		defer func() { gate.Store(nil); close(open) }()

		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		spec := TopicSpec{Source: "new", SourceID: "id-new", Destination: "new", Partitions: 6}
		if _, err := leader.Propose(ctx, &SetTopics{Flow: "orders", Epoch: leader.State().Flows["orders"].Duty.Epoch, Put: []TopicSpec{spec}}); err != nil {
			t.Fatal(err)
		}
		<-held
		// A mutex stops the clock of a synthetic test, so this is looked at first.
		if !free(&leader.leading.Load().mu) {
			t.Fatal("heartbeats wait for the plan that is being made")
		}
		<-time.After(5 * leader.cfg.SessionLease)
		for _, n := range nodes {
			if ended := n.ended(); len(ended) > 0 {
				t.Errorf("the session of %s ended while a plan was made: %v", n.Name(), ended[0].cause)
			}
		}
		if len(held) > 0 {
			t.Errorf("%d plans at once", 1+len(held))
		}

		lost := without(nodes, leader)[0]
		incarnation := lost.session().Incarnation()
		f.net.Isolate(lost.Name())
		f.await("the silent one is given up", func() bool { return leader.State().Ended(lost.Name(), incarnation) })
		gate.Store(nil)
		open <- struct{}{}
		rest := without(nodes, lost)
		f.await("the others share everything", func() bool { return f.shared(rest, 18) })
	})
}

// A leader that is deposed and elected again while its plan is made answers heartbeats
// until that is done. Who is cut off then has stopped before his incarnation is ended.
func TestALeaderOfTwoTermsWhileAPlanIsMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		var hold atomic.Bool
		held, open := make(chan struct{}), make(chan struct{})
		f.edit = func(c *Config) {
			c.planning = func() {
				if hold.CompareAndSwap(true, false) {
					close(held)
					<-open
				}
			}
		}
		nodes := f.three()
		leader := f.leader(nodes)
		others := without(nodes, leader)
		other, victim := others[0], others[1]
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		hold.Store(true)
		spec := TopicSpec{Source: "new", SourceID: "id-new", Destination: "new", Partitions: 6}
		if _, err := leader.Propose(ctx, &SetTopics{Flow: "orders", Epoch: leader.State().Flows["orders"].Duty.Epoch, Put: []TopicSpec{spec}}); err != nil {
			t.Fatal(err)
		}
		<-held
		first := leader.leading.Load()
		for _, to := range []*testNode{other, leader} {
			if err := leader.Transfer(ctx, to.Name()); err != nil {
				t.Fatal(err)
			}
			f.await("the leadership of "+to.Name(), func() bool { return to.raft.VerifyLeader(ctx) == nil })
		}
		<-time.After(leader.cfg.SessionLease)
		if leader.leading.Load() != first {
			t.Fatal("the first leadership is over before its plan is made")
		}

		incarnation := victim.session().Incarnation()
		over := make(chan time.Time, 1)
		go func() {
			for _, s := range leader.Watch(ctx) {
				if s.Ended(victim.Name(), incarnation) {
					over <- time.Now()
					return
				}
			}
		}()
		poke(victim.beatNow)
		synctest.Wait()
		f.net.Isolate(victim.Name())
		close(open)
		takeover := <-over
		f.await("the end of the victim's session", func() bool { return len(victim.ended()) > 0 })
		if at := victim.ended()[0].at; at.After(takeover) {
			t.Errorf("the victim stopped %s after its incarnation was ended", at.Sub(takeover))
		}
	})
}

// Who asks for the fleet's status has all its work walked over; heartbeats do not wait.
func TestHeartbeatsDoNotWaitForAStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		var watching atomic.Bool
		held := make(chan struct{}, 100)
		open := make(chan struct{})
		f.edit = func(c *Config) {
			c.reckoning = func() {
				if watching.Load() {
					held <- struct{}{}
					<-open
				}
			}
		}
		nodes := f.three()
		leader := f.leader(nodes)
		watching.Store(true)
		asked := make(chan FleetStatus)
		go func() { asked <- leader.leading.Load().fleetStatus() }()
		<-held
		if !free(&leader.leading.Load().mu) {
			t.Error("heartbeats wait for the status")
		}
		watching.Store(false)
		close(open)
		works := 0
		for _, n := range (<-asked).Nodes {
			works += n.Works
			if !n.Alive {
				t.Errorf("%s is said to be silent", n.Name)
			}
		}
		if works != 13 { // the flow's duty, too
			t.Errorf("the status has %d pieces of work, want 13", works)
		}
	})
}

// free reports whether a mutex is not held for long.
func free(mu *sync.Mutex) bool {
	for range 100_000 {
		if mu.TryLock() {
			mu.Unlock()
			return true
		}
		runtime.Gosched()
	}
	return false
}

// What is heard while a plan is made is not for that plan, and not forgotten.
func TestWhatIsHeardWhileAPlanIsMade(t *testing.T) {
	w := watching(t, []string{"a", "b"}, 4)
	// c is granted an incarnation in which nobody has heard it.
	w.state.Members["c"] = Member{Name: "c", Incarnation: 1}
	w.pass(w.c.cfg.IncarnationTimeout/2, 100*time.Millisecond, func() { w.c.leases.last["c"] = lease{incarnation: 1, at: w.now} })
	w.now = w.c.leases.graceTo.Add(time.Millisecond)
	for _, name := range []string{"a", "b"} {
		w.c.hear(w.state, heartbeat{Node: name, Incarnation: 1}, w.now)
	}
	w.c.leases.last["c"] = lease{incarnation: 1, at: w.now}
	var p *planning
	for range 100 {
		var command Command
		if command, p = w.c.next(w.state, w.now); p == nil && command == nil {
			t.Fatal("nothing is to be planned")
		}
		if p == nil {
			w.apply(command)
			continue
		}
		p.make()
		if len(p.plan.commands) == 0 {
			break // at rest, but for c
		}
		w.c.planned(p, w.state)
	}
	if again, second := w.c.next(w.state, w.now); again != nil || second != nil {
		t.Fatal("two plans at once")
	}
	told := topicLoads{Flow: "f", Topic: "t", Partitions: []int32{2}, Levels: []int{80}}
	w.c.hear(w.state, heartbeat{Node: "a", Incarnation: 1, Loads: []topicLoads{told}}, w.now)
	w.c.hear(w.state, heartbeat{Node: "c", Incarnation: 1}, w.now)
	if got := p.loads.of("f", "t"); len(got) > 0 {
		t.Errorf("the plan sees loads change: %v", got)
	}
	w.c.planned(p, w.state)
	if got := w.c.loads.of("f", "t"); len(got) != 3 || got[2] != rateOf(80) {
		t.Errorf("loads %v after the plan", got)
	}
	if _, next := w.c.next(w.state, w.now); next == nil || !next.state.Members["c"].usable() {
		t.Error("c is not planned with, although it was heard")
	}
}

// A flow that is pinned while a plan is made is not begun where it may not be, nor one
// that is pinned between two commands of a plan.
func TestAPinIsKeptByAPlanThatIsOlder(t *testing.T) {
	for _, during := range []string{"the plan", "its commands"} {
		w := watching(t, []string{"a", "b"}, 2*maxWorks)
		w.now = w.c.leases.graceTo.Add(time.Millisecond)
		for _, name := range []string{"a", "b"} {
			w.c.hear(w.state, heartbeat{Node: name, Incarnation: 1}, w.now)
		}
		pinned := false
		pin := func() {
			w.apply(&ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/f", Spec: json.RawMessage(`{"spec":{"placement":{"nodes":{"matchLabels":{"node":"b"}}}}}`)}}})
			pinned = true
		}
		before := owners(w.state)
		for range 100 {
			command, p := w.c.next(w.state, w.now)
			switch {
			case p != nil:
				p.make()
				if during == "the plan" && !pinned {
					pin()
				}
				w.c.planned(p, w.state)
				continue
			case command == nil:
				w.now = w.now.Add(time.Second)
				for _, name := range []string{"a", "b"} {
					w.c.hear(w.state, heartbeat{Node: name, Incarnation: 1}, w.now)
				}
				continue
			}
			w.apply(command)
			if !pinned {
				pin()
				before = owners(w.state)
			}
			for work, o := range owners(w.state) {
				if o.Node == "a" && before[work].Node != "a" {
					t.Fatalf("pinned during %s: %s is begun on a", during, work)
				}
			}
		}
		if n := counts(w.state); n["b"] < maxWorks {
			t.Errorf("pinned during %s: b has %d copies", during, n["b"])
		}
	}
}
