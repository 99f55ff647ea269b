package cluster

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// counts returns how many copies each node has, those being released not counted.
func counts(s *State) map[string]int {
	n := make(map[string]int)
	s.works(func(w Work, o Owner) {
		if w.Kind == WorkCopy && o.Node != "" && !o.Releasing {
			n[o.Node]++
		}
	})
	return n
}

func owners(s *State) map[Work]Owner {
	all := make(map[Work]Owner)
	s.works(func(w Work, o Owner) { all[w] = o })
	return all
}

// moved counts the copies whose node differs.
func moved(before, after map[Work]Owner) (n int) {
	for w, o := range before {
		if w.Kind == WorkCopy && after[w].Node != o.Node {
			n++
		}
	}
	return n
}

// paceOf lets so many copies move, for whatever reason.
func paceOf(moves int) pace { return pace{moving: moves, balancing: moves, tolerance: endBalancing} }

func (s *script) settle(loads Loads, maxMoves int) {
	s.t.Helper()
	for range 200 {
		s.assign(loads, maxMoves)
		before := s.state
		s.release()
		if s.state == before {
			return
		}
	}
	s.t.Fatal("the fleet does not come to rest")
}

// fleet is a script with nodes and one flow of 12 copies, assigned.
func fleet(t *testing.T, nodes ...string) *script {
	t.Helper()
	s := newScript(t)
	for _, n := range nodes {
		s.node(n)
	}
	s.flow("orders", nodes[0], map[string]int32{"t": 12})
	s.settle(nil, 0)
	return s
}

