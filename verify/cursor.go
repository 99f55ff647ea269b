package verify

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/waybillhq/waybill/internal/record"
)

// Reader reads one partition as a read_committed consumer does.
type Reader interface {
	// Fetch returns batches from the one that holds offset on, at most limit bytes
	// of them but always a whole one (KIP-74), or none where there are no more, and
	// where an offset below the log start is asked for.
	Fetch(ctx context.Context, offset int64, limit int) (Answer, error)
	// Bounds are the partition's, without records.
	Bounds(ctx context.Context) (Answer, error)
}

// Answer is what a broker says about a partition.
//
//	Start <= Stable <= End
type Answer struct {
	Start, Stable, End int64  // log start, last stable offset, high watermark
	Records            []byte // batches, the last may be cut off
	Aborted            []Aborted
}

// Aborted says that the transactional batches of a producer, from an offset to its
// next marker, were aborted.
type Aborted struct{ ProducerID, FirstOffset int64 }

// cursor goes over the records of one partition that a read_committed consumer
// would get, in order and never back.
type cursor struct {
	reader    Reader
	maxDecode int

	asked              bool  // the bounds are known
	start, stable, end int64 // as in Answer
	next               int64 // fetched up to here
	pieces             []*piece

	exact bool    // batches of all kinds are noted in seen
	seen  []frame // in order
}

// piece is a batch of committed data, or one that is damaged, which may have been
// anything.
type piece struct {
	record.Batch
	next     int64 // first offset after it, also where its header cannot be believed
	damage   error // its checksum is wrong, or it cannot be taken apart
	tooLarge bool  // it decompresses to more than the limit
	counted  bool  // in Tally.Bytes

	// Once it is opened its records are pulled one by one; now is the last of them.
	opened bool
	pull   record.Puller
	now    record.Record
}

// head is the first readable record at or after an offset, as a piece and a place
// in it; ok is false if there is none below the last stable offset.
type head struct {
	*piece
	offset int64
	// record is nil while the piece was not opened: it stands at its first record
	// then. It stays nil if the piece is damaged or too large. It holds until the
	// next call of the cursor.
	record *record.Record
}

// shows says whether all below an offset can be read, or never will be: it is false
// while a transaction is open that holds it back.
func (c *cursor) shows(ctx context.Context, offset int64) (bool, error) {
	if c.asked && c.stable >= offset {
		return true, nil
	}
	a, err := c.reader.Bounds(ctx)
	if err != nil {
		return false, err
	}
	c.asked = true
	c.start, c.stable, c.end = max(c.start, a.Start), a.Stable, a.End
	return a.Stable >= offset || a.End < offset, nil
}

// head finds the first readable record at or after offset. Offsets that it is asked
// for must not go back.
func (c *cursor) head(ctx context.Context, offset int64) (h head, ok bool, err error) {
	for {
		for len(c.pieces) > 0 {
			p := c.pieces[0]
			if p.next > offset {
				if h, ok := c.in(p, offset); ok {
					return h, true, nil
				}
			}
			c.pieces = c.pieces[1:]
		}
		if c.asked && max(offset, c.next) >= c.stable {
			return head{}, false, nil
		}
		if err := c.fetch(ctx, max(offset, c.next)); err != nil {
			return head{}, false, err
		}
	}
}

// in is the first record of a piece at or after offset.
func (c *cursor) in(p *piece, offset int64) (head, bool) {
	if p.damage == nil && !p.tooLarge && !p.opened && offset <= p.BaseOffset() && p.Dense() {
		return head{piece: p, offset: p.BaseOffset()}, true // as bytes, as long as that will do
	}
	p.open(c.maxDecode)
	if p.damage != nil || p.tooLarge {
		return head{piece: p, offset: max(offset, p.BaseOffset())}, true
	}
	for p.now.Offset < offset {
		var ok bool
		if p.now, ok = p.pull.Next(); !ok {
			p.now.Offset = p.next
			return head{}, false
		}
	}
	return head{piece: p, offset: p.now.Offset, record: &p.now}, p.now.Offset < p.next
}

// open takes apart what head left as bytes.
func (c *cursor) open(h head) head {
	if h.record == nil {
		if opened, ok := c.opened(h); ok {
			return opened
		}
	}
	return h
}

func (c *cursor) opened(h head) (head, bool) {
	h.piece.open(c.maxDecode)
	if h.damage != nil || h.tooLarge {
		return h, true
	}
	return c.in(h.piece, h.offset)
}

