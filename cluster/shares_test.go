package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/waybillhq/waybill/internal/raftnode"
)

func TestFairShares(t *testing.T) {
	const all = 1 << 40
	for name, c := range map[string]struct {
		asks []ask
		want []int64
	}{
		"alone":                              {[]ask{{1, 10}}, []int64{800}},
		"one hot copy of a hundred":          {[]ask{{1, all}, {99, 0}}, []int64{701, 99}},
		"everybody wants all":                {[]ask{{1, all}, {3, all}}, []int64{200, 600}},
		"one wants less":                     {[]ask{{1, all}, {1, 100}, {2, all}}, []int64{233, 100, 466}},
		"nobody wants anything":              {[]ask{{1, 0}, {1, 0}}, []int64{400, 400}},
		"two want less than by their copies": {[]ask{{1, 150}, {1, 150}, {2, all}}, []int64{150, 150, 500}},
	} {
		if got := fairShares(800, c.asks); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

// TestSharesOfABudget has nodes that want more and less, that come and go, whose heartbeats
// and answers are lost and late, tell leaders that change, in any order: all nodes together
// never keep to more than the budget; and once things stay as they are, all of it is given
// to who wants it.
func TestSharesOfABudget(t *testing.T) {
	const budget, copies = 1_000_000, 60
	type node struct {
		alive             bool
		incarnation, beat uint64
		has, wants        int64
		copies            int
	}
	type letter struct {
		from, beat uint64
		pace       FlowPace
		to         int // leader
	}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		nodes := make([]node, 2+rng.IntN(4))
		leader, s := 0, shares{}
		heard := map[int]bool{} // by this leader
		var late []letter
		owners := func() (n int) {
			for _, n1 := range nodes {
				if n1.alive {
					n++
				}
			}
			return n
		}
		place := func() { // copies go to who is there
			n := owners()
			for i := range nodes {
				if nodes[i].copies = 0; nodes[i].alive {
					nodes[i].copies = copies / n
				}
			}
		}
		members := func() map[string]Member {
			m := map[string]Member{}
			for i, n := range nodes {
				if n.alive {
					m[fmt.Sprint(i)] = Member{Incarnation: n.incarnation}
				}
			}
			return m
		}
		known := func() bool {
			for i := range nodes {
				if nodes[i].alive && !heard[i] {
					return false
				}
			}
			return true
		}
		check := func(step int) {
			sum := int64(0)
			for _, n := range nodes {
				sum += n.has
			}
			if sum > budget {
				t.Fatalf("seed %d, step %d: %d bytes per second of %d: %+v", seed, step, sum, budget, nodes)
			}
		}
		deliver := func(l letter) map[string]int64 {
			s.forget(members())
			n := &nodes[l.from]
			heard[int(l.from)] = true
			return s.hear(fmt.Sprint(l.from), n.incarnation, l.beat, []FlowPace{l.pace}, known())
		}
		beat := func(i int, calm bool) {
			n := &nodes[i]
			n.beat++
			all := 0
			for _, o := range nodes {
				all += o.copies
			}
			l := letter{uint64(i), n.beat, FlowPace{Flow: "f", Budget: budget, Has: n.has, Wants: n.wants, Copies: n.copies, FlowCopies: all}, leader}
			switch luck := rng.IntN(10); {
			case calm || luck > 2:
				n.has = deliver(l)["f"]
			case luck == 0: // never heard
			case luck == 1: // heard, and the answer is lost
				deliver(l)
			default:
				late = append(late, l)
			}
		}
		for i := range nodes {
			nodes[i].alive, nodes[i].incarnation, nodes[i].wants = true, 1, rng.Int64N(2*budget)
		}
		place()
		for step := range 400 {
			i := rng.IntN(len(nodes))
			switch n := &nodes[i]; rng.IntN(12) {
			case 0:
				n.wants = rng.Int64N(2 * budget)
			case 1: // another leader, who knows nothing
				leader++
				s, heard = shares{}, map[int]bool{}
			case 2: // an incarnation ends, or another begins
				if n.alive && owners() > 1 {
					n.alive, n.has = false, 0
				} else if !n.alive {
					n.alive, n.incarnation, n.beat = true, n.incarnation+1, 0
				}
				place()
			case 3:
				if len(late) > 0 {
					if l := late[0]; l.to == leader && nodes[l.from].alive && l.beat <= nodes[l.from].beat {
						deliver(l) // who sent it has given it up
					}
					late = late[1:]
				}
			default:
				if n.alive {
					beat(i, false)
				}
			}
			check(step)
		}
		for range 6 {
			for i := range nodes {
				if nodes[i].alive {
					beat(i, true)
				}
			}
			check(-1)
		}
		sum, wanted := int64(0), int64(0)
		for _, n := range nodes {
			if n.alive {
				sum, wanted = sum+n.has, wanted+n.wants
			}
		}
		if sum < budget-int64(len(nodes))*2 {
			t.Errorf("seed %d: %d bytes per second of %d are given, %d are wanted: %+v", seed, sum, budget, wanted, nodes)
		}
	}
}

// TestNodesOfAnOlderVersionHaveTheirPart is for a fleet of which some nodes go by their copies.
func TestNodesOfAnOlderVersionHaveTheirPart(t *testing.T) {
	s := shares{}
	pace := FlowPace{Flow: "f", Budget: 1000, Wants: 5000, Copies: 3, FlowCopies: 10}
	if got := s.hear("a", 1, 1, []FlowPace{pace}, false)["f"]; got != 0 {
		t.Errorf("before all were heard: %d", got)
	}
	if got := s.hear("a", 1, 2, []FlowPace{pace}, true)["f"]; got != 300 {
		t.Errorf("beside seven copies of others: %d, want 300", got)
	}
}

// TestAFleetSharesABudget has one of three nodes want all of a budget, then another one; the
// leader dies in between. They never have more than the budget.
func TestAFleetSharesABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		nodes := f.three()
		const budget = 1 << 20
		want := func(hot *testNode) {
			for _, n := range nodes {
				n.mu.Lock()
				n.pace.Flow, n.pace.Budget, n.pace.Wants, n.pace.Copies, n.pace.FlowCopies = "orders", budget, 0, 12/len(nodes), 12
				if n == hot {
					n.pace.Wants = budget
				}
				n.mu.Unlock()
			}
		}
		most := func(hot *testNode) func() bool {
			return func() bool {
				sum, has := int64(0), int64(0)
				for _, n := range nodes { // all at one time
					n.mu.Lock()
				}
				for _, n := range nodes {
					if sum += n.pace.Has; n == hot {
						has = n.pace.Has
					}
				}
				for _, n := range nodes {
					n.mu.Unlock()
				}
				if sum > budget {
					t.Fatalf("%d bytes per second of %d", sum, budget)
				}
				return has > budget*8/10
			}
		}
		want(nodes[0])
		f.await("the first has most of it", most(nodes[0]))
		want(nodes[1])
		f.await("the second has most of it", most(nodes[1]))
		leader := f.leader(nodes)
		if err := leader.end(); err != nil {
			t.Error(err)
		}
		nodes = without(nodes, leader)
		f.await("two share the copies", func() bool { most(nil)(); return f.shared(nodes, 12) })
		want(nodes[0])
		f.await("one has most of it", most(nodes[0]))
		want(nodes[1])
		f.await("the other has most of it", most(nodes[1]))
	})
}
