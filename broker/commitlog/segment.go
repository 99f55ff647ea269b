package commitlog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

const (
	logSuffix      = ".log"
	offsetSuffix   = ".index"
	timeSuffix     = ".timeindex"
	abortedSuffix  = ".txnindex"
	snapshotSuffix = ".snapshot"
	tmpSuffix      = ".tmp"
)

// fileName is Kafka's: the base offset in twenty digits, and what the file is.
func fileName(base int64, suffix string) string { return fmt.Sprintf("%020d%s", base, suffix) }

// parseName takes a file name with a suffix apart.
func parseName(name, suffix string) (base int64, ok bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	base, err := strconv.ParseInt(digits, 10, 64)
	return base, err == nil && base >= 0
}

// extent is a segment as a reader sees it at one moment.
type extent struct {
	base, next         int64 // first offset, and the one after the last batch
	size               int64
	maxTime, maxTimeAt int64
	file               vfs.File
	indexes
}

// segment is a sealed segment. It does not change.
type segment struct {
	sealed
	file, offsets, times vfs.File
	aborted              []abortedTxn
}

func (s *segment) extent() extent {
	return extent{
		base: s.Base, next: s.Next, size: s.Size, maxTime: s.MaxTime, maxTimeAt: s.MaxTimeAt, file: s.file,
		indexes: indexes{
			offsets: s.offsets, offsetCount: int(s.Offsets / offsetEntry),
			times: s.times, timeCount: int(s.Times / timeEntry),
		},
	}
}

func (s *segment) close() error {
	return errors.Join(s.file.Close(), s.offsets.Close(), s.times.Close())
}

// errIndexes says that a sealed segment's indexes are not those that its
// checkpoint speaks of, and have to be built again.
var errIndexes = errors.New("indexes are missing or damaged")

// openSegment opens a sealed segment without reading its batches. The caller
// gets errIndexes beside a segment that has its file only.
func openSegment(fsys vfs.FS, dir string, s sealed) (seg *segment, err error) {
	name := func(suffix string) string { return filepath.Join(dir, fileName(s.Base, suffix)) }
	damaged := func(reason string) error {
		return &CorruptError{File: fileName(s.Base, logSuffix), Offset: s.Base, Reason: reason}
	}
	seg = &segment{sealed: s}
	if seg.file, err = fsys.Open(name(logSuffix)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, damaged("the file is missing")
		}
		return nil, fmt.Errorf("open segment: %w", err)
	}
	size, err := seg.file.Size()
	if err == nil && size != s.Size {
		err = damaged(fmt.Sprintf("it has %d bytes, want %d", size, s.Size))
	}
	if err != nil {
		return nil, errors.Join(err, seg.file.Close())
	}
	seg.offsets, err = openSized(fsys, name(offsetSuffix), s.Offsets)
	if err != nil {
		return seg, err
	}
	if seg.times, err = openSized(fsys, name(timeSuffix), s.Times); err != nil {
		return seg, errors.Join(err, seg.offsets.Close())
	}
	if s.Aborted == 0 {
		return seg, nil
	}
	buf, err := vfs.ReadFile(fsys, name(abortedSuffix), s.Aborted)
	if err == nil && crc32.Checksum(buf, castagnoli) != s.AbortedCRC {
		err = errors.New("checksum does not match")
	}
	if err == nil {
		seg.aborted, err = decodeAborted(buf)
	}
	if err != nil {
		return seg, errors.Join(fmt.Errorf("%w: %w", errIndexes, err), seg.offsets.Close(), seg.times.Close())
	}
	return seg, nil
}

func openSized(fsys vfs.FS, name string, want int64) (vfs.File, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIndexes, err)
	}
	if size, err := f.Size(); err != nil || size != want {
		return nil, errors.Join(fmt.Errorf("%w: %s has %d bytes, want %d", errIndexes, name, size, want), err, f.Close())
	}
	return f, nil
}

// active is the segment that takes appends, or one that recovery reads again.
// The writer lock guards it; readers see extents of it.
type active struct {
	base, next, size   int64
	allocated          int64 // length of the file
	file               vfs.File
	since, lastAppend  int64 // local time of the first and last append in ms, 0 before
	maxTime, maxTimeAt int64

	offsets, times memory
	indexed        int64 // position of the last batch that has an index entry
	indexedTime    int64 // timestamp of the last time index entry
	aborted        []abortedTxn
}

func newActive(base int64, file vfs.File) *active {
	return &active{base: base, next: base, file: file, maxTime: -1, maxTimeAt: base, indexedTime: -1}
}

