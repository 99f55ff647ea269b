package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// Merger makes one dense batch of several small ones that follow each other,
// without decoding their records: of a record only its deltas of offset and
// timestamp are rewritten, which count from the batch. The batches must be
// [Mergeable]. Its zero value is empty; [Merger.Grow] spares it growing bit by bit.
// It is not safe for concurrent use.
type Merger struct {
	b            Batch
	base, latest int64 // timestamps, ms
	count        int32
	form, head   []byte // of one record, used again
}

// Mergeable says whether a batch is of the kind that a [Merger] takes: dense, not
// compressed, with its producers' own timestamps. Flags of transactions are lost.
func (b Batch) Mergeable() bool {
	return b.Dense() && b.Attributes().Codec() == None && !b.Attributes().LogAppendTime() && !b.Attributes().Control() && !b.Attributes().DeleteHorizon()
}

// Grow makes room for a batch of n bytes, header included.
func (m *Merger) Grow(n int) { m.b = slices.Grow(m.b, n) }

// Len is the length in bytes of the batch so far.
func (m *Merger) Len() int { return len(m.b) }

// Add appends the records of a batch, and returns the digest of their canonical
// form. It verifies the checksum, since the merged batch has one of its own: after
// an error, a *[CorruptError], the merger is as it was before.
func (m *Merger) Add(b Batch) (Digest, error) {
	if err := b.Check(); err != nil {
		return Digest{}, err
	}
	if !b.Mergeable() || int64(m.count)+int64(b.Count()) > math.MaxInt32 {
		return Digest{}, fmt.Errorf("batch at offset %d cannot be merged", b.BaseOffset())
	}
	before := *m
	if m.count == 0 {
		m.b = append(m.b, make([]byte, HeaderSize)...)
		m.base, m.latest = b.BaseTimestamp(), math.MinInt64
	}
	digest, err := m.records(b)
	if err != nil {
		*m = before
		return Digest{}, err
	}
	return digest, nil
}

func (m *Merger) records(b Batch) (d Digest, err error) {
	// Locals: storing slices in m at each step would cost more than the copying.
	out, form, head := m.b, m.form, m.head
	r := reader{buf: b.Records()}
	for i := range b.Count() {
		raw := r.buf
		rec := r.record(b.BaseOffset(), b.BaseTimestamp())
		switch {
		case r.bad != "":
			return Digest{}, &CorruptError{b.BaseOffset(), r.bad}
		case rec.Offset != b.BaseOffset()+int64(i):
			return Digest{}, &CorruptError{b.BaseOffset(), fmt.Sprintf("record %d has offset %d", i, rec.Offset)}
		}
		form = rec.AppendCanonical(form[:0])
		d.CRC = crc32.Update(d.CRC, castagnoli, form)
		d.Length += int64(len(form))
		head = append(head[:0], 0) // attributes of a record mean nothing yet
		head = binary.AppendVarint(head, rec.Timestamp-m.base)
		head = binary.AppendVarint(head, int64(m.count))
		fields := afterDeltas(raw[:len(raw)-len(r.buf)])
		out = binary.AppendVarint(out, int64(len(head)+len(fields)))
		out = append(append(out, head...), fields...)
		m.latest = max(m.latest, rec.Timestamp)
		m.count++
	}
	if len(r.buf) != 0 {
		return Digest{}, &CorruptError{b.BaseOffset(), fmt.Sprintf("%d bytes after the last record", len(r.buf))}
	}
	m.b, m.form, m.head = out, form, head
	return d, nil
}

// afterDeltas is what follows the length, the attributes and the two deltas of a
// record that is known to be whole.
func afterDeltas(raw []byte) []byte {
	_, n := binary.Varint(raw)
	raw = raw[n+1:]
	for range 2 {
		_, n = binary.Varint(raw)
		raw = raw[n:]
	}
	return raw
}

// Batch is the batch of all records that were added, with a checksum of its own
// and no producer; nil if there are none. The merger must not be used again.
func (m *Merger) Batch() Batch {
	if m.count == 0 {
		return nil
	}
	seal(m.b, NoProducer(None), m.base, m.latest, m.count, m.count-1)
	return m.b
}
