package group

import (
	"bytes"
	"iter"
	"maps"
	"slices"
)

// TopicID is the id of one life of a topic.
type TopicID = [16]byte

// Assignment is partitions by topic. The partitions of a topic are sorted and
// each is there once; a topic without any is not there. An assignment is not
// changed once it is made, so it may be shared; nil is the empty one.
type Assignment map[TopicID][]int32

// AssignmentOf makes an assignment of partitions in any order.
func AssignmentOf(partitions map[TopicID][]int32) Assignment {
	a := Assignment{}
	for id, ps := range partitions {
		if len(ps) > 0 {
			ps = slices.Clone(ps)
			slices.Sort(ps)
			a[id] = slices.Compact(ps)
		}
	}
	return a
}

// Topics returns the topics in the order of their ids, and their partitions.
func (a Assignment) Topics() iter.Seq2[TopicID, []int32] {
	return func(yield func(TopicID, []int32) bool) {
		for _, id := range slices.SortedStableFunc(maps.Keys(a), func(x, y TopicID) int { return bytes.Compare(x[:], y[:]) }) {
			if !yield(id, a[id]) {
				return
			}
		}
	}
}

func (a Assignment) has(id TopicID, partition int32) bool {
	_, ok := slices.BinarySearch(a[id], partition)
	return ok
}

func (a Assignment) size() int {
	n := 0
	for _, ps := range a {
		n += len(ps)
	}
	return n
}

func (a Assignment) equal(b Assignment) bool {
	return maps.EqualFunc(a, b, slices.Equal[[]int32])
}

// keep returns those partitions of a for which ok is true.
func (a Assignment) keep(ok func(TopicID, int32) bool) Assignment {
	out := Assignment{}
	for id, ps := range a {
		var kept []int32
		for _, p := range ps {
			if ok(id, p) {
				kept = append(kept, p)
			}
		}
		if len(kept) > 0 {
			out[id] = kept
		}
	}
	return out
}

// and returns what is in both.
func (a Assignment) and(b Assignment) Assignment { return a.keep(b.has) }

// minus returns what is in a and not in b.
func (a Assignment) minus(b Assignment) Assignment {
	return a.keep(func(id TopicID, p int32) bool { return !b.has(id, p) })
}

// plus returns what is in either.
func (a Assignment) plus(b Assignment) Assignment {
	all := map[TopicID][]int32{}
	for _, x := range []Assignment{a, b} {
		for id, ps := range x {
			all[id] = append(all[id], ps...)
		}
	}
	return AssignmentOf(all)
}

// within says whether all of a is in b.
func (a Assignment) within(b Assignment) bool {
	for id, ps := range a {
		for _, p := range ps {
			if !b.has(id, p) {
				return false
			}
		}
	}
	return true
}

// meets says whether some partition is in both.
func (a Assignment) meets(b Assignment) bool {
	for id, ps := range a {
		for _, p := range ps {
			if b.has(id, p) {
				return true
			}
		}
	}
	return false
}
