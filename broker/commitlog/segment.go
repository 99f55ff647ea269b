package commitlog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

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
	// cleanedSuffix follows the other one of a file that compaction writes and
	// that is to take the place of the file without it.
	cleanedSuffix = ".cleaned"
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
	file               *file
	// cleaned says that compaction wrote it: offsets skip, and its last batch may
	// end below next.
	cleaned   bool
	unchecked *unchecked
	indexes
}

// segment is a sealed segment. It does not change.
type segment struct {
	sealed
	file, offsets, times *file
	aborted              []abortedTxn
	unchecked            *unchecked
}

// newSegment is a sealed segment whose files are in place; they are opened when
// they are used.
func newSegment(pool *Files, fsys vfs.FS, dir string, s sealed, aborted []abortedTxn) *segment {
	lazy := func(suffix string) *file { return pool.lazy(fsys, filepath.Join(dir, fileName(s.Base, suffix))) }
	return &segment{
		sealed: s, aborted: aborted, unchecked: &unchecked{to: s.Size},
		file: lazy(logSuffix), offsets: lazy(offsetSuffix), times: lazy(timeSuffix),
	}
}

func (s *segment) extent() extent {
	return extent{
		base: s.Base, next: s.Next, size: s.Size, maxTime: s.MaxTime, maxTimeAt: s.MaxTimeAt,
		file: s.file, cleaned: s.Cleaned, unchecked: s.unchecked,
		indexes: indexes{
			offsets: s.offsets, offsetCount: int(s.Offsets / offsetEntry),
			times: s.times, timeCount: int(s.Times / timeEntry),
		},
	}
}

func (s *segment) close() error { return closeAll(s.file, s.offsets, s.times) }

// errIndexes says that a sealed segment's indexes are not those that its
// checkpoint speaks of, and have to be built again.
var errIndexes = errors.New("indexes are missing or damaged")

// openSegment looks for the files of a sealed segment and reads none of its
// batches. The caller gets errIndexes beside a segment that has its file only.
func openSegment(pool *Files, fsys vfs.FS, dir string, s sealed) (*segment, error) {
	damaged := func(reason string) error {
		return &CorruptError{File: fileName(s.Base, logSuffix), Offset: s.Base, Reason: reason}
	}
	seg := newSegment(pool, fsys, dir, s, nil)
	size, err := fsys.Size(seg.file.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, damaged("the file is missing")
	case err != nil:
		return nil, fmt.Errorf("size of segment: %w", err)
	case size != s.Size:
		return nil, damaged(fmt.Sprintf("it has %d bytes, want %d", size, s.Size))
	}
	for f, want := range map[*file]int64{seg.offsets: s.Offsets, seg.times: s.Times} {
		if size, err := fsys.Size(f.name); err != nil || size != want {
			return seg, errors.Join(fmt.Errorf("%w: %s has %d bytes, want %d", errIndexes, f.name, size, want), err)
		}
	}
	seg.aborted, err = s.readAborted(fsys, dir)
	return seg, err
}

// readAborted reads the aborted transactions of a segment. What it cannot
// believe is errIndexes.
func (s sealed) readAborted(fsys vfs.FS, dir string) ([]abortedTxn, error) {
	if s.Aborted == 0 {
		return nil, nil
	}
	buf, err := vfs.ReadFile(fsys, filepath.Join(dir, fileName(s.Base, abortedSuffix)), checkpointLimit)
	if err == nil && int64(len(buf)) < s.Aborted {
		err = errors.New("it is cut off")
	}
	if err == nil && crc32.Checksum(buf[:s.Aborted], castagnoli) != s.AbortedCRC {
		err = errors.New("checksum does not match")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIndexes, err)
	}
	list, err := decodeAborted(buf[:s.Aborted])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIndexes, err)
	}
	return list, nil
}

// unchecked is the part of a segment's file, up to a position, whose checksums
// nobody has looked at since the log was opened: whoever reads there does.
type unchecked struct {
	from atomic.Int64
	to   int64
}

// covers says whether what lies in [pos, end) has to be checked.
func (u *unchecked) covers(pos, end int64) bool { return pos < u.to && min(end, u.to) > u.from.Load() }

// checked notes that [pos, end) is right.
func (u *unchecked) checked(pos, end int64) {
	for {
		from := u.from.Load()
		if pos > from || end <= from || u.from.CompareAndSwap(from, end) {
			return
		}
	}
}

