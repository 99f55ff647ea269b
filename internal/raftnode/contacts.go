package raftnode

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// contacts is what the leader knows of who answers, from raft's own requests in its
// term: raft sends each member one every tenth of the heartbeat timeout. It goes by
// place, not by name, so nobody is taken for the node before it under its name.
type contacts struct {
	mu   sync.Mutex
	term uint64
	at   map[raft.ServerAddress]contact
}

// contact is that with one member. The zero contact has not been made.
type contact struct {
	asked  time.Time // when the last request was sent that it has answered
	silent time.Time // since when it does not answer, zero while it does
}

// note takes the outcome of a request. One that is late, of a term before, says
// nothing of this one.
func (c *contacts) note(at raft.ServerAddress, term uint64, sent time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if term < c.term {
		return
	}
	if term > c.term {
		c.term, c.at = term, make(map[raft.ServerAddress]contact)
	}
	with := c.at[at]
	switch {
	case err == nil:
		with = contact{asked: sent}
	case with.silent.IsZero():
		with.silent = time.Now()
	}
	c.at[at] = with
}

func (c *contacts) with(at raft.ServerAddress, term uint64) contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	if term != c.term {
		return contact{}
	}
	return c.at[at]
}

// leads reports whether this node leads the member at a place, in a term.
func (n *Node) leads(at raft.ServerAddress, term uint64) bool {
	select {
	case <-n.ready:
	default:
		return false // raft has only just begun
	}
	if n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term {
		return false
	}
	members := n.raft.GetConfiguration().Configuration().Servers
	return slices.ContainsFunc(members, func(s raft.Server) bool { return s.Address == at })
}

// silentFor is how long a member has not answered this leader, 0 if it does or has
// not been asked.
func (n *Node) silentFor(at raft.ServerAddress) time.Duration {
	with := n.contacts.with(at, n.raft.CurrentTerm())
	if with.silent.IsZero() {
		return 0
	}
	return max(time.Since(with.silent), 1)
}

// answeredSince reports whether a voter has answered what this leader asked it at or
// after a time. That it has not failed to is no sign of life: a host that is gone
// takes RPCTimeout for that.
func (n *Node) answeredSince(s raft.Server, t time.Time) bool {
	if string(s.ID) == n.cfg.ID {
		return true
	}
	with := n.contacts.with(s.Address, n.raft.CurrentTerm())
	return !with.asked.IsZero() && !with.asked.Before(t)
}
