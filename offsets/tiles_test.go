package offsets

import (
	"math/rand/v2"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestTilesAgainstList holds the packed list against a plain one, over many
// blocks, with cuts.
func TestTilesAgainstList(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	type offset struct {
		dest   int64
		reason ledger.Reason
	}
	for round := range 20 {
		start := int64(round)
		ts, plain := newTiles(start), []offset{}
		var dest int64
		for len(plain) < 6000 {
			n := 1 + rng.Int64N(6)
			reason := ledger.Reason(rng.IntN(4))
			if reason == 0 {
				dest += rng.Int64N(2)
			}
			ts.add(tile{source: start + int64(len(plain)), count: n, dest: dest, reason: reason})
			for range n {
				o := offset{-1, reason}
				if reason == 0 {
					o.dest = dest
					dest++
				}
				plain = append(plain, o)
			}
			if rng.IntN(300) == 0 {
				keep := len(plain) - rng.IntN(min(len(plain), 2500))
				old := ts.clone()
				ts.cut(start + int64(keep))
				if old.last.source != start+int64(len(plain)) || old.size() < ts.size() {
					t.Fatal("a cut changed a clone")
				}
				plain, dest = plain[:keep], 0
				for _, o := range plain {
					if o.reason == 0 {
						dest = o.dest + 1
					}
				}
			}
		}
		if ts.last.source != start+int64(len(plain)) || ts.last.dest != dest {
			t.Fatalf("got end %+v, want %d and %d", ts.last, len(plain), dest)
		}
		if len(ts.blocks) < 3 {
			t.Fatalf("only %d blocks", len(ts.blocks))
		}
		for i := 0; i < len(plain); i += 1 + rng.IntN(5) {
			at := start + int64(i)
			for _, got := range ts.fromSource(at) {
				past := at - got.source
				if past < 0 || got.end() <= at || got.reason != plain[i].reason || got.run() && got.dest+past != plain[i].dest {
					t.Fatalf("at %d: got %+v, want %+v", at, got, plain[i])
				}
				break
			}
		}
		for d := int64(0); d < dest+2; d += 1 + rng.Int64N(5) {
			want := int64(-1)
			for i, o := range plain {
				if o.reason == 0 && o.dest >= d {
					want = start + int64(i)
					break
				}
			}
			got := int64(-1)
			for _, tl := range ts.fromDest(d) {
				got = tl.source + max(0, d-tl.dest)
				break
			}
			if got != want {
				t.Fatalf("destination %d: got source %d, want %d", d, got, want)
			}
		}
		bytes := 0
		for _, b := range ts.blocks {
			bytes += len(b.packed)
		}
		if got := bytes / (len(ts.blocks) * blockSize); got > 6 {
			t.Errorf("%d bytes for a tile", got)
		}
	}
}
