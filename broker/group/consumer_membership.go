package group

import (
	"context"
	"fmt"
	"regexp"
	"regexp/syntax"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

const (
	// maxRegex bounds a regular expression, in bytes, and maxRegexSteps its
	// compiled form: it is matched with the names of all topics.
	maxRegex      = 4096
	maxRegexSteps = 10_000
)

// ConsumerHeartbeat tells a member of the consumer protocol what it may read. The
// coordinator itself sets To, Topics and Resolved; visible says which topics a
// regular expression may match. A refusal is the error.
func (c *Coordinator) ConsumerHeartbeat(ctx context.Context, group string, h ConsumerHeartbeat, visible func(topic string) bool) (ConsumerBeaten, error) {
	if h.SubscribedTopicRegex != nil {
		if _, err := compile(*h.SubscribedTopicRegex); err != nil {
			return ConsumerBeaten{}, err
		}
	}
	s, err := c.shard(group)
	if err != nil {
		return ConsumerBeaten{}, err
	}
	h.Topics = c.cfg.Topics()
	var open []string
	beat := func(to Token, now time.Time) error {
		e, err := s.consumer(group, now, &h)
		if err != nil {
			return err
		}
		defer s.forget(e)
		if h.Resolved == nil {
			if open = e.group.(*Consumer).unresolved(now, &h); len(open) > 0 {
				return errUnresolved
			}
		}
		h.To = to
		return s.step(e, now, h)
	}
	f, err := s.ask(ctx, beat)
	if err == errUnresolved { //nolint:errorlint // it comes as it is, from the closure above
		// Matching takes as long as it takes, and is not the group's goroutine's.
		h.Resolved = resolve(open, h.Topics, visible)
		f, err = s.ask(ctx, beat)
	}
	if err != nil {
		return ConsumerBeaten{}, err
	}
	answer := f.(ConsumerBeaten)
	return answer, answer.Err
}

var errUnresolved = fmt.Errorf("regular expressions have to be resolved first")

// compile checks a regular expression: Go's are RE2's, as Kafka's are.
func compile(regex string) (*regexp.Regexp, error) {
	if len(regex) > maxRegex {
		return nil, fmt.Errorf("%w: %d bytes, %d is the limit", kerr.InvalidRegularExpression, len(regex), maxRegex)
	}
	tree, err := syntax.Parse(regex, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kerr.InvalidRegularExpression, err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kerr.InvalidRegularExpression, err)
	}
	if len(prog.Inst) > maxRegexSteps {
		return nil, fmt.Errorf("%w: it has %d steps, %d is the limit", kerr.InvalidRegularExpression, len(prog.Inst), maxRegexSteps)
	}
	return regexp.Compile("^(?:" + regex + ")$")
}

// resolve returns the topics that regular expressions match as a whole.
func resolve(regexes []string, topics Topics, visible func(string) bool) map[string][]string {
	all := make(map[string][]string, len(regexes))
	for _, regex := range regexes {
		all[regex] = nil
		re, err := compile(regex)
		if err != nil {
			continue // checked when it came; a later version may have allowed more
		}
		for name := range topics.Names() {
			if re.MatchString(name) && visible(name) {
				all[regex] = append(all[regex], name)
			}
		}
	}
	return all
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
