package broker

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/group"
)

// groupAPIs are the rows of consumer groups.
func groupAPIs() []api {
	row := func(key kmsg.Key, low, high int16, op acl.Operation, h handler) api {
		return api{key: key, min: low, max: high, resource: acl.Group, op: op, handle: h}
	}
	return []api{
		row(kmsg.OffsetCommit, 2, 10, acl.Read, answers((*Broker).offsetCommit)),
		row(kmsg.OffsetFetch, 1, 10, acl.Describe, answers((*Broker).offsetFetch)),
		row(kmsg.FindCoordinator, 0, 6, acl.Describe, answers((*Broker).findCoordinator)),
		row(kmsg.JoinGroup, 0, 9, acl.Read, answers((*Broker).joinGroup)),
		row(kmsg.Heartbeat, 0, 4, acl.Read, answers((*Broker).heartbeat)),
		row(kmsg.LeaveGroup, 0, 5, acl.Read, answers((*Broker).leaveGroup)),
		row(kmsg.SyncGroup, 0, 5, acl.Read, answers((*Broker).syncGroup)),
		row(kmsg.DescribeGroups, 0, 6, acl.Describe, answers((*Broker).describeGroups)),
		row(kmsg.ListGroups, 0, 5, acl.Describe, answers((*Broker).listGroups)),
		row(kmsg.DeleteGroups, 0, 2, acl.Delete, answers((*Broker).deleteGroups)),
		row(kmsg.OffsetDelete, 0, 0, acl.Delete, answers((*Broker).offsetDelete)),
		row(kmsg.ConsumerGroupHeartbeat, 0, 1, acl.Read, answers((*Broker).consumerGroupHeartbeat)),
		row(kmsg.ConsumerGroupDescribe, 0, 1, acl.Describe, answers((*Broker).consumerGroupDescribe)),
	}
}

// Types of key of FindCoordinator.
const (
	groupKey       = 0
	transactionKey = 1
)

// findCoordinator answers FindCoordinator: this broker, which needs no look-up, or
// COORDINATOR_NOT_AVAILABLE if the key's partition is down.
// v1 asks for transactional ids too, v4 for many keys at once (KIP-699). v6 is
// for share groups, which there are none of.
func (b *Broker) findCoordinator(_ context.Context, r *request, q *kmsg.FindCoordinatorRequest) *kmsg.FindCoordinatorResponse {
	resp := q.ResponseKind().(*kmsg.FindCoordinatorResponse)
	find := func(key string) kmsg.FindCoordinatorResponseCoordinator {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Port = key, -1, -1
		var err error
		switch q.CoordinatorType {
		case groupKey:
			if err = b.coordinators.groups.Available(key); !r.may(key) {
				err = kerr.GroupAuthorizationFailed
			}
		case transactionKey:
			if err = b.coordinators.txns.Available(key); !r.allowed(acl.Describe, acl.TransactionalID, key) {
				err = kerr.TransactionalIDAuthorizationFailed
			}
		default:
			err = refuse(kerr.InvalidRequest, "only groups and transactional ids have coordinators here")
		}
		if err != nil {
			c.ErrorCode, c.ErrorMessage = b.code(err, "find coordinator"), message(err)
			return c
		}
		ln := b.listeners[r.client.Listener]
		c.NodeID, c.Host, c.Port = b.cfg.NodeID, ln.host, ln.port
		return c
	}
	if q.Version >= 4 {
		for _, key := range q.CoordinatorKeys {
			resp.Coordinators = append(resp.Coordinators, find(key))
		}
		return resp
	}
	c := find(q.CoordinatorKey)
	resp.NodeID, resp.Host, resp.Port = c.NodeID, c.Host, c.Port
	resp.ErrorCode, resp.ErrorMessage = c.ErrorCode, c.ErrorMessage
	return resp
}

