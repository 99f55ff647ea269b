package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Member is one node of the group.
type Member struct {
	ID, Addr string
	Leader   bool
}

// Members returns the group as this node knows it, in order of id.
func (n *Node) Members(ctx context.Context) ([]Member, error) {
	r, err := n.wait(ctx)
	if err != nil {
		return nil, err
	}
	_, leader := r.LeaderWithID()
	var members []Member
	for _, s := range r.GetConfiguration().Configuration().Servers {
		members = append(members, Member{ID: string(s.ID), Addr: string(s.Address), Leader: s.ID == leader})
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return members, nil
}

// Status is how raft stands on one node.
type Status struct {
	ID     string
	Leads  bool
	Leader string // id; empty if unknown
	Term   uint64
	// LastIndex is the last entry in the log, CommitIndex the last that a
	// majority has, AppliedIndex the last command in the replica. The replica's
	// can stay below the commit index: not every entry is a command.
	LastIndex, CommitIndex, AppliedIndex uint64
	// SinceContact is how long ago the leader was heard of; 0 on the leader.
	SinceContact time.Duration
}

// Status returns how raft stands here. Before Run it is zero but for the ID.
func (n *Node) Status() Status {
	s := Status{ID: n.cfg.ID}
	select {
	case <-n.ready:
	default:
		return s
	}
	r := n.raft
	_, leader := r.LeaderWithID()
	s.Leader, s.Leads = string(leader), r.State() == raft.Leader
	s.Term, s.LastIndex, s.CommitIndex = r.CurrentTerm(), r.LastIndex(), r.CommitIndex()
	s.AppliedIndex = n.cfg.Replica.index()
	if last := r.LastContact(); !s.Leads && !last.IsZero() {
		s.SinceContact = time.Since(last)
	}
	return s
}

// Leader returns the id of the leader, or "" if this node knows of none.
func (n *Node) Leader() string {
	leader, _ := n.Following()
	return leader
}

// memberRequest names a member, for join and remove.
type memberRequest struct {
	ID   string `json:"id"`
	Addr string `json:"addr,omitempty"`
	// Update says that the node was a member before and has a new address: it is
	// not taken in if it has been removed meanwhile.
	Update bool `json:"update,omitempty"`
}

// joinDelay is the pause between attempts to join.
const joinDelay = 500 * time.Millisecond

// join makes the node a member at its present address. A node that has state
// waits for its leader and then only reports a changed address.
func (n *Node) join(ctx context.Context) error {
	warned := ""
	for {
		done, err := n.tryJoin(ctx)
		if done {
			return nil
		}
		if err != nil && err.Error() != warned && ctx.Err() == nil {
			warned = err.Error()
			n.log.Warn("join the group; trying again", "error", err)
		}
		select {
		case <-time.After(joinDelay):
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *Node) tryJoin(ctx context.Context) (done bool, err error) {
	servers := n.raft.GetConfiguration().Configuration().Servers
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == n.cfg.ID })
	if i >= 0 && string(servers[i].Address) == n.Addr() {
		return true, nil
	}
	request := memberRequest{ID: n.cfg.ID, Addr: n.Addr(), Update: !n.fresh}
	if n.raft.State() == raft.Leader { // its own address has changed
		return false, n.admitMember(ctx, request)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return false, err
	}
	// Whom to ask: those given, those known from the log, and whom they name.
	ask := slices.Clone(n.cfg.Join)
	for _, s := range servers {
		if string(s.ID) != n.cfg.ID {
			ask = append(ask, string(s.Address))
		}
	}
	var errs []error
	asked := map[string]bool{n.Addr(): true}
	for len(ask) > 0 {
		addr := ask[0]
		ask = ask[1:]
		if asked[addr] {
			continue
		}
		asked[addr] = true
		attempt, cancel := context.WithTimeout(ctx, 5*n.cfg.RPCTimeout)
		resp, _, err := n.post(attempt, addr, "join", body)
		cancel()
		if err == nil {
			// Done when the configuration has reached this node.
			return false, nil
		}
		errs = append(errs, err)
		if resp != nil {
			if leader := resp.Header.Get(leaderHeader); leader != "" {
				ask = append([]string{leader}, ask...)
			}
		}
	}
	return false, errors.Join(errs...)
}

// admitMember takes a node into the group, on the leader. The node must answer
// at its address first: a member that cannot be reached costs the group its
// majority, and with it the means to remove the member again.
func (n *Node) admitMember(ctx context.Context, m memberRequest) error {
	if !validID.MatchString(m.ID) || m.Addr == "" {
		return fmt.Errorf("%w: join needs an id and an address", ErrRefused)
	}
	servers := n.raft.GetConfiguration().Configuration().Servers
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == m.ID })
	if i < 0 && m.Update {
		return fmt.Errorf("%w: %s has been removed; wipe its directory to join anew", ErrRefused, m.ID)
	}
	if i < 0 && len(servers) >= MaxMembers {
		return fmt.Errorf("%w: the group has %d members, its maximum", ErrRefused, len(servers))
	}
	if i >= 0 && !m.Update && string(servers[i].Address) != m.Addr {
		// A wiped or second node under a taken name would vote twice in a term.
		return fmt.Errorf("%w: %s is a member at %s; remove it first", ErrRefused, m.ID, servers[i].Address)
	}
	if m.Addr != n.Addr() {
		if err := n.checkReachable(ctx, m); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	if err := n.raft.AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.Addr), 0, n.cfg.RPCTimeout).Error(); err != nil {
		return fmt.Errorf("add %s to the group: %w", m.ID, classify(err))
	}
	n.log.Info("member added", "id", m.ID, "addr", m.Addr)
	return nil
}

