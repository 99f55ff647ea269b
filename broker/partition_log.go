package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/record"
)

// partitionLog is a partition of one of the broker's own topics as its
// coordinator uses it.
type partitionLog struct{ p *replica.Partition }

// coordinatorLog returns a partition of one of the broker's own topics.
func (b *Broker) coordinatorLog(topic string, partition int32) (partitionLog, error) {
	p, err := b.partition(topic, partition)
	return partitionLog{p}, err
}

// Append appends a batch, and returns its first offset and the one after its
// last. It is not committed before WaitDurable says so. An error of a log that goes
// on wraps a *kerr.Error; others mean that the log is offline.
func (l partitionLog) Append(b record.Batch) (base, next int64, err error) {
	a, err := l.p.Append(b, commitlog.FromCoordinator)
	return a.BaseOffset, a.NextOffset(), coordinatorError(err)
}

// Mark ends a transaction of a producer in this partition and returns the offset
// after the marker.
func (l partitionLog) Mark(m commitlog.Marker) (next int64, err error) {
	a, err := l.p.AppendMarker(m)
	return a.NextOffset(), coordinatorError(err)
}

// coordinatorError makes a refusal of the log one of the protocol's errors. With a
// full disk it is one that every client of a coordinator repeats its request after.
func coordinatorError(err error) error {
	if errors.Is(err, commitlog.ErrFull) && !errors.Is(err, commitlog.ErrOffline) {
		return fmt.Errorf("%w: %w", kerr.CoordinatorNotAvailable, err)
	}
	code := kafkaError(err)
	switch code {
	case nil, kerr.KafkaStorageError, kerr.NotLeaderForPartition, kerr.UnknownServerError:
		return err
	}
	return fmt.Errorf("%w: %w", code, err)
}

// WaitDurable returns when everything below next is committed.
func (l partitionLog) WaitDurable(ctx context.Context, next int64) error {
	return l.p.WaitCommitted(ctx, next)
}

// StartOffset is the first offset, EndOffset that of the next append.
func (l partitionLog) StartOffset() int64 { return l.p.StartOffset() }

// EndOffset is the offset of the next append.
func (l partitionLog) EndOffset() int64 { return l.p.EndOffset() }

// Read returns whole batches from the one that holds from, at least one and then
// at most maxBytes; nothing at the end.
func (l partitionLog) Read(from int64, maxBytes int) ([]byte, error) {
	return l.p.Read(from, maxBytes, l.p.EndOffset())
}

// DeleteBefore lets go of the records below an offset.
func (l partitionLog) DeleteBefore(offset int64) error {
	_, err := l.p.DeleteRecordsBefore(offset)
	return err
}
