package raftnode

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// candidate is a member as the leader sees it when it decides who votes.
type candidate struct {
	id     string
	voter  bool
	worker bool // never to vote
	leader bool
	// gone: it has not answered for Config.VoterTimeout.
	gone bool
	// ready: it has (nearly) the whole log and answers now.
	ready bool
}

// wantedVoters is how many of n members that may vote do: all up to three, an odd
// number beyond, at most MaxVoters. A fourth voter makes majorities larger and
// survives no more.
func wantedVoters(n int) int {
	if n <= 3 {
		return n
	}
	return min(n-1+n%2, MaxVoters)
}

// tally counts those that may vote, those that do, and those of them that are gone.
func tally(all []candidate) (eligible, voters, gone int) {
	for _, c := range all {
		if c.worker {
			continue
		}
		eligible++
		if c.voter {
			voters++
			if c.gone {
				gone++
			}
		}
	}
	return eligible, voters, gone
}

// planVoters returns the one next change of votes, or two empty ids. A member that
// is gone keeps its vote until another has taken its place: nothing else than a
// replacement makes a group safer.
func planVoters(all []candidate) (promote, demote string) {
	slices.SortStableFunc(all, func(a, b candidate) int { return strings.Compare(a.id, b.id) })
	eligible, voters, gone := tally(all)
	spare := "" // who can be given a vote
	for _, c := range all {
		switch {
		case c.worker && c.voter:
			demote = c.id
		case !c.worker && !c.voter && c.ready && spare == "":
			spare = c.id
		}
	}
	if demote != "" {
		return "", demote
	}
	want := wantedVoters(eligible)
	switch {
	case voters < want:
		return spare, ""
	case voters == want && gone > 0:
		return spare, ""
	case voters > want:
		// Who is gone first, then the last by name that does not lead.
		for _, c := range all {
			if c.voter && !c.leader && (c.gone || gone == 0) {
				demote = c.id
			}
		}
	}
	return "", demote
}

// lookAtVoters has the steward look at once.
func (n *Node) lookAtVoters() {
	select {
	case n.look <- struct{}{}:
	default:
	}
}

// stewardTick is how often the leader looks at who votes; stewardRetry how soon it
// looks again at members that have not the whole log yet.
const (
	stewardTick  = time.Second
	stewardRetry = 50 * time.Millisecond
)

// steward gives and takes votes, and compares states, while this node leads.
func (n *Node) steward(ctx context.Context) {
	compared := comparison{next: time.Now().Add(compareEvery)}
	for {
		wait := stewardTick
		if n.tendVoters(ctx) {
			wait = stewardRetry
		}
		if err := n.memory.keep(members(n.raft.GetConfiguration().Configuration())); err != nil {
			n.doom(err)
		}
		n.compareStates(ctx, &compared)
		select {
		case <-n.look:
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// tendVoters makes at most one change, and reports whether there may be more to do
// soon.
func (n *Node) tendVoters(ctx context.Context) (again bool) {
	all, waiting := n.candidates(ctx)
	promote, demote := planVoters(all)
	var f raft.IndexFuture
	switch {
	case promote != "":
		f = n.raft.AddVoter(raft.ServerID(promote), n.addressOf(promote), 0, n.cfg.RPCTimeout)
		n.log.Info("member gets a vote", "id", promote)
	case demote != "":
		f = n.raft.DemoteVoter(raft.ServerID(demote), 0, n.cfg.RPCTimeout)
		n.log.Info("member loses its vote", "id", demote)
	default:
		return waiting
	}
	if err := f.Error(); err != nil && ctx.Err() == nil {
		n.log.Warn("change who votes; trying again", "error", err)
		return false
	}
	return true
}

func (n *Node) addressOf(id string) raft.ServerAddress {
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if string(s.ID) == id {
			return s.Address
		}
	}
	return ""
}

// candidates looks at the members. Those without a vote are asked how far they are
// only if a vote is to be had. waiting: one of them is not far enough yet.
func (n *Node) candidates(ctx context.Context) (all []candidate, waiting bool) {
	servers := n.raft.GetConfiguration().Configuration().Servers
	for _, s := range servers {
		at, _ := parsePlace(s.Address)
		c := candidate{id: string(s.ID), voter: s.Suffrage == raft.Voter, worker: at.worker, leader: string(s.ID) == n.cfg.ID}
		c.gone = n.silentFor(s.Address) >= n.cfg.VoterTimeout
		all = append(all, c)
	}
	eligible, voters, gone := tally(all)
	if wanted := wantedVoters(eligible); voters > wanted || voters == wanted && gone == 0 {
		return all, false
	}
	commit := n.raft.CommitIndex()
	for i, c := range all {
		if c.voter || c.worker {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, n.cfg.HeartbeatTimeout)
		who, err := n.ask(attempt, addrOf(servers[i].Address))
		cancel()
		at, _ := parsePlace(servers[i].Address)
		if err != nil || who.ID != c.id || who.Disk != at.disk {
			continue
		}
		all[i].ready = who.Last >= commit
		waiting = waiting || !all[i].ready
	}
	return all, waiting
}
