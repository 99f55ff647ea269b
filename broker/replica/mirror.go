package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/waybillhq/waybill/broker/commitlog"
)

// ErrMirrorClosed says that a mirror takes no batches now: it is paused, failed, or
// on the way to another state.
var ErrMirrorClosed = errors.New("mirror takes no batches now")

// mirrorGate lets mirrored batches in, or not. Who closes it knows afterwards that
// none is on its way into the log.
type mirrorGate struct {
	sync.RWMutex
	open bool
}

// AcceptMirrored opens or closes the partition to mirrored batches. After it has
// closed, none is appended any more.
func (p *Partition) AcceptMirrored(open bool) {
	p.mirror.Lock()
	defer p.mirror.Unlock()
	p.mirror.open = open
}

// RaiseEpoch leads the partition at an epoch that is above that of before.
func (p *Partition) RaiseEpoch(epoch int32) {
	for old := p.epoch.Load(); old < epoch; old = p.epoch.Load() {
		p.epoch.CompareAndSwap(old, epoch)
	}
}

// Mirror is the log's state as a mirror; that of a log that never was one while
// offline.
func (p *Partition) Mirror() commitlog.Mirror {
	if p.log == nil {
		return commitlog.Mirror{HighestEpoch: -1, PromotedAt: -1}
	}
	return p.log.Mirror()
}

// Newest is the highest leader epoch and the highest producer id that the log knows,
// -1 for none. Of producers only those count that own says it of.
func (p *Partition) Newest(own func(id int64) bool) (epoch int32, producerID int64) {
	if p.log == nil {
		return -1, -1
	}
	return p.log.LatestEpoch(), p.log.HighestProducerID(own)
}

// LastEpoch is the leader epoch of the last record, -1 if there is none.
func (p *Partition) LastEpoch() int32 {
	if p.log == nil {
		return -1
	}
	return p.log.LastEpoch()
}

// AppendMirrored is commitlog's, and [ErrMirrorClosed]. What it appends is not
// committed before [Partition.WaitCommitted] says so.
func (p *Partition) AppendMirrored(a commitlog.MirrorAppend) (end int64, err error) {
	if p.log == nil {
		return -1, p.broken
	}
	p.mirror.RLock()
	defer p.mirror.RUnlock()
	if !p.mirror.open {
		return p.log.EndOffset(), ErrMirrorClosed
	}
	end, err = p.log.AppendMirrored(a)
	if err == nil && (a.TruncateTo >= 0 || a.StartOffset >= 0) {
		p.moved() // The watermark or the start may have.
	}
	return end, err
}

// FollowStart raises the start to the source's, as far as the partition goes.
func (p *Partition) FollowStart(start int64) error {
	if p.log == nil {
		return p.broken
	}
	_, err := p.DeleteRecordsBefore(min(start, p.HighWatermark()))
	return err
}

// BeginMirror is commitlog's.
func (p *Partition) BeginMirror(expectedEnd int64, expectedEpoch int32, sameSource bool) error {
	if p.log == nil {
		return p.broken
	}
	return p.log.BeginMirror(expectedEnd, expectedEpoch, sameSource)
}

// CancelMirror is commitlog's.
func (p *Partition) CancelMirror() error {
	if p.log == nil {
		return p.broken
	}
	return p.log.CancelMirror()
}

// CheckCut is commitlog's.
func (p *Partition) CheckCut(offset int64) error {
	if p.log == nil {
		return p.broken
	}
	return p.log.CheckCut(offset)
}

// TruncateTo cuts the log, below the high watermark too: only a mirror that is
// being restored is cut. If the start has been raised above the offset since the
// cut was decided, nothing is left below it: the log begins there, empty.
func (p *Partition) TruncateTo(offset int64) error {
	if p.log == nil {
		return p.broken
	}
	_, err := p.log.TruncateTo(offset)
	if errors.Is(err, commitlog.ErrOffsetOutOfRange) {
		err = p.log.Reset(offset)
	}
	p.moved()
	return err
}

// moved wakes those who wait after the watermark may have gone back.
func (p *Partition) moved() {
	p.told.Store(min(p.told.Load(), p.log.CommittedOffset()))
	p.wake()
}

// sync waits until everything below end is on disk, whatever the flush policy, and
// committed.
func (p *Partition) sync(ctx context.Context, end int64) error {
	if err := p.log.WaitDurable(ctx, end); err != nil {
		return err
	}
	return p.WaitCommitted(ctx, end)
}

// Promote makes a mirror an ordinary partition, at the epoch that this broker leads
// it at, which must be above all mirrored ones. The transactions that the source
// left open are aborted. It may be repeated after a failure or a crash, at every
// step.
func (p *Partition) Promote(ctx context.Context) error {
	if p.log == nil {
		return p.broken
	}
	if err := p.sync(ctx, p.log.EndOffset()); err != nil {
		return fmt.Errorf("promote %s: sync what was mirrored: %w", p, err)
	}
	if err := p.log.FencePromotion(); err != nil {
		return fmt.Errorf("promote %s: %w", p, err)
	}
	end, err := p.log.EndTransactions(p.epoch.Load())
	if err != nil {
		return fmt.Errorf("promote %s: end open transactions: %w", p, err)
	}
	if err := p.sync(ctx, end); err != nil {
		return fmt.Errorf("promote %s: sync markers: %w", p, err)
	}
	if err := p.log.FinishPromotion(); err != nil {
		return fmt.Errorf("promote %s: %w", p, err)
	}
	return nil
}