func TestAssignSpreadsEvenly(t *testing.T) {
	s := fleet(t, "a", "b", "c")
	if got, want := counts(s.state), (map[string]int{"a": 4, "b": 4, "c": 4}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if p := assign(s.state, nil, paceOf(100)); len(p.commands) > 0 {
		t.Errorf("a settled fleet gets %+v", p.commands[0])
	}
}

func TestAssignMovesOnlyWhatTheDeadHad(t *testing.T) {
	s := fleet(t, "a", "b", "c")
	before := owners(s.state)
	s.must(&EndIncarnation{Node: "b", Incarnation: s.state.Members["b"].Incarnation})
	s.settle(nil, 100)
	if got, want := counts(s.state), (map[string]int{"a": 6, "c": 6}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := moved(before, owners(s.state)); got != 4 {
		t.Errorf("%d copies moved, want 4", got)
	}
}

func TestAssignGivesBackAfterRestart(t *testing.T) {
	s := fleet(t, "a", "b", "c")
	before := owners(s.state)
	for _, n := range []string{"a", "b", "c"} {
		s.must(&BeginIncarnation{Node: n})
	}
	s.settle(nil, 100)
	if got := moved(before, owners(s.state)); got != 0 {
		t.Errorf("%d copies moved when every node restarted, want 0", got)
	}
}

func TestAssignMakesRoomForNewNode(t *testing.T) {
	s := fleet(t, "a", "b", "c")
	before := owners(s.state)
	s.node("d")
	s.assign(nil, 0)
	if got := counts(s.state)["d"]; got != 0 {
		t.Errorf("with no moves allowed d got %d copies", got)
	}
	s.assign(nil, 2)
	if got := 12 - len(s.state.AssignmentsOf("d", 0)) - sum(counts(s.state)); got != 2 {
		t.Errorf("%d copies are on the move, want 2", got)
	}
	s.settle(nil, 2)
	if got, want := counts(s.state), (map[string]int{"a": 3, "b": 3, "c": 3, "d": 3}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := moved(before, owners(s.state)); got != 3 {
		t.Errorf("%d copies moved, want 3", got)
	}
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func TestAssignDrains(t *testing.T) {
	s := fleet(t, "a", "b", "c")
	before := owners(s.state)
	s.must(&DrainMember{Name: "a", Draining: true})
	s.settle(nil, 1)
	if got, want := counts(s.state), (map[string]int{"b": 6, "c": 6}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := moved(before, owners(s.state)); got != 4 {
		t.Errorf("%d copies moved, want 4", got)
	}
	if o := s.owner(Work{Kind: WorkFlow, Name: "orders"}); o.Node == "a" {
		t.Error("a drained node keeps a duty")
	}
	s.must(&DrainMember{Name: "a"})
	s.must(&StopMember{Node: "b", Incarnation: s.state.Members["b"].Incarnation})
	s.settle(nil, 100)
	if got, want := counts(s.state), (map[string]int{"a": 6, "c": 6}); !reflect.DeepEqual(got, want) {
		t.Errorf("with b stopping got %v, want %v", got, want)
	}
	for _, n := range []string{"a", "c"} {
		s.must(&DrainMember{Name: n, Draining: true})
	}
	s.settle(nil, 100)
	if got := counts(s.state); len(got) != 0 {
		t.Errorf("with all draining got %v", got)
	}
}

func TestAssignByLoad(t *testing.T) {
	s := fleet(t, "a", "b")
	// Two heavy copies on a, idle ones elsewhere: one of the heavy ones moves.
	loads := make(Loads)
	var heavy []Work
	s.state.works(func(w Work, o Owner) {
		if w.Kind == WorkCopy && o.Node == "a" && len(heavy) < 2 {
			loads.Set(w.Name, w.Topic, w.Partition, 100<<20)
			heavy = append(heavy, w)
		}
	})
	before := owners(s.state)
	s.settle(loads, 10)
	after := owners(s.state)
	if got := moved(before, after); got != 1 {
		t.Errorf("%d copies moved, want 1", got)
	}
	held := make(map[string]int)
	for _, w := range heavy {
		held[after[w].Node]++
	}
	if held["a"] != 1 || held["b"] != 1 {
		t.Errorf("heavy copies by node: %v", held)
	}
	// A little more or less moves nothing.
	loads.Set(heavy[0].Name, heavy[0].Topic, heavy[0].Partition, 109<<20)
	if p := assign(s.state, loads, paceOf(10)); len(p.commands) > 0 {
		t.Errorf("a little more load moves %+v", p.commands[0])
	}
}

func TestAssignPrefersNodesNearTheDestination(t *testing.T) {
	s := newScript(t)
	for name, region := range map[string]string{"a": "east", "b": "west", "c": "west", "d": ""} {
		s.must(&SetMember{Name: name, Region: region})
	}
	for _, n := range []string{"a", "b", "c", "d"} {
		s.must(&BeginIncarnation{Node: n})
	}
	s.must(&ApplyObjects{Put: []PutObject{
		{Key: "Cluster/dst", Spec: json.RawMessage(`{"kind":"Cluster","spec":{"region":"west"}}`)},
		{Key: "ReplicationFlow/f", Spec: json.RawMessage(`{"kind":"ReplicationFlow","spec":{"destination":"dst"}}`)},
	}})
	s.settle(nil, 100)
	if o := s.owner(Work{Kind: WorkFlow, Name: "f"}); o.Node != "b" && o.Node != "c" {
		t.Errorf("the duty is with %+v", o)
	}
	s.topics("f", map[string]int32{"t": 6})
	s.settle(nil, 100)
	want := map[string]int{"b": 3, "c": 3}
	if got := counts(s.state); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, n := range []string{"b", "c"} {
		s.must(&EndIncarnation{Node: n, Incarnation: s.state.Members[n].Incarnation})
	}
	s.settle(nil, 100)
	if got := counts(s.state); got["a"] != 3 || got["d"] != 3 {
		t.Errorf("with nobody near got %v", got)
	}
	for _, n := range []string{"b", "c"} {
		s.must(&BeginIncarnation{Node: n})
	}
	s.settle(nil, 100)
	if got := counts(s.state); !reflect.DeepEqual(got, want) {
		t.Errorf("when they are back got %v, want %v", got, want)
	}
}

// A random history: nodes come, die, drain and restart, topics come and go, moves
// are asked for and answered late or never. What must hold is checked at each
// step, from the point of view of the nodes.
func TestAssignRandomHistory(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{script: newScript(t), rnd: rand.New(rand.NewPCG(seed, 0)), holds: make(map[Work]Owner), epochs: make(map[string]uint64)}
			h.must(&ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/f", Spec: json.RawMessage(`{}`)}}})
			for range 400 {
				h.step()
				h.check()
			}
		})
	}
}

type history struct {
	*script
	rnd *rand.Rand
	// holds is what nodes believe that they own, by their own account: from the
	// assignment until they released it or their incarnation ended.
	holds  map[Work]Owner
	epochs map[string]uint64 // the highest by work
	loads  Loads
}

func (h *history) step() {
	node := string(rune('a' + h.rnd.IntN(5)))
	m := h.state.Members[node]
	topic := fmt.Sprintf("t%d", h.rnd.IntN(4))
	switch h.rnd.IntN(12) {
	case 0:
		h.node(node)
	case 1:
		h.must(&EndIncarnation{Node: node, Incarnation: m.Incarnation})
	case 2:
		if m.Name != "" {
			h.must(&DrainMember{Name: node, Draining: !m.Draining})
		}
	case 3:
		h.must(&RemoveMember{Name: node})
	case 4, 5:
		if f := h.state.Flows["f"]; f != nil && f.Duty.Node != "" && !f.Leaving {
			h.must(&SetTopics{Flow: "f", Epoch: f.Duty.Epoch, Put: []TopicSpec{{
				Source: topic, SourceID: fmt.Sprint(h.rnd.IntN(3)), Partitions: int32(h.rnd.IntN(20)), Blocked: h.rnd.IntN(8) == 0,
			}}})
		}
	case 6:
		if f := h.state.Flows["f"]; f != nil && f.Duty.Node != "" && !f.Leaving {
			h.must(&SetTopics{Flow: "f", Epoch: f.Duty.Epoch, Remove: []string{topic}})
		}
	case 7:
		if _, ok := h.state.Objects["ReplicationFlow/f"]; ok && h.rnd.IntN(4) == 0 {
			h.must(&ApplyObjects{Delete: []string{"ReplicationFlow/f"}})
		} else {
			h.must(&ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/f", Spec: json.RawMessage(`{}`)}}})
		}
	case 8:
		h.loads = make(Loads)
		for w := range h.holds {
			h.loads.Set(w.Name, w.Topic, w.Partition, float32(h.rnd.IntN(1<<24)))
		}
	default:
		for _, c := range assign(h.state, h.loads, paceOf(h.rnd.IntN(5))).commands {
			h.must(c)
		}
		if h.rnd.IntN(2) == 0 {
			h.letGo()
		}
	}
}

// letGo has one node release what it was asked to.
func (h *history) letGo() {
	for _, name := range sortedKeys(h.state.Members) {
		m := h.state.Members[name]
		c := &Release{Node: name, Incarnation: m.Incarnation}
		for _, a := range h.state.AssignmentsOf(name, m.Incarnation) {
			if a.Releasing {
				c.Works = append(c.Works, OwnedWork{a.Work, a.Epoch})
				delete(h.holds, a.Work)
			}
		}
		if len(c.Works) > 0 {
			h.must(c)
			return
		}
	}
}

func (h *history) check() {
	h.t.Helper()
	for w, o := range h.holds {
		if h.state.Ended(o.Node, o.Incarnation) {
			delete(h.holds, w) // fenced
		}
	}
	for w, o := range owners(h.state) {
		if o.Epoch < h.epochs[w.String()] && o.Node != "" {
			h.t.Fatalf("%s: epoch %d after %d", w, o.Epoch, h.epochs[w.String()])
		}
		if o.Node == "" {
			continue
		}
		held, ok := h.holds[w]
		if ok && (held.Node != o.Node || held.Incarnation != o.Incarnation || held.Epoch != o.Epoch) {
			h.t.Fatalf("%s: given to %+v while %+v holds it", w, o, held)
		}
		if !ok && o.Epoch <= h.epochs[w.String()] {
			h.t.Fatalf("%s: assigned again at epoch %d, there was %d", w, o.Epoch, h.epochs[w.String()])
		}
		h.holds[w] = o
		h.epochs[w.String()] = o.Epoch
	}
	for w := range h.holds {
		if o, ok := h.state.Owner(w); !ok || o.Node == "" {
			h.t.Fatalf("%s: taken from %+v, who did not release it", w, h.holds[w])
		}
	}
}

func TestAssignComesToRestInBalance(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		s := newScript(t)
		nodes := 1 + rnd.IntN(7)
		for i := range nodes {
			s.node(fmt.Sprintf("n%d", i))
		}
		topics := make(map[string]int32)
		for i := range 1 + rnd.IntN(10) {
			topics[fmt.Sprintf("t%d", i)] = int32(rnd.IntN(30))
		}
		s.flow("f", "n0", topics)
		s.settle(nil, 1+rnd.IntN(10))
		lo, hi, total := 1<<30, 0, 0
		for i := range nodes {
			n := counts(s.state)[fmt.Sprintf("n%d", i)]
			lo, hi, total = min(lo, n), max(hi, n), total+n
		}
		if float64(hi-lo) > max(1, endBalancing*float64(total)/float64(nodes)) {
			t.Errorf("seed %d: %d copies on %d nodes lie between %d and %d", seed, total, nodes, lo, hi)
		}
	}
}

func TestAssignStaysBelowTheSizeOfACommand(t *testing.T) {
	s := newScript(t)
	s.node("a")
	s.flow("f", "a", map[string]int32{strings.Repeat("t", 249): 2500})
	commands := assign(s.state, nil, pace{}).commands
	if len(commands) != 3 {
		t.Errorf("2500 placements are %d commands, want 3", len(commands))
	}
	for _, c := range commands {
		b, err := encodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Place) > maxWorks || len(b) > raftnode.MaxCommand {
			t.Errorf("%d placements in %d bytes", len(c.Place), len(b))
		}
	}
	s.settle(nil, 0)
	if got := counts(s.state)["a"]; got != 2500 {
		t.Errorf("a has %d copies, want 2500", got)
	}
}

func TestLeases(t *testing.T) {
	start := time.Now()
	const grace, timeout = time.Second, 2 * time.Second
	members := func(pairs ...any) map[string]Member {
		m := make(map[string]Member)
		for i := 0; i < len(pairs); i += 2 {
			name := pairs[i].(string)
			m[name] = Member{Name: name, Incarnation: uint64(pairs[i+1].(int))}
		}
		return m
	}
	gone := func(l *leases, m map[string]Member, after time.Duration) string {
		return strings.Join(sortedKeys(l.expired(m, start.Add(after))), ",")
	}
	m := members("a", 1, "b", 2, "c", 0)
	l := newLeases(m, start, grace, timeout)
	for _, step := range []struct {
		after   time.Duration
		beats   map[string]uint64
		members map[string]Member
		gone    string
		settled bool
	}{
		{0, nil, m, "", false},
		{500 * time.Millisecond, map[string]uint64{"a": 1, "c": 0}, m, "", false},
		{999 * time.Millisecond, nil, m, "", false},
		{time.Second, nil, m, "b", true}, // never heard: gone after the grace
		{2400 * time.Millisecond, nil, members("a", 1, "b", 0), "", true},
		{2500 * time.Millisecond, nil, members("a", 1, "b", 0), "a", true}, // heard: after the timeout
		{2600 * time.Millisecond, nil, members("a", 0, "b", 9), "", true},  // a new incarnation
		{4500 * time.Millisecond, nil, members("a", 0, "b", 9), "", true},
		{4600 * time.Millisecond, nil, members("a", 0, "b", 9), "b", true},
		{4700 * time.Millisecond, map[string]uint64{"b": 9}, members("b", 9), "", true}, // heard after all, in time
	} {
		for name, incarnation := range step.beats {
			l.beat(name, incarnation, start.Add(step.after))
		}
		if got := gone(l, step.members, step.after); got != step.gone {
			t.Errorf("after %s: gone %q, want %q", step.after, got, step.gone)
		}
		if got := l.settled(step.members, start.Add(step.after)); got != step.settled {
			t.Errorf("after %s: settled %v, want %v", step.after, got, step.settled)
		}
	}
	if !l.alive("b", start.Add(5*time.Second)) || l.alive("b", start.Add(7*time.Second)) || l.alive("c", start) {
		t.Error("alive is wrong")
	}
	early := newLeases(members("a", 1), start, grace, timeout)
	early.beat("a", 1, start)
	if !early.settled(members("a", 1), start) {
		t.Error("everybody is here, and it is not settled")
	}
}

// Two copies leave a busy node together. The first one to be placed does not come
// back because the second is not there any more.
func TestWhatLeavesTogetherDoesNotComeBack(t *testing.T) {
	s := newScript(t)
	s.node("a")
	s.node("b")
	s.flow("f", "a", map[string]int32{"t": 3})
	s.place("a", copyOf("f", "t", 0))
	s.place("b", copyOf("f", "t", 1), copyOf("f", "t", 2))
	loads := make(Loads)
	for p, weight := range []float32{5, 6, 6} {
		loads.Set("f", "t", int32(p), (weight-1)*idleWeight)
	}
	release := []OwnedWork{{copyOf("f", "t", 1), s.owner(copyOf("f", "t", 1)).Epoch}, {copyOf("f", "t", 2), s.owner(copyOf("f", "t", 2)).Epoch}}
	s.must(&Assign{Release: release})
	s.must(&Release{Node: "b", Incarnation: s.state.Members["b"].Incarnation, Works: release[:1]})
	p := assign(s.state, loads, pace{moving: 10, tolerance: endBalancing})
	if len(p.commands) != 1 || len(p.commands[0].Place) != 1 || p.commands[0].Place[0].Node != "a" {
		t.Errorf("the plan is %+v, want the copy to go to a", p.commands)
	}
}
