package fold

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// How far hops are put together: what is told of one of them is told with the times of
// all.
const (
	maxTiles  = 1000
	maxRoutes = 200
	maxSpan   = 24 * time.Hour
)

// copied is what one copy has done, as hops that nothing takes back any more.
type copied struct {
	begun          map[uint64]*begun // by epoch
	epoch          uint64
	start, next    int64 // source offsets, next is -1 before the first begin
	destNext       int64 // after the last record that counts, -1 if there is none
	sealed         [][]byte
	open           *ledger.Hop // the last; it may still grow
	ranAt          time.Time   // of the last hop that had runs
	unmarked       bool
	notLocal       bool               // records were left out because they were not born at the source
	lastRetraction *ledger.Retraction // of what the destination has lost; nil once it has records again
}

// begun is an epoch.
type begun struct {
	begin       *ledger.Begin
	rules       *ledger.Rules
	quarantines []*ledger.Quarantine
}

func (c *copied) begin(b *ledger.Begin) error {
	switch {
	case b.Epoch < c.epoch && c.next >= 0:
		return nil // void
	case c.next < 0:
		c.start, c.next = b.Resume, b.Resume
	case b.Resume < c.next && b.Restates():
		// What was told is void, and its records are copies all the same.
		if err := c.takeBack(&ledger.Retraction{Source: b.Resume, Lost: ledger.LostAtSource}, true); err != nil {
			return err
		}
	case b.Resume != c.next:
		return fmt.Errorf("epoch %d of a copy begins at source offset %d, it stood at %d", b.Epoch, b.Resume, c.next)
	}
	c.epoch = b.Epoch
	if c.begun[b.Epoch] == nil {
		c.begun[b.Epoch] = &begun{}
	}
	c.begun[b.Epoch].begin = b
	c.begun[b.Epoch].rules = nil
	return nil
}

func (c *copied) rules(r *ledger.Rules) {
	if b := c.begun[r.Epoch]; b != nil && r.Epoch == c.epoch {
		b.rules = r
	}
}

func (c *copied) quarantine(q *ledger.Quarantine) {
	if b := c.begun[q.Epoch]; b != nil && q.Epoch == c.epoch {
		b.quarantines = append(b.quarantines, q)
	}
}

func (c *copied) hop(h *ledger.Hop) error {
	switch {
	case h.Epoch < c.epoch:
		return nil // void
	case c.begun[h.Epoch] == nil:
		return fmt.Errorf("epoch %d of a copy has no begin", h.Epoch)
	case h.Fold != nil && h.Fold.Void:
		c.unmarked, c.notLocal = c.unmarked || h.Fold.Unmarked, c.notLocal || h.Fold.NotLocal
		c.add(h)
		return nil
	case h.From != c.next:
		return fmt.Errorf("a hop begins at source offset %d, the copy stood at %d", h.From, c.next)
	case len(h.Runs) > 0 && h.Runs[0].Destination < c.destNext:
		return fmt.Errorf("a hop goes to destination offset %d, the copy stood at %d", h.Runs[0].Destination, c.destNext)
	}
	c.add(c.alone(h))
	c.next = h.Next
	if len(h.Runs) > 0 {
		c.destNext, c.lastRetraction = h.DestinationNext(), nil
	}
	return nil
}

// alone is a fold of one hop.
func (c *copied) alone(h *ledger.Hop) *ledger.Hop {
	if h.Fold != nil {
		c.unmarked, c.notLocal = c.unmarked || h.Fold.Unmarked, c.notLocal || h.Fold.NotLocal
		if len(h.Runs) > 0 {
			c.ranAt = h.Fold.RanAt
		}
	} else if len(h.Runs) > 0 {
		end := int64(-1)
		if h.At.Equal(c.ranAt) {
			end = c.destNext
		}
		lane := c.begun[h.Epoch].begin
		c.unmarked = c.unmarked || lane.Lane == "" || lane.Plain() || h.Broken(end)
		c.ranAt = h.At
	}
	c.notLocal = c.notLocal || slices.ContainsFunc(h.Gaps, func(g ledger.Gap) bool { return g.Reason == ledger.NotLocal })
	one := *h
	one.Runs, one.Gaps = nil, nil
	one.Fold = &ledger.Fold{Since: h.At, Unmarked: c.unmarked, NotLocal: c.notLocal}
	if h.Fold != nil {
		one.Fold.Since = h.Fold.Since
	}
	if len(h.Runs) > 0 {
		one.Fold.RanAt = c.ranAt
	}
	appendTiles(&one, h, func(route int) int { return route })
	return &one
}

