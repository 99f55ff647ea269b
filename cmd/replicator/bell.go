package main

import "sync"

// bell tells all who wait that something is other than it was. Whoever follows it
// takes next first and looks then, so that he misses nothing. The zero value is ready.
type bell struct {
	mu sync.Mutex
	c  chan struct{}
}

// next is closed at the next ring.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}
