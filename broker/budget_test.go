package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (b *budget) left() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.free
}

func noCut(t *testing.T) func() { return func() { t.Error("a claim is cut") } }

func TestClaimsThatWaitForOneAnotherEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(200, 100, time.Hour)
		const claims = 20 // of 100 each: whoever holds a tenth of it fills the budget
		var ended atomic.Int64
		for i := range claims {
			go func() {
				c := b.claim(100, noCut(t))
				time.Sleep(time.Duration(i)) // in an order
				for range 10 {
					if err := c.take(t.Context(), 10); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Second)
				}
				c.release()
				ended.Add(1)
			}()
		}
		time.Sleep(claims * 11 * time.Second)
		synctest.Wait()
		if n := ended.Load(); n != claims || b.left() != 200 {
			t.Errorf("%d of %d claims have ended, %d bytes are left", n, claims, b.left())
		}
	})
}

// TestTheSmallestAreFirst: what is nobody's reserve is given bit by bit; beyond it the
// smallest that wait get all that they need, but half of what is free at the most.
func TestTheSmallestAreFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(200, 100, time.Hour)
		large := b.claim(100, noCut(t))
		if err := large.take(t.Context(), 90); err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, most := range []int64{90, 60, 30, 20, 10} { // as they come
			c := b.claim(most, noCut(t))
			go func() {
				if c.take(t.Context(), 11) == nil { // 10 are not reserved
					got = append(got, c.held())
				}
			}()
			synctest.Wait()
		}
		if !slices.Equal(got, []int64{30, 20, 10 + 1}) { // of 110, 80 and 60
			t.Errorf("%v are given at first", got)
		}
		large.release()
		synctest.Wait()
		if !slices.Equal(got[3:], []int64{60}) { // of 139; 79 are left for 90
			t.Errorf("%v are given later", got[3:])
		}
	})
}

func TestWhoHoldsWhatOthersNeedIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(120, 20, 10*time.Second)
		var cut []int
		var all []*claim
		for i := range 5 {
			c := b.claim(20, func() { cut = append(cut, i); all[i].release() })
			all = append(all, c)
			if err := c.take(t.Context(), 20); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		all[0].settle(20) // begins to write now
		time.Sleep(time.Hour)
		if len(cut) != 0 {
			t.Fatalf("%v are cut although nobody waits", cut)
		}
		all[3].settle(20)
		began := time.Now()
		if err := b.claim(20, noCut(t)).take(t.Context(), 20); err != nil || time.Since(began) > b.patience {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if len(cut) != 1 || cut[0] != 1 {
			t.Errorf("%v are cut, not the one that has held for the longest", cut)
		}
	})
}

// TestAWaitIsNotTheClients: who waited for memory for longer than patience has all of it
// left when he gets some, although others wait still.
func TestAWaitIsNotTheClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(40, 20, 10*time.Second)
		holder := b.claim(20, func() {})
		if err := holder.take(t.Context(), 20); err != nil {
			t.Fatal(err)
		}
		first, second := b.claim(10, noCut(t)), b.claim(20, noCut(t))
		go func() {
			if err := second.take(t.Context(), 20); err != nil {
				t.Error(err)
			}
		}()
		time.AfterFunc(b.patience*3/2, holder.release)
		if err := first.take(t.Context(), 11); err != nil {
			t.Fatal(err)
		}
		if time.Since(first.since) >= b.patience {
			t.Errorf("its patience began %v ago, when it got nothing", time.Since(first.since))
		}
		time.Sleep(b.patience * 3 / 4) // in which it is not cut
		first.release()
		synctest.Wait()
		if second.held() != 20 {
			t.Errorf("the second got %d", second.held())
		}
	})
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100, 100, time.Hour)
		holder, waiter := b.claim(100, noCut(t)), b.claim(1, noCut(t))
		if err := holder.take(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := waiter.take(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("waited: %v", err)
		}
		waiter.release()
		holder.release()
		if b.left() != 100 || len(b.waiting) != 0 || len(b.held) != 0 {
			t.Errorf("left behind: %+v", b)
		}
	})
}

// announce begins a Produce of a size and sends some of it.
func announce(t *testing.T, nc net.Conn, size, sent int) {
	t.Helper()
	frame := frameOf(kmsg.NewPtrProduceRequest(), 9)
	binary.BigEndian.PutUint32(frame, uint32(size))
	if _, err := nc.Write(append(frame, make([]byte, sent)...)); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsAnnouncedHoldsNoMemory: large requests go on beside connections that have
// announced more than the budget, and whose pieces are not late yet.
func TestWhatIsAnnouncedHoldsNoMemory(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Limits.MaxRequestBytes, c.Limits.MaxInFlightBytes = 32<<20, 80<<20 })
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	produceN(t, cl, "t", 0, 1)
	const sent = 300_000
	for range 5 {
		announce(t, dial(t, b.Addr("plain")), 31<<20, sent)
	}
	for deadline := time.Now().Add(20 * time.Second); b.inFlight.left() > b.inFlight.size-5*sent; {
		if time.Now().After(deadline) {
			t.Fatal("what was sent is not counted")
		}
		time.Sleep(time.Millisecond)
	}
	if held := b.inFlight.size - b.inFlight.left(); held > 5*2*sent+5*firstChunk {
		t.Errorf("%d bytes are held for %d that were sent", held, 5*sent)
	}
	large := &kgo.Record{Topic: "t", Value: make([]byte, 900_000)}
	if err := cl.ProduceSync(within(t, stallTimeout/2), large).FirstErr(); err != nil {
		t.Errorf("a large request beside them: %v", err)
	}
}

// TestWhoIsThrottledHoldsNoMemory: more producers than the budget has room for have
// sent their next large requests while they are to wait.
func TestWhoIsThrottledHoldsNoMemory(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Limits.MaxRequestBytes, c.Limits.MaxInFlightBytes = 2<<20, 4<<20 })
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	produceN(t, cl, "t", 0, 1)
	slow := "slow"
	quota := kadm.AlterClientQuotaEntry{Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &slow}}, Ops: []kadm.AlterClientQuotaOp{{Key: producerByteRate, Value: 1000}}}
	if res, err := kadm.NewClient(cl).AlterClientQuotas(within(t, 30*time.Second), []kadm.AlterClientQuotaEntry{quota}); err != nil || res[0].Err != nil {
		t.Fatal(res, err)
	}
	q := kmsg.NewPtrProduceRequest()
	q.SetVersion(9)
	q.Acks = 1
	part := kmsg.NewProduceRequestTopicPartition()
	part.Records = make([]byte, 1<<20)
	q.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{part}}}
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(slow)).AppendRequest(nil, q, 1)
	for range 12 {
		nc := dial(t, b.Addr("plain"))
		if _, err := exchange(t, nc, frame); err != nil { // which is one too many
			t.Fatal(err)
		}
		go func() {
			for range 3 {
				_, _ = nc.Write(frame) // until the test ends
			}
		}()
	}
	for range 10 {
		large := &kgo.Record{Topic: "t", Value: make([]byte, 900_000)}
		if err := cl.ProduceSync(within(t, 30*time.Second), large).FirstErr(); err != nil {
			t.Fatalf("a producer without a quota: %v", err)
		}
	}
	if held := b.inFlight.size - b.inFlight.left(); held > 0 {
		t.Errorf("%d bytes are held", held)
	}
}
