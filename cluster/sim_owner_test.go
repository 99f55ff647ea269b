package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// simSession is one incarnation of a node, and what it does for its work: the
// part of Session and of the data plane that matters for who may write.
type simSession struct {
	n           *simNode
	incarnation uint64
	tenure      tenure
	over        bool

	from   *State // that was offered last
	given  []Assignment
	told   map[Work]int // levels
	lanes  []*simLane
	copies map[Work]*simCopy
	duties map[Work]*simDuty
}

// simLane is a transactional id with which a session writes.
type simLane struct {
	id      string
	epoch   int // the producer's, at the destination
	opening bool
	ready   bool
	waiting []func(ok bool)
}

// simCopy is a copy that a session makes.
type simCopy struct {
	s        *simSession
	a        Assignment
	lane     *simLane
	next     int64
	turn     int  // grows when it begins anew: what was asked for before is moot
	running  bool // its position is known
	writing  bool // a write has no answer yet
	unclear  bool // a write has had none, and its lane is not fenced yet
	stopping bool // it is to be released
	released bool
}

// begin is Node.Session, and what it is called by: one life after another.
func (n *simNode) begin() {
	if n.session != nil || n.stopping {
		return
	}
	s := &simSession{n: n, copies: make(map[Work]*simCopy), duties: make(map[Work]*simDuty)}
	n.session = s
	n.beginIncarnation(s)
}

// beginIncarnation is Node.beginIncarnation.
func (n *simNode) beginIncarnation(s *simSession) {
	began := n.clock()
	n.propose(&BeginIncarnation{Node: n.name}, n.sim.cfg.SessionLease/2, func(number uint64, err error) {
		if err != nil || n.stopping {
			n.timer(50*time.Millisecond, func() {
				if n.session == s && !n.stopping {
					n.beginIncarnation(s)
				}
			})
			return
		}
		n.sim.say(n, "begins incarnation %d", number)
		s.incarnation = number
		s.tenure = newTenure(&n.sim.cfg, began)
		s.lanes = []*simLane{{id: fmt.Sprintf("%s-%d-0", n.name, number)}, {id: fmt.Sprintf("%s-%d-1", n.name, number)}}
		s.watch()
		n.poke()
		n.feed()
	})
}

// watch ends the session when its tenure is over.
func (s *simSession) watch() {
	if s.n.sim.faults.noLease {
		return
	}
	until := s.tenure.until
	s.n.timer(until.Sub(s.n.clock()), func() {
		if !s.over && s.tenure.until.Equal(until) {
			s.lost(ErrLeaseLost)
		}
	})
}

func (s *simSession) renew(sent time.Time) {
	s.tenure.renew(sent)
	s.watch()
}

// loads is Session.loads, but that nothing is averaged: what copies move jumps.
func (s *simSession) loads(_ time.Time, all bool) (out []topicLoads) {
	if s.told == nil || all {
		s.told = make(map[Work]int)
	}
	for _, a := range s.given {
		if a.Work.Kind != WorkCopy {
			continue
		}
		level := levelOf(s.n.sim.operator.load(a.Work))
		if old, ok := s.told[a.Work]; ok && old == level {
			continue
		}
		s.told[a.Work] = level
		out = append(out, topicLoads{Flow: a.Work.Name, Topic: a.Work.Topic, Partitions: []int32{a.Work.Partition}, Levels: []int{level}})
	}
	return out
}

// lost ends the session; its work stops, and the node begins another.
func (s *simSession) lost(cause error) {
	if s.over {
		return
	}
	s.over = true
	s.n.sim.count["sessions lost"]++
	s.n.sim.say(s.n, "its session of incarnation %d is over: %v", s.incarnation, cause)
	n := s.n
	n.timer(n.sim.between(time.Millisecond, 100*time.Millisecond), func() {
		if n.session == s {
			n.session = nil
			n.begin()
		}
	})
}

// stopped reports whether the session's owner has stopped writing. One that does
// not stop when it should is what fences are for.
func (s *simSession) stopped() bool { return s.over && !s.n.zombie }

