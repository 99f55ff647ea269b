package cluster

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// simAction is something that a schedule does to the fleet, and takes back after
// a while.
type simAction struct {
	at   time.Duration
	kind string
	node int
	mask uint32 // nodes on one side, or a choice
	last time.Duration
}

func (a simAction) String() string {
	return fmt.Sprintf("%7.3fs %-10s node %d, mask %b, for %.3fs", a.at.Seconds(), a.kind, a.node, a.mask, a.last.Seconds())
}

// simKinds are the kinds of action, by how often they come.
var simKinds = map[string]int{
	"crash": 6, "stop": 3, "pause": 5, "suspend": 3, "jump": 3, "isolate": 4, "deaf": 3, "mute": 3, "split": 4, "bridge": 2,
	"lossy": 3, "slow": 3, "transfer": 3, "drain": 3, "remove": 2, "unreach": 3, "stuck": 3, "zombie": 4, "leader": 6,
	"topics": 8, "flow": 4, "delete": 2, "label": 4, "group": 4, "run": 4, "load": 4, "pin": 2, "stale": 3,
}

// simPlan chooses what happens in the first part of a schedule, of some kinds only
// if there are any.
func simPlan(seed uint64, nodes int, length time.Duration, only []string) []simAction {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var kinds []string
	for _, k := range sortedKeys(simKinds) {
		for range simKinds[k] {
			if len(only) > 0 && !slices.Contains(only, k) {
				continue
			}
			kinds = append(kinds, k)
		}
	}
	var plan []simAction
	for at := 3 * time.Second; at < length; at += time.Duration(rnd.Int64N(int64(1200 * time.Millisecond))) {
		plan = append(plan, simAction{
			at: at, kind: kinds[rnd.IntN(len(kinds))], node: rnd.IntN(nodes), mask: rnd.Uint32(),
			last: 500*time.Millisecond + time.Duration(rnd.Int64N(int64(1+rnd.IntN(8))*int64(time.Second))),
		})
	}
	return plan
}

// do carries an action out. What it does ends by itself.
func (s *sim) do(a simAction) {
	n := s.nodes[a.node]
	if a.kind == "leader" { // something to whoever leads
		for _, l := range s.nodes {
			if l.raft.role == simLeader && l.up {
				n = l
			}
		}
		a.kind = []string{"crash", "pause", "isolate", "deaf", "mute", "stop", "suspend"}[a.mask%7]
	}
	s.say(n, "ACTION %s", a)
	s.count["fault "+a.kind]++
	if s.operator.does(a, n) {
		return
	}
	switch a.kind {
	case "crash":
		n.crash()
		s.after(a.last, n.revive)
	case "stop":
		n.stop()
		s.after(a.last, n.revive)
	case "pause", "suspend":
		if n.up && !n.paused {
			life := n.life
			n.pause()
			s.after(a.last, func() {
				if n.life == life {
					n.resume(a.last, a.kind == "suspend")
				}
			})
		}
	case "jump":
		n.jump(time.Duration(int64(a.mask)<<8%int64(2*simJump)) - simJump)
	case "lossy":
		s.loss += 0.2
		s.undo(a.last, func() { s.loss = max(0, s.loss-0.2) })
	case "slow":
		n.slow += 60 * time.Millisecond
		s.undo(a.last, func() { n.slow -= 60 * time.Millisecond })
	case "transfer":
		for _, l := range s.nodes {
			if l.up && !l.paused {
				l.raft.transfer()
			}
		}
	case "unreach":
		n.cutOff++
		s.undo(a.last, func() { n.cutOff-- })
	case "stuck":
		s.stuck += 0.1
		s.undo(a.last, func() { s.stuck = max(0, s.stuck-0.1) })
	case "zombie":
		n.zombie = true
		life := n.life
		s.after(4*a.last, func() { n.zombie = n.zombie && n.life != life })
	default:
		s.partition(a, n)
	}
}

// undo takes something back after a while, unless everything has been by then.
func (s *sim) undo(after time.Duration, do func()) {
	s.after(after, func() {
		if !s.healed {
			do()
		}
	})
}

// partition cuts links between nodes: all of one (isolate), those to it (deaf) or
// from it (mute), between two sides (split), or between two sides but for one node
// that sees both (bridge).
func (s *sim) partition(a simAction, n *simNode) {
	side := func(x *simNode) bool { return a.mask>>x.id&1 == 1 }
	change := func(by int) {
		for _, x := range s.nodes {
			for _, y := range s.nodes {
				var cut bool
				switch a.kind {
				case "isolate":
					cut = x == n || y == n
				case "deaf":
					cut = y == n
				case "mute":
					cut = x == n
				case "split":
					cut = side(x) != side(y)
				case "bridge":
					cut = side(x) != side(y) && x != n && y != n
				}
				if cut {
					s.link(x, y, by)
				}
			}
		}
	}
	change(1)
	s.undo(a.last, func() { change(-1) })
}

// revive starts a process that has ended, if it has not been started since.
func (n *simNode) revive() {
	if !n.up {
		n.start()
	} else if n.stopping {
		n.sim.after(time.Second, n.revive) // it is still on its way
	}
}

// simOperator is everybody who asks the fleet for something.
type simOperator struct {
	sim    *sim
	topics map[string]map[string]TopicSpec // what is to be found, by flow and topic
	swing  int
	labels int
	runs   int
}

