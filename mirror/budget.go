package mirror

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// buffers is the memory of a node for what its flows have fetched and not written yet.
// Half of it is split evenly between the flows. Of the other half a flow may take as much
// as it leaves (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length thresholds
// for shared-memory packet switches", 1998): one that is alone has three quarters of
// everything, and however many hold all that they may because their destinations are away,
// the next one still finds room. Flows never wait for each other.
//
// More is held by what nobody can know before it comes: for each source broker a batch that
// is larger than what was asked for, and what a batch on the record path becomes; and, where
// flows are added while others hold all that they may, by half of it until those have written.
type buffers struct {
	memory memory

	mu     sync.Mutex
	limit  int64
	flows  map[*budget]struct{}
	beyond int64 // of what flows hold, what is more than their own parts
}

func newBuffers(limit int64) *buffers {
	return &buffers{limit: limit, flows: map[*budget]struct{}{}}
}

// budget is what one flow holds of its node's buffers. Its fields are guarded by of.mu.
type budget struct {
	of    *buffers
	held  int64
	queue []*waiter // its fetchers that wait for room, in their order
}

// waiter is a fetcher that waits for room.
type waiter struct {
	most  int64
	frame *frame        // what it got
	come  chan struct{} // closed when it has
}

// join is the budget of a flow that begins.
func (m *buffers) join() *budget {
	b := &budget{of: m}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flows[b] = struct{}{}
	m.count()
	return b
}

// leave is called when a flow has ended, and nothing is written for it any more: what it
// still holds is garbage.
func (b *budget) leave() {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	delete(b.of.flows, b)
	b.of.count()
}

// count counts anew, since the flows are others. m.mu is held.
func (m *buffers) count() {
	m.beyond = 0
	for b := range m.flows {
		m.beyond += max(0, b.held-m.own())
	}
	m.serveAll()
}

// own is the part of one flow that no other may take. m.mu is held.
func (m *buffers) own() int64 { return m.limit / 2 / int64(max(1, len(m.flows))) }

// room is how much more the flow may take, so that it leaves as much of what all share as
// it has. of.mu is held.
func (b *budget) room() int64 {
	own, shared := b.of.own()-b.held, max(0, b.of.limit/2-b.of.beyond)
	if own > 0 {
		return own + shared/2
	}
	return (own + shared) / 2
}

// serve gives room to the fetchers that wait, as far as there is some. of.mu is held.
func (b *budget) serve() {
	for len(b.queue) > 0 {
		w := b.queue[0]
		n, ok := b.answer(w.most)
		if !ok {
			return
		}
		b.queue = b.queue[1:]
		w.frame = b.frame(n)
		close(w.come)
	}
}

// serveAll serves every flow, since what they share is more. m.mu is held.
func (m *buffers) serveAll() {
	for b := range m.flows {
		b.serve()
	}
}

// answer is how large the answer to a fetch may be that asks for so much at most, and
// whether it is worth asking now: fetches do not become ever smaller. What asks for the
// least, as those at idle sources do, reserves nothing, or many of them held open would
// keep memory that nobody uses. of.mu is held.
func (b *budget) answer(most int64) (n int64, ok bool) {
	room := b.room()
	switch {
	case most <= leastFetch:
		return 0, room > 0
	case room < min(most, max(leastFetch, b.of.own()/4)):
		return 0, false
	}
	return lendable(min(most, room)), true
}

// reserve returns memory for the answer to a fetch of up to that many bytes as soon as
// there is room for it, or the context's error.
func (b *budget) reserve(ctx context.Context, most int64) (*frame, error) {
	b.of.mu.Lock()
	w := &waiter{most: most, come: make(chan struct{})}
	b.queue = append(b.queue, w)
	b.serve()
	b.of.mu.Unlock()
	select {
	case <-w.come:
		return w.frame, nil
	case <-ctx.Done():
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	if w.frame != nil { // it came together with the end
		b.hold(-w.frame.size)
	} else {
		b.queue = slices.DeleteFunc(b.queue, func(o *waiter) bool { return o == w })
		b.serve()
	}
	return nil, ctx.Err()
}

// hold counts n more bytes as held, whether or not there is room. of.mu is held.
func (b *budget) hold(n int64) {
	m := b.of
	if _, runs := m.flows[b]; !runs {
		return
	}
	own, before := m.own(), m.beyond
	m.beyond += max(0, b.held+n-own) - max(0, b.held-own)
	b.held += n
	switch {
	case m.beyond < before:
		m.serveAll()
	case n < 0:
		b.serve()
	}
}

// holds is how much a flow holds.
func (b *budget) holds() int64 {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	return b.held
}

// frame is the memory of one fetch response, shared by the chunks that were cut
// from it. It counts as held until the last of them is released.
type frame struct {
	budget *budget
	size   int64
	lent   []byte // by the node's memory, nil if it is the collector's
	refs   atomic.Int32
}

// newFrame counts size bytes as held; the caller holds the first reference.
func (b *budget) newFrame(size int64) *frame {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	return b.frame(size)
}

// frame is newFrame; of.mu is held.
func (b *budget) frame(size int64) *frame {
	f := &frame{budget: b, size: size}
	f.refs.Store(1)
	b.hold(size)
	return f
}

// asks is how many bytes of records the fetch for it may ask for: what surrounds them has
// room, too.
func (f *frame) asks() int32 {
	n := max(f.size, leastFetch)
	return int32(n - n/32)
}

// fill says what came for a reservation. What was lent for it is given back in the end.
func (f *frame) fill(lent []byte) {
	f.resize(int64(len(lent)))
	f.lent = lent
}

func (f *frame) resize(n int64) {
	f.budget.of.mu.Lock()
	defer f.budget.of.mu.Unlock()
	f.budget.hold(n - f.size)
	f.size = n
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
		f.budget.of.memory.put(f.lent)
	}
	f.resize(0)
}
