package commitlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/waybillhq/waybill/internal/record"
)

// Found is a record that was looked up by time.
type Found struct {
	Offset      int64
	Timestamp   int64 // milliseconds since 1970
	LeaderEpoch int32
}

// decodeLimit bounds what a batch may decompress to when a record in it is looked
// up by time.
const decodeLimit = 128 << 20

// reading lets fn read the log as it is at one moment. Files stay open, and what
// is in them does not change, until it returns.
func (l *Log) reading(fn func(v *view) error) error {
	l.files.RLock()
	defer l.files.RUnlock()
	if l.released { // Closed, or a truncation has failed half-way.
		return l.durable.failure()
	}
	return fn(l.view.Load())
}

// Read returns whole batches from the one that contains from (which may begin
// before it), as many as fit into maxBytes but at least one, all below upTo:
// the caller's high watermark or last stable offset. They may end at a segment's
// end, so a reader comes again. It returns nothing when from is at or above upTo,
// and ErrOffsetOutOfRange outside [StartOffset, EndOffset].
func (l *Log) Read(from int64, maxBytes int, upTo int64) (batches []byte, err error) {
	err = l.reading(func(v *view) error {
		batches, err = v.read(from, maxBytes, upTo)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read at %d: %w", from, err)
	}
	return batches, nil
}

func (v *view) read(from int64, maxBytes int, upTo int64) ([]byte, error) {
	if from < v.start || from > v.end() {
		return nil, fmt.Errorf("%w: the log has %d to %d", ErrOffsetOutOfRange, v.start, v.end())
	}
	if upTo = min(upTo, v.end()); from >= upTo {
		return nil, nil
	}
	// An offset in a gap may lie behind the last batch of its segment.
	for i := v.segmentOf(from); i < v.count(); i++ {
		x := v.extent(i)
		pos, err := x.find(from)
		if err != nil {
			return nil, err
		}
		if pos < x.size {
			return x.read(pos, maxBytes, upTo)
		}
	}
	return nil, nil
}

// read returns whole batches from a position on, below upTo.
func (x extent) read(pos int64, maxBytes int, upTo int64) ([]byte, error) {
	h := headers{x: x}
	first, next, err := h.batch(pos)
	if err != nil {
		return nil, err
	}
	if first.NextOffset() > upTo {
		return nil, nil
	}
	buf := make([]byte, max(next-pos, min(int64(maxBytes), x.size-pos)))
	if err := readFull(x.file, buf, pos); err != nil {
		return nil, err
	}
	whole, check := 0, x.unchecked.covers(pos, pos+int64(len(buf)))
	for rest := buf; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if errors.Is(err, record.ErrPartial) {
			break
		}
		if err == nil && check {
			err = b.Check()
		}
		if err != nil {
			return nil, x.damaged(pos+int64(whole), err.Error())
		}
		if b.NextOffset() > upTo {
			break
		}
		whole, rest = whole+len(b), after
	}
	if check {
		x.unchecked.checked(pos, pos+int64(whole))
	}
	return buf[:whole:whole], nil
}

// batchAt reads the whole batch at a position.
func (x extent) batchAt(pos, next int64) (record.Batch, error) {
	buf := make([]byte, next-pos)
	if err := readFull(x.file, buf, pos); err != nil {
		return nil, err
	}
	b, _, err := record.Next(buf)
	if err != nil {
		return nil, x.damaged(pos, err.Error())
	}
	return b, nil
}

