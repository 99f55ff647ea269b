//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/record"
)

// The newest versions that a lane may use. AddPartitionsToTxn from v4 on is for
// brokers; EndTxn from v5 on and Produce from v12 on follow other rules of
// KIP-890.
const (
	maxProduce         = 11
	maxInitProducerID  = 4
	maxAddPartitions   = 3
	maxEndTxn          = 4
	maxFetch           = 12
	maxFindCoordinator = 3
)

// lane is one transactional id, driven by hand over one connection to a cluster
// of one node. Every method sends one request and returns what the broker says.
type lane struct {
	conn  *kafka.Conn
	id    string
	pid   int64
	epoch int16
	seq   map[flow.TopicPartition]int32 // of the next batch

	produceVersion int16
	timeout        time.Duration // of its transactions
}

// dialLane connects and waits until there is a coordinator. It does not open
// the lane.
func dialLane(ctx context.Context, c *flow.Cluster, id string) (*lane, error) {
	conn, err := kafka.Dial(ctx, c, c.Spec.BootstrapServers[0], id)
	if err != nil {
		return nil, err
	}
	l := &lane{conn: conn, id: id, pid: -1, epoch: -1, seq: map[flow.TopicPartition]int32{}, produceVersion: maxProduce, timeout: time.Minute}
	return l, l.awaitCoordinator(ctx)
}

func (l *lane) awaitCoordinator(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorType, req.CoordinatorKey = 1, l.id
		resp, err := l.conn.Request(ctx, req, maxFindCoordinator)
		if err != nil {
			return false, err
		}
		err = kerr.ErrorForCode(resp.(*kmsg.FindCoordinatorResponse).ErrorCode)
		return err == nil, unlessOneOf(err, kerr.CoordinatorNotAvailable)
	})
}

// init is one InitProducerId with what the caller claims to have, -1 and -1 for
// nothing. It takes over what the coordinator grants.
func (l *lane) init(ctx context.Context, pid int64, epoch int16) error {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &l.id
	req.TransactionTimeoutMillis = int32(l.timeout.Milliseconds())
	req.ProducerID, req.ProducerEpoch = pid, epoch
	resp, err := l.conn.Request(ctx, req, maxInitProducerID)
	if err != nil {
		return err
	}
	granted := resp.(*kmsg.InitProducerIDResponse)
	if err := kerr.ErrorForCode(granted.ErrorCode); err != nil {
		return err
	}
	l.pid, l.epoch = granted.ProducerID, granted.ProducerEpoch
	clear(l.seq)
	return nil
}

// open opens the lane as one who knows nothing of it, and so fences whoever had
// it. It says how often the coordinator asked to wait.
func (l *lane) open(ctx context.Context) (waited int, err error) {
	err = poll(ctx, func() (bool, error) {
		err := l.init(ctx, -1, -1)
		if err != nil {
			waited++
		}
		return err == nil, unlessOneOf(err, kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress, kerr.NotCoordinator)
	})
	return waited, err
}

// add is one AddPartitionsToTxn; the first error of a partition is the result. It
// asks again only where the broker still ends the transaction before.
func (l *lane) add(ctx context.Context, tps ...flow.TopicPartition) error {
	var last error
	err := poll(ctx, func() (bool, error) {
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = l.id, l.pid, l.epoch
		for _, tp := range tps {
			topic := kmsg.NewAddPartitionsToTxnRequestTopic()
			topic.Topic, topic.Partitions = tp.Topic, []int32{tp.Partition}
			req.Topics = append(req.Topics, topic)
		}
		resp, err := l.conn.Request(ctx, req, maxAddPartitions)
		if err != nil {
			return false, err
		}
		last = nil
		for _, topic := range resp.(*kmsg.AddPartitionsToTxnResponse).Topics {
			for _, p := range topic.Partitions {
				if last == nil {
					last = kerr.ErrorForCode(p.ErrorCode)
				}
			}
		}
		return !errors.Is(last, kerr.ConcurrentTransactions), nil
	})
	if err != nil {
		return err
	}
	return last
}