// offer takes all work of the session: Session.offer, and its reader.
func (s *simSession) offer(state *State) {
	before := s.from
	s.from = state
	if before != nil && !otherWork(before, state, s.n.name, s.incarnation) {
		return
	}
	all := state.AssignmentsOf(s.n.name, s.incarnation)
	if slices.Equal(all, s.given) {
		return
	}
	s.given = all
	have := make(map[Work]bool)
	for _, a := range all {
		have[a.Work] = true
		if a.Work.Kind == WorkCopy {
			s.copy(a)
		} else {
			s.duty(a)
		}
	}
	for w := range s.copies {
		if !have[w] {
			delete(s.copies, w) // released
		}
	}
	for w := range s.duties {
		if !have[w] {
			delete(s.duties, w)
		}
	}
}

func (s *simSession) copy(a Assignment) {
	c := s.copies[a.Work]
	if c == nil || c.a.Epoch != a.Epoch {
		c = &simCopy{s: s, a: a, lane: s.lanes[int(a.Work.Partition)%len(s.lanes)]}
		s.copies[a.Work] = c
		if !a.Releasing {
			c.start()
		}
	}
	if a.Releasing && !c.stopping {
		c.stopping = true
		c.release()
	}
}

// mine reports whether what was begun in a turn still counts.
func (c *simCopy) mine(turn int) bool {
	return c.turn == turn && !c.s.stopped() && c.s.copies[c.a.Work] == c && !c.stopping
}

// start brings the copy from nothing to running: its lane is registered, the
// lanes of the dead are fenced, the ledger says where to go on.
func (c *simCopy) start() {
	c.turn++
	c.running = false
	turn, n := c.turn, c.s.n
	step := func(next func()) func(ok bool) {
		return func(ok bool) {
			switch {
			case !c.mine(turn):
			case ok:
				next()
			default:
				n.timer(200*time.Millisecond, func() {
					if c.mine(turn) {
						c.start()
					}
				})
			}
		}
	}
	c.s.ready(c.lane, step(func() {
		c.unclear = false
		c.s.fence(step(func() {
			n.sim.dst.call(n, func() any { return n.sim.dst.position(c.a.Work) }, func(answer any, ok bool) {
				if ok && c.mine(turn) {
					c.next = answer.(int64)
				}
				step(func() {
					c.running = true
					c.write()
				})(ok)
			})
		}))
	}))
}

// ready calls done when the lane may be used.
func (s *simSession) ready(l *simLane, done func(ok bool)) {
	if l.ready {
		done(true)
		return
	}
	l.waiting = append(l.waiting, done)
	if l.opening {
		return
	}
	l.opening = true
	n := s.n
	finish := func(ok bool) {
		l.opening, l.ready = false, ok
		waiting := l.waiting
		l.waiting = nil
		for _, w := range waiting {
			w(ok)
		}
	}
	n.sim.dst.call(n, func() any { return n.sim.dst.fence(l.id) }, func(answer any, ok bool) {
		if !ok {
			finish(false)
			return
		}
		epoch := answer.(int)
		c := &RegisterLane{Lane: Lane{ID: l.id, ClusterID: "dst", ProducerEpoch: int16(epoch), Node: n.name, Incarnation: s.incarnation}}
		n.propose(c, 5*time.Second, func(_ uint64, err error) {
			if err == nil {
				l.epoch = epoch
			}
			if errors.Is(err, ErrIncarnationEnded) {
				s.lost(err)
			}
			finish(err == nil)
		})
	})
}

// reopen gives up a lane whose last write is unclear, or that was fenced: its
// copies begin anew.
func (s *simSession) reopen(l *simLane) {
	l.ready = false
	for _, a := range s.given {
		if c := s.copies[a.Work]; c != nil && c.lane == l && c.running {
			c.unclear = c.unclear || c.writing
			c.writing = false
			if c.stopping {
				c.turn++
				c.release()
			} else {
				c.start()
			}
		}
	}
}