// appendTiles adds the tiles of a hop to another that ends where it begins. A tile that
// goes on as the one before it did becomes one with it.
func appendTiles(to, h *ledger.Hop, route func(int) int) {
	runs, gaps := h.Runs, h.Gaps
	for len(runs)+len(gaps) > 0 {
		if len(gaps) == 0 || len(runs) > 0 && runs[0].Source < gaps[0].Source {
			r := ledger.Run{Source: runs[0].Source, Destination: runs[0].Destination, Count: runs[0].Count, Route: route(runs[0].Route)}
			if runs[0].Path == ledger.Altered {
				r.Path = ledger.Altered
			}
			runs = runs[1:]
			if n := len(to.Runs); n > 0 && continues(to.Runs[n-1], r) {
				to.Runs[n-1].Count += r.Count
			} else {
				to.Runs = append(to.Runs, r)
			}
			continue
		}
		g := gaps[0]
		gaps = gaps[1:]
		if n := len(to.Gaps); n > 0 && to.Gaps[n-1].Source+to.Gaps[n-1].Count == g.Source && to.Gaps[n-1].Reason == g.Reason {
			to.Gaps[n-1].Count += g.Count
		} else {
			to.Gaps = append(to.Gaps, g)
		}
	}
}

// continues says that a run goes on as the one before it did.
func continues(a, b ledger.Run) bool {
	return a.Source+a.Count == b.Source && a.Destination+a.Count == b.Destination && a.Route == b.Route && a.Path == b.Path
}

// add is what the copy did next.
func (c *copied) add(h *ledger.Hop) {
	if c.open == nil || !join(c.open, h) {
		c.seal()
		c.open = h
	}
}

func (c *copied) seal() {
	if c.open != nil {
		c.sealed = append(c.sealed, ledger.AppendEntry(nil, c.open))
		c.open = nil
	}
}

// join adds a hop to the one before it, if what is told of one can be told of both.
func join(to, h *ledger.Hop) bool {
	switch {
	case h.Epoch != to.Epoch, h.SourceLeaderEpoch != to.SourceLeaderEpoch, h.Untraced != to.Untraced,
		h.Fold.Void != to.Fold.Void, h.Fold.Restated != to.Fold.Restated, h.Fold.Void && !follows(to, h),
		len(to.Runs)+len(to.Gaps)+len(h.Runs)+len(h.Gaps) > maxTiles, len(to.Routes)+len(h.Routes) > maxRoutes,
		h.Fold.Since.Sub(to.Fold.Since) > maxSpan:
		return false
	}
	appendTiles(to, h, func(route int) int {
		if route == 0 {
			return 0
		}
		r := h.Routes[route-1]
		i := slices.IndexFunc(to.Routes, func(have ledger.Route) bool { return slices.Equal(have, r) })
		if i < 0 {
			i = len(to.Routes)
			to.Routes = append(to.Routes[:i:i], r)
		}
		return i + 1
	})
	if len(h.Runs) > 0 {
		to.DestinationLeaderEpoch, to.Fold.RanAt = h.DestinationLeaderEpoch, h.Fold.RanAt
	}
	to.Next, to.At, to.Bytes = h.Next, h.At, to.Bytes+h.Bytes
	to.Fold.Unmarked, to.Fold.NotLocal = h.Fold.Unmarked, h.Fold.NotLocal
	return true
}

// last takes off what the copy did last, nil if there is nothing left.
func (c *copied) last() *ledger.Hop {
	if h := c.open; h != nil {
		c.open = nil
		return h
	}
	n := len(c.sealed)
	if n == 0 {
		return nil
	}
	h := unpack(c.sealed[n-1])
	c.sealed = c.sealed[:n-1]
	return h
}

func unpack(b []byte) *ledger.Hop {
	e, err := ledger.ReadEntry(b)
	h, ok := e.(*ledger.Hop)
	if err != nil || !ok {
		panic(fmt.Sprintf("a fold in memory: %v", err))
	}
	return h
}

func (c *copied) retraction(r *ledger.Retraction) error {
	switch {
	case c.next < 0 || r.Epoch < c.epoch:
		return nil // void
	case r.Epoch > c.epoch:
		return fmt.Errorf("epoch %d of a copy has no begin", r.Epoch)
	case r.Source > c.next:
		return fmt.Errorf("a retraction goes on from source offset %d, the copy stood at %d", r.Source, c.next)
	}
	if err := c.takeBack(r, false); err != nil {
		return err
	}
	if r.Lost == ledger.LostAtDestination {
		c.unmarked, c.lastRetraction = true, r
	}
	return nil
}

// takeBack takes back what the copy has said of source offsets from the retraction's on;
// it may be about to be restated.
func (c *copied) takeBack(r *ledger.Retraction, restated bool) error {
	var stay []*ledger.Hop // the last first
	for h := c.last(); h != nil; h = c.last() {
		left, below, err := leftOf(h, r, restated)
		if err != nil {
			return err
		}
		stay = append(stay, left...)
		if below {
			break
		}
	}
	slices.Reverse(stay)
	for _, h := range stay {
		c.add(h)
	}
	c.keepSaid()
	c.next, c.start = r.Source, min(c.start, r.Source)
	c.findDestNext()
	for _, b := range c.begun {
		b.quarantines = cutAside(b.quarantines, r.Source)
	}
	return nil
}

