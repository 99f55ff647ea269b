package cluster

import (
	"slices"
	"time"
)

// simRaft is one node's part of an ordered log: raft, but that a message carries
// the whole log. Entries that were not committed vanish when their leader goes, or
// come back with a later one.
type simRaft struct {
	n     *simNode
	voter bool

	// On disk: it survives a crash.
	term int
	vote int // id of the node that has this term's vote, -1 for none
	log  []simEntry

	role     simRole
	leader   *simNode      // whom it follows, nil for nobody
	contact  time.Time     // when it last heard a leader
	since    time.Time     // from when on it waits for one
	patience time.Duration // for how long
	commit   int           // how many entries are committed

	// Of a leader.
	first   int         // index of the first entry of its own term
	durable int         // how much of its log it has on disk
	match   []int       // by node: how much of its log it has
	heard   []time.Time // by node
	round   int         // of appends
	rounds  []int       // by node: the last one that it answered
	pending map[int]func(ok bool)
	verify  []simVerify
	leading bool // the fleet's leader has begun
}

type simRole int

const (
	simFollower simRole = iota
	simCandidate
	simLeader
)

// simEntry is an entry of the log; one without data begins a term.
type simEntry struct {
	term int
	data []byte
}

// simVerify waits until a majority has answered a round.
type simVerify struct {
	round int
	done  func(ok bool)
}

const simRaftTick = 80 * time.Millisecond

// start begins a life of the process with what is on disk.
func (r *simRaft) start() {
	r.role, r.leader, r.commit, r.leading = simFollower, nil, r.n.kept, false
	r.pending, r.verify = nil, nil
	r.contact = r.n.clock().Add(-time.Hour)
	r.rest()
	r.n.every(simRaftTick, r.tick)
}

// rest waits for a leader from now on.
func (r *simRaft) rest() {
	r.since = r.n.clock()
	t := r.n.sim.cfg.ElectionTimeout
	r.patience = r.n.sim.between(t, 2*t)
}

func (r *simRaft) voters() []*simNode { return r.n.sim.nodes[:r.n.sim.voters] }
func (r *simRaft) majority() int      { return r.n.sim.voters/2 + 1 }

func (r *simRaft) tick() {
	switch {
	case r.role == simLeader:
		if !r.hasMajority() {
			r.n.sim.say(r.n, "has lost its majority")
			r.follow(r.term, nil)
			return
		}
		r.broadcast()
	case r.voter && r.n.clock().Sub(r.since) >= r.patience:
		r.follow(r.term, nil)
		r.rest()
		r.campaign(false)
	}
}

// hasMajority reports whether enough voters have answered within the lease.
func (r *simRaft) hasMajority() bool {
	lease := r.n.sim.cfg.ElectionTimeout / 2
	fresh := 0
	for _, v := range r.voters() {
		if v == r.n || r.n.clock().Sub(r.heard[v.id]) < lease {
			fresh++
		}
	}
	return fresh >= r.majority() || r.n.sim.faults.answersAlone
}

// campaign asks whether it would be elected, and then to be. With force it does
// not ask first, and is not refused because there is a leader.
func (r *simRaft) campaign(force bool) {
	stand := func() {
		r.term++
		r.n.forsake()
		r.vote, r.role, r.leader = r.n.id, simCandidate, nil
		r.ask(false, force, r.lead)
	}
	if force {
		stand()
		return
	}
	r.ask(true, false, stand)
}

// ask collects votes for the next term (pre) or this one.
func (r *simRaft) ask(pre, force bool, won func()) {
	term, votes, done := r.term, 1, false
	if pre {
		term++
	}
	at := r.term
	count := func() {
		if !done && votes >= r.majority() && r.term == at && r.role != simLeader {
			done = true
			won()
		}
	}
	last, length := r.lastTerm(), len(r.log)
	for _, v := range r.voters() {
		if v == r.n {
			continue
		}
		r.n.sim.call(r.n, v, time.Second, func(reply func(any)) { reply(v.raft.granted(r.n, pre, force, term, last, length)) }, func(answer any, ok, _ bool) {
			if !ok {
				return
			}
			if theirs := answer.(int); theirs > term {
				r.follow(theirs, nil)
			} else if theirs == term {
				votes++
				count()
			}
		})
	}
	count()
}

// granted answers a request for a vote with the term if it is given, else with a
// later term or 0.
func (r *simRaft) granted(candidate *simNode, pre, force bool, term, last, length int) int {
	clock, timeout := r.n.clock(), r.n.sim.cfg.ElectionTimeout
	switch {
	case term < r.term:
		return r.term
	case !force && (r.role == simLeader || r.leader != nil && clock.Sub(r.contact) < timeout):
		return 0 // there is a leader
	case last < r.lastTerm() || last == r.lastTerm() && length < len(r.log):
		return 0 // it would lose what is committed
	case pre:
		return term
	case term > r.term:
		r.follow(term, nil)
	}
	if r.vote >= 0 && r.vote != candidate.id {
		return 0
	}
	r.vote = candidate.id
	r.rest()
	return term
}

func (r *simRaft) lastTerm() int {
	if len(r.log) == 0 {
		return 0
	}
	return r.log[len(r.log)-1].term
}

// follow goes on as a follower, of nobody yet if leader is nil.
func (r *simRaft) follow(term int, leader *simNode) {
	if term > r.term {
		r.term, r.vote = term, -1
	}
	if r.role == simLeader {
		r.depose()
	}
	r.role = simFollower
	changed := leader != nil && r.leader != leader
	if r.leader != leader {
		r.n.forsake()
	}
	r.leader = leader
	if leader != nil {
		r.contact, r.since = r.n.clock(), r.n.clock()
	}
	if changed {
		r.n.poke()
	}
}

