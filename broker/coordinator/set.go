package coordinator

import (
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Shard is what embeds a [Loop].
type Shard interface{ loop() *Loop }

// Set is the shards of one coordinator. The zero Set has none. It is safe for
// concurrent use.
type Set[S Shard] struct {
	mu sync.RWMutex
	by map[int32]led[S]
}

// led is a partition that is led, or cannot be, which down says.
type led[S Shard] struct {
	shard S
	down  error
}

// Lead takes a shard in, before it is served. Its partition must not be led.
func (c *Set[S]) Lead(s S) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := s.loop()
	if have, ok := c.by[l.partition]; ok && have.down == nil {
		select {
		case <-have.shard.loop().done:
		default:
			return fmt.Errorf("partition %d of %s is led already", l.partition, l.topic)
		}
	}
	c.put(l.partition, led[S]{shard: s})
	return nil
}

func (c *Set[S]) put(partition int32, l led[S]) {
	if c.by == nil {
		c.by = map[int32]led[S]{}
	}
	c.by[partition] = l
}

// Down says that a partition cannot be led, and why: what asks for it is told so.
func (c *Set[S]) Down(partition int32, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(partition, led[S]{down: why})
}

// Led returns the shard of a partition, if it is led here and loaded.
func (c *Set[S]) Led(partition int32) (s S, err error) {
	c.mu.RLock()
	have, ok := c.by[partition]
	c.mu.RUnlock()
	if !ok {
		return s, kerr.NotCoordinator
	}
	return have.get()
}

func (l led[S]) get() (s S, err error) {
	if l.down != nil {
		return s, fmt.Errorf("%w: %w", kerr.CoordinatorNotAvailable, l.down)
	}
	select {
	case <-l.shard.loop().done:
		return s, l.shard.loop().Ended()
	default:
	}
	select {
	case <-l.shard.loop().ready:
		return l.shard, nil
	default:
		return s, kerr.CoordinatorLoadInProgress
	}
}

// Available is nil, or COORDINATOR_NOT_AVAILABLE if a partition is down: one that is
// being loaded is not.
func (c *Set[S]) Available(partition int32) error {
	if _, err := c.Led(partition); errors.Is(err, kerr.CoordinatorNotAvailable) {
		return err
	}
	return nil
}

// All returns the shards that are led and loaded. An error says that they are not
// all: one that is being loaded or is down is missing.
func (c *Set[S]) All() ([]S, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var all []S
	var missing error
	for partition, l := range c.by {
		s, err := l.get()
		if err == nil {
			all = append(all, s)
		} else if missing == nil || errors.Is(err, kerr.CoordinatorNotAvailable) {
			missing = fmt.Errorf("partition %d: %w", partition, err)
		}
	}
	return all, missing
}

// Taken returns the shard of a partition that is not down: it is led, is being loaded
// (what it is given to do waits for that), or its leadership has ended and its partition
// is about to be led again.
func (c *Set[S]) Taken(partition int32) (s S, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l, ok := c.by[partition]
	switch {
	case !ok:
		return s, kerr.NotCoordinator
	case l.down != nil:
		return s, fmt.Errorf("%w: %w", kerr.CoordinatorNotAvailable, l.down)
	}
	return l.shard, nil
}

// Faults are the partitions that cannot be served, and why: one that is being
// loaded is not among them.
func (c *Set[S]) Faults() map[int32]error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	faults := map[int32]error{}
	for partition, l := range c.by {
		if _, err := l.get(); errors.Is(err, kerr.CoordinatorNotAvailable) {
			faults[partition] = err
		}
	}
	return faults
}
