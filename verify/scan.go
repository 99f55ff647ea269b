package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/waybillhq/waybill/internal/record"
)

// Stretch is what one fetch showed of a partition.
type Stretch struct {
	// Next is where to go on: all committed records from the offset that was asked for
	// up to it were handed on, or lie in Unread, or are not there.
	Next   int64
	Stable int64 // last stable offset
	Bytes  int64 // of batches, as they came
	Unread []Unread
}

// Unread is a batch whose records cannot be taken apart.
type Unread struct {
	First, Next int64 // offsets, Next exclusive
	Err         error
}

// Scan makes one fetch from an offset on and hands on the committed records that it
// brought, in order, until each returns false. A record shares memory with its batch,
// of which at most maxDecode bytes are decompressed at a time, and holds until each
// returns.
func Scan(ctx context.Context, r Reader, offset int64, maxDecode int, each func(*record.Record) bool) (Stretch, error) {
	a, err := r.Fetch(ctx, offset, FetchBytes)
	if err != nil {
		return Stretch{}, err
	}
	pieces, next, err := committed(a, offset, maxDecode)
	if next, err = goOn(a, offset, next, err); err != nil {
		return Stretch{}, err
	}
	s := Stretch{Next: next, Stable: a.Stable, Bytes: int64(len(a.Records))}
	for _, p := range pieces {
		p.open(maxDecode)
		switch {
		case p.tooLarge:
			p.damage = fmt.Errorf("the batch decompresses to more than %d bytes", maxDecode)
			fallthrough
		case p.damage != nil:
			s.Unread = append(s.Unread, Unread{max(offset, p.BaseOffset()), p.next, p.damage})
			continue
		}
		for rec, ok := p.pull.Next(); ok; rec, ok = p.pull.Next() {
			if rec.Offset >= offset && !each(&rec) {
				s.Next = rec.Offset + 1
				return s, nil
			}
		}
		p.pull = record.Puller{} // its memory is free for the next one's
	}
	return s, nil
}

// ErrNoRecord says, wrapped with the reason, that a partition shows no committed record
// at an offset.
var ErrNoRecord = errors.New("no record there")

// At makes one fetch for the committed record at an offset, of one batch if the broker
// does as KIP-74 says. The record shares memory with its batch, of which at most maxDecode
// bytes are decompressed.
func At(ctx context.Context, r Reader, offset int64, maxDecode int) (record.Batch, *record.Record, error) {
	a, err := r.Fetch(ctx, offset, 1)
	if err != nil {
		return nil, nil, err
	}
	pieces, next, err := committed(a, offset, maxDecode)
	for _, p := range pieces {
		if offset < p.BaseOffset() || offset >= p.next {
			continue
		}
		if p.open(maxDecode); p.tooLarge {
			return nil, nil, fmt.Errorf("%w: its batch decompresses to more than %d bytes", ErrNoRecord, maxDecode)
		}
		if p.damage != nil {
			return nil, nil, fmt.Errorf("%w: its batch cannot be read: %w", ErrNoRecord, p.damage)
		}
		for rec, ok := p.pull.Next(); ok; rec, ok = p.pull.Next() {
			if rec.Offset == offset {
				return p.Batch, &rec, nil
			}
		}
	}
	switch {
	case next <= offset && err != nil:
		return nil, nil, err
	case offset < a.Start:
		err = fmt.Errorf("%w: the log begins at offset %d by now", ErrNoRecord, a.Start)
	case offset >= a.End:
		err = fmt.Errorf("%w: the log ends at offset %d", ErrNoRecord, a.End)
	case offset >= a.Stable:
		err = fmt.Errorf("%w yet: a transaction is open from offset %d on", ErrNoRecord, a.Stable)
	default:
		err = fmt.Errorf("%w: it was compacted away, or was aborted, or is the marker of a transaction", ErrNoRecord)
	}
	return nil, nil, err
}
