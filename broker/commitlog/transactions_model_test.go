package commitlog

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// txnModel is the obvious list of all transactions, none of which is forgotten.
type txnModel []modelTxn

type modelTxn struct {
	OpenTxn
	marker int64 // -1 without
}

func (m txnModel) stable(highWatermark int64) int64 {
	stable := highWatermark
	for _, txn := range m {
		if txn.marker < 0 || txn.marker >= highWatermark {
			stable = min(stable, txn.FirstOffset)
		}
	}
	return stable
}

func (m txnModel) open() (open []OpenTxn) {
	for _, txn := range m {
		if txn.marker < 0 {
			open = append(open, txn.OpenTxn)
		}
	}
	return open
}

// TestTransactionsAreThoseOfAPlainList opens and ends transactions in random order
// and compares with a plain list what writers see, what readers see, and what
// those still see that have kept an old view.
func TestTransactionsAreThoseOfAPlainList(t *testing.T) {
	type kept struct {
		seen   transactions
		lowest int64 // watermark then
		end    int64
		model  txnModel
	}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		st := &state{producers: newProducers(1000), active: newActive(0, nil)}
		var model txnModel
		var views []kept
		end, watermark := int64(0), int64(0)
		compare := func(v kept) {
			t.Helper()
			for range 10 {
				hw := v.lowest + rng.Int64N(v.end-v.lowest+1)
				if got, want := v.seen.stable(hw), v.model.stable(hw); got != want {
					t.Fatalf("seed %d, end %d of %d: stable at %d is %d, want %d", seed, v.end, end, hw, got, want)
				}
			}
		}
		for range 400 {
			open := model.open()
			if len(open) == 0 || rng.IntN(100) < 20+60*int(seed%2) {
				id := rng.Int64N(200) // one that has a transaction open goes on with it
				b := sourceBatch(from{id, 0, -1, true}, 1+rng.IntN(3), end, 0)
				must(t, st.apply(b, 1, watermark))
				if !slices.ContainsFunc(open, func(o OpenTxn) bool { return o.ProducerID == id }) {
					model = append(model, modelTxn{OpenTxn{id, 0, end}, -1})
				}
				end = b.NextOffset()
			} else {
				ended := open[rng.IntN(len(open))]
				must(t, st.apply(marker(t, Marker{ended.ProducerID, 0, rng.IntN(2) == 0, 0}, end, 0), 1, watermark))
				model[slices.IndexFunc(model, func(m modelTxn) bool { return m.FirstOffset == ended.FirstOffset })].marker = end
				end++
			}
			if rng.IntN(20) == 0 { // as after a restart
				restored, _, err := decodeProducers(st.producers.encode(end), 1000)
				must(t, err)
				st.producers = restored
			}
			if got, want := st.producers.openTransactions(), model.open(); !slices.Equal(got, want) {
				t.Fatalf("seed %d: open are %v, want %v", seed, got, want)
			}
			now := kept{st.view().txns, watermark, end, slices.Clone(model)}
			compare(now)
			if rng.IntN(10) == 0 {
				views = append(views, now)
			}
			watermark += rng.Int64N(end - watermark + 1)
		}
		for _, v := range views {
			compare(v)
		}
	}
}

// TestOpenTransactionsCostTheSameEach has so many open that copying or rebuilding
// the list for each would allocate gigabytes.
func TestOpenTransactionsCostTheSameEach(t *testing.T) {
	const n, each = 20_000, 8 << 10
	cfg := small()
	cfg.SegmentBytes = 64 << 20
	fsys := vfs.NewMem()
	l := open(t, fsys, cfg)
	must(t, l.BeginMirror(0, -1, false))
	a := plainAppend(l, 1)
	for i := range int64(n) {
		a.Batches = append(a.Batches, sourceBatch(from{i, 0, 0, true}, 1, i, 1)...)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"opening", func() error { _, err := l.AppendMirrored(a); return err }},
		{"closing", func() error { return l.Close() }},
		{"restoring", func() (err error) { l, err = Open(fsys, testDir, cfg); return err }},
		{"ending", func() error { return promote(l, 2) }},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		must(t, step.do())
		runtime.ReadMemStats(&after)
		got := (after.TotalAlloc - before.TotalAlloc) / n
		t.Logf("%s allocates %d bytes for each transaction", step.name, got)
		if got > each {
			t.Errorf("%s allocates %d bytes for each of %d transactions, want at most %d", step.name, got, n, each)
		}
	}
	if got := l.StableOffset(l.EndOffset()); got != 2*n || len(l.OpenTransactions()) != 0 {
		t.Errorf("stable %d of %d, %d open", got, l.EndOffset(), len(l.OpenTransactions()))
	}
	must(t, l.Close())
}