func (n *Node) checkReachable(ctx context.Context, m memberRequest) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.RPCTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+m.Addr+peerPath+"id", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return fmt.Errorf("reach %s at its address: %w", m.ID, err)
	}
	defer resp.Body.Close()
	var who memberRequest
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxError)).Decode(&who); err != nil {
		return fmt.Errorf("reach %s at its address: %w", m.ID, err)
	}
	if who.ID != m.ID {
		return fmt.Errorf("at %s answers %q, not %q", m.Addr, who.ID, m.ID)
	}
	return nil
}

// Remove takes a member, which may be dead or this node itself, out of the
// group for good. ErrNotMember if it is none.
func (n *Node) Remove(ctx context.Context, id string) error {
	_, err := n.change(ctx, "remove", id, n.removeHere)
	if err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	return nil
}

// Transfer hands leadership to the member id, or to the most up-to-date other
// member if id is empty.
func (n *Node) Transfer(ctx context.Context, id string) error {
	_, err := n.change(ctx, "transfer", id, n.transferHere)
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return nil
}

// change does something to a member, here or at the leader.
func (n *Node) change(ctx context.Context, path, id string, here func(id string) error) (struct{}, error) {
	r, err := n.wait(ctx)
	if err != nil {
		return struct{}{}, err
	}
	body, err := json.Marshal(memberRequest{ID: id})
	if err != nil {
		return struct{}{}, err
	}
	return retry(ctx, func() (struct{}, error) {
		if r.State() == raft.Leader {
			return struct{}{}, here(id)
		}
		_, _, err := n.atLeader(ctx, r, path, body)
		return struct{}{}, err
	})
}

// removeHere removes a member, on the leader. A leader that is to go hands over
// first, and has the next one do it.
func (n *Node) removeHere(id string) error {
	servers := n.raft.GetConfiguration().Configuration().Servers
	if !slices.ContainsFunc(servers, func(s raft.Server) bool { return string(s.ID) == id }) {
		return ErrNotMember
	}
	if id == n.cfg.ID {
		if len(servers) == 1 {
			return fmt.Errorf("%w: it is the last member", ErrRefused)
		}
		if err := n.transferHere(""); err != nil {
			return err
		}
		return errNotLeader
	}
	if err := n.raft.RemoveServer(raft.ServerID(id), 0, n.cfg.RPCTimeout).Error(); err != nil {
		return classify(err)
	}
	n.log.Info("member removed", "id", id)
	return nil
}

func (n *Node) transferHere(id string) error {
	if id == n.cfg.ID {
		return nil
	}
	if id == "" {
		return classifyTransfer(n.raft.LeadershipTransfer().Error())
	}
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if string(s.ID) == id {
			return classifyTransfer(n.raft.LeadershipTransferToServer(s.ID, s.Address).Error())
		}
	}
	return ErrNotMember
}

func classifyTransfer(err error) error {
	if err != nil && !errors.Is(err, raft.ErrNotLeader) {
		return fmt.Errorf("%w: %w", ErrUnclear, err)
	}
	return err
}

func (n *Node) serveJoin(w http.ResponseWriter, req *http.Request) {
	n.serveMember(w, req, func(m memberRequest) error {
		if !PeerIs(req.Context(), m.ID) {
			return fmt.Errorf("%w: the certificate does not name %q", ErrRefused, m.ID)
		}
		if n.raft.State() != raft.Leader {
			return errNotLeader
		}
		return n.admitMember(req.Context(), m)
	})
}

func (n *Node) serveRemove(w http.ResponseWriter, req *http.Request) {
	n.serveMember(w, req, func(m memberRequest) error {
		if n.raft.State() != raft.Leader {
			return errNotLeader
		}
		return n.removeHere(m.ID)
	})
}

func (n *Node) serveTransfer(w http.ResponseWriter, req *http.Request) {
	n.serveMember(w, req, func(m memberRequest) error {
		if n.raft.State() != raft.Leader {
			return errNotLeader
		}
		return n.transferHere(m.ID)
	})
}

func (n *Node) serveMember(w http.ResponseWriter, req *http.Request, do func(memberRequest) error) {
	var m memberRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxError)).Decode(&m); err != nil {
		http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
		return
	}
	if err := do(m); err != nil {
		n.refuse(w, err)
		return
	}
	w.Header().Set(indexHeader, "0")
}
