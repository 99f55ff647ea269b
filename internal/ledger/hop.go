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
