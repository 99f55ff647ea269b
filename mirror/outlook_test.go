package mirror

import (
	"strings"
	"testing"
	"time"
)

func TestOutlookSaysWhatItRestsOn(t *testing.T) {
	for _, c := range []struct {
		name          string
		lag           int64
		copied, grown float64
		after         time.Duration
		basis         string
	}{
		{"caught up", 0, 0, 100, 0, ""},
		{"nothing moves", 500, 0, 0, -1, "nothing was copied"},
		{"a backlog", 1000, 100, 0, 10 * time.Second, "copies 100 offsets/s, the source grows by 0/s"},
		{"a backlog of a living topic", 1000, 100, 50, 20 * time.Second, "the source grows by 50/s"},
		{"slower than its source", 1000, 50, 100, -1, "does not catch up"},
		{"as fast as its source", 1000, 100, 100, -1, "does not catch up"},
		{"centuries", 1 << 60, 100, 99, -1, "does not catch up"},
	} {
		got := outlookOf(c.lag, c.copied, c.grown)
		if got.after != c.after || !strings.Contains(got.basis, c.basis) || (c.basis == "") != (got.basis == "") {
			t.Errorf("%s: got %v (%q), want %v (%q)", c.name, got.after, got.basis, c.after, c.basis)
		}
	}
}

func TestExposureCountsTheTimeWithoutAnAnswer(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		name     string
		lag      time.Duration
		answered time.Time
		want     time.Duration
	}{
		{"never answered", 0, time.Time{}, -1},
		{"has everything", 0, now, 0},
		{"has everything that it knows of", 0, now.Add(-3 * time.Second), 3 * time.Second},
		{"behind", 5 * time.Second, now, 5 * time.Second},
	} {
		if got := exposure(c.lag, c.answered, now); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestBytesOfALag(t *testing.T) {
	for _, c := range []struct{ offsets, records, bytes, want int64 }{{0, 0, 0, 0}, {10, 0, 0, -1}, {10, 4, 400, 1000}, {-3, 4, 400, 0}} {
		if got := bytesOf(c.offsets, c.records, c.bytes); got != c.want {
			t.Errorf("%d offsets by %d bytes of %d records: got %d, want %d", c.offsets, c.bytes, c.records, got, c.want)
		}
	}
}
