package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// The bounds of a token's life.
const (
	MinTokenTTL = time.Minute
	MaxTokenTTL = 7 * 24 * time.Hour
)

// NewJoinToken makes a token that lets one node in until ttl is over, and returns its
// text, which nobody keeps.
func (n *Node) NewJoinToken(ctx context.Context, ttl time.Duration, worker bool) (text, id string, expires time.Time, err error) {
	if ttl < MinTokenTTL || ttl > MaxTokenTTL {
		return "", "", expires, fmt.Errorf("a join token lasts between %s and %s: %w", MinTokenTTL, MaxTokenTTL, ErrInvalid)
	}
	t, err := n.raft.NewToken()
	if err != nil {
		return "", "", expires, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	now := time.Now().UTC().Truncate(time.Second)
	expires = now.Add(ttl)
	_, err = n.Propose(ctx, &CreateToken{ID: t.ID, Digest: t.SecretDigest(), Worker: worker, Expires: expires, Now: now})
	return t.String(), t.ID, expires, err
}

// tokenLag is how long a member that is asked waits for news of a token that it does
// not know: it may have been made elsewhere a moment ago.
const tokenLag = time.Second

// admit redeems a token. A stranger without a good one leaves no trace in the log.
func (n *Node) admit(ctx context.Context, a raftnode.Admission) (worker bool, err error) {
	c := &RedeemToken{ID: a.Token, Digest: a.SecretDigest, Name: a.ID, Disk: a.Disk, Now: time.Now().UTC()}
	wait, cancel := context.WithTimeout(ctx, tokenLag)
	defer cancel()
	for _, s := range n.Watch(wait) {
		if err = s.redeemable(c); err == nil || !errors.Is(err, ErrNotFound) {
			break
		}
	}
	by := joiner(n.cfg.Name, a, c.Now)
	if err == nil {
		var r Result
		if r, err = n.redeem(ctx, c, by); err == nil {
			return r.Number == 1, nil
		}
	}
	for _, final := range []error{ErrNotFound, ErrConflict, ErrInvalid} {
		if errors.Is(err, final) {
			if n.cfg.JoinRefused != nil {
				why := err
				if errors.Is(err, ErrNotFound) { // who names it has not shown that he has it
					by.User, why = "", fmt.Errorf("%s: %w", by.User, err)
				}
				n.cfg.JoinRefused(by.bounded(), why)
			}
			return false, fmt.Errorf("%w: %w", raftnode.ErrRefused, err)
		}
	}
	return false, err
}

// redeem lets a node in, with its record. One that asks again, because it did not get
// the answer, has that already.
func (n *Node) redeem(ctx context.Context, c *RedeemToken, by Author) (Result, error) {
	if n.State().Tokens[c.ID].Name != "" {
		return n.propose(ctx, c)
	}
	return n.propose(ctx, &Audited{Author: by.bounded(), Command: c})
}

// joinOperation is what a node does that shows a token; it calls no operation of the API.
const joinOperation = "join-fleet"

// joiner is the author of an admission: nobody is known but who has the token.
func joiner(node string, a raftnode.Admission, now time.Time) Author {
	return Author{
		User: "token " + a.Token, Address: a.Remote, Node: node, Time: now, Operation: joinOperation, Target: "fleet/nodes/" + a.ID,
		Objects: []Touched{{Key: memberKey(a.ID), Action: "join", Diff: []string{"+ disk: " + a.Disk}}},
	}
}

// joined records that this node, as leader, has taken in a node with a certificate from
// elsewhere. That is no command, so the record comes after it: if there is no majority
// any more by then it is lost, and the log of the node says so.
func (n *Node) joined(ctx context.Context, j raftnode.Joiner) {
	by := joiner(n.cfg.Name, raftnode.Admission{ID: j.ID, Disk: j.Disk, Remote: j.Remote}, time.Now().UTC())
	by.User = "certificate " + j.Certificate
	if j.Worker {
		by.Objects[0].Diff = append(by.Objects[0].Diff, "+ worker: true")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.ProposeTimeout)
	defer cancel()
	if _, err := n.propose(ctx, &Audited{Author: by.bounded(), Command: n.noted()}); err != nil {
		n.log.Warn("a node was taken in, and the audit trail has not got it", "name", j.ID, "disk", j.Disk, "remote", j.Remote, "error", err)
	}
}

// memberKey names a member in a record.
func memberKey(name string) string { return "Node/" + name }

// Enrolled reports whether the node has a certificate of its fleet.
func (n *Node) Enrolled() bool { return n.raft.Enrolled() }

// Enrol gets the node a certificate with its join token, if it has none, and
// returns: to take part, it needs Run. It waits for a member that answers until ctx
// ends.
func (n *Node) Enrol(ctx context.Context) error { return n.raft.Enrol(ctx) }

// GroupID is the id of the fleet that the node's directory belongs to, empty while
// it has not joined one.
func (n *Node) GroupID() string { return n.raft.Group() }

// MemberStatus is a member of the fleet's raft group, and what it says of itself.
type MemberStatus = raftnode.MemberStatus

// Survey asks all members how they are, at the same time. Those that do not answer
// before ctx ends are said to be silent.
func (n *Node) Survey(ctx context.Context) ([]MemberStatus, error) { return n.raft.Survey(ctx) }

// Removal names the node that is to be removed, and on which disk it was seen.
type Removal = raftnode.Removal

// Remove takes a node out of the fleet for good. One that lives is given time to hand
// its work over, until ctx ends; one that does not is removed as it is, and its lanes
// stay to be fenced. Without force a removal is refused after which the voters that
// answer are no majority, and always one of a node that is on another disk than it says,
// or than it was on at the call; that changes nothing.
func (n *Node) Remove(ctx context.Context, r Removal) error {
	if r.Disk != "" && !n.State().Knows(LevelRemovals) {
		return fmt.Errorf("a member is too old to go by the disk and might, as leader, remove %s by its name: upgrade all nodes first, or leave the disk out: %w", r.ID, ErrConflict)
	}
	there := true
	if r.Disk == "" {
		var err error
		if r.Disk, there, err = n.meant(ctx, r.ID); err != nil {
			return err
		}
	}
	s := n.State()
	_, known := s.Members[r.ID]
	removal := s.removalOf(r.ID)
	if r.Disk != "" {
		removal.Disk = r.Disk
	}
	if !there && s.Knows(LevelRemovals) {
		return n.endRemoval(ctx, r, known, removal)
	}
	drained := false
	if known && (!r.Force || r.Disk != "") {
		// Asked before its work moves. That it is no member, a removal that was
		// interrupted, is for the removal itself to find.
		if err := n.raft.Removable(ctx, r); err != nil && !errors.Is(err, raftnode.ErrNotMember) {
			return removalError(err)
		}
	}
	if known && !r.Force {
		var err error
		if drained, err = n.emptied(ctx, r.ID); err != nil {
			return err
		}
	}
	if known && r.Force && r.ID == n.cfg.Name {
		// For the trail, which would have nothing else of who asked.
		var err error
		if drained = !n.State().Members[r.ID].Draining; drained {
			err = n.drainForRemoval(ctx, r.ID, true)
		} else {
			err = n.Drain(ctx, r.ID, true)
		}
		if err != nil {
			return err
		}
	}
	err := n.raft.Remove(ctx, r)
	if errors.Is(err, ErrUnclear) && r.ID == n.cfg.Name && n.endedRemoved(ctx) {
		return nil // the answer was cut off with the node
	}
	if errors.Is(err, raftnode.ErrNotMember) {
		return n.endRemoval(ctx, r, known, removal)
	}
	if errors.Is(err, raftnode.ErrRefused) && drained { // a voter went silent meanwhile
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undrainLimit)
		defer cancel()
		return errors.Join(removalError(err), n.drainForRemoval(ctx, r.ID, false))
	}
	if err != nil {
		return removalError(err)
	}
	return n.endRemoval(ctx, r, true, removal)
}

