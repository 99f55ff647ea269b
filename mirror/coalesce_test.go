package mirror

import (
	"fmt"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// rawChunk is a batch of count records of about size bytes in all, as it is staged.
func rawChunk(t *testing.T, from int64, count, size int, codec record.Codec) chunk {
	t.Helper()
	records := make([]record.Record, count)
	for i := range records {
		records[i] = record.Record{Timestamp: from, Value: make([]byte, size/count)}
	}
	b, err := record.Encode(records, record.NoProducer(codec))
	if err != nil {
		t.Fatal(err)
	}
	b.SetBaseOffset(from)
	return chunk{
		from: from, next: from + int64(count), batch: b, path: ledger.Raw, leaderEpoch: 7,
		runs: []sourceRun{{from, int64(count), b.SectionDigest()}},
	}
}

func TestCoalesce(t *testing.T) {
	small := func(from int64) chunk { return rawChunk(t, from, 10, 1000, record.None) }
	marker := func(from int64) chunk { return gapChunk(from, from+1, ledger.Control, 7) }
	later := func(c chunk) chunk { c.leaderEpoch++; return c }
	broken := func(from int64) chunk {
		c := small(from)
		c.batch[len(c.batch)-1] ^= 1
		return c
	}
	many := func(n int) (list []chunk) {
		for i := range n {
			list = append(list, small(int64(i)*10))
		}
		return list
	}
	for _, c := range []struct {
		name string
		in   []chunk
		want string
	}{
		{"one alone", many(1), "raw[0,10)"},
		{"two", many(2), "reencoded[0,20)"},
		{"small transactions", []chunk{small(0), marker(10), small(11), marker(21), small(22)}, "reencoded[0,32)-2"},
		{"a marker behind", []chunk{small(0), small(10), marker(20)}, "reencoded[0,21)-1"},
		{"a marker before", []chunk{marker(0), small(1), small(11)}, "gap[0,1) reencoded[1,21)"},
		{"one and a marker", []chunk{small(0), marker(10)}, "raw[0,10) gap[10,11)"},
		{"a large one between", []chunk{small(0), small(10), rawChunk(t, 20, 20, 20_000, record.None), small(40), small(50)}, "reencoded[0,20) raw[20,40) reencoded[40,60)"},
		{"compressed ones", []chunk{rawChunk(t, 0, 10, 1000, record.LZ4), rawChunk(t, 10, 10, 1000, record.LZ4)}, "raw[0,10) raw[10,20)"},
		{"more than fit one batch", many(100), "reencoded[0,490) reencoded[490,980) reencoded[980,1000)"},
		{"a damaged one", []chunk{small(0), small(10), broken(20), small(30), small(40)}, "reencoded[0,20) raw[20,30) reencoded[30,50)"},
		{"a damaged one first", []chunk{broken(0), small(10), small(20)}, "raw[0,10) reencoded[10,30)"},
		{"a new leader between", []chunk{small(0), small(10), later(small(20)), later(small(30))}, "reencoded[0,20) reencoded[20,40)"},
		{"nothing", nil, ""},
	} {
		var got []string
		for _, k := range coalesce(slices.Clone(c.in), roomy) {
			text := map[ledger.Path]string{0: "gap", ledger.Raw: "raw", ledger.Reencoded: "reencoded"}[k.path]
			text += fmt.Sprintf("[%d,%d)", k.from, k.next)
			if n := len(k.gaps); k.batch != nil && n > 0 {
				text += fmt.Sprintf("-%d", n)
			}
			got = append(got, text)
			if k.path == ledger.Reencoded && k.own != len(k.batch) {
				t.Errorf("%s: %d bytes are held, %d accounted for", c.name, len(k.batch), k.own)
			}
			if k.leaderEpoch != lastEpoch(c.in, k.next) {
				t.Errorf("%s: leader epoch %d before offset %d", c.name, k.leaderEpoch, k.next)
			}
		}
		if text := fmt.Sprint(got); text != "["+c.want+"]" {
			t.Errorf("%s: %s, want [%s]", c.name, text, c.want)
		}
	}
}

// lastEpoch is the source's leader epoch of the chunk that ends at next.
func lastEpoch(chunks []chunk, next int64) int32 {
	for _, c := range chunks {
		if c.next == next {
			return c.leaderEpoch
		}
	}
	return -1
}

func TestWhatIsCoalescedFitsTheDestination(t *testing.T) {
	var in []chunk
	for i := range 60 {
		in = append(in, rawChunk(t, int64(i), 1, 10, record.None))
	}
	lim := limits{maxBatch: 500, maxDecode: 1 << 20}
	out := coalesce(in, lim)
	if len(out) >= len(in)/2 {
		t.Errorf("%d chunks of %d", len(out), len(in))
	}
	for _, c := range out {
		if len(c.batch) > lim.maxBatch {
			t.Errorf("[%d,%d): %d bytes, the destination takes %d", c.from, c.next, len(c.batch), lim.maxBatch)
		}
	}
}
