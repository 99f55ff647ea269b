package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// upgrade makes of a classic group one of the consumer protocol, with the same
// members, which go on with the classic protocol. It returns the answers to those
// that wait: they join again. It returns false for a group that cannot be one,
// which is then as it was.
func (g *Group) upgrade(now time.Time, rules ConsumerRules, topics Topics) (*Consumer, []Effect, bool) {
	if !rules.Migration.upgrades() || g.protocolType != consumerType ||
		rules.MaxMembers > 0 && len(g.members) > rules.MaxMembers {
		return nil, nil, false
	}
	c := NewConsumer(g.name, rules, now)
	c.epoch, c.assignmentEpoch = g.generation, g.generation
	for _, m := range g.ordered() {
		protocols := m.protocols
		if len(protocols) == 0 {
			return nil, nil, false
		}
		sub, err := readSubscription(m.metadata(g.chosen(m)))
		if err != nil {
			return nil, nil, false
		}
		up := &consumerMember{
			id: m.id, instanceID: m.instanceID, clientID: m.clientID, clientHost: m.clientHost,
			topics: sortedSet(sub.Topics), rebalance: m.rebalance, deadline: now.Add(m.session),
			classic:  &classicMember{session: m.session, protocols: protocols},
			standing: standing{state: stable, epoch: g.generation, previous: g.generation},
		}
		if sub.Rack != nil {
			up.rackID = *sub.Rack
		}
		// A faulty assignor may have given a partition to two: the first keeps it.
		up.assigned = readAssignment(m.assignment, topics).keep(func(id TopicID, p int32) bool {
			_, taken := c.owners[id][p]
			return !taken
		})
		c.own(up)
		c.members[up.id], c.target[up.id] = up, up.assigned
		if !rules.fits(up.size()) {
			return nil, nil, false
		}
		if up.instanceID != "" {
			c.static[up.instanceID] = up.id
		}
	}
	s := step{Group: g, now: now}
	for _, m := range g.ordered() {
		s.unpark(m, kerr.RebalanceInProgress)
	}
	return c, s.effects, true
}

// chosen is the protocol whose metadata counts: that of the group, or the first.
func (g *Group) chosen(m *member) string {
	if m.supports(g.protocol) {
		return g.protocol
	}
	return m.protocols[0].Name
}

// readAssignment reads what a leader has assigned; what it cannot read, and
// topics that are no more, is nothing.
func readAssignment(b []byte, topics Topics) Assignment {
	var a kmsg.ConsumerMemberAssignment
	if len(b) == 0 || a.ReadFrom(b) != nil {
		return nil
	}
	all := map[TopicID][]int32{}
	for _, t := range a.Topics {
		if id, _, ok := topics.Topic(t.Topic); ok {
			all[id] = append(all[id], t.Partitions...)
		}
	}
	return AssignmentOf(all)
}

// downgrade makes of a group whose members all speak the classic protocol a
// classic one, and begins its first rebalance: the effects are those of that. It
// returns false for a group that is too large for the one record that it would be.
func (g *Consumer) downgrade(now time.Time, rules Rules, topics Topics) (*Group, []Effect, bool) {
	c := New(g.name, rules, now)
	c.protocolType, c.generation, c.state = consumerType, g.epoch, Stable
	for _, m := range g.ordered() {
		c.joined++
		down := &member{
			id: m.id, instanceID: m.instanceID, clientID: m.clientID, clientHost: m.clientHost,
			session: m.classic.session, rebalance: m.rebalance, protocols: m.classic.protocols,
			assignment: m.classic.encode(m.assigned, topics),
			order:      c.joined, deadline: m.deadline,
		}
		c.members[down.id] = down
		if down.instanceID != "" {
			c.static[down.instanceID] = down.id
		}
		if c.leader == "" {
			c.leader = down.id
		}
	}
	c.protocol = c.selectProtocol()
	if rules.MaxBytes > 0 && c.size() > rules.MaxBytes {
		return nil, nil, false
	}
	s := step{Group: c, now: now}
	s.emit(Save{})
	s.prepare()
	return c, s.effects, true
}
