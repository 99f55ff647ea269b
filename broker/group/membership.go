package group

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Join parks the caller until its group's next generation begins; see [Join] for
// what to fill in: the coordinator itself sets To and NewMemberID. A refusal is
// in the answer's Err, beside the member id that goes with it.
func (c *Coordinator) Join(ctx context.Context, group string, j Join) (Joined, error) {
	if j.SessionTimeout < c.cfg.MinSessionTimeout || j.SessionTimeout > c.cfg.MaxSessionTimeout {
		return Joined{}, kerr.InvalidSessionTimeout
	}
	prefix := j.ClientID
	if j.InstanceID != "" {
		prefix = j.InstanceID
	}
	j.NewMemberID = prefix + "-" + uuid.NewString()
	j.Topics = c.cfg.Topics()
	s, err := c.shard(group)
	if err != nil {
		return Joined{}, err
	}
	f, err := s.ask(ctx, func(to Token, now time.Time) error {
		j.To = to
		e := s.get(group)
		if e == nil {
			if j.MemberID != "" {
				return kerr.UnknownMemberID
			}
			e = s.create(group, now)
		}
		defer s.forget(e)
		if g, ok := e.group.(*Consumer); ok && g.empty() {
			if err := s.exchange(e, now, New(group, s.rules, now)); err != nil {
				return err
			}
		}
		return s.step(e, now, j)
	})
	if err != nil {
		return Joined{}, err
	}
	return f.(Joined), nil
}

// Sync parks the caller until its group's leader has assigned.
func (c *Coordinator) Sync(ctx context.Context, group string, e Sync) (Synced, error) {
	e.Topics = c.cfg.Topics()
	f, err := c.askMember(ctx, group, func(to Token) Event { e.To = to; return e })
	if err != nil {
		return Synced{}, err
	}
	answer := f.(Synced)
	return answer, answer.Err
}

// Heartbeat keeps a member alive.
func (c *Coordinator) Heartbeat(ctx context.Context, group string, e Heartbeat) error {
	e.Topics = c.cfg.Topics()
	f, err := c.askMember(ctx, group, func(to Token) Event { e.To = to; return e })
	if err != nil {
		return err
	}
	return f.(Beaten).Err
}

// Leave takes members out of their group, and says for each why not.
func (c *Coordinator) Leave(ctx context.Context, group string, members []Leaver) ([]error, error) {
	f, err := c.askMember(ctx, group, func(to Token) Event { return Leave{to, members} })
	if err != nil {
		return nil, err
	}
	return f.(Left).Members, nil
}

// askMember applies an event of a member to a group that must exist.
func (c *Coordinator) askMember(ctx context.Context, group string, ev func(Token) Event) (Effect, error) {
	s, err := c.shard(group)
	if err != nil {
		return nil, err
	}
	return s.ask(ctx, func(to Token, now time.Time) error {
		e := s.get(group)
		if e == nil {
			return kerr.UnknownMemberID
		}
		return s.step(e, now, ev(to))
	})
}

// ask runs f, which hands an event with a token to a group, and waits for the
// effect that answers it.
func (s *shard) ask(ctx context.Context, f func(Token, time.Time) error) (Effect, error) {
	ch := make(chan answer, 1)
	err := s.Do(ctx, func() error {
		s.tokens++
		to := s.tokens
		s.waiting[to] = ch
		err := f(to, time.Now())
		if err != nil {
			delete(s.waiting, to)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	select {
	case a := <-ch:
		return a.effect, s.Wait(ctx, a.next)
	case <-s.Done():
		return nil, s.Ended()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
