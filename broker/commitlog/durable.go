package commitlog

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// durability is how far the log is on disk, and what ended it.
type durability struct {
	mu      sync.Mutex
	upTo    int64
	err     error         // set once: the log takes no more writes
	changed chan struct{} // closed and replaced at every change
}

// reached says whether everything below end is durable. If not, it returns what
// will be closed when that may have changed, or why it never will be.
func (d *durability) reached(end int64) (done bool, changed <-chan struct{}, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end <= d.upTo {
		return true, nil, nil
	}
	return false, d.changed, d.err
}

func (d *durability) offset() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.upTo
}

func (d *durability) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func (d *durability) advance(end int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end > d.upTo {
		d.upTo = end
		d.wake()
	}
}

// reset begins anew at an end that may be lower.
func (d *durability) reset(end int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.upTo = end
	d.wake()
}

// fail ends it. The first failure stays, until the log is closed.
func (d *durability) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil || err == ErrClosed { //nolint:errorlint // the bare sentinel is meant
		d.err = err
		d.wake()
	}
}

func (d *durability) wake() {
	if d.changed != nil {
		close(d.changed)
	}
	d.changed = make(chan struct{})
}

// WaitDurable returns when every record below end is on disk. An end above the
// log's is ErrOffsetOutOfRange.
//
// The first to wait syncs, on its own goroutine; those who come meanwhile wait
// for it, and then one of them syncs for all.
func (l *Log) WaitDurable(ctx context.Context, end int64) error {
	for {
		done, changed, err := l.durable.reached(end)
		if done || err != nil {
			return err
		}
		if have := l.EndOffset(); end > have {
			return fmt.Errorf("%w: wait for %d, the log ends at %d", ErrOffsetOutOfRange, end, have)
		}
		select {
		case l.syncing <- struct{}{}:
			err := l.syncOnce(end)
			<-l.syncing
			if err != nil {
				return err
			}
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flushing is the flush policy, and how far a laxer one than the strict has been
// promised.
type flushing struct {
	// messages is the policy's; 1 is strict.
	messages atomic.Int64
	// promised is the highest end that has counted as committed unsynced.
	promised atomic.Int64
	// since is when, in ms, the oldest record that is not synced was found; 0 if
	// there is none. Only Tend uses it.
	since int64
}

func (f *flushing) lax() bool { return f.messages.Load() > 1 }

// CommittedOffset is the offset below which records may be acknowledged and
// served by the flush policy: everything on disk or, by a laxer policy, everything
// appended. It does not go back while the log is open. After a power cut it may
// be lower than it was, by what a laxer policy had not synced.
func (l *Log) CommittedOffset() int64 {
	if !l.flush.lax() {
		return l.durable.offset()
	}
	if l.durable.failure() != nil {
		// What is behind a failed write is not promised any more; what was
		// promised before stays readable.
		return max(l.durable.offset(), min(l.flush.promised.Load(), l.EndOffset()))
	}
	return l.flush.promise(l.EndOffset())
}

// promise notes that everything below end counts as committed.
func (f *flushing) promise(end int64) int64 {
	for {
		old := f.promised.Load()
		if end <= old {
			return old
		}
		if f.promised.CompareAndSwap(old, end) {
			return end
		}
	}
}

// WaitCommitted returns when everything below end may be acknowledged by the
// flush policy. See WaitDurable for its errors.
func (l *Log) WaitCommitted(ctx context.Context, end int64) error {
	messages := l.flush.messages.Load()
	if messages <= 1 || end-l.durable.offset() >= messages {
		return l.WaitDurable(ctx, end)
	}
	if err := l.durable.failure(); err != nil && l.durable.offset() < end {
		return err
	}
	if have := l.EndOffset(); end > have {
		return fmt.Errorf("%w: wait for %d, the log ends at %d", ErrOffsetOutOfRange, end, have)
	}
	return nil
}

// syncOnce makes everything durable that has been appended by now, unless that
// has happened up to end meanwhile. The caller holds syncing.
func (l *Log) syncOnce(end int64) error {
	if done, _, err := l.durable.reached(end); done || err != nil {
		return err
	}
	l.files.RLock()
	defer l.files.RUnlock()
	// Whatever lies in older segments was synced when they were sealed.
	v := l.view.Load()
	if err := l.syncs.Load().run(v.active.file.DataSync); err != nil {
		return l.fail(fmt.Errorf("sync segment: %w", err))
	}
	l.durable.advance(v.end())
	if err := l.recovery.advance(durablePoint{v.active.base, v.active.size}); err != nil {
		return l.fail(err)
	}
	return nil
}
