package mirror

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// fetched is what one read_committed fetch response says about one partition.
type fetched struct {
	position int64  // the source offset that comes next
	records  []byte // batches one after the other; the last may be cut off
	aborted  []abortedTxn
}

// abortedTxn says that the transactional batches of a producer, from an offset
// to the next marker of that producer, were aborted.
type abortedTxn struct{ producerID, firstOffset int64 }

// limits are what the destination takes and what we are willing to decode.
type limits struct {
	maxBatch   int  // destination's max.message.bytes, bytes of one batch
	appendTime bool // the destination stamps its own time on records
	verify     bool // check the checksum of batches that travel as bytes, too
	maxDecode  int  // bytes of one decompressed batch

	origin *provenance // decides what is not to be copied; nil: nothing
	// What a broker refuses: records without a key, or with a time in milliseconds
	// before now-before or after now+after. 0: no bound.
	compacted          bool
	now, before, after int64

	careful bool  // look at each record: the destination has refused one
	suspect int64 // offset of a batch that was corrupt when it was last fetched, -1

	rules *rules
	home  home
}

// chunk is a stretch of source offsets and what becomes of it: one batch to
// write, or nothing but gaps. Chunks of a partition follow each other without a
// hole: next of one is from of the following.
type chunk struct {
	from, next int64
	batch      record.Batch // nil: only gaps
	path       ledger.Path
	route      ledger.Route // by which the batch's records had come to the source
	runs       []sourceRun  // what the batch's records are, in its order
	gaps       []ledger.Gap

	leaderEpoch int32 // of the source's leader when it appended what is at next-1, -1 if not known
	// whole: of a copy that preserves offsets. batch is then any number of batches
	// one after the other, with the offsets that they have. anew is where the
	// mirror begins again before them, 0 if it goes on.
	whole bool
	anew  int64
	// aside says that batch goes to the quarantine topic: it has no runs then.
	aside *putAside

	own  int // bytes that this chunk holds besides those of its response
	size int // bytes of the batch as written, once it is written
}

// sourceRun is a stretch of source offsets with one record each.
type sourceRun struct {
	source, count int64
	digest        record.Digest
}

// records is the number of records in the chunk's batch.
func (c *chunk) records() int64 {
	var n int64
	for _, r := range c.runs {
		n += r.count
	}
	return n
}

// BatchError says that a batch at the source cannot be copied.
type BatchError struct {
	Offset int64
	Reason string
	Err    error // may be nil
}

func (e *BatchError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("source batch at offset %d: %s", e.Offset, e.Reason)
	}
	return fmt.Sprintf("source batch at offset %d: %s: %v", e.Offset, e.Reason, e.Err)
}

func (e *BatchError) Unwrap() error { return e.Err }

// stage turns a fetch response into chunks, in order and without a hole from
// f.position to next. Batches that may travel as bytes share f's memory and are
// as yet unpatched. With an error, a *BatchError or an *openQuestion, come the
// chunks before it.
func stage(f fetched, lim limits) (chunks []chunk, next int64, err error) {
	chunks, next, err = stageBatches(f, lim)
	return coalesce(chunks, lim), next, err
}

func stageBatches(f fetched, lim limits) (chunks []chunk, next int64, err error) {
	s := stager{next: f.position, lim: lim, aborts: newAborts(f.aborted)}
	for rest := f.records; len(rest) > 0; {
		var b sourceBatch
		if record.IsMessageSet(rest) {
			b.made = true
			b.Batch, b.codec, rest, err = record.NextMessageSet(rest, min(mergedBatch, lim.maxBatch), lim.maxDecode)
		} else if b.Batch, rest, err = record.Next(rest); err == nil {
			b.codec = b.Attributes().Codec()
		}
		if errors.Is(err, record.ErrPartial) {
			break // by design: the rest comes with the next fetch
		}
		if err != nil {
			return s.chunks, s.next, &BatchError{s.next, "cannot be read", fmt.Errorf("%w: %w", errNotAside, err)}
		}
		if err := s.batch(b); err != nil {
			return s.chunks, s.next, err
		}
	}
	return s.chunks, s.next, nil
}

type stager struct {
	next   int64
	lim    limits
	aborts aborts
	chunks []chunk
}

// sourceBatch is a batch, and how its records were compressed at the source: one that was
// made of messages of format v0 or v1 is not compressed.
type sourceBatch struct {
	record.Batch
	codec record.Codec
	made  bool
}

// batch stages a batch.
func (s *stager) batch(b sourceBatch) error {
	if b.LastOffsetDelta() < 0 || b.BaseOffset() < 0 {
		return &BatchError{s.next, fmt.Sprintf("claims offsets %d to %d", b.BaseOffset(), b.LastOffset()), errNotAside}
	}
	kind, err := s.aborts.classify(b.Batch)
	if err != nil {
		return err
	}
	if b.NextOffset() <= s.next {
		return nil // fetched again because a fetch returns whole batches
	}
	if b.BaseOffset() > s.next {
		s.gap(b.BaseOffset(), ledger.Compacted, b.LeaderEpoch())
	}
	switch {
	case kind != 0:
		s.gap(b.NextOffset(), kind, b.LeaderEpoch())
		return nil
	case b.Count() == 0: // what the cleaner keeps of a batch to remember its producer
		s.gap(b.NextOffset(), ledger.Compacted, b.LeaderEpoch())
		return nil
	}
	for s.next < b.NextOffset() { // once, but for a batch of records from different places
		q := question{offset: s.next, producerID: b.ProducerID(), transactional: b.Attributes().Transactional(), decided: true}
		r, known := s.lim.origin.rule(q)
		if !known {
			return &openQuestion{q}
		}
		if err := s.copy(b, min(r.next, b.NextOffset()), r); err != nil {
			return err
		}
	}
	return nil
}

