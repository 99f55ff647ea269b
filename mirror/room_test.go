package mirror

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestAFetchWaitsUntilThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(newRoom(100, nil))
		f := b.newFrame(120, nil) // larger than was asked for
		g := f.retain()
		passed := make(chan error, 1)
		go func() { passed <- b.reserve(t.Context(), 10) }()
		f.release()
		synctest.Wait()
		select {
		case <-passed:
			t.Fatal("a fetch went on while everything was held")
		default:
		}
		g.release()
		if err := <-passed; err != nil || b.held() != 10 {
			t.Errorf("%v, %d held", err, b.held())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.reserve(ctx, 91); !errors.Is(err, context.DeadlineExceeded) || b.held() != 10 {
			t.Errorf("full: %v, %d held", err, b.held())
		}
		b.setLimit(101)
		if err := b.reserve(t.Context(), 91); err != nil {
			t.Errorf("after a higher limit: %v", err)
		}
		b.take(-101)
		if err := b.reserve(t.Context(), 1000); err != nil || b.held() != 1000 {
			t.Errorf("more than there is, alone: %v, %d held", err, b.held())
		}
	})
}

// TestRoomIsNeverExceeded has many flows fetch on one node, some of which write slowly and
// some of which are stopped while they wait: what they hold together stays within the
// node's memory, and each gets its turn.
func TestRoomIsNeverExceeded(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const flows, limit = 40, 4000
			node := newRoom(limit, nil)
			ctx, stop := context.WithCancel(t.Context())
			var brokers sync.WaitGroup
			turns := make([]atomic.Int64, flows)
			for i := range flows {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				flow := newRoom(limit/flows, node)
				for range 3 { // brokers
					brokers.Go(func() {
						for ctx.Err() == nil {
							n := 1 + rng.Int64N(limit/flows)
							patience, cancel := context.WithTimeout(ctx, time.Duration(1+rng.IntN(5000))*time.Millisecond)
							err := flow.reserve(patience, n)
							cancel()
							if err != nil {
								continue
							}
							if held := node.held(); held > limit {
								t.Errorf("%d bytes are held of %d", held, limit)
							}
							turns[i].Add(1)
							time.Sleep(time.Duration(1+i*i) * time.Millisecond) // the clock of the test: it is written
							flow.take(-n)
						}
					})
				}
			}
			time.Sleep(time.Minute)
			stop()
			brokers.Wait()
			for i := range turns {
				if turns[i].Load() == 0 {
					t.Errorf("flow %d never got its turn", i)
				}
			}
			if held := node.held(); held != 0 {
				t.Errorf("%d bytes are held in the end", held)
			}
		})
	}
}

func TestAFetchAsksForTwiceWhatCame(t *testing.T) {
	for answer, want := range map[int]int64{0: leastFetch, 200 << 10: 400 << 10, 3 << 20: 6 << 20, 8 << 20: fetchBytes, 100 << 20: fetchBytes} {
		if got := nextFetch(answer); got != want {
			t.Errorf("after %d bytes: %d, want %d", answer, got, want)
		}
	}
	for _, c := range []struct{ limit, wanted, want int64 }{{128 << 20, fetchBytes, fetchBytes}, {4 << 20, fetchBytes, 2 << 20}, {1, fetchBytes, 1}} {
		if got := newBudget(newRoom(c.limit, nil)).part(c.wanted); got != c.want {
			t.Errorf("%d of %d: %d, want %d", c.wanted, c.limit, got, c.want)
		}
	}
}

// TestManyFlowsShareTheMemoryOfANode runs four times as many flows as there is room for
// full fetches, into a destination that takes nothing.
func TestManyFlowsShareTheMemoryOfANode(t *testing.T) {
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
	fs := w.hosts["east"].fs
	fs.SetSpace(fs.Used() + 1000)
	for i := range flows {
		var batch []*kgo.Record
		for range records { // 20 MB, more than all have room for
			value := make([]byte, 100_000)
			_, _ = crand.Read(value) // nothing that a codec makes small; it never fails
			batch = append(batch, &kgo.Record{Topic: fmt.Sprintf("orders-%d", i), Value: value})
		}
		if err := w.west.client.ProduceSync(t.Context(), batch...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	most := int64(0)
	eventually(t, "all wait", func() bool {
		most = max(most, n.memory.held())
		for _, s := range n.Status() {
			if s.State == Running {
				return false
			}
		}
		return true
	})
	if limit := int64(minBufferBytes + flows*(1<<20)); most > limit { // a batch each
		t.Errorf("%d bytes were held, the limit is %d", most, limit)
	}
	fs.SetSpace(-1)
	eventually(t, "caught up", func() bool { return n.caughtUp(flows) })
	for i := range flows {
		if got := len(w.east.read(t, fmt.Sprintf("orders-%d", i), 0, records)); got != records {
			t.Errorf("flow %d: %d records, want %d", i, got, records)
		}
	}
}
