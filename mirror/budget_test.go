package mirror

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const mib = 1 << 20

// now is a reservation that does not wait.
func (b *budget) now(most int64) (*frame, error) {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	n, ok := b.answer(most)
	if !ok {
		return nil, errors.New("it would wait")
	}
	return b.frame(n), nil
}

func TestAFetchWaitsUntilThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffers(16 * mib).join() // 8 of its own, and 4 while it is alone
		f := b.newFrame(20 * mib)        // larger than was asked for
		g := f.retain()
		wait := func(most int64) <-chan *frame {
			passed := make(chan *frame, 1)
			go func() {
				r, err := b.reserve(t.Context(), most)
				if err != nil {
					t.Error(err)
				}
				passed <- r
			}()
			synctest.Wait()
			return passed
		}
		first, second := wait(mib), wait(2*mib)
		f.release()
		synctest.Wait()
		if len(first)+len(second) != 0 {
			t.Fatal("a fetch went on while everything was held")
		}
		g.release()
		if r := <-first; r.size != mib {
			t.Errorf("the first that waits has %d bytes", r.size)
		}
		if r := <-second; r.size != 2*mib || b.holds() != 3*mib {
			t.Errorf("the second has %d bytes, %d are held", r.size, b.holds())
		}
		b.newFrame(8 * mib)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.reserve(ctx, 4*mib); !errors.Is(err, context.DeadlineExceeded) || b.holds() != 11*mib {
			t.Errorf("full: %v, %d held", err, b.holds())
		}
		if r, err := b.reserve(t.Context(), leastFetch); err != nil || r.size != 0 || r.asks() < leastFetch/2 {
			t.Errorf("one that expects nothing: %+v, %v", r, err)
		}
		if n := len(b.queue); n != 0 {
			t.Errorf("%d wait in the end", n)
		}
	})
}

// TestFlowsNeverWaitForEachOther has flows come, go, hold as much as they may and give it
// back, in any order: a flow that holds nothing always has room, what is held together
// stays within the bound, and of a flow that has ended nothing is counted.
func TestFlowsNeverWaitForEachOther(t *testing.T) {
	const limit = 128 * mib
	for seed := range uint64(200) {
		rng := mrand.New(mrand.NewPCG(seed, 0))
		m := newBuffers(limit)
		frames := map[*budget][]*frame{}
		flows := []*budget{m.join()}
		grown := true // since nothing was held
		for step := range 400 {
			i := rng.IntN(len(flows))
			b := flows[i]
			switch rng.IntN(12) {
			case 0:
				if len(flows) < 40 {
					flows, grown = append(flows, m.join()), true
				}
			case 1: // it ends, and some of what it holds is released later
				if len(flows) > 1 && rng.IntN(3) == 0 {
					b.leave()
					flows = slices.Delete(flows, i, i+1)
				}
			case 2, 3:
				for _, f := range frames[b] {
					f.release()
				}
				delete(frames, b)
			default:
				held := b.holds()
				f, err := b.now(1 + rng.Int64N(16*mib))
				if err != nil {
					if held == 0 {
						t.Fatalf("seed %d, step %d: a flow that holds nothing has no room: %v", seed, step, err)
					}
					break
				}
				f.resize(rng.Int64N(f.size + 1))
				frames[b] = append(frames[b], f)
			}
			m.mu.Lock()
			var held, beyond int64
			for b := range m.flows {
				held += b.held
				beyond += max(0, b.held-m.own())
			}
			if beyond != m.beyond || len(m.flows) != len(flows) {
				t.Fatalf("seed %d, step %d: %d held beyond their parts, %d are counted; %d flows of %d", seed, step, beyond, m.beyond, len(m.flows), len(flows))
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
			if _, runs := m.flows[b]; runs && b.holds() != 0 {
				t.Errorf("seed %d: %d held in the end", seed, b.holds())
			}
		}
	}
}

// Fetches that are held open at idle sources, by however many flows and brokers, keep
// nothing from one that has much to bring, nor does one at a broker that does not answer.
func TestIdleFetchesReserveNothing(t *testing.T) {
	m := newBuffers(16 * mib)
	var busy *budget
	for range 100 {
		busy = m.join()
		for range 30 {
			if f, err := busy.now(leastFetch); err != nil || f.size != 0 {
				t.Fatalf("%+v, %v", f, err)
			}
		}
	}
	if f, err := busy.now(fetchBytes); err != nil || f.size < 3*mib {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestOneFlowMayHoldMostOfItsNodesMemory(t *testing.T) {
	for flows, want := range map[int]int64{1: 96, 4: 16 + 32, 100: 32} {
		m := newBuffers(128 * mib)
		b := m.join()
		for range flows - 1 {
			m.join()
		}
		for {
			if _, err := b.now(mib); err != nil {
				break
			}
		}
		if got := b.holds(); got > want*mib+m.own() || got < want*mib*4/5 {
			t.Errorf("one of %d flows holds %d MiB, may hold %d", flows, got/mib, want)
		}
	}
}

func TestAFetchAsksForWhatMayCome(t *testing.T) {
	for _, c := range []struct{ last, answer, want int64 }{
		{leastFetch, 0, leastFetch},
		{leastFetch, 64 << 10, 256 << 10},
		{400 << 10, 3 << 20, fetchBytes}, // one batch was larger
		{6 << 20, 8 << 20, fetchBytes},
		{fetchBytes, 100 << 20, fetchBytes},
		{fetchBytes, 100, fetchBytes / 2},
		{fetchBytes / 2, 0, fetchBytes / 4},
	} {
		if got := nextFetch(c.last, c.answer); got != c.want {
			t.Errorf("after %d bytes of %d: %d, want %d", c.answer, c.last, got, c.want)
		}
	}
	for n, want := range map[int64]int64{1: 64 << 10, 64 << 10: 64 << 10, 100 << 10: 96 << 10, 8 << 20: 8 << 20, 9 << 20: 8 << 20, 1 << 30: 16 << 20} {
		var m memory
		got := lendable(n)
		if got != want || int64(len(m.get(int(got)))) != got {
			t.Errorf("of %d bytes %d are lent, want %d", n, got, want)
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
