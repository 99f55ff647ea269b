package broker

import (
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
)

// maxDescribedPartitions bounds one answer (max.request.partition.size.limit).
const maxDescribedPartitions = 2000

// describeTopicPartitions answers DescribeTopicPartitions (KIP-966): topics in the
// order of their names, a page of partitions at a time. No topics is all that the
// caller may Describe. An answer that is full names where the next one begins.
func (b *Broker) describeTopicPartitions(_ context.Context, r *request, q *kmsg.DescribeTopicPartitionsRequest) *kmsg.DescribeTopicPartitionsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	set := b.topics.Load()
	var names []string
	for _, t := range q.Topics {
		names = append(names, t.Topic)
	}
	all := len(names) == 0
	if all {
		names = slices.Collect(maps.Keys(set.byName))
	}
	slices.Sort(names)
	first := int32(0)
	if c := q.Cursor; c != nil {
		if c.Partition < 0 {
			for _, name := range names {
				resp.Topics = append(resp.Topics, refusedTopicPartitions(name, kerr.InvalidRequest))
			}
			return resp
		}
		at, found := slices.BinarySearch(names, c.Topic)
		if names = names[at:]; found {
			first = c.Partition
		}
	}
	left := max(1, min(q.ResponsePartitionLimit, maxDescribedPartitions))
	for _, name := range slices.Compact(names) {
		t := set.byName[name]
		switch {
		case !r.may(name):
			if !all {
				resp.Topics = append(resp.Topics, refusedTopicPartitions(name, kerr.TopicAuthorizationFailed))
			}
			continue
		case checkTopicName(name) != nil:
			resp.Topics = append(resp.Topics, refusedTopicPartitions(name, kerr.InvalidTopicException))
			continue
		case t == nil:
			resp.Topics = append(resp.Topics, refusedTopicPartitions(name, kerr.UnknownTopicOrPartition))
			continue
		case left == 0:
			resp.NextCursor = nextCursor(name, 0)
			return resp
		}
		end := min(int64(len(t.partitions)), int64(first)+int64(left))
		out := b.topicPartitions(r, t, int64(first), end)
		resp.Topics = append(resp.Topics, out)
		left -= int32(len(out.Partitions))
		if end < int64(len(t.partitions)) {
			resp.NextCursor = nextCursor(name, int32(end))
			return resp
		}
		first = 0
	}
	return resp
}

func nextCursor(topic string, partition int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = topic, partition
	return &c
}

func refusedTopicPartitions(name string, err *kerr.Error) kmsg.DescribeTopicPartitionsResponseTopic {
	out := kmsg.NewDescribeTopicPartitionsResponseTopic()
	out.Topic, out.ErrorCode, out.IsInternal = &name, err.Code, isCoordinators(name)
	return out
}

// topicPartitions describes the partitions from first to before end.
func (b *Broker) topicPartitions(r *request, t *topic, first, end int64) kmsg.DescribeTopicPartitionsResponseTopic {
	out := kmsg.NewDescribeTopicPartitionsResponseTopic()
	out.Topic, out.TopicID, out.IsInternal = &t.Name, t.ID, isCoordinators(t.Name)
	out.AuthorizedOperations = r.operations(acl.Topic, t.Name)
	if !r.spend(int(end-min(first, end)) * 2 * partitionMemory) {
		return out
	}
	self := []int32{b.cfg.NodeID}
	for _, p := range t.partitions[min(first, end):end] {
		part := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		part.Partition, part.LeaderID, part.LeaderEpoch = p.Partition, b.cfg.NodeID, p.LeaderEpoch()
		part.Replicas, part.ISR = self, self
		part.EligibleLeaderReplicas, part.LastKnownELR = []int32{}, []int32{}
		if p.Offline() != nil {
			part.ErrorCode = kerr.LeaderNotAvailable.Code
			part.LeaderID, part.ISR, part.OfflineReplicas = -1, nil, self
			part.LastKnownELR = self
		}
		out.Partitions = append(out.Partitions, part)
	}
	return out
}
