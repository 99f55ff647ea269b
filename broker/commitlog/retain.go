package commitlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// DeleteRecordsBefore raises the start of the log, durably, and removes the
// segments below it. The caller keeps it at or below the high watermark. An
// offset below the start changes nothing; one above the end is
// ErrOffsetOutOfRange.
func (l *Log) DeleteRecordsBefore(offset int64) error {
	// A crash must not leave a log that ends below its start.
	if err := l.WaitDurable(context.Background(), offset); err != nil {
		return fmt.Errorf("delete records: %w", err)
	}
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	if end := l.state.active.next; offset > end {
		return fmt.Errorf("%w: delete before %d, the log ends at %d", ErrOffsetOutOfRange, offset, end)
	}
	return l.startAt(offset)
}

// startAt raises the start and drops sealed segments that lie below it.
func (l *Log) startAt(offset int64) error {
	st := l.state
	if offset <= st.Start {
		return nil
	}
	gone := 0
	for gone < len(st.segments) && st.segments[gone].Next <= offset {
		gone++
	}
	dropped := st.segments[:gone]
	cp := st.checkpoint
	cp.Start = offset
	cp.Epochs = st.Epochs.startFrom(offset)
	cp.Sealed = slices.Clone(st.Sealed[gone:])
	for _, s := range dropped {
		cp.Drop = append(cp.Drop, s.Base)
	}
	err := l.commit(cp)
	if errors.Is(err, ErrFull) && st.active.allocated > st.active.size {
		// What would give room needs some: the active segment gives back its own.
		if err := st.active.trim(); err != nil {
			return l.fail(err)
		}
		err = l.commit(cp)
	}
	if err != nil {
		return err
	}
	st.segments = slices.Clone(st.segments[gone:])
	l.publish()
	if len(dropped) == 0 {
		return nil
	}
	if err := l.discard(dropped); err != nil {
		return l.fail(err)
	}
	return l.withoutIntents()
}

// discard closes segments that no view has any more, and removes their files.
func (l *Log) discard(dropped []*segment) error {
	l.files.Lock()
	defer l.files.Unlock()
	bases := make([]int64, 0, len(dropped))
	for _, s := range dropped {
		bases = append(bases, s.Base)
		if err := s.close(); err != nil {
			return fmt.Errorf("close segment: %w", err)
		}
	}
	if err := dropSegments(l.fs, l.dir, bases); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("sync log directory: %w", err)
	}
	return nil
}

// Retain deletes what the retention settings let go, as of now, and expires
// idle producers. Nothing at or above the high watermark is deleted. It returns
// the log's start.
func (l *Log) Retain(now time.Time, highWatermark int64) (start int64, err error) {
	l.noteWatermark(highWatermark)
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return 0, err
	}
	st := l.state
	st.producers.expire(now.Add(-l.cfg.ProducerExpiry).UnixMilli())
	plan := l.cfg.plan(l.view.Load(), now.UnixMilli(), st.active.lastAppend, highWatermark)
	if plan.roll || l.cfg.mustCompact(st.active.firstTime, now.UnixMilli()) {
		if err := l.roll(st.active.next); err != nil {
			return 0, err
		}
	}
	if err := l.startAt(plan.start); err != nil {
		return 0, err
	}
	return st.Start, nil
}

// retention is what to delete: everything below start, after a roll if the
// active segment goes too.
type retention struct {
	start int64
	roll  bool
}

// plan decides on retention. It deletes whole segments, oldest first, and stops
// at the first that has to stay. now and lastAppend (of the active segment) are
// in ms.
func (c Config) plan(v *view, now, lastAppend, highWatermark int64) retention {
	plan, size := retention{start: v.start}, v.size()
	expired := func(newest, appended int64) bool {
		if newest < 0 { // No record has a time: the append's counts.
			newest = appended
		}
		return c.RetentionAge >= 0 && now-newest > c.RetentionAge.Milliseconds()
	}
	for _, s := range v.segments {
		tooMuch := c.RetentionBytes >= 0 && size-s.Size >= c.RetentionBytes
		if s.Next > highWatermark || !tooMuch && !expired(s.MaxTime, s.LastAppend) {
			return plan
		}
		plan.start = max(plan.start, s.Next)
		size -= s.Size
	}
	if a := v.active; a.size > 0 && a.next <= highWatermark && expired(a.maxTime, lastAppend) {
		return retention{start: a.next, roll: true}
	}
	return plan
}

// TruncateTo removes every batch that has a record at or above offset, and
// returns the log's new end, which is below offset if a batch straddled it or no
// batch came near. A transaction whose marker goes is open again. An offset below
// the start is ErrOffsetOutOfRange: see Reset.
func (l *Log) TruncateTo(offset int64) (end int64, err error) {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return 0, err
	}
	return l.truncateTo(offset)
}

