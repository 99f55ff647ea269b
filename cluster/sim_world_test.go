package cluster

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"
)

// simBegin is what all clocks of a simulation show at first.
var simBegin = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// simEvents is more than happens in any schedule: who comes so far does something
// again and again.
const simEvents = 2_000_000

// sim is one run of a schedule: some nodes, a destination, and what happens to
// them in virtual time. One goroutine does all of it, one event after another, so
// that a seed and a plan always give the same run.
type sim struct {
	rnd      *rand.Rand
	now      time.Duration
	queue    simQueue
	seq      uint64
	cfg      Config
	faults   *simMutant
	nodes    []*simNode
	voters   int
	dst      *simDestination
	check    *simChecker
	operator *simOperator

	severed map[[2]int]int // one-way links by how many faults cut them
	loss    float64        // share of messages between nodes that are lost
	stuck   float64        // share of requests to the destination that come late
	healed  bool           // nothing is done to it any more

	gone             *simNode      // the one that dies for good in the end
	took, tookLeader time.Duration // until others had its work

	failure string // the first promise that was broken
	tracing bool
	trace   []string
	count   map[string]int
}

// simEvent is something that happens at a time.
type simEvent struct {
	at    time.Duration
	seq   uint64 // of those at one time the older one comes first
	node  *simNode
	life  int
	timer bool          // at is by the node's clock
	late  time.Duration // how much of at is because that clock was set back
	do    func()
}

type simQueue []*simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(*simEvent)) }
func (q *simQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func (s *sim) push(e *simEvent) {
	s.seq++
	e.seq = s.seq
	heap.Push(&s.queue, e)
}

// after has the world do something.
func (s *sim) after(d time.Duration, do func()) { s.push(&simEvent{at: s.now + d, do: do}) }

// run lets time pass until then, or until a promise is broken.
func (s *sim) run(until time.Duration) {
	for s.failure == "" && len(s.queue) > 0 && s.queue[0].at <= until {
		e := heap.Pop(&s.queue).(*simEvent)
		if s.count["events"]++; s.count["events"] > simEvents {
			s.fail("no rest: %d events in %s", simEvents, s.now)
		}
		s.now = e.at
		switch n := e.node; {
		case n == nil:
			e.do()
		case e.life != n.life: // it was meant for a process that has died
		case n.paused:
			n.backlog = append(n.backlog, e)
		default:
			e.do()
		}
	}
	if s.failure == "" {
		s.now = until
	}
}

// fail notes that a promise is broken.
func (s *sim) fail(format string, args ...any) {
	if s.failure == "" {
		s.failure = fmt.Sprintf(format, args...)
		s.say(nil, "BROKEN: %s", s.failure)
	}
}

// say writes a line of the trace.
func (s *sim) say(n *simNode, format string, args ...any) {
	if !s.tracing {
		return
	}
	who := "-"
	if n != nil {
		who = n.name
	}
	s.trace = append(s.trace, fmt.Sprintf("%9.3fs %-3s %s", s.now.Seconds(), who, fmt.Sprintf(format, args...)))
}

// between is a random duration.
func (s *sim) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rnd.Int64N(int64(most-least)))
}

// link cuts what one node sends to another, or, with by -1, heals one cut of it.
func (s *sim) link(from, to *simNode, by int) {
	if from != to {
		s.severed[[2]int{from.id, to.id}] += by
	}
}

func (s *sim) cut(from, to *simNode) bool { return s.severed[[2]int{from.id, to.id}] > 0 }

// send brings a message to another node, or loses it. Messages overtake each
// other.
func (s *sim) send(from, to *simNode, do func()) {
	d := s.between(time.Millisecond, 15*time.Millisecond)
	if !s.healed && s.rnd.IntN(50) == 0 {
		d = s.between(15*time.Millisecond, 700*time.Millisecond)
	}
	d += from.slow + to.slow
	if s.cut(from, to) || s.loss > 0 && s.rnd.Float64() < s.loss {
		s.count["messages lost"]++
		return
	}
	s.push(&simEvent{at: s.now + d, node: to, life: to.life, do: func() {
		if s.cut(from, to) {
			s.count["messages lost"]++
			return
		}
		do()
	}})
}

// call sends a request and brings the answer back. ok says that there is one;
// sent that the request may have arrived.
func (s *sim) call(from, to *simNode, timeout time.Duration, handle func(reply func(any)), done func(answer any, ok, sent bool)) {
	over := false
	finish := func(answer any, ok, sent bool) {
		if !over {
			over = true
			done(answer, ok, sent)
		}
	}
	if !to.up {
		from.timer(5*time.Millisecond, func() { finish(nil, false, false) })
		return
	}
	from.timer(timeout, func() { finish(nil, false, true) })
	s.send(from, to, func() {
		handle(func(answer any) { s.send(to, from, func() { finish(answer, true, true) }) })
	})
}

// timer has the node do something when its clock has gone on by d, unless the
// process has died by then.
func (n *simNode) timer(d time.Duration, do func()) {
	n.sim.push(&simEvent{at: n.sim.now + max(d, 0), node: n, life: n.life, timer: true, do: do})
}

// every does something again and again.
func (n *simNode) every(d time.Duration, do func()) {
	n.timer(d, func() {
		do()
		n.every(d, do)
	})
}

// clock is what the node takes the time for.
func (n *simNode) clock() time.Time { return simBegin.Add(n.sim.now + n.skew) }

// jump sets the node's clock, and what it waits for is due sooner or later.
func (n *simNode) jump(by time.Duration) {
	n.skew += by
	for _, e := range n.sim.queue {
		if e.node == n && e.timer && e.life == n.life {
			at := max(e.at-by, n.sim.now)
			e.at, e.late = at, e.late+at-e.at
		}
	}
	heap.Init(&n.sim.queue)
	n.sim.check.clocks = n.sim.now
}

// pause stops the process where it is.
func (n *simNode) pause() {
	n.paused, n.disturbed = true, n.sim.now
}

// resume lets it go on after it stood still for so long. A clock that stood still
// with it knows nothing of that.
func (n *simNode) resume(stood time.Duration, clockToo bool) {
	if !n.paused {
		return
	}
	n.paused, n.disturbed = false, n.sim.now
	backlog := n.backlog
	n.backlog = nil
	if clockToo {
		n.jump(-stood)
	}
	for _, e := range backlog {
		if clockToo && e.timer {
			e.at += stood
		} else {
			e.at = n.sim.now
		}
		n.sim.push(e)
	}
}
