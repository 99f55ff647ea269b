package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Section is the records section of a batch, decompressed, for who picks some of
// its records and leaves the others: log compaction.
type Section struct {
	batch Batch
	plain []byte
}

// Section decompresses the records section, to at most limit bytes. It does not
// verify the checksum.
func (b Batch) Section(limit int) (Section, error) {
	plain, err := Decompress(b.Attributes().Codec(), b.Records(), limit)
	if err != nil {
		return Section{}, fmt.Errorf("batch at offset %d: %w", b.BaseOffset(), err)
	}
	return Section{b, plain}, nil
}

// Each calls fn with the records in their order, until it returns an error. A
// record's keys, values and headers share the section's memory.
func (s Section) Each(fn func(Record) error) error {
	return s.each(func(r Record, _ []byte) error { return fn(r) })
}

func (s Section) each(fn func(r Record, raw []byte) error) error {
	rd := reader{buf: s.plain}
	for range s.batch.Count() {
		raw := rd.buf
		rec := rd.record(s.batch.BaseOffset(), s.batch.BaseTimestamp())
		if rd.bad != "" {
			return &CorruptError{s.batch.BaseOffset(), rd.bad}
		}
		if s.batch.Attributes().LogAppendTime() {
			rec.Timestamp = s.batch.MaxTimestamp()
		}
		if err := fn(rec, raw[:len(raw)-len(rd.buf)]); err != nil {
			return err
		}
	}
	if len(rd.buf) != 0 {
		return &CorruptError{s.batch.BaseOffset(), fmt.Sprintf("%d bytes after the last record", len(rd.buf))}
	}
	return nil
}

// Check walks over the records without taking them apart: there are as many as the
// header says and nothing behind them, and their offsets ascend within the batch.
// It returns a *[CorruptError] otherwise.
func (s Section) Check() error {
	w, last := NewWalker(s.plain), int32(-1)
	for range s.batch.Count() {
		o, fault := w.Next()
		if fault != "" {
			return &CorruptError{s.batch.BaseOffset(), fault}
		}
		if o.OffsetDelta <= last || o.OffsetDelta > s.batch.LastOffsetDelta() {
			return &CorruptError{s.batch.BaseOffset(), fmt.Sprintf("a record at offset delta %d after %d", o.OffsetDelta, last)}
		}
		last = o.OffsetDelta
	}
	if n := w.Rest(); n != 0 {
		return &CorruptError{s.batch.BaseOffset(), fmt.Sprintf("%d bytes after the last record", n)}
	}
	return nil
}

// Puller hands out the records of a section one by one, so that no more than one is
// taken apart at a time.
type Puller struct {
	section Section
	rd      reader
	left    int32
}

// Pull is at the first record of the section.
func (s Section) Pull() Puller { return Puller{s, reader{buf: s.plain}, s.batch.Count()} }

// Next is the next record, which shares the section's memory; ok is false behind the
// last one, and where a section that was not checked cannot be read on.
func (p *Puller) Next() (rec Record, ok bool) {
	if p.left <= 0 || p.rd.bad != "" {
		return Record{}, false
	}
	p.left--
	rec = p.rd.record(p.section.batch.BaseOffset(), p.section.batch.BaseTimestamp())
	if p.section.batch.Attributes().LogAppendTime() {
		rec.Timestamp = p.section.batch.MaxTimestamp()
	}
	return rec, p.rd.bad == ""
}

// NoHorizon leaves a batch's base timestamp, and so any delete horizon, as it is.
const NoHorizon = math.MinInt64

// Keep returns a batch with the records for which keep is true. It has the
// offsets, first and last, the producer, the sequence, the leader epoch and the
// codec of this one; records have the offsets and timestamps that they had. With
// a horizon the base timestamp becomes that and the flag is set (KIP-534): ms
// since 1970, until when tombstones have to stay. It returns nil if nothing is
// kept; see [Batch.Emptied].
func (s Section) Keep(horizon int64, keep func(Record) bool) (Batch, error) {
	attributes, baseTime := s.batch.Attributes(), s.batch.BaseTimestamp()
	move := horizon != NoHorizon
	if move {
		attributes, baseTime = attributes|attrDeleteHorizon, horizon
	}
	var plain, head []byte
	var count int32
	maxTime := int64(-1)
	err := s.each(func(r Record, raw []byte) error {
		if !keep(r) {
			return nil
		}
		count++
		maxTime = max(maxTime, r.Timestamp)
		if !move {
			plain = append(plain, raw...)
			return nil
		}
		// Of LogAppendTime the records' own times mean nothing.
		head = append(head[:0], attributesOf(raw))
		head = binary.AppendVarint(head, r.Timestamp-baseTime)
		head = binary.AppendVarint(head, r.Offset-s.batch.BaseOffset())
		fields := afterDeltas(raw)
		plain = binary.AppendVarint(plain, int64(len(head)+len(fields)))
		plain = append(append(plain, head...), fields...)
		return nil
	})
	if err != nil || count == 0 {
		return nil, err
	}
	if attributes.LogAppendTime() {
		maxTime = s.batch.MaxTimestamp()
	}
	section, err := Compress(attributes.Codec(), plain)
	if err != nil {
		return nil, fmt.Errorf("batch at offset %d: %w", s.batch.BaseOffset(), err)
	}
	if len(section) > math.MaxInt32-HeaderSize {
		return nil, ErrTooLarge
	}
	return s.batch.with(attributes, section, baseTime, maxTime, count), nil
}

// attributesOf is the attributes byte of a whole record.
func attributesOf(raw []byte) byte {
	_, n := binary.Varint(raw)
	return raw[n]
}

// Emptied returns the batch without its records: what compaction leaves of one
// whose offsets, producer and sequence must not be forgotten.
func (b Batch) Emptied() Batch {
	attributes := b.Attributes() &^ (attrCodec | attrDeleteHorizon)
	return b.with(attributes, nil, -1, b.MaxTimestamp(), 0)
}

// Recompressed returns the batch with its records, which section has as they are
// without compression, compressed by another codec.
func (b Batch) Recompressed(codec Codec, section []byte) (Batch, error) {
	packed, err := Compress(codec, section)
	if err != nil {
		return nil, err
	}
	attributes := b.Attributes()&^attrCodec | Attributes(codec)
	return b.with(attributes, packed, b.BaseTimestamp(), b.MaxTimestamp(), b.Count()), nil
}

// with is the batch with another records section and what has to fit it.
func (b Batch) with(a Attributes, section []byte, baseTime, maxTime int64, count int32) Batch {
	out := append(make(Batch, 0, HeaderSize+len(section)), b[:HeaderSize]...)
	out = append(out, section...)
	binary.BigEndian.PutUint32(out[offLength:], uint32(len(out)-lengthOverhead))
	binary.BigEndian.PutUint16(out[offAttributes:], uint16(a))
	binary.BigEndian.PutUint64(out[offBaseTime:], uint64(baseTime))
	binary.BigEndian.PutUint64(out[offMaxTime:], uint64(maxTime))
	binary.BigEndian.PutUint32(out[offCount:], uint32(count))
	binary.BigEndian.PutUint32(out[offCRC:], crc32.Checksum(out[offAttributes:], castagnoli))
	return out
}
