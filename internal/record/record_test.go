package record

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"testing"
)

func sample(n int, rng *rand.Rand) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = Record{Offset: int64(i), Timestamp: 1517443200000 + int64(rng.IntN(5000)) - 2500}
		if i%7 != 0 {
			records[i].Key = bytes.Repeat([]byte{byte(i)}, rng.IntN(20))
		}
		if i%5 != 0 {
			records[i].Value = bytes.Repeat([]byte("wavefront "), rng.IntN(30))
		}
		if i%3 == 0 {
			records[i].Headers = []Header{{"traceparent", []byte("00-aa")}, {"null", nil}, {"", []byte{}}}
		}
	}
	return records
}

// redpanda-data/connect 3458, 3786: timestamps and headers changed on their way.
func TestEncodeDecodeKeepsEveryField(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for codec := None; codec <= Zstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			want := sample(200, rng)
			b, err := Encode(want, NoProducer(codec))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Check(); err != nil {
				t.Fatal(err)
			}
			if !b.Dense() || b.Attributes().Codec() != codec {
				t.Fatalf("dense %v, codec %v", b.Dense(), b.Attributes().Codec())
			}
			got, err := b.Decode(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("got %+v\nwant %+v", got[:2], want[:2])
			}
			if _, err := b.Decode(1000); !errors.Is(err, ErrTooLarge) {
				t.Fatalf("decode past the limit: %v, want ErrTooLarge", err)
			}
		})
	}
}

func TestRestampPatchesWhatRecomputingWouldGive(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		b, err := Encode(sample(1+rng.IntN(40), rng), NoProducer(None))
		if err != nil {
			t.Fatal(err)
		}
		section := crc32.Checksum(b.Records(), castagnoli)
		s := Stamp{rng.Int64(), int16(rng.IntN(1 << 15)), rng.Int32(), Attributes(rng.IntN(0x80))}
		b.Restamp(s)
		b.SetAppendTime(rng.Int64())
		if err := b.Check(); err != nil {
			t.Fatalf("after restamp: %v", err)
		}
		if b.ProducerID() != s.ProducerID || b.ProducerEpoch() != s.ProducerEpoch || b.BaseSequence() != s.BaseSequence {
			t.Fatalf("stamp not applied: %+v", s)
		}
		if got := b.RecordsCRC(); got != section {
			t.Fatalf("records CRC %08x, want %08x", got, section)
		}
	}
}

func TestRestampDoesNotBlessAFlippedBit(t *testing.T) {
	b, err := Encode(sample(10, rand.New(rand.NewPCG(5, 6))), NoProducer(None))
	if err != nil {
		t.Fatal(err)
	}
	b[HeaderSize+9] ^= 0x10
	b.Restamp(Stamp{ProducerID: 7, Attributes: attrTransactional})
	var corrupt *CorruptError
	if err := b.Check(); !errors.As(err, &corrupt) {
		t.Fatalf("check after flip and restamp: %v, want CorruptError", err)
	}
}

func TestCombineCRCEqualsTheChecksumOfTheWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 500 {
		whole := make([]byte, rng.IntN(4096))
		for i := range whole {
			whole[i] = byte(rng.Uint32())
		}
		cut := 0
		if len(whole) > 0 {
			cut = rng.IntN(len(whole))
		}
		first, second := whole[:cut], whole[cut:]
		got := CombineCRC(crc32.Checksum(first, castagnoli), crc32.Checksum(second, castagnoli), int64(len(second)))
		if want := crc32.Checksum(whole, castagnoli); got != want {
			t.Fatalf("combine %d+%d bytes: %08x, want %08x", len(first), len(second), got, want)
		}
	}
}

func TestNextSplitsAndRefuses(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	a, _ := Encode(sample(3, rng), NoProducer(None))
	b, _ := Encode(sample(4, rng), NoProducer(Zstd))
	both := append(append([]byte{}, a...), b...)

	first, rest, err := Next(both)
	if err != nil || !bytes.Equal(first, a) || !bytes.Equal(rest, b) {
		t.Fatalf("first: %d bytes, rest %d, %v", len(first), len(rest), err)
	}
	for cut := range len(a) {
		if _, _, err := Next(a[:cut]); !errors.Is(err, ErrPartial) {
			t.Fatalf("cut at %d: %v, want ErrPartial", cut, err)
		}
	}
	var corrupt *CorruptError
	short := append(Batch{}, a...)
	short[offLength+3], short[offLength+2] = 5, 0
	if _, _, err := Next(short); !errors.As(err, &corrupt) {
		t.Fatalf("length below a header: %v, want CorruptError", err)
	}
	old := append(Batch{}, a...)
	old[offMagic] = 1
	if _, _, err := Next(old); !errors.As(err, &corrupt) {
		t.Fatalf("magic 1: %v, want CorruptError", err)
	}
}

func TestSequenceWraps(t *testing.T) {
	for _, c := range []struct{ seq, n, want int32 }{
		{0, 1, 1}, {1<<31 - 1, 1, 0}, {1<<31 - 2, 3, 1}, {5, 0, 5},
	} {
		if got := AddSequence(c.seq, c.n); got != c.want {
			t.Errorf("AddSequence(%d, %d) = %d, want %d", c.seq, c.n, got, c.want)
		}
	}
}

// walk is what a Walker has to say of a section.
func walk(plain []byte, count int32) string {
	if count < 0 {
		return "negative count"
	}
	w := NewWalker(plain)
	for range count {
		if _, fault := w.Next(); fault != "" {
			return fault
		}
	}
	if w.Rest() > 0 {
		return "bytes behind the last record"
	}
	return ""
}

func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(11, 12))
	for codec := None; codec <= Zstd; codec++ {
		b, _ := Encode(sample(5, rng), NoProducer(codec))
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, _, err := Next(data)
		if err != nil {
			return
		}
		_ = b.Check()
		records, err := b.Decode(1 << 20)
		if plain, errPlain := Decompress(b.Attributes().Codec(), b.Records(), 1<<20); errPlain == nil {
			if fault := walk(plain, b.Count()); (fault == "") != (err == nil) {
				t.Fatalf("walked: %q, decoded: %v", fault, err)
			}
		}
		if err != nil {
			return
		}
		if len(records) == 0 {
			return
		}
		// What decodes must survive a round trip.
		again, err := Encode(records, NoProducer(None))
		if err != nil {
			t.Fatal(err)
		}
		got, err := again.Decode(4 << 20)
		if err != nil {
			t.Fatalf("decode of our own encoding: %v", err)
		}
		for i := range got {
			if !bytes.Equal(got[i].Value, records[i].Value) || (got[i].Value == nil) != (records[i].Value == nil) {
				t.Fatalf("value %d changed", i)
			}
		}
	})
}
