package mirror

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestAFetchWaitsUntilThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffers(1000).join() // 500 of its own, and 250 while it is alone
		f := b.newFrame(800)         // larger than was asked for
		g := f.retain()
		passed := make(chan *frame, 1)
		go func() {
			r, err := b.reserve(t.Context(), 10)
			if err != nil {
				t.Error(err)
			}
			passed <- r
		}()
		f.release()
		synctest.Wait()
		select {
		case <-passed:
			t.Fatal("a fetch went on while everything was held")
		default:
		}
		g.release()
		r := <-passed
		if r.size != 10 || b.holds() != 10 {
			t.Errorf("%d reserved, %d held", r.size, b.holds())
		}
		r.fill(make([]byte, 600))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.reserve(ctx, 1000); err != nil || b.holds() != 750 {
			t.Errorf("most of it: %v, %d held", err, b.holds())
		}
		if _, err := b.reserve(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) || b.holds() != 750 {
			t.Errorf("full: %v, %d held", err, b.holds())
		}
	})
}

// TestFlowsNeverWaitForEachOther has flows come, go, hold as much as they may and give it
// back, in any order: a flow that holds nothing always has room, what is held together
// stays within the bound, and what one alone may hold is most of it.
func TestFlowsNeverWaitForEachOther(t *testing.T) {
	const limit = 1 << 20
	for seed := range uint64(200) {
		rng := mrand.New(mrand.NewPCG(seed, 0))
		m := newBuffers(limit)
		frames := map[*budget][]*frame{}
		flows := []*budget{}
		grown := false // since nothing was held
		join := func() {
			flows = append(flows, m.join())
			grown = true
		}
		join()
		for step := range 400 {
			b := flows[rng.IntN(len(flows))]
			switch rng.IntN(12) {
			case 0:
				if len(flows) < 40 {
					join()
				}
			case 1: // ends, and what it holds is written later
				if len(flows) > 1 && rng.IntN(3) == 0 {
					b.leave()
					for i := range flows {
						if flows[i] == b {
							flows = append(flows[:i], flows[i+1:]...)
							break
						}
					}
				}
			case 2, 3:
				for _, f := range frames[b] {
					f.release()
				}
				delete(frames, b)
			default:
				ctx, cancel := context.WithCancel(t.Context())
				cancel() // it does not wait
				held := b.holds()
				f, err := b.reserve(ctx, 1+rng.Int64N(limit))
				if err != nil {
					if held == 0 {
						t.Fatalf("seed %d, step %d: a flow that holds nothing has no room: %v", seed, step, err)
					}
					break
				}
				f.resize(rng.Int64N(f.size + 1))
				frames[b] = append(frames[b], f)
			}
			var held, own, beyond int64
			m.mu.Lock()
			own, beyond = m.own(), 0
			for b := range m.flows {
				held += b.held
				beyond += max(0, b.held-own)
			}
			if beyond != m.beyond {
				t.Fatalf("seed %d, step %d: %d held beyond their parts, %d are counted", seed, step, beyond, m.beyond)
			}
			m.mu.Unlock()
			if grown = grown && held > 0; held > limit && !grown || held > limit+limit/2 {
				t.Fatalf("seed %d, step %d: %d bytes are held of %d by %d flows", seed, step, held, limit, len(flows))
			}
		}
		for b, list := range frames {
			for _, f := range list {
				f.release()
			}
			if b.holds() != 0 {
				t.Errorf("seed %d: %d held in the end", seed, b.holds())
			}
		}
		if len(m.flows) != len(flows) {
			t.Errorf("seed %d: %d flows are known, there are %d", seed, len(m.flows), len(flows))
		}
	}
}

func TestOneFlowMayHoldMostOfItsNodesMemory(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for flows, want := range map[int]int64{1: 750, 4: 125 + 250, 100: 5 + 250} {
		m := newBuffers(1000)
		b := m.join()
		for range flows - 1 {
			m.join()
		}
		for {
			if _, err := b.reserve(ctx, 100); err != nil {
				break
			}
		}
		if got := b.holds(); got > want || got < want*3/4 {
			t.Errorf("one of %d flows holds %d, may hold %d", flows, got, want)
		}
	}
}