// fence fences the lanes of ended incarnations.
func (s *simSession) fence(done func(ok bool)) {
	n := s.n
	lanes := n.state.LanesToFence("dst")
	if len(lanes) == 0 || n.sim.faults.noFence {
		done(true)
		return
	}
	left, all := len(lanes), true
	var ids []string
	for _, l := range lanes {
		ids = append(ids, l.ID)
		n.sim.dst.call(n, func() any { return n.sim.dst.fence(l.ID) }, func(_ any, ok bool) {
			left, all = left-1, all && ok
			if left > 0 {
				return
			}
			if !all {
				done(false)
				return
			}
			n.sim.count["lanes fenced"] += len(ids)
			n.propose(&FencedLanes{IDs: ids}, 5*time.Second, func(_ uint64, err error) { done(err == nil) })
		})
	}
}

// write copies some records, and goes on when it is answered.
func (c *simCopy) write() {
	turn, n := c.turn, c.s.n
	if !c.mine(turn) || !c.running || c.writing {
		return
	}
	c.writing = true
	w := simWrite{
		work: c.a.Work, epoch: c.a.Epoch, lane: c.lane.id, producer: c.lane.epoch, from: c.next, records: 1 + n.sim.rnd.Int64N(100),
		node: n.name, incarnation: c.s.incarnation,
	}
	n.sim.dst.call(n, func() any { return n.sim.dst.write(w) }, func(answer any, ok bool) {
		if c.turn != turn {
			return
		}
		c.writing = false
		switch {
		case !ok, !answer.(bool):
			c.unclear = !ok
			if !c.s.stopped() {
				c.s.reopen(c.lane)
			}
		default:
			c.next += w.records
			n.timer(n.sim.between(50*time.Millisecond, 400*time.Millisecond), c.write)
		}
		if c.stopping {
			c.release()
		}
	})
}

// release gives the copy back, once it is known that nothing is under way.
func (c *simCopy) release() {
	n, s := c.s.n, c.s
	if c.released || s.over || s.copies[c.a.Work] != c {
		return
	}
	if c.writing && !n.sim.faults.releaseEarly {
		return // until it is answered
	}
	if c.unclear && !n.sim.faults.releaseEarly {
		s.ready(c.lane, func(ok bool) {
			c.unclear = c.unclear && !ok
			n.timer(100*time.Millisecond, c.release)
		})
		return
	}
	c.released = true
	cmd := &Release{Node: n.name, Incarnation: s.incarnation, Works: []OwnedWork{{c.a.Work, c.a.Epoch}}}
	n.propose(cmd, 5*time.Second, func(_ uint64, err error) {
		if err != nil && !errors.Is(err, ErrIncarnationEnded) {
			c.released = false
			n.timer(200*time.Millisecond, c.release)
		}
	})
}

// simDuty is a flow's duty, or the execution of a runbook.
type simDuty struct {
	s        *simSession
	a        Assignment
	released bool
}

func (s *simSession) duty(a Assignment) {
	d := s.duties[a.Work]
	if d == nil || d.a.Epoch != a.Epoch {
		d = &simDuty{s: s, a: a}
		s.duties[a.Work] = d
		d.step()
	}
	if a.Releasing {
		d.release()
	}
}

func (d *simDuty) release() {
	if d.released || d.s.over {
		return
	}
	d.released = true
	n := d.s.n
	cmd := &Release{Node: n.name, Incarnation: d.s.incarnation, Works: []OwnedWork{{d.a.Work, d.a.Epoch}}}
	n.propose(cmd, 5*time.Second, func(_ uint64, err error) {
		if err != nil && !errors.Is(err, ErrIncarnationEnded) {
			d.released = false
			n.timer(200*time.Millisecond, d.release)
		}
	})
}

