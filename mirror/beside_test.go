package mirror

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestWorkGoesOnBesideItsOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b beside[int]
		release := make(chan int)
		work := func(ctx context.Context) int {
			select {
			case n := <-release:
				return n
			case <-ctx.Done():
				return -1
			}
		}
		if _, ok := b.take(t.Context(), time.Hour); ok || b.busy() {
			t.Fatal("there is an outcome of nothing")
		}
		round, roundIsOver := context.WithCancel(t.Context())
		b.start(round, time.Minute, work)
		roundIsOver()
		began := time.Now()
		if _, ok := b.take(t.Context(), 0); ok || !b.busy() || time.Since(began) != 0 {
			t.Error("a look did not pass by work that is under way")
		}
		if _, ok := b.take(t.Context(), time.Second); ok || time.Since(began) != time.Second {
			t.Errorf("an outcome was waited for %v, want a second", time.Since(began))
		}
		release <- 7
		if n, ok := b.take(t.Context(), time.Second); !ok || n != 7 || b.busy() {
			t.Errorf("the outcome is %d, %v, want 7", n, ok)
		}
		b.start(t.Context(), time.Minute, work)
		if n, ok := b.take(t.Context(), time.Hour); !ok || n != -1 {
			t.Errorf("work that took longer than it may was not ended")
		}
		b.start(t.Context(), time.Hour, work)
		began = time.Now()
		if b.end(); b.busy() || time.Since(began) != 0 {
			t.Error("work that was broken off goes on")
		}
		b.end()
	})
}
