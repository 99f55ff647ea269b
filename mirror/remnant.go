package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// remnant is what a copy without transactions may have written behind its last hop: the
// records there of replicators without transactions, in order. Before anything is
// written, what comes next from the source is matched with it, record by record.
//
// What matches is the longest beginning of the source's next records that the tail
// has in this order. A record in between that the tail lacks, because its batch was
// refused and a later one taken, or because the destination's cleaner has removed it,
// ends the match: to step over it would be to lose it. What follows in the tail may
// then be there twice.
type remnant struct {
	records []remnantRecord // not matched yet
	end     int64           // of the destination's log when the tail was read
	doubled int64           // passed over: own, most likely, and not where they belong
	// timeless says that the destination stamps its own times: they say nothing.
	timeless bool
}

type remnantRecord struct {
	offset int64
	sum    recordSum
}

// recordSum tells records apart. Records are other people's, and one taken for
// another would be lost: so it is one that nobody can make collide.
type recordSum [16]byte

func sumOf(r *record.Record, timeless bool, form []byte) (recordSum, []byte) {
	at := r.Timestamp
	if timeless {
		r.Timestamp = 0
	}
	form = r.AppendCanonical(form[:0])
	r.Timestamp = at
	sum := sha256.Sum256(form)
	return recordSum(sum[:16]), form
}

const (
	// plainBytes is what a lane without transactions writes before it tells the
	// ledger: so much of it is matched after a crash.
	plainBytes = 16 << 20
	// remnantBytes and remnantRecords bound what is read of a tail, and kept. What a copy
	// has written behind its last hop lies right there; only what others wrote at that
	// moment lies between.
	remnantBytes   = 256 << 20
	remnantRecords = 256 << 10
)

// match finds records in the tail, each behind the one before it, and returns the
// destination offsets of as many of the first of them as it has.
func (t *remnant) match(sums []recordSum) []int64 {
	var at []int64
	for _, sum := range sums {
		i := slices.IndexFunc(t.records, func(r remnantRecord) bool { return r.sum == sum })
		if i < 0 {
			t.doubled += int64(len(t.records))
			t.records = nil
			break
		}
		at = append(at, t.records[i].offset)
		t.doubled += int64(i)
		t.records = t.records[i+1:]
	}
	return at
}

// split matches the batch of a chunk. It returns what the destination has, as
// pieces with their offsets there, and what is to be written: a chunk of the rest, or
// none if all is there. Without pieces the chunk is to be written as it
// is.
func (t *remnant) split(c *chunk, maxDecode int) (pieces []placed, rest []chunk) {
	if len(t.records) == 0 {
		return nil, nil
	}
	records, err := c.batch.Decode(maxDecode)
	if err != nil || int64(len(records)) != c.records() {
		return nil, nil // the destination will say what it thinks of it
	}
	var sums []recordSum
	var form []byte
	n := 0
	for _, run := range c.runs {
		for i := range run.count {
			r := &records[n]
			r.Offset = run.source + i
			var sum recordSum
			sum, form = sumOf(r, t.timeless, form)
			sums = append(sums, sum)
			n++
		}
	}
	at := t.match(sums)
	for i := 0; i < len(at); {
		j := i + 1
		for j < len(at) && at[j] == at[j-1]+1 {
			j++
		}
		next := c.next
		if j < len(records) {
			next = records[j].Offset
		}
		pieces = append(pieces, placed{chunk: c.part(records[i:j], next, i == 0), base: at[i]})
		i = j
	}
	if len(pieces) == 0 || len(at) == len(records) {
		return pieces, nil
	}
	left := records[len(at):] // fewer than fitted before
	k := c.part(left, c.next, false)
	if k.batch, err = record.Encode(left, record.NoProducer(c.batch.Attributes().Codec())); err != nil {
		return nil, nil
	}
	k.own = len(k.batch)
	return pieces, []chunk{k}
}

