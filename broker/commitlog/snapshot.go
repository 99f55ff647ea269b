package commitlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
)

// A producer snapshot (FORMAT.md draws it) is the state of all producers after
// every batch below its offset.
const (
	snapshotMagic   = "WBPS"
	snapshotVersion = 1
	snapshotHead    = 4 + 2 + 8 + 4
	snapshotEntry   = 8 + 2 + 4 + 8 + 8 + 1
	snapshotBatch   = 4 + 4 + 8 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *producers) encode(offset int64) []byte {
	buf := make([]byte, 0, snapshotHead+len(s.byID)*(snapshotEntry+snapshotBatch)+4)
	buf = append(buf, snapshotMagic...)
	buf = binary.BigEndian.AppendUint16(buf, snapshotVersion)
	buf = binary.BigEndian.AppendUint64(buf, uint64(offset))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(s.byID)))
	for _, id := range slices.Sorted(maps.Keys(s.byID)) {
		p := s.byID[id]
		buf = binary.BigEndian.AppendUint64(buf, uint64(id))
		buf = binary.BigEndian.AppendUint16(buf, uint16(p.epoch))
		buf = binary.BigEndian.AppendUint32(buf, uint32(p.coordinatorEpoch))
		buf = binary.BigEndian.AppendUint64(buf, uint64(p.txnStart))
		buf = binary.BigEndian.AppendUint64(buf, uint64(p.touched))
		buf = append(buf, byte(len(p.batches)))
		for _, b := range p.batches {
			buf = binary.BigEndian.AppendUint32(buf, uint32(b.firstSeq))
			buf = binary.BigEndian.AppendUint32(buf, uint32(b.lastSeq))
			buf = binary.BigEndian.AppendUint64(buf, uint64(b.baseOffset))
			buf = binary.BigEndian.AppendUint64(buf, uint64(b.lastOffset))
		}
	}
	return binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
}

// decodeProducers reads a snapshot and the offset that it stands for.
func decodeProducers(buf []byte, limit int) (s *producers, offset int64, err error) {
	if len(buf) < snapshotHead+4 || string(buf[:4]) != snapshotMagic {
		return nil, 0, errors.New("not a producer snapshot")
	}
	body, sum := buf[:len(buf)-4], binary.BigEndian.Uint32(buf[len(buf)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, 0, errors.New("checksum does not match")
	}
	if v := binary.BigEndian.Uint16(body[4:]); v != snapshotVersion {
		return nil, 0, fmt.Errorf("version %d is not known", v)
	}
	offset = int64(binary.BigEndian.Uint64(body[6:]))
	count := binary.BigEndian.Uint32(body[14:])
	s = newProducers(limit)
	body = body[snapshotHead:]
	for range count {
		if len(body) < snapshotEntry {
			return nil, 0, errors.New("entry is cut off")
		}
		p := &producer{
			id:               int64(binary.BigEndian.Uint64(body)),
			last:             -1,
			epoch:            int16(binary.BigEndian.Uint16(body[8:])),
			coordinatorEpoch: int32(binary.BigEndian.Uint32(body[10:])),
			txnStart:         int64(binary.BigEndian.Uint64(body[14:])),
			touched:          int64(binary.BigEndian.Uint64(body[22:])),
		}
		n := int(body[30])
		body = body[snapshotEntry:]
		if n > batchesKept || len(body) < n*snapshotBatch {
			return nil, 0, fmt.Errorf("%d batches in %d bytes", n, len(body))
		}
		for range n {
			p.batches = append(p.batches, producerBatch{
				firstSeq:   int32(binary.BigEndian.Uint32(body)),
				lastSeq:    int32(binary.BigEndian.Uint32(body[4:])),
				baseOffset: int64(binary.BigEndian.Uint64(body[8:])),
				lastOffset: int64(binary.BigEndian.Uint64(body[16:])),
			})
			body = body[snapshotBatch:]
		}
		s.byID[p.id] = p
	}
	if len(body) != 0 {
		return nil, 0, fmt.Errorf("%d bytes after the last entry", len(body))
	}
	s.restoreOpen()
	return s, offset, nil
}
