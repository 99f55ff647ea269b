package lineage

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
)

// reading is how a query looks into the store: with one iterator, since opening one costs
// about as much as a look, and with the hops at hand that it has just read. It holds at
// least what the index held when [reading.copiesAt] was last asked. It is for one
// goroutine, and is to be closed.
type reading struct {
	x      *Index
	it     *pebble.Iterator // nil before the first look
	moment uint64           // Index.moment from which on it was opened
	key    []byte           // of the last look
	hops   []heldHop        // the last, in no order
	oldest int              // of them
}

// heldHop is a hop under the key that it was read by.
type heldHop struct {
	ledger ledgerNo
	copy   ledger.CopyKey
	hop    *ledger.Hop
}

// hopsAtHand are enough for a walk to come back to a hop from its other side.
const hopsAtHand = 4

func (x *Index) read() *reading { return &reading{x: x} }

// Close is needed even where no look was taken.
func (r *reading) Close() error {
	if r.it == nil {
		return nil
	}
	it := r.it
	r.it, r.hops = nil, r.hops[:0]
	if err := it.Close(); err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	return nil
}

// iterator goes over all of the store.
func (r *reading) iterator() (*pebble.Iterator, error) {
	if r.it == nil {
		it, err := r.x.db.NewIter(nil)
		if err != nil {
			return nil, fmt.Errorf("read store: %w", err)
		}
		r.it = it
	}
	return r.it, nil
}

// copiesAt are the copies out of and into a partition, as they are now. What is read from
// here on has what they say that was copied: who reads with an older iterator would take
// for missing what has just come in.
func (r *reading) copiesAt(e ledger.End) (from, into []copyState, err error) {
	x := r.x
	x.mu.RLock()
	from, into = sortedCopies(x.from[e]), sortedCopies(x.into[e])
	moment := x.moment
	x.mu.RUnlock()
	if moment != r.moment {
		err = r.Close()
		r.moment = moment
	}
	return from, into, err
}

// copiesAt are the copies out of and into a partition, as they are now.
func (x *Index) copiesAt(e ledger.End) (from, into []copyState) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return sortedCopies(x.from[e]), sortedCopies(x.into[e])
}

// sortedCopies are copies by value, in the order of their destinations' and then
// their sources' names.
func sortedCopies(cs []*copyState) []copyState {
	out := make([]copyState, 0, len(cs))
	for _, c := range cs {
		out = append(out, *c)
	}
	slices.SortStableFunc(out, func(a, b copyState) int {
		return cmp.Or(
			cmp.Compare(a.begin.DestinationCluster, b.begin.DestinationCluster), cmp.Compare(a.begin.DestinationTopic, b.begin.DestinationTopic),
			cmp.Compare(a.begin.SourceCluster, b.begin.SourceCluster), cmp.Compare(a.begin.SourceTopic, b.begin.SourceTopic),
			slices.Compare(a.key[:], b.key[:]))
	})
	return out
}

// floor is what is stored of a copy at the highest offset that is at most n, and that
// offset. The value is nil if there is none, and good until the next look.
func (r *reading) floor(c *copyState, kind keyKind, n int64) (at int64, v []byte, err error) {
	it, err := r.iterator()
	if err != nil {
		return 0, nil, err
	}
	r.key = binary.BigEndian.AppendUint16(r.key[:0], uint16(c.ledger))
	r.key = append(append(r.key, byte(kind)), c.key[:]...)
	prefix := len(r.key)
	r.key = binary.BigEndian.AppendUint64(r.key, uint64(n+1))
	if !it.SeekLT(r.key) || !bytes.HasPrefix(it.Key(), r.key[:prefix]) {
		return 0, nil, r.failed()
	}
	return last64(it.Key()), it.Value(), nil
}

func (r *reading) failed() error {
	if err := r.it.Error(); err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	return nil
}

// hop is the hop of a copy that begins at a source offset; stored is nil if it is to be
// looked for.
func (r *reading) hop(c *copyState, from int64, stored []byte) (*ledger.Hop, error) {
	for _, h := range r.hops {
		if h.hop.From == from && h.copy == c.key && h.ledger == c.ledger {
			return h.hop, nil
		}
	}
	if stored == nil {
		at, v, err := r.floor(c, kindHop, from)
		if err != nil || v == nil || at != from {
			return nil, err
		}
		stored = v
	}
	h, err := readHop(stored)
	if err != nil {
		return nil, err
	}
	if at := (heldHop{c.ledger, c.key, h}); len(r.hops) < hopsAtHand {
		r.hops = append(r.hops, at)
	} else {
		r.hops[r.oldest] = at
		r.oldest = (r.oldest + 1) % hopsAtHand
	}
	return h, nil
}

// hopBySource is the hop of a copy that holds a source offset, nil if none does.
func (r *reading) hopBySource(c *copyState, offset int64) (*ledger.Hop, error) {
	from, v, err := r.floor(c, kindHop, offset)
	if err != nil || v == nil {
		return nil, err
	}
	h, err := r.hop(c, from, v)
	if err != nil || offset >= h.Next {
		return nil, err
	}
	return h, nil
}

// hopByDest is the hop of a copy that wrote a destination offset, and the source
// offset that went there; nil if none did.
func (r *reading) hopByDest(c *copyState, offset int64) (*ledger.Hop, int64, error) {
	_, v, err := r.floor(c, kindByDest, offset)
	if err != nil || v == nil {
		return nil, 0, err
	}
	h, err := r.hop(c, last64(v), nil)
	if err != nil || h == nil {
		return nil, 0, err
	}
	if i := runTo(h, offset); i >= 0 {
		return h, h.Runs[i].Source + offset - h.Runs[i].Destination, nil
	}
	return nil, 0, nil
}

// runTo is which run of a hop wrote a destination offset, -1 if none did.
func runTo(h *ledger.Hop, offset int64) int {
	return slices.IndexFunc(h.Runs, func(r ledger.Run) bool { return r.Destination <= offset && offset < r.Destination+r.Count })
}

// lostAtSource says that a copy wrote a destination offset of which its source lost the
// record later.
func (r *reading) lostAtSource(c *copyState, offset int64) (bool, error) {
	_, v, err := r.floor(c, kindLost, offset)
	if err != nil || v == nil {
		return false, err
	}
	h, err := readHop(v)
	if err != nil {
		return false, err
	}
	return runTo(h, offset) >= 0, nil
}