func (o *simOperator) load(w Work) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, w, o.swing)
	return float64(h.Sum64() % (4 << 20))
}

// discover is what the holder of a flow's duty reports.
func (o *simOperator) discover(name string, f *Flow) (put []TopicSpec, remove []string) {
	if f == nil || f.Leaving {
		return nil, nil
	}
	want := o.topics[name]
	for _, topic := range sortedKeys(want) {
		if t := f.Topics[topic]; t == nil || t.TopicSpec != want[topic] || t.Leaving {
			put = append(put, want[topic])
		}
	}
	for _, topic := range sortedKeys(f.Topics) {
		if _, ok := want[topic]; !ok && !f.Topics[topic].Leaving {
			remove = append(remove, topic)
		}
	}
	return put, remove
}

func (o *simOperator) declare(n *simNode, name string) {
	o.labels++
	spec := fmt.Sprintf(`{"kind":"ReplicationFlow","metadata":{"labels":{"n":"%d"}},"spec":{"destination":"dst"}}`, o.labels)
	o.propose(n, &ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/" + name, Spec: json.RawMessage(spec)}}})
}

func (o *simOperator) propose(n *simNode, c Command) {
	if n.up && !n.paused {
		n.propose(c, 10*time.Second, func(uint64, error) {})
	}
}

// does carries out what is a request and not a fault.
func (o *simOperator) does(a simAction, n *simNode) bool {
	s := o.sim
	name := []string{"orders", "invoices", "clicks"}[a.mask%3]
	other := s.nodes[int(a.mask>>4)%len(s.nodes)]
	switch a.kind {
	case "drain":
		o.propose(other, &DrainMember{Name: n.name, Draining: true})
		s.after(a.last, func() { o.propose(other, &DrainMember{Name: n.name}) })
	case "remove":
		o.propose(other, &RemoveMember{Name: n.name})
		s.after(a.last, n.revive)
	case "topics":
		topic := fmt.Sprint("t", a.mask>>8%4)
		o.topics[name][topic] = TopicSpec{Source: topic, SourceID: fmt.Sprint(a.mask >> 16 % 2), Destination: topic, Partitions: int32(a.mask >> 20 % 9), Blocked: a.mask>>28 == 0}
		if a.mask>>24%5 == 0 {
			delete(o.topics[name], topic)
		}
	case "flow":
		o.declare(n, name)
	case "delete":
		o.propose(n, &ApplyObjects{Delete: []string{"ReplicationFlow/" + name}})
	case "label":
		cluster := fmt.Sprintf(`{"kind":"Cluster","metadata":{"name":"dst","labels":{"n":"%[2]d"}},"spec":{"region":"z%[1]d"}}`, a.mask%3, a.mask)
		o.propose(n, &ApplyObjects{Put: []PutObject{{Key: "Cluster/dst", Spec: json.RawMessage(cluster)}}})
	case "stale": // built on what somebody has seen a moment ago
		seen := other.state.ObjectsRevision
		o.propose(n, &ApplyObjects{Put: []PutObject{{Key: "Cluster/src", Spec: json.RawMessage(fmt.Sprintf(`{"n":%d}`, a.mask))}}, Expect: &seen})
	case "group":
		o.propose(n, &MoveGroup{Flow: name, Group: fmt.Sprint("g", a.mask%4), Moved: a.mask>>4%3 > 0})
	case "run":
		o.runs++
		o.propose(n, &PutExecution{ID: fmt.Sprint("run-", o.runs), Runbook: "cutover", Data: json.RawMessage(`{"step":1}`)})
	case "load":
		o.swing++
	case "pin":
		o.propose(n, &PinLedger{ClusterID: "dst", Ledger: Ledger{TopicID: fmt.Sprint(a.mask % 2)}})
	default:
		return false
	}
	return true
}

// heal puts everything right that actions may have left.
func (s *sim) heal() {
	s.healed = true
	s.severed, s.loss, s.stuck = make(map[[2]int]int), 0, 0
	for _, n := range s.nodes {
		n.cutOff, n.slow, n.zombie = 0, 0, false
		n.resume(0, false)
	}
	for _, e := range s.queue {
		if e.late > 0 { // a clock was set back while it waited
			e.at, e.late = max(e.at-e.late, s.now), 0
		}
	}
	heap.Init(&s.queue)
	s.keepUp()
}

// keepUp starts what has ended, as an init system does, and asks again for what
// a late request has changed.
func (s *sim) keepUp() {
	for _, n := range s.nodes {
		if !n.up && n != s.gone {
			n.start()
		}
	}
	n := s.nodes[s.rnd.IntN(len(s.nodes))]
	for _, f := range sortedKeys(s.operator.topics) {
		if _, ok := n.state.Objects["ReplicationFlow/"+f]; !ok {
			s.operator.declare(n, f)
		}
	}
	for _, name := range sortedKeys(n.state.Members) {
		if n.state.Members[name].Draining {
			s.operator.propose(n, &DrainMember{Name: name})
		}
	}
	s.after(time.Second, s.keepUp)
}

// simText is a command in a line.
func simText(c Command) string {
	b, err := json.Marshal(c)
	if err != nil {
		return err.Error()
	}
	text := string(b)
	if len(text) > 240 {
		text = text[:240] + "..."
	}
	return c.kind() + " " + strings.ReplaceAll(text, `"`, "")
}
