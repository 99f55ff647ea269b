package cluster

import (
	"encoding/json"
	"errors"
	"reflect"
	"time"
)

// simNode is a node of the fleet. What it decides is decided by the code that
// Node runs: State.apply, controller, pulse, tenure.
type simNode struct {
	sim    *sim
	id     int
	name   string
	region string
	raft   simRaft

	// On disk.
	snapshot []byte // of the state at kept
	kept     int    // entries that the snapshot covers

	// The process.
	up      bool
	life    int
	paused  bool
	backlog []*simEvent
	skew    time.Duration
	// disturbed is when it was last stopped or let go on.
	disturbed time.Duration
	slow      time.Duration // of its messages
	cutOff    int           // from the destination, by how many faults
	zombie    bool          // goes on writing for a while after its session

	// In memory.
	state    *State
	applied  int    // entries
	revision uint64 // of the last command
	waiting  []simWaiter
	asked    []*simAsked // of the leader that it follows

	controller *controller
	proposing  bool
	last       Command

	pulse    pulse
	beating  bool // a heartbeat is under way
	beatSoon bool

	registered bool
	session    *simSession
	stopping   bool
	leave      func() // ends the process once its work has moved
}

// simWaiter waits for the node to have applied a command.
type simWaiter struct {
	revision uint64
	do       func()
}

// start begins a life of the process.
func (n *simNode) start() {
	n.life++
	n.up, n.paused, n.backlog = true, false, nil
	n.stopping, n.leave, n.zombie = false, nil, false
	n.waiting, n.asked, n.controller, n.proposing, n.last = nil, nil, nil, false, nil
	n.session, n.beating, n.beatSoon, n.registered = nil, false, false, false
	n.pulse = pulse{interval: n.sim.cfg.StatusInterval}
	n.restore()
	n.raft.start()
	n.register()
	n.every(n.sim.cfg.HeartbeatInterval, n.beat)
	n.every(leadTick, n.step)
	n.begin()
}

// restore reads the state that is on disk.
func (n *simNode) restore() {
	n.state, n.applied, n.revision = machine{}.Initial(), 0, 0
	if n.snapshot == nil {
		return
	}
	var err error
	if n.state, err = (machine{}).Decode(n.snapshot); err != nil {
		n.sim.fail("%s cannot read its snapshot: %v", n.name, err)
		n.state = machine{}.Initial()
		return
	}
	n.applied = n.kept
	for i := n.kept; i > 0 && n.revision == 0; i-- {
		if n.raft.log[i-1].data != nil {
			n.revision = uint64(i)
		}
	}
}

// crash ends the process as kill -9 does.
func (n *simNode) crash() {
	if !n.up {
		return
	}
	n.sim.say(n, "dies")
	n.end()
}

// end is the end of the process: only what is on disk is left.
func (n *simNode) end() {
	if n.session != nil {
		n.session.over = true
	}
	n.up, n.controller, n.session = false, nil, nil
	n.life++
}

// apply applies what is committed.
func (n *simNode) apply() {
	for n.applied < n.raft.commit {
		entry := n.raft.log[n.applied]
		n.applied++
		if entry.data == nil {
			continue
		}
		index := uint64(n.applied)
		before := n.state
		next, out, err := n.sim.faults.apply(n, n.state, index, entry.data)
		if err != nil {
			n.sim.fail("%s cannot apply entry %d: %v", n.name, index, err)
			return
		}
		n.state, n.revision = next, index
		n.sim.check.applied(n, index, entry.data, before, next, out)
	}
	if n.applied-n.kept > 40 && n.sim.rnd.IntN(4) == 0 {
		b, err := n.sim.faults.encode(n.state)
		if err != nil {
			n.sim.fail("%s cannot encode its state: %v", n.name, err)
		}
		n.snapshot, n.kept = b, n.applied
	}
	n.timer(0, n.changed) // what reads the state runs beside raft
}

// changed has everybody look who waits for the state.
func (n *simNode) changed() {
	waiting := n.waiting
	n.waiting = nil
	for _, w := range waiting {
		if w.revision <= n.revision {
			w.do()
		} else {
			n.waiting = append(n.waiting, w)
		}
	}
	n.feed()
	n.step()
	if s := n.session; n.leave != nil && (s == nil || s.over || n.state.movedAway(n.name, s.incarnation)) {
		leave := n.leave
		n.leave = nil
		leave()
	}
}

