package offsets

import (
	"fmt"
	"slices"
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

// TestFoldedHistoriesToldAgain: what is told again, and what lies at the destination of
// what was told before, is the same with a fold as without.
func TestFoldedHistoriesToldAgain(t *testing.T) {
	for seed := range uint64(100) {
		h := newHistory(t, modelShapes[int(seed)%len(modelShapes)], seed)
		h.runAndTellAgain(seed%2 == 0)
		before := h.answers()
		h.rebuildFolded()
		if after := h.answers(); !slices.Equal(before, after) {
			for i := range before {
				if before[i] != after[i] {
					t.Fatalf("%s: got %s, want %s", h.name, after[i], before[i])
				}
			}
		}
	}
}

// runAndTellAgain plays a random history in which copies are told again.
func (h *history) runAndTellAgain(harm bool) {
	for range 6 {
		h.run(10, harm)
		h.tellAgain(h.copies[h.rng.IntN(len(h.copies))])
	}
	h.run(h.rng.IntN(10), harm)
}

// answers is what the maps say of every offset of every copy, both ways.
func (h *history) answers() (all []string) {
	for _, c := range h.copies {
		there, back, m := h.ms.Route(c.id.Source, c.id.Destination), h.ms.Route(c.id.Destination, c.id.Source), h.ms.Copy(c.id)
		all = append(all, fmt.Sprintf("%d to %d: next %d, at the destination %d", c.from, c.to, m.Next(), m.DestinationNext()))
		for x := range int64(len(h.sites[c.from].log)) {
			r := there.Translate(x, AnyBounds)
			all = append(all, fmt.Sprintf("%d to %d: %d is at %d, exact %v, %v", c.from, c.to, x, r.Offset, r.Exact, r.Why))
		}
		for y := range int64(len(h.sites[c.to].log)) {
			r := back.Translate(y, AnyBounds)
			o, copied := m.origin(y)
			all = append(all, fmt.Sprintf("%d to %d: %d is from %d, exact %v, %v, copied %v by %v", c.from, c.to, y, r.Offset, r.Exact, r.Why, copied, o.Route))
		}
	}
	return all
}

// TestFoldOfAFold: folding a fold and what came behind it is folding all.
func TestFoldOfAFold(t *testing.T) {
	for seed := range uint64(200) {
		h := newHistory(t, modelShapes[int(seed)%len(modelShapes)], seed)
		h.run(60, seed%2 == 0)
		if seed%4 < 2 {
			h.runAndTellAgain(seed%2 == 0)
		}
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
