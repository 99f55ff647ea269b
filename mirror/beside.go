package mirror

import (
	"context"
	"time"
)

// beside is work that goes on in a goroutine of its own while its owner goes round: one
// piece at a time, whose outcome the owner takes when it comes by. All methods are the
// owner's, who calls end before it is done.
type beside[T any] struct {
	outcome chan T // of the piece that is under way, nil for none
	cancel  context.CancelFunc
}

// busy says that there is a piece of which the outcome was not taken.
func (b *beside[T]) busy() bool { return b.outcome != nil }

// start begins a piece, which outlives ctx and ends after within or with end. There must
// be none.
func (b *beside[T]) start(ctx context.Context, within time.Duration, work func(context.Context) T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	outcome := make(chan T, 1)
	b.outcome, b.cancel = outcome, cancel
	go func() { outcome <- work(ctx) }()
}

// take waits for the outcome at most so long, not at all for 0, and no longer than ctx.
func (b *beside[T]) take(ctx context.Context, wait time.Duration) (outcome T, ok bool) {
	if b.outcome == nil {
		return outcome, false
	}
	select {
	case outcome = <-b.outcome:
		b.done()
		return outcome, true
	default:
	}
	if wait <= 0 {
		return outcome, false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case outcome = <-b.outcome:
		b.done()
		return outcome, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return outcome, false
}

func (b *beside[T]) done() {
	b.cancel()
	b.outcome, b.cancel = nil, nil
}

// end breaks off what is under way and waits for it.
func (b *beside[T]) end() {
	if b.outcome != nil {
		b.cancel()
		<-b.outcome
		b.done()
	}
}
