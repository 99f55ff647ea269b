package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/broker/txn"
	"github.com/waybillhq/waybill/internal/record"
)

// Produce versions by which a transaction's partitions get into it.
const (
	produceAbortable = 11 // knows TRANSACTION_ABORTABLE (KIP-890)
	produceJoins     = 12 // the first batch adds its partition: transaction.version 2
)

// The same of TxnOffsetCommit, for the group's partition.
const (
	txnOffsetCommitAbortable = 4
	txnOffsetCommitJoins     = 5
)

// addPartitionsToTxn answers AddPartitionsToTxn: all partitions of a transaction
// or none. v4 is for brokers, which add or verify for many transactions at once
// (KIP-890); it needs ClusterAction.
func (b *Broker) addPartitionsToTxn(ctx context.Context, r *request, q *kmsg.AddPartitionsToTxnRequest) *kmsg.AddPartitionsToTxnResponse {
	resp := q.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
	if q.Version >= 4 {
		b.addPartitionsForBroker(ctx, r, q, resp)
		return resp
	}
	a := txnAddition{id: q.TransactionalID, producer: txn.Producer{ID: q.ProducerID, Epoch: q.ProducerEpoch}, topics: q.Topics}
	if r.may(q.TransactionalID) {
		err := b.addToTransaction(ctx, r, &a)
		a.err = fenced(err, q.Version, 2)
	} else {
		a.err = kerr.TransactionalIDAuthorizationFailed
	}
	resp.Topics = b.additionAnswer(&a)
	return resp
}

// addPartitionsForBroker answers the form of brokers. The rights to the topics
// are what the other broker has looked at.
func (b *Broker) addPartitionsForBroker(ctx context.Context, r *request, q *kmsg.AddPartitionsToTxnRequest, resp *kmsg.AddPartitionsToTxnResponse) {
	if !r.allowed(acl.ClusterAction, acl.Cluster, acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return
	}
	for _, t := range q.Transactions {
		a := txnAddition{
			id: t.TransactionalID, producer: txn.Producer{ID: t.ProducerID, Epoch: t.ProducerEpoch},
			version: txn.V2, forBroker: true, verify: t.VerifyOnly,
		}
		for _, topic := range t.Topics {
			a.topics = append(a.topics, kmsg.AddPartitionsToTxnRequestTopic{Topic: topic.Topic, Partitions: topic.Partitions})
		}
		a.err = b.addToTransaction(ctx, r, &a)
		out := kmsg.NewAddPartitionsToTxnResponseTransaction()
		out.TransactionalID = t.TransactionalID
		for _, topic := range b.additionAnswer(&a) {
			answer := kmsg.NewAddPartitionsToTxnResponseTransactionTopic()
			answer.Topic = topic.Topic
			for _, p := range topic.Partitions {
				part := kmsg.NewAddPartitionsToTxnResponseTransactionTopicPartition()
				part.Partition, part.ErrorCode = p.Partition, p.ErrorCode
				answer.Partitions = append(answer.Partitions, part)
			}
			out.Topics = append(out.Topics, answer)
		}
		resp.Transactions = append(resp.Transactions, out)
	}
}

// txnAddition is partitions on their way into one transaction.
type txnAddition struct {
	id                string
	producer          txn.Producer
	version           txn.Version
	forBroker, verify bool
	topics            []kmsg.AddPartitionsToTxnRequestTopic
	refused           map[txn.TopicPartition]error
	err               error // of those that are not refused
}

