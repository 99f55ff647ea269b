package lineage

import (
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/fold"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// foldedLedger is a ledger of one copy, and what stands for its pages below cut.
func foldedLedger(t *testing.T, cut int) (pages, folded [][]byte) {
	t.Helper()
	one := ledger.NewChain(ledger.WriterID{1})
	pages = append(pages, one.Encode([]ledger.Entry{begin('a', 'b', 1)}))
	for i := int64(0); i < 9; i++ {
		pages = append(pages, one.Encode([]ledger.Entry{hop('a', 'b', 1, i*10, 10, i*11)}))
	}
	f := fold.New("id-b")
	for i, p := range pages[:cut] {
		if err := f.Record(int64(i), p); err != nil {
			t.Fatal(err)
		}
	}
	return pages, slices.Collect(f.Pages(fold.Author{Writer: ledger.WriterID{9}, Node: "n1"}, t0))
}

// TestCheckOfAFoldedLedger: what is folded is not missing, and what is missing behind it
// is.
func TestCheckOfAFoldedLedger(t *testing.T) {
	pages, folded := foldedLedger(t, 6)
	anchor := func(n int) Anchor {
		a, err := ParseAnchor(checkOf(0, pages[:n]).Partitions[0].Anchor)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	behind := slices.Concat(pages[6:8], folded, pages[8:])
	whole := slices.Concat(pages[:8], folded, pages[8:])
	altered := slices.Clone(behind)
	altered[2] = slices.Clone(altered[2])
	altered[2][60] ^= 1
	cases := []struct {
		name    string
		start   int64
		pages   [][]byte
		anchors []Anchor
		want    []string
	}{
		{"folded, and all is there", 0, whole, []Anchor{anchor(3), anchor(7)}, nil},
		{"folded, and gone", 6, behind, []Anchor{anchor(6), anchor(7)}, nil},
		{"an anchor of what is gone", 6, behind, []Anchor{anchor(3)}, []string{"folded@3"}},
		{"another ledger behind the fold", 6, behind, []Anchor{{Partition: 0, Offset: 7}}, []string{"rewritten@7"}},
		{"a page between", 7, behind[1:], nil, []string{"expired@0"}},
		{"a page behind the fold", 6, slices.Delete(slices.Clone(behind), 1, 2), nil, []string{"removed@8", "contradiction@8"}},
		{"the fold is altered", 6, altered, nil, []string{"expired@0", "altered@8"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := checkOf(c.start, c.pages, c.anchors...)
			if got := kinds(r); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if got := r.Partitions[0].Folded; (got != nil) != (c.start == 6 && c.name != "the fold is altered") {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestIndexOfAFoldedLedger: an event whose hop is folded is found, with the times that are
// kept, and a node that was away for longer begins with the fold.
func TestIndexOfAFoldedLedger(t *testing.T) {
	pages, folded := foldedLedger(t, 6)
	x, _ := open(t, Config{})
	at := tail.Position{Cluster: "id-b", TopicID: ledger.TopicID{'L', 'b'}}
	apply := func(from int) {
		for i := from; i < len(pages); i++ {
			p, err := ledger.Decode(pages[i])
			if err != nil {
				t.Fatal(err)
			}
			at.Offset = int64(i)
			x.Apply(at, p)
		}
	}
	read := func() {
		for i, b := range folded {
			p, err := ledger.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			at.Offset = int64(len(pages) + i)
			x.Fold(at, 6, p)
		}
		apply(6)
	}
	check := func() {
		t.Helper()
		start, next, doubt, ok := x.Extent(hop('a', 'b', 1, 0, 10, 0).Copy)
		if start != 0 || next != 90 || doubt != "" || !ok {
			t.Fatalf("got %d to %d, %q", start, next, doubt)
		}
		hops, err := x.Hops(hop('a', 'b', 1, 0, 10, 0).Copy, 0, 100)
		if err != nil || len(hops) != 5 || hops[0].Fold == nil || hops[0].Next != 50 || len(hops[0].Runs) != 5 || hops[1].Fold != nil {
			t.Fatalf("got %+v, %v", hops, err)
		}
	}
	read()
	check()
	// It is told that the ledger begins behind what it has read.
	if from := x.Resume("id-b", ledger.TopicID{'L', 'b'}, map[int32]int64{0: 11})[0]; from != 0 {
		t.Fatalf("goes on from %d", from)
	}
	read()
	check()
}

// TestFoldedAgainstModel: an index that begins with folds answers as one that has read
// everything does.
func TestFoldedAgainstModel(t *testing.T) {
	for seed := *historySeed; seed < *historySeed+*histories; seed++ {
		w := newModelWorld(seed)
		w.run(60)
		r := &modelReader{t: t, w: w, fs: vfs.NewCrashableMem(), ids: map[bookAt]ledger.TopicID{}}
		r.open()
		r.readFolds()
		r.read()
		r.check()
		w.run(20)
		r.read()
		r.check()
		if err := r.x.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// readFolds gives the index what stands for the first pages of every ledger partition. It
// may be restarted with a fold half read.
func (r *modelReader) readFolds() {
	cuts := map[string]map[int32]int64{}
	for at, b := range r.w.books {
		if cuts[at.cluster] == nil {
			cuts[at.cluster] = map[int32]int64{}
		}
		cuts[at.cluster][at.partition] = 1 + int64(len(b.pages)*int(at.partition+1)/5)
	}
	dies := r.w.rng.IntN(100)
	for _, at := range r.w.shelf() {
		id := ledger.TopicID{'L', at.cluster[1]}
		pages := r.w.books[at].folded(r.t, at.cluster, cuts[at.cluster][at.partition])
		for again := true; again; {
			again = false
			for i, p := range pages {
				if dies--; dies == 0 {
					r.restart()
					again = r.x.Resume(at.cluster, id, cuts[at.cluster])[at.partition] == 0
					break
				}
				r.x.Fold(tail.Position{Cluster: at.cluster, TopicID: id, Partition: at.partition, Offset: 1000 + int64(i)}, cuts[at.cluster][at.partition], p)
			}
		}
	}
}

// folded is what stands for the pages of a book below a cut, in small pages.
func (b *book) folded(t *testing.T, cluster string, cut int64) (pages []*ledger.Page) {
	f := fold.New(cluster)
	for i, p := range b.pages[:cut] {
		if err := f.Record(int64(i), p); err != nil {
			t.Fatal(err)
		}
	}
	chain := ledger.NewFoldChain(ledger.WriterID{9})
	for whole := range f.Pages(fold.Author{Writer: ledger.WriterID{9}}, t0) {
		for some := range slices.Chunk(decoded(t, whole).Entries, 5) {
			pages = append(pages, decoded(t, chain.Encode(some)))
		}
	}
	return pages
}

func decoded(t *testing.T, b []byte) *ledger.Page {
	p, err := ledger.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
