package main

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/internal/raftnode"
)

// surveyLimit is how long members are given to say how they are, drainLimit how long
// a node that is removed has to hand its work over.
const (
	surveyLimit = time.Second
	drainLimit  = 20 * time.Second
)

// membership answers api.Membership.
type membership struct{ fleet *cluster.Node }

var _ api.Membership = (*membership)(nil)

func (m *membership) Members(ctx context.Context) (api.Members, error) {
	bounded, cancel := context.WithTimeout(ctx, surveyLimit)
	defer cancel()
	survey, err := m.fleet.Survey(bounded)
	if err != nil {
		return api.Members{}, fleetError(err, 0)
	}
	s, revision := m.fleet.Current()
	hash, err := s.Hash()
	if err != nil {
		return api.Members{}, err
	}
	raft := m.fleet.Raft()
	all := api.Members{
		ID: m.fleet.GroupID(), Leader: raft.Leader, Term: raft.Term, Revision: revision, Hash: hex.EncodeToString(hash[:]), Nodes: []api.Member{},
	}
	answering := 0
	for _, one := range survey {
		all.Nodes = append(all.Nodes, member(one, raft.LastIndex, s.Members[one.ID]))
		if one.Role == raftnode.Voter {
			all.Voters++
			if one.Silent == nil {
				answering++
			}
		}
	}
	all.Tolerates = max(answering-(all.Voters/2+1), -1)
	return all, nil
}

func member(one cluster.MemberStatus, last uint64, known cluster.Member) api.Member {
	n := api.Member{
		Name: one.ID, Role: string(one.Role), Answers: one.Silent == nil, PeerAddress: one.Addr, Disk: one.Disk,
		Address: known.APIAddr, Version: known.Version, Behind: -1,
	}
	if one.Silent != nil {
		n.Reason = one.Silent.Error()
		return n
	}
	n.Behind, n.LogFull = max(int64(last)-int64(one.Last), 0), one.LogFull
	if !one.CertificateUntil.IsZero() {
		n.CertificateUntil = &one.CertificateUntil
	}
	return n
}

func (m *membership) NewToken(ctx context.Context, ttl time.Duration, worker bool) (api.JoinToken, error) {
	text, id, expires, err := m.fleet.NewJoinToken(ctx, ttl, worker)
	if errors.Is(err, raftnode.ErrNoAuthority) {
		return api.JoinToken{}, api.Errorf(http.StatusConflict, "this fleet's certificates come from files: it cannot make any").
			WithHint("give the node a certificate of the authority in peer.caFile; it may join with that")
	}
	if err != nil {
		return api.JoinToken{}, membershipError(err)
	}
	return api.JoinToken{ID: id, Token: text, Worker: worker, Expires: expires}, nil
}

func (m *membership) Tokens(ctx context.Context) (api.TokenList, error) {
	if err := m.fleet.Barrier(ctx); err != nil {
		return api.TokenList{}, fleetError(err, 0)
	}
	list := api.TokenList{Tokens: []api.JoinToken{}}
	tokens := m.fleet.State().Tokens
	for _, id := range sortedNames(tokens) {
		t := tokens[id]
		list.Tokens = append(list.Tokens, api.JoinToken{ID: id, Worker: t.Worker, Expires: t.Expires, UsedBy: t.Name})
	}
	return list, nil
}

func (m *membership) DeleteToken(ctx context.Context, id string) error {
	_, err := m.fleet.Propose(ctx, &cluster.DeleteToken{ID: id})
	return membershipError(err)
}

func (m *membership) RemoveNode(ctx context.Context, name, disk string, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	return membershipError(m.fleet.Remove(ctx, cluster.Removal{ID: name, Disk: disk, Force: force}))
}

func (m *membership) Transfer(ctx context.Context, name string) error {
	return membershipError(m.fleet.Transfer(ctx, name))
}

func (m *membership) Backup(ctx context.Context) ([]byte, error) {
	b, err := m.fleet.Backup(ctx)
	return b, fleetError(err, 0)
}

// membershipError gives refusals the status that they have here: they are not about a
// revision.
func membershipError(err error) error {
	switch {
	case errors.Is(err, raftnode.ErrNotMember):
		return api.Errorf(http.StatusNotFound, "%v", err).WithHint("see 'replicator fleet status'")
	case errors.Is(err, raftnode.ErrRefused), errors.Is(err, cluster.ErrConflict):
		return api.Errorf(http.StatusConflict, "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(http.StatusServiceUnavailable, "%v", err).WithHint("see 'replicator fleet status'; with --force a node is removed at once, and what it copies is fenced")
	}
	return fleetError(err, 0)
}
