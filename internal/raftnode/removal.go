package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Removal names the member that is to be removed.
type Removal struct {
	ID string
	// Disk, if set, is that which the member was seen on: another node that has joined
	// under its name meanwhile is not meant.
	Disk string
	// Force: although not enough of the remaining voters answer for a majority.
	Force bool
}

func (r Removal) request() memberRequest {
	return memberRequest{ID: r.ID, Disk: r.Disk, Force: r.Force}
}

// Remove takes a member, which may be dead or this node itself, out of the
// group for good. ErrNotMember if it is none. Without force it is refused if not
// enough of the remaining voters answer for a majority: the group would stop.
func (n *Node) Remove(ctx context.Context, r Removal) error {
	m := r.request()
	_, err := n.change(ctx, "remove", m, func() error { return n.removeHere(ctx, m) })
	if err != nil {
		return fmt.Errorf("remove %s: %w", r.ID, err)
	}
	return nil
}

// Removable returns the error that Remove would be refused with now, and changes
// nothing. A leader of a version that does not know the question answers with
// ErrNotMember, which therefore says nothing of the member.
func (n *Node) Removable(ctx context.Context, r Removal) error {
	m := r.request()
	_, err := n.change(ctx, "removable", m, func() error { return n.removableHere(ctx, m) })
	if err != nil {
		return fmt.Errorf("remove %s: %w", r.ID, err)
	}
	return nil
}

// removableHere judges a removal, on the leader, by who answers from now on. It
// refuses for want of answers only when it has waited for RPCTimeout.
func (n *Node) removableHere(ctx context.Context, m memberRequest) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.RPCTimeout)
	defer cancel()
	for {
		err := removable(n.raft.GetConfiguration().Configuration().Servers, m, func(s raft.Server) bool { return n.answeredSince(s, began) })
		if !errors.Is(err, errNoMajority) {
			return err
		}
		select {
		case <-time.After(retryDelay):
		case <-ctx.Done():
			return err
		}
		if n.raft.State() != raft.Leader {
			return errNotLeader
		}
	}
}

// removeHere removes a member, on the leader. A leader that is to go hands over
// first, and has the next one do it.
func (n *Node) removeHere(ctx context.Context, m memberRequest) error {
	if err := n.removableHere(ctx, m); err != nil {
		return err
	}
	if m.ID == n.cfg.ID {
		if err := n.transferHere(memberRequest{}); err != nil {
			return err
		}
		return errNotLeader
	}
	if err := n.takeOut(m); err != nil {
		return err
	}
	n.log.Info("member removed", "id", m.ID)
	n.lookAtVoters()
	return nil
}

// takeOut has raft remove a member. While it looks at its disk nobody is taken in.
func (n *Node) takeOut(m memberRequest) error {
	n.admission.Lock()
	defer n.admission.Unlock()
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if string(s.ID) == m.ID {
			if err := isMeant(s, m); err != nil {
				return err
			}
		}
	}
	if err := n.raft.RemoveServer(raft.ServerID(m.ID), 0, n.cfg.RPCTimeout).Error(); err != nil {
		return classify(err)
	}
	return nil
}

// isMeant refuses a member that has the name which a removal gives, and not the disk.
func isMeant(s raft.Server, m memberRequest) error {
	if at, err := parsePlace(s.Address); m.Disk != "" && (err != nil || at.disk != m.Disk) {
		return fmt.Errorf("%w: %s is on disk %s now, not on %s: it is another node of that name", ErrRefused, m.ID, at.disk, m.Disk)
	}
	return nil
}

// errNoMajority says that too few voters would be left that answer.
var errNoMajority = errors.New("no majority")

// removable refuses to remove who is no member, not the one that is meant, or the last
// one, and unless it is forced a voter without which those that answer are no majority.
func removable(servers []raft.Server, m memberRequest, answers func(raft.Server) bool) error {
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == m.ID })
	switch {
	case i < 0:
		return ErrNotMember
	case isMeant(servers[i], m) != nil:
		return isMeant(servers[i], m)
	case len(servers) == 1:
		return fmt.Errorf("%w: it is the last member", ErrRefused)
	case servers[i].Suffrage != raft.Voter || m.Force:
		return nil
	}
	voters, answering := 0, 0
	var silent []string
	for _, s := range servers {
		if s.Suffrage != raft.Voter || string(s.ID) == m.ID {
			continue
		}
		voters++
		if answers(s) {
			answering++
		} else {
			silent = append(silent, string(s.ID))
		}
	}
	if voters > 0 && answering <= voters/2 {
		return fmt.Errorf("%w: without it %d of %d voters answer, %w; %s is silent: remove that first", ErrRefused, answering, voters, errNoMajority, strings.Join(silent, ", "))
	}
	return nil
}

func (n *Node) serveRemove(w http.ResponseWriter, req *http.Request) {
	n.serveMember(w, req, func(m memberRequest) error {
		if n.raft.State() != raft.Leader {
			return errNotLeader
		}
		return n.removeHere(req.Context(), m)
	})
}

func (n *Node) serveRemovable(w http.ResponseWriter, req *http.Request) {
	n.serveMember(w, req, func(m memberRequest) error {
		if n.raft.State() != raft.Leader {
			return errNotLeader
		}
		return n.removableHere(req.Context(), m)
	})
}
