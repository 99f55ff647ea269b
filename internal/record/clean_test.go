package record

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"
)

func TestKeepLeavesEverythingButTheRecordsThatGo(t *testing.T) {
	for _, codec := range []Codec{None, Gzip, Snappy, LZ4, Zstd} {
		for _, horizon := range []int64{NoHorizon, 99_000, 5} {
			t.Run(fmt.Sprintf("%s horizon %d", codec, horizon), func(t *testing.T) {
				var records []Record
				for i := range 9 {
					records = append(records, Record{Timestamp: 1000 - int64(i), Key: fmt.Appendf(nil, "k%d", i), Value: bytes.Repeat([]byte{byte(i)}, 40), Headers: []Header{{"h", []byte("v")}}})
				}
				records[4].Value = nil
				b, err := Encode(records, Stamp{ProducerID: 7, ProducerEpoch: 2, BaseSequence: 40, Attributes: Attributes(codec) | attrTransactional})
				if err != nil {
					t.Fatal(err)
				}
				b.SetBaseOffset(100)
				b.SetLeaderEpoch(3)
				before, err := b.Decode(1 << 20)
				if err != nil {
					t.Fatal(err)
				}
				s, err := b.Section(1 << 20)
				if err != nil {
					t.Fatal(err)
				}
				got, err := s.Keep(horizon, func(r Record) bool { return r.Offset >= 103 && r.Offset <= 105 })
				if err != nil {
					t.Fatal(err)
				}
				if err := got.Check(); err != nil {
					t.Fatal(err)
				}
				after, err := got.Decode(1 << 20)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(after, before[3:6]) {
					t.Fatalf("records %+v, want %+v", after, before[3:6])
				}
				if got.BaseOffset() != 100 || got.LastOffset() != 108 || got.LeaderEpoch() != 3 || got.BaseSequence() != 40 || got.LastSequence() != 48 ||
					got.ProducerID() != 7 || got.ProducerEpoch() != 2 || !got.Attributes().Transactional() || got.Attributes().Codec() != codec || got.MaxTimestamp() != 997 {
					t.Fatalf("header %x", got[:HeaderSize])
				}
				if has := got.Attributes().DeleteHorizon(); has != (horizon != NoHorizon) || has && got.BaseTimestamp() != horizon {
					t.Fatalf("horizon %v at %d", has, got.BaseTimestamp())
				}
				if none, err := s.Keep(horizon, func(Record) bool { return false }); none != nil || err != nil {
					t.Fatalf("kept nothing: %x, %v", none, err)
				}
				empty := got.Emptied()
				if err := empty.Check(); err != nil || len(empty) != HeaderSize || empty.Count() != 0 || empty.LastOffset() != 108 || empty.LastSequence() != 48 || !empty.Attributes().Transactional() {
					t.Fatalf("emptied %x, %v", empty, err)
				}
				if list, err := empty.Decode(0); err != nil || len(list) != 0 {
					t.Fatalf("emptied holds %v, %v", list, err)
				}
			})
		}
	}
}

func FuzzKeep(f *testing.F) {
	b, err := Encode([]Record{{Timestamp: 1, Key: []byte("k"), Value: []byte("v")}, {Timestamp: 2, Key: []byte("k")}}, NoProducer(None))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(b), int64(7), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, horizon int64, modulus uint8) {
		b, _, err := Next(data)
		if err != nil {
			return
		}
		s, err := b.Section(1 << 20)
		if err != nil {
			return
		}
		n := 0
		kept, err := s.Keep(horizon, func(Record) bool { n++; return n%(int(modulus)+1) == 0 })
		if err != nil || kept == nil {
			return
		}
		before, err := b.Decode(1 << 20)
		if err != nil {
			t.Fatalf("kept from what does not decode: %v", err)
		}
		after, err := kept.Decode(2 << 20)
		if err != nil || len(after) > len(before) {
			t.Fatalf("%d of %d records, %v", len(after), len(before), err)
		}
	})
}
