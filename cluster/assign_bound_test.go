package cluster

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// problem is a small assignment, of which everything can be tried: weights of
// copies, where each is, and where it may be.
type problem struct {
	nodes   int
	weights []float64
	at      []int
	may     [][]int // by copy
}

// state is the problem as a state with a flow for each copy that has other nodes
// than the rest, and the loads that give its weights.
func (p *problem) state() (*State, Loads) {
	s := &State{Members: make(map[string]Member), Flows: make(map[string]*Flow), Objects: make(map[string]Object)}
	for n := range p.nodes {
		labels := make(map[string]string)
		for i, may := range p.may {
			if slices.Contains(may, n) {
				labels[fmt.Sprint("l", i)] = "y"
			}
		}
		s.Members[nodeName(n)] = Member{Name: nodeName(n), Incarnation: 1, Labels: labels}
	}
	loads := make(Loads)
	for i, w := range p.weights {
		name := fmt.Sprintf("f%02d", i)
		spec := fmt.Sprintf(`{"spec":{"placement":{"nodes":{"matchLabels":{"l%d":"y"}}}}}`, i)
		s.Objects["ReplicationFlow/"+name] = Object{Spec: json.RawMessage(spec)}
		owner := Owner{Node: nodeName(p.at[i]), Incarnation: 1, Epoch: 1}
		s.Flows[name] = &Flow{Duty: Owner{Node: nodeName(p.may[i][0]), Incarnation: 1, Epoch: 1}, Topics: map[string]*Topic{
			"t": {TopicSpec: TopicSpec{Source: "t", Partitions: 1}, Owners: []Owner{owner}},
		}}
		loads.Set(name, "t", 0, float32((w-1)*idleWeight))
	}
	return s, loads
}

func nodeName(n int) string { return string(rune('a' + n)) }

func randomProblem(rnd *rand.Rand, pinned bool) *problem {
	p := &problem{nodes: 2 + rnd.IntN(2)}
	for range 3 + rnd.IntN(6) {
		w := 1.0
		if rnd.IntN(2) == 0 {
			w += float64(rnd.IntN(40)) / 2
		}
		var may []int
		for n := range p.nodes {
			if !pinned || rnd.IntN(3) > 0 {
				may = append(may, n)
			}
		}
		if len(may) == 0 {
			may = []int{rnd.IntN(p.nodes)}
		}
		p.weights, p.may = append(p.weights, w), append(p.may, may)
		p.at = append(p.at, may[rnd.IntN(len(may))])
	}
	return p
}

// each calls f for every assignment that is allowed.
func (p *problem) each(f func(at []int)) {
	at := make([]int, len(p.weights))
	var try func(i int)
	try = func(i int) {
		if i == len(at) {
			f(at)
			return
		}
		for _, n := range p.may[i] {
			at[i] = n
			try(i + 1)
		}
	}
	try(0)
}

func (p *problem) loads(at []int) []float64 {
	held := make([]float64, p.nodes)
	for i, n := range at {
		held[n] += p.weights[i]
	}
	return held
}

func (p *problem) moves(at []int) (n int) {
	for i := range at {
		if at[i] != p.at[i] {
			n++
		}
	}
	return n
}

// solve lets assign work until it comes to rest and returns where the copies are.
func (p *problem) solve(t *testing.T) []int {
	t.Helper()
	s, loads := p.state()
	sc := &script{t: t, state: s, index: 10}
	sc.settle(loads, 1)
	at := make([]int, len(p.weights))
	for i := range at {
		o := sc.owner(Work{Kind: WorkCopy, Name: fmt.Sprintf("f%02d", i), Topic: "t"})
		at[i] = int(o.Node[0] - 'a')
		if !slices.Contains(p.may[i], at[i]) {
			t.Fatalf("copy %d is on %s, it may be on %v", i, o.Node, p.may[i])
		}
	}
	return at
}

// What assign comes to is held against all there is. No copy that could improve
// things by moving alone is left where it is, so the busiest node has at most
// bound times the least possible: with n nodes and two or more copies on the
// busiest, each heavier than nine tenths of the gap g to the idlest, its load L is
// at least 1.8 g and every other at least L - g, so L <= n / (1 + (n-1)(1-1/1.8))
// times the mean. With pins there is no such bound, but for what is checked
// of each node by itself.
func TestAssignAgainstBruteForce(t *testing.T) {
	var worst float64
	var moved, needed int
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := randomProblem(rnd, false)
		least := 1e18
		p.each(func(at []int) { least = min(least, slices.Max(p.loads(at))) })
		at := p.solve(t)
		held := p.loads(at)
		n := float64(p.nodes)
		bound := n/(1+(n-1)*(1-1/1.8))*least + max(1, endBalancing*sumOf(p.weights)/n)
		if got := slices.Max(held); got > bound {
			t.Errorf("seed %d: %v on %d nodes from %v: the busiest has %.1f, at best %.1f, bound %.1f", seed, p.weights, p.nodes, p.at, got, least, bound)
		}
		worst = max(worst, slices.Max(held)/least)
		// The fewest moves that come as far.
		fewest := len(p.weights)
		p.each(func(other []int) {
			if o := p.loads(other); slices.Max(o) <= slices.Max(held)+1e-9 && slices.Min(o) >= slices.Min(held)-1e-9 {
				fewest = min(fewest, p.moves(other))
			}
		})
		moved, needed = moved+p.moves(at), needed+fewest
		if p.moves(at) > fewest+4 {
			t.Errorf("seed %d: %v from %v: %d moves, %d would do", seed, p.weights, p.at, p.moves(at), fewest)
		}
	}
	t.Logf("the busiest node has at most %.2f times the least possible; %d moves where %d would do", worst, moved, needed)
	if worst > 1.25 || float64(moved) > 1.2*float64(needed) {
		t.Errorf("worse than it was: %.2f, %d of %d", worst, moved, needed)
	}
}

