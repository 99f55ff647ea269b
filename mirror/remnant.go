package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

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
	before  int64           // own ones that lie before records: doubled, too, if none of those is the copy's
	size    int             // bytes that were read
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
	// moment lies between. What lies beyond is not matched, and counts as doubled.
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
			t.doubled += int64(len(t.records)) + t.before
			t.records, t.before = nil, 0
			break
		}
		t.before = 0 // the copy began behind them
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
	conn, err := f.dialLeader(ctx, c.destination())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // it was only read from
	tail := logTail{
		fetch: func(from int64) (*kmsg.FetchResponseTopicPartition, error) {
			return readAt(ctx, conn, c.destination(), from, fetchBytes, readUncommitted)
		},
		own: func(pid int64) bool {
			known, plain := f.cfg.Origins.Replicator(f.destination.id, pid)
			return known && plain
		},
		maxDecode: lim.maxDecode,
	}
	if at.Destination < 0 { // it has begun, and no hop says where it wrote first
		err = t.readBack(tail, end)
	} else {
		err = t.read(tail, at.Destination)
	}
	if err != nil {
		return nil, fmt.Errorf("read what %v has behind the last hop: %w", c.destination(), err)
	}
	return t, nil
}

// logTail is how the end of a destination's log is read.
type logTail struct {
	fetch     func(from int64) (*kmsg.FetchResponseTopicPartition, error)
	own       func(pid int64) bool
	maxDecode int
}

// at fetches from an offset on, or from where the log begins by now.
func (t logTail) at(from int64) (*kmsg.FetchResponseTopicPartition, int64, error) {
	p, err := t.fetch(from)
	if errors.Is(err, kerr.OffsetOutOfRange) && p != nil && from < p.LogStartOffset {
		from = p.LogStartOffset // retention was faster
		p, err = t.fetch(from)
	}
	return p, from, err
}

// read reads what lies at and behind an offset.
func (t *remnant) read(tail logTail, from int64) error {
	for t.size < remnantBytes {
		p, at, err := tail.at(from)
		if err != nil {
			return err
		}
		t.end, t.size = p.HighWatermark, t.size+len(p.RecordBatches)
		if from, err = t.add(p.RecordBatches, at, tail.own, tail.maxDecode); err != nil {
			return err
		}
		if from == at || from >= t.end {
			break
		}
	}
	t.doubled += max(0, t.end-from) // nobody knows
	return nil
}

// readBack reads the end of a log, and counts what of replicators lies before that.
func (t *remnant) readBack(tail logTail, end int64) error {
	from := max(0, end-remnantRecords)
	if err := t.read(tail, from); err != nil {
		return err
	}
	for step := int64(remnantRecords); from > 0; step *= 4 {
		n, err := t.count(tail, max(0, from-step), from)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		t.before, from = t.before+n, max(0, from-step)
	}
	return nil
}

// count is the number of own records in [from, to), and of offsets there that it was
// too much to read.
func (t *remnant) count(tail logTail, from, to int64) (n int64, err error) {
	for from < to && t.size < remnantBytes {
		p, at, err := tail.at(from)
		if err != nil {
			return n, err
		}
		t.size += len(p.RecordBatches)
		from = at
		for rest := p.RecordBatches; len(rest) > 0 && from < to; {
			var b record.Batch
			if b, rest, err = record.Next(rest); errors.Is(err, record.ErrPartial) {
				break
			} else if err != nil {
				return n, err
			}
			if isOwn(b, tail.own) {
				n += min(int64(b.Count()), to-from)
			}
			from = max(from, b.NextOffset())
		}
		if from == at {
			return n, nil
		}
	}
	if n > 0 {
		n += max(0, to-from)
	}
	return n, nil
}

// isOwn says whether a batch may be a copy's: those in transactions, and those of other
// producers, are not.
func isOwn(b record.Batch, own func(pid int64) bool) bool {
	a := b.Attributes()
	return !a.Control() && !a.Transactional() && own(b.ProducerID())
}

// add takes what a fetch has brought from an offset on, and returns the next one.
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
		if !isOwn(b, own) {
			continue
		}
		records, err := b.Decode(maxDecode)
		if err != nil {
			return next, err
		}
		for i := range records {
			switch r := &records[i]; {
			case r.Offset < from:
			case len(t.records) == remnantRecords:
				t.doubled++
			default:
				var sum recordSum
				sum, form = sumOf(r, t.timeless, form)
				t.records = append(t.records, remnantRecord{r.Offset, sum})
			}
		}
	}
	return next, nil
}
