package group

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// consumerStep is one event being applied to a group of the consumer protocol.
type consumerStep struct {
	*Consumer
	now     time.Time
	effects []Effect
	parts   []Part // to be saved, in the order in which they changed
	changed map[Part]bool
}

func (s *consumerStep) emit(e Effect) { s.effects = append(s.effects, e) }

// save notes that a part has changed.
func (s *consumerStep) save(kind partKind, name string) {
	if p := (Part{kind, name}); !s.changed[p] {
		s.changed[p] = true
		s.parts = append(s.parts, p)
	}
}

// consumerHeartbeat is the whole of the protocol: who the member is, what it
// wants, what follows for the group, and the next step of the member itself.
func (s *consumerStep) consumerHeartbeat(h ConsumerHeartbeat) {
	refuse := func(err error) { s.emit(ConsumerBeaten{To: h.To, Err: err}) }
	if h.MemberEpoch < 0 {
		if err := s.consumerLeave(h); err != nil {
			refuse(err)
			return
		}
		s.emit(ConsumerBeaten{To: h.To, MemberID: h.MemberID, MemberEpoch: h.MemberEpoch})
		return
	}
	asked := 1024 + len(h.ClientID) + textSize(h.SubscribedTopicNames)
	switch _, known := s.members[h.MemberID]; {
	case !s.rules.fits(asked):
		refuse(kerr.InvalidRequest)
		return
	case (!known || h.SubscribedTopicNames != nil) && !s.holds(h.MemberID, asked):
		refuse(kerr.GroupMaxSizeReached)
		return
	}
	m, err := s.admit(h)
	if err != nil {
		refuse(err)
		return
	}
	had := m.assigned
	subscribed := s.update(m, h)
	s.resolve(h, &subscribed)
	s.settle(subscribed, h.Topics)
	s.advance(m, h.Owned)
	m.deadline = s.now.Add(s.rules.SessionTimeout)

	answer := ConsumerBeaten{To: h.To, MemberID: m.id, MemberEpoch: m.epoch}
	full := h.MemberEpoch == 0 || h.RebalanceTimeout >= 0 && h.Owned != nil &&
		(h.SubscribedTopicNames != nil || h.SubscribedTopicRegex != nil)
	if full || !had.equal(m.assigned) {
		answer.Assignment = m.assigned
		if answer.Assignment == nil {
			answer.Assignment = Assignment{}
		}
	}
	s.emit(answer)
}

// admit finds the member that beats, or makes it. Nothing has changed when it
// refuses.
func (s *consumerStep) admit(h ConsumerHeartbeat) (*consumerMember, error) {
	m := s.members[h.MemberID]
	if m == nil && s.full() {
		return nil, kerr.GroupMaxSizeReached
	}
	if h.InstanceID != "" {
		return s.admitStatic(m, h)
	}
	switch {
	case m != nil:
		return m, m.checkEpoch(h)
	case h.MemberEpoch != 0:
		return nil, kerr.UnknownMemberID
	}
	return s.add(h.MemberID), nil
}

func (s *consumerStep) admitStatic(m *consumerMember, h ConsumerHeartbeat) (*consumerMember, error) {
	holder := s.members[s.static[h.InstanceID]]
	switch {
	case h.MemberEpoch != 0 && holder == nil:
		return nil, kerr.UnknownMemberID
	case h.MemberEpoch != 0 && holder != m:
		return nil, kerr.FencedInstanceID
	case h.MemberEpoch != 0:
		return m, m.checkEpoch(h)
	case holder == nil && m == nil:
		return s.add(h.MemberID), nil
	case holder == nil || holder == m && !m.gone():
		return m, nil // a process that begins anew under its own id
	case holder != m && (m != nil || holder.classic == nil && !holder.gone()):
		return nil, kerr.UnreleasedInstanceID
	}
	return s.replace(holder, h.MemberID), nil
}

func (s *consumerStep) full() bool {
	return s.rules.MaxMembers > 0 && len(s.members) >= s.rules.MaxMembers
}

// checkEpoch says whether a member is where it thinks it is. It may be one step
// behind, if the answer that told it of the step was lost: what it has must then
// be its own. One that comes with 0 has given everything up.
func (m *consumerMember) checkEpoch(h ConsumerHeartbeat) error {
	switch {
	case h.MemberEpoch == m.epoch, h.MemberEpoch == 0:
		return nil
	case h.MemberEpoch < m.epoch && h.MemberEpoch == m.previous && h.Owned != nil && h.Owned.within(m.assigned):
		return nil
	}
	return kerr.FencedMemberEpoch
}