// joinGroup answers JoinGroup, when its group's next generation begins. v1 has a
// rebalance timeout, v4 sends new members back for their id (KIP-394), v5 has
// static members (KIP-345), v9 lets a static leader skip its work (KIP-814).
func (b *Broker) joinGroup(ctx context.Context, r *request, q *kmsg.JoinGroupRequest) *kmsg.JoinGroupResponse {
	resp := q.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.Generation, resp.MemberID = -1, q.MemberID
	if !r.may(q.Group) {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	join := group.Join{
		MemberID: q.MemberID, InstanceID: text(q.InstanceID),
		ClientID: r.client.ClientID, ClientHost: "/" + r.client.Host,
		SessionTimeout:    time.Duration(q.SessionTimeoutMillis) * time.Millisecond,
		RebalanceTimeout:  time.Duration(q.RebalanceTimeoutMillis) * time.Millisecond,
		ProtocolType:      q.ProtocolType,
		RequireMemberID:   q.Version >= 4,
		CanSkipAssignment: q.Version >= 9,
	}
	if q.Version == 0 {
		join.RebalanceTimeout = join.SessionTimeout
	}
	for _, p := range q.Protocols {
		join.Protocols = append(join.Protocols, group.Protocol{Name: p.Name, Metadata: bytes.Clone(p.Metadata)})
	}
	joined, err := b.coordinators.groups.Join(ctx, q.Group, join)
	if err == nil {
		err, resp.MemberID = joined.Err, joined.MemberID
	}
	if err != nil {
		resp.ErrorCode = b.code(err, "join group", "group", q.Group)
		return resp
	}
	resp.Generation, resp.LeaderID, resp.SkipAssignment = joined.Generation, joined.Leader, joined.SkipAssignment
	resp.ProtocolType, resp.Protocol = &joined.ProtocolType, &joined.Protocol
	for _, m := range joined.Members {
		member := kmsg.NewJoinGroupResponseMember()
		member.MemberID, member.InstanceID, member.ProtocolMetadata = m.MemberID, optional(m.InstanceID), m.Metadata
		resp.Members = append(resp.Members, member)
	}
	return resp
}

// syncGroup answers SyncGroup, when the leader has assigned. v3 has static
// members, v5 names the protocol (KIP-559).
func (b *Broker) syncGroup(ctx context.Context, r *request, q *kmsg.SyncGroupRequest) *kmsg.SyncGroupResponse {
	resp := q.ResponseKind().(*kmsg.SyncGroupResponse)
	switch {
	case q.Version >= 5 && (q.ProtocolType == nil || q.Protocol == nil):
		resp.ErrorCode = kerr.InconsistentGroupProtocol.Code
		return resp
	case !r.may(q.Group):
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	sync := group.Sync{
		MemberID: q.MemberID, InstanceID: text(q.InstanceID), Generation: q.Generation,
		ProtocolType: q.ProtocolType, Protocol: q.Protocol,
		Assignments: make(map[string][]byte, len(q.GroupAssignment)),
	}
	for _, a := range q.GroupAssignment {
		sync.Assignments[a.MemberID] = bytes.Clone(a.MemberAssignment)
	}
	synced, err := b.coordinators.groups.Sync(ctx, q.Group, sync)
	if err != nil {
		resp.ErrorCode = b.code(err, "sync group", "group", q.Group)
		return resp
	}
	resp.ProtocolType, resp.Protocol = &synced.ProtocolType, &synced.Protocol
	resp.MemberAssignment = synced.Assignment
	return resp
}

// heartbeat answers Heartbeat. v3 has static members.
func (b *Broker) heartbeat(ctx context.Context, r *request, q *kmsg.HeartbeatRequest) *kmsg.HeartbeatResponse {
	resp := q.ResponseKind().(*kmsg.HeartbeatResponse)
	err := error(kerr.GroupAuthorizationFailed)
	if r.may(q.Group) {
		err = b.coordinators.groups.Heartbeat(ctx, q.Group, group.Heartbeat{
			MemberID: q.MemberID, InstanceID: text(q.InstanceID), Generation: q.Generation,
		})
	}
	resp.ErrorCode = b.code(err, "heartbeat", "group", q.Group)
	return resp
}

// leaveGroup answers LeaveGroup. v3 lets an administrator remove many members,
// static ones by their instance id.
func (b *Broker) leaveGroup(ctx context.Context, r *request, q *kmsg.LeaveGroupRequest) *kmsg.LeaveGroupResponse {
	resp := q.ResponseKind().(*kmsg.LeaveGroupResponse)
	if !r.may(q.Group) {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	leavers := []group.Leaver{{MemberID: q.MemberID}}
	if q.Version >= 3 {
		leavers = leavers[:0]
		for _, m := range q.Members {
			leavers = append(leavers, group.Leaver{MemberID: m.MemberID, InstanceID: text(m.InstanceID)})
		}
	}
	errs, err := b.coordinators.groups.Leave(ctx, q.Group, leavers)
	if err != nil && (q.Version < 3 || kafkaError(err) != kerr.UnknownMemberID) {
		resp.ErrorCode = b.code(err, "leave group", "group", q.Group)
		return resp
	}
	for i := range leavers {
		cause := err // the group does not exist: none of them is known
		if cause == nil {
			cause = errs[i]
		}
		if q.Version < 3 {
			resp.ErrorCode = b.code(cause, "leave group")
			return resp
		}
		m := kmsg.NewLeaveGroupResponseMember()
		m.MemberID, m.InstanceID = q.Members[i].MemberID, q.Members[i].InstanceID
		m.ErrorCode = b.code(cause, "leave group")
		resp.Members = append(resp.Members, m)
	}
	return resp
}

// describeGroups answers DescribeGroups for groups of the classic protocol. One
// that does not exist, or speaks another, is Dead, and from v6 on an error
// (KIP-1043).
func (b *Broker) describeGroups(ctx context.Context, r *request, q *kmsg.DescribeGroupsRequest) *kmsg.DescribeGroupsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeGroupsResponse)
	for _, name := range once(q.Groups) {
		out := kmsg.NewDescribeGroupsResponseGroup()
		out.Group = name
		err := error(kerr.GroupAuthorizationFailed)
		var d group.Description
		if r.may(name) {
			d, err = b.coordinators.groups.Describe(ctx, name)
		}
		switch {
		case err != nil || d.State != group.Dead || q.Version < 6:
		case d.Consumer:
			err = refuse(kerr.GroupIDNotFound, "the group is not a classic one")
		default:
			err = refuse(kerr.GroupIDNotFound, "there is no such group")
		}
		out.ErrorCode, out.ErrorMessage = b.code(err, "describe group", "group", name), message(err)
		out.State, out.ProtocolType, out.Protocol = string(d.State), d.ProtocolType, d.Protocol
		for _, m := range d.Members {
			if !r.spend(2*entryMemory + len(m.Metadata) + len(m.Assignment)) {
				return resp
			}
			member := kmsg.NewDescribeGroupsResponseGroupMember()
			member.MemberID, member.InstanceID = m.MemberID, optional(m.InstanceID)
			member.ClientID, member.ClientHost = m.ClientID, m.ClientHost
			member.ProtocolMetadata, member.MemberAssignment = m.Metadata, m.Assignment
			out.Members = append(out.Members, member)
		}
		if q.IncludeAuthorizedOperations && err == nil {
			out.AuthorizedOperations = r.operations(acl.Group, name)
		}
		resp.Groups = append(resp.Groups, out)
	}
	return resp
}

// listGroups answers ListGroups: all groups to who may Describe the cluster, and
// to others those that they may. v4 filters by state (KIP-518), v5 by type.
func (b *Broker) listGroups(ctx context.Context, r *request, q *kmsg.ListGroupsRequest) *kmsg.ListGroupsResponse {
	resp := q.ResponseKind().(*kmsg.ListGroupsResponse)
	all, err := b.coordinators.groups.List(ctx)
	resp.ErrorCode = b.code(err, "list groups")
	everything := r.allowed(acl.Describe, acl.Cluster, acl.ClusterName)
	wanted := func(filter []string, value string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, value) })
	}
	for _, g := range all {
		if !everything && !r.may(g.Group) || !wanted(q.StatesFilter, string(g.State)) || !wanted(q.TypesFilter, string(g.Type)) {
			continue
		}
		if !r.spend(entryMemory) {
			break
		}
		out := kmsg.NewListGroupsResponseGroup()
		out.Group, out.ProtocolType = g.Group, g.ProtocolType
		out.GroupState, out.GroupType = string(g.State), string(g.Type)
		resp.Groups = append(resp.Groups, out)
	}
	return resp
}

// deleteGroups answers DeleteGroups.
func (b *Broker) deleteGroups(ctx context.Context, r *request, q *kmsg.DeleteGroupsRequest) *kmsg.DeleteGroupsResponse {
	resp := q.ResponseKind().(*kmsg.DeleteGroupsResponse)
	for _, name := range q.Groups {
		err := error(kerr.GroupAuthorizationFailed)
		if r.may(name) {
			err = b.coordinators.groups.Delete(ctx, name)
		}
		out := kmsg.NewDeleteGroupsResponseGroup()
		out.Group, out.ErrorCode = name, b.code(err, "delete group", "group", name)
		resp.Groups = append(resp.Groups, out)
	}
	return resp
}

// text is a nullable string whose null and empty mean the same.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// optional is the reverse of text.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
