package record

import (
	"encoding/binary"
	"hash/crc32"
)

// Digest is the CRC-32C of a run of bytes together with their number, so that
// the digest of two runs in a row follows from theirs. The zero Digest is that
// of no bytes.
type Digest struct {
	CRC    uint32
	Length int64
}

// Join is the digest of d's bytes followed by next's.
func (d Digest) Join(next Digest) Digest {
	return Digest{CombineCRC(d.CRC, next.CRC, next.Length), d.Length + next.Length}
}

// SectionDigest is the digest of the batch's records section, derived from the
// batch's checksum without reading the records. It is right only if the batch's
// checksum is.
func (b Batch) SectionDigest() Digest {
	return Digest{b.RecordsCRC(), int64(len(b) - HeaderSize)}
}

// CanonicalDigest is the digest of records in canonical form, one after the
// other. It is the same for equal records whatever batches, codecs and offsets
// they travel in, so it compares what was encoded again on its way.
//
// The canonical form of a record, big endian, where bytes are a length i32 (-1:
// null) and so many bytes:
//
//	timestamp ms i64 │ key bytes │ value bytes │ headers: count i32, each key bytes, value bytes
func CanonicalDigest(records []Record) Digest {
	var d Digest
	var form []byte
	for i := range records {
		form = records[i].AppendCanonical(form[:0])
		d.CRC = crc32.Update(d.CRC, castagnoli, form)
		d.Length += int64(len(form))
	}
	return d
}

// AppendCanonical appends the canonical form of a record, which is that of
// [CanonicalDigest]: two records are equal exactly if theirs are.
func (r *Record) AppendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Timestamp))
	b = appendSized(b, r.Key, r.Key == nil)
	b = appendSized(b, r.Value, r.Value == nil)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Headers)))
	for _, h := range r.Headers {
		b = appendSized(b, []byte(h.Key), false)
		b = appendSized(b, h.Value, h.Value == nil)
	}
	return b
}

func appendSized(b, field []byte, null bool) []byte {
	if null {
		return binary.BigEndian.AppendUint32(b, 0xffffffff)
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(field))), field...)
}
