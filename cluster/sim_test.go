package cluster

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	simSeed      = flag.Uint64("sim.seed", 1, "the first seed of the simulation")
	simTrace     = flag.Int("sim.trace", 60, "how many lines of a failure's trace are printed")
	simSchedules = flag.Int("sim.schedules", 25, "how many seeds it runs")
)

const (
	// simDisorder is how long things happen to the fleet.
	simDisorder = 30 * time.Second
	// simJump is how far a clock is set back or forward, at most.
	simJump = 10 * time.Second
	// simRecovery is how long it may take to be well afterwards: a request that is
	// under way to the destination may arrive 12 s late.
	simRecovery = 30 * time.Second
	// simTakeover is how long others may take to have the work of a node that has
	// died, and to write for it: by the arithmetic of DefaultConfig, with a split vote
	// and with what they need for lanes, fences and positions.
	simTakeover = 6 * time.Second
	// simQuiet is how long nothing must move then: more than two looks at the load.
	simQuiet = 12 * time.Second
	// simRest is how long it may take until nothing moves any more.
	simRest = 3 * time.Minute
)

// newSim makes the fleet of a seed. faults are broken decisions, for tests of the
// simulation itself.
func newSim(seed uint64, faults *simMutant, tracing bool) *sim {
	s := &sim{
		rnd: rand.New(rand.NewPCG(seed, 2)), cfg: DefaultConfig(), faults: faults,
		severed: make(map[[2]int]int), tracing: tracing, count: make(map[string]int),
	}
	s.cfg.RebalanceInterval = 5 * time.Second
	s.check = newSimChecker(s)
	s.dst = &simDestination{sim: s, producers: make(map[string]int), logs: make(map[Work]*simLog)}
	s.operator = &simOperator{sim: s, topics: make(map[string]map[string]TopicSpec)}
	s.voters = []int{1, 3, 3, 3, 5}[s.rnd.IntN(5)]
	for i := range s.voters + s.rnd.IntN(3) {
		n := &simNode{sim: s, id: i, name: string(rune('a' + i)), region: []string{"", "z0", "z1"}[s.rnd.IntN(3)]}
		n.raft = simRaft{n: n, voter: i < s.voters, vote: -1}
		s.nodes = append(s.nodes, n)
	}
	for _, name := range []string{"orders", "invoices", "clicks"} {
		s.operator.topics[name] = map[string]TopicSpec{"t0": {Source: "t0", SourceID: "0", Destination: "t0", Partitions: int32(1 + s.rnd.IntN(6))}}
	}
	return s
}

