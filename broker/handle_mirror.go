package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

func mirrorAPIs() []api {
	row := func(key int16, rt acl.ResourceType, op acl.Operation, h handler) api {
		return api{key: kmsg.Key(key), max: mirrorwire.MaxVersion, resource: rt, op: op, handle: h}
	}
	appends := row(mirrorwire.AppendKey, acl.Cluster, acl.ClusterAction, begins((*Broker).mirrorAppend))
	appends.pipelined = true
	return []api{
		appends,
		row(mirrorwire.DescribeKey, acl.Topic, acl.Describe, answers((*Broker).mirrorDescribe)),
		row(mirrorwire.AlterKey, acl.Topic, acl.Alter, answers((*Broker).mirrorAlter)),
	}
}

// mirrored is what became of one partition of a MirrorAppend.
type mirrored struct {
	resp      *mirrorwire.AppendResponsePartition
	topic     *topic
	partition *replica.Partition
	end       int64 // to be committed below
	start     int64 // of the source, -1 if it was not told
	err       error
}

// mirrorAppend answers MirrorAppend v0 (internal/mirrorwire says what it means):
// it appends batches of another cluster at their own offsets, as a
// compare-and-append, in the order of the request. The answer waits until they are
// on disk. It needs ClusterAction on the cluster, because leader epochs, producer
// ids and control records come along; a batch is checked as a follower checks it,
// not as a leader. Nothing is written to the ledger: the writer's hop is the
// record of it.
func (b *Broker) mirrorAppend(_ context.Context, r *request, q *mirrorwire.AppendRequest) pending {
	resp := q.ResponseKind().(*mirrorwire.AppendResponse)
	r.throttleProduce(r.size)
	allowed := r.may(acl.ClusterName)
	var all []*mirrored
	resp.Topics = make([]mirrorwire.AppendResponseTopic, len(q.Topics))
	for i := range q.Topics {
		want, out := &q.Topics[i], &resp.Topics[i]
		out.TopicID = want.TopicID
		out.Partitions = make([]mirrorwire.AppendResponsePartition, len(want.Partitions))
		t, err := b.mirrorTopic(want)
		if !allowed {
			t, err = nil, kerr.ClusterAuthorizationFailed
		}
		for j := range want.Partitions {
			out.Partitions[j].Partition = want.Partitions[j].Partition
			done := &mirrored{resp: &out.Partitions[j], topic: t, err: err, start: -1}
			if t != nil {
				b.mirrorPartition(&want.Partitions[j], done)
			}
			all = append(all, done)
		}
	}
	return func(ctx context.Context) (kmsg.Response, error) {
		b.waitMirrored(ctx, time.Duration(max(q.TimeoutMillis, 1))*time.Millisecond, all)
		for _, m := range all {
			b.finishMirrored(m)
		}
		return resp, nil
	}
}

// mirrorTopic is the topic that a MirrorAppend is for. Beside an error it is the
// one that the answer tells of, if any.
func (b *Broker) mirrorTopic(want *mirrorwire.AppendRequestTopic) (*topic, error) {
	t := b.topicByID(controller.TopicID(want.TopicID))
	switch {
	case t == nil:
		return nil, kerr.UnknownTopicID
	case t.Mirror == nil:
		return t, refuse(kerr.InvalidRequest, fmt.Sprintf("topic %s is no mirror topic", t.Name))
	case t.Mirror.Source != want.Source:
		return t, refuse(kerr.InvalidRequest, fmt.Sprintf("topic %s is a mirror of %s, not of %s", t.Name, t.Mirror.Source, want.Source))
	case t.Mirror.State == controller.MirrorPromoted || t.Mirror.State == controller.MirrorPromoting:
		return t, refuse(kerr.ProducerFenced, fmt.Sprintf("topic %s was promoted", t.Name))
	case t.Mirror.State != controller.MirrorActive:
		return t, refuse(kerr.PolicyViolation, fmt.Sprintf("mirror topic %s is %s", t.Name, t.Mirror.State))
	}
	return t, nil
}

func (b *Broker) mirrorPartition(want *mirrorwire.AppendRequestPartition, done *mirrored) {
	p, err := done.topic.partition(want.Partition)
	if err != nil {
		done.err = err
		return
	}
	done.partition = p
	if done.err != nil {
		return
	}
	if want.WriterEpoch < 0 || want.TruncateTo < -1 || want.SourceStart < -1 {
		done.err = refuse(kerr.InvalidRequest, "a writer epoch or offset is negative")
		return
	}
	done.start = want.SourceStart
	done.end, done.err = p.AppendMirrored(commitlog.MirrorAppend{
		WriterEpoch: want.WriterEpoch, ExpectedEnd: want.ExpectedEnd, ExpectedEpoch: want.ExpectedEpoch,
		TruncateTo: want.TruncateTo, StartOffset: want.SourceStart, Batches: want.Batches,
	})
	if errors.Is(done.err, commitlog.ErrStaleLeaderEpoch) {
		// Writer, end and epoch are right, and the source contradicts what it said
		// before: a person has to look.
		done.err = refuse(kerr.FencedLeaderEpoch, done.err.Error())
		b.failMirror(done.topic, fmt.Sprintf("partition %d: %v", want.Partition, done.err))
	}
}

