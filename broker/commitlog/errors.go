package commitlog

import (
	"errors"
	"fmt"

	"github.com/waybillhq/waybill/internal/vfs"
)

// The errors that a caller tells apart. All but ErrOffline and ErrClosed leave
// the log as it was, with the exception that AppendReplicated names.
var (
	// ErrOffline says that a write or a sync has failed and the log takes no
	// more writes until it is opened again. The cause is wrapped beside it.
	ErrOffline = errors.New("log is offline")
	// ErrFull says that the disk is full: nothing was written, what is there can
	// be read, and the next append tries again. The cause is wrapped beside it.
	ErrFull = errors.New("disk is full")
	// ErrClosed says that the log has been closed.
	ErrClosed = errors.New("log is closed")
	// ErrOffsetOutOfRange says that an offset is below the log's start or above
	// its end.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrTooLarge says that a batch is larger than the log takes.
	ErrTooLarge = errors.New("batch is too large")
	// ErrInvalidBatch says that a batch's header contradicts itself or what its
	// sender may write.
	ErrInvalidBatch = errors.New("invalid batch")
	// ErrOutOfOrderSequence says that a batch does not follow its producer's
	// last one.
	ErrOutOfOrderSequence = errors.New("out of order sequence number")
	// ErrInvalidProducerEpoch says that a newer epoch of the producer has
	// written.
	ErrInvalidProducerEpoch = errors.New("producer epoch is fenced")
	// ErrInvalidTxnState says that a batch breaks its producer's transaction:
	// plain data inside an open one, or a new one that was not verified.
	ErrInvalidTxnState = errors.New("invalid transaction state")
	// ErrCoordinatorFenced says that a newer transaction coordinator has
	// written a marker for the producer.
	ErrCoordinatorFenced = errors.New("transaction coordinator is fenced")
	// ErrStaleLeaderEpoch says that the log has seen a newer leader epoch.
	ErrStaleLeaderEpoch = errors.New("stale leader epoch")
	// ErrUnexpectedEnd says that the log does not end where a replicated append
	// expects it: another writer was here.
	ErrUnexpectedEnd = errors.New("log does not end where the writer expects")
)

// full makes an error that leaves everything as it was ErrFull, if it is that of
// a full disk.
func full(err error) error {
	if vfs.IsFull(err) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// CorruptError says that bytes of the log that were durable are damaged.
type CorruptError struct {
	File     string // name of the file in the log's directory
	Position int64  // where the damage begins, in bytes
	Offset   int64  // offset of the first batch that cannot be read, -1 if unknown
	Reason   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt at byte %d (offset %d): %s", e.File, e.Position, e.Offset, e.Reason)
}
