package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/broker/txn"
)

// commit is offsets on their way into a group, and the partitions that are
// refused before it is asked.
type commit struct {
	group.CommitRequest
	refused map[group.TopicPartition]error
}

// topicIDsInOffsets is the version of OffsetCommit and OffsetFetch from which on
// topics are named by their ids.
const topicIDsInOffsets = 10

// addOffset takes a partition's offset if the caller may read the topic and it is one.
func (b *Broker) addOffset(r *request, c *commit, o group.Offset) {
	var err error
	switch _, unknown := b.partition(o.Topic, o.Partition); {
	case o.Topic == "":
		err = kerr.UnknownTopicID
	case !r.allowed(acl.Read, acl.Topic, o.Topic):
		err = kerr.TopicAuthorizationFailed
	case unknown != nil:
		err = kerr.UnknownTopicOrPartition
	case len(o.Metadata) > group.MaxMetadata:
		err = kerr.OffsetMetadataTooLarge
	}
	if err != nil {
		c.refused[o.TopicPartition] = err
		return
	}
	c.Offsets = append(c.Offsets, o)
}

// outcome is a partition's error code, given the group's error.
func (b *Broker) outcome(c *commit, topic string, partition int32, err error) int16 {
	if refused := c.refused[group.TopicPartition{Topic: topic, Partition: partition}]; refused != nil {
		err = refused
	}
	return b.code(err, "commit offsets", "group", c.Group)
}

func newCommit(r *request, name, memberID string, instanceID *string, generation int32) *commit {
	return &commit{
		group.CommitRequest{
			Group: name, MemberID: memberID, InstanceID: text(instanceID), Generation: generation,
			Client: group.Client{
				Principal: r.client.Principal, Host: r.client.Host,
				ClientID: r.client.ClientID, Software: r.client.Software,
			},
		},
		map[group.TopicPartition]error{},
	}
}

