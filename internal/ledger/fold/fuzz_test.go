package fold

import (
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// FuzzFolder reads a ledger partition that begins with a fold of entries that nobody
// sound has written, and pages of more of them: it is refused, or what stands for it can
// be folded in turn.
func FuzzFolder(f *testing.F) {
	begin := &ledger.Begin{Copy: copyID, Epoch: 1, Lane: "lane"}
	run := []ledger.Run{{Count: 10, Destination: 5}}
	for _, entries := range [][]ledger.Entry{
		{begin, &ledger.Hop{Copy: copyID.Key(), Epoch: 1, Next: 10, Runs: run, Fold: &ledger.Fold{Since: noon, RanAt: noon}}},
		{begin, &ledger.Hop{Copy: copyID.Key(), Epoch: 1, Next: 10, Runs: run, Fold: &ledger.Fold{Void: true}}, &ledger.Begin{Copy: copyID, Epoch: 2, Resume: 0}},
		{begin, &ledger.Retraction{Copy: copyID.Key(), Epoch: 1, Destination: 3}, &ledger.Rules{Copy: copyID.Key(), Epoch: 1, Text: "{}"}},
		{&ledger.Access{Place: ledger.Place{Last: 9, Parts: []ledger.Stretch{{First: 0, Last: 1}, {First: 4, Last: 9}}}, Kind: ledger.Fetched}, &ledger.Tails{Of: []ledger.WriterTail{{}}}},
		{&ledger.Progress{Place: ledger.Place{Last: 9}, Kind: ledger.Advanced, Group: "g", Next: 10}, &ledger.Progress{Kind: ledger.Reset, Group: "g"}},
	} {
		var seed []byte
		for _, e := range entries {
			b := ledger.AppendEntry(nil, e)
			seed = append(append(seed, byte(len(b))), b...)
		}
		f.Add(seed, uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, split uint8) {
		var entries []ledger.Entry
		for len(b) > 1 {
			n := min(int(b[0]), len(b)-1)
			if e, err := ledger.ReadEntry(b[1 : 1+n]); err == nil {
				entries = append(entries, e)
			}
			b = b[1+n:]
		}
		folded := entries[:min(int(split), len(entries))]
		chain := ledger.NewFoldChain(ledger.WriterID{9})
		folder := opened(t, slices.Values([][]byte{chain.Encode(append(slices.Clone(folded), &ledger.Cut{Next: 5}))}), 5)
		pages := ledger.NewChain(ledger.WriterID{8})
		for i, e := range entries[len(folded):] {
			_ = folder.Record(int64(6+i), pages.Encode([]ledger.Entry{e}))
		}
		if folder.refused == nil {
			opened(t, folder.Pages(Author{Writer: ledger.WriterID{7}}, noon), folder.Next())
		}
	})
}

// opened begins with a fold, of pages that stand behind what they stand for.
func opened(t *testing.T, pages func(func([]byte) bool), next int64) *Folder {
	opening := ledger.NewOpening(next)
	at := next
	for b := range pages {
		if o := opening.Take(ledger.Stored{Offset: at, Value: b}); o != nil {
			f := New("b")
			_ = f.Open(o) // which may refuse
			return f
		}
		at++
	}
	t.Fatal("what was folded cannot be read back")
	return nil
}
