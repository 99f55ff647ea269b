package verify

import (
	"context"
	"fmt"

	"github.com/waybillhq/waybill/internal/record"
)

// frame is a batch of any kind as one side has it: what its header says before its
// checksum, and the checksum, which covers the rest.
type frame struct {
	base, next  int64
	leaderEpoch int32
	size        int
	crc         uint32
	control     bool
}

func (f *frame) what() string {
	if f.control {
		return "control batch"
	}
	return "batch"
}

// exact says that both sides must hold the same batches, control and aborted ones too:
// the copy preserves offsets, and no cleaner has put batches together since.
func (c *comparison) exact() bool {
	return c.copy.Preserve && !c.sourceCompacts && !c.destinationCompacts
}

// frames compares the batches of both sides that begin below an offset, as they are,
// where their records have shown no difference.
func (c *comparison) frames(ctx context.Context, to int64) error {
	for _, side := range []struct {
		end string
		*cursor
	}{{"source", c.source}, {"destination", c.destination}} {
		if err := side.pass(ctx, c.framed, to); err != nil {
			return &endError{side.end, err}
		}
	}
	from := max(c.framed, c.source.start, c.destination.start)
	source, dest := c.source.take(from, to), c.destination.take(from, to)
	if c.tally.Different > 0 {
		return nil
	}
	for len(source)+len(dest) > 0 {
		switch {
		case len(dest) == 0 || len(source) > 0 && source[0].base < dest[0].base:
			f := source[0]
			source = source[1:]
			c.differ(Difference{Kind: Missing, Source: f.base, Destination: f.base, Count: f.next - f.base, What: fmt.Sprintf("the mirror topic lacks the %s", f.what())})
		case len(source) == 0 || dest[0].base < source[0].base:
			f := dest[0]
			dest = dest[1:]
			c.differ(Difference{Kind: Phantom, Source: f.base, Destination: f.base, Count: f.next - f.base, What: fmt.Sprintf("the mirror topic has a %s that the source has not", f.what())})
		default:
			s, d := source[0], dest[0]
			source, dest = source[1:], dest[1:]
			if s != d {
				c.differ(Difference{Kind: Different, Source: s.base, Destination: d.base, Count: s.next - s.base, What: whatOfBatch(&s, &d)})
			}
		}
	}
	return nil
}

// whatOfBatch says in what two batches with the same records differ.
func whatOfBatch(s, d *frame) string {
	if s.leaderEpoch != d.leaderEpoch {
		return fmt.Sprintf("leader epoch of the %s: %d at the source, %d at the destination", s.what(), s.leaderEpoch, d.leaderEpoch)
	}
	return fmt.Sprintf("the %s is not the same bytes", s.what())
}

// note remembers the batches of an answer.
func (c *cursor) note(a Answer) {
	for rest := a.Records; len(rest) > 0; {
		b, next, err := record.Next(rest)
		if err != nil || b.BaseOffset() >= a.Stable {
			return // what cannot be read is found by who reads the records
		}
		rest = next
		if n := len(c.seen); n > 0 && b.BaseOffset() < c.seen[n-1].next {
			continue
		}
		c.seen = append(c.seen, frame{b.BaseOffset(), b.NextOffset(), b.LeaderEpoch(), len(b), b.CRC(), b.Attributes().Control()})
	}
}

// pass reads up to an offset what was not read yet.
func (c *cursor) pass(ctx context.Context, from, to int64) error {
	for !c.asked || c.next < min(to, c.stable) {
		if err := c.fetch(ctx, max(from, c.next)); err != nil {
			return err
		}
	}
	return nil
}

// take hands over the batches that begin at or above an offset and below another, and
// forgets them and those before.
func (c *cursor) take(from, to int64) (taken []frame) {
	for len(c.seen) > 0 && c.seen[0].base < to {
		if c.seen[0].base >= from {
			taken = append(taken, c.seen[0])
		}
		c.seen = c.seen[1:]
	}
	return taken
}
