package commitlog

import (
	"context"
	"time"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// Origin says who made a batch, and so what is checked.
type Origin int8

const (
	// FromClient is a producer: everything is checked.
	FromClient Origin = iota
	// FromCoordinator is a coordinator of this cluster, writing on behalf of a
	// transaction (offset commits) or its own records: the producer's epoch and
	// transaction are checked, its sequence is not.
	FromCoordinator
)

// Appended is the outcome of an append.
type Appended struct {
	// BaseOffset is the offset of the first record, LastOffset of the last.
	BaseOffset, LastOffset int64
	// Duplicate says that nothing was written: the batch is one of its
	// producer's last five, and the offsets are those it has. It may not be
	// durable yet: wait for it as for a new one.
	Duplicate bool
}

// NextOffset is what to wait for: with it durable, so is the whole append.
func (a Appended) NextOffset() int64 { return a.LastOffset + 1 }

// Marker is the end of a transaction on one partition.
type Marker struct {
	ProducerID       int64
	ProducerEpoch    int16
	Commit           bool // false is an abort
	CoordinatorEpoch int32
}

// AbortedTxn is an aborted transaction as a fetch response lists it.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset int64
	LastOffset  int64 // of its marker
}

// OpenTxn is a transaction without a marker.
type OpenTxn struct {
	ProducerID    int64
	ProducerEpoch int16
	FirstOffset   int64
}

// Guard proves that the coordinator was asked about a transaction after the last
// marker of its producer. The zero Guard proves nothing.
type Guard struct{ marks uint64 }

// ProducerState is what DescribeProducers tells of a producer.
type ProducerState struct {
	ProducerID       int64
	ProducerEpoch    int16
	LastSequence     int32 // -1 if it has appended nothing in this epoch
	LastTimestamp    int64 // milliseconds since 1970, time of the last append
	CoordinatorEpoch int32 // -1 if there was no marker
	TxnStart         int64 // -1 if no transaction is open
}

// Found is a record that was looked up by time.
type Found struct {
	Offset      int64
	Timestamp   int64 // milliseconds since 1970
	LeaderEpoch int32
}

// Log is one partition's log. It is safe for concurrent use.
type Log struct{}

// Open opens the log in dir, which it makes if it is not there, and recovers it
// after a crash. It returns a *CorruptError, and no log, when durable data is
// damaged.
func Open(fs vfs.FS, dir string, cfg Config) (*Log, error) { return nil, ErrClosed }

// Close makes the log durable and releases its files. A log that is offline is
// only released. No other method may be called after Close; those in flight
// return ErrClosed.
func (l *Log) Close() error { return ErrClosed }

// Append checks b, writes the offsets and the leader epoch into it, and appends
// it. It does not wait for the disk: see WaitDurable. b's base offset is changed,
// its memory is not kept.
func (l *Log) Append(b record.Batch, leaderEpoch int32, origin Origin) (Appended, error) {
	return Appended{}, ErrClosed
}

// AppendVerified is Append of a client's batch that may open a transaction:
// guard comes from BeginVerification, and the coordinator has since confirmed
// that this partition is in the producer's transaction.
func (l *Log) AppendVerified(b record.Batch, leaderEpoch int32, guard Guard) (Appended, error) {
	return Appended{}, ErrClosed
}

// BeginVerification says whether the producer has an open transaction here. If
// not, ask the coordinator whether it ought to, then call AppendVerified with
// the guard: a marker that was written meanwhile makes it worthless, so that a
// late batch cannot open a transaction that nobody will end (KIP-890).
func (l *Log) BeginVerification(producerID int64, epoch int16) (guard Guard, open bool) {
	return Guard{}, false
}

// AppendMarker ends a producer's transaction with a control batch. It raises the
// producer's epoch to the marker's. Without an open transaction it writes the
// marker all the same, so it may be repeated.
func (l *Log) AppendMarker(m Marker, leaderEpoch int32) (Appended, error) {
	return Appended{}, ErrClosed
}

