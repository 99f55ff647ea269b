package commitlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// replay reads every segment that is not sealed, and any sealed one that it needs
// to rebuild indexes or the producers' state.
func (l *loader) replay() error {
	st := l.state
	need := slices.IndexFunc(st.segments, func(s *segment) bool { return s.offsets == nil })
	needBase := st.Active
	if need >= 0 {
		needBase = st.segments[need].Base
	}
	if err := l.restoreKnown(); err != nil {
		return err
	}
	if l.known != nil && need < 0 {
		needBase = l.known.next
	}
	from, err := l.restoreProducers(needBase)
	if err != nil {
		return err
	}
	if l.known != nil && from != l.known.next {
		l.known = nil // The producers have to be learnt from the batches.
		if from > st.Active {
			if from, err = l.restoreProducers(st.Active); err != nil {
				return err
			}
		}
	}
	first := 0
	for first < len(st.segments) && first != need && st.segments[first].Next <= from {
		first++
	}
	for i := first; i < len(st.segments); i++ {
		if err := l.replaySealed(i, from); err != nil {
			return err
		}
	}
	rest := l.bases[slices.Index(l.bases, st.Active):]
	for i, base := range rest {
		last := i == len(rest)-1
		if err := l.replayUnsealed(base, from, last); err != nil {
			return err
		}
		if !last {
			if err := l.sealRecovered(rest[i+1]); err != nil {
				return err
			}
		}
	}
	if err := l.overlayProducers(from); err != nil {
		return err
	}
	if st.mirror, err = readMirror(l.fs, l.dir); err != nil {
		return err
	}
	st.forgetMirrored(from)
	return nil
}

// restoreProducers takes the newest snapshot at or below an offset, and returns
// where replaying has to begin: everywhere, if there is none.
func (l *loader) restoreProducers(atMost int64) (from int64, err error) {
	for _, offset := range slices.Backward(l.snapshots) {
		if offset > atMost {
			continue
		}
		s, err := l.readSnapshot(offset)
		if err != nil {
			return 0, err
		}
		if s == nil {
			continue
		}
		l.state.producers = s
		return offset, nil
	}
	l.state.producers = newProducers(l.cfg.MaxProducers)
	return math.MinInt64, nil
}

// restoreKnown takes over what the checkpoint knows of the active segment, if
// its files still say so.
func (l *loader) restoreKnown() error {
	k := l.state.Known
	if k == nil {
		return nil
	}
	file := filepath.Join(l.dir, fileName(k.Base, logSuffix))
	size, err := l.fs.Size(file)
	if err != nil {
		return fmt.Errorf("size of segment: %w", err)
	}
	if size < k.Size {
		return &CorruptError{File: fileName(k.Base, logSuffix), Position: size, Offset: -1, Reason: fmt.Sprintf("the file is too short (durable up to byte %d)", k.Size)}
	}
	a := newActive(k.Base, nil)
	index := func(suffix string, want int64) (memory, error) {
		buf, err := vfs.ReadFile(l.fs, filepath.Join(l.dir, fileName(k.Base, suffix)), checkpointLimit)
		if err == nil && int64(len(buf)) < want {
			err = errors.New("it is cut off")
		}
		if err != nil {
			return nil, err
		}
		return memory(buf[:want:want]), nil
	}
	var errs [3]error
	a.offsets, errs[0] = index(offsetSuffix, k.Offsets)
	a.times, errs[1] = index(timeSuffix, k.Times)
	a.aborted, errs[2] = k.readAborted(l.fs, l.dir)
	if errors.Join(errs[:]...) != nil {
		l.state.Known, l.rewrite = nil, true
		l.did.Rebuilt++
		return nil
	}
	a.next, a.size, a.firstTime, a.lastAppend = k.Next, k.Size, k.FirstTime, k.LastAppend
	a.maxTime, a.maxTimeAt = k.MaxTime, k.MaxTimeAt
	a.indexed, a.indexedTime = a.offsets.lastPosition(), a.times.lastTime()
	a.unchecked.to = k.Size
	l.known = a
	return nil
}

// readSnapshot returns nil for one that is damaged: an older one and a replay do
// its work.
func (l *loader) readSnapshot(offset int64) (*producers, error) {
	buf, err := vfs.ReadFile(l.fs, filepath.Join(l.dir, fileName(offset, snapshotSuffix)), math.MaxInt32)
	if err != nil {
		return nil, fmt.Errorf("read producer snapshot: %w", err)
	}
	s, at, err := decodeProducers(buf, l.cfg.MaxProducers)
	if err != nil || at != offset {
		return nil, nil //nolint:nilerr // damage is an expected outcome, see above
	}
	return s, nil
}

// overlayProducers applies what the newest snapshot knows beyond the replay.
func (l *loader) overlayProducers(from int64) error {
	end := l.state.active.next
	for _, offset := range slices.Backward(l.snapshots) {
		if offset <= from {
			break
		}
		if offset > end {
			continue
		}
		newer, err := l.readSnapshot(offset)
		if err != nil {
			return err
		}
		if newer != nil {
			l.state.producers.overlay(newer, offset)
			return nil
		}
	}
	return nil
}

