package commitlog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waybillhq/waybill/internal/vfs"
)

// Recovery is what Open had to do. The zero Recovery is that of a log that was
// closed, or is new.
type Recovery struct {
	// CutBytes is how much of a torn tail was cut, without preallocated zeros.
	// No part of it had been acknowledged.
	CutBytes int64
	// TailBytes is how much of the active segment was not known to be durable,
	// and was made so.
	TailBytes int64
	// Rebuilt is how many segments got new indexes.
	Rebuilt int
}

// loader brings a directory to a state that can be worked with: it finishes what
// a crash interrupted, reads what may be torn, and cuts or refuses it.
type loader struct {
	fs  vfs.FS
	dir string
	cfg Config
	now int64 // ms

	found     *checkpoint // as it was found, nil if there was none
	point     durablePoint
	bases     []int64 // of segments, ascending
	snapshots []int64 // offsets, ascending
	known     *active // what the checkpoint knows of the active segment, nil if nothing
	state     *state
	opened    []*file
	fresh     *file // a new log's only segment
	did       Recovery
	rewrite   bool // the checkpoint has to be written anew
}

// load opens the files of a log. What it returns is durable.
func load(fsys vfs.FS, dir string, cfg Config) (st *state, rec *recoveryPoint, did Recovery, err error) {
	l := &loader{fs: fsys, dir: dir, cfg: cfg, now: time.Now().UnixMilli(), state: &state{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(l.opened...))
		}
	}()
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, nil, did, fmt.Errorf("make directory: %w", err)
	}
	if l.found, err = readCheckpoint(fsys, dir); err != nil {
		return nil, nil, did, err
	}
	if rec, l.point, err = openRecoveryPoint(cfg.Files, fsys, dir); err != nil {
		return nil, nil, did, err
	}
	l.opened = append(l.opened, rec.file)
	steps := []func() error{l.list, l.redo, l.begin, l.openSealed, l.replay, l.finish}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, nil, did, err
		}
	}
	if now := (durablePoint{l.state.active.base, l.state.active.size}); now != l.point {
		if err := rec.advance(now); err != nil {
			return nil, nil, did, err
		}
	}
	return l.state, rec, l.did, nil
}

// list finds segments and snapshots, and removes what an atomic replacement, or
// a compaction that is not to be finished, left.
func (l *loader) list() error {
	names, err := l.fs.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("list log directory: %w", err)
	}
	l.bases, l.snapshots = nil, nil
	for _, name := range names {
		if base, ok := parseName(name, logSuffix); ok {
			l.bases = append(l.bases, base)
		}
		if offset, ok := parseName(name, snapshotSuffix); ok {
			l.snapshots = append(l.snapshots, offset)
		}
		swapping := l.found != nil && l.found.Swap != nil
		if strings.HasSuffix(name, tmpSuffix) || strings.HasSuffix(name, cleanedSuffix) && !swapping {
			if err := l.fs.Remove(filepath.Join(l.dir, name)); err != nil {
				return fmt.Errorf("remove leftover: %w", err)
			}
		}
	}
	return nil
}

// redo carries out the intents of the checkpoint.
func (l *loader) redo() error {
	if l.found == nil || !l.found.intents() {
		return nil
	}
	l.rewrite = true
	if l.found.Swap != nil {
		if err := l.found.Swap.carryOut(l.fs, l.dir); err != nil {
			return err
		}
		l.found.Swap = nil
	}
	drop := l.found.Drop
	if l.found.Empty {
		drop = l.bases
	}
	if err := dropSegments(l.fs, l.dir, drop); err != nil {
		return err
	}
	for _, offset := range l.snapshots {
		if l.found.Empty || l.found.Cut != nil && offset > l.found.Cut.Offset {
			if err := removeFile(l.fs, l.dir, fileName(offset, snapshotSuffix)); err != nil {
				return err
			}
		}
	}
	if c := l.found.Cut; c != nil {
		if err := cutFile(l.fs, filepath.Join(l.dir, fileName(l.found.Active, logSuffix)), c.Size); err != nil {
			return err
		}
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("sync log directory: %w", err)
	}
	return l.list()
}

func (c *checkpoint) intents() bool {
	return len(c.Drop) > 0 || c.Cut != nil || c.Empty || c.Swap != nil
}

// carryOut gives cleaned files their place. It may be repeated. The directory is
// not synced.
func (s *swap) carryOut(fsys vfs.FS, dir string) error {
	for _, suffix := range []string{logSuffix, offsetSuffix, timeSuffix, abortedSuffix} {
		name := filepath.Join(dir, fileName(s.Base, suffix))
		if suffix == abortedSuffix && !s.Aborted {
			if err := removeFile(fsys, dir, fileName(s.Base, suffix)); err != nil {
				return err
			}
			continue
		}
		if err := fsys.Rename(name+cleanedSuffix, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("put cleaned segment in its place: %w", err)
		}
	}
	return nil
}