// add makes a member that has nothing yet.
func (s *consumerStep) add(id string) *consumerMember {
	m := &consumerMember{id: id, rebalance: -1, standing: standing{state: stable}}
	s.members[id] = m
	return m
}

// replace makes a new process a static member that has left: it gets its id, and
// takes over what the member has.
func (s *consumerStep) replace(old *consumerMember, id string) *consumerMember {
	s.release(old)
	target := s.target[old.id]
	delete(s.members, old.id)
	delete(s.target, old.id)
	for _, kind := range []partKind{partCurrent, partTarget, partMember} {
		s.save(kind, old.id)
	}
	m := *old
	m.id, m.epoch, m.previous, m.classic, m.revokeDeadline = id, 0, 0, nil, time.Time{}
	s.members[id], s.target[id], s.static[m.instanceID] = &m, target, id
	s.own(&m)
	for _, kind := range []partKind{partMember, partTarget, partCurrent} {
		s.save(kind, id)
	}
	return &m
}

// update takes what a heartbeat says of its member, and says whether that changes
// what the group wants.
func (s *consumerStep) update(m *consumerMember, h ConsumerHeartbeat) bool {
	before := *m
	s.identify(m, h.InstanceID, h.ClientID, h.ClientHost)
	if h.RackID != nil {
		m.rackID = *h.RackID
	}
	if h.RebalanceTimeout >= 0 {
		m.rebalance = h.RebalanceTimeout
	}
	if h.ServerAssignor != nil {
		m.assignor = *h.ServerAssignor
	}
	if h.SubscribedTopicNames != nil {
		m.topics = sortedSet(h.SubscribedTopicNames)
	}
	if h.SubscribedTopicRegex != nil {
		m.regex = *h.SubscribedTopicRegex
	}
	m.classic = nil
	subscribed := !slices.Equal(m.topics, before.topics) || m.regex != before.regex
	if m.regex != before.regex {
		s.forgetPattern(before.regex)
	}
	if subscribed || before.classic != nil || m.epoch == 0 ||
		m.instanceID != before.instanceID || m.rackID != before.rackID || m.assignor != before.assignor ||
		m.clientID != before.clientID || m.clientHost != before.clientHost || m.rebalance != before.rebalance {
		s.save(partMember, m.id)
	}
	return subscribed
}

// identify takes who a member is. One that had no instance id may get one.
func (s *consumerStep) identify(m *consumerMember, instanceID, clientID, clientHost string) {
	m.clientID, m.clientHost = clientID, clientHost
	if instanceID != "" && instanceID != m.instanceID {
		if s.static[m.instanceID] == m.id {
			delete(s.static, m.instanceID)
		}
		m.instanceID = instanceID
		s.static[instanceID] = m.id
	}
}

