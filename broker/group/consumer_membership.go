package group

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// ConsumerHeartbeat tells a member of the consumer protocol what it may read. The
// coordinator itself sets To, Topics and Resolved; visible says which topics a
// regular expression may match. A refusal is the error.
func (c *Coordinator) ConsumerHeartbeat(ctx context.Context, group string, h ConsumerHeartbeat, visible func(topic string) bool) (ConsumerBeaten, error) {
	if h.SubscribedTopicRegex != nil {
		if _, _, err := compile(*h.SubscribedTopicRegex); err != nil {
			return ConsumerBeaten{}, err
		}
	}
	s, err := c.shard(group)
	if err != nil {
		return ConsumerBeaten{}, err
	}
	h.Topics = c.cfg.Topics()
	regex, old, err := c.claim(ctx, s, group, &h)
	if err != nil {
		return ConsumerBeaten{}, err
	}
	if regex != "" {
		defer c.resolving.Delete(group)
		// Matching takes as long as it takes, and is not the group's goroutine's.
		topics, err := resolve(ctx, regex, h.Topics, visible)
		switch {
		case err != nil && old != nil && errors.Is(err, kerr.InvalidRegularExpression):
			// There are more topics now, which is not the group's fault.
			c.cfg.Log.Warn("regular expression keeps the topics that it has", "group", group, "regex", regex, "err", err)
			topics = old.topics
		case err != nil:
			return ConsumerBeaten{}, err
		}
		h.Resolved = map[string][]string{regex: topics}
	}
	f, err := s.ask(ctx, func(to Token, now time.Time) error {
		e, err := s.consumer(group, now, &h)
		if err != nil {
			return err
		}
		defer s.forget(e)
		h.To = to
		return s.step(e, now, h)
	})
	if err != nil {
		return ConsumerBeaten{}, err
	}
	answer := f.(ConsumerBeaten)
	return answer, answer.Err
}

// claim returns the regular expression that a heartbeat has to resolve, and what it
// stands for until then if it is not new. The group is then in c.resolving, and
// its other members go on with what there is: one is resolved at a time.
func (c *Coordinator) claim(ctx context.Context, s *shard, group string, h *ConsumerHeartbeat) (regex string, old *pattern, err error) {
	err = s.Do(ctx, func() error {
		g := &Consumer{} // one that is to be made
		if e := s.get(group); e != nil {
			if known, ok := e.group.(*Consumer); ok {
				g = known
			}
		}
		unresolved := g.unresolved(time.Now(), h)
		if unresolved == "" {
			return nil
		}
		if _, busy := c.resolving.LoadOrStore(group, true); busy {
			return nil
		}
		regex = unresolved
		if p, ok := g.patterns[regex]; ok {
			old = &p
		}
		return nil
	})
	return regex, old, err
}

// consumer returns a group of the consumer protocol, which it makes for a member
// that joins: of nothing, of a classic group without members, or of one whose
// members can go on in it.
func (s *shard) consumer(name string, now time.Time, h *ConsumerHeartbeat) (*entry, error) {
	e := s.get(name)
	joins := h.MemberEpoch == 0
	if e == nil {
		if !joins {
			return nil, kerr.GroupIDNotFound
		}
		e = s.create(name, now)
	}
	rules := s.cfg.consumerRules(name)
	if c, ok := e.group.(*Consumer); ok {
		c.rules = rules // they may have changed
		return e, nil
	}
	g := e.group.(*Group)
	switch {
	case !joins:
		return nil, kerr.GroupIDNotFound
	case g.empty():
		return e, s.exchange(e, now, NewConsumer(name, rules, now))
	}
	return e, s.attempt(e, func() error {
		up, answers, err := e.group.(*Group).upgrade(now, rules, h.Topics)
		if err != nil {
			return err
		}
		if err := s.exchange(e, now, up); err != nil {
			return err
		}
		if err := s.perform(e, now, append(answers, Save{})); err != nil {
			return err
		}
		s.cfg.Log.Info("group goes on with the consumer protocol", "group", name, "members", len(up.members))
		return nil
	})
}

// ConsumerDescription is a group of the consumer protocol as an administrator
// sees it.
type ConsumerDescription struct {
	State                  State
	Epoch, AssignmentEpoch int32
	Assignor               string
	Members                []ConsumerMember
}

// ConsumerMember is a member of such a group.
type ConsumerMember struct {
	MemberID, InstanceID, RackID string
	ClientID, ClientHost         string
	MemberEpoch                  int32
	SubscribedTopicNames         []string
	SubscribedTopicRegex         string
	Assigned, Target             Assignment
	Classic                      bool // speaks the classic protocol
}

// DescribeConsumer returns a group of the consumer protocol.
func (c *Coordinator) DescribeConsumer(ctx context.Context, group string) (ConsumerDescription, error) {
	s, err := c.shard(group)
	if err != nil {
		return ConsumerDescription{}, err
	}
	var d ConsumerDescription
	var next int64
	err = s.Do(ctx, func() error {
		e := s.get(group)
		if e == nil {
			return kerr.GroupIDNotFound
		}
		g, ok := e.group.(*Consumer)
		if !ok {
			return kerr.GroupIDNotFound
		}
		d = ConsumerDescription{State: g.State(), Epoch: g.epoch, AssignmentEpoch: g.assignmentEpoch, Assignor: g.assignor()}
		for _, m := range g.ordered() {
			d.Members = append(d.Members, ConsumerMember{
				MemberID: m.id, InstanceID: m.instanceID, RackID: m.rackID,
				ClientID: m.clientID, ClientHost: m.clientHost, MemberEpoch: m.epoch,
				SubscribedTopicNames: m.topics, SubscribedTopicRegex: m.regex,
				Assigned: m.assigned, Target: g.target[m.id], Classic: m.classic != nil,
			})
		}
		next = e.next
		return nil
	})
	if err != nil {
		return ConsumerDescription{}, err
	}
	return d, s.Wait(ctx, next)
}