// part is a chunk of some records of c, up to next and without a batch: the first
// begins where c does. Its digest is that of the records, since the batches at the
// destination need not be those of now.
func (c *chunk) part(records []record.Record, next int64, first bool) chunk {
	k := chunk{from: records[0].Offset, next: next, path: max(c.path, ledger.Reencoded), route: c.route, leaderEpoch: c.leaderEpoch}
	if first {
		k.from = c.from
	}
	for i := 0; i < len(records); {
		j := i + 1
		for j < len(records) && records[j].Offset == records[j-1].Offset+1 {
			j++
		}
		k.runs = append(k.runs, sourceRun{records[i].Offset, int64(j - i), record.CanonicalDigest(records[i:j])})
		i = j
	}
	k.gaps = gapsWithin(c.gaps, k.from, k.next)
	return k
}

// gapsWithin is the part of gaps in [from, next).
func gapsWithin(gaps []ledger.Gap, from, next int64) []ledger.Gap {
	var within []ledger.Gap
	for _, g := range gaps {
		if a, b := max(g.Source, from), min(g.Source+g.Count, next); a < b {
			within = appendGap(within, a, b, g.Reason)
		}
	}
	return within
}

// readRemnant reads what lies behind a copy's last hop. The ledger has been read: it
// knows every producer of a replicator that has written there.
func (f *flowRun) readRemnant(ctx context.Context, c *copier, at Position, lim limits) (*remnant, error) {
	t := &remnant{timeless: lim.appendTime}
	end, known := f.settings.end(c.destination())
	if !known {
		return nil, fmt.Errorf("where %v ends is not known", c.destination())
	}
	from := at.Destination
	if from < 0 { // it has begun, and no hop says where it wrote first: at the end of then
		from = max(0, end-remnantRecords)
	}
	conn, err := f.dialLeader(ctx, c.destination())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // it was only read from
	for size := 0; size < remnantBytes && len(t.records) < remnantRecords; {
		p, err := readAt(ctx, conn, c.destination(), from, fetchBytes, readUncommitted)
		if errors.Is(err, kerr.OffsetOutOfRange) && p != nil && from < p.LogStartOffset {
			from = p.LogStartOffset // retention was faster
			continue
		}
		if err != nil {
			return nil, err
		}
		t.end = p.HighWatermark
		next, err := t.add(p.RecordBatches, from, func(pid int64) bool {
			known, plain := f.cfg.Origins.Replicator(f.destination.id, pid)
			return known && plain
		}, lim.maxDecode)
		if err != nil {
			return nil, fmt.Errorf("read what %v has behind the last hop: %w", c.destination(), err)
		}
		if next == from {
			break
		}
		from, size = next, size+len(p.RecordBatches)
		if from >= t.end {
			break
		}
	}
	return t, nil
}

// add takes what a fetch has brought from an offset on, and returns the next one.
// Batches in transactions, and those of other producers, are not the copy's.
func (t *remnant) add(batches []byte, from int64, own func(pid int64) bool, maxDecode int) (next int64, err error) {
	next = from
	var form []byte
	for len(batches) > 0 {
		var b record.Batch
		b, batches, err = record.Next(batches)
		if errors.Is(err, record.ErrPartial) {
			break
		}
		if err != nil {
			return next, err
		}
		if b.NextOffset() <= from {
			continue
		}
		next = b.NextOffset()
		if a := b.Attributes(); a.Control() || a.Transactional() || !own(b.ProducerID()) {
			continue
		}
		records, err := b.Decode(maxDecode)
		if err != nil {
			return next, err
		}
		for i := range records {
			if r := &records[i]; r.Offset >= from && len(t.records) < remnantRecords {
				var sum recordSum
				sum, form = sumOf(r, t.timeless, form)
				t.records = append(t.records, remnantRecord{r.Offset, sum})
			}
		}
	}
	return next, nil
}
