package offsets

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// oneCopy is a random history of a copy, with what its ledger was told, an entry a page.
type oneCopy struct {
	told []ledger.Entry
	at   []int64 // where each source offset is, -1 if nowhere
	end  int64   // of the destination
}

func newOneCopy(rng *rand.Rand) *oneCopy {
	c := &oneCopy{told: []ledger.Entry{begin(1, 0)}, end: 100}
	epoch := uint64(1)
	for range 3 + rng.IntN(8) {
		switch n := rng.IntN(10); {
		case n == 0:
			epoch++
			c.told = append(c.told, begin(epoch, int64(len(c.at))))
		case n == 1 && len(c.at) > 0:
			c.lose(rng, epoch)
		default:
			c.hop(rng, epoch)
		}
	}
	return c
}

// hop copies some more, with gaps, markers and others' records between.
func (c *oneCopy) hop(rng *rand.Rand, epoch uint64) {
	from, pairs := int64(len(c.at)), []int64(nil)
	for range 1 + rng.IntN(3) {
		n := 1 + rng.Int64N(4)
		if rng.IntN(4) == 0 {
			pairs = append(pairs, n, gapAborted)
			c.at = append(c.at, slices.Repeat([]int64{-1}, int(n))...)
			continue
		}
		c.end += max(0, rng.Int64N(12)-9)
		pairs = append(pairs, n, c.end)
		for range n {
			c.at = append(c.at, c.end)
			c.end++
		}
	}
	c.end += rng.Int64N(2)
	c.told = append(c.told, hop(epoch, from, pairs...))
}

// lose has the destination lose what it was given last.
func (c *oneCopy) lose(rng *rand.Rand, epoch uint64) {
	source := rng.IntN(len(c.at))
	if n := slices.IndexFunc(c.at[source:], func(at int64) bool { return at >= 0 }); n >= 0 {
		c.end = c.at[source+n]
	}
	c.at = c.at[:source]
	c.told = append(c.told, &ledger.Retraction{Copy: testCopy.Key(), Epoch: epoch, Source: int64(source), Destination: c.end})
}

// without is what is known when some pages are lost, each epoch being another writer's, and
// that is waived.
func (c *oneCopy) without(t *testing.T, lost map[int]bool, unreadable bool) *Maps {
	ms := NewMaps()
	ms.Attach("dst", caughtUp{})
	seen, chains, epoch := ledger.Chains{}, map[uint64]*ledger.Chain{}, uint64(0)
	for i, e := range c.told {
		if b, ok := e.(*ledger.Begin); ok {
			epoch = b.Epoch
			chains[epoch] = ledger.NewChain(ledger.WriterID{byte(epoch)})
		}
		page, err := ledger.Decode(chains[epoch].Encode([]ledger.Entry{e}))
		if err != nil {
			t.Fatal(err)
		}
		at := tail.Position{Cluster: "dst", Offset: int64(i)}
		if lost[i] {
			if unreadable {
				ms.Corrupt(at, &ledger.CorruptError{Reason: "bad"})
			}
			continue
		}
		if err := seen.Verify(page); err != nil {
			ms.Corrupt(at, err)
		}
		ms.Apply(at, page)
	}
	ms.Waive("dst", 0, int64(len(c.told)))
	return ms
}

// TestWaivedHistories: whatever pages of random histories are lost, a position that is
// translated by what was waived skips no record, unless what is lost took back what came
// before, or was the last of all, of which nothing tells.
func TestWaivedHistories(t *testing.T) {
	waived := 0
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 11))
		c := newOneCopy(rng)
		lost := map[int]bool{}
		for range 1 + rng.IntN(2) {
			n := 1 + rng.IntN(len(c.told)-1)
			if _, back := c.told[n].(*ledger.Retraction); !back && n < len(c.told)-1 {
				lost[n] = true
			}
		}
		ms := c.without(t, lost, seed%2 == 0)
		for x := range int64(len(c.at)) {
			r := ms.Route(testCopy.Source, testCopy.Destination).Translate(x, AnyBounds)
			if r.Why == Waived {
				if waived++; r.Exact {
					t.Errorf("seed %d: offset %d is told exactly, and is not known: %+v", seed, x, r)
				}
			}
			for y, at := range c.at[x:] {
				if at >= 0 && at < r.Offset {
					t.Fatalf("seed %d, without %v: offset %d is at %d, %s, and %d, which is not read, at %d", seed, lost, x, r.Offset, r.Why, x+int64(y), at)
				}
			}
		}
	}
	if waived == 0 {
		t.Error("nothing was translated by what is waived")
	}
}