// propose has the fleet apply a command, as Node.propose does.
func (n *simNode) propose(c Command, timeout time.Duration, done func(number uint64, err error)) {
	b, err := encodeCommand(c)
	if err != nil {
		n.sim.fail("encode %s: %v", c.kind(), err)
		return
	}
	deadline := n.clock().Add(timeout)
	n.sim.count["proposals"]++
	var attempt func()
	again := func(err error, after time.Duration) {
		if n.clock().Add(after).Before(deadline) {
			n.timer(after, attempt)
		} else {
			done(0, err)
		}
	}
	attempt = func() {
		n.submit(b, deadline.Sub(n.clock()), func(index uint64, out []byte, err error) {
			switch {
			case err == nil:
				n.acknowledged(index, b, out, done)
			case errors.Is(err, ErrNoLeader):
				again(err, 25*time.Millisecond)
			case proposeAgain(c, err):
				n.sim.count["proposals repeated"]++
				again(err, 50*time.Millisecond)
			case n.sim.faults.unclearIsDone:
				n.sim.check.acknowledged(n, uint64(len(n.raft.log)), b)
				done(0, nil)
			default:
				done(0, err)
			}
		})
	}
	attempt()
}

// acknowledged waits until the node's own state has the command.
func (n *simNode) acknowledged(index uint64, command, out []byte, done func(uint64, error)) {
	n.sim.check.acknowledged(n, index, command)
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		n.sim.fail("result of entry %d: %v", index, err)
		return
	}
	finish := func() { done(r.Number, r.Refusal.err()) }
	if n.revision >= index {
		finish()
		return
	}
	n.waiting = append(n.waiting, simWaiter{index, finish})
}

// submit brings a command to the leader, once: raftnode.Node.Apply.
func (n *simNode) submit(b []byte, timeout time.Duration, done func(index uint64, out []byte, err error)) {
	type answer struct {
		index uint64
		out   []byte
		err   error
	}
	if n.raft.role == simLeader {
		n.commit(b, done)
		return
	}
	to := n.raft.leader
	if to == nil {
		done(0, nil, ErrNoLeader)
		return
	}
	finish := done
	asked := &simAsked{}
	done = func(index uint64, out []byte, err error) {
		if !asked.over {
			asked.over = true
			finish(index, out, err)
		}
	}
	asked.giveUp = func() { done(0, nil, ErrUnclear) }
	n.asked = append(n.asked, asked)
	n.sim.call(n, to, min(timeout, 10*time.Second), func(reply func(any)) {
		to.commit(b, func(index uint64, out []byte, err error) { reply(answer{index, out, err}) })
	}, func(a any, ok, sent bool) {
		switch {
		case ok:
			got := a.(answer)
			done(got.index, got.out, got.err)
		case sent:
			done(0, nil, ErrUnclear)
		default:
			done(0, nil, ErrNoLeader)
		}
	})
}

// simAsked is a request to a leader that is not waited for when there is another.
type simAsked struct {
	over   bool
	giveUp func()
}

// forsake gives up on what was asked of a leader that is followed no more; it has
// a moment to say so itself.
func (n *simNode) forsake() {
	asked := n.asked
	n.asked = nil
	for _, a := range asked {
		if !a.over {
			n.timer(n.sim.cfg.ElectionTimeout, a.giveUp)
		}
	}
}

// commit appends a command on the leader.
func (n *simNode) commit(b []byte, done func(index uint64, out []byte, err error)) {
	if n.raft.role != simLeader {
		done(0, nil, ErrNoLeader)
		return
	}
	index := len(n.raft.log) + 1
	n.raft.append(b, func(ok bool) {
		if !ok {
			n.sim.count["proposals unclear"]++
			done(uint64(index), nil, ErrUnclear)
			return
		}
		done(uint64(index), n.sim.check.result(uint64(index)), nil)
	})
}

// beginLeading is Node.lead.
func (n *simNode) beginLeading() {
	cfg := n.sim.cfg
	if n.sim.faults.noGrace {
		cfg.LeaderGrace = 0
	}
	n.controller = newController(&cfg, n.state, "simulated", n.clock(), n.clock().Sub(n.raft.contact))
	n.proposing, n.last = false, nil
	n.poke()
	n.timer(0, n.step)
}

func (n *simNode) endLeading() { n.controller = nil }

// step is what leader.run does when its state or the time has changed.
func (n *simNode) step() {
	c := n.controller
	if c == nil || n.proposing {
		return
	}
	command := n.sim.faults.decide(c, n.state, n.revision, n.clock())
	if command == nil || reflect.DeepEqual(command, n.last) {
		n.last = nil
		return
	}
	n.last, n.proposing = command, true
	n.sim.say(n, "as leader proposes %s", simText(command))
	propose := n.proposeLeading
	if n.sim.faults.lateLeader {
		propose = func(c Command, done func(error)) {
			n.propose(c, proposeTimeout, func(_ uint64, err error) { done(err) })
		}
	}
	propose(command, func(err error) {
		switch {
		case n.controller != c:
		case err != nil:
			n.timer(leadTick, func() {
				if n.controller == c {
					n.proposing = false
					n.step()
				}
			})
		default:
			n.proposing = false
			n.step()
		}
	})
}

