package ledger

import (
	"reflect"
	"strings"
	"testing"
)

func TestPlaceTouching(t *testing.T) {
	broken := Place{First: 10, Last: 29, Parts: []Stretch{{10, 12}, {15, 15}, {20, 29}}}
	whole := Place{First: 10, Last: 29}
	cases := []struct {
		name        string
		place       Place
		first, last int64
		want        []int64 // first, last, offsets; none: it does not touch
	}{
		{"whole, before", whole, 0, 9, nil},
		{"whole, at its start", whole, 0, 10, []int64{10, 29, 20}},
		{"whole, after", whole, 30, 99, nil},
		{"all parts", broken, 0, 99, []int64{10, 29, 14}},
		{"in a hole", broken, 13, 14, nil},
		{"one offset", broken, 15, 15, []int64{15, 15, 1}},
		{"from a hole on", broken, 13, 20, []int64{15, 29, 11}},
		{"the first part", broken, 12, 14, []int64{10, 12, 3}},
		{"behind the last part", broken, 30, 31, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, ok := c.place.Touching(c.first, c.last)
			if !ok {
				if c.want != nil {
					t.Fatalf("does not touch, want %v", c.want)
				}
				return
			}
			if have := []int64{got.First, got.Last, got.Offsets()}; !reflect.DeepEqual(have, c.want) {
				t.Errorf("got %v, want %v", have, c.want)
			}
		})
	}
}

func TestPartsThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		parts []Stretch
		want  string
	}{
		"touching parts":           {[]Stretch{{0, 4}, {5, 9}}, "part of 4 offsets, 0 after"},
		"that begin late":          {[]Stretch{{1, 9}}, "part of 8 offsets, 1 after"},
		"that end early":           {[]Stretch{{0, 4}, {6, 8}}, "parts end at 8, not at 9"},
		"that go on":               {[]Stretch{{0, 10}}, "part of 10 offsets"},
		"that skip past the place": {[]Stretch{{0, 4}, {11, 11}}, "part of 0 offsets, 6 after"},
	} {
		t.Run(name, func(t *testing.T) {
			b := AppendEntry(nil, &Production{Place: Place{Last: 9, Parts: c.parts}})
			if _, err := ReadEntry(b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestEntriesWithoutParts were written before there were any.
func TestEntriesWithoutParts(t *testing.T) {
	want := &Access{Place: Place{Topic: "orders", First: 3, Last: 9}, Kind: Fetched}
	b := AppendEntry(nil, want)
	got, err := ReadEntry(b[:len(b)-1])
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEncodeUpTo(t *testing.T) {
	chain := NewChain(WriterID{1})
	var left []Entry
	for range 10 {
		left = append(left, &Access{Place: Place{Topic: strings.Repeat("t", 100)}, Kind: Fetched})
	}
	left = append(left, &Access{Place: Place{Topic: strings.Repeat("t", 1000)}, Kind: Fetched})
	for _, want := range []int{4, 4, 2, 1} { // the last one is larger than the limit
		var page []byte
		before := len(left)
		page, left = chain.EncodeUpTo(left, 600)
		if n := len(decode(t, page).Entries); n != want || before-len(left) != want {
			t.Errorf("%d entries in a page, %d taken, want %d", n, before-len(left), want)
		}
	}
	if len(left) != 0 {
		t.Errorf("%d entries are left", len(left))
	}
}
