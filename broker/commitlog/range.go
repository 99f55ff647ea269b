package commitlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// Range is a run of whole batches where they lie in a segment's file, for a
// broker that sends them from there. The zero Range is empty.
//
// Its bytes stay readable until Release, whatever retention and compaction do to
// the segment meanwhile: the file is closed when the last Range lets go of it. A
// truncation is another matter: it takes the bytes away, and ReadAt fails with
// ErrTruncated. What the system was given to send from File may by then be on its way
// with other bytes in it: the checksum of their batch tells the client.
type Range struct {
	file      *file
	open      vfs.File // file, held open
	pos, size int64
	next      int64
}

// ErrTruncated says that the bytes of a Range were cut off the log.
var ErrTruncated = errors.New("range was truncated")

// Size is how many bytes the range has.
func (r Range) Size() int64 { return r.size }

// NextOffset is the offset after the last batch; 0 for an empty range.
func (r Range) NextOffset() int64 { return r.next }

// ReadAt reads from the range, 0 being its first byte.
func (r Range) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.size {
		return 0, io.EOF
	}
	cut := int64(len(p)) > r.size-off
	if cut {
		p = p[:r.size-off]
	}
	if err := readFull(r.open, p, r.pos+off); err != nil {
		return 0, err
	}
	if r.file.truncated.Load() {
		return 0, ErrTruncated
	}
	if cut {
		return len(p), io.EOF
	}
	return len(p), nil
}

// File is where the range lies, for the operating system to send from: a file,
// and the position of the range's first byte. The file must not be used after
// Release. Ask again before each part of a long transfer: a truncation shows here.
func (r Range) File() (vfs.File, int64, error) {
	if r.file.truncated.Load() {
		return nil, 0, ErrTruncated
	}
	return r.open, r.pos, nil
}

// Release lets go of the file. It is called once for every Range with a size.
func (r Range) Release() {
	if r.file != nil {
		r.file.release()
	}
}

// Range is [Log.Read] without the reading: the same batches, as a place in a file.
// The checksums of what lay there before the log was opened are verified first,
// once.
func (l *Log) Range(from int64, maxBytes int, upTo int64) (r Range, err error) {
	err = l.reading(func(v *view) error {
		if r, err = v.locate(from, maxBytes, upTo); err == nil && r.size > 0 {
			r.open, err = r.file.acquire()
		}
		return err
	})
	if err != nil {
		return Range{}, fmt.Errorf("locate %d: %w", from, err)
	}
	return r, nil
}

func (v *view) locate(from int64, maxBytes int, upTo int64) (Range, error) {
	if from < v.start || from > v.end() {
		return Range{}, fmt.Errorf("%w: the log has %d to %d", ErrOffsetOutOfRange, v.start, v.end())
	}
	if upTo = min(upTo, v.end()); from >= upTo {
		return Range{}, nil
	}
	for i := v.segmentOf(from); i < v.count(); i++ {
		x := v.extent(i)
		pos, err := x.find(from)
		if err != nil {
			return Range{}, err
		}
		if pos < x.size {
			return x.locate(pos, maxBytes, upTo)
		}
	}
	return Range{}, nil
}

// locate is the range of whole batches from a position on, below upTo: at least
// one, and no more than maxBytes beyond that.
func (x extent) locate(pos int64, maxBytes int, upTo int64) (Range, error) {
	h := headers{x: x}
	first, end, err := h.batch(pos)
	if err != nil || first.NextOffset() > upTo {
		return Range{}, err
	}
	r := Range{file: x.file, pos: pos, next: first.NextOffset()}
	limit := min(pos+int64(maxBytes), x.size)
	if limit == x.size && x.next <= upTo {
		r.size, r.next = x.size-pos, x.next
		return r, x.check(pos, x.size)
	}
	// The last batch that begins within the limit and has an index entry is a
	// short walk from the end.
	at, last, err := x.lastWithin(limit, upTo-1-x.base)
	if err != nil {
		return Range{}, err
	}
	if at >= end {
		// An index has no checksum: an entry counts if its batch bears it out.
		if b, after, err := h.batch(at); err == nil && b.LastOffset() == x.base+last && after <= limit {
			end, r.next = after, b.NextOffset()
		}
	}
	for end < limit {
		b, after, err := h.batch(end)
		if err != nil {
			return Range{}, err
		}
		if after > limit || b.NextOffset() > upTo {
			break
		}
		end, r.next = after, b.NextOffset()
	}
	r.size = end - pos
	return r, x.check(pos, end)
}

// check verifies the checksums of the batches in [pos, end), unless that has been
// done since the log was opened.
func (x extent) check(pos, end int64) error {
	if !x.unchecked.covers(pos, end) {
		return nil
	}
	stop, damage, err := scan(x.file, pos, end, x.base, false, func(int64, record.Batch) error { return nil })
	if err != nil {
		return err
	}
	if damage != nil {
		return x.damaged(stop, damage.Error())
	}
	x.unchecked.checked(pos, end)
	return nil
}

// lastWithin is the last entry of the offset index for a batch that begins before
// a position and ends at or below an offset (counted from the base): where it
// begins, and its last offset. Both are -1 if there is none.
func (x indexes) lastWithin(before, rel int64) (position, last int64, err error) {
	entry, found, err := lastWhere(x.offsets, x.offsetCount, offsetEntry, func(e []byte) bool {
		return int64(binary.BigEndian.Uint32(e)) <= rel && int64(binary.BigEndian.Uint32(e[4:])) < before
	})
	if err != nil || !found {
		return -1, -1, err
	}
	return int64(binary.BigEndian.Uint32(entry[4:])), int64(binary.BigEndian.Uint32(entry)), nil
}

// revokeRanges ends the ranges of all segments before a truncation.
func (l *Log) revokeRanges() {
	v := l.state.view()
	for i := range v.count() {
		v.extent(i).file.truncated.Store(true)
	}
}
