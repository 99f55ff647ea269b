package lineage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Direction is which way a walk goes.
type Direction string

// The directions.
const (
	Both       Direction = "both" // to ancestors, and from each of them to all descendants
	Upstream   Direction = "up"   // to ancestors only
	Downstream Direction = "down" // to descendants only
)

// family is where the events of a range lie: the range goes along the hops of every
// copy from partition to partition, and is cut up by them. Each partition remembers
// which of its offsets were reached, and each copy of which of its source offsets it
// was told, so rings and diamonds end; left bounds hops, pieces and seeks together.
//
// It sees everything; what a caller may not see is taken out of what is told of it.
type family struct {
	x      *Index
	ctx    context.Context
	way    Direction
	left   int
	places []relative
	byEnd  map[ledger.End]int
	links  []link
	byCopy map[ledger.CopyKey]int
	queue  []int // of places that have something to do, each once
	cut    string
}

// relative is a partition that the walk has come to.
type relative struct {
	end  ledger.End
	life life
	hops int // from where it began
	has  spans
	todo []arrival
}

// arrival is offsets that have just been reached, by a copy: there is nothing to be
// found by going back through it.
type arrival struct {
	span
	via ledger.CopyKey
}

// link is a copy between two of the places, with what it did.
type link struct {
	copyState
	from, to int
	told     spans // source offsets
	pieces   []piece
}

// piece is what one copy did with a stretch of source offsets: it wrote them to
// destination offsets from dest on, or it did not for a reason.
type piece struct {
	span
	dest        int64
	reason, why string
	hop         *ledger.Hop // nil if none says so
	path        ledger.Path
}

func (p *piece) copied() bool { return p.reason == "" }

// part is the piece without what lies outside of s.
func (p piece) part(s span) piece {
	if p.copied() {
		p.dest += s.first - p.first
	}
	p.span = s
	return p
}

func (x *Index) family(ctx context.Context, way Direction) *family {
	return &family{x: x, ctx: ctx, way: way, left: x.cfg.Limits.Looks, byEnd: map[ledger.End]int{}, byCopy: map[ledger.CopyKey]int{}}
}