// proposeLeading is Node.proposeLeading.
func (n *simNode) proposeLeading(c Command, done func(err error)) {
	b, err := encodeCommand(c)
	if err != nil {
		n.sim.fail("encode %s: %v", c.kind(), err)
		return
	}
	n.commit(b, func(index uint64, out []byte, err error) {
		if err != nil {
			done(err)
			return
		}
		n.acknowledged(index, b, out, func(_ uint64, err error) { done(err) })
	})
}

// register is Node.register.
func (n *simNode) register() {
	n.propose(&SetMember{Name: n.name, APIAddr: n.name, Region: n.region, Version: "sim"}, time.Minute, func(_ uint64, err error) {
		if n.registered = err == nil; err != nil {
			n.timer(200*time.Millisecond, n.register)
		}
	})
}

// poke asks for a heartbeat at once.
func (n *simNode) poke() {
	if n.up {
		n.timer(0, n.beat)
	}
}

// beat is Node.beat and beater.beat.
func (n *simNode) beat() {
	if n.beating {
		n.beatSoon = true
		return
	}
	if n.raft.leader != nil {
		n.pulse.leader = n.raft.leader.name
	}
	_, registered := n.state.Members[n.name]
	registered = registered || n.registered
	var incarnation uint64
	var loads func(time.Time, bool) []topicLoads
	s := n.session
	if s != nil && s.incarnation == 0 {
		s = nil // it has not begun
	}
	if s != nil {
		incarnation, loads = s.incarnation, s.loads
	}
	hb, ok := n.pulse.next(n.name, registered, incarnation, loads, n.clock())
	if !ok {
		return
	}
	sent := n.clock()
	n.beating = true
	to := n.sim.byName(n.pulse.leader)
	n.sim.call(n, to, n.sim.cfg.HeartbeatTimeout, func(reply func(any)) { to.hear(hb, reply) }, func(a any, ok, _ bool) {
		n.beating = false
		if ok && a != nil {
			n.heard(s, a.(heartbeatAnswer), sent)
		} else {
			n.pulse.lost()
		}
		if n.beatSoon {
			n.beatSoon = false
			n.beat()
		}
	})
}

// heard takes the answer to a heartbeat.
func (n *simNode) heard(s *simSession, a heartbeatAnswer, sent time.Time) {
	n.pulse.answered()
	switch {
	case a.Removed:
		n.sim.say(n, "has been removed")
		n.end()
	case s == nil || s.over:
	case a.Ended:
		s.lost(ErrIncarnationEnded)
	default:
		s.renew(sent)
	}
}

// hear is leader.hear; nil says that this node does not lead.
func (n *simNode) hear(hb heartbeat, reply func(any)) {
	c := n.controller
	if c == nil {
		reply(nil)
		return
	}
	answer := func(ok bool) {
		if !ok || n.controller != c {
			reply(nil)
			return
		}
		reply(c.hear(n.state, hb, n.clock()))
	}
	if n.sim.faults.answersAlone {
		answer(true)
		return
	}
	n.raft.verified(answer)
}

// feed is Node.feed.
func (n *simNode) feed() {
	s := n.session
	if s == nil || s.incarnation == 0 || s.over {
		return
	}
	if n.state.Ended(n.name, s.incarnation) {
		s.lost(ErrIncarnationEnded)
		return
	}
	s.offer(n.state)
}

// stop is the orderly end: Node.drain.
func (n *simNode) stop() {
	if !n.up || n.stopping {
		return
	}
	n.sim.say(n, "stops in good order")
	n.stopping = true
	gone := func() {
		n.raft.transfer()
		n.timer(50*time.Millisecond, func() {
			if n.up {
				n.end()
			}
		})
	}
	s := n.session
	if s == nil || s.incarnation == 0 {
		gone()
		return
	}
	end := func() {
		s.lost(ErrStopped)
		n.propose(&EndIncarnation{Node: n.name, Incarnation: s.incarnation, Reason: "stopped"}, 2*time.Second, func(uint64, error) { gone() })
	}
	n.timer(n.sim.cfg.DrainTimeout, func() {
		if n.leave != nil {
			n.leave = nil
			end()
		}
	})
	n.propose(&StopMember{Node: n.name, Incarnation: s.incarnation}, 5*time.Second, func(_ uint64, err error) {
		if err != nil {
			end()
			return
		}
		n.leave = end
		n.changed()
	})
}
