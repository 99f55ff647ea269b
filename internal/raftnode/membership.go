package raftnode

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Role is what a member is in the group.
type Role string

// The roles.
const (
	Voter   Role = "voter"
	Standby Role = "standby" // has no vote now, and gets one when a voter goes
	Worker  Role = "worker"  // never has a vote
)

// Member is one node of the group.
type Member struct {
	ID, Addr string
	Role     Role
	Leader   bool
	// Disk identifies the member's directory.
	Disk string
}

// Members returns the group as this node knows it, in order of id.
func (n *Node) Members(ctx context.Context) ([]Member, error) {
	r, err := n.wait(ctx)
	if err != nil {
		return nil, err
	}
	_, leader := r.LeaderWithID()
	var all []Member
	for _, s := range r.GetConfiguration().Configuration().Servers {
		m := Member{ID: string(s.ID), Addr: addrOf(s.Address), Role: Standby, Leader: s.ID == leader}
		if at, err := parsePlace(s.Address); err == nil {
			m.Disk = at.disk
			if at.worker {
				m.Role = Worker
			}
		}
		if s.Suffrage == raft.Voter {
			m.Role = Voter
		}
		all = append(all, m)
	}
	slices.SortStableFunc(all, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
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
	// LogFull says that the disk has refused an entry for want of room: the node
	// cannot lead until it has some.
	LogFull bool
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
	s.Leader, s.Leads, s.LogFull = string(leader), r.State() == raft.Leader, n.room.full.Load()
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
	ID string `json:"id"`
	// Place is where a node that joins is, and on which disk.
	Place string `json:"place,omitempty"`
	// Group is that of the node's directory, if it belongs to one.
	Group string `json:"group,omitempty"`
	// Update says that the node was a member before, and has a new address or has been
	// removed meanwhile: then it is not taken in.
	Update bool `json:"update,omitempty"`
	// Force removes a member although the rest may then have no majority.
	Force bool `json:"force,omitempty"`
	// Disk, if set, is that of the member to remove.
	Disk string `json:"disk,omitempty"`
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
	if i >= 0 && servers[i].Address == n.place().server() {
		return true, nil
	}
	request := memberRequest{ID: n.cfg.ID, Place: n.place().String(), Group: n.Group(), Update: !n.fresh || len(servers) > 0}
	if n.raft.State() == raft.Leader { // its own address has changed
		_, err := n.admitMember(ctx, request)
		return false, err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return false, err
	}
	// Whom to ask: those given, those known from the log, and whom they name.
	ask := slices.Clone(n.cfg.Join)
	for _, s := range servers {
		if string(s.ID) != n.cfg.ID {
			ask = append(ask, addrOf(s.Address))
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
		resp, _, err := n.post(ctx, addr, "join", body)
		if err == nil {
			// Done when the configuration has reached this node.
			return false, n.setGroup(resp.Header.Get(groupHeader))
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
// majority, and with it the means to remove the member again. A new member has no
// vote until it has the log; see steward. added says that it was no member before.
func (n *Node) admitMember(ctx context.Context, m memberRequest) (added bool, err error) {
	at, err := parsePlace(raft.ServerAddress(m.Place))
	if err != nil || !validID.MatchString(m.ID) {
		return false, fmt.Errorf("%w: join needs an id and a place", ErrRefused)
	}
	if m.Group != "" && m.Group != n.Group() {
		return false, fmt.Errorf("%w: the directory of %s belongs to group %s, this is group %s; to join, it needs a directory of its own", ErrRefused, m.ID, m.Group, n.Group())
	}
	n.admission.Lock()
	defer n.admission.Unlock()
	suffrage := raft.Nonvoter
	added = true
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if string(s.ID) != m.ID {
			continue
		}
		suffrage, added = s.Suffrage, false
		if err := sameDisk(m.ID, s.Address, at); err != nil {
			return false, err
		}
		m.Update = false
	}
	if m.Update {
		return false, fmt.Errorf("%w: %s has been removed; wipe its directory to join anew", ErrRefused, m.ID)
	}
	if at.addr != n.Addr() {
		if err := n.checkReachable(ctx, m.ID, at); err != nil {
			return false, fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	add := n.raft.AddNonvoter
	if suffrage == raft.Voter {
		add = n.raft.AddVoter
	}
	if err := add(raft.ServerID(m.ID), at.server(), 0, n.cfg.RPCTimeout).Error(); err != nil {
		return false, fmt.Errorf("add %s to the group: %w", m.ID, classify(err))
	}
	n.log.Info("member is in the group", "id", m.ID, "place", m.Place)
	n.lookAtVoters()
	return added, nil
}

// WhileAbsent calls f on the leader if the group has no member id, and takes none in
// until f returns: what f applies about that name is about the one that is gone.
func (n *Node) WhileAbsent(id string, f func() error) error {
	n.admission.Lock()
	defer n.admission.Unlock()
	if n.addressOf(id) != "" {
		return nil
	}
	return f()
}

// sameDisk refuses a node under a member's name that is not on the member's disk:
// it could vote twice in a term.
func sameDisk(id string, member raft.ServerAddress, at place) error {
	known, err := parsePlace(member)
	if err == nil && known.disk != at.disk {
		return fmt.Errorf("%w: %s is a member at %s with disk %s, and this is disk %s: another node has the name, or the directory was wiped. Remove the member first",
			ErrRefused, id, known.addr, known.disk, at.disk)
	}
	return nil // an address without a disk is from before there were places
}

func (n *Node) checkReachable(ctx context.Context, id string, at place) error {
	who, err := n.ask(ctx, at.addr)
	if err != nil {
		return fmt.Errorf("reach %s at its address: %w", id, err)
	}
	if who.ID != id || who.Disk != at.disk {
		return fmt.Errorf("at %s answers %q on disk %s, not %q on disk %s", at.addr, who.ID, who.Disk, id, at.disk)
	}
	return nil
}

// introduction is what a node says of itself.
type introduction struct {
	ID   string `json:"id"`
	Disk string `json:"disk"`
	// Last is the end of its log.
	Last uint64 `json:"last"`
	// CertificateUntil is when its certificate ends.
	CertificateUntil time.Time `json:"certificateUntil,omitzero"`
	// LogFull is that of [Status].
	LogFull bool `json:"logFull,omitempty"`
}

func (n *Node) introduction() introduction {
	who := introduction{ID: n.cfg.ID, Disk: n.diskNow().id, LogFull: n.room.full.Load()}
	if cert := n.cfg.Credentials.get().cert.Leaf; cert != nil {
		who.CertificateUntil = cert.NotAfter
	}
	select {
	case <-n.ready:
		who.Last = n.raft.LastIndex()
	default:
	}
	return who
}

// MemberStatus is a member, and what it says of itself.
type MemberStatus struct {
	Member
	// Silent says why it has not answered; the rest is empty then.
	Silent error
	// Last is the end of its log.
	Last uint64
	// CertificateUntil is when its certificate ends.
	CertificateUntil time.Time
	// LogFull is that of [Status].
	LogFull bool
}

// Survey asks all members at the same time.
func (n *Node) Survey(ctx context.Context) ([]MemberStatus, error) {
	all, err := n.Members(ctx)
	if err != nil {
		return nil, err
	}
	status := make([]MemberStatus, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		status[i].Member = m
		wg.Go(func() {
			who, err := n.introduction(), error(nil)
			if m.ID != n.cfg.ID {
				who, err = n.ask(ctx, m.Addr)
			}
			if err == nil && (who.ID != m.ID || who.Disk != m.Disk) {
				err = fmt.Errorf("at its address answers %q on disk %s", who.ID, who.Disk)
			}
			if err != nil {
				status[i].Silent = err
				return
			}
			status[i].Last, status[i].CertificateUntil, status[i].LogFull = who.Last, who.CertificateUntil, who.LogFull
		})
	}
	wg.Wait()
	return status, nil
}

// ask has the node at an address introduce itself.
func (n *Node) ask(ctx context.Context, addr string) (who introduction, err error) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.RPCTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+peerPath+"id", http.NoBody)
	if err != nil {
		return who, err
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return who, err
	}
	defer resp.Body.Close()
	return who, json.NewDecoder(io.LimitReader(resp.Body, maxError)).Decode(&who)
}

// Transfer hands leadership to the member id, or to the most up-to-date other
// member if id is empty.
func (n *Node) Transfer(ctx context.Context, id string) error {
	m := memberRequest{ID: id}
	_, err := n.change(ctx, "transfer", m, func() error { return n.transferHere(m) })
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return nil
}

// change does something to a member, here or at the leader.
func (n *Node) change(ctx context.Context, path string, m memberRequest, here func() error) (struct{}, error) {
	r, err := n.wait(ctx)
	if err != nil {
		return struct{}{}, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return struct{}{}, err
	}
	return retry(ctx, func() (struct{}, error) {
		if r.State() == raft.Leader {
			return struct{}{}, here()
		}
		_, _, err := n.atLeader(ctx, r, path, body)
		return struct{}{}, err
	})
}

func (n *Node) transferHere(m memberRequest) error {
	if m.ID == n.cfg.ID {
		return nil
	}
	if m.ID == "" {
		return classifyTransfer(n.answerOf(context.Background(), n.raft, n.raft.LeadershipTransfer))
	}
	s, err := heir(n.raft.GetConfiguration().Configuration().Servers, n.cfg.ID, m.ID)
	if err != nil {
		return err
	}
	return classifyTransfer(n.answerOf(context.Background(), n.raft, func() raft.Future { return n.raft.LeadershipTransferToServer(s.ID, s.Address) }))
}

// heir is the member to which leadership is to go from the one that leads, or why it
// cannot, and to which it could.
func heir(servers []raft.Server, leader, id string) (raft.Server, error) {
	var could []string
	err := fmt.Errorf("%w: %q", ErrNotMember, id)
	for _, s := range servers {
		switch {
		case s.Suffrage == raft.Voter && string(s.ID) == id:
			return s, nil
		case string(s.ID) == id:
			err = fmt.Errorf("%w: %s has no vote", ErrRefused, id)
		case s.Suffrage == raft.Voter && string(s.ID) != leader:
			could = append(could, string(s.ID))
		}
	}
	if len(could) == 0 {
		return raft.Server{}, fmt.Errorf("%w; no other member than %s, which leads, has a vote", err, leader)
	}
	slices.Sort(could)
	return raft.Server{}, fmt.Errorf("%w; those that can lead are %s", err, strings.Join(could, ", "))
}

func classifyTransfer(err error) error {
	if err != nil && !errors.Is(err, raft.ErrNotLeader) {
		return fmt.Errorf("%w: %w", ErrUnclear, err)
	}
	return err
}

func (n *Node) serveJoin(w http.ResponseWriter, req *http.Request) {
	n.serveMember(w, req, func(m memberRequest) error {
		at, err := parsePlace(raft.ServerAddress(m.Place))
		cert, _ := req.Context().Value(peerKey{}).(*x509.Certificate)
		if err != nil || cert == nil || !names(cert, m.ID) || !onDisk(cert, at.disk) || isWorker(cert) && !at.worker {
			return fmt.Errorf("%w: the certificate does not fit %q at %s", ErrRefused, m.ID, m.Place)
		}
		if n.raft.State() != raft.Leader {
			return errNotLeader
		}
		added, err := n.admitMember(req.Context(), m)
		if err == nil && added && !n.cfg.Credentials.own && n.cfg.Joined != nil {
			n.cfg.Joined(req.Context(), Joiner{ID: m.ID, Disk: at.disk, Worker: at.worker, Certificate: cert.SerialNumber.Text(16), Remote: remoteHost(req)})
		}
		return err
	})
}

// Joiner is a node that has become a member with a certificate from elsewhere.
type Joiner struct {
	ID, Disk    string
	Worker      bool
	Certificate string // its serial number, in hexadecimal digits
	Remote      string // host that it called from
}

// remoteHost is where a request comes from.
func remoteHost(req *http.Request) string {
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		return req.RemoteAddr // of a network without ports
	}
	return host
}

func (n *Node) serveTransfer(w http.ResponseWriter, req *http.Request) {
	n.serveMember(w, req, func(m memberRequest) error {
		if n.raft.State() != raft.Leader {
			return errNotLeader
		}
		return n.transferHere(m)
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
	w.Header().Set(groupHeader, n.Group())
}