// OffsetForTime finds the first record below upTo whose timestamp is at least
// ms milliseconds since 1970.
func (l *Log) OffsetForTime(ms, upTo int64) (found Found, ok bool, err error) {
	err = l.reading(func(v *view) error {
		for i := 0; i < v.count() && !ok; i++ {
			x := v.extent(i)
			if x.maxTime < ms || x.next <= v.start {
				continue
			}
			if found, ok, err = x.firstFrom(ms, v.start, upTo); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Found{}, false, fmt.Errorf("look up time %d: %w", ms, err)
	}
	return found, ok, nil
}

// firstFrom finds the first record in [start, upTo) with a timestamp of ms or
// later.
func (x extent) firstFrom(ms, start, upTo int64) (Found, bool, error) {
	from, err := x.findBefore(ms)
	if err != nil {
		return Found{}, false, err
	}
	pos, err := x.find(max(from, start))
	if err != nil {
		return Found{}, false, err
	}
	h := headers{x: x}
	for pos < x.size {
		b, next, err := h.batch(pos)
		if err != nil || b.BaseOffset() >= upTo {
			return Found{}, false, err
		}
		if b.MaxTimestamp() >= ms {
			found, ok, err := x.pick(pos, next, start, upTo, func(r record.Record) bool { return r.Timestamp >= ms })
			if ok || err != nil {
				return found, ok, err
			}
		}
		pos = next
	}
	return Found{}, false, nil
}

// findBefore is an offset below which no batch has a timestamp of ms or later.
func (x extent) findBefore(ms int64) (int64, error) {
	greatest, rel, err := x.before(ms)
	if err != nil || rel < 0 {
		return x.base, err
	}
	// An index has no checksum: the entry must fit the batch that it names.
	last := x.base + rel
	pos, err := x.find(last)
	if err != nil || pos == x.size {
		return x.base, err
	}
	h := headers{x: x}
	b, _, err := h.batch(pos)
	if err != nil {
		return 0, err
	}
	if b.LastOffset() != last || b.MaxTimestamp() != greatest {
		return x.base, nil
	}
	return last + 1, nil
}

// pick returns the first record of a batch in [start, upTo) that is wanted.
func (x extent) pick(pos, next, start, upTo int64, wanted func(record.Record) bool) (Found, bool, error) {
	b, err := x.batchAt(pos, next)
	if err != nil {
		return Found{}, false, err
	}
	records, err := b.Decode(decodeLimit)
	if err != nil {
		return Found{}, false, err
	}
	for _, r := range records {
		if r.Offset >= start && r.Offset < upTo && wanted(r) {
			return Found{Offset: r.Offset, Timestamp: r.Timestamp, LeaderEpoch: b.LeaderEpoch()}, true, nil
		}
	}
	return Found{}, false, nil
}

// MaxTimestamp finds the first record below upTo that has the greatest timestamp
// (KIP-734), as the batches' headers claim it.
func (l *Log) MaxTimestamp(upTo int64) (found Found, ok bool, err error) {
	err = l.reading(func(v *view) error {
		found, ok, err = v.maxTimestamp(min(upTo, v.end()))
		return err
	})
	if err != nil {
		return Found{}, false, fmt.Errorf("look up the greatest timestamp: %w", err)
	}
	return found, ok, nil
}

func (v *view) maxTimestamp(upTo int64) (Found, bool, error) {
	greatest, at, segment := int64(-1), int64(-1), -1
	for i := range v.count() {
		x := v.extent(i)
		ms, offset := x.maxTime, x.maxTimeAt
		if x.next <= v.start || x.base >= upTo || ms <= greatest {
			continue
		}
		if x.base < v.start || x.next > upTo {
			var err error
			if ms, offset, err = x.maxTimeWithin(v.start, upTo); err != nil {
				return Found{}, false, err
			}
		}
		if ms > greatest {
			greatest, at, segment = ms, offset, i
		}
	}
	if segment < 0 {
		return Found{}, false, nil
	}
	x := v.extent(segment)
	pos, err := x.find(at)
	if err != nil {
		return Found{}, false, err
	}
	h := headers{x: x}
	_, next, err := h.batch(pos)
	if err != nil {
		return Found{}, false, err
	}
	found, ok, err := x.pick(pos, next, v.start, upTo, func(r record.Record) bool { return r.Timestamp >= greatest })
	return found, ok, err
}

// maxTimeWithin is the greatest timestamp of the batches in [start, upTo), and
// the last offset of the first batch that has it; -1 if there is none.
func (x extent) maxTimeWithin(start, upTo int64) (ms, at int64, err error) {
	ms, at = -1, -1
	pos, err := x.find(start)
	if err != nil {
		return -1, -1, err
	}
	h := headers{x: x}
	for pos < x.size {
		b, next, err := h.batch(pos)
		if err != nil {
			return -1, -1, err
		}
		if b.NextOffset() > upTo {
			break
		}
		if b.MaxTimestamp() > ms && b.Count() > 0 {
			ms, at = b.MaxTimestamp(), b.LastOffset()
		}
		pos = next
	}
	return ms, at, nil
}

// verifyStep is how many bytes Verify reads while retention and truncation wait.
const verifyStep = 8 << 20

var errEnough = errors.New("enough for one step")

// Verify reads the log as it stands and checks every batch's checksum and place.
// It returns a *CorruptError for the first one that is damaged.
func (l *Log) Verify(ctx context.Context) error {
	at := l.StartOffset()
	for upTo := l.EndOffset(); at < upTo; {
		err := ctx.Err()
		if err == nil {
			err = l.reading(func(v *view) error {
				at, err = v.verify(max(at, v.start))
				return err
			})
		}
		if err != nil {
			return fmt.Errorf("verify log: %w", err)
		}
	}
	return nil
}

// verify checks some of the batches from an offset on, and returns where to go on.
func (v *view) verify(from int64) (next int64, err error) {
	i := v.segmentOf(from)
	x := v.extent(i)
	pos := int64(0)
	if from > x.base { // A look-up believes headers, so a whole segment is read from its beginning.
		if pos, err = x.find(from); err != nil {
			return from, err
		}
	}
	first, next := pos, from
	if pos == 0 {
		next = x.base
	}
	dense := !v.sparse && !x.cleaned
	stop, damage, err := scan(x.file, pos, x.size, x.base, false, func(at int64, b record.Batch) error {
		if at-first >= verifyStep {
			return errEnough
		}
		if dense && b.BaseOffset() != next && (at != first || at == 0 || b.BaseOffset() > next) {
			return &record.CorruptError{Offset: b.BaseOffset(), Reason: fmt.Sprintf("it should have offset %d", next)}
		}
		next = b.NextOffset()
		return checkEpoch(b, v.epochs, v.start)
	})
	if errors.Is(err, errEnough) {
		return next, nil
	}
	if err != nil {
		return from, err
	}
	if damage == nil && next != x.next && !x.cleaned {
		damage = fmt.Errorf("it ends at %d, want %d", next, x.next)
	}
	if damage != nil {
		return from, &CorruptError{File: fileName(x.base, logSuffix), Position: stop, Offset: next, Reason: damage.Error()}
	}
	x.unchecked.checked(first, x.size)
	if i+1 < v.count() { // Past any gap between the segments.
		next = v.extent(i + 1).base
	}
	return next, nil
}
