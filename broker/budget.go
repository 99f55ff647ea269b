package broker

import (
	"cmp"
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
// ever. So a reserve, which suffices for the largest claim, is not given bit by bit:
// who has to wait gets all that he still needs, and does not wait again. The smallest
// are first, and one gets half of what is free at the most, so that a few large ones,
// which may come in slowly, leave room for many small ones.
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
	waiting []*claim            // the smallest first
	holding int                 // of those that wait, how many hold something
	held    map[*claim]struct{} // that hold something
	pressed time.Time           // when it was last looked who is slow
}

// errShort is why a connection is cut.
var errShort = errors.New("memory for large requests and answers is short")

func newBudget(size, reserve int64, patience time.Duration) *budget {
	return &budget{size: size, free: size, reserve: min(reserve, size), patience: patience, held: map[*claim]struct{}{}}
}

// claim is what one request or answer holds of a budget. It is used by one
// goroutine at a time. A nil claim takes nothing.
type claim struct {
	b    *budget
	most int64  // that it will need, 0 if that is not known
	cut  func() // ends what the claim is for, which then releases it

	// The rest is under the budget's mutex.
	bytes   int64
	since   time.Time // the patience with it began
	want    int64     // that it waits for
	asked   time.Time // when it began to wait
	granted chan struct{}
	isCut   bool
}

func (b *budget) claim(most int64, cut func()) *claim {
	return &claim{b: b, most: most, cut: cut, since: time.Now()}
}

// take adds n bytes to what the claim holds, or more, when there is room. No claim
// holds more than the reserve: what is larger counts as that.
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
	if n <= b.free-b.reserve {
		c.grow(n)
		b.mu.Unlock()
		return nil
	}
	c.want, c.asked, c.granted = max(n, min(c.most, b.reserve)-c.bytes), time.Now(), make(chan struct{})
	at, _ := slices.BinarySearchFunc(b.waiting, c.want+1, func(w *claim, want int64) int { return cmp.Compare(w.want, want) })
	b.waiting = slices.Insert(b.waiting, at, c)
	b.holding += c.holds()
	b.grant()
	b.mu.Unlock()
	return c.await(ctx)
}

// hold is take up to n bytes in all.
func (c *claim) hold(ctx context.Context, n int64) error {
	return c.take(ctx, n-c.held())
}

func (c *claim) held() int64 {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	return c.bytes
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
				c.b.leave(slices.Index(c.b.waiting, c))
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
	c.grow(n)
	return true
}

func (c *claim) grow(n int64) {
	c.b.free -= n
	c.bytes += n
	c.b.held[c] = struct{}{}
}

// grant gives those that wait what there is. The mutex is held.
func (b *budget) grant() {
	for len(b.waiting) > 0 {
		c := b.waiting[0]
		if c.want > b.free/2 && !b.stuck() {
			return
		}
		n := c.want
		b.leave(0)
		c.since = c.since.Add(time.Since(c.asked)) // it was not the client who took this long
		c.grow(n)
		close(c.granted)
	}
}

// stuck says that all that hold something wait for more: the reserve is whole.
func (b *budget) stuck() bool { return b.holding == len(b.held) }

// leave takes the claim at a place out of those that wait. The mutex is held.
func (b *budget) leave(at int) {
	c := b.waiting[at]
	c.want = 0
	b.holding -= c.holds()
	b.waiting = slices.Delete(b.waiting, at, at+1)
}

// holds is 1 if the claim holds something.
func (c *claim) holds() int { return min(1, int(c.bytes)) }

// settle says that the claim holds n bytes, with which the patience begins anew.
func (c *claim) settle(n int64) {
	if c == nil {
		return
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.free += c.bytes - n
	c.bytes, c.since = n, time.Now()
	if delete(c.b.held, c); n > 0 {
		c.b.held[c] = struct{}{}
	}
	c.b.grant()
}

// release gives everything back.
func (c *claim) release() { c.settle(0) }

// press cuts what has been held for too long, as much as those that wait need, of
// whom c is one. All of them ask for it, and it is the same for all.
func (b *budget) press(c *claim) {
	b.mu.Lock()
	if time.Since(b.pressed) < b.patience/8 {
		b.mu.Unlock()
		return
	}
	b.pressed = time.Now()
	short := int64(0)
	for _, w := range b.waiting {
		short += w.want
	}
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
