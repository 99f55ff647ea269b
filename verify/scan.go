package verify

import (
	"context"
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