// step does the next thing of the duty, and goes on while it has it.
func (d *simDuty) step() {
	n, w := d.s.n, d.a.Work
	if d.s.stopped() || d.released || d.s.duties[w] != d {
		return
	}
	again := func() { n.timer(n.sim.between(200*time.Millisecond, time.Second), d.step) }
	if w.Kind == WorkFlow {
		put, remove := n.sim.operator.discover(w.Name, n.state.Flows[w.Name])
		if len(put)+len(remove) == 0 {
			again()
			return
		}
		n.propose(&SetTopics{Flow: w.Name, Epoch: d.a.Epoch, Put: put, Remove: remove}, 5*time.Second, func(uint64, error) { again() })
		return
	}
	e := n.state.Executions[w.Name]
	if e == nil || e.Done {
		return
	}
	var data simProgress
	if err := json.Unmarshal(e.Data, &data); err != nil {
		n.sim.fail("%s: %v", w, err)
		return
	}
	data.Step++
	b, _ := json.Marshal(data)
	n.propose(&PutExecution{ID: w.Name, Runbook: e.Runbook, Expect: e.Revision, Epoch: d.a.Epoch, Data: b, Done: data.Step >= 12}, 5*time.Second, func(uint64, error) { again() })
}

// simProgress is what an execution has done.
type simProgress struct {
	Step int `json:"step"`
}

// simDestination is a cluster that is written to: it refuses producers that were
// fenced, and nothing else. So what it accepts shows whether the fleet fences.
type simDestination struct {
	sim       *sim
	producers map[string]int // the epoch of each transactional id
	logs      map[Work]*simLog
}

// simLog is a partition of it, and who wrote last.
type simLog struct {
	next int64
	last simWrite
	at   time.Duration
}

// simWrite is a transaction: records of a copy and the hop that says so.
type simWrite struct {
	work        Work
	epoch       uint64
	lane        string
	producer    int
	from        int64
	records     int64
	node        string
	incarnation uint64
}

const simDestinationTimeout = time.Second

// call sends a request to the destination. Some arrive long after nobody waits
// for the answer any more.
func (d *simDestination) call(n *simNode, handle func() any, done func(answer any, ok bool)) {
	s := d.sim
	over := false
	n.timer(simDestinationTimeout, func() {
		if !over {
			over = true
			done(nil, false)
		}
	})
	there, back := s.between(time.Millisecond, 10*time.Millisecond), s.between(time.Millisecond, 10*time.Millisecond)
	if s.rnd.Float64() < s.stuck {
		there = s.between(time.Second, 12*time.Second)
	}
	if n.cutOff > 0 {
		return
	}
	life := n.life
	s.after(there, func() {
		answer := handle()
		if n.cutOff > 0 || s.rnd.Float64() < s.stuck {
			return
		}
		s.push(&simEvent{at: s.now + back, node: n, life: life, do: func() {
			if !over {
				over = true
				done(answer, true)
			}
		}})
	})
}

// fence is InitProducerId: older producers of the id are refused from here on.
func (d *simDestination) fence(id string) int {
	d.producers[id]++
	return d.producers[id]
}

func (d *simDestination) position(w Work) int64 {
	if l := d.logs[w]; l != nil {
		return l.next
	}
	return 0
}

// write accepts a transaction unless its producer was fenced, and holds it
// against what the fleet promises.
func (d *simDestination) write(w simWrite) bool {
	s := d.sim
	if d.producers[w.lane] != w.producer {
		s.count["late writes refused"]++
		return false
	}
	l := d.logs[w.work]
	if l == nil {
		l = new(simLog)
		d.logs[w.work] = l
	}
	old := l.last
	switch {
	case w.epoch < old.epoch:
		s.fail("%s: %s writes at epoch %d after %s wrote at %d", w.work, w.node, w.epoch, old.node, old.epoch)
	case w.epoch == old.epoch && (w.node != old.node || w.incarnation != old.incarnation):
		s.fail("%s: %s and %s both write at epoch %d", w.work, old.node, w.node, w.epoch)
	case w.epoch > old.epoch && old.epoch > 0 && d.producers[old.lane] == old.producer && s.check.released[w.work] < old.epoch:
		s.fail("%s: %s writes at epoch %d while %s at %d is not fenced and has not released it", w.work, w.node, w.epoch, old.node, old.epoch)
	case w.from != l.next:
		s.fail("%s: %s writes from %d, the copy ends at %d", w.work, w.node, w.from, l.next)
	}
	if w.epoch > old.epoch && old.epoch > 0 {
		s.count["takeovers and moves"]++
	}
	l.next, l.last, l.at = l.next+w.records, w, s.now
	s.count["writes accepted"]++
	return true
}
