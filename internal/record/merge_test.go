package record

import (
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

func TestMergedBatchesHoldTheSameRecords(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		var m Merger
		var want []Record
		var digest Digest
		base := rng.Int64N(1 << 40)
		for range 1 + rng.IntN(6) {
			records := sample(1+rng.IntN(30), rng)
			if rng.IntN(10) == 0 {
				records[0].Timestamp = math.MinInt64 / 2 // deltas of any size
			}
			b, err := Encode(records, Stamp{ProducerID: 5, Attributes: attrTransactional})
			if err != nil {
				t.Fatal(err)
			}
			b.SetBaseOffset(base)
			base += int64(len(records)) + rng.Int64N(3)
			d, err := m.Add(b)
			if err != nil {
				t.Fatal(err)
			}
			if alone := CanonicalDigest(records); d != alone {
				t.Fatalf("digest %+v, want %+v", d, alone)
			}
			digest = digest.Join(d)
			want = append(want, records...)
		}
		got := m.Batch()
		if err := got.Check(); err != nil || !got.Dense() || len(got) != m.Len() || got.Attributes() != 0 || got.ProducerID() != -1 {
			t.Fatalf("merged batch: %v, dense %v, attributes %v, producer %d", err, got.Dense(), got.Attributes(), got.ProducerID())
		}
		latest := int64(math.MinInt64)
		for i := range want {
			want[i].Offset = int64(i)
			latest = max(latest, want[i].Timestamp)
		}
		if got.MaxTimestamp() != latest {
			t.Fatalf("max timestamp %d, want %d", got.MaxTimestamp(), latest)
		}
		records, err := got.Decode(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(records, want) {
			t.Fatalf("got %+v\nwant %+v", records, want)
		}
		if whole := CanonicalDigest(records); digest != whole {
			t.Fatalf("joined digest %+v, want %+v", digest, whole)
		}
	}
}

func TestMergeRefusesWhatItCannotVouchFor(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	make1 := func(codec Codec) Batch {
		b, err := Encode(sample(5, rng), NoProducer(codec))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	flipped := make1(None)
	flipped[len(flipped)-1] ^= 1
	// A record whose offset is not its place: the broker it came from has a bug.
	moved := make1(None)
	moved[HeaderSize+3] += 2
	moved.reseal()
	short := make1(None)
	short = short[:len(short)-1]
	short.reseal()
	stamped := make1(None)
	stamped.SetAppendTime(5)
	for name, b := range map[string]Batch{
		"a flipped bit": flipped, "another offset": moved, "a cut record": short, "a compressed batch": make1(LZ4), "the broker's time": stamped,
	} {
		var m Merger
		good := make1(None)
		if _, err := m.Add(good); err != nil {
			t.Fatal(err)
		}
		before := m.Len()
		_, err := m.Add(b)
		var corrupt *CorruptError
		if b.Mergeable() != errors.As(err, &corrupt) || err == nil {
			t.Errorf("%s: %v", name, err)
		}
		if m.Len() != before || m.Batch().Count() != good.Count() {
			t.Errorf("%s: %d bytes in the merger, want %d", name, m.Len(), before)
		}
	}
}

// reseal makes the header fit the bytes.
func (b Batch) reseal() {
	seal(b, NoProducer(b.Attributes().Codec()), b.BaseTimestamp(), b.MaxTimestamp(), b.Count(), b.Count()-1)
}

func TestAnEmptyMergerHasNoBatch(t *testing.T) {
	var m Merger
	if b := m.Batch(); b != nil {
		t.Errorf("got %x", b)
	}
}

func BenchmarkMerge(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var batches []Batch
	for range 200 {
		one, err := Encode([]Record{{Key: make([]byte, 16), Value: make([]byte, 84), Timestamp: rng.Int64N(1 << 40)}}, NoProducer(None))
		if err != nil {
			b.Fatal(err)
		}
		batches = append(batches, one)
	}
	b.SetBytes(int64(len(batches) * 100))
	b.ReportAllocs()
	for b.Loop() {
		var m Merger
		m.Grow(64 << 10)
		for _, one := range batches {
			if _, err := m.Add(one); err != nil {
				b.Fatal(err)
			}
		}
		m.Batch()
	}
}

func TestShiftsAreWhatMultiplyingGives(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range 20_000 {
		crc, n := rng.Uint32(), rng.Int64N(1<<36)>>rng.IntN(36)
		want := crc
		for k := 0; n>>k != 0; k++ {
			if n>>k&1 != 0 {
				want = mulMod(powers[k+3], want)
			}
		}
		if got := shiftCRC(crc, n); got != want {
			t.Fatalf("%08x shifted by %d bytes: %08x, want %08x", crc, n, got, want)
		}
	}
}

func BenchmarkRestamp(b *testing.B) {
	batch, err := Encode([]Record{{Value: make([]byte, 65_000)}}, NoProducer(None))
	if err != nil {
		b.Fatal(err)
	}
	for i := int32(0); b.Loop(); i++ {
		batch.Restamp(Stamp{ProducerID: 7, BaseSequence: i})
	}
}
