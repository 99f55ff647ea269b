package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// ErrOffline says that a partition cannot be served; the cause is wrapped.
var ErrOffline = errors.New("partition is offline")

// ErrEpoch errors answer a client that names another leader epoch (KIP-320).
var (
	ErrFencedEpoch  = errors.New("leader epoch of the client is older")
	ErrUnknownEpoch = errors.New("leader epoch of the client is newer")
)

// Identity names a partition.
type Identity struct {
	Topic     string
	TopicID   [16]byte
	Partition int32
}

func (i Identity) String() string { return fmt.Sprintf("%s-%d", i.Topic, i.Partition) }

// Partition is one partition that this broker leads. It is safe for concurrent
// use.
type Partition struct {
	Identity
	// epoch is what this broker leads at: see LeaderEpoch. It only grows.
	epoch atomic.Int32
	// log is nil if it could not be opened, which broken says.
	log    *commitlog.Log
	broken error

	told atomic.Int64 // high watermark that the waiters were woken for

	mu      sync.Mutex
	waiters map[*Waiter]int
	closed  bool

	mirror mirrorGate
}

// Open opens or makes a partition's log in dir and leads it at epoch, which must
// be above that of every earlier Open. If the log is damaged the partition is
// returned all the same, offline, together with the error.
func Open(fs vfs.FS, dir string, id Identity, epoch int32, cfg commitlog.Config) (*Partition, error) {
	return lead(commitlog.Open, fs, dir, id, epoch, cfg)
}

// OpenExisting is [Open] of a partition that was made before: without its log it is
// offline, too.
func OpenExisting(fs vfs.FS, dir string, id Identity, epoch int32, cfg commitlog.Config) (*Partition, error) {
	return lead(commitlog.OpenExisting, fs, dir, id, epoch, cfg)
}

func lead(open func(vfs.FS, string, commitlog.Config) (*commitlog.Log, error), fs vfs.FS, dir string, id Identity, epoch int32, cfg commitlog.Config) (*Partition, error) {
	p := &Partition{Identity: id, waiters: map[*Waiter]int{}}
	p.epoch.Store(epoch)
	var err error
	if p.log, err = open(fs, dir, cfg); err != nil {
		p.log, p.broken = nil, fmt.Errorf("%w: open log: %w", ErrOffline, err)
		return p, fmt.Errorf("partition %s: %w", id, p.broken)
	}
	return p, nil
}

// LeaderEpoch is the epoch that clients are told. It is the one that this broker
// leads the partition at, but never below the highest that a mirrored batch had: a
// client that commits the epoch of what it read believes no older one afterwards.
func (p *Partition) LeaderEpoch() int32 {
	epoch := p.epoch.Load()
	if p.log == nil {
		return epoch
	}
	return max(epoch, p.log.Mirror().HighestEpoch)
}

// Offline is why the partition cannot be read or written, nil if it can.
func (p *Partition) Offline() error { return p.broken }

// Health is what the partition can do, and why not more. One that is Offline can
// be read all the same unless [Partition.Offline] says otherwise.
func (p *Partition) Health() (commitlog.Health, error) {
	if p.log == nil {
		return commitlog.Offline, p.broken
	}
	return p.log.Health()
}

// Closed says whether the partition was closed: its topic was deleted, or the
// broker stops.
func (p *Partition) Closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Recovered is what opening the log had to do; zero if the partition is offline.
func (p *Partition) Recovered() commitlog.Recovery {
	if p.log == nil {
		return commitlog.Recovery{}
	}
	return p.log.Recovered()
}

// CheckEpoch compares the leader epoch that a client believes in; -1 is none.
func (p *Partition) CheckEpoch(epoch int32) error {
	switch mine := p.LeaderEpoch(); {
	case epoch < 0 || epoch == mine:
		return nil
	case epoch < mine:
		return ErrFencedEpoch
	}
	return ErrUnknownEpoch
}

