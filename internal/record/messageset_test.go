package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/record/recordtest"
)

// oldRecords are records as the formats v0 and v1 can hold them: no headers.
func oldRecords(rng *rand.Rand, base int64, n int, holes bool) []record.Record {
	var out []record.Record
	for i := range n {
		r := record.Record{Offset: base, Timestamp: 1_400_000_000_000 + rng.Int64N(5000), Value: bytes.Repeat([]byte{byte(i)}, rng.IntN(90))}
		if i%3 != 0 {
			r.Key = fmt.Appendf(nil, "k%d", rng.IntN(9))
		}
		if i%5 == 4 {
			r.Value = nil
		}
		if i%7 == 6 {
			r.Key = []byte{}
		}
		out = append(out, r)
		base++
		if holes {
			base += rng.Int64N(3)
		}
	}
	return out
}

// without is records as a reader of format v0 sees them.
func without(records []record.Record) []record.Record {
	out := append([]record.Record(nil), records...)
	for i := range out {
		out[i].Timestamp = -1
	}
	return out
}

// readSets reads message sets to their end.
func readSets(t *testing.T, buf []byte, most int) (batches []record.Batch, codecs []record.Codec, records []record.Record) {
	t.Helper()
	for len(buf) > 0 {
		if !record.IsMessageSet(buf) {
			t.Fatal("not taken for a message set")
		}
		b, codec, rest, err := record.NextMessageSet(buf, most, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		got, err := b.Decode(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		batches, codecs, records, buf = append(batches, b), append(codecs, codec), append(records, got...), rest
	}
	return batches, codecs, records
}

func TestMessageSetsKeepEveryField(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for magic := range byte(2) {
		for codec := record.None; codec <= record.LZ4; codec++ {
			for _, holes := range []bool{false, true} {
				t.Run(fmt.Sprintf("v%d, %v, holes %v", magic, codec, holes), func(t *testing.T) {
					var buf []byte
					var want []record.Record
					at := int64(70)
					for range 3 {
						records := oldRecords(rng, at, 20, holes)
						at = records[len(records)-1].Offset + 1
						if codec != record.None {
							buf = append(buf, recordtest.Wrapper(magic, codec, 0, records...)...)
						} else {
							for _, r := range records {
								buf = append(buf, recordtest.Message(magic, 0, r)...)
							}
						}
						want = append(want, records...)
					}
					if magic == 0 {
						want = without(want)
					}
					batches, codecs, got := readSets(t, buf, 1000)
					if !reflect.DeepEqual(got, want) {
						t.Errorf("got %v\nwant %v", got, want)
					}
					for i, b := range batches {
						// Whoever writes it compresses it: twice would be once for nothing.
						if b.Attributes().Codec() != record.None || codecs[i] != codec || b.LeaderEpoch() != -1 || b.ProducerID() != -1 {
							t.Errorf("codec %v of %v, leader epoch %d, producer %d", b.Attributes().Codec(), codecs[i], b.LeaderEpoch(), b.ProducerID())
						}
					}
					if n := len(batches); codec == record.None && (n < 3 || n > 20) || codec != record.None && n != 3 {
						t.Errorf("%d batches", n)
					}
				})
			}
		}
	}
}

// TestTheBrokersTimeIsThatOfTheWrapper: where the broker sets timestamps, messages of
// v1 in a wrapper keep those of their producer, which no reader sees.
func TestTheBrokersTimeIsThatOfTheWrapper(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	records := oldRecords(rng, 5, 4, false)
	_, _, got := readSets(t, recordtest.Wrapper(1, record.Gzip, recordtest.AppendTime, records...), 1000)
	latest := int64(0)
	for _, r := range records {
		latest = max(latest, r.Timestamp)
	}
	for i, r := range got {
		if r.Timestamp != latest || !bytes.Equal(r.Value, records[i].Value) {
			t.Errorf("record %d has time %d, want %d", i, r.Timestamp, latest)
		}
	}
}

func TestMessageSetsThatAreCutOffOrDamaged(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	records := oldRecords(rng, 9, 3, false)
	plain, wrapped := recordtest.Message(1, 0, records[0]), recordtest.Wrapper(0, record.Snappy, 0, records...)
	for name, whole := range map[string][]byte{"plain": plain, "wrapped": wrapped} {
		for cut := range whole {
			if _, _, _, err := record.NextMessageSet(whole[:cut], 1000, 1<<20); !errors.Is(err, record.ErrPartial) {
				t.Fatalf("%s, cut at %d: %v, want ErrPartial", name, cut, err)
			}
		}
		for at := 12; at < len(whole); at++ { // the offset and the length are not covered
			bad := append([]byte(nil), whole...)
			bad[at] ^= 0x10
			var corrupt *record.CorruptError
			if _, _, _, err := record.NextMessageSet(bad, 1000, 1<<20); !errors.As(err, &corrupt) {
				t.Fatalf("%s, byte %d flipped: %v, want a CorruptError", name, at, err)
			}
		}
	}
	inner := func(set ...[]byte) []byte {
		packed, err := record.Compress(record.Gzip, bytes.Join(set, nil))
		if err != nil {
			t.Fatal(err)
		}
		return recordtest.Message(1, byte(record.Gzip), record.Record{Offset: 3, Value: packed})
	}
	one := record.Record{Value: []byte("v")}
	for want, bad := range map[string][]byte{
		"there are none":   inner(),
		"batch is cut off": inner(recordtest.Message(1, 0, one)[:20]),
		"in one of v1":     inner(recordtest.Message(0, 0, one)),
		"gzip, in one of":  inner(recordtest.Wrapper(1, record.Gzip, 0, one)),
		"offset 3 after 3": inner(recordtest.Message(1, 0, one), recordtest.Message(1, 0, one)),
		"zstd":             recordtest.Message(1, byte(record.Zstd), one),
		"gzip: EOF":        recordtest.Message(1, byte(record.Gzip), record.Record{}),
		"negative offset":  recordtest.Message(1, 0, record.Record{Offset: -1}),
		"it follows":       append(recordtest.Message(1, 0, record.Record{Offset: 4}), recordtest.Message(1, 0, record.Record{Offset: 4})...),
	} {
		if _, _, _, err := record.NextMessageSet(bad, 1000, 1<<20); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, _, _, err := record.NextMessageSet(recordtest.Wrapper(1, record.Gzip, 0, record.Record{Value: make([]byte, 9000)}), 1000, 5000); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("a wrapper of 9000 bytes: %v, want ErrTooLarge", err)
	}
}

func FuzzMessageSet(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 8))
	for magic := range byte(2) {
		for codec := record.Gzip; codec <= record.LZ4; codec++ {
			f.Add(recordtest.Wrapper(magic, codec, 0, oldRecords(rng, 3, 4, true)...))
		}
		f.Add(append(recordtest.Message(magic, 0, record.Record{Offset: 5}), recordtest.Message(magic, 0, record.Record{Offset: 8, Key: []byte("k")})...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, _, rest, err := record.NextMessageSet(data, 1000, 1<<16)
		if err != nil {
			return
		}
		if len(rest) >= len(data) {
			t.Fatal("nothing was taken off")
		}
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		records, err := b.Decode(1 << 20)
		if err != nil || len(records) != int(b.Count()) || records[0].Offset != b.BaseOffset() || records[len(records)-1].Offset > b.LastOffset() {
			t.Fatalf("%d records of %d: %v", len(records), b.Count(), err)
		}
	})
}
