package lineage

import (
	"cmp"
	"slices"
)

// span is the offsets from first up to next, which is not one of them.
type span struct{ first, next int64 }

func (s span) empty() bool { return s.first >= s.next }

// within is the part of s that lies in o too.
func (s span) within(o span) span { return span{max(s.first, o.first), min(s.next, o.next)} }

// spans are in order, and neither touch nor overlap each other.
type spans []span

// add puts n among them, and returns what of it was not there before, in order.
func (s *spans) add(n span) (fresh []span) {
	if n.empty() {
		return nil
	}
	all := *s
	// Those from i up to j touch n.
	i, _ := slices.BinarySearchFunc(all, n.first, func(have span, first int64) int { return cmp.Compare(have.next, first) })
	j, at, whole := i, n.first, n
	for ; j < len(all) && all[j].first <= n.next; j++ {
		if gap := (span{at, min(all[j].first, n.next)}); !gap.empty() {
			fresh = append(fresh, gap)
		}
		at = max(at, all[j].next)
		whole = span{min(whole.first, all[j].first), max(whole.next, all[j].next)}
	}
	if rest := (span{at, n.next}); !rest.empty() {
		fresh = append(fresh, rest)
	}
	*s = slices.Replace(all, i, j, whole)
	return fresh
}

// touch says whether any of the offsets from first to last, inclusive, is among them.
func (s spans) touch(first, last int64) bool {
	i, _ := slices.BinarySearchFunc(s, first, func(have span, first int64) int { return cmp.Compare(have.next, first+1) })
	return i < len(s) && s[i].first <= last
}

// hull is from the first of them to the last.
func (s spans) hull() span {
	if len(s) == 0 {
		return span{}
	}
	return span{s[0].first, s[len(s)-1].next}
}