func TestAFetchAsksForWhatMayCome(t *testing.T) {
	for _, c := range []struct {
		last   int64
		answer int
		want   int64
	}{
		{leastFetch, 0, leastFetch},
		{leastFetch, 200 << 10, 400 << 10},
		{400 << 10, 3 << 20, 6 << 20}, // one batch was larger
		{6 << 20, 8 << 20, fetchBytes},
		{fetchBytes, 100 << 20, fetchBytes},
		{fetchBytes, 100, fetchBytes / 2},
		{fetchBytes / 2, 0, fetchBytes / 4},
	} {
		if got := nextFetch(c.last, c.answer); got != c.want {
			t.Errorf("after %d bytes of %d: %d, want %d", c.answer, c.last, got, c.want)
		}
	}
	for n := 64 << 10; n <= 8<<20; n += 4099 {
		var m memory
		if lent := len(m.get(n)); int64(lent) > withSlack(int64(n)) {
			t.Fatalf("%d bytes are lent for %d, want at most %d", lent, n, withSlack(int64(n)))
		}
		if got := withoutSlack(withSlack(int64(n))); got > int64(n) || got < int64(n)-1 {
			t.Fatalf("with and without slack %d is %d", n, got)
		}
	}
}

// TestFlowsWhoseDestinationIsAwayHoldUpNoOther runs many flows on one node with room for
// two full fetches. All but one go to a destination that takes nothing: together they stay
// within the node's memory, and the other one is copied meanwhile.
func TestFlowsWhoseDestinationIsAwayHoldUpNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("east")
	const flows, records = 8, 200
	n := w.node("a", func(c *Config) { c.BufferBytes = minBufferBytes })
	var all []Assignment
	for i := range flows {
		topic := fmt.Sprintf("orders-%d", i)
		w.create(t, topic, 1)
		list := w.copies(1, 1, topic)
		spec := *list[0].Spec
		spec.Metadata.Name = topic
		list[0].Flow, list[0].Spec = topic, &spec
		all = append(all, list...)
	}
	n.Assign(all)
	eventually(t, "caught up", func() bool { return n.caughtUp(flows) })
	for i := 1; i < flows; i++ {
		w.east.set(t, fmt.Sprintf("orders-%d", i), keyMinInsync, "2")
	}
	fill := func(i int) {
		var batch []*kgo.Record
		for range records { // 20 MB, more than all have room for
			value := make([]byte, 100_000)
			_, _ = rand.Read(value) // nothing that a codec makes small; it never fails
			batch = append(batch, &kgo.Record{Topic: fmt.Sprintf("orders-%d", i), Value: value})
		}
		if err := w.west.client.ProduceSync(t.Context(), batch...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i < flows; i++ {
		fill(i)
	}
	most := int64(0)
	eventually(t, "all that go to the destination which is away wait", func() bool {
		most = max(most, n.held())
		waiting := 0
		for _, s := range n.Status() {
			if s.State != Running {
				waiting++
			}
		}
		return waiting == flows-1
	})
	fill(0)
	eventually(t, "the other one is copied", func() bool {
		most = max(most, n.held())
		for _, s := range n.Status() {
			if s.SourceTopic == "orders-0" {
				return s.Position == records && s.SourceEnd == records
			}
		}
		return false
	})
	if limit := int64(minBufferBytes + flows*(1<<20)); most > limit { // a batch each
		t.Errorf("%d bytes were held, the limit is %d", most, limit)
	}
	for i := 1; i < flows; i++ {
		w.east.set(t, fmt.Sprintf("orders-%d", i), keyMinInsync, "1")
	}
	eventually(t, "caught up", func() bool { return n.caughtUp(flows) })
	for i := range flows {
		if got := len(w.east.read(t, fmt.Sprintf("orders-%d", i), 0, records)); got != records {
			t.Errorf("flow %d: %d records, want %d", i, got, records)
		}
	}
}