func (p *piece) open(limit int) {
	if p.opened || p.damage != nil || p.tooLarge {
		return
	}
	p.opened = true
	section, err := p.Section(limit)
	if err == nil {
		err = section.Check()
	}
	if errors.Is(err, record.ErrTooLarge) {
		p.tooLarge = true
		return
	}
	if p.damage = err; err == nil {
		p.pull, p.now = section.Pull(), record.Record{Offset: -1}
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// section is the digest of the records section as it is, also where the batch's
// checksum does not say so.
func (p *piece) section() record.Digest {
	if p.damage == nil {
		return p.SectionDigest()
	}
	return record.Digest{CRC: crc32.Checksum(p.Records(), castagnoli), Length: int64(len(p.Records()))}
}

// fetch gets what comes from offset on.
func (c *cursor) fetch(ctx context.Context, offset int64) error {
	a, err := c.reader.Fetch(ctx, offset, FetchBytes)
	if err != nil {
		return err
	}
	c.asked = true
	c.start, c.stable, c.end = max(c.start, a.Start), a.Stable, a.End
	if c.exact {
		c.note(a)
	}
	pieces, next, err := committed(a, offset, c.maxDecode)
	c.pieces = append(c.pieces, pieces...)
	if next, err = goOn(a, offset, next, err); err != nil {
		return err
	}
	c.next = next
	return nil
}

// goOn is where to go on after an answer whose batches end at next, before what
// err says cannot be read.
func goOn(a Answer, offset, next int64, err error) (int64, error) {
	switch {
	case next > offset: // what cannot be read behind it shows with the next fetch
		return next, nil
	case err != nil:
		return next, err
	case a.Start > offset:
		return a.Start, nil
	}
	return max(offset, a.Stable), nil // nothing is left up to there
}

// committed are the batches of an answer that hold committed data, and where the
// answer ends. From the last stable offset on nothing is committed. Messages of the
// formats before v2 come as the mirror reads them, of which one decompresses to at
// most limit bytes.
func committed(a Answer, offset int64, limit int) (pieces []*piece, next int64, err error) {
	aborts := newAborts(a.Aborted)
	next = offset
	for rest := a.Records; len(rest) > 0; {
		var b record.Batch
		if record.IsMessageSet(rest) {
			b, _, rest, err = record.NextMessageSet(rest, FetchBytes, limit)
		} else {
			b, rest, err = record.Next(rest)
		}
		if errors.Is(err, record.ErrPartial) {
			break
		}
		if err != nil {
			return pieces, next, &FrameError{Offset: next, Err: err}
		}
		if n := len(pieces); n > 0 && pieces[n-1].damage != nil && b.BaseOffset() > max(offset, pieces[n-1].BaseOffset()) {
			pieces[n-1].next = min(pieces[n-1].next, b.BaseOffset())
			next = pieces[n-1].next
		}
		damage := b.Check()
		switch {
		case damage == nil && (b.BaseOffset() < 0 || b.LastOffset() >= a.End || b.BaseOffset() < next && len(pieces) > 0):
			return pieces, next, &FrameError{Offset: next, Err: fmt.Errorf("a batch claims offsets %d to %d", b.BaseOffset(), b.LastOffset())}
		case damage != nil:
			p := &piece{Batch: b, next: min(believable(b), a.Stable), damage: damage}
			if p.next > offset && b.BaseOffset() >= 0 && b.BaseOffset() < a.Stable {
				pieces, next = append(pieces, p), max(next, p.next)
			}
			continue
		case b.BaseOffset() >= a.Stable:
			return pieces, next, nil
		case aborts.data(b) && b.NextOffset() > offset:
			pieces = append(pieces, &piece{Batch: b, next: b.NextOffset()})
		}
		next = max(next, b.NextOffset())
	}
	return pieces, next, nil
}

// believable is where a damaged batch may end: one flipped bit of its header may
// claim two thousand million offsets.
func believable(b record.Batch) int64 {
	most := int64(len(b))
	if d := int64(b.LastOffsetDelta()); d >= 0 && d < most {
		return b.BaseOffset() + d + 1
	}
	if n := int64(b.Count()); n > 0 && n <= most {
		return b.BaseOffset() + n
	}
	return b.BaseOffset() + 1
}

// FrameError says that a log cannot be read on: it holds no batch where one must
// begin.
type FrameError struct {
	Offset int64
	Err    error
}

func (e *FrameError) Error() string {
	return fmt.Sprintf("no batch can be read at offset %d: %v", e.Offset, e.Err)
}

func (e *FrameError) Unwrap() error { return e.Err }

// aborts follows the aborted transactions of one answer, which lists each that
// overlaps it, in no promised order.
type aborts struct {
	coming []Aborted // by first offset
	open   map[int64]bool
}

func newAborts(list []Aborted) aborts {
	coming := slices.Clone(list)
	slices.SortStableFunc(coming, func(a, b Aborted) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	return aborts{coming, map[int64]bool{}}
}

// data says whether a batch holds committed data. It must see every batch of the
// answer, in order.
func (a *aborts) data(b record.Batch) bool {
	for len(a.coming) > 0 && a.coming[0].FirstOffset <= b.LastOffset() {
		a.open[a.coming[0].ProducerID] = true
		a.coming = a.coming[1:]
	}
	attrs := b.Attributes()
	if attrs.Control() {
		if a.open[b.ProducerID()] && isAbort(b) {
			delete(a.open, b.ProducerID())
		}
		return false
	}
	return b.Count() > 0 && !(attrs.Transactional() && a.open[b.ProducerID()])
}

// isAbort reads a marker: the key of its record is a version and a type, 0 for
// abort (KIP-98). One that cannot be read ends no transaction.
func isAbort(b record.Batch) bool {
	records, err := b.Decode(maxMarker)
	return err == nil && len(records) == 1 && len(records[0].Key) >= 4 && binary.BigEndian.Uint16(records[0].Key[2:]) == 0
}

const maxMarker = 4 << 10
