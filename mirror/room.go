package mirror

import (
	"context"
	"slices"
	"sync"
)

// room is a number of bytes of memory that many share: what is taken of it, of the rooms
// that are part of it together too, stays within its limit, but for what turns out to be
// larger than was asked for. Who finds no room waits, and is served in turn. Its methods
// may be called at the same time; a nil one has no limit.
type room struct {
	of *room // whose part it is, nil if nobody's

	mu    sync.Mutex
	limit int64
	taken int64
	queue []*waiter
}

// waiter is one that waits for room.
type waiter struct {
	bytes int64
	come  chan struct{}
}

func newRoom(limit int64, of *room) *room { return &room{of: of, limit: limit} }

func (r *room) setLimit(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = n
	r.admit()
}

// admit serves who waits, as far as there is room. One that asks for more than there can
// be gets it when nobody has anything. r.mu is held.
func (r *room) admit() {
	for len(r.queue) > 0 && (r.taken == 0 || r.taken+r.queue[0].bytes <= r.limit) {
		r.taken += r.queue[0].bytes
		close(r.queue[0].come)
		r.queue = r.queue[1:]
	}
}

// reserve takes n bytes as soon as there is room for them, or returns the context's error.
func (r *room) reserve(ctx context.Context, n int64) error {
	if r == nil {
		return nil
	}
	if err := r.wait(ctx, n); err != nil {
		return err
	}
	if err := r.of.reserve(ctx, n); err != nil {
		r.change(-n)
		return err
	}
	return nil
}

func (r *room) wait(ctx context.Context, n int64) error {
	t := &waiter{n, make(chan struct{})}
	r.mu.Lock()
	r.queue = append(r.queue, t)
	r.admit()
	r.mu.Unlock()
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.queue, t); i >= 0 {
		r.queue = slices.Delete(r.queue, i, i+1)
	} else { // its turn came with the end
		r.taken -= n
	}
	r.admit()
	return ctx.Err()
}

func (r *room) change(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken += n
	r.admit()
}

// take takes n bytes more, whether or not there is room; below 0 it gives them back.
func (r *room) take(n int64) {
	for ; r != nil; r = r.of {
		r.change(n)
	}
}

// held is what is taken.
func (r *room) held() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken
}
