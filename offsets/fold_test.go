package offsets

import (
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	ledgerfold "github.com/waybillhq/waybill/internal/ledger/fold"
)

// folded is what stands for the pages of a ledger below an offset, as it is read where
// they are gone: behind those that came while it was written.
func (h *history) folded(s *site, cut int64) (*ledger.Opened, *ledgerfold.Folder) {
	f := ledgerfold.New(s.end.Cluster)
	opening := ledger.NewOpening(cut)
	for _, p := range h.pages {
		if p.at.Cluster != s.end.Cluster {
			continue
		}
		if p.at.Offset >= cut {
			opening.Take(ledger.Stored{Offset: p.at.Offset, Value: p.value})
		} else if err := f.Record(p.at.Offset, p.value); err != nil {
			h.t.Fatalf("%s: %v", h.name, err)
		}
	}
	f.Passed(cut)
	at := s.next
	var opened *ledger.Opened
	for b := range f.Pages(ledgerfold.Author{Writer: ledger.WriterID{99}}, time.UnixMilli(1)) {
		if opened != nil {
			h.t.Fatalf("%s: pages behind the cut", h.name)
		}
		opened = opening.Take(ledger.Stored{Offset: at, Value: b})
		at++
	}
	if opened == nil {
		h.t.Fatalf("%s: a fold was not found", h.name)
	}
	return opened, f
}

// rebuildFolded loses every map, and the older pages of every ledger.
func (h *history) rebuildFolded() {
	h.ms = NewMaps()
	for _, s := range h.sites {
		if s.next == 0 {
			continue
		}
		opened, _ := h.folded(s, 1+h.rng.Int64N(s.next))
		at := writtenPage{}.at
		at.Cluster = s.end.Cluster
		for r, p := range opened.Pages() {
			at.Offset = r.Offset
			h.ms.Fold(at, opened.Cut.Next, p)
		}
		for _, r := range opened.Rest {
			p, err := ledger.Decode(r.Value)
			if err != nil {
				h.t.Fatal(err)
			}
			if at.Offset = r.Offset; !p.Fold {
				h.ms.Apply(at, p)
			}
		}
	}
}

// TestFoldedHistories: translation from a folded ledger is that from all of it, both ways,
// for every offset, then and after the history went on.
func TestFoldedHistories(t *testing.T) {
	for _, shape := range modelShapes {
		t.Run(shape.name, func(t *testing.T) {
			for seed := range uint64(25) {
				h := newHistory(t, shape, seed)
				h.run(60, seed%3 == 0)
				h.check()
				h.rebuildFolded()
				h.check()
				h.run(20, seed%3 == 0)
				h.check()
			}
		})
	}
}

// TestFoldOfAFold: folding a fold and what came behind it is folding all.
func TestFoldOfAFold(t *testing.T) {
	for seed := range uint64(200) {
		h := newHistory(t, modelShapes[int(seed)%len(modelShapes)], seed)
		h.run(60, seed%2 == 0)
		for _, s := range h.sites {
			if s.next < 2 {
				continue
			}
			first := 1 + h.rng.Int64N(s.next-1)
			second := first + 1 + h.rng.Int64N(s.next-first)
			opened, _ := h.folded(s, first)
			again := ledgerfold.New(s.end.Cluster)
			if err := again.Open(opened); err != nil {
				t.Fatal(err)
			}
			for _, r := range opened.Rest {
				if r.Offset < second {
					if err := again.Record(r.Offset, r.Value); err != nil {
						t.Fatal(err)
					}
				}
			}
			whole, _ := h.folded(s, second)
			if same, err := again.Proves(ledgerfold.DigestOf(whole)); !same || err != nil {
				t.Fatalf("%s: folded at %d and %d is not folded at %d: %v", h.name, first, second, second, err)
			}
		}
	}
}
