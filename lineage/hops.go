package lineage

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Extent is what the index knows of a copy: source offsets from start to next. ok is
// false if it does not know the copy; doubt is why it may not know all of it.
func (x *Index) Extent(k ledger.CopyKey) (start, next int64, doubt string, ok bool) {
	x.mu.RLock()
	c := x.copies[k]
	var now copyState
	if c != nil {
		now = *c
	}
	x.mu.RUnlock()
	if c == nil || now.start < 0 {
		return 0, 0, "", false
	}
	doubt, err := x.doubt(&now)
	if err != nil {
		doubt = err.Error()
	}
	return now.start, now.next, doubt, true
}

// Hops are the hops of a copy that end after a source offset, in order, at most
// limit. Of a run that was cut by a retraction the digest is 0: it was of the whole.
func (x *Index) Hops(k ledger.CopyKey, behind int64, limit int) (hops []*ledger.Hop, err error) {
	no, known := x.ledgerWith(k)
	if !known {
		return nil, nil
	}
	prefix := key(no, kindHop, k[:])
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	ok := it.SeekLT(append(append([]byte(nil), prefix...), u64(behind+1)...)) || it.First()
	for ; ok && len(hops) < limit; ok = it.Next() {
		e, err := ledger.ReadEntry(it.Value())
		if err != nil {
			return nil, fmt.Errorf("read hop: %w", err)
		}
		h, isHop := e.(*ledger.Hop)
		if !isHop {
			return nil, errStored
		}
		if h.Next > behind {
			hops = append(hops, h)
		}
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	return hops, nil
}

// Copied says whether any copy into a partition wrote an offset of it.
func (x *Index) Copied(into ledger.End, offset int64) (copied bool, err error) {
	r := x.read()
	defer func() { err = errors.Join(err, r.Close()) }()
	_, copies, err := r.copiesAt(into)
	if err != nil {
		return false, err
	}
	for i := range copies {
		if h, _, err := r.hopByDest(&copies[i], offset); err != nil || h != nil {
			return h != nil, err
		}
	}
	return false, nil
}

// Writer says whether a producer id of a cluster is registered there as a
// replicator's.
func (x *Index) Writer(cluster string, producerID int64) (bool, error) {
	x.mu.RLock()
	l := x.ledgers[cluster]
	x.mu.RUnlock()
	if l == nil {
		return false, nil
	}
	_, closer, err := x.db.Get(key(l.no, kindWriter, u64(producerID)))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read store: %w", err)
	}
	return true, closer.Close()
}
