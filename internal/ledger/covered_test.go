package ledger

import (
	"math/rand/v2"
	"testing"
)

// TestCoveredAgreesWithOpening: it finds a fold where who begins to read there does, and at
// the same record, whatever else there is: folds by half, of pages that are missing or come
// again, of less or of later offsets.
func TestCoveredAgreesWithOpening(t *testing.T) {
	found := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 0))
		start := r.Int64N(5)
		chains := map[byte]*Chain{}
		var old [][]byte
		covered, opening := NewCovered(start), NewOpening(start)
		for offset := start; offset < start+12; offset++ {
			by := byte(r.IntN(3))
			if chains[by] == nil {
				chains[by] = NewFoldChain(WriterID{by})
			}
			value := []byte("somebody's")
			switch r.IntN(6) {
			case 0:
			case 1:
				chains[by].Encode([]Entry{&Tails{}}) // is lost
			case 2:
				if len(old) > 0 {
					value = old[r.IntN(len(old))]
				}
			case 3:
				value = chains[by].Encode([]Entry{&Cut{Next: max(0, start+r.Int64N(6)-2)}})
			default:
				value = chains[by].Encode([]Entry{&Tails{}})
			}
			old = append(old, value)
			got, want := covered.Take(offset, value), opening.Take(Stored{Offset: offset, Value: value}) != nil
			if got != want {
				t.Fatalf("seed %d, offset %d: got %v, want %v", seed, offset, got, want)
			}
			if want {
				found++
				break
			}
		}
	}
	if found < 500 {
		t.Errorf("only %d had a fold", found)
	}
}
