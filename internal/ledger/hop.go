package ledger

import (
	"fmt"
	"math"
)

// Check says what is wrong with a hop that is about to be written: its runs and
// gaps must tile [From, Next), and its destinations must ascend. Encode does not
// check, and a page with a hop that breaks these rules cannot be decoded.
func (e *Hop) Check() error {
	at, dest := e.From, int64(0)
	if e.From < 0 {
		return fmt.Errorf("hop from offset %d", e.From)
	}
	runs, gaps := e.Runs, e.Gaps
	for len(runs)+len(gaps) > 0 {
		var source, count int64
		if len(gaps) == 0 || (len(runs) > 0 && runs[0].Source < gaps[0].Source) {
			source, count = runs[0].Source, runs[0].Count
			if runs[0].Destination < dest || runs[0].Destination > math.MaxInt64-max(count, 0) {
				return fmt.Errorf("hop at offset %d: destination %d after %d", source, runs[0].Destination, dest)
			}
			if r := runs[0].Route; r < 0 || r > len(e.Routes) {
				return fmt.Errorf("hop at offset %d: route %d of %d", source, r, len(e.Routes))
			}
			dest = runs[0].Destination + count
			runs = runs[1:]
		} else {
			source, count = gaps[0].Source, gaps[0].Count
			if gaps[0].Reason == 0 {
				return fmt.Errorf("hop at offset %d: gap without a reason", source)
			}
			gaps = gaps[1:]
		}
		if source != at || count <= 0 || at > math.MaxInt64-count {
			return fmt.Errorf("hop at offset %d: %d offsets at %d", at, count, source)
		}
		at += count
	}
	if at != e.Next {
		return fmt.Errorf("hop ends at offset %d, its tiles at %d", e.Next, at)
	}
	return nil
}

// Records is the number of records that the hop copied.
func (e *Hop) Records() int64 {
	var n int64
	for _, r := range e.Runs {
		n += r.Count
	}
	return n
}

// Clip is the part of the hop from source offset x to y, which lie within it. A run that
// is cut has no digest any more: it was of the whole.
func (e *Hop) Clip(x, y int64) *Hop {
	kept := *e
	kept.Runs, kept.Gaps, kept.From, kept.Next = nil, nil, x, y
	for _, r := range e.Runs {
		from, to := max(r.Source, x), min(r.Source+r.Count, y)
		if from >= to {
			continue
		}
		if to-from < r.Count {
			r.Digest = 0
		}
		r.Source, r.Destination, r.Count = from, r.Destination+from-r.Source, to-from
		kept.Runs = append(kept.Runs, r)
	}
	for _, g := range e.Gaps {
		if from, to := max(g.Source, x), min(g.Source+g.Count, y); from < to {
			kept.Gaps = append(kept.Gaps, Gap{Source: from, Count: to - from, Reason: g.Reason})
		}
	}
	return &kept
}

// SourceBelow is the source offset behind the last of the hop's records that lie below a
// destination offset; From if none does.
func (e *Hop) SourceBelow(destination int64) int64 {
	end := e.From
	for _, r := range e.Runs {
		if r.Destination < destination {
			end = r.Source + min(r.Count, destination-r.Destination)
		}
	}
	return end
}

// DestinationNext is the offset after the last record that the hop wrote, -1 if it wrote
// none.
func (e *Hop) DestinationNext() int64 {
	if len(e.Runs) == 0 {
		return -1
	}
	last := e.Runs[len(e.Runs)-1]
	return last.Destination + last.Count
}

// Broken says that records which others wrote lie within the hop's transaction. Up to end
// reaches what the transaction wrote before, -1 if it wrote nothing.
func (e *Hop) Broken(end int64) bool {
	for _, r := range e.Runs {
		if end >= 0 && r.Destination != end {
			return true
		}
		end = r.Destination + r.Count
	}
	return false
}

// RouteOf is how a run's records had come to the source.
func (e *Hop) RouteOf(r Run) Route {
	if r.Route == 0 {
		return nil
	}
	return e.Routes[r.Route-1]
}

// Origin is where the records of a stretch of a partition's offsets are from, as
// the hop says that brought them.
type Origin struct {
	// Route ends with the topic that they were copied from.
	Route Route
	// Next is the offset after the stretch.
	Next int64
	// Untraced says that the hop keeps no routes: what lies before the end of Route
	// is not known.
	Untraced bool
}