// dropSegments removes segments with all that belongs to them, youngest first so
// that what a crash leaves is a prefix. The directory is not synced.
func dropSegments(fsys vfs.FS, dir string, bases []int64) error {
	for _, base := range slices.Backward(bases) {
		for _, suffix := range []string{logSuffix, offsetSuffix, timeSuffix, abortedSuffix, snapshotSuffix} {
			if err := removeFile(fsys, dir, fileName(base, suffix)); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeFile(fsys vfs.FS, dir, name string) error {
	if err := fsys.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

func cutFile(fsys vfs.FS, name string, size int64) (err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("cut segment: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if have, err := f.Size(); err != nil || have <= size {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("cut segment: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync cut segment: %w", err)
	}
	return nil
}

// begin settles what the checkpoint is, and which segments there must be.
func (l *loader) begin() error {
	var cp checkpoint
	switch {
	case l.found != nil:
		cp = *l.found
	case len(l.bases) > 0: // Everything is read again.
		cp = checkpoint{Start: l.bases[0], Active: l.bases[0], Sparse: true}
	}
	fresh := l.found == nil || cp.Empty
	if fresh && len(l.bases) == 0 {
		f, err := createSegment(l.cfg.Files, l.fs, l.dir, cp.Active)
		if err != nil {
			return err
		}
		l.opened = append(l.opened, f)
		l.fresh = f
		l.bases = []int64{cp.Active}
	}
	cp.Drop, cp.Cut, cp.Empty, cp.Swap = nil, nil, false, nil
	l.rewrite = l.rewrite || l.found == nil
	l.state.checkpoint = cp

	for _, base := range l.bases {
		known := slices.ContainsFunc(cp.Sealed, func(s sealed) bool { return s.Base == base })
		if base < cp.Active && !known {
			return &CorruptError{File: fileName(base, logSuffix), Offset: base, Reason: "the checkpoint does not know this segment"}
		}
	}
	if !slices.Contains(l.bases, cp.Active) {
		return &CorruptError{File: fileName(cp.Active, logSuffix), Offset: cp.Active, Reason: "the file is missing"}
	}
	if last := l.bases[len(l.bases)-1]; l.point.base > last {
		return &CorruptError{File: fileName(l.point.base, logSuffix), Offset: l.point.base, Reason: "the file is missing"}
	}
	return nil
}

// createSegment makes an empty segment whose name is durable.
func createSegment(pool *Files, fsys vfs.FS, dir string, base int64) (*file, error) {
	f, err := pool.create(fsys, filepath.Join(dir, fileName(base, logSuffix)))
	if err != nil {
		return nil, fmt.Errorf("create segment: %w", full(err))
	}
	if err := fsys.SyncDir(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("sync log directory: %w", err), f.Close())
	}
	return f, nil
}

// openSealed looks for the segments that the checkpoint vouches for. The indexes
// of one may have to be built again: it has none until then.
func (l *loader) openSealed() error {
	for _, s := range l.state.Sealed {
		seg, err := openSegment(l.cfg.Files, l.fs, l.dir, s)
		if err != nil && !errors.Is(err, errIndexes) {
			return err
		}
		if err != nil {
			seg.offsets, seg.times = nil, nil
		}
		l.opened = append(l.opened, seg.file, seg.offsets, seg.times)
		l.state.segments = append(l.state.segments, seg)
	}
	return nil
}

// finish cuts the tail, makes the active segment durable, removes what is of no
// more use, and writes the checkpoint if it has changed.
func (l *loader) finish() error {
	st, a := l.state, l.state.active
	if a.size > 0 {
		a.since = cmp.Or(st.ActiveSince, l.now)
	}
	if (l.point != durablePoint{a.base, a.size}) || a.allocated != a.size {
		if err := l.settleTail(); err != nil {
			return err
		}
	}
	end := a.next
	if kept := st.Epochs.cutFrom(end + 1); len(kept) != len(st.Epochs) {
		st.Epochs, l.rewrite = kept, true
	}
	if st.Start > end {
		return l.corrupt(a.size, fmt.Errorf("the log ends at %d, below its start %d", end, st.Start))
	}
	if err := l.removeSnapshots(end); err != nil {
		return err
	}
	if !l.rewrite {
		return nil
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("sync log directory: %w", err)
	}
	return writeCheckpoint(l.fs, l.dir, st.checkpoint)
}

// settleTail makes what was read of the active segment durable. A killed process
// may have left it in the page cache only, and if a sync failed before, the
// kernel may think that it is on disk: so it is written again.
func (l *loader) settleTail() error {
	a := l.state.active
	from := int64(0)
	if l.point.base == a.base {
		from = l.point.size
	}
	l.did.TailBytes = a.size - from
	buf := make([]byte, min(scanBuffer, a.size-from))
	for at := from; at < a.size; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), a.size-at)]
		if err := readFull(a.file, buf, at); err != nil {
			return err
		}
		if _, err := a.file.WriteAt(buf, at); err != nil {
			return fmt.Errorf("write tail again: %w", err)
		}
	}
	return a.trim()
}

// removeSnapshots keeps those at the segments' bases and the newest.
func (l *loader) removeSnapshots(end int64) error {
	for i, offset := range l.snapshots {
		newest := offset <= end && (i == len(l.snapshots)-1 || l.snapshots[i+1] > end)
		known := l.state.Known != nil && l.state.Known.Next == offset
		if newest || known || offset <= end && slices.Contains(l.bases, offset) {
			continue
		}
		if err := removeFile(l.fs, l.dir, fileName(offset, snapshotSuffix)); err != nil {
			return err
		}
	}
	return nil
}
