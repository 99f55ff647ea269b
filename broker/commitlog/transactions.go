package commitlog

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/internal/record"
)

// transactions is what holds the last stable offset back. It is a value: a reader
// keeps the one it has while the writer goes on with another.
type transactions struct {
	undecided int64 // where the oldest without a marker began, MaxInt64 if all have one
	settled   settledTxns
}

// settledTxns have a marker that may not be below the high watermark yet, by
// marker. Writers only append to it and cut its head.
type settledTxns []settledTxn

type settledTxn struct{ first, marker int64 }

// stable is the last stable offset for a high watermark.
func (t transactions) stable(highWatermark int64) int64 {
	stable := min(highWatermark, t.undecided)
	for _, s := range slices.Backward(t.settled) {
		if s.marker < highWatermark {
			break
		}
		stable = min(stable, s.first)
	}
	return stable
}

// add notes the marker of the transaction that began at first, and forgets those
// whose marker is below the high watermark.
func (s settledTxns) add(first, marker, highWatermark int64) settledTxns {
	s = append(s, settledTxn{first, marker})
	done := 0
	for done < len(s) && s[done].marker < highWatermark {
		done++
	}
	return s[done:]
}

// AbortedTxn is an aborted transaction as a fetch response lists it.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset int64
	LastOffset  int64 // of its marker
}

// OpenTxn is a transaction without a marker.
type OpenTxn struct {
	ProducerID    int64 `json:"producerId"`
	ProducerEpoch int16 `json:"producerEpoch"`
	FirstOffset   int64 `json:"firstOffset"`
}

// abortedTxn is an entry of the aborted-transaction index, in Kafka's layout. It
// is in the index of the segment that has the abort marker.
type abortedTxn struct {
	producerID  int64
	first, last int64 // last is the marker's offset
	stable      int64 // first offset still undecided after the marker
}

const abortedSize = 2 + 4*8

func appendAborted(buf []byte, a abortedTxn) []byte {
	buf = binary.BigEndian.AppendUint16(buf, 0)
	buf = binary.BigEndian.AppendUint64(buf, uint64(a.producerID))
	buf = binary.BigEndian.AppendUint64(buf, uint64(a.first))
	buf = binary.BigEndian.AppendUint64(buf, uint64(a.last))
	return binary.BigEndian.AppendUint64(buf, uint64(a.stable))
}

func decodeAborted(buf []byte) ([]abortedTxn, error) {
	if len(buf)%abortedSize != 0 {
		return nil, fmt.Errorf("%d bytes are not whole entries", len(buf))
	}
	out := make([]abortedTxn, 0, len(buf)/abortedSize)
	for ; len(buf) > 0; buf = buf[abortedSize:] {
		if v := binary.BigEndian.Uint16(buf); v != 0 {
			return nil, fmt.Errorf("entry version %d is not known", v)
		}
		out = append(out, abortedTxn{
			producerID: int64(binary.BigEndian.Uint64(buf[2:])),
			first:      int64(binary.BigEndian.Uint64(buf[10:])),
			last:       int64(binary.BigEndian.Uint64(buf[18:])),
			stable:     int64(binary.BigEndian.Uint64(buf[26:])),
		})
	}
	return out, nil
}

// overlapping picks from the aborted transactions of a log's segments, oldest
// first, those that overlap [from, upTo).
func overlapping(segments [][]abortedTxn, from, upTo int64) []AbortedTxn {
	var out []AbortedTxn
scan:
	for _, list := range segments {
		for _, a := range list {
			if a.last >= from && a.first < upTo {
				out = append(out, AbortedTxn{ProducerID: a.producerID, FirstOffset: a.first, LastOffset: a.last})
			}
			if a.stable >= upTo { // Whatever was aborted later began later.
				break scan
			}
		}
	}
	slices.SortStableFunc(out, func(a, b AbortedTxn) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	return out
}

const (
	attrTransactional = record.Attributes(0x10)
	attrControl       = record.Attributes(0x20)

	// markerLimit bounds a control batch's records: a marker takes about 20.
	markerLimit = 1 << 10
)

// encodeMarker builds the control batch of a marker.
func encodeMarker(m Marker, ms int64) (record.Batch, error) {
	key := []byte{0, 0, 0, 0} // version, type
	if m.Commit {
		key[3] = 1
	}
	value := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(m.CoordinatorEpoch))
	return record.Encode([]record.Record{{Timestamp: ms, Key: key, Value: value}}, record.Stamp{
		ProducerID: m.ProducerID, ProducerEpoch: m.ProducerEpoch, BaseSequence: -1,
		Attributes: attrTransactional | attrControl,
	})
}

var errNoMarker = errors.New("control batch ends no transaction")

// decodeMarker reads a control batch. Control records of other types, and
// batches that compaction emptied, are errNoMarker.
func decodeMarker(b record.Batch) (Marker, error) {
	if b.Count() == 0 {
		return Marker{}, errNoMarker
	}
	records, err := b.Decode(markerLimit)
	if err != nil {
		return Marker{}, fmt.Errorf("decode control batch: %w", err)
	}
	key, value := records[0].Key, records[0].Value
	if len(key) < 4 {
		return Marker{}, fmt.Errorf("%w: control record key of %d bytes", ErrInvalidBatch, len(key))
	}
	kind := binary.BigEndian.Uint16(key[2:])
	if kind > 1 {
		return Marker{}, errNoMarker
	}
	if len(value) < 6 {
		return Marker{}, fmt.Errorf("%w: marker of %d bytes", ErrInvalidBatch, len(value))
	}
	return Marker{
		ProducerID: b.ProducerID(), ProducerEpoch: b.ProducerEpoch(), Commit: kind == 1,
		CoordinatorEpoch: int32(binary.BigEndian.Uint32(value[2:])),
	}, nil
}
