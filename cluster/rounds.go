package cluster

import (
	"context"
	"sync"
	"time"
)

// rounds has those share an answer who want the same asked: an answer is good for
// whoever came before its question was put. So what asking costs grows with time and
// not with how many want to know: questions are put one at a time, and not more
// often than every so long.
type rounds struct {
	ask   func(context.Context) error
	every time.Duration
	turn  chan struct{} // has room for who asks
	began time.Time     // when the last question was put; of who has the turn

	mu   sync.Mutex
	next *round // whose question is still to be put, nil if nobody waits
}

// round is one question. Its err is set when done is closed.
type round struct {
	done chan struct{}
	err  error
}

func newRounds(every time.Duration, ask func(context.Context) error) *rounds {
	return &rounds{ask: ask, every: every, turn: make(chan struct{}, 1)}
}

// join returns the answer to a question that is put after the call.
func (q *rounds) join(ctx context.Context) error {
	q.mu.Lock()
	if q.next == nil {
		q.next = &round{done: make(chan struct{})}
	}
	r := q.next
	q.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case q.turn <- struct{}{}:
	}
	defer func() { <-q.turn }()
	select {
	case <-r.done: // by who had the turn before
		return r.err
	default:
	}
	if !q.rest(ctx) {
		return context.Cause(ctx) // another one who waits for the answer asks
	}
	q.mu.Lock()
	q.next = nil // it is r: only who has the turn takes one off
	q.mu.Unlock()
	q.began = time.Now()
	r.err = q.ask(context.WithoutCancel(ctx)) // for all of them
	close(r.done)
	return r.err
}

// rest waits until the next question may be put.
func (q *rounds) rest(ctx context.Context) bool {
	pause := time.NewTimer(q.every - time.Since(q.began))
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
		return false
	}
}
