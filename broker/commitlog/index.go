package commitlog

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"
)

// The indexes of a segment are sparse and have Kafka's layouts. An entry of the
// offset index is the last offset of a batch, from the segment's base, and the
// position where the batch begins. One of the time index is the greatest
// timestamp so far, in ms, and the last offset of the batch that has it. The
// active segment's are kept in memory as the bytes that its files will hold.
const (
	offsetEntry = 4 + 4
	timeEntry   = 8 + 4
)

// indexes are both indexes of one segment. They are read where they lie: memory
// for the active segment, files for the others.
type indexes struct {
	offsets, times         io.ReaderAt
	offsetCount, timeCount int
}

// memory is the bytes of an index that is not in a file yet.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// lastPosition is the position of the last entry of an offset index, 0 if it has
// none.
func (m memory) lastPosition() int64 {
	if len(m) < offsetEntry {
		return 0
	}
	return int64(binary.BigEndian.Uint32(m[len(m)-4:]))
}

// lastTime is the timestamp of the last entry of a time index, -1 if it has none.
func (m memory) lastTime() int64 {
	if len(m) < timeEntry {
		return -1
	}
	return int64(binary.BigEndian.Uint64(m[len(m)-timeEntry:]))
}

func appendOffsetEntry(buf []byte, rel int64, position int64) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(rel))
	return binary.BigEndian.AppendUint32(buf, uint32(position))
}

func appendTimeEntry(buf []byte, ms int64, rel int64) []byte {
	buf = binary.BigEndian.AppendUint64(buf, uint64(ms))
	return binary.BigEndian.AppendUint32(buf, uint32(rel))
}

// lastWhere returns the last of n entries of a size for which ok holds; ok holds
// for a first run of them and not after it. found is false if it holds for none.
func lastWhere(r io.ReaderAt, n, size int, ok func(entry []byte) bool) (entry []byte, found bool, err error) {
	buf := make([]byte, size)
	read := func(i int) bool {
		if err == nil {
			if _, rerr := r.ReadAt(buf, int64(i)*int64(size)); rerr != nil {
				err = fmt.Errorf("read index entry %d: %w", i, rerr)
			}
		}
		return err == nil
	}
	first := sort.Search(n, func(i int) bool { return !read(i) || !ok(buf) })
	if err != nil || first == 0 || !read(first-1) {
		return nil, false, err
	}
	return buf, true, nil
}

// position is where to begin looking for an offset (counted from the base): at a
// batch at or before it. last is that batch's last offset, to check the index by;
// -1 if the index has nothing to say.
func (x indexes) position(rel int64) (position, last int64, err error) {
	entry, found, err := lastWhere(x.offsets, x.offsetCount, offsetEntry, func(e []byte) bool {
		return int64(binary.BigEndian.Uint32(e)) <= rel
	})
	if err != nil || !found {
		return 0, -1, err
	}
	return int64(binary.BigEndian.Uint32(entry[4:])), int64(binary.BigEndian.Uint32(entry)), nil
}

// before is the last entry of the time index below a timestamp: no batch up to
// rel (counted from the base) has a greater one. rel is -1 if there is no entry.
func (x indexes) before(ms int64) (greatest, rel int64, err error) {
	entry, found, err := lastWhere(x.times, x.timeCount, timeEntry, func(e []byte) bool {
		return int64(binary.BigEndian.Uint64(e)) < ms
	})
	if err != nil || !found {
		return -1, -1, err
	}
	return int64(binary.BigEndian.Uint64(entry)), int64(binary.BigEndian.Uint32(entry[8:])), nil
}