// offsetCommit answers OffsetCommit, when the offsets are on disk. A retention
// that the client asks for (v2 to v4) is ignored, as in Kafka since KIP-211. v6
// has leader epochs, v7 static members, v9 errors of the consumer protocol
// (KIP-848), v10 ids of topics in place of names.
func (b *Broker) offsetCommit(ctx context.Context, r *request, q *kmsg.OffsetCommitRequest) *kmsg.OffsetCommitResponse {
	resp := q.ResponseKind().(*kmsg.OffsetCommitResponse)
	c := newCommit(r, q.Group, q.MemberID, q.InstanceID, q.Generation)
	c.KnowsEpochs = q.Version >= 9
	err := error(kerr.GroupAuthorizationFailed)
	if q.Version >= topicIDsInOffsets {
		set := b.topics.Load()
		for i := range q.Topics {
			q.Topics[i].Topic, _ = set.Name(q.Topics[i].TopicID)
		}
	}
	if r.may(q.Group) {
		for _, t := range q.Topics {
			for _, p := range t.Partitions {
				o := group.Offset{Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: text(p.Metadata)}
				o.Topic, o.Partition = t.Topic, p.Partition
				b.addOffset(r, c, o)
			}
		}
		err = b.coordinators.groups.Commit(ctx, c.CommitRequest)
	}
	for _, t := range q.Topics {
		topic := kmsg.NewOffsetCommitResponseTopic()
		topic.Topic, topic.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			part := kmsg.NewOffsetCommitResponseTopicPartition()
			part.Partition, part.ErrorCode = p.Partition, b.outcome(c, t.Topic, p.Partition, err)
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

// txnOffsetCommit answers TxnOffsetCommit: the offsets become valid with the
// producer's transaction, to which AddOffsetsToTxn has added the group. v3 checks
// the member and its generation (KIP-447). v5 adds the group itself (KIP-890).
func (b *Broker) txnOffsetCommit(ctx context.Context, r *request, q *kmsg.TxnOffsetCommitRequest) *kmsg.TxnOffsetCommitResponse {
	resp := q.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	if q.Version < 3 {
		q.Generation, q.MemberID, q.InstanceID = -1, "", nil
	}
	c := newCommit(r, q.Group, q.MemberID, q.InstanceID, q.Generation)
	var err error
	switch {
	case !r.may(q.TransactionalID):
		err = kerr.TransactionalIDAuthorizationFailed
	case !r.allowed(acl.Read, acl.Group, q.Group):
		err = kerr.GroupAuthorizationFailed
	default:
		for _, t := range q.Topics {
			for _, p := range t.Partitions {
				o := group.Offset{Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: text(p.Metadata)}
				o.Topic, o.Partition = t.Topic, p.Partition
				b.addOffset(r, c, o)
			}
		}
		err = b.coordinators.commitInTransaction(ctx, c.CommitRequest, q.TransactionalID, txn.Producer{ID: q.ProducerID, Epoch: q.ProducerEpoch}, q.Version)
	}
	for _, t := range q.Topics {
		topic := kmsg.NewTxnOffsetCommitResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			part := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			part.Partition, part.ErrorCode = p.Partition, b.outcome(c, t.Topic, p.Partition, err)
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

// offsetFetch answers OffsetFetch. No topics (null, v2 and later) asks for all of
// a group's offsets. v7 can ask for offsets that no open transaction may move
// (KIP-447), v8 for many groups at once (KIP-709), v9 says which member asks
// (KIP-848), v10 names topics by their ids.
func (b *Broker) offsetFetch(ctx context.Context, r *request, q *kmsg.OffsetFetchRequest) *kmsg.OffsetFetchResponse {
	resp := q.ResponseKind().(*kmsg.OffsetFetchResponse)
	if q.Version >= 8 {
		for i := range q.Groups {
			resp.Groups = append(resp.Groups, b.fetchOffsets(ctx, r, &q.Groups[i], q.Version, q.RequireStable))
		}
		return resp
	}
	// The older form is one group of the newer one.
	want := kmsg.NewOffsetFetchRequestGroup()
	want.Group = q.Group
	if q.Topics != nil || q.Version < 2 {
		want.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range q.Topics {
		topic := kmsg.NewOffsetFetchRequestGroupTopic()
		topic.Topic, topic.Partitions = t.Topic, t.Partitions
		want.Topics = append(want.Topics, topic)
	}
	got := b.fetchOffsets(ctx, r, &want, q.Version, q.RequireStable)
	resp.ErrorCode = got.ErrorCode
	for _, t := range got.Topics {
		topic := kmsg.NewOffsetFetchResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			part := kmsg.NewOffsetFetchResponseTopicPartition()
			part.Partition, part.Offset, part.LeaderEpoch = p.Partition, p.Offset, p.LeaderEpoch
			part.Metadata, part.ErrorCode = p.Metadata, p.ErrorCode
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

func (b *Broker) fetchOffsets(ctx context.Context, r *request, want *kmsg.OffsetFetchRequestGroup, version int16, stable bool) kmsg.OffsetFetchResponseGroup {
	resp := kmsg.NewOffsetFetchResponseGroup()
	resp.Group = want.Group
	byID := version >= topicIDsInOffsets
	set := b.topics.Load()
	var partitions []group.TopicPartition // nil is all
	if want.Topics != nil {
		partitions = []group.TopicPartition{}
	}
	for i := range want.Topics {
		t := &want.Topics[i]
		if byID {
			if t.Topic, _ = set.Name(t.TopicID); t.Topic == "" {
				resp.Topics = append(resp.Topics, unknownTopicID(t))
				continue
			}
		}
		for _, p := range t.Partitions {
			partitions = append(partitions, group.TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	var offsets []group.Fetched
	err := error(kerr.GroupAuthorizationFailed)
	if r.may(want.Group) {
		offsets, err = b.coordinators.groups.Offsets(ctx, group.FetchRequest{
			Group: want.Group, Partitions: partitions, Stable: stable,
			MemberID: text(want.MemberID), MemberEpoch: want.MemberEpoch,
		})
	}
	resp.ErrorCode = b.code(err, "fetch offsets", "group", want.Group)
	if err != nil {
		// Version 1 has no place for the group's error.
		for _, tp := range partitions {
			f := group.Fetched{Err: err}
			f.TopicPartition = tp
			offsets = append(offsets, f)
		}
	}
	for _, f := range offsets {
		if !r.spend(entryMemory + len(f.Metadata)) {
			break
		}
		if err == nil && !r.allowed(acl.Describe, acl.Topic, f.Topic) {
			if want.Topics == nil {
				continue
			}
			f.Err = kerr.TopicAuthorizationFailed
		}
		if n := len(resp.Topics); n == 0 || resp.Topics[n-1].Topic != f.Topic {
			topic := kmsg.NewOffsetFetchResponseGroupTopic()
			topic.Topic = f.Topic
			id, _, known := set.Topic(f.Topic)
			if byID && !known {
				continue // of a topic that is no more, and has no id to be named by
			}
			topic.TopicID = id
			resp.Topics = append(resp.Topics, topic)
		}
		part := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		part.Partition, part.Offset, part.LeaderEpoch, part.Metadata = f.Partition, f.Offset.Offset, f.LeaderEpoch, &f.Metadata
		if f.Err != nil {
			part.Offset, part.LeaderEpoch, part.Metadata = -1, -1, kmsg.StringPtr("")
			part.ErrorCode = b.code(f.Err, "fetch offsets", "group", want.Group)
		}
		last := &resp.Topics[len(resp.Topics)-1]
		last.Partitions = append(last.Partitions, part)
	}
	return resp
}

// unknownTopicID is the answer about a topic that is not, or no more.
func unknownTopicID(want *kmsg.OffsetFetchRequestGroupTopic) kmsg.OffsetFetchResponseGroupTopic {
	topic := kmsg.NewOffsetFetchResponseGroupTopic()
	topic.TopicID = want.TopicID
	for _, p := range want.Partitions {
		part := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		part.Partition, part.Offset, part.LeaderEpoch, part.Metadata = p, -1, -1, kmsg.StringPtr("")
		part.ErrorCode = kerr.UnknownTopicID.Code
		topic.Partitions = append(topic.Partitions, part)
	}
	return topic
}

// offsetDelete answers OffsetDelete (KIP-496): of a live group only topics that
// it no longer reads.
func (b *Broker) offsetDelete(ctx context.Context, r *request, q *kmsg.OffsetDeleteRequest) *kmsg.OffsetDeleteResponse {
	resp := q.ResponseKind().(*kmsg.OffsetDeleteResponse)
	if !r.may(q.Group) {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	outcomes := map[group.TopicPartition]error{}
	var partitions []group.TopicPartition
	for _, t := range q.Topics {
		for _, p := range t.Partitions {
			tp := group.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			if r.allowed(acl.Read, acl.Topic, t.Topic) {
				// Topics that are deleted leave offsets behind, so it need not be one.
				partitions = append(partitions, tp)
			} else {
				outcomes[tp] = kerr.TopicAuthorizationFailed
			}
		}
	}
	errs, err := b.coordinators.groups.DeleteOffsets(ctx, q.Group, partitions)
	if err != nil {
		resp.ErrorCode = b.code(err, "delete offsets", "group", q.Group)
		return resp
	}
	for i, tp := range partitions {
		outcomes[tp] = errs[i]
	}
	for _, t := range q.Topics {
		topic := kmsg.NewOffsetDeleteResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			part := kmsg.NewOffsetDeleteResponseTopicPartition()
			part.Partition = p.Partition
			part.ErrorCode = b.code(outcomes[group.TopicPartition{Topic: t.Topic, Partition: p.Partition}], "delete offsets")
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}
