package replica

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Waiter is woken when any of the partitions that it is on changes: the high
// watermark or the start moved, or the partition was closed. A change between
// [Partition.Watch] and the next look at C is not lost.
type Waiter struct {
	c          chan struct{}
	partitions []*Partition
}

// NewWaiter returns a Waiter on no partition.
func NewWaiter() *Waiter { return &Waiter{c: make(chan struct{}, 1)} }

// C receives after a change. Several changes may be one receive.
func (w *Waiter) C() <-chan struct{} { return w.c }

// Watch puts w on p. It is not for concurrent use on one Waiter.
func (p *Partition) Watch(w *Waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiters[w] = struct{}{}
	w.partitions = append(w.partitions, p)
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
	for w := range p.waiters {
		select {
		case w.c <- struct{}{}:
		default:
		}
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
// itself: its log is offline and says so to the next request.
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
				_ = p.WaitCommitted(ctx, end)
				return nil
			})
		}
		_ = group.Wait() // none returns an error
	}
}
