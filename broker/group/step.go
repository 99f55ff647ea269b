package group

import (
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// step is one event being applied.
type step struct {
	*Group
	now     time.Time
	effects []Effect
}

func (s *step) emit(e Effect) { s.effects = append(s.effects, e) }

// save records the group as it is, unless that is too much for a record: then it
// is not Stable, and a restart finds it as it was before.
func (s *step) save() {
	if s.rules.MaxBytes <= 0 || s.size() <= s.rules.MaxBytes {
		s.emit(Save{})
	}
}

func (s *step) become(state State) { s.state, s.since = state, s.now }

func (s *step) join(j Join) {
	refuse := func(err error) { s.emit(Joined{To: j.To, Err: err, MemberID: j.MemberID, Generation: -1}) }
	_, known := s.members[j.MemberID]
	_, replaces := s.static[j.InstanceID]
	switch {
	case !known && !replaces && s.rules.MaxMembers > 0 && len(s.members) >= s.rules.MaxMembers:
		refuse(kerr.GroupMaxSizeReached)
	case !s.holds(j):
		refuse(kerr.GroupMaxSizeReached)
	case !s.supports(j.ProtocolType, j.Protocols):
		refuse(kerr.InconsistentGroupProtocol)
	case j.MemberID != "":
		if err := s.rejoin(j); err != nil {
			refuse(err)
		}
	case replaces && j.InstanceID != "":
		s.replaceStatic(j)
	case j.InstanceID == "" && j.RequireMemberID && s.rules.MaxMembers > 0 && len(s.pending) >= s.rules.MaxMembers:
		refuse(kerr.GroupMaxSizeReached) // of ids that nobody has come back with
	case j.InstanceID == "" && j.RequireMemberID:
		s.pending[j.NewMemberID] = s.now.Add(j.SessionTimeout)
		s.emit(Joined{To: j.To, Err: kerr.MemberIDRequired, MemberID: j.NewMemberID, Generation: -1})
	default:
		s.add(j.NewMemberID, j)
	}
}

// rejoin is the join of a member that has an id. An id that was given out to a
// dynamic member is not a static one's.
func (s *step) rejoin(j Join) error {
	if _, ok := s.pending[j.MemberID]; ok && j.InstanceID == "" {
		delete(s.pending, j.MemberID)
		s.add(j.MemberID, j)
		return nil
	}
	m, err := s.check(j.MemberID, j.InstanceID)
	if err != nil {
		return err
	}
	switch s.state {
	case PreparingRebalance:
		s.park(m, j)
		s.tryComplete()
	case CompletingRebalance:
		// The answer to its last join may have been lost.
		if m.matches(j.Protocols) {
			s.emit(s.joinedNow(m, j.To))
			return nil
		}
		s.park(m, j)
		s.prepare()
	case Stable:
		// A leader joins again to have its group assigned anew.
		if m.id != s.leader && m.matches(j.Protocols) {
			s.emit(s.joinedNow(m, j.To))
			return nil
		}
		s.park(m, j)
		s.prepare()
	default:
		return kerr.UnknownMemberID
	}
	return nil
}

// park lets a member's join wait for the rebalance. A join of the same member
// that waits already is on a connection that its client has given up.
func (s *step) park(m *member, j Join) {
	if m.joinTo != 0 {
		s.emit(Joined{To: m.joinTo, Err: kerr.RebalanceInProgress, MemberID: m.id, Generation: -1})
	}
	m.update(j)
	m.joinTo = j.To
}

func (s *step) add(id string, j Join) {
	if len(s.members) == 0 {
		s.protocolType = j.ProtocolType
		s.leader = id
	}
	s.joined++
	m := &member{id: id, instanceID: j.InstanceID, order: s.joined, isNew: true, deadline: s.now.Add(newMemberTimeout)}
	s.members[id] = m
	if j.InstanceID != "" {
		s.static[j.InstanceID] = id
	}
	s.newMemberAdded = true
	s.park(m, j)
	s.prepare()
}

// replaceStatic is the join of a new process under an instance id that is taken:
// the old one is fenced, and its assignment passes on without a rebalance where
// that is possible (KIP-345).
func (s *step) replaceStatic(j Join) {
	m := s.members[s.static[j.InstanceID]]
	oldLeader := s.leader
	s.unpark(m, kerr.FencedInstanceID)
	delete(s.members, m.id)
	if s.leader == m.id {
		s.leader = j.NewMemberID
	}
	m.id = j.NewMemberID
	s.members[m.id] = m
	s.static[j.InstanceID] = m.id
	m.update(j)
	m.joinTo = j.To
	m.deadline = s.now.Add(m.session)
	switch {
	case s.state == PreparingRebalance:
		s.tryComplete()
	case s.state == Stable && s.selectProtocol() == s.protocol:
		m.joinTo = 0
		answer := s.joinedNow(m, j.To)
		if j.CanSkipAssignment {
			answer.SkipAssignment = s.leader == m.id
		} else {
			// It must not think that it leads: its assignment would be dropped.
			answer.Leader, answer.Members = oldLeader, nil
		}
		s.emit(Save{})
		s.emit(answer)
	default:
		s.prepare()
	}
}

// unpark answers what a member waits for with an error.
func (s *step) unpark(m *member, err error) {
	if m.joinTo != 0 {
		s.emit(Joined{To: m.joinTo, Err: err, MemberID: m.id, Generation: -1})
		m.joinTo = 0
	}
	if m.syncTo != 0 {
		s.emit(Synced{To: m.syncTo, Err: err})
		m.syncTo = 0
	}
}

// joinedNow is a member's answer about the present generation.
func (s *step) joinedNow(m *member, to Token) Joined {
	answer := Joined{
		To: to, MemberID: m.id, Leader: s.leader, Generation: s.generation,
		ProtocolType: s.protocolType, Protocol: s.protocol,
	}
	if m.id == s.leader {
		for _, o := range s.ordered() {
			answer.Members = append(answer.Members, JoinedMember{o.id, o.instanceID, o.metadata(s.protocol)})
		}
	}
	return answer
}

// prepare begins a rebalance, unless one is under way, and completes it if there
// is nobody to wait for.
func (s *step) prepare() {
	switch s.state {
	case PreparingRebalance:
		s.tryComplete()
		return
	case CompletingRebalance:
		for _, m := range s.ordered() {
			m.assignment = nil
			s.unparkSync(m, kerr.RebalanceInProgress)
		}
	}
	s.initial = s.state == Empty
	if s.initial {
		s.newMemberAdded = false
		s.joinDeadline = s.now.Add(s.rules.InitialDelay)
		s.remaining = max(0, s.rebalanceTimeout()-s.rules.InitialDelay)
	} else {
		s.joinDeadline = s.now.Add(s.rebalanceTimeout())
	}
	s.syncDeadline = time.Time{}
	for _, m := range s.members {
		m.pendingSync = false
	}
	s.become(PreparingRebalance)
	s.tryComplete()
}

func (s *step) unparkSync(m *member, err error) {
	if m.syncTo != 0 {
		s.emit(Synced{To: m.syncTo, Err: err})
		m.syncTo = 0
	}
}

// tryComplete ends the rebalance if all have joined or its time is up.
func (s *step) tryComplete() {
	if s.state != PreparingRebalance {
		return
	}
	due := !s.now.Before(s.joinDeadline)
	if s.initial && due && s.newMemberAdded && s.remaining > 0 {
		// Others came meanwhile: wait on, as long as the members allow.
		delay := min(s.rules.InitialDelay, s.remaining)
		s.remaining -= delay
		s.newMemberAdded = false
		s.joinDeadline = s.now.Add(delay)
		return
	}
	if due || !s.initial && len(s.pending) == 0 && s.allJoined() {
		s.complete()
	}
}

func (s *step) allJoined() bool {
	for _, m := range s.members {
		if m.joinTo == 0 {
			return false
		}
	}
	return true
}

// complete makes the next generation of those that have joined. Static members
// that have not are kept: they may be restarting.
func (s *step) complete() {
	for _, m := range s.ordered() {
		if m.joinTo == 0 && m.instanceID == "" {
			s.drop(m, kerr.UnknownMemberID)
		}
	}
	if len(s.members) > 0 && !s.electLeader() {
		s.joinDeadline = s.now.Add(s.rebalanceTimeout())
		s.initial = false
		return
	}
	s.initial = false
	s.generation++
	if len(s.members) == 0 {
		s.protocol, s.leader = "", ""
		s.become(Empty)
		s.emit(Save{})
		return
	}
	s.protocol = s.selectProtocol()
	s.syncDeadline = s.now.Add(s.rebalanceTimeout())
	s.become(CompletingRebalance)
	s.save()
	for _, m := range s.ordered() {
		if m.joinTo != 0 {
			s.emit(s.joinedNow(m, m.joinTo))
			m.joinTo = 0
		}
		m.isNew = false
		m.pendingSync = true
		m.deadline = s.now.Add(m.session)
	}
}

// electLeader keeps a leader that has joined, or makes the first that has the
// leader. It returns false if nobody has.
func (s *step) electLeader() bool {
	if m, ok := s.members[s.leader]; ok && m.joinTo != 0 {
		return true
	}
	for _, m := range s.ordered() {
		if m.joinTo != 0 {
			s.leader = m.id
			return true
		}
	}
	return false
}

func (s *step) sync(e Sync) {
	refuse := func(err error) { s.emit(Synced{To: e.To, Err: err}) }
	m, err := s.check(e.MemberID, e.InstanceID)
	switch {
	case err != nil:
		refuse(err)
		return
	case e.Generation != s.generation:
		refuse(kerr.IllegalGeneration)
		return
	case e.ProtocolType != nil && *e.ProtocolType != s.protocolType,
		e.Protocol != nil && *e.Protocol != s.protocol:
		refuse(kerr.InconsistentGroupProtocol)
		return
	}
	switch s.state {
	case PreparingRebalance:
		refuse(kerr.RebalanceInProgress)
	case CompletingRebalance:
		s.unparkSync(m, kerr.RebalanceInProgress) // of a connection that is given up
		m.syncTo = e.To
		s.synchronised(m)
		if m.id == s.leader {
			s.assign(e.Assignments)
		}
	case Stable:
		s.synchronised(m)
		s.emit(s.synced(m, e.To))
	default:
		refuse(kerr.UnknownMemberID)
	}
}

// synchronised notes that a member has asked for its assignment.
func (s *step) synchronised(m *member) {
	m.pendingSync = false
	m.deadline = s.now.Add(m.session)
	for _, o := range s.members {
		if o.pendingSync {
			return
		}
	}
	s.syncDeadline = time.Time{}
}

// assign takes the leader's assignments and answers all that wait for them.
func (s *step) assign(assignments map[string][]byte) {
	for _, m := range s.members {
		m.assignment = assignments[m.id]
	}
	if s.rules.MaxBytes > 0 && s.size() > s.rules.MaxBytes {
		for _, m := range s.ordered() {
			s.unparkSync(m, kerr.UnknownServerError)
		}
		s.prepare()
		return
	}
	s.become(Stable)
	s.emit(Save{})
	for _, m := range s.ordered() {
		if m.syncTo != 0 {
			s.emit(s.synced(m, m.syncTo))
			m.syncTo = 0
			m.deadline = s.now.Add(m.session)
		}
	}
}

func (s *step) synced(m *member, to Token) Synced {
	return Synced{To: to, ProtocolType: s.protocolType, Protocol: s.protocol, Assignment: m.assignment}
}

func (s *step) heartbeat(h Heartbeat) error {
	m, err := s.check(h.MemberID, h.InstanceID)
	if err != nil {
		return err
	}
	if h.Generation != s.generation {
		return kerr.IllegalGeneration
	}
	// A new member of a rebalance keeps its longer first deadline.
	if !m.isNew {
		m.deadline = s.now.Add(m.session)
	}
	if s.state == PreparingRebalance {
		return kerr.RebalanceInProgress
	}
	return nil
}

func (s *step) leave(e Leave) {
	errs := make([]error, len(e.Members))
	before := len(s.members)
	for i, l := range e.Members {
		errs[i] = s.leaveOne(l)
	}
	s.emit(Left{e.To, errs})
	s.afterDrop(len(s.members) < before)
}

func (s *step) leaveOne(l Leaver) error {
	if l.InstanceID != "" && l.MemberID == "" {
		l.MemberID = s.static[l.InstanceID]
	}
	if _, ok := s.pending[l.MemberID]; ok {
		delete(s.pending, l.MemberID)
		return nil
	}
	m, err := s.check(l.MemberID, l.InstanceID)
	if err != nil {
		return err
	}
	s.drop(m, kerr.UnknownMemberID)
	return nil
}

// drop takes a member out and answers what it waits for.
func (s *step) drop(m *member, err error) {
	s.unpark(m, err)
	delete(s.members, m.id)
	if m.instanceID != "" {
		delete(s.static, m.instanceID)
	}
	if s.leader == m.id {
		s.leader = ""
		if rest := s.ordered(); len(rest) > 0 {
			s.leader = rest[0].id
		}
	}
}

// afterDrop lets a group go on that may wait for fewer than before, or that has
// lost members.
func (s *step) afterDrop(members bool) {
	switch s.state {
	case Stable, CompletingRebalance:
		if members {
			s.prepare()
		}
	case PreparingRebalance:
		s.tryComplete()
	}
	// A restart must not wait for who has gone. A new generation is saved anyway.
	if members && s.state == PreparingRebalance && s.generation > 0 {
		s.save()
	}
}

func (s *step) tick() {
	due := func(t time.Time) bool { return !t.IsZero() && !s.now.Before(t) }
	before := len(s.members)
	maps.DeleteFunc(s.pending, func(_ string, t time.Time) bool { return due(t) })
	for _, m := range s.ordered() {
		switch {
		case !due(m.deadline):
		case !m.isNew && (m.joinTo != 0 || m.syncTo != 0):
			// It is here: we are the ones who keep it waiting.
			m.deadline = s.now.Add(m.session)
		default:
			s.drop(m, kerr.UnknownMemberID)
		}
	}
	if due(s.syncDeadline) {
		s.syncDeadline = time.Time{}
		for _, m := range s.ordered() {
			if m.pendingSync {
				s.drop(m, kerr.UnknownMemberID)
			}
		}
	}
	s.afterDrop(len(s.members) < before)
}