// StartOffset is the first offset that may be read; 0 while offline.
func (p *Partition) StartOffset() int64 {
	if p.log == nil {
		return 0
	}
	return p.log.StartOffset()
}

// HighWatermark is the offset below which everything may be read.
func (p *Partition) HighWatermark() int64 {
	if p.log == nil {
		return 0
	}
	return p.log.CommittedOffset()
}

// LastStable is the offset below which every transaction has ended. It is at
// most the high watermark.
func (p *Partition) LastStable() int64 {
	if p.log == nil {
		return 0
	}
	return p.log.StableOffset(p.log.CommittedOffset())
}

// EndOffset is the offset that the next record gets.
func (p *Partition) EndOffset() int64 {
	if p.log == nil {
		return 0
	}
	return p.log.EndOffset()
}

// Size is the bytes of the log.
func (p *Partition) Size() int64 {
	if p.log == nil {
		return 0
	}
	return p.log.Size()
}

// Append appends a batch at the leader's epoch. It is not committed before
// [Partition.WaitCommitted] says so. Errors are those of commitlog's Append, or
// [ErrOffline].
func (p *Partition) Append(b record.Batch, origin commitlog.Origin) (commitlog.Appended, error) {
	if p.log == nil {
		return commitlog.Appended{}, p.broken
	}
	return p.log.Append(b, p.epoch.Load(), origin)
}

// AppendVerified appends a client's transactional batch after the coordinator
// has confirmed its transaction: see commitlog's BeginVerification.
func (p *Partition) AppendVerified(b record.Batch, guard commitlog.Guard) (commitlog.Appended, error) {
	if p.log == nil {
		return commitlog.Appended{}, p.broken
	}
	return p.log.AppendVerified(b, p.epoch.Load(), guard)
}

// BeginVerification says whether a producer has an open transaction here.
func (p *Partition) BeginVerification(producerID int64, epoch int16) (guard commitlog.Guard, open bool) {
	if p.log == nil {
		return commitlog.Guard{}, false
	}
	return p.log.BeginVerification(producerID, epoch)
}

// Postpone notes that the coordinator could not be asked about a batch, which
// comes again: see commitlog's Postpone.
func (p *Partition) Postpone(b record.Batch) {
	if p.log != nil {
		p.log.Postpone(b)
	}
}

// AppendMarker ends a producer's transaction on this partition.
func (p *Partition) AppendMarker(m commitlog.Marker) (commitlog.Appended, error) {
	if p.log == nil {
		return commitlog.Appended{}, p.broken
	}
	return p.log.AppendMarker(m, p.epoch.Load())
}

// WaitCommitted returns when everything below end is below the high watermark,
// and wakes those who wait for that.
func (p *Partition) WaitCommitted(ctx context.Context, end int64) error {
	if p.log == nil {
		return p.broken
	}
	if err := p.log.WaitCommitted(ctx, end); err != nil {
		return err
	}
	for hw := p.log.CommittedOffset(); ; {
		told := p.told.Load()
		if hw <= told {
			return nil
		}
		if p.told.CompareAndSwap(told, hw) {
			p.wake()
			return nil
		}
	}
}

// Read returns whole batches from the one that contains from, below upTo: see
// commitlog's Read.
func (p *Partition) Read(from int64, maxBytes int, upTo int64) ([]byte, error) {
	if p.log == nil {
		return nil, p.broken
	}
	return p.log.Read(from, maxBytes, upTo)
}

// Range is Read without the reading: see commitlog's Range.
func (p *Partition) Range(from int64, maxBytes int, upTo int64) (commitlog.Range, error) {
	if p.log == nil {
		return commitlog.Range{}, p.broken
	}
	return p.log.Range(from, maxBytes, upTo)
}

// Aborted returns the aborted transactions that overlap [from, upTo).
func (p *Partition) Aborted(from, upTo int64) []commitlog.AbortedTxn {
	if p.log == nil {
		return nil
	}
	return p.log.Aborted(from, upTo)
}

