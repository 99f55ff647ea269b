package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/broker/txn"
	"github.com/waybillhq/waybill/internal/record"
)

// coordinators are the group and transaction coordinators of this node, which
// leads every partition of their topics.
type coordinators struct {
	b      *Broker
	groups *group.Coordinator
	txns   *txn.Coordinator
}

// openCoordinators builds the coordinators over the partitions of their topics,
// which are open. They load when they run.
func openCoordinators(b *Broker) (*coordinators, error) {
	for _, name := range []string{offsetsTopic, transactionsTopic} {
		if b.topic(name) == nil {
			return nil, fmt.Errorf("there is no topic %s", name)
		}
	}
	c := &coordinators{b: b}
	groups := group.DefaultConfig()
	groups.Partitions = b.cfg.OffsetsPartitions
	groups.InitialRebalanceDelay = b.cfg.GroupInitialRebalanceDelay
	groups.OnCommit = c.committed
	groups.Log = b.log
	c.groups = group.NewCoordinator(groups)

	txns := txn.DefaultConfig()
	txns.IDPartitions = b.cfg.TransactionsPartitions
	txns.Log = b.log
	c.txns = txn.NewCoordinator(txns, c, b.ctl)
	return c, nil
}

// run leads every partition of both topics until ctx ends. Clients are gone by
// then, and logs close after it. A log that fails ends the broker: to go on
// without it would forget offsets and transactions.
func (c *coordinators) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for n, p := range c.b.topic(offsetsTopic).partitions {
		g.Go(func() error { return c.groups.Lead(ctx, int32(n), groupLog{partitionLog{p}}) })
	}
	for n, p := range c.b.topic(transactionsTopic).partitions {
		g.Go(func() error { return c.txns.Lead(ctx, int32(n), p.LeaderEpoch(), txnLog{partitionLog{p}}) })
	}
	return g.Wait()
}

// groupLog is a partition of __consumer_offsets.
type groupLog struct{ partitionLog }

var _ group.Log = groupLog{}

// AppendMarker implements [group.Log].
func (l groupLog) AppendMarker(m group.Marker) (next int64, err error) {
	return l.Mark(commitlog.Marker(m))
}

// txnLog is a partition of __transaction_state.
type txnLog struct{ partitionLog }

var _ txn.Log = txnLog{}

// Append implements [txn.Log].
func (l txnLog) Append(b record.Batch) (next int64, err error) {
	_, next, err = l.partitionLog.Append(b)
	return next, err
}

// WriteMarker implements [txn.Partitions].
func (c *coordinators) WriteMarker(ctx context.Context, tp txn.TopicPartition, m txn.Marker) error {
	marker := commitlog.Marker{
		ProducerID: m.Producer.ID, ProducerEpoch: m.Producer.Epoch,
		Commit: m.Commit, CoordinatorEpoch: m.CoordinatorEpoch,
	}
	if tp.Topic == offsetsTopic {
		return c.groups.EndTransaction(ctx, tp.Partition, group.Marker(marker))
	}
	log, err := c.b.coordinatorLog(tp.Topic, tp.Partition)
	if err != nil {
		return err
	}
	next, err := log.Mark(marker)
	if err != nil {
		return err
	}
	return log.WaitDurable(ctx, next)
}

// verifyTransaction confirms that a partition is in the ongoing transaction of a
// producer, before its first batch there is appended (KIP-890). Its errors are
// those that a producer understands.
func (c *coordinators) verifyTransaction(ctx context.Context, id string, producerID int64, producerEpoch int16, topic string, partition int32) error {
	err := c.txns.Verify(ctx, id, txn.Producer{ID: producerID, Epoch: producerEpoch}, []txn.TopicPartition{{Topic: topic, Partition: partition}})
	switch {
	case errors.Is(err, kerr.ProducerFenced):
		return kerr.InvalidProducerEpoch
	case errors.Is(err, kerr.NotCoordinator), errors.Is(err, kerr.CoordinatorNotAvailable),
		errors.Is(err, kerr.CoordinatorLoadInProgress), errors.Is(err, kerr.ConcurrentTransactions):
		// What every client of Produce retries without asking for metadata.
		return fmt.Errorf("%w: verify transaction: %w", kerr.NotEnoughReplicas, err)
	}
	return err
}

// committed hands positions of groups that have become durable to provenance. A
// group's first commit says that it has read from the start of the log.
func (c *coordinators) committed(commits []group.Commit) {
	if c.b.provenance == nil {
		return
	}
	for _, m := range commits {
		p, err := c.b.partition(m.Topic, m.Partition)
		if err != nil {
			continue // deleted meanwhile
		}
		from := m.Previous
		if from < 0 {
			from = p.StartOffset()
		}
		client := Client{Principal: m.Principal, Host: m.Host, ClientID: m.ClientID, Software: m.Software}
		c.b.provenance.committed(&client, p, m.Group, from, m.Offset.Offset)
	}
}

// commitInTransaction stores offsets of a group that become valid with a
// producer's transaction.
func (c *coordinators) commitInTransaction(ctx context.Context, r group.CommitRequest, id string, p txn.Producer) error {
	partition := txn.TopicPartition{Topic: offsetsTopic, Partition: c.groups.Partition(r.Group)}
	return c.groups.CommitInTransaction(ctx, r, p.ID, p.Epoch, func(ctx context.Context) error {
		err := c.txns.Verify(ctx, id, p, []txn.TopicPartition{partition})
		if errors.Is(err, kerr.ProducerFenced) {
			return kerr.InvalidProducerEpoch
		}
		return err
	})
}
