package broker

import (
	"context"
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
	"github.com/waybillhq/waybill/internal/record"
)

func dataAPIs() []api {
	return []api{
		{key: kmsg.Produce, min: 0, max: 13, resource: acl.Topic, op: acl.Write, handle: begins((*Broker).produce), pipelined: true},
		{key: kmsg.Fetch, min: 4, max: 18, resource: acl.Topic, op: acl.Read, handle: begins((*Broker).fetch)},
		{key: kmsg.ListOffsets, min: 1, max: 11, resource: acl.Topic, op: acl.Describe, handle: answers((*Broker).listOffsets)},
		{key: kmsg.OffsetForLeaderEpoch, min: 2, max: 4, resource: acl.Topic, op: acl.Describe, handle: answers((*Broker).offsetForLeaderEpoch)},
	}
}

// Produce versions that mean something here. 0 to 2 are advertised and refused:
// see apis.
const (
	produceFirst     = 3 // format v2
	produceZstd      = 7
	produceEndpoints = 10
	produceTopicID   = 13
)

// produced is what became of one partition of a Produce request.
type produced struct {
	resp      *kmsg.ProduceResponseTopicPartition
	partition *replica.Partition
	end       int64 // to be committed below; 0 if nothing was appended
	err       error
	failures  []recordFailure
}

// produce answers Produce: it checks and appends at once, in the order of the
// request, and the answer waits until all of it is on disk, for acks=1 as for
// acks=all. acks=0 has no answer; if something went wrong the connection is
// closed instead, so that the client looks again.
//
// v3 brought transactions, v7 zstd, v8 which records failed (KIP-467), v10 names
// the leader beside an error (KIP-951), v12 adds partitions to the transaction
// (KIP-890, see enlist), v13 topic ids (KIP-516).
func (b *Broker) produce(ctx context.Context, r *request, q *kmsg.ProduceRequest) pending {
	resp := q.ResponseKind().(*kmsg.ProduceResponse)
	r.throttleProduce(r.size)
	refused := b.refuseProduce(r, q)
	var all []*produced
	var enlisted map[*replica.Partition]enlisted
	if refused == nil {
		enlisted = b.enlist(ctx, r, q)
	}
	resp.Topics = make([]kmsg.ProduceResponseTopic, len(q.Topics))
	for i := range q.Topics {
		want, out := &q.Topics[i], &resp.Topics[i]
		out.Topic, out.TopicID = want.Topic, want.TopicID
		out.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(want.Partitions))
		t, err := b.produceTopic(r, q, want)
		if refused != nil {
			err = refused
		}
		for j := range want.Partitions {
			part := &out.Partitions[j]
			part.Default()
			part.Partition = want.Partitions[j].Partition
			done := &produced{resp: part, err: err}
			if err == nil {
				b.producePartition(r, q, t, want.Partitions[j], enlisted, done)
			}
			all = append(all, done)
		}
	}
	if q.Acks == 0 {
		return func(context.Context) (kmsg.Response, error) {
			var failed error
			for _, p := range all {
				if p.err != nil {
					failed = fmt.Errorf("produce with acks=0: %w", p.err)
					continue
				}
				b.flusher.Add(p.partition, p.end)
			}
			return nil, failed
		}
	}
	return func(ctx context.Context) (kmsg.Response, error) {
		b.waitProduced(ctx, q, all)
		for _, p := range all {
			b.finishProduce(p)
		}
		if q.Version >= produceEndpoints {
			b.hintProduced(r, resp, all)
		}
		return resp, nil
	}
}

// refuseProduce is why nothing of a request can be appended.
func (b *Broker) refuseProduce(r *request, q *kmsg.ProduceRequest) error {
	switch {
	case q.Version < produceFirst:
		return kerr.UnsupportedVersion
	case q.Acks < -1 || q.Acks > 1:
		return kerr.InvalidRequiredAcks
	case q.TransactionID != nil && !r.allowed(acl.Write, acl.TransactionalID, *q.TransactionID):
		return kerr.TransactionalIDAuthorizationFailed
	}
	return nil
}

func (b *Broker) produceTopic(r *request, q *kmsg.ProduceRequest, want *kmsg.ProduceRequestTopic) (*topic, error) {
	if q.Version >= produceTopicID {
		t := b.topicByID(controller.TopicID(want.TopicID))
		switch {
		case t == nil:
			return nil, kerr.UnknownTopicID
		case !r.may(t.Name):
			return nil, kerr.TopicAuthorizationFailed
		case isCoordinators(t.Name):
			return nil, kerr.InvalidTopicException
		}
		return t, t.writable()
	}
	switch {
	case !r.may(want.Topic):
		return nil, kerr.TopicAuthorizationFailed
	case isCoordinators(want.Topic):
		return nil, kerr.InvalidTopicException
	}
	if t := b.topic(want.Topic); t != nil {
		return t, t.writable()
	}
	return nil, kerr.UnknownTopicOrPartition
}