func sortedSet(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

// resolve takes the topics of regular expressions that a heartbeat brings.
func (s *consumerStep) resolve(h ConsumerHeartbeat, subscribed *bool) {
	for regex, topics := range h.Resolved {
		old, known := s.patterns[regex]
		if s.subscribers(regex) == 0 {
			continue
		}
		next := pattern{sortedSet(topics), h.Topics.Version(), s.now}
		s.patterns[regex] = next
		if !known || !slices.Equal(old.topics, next.topics) {
			s.save(partPattern, regex)
			*subscribed = true
		}
	}
}

// forgetPattern lets go of a regular expression that nobody has any more.
func (s *consumerStep) forgetPattern(regex string) {
	if _, known := s.patterns[regex]; known && s.subscribers(regex) == 0 {
		delete(s.patterns, regex)
		s.save(partPattern, regex)
	}
}

// settle begins an epoch if the members want something else, or their topics are
// other ones, and makes the target of the epoch if it has none.
func (s *consumerStep) settle(changed bool, topics Topics) {
	if changed || s.epoch == 0 || topics.Version() != s.seen {
		digest := s.digest(topics)
		if s.seen = topics.Version(); changed || s.epoch == 0 || digest != s.metadata {
			s.metadata = digest
			s.bump()
		}
	}
	if s.epoch > s.assignmentEpoch {
		s.assign(topics)
	}
}

func (s *consumerStep) bump() {
	s.epoch++
	s.since = s.now
	s.save(partEpoch, "")
}

// assign makes the target of the group's epoch.
func (s *consumerStep) assign(topics Topics) {
	partitions := map[TopicID]int32{}
	var candidates []*candidate
	for _, m := range s.ordered() {
		c := &candidate{id: m.id, instanceID: m.instanceID, had: s.target[m.id]}
		twice := map[TopicID]bool{}
		for name := range s.topicsOf(m) {
			if id, n, ok := topics.Topic(name); ok && !twice[id] {
				twice[id], partitions[id] = true, n
				c.topics = append(c.topics, id)
			}
		}
		candidates = append(candidates, c)
	}
	for _, c := range candidates {
		// What is no longer subscribed to, or no more there, is not kept.
		wanted := map[TopicID]bool{}
		for _, id := range c.topics {
			wanted[id] = true
		}
		c.had = c.had.keep(func(id TopicID, p int32) bool { return wanted[id] && p < partitions[id] })
	}
	next := assignPartitions(s.assignor(), candidates, partitions)
	for _, m := range s.ordered() {
		if old, had := s.target[m.id]; !had || !old.equal(next[m.id]) {
			s.save(partTarget, m.id)
		}
	}
	s.target, s.assignmentEpoch = next, s.epoch
	s.save(partTargetEpoch, "")
}

// advance takes a member a step towards its target.
func (s *consumerStep) advance(m *consumerMember, owned Assignment) {
	free := func(id TopicID, p int32) bool {
		owner, taken := s.owners[id][p]
		return !taken || owner == m.id
	}
	next := m.reconcile(s.target[m.id], s.assignmentEpoch, owned, free)
	if next.equal(m.standing) {
		return
	}
	s.release(m)
	m.standing = next
	s.own(m)
	s.save(partCurrent, m.id)
	m.revokeDeadline = time.Time{}
	if m.state == unrevoked && m.classic == nil {
		m.revokeDeadline = s.now.Add(m.rebalance)
	}
}

// consumerLeave is a member that goes, for good or to be back.
func (s *consumerStep) consumerLeave(h ConsumerHeartbeat) error {
	m := s.members[h.MemberID]
	if h.InstanceID != "" {
		holder := s.members[s.static[h.InstanceID]]
		switch {
		case holder == nil:
			return kerr.UnknownMemberID
		case holder != m:
			return kerr.FencedInstanceID
		}
	}
	if m == nil {
		return kerr.UnknownMemberID
	}
	if h.MemberEpoch == LeaveStaticEpoch {
		s.release(m)
		m.revoking, m.revokeDeadline = nil, time.Time{}
		m.previous, m.epoch = m.epoch, LeaveStaticEpoch
		s.own(m)
		s.save(partCurrent, m.id)
		return nil
	}
	s.remove(m)
	s.afterRemoval()
	return nil
}

// remove takes a member out. What it had is nobody's.
func (s *consumerStep) remove(m *consumerMember) {
	s.release(m)
	delete(s.members, m.id)
	delete(s.target, m.id)
	if s.static[m.instanceID] == m.id {
		delete(s.static, m.instanceID)
	}
	for _, kind := range []partKind{partCurrent, partTarget, partMember} {
		s.save(kind, m.id)
	}
	s.forgetPattern(m.regex)
}

// afterRemoval begins the epoch of those that are left. Nobody makes a target for
// a group that has no members, so it is that of the epoch at once.
func (s *consumerStep) afterRemoval() {
	s.bump()
	s.seen = 0 // the topics may be fewer
	if len(s.members) == 0 {
		s.assignmentEpoch = s.epoch
		s.save(partTargetEpoch, "")
		return
	}
	if s.mayDowngrade() {
		s.emit(Downgrade{})
	}
}

func (s *consumerStep) mayDowngrade() bool {
	return s.rules.Migration.downgrades() && s.allClassic() &&
		(s.rules.ClassicMaxMembers == 0 || len(s.members) <= s.rules.ClassicMaxMembers)
}

// tick takes out those whose time is up.
func (s *consumerStep) tick() {
	before := len(s.members)
	for _, m := range s.ordered() {
		for _, t := range m.deadlines() {
			if !t.IsZero() && !s.now.Before(t) {
				s.remove(m)
				break
			}
		}
	}
	if len(s.members) < before {
		s.afterRemoval()
	}
}
