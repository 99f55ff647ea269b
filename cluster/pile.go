package cluster

import (
	"cmp"
	"slices"
	"sort"
)

// pile is the copies of one class on one node, from which some are taken to move. It
// finds the one to take in the time of a binary search, so that thousands of moves
// are planned in milliseconds.
type pile struct {
	items []item // heaviest first, once it is sorted
	// left and right lead from a place that was taken to one that may still be there:
	// towards the heavier and the lighter. They are as long as items, and one.
	left, right []int32
}

// overshoot is how much worse it is to move more than is due than to move less, by
// as much: what is missing can follow.
const overshoot = 2

// fitting returns the copy to move over a gap between two nodes: the one that is
// closest to what is due, of equals the lightest. It returns -1 if none makes the gap
// smaller by a fifth or more: a heavy copy would only carry the load from one place
// to the other.
func (p *pile) fitting(gap, due float64) int {
	p.sort()
	bearable := 0.9 * gap
	lightFrom := sort.Search(len(p.items), func(i int) bool { return p.items[i].weight <= min(due, bearable) })
	light := p.at(p.right, lightFrom)
	heavy := p.at(p.left, lightFrom) - 1 // left is of places before
	if heavy >= 0 && p.items[heavy].weight > bearable {
		heavy = -1
	}
	switch {
	case light == len(p.items):
		return heavy
	case heavy < 0:
		return light
	}
	if overshoot*(p.items[heavy].weight-due) < due-p.items[light].weight {
		return heavy
	}
	return light
}

// take takes the copy at a place.
func (p *pile) take(i int) item {
	p.right[i] = int32(i + 1)
	p.left[i+1] = int32(i)
	return p.items[i]
}

// at follows the way from a place to one that has not been taken, and makes it
// shorter for the next time.
func (p *pile) at(way []int32, i int) int {
	end := i
	for way[end] != int32(end) {
		end = int(way[end])
	}
	for way[i] != int32(i) {
		i, way[i] = int(way[i]), int32(end)
	}
	return end
}

func (p *pile) sort() {
	if p.left != nil {
		return
	}
	slices.SortStableFunc(p.items, func(x, y item) int { return cmp.Compare(y.weight, x.weight) })
	p.left, p.right = make([]int32, len(p.items)+1), make([]int32, len(p.items)+1)
	for i := range p.left {
		p.left[i], p.right[i] = int32(i), int32(i)
	}
}

// before orders the piles of one node by their first copy, so that the answer does
// not depend on the order of a map.
func (p *pile) before(q *pile) bool { return p.items[0].work().compare(q.items[0].work()) < 0 }
