package group

import (
	"bytes"
	"cmp"
	"container/heap"
	"slices"
)

// The assignors of the broker, by Kafka's names. Uniform is the default.
const (
	Uniform = "uniform"
	Range   = "range"
)

// Assignors are those that a member may ask for.
func Assignors() []string { return []string{Uniform, Range} }

// candidate is a member as an assignor sees it.
type candidate struct {
	id, instanceID string
	topics         []TopicID  // that it subscribes to and that exist
	had            Assignment // its target so far
	gets           map[TopicID][]int32
	n              int // partitions in gets
}

func (c *candidate) give(id TopicID, p int32) {
	c.gets[id] = append(c.gets[id], p)
	c.n++
}

// assignPartitions gives the partitions of the topics (their number, by id) to
// the candidates, each to one that subscribes to its topic. It is a function of
// its arguments, whatever the order of the candidates.
func assignPartitions(assignor string, candidates []*candidate, topics map[TopicID]int32) map[string]Assignment {
	slices.SortFunc(candidates, func(a, b *candidate) int {
		// Static members first: their place does not change with a restart.
		return cmp.Or(cmp.Compare(b2i(a.instanceID == ""), b2i(b.instanceID == "")),
			cmp.Compare(a.instanceID, b.instanceID), cmp.Compare(a.id, b.id))
	})
	subscribers := map[TopicID][]*candidate{}
	for _, c := range candidates {
		c.gets, c.n = map[TopicID][]int32{}, 0
		for _, id := range c.topics {
			subscribers[id] = append(subscribers[id], c)
		}
	}
	ids := make([]TopicID, 0, len(subscribers))
	for id := range subscribers {
		if topics[id] > 0 {
			ids = append(ids, id)
		}
	}
	// Topics that few may read first: the rest can even out what they make uneven.
	slices.SortStableFunc(ids, func(a, b TopicID) int {
		return cmp.Or(cmp.Compare(len(subscribers[a]), len(subscribers[b])), bytes.Compare(a[:], b[:]))
	})
	switch {
	case assignor == Range:
		for _, id := range ids {
			assignRange(id, topics[id], subscribers[id])
		}
	case len(ids) == 0:
	case len(subscribers[ids[0]]) == len(candidates):
		assignEvenly(ids, topics, candidates)
	default:
		assignGreedily(ids, topics, subscribers)
	}
	out := make(map[string]Assignment, len(candidates))
	for _, c := range candidates {
		out[c.id] = AssignmentOf(c.gets)
	}
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// assignRange gives the subscribers of a topic ranges of its partitions, in the
// order of the members, the first of them one more where the numbers do not divide:
// Apache Kafka 4's range. What a member had does not count, so members that all
// subscribe to the same topics have, of those with as many partitions, the same
// partitions of each, whoever comes and goes: what is joined by partition stays together.
func assignRange(id TopicID, partitions int32, subscribers []*candidate) {
	quota := partitions / int32(len(subscribers))
	extra := partitions % int32(len(subscribers))
	next := int32(0)
	for i, c := range subscribers {
		end := next + quota
		if int32(i) < extra {
			end++
		}
		for ; next < end; next++ {
			c.give(id, next)
		}
	}
}

// assignEvenly is for members that all subscribe to the same: the numbers of
// their partitions differ by one at most, and each keeps what it had as far as
// that allows.
func assignEvenly(ids []TopicID, topics map[TopicID]int32, members []*candidate) {
	total := 0
	taken := make(map[TopicID][]bool, len(ids))
	for _, id := range ids {
		total += int(topics[id])
		taken[id] = make([]bool, topics[id])
	}
	quota, extra := total/len(members), total%len(members)
	// Those that had more than the quota keep the odd ones.
	for _, c := range members {
		share := quota
		if extra > 0 && c.had.size() > quota {
			share++
		}
		for id, ps := range c.had.Topics() {
			for _, p := range ps {
				if c.n < share && int(p) < len(taken[id]) && !taken[id][p] {
					taken[id][p] = true
					c.give(id, p)
				}
			}
		}
		if c.n > quota {
			extra--
		}
	}
	// The rest goes round, so that each has some of every topic.
	at := 0
	next := func() *candidate {
		for range len(members) {
			c := members[at]
			at = (at + 1) % len(members)
			if c.n < quota {
				return c
			}
		}
		for range len(members) {
			c := members[at]
			at = (at + 1) % len(members)
			if c.n == quota && extra > 0 {
				extra--
				return c
			}
		}
		return nil // not reached: there are as many places as partitions
	}
	for _, id := range ids {
		for p, t := range taken[id] {
			if !t {
				if c := next(); c != nil {
					c.give(id, int32(p))
				}
			}
		}
	}
}

// assignGreedily is for members that subscribe to different topics: each keeps
// what it had, what nobody has goes to the subscriber with least, and then
// partitions move from members with more to members with less of those that may
// have them, until no move makes it more even. Each move makes the sum of squares
// smaller, so it ends.
func assignGreedily(ids []TopicID, topics map[TopicID]int32, subscribers map[TopicID][]*candidate) {
	for _, id := range ids {
		taken := make([]bool, topics[id])
		for _, c := range subscribers[id] {
			for _, p := range c.had[id] {
				if int(p) < len(taken) && !taken[p] {
					taken[p] = true
					c.give(id, p)
				}
			}
		}
		h := loadHeap(slices.Clone(subscribers[id]))
		heap.Init(&h)
		for p, t := range taken {
			if !t {
				h[0].give(id, int32(p))
				heap.Fix(&h, 0)
			}
		}
	}
	for moved := true; moved; {
		moved = false
		for _, id := range ids {
			for moveOne(id, subscribers[id]) {
				moved = true
			}
		}
	}
}

// moveOne moves a partition of a topic from the subscriber with most to the one
// with least, if that makes it more even.
func moveOne(id TopicID, subscribers []*candidate) bool {
	least, most := subscribers[0], (*candidate)(nil)
	for _, c := range subscribers {
		if c.n < least.n {
			least = c
		}
		if len(c.gets[id]) > 0 && (most == nil || c.n > most.n) {
			most = c
		}
	}
	if most == nil || most.n-least.n < 2 {
		return false
	}
	// The last it was given is what it is least likely to have had before.
	last := len(most.gets[id]) - 1
	p := most.gets[id][last]
	most.gets[id], most.n = most.gets[id][:last], most.n-1
	least.give(id, p)
	return true
}

// loadHeap has the candidate with least partitions on top; of equals the first in
// the order of the members.
type loadHeap []*candidate

func (h loadHeap) Len() int { return len(h) }
func (h loadHeap) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].n, h[j].n), cmp.Compare(h[i].instanceID, h[j].instanceID), cmp.Compare(h[i].id, h[j].id)) < 0
}
func (h loadHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements [heap.Interface].
func (h *loadHeap) Push(x any) { *h = append(*h, x.(*candidate)) }

// Pop implements [heap.Interface].
func (h *loadHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