// producePartition appends the batch of one partition.
func (b *Broker) producePartition(r *request, q *kmsg.ProduceRequest, t *topic, want kmsg.ProduceRequestTopicPartition, enlisted map[*replica.Partition]enlisted, done *produced) {
	p, err := t.partition(want.Partition)
	if err != nil {
		done.err = err
		return
	}
	done.partition = p
	if q.Acks == -1 && t.config.minISR > 1 {
		done.err = kerr.NotEnoughReplicas
		return
	}
	batch, failures, err := b.checkProduced(t, q, want.Records)
	if err != nil {
		done.err, done.failures = err, failures
		return
	}
	now := time.Now().UnixMilli()
	if t.config.appendTime {
		batch.SetAppendTime(now)
	}
	appended, err := appendProduced(q, p, batch, enlisted[p])
	if err != nil {
		done.err = err
		return
	}
	if !appended.Duplicate {
		b.metrics.ProducedRecords.Add(int64(batch.Count()))
		b.metrics.ProducedBytes.Add(int64(len(batch)))
	}
	done.end = appended.NextOffset()
	done.resp.BaseOffset = appended.BaseOffset
	done.resp.LogStartOffset = p.StartOffset()
	done.resp.LogAppendTime = -1
	if t.config.appendTime {
		done.resp.LogAppendTime = now
	}
	if b.provenance != nil && !appended.Duplicate {
		b.provenance.produced(r.client, p, batch.ProducerID(), appended.BaseOffset, appended.LastOffset)
	}
}

// appendProduced appends a checked batch. One that would open a transaction on
// this partition needs the coordinator's word that it belongs to it (KIP-890).
func appendProduced(q *kmsg.ProduceRequest, p *replica.Partition, batch record.Batch, e enlisted) (commitlog.Appended, error) {
	switch {
	case !batch.Attributes().Transactional():
		return p.Append(batch, commitlog.FromClient)
	case q.TransactionID == nil:
		// The right to the transactional id was checked by the request's field,
		// so a batch may not be transactional without it (CVE-2018-17196).
		return commitlog.Appended{}, refuse(kerr.TransactionalIDAuthorizationFailed, "transactional batch in a request without transactional id")
	case e.err != nil:
		return commitlog.Appended{}, e.err
	case e.open:
		return p.Append(batch, commitlog.FromClient)
	}
	return p.AppendVerified(batch, e.guard)
}

// waitProduced waits until everything that was appended is committed. It goes on
// when the client is gone: others wait to read it.
func (b *Broker) waitProduced(ctx context.Context, q *kmsg.ProduceRequest, all []*produced) {
	timeout := time.Duration(max(q.TimeoutMillis, 1)) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	waitOne := func(p *produced) {
		if p.err = guard.Call(func() error { return p.partition.WaitCommitted(ctx, p.end) }); p.err != nil {
			b.flusher.Add(p.partition, p.end)
		}
	}
	var waiting []*produced
	for _, p := range all {
		if p.err == nil {
			waiting = append(waiting, p)
		}
	}
	if len(waiting) == 1 {
		waitOne(waiting[0])
		return
	}
	var group errgroup.Group
	group.SetLimit(concurrentSyncs)
	for _, p := range waiting {
		group.Go(func() error {
			waitOne(p)
			return nil
		})
	}
	_ = group.Wait() // none returns an error
}

// finishProduce turns an outcome into the partition's answer.
func (b *Broker) finishProduce(p *produced) {
	if p.err == nil {
		return
	}
	p.resp.ErrorCode = b.code(p.err, "produce", "partition", p.partition)
	p.resp.BaseOffset, p.resp.LogStartOffset, p.resp.LogAppendTime = -1, -1, -1
	p.resp.ErrorMessage = message(p.err)
	for _, f := range p.failures {
		e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
		e.RelativeOffset, e.ErrorMessage = f.index, kmsg.StringPtr(f.reason)
		p.resp.ErrorRecords = append(p.resp.ErrorRecords, e)
	}
}

// hintProduced tells a client whose idea of the leader is old who it is (KIP-951).
func (b *Broker) hintProduced(r *request, resp *kmsg.ProduceResponse, all []*produced) {
	for _, p := range all {
		if p.partition == nil {
			continue
		}
		leader, ok := b.leaderHint(p.resp.ErrorCode, p.partition.Topic, p.partition.Partition)
		if !ok {
			continue
		}
		p.resp.CurrentLeader.LeaderID, p.resp.CurrentLeader.LeaderEpoch = leader.id, leader.epoch
		if len(resp.Brokers) == 0 {
			node := kmsg.NewProduceResponseBroker()
			node.NodeID, node.Host, node.Port = b.endpoint(r.client)
			resp.Brokers = append(resp.Brokers, node)
		}
	}
}
