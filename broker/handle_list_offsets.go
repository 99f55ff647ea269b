package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/replica"
)

// The timestamps of ListOffsets that are questions.
const (
	offsetLatest        = -1
	offsetEarliest      = -2
	offsetMaxTimestamp  = -3 // KIP-734
	offsetEarliestLocal = -4 // KIP-405: nothing is tiered, so the earliest
	offsetLatestTiered  = -5 // KIP-1005: there is none
	offsetPendingUpload = -6 // KIP-1023: nothing is uploaded
)

// listOffsetsSince are the versions from which the questions may be asked.
var listOffsetsSince = map[int64]int16{
	offsetMaxTimestamp: 7, offsetEarliestLocal: 8, offsetLatestTiered: 9, offsetPendingUpload: 11,
}

const readCommitted = 1

// listOffsets answers ListOffsets. What it finds is below the high watermark, or
// the last stable offset for read_committed. v2 brought isolation, v4 leader epochs
// (KIP-320); later versions brought questions, each refused in those before it. The
// timeout of v10 (KIP-1075) is for what is read from afar, which nothing is here.
func (b *Broker) listOffsets(_ context.Context, r *request, q *kmsg.ListOffsetsRequest) *kmsg.ListOffsetsResponse {
	resp := q.ResponseKind().(*kmsg.ListOffsetsResponse)
	type place struct {
		topic     string
		partition int32
	}
	asked := map[place]int{}
	for _, t := range q.Topics {
		for _, p := range t.Partitions {
			asked[place{t.Topic, p.Partition}]++
		}
	}
	for _, t := range q.Topics {
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			part := kmsg.NewListOffsetsResponseTopicPartition()
			part.Partition, part.Timestamp, part.Offset, part.LeaderEpoch = p.Partition, -1, -1, -1
			if asked[place{t.Topic, p.Partition}] > 1 {
				part.ErrorCode = kerr.InvalidRequest.Code
			} else if err := b.listOffset(r, q, t.Topic, p, &part); err != nil {
				part.ErrorCode = b.code(err, "list offsets", "topic", t.Topic, "partition", p.Partition)
			}
			out.Partitions = append(out.Partitions, part)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (b *Broker) listOffset(r *request, q *kmsg.ListOffsetsRequest, name string, want kmsg.ListOffsetsRequestTopicPartition, out *kmsg.ListOffsetsResponseTopicPartition) error {
	if !r.may(name) {
		return kerr.TopicAuthorizationFailed
	}
	p, err := b.leader(name, want.Partition, want.CurrentLeaderEpoch, q.Version >= 4)
	if err != nil {
		return err
	}
	if q.Version < listOffsetsSince[want.Timestamp] {
		return kerr.UnsupportedVersion
	}
	upTo := p.HighWatermark()
	if q.IsolationLevel == readCommitted {
		upTo = p.LastStable()
	}
	switch want.Timestamp {
	case offsetLatest:
		out.Offset, out.LeaderEpoch = upTo, p.LeaderEpoch()
		return nil
	case offsetEarliest, offsetEarliestLocal:
		out.Offset = p.StartOffset()
		out.LeaderEpoch = p.EpochAt(out.Offset)
		return nil
	case offsetLatestTiered, offsetPendingUpload:
		return nil
	}
	var found commitlog.Found
	var ok bool
	switch {
	case want.Timestamp >= 0:
		found, ok, err = p.OffsetForTime(want.Timestamp, upTo)
	case want.Timestamp == offsetMaxTimestamp:
		found, ok, err = p.MaxTimestamp(upTo)
	default:
		return kerr.UnsupportedVersion
	}
	if err != nil || !ok {
		return err
	}
	out.Offset, out.Timestamp, out.LeaderEpoch = found.Offset, found.Timestamp, found.LeaderEpoch
	return nil
}

// leader returns a partition that can be read, if the client's idea of its
// leader epoch is ours.
func (b *Broker) leader(name string, index, epoch int32, checkEpoch bool) (*replica.Partition, error) {
	t := b.topic(name)
	if t == nil {
		return nil, kerr.UnknownTopicOrPartition
	}
	return t.leader(index, epoch, checkEpoch)
}

func (t *topic) leader(index, epoch int32, checkEpoch bool) (*replica.Partition, error) {
	p, err := t.partition(index)
	if err != nil {
		return nil, err
	}
	if err := p.Offline(); err != nil {
		return nil, err
	}
	if checkEpoch {
		if err := p.CheckEpoch(epoch); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// offsetForLeaderEpoch answers where an epoch ended, by which clients find out
// that a log was cut behind them (KIP-101, KIP-320).
func (b *Broker) offsetForLeaderEpoch(_ context.Context, r *request, q *kmsg.OffsetForLeaderEpochRequest) *kmsg.OffsetForLeaderEpochResponse {
	resp := q.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	for _, t := range q.Topics {
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			part := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			part.Partition, part.LeaderEpoch, part.EndOffset = p.Partition, -1, -1
			if !r.may(t.Topic) {
				part.ErrorCode = kerr.TopicAuthorizationFailed.Code
			} else if leader, err := b.leader(t.Topic, p.Partition, p.CurrentLeaderEpoch, true); err != nil {
				part.ErrorCode = b.code(err, "end of leader epoch", "topic", t.Topic, "partition", p.Partition)
			} else {
				part.LeaderEpoch, part.EndOffset = leader.EpochEnd(p.LeaderEpoch)
			}
			out.Partitions = append(out.Partitions, part)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}