// active is the segment that takes appends, or one that recovery reads again.
// The writer lock guards it; readers see extents of it.
type active struct {
	base, next, size   int64
	allocated          int64 // length of the file
	ragged             bool  // the file may be longer than that: the disk was full
	file               *file
	since, lastAppend  int64   // local time of the first and last append in ms, 0 before
	luck               float64 // in [0, 1): how much of the jitter this segment gets
	firstTime          int64   // greatest timestamp of the first batch, 0 before it
	maxTime, maxTimeAt int64
	cleaned            bool // compaction writes it
	unchecked          *unchecked

	offsets, times memory
	indexed        int64 // position of the last batch that has an index entry
	indexedTime    int64 // timestamp of the last time index entry
	aborted        []abortedTxn
}

func newActive(base int64, f *file) *active {
	return &active{
		base: base, next: base, file: f, maxTime: -1, maxTimeAt: base, indexedTime: -1,
		luck: rand.Float64(), unchecked: &unchecked{},
	}
}

// extent is the segment as it is now. The bytes it refers to do not change: the
// indexes only grow.
func (a *active) extent() extent {
	return extent{
		base: a.base, next: a.next, size: a.size, maxTime: a.maxTime, maxTimeAt: a.maxTimeAt,
		file: a.file, cleaned: a.cleaned, unchecked: a.unchecked,
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
	// A batch that compaction emptied has a time and no record that has it.
	if ms := b.MaxTimestamp(); ms > a.maxTime && b.Count() > 0 {
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
	if a.size == 0 {
		a.firstTime = b.MaxTimestamp()
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
	err := a.file.Preallocate(size)
	if vfs.IsFull(err) && size > need { // Perhaps there is room for just this.
		a.ragged = true
		size = need
		err = a.file.Preallocate(size)
	}
	if err != nil {
		a.ragged = true
		return fmt.Errorf("preallocate segment: %w", err)
	}
	a.allocated = size
	return nil
}

// seal makes the segment durable as it is, without preallocated zeros, and its
// indexes beside it. The directory is not synced. Files are named with extra at
// the end. Nothing is lost if it fails for a full disk, and it may be repeated.
func (a *active) seal(fsys vfs.FS, dir, extra string) (sealed, error) {
	if err := a.trim(); err != nil {
		return sealed{}, err
	}
	a.indexTime()
	return a.writeIndexes(fsys, dir, extra)
}

// writeIndexes writes and syncs the indexes of what the segment holds, and
// returns what is known of that.
func (a *active) writeIndexes(fsys vfs.FS, dir, extra string) (sealed, error) {
	name := func(suffix string) string { return filepath.Join(dir, fileName(a.base, suffix)+extra) }
	var aborted []byte
	for _, txn := range a.aborted {
		aborted = appendAborted(aborted, txn)
	}
	if len(aborted) > 0 {
		if err := vfs.WriteNew(fsys, name(abortedSuffix), aborted); err != nil {
			return sealed{}, full(err)
		}
	}
	if err := vfs.WriteNew(fsys, name(offsetSuffix), a.offsets); err != nil {
		return sealed{}, full(err)
	}
	if err := vfs.WriteNew(fsys, name(timeSuffix), a.times); err != nil {
		return sealed{}, full(err)
	}
	return sealed{
		Base: a.base, Next: a.next, Size: a.size, FirstTime: a.firstTime, MaxTime: a.maxTime, MaxTimeAt: a.maxTimeAt,
		LastAppend: a.lastAppend, Cleaned: a.cleaned,
		Offsets: int64(len(a.offsets)), Times: int64(len(a.times)),
		Aborted: int64(len(aborted)), AbortedCRC: crc32.Checksum(aborted, castagnoli),
	}, nil
}

// trim cuts what lies behind the last batch off the file, and makes it durable.
func (a *active) trim() error {
	if a.ragged || a.allocated != a.size {
		if err := a.file.Truncate(a.size); err != nil {
			return fmt.Errorf("cut segment to its batches: %w", err)
		}
		a.allocated, a.ragged = a.size, false
	}
	if err := a.file.Sync(); err != nil {
		return fmt.Errorf("sync segment: %w", err)
	}
	return nil
}