// keepSaid has the last hop that is left say what those said that are gone: a reader of
// them all does not forget it while anything of the copy is left.
func (c *copied) keepSaid() {
	h := c.last()
	if h == nil {
		c.notLocal = false
		return
	}
	fold := *h.Fold
	fold.Unmarked, fold.NotLocal = c.unmarked, c.notLocal
	h.Fold = &fold
	c.add(h)
}

// cutAside is what stays of what was said of records put aside: of an entry that begins
// before source offset x the first part, though what it says of its records covers more.
func cutAside(all []*ledger.Quarantine, x int64) (stay []*ledger.Quarantine) {
	for _, q := range all {
		if q.From >= x {
			continue
		}
		if q.Next > x {
			first := *q
			first.Next = x
			q = &first
		}
		stay = append(stay, q)
	}
	return stay
}

// leftOf is what is left of a hop after a retraction, the last first. Nothing before a
// hop that lies below it is concerned, but for what is void, of which the destination may
// lose anything.
func leftOf(h *ledger.Hop, r *ledger.Retraction, restated bool) (left []*ledger.Hop, below bool, err error) {
	atDestination := r.Lost == ledger.LostAtDestination
	if h.Fold.Void {
		if atDestination && h.DestinationNext() > r.Destination {
			x := h.SourceBelow(r.Destination)
			if x == h.From {
				return nil, false, nil
			}
			h = h.Clip(h.From, x)
		}
		return []*ledger.Hop{h}, false, nil
	}
	if !atDestination && h.Next > r.Source && len(h.Runs) > 0 {
		if lost := h.Clip(max(h.From, r.Source), h.Next); len(lost.Runs) > 0 {
			left = append(left, voided(lost, restated))
		}
	}
	if h.From >= r.Source {
		return left, false, nil
	}
	below = h.Next <= r.Source && !atDestination
	if h.Next > r.Source {
		if h = h.Clip(h.From, r.Source); len(h.Runs) == 0 {
			h.Fold = &ledger.Fold{Since: h.Fold.Since, Unmarked: h.Fold.Unmarked, NotLocal: h.Fold.NotLocal}
		}
	}
	if atDestination && h.DestinationNext() > r.Destination {
		return nil, false, fmt.Errorf("a destination lost what it has from offset %d on, and source offsets below %d went there", r.Destination, r.Source)
	}
	return append(left, h), below, nil
}

// voided is a hop that is void and whose records are at the destination still.
func voided(h *ledger.Hop, restated bool) *ledger.Hop {
	void, fold := *h, *h.Fold
	fold.Void, fold.Restated = true, restated
	void.Fold = &fold
	return &void
}

// follows says that a void hop can be put behind another.
func follows(a, b *ledger.Hop) bool {
	return a.Next == b.From && a.DestinationNext() <= b.Runs[0].Destination
}

// findDestNext looks for the last record that counts.
func (c *copied) findDestNext() {
	c.destNext = -1
	if c.open != nil && !c.open.Fold.Void && len(c.open.Runs) > 0 {
		c.destNext = c.open.DestinationNext()
		return
	}
	for _, b := range slices.Backward(c.sealed) {
		if h := unpack(b); !h.Fold.Void && len(h.Runs) > 0 {
			c.destNext = h.DestinationNext()
			return
		}
	}
}

// entries is what the copy has done. Epochs of which nothing is left are left out, but
// for the last; where others began follows from what is left.
func (c *copied) entries() iter.Seq[ledger.Entry] {
	return func(yield func(ledger.Entry) bool) {
		if c.next < 0 {
			return
		}
		next, epoch, any := c.start, uint64(0), false
		begin := func(e uint64) bool {
			b := c.begun[e]
			at := *b.begin
			at.Resume = next
			epoch, any = e, true
			if !yield(&at) || b.rules != nil && !yield(b.rules) {
				return false
			}
			for _, q := range b.quarantines {
				if !yield(q) {
					return false
				}
			}
			return true
		}
		for h := range c.hops() {
			if (!any || h.Epoch != epoch) && !begin(h.Epoch) || !yield(h) {
				return
			}
			if !h.Fold.Void {
				next = h.Next
			}
		}
		if (!any || c.epoch != epoch) && !begin(c.epoch) {
			return
		}
		if c.lastRetraction != nil { // it takes back nothing of this any more
			r := *c.lastRetraction
			r.Epoch, r.Source = c.epoch, c.next
			yield(&r)
		}
	}
}

func (c *copied) hops() iter.Seq[*ledger.Hop] {
	return func(yield func(*ledger.Hop) bool) {
		for _, b := range c.sealed {
			if !yield(unpack(b)) {
				return
			}
		}
		if c.open != nil {
			yield(c.open)
		}
	}
}
