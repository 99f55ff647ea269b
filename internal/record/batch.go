package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// HeaderSize is the length in bytes of a batch without its records.
const HeaderSize = 61

const (
	offBaseOffset  = 0
	offLength      = 8
	offLeaderEpoch = 12
	offMagic       = 16
	offCRC         = 17
	offAttributes  = 21
	offLastDelta   = 23
	offBaseTime    = 27
	offMaxTime     = 35
	offProducerID  = 43
	offProdEpoch   = 51
	offBaseSeq     = 53
	offCount       = 57

	// lengthOverhead is what batchLength does not count: baseOffset and itself.
	lengthOverhead = 12
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrPartial says that the bytes end inside a batch. A fetch response may end
// so by design, and a log after a crash by accident.
var ErrPartial = errors.New("batch is cut off")

// CorruptError says that bytes which claim to be a batch are not one.
type CorruptError struct {
	Offset int64 // base offset that the batch claims, -1 if not readable
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt batch at offset %d: %s", e.Offset, e.Reason)
}

// Batch is one record batch of format v2, header and records, as bytes.
// Only [Next] and [Encode] make one; its accessors do not check bounds again.
type Batch []byte

// Next splits the first batch off buf. It checks the frame (length and magic)
// but not the checksum: see [Batch.Check]. It returns [ErrPartial] when buf ends
// inside the batch, and a *CorruptError when the frame cannot be right. The
// returned batch and rest share buf's memory.
func Next(buf []byte) (b Batch, rest []byte, err error) {
	if len(buf) < offMagic+1 {
		return nil, buf, ErrPartial
	}
	base := int64(binary.BigEndian.Uint64(buf))
	length := int32(binary.BigEndian.Uint32(buf[offLength:]))
	if magic := int8(buf[offMagic]); magic != 2 {
		return nil, buf, &CorruptError{base, fmt.Sprintf("magic %d, want 2", magic)}
	}
	if length < HeaderSize-lengthOverhead {
		return nil, buf, &CorruptError{base, fmt.Sprintf("length %d is below a header", length)}
	}
	size := int64(length) + lengthOverhead
	if int64(len(buf)) < size {
		return nil, buf, ErrPartial
	}
	return Batch(buf[:size:size]), buf[size:], nil
}

// Check verifies the checksum and that the header's counts agree with each
// other, and returns a *CorruptError otherwise.
func (b Batch) Check() error {
	if crc32.Checksum(b[offAttributes:], castagnoli) != b.CRC() {
		return &CorruptError{b.BaseOffset(), "checksum does not match"}
	}
	if b.LastOffsetDelta() < 0 || b.Count() < 0 || int64(b.Count()) > int64(b.LastOffsetDelta())+1 {
		return &CorruptError{b.BaseOffset(), fmt.Sprintf("%d records over %d offsets", b.Count(), int64(b.LastOffsetDelta())+1)}
	}
	return nil
}

func (b Batch) i16(at int) int16 { return int16(binary.BigEndian.Uint16(b[at:])) }
func (b Batch) i32(at int) int32 { return int32(binary.BigEndian.Uint32(b[at:])) }
func (b Batch) i64(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }

// ClaimedSize is how many bytes the batch has by its header: len(b), unless b is
// its header alone.
func (b Batch) ClaimedSize() int64 { return int64(b.i32(offLength)) + lengthOverhead }

// BaseOffset is the offset of the batch's first record.
func (b Batch) BaseOffset() int64 { return b.i64(offBaseOffset) }

// LastOffset is the offset of the batch's last record, before compaction.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// NextOffset is the first offset after the batch.
func (b Batch) NextOffset() int64 { return b.LastOffset() + 1 }

// LeaderEpoch is the epoch of the leader that appended the batch.
func (b Batch) LeaderEpoch() int32 { return b.i32(offLeaderEpoch) }

// CRC is the stored checksum over everything from the attributes on.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[offCRC:]) }

// Attributes are the batch's codec and flags.
func (b Batch) Attributes() Attributes { return Attributes(b.i16(offAttributes)) }

// LastOffsetDelta is LastOffset - BaseOffset.
func (b Batch) LastOffsetDelta() int32 { return b.i32(offLastDelta) }

// BaseTimestamp is what the records' timestamp deltas count from, in
// milliseconds since 1970, or the delete horizon if that flag is set (KIP-534).
func (b Batch) BaseTimestamp() int64 { return b.i64(offBaseTime) }

// MaxTimestamp is the greatest timestamp in the batch, in milliseconds since
// 1970, as its writer claims it.
func (b Batch) MaxTimestamp() int64 { return b.i64(offMaxTime) }

// ProducerID is the id of the idempotent producer, -1 if there is none.
func (b Batch) ProducerID() int64 { return b.i64(offProducerID) }

// ProducerEpoch is the epoch of the idempotent producer.
func (b Batch) ProducerEpoch() int16 { return b.i16(offProdEpoch) }

// BaseSequence is the sequence number of the first record.
func (b Batch) BaseSequence() int32 { return b.i32(offBaseSeq) }

// LastSequence is the sequence number of the last record; sequences wrap from
// 2^31-1 to 0.
func (b Batch) LastSequence() int32 { return AddSequence(b.BaseSequence(), b.LastOffsetDelta()) }

// Count is the number of records, which compaction makes smaller than the
// number of offsets.
func (b Batch) Count() int32 { return b.i32(offCount) }

// Records is the records section, compressed as the attributes say.
func (b Batch) Records() []byte { return b[HeaderSize:] }

// Dense says whether every offset of the batch has a record, which a broker
// demands of what a client produces.
func (b Batch) Dense() bool { return b.Count() > 0 && b.Count() == b.LastOffsetDelta()+1 }

// SetBaseOffset rewrites the base offset, which the checksum does not cover.
func (b Batch) SetBaseOffset(o int64) { binary.BigEndian.PutUint64(b[offBaseOffset:], uint64(o)) }

// SetLeaderEpoch rewrites the leader epoch, which the checksum does not cover.
func (b Batch) SetLeaderEpoch(e int32) { binary.BigEndian.PutUint32(b[offLeaderEpoch:], uint32(e)) }

// Stamp is the part of a header that a writer makes its own.
type Stamp struct {
	ProducerID    int64
	ProducerEpoch int16
	BaseSequence  int32
	Attributes    Attributes
}

// Restamp overwrites the stamped header fields and patches the checksum. A
// batch that was corrupt before stays corrupt: the patch carries the difference
// over and blesses nothing.
func (b Batch) Restamp(s Stamp) {
	old := b.headerCRC()
	binary.BigEndian.PutUint16(b[offAttributes:], uint16(s.Attributes))
	binary.BigEndian.PutUint64(b[offProducerID:], uint64(s.ProducerID))
	binary.BigEndian.PutUint16(b[offProdEpoch:], uint16(s.ProducerEpoch))
	binary.BigEndian.PutUint32(b[offBaseSeq:], uint32(s.BaseSequence))
	delta := old ^ b.headerCRC()
	binary.BigEndian.PutUint32(b[offCRC:], b.CRC()^shiftCRC(delta, int64(len(b)-HeaderSize)))
}

// SetAppendTime makes ms the timestamp of every record (LogAppendTime) and
// patches the checksum.
func (b Batch) SetAppendTime(ms int64) {
	old := b.headerCRC()
	binary.BigEndian.PutUint16(b[offAttributes:], uint16(b.Attributes()|attrLogAppendTime))
	binary.BigEndian.PutUint64(b[offMaxTime:], uint64(ms))
	delta := old ^ b.headerCRC()
	binary.BigEndian.PutUint32(b[offCRC:], b.CRC()^shiftCRC(delta, int64(len(b)-HeaderSize)))
}

// SetMaxTimestamp rewrites the greatest timestamp and patches the checksum.
func (b Batch) SetMaxTimestamp(ms int64) {
	old := b.headerCRC()
	binary.BigEndian.PutUint64(b[offMaxTime:], uint64(ms))
	delta := old ^ b.headerCRC()
	binary.BigEndian.PutUint32(b[offCRC:], b.CRC()^shiftCRC(delta, int64(len(b)-HeaderSize)))
}

// RecordsCRC is the CRC-32C of the records section alone, derived from the
// batch's checksum without reading the records. It is right only if the batch's
// checksum is.
func (b Batch) RecordsCRC() uint32 {
	return b.CRC() ^ shiftCRC(b.headerCRC(), int64(len(b)-HeaderSize))
}

func (b Batch) headerCRC() uint32 {
	return crc32.Checksum(b[offAttributes:HeaderSize], castagnoli)
}

// AddSequence advances a sequence number by n records; it wraps to 0 after
// 2^31-1 as Kafka's does.
func AddSequence(seq, n int32) int32 {
	return int32((int64(seq) + int64(n)) & 0x7fffffff)
}

// Attributes are a batch's codec and flags.
type Attributes int16

const (
	attrCodec         Attributes = 0x07
	attrLogAppendTime Attributes = 0x08
	attrTransactional Attributes = 0x10
	attrControl       Attributes = 0x20
	attrDeleteHorizon Attributes = 0x40
)

// Codec is the compression of the records section.
func (a Attributes) Codec() Codec { return Codec(a & attrCodec) }

// LogAppendTime says that the broker set the timestamps.
func (a Attributes) LogAppendTime() bool { return a&attrLogAppendTime != 0 }

// Transactional says that the batch belongs to a transaction.
func (a Attributes) Transactional() bool { return a&attrTransactional != 0 }

// Control says that the batch is a transaction marker.
func (a Attributes) Control() bool { return a&attrControl != 0 }

// DeleteHorizon says that BaseTimestamp is a delete horizon (KIP-534).
func (a Attributes) DeleteHorizon() bool { return a&attrDeleteHorizon != 0 }

// WithTransactional sets or clears the transactional flag.
func (a Attributes) WithTransactional(on bool) Attributes { return a.with(attrTransactional, on) }

// WithoutBrokerFlags clears what only a broker may set: LogAppendTime, control
// and delete horizon.
func (a Attributes) WithoutBrokerFlags() Attributes {
	return a &^ (attrLogAppendTime | attrControl | attrDeleteHorizon)
}

func (a Attributes) with(flag Attributes, on bool) Attributes {
	if on {
		return a | flag
	}
	return a &^ flag
}
