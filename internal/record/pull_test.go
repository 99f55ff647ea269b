package record

import (
	"reflect"
	"strings"
	"testing"
)

func TestPulledRecordsAreThoseOfDecode(t *testing.T) {
	records := []Record{
		{Timestamp: 5, Key: []byte("k"), Value: []byte("v"), Headers: []Header{{"h", nil}, {"h", []byte{}}}},
		{Timestamp: 4, Value: []byte{}},
		{Timestamp: 9},
	}
	for _, codec := range []Codec{None, Zstd} {
		b, err := Encode(records, NoProducer(codec))
		if err != nil {
			t.Fatal(err)
		}
		b.SetBaseOffset(70)
		for _, appendTime := range []bool{false, true} {
			if appendTime {
				b.SetAppendTime(1234)
			}
			want, err := b.Decode(1 << 10)
			if err != nil {
				t.Fatal(err)
			}
			s, err := b.Section(1 << 10)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Check(); err != nil {
				t.Error(err)
			}
			var got []Record
			p := s.Pull()
			for r, ok := p.Next(); ok; r, ok = p.Next() {
				got = append(got, r)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
	}
}

func TestSectionsThatAreNotWhatTheirHeaderSays(t *testing.T) {
	good, err := Encode([]Record{{Key: []byte("k")}, {Key: []byte("l")}}, NoProducer(None))
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(Batch) Batch{
		"record length is not readable": func(b Batch) Batch { b[offCount+3] = 3; return b },
		"bytes after the last record":   func(b Batch) Batch { b[offCount+3] = 1; return b },
		"offset delta 1 after 0":        func(b Batch) Batch { b[offLastDelta+3] = 0; return b },
		"record runs past the batch":    func(b Batch) Batch { return b[:len(b)-1] },
	} {
		b := change(append(Batch(nil), good...))
		s, err := b.Section(1 << 10)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		p := s.Pull()
		for n := 0; ; n++ { // ends, whatever is wrong
			if _, ok := p.Next(); !ok || n > 3 {
				break
			}
		}
	}
}