// walk goes everywhere from a range. It returns errEnough where it may not go on;
// what it has found until then stands.
func (f *family) walk(start ledger.End, asked span) error {
	f.bring(f.meet(start, 0), asked, ledger.CopyKey{})
	for len(f.queue) > 0 {
		i := f.queue[0]
		todo := f.places[i].todo
		f.queue, f.places[i].todo = f.queue[1:], nil
		from, into := f.x.copiesAt(f.places[i].end)
		if f.way != Upstream {
			for k := range from {
				if err := f.down(i, &from[k], todo); err != nil {
					return err
				}
			}
		}
		if f.way != Downstream {
			for k := range into {
				if err := f.up(i, &into[k], todo); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// meet is the index of a place, -1 if it is one too many.
func (f *family) meet(e ledger.End, hops int) int {
	if i, ok := f.byEnd[e]; ok {
		return i
	}
	switch limits := f.x.cfg.Limits; {
	case len(f.places) >= limits.Nodes:
		f.cut = fmt.Sprintf("after %d partitions", limits.Nodes)
		return -1
	case hops > limits.Depth:
		f.cut = fmt.Sprintf("after %d hops", limits.Depth)
		return -1
	}
	f.x.mu.RLock()
	l := f.x.life(topicKey{e.Cluster, e.TopicID})
	f.x.mu.RUnlock()
	f.byEnd[e] = len(f.places)
	f.places = append(f.places, relative{end: e, life: l, hops: hops})
	return f.byEnd[e]
}

// bring has a place visited again if any of the offsets is new to it.
func (f *family) bring(i int, s span, via ledger.CopyKey) {
	p := &f.places[i]
	for _, fresh := range p.has.add(s) {
		if len(p.todo) == 0 {
			f.queue = append(f.queue, i)
		}
		if n := len(p.todo); n > 0 && p.todo[n-1].via == via && p.todo[n-1].next == fresh.first {
			p.todo[n-1].next = fresh.next
			continue
		}
		p.todo = append(p.todo, arrival{fresh, via})
	}
}

// link is the index of a copy between two places.
func (f *family) link(c *copyState, from, to int) int {
	i, ok := f.byCopy[c.key]
	if !ok {
		i = len(f.links)
		f.byCopy[c.key] = i
		f.links = append(f.links, link{copyState: *c, from: from, to: to})
	}
	return i
}

// look counts one look at the store.
func (f *family) look() error {
	if f.left--; f.left < 0 {
		return errEnough
	}
	return f.ctx.Err()
}

// tell notes what a copy did, as far as it was not told before, and goes on at its
// other side.
func (f *family) tell(k, far int, p piece) error {
	l := &f.links[k]
	for _, s := range l.told.add(p.span) {
		if err := f.look(); err != nil {
			return err
		}
		part := p.part(s)
		l.pieces = append(l.pieces, part)
		if !part.copied() {
			continue
		}
		if far == l.to {
			s = span{part.dest, part.dest + s.next - s.first}
		}
		f.bring(far, s, l.key)
	}
	return nil
}

// down follows a copy of what has been reached at its source.
func (f *family) down(i int, c *copyState, todo []arrival) (err error) {
	far := f.meet(c.begin.Copy.Destination, f.places[i].hops+1)
	if far < 0 {
		return nil
	}
	k := f.link(c, i, far)
	prefix := key(c.ledger, kindHop, c.key[:])
	it, err := f.x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for _, t := range todo {
		if t.via == c.key {
			continue
		}
		at := t.first
		err := f.along(it, prefix, t.span, func(v []byte) error {
			h, err := readHop(v)
			if err != nil {
				return err
			}
			for p := range tiles(h, span{at, t.next}) {
				if err := f.silence(k, far, span{at, p.first}); err != nil {
					return err
				}
				if err := f.tell(k, far, p); err != nil {
					return err
				}
				at = p.next
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := f.silence(k, far, span{at, t.next}); err != nil {
			return err
		}
	}
	return nil
}

// along calls fn with what is stored of each hop that may reach into a range: those that
// begin in it, and the last one that begins before it. Keys are prefix and offset.
func (f *family) along(it *pebble.Iterator, prefix []byte, s span, fn func(value []byte) error) error {
	if err := f.look(); err != nil {
		return err
	}
	for ok := it.SeekLT(slices.Concat(prefix, u64(s.first+1))) || it.First(); ok && last64(it.Key()) < s.next; ok = it.Next() {
		if err := f.look(); err != nil {
			return err
		}
		if err := fn(it.Value()); err != nil {
			return err
		}
	}
	return nil
}

// silence tells of source offsets that no hop of a copy holds.
func (f *family) silence(k, far int, s span) error {
	l := &f.links[k]
	next := piece{span: span{max(l.start, l.next), s.next}, reason: reasonPending, why: fmt.Sprintf("copied up to offset %d", l.next)}
	switch {
	case f.places[l.to].life.earlier:
		next.span = span{} // nor will it be: what has taken its place has a copy of its own
	case f.places[l.from].life.earlier:
		next.reason, next.why = "ended", fmt.Sprintf("the topic was deleted when offsets below %d had been copied", l.next)
	}
	for _, p := range []piece{
		{span: span{0, l.start}, reason: "before-start", why: fmt.Sprintf("the copy began at offset %d", l.start)},
		{span: span{l.start, l.next}, reason: reasonUnknown, why: "the ledger says nothing about these offsets"},
		next,
	} {
		if p.span = p.within(s); p.empty() {
			continue
		}
		if err := f.tell(k, far, p); err != nil {
			return err
		}
	}
	return nil
}

// up follows a copy back of what has been reached at its destination.
func (f *family) up(i int, c *copyState, todo []arrival) (err error) {
	prefix := key(c.ledger, kindByDest, c.key[:])
	it, err := f.x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for _, t := range todo {
		if t.via == c.key {
			continue
		}
		err := f.along(it, prefix, t.span, func(source []byte) error {
			h, err := readBack[*ledger.Hop](f.x.db.Get(key(c.ledger, kindHop, c.key[:], source)))
			if errors.Is(err, pebble.ErrNotFound) {
				return nil // taken back in between
			}
			if err != nil {
				return err
			}
			return f.upHop(i, c, h, t.span)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *family) upHop(i int, c *copyState, h *ledger.Hop, at span) error {
	first := sort.Search(len(h.Runs), func(r int) bool { return h.Runs[r].Destination+h.Runs[r].Count > at.first })
	for _, r := range h.Runs[first:] {
		if r.Destination >= at.next {
			return nil
		}
		far := f.meet(c.begin.Copy.Source, f.places[i].hops+1)
		if far < 0 {
			return nil
		}
		whole := piece{span: span{r.Source, r.Source + r.Count}, dest: r.Destination, hop: h, path: r.Path}
		back := r.Source - r.Destination
		p := whole.part(whole.within(span{at.first + back, at.next + back}))
		if err := f.tell(f.link(c, far, i), far, p); err != nil {
			return err
		}
	}
	return nil
}

func readHop(v []byte) (*ledger.Hop, error) {
	e, err := ledger.ReadEntry(v)
	if err != nil {
		return nil, fmt.Errorf("read hop: %w", err)
	}
	h, ok := e.(*ledger.Hop)
	if !ok {
		return nil, errStored
	}
	return h, nil
}

// tiles are the runs and gaps of a hop within a range of source offsets, in order.
func tiles(h *ledger.Hop, s span) func(yield func(piece) bool) {
	return func(yield func(piece) bool) {
		r := sort.Search(len(h.Runs), func(i int) bool { return h.Runs[i].Source+h.Runs[i].Count > s.first })
		g := sort.Search(len(h.Gaps), func(i int) bool { return h.Gaps[i].Source+h.Gaps[i].Count > s.first })
		for r < len(h.Runs) || g < len(h.Gaps) {
			var p piece
			if g == len(h.Gaps) || r < len(h.Runs) && h.Runs[r].Source < h.Gaps[g].Source {
				run := h.Runs[r]
				p = piece{span: span{run.Source, run.Source + run.Count}, dest: run.Destination, hop: h, path: run.Path}
				r++
			} else {
				gap := h.Gaps[g]
				p = piece{span: span{gap.Source, gap.Source + gap.Count}, reason: gap.Reason.String(), hop: h}
				g++
			}
			part := p.within(s)
			if part.empty() || !yield(p.part(part)) {
				return
			}
		}
	}
}

// when is the time of the hop that tells of a piece, zero if there is none.
func (p *piece) when() time.Time {
	if p.hop == nil {
		return time.Time{}
	}
	return p.hop.At
}

// Why there is no copy of an offset, where it is not in a gap.
const (
	reasonPending = "pending" // it comes next
	reasonUnknown = "unknown"
	// reasonRedacted is that of a gap which the caller may not know.
	reasonRedacted = "redacted"
)
