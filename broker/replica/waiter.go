package replica

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/broker/guard"
)

// Waiter is woken when any of the partitions that it is on changes: the high
// watermark or the start moved, or the partition was closed. It remembers which,
// so that who waits looks at those alone. A change between [Partition.Watch] and
// the next look at C is not lost.
type Waiter struct {
	c          chan struct{}
	partitions []*Partition

	mu      sync.Mutex
	changed []int // each once
	noted   []bool
}

// NewWaiter returns a Waiter on no partition, with room for n.
func NewWaiter(n int) *Waiter {
	return &Waiter{c: make(chan struct{}, 1), partitions: make([]*Partition, 0, n), noted: make([]bool, 0, n)}
}

// C receives after a change. Several changes may be one receive.
func (w *Waiter) C() <-chan struct{} { return w.c }

// Changed returns the partitions that have changed since it was last called: the
// numbers of the calls of Watch that put w on them, from 0.
func (w *Waiter) Changed() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := w.changed
	w.changed = nil
	for _, i := range changed {
		w.noted[i] = false
	}
	return changed
}

func (w *Waiter) note(i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.noted[i] {
		w.noted[i] = true
		w.changed = append(w.changed, i)
	}
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// Watch puts w on p, on which it is not yet. It is not for concurrent use on one
// Waiter. A partition that is closed wakes it at once.
func (p *Partition) Watch(w *Waiter) {
	i := len(w.partitions)
	w.partitions = append(w.partitions, p)
	w.mu.Lock()
	w.noted = append(w.noted, false)
	w.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiters[w] = i
	if p.closed {
		w.note(i)
	}
}

// Stop takes w off all its partitions.
func (w *Waiter) Stop() {
	for _, p := range w.partitions {
		p.mu.Lock()
		delete(p.waiters, w)
		p.mu.Unlock()
	}
	w.partitions = nil
}

func (p *Partition) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w, i := range p.waiters {
		w.note(i)
	}
}

// Flusher commits what was appended by those who do not wait (acks=0, or a
// client that left).
type Flusher struct {
	mu    sync.Mutex
	dirty map[*Partition]int64 // to be committed below
	kick  chan struct{}
	limit int
}

// NewFlusher returns a Flusher that syncs at most limit partitions at once.
func NewFlusher(limit int) *Flusher {
	return &Flusher{dirty: map[*Partition]int64{}, kick: make(chan struct{}, 1), limit: limit}
}

// Add asks for everything below end of p to be committed soon.
func (f *Flusher) Add(p *Partition, end int64) {
	f.mu.Lock()
	f.dirty[p] = max(f.dirty[p], end)
	f.mu.Unlock()
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// Run commits until ctx ends. A partition that fails is left to answer for
// itself: its log is offline and says so to the next request. The error is a panic.
func (f *Flusher) Run(ctx context.Context) error {
	for {
		select {
		case <-f.kick:
		case <-ctx.Done():
			return nil
		}
		f.mu.Lock()
		dirty := f.dirty
		f.dirty = map[*Partition]int64{}
		f.mu.Unlock()
		var group errgroup.Group
		group.SetLimit(f.limit)
		for p, end := range dirty {
			group.Go(func() error {
				return guard.Call(func() error {
					_ = p.WaitCommitted(ctx, end)
					return nil
				})
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
}
