package group

import (
	"context"

	"github.com/waybillhq/waybill/internal/record"
)

// Topic is the name of the topic that holds groups and their offsets.
const Topic = "__consumer_offsets"

// Log is one partition of [Topic], as its leader has it. Only the goroutine that
// runs [Coordinator.Lead] appends, so appends do not overlap; WaitDurable is
// called by many.
//
// An append that is refused, without anything written and with a log that goes
// on, returns an error that wraps a *kerr.Error (a fenced producer epoch, a batch
// that is too large). Any other error ends the leadership.
type Log interface {
	// Append gives b its offsets, writes it, and returns them: the first and the
	// one after the last. It does not wait for the disk. The batch comes from the
	// coordinator: it has no sequence numbers, also where it is transactional.
	Append(b record.Batch) (base, next int64, err error)
	// AppendMarker writes the end of a transaction and returns the offset after
	// it.
	AppendMarker(m Marker) (next int64, err error)
	// WaitDurable returns when every record below next is committed: durable, and
	// on all replicas that must have it.
	WaitDurable(ctx context.Context, next int64) error
	// StartOffset is the first offset, EndOffset that of the next append.
	StartOffset() int64
	EndOffset() int64
	// Read returns whole batches from the one that holds from, at least one and
	// then at most maxBytes; nothing at the end.
	Read(from int64, maxBytes int) ([]byte, error)
	// DeleteBefore lets go of the records below an offset. It may be late or
	// refuse: they are then read again at the next start, to the same effect.
	DeleteBefore(offset int64) error
}

// Marker is the end of a transaction on one partition.
type Marker struct {
	ProducerID       int64
	ProducerEpoch    int16
	Commit           bool // false is an abort
	CoordinatorEpoch int32
}
