package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/verify"
)

const (
	// recordLimit is how long a question about an event waits for its record.
	recordLimit = 2 * time.Second
	// recordReads is how many records a node reads for questions at a time: each may be
	// in a batch of searchDecode bytes.
	recordReads = 4
)

// Record reads with the node's own client; who may see it is decided by who asked.
func (l live) Record(ctx context.Context, at lineage.At) (*lineage.Found, error) {
	ctx, cancel := context.WithTimeout(ctx, recordLimit)
	defer cancel()
	select {
	case l.reads <- struct{}{}:
		defer func() { <-l.reads }()
	case <-ctx.Done():
		return nil, fmt.Errorf("this node reads %d records for others already", cap(l.reads))
	}
	name, ok := l.node.directory.name(at.Cluster)
	if !ok {
		return nil, errors.New("the cluster is not declared, or has not answered yet")
	}
	cl, err := l.node.directory.client(name)
	if err != nil {
		return nil, err
	}
	return recordIn(ctx, offsets.KafkaCluster(cl), verify.KafkaCluster(cl), kadm.NewClient(cl), at)
}

// recordIn reads a record, unless the topic is another life than the one meant.
func recordIn(ctx context.Context, c offsets.Cluster, reads verify.Cluster, adm *kadm.Client, at lineage.At) (*lineage.Found, error) {
	ids, err := c.Topics(ctx, []string{at.Topic})
	if err != nil {
		return nil, fmt.Errorf("look up the topic: %w", err)
	}
	switch id, ok := ids[at.Topic]; {
	case !ok:
		return nil, errors.New("the cluster shows no such topic")
	case id != at.TopicID:
		return nil, errors.New("the topic was recreated since, and what was in it is gone")
	}
	batch, rec, err := verify.At(ctx, reads.Reader(at.Topic, at.TopicID, at.Partition), at.Offset, searchDecode)
	if err != nil {
		return nil, err
	}
	found := &lineage.Found{Batch: batch, Record: rec}
	if batch.ProducerID() < 0 {
		return found, nil
	}
	found.Producer, found.ProducerErr = producerState(ctx, adm, at, batch.ProducerID())
	if batch.Attributes().Transactional() {
		found.TransactionalID, found.TransactionalIDErr = transactionalID(ctx, adm, batch.ProducerID())
	}
	return found, nil
}

// producerState is what the partition's leader knows of a producer, nil if nothing.
func producerState(ctx context.Context, adm *kadm.Client, at lineage.At, producerID int64) (*lineage.ProducerState, error) {
	set := kadm.TopicsSet{}
	set.Add(at.Topic, at.Partition)
	topics, err := adm.DescribeProducers(ctx, set)
	partition := topics[at.Topic].Partitions[at.Partition]
	if err = errors.Join(err, partition.Err); err != nil {
		return nil, fmt.Errorf("DescribeProducers: %w", err)
	}
	p, ok := partition.ActiveProducers[producerID]
	if !ok {
		return nil, nil
	}
	state := &lineage.ProducerState{ProducerEpoch: int32(p.ProducerEpoch), LastSequence: p.LastSequence, CoordinatorEpoch: p.CoordinatorEpoch}
	if p.LastTimestamp >= 0 {
		last := time.UnixMilli(p.LastTimestamp).UTC()
		state.LastAt = &last
	}
	if p.CurrentTxnStartOffset >= 0 {
		state.OpenFrom = &p.CurrentTxnStartOffset
	}
	return state, nil
}

// transactionalID is the one that has a producer id now, "" if none has.
func transactionalID(ctx context.Context, adm *kadm.Client, producerID int64) (string, error) {
	listed, err := adm.ListTransactions(ctx, []int64{producerID}, nil)
	for id, t := range listed {
		if t.ProducerID == producerID {
			return id, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("ListTransactions: %w", err)
	}
	return "", nil
}
