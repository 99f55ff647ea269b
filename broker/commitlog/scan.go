package commitlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/waybillhq/waybill/internal/record"
)

const scanBuffer = 256 << 10

// scan reads the batches of a file from a position to its size, checks each, and
// hands it to fn, with memory that is fn's only until it returns. next is the
// lowest offset that the first batch may have; with dense, each must follow the
// one before without a gap. It returns where it stopped: at size, or at the first
// bytes that are not a right batch, and then damage says why; fn finds damage too,
// by returning a *record.CorruptError. err is another matter: the file could not
// be read, or fn gave up.
func scan(f io.ReaderAt, from, size, next int64, dense bool, fn func(pos int64, b record.Batch) error) (stop int64, damage, err error) {
	buf := make([]byte, 0, min(scanBuffer, max(size-from, 0)))
	for pos := from; ; {
		b, rest, damage := record.Next(buf)
		if errors.Is(damage, record.ErrPartial) {
			at := pos + int64(len(buf))
			if at == size && len(buf) == 0 {
				return pos, nil, nil
			}
			want := wanted(buf)
			if pos+want > size {
				return pos, fmt.Errorf("batch of %d bytes in the last %d: %w", want, size-pos, record.ErrPartial), nil
			}
			if buf, err = readMore(f, buf, at, size, want); err != nil {
				return pos, nil, err
			}
			continue
		}
		if damage == nil {
			damage = b.Check()
		}
		if damage == nil && (b.BaseOffset() < next || dense && b.BaseOffset() != next || b.NextOffset() < 0) {
			damage = fmt.Errorf("batch claims offset %d, want %d", b.BaseOffset(), next)
		}
		if damage != nil {
			return pos, damage, nil
		}
		if err := fn(pos, b); err != nil {
			var damage *record.CorruptError
			if errors.As(err, &damage) {
				return pos, damage, nil
			}
			return pos, nil, err
		}
		pos, next, buf = pos+int64(len(b)), b.NextOffset(), rest
	}
}

// wanted is how many bytes the batch at the start of buf takes, as far as buf
// tells.
func wanted(buf []byte) int64 {
	if len(buf) < 12 {
		return record.HeaderSize
	}
	return max(record.HeaderSize, int64(int32(binary.BigEndian.Uint32(buf[8:])))+12)
}

// readMore returns what is left in buf and what follows it in the file at at, so
// that it holds at least want bytes.
func readMore(f io.ReaderAt, buf []byte, at, size, want int64) ([]byte, error) {
	grown := make([]byte, min(max(want, scanBuffer), int64(len(buf))+size-at))
	n := copy(grown, buf)
	if err := readFull(f, grown[n:], at); err != nil {
		return nil, err
	}
	return grown, nil
}

// readFull fills p from the file.
func readFull(f io.ReaderAt, p []byte, at int64) error {
	n, err := f.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), at, err)
}

// headers walks over batches by their headers alone.
type headers struct {
	x   extent
	buf []byte
	at  int64 // position of buf[0]
}

const headerWindow = 8 << 10

// batch returns the header of the batch at a position, as a Batch without its
// records, and the position after it. The header shares memory with the next
// call's.
func (h *headers) batch(pos int64) (header record.Batch, next int64, err error) {
	if pos < h.at || pos+record.HeaderSize > h.at+int64(len(h.buf)) {
		n := min(headerWindow, h.x.size-pos)
		if n < record.HeaderSize {
			return nil, 0, h.x.damaged(pos, "no room for a batch")
		}
		if cap(h.buf) < int(n) {
			h.buf = make([]byte, n)
		}
		h.buf, h.at = h.buf[:n], pos
		if err := readFull(h.x.file, h.buf, pos); err != nil {
			return nil, 0, err
		}
	}
	header = record.Batch(h.buf[pos-h.at:][:record.HeaderSize])
	next = pos + wanted(header)
	if header[16] != 2 || next > h.x.size || header.BaseOffset() < h.x.base || header.LastOffset() >= h.x.next {
		return nil, 0, h.x.damaged(pos, "not a batch of this segment")
	}
	return header, next, nil
}

func (x extent) damaged(pos int64, reason string) error {
	return &CorruptError{File: fileName(x.base, logSuffix), Position: pos, Offset: -1, Reason: reason}
}

// find is the position of the batch that contains an offset or, in a gap, of the
// one after it; the segment's size if there is none.
func (x extent) find(offset int64) (pos int64, err error) {
	if offset >= x.next {
		return x.size, nil
	}
	h := headers{x: x}
	pos, last, err := x.position(offset - x.base)
	if err != nil {
		return 0, err
	}
	if last >= 0 {
		// An index has no checksum. One that is wrong costs a walk.
		if b, _, err := h.batch(pos); err != nil || b.LastOffset() != x.base+last {
			pos = 0
		}
	}
	for pos < x.size {
		b, next, err := h.batch(pos)
		if err != nil {
			return 0, err
		}
		if b.LastOffset() >= offset {
			break
		}
		pos = next
	}
	return pos, nil
}
