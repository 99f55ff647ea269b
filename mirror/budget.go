package mirror

import "sync/atomic"

// budget bounds the bytes that a flow holds between its source and its destination: its
// part of the node's. A fetch takes room for its answer before it asks.
type budget struct {
	*room
	memory memory
}

func newBudget(r *room) *budget { return &budget{room: r} }

// leastFetch is what a fetch asks for that found little the last time. Many may be held
// open at idle sources.
const leastFetch = 256 << 10

// nextFetch is how much to ask for after an answer: twice as much, so that a few round
// trips lead from rest to full speed.
func nextFetch(answer int) int64 {
	return min(max(2*int64(answer), leastFetch), fetchBytes)
}

// part is how much of what is wanted one fetch may take: with half of the flow's room for
// each, one can be written while the next is fetched.
func (b *budget) part(wanted int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(1, min(wanted, b.limit/2))
}

// frame is the memory of one fetch response, shared by the chunks that were cut
// from it. It counts as held until the last of them is released.
type frame struct {
	budget *budget
	size   int64
	lent   []byte // by the budget's memory, nil if it is the collector's
	refs   atomic.Int32
}

// newFrame counts size bytes as held; the caller holds the first reference. What
// the budget's memory has lent for them, if anything, is given back in the end.
func (b *budget) newFrame(size int64, lent []byte) *frame {
	f := &frame{budget: b, size: size, lent: lent}
	f.refs.Store(1)
	b.take(size)
	return f
}

func (f *frame) retain() *frame {
	f.refs.Add(1)
	return f
}

func (f *frame) release() {
	if f == nil || f.refs.Add(-1) != 0 {
		return
	}
	if f.lent != nil {
		f.budget.memory.put(f.lent)
	}
	f.budget.take(-f.size)
}
