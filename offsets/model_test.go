package offsets

import (
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// world is a naive model of two partitions and the copies between them: every
// record by itself, with an identity, so that "read" and "unread" are sets.
type world struct {
	rng   *rand.Rand
	logs  [2][]rec
	copy  [2]copyState // copy i reads logs[i] and writes logs[1-i]
	fresh int
}

// rec is one offset of a log.
type rec struct {
	id      int           // of a record, 0 for a marker and the like
	reason  ledger.Reason // why no copy of it is made, 0 if one is
	foreign bool          // came by the other copy
}

type copyState struct {
	id    ledger.CopyID
	epoch uint64
	next  int
	start int
	image map[int]int // source offset -> destination offset
	holes map[int]bool
	m     *Map
}

var (
	historySeed = flag.Uint64("history-seed", 0, "the first seed of random histories")
	histories   = flag.Uint64("histories", 1, "how many times as many are played")
)

// seeds are n, or as many times as many as are asked for, and those that something was once
// wrong with.
func seeds(n uint64, found ...uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for seed := *historySeed; seed < *historySeed+n**histories; seed++ {
			if !yield(seed) {
				return
			}
		}
		for _, seed := range found {
			if !yield(seed) {
				return
			}
		}
	}
}

func newWorld(seed uint64, start int) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1))}
	for i := range w.copy {
		ends := []ledger.End{{Cluster: "a", TopicID: ledger.TopicID{1}}, {Cluster: "b", TopicID: ledger.TopicID{2}}}
		w.copy[i] = copyState{
			id: ledger.CopyID{Source: ends[i], Destination: ends[1-i]}, image: map[int]int{}, holes: map[int]bool{}, m: NewMap(),
			next: start, start: start,
		}
	}
	return w
}

func (w *world) begin(i int) {
	c := &w.copy[i]
	c.epoch++
	c.m.Apply(&ledger.Begin{Copy: c.id, Epoch: c.epoch, Resume: int64(c.next)})
}

// write appends ordinary records, and what stands between them, to a log.
func (w *world) write(i int) {
	reasons := []ledger.Reason{0, 0, 0, 0, ledger.Control, ledger.Aborted, ledger.Compacted, ledger.Filtered, ledger.Expired}
	for range w.rng.IntN(6) {
		r := rec{reason: reasons[w.rng.IntN(len(reasons))]}
		if r.reason == 0 || r.reason == ledger.Filtered {
			w.fresh++
			r.id = w.fresh
		}
		w.logs[i] = append(w.logs[i], r)
	}
}

// hop copies some offsets and says so.
func (w *world) hop(i int) {
	c, src := &w.copy[i], w.logs[i]
	if c.next >= len(src) {
		return
	}
	to := min(len(src), c.next+1+w.rng.IntN(12))
	h := &ledger.Hop{Copy: c.id.Key(), Epoch: c.epoch, From: int64(c.next), Next: int64(to)}
	for x := c.next; x < to; x++ {
		r := src[x]
		reason := r.reason
		if r.foreign {
			reason = ledger.Returned
		}
		if reason != 0 {
			if n := len(h.Gaps); n > 0 && h.Gaps[n-1].Reason == reason && h.Gaps[n-1].Source+h.Gaps[n-1].Count == int64(x) {
				h.Gaps[n-1].Count++
			} else {
				h.Gaps = append(h.Gaps, ledger.Gap{Source: int64(x), Count: 1, Reason: reason})
			}
			continue
		}
		dest := len(w.logs[1-i])
		w.logs[1-i] = append(w.logs[1-i], rec{id: r.id, foreign: true})
		c.image[x] = dest
		n := len(h.Runs)
		if n > 0 && h.Runs[n-1].Source+h.Runs[n-1].Count == int64(x) && h.Runs[n-1].Destination+h.Runs[n-1].Count == int64(dest) {
			h.Runs[n-1].Count++
		} else {
			h.Runs = append(h.Runs, ledger.Run{Source: int64(x), Count: 1, Destination: int64(dest), Path: ledger.Raw})
		}
	}
	w.logs[1-i] = append(w.logs[1-i], rec{reason: ledger.Control}) // the commit marker
	c.next = to
	if w.rng.IntN(4) == 0 && c.epoch > 1 { // a zombie's late entry
		stale := *h
		stale.Epoch--
		stale.From, stale.Next, stale.Runs, stale.Gaps = h.Next, h.Next+3, nil, []ledger.Gap{{Source: h.Next, Count: 3, Reason: ledger.Filtered}}
		if c.m.Apply(&stale) {
			panic("a void hop counted")
		}
	}
	c.m.Apply(h)
}

