package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// Whichever node looks for the topics of a flow, what it finds is everybody's work,
// also when it does not lead, and after the leader is gone.
//
// KAFKA-9981, KAFKA-15086: in a fleet only the node that led could act on new topics and
// settings; KAFKA-15372: nor could anybody after another one had come to lead.
func TestTopicsThatAFollowerFindsAreEverybodysWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		nodes := f.three()
		found := 12
		finds := func(live []*testNode) {
			t.Helper()
			leader := f.leader(live)
			finder := without(live, leader)[0] // as the holder of the duty, wherever it runs
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var duty Owner
			f.await("a live node has the duty", func() bool {
				duty = finder.State().Flows["orders"].Duty
				return slices.ContainsFunc(live, func(n *testNode) bool { return n.Name() == duty.Node })
			})
			name := fmt.Sprint("t", found)
			spec := TopicSpec{Source: name, SourceID: "id-" + name, Destination: name, Partitions: 6}
			if _, err := finder.Propose(ctx, &SetTopics{Flow: "orders", Epoch: duty.Epoch, Put: []TopicSpec{spec}}); err != nil {
				t.Fatalf("%s, which does not lead, cannot say what it has found: %v", finder.Name(), err)
			}
			found += 6
			f.await("everybody copies a part of it", func() bool { return f.shared(live, found) })
		}
		finds(nodes)
		lost := f.leader(nodes)
		f.net.Isolate(lost.Name())
		rest := without(nodes, lost)
		f.await("the others share what it had", func() bool { return f.shared(rest, found) })
		finds(rest)
	})
}

// A node that is given up leaves nothing behind that is owned: its copies, duties,
// runbooks and lanes fall to others, however it ends.
//
// Brooklin 93959243: locks of tasks whose node was gone were never released, and nobody
// could take the tasks.
func TestWhatTheDeadOwnedIsFree(t *testing.T) {
	works := []Work{{Kind: WorkFlow, Name: "orders"}, copyOf("orders", "t", 0), copyOf("orders", "t", 1), {Kind: WorkRunbook, Name: "x"}}
	for name, end := range map[string]func(s *script, incarnation uint64){
		"its session ends": func(s *script, n uint64) { s.must(&EndIncarnation{Node: "a", Incarnation: n}) },
		"it starts again":  func(s *script, _ uint64) { s.must(&BeginIncarnation{Node: "a"}) },
		"it is removed":    func(s *script, _ uint64) { s.must(&RemoveMember{Name: "a"}) },
		"it ends while it is asked to let go": func(s *script, n uint64) {
			c := &Assign{}
			for _, w := range works {
				c.Release = append(c.Release, OwnedWork{w, s.owner(w).Epoch})
			}
			s.must(c)
			s.must(&EndIncarnation{Node: "a", Incarnation: n})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			a, _ := s.node("a"), s.node("b")
			s.flow("orders", "a", map[string]int32{"t": 2})
			s.must(&PutExecution{ID: "x", Runbook: "r", Data: json.RawMessage(`{}`)})
			s.place("a", works...)
			s.must(&RegisterLane{Lane: Lane{ID: "l", ClusterID: "dest", Node: "a", Incarnation: a}})
			end(s, a)
			for _, w := range works {
				if o := s.owner(w); o.Node != "" || o.Releasing {
					t.Errorf("%s is still owned: %+v", w, o)
				}
			}
			if got := s.state.LanesToFence("dest"); len(got) != 1 {
				t.Errorf("lanes to fence: %v, want the one it had", got)
			}
			s.place("b", works...)
			for _, w := range works {
				if o := s.owner(w); o.Node != "b" {
					t.Errorf("%s cannot be taken over: %+v", w, o)
				}
			}
		})
	}
}

// A worker that does not come to read what it is given keeps nobody from going on:
// its node follows the fleet and stays alive, and the latest is there when it reads.
//
// Brooklin 55d2b083: work was handed over in the thread that hears of changes, which
// waited for it, and so heard of no change any more.
func TestAWorkerThatDoesNotReadHoldsUpNoNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		node, err := Open(f.config("a", nil))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- node.Run(ctx) }()
		defer func() { cancel(); <-ran }()
		s, err := node.Session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.declare(&testNode{Node: node}, 1)
		for n := int32(2); n <= 6; n++ {
			spec := TopicSpec{Source: "t", SourceID: "id", Destination: "t", Partitions: n}
			if _, err := node.Propose(t.Context(), &SetTopics{Flow: "orders", Epoch: node.State().Flows["orders"].Duty.Epoch, Put: []TopicSpec{spec}}); err != nil {
				t.Fatal(err)
			}
			f.await("the new partition is its work", func() bool { return len(node.State().AssignmentsOf("a", s.Incarnation())) == int(n)+1 })
			synctest.Wait()
		}
		select {
		case got := <-s.Assignments():
			if len(got) != 7 {
				t.Errorf("%d works were waiting to be read, want 6 copies and the duty: what waits is old, the node follows no more", len(got))
			}
		default:
			t.Error("nothing waits to be read")
		}
		go func() { // by now it reads
			for {
				select {
				case <-s.Assignments():
				case <-s.Context().Done():
					return
				}
			}
		}()
		if err := context.Cause(s.Context()); err != nil {
			t.Errorf("the session has ended: %v", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
