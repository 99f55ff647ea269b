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
	limit   int64     // bytes per second, 0: none; closed: nothing may be fetched yet
	paid    time.Time // when all that was fetched is paid for
	changed chan struct{}

	spent   meter
	waiting int       // fetches that wait
	waited  time.Time // when one has waited last
}

// closed is the limit of a pace that waits to be told one.
const closed = -1

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
	now := time.Now()
	p.spent.add(int64(n), now)
	if p.limit <= 0 {
		return
	}
	if p.paid.Before(now) {
		p.paid = now
	}
	p.paid = p.paid.Add(time.Duration(float64(n) / float64(p.limit) * float64(time.Second)))
}

// allowance is how many bytes one fetch may ask for: a quarter of a second's.
func (p *pace) allowance() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit <= 0 {
		return fetchBytes
	}
	return min(max(p.limit/4, int64(flow.MinBytesPerSecond)), fetchBytes)
}

// wait returns when everything is paid for, or with the context's error.
func (p *pace) wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		owed, changed := time.Until(p.paid), p.changed
		if p.limit == closed {
			owed = math.MaxInt64
		}
		if p.limit == 0 || owed <= 0 {
			p.mu.Unlock()
			return nil
		}
		p.waiting++
		p.mu.Unlock()
		timer := time.NewTimer(owed)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		p.mu.Lock()
		p.waiting--
		p.waited = time.Now()
		p.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// wants is how much of a flow's limit would be used: all of it if a fetch has to wait, or
// had to just now, else a little more than is.
func (p *pace) wants(limit int64, now time.Time) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting > 0 || now.Sub(p.waited) < waitedLately {
		return limit
	}
	return min(limit, int64(1.25*p.spent.perSecond(now)))
}

// waitedLately is for how long a fetch that has waited stands for those to come.
const waitedLately = 2 * time.Second

// has is the limit that is kept.
func (p *pace) has() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.limit)
}

// FlowPace is what a node does with the bandwidth budget of a flow.
type FlowPace struct {
	Flow               string
	Budget             int64 // the flow's, on all nodes together, in bytes per second as all here
	Has, Wants         int64 // what this node keeps to, and what it would use
	Copies, FlowCopies int   // on this node, and on all
}

// budgeted is a flow's bandwidth budget, as far as this node is concerned.
type budgeted struct {
	FlowPace
	byCopies int64 // this node's part if it goes by its copies
	told     bool  // the fleet has said what the part is
	share    int64
}

// assign takes what copies of the flow the node has.
func (b *budgeted) assign(list []Assignment) {
	b.Budget, b.byCopies, b.Copies, b.FlowCopies = 0, paceOf(list), len(list), len(list)
	if len(list) > 0 {
		b.Budget = int64(list[0].Spec.Spec.Limits.BytesPerSecond)
		b.FlowCopies = max(list[0].FlowCopies, len(list))
	}
}

// limit is what the node keeps to. Where the fleet shares the budget, it is nothing before
// the fleet has said how much: others may have what would be this node's by its copies.
func (b *budgeted) limit(shared bool) int64 {
	switch {
	case b.Budget == 0:
		return 0
	case !shared:
		return b.byCopies
	case !b.told || b.share <= 0:
		return closed
	}
	return min(b.share, b.Budget)
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
