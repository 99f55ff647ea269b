package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Header is one header of a record. A nil Value is null, not empty.
type Header struct {
	Key   string
	Value []byte
}

// Record is one decoded record. A nil Key or Value is null, not empty.
type Record struct {
	Offset    int64
	Timestamp int64 // milliseconds since 1970
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Decode returns the records of a batch, whose records section may be at most
// limit bytes when decompressed. Keys and values share the decompressed (or the
// batch's own) memory. It does not verify the checksum.
func (b Batch) Decode(limit int) ([]Record, error) {
	plain, err := Decompress(b.Attributes().Codec(), b.Records(), limit)
	if err != nil {
		return nil, fmt.Errorf("batch at offset %d: %w", b.BaseOffset(), err)
	}
	// A record takes at least 7 bytes, so the claimed count cannot make us
	// allocate more than the bytes in hand justify.
	if int64(b.Count())*minRecord > int64(len(plain)) || b.Count() < 0 {
		return nil, &CorruptError{b.BaseOffset(), fmt.Sprintf("%d records in %d bytes", b.Count(), len(plain))}
	}
	baseTime := b.BaseTimestamp()
	records := make([]Record, 0, b.Count())
	r := reader{buf: plain}
	for range b.Count() {
		rec := r.record(b.BaseOffset(), baseTime)
		if r.bad != "" {
			return nil, &CorruptError{b.BaseOffset(), r.bad}
		}
		if b.Attributes().LogAppendTime() {
			rec.Timestamp = b.MaxTimestamp()
		}
		records = append(records, rec)
	}
	if len(r.buf) != 0 {
		return nil, &CorruptError{b.BaseOffset(), fmt.Sprintf("%d bytes after the last record", len(r.buf))}
	}
	return records, nil
}

const minRecord = 7

func (r *reader) record(baseOffset, baseTime int64) Record {
	body, o := r.begin()
	rec := Record{
		Timestamp: baseTime + o.TimestampDelta,
		Offset:    baseOffset + int64(o.OffsetDelta),
		Key:       body.bytes("key"),
		Value:     body.bytes("value"),
	}
	if n := body.headers(); n > 0 {
		rec.Headers = make([]Header, 0, min(n, 64))
		for range n {
			key := body.headerKey()
			rec.Headers = append(rec.Headers, Header{Key: string(key), Value: body.bytes("header value")})
			if body.bad != "" {
				break
			}
		}
	}
	r.bad = body.end()
	return rec
}

// Encode builds one dense batch of records, whose Offset fields it ignores: the
// batch starts at offset 0 and numbers them in order, as a producer's must. The
// stamp's codec is the compression.
func Encode(records []Record, s Stamp) (Batch, error) {
	if len(records) == 0 || len(records) > math.MaxInt32 {
		return nil, fmt.Errorf("encode batch of %d records", len(records))
	}
	plain, base, maxTime := section(records, func(i int) int64 { return int64(i) })
	b, err := framed(plain, s.Attributes.Codec())
	if err != nil {
		return nil, err
	}
	seal(b, s, base, maxTime, int32(len(records)), int32(len(records)-1))
	return b, nil
}

// section is the records one after the other, uncompressed, each at an offset delta.
func section(records []Record, delta func(i int) int64) (plain []byte, base, maxTime int64) {
	base, maxTime = records[0].Timestamp, records[0].Timestamp
	var body []byte
	for i, rec := range records {
		maxTime = max(maxTime, rec.Timestamp)
		body = append(body[:0], 0)
		body = binary.AppendVarint(body, rec.Timestamp-base)
		body = binary.AppendVarint(body, delta(i))
		body = appendBytes(body, rec.Key)
		body = appendBytes(body, rec.Value)
		body = binary.AppendVarint(body, int64(len(rec.Headers)))
		for _, h := range rec.Headers {
			body = binary.AppendVarint(body, int64(len(h.Key)))
			body = append(body, h.Key...)
			body = appendBytes(body, h.Value)
		}
		plain = binary.AppendVarint(plain, int64(len(body)))
		plain = append(plain, body...)
	}
	return plain, base, maxTime
}

// framed is a section, compressed, behind room for a header.
func framed(plain []byte, codec Codec) (Batch, error) {
	packed, err := Compress(codec, plain)
	if err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	if len(packed) > math.MaxInt32-HeaderSize {
		return nil, ErrTooLarge
	}
	return append(make(Batch, HeaderSize, HeaderSize+len(packed)), packed...), nil
}

// seal writes the header, but for the base offset, of a batch whose records section is
// in place.
func seal(b Batch, s Stamp, baseTime, maxTime int64, count, lastDelta int32) {
	binary.BigEndian.PutUint32(b[offLength:], uint32(len(b)-lengthOverhead))
	b.SetLeaderEpoch(-1)
	b[offMagic] = 2
	binary.BigEndian.PutUint16(b[offAttributes:], uint16(s.Attributes))
	binary.BigEndian.PutUint32(b[offLastDelta:], uint32(lastDelta))
	binary.BigEndian.PutUint64(b[offBaseTime:], uint64(baseTime))
	binary.BigEndian.PutUint64(b[offMaxTime:], uint64(maxTime))
	binary.BigEndian.PutUint64(b[offProducerID:], uint64(s.ProducerID))
	binary.BigEndian.PutUint16(b[offProdEpoch:], uint16(s.ProducerEpoch))
	binary.BigEndian.PutUint32(b[offBaseSeq:], uint32(s.BaseSequence))
	binary.BigEndian.PutUint32(b[offCount:], uint32(count))
	binary.BigEndian.PutUint32(b[offCRC:], crc32.Checksum(b[offAttributes:], castagnoli))
}

// NoProducer is the stamp of a batch without idempotence.
func NoProducer(codec Codec) Stamp {
	return Stamp{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, Attributes: Attributes(codec)}
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}
