package record

import (
	"errors"
	"fmt"
	"iter"
)

// ErrNothing says that a log has nothing where it is to go on.
var ErrNothing = errors.New("nothing is there")

// Scan yields the batches of a log from the one with an offset on, until one ends at or
// behind end. read returns whole batches from the one with an offset on; what it may leave
// behind them of another is read again. An error is yielded last, with no batch: that of
// read, a *[CorruptError], or one that wraps [ErrNothing] where read returns no batch. A
// batch shares the memory that read returned; its checksum is not looked at.
func Scan(from, end int64, read func(from int64) ([]byte, error)) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for at := from; at < end; {
			buf, err := read(at)
			if err != nil {
				yield(nil, err)
				return
			}
			was := at
			for len(buf) > 0 {
				b, rest, err := Next(buf)
				if errors.Is(err, ErrPartial) {
					break
				}
				if err != nil {
					yield(nil, err)
					return
				}
				if !yield(b, nil) {
					return
				}
				at, buf = b.NextOffset(), rest
			}
			if at <= was {
				yield(nil, fmt.Errorf("read at offset %d, below the end %d: %w", at, end, ErrNothing))
				return
			}
		}
	}
}