func (b *Broker) addToTransaction(ctx context.Context, r *request, a *txnAddition) error {
	a.refused = map[txn.TopicPartition]error{}
	var partitions []txn.TopicPartition
	for _, t := range a.topics {
		for _, p := range t.Partitions {
			tp := txn.TopicPartition{Topic: t.Topic, Partition: p}
			partitions = append(partitions, tp)
			switch _, unknown := b.partition(t.Topic, p); {
			case !a.forBroker && (isCoordinators(t.Topic) || !r.allowed(acl.Write, acl.Topic, t.Topic)):
				a.refused[tp] = kerr.TopicAuthorizationFailed
			case unknown != nil:
				a.refused[tp] = kerr.UnknownTopicOrPartition
			case b.topic(t.Topic).isReadOnly():
				a.refused[tp] = kerr.InvalidRequest
			}
		}
	}
	if !a.verify {
		if len(a.refused) > 0 {
			return kerr.OperationNotAttempted
		}
		return b.coordinators.txns.AddPartitions(ctx, a.id, a.version, a.producer, partitions)
	}
	for _, tp := range partitions {
		if err := b.coordinators.verify(ctx, a.id, a.producer, tp); err != nil && a.refused[tp] == nil {
			a.refused[tp] = err
		}
	}
	return nil
}

// verify is [txn.Coordinator.Verify] of one partition, in the words of those who
// know TRANSACTION_ABORTABLE.
func (c *coordinators) verify(ctx context.Context, id string, p txn.Producer, tp txn.TopicPartition) error {
	err := c.txns.Verify(ctx, id, p, []txn.TopicPartition{tp})
	if errors.Is(err, kerr.InvalidTxnState) {
		return kerr.TransactionAbortable
	}
	return err
}

func (b *Broker) additionAnswer(a *txnAddition) []kmsg.AddPartitionsToTxnResponseTopic {
	var out []kmsg.AddPartitionsToTxnResponseTopic
	for _, t := range a.topics {
		topic := kmsg.NewAddPartitionsToTxnResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			cause := a.err
			if e := a.refused[txn.TopicPartition{Topic: t.Topic, Partition: p}]; e != nil {
				cause = e
			}
			part := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			part.Partition = p
			part.ErrorCode = b.code(cause, "add partitions to transaction", "transactional_id", a.id)
			topic.Partitions = append(topic.Partitions, part)
		}
		out = append(out, topic)
	}
	return out
}

// enlisted is the coordinator's word about a partition and a producer's
// transaction.
type enlisted struct {
	guard commitlog.Guard
	open  bool // the partition has batches of it: nobody had to be asked
	err   error
}

// unverified is a batch whose partition the coordinator is asked about.
type unverified struct {
	partition *replica.Partition
	batch     record.Batch
}

func (u unverified) place() txn.TopicPartition {
	return txn.TopicPartition{Topic: u.partition.Topic, Partition: u.partition.Partition}
}

// enlist asks the coordinator, once for all of a request's partitions that have no
// batch of the transaction yet, whether they belong to it, or (v12) puts them into
// it. Partitions that the caller may not write to, or that are not there, are left
// out; a batch whose partition is not in the answer is refused by its log.
func (b *Broker) enlist(ctx context.Context, r *request, q *kmsg.ProduceRequest) map[*replica.Partition]enlisted {
	if q.TransactionID == nil {
		return nil
	}
	out := map[*replica.Partition]enlisted{}
	var producer txn.Producer
	var questions []unverified
	for i := range q.Topics {
		t, err := b.produceTopic(r, q, &q.Topics[i])
		if err != nil {
			continue
		}
		for _, part := range q.Topics[i].Partitions {
			p, err := t.partition(part.Partition)
			batch, _, bad := record.Next(part.Records)
			if err != nil || bad != nil || !batch.Attributes().Transactional() {
				continue
			}
			wants := txn.Producer{ID: batch.ProducerID(), Epoch: batch.ProducerEpoch()}
			if len(out) > 0 && wants != producer {
				out[p] = enlisted{err: refuse(kerr.InvalidRecord, "batches of several producers in one request")}
				continue
			}
			producer = wants
			var e enlisted
			if e.guard, e.open = p.BeginVerification(producer.ID, producer.Epoch); !e.open {
				questions = append(questions, unverified{p, batch})
			}
			out[p] = e
		}
	}
	if len(questions) == 0 {
		return out
	}
	var joined error
	if q.Version >= produceJoins {
		tps := make([]txn.TopicPartition, len(questions))
		for i, u := range questions {
			tps[i] = u.place()
		}
		joined = b.coordinators.txns.AddPartitions(ctx, *q.TransactionID, txn.V2, producer, tps)
	}
	for _, u := range questions {
		e := out[u.partition]
		if q.Version >= produceJoins {
			e.err, e.guard = joined, e.guard.FromZero()
		} else {
			e.err = b.coordinators.verify(ctx, *q.TransactionID, producer, u.place())
		}
		e.err = enlistError(e.err, q.Version)
		if errors.Is(e.err, kerr.NotEnoughReplicas) {
			u.partition.Postpone(u.batch)
		}
		out[u.partition] = e
	}
	return out
}

