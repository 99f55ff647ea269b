package commitlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/waybillhq/waybill/internal/vfs"
)

// flushAtLast is how long anything may stay without a sync, whatever the policy:
// it bounds what a power cut takes and what a start has to write again.
const flushAtLast = time.Minute

// Tend does what is due now and then: it syncs what a lax flush policy has left
// for too long, looks whether a full disk has room again, and notes what is known of
// a segment that has grown. One goroutine at a time calls it, every few seconds.
func (l *Log) Tend(ctx context.Context, now time.Time) error {
	l.writer.Lock()
	age := min(l.cfg.FlushAge, flushAtLast)
	l.writer.Unlock()
	switch end := l.EndOffset(); {
	case l.durable.offset() >= end:
		l.flush.since = 0
	case l.flush.since == 0:
		l.flush.since = now.UnixMilli()
	case l.flush.lax() && now.UnixMilli()-l.flush.since >= age.Milliseconds():
		l.flush.since = 0
		if err := l.WaitDurable(ctx, end); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	if err := l.retryFull(); err != nil {
		return err
	}
	return l.mark(ctx)
}

// spareName is a file that is made only to see whether there is room for it.
const spareName = "room" + tmpSuffix

// retryFull looks whether a log that found the disk full has room for an append
// again, so that it is known of one that nobody writes to. Room is asked for as an
// append may ask for it: beside the segment, for the indexes and the snapshot of a
// roll.
func (l *Log) retryFull() error {
	if h, _ := l.Health(); h != Full {
		return nil
	}
	l.writer.Lock()
	defer l.writer.Unlock()
	if l.writable() != nil {
		return nil // which the next append says
	}
	a := l.state.active
	need := minStep + int64(len(a.offsets)+len(a.times)+len(l.state.producers.encode(a.next)))
	err := vfs.TryRoom(l.fs, filepath.Join(l.dir, spareName), need)
	switch {
	case err == nil:
		l.health.become(l.dir, Healthy, nil)
	case !vfs.IsFull(err):
		return fmt.Errorf("look for room: %w", err)
	}
	return nil
}

// mark notes what is known of the active segment if it has grown by enough, so
// that a start after a crash reads only what follows.
func (l *Log) mark(ctx context.Context) error {
	l.writer.Lock()
	a := l.state.active
	var before int64
	if l.state.Known != nil {
		before = l.state.Known.Size
	}
	if l.writable() != nil || a.size-before < l.cfg.markBytes {
		l.writer.Unlock()
		return nil
	}
	a.indexTime()
	now := *a // What its indexes hold by now does not change.
	producers := l.state.producers.encode(a.next)
	l.writer.Unlock()

	if err := l.WaitDurable(ctx, now.next); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	known, err := now.writeIndexes(l.fs, l.dir, tmpSuffix)
	if err == nil {
		err = full(vfs.WriteNew(l.fs, filepath.Join(l.dir, fileName(now.next, snapshotSuffix)), producers))
	}
	l.writer.Lock()
	defer l.writer.Unlock()
	switch {
	case l.writable() != nil || l.state.active != a:
		return nil // It was sealed or cut meanwhile, or the log closed.
	case errors.Is(err, ErrFull):
		return nil // Nothing is lost but time at the next start.
	case err != nil:
		return l.fail(fmt.Errorf("mark: %w", err))
	}
	return l.setKnown(known)
}

// setKnown gives the index files of a mark their place and notes them.
func (l *Log) setKnown(known sealed) error {
	for _, suffix := range []string{offsetSuffix, timeSuffix, abortedSuffix} {
		if suffix == abortedSuffix && known.Aborted == 0 {
			continue
		}
		name := filepath.Join(l.dir, fileName(known.Base, suffix))
		if err := l.fs.Rename(name+tmpSuffix, name); err != nil {
			return l.fail(fmt.Errorf("mark: %w", err))
		}
	}
	old := l.state.Known
	cp := l.state.checkpoint
	cp.Known, cp.ActiveSince = &known, l.state.active.since
	if err := l.commit(cp); err != nil {
		if errors.Is(err, ErrFull) {
			return nil
		}
		return err
	}
	if old != nil && old.Next != cp.Active {
		if err := removeFile(l.fs, l.dir, fileName(old.Next, snapshotSuffix)); err != nil {
			return l.fail(err)
		}
	}
	return nil
}
