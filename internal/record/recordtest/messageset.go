package recordtest

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/waybillhq/waybill/internal/record"
)

// AppendTime is the attribute of a message whose timestamp its broker has set.
const AppendTime = 0x08

// Message is a message of format magic, 0 or 1. Of format v0 the timestamp is left
// out.
func Message(magic, attributes byte, r record.Record) []byte {
	body := []byte{magic, attributes}
	if magic == 1 {
		body = binary.BigEndian.AppendUint64(body, uint64(r.Timestamp))
	}
	body = sized(sized(body, r.Key), r.Value)
	b := binary.BigEndian.AppendUint64(nil, uint64(r.Offset))
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(body))
	return append(b, body...)
}

func sized(b, v []byte) []byte {
	if v == nil {
		return binary.BigEndian.AppendUint32(b, 0xffffffff)
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

// Wrapper is a compressed message that holds others, as a broker has it in its log:
// those of v0 with their own offsets, those of v1 with offsets that count from the
// first. The wrapper has the offset of the last one.
func Wrapper(magic byte, codec record.Codec, attributes byte, records ...record.Record) []byte {
	var set []byte
	latest := int64(-1)
	for _, r := range records {
		latest = max(latest, r.Timestamp)
		if magic == 1 {
			r.Offset -= records[0].Offset
		}
		set = append(set, Message(magic, 0, r)...)
	}
	packed, err := record.Compress(codec, set)
	if err != nil {
		panic(err)
	}
	if magic == 0 && codec == record.LZ4 {
		// Nobody who wrote such frames had the checksum right that follows the frame's
		// magic number, flags and block size (KAFKA-3160).
		packed[6] ^= 0x55
	}
	last := records[len(records)-1].Offset
	return Message(magic, byte(codec)|attributes, record.Record{Offset: last, Timestamp: latest, Value: packed})
}