// depose ends a leadership: what it has not committed is unclear.
func (r *simRaft) depose() {
	r.n.sim.count["leaders deposed"]++
	r.role = simFollower
	pending, verify := r.pending, r.verify
	r.pending, r.verify = nil, nil
	if r.leading {
		r.leading = false
		r.n.endLeading()
	}
	for index := r.commit; index <= len(r.log); index++ {
		if done := pending[index]; done != nil {
			done(false)
		}
	}
	for _, v := range verify {
		v.done(false)
	}
}

// lead begins a term.
func (r *simRaft) lead() {
	s := r.n.sim
	s.count["leaders elected"]++
	s.say(r.n, "leads term %d with %d entries", r.term, len(r.log))
	r.role, r.leader = simLeader, r.n
	r.match, r.rounds = make([]int, len(s.nodes)), make([]int, len(s.nodes))
	r.heard = make([]time.Time, len(s.nodes))
	for i := range r.heard {
		r.heard[i] = r.n.clock()
	}
	r.pending = make(map[int]func(bool))
	r.first, r.durable = len(r.log), len(r.log)
	r.append(nil, func(bool) {})
	r.n.poke()
}

// append adds an entry; done hears whether it was committed by this leader.
func (r *simRaft) append(data []byte, done func(ok bool)) {
	r.log = append(r.log, simEntry{r.term, data})
	r.pending[len(r.log)] = done
	r.broadcast()
	length, term := len(r.log), r.term
	r.n.timer(r.n.sim.between(time.Millisecond, 5*time.Millisecond), func() {
		if r.role == simLeader && r.term == term {
			r.durable = max(r.durable, length)
			r.advance()
		}
	})
}

// verified calls done when a majority has answered that this node leads.
func (r *simRaft) verified(done func(ok bool)) {
	if r.role != simLeader {
		done(false)
		return
	}
	r.broadcast()
	r.verify = append(r.verify, simVerify{r.round, done})
	r.confirm()
}

func (r *simRaft) broadcast() {
	r.round++
	for _, to := range r.n.sim.nodes {
		if to != r.n && to.up {
			r.sendLog(to)
		}
	}
}

func (r *simRaft) sendLog(to *simNode) {
	s, term, log, commit, round := r.n.sim, r.term, r.log, r.commit, r.round
	s.send(r.n, to, func() {
		theirs, ok := to.raft.receive(r.n, term, log, commit)
		s.send(to, r.n, func() { r.answer(to, theirs, round, len(log), ok) })
	})
}

// receive takes a leader's log.
func (r *simRaft) receive(from *simNode, term int, log []simEntry, commit int) (int, bool) {
	if term < r.term {
		return r.term, false
	}
	r.follow(term, from)
	i := r.commit
	for i < len(log) && i < len(r.log) && r.log[i].term == log[i].term {
		i++
	}
	if i < len(log) {
		if i < len(r.log) {
			r.n.sim.count["entries that vanished"] += len(r.log) - i
			r.log = slices.Clip(r.log[:i]) // messages under way have the rest
		}
		r.log = append(r.log, log[i:]...)
	}
	if commit = min(commit, len(log)); commit > r.commit {
		r.commit = commit
		r.n.apply()
	}
	return r.term, true
}

// answer takes a follower's.
func (r *simRaft) answer(from *simNode, term, round, length int, ok bool) {
	switch {
	case term > r.term:
		r.follow(term, nil)
	case r.role == simLeader && ok && term == r.term:
		r.heard[from.id] = r.n.clock()
		r.match[from.id] = max(r.match[from.id], length)
		r.rounds[from.id] = max(r.rounds[from.id], round)
		r.advance()
		r.confirm()
	}
}

// advance commits what a majority has. An entry of an earlier term is committed
// only with one of this term above it.
func (r *simRaft) advance() {
	have := []int{r.durable}
	for _, v := range r.voters() {
		if v != r.n {
			have = append(have, r.match[v.id])
		}
	}
	slices.Sort(have)
	need := len(have) - r.majority()
	if r.n.sim.faults.commitAlone {
		need = len(have) - 1
	}
	commit := have[need]
	if commit <= r.commit || commit <= r.first {
		return
	}
	before := r.commit
	r.commit = commit
	r.n.apply()
	for index := before + 1; index <= commit && r.role == simLeader; index++ {
		if done := r.pending[index]; done != nil {
			delete(r.pending, index)
			done(true)
		}
	}
	if r.role == simLeader && !r.leading {
		r.leading = true
		r.n.beginLeading()
	}
}

// confirm answers those who wait for a majority.
func (r *simRaft) confirm() {
	for len(r.verify) > 0 && r.role == simLeader {
		fresh := 1
		for _, v := range r.voters() {
			if v != r.n && r.rounds[v.id] >= r.verify[0].round {
				fresh++
			}
		}
		if fresh < r.majority() {
			return
		}
		done := r.verify[0].done
		r.verify = r.verify[1:]
		done(true)
	}
}

// transfer hands leadership to the voter that has most of the log.
func (r *simRaft) transfer() {
	if r.role != simLeader {
		return
	}
	var to *simNode
	for _, v := range r.voters() {
		if v != r.n && v.up && (to == nil || r.match[v.id] > r.match[to.id]) {
			to = v
		}
	}
	if to != nil {
		r.n.sim.send(r.n, to, func() { to.raft.campaign(true) })
	}
}