// lose copies a stretch of which the ledger's page is lost.
func (w *world) lose(i int) {
	c := &w.copy[i]
	keep, before := c.m, c.next
	c.m = keep.clone()
	w.hop(i)
	c.m = keep
	for x := before; x < c.next; x++ {
		c.holes[x] = true
	}
}

// truncate takes the tail of copy i's destination away.
func (w *world) truncate(i int) {
	c, dest := &w.copy[i], w.logs[1-i]
	if len(dest) == 0 || len(c.image) == 0 {
		return
	}
	cut := len(dest) - w.rng.IntN(min(len(dest), 8))
	w.logs[1-i] = slices.Clone(dest[:cut])
	source := c.next
	for x, d := range c.image {
		if d >= cut {
			source = min(source, x)
		}
	}
	for x := source; x < c.next; x++ {
		delete(c.image, x)
		delete(c.holes, x)
	}
	c.next = source
	c.m.Apply(&ledger.Retraction{Copy: c.id.Key(), Epoch: c.epoch, Source: int64(source), Destination: int64(cut)})
}

// forward is the naive answer for one copy alone.
func (w *world) forward(i, x int) (offset int, why Why) {
	c, dest := &w.copy[i], w.logs[1-i]
	if x > c.next {
		return -1, Ahead
	}
	ids := map[int]bool{} // unread records
	for y := x; y < c.next; y++ {
		if c.holes[y] {
			return -1, Unknown
		}
		if _, ok := c.image[y]; ok {
			ids[w.logs[i][y].id] = true
			break
		}
	}
	last := -1
	for d, r := range dest {
		if r.foreign && ids[r.id] && slices.Contains(values(c.image), d) {
			return d, ""
		}
		if r.foreign && c.has(d) {
			last = d
		}
	}
	if last < 0 {
		return -1, NothingCopied
	}
	return last + 1, ""
}

func (c *copyState) has(dest int) bool {
	for x, d := range c.image {
		if d == dest && !c.holes[x] {
			return true
		}
	}
	return false
}

func values(m map[int]int) []int {
	var vs []int
	for _, v := range m {
		vs = append(vs, v)
	}
	return vs
}

// backward is the naive answer for one copy, from its destination.
func (w *world) backward(i, y int) (offset int, why Why) {
	c := &w.copy[i]
	after := c.start
	for x, d := range c.image {
		if d < y && !c.holes[x] {
			after = max(after, x+1)
		}
	}
	for x := after; x < c.next; x++ {
		if c.holes[x] {
			return -1, Unknown
		}
		if r := w.logs[i][x]; r.id != 0 {
			return x, ""
		}
	}
	return max(after, c.next), ""
}

// either is the naive answer where both copies run: the lowest offset that
// skips no unread record, and how many read ones lie at or above it.
func (w *world) either(i, x int) (offset int, reread int) {
	read := map[int]bool{}
	for _, r := range w.logs[i][:x] {
		read[r.id] = true
	}
	there := w.logs[1-i]
	offset = -1
	for d, r := range there {
		if r.id != 0 && !read[r.id] && (r.foreign || r.reason != ledger.Filtered) {
			offset = d
			break
		}
	}
	if offset < 0 {
		return -1, 0
	}
	for _, r := range there[offset:] {
		if r.id != 0 && read[r.id] {
			reread++
		}
	}
	return offset, reread
}

