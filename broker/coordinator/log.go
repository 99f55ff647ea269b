package coordinator

import (
	"context"
	"unicode/utf16"

	"github.com/waybillhq/waybill/internal/record"
)

// Log is one partition of a coordinator's topic, as its leader has it. Only the
// goroutine that runs [Loop.Serve] appends, so appends do not overlap;
// WaitDurable is called by many.
//
// An append that is refused, without anything written and with a log that goes
// on, returns an error that wraps a *kerr.Error (a full disk, a fenced producer
// epoch, a batch that is too large). Any other error ends the leadership.
type Log interface {
	// Append gives b its offsets, writes it, and returns them: the first and the
	// one after the last. It does not wait for the disk. The batch comes from the
	// coordinator: it has no sequence numbers, also where it is transactional.
	Append(b record.Batch) (base, next int64, err error)
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

// PartitionFor is the partition, of n, that Kafka gives a coordinated name: that
// of a group, or a transactional id.
func PartitionFor(name string, n int32) int32 {
	var h int32 // String.hashCode of Java
	for _, unit := range utf16.Encode([]rune(name)) {
		h = 31*h + int32(unit)
	}
	return (h & 0x7fffffff) % n
}