// enlistError is what a version of Produce is told when its partition cannot be
// enlisted.
func enlistError(err error, version int16) error {
	switch {
	case errors.Is(err, kerr.ProducerFenced):
		return kerr.InvalidProducerEpoch
	case errors.Is(err, kerr.TransactionAbortable) && version < produceAbortable:
		return kerr.InvalidTxnState
	case errors.Is(err, kerr.ConcurrentTransactions) && version >= produceJoins:
		return err
	case errors.Is(err, kerr.NotCoordinator), errors.Is(err, kerr.CoordinatorNotAvailable),
		errors.Is(err, kerr.CoordinatorLoadInProgress), errors.Is(err, kerr.ConcurrentTransactions):
		// What every client of Produce retries without asking for metadata.
		return fmt.Errorf("%w: enlist in transaction: %w", kerr.NotEnoughReplicas, err)
	}
	return err
}

// writeTxnMarkers answers WriteTxnMarkers, with which another coordinator, or an
// administrator who gets rid of a hanging transaction (KIP-664), ends transactions
// on partitions: ClusterAction, or Alter, on the cluster. v2 says by which
// protocol the producer speaks (KIP-1228): by the second one a marker's epoch is
// above that of the transaction it ends.
func (b *Broker) writeTxnMarkers(ctx context.Context, r *request, q *kmsg.WriteTxnMarkersRequest) *kmsg.WriteTxnMarkersResponse {
	resp := q.ResponseKind().(*kmsg.WriteTxnMarkersResponse)
	allowed := r.may(acl.ClusterName) || r.allowed(acl.Alter, acl.Cluster, acl.ClusterName)
	for _, m := range q.Markers {
		out := kmsg.NewWriteTxnMarkersResponseMarker()
		out.ProducerID = m.ProducerID
		marker := txn.Marker{
			Producer: txn.Producer{ID: m.ProducerID, Epoch: m.ProducerEpoch},
			Commit:   m.Committed, CoordinatorEpoch: m.CoordinatorEpoch,
		}
		for _, t := range m.Topics {
			topic := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			topic.Topic = t.Topic
			for _, n := range t.Partitions {
				err := error(kerr.ClusterAuthorizationFailed)
				if allowed {
					err = b.writeMarker(ctx, txn.TopicPartition{Topic: t.Topic, Partition: n}, marker, txn.Version(m.TransactionVersion))
				}
				part := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
				part.Partition = n
				part.ErrorCode = b.code(err, "write transaction marker", "topic", t.Topic, "partition", n)
				topic.Partitions = append(topic.Partitions, part)
			}
			out.Topics = append(out.Topics, topic)
		}
		resp.Markers = append(resp.Markers, out)
	}
	return resp
}

func (b *Broker) writeMarker(ctx context.Context, tp txn.TopicPartition, m txn.Marker, v txn.Version) error {
	p, err := b.partition(tp.Topic, tp.Partition)
	switch {
	case err != nil:
		return err
	case tp.Topic == transactionsTopic:
		return kerr.InvalidTopicException
	case v >= txn.V2:
		if _, open := p.BeginVerification(m.Producer.ID, m.Producer.Epoch); open {
			return refuse(kerr.InvalidProducerEpoch, fmt.Sprintf("epoch %d is that of the open transaction: a marker has a higher one", m.Producer.Epoch))
		}
	}
	return b.coordinators.mark(ctx, tp, m)
}
