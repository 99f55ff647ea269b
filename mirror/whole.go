package mirror

import (
	"errors"
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// leap is what a copy that preserves offsets passes over before its first batch:
// source offsets up to to, for a reason. Its zero value passes over nothing.
type leap struct {
	to  int64
	why ledger.Reason
}

// stageWhole makes chunks of a read_uncommitted fetch response: all of its whole
// batches as they are, control batches, aborted ones and those that compaction has
// emptied included, and what is missing between them as gaps. A chunk has what came
// to the source by one route. f.position is the source offset that comes next, which
// is where the mirror ends. With an error, a *BatchError or an *openQuestion, come the
// chunks before it. Transactions that are open begin at stable.
func stageWhole(f fetched, stable int64, over leap, lim limits) (chunks []chunk, next int64, err error) {
	s := wholeStager{over: over, lim: lim, stable: stable, c: newWhole(f.position)}
	for rest := f.records; len(rest) > 0 && err == nil; {
		var b record.Batch
		b, rest, err = record.Next(rest)
		switch {
		case errors.Is(err, record.ErrPartial):
			rest, err = nil, nil // by design: it comes with the next fetch
		case err != nil:
			err = &BatchError{s.c.next, "not a batch of format v2", orElse(preservable(f.records[len(f.records)-len(rest):]), err)}
		default:
			err = s.batch(b, f.records[:len(f.records)-len(rest)])
		}
	}
	s.close()
	return s.chunks, s.c.next, err
}

// preservable says why bytes of a source cannot be kept as they are.
func preservable(at []byte) error {
	if record.IsMessageSet(at) {
		return errOldFormat
	}
	return nil
}

func newWhole(from int64) chunk {
	return chunk{from: from, next: from, path: ledger.Raw, whole: true, leaderEpoch: -1}
}

type wholeStager struct {
	over   leap
	lim    limits
	stable int64
	chunks []chunk
	c      chunk // the present one
	begin  int   // of its bytes in the response
}

// close ends the present chunk, if there is anything in it.
func (s *wholeStager) close() {
	if s.c.next > s.c.from {
		s.chunks = append(s.chunks, s.c)
		s.c = newWhole(s.c.next)
	}
}

// batch adds a batch, which is the end of read.
func (s *wholeStager) batch(b record.Batch, read []byte) error {
	switch {
	case b.LastOffsetDelta() < 0 || b.BaseOffset() < 0:
		return &BatchError{s.c.next, fmt.Sprintf("claims offsets %d to %d", b.BaseOffset(), b.LastOffset()), nil}
	case b.NextOffset() <= s.c.next:
		return nil // fetched again because a fetch returns whole batches
	case b.BaseOffset() < s.c.next:
		return &BatchError{b.BaseOffset(), fmt.Sprintf("it goes up to %d, and the mirror ends within it, at %d", b.LastOffset(), s.c.next), nil}
	}
	if s.lim.verify {
		if err := b.Check(); err != nil {
			return &BatchError{b.BaseOffset(), "corrupt at the source", err}
		}
	}
	route, err := s.route(b)
	if err != nil {
		return err
	}
	if s.c.batch != nil && !slices.Equal(route, s.c.route) {
		s.close()
	}
	c := &s.c
	if c.batch == nil {
		s.begin, c.route = len(read)-len(b), route
		c.leapTo(min(b.BaseOffset(), s.over.to), s.over.why)
	}
	c.gap(b.BaseOffset(), ledger.Compacted)
	c.batch = read[s.begin:len(read):len(read)]
	if b.Count() == 0 { // what the cleaner keeps of a batch to remember its producer
		c.gap(b.NextOffset(), ledger.Compacted)
	} else {
		c.run(b)
	}
	c.leaderEpoch = b.LeaderEpoch()
	return nil
}

// route is how a batch had come to the source.
func (s *wholeStager) route(b record.Batch) (ledger.Route, error) {
	attrs := b.Attributes()
	if attrs.Control() || b.Count() == 0 {
		return s.c.route, nil // it has no records
	}
	q := question{b.BaseOffset(), b.ProducerID(), attrs.Transactional(), b.LastOffset() < s.stable}
	r, known := s.lim.origin.rule(q)
	if !known {
		return nil, &openQuestion{q}
	}
	return r.route, nil
}

// leapTo passes over what lies before to, where the mirror begins anew.
func (c *chunk) leapTo(to int64, why ledger.Reason) {
	if to > c.next {
		c.gap(to, why)
		c.anew = to
	}
}

// gap declares what lies before next as having no copy.
func (c *chunk) gap(next int64, why ledger.Reason) {
	if next > c.next {
		c.gaps = appendGap(c.gaps, c.next, next, why)
		c.next = next
	}
}

// run adds a batch that begins at next to the chunk's runs.
func (c *chunk) run(b record.Batch) {
	r := sourceRun{b.BaseOffset(), b.NextOffset() - b.BaseOffset(), b.SectionDigest()}
	if n := len(c.runs); n > 0 && c.runs[n-1].source+c.runs[n-1].count == r.source {
		c.runs[n-1].count += r.count
		c.runs[n-1].digest = c.runs[n-1].digest.Join(r.digest)
	} else {
		c.runs = append(c.runs, r)
	}
	c.next = b.NextOffset()
}

// leapChunk is a chunk of nothing but a leap: there is nothing behind it yet.
func leapChunk(from int64, over leap) chunk {
	c := newWhole(from)
	c.leapTo(over.to, over.why)
	return c
}