// read scans a segment into l.state.active, and applies what lies at or above
// from to the producers' state.
func (l *loader) read(base, from int64, file *file, size int64, cleaned bool) (stop int64, damage, err error) {
	st := l.state
	st.active = newActive(base, nil)
	if l.known != nil && base == st.Active {
		st.active = l.known
	}
	st.active.file, st.active.allocated, st.active.cleaned = file, size, cleaned
	return scan(file, st.active.size, size, st.active.next, !st.Sparse && !cleaned, func(_ int64, b record.Batch) error {
		if err := l.checkEpoch(b); err != nil {
			return err
		}
		st.active.note(b, l.cfg.IndexInterval, l.now)
		if b.BaseOffset() < from {
			return nil
		}
		if err := st.apply(b, l.now, b.NextOffset()); err != nil {
			return &record.CorruptError{Offset: b.BaseOffset(), Reason: err.Error()}
		}
		return nil
	})
}

// checkEpoch checks a batch's leader epoch, or learns the epochs from the batches
// if there was no checkpoint: then too they never fall.
func (l *loader) checkEpoch(b record.Batch) error {
	st := l.state
	if l.found == nil && b.LeaderEpoch() > st.Epochs.latest() {
		st.Epochs = st.Epochs.assign(b.LeaderEpoch(), b.BaseOffset())
	}
	return checkEpoch(b, st.Epochs, st.Start)
}

func (l *loader) corrupt(pos int64, reason error) error {
	a := l.state.active
	return &CorruptError{File: fileName(a.base, logSuffix), Position: pos, Offset: a.next, Reason: reason.Error()}
}

func (l *loader) replaySealed(i int, from int64) error {
	seg := l.state.segments[i]
	_, damage, err := l.read(seg.Base, from, seg.file, seg.Size, seg.Cleaned)
	if err != nil {
		return err
	}
	if stop := l.state.active.size; damage != nil {
		return l.corrupt(stop, damage)
	}
	if seg.offsets != nil {
		return nil
	}
	a := l.state.active
	known, err := a.seal(l.fs, l.dir, "")
	if err != nil {
		return err
	}
	known.LastAppend, known.Next = seg.LastAppend, seg.Next // which compaction may have left above the last batch
	l.did.Rebuilt++
	l.state.segments[i], l.state.Sealed[i] = newSegment(l.cfg.Files, l.fs, l.dir, known, a.aborted), known
	if err := seg.close(); err != nil {
		return fmt.Errorf("close segment: %w", err)
	}
	l.rewrite = true
	return nil
}

// replayUnsealed reads a segment of which nothing is known. In the last one, what
// follows the last right batch is a torn tail, unless it was durable.
func (l *loader) replayUnsealed(base, from int64, last bool) error {
	file := l.fresh
	if file == nil {
		file = l.cfg.Files.lazy(l.fs, filepath.Join(l.dir, fileName(base, logSuffix)))
		l.opened = append(l.opened, file)
	}
	size, err := l.fs.Size(file.name)
	if err != nil {
		return fmt.Errorf("size of segment: %w", err)
	}
	stop, damage, err := l.read(base, from, file, size, false)
	if err != nil {
		return err
	}
	if base == l.point.base && stop < l.point.size {
		if damage == nil {
			damage = errors.New("the file is too short")
		}
		return l.corrupt(stop, fmt.Errorf("%w (durable up to byte %d)", damage, l.point.size))
	}
	if damage == nil {
		return nil
	}
	if !last {
		return l.corrupt(stop, damage)
	}
	l.did.CutBytes, err = lengthWithoutZeros(file, stop, size)
	return err
}

// lengthWithoutZeros is the length of a range of a file up to its last byte that
// is not zero.
func lengthWithoutZeros(f io.ReaderAt, from, to int64) (n int64, err error) {
	buf := make([]byte, min(scanBuffer, to-from))
	for at := from; at < to; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), to-at)]
		if err := readFull(f, buf, at); err != nil {
			return 0, err
		}
		if rest := bytes.TrimRight(buf, "\x00"); len(rest) > 0 {
			n = at + int64(len(rest)) - from
		}
	}
	return n, nil
}

// sealRecovered seals a segment that had been followed by another when the log
// stopped, before the checkpoint said so.
func (l *loader) sealRecovered(next int64) error {
	st := l.state
	known, err := st.active.seal(l.fs, l.dir, "")
	if err != nil {
		return err
	}
	name := filepath.Join(l.dir, fileName(next, snapshotSuffix))
	if err := vfs.WriteNew(l.fs, name, st.producers.encode(next)); err != nil {
		return err
	}
	l.did.Rebuilt++
	st.segments = append(st.segments, newSegment(l.cfg.Files, l.fs, l.dir, known, st.active.aborted))
	if err := st.active.file.Close(); err != nil {
		return fmt.Errorf("close segment: %w", err)
	}
	st.Sealed = append(slices.Clip(st.Sealed), known)
	st.Active, st.ActiveSince, st.Known, l.known = next, 0, nil, nil
	l.rewrite = true
	return nil
}
