package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/record"
)

// Fetch versions that mean something here.
const (
	fetchEpoch   = 9
	fetchZstd    = 10
	fetchTopicID = 13
)

// maxFetchWait bounds how long a client may park a request.
const maxFetchWait = 5 * time.Minute

// fetch answers Fetch: whole batches as they are stored, from the one that
// contains the offset, up to the high watermark or, for read_committed, the last
// stable offset together with the aborted transactions below it. It waits until
// there are min_bytes, something fails, or max_wait is over.
//
// The first partition that has something always gets a batch, however small the
// limits (KIP-74). v9 fences by leader epoch (KIP-320), v10 is needed for zstd,
// v13 asks by topic id (KIP-516). Sessions (KIP-227) are never made: session id 0
// is the legal answer and clients go on with full requests. Followers are left
// out, as are diverging epochs, which only they ask for.
func (b *Broker) fetch(ctx context.Context, r *request, q *kmsg.FetchRequest) *kmsg.FetchResponse {
	resp := q.ResponseKind().(*kmsg.FetchResponse)
	if q.SessionID != 0 {
		resp.ErrorCode = kerr.FetchSessionIDNotFound.Code
		return resp
	}
	if q.ReplicaID >= 0 || q.ReplicaState.ID >= 0 {
		// Only a broker may ask as a replica (CVE-2018-1288), and this cluster
		// has no other.
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		if r.allowed(acl.ClusterAction, acl.Cluster, acl.ClusterName) {
			resp.ErrorCode = kerr.InvalidRequest.Code
		}
		return resp
	}
	f := newFetch(b, r, q)
	if f.enough(f.read()) {
		return f.respond(resp)
	}
	waiter := replica.NewWaiter()
	defer waiter.Stop()
	for _, p := range f.parts {
		p.partition.Watch(waiter)
	}
	timer := time.NewTimer(f.wait)
	defer timer.Stop()
	for {
		if f.enough(f.read()) {
			return f.respond(resp)
		}
		select {
		case <-waiter.C():
		case <-timer.C:
			f.read()
			return f.respond(resp)
		case <-ctx.Done():
			return f.respond(resp)
		}
	}
}

// fetching is one Fetch request under way.
type fetching struct {
	b        *Broker
	r        *request
	q        *kmsg.FetchRequest
	wait     time.Duration
	maxBytes int
	topics   []kmsg.FetchResponseTopic
	parts    []*fetchPart
}

// fetchPart is one partition of it. err is final.
type fetchPart struct {
	topic, index int // in topics
	want         kmsg.FetchRequestTopicPartition
	partition    *replica.Partition // nil with err
	err          error
	records      []byte
	last         int64 // offset of the last record in records
	aborted      []commitlog.AbortedTxn
}

func newFetch(b *Broker, r *request, q *kmsg.FetchRequest) *fetching {
	f := &fetching{
		b: b, r: r, q: q,
		wait:     min(time.Duration(max(q.MaxWaitMillis, 0))*time.Millisecond, maxFetchWait),
		maxBytes: int(min(max(q.MaxBytes, 0), b.cfg.Limits.FetchMaxBytes)),
		topics:   make([]kmsg.FetchResponseTopic, len(q.Topics)),
	}
	var failed []*fetchPart
	for i := range q.Topics {
		want, out := &q.Topics[i], &f.topics[i]
		out.Topic, out.TopicID = want.Topic, want.TopicID
		out.Partitions = make([]kmsg.FetchResponseTopicPartition, len(want.Partitions))
		name, err := f.topic(want)
		for j, wanted := range want.Partitions {
			out.Partitions[j].Default()
			out.Partitions[j].Partition = wanted.Partition
			p := &fetchPart{topic: i, index: j, want: wanted, err: err}
			if err == nil {
				p.partition, p.err = b.leader(name, wanted.Partition, wanted.CurrentLeaderEpoch, q.Version >= fetchEpoch)
			}
			if p.err != nil {
				failed = append(failed, p)
				continue
			}
			f.parts = append(f.parts, p)
		}
	}
	for _, p := range failed {
		f.fail(p)
	}
	if len(failed) > 0 || len(f.parts) == 0 {
		f.wait = 0
	}
	return f
}

