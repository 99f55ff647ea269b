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

func TestAClosedPaceWaitsToBeTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		p.set(closed)
		passed := make(chan error, 1)
		go func() { passed <- p.wait(t.Context()) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(passed) > 0 || p.has() != 0 || p.wants(1000, time.Now()) != 1000 {
			t.Errorf("it passes, has %d and wants %d", p.has(), p.wants(1000, time.Now()))
		}
		p.set(500)
		if err := <-passed; err != nil || p.has() != 500 {
			t.Errorf("told: %v, has %d", err, p.has())
		}
	})
}

func TestWhatAPaceWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 1 << 30
		p := newPace()
		p.set(1 << 20)
		if got := p.wants(budget, time.Now()); got != 0 {
			t.Errorf("at rest it wants %d", got)
		}
		time.Sleep(time.Minute)
		for range 20 { // a tenth of what it may
			_ = p.wait(t.Context())
			p.spend(100 << 10)
			time.Sleep(time.Second)
		}
		if got := p.wants(budget, time.Now()); got < 100<<10 || got > 130<<10 {
			t.Errorf("at 100 KiB/s it wants %d", got)
		}
		p.spend(2 << 20)
		_ = p.wait(t.Context())
		if got := p.wants(budget, time.Now()); got != budget {
			t.Errorf("when it had to wait it wants %d", got)
		}
		time.Sleep(time.Minute)
		if got := p.wants(budget, time.Now()); got != 0 {
			t.Errorf("at rest again it wants %d", got)
		}
	})
}

func TestLimitOfANode(t *testing.T) {
	spec := &flow.ReplicationFlow{}
	spec.Spec.Limits.BytesPerSecond = 100
	list := []Assignment{{Spec: spec, FlowCopies: 10}}
	var b budgeted
	b.assign(list)
	if own, none := b.limit(false), b.limit(true); own != 10 || none != closed {
		t.Errorf("by copies %d, before it is told %d", own, none)
	}
	for share, want := range map[int64]int64{90: 90, 0: closed, 200: 100} {
		if b.share, b.told = share, true; b.limit(true) != want {
			t.Errorf("told %d: %d, want %d", share, b.limit(true), want)
		}
	}
	b.assign([]Assignment{{Spec: &flow.ReplicationFlow{}}})
	if got := b.limit(true); got != 0 {
		t.Errorf("without a budget: %d", got)
	}
}