// end is one EndTxn.
func (l *lane) end(ctx context.Context, commit bool) error {
	return endResult(l.sendEnd(ctx, commit).Wait(ctx))
}

func endResult(resp kmsg.Response, err error) error {
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.(*kmsg.EndTxnResponse).ErrorCode)
}

func (l *lane) sendEnd(ctx context.Context, commit bool) *kafka.Call {
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = l.id, l.pid, l.epoch, commit
	return l.conn.Send(ctx, req, maxEndTxn)
}

// stamped is a copy of b as the lane's next batch in tp.
func (l *lane) stamped(tp flow.TopicPartition, b record.Batch) record.Batch {
	own := l.stampedAt(b, l.seq[tp])
	l.seq[tp] = record.AddSequence(own.LastSequence(), 1)
	return own
}

func (l *lane) stampedAt(b record.Batch, seq int32) record.Batch {
	own := append(record.Batch(nil), b...)
	own.SetBaseOffset(0)
	own.Restamp(record.Stamp{
		ProducerID: l.pid, ProducerEpoch: l.epoch, BaseSequence: seq,
		Attributes: b.Attributes().WithoutBrokerFlags().WithTransactional(true),
	})
	return own
}

// ack is the answer to one batch.
type ack struct {
	Base int64
	Err  error
}

// send produces one batch to each of some partitions, as they are, and does not
// wait.
func (l *lane) send(ctx context.Context, batches map[flow.TopicPartition]record.Batch) *kafka.Call {
	return l.conn.Send(ctx, produceRequest(&l.id, batches), l.produceVersion)
}

func produceRequest(txn *string, batches map[flow.TopicPartition]record.Batch) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.TransactionID, req.Acks, req.TimeoutMillis = txn, -1, 10_000
	topics := map[string]int{}
	for tp, b := range batches {
		at, ok := topics[tp.Topic]
		if !ok {
			at = len(req.Topics)
			topics[tp.Topic] = at
			topic := kmsg.NewProduceRequestTopic()
			topic.Topic = tp.Topic
			req.Topics = append(req.Topics, topic)
		}
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = tp.Partition, b
		req.Topics[at].Partitions = append(req.Topics[at].Partitions, p)
	}
	return req
}

// acks waits for the answer to send.
func acks(ctx context.Context, k *kafka.Call) (map[flow.TopicPartition]ack, error) {
	resp, err := k.Wait(ctx)
	if err != nil {
		return nil, err
	}
	out := map[flow.TopicPartition]ack{}
	for _, topic := range resp.(*kmsg.ProduceResponse).Topics {
		for _, p := range topic.Partitions {
			out[flow.TopicPartition{Topic: topic.Topic, Partition: p.Partition}] = ack{p.BaseOffset, kerr.ErrorForCode(p.ErrorCode)}
		}
	}
	return out, nil
}

// produce sends one batch, as it is, and waits.
func (l *lane) produce(ctx context.Context, tp flow.TopicPartition, b record.Batch) (int64, error) {
	answers, err := acks(ctx, l.send(ctx, map[flow.TopicPartition]record.Batch{tp: b}))
	if err != nil {
		return -1, err
	}
	a, ok := answers[tp]
	if !ok {
		return -1, fmt.Errorf("no answer for %s", tp)
	}
	return a.Base, a.Err
}

// poll calls f until it says yes or fails, with a pause between.
func poll(ctx context.Context, f func() (bool, error)) error {
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	for {
		if ok, err := f(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %w", context.Cause(ctx))
		case <-retry.C:
		}
	}
}

// unlessOneOf is err, or nil if it is one of those that only ask for patience.
func unlessOneOf(err error, patience ...error) error {
	for _, p := range patience {
		if errors.Is(err, p) {
			return nil
		}
	}
	return err
}

// code names an answer as Kafka's documentation does.
func code(err error) string {
	var e *kerr.Error
	switch {
	case err == nil:
		return "NONE"
	case errors.As(err, &e):
		return e.Message
	}
	return err.Error()
}
