package lineage

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
)

// rules stores by what rules an epoch of a copy goes on.
func (p *page) rules(r *ledger.Rules) error {
	c := p.copy(r.Copy)
	if c == nil || r.Epoch < c.epoch {
		return nil
	}
	return p.batch.Set(key(p.l.no, kindRules, c.key[:], u64(int64(r.Epoch))), ledger.AppendEntry(nil, r), nil)
}

// quarantine stores where records are that were put aside.
func (p *page) quarantine(q *ledger.Quarantine) error {
	c := p.copy(q.Copy)
	if c == nil || q.Epoch < c.epoch {
		return nil
	}
	return p.putAside(c, q)
}

func (p *page) putAside(c *copyState, q *ledger.Quarantine) error {
	return p.batch.Set(key(p.l.no, kindAside, c.key[:], u64(q.From)), ledger.AppendEntry(nil, q), nil)
}

// cutAside takes away what was said of records put aside from source offset x on. Of an
// entry that begins before, the first part stays; what it says of its records covers more.
func (p *page) cutAside(c *copyState, x int64) error {
	prefix := key(p.l.no, kindAside, c.key[:])
	q, err := lastAside(p.batch, prefix, x)
	if err != nil {
		return err
	}
	if q != nil && q.Next > x {
		q.Next = x
		if err := p.putAside(c, q); err != nil {
			return err
		}
	}
	return p.batch.DeleteRange(append(prefix, u64(x)...), after(key(p.l.no, kindAside, c.key[:])), nil)
}

// lastAside is the last entry with a prefix that begins below a source offset, nil if there
// is none.
func lastAside(from pebble.Reader, prefix []byte, below int64) (q *ledger.Quarantine, err error) {
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: append(append([]byte(nil), prefix...), u64(below)...)})
	if err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.Last() {
		return nil, it.Error()
	}
	e, err := ledger.ReadEntry(it.Value())
	if err != nil {
		return nil, fmt.Errorf("read quarantine: %w", err)
	}
	q, ok := e.(*ledger.Quarantine)
	if !ok {
		return nil, errStored
	}
	return q, nil
}

// Rules are those by which an epoch of a copy went, as its ledger has them; ok is false if
// it has none.
func (x *Index) Rules(k ledger.CopyKey, epoch uint64) (text string, ok bool, err error) {
	no, known := x.ledgerWith(k)
	if !known {
		return "", false, nil
	}
	v, closer, err := x.db.Get(key(no, kindRules, k[:], u64(int64(epoch))))
	if errors.Is(err, pebble.ErrNotFound) {
		return "", false, nil
	}
	r, err := readBack[*ledger.Rules](v, closer, err)
	if err != nil {
		return "", false, err
	}
	return r.Text, true, nil
}

// Aside is where records of a copy are that were put aside, one of which had a source
// offset; nil if the ledger does not say so.
func (x *Index) Aside(k ledger.CopyKey, offset int64) (*ledger.Quarantine, error) {
	no, known := x.ledgerWith(k)
	if !known {
		return nil, nil
	}
	q, err := lastAside(x.db, key(no, kindAside, k[:]), offset+1)
	if err != nil || q == nil || q.Next <= offset {
		return nil, err
	}
	return q, nil
}

// ledgerWith is the ledger that a copy is in.
func (x *Index) ledgerWith(k ledger.CopyKey) (no ledgerNo, known bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if c := x.copies[k]; c != nil {
		return c.ledger, true
	}
	return 0, false
}
