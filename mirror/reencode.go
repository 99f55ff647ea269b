package mirror

import (
	"errors"
	"fmt"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

var (
	// errRecordTooLarge says that a single record does not fit the destination.
	errRecordTooLarge = errors.New("a single record is larger than the destination takes")
	// errCorrupt says that a batch has another checksum than its bytes.
	errCorrupt = errors.New("corrupt at the source")
)

// reencode is the record path: it decodes a batch and builds from its records, at
// source offsets in [from, next), one dense batch or, where one would be too large
// for the destination, several. Timestamps become those that a reader of the source
// sees. Offsets without a record become gaps, and so do those of records that the
// flow's filter leaves out, or that cannot be copied and are put aside. A batch that
// may go as bytes, was only looked at and is fine, is left to travel so.
//
// The checksum is verified first: encoding again would bless flipped bits. With an
// error come the chunks of what lies before the fault.
func reencode(b sourceBatch, from, next int64, asBytes bool, lim limits) ([]chunk, error) {
	records, err := open(b.Batch, lim.maxDecode)
	if err != nil {
		return putBatchAside(b.Batch, from, next, lim, err)
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
	s := sieve{lim: lim, b: b, from: from}
	for i := range records {
		if err := s.sort(records[i]); err != nil {
			return s.chunks, err
		}
	}
	if asBytes && s.untouched(len(records)) {
		return []chunk{rawChunkOf(b.Batch)}, nil
	}
	return s.chunks, s.flush(next)
}

// open decodes a batch and checks that it says what a batch may say.
func open(b record.Batch, maxDecode int) ([]record.Record, error) {
	if err := checked(b); err != nil {
		return nil, err
	}
	records, err := b.Decode(maxDecode)
	if errors.Is(err, record.ErrTooLarge) {
		return nil, &BatchError{b.BaseOffset(), fmt.Sprintf("decompresses to more than %d bytes", maxDecode), err}
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
	return records, nil
}

// checked verifies a batch's checksum.
func checked(b record.Batch) error {
	if err := b.Check(); err != nil {
		return &BatchError{b.BaseOffset(), "its checksum is wrong", fmt.Errorf("%w: %w", errCorrupt, err)}
	}
	return nil
}

// sieve sorts the records of one batch, in their order, into those that are copied
// and those that are not. Records of a kind that follow each other make one chunk.
type sieve struct {
	lim    limits
	b      sourceBatch
	from   int64 // where the next chunk begins
	chunks []chunk

	kept     []record.Record
	aside    []poison
	size     int          // bytes of what is to be put aside
	filtered []ledger.Gap // since from
}

// asideBytes is when what is put aside makes a batch: small, since a batch is the
// one thing that a transaction cannot cut.
const asideBytes = 256 << 10

func (s *sieve) sort(r record.Record) error {
	yes, err := s.lim.rules.pass(s.lim.home, &r)
	if err == nil && !yes {
		s.filtered = appendGap(s.filtered, r.Offset, r.Offset+1, ledger.Filtered)
		return nil
	}
	out := r
	if err == nil {
		out, err = s.lim.rules.apply(s.lim.home, r)
	}
	if err == nil {
		err = s.lim.refusal(&out)
	}
	if err != nil {
		return s.reject(r, err)
	}
	if len(s.aside) > 0 {
		if err := s.flush(r.Offset); err != nil {
			return err
		}
	}
	s.kept = append(s.kept, out)
	return nil
}

// reject puts a record aside, or stops in front of it.
func (s *sieve) reject(r record.Record, why error) error {
	if len(s.kept) > 0 || len(s.aside) > 0 && s.size >= asideBytes {
		if err := s.flush(r.Offset); err != nil {
			return err
		}
	}
	if !s.lim.rules.aside() {
		if r.Offset > s.from {
			if err := s.flush(r.Offset); err != nil {
				return err
			}
		}
		return &BatchError{r.Offset, "a record cannot be copied", why}
	}
	s.aside = append(s.aside, poison{r, why.Error()})
	s.size += len(r.Key) + len(r.Value)
	return nil
}

// untouched says that all records pass, as they are.
func (s *sieve) untouched(records int) bool {
	return len(s.kept) == records && len(s.chunks) == 0 && !s.lim.rules.alter()
}

// flush makes chunks of what was sorted, up to an offset.
func (s *sieve) flush(next int64) error {
	var err error
	switch {
	case len(s.aside) > 0:
		var c chunk
		if c, err = s.asideChunk(s.aside, next); err == nil {
			s.chunks = append(s.chunks, c)
		}
	case len(s.kept) > 0:
		err = s.encode(s.kept, s.from, next)
	default:
		c := chunk{from: s.from, next: next, leaderEpoch: s.b.LeaderEpoch()}
		c.tile(nil, s.filtered)
		s.chunks = append(s.chunks, c)
	}
	s.from = next
	s.kept, s.aside, s.size, s.filtered = nil, nil, 0, nil
	return err
}

// encode encodes records, which lie in [from, next), into batches that the
// destination takes.
func (s *sieve) encode(records []record.Record, from, next int64) error {
	out, err := record.Encode(records, record.NoProducer(s.lim.rules.codecOf(s.b.codec)))
	if err != nil {
		return &BatchError{records[0].Offset, "cannot be encoded", err}
	}
	if len(out) <= s.lim.maxBatch {
		c := chunk{from: from, next: next, batch: out, path: ledger.Reencoded, leaderEpoch: s.b.LeaderEpoch(), own: len(out)}
		if s.lim.rules.alter() {
			c.path = ledger.Altered
		}
		c.tile(records, s.filtered)
		s.chunks = append(s.chunks, c)
		return nil
	}
	if len(records) == 1 {
		return s.oversize(records[0], len(out), from, next)
	}
	half := len(records) / 2
	cut := records[half].Offset
	if err := s.encode(records[:half], from, cut); err != nil {
		return err
	}
	return s.encode(records[half:], cut, next)
}

// oversize is a record that does not fit the destination, alone in [from, next).
func (s *sieve) oversize(r record.Record, size int, from, next int64) error {
	why := fmt.Errorf("%d bytes, the destination takes %d: %w", size, s.lim.maxBatch, errRecordTooLarge)
	if !s.lim.rules.aside() {
		if r.Offset > from {
			c := chunk{from: from, next: r.Offset, leaderEpoch: s.b.LeaderEpoch()}
			c.tile(nil, s.filtered)
			s.chunks = append(s.chunks, c)
		}
		return &BatchError{r.Offset, "a record cannot be copied", why}
	}
	s.from = from
	c, err := s.asideChunk([]poison{{r, why.Error()}}, next)
	if err == nil {
		s.chunks = append(s.chunks, c)
	}
	return err
}

// tile fills the chunk's range with the runs of records and, between them, gaps:
// those that are named, which are in order, and for the rest compacted ones.
func (c *chunk) tile(records []record.Record, named []ledger.Gap) {
	at := c.from
	for len(records) > 0 {
		named = c.hole(at, records[0].Offset, named)
		at = records[0].Offset
		n := 0
		for n < len(records) && records[n].Offset == at {
			n, at = n+1, at+1
		}
		c.runs = append(c.runs, sourceRun{at - int64(n), int64(n), record.CanonicalDigest(records[:n])})
		records = records[n:]
	}
	c.hole(at, c.next, named)
}

// hole declares [from, next), and returns the named gaps that lie behind it.
func (c *chunk) hole(from, next int64, named []ledger.Gap) []ledger.Gap {
	for len(named) > 0 && named[0].Source < next {
		g := named[0]
		named = named[1:]
		begin, end := max(g.Source, from), min(g.Source+g.Count, next)
		if begin >= end {
			continue
		}
		if begin > from {
			c.gaps = appendGap(c.gaps, from, begin, ledger.Compacted)
		}
		c.gaps = appendGap(c.gaps, begin, end, g.Reason)
		from = end
	}
	if from < next {
		c.gaps = appendGap(c.gaps, from, next, ledger.Compacted)
	}
	return named
}
