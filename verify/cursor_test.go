package verify

import (
	"testing"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/record/recordtest"
)

// FuzzCommitted has a broker say anything: whoever reads it goes forward and comes to
// an end, and takes no record for one outside of what was asked for.
func FuzzCommitted(f *testing.F) {
	b := batch(f, 3, record.None, recs("one", "two")...)
	f.Add([]byte(b), int64(0), int64(9), int64(3))
	f.Add([]byte(append(clone(b), marker(f, 5, 7, false)...)), int64(4), int64(6), int64(3))
	f.Add([]byte(append(resealed(clone(b)), 1, 2, 3)), int64(5), int64(5), int64(0))
	f.Add(recordtest.Wrapper(1, record.Gzip, 0, recs("one", "two")...), int64(0), int64(9), int64(3))
	f.Add(append(recordtest.Message(0, 0, record.Record{Offset: 4}), b...), int64(4), int64(9), int64(3))
	f.Fuzz(func(t *testing.T, data []byte, offset, end, aborted int64) {
		if offset < 0 || end < 0 || offset > 1<<40 || end > 1<<40 {
			return
		}
		// The checksum hides what is behind it from a fuzzer: both are tried.
		for _, sealed := range []bool{false, true} {
			if b, _, err := record.Next(data); sealed && err == nil {
				resealed(b)
			}
			a := Answer{Stable: end, End: end, Records: data, Aborted: []Aborted{{7, aborted}}}
			pieces, next, _ := committed(a, offset, 1<<16)
			if next < offset {
				t.Fatalf("went from %d back to %d", offset, next)
			}
			c := &cursor{asked: true, stable: end, next: next, pieces: pieces, maxDecode: 1 << 16}
			c.reader = silent{a}
			for at := offset; ; {
				h, ok, err := c.head(t.Context(), at)
				if err != nil || !ok {
					break
				}
				if h.offset < at || h.offset >= end {
					t.Fatalf("asked for %d of %d, got %d", at, end, h.offset)
				}
				if h = c.open(h); h.record != nil && h.record.Offset != h.offset {
					t.Fatalf("at %d there is record %d", h.offset, h.record.Offset)
				}
				at = h.offset + 1
			}
		}
	})
}
