//go:build chaos && interop && unix

package chaos

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// twin is one partition and its mirror topic as two read_uncommitted readers see
// them: everything is there, markers and what was aborted included, at the same
// offsets, once, and nothing else ever was. The readers compare position by
// position, so the first difference is the last that means something.
type twin struct {
	name     string
	from, to []seen // not yet compared
	compared int64
	wrong    int64
	fault    string
}

// differ says what differs at the first difference.
func (w *twin) differ(format string, args ...any) {
	if w.wrong++; w.fault == "" {
		w.fault = w.name + ", every reader: " + fmt.Sprintf(format, args...)
	}
}

func (w *twin) source(r seen) { w.from = append(w.from, r); w.compare() }
func (w *twin) copied(r seen) { w.to = append(w.to, r); w.compare() }

func (w *twin) compare() {
	n := min(len(w.from), len(w.to))
	for i := range n {
		switch a, b := w.from[i], w.to[i]; {
		case a.offset != b.offset:
			w.differ("offset %d of the source comes as offset %d", a.offset, b.offset)
		case a.sum != b.sum:
			w.differ("offset %d is altered", a.offset)
		}
		w.compared++
	}
	w.from, w.to = w.from[n:], w.to[n:]
}

// end looks for what only one side has.
func (w *twin) end() {
	if n := len(w.from) + len(w.to); n > 0 {
		w.wrong += int64(n)
		w.fault += fmt.Sprintf(" %s, every reader: %d offsets are only at the source, %d only in the mirror", w.name, len(w.from), len(w.to))
	}
}

// awaitTwins waits until all offsets of the source are compared, or what is
// missing does not come.
func (c *comparer) awaitTwins(ends map[string]map[int32]int64) {
	limit := time.Now().Add(recovery)
	eventually(c.t, 2*recovery, "every offset is compared", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for topic, partitions := range ends {
			for p, end := range partitions {
				if w := &c.twins[topic][p]; w.compared < end && time.Now().Before(limit) {
					return fmt.Errorf("%s: %d of %d are compared", w.name, w.compared, end)
				}
			}
		}
		return nil
	})
}

// sumOfTwins is what every reader has found, when the reading has ended.
func (c *comparer) sumOfTwins() (sum twin) {
	for _, partitions := range c.twins {
		for p := range partitions {
			sum.compared, sum.wrong = sum.compared+partitions[p].compared, sum.wrong+partitions[p].wrong
		}
	}
	return sum
}

// everyReader feeds one side to the twins until the comparer ends.
func (c *comparer) everyReader(of *cluster, take func(*twin, seen)) {
	cl := of.open(c.t, kgo.KeepControlRecords(), kgo.ConsumeTopics(streamTopics()...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	c.wg.Go(func() {
		for c.ctx.Err() == nil {
			fetches := cl.PollFetches(c.ctx)
			c.mu.Lock()
			if err := fetches.Err(); err != nil && c.ctx.Err() == nil {
				c.failed = fmt.Errorf("read %s: %w", of.name, err)
			}
			for it := fetches.RecordIter(); !it.Done(); {
				r := it.Next()
				take(&c.twins[r.Topic][r.Partition], seen{offset: r.Offset, sum: c.sum(r)})
			}
			c.mu.Unlock()
		}
	})
}
