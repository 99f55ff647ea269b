package offsets

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	ledgerfold "github.com/waybillhq/waybill/internal/ledger/fold"
)

// folded is what stands for the pages of a ledger below an offset, as it is read where
// they are gone: behind those that came while it was written.
func (h *history) folded(s *site, cut int64) (*ledger.Opened, *ledgerfold.Folder) {
	f, w := ledgerfold.New(s.end.Cluster), NewWitness(s.end.Cluster, 0)
	opening := ledger.NewOpening(cut)
	for _, p := range h.pages {
		if p.at.Cluster != s.end.Cluster {
			continue
		}
		if p.at.Offset >= cut {
			opening.Take(ledger.Stored{Offset: p.at.Offset, Value: p.value})
		} else if err := f.Record(p.at.Offset, p.value); err != nil {
			h.t.Fatalf("%s: %v", h.name, err)
		} else {
			w.Page(p.at.Offset, p.page)
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
	if err := w.Same(opened); err != nil {
		h.t.Fatalf("%s: folded at %d: %v", h.name, cut, err)
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
			for seed := range seeds(25, 1341) {
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
	for seed := range seeds(100, 2173) {
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
	for seed := range seeds(200, 1061) {
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

// foldOf is who has read a ledger of these entries, each in a page, and the fold of them, of
// which alter keeps what it returns true for.
func foldOf(t *testing.T, told []ledger.Entry, alter func(ledger.Entry) bool) (*Witness, *ledger.Opened) {
	f, w, chain := ledgerfold.New("dst"), NewWitness("dst", 0), ledger.NewChain(ledger.WriterID{1})
	for i, e := range told {
		b := chain.Encode([]ledger.Entry{e})
		p, err := ledger.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if w.Page(int64(i), p); f.Record(int64(i), b) != nil {
			t.Fatal("refused")
		}
	}
	var entries []ledger.Entry
	for e := range f.Entries() {
		if alter(e) {
			entries = append(entries, e)
		}
	}
	next := int64(len(told))
	return w, ledger.NewOpening(next).Take(ledger.Stored{Offset: next, Value: ledger.NewFoldChain(ledger.WriterID{9}).Encode(append(entries, &ledger.Cut{Next: next}))})
}

// TestFoldOfWhatLeftOutIsTakenBack: that records were left out is remembered as long as
// anything is left of the copy, by who reads the fold as by who has read all.
func TestFoldOfWhatLeftOutIsTakenBack(t *testing.T) {
	back := func(source, dest int64, lost ledger.LostSide) ledger.Entry {
		return &ledger.Retraction{Copy: testCopy.Key(), Epoch: 1, Source: source, Destination: dest, Lost: lost}
	}
	foreign := hop(1, 10, 5, 110)
	foreign.Next, foreign.Gaps = 17, []ledger.Gap{{Source: 15, Count: 2, Reason: ledger.NotLocal}}
	onlyForeign := hop(1, 0, 0, 0)
	onlyForeign.Next, onlyForeign.Runs, onlyForeign.Gaps = 2, nil, []ledger.Gap{{Source: 0, Count: 2, Reason: ledger.NotLocal}}
	cases := map[string][]ledger.Entry{
		"the hop before is left":             {begin(1, 0), hop(1, 0, 10, 100), foreign, back(10, 110, ledger.LostAtDestination)},
		"a part of the hop is left":          {begin(1, 0), hop(1, 0, 10, 100), foreign, back(14, 114, ledger.LostAtSource)},
		"what lies at the destination is":    {begin(1, 10), foreign, back(10, 110, ledger.LostAtSource)},
		"nothing is left":                    {begin(1, 0), onlyForeign, back(0, 100, ledger.LostAtSource)},
		"nothing is left, and it goes on":    {begin(1, 0), onlyForeign, back(0, 100, ledger.LostAtSource), hop(1, 0, 10, 100)},
		"the destination has lost all of it": {begin(1, 10), foreign, back(10, 110, ledger.LostAtDestination)},
	}
	for name, told := range cases {
		w, o := foldOf(t, told, func(ledger.Entry) bool { return true })
		if err := w.Same(o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWitnessFindsWhatAFoldTellsOtherwise alters one thing of a fold at a time.
func TestWitnessFindsWhatAFoldTellsOtherwise(t *testing.T) {
	told := []ledger.Entry{
		begin(1, 0), hop(1, 0, 10, 100, 2, gapFiltered), hop(1, 12, 8, 111), &ledger.Retraction{Copy: testCopy.Key(), Epoch: 1, Source: 16, Destination: 115},
		&ledger.Writer{Cluster: "dst", ProducerID: 7, Lane: "lane"},
	}
	fold := func(alter func(ledger.Entry) bool) (*Witness, *ledger.Opened) { return foldOf(t, told, alter) }
	hops := func(change func(*ledger.Hop)) func(ledger.Entry) bool {
		return func(e ledger.Entry) bool {
			if h, ok := e.(*ledger.Hop); ok && !h.Fold.Void {
				change(h)
			}
			return true
		}
	}
	cases := []struct {
		name, want string
		alter      func(ledger.Entry) bool
	}{
		{"nothing", "", func(ledger.Entry) bool { return true }},
		{"a run lies elsewhere", "a contradiction", hops(func(h *ledger.Hop) { h.Runs[1].Destination++ })},
		{"a run within", "where source offsets went", hops(func(h *ledger.Hop) { h.Runs[0].Destination-- })},
		{"a gap of another reason", "where source offsets went", hops(func(h *ledger.Hop) { h.Gaps[0].Reason = ledger.Aborted })},
		{"another way", "where records came from", hops(func(h *ledger.Hop) { h.Untraced = true })},
		{"something was left out", "what lies between copies", hops(func(h *ledger.Hop) { h.Fold.NotLocal = true })},
		{"another leader", "leader epochs", hops(func(h *ledger.Hop) { h.SourceLeaderEpoch = 9 })},
		{"no hops", "a contradiction", func(e ledger.Entry) bool { _, hop := e.(*ledger.Hop); return !hop }},
		{"another flow", "who copies what", func(e ledger.Entry) bool {
			if b, ok := e.(*ledger.Begin); ok {
				b.Flow = "g"
			}
			return true
		}},
		{"no copy", "the pages tell of 1 copies, the fold of 0", func(e ledger.Entry) bool { _, writer := e.(*ledger.Writer); return writer }},
		{"no producer", "other producers", func(e ledger.Entry) bool { _, writer := e.(*ledger.Writer); return !writer }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w, o := fold(c.alter)
			if err := w.Same(o); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
