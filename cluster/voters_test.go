package cluster

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// decides has a node change something, which needs a majority.
func (f *testFleet) decides(n *testNode, what string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	if _, err := n.Propose(ctx, &PinLedger{ClusterID: what, Ledger: Ledger{TopicID: what}}); err != nil {
		f.t.Fatalf("%s, asked of %s: %v", what, n.Name(), err)
	}
}

// loses cuts a minority off, of whom the leader is one, and has the rest go on.
func (f *testFleet) loses(nodes []*testNode, minority, copies int, what string) (lost, rest []*testNode) {
	f.t.Helper()
	rest = nodes
	for range minority {
		gone := rest[len(rest)-1]
		if len(lost) == 0 {
			gone = f.leader(rest)
		}
		f.net.Isolate(gone.Name())
		lost, rest = append(lost, gone), without(rest, gone)
	}
	f.decides(rest[0], what)
	f.await(what+": the rest copies everything", func() bool { return f.shared(rest, copies) })
	f.sameState(rest)
	return lost, rest
}

// TestFiveAndSevenVoters grows a fleet of real raft to seven voters and a worker, takes
// as many away as it can bear at five and at seven, and shrinks it to one voter and the worker.
func TestFiveAndSevenVoters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const copies = 40
		f := newFleet(t, raftnode.NewMemoryNetwork())
		f.edit = func(c *Config) { c.Worker = c.Name == "worker" }
		a := f.start(f.config("a", nil))
		f.declare(a, copies)
		voting := []*testNode{a}
		grow := func(names ...string) {
			t.Helper()
			for _, name := range names {
				voting = append(voting, f.start(f.config(name, voting[len(voting)-1])))
			}
			f.await(fmt.Sprintf("%d votes", len(voting)), func() bool { return voters(t, a) == len(voting) })
			f.await("a share for each", func() bool { return f.shared(voting, copies) })
			f.decides(voting[len(voting)-1], fmt.Sprint(len(voting), " voters"))
			f.sameState(voting)
		}
		grow("b", "c")
		grow("d", "e")
		lost, _ := f.loses(voting, 2, copies, "three of five")
		f.net.Heal()
		f.await("all five copy again", func() bool { return f.shared(voting, copies) })
		f.decides(lost[0], "five again")
		f.sameState(voting)
		grow("f", "g")

		worker := f.start(f.config("worker", voting[3]))
		all := append([]*testNode{worker}, voting...)
		f.await("the worker copies too", func() bool { return f.shared(all, copies) })
		f.decides(worker, "with a worker")
		f.sameState(all)
		if got := voters(t, worker); got != 7 {
			t.Errorf("%d votes with a worker, want 7", got)
		}
		lost, rest := f.loses(all, 3, copies, "four of seven, and a worker")
		if got := voters(t, rest[0]); got != 7 {
			t.Errorf("%d votes while three are away, want 7: nobody is there to take one", got)
		}

		// Smaller again: those that are gone for good first.
		for _, n := range lost {
			if err := rest[0].Remove(t.Context(), Removal{ID: n.Name()}); err != nil {
				t.Fatal(err)
			}
		}
		f.await("three of four vote", func() bool { return voters(t, rest[0]) == 3 })
		for left := len(rest) - 1; left > 1; left-- {
			leaving := rest[len(rest)-1]
			rest = without(rest, leaving)
			if err := rest[0].Remove(t.Context(), Removal{ID: leaving.Name()}); err != nil {
				t.Fatal(err)
			}
			<-leaving.done
			f.decides(rest[0], fmt.Sprint(left, " nodes"))
			f.await("all is copied", func() bool { return f.shared(rest, copies) })
			f.sameState(rest)
		}
		for _, n := range rest {
			if n != worker && voters(t, n) != 1 {
				t.Errorf("%d votes at the end, want 1", voters(t, n))
			}
		}
	})
}