func (f *fetching) topic(want *kmsg.FetchRequestTopic) (string, error) {
	name := want.Topic
	if f.q.Version >= fetchTopicID {
		t := f.b.topicByID(controller.TopicID(want.TopicID))
		if t == nil {
			return "", kerr.UnknownTopicID
		}
		name = t.Name
	}
	if !f.r.may(name) {
		return "", kerr.TopicAuthorizationFailed
	}
	return name, nil
}

// enough says whether the request need not wait any longer.
func (f *fetching) enough(bytes int, failed bool) bool {
	return failed || f.wait == 0 || bytes >= int(f.q.MinBytes)
}

// read reads what there is, in the order of the request.
func (f *fetching) read() (bytes int, failed bool) {
	for _, p := range f.parts {
		p.records, p.aborted = nil, nil
		if p.err = f.readPart(p, f.maxBytes-bytes, bytes == 0); p.err != nil {
			failed = true
		}
		bytes += len(p.records)
	}
	return bytes, failed
}

func (f *fetching) readPart(p *fetchPart, budget int, first bool) error {
	if !f.r.may(p.partition.Topic) { // taken away while the request was parked
		return kerr.TopicAuthorizationFailed
	}
	from, upTo := p.want.FetchOffset, p.partition.HighWatermark()
	if from < p.partition.StartOffset() || from > p.partition.EndOffset() {
		return kerr.OffsetOutOfRange
	}
	if f.q.IsolationLevel == readCommitted {
		upTo = p.partition.LastStable()
	}
	limit := min(budget, int(p.want.PartitionMaxBytes))
	if from >= upTo || (limit <= 0 && !first) {
		return nil
	}
	records, err := p.partition.Read(from, max(limit, 0), upTo)
	if err != nil || len(records) == 0 || (len(records) > limit && !first) {
		return err
	}
	p.records = records
	return f.inspect(p)
}

// inspect looks through the headers of what was read.
func (f *fetching) inspect(p *fetchPart) error {
	begin := p.want.FetchOffset
	for rest := p.records; len(rest) > 0; {
		batch, more, err := record.Next(rest)
		if err != nil {
			return err
		}
		if f.q.Version < fetchZstd && batch.Attributes().Codec() == record.Zstd {
			p.records = nil
			return kerr.UnsupportedCompressionType
		}
		p.last, rest = batch.LastOffset(), more
	}
	if f.q.IsolationLevel == readCommitted {
		p.aborted = p.partition.Aborted(begin, p.last+1)
	}
	return nil
}

// respond fills the response from what the last read found.
func (f *fetching) respond(resp *kmsg.FetchResponse) *kmsg.FetchResponse {
	resp.Topics = f.topics
	for _, p := range f.parts {
		if p.err != nil {
			f.fail(p)
			continue
		}
		out := &f.topics[p.topic].Partitions[p.index]
		out.HighWatermark = p.partition.HighWatermark()
		out.LastStableOffset = p.partition.LastStable()
		out.LogStartOffset = p.partition.StartOffset()
		out.RecordBatches = p.records
		if out.RecordBatches == nil {
			out.RecordBatches = []byte{}
		}
		if f.q.IsolationLevel == readCommitted {
			out.AbortedTransactions = make([]kmsg.FetchResponseTopicPartitionAbortedTransaction, 0, len(p.aborted))
			for _, a := range p.aborted {
				txn := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
				txn.ProducerID, txn.FirstOffset = a.ProducerID, a.FirstOffset
				out.AbortedTransactions = append(out.AbortedTransactions, txn)
			}
		}
		f.b.metrics.FetchedBytes.Add(int64(len(p.records)))
		if f.b.provenance != nil && len(p.records) > 0 {
			f.b.provenance.fetched(&f.r.client, p.partition, p.want.FetchOffset, p.last)
		}
	}
	return resp
}

// fail fills the answer for a partition that cannot be read.
func (f *fetching) fail(p *fetchPart) {
	out := &f.topics[p.topic].Partitions[p.index]
	out.ErrorCode = f.b.code(p.err, "fetch", "topic", f.topics[p.topic].Topic, "partition", p.want.Partition)
	out.HighWatermark, out.LastStableOffset, out.LogStartOffset = -1, -1, -1
	out.RecordBatches = []byte{}
}