// copy does as a ruling says with the records of a batch in [s.next, next).
func (s *stager) copy(b sourceBatch, next int64, r ruling) error {
	if r.skip != 0 {
		s.gap(next, r.skip, b.LeaderEpoch())
		return nil
	}
	asBytes := !b.made && next == b.NextOffset() && !needsRecordPath(b.Batch, s.next, s.lim)
	if !asBytes || s.lim.careful || s.lim.rules.look() {
		chunks, err := reencode(b, s.next, next, asBytes, s.lim)
		for i := range chunks {
			chunks[i].route = r.route
		}
		s.chunks = append(s.chunks, chunks...)
		if n := len(chunks); n > 0 {
			s.next = chunks[n-1].next
		}
		return err
	}
	if s.lim.verify {
		if err := checked(b.Batch); err != nil {
			chunks, err := putBatchAside(b.Batch, s.next, b.NextOffset(), s.lim, err)
			s.chunks = append(s.chunks, chunks...)
			if err == nil {
				s.next = b.NextOffset()
			}
			return err
		}
	}
	c := rawChunkOf(b.Batch)
	c.route = r.route
	s.chunks = append(s.chunks, c)
	s.next = next
	return nil
}

// rawChunkOf is a whole batch that travels as bytes.
func rawChunkOf(b record.Batch) chunk {
	return chunk{
		from: b.BaseOffset(), next: b.NextOffset(), batch: b, path: ledger.Raw, leaderEpoch: b.LeaderEpoch(),
		runs: []sourceRun{{b.BaseOffset(), int64(b.Count()), b.SectionDigest()}},
	}
}

// gap declares [s.next, next) as having no copy.
func (s *stager) gap(next int64, why ledger.Reason, leaderEpoch int32) {
	if n := len(s.chunks); n > 0 && s.chunks[n-1].batch == nil {
		last := &s.chunks[n-1]
		last.gaps = appendGap(last.gaps, s.next, next, why)
		last.next, last.leaderEpoch = next, leaderEpoch
	} else {
		s.chunks = append(s.chunks, gapChunk(s.next, next, why, leaderEpoch))
	}
	s.next = next
}

func gapChunk(from, next int64, why ledger.Reason, leaderEpoch int32) chunk {
	return chunk{from: from, next: next, gaps: appendGap(nil, from, next, why), leaderEpoch: leaderEpoch}
}

// appendGap adds [from, next) to gaps that end at or before from.
func appendGap(gaps []ledger.Gap, from, next int64, why ledger.Reason) []ledger.Gap {
	if n := len(gaps); n > 0 && gaps[n-1].Reason == why && gaps[n-1].Source+gaps[n-1].Count == from {
		gaps[n-1].Count += next - from
		return gaps
	}
	return append(gaps, ledger.Gap{Source: from, Count: next - from, Reason: why})
}

// needsRecordPath says whether a broker would refuse the batch's bytes, or would
// make other records of them.
func needsRecordPath(b record.Batch, next int64, lim limits) bool {
	switch {
	case b.BaseOffset() < next: // resume in mid-batch
		return true
	case !b.Dense(): // compacted: brokers refuse holes from clients
		return true
	case b.Attributes().LogAppendTime() && !lim.appendTime:
		// The deltas in the records are not the times that readers of the source
		// see, and a CreateTime destination would show them.
		return true
	case lim.rules.codecOf(b.Attributes().Codec()) != b.Attributes().Codec():
		return true
	}
	return len(b) > lim.maxBatch
}

// aborts follows the aborted transactions of one fetch response. A response
// lists each that overlaps it, in no promised order.
type aborts struct {
	coming []abortedTxn // by first offset
	open   map[int64]bool
}

func newAborts(list []abortedTxn) aborts {
	coming := slices.Clone(list)
	slices.SortStableFunc(coming, func(a, b abortedTxn) int { return cmp.Compare(a.firstOffset, b.firstOffset) })
	return aborts{coming: coming, open: map[int64]bool{}}
}

// classify says whether a batch is a marker or was aborted, or returns 0 for one
// that is to be copied. It must see every batch of the response in order.
func (a *aborts) classify(b record.Batch) (ledger.Reason, error) {
	for len(a.coming) > 0 && a.coming[0].firstOffset <= b.LastOffset() {
		a.open[a.coming[0].producerID] = true
		a.coming = a.coming[1:]
	}
	attrs := b.Attributes()
	if attrs.Control() {
		if a.open[b.ProducerID()] {
			abort, err := isAbortMarker(b)
			if err != nil {
				return 0, err
			}
			if abort {
				delete(a.open, b.ProducerID())
			}
		}
		return ledger.Control, nil
	}
	if attrs.Transactional() && a.open[b.ProducerID()] {
		return ledger.Aborted, nil
	}
	return 0, nil
}

// isAbortMarker reads the type of a transaction marker: the key of its record is
// a version and a type, 0 for abort and 1 for commit (KIP-98).
func isAbortMarker(b record.Batch) (bool, error) {
	if b.Count() == 0 {
		return false, nil // the cleaner has emptied it, and so what it ended is gone
	}
	records, err := b.Decode(maxMarker)
	if err != nil {
		return false, &BatchError{b.BaseOffset(), "marker cannot be read", err}
	}
	if len(records) != 1 || len(records[0].Key) < 4 {
		return false, &BatchError{b.BaseOffset(), "marker is not one record with a type", nil}
	}
	return binary.BigEndian.Uint16(records[0].Key[2:]) == 0, nil
}

const maxMarker = 4 << 10
