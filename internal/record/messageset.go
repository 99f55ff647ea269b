package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
)

// Layout of a message of the formats v0 and v1, which logs still hold that were
// written before Kafka 0.11 (KIP-32, KIP-98; big endian):
//
//	 0 offset      int64
//	 8 size        int32   (bytes that follow this field)
//	12 crc         uint32  CRC-32 of what follows it
//	16 magic       int8    0 or 1
//	17 attributes  int8    codec, and 0x08: the broker set the timestamp (v1)
//	18 timestamp   int64   only v1
//	.. key, value          each with an int32 length, -1 is null
//
// A message with a codec is a wrapper: its value is a compressed set of messages,
// its offset that of the last of them. Those of v0 have their own offsets, those of
// v1 count from an offset that follows from the wrapper's (KIP-31).
const (
	offSetSize  = 8
	offSetCRC   = 12
	offSetAttrs = 17
	offSetBody  = 18

	setOverhead = 12 // what size does not count
)

// noTimestamp is the timestamp of a record that has none, as those of format v0 have.
const noTimestamp = -1

// IsMessageSet says whether buf begins with a message of format v0 or v1, which
// [Next] refuses.
func IsMessageSet(buf []byte) bool {
	return len(buf) > offMagic && (buf[offMagic] == 0 || buf[offMagic] == 1)
}

// NextMessageSet splits messages of the formats v0 and v1 off buf and returns their
// records as an uncompressed batch of format v2 with the same offsets, holes included, and
// the codec that they had: one wrapper, or as many uncompressed messages as follow each
// other in most bytes, at least one. The batch's leader epoch is -1, its timestamps are
// those that a reader sees. Who writes it compresses it.
//
// Every checksum is verified: a new one would bless what was damaged. It returns
// [ErrPartial] when buf ends inside the first message, [ErrTooLarge] when a wrapper
// decompresses to more than limit bytes, and a *[CorruptError] for what cannot be
// right. The batch shares no memory with buf.
func NextMessageSet(buf []byte, most, limit int) (b Batch, codec Codec, rest []byte, err error) {
	m, rest, err := nextMessage(buf)
	if err != nil {
		return nil, None, buf, err
	}
	if m.codec() != None {
		b, err = m.unwrap(limit)
		return b, m.codec(), rest, err
	}
	records := []Record{m.record(m.offset)}
	for IsMessageSet(rest) {
		next, after, err := nextMessage(rest)
		if err != nil || next.codec() != None || len(buf)-len(after) > most || next.offset-m.offset > math.MaxInt32 {
			break // the next call tells
		}
		if last := records[len(records)-1].Offset; next.offset <= last {
			return nil, None, buf, &CorruptError{next.offset, fmt.Sprintf("it follows offset %d", last)}
		}
		records, rest = append(records, next.record(next.offset)), after
	}
	b, err = upgraded(records, records[len(records)-1].Offset)
	return b, None, rest, err
}

// message is one message of format v0 or v1. Key and value share the memory that it
// was read from.
type message struct {
	offset     int64
	magic      byte
	attributes byte
	timestamp  int64
	key, value []byte
}

func (m *message) codec() Codec     { return Codec(m.attributes & byte(attrCodec)) }
func (m *message) appendTime() bool { return m.attributes&byte(attrLogAppendTime) != 0 }

func (m *message) record(offset int64) Record {
	return Record{Offset: offset, Timestamp: m.timestamp, Key: m.key, Value: m.value}
}

func nextMessage(buf []byte) (m message, rest []byte, err error) {
	if len(buf) <= offMagic {
		return m, buf, ErrPartial
	}
	m = message{offset: int64(binary.BigEndian.Uint64(buf)), magic: buf[offMagic], timestamp: noTimestamp}
	corrupt := func(format string, args ...any) (message, []byte, error) {
		return m, buf, &CorruptError{m.offset, fmt.Sprintf(format, args...)}
	}
	if m.magic > 1 {
		return corrupt("magic %d, want 0 or 1", int8(m.magic))
	}
	size := int64(int32(binary.BigEndian.Uint32(buf[offSetSize:]))) + setOverhead
	if size < offSetBody {
		return corrupt("a message of %d bytes", size)
	}
	if int64(len(buf)) < size {
		return m, buf, ErrPartial
	}
	if crc32.ChecksumIEEE(buf[offMagic:size]) != binary.BigEndian.Uint32(buf[offSetCRC:]) {
		return corrupt("checksum does not match")
	}
	if m.offset < 0 {
		return corrupt("a negative offset")
	}
	m.attributes = buf[offSetAttrs]
	body := reader{buf: buf[offSetBody:size:size]}
	if m.magic == 1 {
		if t := body.take(8, "timestamp"); t != nil {
			m.timestamp = int64(binary.BigEndian.Uint64(t))
		}
	}
	m.key, m.value = body.sized("key"), body.sized("value")
	if fault := body.end(); fault != "" {
		return corrupt("%s", fault)
	}
	return m, buf[size:], nil
}

