package mirror

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestAFetcherHearsOfWhatACopyWants does to a copy what may happen to one, in any
// order: whatever its fetcher last heard must be what it wants, and a fetcher that has
// lost the copy must have heard of that.
func TestAFetcherHearsOfWhatACopyWants(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		c := runningCopier(t, "orders")
		readers := []*wishes{newWishes(), newWishes()}
		type heard struct {
			is   appetite
			wish wish
		}
		last := map[*wishes]heard{}
		var steps []int
		for range 60 {
			step := rng.IntN(14)
			steps = append(steps, step)
			generation := c.currentGeneration()
			switch step {
			case 0, 1, 2:
				k := gapChunk(c.fetchNext, c.fetchNext+5, ledger.Compacted, 1)
				k.batch = make([]byte, 1<<20)
				c.push(generation, []chunk{k}, k.next, newBuffers(1).join().newFrame(1))
			case 3, 4:
				c.take()
			case 5:
				c.ask(generation, c.fetchNext)
			case 6:
				c.resolved(generation)
			case 7:
				c.unresolved(generation, errOrigin)
			case 8:
				c.sourceTrouble(kerr.BrokerNotAvailable)
			case 9:
				c.watermarks(0, 100, 100, time.Now())
			case 10:
				c.suspect(generation, errSuspect)
			case 11:
				c.begin(Position{Exists: true, Next: 7}, limits{}, 0, nil, nil)
			case 12:
				c.settle(3, 1, nil)
			case 13:
				c.readBy(readers[rng.IntN(2)])
			}
			for _, r := range readers {
				for range r.take(nil) {
					_, is, _ := c.want(r, time.Now())
					last[r] = heard{is, c.wishNow()}
				}
				switch is := last[r]; {
				case c.wishing.reader != r && is.is != leaves:
					t.Fatalf("after %v: a fetcher still takes the copy for its own", steps)
				case c.wishing.reader == r && is.wish != c.wishNow():
					t.Fatalf("after %v: the fetcher heard of %+v, the copy wants %+v", steps, is.wish, c.wishNow())
				}
			}
		}
	}
}

// TestARestingFetcherHearsOfALeaderThatIsBack: it may have seen the partition without
// one, and the copy has wanted the same all the time.
func TestARestingFetcherHearsOfALeaderThatIsBack(t *testing.T) {
	views := func(leader int32, err error) *view {
		return &view{brokers: map[int32]string{1: "x"}, topics: map[string]topicView{"orders": {partitions: []partitionView{{leader: leader, epoch: 5, err: err}}}}}
	}
	c := runningCopier(t, "orders")
	p := &peer{}
	p.current.Store(views(-1, kerr.LeaderNotAvailable))
	f := &fetcher{reading: reading{broker: 1}, source: p, wishes: newWishes(), members: map[*copier]appetite{}, resting: map[*copier]time.Time{}}
	c.readBy(f.wishes)
	f.plan(time.Now())
	<-f.wishes.wake
	p.current.Store(views(1, nil))
	c.readBy(f.wishes) // as whoever looks at a new view does
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f.rest(ctx, time.Now())
	if ctx.Err() != nil {
		t.Fatalf("it rests: %v", f.members[c])
	}
}

// TestALeaderMissedForShorterThanAFetchTakes: the flow saw the partition without one, its
// fetcher did not, and an idle partition's broker has nothing to say.
func TestALeaderMissedForShorterThanAFetchTakes(t *testing.T) {
	leads := func() *view {
		return &view{brokers: map[int32]string{1: "x"}, topics: map[string]topicView{"orders": {partitions: []partitionView{{leader: 1, epoch: 5}}}}}
	}
	for name, last := range map[string]*kerr.Error{"it was well": nil, "it was refused meanwhile": kerr.NotLeaderForPartition} {
		t.Run(name, func(t *testing.T) {
			c := runningCopier(t, "orders")
			c.confirm(c.currentGeneration(), 5)
			p := &peer{poke: func() {}}
			p.current.Store(leads())
			f := &fetcher{reading: reading{broker: 1}, source: p, pace: newPace(), wishes: newWishes(), members: map[*copier]appetite{}, resting: map[*copier]time.Time{}}
			c.readBy(f.wishes)
			f.plan(time.Now())
			named := f.request(time.Now(), 1<<20).Topics
			answer := func(err *kerr.Error) {
				resp := kmsg.NewPtrFetchResponse()
				resp.SessionID = 7
				for _, rt := range named {
					ft := kmsg.NewFetchResponseTopic()
					ft.Topic, ft.TopicID = rt.Topic, rt.TopicID
					fp := kmsg.NewFetchResponseTopicPartition()
					if fp.HighWatermark, fp.LastStableOffset = 7, 7; err != nil {
						fp.ErrorCode = err.Code
					}
					ft.Partitions = append(ft.Partitions, fp)
					resp.Topics = append(resp.Topics, ft)
				}
				if _, err := f.session.answered(resp); err != nil {
					t.Fatal(err)
				}
				f.deliver(t.Context(), resp, newBuffers(1).join().newFrame(1), time.Now())
			}
			answer(nil)
			if last != nil {
				answer(last)
			}

			c.sourceTrouble(kerr.LeaderNotAvailable)
			p.current.Store(leads())
			c.readBy(f.wishes)
			f.plan(time.Now().Add(time.Minute))
			if well := c.status(time.Now()).State == Running; well != (last == nil) {
				t.Errorf("it is well: %v", well)
			}
		})
	}
}

