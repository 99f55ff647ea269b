package offsets

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// Witness reads a ledger partition as its readers do, and says whether a fold tells them
// the same: where every offset lies, both ways. It is no part of folding, so that a fault
// there cannot vouch for itself. It is not safe for concurrent use.
type Witness struct {
	at    tail.Position
	whole *Maps
}

// NewWitness is for a partition of the ledger of a cluster, by cluster.id.
func NewWitness(cluster string, partition int32) *Witness {
	return &Witness{tail.Position{Cluster: cluster, Partition: partition}, NewMaps()}
}

// Fold takes a page of the fold with which the partition begins.
func (w *Witness) Fold(offset, next int64, p *ledger.Page) { w.fold(w.whole, offset, next, p) }

// Page takes the next page.
func (w *Witness) Page(offset int64, p *ledger.Page) {
	w.at.Offset = offset
	w.whole.Apply(w.at, p)
}

func (w *Witness) fold(ms *Maps, offset, next int64, p *ledger.Page) {
	w.at.Offset = offset
	ms.Fold(w.at, next, p)
}

// Same returns an error that says what a fold tells otherwise than the pages that were
// read, nil if nothing.
func (w *Witness) Same(fold *ledger.Opened) error {
	folded := NewMaps()
	for r, p := range fold.Pages() {
		w.fold(folded, r.Offset, fold.Cut.Next, p)
	}
	if len(w.whole.copies) != len(folded.copies) {
		return fmt.Errorf("the pages tell of %d copies, the fold of %d", len(w.whole.copies), len(folded.copies))
	}
	for key, a := range w.whole.copies {
		b := folded.copies[key]
		if b == nil {
			return fmt.Errorf("the fold does not tell of copy %s", key)
		}
		if what := a.differs(b); what != "" {
			return fmt.Errorf("the fold tells otherwise of copy %s: %s", key, what)
		}
	}
	if !maps.Equal(w.whole.writers[w.at.Cluster], folded.writers[w.at.Cluster]) {
		return fmt.Errorf("the fold tells of other producers")
	}
	if !maps.Equal(w.whole.told[w.at.Cluster], folded.told[w.at.Cluster]) {
		return fmt.Errorf("the fold tells otherwise of where groups stand")
	}
	return nil
}

// differs says in what two readings of a copy are not the same, "" if they are. What they
// know of the last run, if the last was taken back, may differ: a fold has that of the one
// before.
func (c *entry) differs(o *entry) string {
	a, b := c.m, o.m
	switch {
	case c.strayed.why+o.strayed.why != "" || len(a.faults)+len(b.faults) > 0:
		return "a contradiction"
	case a.id != b.id || a.epoch != b.epoch || a.label() != b.label():
		return "who copies what"
	case a.start != b.start || a.Next() != b.Next() || a.DestinationNext() != b.DestinationNext():
		return fmt.Sprintf("where the copy stands: from %d to %d at %d, and from %d to %d at %d", a.start, a.Next(), a.DestinationNext(), b.start, b.Next(), b.DestinationNext())
	case !equal(a.tiles.fromSource(0), b.tiles.fromSource(0)):
		return "where source offsets went"
	case !equal(a.origins(), b.origins()):
		return "where records came from"
	case a.unmarked != b.unmarked || a.notLocal != b.notLocal:
		return "what lies between copies, or was left out"
	case a.sourceEpoch != b.sourceEpoch || !slices.Equal(a.epochs, b.epochs):
		return "leader epochs of the source"
	}
	return ""
}

// label is the last begin, but for where it began: a fold has that where what is left of
// the epoch begins.
func (m *Map) label() ledger.Begin {
	b := m.Labels()
	b.Resume = 0
	return b
}

// stretch is destination offsets whose records came by one way.
type stretch struct {
	from, next int64
	way        string
}

// origins are all that the copy wrote, in order.
func (m *Map) origins() iter.Seq2[int, stretch] {
	return func(yield func(int, stretch) bool) {
		var wrote []stretch
		for _, t := range m.tiles.fromSource(0) {
			if t.run() {
				wrote = append(wrote, stretch{t.dest, t.destEnd(), ""})
			}
		}
		for _, o := range m.routes.orphans {
			wrote = append(wrote, stretch{o.from, o.next, "lost"})
		}
		for i, s := range wrote {
			for at := s.from; at < s.next; {
				o := m.cameBy(at, s.next)
				if !yield(i, stretch{at, o.Next, fmt.Sprint(s.way, o.Route, o.Untraced)}) {
					return
				}
				at = o.Next
			}
		}
	}
}

// equal says that two sequences are of the same values.
func equal[K any, V comparable](a, b iter.Seq2[K, V]) bool {
	next, stop := iter.Pull2(b)
	defer stop()
	for _, x := range a {
		if _, y, ok := next(); !ok || x != y {
			return false
		}
	}
	_, _, more := next()
	return !more
}