// waitMirrored waits until everything that was appended is on disk, and lets the
// starts follow. An append that was refused may have left a part, where the disk
// filled up between two segments, and one before it may be under way: as the answer
// tells where the log ends, that is waited for too.
func (b *Broker) waitMirrored(ctx context.Context, timeout time.Duration, all []*mirrored) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(concurrentSyncs)
	for _, m := range all {
		if m.err != nil {
			if m.partition != nil {
				group.Go(func() error {
					end := m.partition.EndOffset()
					if guard.Call(func() error { return m.partition.WaitCommitted(ctx, end) }) != nil {
						b.flusher.Add(m.partition, end)
					}
					return nil
				})
			}
			continue
		}
		group.Go(func() error {
			if m.err = guard.Call(func() error { return m.partition.WaitCommitted(ctx, m.end) }); m.err != nil {
				b.flusher.Add(m.partition, m.end)
			} else if m.start >= 0 {
				m.err = guard.Call(func() error { return m.partition.FollowStart(m.start) })
			}
			return nil
		})
	}
	_ = group.Wait() // none returns an error
}

func (b *Broker) finishMirrored(m *mirrored) {
	out := m.resp
	out.LogStart, out.LogEnd, out.LastEpoch, out.WriterEpoch = -1, -1, -1, -1
	if m.topic != nil {
		out.State = stateOf(m.topic)
	}
	if p := m.partition; p != nil {
		// What could not be waited for is not told of: it may not be there after a crash.
		out.LogStart, out.LogEnd, out.LastEpoch, out.WriterEpoch = p.StartOffset(), p.HighWatermark(), p.LastEpoch(), p.Mirror().WriterEpoch
		if m.err == nil {
			out.LogEnd = m.end
		}
	}
	out.ErrorCode, out.ErrorMessage = b.code(m.err, "mirror", "partition", out.Partition), message(m.err)
}

// mirrorDescribe answers MirrorDescribe v0: Describe on the topic.
func (b *Broker) mirrorDescribe(_ context.Context, r *request, q *mirrorwire.DescribeRequest) *mirrorwire.DescribeResponse {
	resp := q.ResponseKind().(*mirrorwire.DescribeResponse)
	for _, want := range q.Topics {
		t, err := b.mirrorRef(r, want)
		resp.Topics = append(resp.Topics, b.mirrorStatus(want, t, err))
	}
	return resp
}

// mirrorRef finds a topic that the caller may do the row's operation on.
func (b *Broker) mirrorRef(r *request, ref mirrorwire.TopicRef) (*topic, error) {
	if ref.TopicID == [16]byte{} {
		if !r.may(ref.Topic) {
			return nil, kerr.TopicAuthorizationFailed
		}
		if t := b.topic(ref.Topic); t != nil {
			return t, nil
		}
		return nil, kerr.UnknownTopicOrPartition
	}
	t := b.topicByID(controller.TopicID(ref.TopicID))
	if t == nil || !r.may(t.Name) {
		return nil, kerr.UnknownTopicID
	}
	return t, nil
}

func (b *Broker) mirrorStatus(ref mirrorwire.TopicRef, t *topic, err error) mirrorwire.DescribeResponseTopic {
	out := mirrorwire.DescribeResponseTopic{TopicID: ref.TopicID, Topic: ref.Topic}
	out.ErrorCode, out.ErrorMessage = b.code(err, "mirror topic", "topic", ref.Topic), message(err)
	if t == nil {
		return out
	}
	out.TopicID, out.Topic, out.State = t.ID, t.Name, stateOf(t)
	if t.Mirror != nil {
		out.Source, out.Reason = t.Mirror.Source, t.Mirror.Reason
	}
	for _, p := range t.partitions {
		m := p.Mirror()
		part := mirrorwire.DescribeResponsePartition{
			Partition: p.Partition, LogStart: p.StartOffset(), LogEnd: p.EndOffset(), LastStable: p.LastStable(),
			LastEpoch: p.LastEpoch(), LeaderEpoch: p.LeaderEpoch(), WriterEpoch: m.WriterEpoch, PromotedAt: m.PromotedAt,
		}
		for _, e := range m.Ended {
			part.Ended = append(part.Ended, mirrorwire.EndedTransaction(e))
		}
		out.Partitions = append(out.Partitions, part)
	}
	return out
}

// mirrorAlter answers MirrorAlter v0: Alter on the topic and ClusterAction on the
// cluster. It answers when the change is complete, or says where it stands: an
// operation that was interrupted may be repeated, and a restart carries it on.
func (b *Broker) mirrorAlter(ctx context.Context, r *request, q *mirrorwire.AlterRequest) *mirrorwire.AlterResponse {
	resp := q.ResponseKind().(*mirrorwire.AlterResponse)
	for i := range q.Topics {
		want := &q.Topics[i]
		ref := mirrorwire.TopicRef{TopicID: want.TopicID, Topic: want.Topic}
		t, err := b.mirrorRef(r, ref)
		switch {
		case err != nil:
		case !r.allowed(acl.ClusterAction, acl.Cluster, acl.ClusterName):
			t, err = nil, kerr.ClusterAuthorizationFailed
		default:
			err = b.alterMirror(context.WithoutCancel(ctx), t.ID, want)
			t = b.topicByID(t.ID)
		}
		resp.Topics = append(resp.Topics, b.mirrorStatus(ref, t, err))
	}
	return resp
}