// TestACopyIsListedOnce however often it is given to the fetcher that has it: each entry
// is a partition of a request.
func TestACopyIsListedOnce(t *testing.T) {
	c, r := runningCopier(t, "orders"), newWishes()
	for range 3 {
		c.readBy(r)
		c.push(c.currentGeneration(), []chunk{gapChunk(c.fetchNext, c.fetchNext+5, ledger.Compacted, 1)}, c.fetchNext+5, nil)
	}
	<-r.wake
	c.readBy(r)
	if list := r.take(nil); len(list) != 1 || len(r.wake) != 1 {
		t.Errorf("listed %d times, woken: %v", len(list), len(r.wake) == 1)
	}
	c.want(r, time.Now())
	c.readBy(r) // it was looked at, and is to be again
	if list := r.take(nil); len(list) != 1 {
		t.Errorf("after a look: listed %d times", len(list))
	}
}

// TestASourceThatContradictsItselfIsAskedLessAndLess while it refuses an offset that it
// has, and its copy says so.
func TestASourceThatContradictsItselfIsAskedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := runningCopier(t, "orders"), newWishes()
		c.readBy(r)
		rest := func() time.Duration {
			c.contradicted(kerr.OffsetOutOfRange)
			_, is, until := c.want(r, time.Now())
			if is != rests {
				t.Fatalf("got %v, want rest", is)
			}
			return time.Until(until)
		}
		first := rest()
		for range 5 {
			rest()
		}
		if last := rest(); last < 10*first {
			t.Errorf("it rests %s at first and %s after seven refusals", first, last)
		}
		c.watermarks(0, 100, 100, time.Now())
		if again := rest(); again > 2*first {
			t.Errorf("after an answer it rests %s", again)
		}
	})
	var broken atomic.Bool
	w := newWorldBehind(t, nil, map[string]*liar{"west": newLiar(t, nil, func(_ kmsg.Request, resp kmsg.Response) {
		r, ok := resp.(*kmsg.FetchResponse)
		if !ok || !broken.Load() {
			return
		}
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				r.Topics[i].Partitions[j].ErrorCode, r.Topics[i].Partitions[j].RecordBatches = kerr.OffsetOutOfRange.Code, nil
			}
		}
	})})
	w.create(t, "orders", 1)
	n := w.node("a", nil)
	n.Assign(w.copies(1, 1, "orders"))
	w.west.produce(t, "orders", 0, 0, 3)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	broken.Store(true)
	w.west.produce(t, "orders", 0, 3, 6)
	eventually(t, "it says what the source refuses", func() bool { return strings.Contains(n.only().Reason, "refuses offset 3") })
	broken.Store(false)
	eventually(t, "it copies", func() bool { return n.only().State == Running && n.only().Position == 6 })
}

// TestAnIdleCopyWhoseLeaderIsBackIsWell though no record comes that would say so.
func TestAnIdleCopyWhoseLeaderIsBackIsWell(t *testing.T) {
	var leaderless atomic.Bool
	w := newWorldBehind(t, nil, map[string]*liar{"west": newLiar(t, nil, func(_ kmsg.Request, resp kmsg.Response) {
		r, ok := resp.(*kmsg.MetadataResponse)
		if !ok || !leaderless.Load() {
			return
		}
		for i := range r.Topics {
			if r.Topics[i].Topic == nil || *r.Topics[i].Topic != "orders" {
				continue
			}
			for j := range r.Topics[i].Partitions {
				r.Topics[i].Partitions[j].Leader, r.Topics[i].Partitions[j].ErrorCode = -1, kerr.LeaderNotAvailable.Code
			}
		}
	})})
	w.create(t, "orders", 1)
	n := w.node("a", func(c *Config) { c.MetadataInterval = 200 * time.Millisecond })
	n.Assign(w.copies(1, 1, "orders"))
	w.west.produce(t, "orders", 0, 0, 3)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	leaderless.Store(true)
	eventually(t, "it says that there is no leader", func() bool { return n.only().State != Running })
	leaderless.Store(false)
	eventually(t, "it runs", func() bool { return n.only().State == Running })
	w.west.produce(t, "orders", 0, 3, 6)
	eventually(t, "it copies", func() bool { return n.only().Position == 6 })
}

// TestASourceThatSaysNothingOfItsHistoryIsTrouble: a partition that is left out of the
// answer is asked about again after a while, and the copy says so.
func TestASourceThatSaysNothingOfItsHistoryIsTrouble(t *testing.T) {
	var silent atomic.Bool
	w := newWorldBehind(t, nil, map[string]*liar{"west": newLiar(t, nil, func(_ kmsg.Request, resp kmsg.Response) {
		if !silent.Load() {
			return
		}
		switch r := resp.(type) {
		case *kmsg.MetadataResponse: // there seems to be another leader
			for i := range r.Topics {
				for j := range r.Topics[i].Partitions {
					r.Topics[i].Partitions[j].LeaderEpoch++
				}
			}
		case *kmsg.OffsetForLeaderEpochResponse:
			r.Topics = nil
		}
	})})
	w.create(t, "orders", 1)
	n := w.node("a", func(c *Config) { c.MetadataInterval = 200 * time.Millisecond })
	n.Assign(w.copies(1, 1, "orders"))
	w.west.produce(t, "orders", 0, 0, 3)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	silent.Store(true)
	eventually(t, "it says that there is no answer", func() bool { return strings.Contains(n.only().Reason, "leader epoch") })
	silent.Store(false)
	w.west.produce(t, "orders", 0, 3, 6)
	eventually(t, "it copies", func() bool { return n.only().State == Running && n.only().Position == 6 })
}