// extent is the segment as it is now. The bytes it refers to do not change: the
// indexes only grow.
func (a *active) extent() extent {
	return extent{
		base: a.base, next: a.next, size: a.size, maxTime: a.maxTime, maxTimeAt: a.maxTimeAt, file: a.file,
		indexes: indexes{
			offsets: a.offsets, offsetCount: len(a.offsets) / offsetEntry,
			times: a.times, timeCount: len(a.times) / timeEntry,
		},
	}
}

// fits is how many of the batches, and of their bytes, the segment has room for.
// An index counts positions and offsets in 32 bits; an empty segment takes a
// batch that is larger than the limit.
func (a *active) fits(list []record.Batch, limit int64) (n, size int) {
	for _, b := range list {
		end := a.size + int64(size+len(b))
		if b.LastOffset()-a.base > math.MaxInt32 || end > limit && end > int64(len(b)) {
			break
		}
		n, size = n+1, size+len(b)
	}
	return n, size
}

// note takes a batch, which lies at the end of the file, into the segment and
// its indexes.
func (a *active) note(b record.Batch, interval, now int64) {
	if ms := b.MaxTimestamp(); ms > a.maxTime {
		a.maxTime, a.maxTimeAt = ms, b.LastOffset()
	}
	if a.size-a.indexed >= interval {
		a.offsets = appendOffsetEntry(a.offsets, b.LastOffset()-a.base, a.size)
		a.indexed = a.size
		a.indexTime()
	}
	if a.since == 0 {
		a.since = now
	}
	a.lastAppend = now
	a.size += int64(len(b))
	a.next = b.NextOffset()
}

func (a *active) indexTime() {
	if a.maxTime > a.indexedTime {
		a.times = appendTimeEntry(a.times, a.maxTime, a.maxTimeAt-a.base)
		a.indexedTime = a.maxTime
	}
}

const (
	// A segment's file grows in steps as large as itself, within these bounds:
	// an idle partition takes little room, a busy one pays seldom for the change
	// of metadata that a step is.
	minStep = 64 << 10
	maxStep = 4 << 20
)

// grow makes room in the file for n more bytes.
func (a *active) grow(n int64, limit int64) error {
	need := a.size + n
	if need <= a.allocated {
		return nil
	}
	size := need + min(max(need, minStep), maxStep)
	size = max(need, min(size, limit))
	if err := a.file.Preallocate(size); err != nil {
		return fmt.Errorf("preallocate segment: %w", err)
	}
	a.allocated = size
	return nil
}

// seal makes the segment durable as it is, without preallocated zeros, and its
// indexes beside it. The directory is not synced.
func (a *active) seal(fsys vfs.FS, dir string) (*segment, error) {
	if err := a.trim(); err != nil {
		return nil, err
	}
	a.indexTime()
	var aborted []byte
	for _, txn := range a.aborted {
		aborted = appendAborted(aborted, txn)
	}
	seg := &segment{file: a.file, aborted: a.aborted, sealed: sealed{
		Base: a.base, Next: a.next, Size: a.size, MaxTime: a.maxTime, MaxTimeAt: a.maxTimeAt, LastAppend: a.lastAppend,
		Offsets: int64(len(a.offsets)), Times: int64(len(a.times)),
		Aborted: int64(len(aborted)), AbortedCRC: crc32.Checksum(aborted, castagnoli),
	}}
	name := func(suffix string) string { return filepath.Join(dir, fileName(a.base, suffix)) }
	if len(aborted) > 0 {
		if err := vfs.WriteNew(fsys, name(abortedSuffix), aborted); err != nil {
			return nil, err
		}
	}
	err := vfs.WriteNew(fsys, name(offsetSuffix), a.offsets)
	if err == nil {
		err = vfs.WriteNew(fsys, name(timeSuffix), a.times)
	}
	if err != nil {
		return nil, err
	}
	if seg.offsets, err = fsys.Open(name(offsetSuffix)); err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	if seg.times, err = fsys.Open(name(timeSuffix)); err != nil {
		return nil, errors.Join(fmt.Errorf("open time index: %w", err), seg.offsets.Close())
	}
	return seg, nil
}

// trim cuts what lies behind the last batch off the file, and makes it durable.
func (a *active) trim() error {
	if a.allocated != a.size {
		if err := a.file.Truncate(a.size); err != nil {
			return fmt.Errorf("cut segment to its batches: %w", err)
		}
		a.allocated = a.size
	}
	if err := a.file.Sync(); err != nil {
		return fmt.Errorf("sync segment: %w", err)
	}
	return nil
}