func (s *sim) byName(name string) *simNode {
	for _, n := range s.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// play runs a plan to its end, or until a promise is broken.
func (s *sim) play(plan []simAction) {
	for _, n := range s.nodes {
		n.start()
	}
	s.after(time.Second, func() {
		for _, f := range []string{"orders", "invoices", "clicks"} {
			s.operator.declare(s.nodes[0], f)
		}
	})
	for _, a := range plan {
		s.after(a.at, func() { s.do(a) })
	}
	s.run(simDisorder)
	s.heal()
	s.recover()
	if s.failure != "" {
		return
	}
	s.rest()
	if what := s.check.unwell(); what != "" && s.failure == "" {
		s.fail("the fleet was well and is not any more: %s", what)
	}
	s.check.final()
	if s.failure == "" {
		s.takeover()
	}
}

// takeover ends a node for good: the others have its work soon.
func (s *sim) takeover() {
	victim := s.nodes[s.rnd.IntN(len(s.nodes))]
	if victim.raft.voter && s.voters == 1 {
		return // the fleet ends with it
	}
	leads := victim.raft.role == simLeader
	s.gone = victim
	victim.crash()
	for began := s.now; s.failure == ""; {
		s.run(s.now + 50*time.Millisecond)
		what := s.check.unwell()
		took := s.now - began
		switch {
		case what == "" && leads:
			s.tookLeader = took
			return
		case what == "":
			s.took = took
			return
		case took > simTakeover:
			s.fail("%s after %s has died: %s", took, victim.name, what)
		}
	}
}

// rest waits until nothing has moved for a while: balance may take its time, and
// comes to an end.
func (s *sim) rest() {
	changes, since := s.check.changes, s.now
	for s.failure == "" && s.now-since < simQuiet {
		s.run(s.now + time.Second)
		if s.check.changes != changes {
			changes, since = s.check.changes, s.now
		}
		if s.now > simDisorder+simRest {
			s.fail("%s after everything was put right work still moves, though nothing happens", simRest)
		}
	}
}

// recover waits until the fleet is well, and stays so for a second.
func (s *sim) recover() {
	began, changes := s.now, s.check.changes
	well := 0
	for s.failure == "" && well < 5 {
		s.run(s.now + 200*time.Millisecond)
		what := s.check.unwell()
		if well++; what != "" {
			well = 0
		}
		if s.now-began > simRecovery && s.failure == "" {
			s.fail("%s after everything was put right the fleet is not well: %s", simRecovery, what)
		}
	}
	copies := 0
	s.nodes[0].state.works(func(Work, Owner) { copies++ })
	if moved := s.check.changes - changes; moved > 4*(copies+1) && s.failure == "" {
		s.fail("%d owners changed until the fleet was well again, which has %d pieces of work", moved, copies)
	}
	s.count["ms to be well again"] = max(s.count["ms to be well again"], int((s.now-began)/time.Millisecond))
}

// simulate plays a plan under a seed.
func simulate(seed uint64, plan []simAction, faults *simMutant, tracing bool) *sim {
	s := newSim(seed, faults, tracing)
	s.play(plan)
	return s
}

// planOf is the whole plan of a seed.
func planOf(seed uint64, only ...string) []simAction {
	return simPlan(seed, len(newSim(seed, new(simMutant), false).nodes), simDisorder, only)
}

// shrink takes actions out of a plan as long as it still breaks a promise.
func shrink(seed uint64, plan []simAction, faults *simMutant) []simAction {
	for size := len(plan) / 2; size > 0; size /= 2 {
		for from := 0; from < len(plan); {
			less := slices.Delete(slices.Clone(plan), from, min(from+size, len(plan)))
			if simulate(seed, less, faults, false).failure != "" {
				plan = less
			} else {
				from += size
			}
		}
	}
	return plan
}

// explain says what a seed has broken, with the least that leads to it.
func explain(seed uint64, faults *simMutant) string {
	plan := shrink(seed, planOf(seed), faults)
	s := simulate(seed, plan, faults, true)
	var out strings.Builder
	fmt.Fprintf(&out, "seed %d: %s\nagain: make sim SEED=%d SCHEDULES=1\n%d voters of %d nodes, and what was done to them, as little as breaks a promise:\n", seed, s.failure, seed, s.voters, len(s.nodes))
	for _, a := range plan {
		fmt.Fprintf(&out, "  %s\n", a)
	}
	fmt.Fprintf(&out, "the last of what happened then:\n  %s", strings.Join(s.trace[max(0, len(s.trace)-*simTrace):], "\n  "))
	return out.String()
}

// The control plane keeps its promises whatever happens to its nodes, its log and
// its clocks. A failure prints its seed, which runs the same again.
func TestSimulation(t *testing.T) {
	total := make(map[string]int)
	var worst, slowest, took, tookLeader time.Duration
	for seed := *simSeed; seed < *simSeed+uint64(*simSchedules); seed++ {
		s := simulate(seed, planOf(seed), new(simMutant), false)
		for what, n := range s.count {
			total[what] += n
		}
		slowest = max(slowest, time.Duration(s.count["ms to be well again"])*time.Millisecond)
		worst, took, tookLeader = max(worst, s.check.worst), max(took, s.took), max(tookLeader, s.tookLeader)
		if s.failure != "" {
			t.Fatal(explain(seed, new(simMutant)))
		}
	}
	delete(total, "ms to be well again")
	var table strings.Builder
	for _, what := range sortedKeys(total) {
		fmt.Fprintf(&table, "  %-40s %8d\n", what, total[what])
	}
	for _, row := range []struct {
		what string
		took time.Duration
	}{
		{"longest until all was well again", slowest},
		{"longest without an owner, among faults", worst},
		{"longest takeover of one that died", took},
		{"longest takeover of a leader", tookLeader},
	} {
		fmt.Fprintf(&table, "  %-40s %8.1fs\n", row.what, row.took.Seconds())
	}
	t.Logf("%d schedules from seed %d, each %s of faults, then rest: all promises held\n%s", *simSchedules, *simSeed, simDisorder, table.String())
}

// Some faults show only when a few kinds of trouble come thick and fast.
func TestSimulationOfFewKinds(t *testing.T) {
	for _, only := range [][]string{
		{"transfer", "deaf", "bridge"}, // leadership that is handed over
		{"crash", "split", "lossy"},    // sessions that begin while a leader is elected
		{"drain", "lossy", "load"},     // work that comes back to where it was
	} {
		t.Run(strings.Join(only, "-"), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 12; seed++ {
				if s := simulate(seed, planOf(seed, only...), new(simMutant), false); s.failure != "" {
					t.Fatalf("seed %d: %s", seed, s.failure)
				}
			}
		})
	}
}

// A seed gives the same run again, event by event.
func TestSimulationIsDeterministic(t *testing.T) {
	first, again := simulate(7, planOf(7), new(simMutant), true), simulate(7, planOf(7), new(simMutant), true)
	if !slices.Equal(first.trace, again.trace) {
		for i := range first.trace {
			if i >= len(again.trace) || first.trace[i] != again.trace[i] {
				t.Fatalf("line %d was %q", i, first.trace[i])
			}
		}
		t.Fatal("the second run goes on")
	}
	if len(first.trace) < 100 {
		t.Fatalf("the trace has %d lines", len(first.trace))
	}
}
