package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/record"
)

// Fetch versions that mean something here.
const (
	fetchEpoch     = 9
	fetchZstd      = 10
	fetchTopicID   = 13
	fetchEndpoints = 16
)

// maxFetchWait bounds how long a client may park a request.
const maxFetchWait = 5 * time.Minute

// fetch answers Fetch: whole batches as they are stored, from the one that
// contains the offset, up to the high watermark or, for read_committed, the last
// stable offset together with the aborted transactions below it. It waits until
// there are min_bytes, something fails, or max_wait is over. Waiting counts bytes
// by the index; nothing is read, and what is sent later goes from the file to the
// socket (see [fetchAnswer]).
//
// The first partition that has something always gets a batch, however small the
// limits (KIP-74). v7 brought sessions (KIP-227, see fetch_session.go), v9 fences
// by leader epoch (KIP-320), v10 is needed for zstd, v12 detects that a log was cut
// behind the client (diverging epoch, KIP-595), v13 asks by topic id (KIP-516), v16
// names the leader beside an error (KIP-951). A preferred read replica is never
// named (KIP-392): there is one. Followers are left out: v17's directory ids and
// v18's high watermark are theirs.
//
// Rights are looked up for every request, sessions included, and again when rules
// change while a request is parked.
func (b *Broker) fetch(ctx context.Context, r *request, q *kmsg.FetchRequest) pending {
	resp := q.ResponseKind().(*kmsg.FetchResponse)
	whole := func(err *kerr.Error) pending {
		resp.ErrorCode = err.Code
		return func(context.Context) (kmsg.Response, error) { return resp, nil }
	}
	if q.ReplicaID >= 0 || q.ReplicaState.ID >= 0 {
		// Only a broker may ask as a replica (CVE-2018-1288), and this cluster
		// has no other.
		if r.allowed(acl.ClusterAction, acl.Cluster, acl.ClusterName) {
			return whole(kerr.InvalidRequest)
		}
		return whole(kerr.ClusterAuthorizationFailed)
	}
	about, failed := b.sessions.begin(q, r.client.Principal, time.Now())
	if failed != nil {
		return whole(failed)
	}
	f := &fetching{
		fetchContext: about, b: b, r: r, q: q,
		wait:     min(time.Duration(max(q.MaxWaitMillis, 0))*time.Millisecond, maxFetchWait),
		maxBytes: r.fetchBudget(int(min(max(q.MaxBytes, 0), b.cfg.Limits.FetchMaxBytes))),
	}
	f.await(ctx)
	return func(context.Context) (kmsg.Response, error) { return f.answer(resp), nil }
}

// fetching is one Fetch request under way.
type fetching struct {
	*fetchContext
	b        *Broker
	r        *request
	q        *kmsg.FetchRequest
	wait     time.Duration
	maxBytes int
	// bytes is what all partitions have, each up to its limit; settled says that
	// there is no use in waiting for more.
	bytes   int
	settled bool
}

// fetchPart is one partition of it.
type fetchPart struct {
	key  fetchKey
	want fetchWant

	topic     string             // by name, "" if it is not known
	partition *replica.Partition // nil with err
	err       error
	diverging *kmsg.FetchResponseTopicPartitionDivergingEpoch

	// What there is to send, as last looked. The range is the caller's to release.
	size                                int
	records                             commitlog.Range
	highWatermark, lastStable, logStart int64
	// told says that the answer names the partition.
	told bool
}

