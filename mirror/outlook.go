package mirror

import (
	"fmt"
	"time"
)

// outlook is when a copy will have come to its source's end, and what that rests
// on. copied and grown are offsets per second: how fast the copy moves, and how
// fast the end moves away from it.
type outlook struct {
	after time.Duration // -1: not known, or never at these rates
	basis string        // empty where nothing is to be waited for
}

// maxOutlook is beyond what rates of ten seconds say anything about.
const maxOutlook = 365 * 24 * time.Hour

func outlookOf(lag int64, copied, grown float64) outlook {
	switch {
	case lag <= 0:
		return outlook{}
	case copied == 0:
		return outlook{after: -1, basis: fmt.Sprintf("nothing was copied in the last %d s", rateSeconds)}
	}
	basis := fmt.Sprintf("copies %.0f offsets/s, the source grows by %.0f/s (last %d s)", copied, grown, rateSeconds)
	left := float64(lag) / (copied - grown)
	if copied <= grown || left > maxOutlook.Seconds() {
		return outlook{after: -1, basis: basis + ": it does not catch up so"}
	}
	return outlook{after: time.Duration(left * float64(time.Second)), basis: basis}
}

// exposure is for how long records may have been acknowledged at the source
// without being at the destination: what would be lost if the source died now
// (its recovery point). A copy that has everything it knows of may miss what came
// since the source last answered.
func exposure(lag time.Duration, answered, now time.Time) time.Duration {
	if answered.IsZero() {
		return -1
	}
	return max(lag, now.Sub(answered))
}

// bytesOf guesses how many bytes a number of offsets stands for, by the mean of
// what was copied; -1 if nothing was.
func bytesOf(offsets, records, bytes int64) int64 {
	switch {
	case offsets <= 0:
		return 0
	case records == 0:
		return -1
	}
	return int64(float64(offsets) * float64(bytes) / float64(records))
}
