package mirror

import (
	"context"
	"sync"
	"sync/atomic"
)

// budget bounds the bytes that a flow holds between its source and its
// destination. A fetch waits while they are at the limit, so what is held may
// exceed it by one response for each source broker.
type budget struct {
	mu    sync.Mutex
	used  int64
	limit int64
	freed chan struct{} // closed and replaced when used falls below limit

	memory memory
}

func newBudget(limit int64) *budget {
	return &budget{limit: limit, freed: make(chan struct{})}
}

func (b *budget) setLimit(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = n
	b.signal()
}

func (b *budget) add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
	b.signal()
}

func (b *budget) signal() {
	if b.used < b.limit {
		close(b.freed)
		b.freed = make(chan struct{})
	}
}

func (b *budget) held() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// wait returns when less than the limit is held, or with the context's error.
func (b *budget) wait(ctx context.Context) error {
	for {
		b.mu.Lock()
		room, freed := b.used < b.limit, b.freed
		b.mu.Unlock()
		if room {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
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
	b.add(size)
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
	f.budget.add(-f.size)
}