// endRemoval has the state forget a node that the raft group does not have any more, if
// it is known: a removal may have been interrupted.
func (n *Node) endRemoval(ctx context.Context, r Removal, known bool, removal *RemoveMember) error {
	if !known {
		return fmt.Errorf("node %q: %w", r.ID, ErrNotFound)
	}
	if r.ID == n.cfg.Name {
		return nil // it can propose no more: the leader does the rest, see departures
	}
	_, err := n.Propose(ctx, removal)
	return err
}

// meant is whether the raft group has a member of a name, and on which disk: a removal is
// about that one, and not about who may have the name when it has come so far. An old
// leader does not go by the disk, so none is named to it.
func (n *Node) meant(ctx context.Context, name string) (disk string, there bool, err error) {
	if err := n.Barrier(ctx); err != nil {
		return "", false, err
	}
	members, err := n.raft.Members(ctx)
	if err != nil {
		return "", false, err
	}
	i := slices.IndexFunc(members, func(m raftnode.Member) bool { return m.ID == name })
	if i < 0 || !n.State().Knows(LevelRemovals) {
		return "", i >= 0, nil
	}
	return members[i].Disk, true, nil
}

// removalOf is the command that forgets who has a name in this state, and nobody who has
// it later.
func (s *State) removalOf(name string) *RemoveMember {
	return &RemoveMember{Name: name, Disk: s.Members[name].Disk}
}

// endedRemoved waits a moment for the node to end, and reports whether it did because
// the fleet has removed it.
func (n *Node) endedRemoved(ctx context.Context) bool {
	select {
	case <-n.stopped:
	case <-time.After(undrainLimit):
	case <-ctx.Done():
	}
	return n.removed.Load()
}

// undrainLimit is how long a refused removal takes to put right what it began, also when
// the time for the removal is over.
const undrainLimit = 5 * time.Second

func removalError(err error) error {
	if errors.Is(err, raftnode.ErrRefused) {
		return fmt.Errorf("%w: %w", err, ErrConflict)
	}
	return err
}

// drainForRemoval drains a node that is to be removed, or lifts that drain again unless
// an operator has asked for one meanwhile. While some member is too old to tell the two
// apart, it is an operator's drain.
func (n *Node) drainForRemoval(ctx context.Context, name string, draining bool) error {
	_, err := n.Propose(ctx, &DrainMember{Name: name, Draining: draining, Removal: n.State().Knows(LevelRemovals)})
	return err
}

// emptied has a node's work moved, and returns when it owns none or is dead. drained says
// that it was not being drained before.
func (n *Node) emptied(ctx context.Context, name string) (drained bool, err error) {
	if drained = !n.State().Members[name].Draining; drained {
		if err := n.drainForRemoval(ctx, name, true); err != nil {
			return false, err
		}
	}
	for _, s := range n.Watch(ctx) {
		m := s.Members[name]
		if m.Incarnation == 0 || s.owned(name, m.Incarnation) == 0 {
			return drained, nil
		}
	}
	if ctx.Err() != nil {
		return drained, fmt.Errorf("%s has not handed its work over: %w", name, context.Cause(ctx))
	}
	return drained, ErrStopped
}
