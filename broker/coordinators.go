package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/broker/txn"
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
	groups.ConsumerSessionTimeout = func(name string) time.Duration {
		session, _ := b.timeoutsOf(name)
		return session
	}
	groups.Migration = b.cfg.GroupMigration
	groups.Topics = func() group.Topics { return b.topics.Load() }
	groups.OffsetsRetention = b.cfg.OffsetsRetention
	groups.OnCommit = c.committed
	groups.Log = b.loggers.logger("broker.group")
	c.groups = group.NewCoordinator(groups)

	txns := txn.DefaultConfig()
	txns.IDPartitions = b.cfg.TransactionsPartitions
	txns.Log = b.loggers.logger("broker.txn")
	c.txns = txn.NewCoordinator(txns, c, producerIDs{b})
	return c, nil
}

// groupLog is a partition of __consumer_offsets.
type groupLog struct{ partitionLog }

var _ group.Log = groupLog{}

// AppendMarker implements [group.Log].
func (l groupLog) AppendMarker(m group.Marker) (next int64, err error) {
	return l.Mark(commitlog.Marker(m))
}

var _ txn.Log = partitionLog{}

// WriteMarker implements [txn.Partitions].
func (c *coordinators) WriteMarker(ctx context.Context, tp txn.TopicPartition, m txn.Marker) error {
	err := c.mark(ctx, tp, m)
	if errors.Is(err, commitlog.ErrReadOnly) {
		// The topic has become a mirror: the transaction's records there are cut,
		// or have the marker that their source gave them.
		return nil
	}
	return err
}

// mark writes a marker, whoever asks for it, and returns when it is durable.
func (c *coordinators) mark(ctx context.Context, tp txn.TopicPartition, m txn.Marker) error {
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
// producer's transaction. By the second protocol the group's partition gets into
// the transaction with them.
func (c *coordinators) commitInTransaction(ctx context.Context, r group.CommitRequest, id string, p txn.Producer, version int16) error {
	partition := txn.TopicPartition{Topic: offsetsTopic, Partition: c.groups.Partition(r.Group)}
	return c.groups.CommitInTransaction(ctx, r, p.ID, p.Epoch, func(ctx context.Context) error {
		var err error
		if version >= txnOffsetCommitJoins {
			err = c.txns.AddPartitions(ctx, id, txn.V2, p, []txn.TopicPartition{partition})
		} else {
			err = c.verify(ctx, id, p, partition)
		}
		switch {
		case errors.Is(err, kerr.ProducerFenced):
			return kerr.InvalidProducerEpoch
		case errors.Is(err, kerr.TransactionAbortable) && version < txnOffsetCommitAbortable:
			return kerr.InvalidTxnState
		case errors.Is(err, kerr.ConcurrentTransactions) && version < txnOffsetCommitJoins:
			return fmt.Errorf("%w: %w", kerr.CoordinatorNotAvailable, err)
		}
		return err
	})
}