// OffsetForTime finds the first record below upTo at or after ms.
func (p *Partition) OffsetForTime(ms, upTo int64) (commitlog.Found, bool, error) {
	if p.log == nil {
		return commitlog.Found{}, false, p.broken
	}
	return p.log.OffsetForTime(ms, upTo)
}

// MaxTimestamp finds the record below upTo with the greatest timestamp.
func (p *Partition) MaxTimestamp(upTo int64) (commitlog.Found, bool, error) {
	if p.log == nil {
		return commitlog.Found{}, false, p.broken
	}
	return p.log.MaxTimestamp(upTo)
}

// EpochEnd answers OffsetForLeaderEpoch: the largest epoch not above the one
// asked for and where it ends, both -1 if unknown. The current epoch ends at the
// high watermark. It enters the log with its first batch; until then the one
// before it ends there too.
func (p *Partition) EpochEnd(epoch int32) (found int32, end int64) {
	mine := p.LeaderEpoch()
	if p.log == nil || epoch > mine {
		return -1, -1
	}
	hw, latest := p.HighWatermark(), p.log.LatestEpoch()
	switch {
	case epoch == mine || latest < 0:
		return epoch, hw
	case epoch > latest:
		return latest, hw
	}
	found, end = p.log.EpochEnd(epoch)
	return found, min(end, hw)
}

// EpochAt is the leader epoch of the record at an offset, -1 if there is none.
func (p *Partition) EpochAt(offset int64) int32 {
	if p.log == nil {
		return -1
	}
	return p.log.EpochAt(offset)
}

// Producers is the state of every producer.
func (p *Partition) Producers() []commitlog.ProducerState {
	if p.log == nil {
		return nil
	}
	return p.log.Producers()
}

// DeleteRecordsBefore raises the log's start; -1 means the high watermark. It
// returns the new start.
func (p *Partition) DeleteRecordsBefore(offset int64) (start int64, err error) {
	if p.log == nil {
		return 0, p.broken
	}
	hw := p.HighWatermark()
	if offset == -1 {
		offset = hw
	}
	if offset < 0 || offset > hw {
		return 0, commitlog.ErrOffsetOutOfRange
	}
	if offset > p.log.StartOffset() {
		if err := p.log.DeleteRecordsBefore(offset); err != nil {
			return 0, err
		}
		p.wake()
	}
	return p.log.StartOffset(), nil
}

// Retain lets go of what the log's settings do not keep.
func (p *Partition) Retain(now time.Time) error {
	if p.log == nil {
		return nil
	}
	_, err := p.log.Retain(now, p.HighWatermark())
	return err
}

// Tend does what the log needs now and then: see commitlog's Tend.
func (p *Partition) Tend(ctx context.Context, now time.Time) error {
	if p.log == nil {
		return nil
	}
	return p.log.Tend(ctx, now)
}

// Dirt is what there is to compact, and whether that is worth it.
func (p *Partition) Dirt(now time.Time) (d commitlog.Dirt, due bool) {
	if p.log == nil {
		return d, false
	}
	d = p.log.Dirt(now, p.HighWatermark())
	return d, p.log.Due(d)
}

// Compact makes one pass over the log.
func (p *Partition) Compact(ctx context.Context, c *commitlog.Cleaner, now time.Time) (commitlog.Cleaned, error) {
	if p.log == nil {
		return commitlog.Cleaned{}, nil
	}
	return c.Clean(ctx, p.log, now, p.HighWatermark())
}

// SetConfig replaces the log's settings.
func (p *Partition) SetConfig(cfg commitlog.Config) error {
	if p.log == nil {
		return nil
	}
	return p.log.SetConfig(cfg)
}

// Close makes the log durable and releases it. Everyone who waits is woken.
func (p *Partition) Close() error {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if p.log == nil || closed {
		return nil
	}
	err := p.log.Close()
	p.wake()
	return err
}
