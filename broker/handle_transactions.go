package broker

import (
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/txn"
)

// transactionAPIs are the rows of producers and transactions. EndTxn v5 and
// TxnOffsetCommit v5, as Produce v12, are the second transaction protocol
// (KIP-890), which clients use where the feature transaction.version says 2.
// Left out: two-phase commit (KIP-939).
func transactionAPIs() []api {
	row := func(key kmsg.Key, low, high int16, op acl.Operation, h handler) api {
		return api{key: key, min: low, max: high, resource: acl.TransactionalID, op: op, handle: h}
	}
	return []api{
		row(kmsg.InitProducerID, 0, 5, acl.Write, answers((*Broker).initProducerID)),
		row(kmsg.AddPartitionsToTxn, 0, 5, acl.Write, answers((*Broker).addPartitionsToTxn)),
		row(kmsg.AddOffsetsToTxn, 0, 4, acl.Write, answers((*Broker).addOffsetsToTxn)),
		row(kmsg.EndTxn, 0, 5, acl.Write, answers((*Broker).endTxn)),
		row(kmsg.TxnOffsetCommit, 0, 5, acl.Write, answers((*Broker).txnOffsetCommit)),
		{key: kmsg.WriteTxnMarkers, min: 1, max: 2, resource: acl.Cluster, op: acl.ClusterAction, handle: answers((*Broker).writeTxnMarkers)},
		row(kmsg.DescribeTransactions, 0, 0, acl.Describe, answers((*Broker).describeTransactions)),
		row(kmsg.ListTransactions, 0, 2, acl.Describe, answers((*Broker).listTransactions)),
		{key: kmsg.DescribeProducers, min: 0, max: 0, resource: acl.Topic, op: acl.Read, handle: answers((*Broker).describeProducers)},
	}
}

// fenced is err as a version of a request knows it: clients from before
// PRODUCER_FENCED (KIP-588) are told INVALID_PRODUCER_EPOCH.
func fenced(err error, version, since int16) error {
	if version < since && kafkaError(err) == kerr.ProducerFenced {
		return kerr.InvalidProducerEpoch
	}
	return err
}

// initProducerID answers InitProducerId. Without a transactional id it is a new
// producer id. With one it fences the producer before and aborts its transaction;
// meanwhile the answer is CONCURRENT_TRANSACTIONS. v3 lets a producer go on at
// its next epoch (KIP-360).
func (b *Broker) initProducerID(ctx context.Context, r *request, q *kmsg.InitProducerIDRequest) *kmsg.InitProducerIDResponse {
	if q.TransactionalID == nil {
		return b.initIdempotentProducer(r, q)
	}
	resp := q.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	expected := txn.NoProducer
	if q.Version >= 3 {
		expected = txn.Producer{ID: q.ProducerID, Epoch: q.ProducerEpoch}
	}
	var p txn.Producer
	var err error
	switch {
	case !r.may(*q.TransactionalID):
		err = kerr.TransactionalIDAuthorizationFailed
	case (expected.ID == -1) != (expected.Epoch == -1):
		err = kerr.InvalidRequest
	default:
		timeout := time.Duration(q.TransactionTimeoutMillis) * time.Millisecond
		p, err = b.coordinators.txns.InitProducer(ctx, *q.TransactionalID, timeout, expected)
	}
	if err != nil {
		resp.ErrorCode = b.code(fenced(err, q.Version, 4), "init producer id", "transactional_id", *q.TransactionalID)
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = p.ID, p.Epoch
	return resp
}

// addOffsetsToTxn answers AddOffsetsToTxn: the group's partition of
// __consumer_offsets is one of the transaction's.
func (b *Broker) addOffsetsToTxn(ctx context.Context, r *request, q *kmsg.AddOffsetsToTxnRequest) *kmsg.AddOffsetsToTxnResponse {
	resp := q.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	var err error
	switch {
	case !r.may(q.TransactionalID):
		err = kerr.TransactionalIDAuthorizationFailed
	case !r.allowed(acl.Read, acl.Group, q.Group):
		err = kerr.GroupAuthorizationFailed
	case q.Group == "":
		err = kerr.InvalidGroupID
	default:
		tp := txn.TopicPartition{Topic: offsetsTopic, Partition: b.coordinators.groups.Partition(q.Group)}
		p := txn.Producer{ID: q.ProducerID, Epoch: q.ProducerEpoch}
		err = b.coordinators.txns.AddPartitions(ctx, q.TransactionalID, txn.V0, p, []txn.TopicPartition{tp})
	}
	resp.ErrorCode = b.code(fenced(err, q.Version, 2), "add offsets to transaction", "transactional_id", q.TransactionalID)
	return resp
}

// endTxn answers EndTxn, when the outcome is on disk. v5 moves the producer on to
// its next epoch, which is in the answer, and lets it abort what it has not begun.
func (b *Broker) endTxn(ctx context.Context, r *request, q *kmsg.EndTxnRequest) *kmsg.EndTxnResponse {
	resp := q.ResponseKind().(*kmsg.EndTxnResponse)
	version := txn.V0
	if q.Version >= 5 {
		version = txn.V2
	}
	next, err := txn.NoProducer, error(kerr.TransactionalIDAuthorizationFailed)
	if r.may(q.TransactionalID) {
		next, err = b.coordinators.txns.End(ctx, q.TransactionalID, version, txn.Producer{ID: q.ProducerID, Epoch: q.ProducerEpoch}, q.Commit)
	}
	resp.ProducerID, resp.ProducerEpoch = next.ID, next.Epoch
	resp.ErrorCode = b.code(fenced(err, q.Version, 2), "end transaction", "transactional_id", q.TransactionalID)
	return resp
}

// describeTransactions answers DescribeTransactions (KIP-664), with those
// partitions that the caller may Describe.
func (b *Broker) describeTransactions(ctx context.Context, r *request, q *kmsg.DescribeTransactionsRequest) *kmsg.DescribeTransactionsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeTransactionsResponse)
	for _, id := range once(q.TransactionalIDs) {
		out := kmsg.NewDescribeTransactionsResponseTransactionState()
		out.TransactionalID = id
		err := error(kerr.TransactionalIDAuthorizationFailed)
		var t txn.Txn
		if r.may(id) {
			t, err = b.coordinators.txns.Get(ctx, id)
		}
		if err != nil {
			out.ErrorCode = b.code(err, "describe transaction", "transactional_id", id)
			resp.TransactionStates = append(resp.TransactionStates, out)
			continue
		}
		out.State, out.TimeoutMillis = t.State.String(), int32(t.Timeout.Milliseconds())
		out.ProducerID, out.ProducerEpoch, out.StartTimestamp = t.Producer.ID, t.Producer.Epoch, -1
		if !t.Started.IsZero() {
			out.StartTimestamp = t.Started.UnixMilli()
		}
		for _, tp := range t.Sorted() {
			if !r.spend(entryMemory) {
				return resp
			}
			if !r.allowed(acl.Describe, acl.Topic, tp.Topic) {
				continue
			}
			if n := len(out.Topics); n == 0 || out.Topics[n-1].Topic != tp.Topic {
				topic := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
				topic.Topic = tp.Topic
				out.Topics = append(out.Topics, topic)
			}
			last := &out.Topics[len(out.Topics)-1]
			last.Partitions = append(last.Partitions, tp.Partition)
		}
		resp.TransactionStates = append(resp.TransactionStates, out)
	}
	return resp
}