func sumOf(x []float64) (sum float64) {
	for _, v := range x {
		sum += v
	}
	return sum
}

// Copies that weigh the same are balanced with exactly the moves that are needed.
func TestAssignMovesNoMoreThanNeeded(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		p := randomProblem(rnd, false)
		for i := range p.weights {
			p.weights[i] = 1
		}
		at := p.solve(t)
		fewest := len(at)
		p.each(func(other []int) {
			if held := p.loads(other); slices.Max(held)-slices.Min(held) <= 1 {
				fewest = min(fewest, p.moves(other))
			}
		})
		if held := p.loads(at); slices.Max(held)-slices.Min(held) > 1 || p.moves(at) != fewest {
			t.Errorf("seed %d: from %v to %v: %d moves, %d are needed", seed, p.at, at, p.moves(at), fewest)
		}
	}
}

// Pinned copies are where they may be, and no single move of one of them would
// take a fifth or more off the gap between two nodes.
func TestAssignOfPinnedCopiesIsStable(t *testing.T) {
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		p := randomProblem(rnd, true)
		at := p.solve(t)
		held := p.loads(at)
		for i, n := range at {
			total, may := 0.0, p.may[i]
			for j := range p.may {
				if slices.Equal(p.may[j], may) {
					total += p.weights[j]
				}
			}
			for _, m := range may {
				gap, w := held[n]-held[m], p.weights[i]
				if gap > max(1, endBalancing*total/float64(len(may))) && w <= 0.9*gap {
					t.Errorf("seed %d: copy %d of %.1f is on %s, which has %.1f, although %s has %.1f", seed, i, w, nodeName(n), held[n], nodeName(m), held[m])
				}
			}
		}
	}
}

// A node that comes to a balanced fleet gets what it lacks and nothing else moves;
// one that goes loses what it had and nothing else moves; a topic moves nothing.
func TestAssignDisturbsNothingElse(t *testing.T) {
	var checked, taken, others int
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		s := newScript(t)
		nodes := 2 + rnd.IntN(4) // which are as even as those with one more must be
		for n := range nodes {
			s.node(nodeName(n))
		}
		s.flow("f", "a", map[string]int32{"t": int32(20 + rnd.IntN(80))})
		loads := make(Loads)
		s.state.works(func(w Work, _ Owner) {
			if w.Kind == WorkCopy && rnd.IntN(2) == 0 {
				loads.Set(w.Name, w.Topic, w.Partition, float32(rnd.IntN(8<<20)))
			}
		})
		s.settle(loads, 100)
		// A topic.
		before := owners(s.state)
		s.topics("f", map[string]int32{"new": int32(1 + rnd.IntN(nodes))})
		s.settle(loads, 0)
		if n := moved(before, owners(s.state)); n != 0 {
			t.Errorf("seed %d: a new topic moves %d copies", seed, n)
		}
		s.settle(loads, 100)
		// A node comes.
		before = owners(s.state)
		apart, mean := spread(s.state, loads)
		s.node("z")
		s.settle(loads, 1+rnd.IntN(8))
		calm := apart <= endBalancing*mean*float64(nodes)/float64(nodes+1)
		if calm {
			checked++
		}
		for w, o := range owners(s.state) {
			switch old := before[w]; {
			case !calm || w.Kind != WorkCopy || old.Node == o.Node:
			case o.Node == "z":
				taken++
			default:
				others++
			}
		}
		// It goes.
		before = owners(s.state)
		s.must(&EndIncarnation{Node: "z", Incarnation: s.state.Members["z"].Incarnation})
		s.settle(loads, 0)
		for w, o := range owners(s.state) {
			if old := before[w]; old.Node != o.Node && old.Node != "z" {
				t.Errorf("seed %d: %s moves from %s to %s when z goes", seed, w, old.Node, o.Node)
			}
		}
	}
	// Copies are lumps: where the last ones do not fit, two old nodes may end further
	// apart than they may be.
	t.Logf("%d of 60 fleets were even; a new node took %d copies, %d moved between others", checked, taken, others)
	if others*50 > taken {
		t.Error("too much moves between nodes that were even")
	}
	if checked < 20 {
		t.Error("too few fleets were even: the test tests nothing")
	}
}

// spread is how far apart the nodes are, and what they have on average.
func spread(s *State, loads Loads) (apart, mean float64) {
	a := newAssigner(s, loads, pace{}, make(wheres))
	held := a.held[WorkCopy]
	return slices.Max(held) - slices.Min(held), sumOf(held) / float64(len(held))
}
