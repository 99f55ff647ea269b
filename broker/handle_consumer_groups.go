package broker

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/group"
)

// clientMemberIDs is the version of ConsumerGroupHeartbeat from which on clients
// make their members' ids (KIP-1082), and may subscribe to a regular expression.
const clientMemberIDs = 1

// maxMemberID is what a client may call its member: Kafka's ids have 22
// characters, those that clients make 36.
const maxMemberID = 255

// consumerGroupHeartbeat answers ConsumerGroupHeartbeat (KIP-848): a member says
// what it wants and has, and is told what it may read. Client-side assignors are
// left out of the protocol, so Kafka has none either; racks are kept and not
// looked at, since all replicas are here.
func (b *Broker) consumerGroupHeartbeat(ctx context.Context, r *request, q *kmsg.ConsumerGroupHeartbeatRequest) *kmsg.ConsumerGroupHeartbeatResponse {
	resp := q.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	err := b.checkHeartbeat(r, q)
	var beaten group.ConsumerBeaten
	if err == nil {
		visible := func(topic string) bool { return r.allowed(acl.Describe, acl.Topic, topic) }
		beaten, err = b.coordinators.groups.ConsumerHeartbeat(ctx, q.Group, heartbeatOf(r, q), visible)
	}
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = b.code(err, "consumer heartbeat", "group", q.Group), message(err)
		return resp
	}
	resp.MemberID, resp.MemberEpoch = &beaten.MemberID, beaten.MemberEpoch
	_, interval := b.timeoutsOf(q.Group)
	resp.HeartbeatIntervalMillis = int32(interval.Milliseconds())
	if beaten.Assignment != nil {
		a := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
		for id, partitions := range beaten.Assignment.Topics() {
			t := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
			t.TopicID, t.Partitions = id, partitions
			a.Topics = append(a.Topics, t)
		}
		resp.Assignment = &a
	}
	return resp
}

// checkHeartbeat says what is wrong with a heartbeat by itself.
func (b *Broker) checkHeartbeat(r *request, q *kmsg.ConsumerGroupHeartbeatRequest) error {
	invalid := func(what string) error { return refuse(kerr.InvalidRequest, what) }
	isEmpty := func(s *string) bool { return s != nil && *s == "" }
	switch {
	case !r.may(q.Group):
		return kerr.GroupAuthorizationFailed
	case slices.ContainsFunc(q.SubscribedTopicNames, func(t string) bool { return !r.allowed(acl.Describe, acl.Topic, t) }):
		return kerr.TopicAuthorizationFailed
	case q.Group == "":
		return invalid("the group's id is empty")
	case q.MemberID == "" && (q.Version >= clientMemberIDs || q.MemberEpoch != 0):
		return invalid("the member's id is empty")
	case len(q.MemberID) > maxMemberID:
		return invalid(fmt.Sprintf("the member's id has %d bytes, %d is the limit", len(q.MemberID), maxMemberID))
	case isEmpty(q.InstanceID):
		return invalid("the instance id is empty")
	case isEmpty(q.RackID):
		return invalid("the rack id is empty")
	case q.MemberEpoch == group.LeaveStaticEpoch && q.InstanceID == nil:
		return invalid("a member without an instance id cannot leave to be back")
	case q.MemberEpoch < group.LeaveStaticEpoch:
		return invalid(fmt.Sprintf("there is no member epoch %d", q.MemberEpoch))
	case q.ServerAssignor != nil && !slices.Contains(group.Assignors(), *q.ServerAssignor):
		return refuse(kerr.UnsupportedAssignor, fmt.Sprintf("there is no assignor %q, only %s", *q.ServerAssignor, strings.Join(group.Assignors(), ", ")))
	case q.MemberEpoch != 0:
		return nil
	case q.RebalanceTimeoutMillis < 0:
		return invalid("a member that joins must say its rebalance timeout")
	case q.Topics == nil || len(q.Topics) > 0:
		return invalid("a member that joins has no partitions, and must say so")
	case q.SubscribedTopicNames == nil && q.SubscribedTopicRegex == nil:
		return invalid("a member that joins must say what it subscribes to")
	}
	return nil
}