// sized reads bytes behind an int32 length; null is nil.
func (r *reader) sized(what string) []byte {
	n := r.take(4, what)
	if n == nil {
		return nil
	}
	length := int32(binary.BigEndian.Uint32(n))
	if length == -1 {
		return nil
	}
	return r.take(length, what)
}

// unwrap makes a batch of the messages in a wrapper.
func (m *message) unwrap(limit int) (Batch, error) {
	corrupt := func(format string, args ...any) error {
		return &CorruptError{m.offset, "compressed messages: " + fmt.Sprintf(format, args...)}
	}
	packed := m.value
	switch {
	case m.codec() > LZ4:
		return nil, corrupt("%v in a message of format v%d", m.codec(), m.magic)
	case m.codec() == LZ4 && m.magic == 0:
		packed = withFrameChecksum(packed)
	}
	plain, err := Decompress(m.codec(), packed, limit)
	if errors.Is(err, ErrTooLarge) {
		return nil, fmt.Errorf("messages up to offset %d: %w", m.offset, err)
	}
	if err != nil {
		return nil, corrupt("%v", err)
	}
	var records []Record
	for len(plain) > 0 {
		var in message
		if in, plain, err = nextMessage(plain); err != nil {
			return nil, corrupt("%v", err)
		}
		if in.magic != m.magic || in.codec() != None {
			return nil, corrupt("a message of format v%d, %v, in one of v%d", in.magic, in.codec(), m.magic)
		}
		if m.magic == 1 && m.appendTime() {
			in.timestamp = m.timestamp
		}
		records = append(records, in.record(in.offset))
	}
	if len(records) == 0 {
		return nil, corrupt("there are none")
	}
	if m.magic == 1 {
		first := m.offset - records[len(records)-1].Offset
		for i := range records {
			records[i].Offset += first
		}
	}
	last := int64(-1)
	for _, r := range records {
		if r.Offset <= last || r.Offset > m.offset {
			return nil, corrupt("offset %d after %d, in one of offset %d", r.Offset, last, m.offset)
		}
		last = r.Offset
	}
	if m.offset-records[0].Offset > math.MaxInt32 {
		return nil, corrupt("offsets %d to %d", records[0].Offset, m.offset)
	}
	return upgraded(records, m.offset)
}

// upgraded is a batch of records at their own offsets, which ascend, up to last.
func upgraded(records []Record, last int64) (Batch, error) {
	base := records[0].Offset
	plain, baseTime, maxTime := section(records, func(i int) int64 { return records[i].Offset - base })
	b, err := framed(plain, None)
	if err != nil {
		return nil, err
	}
	b.SetBaseOffset(base)
	seal(b, NoProducer(None), baseTime, maxTime, int32(len(records)), int32(last-base))
	return b, nil
}

// withFrameChecksum is an LZ4 frame whose descriptor has the checksum that the
// format wants. Kafka's clients computed that of format v0 over the magic number,
// too (KAFKA-3160), and nobody who reads them looks at it.
func withFrameChecksum(frame []byte) []byte {
	const magic, flags = 4, 4
	if len(frame) <= flags {
		return frame
	}
	size := magic + 2
	if frame[flags]&0x08 != 0 { // content size
		size += 8
	}
	if frame[flags]&0x01 != 0 { // dictionary
		size += 4
	}
	if len(frame) <= size {
		return frame
	}
	fixed := append([]byte(nil), frame...)
	fixed[size] = byte(shortXXH32(frame[magic:size]) >> 8)
	return fixed
}

// shortXXH32 is xxHash-32, seed 0, of less than 16 bytes, as LZ4's frame format has it.
func shortXXH32(b []byte) uint32 {
	const p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
	h := uint32(p5) + uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h+binary.LittleEndian.Uint32(b)*p3, 17) * p4
	}
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*p5, 11) * p1
	}
	h = (h ^ h>>15) * p2
	h = (h ^ h>>13) * p3
	return h ^ h>>16
}
