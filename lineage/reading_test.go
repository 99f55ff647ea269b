package lineage

import (
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestReadingKeepsUp has pages come in between two looks of one query: what is known of a
// copy must never be ahead of what is found of it, or what was just copied would be said to
// be missing; and a hop that was read may have been taken back.
func TestReadingKeepsUp(t *testing.T) {
	x, f := open(t, Config{})
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 10, 0))
	r := x.read()
	look := func(offset, want int64) {
		t.Helper()
		from, _, err := r.copiesAt(end('a', 0))
		if err != nil || len(from) != 1 {
			t.Fatalf("copies: got %v %v", from, err)
		}
		h, err := r.hopBySource(&from[0], offset)
		switch {
		case err != nil:
			t.Fatal(err)
		case h == nil && want >= 0:
			t.Errorf("offset %d: no hop, and the copy stands at %d", offset, from[0].next)
		case h != nil && h.Next != want:
			t.Errorf("offset %d: got a hop up to %d, want %d", offset, h.Next, want)
		}
	}
	look(5, 10)
	look(15, -1)
	f.page('b', hop('a', 'b', 1, 10, 10, 10))
	look(15, 20)
	f.page('b', &ledger.Retraction{Copy: copyOf('a', 'b').Key(), Epoch: 1, Source: 15, Destination: 15})
	look(12, 15)
	look(15, -1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := x.read().Close(); err != nil {
		t.Errorf("of nothing read: %v", err)
	}
}

// TestReadingHasHopsAtHand goes to more hops of two copies than are kept, there and back.
func TestReadingHasHopsAtHand(t *testing.T) {
	x, f := open(t, Config{})
	f.page('b', begin('a', 'b', 1))
	f.page('c', begin('a', 'c', 1))
	const hops = 3 * hopsAtHand
	for n := range int64(hops) {
		f.page('b', hop('a', 'b', 1, n*10, 10, n*11))
		f.page('c', hop('a', 'c', 1, n*10, 10, n*12))
	}
	r := x.read()
	defer r.Close()
	from, _, err := r.copiesAt(end('a', 0))
	if err != nil || len(from) != 2 {
		t.Fatalf("copies: got %v %v", from, err)
	}
	for n := range int64(hops) {
		for i, stride := range []int64{11, 12} {
			h, err := r.hopBySource(&from[i], n*10+3)
			if err != nil || h == nil || h.Runs[0].Destination != n*stride {
				t.Fatalf("copy %d, offset %d: got %v %v", i, n*10+3, h, err)
			}
			back, source, err := r.hopByDest(&from[i], n*stride+3)
			if err != nil || back != h || source != n*10+3 {
				t.Fatalf("copy %d, destination %d: got %v at %d, %v; want the same hop", i, n*stride+3, back, source, err)
			}
		}
	}
	if len(r.hops) > hopsAtHand {
		t.Errorf("%d hops are kept", len(r.hops))
	}
}