func heartbeatOf(r *request, q *kmsg.ConsumerGroupHeartbeatRequest) group.ConsumerHeartbeat {
	h := group.ConsumerHeartbeat{
		MemberID: q.MemberID, InstanceID: text(q.InstanceID), MemberEpoch: q.MemberEpoch,
		ClientID: r.client.ClientID, ClientHost: "/" + r.client.Host, RackID: q.RackID,
		RebalanceTimeout:     time.Duration(q.RebalanceTimeoutMillis) * time.Millisecond,
		SubscribedTopicNames: q.SubscribedTopicNames,
		SubscribedTopicRegex: q.SubscribedTopicRegex,
		ServerAssignor:       q.ServerAssignor,
	}
	if h.MemberID == "" {
		h.MemberID = controller.NewTopicID().String() // a uuid, as Kafka writes it
	}
	if q.Topics != nil {
		owned := map[group.TopicID][]int32{}
		for _, t := range q.Topics {
			owned[t.TopicID] = append(owned[t.TopicID], t.Partitions...)
		}
		h.Owned = group.AssignmentOf(owned)
	}
	return h
}

// consumerGroupDescribe answers ConsumerGroupDescribe (KIP-848). v1 tells which
// members speak the classic protocol. A group whose members read topics that the
// caller may not see is not told of at all, as in Kafka.
func (b *Broker) consumerGroupDescribe(ctx context.Context, r *request, q *kmsg.ConsumerGroupDescribeRequest) *kmsg.ConsumerGroupDescribeResponse {
	resp := q.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
	for _, name := range once(q.Groups) {
		out := kmsg.NewConsumerGroupDescribeResponseGroup()
		out.Group = name
		err := b.describeConsumerGroup(ctx, r, name, &out)
		if err == nil && q.IncludeAuthorizedOperations {
			out.AuthorizedOperations = r.operations(acl.Group, name)
		}
		if kafkaError(err) == kerr.GroupIDNotFound {
			err = refuse(kerr.GroupIDNotFound, fmt.Sprintf("there is no consumer group %q", name))
		}
		out.ErrorCode, out.ErrorMessage = b.code(err, "describe group", "group", name), message(err)
		resp.Groups = append(resp.Groups, out)
	}
	return resp
}

func (b *Broker) describeConsumerGroup(ctx context.Context, r *request, name string, out *kmsg.ConsumerGroupDescribeResponseGroup) error {
	if !r.may(name) {
		return kerr.GroupAuthorizationFailed
	}
	d, err := b.coordinators.groups.DescribeConsumer(ctx, name)
	if err != nil {
		return err
	}
	set := b.topics.Load()
	hidden := false
	assignment := func(a group.Assignment) kmsg.Assignment {
		all := kmsg.NewAssignment()
		for id, partitions := range a.Topics() {
			if !r.spend(entryMemory + 8*len(partitions)) {
				break
			}
			topic, ok := set.Name(id)
			if !ok {
				continue // deleted, and the group has not met since
			}
			hidden = hidden || !r.allowed(acl.Describe, acl.Topic, topic)
			t := kmsg.NewAssignmentTopicPartition()
			t.TopicID, t.Topic, t.Partitions = id, topic, partitions
			all.TopicPartitions = append(all.TopicPartitions, t)
		}
		return all
	}
	var members []kmsg.ConsumerGroupDescribeResponseGroupMember
	for i := range d.Members {
		m := &d.Members[i]
		if !r.spend(4 * entryMemory) {
			return r.unpaid
		}
		member := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		member.MemberID, member.InstanceID, member.RackID = m.MemberID, optional(m.InstanceID), optional(m.RackID)
		member.ClientID, member.ClientHost, member.MemberEpoch = m.ClientID, m.ClientHost, m.MemberEpoch
		member.SubscribedTopics, member.SubscribedTopicRegex = m.SubscribedTopicNames, optional(m.SubscribedTopicRegex)
		member.Assignment, member.TargetAssignment = assignment(m.Assigned), assignment(m.Target)
		member.MemberType = 1
		if m.Classic {
			member.MemberType = 0
		}
		members = append(members, member)
	}
	if hidden {
		return refuse(kerr.TopicAuthorizationFailed, "the group reads topics that may not be described")
	}
	out.State, out.Epoch, out.AssignmentEpoch, out.AssignorName = string(d.State), d.Epoch, d.AssignmentEpoch, d.Assignor
	out.Members = members
	return nil
}

var _ group.Topics = (*topicSet)(nil)

// Version implements [group.Topics].
func (s *topicSet) Version() int64 { return s.version }

// Topic implements [group.Topics].
func (s *topicSet) Topic(name string) (id group.TopicID, partitions int32, ok bool) {
	t := s.byName[name]
	if t == nil {
		return id, 0, false
	}
	return group.TopicID(t.ID), t.Partitions, true
}

// Name implements [group.Topics].
func (s *topicSet) Name(id group.TopicID) (string, bool) {
	t := s.byID[controller.TopicID(id)]
	if t == nil {
		return "", false
	}
	return t.Name, true
}

// Names implements [group.Topics].
func (s *topicSet) Names() iter.Seq[string] { return maps.Keys(s.byName) }
