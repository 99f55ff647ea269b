package mirror

import (
	"context"
	"sync"
	"sync/atomic"
)

// buffers is the memory of a node for what its flows have fetched and not written yet.
// Half of it is split evenly between the flows. Of the other half a flow may take as much
// as it leaves (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length thresholds
// for shared-memory packet switches", 1998): one that is alone has three quarters of
// everything, and however many hold all that they may because their destinations are away,
// the next one still finds room. Flows never wait for each other. Where flows are added
// while others hold all that they may, half as much again may be held, at the very most,
// until those have written.
type buffers struct {
	memory memory

	mu      sync.Mutex
	limit   int64
	flows   map[*budget]bool // true once a flow has ended; it is forgotten when it holds nothing
	beyond  int64            // of what flows hold, what is more than their own parts
	waiting int
	freed   chan struct{} // closed and replaced when somebody waits and may have room
}

func newBuffers(limit int64) *buffers {
	return &buffers{limit: limit, flows: map[*budget]bool{}, freed: make(chan struct{})}
}

// budget is what one flow holds of its node's buffers. What is held may exceed the bounds
// by what nobody can know before it comes: a batch that is larger than what was asked for,
// of each source broker, and what a batch on the record path becomes.
type budget struct {
	of   *buffers
	held int64 // guarded by of.mu
}

// join is the budget of a flow that begins.
func (m *buffers) join() *budget {
	b := &budget{of: m}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flows[b] = false
	m.split()
	return b
}

// leave is called when a flow has ended.
func (b *budget) leave() {
	m := b.of
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flows[b] = true
	m.forget(b)
}

// forget drops a flow that has ended once it holds nothing. m.mu is held.
func (m *buffers) forget(b *budget) {
	if m.flows[b] && b.held == 0 {
		delete(m.flows, b)
		m.split()
	}
}

// split counts anew, since the flows are others. m.mu is held.
func (m *buffers) split() {
	m.beyond = 0
	for b := range m.flows {
		m.beyond += max(0, b.held-m.own())
	}
	m.signal()
}

// own is the part of one flow that no other may take. m.mu is held.
func (m *buffers) own() int64 { return m.limit / 2 / int64(max(1, len(m.flows))) }

// signal wakes who waits for room. m.mu is held.
func (m *buffers) signal() {
	if m.waiting > 0 {
		close(m.freed)
		m.freed = make(chan struct{})
	}
}

// hold counts n more bytes as held by a flow, whether or not there is room. m.mu is held.
func (m *buffers) hold(b *budget, n int64) {
	own := m.own()
	m.beyond += max(0, b.held+n-own) - max(0, b.held-own)
	b.held += n
	if n < 0 {
		m.forget(b)
		m.signal()
	}
}

// room is how much more a flow may take now, and leave as much of what all share.
func room(limit, own, beyond, held int64) int64 {
	return (own - held + max(0, limit/2-beyond)) / 2
}

// reserve takes up to n bytes for the answer to a fetch as soon as there is room, or
// returns the context's error. It waits for a quarter of the flow's own part, so that
// fetches do not become ever smaller.
func (b *budget) reserve(ctx context.Context, n int64) (*frame, error) {
	m := b.of
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		own := m.own()
		if free := room(m.limit, own, m.beyond, b.held); free >= min(n, max(1, own/4)) {
			return b.frame(min(n, free)), nil
		}
		if err := m.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// wait returns when there may be more room, or the context's error. m.mu is held, but not
// while it waits.
func (m *buffers) wait(ctx context.Context) error {
	freed := m.freed
	m.waiting++
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.waiting--
	}()
	select {
	case <-freed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
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
	b.of.hold(b, size)
	return f
}

// fill says what came for a reservation. What was lent for it is given back in the end.
func (f *frame) fill(lent []byte) {
	f.resize(int64(len(lent)))
	f.lent = lent
}

func (f *frame) resize(n int64) {
	m := f.budget.of
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hold(f.budget, n-f.size)
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