// AppendReplicated appends whole batches as they are, offsets and leader epochs
// included: those of a leader to its follower, or of a source to its mirror
// topic. Offsets may skip but never go back. The log must end at expectedEnd
// (ErrUnexpectedEnd otherwise), and batches must end where their bytes do. All of
// them are appended or none.
func (l *Log) AppendReplicated(batches []byte, expectedEnd int64) (Appended, error) {
	return Appended{}, ErrClosed
}

// WaitDurable returns when every record below end is on disk. An end above the
// log's is ErrOffsetOutOfRange.
func (l *Log) WaitDurable(ctx context.Context, end int64) error { return ErrClosed }

// StartOffset is the first offset that may be read.
func (l *Log) StartOffset() int64 { return 0 }

// EndOffset is the offset that the next record gets.
func (l *Log) EndOffset() int64 { return 0 }

// DurableOffset is the offset below which everything is on disk.
func (l *Log) DurableOffset() int64 { return 0 }

// StableOffset is the last stable offset for a high watermark: the first offset
// of a transaction that is open, or whose marker is not below the watermark, and
// at most the watermark.
func (l *Log) StableOffset(highWatermark int64) int64 { return 0 }

// Size is the bytes of all segments, without what is preallocated.
func (l *Log) Size() int64 { return 0 }

// Read returns whole batches from the one that contains from (which may begin
// before it), as many as fit into maxBytes but at least one, all below upTo:
// the caller's high watermark or last stable offset. It returns nothing when from
// is at or above upTo, and ErrOffsetOutOfRange outside the log.
func (l *Log) Read(from int64, maxBytes int, upTo int64) ([]byte, error) { return nil, ErrClosed }

// Aborted returns the aborted transactions that overlap [from, upTo), sorted by
// their first offset.
func (l *Log) Aborted(from, upTo int64) []AbortedTxn { return nil }

// OffsetForTime finds the first record below upTo whose timestamp is at least
// ms milliseconds since 1970.
func (l *Log) OffsetForTime(ms, upTo int64) (Found, bool, error) { return Found{}, false, ErrClosed }

// MaxTimestamp finds the record below upTo with the greatest timestamp (KIP-734).
func (l *Log) MaxTimestamp(upTo int64) (Found, bool, error) { return Found{}, false, ErrClosed }

// AssignEpoch makes it durable that a leader epoch begins at the log's end. A
// leader calls it before its first append; Append does when it was not. An epoch
// below the latest is ErrStaleLeaderEpoch.
func (l *Log) AssignEpoch(epoch int32) error { return ErrClosed }

// LatestEpoch is the latest leader epoch, -1 if there is none.
func (l *Log) LatestEpoch() int32 { return -1 }

// EpochEnd answers OffsetForLeaderEpoch: the largest epoch not above the one
// asked for, and the offset where it ends; both -1 if the log cannot tell
// (KIP-101, KIP-279).
func (l *Log) EpochEnd(epoch int32) (found int32, end int64) { return -1, -1 }

// Producers is the state of every producer, sorted by id.
func (l *Log) Producers() []ProducerState { return nil }

// OpenTransactions are the transactions without a marker, by first offset.
func (l *Log) OpenTransactions() []OpenTxn { return nil }

// DeleteRecordsBefore raises the start of the log, durably, and removes the
// segments below it. The caller keeps it at or below the high watermark.
func (l *Log) DeleteRecordsBefore(offset int64) error { return ErrClosed }

// TruncateTo removes every batch that has a record at or above offset, and
// returns the log's new end, which is below offset if a batch straddled it.
func (l *Log) TruncateTo(offset int64) (end int64, err error) { return 0, ErrClosed }

// Reset empties the log and lets it begin at offset. Producer state and epochs
// go too.
func (l *Log) Reset(offset int64) error { return ErrClosed }

// Retain deletes what the retention settings let go, as of now, and expires
// idle producers. Nothing at or above the high watermark is deleted. It returns
// the log's start.
func (l *Log) Retain(now time.Time, highWatermark int64) (start int64, err error) {
	return 0, ErrClosed
}

// SetConfig replaces the settings; they apply from the next append on.
func (l *Log) SetConfig(cfg Config) error { return ErrClosed }

// Verify reads the log as it stands and checks every batch's checksum and place.
// It returns a *CorruptError for the first one that is damaged.
func (l *Log) Verify(ctx context.Context) error { return ErrClosed }
