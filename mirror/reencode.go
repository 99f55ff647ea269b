package mirror

import (
	"errors"
	"fmt"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// errRecordTooLarge says that a single record does not fit the destination.
var errRecordTooLarge = errors.New("a single record is larger than the destination takes")

// reencode is the record path: it decodes a batch and builds from its records,
// at source offsets in [from, next), one dense batch or, where one would be too
// large for the destination, several. Timestamps become those that a reader
// of the source sees. Offsets without a record become gaps.
//
// The checksum is verified first: encoding again would bless flipped bits.
func reencode(b record.Batch, from, next int64, lim limits) ([]chunk, error) {
	if err := b.Check(); err != nil {
		return nil, &BatchError{b.BaseOffset(), "corrupt at the source", err}
	}
	records, err := b.Decode(lim.maxDecode)
	if errors.Is(err, record.ErrTooLarge) {
		return nil, &BatchError{b.BaseOffset(), fmt.Sprintf("decompresses to more than %d bytes", lim.maxDecode), err}
	}
	if err != nil {
		return nil, &BatchError{b.BaseOffset(), "cannot be decoded", err}
	}
	last := b.BaseOffset() - 1
	for _, r := range records {
		if r.Offset <= last || r.Offset > b.LastOffset() {
			return nil, &BatchError{b.BaseOffset(), fmt.Sprintf("holds offset %d after %d", r.Offset, last), nil}
		}
		last = r.Offset
	}
	for len(records) > 0 && records[0].Offset < from {
		records = records[1:]
	}
	for len(records) > 0 && records[len(records)-1].Offset >= next {
		records = records[:len(records)-1]
	}
	if len(records) == 0 { // only a compacted stretch of the batch is left
		return []chunk{gapChunk(from, next, ledger.Compacted, b.LeaderEpoch())}, nil
	}
	return encodeWithin(records, from, next, b, lim.maxBatch)
}

// encodeWithin encodes records, which lie in [from, next), into batches of at
// most maxBatch bytes.
func encodeWithin(records []record.Record, from, next int64, b record.Batch, maxBatch int) ([]chunk, error) {
	out, err := record.Encode(records, record.NoProducer(b.Attributes().Codec()))
	if err != nil {
		return nil, &BatchError{records[0].Offset, "cannot be encoded", err}
	}
	if len(out) <= maxBatch {
		c := chunk{from: from, next: next, batch: out, path: ledger.Reencoded, leaderEpoch: b.LeaderEpoch(), own: len(out)}
		c.tile(records)
		return []chunk{c}, nil
	}
	if len(records) == 1 {
		return nil, &BatchError{records[0].Offset, fmt.Sprintf("%d bytes, the destination takes %d", len(out), maxBatch), errRecordTooLarge}
	}
	half := len(records) / 2
	cut := records[half].Offset
	chunks, err := encodeWithin(records[:half], from, cut, b, maxBatch)
	if err != nil {
		return nil, err
	}
	rest, err := encodeWithin(records[half:], cut, next, b, maxBatch)
	return append(chunks, rest...), err
}

// tile fills the chunk's range with the runs of records and, between them, gaps.
func (c *chunk) tile(records []record.Record) {
	at := c.from
	for len(records) > 0 {
		if first := records[0].Offset; first > at {
			c.gaps = appendGap(c.gaps, at, first, ledger.Compacted)
			at = first
		}
		n := 0
		for n < len(records) && records[n].Offset == at {
			n, at = n+1, at+1
		}
		c.runs = append(c.runs, sourceRun{at - int64(n), int64(n), record.CanonicalDigest(records[:n])})
		records = records[n:]
	}
	if at < c.next {
		c.gaps = appendGap(c.gaps, at, c.next, ledger.Compacted)
	}
}
