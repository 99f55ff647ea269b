package verify

import (
	"context"
	"sync"
	"time"
)

// pace spreads bytes over time, for all readers of a run together. A response is a
// part of a second's share, or one batch that is larger: those that come after it
// wait for that.
type pace struct {
	rate func() int64 // bytes per second, asked again each time; 0: no limit

	mu   sync.Mutex
	free time.Time // when what was spent is paid for
}

func (p *pace) spend(ctx context.Context, n int) error {
	rate := p.rate()
	if rate <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	wait := p.free.Sub(now)
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// share is how much one response may have at a rate: an eighth of a second's, so
// that what the readers of the four copies that are under way by default fetch at
// once is paid for within a second.
func share(bytesPerSecond int64) int {
	if bytesPerSecond <= 0 {
		return FetchBytes
	}
	return int(min(max(bytesPerSecond/8, minShare), FetchBytes))
}

// minShare keeps a response worth its round trip.
const minShare = 4 << 10

// paced is a Reader whose bytes are spread over time.
type paced struct {
	Reader
	pace *pace
}

func (r paced) Fetch(ctx context.Context, offset int64, limit int) (Answer, error) {
	a, err := r.Reader.Fetch(ctx, offset, min(limit, share(r.pace.rate())))
	if err == nil {
		err = r.pace.spend(ctx, len(a.Records))
	}
	return a, err
}
