package record

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func TestCanonicalDigestIsThatOfTheRecordsAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	records := sample(50, rng)
	want := CanonicalDigest(records)
	for codec := None; codec <= Zstd; codec++ {
		b, err := Encode(records, NoProducer(codec))
		if err != nil {
			t.Fatal(err)
		}
		b.SetBaseOffset(rng.Int64N(1 << 40))
		decoded, err := b.Decode(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		if got := CanonicalDigest(decoded); got != want {
			t.Errorf("%v: got %+v, want %+v", codec, got, want)
		}
		if got := CanonicalDigest(decoded[:20]).Join(CanonicalDigest(decoded[20:])); got != want {
			t.Errorf("%v in two parts: got %+v, want %+v", codec, got, want)
		}
	}
}

func TestCanonicalDigestTellsRecordsApart(t *testing.T) {
	seen := map[Digest]int{}
	for i, r := range []Record{
		{},
		{Key: []byte{}},
		{Value: []byte{}},
		{Timestamp: 1},
		{Key: []byte("a")},
		{Value: []byte("a")},
		{Headers: []Header{{"a", nil}}},
		{Headers: []Header{{"a", []byte{}}}},
		{Headers: []Header{{"", []byte("a")}}},
		{Headers: []Header{{"a", nil}, {"b", nil}}},
		{Headers: []Header{{"b", nil}, {"a", nil}}},
	} {
		d := CanonicalDigest([]Record{r})
		if j, double := seen[d]; double {
			t.Errorf("records %d and %d have the same digest", j, i)
		}
		seen[d] = i
	}
}

func TestSectionDigestsJoin(t *testing.T) {
	rng := rand.New(rand.NewPCG(23, 24))
	a, _ := Encode(sample(9, rng), NoProducer(None))
	b, _ := Encode(sample(5, rng), NoProducer(None))
	both := append(append([]byte{}, a.Records()...), b.Records()...)
	got := a.SectionDigest().Join(b.SectionDigest())
	if want := (Digest{crc32.Checksum(both, castagnoli), int64(len(both))}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := (Digest{}).Join(a.SectionDigest()); got != a.SectionDigest() {
		t.Errorf("nothing joined with a: got %+v", got)
	}
}