// await returns when there is enough to answer.
func (f *fetching) await(ctx context.Context) {
	rules := f.b.ctl.RulesChanged() // before rights are looked up
	f.resolve()
	f.look()
	if f.enough() {
		return
	}
	waiter := replica.NewWaiter(len(f.parts))
	defer waiter.Stop()
	for i := range f.parts {
		f.parts[i].partition.Watch(waiter)
	}
	// What changed before it was watched was not noted.
	if f.look(); f.enough() {
		return
	}
	began := time.Now()
	f.b.metrics.FetchesParked.Add(1)
	defer func() {
		f.b.metrics.FetchesParked.Add(-1)
		f.r.waited += time.Since(began)
	}()
	timer := time.NewTimer(f.wait)
	defer timer.Stop()
	for {
		select {
		case <-waiter.C():
			for _, i := range waiter.Changed() {
				f.lookAt(&f.parts[i])
			}
		case <-rules:
			rules = f.b.ctl.RulesChanged()
			f.resolve()
			f.look()
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
		if f.enough() {
			return
		}
	}
}

// enough says whether the request need not wait any longer.
func (f *fetching) enough() bool {
	return f.settled || f.wait == 0 || len(f.parts) == 0 || f.bytes >= min(int(f.q.MinBytes), f.maxBytes)
}

// resolve finds the partitions, and checks rights and leader epochs.
func (f *fetching) resolve() {
	var last fetchKey
	var t *topic
	var err error
	for i := range f.parts {
		p := &f.parts[i]
		if i == 0 || p.key.topic != last.topic || p.key.id != last.id {
			last = p.key
			t, err = f.topic(p.key)
		}
		p.partition, p.err, p.topic = nil, err, ""
		if t != nil {
			p.topic = t.Name
		}
		if err == nil {
			p.partition, p.err = t.leader(p.key.partition, p.want.leaderEpoch, f.q.Version >= fetchEpoch)
		}
		f.settled = f.settled || p.err != nil
	}
}

// topic finds a topic that the client may read; beside an error too, for the log.
func (f *fetching) topic(key fetchKey) (*topic, error) {
	if !f.byID {
		// What may not be read looks the same whether it exists or not.
		if !f.r.may(key.topic) {
			return nil, kerr.TopicAuthorizationFailed
		}
		if t := f.b.topic(key.topic); t != nil {
			return t, nil
		}
		return nil, kerr.UnknownTopicOrPartition
	}
	t := f.b.topicByID(key.id)
	switch {
	case t == nil:
		return nil, kerr.UnknownTopicID
	case !f.r.may(t.Name):
		return t, kerr.TopicAuthorizationFailed
	}
	return t, nil
}

// look sees what all partitions have.
func (f *fetching) look() {
	for i := range f.parts {
		f.lookAt(&f.parts[i])
	}
}

// lookAt sees what one partition has, and takes it into the sum.
func (f *fetching) lookAt(p *fetchPart) {
	if p.err != nil || p.diverging != nil {
		return
	}
	f.bytes -= p.size
	p.size = 0
	upTo, err := f.check(p)
	var records commitlog.Range
	if err == nil && p.want.offset < upTo {
		records, err = p.partition.Range(p.want.offset, min(f.maxBytes, max(0, int(p.want.maxBytes))), upTo)
	}
	if err != nil || p.diverging != nil {
		p.err, f.settled = err, true
		return
	}
	p.size = int(records.Size())
	f.bytes += p.size
	records.Release()
}

// check says up to which offset a partition may be read now, and notes where it
// begins and ends.
func (f *fetching) check(p *fetchPart) (upTo int64, err error) {
	if p.partition.Closed() {
		if t, err := f.topic(p.key); err != nil || t.ID != p.partition.TopicID {
			return 0, kerr.UnknownTopicOrPartition // it was deleted
		}
		return 0, commitlog.ErrClosed
	}
	end := p.partition.EndOffset()
	p.highWatermark, p.lastStable, p.logStart = p.partition.HighWatermark(), p.partition.LastStable(), p.partition.StartOffset()
	if err := p.diverges(); err != nil || p.diverging != nil {
		return 0, err
	}
	if p.want.offset < p.logStart || p.want.offset > end {
		return 0, kerr.OffsetOutOfRange
	}
	if f.q.IsolationLevel == readCommitted {
		return p.lastStable, nil
	}
	return p.highWatermark, nil
}

// diverges compares the epoch of the record before the one that is wanted with
// the log's: if that epoch ended earlier, the log was cut and written anew.
func (p *fetchPart) diverges() error {
	if p.want.lastEpoch < 0 {
		return nil
	}
	epoch, end := p.partition.EpochEnd(p.want.lastEpoch)
	if epoch < 0 || end < 0 {
		return kerr.OffsetOutOfRange
	}
	if epoch < p.want.lastEpoch || end < p.want.offset {
		d := kmsg.NewFetchResponseTopicPartitionDivergingEpoch()
		d.Epoch, d.EndOffset = epoch, end
		p.diverging = &d
	}
	return nil
}

// answer takes hold of what is to be sent, in the order of the partitions and up
// to the limits, and fills the response.
func (f *fetching) answer(resp *kmsg.FetchResponse) kmsg.Response {
	out := &fetchAnswer{FetchResponse: resp}
	sum := 0
	for i := range f.parts {
		sum += f.take(&f.parts[i], f.maxBytes-sum, sum == 0)
	}
	if f.r.throttleFetch(sum) {
		// The answer is empty, as Apache Kafka's: the client asks again after the
		// time that it is told.
		f.release()
		if f.session != nil {
			resp.SessionID = f.session.id
		}
		return resp
	}
	id, failed := f.finish(time.Now())
	if failed != nil {
		f.release()
		resp.ErrorCode = failed.Code
		return resp
	}
	resp.SessionID = id
	for i := range f.parts {
		if p := &f.parts[i]; p.told {
			out.add(f, p)
		}
	}
	return out
}

// take takes hold of a partition's records within a budget, and returns their
// size. The first partition that has any gets a batch beyond the budget.
func (f *fetching) take(p *fetchPart, budget int, first bool) int {
	p.size = 0
	if p.err != nil || p.diverging != nil {
		return 0
	}
	upTo, err := f.check(p)
	limit := max(0, min(budget, int(p.want.maxBytes)))
	if p.err = err; err != nil || p.want.offset >= upTo || limit == 0 && !first {
		return 0
	}
	records, err := p.partition.Range(p.want.offset, limit, upTo)
	if err == nil && records.Size() > int64(limit) && !first {
		records.Release()
		return 0
	}
	if err == nil && f.q.Version < fetchZstd {
		err = refuseZstd(records)
	}
	if err != nil {
		records.Release()
		p.err = err
		return 0
	}
	p.records, p.size = records, int(records.Size())
	return p.size
}

// release lets go of all that was taken.
func (f *fetching) release() {
	for i := range f.parts {
		f.parts[i].records.Release()
		f.parts[i].records = commitlog.Range{}
	}
}

// refuseZstd looks for batches that clients before v10 do not understand.
func refuseZstd(records commitlog.Range) error {
	header := make(record.Batch, record.HeaderSize)
	for at := int64(0); at < records.Size(); at += header.ClaimedSize() {
		if _, err := records.ReadAt(header, at); err != nil {
			return err
		}
		if header.Attributes().Codec() == record.Zstd {
			return kerr.UnsupportedCompressionType
		}
	}
	return nil
}

// add fills the answer for one partition.
func (a *fetchAnswer) add(f *fetching, p *fetchPart) {
	part := kmsg.NewFetchResponseTopicPartition()
	part.Partition = p.key.partition
	part.RecordBatches = []byte{} // null confuses old clients
	switch {
	case p.err != nil:
		part.ErrorCode = f.b.code(p.err, "fetch", "topic", p.topic, "partition", p.key.partition)
		part.HighWatermark, part.LastStableOffset, part.LogStartOffset = -1, -1, -1
		a.hint(f, p, &part)
	default:
		part.HighWatermark, part.LastStableOffset, part.LogStartOffset = p.highWatermark, p.lastStable, p.logStart
		if f.q.IsolationLevel == readCommitted {
			part.AbortedTransactions = p.aborted()
		}
		if p.diverging != nil {
			part.DivergingEpoch = *p.diverging
		}
		if p.size > 0 {
			part.RecordBatches = a.stand(p.records)
			f.b.metrics.FetchedBytes.Add(int64(p.size))
			if f.b.provenance != nil {
				f.b.provenance.fetched(f.r.client, p.partition, p.want.offset, p.records.NextOffset()-1)
			}
		}
	}
	if n := len(a.Topics); n == 0 || a.Topics[n-1].Topic != p.key.topic || a.Topics[n-1].TopicID != p.key.id {
		t := kmsg.NewFetchResponseTopic()
		t.Topic, t.TopicID = p.key.topic, p.key.id
		a.Topics = append(a.Topics, t)
	}
	t := &a.Topics[len(a.Topics)-1]
	t.Partitions = append(t.Partitions, part)
}

// hint tells a client whose idea of the leader is old who it is (KIP-951).
func (a *fetchAnswer) hint(f *fetching, p *fetchPart, part *kmsg.FetchResponseTopicPartition) {
	if f.q.Version < fetchEndpoints {
		return
	}
	leader, ok := f.b.leaderHint(part.ErrorCode, p.topic, p.key.partition)
	if !ok {
		return
	}
	part.CurrentLeader.LeaderID, part.CurrentLeader.LeaderEpoch = leader.id, leader.epoch
	if len(a.Brokers) == 0 {
		node := kmsg.NewFetchResponseBroker()
		node.NodeID, node.Host, node.Port = f.b.endpoint(f.r.client)
		a.Brokers = append(a.Brokers, node)
	}
}

func (p *fetchPart) aborted() []kmsg.FetchResponseTopicPartitionAbortedTransaction {
	list := []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
	if p.size == 0 {
		return list
	}
	for _, ended := range p.partition.Aborted(p.want.offset, p.records.NextOffset()) {
		txn := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
		txn.ProducerID, txn.FirstOffset = ended.ProducerID, ended.FirstOffset
		list = append(list, txn)
	}
	return list
}