// maxPattern bounds an expression: what is made of it takes many times its size.
const maxPattern = 4 << 10

// listTransactions answers ListTransactions (KIP-664): those that the caller may
// Describe. v1 filters by how long they have been open (KIP-994), v2 by a pattern
// of their ids (KIP-1152).
func (b *Broker) listTransactions(ctx context.Context, r *request, q *kmsg.ListTransactionsRequest) *kmsg.ListTransactionsResponse {
	resp := q.ResponseKind().(*kmsg.ListTransactionsResponse)
	var pattern *regexp.Regexp
	if p := text(q.TransactionalIDPattern); p != "" {
		err := error(kerr.InvalidRegularExpression)
		if len(p) <= maxPattern {
			pattern, err = regexp.Compile("^(?:" + p + ")$")
		}
		if err != nil {
			resp.ErrorCode = kerr.InvalidRegularExpression.Code
			return resp
		}
	}
	for _, f := range q.StateFilters {
		if !slices.Contains(txn.States(), f) {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, f)
		}
	}
	all, err := b.coordinators.txns.List(ctx)
	resp.ErrorCode = b.code(err, "list transactions")
	for _, t := range all {
		age := int64(-1)
		if !t.Started.IsZero() {
			age = time.Since(t.Started).Milliseconds()
		}
		switch {
		case !r.may(t.ID),
			len(q.StateFilters) > 0 && !slices.Contains(q.StateFilters, t.State.String()),
			len(q.ProducerIDFilters) > 0 && !slices.Contains(q.ProducerIDFilters, t.Producer.ID),
			q.Version >= 1 && q.DurationFilterMillis >= 0 && age <= q.DurationFilterMillis,
			pattern != nil && !pattern.MatchString(t.ID):
			continue
		}
		if !r.spend(entryMemory) {
			break
		}
		out := kmsg.NewListTransactionsResponseTransactionState()
		out.TransactionalID, out.ProducerID, out.TransactionState = t.ID, t.Producer.ID, t.State.String()
		resp.TransactionStates = append(resp.TransactionStates, out)
	}
	return resp
}

// describeProducers answers DescribeProducers (KIP-664): who has written to a
// partition, and whose transaction is open there.
func (b *Broker) describeProducers(_ context.Context, r *request, q *kmsg.DescribeProducersRequest) *kmsg.DescribeProducersResponse {
	resp := q.ResponseKind().(*kmsg.DescribeProducersResponse)
	for _, t := range q.Topics {
		topic := kmsg.NewDescribeProducersResponseTopic()
		topic.Topic = t.Topic
		for _, n := range t.Partitions {
			part := kmsg.NewDescribeProducersResponseTopicPartition()
			part.Partition = n
			p, err := b.partition(t.Topic, n)
			switch {
			case !r.may(t.Topic):
				err = kerr.TopicAuthorizationFailed
			case err == nil:
				err = p.Offline()
			}
			part.ErrorCode, part.ErrorMessage = b.code(err, "describe producers"), message(err)
			if err == nil {
				for _, s := range p.Producers() {
					if !r.spend(entryMemory) {
						return resp
					}
					a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
					a.ProducerID, a.ProducerEpoch = s.ProducerID, int32(s.ProducerEpoch)
					a.LastSequence, a.LastTimestamp = s.LastSequence, s.LastTimestamp
					a.CoordinatorEpoch, a.CurrentTxnStartOffset = s.CoordinatorEpoch, s.TxnStart
					part.ActiveProducers = append(part.ActiveProducers, a)
				}
			}
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}
