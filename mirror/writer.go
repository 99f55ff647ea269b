package mirror

import (
	"sync"
	"sync/atomic"
	"time"
)

// writer is what a copier needs of whoever writes for it at the destination: a
// [lane] where offsets are translated, an [appender] where they are preserved.
type writer interface {
	// ready says that a copier has something to write.
	ready(c *copier)
	// problem is what keeps the writer from its work, for all of its copiers.
	problem() trouble
	// lately is what last kept it from its work.
	lately() obstacle
	// leave says that a copier is gone. Called by the flow's loop alone.
	leave()
}

// readyList are the copiers that have something to write.
type readyList struct {
	mu   sync.Mutex
	list []*copier
	wake chan struct{} // there is something on the list, or else to do
}

func newReadyList() readyList { return readyList{wake: make(chan struct{}, 1)} }

// ready puts a copier on the list.
func (r *readyList) ready(c *copier) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.listed {
		return
	}
	c.listed = true
	r.list = append(r.list, c)
	r.poke()
}

func (r *readyList) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// takeReady empties the list.
func (r *readyList) takeReady() []*copier {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list
	r.list = nil
	for _, c := range list {
		c.listed = false
	}
	return list
}

// complaint is what a writer waits for, as its copiers show it.
type complaint struct {
	trouble atomic.Pointer[trouble]
	last    atomic.Pointer[obstacle]
}

// obstacle is what kept a writer from its work, and when that was found; zero if nothing
// did.
type obstacle struct {
	err error
	at  time.Time
}

// say publishes it, nil when for nothing.
func (p *complaint) say(err error) {
	t := troubleOf(err)
	p.trouble.Store(&t)
	if err != nil {
		p.last.Store(&obstacle{err, time.Now()})
	}
}

func (p *complaint) lately() obstacle {
	if o := p.last.Load(); o != nil {
		return *o
	}
	return obstacle{}
}

func (p *complaint) problem() trouble {
	if t := p.trouble.Load(); t != nil {
		return *t
	}
	return trouble{}
}
