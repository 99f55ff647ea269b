package lineage

import (
	"fmt"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// foldHalf is from where a ledger partition goes on of which a fold was stored by half: who
// begins again forgets it.
const foldHalf = -1

// Fold stores a page of what stands for all below next that is not in the ledger any more.
func (x *Index) Fold(pos tail.Position, next int64, p *ledger.Page) {
	x.lock()
	defer x.mu.Unlock()
	if x.Err() != nil {
		return
	}
	if err := x.fold(pos, next, p); err != nil {
		x.fail(fmt.Errorf("store folded ledger page %s: %w", pos, err))
	}
}

func (x *Index) fold(pos tail.Position, next int64, p *ledger.Page) error {
	l, err := x.ledgerOf(pos.Cluster, pos.TopicID)
	if err != nil {
		return err
	}
	if l.next[pos.Partition] > 0 {
		return nil // it was stored before
	}
	pg := &page{Index: x, l: l, pos: pos, batch: x.db.NewIndexedBatch(), dirty: map[ledger.CopyKey]*copyState{}, folded: true, proof: next - 1}
	defer pg.batch.Close()
	pg.chain.broken = -1
	if err := pg.addAll(p.Entries); err != nil {
		return err
	}
	if p.Cut() == nil {
		next = foldHalf
	}
	if err := pg.store(next); err != nil {
		return err
	}
	return x.flush()
}

// tails are where chains go on behind a fold.
func (p *page) tails(t *ledger.Tails) error {
	for _, w := range t.Of {
		s := chainState{Tail: w.Tail, broken: -1}
		if err := p.batch.Set(key(p.l.no, kindChain, u32(p.pos.Partition), w.Writer[:]), s.encode(), nil); err != nil {
			return err
		}
	}
	return nil
}

// since is the first time at which a hop can have been, if it stands for several.
func since(h *ledger.Hop) *time.Time {
	if h == nil || h.Fold == nil || h.Fold.Since.IsZero() {
		return nil
	}
	at := h.Fold.Since
	return &at
}
