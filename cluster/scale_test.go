//go:build unix

package cluster

import (
	"flag"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"
)

var scaleMillion = flag.Bool("scale.million", false, "TestScale also looks at 1,000,000 copies on 200 nodes")

// fleetOf is a state with so many copies, in topics of 20 partitions and flows of 50
// topics, nobody's; every second one moves something.
func fleetOf(nodes, copies int) (*State, Loads) {
	s := &State{FleetID: "fleet", Members: make(map[string]Member), Flows: make(map[string]*Flow), Objects: make(map[string]Object)}
	for n := range nodes {
		name := fmt.Sprintf("node-%03d", n)
		s.Members[name] = Member{Name: name, Incarnation: 7, Region: fmt.Sprint("region-", n%3)}
	}
	loads := make(Loads)
	const perTopic, perFlow = 20, 50
	for made := 0; made < copies; made += perTopic {
		name := fmt.Sprintf("flow-%04d", made/perTopic/perFlow)
		f := s.Flows[name]
		if f == nil {
			f = &Flow{Topics: make(map[string]*Topic)}
			s.Flows[name] = f
		}
		topic := fmt.Sprintf("some.topic-%05d", made/perTopic)
		f.Topics[topic] = &Topic{
			TopicSpec: TopicSpec{Source: topic, SourceID: "AAAAAAAAAAAAAAAAAAAAAA", Destination: topic, Partitions: perTopic},
			Owners:    make([]Owner, perTopic),
		}
		for p := range perTopic {
			if p%2 == 0 {
				loads.Set(name, topic, int32(p), float32((made*7919+p*104729)%(4<<20)))
			}
		}
	}
	return s, loads
}

// applied is a state with a plan carried out.
func applied(s *State, index uint64, commands []*Assign) (*State, uint64) {
	for _, c := range commands {
		index++
		s, _ = s.apply(index, c)
	}
	return s, index
}

// processor is the time that this process has had of the processors: other
// programs make no difference to it.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// scaleScene is one thing that happens to a fleet of some size.
type scaleScene struct {
	name string
	s    *State
	pace pace
}

// scenes are a fleet that begins, rests, loses a node, gains one and is as uneven as
// can be.
func scenes(s *State, loads Loads) []scaleScene {
	index := uint64(100)
	full := pace{moving: 1 << 30, balancing: 1 << 30, tolerance: endBalancing}
	usual := pace{moving: DefaultConfig().MaxMoves, balancing: DefaultConfig().MaxMoves, tolerance: endBalancing}
	settled, index := applied(s, index, assign(s, loads, full).commands)
	index++
	lost, _ := settled.apply(index, &EndIncarnation{Node: "node-000", Incarnation: 7})
	gained, _ := lost.apply(index+1, &BeginIncarnation{Node: "node-000"})
	only := new(State)
	*only = *s
	only.Members = map[string]Member{"node-000": s.Members["node-000"]}
	uneven, _ := applied(only, index, assign(only, loads, full).commands)
	again := new(State)
	*again = *uneven
	again.Members = s.Members
	return []scaleScene{
		{"all copies are placed", s, full},
		{"nothing is to be done", settled, usual},
		{"a node is lost", lost, usual},
		{"it comes back at once", gained, usual},
		{"all are on one node: the next moves", again, usual},
		{"all are on one node: every move", again, full},
	}
}

func BenchmarkAssign(b *testing.B) {
	s, loads := fleetOf(3, 10_000)
	for _, sc := range scenes(s, loads) {
		b.Run(sc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				assign(sc.s, loads, sc.pace)
			}
		})
	}
}

// TestScale prints what a plan costs and how much it has raft carry. The figures of
// docs/performance.md are from it.
func TestScale(t *testing.T) {
	sizes := [][2]int{{3, 10_000}}
	if *scaleMillion {
		sizes = append(sizes, [2]int{200, 1_000_000})
	}
	for _, size := range sizes {
		nodes, copies := size[0], size[1]
		s, loads := fleetOf(nodes, copies)
		t.Logf("%d copies on %d nodes", copies, nodes)
		t.Logf("  %-38s %10s %9s %9s %9s %10s %8s", "", "processor", "MB used", "placed", "released", "commands", "MB")
		for _, sc := range scenes(s, loads) {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := processor(t)
			p := assign(sc.s, loads, sc.pace)
			took := processor(t) - began
			runtime.ReadMemStats(&after)
			placed, released, bytes := 0, 0, 0
			for _, c := range p.commands {
				placed, released = placed+len(c.Place), released+len(c.Release)
				b, err := encodeCommand(c)
				if err != nil {
					t.Fatal(err)
				}
				bytes += len(b)
			}
			t.Logf("  %-38s %10s %9.1f %9d %9d %10d %8.1f", sc.name, took.Round(100*time.Microsecond), float64(after.TotalAlloc-before.TotalAlloc)/1e6, placed, released, len(p.commands), float64(bytes)/1e6)
			if sc.name == "all copies are placed" && placed < copies {
				t.Errorf("%d copies of %d were placed", placed, copies)
			}
		}
		p := assign(s, loads, pace{})
		began := processor(t)
		settled, _ := applied(s, 100, p.commands)
		apply := processor(t) - began
		began = processor(t)
		b, err := settled.encode()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("  applying the first plan takes %s, encoding the state %s and %.1f MB", apply.Round(time.Millisecond), (processor(t) - began).Round(time.Millisecond), float64(len(b))/1e6)
		began = processor(t)
		n := len(settled.AssignmentsOf("node-000", 7))
		t.Logf("  a node looks through all copies for its %d in %s", n, (processor(t) - began).Round(10*time.Microsecond))
	}
}