func (l *Log) truncateTo(offset int64) (end int64, err error) {
	st := l.state
	if offset < st.Start {
		return 0, fmt.Errorf("%w: truncate to %d, the log starts at %d", ErrOffsetOutOfRange, offset, st.Start)
	}
	if offset >= st.active.next {
		return st.active.next, nil
	}
	cp, err := l.planCut(offset)
	if err != nil {
		return 0, fmt.Errorf("truncate to %d: %w", offset, err)
	}
	if err := l.rewrite(durablePoint{cp.Active, cp.Cut.Size}, cp); err != nil {
		return 0, fmt.Errorf("truncate to %d: %w", offset, err)
	}
	return l.state.active.next, nil
}

// planCut is the checkpoint that intends a truncation.
func (l *Log) planCut(offset int64) (checkpoint, error) {
	v := l.state.view()
	i := v.segmentOf(offset)
	x := v.extent(i)
	pos, err := x.find(offset)
	if err != nil {
		return checkpoint{}, err
	}
	end := x.next
	if pos < x.size {
		h := headers{x: x}
		b, _, err := h.batch(pos)
		if err != nil {
			return checkpoint{}, err
		}
		end = b.BaseOffset()
	}
	cp := l.state.checkpoint
	cp.Cut = &cut{Size: pos, Offset: end}
	for j := i + 1; j < v.count(); j++ {
		cp.Drop = append(cp.Drop, v.extent(j).base)
	}
	cp.Epochs = cp.Epochs.cutFrom(end)
	if end <= cp.Start {
		cp.Epochs = nil // Who cuts everything has no need to agree with what lay below.
	}
	cp.Start, cp.FirstDirty, cp.Learned = min(cp.Start, end), min(cp.FirstDirty, end), min(cp.Learned, end)
	cp.Known = nil
	cp.Sparse = cp.Sparse || x.cleaned
	if i < len(cp.Sealed) {
		cp.Sealed, cp.Active, cp.ActiveSince = slices.Clone(cp.Sealed[:i]), x.base, 0
	}
	return cp, nil
}

// Reset empties the log and lets it begin at offset. Producers' state and epochs
// go too.
func (l *Log) Reset(offset int64) error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	return l.reset(offset)
}

func (l *Log) reset(offset int64) error {
	if offset < 0 {
		return fmt.Errorf("%w: reset to %d", ErrOffsetOutOfRange, offset)
	}
	cp := checkpoint{Start: offset, Active: offset, Empty: true}
	if err := l.rewrite(durablePoint{}, cp); err != nil {
		return fmt.Errorf("reset to %d: %w", offset, err)
	}
	return nil
}

// rewrite makes an intent durable and then does what a start after a crash would:
// carries it out and reads the directory again. point is what stays, and is
// durable as far as it was. An error takes the log offline.
func (l *Log) rewrite(point durablePoint, cp checkpoint) (err error) {
	l.syncing <- struct{}{}
	defer func() { <-l.syncing }()
	if err := l.writable(); err != nil {
		return err
	}
	l.files.Lock()
	defer l.files.Unlock()
	defer func() {
		if err != nil {
			err = l.refuse(err) // before a reader can find the files closed
		}
	}()
	if a := l.state.active; point.base == a.base { // all others are durable as a whole
		durable := int64(0)
		if l.recovery.at.base == a.base {
			durable = l.recovery.at.size
		}
		point.size = min(point.size, durable)
	}
	if err := l.recovery.lower(point); err != nil {
		return err
	}
	if err := writeCheckpoint(l.fs, l.dir, cp); err != nil {
		return err
	}
	// What follows cannot be undone: no disk is too full for it.
	l.revokeRanges()
	if err := l.closeFiles(); err != nil {
		return fmt.Errorf("close files: %w", err)
	}
	l.watermark.Store(min(l.watermark.Load(), cp.Start))
	if err := l.reload(); err != nil {
		return fmt.Errorf("%w: %w", errHalfDone, err)
	}
	return nil
}

// errHalfDone says that a log has been left without its files.
var errHalfDone = errors.New("rewriting the log has stopped half-way")

// Remove closes the log and deletes it with its directory.
func (l *Log) Remove() error {
	if err := l.Close(); err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("remove log: %w", err)
	}
	if err := l.fs.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("remove log: %w", err)
	}
	if err := l.fs.SyncDir(filepath.Dir(l.dir)); err != nil {
		return fmt.Errorf("remove log: %w", err)
	}
	return nil
}
