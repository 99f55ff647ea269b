package broker

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// budget bounds the memory of what many connections read or are answered. Memory
// is taken through a claim, before it is used and bit by bit: what a client has
// announced costs nothing, what it has sent does.
//
// Claims that each hold a part and wait for the rest could wait for one another for
// ever. So the oldest that still grows may take a reserve that no other may, which
// suffices for the largest claim.
//
// Who holds what others wait for, and for longer than patience, is cut, the oldest
// first: a client that sends or reads too slowly loses its connection, and only
// while memory is short.
type budget struct {
	reserve  int64
	patience time.Duration

	mu      sync.Mutex
	size    int64
	free    int64               // below 0 where a claim was settled for more than it had
	growing list.List           // of *claim, oldest first
	held    map[*claim]struct{} // that hold something
	waiting int
}

// errShort is why a connection is cut.
var errShort = errors.New("memory for large requests and answers is short")

func newBudget(size, reserve int64, patience time.Duration) *budget {
	return &budget{size: size, free: size, reserve: min(reserve, size), patience: patience, held: map[*claim]struct{}{}}
}

// claim is what one request or answer holds of a budget. It is used by one
// goroutine at a time. A nil claim takes nothing.
type claim struct {
	b   *budget
	cut func() // ends what the claim is for, which then releases it

	// The rest is under the budget's mutex.
	bytes   int64
	since   time.Time     // the patience with it began
	place   *list.Element // while it grows
	want    int64         // that it waits for
	granted chan struct{}
	isCut   bool
}

func (b *budget) claim(cut func()) *claim { return &claim{b: b, cut: cut} }

// take adds n bytes to what the claim holds, when there is room. No claim holds
// more than the reserve: what is larger counts as that.
func (c *claim) take(ctx context.Context, n int64) error {
	if c == nil {
		return nil
	}
	b := c.b
	b.mu.Lock()
	if n = min(n, b.reserve-c.bytes); n <= 0 {
		b.mu.Unlock()
		return nil
	}
	c.join()
	if b.fits(c, n) {
		c.grow(n)
		b.mu.Unlock()
		return nil
	}
	c.want, c.granted = n, make(chan struct{})
	b.waiting++
	b.mu.Unlock()
	return c.await(ctx)
}

func (c *claim) await(ctx context.Context) error {
	tick := time.NewTicker(max(time.Millisecond, c.b.patience/4))
	defer tick.Stop()
	for {
		select {
		case <-c.granted:
			return nil
		case <-tick.C:
			c.b.press(c)
		case <-ctx.Done():
			c.b.mu.Lock()
			defer c.b.mu.Unlock()
			if c.want > 0 { // else it was granted meanwhile
				c.want = 0
				c.b.waiting--
			}
			return fmt.Errorf("wait for memory: %w", ctx.Err())
		}
	}
}

// takeWhole takes n bytes at once if afterwards half of what is nobody's reserve is
// left.
func (c *claim) takeWhole(n int64) bool {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.b.free-n < c.b.reserve+(c.b.size-c.b.reserve)/2 {
		return false
	}
	c.join()
	c.grow(n)
	return true
}

// join takes the claim's place among those that grow. The mutex is held.
func (c *claim) join() {
	if c.place == nil {
		c.since = time.Now()
		c.place = c.b.growing.PushBack(c)
	}
}

func (c *claim) grow(n int64) {
	c.b.free -= n
	c.bytes += n
	c.b.held[c] = struct{}{}
}

// fits says whether a claim may take n bytes now.
func (b *budget) fits(c *claim, n int64) bool {
	return n <= b.free-b.reserve || n <= b.free && b.growing.Front() == c.place
}

// grant gives those that wait what there is, the oldest first. The mutex is held.
func (b *budget) grant() {
	for e := b.growing.Front(); e != nil && b.waiting > 0 && b.free > 0; e = e.Next() {
		c := e.Value.(*claim)
		if c.want > 0 && b.fits(c, c.want) {
			c.grow(c.want)
			c.want = 0
			b.waiting--
			close(c.granted)
		}
		if b.free <= b.reserve {
			return // nothing for any but the oldest
		}
	}
}

// settle says that the claim grows no more, and holds n bytes, of which the
// patience begins anew.
func (c *claim) settle(n int64) {
	if c == nil {
		return
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.leave()
	c.b.free += c.bytes - n
	c.bytes, c.since = n, time.Now()
	if delete(c.b.held, c); n > 0 {
		c.b.held[c] = struct{}{}
	}
	c.b.grant()
}

// complete says that the claim grows no more.
func (c *claim) complete() {
	if c == nil {
		return
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.leave()
	c.b.grant()
}

func (c *claim) leave() {
	if c.place != nil {
		c.b.growing.Remove(c.place)
		c.place = nil
	}
}

// release gives everything back.
func (c *claim) release() { c.settle(0) }

// press cuts what has been held for too long, as much as c waits for.
func (b *budget) press(c *claim) {
	b.mu.Lock()
	short := c.want
	var slow []*claim
	for other := range b.held {
		switch {
		case other.isCut:
			short -= other.bytes
		case other != c && time.Since(other.since) >= b.patience:
			slow = append(slow, other)
		}
	}
	slices.SortFunc(slow, func(x, y *claim) int { return cmp.Compare(x.since.UnixNano(), y.since.UnixNano()) })
	for i, s := range slow {
		if short <= 0 {
			slow = slow[:i]
			break
		}
		short -= s.bytes
		s.isCut = true
	}
	b.mu.Unlock()
	for _, s := range slow {
		s.cut()
	}
}
