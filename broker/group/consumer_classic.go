package group

import (
	"cmp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// consumerType is the protocol type of groups of consumers, whatever protocol
// they speak.
const consumerType = "consumer"

// Members of the classic protocol in a group of the consumer protocol: they are
// assigned to like all others. They join when their heartbeat says so, and take
// one step towards their target each time; nobody waits for anybody.

// join is the join of a member of the classic protocol.
func (s *consumerStep) join(j Join) {
	refuse := func(err error, id string) { s.emit(Joined{To: j.To, Err: err, MemberID: id, Generation: -1}) }
	if !s.supports(j.MemberID, j.ProtocolType, j.Protocols) {
		refuse(kerr.InconsistentGroupProtocol, j.MemberID)
		return
	}
	sub, err := readSubscription(j.Protocols[0].Metadata)
	if err != nil {
		refuse(kerr.InconsistentGroupProtocol, j.MemberID)
		return
	}
	asked := consumerMember{clientID: j.ClientID, topics: sub.Topics, classic: &classicMember{protocols: j.Protocols}}
	if !s.rules.fits(1024 + asked.size()) {
		refuse(kerr.InvalidRequest, j.MemberID)
		return
	}
	if !s.holds(j.MemberID, asked.size()) {
		refuse(kerr.GroupMaxSizeReached, j.MemberID)
		return
	}
	if j.MemberID == "" && j.InstanceID == "" && j.RequireMemberID {
		refuse(kerr.MemberIDRequired, j.NewMemberID)
		return
	}
	m, err := s.admitClassic(j)
	if err != nil {
		refuse(err, j.MemberID)
		return
	}
	subscribed := s.updateClassic(m, j, sub)
	s.settle(subscribed, j.Topics)
	s.advance(m, byID(sub.OwnedPartitions, j.Topics))
	m.deadline = s.now.Add(m.classic.session)
	m.classic.joinDeadline = time.Time{}
	m.classic.syncDeadline = s.now.Add(j.RebalanceTimeout)
	s.emit(Joined{
		To: j.To, MemberID: m.id, Generation: m.epoch,
		ProtocolType: consumerType, Protocol: m.classic.protocols[0].Name,
	})
	if s.mayDowngrade() {
		s.emit(Downgrade{})
	}
}

// supports says whether all members of the classic protocol could be in a classic
// group together with one of these protocols.
func (g *Consumer) supports(id, protocolType string, protocols []Protocol) bool {
	if protocolType != consumerType {
		return false
	}
	return slices.ContainsFunc(protocols, func(p Protocol) bool {
		for _, m := range g.members {
			if m.classic == nil || m.id == id {
				continue
			}
			if !slices.ContainsFunc(m.classic.protocols, func(o Protocol) bool { return o.Name == p.Name }) {
				return false
			}
		}
		return true
	})
}

// admitClassic finds the member that joins, or makes it.
func (s *consumerStep) admitClassic(j Join) (*consumerMember, error) {
	id := j.MemberID
	if id == "" {
		id = j.NewMemberID
	}
	m := s.members[id]
	holder := s.members[s.static[j.InstanceID]]
	switch {
	case j.InstanceID != "" && j.MemberID != "" && holder == nil:
		return nil, kerr.UnknownMemberID
	case j.InstanceID != "" && j.MemberID != "" && holder != m:
		return nil, kerr.FencedInstanceID
	case j.InstanceID != "" && holder != nil && holder != m:
		return s.replace(holder, id), nil
	case m != nil:
		return m, nil
	case s.full():
		return nil, kerr.GroupMaxSizeReached
	}
	return s.add(id), nil
}

func (s *consumerStep) updateClassic(m *consumerMember, j Join, sub kmsg.ConsumerMemberMetadata) bool {
	before := *m
	s.identify(m, j.InstanceID, j.ClientID, j.ClientHost)
	m.rebalance = j.RebalanceTimeout
	m.topics, m.regex, m.assignor = sortedSet(sub.Topics), "", ""
	if sub.Rack != nil {
		m.rackID = *sub.Rack
	}
	m.classic = &classicMember{session: j.SessionTimeout, protocols: j.Protocols}
	m.revokeDeadline = time.Time{}
	s.forgetPattern(before.regex)
	// The protocols have what it owns in them: they are other ones each time.
	s.save(partMember, m.id)
	return !slices.Equal(m.topics, before.topics) || before.regex != ""
}

// checkClassic finds a member of the classic protocol.
func (g *Consumer) checkClassic(memberID, instanceID string) (*consumerMember, error) {
	if instanceID != "" {
		id, ok := g.static[instanceID]
		switch {
		case !ok:
			return nil, kerr.UnknownMemberID
		case id != memberID:
			return nil, kerr.FencedInstanceID
		}
	}
	m := g.members[memberID]
	if m == nil || m.classic == nil {
		return nil, kerr.UnknownMemberID
	}
	return m, nil
}

func (s *consumerStep) sync(e Sync) {
	m, err := s.checkClassic(e.MemberID, e.InstanceID)
	switch {
	case err != nil:
	case e.Generation != m.epoch:
		err = kerr.IllegalGeneration
	case e.ProtocolType != nil && *e.ProtocolType != consumerType,
		e.Protocol != nil && *e.Protocol != m.classic.protocols[0].Name:
		err = kerr.InconsistentGroupProtocol
	case m.epoch < s.epoch && m.state != unrevoked:
		// It has to catch up first. One that must give something up learns of that
		// by its assignment.
		s.callToJoin(m)
		err = kerr.RebalanceInProgress
	}
	if err != nil {
		s.emit(Synced{To: e.To, Err: err})
		return
	}
	m.classic.syncDeadline = time.Time{}
	m.deadline = s.now.Add(m.classic.session)
	s.emit(Synced{
		To: e.To, ProtocolType: consumerType, Protocol: m.classic.protocols[0].Name,
		Assignment: m.classic.encode(m.assigned, e.Topics),
	})
}

// callToJoin gives a member the time of a rebalance to join.
func (s *consumerStep) callToJoin(m *consumerMember) {
	if m.classic.joinDeadline.IsZero() {
		m.classic.joinDeadline = s.now.Add(m.rebalance)
	}
}

// heartbeat calls a member to join when its group has moved on, when it has to
// tell that it has given partitions up, and when those that it waits for are free.
func (s *consumerStep) heartbeat(h Heartbeat) error {
	m, err := s.checkClassic(h.MemberID, h.InstanceID)
	if err != nil {
		return err
	}
	if h.Generation != m.epoch {
		return kerr.IllegalGeneration
	}
	m.deadline = s.now.Add(m.classic.session)
	s.settle(false, h.Topics) // it has no leader that would look after the topics
	if m.epoch < s.epoch || m.state == unrevoked || m.state == unreleased && s.released(m) {
		s.callToJoin(m)
		return kerr.RebalanceInProgress
	}
	return nil
}

// released says whether nobody has what a member waits for.
func (g *Consumer) released(m *consumerMember) bool {
	for id, ps := range g.target[m.id].minus(m.assigned) {
		for _, p := range ps {
			if owner, taken := g.owners[id][p]; taken && owner != m.id {
				return false
			}
		}
	}
	return true
}

// leave takes members out, of either protocol: an administrator may.
func (s *consumerStep) leave(e Leave) {
	errs := make([]error, len(e.Members))
	before := len(s.members)
	for i, l := range e.Members {
		if l.InstanceID != "" && l.MemberID == "" {
			l.MemberID = s.static[l.InstanceID]
		}
		m := s.members[l.MemberID]
		switch {
		case m == nil, l.InstanceID != "" && s.static[l.InstanceID] == "":
			errs[i] = kerr.UnknownMemberID
		case l.InstanceID != "" && m.instanceID != l.InstanceID:
			errs[i] = kerr.FencedInstanceID
		default:
			s.remove(m)
		}
	}
	s.emit(Left{e.To, errs})
	if len(s.members) < before {
		s.afterRemoval()
	}
}

// readSubscription reads what a consumer says when it joins.
func readSubscription(metadata []byte) (kmsg.ConsumerMemberMetadata, error) {
	var sub kmsg.ConsumerMemberMetadata
	sub.Default()
	err := sub.ReadFrom(metadata)
	return sub, err
}

// byID is what a member says to have. It is never nil: to say nothing is to say
// that it has given everything up.
func byID(owned []kmsg.ConsumerMemberMetadataOwnedPartition, topics Topics) Assignment {
	all := map[TopicID][]int32{}
	for _, o := range owned {
		if id, _, ok := topics.Topic(o.Topic); ok {
			all[id] = append(all[id], o.Partitions...)
		}
	}
	return AssignmentOf(all)
}

// encode is an assignment as a consumer of the classic protocol reads it, in the
// version of what it said.
func (c *classicMember) encode(a Assignment, topics Topics) []byte {
	out := kmsg.NewConsumerMemberAssignment()
	if sub, err := readSubscription(c.protocols[0].Metadata); err == nil {
		out.Version = max(0, min(sub.Version, 3))
	}
	for id, ps := range a.Topics() {
		if name, ok := topics.Name(id); ok {
			t := kmsg.NewConsumerMemberAssignmentTopic()
			t.Topic, t.Partitions = name, ps
			out.Topics = append(out.Topics, t)
		}
	}
	slices.SortStableFunc(out.Topics, func(x, y kmsg.ConsumerMemberAssignmentTopic) int {
		return cmp.Compare(x.Topic, y.Topic)
	})
	return out.AppendTo(nil)
}