// KAFKA-14666, KIP-1292 (positions behind the newest records are translated by guess),
// KAFKA-15202 (uneven distances), redpanda-data/connect 3182 (skipped ahead).
func TestMapAgainstModel(t *testing.T) {
	for seed := range seeds(400) {
		start := 0
		if seed%5 == 0 {
			start = 3
		}
		w := newWorld(seed, start)
		for len(w.logs[0]) < start {
			w.fresh++
			w.logs[0] = append(w.logs[0], rec{id: w.fresh})
		}
		w.begin(0)
		for range 60 {
			switch n := w.rng.IntN(40); {
			case n < 14:
				w.write(0)
			case n < 17: // a local producer at the destination
				w.logs[1] = append(w.logs[1], rec{id: -1})
			case n < 36:
				w.hop(0)
			case n < 37 && seed%3 == 0:
				w.lose(0)
			case n < 38 && seed%2 == 0:
				w.truncate(0)
			default:
				w.begin(0)
			}
		}
		w.hop(0)
		if w.copy[0].m.Next() != int64(w.copy[0].next) {
			w.begin(0) // ended in a lost stretch: the next begin shows it
			w.copy[0].m.hole(int64(w.copy[0].next), "test")
		}
		c := &w.copy[0]
		for x := range len(w.logs[0]) + 2 {
			got := Route{There: c.m}.Translate(int64(x), AnyBounds)
			want, why := w.forward(0, x)
			if got.Offset != int64(want) || why != "" && got.Why != why && x >= start {
				t.Fatalf("seed %d: forward(%d): got %+v, want %d %s", seed, x, got, want, why)
			}
		}
		for y := range len(w.logs[1]) + 2 {
			got := Route{Back: c.m}.Translate(int64(y), AnyBounds)
			want, why := w.backward(0, y)
			if got.Offset != int64(want) || why != "" && got.Why != why {
				t.Fatalf("seed %d: backward(%d): got %+v, want %d %s", seed, y, got, want, why)
			}
		}
		for x, d := range c.image {
			if c.holes[x] {
				continue
			}
			f := Route{There: c.m}.Translate(int64(x), AnyBounds)
			b := Route{Back: c.m}.Translate(int64(d), AnyBounds)
			if f.Offset != int64(d) || !f.Exact || f.Why != Copied {
				t.Fatalf("seed %d: record at %d is at %d, got %+v", seed, x, d, f)
			}
			// An unread filtered record, or a lost stretch, may lie before it.
			if b.Offset != int64(x) && b.Why != Unknown && w.logs[0][b.Offset].reason != ledger.Filtered {
				t.Fatalf("seed %d: record at %d came from %d, got %+v", seed, d, x, b)
			}
		}
	}
}

func TestActiveActiveAgainstModel(t *testing.T) {
	rereads := 0
	for seed := range seeds(400) {
		w := newWorld(seed, 0)
		w.begin(0)
		w.begin(1)
		for range 60 {
			i := w.rng.IntN(2)
			switch n := w.rng.IntN(10); {
			case n < 4:
				w.write(i)
			case n < 9:
				w.hop(i)
			default:
				w.begin(i)
			}
		}
		for i := range 2 {
			there, back := w.copy[i].m, w.copy[1-i].m
			for x := range w.copy[i].next + 1 {
				got := Route{There: there, Back: back}.Translate(int64(x), AnyBounds)
				want, reread := w.either(i, x)
				unscanned := got.Offset >= back.Next() // beyond it a marker looks like a record that is yet to be copied
				if want < 0 {
					for _, r := range w.logs[1-i][got.Offset:] {
						if r.foreign && !unscanned {
							t.Fatalf("seed %d: side %d: %d -> %+v, but nothing is unread there", seed, i, x, got)
						}
					}
					continue
				}
				// Markers and filtered records are nothing to read, so an answer
				// may lie before the first unread record only over those.
				ok := got.Offset <= int64(want) && got.Offset >= 0
				for d := got.Offset; ok && !unscanned && d < int64(want); d++ {
					r := w.logs[1-i][d]
					ok = r.id == 0 || r.reason == ledger.Filtered
				}
				if !ok || !unscanned && (got.Reread != int64(reread) || got.Exact != (reread == 0)) {
					t.Fatalf("seed %d: side %d: %d -> %+v, want %d with %d read again", seed, i, x, got, want, reread)
				}
				rereads += reread
			}
		}
	}
	if rereads == 0 {
		t.Error("no history mixed both sides")
	}
}

func ExampleRoute_Translate() {
	// A: a1 a2 b1.  B: b1 a1 a2.
	ab, ba := NewMap(), NewMap()
	a, b := ledger.End{Cluster: "a"}, ledger.End{Cluster: "b"}
	there, back := ledger.CopyID{Source: a, Destination: b}, ledger.CopyID{Source: b, Destination: a}
	ab.Apply(&ledger.Begin{Copy: there, Epoch: 1})
	ba.Apply(&ledger.Begin{Copy: back, Epoch: 1})
	ab.Apply(&ledger.Hop{
		Copy: there.Key(), Epoch: 1, Next: 3,
		Runs: []ledger.Run{{Source: 0, Count: 2, Destination: 1}}, Gaps: []ledger.Gap{{Source: 2, Count: 1, Reason: ledger.Returned}},
	})
	ba.Apply(&ledger.Hop{
		Copy: back.Key(), Epoch: 1, Next: 3,
		Runs: []ledger.Run{{Source: 0, Count: 1, Destination: 2}}, Gaps: []ledger.Gap{{Source: 1, Count: 2, Reason: ledger.Returned}},
	})
	r := Route{There: ba, Back: ab}.Translate(1, AnyBounds)
	fmt.Println(r.Offset, r.Exact, r.Reread, r.Why)
	// Output: 0 false 1 interleaved
}
