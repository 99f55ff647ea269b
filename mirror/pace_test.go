package mirror

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/flow"
)

func TestPaceHoldsFetchesToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		p.set(1 << 20)
		began := time.Now()
		for range 40 { // 10 MiB
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.spend(256 << 10)
		}
		if took := time.Since(began).Round(time.Millisecond); took != 9750*time.Millisecond {
			t.Errorf("10 MiB at 1 MiB/s, the last not waited for: %v", took)
		}
		if err := p.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // the clock of the test: nothing is fetched
		began = time.Now()
		for range 3 {
			_ = p.wait(t.Context())
			p.spend(1 << 20)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("after an idle hour 3 MiB took %v, want 2s", took)
		}
	})
}

func TestPaceChangesForWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		p.set(1000)
		p.spend(100_000)
		done := make(chan time.Duration)
		wait := func() {
			began := time.Now()
			_ = p.wait(t.Context())
			done <- time.Since(began)
		}
		go wait()
		synctest.Wait()
		p.set(10_000) // ten times as much: what is owed is paid in 10 s
		if took := (<-done).Round(time.Millisecond); took != 10*time.Second {
			t.Errorf("waited %v, want 10s", took)
		}
		p.spend(1_000_000)
		go wait()
		synctest.Wait()
		p.set(0)
		if took := <-done; took != 0 {
			t.Errorf("waited %v without a limit", took)
		}
		p.set(1000)
		p.spend(1_000_000)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
	})
}

func TestPaceOfANodeGoesByItsCopies(t *testing.T) {
	spec := &flow.ReplicationFlow{}
	spec.Spec.Limits.BytesPerSecond = 100
	one := Assignment{Spec: spec, FlowCopies: 10}
	for _, c := range []struct {
		list []Assignment
		want int64
	}{
		{nil, 0},
		{[]Assignment{one}, 10},
		{[]Assignment{one, one, one}, 30},
		{[]Assignment{{Spec: spec}}, 100},
		{[]Assignment{{Spec: &flow.ReplicationFlow{}, FlowCopies: 3}}, 0},
	} {
		if got := paceOf(c.list); got != c.want {
			t.Errorf("%d of %v: %d, want %d", len(c.list), c.list, got, c.want)
		}
	}
}
