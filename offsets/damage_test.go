package offsets

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// damagedLedger is a ledger of two copies, of which one changes hands once and is taken
// back once, up to where it had been, and copied anew elsewhere.
func damagedLedger() [][]byte {
	one, two, three := ledger.NewChain(ledger.WriterID{1}), ledger.NewChain(ledger.WriterID{2}), ledger.NewChain(ledger.WriterID{3})
	other := begin(1, 0)
	other.Copy.Source.Partition, other.Copy.Destination.Partition = 1, 1
	ofOther := func(h *ledger.Hop) *ledger.Hop {
		h.Copy = other.Copy.Key()
		return h
	}
	back := &ledger.Retraction{Copy: testCopy.Key(), Epoch: 3, Source: 40, Destination: 44, Lost: ledger.LostAtDestination}
	return [][]byte{
		one.Encode([]ledger.Entry{begin(1, 0), hop(1, 0, 10, 0)}),
		three.Encode([]ledger.Entry{other, ofOther(hop(1, 0, 5, 900))}),
		one.Encode([]ledger.Entry{hop(1, 10, 10, 11)}),
		one.Encode([]ledger.Entry{hop(1, 20, 5, 22, 5, gapControl)}),
		two.Encode([]ledger.Entry{begin(2, 30), hop(2, 30, 10, 33)}),
		three.Encode([]ledger.Entry{ofOther(hop(1, 5, 5, 906))}),
		two.Encode([]ledger.Entry{hop(2, 40, 10, 44)}),
		two.Encode([]ledger.Entry{begin(3, 50), back, hop(3, 40, 10, 60)}),
		two.Encode([]ledger.Entry{hop(3, 50, 10, 71)}),
		three.Encode([]ledger.Entry{ofOther(hop(1, 10, 5, 1000))}),
	}
}

// readAs has maps read pages as a tail does; from each of the offsets in again on by
// another reader.
func readAs(pages [][]byte, again ...int) *Maps {
	ms := NewMaps()
	ms.Attach("dst", caughtUp{})
	chains, whole := ledger.Chains{}, true
	for i, b := range pages {
		pos := tail.Position{Cluster: "dst", Offset: int64(i)}
		if slices.Contains(again, i) {
			ms.Resume("dst", ledger.TopicID{}, map[int32]int64{0: 0})
			chains, whole = ledger.Chains{}, false
		}
		page, err := ledger.Decode(b)
		var broken error
		switch {
		case err == nil && whole:
			broken = chains.Verify(page)
		case err == nil:
			broken = chains.Adopt(page)
		}
		if fault := cmp.Or(err, broken); fault != nil {
			ms.Corrupt(pos, fault)
			if chain, ok := errors.AsType[*ledger.ChainError](fault); ok && chain.Old() {
				continue
			}
		}
		if page != nil {
			ms.Apply(pos, page)
		}
	}
	return ms
}

// wrongAnswers holds what maps say without a doubt, of every offset both ways and of where
// a copy goes on, against what those of the whole ledger say.
func wrongAnswers(t *testing.T, ms, whole *Maps) (wrong []string) {
	sure := func(what string, got, want Result) {
		if got.Exact && got.Offset >= 0 && got.Offset != want.Offset {
			wrong = append(wrong, fmt.Sprintf("%s: %+v, want %+v", what, got, want))
		}
	}
	for _, partition := range []int32{0, 1} {
		id := testCopy
		id.Source.Partition, id.Destination.Partition = partition, partition
		there, back := ms.Route(id.Source, id.Destination), ms.Route(id.Destination, id.Source)
		for x := range int64(61) {
			sure(fmt.Sprintf("%d/%d", partition, x), there.Translate(x, AnyBounds), whole.Route(id.Source, id.Destination).Translate(x, AnyBounds))
		}
		for y := range int64(90) {
			sure(fmt.Sprintf("%d/%d back", partition, y), back.Translate(y, AnyBounds), whole.Route(id.Destination, id.Source).Translate(y, AnyBounds))
		}
		for _, cut := range []int64{math.MaxInt64, 45, 35, 15} {
			got, err := ms.PositionBefore(t.Context(), "dst", id, cut, math.MaxInt64)
			want, werr := whole.PositionBefore(t.Context(), "dst", id, cut, math.MaxInt64)
			if werr != nil {
				t.Fatal(werr)
			}
			if err == nil && (got.Next != want.Next || got.Destination != want.Destination) {
				wrong = append(wrong, fmt.Sprintf("%d before %d goes on at %d (%d), want %d (%d)", partition, cut, got.Next, got.Destination, want.Next, want.Destination))
			}
		}
	}
	return wrong
}

// TestDamageMakesNoAnswerWrong does to every page of a ledger what may happen to it.
func TestDamageMakesNoAnswerWrong(t *testing.T) {
	pages := damagedLedger()
	whole := readAs(pages)
	for x, want := range map[int64]int64{3: 3, 12: 13, 24: 26, 27: 33, 45: 65, 55: 76, 60: 81} {
		if got := whole.Route(testCopy.Source, testCopy.Destination).Translate(x, AnyBounds); got.Offset != want || !got.Exact {
			t.Fatalf("the whole ledger: %d is %+v, want %d", x, got, want)
		}
	}
	flipped := func(b []byte) []byte {
		b = slices.Clone(b)
		b[len(b)/2] ^= 4
		return b
	}
	newer := func(b []byte) []byte {
		b = slices.Clone(b)
		b[2] = 200
		return b
	}
	put := func(i int, page []byte) [][]byte {
		p := slices.Clone(pages)
		p[i] = page
		return p
	}
	exchanged := func(i, j int) [][]byte {
		p := slices.Clone(pages)
		p[i], p[j%len(p)] = p[j%len(p)], p[i]
		return p
	}
	for i := range pages {
		for _, c := range []struct {
			name  string
			pages [][]byte
			again []int // other readers
			ends  bool  // a chain ends with what is lost: only an anchor shows it
		}{
			{"corrupted", put(i, flipped(pages[i])), nil, false},
			{"corrupted, and read on by another", put(i, flipped(pages[i])), []int{i}, false},
			{"corrupted, and read on behind it by another", put(i, flipped(pages[i])), []int{i + 1}, false},
			{"newer", put(i, newer(pages[i])), nil, false},
			{"nobody's", slices.Insert(slices.Clone(pages), i, []byte("hello")), nil, false},
			{"repeated", slices.Insert(slices.Clone(pages), i, pages[i]), nil, false},
			{"repeated at the end", append(slices.Clone(pages), pages[i]), nil, false},
			{"exchanged with its neighbor", exchanged(i, i+1), nil, i >= len(pages)-4},
			{"exchanged with one far off", exchanged(i, i+4), nil, i >= len(pages)-4},
			{"lost", slices.Delete(slices.Clone(pages), i, i+1), nil, i >= len(pages)-2},
			{"lost with the one before", slices.Delete(slices.Clone(pages), max(0, i-1), i+1), nil, i >= len(pages)-2},
		} {
			if c.ends {
				continue
			}
			for _, w := range wrongAnswers(t, readAs(c.pages, c.again...), whole) {
				t.Errorf("page %d %s: %s", i, c.name, w)
			}
		}
	}
}
