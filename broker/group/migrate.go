package group

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// UpgradeError is why a classic group with members cannot go on with the consumer
// protocol: to a member of that, there is no such group.
type UpgradeError struct{ Group, Reason string }

func (e *UpgradeError) Error() string {
	return fmt.Sprintf("cannot upgrade classic group %s to consumer group because %s", e.Group, e.Reason)
}

// Unwrap is what the protocol calls it.
func (e *UpgradeError) Unwrap() error { return kerr.GroupIDNotFound }

// upgrade makes of a classic group one of the consumer protocol, with the same
// members, which go on with the classic protocol. It returns the answers to those
// that wait: they join again. A group that cannot be one is as it was, and the
// error is an [*UpgradeError].
func (g *Group) upgrade(now time.Time, rules ConsumerRules, topics Topics) (*Consumer, []Effect, error) {
	refused := func(reason string) (*Consumer, []Effect, error) {
		return nil, nil, &UpgradeError{g.name, reason}
	}
	switch {
	case !rules.Migration.upgrades():
		return refused("online upgrade is disabled")
	case g.protocolType != consumerType:
		return refused("it does not use the consumer embedded protocol")
	case rules.MaxMembers > 0 && len(g.members) > rules.MaxMembers:
		return refused("its size exceeds the consumer group maximum size")
	}
	c := NewConsumer(g.name, rules, now)
	c.epoch, c.assignmentEpoch = g.generation, g.generation
	for _, m := range g.ordered() {
		if len(m.protocols) == 0 {
			return refused("a member has not joined yet")
		}
		sub, err := readSubscription(m.metadata(g.chosen(m)))
		if err != nil {
			return refused("the embedded consumer protocol is malformed")
		}
		assigned, userData, err := readAssignment(m.assignment, topics)
		switch {
		case err != nil:
			return refused("the embedded consumer protocol is malformed")
		case len(userData) > 0:
			// The broker's assignors would give the member an assignment without
			// it. What a member says of itself goes on to nobody.
			return refused("an unsupported custom assignor is in use: its user data would be lost; switch to a default assignor before the upgrade")
		}
		up := &consumerMember{
			id: m.id, instanceID: m.instanceID, clientID: m.clientID, clientHost: m.clientHost,
			topics: sortedSet(sub.Topics), rebalance: m.rebalance, deadline: now.Add(m.session),
			classic:  &classicMember{session: m.session, protocols: m.protocols},
			standing: standing{state: stable, epoch: g.generation, previous: g.generation},
		}
		if sub.Rack != nil {
			up.rackID = *sub.Rack
		}
		// A faulty assignor may have given a partition to two: the first keeps it.
		up.assigned = assigned.keep(func(id TopicID, p int32) bool {
			_, taken := c.owners[id][p]
			return !taken
		})
		c.own(up)
		c.members[up.id], c.target[up.id] = up, up.assigned
		if !rules.fits(up.size()) {
			return refused("a member is too large")
		}
		if up.instanceID != "" {
			c.static[up.instanceID] = up.id
		}
	}
	s := step{Group: g, now: now}
	for _, m := range g.ordered() {
		s.unpark(m, kerr.RebalanceInProgress)
	}
	return c, s.effects, nil
}

// chosen is the protocol whose metadata counts: that of the group, or the first.
func (g *Group) chosen(m *member) string {
	if m.supports(g.protocol) {
		return g.protocol
	}
	return m.protocols[0].Name
}

// readAssignment reads what a leader has assigned, and what its assignor has to
// say to the member beyond that; topics that are no more are nothing.
func readAssignment(b []byte, topics Topics) (assigned Assignment, userData []byte, err error) {
	if len(b) == 0 {
		return nil, nil, nil
	}
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(b); err != nil {
		return nil, nil, err
	}
	all := map[TopicID][]int32{}
	for _, t := range a.Topics {
		if id, _, ok := topics.Topic(t.Topic); ok {
			all[id] = append(all[id], t.Partitions...)
		}
	}
	return AssignmentOf(all), a.UserData, nil
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
