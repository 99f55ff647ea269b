package mirror

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/waybillhq/waybill/flow"
)

// pace holds the fetches of a flow to a number of bytes per second. It is paid for
// afterwards, since what an answer holds is known when it has come: each fetch
// waits until what was fetched before is paid, so that one may exceed the limit and
// all together do not. Time in which nothing was fetched is not saved up. It is
// safe for concurrent use.
type pace struct {
	mu      sync.Mutex
	limit   int64     // bytes per second, 0: none
	paid    time.Time // when all that was fetched is paid for
	changed chan struct{}
}

func newPace() *pace { return &pace{changed: make(chan struct{})} }

// set changes the limit, also for who waits. What is owed is owed at the new one.
func (p *pace) set(limit int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if limit == p.limit {
		return
	}
	if owed := time.Until(p.paid); owed > 0 && limit > 0 && p.limit > 0 {
		p.paid = time.Now().Add(time.Duration(float64(owed) * float64(p.limit) / float64(limit)))
	}
	p.limit = limit
	close(p.changed)
	p.changed = make(chan struct{})
}

// spend says that n bytes have been fetched.
func (p *pace) spend(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit == 0 {
		return
	}
	if now := time.Now(); p.paid.Before(now) {
		p.paid = now
	}
	p.paid = p.paid.Add(time.Duration(float64(n) / float64(p.limit) * float64(time.Second)))
}

// allowance is how many bytes one fetch may ask for: a quarter of a second's.
func (p *pace) allowance() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit == 0 {
		return fetchBytes
	}
	return min(max(p.limit/4, int64(flow.MinBytesPerSecond)), fetchBytes)
}

// wait returns when everything is paid for, or with the context's error.
func (p *pace) wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		owed, changed := time.Until(p.paid), p.changed
		free := p.limit == 0 || owed <= 0
		p.mu.Unlock()
		if free {
			return nil
		}
		timer := time.NewTimer(owed)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// paceOf is this node's part of a flow's limit: it goes by the copies.
func paceOf(list []Assignment) int64 {
	if len(list) == 0 {
		return 0
	}
	limit := float64(list[0].Spec.Spec.Limits.BytesPerSecond)
	part := float64(len(list)) / float64(max(list[0].FlowCopies, len(list)))
	return int64(math.Ceil(limit * part))
}
