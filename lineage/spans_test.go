package lineage

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSpansAgainstList holds spans against a list that has every offset by itself.
func TestSpansAgainstList(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s spans
		var have [60]bool
		for range 25 {
			first := r.Int64N(50)
			n := span{first, first + r.Int64N(10)}
			var want, got []int64
			for o := n.first; o < n.next; o++ {
				if !have[o] {
					want = append(want, o)
				}
				have[o] = true
			}
			for _, f := range s.add(n) {
				for o := f.first; o < f.next; o++ {
					got = append(got, o)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: %v is said to have brought %v, want %v", seed, n, got, want)
			}
			check(t, s, have[:])
		}
	}
}

func check(t *testing.T, s spans, have []bool) {
	t.Helper()
	var want spans
	for o, is := range have {
		switch n := len(want); {
		case !is:
		case n > 0 && want[n-1].next == int64(o):
			want[n-1].next++
		default:
			want = append(want, span{int64(o), int64(o) + 1})
		}
	}
	if !slices.Equal(s, want) {
		t.Fatalf("got %v, want %v", s, want)
	}
	for first := range len(have) {
		for last := first; last < min(first+4, len(have)); last++ {
			if got, want := s.touch(int64(first), int64(last)), slices.Contains(have[first:last+1], true); got != want {
				t.Fatalf("%v touches %d to %d: got %v, want %v", s, first, last, got, want)
			}
		}
	}
	if len(want) > 0 && s.hull() != (span{want[0].first, want[len(want)-1].next}) {
		t.Fatalf("%v: hull %v", s, s.hull())
	}
}
