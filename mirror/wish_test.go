package mirror

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

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
				c.push(generation, []chunk{k}, k.next, (&budget{freed: make(chan struct{})}).newFrame(1, nil))
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
